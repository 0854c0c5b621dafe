//! The gauges and counters of groups, legs and pairs, from what the groups say at the scrape.
//!
//! Invariant: a group that did not answer has no series but `twinspan_group_info`; a number that is
//! not known has none. Every state of a stateset is written, so that a change is seen.

use std::collections::BTreeMap;

use mirror::{
    GroupStatus, LegStatus, LinkState, Mode, Phase, Role, SessionState, SnapshotState, Split,
};

use super::text::Families;
use crate::fillings::Standing;
use crate::gateway::{Gateway, Known};
use crate::status::{self, Moment};

type Name = (&'static str, &'static str);

const BUILD_INFO: Name = ("twinspan_build_info", "Running build; value 1.");
const CONFIG_INFO: Name = ("twinspan_config_info", "Hash of the loaded configuration; value 1.");
const GROUP_INFO: Name = ("twinspan_group_info", "A group and its policy; value 1.");
const GROUP_ROLE: Name = ("twinspan_group_role", "Part that this site plays in the group.");
const GROUP_EPOCH: Name = ("twinspan_group_epoch", "Fencing number of the group.");
const GROUP_RPO: Name = (
    "twinspan_group_rpo_seconds",
    "Age of the oldest acknowledged write that this mirror may lack.",
);
const GROUP_RPO_TARGET: Name =
    ("twinspan_group_rpo_target_seconds", "RPO that the policy promises.");
const GROUP_UNPROTECTED_WRITES: Name = (
    "twinspan_group_unprotected_acked_writes_total",
    "Writes acknowledged with fewer copies than there are sessions.",
);
const GROUP_UNPROTECTED_BYTES: Name = (
    "twinspan_group_unprotected_acked_bytes_total",
    "Bytes acknowledged with fewer copies than there are sessions.",
);
const GROUP_BLOCKED: Name =
    ("twinspan_group_blocked_seconds_total", "Time for which host writes were held for RPO 0.");
const GROUP_STRETCH: Name = (
    "twinspan_group_in_stretch",
    "Whether the part here counts on its mirror, as all parts of the group do.",
);
const GROUP_COMPANIONS: Name =
    ("twinspan_group_companions", "Companions of the part here, by how they are.");
const GROUP_SPLIT: Name = ("twinspan_group_split_brain", "Whether two histories exist.");
const GROUP_FENCED: Name =
    ("twinspan_group_fenced_writes_total", "Changes of a lower epoch that were refused.");
const GROUP_READY: Name = ("twinspan_group_failover_ready", "Whether a failover could start now.");
const GROUP_BLOCKER: Name =
    ("twinspan_group_failover_blocker", "What stands in the way of a failover; value 1.");
const LEG_STATE: Name = ("twinspan_leg_session_state", "State of the leg; one is 1.");
const LEG_RTT: Name = ("twinspan_leg_rtt_seconds", "Smoothed round trip of heartbeats.");
const LEG_INFLIGHT: Name = ("twinspan_leg_inflight_writes", "Changes sent and not acknowledged.");
const LEG_INFLIGHT_BYTES: Name =
    ("twinspan_leg_inflight_bytes", "Bytes sent and not acknowledged.");
const JOURNAL_CAPACITY: Name =
    ("twinspan_journal_capacity_bytes", "Bytes that the send journals may hold.");
const JOURNAL_USED: Name = ("twinspan_journal_used_bytes", "Bytes in the send journals.");
const JOURNAL_SPILLED: Name =
    ("twinspan_journal_spilled_bytes", "Bytes of the send journals that wait on disk.");
const LEG_CUT_AGE: Name = (
    "twinspan_leg_cut_age_seconds",
    "Age of the oldest write that mirrors may lack which follow behind, as far as it is known here.",
);
const LEG_QUEUE: Name = ("twinspan_leg_send_queue_bytes", "Bytes waiting for the socket.");
const LEG_HEARD: Name =
    ("twinspan_leg_last_heard_timestamp_seconds", "When anything was last heard from the peer.");
