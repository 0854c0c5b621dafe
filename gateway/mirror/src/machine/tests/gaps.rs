//! What is kept of a stream of which a change could not be applied, at a mirror or here, by event lists.
//!
//! Found by histories of the simulator: a snapshot whose place in the stream was behind such a change
//! was kept at the mirror, and lacked a write that hosts were told is there, or had one that hosts were
//! told had failed.

use super::modes::{incoming, mirror_in_sync};
use super::named::{label, said_of_snapshot, wish};
use super::*;
use crate::record::SnapshotWord;

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
