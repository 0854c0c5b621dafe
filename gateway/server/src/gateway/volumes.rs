//! Volumes: made, listed, grown, deleted, read.
//!
//! Invariant: a volume that is known by its name is on stable storage, and its name is known by
//! nobody else. One that is in use is not deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::{Code, Copy, Volume, VolumeCreate, VolumeList, VolumeSettings};
use block::{Generation, Geometry, GroupId, VolumeId};
use mirror::{Command, Role, Serving};
use store::{OriginRecord, StoreError, VolumeRecord};
use uuid::Uuid;

use super::members::{check_name, gone_with_volumes, require_own_group};
use super::{Gateway, Known};
use crate::access;
use crate::book::{GroupEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::targets::target_tail;

/// A deleted volume's last users have a second to let it go.
const DELETE_TRIES_MAX: u32 = 20;
const DELETE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A volume that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewVolume {
    /// Its identity.
    pub(crate) volume: VolumeId,
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Who may attach it.
    pub(crate) settings: VolumeSettings,
    /// What it is filled from.
    pub(crate) origin: Option<OriginRecord>,
}

/// A group that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewGroup {
    /// Its identity.
    pub(crate) group: GroupId,
    /// Its name.
    pub(crate) name: String,
    /// Its volumes.
    pub(crate) volumes: Vec<NewVolume>,
}

