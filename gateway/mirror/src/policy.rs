//! The policies of a session, remembered across everything.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// On loss.
    pub split: Split,
    /// On return.
    pub recovery: Recovery,
    /// On slowness.
    pub on_slow: OnSlow,
    /// On the loss of the primary.
    pub failover: Failover,
    /// How long an in-sync mirror may take to acknowledge a change, in milliseconds.
    pub ack_deadline_ms: u64,
}

/// Under a host's usual 30 s, with room for a retry; between Longhorn's 8 s and DRBD's 42 s.
pub const ACK_DEADLINE_MS: u64 = 8_000;

impl Default for Policy {
    fn default() -> Self {
        Self {
            split: Split::default(),
            recovery: Recovery::default(),
            on_slow: OnSlow::default(),
            failover: Failover::default(),
            ack_deadline_ms: ACK_DEADLINE_MS,
        }
    }
}
