//! Snapshots with names, and the way back to one, by event lists.

use super::modes::{incoming, mirror_in_sync};
use super::*;
use block::SnapshotId;

use crate::record::{Label, Named, SnapshotWord, decode_named, dirty_key, named_key};
use crate::status::{Marks, SnapshotOrigin, SnapshotState};

const WISH: SnapshotId = SnapshotId::of(500);
const SAFETY: SnapshotId = SnapshotId::of(501);

pub(super) fn wish() -> Event {
    Event::Command(Command::Snapshot {
        snapshot: WISH,
        name: "before".to_owned(),
        origin: SnapshotOrigin::Manual,
        unix_ms: 7,
    })
}

pub(super) fn label() -> Label {
    Label {
        id: WISH,
        name: "before".to_owned(),
        origin: SnapshotOrigin::Manual,
        unix_ms: 7,
        marks: Marks::default(),
    }
}

fn back() -> Event {
    Event::Command(Command::RollBack { snapshot: WISH, safety: SAFETY, unix_ms: 9 })
}

/// What is being recorded under a key, by the newest record that names it.
fn recorded(out: &[Effect], key: &str) -> Option<Option<bytes::Bytes>> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::Record { records, .. } => {
            records.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        }
        _ => None,
    })
}

/// The volume's named snapshots as they are being recorded.
fn named(out: &[Effect]) -> Option<Vec<Named>> {
    let bytes = recorded(out, &named_key(VOLUME))?;
    Some(bytes.map_or_else(Vec::new, |bytes| decode_named(&bytes).unwrap()))
}

/// What the stores are to keep.
fn taking(bench: &Bench) -> Option<Vec<SnapshotId>> {
    bench.out.iter().find_map(|effect| match effect {
        Effect::Snapshot { snapshots } => Some(snapshots.clone()),
        _ => None,
    })
}

/// What the mirror says of a snapshot to its primary.
pub(super) fn said_of_snapshot(bench: &Bench) -> Option<SnapshotWord> {
    bench.out.iter().find_map(|effect| match effect {
        Effect::Reply { message: Message::Snapshot(word) } => SnapshotWord::decode(word).ok(),
        _ => None,
    })
}

fn answered(bench: &Bench) -> Option<Result<(), Refusal>> {
    bench.out.iter().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

/// The places of what matters among the effects: changes that are sent, the word to the mirror, the
/// order to the stores.
fn order(bench: &Bench) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Apply { .. } => Some("apply"),
        Effect::Send { .. } => Some("send"),
        Effect::Snapshot { .. } => Some("take"),
        Effect::Post { message: Message::Snapshot(_), .. } => Some("tell"),
        _ => None,
    };
    bench.out.iter().filter_map(name).collect()
}

impl Bench {
    /// A snapshot that is kept here, for what comes after it.
    fn with_snapshot(mut self) -> Self {
        self.apply(wish()).record();
        assert!(taking(&self).is_some());
        self.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
        assert_eq!(answered(&self), Some(Ok(())));
        self.take();
        self
    }

    fn suspended(mut self) -> Self {
        self.apply(Event::Command(Command::Suspend { leg: leg() })).record();
        self.take();
        self
    }
}

/// Retention goes by this order: by the clock, the newest would be the first to go.
#[test]
fn snap_01_snapshots_are_told_in_the_order_in_which_they_were_taken_whatever_the_clock_says() {
    let mut bench = Bench::in_sync(Policy::default()).with_snapshot();
    bench.apply(Event::Command(Command::Snapshot {
        snapshot: SAFETY,
        name: "after".to_owned(),
        origin: SnapshotOrigin::Manual,
        unix_ms: 3,
    }));
    bench.record();
    bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
    let told: Vec<_> = bench.machine.status().snapshots.iter().map(|of| of.id).collect();
    assert_eq!(told, [WISH, SAFETY]);
}

