//! What backups did, for `/metrics`.
//!
//! Invariant: labels are names of groups and targets, never of backups.

use block::GroupId;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::text::Families;
use crate::gateway::Gateway;

const TARGET_UP: (&str, &str) =
    ("twinspan_backup_target_up", "Whether the backup target answered when it was asked last.");
const LAST_SUCCESS: (&str, &str) = (
    "twinspan_backup_last_success_timestamp_seconds",
    "The moment that the last backup of the group that was taken holds.",
);

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

/// What a run that was taken read and stored.
pub(crate) fn moved(target: &str, read_bytes: u64, stored_bytes: u64) {
    for (class, bytes) in [("read", read_bytes), ("stored", stored_bytes)] {
        counter!("twinspan_backup_bytes_total", "target" => target.to_owned(), "class" => class)
            .increment(bytes);
    }
}

/// What is known of targets and of the last backups, for a scrape.
pub(super) fn render(families: &mut Families, gateway: &Gateway) {
    for target in gateway.targets.all() {
        if let Some(up) = target.is_up() {
            let value = if up { 1.0 } else { 0.0 };
            families.gauge(TARGET_UP, &[("target", &target.config.name)], value);
        }
    }
    let pages = gateway.book.read();
    for last in &pages.backups.lasts {
        let Some(group) = pages.group_by_id(GroupId::from_uuid(last.group)) else { continue };
        let labels = [("group", group.name.as_str()), ("target", last.target.as_str())];
        #[expect(clippy::cast_precision_loss, reason = "a time of this age of the world fits")]
        let seconds = last.begun_ms as f64 / 1000.0;
        families.gauge(LAST_SUCCESS, &labels, seconds);
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
    describe_counter!(
        "twinspan_backup_bytes_total",
        Unit::Bytes,
        "Bytes of backups that were taken, by class."
    );
    describe_gauge!(
        "twinspan_backup_last_duration_seconds",
        Unit::Seconds,
        "How long the last backup that was taken took."
    );
}
