//! What two gateways say to each other, as values. The link puts them on the wire; the mirror
//! decides what they mean.
//!
//! The primary dials. After the link's own handshake ([`Hello`] both ways) it opens one group:
//!
//! ```text
//!   primary                                secondary
//!   Open ────────────────────────────────▶
//!        ◀──────────── Differs* ─ Opened    (or Goodbye)
//!   Change* Flush* ──────────────────────▶  applied in any order: the primary never has two
//!        ◀───────── Acks* Failed* Durable*  overlapping changes under way
//!   Compare* ────────────────────────────▶  blocks that may be the same already
//!        ◀────────────────────── Compared*
//!   List* ───────────────────────────────▶  what there is to compare, for a verification
//!        ◀──────────────────────── Mapped*
//!   Promote ─────────────────────────────▶  "you have everything": durable there first
//!        ◀───────────────────────── Voted
//!   Handover ────────────────────────────▶  planned swap of roles
//!        ◀───────────────────────── Voted
//!   Cut ─────────────────────────────────▶  from version 2 on: what came before is one point
//!        ◀───────────────────── CutApplied  that point is kept there, durably
//!   Policy ──────────────────────────────▶  from version 3 on: how the sessions are to behave
//!   Span ────────────────────────────────▶  from version 4 on: the other parts of the group
//!   Snapshot ────────────────────────────▶  from version 5 on: what came before is to be kept by name
//!        ◀────────────────────── Snapshot   it is, or why not
//! ```
//!
//! Invariant: every message after `Opened` belongs to the epoch that was opened. A gateway that
//! knows a higher one answers [`Goodbye::Fenced`] with it and closes.

use bytes::Bytes;

use crate::{
    BlockSet, BootId, Epoch, Extent, GatewayId, Generation, GroupId, IoError, Seq, SessionId,
    VolumeId,
};

/// Who a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The gateway, made with its pool.
    pub gateway: GatewayId,
    /// This start of its process.
    pub boot: BootId,
    /// The name of its site.
    pub site: String,
}

/// The first thing each side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who is speaking.
    pub identity: Identity,
    /// The oldest protocol version it speaks.
    pub version_min: u16,
    /// The newest protocol version it speaks.
    pub version_max: u16,
    /// The release, for people.
    pub release: String,
}

/// A volume that the primary wants a copy of at the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOffer {
    /// Its identity, the same at both sites.
    pub volume: VolumeId,
    /// The mirror session that this copy belongs to.
    pub session: SessionId,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The primary opens a group at a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// The epoch at which the sender is its primary.
    pub epoch: Epoch,
    /// The history that its content belongs to.
    pub generation: Generation,
    /// The histories that it grew from, newest first.
    pub ancestors: Vec<Generation>,
    /// Its volumes. Changes name them by their index here.
    pub volumes: Vec<VolumeOffer>,
    /// An operator allowed what this mirror has on its own to be discarded (rule 10).
    pub discard: bool,
    /// The sender is a mirror of the group itself and sends on the points at which its copy was
    /// whole; the epoch is that of the primary that it follows. From version 3 on.
    pub relayed: bool,
    /// The sender took over in a planned swap and was told what this mirror lacks: to one that nobody
    /// opened since this primary did, it is as good as that one. From version 9 on.
    pub heir_of: Option<Predecessor>,
}

/// A primary that handed its mirrors over with the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its gateway. A mirror can be the source of another one in the epoch of its own primary, so the
    /// epoch alone does not say who wrote there.
    pub gateway: GatewayId,
    /// The epoch in which it was the primary.
    pub epoch: Epoch,
}

/// The newest version of what is said here. Version 1 has no [`Message::Cut`] and no
/// [`Message::CutApplied`]; a copy that is [`Quality::Consistent`] is told as an old one there, and
/// heartbeats carry neither mode nor lag. Version 2 has no [`Message::Policy`], and knows no gateway
/// but a primary that opens a group. Version 3 has no [`Message::Span`], version 4 no
/// [`Message::Snapshot`], in version 5 it says nothing of recovery points, up to version 6 nobody
/// asks another gateway for the content of a block, or says what host protocols keep of a volume, and
/// up to version 7 a question has at most 16 KiB and is not about runs, and the primary does not say
/// what its clock says, and up to version 8 one that hands over does not name its other mirrors.
pub const PROTOCOL_VERSION: u16 = 9;
/// The oldest version in which [`Message::Cut`] can be said.
pub const CUTS_SINCE_VERSION: u16 = 2;
/// The oldest version in which [`Message::Policy`] can be said.
pub const POLICY_SINCE_VERSION: u16 = 3;
/// The oldest version in which a mirror can open a group at another gateway ([`Open::relayed`]).
pub const RELAYS_SINCE_VERSION: u16 = 3;
/// The oldest version in which [`Message::Span`] can be said.
pub const SPAN_SINCE_VERSION: u16 = 4;
/// The oldest version in which [`Message::Snapshot`] can be said.
pub const SNAPSHOTS_SINCE_VERSION: u16 = 5;
/// The oldest version in which [`Message::Snapshot`] says what becomes of a snapshot after it was
/// taken, and which recovery points a group has.
pub const POINTS_SINCE_VERSION: u16 = 6;

