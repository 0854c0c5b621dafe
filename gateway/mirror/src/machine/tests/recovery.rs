//! Recovery points by event lists: locks, marks, one copy only, and mirrors that were away.

use super::modes::mirror_in_sync;
use super::*;
use block::SnapshotId;

use crate::machine::Pace;
use crate::record::{Label, RecoveryRecord, SnapshotWord, recovery_key};
use crate::status::{Marks, SnapshotOrigin, SnapshotState};

const POINT: SnapshotId = SnapshotId::of(700);

fn take(marks: Marks, here_only: bool) -> Event {
    let name = "auto.point.1".to_owned();
    Event::Command(Command::TakePoint { snapshot: POINT, name, unix_ms: 7, marks, here_only })
}

fn lock(until_ms: u64) -> Marks {
    Marks { locked_until_ms: until_ms, ..Marks::default() }
}

fn clock(unix_ms: u64) -> Event {
    Event::Pace(Pace::LockClock { unix_ms })
}

fn remove() -> Event {
    Event::Command(Command::RemoveSnapshot { snapshot: POINT })
}

fn answered(bench: &Bench) -> Option<Result<(), Refusal>> {
    bench.out.iter().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

/// What the mirror is told of snapshots.
fn told(bench: &Bench) -> Vec<SnapshotWord> {
    let word = |effect: &Effect| match effect {
        Effect::Post { message: Message::Snapshot(word), .. } => SnapshotWord::decode(word).ok(),
        _ => None,
    };
    bench.out.iter().filter_map(word).collect()
}

/// What the primary is told of them.
fn said(bench: &Bench) -> Vec<SnapshotWord> {
    let word = |effect: &Effect| match effect {
        Effect::Reply { message: Message::Snapshot(word) } => SnapshotWord::decode(word).ok(),
        _ => None,
    };
    bench.out.iter().filter_map(word).collect()
}

fn recorded(bench: &Bench) -> Option<RecoveryRecord> {
    bench.out.iter().rev().find_map(|effect| match effect {
        Effect::Record { records, .. } => records
            .iter()
            .find(|(key, _)| *key == recovery_key(GROUP))
            .map(|(_, bytes)| bytes.as_ref().map(|b| RecoveryRecord::decode(b).unwrap()))
            .map(Option::unwrap_or_default),
        _ => None,
    })
}

fn state(bench: &Bench) -> SnapshotState {
    bench.machine.status().snapshots[0].state
}

impl Bench {
    fn with_point(mut self, marks: Marks, here_only: bool) -> Self {
        self.apply(take(marks, here_only)).record();
        self.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
        assert_eq!(answered(&self), Some(Ok(())));
        self
    }
}

#[test]
fn hdr_08_a_point_says_that_a_schedule_made_it_and_what_is_known_of_it() {
    let why = Marks { why_not: Some("no hook".to_owned()), ..lock(5) };
    let bench = Bench::in_sync(Policy::default()).with_point(why.clone(), false);
    let point = &bench.machine.status().snapshots[0];
    assert_eq!((point.origin, &point.marks), (SnapshotOrigin::Scheduled, &why));
    let name = "auto.point.1".to_owned();
    let origin = SnapshotOrigin::Scheduled;
    let label = Label { id: POINT, name, origin, unix_ms: 7, marks: why };
    assert_eq!(told(&bench), [SnapshotWord::Take(label)]);
}

#[test]
fn a_point_of_the_primary_only_is_not_told() {
    let bench = Bench::in_sync(Policy::default()).with_point(Marks::default(), true);
    assert_eq!(told(&bench), []);
    assert_eq!(state(&bench), SnapshotState::Available);
}

#[test]
fn a_mirror_of_an_old_release_is_not_asked_to_keep_points() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::LinkVersion { leg: leg(), version: block::SNAPSHOTS_SINCE_VERSION });
    let mut bench = bench.with_point(Marks::default(), false);
    assert_eq!(told(&bench), []);
    // It is told of a removal as it understands it, and nothing is awaited from it.
    bench.take();
    bench.apply(remove());
    assert_eq!(told(&bench), [SnapshotWord::Remove(POINT)]);
    assert_eq!(recorded(&bench).unwrap().gone, []);
}

#[test]
fn rule_15_a_lock_ends_by_its_clock_only() {
    let mut bench = Bench::primary().with_point(lock(10_000), false);
    for (now, unlocked) in [(0, false), (9_999, false), (10_000, true)] {
        bench.take();
        bench.apply(clock(now)).apply(remove());
        let expected = if unlocked { None } else { Some(10_000) };
        let refused = expected.map(|until_ms| Err(Refusal::SnapshotLocked { until_ms }));
        bench.record();
        assert_eq!(answered(&bench), Some(refused.unwrap_or(Ok(()))));
    }
    assert_eq!(state(&bench), SnapshotState::Deleting);
}

#[test]
fn rule_15_a_lock_clock_that_is_said_to_go_back_does_not() {
    let mut bench = Bench::primary().with_point(lock(10_000), false);
    bench.apply(clock(10_000)).apply(clock(1));
    bench.take();
    bench.apply(remove()).record();
    assert_eq!(answered(&bench), Some(Ok(())));
}

