//! Giving back what no backup needs, while others take, read and remove backups.
//!
//! Nobody waits for anybody, nobody's clock is believed, and the store is asked for two things
//! only: a put that fails if the key is there, and lists that show what was put before they began.
//!
//! A run, a reader and a remover do, in this order:
//!
//! ```text
//!   run       put pin X naming parents ─▶ parent has no mark, has a manifest ─▶ packs, maps
//!             ─▶ put manifest X if new ─▶ remove pin X
//!   reader    put pin naming backup ─▶ backup has no mark, has a manifest ─▶ read ─▶ remove pin
//!   remover   put mark `removed/P`
//! ```
//!
//! A collection does:
//!
//! ```text
//!   1 objects   list packs and maps: only these may go
//!   2 marks     list `removed/`: only these backups may be dead
//!   3 pins      list
//!   4 manifests list and read; those with a mark of 2 are dead, unless they are locked or pinned
//!   5 pins      list again, and read those of 3 and 5
//!   6           remove the objects of 1 that no living manifest names and whose maker has no pin
//!               of 3 or 5; then the dead manifests; then their locks and marks
//! ```
//!
//! Why nothing goes that a backup needs. Let run X put its manifest, and let it name an object o of
//! list 1. If X's manifest was there at step 4, o is named by a living manifest, or X is dead by a
//! mark of 2, which is put only on what is complete and wanted by nobody. Else X's manifest comes
//! after step 4, and its pin was there until then.
//!
//! *X made o.* X's pin was put before o, so before list 1, and was still there at step 3. X has a
//! pin of 3, and o stays.
//!
//! *X has o from its parent P*, whose manifest it read after its own pin was put. Say P's manifest
//! was there at step 4. If X has a pin of 3 or 5, P is pinned and lives. If it has not, its pin was
//! put after step 3 (one put before would still be there), so X looked for a mark on P after
//! step 2 and found none: P is not dead by a mark of 2. Either way P lives and names o. Say P's
//! manifest was not there at step 4: then P too is a run whose manifest comes after step 4, and the
//! same is said of P in X's place; P was complete before X was, so this ends.
//!
//! P's manifest being there at step 4 is more than its having been put: another collection may
//! have swept it before. That one had P's mark in its list 2. X found no mark on P, so the mark was
//! put after X's pin, and that collection's lists of pins came later still. It did not see X's pin,
//! or it would have kept P; so X's manifest had been put by then, and is in our list of step 4.
//! And where a manifest of our list is gone when it is to be read, the lists are too old to say
//! what is needed, and the collection begins anew.
//!
//! A look for a mark comes before the look for a manifest, and marks go after manifests, so whoever
//! finds no mark and a manifest knows that there was no mark.
//!
//! A run that was killed before it stored anything may not have looked for marks yet: it does so when
//! it is resumed, and where it finds one it is given up. Its pin may have come too late for a
//! collection that removes what the parent names at that moment, or was killed half way through.
//!
//! A run that was killed keeps its pin, and with it what it stored and what it builds upon, until
//! it is resumed or abandoned. To abandon is to put a mark in its manifest's place, under the
//! condition that the place is free: if the run is alive after all it finds the place taken and
//! fails with a clear error. So it is never wrong to abandon, only a pity, and no time-out decides
//! about anything.
//!
//! A manifest or map of a living backup that cannot be read ends a collection before anything is
//! removed, because what it needs is not known.
//!
//! Invariant: nothing is removed before everything that could need it was read.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::BackupId;
use crate::bucket::{Kept, Listed};
use crate::error::BackupError;
use crate::format::{Content, Manifest, MapRef};
use crate::id::PackRef;
use crate::layout;
use crate::limits::{LOADS, REMOVALS};
use crate::repository::Repository;
use crate::watch::Watch;

/// How often the lists are made anew when something of them is gone before it was read.
const PLANS: usize = 3;

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects that went.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Backups that were removed and are gone now.
    pub gone: Vec<BackupId>,
    /// Backups that were removed and are still needed, or locked.
    pub kept: Vec<BackupId>,
    /// Who is taking or reading backups, or was and neither went on nor gave up: the name of the
    /// pin and of the gateway.
    pub pins: Vec<(BackupId, String)>,
    /// Objects that stay because backups need them, and their bytes.
    pub needed_objects: u64,
    /// Their bytes.
    pub needed_bytes: u64,
    /// Objects that were to go, and that the store keeps.
    pub refused: u64,
    /// One of them, and what the store said.
    pub refusal: Option<(String, String)>,
}

// === impl Collected ===

impl Collected {
    /// What the store keeps though no backup needs it, in words: what, why, and what to do next.
    #[must_use]
    pub fn refused_words(&self) -> Option<String> {
        let (key, why) = self.refusal.as_ref()?;
        Some(format!(
            "{} objects stay that the store refuses to remove, as {key}: {why}. They go with the \
             first collection after a retention of the bucket ends; if it has none, give \
             credentials that may delete",
            self.refused
        ))
    }

