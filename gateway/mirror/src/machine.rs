//! One group's mirror as a state machine.
//!
//! ```text
//!                 Promote (epoch + 1)
//!     Secondary ─────────▶ Promoting ─────────▶ Primary ──Reverse──▶ Yielding
//!         ▲  ▲                                   │   ▲                │   │
//!         │  └──────── the mirror took over ─────┼───┼────────────────┘   │
//!         │                                      │   └── it did not ──────┘
//!         └── Open of a higher epoch ── Fenced ◀─┘ a higher epoch is heard of
//!
//!     Secondary ──Detach (its session is suspended)──▶ Detached ──Open──▶ Secondary
//! ```
//!
//! A leg of a primary goes `Off ─▶ Dialing ─▶ Listing ─▶ Copying ─▶ Draining ─▶ Flushing ─▶ Voting
//! ─▶ Joining ─▶ InSync`, and from any of these back to `Off` or `Dialing`; a leg that is in the
//! in-sync set passes through `Leaving`, in which the set is recorded without it. A leg that is to
//! follow behind goes from `Copying` or `InSync` to `Following` (see `cuts`).
//!
//! Invariant: no I/O, no clock, no task, no randomness. [`Machine::apply`] takes one [`Event`] and
//! appends what must follow from it, in order; after each the assertions of `check` hold. The rules
//! named in comments are those of `docs/SEMANTICS.md`.

mod activate;
mod after;
mod attributes;
mod check;
mod command;
mod companions;
mod compare;
mod copy;
mod cuts;
mod detach;
mod drain;
mod event;
mod flush;
mod found;
mod gate;
mod handover;
mod heritage;
mod holding;
mod leg;
mod legs;
mod members;
mod modes;
mod named;
mod note;
mod pace;
mod points;
mod recovery;
mod relay;
mod role;
mod rollback;
mod secondary;
mod snapshot;
#[cfg(test)]
mod tests;
mod time;
mod unfit;
mod untracked;
mod verify;
mod vote;
mod witness;
mod write;
mod write_journal;

use std::collections::VecDeque;

use block::{Epoch, Generation, Geometry, GroupId, LegId, Mode, Quality, Seq, VolumeId};

use crate::activity::Activity;
use crate::lineage::Lineage;
use crate::locks::{Holder, RangeLocks};
use crate::record::{Arbitrated, Attributes, Label, Named, RoleRecord, UpstreamRecord};
use crate::status::GroupCounters;

use self::after::After;
pub(crate) use self::command::Pending;
pub use self::cuts::{JournalLimits, Spell};
pub use self::event::{Effect, Entry, Event, Opening, Pace, PointListing, Taken};
use self::flush::Flushes;
pub(crate) use self::found::{found, found_part};
use self::leg::{Leg, LegSet};
pub use self::note::Note;
use self::points::Points;
use self::secondary::Upstream;
pub(crate) use self::snapshot::Lacks;
pub use self::snapshot::Restored;
use self::witness::Arbiter;
pub(crate) use self::witness::ReadLicence;
pub use self::witness::Terms;
use self::write::Writes;

/// The part this gateway plays now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Yielding(role::Yielding),
    Secondary,
    Promoting(role::Promoting),
    Fenced {
        by: Epoch,
    },
    /// An operator opened this mirror's copy to hosts while its session is suspended.
    Detached,
}

#[derive(Debug)]
struct VolumeState {
    id: VolumeId,
    name: String,
    geometry: Geometry,
    locks: RangeLocks,
    activity: Activity,
    /// Changes that wait for their extents to be recorded.
    parked: VecDeque<block::WriteId>,
    /// Its part of the snapshots that have names.
    named: Vec<Named>,
    /// What host protocols keep of it.
    attributes: Option<Attributes>,
}