#[test]
fn rule_15_a_lock_is_made_longer_and_never_shorter() {
    let mut bench = Bench::in_sync(Policy::default()).with_point(lock(10_000), false);
    for (until_ms, expected) in [(20_000, 20_000), (5_000, 20_000), (0, 20_000)] {
        bench.take();
        let marks = lock(until_ms);
        let mark = Command::MarkSnapshot { snapshot: POINT, marks: marks.clone() };
        bench.apply(Event::Command(mark)).record();
        assert_eq!(answered(&bench), Some(Ok(())));
        assert_eq!(told(&bench), [SnapshotWord::Mark { id: POINT, marks }]);
        assert_eq!(bench.machine.status().snapshots[0].marks.locked_until_ms, expected);
    }
    bench.take();
    bench.apply(clock(15_000));
    bench.apply(Event::Command(Command::ForgetSnapshot { snapshot: POINT }));
    assert_eq!(answered(&bench), Some(Err(Refusal::SnapshotLocked { until_ms: 20_000 })));
}

#[test]
fn rule_15_a_mirror_keeps_what_is_locked_there_whatever_its_primary_says() {
    let mut bench = mirror_in_sync();
    let label = Label {
        id: POINT,
        name: "auto.point.1".to_owned(),
        origin: SnapshotOrigin::Scheduled,
        unix_ms: 7,
        marks: lock(10_000),
    };
    let tell = |word: SnapshotWord| Event::Told { message: Message::Snapshot(word.encode()) };
    bench.apply(tell(SnapshotWord::Take(label))).record();
    bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
    bench.take();
    for word in [SnapshotWord::Remove(POINT), SnapshotWord::Retire(POINT)] {
        bench.apply(tell(word)).record();
        assert_eq!((state(&bench), said(&bench)), (SnapshotState::Available, Vec::new()));
    }
    bench.apply(clock(10_000)).apply(tell(SnapshotWord::Retire(POINT)));
    assert_eq!(state(&bench), SnapshotState::Deleting);
    assert_eq!(said(&bench), [], "not before it is recorded");
    bench.record();
    assert_eq!(said(&bench), [SnapshotWord::Retired(POINT)]);
    // Asked again after it is gone, it says so again.
    bench.take();
    bench.apply(tell(SnapshotWord::Retire(POINT))).record();
    assert_eq!(said(&bench), [SnapshotWord::Retired(POINT)]);
}

/// Found on paper: a snapshot that the primary removed while its mirror was away stayed there for ever.
#[test]
fn snap_06_a_mirror_that_was_away_hears_of_a_removal_until_it_says_that_it_is_done() {
    let mut bench = Bench::in_sync(Policy::default()).with_point(Marks::default(), false);
    bench.lose().record();
    bench.take();
    bench.apply(remove());
    assert_eq!(recorded(&bench).unwrap().gone.len(), 1, "durably");
    bench.record();
    assert_eq!((answered(&bench), told(&bench)), (Some(Ok(())), Vec::new()));
    for _ in 0..2 {
        bench.take();
        bench.connect(Some(1)).record();
        assert!(told(&bench).contains(&SnapshotWord::Retire(POINT)));
        bench.lose().record();
    }
    bench.connect(Some(1)).record();
    bench.take();
    bench.heard(Message::Snapshot(SnapshotWord::Retired(POINT).encode()));
    assert_eq!(recorded(&bench).unwrap().gone, []);
    bench.record().lose().record();
    bench.take();
    bench.connect(Some(1)).record();
    assert!(!told(&bench).contains(&SnapshotWord::Retire(POINT)));
}

#[test]
fn what_was_recorded_of_removals_is_told_after_a_restart() {
    let mut bench = Bench::primary();
    bench.add_leg(Policy::default());
    let gone = crate::record::Gone { id: POINT, at: vec![WEST] };
    bench.machine.restore_recovery(RecoveryRecord { policy: None, gone: vec![gone] });
    bench.connect(None);
    assert!(told(&bench).contains(&SnapshotWord::Retire(POINT)));
}

#[test]
fn a_mirror_hears_the_policy_and_the_marks_that_it_missed() {
    let mut bench = Bench::in_sync(Policy::default()).with_point(Marks::default(), false);
    bench.lose().record();
    let policy = Some(bytes::Bytes::from_static(b"{}"));
    let set = Command::SetPointPolicy { policy: policy.clone() };
    bench.apply(Event::Command(set)).record();
    let mark = Command::MarkSnapshot { snapshot: POINT, marks: lock(9) };
    bench.apply(Event::Command(mark)).record();
    bench.take();
    bench.connect(Some(1)).record();
    let told = told(&bench);
    assert!(told.contains(&SnapshotWord::Policy(policy)));
    assert!(told.contains(&SnapshotWord::Mark { id: POINT, marks: lock(9) }));
}

#[test]
fn a_mirror_records_the_policy_and_answers_no_command_about_it() {
    let mut bench = mirror_in_sync();
    let policy = Some(bytes::Bytes::from_static(b"{}"));
    let word = SnapshotWord::Policy(policy.clone()).encode();
    bench.apply(Event::Told { message: Message::Snapshot(word) });
    assert_eq!(recorded(&bench).unwrap().policy, policy);
    bench.record();
    assert_eq!(bench.machine.status().point_policy, policy);
    bench.take();
    bench.apply(Event::Command(Command::SetPointPolicy { policy: None }));
    assert_eq!(answered(&bench), Some(Err(Refusal::NotPrimary)));
}

#[test]
fn one_copy_forgets_and_the_other_keeps() {
    let mut bench = Bench::in_sync(Policy::default()).with_point(Marks::default(), false);
    bench.take();
    bench.apply(Event::Command(Command::ForgetSnapshot { snapshot: POINT })).record();
    assert_eq!((answered(&bench), told(&bench)), (Some(Ok(())), Vec::new()));
    assert_eq!(state(&bench), SnapshotState::Deleting);
}
