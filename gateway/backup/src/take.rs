//! Taking a backup: begun once, resumed as often as it takes, ended by one put.
//!
//! ```text
//!   pin ─▶ parents looked at ─▶ packs, maps ─▶ manifest (if new) ─▶ pin removed
//! ```
//!
//! A run is named by the backup that it is to become. Its pin tells everyone what it needs, and
//! what it was asked for. The manifest's key is what decides: whoever puts it first, the run its
//! manifest or somebody who gave the run up a mark, has the last word (see [`crate::collect`]).
//!
//! Invariant: a parent is looked at only after the pin that names it is there.

mod plan;
mod resume;
mod run;
mod uploads;

use std::sync::Arc;

use block::{GroupId, VolumeId};
use jiff::Timestamp;

use crate::BackupId;
use crate::catalogue::Catalogue;
use crate::error::BackupError;
use crate::format::{
    About, Consistency, Index, Manifest, Origin, Pin, Purpose, Wanted, WantedVolume,
};
use crate::layout;
use crate::limits::{LABELS_MAX, TEXT_BYTES_MAX, VOLUMES_MAX};
use crate::repository::Repository;
use crate::seal::Kind;
use crate::volume::Source;
use crate::watch::Watch;

pub(crate) use run::merged;
use run::{Parent, Run};

/// How often a run begins anew because what it would build upon is removed at that moment.
const BEGINNINGS: usize = 3;

/// What a backup is to be.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its identity, which the caller keeps, so that it can resume the run.
    pub id: BackupId,
    /// Its name, for people.
    pub name: String,
    /// Who asks for it.
    pub origin: Origin,
    /// The policy that asks for it.
    pub policy: Option<String>,
    /// What state the points are in.
    pub consistency: Consistency,
    /// The group whose cut the points are, and its name.
    pub group: Option<(GroupId, String)>,
    /// Anything that is to be found again.
    pub labels: Vec<(String, String)>,
    /// Nobody may remove it before.
    pub locked_until: Option<Timestamp>,
    /// Build upon nothing: everything is stored anew.
    pub full: bool,
    /// How many backups a volume may have with this one.
    pub backups_max: Option<usize>,
}

impl Request {
    /// A manual, crash-consistent, unlocked one.
    pub fn new(id: BackupId, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            origin: Origin::Manual,
            policy: None,
            consistency: Consistency::Crash,
            group: None,
            labels: Vec::new(),
            locked_until: None,
            full: false,
            backups_max: None,
        }
    }

    fn check(&self, sources: &[Arc<dyn Source>]) -> Result<(), BackupError> {
        let mut volumes: Vec<VolumeId> = sources.iter().map(|source| source.volume()).collect();
        volumes.sort_unstable();
        volumes.dedup();
        if volumes.is_empty() || volumes.len() != sources.len() || volumes.len() > VOLUMES_MAX {
            return Err(BackupError::Volumes { max: VOLUMES_MAX });
        }
        if self.labels.len() > LABELS_MAX {
            return Err(BackupError::TooLong { what: "the list of labels", max: LABELS_MAX });
        }
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let group = self.group.iter().map(|(_, name)| name);
        let texts =
            labels.chain(group).chain(self.policy.iter()).chain(std::iter::once(&self.name));
        let names: Vec<String> = sources.iter().map(|source| source.name()).collect();
        if texts.chain(&names).any(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(BackupError::TooLong { what: "a name or label", max: TEXT_BYTES_MAX });
        }
        Ok(())
    }
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub id: BackupId,
    /// What was done for each volume.
    pub volumes: Vec<TakenVolume>,
}

/// What was done for one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenVolume {
    /// Which.
    pub volume: VolumeId,
    /// The backup that it builds upon; `None` for a full one.
    pub parent: Option<BackupId>,
    /// Bytes that were read of it.
    pub read_bytes: u64,
    /// Bytes that went to the store for it: packs and maps.
    pub stored_bytes: u64,
}

/// A run whose pin is there and whose parents were looked at.
struct Begun {
    id: BackupId,
    about: About,
    /// One for each volume that builds upon another backup.
    parents: Vec<Option<Parent>>,
}

