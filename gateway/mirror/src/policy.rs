//! The policies of a session, remembered across everything.

use block::Mode;

use crate::bandwidth::Bandwidth;
use crate::priority::Priority;

/// What happens to host writes when a mirror is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// Go on alone and track what the mirror lacks.
    #[default]
    Automatic,
    /// Refuse writes until the mirror is back or an operator suspends the session.
    Manual,
}

/// What happens when a lost mirror comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Resynchronise by delta at once.
    #[default]
    Automatic,
    /// Wait for an operator's `resume`.
    Manual,
}

/// What happens when a mirror does not acknowledge within the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnSlow {
    /// The session goes to Error and its hosts go on; an operator resumes it.
    #[default]
    Error,
    /// Hosts wait for as long as the mirror is connected.
    Block,
    /// The session goes on as in mode `consistency`, and back by itself once the mirror keeps up.
    Degrade,
}

/// What happens when a mirror loses its primary for good. Needs a witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Failover {
    /// An operator promotes it.
    #[default]
    Manual,
    /// It promotes itself, if the witness permits it.
    Automatic,
}

/// The policies of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How it copies.
    pub mode: Mode,
    /// On loss.
    pub split: Split,
    /// On return.
    pub recovery: Recovery,
    /// On slowness.
    pub on_slow: OnSlow,
    /// On the loss of the primary.
    pub failover: Failover,
    /// How long an in-sync mirror may take to acknowledge a change or a flush, in milliseconds.
    pub ack_deadline_ms: u64,
    /// From one cut to the next in mode `consistency`, in milliseconds.
    pub cut_interval_ms: u64,
    /// From one transfer to the next in mode `stack`, in seconds; 0: only by command.
    pub transfer_every_s: u64,
    /// What its copier may send.
    pub bandwidth: Bandwidth,
    /// How its copying stands to that of others.
    pub priority: Priority,
    /// It is in mode `sync` for a planned swap of roles only, and has this mode again once they are
    /// swapped.
    pub mode_after_swap: Option<Mode>,
}

/// A snapshot and a record at the mirror each: an RPO of about a second costs it one percent.
pub const CUT_INTERVAL_MS: u64 = 1_000;

/// Under a host's usual 30 s, with room for a retry; between Longhorn's 8 s and DRBD's 42 s.
pub const ACK_DEADLINE_MS: u64 = 8_000;

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            split: Split::default(),
            recovery: Recovery::default(),
            on_slow: OnSlow::default(),
            failover: Failover::default(),
            ack_deadline_ms: ACK_DEADLINE_MS,
            cut_interval_ms: CUT_INTERVAL_MS,
            transfer_every_s: 0,
            bandwidth: Bandwidth::default(),
            priority: Priority::default(),
            mode_after_swap: None,
        }
    }
}

// === impl Policy ===

impl Policy {
    /// The policies of the session while it is in mode `sync` for a planned swap of roles.
    #[must_use]
    pub fn for_swap(&self) -> Self {
        if self.mode == Mode::Sync {
            return self.clone();
        }
        Self { mode: Mode::Sync, mode_after_swap: Some(self.mode), ..self.clone() }
    }

    /// Its policies once roles are swapped, or once they are to stay as they are.
    #[must_use]
    pub fn after_swap(&self) -> Self {
        let mode = self.mode_after_swap.unwrap_or(self.mode);
        Self { mode, mode_after_swap: None, ..self.clone() }
    }
}
