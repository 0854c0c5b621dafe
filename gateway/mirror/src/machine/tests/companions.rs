//! Parts of a group at several gateways: what a part does before and after its companions said
//! something.

use block::{PartFacts, PartState, SnapshotId};

use super::*;
use crate::record::{PartsRecord, SpanWord};

const EAST_2: GatewayId = GatewayId::of(21);
const WEST_2: GatewayId = GatewayId::of(22);

fn said(facts: PartFacts) -> Event {
    let state = PartState { facts, excludes: Vec::new() };
    Event::CompanionSaid { gateway: EAST_2, state: Box::new(state), answers: true }
}

fn at_number(number: u64) -> PartFacts {
    PartFacts { number, is_primary: true, mirror: Some(WEST_2), ..PartFacts::default() }
}

fn joined(number: u64) -> PartFacts {
    let whole = number;
    PartFacts { is_ready: true, has_voted: true, has_joined: true, whole, ..at_number(number) }
}

fn word(out: &[Effect]) -> Option<SpanWord> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::Post { message: Message::Span(bytes), .. } => SpanWord::decode(bytes).ok(),
        _ => None,
    })
}

fn promoted(out: &[Effect]) -> bool {
    out.iter().any(|e| matches!(e, Effect::Post { message: Message::Promote { .. }, .. }))
}

fn told(out: &[Effect]) -> Option<PartFacts> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::TellCompanions { state } => Some(state.facts),
        _ => None,
    })
}

impl Bench {
    fn part_of(parts: PartsRecord, clean: bool) -> Self {
        let founding = (Some(Generation::of(1)), Some(parts));
        let (_, record) = super::super::found_part(
            GROUP,
            "orders",
            vec![VOLUME],
            founding,
            (Quality::Source, false),
        );
        let record = GroupRecord::decode(&record.unwrap()).unwrap();
        Self::restored(record, restored(clean, &[]), |_, _| DirtyMap::default())
    }

    fn part() -> Self {
        let companions = vec![(EAST_2, false)];
        Self::part_of(PartsRecord { companions, ..PartsRecord::default() }, true)
    }

    /// Both parts are in stretch 1.
    fn in_stretch() -> Self {
        let mut bench = Self::part();
        bench.add_leg(Policy::default());
        bench.apply(said(at_number(1))).connect(None);
        bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new()] });
        let seq = bench.flush_seq().unwrap();
        bench.heard(Message::Durable { seq });
        assert!(!promoted(&bench.take()), "the other part is not ready");
        bench.apply(said(PartFacts { is_ready: true, ..at_number(1) }));
        let asked = bench.take();
        assert!(promoted(&asked));
        let companions = Some(vec![WEST_2]);
        assert_eq!(word(&asked), Some(SpanWord { number: 1, whole: 0, companions }));
        bench.heard(Message::Voted(Vote::InSync)).record();
        assert_ne!(bench.machine.status().legs[0].phase, Phase::Equivalent, "the other did not");
        bench.apply(said(PartFacts { is_ready: true, has_voted: true, ..at_number(1) })).record();
        assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
        assert_eq!(word(&bench.take()).map(|word| word.whole), Some(1), "it is whole");
        bench.change(0, at(0, 1)).record().applied(0);
        let seq = bench.sent(0).unwrap();
        bench.ack(seq).apply(said(joined(1)));
        assert_eq!(bench.answer(0), Some(Ok(())));
        bench.take();
        bench
    }

    fn tick(&mut self, now_ms: u64) -> &mut Self {
        self.apply(Event::Tick { now_ms })
    }
}

#[test]
fn parts_are_in_sync_only_together() {
    Bench::in_stretch();
}

#[test]
fn rule_5_nothing_is_acknowledged_without_the_mirror_before_the_companion_stopped() {
    let mut bench = Bench::in_stretch();
    bench.change(1, at(1, 1)).applied(1).lose().record();
    assert_eq!(bench.answer(1), None);
    assert_eq!(told(&bench.out).map(|facts| facts.number), Some(2), "this part is past stretch 1");
    // What the companion said before is no word that it stopped.
    bench.apply(said(joined(1))).record();
    assert_eq!(bench.answer(1), None);
    assert!(bench.leg_record().in_sync);
    bench.apply(said(at_number(2)));
    assert_eq!(bench.answer(1), None, "that the mirror is out is not recorded");
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    assert!(!bench.leg_record().in_sync);
}

