//! Modes and kept points by event lists: what comes before what.

use super::*;
use crate::machine::JournalLimits;
use crate::{Mode, OnSlow};

fn policy(mode: Mode) -> Policy {
    Policy { mode, ..Policy::default() }
}

/// A leg that follows behind, with its first cut kept.
pub(super) fn following() -> Bench {
    let mut bench = Bench::primary();
    mirror_empty(&mut bench, policy(Mode::Consistency));
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record();
    bench.take();
    // A first change warms the activity log.
    bench.change(0, at(0, 1)).record().applied(0);
    bench.take();
    bench
}

/// A mirror is connected, and nothing has to be copied to it.
fn mirror_empty(bench: &mut Bench, policy: Policy) {
    bench.add_leg(policy).connect(None);
    bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new()] });
}

/// The newest cut that was sent.
pub(super) fn cut(bench: &Bench) -> Option<Seq> {
    bench.out.iter().rev().find_map(|effect| match effect {
        Effect::Post { message: Message::Cut { seq, .. }, .. } => Some(*seq),
        _ => None,
    })
}

fn set(bench: &mut Bench, policy: Policy) {
    bench.apply(Event::Command(Command::SetPolicy { leg: leg(), policy }));
}

#[test]
fn consistency_answers_a_write_that_the_mirror_has_not_acknowledged() {
    let mut bench = following();
    bench.change(1, at(1, 1)).applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
    let first = bench.sent(1).unwrap();
    // Nor does an overlapping one wait; it comes behind the first.
    bench.change(2, at(1, 1)).applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())));
    assert!(bench.sent(2).is_some_and(|second| second > first));
    assert_eq!(bench.machine.status().counters.unprotected_writes, 0);
}

#[test]
fn a_cut_lies_behind_what_was_launched_before_it_and_ends_what_it_covers() {
    let mut bench = following();
    bench.change(1, at(1, 1)).applied(1);
    bench.apply(Event::Tick { now_ms: 2_000 });
    let seq = cut(&bench).unwrap();
    assert!(seq > bench.sent(1).unwrap());
    bench.take();
    bench.change(2, at(2, 1)).applied(2);
    assert_eq!(cut(&bench), None, "the next one is due a second later");
    let lag = |bench: &Bench| bench.machine.status().legs[0].lag_ms;
    assert!(lag(&bench).is_some_and(|lag| lag >= 1), "what is missing has an age");
    bench.heard(Message::CutApplied { seq }).lose();
    // Blocks 0 and 1 are in the cut, durably; block 2 is not known to be there (rule 4).
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 4096);
}

/// A host that is quiet for an hour and writes again is not an hour of writes behind.
#[test]
fn the_lag_is_the_age_of_the_oldest_change_that_is_missing_and_not_of_the_last_cut() {
    let mut bench = following();
    let lag = |bench: &Bench| bench.machine.status().legs[0].lag_ms;
    let cut_applied = |bench: &mut Bench, now_ms| {
        bench.apply(Event::Tick { now_ms });
        let seq = cut(bench).expect("a cut is due");
        bench.heard(Message::CutApplied { seq }).take();
    };
    bench.change(1, at(1, 1)).applied(1);
    let sent = bench.sent(1).expect("it goes to the mirror");
    bench.ack(sent);
    cut_applied(&mut bench, 2_000);
    assert_eq!(lag(&bench), Some(0));
    bench.apply(Event::Tick { now_ms: 3_600_000 }).record();
    bench.take();
    assert_eq!(lag(&bench), Some(0), "nothing was changed since");
    bench.change(2, at(2, 1)).record().applied(2);
    assert_eq!(lag(&bench), Some(1));
    bench.apply(Event::Tick { now_ms: 3_600_400 });
    let first = cut(&bench).expect("a cut is due");
    bench.change(3, at(3, 1)).applied(3);
    bench.apply(Event::Tick { now_ms: 3_601_000 });
    assert_eq!(lag(&bench), Some(1_000), "what the cut on its way covers is missing as well");
    bench.heard(Message::CutApplied { seq: first });
    assert_eq!(lag(&bench), Some(600), "what came behind it still is");
}

