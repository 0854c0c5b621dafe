//! Disks: how one is, how it becomes a destination, and how it becomes a volume of its own again.
//!
//! Invariant: a disk is meant by the identity under which it was named first, for ever: one that took
//! its source's identity keeps its own name here. A copy is let go only when nothing follows it.

use api::{Code, Copy};
use block::{Identity, VolumeId};
use mirror::{LinkState, Role, Serving};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{EvsAnswer, EvsQuestion};
use crate::book::evs::{Life, Pair};
use crate::book::{GroupEntry, VolumeEntry};
use crate::gateway::asks::{Take, unexpected};
use crate::gateway::members::own_name;
use crate::gateway::{Gateway, Known};
use crate::numbers::Numbers;
use crate::refusal::Refused;

/// A copy whose session was just deleted at its source hears of it within moments.
const FREE_TRIES_MAX: u32 = 60;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// How a disk is, at its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct DiskSeen {
    /// Its name there.
    pub(crate) name: String,
    /// The identity of its volume.
    pub(crate) volume: Uuid,
    /// Its size.
    pub(crate) bytes: u64,
    /// Bytes that it holds.
    pub(crate) mapped_bytes: u64,
    /// Whether it does not have all of its content yet.
    pub(crate) is_filling: bool,
    /// Hosts that are attached.
    pub(crate) hosts: u64,
    /// Whether its copy can be read and written.
    pub(crate) is_well: bool,
    /// Whether it is served there and takes part in no session.
    pub(crate) is_free: bool,
    /// Whether it shares its group with other volumes.
    pub(crate) is_member: bool,
    /// Whether that gateway may overwrite it because it was its mirror.
    pub(crate) was_mirror_of: Option<Uuid>,
    /// The run that has its group there, if one has.
    #[serde(default)]
    pub(crate) locked: Option<Locked>,
}

/// A disk whose group a run has is the run's alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Locked {
    /// Which run, in words.
    pub(crate) why: String,
    /// How it is looked at.
    pub(crate) next: Option<String>,
}

impl DiskSeen {
    /// Whether no run has it.
    pub(super) fn require_unlocked(&self) -> Result<(), Refused> {
        let Some(locked) = &self.locked else { return Ok(()) };
        let detail = format!("disk {} is locked: {}", self.name, locked.why);
        let refused = super::coded(Code::RunLease, "SDRS.1831", detail);
        Err(match &locked.next {
            Some(next) => refused.next(next.clone()),
            None => refused,
        })
    }

    /// The same as plugins see it.
    #[must_use]
    pub(crate) fn as_volume(&self) -> plugin::contract::Volume {
        plugin::contract::Volume {
            id: self.volume.to_string(),
            name: self.name.clone(),
            group: self.name.clone(),
            size_bytes: self.bytes,
            is_filling: self.is_filling,
        }
    }
}

impl Gateway {
    /// The volume that is meant by a disk's identity, here.
    pub(crate) fn volume_of_disk(&self, disk: Uuid) -> Option<(GroupEntry, VolumeEntry)> {
        let pages = self.book.read();
        let by_name = pages.evs.name_of_disk(disk).and_then(|name| pages.volume(name));
        let found = by_name.or_else(|| {
            let by_id = pages.volume_by_id(VolumeId::from_uuid(disk))?;
            // It has the identity of its source, and is named by its own.
            pages.evs.disk_called(&by_id.1.name).is_none().then_some(by_id)
        });
        found.map(|(group, volume)| (group.clone(), volume.clone()))
    }

    /// How a disk here is; `None` where there is none.
    pub(crate) async fn see_disk(&self, disk: Uuid) -> Result<Option<DiskSeen>, Refused> {
        let Some((group, volume)) = self.volume_of_disk(disk) else { return Ok(None) };
        let shown = self.volume(&volume.id.to_string()).await?;
        let known = self.look_at(group.group()).await;
        let hosts = self.hosts_of(group.group()).await.unwrap_or(0);
        let (is_well, is_free) = match &known {
            Known::Status(status, moment) => {
                let is_well = moment.fresh && status.serving != Serving::Latched;
                let is_alone = status.legs.is_empty() && status.upstream.is_none();
                (is_well, is_alone && status.role == Role::Primary)
            }
            Known::Nothing(_) => (false, false),
        };
        let numbers = self.numbers.read().await?;
        Ok(Some(DiskSeen {
            name: volume.name.clone(),
            volume: volume.id,
            bytes: shown.bytes,
            mapped_bytes: shown.mapped_bytes.unwrap_or(0),
            is_filling: shown.filling.is_some(),
            hosts: if shown.copy == Copy::Serving { hosts } else { 0 },
            is_well,
            is_free,
            is_member: group.volumes.len() > 1,
            was_mirror_of: numbers.volume(volume.id).and_then(|entry| entry.was_mirror_of),
            locked: self.run_that_has(&group),
        }))
    }

    /// The run that has a group, as what keeps its disks from being used.
    fn run_that_has(&self, group: &GroupEntry) -> Option<Locked> {
        // For no run: whichever has it stands against it.
        let held = self.check_leases(Uuid::nil(), &[(group.id.to_string(), group.name.clone())]);
        held.err().map(|leased| {
            let api::Problem { detail, next, .. } = *leased.0;
            Locked { why: detail, next }
        })
    }