#[test]
fn a_part_stops_when_its_companion_does_and_says_so_when_that_is_recorded() {
    let mut bench = Bench::in_stretch();
    bench.apply(said(at_number(2)));
    let hangs = |effect: &Effect| matches!(effect, Effect::Hang { redial: false, .. });
    assert!(bench.out.iter().any(hangs));
    assert_eq!(told(&bench.out).map(|facts| facts.number), Some(1), "that is what is recorded");
    bench.change(1, at(1, 1));
    assert_eq!(bench.sent(1), None);
    bench.record();
    assert_eq!(told(&bench.out).map(|facts| facts.number), Some(2));
    let cause = bench.machine.status().legs[0].cause.clone();
    assert_eq!(cause, Some(Cause::StretchEnded { by: Some(EAST_2) }));
    bench.record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
}

#[test]
fn hosts_wait_for_a_companion_that_does_not_answer_and_are_then_refused_by_name() {
    let mut bench = Bench::in_stretch();
    bench.change(1, at(1, 1)).applied(1).lose().record();
    bench.apply(Event::CompanionLost { gateway: EAST_2 }).tick(4_000);
    assert_eq!(bench.answer(1), None);
    bench.tick(10_000).record();
    assert_eq!(bench.answer(1), Some(Err(IoError::NoCompanion)));
    bench.change(2, at(2, 1));
    assert_eq!(bench.answer(2), Some(Err(IoError::NoCompanion)));
    let status = bench.machine.status();
    assert_eq!(status.serving, Serving::NoCompanion);
    assert_eq!(status.parts.unwrap().stops, [EAST_2]);
    // Its mirror is back, and is no help: the companion may be at work.
    bench.connect(Some(1));
    assert!(bench.machine.status().legs[0].link != crate::LinkState::Connected);
    bench.apply(said(at_number(2))).record();
    bench.change(3, at(3, 1)).record().applied(3);
    assert_eq!(bench.answer(3), Some(Ok(())));
}

#[test]
fn an_excluded_companion_is_waited_for_by_nobody() {
    let mut bench = Bench::in_stretch();
    bench.change(1, at(1, 1)).applied(1).lose().record();
    bench.apply(Event::CompanionLost { gateway: EAST_2 });
    bench.apply(Event::Command(Command::Exclude { gateway: EAST_2 })).record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    // It says that it goes on: that is no concern of this part any more.
    bench.apply(said(joined(9))).record();
    assert_eq!(bench.machine.part_state().unwrap().excludes, [EAST_2]);
    assert!(bench.machine.part_state().unwrap().facts.number < 9);
    bench.apply(Event::Command(Command::Include { gateway: EAST_2 })).record();
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Answered(Ok(())))));
    assert_eq!(bench.machine.part_state().unwrap().excludes, []);
}

#[test]
fn one_that_was_excluded_serves_nobody_until_it_is_taken_back() {
    let mut bench = Bench::in_stretch();
    bench.machine.introduce(GatewayId::of(20));
    let out = PartState { facts: at_number(3), excludes: vec![GatewayId::of(20)] };
    let back = PartState { facts: at_number(4), excludes: Vec::new() };
    let say =
        |state| Event::CompanionSaid { gateway: EAST_2, state: Box::new(state), answers: true };
    bench.apply(say(out)).record();
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::DropHosts)));
    bench.change(1, at(1, 1));
    assert_eq!(bench.answer(1), Some(Err(IoError::NoCompanion)));
    assert_eq!(bench.machine.status().serving, Serving::Excluded);
    bench.apply(say(back)).record();
    bench.change(2, at(2, 1)).record().applied(2);
    assert_eq!(bench.machine.status().serving, Serving::Yes);
    assert_eq!(bench.answer(2), Some(Ok(())));
}