/// The oldest version in which a gateway asks another one for a block that its own copy lost.
pub const BLOCKS_SINCE_VERSION: u16 = 7;
/// The oldest version in which gateways ask each other about runs of plans, in questions of up to a
/// megabyte.
pub const RUNS_SINCE_VERSION: u16 = 8;
/// The oldest version in which [`Message::Snapshot`] says what host protocols keep of a volume.
pub const ATTRIBUTES_SINCE_VERSION: u16 = 7;
/// The oldest version in which [`Message::Snapshot`] says what the clock of the primary says.
pub const TIME_SINCE_VERSION: u16 = 8;
/// The oldest version in which [`Message::Snapshot`] says what the other mirrors of a primary lack
/// that hands over, and [`Open::heir_of`] that it was said.
pub const HEIRS_SINCE_VERSION: u16 = 9;

/// How a session copies: when a write is acknowledged, and what the mirror holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every change is on every in-sync copy before it is acknowledged: RPO 0.
    #[default]
    Sync,
    /// A change is acknowledged when it is applied here and queued; the mirror goes from one whole
    /// cut of the group to the next: an RPO of seconds.
    Consistency,
    /// Only which blocks changed is noted; a transfer brings the mirror to one later point: an RPO
    /// of the time between two transfers.
    Stack,
}

/// What a mirror's copy is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Empty: nothing of the volume was ever copied here.
    Blank,
    /// Half copied: not one point in time, not promotable.
    Inconsistent,
    /// One point in time, known to be an old one.
    Outdated,
    /// Follows behind its primary; its newest whole cut is kept, and a promotion goes back to it.
    Consistent,
    /// Had every acknowledged write when it last heard of its primary.
    InSync,
    /// The copy of a primary.
    Source,
}

/// The mirror accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What its copy is worth.
    pub quality: Quality,
    /// The history that its content belongs to; `None` when it is blank.
    pub generation: Option<Generation>,
    /// The histories that it grew from, newest first.
    pub ancestors: Vec<Generation>,
    /// Whether the [`Message::Differs`] before this name every block in which it may differ from
    /// the generation that the two have in common. If not, only a full copy helps.
    pub differences_known: bool,
}

/// Blocks in which the sender may differ from the common history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyReport {
    /// Index of the volume in [`Open::volumes`].
    pub volume: u16,
    /// The blocks.
    pub blocks: BlockSet,
}

/// One change of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Store these bytes.
    Write(Bytes),
    /// Make the range read as zero; give it back if `may_trim`.
    Zero {
        /// Whether the blocks may be given back.
        may_trim: bool,
    },
    /// Give the blocks back.
    Trim,
}

/// Why a side ends the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The sender knows a higher epoch of the group.
    Fenced {
        /// That epoch.
        epoch: Epoch,
    },
    /// Both histories went on after the last point in common.
    SplitBrain {
        /// Bytes that the mirror holds and the primary does not.
        theirs_bytes: u64,
    },
    /// The offered volume does not fit what is here; the text says how.
    Refused(String),
    /// An orderly stop: the primary acknowledges nothing more until it is back.
    Shutdown,
    /// An operator suspended or deleted the session.
    Suspended,
    /// The message before made no sense; the text says why.
    Protocol(String),
}

/// How one side sees the session, sent with each heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// Whether the sender counts the mirror as in sync.
    pub in_sync: bool,
    /// Whether blocks are being copied.
    pub copying: bool,
    /// Bytes in which the mirror may differ.
    pub out_of_sync_bytes: u64,
    /// The newest change that the sender assigned or applied.
    pub seq: Seq,
    /// How the session copies.
    pub mode: Mode,
    /// How old the oldest acknowledged write is that the mirror may lack, in milliseconds, up to
    /// 49 days; `None` when the sender does not know.
    pub lag_ms: Option<u32>,
}

