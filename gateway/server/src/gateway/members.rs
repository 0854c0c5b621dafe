//! Which volumes a group has: made of volumes that exist, joined, left, taken apart.
//!
//! Invariant: what the book says of a group's volumes and what the group's own record says of them
//! change in one record. A volume is in one group at any moment, and its content is never touched
//! by a change of groups here.

use std::collections::HashSet;
use std::sync::PoisonError;

use api::{Code, Group, GroupCreate};
use block::{Generation, GroupId, VolumeId};
use bytes::Bytes;
use mirror::{GROUP_VOLUMES_MAX, Role};
use uuid::Uuid;

use super::Gateway;
use crate::book::{GroupEntry, Pages, VolumeEntry};
use crate::names::is_name;
use crate::refusal::Refused;

/// A group that was closed a moment ago lets its volumes go within a second.
const OPEN_TRIES_MAX: u32 = 20;
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

type Records = Vec<(String, Option<Bytes>)>;

/// # Errors
/// [`Code::Invalid`] for a name that nothing can have.
pub(crate) fn check_name(name: &str) -> Result<(), Refused> {
    if is_name(name) {
        return Ok(());
    }
    let detail = format!("{name:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -");
    Err(Refused::new(Code::Invalid, detail))
}

/// A name for the group of one volume: its own, or that with a number if it is taken. `leaves` is
/// the group that gives its name up in the same moment.
pub(crate) fn own_name(pages: &Pages, volume: &str, leaves: Option<Uuid>) -> String {
    let taken: HashSet<&str> = pages
        .groups
        .iter()
        .filter(|group| Some(group.id) != leaves)
        .map(|group| group.name.as_str())
        .collect();
    let numbered = (2u32..).map(|n| {
        let number = format!("-{n}");
        // A name has 64 characters at most.
        let room = 64usize.saturating_sub(number.len()).min(volume.len());
        format!("{}{number}", &volume[..room])
    });
    let mut names = std::iter::once(volume.to_owned()).chain(numbered);
    names.find(|name| !taken.contains(name.as_str())).unwrap_or_else(|| volume.to_owned())
}

fn gone(group: &GroupEntry) -> (String, Option<Bytes>) {
    (mirror::Group::record_key(group.group()), None)
}

/// What the ledger keeps of a group and of its volumes, as it is when they are deleted together.
pub(super) fn gone_with_volumes(group: &GroupEntry) -> Records {
    let mut records = vec![gone(group), (mirror::Group::points_key(group.group()), None)];
    for id in group.volume_ids() {
        records.push((mirror::Group::snapshots_key(id), None));
        records.push((mirror::Group::attributes_key(id), None));
    }
    records
}

/// Whether a volume shares its group with no other one.
///
/// # Errors
/// [`Code::InGroup`].
pub(super) fn require_own_group(group: &GroupEntry, volume: &VolumeEntry) -> Result<(), Refused> {
    if group.volumes.len() <= 1 {
        return Ok(());
    }
    let (count, of) = (group.volumes.len(), &group.name);
    let detail = format!("{} is one of {count} volumes of group {of}", volume.name);
    let next = format!("twinspan group remove {of} {}", volume.name);
    Err(Refused::new(Code::InGroup, detail).next(next))
}