#[test]
fn a_part_that_starts_serves_when_it_heard_its_companions_and_they_serve_too() {
    let mut bench = Bench::part();
    bench.change(1, at(1, 1));
    assert_eq!(bench.machine.status().serving, Serving::WaitingForCompanion);
    // What it is told unasked may be older than this start.
    let state = Box::new(PartState { facts: at_number(1), excludes: Vec::new() });
    bench.apply(Event::CompanionSaid { gateway: EAST_2, state, answers: false });
    assert_eq!(bench.answer(1), None);
    bench.apply(said(PartFacts { is_primary: false, ..at_number(1) }));
    assert!(!bench.machine.is_serving());
    bench.apply(said(at_number(1))).record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
}

/// In the stretch that it recorded its copy and its mirror's may differ after a crash: what is copied
/// then would be no point of that stretch.
#[test]
fn a_part_that_crashed_leaves_its_stretch_when_it_finds_its_mirror() {
    let mut before = Bench::in_stretch();
    before.record();
    let (_, record) = before.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    assert!(record.parts.as_ref().unwrap().joined);
    let base = record.lineage.as_ref().unwrap().current;
    for (clean, active) in [(true, Vec::new()), (false, vec![0])] {
        let found = restored(clean, &active);
        let mut bench = Bench::restored(record.clone(), found, |_, _| DirtyMap::default());
        bench.apply(said(joined(1)));
        let opened = Opened {
            quality: Quality::InSync,
            generation: Some(base),
            ancestors: Vec::new(),
            differences_known: true,
        };
        let opening = Box::new(Opening { opened, differs: Vec::new() });
        bench.apply(Event::LinkVersion { leg: leg(), version: block::PROTOCOL_VERSION });
        bench.apply(Event::Connected { leg: leg(), opening }).record();
        let number = bench.machine.part_state().unwrap().facts.number;
        assert_eq!(number, if clean { 1 } else { 2 }, "clean: {clean}");
    }
}

#[test]
fn a_group_gets_its_parts_before_it_is_mirrored() {
    let mut bench = Bench::primary();
    bench.apply(Event::Command(Command::Accompany { gateway: EAST_2 })).record();
    assert_eq!(bench.machine.companions(), [EAST_2]);
    assert_eq!(bench.machine.status().serving, Serving::WaitingForCompanion);
    bench.apply(said(at_number(1))).take();
    let leg_to = |gateway| Command::AddLeg {
        gateway,
        site: "west".to_owned(),
        sessions: vec![SessionId::of(9)],
        policy: Policy::default(),
        holds_content: false,
    };
    bench.apply(Event::Command(leg_to(WEST_2)));
    let refused = |out: &[Effect]| {
        out.iter().any(|e| matches!(e, Effect::Answered(Err(Refusal::Spanning { .. }))))
    };
    assert!(refused(&bench.record().take()), "the other part is mirrored there");
    bench.add_leg(Policy::default()).take();
    bench.apply(Event::Command(Command::Accompany { gateway: GatewayId::of(23) }));
    assert!(refused(&bench.take()));
}

#[test]
fn other_things_are_refused_by_name() {
    let mut bench = Bench::part();
    bench.apply(said(at_number(1))).take();
    let leg_of = |policy| Command::AddLeg {
        gateway: WEST,
        site: "west".to_owned(),
        sessions: vec![SessionId::of(9)],
        policy,
        holds_content: false,
    };
    let modes = Policy { mode: block::Mode::Consistency, ..Policy::default() };
    let manual = Policy { split: Split::Manual, ..Policy::default() };
    let promote = Command::Promote { consent: Consent::InSync };
    for command in [leg_of(modes), leg_of(manual), promote, Command::Detach] {
        bench.apply(Event::Command(command));
        let out = bench.record().take();
        let refused =
            |effect: &Effect| matches!(effect, Effect::Answered(Err(Refusal::Spanning { .. })));
        assert!(out.iter().any(refused), "{out:?}");
    }
}

