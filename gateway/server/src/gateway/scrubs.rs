//! Scrubs: every stored block of a volume is read and held against its checksum, and what is bad is
//! put back from another copy.
//!
//! ```text
//!   bad block ─▶ a mirror that is connected, or the primary of this one ─▶ matches the checksum? ─▶ written
//!             ─▶ the newest backup since which it was not changed       ─▶ the same
//! ```
//!
//! Invariant: nothing is put back that does not match the checksum of what was stored here, so no copy
//! can spoil another; a block that is good, or that a host wrote meanwhile, is left alone (the store
//! looks and writes in one turn). A block that nobody has stays bad, and is told by its number. What
//! only snapshots hold is read too, and put back from who keeps the same snapshot, or a backup that
//! holds the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::{Code, Operation, OperationProgress, Scrub};
use block::{GatewayId, GroupId, Identity, IoError, SnapshotId, VolumeId};
use bytes::Bytes;
use mirror::{GroupStatus, LinkState, Mode, Role, Serving, SessionState};
use store::Repaired;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Lost, Question};
use crate::book::{RunEntry, ScrubEntry, hex};
use crate::operations::{Running, under_way};
use crate::refusal::Refused;

/// What one step reads: a fraction of a millisecond, so that hosts do not notice.
const STEP_BYTES: u64 = 64 << 10;
/// Blocks that are told by their number.
const LEFT_TOLD: usize = 16;
/// So many that nobody has, and the rest is only counted: the disk is to be replaced.
const LEFT_MAX: u64 = 256;
/// A copy that is asked may be a change ahead or behind.
const TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two looks at what is due.
const LOOK_PAUSE: Duration = Duration::from_mins(10);

/// Which snapshot shows a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenIn {
    /// The snapshot of the group.
    snapshot: SnapshotId,
    /// What the store calls it here.
    pub(crate) here: SnapshotId,
    /// What it calls the next one, if there is one.
    pub(crate) newer: Option<SnapshotId>,
}

/// What is scrubbed.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: GroupId,
    volume: VolumeId,
}

