//! What a host protocol keeps of a volume beside its content, as the reservations of SCSI: opaque here,
//! and the same at every in-sync mirror before it is answered.
//!
//! ```text
//!   primary   told in the stream of every mirror, recorded here ─▶ answered when both is durable
//!   mirror    recorded ─▶ says so
//! ```
//!
//! Invariant (rule 1, for what is no content): nothing is answered before every mirror that counts has
//! it durably, or is durably out of the in-sync set. A mirror that connects hears all of it before it
//! is asked whether it is in sync.

use block::{ATTRIBUTES_SINCE_VERSION, IoError, LegId, Message, VolumeId};
use bytes::Bytes;

use super::gate::Gate;
use super::leg::LegSet;
use super::{After, Effect, Machine};
use crate::record::{Attributes, SnapshotWord, attributes_key};

/// Larger ones are refused: they are in memory, and in one record.
pub(crate) const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

/// One that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    token: u64,
    volume: VolumeId,
    number: u64,
    /// The record that makes it durable here.
    record: u64,
    recorded: bool,
    waiting: LegSet,
    /// When the mirrors were told.
    at_ms: u64,
}

impl Machine {
    /// What is kept of a volume.
    pub(crate) fn attributes(&self, volume: VolumeId) -> Option<Bytes> {
        let state = self.volumes.iter().find(|state| state.id == volume)?;
        state.attributes.as_ref().map(|kept| kept.bytes.clone())
    }

    /// A host protocol puts something in place of what is kept of a volume.
    pub(super) fn set_attributes(
        &mut self,
        (volume, token): (VolumeId, u64),
        bytes: Bytes,
        out: &mut Vec<Effect>,
    ) {
        let error = match self.gate(true) {
            Gate::Open if bytes.len() > ATTRIBUTES_BYTES_MAX => Some(IoError::Invalid),
            Gate::Open => {
                let knows = |leg| self.leg(leg).map(|l| l.version >= ATTRIBUTES_SINCE_VERSION);
                let old = self.counting.iter().any(|leg| knows(leg) == Some(false));
                old.then_some(IoError::Unsupported)
            }
            // Whoever asks asks again.
            Gate::Hold => Some(IoError::Halted),
            Gate::Refuse(error) => Some(error),
        };
        let index = self.volumes.iter().position(|state| state.id == volume);
        let index = match (error, index) {
            (Some(error), _) => {
                return out.push(Effect::AttributesKept { token, result: Err(error) });
            }
            (None, None) => {
                let result = Err(IoError::Invalid);
                return out.push(Effect::AttributesKept { token, result });
            }
            (None, Some(index)) => index,
        };
        let number = self.volumes[index].attributes.as_ref().map_or(0, |kept| kept.number) + 1;
        let kept = Attributes { number, bytes };
        self.tell_attributes(self.live, volume, &kept, out);
        let records = vec![(attributes_key(volume), Some(kept.encode()))];
        self.volumes[index].attributes = Some(kept);
        let record = self.next_record;
        self.keep_with(After::Nothing, records, out);
        let (waiting, at_ms) = (self.counting, self.now_ms);
        let keeping = Keeping { token, volume, number, record, recorded: false, waiting, at_ms };
        self.recovery.keeping.push(keeping);
    }

    /// Tells mirrors what is kept of a volume.
    fn tell_attributes(
        &self,
        legs: LegSet,
        volume: VolumeId,
        kept: &Attributes,
        out: &mut Vec<Effect>,
    ) {
        let word = SnapshotWord::Attributes { volume, kept: kept.clone() }.encode();
        for leg in legs.iter() {
            if self.leg(leg).is_some_and(|leg| leg.version >= ATTRIBUTES_SINCE_VERSION) {
                out.push(Effect::Post { leg, message: Message::Snapshot(word.clone()) });
            }
        }
    }

    /// A mirror is connected: it hears what is kept of every volume.
    pub(super) fn tell_all_attributes(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        // One that was lost meanwhile, and still counts, is asked anew.
        let now_ms = self.now_ms;
        let waits = |keeping: &&mut Keeping| keeping.waiting.has(leg);
        self.recovery.keeping.iter_mut().filter(waits).for_each(|k| k.at_ms = now_ms);
        let mut only = LegSet::default();
        only.insert(leg);
        for volume in &self.volumes {
            if let Some(kept) = &volume.attributes {
                self.tell_attributes(only, volume.id, kept, out);
            }
        }
    }

    /// Since when something that is to be kept of a volume waits for a mirror.
    pub(super) fn attributes_await(&self, leg: LegId) -> Option<u64> {
        let waits = self.recovery.keeping.iter().filter(|keeping| keeping.waiting.has(leg));
        waits.map(|keeping| keeping.at_ms).min()
    }

    /// A mirror has it durably.
    pub(super) fn heard_attributes(
        &mut self,
        leg: LegId,
        (volume, number): (VolumeId, u64),
        out: &mut Vec<Effect>,
    ) {
        for keeping in &mut self.recovery.keeping {
            if keeping.volume == volume && keeping.number <= number {
                keeping.waiting.remove(leg);
            }
        }
        self.answer_attributes(out);
    }

    /// A mirror is durably out of the in-sync set.
    pub(super) fn attributes_without(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.recovery.keeping.iter_mut().for_each(|keeping| keeping.waiting.remove(leg));
        self.answer_attributes(out);
    }

    /// A record is durable.
    pub(super) fn attributes_recorded(&mut self, number: u64, out: &mut Vec<Effect>) {
        for keeping in &mut self.recovery.keeping {
            keeping.recorded |= keeping.record <= number;
        }
        self.answer_attributes(out);
    }

    fn answer_attributes(&mut self, out: &mut Vec<Effect>) {
        self.recovery.keeping.retain(|keeping| {
            let done = keeping.recorded && keeping.waiting.is_empty();
            if done {
                let (token, result) = (keeping.token, Ok(()));
                out.push(Effect::AttributesKept { token, result });
            }
            !done
        });
    }

    /// Nobody is served here any more: whether it holds is decided elsewhere.
    pub(super) fn fail_attributes(&mut self, error: IoError, out: &mut Vec<Effect>) {
        for keeping in self.recovery.keeping.drain(..) {
            out.push(Effect::AttributesKept { token: keeping.token, result: Err(error) });
        }
    }

    // --- at a mirror ---

    /// The primary says what it keeps of a volume. A volume that is none here is none of its group.
    pub(super) fn told_attributes(
        &mut self,
        volume: VolumeId,
        kept: Attributes,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.volumes.iter_mut().find(|state| state.id == volume) else { return };
        let number = kept.number;
        let records = vec![(attributes_key(volume), Some(kept.encode()))];
        state.attributes = Some(kept);
        let record = self.next_record;
        self.keep_with(After::Nothing, records, out);
        self.recovery.confirming.push((record, SnapshotWord::AttributesKept { volume, number }));
    }
}
