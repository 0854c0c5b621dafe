//! What the write journal has behind a base, laid over a group that went back to it: the last step of a
//! way back to a second.
//!
//! Invariant: it writes what the volumes hold at that second and nothing else, in any order and as often
//! as it takes; so one that was cut short is done again from its beginning. The whole of it was read and
//! proven before the group went back, and its segments stay until it is done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use api::units::bytes_text;
use block::{BLOCK_BYTES, Extent, GroupId, IoError, Segment, Segments, VolumeId};
use mirror::{GroupStatus, Role};
use store::journal::{Moment, View};
use tokio_util::sync::CancellationToken;

use super::{LOOK_PAUSE, Way};
use crate::book::{GroupEntry, RollbackEntry, Stage};
use crate::gateway::Gateway;
use crate::moments::Laid;
use crate::operations::Running;
use crate::refusal::Refused;

/// What lies over the base, by volume.
pub(super) type Views = HashMap<VolumeId, View>;

/// Ranges that are looked for at once, and what is laid between two looks at the hosts of other volumes.
const STEP_RANGES: usize = 1024;
const PIECE_BYTES: u64 = 1 << 20;
/// How often a pool that is full is tried again.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

impl Gateway {
    /// Reads all that is to be laid over the base, before anything is changed: what cannot be read back
    /// leads nowhere. `None` for a way back to a snapshot.
    pub(super) async fn prove_laid(
        &self,
        running: &mut Running,
        way: &Way,
    ) -> Result<Option<Views>, Refused> {
        let Some(laid) = way.laid else { return Ok(None) };
        running.step("read what was written down up to that second");
        let group = way.entry.group();
        let views = self.read_laid(group, way.to, laid).await.inspect_err(|_refused| {
            if self.book.read().rollback_of(group.uuid()).is_none() {
                self.moments.unpin_way_back(group);
            }
        })?;
        let bytes: u64 = views.values().map(View::bytes).sum();
        running.done(format!("{} over the base", bytes_text(bytes)));
        Ok(Some(views))
    }

    async fn read_laid(
        &self,
        group: GroupId,
        base: block::SnapshotId,
        laid: Laid,
    ) -> Result<Views, Refused> {
        let damaged = |why: String| {
            let detail = format!("what was written down up to that second: {why}");
            Refused::new(Code::SnapshotUnusable, detail)
        };
        let (from, to) = laid.places();
        let journal = loop {
            // While a gateway starts it is opened behind.
            match self.moments.journal(group) {
                Some(journal) => break journal,
                None if self.stopping.is_cancelled() => {
                    return Err(Refused::new(Code::Starting, "the gateway stops"));
                }
                None => tokio::time::sleep(LOOK_PAUSE).await,
            }
        };
        let moment = Moment { base, from, to, unix_ms: laid.unix_ms };
        // Noted in the book it is pinned from the start; before that, what goes by itself may be quicker.
        if !self.moments.pin_way_back(group, &moment)
            && self.book.read().rollback_of(group.uuid()).is_none()
        {
            return Err(damaged("it is not kept any more".to_owned()));
        }
        let read = self.tasks.spawn_blocking(move || journal.views(from, to)).await;
        let read = read.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        read.map_err(|error| damaged(error.to_string()))
    }

    /// Takes no host for the volumes of a group until it is where it goes.
    pub(super) async fn close_for_way_back(
        &self,
        status: &GroupStatus,
        drop_hosts: bool,
    ) -> Result<(), Refused> {
        let (group, volumes) = (status.group, volumes_of(status));
        self.shard_of(group)
            .call(move |state| state.close_to_hosts(group, &volumes, drop_hosts))
            .await?
    }

    /// The group is whole: hosts may come, unless a restore from a backup keeps them out.
    pub(super) async fn open_after_way_back(&self, status: &GroupStatus) -> Result<(), Refused> {
        let group = status.group;
        self.moments.unpin_way_back(group);
        let pages = self.book.read();
        let mut volumes = volumes_of(status);
        volumes.retain(|volume| !pages.is_held((group.uuid(), volume.uuid())));
        Ok(self.shard_of(group).call(move |state| state.open_to_hosts(group, &volumes)).await?)
    }

    /// The group is at the base: lays over it what makes it the second.
    pub(super) async fn lay_over(
        &self,
        running: &mut Running,
        way: &Way,
        (note, views): (&mut RollbackEntry, Views),
    ) -> Result<(), Refused> {
        let group = way.entry.group();
        let unfinished = |refused: &Refused| {
            let detail = format!(
                "{}; the group is half way, and nobody is served until it is there",
                refused.0.detail
            );
            Refused::new(Code::RollbackUnfinished, detail).next(format!(
                "restart the gateway, or plan again: twinspan point rollback plan {0} --at {1}; or go \
                 back to what was there: twinspan snapshot list {0}",
                way.entry.name, way.name
            ))
        };
        note.stage = Stage::Back;
        self.note_rollback(group, Some(note.clone())).await.map_err(|error| unfinished(&error))?;
        let cancel = running.cancellable(&self.stopping);
        for (volume, view) in views {
            running.step(&format!("lay {} over {}", way.name, self.volume_name(volume)));
            let bytes = view.bytes();
            let laid = self.lay_volume((group, volume), view, (&*running, &cancel)).await;
            laid.map_err(|refused| unfinished(&refused))?;
            running.done(bytes_text(bytes));
        }
        note.stage = Stage::There;
        self.note_rollback(group, Some(note.clone())).await.map_err(|error| unfinished(&error))
    }