#[test]
fn a_write_that_failed_here_stays_dirty_whatever_the_mirror_acknowledges() {
    let mut bench = following();
    bench.change(1, at(1, 1)).applied(1);
    let before = bench.sent(1).unwrap();
    bench.change(2, at(1, 1));
    let failed = bench.sent(2).unwrap();
    bench.apply(Event::Applied { write: WriteId::new(2), result: Err(IoError::NoSpace) });
    assert_eq!(bench.answer(2), Some(Err(IoError::NoSpace)));
    bench.ack(before).ack(failed);
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 4096);
}

#[test]
fn rule_1_a_leg_steps_down_durably_before_anything_is_acknowledged_without_it() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1)).applied(1);
    set(&mut bench, policy(Mode::Consistency));
    // A cut of a history that is not recorded would be ahead of this copy after a restart (rule 9).
    assert!(cut(&bench).is_none());
    assert!(!bench.leg_record().in_sync);
    // Neither what flew before nor what comes now is answered before that is recorded.
    bench.change(2, at(2, 1));
    assert_eq!((bench.answer(1), bench.answer(2)), (None, None));
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    let place = |of: &dyn Fn(&Effect) -> bool| bench.out.iter().position(of);
    let told = place(&|e| matches!(e, Effect::Post { message: Message::Cut { .. }, .. }));
    let answered = place(&|e| matches!(e, Effect::Answer { .. }));
    assert!(told.is_some() && told < answered, "the mirror is told first: {:?}", bench.out);
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Answered(Ok(())))));
}

#[test]
fn rule_1_a_leg_that_is_lost_while_it_steps_down_is_waited_for_until_that_is_recorded() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1)).applied(1);
    set(&mut bench, policy(Mode::Consistency));
    bench.lose();
    assert_eq!(bench.answer(1), None);
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].state, SessionState::Halted);
}

#[test]
fn rule_12_degrade_goes_on_without_the_mirror_and_keeps_its_link() {
    let policy = Policy { on_slow: OnSlow::Degrade, ack_deadline_ms: 1_000, ..Policy::default() };
    let mut bench = Bench::in_sync(policy);
    bench.change(1, at(1, 1)).applied(1);
    bench.apply(Event::Tick { now_ms: 1_100 });
    assert_eq!(bench.answer(1), None, "the record comes first (rule 1)");
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    let status = bench.machine.status();
    assert!(status.legs[0].degraded);
    assert_eq!(status.legs[0].state, SessionState::Active);
    assert_eq!(status.counters.unprotected_writes, 1);
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Hang { .. })));
}

/// Back among those that count it would hold up the next flush as well.
#[test]
fn rule_12_a_mirror_that_did_not_sync_in_time_follows_behind_until_it_does() {
    let policy = Policy { on_slow: OnSlow::Degrade, ack_deadline_ms: 1_000, ..Policy::default() };
    let mut bench = Bench::in_sync(policy);
    bench.flush_here(1);
    let flush = bench.flush_seq().expect("the mirror is flushed");
    bench.apply(Event::Tick { now_ms: 1_100 });
    assert_eq!(bench.answer(1), None, "the record comes first (rule 1)");
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    let seq = cut(&bench).expect("the mirror is told at once");
    bench.heard(Message::CutApplied { seq }).record();
    let is_degraded = |bench: &Bench| bench.machine.status().legs[0].degraded;
    for now_ms in [2_000, 20_000, 40_000] {
        bench.apply(Event::Tick { now_ms }).record();
        assert!(is_degraded(&bench));
    }
    bench.heard(Message::Durable { seq: flush });
    bench.apply(Event::Tick { now_ms: 41_000 }).record();
    assert!(is_degraded(&bench), "it kept up for a moment only");
    bench.apply(Event::Tick { now_ms: 51_000 }).record();
    assert!(!is_degraded(&bench));
}

