//! Whether a request of a host may go on, waits, or is refused.
//!
//! Invariant: what waits is let through in the order in which it came.

use block::{IoError, WriteId};

use super::write::Change;
use super::{Effect, Machine, Role};

/// A request that waits until hosts are served again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    Change { write: WriteId, change: Change },
    Flush { write: WriteId, volume: usize },
}

/// Whether a host's request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Hold,
    Refuse(IoError),
}

impl Machine {
    pub(super) fn gate(&self, change: bool) -> Gate {
        match self.role {
            _ if self.latched => Gate::Refuse(IoError::Latched),
            _ if self.closing => Gate::Refuse(IoError::ShuttingDown),
            Role::Primary if !self.awaiting.is_empty() => Gate::Hold,
            Role::Primary if self.untold.is_some() || self.dismissal.is_some() => Gate::Hold,
            Role::Primary if self.rollback.is_some() => Gate::Refuse(IoError::ShuttingDown),
            Role::Primary if change && self.holds_for_snapshot() => Gate::Hold,
            Role::Primary if self.waits_for_witness() => Gate::Hold,
            Role::Primary if self.company.is_some() && self.waits_for_companions() => {
                self.companion_refusal().map_or(Gate::Hold, Gate::Refuse)
            }
            Role::Primary if change && self.is_halted() => Gate::Refuse(self.halt_error()),
            Role::Detached if self.untold.is_some() => Gate::Hold,
            Role::Primary | Role::Detached => Gate::Open,
            Role::Yielding(_) => Gate::Hold,
            Role::Secondary | Role::Promoting(_) => Gate::Refuse(IoError::ReadOnly),
            Role::Fenced { .. } => Gate::Refuse(IoError::Fenced),
        }
    }

    pub(super) fn is_halted(&self) -> bool {
        self.legs.iter().flatten().any(|leg| leg.halted)
    }

    /// Serves or refuses what was held.
    pub(super) fn release_held(&mut self, out: &mut Vec<Effect>) {
        while let Some(held) = self.held.front().copied() {
            let change = matches!(held, Held::Change { .. });
            if self.gate(change) == Gate::Hold {
                return;
            }
            self.held.pop_front();
            match held {
                Held::Change { write, change } => self.on_change(write, change, out),
                Held::Flush { write, volume } => self.on_flush(write, volume, out),
            }
        }
    }
}