#[test]
fn snap_01_is_taken_between_what_was_sent_and_what_comes_after() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1));
    bench.apply(wish()).record();
    // The mirror has the first change for sure; the copy here does not yet.
    assert_eq!(order(&bench), ["apply", "send"]);
    bench.change(2, at(2, 1));
    assert_eq!(bench.sent(2), None, "what comes now waits");
    bench.applied(1);
    assert_eq!(order(&bench), ["apply", "send", "take", "tell", "apply", "send"]);
    assert_eq!(answered(&bench), None);
    bench.apply(Event::Snapshotted(Ok(()), Taken::default()));
    assert_eq!(named(&bench.out).unwrap()[0].state, SnapshotState::Available);
    assert_eq!(answered(&bench), None, "not before it is recorded");
    bench.record();
    assert_eq!(answered(&bench), Some(Ok(())));
    let word = SnapshotWord::Taken { id: WISH, failed: None };
    bench.heard(Message::Snapshot(word.encode())).record();
    let status = bench.machine.status();
    assert_eq!(status.snapshots[0].name, "before");
    assert_eq!(status.snapshots[0].held_by, [WEST]);
}

/// Found end to end: on a busy machine the mirror had synced sooner than the stores here, and its word
/// came to nothing.
#[test]
fn snap_01_a_mirror_that_is_quicker_than_the_stores_here_is_remembered() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(wish()).record();
    let word = SnapshotWord::Taken { id: WISH, failed: None };
    bench.heard(Message::Snapshot(word.encode())).record();
    assert!(bench.machine.status().snapshots.is_empty());
    bench.apply(Event::Snapshotted(Ok(()), Taken::default()));
    assert_eq!(named(&bench.out).unwrap()[0].held_by, [WEST]);
    bench.record();
    assert_eq!(bench.machine.status().snapshots[0].held_by, [WEST]);
}

/// A snapshot that the stores here refused is none anywhere.
#[test]
fn snap_05_a_mirror_does_not_keep_what_the_primary_could_not() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(wish()).record();
    let word = SnapshotWord::Taken { id: WISH, failed: None };
    bench.heard(Message::Snapshot(word.encode())).record();
    bench.take();
    bench.apply(Event::Snapshotted(Err(IoError::NoSpace), Taken::default())).record();
    assert_eq!(answered(&bench), Some(Err(Refusal::Io(IoError::NoSpace))));
    let told = bench.out.iter().find_map(|effect| match effect {
        Effect::Post { message: Message::Snapshot(word), .. } => SnapshotWord::decode(word).ok(),
        _ => None,
    });
    assert_eq!(told, Some(SnapshotWord::Retire(WISH)));
}

#[test]
fn names_for_the_stores_are_recorded_before_they_are_used() {
    let mut bench = Bench::primary();
    bench.apply(wish());
    assert_eq!(taking(&bench), None);
    bench.record();
    let here = taking(&bench).expect("the plan is durable");
    bench.apply(Event::Snapshotted(Ok(()), Taken::default()));
    // A crash now finds them among what nobody needs.
    let (_, bytes) = bench.machine.group_record();
    let planned = GroupRecord::decode(&bytes.unwrap()).unwrap().points.unneeded;
    assert!(planned.is_empty(), "with this record they are named");
    assert_eq!(named(&bench.out).unwrap()[0].here, here[0]);
}

#[test]
fn a_mirror_that_lacks_something_is_not_asked_to_keep_one() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    bench.change(1, at(1, 1)).record().applied(1);
    bench.apply(wish()).record();
    assert!(taking(&bench).is_some() && !order(&bench).contains(&"tell"));
}

#[test]
fn snap_05_a_snapshot_that_the_store_refuses_is_none_and_hosts_go_on() {
    let mut bench = Bench::primary();
    bench.apply(wish()).record();
    bench.apply(Event::Snapshotted(Err(IoError::NoSpace), Taken::default())).record();
    assert_eq!(answered(&bench), Some(Err(Refusal::Io(IoError::NoSpace))));
    assert!(bench.machine.status().snapshots.is_empty());
    bench.take();
    bench.change(1, at(1, 1)).record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
}

