//! The snapshots of groups on their shard: counted, taken within the limit, gone back to, read.
//!
//! Invariant: between a look at a group and the command that follows from it nothing else happens on
//! the thread, so that a limit or a guard holds whoever asks at the same time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{BLOCK_BYTES, GroupId, SnapshotId, Store, Volume, VolumeId};
use mirror::{Command, GroupStatus, Refusal, SnapshotOrigin, SnapshotState};
use nbd_server::{Attachment, Changes, Negotiated};

use super::changes::Compared;
use super::{OpenGroup, ShardState};
use crate::board::Sizes;
use crate::points::Stored;
use crate::refusal::Refused;

/// What is busy is so for moments: another operator's command, a mirror that is being struck off.
const BUSY_TRIES_MAX: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// What counting costs is paid once in so long by those who look at it all the time.
const ROOM_MS_MAX: u64 = 60_000;
/// Between two pieces of a count, each of which takes about as long when pages must be loaded: hosts
/// have at least half of the thread.
const COUNT_PAUSE: Duration = Duration::from_millis(1);
/// Ranges of a map that are looked at between two looks at the hosts.
const STEP_RANGES: usize = 4096;

/// What is kept here, by what the stores call it, and how much room it takes.
pub(crate) type Room = HashMap<SnapshotId, block::Snapshot>;

/// What is known of a group's snapshots beside its status.
#[derive(Default)]
pub(super) struct Known {
    sizes: RefCell<Sizes>,
    /// Counted when, by the steady clock, and what.
    room: Cell<Option<(u64, u64)>>,
    /// Those that a backup reads, by what their stores call them.
    pub(super) held: RefCell<HashMap<SnapshotId, Rc<dyn Volume>>>,
}

// === impl OpenGroup ===

impl OpenGroup {
    /// The sizes of its volumes at its snapshots. The stores are asked for what is new only.
    pub(super) fn sizes(&self, status: &GroupStatus) -> Sizes {
        let mut known = self.snapshots.sizes.borrow_mut();
        let here = status.snapshots.iter().flat_map(|snapshot| &snapshot.volumes);
        let is_new = |(_, here): &&(VolumeId, SnapshotId)| !known.contains_key(here);
        let count = status.snapshots.iter().map(|snapshot| snapshot.volumes.len()).sum::<usize>();
        if here.clone().all(|one| !is_new(&one)) && known.len() == count {
            return Arc::clone(&known);
        }
        let mut sizes = HashMap::with_capacity(count);
        for (volume, here) in here {
            // A snapshot never changes: of hundreds only the new one is opened.
            let bytes = known.get(here).copied().unwrap_or_else(|| {
                let open = self.volume(*volume);
                let opened = open.and_then(|open| open.store.open_snapshot(*here).ok());
                // 0 for what is not there, so that it is not looked for at every post.
                opened.map_or(0, |volume| volume.geometry().bytes())
            });
            sizes.insert(*here, bytes);
        }
        *known = Arc::new(sizes);
        Arc::clone(&known)
    }
}

// === impl ShardState ===

impl ShardState {
    /// How many hosts read snapshots of a group.
    #[must_use]
    pub(crate) fn readers_of(&self, group: GroupId) -> usize {
        let open = self.group(group);
        open.map_or(0, |open| open.volumes.borrow().iter().map(|v| v.readers.get()).sum())
    }

    /// What the snapshots of a group take here, counted now. Hosts have their turn between two pieces.
    pub(crate) async fn snapshot_room(&self, group: GroupId) -> Option<Room> {
        let volumes: Vec<VolumeId> =
            self.group(group)?.volumes.borrow().iter().map(|open| open.id).collect();
        let mut room = Room::new();
        for volume in volumes {
            loop {
                // Looked up anew for each piece: nobody who closes it waits for this.
                let open = self.group(group)?;
                let Some(counted) = open.volume(volume).map(|of| of.store.count_snapshots()) else {
                    break;
                };
                drop(open);
                if let Some(counted) = counted {
                    room.extend(counted.into_iter().map(|snapshot| (snapshot.id, snapshot)));
                    break;
                }
                tokio::time::sleep(COUNT_PAUSE).await;
            }
        }
        Some(room)
    }