/// One group's mirror.
#[derive(Debug)]
pub struct Machine {
    group: GroupId,
    name: String,
    volumes: Vec<VolumeState>,
    epoch: Epoch,
    lineage: Option<Lineage>,
    quality: Quality,
    role: Role,
    /// What the record that was last asked for says of our role.
    recorded_role: RoleRecord,
    /// Whether the copy was detached since it last followed a primary: its own writes are known.
    recorded_detached: bool,
    /// It is recorded as detached, and is opened as soon as nothing is under way.
    detaching: bool,
    upstream_record: Option<UpstreamRecord>,
    legs: [Option<Box<Leg>>; LegId::COUNT],
    /// Of these, those that were made while this gateway was a mirror.
    relays: LegSet,
    upstream: Option<Upstream>,
    /// What the primary that was followed last said of its mode, and of what this copy may lack.
    upstream_mode: Mode,
    lag_heard_ms: Option<u32>,
    points: Points,
    journal: JournalLimits,
    writes: Writes,
    flushes: Flushes,
    /// Requests that wait until hosts are served again.
    held: VecDeque<gate::Held>,
    /// In-sync legs that have not been heard since this gateway started.
    awaiting: LegSet,
    /// Legs that receive every change.
    live: LegSet,
    /// Legs whose acknowledgement a host's write waits for.
    counting: LegSet,
    /// Of these, the ones that are lost and not yet durably out of the in-sync set.
    leaving: LegSet,
    records: VecDeque<(u64, After)>,
    next_record: u64,
    activity_round: Option<ActivityRound>,
    /// What was found active is in no recorded dirty map yet: activity records wait (rule 3).
    unkept: bool,
    /// A store's doubt is not recorded yet: the activity record that ends it waits (rule 11).
    doubtful: bool,
    seq: Seq,
    spares: Vec<Generation>,
    /// Under which this machine takes its turns: drawn with the first generation, 0 before.
    tag: u32,
    now_ms: u64,
    host_boot: [u8; 16],
    latched: bool,
    /// Time passed: extents that nobody changes may leave the activity log.
    retire_idle: bool,
    /// A mirror that shares our history is lost: the next change begins a new one.
    begins_with_next: bool,
    /// The record that makes the current history durable: changes and mirrors wait for it (rule 9).
    untold: Option<u64>,
    /// The gateway stops in good order: nothing new is admitted, a link that ends means nothing.
    closing: bool,
    /// What mirrors lack is being recorded for the last time: nothing changes any more.
    closes: bool,
    /// The primary said goodbye before it went: nothing was acknowledged after that.
    orderly_end: bool,
    split_brain: bool,
    counters: GroupCounters,
    command: Option<Pending>,
    /// The witness, if there is one.
    arbiter: Option<Box<Arbiter>>,
    /// What the record says of a witness.
    arbitrated: Arbitrated,
    /// The other parts of the group at this site, if it has some.
    company: Option<Box<companions::Company>>,
    /// This gateway, as companions know it.
    me: Option<block::GatewayId>,
    /// A volume is leaving the group: hosts are held.
    dismissal: Option<members::Dismissal>,
    /// The snapshot that is to be taken as soon as this copy is at one place in the stream.
    asked: Option<Label>,
    recovery: recovery::Recovery,
    /// The copy goes back to a named snapshot.
    rollback: Option<rollback::Rollback>,
    /// The highest priority that copies at this gateway, as far as this group was told.
    highest_copying: Option<crate::Priority>,
    /// Reused while locks are given back.
    granted: Vec<Holder>,
}

#[derive(Debug)]
struct ActivityRound {
    number: u64,
    sets: Vec<(usize, Vec<block::ActivityExtent>)>,
    /// The dirty maps must be durable first.
    keeping_dirty: bool,
}

// === impl Machine ===

