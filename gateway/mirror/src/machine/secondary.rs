//! A mirror's side: accept a primary, apply what it sends, know what the copy is worth.
//!
//! Invariant (rules 6 and 7): a lower epoch is refused by name; what the copy is worth is recorded
//! before a change makes it less.

use std::collections::VecDeque;

use block::{
    DirtyReport, Extent, Gap, GatewayId, Goodbye, IoError, Message, Open, Opened, Quality, Seq,
    Vote, WriteId,
};

use super::points::Why;
use super::role::{YieldStep, Yielding};
use super::write_journal::{Entry, passes_point};
use super::{After, Effect, Machine, Note, Role};
use crate::record::{Inherited, RoleRecord, UpstreamRecord};

/// A change from the primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) seq: Seq,
    pub(super) volume: usize,
    pub(super) extent: Extent,
    pub(super) resync: bool,
}

/// Something from the primary that waits until what the copy is worth is recorded.
#[derive(Debug)]
enum Waiting {
    Change(WriteId, Incoming),
    Message(Message),
}

/// What only this copy has, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Bytes(u64),
    /// Any of what is mapped: it was not noted down for this primary.
    Unknown,
}

impl Own {
    /// In bytes, of a copy with so many mapped.
    pub(super) fn at_most(self, mapped_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Unknown => mapped_bytes,
        }
    }
}

/// The primary, as this mirror sees it.
#[derive(Debug)]
pub(super) struct Upstream {
    /// Whether the answer to its `Open` was given.
    accepted: bool,
    /// Its `Open` is recorded.
    recorded: bool,
    /// The answer that it waits for.
    answer: Option<(Vec<DirtyReport>, Opened)>,
    waiting: VecDeque<Waiting>,
    /// What the copy is worth is being recorded, or a point is being kept that the stream waits for.
    pub(super) recording: bool,
    /// The primary may overwrite what only this copy has: a snapshot comes first.
    pub(super) discards: Option<Own>,
    /// Flushes under way: (round of the local flush, the primary's number).
    flushes: VecDeque<(u64, Seq)>,
    /// Which link this is, so that a change of an earlier one is not acknowledged on it.
    pub(super) link: u64,
    pub(super) theirs: Option<block::MirrorState>,
    pub(super) seq: Seq,
    /// What it said of its other mirrors when it asked this one to take over.
    pub(super) heritage: Vec<Inherited>,
    /// A change of it was not applied, and why: what came later is no point in the order.
    pub(super) gap: Option<IoError>,
}

impl Upstream {
    /// The first change that waits.
    pub(super) fn first_waiting(&self) -> Option<Incoming> {
        self.waiting.iter().find_map(|waiting| match waiting {
            Waiting::Change(_, change) => Some(*change),
            Waiting::Message(_) => None,
        })
    }
}

/// Local flush rounds of a mirror are numbered apart from those of hosts.
const MIRROR_ROUND: u64 = 1 << 63;

