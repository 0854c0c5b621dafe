//! The commands that are not answered yet.
//!
//! Invariant: a key names one command from its arrival to its end, and no other ever after: what
//! the volume answers to one that is gone finds nobody.

use block::Extent;
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::transfer::Transfer;
use crate::scsi::{Outcome, Rank, Slow};

/// What a command comes to once its data is here.
#[derive(Debug)]
pub(crate) enum Work {
    Read(Extent),
    Write(Extent, bool),
    Slow(Slow),
    Answer(Outcome),
}

/// A command that is the same when it is done twice, with the content that it brings.
#[derive(Debug)]
pub(crate) enum Again {
    Read(Extent),
    Write(Extent, bool, Bytes),
}

impl Work {
    /// Whether it changes content.
    pub(crate) const fn is_change(&self) -> bool {
        match self {
            Self::Write(..) => true,
            Self::Slow(slow) => slow.change,
            Self::Read(_) | Self::Answer(_) => false,
        }
    }

    /// Bytes of memory that it takes until its answer is sent.
    pub(crate) fn memory(&self) -> u64 {
        match self {
            Self::Read(extent) | Self::Write(extent, _) => extent.len(),
            Self::Slow(slow) => slow.data_out.into(),
            Self::Answer(_) => 0,
        }
    }
}

/// Where a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for others of its disk, and has not begun.
    Dormant,
    /// Its data is on the way.
    Gathering,
    /// It waits for memory: to be done, or to ask for its data.
    Waiting,
    /// The volume or a future of ours has it.
    Running,
    /// Its outcome is in doubt since then.
    Held(Instant),
}

/// A command.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tag: u32,
    pub(crate) opcode: u8,
    pub(crate) lun: [u8; 8],
    /// Which of the session's disks that is; none if there is no such disk.
    pub(crate) disk: Option<usize>,
    /// Whether it counts in the window.
    pub(crate) counted: bool,
    pub(crate) epoch: u32,
    /// What it is to the others of its disk.
    pub(crate) rank: Rank,
    /// What the host has room for.
    pub(crate) expected_in: u32,
    /// What the host has announced to send.
    pub(crate) expected_out: u32,
    /// Bytes that the CDB says are transferred.
    pub(crate) transfer: u64,
    /// What is to be done; not there while it waits for others, gone once it is under way.
    pub(crate) work: Option<Work>,
    /// What is under way and may be done twice, in case its outcome is in doubt.
    pub(crate) again: Option<Again>,
    /// Since when its outcome is in doubt, all tries together.
    pub(crate) doubted: Option<Instant>,
    pub(crate) change: bool,
    pub(crate) data: Option<Transfer>,
    pub(crate) came: Came,
    pub(crate) stage: Stage,
    /// It ends without an answer.
    pub(crate) aborted: bool,
    /// Bytes that it holds of the connection's share.
    pub(crate) charged: u64,
    pub(crate) received: Instant,
    /// When data of it came last.
    pub(crate) moved: Instant,
}

/// Data that has come.
#[derive(Debug)]
pub(crate) enum Came {
    Nothing,
    /// All of it, by reference.
    Shared(Bytes),
    /// What has come so far.
    Own(BytesMut),
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    slots: Vec<(u32, Option<Task>)>,
    free: Vec<u32>,
    counted: u32,
    count: usize,
}

impl Tasks {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that count in the window.
    pub(crate) const fn counted(&self) -> u32 {
        self.counted
    }

    /// Enters a command; gives its key.
    pub(crate) fn insert(&mut self, task: Task) -> u64 {
        self.count += 1;
        self.counted += u32::from(task.counted);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut self.slots[slot as usize];
        entry.0 = entry.0.wrapping_add(1);
        entry.1 = Some(task);
        u64::from(entry.0) << 32 | u64::from(slot)
    }

    const fn split(key: u64) -> (u32, usize) {
        ((key >> 32) as u32, (key & 0xffff_ffff) as usize)
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Task> {
        let (generation, slot) = Self::split(key);
        let entry = self.slots.get_mut(slot).filter(|entry| entry.0 == generation)?;
        entry.1.as_mut()
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Task> {
        let (generation, slot) = Self::split(key);
        let entry = self.slots.get(slot).filter(|entry| entry.0 == generation)?;
        entry.1.as_ref()
    }

    /// Takes out the command under this key.
    pub(crate) fn remove(&mut self, key: u64) -> Option<Task> {
        let (generation, slot) = Self::split(key);
        let entry = self.slots.get_mut(slot).filter(|entry| entry.0 == generation)?;
        let task = entry.1.take()?;
        self.free.push(u32::try_from(slot).unwrap_or(u32::MAX));
        self.count -= 1;
        self.counted -= u32::from(task.counted);
        Some(task)
    }

    /// The key of the command with this initiator task tag.
    pub(crate) fn find(&self, tag: u32) -> Option<u64> {
        self.iter().find(|(_, task)| task.tag == tag).map(|(key, _)| key)
    }

    /// Every command with its key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Task)> {
        self.slots.iter().enumerate().filter_map(|(slot, (generation, task))| {
            Some((u64::from(*generation) << 32 | slot as u64, task.as_ref()?))
        })
    }
}
