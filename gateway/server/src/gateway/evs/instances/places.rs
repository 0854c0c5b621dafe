//! Servers and the roles of their sites: the interfaces that work follow the production site, and a server
//! that somebody else deleted is noticed.
//!
//! ```text
//!   roles change ─▶ displaced ─▶ place-interfaces ─▶ in place
//!                       └──────── failed ─▶ tried again from time to time, and at the next change
//! ```
//!
//! Invariant: a change of roles is noted with the roles themselves, so that whoever crashes in between finds
//! what is still to be moved. No server keeps data from changing its site, nor another server of its group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use serde_json::json;
use uuid::Uuid;

use super::look::RUNS;
use crate::book::evs::{Dialect, Group, Instance, Life, Wanted};
use crate::gateway::Gateway;
use crate::gateway::evs::outside::Deed;
use crate::gateway::evs::{coded, fault};
use crate::refusal::Refused;

/// Between two looks at the servers.
const LOOK: Duration = Duration::from_secs(10);
/// A displaced instance that nobody said anything about for so long was left by a crash.
const FORGOTTEN_MS: u64 = 60_000;

impl Gateway {
    /// Before sites change places as planned, the servers that work have to be stopped.
    pub(in crate::gateway::evs) async fn require_stopped(
        &self,
        group: &Group,
    ) -> Result<(), Refused> {
        let pages = self.book.read();
        for instance in pages
            .evs
            .instances_of(group.head.id)
            .filter(|of| of.lost.is_none() && of.life != Life::Error)
        {
            let seen = self.see_server(&instance.servers[group.primary]).await?;
            if seen.status == RUNS {
                let detail =
                    format!("server {} of {} runs: stop it first", seen.name, instance.name);
                return Err(coded(Code::WrongState, "SDRS.1319", detail));
            }
        }
        Ok(())
    }

    /// Roles have changed: the interfaces follow. Each instance is tried; the first failure is told.
    pub(in crate::gateway::evs) async fn place_all(&self, group: Uuid) -> Result<(), Refused> {
        let mut first = Ok(());
        let pages = self.book.read();
        for instance in pages.evs.instances_of(group) {
            let placed = self.place(instance.head.id).await;
            if first.is_ok() {
                first = placed;
            }
        }
        first
    }

    /// A site that was lost takes part again: what was parked is had by its servers.
    pub(in crate::gateway::evs) async fn displace_all(&self, group: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        for instance in pages.evs.instances_of(group) {
            let displaced = |instance: &mut Instance| {
                instance.is_displaced = true;
                Ok(())
            };
            self.change_instance(instance.head.id, displaced).await?;
        }
        Ok(())
    }

    async fn place(&self, id: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instance(id)?.clone();
        let group = pages.evs.group(instance.group)?.clone();
        if !instance.is_displaced || instance.servers.iter().any(String::is_empty) {
            return Ok(());
        }
        let placed = self.cloud(&placing(&instance, &group)).await.map(drop);
        let end = |instance: &mut Instance| {
            instance.is_displaced = placed.is_err();
            instance.fault = placed.as_ref().err().map(|refused| fault(refused, Dialect::Sdrs));
            Ok(())
        };
        self.change_instance(id, end).await?;
        placed
    }

