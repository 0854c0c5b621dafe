//! Our words in the dialect's: one exhaustive match each, so that a new one breaks the build here.
//!
//! Invariant: what is not known is `Unknown` or absent; `Equivalent` is said only of copies that
//! are, and in an asynchronous mode of one that has every write up to its newest cut.
#![warn(clippy::wildcard_enum_match_arm)]

use api::{Code, Copy, LinkState, OperationState, RecChoice, RecTransferMode};
use block::Quality;
use mirror::{Cause, LegStatus, Mode, Phase, Recovery, Role, Serving, SessionState, Split};

use crate::gateway::halves::Half;

/// The status of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Copying or mirroring.
    Active,
    /// Split into two volumes.
    Suspend,
    /// Stopped by a fault that needs an operator.
    Error,
    /// Stopped by the loss of the path; changes are tracked.
    Halt,
    /// The thread that owns the volume does not answer.
    Unknown,
}

impl Status {
    /// The dialect's word.
    #[must_use]
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Suspend => "Suspend",
            Self::Error => "Error",
            Self::Halt => "Halt",
            Self::Unknown => "Unknown",
        }
    }
}

/// A session's status, seen from this half.
#[must_use]
pub(super) fn status(half: &Half) -> Status {
    if !half.moment.fresh {
        return Status::Unknown;
    }
    match &half.leg {
        Some(leg) => of_leg(leg),
        None => of_copy(half),
    }
}

/// Seen from the source.
#[must_use]
pub(super) fn of_leg(leg: &LegStatus) -> Status {
    match leg.state {
        SessionState::Active => Status::Active,
        SessionState::Suspended => Status::Suspend,
        // After a reverse: roles are swapped and nothing is copied until it is resumed.
        SessionState::Halted if leg.cause == Some(Cause::AwaitingReprotect) => Status::Suspend,
        SessionState::Halted => Status::Halt,
        SessionState::Error => Status::Error,
    }
}

/// Seen from the destination, which knows only what it was told.
fn of_copy(half: &Half) -> Status {
    match half.status.role {
        Role::Fenced => return Status::Halt,
        Role::Primary | Role::Secondary => {}
    }
    match &half.status.serving {
        Serving::Detached => Status::Suspend,
        Serving::Latched => Status::Error,
        Serving::RollingBack => Status::Suspend,
        Serving::Yes
        | Serving::NotPrimary
        | Serving::Fenced { .. }
        | Serving::WaitingForMirror
        | Serving::Halted
        | Serving::NoWitness
        | Serving::WaitingForWitness
        | Serving::WaitingForCompanion
        | Serving::NoCompanion
        | Serving::Excluded
        | Serving::HandingOver => {
            if half.is_connected() {
                Status::Active
            } else if half.status.quality == Quality::Outdated {
                // Told to be an old one: its source suspended the session or went on alone.
                Status::Suspend
            } else {
                Status::Halt
            }
        }
    }
}

/// A session's phase, seen from this half.
#[must_use]
pub(super) fn phase(half: &Half) -> &'static str {
    match &half.leg {
        Some(leg) => match leg.phase {
            Phase::NoPair => "No_Pair",
            Phase::Copying => "Copying",
            // Asynchronous: it holds all up to its newest cut, and goes on from cut to cut.
            Phase::Equivalent | Phase::Following => "Equivalent",
            Phase::Tracking => "Tracking",
        },
        None => match half.status.quality {
            Quality::Blank if half.is_connected() => "Copying",
            Quality::Blank => "No_Pair",
            Quality::Inconsistent => "Copying",
            Quality::InSync | Quality::Consistent if half.is_connected() => "Equivalent",
            Quality::Outdated if half.is_connected() => "Copying",
            Quality::InSync | Quality::Consistent | Quality::Outdated | Quality::Source => {
                "Tracking"
            }
        },
    }
}

/// Whether a copy holds, or can go back to, one point in time, so that hosts could use it.
#[must_use]
pub(super) fn is_usable(half: &Half) -> bool {
    match half.status.quality {
        Quality::Inconsistent if half.status.kept.is_some() => true,
        Quality::InSync | Quality::Consistent | Quality::Outdated | Quality::Source => true,
        Quality::Inconsistent | Quality::Blank => false,
    }
}

