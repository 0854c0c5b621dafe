//! Which backups a policy keeps: rules, the backups that there are, and the reason for each fate. Which
//! recovery points one keeps is decided here too: they differ in what they are known by.
//!
//! A backup is kept by any one of the rules; one that no rule keeps is removed. Manual backups and
//! those of other policies are nobody's to remove, locked ones stay until their date, and the
//! newest one of a policy stays whatever the rules and the clock say.
//!
//! Invariant: pure. Nothing here knows what time it is, or removes anything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::BackupId;
use crate::format::Origin;

/// What a policy keeps. With no rule at all it keeps everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// So many of the newest.
    pub count: Option<u32>,
    /// Those that are no older than so many days.
    pub days_old: Option<u32>,
    /// The newest of each of the last so many days that have one.
    pub daily: u32,
    /// The newest of each of the last so many weeks that have one; they begin on Monday.
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    pub monthly: u32,
    /// The newest of each of the last so many years that have one.
    pub yearly: u32,
}

impl Rules {
    /// Whether everything is kept for ever.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        self.count.is_none()
            && self.days_old.is_none()
            && self.daily == 0
            && self.weekly == 0
            && self.monthly == 0
            && self.yearly == 0
    }
}

/// A backup, as far as rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<I = BackupId> {
    /// Which.
    pub id: I,
    /// Who asked for it.
    pub origin: Origin,
    /// The policy that did.
    pub policy: Option<String>,
    /// When.
    pub created: Timestamp,
    /// Its place in the order of backups.
    pub ordinal: u64,
    /// Nobody removes it before.
    pub locked_until: Option<Timestamp>,
}

/// Why a backup is kept or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No retention removes what a person made.
    Manual,
    /// It is another policy's.
    OtherPolicy,
    /// The policy keeps everything.
    Permanent,
    /// It is one of the newest.
    Count,
    /// It is young enough.
    Age,
    /// It is the newest of its day.
    Day(Date),
    /// It is the newest of the week that began on this day.
    Week(Date),
    /// It is the newest of the month that began on this day.
    Month(Date),
    /// It is the newest of the year that began on this day.
    Year(Date),
    /// It is the newest of the policy.
    Newest,
    /// It is locked until then; no rule keeps it any more.
    Locked(Timestamp),
    /// No rule keeps it.
    NoRule,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manual => f.write_str("it is manual, and only a person removes it"),
            Self::OtherPolicy => f.write_str("it belongs to another policy"),
            Self::Permanent => f.write_str("the policy keeps everything"),
            Self::Count => f.write_str("it is one of the newest that are kept by number"),
            Self::Age => f.write_str("it is younger than the age up to which all are kept"),
            Self::Day(day) => write!(f, "it is the newest of {day}"),
            Self::Week(day) => write!(f, "it is the newest of the week of {day}"),
            Self::Month(day) => write!(f, "it is the newest of {}", day.strftime("%Y-%m")),
            Self::Year(day) => write!(f, "it is the newest of {}", day.year()),
            Self::Newest => f.write_str("it is the newest, which always stays"),
            Self::Locked(until) => write!(f, "no rule keeps it, and it is locked until {until}"),
            Self::NoRule => f.write_str("no rule keeps it"),
        }
    }
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate<I = BackupId> {
    /// Which.
    pub id: I,
    /// Whether it is removed.
    pub is_removed: bool,
    /// Every reason that holds.
    pub reasons: Vec<Reason>,
}

/// What becomes of each backup of one volume or group under a policy's rules of today, in the order
/// of `backups`. The rules hold for all of its backups alike, however old.
#[must_use]
pub fn fates<I: Copy + Ord>(
    policy: &str,
    rules: &Rules,
    zone: &TimeZone,
    backups: &[Kept<I>],
    now: Timestamp,
) -> Vec<Fate<I>> {
    let mut own: Vec<usize> =
        (0..backups.len()).filter(|at| is_own(&backups[*at], policy)).collect();
    own.sort_unstable_by_key(|at| {
        std::cmp::Reverse((backups[*at].ordinal, backups[*at].created, backups[*at].id))
    });
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); backups.len()];
    for (rank, at) in own.iter().enumerate() {
        let kept = &mut reasons[*at];
        if rules.is_permanent() {
            kept.push(Reason::Permanent);
        }
        if rules.count.is_some_and(|count| rank < count as usize) {
            kept.push(Reason::Count);
        }
        if rules.days_old.is_some_and(|days| is_young(&backups[*at], days, now)) {
            kept.push(Reason::Age);
        }
        if rank == 0 {
            kept.push(Reason::Newest);
        }
    }
    let day = |at: &usize| backups[*at].created.to_zoned(zone.clone()).date();
    for (periods, begin, reason) in periods(rules) {
        // The newest comes first, so the first one of a period is its newest.
        let mut seen: BTreeMap<Date, usize> = BTreeMap::new();
        for at in &own {
            seen.entry(begin(day(at))).or_insert(*at);
        }
        for (date, at) in seen.into_iter().rev().take(periods as usize) {
            reasons[at].push(reason(date));
        }
    }
    let fate = |(backup, reasons)| fate(policy, backup, reasons, now);
    backups.iter().zip(reasons).map(fate).collect()
}

