//! Messages to bytes.
//!
//! Invariant: an outbox gets a whole frame or, with [`Unsendable`], nothing of it. The data of a
//! change is not copied.
#![warn(clippy::arithmetic_side_effects)]

use block::{
    BlockRange, CUTS_SINCE_VERSION, Change, DirtyReport, Extent, HEIRS_SINCE_VERSION, Message,
    MirrorState, Mode, Open, POLICY_SINCE_VERSION, RELAYS_SINCE_VERSION, SNAPSHOTS_SINCE_VERSION,
    SPAN_SINCE_VERSION, Seq, Vote,
};
use bytes::Bytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::cursor::Writer;
use super::{
    GREETING_VERSION, Greeting, HEADER_BYTES, Head, MAGIC, Outbox, RawHeader, Unsendable, body,
    crc, flag, kind, status,
};
use crate::limits::{
    ACKS_PER_FRAME_MAX, CHANGE_BYTES_MAX, HANDSHAKE_PAYLOAD_BYTES_MAX, LONG_QUESTION_BYTES_MAX,
    PAYLOAD_BYTES_MAX, QUESTION_BYTES_MAX, RANGES_PER_FRAME_MAX, SUMS_BYTES_MAX,
};

/// Queues what is said before a version is agreed on.
///
/// # Errors
/// [`Unsendable`] when a field is longer than the protocol allows.
pub fn encode_greeting(greeting: &Greeting, out: &mut Outbox) -> Result<(), Unsendable> {
    let encoder = Encoder { version: GREETING_VERSION, bytes_max: HANDSHAKE_PAYLOAD_BYTES_MAX };
    let head = |kind| Head { kind, ..Head::default() };
    match greeting {
        Greeting::Hello(hello) => {
            encoder.with_body(head(kind::HELLO), out, |w| body::write_hello(w, hello))
        }
        Greeting::Refused(refusal) => encoder.with_body(head(kind::REFUSED), out, |w| {
            body::write_refusal(w, refusal);
            Ok(())
        }),
        Greeting::Join(join) => {
            encoder.with_body(head(kind::JOIN), out, |w| body::write_join(w, join))
        }
        Greeting::Joined(joined) => {
            encoder.with_body(head(kind::JOINED), out, |w| body::write_joined(w, joined))
        }
    }
}

