//! A handover whose mirror is lost between the question and the answer.

use super::*;

fn answered(out: &[Effect]) -> Option<Result<(), Refusal>> {
    out.iter().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

impl Bench {
    /// A primary that asked its mirror to take over and lost it then.
    fn unanswered() -> Self {
        let mut bench = Self::in_sync(Policy::default());
        bench.drain_for_swap();
        let asked = |effect: &Effect| {
            matches!(effect, Effect::Post { message: Message::Handover { .. }, .. })
        };
        assert!(bench.out.iter().any(asked));
        bench.take();
        bench.lose().record();
        assert_eq!(answered(&bench.take()), Some(Err(Refusal::Interrupted)));
        let handover = bench.machine.status().handover.unwrap();
        assert!(handover.unanswered && handover.epoch.turn() == 2);
        bench
    }

    fn go_on(&mut self, consent: Consent) -> &mut Self {
        self.apply(Event::Command(Command::Promote { consent }))
    }
}

#[test]
fn hosts_wait_until_an_operator_says_otherwise() {
    let mut bench = Bench::unanswered();
    bench.change(1, at(1, 1)).record();
    assert_eq!(bench.answer(1), None);
    bench.go_on(Consent::InSync);
    assert_eq!(answered(&bench.take()), Some(Err(Refusal::HandoverUnanswered)));
    assert_eq!(bench.machine.status().serving, Serving::HandingOver);
    bench.go_on(Consent::Outdated);
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Apply { .. })));
    bench.record();
    assert_eq!(answered(&bench.out), Some(Ok(())));
    let status = bench.machine.status();
    assert_eq!((status.role, status.serving), (Role::Primary, Serving::Yes));
    assert_eq!(status.epoch.turn(), 3, "above the one that was offered");
    bench.applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())), "what was held goes on");
    assert_eq!(status.counters.fenced_writes, 0);
}

#[test]
fn a_mirror_that_did_take_over_is_fenced_and_told_as_a_split_brain() {
    let mut bench = Bench::unanswered();
    bench.go_on(Consent::Outdated).record();
    bench.take();
    // It dials us at the epoch that it was offered.
    let open = Open {
        group: GROUP,
        name: "orders".to_owned(),
        epoch: Epoch::new(2),
        generation: Generation::of(50),
        ancestors: vec![Generation::of(1)],
        volumes: vec![VolumeOffer {
            volume: VOLUME,
            session: SessionId::of(9),
            name: "orders".to_owned(),
            bytes: 64 << 20,
        }],
        discard: false,
        relayed: false,
        heir_of: None,
    };
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: Box::new(open), site, gateway: WEST });
    let fenced = |effect: &Effect| {
        matches!(effect, Effect::Refuse { goodbye: Goodbye::Fenced { epoch } }
            if epoch.turn() == 3)
    };
    assert!(bench.out.iter().any(fenced));
    // We dial it: it has a history of its own.
    let opened = Opened {
        quality: Quality::Outdated,
        generation: Some(Generation::of(50)),
        ancestors: vec![Generation::of(1)],
        differences_known: true,
    };
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::Connected { leg: leg(), opening });
    assert!(bench.machine.status().split_brain);
    assert!(matches!(bench.machine.status().legs[0].cause, Some(Cause::SplitBrain { .. })));
}

#[test]
fn a_mirror_that_did_not_take_over_follows_again_by_delta() {
    let mut bench = Bench::unanswered();
    bench.go_on(Consent::Outdated).record();
    bench.change(1, at(1, 1)).record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
    bench.take();
    bench.connect(Some(1));
    let status = bench.machine.status();
    assert!(!status.split_brain && !status.legs[0].sessions[0].full);
    assert_eq!(status.legs[0].sessions[0].resync_total_bytes, 4096);
}

#[test]
fn a_restart_still_waits_and_the_word_still_frees_it() {
    let bench = Bench::unanswered();
    let (_, bytes) = bench.machine.group_record();
    let record = GroupRecord::decode(&bytes.unwrap()).unwrap();
    let mut again = Bench::restored(record, restored(true, &[]), |_, _| DirtyMap::default());
    assert_eq!(again.machine.status().serving, Serving::HandingOver);
    again.go_on(Consent::Outdated).record();
    assert_eq!(answered(&again.out), Some(Ok(())));
    assert_eq!(again.machine.status().serving, Serving::Yes);
    assert!(!again.leg_record().in_sync, "the mirror is not counted on");
    assert!(again.leg_record().wanted, "and it is called again");
}

#[test]
fn a_swap_that_is_recalled_before_the_mirror_is_asked_never_happened() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::Command(Command::Reverse { leg: leg() }));
    bench.change(1, at(1, 1));
    assert_eq!(bench.answer(1), None, "hosts are held");
    assert!(!bench.machine.status().handover.unwrap().drained);
    bench.apply(Event::Recall).record();
    assert_eq!(answered(&bench.out), Some(Err(Refusal::Interrupted)));
    let status = bench.machine.status();
    assert_eq!((status.role, status.serving), (Role::Primary, Serving::Yes));
    assert_eq!((status.epoch.turn(), status.handover), (1, None));
    assert!(status.legs[0].in_sync, "the mirror never noticed");
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
}

#[test]
fn a_swap_whose_mirror_was_asked_is_not_recalled() {
    let mut bench = Bench::unanswered();
    bench.apply(Event::Recall).record();
    assert_eq!(bench.machine.status().serving, Serving::HandingOver);
}
