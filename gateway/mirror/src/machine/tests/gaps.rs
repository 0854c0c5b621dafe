//! What is kept of a stream of which a change could not be applied, at a mirror or here, and what a
//! mirror says whose copy failed, by event lists.
//!
//! Found by histories of the simulator: a snapshot whose place in the stream was behind such a change
//! was kept at the mirror, and lacked a write that hosts were told is there, or had one that hosts were
//! told had failed.

use super::modes::{incoming, mirror_in_sync, open_by_east};
use super::named::{label, said_of_snapshot, wish};
use super::*;
use crate::record::{Attributes, SnapshotWord};

fn fails(bench: &mut Bench, write: u64) {
    let (write, result) = (WriteId::new(write), Err(IoError::NoSpace));
    bench.apply(Event::Applied { write, result });
}

fn takes_snapshots(bench: &Bench) -> bool {
    bench.out.iter().any(|effect| matches!(effect, Effect::Snapshot { .. }))
}

#[test]
fn rule_14_a_mirror_keeps_no_snapshot_behind_a_change_that_it_could_not_apply() {
    for is_told_first in [true, false] {
        let mut bench = mirror_in_sync();
        incoming(&mut bench, 1, false);
        bench.record();
        let take = Message::Snapshot(SnapshotWord::Take(label()).encode());
        if is_told_first {
            bench.apply(Event::Told { message: take });
            fails(&mut bench, 1);
        } else {
            fails(&mut bench, 1);
            bench.apply(Event::Told { message: take });
        }
        assert!(!takes_snapshots(&bench));
        let Some(SnapshotWord::Taken { id, failed: Some(why) }) = said_of_snapshot(&bench) else {
            panic!("the primary waits for a word");
        };
        assert_eq!((id, why.contains("full")), (label().id, true), "{why}");
        bench.record();
        assert!(bench.machine.status().snapshots.is_empty());
    }
}

#[test]
fn rule_8_a_mirror_keeps_no_cut_behind_a_change_that_it_could_not_apply() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, false);
    bench.record();
    let (generation, ancestors) = (Generation::of(1), Vec::new());
    let message = Message::Cut { seq: Seq::new(2), generation, ancestors };
    bench.apply(Event::Told { message });
    fails(&mut bench, 1);
    assert!(!takes_snapshots(&bench));
    let hangs = |effect: &Effect| matches!(effect, Effect::HangUpstream { goodbye: Some(_) });
    assert!(bench.out.iter().any(hangs), "nobody waits for the cut");
}

#[test]
fn rule_14_no_mirror_is_asked_for_a_snapshot_behind_a_change_that_failed_here() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1));
    assert!(bench.sent(1).is_some(), "the mirror may apply it whatever becomes of it here");
    fails(&mut bench, 1);
    bench.apply(wish()).record();
    assert!(takes_snapshots(&bench), "it is kept here");
    let is_asked = |effect: &Effect| {
        matches!(effect, Effect::Post { message: Message::Snapshot(word), .. }
        if matches!(SnapshotWord::decode(word), Ok(SnapshotWord::Take(_))))
    };
    assert!(!bench.out.iter().any(is_asked), "the mirror may have what is not here");
}

/// Whether the mirror told its primary that its copy failed, and no more.
fn hangs_up_latched(bench: &Bench) -> bool {
    bench.out.iter().any(|effect| match effect {
        Effect::HangUpstream { goodbye: Some(Goodbye::Refused(why)) } => why.contains("reopened"),
        _ => false,
    })
}

fn acknowledges(bench: &Bench) -> bool {
    let is = |effect: &Effect| {
        matches!(
            effect,
            Effect::Acknowledge { .. } | Effect::Reply { message: Message::Durable { .. } }
        )
    };
    bench.out.iter().any(is)
}

/// A mirror whose ledger fails the record of what is kept of a volume.
fn record_fails() -> Bench {
    let mut bench = mirror_in_sync();
    // A first change warms the activity log.
    incoming(&mut bench, 1, false);
    bench.record().applied(1);
    bench.take();
    let kept = Attributes { number: 1, bytes: bytes::Bytes::from_static(b"keys") };
    let word = SnapshotWord::Attributes { volume: VOLUME, kept };
    bench.apply(Event::Told { message: Message::Snapshot(word.encode()) });
    let number = bench.out.iter().find_map(|effect| match effect {
        Effect::Record { number, .. } => Some(*number),
        _ => None,
    });
    let number = number.expect("it is recorded before it is confirmed");
    bench.apply(Event::Recorded { number, result: Err(IoError::Media) });
    bench
}

/// It went on to acknowledge changes of blocks that were active already, and said that it is in sync.
#[test]
fn rule_11_a_mirror_whose_record_fails_hangs_up_and_acknowledges_nothing_more() {
    let mut bench = record_fails();
    assert!(hangs_up_latched(&bench), "{:?}", bench.out);
    assert_eq!(bench.machine.status().serving, Serving::Latched);
    bench.take();
    incoming(&mut bench, 2, false);
    bench.apply(Event::Told { message: Message::Flush { seq: Seq::new(3) } });
    assert!(!acknowledges(&bench), "{:?}", bench.out);
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Apply { .. })));
}

#[test]
fn rule_11_a_change_that_was_let_in_before_the_copy_failed_is_not_acknowledged() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, false);
    bench.record();
    bench.apply(Event::Told { message: Message::Flush { seq: Seq::new(2) } });
    let round = bench.out.iter().find_map(|effect| match effect {
        Effect::FlushLocal { round, .. } => Some(*round),
        _ => None,
    });
    let round = round.expect("the copy is flushed");
    bench.apply(Event::Flushed { round, result: Err(IoError::Media) });
    let told = |effect: &Effect| {
        matches!(effect, Effect::Reply { message: Message::Failed { error: IoError::Media, .. } })
    };
    let failed = bench.out.iter().position(told).expect("the primary is told what failed");
    let hangs = |effect: &Effect| matches!(effect, Effect::HangUpstream { goodbye: Some(_) });
    let hung = bench.out.iter().position(hangs).expect("and that it is the end");
    assert!(failed < hung);
    bench.take();
    bench.applied(1);
    assert!(!acknowledges(&bench), "{:?}", bench.out);
}

#[test]
fn rule_11_a_mirror_whose_copy_failed_is_not_opened_before_it_is_reopened() {
    let mut bench = record_fails();
    bench.take();
    bench.apply(open_by_east()).record();
    let refused = bench.out.iter().find_map(|effect| match effect {
        Effect::Refuse { goodbye: Goodbye::Refused(why) } => Some(why.clone()),
        _ => None,
    });
    assert!(refused.is_some_and(|why| why.contains("reopened")), "{:?}", bench.out);
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Accept { .. })));
}

/// A primary whose `Open` is being recorded waits for an answer.
#[test]
fn rule_11_a_primary_that_opens_a_copy_as_it_fails_is_told() {
    let mut bench = mirror_in_sync();
    bench.apply(open_by_east());
    let number = bench.out.iter().find_map(|effect| match effect {
        Effect::Record { number, .. } => Some(*number),
        _ => None,
    });
    bench.apply(Event::Recorded { number: number.unwrap(), result: Err(IoError::Media) });
    let refused = |effect: &Effect| matches!(effect, Effect::Refuse { .. });
    assert!(bench.out.iter().any(refused), "{:?}", bench.out);
}
