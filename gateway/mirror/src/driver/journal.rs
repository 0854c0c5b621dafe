//! A leg's send journal: what hosts were told is done, and what is not yet on its way to a mirror
//! that follows behind.
//!
//! ```text
//!   push ─▶ tail ─(a chunk is full)─▶ chunks ─(memory is short)─▶ disk
//!           head ◀─(there is room)──────┘ ◀──(read, checked)────────┘
//!   pop ◀── head
//! ```
//!
//! Invariant: messages come out in the order they went in; a chunk that was read back and does not
//! match its checksum fails the journal, it is never sent.

use std::collections::VecDeque;
use std::rc::Rc;

use block::{Change, IoError, LegId, Message};
use bytes::Bytes;

use super::spill::{Spill, SpillFile};
use super::{Group, Journals};
use crate::machine::{Event, JournalLimits};

/// Bytes that are cut off for the disk at once.
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// Chunks that are read back before they are needed.
const READ_AHEAD: usize = 4;

/// The bytes of a message that a journal counts.
pub(super) fn payload_bytes(message: &Message) -> u64 {
    match message {
        Message::Change { change: Change::Write(data), .. } => data.len() as u64,
        _ => 0,
    }
}

#[derive(Debug)]
enum Place {
    Memory,
    /// In memory as well until it is written.
    Writing,
    Disk {
        offset: u64,
        crc: u32,
    },
    Reading,
}

#[derive(Debug)]
struct Chunk {
    number: u64,
    messages: Vec<Message>,
    bytes: u64,
    place: Place,
}

/// A place on disk that is taken, oldest first.
#[derive(Debug)]
struct Region {
    chunk: u64,
    offset: u64,
    bytes: u64,
}

/// Something that must be done with the disk; its end is told by [`Journal::done`].
pub(super) struct Io {
    chunk: u64,
    file: Rc<dyn SpillFile>,
    what: What,
}

enum What {
    Write { offset: u64, data: Vec<Bytes>, crc: u32 },
    Read { offset: u64, bytes: u64, crc: u32 },
}

/// How it ended.
pub(super) enum Done {
    Written { chunk: u64, offset: u64, crc: u32 },
    Read { chunk: u64, data: Bytes },
    Failed,
}

/// The journal.
pub(super) struct Journal {
    limits: JournalLimits,
    spill: Rc<dyn Spill>,
    file: Option<Rc<dyn SpillFile>>,
    head: VecDeque<Message>,
    head_bytes: u64,
    chunks: VecDeque<Chunk>,
    tail: Vec<Message>,
    tail_bytes: u64,
    regions: VecDeque<Region>,
    write_at: u64,
    next_chunk: u64,
    writing: bool,
    reading: bool,
    failed: bool,
}

// === impl Journal ===

