//! The link of a relay: what the other gateway says.
//!
//! Invariant: nothing that it says changes what the primary is promised, but one thing: an epoch
//! that is higher than the primary's (rule 6).

use block::{Epoch, GatewayId, Generation, Goodbye, LegId, Message, Open};

use super::transfer::Step;
use crate::lineage::Lineage;
use crate::machine::{After, Effect, Machine, Note, Opening, Role};
use crate::status::{Cause, SessionState};

impl Machine {
    /// Why a mirror that wants to be the source of the copy here is sent away. It may be that of a
    /// copy which is its own already, and of no other: so no two can ever follow each other.
    pub(in crate::machine) fn refuse_relay(
        &self,
        open: &Open,
        gateway: GatewayId,
    ) -> Option<Goodbye> {
        let source = self.source();
        let takes = matches!(self.role, Role::Secondary | Role::Detached);
        let refused = open.relayed && (!takes || source.is_some_and(|source| source != gateway));
        let why = if takes {
            "the copy here has another source, and only a primary replaces it"
        } else {
            "the copy here is or was that of a primary: a primary mirrors to it, or it is deleted first"
        };
        refused.then(|| Goodbye::Refused(why.to_owned()))
    }

    /// The history that the primary says. It forgets what its own mirrors count from no more; what
    /// those count from that are relayed to, only this gateway knows (rule 9).
    pub(in crate::machine) fn history_of(
        &self,
        generation: Generation,
        ancestors: Vec<Generation>,
    ) -> Lineage {
        let said = Lineage::new(generation, ancestors);
        let bases: Vec<_> = self.legs.iter().flatten().filter_map(|leg| leg.base).collect();
        match &self.lineage {
            Some(before) if !self.relays.is_empty() => said.continuing(before, &bases),
            Some(_) | None => said,
        }
    }

    pub(in crate::machine) fn relay_connected(
        &mut self,
        leg: LegId,
        opening: Opening,
        out: &mut Vec<Effect>,
    ) {
        let may = self.may_relay(leg);
        let dialed = self.relay_mut(leg).filter(|relay| may && relay.step == Step::Dialing);
        let Some(relay) = dialed else {
            out.push(Effect::Hang { leg, redial: false });
            return;
        };
        relay.step = Step::Waiting;
        relay.opening = Some(Box::new(opening));
        let state = self.leg_mut(leg).expect("checked above");
        state.state = SessionState::Active;
        state.cause = None;
        // Whatever it was once: nothing that a host writes waits for it.
        out.push(Effect::Post { leg, message: Message::Outdate });
    }

    pub(in crate::machine) fn relay_disconnected(
        &mut self,
        leg: LegId,
        cause: Cause,
        out: &mut Vec<Effect>,
    ) {
        let Some(relay) = self.relay_mut(leg) else { return };
        let (resting, connected) = (relay.is_resting(), relay.is_connected());
        if resting || self.closing {
            return;
        }
        if matches!(cause, Cause::Refused(_)) {
            self.stop_relay(leg, cause, out);
            return;
        }
        let relay = self.relay_mut(leg).expect("checked above");
        if connected {
            relay.rest();
            relay.due = true;
            relay.step = Step::Dialing;
            out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
            out.push(Effect::Hang { leg, redial: true });
        }
        let state = self.leg_mut(leg).expect("checked above");
        state.state = SessionState::Halted;
        state.cause = Some(cause);
    }

    pub(in crate::machine) fn relay_heard(
        &mut self,
        leg: LegId,
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        match message {
            Message::Acks(seqs) => seqs.into_iter().for_each(|seq| self.relay_acked(leg, seq)),
            Message::CutApplied { seq } => self.transferred(leg, seq, out),
            Message::Failed { error, .. } => {
                self.stop_relay(leg, Cause::MirrorFailed(error), out);
            }
            Message::Pong { state: theirs, .. } => {
                if let Some(state) = self.leg_mut(leg) {
                    state.theirs = Some(theirs);
                }
            }
            Message::Goodbye(Goodbye::Fenced { epoch }) => self.relay_fenced(leg, epoch, out),
            Message::Goodbye(Goodbye::SplitBrain { theirs_bytes }) => {
                self.stop_relay(leg, Cause::SplitBrain { theirs_bytes }, out);
            }
            Message::Goodbye(Goodbye::Refused(why) | Goodbye::Protocol(why)) => {
                self.stop_relay(leg, Cause::Refused(why), out);
            }
            Message::Goodbye(Goodbye::Shutdown | Goodbye::Suspended) => {
                let cause = Cause::LinkLost("the mirror was stopped".to_owned());
                self.relay_disconnected(leg, cause, out);
            }
            other => {
                let what = format!("unexpected {:?}", std::mem::discriminant(&other));
                self.stop_relay(leg, Cause::Refused(what), out);
            }
        }
    }

    /// The group was promoted where this gateway relays to. Its epoch counts here as every other
    /// one does, and whoever follows a lower one hears it (rule 6). What the two copies differ in
    /// stays known (rule 9).
    fn relay_fenced(&mut self, leg: LegId, epoch: Epoch, out: &mut Vec<Effect>) {
        if !self.is_relay(leg) {
            return;
        }
        self.end_transfer(leg, out);
        if epoch <= self.epoch {
            return;
        }
        let state = self.leg_mut(leg).expect("a relay is a leg");
        state.awaiting_reprotect = true;
        state.state = SessionState::Halted;
        state.cause = Some(Cause::AwaitingReprotect);
        self.epoch = epoch;
        out.push(Effect::Note(Note::Fenced));
        self.keep(After::Nothing, out);
        self.drop_upstream(Some(Goodbye::Fenced { epoch }), out);
    }

    /// A fault that an operator has to look at.
    pub(super) fn stop_relay(&mut self, leg: LegId, cause: Cause, out: &mut Vec<Effect>) {
        self.end_transfer(leg, out);
        let Some(state) = self.leg_mut(leg) else { return };
        state.discard = false;
        state.wanted = false;
        state.state = SessionState::Error;
        out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
        state.cause = Some(cause);
        self.keep(After::Nothing, out);
    }
}
