//! What may be done to a group when: one table, for both dialects.
//!
//! Invariant: what is not in the table is refused before anything is begun. An error state lets the word
//! be said again that led to it, and a failover wherever something that it replaces went wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::book::evs::{Dialect, Life, Wanted};

/// What is done to a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(crate) enum Action {
    /// Mirror, or mirror again.
    Sync,
    /// Stop mirroring; changes are tracked.
    Pause,
    /// Swap roles, losing nothing.
    Reverse {
        /// The site that is to be the production site, where it was said.
        to: Option<String>,
    },
    /// The other site takes over without this one.
    Failover {
        /// The token of a refusal, which says that this is meant.
        confirm: Option<String>,
    },
    /// The old production site becomes a mirror.
    Reprotect {
        /// Consent that what only it has is lost.
        discard: bool,
    },
    /// Disks grow.
    Extend {
        /// To so many GiB, by pair.
        gib: BTreeMap<Uuid, u64>,
    },
}

impl Action {
    /// For people.
    #[must_use]
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Sync => "synchronised",
            Self::Pause => "paused",
            Self::Reverse { .. } => "reversed",
            Self::Failover { .. } => "failed over",
            Self::Reprotect { .. } => "reprotected",
            Self::Extend { .. } => "expanded",
        }
    }

    /// What the group is while it is done.
    #[must_use]
    pub(crate) const fn life(&self) -> Life {
        match self {
            Self::Sync => Life::Starting,
            Self::Pause => Life::Stopping,
            Self::Reverse { .. } => Life::Reversing,
            Self::Failover { .. } => Life::FailingOver,
            Self::Reprotect { .. } => Life::Reprotecting,
            // Growing changes no status.
            Self::Extend { .. } => Life::Available,
        }
    }
}

/// Whether an action is allowed in a state.
#[must_use]
pub(crate) fn is_allowed(
    dialect: Dialect,
    action: &Action,
    (life, wanted): (Life, Wanted),
) -> bool {
    let is_running = wanted == Wanted::Running;
    let is_sdrs = dialect == Dialect::Sdrs;
    match action {
        Action::Sync => match life {
            Life::Available => wanted != Wanted::FailedOver && !(is_sdrs && is_running),
            Life::ErrorStarting | Life::ErrorStopping => true,
            Life::ErrorReversing => !is_sdrs,
            _ => false,
        },
        Action::Pause => match life {
            Life::Available => is_running || !is_sdrs,
            Life::ErrorStopping => true,
            Life::ErrorStarting | Life::ErrorReversing => !is_sdrs,
            _ => false,
        },
        Action::Reverse { .. } => {
            life == Life::ErrorReversing || (life == Life::Available && is_running)
        }
        Action::Failover { .. } => match life {
            // A group that was never copied, or stands paused, can be failed over to what is there.
            Life::Available => is_running || (!is_sdrs && wanted == Wanted::Paused),
            Life::ErrorFailingOver | Life::ErrorReversing => true,
            Life::ErrorStarting | Life::ErrorStopping => !is_sdrs,
            _ => false,
        },
        Action::Reprotect { .. } => matches!(life, Life::FailedOver | Life::ErrorReprotecting),
        Action::Extend { .. } => life == Life::Available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Life; 12] = [
        Life::Available,
        Life::Creating,
        Life::Error,
        Life::Deleting,
        Life::ErrorStarting,
        Life::ErrorStopping,
        Life::Reversing,
        Life::ErrorReversing,
        Life::FailingOver,
        Life::FailedOver,
        Life::ErrorFailingOver,
        Life::ErrorReprotecting,
    ];

    fn allowed(dialect: Dialect, action: &Action, wanted: Wanted) -> Vec<Life> {
        STATES.into_iter().filter(|life| is_allowed(dialect, action, (*life, wanted))).collect()
    }

    #[test]
    fn evs_34_each_word_only_in_the_states_that_the_service_names() {
        let sdrs = |action: Action, wanted| allowed(Dialect::Sdrs, &action, wanted);
        assert_eq!(
            sdrs(Action::Sync, Wanted::Idle),
            [Life::Available, Life::ErrorStarting, Life::ErrorStopping]
        );
        assert!(!is_allowed(Dialect::Sdrs, &Action::Sync, (Life::Available, Wanted::Running)));
        assert_eq!(sdrs(Action::Pause, Wanted::Running), [Life::Available, Life::ErrorStopping]);
        assert_eq!(
            sdrs(Action::Reprotect { discard: false }, Wanted::FailedOver),
            [Life::FailedOver, Life::ErrorReprotecting]
        );
    }

    #[test]
    fn evs_35_a_reverse_that_failed_is_tried_again_or_becomes_a_failover() {
        for dialect in [Dialect::Evs, Dialect::Sdrs] {
            let reverse = allowed(dialect, &Action::Reverse { to: None }, Wanted::Running);
            assert_eq!(reverse, [Life::Available, Life::ErrorReversing]);
            let failover = Action::Failover { confirm: None };
            let failover = allowed(dialect, &failover, Wanted::Running);
            assert!(failover.contains(&Life::ErrorReversing), "{failover:?}");
            assert!(!failover.contains(&Life::FailedOver), "{failover:?}");
        }
    }
}
