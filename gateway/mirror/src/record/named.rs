//! The snapshots of one volume that have names, as its gateway keeps them and as it tells mirrors.
//!
//! ```text
//!   "TwN1"  u16 version  list  CRC32C(all before)         (all integers little-endian)
//! ```
//!
//! Version 1 has no marks and no recovery points, version 2 no bases of write journals; both are still
//! written where there are none.
//!
//! Invariant: they are recorded by volume, so that they go where it goes, whatever group that is.

use block::{GatewayId, SnapshotId, VolumeId};
use bytes::Bytes;

use super::wire::{Reader, Writer};
use super::{Attributes, Inherited, RecordError};
use crate::status::{Marks, SnapshotOrigin, SnapshotState};

const MAGIC: [u8; 4] = *b"TwN1";
/// The version without marks.
const VERSION_PLAIN: u16 = 1;
/// The version without bases of write journals.
const VERSION_MARKED: u16 = 2;
const VERSION: u16 = 3;

/// What a snapshot of a group is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// The same at every copy.
    pub(crate) id: SnapshotId,
    pub(crate) name: String,
    pub(crate) origin: SnapshotOrigin,
    /// When it was asked for, by the clock of who was asked, for people.
    pub(crate) unix_ms: u64,
    /// What else is known of it by now, here.
    pub(crate) marks: Marks,
}

impl Label {
    /// Whether a release that knows no recovery points understands all of it.
    pub(crate) fn is_plain(&self) -> bool {
        let is_old = match self.origin {
            SnapshotOrigin::Manual | SnapshotOrigin::Safety => true,
            SnapshotOrigin::Backup | SnapshotOrigin::Scheduled | SnapshotOrigin::Journal => false,
        };
        is_old && self.marks.is_empty()
    }
}

/// A volume's part of a snapshot of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) label: Label,
    /// What the store here calls it.
    pub(crate) here: SnapshotId,
    pub(crate) state: SnapshotState,
    /// The mirrors that said that they keep it, too.
    pub(crate) held_by: Vec<GatewayId>,
}

/// What a primary and its mirror say of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotWord {
    /// To a mirror: what came before this in the stream is one.
    Take(Label),
    /// From a mirror: it is kept, durably, or the text says why it is not.
    Taken { id: SnapshotId, failed: Option<String> },
    /// To a mirror: nobody needs it any more.
    Remove(SnapshotId),
    /// To a mirror: the same, and it answers when it does not keep it any more.
    Retire(SnapshotId),
    /// From a mirror: it does not keep it.
    Retired(SnapshotId),
    /// To a mirror: this is known of it, too.
    Mark { id: SnapshotId, marks: Marks },
    /// To a mirror: which recovery points the group has.
    Policy(Option<Bytes>),
    /// To a mirror: this is what host protocols keep of a volume.
    Attributes { volume: VolumeId, kept: Attributes },
    /// From a mirror: it has that, durably.
    AttributesKept { volume: VolumeId, number: u64 },
    /// To a mirror: what the clock says now. All that was begun before stands before it in the stream.
    Time { unix_ms: u64 },
    /// To a mirror that is about to be asked to take over: what the other mirrors lack.
    Heritage(Vec<Inherited>),
}

/// Where the ledger keeps the named snapshots of a volume.
pub(crate) fn named_key(volume: VolumeId) -> String {
    format!("snapshots/{volume}")
}