/// What is remembered of a mirror that keeps no cut of what it acknowledges has an end (rule 4).
#[test]
fn a_mirror_that_acknowledges_and_keeps_no_cut_is_halted_before_memory_is_full() {
    let mut bench = Bench::primary();
    let limits = JournalLimits { memory_bytes: 8192, spill_bytes: 1 << 30 };
    bench.machine.set_journal(limits);
    mirror_empty(&mut bench, policy(Mode::Consistency));
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record().take();
    for write in 1..=400 {
        bench.change(write, at(write, 1)).record().applied(write);
        assert_eq!(bench.answer(write), Some(Ok(())));
        if let Some(sent) = bench.sent(write) {
            bench.ack(sent);
        }
        bench.take();
    }
    let leg = &bench.machine.status().legs[0];
    assert_eq!((leg.state, &leg.cause), (SessionState::Halted, &Some(Cause::JournalFull)));
    assert_eq!(leg.sessions[0].out_of_sync_bytes, 400 * 4096, "nothing is forgotten");
}

#[test]
fn a_full_journal_halts_the_leg_and_answers_the_host() {
    let mut bench = following();
    bench.machine.set_journal(JournalLimits { memory_bytes: 8192, spill_bytes: 0 });
    for write in 1..4 {
        bench.change(write, at(write, 1)).applied(write);
        assert_eq!(bench.answer(write), Some(Ok(())));
    }
    let status = bench.machine.status();
    assert_eq!(status.legs[0].state, SessionState::Halted);
    assert_eq!(status.legs[0].cause, Some(Cause::JournalFull));
    assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, 4 * 4096);
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Dial { .. })));
    // It is called again after a pause.
    bench.apply(Event::Tick { now_ms: 4_000 });
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Dial { .. })));
    bench.apply(Event::Tick { now_ms: 6_000 });
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Dial { .. })));
}

#[test]
fn a_mirror_of_an_older_release_is_refused_other_modes_by_name() {
    let mut bench = Bench::primary();
    bench.add_leg(policy(Mode::Stack));
    bench.apply(Event::LinkVersion { leg: leg(), version: 1 });
    let opened = Opened {
        quality: Quality::Blank,
        generation: None,
        ancestors: Vec::new(),
        differences_known: true,
    };
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::Connected { leg: leg(), opening });
    let status = bench.machine.status();
    assert_eq!(status.legs[0].state, SessionState::Error);
    assert_eq!(status.legs[0].cause, Some(Cause::PeerTooOld { version: 1, needs: 2 }));
}

#[test]
fn a_waiting_primary_does_not_go_on_alone_because_its_mode_is_changed() {
    let bench = Bench::in_sync(Policy::default());
    let (_, bytes) = bench.machine.group_record();
    let record = GroupRecord::decode(&bytes.unwrap()).unwrap();
    let mut bench = Bench::restored(record, restored(false, &[0]), |_, _| DirtyMap::default());
    bench.take();
    set(&mut bench, policy(Mode::Consistency));
    assert!(
        bench
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::Answered(Err(Refusal::NotConnected))))
    );
    assert_eq!(bench.machine.status().serving, Serving::WaitingForMirror);
}

pub(super) fn open_by_east() -> Event {
    let open = open_at(5, Generation::of(1), Vec::new());
    Event::Opened { open: Box::new(open), site: "east".to_owned(), gateway: GatewayId::of(8) }
}

fn open_at(epoch: u64, generation: Generation, ancestors: Vec<Generation>) -> Open {
    Open {
        group: GROUP,
        name: "orders".to_owned(),
        epoch: Epoch::new(epoch),
        generation,
        ancestors,
        volumes: vec![VolumeOffer {
            volume: VOLUME,
            session: SessionId::of(9),
            name: "orders".to_owned(),
            bytes: 64 << 20,
        }],
        discard: false,
        relayed: false,
        heir_of: None,
    }
}

/// A mirror that follows its primary, in sync.
pub(super) fn mirror_in_sync() -> Bench {
    let mut bench = Bench::mirror();
    bench.apply(open_by_east()).record();
    let message = Message::Promote { generation: Generation::of(1), ancestors: Vec::new() };
    bench.apply(Event::Told { message }).record();
    assert_eq!(bench.machine.status().quality, Quality::InSync);
    bench.take();
    bench
}

pub(super) fn incoming(bench: &mut Bench, write: u64, resync: bool) {
    bench.apply(Event::Incoming {
        write: WriteId::new(write),
        seq: Seq::new(write),
        volume: 0,
        extent: at(write, 1),
        resync,
    });
}

fn is_applied(bench: &Bench, write: u64) -> bool {
    bench.out.iter().any(|effect| matches!(effect, Effect::Apply { write: w } if w.get() == write))
}

