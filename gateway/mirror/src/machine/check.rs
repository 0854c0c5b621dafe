//! What must hold after each event, as assertions.
//!
//! Invariant: each names its rule of `docs/SEMANTICS.md`, and none changes anything.

use block::Quality;

use super::leg::Stage;
use super::{Machine, Role};

impl Machine {
    /// The rules that must never break, as far as they are visible here.
    pub(super) fn check(&self) {
        assert!(self.leaving.within(self.counting), "a leaving leg still counts (rule 1)");
        assert!(self.leaving.is_disjoint(self.live), "a lost leg gets nothing more");
        for leg in self.legs.iter().flatten() {
            let bit = leg.id;
            assert!(
                !leg.in_set || self.counting.has(bit) || !self.live.has(bit),
                "an acknowledgement waits for every in-sync leg (rule 1)"
            );
            assert_eq!(leg.stage.is_live(), self.live.has(bit), "one truth about what is live");
            assert!(
                leg.stage.is_live() || !leg.has_copies(),
                "what is copied to nobody keeps no range from hosts (rule 2)"
            );
            assert!(
                !leg.journaled || !(leg.in_set || self.counting.has(bit)),
                "what nothing waits for holds nobody's acknowledged writes (rule 1)"
            );
            assert!(
                leg.stage != Stage::Following || leg.journaled || leg.stepping_down,
                "what follows behind is not waited for, or is about to be no more"
            );
        }
        assert!(
            self.quality != Quality::Consistent || self.points.kept().is_some(),
            "a copy that follows behind keeps its newest cut (rule 8)"
        );
        self.check_relays();
        self.check_companions();
        match self.role {
            Role::Primary | Role::Yielding(_) => {
                assert!(
                    !self.points.is_busy_for_a_primary(),
                    "a primary keeps no points but those with names (rule 8)"
                );
                assert!(
                    !self.points.is_rolling_back()
                        || (self.rollback.is_some() && self.live.is_empty()),
                    "a primary's copy goes back only where nobody follows it (rule 9)"
                );
                self.check_witness();
            }
            Role::Secondary | Role::Promoting(_) | Role::Fenced { .. } | Role::Detached => {
                assert!(self.live.is_empty(), "only a primary has mirrors (rule 6)");
                assert!(self.counting.is_empty(), "only a primary waits for mirrors");
            }
        }
    }
}
