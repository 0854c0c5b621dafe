//! Bytes to messages.
//!
//! Invariant: a header is believed only after its checksum, a length only within what its kind
//! allows, a payload only after its checksum.
#![warn(clippy::arithmetic_side_effects)]

use block::{
    CUTS_SINCE_VERSION, Change, DirtyReport, Epoch, Extent, HEIRS_SINCE_VERSION, Message,
    MirrorState, Mode, POLICY_SINCE_VERSION, RELAYS_SINCE_VERSION, RUNS_SINCE_VERSION,
    SNAPSHOTS_SINCE_VERSION, SPAN_SINCE_VERSION, Seq, Vote,
};
use bytes::{Buf, Bytes, BytesMut};
use zerocopy::FromBytes;

use super::{
    Corrupt, Frame, GREETING_VERSION, Greeting, HEADER_BYTES, Head, MAGIC, RawHeader, body, crc,
    flag, kind, status,
};
use crate::limits::{
    ACKS_PER_FRAME_MAX, CHANGE_BYTES_MAX, HANDSHAKE_PAYLOAD_BYTES_MAX, LONG_QUESTION_BYTES_MAX,
    PAYLOAD_BYTES_MAX, QUESTION_BYTES_MAX, SUMS_BYTES_MAX,
};

/// Cuts frames off what came in.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// The version agreed on; before that only greetings are taken, afterwards none.
    version: Option<u16>,
}

/// A header that was found good, and what must follow it.
struct Announced {
    head: Head,
    payload_bytes: usize,
    payload_crc: u32,
}

impl Decoder {
    /// One that takes greetings.
    #[must_use]
    pub const fn greetings() -> Self {
        Self { version: None }
    }

    /// One that takes the messages of a version.
    #[must_use]
    pub const fn messages(version: u16) -> Self {
        Self { version: Some(version) }
    }

    /// Takes the next whole frame off the front of `inbox`; `None` when there is none yet.
    /// Payloads of changes share the memory of `inbox`.
    ///
    /// # Errors
    /// [`Corrupt`] when these bytes are no frame. The decoder finds no way back from that.
    pub fn next(self, inbox: &mut BytesMut) -> Result<Option<Frame>, Corrupt> {
        let Some(announced) = self.announced(inbox)? else { return Ok(None) };
        let total = HEADER_BYTES.saturating_add(announced.payload_bytes);
        if inbox.len() < total {
            return Ok(None);
        }
        let payload = if announced.payload_bytes == 0 {
            inbox.advance(HEADER_BYTES);
            Bytes::new()
        } else {
            let mut frame = inbox.split_to(total);
            frame.advance(HEADER_BYTES);
            frame.freeze()
        };
        if crc(&payload) != announced.payload_crc {
            return Err(Corrupt("payload does not match its checksum"));
        }
        let frame = if self.version.is_none() {
            Frame::Greeting(greeting(announced.head, &payload)?)
        } else {
            Frame::Message(message(announced.head, payload)?)
        };
        Ok(Some(frame))
    }

    /// How many bytes `inbox` lacks for the frame at its front.
    ///
    /// # Errors
    /// As for [`Decoder::next`].
    pub fn missing(self, inbox: &[u8]) -> Result<usize, Corrupt> {
        let payload_bytes = self.announced(inbox)?.map_or(0, |announced| announced.payload_bytes);
        Ok(HEADER_BYTES.saturating_add(payload_bytes).saturating_sub(inbox.len()))
    }

    fn announced(self, inbox: &[u8]) -> Result<Option<Announced>, Corrupt> {
        let Some(bytes) = inbox.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        if raw.magic.get() != MAGIC {
            return Err(Corrupt("not a frame"));
        }
        let (checked, _) = bytes.split_at(HEADER_BYTES.saturating_sub(4));
        if crc(checked) != raw.header_crc.get() {
            return Err(Corrupt("header does not match its checksum"));
        }
        if raw.version.get() != self.version.unwrap_or(GREETING_VERSION) {
            return Err(Corrupt("frame of another protocol version"));
        }
        if raw.reserved.get() != 0 {
            return Err(Corrupt("reserved field is in use"));
        }
        let head = Head {
            kind: raw.kind,
            flags: raw.flags,
            volume: raw.volume.get(),
            seq: raw.seq.get(),
            epoch: raw.epoch.get(),
            offset: raw.offset.get(),
            len: raw.len.get(),
            aux: raw.aux.get(),
        };
        let payload_bytes = raw.payload_bytes.get() as usize;
        self.check(head, payload_bytes)?;
        Ok(Some(Announced { head, payload_bytes, payload_crc: raw.payload_crc.get() }))
    }

