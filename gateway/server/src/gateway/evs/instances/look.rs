//! What a server is made of, as the cloud tells it, and whether it can be protected.

use api::Code;
use serde_json::json;
use uuid::Uuid;

use crate::book::evs::Group;
use crate::gateway::Gateway;
use crate::gateway::evs::coded;
use crate::gateway::evs::outside::{Deed, LOOK, Told};
use crate::refusal::Refused;

/// The cloud's word for a server that runs.
pub(super) const RUNS: &str = "ACTIVE";
/// And for one that is stopped.
const STOPPED: &str = "SHUTOFF";

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) zone: String,
    pub(super) vpc: String,
    pub(super) flavour: String,
    /// Its disks and the names of their devices.
    pub(super) disks: Vec<(Uuid, String)>,
    /// Its ports, the primary one first.
    pub(super) ports: Vec<String>,
}

fn each(list: Option<&String>) -> impl Iterator<Item = &str> {
    list.into_iter().flat_map(|list| list.split(',')).filter(|one| !one.is_empty())
}

impl Seen {
    fn of(told: &Told) -> Result<Self, Refused> {
        let word = |key: &str| told.get(key).cloned().unwrap_or_default();
        let mut disks = Vec::new();
        for disk in each(told.get("disks")) {
            let (id, device) = disk.split_once('=').unwrap_or((disk, ""));
            let id = Uuid::parse_str(id).map_err(|_no| {
                let detail = format!("disk {id} of the server is no volume of a gateway");
                coded(Code::Invalid, "SDRS.0211", detail)
            })?;
            disks.push((id, device.to_owned()));
        }
        Ok(Self {
            name: word("name"),
            status: word("status"),
            zone: word("zone"),
            vpc: word("vpc"),
            flavour: word("flavour"),
            disks,
            ports: each(told.get("ports")).map(str::to_owned).collect(),
        })
    }

    /// Whether it can be protected in a group.
    pub(super) fn check(&self, group: &Group) -> Result<(), Refused> {
        let (zone, name) = (&group.stations[group.primary], &self.name);
        let refuse = |code, detail: String| Err(coded(Code::WrongState, code, detail));
        if self.zone != *zone {
            let detail =
                format!("server {name} is in zone {}; the production site is {zone}", self.zone);
            return refuse("SDRS.1303", detail);
        }
        if !group.vpc.is_empty() && self.vpc != group.vpc {
            let detail =
                format!("server {name} is in VPC {}, the group in {}", self.vpc, group.vpc);
            return refuse("SDRS.1304", detail);
        }
        if self.status != RUNS && self.status != STOPPED {
            return refuse("SDRS.1333", format!("server {name} is {}", self.status));
        }
        if self.disks.is_empty() {
            return refuse("SDRS.1321", format!("server {name} has no disks"));
        }
        Ok(())
    }
}

impl Gateway {
    /// How a server is.
    pub(super) async fn see_server(&self, server: &str) -> Result<Seen, Refused> {
        let deed = Deed {
            action: LOOK,
            key: format!("inspect/{server}"),
            params: json!({ "server": server }),
            failure: "SDRS.1326",
        };
        Seen::of(&self.cloud(&deed).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs::{self, Wanted};
    use crate::gateway::evs::own_code;

    fn group() -> Group {
        let stations = ["az1".to_owned(), "az2".to_owned()];
        let vpc = "vpc-1".to_owned();
        Group { stations, vpc, wanted: Wanted::Idle, ..evs::samples::group() }
    }

    fn told(changes: &[(&str, &str)]) -> Told {
        let disk = format!("{}=/dev/vda", Uuid::from_u128(1));
        let all = [
            ("name", "web"),
            ("status", "ACTIVE"),
            ("zone", "az1"),
            ("vpc", "vpc-1"),
            ("flavour", "s2"),
            ("disks", &disk),
            ("ports", "p1,p2"),
        ];
        let of = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        all.iter().chain(changes).map(of).collect()
    }

    #[test]
    fn evs_37_what_stands_against_a_server_has_its_number() {
        let seen = Seen::of(&told(&[])).unwrap();
        assert_eq!(seen.disks, [(Uuid::from_u128(1), "/dev/vda".to_owned())]);
        assert_eq!(seen.ports, ["p1", "p2"]);
        assert_eq!(seen.check(&group()), Ok(()));
        for (change, code) in [
            (("zone", "az2"), "SDRS.1303"),
            (("vpc", "vpc-9"), "SDRS.1304"),
            (("status", "REBUILDING"), "SDRS.1333"),
            (("disks", ""), "SDRS.1321"),
        ] {
            let refused = Seen::of(&told(&[change])).unwrap().check(&group()).unwrap_err();
            assert_eq!(own_code(&refused.0.detail), Some(code), "{change:?}");
        }
        let refused = Seen::of(&told(&[("disks", "disk-1=/dev/vda")])).unwrap_err();
        assert_eq!(own_code(&refused.0.detail), Some("SDRS.0211"));
    }
}