/// A pool that keeps as many snapshots as it ever does is not full: nobody is told that it is, and
/// nothing waits for room.
#[test]
fn snap_05_a_copy_that_keeps_no_more_snapshots_says_so_and_goes_on() {
    let refused = || Event::Snapshotted(Err(IoError::TooManySnapshots), Taken::default());
    let says_so = |why: &str| why.contains("no more snapshots") && !why.contains("full");
    let mut bench = Bench::primary();
    bench.apply(wish()).record();
    bench.apply(refused()).record();
    assert_eq!(answered(&bench), Some(Err(Refusal::Io(IoError::TooManySnapshots))));
    bench.take();
    bench.change(1, at(1, 1)).record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())), "hosts go on");

    let hung_up = |bench: &Bench| {
        bench.out.iter().find_map(|effect| match effect {
            Effect::HangUpstream { goodbye } => Some(goodbye.clone()),
            _ => None,
        })
    };
    let mut bench = mirror_in_sync();
    bench.apply(Event::Told { message: Message::Snapshot(SnapshotWord::Take(label()).encode()) });
    bench.record();
    assert!(taking(&bench).is_some());
    bench.apply(refused()).record();
    let Some(SnapshotWord::Taken { id, failed: Some(why) }) = said_of_snapshot(&bench) else {
        panic!("the primary waits for a word");
    };
    assert!(id == WISH && says_so(&why), "{why}");
    assert_eq!(hung_up(&bench), None, "it follows on");
    bench.take();
    incoming(&mut bench, 1, false);
    bench.record();
    assert_eq!(order(&bench), ["apply"]);

    // A point that it must keep before it is changed out of order is another matter.
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, true);
    bench.apply(refused()).record();
    assert_eq!(order(&bench), ["take"], "the change is not let in");
    let Some(Some(Goodbye::Refused(why))) = hung_up(&bench) else {
        panic!("the primary is told");
    };
    assert!(says_so(&why), "{why}");
}

#[test]
fn a_name_is_given_once() {
    let mut bench = Bench::primary().with_snapshot();
    bench.apply(wish());
    assert_eq!(answered(&bench), Some(Err(Refusal::SnapshotExists)));
}

#[test]
fn snap_06_a_snapshot_is_listed_as_deleting_until_the_stores_gave_it_back() {
    let mut bench = Bench::in_sync(Policy::default()).with_snapshot();
    bench.apply(Event::Command(Command::RemoveSnapshot { snapshot: WISH })).record();
    assert_eq!(answered(&bench), Some(Ok(())));
    assert!(order(&bench).contains(&"tell"), "the mirror has no more use for it either");
    assert_eq!(bench.machine.status().snapshots[0].state, SnapshotState::Deleting);
    let snapshots = bench.out.iter().find_map(|effect| match effect {
        Effect::RemoveSnapshots { snapshots } => Some(snapshots.clone()),
        _ => None,
    });
    bench.apply(Event::SnapshotsRemoved { snapshots: snapshots.unwrap() });
    assert!(bench.machine.status().snapshots.is_empty());
    assert_eq!(named(&bench.out).as_deref(), Some(&[][..]));
    bench.take();
    bench.apply(Event::Command(Command::RemoveSnapshot { snapshot: WISH }));
    assert_eq!(answered(&bench), Some(Err(Refusal::NoSuchSnapshot)));
}

#[test]
fn snap_05_a_deletion_that_a_store_refused_is_tried_again_with_the_next_record() {
    let removing = |bench: &Bench| {
        bench.out.iter().find_map(|effect| match effect {
            Effect::RemoveSnapshots { snapshots } => Some(snapshots.clone()),
            _ => None,
        })
    };
    let mut bench = Bench::in_sync(Policy::default()).with_snapshot();
    bench.apply(Event::Command(Command::RemoveSnapshot { snapshot: WISH })).record();
    let asked = removing(&bench).expect("the store is asked");
    bench.take();
    bench.apply(Event::SnapshotsRemoved { snapshots: Vec::new() }).record();
    assert_eq!(bench.machine.status().snapshots[0].state, SnapshotState::Deleting);
    assert_eq!(removing(&bench), None, "not at once: it would be asked for ever");
    bench.apply(Event::Command(Command::Suspend { leg: leg() })).record();
    assert_eq!(removing(&bench).as_ref(), Some(&asked));
    bench.take();
    bench.apply(Event::SnapshotsRemoved { snapshots: asked }).record();
    assert!(bench.machine.status().snapshots.is_empty());
}