    fn note(&mut self, kept: Kept) {
        self.refused += 1;
        self.refusal.get_or_insert((kept.key, kept.why));
    }
}

/// What a collection is going to do.
#[derive(Debug, Default)]
struct Plan {
    collected: Collected,
    garbage: Vec<Listed>,
    over: Vec<BackupId>,
}

/// What lists of one moment say.
struct Lists {
    objects: Vec<Listed>,
    marks: BTreeSet<BackupId>,
    pins: BTreeSet<BackupId>,
}

impl Repository {
    /// Removes what no backup needs. What the store keeps by a rule of its own is told, keeps nothing
    /// else from going, and is asked for again by the next collection.
    ///
    /// # Errors
    /// [`BackupError::Missing`], [`BackupError::Damaged`] or [`BackupError::Newer`] when a living
    /// backup cannot be read, and then nothing was removed; or what the store says.
    ///
    /// # Cancellation
    /// What was removed is gone; the rest goes with the next collection.
    pub async fn collect(&self, now: Timestamp, watch: &Watch) -> Result<Collected, BackupError> {
        let Plan { mut collected, garbage, over } = self.plan(now, watch).await?;
        for objects in garbage.chunks(REMOVALS) {
            watch.check()?;
            let keys: Vec<String> = objects.iter().map(|object| object.key.clone()).collect();
            for kept in self.bucket.remove_all(&keys).await? {
                let object = objects.iter().find(|object| object.key == kept.key);
                collected.objects -= 1;
                collected.bytes -= object.map_or(0, |object| object.bytes);
                collected.note(kept);
            }
        }
        for id in std::mem::take(&mut collected.gone) {
            watch.check()?;
            let is_gone = self.remove_manifest(id, &mut collected).await?;
            let among = if is_gone { &mut collected.gone } else { &mut collected.kept };
            among.push(id);
        }
        for id in &over {
            let kept = self.bucket.remove(&layout::pin(*id)).await?;
            kept.into_iter().for_each(|kept| collected.note(kept));
        }
        Ok(collected)
    }

    /// Removes the manifest of a backup that is dead, then its locks, then its mark; says whether the
    /// manifest went. While something of it is there the mark stays, so that nobody takes it for living
    /// and the next collection goes on with it.
    async fn remove_manifest(
        &self,
        id: BackupId,
        collected: &mut Collected,
    ) -> Result<bool, BackupError> {
        if let Some(kept) = self.bucket.remove(&layout::manifest(id)).await? {
            collected.note(kept);
            return Ok(false);
        }
        let before = collected.refused;
        for lock in self.bucket.list(&layout::locks(id)).await? {
            let kept = self.bucket.remove(&lock.key).await?;
            kept.into_iter().for_each(|kept| collected.note(kept));
        }
        if collected.refused == before {
            let kept = self.bucket.remove(&layout::removed(id)).await?;
            kept.into_iter().for_each(|kept| collected.note(kept));
        }
        Ok(true)
    }

    /// What a collection would do now.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect).
    ///
    /// # Cancellation
    /// Changes nothing.
    pub async fn collectable(
        &self,
        now: Timestamp,
        watch: &Watch,
    ) -> Result<Collected, BackupError> {
        Ok(self.plan(now, watch).await?.collected)
    }

    async fn plan(&self, now: Timestamp, watch: &Watch) -> Result<Plan, BackupError> {
        for _ in 1..PLANS {
            match self.plan_once(now, watch).await {
                // Swept by another collection since it was listed, or lost; the next lists tell.
                Err(BackupError::Missing { .. }) => {}
                plan => return plan,
            }
        }
        self.plan_once(now, watch).await
    }

