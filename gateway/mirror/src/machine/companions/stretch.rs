//! How parts come into a stretch together, and out of it.
//!
//! Invariant: a mirror is asked to record a stretch only when all parts are ready for that one, and
//! it counts only when all mirrors have recorded it.

use block::{LegId, Message};

use crate::machine::leg::Stage;
use crate::machine::{Effect, Machine, Note};
use crate::status::{Cause, SessionState};

impl Machine {
    /// Whether the mirror may be asked to record that it has everything.
    pub(in crate::machine) fn may_ask_vote(&self) -> bool {
        let Some(company) = &self.company else { return true };
        let number = company.number;
        company.asked
            || (company.parting.is_empty()
                && company.excluded_by.is_none()
                && company.all_say(|facts| {
                    let ready = facts.is_ready || facts.has_voted || facts.has_joined;
                    facts.number == number && facts.is_primary && ready
                }))
    }

    /// The mirror is asked now: it hears first which stretch that is for.
    pub(in crate::machine) fn vote_is_asked(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Some(company) = &mut self.company {
            company.asked = true;
            self.tell_span(leg, out);
        }
    }

    /// Whether a lost leg may have been asked to vote.
    pub(in crate::machine) fn may_have_voted(&self) -> bool {
        self.company.as_ref().is_none_or(|company| company.asked)
    }

    /// The mirror voted. Says whether it counts only when those of all parts did.
    pub(in crate::machine) fn voted_in_company(&mut self) -> bool {
        let Some(company) = &mut self.company else { return false };
        company.voted = true;
        !company.joined
    }

    pub(super) fn advance_stretch(&mut self, out: &mut Vec<Effect>) {
        let Some(leg) = self.own_leg().map(|leg| leg.id) else { return };
        let (stage, asked) =
            self.leg(leg).map_or((Stage::Off, false), |l| (l.stage, l.asked.is_some()));
        if stage == Stage::Voting && !asked {
            self.ask_vote(leg, out);
        }
        let Some(company) = &mut self.company else { return };
        let number = company.number;
        let all = company.whole >= number
            || company
                .all_say(|facts| facts.number == number && (facts.has_voted || facts.has_joined));
        if stage == Stage::Joining && company.voted && !company.joined && all {
            company.joined = true;
            company.whole = company.whole.max(number);
            out.push(Effect::Note(Note::StretchJoined { number }));
            self.join_set(leg, out);
        }
        self.part_when_all_stopped(out);
    }

    /// The mirror is recorded as one that counts: what it kept for the case that not all come so far
    /// is not needed any more.
    pub(in crate::machine) fn joined_in_company(&self, leg: LegId, out: &mut Vec<Effect>) {
        if self.company.is_some() {
            self.tell_span(leg, out);
        }
    }

    /// Whether a mirror that was opened must be let go again: it is not certain which stretch was
    /// whole, or its release does not know of any.
    pub(in crate::machine) fn holds_link(&mut self, leg: LegId, out: &mut Vec<Effect>) -> bool {
        let Some(company) = &self.company else { return false };
        let settled = company.is_settled();
        let version = self.leg(leg).map_or(0, |leg| leg.version);
        if version < block::SPAN_SINCE_VERSION {
            let cause = Cause::PeerTooOld { version, needs: block::SPAN_SINCE_VERSION };
            self.stop_leg(leg, cause, SessionState::Error, out);
            return true;
        }
        if !settled {
            out.push(Effect::Hang { leg, redial: true });
        }
        !settled
    }

    /// A mirror was opened, its leg is live.
    pub(in crate::machine) fn opened_in_company(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(company) = &self.company else { return };
        let joined = company.joined;
        let number = company.number + 1;
        let Some(state) = self.leg(leg) else { return };
        let has_all = state.stage != Stage::Listing && state.is_clean();
        let in_set = state.in_set;
        self.tell_span(leg, out);
        if !joined && has_all {
            // Else it was told so already. What comes now is no part of the stretch that it knows.
            out.push(Effect::Post { leg, message: Message::Outdate });
        }
        if in_set && joined && !has_all {
            // It must be copied to: meanwhile it is no point of the stretch that all are in.
            self.end_stretch(number, None, out);
        } else if in_set && !joined {
            let cause = Cause::StretchEnded { by: None };
            self.lose_leg(leg, cause, SessionState::Halted, out);
        }
    }

    /// The mirror is lost: this part is past the stretch, and acknowledges nothing without the mirror
    /// before all companions are.
    pub(in crate::machine) fn leave_company(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let Some(company) = &mut self.company else { return };
        if company.parting.is_empty() {
            company.parting_since = now_ms;
        }
        company.parting.insert(leg);
        let (next, in_stretch) = (company.number + 1, company.asked);
        if let Some(state) = self.leg_mut(leg)
            && state.stage != Stage::Leaving
        {
            // What is lost already is waited for by nothing: changes are refused meanwhile.
            state.halted = true;
        }
        if in_stretch {
            self.end_stretch(next, None, out);
        }
    }

    fn part_when_all_stopped(&mut self, out: &mut Vec<Effect>) {
        let Some(company) = &mut self.company else { return };
        let left = company.left;
        let past = company.recorded.facts.number > left;
        if company.parting.is_empty() || !past || !company.all_say(|facts| facts.number > left) {
            return;
        }
        for leg in std::mem::take(&mut company.parting).iter() {
            let Some(state) = self.leg_mut(leg) else { continue };
            state.halted = false;
            self.leave_set(leg, out);
        }
    }
}