impl Machine {
    /// Takes one event and appends what must follow from it, in order.
    pub fn apply(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Change { write, volume, extent, payload } => {
                self.on_change(write, (volume, extent, payload), out);
            }
            Event::Flush { write, volume } => self.on_flush(write, volume, out),
            Event::Applied { write, result } => self.on_applied(write, result, out),
            Event::Flushed { round, result } => self.on_flushed(round, result, out),
            Event::Activated { round, result } => self.on_activated(round, result, out),
            Event::Recorded { number, result } => self.on_recorded(number, result, out),
            Event::Connected { leg, opening } => self.on_connected(leg, *opening, out),
            Event::Listed { leg, mapped } => self.on_listed(leg, &mapped),
            Event::Disconnected { leg, cause } => self.on_disconnected(leg, cause, out),
            Event::Heard { leg, message } => self.on_heard(leg, message, out),
            Event::CopyQueued { leg, copy, seq } => self.on_copy_queued(leg, copy, seq, out),
            Event::JournalFailed { leg } => self.on_journal_failed(leg, out),
            Event::LinkVersion { leg, version } => self.on_link_version(leg, version),
            Event::CopyFailed { leg, copy, error } => self.on_copy_failed(leg, copy, error, out),
            Event::Opened { open, site, gateway } => self.on_open(&open, site, gateway, out),
            Event::Incoming { write, seq, volume, extent, resync } => {
                let change = secondary::Incoming { seq, volume, extent, resync };
                self.on_incoming(write, change, out);
            }
            Event::Told { message } => self.on_told(message, out),
            Event::UpstreamLost { orderly } => self.on_upstream_lost(orderly, out),
            Event::Grown { volume, result } => self.on_grown(volume, result, out),
            Event::Snapshotted(result, taken) => self.on_snapshotted(result, taken, out),
            Event::SnapshotsRemoved { snapshots } => self.on_snapshots_removed(&snapshots, out),
            Event::Changed { result } => self.on_changed(result, out),
            Event::PointListed { leg, result } => self.on_point_listed(leg, *result, out),
            Event::RolledBack { result } => self.on_rolled_back(result, out),
            Event::Unfit { epoch, why } => self.on_unfit(epoch, why, out),
            Event::Overwritten { epoch } => self.on_overwritten(epoch, out),
            Event::Enlist { volume, sessions, records } => {
                self.on_enlist(&volume, &sessions, records, out);
            }
            Event::Dismiss { volume, group, name, records } => {
                self.on_dismiss(volume, (group, name), records, out);
            }
            Event::Dismissed => self.on_dismissed(out),
            Event::Command(command) => self.on_command(command, out),
            Event::SetAttributes { at, bytes } => self.set_attributes(at, bytes, out),
            Event::Recall => self.recall_handover(out),
            Event::LetGo { snapshot } => self.let_go(snapshot, out),
            Event::MakeRoom(snapshot, token) => self.make_room(snapshot, token, out),
            Event::CompanionSaid { gateway, state, answers } => {
                self.on_companion_said(gateway, *state, answers, out);
            }
            Event::CompanionLost { gateway } => self.on_companion_lost(gateway),
            Event::Arbitrated { number, outcome } => self.on_arbitrated(number, outcome, out),
            Event::WitnessSeen { sighting } => self.on_witness_seen(sighting, out),
            Event::WitnessLost => self.on_witness_lost(out),
            Event::Closing => self.on_closing(out),
            Event::Pace(pace) => self.on_pace(pace, out),
            Event::Tick { now_ms } => self.on_tick(now_ms, out),
        }
        self.settle(out);
        self.check();
    }

    /// Hands the machine a name for a history that it may begin. It needs two in hand at any time.
    pub fn supply(&mut self, generation: Generation) {
        if self.tag == 0 {
            let [.., a, b, c, d] = generation.uuid().into_bytes();
            self.tag = u32::from_be_bytes([a, b, c, d]).max(1);
        }
        self.spares.push(generation);
    }

    /// Whether [`Self::supply`] should be called.
    #[must_use]
    pub fn wants_supply(&self) -> bool {
        self.spares.len() < 2 * (LegId::COUNT + self.volumes.len())
    }

    /// Whether nothing is under way: no request, no flush, no record.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writes.len() == 0
            && self.records.is_empty()
            && self.activity_round.is_none()
            && self.flushes.is_idle()
            && self.points.is_idle()
            && (self.closes || !self.closing)
    }

    /// Whether hosts may be attached.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Detached)
            && self.awaiting.is_empty()
            && !self.latched
            && self.rollback.is_none()
            && !self.waits_for_witness()
            && (self.company.is_none() || !self.waits_for_companions())
    }

    /// Whether a read may be answered from the copy here.
    #[must_use]
    pub fn may_read(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Yielding(_) | Role::Detached) && !self.latched
    }

    /// Whether a change there may go straight to its store: nothing of it is mirrored or held.
    #[must_use]
    pub fn is_plain(&self, volume: usize, extent: block::Extent) -> bool {
        self.is_serving()
            && self.untold.is_none()
            && self.dismissal.is_none()
            && !self.wants_snapshot()
            && self.live.is_empty()
            && self.counting.is_empty()
            && self.legs.iter().all(Option::is_none)
            && self.volumes[volume].activity.covers(extent)
            && self.volumes[volume].locks.is_idle()
            && !self.volumes[volume].activity.needs_round()
            && self.activity_round.is_none()
    }

    /// Re-establishes what must hold whatever happened: rounds are begun, legs move on.
    fn settle(&mut self, out: &mut Vec<Effect>) {
        self.begin_activity_round(out);
        self.begin_flush_round(out);
        if !self.live.is_empty() {
            for leg in self.live.iter() {
                self.advance_leg(leg, out);
            }
        }
        self.advance_point(out);
        self.advance_named(out);
        self.advance_rollback(out);
        self.advance_role(out);
        self.advance_detachment(out);
        self.advance_relays(out);
        self.arbitrate(out);
        self.advance_companions(out);
        self.advance_closing(out);
        self.answer_open(out);
        if !self.held.is_empty() {
            self.release_held(out);
            // What was let through may need a round of its own, and no event may follow for long.
            self.begin_activity_round(out);
            self.begin_flush_round(out);
        }
    }

    fn leg(&self, id: LegId) -> Option<&Leg> {
        self.legs[id.index()].as_deref()
    }

    fn leg_mut(&mut self, id: LegId) -> Option<&mut Leg> {
        self.legs[id.index()].as_deref_mut()
    }

    fn next_seq(&mut self) -> Seq {
        self.seq = self.seq.next();
        self.seq
    }

    /// Begins a new history (rule 9: what came before is remembered).
    fn begin_generation(&mut self) {
        let next = self.spares.pop().expect("the driver supplies generations after every event");
        let bases: Vec<_> = self.legs.iter().flatten().filter_map(|leg| leg.base).collect();
        match &mut self.lineage {
            Some(lineage) => lineage.begin(next, &bases),
            None => self.lineage = Some(Lineage::new(next, Vec::new())),
        }
    }

    /// Asks for the group's record to be replaced; `after` happens when it is durable.
    fn keep(&mut self, after: After, out: &mut Vec<Effect>) {
        self.keep_with(after, Vec::new(), out);
    }

    /// The same, together with other records.
    fn keep_with(&mut self, after: After, more: members::Records, out: &mut Vec<Effect>) {
        self.plan_points();
        self.recording_part(self.next_record);
        let mut records = vec![self.group_record()];
        if matches!(
            after,
            After::DirtyKept
                | After::LegLeft(_)
                | After::LegJoined(_)
                | After::MembersKept
                | After::RollbackIntended
                | After::TookOver { .. }
                | After::RelayKept { .. }
        ) {
            self.push_dirty_records(&mut records);
        }
        records.extend(more);
        let number = self.next_record;
        self.next_record += 1;
        self.records.push_back((number, after));
        out.push(Effect::Record { number, records });
    }

    fn on_recorded(
        &mut self,
        number: u64,
        result: Result<(), block::IoError>,
        out: &mut Vec<Effect>,
    ) {
        let (expected, after) = self.records.pop_front().expect("a record was asked for");
        assert_eq!(expected, number, "records become durable in the order they were asked for");
        if let Err(error) = result {
            // What is recorded is no longer known, so nothing may be promised from here on.
            self.latch(error, out);
            if let After::RoomMade(token) = after {
                out.push(Effect::RoomMade(token, Err(crate::Refusal::Io(error))));
            }
            return;
        }
        self.recorded_part(number);
        self.confirm(number, out);
        self.tell_history(number, out);
        match after {
            After::Nothing | After::Fenced => {}
            After::Command => self.finish_command(Ok(()), out),
            After::LegLeft(leg) => self.leg_left(leg, out),
            After::LegJoined(leg) => self.leg_joined(leg, out),
            After::Arbitrated => self.enrolled(),
            After::DirtyKept => self.dirty_kept(number, out),
            After::Followed(link) => self.followed(link),
            After::QualityKept => self.quality_kept(out),
            After::PointKept { link, cut } => self.point_kept(link, cut, out),
            After::SnapshotNamed { id, link } => self.snapshot_named(id, link, out),
            After::RolledBack => self.rollback_recorded(out),
            After::RoomMade(token) => out.push(Effect::RoomMade(token, Ok(()))),
            After::RollbackIntended => self.roll_back(out),
            After::Promoted => self.promoted(out),
            After::TookOver { handover } => self.took_over(handover, out),
            After::Yielded => self.yielded(out),
            After::Unyielded => self.unyielded(out),
            After::Demoted => self.finish_command(Ok(()), out),
            After::Detached => self.detached(out),
            After::MembersKept => self.members_kept(out),
            After::RelayKept { leg, number } => self.relay_kept(leg, number),
        }
        self.remove_unneeded(out);
    }
}