impl Machine {
    pub(super) fn is_following(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.accepted)
    }

    pub(super) fn on_open(
        &mut self,
        open: &Open,
        site: String,
        gateway: GatewayId,
        out: &mut Vec<Effect>,
    ) {
        if let Some(goodbye) = self.refuse_open(open, gateway) {
            if matches!(goodbye, Goodbye::Fenced { .. }) {
                self.counters.fenced_writes += 1;
                out.push(Effect::Note(Note::FencedOff { gateway }));
            }
            if matches!(goodbye, Goodbye::Refused(_)) {
                // Its epoch counts, whatever else does not fit.
                self.fence(open.epoch, out);
            }
            out.push(Effect::Refuse { goodbye });
            return;
        }
        self.drop_upstream(None, out);
        if self.role == Role::Detached {
            self.end_detachment(out);
        }
        // A primary that is opened at a higher epoch is fenced before it answers.
        let was_primary = self.role != Role::Secondary;
        self.fence(open.epoch, out);
        let sessions: Vec<_> = open.volumes.iter().map(|offer| offer.session).collect();
        // Until it says otherwise, its sessions go by what it said the last time.
        let last = self.upstream_record.as_ref().filter(|last| last.gateway == gateway);
        let policy = last.and_then(|last| last.policy.clone());
        let record = UpstreamRecord { gateway, site, sessions, policy };
        self.remember_untracked(&record, was_primary, self.is_heir(open));
        let (differs, differences_known) = self.differences(open, gateway);
        let opened = Opened {
            quality: self.quality,
            generation: self.lineage.as_ref().map(|lineage| lineage.current),
            ancestors: self.lineage.as_ref().map_or_else(Vec::new, |l| l.ancestors.clone()),
            differences_known,
        };
        let discards = self.discards(open, (&differs, differences_known));
        self.lag_heard_ms = None;
        self.epoch = self.epoch.max(open.epoch);
        self.role = Role::Secondary;
        self.recorded_role = RoleRecord::Secondary;
        self.orderly_end = false;
        self.recorded_detached = false;
        self.upstream_record = Some(record);
        let link = self.next_record;
        self.upstream = Some(Upstream {
            accepted: false,
            recorded: false,
            answer: Some((differs, opened)),
            waiting: VecDeque::new(),
            recording: false,
            discards,
            flushes: VecDeque::new(),
            link,
            theirs: None,
            seq: Seq::ZERO,
            heritage: Vec::new(),
            gap: None,
        });
        self.keep(After::Followed(link), out);
    }

    /// Why a primary of this epoch is sent away, whatever it brings.
    pub(super) fn refuse_epoch(&self, epoch: block::Epoch) -> Option<Goodbye> {
        // An epoch that is not recorded is nobody's yet: a primary that it fenced could stand alone
        // if this gateway died now. It calls again, and hears it then.
        if let Role::Promoting(_) = self.role {
            return Some(self.promotion_goodbye());
        }
        let is_recording = self.latched
            || matches!(self.role, Role::Yielding(Yielding { step: YieldStep::GoingOn, .. }));
        let known = match self.role {
            Role::Fenced { by } => by.max(self.epoch),
            Role::Primary
            | Role::Yielding(_)
            | Role::Secondary
            | Role::Promoting(_)
            | Role::Detached => self.epoch,
        };
        if epoch < known {
            return Some(if is_recording {
                Goodbye::Suspended
            } else {
                Goodbye::Fenced { epoch: known }
            });
        }
        match self.role {
            Role::Primary | Role::Yielding(_) if epoch == self.epoch => {
                Some(Goodbye::SplitBrain { theirs_bytes: 0 })
            }
            Role::Primary
            | Role::Yielding(_)
            | Role::Secondary
            | Role::Promoting(_)
            | Role::Detached
            | Role::Fenced { .. } => None,
        }
    }

    /// Why the primary that wants to open the group here is sent away, whatever the sizes are.
    pub(crate) fn refuse_primary(&self, open: &Open, gateway: GatewayId) -> Option<Goodbye> {
        if let Some(goodbye) = self.refuse_epoch(open.epoch) {
            return Some(goodbye);
        }
        if self.latched {
            return Some(latched_goodbye());
        }
        if self.role == Role::Detached && !open.discard && self.own_bytes() > 0 {
            return Some(Goodbye::SplitBrain { theirs_bytes: self.own_bytes() });
        }
        if let (Role::Secondary, Some(current)) = (self.role, &self.upstream_record)
            && open.epoch == self.epoch
            && current.gateway != gateway
            && self.is_following()
        {
            return Some(Goodbye::Refused("another primary has opened this group".to_owned()));
        }
        if let Some(goodbye) = self.refuse_relay(open, gateway) {
            return Some(goodbye);
        }
        let ours = self.volumes.iter().map(|volume| volume.id);
        if !open.volumes.iter().map(|offer| offer.volume).eq(ours) {
            return Some(Goodbye::Refused("the group has other volumes here".to_owned()));
        }
        None
    }

    fn refuse_open(&self, open: &Open, gateway: GatewayId) -> Option<Goodbye> {
        if let Some(goodbye) = self.refuse_primary(open, gateway) {
            return Some(goodbye);
        }
        for (offer, volume) in open.volumes.iter().zip(&self.volumes) {
            if offer.bytes > volume.geometry.bytes() {
                return Some(Goodbye::Refused(format!(
                    "volume {} has {} bytes here and {} at the primary",
                    volume.name,
                    volume.geometry.bytes(),
                    offer.bytes
                )));
            }
        }
        None
    }

    pub(super) fn followed(&mut self, link: u64) {
        if let Some(upstream) = self.upstream.as_mut().filter(|u| u.link == link) {
            upstream.recorded = true;
        }
    }

    /// Answers a primary whose `Open` is recorded, once nothing of an earlier link is under way:
    /// a late change of that one must not land behind what this one compares or copies.
    pub(super) fn answer_open(&mut self, out: &mut Vec<Effect>) {
        let idle = self.writes.len() == 0 && !self.points.is_busy() && self.rollback.is_none();
        let Some(upstream) = self.upstream.as_mut().filter(|u| u.recorded && idle) else { return };
        if let Some((differs, opened)) = upstream.answer.take() {
            upstream.accepted = true;
            out.push(Effect::Accept { differs, opened });
        }
    }

    pub(super) fn on_incoming(&mut self, write: WriteId, change: Incoming, out: &mut Vec<Effect>) {
        let quality = self.quality;
        let Some(upstream) = self.upstream.as_mut().filter(|u| u.accepted) else {
            out.push(Effect::Forget { write });
            return;
        };
        // A copy that is one point in time stops being one with the first change that is not the
        // next in order: that point is kept, and what the copy is worth is recorded (rule 8).
        let next = matches!(quality, Quality::InSync | Quality::Consistent) && !change.resync;
        let discards =
            (upstream.discards.is_some() || self.points.is_foreign()) && quality != Quality::Blank;
        // Behind a cut that is being kept, the copy is about to be more than Inconsistent.
        let half = quality == Quality::Inconsistent && !(change.resync && self.points.is_keeping());
        let keeps = !discards && (next || half);
        if upstream.recording || !keeps {
            upstream.waiting.push_back(Waiting::Change(write, change));
            // What needs a point of its own waits until the one that is being kept is recorded.
            upstream.recording |= self.points.is_keeping();
            if upstream.recording {
                return;
            }
            let is_point = matches!(quality, Quality::InSync | Quality::Outdated);
            if discards || (is_point && !self.keeps_cut()) {
                self.keep_point(Why::Overwrite, out);
            } else {
                // Blank is no point in time, and a consistent copy has one already, as has one whose
                // companions go back to an earlier cut.
                self.keep_quality(Quality::Inconsistent, out);
            }
            return;
        }
        let Incoming { seq, volume, extent, resync: _ } = change;
        upstream.seq = upstream.seq.max(seq);
        self.points.note_overwritten(extent.len());
        let origin = Some((upstream.link, seq));
        self.journal_change(write, &change, out);
        self.admit(write, (volume, extent, 0), origin, out);
    }

    fn keep_quality(&mut self, quality: Quality, out: &mut Vec<Effect>) {
        let Some(upstream) = &mut self.upstream else { return };
        if upstream.recording {
            return;
        }
        upstream.recording = true;
        self.quality = quality;
        self.keep(After::QualityKept, out);
    }

    pub(super) fn quality_kept(&mut self, out: &mut Vec<Effect>) {
        let Some(upstream) = &mut self.upstream else { return };
        upstream.recording = false;
        let mut waiting = std::mem::take(&mut upstream.waiting);
        while let Some(next) = waiting.pop_front() {
            match next {
                Waiting::Change(write, change) => self.on_incoming(write, change, out),
                Waiting::Message(message) => self.on_told(message, out),
            }
            let Some(upstream) = &mut self.upstream else { return };
            if upstream.recording {
                // What came again to wait stands before the rest.
                upstream.waiting.append(&mut waiting);
                return;
            }
        }
    }

    /// The local store has (or has not) what the primary sent.
    pub(super) fn incoming_applied(
        &mut self,
        write: WriteId,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        let change = self.writes.remove(write);
        let (link, seq) = change.incoming.expect("the caller checked");
        self.volumes[change.volume].activity.leave(change.extent);
        out.push(Effect::Forget { write });
        if let Some(upstream) = self.upstream.as_mut().filter(|up| up.link == link) {
            match result {
                Ok(()) => out.push(Effect::Acknowledge { seq }),
                Err(error) => {
                    upstream.gap.get_or_insert(error);
                    out.push(Effect::Reply { message: Message::Failed { seq, error } });
                }
            }
        }
        if result == Err(IoError::Latched) {
            self.latch(IoError::Latched, out);
        }
        let holder = crate::locks::Holder::Write(write);
        self.unlock(change.volume, change.extent.blocks(), holder, out);
    }

    pub(super) fn on_told(&mut self, message: Message, out: &mut Vec<Effect>) {
        let Some(upstream) = self.upstream.as_mut().filter(|u| u.accepted) else { return };
        if !matches!(message, Message::Ping { .. }) {
            // Behind a cut that is being kept, changes go on and are flushed; what the copy is worth
            // does not change before the cut is recorded.
            upstream.recording |= !passes_point(&message) && self.points.is_keeping();
            if upstream.recording {
                upstream.waiting.push_back(Waiting::Message(message));
                return;
            }
        }
        match message {
            Message::Flush { seq } => {
                let round = MIRROR_ROUND + seq.get();
                upstream.flushes.push_back((round, seq));
                let volumes = (0..self.volumes.len()).collect();
                out.push(Effect::FlushLocal { round, volumes });
            }
            Message::Promote { generation, ancestors } => {
                self.quality = Quality::InSync;
                self.lineage = Some(self.history_of(generation, ancestors));
                // This copy is the primary's now: what it once had of its own is gone.
                let fresh = self.forget_legs();
                if !self.voted_at_mirror() {
                    self.points.give_up_kept();
                }
                self.points.settle_foreign();
                self.upstream.as_mut().expect("it has told us").recording = true;
                self.keep_with(After::Promoted, fresh, out);
            }
            Message::Cut { seq, generation, ancestors } => {
                let lineage = self.history_of(generation, ancestors);
                self.keep_point(Why::Cut { seq, lineage }, out);
            }
            Message::Handover { epoch } => self.on_handover(epoch, out),
            Message::Outdate => {
                // Nothing worse than Outdated is improved by being told that it is old.
                if self.quality == Quality::InSync {
                    self.keep_quality(Quality::Outdated, out);
                }
            }
            Message::Grow { volume, bytes } => {
                let volume = usize::from(volume);
                if volume < self.volumes.len() {
                    out.push(Effect::GrowLocal { volume, bytes });
                }
            }
            Message::Ping { state, .. } => {
                upstream.theirs = Some(state);
                self.upstream_mode = state.mode;
                self.lag_heard_ms = state.lag_ms;
            }
            Message::Policy(bytes) => self.told_policy(&bytes, out),
            Message::Span(bytes) => self.told_span(&bytes, out),
            Message::Snapshot(word) => self.told_of_snapshot(&word, out),
            Message::Goodbye(goodbye) => {
                self.orderly_end = goodbye == Goodbye::Shutdown;
                self.drop_upstream(None, out);
            }
            other => {
                let why = format!("unexpected {:?}", std::mem::discriminant(&other));
                self.drop_upstream(Some(Goodbye::Protocol(why)), out);
            }
        }
    }

    pub(super) fn promoted(&mut self, out: &mut Vec<Effect>) {
        if self.upstream.is_some() {
            out.push(Effect::Reply { message: Message::Voted(Vote::InSync) });
        }
        self.quality_kept(out);
    }

    /// A local flush of a mirror ended; says whether it was one.
    pub(super) fn incoming_flushed(
        &mut self,
        round: u64,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) -> bool {
        if round < MIRROR_ROUND {
            return false;
        }
        let seq = Seq::new(round - MIRROR_ROUND);
        let is_awaited = self.upstream.as_mut().is_some_and(|upstream| {
            let before = upstream.flushes.len();
            upstream.flushes.retain(|(number, _)| *number != round);
            upstream.flushes.len() < before
        });
        if is_awaited {
            let message = match result {
                Ok(()) => Message::Durable { seq },
                Err(error) => Message::Failed { seq, error },
            };
            out.push(Effect::Reply { message });
        }
        if let Err(error) = result {
            // Also when the primary that asked is gone: the copy must be reopened (rule 11).
            self.latch(error, out);
        }
        true
    }

    pub(super) fn on_upstream_lost(&mut self, orderly: bool, out: &mut Vec<Effect>) {
        self.orderly_end = orderly;
        self.drop_upstream(None, out);
    }

    /// The copy here is latched: nothing is acknowledged from it (rule 11). The primary is told at
    /// once; otherwise it would call this copy equal until it next has something to send.
    pub(super) fn end_following(&mut self, out: &mut Vec<Effect>) {
        // Whether one that was asked to take over did is told by its record, and by nothing else.
        if self.role != Role::Secondary {
            return;
        }
        if self.is_following() {
            self.drop_upstream(Some(latched_goodbye()), out);
        } else if self.upstream.is_some() {
            // The answer to its `Open` was not given yet: this is it.
            self.drop_upstream(None, out);
            out.push(Effect::Refuse { goodbye: latched_goodbye() });
        }
    }

    /// Ends the link to the primary. What it sent and is not applied yet is forgotten.
    pub(super) fn drop_upstream(&mut self, goodbye: Option<Goodbye>, out: &mut Vec<Effect>) {
        let Some(upstream) = self.upstream.take() else { return };
        self.abandon_point();
        out.push(Effect::Journal(Entry::Gap(Gap::Link)));
        for waiting in upstream.waiting {
            if let Waiting::Change(write, _) = waiting {
                out.push(Effect::Forget { write });
            }
        }
        out.push(Effect::HangUpstream { goodbye });
    }
}

fn latched_goodbye() -> Goodbye {
    Goodbye::Refused("the copy here failed and must be reopened".to_owned())
}