/// The mirror's part: what came before is applied first, and the stream goes on when it is taken.
#[test]
fn snap_01_a_mirror_keeps_what_came_before_and_says_so_when_it_is_recorded() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, false);
    bench.record();
    bench.apply(Event::Told { message: Message::Snapshot(SnapshotWord::Take(label()).encode()) });
    incoming(&mut bench, 2, false);
    bench.record();
    assert_eq!(order(&bench), ["apply"], "neither it nor what comes behind before the first is in");
    bench.applied(1);
    assert_eq!(order(&bench), ["apply", "take", "apply"], "the stream goes on when it is begun");
    bench.apply(Event::Snapshotted(Ok(()), Taken::default()));
    assert_eq!(said_of_snapshot(&bench), None, "not before it is recorded");
    bench.record();
    assert_eq!(said_of_snapshot(&bench), Some(SnapshotWord::Taken { id: WISH, failed: None }));
    assert_eq!(bench.machine.status().snapshots[0].id, WISH);
    bench.take();
    bench.apply(Event::Told { message: Message::Snapshot(SnapshotWord::Remove(WISH).encode()) });
    assert_eq!(bench.machine.status().snapshots[0].state, SnapshotState::Deleting);
}

#[test]
fn snap_09_the_way_back_of_a_mirrored_group_needs_its_sessions_suspended() {
    let mut bench = Bench::in_sync(Policy::default()).with_snapshot();
    bench.apply(back());
    assert_eq!(answered(&bench), Some(Err(Refusal::SessionsActive)));
    let mut bench = bench.suspended();
    bench.apply(back());
    assert_eq!(answered(&bench), None);
    assert!(!bench.machine.is_serving());
}

/// Goes back as far as the listing of what changes.
fn listing(mut bench: Bench) -> Bench {
    bench.apply(back());
    let drops = bench.out.iter().any(|effect| matches!(effect, Effect::DropHosts));
    assert!(drops, "hosts are dropped first");
    bench.record();
    assert!(taking(&bench).is_some(), "what is here now is kept (rule 10)");
    bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
    let lists = bench.out.iter().any(|effect| matches!(effect, Effect::ListChanged { .. }));
    assert!(lists);
    bench.take();
    bench
}

fn rolls(bench: &Bench) -> bool {
    bench.out.iter().any(|effect| matches!(effect, Effect::RollBack { .. }))
}

#[test]
fn rule_9_what_the_way_back_changes_is_recorded_with_the_intention() {
    let mut bench = listing(Bench::in_sync(Policy::default()).with_snapshot().suspended());
    let generation = bench.machine.status().generation;
    bench.apply(Event::Changed { result: Ok(vec![vec![block::BlockRange::new(5, 8)]]) });
    assert!(!rolls(&bench), "not before it is recorded");
    let lacks = recorded(&bench.out, &dirty_key(GROUP, WEST, VOLUME)).unwrap().unwrap();
    assert!(DirtyMap::decode(&lacks).unwrap().bytes() >= 3 * 4096);
    let state = |out: &[Effect]| named(out).unwrap()[0].state;
    assert_eq!(state(&bench.out), SnapshotState::RollingBack);
    bench.record();
    assert!(rolls(&bench));
    bench.change(1, at(1, 1));
    assert_eq!(bench.answer(1), Some(Err(IoError::ShuttingDown)));
    bench.apply(Event::RolledBack { result: Ok(()) });
    assert_eq!(state(&bench.out), SnapshotState::Available);
    assert!(!bench.machine.is_serving());
    bench.record();
    assert_eq!(answered(&bench), Some(Ok(())));
    assert!(bench.machine.is_serving());
    let status = bench.machine.status();
    assert_ne!(status.generation, generation, "no mirror takes it for what it has");
    assert_eq!(status.snapshots.len(), 2);
    assert_eq!(status.snapshots[1].origin, SnapshotOrigin::Safety);
}

/// A primary whose intention to go back is being recorded, and what a start after that record finds.
fn intending() -> (Bench, Bench) {
    intending_of(Bench::primary().with_snapshot())
}

fn intending_of(bench: Bench) -> (Bench, Bench) {
    let mut bench = listing(bench);
    bench.apply(Event::Changed { result: Ok(vec![Vec::new()]) });
    let (_, record) = bench.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let all = named(&bench.out).unwrap();
    let snapshots = all.iter().map(|one| one.here).collect();
    let found = Restored { named: all, snapshots, ..restored(false, &[]) };
    let again = Bench::restored(record, found, |_, _| DirtyMap::default());
    (bench, again)
}