/// Queues a message in this version. Long lists of acknowledgements and differences become several
/// frames, which mean the same.
///
/// # Errors
/// [`Unsendable`] when it does not fit a frame: a change over 64 MiB, a name over 1 KiB, too many
/// volumes, or data that is not as long as its extent.
pub fn encode(version: u16, message: Message, out: &mut Outbox) -> Result<(), Unsendable> {
    let encoder = Encoder { version, bytes_max: PAYLOAD_BYTES_MAX };
    match message {
        Message::Change { seq, volume, extent, change, fua, resync } => {
            let flags = pick(fua, flag::FUA) | pick(resync, flag::RESYNC);
            let head = Head { flags, volume, seq: seq.get(), ..Head::default() };
            encoder.change(head, extent, change, out)
        }
        Message::Acks(acks) => encoder.acks(&acks, out),
        Message::Open(open) if open.relayed && version < RELAYS_SINCE_VERSION => {
            Err(Unsendable("a mirror that relays in a version of the protocol that has none"))
        }
        Message::Open(open) => {
            let head = open_head(&open, version);
            encoder.with_body(head, out, |w| body::write_open(w, &open, version))
        }
        Message::Opened(opened) => {
            let head = Head { kind: kind::OPENED, ..Head::default() };
            encoder.with_body(head, out, |w| body::write_opened(w, &opened, version))
        }
        Message::Differs(report) => encoder.differs(&report, out),
        Message::Compare { seq, volume, extent, sums } => {
            let (seq, offset, len) = (seq.get(), extent.offset(), extent.len());
            if sums.len() > SUMS_BYTES_MAX {
                return Err(Unsendable("too many blocks to compare at once"));
            }
            let kind = kind::COMPARE;
            encoder.shared(Head { kind, volume, seq, offset, len, ..Head::default() }, sums, out)
        }
        Message::Compared { seq, differs } => {
            let head = Head { kind: kind::COMPARED, seq: seq.get(), ..Head::default() };
            encoder.with_body(head, out, |w| body::write_blocks(w, &differs))
        }
        Message::Policy(_) if version < POLICY_SINCE_VERSION => {
            Err(Unsendable("policies in a version of the protocol that has none"))
        }
        Message::Policy(policy) => encoder.question(kind::POLICY, policy, out),
        Message::Span(_) if version < SPAN_SINCE_VERSION => {
            Err(Unsendable("other parts in a version of the protocol that has none"))
        }
        Message::Span(span) => encoder.question(kind::SPAN, span, out),
        Message::Snapshot(_) if version < SNAPSHOTS_SINCE_VERSION => {
            Err(Unsendable("a snapshot in a version of the protocol that has none"))
        }
        Message::Snapshot(word) => encoder.question(kind::SNAPSHOT, word, out),
        Message::Ask(question) => encoder.question(kind::ASK, question, out),
        Message::Told(answer) => encoder.question(kind::TOLD, answer, out),
        Message::Mapped { volume, blocks, last } => encoder.mapped(volume, &blocks, last, out),
        Message::Promote { generation, ancestors } => {
            let head = Head { kind: kind::PROMOTE, ..Head::default() };
            encoder.with_body(head, out, |w| body::write_promote(w, generation, &ancestors))
        }
        Message::Cut { .. } | Message::CutApplied { .. } if version < CUTS_SINCE_VERSION => {
            Err(Unsendable("a cut in a version of the protocol that has none"))
        }
        Message::Cut { seq, generation, ancestors } => {
            let head = Head { kind: kind::CUT, seq: seq.get(), ..Head::default() };
            encoder.with_body(head, out, |w| body::write_promote(w, generation, &ancestors))
        }
        Message::Goodbye(goodbye) => {
            let head = Head { kind: kind::GOODBYE, ..Head::default() };
            encoder.with_body(head, out, |w| {
                body::write_goodbye(w, &goodbye);
                Ok(())
            })
        }
        plain => plain_head(&plain, version)
            .map(|head| encoder.bare(head, out))
            .ok_or(Unsendable("this kind of message has a body")),
    }
}

/// Cuts a report into reports that fit a frame each. No report stays one, and names no block.
pub fn split_differs(report: &DirtyReport) -> impl Iterator<Item = (u16, &[BlockRange])> {
    let none = report.blocks.is_empty().then_some(&report.blocks[..]);
    let some = report.blocks.chunks(RANGES_PER_FRAME_MAX);
    none.into_iter().chain(some).map(|blocks| (report.volume, blocks))
}

fn open_head(open: &Open, version: u16) -> Head {
    let heir_of = body::heir_of(open, version);
    let flags = pick(open.discard, flag::DISCARD)
        | pick(open.relayed, flag::RELAYED)
        | pick(heir_of.is_some(), flag::HEIR);
    let (epoch, seq) = (open.epoch.get(), heir_of.map_or(0, |heir_of| heir_of.epoch.get()));
    Head { kind: kind::OPEN, flags, epoch, seq, ..Head::default() }
}

