//! What recovery points need beside snapshots: marks that only grow, locks, what one copy keeps alone,
//! the schedule that the next primary must know, and the removal at mirrors that were away.
//!
//! Invariant (rule 15): a snapshot whose lock has not ended, by a clock that never goes back and is
//! not the one on the wall, is removed by nobody: no operator, no primary, no schedule. Until the
//! machine was told what that clock says, no lock has ended.
//!
//! What an operator removed at the primary is remembered for each mirror that may keep it until it
//! says that it does not. What a mirror has and the primary never had is nobody's to remove.

use block::{GatewayId, IoError, LegId, Message, POINTS_SINCE_VERSION, SNAPSHOTS_SINCE_VERSION};
use block::{SnapshotId, VolumeId};
use bytes::Bytes;

use super::members::Records;
use super::{After, Effect, Machine, Role};
use crate::command::Refusal;
use crate::record::{Gone, RecoveryRecord, SnapshotWord, recovery_key};
use crate::status::{Marks, SnapshotState};

/// The most removals that mirrors are still to be told of: the oldest are given up, and what they
/// removed stays at those mirrors until it is removed there.
const GONE_MAX: usize = 1024;

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// In the words of who made it.
    pub(super) policy: Option<Bytes>,
    gone: Vec<Gone>,
    /// What the lock clock said last.
    lock_ms: u64,
    /// The snapshot that is being taken is for this copy only.
    pub(super) here_only: Option<SnapshotId>,
    /// What is said to the primary when that record is durable.
    pub(super) confirming: Vec<(u64, SnapshotWord)>,
    /// What host protocols wait for.
    pub(super) keeping: Vec<super::attributes::Keeping>,
}

// === impl Machine ===

impl Machine {
    /// What was recorded of the group's recovery points.
    pub(crate) fn restore_recovery(&mut self, record: RecoveryRecord) {
        self.recovery.policy = record.policy;
        self.recovery.gone = record.gone;
    }

    fn recovery_record(&self) -> (String, Option<Bytes>) {
        let Recovery { policy, gone, .. } = &self.recovery;
        let record = RecoveryRecord { policy: policy.clone(), gone: gone.clone() };
        (recovery_key(self.group), record.encode())
    }

    /// What the lock clock says, as the machine was last told.
    pub(crate) const fn lock_ms(&self) -> u64 {
        self.recovery.lock_ms
    }

    pub(super) fn on_lock_clock(&mut self, unix_ms: u64) {
        self.recovery.lock_ms = self.recovery.lock_ms.max(unix_ms);
    }

    // --- locks ---

    /// Until when nobody may remove a snapshot, if that is not over.
    pub(super) fn locked_until(&self, id: SnapshotId) -> Option<u64> {
        let until = self.parts_of(id).map(|part| part.label.marks.locked_until_ms).max();
        until.filter(|until| *until > self.recovery.lock_ms)
    }

    /// Whether an operator may remove a snapshot here.
    pub(super) fn may_remove(&self, id: SnapshotId) -> Result<(), Refusal> {
        if self.parts_of(id).next().is_none() {
            return Err(Refusal::NoSuchSnapshot);
        }
        if self.latched {
            return Err(Refusal::Io(IoError::Latched));
        }
        if self.needs_on_its_way(id) {
            return Err(Refusal::NeededOnTheWay);
        }
        match self.locked_until(id) {
            Some(until_ms) => Err(Refusal::SnapshotLocked { until_ms }),
            None => Ok(()),
        }
    }

    // --- marks ---

    /// Adds marks to a snapshot, here and, at a primary, at the mirrors that are connected.
    pub(super) fn mark_snapshot(
        &mut self,
        id: SnapshotId,
        marks: &Marks,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.parts_of(id).next().is_none() {
            return Err(Refusal::NoSuchSnapshot);
        }
        if self.latched {
            return Err(Refusal::Io(IoError::Latched));
        }
        if self.parts_of(id).any(|part| part.state == SnapshotState::Deleting) {
            return Err(Refusal::SnapshotUnusable);
        }
        self.parts_mut(id).for_each(|part| {
            part.label.marks.add(marks);
        });
        if self.role == Role::Primary {
            let word = SnapshotWord::Mark { id, marks: marks.clone() };
            self.tell_all(&word, out);
        }
        let records = self.named_records();
        self.keep_with(After::Command, records, out);
        Ok(())
    }

