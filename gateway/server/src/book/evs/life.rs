//! What becomes of pairs, groups and protected servers.
//!
//! Invariant: what is at work ends as what it was to become, or as the error of exactly that work.

use serde::{Deserialize, Serialize};

/// What becomes of a pair or a group; what its data does is another question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Life {
    /// Being made.
    #[default]
    Creating,
    /// Made.
    Available,
    /// It could not be made.
    Error,
    /// Being deleted.
    Deleting,
    /// It could not be deleted.
    ErrorDeleting,
    /// Volumes join or leave.
    Updating,
    /// Protection is being turned on.
    Starting,
    /// It could not be.
    ErrorStarting,
    /// Protection is being turned off.
    Stopping,
    /// It could not be.
    ErrorStopping,
    /// A planned migration runs.
    Reversing,
    /// It failed.
    ErrorReversing,
    /// A failover runs.
    FailingOver,
    /// It is done.
    FailedOver,
    /// It failed.
    ErrorFailingOver,
    /// The old primary becomes a mirror.
    Reprotecting,
    /// It could not.
    ErrorReprotecting,
    /// A server gets an interface.
    NicCreating,
    /// A server loses one.
    NicDeleting,
    /// A server's flavour is changed.
    Resizing,
    /// It could not be.
    ErrorResizing,
    /// A disk is attached to its servers.
    Attaching,
    /// It could not be.
    ErrorAttaching,
    /// A disk is taken out of them.
    Detaching,
    /// It could not be.
    ErrorDetaching,
}

impl Life {
    /// Whether somebody is at work.
    #[must_use]
    pub(crate) const fn is_busy(self) -> bool {
        matches!(
            self,
            Self::Creating
                | Self::Deleting
                | Self::Updating
                | Self::Starting
                | Self::Stopping
                | Self::Reversing
                | Self::FailingOver
                | Self::Reprotecting
                | Self::NicCreating
                | Self::NicDeleting
                | Self::Resizing
                | Self::Attaching
                | Self::Detaching
        )
    }

    /// What it is when the work came to nothing.
    #[must_use]
    pub(crate) const fn failed(self) -> Self {
        match self {
            Self::Creating | Self::Updating | Self::Error | Self::Available => Self::Error,
            Self::Deleting | Self::ErrorDeleting => Self::ErrorDeleting,
            Self::Starting | Self::ErrorStarting => Self::ErrorStarting,
            Self::Stopping | Self::ErrorStopping => Self::ErrorStopping,
            Self::Reversing | Self::ErrorReversing => Self::ErrorReversing,
            Self::FailingOver | Self::FailedOver | Self::ErrorFailingOver => Self::ErrorFailingOver,
            Self::Reprotecting | Self::ErrorReprotecting => Self::ErrorReprotecting,
            // What could not be added or removed leaves the server as it was.
            Self::NicCreating | Self::NicDeleting => Self::Available,
            Self::Resizing | Self::ErrorResizing => Self::ErrorResizing,
            Self::Attaching | Self::ErrorAttaching => Self::ErrorAttaching,
            Self::Detaching | Self::ErrorDetaching => Self::ErrorDetaching,
        }
    }
}