/// The record of a volume's named snapshots; `None`, which removes it, when there are none.
pub(crate) fn encode(named: &[Named]) -> Option<Bytes> {
    if named.is_empty() {
        return None;
    }
    let mut w = Writer(MAGIC.to_vec());
    let plain = named.iter().all(|named| named.label.is_plain());
    let of_journal = named.iter().any(|named| named.label.origin == SnapshotOrigin::Journal);
    let version = match (plain, of_journal) {
        (true, _) => VERSION_PLAIN,
        (false, false) => VERSION_MARKED,
        (false, true) => VERSION,
    };
    w.0.extend(version.to_le_bytes());
    w.list(named, |w, named| {
        w.label(&named.label);
        if !plain {
            w.marks(&named.label.marks);
        }
        w.uuid(named.here.uuid());
        w.u8(match named.state {
            SnapshotState::Available => 1,
            SnapshotState::RollingBack => 2,
            SnapshotState::Deleting => 3,
            SnapshotState::Error => 4,
        });
        w.list(&named.held_by, |w, gateway| w.uuid(gateway.uuid()));
    });
    Some(w.sealed())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Named>, RecordError> {
    let mut r = Reader::open(bytes, MAGIC, VERSION)?;
    let named = r.list(|r| {
        Ok(Named {
            label: r.label(r.1 > VERSION_PLAIN)?,
            here: SnapshotId::from_uuid(r.uuid()?),
            state: match r.u8()? {
                1 => SnapshotState::Available,
                2 => SnapshotState::RollingBack,
                3 => SnapshotState::Deleting,
                4 => SnapshotState::Error,
                _ => return Err(RecordError::Damaged),
            },
            held_by: r.list(|r| r.uuid().map(GatewayId::from_uuid))?,
        })
    })?;
    if r.0.is_empty() { Ok(named) } else { Err(RecordError::Damaged) }
}

/// The name of a snapshot in a volume's record that is locked by the lock clock, and until when.
///
/// # Errors
/// [`RecordError`] for a record that cannot be read: nobody knows then what is locked.
pub fn locked_in(record: &[u8], lock_ms: u64) -> Result<Option<(String, u64)>, RecordError> {
    let named = decode(record)?;
    let locked = named.into_iter().filter(|of| of.label.marks.locked_until_ms > lock_ms);
    let until = |of: &Named| of.label.marks.locked_until_ms;
    Ok(locked.max_by_key(until).map(|last| (last.label.name.clone(), until(&last))))
}

impl SnapshotWord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer(Vec::new());
        match self {
            Self::Take(label) if label.is_plain() => {
                w.u8(1);
                w.label(label);
            }
            Self::Take(label) => {
                w.u8(4);
                w.label(label);
                w.marks(&label.marks);
            }
            Self::Taken { id, failed } => {
                w.u8(2);
                w.uuid(id.uuid());
                w.option(failed.as_ref(), |w, why| w.text(why));
            }
            Self::Remove(id) => {
                w.u8(3);
                w.uuid(id.uuid());
            }
            Self::Retire(id) => {
                w.u8(5);
                w.uuid(id.uuid());
            }
            Self::Retired(id) => {
                w.u8(6);
                w.uuid(id.uuid());
            }
            Self::Mark { id, marks } => {
                w.u8(7);
                w.uuid(id.uuid());
                w.marks(marks);
            }
            Self::Policy(policy) => {
                w.u8(8);
                w.option(policy.as_ref(), |w, policy| w.bytes(policy));
            }
            Self::Attributes { volume, kept } => {
                w.u8(9);
                w.uuid(volume.uuid());
                w.u64(kept.number);
                w.bytes(&kept.bytes);
            }
            Self::AttributesKept { volume, number } => {
                w.u8(10);
                w.uuid(volume.uuid());
                w.u64(*number);
            }
            Self::Time { unix_ms } => {
                w.u8(11);
                w.u64(*unix_ms);
            }
            Self::Heritage(mirrors) => {
                w.u8(12);
                w.list(mirrors, Writer::inherited);
            }
        }
        Bytes::from(w.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader(bytes, VERSION);
        let word = match r.u8()? {
            1 => Self::Take(r.label(false)?),
            2 => Self::Taken {
                id: SnapshotId::from_uuid(r.uuid()?),
                failed: r.option(Reader::text)?,
            },
            3 => Self::Remove(SnapshotId::from_uuid(r.uuid()?)),
            4 => Self::Take(r.label(true)?),
            5 => Self::Retire(SnapshotId::from_uuid(r.uuid()?)),
            6 => Self::Retired(SnapshotId::from_uuid(r.uuid()?)),
            7 => Self::Mark { id: SnapshotId::from_uuid(r.uuid()?), marks: r.marks()? },
            8 => Self::Policy(r.option(Reader::bytes)?),
            9 => Self::Attributes {
                volume: VolumeId::from_uuid(r.uuid()?),
                kept: Attributes { number: r.u64()?, bytes: r.bytes()? },
            },
            11 => Self::Time { unix_ms: r.u64()? },
            12 => Self::Heritage(r.list(Reader::inherited)?),
            10 => Self::AttributesKept { volume: VolumeId::from_uuid(r.uuid()?), number: r.u64()? },
            _ => return Err(RecordError::Damaged),
        };
        if r.0.is_empty() { Ok(word) } else { Err(RecordError::Damaged) }
    }
}

