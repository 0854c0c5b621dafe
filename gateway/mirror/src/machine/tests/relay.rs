//! A mirror as a source by event lists: what is sent from where, and what nobody waits for.

use super::*;
use crate::Mode;
use crate::machine::{PointListing, Taken};
use block::BlockRange;

const EAST: GatewayId = GatewayId::of(1);
const TAKEN: Taken = Taken { unix_ms: 7, mapped_bytes: 0 };

fn policy() -> Policy {
    Policy { mode: Mode::Stack, transfer_every_s: 1, ..Policy::default() }
}

/// A mirror that is in sync with its primary.
fn in_sync_mirror() -> Bench {
    let mut bench = Bench::mirror();
    bench.apply(Event::Opened { open: opening(1, false), site: "east".to_owned(), gateway: EAST });
    bench.record();
    let (generation, ancestors) = (Generation::of(1), Vec::new());
    bench.apply(Event::Told { message: Message::Promote { generation, ancestors } }).record();
    assert_eq!(bench.machine.status().quality, Quality::InSync);
    bench.take();
    bench
}

fn opening(epoch: u64, relayed: bool) -> Box<Open> {
    Box::new(Open {
        group: GROUP,
        name: "orders".to_owned(),
        epoch: Epoch::new(epoch),
        generation: Generation::of(1),
        ancestors: Vec::new(),
        volumes: vec![VolumeOffer {
            volume: VOLUME,
            session: SessionId::of(8),
            name: "orders".to_owned(),
            bytes: 64 << 20,
        }],
        discard: false,
        relayed,
        heir_of: None,
    })
}

fn incoming(bench: &mut Bench, write: u64, extent: Extent) {
    bench.apply(Event::Incoming {
        write: WriteId::new(write),
        seq: Seq::new(write),
        volume: 0,
        extent,
        resync: false,
    });
}

/// The flush before the point is answered, and the snapshots that are taken of it.
fn point(bench: &mut Bench) {
    let round = bench.out.iter().find_map(|effect| match effect {
        Effect::FlushLocal { round, .. } => Some(*round),
        _ => None,
    });
    bench.apply(Event::Flushed { round: round.expect("it is durable first"), result: Ok(()) });
}

fn has(bench: &Bench, what: impl Fn(&Effect) -> bool) -> bool {
    bench.out.iter().any(what)
}

fn cut(bench: &Bench) -> Option<Seq> {
    bench.out.iter().rev().find_map(|effect| match effect {
        Effect::Post { message: Message::Cut { seq, .. }, .. } => Some(*seq),
        _ => None,
    })
}

fn copies(bench: &Bench) -> Vec<(Seq, Extent)> {
    let copy = |effect: &Effect| match effect {
        Effect::Copy { seq, extent, .. } => Some((*seq, *extent)),
        _ => None,
    };
    bench.out.iter().filter_map(copy).collect()
}

fn list(bench: &mut Bench, mapped: Vec<BlockRange>, changed: Vec<BlockRange>) {
    let listing =
        PointListing { bytes: vec![64 << 20], mapped: vec![mapped], changed: vec![changed] };
    bench.apply(Event::PointListed { leg: leg(), result: Box::new(Ok(listing)) });
}

/// A relay whose first point is being sent, of one block.
fn sending() -> Bench {
    let mut bench = in_sync_mirror();
    bench.add_leg(policy());
    assert!(has(&bench, |effect| matches!(effect, Effect::Dial { .. })));
    bench.connect(None);
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    assert!(has(&bench, |effect| matches!(effect, Effect::ListPoint { whole: true, .. })));
    list(&mut bench, vec![BlockRange::new(0, 1)], Vec::new());
    bench.record();
    bench
}