/// The code of why a session is not as it should be; none for what an operator did.
#[must_use]
pub(super) const fn cause_code(cause: &Cause) -> Option<Code> {
    match cause {
        Cause::LinkLost(_) => Some(Code::LinkLost),
        Cause::Unreachable(_) => Some(Code::MirrorUnreachable),
        Cause::MirrorFailed(_) => Some(Code::MirrorFailed),
        Cause::TooSlow => Some(Code::MirrorSlow),
        Cause::JournalFull => Some(Code::JournalFull),
        Cause::PeerTooOld { .. } => Some(Code::PeerTooOld),
        Cause::SplitBrain { .. } => Some(Code::SplitBrain),
        Cause::Refused(_) => Some(Code::MirrorRefused),
        Cause::Operator
        | Cause::Regrouped
        | Cause::StretchEnded { .. }
        | Cause::AwaitingReprotect => None,
    }
}

/// A code as the dialect shows errors of sessions: its number in hexadecimal.
#[must_use]
pub(super) fn error_code(code: Code) -> String {
    let number: u32 = code.as_str().trim_start_matches("GW").parse().unwrap_or_default();
    format!("{number:x}")
}

/// The dialect's word for what happens on loss.
#[must_use]
pub(super) const fn split(split: Split) -> RecChoice {
    match split {
        Split::Automatic => RecChoice::Automatic,
        Split::Manual => RecChoice::Manual,
    }
}

/// The dialect's word for what happens on return.
#[must_use]
pub(super) const fn recovery(recovery: Recovery) -> RecChoice {
    match recovery {
        Recovery::Automatic => RecChoice::Automatic,
        Recovery::Manual => RecChoice::Manual,
    }
}

/// The API's word for a choice.
#[must_use]
pub(super) fn choice_word(choice: RecChoice) -> String {
    match choice {
        RecChoice::Automatic => "automatic".to_owned(),
        RecChoice::Manual => "manual".to_owned(),
    }
}

/// How a leg copies.
#[must_use]
pub(super) const fn transfer_mode(leg: &LegStatus) -> RecTransferMode {
    match leg.policy.mode {
        Mode::Sync => RecTransferMode::Synchronous,
        Mode::Consistency => RecTransferMode::Consistency,
        Mode::Stack => RecTransferMode::Stack,
    }
}

/// The API's word for a mode.
#[must_use]
pub(super) fn mode(mode: RecTransferMode) -> String {
    let word = match mode {
        RecTransferMode::Synchronous => "sync",
        RecTransferMode::Consistency => "consistency",
        RecTransferMode::Stack => "stack",
    };
    word.to_owned()
}

/// The dialect's word for a mode.
#[must_use]
pub(super) const fn mode_word(mode: RecTransferMode) -> &'static str {
    match mode {
        RecTransferMode::Synchronous => "Synchronous",
        RecTransferMode::Stack => "Stack",
        RecTransferMode::Consistency => "Consistency",
    }
}

/// A volume's status and its detail.
#[must_use]
pub(super) const fn volume(copy: Copy, is_destination: bool) -> (&'static str, &'static str) {
    match (copy, is_destination) {
        (Copy::Serving, _) => ("Normal", "Available"),
        (Copy::Standby, true) => ("Normal", "Copy_Destination"),
        (Copy::Standby, false) => ("Broken", "Not_Ready"),
        (Copy::Unknown, _) => ("Unknown", "Unknown"),
    }
}

/// A job's state.
#[must_use]
pub(super) const fn job(state: OperationState, has_failed: bool, went_well: bool) -> &'static str {
    match (state, has_failed, went_well) {
        (OperationState::Running, _, _) => "Running",
        (OperationState::Succeeded, false, _) => "Success",
        (_, true, true) => "Partial_Error",
        (OperationState::Succeeded | OperationState::Failed, _, _) => "Error",
    }
}

/// The state of a job's step.
#[must_use]
pub(super) const fn step(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "Running",
        OperationState::Succeeded => "Succeeded",
        OperationState::Failed => "Failed",
    }
}

/// The state of the path to another gateway.
#[must_use]
pub(super) const fn path(link: Option<LinkState>) -> &'static str {
    match link {
        Some(LinkState::Connected) => "Normal",
        Some(LinkState::Connecting) => "Error",
        Some(LinkState::Off) | None => "Unused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rec_28_an_error_is_a_code_in_hexadecimal() {
        assert_eq!(error_code(Code::LinkLost), format!("{:x}", 601));
        assert_eq!(cause_code(&Cause::TooSlow), Some(Code::MirrorSlow));
        assert_eq!(cause_code(&Cause::Operator), None);
    }

    #[test]
    fn rec_07_a_job_over_several_things_says_when_only_some_went_well() {
        assert_eq!(job(OperationState::Running, true, true), "Running");
        assert_eq!(job(OperationState::Succeeded, false, true), "Success");
        assert_eq!(job(OperationState::Succeeded, true, true), "Partial_Error");
        assert_eq!(job(OperationState::Succeeded, true, false), "Error");
        assert_eq!(job(OperationState::Failed, true, false), "Error");
    }
}
