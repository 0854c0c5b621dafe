//! Protected servers: made, renamed, deleted.
//!
//! ```text
//!   a server ─▶ a pair of each of its disks ─▶ a server like it in the other zone, stopped
//!            ─▶ when its group is mirrored, the copies are attached to that one under the same names
//! ```
//!
//! Invariant: the server that works is never touched but where a call names what is to change of it. What a
//! failed beginning left is taken back at once, or by the deletion of what is in error.

mod changes;
mod look;
mod places;
mod tags;

use std::sync::Arc;

use api::Code;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::jobs::About;
use super::joined::require_resting;
use super::outside::Deed;
use super::{EvsPages, Made, busy, coded, fault};
use crate::book::evs::{Attached, Group, Head, Instance, Life, Nic, Pair, Record, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;
use look::Seen;
pub(crate) use tags::TAGS_MAX;

/// A server that somebody wants protected.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NewInstance {
    pub(crate) group: Uuid,
    /// The cloud's identity of the production server.
    pub(crate) server: String,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Of the first interface of the other server; empty as the production server's.
    pub(crate) subnet: String,
    pub(crate) ip: String,
    /// Of the other server; empty as the production server's.
    pub(crate) flavour: String,
    pub(crate) tags: Vec<(String, String)>,
}

/// An interface that both servers get.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NewNic {
    pub(crate) subnet: String,
    /// Of the one that works; empty as the cloud gives it.
    pub(crate) ip: String,
    pub(crate) security_groups: Vec<String>,
}

/// What is to be done with protected servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub(crate) enum InstanceCall {
    Make(NewInstance),
    Rename {
        id: Uuid,
        name: String,
    },
    Delete {
        id: Uuid,
        with_server: bool,
        with_address: bool,
    },
    Attach {
        id: Uuid,
        pair: Uuid,
        device: String,
    },
    Detach {
        id: Uuid,
        pair: Uuid,
    },
    AddNic {
        id: Uuid,
        nic: NewNic,
    },
    RemoveNic {
        id: Uuid,
        port: String,
    },
    /// To these flavours: of the server that works, of the one that stands by.
    Resize {
        id: Uuid,
        flavours: [Option<String>; 2],
    },
    /// Tags are put, or taken off by their keys.
    Tag {
        id: Uuid,
        put: Vec<(String, String)>,
        off: Vec<String>,
    },
}

impl InstanceCall {
    /// The group whose production site rules it.
    pub(super) fn group(&self, pages: &EvsPages) -> Result<Uuid, Refused> {
        Ok(match self {
            Self::Make(wanted) => wanted.group,
            Self::Rename { id, .. }
            | Self::Delete { id, .. }
            | Self::Attach { id, .. }
            | Self::Detach { id, .. }
            | Self::AddNic { id, .. }
            | Self::RemoveNic { id, .. }
            | Self::Resize { id, .. }
            | Self::Tag { id, .. } => pages.instance(*id)?.group,
        })
    }
}

impl EvsPages {
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn instance(&self, id: Uuid) -> Result<&Instance, Refused> {
        let found = self.instances().find(|of| of.head.id == id);
        found.ok_or_else(|| super::not_found("protected instance", id, "SDRS.1320"))
    }

    /// The protected servers of a group.
    pub(crate) fn instances_of(&self, group: Uuid) -> impl Iterator<Item = &Instance> {
        self.instances().filter(move |of| of.group == group)
    }
}

/// A name for the pair of one disk of a server.
fn pair_name(server: &str, device: &str) -> String {
    let device = device.rsplit('/').next().unwrap_or_default();
    let room = crate::names::NAME_BYTES_MAX.saturating_sub(device.len() + 1);
    let server: String = server.chars().take(room).collect();
    format!("{server}-{device}")
}