/// A kill at any step: before the intention nothing happened, after it the next start goes on.
#[test]
fn snap_02_a_way_back_that_was_cut_short_is_taken_up_before_anybody_is_served() {
    let (_, mut bench) = intending();
    assert!(rolls(&bench), "{:?}", bench.out);
    assert!(!bench.machine.is_serving());
    for snapshot in [WISH, SAFETY] {
        bench.apply(Event::Command(Command::RemoveSnapshot { snapshot }));
        assert_eq!(answered(&bench), Some(Err(Refusal::NeededOnTheWay)));
        bench.take();
    }
    bench.apply(Event::RolledBack { result: Ok(()) }).record();
    assert!(bench.machine.is_serving());
    assert_eq!(bench.machine.status().snapshots[0].state, SnapshotState::Available);
}

#[test]
fn snap_02_a_way_back_that_fails_in_the_middle_serves_nobody_until_the_next_start() {
    let mut bench = listing(Bench::primary().with_snapshot());
    bench.apply(Event::Changed { result: Ok(vec![Vec::new()]) }).record();
    bench.apply(Event::RolledBack { result: Err(IoError::Media) }).record();
    assert_eq!(answered(&bench), Some(Err(Refusal::Io(IoError::Media))));
    assert_eq!(bench.machine.status().serving, Serving::Latched);
    assert_eq!(bench.machine.status().snapshots[0].state, SnapshotState::RollingBack);
}

#[test]
fn a_snapshot_more_than_a_group_may_have_is_refused_by_name() {
    let mut bench = Bench::primary();
    for number in 0..=512 {
        let (snapshot, name) = (SnapshotId::of(1_000 + number), format!("s-{number}"));
        let origin = SnapshotOrigin::Manual;
        bench
            .apply(Event::Command(Command::Snapshot { snapshot, name, origin, unix_ms: 7 }))
            .record();
        if number == 512 {
            assert_eq!(answered(&bench), Some(Err(Refusal::TooManySnapshots)));
            break;
        }
        bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
        assert_eq!(answered(&bench), Some(Ok(())), "{number}");
        bench.take();
    }
    assert_eq!(bench.machine.status().snapshots.len(), 512);
}

/// Found in a review: a full disk is no failed one. The way back waits for room, with and without
/// somebody who waits for it, and a mirror is not resumed meanwhile.
#[test]
fn snap_02_a_way_back_without_room_waits_for_it_and_latches_nothing() {
    let full = || Event::RolledBack { result: Err(IoError::NoSpace) };
    let (mut bench, mut again) = intending();
    let asked = bench.record();
    asked.take();
    asked.apply(full());
    again.record().take();
    again.apply(full());
    for (bench, answer) in [(&mut bench, Some(Ok(()))), (&mut again, None)] {
        bench.record();
        assert_eq!(answered(bench), None);
        assert_eq!(bench.machine.status().serving, Serving::RollingBack);
        assert!(!rolls(bench), "not at once");
        bench.apply(Event::Command(Command::Resume { leg: leg(), discard: false }));
        assert_eq!(answered(bench), Some(Err(Refusal::Busy)));
        bench.apply(Event::Tick { now_ms: 2_000 }).record();
        assert!(rolls(bench));
        bench.take();
        bench.apply(Event::Tick { now_ms: 4_000 }).record();
        assert!(!rolls(bench), "it is under way");
        bench.apply(Event::RolledBack { result: Ok(()) }).record();
        assert_eq!(answered(bench), answer);
        assert!(bench.machine.is_serving());
        bench.take();
        bench.apply(Event::Command(Command::RemoveSnapshot { snapshot: WISH })).record();
        assert_eq!(answered(bench), Some(Ok(())), "commands are taken again");
    }
}