#[test]
fn rule_8_a_change_out_of_order_waits_for_the_snapshot_and_its_record() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, true);
    let asked = bench.out.iter().any(|effect| matches!(effect, Effect::Snapshot { .. }));
    assert!(asked && !is_applied(&bench, 1));
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 }));
    assert!(!is_applied(&bench, 1), "it is not recorded yet");
    bench.record();
    assert!(is_applied(&bench, 1));
    let kept = bench.machine.status().kept.unwrap();
    assert_eq!((kept.quality, kept.unix_ms), (Quality::InSync, 7));
    assert_eq!(bench.machine.status().quality, Quality::Inconsistent);
}

/// A volume that was taken with what it holds, and whose primary has opened it.
fn foreign() -> Bench {
    let (_, record) =
        super::super::found(GROUP, "orders", vec![VOLUME], None, (Quality::Inconsistent, true));
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let mut bench = Bench::restored(record, restored(true, &[]), |_, _| DirtyMap::default());
    bench.apply(open_by_east()).record().take();
    bench
}

#[test]
fn rule_10_what_a_copy_holds_of_its_own_is_kept_before_the_first_change_and_counted() {
    let mut bench = foreign();
    incoming(&mut bench, 1, true);
    let asked = bench.out.iter().any(|effect| matches!(effect, Effect::Snapshot { .. }));
    assert!(asked && !is_applied(&bench, 1));
    assert!(bench.machine.status().is_foreign);
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 40_960 }));
    assert!(!is_applied(&bench, 1), "it is not recorded yet");
    bench.record();
    assert!(is_applied(&bench, 1));
    let status = bench.machine.status();
    assert!(!status.is_foreign);
    assert_eq!(status.discarded[0].bytes, 40_960, "not more than all of it can be overwritten");
    assert_eq!(status.kept, None, "it is no point of the group's history");
    // It is kept once, and counted until the copy is one of the group's points in time.
    bench.applied(1);
    bench.take();
    incoming(&mut bench, 2, false);
    assert!(is_applied(&bench, 2));
    bench.applied(2);
    let message = Message::Promote { generation: Generation::of(1), ancestors: Vec::new() };
    bench.apply(Event::Told { message }).record();
    assert_eq!(bench.machine.status().discarded[0].bytes, 2 * 4096);
    assert!(bench.out.iter().all(|e| !matches!(e, Effect::RemoveSnapshots { .. })));
}

#[test]
fn rule_10_a_copy_that_was_equal_is_kept_nowhere() {
    let mut bench = foreign();
    let message = Message::Promote { generation: Generation::of(1), ancestors: Vec::new() };
    bench.apply(Event::Told { message }).record();
    let status = bench.machine.status();
    assert!(!status.is_foreign && status.discarded.is_empty());
    // It is a mirror as any other.
    bench.take();
    incoming(&mut bench, 1, false);
    bench.record();
    assert!(is_applied(&bench, 1));
}

#[test]
fn rule_10_where_nothing_can_be_kept_nothing_is_overwritten_and_the_difference_is_named() {
    let mut bench = foreign();
    incoming(&mut bench, 5, true);
    let result = Err(IoError::Unsupported);
    bench.apply(Event::Snapshotted(result, Taken::default())).record();
    assert!(!is_applied(&bench, 5));
    let why = bench.out.iter().find_map(|effect| match effect {
        Effect::HangUpstream { goodbye: Some(Goodbye::Refused(why)) } => Some(why.clone()),
        _ => None,
    });
    let why = why.expect("the primary is told");
    assert!(why.contains("orders") && why.contains("from byte 20480 on"), "{why}");
    assert!(bench.machine.status().is_foreign, "it is what it was");
}

