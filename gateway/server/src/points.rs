//! Recovery points as they are decided about: the policy as it is kept, and what retention does.
//!
//! Invariant: pure. What the clocks say comes in, and what is decided is done elsewhere. Retention
//! counts days by the lock clock, so that a clock on the wall that is moved forward removes nothing.

use api::{PointJournal, PointPolicy, PointPolicyPatch, PointRetention};
use backup::Origin;
use backup::retention::{Fate, Kept, Rules, fates};
use block::SnapshotId;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mirror::{GroupStatus, Role, SnapshotOrigin, SnapshotState, SnapshotStatus};
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// What the name `current` stands for: what the volumes hold now.
pub(crate) const CURRENT: &str = "current";
/// What the names of the points that `current` was used for begin with; only the gateway gives such
/// names, one in each turn of the group's epoch.
const CURRENT_PREFIX: &str = "auto.current";
/// The version that this release writes; it reads none that is newer.
const VERSION: u32 = 1;
/// A group has at most 512 snapshots, of which some are asked for by hand.
const KEPT_MAX: u32 = 400;
/// A century: whoever wants more keeps everything elsewhere.
const DAYS_MAX: u32 = 36_500;
/// A lock that was mistyped must end within a working life.
pub(crate) const LOCK_DAYS_MAX: u32 = 3_650;
const DAY_MS: u64 = 86_400_000;
/// The name of the one policy that a group has, for the rules of retention.
const OWN: &str = "points";

/// The point `current` was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct CurrentUse {
    /// While this was the turn of the group's epoch.
    pub(crate) turn: u64,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// What a group durably knows of its recovery points, at each of its gateways.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Stored {
    version: u32,
    /// The policy, if it has one.
    pub(crate) policy: Option<PointPolicy>,
    /// When it was set, in milliseconds since 1970.
    pub(crate) set_ms: u64,
    /// When `current` was used last.
    #[serde(default)]
    pub(crate) current: Option<CurrentUse>,
    /// What its mirrors write down, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<PointJournal>,
}

impl Default for Stored {
    fn default() -> Self {
        Self { version: VERSION, policy: None, set_ms: 0, current: None, journal: None }
    }
}

impl Stored {
    /// What a group says.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn of(status: &GroupStatus) -> Result<Self, String> {
        status
            .point_policy
            .as_ref()
            .map_or_else(|| Ok(Self::default()), |bytes| Self::decode(bytes))
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| format!("it cannot be read: {error}");
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version > VERSION {
            return Err(format!("it has version {version}, this release reads up to {VERSION}"));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }

    /// As the group keeps it.
    #[must_use]
    pub(crate) fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("plain strings and numbers fit JSON"))
    }

    /// When `current` was used, if it cannot be used again in this turn: what was noted counts, and the
    /// point itself, which is there before that.
    #[must_use]
    pub(crate) fn current_used(&self, status: &GroupStatus) -> Option<u64> {
        let noted = self.current.filter(|used| used.turn == status.epoch.turn());
        noted.or_else(|| taken(status)).map(|used| used.at_ms)
    }

    /// The use of `current` that a kill left unnoted, at the primary: it is to be noted before its
    /// point may go.
    #[must_use]
    pub(crate) fn unnoted(&self, status: &GroupStatus) -> Option<CurrentUse> {
        let used = taken(status).filter(|_| status.role == Role::Primary)?;
        self.current.is_none_or(|noted| noted.turn < used.turn).then_some(used)
    }

    /// `current` was used. What is known of a later turn stays.
    pub(crate) fn note_current(&mut self, used: CurrentUse) {
        if self.current.is_none_or(|noted| noted.turn <= used.turn) {
            self.current = Some(used);
        }
    }
}

/// What the point is called for which `current` is used in a turn.
#[must_use]
pub(crate) fn current_name(turn: u64) -> String {
    format!("{CURRENT_PREFIX}.{turn}")
}

/// The use of `current` in this turn, as its point says, which is known from the moment at which it was
/// taken.
fn taken(status: &GroupStatus) -> Option<CurrentUse> {
    let turn = status.epoch.turn();
    let name = current_name(turn);
    let point = of(status).find(|point| point.name == name)?;
    Some(CurrentUse { turn, at_ms: point.unix_ms })
}

/// A policy with changes; a group without one begins with the usual one.
#[must_use]
pub(crate) fn patched(before: Option<PointPolicy>, patch: PointPolicyPatch) -> PointPolicy {
    let before = before.unwrap_or_default();
    PointPolicy {
        on: patch.on.unwrap_or(before.on),
        schedule: patch.schedule.unwrap_or(before.schedule),
        zone: patch.zone.unwrap_or(before.zone),
        keep: patch.keep.unwrap_or(before.keep),
        retention: patch.retention.unwrap_or(before.retention),
        lock_days: patch.lock_days.unwrap_or(before.lock_days),
        hook: patch.hook.map_or(before.hook, |hook| Some(hook).filter(|hook| !hook.is_empty())),
    }
}