impl Repository {
    /// Takes a backup of these points, which are one cut. `catalogue` is brought up to date first.
    ///
    /// A volume builds upon its newest backup whose point the source knows; if it knows none, the
    /// volume is read whole, and what the newest backup holds is not stored again.
    ///
    /// # Errors
    /// One for which [`BackupError::is_resumable`] says so leaves what was stored; any other too,
    /// and [`abandon`](Self::abandon) gives it up.
    ///
    /// # Cancellation
    /// As for an error; by the watch's token, or by dropping the call.
    pub async fn take(
        &self,
        request: &Request,
        sources: &[Arc<dyn Source>],
        catalogue: &mut Catalogue,
        watch: &Arc<Watch>,
    ) -> Result<Taken, BackupError> {
        request.check(sources)?;
        let id = request.id;
        for _ in 0..BEGINNINGS {
            catalogue.refresh(self, watch).await?;
            let wanted = self.wanted(request, sources, catalogue)?;
            let parents = wanted.volumes.iter().filter_map(|volume| volume.parent);
            let mut needs: Vec<BackupId> = parents.map(|(id, _)| id).collect();
            needs.sort_unstable();
            needs.dedup();
            let purpose = Purpose::Taking(Box::new(wanted.clone()));
            let pin = Pin { gateway: self.gateway.to_string(), needs, purpose };
            if !self.put_pin(id, &pin).await? {
                // The answer to an earlier put was lost, or the caller begins what it began before.
                return self.resume(id, sources, watch).await;
            }
            match self.parents(&wanted, sources, true).await {
                Err(BackupError::ParentGone) => {
                    if self.bucket.remove(&layout::pin(id)).await?.is_some() {
                        // Under this name it cannot begin again: the pin says what is gone.
                        self.abandon(id).await?;
                        return Err(BackupError::ParentGone);
                    }
                }
                parents => {
                    let begun = Begun { id, about: wanted.about, parents: parents? };
                    return self.run(begun, sources, watch).await;
                }
            }
        }
        Err(BackupError::ParentGone)
    }

    /// Goes on with a run that was interrupted, from what it stored.
    ///
    /// # Errors
    /// [`BackupError::NotResumable`] when there is no such run; [`BackupError::OtherPoint`] when
    /// the sources are not the points that it was begun from; [`BackupError::ParentGone`] when it had
    /// stored nothing and what it would build upon is being removed, and then it was given up; else as
    /// for [`take`](Self::take).
    ///
    /// # Cancellation
    /// As for [`take`](Self::take).
    pub async fn resume(
        &self,
        id: BackupId,
        sources: &[Arc<dyn Source>],
        watch: &Arc<Watch>,
    ) -> Result<Taken, BackupError> {
        if let Some(manifest) = self.finished(id).await? {
            self.let_pin_go(id).await?;
            return Ok(taken(&manifest));
        }
        let pin = match self.pin(id).await {
            Err(BackupError::Missing { .. }) => return Err(BackupError::NotResumable { id }),
            pin => pin?,
        };
        let Purpose::Taking(wanted) = pin.purpose else {
            return Err(BackupError::NotResumable { id });
        };
        let mut ordered = Vec::new();
        for WantedVolume { id: volume, point, .. } in &wanted.volumes {
            let is_it =
                |source: &&Arc<dyn Source>| source.volume() == *volume && source.point() == *point;
            let other = BackupError::OtherPoint { id, volume: *volume, expected: *point };
            ordered.push(Arc::clone(sources.iter().find(is_it).ok_or(other)?));
        }
        // A kill between the pin and the look at the parents leaves it open whether the pin was in
        // time. Where nothing was stored since, they are looked at now.
        let is_beginning = self.bucket.list(&layout::packs(id)).await?.is_empty();
        let parents = match self.parents(&wanted, &ordered, is_beginning).await {
            Err(BackupError::ParentGone) => {
                self.abandon(id).await?;
                return Err(BackupError::ParentGone);
            }
            parents => parents?,
        };
        self.run(Begun { id, about: wanted.about, parents }, &ordered, watch).await
    }

    /// Gives a run up, wherever it runs; what it stored goes with the next collection. Says whether
    /// it was complete before that, in which case it is a backup like any other.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancellation
    /// A call that is dropped is to be repeated.
    pub async fn abandon(&self, id: BackupId) -> Result<bool, BackupError> {
        let mark = self.keys.seal(Kind::Void, id.uuid().as_bytes())?;
        let is_new = self.bucket.put_new(&layout::manifest(id), mark.into()).await?;
        let was_complete = !is_new && self.manifest(id).await?.is_some();
        self.let_pin_go(id).await?;
        Ok(was_complete)
    }

    /// Removes the pin of a run whose manifest's place is taken. It protects nothing any more, so one
    /// that the store keeps is a later collection's to remove.
    async fn let_pin_go(&self, id: BackupId) -> Result<(), BackupError> {
        if let Some(kept) = self.bucket.remove(&layout::pin(id)).await? {
            tracing::info!(key = kept.key, why = kept.why, "the store keeps a pin that is over");
        }
        Ok(())
    }