    async fn lay_volume(
        &self,
        place: (GroupId, VolumeId),
        view: View,
        (running, cancel): (&Running, &CancellationToken),
    ) -> Result<(), Refused> {
        let (group, volume) = place;
        let status = self.status_of(group).await?;
        let known = status.volumes.iter().find(|of| of.volume == volume);
        // One that left the group takes nothing of it along.
        let Some(bytes) = known.map(|of| of.bytes) else { return Ok(()) };
        let view = Arc::new(view);
        let mut from = 0;
        loop {
            let ranges = view.touched(from, STEP_RANGES);
            for range in &ranges {
                let (begin, end) = (range.first() * BLOCK_BYTES, range.end() * BLOCK_BYTES);
                let Some(len) = end.min(bytes).checked_sub(begin).filter(|len| *len > 0) else {
                    continue;
                };
                let whole = Extent::new(begin, len).map_err(|_empty| IoError::OutOfRange)?;
                for extent in whole.pieces(PIECE_BYTES) {
                    let piece = (&view, extent);
                    self.lay_when_there_is_room(place, piece, (running, cancel)).await?;
                }
            }
            match ranges.last() {
                Some(last) if ranges.len() == STEP_RANGES => from = last.end(),
                Some(_) | None => break,
            }
        }
        self.shard_of(group).run(move |state| async move { state.fill_flush(place).await }).await?
    }

    /// A pool that is full is waited for: half way is no place to stay. Who looks is told so.
    async fn lay_when_there_is_room(
        &self,
        place: (GroupId, VolumeId),
        (view, extent): (&Arc<View>, Extent),
        (running, cancel): (&Running, &CancellationToken),
    ) -> Result<(), Refused> {
        let mut waits = false;
        loop {
            let refused = match self.lay_piece(place, view, extent).await {
                Err(refused) if refused.is(Code::PoolFull) => refused,
                result => {
                    if waits {
                        running.waits("");
                    }
                    return result;
                }
            };
            if !waits {
                waits = true;
                let code = Code::PoolFull.as_str();
                let why = format!(
                    "waits: the pool is full [{code}]; it goes on by itself when there is room"
                );
                running.waits(&why);
                let name = self.volume_name(place.1);
                self.events.tell("volume", &name, format!("its way back {why}"));
            }
            if cancel.run_until_cancelled(tokio::time::sleep(ROOM_PAUSE)).await.is_none() {
                return Err(refused);
            }
        }
    }

    async fn lay_piece(
        &self,
        place: (GroupId, VolumeId),
        view: &Arc<View>,
        extent: Extent,
    ) -> Result<(), Refused> {
        let shard = self.shard_of(place.0);
        let under = self.read_under(place, view, extent).await?;
        let view = Arc::clone(view);
        let lay = move || view.read(extent, under);
        let laid = self.tasks.spawn_blocking(lay).await;
        let laid = laid.map_err(|error| Refused::new(Code::Internal, error.to_string()))??;
        if laid.iter().all(|segment| matches!(segment, Segment::Zero(_))) {
            return shard
                .run(move |state| async move { state.fill_zeroes(place, extent).await })
                .await?;
        }
        let data = block::joined(&laid);
        shard
            .run(move |state| async move { state.fill(place, extent.offset(), data).await })
            .await?
    }

    /// What the base has of a piece. Where some of it cannot be read, the blocks are read one by one of
    /// which anything is seen: what is hidden whole is given up for what is laid over it.
    async fn read_under(
        &self,
        (group, volume): (GroupId, VolumeId),
        view: &View,
        extent: Extent,
    ) -> Result<Segments, Refused> {
        let shard = self.shard_of(group);
        let read = |extent: Extent| {
            shard.run(move |state| async move { state.read(group, volume, extent).await })
        };
        match read(extent).await? {
            Ok(data) => return Ok([Segment::Data(data)].into_iter().collect()),
            Err(refused) if refused.is(Code::PoolFailed) => {}
            Err(refused) => return Err(refused),
        }
        let mut under = Segments::new();
        for block in extent.pieces(BLOCK_BYTES) {
            let segment = if view.hides(block) {
                Segment::Zero(block.len())
            } else {
                Segment::Data(read(block).await??)
            };
            under.push(segment);
        }
        Ok(under)
    }

    /// A group that is half way, and that another site serves now, is on its way no more: its content
    /// is given up for that of the other site.
    pub(in crate::gateway) async fn look_at_way_back(&self, entry: &GroupEntry) {
        if !self.book.read().is_on_its_way(entry.id)
            || self.operations.running_on(&entry.name).is_some()
        {
            return;
        }
        let Some(status) = self.board.get(entry.group()).map(|seen| seen.status) else { return };
        if status.role == Role::Primary {
            return;
        }
        let forgotten = async {
            self.note_rollback(entry.group(), None).await?;
            self.open_after_way_back(&status).await
        };
        if let Err(refused) = forgotten.await {
            // It is looked at again in a moment.
            tracing::debug!(group = entry.name, why = refused.0.detail, "a way back stays noted");
        }
    }

    /// A group that is half way back to a second is no source of anything.
    ///
    /// # Errors
    /// [`Code::RollingBack`].
    pub(crate) fn require_not_half_way(&self, group: uuid::Uuid) -> Result<(), Refused> {
        if !self.book.read().is_half_way(group) {
            return Ok(());
        }
        Err(Refused::new(Code::RollingBack, "it is half way back to a second"))
    }
}

fn volumes_of(status: &GroupStatus) -> Vec<VolumeId> {
    status.volumes.iter().map(|volume| volume.volume).collect()
}