#[test]
fn rec_27_the_stream_waits_for_the_snapshot_alone_and_goes_on_when_it_failed() {
    for result in [Ok(()), Err(IoError::NoSpace)] {
        let mut bench = in_sync_mirror();
        bench.add_leg(policy()).connect(None);
        incoming(&mut bench, 1, at(1, 1));
        bench.record();
        assert!(has(&bench, |effect| matches!(effect, Effect::Apply { .. })), "it flushes first");
        bench.applied(1);
        point(&mut bench);
        assert!(has(&bench, |effect| matches!(effect, Effect::Snapshot { .. })));
        bench.take();
        incoming(&mut bench, 2, at(2, 1));
        assert!(!has(&bench, |effect| matches!(effect, Effect::Apply { .. })));
        bench.apply(Event::Snapshotted(result, TAKEN));
        assert!(has(&bench, |effect| matches!(effect, Effect::Apply { .. })));
        assert_eq!(bench.machine.status().quality, Quality::InSync, "it is what it was");
        assert!(!has(&bench, |effect| matches!(effect, Effect::HangUpstream { .. })));
    }
}

#[test]
fn rec_27_nothing_is_sent_before_what_may_differ_is_recorded() {
    let mut bench = in_sync_mirror();
    bench.add_leg(policy()).connect(None);
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    list(&mut bench, vec![BlockRange::new(0, 1)], Vec::new());
    assert!(copies(&bench).is_empty());
    bench.record();
    assert_eq!(copies(&bench).len(), 1);
}

#[test]
fn rec_27_a_cut_comes_behind_every_copy_and_leaves_what_was_changed_since_the_point() {
    let mut bench = sending();
    incoming(&mut bench, 1, at(5, 1));
    bench.record().applied(1);
    let (seq, extent) = copies(&bench)[0];
    assert_eq!(extent, at(0, 1));
    assert_eq!(cut(&bench), None);
    bench.ack(seq);
    let seq = cut(&bench).expect("everything of the point is there");
    bench.heard(Message::CutApplied { seq }).record();
    let leg = bench.machine.status().legs[0].clone();
    assert_eq!(leg.sessions[0].out_of_sync_bytes, 4096, "block 5 came after the point");
    assert_eq!(leg.phase, Phase::Tracking);
    assert!(has(&bench, |effect| matches!(effect, Effect::Hang { redial: false, .. })));
}

#[test]
fn rule_1_the_primary_is_acknowledged_whatever_becomes_of_the_relay() {
    let mut bench = sending();
    incoming(&mut bench, 1, at(5, 1));
    bench.record().applied(1);
    assert!(has(&bench, |effect| matches!(effect, Effect::Acknowledge { .. })));
    bench.heard(Message::Failed { seq: Seq::new(1), error: IoError::NoSpace });
    assert_eq!(bench.machine.status().legs[0].state, SessionState::Error);
    bench.take();
    incoming(&mut bench, 2, at(6, 1));
    bench.record().applied(2);
    assert!(has(&bench, |effect| matches!(effect, Effect::Acknowledge { .. })));
    assert!(!has(&bench, |effect| matches!(effect, Effect::HangUpstream { .. })));
}

#[test]
fn rule_6_an_epoch_that_is_heard_from_below_counts_for_the_primary() {
    let mut bench = sending();
    let epoch = Epoch::new(9);
    bench.take();
    bench.heard(Message::Goodbye(Goodbye::Fenced { epoch }));
    assert!(has(&bench, |effect| matches!(
        effect,
        Effect::HangUpstream { goodbye: Some(Goodbye::Fenced { epoch: told }) } if *told == epoch
    )));
    bench.record();
    assert_eq!(bench.machine.status().epoch, epoch);
    assert!(!has(&bench, |effect| matches!(effect, Effect::Dial { .. })), "an operator decides");
    bench.take();
    bench.apply(Event::Opened { open: opening(1, false), site: "east".to_owned(), gateway: EAST });
    assert!(has(&bench, |effect| matches!(
        effect,
        Effect::Refuse { goodbye: Goodbye::Fenced { .. } }
    )));
}