impl Gateway {
    pub(super) async fn change_instance<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Instance) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let of_instance = |record: &mut Record| match record {
            Record::Instance(instance) => change(instance),
            Record::Pair(_) | Record::Group(_) | Record::Drill(_) | Record::Job(_) => {
                Err(super::not_found("protected instance", id, "SDRS.1320"))
            }
        };
        self.change_record(id, of_instance).await
    }

    pub(super) async fn do_instance(self: &Arc<Self>, call: InstanceCall) -> Result<Made, Refused> {
        match call {
            InstanceCall::Make(wanted) => self.make_instance(wanted).await,
            InstanceCall::Rename { id, name } => {
                let rename = |instance: &mut Instance| {
                    instance.name = name;
                    Ok(())
                };
                self.change_instance(id, rename).await?;
                Ok(Made { id, job: None })
            }
            InstanceCall::Delete { id, with_server, with_address } => {
                self.delete_instance(id, (with_server, with_address)).await
            }
            InstanceCall::Attach { id, pair, device } => self.attach(id, (pair, device)).await,
            InstanceCall::Detach { id, pair } => self.detach(id, pair).await,
            InstanceCall::AddNic { id, nic } => self.add_nic(id, nic).await,
            InstanceCall::RemoveNic { id, port } => self.remove_nic(id, port).await,
            InstanceCall::Resize { id, flavours } => self.resize(id, flavours).await,
            InstanceCall::Tag { id, put, off } => self.tag(id, put, off).await,
        }
    }

    // --- made ---

    async fn make_instance(self: &Arc<Self>, wanted: NewInstance) -> Result<Made, Refused> {
        let group = self.book.read().evs.group(wanted.group)?.clone();
        require_resting(&group)?;
        self.require_unprotected(&wanted.server)?;
        let seen = self.see_server(&wanted.server).await?;
        seen.check(&group)?;
        let (known, new) = self.pairs_of_server(&group, &wanted.name, &seen).await?;
        let mut servers = [String::new(), String::new()];
        servers[group.primary].clone_from(&wanted.server);
        let mut flavours = [String::new(), String::new()];
        flavours[group.primary].clone_from(&seen.flavour);
        let instance = Instance {
            head: Head::new(group.head.gateways, self.clock.unix_ms()),
            name: wanted.name.clone(),
            description: wanted.description.clone(),
            group: group.head.id,
            servers,
            flavours,
            disks: known,
            nics: Vec::new(),
            tags: wanted.tags.clone(),
            life: Life::Creating,
            fault: None,
            lost: None,
            is_displaced: false,
            called: seen.name.clone(),
        };
        let id = instance.head.id;
        let about = About {
            kind: "createProtectedInstanceNoCG",
            failure: "createFail",
            resource: "protected_instance",
            subject: (id, instance.name.clone()),
            parts: instance.disks.iter().map(|disk| disk.pair).collect(),
        };
        let job = self.begin_job(group.dialect, self.mine_first(&group), about).await?;
        self.put_record(Record::Instance(instance.clone())).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let built = gateway.build_instance(&group, &instance, (&wanted, &seen, &new)).await;
            if built.is_err() {
                gateway.note(gateway.cloud_undo(&instance.making(&group, &wanted)).await);
                for pair in &new {
                    gateway.note(gateway.end_pair(pair, false).await);
                }
                // What was there before is nobody's again.
                let bare = |instance: &mut Instance| {
                    instance.disks.clear();
                    Ok(())
                };
                gateway.note(gateway.change_instance(id, bare).await);
            }
            gateway.end_instance(id, &built, Life::Available).await;
            gateway.end_job(job, &built).await;
        });
        Ok(Made { id, job })
    }

    /// A server is protected once.
    fn require_unprotected(&self, server: &str) -> Result<(), Refused> {
        let pages = self.book.read();
        let (used, most) = (pages.evs.instances().count(), self.config.quota.instances);
        if used >= most {
            let detail = format!("quota.instances is {most}, and there are {used}: delete some");
            return Err(Refused::new(Code::QuotaReached, detail));
        }
        let of = pages.evs.instances().find(|of| of.servers.iter().any(|its| its == server));
        let Some(of) = of else { return Ok(()) };
        let detail = format!("server {server} is of protected instance {} already", of.head.id);
        Err(coded(Code::WrongState, "SDRS.1305", detail))
    }

    /// What each disk of a server is attached as, and the pairs of it that are not there yet.
    async fn pairs_of_server(
        &self,
        group: &Group,
        name: &str,
        seen: &Seen,
    ) -> Result<(Vec<Attached>, Vec<Pair>), Refused> {
        let (mut known, mut new) = (Vec::new(), Vec::new());
        for (disk, device) in &seen.disks {
            let pages = self.book.read();
            let is_it = |pair: &&Pair| pair.disks[group.primary] == *disk;
            let pair = match pages.evs.pairs_of(group.head.id).find(is_it) {
                Some(pair) => {
                    self.require_detached(pair)?;
                    pair.head.id
                }
                None => {
                    let name = pair_name(name, device);
                    let pair = self.new_pair_in(group, (*disk, name, String::new())).await?;
                    let id = pair.head.id;
                    new.push(pair);
                    id
                }
            };
            known.push(Attached { pair, device: device.clone(), stands_by: false });
        }
        self.require_room_for_pairs(new.len())?;
        Ok((known, new))
    }

    async fn build_instance(
        self: &Arc<Self>,
        group: &Group,
        instance: &Instance,
        (wanted, seen, new): (&NewInstance, &Seen, &[Pair]),
    ) -> Result<(), Refused> {
        for pair in new {
            self.put_record(Record::Pair(pair.clone())).await?;
            self.join_pair(group, pair).await?;
        }
        let told = self.cloud(&instance.making(group, wanted)).await?;
        let of = |key: &str| told.get(key).cloned().unwrap_or_default();
        let standby = of("ports");
        let mut standby = standby.split(',').filter(|port| !port.is_empty());
        let mut nic = |active: &String| Nic {
            active: active.clone(),
            standby: standby.next().unwrap_or_default().to_owned(),
        };
        let nics: Vec<Nic> = seen.ports.iter().map(&mut nic).collect();
        let made = |instance: &mut Instance| {
            instance.servers[1 - group.primary] = of("server");
            instance.flavours[1 - group.primary] = of("flavour");
            instance.nics = nics;
            Ok(())
        };
        self.change_instance(instance.head.id, made).await?;
        self.stand_by(instance.head.id).await
    }

    /// Attaches to the server that stands by what copies there are and it has not.
    pub(super) async fn stand_by(&self, id: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instance(id)?.clone();
        let group = pages.evs.group(instance.group)?.clone();
        if group.wanted == Wanted::Idle || instance.servers[1 - group.primary].is_empty() {
            return Ok(());
        }
        for disk in instance.disks.iter().filter(|disk| !disk.stands_by) {
            let pair = pages.evs.pair(disk.pair)?;
            self.cloud(&instance.attaching(1 - group.primary, (pair, &disk.device))).await?;
            let stands = |instance: &mut Instance| {
                let its = instance.disks.iter_mut().find(|of| of.pair == disk.pair);
                its.into_iter().for_each(|of| of.stands_by = true);
                Ok(())
            };
            self.change_instance(id, stands).await?;
        }
        Ok(())
    }

    /// Work on an instance is over.
    pub(super) async fn end_instance(&self, id: Uuid, done: &Result<(), Refused>, well: Life) {
        let end = |instance: &mut Instance| {
            instance.life = if done.is_ok() { well } else { instance.life.failed() };
            let dialect = crate::book::evs::Dialect::Sdrs;
            instance.fault = done.as_ref().err().map(|refused| fault(refused, dialect));
            Ok(())
        };
        self.note(self.change_instance(id, end).await);
    }

    // --- deleted ---

    async fn delete_instance(
        self: &Arc<Self>,
        id: Uuid,
        (with_server, with_address): (bool, bool),
    ) -> Result<Made, Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instance(id)?.clone();
        let group = pages.evs.group(instance.group)?.clone();
        busy(group.life, "the protection group")?;
        busy(instance.life, "the protected instance")?;
        if with_server && group.primary == 1 {
            let detail = "the server of the target zone works now: it is not deleted";
            let next = "reverse the group first, or delete the instance without its server";
            return Err(coded(Code::WrongState, "SDRS.1330", detail).next(next));
        }
        let about = About {
            kind: "deleteProtectedInstanceNoCG",
            failure: "deleteFail",
            resource: "protected_instance",
            subject: (id, instance.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(group.dialect, self.mine_first(&group), about).await?;
        let deleting = |instance: &mut Instance| {
            busy(instance.life, "the protected instance")?;
            instance.life = Life::Deleting;
            Ok(())
        };
        self.change_instance(id, deleting).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let with = with_server.then_some(with_address);
            let result = match gateway.clear_instance(&instance, &group, with).await {
                Ok(()) => gateway.drop_record(id).await,
                Err(refused) => Err(refused),
            };
            if result.is_err() {
                gateway.end_instance(id, &result, Life::Deleting).await;
            }
            gateway.end_job(job, &result).await;
        });
        Ok(Made { id, job })
    }

    /// The server that was made goes where that is wanted; one that a failed beginning may have left goes in
    /// any case.
    async fn clear_instance(
        &self,
        instance: &Instance,
        group: &Group,
        with_server: Option<bool>,
    ) -> Result<(), Refused> {
        let server = &instance.servers[1];
        if instance.servers.iter().any(String::is_empty) {
            let made = NewInstance {
                group: group.head.id,
                server: instance.servers[group.primary].clone(),
                name: instance.name.clone(),
                description: String::new(),
                subnet: String::new(),
                ip: String::new(),
                flavour: String::new(),
                tags: Vec::new(),
            };
            // Without a plugin nothing was made either.
            return if self.has_cloud() {
                self.cloud_undo(&instance.making(group, &made)).await
            } else {
                Ok(())
            };
        }
        let Some(with_address) = with_server else { return Ok(()) };
        let deed = Deed {
            action: "delete-server",
            key: format!("{}/delete", instance.head.id),
            params: json!({ "server": server, "public_ips": with_address.to_string() }),
            failure: "SDRS.1307",
        };
        self.cloud(&deed).await.map(drop)
    }
}