    /// The primary says what else is known of a snapshot. One that is being removed here is not
    /// wanted any more, whatever is said of it.
    pub(super) fn told_marks(&mut self, id: SnapshotId, marks: &Marks, out: &mut Vec<Effect>) {
        let mut is_new = false;
        for part in self.parts_mut(id).filter(|part| part.state != SnapshotState::Deleting) {
            is_new |= part.label.marks.add(marks);
        }
        if is_new {
            let records = self.named_records();
            self.keep_with(After::Nothing, records, out);
        }
    }

    // --- one copy only ---

    /// This copy has no more use for a snapshot; what others keep is theirs.
    pub(super) fn forget_here(
        &mut self,
        id: SnapshotId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.may_remove(id)?;
        self.mark_deleting(id);
        let records = self.named_records();
        self.keep_with(After::Command, records, out);
        Ok(())
    }

    // --- the schedule ---

    pub(super) fn set_point_policy(
        &mut self,
        policy: Option<Bytes>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        self.recovery.policy = policy.clone();
        self.tell_all(&SnapshotWord::Policy(policy), out);
        let record = self.recovery_record();
        self.keep_with(After::Command, vec![record], out);
        Ok(())
    }

    /// The primary says which recovery points the group has, for when this gateway is the primary.
    pub(super) fn told_point_policy(&mut self, policy: Option<Bytes>, out: &mut Vec<Effect>) {
        if self.recovery.policy != policy {
            self.recovery.policy = policy;
            let record = self.recovery_record();
            self.keep_with(After::Nothing, vec![record], out);
        }
    }

    // --- removal at mirrors that are away ---

    /// A snapshot is to go at every mirror that may keep it: what has to be recorded for that.
    pub(super) fn bury(&mut self, id: SnapshotId, out: &mut Vec<Effect>) -> Records {
        let mut at: Vec<GatewayId> =
            self.parts_of(id).flat_map(|part| part.held_by.iter().copied()).collect();
        let legs = self.legs.iter().flatten().filter(|leg| !self.is_relay(leg.id));
        at.extend(legs.map(|leg| leg.gateway));
        at.sort_unstable();
        at.dedup();
        self.recovery.gone.retain(|gone| gone.id != id);
        self.recovery.gone.push(Gone { id, at });
        let excess = self.recovery.gone.len().saturating_sub(GONE_MAX);
        self.recovery.gone.drain(..excess);
        for leg in self.live.iter().collect::<Vec<_>>() {
            self.tell_gone(leg, id, out);
        }
        vec![self.recovery_record()]
    }

    /// Tells a mirror that nobody needs a snapshot any more. One of an old release says nothing to
    /// that: it was told.
    fn tell_gone(&mut self, leg: LegId, id: SnapshotId, out: &mut Vec<Effect>) {
        let Some((version, gateway)) = self.leg(leg).map(|leg| (leg.version, leg.gateway)) else {
            return;
        };
        if version >= POINTS_SINCE_VERSION {
            let message = Message::Snapshot(SnapshotWord::Retire(id).encode());
            out.push(Effect::Post { leg, message });
        } else if version >= SNAPSHOTS_SINCE_VERSION {
            let message = Message::Snapshot(SnapshotWord::Remove(id).encode());
            out.push(Effect::Post { leg, message });
            self.forget_gone(gateway, id);
        }
    }

    /// A mirror does not keep that snapshot; says whether that was awaited.
    fn forget_gone(&mut self, gateway: GatewayId, id: SnapshotId) -> bool {
        let mut is_new = false;
        for gone in self.recovery.gone.iter_mut().filter(|gone| gone.id == id) {
            let before = gone.at.len();
            gone.at.retain(|at| *at != gateway);
            is_new |= gone.at.len() != before;
        }
        self.recovery.gone.retain(|gone| !gone.at.is_empty());
        is_new
    }

    /// A mirror says that it does not keep a snapshot any more.
    pub(super) fn heard_retired(&mut self, leg: LegId, id: SnapshotId, out: &mut Vec<Effect>) {
        let Some(gateway) = self.leg(leg).map(|leg| leg.gateway) else { return };
        if self.forget_gone(gateway, id) {
            let record = self.recovery_record();
            self.keep_with(After::Nothing, vec![record], out);
        }
    }