/// Found in a review: a way back waited for room, and nothing of its own group could be removed for
/// it. Who waits for it is answered at its end, and with and without them what it does not need goes.
#[test]
fn snap_02_what_a_way_back_does_not_need_is_removed_while_it_waits_for_room() {
    const OTHER: SnapshotId = SnapshotId::of(502);
    let full = || Event::RolledBack { result: Err(IoError::NoSpace) };
    let made = |bench: &Bench| {
        bench.out.iter().find_map(|effect| match effect {
            Effect::RoomMade(7, result) => Some(result.clone()),
            _ => None,
        })
    };
    let removing = |bench: &Bench| {
        bench.out.iter().find_map(|effect| match effect {
            Effect::RemoveSnapshots { snapshots } => Some(snapshots.clone()),
            _ => None,
        })
    };
    let mut bench = Bench::primary();
    let (name, origin) = ("other".to_owned(), SnapshotOrigin::Manual);
    let other = Command::Snapshot { snapshot: OTHER, name, origin, unix_ms: 6 };
    bench.apply(Event::Command(other)).record();
    bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record().take();
    let (mut bench, mut again) = intending_of(bench.with_snapshot());
    bench.record();
    for (bench, answer) in [(&mut bench, Some(Ok(()))), (&mut again, None)] {
        bench.take();
        bench.apply(Event::MakeRoom(OTHER, 7));
        assert_eq!(made(bench), Some(Err(Refusal::Busy)), "the stores are at it");
        bench.take();
        bench.apply(full());
        for needed in [WISH, SAFETY] {
            bench.apply(Event::MakeRoom(needed, 7));
            assert_eq!(made(bench), Some(Err(Refusal::NeededOnTheWay)));
            bench.take();
        }
        bench.apply(Event::MakeRoom(OTHER, 7));
        assert_eq!((made(bench), removing(bench)), (None, None), "not before it is recorded");
        bench.record();
        assert_eq!(made(bench), Some(Ok(())));
        let removed = removing(bench).expect("its room is given back");
        bench.take();
        bench.apply(Event::Tick { now_ms: 2_000 }).record();
        assert!(!rolls(bench), "the stores are asked for one thing at a time");
        // A store may be too full for that, too: it is asked for both in turn.
        bench.apply(Event::SnapshotsRemoved { snapshots: Vec::new() });
        assert!(rolls(bench));
        bench.take();
        bench.apply(full());
        assert_eq!(removing(bench), Some(removed.clone()));
        bench.apply(Event::SnapshotsRemoved { snapshots: removed }).record();
        assert!(bench.machine.status().snapshots.iter().all(|of| of.id != OTHER));
        bench.take();
        bench.apply(Event::Tick { now_ms: 4_000 });
        assert!(rolls(bench));
        bench.apply(Event::RolledBack { result: Ok(()) }).record();
        assert_eq!(answered(bench), answer);
        assert!(bench.machine.is_serving());
    }
}

#[test]
fn a_way_back_is_given_up_while_nothing_is_changed() {
    let mut bench = listing(Bench::primary().with_snapshot());
    bench.apply(Event::Changed { result: Err(IoError::Checksum) });
    assert_eq!(answered(&bench), Some(Err(Refusal::Io(IoError::Checksum))));
    assert!(bench.machine.is_serving());
}

#[test]
fn a_snapshot_whose_content_is_gone_is_shown_as_such_and_one_that_was_going_is_gone() {
    let named = |id: u128, state| Named {
        label: Label { id: SnapshotId::of(id), ..label() },
        here: SnapshotId::of(id),
        state,
        held_by: Vec::new(),
    };
    let all = vec![
        named(1, SnapshotState::Available),
        named(2, SnapshotState::Deleting),
        named(3, SnapshotState::Deleting),
        named(4, SnapshotState::Available),
    ];
    let snapshots = vec![SnapshotId::of(3), SnapshotId::of(4)];
    let found = Restored { named: all, snapshots, ..restored(true, &[]) };
    let (_, record) = crate::machine::found(
        GROUP,
        "orders",
        vec![VOLUME],
        Some(Generation::of(1)),
        (Quality::Source, false),
    );
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let bench = Bench::restored(record, found, |_, _| DirtyMap::default());
    let states: Vec<_> = bench.machine.status().snapshots.iter().map(|s| (s.id, s.state)).collect();
    let expected =
        [(1, SnapshotState::Error), (3, SnapshotState::Deleting), (4, SnapshotState::Available)];
    assert_eq!(states, expected.map(|(id, state)| (SnapshotId::of(id), state)));
    let removes = |effect: &Effect| matches!(effect, Effect::RemoveSnapshots { snapshots } if snapshots == &[(0, SnapshotId::of(3))]);
    assert!(bench.out.iter().any(removes));
}
