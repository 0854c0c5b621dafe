//! What happens to the machine, and what it wants done.

use block::{
    ActivityExtent, BlockSet, DirtyReport, Epoch, Extent, GatewayId, GroupId, IoError, LegId,
    Message, Open, Opened, Seq, SessionId, SnapshotId, VolumeId, WriteId,
};
use bytes::Bytes;

pub use super::pace::Pace;
pub use super::points::Taken;
pub use super::write_journal::Entry;
use super::{Note, Restored};
use crate::command::{Command, Refusal};
use crate::status::{Cause, Verified};

/// What a mirror answered when the group was opened there.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its answer.
    pub opened: Opened,
    /// The blocks in which it may differ from the common history.
    pub differs: Vec<DirtyReport>,
}

/// What may differ in a point that is sent on.
#[derive(Clone, Debug, Default)]
pub struct PointListing {
    /// By volume: its size at the point.
    pub bytes: Vec<u64>,
    /// By volume: every block that is mapped in the point; nothing if it was not asked for.
    pub mapped: Vec<BlockSet>,
    /// By volume: the blocks in which the copy differs from the point.
    pub changed: Vec<BlockSet>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A host wants to change content. The driver keeps payload and ticket under `write` until
    /// [`Effect::Forget`].
    Change {
        /// The driver's name for it.
        write: WriteId,
        /// Index of the volume.
        volume: usize,
        /// Where.
        extent: Extent,
        /// Bytes of payload: none for a trim, however long it is.
        payload: u64,
    },
    /// A host wants everything acknowledged so far to be durable.
    Flush {
        /// The driver's name for it.
        write: WriteId,
        /// Index of the volume.
        volume: usize,
    },
    /// The local store answered an [`Effect::Apply`].
    Applied {
        /// Which change.
        write: WriteId,
        /// How it ended.
        result: Result<(), IoError>,
    },
    /// The local stores answered an [`Effect::FlushLocal`].
    Flushed {
        /// Which round.
        round: u64,
        /// How it ended.
        result: Result<(), IoError>,
    },
    /// The local stores answered an [`Effect::Activate`].
    Activated {
        /// Which round.
        round: u64,
        /// How it ended.
        result: Result<(), IoError>,
    },
    /// The ledger answered an [`Effect::Record`].
    Recorded {
        /// Which.
        number: u64,
        /// How it ended.
        result: Result<(), IoError>,
    },
    /// A mirror accepted the group.
    Connected {
        /// Which leg.
        leg: LegId,
        /// Its answer.
        opening: Box<Opening>,
    },
    /// The answer to [`Effect::List`]: every mapped block, by volume.
    Listed {
        /// Which leg.
        leg: LegId,
        /// By volume.
        mapped: Vec<BlockSet>,
    },
    /// Which protocol version a mirror speaks on its link, said before [`Event::Connected`].
    LinkVersion {
        /// Which leg.
        leg: LegId,
        /// The version.
        version: u16,
    },
    /// A leg's link ended, or could not be made.
    Disconnected {
        /// Which leg.
        leg: LegId,
        /// Why.
        cause: Cause,
    },
    /// A mirror said something.
    Heard {
        /// Which leg.
        leg: LegId,
        /// What.
        message: Message,
    },
    /// What [`Effect::Copy`] asked for has its place in the leg's send journal.
    CopyQueued {
        /// Which leg.
        leg: LegId,
        /// Which copy.
        copy: u8,
        /// Its place in the stream.
        seq: Seq,
    },
    /// A leg's send journal could not keep what was sent: its disk is full, slow or broken.
    JournalFailed {
        /// Which leg.
        leg: LegId,
    },
    /// What [`Effect::Copy`] asked for could not be read here.
    CopyFailed {
        /// Which leg.
        leg: LegId,
        /// Which copy.
        copy: u8,
        /// Why.
        error: IoError,
    },
    /// A gateway that says it is the primary opens the group here.
    Opened {
        /// What it says.
        open: Box<Open>,
        /// The name of its site.
        site: String,
        /// Who it is.
        gateway: GatewayId,
    },
    /// The primary sent a change. The driver keeps the payload under `write`.
    Incoming {
        /// The driver's name for it.
        write: WriteId,
        /// Its place in the stream.
        seq: Seq,
        /// Index of the volume here.
        volume: usize,
        /// Where.
        extent: Extent,
        /// Whether the copier sent it.
        resync: bool,
    },
    /// The primary said something else.
    Told {
        /// What.
        message: Message,
    },
    /// The link to the primary ended.
    UpstreamLost {
        /// Whether the primary had said that it stops.
        orderly: bool,
    },
    /// The local store answered an [`Effect::GrowLocal`].
    Grown {
        /// Index of the volume.
        volume: usize,
        /// Its size now, in bytes.
        result: Result<u64, IoError>,
    },
    /// The local stores answered an [`Effect::Snapshot`]: whether every volume has its snapshot, and
    /// what there is to show of them.
    Snapshotted(Result<(), IoError>, Taken),
    /// The local stores answered an [`Effect::RemoveSnapshots`].
    SnapshotsRemoved {
        /// Those that are gone, by index of the volume.
        snapshots: Vec<(usize, SnapshotId)>,
    },
    /// The answer to [`Effect::ListChanged`]: by volume.
    Changed {
        /// The blocks.
        result: Result<Vec<BlockSet>, IoError>,
    },
    /// The answer to [`Effect::ListPoint`].
    PointListed {
        /// Which leg.
        leg: LegId,
        /// What was listed.
        result: Box<Result<PointListing, IoError>>,
    },
    /// The local stores answered an [`Effect::RollBack`].
    RolledBack {
        /// Whether every volume is at its snapshot.
        result: Result<(), IoError>,
    },
    /// A gateway that says it is the primary wants to open the group, and its volumes do not fit
    /// what is here.
    Unfit {
        /// The epoch that it says.
        epoch: Epoch,
        /// What does not fit.
        why: String,
    },
    /// A primary of this epoch may discard what only this copy has, and a part of it is about to be.
    Overwritten {
        /// The epoch that it says.
        epoch: Epoch,
    },
    /// An operator wants a volume to join the group, as its last one. Answered as a command is.
    /// The driver has its store in place already.
    Enlist {
        /// The volume as its store was found.
        volume: Box<Restored>,
        /// A session for each mirror that the group may have.
        sessions: Vec<SessionId>,
        /// What is made durable together with it.
        records: Vec<(String, Option<Bytes>)>,
    },
    /// An operator wants a volume to leave the group. Answered as a command is.
    Dismiss {
        /// Which.
        volume: VolumeId,
        /// The group of its own that it goes to.
        group: GroupId,
        /// The name of that group.
        name: String,
        /// What is made durable together with it.
        records: Vec<(String, Option<Bytes>)>,
    },
    /// The driver took the volume out that [`super::Machine::ready_to_dismiss`] named.
    Dismissed,
    /// A host protocol keeps something of a volume; answered by [`Effect::AttributesKept`].
    SetAttributes {
        /// The volume, and under which token it is answered.
        at: (VolumeId, u64),
        /// What takes the place of what is kept.
        bytes: Bytes,
    },
    /// An operator wants something. One at a time; answered by [`Effect::Answered`].
    Command(Command),
    /// The snapshot is given up, so that the way back to another has room, beside the command that
    /// waits with it; answered under the token by [`Effect::RoomMade`].
    MakeRoom(SnapshotId, u64),
    /// Whoever began the planned swap of roles does not wait for it any longer: if its mirror was
    /// not asked yet, it is taken back.
    Recall,
    /// Not every part holds its hosts for that snapshot of all parts: they go on here.
    LetGo {
        /// Which.
        snapshot: SnapshotId,
    },
    /// The witness answered an [`Effect::Arbitrate`], or did not.
    Arbitrated {
        /// Which.
        number: u64,
        /// What it said.
        outcome: Result<block::Verdict, block::WitnessError>,
    },
    /// The witness said what stands.
    WitnessSeen {
        /// What it said.
        sighting: block::Sighting,
    },
    /// The witness could not be asked.
    WitnessLost,
    /// A companion said how its part of the group is.
    CompanionSaid {
        /// Who.
        gateway: GatewayId,
        /// How.
        state: Box<block::PartState>,
        /// Whether it was asked since this gateway started; else it told unasked.
        answers: bool,
    },
    /// A companion did not answer.
    CompanionLost {
        /// Who.
        gateway: GatewayId,
    },
    /// The gateway stops in good order: hosts are gone, nothing is in flight.
    Closing,
    /// What only clocks on walls and other groups know, changed.
    Pace(Pace),
    /// Time passed.
    Tick {
        /// The gateway's clock, in milliseconds; never goes back.
        now_ms: u64,
    },
}