// --- mirrors ---

impl Bench {
    /// A mirror that voted for stretch 1, which was whole.
    fn mirror_in_stretch() -> Self {
        let mut bench = Self::mirror();
        bench.open_part(1).word(1, 0);
        bench.told(Message::Promote { generation: Generation::of(1), ancestors: Vec::new() });
        bench.record().word(1, 1).take();
        assert_eq!(bench.machine.part_state().unwrap().facts.copy, 1);
        bench
    }

    fn open_part(&mut self, generation: u128) -> &mut Self {
        let volumes = vec![VolumeOffer {
            volume: VOLUME,
            session: SessionId::of(9),
            name: "orders".to_owned(),
            bytes: 64 << 20,
        }];
        let open = Box::new(Open {
            group: GROUP,
            name: "orders".to_owned(),
            epoch: Epoch::new(1),
            generation: Generation::of(generation),
            ancestors: (1..generation).rev().map(Generation::of).collect(),
            volumes,
            discard: false,
            relayed: false,
            heir_of: None,
        });
        self.apply(Event::Opened { open, site: "east".to_owned(), gateway: WEST }).record()
    }

    fn told(&mut self, message: Message) -> &mut Self {
        self.apply(Event::Told { message })
    }

    fn word(&mut self, number: u64, whole: u64) -> &mut Self {
        let companions = Some(vec![WEST_2]);
        let word = SpanWord { number, whole, companions };
        self.told(Message::Span(word.encode())).record()
    }

    /// A block is copied; says whether the copy was kept before.
    fn overwrite(&mut self, write: u64) -> bool {
        self.apply(Event::Incoming {
            write: WriteId::new(write),
            seq: Seq::new(write),
            volume: 0,
            extent: at(write, 1),
            resync: true,
        });
        self.record();
        let taken = self.out.iter().any(|effect| matches!(effect, Effect::Snapshot { .. }));
        if taken {
            self.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
        }
        self.applied(write).record();
        taken
    }
}

#[test]
fn a_mirror_keeps_the_cut_until_a_later_one_is_whole() {
    let mut bench = Bench::mirror_in_stretch();
    bench.apply(Event::UpstreamLost { orderly: false }).open_part(2).word(2, 1);
    bench.told(Message::Outdate).record();
    assert!(bench.overwrite(1), "stretch 1 was whole: its cut is kept");
    let facts = |bench: &Bench| bench.machine.part_state().unwrap().facts;
    assert_eq!((facts(&bench).copy, facts(&bench).kept), (0, 1));
    bench.told(Message::Promote { generation: Generation::of(2), ancestors: Vec::new() });
    bench.record();
    assert_eq!((facts(&bench).copy, facts(&bench).kept), (2, 1), "not all are in stretch 2 yet");
    // They do not come so far: the cut of stretch 1 is still what all have.
    bench.take();
    bench.apply(Event::UpstreamLost { orderly: false }).open_part(3).word(3, 1);
    bench.told(Message::Outdate).record();
    assert!(!bench.overwrite(2));
    assert_eq!((facts(&bench).copy, facts(&bench).kept), (0, 1));
    bench.told(Message::Promote { generation: Generation::of(3), ancestors: Vec::new() });
    bench.record().word(3, 3);
    assert_eq!((facts(&bench).copy, facts(&bench).kept), (3, 0), "now all are in stretch 3");
}