/// Proves a policy, and says when its points are due.
///
/// # Errors
/// What cannot be used.
pub(crate) fn proven(policy: &PointPolicy) -> Result<Schedule, String> {
    may_retain(&policy.retention)?;
    if policy.lock_days > LOCK_DAYS_MAX {
        return Err(format!("lock_days is {}, at most {LOCK_DAYS_MAX}", policy.lock_days));
    }
    Schedule::parse(&policy.schedule, &policy.zone).map_err(|error| error.to_string())
}

/// Whether rules can be used.
///
/// # Errors
/// What cannot.
pub(crate) fn may_retain(rules: &PointRetention) -> Result<(), String> {
    let by_number = [rules.daily, rules.weekly, rules.monthly, rules.yearly];
    let all = by_number.iter().chain(&rules.count).fold(0_u32, |sum, n| sum.saturating_add(*n));
    if all > KEPT_MAX {
        return Err(format!("retention keeps up to {all} points, and a group has {KEPT_MAX}"));
    }
    if rules.days.is_some_and(|days| days == 0 || days > DAYS_MAX) {
        return Err(format!("retention.days is 1 to {DAYS_MAX}"));
    }
    if rules.count == Some(0) {
        return Err("retention.count is at least 1: the newest point always stays".to_owned());
    }
    if all == 0 && rules.days.is_none() {
        let why = "retention has no rule: a group that keeps all its points has no room one day";
        return Err(why.to_owned());
    }
    Ok(())
}

/// Until when a point that is taken now is locked, by the lock clock; 0: it is not.
#[must_use]
pub(crate) fn lock_of(policy: &PointPolicy, lock_ms: u64) -> u64 {
    match policy.lock_days {
        0 => 0,
        days => lock_ms.saturating_add(u64::from(days) * DAY_MS),
    }
}

/// A time in milliseconds since 1970.
#[must_use]
pub(crate) fn moment(unix_ms: u64) -> Timestamp {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// A time as milliseconds since 1970; what was before counts as then.
#[must_use]
pub(crate) fn unix_ms(moment: Timestamp) -> u64 {
    u64::try_from(moment.as_millisecond()).unwrap_or(0)
}

/// The recovery points of a group, oldest first.
pub(crate) fn of(status: &GroupStatus) -> impl Iterator<Item = &SnapshotStatus> {
    status.snapshots.iter().filter(|of| of.origin == SnapshotOrigin::Scheduled)
}

/// What becomes of each point here that is whole and not in use, oldest first, with its reasons.
#[must_use]
pub(crate) fn retained<'a>(
    status: &'a GroupStatus,
    (rules, zone): (&PointRetention, &TimeZone),
    lock_ms: u64,
) -> Vec<(&'a SnapshotStatus, Fate<SnapshotId>)> {
    let is_idle = |of: &&SnapshotStatus| match of.state {
        SnapshotState::Available | SnapshotState::Error => true,
        SnapshotState::RollingBack | SnapshotState::Deleting => false,
    };
    let points: Vec<&SnapshotStatus> = of(status).filter(is_idle).collect();
    // By the order in which they were taken: a clock that went back makes the newest look old.
    let kept: Vec<Kept<SnapshotId>> = points
        .iter()
        .zip(0..)
        .map(|(point, ordinal)| Kept {
            id: point.id,
            origin: Origin::Scheduled,
            policy: Some(OWN.to_owned()),
            created: moment(point.unix_ms),
            ordinal,
            locked_until: (point.marks.locked_until_ms > lock_ms)
                .then(|| moment(point.marks.locked_until_ms)),
        })
        .collect();
    let rules = Rules {
        count: rules.count,
        days_old: rules.days,
        daily: rules.daily,
        weekly: rules.weekly,
        monthly: rules.monthly,
        yearly: rules.yearly,
    };
    points.into_iter().zip(fates(OWN, &rules, zone, &kept, moment(lock_ms))).collect()
}

