//! Copies that went apart by event lists: who is fenced, and what a mirror knows of itself.

use super::*;

const NORTH: GatewayId = GatewayId::of(8);

pub(super) fn open(epoch: Epoch, generation: u128, ancestors: &[u128]) -> Box<Open> {
    Box::new(Open {
        group: GROUP,
        name: "orders".to_owned(),
        epoch,
        generation: Generation::of(generation),
        ancestors: ancestors.iter().map(|number| Generation::of(*number)).collect(),
        volumes: vec![VolumeOffer {
            volume: VOLUME,
            session: SessionId::of(9),
            name: "orders".to_owned(),
            bytes: 64 << 20,
        }],
        discard: true,
        relayed: false,
        heir_of: None,
    })
}

/// Whether the mirror that was opened claims to know every block in which it differs.
fn knows_its_differences(bench: &Bench) -> bool {
    let found = bench.out.iter().find_map(|effect| match effect {
        Effect::Accept { opened, .. } => Some(opened.differences_known),
        _ => None,
    });
    found.expect("the group was opened")
}

fn refused(bench: &Bench) -> Option<&Goodbye> {
    bench.out.iter().rev().find_map(|effect| match effect {
        Effect::Refuse { goodbye } => Some(goodbye),
        _ => None,
    })
}

/// A mirror that joined what `from` serves.
fn mirror_of(from: GatewayId, epoch: Epoch) -> Bench {
    let mut bench = Bench::mirror();
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: open(epoch, 2, &[1]), site, gateway: from }).record();
    let (generation, ancestors) = (Generation::of(2), vec![Generation::of(1)]);
    bench.apply(Event::Told { message: Message::Promote { generation, ancestors } }).record();
    assert_eq!(bench.machine.status().quality, Quality::InSync);
    bench.take();
    bench
}

/// Found by the simulator: west and north were promoted by two operators, and this gateway followed
/// west for a while. North, which the other operator chose, opened it with consent to discard. It
/// had never been a primary, so it said that it had no differences of its own, and north sent those
/// of north only: what west had written here stayed, under a status of equal copies.
#[test]
fn rule_9_what_another_primary_wrote_here_is_not_known() {
    let epoch = Epoch::new(2);
    let mut bench = mirror_of(WEST, epoch);
    let diverged = open(epoch.next(7), 3, &[1]);
    bench
        .apply(Event::Opened { open: diverged, site: "north".to_owned(), gateway: NORTH })
        .record();
    assert!(!knows_its_differences(&bench));

    // Also while it has joined nobody since: west may have written in its old history.
    let mut bench = mirror_of(WEST, epoch);
    let behind = open(epoch.next(7), 3, &[2, 1]);
    bench.apply(Event::Opened { open: behind, site: "north".to_owned(), gateway: NORTH }).record();
    assert!(!knows_its_differences(&bench));

    // The primary that wrote it knows.
    let mut bench = mirror_of(WEST, epoch);
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: open(epoch, 2, &[1]), site, gateway: WEST }).record();
    assert!(knows_its_differences(&bench));
}

/// Found by the simulator: two mirrors were promoted without having heard of each other, took the
/// same number, and both went on acknowledging at it when they met.
#[test]
fn rule_6_of_two_that_take_the_same_turn_one_is_fenced() {
    let bench = Bench::primary();
    let own = bench.machine.status().epoch;
    let (lower, higher) = (own.next(3), own.next(4));
    assert_eq!(lower.turn(), higher.turn());
    let mut bench = mirror_of(WEST, lower);
    bench.apply(Event::Opened {
        open: open(higher, 3, &[1]),
        site: "north".to_owned(),
        gateway: NORTH,
    });
    bench.record().take();
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: open(lower, 2, &[1]), site, gateway: WEST });
    assert_eq!(refused(&bench), Some(&Goodbye::Fenced { epoch: higher }));
}

/// Found by the simulator: a mirror told the old primary of the epoch that it was about to take,
/// and died before it had. The old primary was fenced by an epoch that nobody had, fenced in its
/// turn whoever came, and the group had no primary any more.
#[test]
fn rule_6_an_epoch_that_is_not_recorded_fences_nobody() {
    let epoch = Epoch::new(2);
    let mut bench = mirror_of(WEST, epoch);
    bench.apply(Event::Command(Command::Promote { consent: Consent::Inconsistent }));
    assert_eq!(bench.machine.status().role, Role::Secondary, "its primary is connected");
    bench.apply(Event::UpstreamLost { orderly: false });
    bench.apply(Event::Command(Command::Promote { consent: Consent::Inconsistent }));
    bench.take();
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: open(epoch, 2, &[1]), site, gateway: WEST });
    assert_eq!(refused(&bench), Some(&Goodbye::Suspended));
}