    /// Bytes that all snapshots of a group take for themselves, at most a minute old.
    pub(crate) async fn snapshot_bytes(&self, group: GroupId) -> Option<u64> {
        let now_ms = self.parts.clock.steady_ms();
        if let Some((at_ms, bytes)) = self.group(group)?.snapshots.room.get()
            && now_ms.saturating_sub(at_ms) < ROOM_MS_MAX
        {
            return Some(bytes);
        }
        let room = self.snapshot_room(group).await?;
        let open = self.group(group)?;
        let listed = open.group.status().snapshots;
        let here = listed.iter().flat_map(|snapshot| &snapshot.volumes);
        let bytes = here.filter_map(|(_, here)| room.get(here)).map(|of| of.exclusive_bytes).sum();
        open.snapshots.room.set(Some((now_ms, bytes)));
        Some(bytes)
    }

    /// Takes a snapshot, unless the group has as many that operators asked for as it may.
    ///
    /// # Errors
    /// [`Code::SnapshotLimit`], or the group's refusal; nothing was changed.
    pub(crate) async fn take_snapshot(
        &self,
        group: GroupId,
        command: Command,
        manual_max: usize,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let is_passing = |refusal: &Refusal| *refusal == Refusal::Busy;
        let has_room = || {
            let status = open.group.status();
            let manual = status.snapshots.iter().filter(|snapshot| {
                snapshot.origin == SnapshotOrigin::Manual
                    && snapshot.state != SnapshotState::Deleting
            });
            let manual = manual.count();
            if manual < manual_max {
                return Ok(());
            }
            let detail = format!(
                "group {} has {manual} snapshots that were asked for, and may have {manual_max}",
                status.name
            );
            Err(Refused::new(Code::SnapshotLimit, detail))
        };
        self.change_snapshots(&open, command, is_passing, has_room).await
    }

