//! What the witness will say to a failover, as far as it said so before.

use api::{Check, CheckState};
use block::Quality;
use mirror::{Consent, GroupStatus, WitnessStatus};

use super::{check, unanswered};

/// What is asked of the witness, if there is one.
pub(super) fn check_witness(status: &GroupStatus, consent: Consent) -> Option<Check> {
    let witness = status.witness?;
    let name = "ask the witness";
    if witness.reachable != Some(true) {
        let text = "it does not answer, and nobody is promoted without its word: bring it back";
        return Some(check(name, CheckState::Blocked, text));
    }
    if unanswered(status).is_some() {
        let text = "it knows whether the mirror took over: if not, the mirror is taken out of the \
                    set and this gateway goes on; if so, this gateway follows";
        return Some(check(name, CheckState::Ok, text));
    }
    Some(if consent == Consent::InSync { unforced(status, witness) } else { forced(witness) })
}

fn unforced(status: &GroupStatus, witness: WitnessStatus) -> Check {
    let name = "ask the witness";
    if witness.is_named != Some(true) {
        let text = "it does not name this copy: the primary went on without it. If this is meant: \
                    --accept outdated";
        return check(name, CheckState::Blocked, text);
    }
    if witness.primary_alive == Some(true) {
        let text = "the primary's lease runs: until it is over this is refused";
        return check(name, CheckState::Warning, text);
    }
    let worth = if status.quality == Quality::InSync { "" } else { ", whatever it is worth now" };
    check(name, CheckState::Ok, format!("it names this copy{worth}"))
}

fn forced(witness: WitnessStatus) -> Check {
    let name = "ask the witness";
    if witness.is_named == Some(true) {
        return check(name, CheckState::Ok, "it names this copy");
    }
    let text = "it does not name this copy: what the primary acknowledged without it is lost";
    check(name, CheckState::Warning, text)
}