/// The header of a message that is nothing but a header.
fn plain_head(message: &Message, version: u16) -> Option<Head> {
    let zero = Head::default();
    Some(match *message {
        Message::Flush { seq } => Head { kind: kind::FLUSH, seq: seq.get(), ..zero },
        Message::Failed { seq, error } => {
            Head { kind: kind::FAILED, seq: seq.get(), aux: status::code(error), ..zero }
        }
        Message::Durable { seq } => Head { kind: kind::DURABLE, seq: seq.get(), ..zero },
        Message::Handover { epoch } => Head { kind: kind::HANDOVER, epoch: epoch.get(), ..zero },
        Message::Voted(Vote::InSync) => Head { kind: kind::VOTED, ..zero },
        Message::Voted(Vote::TookOver { epoch }) => {
            Head { kind: kind::VOTED, epoch: epoch.get(), aux: 1, ..zero }
        }
        Message::List { volume } => Head { kind: kind::LIST, volume, ..zero },
        Message::Outdate => Head { kind: kind::OUTDATE, ..zero },
        Message::Grow { volume, bytes } => Head { kind: kind::GROW, volume, len: bytes, ..zero },
        Message::Grown { volume, bytes } => Head { kind: kind::GROWN, volume, len: bytes, ..zero },
        Message::CutApplied { seq } => Head { kind: kind::CUT_APPLIED, seq: seq.get(), ..zero },
        Message::Ping { stamp, state } => {
            Head { kind: kind::PING, ..state_head(stamp, state, version) }
        }
        Message::Pong { stamp, state, persist_us } => {
            let head = state_head(stamp, state, version);
            Head { kind: kind::PONG, aux: head.aux | u64::from(persist_us), ..head }
        }
        Message::Open(_)
        | Message::Opened(_)
        | Message::Differs(_)
        | Message::Change { .. }
        | Message::Acks(_)
        | Message::Compare { .. }
        | Message::Compared { .. }
        | Message::Mapped { .. }
        | Message::Policy(_)
        | Message::Span(_)
        | Message::Snapshot(_)
        | Message::Ask(_)
        | Message::Told(_)
        | Message::Promote { .. }
        | Message::Cut { .. }
        | Message::Goodbye(_) => return None,
    })
}

/// The lag lies in the upper half of `aux`, one more than it is, so that 0 says that it is unknown.
fn state_head(stamp: u64, state: MirrorState, version: u16) -> Head {
    let mode = match state.mode {
        Mode::Sync => 0,
        Mode::Consistency => flag::CONSISTENCY,
        Mode::Stack => flag::STACK,
    };
    let lag = state.lag_ms.map_or(0, |ms| u64::from(ms.saturating_add(1)));
    let told = version >= CUTS_SINCE_VERSION;
    Head {
        flags: pick(state.in_sync, flag::IN_SYNC)
            | pick(state.copying, flag::COPYING)
            | if told { mode } else { 0 },
        seq: state.seq.get(),
        offset: stamp,
        len: state.out_of_sync_bytes,
        aux: if told { lag << 32 } else { 0 },
        ..Head::default()
    }
}

const fn pick(yes: bool, bit: u8) -> u8 {
    if yes { bit } else { 0 }
}

/// Writes frames of one version.
struct Encoder {
    version: u16,
    bytes_max: usize,
}

impl Encoder {
    fn change(
        &self,
        head: Head,
        extent: Extent,
        change: Change,
        out: &mut Outbox,
    ) -> Result<(), Unsendable> {
        let head = Head { offset: extent.offset(), len: extent.len(), ..head };
        match change {
            Change::Write(data) => {
                if data.len() as u64 != extent.len() {
                    return Err(Unsendable("data is not as long as its extent"));
                }
                if data.len() > CHANGE_BYTES_MAX {
                    return Err(Unsendable("a change is larger than 64 MiB"));
                }
                self.shared(Head { kind: kind::WRITE, ..head }, data, out)?;
            }
            Change::Zero { may_trim } => {
                let flags = head.flags | pick(may_trim, flag::MAY_TRIM);
                self.bare(Head { kind: kind::ZERO, flags, ..head }, out);
            }
            Change::Trim => self.bare(Head { kind: kind::TRIM, ..head }, out),
        }
        Ok(())
    }