/// Why a point cannot be used now.
#[must_use]
pub(crate) fn disabled(status: &GroupStatus, point: &SnapshotStatus) -> Option<String> {
    match point.state {
        SnapshotState::RollingBack => return Some("the group goes back to it".to_owned()),
        SnapshotState::Deleting => return Some("it is being deleted".to_owned()),
        SnapshotState::Error => return Some("its content is not there".to_owned()),
        SnapshotState::Available => {}
    }
    let has =
        |volume: &mirror::VolumeStatus| point.volumes.iter().any(|(id, _)| *id == volume.volume);
    let lacks = status.volumes.iter().find(|volume| !has(volume))?;
    Some(format!("it was taken before volume {} was in the group", lacks.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hdr_08_a_group_begins_with_24_points_in_24_hours_at_its_mirrors() {
        let policy = patched(None, PointPolicyPatch::default());
        let schedule = proven(&policy).unwrap();
        let now = moment(1_790_000_000_000);
        let dues = std::iter::successors(schedule.next_after(now), |due| schedule.next_after(*due));
        let day = now + jiff::SignedDuration::from_hours(24);
        assert_eq!(dues.take_while(|due| *due <= day).count(), 24);
        assert_eq!(policy.retention.count, Some(24));
        assert_eq!(policy.keep, api::PointKeeper::Mirror);
    }

    /// The clock was a year ahead when all but the newest were taken.
    #[test]
    fn what_is_taken_after_the_clock_went_back_is_the_newest() {
        const YEAR_MS: u64 = 31_536_000_000;
        let point = |number: u64, unix_ms| SnapshotStatus {
            id: SnapshotId::of(number.into()),
            name: format!("auto.{number}"),
            origin: SnapshotOrigin::Scheduled,
            unix_ms,
            marks: mirror::Marks::default(),
            state: SnapshotState::Available,
            volumes: Vec::new(),
            held_by: Vec::new(),
        };
        let now_ms = 1_790_000_000_000;
        let ahead = (0..24).map(|hour| point(hour, now_ms + YEAR_MS + hour * 3_600_000));
        let snapshots = ahead.chain([point(24, now_ms), point(25, now_ms + 1)]).collect();
        let status = GroupStatus { snapshots, ..crate::migration::tests::primary(Vec::new()) };
        let rules = PointRetention { count: Some(24), ..PointRetention::default() };
        let fates = retained(&status, (&rules, &TimeZone::UTC), now_ms);
        let gone: Vec<_> = fates.iter().filter(|(_, fate)| fate.is_removed).collect();
        let gone: Vec<_> = gone.iter().map(|(point, _)| point.name.as_str()).collect();
        assert_eq!(gone, ["auto.0", "auto.1"]);
    }

    #[test]
    fn what_is_not_named_in_a_change_stays_and_an_empty_hook_is_none() {
        let hook = Some("db".to_owned());
        let before = PointPolicy { hook, lock_days: 3, ..PointPolicy::default() };
        let patch = PointPolicyPatch { on: Some(false), ..PointPolicyPatch::default() };
        let off = patched(Some(before.clone()), patch);
        assert_eq!(off, PointPolicy { on: false, ..before.clone() });
        let patch = PointPolicyPatch { hook: Some(String::new()), ..PointPolicyPatch::default() };
        assert_eq!(patched(Some(before), patch).hook, None);
    }

    #[test]
    fn bak_06_rules_that_keep_nothing_or_more_than_there_is_room_for_are_refused() {
        let rules =
            |count, days, daily| PointRetention { count, days, daily, ..PointRetention::default() };
        let words = |of: PointRetention| may_retain(&of).unwrap_err();
        assert!(words(rules(None, None, 0)).contains("no rule"));
        assert!(words(rules(Some(0), None, 1)).contains("at least 1"));
        assert!(words(rules(Some(300), None, 200)).contains("500 points"));
        assert!(words(rules(None, Some(0), 0)).contains("retention.days"));
        assert_eq!(may_retain(&rules(None, Some(30), 0)), Ok(()));
        assert_eq!(may_retain(&rules(Some(24), None, 7)), Ok(()));
        let policy = PointPolicy { lock_days: LOCK_DAYS_MAX + 1, ..PointPolicy::default() };
        assert!(proven(&policy).unwrap_err().contains("lock_days"));
        let policy = PointPolicy { schedule: "hourly".to_owned(), ..PointPolicy::default() };
        assert!(proven(&policy).unwrap_err().contains("is no cron expression"));
    }

    #[test]
    fn current_is_used_when_it_was_noted_and_when_its_point_is_there() {
        let mut status = crate::migration::tests::primary(Vec::new());
        let turn = status.epoch.turn();
        let noted =
            |turn| Stored { current: Some(CurrentUse { turn, at_ms: 9 }), ..Stored::default() };
        assert_eq!(noted(turn).current_used(&status), Some(9));
        assert_eq!(noted(turn + 1).current_used(&status), None);
        assert_eq!(noted(turn).unnoted(&status), None);
        status.snapshots.push(SnapshotStatus {
            id: SnapshotId::of(1),
            name: current_name(turn),
            origin: SnapshotOrigin::Scheduled,
            unix_ms: 7,
            marks: mirror::Marks::default(),
            state: SnapshotState::Available,
            volumes: Vec::new(),
            held_by: Vec::new(),
        });
        let mut stored = Stored::default();
        assert_eq!(stored.current_used(&status), Some(7));
        let used = stored.unnoted(&status).unwrap();
        stored.note_current(used);
        assert_eq!((stored.current, stored.unnoted(&status)), (Some(used), None));
        // What is known of a later turn stays.
        let mut later = noted(turn + 1);
        later.note_current(used);
        assert_eq!((later.clone(), later.unnoted(&status)), (noted(turn + 1), None));
    }

    #[test]
    fn what_is_kept_is_read_back_and_nothing_newer() {
        let current = Some(CurrentUse { turn: 4, at_ms: 9 });
        let stored = Stored { policy: Some(PointPolicy::default()), current, ..Stored::default() };
        assert_eq!(Stored::decode(&stored.encode()), Ok(stored.clone()));
        let newer = Stored { version: 2, ..stored.clone() };
        assert!(Stored::decode(&newer.encode()).unwrap_err().contains("version 2"));
        // As the first release wrote it.
        let bytes = br#"{"version":1,"policy":null,"set_ms":7}"#;
        assert_eq!(Stored::decode(bytes).unwrap().set_ms, 7);
    }
}
