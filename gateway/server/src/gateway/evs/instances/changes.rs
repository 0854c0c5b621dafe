//! What is changed of protected servers: disks, interfaces, flavours.
//!
//! Invariant: both servers are changed, the one that works first; what could be done to one of them only is
//! taken back, or is an error state from which the same is asked for again.

use std::sync::Arc;

use api::Code;
use serde_json::json;
use uuid::Uuid;

use super::NewNic;
use super::look::RUNS;
use crate::book::evs::{Attached, Dialect, Group, Instance, Life, Nic, Pair, Wanted};
use crate::gateway::Gateway;
use crate::gateway::evs::jobs::About;
use crate::gateway::evs::joined::require_resting;
use crate::gateway::evs::outside::Deed;
use crate::gateway::evs::{Made, busy, coded, fault};
use crate::refusal::Refused;

/// Names of system disks, whatever machine it is.
fn is_system(device: &str) -> bool {
    matches!(device, "/dev/vda" | "/dev/sda" | "/dev/xvda")
}

impl Gateway {
    /// An instance that can be changed, and its group. It may be in one error state beside.
    fn changeable(&self, id: Uuid, also: Option<Life>) -> Result<(Group, Instance), Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instance(id)?.clone();
        let group = pages.evs.group(instance.group)?.clone();
        require_resting(&group)?;
        busy(instance.life, "the protected instance")?;
        if let Some(server) = &instance.lost {
            let detail = format!("server {server} of it does not exist any more");
            let next = "delete the protected instance";
            return Err(coded(Code::WrongState, "SDRS.1314", detail).next(next));
        }
        if instance.life != Life::Available && Some(instance.life) != also {
            let detail = "the protected instance has to be available or protected";
            return Err(coded(Code::WrongState, "SDRS.1328", detail));
        }
        Ok((group, instance))
    }

    async fn begin_change(
        &self,
        (group, instance): (&Group, &Instance),
        (kind, failure): (&'static str, &'static str),
        parts: Vec<Uuid>,
    ) -> Result<Option<Uuid>, Refused> {
        let about = About {
            kind,
            failure,
            resource: "protected_instance",
            subject: (instance.head.id, instance.name.clone()),
            parts,
        };
        self.begin_job(group.dialect, self.mine_first(group), about).await
    }

    async fn set_life(&self, id: Uuid, life: Life) -> Result<(), Refused> {
        let set = |instance: &mut Instance| {
            busy(instance.life, "the protected instance")?;
            instance.life = life;
            Ok(())
        };
        self.change_instance(id, set).await
    }

    // --- disks ---

    pub(super) async fn attach(
        self: &Arc<Self>,
        id: Uuid,
        (pair, device): (Uuid, String),
    ) -> Result<Made, Refused> {
        let (group, instance) = self.changeable(id, None)?;
        let pair = self.book.read().evs.pair(pair)?.clone();
        if pair.group != Some(group.head.id) {
            let detail = format!("pair {} is not in protection group {}", pair.head.id, group.name);
            return Err(coded(Code::Invalid, "SDRS.1611", detail));
        }
        let is_again = instance.disk_of(pair.head.id).is_some_and(|of| of.device == device)
            && pair.life == Life::ErrorAttaching;
        if !is_again {
            self.require_detached(&pair)
                .map_err(|refused| coded(Code::WrongState, "SDRS.1603", refused.0.detail))?;
            if instance.disks.iter().any(|of| of.device == device) {
                let detail = format!("device {device} of the instance is used already");
                return Err(coded(Code::WrongState, "SDRS.1603", detail));
            }
        }
        if !matches!(pair.life, Life::Available | Life::ErrorAttaching) {
            let detail = "the pair has to be available or protected";
            return Err(coded(Code::WrongState, "SDRS.1601", detail));
        }
        let kind = ("attachReplicationPairNew", "attachFail");
        let job = self.begin_change((&group, &instance), kind, vec![pair.head.id]).await?;
        self.set_pair_life(&pair, Life::Attaching).await?;
        let at = Attached { pair: pair.head.id, device, stands_by: false };
        let enter = |instance: &mut Instance| {
            instance.disks.retain(|of| of.pair != at.pair);
            instance.disks.push(at.clone());
            Ok(())
        };
        self.change_instance(id, enter).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let deed = instance.attaching(group.primary, (&pair, &at.device));
            let done = match gateway.cloud(&deed).await {
                Ok(_) => gateway.stand_by(id).await,
                Err(refused) => Err(refused),
            };
            gateway.end_pair_change(&pair, &done).await;
            gateway.end_job(job, &done).await;
        });
        Ok(Made { id, job })
    }

    pub(super) async fn detach(self: &Arc<Self>, id: Uuid, pair: Uuid) -> Result<Made, Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instance(id)?.clone();
        let group = pages.evs.group(instance.group)?.clone();
        busy(group.life, "the protection group")?;
        busy(instance.life, "the protected instance")?;
        let pair = pages.evs.pair(pair)?.clone();
        let Some(at) = instance.disk_of(pair.head.id).cloned() else {
            let detail = format!("pair {} is not attached to the instance", pair.head.id);
            return Err(coded(Code::WrongState, "SDRS.1604", detail));
        };
        if is_system(&at.device) {
            let seen = self.see_server(&instance.servers[group.primary]).await?;
            if seen.status == RUNS {
                let detail =
                    format!("server {} runs on disk {}: stop it first", seen.name, at.device);
                return Err(coded(Code::WrongState, "SDRS.1316", detail));
            }
        }
        let kind = ("detachReplicationPairNew", "detachFail");
        let job = self.begin_change((&group, &instance), kind, vec![pair.head.id]).await?;
        self.set_pair_life(&pair, Life::Detaching).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let done = gateway.take_out(&instance, &group, &pair).await;
            gateway.end_pair_change(&pair, &done).await;
            gateway.end_job(job, &done).await;
        });
        Ok(Made { id, job })
    }

    async fn take_out(
        &self,
        instance: &Instance,
        group: &Group,
        pair: &Pair,
    ) -> Result<(), Refused> {
        for at in [group.primary, 1 - group.primary] {
            if !instance.servers[at].is_empty() {
                self.cloud(&instance.detaching(at, pair)).await?;
            }
        }
        let leave = |instance: &mut Instance| {
            instance.disks.retain(|of| of.pair != pair.head.id);
            Ok(())
        };
        self.change_instance(instance.head.id, leave).await
    }

    async fn set_pair_life(&self, pair: &Pair, life: Life) -> Result<(), Refused> {
        let set = |pair: &mut Pair| {
            busy(pair.life, "the pair")?;
            pair.life = life;
            Ok(())
        };
        self.change_pair(pair.head.id, set).await
    }

    async fn end_pair_change(&self, pair: &Pair, done: &Result<(), Refused>) {
        let end = |pair: &mut Pair| {
            pair.life = if done.is_ok() { Life::Available } else { pair.life.failed() };
            pair.fault = done.as_ref().err().map(|refused| fault(refused, Dialect::Sdrs));
            Ok(())
        };
        self.note(self.change_pair(pair.head.id, end).await);
    }

    // --- interfaces ---

    pub(super) async fn add_nic(self: &Arc<Self>, id: Uuid, nic: NewNic) -> Result<Made, Refused> {
        let (group, instance) = self.changeable(id, None)?;
        let job =
            self.begin_change((&group, &instance), ("addNicNew", "createFail"), Vec::new()).await?;
        self.set_life(id, Life::NicCreating).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let key = job.unwrap_or(id);
            let done = gateway.add_to_both(&instance, &group, (key, &nic)).await;
            gateway.end_instance(id, &done, Life::Available).await;
            gateway.end_job(job, &done).await;
        });
        Ok(Made { id, job })
    }

    async fn add_to_both(
        &self,
        instance: &Instance,
        group: &Group,
        (key, nic): (Uuid, &NewNic),
    ) -> Result<(), Refused> {
        let adding = |at: usize| {
            let ip = if at == group.primary { nic.ip.as_str() } else { "" };
            let params = json!({
                "server": instance.servers[at], "subnet": nic.subnet, "ip": ip,
                "security_groups": nic.security_groups.join(","),
            });
            Deed {
                action: "add-interface",
                key: format!("{key}/{at}"),
                params,
                failure: "SDRS.1312",
            }
        };
        let (here, there) = (adding(group.primary), adding(1 - group.primary));
        let port =
            |told: &super::super::outside::Told| told.get("port").cloned().unwrap_or_default();
        let active = self.cloud(&here).await?;
        let standby = match self.cloud(&there).await {
            Ok(told) => told,
            Err(refused) => {
                self.note(self.cloud_undo(&there).await);
                self.note(self.cloud_undo(&here).await);
                return Err(refused);
            }
        };
        let enter = |instance: &mut Instance| {
            instance.nics.push(Nic { active: port(&active), standby: port(&standby) });
            Ok(())
        };
        self.change_instance(instance.head.id, enter).await
    }

    pub(super) async fn remove_nic(
        self: &Arc<Self>,
        id: Uuid,
        port: String,
    ) -> Result<Made, Refused> {
        let (group, instance) = self.changeable(id, None)?;
        let is_it = |nic: &Nic| nic.active == port || nic.standby == port;
        let nic = match instance.nics.iter().position(is_it) {
            Some(0) => {
                let detail = format!("interface {port} is the primary one: it stays");
                return Err(coded(Code::WrongState, "SDRS.1311", detail));
            }
            Some(at) => instance.nics[at].clone(),
            None => {
                let detail = format!("there is no interface {port} of the instance");
                return Err(coded(Code::NotFound, "SDRS.1310", detail));
            }
        };
        let job = self
            .begin_change((&group, &instance), ("deleteNicNew", "deleteFail"), Vec::new())
            .await?;
        self.set_life(id, Life::NicDeleting).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let done = gateway.remove_from_both(&instance, &group, &nic).await;
            gateway.end_instance(id, &done, Life::Available).await;
            gateway.end_job(job, &done).await;
        });
        Ok(Made { id, job })
    }

    async fn remove_from_both(
        &self,
        instance: &Instance,
        group: &Group,
        nic: &Nic,
    ) -> Result<(), Refused> {
        for (at, port) in [(group.primary, &nic.active), (1 - group.primary, &nic.standby)] {
            if port.is_empty() {
                continue;
            }
            let deed = Deed {
                action: "remove-interface",
                key: format!("{}/remove/{port}", instance.head.id),
                params: json!({ "server": instance.servers[at], "port": port }),
                failure: "SDRS.1313",
            };
            self.cloud(&deed).await?;
        }
        let leave = |instance: &mut Instance| {
            instance.nics.retain(|of| of != nic);
            Ok(())
        };
        self.change_instance(instance.head.id, leave).await
    }

    // --- flavours ---

    pub(super) async fn resize(
        self: &Arc<Self>,
        id: Uuid,
        flavours: [Option<String>; 2],
    ) -> Result<Made, Refused> {
        let (group, instance) = self.changeable(id, Some(Life::ErrorResizing))?;
        if flavours.iter().all(Option::is_none) {
            let detail = "say flavorRef, production_flavorRef or dr_flavorRef";
            return Err(coded(Code::Invalid, "SDRS.0201", detail));
        }
        let kind = ("resizeProtectedInstanceNew", "resizeFail");
        let job = self.begin_change((&group, &instance), kind, Vec::new()).await?;
        self.set_life(id, Life::Resizing).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let key = job.unwrap_or(id);
            let done = gateway.resize_each(&instance, &group, (key, &flavours)).await;
            gateway.end_instance(id, &done, Life::Available).await;
            gateway.end_job(job, &done).await;
        });
        Ok(Made { id, job })
    }

    async fn resize_each(
        &self,
        instance: &Instance,
        group: &Group,
        (key, flavours): (Uuid, &[Option<String>; 2]),
    ) -> Result<(), Refused> {
        for (at, flavour) in [group.primary, 1 - group.primary].into_iter().zip(flavours) {
            let Some(flavour) = flavour else { continue };
            let deed = Deed {
                action: "resize-server",
                key: format!("{key}/{at}"),
                params: json!({ "server": instance.servers[at], "flavour": flavour }),
                failure: "SDRS.1329",
            };
            self.cloud(&deed).await?;
            let set = |instance: &mut Instance| {
                instance.flavours[at].clone_from(flavour);
                Ok(())
            };
            self.change_instance(instance.head.id, set).await?;
        }
        Ok(())
    }

    /// Copies that came with the first synchronisation are attached to the servers that stand by.
    pub(in crate::gateway::evs) async fn stand_by_all(&self, group: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        if pages.evs.group(group)?.wanted == Wanted::Idle {
            return Ok(());
        }
        for instance in pages.evs.instances_of(group) {
            self.stand_by(instance.head.id).await?;
        }
        Ok(())
    }
}