#[test]
fn a_mirror_takes_over_at_the_cut_that_all_have_and_serves_when_all_do() {
    let mut bench = Bench::mirror_in_stretch();
    bench.apply(Event::UpstreamLost { orderly: false }).open_part(2).word(2, 1);
    bench.told(Message::Outdate).record();
    bench.overwrite(1);
    bench.told(Message::Promote { generation: Generation::of(2), ancestors: Vec::new() });
    bench.record();
    bench.apply(Event::UpstreamLost { orderly: false }).take();
    let take_over = |cut, consent| Command::TakeOver { consent, cut, apart: false };
    bench.apply(Event::Command(take_over(7, Consent::Outdated)));
    let refused = Effect::Answered(Err(Refusal::NoSuchCut { cut: 7 }));
    assert_eq!(format!("{:?}", bench.take().last()), format!("{:?}", Some(refused)));
    // The copy is in sync in stretch 2, and another mirror is not: that is given up with a word.
    bench.apply(Event::Command(take_over(1, Consent::InSync)));
    let needs =
        |effect: &Effect| matches!(effect, Effect::Answered(Err(Refusal::QualityTooLow { .. })));
    assert!(bench.take().iter().any(needs));
    bench.apply(Event::Command(take_over(1, Consent::Outdated)));
    let lists = |effect: &Effect| matches!(effect, Effect::ListChanged { .. });
    assert!(bench.out.iter().any(lists), "it goes back to the cut of stretch 1");
    bench.apply(Event::Changed { result: Ok(vec![Vec::new()]) }).record();
    bench.apply(Event::RolledBack { result: Ok(()) }).record();
    let status = bench.machine.status();
    assert_eq!((status.role, status.serving), (Role::Primary, Serving::WaitingForCompanion));
    assert_eq!(status.parts.unwrap().waits_for, Some(WEST_2));
    let other = |from| {
        let facts = PartFacts { number: 4, from, is_primary: true, ..PartFacts::default() };
        let state = Box::new(PartState { facts, excludes: Vec::new() });
        Event::CompanionSaid { gateway: WEST_2, state, answers: true }
    };
    bench.apply(other(2));
    assert!(!bench.machine.is_serving(), "it took over at another cut");
    bench.apply(other(1)).record();
    assert!(bench.machine.is_serving());
}

/// It was forgotten with the exclusion once, and with the next swap of roles by both sites: then the
/// parts did not know of each other any more.
#[test]
fn a_mirror_remembers_a_companion_that_its_primary_excluded() {
    let mut bench = Bench::mirror_in_stretch();
    let word = |companions| {
        let word = SpanWord { number: 2, whole: 1, companions: Some(companions) };
        Message::Span(word.encode())
    };
    bench.told(word(Vec::new())).record();
    assert_eq!(bench.machine.companions(), [WEST_2]);
    assert_eq!(bench.machine.part_state().unwrap().excludes, [WEST_2]);
    bench.told(word(vec![WEST_2])).record();
    assert_eq!(bench.machine.part_state().unwrap().excludes, []);
}

#[test]
fn a_part_asks_its_mirror_to_take_over_when_all_are_drained() {
    let mut bench = Bench::in_stretch();
    bench.drain_for_swap();
    assert_eq!(told(&bench.out).map(|facts| facts.is_drained), Some(true));
    let asks =
        |effect: &Effect| matches!(effect, Effect::Post { message: Message::Handover { .. }, .. });
    assert!(!bench.out.iter().any(asks));
    bench.apply(said(PartFacts { is_drained: true, ..joined(1) })).record();
    assert!(bench.out.iter().any(asks));
    let epoch = bench.out.iter().find_map(|effect| match effect {
        Effect::Post { message: Message::Handover { epoch }, .. } => Some(*epoch),
        _ => None,
    });
    bench.heard(Message::Voted(Vote::TookOver { epoch: epoch.unwrap() })).record();
    let facts = bench.machine.part_state().unwrap().facts;
    assert_eq!((facts.is_primary, facts.copy), (false, 1), "its copy is at the cut of the swap");
}

/// A snapshot's name is not needed by these tests, but the type is part of what is kept.
#[test]
fn a_mirror_that_lost_the_snapshot_of_its_cut_offers_none() {
    let mut bench = Bench::mirror_in_stretch();
    bench.apply(Event::UpstreamLost { orderly: false }).open_part(2).word(2, 1);
    bench.told(Message::Outdate).record();
    bench.overwrite(1);
    let (_, record) = bench.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let snapshots: Vec<SnapshotId> =
        record.points.kept.as_ref().unwrap().snapshots.iter().map(|(_, s)| *s).collect();
    let found = |snapshots| Restored { snapshots, ..restored(true, &[]) };
    let again = |snapshots| {
        let bench = Bench::restored(record.clone(), found(snapshots), |_, _| DirtyMap::default());
        bench.machine.part_state().unwrap().facts.kept
    };
    assert_eq!((again(snapshots), again(Vec::new())), (1, 0));
}