#[test]
fn rule_8_a_cut_waits_for_what_came_before_it_and_what_comes_after_is_not_in_it() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, false);
    bench.record();
    assert!(is_applied(&bench, 1));
    let cut = |bench: &mut Bench, seq| {
        let (generation, ancestors) = (Generation::of(1), Vec::new());
        let message = Message::Cut { seq: Seq::new(seq), generation, ancestors };
        bench.apply(Event::Told { message });
    };
    cut(&mut bench, 2);
    incoming(&mut bench, 3, false);
    let snapshots = |bench: &Bench| {
        bench.out.iter().filter(|effect| matches!(effect, Effect::Snapshot { .. })).count()
    };
    assert_eq!(snapshots(&bench), 0, "a change before it is under way");
    assert!(!is_applied(&bench, 3));
    bench.applied(1);
    assert_eq!(snapshots(&bench), 1);
    let place = |is: fn(&Effect) -> bool| bench.out.iter().position(is).unwrap();
    let (taken, applied) = (
        place(|effect| matches!(effect, Effect::Snapshot { .. })),
        place(|effect| matches!(effect, Effect::Apply { write } if write.get() == 3)),
    );
    assert!(taken < applied, "the stream goes on behind the snapshots, before they are durable");
    // The next cut waits until this one is recorded, and so does what comes behind it.
    cut(&mut bench, 4);
    incoming(&mut bench, 5, false);
    bench.applied(3);
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 }));
    let told = |bench: &Bench, cut: u64| {
        bench.out.iter().any(|effect| {
            matches!(effect, Effect::Reply { message: Message::CutApplied { seq } } if seq.get() == cut)
        })
    };
    assert!(!told(&bench, 2) && !is_applied(&bench, 5), "the record comes first");
    assert_eq!(snapshots(&bench), 1);
    bench.record();
    assert!(told(&bench, 2) && is_applied(&bench, 5) && !told(&bench, 4));
    assert_eq!((snapshots(&bench), bench.machine.status().quality), (2, Quality::Consistent));
}

#[test]
fn rule_8_a_change_out_of_order_waits_for_the_cut_that_is_being_kept() {
    let mut bench = mirror_in_sync();
    let (generation, ancestors) = (Generation::of(1), Vec::new());
    let message = Message::Cut { seq: Seq::new(2), generation, ancestors };
    bench.apply(Event::Told { message });
    incoming(&mut bench, 3, true);
    incoming(&mut bench, 4, false);
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 }));
    assert!(!is_applied(&bench, 3) && !is_applied(&bench, 4), "the cut is not recorded yet");
    bench.record();
    assert!(is_applied(&bench, 3) && is_applied(&bench, 4));
    let status = bench.machine.status();
    assert_eq!(status.quality, Quality::Inconsistent);
    assert_eq!(status.kept.unwrap().unix_ms, 7, "the cut stays until there is another one");
}

#[test]
fn rule_8_what_is_copied_behind_the_first_cut_waits_until_the_copy_is_that_cut() {
    let mut bench = Bench::mirror();
    bench.apply(open_by_east()).record();
    incoming(&mut bench, 1, true);
    bench.record();
    bench.applied(1);
    assert_eq!(bench.machine.status().quality, Quality::Inconsistent);
    let (generation, ancestors) = (Generation::of(1), Vec::new());
    let message = Message::Cut { seq: Seq::new(2), generation, ancestors };
    bench.apply(Event::Told { message });
    incoming(&mut bench, 3, false);
    incoming(&mut bench, 4, true);
    assert!(is_applied(&bench, 3) && !is_applied(&bench, 4), "what is next in order goes on");
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 }));
    assert!(!is_applied(&bench, 4));
    bench.record();
    // What is out of order makes it half again, and that is recorded first.
    assert!(is_applied(&bench, 4));
    assert_eq!(bench.machine.status().quality, Quality::Inconsistent);
    assert_eq!(bench.machine.status().kept.unwrap().quality, Quality::Consistent);
}

#[test]
fn rule_8_what_the_way_back_changes_is_recorded_before_anything_is_rolled_back() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, true);
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 })).record();
    bench.applied(1);
    bench.apply(Event::UpstreamLost { orderly: false });
    let promote = |consent| Event::Command(Command::Promote { consent });
    bench.apply(promote(Consent::InSync));
    assert_eq!(bench.machine.status().role, Role::Secondary);
    bench.take();
    bench.apply(promote(Consent::Outdated));
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::ListChanged { .. })));
    let changed = vec![vec![block::BlockRange::new(1, 2)]];
    bench.take();
    bench.apply(Event::Changed { result: Ok(changed) });
    let rolls =
        |bench: &Bench| bench.out.iter().any(|effect| matches!(effect, Effect::RollBack { .. }));
    assert!(!rolls(&bench), "the intention comes first");
    bench.record();
    assert!(rolls(&bench));
    bench.apply(Event::RolledBack { result: Ok(()) }).record();
    let status = bench.machine.status();
    assert_eq!((status.role, status.quality), (Role::Primary, Quality::Source));
    assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, 4096, "the old primary has them");
    assert_eq!(status.kept, None);
}

