//! How a mirror that has everything comes to count: it records so, then the primary does.
//!
//! Invariant (rule 9): a vote counts for the history that the mirror was asked to record, because
//! that is the one it will name when it is opened again; and no mirror is told of a history that is
//! not recorded here, because then it would name one that its primary does not know.
//!
//! A mirror that is in sync is told of every history that begins without another one, and says when it
//! recorded it. From then on it counts from that one: what is dirty, with what is on its way, is all
//! that it may lack at any time, and it names no earlier history any more. So however many histories
//! others cost, this mirror is no further from the present than the last one that it answered.

use block::{LegId, Message, Seq};

use super::leg::Stage;
use super::{After, Effect, Machine, Note};
use crate::lineage::Lineage;

impl Machine {
    /// Whether the mirror has recorded that it has everything.
    pub(super) fn has_voted(&self, leg: LegId) -> bool {
        self.leg(leg).is_some_and(|leg| matches!(leg.stage, Stage::Joining | Stage::InSync))
    }

    /// The flush before the vote is durable: ask the mirror to record that it has everything.
    pub(super) fn leg_durable(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        if let Stage::Flushing { seq: awaited } = state.stage
            && seq >= awaited
        {
            state.stage = Stage::Voting;
            self.ask_vote(leg, out);
        }
    }

    pub(super) fn ask_vote(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let current = self.lineage.as_ref().map(|lineage| lineage.current);
        let told = self.untold.is_none() && self.may_ask_vote();
        if let Some(state) = self.leg_mut(leg) {
            // Else it is asked when the history is recorded.
            state.asked = current.filter(|_| told);
        }
        if told {
            self.vote_is_asked(leg, out);
            self.name_history(leg, out);
        }
    }

    /// A record is durable: if it was the first one with the current history, mirrors hear of it
    /// before anything that waited for the record goes on.
    pub(super) fn tell_history(&mut self, record: u64, out: &mut Vec<Effect>) {
        if self.untold.is_none_or(|awaited| record < awaited) {
            return;
        }
        self.untold = None;
        for leg in self.live.iter() {
            let asks = self.leg(leg).is_some_and(|l| l.stage == Stage::Voting && l.asked.is_none());
            if asks {
                self.ask_vote(leg, out);
            } else if self.has_voted(leg) {
                self.name_history(leg, out);
            }
        }
    }

    fn name_history(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Lineage { current: generation, ancestors } =
            self.lineage.clone().expect("a primary has a history");
        let Some(state) = self.leg_mut(leg) else { return };
        state.told.push_back(generation);
        out.push(Effect::Post { leg, message: Message::Promote { generation, ancestors } });
    }

    pub(super) fn on_voted(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let current = self.lineage.as_ref().map(|lineage| lineage.current);
        let Some(state) = self.leg_mut(leg) else { return };
        // It answers once for each history that it is told, in their order.
        let recorded = state.told.pop_front();
        if matches!(state.stage, Stage::Joining | Stage::InSync) {
            // An older base would be true as well, until it is no longer remembered.
            state.base = recorded.or(state.base);
        }
        if state.stage != Stage::Voting {
            return;
        }
        if state.asked != current {
            // A new history began meanwhile. What this mirror recorded is not the one that it
            // would be counted from (rule 9).
            self.ask_vote(leg, out);
            return;
        }
        state.stage = Stage::Joining;
        state.discard = false;
        state.lossy = None;
        state.holds_content = false;
        state.compares = false;
        state.base = current;
        state.failed = None;
        self.join(leg, out);
    }

    /// The mirror is recorded as in sync.
    pub(super) fn join_set(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Joining {
            state.in_set = true;
            let fresh = self.end_fresh(leg);
            self.keep_with(After::LegJoined(leg), fresh, out);
        }
    }

    pub(super) fn leg_joined(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Joining {
            state.stage = Stage::InSync;
            state.spells.end(now_ms);
            state.cuts.forget();
            out.push(Effect::Note(Note::MirrorInSync { leg }));
            self.joined_in_company(leg, out);
        }
    }
}