impl Gateway {
    /// The volume with this name or identity, and its group.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn find_volume(&self, name: &str) -> Result<(GroupEntry, VolumeEntry), Refused> {
        let pages = self.book.read();
        let found = pages.volume(name).map(|(group, volume)| (group.clone(), volume.clone()));
        found.ok_or_else(|| {
            let detail = format!("there is no volume {name:?} at {}", self.config.site.name);
            Refused::new(Code::NotFound, detail)
        })
    }

    /// All volumes, by name.
    pub(crate) async fn show_volumes(&self) -> VolumeList {
        let known = self.look().await;
        let mut items: Vec<Volume> = known
            .iter()
            .flat_map(|(group, known)| {
                group.volumes.iter().map(|volume| self.show_volume(group, volume, known))
            })
            .collect();
        items.sort_by(|a, b| a.name.cmp(&b.name));
        VolumeList { as_of: self.clock.rfc3339(), items, next: None }
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) async fn volume(&self, name: &str) -> Result<Volume, Refused> {
        let (group, volume) = self.find_volume(name)?;
        let known = self.look_at(group.group()).await;
        Ok(self.show_volume(&group, &volume, &known))
    }

    fn show_volume(&self, group: &GroupEntry, entry: &VolumeEntry, known: &Known) -> Volume {
        let shown = Self::show_group(group, known);
        let id = VolumeId::from_uuid(entry.id);
        // The pool knows the size of what could not be opened.
        let record = self.pool.volume(id);
        let in_pool = record.as_ref().map_or(0, |volume| volume.bytes);
        let in_pool_whole = record.is_none_or(|volume| volume.origin.is_none());
        let (mut bytes, mut mapped) = (in_pool, None);
        let (mut copy, mut exports) = (Copy::Unknown, Vec::new());
        let mut actions = Vec::new();
        if let Known::Status(status, moment) = known {
            if let Some(volume) = status.volumes.iter().find(|volume| volume.volume == id) {
                bytes = volume.bytes;
                mapped = moment.fresh.then_some(volume.mapped_bytes);
            }
            let serves = matches!(status.serving, Serving::Yes | Serving::Halted);
            if moment.fresh && serves {
                copy = Copy::Serving;
                exports = self.exports_of(&entry.name);
            } else if moment.fresh {
                copy = Copy::Standby;
            }
            if status.role == Role::Primary {
                actions.push("volume.grow");
                // A volume that is filled is no source.
                if in_pool_whole {
                    actions.push("session.create");
                }
            }
            let alone = group.volumes.len() == 1;
            if alone && status.legs.is_empty() && status.upstream.is_none() {
                actions.push("volume.delete");
            }
        }
        let filling = self.show_filling(id);
        Volume {
            id: entry.id,
            name: entry.name.clone(),
            bytes,
            mapped_bytes: mapped,
            filling,
            scrub: self.show_scrub(id),
            group: group.name.clone(),
            copy,
            role: shown.role,
            health: shown.health,
            explanations: shown.explanations,
            settings: entry.settings.clone(),
            lun: entry.lun,
            initiator_luns: entry.initiator_luns.clone(),
            exports,
            allowed_actions: actions.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Where a volume of this name is attached.
    #[must_use]
    pub(crate) fn exports_of(&self, volume: &str) -> Vec<String> {
        let pages = self.book.read();
        let found = pages.volumes().find(|(_, entry)| entry.name == volume);
        let tail = found.map(|(group, entry)| target_tail(group, entry));
        let (target, lun) = tail.unwrap_or_else(|| (volume.to_owned(), 0));
        self.exports_named(volume, (&target, lun))
    }

    pub(super) fn exports_named(&self, export: &str, (target, lun): (&str, u8)) -> Vec<String> {
        self.nbd_uris
            .iter()
            .map(|uri| match uri.split_once("?") {
                Some((before, after)) => format!("{before}{export}?{after}"),
                None => format!("{uri}{export}"),
            })
            .chain(self.iscsi_uris.iter().map(|uri| format!("{uri}{target}/{lun}")))
            .collect()
    }

    /// Makes a volume, in a new group or in one that exists.
    ///
    /// # Errors
    /// [`Code::Invalid`], [`Code::BadSize`], [`Code::Exists`], or the pool's.
    pub(crate) async fn create_volume(&self, wanted: VolumeCreate) -> Result<Volume, Refused> {
        let group_name = wanted.group.clone().unwrap_or_else(|| wanted.name.clone());
        check_name(&wanted.name)?;
        check_name(&group_name)?;
        match wanted.bytes {
            Some(bytes) => check_size(bytes)?,
            None if wanted.from.is_some() => {}
            None => return Err(Refused::new(Code::BadSize, "a new volume needs a size")),
        }
        access::check(&wanted.settings).map_err(|why| Refused::new(Code::Invalid, why))?;
        let _alone = self.change_alone().await;
        let pages = self.book.read();
        if let Some(peer) = wanted.part_of {
            return self.create_part((peer, &group_name), wanted).await;
        }
        if pages.volume(&wanted.name).is_some() {
            let detail = format!("a volume {:?} exists here", wanted.name);
            return Err(Refused::new(Code::Exists, detail));
        }
        if let Some(from) = wanted.from.clone() {
            return self.create_clone(&from, wanted).await;
        }
        if let Some(group) = pages.group(&group_name).cloned() {
            if wanted.group.is_none() {
                let detail = format!("a group {group_name:?} exists here, with other volumes");
                let next = format!("say which group it joins, as --group {group_name}");
                return Err(Refused::new(Code::Exists, detail).next(next));
            }
            return self.create_member(&group, wanted).await;
        }
        let new = NewGroup {
            group: GroupId::from_uuid(Uuid::now_v7()),
            name: group_name,
            volumes: vec![NewVolume {
                volume: VolumeId::from_uuid(Uuid::now_v7()),
                name: wanted.name.clone(),
                bytes: wanted.bytes.unwrap_or_default(),
                settings: wanted.settings,
                origin: None,
            }],
        };
        self.create_group(new).await?;
        self.events.tell("volume", &wanted.name, "created");
        self.volume(&wanted.name).await
    }

    /// Makes a volume that joins a group.
    async fn create_member(
        &self,
        group: &GroupEntry,
        wanted: VolumeCreate,
    ) -> Result<Volume, Refused> {
        self.require_room(group).await?;
        let entry = VolumeEntry {
            id: Uuid::now_v7(),
            name: wanted.name.clone(),
            settings: wanted.settings.clone(),
            lun: None,
            initiator_luns: BTreeMap::new(),
        };
        let id = VolumeId::from_uuid(entry.id);
        let new = NewVolume {
            volume: id,
            name: wanted.name,
            bytes: wanted.bytes.unwrap_or_default(),
            settings: wanted.settings,
            origin: None,
        };
        self.make_volumes(vec![new]).await?;
        if let Err(refused) = self.enlist(group, &entry, None).await {
            self.remove_from_pool(id).await?;
            return Err(refused);
        }
        self.events.tell("volume", &entry.name, "created");
        self.volume(&entry.name).await
    }

    /// Makes volumes in the pool, durably. Nobody knows them yet.
    ///
    /// # Errors
    /// [`Code::QuotaReached`], or the pool's, with the name of the volume.
    pub(crate) async fn make_volumes(&self, new: Vec<NewVolume>) -> Result<(), Refused> {
        self.require_quota(new.len() as u64, new.iter().map(|volume| volume.bytes).sum())?;
        let created = self.clock.unix_s();
        for volume in &new {
            self.clear_leftovers(volume).await?;
            let volume = volume.clone();
            let name = volume.name.clone();
            let made = self.on_pool(move |pool| {
                pool.create_volume(VolumeRecord {
                    id: volume.volume,
                    name: volume.name,
                    bytes: volume.bytes,
                    created,
                    origin: volume.origin,
                })
            });
            made.await.map_err(|refused| {
                let Refused(mut problem) = refused;
                problem.detail = format!("volume {name}: {}", problem.detail);
                Refused(problem)
            })?;
        }
        Ok(())
    }

    /// A creation that was cut short left a volume that the book never knew, so nobody was ever told of
    /// it. It gives way to the one that is made under its name now, and what was kept for it is let go.
    async fn clear_leftovers(&self, new: &NewVolume) -> Result<(), Refused> {
        let known: HashSet<VolumeId> =
            self.book.read().volumes().map(|(_, v)| VolumeId::from_uuid(v.id)).collect();
        for left in self.pool.volumes().into_iter().filter(|left| !known.contains(&left.id)) {
            if new.name == left.name || new.volume == left.id {
                tracing::warn!(volume = left.name, id = %left.id, "removing a half made volume");
                self.remove_from_pool(left.id).await?;
            }
        }
        Ok(())
    }

    /// Makes a group that begins here and its volumes, durably, and opens it. The caller holds the right to change.
    ///
    /// # Errors
    /// The pool's or the ledger's; the pool may hold volumes that nobody knows then.
    pub(crate) async fn create_group(&self, new: NewGroup) -> Result<(), Refused> {
        let entry = GroupEntry {
            id: new.group.uuid(),
            name: new.name.clone(),
            volumes: new
                .volumes
                .iter()
                .map(|volume| VolumeEntry {
                    id: volume.volume.uuid(),
                    name: volume.name.clone(),
                    settings: volume.settings.clone(),
                    lun: None,
                    initiator_luns: BTreeMap::new(),
                })
                .collect(),
        };
        let volumes: Vec<VolumeId> = new.volumes.iter().map(|volume| volume.volume).collect();
        let generation = Generation::from_uuid(Uuid::now_v7());
        let record = mirror::found_primary(new.group, &new.name, volumes, generation);
        self.make_volumes(new.volumes).await?;
        self.book
            .change(vec![record], |pages| {
                pages.groups.push(entry.clone());
                Ok::<(), Refused>(())
            })
            .await?;
        self.open_group(entry).await
    }

    /// Does something to the pool that waits for the disk.
    pub(super) async fn on_pool(
        &self,
        work: impl FnOnce(&store::Pool) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), Refused> {
        let pool = Arc::clone(&self.pool);
        match self.tasks.spawn_blocking(move || work(&pool)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Refused::new(Code::Internal, error.to_string())),
        }
    }

    /// Opens a group on its shard; why it could not be is remembered.
    ///
    /// # Errors
    /// [`Code::NotOpened`].
    pub(crate) async fn open_group(&self, entry: GroupEntry) -> Result<(), Refused> {
        let group = entry.group();
        let shard = self.shard_of(group).clone();
        let opened = shard.run(move |state| async move { state.open(&entry) }).await;
        let why = match opened {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(silent) => Some(silent.to_string()),
        };
        let mut reasons = self.not_opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match why {
            None => {
                reasons.remove(&group);
                Ok(())
            }
            Some(why) => {
                reasons.insert(group, why.clone());
                Err(Refused::new(Code::NotOpened, why))
            }
        }
    }

    /// Deletes a volume and its group.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::VolumeInUse`] while it has sessions or follows a primary;
    /// [`Code::FillsAnother`].
    pub(crate) async fn delete_volume(&self, name: &str) -> Result<(), Refused> {
        let _alone = self.change_alone().await;
        let (group, volume) = self.find_volume(name)?;
        require_own_group(&group, &volume)?;
        self.require_fills_nobody(&volume.name, VolumeId::from_uuid(volume.id))?;
        self.require_in_no_pair(&volume.name)?;
        let status = self.status_of(group.group()).await?;
        if !status.legs.is_empty() {
            let sites: Vec<&str> = status.legs.iter().map(|leg| leg.site.as_str()).collect();
            let detail = format!("it is mirrored to {}", sites.join(", "));
            return Err(Refused::new(Code::VolumeInUse, detail));
        }
        if let Some(upstream) = status.upstream.as_ref().filter(|_| status.role == Role::Secondary)
            && upstream.link == mirror::LinkState::Connected
        {
            let detail = format!("it is a mirror of {}: delete the session there", upstream.site);
            return Err(Refused::new(Code::VolumeInUse, detail));
        }
        let group_id = group.group();
        let shard = self.shard_of(group_id).clone();
        let hosts = shard.call(move |state| state.users_of(group_id)).await?;
        if hosts > 0 {
            let detail = format!("{hosts} hosts are attached");
            return Err(Refused::new(Code::VolumeInUse, detail));
        }
        let id = VolumeId::from_uuid(volume.id);
        self.refuse_locked(group_id, &[id]).await?;
        shard.run(move |state| async move { state.shut(group_id).await }).await?;
        self.book
            .change(gone_with_volumes(&group), |pages| {
                pages.groups.retain(|other| other.id != group.id);
                pages.backups.fills.retain(|fill| fill.group != group.id);
                Ok::<(), Refused>(())
            })
            .await?;
        self.board.remove(group_id);
        self.remove_from_pool(id).await?;
        self.events.tell("volume", &volume.name, "deleted");
        Ok(())
    }

    /// Whoever still holds the volume lets it go within moments: connections that are ending.
    /// What was kept for it elsewhere is let go first; if that cannot be now, the next start does both.
    pub(crate) async fn remove_from_pool(&self, volume: VolumeId) -> Result<(), Refused> {
        if let Err(refused) = self.let_go_of_origin(volume).await {
            let why = refused.0.detail;
            tracing::warn!(%volume, why, "its origin is let go at the next start");
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let pool = Arc::clone(&self.pool);
            let outcome = self.tasks.spawn_blocking(move || pool.delete_volume(volume)).await;
            match outcome {
                Ok(Err(StoreError::Busy { .. })) if tries < DELETE_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(DELETE_PAUSE).await;
                }
                Ok(result) => {
                    self.targets.unneeded.notify_one();
                    return Ok(result?);
                }
                Err(error) => return Err(Refused::new(Code::Internal, error.to_string())),
            }
        }
    }

    /// Makes a volume longer: mirrors first.
    ///
    /// # Errors
    /// [`Code::BadSize`], [`Code::QuotaReached`], or the group's refusal.
    pub(crate) async fn grow_volume(&self, name: &str, bytes: u64) -> Result<Volume, Refused> {
        check_size(bytes)?;
        let (group, volume) = self.find_volume(name)?;
        let id = VolumeId::from_uuid(volume.id);
        let before = self.pool.volume(id).map_or(0, |volume| volume.bytes);
        self.require_quota(0, bytes.saturating_sub(before))?;
        self.command(group.group(), Command::Grow { volume: id, bytes }).await?;
        self.events.tell("volume", &volume.name, format!("grown to {bytes} bytes"));
        self.volume(name).await
    }

    /// Changes who may attach a volume. Hosts that are attached stay.
    ///
    /// # Errors
    /// [`Code::Invalid`], [`Code::NotFound`].
    pub(crate) async fn set_volume(
        &self,
        name: &str,
        settings: VolumeSettings,
    ) -> Result<Volume, Refused> {
        access::check(&settings).map_err(|why| Refused::new(Code::Invalid, why))?;
        let (group, volume) = self.find_volume(name)?;
        self.book
            .change(Vec::new(), |pages| {
                if let Some(entry) = pages.volumes_mut().find(|entry| entry.id == volume.id) {
                    entry.settings = settings.clone();
                }
                Ok::<(), Refused>(())
            })
            .await?;
        self.grow_sessions(group.group());
        self.events.tell("volume", &volume.name, "access settings changed");
        self.volume(name).await
    }
}

/// # Errors
/// [`Code::BadSize`] for a size that no volume can have.
pub(crate) fn check_size(bytes: u64) -> Result<(), Refused> {
    match Geometry::new(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refused::new(Code::BadSize, format!("{bytes}: {error}"))),
    }
}