impl Journal {
    pub(super) fn new(journals: &Journals) -> Self {
        Self {
            limits: journals.limits,
            spill: Rc::clone(&journals.spill),
            file: None,
            head: VecDeque::new(),
            head_bytes: 0,
            chunks: VecDeque::new(),
            tail: Vec::new(),
            tail_bytes: 0,
            regions: VecDeque::new(),
            write_at: 0,
            next_chunk: 0,
            writing: false,
            reading: false,
            failed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.chunks.is_empty() && self.tail.is_empty()
    }

    /// Bytes of payload in it.
    pub(super) fn bytes(&self) -> u64 {
        self.head_bytes + self.tail_bytes + self.chunks.iter().map(|chunk| chunk.bytes).sum::<u64>()
    }

    /// Of these, the ones on disk and not in memory.
    pub(super) fn spilled_bytes(&self) -> u64 {
        let spilled = |chunk: &&Chunk| matches!(chunk.place, Place::Disk { .. } | Place::Reading);
        self.chunks.iter().filter(spilled).map(|chunk| chunk.bytes).sum()
    }

    fn memory_bytes(&self) -> u64 {
        self.bytes() - self.spilled_bytes()
    }

    pub(super) fn push(&mut self, message: Message) {
        let bytes = payload_bytes(&message);
        let spills = self.limits.spill_bytes > 0;
        let room = !spills || self.head_bytes + bytes <= self.limits.memory_bytes / 2;
        if self.chunks.is_empty() && self.tail.is_empty() && room {
            self.head.push_back(message);
            self.head_bytes += bytes;
            return;
        }
        self.tail.push(message);
        self.tail_bytes += bytes;
        if self.tail_bytes >= CHUNK_BYTES_MAX.min(self.limits.memory_bytes / 8) {
            self.next_chunk += 1;
            self.chunks.push_back(Chunk {
                number: self.next_chunk,
                messages: std::mem::take(&mut self.tail),
                bytes: std::mem::take(&mut self.tail_bytes),
                place: Place::Memory,
            });
        }
    }

    /// The oldest message, if it is in memory and no longer than `room`.
    pub(super) fn pop(&mut self, room: u64) -> Option<Message> {
        self.refill();
        if payload_bytes(self.head.front()?) > room {
            return None;
        }
        let message = self.head.pop_front()?;
        self.head_bytes -= payload_bytes(&message);
        Some(message)
    }

    /// Takes into the head what is in memory next.
    fn refill(&mut self) {
        while self.head.is_empty() {
            match self.chunks.front() {
                Some(Chunk { place: Place::Memory | Place::Writing, .. }) => {
                    let Some(chunk) = self.chunks.pop_front() else { return };
                    self.head_bytes += chunk.bytes;
                    self.head.extend(chunk.messages);
                }
                Some(_) => return,
                None if self.tail.is_empty() => return,
                None => {
                    self.head_bytes += std::mem::take(&mut self.tail_bytes);
                    self.head.extend(std::mem::take(&mut self.tail));
                }
            }
        }
    }

    /// What the disk should do next. Says so once that the journal failed, and why not before.
    pub(super) fn begin_io(&mut self) -> Result<Option<Io>, IoError> {
        if self.failed || self.limits.spill_bytes == 0 {
            return Ok(None);
        }
        if let Some(io) = self.begin_read() {
            return Ok(Some(io));
        }
        let memory = self.memory_bytes();
        if memory > self.limits.memory_bytes.saturating_mul(2) {
            // The disk is slower than the hosts.
            self.failed = true;
            return Err(IoError::NoSpace);
        }
        if self.writing || memory <= self.limits.memory_bytes / 4 * 3 {
            return Ok(None);
        }
        self.begin_write().inspect_err(|_| self.failed = true)
    }

    fn begin_read(&mut self) -> Option<Io> {
        let short = self.head_bytes < self.limits.memory_bytes / 4;
        let file = self.file.clone().filter(|_| short && !self.reading)?;
        // What is read back waits in its chunk until the head is empty; a few wait ahead of it.
        let on_disk = |chunk: &&mut Chunk| matches!(chunk.place, Place::Disk { .. });
        let chunk = self.chunks.iter_mut().take(READ_AHEAD).find(on_disk)?;
        let Place::Disk { offset, crc } = chunk.place else { return None };
        chunk.place = Place::Reading;
        self.reading = true;
        let what = What::Read { offset, bytes: chunk.bytes, crc };
        Some(Io { chunk: chunk.number, file, what })
    }

    fn begin_write(&mut self) -> Result<Option<Io>, IoError> {
        let first = self.chunks.iter().position(|chunk| matches!(chunk.place, Place::Memory));
        let Some(at) = first.filter(|at| *at > 0 || self.chunks.len() > 1) else { return Ok(None) };
        let file = match &self.file {
            Some(file) => Rc::clone(file),
            None => Rc::clone(self.file.insert(self.spill.open()?)),
        };
        let (number, bytes) = (self.chunks[at].number, self.chunks[at].bytes);
        let offset = self.take_region(number, bytes).ok_or(IoError::NoSpace)?;
        let chunk = &mut self.chunks[at];
        chunk.place = Place::Writing;
        self.writing = true;
        let mut data = Vec::with_capacity(chunk.messages.len());
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        for message in &chunk.messages {
            if let Message::Change { change: Change::Write(payload), .. } = message {
                digest.update(payload);
                data.push(payload.clone());
            }
        }
        let crc = u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits");
        Ok(Some(Io { chunk: number, file, what: What::Write { offset, data, crc } }))
    }

    /// A place for a chunk: the disk is used round and round.
    fn take_region(&mut self, chunk: u64, bytes: u64) -> Option<u64> {
        let oldest = self.chunks.front().map_or(u64::MAX, |chunk| chunk.number);
        while self.regions.front().is_some_and(|region| region.chunk < oldest) {
            self.regions.pop_front();
        }
        let capacity = self.limits.spill_bytes;
        let offset = match self.regions.front().map(|region| region.offset) {
            None if bytes <= capacity => 0,
            Some(first) if self.write_at > first && bytes <= capacity - self.write_at => {
                self.write_at
            }
            Some(first) if self.write_at > first && bytes < first => 0,
            Some(first) if self.write_at < first && bytes < first - self.write_at => self.write_at,
            _ => return None,
        };
        self.write_at = offset + bytes;
        self.regions.push_back(Region { chunk, offset, bytes });
        debug_assert!(self.regions.iter().map(|region| region.bytes).sum::<u64>() <= capacity);
        Some(offset)
    }

    /// The disk did what it should.
    pub(super) fn done(&mut self, done: Done) -> Result<(), IoError> {
        match done {
            Done::Written { chunk, offset, crc } => {
                self.writing = false;
                // One that was needed meanwhile was taken out of memory.
                if let Some(chunk) = self.chunks.iter_mut().find(|c| c.number == chunk) {
                    chunk.messages.iter_mut().for_each(forget_payload);
                    chunk.place = Place::Disk { offset, crc };
                }
            }
            Done::Read { chunk, data } => {
                self.reading = false;
                if let Some(chunk) = self.chunks.iter_mut().find(|c| c.number == chunk) {
                    let mut rest = data;
                    for message in &mut chunk.messages {
                        recall_payload(message, &mut rest);
                    }
                    // From here on it is as one that never was on disk, and first in line.
                    chunk.place = Place::Writing;
                }
            }
            Done::Failed => {
                self.failed = true;
                return Err(IoError::Media);
            }
        }
        Ok(())
    }
}

fn forget_payload(message: &mut Message) {
    if let Message::Change { change: Change::Write(data), .. } = message {
        *data = Bytes::new();
    }
}

fn recall_payload(message: &mut Message, rest: &mut Bytes) {
    if let Message::Change { extent, change: Change::Write(data), .. } = message {
        let len = usize::try_from(extent.len()).unwrap_or(usize::MAX).min(rest.len());
        *data = rest.split_to(len);
    }
}

/// Does it, and tells the journal, if its leg is still on the same link.
pub(super) async fn run(group: Rc<Group>, leg: LegId, attempt: u64, io: Io) {
    let Io { chunk, file, what } = io;
    let done = match what {
        What::Write { offset, data, crc } => match file.write(offset, data).await {
            Ok(()) => Done::Written { chunk, offset, crc },
            Err(error) => failed("write", error),
        },
        What::Read { offset, bytes, crc } => {
            let bytes = usize::try_from(bytes).expect("a chunk fits the address space");
            match file.read(offset, bytes).await {
                Ok(data) if crate::record::crc32c(&data) == crc => Done::Read { chunk, data },
                Ok(_) => failed("read", IoError::Checksum),
                Err(error) => failed("read", error),
            }
        }
    };
    {
        let mut core = group.core.borrow_mut();
        let Some(port) = core.legs[leg.index()].as_mut().filter(|p| p.attempt == attempt) else {
            return;
        };
        if port.journal.done(done).is_err() {
            core.events.push(Event::JournalFailed { leg });
        }
    }
    group.turn();
}

fn failed(what: &'static str, error: IoError) -> Done {
    tracing::warn!(what, %error, "a send journal's disk failed");
    Done::Failed
}

#[cfg(test)]
mod tests {
    use block::{Extent, Seq};
    use proptest::prelude::*;