    /// Takes a recovery point: those are not counted among what operators asked for.
    ///
    /// # Errors
    /// The group's refusal; nothing was changed.
    pub(crate) async fn take_point(&self, group: GroupId, command: Command) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let is_passing = |refusal: &Refusal| *refusal == Refusal::Busy;
        self.change_snapshots(&open, command, is_passing, || Ok(())).await
    }

    /// Changes what a group knows of its recovery points: `change` is asked with its status in the same
    /// moment, and again while what stands in the way is a moment's matter, so that nothing that is
    /// changed at the same time is lost.
    ///
    /// # Errors
    /// What `change` says, or the group's refusal; nothing was changed.
    pub(crate) async fn change_points<T>(
        &self,
        group: GroupId,
        change: impl Fn(&GroupStatus) -> Result<(Stored, T), Refused>,
    ) -> Result<T, Refused> {
        let open = self.open_group(group)?;
        let is_passing = |refusal: &Refusal| matches!(refusal, Refusal::Busy);
        let decide = || {
            let (stored, told) = change(&open.group.status())?;
            Ok((Command::SetPointPolicy { policy: Some(stored.encode()) }, told))
        };
        let result = Self::command_of_the_moment(&open, is_passing, decide).await;
        self.post(&open);
        result
    }

    /// Goes back to a snapshot, unless hosts are attached that may not be dropped.
    ///
    /// # Errors
    /// [`Code::HostsAttached`], or the group's refusal; nothing was changed but when the copy here
    /// latched.
    pub(crate) async fn roll_back(
        &self,
        group: GroupId,
        command: Command,
        drop_hosts: bool,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        // A mirror that was suspended a moment ago may still be on its way out of the set.
        let is_passing =
            |refusal: &Refusal| matches!(refusal, Refusal::Busy | Refusal::SessionsActive);
        let has_no_hosts = || {
            let hosts = self.hosts_of(group);
            if hosts == 0 || drop_hosts {
                return Ok(());
            }
            let detail = format!("{hosts} hosts are attached to group {}", open.group.name());
            Err(Refused::new(Code::HostsAttached, detail))
        };
        self.change_snapshots(&open, command, is_passing, has_no_hosts).await
    }

    /// Gives a group a command if `may` says so in the same moment, and again while what stands in the
    /// way is a moment's matter. What is known of its snapshots is looked at anew then.
    async fn change_snapshots(
        &self,
        open: &OpenGroup,
        command: Command,
        is_passing: impl Fn(&Refusal) -> bool,
        may: impl Fn() -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let decide = || may().map(|()| (command.clone(), ()));
        let result = Self::command_of_the_moment(open, is_passing, decide).await;
        open.snapshots.room.take();
        self.post(open);
        result
    }

    /// Gives a group the command that is decided on in the same moment, and again while what stands in the
    /// way is a moment's matter; what was decided beside it is given back.
    async fn command_of_the_moment<T>(
        open: &OpenGroup,
        is_passing: impl Fn(&Refusal) -> bool,
        decide: impl Fn() -> Result<(Command, T), Refused>,
    ) -> Result<T, Refused> {
        let mut tries = 0;
        loop {
            let (command, told) = decide()?;
            match open.group.command(command).await {
                Err(refusal) if is_passing(&refusal) && tries < BUSY_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                result => return result.map(|()| told).map_err(Refused::from),
            }
        }
    }

    /// Bytes in which the volumes of a group may differ from a snapshot: the maps are read, not the
    /// data, and hosts go on between two pieces.
    ///
    /// # Errors
    /// [`Code::NotFound`], or a map cannot be read.
    pub(crate) async fn changed_bytes(
        &self,
        group: GroupId,
        snapshot: SnapshotId,
    ) -> Result<u64, Refused> {
        self.changed_bytes_of(group, snapshot, |_volume| true).await
    }

    /// The same of some of its volumes.
    ///
    /// # Errors
    /// As [`Self::changed_bytes`].
    pub(crate) async fn changed_bytes_of(
        &self,
        group: GroupId,
        snapshot: SnapshotId,
        is_meant: impl Fn(VolumeId) -> bool,
    ) -> Result<u64, Refused> {
        let open = self.open_group(group)?;
        let found = open.group.status().snapshots.into_iter().find(|of| of.id == snapshot);
        let found = found.ok_or_else(|| Refused::from(Refusal::NoSuchSnapshot))?;
        let mut blocks: u64 = 0;
        for (volume, here) in found.volumes.into_iter().filter(|(volume, _)| is_meant(*volume)) {
            let Some(volume) = open.volume(volume) else { continue };
            let mut from = 0;
            loop {
                let step = volume.store.changed_since(here, from, STEP_RANGES)?;
                let Some(last) = step.last() else { break };
                from = last.end();
                blocks = blocks.saturating_add(step.iter().map(|range| range.count()).sum());
                tokio::task::yield_now().await;
            }
        }
        Ok(blocks.saturating_mul(BLOCK_BYTES))
    }

    /// Seats a host that reads a snapshot. It may do so whatever part this gateway plays, and goes on
    /// when the snapshot is deleted.
    pub(crate) fn seat_reader(
        &self,
        (group, volume): (GroupId, VolumeId),
        here: SnapshotId,
        label: String,
        host: Negotiated,
    ) {
        let Some(open) = self.group(group) else { return };
        let Some(of) = open.volume(volume) else { return };
        let volume = match of.store.open_snapshot(here) {
            Ok(volume) => volume,
            Err(error) => {
                // It was deleted since the client was told.
                tracing::warn!(volume = label, snapshot = %here, %error, "a reader was dropped");
                return;
            }
        };
        let changes: Rc<dyn Changes> = Compared::new(&of.store, Some(here));
        let stop = open.closing.child_token();
        let attachment = Attachment { volume, changes: Some(changes), label, stop };
        let readers = of.readers;
        readers.set(readers.get() + 1);
        self.spawn(async move {
            nbd_server::serve(host, attachment).await;
            readers.set(readers.get().saturating_sub(1));
        });
    }
}