    /// Looks after the servers of the groups whose production site this is.
    pub(in crate::gateway::evs) async fn tend_servers(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let pages = self.book.read();
            let mine: BTreeSet<Uuid> = (pages.evs.groups())
                .filter(|group| group.owner() == self.own_id() && !group.life.is_busy())
                .map(|group| group.head.id)
                .collect();
            let its = |of: &&Instance| mine.contains(&of.group) && !of.life.is_busy();
            let instances: Vec<Instance> = pages.evs.instances().filter(its).cloned().collect();
            drop(pages);
            if instances.is_empty() || !self.has_cloud() {
                continue;
            }
            let now_ms = self.clock.unix_ms();
            for instance in &instances {
                let since_ms = now_ms.saturating_sub(instance.head.changed_ms);
                if instance.is_displaced && (instance.fault.is_some() || since_ms > FORGOTTEN_MS) {
                    self.note(self.place(instance.head.id).await);
                }
            }
            self.look_for_lost(&instances).await;
        }
    }

    /// Notices servers that are not there any more, and those that are there again.
    async fn look_for_lost(&self, instances: &[Instance]) {
        let deed = Deed {
            action: "list-servers",
            key: "list".to_owned(),
            params: json!({}),
            failure: "SDRS.1326",
        };
        let told = match self.cloud(&deed).await {
            Ok(told) => told,
            Err(refused) => {
                tracing::debug!(why = refused.0.detail, "the servers of a cloud are not seen");
                return;
            }
        };
        let there: BTreeSet<&str> =
            told.get("servers").into_iter().flat_map(|all| all.split(',')).collect();
        for instance in instances.iter().filter(|of| of.life != Life::Error) {
            let lost = lost_of(instance, &there);
            if lost == instance.lost {
                continue;
            }
            if let Some(server) = &lost {
                let text = format!("server {server} does not exist any more: it is not protected");
                self.events.tell("instance", &instance.name, text);
            }
            let change = |instance: &mut Instance| {
                instance.lost = lost;
                Ok(())
            };
            self.note(self.change_instance(instance.head.id, change).await);
        }
    }
}

fn lost_of(instance: &Instance, there: &BTreeSet<&str>) -> Option<String> {
    let mut known = instance.servers.iter().filter(|server| !server.is_empty());
    known.find(|server| !there.contains(server.as_str())).cloned()
}

/// Which server is to have which interfaces.
fn placing(instance: &Instance, group: &Group) -> Deed {
    let ports = |of: fn(&crate::book::evs::Nic) -> &String| {
        let all: Vec<&str> = instance.nics.iter().map(|nic| of(nic).as_str()).collect();
        all.into_iter().filter(|port| !port.is_empty()).collect::<Vec<_>>().join(",")
    };
    // The old production site is lost, or may be: its servers have no interfaces until it is back.
    let parks = group.wanted == Wanted::FailedOver;
    let params = json!({
        "active": instance.servers[group.primary], "active_ports": ports(|nic| &nic.active),
        "standby": instance.servers[1 - group.primary], "standby_ports": ports(|nic| &nic.standby),
        "parks": parks.to_string(),
    });
    // Another one for each change of roles, and for the end of a parking.
    let key = format!("{}/place/{}/{parks}", instance.head.id, group.head.revision);
    Deed { action: "place-interfaces", key, params, failure: "SDRS.1317" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs::{self, Head, Nic};

    fn instance() -> Instance {
        Instance {
            head: Head::default(),
            name: "web".to_owned(),
            description: String::new(),
            group: Uuid::nil(),
            servers: ["s1".to_owned(), "s2".to_owned()],
            flavours: Default::default(),
            disks: Vec::new(),
            nics: vec![Nic { active: "p".to_owned(), standby: "q".to_owned() }],
            tags: Vec::new(),
            life: Life::Available,
            fault: None,
            lost: None,
            is_displaced: true,
            called: "web".to_owned(),
        }
    }

    fn group(primary: usize, wanted: Wanted) -> Group {
        Group { primary, wanted, ..evs::samples::group() }
    }

    #[test]
    fn evs_40_the_interfaces_that_work_are_of_the_production_site_and_parked_after_a_failover() {
        let of = |primary, wanted| placing(&instance(), &group(primary, wanted)).params;
        let back = of(0, Wanted::Running);
        assert_eq!((&back["active"], &back["active_ports"]), (&json!("s1"), &json!("p")));
        let over = of(1, Wanted::FailedOver);
        assert_eq!((&over["active"], &over["standby"]), (&json!("s2"), &json!("s1")));
        assert_eq!((&over["standby_ports"], &over["parks"]), (&json!("q"), &json!("true")));
        assert_eq!(of(1, Wanted::Running)["parks"], json!("false"));
    }

    #[test]
    fn evs_38_a_server_that_is_not_there_is_named() {
        assert_eq!(lost_of(&instance(), &["s1", "s2", "s3"].into()), None);
        assert_eq!(lost_of(&instance(), &["s1"].into()).as_deref(), Some("s2"));
    }
}