/// A mirror that went back to its kept point and is the primary now.
fn went_back() -> Bench {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, true);
    bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 8192 })).record();
    bench.applied(1);
    bench.apply(Event::UpstreamLost { orderly: false });
    bench.apply(Event::Command(Command::Promote { consent: Consent::Outdated }));
    bench.apply(Event::Changed { result: Ok(vec![Vec::new()]) }).record();
    bench.apply(Event::RolledBack { result: Ok(()) }).record();
    assert_eq!(bench.machine.status().role, Role::Primary);
    bench.take();
    bench
}

/// The cause for which a mirror with the old primary's history is not brought up to date.
fn cause_with(mut bench: Bench, gateway: u128) -> Option<Cause> {
    let (gateway, site, sessions) =
        (GatewayId::of(gateway), "west".to_owned(), vec![SessionId::of(7)]);
    bench.apply(Event::Command(Command::AddLeg {
        gateway,
        site,
        sessions,
        policy: policy(Mode::Stack),
        holds_content: false,
    }));
    bench.record();
    let status = bench.machine.status();
    let leg = status.legs.iter().find(|leg| leg.gateway == gateway).unwrap().leg;
    let opened = Opened {
        quality: Quality::Outdated,
        generation: Some(Generation::of(1)),
        ancestors: Vec::new(),
        differences_known: true,
    };
    bench.apply(Event::LinkVersion { leg, version: block::CUTS_SINCE_VERSION });
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::Connected { leg, opening });
    let status = bench.machine.status();
    status.legs.iter().find(|found| found.leg == leg).unwrap().cause.clone()
}

/// The simulator lost 1206 acknowledged writes like this: a mirror of mode `stack` was promoted at
/// its last transfer, an operator removed the session to the old primary and mirrored to it anew.
/// With the session went the knowledge that the old primary had more, its history was one of ours,
/// and it was overwritten without a word.
#[test]
fn rule_10_an_old_primary_whose_session_was_removed_is_overwritten_only_with_a_word() {
    let mut bench = went_back();
    bench.apply(Event::Command(Command::RemoveLeg { leg: leg() })).record().record();
    assert!(bench.machine.status().legs.is_empty());
    assert!(matches!(cause_with(bench, 8), Some(Cause::Refused(_) | Cause::SplitBrain { .. })));
}

/// A third site that followed the old primary may hold what was given up as well.
#[test]
fn rule_10_a_third_site_with_the_old_history_is_overwritten_only_with_a_word() {
    assert!(matches!(cause_with(went_back(), 9), Some(Cause::SplitBrain { .. })));
}

/// And once the word was given, what it holds is kept: it noted down nothing for this primary, so
/// nobody knows what of it that one gave up.
#[test]
fn rule_10_what_a_third_site_with_the_old_history_holds_is_kept_before_it_is_overwritten() {
    for (discard, gateway, kept) in [(true, 7, true), (false, 7, false), (true, 8, false)] {
        let mut bench = mirror_in_sync();
        let open = open_at(6, Generation::of(2), vec![Generation::of(1)]);
        let open = Box::new(Open { discard, ..open });
        let gateway = GatewayId::of(gateway);
        bench.apply(Event::Opened { open, site: "north".to_owned(), gateway }).record();
        incoming(&mut bench, 1, true);
        assert!(!is_applied(&bench, 1), "the point before it is kept in any case");
        bench.apply(Event::Snapshotted(Ok(()), Taken { unix_ms: 7, mapped_bytes: 40_960 }));
        bench.record();
        assert!(is_applied(&bench, 1));
        let discarded: Vec<u64> =
            bench.machine.status().discarded.iter().map(|held| held.bytes).collect();
        let all: &[u64] = if kept { &[40_960] } else { &[] };
        assert_eq!(discarded, all, "{discard} {gateway}");
    }
}