    use super::*;

    fn message(n: u64, bytes: usize) -> Message {
        let fill = u8::try_from(n % 251).unwrap();
        Message::Change {
            seq: Seq::new(n),
            volume: 0,
            extent: Extent::new(0, bytes as u64).unwrap(),
            change: Change::Write(Bytes::from(vec![fill; bytes])),
            fua: false,
            resync: false,
        }
    }

    fn journal(memory_bytes: u64, spill_bytes: u64) -> Journal {
        Journal::new(&Journals::in_memory(JournalLimits { memory_bytes, spill_bytes }))
    }

    /// Does what the disk should, at once; says whether the journal still holds.
    fn work(journal: &mut Journal) -> bool {
        loop {
            match journal.begin_io() {
                Err(_) => return false,
                Ok(None) => return true,
                Ok(Some(Io { chunk, file, what })) => {
                    let done = match what {
                        What::Write { offset, data, crc } => {
                            futures_now(file.write(offset, data)).unwrap();
                            Done::Written { chunk, offset, crc }
                        }
                        What::Read { offset, bytes, crc } => {
                            let data =
                                futures_now(file.read(offset, usize::try_from(bytes).unwrap()))
                                    .unwrap();
                            assert_eq!(crate::record::crc32c(&data), crc);
                            Done::Read { chunk, data }
                        }
                    };
                    journal.done(done).unwrap();
                }
            }
        }
    }

