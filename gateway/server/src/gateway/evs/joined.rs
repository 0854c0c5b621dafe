//! Pairs of a protection group: a disk of the production site, and its copy, which the first copy makes.
//!
//! Invariant: a pair joins at once what is protected, and otherwise when protection begins. A disk is looked
//! at before anything is begun.

use std::sync::Arc;

use api::Code;
use uuid::Uuid;

use super::jobs::About;
use super::{Made, NewPair, busy, coded, fault};
use crate::book::evs::{Group, Head, Life, Pair, Record, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

impl Gateway {
    /// Whether a disk can be protected: one that hosts use cannot, nor one that is in anything already.
    async fn see_available(&self, disk: Uuid) -> Result<super::DiskSeen, Refused> {
        let missing = || {
            let detail = format!("there is no disk {disk} in zone {}", self.own_station());
            coded(Code::NotFound, "SDRS.1810", detail)
        };
        let seen = self.see_disk(disk).await?.ok_or_else(missing)?;
        seen.require_unlocked()?;
        self.require_copyable(disk, &seen.name).await?;
        if !seen.is_well || seen.is_filling || !seen.is_free || seen.hosts > 0 || seen.is_member {
            let detail = format!(
                "disk {} is not available: it has to be whole, attached by nobody, in no group and in \
                 no session",
                seen.name
            );
            return Err(coded(Code::VolumeInUse, "SDRS.1801", detail));
        }
        Ok(seen)
    }

    /// Whether so many pairs more may be made (EVS-28).
    pub(super) fn require_room_for_pairs(&self, more: usize) -> Result<(), Refused> {
        let (used, most) = (self.book.read().evs.pairs().count(), self.config.quota.pairs);
        if used + more <= most {
            return Ok(());
        }
        let detail = format!("quota.pairs is {most}, and there are {used}: delete some");
        Err(coded(Code::QuotaReached, "SDRS.0306", detail))
    }

    /// A pair as it would be made in a group; nobody knows of it yet.
    pub(super) async fn new_pair_in(
        &self,
        group: &Group,
        (disk, name, description): (Uuid, String, String),
    ) -> Result<Pair, Refused> {
        let seen = self.see_available(disk).await?;
        // Which of the two places is the production site now decides which disk is which.
        let made = Uuid::now_v7();
        let disks = if group.primary == 0 { [disk, made] } else { [made, disk] };
        let pair = Pair {
            head: Head::new(group.head.gateways, self.clock.unix_ms()),
            dialect: group.dialect,
            name,
            description,
            disks,
            names: [seen.name.clone(), seen.name],
            stations: group.stations.clone(),
            volume: seen.volume,
            bytes: seen.bytes,
            primary: group.primary,
            group: Some(group.head.id),
            life: Life::Creating,
            fault: None,
            is_made: true,
            overwrites: false,
            leaves: false,
        };
        self.check_reserved(&pair)
            .map_err(|refused| coded(Code::VolumeInUse, "SDRS.1811", refused.0.detail))?;
        Ok(pair)
    }

    /// Lets a pair that is recorded join what is protected; it is available then, or says why not.
    pub(super) async fn join_pair(&self, group: &Group, pair: &Pair) -> Result<(), Refused> {
        let joined = match (group.wanted, group.core) {
            // Protected: what joins is copied at once.
            (Wanted::Running, Some(core)) => {
                let (core, volume) = (core.to_string(), pair.volume.to_string());
                self.join_group(&core, &volume).await.map(drop)
            }
            _ => Ok(()),
        };
        let end = |pair: &mut Pair| {
            pair.life = if joined.is_ok() { Life::Available } else { Life::Error };
            pair.fault = joined.as_ref().err().map(|refused| fault(refused, pair.dialect));
            Ok(())
        };
        self.note(self.change_pair(pair.head.id, end).await);
        joined
    }

    pub(super) async fn make_pair_in(
        self: &Arc<Self>,
        group: Uuid,
        wanted: NewPair,
    ) -> Result<Made, Refused> {
        let group = self.book.read().evs.group(group)?.clone();
        require_resting(&group)?;
        let &[disk] = wanted.disks.as_slice() else {
            let detail = "volume_id names one disk, at the production site";
            return Err(coded(Code::Invalid, "SDRS.0211", detail));
        };
        let pair = self.new_pair_in(&group, (disk, wanted.name, wanted.description)).await?;
        let id = pair.head.id;
        let about = About {
            kind: "createReplicationPairNoCG",
            failure: "createFail",
            resource: "replication_pair",
            subject: (id, pair.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(group.dialect, group.head.gateways, about).await?;
        self.put_record(Record::Pair(pair.clone())).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let joined = gateway.join_pair(&group, &pair).await;
            gateway.end_job(job, &joined).await;
        });
        Ok(Made { id, job })
    }

    /// A pair that servers have attached is detached before it is deleted.
    pub(super) fn require_detached(&self, pair: &Pair) -> Result<(), Refused> {
        let pages = self.book.read();
        let instance = pages.evs.instances().find(|of| of.disk_of(pair.head.id).is_some());
        let Some(instance) = instance else { return Ok(()) };
        let detail = format!("the pair is attached to protected instance {}", instance.head.id);
        let next = "detach it: DELETE protected-instances/ID/detachreplication/PAIR";
        Err(coded(Code::WrongState, "SDRS.1605", detail).next(next))
    }
}

/// Pairs come and go while nothing is under way, and the two sites play their parts.
pub(super) fn require_resting(group: &Group) -> Result<(), Refused> {
    busy(group.life, "the protection group")?;
    if group.life == Life::Available {
        return Ok(());
    }
    let detail = "the protection group has to be available or protected";
    Err(coded(Code::WrongState, "SDRS.1002", detail))
}