/// The simulator lost 2155 acknowledged writes like this: the session to a mirror of mode `stack` was
/// removed, the primary went on in the same history without keeping track, and the mirror was
/// promoted at its last transfer. The old primary looked like one that was only behind.
#[test]
fn rule_10_a_primary_that_forgets_a_mirror_behind_it_goes_on_in_a_history_of_its_own() {
    let mut bench = following();
    let shared = bench.machine.status().generation;
    bench.apply(Event::Command(Command::RemoveLeg { leg: leg() })).record().record();
    assert!(bench.machine.status().legs.is_empty());
    assert_ne!(bench.machine.status().generation, shared);
}

/// The same, when the old primary says that it does not know in what it differs.
#[test]
fn rule_10_an_old_primary_that_does_not_know_what_it_has_is_overwritten_only_with_a_word() {
    let mut bench = went_back();
    bench.apply(Event::Command(Command::Resume { leg: leg(), discard: false })).record();
    let opened = Opened {
        quality: Quality::Outdated,
        generation: Some(Generation::of(1)),
        ancestors: Vec::new(),
        differences_known: false,
    };
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::LinkVersion { leg: leg(), version: block::CUTS_SINCE_VERSION });
    bench.apply(Event::Connected { leg: leg(), opening });
    let cause = bench.machine.status().legs[0].cause.clone();
    assert!(matches!(cause, Some(Cause::SplitBrain { .. })), "{cause:?}");
}

/// The simulator waited for minutes for a rested mirror that was said to be connecting: its journal
/// had overflowed before, and the pause after that was still remembered.
#[test]
fn a_mirror_that_was_resumed_in_its_pause_and_rests_is_not_said_to_be_connecting() {
    let mut bench = following();
    bench.machine.set_journal(JournalLimits { memory_bytes: 8192, spill_bytes: 0 });
    for write in 1..4 {
        bench.change(write, at(write, 1)).applied(write);
    }
    let link = |bench: &Bench| bench.machine.status().legs[0].link;
    assert_eq!(link(&bench), crate::status::LinkState::Connecting);
    bench.apply(Event::Command(Command::Suspend { leg: leg() })).record();
    assert_eq!(link(&bench), crate::status::LinkState::Off);
    bench.take();
    bench.apply(Event::Command(Command::Resume { leg: leg(), discard: false })).record();
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Dial { .. })));
    bench.take();
    bench.apply(Event::Tick { now_ms: 9_000 });
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Dial { .. })));
}

/// The simulator waited for minutes for a transfer that never ended: a copy was under way when the
/// one before it was done, and kept its place (and could have kept its range from hosts).
#[test]
fn rule_2_a_copy_that_is_under_way_when_a_transfer_is_done_keeps_no_range_from_hosts() {
    let mut bench = Bench::primary();
    let stack = Policy { transfer_every_s: 1, ..policy(Mode::Stack) };
    mirror_empty(&mut bench, stack);
    bench.change(1, at(1, 1)).record();
    let seq = cut(&bench).expect("a first cut is due at once");
    // What the mirror may have and this copy has not is copied from here.
    bench.apply(Event::Applied { write: WriteId::new(1), result: Err(IoError::NoSpace) });
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Copy { .. })));
    bench.heard(Message::CutApplied { seq }).record();
    let done = |effect: &Effect| matches!(effect, Effect::Note(Note::Transferred { .. }));
    assert!(bench.out.iter().any(done), "{:?}", bench.out);
    bench.change(2, at(1, 1)).record().applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())));
}

#[test]
fn a_transfer_that_falls_due_while_the_group_grows_waits_for_that() {
    let mut bench = Bench::primary();
    let stack = Policy { transfer_every_s: 1, ..policy(Mode::Stack) };
    mirror_empty(&mut bench, stack);
    bench.record();
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record();
    bench.change(1, at(1, 1)).record().applied(1);
    let bytes = 128 << 20;
    bench.apply(Event::Command(Command::Grow { volume: VOLUME, bytes })).take();
    let dials = |bench: &Bench| bench.out.iter().any(|e| matches!(e, Effect::Dial { .. }));
    bench.apply(Event::Tick { now_ms: 9_000 });
    assert!(!dials(&bench), "it would be opened with the old size");
    bench.apply(Event::Grown { volume: 0, result: Ok(bytes) }).record();
    bench.apply(Event::Tick { now_ms: 9_100 });
    assert!(dials(&bench));
}