    /// The longest payload of a kind that carries what two servers or two mirrors say to each other.
    fn question_bytes_max(self, kind: u8) -> usize {
        let long_since = match kind {
            kind::ASK | kind::TOLD => Some(RUNS_SINCE_VERSION),
            kind::SNAPSHOT => Some(HEIRS_SINCE_VERSION),
            _ => None,
        };
        let is_long = long_since.is_some_and(|since| self.version >= Some(since));
        if is_long { LONG_QUESTION_BYTES_MAX } else { QUESTION_BYTES_MAX }
    }

    /// Whether a frame of this kind may look like this, before room is made for its payload.
    fn check(self, head: Head, payload_bytes: usize) -> Result<(), Corrupt> {
        if (head.kind < kind::FIRST_MESSAGE) != self.version.is_none() {
            return Err(Corrupt("greeting or message where the other belongs"));
        }
        let cuts = self.version.is_some_and(|version| version >= CUTS_SINCE_VERSION);
        let (flags, bytes_max) = match head.kind {
            kind::HELLO | kind::REFUSED | kind::JOIN | kind::JOINED => {
                (0, HANDSHAKE_PAYLOAD_BYTES_MAX)
            }
            kind::OPEN => {
                let relays = self.version >= Some(RELAYS_SINCE_VERSION);
                let relayed = if relays { flag::RELAYED } else { 0 };
                let heirs = self.version >= Some(HEIRS_SINCE_VERSION);
                let heir = if heirs { flag::HEIR } else { 0 };
                (flag::DISCARD | relayed | heir, PAYLOAD_BYTES_MAX)
            }
            kind::OPENED | kind::DIFFERS | kind::COMPARED | kind::PROMOTE | kind::GOODBYE => {
                (0, PAYLOAD_BYTES_MAX)
            }
            kind::LIST | kind::MAPPED | kind::ASK | kind::TOLD if self.version < Some(2) => {
                return Err(Corrupt("unknown kind of frame"));
            }
            kind::POLICY if self.version < Some(POLICY_SINCE_VERSION) => {
                return Err(Corrupt("unknown kind of frame"));
            }
            kind::SPAN if self.version < Some(SPAN_SINCE_VERSION) => {
                return Err(Corrupt("unknown kind of frame"));
            }
            kind::SNAPSHOT if self.version < Some(SNAPSHOTS_SINCE_VERSION) => {
                return Err(Corrupt("unknown kind of frame"));
            }
            kind::LIST => (0, 0),
            kind::ASK | kind::TOLD | kind::POLICY | kind::SPAN | kind::SNAPSHOT => {
                (0, self.question_bytes_max(head.kind))
            }
            kind::MAPPED => (flag::LAST, PAYLOAD_BYTES_MAX),
            kind::COMPARE => (0, SUMS_BYTES_MAX),
            kind::ACKS => (0, ACKS_PER_FRAME_MAX.saturating_mul(8)),
            kind::WRITE => (flag::FUA | flag::RESYNC, CHANGE_BYTES_MAX),
            kind::ZERO => (flag::FUA | flag::RESYNC | flag::MAY_TRIM, 0),
            kind::TRIM => (flag::FUA | flag::RESYNC, 0),
            kind::PING | kind::PONG => {
                let modes = if cuts { flag::CONSISTENCY | flag::STACK } else { 0 };
                (flag::IN_SYNC | flag::COPYING | modes, 0)
            }
            kind::CUT if cuts => (0, PAYLOAD_BYTES_MAX),
            kind::CUT_APPLIED if cuts => (0, 0),
            kind::FLUSH
            | kind::FAILED
            | kind::DURABLE
            | kind::HANDOVER
            | kind::VOTED
            | kind::OUTDATE
            | kind::GROW
            | kind::GROWN => (0, 0),
            _ => return Err(Corrupt("unknown kind of frame")),
        };
        if head.flags & !flags != 0 {
            return Err(Corrupt("flag that this kind of frame does not have"));
        }
        if payload_bytes > bytes_max {
            return Err(Corrupt("payload is longer than this kind of frame allows"));
        }
        if head.kind == kind::WRITE && payload_bytes as u64 != head.len {
            return Err(Corrupt("data is not as long as its extent"));
        }
        Ok(())
    }
}

fn greeting(head: Head, payload: &[u8]) -> Result<Greeting, Corrupt> {
    match head.kind {
        kind::HELLO => body::read_hello(payload).map(Greeting::Hello),
        kind::REFUSED => body::read_refusal(payload).map(Greeting::Refused),
        kind::JOIN => body::read_join(payload).map(Greeting::Join),
        kind::JOINED => body::read_joined(payload).map(Greeting::Joined),
        _ => Err(Corrupt("unknown kind of frame")),
    }
}