impl Gateway {
    /// Opens a group whose volumes somebody had open until a moment ago.
    ///
    /// # Errors
    /// [`Code::NotOpened`].
    pub(crate) async fn open_group_soon(&self, entry: &GroupEntry) -> Result<(), Refused> {
        let mut tries = 0;
        loop {
            match self.open_group(entry.clone()).await {
                Err(_busy) if tries < OPEN_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Closes a group in good order and forgets what it said.
    ///
    /// # Errors
    /// [`Code::ShardSilent`].
    pub(crate) async fn shut_group(&self, group: GroupId) -> Result<(), Refused> {
        let shard = self.shard_of(group).clone();
        shard.run(move |state| async move { state.shut(group).await }).await?;
        self.board.remove(group);
        Ok(())
    }

    /// A group as an operator is told, by its identity.
    async fn told(&self, group: GroupId) -> Result<Group, Refused> {
        let entry = self.find_group(&group.uuid().to_string())?;
        Ok(Self::show_group(&entry, &self.look_at(group).await))
    }

    /// The group of a volume that may go to another group: its own, not mirrored, without hosts.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InGroup`], [`Code::VolumeInUse`], [`Code::NotPrimary`],
    /// [`Code::Filling`], [`Code::VolumeRestoring`], [`Code::RollingBack`].
    async fn find_movable(&self, name: &str) -> Result<(GroupEntry, VolumeEntry), Refused> {
        let (group, volume) = self.find_volume(name)?;
        require_own_group(&group, &volume)?;
        self.require_filled(&group)?;
        // What is half done is noted of its group, and would be forgotten with that.
        self.require_not_restoring(&[volume.id])?;
        let status = self.status_of(group.group()).await?;
        if status.role != Role::Primary {
            let detail = format!("{} is not served here: it cannot join a group", volume.name);
            return Err(Refused::new(Code::NotPrimary, detail));
        }
        if !status.legs.is_empty() {
            let sites: Vec<&str> = status.legs.iter().map(|leg| leg.site.as_str()).collect();
            let detail = format!("{} is mirrored to {} by itself", volume.name, sites.join(", "));
            let next = format!("twinspan session delete {}", volume.name);
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.require_no_hosts(group.group(), &volume.name).await?;
        Ok((group, volume))
    }

    pub(super) async fn require_no_hosts(&self, group: GroupId, what: &str) -> Result<(), Refused> {
        let shard = self.shard_of(group).clone();
        let hosts = shard.call(move |state| state.users_of(group)).await?;
        if hosts == 0 {
            return Ok(());
        }
        let detail = format!("{hosts} hosts are attached to {what}");
        Err(Refused::new(Code::VolumeInUse, detail).next("detach them first, and again after"))
    }

    /// Makes a group of volumes that exist.
    ///
    /// # Errors
    /// [`Code::Invalid`], [`Code::Exists`], [`Code::GroupFull`], and those of a volume that may not
    /// leave the group it is in.
    pub(crate) async fn make_group(&self, wanted: &GroupCreate) -> Result<Group, Refused> {
        check_name(&wanted.name)?;
        let count = wanted.volumes.len();
        if count == 0 {
            let detail = "a group has at least one volume: name it with --volume";
            return Err(Refused::new(Code::Invalid, detail));
        }
        if count > GROUP_VOLUMES_MAX {
            let detail = format!("{count} volumes; a group has at most {GROUP_VOLUMES_MAX}");
            return Err(Refused::new(Code::GroupFull, detail));
        }
        let _alone = self.change_alone().await;
        let mut before: Vec<GroupEntry> = Vec::new();
        let mut volumes: Vec<VolumeEntry> = Vec::new();
        for name in &wanted.volumes {
            let (group, volume) = self.find_movable(name).await?;
            if volumes.iter().any(|other| other.id == volume.id) {
                let detail = format!("volume {} is named twice", volume.name);
                return Err(Refused::new(Code::Invalid, detail));
            }
            before.push(group);
            volumes.push(volume);
        }
        if let Some(taken) = self.book.read().group(&wanted.name)
            && !before.iter().any(|group| group.id == taken.id)
        {
            let detail = format!("a group {:?} exists here", wanted.name);
            return Err(Refused::new(Code::Exists, detail));
        }
        let entry = GroupEntry { id: Uuid::now_v7(), name: wanted.name.clone(), volumes };
        let made = self.regroup(&before, std::slice::from_ref(&entry)).await;
        made?;
        self.events.tell("group", &entry.name, format!("made of {count} volumes"));
        self.told(entry.group()).await
    }

    /// Takes a group apart: each of its volumes goes on in a group of its own.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::VolumeInUse`] while it is mirrored or attached,
    /// [`Code::LastVolume`], [`Code::NotPrimary`], [`Code::VolumeRestoring`], [`Code::RollingBack`].
    pub(crate) async fn delete_group(&self, name: &str) -> Result<(), Refused> {
        let _alone = self.change_alone().await;
        let group = self.find_group(name)?;
        if let [only] = group.volumes.as_slice() {
            let detail = format!("{} is the own group of volume {}", group.name, only.name);
            let next = format!("twinspan volume delete {}", only.name);
            return Err(Refused::new(Code::LastVolume, detail).next(next));
        }
        self.require_whole(group.id)?;
        let status = self.status_of(group.group()).await?;
        if status.role != Role::Primary {
            return Err(Refused::from(mirror::Refusal::NotPrimary));
        }
        if let Some(leg) = status.legs.first() {
            let detail = format!("group {} is mirrored to {}", group.name, leg.site);
            let next = format!("twinspan session delete {}:{}", group.name, leg.site);
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.require_no_hosts(group.group(), &group.name).await?;
        let mut pages = Pages::clone(&self.book.read());
        let mut after = Vec::new();
        for volume in &group.volumes {
            let name = own_name(&pages, &volume.name, Some(group.id));
            let own = GroupEntry { id: Uuid::now_v7(), name, volumes: vec![volume.clone()] };
            pages.groups.push(own.clone());
            after.push(own);
        }
        self.regroup(std::slice::from_ref(&group), &after).await?;
        self.events.tell("group", &group.name, "taken apart");
        Ok(())
    }

    /// Deletes what is left here of a group that cannot be opened, as when its files are gone.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::VolumeInUse`] while it is open, [`Code::ShardSilent`], or the
    /// pool's: the group is forgotten then, and its volumes are cleared away when others of their
    /// names are made.
    pub(crate) async fn give_up_group(&self, name: &str) -> Result<(), Refused> {
        let _alone = self.change_alone().await;
        let entry = self.find_group(name)?;
        let group = entry.group();
        let shard = self.shard_of(group).clone();
        if shard.call(move |state| state.status(group).is_some()).await? {
            let detail = format!("group {} is open: nothing of it is lost", entry.name);
            let next = format!("twinspan group delete {}", entry.name);
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        for volume in &entry.volumes {
            self.require_fills_nobody(&volume.name, VolumeId::from_uuid(volume.id))?;
        }
        let ids = entry.volume_ids();
        self.refuse_locked(group, &ids).await?;
        self.book
            .change(gone_with_volumes(&entry), |pages| {
                pages.groups.retain(|other| other.id != entry.id);
                Ok::<(), Refused>(())
            })
            .await?;
        self.board.remove(group);
        self.not_opened.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        self.events.tell("group", &entry.name, "given up here: its copy was lost");
        for volume in ids.into_iter().filter(|volume| self.pool.volume(*volume).is_some()) {
            self.remove_from_pool(volume).await?;
        }
        Ok(())
    }

    /// Closes groups, and opens others of the same volumes, as their primary. If it cannot be
    /// recorded, the groups are what they were.
    pub(super) async fn regroup(
        &self,
        before: &[GroupEntry],
        after: &[GroupEntry],
    ) -> Result<(), Refused> {
        for group in before {
            self.shut_group(group.group()).await?;
        }
        let mut records: Records = before.iter().map(gone).collect();
        let points = before.iter().map(|of| (mirror::Group::points_key(of.group()), None));
        records.extend(points);
        records.extend(after.iter().map(|entry| {
            let generation = Generation::from_uuid(Uuid::now_v7());
            mirror::found_primary(entry.group(), &entry.name, entry.volume_ids(), generation)
        }));
        let changed = self.book.change(records, |pages| {
            pages.groups.retain(|group| !before.iter().any(|other| other.id == group.id));
            pages.groups.extend(after.iter().cloned());
            Ok::<(), Refused>(())
        });
        let changed = changed.await;
        let now = if changed.is_ok() { after } else { before };
        for entry in now {
            self.open_group_soon(entry).await?;
        }
        changed
    }

    /// A volume that has a group of its own joins a group, which may be mirrored and attached.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::GroupFull`], those of a volume that may not leave the group it is
    /// in, and the group's refusal.
    pub(crate) async fn join_group(&self, group: &str, volume: &str) -> Result<Group, Refused> {
        let _alone = self.change_alone().await;
        let group = self.find_group(group)?;
        let (own, entry) = self.find_volume(volume)?;
        if own.id == group.id {
            return self.told(group.group()).await;
        }
        let (own, entry) = self.find_movable(&entry.id.to_string()).await?;
        self.require_room(&group).await?;
        self.shut_group(own.group()).await?;
        let joined = self.enlist(&group, &entry, Some(&own)).await;
        if let Err(refused) = joined {
            self.open_group_soon(&own).await?;
            return Err(refused);
        }
        self.told(group.group()).await
    }

    /// Whether a volume may join: asked before anything is closed or made.
    pub(crate) async fn require_room(&self, group: &GroupEntry) -> Result<(), Refused> {
        if group.volumes.len() >= GROUP_VOLUMES_MAX {
            return Err(Refused::from(mirror::Refusal::TooManyVolumes));
        }
        let status = self.status_of(group.group()).await?;
        match status.role {
            Role::Primary => Ok(()),
            Role::Secondary | Role::Fenced => Err(Refused::from(mirror::Refusal::NotPrimary)),
        }
    }

    /// A volume of the pool that is open nowhere joins a group. The caller holds the right to
    /// change.
    ///
    /// # Errors
    /// The group's refusal, or the ledger's; nothing was changed.
    pub(crate) async fn enlist(
        &self,
        group: &GroupEntry,
        volume: &VolumeEntry,
        own: Option<&GroupEntry>,
    ) -> Result<(), Refused> {
        let id = group.group();
        let joining = (VolumeId::from_uuid(volume.id), volume.name.clone());
        let shard = self.shard_of(id).clone();
        let mut records: Records = own.into_iter().map(gone).collect();
        self.book
            .change_by(
                |pages| {
                    pages.groups.retain(|other| own.is_none_or(|own| own.id != other.id));
                    let entry = pages.groups.iter_mut().find(|other| other.id == group.id);
                    let missing = || Refused::new(Code::NotFound, "the group is gone");
                    entry.ok_or_else(missing)?.volumes.push(volume.moved());
                    Ok(())
                },
                async |page| {
                    records.push(page);
                    shard
                        .run(move |state| async move { state.enlist(id, joining, records).await })
                        .await?
                },
            )
            .await?;
        self.events.tell("group", &group.name, format!("volume {} joined", volume.name));
        Ok(())
    }

    /// A volume leaves a group, which may be mirrored and attached, and goes on in one of its own,
    /// not mirrored.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::LastVolume`], [`Code::VolumeInUse`] while hosts are attached to
    /// the volume, [`Code::VolumeRestoring`], and the group's refusal.
    pub(crate) async fn leave_group(&self, group: &str, volume: &str) -> Result<Group, Refused> {
        let _alone = self.change_alone().await;
        let group = self.find_group(group)?;
        let (of, entry) = self.find_volume(volume)?;
        if of.id != group.id {
            let detail = format!("volume {} is in group {}", entry.name, of.name);
            return Err(Refused::new(Code::NotFound, detail));
        }
        // One that is not being restored may go: it may be what stands in the way of going back.
        self.require_no_restore(&[entry.id])?;
        let name = own_name(&self.book.read(), &entry.name, None);
        let own = GroupEntry { id: Uuid::now_v7(), name, volumes: vec![entry.moved()] };
        let (id, leaving) = (group.group(), VolumeId::from_uuid(entry.id));
        let to = (own.group(), own.name.clone());
        let shard = self.shard_of(id).clone();
        self.book
            .change_by(
                |pages| {
                    for other in pages.groups.iter_mut().filter(|other| other.id == group.id) {
                        other.volumes.retain(|volume| volume.id != entry.id);
                    }
                    pages.groups.push(own.clone());
                    Ok(())
                },
                async |page| {
                    shard
                        .run(move |state| async move {
                            state.dismiss(id, leaving, to, vec![page]).await
                        })
                        .await?
                },
            )
            .await?;
        let text = format!("volume {} left, to group {}", entry.name, own.name);
        self.events.tell("group", &group.name, text);
        self.open_group_soon(&own).await?;
        self.told(id).await
    }
}