impl Instance {
    /// How its second server is made, the same at every try.
    fn making(&self, group: &Group, wanted: &NewInstance) -> Deed {
        let params = json!({
            "server": wanted.server, "name": self.called, "zone": group.stations[1 - group.primary],
            "flavour": wanted.flavour, "subnet": wanted.subnet, "ip": wanted.ip,
        });
        let key = format!("{}/make", self.head.id);
        Deed { action: "make-server", key, params, failure: "SDRS.1306" }
    }

    /// How a disk of a pair is attached to one of its servers.
    fn attaching(&self, at: usize, (pair, device): (&Pair, &str)) -> Deed {
        let params =
            json!({ "server": self.servers[at], "disk": pair.disks[at], "device": device });
        let key = format!("{}/attach/{}/{at}", self.head.id, pair.head.id);
        Deed { action: "attach-disk", key, params, failure: "SDRS.1821" }
    }

    /// How it is taken out.
    fn detaching(&self, at: usize, pair: &Pair) -> Deed {
        let params = json!({ "server": self.servers[at], "disk": pair.disks[at] });
        let key = format!("{}/detach/{}/{at}", self.head.id, pair.head.id);
        Deed { action: "detach-disk", key, params, failure: "SDRS.1822" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_37_a_pair_is_named_by_its_server_and_device_and_is_a_name() {
        assert_eq!(pair_name("web", "/dev/vda"), "web-vda");
        let long = pair_name(&"w".repeat(64), "/dev/vdb");
        assert!(crate::names::is_name(&long) && long.ends_with("-vdb"), "{long}");
    }
}
