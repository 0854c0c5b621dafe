//! Who copies when, and mirrors that hold the content already, by event lists.

use super::*;
use crate::{Bandwidth, Priority, Window};

/// What is copied: the extents, and whether they are only compared.
fn copies(bench: &mut Bench) -> Vec<(Seq, Extent, bool)> {
    bench
        .take()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Copy { seq, extent, compare, .. } => Some((seq, extent, compare)),
            _ => None,
        })
        .collect()
}

fn limited(usual: Option<u64>, windows: &[Window]) -> Policy {
    let bandwidth = Bandwidth { usual, windows: windows.into() };
    Policy { bandwidth, ..Policy::default() }
}

/// A mirror that everything of a volume of 64 MiB must be copied to.
fn copying(policy: Policy) -> Bench {
    let mut bench = Bench::primary();
    bench.add_leg(policy).connect(None);
    bench.take();
    let whole = block::BlockRange::new(0, 16_384);
    bench.apply(Event::Listed { leg: leg(), mapped: vec![vec![whole]] });
    bench
}

/// Lets time pass, and the mirror acknowledge at once whatever is copied; returns how many bytes.
fn pass(bench: &mut Bench, from_ms: u64, to_ms: u64) -> u64 {
    let mut bytes = 0;
    for now_ms in (from_ms..=to_ms).step_by(100) {
        bench.apply(Event::Tick { now_ms });
        loop {
            let done = copies(bench);
            if done.is_empty() {
                break;
            }
            for (seq, extent, _) in done {
                bytes += extent.len();
                bench.ack(seq);
            }
        }
    }
    bytes
}

#[test]
fn copies_keep_to_their_limit_and_hosts_do_not_wait() {
    let mut bench = copying(limited(Some(1 << 20), &[]));
    assert!(copies(&mut bench).is_empty(), "nothing was saved up");
    bench.apply(Event::Tick { now_ms: 100 });
    bench.take();
    let ten_seconds = pass(&mut bench, 200, 10_000);
    assert!((8 << 20..=11 << 20).contains(&ten_seconds), "{ten_seconds} bytes in ten seconds");
    // A host's change goes at once, whatever the bucket holds.
    bench.change(1, at(16_000, 1)).record();
    assert!(bench.sent(1).is_some());
}

#[test]
fn a_limit_below_one_copy_a_second_is_kept_to_and_goes_on() {
    let mut bench = copying(limited(Some(64 << 10), &[]));
    let minute = pass(&mut bench, 100, 60_000);
    let most = 61 * (64 << 10) + 8 * (256 << 10);
    assert!(minute >= 59 * (64 << 10) && minute <= most, "{minute} bytes in a minute");
}

#[test]
fn a_window_of_nothing_pauses_the_copy_until_it_closes() {
    let window = Window::parse("mon-fri 08:00-18:00 Europe/Berlin", 0).unwrap();
    let mut bench = copying(limited(None, &[window]));
    // What the clock shows was not told yet: nothing goes faster than was allowed.
    assert_eq!(pass(&mut bench, 100, 1_000), 0);
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Copying);
    bench.apply(Event::Pace(Pace::Limit { leg: leg(), bytes_per_second: None }));
    assert_eq!(pass(&mut bench, 1_100, 1_200), 64 << 20);
    bench.take();
}

#[test]
fn a_limit_changes_on_a_live_session_and_nothing_is_copied_again() {
    let mut bench = Bench::in_sync(Policy::default());
    let policy = limited(Some(0), &[]);
    bench.apply(Event::Command(Command::SetPolicy { leg: leg(), policy: policy.clone() }));
    let said = bench.out.iter().any(|effect| {
        matches!(effect, Effect::Post { message: Message::Policy(bytes), .. }
            if crate::record::policy_of(bytes).as_ref() == Some(&policy))
    });
    assert!(said, "the mirror is told, for when it is the primary: {:?}", bench.out);
    bench.record();
    assert_eq!(bench.leg_record().policy, policy);
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
    // What hosts count on is repaired, whatever the limit of copies is.
    bench.change(1, at(1, 1));
    bench.apply(Event::Applied { write: WriteId::new(1), result: Err(IoError::NoSpace) });
    let seq = bench.sent(1).unwrap();
    bench.ack(seq);
    assert_eq!(copies(&mut bench).len(), 1);
}

#[test]
fn what_a_leg_has_in_flight_follows_its_priority() {
    for (priority, copies_max, bytes_max) in [
        (Priority::Low, 1, 128 << 10),
        (Priority::Normal, 2, 512 << 10),
        (Priority::High, 8, 2 << 20),
    ] {
        let mut bench = Bench::primary();
        bench.add_leg(Policy { priority, ..Policy::default() }).connect(None);
        bench.apply(Event::Pace(Pace::Crowd { highest: Some(Priority::High) }));
        bench.take();
        let whole = block::BlockRange::new(0, 16_384);
        bench.apply(Event::Listed { leg: leg(), mapped: vec![vec![whole]] });
        let under_way = copies(&mut bench);
        let bytes: u64 = under_way.iter().map(|(_, extent, _)| extent.len()).sum();
        assert_eq!((under_way.len(), bytes), (copies_max, bytes_max), "{priority:?}");
        // Alone again, it has everything.
        bench.apply(Event::Pace(Pace::Crowd { highest: Some(priority) }));
        let more = copies(&mut bench);
        assert_eq!(under_way.len() + more.len(), 8, "{priority:?}");
    }
}

