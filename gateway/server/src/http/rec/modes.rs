//! What a change of a session's modes comes to.
//!
//! Invariant: a session's split policy is kept while it is asynchronous, where it decides nothing,
//! and holds again once it is `Synchronous`; the caller is told both times.

use api::{Code, PolicyPatch, RecChoice, RecPatch, RecTransferMode};

use super::status;
use crate::refusal::Refused;

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// When a write is acknowledged.
    pub(super) mode: RecTransferMode,
    /// On loss, once it is `Synchronous`.
    pub(super) split: RecChoice,
}

/// What is to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The policies.
    pub(super) policy: PolicyPatch,
    /// What the caller should know.
    pub(super) warnings: Vec<String>,
}

/// Decides over a change.
///
/// # Errors
/// [`Code::Invalid`] for a split mode of a session that is or becomes asynchronous.
pub(super) fn decide(now: Now, patch: &RecPatch) -> Result<Change, Refused> {
    let mode = patch.transfer_mode.unwrap_or(now.mode);
    let becomes_sync = mode == RecTransferMode::Synchronous;
    if !becomes_sync && patch.split_mode.is_some() {
        let word = status::mode_word(mode);
        let detail = format!("split_mode is of Synchronous sessions only, and this becomes {word}");
        return Err(Refused::new(Code::Invalid, detail));
    }
    let was_sync = now.mode == RecTransferMode::Synchronous;
    let mut warnings = Vec::new();
    if was_sync && !becomes_sync {
        warnings.push(format!(
            "split_mode is Manual while the session is asynchronous; {:?} is remembered and holds \
             again once it is Synchronous",
            now.split
        ));
    }
    if !was_sync && becomes_sync && patch.split_mode.is_none() {
        warnings.push(format!("split_mode is {:?} again, as it was remembered", now.split));
    }
    Ok(Change {
        policy: PolicyPatch {
            mode: (mode != now.mode).then(|| status::mode(mode)),
            split: patch.split_mode.map(status::choice_word),
            recovery: patch.recovery_mode.map(status::choice_word),
            ..PolicyPatch::default()
        },
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Now = Now { mode: RecTransferMode::Synchronous, split: RecChoice::Automatic };
    const ASYNC: Now = Now { mode: RecTransferMode::Consistency, ..SYNC };

    fn to(mode: RecTransferMode) -> RecPatch {
        RecPatch { transfer_mode: Some(mode), ..RecPatch::default() }
    }

    #[test]
    fn rec_14_the_split_mode_is_remembered_and_the_caller_is_told() {
        let there = decide(SYNC, &to(RecTransferMode::Consistency)).unwrap();
        assert_eq!(there.policy.mode.as_deref(), Some("consistency"));
        assert_eq!(there.policy.split, None, "the policy itself stays");
        assert!(there.warnings[0].contains("Automatic is remembered"), "{:?}", there.warnings);
        let back = decide(ASYNC, &to(RecTransferMode::Synchronous)).unwrap();
        assert!(back.warnings[0].contains("Automatic again"), "{:?}", back.warnings);
        let said = RecPatch { split_mode: Some(RecChoice::Manual), ..to(SYNC.mode) };
        let back = decide(ASYNC, &said).unwrap();
        assert_eq!((back.policy.split.as_deref(), back.warnings.len()), (Some("manual"), 0));
    }

    #[test]
    fn rec_13_a_split_mode_belongs_to_synchronous_sessions() {
        let patch = RecPatch { split_mode: Some(RecChoice::Manual), ..RecPatch::default() };
        assert!(decide(ASYNC, &patch).is_err());
        assert!(decide(SYNC, &RecPatch { ..to(RecTransferMode::Stack) }).is_ok());
        let both = RecPatch { split_mode: patch.split_mode, ..to(RecTransferMode::Stack) };
        assert!(decide(SYNC, &both).is_err());
        let same = decide(SYNC, &to(RecTransferMode::Synchronous)).unwrap();
        assert_eq!((same.policy.mode, same.warnings.len()), (None, 0));
    }
}