    fn acks(&self, acks: &[Seq], out: &mut Outbox) -> Result<(), Unsendable> {
        for some in acks.chunks(ACKS_PER_FRAME_MAX) {
            self.with_body(Head { kind: kind::ACKS, ..Head::default() }, out, |w| {
                for seq in some {
                    w.u64(seq.get());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn differs(&self, report: &DirtyReport, out: &mut Outbox) -> Result<(), Unsendable> {
        for (volume, blocks) in split_differs(report) {
            let head = Head { kind: kind::DIFFERS, volume, ..Head::default() };
            self.with_body(head, out, |w| body::write_blocks(w, blocks))?;
        }
        Ok(())
    }

    fn mapped(
        &self,
        volume: u16,
        blocks: &[BlockRange],
        last: bool,
        out: &mut Outbox,
    ) -> Result<(), Unsendable> {
        let mut chunks = blocks.chunks(RANGES_PER_FRAME_MAX).peekable();
        loop {
            let some = chunks.next().unwrap_or_default();
            let ends = chunks.peek().is_none();
            let flags = pick(last && ends, flag::LAST);
            let head = Head { kind: kind::MAPPED, flags, volume, ..Head::default() };
            self.with_body(head, out, |w| body::write_blocks(w, some))?;
            if ends {
                return Ok(());
            }
        }
    }

    fn bare(&self, head: Head, out: &mut Outbox) {
        out.push_small(&self.header(head, 0, crc(&[])));
    }

    fn question(&self, kind: u8, text: Bytes, out: &mut Outbox) -> Result<(), Unsendable> {
        let has_heirs = self.version >= HEIRS_SINCE_VERSION;
        let long = matches!(kind, kind::ASK | kind::TOLD) || kind == kind::SNAPSHOT && has_heirs;
        if text.len() > if long { LONG_QUESTION_BYTES_MAX } else { QUESTION_BYTES_MAX } {
            return Err(Unsendable("a question or answer is too long"));
        }
        self.shared(Head { kind, ..Head::default() }, text, out)
    }

    fn shared(&self, head: Head, data: Bytes, out: &mut Outbox) -> Result<(), Unsendable> {
        let header = self.header(head, self.fitting(data.len())?, crc(&data));
        out.push_small(&header);
        out.push_shared(data, head.flags & flag::RESYNC != 0);
        Ok(())
    }

    fn with_body(
        &self,
        head: Head,
        out: &mut Outbox,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Unsendable>,
    ) -> Result<(), Unsendable> {
        let mut scratch = std::mem::take(&mut out.scratch);
        let written = write(&mut Writer::new(&mut scratch))
            .and_then(|()| self.fitting(scratch.len()))
            .map(|len| {
                out.push_small(&self.header(head, len, crc(&scratch)));
                out.push_small(&scratch);
            });
        out.scratch = scratch;
        written
    }

    fn fitting(&self, len: usize) -> Result<u32, Unsendable> {
        let fits = u32::try_from(len).ok().filter(|_| len <= self.bytes_max);
        fits.ok_or(Unsendable("a message is too large for a frame"))
    }

    fn header(&self, head: Head, payload_bytes: u32, payload_crc: u32) -> [u8; HEADER_BYTES] {
        let mut raw = RawHeader {
            magic: U32::new(MAGIC),
            version: U16::new(self.version),
            kind: head.kind,
            flags: head.flags,
            volume: U16::new(head.volume),
            reserved: U16::ZERO,
            payload_bytes: U32::new(payload_bytes),
            seq: U64::new(head.seq),
            epoch: U64::new(head.epoch),
            offset: U64::new(head.offset),
            len: U64::new(head.len),
            aux: U64::new(head.aux),
            payload_crc: U32::new(payload_crc),
            header_crc: U32::ZERO,
        };
        raw.header_crc = U32::new(crc(&raw.as_bytes()[..HEADER_BYTES.saturating_sub(4)]));
        zerocopy::transmute!(raw)
    }
}