    /// How a disk of another gateway is.
    pub(crate) async fn see_disk_at(
        &self,
        gateway: Uuid,
        disk: Uuid,
    ) -> Result<Option<DiskSeen>, Refused> {
        if gateway == self.own_id() {
            return self.see_disk(disk).await;
        }
        match self.ask_evs(gateway, EvsQuestion::Disk { disk }).await? {
            EvsAnswer::Disk { seen } => Ok(seen),
            EvsAnswer::Data { .. } | EvsAnswer::Made(_) | EvsAnswer::Done => Err(unexpected()),
        }
    }

    /// Whether a volume here is a disk of no pair.
    ///
    /// # Errors
    /// [`Code::VolumeInUse`], with the pair.
    pub(crate) fn require_in_no_pair(&self, name: &str) -> Result<(), Refused> {
        let (pages, me) = (self.book.read(), self.own_id());
        let has_it = |pair: &&Pair| {
            let sides = pair.head.gateways.iter().zip(&pair.names);
            let is_its = sides.into_iter().any(|(gateway, of)| *gateway == me && of == name);
            // One that is being deleted lets its disks go.
            is_its && !matches!(pair.life, Life::Error | Life::Deleting | Life::ErrorDeleting)
        };
        match pages.evs.pairs().find(has_it) {
            None => Ok(()),
            Some(pair) => {
                let detail = format!("{name} is a disk of replication pair {}", pair.head.id);
                Err(Refused::new(Code::VolumeInUse, detail).next("delete the pair first"))
            }
        }
    }

    /// Makes a disk here a copy that waits for its source.
    pub(super) async fn take_disk(
        &self,
        peer: &Identity,
        disk: Uuid,
        (volume, bytes, overwrite): (Uuid, u64, bool),
    ) -> Result<(), Refused> {
        let missing =
            || super::coded(Code::NotFound, "37100050", format!("there is no disk {disk}"));
        let (group, entry) = self.volume_of_disk(disk).ok_or_else(missing)?;
        let status = self.status_of(group.group()).await?;
        let waits = status.role == Role::Secondary
            && status.upstream.as_ref().is_none_or(|up| up.link != LinkState::Connected);
        if entry.id == volume && group.volumes.len() == 1 && waits {
            return Ok(());
        }
        self.book
            .change(Vec::new(), |pages| {
                pages.evs.call_disk(disk, &entry.name);
                Ok::<(), Refused>(())
            })
            .await?;
        let take = Take {
            number: 0,
            name: Some(entry.name),
            keep: false,
            // The group that opens it takes it over from this one.
            group: Uuid::now_v7(),
            volume,
            bytes,
            overwrite,
        };
        self.take_volume(peer, &take).await.map(drop)
    }

    /// Lets copies of volumes of `asker` that are mirrored no more be volumes of their own.
    ///
    /// # Errors
    /// [`Code::WrongState`] while they follow their source, or share a group with others that do.
    pub(super) async fn free_copies(&self, asker: Uuid, volumes: &[Uuid]) -> Result<(), Refused> {
        for volume in volumes {
            self.require_pair_of(asker, *volume)?;
        }
        let _alone = self.change_alone().await;
        for volume in volumes {
            let pages = self.book.read();
            let found = pages.volume_by_id(VolumeId::from_uuid(*volume));
            if let Some(group) = found.map(|(group, _)| group.clone()) {
                self.free_group(asker, &group, volumes).await?;
            }
        }
        Ok(())
    }

    async fn free_group(
        &self,
        asker: Uuid,
        group: &GroupEntry,
        volumes: &[Uuid],
    ) -> Result<(), Refused> {
        let status = self.status_of(group.group()).await?;
        if status.role == Role::Primary {
            return Ok(());
        }
        let follows = status.upstream.as_ref().is_some_and(|up| up.link == LinkState::Connected);
        let others = group.volumes.iter().any(|volume| !volumes.contains(&volume.id));
        if follows || others {
            let detail = format!("group {} still follows its source", group.name);
            return Err(Refused::new(Code::WrongState, detail)
                .next("synchronise the group: what left it is let go then"));
        }
        let mut pages = crate::book::Pages::clone(&self.book.read());
        let mut after = Vec::new();
        for volume in &group.volumes {
            let name = own_name(&pages, &volume.name, Some(group.id));
            let own = GroupEntry { id: Uuid::now_v7(), name, volumes: vec![volume.clone()] };
            pages.groups.push(own.clone());
            after.push(own);
        }
        let mark = |numbers: &mut Numbers| {
            for volume in &group.volumes {
                numbers.give_volume(volume.id).was_mirror_of = Some(asker);
            }
        };
        self.numbers.change(&self.book, mark).await?;
        self.regroup(std::slice::from_ref(group), &after).await?;
        self.board.remove(group.group());
        self.forget_maps(&status).await?;
        let text = format!("{} volumes are mirrored no more", group.volumes.len());
        self.events.tell("group", &group.name, text);
        Ok(())
    }

    /// Asks the gateway of the destinations to let them go, for as long as it may not have heard that
    /// they are mirrored no more.
    pub(super) async fn free_there(&self, pairs: &[Pair]) -> Result<(), Refused> {
        let mut tries = 0;
        loop {
            match self.free_once(pairs).await {
                Err(refused) if refused.is(Code::WrongState) && tries < FREE_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(FREE_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    pub(super) async fn free_once(&self, pairs: &[Pair]) -> Result<(), Refused> {
        let Some(first) = pairs.first() else { return Ok(()) };
        let there = first.head.gateways[1 - first.primary];
        let volumes = pairs.iter().map(|pair| pair.volume).collect();
        self.ask_evs(there, EvsQuestion::Free { volumes }).await.map(drop)
    }
}