fn message(head: Head, payload: Bytes) -> Result<Message, Corrupt> {
    let seq = Seq::new(head.seq);
    let epoch = Epoch::new(head.epoch);
    Ok(match head.kind {
        kind::WRITE => change(head, Change::Write(payload))?,
        kind::ZERO => change(head, Change::Zero { may_trim: head.flags & flag::MAY_TRIM != 0 })?,
        kind::TRIM => change(head, Change::Trim)?,
        kind::ACKS => acks(&payload)?,
        kind::COMPARE => {
            let extent = Extent::new(head.offset, head.len).ok();
            let extent = extent.ok_or(Corrupt("impossible extent"))?;
            Message::Compare { seq, volume: head.volume, extent, sums: payload }
        }
        kind::FLUSH => Message::Flush { seq },
        kind::DURABLE => Message::Durable { seq },
        kind::FAILED => {
            let error = status::error(head.aux).ok_or(Corrupt("unknown error"))?;
            Message::Failed { seq, error }
        }
        kind::PING => Message::Ping { stamp: head.offset, state: state(head)? },
        kind::PONG => {
            let persist_us = lower_half(head.aux);
            Message::Pong { stamp: head.offset, state: state(head)?, persist_us }
        }
        kind::CUT_APPLIED => Message::CutApplied { seq },
        kind::HANDOVER => Message::Handover { epoch },
        kind::VOTED => Message::Voted(match head.aux {
            0 => Vote::InSync,
            1 => Vote::TookOver { epoch },
            _ => return Err(Corrupt("unknown vote")),
        }),
        kind::POLICY => Message::Policy(payload),
        kind::SPAN => Message::Span(payload),
        kind::SNAPSHOT => Message::Snapshot(payload),
        kind::ASK => Message::Ask(payload),
        kind::TOLD => Message::Told(payload),
        kind::LIST => Message::List { volume: head.volume },
        kind::OUTDATE => Message::Outdate,
        kind::GROW => Message::Grow { volume: head.volume, bytes: head.len },
        kind::GROWN => Message::Grown { volume: head.volume, bytes: head.len },
        _ => with_body(head, &payload)?,
    })
}

fn with_body(head: Head, payload: &[u8]) -> Result<Message, Corrupt> {
    Ok(match head.kind {
        kind::OPEN => {
            let discard = head.flags & flag::DISCARD != 0;
            let relayed = head.flags & flag::RELAYED != 0;
            let is_heir = head.flags & flag::HEIR != 0;
            let heir_of = is_heir.then(|| Epoch::new(head.seq));
            let epoch = Epoch::new(head.epoch);
            Message::Open(body::read_open(payload, epoch, (discard, relayed), heir_of)?)
        }
        kind::OPENED => Message::Opened(body::read_opened(payload)?),
        kind::DIFFERS => {
            let blocks = body::read_blocks(payload)?;
            Message::Differs(DirtyReport { volume: head.volume, blocks })
        }
        kind::COMPARED => {
            let differs = body::read_blocks(payload)?;
            Message::Compared { seq: Seq::new(head.seq), differs }
        }
        kind::MAPPED => {
            let blocks = body::read_blocks(payload)?;
            Message::Mapped { volume: head.volume, blocks, last: head.flags & flag::LAST != 0 }
        }
        kind::PROMOTE => {
            let (generation, ancestors) = body::read_promote(payload)?;
            Message::Promote { generation, ancestors }
        }
        kind::CUT => {
            let (generation, ancestors) = body::read_promote(payload)?;
            Message::Cut { seq: Seq::new(head.seq), generation, ancestors }
        }
        kind::GOODBYE => Message::Goodbye(body::read_goodbye(payload)?),
        _ => return Err(Corrupt("unknown kind of frame")),
    })
}

fn change(head: Head, change: Change) -> Result<Message, Corrupt> {
    let extent = Extent::new(head.offset, head.len).ok().ok_or(Corrupt("impossible extent"))?;
    Ok(Message::Change {
        seq: Seq::new(head.seq),
        volume: head.volume,
        extent,
        change,
        fua: head.flags & flag::FUA != 0,
        resync: head.flags & flag::RESYNC != 0,
    })
}

fn acks(payload: &[u8]) -> Result<Message, Corrupt> {
    let numbers = <[zerocopy::little_endian::U64]>::ref_from_bytes(payload);
    let numbers = numbers.ok().ok_or(Corrupt("acknowledgement is cut off"))?;
    Ok(Message::Acks(numbers.iter().map(|number| Seq::new(number.get())).collect()))
}

fn state(head: Head) -> Result<MirrorState, Corrupt> {
    let mode = match (head.flags & flag::CONSISTENCY != 0, head.flags & flag::STACK != 0) {
        (false, false) => Mode::Sync,
        (true, false) => Mode::Consistency,
        (false, true) => Mode::Stack,
        (true, true) => return Err(Corrupt("two modes at once")),
    };
    Ok(MirrorState {
        in_sync: head.flags & flag::IN_SYNC != 0,
        copying: head.flags & flag::COPYING != 0,
        out_of_sync_bytes: head.len,
        seq: Seq::new(head.seq),
        mode,
        lag_ms: lower_half(head.aux >> 32).checked_sub(1),
    })
}

fn lower_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("masked to 32 bits")
}
