//! The third voice: what two sites ask before one of them acts alone.
//!
//! Invariant: a configuration is only ever replaced by one that names the revision it replaces, so
//! of two that claim at once one is told no.

use std::future::Future;
use std::pin::Pin;

use crate::{Epoch, GatewayId, GroupId};

/// Which version of a group's configuration: rises with each, over all groups of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A mirror of the in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Who.
    pub gateway: GatewayId,
    /// Whether it may promote itself.
    pub automatic: bool,
}

/// Who rules a group and who holds every acknowledged write of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The only gateway that may acknowledge.
    pub primary: GatewayId,
    /// The mirrors without which it acknowledges nothing, by gateway. One of these may be promoted
    /// without consent.
    pub in_sync: Vec<Member>,
    /// How long the primary counts on a heartbeat for reads: a mirror waits this long before it
    /// takes over. Milliseconds.
    pub lease_ms: u64,
}

/// A configuration as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its revision.
    pub revision: Revision,
    /// What it says.
    pub configuration: Configuration,
}

/// What the witness says of a group at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The configuration; `None`: it knows nothing of the group.
    pub standing: Option<Standing>,
    /// Whose lease runs.
    pub alive: Option<GatewayId>,
    /// Whether the lease of who asked was renewed by asking.
    pub kept: bool,
}

/// A compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it replaces; `None`: there must be nothing.
    pub expected: Option<Revision>,
    /// What shall stand.
    pub next: Configuration,
    /// Whether it is refused while somebody's lease runs.
    pub unless_alive: bool,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands, at this revision.
    Granted(Revision),
    /// Something else stands.
    Denied(Sighting),
}

/// Whose lease is to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Who.
    pub gateway: GatewayId,
    /// Only while this configuration stands.
    pub revision: Revision,
    /// For how long, in milliseconds from when it is renewed, at least.
    pub lease_ms: u64,
}

/// No answer. A claim may have been granted or not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// It cannot be reached, or did not answer in time; the text says how.
    #[error("the witness cannot be reached: {0}")]
    Unreachable(String),
    /// What it holds or says makes no sense; the text says what.
    #[error("the witness's answer cannot be used: {0}")]
    Unusable(String),
}

/// An answer of a witness, later.
pub type WitnessFuture<T> = Pin<Box<dyn Future<Output = Result<T, WitnessError>>>>;

/// A witness, as one thread uses it. Strictly serialisable: an answer is never older than the
/// question.
pub trait Witness {
    /// Milliseconds of a clock that never goes back and counts the sleep of a suspended machine.
    /// Leases are measured with it.
    fn now_ms(&self) -> u64;

    /// What stands, after renewing a lease if one is named.
    ///
    /// Cancellation: safe; the lease may have been renewed.
    fn look(&self, group: GroupId, keep: Option<Keep>) -> WitnessFuture<Sighting>;

    /// Replaces a group's configuration if it is the expected one.
    ///
    /// Cancellation: as no answer: it may be granted at any time later.
    fn swap(&self, group: GroupId, claim: Claim) -> WitnessFuture<Verdict>;
}

// === impl Configuration ===

impl Configuration {
    /// The member with this name.
    #[must_use]
    pub fn member(&self, gateway: GatewayId) -> Option<&Member> {
        self.in_sync.iter().find(|member| member.gateway == gateway)
    }
}
