//! What operators ask, one at a time.
//!
//! Invariant: every command is answered exactly once, with the state it left durable.

use block::{GatewayId, Geometry, IoError, LegId, Message, SnapshotId};

use super::leg::{Leg, LegSet, Stage};
use super::{After, Effect, Machine, Role};
use crate::command::{Command, Refusal};
use crate::policy::Split;
use crate::record::{Label, UpstreamRecord};
use crate::status::{Cause, Marks, SessionState, SnapshotOrigin};

/// The command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Answered when a record or a change of roles is done.
    Plain,
    /// Answered when it is recorded who belongs to the group, whatever else happens meanwhile.
    Members,
    /// Answered when this leg is durably out of the in-sync set.
    Suspend(LegId),
    /// The same, and then it is forgotten.
    Remove(LegId),
    /// Answered when every copy is this long.
    Grow { volume: usize, bytes: u64, waiting: LegSet },
    /// Answered when the copy is open to hosts.
    Detach,
    /// Answered when hosts are held for that snapshot of all parts.
    Hold(SnapshotId),
    /// Answered when that snapshot is recorded.
    Snapshot(SnapshotId),
    /// Answered when the group is what it was at that snapshot.
    RollBack(SnapshotId),
    /// Answered when the witness said whether the mirror that was asked took over.
    GoOn,
}

impl Machine {
    pub(super) fn on_command(&mut self, command: Command, out: &mut Vec<Effect>) {
        if self.command.is_some() {
            out.push(Effect::Answered(Err(Refusal::Busy)));
            return;
        }
        if self.closing {
            // What a link that ends means now is nothing, so no command could be carried through.
            out.push(Effect::Answered(Err(Refusal::Io(IoError::ShuttingDown))));
            return;
        }
        self.command = Some(Pending::Plain);
        let begun = match command {
            Command::AddLeg { gateway, site, sessions, policy, holds_content } => {
                let peer = UpstreamRecord { gateway, site, sessions, policy: None };
                self.add_leg(peer, policy, holds_content, out)
            }
            Command::RemoveLeg { leg } => self.stop(leg, Pending::Remove(leg), out),
            Command::Suspend { leg } => self.stop(leg, Pending::Suspend(leg), out),
            Command::Drain { leg, for_ms } => self.begin_drain(leg, for_ms, out),
            Command::SuspendWhole { leg } => self.suspend_whole(leg, out),
            Command::Resume { leg, discard } => self.resume(leg, discard, out),
            Command::SetPolicy { leg, policy } => self.set_policy(leg, policy, out),
            Command::Transfer { leg } => self.transfer(leg, out),
            Command::Reverse { leg } => self.begin_handover(leg, out),
            Command::Promote { consent } => self.promote_alone(consent, out),
            Command::TakeOver { consent, cut, apart } => {
                self.take_over_at((cut, apart), consent, out)
            }
            Command::Accompany { gateway } => self.accompany(gateway, out),
            Command::Exclude { gateway } => self.exclude(gateway, out),
            Command::Include { gateway } => self.include(gateway, out),
            Command::Grow { volume, bytes } => self.begin_growth(volume, bytes, out),
            Command::Verify { leg, bytes_per_second } => {
                self.begin_verification(leg, bytes_per_second, out)
            }
            Command::Snapshot { snapshot, name, origin, unix_ms } => {
                let marks = Marks::default();
                self.begin_snapshot(Label { id: snapshot, name, origin, unix_ms, marks }, out)
            }
            Command::TakePoint { snapshot: id, name, unix_ms, marks, here_only } => {
                let origin = SnapshotOrigin::Scheduled;
                self.recovery.here_only = here_only.then_some(id);
                self.begin_snapshot(Label { id, name, origin, unix_ms, marks }, out)
            }
            Command::Hold { snapshot: id, name, unix_ms, from } => {
                let (origin, marks) = (SnapshotOrigin::Manual, Marks::default());
                self.hold_together(Label { id, name, origin, unix_ms, marks }, from, out)
            }
            Command::TakeHeld { snapshot } => self.take_held(snapshot),
            Command::MarkSnapshot { snapshot, marks } => self.mark_snapshot(snapshot, &marks, out),
            Command::ForgetSnapshot { snapshot } => self.forget_here(snapshot, out),
            Command::SetPointPolicy { policy } => self.set_point_policy(policy, out),
            Command::RemoveSnapshot { snapshot } => self.remove_named(snapshot, out),
            Command::RollBack { snapshot, safety, unix_ms } => {
                self.begin_rollback(snapshot, (safety, unix_ms), out)
            }
            Command::Detach => self
                .require_alone("has no detached copies")
                .and_then(|()| self.begin_detachment(out)),
        };
        if let Err(refusal) = begun {
            self.finish_command(Err(refusal), out);
        }
    }

