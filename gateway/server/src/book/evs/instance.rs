//! A protected server: a server of the production site, the one that stands in for it, and what goes from
//! one to the other.
//!
//! Invariant: servers stand in the order of the group's zones and never change places; interfaces stand by
//! what they do, and the ones that work follow the production site.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fault, Head, Life};

/// A pair whose disks are attached to both servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Attached {
    /// The pair.
    pub(crate) pair: Uuid,
    /// The device's name, the same at both.
    pub(crate) device: String,
    /// Whether the server that stands by has its disk: there is none before the first copy.
    pub(crate) stands_by: bool,
}

/// An interface of both servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Nic {
    /// The port that works: its addresses are those of the service.
    pub(crate) active: String,
    /// The port of the server that stands by; empty if there is none.
    pub(crate) standby: String,
}

/// Servers that are protected as one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Instance {
    /// How it is known.
    pub(crate) head: Head,
    /// Its name.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// The protection group.
    pub(crate) group: Uuid,
    /// The servers by the cloud's identities, in the order of the zones; the second is empty before it is
    /// made.
    pub(crate) servers: [String; 2],
    /// Their flavours.
    pub(crate) flavours: [String; 2],
    /// Its disks.
    pub(crate) disks: Vec<Attached>,
    /// Its interfaces, the primary one first.
    pub(crate) nics: Vec<Nic>,
    /// What its owner calls it by.
    pub(crate) tags: Vec<(String, String)>,
    /// Its life.
    pub(crate) life: Life,
    /// Why it is in error.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
    /// A server of it that was deleted by somebody else.
    #[serde(default)]
    pub(crate) lost: Option<String>,
    /// Whether the interfaces are where the group's roles want them.
    #[serde(default)]
    pub(crate) is_displaced: bool,
    /// The name of the server that it was made of, which the other one's begins with.
    #[serde(default)]
    pub(crate) called: String,
}

impl Instance {
    /// The pair among its disks.
    #[must_use]
    pub(crate) fn disk_of(&self, pair: Uuid) -> Option<&Attached> {
        self.disks.iter().find(|disk| disk.pair == pair)
    }
}