const CUT_SNAPSHOT: SnapshotId = SnapshotId::of(700);

fn hold(from: u64) -> Event {
    let (snapshot, name) = (CUT_SNAPSHOT, "all".to_owned());
    Event::Command(Command::Hold { snapshot, name, unix_ms: 7, from })
}

fn take_held() -> Event {
    Event::Command(Command::TakeHeld { snapshot: CUT_SNAPSHOT })
}

fn answered(bench: &Bench) -> Option<Result<(), Refusal>> {
    bench.out.iter().rev().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

fn takes(bench: &Bench) -> bool {
    bench.out.iter().any(|effect| matches!(effect, Effect::Snapshot { .. }))
}

#[test]
fn rule_14_a_part_holds_its_hosts_until_all_do_and_then_takes_the_snapshot() {
    let mut bench = Bench::in_stretch();
    bench.change(1, at(1, 1)).apply(hold(0)).record();
    assert_eq!(answered(&bench), Some(Ok(())), "hosts are held");
    bench.change(2, at(2, 1));
    assert_eq!(bench.sent(2), None, "what comes now waits");
    bench.applied(1);
    assert!(!takes(&bench), "not before the others hold theirs");
    bench.apply(take_held());
    assert!(takes(&bench));
    assert!(bench.sent(2).is_some(), "hosts go on");
    bench.apply(Event::Snapshotted(Ok(()), Taken::default())).record();
    assert_eq!(answered(&bench), Some(Ok(())));
    assert_eq!(bench.machine.status().snapshots[0].name, "all");
}

#[test]
fn rule_14_a_part_that_is_told_to_waits_for_what_is_under_way() {
    let mut bench = Bench::in_stretch();
    bench.change(1, at(1, 1)).apply(hold(0)).record();
    bench.apply(take_held());
    assert!(!takes(&bench), "the copy here has not applied it");
    bench.change(2, at(2, 1));
    assert_eq!(bench.sent(2), None, "hosts are held without a pause");
    bench.applied(1);
    assert!(takes(&bench));
}

#[test]
fn rule_14_hosts_that_went_on_are_in_no_snapshot_of_that_name() {
    let mut late = Bench::in_stretch();
    late.tick(10).apply(hold(0)).record();
    assert_eq!(answered(&late), Some(Ok(())), "{:?}", late.out);
    late.change(1, at(1, 1));
    assert_eq!(late.sent(1), None, "held");
    late.tick(3_009);
    assert_eq!(late.sent(1), None);
    late.tick(3_010);
    assert!(late.sent(1).is_some(), "nobody is held for long");
    late.take();
    late.apply(take_held());
    assert_eq!(answered(&late), Some(Err(Refusal::HoldEnded)));

    let mut given_up = Bench::in_stretch();
    given_up.apply(hold(0)).record().change(1, at(1, 1));
    given_up.apply(Event::LetGo { snapshot: CUT_SNAPSHOT });
    assert!(given_up.sent(1).is_some(), "a part could not");
    given_up.take();
    given_up.apply(take_held());
    assert_eq!(answered(&given_up), Some(Err(Refusal::HoldEnded)));
    assert!(!takes(&given_up));
}

#[test]
fn a_part_is_not_held_for_parts_that_took_over_elsewhere() {
    let mut bench = Bench::in_stretch();
    bench.apply(hold(9));
    assert_eq!(answered(&bench), Some(Err(Refusal::PartsApart)));
    bench.take();
    bench.apply(said(PartFacts { is_primary: false, ..joined(1) })).apply(hold(0));
    assert_eq!(answered(&bench), Some(Err(Refusal::PartsApart)));
    let mut alone = Bench::in_sync(Policy::default());
    alone.apply(hold(0));
    assert_eq!(answered(&alone), Some(Err(Refusal::Unknown)));
}