/// Something that must be done. Effects of one batch are done in order.
#[derive(Debug)]
pub enum Effect {
    /// Record which extents have changes in flight, per volume, then say [`Event::Activated`].
    Activate {
        /// Which round.
        round: u64,
        /// By index of the volume.
        sets: Vec<(usize, Vec<ActivityExtent>)>,
    },
    /// Apply the change to the local store, then say [`Event::Applied`].
    Apply {
        /// Which change.
        write: WriteId,
    },
    /// Send the change to a mirror.
    Send {
        /// To whom.
        leg: LegId,
        /// Its place in the stream.
        seq: Seq,
        /// Which change.
        write: WriteId,
    },
    /// Read the blocks here and send them to a mirror as a resync change; or, to compare, their
    /// checksums.
    Copy {
        /// To whom.
        leg: LegId,
        /// Which copy of that leg.
        copy: u8,
        /// Its place in the stream.
        seq: Seq,
        /// Index of the volume.
        volume: usize,
        /// Where.
        extent: Extent,
        /// Whether only to compare.
        compare: bool,
    },
    /// List every mapped block, then say [`Event::Listed`].
    List {
        /// For whom.
        leg: LegId,
    },
    /// A verification came to its end: keep the certificate, and tell people.
    Certify {
        /// Which leg.
        leg: LegId,
        /// What it found.
        found: Verified,
    },
    /// Send a message to a mirror.
    Post {
        /// To whom.
        leg: LegId,
        /// What.
        message: Message,
    },
    /// Make the stores of these volumes durable, then say [`Event::Flushed`].
    FlushLocal {
        /// Which round.
        round: u64,
        /// Indexes of volumes.
        volumes: Vec<usize>,
    },
    /// Make records durable, then say [`Event::Recorded`].
    Record {
        /// Which.
        number: u64,
        /// Keys and values; `None` removes.
        records: Vec<(String, Option<Bytes>)>,
    },
    /// Answer a host.
    Answer {
        /// Which request.
        write: WriteId,
        /// With what.
        result: Result<(), IoError>,
    },
    /// The machine has no more use for this name.
    Forget {
        /// Which request.
        write: WriteId,
    },
    /// Open the group at a mirror, again and again until it works or [`Effect::Hang`].
    Dial {
        /// Which leg.
        leg: LegId,
    },
    /// End the link to a mirror after what was posted to it.
    Hang {
        /// Which leg.
        leg: LegId,
        /// Whether to dial again.
        redial: bool,
    },
    /// Accept the primary that opened the group.
    Accept {
        /// The differences that it must know, before the answer.
        differs: Vec<DirtyReport>,
        /// The answer.
        opened: Opened,
    },
    /// Send the gateway away that wants to open the group.
    Refuse {
        /// Why.
        goodbye: block::Goodbye,
    },
    /// Send a message to the primary.
    Reply {
        /// What.
        message: Message,
    },
    /// Acknowledge a change to the primary.
    Acknowledge {
        /// Which.
        seq: Seq,
    },
    /// End the link to the primary after saying this.
    HangUpstream {
        /// What to say, if there is something to say.
        goodbye: Option<block::Goodbye>,
    },
    /// Make the local copy longer, then say [`Event::Grown`].
    GrowLocal {
        /// Index of the volume.
        volume: usize,
        /// Its new size in bytes.
        bytes: u64,
    },
    /// Claim something at the witness, then say [`Event::Arbitrated`].
    Arbitrate {
        /// Which.
        number: u64,
        /// What.
        claim: block::Claim,
    },
    /// Ask the witness now what stands, then say [`Event::WitnessSeen`] or [`Event::WitnessLost`].
    Look,
    /// Tell every companion how this part is, now and again until they answer.
    TellCompanions {
        /// How.
        state: block::PartState,
    },
    /// Keep every volume's content of this moment, then say [`Event::Snapshotted`]. Nothing is under
    /// way to them.
    Snapshot {
        /// Names, by index of the volume.
        snapshots: Vec<SnapshotId>,
    },
    /// Forget these snapshots, then say [`Event::SnapshotsRemoved`].
    RemoveSnapshots {
        /// By index of the volume.
        snapshots: Vec<(usize, SnapshotId)>,
    },
    /// List the blocks in which each volume differs from its snapshot, then say [`Event::Changed`].
    ListChanged {
        /// By index of the volume.
        snapshots: Vec<SnapshotId>,
    },
    /// Open these snapshots for a leg, whose copies are read from them from here on, and list what
    /// may differ in them, then say [`Event::PointListed`]. They may be removed meanwhile.
    ListPoint {
        /// For whom.
        leg: LegId,
        /// By index of the volume.
        snapshots: Vec<SnapshotId>,
        /// Whether to list what is mapped, too.
        whole: bool,
    },
    /// Make each volume what it was at its snapshot, then say [`Event::RolledBack`].
    RollBack {
        /// By index of the volume.
        snapshots: Vec<SnapshotId>,
    },
    /// The next entry for the write journal, if there is one.
    Journal(Entry),
    /// End every attachment of a host, before anything else.
    DropHosts,
    /// An [`Event::SetAttributes`] is answered.
    AttributesKept {
        /// Which.
        token: u64,
        /// How it ended.
        result: Result<(), IoError>,
    },
    /// An [`Event::MakeRoom`] with that token is answered.
    RoomMade(u64, Result<(), Refusal>),
    /// Answer the operator.
    Answered(Result<(), Refusal>),
    /// Tell people.
    Note(Note),
}
