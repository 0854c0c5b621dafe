//! Volumes that are made from a snapshot, and what is kept for volumes until they are filled.
//!
//! ```text
//!   snapshot is kept ─▶ volume with its origin is recorded ─▶ hosts use it, it is filled
//!   all is there ─▶ the snapshot is let go, and removed if nobody names it ─▶ the origin is forgotten
//! ```
//!
//! Invariant: the pool's record of a volume names its origin for as long as anything is kept for it,
//! so whatever a crash cuts short is found at the next start and carried through.

use std::sync::Arc;
use std::time::Duration;

use api::{Code, Filling, FillingState, SnapshotSource, Volume, VolumeCreate};
use block::{GroupId, VolumeId};
use store::OriginRecord;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use super::Gateway;
use super::changes::named_volume;
use super::snapshots::{Place, export_name, find};
use super::volumes::{NewGroup, NewVolume};
use crate::backups::origin::Source;
use crate::book::GroupEntry;
use crate::clock::text;
use crate::fillings::{Standing, Told};
use crate::moments::Laid;
use crate::refusal::Refused;

/// When what was filled and could not be recorded as such is tried again.
const RETRY: Duration = Duration::from_secs(5);

impl Gateway {
    /// Makes a volume of what another one was at a snapshot. It can be used at once.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::SnapshotUnusable`], [`Code::Invalid`] when the snapshot has several
    /// volumes and none is named, [`Code::BelowSnapshot`], or those of making a volume.
    pub(super) async fn create_clone(
        &self,
        from: &SnapshotSource,
        wanted: VolumeCreate,
    ) -> Result<Volume, Refused> {
        if wanted.group.is_some() || wanted.part_of.is_some() {
            let detail = "a volume that is made from a snapshot begins in a group of its own";
            return Err(Refused::new(Code::Invalid, detail)
                .next("leave the group out; it can join one when it is filled"));
        }
        if self.book.read().group(&wanted.name).is_some() {
            let detail = format!("a group {:?} exists here, with other volumes", wanted.name);
            return Err(Refused::new(Code::Exists, detail));
        }
        let (place, bytes) = self.find_source_snapshot(from).await?;
        if wanted.bytes.is_some_and(|wanted| wanted < bytes) {
            let detail = format!("the snapshot has {bytes} bytes");
            return Err(Refused::new(Code::BelowSnapshot, detail));
        }
        let (group, volume, snapshot) = place;
        let id = VolumeId::from_uuid(Uuid::now_v7());
        let kept = self.shard_of(group).call(move |state| state.keep_snapshot(place, id));
        if !kept.await? {
            let detail = format!("what {} held is not there", from.snapshot);
            return Err(Refused::new(Code::SnapshotUnusable, detail));
        }
        let new = NewGroup {
            group: GroupId::from_uuid(Uuid::now_v7()),
            name: wanted.name.clone(),
            volumes: vec![NewVolume {
                volume: id,
                name: wanted.name.clone(),
                bytes: wanted.bytes.unwrap_or(bytes),
                settings: wanted.settings,
                origin: Some(OriginRecord::Snapshot { volume, snapshot, bytes }),
            }],
        };
        if let Err(refused) = self.create_group(new).await {
            // If the pool has it, what it needs stays until the next start has removed both.
            if self.pool.volume(id).is_none() {
                self.let_go(place, id).await?;
            }
            return Err(refused);
        }
        self.mark_as_opened(from).await;
        let of = export_name(&from.group, &from.snapshot);
        self.events.tell("volume", &wanted.name, format!("created from {of}; it is being filled"));
        self.volume(&wanted.name).await
    }

    /// A recovery point that a volume was made of is one that was used. That it cannot be recorded is no
    /// reason to take the volume back.
    async fn mark_as_opened(&self, from: &SnapshotSource) {
        let marked = async {
            let entry = self.find_group(&from.group)?;
            let status = self.status_of(entry.group()).await?;
            let point = find(&status, &from.snapshot)?;
            if point.origin != mirror::SnapshotOrigin::Scheduled || point.marks.used {
                return Ok(());
            }
            let used = mirror::Marks { used: true, ..mirror::Marks::default() };
            self.mark_snapshot(&entry, point.id, used).await
        };
        if let Err(refused) = marked.await {
            let (point, why) = (&from.snapshot, refused.0.detail);
            tracing::warn!(point, why, "a point that was used is not marked");
        }
    }