/// A growth waited for a mirror whose transfer ended meanwhile, and every other command for the growth.
#[test]
fn a_growth_does_not_wait_for_a_mirror_that_rests() {
    let mut bench = Bench::primary();
    mirror_empty(&mut bench, policy(Mode::Stack));
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.apply(Event::Command(Command::Grow { volume: VOLUME, bytes: 128 << 20 }));
    let grows = |bench: &Bench| bench.out.iter().any(|e| matches!(e, Effect::GrowLocal { .. }));
    bench.heard(Message::CutApplied { seq }).record();
    let ended = |effect: &Effect| matches!(effect, Effect::Answered(Err(Refusal::Interrupted)));
    assert!(!grows(&bench) && bench.out.iter().any(ended), "{:?}", bench.out);
    bench.apply(Event::Command(Command::Grow { volume: VOLUME, bytes: 128 << 20 }));
    assert!(grows(&bench), "nobody is connected any more");
}

/// Found by the simulator: one change in flight held two others up, a host's and a copy. It ended,
/// the host's was let through and filled the send journal, the leg was lost with its copies, and then
/// the copy was let through.
#[test]
fn rule_2_a_copy_whose_leg_is_lost_when_both_were_let_through_gives_its_range_back() {
    let mut bench = Bench::primary();
    bench.machine.set_journal(JournalLimits { memory_bytes: 100 << 10, spill_bytes: 0 });
    mirror_empty(&mut bench, policy(Mode::Consistency));
    bench.change(0, at(0, 1)).record().applied(0);
    let seq = bench.sent(0).unwrap();
    bench.ack(seq);
    let seq = cut(&bench).expect("a first cut is due at once");
    bench.heard(Message::CutApplied { seq }).record().take();
    // Both wait for the first one, whose block is to be copied when it failed.
    bench.change(1, at(6, 1)).change(2, at(0, 8)).change(3, at(7, 40));
    bench.apply(Event::Applied { write: WriteId::new(1), result: Err(IoError::NoSpace) });
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Copy { .. })));
    assert!(is_applied(&bench, 2) && !is_applied(&bench, 3));
    bench.applied(2);
    let leg = &bench.machine.status().legs[0];
    assert_eq!(leg.cause, Some(Cause::JournalFull));
    // Nobody holds the block of the copy.
    bench.record().take();
    bench.change(4, at(6, 1)).record();
    assert!(is_applied(&bench, 4));
}

/// Found by the simulator: a slow disk applied a change of the primary after hosts had begun to read.
#[test]
fn rec_06_a_copy_is_opened_to_hosts_when_nothing_of_the_primary_is_under_way() {
    let mut bench = mirror_in_sync();
    incoming(&mut bench, 1, false);
    bench.record();
    assert!(is_applied(&bench, 1));
    bench.apply(Event::Told { message: Message::Outdate }).record();
    let goodbye = Message::Goodbye(Goodbye::Suspended);
    bench.apply(Event::Told { message: goodbye }).record();
    bench.apply(Event::Command(Command::Detach)).record();
    let answered = |bench: &Bench| bench.out.iter().any(|e| matches!(e, Effect::Answered(Ok(()))));
    assert!(!bench.machine.is_serving() && !answered(&bench));
    bench.applied(1);
    assert!(bench.machine.is_serving() && answered(&bench));
}

/// Found by the simulator (seed 16935): a session that is in no in-sync set was suspended while its
/// gateway stopped; its link meant nothing any more, and the record that it had left was believed.
#[test]
fn a_gateway_that_stops_takes_no_commands() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::Closing);
    bench.take();
    bench.apply(Event::Command(Command::Suspend { leg: leg() })).record();
    let refused = Err(Refusal::Io(IoError::ShuttingDown));
    let answered = bench
        .out
        .iter()
        .any(|effect| matches!(effect, Effect::Answered(result) if *result == refused));
    assert!(answered, "{:?}", bench.out);
    assert!(bench.leg_record().in_sync, "nothing was changed");
}