    fn futures_now<T>(mut future: super::super::LocalFuture<T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("memory answers at once"),
        }
    }

    proptest! {
        /// Whatever is pushed and popped in whatever rhythm comes out whole and in order, and no
        /// more of it than allowed is in memory.
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec((any::<bool>(), 1usize..5000, any::<bool>()), 1..400),
        ) {
            let memory = 64 << 10;
            let mut journal = journal(memory, 4 << 20);
            let (mut pushed, mut popped) = (0u64, 0u64);
            let mut lens = Vec::new();
            for (push, len, disk) in steps {
                if push {
                    journal.push(message(pushed, len));
                    lens.push(len);
                    pushed += 1;
                } else if let Some(out) = journal.pop(u64::MAX) {
                    prop_assert_eq!(out, message(popped, lens[usize::try_from(popped).unwrap()]));
                    popped += 1;
                }
                if disk {
                    prop_assert!(work(&mut journal));
                    prop_assert!(journal.memory_bytes() <= memory * 2);
                }
            }
            while popped < pushed {
                prop_assert!(work(&mut journal));
                let out = journal.pop(u64::MAX).expect("what is next can be had");
                prop_assert_eq!(out, message(popped, lens[usize::try_from(popped).unwrap()]));
                popped += 1;
            }
            prop_assert!(journal.is_empty() && journal.bytes() == 0);
        }
    }

    #[test]
    fn a_full_disk_fails_the_journal_and_not_the_process() {
        let mut journal = journal(64 << 10, 128 << 10);
        let mut holds = true;
        for n in 0..1000 {
            journal.push(message(n, 4096));
            holds &= work(&mut journal);
        }
        assert!(!holds);
    }

    #[test]
    fn without_a_disk_everything_stays_in_memory() {
        let mut journal = journal(64 << 10, 0);
        for n in 0..100 {
            journal.push(message(n, 4096));
            assert!(work(&mut journal));
        }
        assert_eq!((journal.bytes(), journal.spilled_bytes()), (100 * 4096, 0));
    }
}
