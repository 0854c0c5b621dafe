//! What backups did, for `/metrics`.
//!
//! Invariant: labels are names of groups and targets, never of backups.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// A run ended.
pub(crate) fn run(group: &str, target: &str, is_taken: bool, took_ms: u64) {
    let result = if is_taken { "ok" } else { "failed" };
    let (group, target) = (group.to_owned(), target.to_owned());
    counter!("twinspan_backup_runs_total", "group" => group.clone(), "target" => target.clone(),
        "result" => result)
    .increment(1);
    if is_taken {
        #[expect(clippy::cast_precision_loss, reason = "a run of 2^53 ms is none")]
        let seconds = took_ms as f64 / 1000.0;
        gauge!("twinspan_backup_last_duration_seconds", "group" => group, "target" => target)
            .set(seconds);
    }
}

/// A restore ended.
pub(crate) fn restore(group: &str, target: &str, is_restored: bool) {
    let result = if is_restored { "ok" } else { "failed" };
    let (group, target) = (group.to_owned(), target.to_owned());
    counter!("twinspan_backup_restores_total", "group" => group, "target" => target,
        "result" => result)
    .increment(1);
}

/// Describes them.
pub(super) fn describe() {
    describe_counter!(
        "twinspan_backup_runs_total",
        Unit::Count,
        "Runs of backups that ended, taken or not."
    );
    describe_counter!(
        "twinspan_backup_restores_total",
        Unit::Count,
        "Restores from backups that ended, whole or not."
    );
    describe_gauge!(
        "twinspan_backup_last_duration_seconds",
        Unit::Seconds,
        "How long the last backup that was taken took."
    );
}
