//! What backups there are: read from the bucket alone, and kept up to date.
//!
//! Manifests never change, so each is read once. What cannot be read is listed with its reason; it
//! hides nothing else.
//!
//! Invariant: a backup is listed as available only if its manifest was read whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block::{SnapshotId, VolumeId};
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::BackupId;
use crate::error::BackupError;
use crate::format::{About, Manifest, Purpose};
use crate::layout;
use crate::limits::LOADS;
use crate::repository::Repository;
use crate::watch::Watch;

/// Where a backup is in its life. The names are those of the source systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It can be restored.
    Available,
    /// It is being taken, or its run was interrupted and can be resumed.
    Protecting,
    /// It is being read.
    Restoring,
    /// It was removed, and its data goes with the next collection.
    Deleting,
    /// Its manifest cannot be read; the entry says why.
    Error,
}

impl Status {
    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Protecting => "protecting",
            Self::Restoring => "restoring",
            Self::Deleting => "deleting",
            Self::Error => "error",
        }
    }

    /// Whether all of it is there, and stays: others may build upon it.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Available | Self::Restoring)
    }
}

/// A volume of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVolume {
    /// Which.
    pub id: VolumeId,
    /// Its name then.
    pub name: String,
    /// Its size then.
    pub bytes: u64,
    /// The snapshot that was read.
    pub point: SnapshotId,
    /// The backup that it was built upon; it is not needed for a restore.
    pub parent: Option<BackupId>,
    /// What it added to the store.
    pub stored_bytes: u64,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What the backup is.
    pub about: About,
    /// Its volumes.
    pub volumes: Vec<HeldVolume>,
}

/// One backup, or a run that is to become one.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which.
    pub id: BackupId,
    /// Where it is in its life.
    pub status: Status,
    /// What its manifest says, where that could be read.
    pub held: Option<Arc<Held>>,
    /// Why not.
    pub error: Option<BackupError>,
    /// Nobody removes it before.
    pub locked_until: Option<Timestamp>,
    /// The gateway that takes it, while it is being taken.
    pub gateway: Option<String>,
}

/// What is known of a repository's backups.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    now: Timestamp,
    read: BTreeMap<BackupId, Option<Arc<Held>>>,
    entries: BTreeMap<BackupId, Entry>,
}

impl Catalogue {
    /// An empty one, for backups that are taken at this moment and later.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { now, ..Self::default() }
    }

    /// Says what time it is: what is taken next is said to be of this moment.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    /// Every backup and every run, in the order of their identities.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One of them.
    #[must_use]
    pub fn entry(&self, id: BackupId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The backups that hold a volume and whose manifest could be read.
    pub fn of_volume(&self, volume: VolumeId) -> impl Iterator<Item = (&Entry, &Held)> {
        self.entries.values().filter_map(move |entry| {
            let held = entry.held.as_deref()?;
            held.volumes.iter().any(|held| held.id == volume).then_some((entry, held))
        })
    }

    pub(crate) fn ordinal_max(&self) -> u64 {
        let held = self.entries.values().filter_map(|entry| entry.held.as_ref());
        held.map(|held| held.about.ordinal).max().unwrap_or(0)
    }

    /// Reads what is new in the bucket.
    ///
    /// # Errors
    /// What the store says; a manifest that cannot be read is an entry with its error instead.
    ///
    /// # Cancellation
    /// What was read stays; the entries are as before.
    pub async fn refresh(
        &mut self,
        repository: &Repository,
        watch: &Watch,
    ) -> Result<(), BackupError> {
        let bucket = &repository.bucket;
        let pins: BTreeSet<BackupId> = bucket.list_ids(layout::PINS).await?.into_iter().collect();
        let ids: BTreeSet<BackupId> = bucket.list_ids(layout::BACKUPS).await?.into_iter().collect();
        let removed: BTreeSet<BackupId> =
            bucket.list_ids(layout::REMOVED).await?.into_iter().collect();
        let locks = repository.locks().await?;
        self.read.retain(|id, _| ids.contains(id));
        let new: Vec<BackupId> =
            ids.iter().copied().filter(|id| !self.read.contains_key(id)).collect();
        let loads = new.into_iter().map(|id| async move { (id, repository.manifest(id).await) });
        let mut loads = futures_util::stream::iter(loads).buffer_unordered(LOADS);
        let mut unread = BTreeMap::new();
        while let Some((id, manifest)) =
            watch.unless_cancelled(async { Ok(loads.next().await) }).await?
        {
            match manifest {
                Ok(manifest) => {
                    self.read.insert(id, manifest.as_ref().map(held));
                }
                // Removed and swept since it was listed.
                Err(BackupError::Missing { .. }) => {}
                Err(error @ (BackupError::Unreachable { .. } | BackupError::Refused { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    unread.insert(id, error);
                }
            }
        }
        let mut entries = BTreeMap::new();
        let pins = self.pinned(repository, &pins).await?;
        for (id, held) in &self.read {
            let Some(held) = held else { continue };
            let lock = held.about.locked_until.max(locks.get(id).copied());
            let is_locked = lock.is_some_and(|until| until > self.now);
            let status = match () {
                () if removed.contains(id) && !is_locked => Status::Deleting,
                () if pins.read.contains(id) => Status::Restoring,
                () => Status::Available,
            };
            let held = Some(Arc::clone(held));
            entries.insert(*id, entry(*id, status, held, lock));
        }
        for (id, error) in unread {
            let status = if removed.contains(&id) { Status::Deleting } else { Status::Error };
            let lock = locks.get(&id).copied();
            entries.insert(id, Entry { error: Some(error), ..entry(id, status, None, lock) });
        }
        for (id, gateway) in pins.taken {
            let running = || entry(id, Status::Protecting, None, None);
            entries.entry(id).or_insert_with(|| Entry { gateway: Some(gateway), ..running() });
        }
        self.entries = entries;
        Ok(())
    }

    /// What the pins say; one that went away meanwhile says nothing.
    async fn pinned(
        &self,
        repository: &Repository,
        pins: &BTreeSet<BackupId>,
    ) -> Result<Pinned, BackupError> {
        let mut pinned = Pinned::default();
        for id in pins {
            match repository.pin(*id).await {
                Ok(pin) if pin.purpose == Purpose::Reading => pinned.read.extend(pin.needs),
                Ok(pin) if !self.read.contains_key(id) => pinned.taken.push((*id, pin.gateway)),
                Ok(_) | Err(BackupError::Missing { .. }) => {}
                Err(error @ (BackupError::Unreachable { .. } | BackupError::Refused { .. })) => {
                    return Err(error);
                }
                Err(error) => tracing::warn!(%error, "a pin cannot be read"),
            }
        }
        Ok(pinned)
    }
}

/// What is under way.
#[derive(Default)]
struct Pinned {
    read: BTreeSet<BackupId>,
    taken: Vec<(BackupId, String)>,
}

fn entry(
    id: BackupId,
    status: Status,
    held: Option<Arc<Held>>,
    locked_until: Option<Timestamp>,
) -> Entry {
    Entry { id, status, held, error: None, locked_until, gateway: None }
}

fn held(manifest: &Manifest) -> Arc<Held> {
    let volume = |member: &crate::format::Member| HeldVolume {
        id: member.id,
        name: member.name.clone(),
        bytes: member.bytes,
        point: member.point,
        parent: member.parent,
        stored_bytes: member.stored_bytes,
    };
    let volumes = manifest.members.iter().map(volume).collect();
    Arc::new(Held { about: manifest.about.clone(), volumes })
}