    async fn plan_once(&self, now: Timestamp, watch: &Watch) -> Result<Plan, BackupError> {
        let lists = self.lists().await?;
        let present: BTreeSet<BackupId> =
            self.bucket.list_ids(layout::BACKUPS).await?.into_iter().collect();
        let marked = |id: &BackupId| lists.marks.contains(id);
        let unmarked: Vec<BackupId> = present.iter().copied().filter(|id| !marked(id)).collect();
        let mut living = self.manifests(&unmarked, watch).await?;
        let locked = self.locked(&lists.marks, now).await?;
        let later: BTreeSet<BackupId> =
            self.bucket.list_ids(layout::PINS).await?.into_iter().collect();

        let mut plan = Plan::default();
        let pins = lists.pins.union(&later).copied();
        // A run whose manifest's place is taken is over: it is complete, or was abandoned.
        let (over, pins): (Vec<BackupId>, Vec<BackupId>) =
            pins.partition(|id| present.contains(id));
        plan.over = over;
        let pinned = self.pinned(&pins, &mut plan.collected).await?;
        let is_kept = |id: &BackupId| {
            locked.contains(id) || pinned.as_ref().is_none_or(|pinned| pinned.contains(id))
        };
        let (kept, gone) = lists.marks.iter().copied().partition(is_kept);
        (plan.collected.kept, plan.collected.gone) = (kept, gone);
        let kept = plan.collected.kept.iter().copied().filter(|id| present.contains(id));
        living.extend(self.manifests(&kept.collect::<Vec<_>>(), watch).await?);

        let maps: HashSet<MapRef> = living.iter().flat_map(Manifest::maps).copied().collect();
        let packs = self.packs_of(&maps, watch).await?;
        let mut needed: HashSet<String> = maps.iter().map(layout::map).collect();
        needed.extend(packs.iter().map(layout::pack));
        let pins: BTreeSet<BackupId> = pins.into_iter().collect();
        for object in lists.objects {
            let is_being_made = layout::owner(&object.key).is_some_and(|id| pins.contains(&id));
            if is_being_made || needed.contains(&object.key) {
                plan.collected.needed_objects += 1;
                plan.collected.needed_bytes += object.bytes;
            } else {
                plan.collected.objects += 1;
                plan.collected.bytes += object.bytes;
                plan.garbage.push(object);
            }
        }
        Ok(plan)
    }

    /// Steps 1 to 3, in this order.
    async fn lists(&self) -> Result<Lists, BackupError> {
        let mut objects = self.bucket.list(layout::PACKS).await?;
        objects.extend(self.bucket.list(layout::MAPS).await?);
        let marks = self.bucket.list_ids(layout::REMOVED).await?.into_iter().collect();
        let pins = self.bucket.list_ids(layout::PINS).await?.into_iter().collect();
        Ok(Lists { objects, marks, pins })
    }

    /// These manifests, without the marks of abandoned runs.
    async fn manifests(
        &self,
        ids: &[BackupId],
        watch: &Watch,
    ) -> Result<Vec<Manifest>, BackupError> {
        let loads = ids.iter().copied().map(|id| self.manifest(id));
        let loads = futures_util::stream::iter(loads).buffer_unordered(LOADS);
        let loads = loads.try_filter_map(|manifest| async move { Ok(manifest) });
        watch.unless_cancelled(loads.try_collect()).await
    }

    /// Which of those that were removed are locked all the same.
    async fn locked(
        &self,
        marks: &BTreeSet<BackupId>,
        now: Timestamp,
    ) -> Result<BTreeSet<BackupId>, BackupError> {
        let mut dates: BTreeMap<BackupId, Timestamp> = self.locks().await?;
        for id in marks {
            let until = match self.manifest(*id).await {
                Ok(manifest) => manifest.and_then(|manifest| manifest.about.locked_until),
                Err(BackupError::Missing { .. } | BackupError::Damaged { .. }) => None,
                // It has a date that cannot be read here.
                Err(BackupError::Newer { .. } | BackupError::UnknownFeatures { .. }) => {
                    Some(Timestamp::MAX)
                }
                Err(error) => return Err(error),
            };
            if let Some(until) = until {
                let date = dates.entry(*id).or_insert(until);
                *date = (*date).max(until);
            }
        }
        dates.retain(|id, _| marks.contains(id));
        if dates.is_empty() {
            return Ok(BTreeSet::new());
        }
        let now = self.earlier_time(now).await?;
        Ok(dates.into_iter().filter(|(_, until)| *until > now).map(|(id, _)| id).collect())
    }

    /// The backups that pins name; `None` when a pin cannot be read or went away while it was
    /// looked for, so that what it named is not known.
    async fn pinned(
        &self,
        pins: &[BackupId],
        collected: &mut Collected,
    ) -> Result<Option<BTreeSet<BackupId>>, BackupError> {
        let mut pinned = Some(BTreeSet::new());
        for id in pins {
            match self.pin(*id).await {
                Ok(pin) => {
                    collected.pins.push((*id, pin.gateway));
                    pinned.iter_mut().for_each(|pinned| pinned.extend(pin.needs.iter().copied()));
                }
                Err(error @ (BackupError::Unreachable { .. } | BackupError::Refused { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, "a pin cannot be read: what was removed stays");
                    pinned = None;
                }
            }
        }
        Ok(pinned)
    }

    /// The packs that maps name.
    async fn packs_of(
        &self,
        maps: &HashSet<MapRef>,
        watch: &Watch,
    ) -> Result<HashSet<PackRef>, BackupError> {
        let loads = maps.iter().copied().map(|map| async move { self.map(&map).await });
        let mut loads = futures_util::stream::iter(loads).buffer_unordered(LOADS);
        let mut packs = HashSet::new();
        while let Some(map) = watch.unless_cancelled(async { Ok(loads.next().await) }).await? {
            packs.extend(map?.entries.iter().filter_map(|entry| match entry.content {
                Content::Chunk { place, .. } => Some(place.pack),
                Content::Zero => None,
            }));
        }
        Ok(packs)
    }
}