#[test]
fn rule_9_a_promotion_in_the_middle_of_a_transfer_lacks_what_was_sent_and_what_was_not() {
    let mut bench = sending();
    incoming(&mut bench, 1, at(5, 1));
    bench.record().applied(1);
    let (seq, _) = copies(&bench)[0];
    bench.ack(seq);
    let seq = cut(&bench).unwrap();
    bench.heard(Message::CutApplied { seq }).record();
    // A second transfer, of block 5; block 6 comes later.
    bench.take();
    bench.apply(Event::Tick { now_ms: 2_000 }).connect(Some(1));
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    assert!(has(&bench, |effect| matches!(effect, Effect::ListPoint { whole: false, .. })));
    list(&mut bench, Vec::new(), Vec::new());
    bench.record();
    assert_eq!(copies(&bench)[0].1, at(5, 1));
    incoming(&mut bench, 2, at(6, 1));
    bench.record().applied(2);
    bench.apply(Event::UpstreamLost { orderly: false });
    bench.apply(Event::Command(Command::Promote { consent: Consent::InSync }));
    assert!(has(&bench, |effect| matches!(effect, Effect::Hang { .. })));
    let lacks = bench.machine.lacking(WEST).unwrap();
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 2 * 4096, "{lacks:?}");
}

#[test]
fn rec_27_a_relay_is_the_source_of_no_copy_but_its_own() {
    let north = GatewayId::of(9);
    let mut bench = in_sync_mirror();
    bench.apply(Event::UpstreamLost { orderly: false });
    bench.apply(Event::Opened { open: opening(1, true), site: "north".to_owned(), gateway: north });
    assert!(has(&bench, |effect| matches!(
        effect,
        Effect::Refuse { goodbye: Goodbye::Refused(_) }
    )));
    assert_eq!(bench.machine.status().quality, Quality::InSync);
    // A primary is always let in.
    bench.take();
    bench.apply(Event::Opened {
        open: opening(1, false),
        site: "north".to_owned(),
        gateway: north,
    });
    bench.record();
    assert!(has(&bench, |effect| matches!(effect, Effect::Accept { .. })));
    // Nobody relays to a primary.
    let mut bench = Bench::primary();
    bench.apply(Event::Opened { open: opening(5, true), site: "north".to_owned(), gateway: north });
    assert!(has(&bench, |effect| matches!(
        effect,
        Effect::Refuse { goodbye: Goodbye::Refused(why) } if why.contains("that of a primary")
    )));
    assert!(matches!(bench.machine.status().serving, Serving::Fenced { .. }), "its epoch counts");
}

#[test]
fn rec_27_a_relay_keeps_to_its_limit() {
    let mut bench = in_sync_mirror();
    let bandwidth = crate::Bandwidth { usual: Some(128 << 10), ..crate::Bandwidth::default() };
    bench.add_leg(Policy { bandwidth, ..policy() }).connect(None);
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    list(&mut bench, vec![BlockRange::new(0, 256)], Vec::new());
    bench.record();
    assert!(copies(&bench).is_empty(), "nothing was saved up before it began");
    // 256 KiB are sent ahead, and paid for in the two seconds after.
    bench.apply(Event::Tick { now_ms: 1_000 });
    assert_eq!(copies(&bench).len(), 1);
    bench.take();
    bench.apply(Event::Tick { now_ms: 2_000 });
    assert!(copies(&bench).is_empty());
    bench.apply(Event::Tick { now_ms: 3_000 });
    assert_eq!(copies(&bench).len(), 1);
}

/// The relay's first point is kept there.
fn transferred() -> Bench {
    let mut bench = sending();
    let (seq, _) = copies(&bench)[0];
    bench.ack(seq);
    let seq = cut(&bench).expect("everything of the point is there");
    bench.heard(Message::CutApplied { seq }).record();
    bench.take();
    bench
}