fn is_own<I>(backup: &Kept<I>, policy: &str) -> bool {
    backup.origin == Origin::Scheduled && backup.policy.as_deref() == Some(policy)
}

/// A clock that was moved back makes a backup younger than now: it is kept.
fn is_young<I>(backup: &Kept<I>, days: u32, now: Timestamp) -> bool {
    now.duration_since(backup.created).as_secs() <= i64::from(days) * 86_400
}

type Period = (u32, fn(Date) -> Date, fn(Date) -> Reason);

fn periods(rules: &Rules) -> [Period; 4] {
    [
        (rules.daily, |day| day, Reason::Day),
        (rules.weekly, begin_of_week, Reason::Week),
        (rules.monthly, Date::first_of_month, Reason::Month),
        (rules.yearly, Date::first_of_year, Reason::Year),
    ]
}

fn begin_of_week(day: Date) -> Date {
    let since_monday = i64::from(day.weekday().to_monday_zero_offset());
    // The first week of year -9999 begins in its middle.
    day.checked_sub(jiff::Span::new().days(since_monday)).unwrap_or(day)
}

fn fate<I: Copy>(
    policy: &str,
    backup: &Kept<I>,
    mut reasons: Vec<Reason>,
    now: Timestamp,
) -> Fate<I> {
    if backup.origin == Origin::Manual {
        reasons.push(Reason::Manual);
    } else if !is_own(backup, policy) {
        reasons.push(Reason::OtherPolicy);
    }
    if reasons.is_empty()
        && let Some(until) = backup.locked_until.filter(|until| *until > now)
    {
        reasons.push(Reason::Locked(until));
    }
    let is_removed = reasons.is_empty();
    if is_removed {
        reasons.push(Reason::NoRule);
    }
    Fate { id: backup.id, is_removed, reasons }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NONE: [u64; 0] = [];

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn kept(number: u64, created: Timestamp) -> Kept {
        Kept {
            id: BackupId::from_uuid(Uuid::from_u128(u128::from(number))),
            origin: Origin::Scheduled,
            policy: Some("gold".to_owned()),
            created,
            ordinal: number,
            locked_until: None,
        }
    }

    fn gone(rules: &Rules, zone: &TimeZone, backups: &[Kept], now: Timestamp) -> Vec<u64> {
        let fates = fates("gold", rules, zone, backups, now);
        let removed = fates.iter().zip(backups).filter(|(fate, _)| fate.is_removed);
        removed.map(|(_, backup)| backup.ordinal).collect()
    }

    #[test]
    fn count_and_age_keep_together_what_either_keeps() {
        let now = at("2026-11-26T12:00:00Z");
        let backups: Vec<Kept> = (1..=6_u64)
            .map(|n| {
                kept(
                    n,
                    now - jiff::SignedDuration::from_hours(24 * (10 - i64::try_from(n).unwrap())),
                )
            })
            .collect();
        let rules = |count, days_old| Rules { count, days_old, ..Rules::default() };
        let utc = TimeZone::UTC;
        assert_eq!(gone(&rules(Some(2), None), &utc, &backups, now), [1, 2, 3, 4]);
        assert_eq!(gone(&rules(None, Some(6)), &utc, &backups, now), [1, 2, 3]);
        assert_eq!(gone(&rules(Some(2), Some(6)), &utc, &backups, now), [1, 2, 3]);
        assert_eq!(gone(&rules(None, None), &utc, &backups, now), NONE);
        // All are too old: the newest stays all the same.
        assert_eq!(gone(&rules(None, Some(1)), &utc, &backups, now), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_newest_of_each_period_is_kept_by_the_days_of_the_zone() {
        // 23:30 in Berlin of the 25th, 00:30 of the 26th: the same day in UTC.
        let backups = [kept(1, at("2026-11-25T22:30:00Z")), kept(2, at("2026-11-25T23:30:00Z"))];
        let rules = Rules { daily: 2, ..Rules::default() };
        let now = at("2026-11-26T12:00:00Z");
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(gone(&rules, &berlin, &backups, now), NONE);
        assert_eq!(gone(&rules, &TimeZone::UTC, &backups, now), [1]);
    }

    #[test]
    fn weeks_months_and_years_make_one_union() {
        let days =
            ["2024-12-30", "2025-12-28", "2025-12-29", "2026-11-01", "2026-11-24", "2026-11-25"];
        let backups: Vec<Kept> =
            (1..).zip(days).map(|(n, day)| kept(n, at(&format!("{day}T10:00:00Z")))).collect();
        let rules = Rules { weekly: 1, monthly: 2, yearly: 3, ..Rules::default() };
        let now = at("2026-11-26T12:00:00Z");
        let fates = fates("gold", &rules, &TimeZone::UTC, &backups, now);
        // The month before November with a backup is December of 2025, whose newest is the 29th.
        assert_eq!(fates[2].reasons.len(), 2, "{:?}", fates[2]);
        assert_eq!(gone(&rules, &TimeZone::UTC, &backups, now), [2, 4, 5]);
        assert!(fates[5].reasons.contains(&Reason::Week(Date::constant(2026, 11, 23))));
        assert_eq!(fates[0].reasons[0].to_string(), "it is the newest of 2024");
    }

    #[test]
    fn what_is_manual_of_another_policy_or_locked_stays_with_its_reason() {
        let now = at("2026-11-26T12:00:00Z");
        let mut backups: Vec<Kept> = (1..=5).map(|n| kept(n, at("2020-01-01T00:00:00Z"))).collect();
        backups[0].origin = Origin::Manual;
        backups[1].policy = Some("silver".to_owned());
        backups[2].locked_until = Some(at("2027-01-01T00:00:00Z"));
        backups[3].locked_until = Some(at("2026-01-01T00:00:00Z"));
        let rules = Rules { days_old: Some(30), ..Rules::default() };
        let fates = fates("gold", &rules, &TimeZone::UTC, &backups, now);
        let reasons: Vec<_> = fates.iter().map(|fate| fate.reasons[0]).collect();
        let lock = Reason::Locked(at("2027-01-01T00:00:00Z"));
        assert_eq!(
            reasons,
            [Reason::Manual, Reason::OtherPolicy, lock, Reason::NoRule, Reason::Newest]
        );
    }

    #[test]
    fn a_clock_that_moved_back_removes_nothing_by_age() {
        let backups = [kept(1, at("2026-11-26T00:00:00Z")), kept(2, at("2026-11-20T00:00:00Z"))];
        let rules = Rules { days_old: Some(7), ..Rules::default() };
        assert_eq!(gone(&rules, &TimeZone::UTC, &backups, at("2026-11-21T00:00:00Z")), NONE);
    }

    proptest! {
        #[test]
        fn more_rules_never_remove_more(
            hours in proptest::collection::vec(0_i64..30_000, 1..30),
            count in 0_u32..6, daily in 0_u32..6, weekly in 0_u32..6, monthly in 0_u32..6,
        ) {
            let now = at("2026-11-26T12:00:00Z");
            let backups: Vec<Kept> = (1..)
                .zip(&hours)
                .map(|(n, hours)| kept(n, now - jiff::SignedDuration::from_hours(*hours)))
                .collect();
            let fewer = Rules { count: Some(count), daily, ..Rules::default() };
            let more = Rules { weekly, monthly, ..fewer.clone() };
            let (fewer, more) = (
                gone(&fewer, &TimeZone::UTC, &backups, now),
                gone(&more, &TimeZone::UTC, &backups, now),
            );
            prop_assert!(more.iter().all(|number| fewer.contains(number)));
            prop_assert!(fewer.len() < backups.len());
            prop_assert!(backups.len() - fewer.len() >= (count as usize).min(backups.len()));
        }
    }
}