    /// Which volume's snapshot is meant, and its size.
    async fn find_source_snapshot(&self, from: &SnapshotSource) -> Result<(Place, u64), Refused> {
        let entry = self.find_group(&from.group)?;
        let status = self.status_of(entry.group()).await?;
        let snapshot = find(&status, &from.snapshot)?;
        if !snapshot.state.is_readable() {
            let detail = format!("snapshot {} is not readable here", snapshot.name);
            return Err(Refused::new(Code::SnapshotUnusable, detail));
        }
        let volume = named_volume(&entry, snapshot, from.volume.as_deref())?;
        let here = snapshot.volumes.iter().find(|(id, _)| *id == volume).map(|(_, here)| *here);
        let here =
            here.ok_or_else(|| Refused::new(Code::NotFound, "it does not hold that volume"))?;
        let sizes = self.board.get(entry.group()).map(|seen| seen.sizes);
        let bytes = sizes.and_then(|sizes| sizes.get(&here).copied()).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| {
            let detail = format!("what {} held is not there", snapshot.name);
            Refused::new(Code::SnapshotUnusable, detail)
        })?;
        Ok(((entry.group(), volume, here), bytes))
    }

    /// Whether every volume of a group has all of its content in the pool.
    ///
    /// # Errors
    /// [`Code::Filling`], with the volume's name.
    pub(crate) fn require_filled(&self, group: &GroupEntry) -> Result<(), Refused> {
        for volume in &group.volumes {
            let id = VolumeId::from_uuid(volume.id);
            if self.pool.volume(id).is_some_and(|record| record.origin.is_some()) {
                let left = self.fillings.get(id).and_then(|progress| progress.left_bytes);
                let left = left.map_or_else(String::new, |left| format!(", {left} bytes are left"));
                let detail = format!("volume {} is still being filled{left}", volume.name);
                let next = format!("wait: twinspan volume show {}", volume.name);
                return Err(Refused::new(Code::Filling, detail).next(next));
            }
        }
        Ok(())
    }

    /// Whether no other volume is filled from one that is to go.
    ///
    /// # Errors
    /// [`Code::FillsAnother`], with the other's name.
    pub(crate) fn require_fills_nobody(&self, name: &str, id: VolumeId) -> Result<(), Refused> {
        let Some(filled) = self.pool.filled_from(id).into_iter().next() else { return Ok(()) };
        let detail = format!("volume {} is being filled from a snapshot of {name}", filled.name);
        let next = format!("wait: twinspan volume show {}", filled.name);
        Err(Refused::new(Code::FillsAnother, detail).next(next))
    }

    /// How far a volume is, for people; `None` for one that has all of its content.
    #[must_use]
    pub(super) fn show_filling(&self, id: VolumeId) -> Option<Filling> {
        let origin = self.pool.volume(id)?.origin?;
        let progress = self.fillings.get(id);
        let (state, cause) = match progress.map(|progress| progress.standing) {
            None => (FillingState::Unknown, None),
            Some(Standing::Copying) => (FillingState::Copying, None),
            Some(Standing::NoRoom) => {
                (FillingState::WaitingForRoom, Some("the pool is full".to_owned()))
            }
            Some(Standing::Failed(error)) => {
                (FillingState::Failed, Some(self.fillings.reason(id, error).1))
            }
        };
        Some(Filling {
            from: self.origin_text(&origin),
            state,
            left_bytes: progress.and_then(|progress| progress.left_bytes),
            cause,
        })
    }

    fn origin_text(&self, origin: &OriginRecord) -> String {
        match origin {
            OriginRecord::Snapshot { volume, .. } => {
                format!("a snapshot of volume {}", self.volume_name(*volume))
            }
            OriginRecord::Laid { volume, description, .. } => {
                let at = Laid::decode(description).map(|laid| text(laid.unix_ms));
                let at = at.unwrap_or_else(|| "a second".to_owned());
                format!("volume {} as of {at}", self.volume_name(*volume))
            }
            OriginRecord::Other { description, .. } => match Source::decode(description) {
                Some(source) => format!("backup {} in {}", source.backup, source.target),
                None => "elsewhere".to_owned(),
            },
        }
    }

    pub(super) fn volume_name(&self, volume: VolumeId) -> String {
        let pages = self.book.read();
        let known = pages.volumes().find(|(_, of)| of.id == volume.uuid());
        known.map_or_else(|| volume.to_string(), |(_, of)| of.name.clone())
    }

    /// Lets go of what was kept for a volume.
    ///
    /// # Errors
    /// [`Code::NotOpened`], [`Code::ShardSilent`], or the store's.
    pub(crate) async fn let_go_of_origin(&self, id: VolumeId) -> Result<(), Refused> {
        let origin = self.pool.volume(id).and_then(|record| record.origin);
        // What keeps a backup is noted by itself, and let go when no volume names it any more.
        let Some((volume, snapshot)) = origin.as_ref().and_then(OriginRecord::snapshot) else {
            return Ok(());
        };
        if let Some(OriginRecord::Laid { description, .. }) = &origin {
            self.moments.let_go(id, Laid::decode(description));
        }
        let group = {
            let pages = self.book.read();
            let found = pages.volumes().find(|(_, of)| of.id == volume.uuid());
            found.map(|(group, _)| group.group())
        };
        match group {
            Some(group) => self.let_go((group, volume, snapshot), id).await,
            // It went with its volume.
            None => Ok(()),
        }
    }

    async fn let_go(&self, place: Place, by: VolumeId) -> Result<(), Refused> {
        let shard = self.shard_of(place.0).clone();
        let gone = shard.run(move |state| async move { state.let_go_of_snapshot(place, by).await });
        gone.await?
    }

    /// Says where origins are found, and hears from now on what becomes of volumes that are filled.
    pub(crate) fn begin_fillings(self: &Arc<Self>, inbox: UnboundedReceiver<Told>) {
        self.fillings.set_gateway(self);
        self.tasks.spawn(Arc::clone(self).hear_of_fillings(inbox));
    }

    /// Ends what is to be ended.
    async fn hear_of_fillings(self: Arc<Self>, mut inbox: UnboundedReceiver<Told>) {
        let listen = async {
            while let Some(told) = inbox.recv().await {
                match told {
                    Told::Filled(id) => self.filled(id).await,
                    Told::Stands(id, standing) => self.tell_standing(id, standing),
                }
            }
        };
        self.stopping.run_until_cancelled(listen).await;
    }

    fn tell_standing(&self, id: VolumeId, standing: Standing) {
        let Some(record) = self.pool.volume(id) else { return };
        let text = match standing {
            Standing::Copying => "goes on being filled".to_owned(),
            Standing::NoRoom => {
                format!("filling waits: the pool is full [{}]", Code::PoolFull.as_str())
            }
            Standing::Failed(error) => {
                let (code, why) = self.fillings.reason(id, error);
                format!("filling waits: {why} [{}]", code.as_str())
            }
        };
        self.events.tell("volume", &record.name, text);
    }

    /// All of a volume is here: what was kept for it is let go. Tried until it succeeds.
    async fn filled(&self, id: VolumeId) {
        let Some(record) = self.pool.volume(id) else { return };
        let forget = || async {
            self.let_go_of_origin(id).await?;
            self.on_pool(move |pool| pool.forget_origin(id)).await
        };
        while let Err(refused) = forget().await {
            if self.pool.volume(id).is_none() {
                return;
            }
            tracing::warn!(volume = record.name, why = refused.0.detail, "let its origin go");
            tokio::time::sleep(RETRY).await;
        }
        self.fillings.remove(id);
        self.targets.unneeded.notify_one();
        self.events.tell("volume", &record.name, "filled: it needs nothing else any more");
    }

    /// Removes volumes that were to be filled and that nobody knows: their making, or their removal,
    /// was cut short.
    pub(super) async fn clear_unknown_fillings(&self) {
        let filled = self.pool.volumes().into_iter().filter(|record| record.origin.is_some());
        for record in filled {
            let is_known = {
                let pages = self.book.read();
                pages.volumes().any(|(_, of)| of.id == record.id.uuid())
            };
            if !is_known && let Err(refused) = self.remove_from_pool(record.id).await {
                let why = refused.0.detail;
                tracing::warn!(volume = record.name, why, "remove a half made volume");
            }
        }
    }
}

#[cfg(test)]
mod tests;