    pub(super) fn finish_command(&mut self, result: Result<(), Refusal>, out: &mut Vec<Effect>) {
        if self.command.take().is_some() {
            if result.is_err() {
                self.drop_target();
                self.asked = None;
            }
            out.push(Effect::Answered(result));
        }
    }

    /// The same, if that is the command under way: another may have been asked for since.
    pub(super) fn finish_own(
        &mut self,
        own: Pending,
        result: Result<(), Refusal>,
        out: &mut Vec<Effect>,
    ) {
        if self.command == Some(own) {
            self.finish_command(result, out);
        }
    }

    pub(super) fn require_primary(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Primary => Ok(()),
            Role::Yielding(_) | Role::Promoting(_) => Err(Refusal::Busy),
            Role::Secondary | Role::Detached => Err(Refusal::NotPrimary),
            Role::Fenced { by } => Err(Refusal::Fenced { by }),
        }
    }

    fn add_leg(
        &mut self,
        peer: UpstreamRecord,
        policy: crate::Policy,
        holds_content: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.may_place(peer.gateway, &policy, holds_content)?;
        if self.role == Role::Secondary && !holds_content {
            return self.add_relay(peer, policy, out);
        }
        let id = self.may_add_leg(peer.gateway)?;
        if peer.sessions.len() != self.volumes.len() {
            return Err(Refusal::SessionsMismatch);
        }
        let mut leg = Leg::new(id, peer, policy, self.volumes.len());
        leg.wanted = true;
        leg.holds_content = holds_content;
        leg.state = SessionState::Active;
        self.legs[id.index()] = Some(Box::new(leg));
        self.dial_wanted(out);
        self.keep(After::Command, out);
        Ok(())
    }

    /// Whether a leg to that gateway would have a place among the parts of the group.
    fn may_place(
        &self,
        gateway: GatewayId,
        policy: &crate::Policy,
        holds_content: bool,
    ) -> Result<(), Refusal> {
        self.may_span(policy)?;
        self.require_own_mirror(gateway)?;
        if holds_content || self.role == Role::Secondary || self.own_legs().next().is_some() {
            self.require_alone("has one mirror for each part, copied from its primary")?;
        }
        Ok(())
    }

    /// Where the leg of another mirror would be.
    fn may_add_leg(&self, gateway: GatewayId) -> Result<LegId, Refusal> {
        self.require_primary()?;
        if self.legs.iter().flatten().any(|leg| leg.gateway == gateway) {
            return Err(Refusal::AlreadyMirrored);
        }
        LegId::all().find(|id| self.leg(*id).is_none()).ok_or(Refusal::TooManyLegs)
    }

    /// Whether a primary would take [`Command::AddLeg`] now. Nothing is changed: it is asked before a
    /// volume at that gateway is touched.
    pub(crate) fn may_mirror(
        &self,
        gateway: GatewayId,
        policy: &crate::Policy,
        holds_content: bool,
    ) -> Result<(), Refusal> {
        if self.command.is_some() {
            return Err(Refusal::Busy);
        }
        if self.closing {
            return Err(Refusal::Io(IoError::ShuttingDown));
        }
        self.may_place(gateway, policy, holds_content)?;
        self.may_add_leg(gateway).map(drop)
    }

    /// Suspends a leg, or removes it.
    pub(super) fn stop(
        &mut self,
        leg: LegId,
        pending: Pending,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.is_relay(leg) {
            return self.stop_relaying(leg, matches!(pending, Pending::Remove(_)), out);
        }
        match self.role {
            Role::Primary => {}
            // A fenced gateway may forget what it knows of its mirrors, but not run them.
            Role::Fenced { by } if matches!(pending, Pending::Suspend(_)) => {
                return Err(Refusal::Fenced { by });
            }
            Role::Fenced { .. } => {}
            Role::Yielding(_) | Role::Promoting(_) => return Err(Refusal::Busy),
            Role::Secondary | Role::Detached => return Err(Refusal::NotPrimary),
        }
        let state = self.leg(leg).ok_or(Refusal::Unknown)?;
        if state.stage == Stage::Leaving {
            return Err(Refusal::Busy);
        }
        let live = state.stage.is_live();
        let in_set = state.in_set || self.is_ousting(leg);
        if self.role == Role::Primary && self.misses_witness(leg) {
            // It would be lost for nothing: hosts could not go on without it.
            return Err(Refusal::NoWitness);
        }
        let was_whole = self.in_sync_stage(leg);
        self.command = Some(pending);
        if live {
            out.push(Effect::Post { leg, message: Message::Outdate });
            let goodbye = block::Goodbye::Suspended;
            out.push(Effect::Post { leg, message: Message::Goodbye(goodbye) });
            self.lose_leg(leg, Cause::Operator, SessionState::Suspended, out);
            if let Some(state) = self.leg_mut(leg) {
                state.suspended = true;
                state.left_whole = Some(was_whole);
            }
            if !in_set && !self.is_ousting(leg) {
                self.keep(After::LegLeft(leg), out);
            }
            return Ok(());
        }
        // Not connected: it may still be in the in-sync set (halted, or not heard since we began).
        let state = self.leg_mut(leg).expect("checked above");
        state.wanted = false;
        if state.state != SessionState::Suspended {
            state.left_whole = Some(state.base.is_some() && state.is_clean());
        }
        state.suspended = true;
        state.halted = false;
        state.draining = None;
        state.awaiting_reprotect = false;
        state.stage = Stage::Off;
        state.state = SessionState::Suspended;
        state.cause = Some(Cause::Operator);
        out.push(Effect::Hang { leg, redial: false });
        if in_set {
            self.leave(leg, out);
        } else {
            self.keep(After::LegLeft(leg), out);
        }
        Ok(())
    }

    pub(super) fn finish_suspend(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        match self.command {
            Some(Pending::Suspend(waiting)) if waiting == leg => self.finish_command(Ok(()), out),
            Some(Pending::Remove(waiting)) if waiting == leg => {
                let gateway = self.leg(leg).map(|leg| leg.gateway);
                let shares = self.shares_history(leg);
                let mut fresh = self.end_fresh(leg);
                fresh.extend(self.end_relay(leg));
                self.disown(leg);
                self.legs[leg.index()] = None;
                self.command = Some(Pending::Plain);
                if self.begins_with_next || shares {
                    // With the leg goes the knowledge that its mirror shares this history.
                    self.begin_alone();
                }
                let mut records = vec![self.group_record()];
                if let Some(gateway) = gateway {
                    let keys = self
                        .volumes
                        .iter()
                        .map(|v| crate::record::dirty_key(self.group, gateway, v.id));
                    records.extend(keys.map(|key| (key, None)));
                    let certificate = crate::certificate::certificate_key(self.group, gateway);
                    records.push((certificate, None));
                    records.push((crate::record::heir_key(self.group, gateway), None));
                    records.extend(fresh);
                }
                let number = self.next_record;
                self.next_record += 1;
                self.records.push_back((number, After::Command));
                out.push(Effect::Record { number, records });
            }
            _ => {}
        }
    }

    /// Whether a mirror that hosts do not wait for holds a point of the history that is served now.
    fn shares_history(&self, leg: LegId) -> bool {
        let base = self.leg(leg).and_then(|leg| leg.base);
        let current = self.lineage.as_ref().map(|lineage| lineage.current);
        self.role == Role::Primary && base.is_some() && base == current
    }

    fn resume(&mut self, leg: LegId, discard: bool, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.is_relay(leg) {
            return self.resume_relay(leg, discard, out);
        }
        self.require_primary()?;
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        if state.stage != Stage::Off {
            // Already on its way, or there.
            self.finish_command(Ok(()), out);
            return Ok(());
        }
        state.wanted = true;
        state.suspended = false;
        state.awaiting_reprotect = false;
        state.discard = discard;
        state.state = SessionState::Active;
        state.cause = None;
        self.dial_wanted(out);
        self.keep(After::Command, out);
        Ok(())
    }

    fn set_policy(
        &mut self,
        leg: LegId,
        policy: crate::Policy,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.is_relay(leg) {
            return self.set_relay_policy(leg, policy, out);
        }
        self.require_primary()?;
        self.may_span(&policy)?;
        self.may_change_mode(leg, policy.mode)?;
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        let before = std::mem::replace(&mut state.policy, policy);
        let frees = state.halted && state.policy.split == Split::Automatic;
        if frees && before.mode == state.policy.mode {
            // What was refused may go on: the mirror leaves the in-sync set first.
            state.halted = false;
            self.leave(leg, out);
        }
        self.change_mode(leg, before.mode, out)?;
        self.policy_changed(leg, &before, out);
        self.keep(After::Command, out);
        Ok(())
    }

    // --- growth: mirrors first, then the primary (a cut in between leaves the smallest size) ---

    fn begin_growth(
        &mut self,
        volume: block::VolumeId,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        let index = self.volumes.iter().position(|state| state.id == volume);
        let index = index.ok_or(Refusal::Unknown)?;
        let fits = Geometry::new(bytes).is_ok() && bytes > self.volumes[index].geometry.bytes();
        if !fits {
            return Err(Refusal::BadSize);
        }
        if self.legs.iter().flatten().any(|leg| leg.wanted && !leg.stage.is_live()) {
            return Err(Refusal::NotConnected);
        }
        self.command = Some(Pending::Grow { volume: index, bytes, waiting: self.live });
        for leg in self.live.iter() {
            let volume = u16::try_from(index).expect("a group has few volumes");
            out.push(Effect::Post { leg, message: Message::Grow { volume, bytes } });
        }
        if self.live.is_empty() {
            out.push(Effect::GrowLocal { volume: index, bytes });
        }
        Ok(())
    }

    pub(super) fn on_mirror_grown(
        &mut self,
        leg: LegId,
        volume: u16,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(Pending::Grow { volume: index, bytes: wanted, waiting }) = &mut self.command
        else {
            return;
        };
        if usize::from(volume) != *index {
            return;
        }
        if bytes < *wanted {
            self.finish_command(Err(Refusal::Io(IoError::NoSpace)), out);
            return;
        }
        waiting.remove(leg);
        if waiting.is_empty() {
            let (volume, bytes) = (*index, *wanted);
            out.push(Effect::GrowLocal { volume, bytes });
        }
    }

    /// A mirror went away in the middle of a growth: nothing grew here.
    pub(super) fn growth_lost(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Some(Pending::Grow { waiting, .. }) = &self.command
            && waiting.has(leg)
        {
            self.finish_command(Err(Refusal::Interrupted), out);
        }
    }

    pub(super) fn on_grown(
        &mut self,
        volume: usize,
        result: Result<u64, IoError>,
        out: &mut Vec<Effect>,
    ) {
        if let Ok(bytes) = result
            && let Ok(geometry) = Geometry::new(bytes)
        {
            self.volumes[volume].geometry = geometry;
            self.volumes[volume].activity.grow(geometry);
            self.begin_relays_again(out);
        }
        if result == Err(IoError::Latched) {
            // A command that waits for this gets its answer there.
            self.latch(IoError::Latched, out);
            return;
        }
        match self.role {
            Role::Secondary => {
                // What comes behind the old end is in no base.
                out.push(Effect::Journal(super::Entry::Gap(block::Gap::Volumes)));
                let index = u16::try_from(volume).expect("a group has few volumes");
                let bytes = self.volumes[volume].geometry.bytes();
                if self.is_following() {
                    out.push(Effect::Reply { message: Message::Grown { volume: index, bytes } });
                }
            }
            Role::Primary
            | Role::Yielding(_)
            | Role::Promoting(_)
            | Role::Fenced { .. }
            | Role::Detached => {
                self.finish_command(result.map(|_| ()).map_err(Refusal::Io), out);
            }
        }
    }

    /// The gateway stops in good order: mirrors are told that nothing more will be acknowledged.
    pub(super) fn on_closing(&mut self, out: &mut Vec<Effect>) {
        for leg in self.live.iter() {
            let goodbye = block::Goodbye::Shutdown;
            out.push(Effect::Post { leg, message: Message::Goodbye(goodbye) });
        }
        if self.upstream.is_some() {
            self.drop_upstream(Some(block::Goodbye::Shutdown), out);
        }
        self.closing = true;
    }

    /// What hosts asked for before may still be on its way: what mirrors lack is recorded behind it.
    pub(super) fn advance_closing(&mut self, out: &mut Vec<Effect>) {
        if self.closing && !self.closes && self.writes.len() == 0 && self.activity_round.is_none() {
            self.closes = true;
            self.keep(After::DirtyKept, out);
        }
    }
}