/// The first change out of order: the point that the copy was at is kept.
fn half_again(bench: &mut Bench) {
    bench.apply(Event::Incoming {
        write: WriteId::new(1),
        seq: Seq::new(1),
        volume: 0,
        extent: at(1, 1),
        resync: true,
    });
    bench.apply(Event::Snapshotted(Ok(()), TAKEN)).record().applied(1);
    assert_eq!(bench.machine.status().quality, Quality::Inconsistent);
}

fn dials(bench: &Bench) -> bool {
    has(bench, |effect| matches!(effect, Effect::Dial { .. }))
}

/// A copy that an operator had opened to hosts is whole, but no point of the group's. While its primary
/// brought it back it was sent on, and the far end gave up its own point for it; from then on both
/// had a history that the primary did not know.
#[test]
fn rec_27_what_hosts_wrote_to_a_detached_copy_is_not_sent_on() {
    let mut bench = transferred();
    bench.apply(Event::Told { message: Message::Outdate }).record();
    bench.apply(Event::UpstreamLost { orderly: true });
    bench.apply(Event::Command(Command::Detach)).record();
    assert_eq!(bench.machine.status().serving, Serving::Detached);
    bench.change(5, at(9, 1)).record().applied(5).record();
    let open = Box::new(Open { discard: true, ..*opening(1, false) });
    bench.apply(Event::Opened { open, site: "east".to_owned(), gateway: EAST }).record();
    assert!(has(&bench, |effect| matches!(effect, Effect::Accept { .. })));
    bench.take();
    bench.apply(Event::Tick { now_ms: 60_000 });
    assert!(!dials(&bench), "it is whole, and it is not the primary's");
    // What hosts wrote is kept, as a point of this copy alone.
    half_again(&mut bench);
    assert!(bench.machine.status().kept.is_some());
    bench.apply(Event::Tick { now_ms: 70_000 });
    assert!(!dials(&bench), "nor is the point that is kept of it");
    let (generation, ancestors) = (Generation::of(1), Vec::new());
    bench.apply(Event::Told { message: Message::Promote { generation, ancestors } }).record();
    bench.apply(Event::Tick { now_ms: 80_000 });
    assert!(dials(&bench), "it is the primary's again");
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 2 * 4096);
}

/// The primary had mirrored to the far end itself for a time, and then was lost; the mirror that
/// went back to its kept point took what the far end had beyond that point for its own older one.
#[test]
fn rule_10_a_far_end_that_the_primary_opened_itself_is_overwritten_only_with_a_word() {
    for differences_known in [true, false] {
        let mut bench = transferred();
        half_again(&mut bench);
        bench.apply(Event::UpstreamLost { orderly: false });
        bench.apply(Event::Command(Command::Promote { consent: Consent::Outdated }));
        bench.apply(Event::Changed { result: Ok(vec![vec![BlockRange::new(1, 2)]]) }).record();
        bench.apply(Event::RolledBack { result: Ok(()) }).record();
        assert_eq!(bench.machine.status().role, Role::Primary);
        bench.take();
        bench.apply(Event::Command(Command::Transfer { leg: leg() })).record();
        assert!(dials(&bench));
        let opened = Opened {
            quality: Quality::Outdated,
            generation: Some(Generation::of(1)),
            ancestors: Vec::new(),
            differences_known,
        };
        let opening = Box::new(Opening { opened, differs: Vec::new() });
        bench.apply(Event::LinkVersion { leg: leg(), version: block::PROTOCOL_VERSION });
        bench.apply(Event::Connected { leg: leg(), opening });
        let far = bench.machine.status().legs[0].clone();
        let is_refused = matches!(far.cause, Some(Cause::SplitBrain { .. }));
        assert_eq!(is_refused, !differences_known, "{far:?}");
    }
}