impl Gateway {
    /// Begins a scrub of a volume's copy here.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Busy`] while one runs. What is found is in the operation.
    pub(crate) fn scrub_volume(self: &Arc<Self>, name: &str) -> Result<Operation, Refused> {
        let (group, volume) = self.find_volume(name)?;
        let place = Place { group: group.group(), volume: VolumeId::from_uuid(volume.id) };
        let running = self.begin_scrub(&volume.name)?;
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks
            .spawn(async move { gateway.carry_scrub_out(running, place, &volume.name).await });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    /// An operation that stands in the way of nothing else that is done to the volume.
    fn begin_scrub(&self, name: &str) -> Result<Running, Refused> {
        let subject = format!("{name}>pool");
        if let Some(other) = self.operations.running_on(&subject) {
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        self.operations.begin_alone("scrub", &subject).map_err(Refused)
    }

    /// Scrubs the volumes that are due, one after the other, until the gateway stops.
    pub(crate) async fn scrub_regularly(self: Arc<Self>) {
        let every = self.config.scrub.every;
        if every.is_zero() {
            return;
        }
        let look = async {
            loop {
                tokio::time::sleep(LOOK_PAUSE.min(every)).await;
                for (place, name) in self.due() {
                    if let Ok(running) = self.begin_scrub(&name) {
                        self.carry_scrub_out(running, place, &name).await;
                    }
                }
            }
        };
        self.stopping.run_until_cancelled(look).await;
    }

    /// The volumes whose last scrub, or whose beginning, is too long ago.
    fn due(&self) -> Vec<(Place, String)> {
        let every_ms = u64::try_from(self.config.scrub.every.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.unix_ms();
        let pages = self.book.read();
        let is_due = |volume: Uuid| {
            let last = pages.scrubs.iter().find(|of| of.volume == volume).map(|of| of.ended_ms);
            let made = || {
                let record = self.pool.volume(VolumeId::from_uuid(volume))?;
                Some(record.created.saturating_mul(1000))
            };
            last.or_else(made).is_some_and(|at| now_ms.saturating_sub(at) >= every_ms)
        };
        let due = pages.volumes().filter(|(_, volume)| is_due(volume.id));
        due.map(|(group, volume)| {
            let volume_id = VolumeId::from_uuid(volume.id);
            (Place { group: group.group(), volume: volume_id }, volume.name.clone())
        })
        .collect()
    }

    async fn carry_scrub_out(&self, running: Running, place: Place, name: &str) {
        let mut running = running;
        let cancel = running.cancellable(&self.stopping);
        running.step("read every stored block");
        let mut found = ScrubEntry {
            volume: place.volume.uuid(),
            begun_ms: self.clock.unix_ms(),
            ended_ms: 0,
            read_bytes: 0,
            bad: 0,
            repaired: 0,
            left: Vec::new(),
            cause: None,
        };
        let ended = self.scrub_all(&running, (place, name), &mut found, &cancel).await;
        found.ended_ms = self.clock.unix_ms();
        let left = found.bad - found.repaired;
        let result = match ended {
            Err(refused) => {
                found.cause = Some(refused.0.detail.clone());
                Err(refused)
            }
            Ok(()) if left > 0 => {
                let why = found.cause.as_deref().unwrap_or("no other copy could be asked");
                let detail =
                    format!("{left} blocks of {name} are bad, the first {:?}: {why}", found.left);
                Err(Refused::new(Code::BlocksBad, detail))
            }
            Ok(()) => Ok(()),
        };
        let text = format!(
            "scrubbed: {} bytes read, {} blocks bad, {} repaired",
            found.read_bytes, found.bad, found.repaired
        );
        if result.is_ok() {
            running.done(text.clone());
        }
        if !self.stopping.is_cancelled() {
            let text = match &result {
                Ok(()) => text,
                Err(refused) => format!("{text}: {} [{}]", refused.0.detail, refused.0.code),
            };
            self.events.tell("volume", name, text);
            if let Err(refused) = self.note_scrub(found).await {
                tracing::warn!(volume = name, why = refused.0.detail, "note a scrub");
            }
        }
        running.end(result.map_err(|refused| *refused.0));
    }

    async fn scrub_all(
        &self,
        running: &Running,
        (place, name): (Place, &str),
        found: &mut ScrubEntry,
        cancel: &CancellationToken,
    ) -> Result<(), Refused> {
        let shard = self.shard_of(place.group);
        let target = (place.group, place.volume);
        let status = self.status_of(place.group).await?;
        let known = status.volumes.iter().find(|of| of.volume == place.volume);
        let total_bytes = known.map_or(0, |of| of.mapped_bytes);
        let rate = self.config.scrub.bytes_per_second.max(1);
        let mut left = VecDeque::from(seen_in(&status, place.volume));
        let mut from = 0;
        while let Some(seen) = left.front().copied() {
            let read = shard.call(move |state| state.scrub_step(target, seen, from, STEP_BYTES));
            let step = match read.await? {
                // It was removed meanwhile, or the newer one that it is held against.
                Err(IoError::Invalid) if seen.is_some() => {
                    let status = self.status_of(place.group).await?;
                    (left, from) = listed_again(&left, seen_in(&status, place.volume), from);
                    continue;
                }
                step => step.map_err(Refused::from)?,
            };
            found.read_bytes += step.bytes;
            for block in step.bad.iter().flat_map(|range| range.first()..range.end()) {
                self.heal_or_tell((place, name), seen, block, found).await;
            }
            let done_bytes = found.read_bytes;
            let total_bytes = total_bytes.max(done_bytes);
            let told =
                OperationProgress { total_bytes, done_bytes, moved_bytes: 0, found_bytes: 0 };
            running.progress(told);
            let pause = Duration::from_millis(step.bytes.saturating_mul(1000) / rate);
            if cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Err(Refused::new(Code::ScrubCancelled, "the scrub was given up"));
            }
            if step.next.is_none() {
                left.pop_front();
            }
            from = step.next.unwrap_or(0);
        }
        Ok(())
    }

    /// A block is bad: it is put back, or told.
    async fn heal_or_tell(
        &self,
        (place, name): (Place, &str),
        seen: Option<SeenIn>,
        block: u64,
        found: &mut ScrubEntry,
    ) {
        found.bad += 1;
        if found.bad - found.repaired > LEFT_MAX {
            return;
        }
        match self.heal((place, name), seen, block).await {
            Ok(()) => found.repaired += 1,
            Err(refused) => {
                found.cause = Some(refused.0.detail);
                if found.left.len() < LEFT_TOLD {
                    found.left.push(block);
                }
            }
        }
    }

    /// Puts a bad block back from whoever has what was stored in it.
    ///
    /// # Errors
    /// Why nobody has.
    async fn heal(
        &self,
        (place, name): (Place, &str),
        seen: Option<SeenIn>,
        block: u64,
    ) -> Result<(), Refused> {
        tracing::error!(volume = name, block, "a stored block is bad");
        let mut why = Refused::new(Code::BlocksBad, "no other copy is connected");
        for turn in 0..TRIES {
            if turn > 0 {
                tokio::time::sleep(TRY_PAUSE).await;
            }
            let status = self.status_of(place.group).await?;
            let mut is_reached = false;
            for (gateway, site) in related(&status) {
                let (group, volume) = (place.group.uuid(), place.volume.uuid());
                let snapshot = seen.map(|seen| seen.snapshot.uuid());
                let question = Question::Block(Lost { group, volume, block, snapshot });
                let told = self.ask(gateway.uuid(), &question).await.and_then(Answer::block);
                let healed = match told {
                    Ok(content) => self.put_back(place, seen, block, content.into()).await,
                    Err(refused) => Err(refused),
                };
                match healed {
                    Ok(Repaired::Done | Repaired::Good) => {
                        self.told_healed(name, block, &site);
                        return Ok(());
                    }
                    Ok(Repaired::Differs) => {
                        let detail = format!("what {site} has is not what was stored here");
                        why = Refused::new(Code::BlocksBad, detail);
                        is_reached = true;
                    }
                    Err(refused) => {
                        is_reached |= !refused.is(Code::PeerUnreachable);
                        why = refused;
                    }
                }
            }
            if !is_reached {
                break;
            }
        }
        let status = self.status_of(place.group).await?;
        match self.heal_from_backup((place, seen), &status, block).await {
            Some(target) => {
                self.told_healed(name, block, &target);
                Ok(())
            }
            None => Err(why),
        }
    }

    fn told_healed(&self, name: &str, block: u64, from: &str) {
        metrics::counter!("twinspan_scrub_repaired_blocks_total", "volume" => name.to_owned())
            .increment(1);
        self.events.tell("volume", name, format!("block {block} was bad; it is good, by {from}"));
    }

    async fn put_back(
        &self,
        place: Place,
        seen: Option<SeenIn>,
        block: u64,
        content: Bytes,
    ) -> Result<Repaired, Refused> {
        let target = (place.group, place.volume);
        let shard = self.shard_of(place.group).clone();
        shard
            .run(move |state| async move { state.repair(target, seen, block, content).await })
            .await?
    }

    /// Looks for a backup whose snapshot is kept and shows the same block; where it was found. What is
    /// wrong with one is no reason not to ask the next.
    async fn heal_from_backup(
        &self,
        (place, seen): (Place, Option<SeenIn>),
        status: &GroupStatus,
        block: u64,
    ) -> Option<String> {
        let pages = self.book.read();
        let volume = place.volume.uuid();
        let taken = pages.backups.runs.iter().rev();
        for run in taken.filter(|run| run.is_taken && run.volumes.contains(&volume)) {
            let id = SnapshotId::from_uuid(run.snapshot);
            let kept = status.snapshots.iter().find(|of| of.id == id && of.state.is_readable());
            let here = kept.and_then(|of| of.volumes.iter().find(|(id, _)| *id == place.volume));
            let Some((_, here)) = here.copied() else { continue };
            match self.heal_from((place, seen), (run, here), block).await {
                Ok(true) => return Some(format!("backup {} in {}", run.name, run.target)),
                Ok(false) => {}
                Err(refused) => {
                    let (backup, why) = (run.backup, refused.0.detail);
                    tracing::warn!(%backup, why, "a bad block is not repaired from a backup");
                }
            }
        }
        None
    }

    /// Puts a block back from a backup whose snapshot is kept, if that shows the same block; whether it
    /// is good now.
    async fn heal_from(
        &self,
        (place, seen): (Place, Option<SeenIn>),
        (run, here): (&RunEntry, SnapshotId),
        block: u64,
    ) -> Result<bool, Refused> {
        let (target, shard) = ((place.group, place.volume), self.shard_of(place.group));
        if !shard.call(move |state| state.is_same(target, (seen, here), block)).await?? {
            return Ok(false);
        }
        let content = self.read_backed_up(&run.target, (run.backup, place.volume), block).await?;
        Ok(self.put_back(place, seen, block, content).await? != Repaired::Differs)
    }

    /// Gives another gateway a block of the copy here, if a session joins the two. Whether it is what
    /// was stored there the other knows by its checksum.
    ///
    /// # Errors
    /// [`Code::NotInSync`], or the store's: what is bad here too is not given.
    pub(super) async fn block_for(
        &self,
        peer: &Identity,
        Lost { group, volume, block, snapshot }: Lost,
    ) -> Result<Answer, Refused> {
        let group = GroupId::from_uuid(group);
        let status = self.status_of(group).await?;
        // The primary knows better than its mirror whether there is a session between transfers.
        let mut primary = status.upstream.iter().filter(|_| status.serving == Serving::NotPrimary);
        let is_primary = primary.any(|of| of.gateway == peer.gateway);
        if !is_primary && !related(&status).iter().any(|(of, _)| *of == peer.gateway) {
            let detail = format!("the copy here is not connected with the one at {}", peer.site);
            return Err(Refused::new(Code::NotInSync, detail));
        }
        let target = (group, VolumeId::from_uuid(volume));
        let shard = self.shard_of(group).clone();
        let here = match snapshot {
            None => None,
            Some(id) => {
                let seen = seen_in(&status, target.1).into_iter().flatten();
                let mut seen = seen.filter(|seen| seen.snapshot.uuid() == id);
                let missing = || Refused::new(Code::NotFound, "that snapshot is not kept here");
                Some(seen.next().ok_or_else(missing)?.here)
            }
        };
        let read =
            shard.run(move |state| async move { state.read_good(target, here, block).await });
        Ok(Answer::Block { content: hex(&read.await??) })
    }

    async fn note_scrub(&self, found: ScrubEntry) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                let known: Vec<Uuid> = pages.volumes().map(|(_, volume)| volume.id).collect();
                pages.scrubs.retain(|of| of.volume != found.volume && known.contains(&of.volume));
                if known.contains(&found.volume) {
                    pages.scrubs.push(found.clone());
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    /// What the last scrub of a volume found, for people.
    pub(super) fn show_scrub(&self, id: VolumeId) -> Option<Scrub> {
        let pages = self.book.read();
        let found = pages.scrubs.iter().find(|of| of.volume == id.uuid())?;
        Some(Scrub {
            begun_at: crate::clock::text(found.begun_ms),
            ended_at: crate::clock::text(found.ended_ms),
            read_bytes: found.read_bytes,
            bad_blocks: found.bad,
            repaired_blocks: found.repaired,
            left: found.left.clone(),
            cause: found.cause.clone(),
        })
    }
}

/// Everybody who may have the same blocks and keep the same snapshots. A copy that follows behind, or
/// that is being brought up, has most of them: the checksum tells which, so it need not be in sync. In
/// mode `stack` there is no connection between two transfers, and it is asked all the same.
pub(super) fn related(status: &GroupStatus) -> Vec<(GatewayId, String)> {
    if status.role == Role::Fenced {
        // What was written elsewhere since is no copy of this.
        return Vec::new();
    }
    let is_asked = |link, mode| link == LinkState::Connected || mode == Mode::Stack;
    let legs = status.legs.iter().filter(|leg| leg.state != SessionState::Suspended);
    let legs = legs.filter(|leg| is_asked(leg.link, leg.policy.mode));
    let upstream = status.upstream.iter().filter(|of| is_asked(of.link, of.mode));
    let legs = legs.map(|leg| (leg.gateway, leg.site.clone()));
    legs.chain(upstream.map(|of| (of.gateway, of.site.clone()))).collect()
}

/// What shows blocks of a volume: the volume, and its snapshots, oldest first.
fn seen_in(status: &GroupStatus, volume: VolumeId) -> Vec<Option<SeenIn>> {
    let mut kept: Vec<(SnapshotId, SnapshotId)> = Vec::new();
    for snapshot in status.snapshots.iter().filter(|of| of.state.is_readable()) {
        let part = snapshot.volumes.iter().find(|(id, _)| *id == volume);
        kept.extend(part.map(|(_, here)| (snapshot.id, *here)));
    }
    let newer = kept.iter().skip(1).map(|(_, here)| Some(*here)).chain([None]);
    let all: Vec<Option<SnapshotId>> = newer.collect();
    let seen = kept.into_iter().zip(all);
    let seen = seen.map(|((snapshot, here), newer)| Some(SeenIn { snapshot, here, newer }));
    std::iter::once(None).chain(seen).collect()
}

/// What is left to be looked at, by what is kept now, and where its first is gone on with. One that was
/// taken since shows nothing that was not looked at; what only two that stood side by side held of the
/// part before is looked at by the next scrub.
fn listed_again(
    left: &VecDeque<Option<SeenIn>>,
    now: Vec<Option<SeenIn>>,
    from: u64,
) -> (VecDeque<Option<SeenIn>>, u64) {
    let id = |seen: &Option<SeenIn>| seen.map(|seen| seen.snapshot);
    let is_left = |seen: &Option<SeenIn>| left.iter().any(|of| id(of) == id(seen));
    let mut again: VecDeque<Option<SeenIn>> = now.into_iter().filter(is_left).collect();
    if left.front() == again.front() {
        // Nothing that is listed says why it cannot be read: it is passed over, not asked for ever.
        again.pop_front();
        return (again, 0);
    }
    let is_first = left.front().map(id) == again.front().map(id);
    (again, if is_first { from } else { 0 })
}

#[cfg(test)]
mod tests;
