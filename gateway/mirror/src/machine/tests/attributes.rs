//! What host protocols keep of a volume, by event lists.

use super::modes::mirror_in_sync;
use super::*;
use crate::record::{Attributes, SnapshotWord, attributes_key};

fn set(token: u64, bytes: &'static [u8]) -> Event {
    Event::SetAttributes { at: (VOLUME, token), bytes: bytes::Bytes::from_static(bytes) }
}

fn kept(bench: &Bench, token: u64) -> Option<Result<(), IoError>> {
    bench.out.iter().find_map(|effect| match effect {
        Effect::AttributesKept { token: known, result } if *known == token => Some(*result),
        _ => None,
    })
}

fn said(out: &[Effect]) -> Option<SnapshotWord> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::Post { message: Message::Snapshot(word), .. }
        | Effect::Reply { message: Message::Snapshot(word) } => SnapshotWord::decode(word).ok(),
        _ => None,
    })
}

fn attributes(number: u64, bytes: &'static [u8]) -> Attributes {
    Attributes { number, bytes: bytes::Bytes::from_static(bytes) }
}

fn has(number: u64) -> Message {
    Message::Snapshot(SnapshotWord::AttributesKept { volume: VOLUME, number }.encode())
}

#[test]
fn rule_1_what_is_kept_of_a_volume_is_answered_when_the_mirror_has_it_durably() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(set(1, b"one"));
    let word = SnapshotWord::Attributes { volume: VOLUME, kept: attributes(1, b"one") };
    assert_eq!(said(&bench.out), Some(word));
    bench.record();
    assert_eq!(kept(&bench, 1), None, "the mirror said nothing");
    bench.heard(has(1));
    assert_eq!(kept(&bench, 1), Some(Ok(())));
    bench.apply(set(2, b"two")).heard(has(2));
    assert_eq!(kept(&bench, 2), None, "it is not recorded here");
    bench.record();
    assert_eq!(kept(&bench, 2), Some(Ok(())));
    assert_eq!(bench.machine.attributes(VOLUME).as_deref(), Some(&b"two"[..]));
}

#[test]
fn rule_1_a_mirror_that_is_lost_is_waited_for_until_it_is_durably_out() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(set(1, b"one")).record().lose();
    assert_eq!(kept(&bench, 1), None, "it could be promoted without it");
    bench.record();
    assert_eq!(kept(&bench, 1), Some(Ok(())));
    assert!(!bench.leg_record().in_sync);
}

#[test]
fn rule_12_a_mirror_that_records_nothing_does_not_hang_who_keeps_something_of_a_volume() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.apply(set(1, b"one")).record();
    bench.apply(Event::Tick { now_ms: 1_000 }).record();
    assert_eq!(kept(&bench, 1), None);
    bench.apply(Event::Tick { now_ms: 1_100 });
    assert_eq!(kept(&bench, 1), None, "the record comes first (rule 1)");
    bench.record();
    assert_eq!(kept(&bench, 1), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].cause, Some(Cause::TooSlow));
}

#[test]
fn a_mirror_records_what_it_is_told_and_then_says_so() {
    let mut bench = mirror_in_sync();
    let word = SnapshotWord::Attributes { volume: VOLUME, kept: attributes(4, b"keys") };
    bench.take();
    bench.apply(Event::Told { message: Message::Snapshot(word.encode()) });
    let recorded = bench.out.iter().any(|effect| match effect {
        Effect::Record { records, .. } => records.iter().any(|(k, _)| *k == attributes_key(VOLUME)),
        _ => false,
    });
    assert!(recorded && said(&bench.out).is_none());
    bench.record();
    let has = SnapshotWord::AttributesKept { volume: VOLUME, number: 4 };
    assert_eq!(said(&bench.out), Some(has));
    assert_eq!(bench.machine.attributes(VOLUME).as_deref(), Some(&b"keys"[..]));
}

#[test]
fn a_mirror_that_connects_hears_what_is_kept_before_it_is_asked_whether_it_is_in_sync() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(set(1, b"one")).record().heard(has(1)).lose().record();
    bench.take();
    bench.connect(None);
    let word = SnapshotWord::Attributes { volume: VOLUME, kept: attributes(1, b"one") };
    let told = bench.out.iter().any(|effect| match effect {
        Effect::Post { message: Message::Snapshot(bytes), .. } => {
            SnapshotWord::decode(bytes).as_ref() == Ok(&word)
        }
        _ => false,
    });
    assert!(told);
}

#[test]
fn nothing_is_kept_by_who_is_no_primary_or_for_who_would_not_have_it() {
    let mut bench = mirror_in_sync();
    bench.apply(set(1, b"one"));
    assert_eq!(kept(&bench, 1), Some(Err(IoError::ReadOnly)));
    let mut old = Bench::in_sync(Policy::default());
    let version = block::ATTRIBUTES_SINCE_VERSION - 1;
    old.apply(Event::LinkVersion { leg: leg(), version });
    old.apply(set(2, b"one"));
    assert_eq!(kept(&old, 2), Some(Err(IoError::Unsupported)));
    assert_eq!(old.machine.attributes(VOLUME), None, "nothing was changed");
}
