//! What a figure is to be, and whether it is.
//!
//! Invariant: what is no number meets nothing.

use serde::Serialize;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Under(f64),
    AtMost(f64),
    AtLeast(f64),
}

/// A figure of a report beside its goal.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) figure: &'static str,
    pub(crate) value: f64,
    goal: String,
    pub(crate) is_met: bool,
}

// === impl Goal ===

impl Goal {
    pub(crate) fn judge(self, figure: &'static str, value: f64) -> Judged {
        let (is_met, goal) = match self {
            Self::Under(limit) => (value < limit, format!("under {limit}")),
            Self::AtMost(limit) => (value <= limit, format!("at most {limit}")),
            Self::AtLeast(limit) => (value >= limit, format!("at least {limit}")),
        };
        Judged { figure, value, goal, is_met }
    }
}

// === impl Judged ===

impl Judged {
    /// For people, behind the figure.
    pub(crate) fn text(&self) -> String {
        let word = if self.is_met { "met" } else { "NOT MET" };
        format!("goal: {}, {word}", self.goal)
    }
}
