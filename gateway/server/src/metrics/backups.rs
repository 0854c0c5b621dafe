//! What backups did, for `/metrics`.
//!
//! Invariant: labels are names of groups and targets, never of backups.

use block::GroupId;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::text::Families;
use crate::gateway::Gateway;
use crate::gateway::backups::policies::name_of;
use crate::schedule::Schedule;

/// Due times that are looked at for the longest pause: a week of one a day.
const DUES: usize = 9;
const INTERVAL: (&str, &str) =
    ("twinspan_backup_interval_seconds", "The longest pause between two due times of the policy.");
const FAILED: (&str, &str) =
    ("twinspan_backup_policy_failed", "Whether the last run of the policy failed.");
const POLICY_LAST: (&str, &str) = (
    "twinspan_backup_policy_last_success_timestamp_seconds",
    "The moment that the newest backup of the policy's group in its target holds; 0: none.",
);

const TARGET_UP: (&str, &str) =
    ("twinspan_backup_target_up", "Whether the backup target answered when it was asked last.");
const LAST_SUCCESS: (&str, &str) = (
    "twinspan_backup_last_success_timestamp_seconds",
    "The moment that the last backup of the group that was taken holds.",
);

/// The longest time between two due times that follow on each other, of the next few.
fn interval(schedule: &Schedule, gateway: &Gateway) -> Option<f64> {
    let now = i64::try_from(gateway.clock.unix_ms()).ok();
    let now = jiff::Timestamp::from_millisecond(now?).ok()?;
    let dues = std::iter::successors(schedule.next_after(now), |due| schedule.next_after(*due));
    let dues: Vec<jiff::Timestamp> = dues.take(DUES).collect();
    let longest = dues.windows(2).filter_map(|pair| match pair {
        [one, two] => Some(two.duration_since(*one).as_secs_f64()),
        _ => None,
    });
    longest.reduce(f64::max)
}

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

/// Due times of a policy that were given up.
pub(crate) fn slots(of: &str, skipped: u64, missed: u64) {
    for (reason, count) in [("skipped", skipped), ("missed", missed)] {
        counter!("twinspan_backup_slots_lost_total", "policy" => of.to_owned(), "reason" => reason)
            .increment(count);
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
    for policy in pages.backups.policies.iter().filter(|policy| policy.on) {
        let Some(name) = name_of(&pages, policy.of) else { continue };
        let interval = Schedule::parse(&policy.schedule, &policy.zone)
            .ok()
            .and_then(|schedule| interval(&schedule, gateway));
        let labels = [("policy", name.as_str()), ("target", policy.target.as_str())];
        if let Some(seconds) = interval {
            families.gauge(INTERVAL, &labels, seconds);
        }
        let failed = if policy.error.is_some() { 1.0 } else { 0.0 };
        families.gauge(FAILED, &labels, failed);
        // A policy that never ran is as old as it is: from when it was set.
        let last = pages.backups.lasts.iter().filter(|last| last.target == policy.target);
        let group = pages.volume_by_id(block::VolumeId::from_uuid(policy.of));
        let group = group.map_or(policy.of, |(group, _)| group.id);
        let last = last.filter(|last| last.group == group).map(|last| last.begun_ms).max();
        #[expect(clippy::cast_precision_loss, reason = "a time of this age of the world fits")]
        let seconds = last.unwrap_or(0) as f64 / 1000.0;
        families.gauge(POLICY_LAST, &labels, seconds);
    }
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
        "twinspan_backup_slots_lost_total",
        Unit::Count,
        "Due times of policies that were given up, by reason."
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