    /// What the run wants, by what is known now.
    fn wanted(
        &self,
        request: &Request,
        sources: &[Arc<dyn Source>],
        catalogue: &Catalogue,
    ) -> Result<Wanted, BackupError> {
        let mut volumes = Vec::new();
        for source in sources {
            let volume = source.volume();
            let mut others: Vec<_> = catalogue
                .of_volume(volume)
                .filter(|(entry, _)| entry.id != request.id && entry.status.is_whole())
                .collect();
            if request.backups_max.is_some_and(|max| others.len() >= max) {
                return Err(BackupError::TooMany { volume, limit: others.len() });
            }
            others.sort_unstable_by_key(|(entry, about)| {
                std::cmp::Reverse((about.about.ordinal, entry.id))
            });
            if request.full {
                others.clear();
            }
            let knows = |point| source.knows(point);
            let point = |held: &crate::catalogue::Held| {
                held.volumes.iter().find(|held| held.id == volume).map(|held| held.point)
            };
            let known = others.iter().find(|(_, held)| point(held).is_some_and(knows));
            let parent = known.or(others.first()).map(|(entry, _)| (entry.id, known.is_some()));
            volumes.push(WantedVolume { id: volume, point: source.point(), parent });
        }
        let about = About {
            name: request.name.clone(),
            gateway: self.gateway.to_string(),
            origin: request.origin,
            policy: request.policy.clone(),
            created: catalogue.now(),
            ordinal: catalogue.ordinal_max() + 1,
            consistency: request.consistency,
            group: request.group.clone(),
            labels: request.labels.clone(),
            locked_until: request.locked_until,
        };
        Ok(Wanted { about, volumes })
    }

    /// The parents' parts. Those of a run that was begun are pinned and are there, removed or not.
    async fn parents(
        &self,
        wanted: &Wanted,
        sources: &[Arc<dyn Source>],
        is_beginning: bool,
    ) -> Result<Vec<Option<Parent>>, BackupError> {
        let mut parents = Vec::new();
        for (wanted, source) in wanted.volumes.iter().zip(sources) {
            let volume = wanted.id;
            let Some((id, was_known)) = wanted.parent else {
                parents.push(None);
                continue;
            };
            let manifest = if is_beginning {
                match self.live_manifest(id).await {
                    Err(BackupError::NoBackup { .. } | BackupError::Removed { .. }) => {
                        return Err(BackupError::ParentGone);
                    }
                    manifest => manifest?,
                }
            } else {
                self.manifest(id).await?.ok_or(BackupError::NoBackup { id })?
            };
            let member = manifest.member(volume).cloned();
            let member = member.ok_or(BackupError::NoVolume { id, volume })?;
            // The source may have forgotten the point since; what the parent holds still tells.
            let is_known = was_known && source.knows(member.point);
            parents.push(Some(Parent { id, member, is_known }));
        }
        Ok(parents)
    }

    async fn run(
        &self,
        begun: Begun,
        sources: &[Arc<dyn Source>],
        watch: &Arc<Watch>,
    ) -> Result<Taken, BackupError> {
        let id = begun.id;
        let mut found: Vec<Vec<Index>> = self.stored_by(id, sources.len(), watch).await?;
        let mut run = Run::new(self, watch, id)?;
        let mut members = Vec::new();
        let numbers = 0_u32..;
        for ((number, source), parent) in numbers.zip(sources).zip(begun.parents) {
            let found = found.get_mut(number as usize).map(std::mem::take).unwrap_or_default();
            members.push(run.volume(number, source.as_ref(), parent, found).await?);
        }
        let manifest = Manifest { id, about: begun.about, members };
        self.commit(manifest, watch).await
    }

    /// Puts the manifest: from here on there is a backup.
    async fn commit(&self, manifest: Manifest, watch: &Arc<Watch>) -> Result<Taken, BackupError> {
        let id = manifest.id;
        let object = self.keys.seal(Kind::Manifest, &manifest.encode())?;
        watch.pace(object.len() as u64).await?;
        let manifest = if self.bucket.put_new(&layout::manifest(id), object.into()).await? {
            manifest
        } else {
            // Somebody gave it up, or resumed it too, or the answer to our own put was lost.
            self.finished(id).await?.ok_or(BackupError::Abandoned { id })?
        };
        self.let_pin_go(id).await?;
        tracing::info!(backup = %id, "backup taken");
        Ok(taken(&manifest))
    }

    /// The manifest, when there is one.
    async fn finished(&self, id: BackupId) -> Result<Option<Manifest>, BackupError> {
        match self.manifest(id).await {
            Err(BackupError::Missing { .. }) => Ok(None),
            manifest => manifest?.map_or(Err(BackupError::Abandoned { id }), |m| Ok(Some(m))),
        }
    }
}

fn taken(manifest: &Manifest) -> Taken {
    let volume = |member: &crate::format::Member| TakenVolume {
        volume: member.id,
        parent: member.parent,
        read_bytes: member.read_bytes,
        stored_bytes: member.stored_bytes,
    };
    Taken { id: manifest.id, volumes: manifest.members.iter().map(volume).collect() }
}