/// An operator says that the mirror holds the content.
fn asked_to_hold() -> Bench {
    let mut bench = Bench::primary();
    bench.apply(Event::Command(Command::AddLeg {
        gateway: WEST,
        site: "west".to_owned(),
        sessions: vec![SessionId::of(9)],
        policy: Policy::default(),
        holds_content: true,
    }));
    bench.record().take();
    bench
}

/// It was opened over a link of this version.
fn open_holding(bench: &mut Bench, version: u16) {
    let opened = Opened {
        quality: Quality::Inconsistent,
        generation: None,
        ancestors: Vec::new(),
        differences_known: true,
    };
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::LinkVersion { leg: leg(), version });
    bench.apply(Event::Connected { leg: leg(), opening });
}

/// A mirror that an operator says holds the content.
fn holding(there: Vec<block::BlockRange>) -> Bench {
    let mut bench = asked_to_hold();
    open_holding(&mut bench, block::PROTOCOL_VERSION);
    let asks = |effect: &Effect| {
        matches!(effect, Effect::Post { message: Message::List { volume: 0 }, .. })
    };
    assert!(bench.out.iter().any(asks), "{:?}", bench.out);
    let here = vec![block::BlockRange::new(0, 8)];
    bench.apply(Event::Listed { leg: leg(), mapped: vec![here] });
    assert!(copies(&mut bench).is_empty(), "what the mirror holds is not known yet");
    bench.heard(Message::Mapped { volume: 0, blocks: there, last: true });
    bench
}

#[test]
fn a_mirror_that_holds_the_content_is_compared_and_only_what_differs_is_sent() {
    let mut bench = holding(vec![block::BlockRange::new(0, 4), block::BlockRange::new(100, 102)]);
    let asked = copies(&mut bench);
    // What is mapped here, and what is mapped there only: nothing is emptied, nothing is sent.
    let extents: Vec<_> = asked.iter().map(|(_, extent, compare)| (*extent, *compare)).collect();
    assert_eq!(extents, [(at(0, 8), true), (at(100, 2), true)]);
    // Not promotable, and not called Equivalent.
    let status = bench.machine.status();
    assert_eq!((status.legs[0].phase, status.legs[0].in_sync), (Phase::Copying, false));
    assert!(bench.leg_record().holds_content);
    // A host writes meanwhile: to a block that nobody compares it goes at once.
    bench.change(1, at(50, 1)).record().applied(1);
    let seq = bench.sent(1).expect("hosts go on");
    bench.ack(seq);
    assert_eq!(bench.answer(1), Some(Ok(())));
    bench.take();
    let differs = vec![block::BlockRange::new(3, 4)];
    bench.heard(Message::Compared { seq: asked[0].0, differs });
    bench.heard(Message::Compared { seq: asked[1].0, differs: Vec::new() });
    assert_eq!(bench.flush_seq(), None, "one block differs");
    let sent = copies(&mut bench);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].1, sent[0].2), (at(3, 1), false));
    bench.ack(sent[0].0).vote();
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
    assert!(!bench.leg_record().holds_content, "from here on it is a mirror as any other");
}

#[test]
fn a_comparison_that_was_cut_short_begins_anew_also_after_a_restart() {
    let mut bench = holding(Vec::new());
    let asked = copies(&mut bench);
    bench.heard(Message::Compared { seq: asked[0].0, differs: Vec::new() });
    bench.lose().record();
    let (_, record) = bench.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let mut bench = Bench::restored(record, restored(true, &[]), |_, _| DirtyMap::default());
    bench.take();
    open_holding(&mut bench, block::PROTOCOL_VERSION);
    bench.apply(Event::Listed { leg: leg(), mapped: vec![vec![block::BlockRange::new(0, 8)]] });
    bench.heard(Message::Mapped { volume: 0, blocks: Vec::new(), last: true });
    let asked = copies(&mut bench);
    let extents: Vec<_> = asked.iter().map(|(_, extent, compare)| (*extent, *compare)).collect();
    assert_eq!(extents, [(at(0, 8), true)], "what was found to be the same is compared again");
}

#[test]
fn rule_10_a_mirror_that_would_keep_nothing_of_what_it_holds_is_not_compared() {
    let mut bench = asked_to_hold();
    open_holding(&mut bench, 2);
    let leg = &bench.machine.status().legs[0];
    assert_eq!(leg.cause, Some(Cause::PeerTooOld { version: 2, needs: 3 }));
    assert_eq!(leg.state, SessionState::Error);
}