    /// A mirror is connected: it hears what it may have missed.
    pub(super) fn tell_recovery(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.tell_all_attributes(leg, out);
        let Some((version, gateway)) = self.leg(leg).map(|leg| (leg.version, leg.gateway)) else {
            return;
        };
        let gone = self.recovery.gone.iter().filter(|gone| gone.at.contains(&gateway));
        for id in gone.map(|gone| gone.id).collect::<Vec<_>>() {
            self.tell_gone(leg, id, out);
        }
        if version < POINTS_SINCE_VERSION {
            return;
        }
        let mut words = vec![SnapshotWord::Policy(self.recovery.policy.clone())];
        let mut said: Vec<SnapshotId> = Vec::new();
        for part in self.volumes.iter().flat_map(|volume| &volume.named) {
            let (id, marks) = (part.label.id, &part.label.marks);
            if !marks.is_empty() && !said.contains(&id) && part.state != SnapshotState::Deleting {
                said.push(id);
                words.push(SnapshotWord::Mark { id, marks: marks.clone() });
            }
        }
        for word in words {
            out.push(Effect::Post { leg, message: Message::Snapshot(word.encode()) });
        }
    }

    /// Says something to every mirror that is connected and understands it.
    fn tell_all(&self, word: &SnapshotWord, out: &mut Vec<Effect>) {
        let word = word.encode();
        for leg in self.live.iter() {
            if self.leg(leg).is_some_and(|leg| leg.version >= POINTS_SINCE_VERSION) {
                out.push(Effect::Post { leg, message: Message::Snapshot(word.clone()) });
            }
        }
    }

    // --- at a mirror ---

    /// The primary's operator has no more use for a snapshot. One that is locked here stays, and
    /// nothing is said: the primary asks again when it is back.
    pub(super) fn told_gone(&mut self, id: SnapshotId, wants_word: bool, out: &mut Vec<Effect>) {
        if self.locked_until(id).is_some() {
            return;
        }
        if self.parts_of(id).next().is_some() {
            self.mark_deleting(id);
            let records = self.named_records();
            self.keep_with(After::Nothing, records, out);
        }
        if !wants_word {
            return;
        }
        match self.records.back() {
            Some((number, _)) => {
                self.recovery.confirming.push((*number, SnapshotWord::Retired(id)));
            }
            None => self.say(&SnapshotWord::Retired(id), out),
        }
    }

    /// A record is durable: what waited for it is said or answered.
    pub(super) fn confirm(&mut self, recorded: u64, out: &mut Vec<Effect>) {
        if !self.recovery.keeping.is_empty() {
            self.attributes_recorded(recorded, out);
        }
        if self.recovery.confirming.is_empty() {
            return;
        }
        let (done, waiting) = std::mem::take(&mut self.recovery.confirming)
            .into_iter()
            .partition(|(number, _)| *number <= recorded);
        self.recovery.confirming = waiting;
        let done: Vec<(u64, SnapshotWord)> = done;
        done.into_iter().for_each(|(_, word)| self.say(&word, out));
    }

    fn say(&self, word: &SnapshotWord, out: &mut Vec<Effect>) {
        if self.role == Role::Secondary && self.upstream.is_some() {
            let message = Message::Snapshot(word.encode());
            out.push(Effect::Reply { message });
        }
    }

    /// Nobody needs a snapshot any more: the stores forget it.
    pub(super) fn mark_deleting(&mut self, id: SnapshotId) {
        assert!(self.locked_until(id).is_none(), "what is locked is not removed (rule 15)");
        let mut unneeded: Vec<(VolumeId, SnapshotId)> = Vec::new();
        for volume in &mut self.volumes {
            for named in volume.named.iter_mut().filter(|named| named.label.id == id) {
                if named.state != SnapshotState::Deleting {
                    named.state = SnapshotState::Deleting;
                    unneeded.push((volume.id, named.here));
                }
            }
        }
        unneeded.into_iter().for_each(|(volume, here)| self.points.add_unneeded(volume, here));
    }
}