/// What is voted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    /// The mirror has everything and recorded so.
    InSync,
    /// The mirror took the group over at this epoch.
    TookOver {
        /// The epoch at which it is primary.
        epoch: Epoch,
    },
}

/// A message on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Open`].
    Open(Open),
    /// See [`Opened`].
    Opened(Opened),
    /// See [`DirtyReport`].
    Differs(DirtyReport),
    /// A change of content, by a host or by the copier.
    Change {
        /// Its place in the group's stream.
        seq: Seq,
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
        /// Where.
        extent: Extent,
        /// What.
        change: Change,
        /// Whether it must be durable before it is acknowledged.
        fua: bool,
        /// Whether the copier sent it, not a host.
        resync: bool,
    },
    /// To a mirror: which of these blocks differ from yours?
    Compare {
        /// Its place in the group's stream.
        seq: Seq,
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
        /// Which blocks.
        extent: Extent,
        /// The CRC32C of each, little-endian, 0 for one that reads as zeroes.
        sums: Bytes,
    },
    /// These differ; the others are the same.
    Compared {
        /// The number of the `Compare`.
        seq: Seq,
        /// The blocks.
        differs: BlockSet,
    },
    /// To a mirror (from version 2 on): which blocks of this volume are mapped in your copy?
    List {
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
    },
    /// These are; more follow unless it is the last.
    Mapped {
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
        /// The blocks, in order.
        blocks: BlockSet,
        /// Whether nothing follows.
        last: bool,
    },
    /// Make everything that was acknowledged durable, then say `Durable` with this number.
    Flush {
        /// Its place in the group's stream.
        seq: Seq,
    },
    /// These changes are applied (with `fua`: durable).
    Acks(Vec<Seq>),
    /// This change or flush failed here; the copy is not what it should be.
    Failed {
        /// Which.
        seq: Seq,
        /// Why.
        error: IoError,
    },
    /// Everything acknowledged before the flush with this number is durable.
    Durable {
        /// The flush.
        seq: Seq,
    },
    /// To a mirror that has everything: record that you are in sync.
    Promote {
        /// The history that it now belongs to.
        generation: Generation,
        /// The histories that this grew from, newest first.
        ancestors: Vec<Generation>,
    },
    /// To a mirror that is in sync, after the primary drained: be the primary at this epoch.
    Handover {
        /// The new epoch.
        epoch: Epoch,
    },
    /// The mirror did what `Promote` or `Handover` asked, durably.
    Voted(Vote),
    /// To a mirror: everything before this, over all volumes, is one whole cut of the group. Keep
    /// it, so that a promotion can go back to it.
    Cut {
        /// Its place in the group's stream.
        seq: Seq,
        /// The history that the cut belongs to.
        generation: Generation,
        /// The histories that this grew from, newest first.
        ancestors: Vec<Generation>,
    },
    /// The mirror keeps the cut with this number, durably.
    CutApplied {
        /// The `Cut`.
        seq: Seq,
    },
    /// To a mirror: from here on your copy is an old one.
    Outdate,
    /// Make your copy of the volume this long.
    Grow {
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
        /// Its new size in bytes.
        bytes: u64,
    },
    /// The copy is that long, durably.
    Grown {
        /// Index of the volume in [`Open::volumes`].
        volume: u16,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A heartbeat; to be answered at once with `Pong` and the same number.
    Ping {
        /// Any number.
        stamp: u64,
        /// How the sender sees the session.
        state: MirrorState,
    },
    /// The answer to `Ping`.
    Pong {
        /// The number of the `Ping`.
        stamp: u64,
        /// How the sender sees the session.
        state: MirrorState,
        /// How long the sender's last sync took, in microseconds; 0 before the first.
        persist_us: u32,
    },
    /// To a mirror (from version 3 on): the policies of the sessions, for the time when it is the
    /// primary. What they are is for the two groups to know.
    Policy(Bytes),
    /// To a mirror (from version 4 on): which stretch a vote is for, which one was whole, and who
    /// holds the other parts at its site. What it says is for the two groups to know.
    Span(Bytes),
    /// Both ways (from version 5 on): to a mirror, that everything before this in the stream is to
    /// be kept under a name, or that what was kept is not needed any more; and its answer. What it
    /// says is for the two groups to know.
    Snapshot(Bytes),
    /// A question that opens no group: the first message of its link, and the only one. What it
    /// says is for the two servers to know. From version 2 on.
    Ask(Bytes),
    /// The answer to `Ask`. From version 2 on.
    Told(Bytes),
    /// The end.
    Goodbye(Goodbye),
}
