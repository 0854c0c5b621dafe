//! A session that is suspended normally is whole at its mirror; one that cannot be goes on as it was.

use super::modes::cut;
use super::*;
use crate::Mode;

fn drain(bench: &mut Bench, for_ms: u64) -> &mut Bench {
    bench.apply(Event::Command(Command::Drain { leg: leg(), for_ms })).record()
}

fn suspend_whole(bench: &mut Bench) -> Option<Result<(), Refusal>> {
    bench.take();
    bench.apply(Event::Command(Command::SuspendWhole { leg: leg() })).record();
    bench.out.iter().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

/// A leg that follows behind; the mirror has everything but the second change.
fn behind(split: Split) -> Bench {
    let mut bench = Bench::primary();
    bench.add_leg(Policy { mode: Mode::Consistency, split, ..Policy::default() }).connect(None);
    bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new()] });
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record();
    bench.change(0, at(0, 1)).record().applied(0);
    let first = bench.sent(0).unwrap();
    bench.ack(first).take();
    bench.change(1, at(1, 1)).applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
    bench
}

/// It was suspended as it was: the mirror went back to its last cut, and what hosts were promised
/// before was not there when roles were swapped.
#[test]
fn rec_06_a_mirror_that_follows_behind_is_brought_to_the_present_before_it_is_suspended() {
    let mut bench = behind(Split::Automatic);
    drain(&mut bench, 10_000);
    assert!(bench.machine.status().legs[0].draining);
    bench.change(2, at(2, 1)).applied(2);
    assert_eq!(bench.answer(2), None, "there is little left, so hosts wait for it");
    let (second, third) = (bench.sent(1).unwrap(), bench.sent(2).unwrap());
    assert_eq!(suspend_whole(&mut bench), Some(Err(Refusal::NotInSync)));
    bench.ack(second).ack(third);
    assert_eq!(bench.answer(2), Some(Ok(())));
    bench.vote();
    assert!(bench.machine.status().legs[0].in_sync);
    assert_eq!(suspend_whole(&mut bench), Some(Ok(())));
    let told = |e: &Effect| matches!(e, Effect::Post { message: Message::Outdate, .. });
    assert!(bench.out.iter().any(told), "{:?}", bench.out);
    let status = &bench.machine.status().legs[0];
    assert_eq!((status.state, status.left_whole), (SessionState::Suspended, Some(true)));
    assert_eq!(status.policy.mode, Mode::Consistency, "resumed, it follows behind again");
    assert!(!status.draining);
}

#[test]
fn rec_17_a_mirror_that_is_not_brought_to_the_present_in_time_follows_behind_again() {
    let mut bench = behind(Split::Automatic);
    drain(&mut bench, 1_000);
    bench.change(2, at(2, 1)).applied(2);
    assert_eq!(bench.answer(2), None);
    bench.apply(Event::Tick { now_ms: 900 });
    assert!(bench.machine.status().legs[0].draining);
    bench.apply(Event::Tick { now_ms: 1_100 }).record();
    assert!(!bench.machine.status().legs[0].draining);
    assert_eq!(bench.answer(2), Some(Ok(())), "nobody waits for it any more");
    assert_eq!(suspend_whole(&mut bench), Some(Err(Refusal::NotInSync)));
    assert_eq!(bench.machine.status().legs[0].state, SessionState::Active);
}

#[test]
fn a_drain_is_not_recorded() {
    let mut bench = behind(Split::Automatic);
    let before = bench.leg_record();
    drain(&mut bench, 10_000);
    assert_eq!(bench.leg_record(), before);
}

/// A policy that refuses writes without a mirror is one of mode `sync`.
#[test]
fn rec_19_hosts_go_on_when_a_mirror_is_lost_on_its_way_to_the_present() {
    let mut bench = behind(Split::Manual);
    drain(&mut bench, 10_000);
    let second = bench.sent(1).unwrap();
    bench.ack(second).vote();
    assert!(bench.machine.status().legs[0].in_sync);
    bench.lose().record();
    bench.take();
    bench.change(2, at(2, 1)).record().applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())));
    assert!(!bench.machine.status().legs[0].draining);
}

#[test]
fn rec_08_a_forced_suspension_is_as_it_is_and_knows_what_is_missing() {
    let mut bench = behind(Split::Automatic);
    bench.apply(Event::Command(Command::Suspend { leg: leg() })).record();
    let status = &bench.machine.status().legs[0];
    assert_eq!((status.state, status.left_whole), (SessionState::Suspended, Some(false)));
    assert!(status.sessions[0].out_of_sync_bytes >= 4096);
}

/// Its copies run by hand or by the clock; there is one more before it is suspended.
#[test]
fn rec_16_a_mirror_between_two_transfers_is_called_before_it_is_suspended() {
    let mut bench = Bench::primary();
    bench.add_leg(Policy { mode: Mode::Stack, ..Policy::default() }).connect(None);
    bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new()] });
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record();
    bench.change(1, at(1, 1)).record().applied(1);
    bench.take();
    drain(&mut bench, 10_000);
    let calls = |effect: &Effect| matches!(effect, Effect::Dial { .. });
    assert!(bench.out.iter().any(calls), "{:?}", bench.out);
    let answered = |effect: &Effect| matches!(effect, Effect::Answered(Ok(())));
    assert!(bench.out.iter().any(answered), "{:?}", bench.out);
}