/// While the stores went back to the kept point, the far end was called, opened and sent away again
/// and again, as fast as it answered.
#[test]
fn rec_27_a_relay_calls_nobody_while_its_copy_goes_back() {
    let mut bench = in_sync_mirror();
    half_again(&mut bench);
    bench.apply(Event::UpstreamLost { orderly: false });
    bench.add_leg(policy());
    bench.apply(Event::Command(Command::Promote { consent: Consent::Outdated }));
    bench.apply(Event::Changed { result: Ok(vec![vec![BlockRange::new(1, 2)]]) }).record();
    assert!(has(&bench, |effect| matches!(effect, Effect::RollBack { .. })));
    // It dies in the middle of that, and takes it up when it starts.
    let kept = bench.machine.status().kept.expect("it goes back to it");
    let (_, record) = bench.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let snapshots = kept.snapshots.iter().map(|(_, snapshot)| *snapshot).collect();
    let volume = Restored { snapshots, ..restored(true, &[]) };
    let mut bench = Bench::restored(record, volume, |_, _| DirtyMap::default());
    bench.machine.restore_relays(|gateway| (gateway == WEST).then(|| vec![VOLUME]));
    assert!(has(&bench, |effect| matches!(effect, Effect::RollBack { .. })));
    bench.apply(Event::Tick { now_ms: 1_000 });
    assert!(!dials(&bench));
    bench.apply(Event::RolledBack { result: Ok(()) }).record();
    assert!(dials(&bench), "it is that point now");
}

/// The primary begins a history with each loss of its mirror, and keeps those that its own mirrors
/// count from. After 32 more it had forgotten the one that the far end had, so that one was refused as
/// a stranger's and could only be copied whole, by a word.
#[test]
fn rule_09_losses_of_the_mirror_cost_a_far_end_that_is_away_nothing() {
    let mut bench = transferred();
    let mut primary = crate::lineage::Lineage::new(Generation::of(1), Vec::new());
    for n in 2..100 {
        let bases = [primary.current];
        primary.begin(Generation::of(n), &bases);
        let (generation, ancestors) = (primary.current, primary.ancestors.clone());
        bench.apply(Event::Told { message: Message::Promote { generation, ancestors } }).record();
    }
    assert!(!primary.ancestors.contains(&Generation::of(1)));
    incoming(&mut bench, 1, at(1, 1));
    bench.record().applied(1);
    bench.take();
    bench.apply(Event::Tick { now_ms: 60_000 }).connect(Some(1));
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    assert!(has(&bench, |effect| matches!(effect, Effect::ListPoint { whole: false, .. })));
}

/// A transfer that an operator had asked for was forgotten when this gateway died: a session without an
/// interval stayed where it was, and nobody was told.
#[test]
fn rec_27_a_transfer_that_was_asked_for_is_begun_again_after_a_restart() {
    for asked in [true, false] {
        let mut bench = transferred();
        incoming(&mut bench, 1, at(1, 1));
        bench.record().applied(1);
        if asked {
            bench.apply(Event::Command(Command::Transfer { leg: leg() })).record();
        }
        let (_, record) = bench.machine.group_record();
        let record = GroupRecord::decode(&record.unwrap()).unwrap();
        let lacks = |_, _| {
            let mut dirty = DirtyMap::default();
            dirty.insert(BlockRange::new(1, 1));
            dirty
        };
        let mut bench = Bench::restored(record, restored(true, &[]), lacks);
        bench.machine.restore_relays(|_| Some(vec![VOLUME]));
        bench.apply(Event::Tick { now_ms: 10 });
        assert_eq!(dials(&bench), asked);
    }
    // Once it is done, it is asked for no more.
    let mut bench = transferred();
    bench.apply(Event::Command(Command::Transfer { leg: leg() })).record();
    assert!(bench.leg_record().wanted);
    bench.connect(Some(1));
    point(&mut bench);
    bench.apply(Event::Snapshotted(Ok(()), TAKEN));
    list(&mut bench, Vec::new(), Vec::new());
    bench.record();
    let seq = cut(&bench).expect("there is nothing to send");
    bench.heard(Message::CutApplied { seq }).record();
    assert!(!bench.leg_record().wanted);
}