impl Writer {
    fn label(&mut self, label: &Label) {
        self.uuid(label.id.uuid());
        self.text(&label.name);
        self.u8(match label.origin {
            SnapshotOrigin::Manual => 1,
            SnapshotOrigin::Safety => 2,
            SnapshotOrigin::Backup => 3,
            SnapshotOrigin::Scheduled => 4,
            SnapshotOrigin::Journal => 5,
        });
        self.u64(label.unix_ms);
    }

    fn marks(&mut self, marks: &Marks) {
        self.u64(marks.locked_until_ms);
        self.u8(u8::from(marks.used));
        self.u8(u8::from(marks.application));
        self.option(marks.why_not.as_ref(), |w, why| w.text(why));
    }
}

impl Reader<'_> {
    fn label(&mut self, has_marks: bool) -> Result<Label, RecordError> {
        Ok(Label {
            id: SnapshotId::from_uuid(self.uuid()?),
            name: self.text()?,
            origin: match self.u8()? {
                1 => SnapshotOrigin::Manual,
                2 => SnapshotOrigin::Safety,
                3 => SnapshotOrigin::Backup,
                4 if has_marks => SnapshotOrigin::Scheduled,
                5 if self.1 > VERSION_MARKED => SnapshotOrigin::Journal,
                _ => return Err(RecordError::Damaged),
            },
            unix_ms: self.u64()?,
            marks: if has_marks { self.marks()? } else { Marks::default() },
        })
    }

    fn marks(&mut self) -> Result<Marks, RecordError> {
        Ok(Marks {
            locked_until_ms: self.u64()?,
            used: self.flag()?,
            application: self.flag()?,
            why_not: self.option(Reader::text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use block::{BlockRange, Epoch, Generation, Predecessor, SessionId};

    use super::super::crc32c;
    use super::*;
    use crate::Policy;

    fn sample(state: SnapshotState) -> Named {
        let label = Label {
            id: SnapshotId::of(1),
            name: "before-upgrade".to_owned(),
            origin: SnapshotOrigin::Manual,
            unix_ms: 77,
            marks: Marks::default(),
        };
        Named { label, here: SnapshotId::of(2), state, held_by: vec![GatewayId::of(3)] }
    }

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let states = [
            SnapshotState::Available,
            SnapshotState::RollingBack,
            SnapshotState::Deleting,
            SnapshotState::Error,
        ];
        let named = states.map(sample);
        let bytes = encode(&named).unwrap();
        assert_eq!(decode(&bytes).as_deref(), Ok(&named[..]));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(encode(&[]), None);
    }

    fn marked() -> Named {
        let mut named = sample(SnapshotState::Available);
        named.label.origin = SnapshotOrigin::Scheduled;
        named.label.marks = Marks {
            locked_until_ms: 5,
            used: true,
            application: false,
            why_not: Some("no hook".to_owned()),
        };
        named
    }

    #[test]
    fn marks_are_read_whole_and_a_record_without_them_is_one_of_version_1() {
        let both = [sample(SnapshotState::Available), marked()];
        let bytes = encode(&both).unwrap();
        assert_eq!(bytes[4], 2);
        assert_eq!(decode(&bytes).as_deref(), Ok(&both[..]));
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(encode(&both[..1]).unwrap()[4], 1, "the release before reads it");
    }

    #[test]
    fn a_base_of_a_write_journal_is_one_of_version_3() {
        let mut base = sample(SnapshotState::Available);
        base.label.origin = SnapshotOrigin::Journal;
        let bytes = encode(&[marked(), base.clone()]).unwrap();
        assert_eq!(bytes[4], 3, "a release that does not know it refuses the record");
        assert_eq!(decode(&bytes), Ok(vec![marked(), base]));
    }

    #[test]
    fn marks_add_up_to_the_same_in_any_order() {
        let lock = |ms| Marks { locked_until_ms: ms, ..Marks::default() };
        let some = [
            lock(7),
            lock(3),
            Marks { used: true, ..Marks::default() },
            Marks { why_not: Some("a".to_owned()), ..Marks::default() },
            Marks { why_not: Some("b".to_owned()), ..Marks::default() },
            Marks { application: true, ..Marks::default() },
        ];
        let sum = |order: &[usize]| {
            let mut sum = Marks::default();
            order.iter().for_each(|at| {
                sum.add(&some[*at]);
            });
            sum
        };
        let all = sum(&[0, 1, 2, 3, 4, 5]);
        assert_eq!((all.locked_until_ms, all.used, all.application), (7, true, true));
        assert_eq!(all.why_not, None);
        for order in [[5, 4, 3, 2, 1, 0], [1, 3, 5, 0, 2, 4], [4, 5, 0, 1, 3, 2]] {
            assert_eq!(sum(&order), all);
        }
        assert_eq!(sum(&[3, 4]), sum(&[4, 3]));
        assert!(!all.clone().add(&lock(6)), "a lock is not made shorter");
    }

    #[test]
    fn a_newer_record_is_refused_by_name() {
        let mut bytes = encode(&[sample(SnapshotState::Available)]).unwrap().to_vec();
        bytes[4] = 4;
        let end = bytes.len() - 4;
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(RecordError::Newer(4)));
    }

    #[test]
    fn a_word_is_read_as_it_was_said() {
        let id = SnapshotId::of(9);
        for word in [
            SnapshotWord::Take(sample(SnapshotState::Available).label),
            SnapshotWord::Taken { id, failed: None },
            SnapshotWord::Taken { id, failed: Some("no room".to_owned()) },
            SnapshotWord::Remove(id),
            SnapshotWord::Take(marked().label),
            SnapshotWord::Retire(id),
            SnapshotWord::Retired(id),
            SnapshotWord::Mark { id, marks: marked().label.marks },
            SnapshotWord::Attributes {
                volume: VolumeId::of(1),
                kept: Attributes { number: 3, bytes: Bytes::from_static(b"keys") },
            },
            SnapshotWord::AttributesKept { volume: VolumeId::of(1), number: 3 },
            SnapshotWord::Policy(None),
            SnapshotWord::Time { unix_ms: 77 },
            SnapshotWord::Heritage(vec![Inherited {
                gateway: GatewayId::of(4),
                site: "north".to_owned(),
                sessions: vec![SessionId::of(5)],
                policy: Policy::default(),
                wanted: true,
                suspended: false,
                awaiting_reprotect: true,
                base: Generation::of(6),
                heir_of: Predecessor { gateway: GatewayId::of(9), epoch: Epoch::new(7) },
                lacks: vec![vec![BlockRange::new(2, 9)]],
                suspects: vec![vec![BlockRange::new(3, 5)]],
            }]),
            SnapshotWord::Policy(Some(Bytes::from_static(b"{}"))),
        ] {
            let bytes = word.encode();
            assert_eq!(SnapshotWord::decode(&bytes), Ok(word));
            for len in 0..bytes.len() {
                assert!(SnapshotWord::decode(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
    }
}