/// Found by the simulator: both sides were promoted in turn without having heard of each other. The
/// first one knew what it had written alone, was opened by the second, which was told a split brain,
/// and was promoted again. It took the second for the primary that it had followed, and forgot all
/// that: the delta that came later left those blocks as they were.
#[test]
fn rule_9_what_was_written_here_alone_outlives_a_promotion_over_a_primary_that_was_not_followed() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    bench.change(1, at(4, 1)).record().applied(1);
    assert_eq!(bench.answer(1), Some(Ok(())));
    let lacks = bench.machine.status().legs[0].sessions[0].out_of_sync_bytes;
    assert!(lacks >= 4096);
    let higher = bench.machine.status().epoch.next(7);
    let diverged = Box::new(Open { discard: false, ..*open(higher, 3, &[1]) });
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: diverged, site, gateway: WEST }).record();
    bench.apply(Event::UpstreamLost { orderly: true }).record().take();
    bench.promote(Consent::Inconsistent);
    let status = bench.machine.status();
    assert_eq!(status.role, Role::Primary);
    assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, lacks);
}

/// A primary that lost its mirror, and over which another one has copied a part of its content.
fn half_copied_by(gateway: GatewayId) -> Bench {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    let higher = bench.machine.status().epoch.next(7);
    let site = "elsewhere".to_owned();
    bench.apply(Event::Opened { open: open(higher, 3, &[1]), site, gateway }).record();
    let change = Event::Incoming {
        write: WriteId::new(9),
        seq: Seq::new(1),
        volume: 0,
        extent: at(4, 1),
        resync: true,
    };
    bench.apply(change).record();
    // The store keeps no snapshots, so nothing leads back to what was here before.
    bench.apply(Event::Snapshotted(Err(IoError::Unsupported), Taken::default()));
    bench.record().applied(9);
    assert_eq!(bench.machine.status().quality, Quality::Inconsistent);
    bench
}

/// Found by the simulator: a primary that had lost its mirror was opened by a third gateway, which
/// copied half of its content here, and then this half was promoted by force. What the third had
/// sent was noted nowhere here, so the mirror of old got those blocks alone that were written here.
#[test]
fn rule_9_a_half_copy_that_is_promoted_does_not_know_where_its_earlier_mirrors_differ() {
    let mut bench = half_copied_by(NORTH);
    let west = |bench: &Bench| bench.machine.status().legs[0].phase;
    assert_ne!(west(&bench), Phase::NoPair);
    bench.apply(Event::UpstreamLost { orderly: true }).record().take();
    bench.promote(Consent::Inconsistent);
    assert_eq!(bench.machine.status().role, Role::Primary);
    assert_eq!(west(&bench), Phase::NoPair, "only a full copy helps");
}

/// Found by the simulator: of two that took over, one copied half of its content over the old primary.
/// The other one opened it, was told of a split brain, and with that was the last who had: the second
/// time the old primary said that it knew all in which it differs, and kept blocks of the first one.
#[test]
fn rule_9_who_opens_a_half_copy_of_another_is_never_told_that_all_differences_are_known() {
    let mut bench = half_copied_by(NORTH);
    bench.apply(Event::UpstreamLost { orderly: true }).record().take();
    let higher = bench.machine.status().epoch.next(8);
    for _ in 0..2 {
        bench.out.clear();
        let open = Box::new(Open { discard: false, ..*open(higher, 4, &[1]) });
        let site = "west".to_owned();
        bench.apply(Event::Opened { open, site, gateway: WEST }).record();
        let told = bench.out.iter().find_map(|effect| match effect {
            Effect::Accept { opened, .. } => Some(opened.differences_known),
            _ => None,
        });
        assert_eq!(told, Some(false), "what the other one copied is noted nowhere");
        bench.apply(Event::UpstreamLost { orderly: true }).record().take();
    }
}

/// Found by the simulator: a gateway that was stopped in good order recorded what its mirror lacks
/// while a change still waited for its range behind a slow disk. The change came after that record,
/// the store was marked clean, and the next start knew nothing of it.
#[test]
fn rule_9_what_is_under_way_when_a_gateway_stops_is_recorded_before_it_is_gone() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    bench.change(1, at(4, 1)).record();
    bench.change(2, at(4, 2)).record().take();
    bench.apply(Event::Closing).record();
    assert!(!bench.machine.is_idle(), "a change waits");
    bench.applied(1).record();
    bench.take();
    bench.applied(2);
    let key = crate::record::dirty_key(GROUP, WEST, VOLUME);
    let kept = bench.out.iter().find_map(|effect| match effect {
        Effect::Record { records, .. } => records.iter().find(|(name, _)| *name == key),
        _ => None,
    });
    let map = DirtyMap::decode(kept.unwrap().1.as_ref().unwrap()).unwrap();
    assert_eq!(map.runs().last(), Some(&block::BlockRange::new(4, 6)));
    bench.record();
    assert!(bench.machine.is_idle());
}

impl Bench {
    /// Makes a copy that follows nobody the primary, as it is.
    pub(super) fn promote(&mut self, consent: Consent) {
        self.apply(Event::Command(Command::Promote { consent }));
        let rounds: Vec<u64> = self.out.iter().filter_map(flush_round).collect();
        for round in rounds {
            self.apply(Event::Flushed { round, result: Ok(()) });
        }
        self.record();
        assert_eq!(self.machine.status().role, Role::Primary);
    }
}

fn flush_round(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::FlushLocal { round, .. } => Some(*round),
        _ => None,
    }
}