const PAIR_INFO: Name = ("twinspan_pair_info", "A pair and its names; value 1.");
const PAIR_STATUS: Name =
    ("twinspan_pair_replication_status", "Replication status of the pair; one is 1.");
const PAIR_OUT_OF_SYNC: Name =
    ("twinspan_pair_out_of_sync_bytes", "Bytes in which the mirror may differ.");
const PAIR_TOTAL: Name =
    ("twinspan_pair_resync_total_bytes", "Size of the running or last resync.");
const PAIR_COPIED: Name =
    ("twinspan_pair_resync_copied_bytes_total", "Bytes copied by the running or last resync.");
const PAIR_ETA: Name = ("twinspan_pair_resync_eta_seconds", "Time until the resync is done.");
const PAIR_LIMIT: Name =
    ("twinspan_pair_resync_limit_bytes_per_second", "What a resync may send now; 0: it is paused.");
const VERIFY_PROGRESS: Name =
    ("twinspan_verify_progress_ratio", "How much of the mirror was compared, while it is.");
const VERIFY_LAST: Name = (
    "twinspan_verify_last_completed_timestamp_seconds",
    "When the last verification of the mirror came to its end; 0: never.",
);
const VERIFY_MISMATCHED: Name = (
    "twinspan_verify_mismatched_bytes_total",
    "Bytes that verifications found to differ; they were copied again.",
);
const PAIR_STARTED: Name =
    ("twinspan_pair_resync_start_timestamp_seconds", "When the running or last resync began.");

const SNAPSHOTS: Name = ("twinspan_snapshots", "Snapshots of the group that are kept here.");
const SNAPSHOT_USED: Name = (
    "twinspan_snapshot_used_bytes",
    "Bytes here that would be given back without the group's snapshots, at least; at most a minute old.",
);
const SNAPSHOT_LAST: Name = (
    "twinspan_snapshot_last_success_timestamp_seconds",
    "When the newest snapshot that is kept here was asked for; 0: none is.",
);
const FILL_LEFT: Name = (
    "twinspan_volume_fill_left_bytes",
    "Bytes that a volume is to copy from its origin; absent when it has all, or before they were counted.",
);
const SCRUB_LAST: Name = (
    "twinspan_scrub_last_completed_timestamp_seconds",
    "When the last scrub of the copy here ended.",
);
const SCRUB_BAD: Name = (
    "twinspan_scrub_bad_blocks",
    "Blocks that the last scrub of the copy here found bad and that no other copy had.",
);
const FILL_WAITS: Name = (
    "twinspan_volume_fill_waits",
    "Whether something stands in the way of a volume that is filled.",
);
const LOCK_CLOCK: Name = (
    "twinspan_lock_clock_timestamp_seconds",
    "What the clock says by which locks of snapshots end; it goes on only while the gateway runs.",
);
const POINTS: Name = ("twinspan_points", "Recovery points of the group that are kept here.");
const POINT_NEWEST: Name = (
    "twinspan_point_newest_timestamp_seconds",
    "When the newest recovery point was taken that is kept here or, as the primary knows, at a mirror; 0: none.",
);
const POINT_ON: Name =
    ("twinspan_point_policy_on", "Whether recovery points of the group are taken by this gateway.");
const POINT_INTERVAL: Name = (
    "twinspan_point_interval_seconds",
    "Time from the next due recovery point to the one after it.",
);
const POINT_TAKEN: Name = ("twinspan_point_taken_total", "Recovery points that were taken.");
const POINT_SKIPPED: Name = (
    "twinspan_point_skipped_total",
    "Due times that were given up because a point was still being taken.",
);
const POINT_MISSED: Name =
    ("twinspan_point_missed_total", "Due times at which nobody was there to take a point.");
const POINT_FAILED: Name =
    ("twinspan_point_failed_total", "Recovery points that could not be taken.");
const QUOTA_LIMIT: Name = ("twinspan_quota_limit", "What the configuration allows to be made.");
const QUOTA_USED: Name = ("twinspan_quota_used", "What is used of it, limited or not.");

/// What the build was made from, if whoever made it said so.
const REVISION: &str = match option_env!("TWINSPAN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The text of all of them.
pub(super) async fn render(gateway: &Gateway) -> String {
    gateway.pool.refresh_metrics();
    let mut families = Families::default();
    let site = gateway.config.site.name.as_str();
    let version = ("version", env!("CARGO_PKG_VERSION"));
    families.gauge(BUILD_INFO, &[version, ("revision", REVISION), ("site", site)], 1.0);
    families.gauge(CONFIG_INFO, &[("blake3", &gateway.config.digest)], 1.0);
    families.gauge(LOCK_CLOCK, &[], seconds(gateway.clock.lock_ms()));
    quota(&mut families, gateway);
    fillings(&mut families, gateway);
    scrubs(&mut families, gateway);
    super::backups::render(&mut families, gateway);
    super::runs::render(&mut families, gateway);
    let mut legs: BTreeMap<String, Vec<(GroupStatus, LegStatus)>> = BTreeMap::new();
    for (entry, known) in gateway.look().await {
        match known {
            Known::Status(status, moment) if moment.fresh => {
                group(&mut families, &status, moment);
                snapshots(&mut families, gateway, &status).await;
                points(&mut families, gateway, &status);
                super::moments::render(&mut families, gateway, &status);
                for leg in &status.legs {
                    pairs(&mut families, &status, leg, site);
                    let legs = legs.entry(leg.site.clone()).or_default();
                    legs.push(((*status).clone(), leg.clone()));
                }
            }
            Known::Status(..) | Known::Nothing(_) => {
                let labels =
                    [("group", entry.name.as_str()), ("policy", "unknown"), ("service", "")];
                families.gauge(GROUP_INFO, &labels, 1.0);
            }
        }
    }
    for (site, legs) in &legs {
        leg(&mut families, site, legs);
    }
    families.render()
}

fn quota(families: &mut Families, gateway: &Gateway) {
    let limits = gateway.config.quota;
    let (volumes, bytes) = gateway.quota_used();
    for (resource, limit, used) in
        [("volumes", limits.volumes, volumes), ("bytes", limits.bytes, bytes)]
    {
        let labels = [("resource", resource)];
        if let Some(limit) = limit {
            families.gauge(QUOTA_LIMIT, &labels, number(limit));
        }
        families.gauge(QUOTA_USED, &labels, number(used));
    }
}

/// Only of volumes that are filled while they are used.
fn fillings(families: &mut Families, gateway: &Gateway) {
    for record in gateway.pool.volumes() {
        let Some(progress) = gateway.fillings.get(record.id) else { continue };
        let labels = [("volume", record.name.as_str())];
        if let Some(left) = progress.left_bytes {
            families.gauge(FILL_LEFT, &labels, number(left));
        }
        families.gauge(FILL_WAITS, &labels, flag(progress.standing != Standing::Copying));
    }
}

/// What the last scrub of each volume left behind.
fn scrubs(families: &mut Families, gateway: &Gateway) {
    let pages = gateway.book.read();
    for found in &pages.scrubs {
        let Some((_, volume)) = pages.volumes().find(|(_, of)| of.id == found.volume) else {
            continue;
        };
        let labels = [("volume", volume.name.as_str())];
        families.gauge(SCRUB_LAST, &labels, seconds(found.ended_ms));
        families.gauge(SCRUB_BAD, &labels, number(found.bad - found.repaired));
    }
}

fn group(families: &mut Families, status: &GroupStatus, moment: Moment) {
    let name = ("group", status.name.as_str());
    let policy = if status.legs.iter().any(|leg| leg.policy.split == Split::Manual) {
        "sync_all"
    } else {
        "sync_then_degrade"
    };
    families.gauge(GROUP_INFO, &[name, ("policy", policy), ("service", "")], 1.0);
    let roles =
        [("primary", Role::Primary), ("secondary", Role::Secondary), ("fenced", Role::Fenced)];
    for (word, role) in roles {
        families.gauge(GROUP_ROLE, &[name, ("role", word)], flag(status.role == role));
    }
    families.gauge(GROUP_EPOCH, &[name], number(status.epoch.turn()));
    if status.role == Role::Secondary
        && let Some(rpo) = status.rpo_ms
    {
        families.gauge(GROUP_RPO, &[name], seconds(rpo));
    }
    if let Some(target) = rpo_target(status) {
        families.gauge(GROUP_RPO_TARGET, &[name], seconds(target));
    }
    let counters = &status.counters;
    families.counter(GROUP_UNPROTECTED_WRITES, &[name], number(counters.unprotected_writes));
    families.counter(GROUP_UNPROTECTED_BYTES, &[name], number(counters.unprotected_bytes));
    families.counter(GROUP_BLOCKED, &[name], seconds(counters.blocked_ms));
    families.counter(GROUP_FENCED, &[name], number(counters.fenced_writes));
    families.gauge(GROUP_SPLIT, &[name], flag(status.split_brain));
    companions(families, status, name);
    let shown = status::group(status, moment);
    families.gauge(GROUP_READY, &[name], flag(shown.failover_blockers.is_empty()));
    for reason in &shown.failover_blockers {
        families.gauge(GROUP_BLOCKER, &[name, ("reason", reason)], 1.0);
    }
}

async fn snapshots(families: &mut Families, gateway: &Gateway, status: &GroupStatus) {
    let name = ("group", status.name.as_str());
    let kept = status.snapshots.iter().filter(|of| of.state != SnapshotState::Error);
    let count = u64::try_from(kept.clone().count()).unwrap_or(u64::MAX);
    families.gauge(SNAPSHOTS, &[name], number(count));
    let last = kept.map(|of| of.unix_ms).max().unwrap_or(0);
    families.gauge(SNAPSHOT_LAST, &[name], seconds(last));
    let group = status.group;
    let used = match count {
        0 => Some(0),
        _ => {
            let shard = gateway.shard_of(group);
            let asked = shard.run(move |state| async move { state.snapshot_bytes(group).await });
            // Where counting takes longer it goes on, and a later scrape has it.
            let counted = tokio::time::timeout(gateway.config.api.shard_deadline, asked).await;
            counted.ok().and_then(Result::ok).flatten()
        }
    };
    if let Some(used) = used {
        families.gauge(SNAPSHOT_USED, &[name], number(used));
    }
}

/// Of each group that has recovery points or a policy for them.
fn points(families: &mut Families, gateway: &Gateway, status: &GroupStatus) {
    let name = ("group", status.name.as_str());
    let policy = crate::points::Stored::of(status).ok().and_then(|stored| stored.policy);
    let is_whole = |of: &&mirror::SnapshotStatus| of.state == SnapshotState::Available;
    let kept: Vec<u64> = crate::points::of(status).filter(is_whole).map(|of| of.unix_ms).collect();
    let count = u64::try_from(kept.len()).unwrap_or(u64::MAX);
    if policy.is_none() && count == 0 {
        return;
    }
    let tally = gateway.keeping.tally(status.group);
    let newest = kept.into_iter().max().unwrap_or(0).max(tally.newest_ms);
    families.gauge(POINTS, &[name], number(count));
    families.gauge(POINT_NEWEST, &[name], seconds(newest));
    let is_on = status.role == Role::Primary && policy.is_some_and(|policy| policy.on);
    families.gauge(POINT_ON, &[name], flag(is_on));
    if let Some(interval) = tally.interval_s.filter(|_| is_on) {
        families.gauge(POINT_INTERVAL, &[name], number(interval));
    }
    families.counter(POINT_TAKEN, &[name], number(tally.taken));
    families.counter(POINT_SKIPPED, &[name], number(tally.skipped));
    families.counter(POINT_MISSED, &[name], number(tally.missed));
    families.counter(POINT_FAILED, &[name], number(tally.failed));
}

/// Only of a group over several gateways.
fn companions(families: &mut Families, status: &GroupStatus, name: (&'static str, &str)) {
    let Some(parts) = &status.parts else { return };
    families.gauge(GROUP_STRETCH, &[name], flag(parts.state.facts.has_joined));
    let state = |companion: &mirror::CompanionStatus| match companion.reachable {
        _ if companion.excluded => Some("excluded"),
        Some(true) => Some("reachable"),
        Some(false) => Some("unreachable"),
        // It was not asked yet.
        None => None,
    };
    for word in ["reachable", "unreachable", "excluded"] {
        let count = parts.companions.iter().filter(|companion| state(companion) == Some(word));
        let count = u64::try_from(count.count()).unwrap_or(u64::MAX);
        families.gauge(GROUP_COMPANIONS, &[name, ("state", word)], number(count));
    }
}

/// What the best mode of the group's sessions promises; absent where nothing is promised.
fn rpo_target(status: &GroupStatus) -> Option<u64> {
    let promised = |policy: &mirror::Policy| match policy.mode {
        Mode::Sync => Some(0),
        // One cut is under way while the next is being filled.
        Mode::Consistency => Some(policy.cut_interval_ms.saturating_mul(2)),
        Mode::Stack => Some(policy.transfer_every_s.saturating_mul(1_000)).filter(|ms| *ms > 0),
    };
    if status.role != Role::Primary {
        let mode = status.upstream.as_ref().map_or(Mode::Sync, |upstream| upstream.mode);
        return (mode == Mode::Sync).then_some(0);
    }
    if status.legs.is_empty() {
        return Some(0);
    }
    status.legs.iter().filter_map(|leg| promised(&leg.policy)).min()
}

/// One series per peer site: the worst state, the sums of the rest.
fn leg(families: &mut Families, site: &str, legs: &[(GroupStatus, LegStatus)]) {
    let name = ("leg", site);
    let worst = legs.iter().map(|(group, leg)| leg_state(group, leg)).max().unwrap_or(0);
    for (index, word) in LEG_STATES.iter().enumerate() {
        families.gauge(LEG_STATE, &[name, ("state", word)], flag(index == worst));
    }
    let legs = || legs.iter().map(|(_, leg)| leg);
    if let Some(rtt) = legs().filter_map(|leg| leg.rtt_us).min() {
        families.gauge(LEG_RTT, &[name], std::time::Duration::from_micros(rtt).as_secs_f64());
    }
    families.gauge(LEG_INFLIGHT, &[name], number(legs().map(|leg| leg.inflight_writes).sum()));
    families.gauge(LEG_INFLIGHT_BYTES, &[name], number(legs().map(|leg| leg.inflight_bytes).sum()));
    families.gauge(LEG_QUEUE, &[name], number(legs().map(|leg| leg.send_queue_bytes).sum()));
    let waits = |of: fn(&LegStatus) -> u64| number(legs().map(of).sum());
    families.gauge(JOURNAL_USED, &[name], waits(|leg| leg.journal_bytes + leg.inflight_bytes));
    families.gauge(JOURNAL_SPILLED, &[name], waits(|leg| leg.spilled_bytes));
    families.gauge(JOURNAL_CAPACITY, &[name], waits(|leg| leg.journal_bytes_max));
    let behind = legs().filter(|leg| !leg.in_sync).filter_map(|leg| leg.lag_ms).max();
    if let Some(lag) = behind {
        families.gauge(LEG_CUT_AGE, &[name], seconds(lag));
    }
    if let Some(heard) = legs().filter_map(|leg| leg.last_heard_ms).max() {
        families.gauge(LEG_HEARD, &[name], seconds(heard));
    }
}

/// Better ones first.
const LEG_STATES: [&str; 7] =
    ["active", "syncing", "handshaking", "connecting", "stalled", "disconnected", "fenced"];

fn leg_state(group: &GroupStatus, leg: &LegStatus) -> usize {
    match (group.role, leg.link, leg.phase) {
        (Role::Fenced, ..) => 6,
        // Between two transfers nothing is connected, and that is well.
        _ if status::leg_is_well(leg) => 0,
        (_, LinkState::Off, _) => 5,
        (_, LinkState::Connecting, _) => 3,
        (_, LinkState::Connected, Phase::Equivalent | Phase::Following) => 0,
        (_, LinkState::Connected, Phase::Copying) if leg.resync_rate == Some(0) => 4,
        (_, LinkState::Connected, Phase::Copying | Phase::Tracking | Phase::NoPair) => 1,
    }
}

fn pairs(families: &mut Families, group: &GroupStatus, leg: &LegStatus, here: &str) {
    for session in &leg.sessions {
        let found = group.volumes.iter().find(|volume| volume.volume == session.volume);
        let Some(volume) = found else { continue };
        let pair = format!("{}:{}", volume.name, leg.site);
        let name = ("pair", pair.as_str());
        let ends = [("source_site", here), ("target_site", leg.site.as_str())];
        let group_name = ("group", group.name.as_str());
        let names = [name, group_name, ("volume", volume.name.as_str()), ends[0], ends[1]];
        families.gauge(PAIR_INFO, &names, 1.0);
        let now = pair_status(leg);
        for word in ["active", "active_stopped", "copying", "inactive", "error"] {
            let labels = [name, group_name, ("status", word)];
            families.gauge(PAIR_STATUS, &labels, flag(word == now));
        }
        families.gauge(PAIR_OUT_OF_SYNC, &[name], number(session.out_of_sync_bytes));
        families.gauge(PAIR_TOTAL, &[name], number(session.resync_total_bytes));
        let kind = ("kind", if session.full { "full" } else { "delta" });
        families.counter(PAIR_COPIED, &[name, kind], number(session.resync_copied_bytes));
        if let Some(started) = leg.resync_started_ms {
            families.gauge(PAIR_STARTED, &[name], seconds(started));
        }
        if let Some(limit) = leg.bytes_per_second_max {
            families.gauge(PAIR_LIMIT, &[name], number(limit));
        }
        if let Some(now) = leg.verifying.filter(|now| now.total > 0) {
            families.gauge(VERIFY_PROGRESS, &[name], number(now.done) / number(now.total));
        }
        let verified = leg.verified.map_or(0, |found| found.at_ms);
        families.gauge(VERIFY_LAST, &[name], seconds(verified));
        families.counter(VERIFY_MISMATCHED, &[name], number(session.mismatched_bytes));
        let left = session.resync_total_bytes.saturating_sub(session.resync_copied_bytes);
        if let Some(rate) = leg.resync_rate.filter(|rate| *rate > 0 && leg.phase == Phase::Copying)
        {
            families.gauge(PAIR_ETA, &[name], number(left) / number(rate));
        }
    }
}

/// In the words of the EVS documents.
fn pair_status(leg: &LegStatus) -> &'static str {
    match (leg.state, leg.phase) {
        (SessionState::Error, _) => "error",
        _ if status::leg_is_well(leg) => "active",
        (SessionState::Suspended, _) => "active_stopped",
        (SessionState::Halted, _) => "inactive",
        (SessionState::Active, Phase::Copying) => "copying",
        (SessionState::Active, Phase::Equivalent | Phase::Following)
            if leg.link == LinkState::Connected =>
        {
            "active"
        }
        (SessionState::Active, _) => "inactive",
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn seconds(millis: u64) -> f64 {
    status::millis_to_seconds(millis)
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats; up to 2^53 they are exact")]
fn number(value: u64) -> f64 {
    value as f64
}
