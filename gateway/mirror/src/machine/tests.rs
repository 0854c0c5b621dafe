//! Event lists: what follows from what, in which order. Each rule that must never break has its
//! case here; schedules are the simulator's.

use block::{
    Epoch, Extent, GatewayId, Generation, Geometry, Goodbye, GroupId, IoError, LegId, Message,
    Open, Opened, Predecessor, Quality, Seq, SessionId, VolumeId, VolumeOffer, Vote, WriteId,
};

use super::{Effect, Event, Machine, Note, Opening, Pace, Restored, Taken};
use crate::dirty::DirtyMap;
use crate::record::GroupRecord;
use crate::status::{Cause, Phase, Serving};
use crate::{Command, Consent, Policy, Refusal, Role, SessionState, Split};

const GROUP: GroupId = GroupId::of(1);
const VOLUME: VolumeId = VolumeId::of(2);
const WEST: GatewayId = GatewayId::of(3);
const BOOT: [u8; 16] = [7; 16];

/// A machine and what it wants, with shorthands for what happens to it.
struct Bench {
    machine: Machine,
    out: Vec<Effect>,
    generations: u128,
}

fn at(block: u64, blocks: u64) -> Extent {
    Extent::new(block * 4096, blocks * 4096).unwrap()
}

fn leg() -> LegId {
    LegId::new(0).unwrap()
}

fn restored(clean: bool, active: &[u64]) -> Restored {
    Restored {
        volume: VOLUME,
        name: "orders".to_owned(),
        geometry: Geometry::new(64 << 20).unwrap(),
        clean,
        doubtful: false,
        active: active.iter().map(|index| block::ActivityExtent::new(*index)).collect(),
        snapshots: Vec::new(),
        named: Vec::new(),
        attributes: None,
    }
}

impl Bench {
    fn primary() -> Self {
        Self::founded(Some(Generation::of(1)))
    }

    fn mirror() -> Self {
        Self::founded(None)
    }

    fn founded(generation: Option<Generation>) -> Self {
        let quality = if generation.is_some() { Quality::Source } else { Quality::Blank };
        let (_, record) = super::found(GROUP, "orders", vec![VOLUME], generation, (quality, false));
        let record = GroupRecord::decode(&record.unwrap()).unwrap();
        Self::restored(record, restored(true, &[]), |_, _| DirtyMap::default())
    }

    fn restored(
        record: GroupRecord,
        volume: Restored,
        dirty: impl FnMut(GatewayId, VolumeId) -> DirtyMap,
    ) -> Self {
        let machine = Machine::restore(record, BOOT, &[volume], dirty);
        let mut bench = Self { machine, out: Vec::new(), generations: 100 };
        bench.supply();
        let mut out = Vec::new();
        bench.machine.start(&mut out);
        bench.out = out;
        bench.record();
        bench
    }

    fn supply(&mut self) {
        while self.machine.wants_supply() {
            self.generations += 1;
            self.machine.supply(Generation::of(self.generations));
        }
    }

    fn apply(&mut self, event: Event) -> &mut Self {
        self.supply();
        self.machine.apply(event, &mut self.out);
        self
    }

    fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Makes every record and activity set durable that was asked for.
    fn record(&mut self) -> &mut Self {
        loop {
            let (mut done, mut rest) = (Vec::new(), Vec::new());
            for effect in self.take() {
                match effect {
                    Effect::Record { number, .. } => {
                        done.push(Event::Recorded { number, result: Ok(()) });
                    }
                    Effect::Activate { round, .. } => {
                        done.push(Event::Activated { round, result: Ok(()) });
                    }
                    other => rest.push(other),
                }
            }
            self.out = rest;
            if done.is_empty() {
                return self;
            }
            for event in done {
                self.apply(event);
            }
        }
    }

    fn change(&mut self, write: u64, extent: Extent) -> &mut Self {
        self.apply(Event::Change {
            write: WriteId::new(write),
            volume: 0,
            extent,
            payload: extent.len(),
        })
    }

    fn applied(&mut self, write: u64) -> &mut Self {
        self.apply(Event::Applied { write: WriteId::new(write), result: Ok(()) })
    }

    fn heard(&mut self, message: Message) -> &mut Self {
        self.apply(Event::Heard { leg: leg(), message })
    }

    fn ack(&mut self, seq: Seq) -> &mut Self {
        self.heard(Message::Acks(vec![seq]))
    }

    /// The number under which a change was sent to the mirror.
    fn sent(&self, write: u64) -> Option<Seq> {
        self.out.iter().find_map(|effect| match effect {
            Effect::Send { seq, write: sent, .. } if sent.get() == write => Some(*seq),
            _ => None,
        })
    }

    fn answer(&self, write: u64) -> Option<Result<(), IoError>> {
        self.out.iter().find_map(|effect| match effect {
            Effect::Answer { write: answered, result } if answered.get() == write => Some(*result),
            _ => None,
        })
    }

    /// A host flushes, and the copy here is durable.
    fn flush_here(&mut self, write: u64) -> &mut Self {
        self.apply(Event::Flush { write: WriteId::new(write), volume: 0 });
        let round = self.out.iter().find_map(|effect| match effect {
            Effect::FlushLocal { round, .. } => Some(*round),
            _ => None,
        });
        let round = round.expect("the copy here is flushed");
        self.apply(Event::Flushed { round, result: Ok(()) })
    }

    fn flush_seq(&self) -> Option<Seq> {
        self.out.iter().rev().find_map(|effect| match effect {
            Effect::Post { message: Message::Flush { seq }, .. } => Some(*seq),
            _ => None,
        })
    }

    fn add_leg(&mut self, policy: Policy) -> &mut Self {
        self.apply(Event::Command(Command::AddLeg {
            gateway: WEST,
            site: "west".to_owned(),
            sessions: vec![SessionId::of(9)],
            policy,
            holds_content: false,
        }));
        self.record()
    }

    fn connect(&mut self, generation: Option<u128>) -> &mut Self {
        let opened = Opened {
            quality: if generation.is_some() { Quality::InSync } else { Quality::Blank },
            generation: generation.map(Generation::of),
            ancestors: Vec::new(),
            differences_known: true,
        };
        let opening = Box::new(Opening { opened, differs: Vec::new() });
        self.apply(Event::LinkVersion { leg: leg(), version: block::PROTOCOL_VERSION });
        self.apply(Event::Connected { leg: leg(), opening })
    }

    /// A mirror with nothing to copy is asked to vote, votes and is in sync.
    fn vote(&mut self) -> &mut Self {
        let seq = self.flush_seq().expect("everything is made durable before the vote");
        self.heard(Message::Durable { seq });
        self.heard(Message::Voted(Vote::InSync));
        self.record()
    }

    fn in_sync(policy: Policy) -> Self {
        let mut bench = Self::primary();
        bench.add_leg(policy).connect(None);
        bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new()] }).vote();
        assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
        bench.take();
        // A first change warms the activity log.
        bench.change(0, at(0, 1)).record().applied(0);
        let seq = bench.sent(0).unwrap();
        bench.ack(seq);
        assert_eq!(bench.answer(0), Some(Ok(())));
        bench.take();
        bench
    }

    fn lose(&mut self) -> &mut Self {
        let cause = Cause::LinkLost("cut".to_owned());
        self.apply(Event::Disconnected { leg: leg(), cause })
    }

    /// An operator swaps roles, and everything is drained.
    fn drain_for_swap(&mut self) -> &mut Self {
        self.apply(Event::Command(Command::Reverse { leg: leg() }));
        let round = self.out.iter().find_map(|effect| match effect {
            Effect::FlushLocal { round, .. } => Some(*round),
            _ => None,
        });
        let seq = self.flush_seq().unwrap();
        self.apply(Event::Flushed { round: round.unwrap(), result: Ok(()) });
        self.heard(Message::Durable { seq }).record()
    }

    fn leg_record(&self) -> crate::record::LegRecord {
        let (_, bytes) = self.machine.group_record();
        GroupRecord::decode(&bytes.unwrap()).unwrap().legs[0].clone().unwrap()
    }
}

#[test]
fn rule_1_waits_for_the_copy_here_and_the_mirror() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1));
    let seq = bench.sent(1).unwrap();
    bench.applied(1);
    assert_eq!(bench.answer(1), None);
    bench.ack(seq);
    assert_eq!(bench.answer(1), Some(Ok(())));
    bench.take();
    bench.change(2, at(2, 1));
    let seq = bench.sent(2).unwrap();
    bench.ack(seq);
    assert_eq!(bench.answer(2), None);
    bench.applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())));
}

#[test]
fn rule_1_records_a_lost_mirror_before_it_acknowledges_without_it() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1)).applied(1).lose();
    assert_eq!(bench.answer(1), None);
    // Nor is a change that came after the loss.
    bench.change(2, at(2, 1));
    assert_eq!((bench.answer(2), bench.sent(2)), (None, None));
    assert!(!bench.leg_record().in_sync);
    bench.record().applied(2);
    assert_eq!((bench.answer(1), bench.answer(2)), (Some(Ok(())), Some(Ok(()))));
    let status = bench.machine.status();
    assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, 3 * 4096);
    assert_eq!(status.legs[0].state, SessionState::Halted);
}

/// Found by the simulator: the witness took a mirror out of the set that was being called. It was
/// connected before that was recorded, was struck off what it was about to receive, and stood as one
/// that nobody waits for.
#[test]
fn rule_1_a_mirror_that_leaves_is_called_again_when_that_is_recorded() {
    let mut bench = Bench::in_sync(Policy { split: Split::Manual, ..Policy::default() });
    bench.lose().record();
    bench.take();
    let goes_on = Command::SetPolicy { leg: leg(), policy: Policy::default() };
    bench.apply(Event::Command(goes_on));
    let hangs = |bench: &Bench, again: bool| {
        let is = |e: &Effect| matches!(e, Effect::Hang { redial, .. } if *redial == again);
        bench.out.iter().any(is)
    };
    assert!(hangs(&bench, false) && !hangs(&bench, true), "{:?}", bench.out);
    // It was on its way already.
    bench.connect(Some(1));
    let status = bench.machine.status();
    assert_eq!(status.legs[0].link, crate::LinkState::Connecting);
    bench.record();
    assert!(hangs(&bench, true), "{:?}", bench.out);
}

/// A volume was taken as the destination of a session that its source then refused.
#[test]
fn rec_26_what_stands_against_a_mirror_is_known_before_anything_is_touched() {
    let mut bench = Bench::primary();
    let policy = Policy::default();
    let may = |bench: &Bench, gateway: u128| {
        bench.machine.may_mirror(GatewayId::of(gateway), &policy, false)
    };
    for gateway in 10..18 {
        assert_eq!(may(&bench, gateway), Ok(()));
        bench.apply(Event::Command(Command::AddLeg {
            gateway: GatewayId::of(gateway),
            site: "west".to_owned(),
            sessions: vec![SessionId::of(gateway)],
            policy: policy.clone(),
            holds_content: false,
        }));
        assert_eq!(may(&bench, gateway + 1), Err(Refusal::Busy), "it is being recorded");
        bench.record();
        assert_eq!(may(&bench, gateway), Err(Refusal::AlreadyMirrored));
    }
    let before = bench.machine.status();
    assert_eq!(may(&bench, 18), Err(Refusal::TooManyLegs));
    assert_eq!(bench.machine.status(), before, "it was a question");
    let mirror = Bench::mirror();
    assert_eq!(may(&mirror, 10), Err(Refusal::NotPrimary));
}

#[test]
fn rule_2_overlapping_changes_go_one_after_the_other() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 2)).change(2, at(2, 2));
    assert!(bench.sent(1).is_some() && bench.sent(2).is_none());
    let first = bench.sent(1).unwrap();
    bench.applied(1);
    assert!(bench.sent(2).is_none());
    bench.ack(first);
    assert!(bench.sent(2).is_some_and(|second| second > first));
}

#[test]
fn rule_2_a_resync_copy_waits_for_the_change_in_its_way() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    // The first change that the lost mirror lacks begins a history, which is recorded first.
    bench.change(1, at(4, 1));
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Apply { .. })));
    bench.record().applied(1);
    bench.take();
    bench.change(2, at(4, 1));
    let before = bench.machine.status().legs[0].sessions[0].out_of_sync_bytes;
    bench.connect(Some(1));
    // Block 0 is copied; block 4 is in flight and is not.
    let copied: Vec<Extent> = bench
        .out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Copy { extent, .. } => Some(*extent),
            _ => None,
        })
        .collect();
    assert_eq!(copied, [at(0, 1)]);
    assert_eq!(before, 2 * 4096);
    bench.applied(2);
    let all = bench.out.iter().filter(|effect| matches!(effect, Effect::Copy { .. })).count();
    assert_eq!(all, 2, "the copy goes once the change is done");
}

#[test]
fn rule_3_nothing_flies_before_its_extent_is_recorded() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(5000, 1));
    assert!(bench.sent(1).is_none());
    assert!(bench.out.iter().all(|effect| !matches!(effect, Effect::Apply { .. })));
    bench.record();
    assert!(bench.sent(1).is_some());
}

#[test]
fn rule_3_a_crashed_primary_resynchronises_its_active_extents() {
    let bench = Bench::in_sync(Policy::default());
    let (_, bytes) = bench.machine.group_record();
    let record = GroupRecord::decode(&bytes.unwrap()).unwrap();
    let bench = Bench::restored(record, restored(false, &[3]), |_, _| DirtyMap::default());
    let status = bench.machine.status();
    assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, 4 << 20);
    assert_eq!(status.serving, Serving::WaitingForMirror);
}

/// Found by the simulator: in a small volume the extents that a crash left active are all there are.
/// They were taken for a volume that had just joined the group, so its copy was emptied and copied
/// whole after each crash of the primary.
#[test]
fn rule_3_a_volume_that_is_active_from_end_to_end_is_compared_not_copied_whole() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    let (_, record) = bench.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let all: Vec<u64> = (0..16).collect();
    let mut bench = Bench::restored(record, restored(false, &all), |_, _| DirtyMap::default());
    bench.take();
    bench.connect(Some(1)).record();
    let asks = |effect: &Effect| matches!(effect, Effect::Copy { compare: true, .. });
    assert!(bench.out.iter().any(asks), "{:?}", bench.out);
    assert!(!bench.out.iter().any(|effect| matches!(effect, Effect::List { .. })));
}

#[test]
fn rule_4_what_was_acknowledged_and_not_flushed_is_dirty_after_a_loss() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1)).applied(1);
    let seq = bench.sent(1).unwrap();
    bench.ack(seq).lose();
    // Blocks 0 and 1 were acknowledged and never flushed.
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 2 * 4096);

    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::Flush { write: WriteId::new(1), volume: 0 });
    let seq = bench.flush_seq().unwrap();
    let round = bench.out.iter().find_map(|effect| match effect {
        Effect::FlushLocal { round, .. } => Some(*round),
        _ => None,
    });
    bench.apply(Event::Flushed { round: round.unwrap(), result: Ok(()) });
    assert_eq!(bench.answer(1), None, "a flush waits for every copy");
    bench.heard(Message::Durable { seq });
    assert_eq!(bench.answer(1), Some(Ok(())));
    bench.lose();
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 0);
}

#[test]
fn rule_4_a_flush_waits_until_every_mirror_in_sync_is_durable() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::Flush { write: WriteId::new(1), volume: 0 });
    let seq = bench.flush_seq().expect("the mirror is asked");
    let round = bench.out.iter().find_map(|effect| match effect {
        Effect::FlushLocal { round, .. } => Some(*round),
        _ => None,
    });
    bench.apply(Event::Flushed { round: round.unwrap(), result: Ok(()) });
    assert_eq!(bench.answer(1), None, "it is durable here only");
    bench.heard(Message::Durable { seq });
    assert_eq!(bench.answer(1), Some(Ok(())));
}

#[test]
fn rule_6_a_higher_epoch_drops_hosts_before_anything_else() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1));
    bench.take();
    bench.heard(Message::Goodbye(Goodbye::Fenced { epoch: Epoch::new(9) }));
    assert!(matches!(bench.out[0], Effect::DropHosts));
    assert_eq!(bench.answer(1), Some(Err(IoError::Fenced)));
    assert_eq!(bench.machine.status().role, Role::Fenced);
    bench.record().take();
    bench.change(2, at(2, 1));
    assert_eq!(bench.answer(2), Some(Err(IoError::Fenced)));
    // What the mirror may lack is still known.
    assert_eq!(bench.machine.status().legs[0].sessions[0].out_of_sync_bytes, 2 * 4096);
}

#[test]
fn rule_6_a_lower_epoch_is_refused_by_name() {
    let mut bench = Bench::mirror();
    let open = |epoch| {
        Box::new(Open {
            group: GROUP,
            name: "orders".to_owned(),
            epoch: Epoch::new(epoch),
            generation: Generation::of(1),
            ancestors: Vec::new(),
            volumes: vec![VolumeOffer {
                volume: VOLUME,
                session: SessionId::of(9),
                name: "orders".to_owned(),
                bytes: 64 << 20,
            }],
            discard: false,
            relayed: false,
            heir_of: None,
        })
    };
    let site = || "east".to_owned();
    let gateway = GatewayId::of(8);
    bench.apply(Event::Opened { open: open(5), site: site(), gateway }).record();
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Accept { .. })));
    bench.take();
    bench.apply(Event::Opened { open: open(4), site: site(), gateway });
    let fenced = Goodbye::Fenced { epoch: Epoch::new(5) };
    assert!(
        bench
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::Refuse { goodbye } if *goodbye == fenced))
    );
    assert_eq!(bench.machine.status().counters.fenced_writes, 1);
}

#[test]
fn rule_7_a_half_copied_mirror_is_not_promoted_without_a_word() {
    let mut bench = Bench::mirror();
    bench.apply(Event::Command(Command::Promote { consent: Consent::Outdated }));
    let refusal = Refusal::QualityTooLow { quality: Quality::Blank };
    assert!(
        bench
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::Answered(Err(why)) if *why == refusal))
    );
}

/// Found by the simulator: a mirror was asked to record one history, the first change without
/// another mirror began the next one, and the vote counted as one for that. The mirror held the old
/// history, its dirty map counted from the new one: it was copied whole at the next opportunity, and
/// would have been told a split brain had it been promoted.
#[test]
fn rule_9_a_vote_counts_for_the_history_that_was_asked() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.lose().record();
    bench.connect(Some(1)).record();
    // What was not flushed before is copied first.
    let copied = bench.out.iter().find_map(|effect| match effect {
        Effect::Copy { seq, .. } => Some(*seq),
        _ => None,
    });
    bench.ack(copied.unwrap());
    let seq = bench.flush_seq().unwrap();
    bench.heard(Message::Durable { seq });
    assert!(bench.out.iter().any(|effect| matches!(
        effect,
        Effect::Post { message: Message::Promote { generation, .. }, .. }
            if *generation == Generation::of(1)
    )));
    bench.take();
    // Nobody is in sync, so this change begins a new history.
    bench.change(9, at(0, 1)).record();
    bench.take();
    bench.heard(Message::Voted(Vote::InSync));
    let asked = bench.out.iter().find_map(|effect| match effect {
        Effect::Post { message: Message::Promote { generation, .. }, .. } => Some(*generation),
        _ => None,
    });
    assert!(asked.is_some_and(|asked| asked != Generation::of(1)), "{:?}", bench.out);
    assert!(!bench.leg_record().in_sync);
    bench.heard(Message::Voted(Vote::InSync)).record();
    assert!(bench.leg_record().in_sync);
    assert_eq!(bench.leg_record().base, asked);
}

#[test]
fn rule_11_a_failed_sync_latches_the_copy() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::Flush { write: WriteId::new(1), volume: 0 });
    bench.apply(Event::Flushed { round: 1, result: Err(IoError::Media) });
    assert!(matches!(bench.answer(1), Some(Err(_))));
    bench.take();
    bench.change(2, at(1, 1));
    assert_eq!(bench.answer(2), Some(Err(IoError::Latched)));
    assert_eq!(bench.machine.status().serving, Serving::Latched);
    // The next start finds another kernel in the record, as after a loss of power.
    let (_, bytes) = bench.machine.group_record();
    assert_ne!(GroupRecord::decode(&bytes.unwrap()).unwrap().host_boot, BOOT);
}

/// A growth ends with a sync of its own. If that fails, everything is refused as after any other.
#[test]
fn rule_11_a_growth_whose_sync_fails_latches_the_copy() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.take();
    bench.apply(Event::Grown { volume: 0, result: Err(IoError::Latched) });
    let is_note = |effect: &Effect| matches!(effect, Effect::Note(Note::Latched { .. }));
    assert!(bench.out.iter().any(is_note));
    assert_eq!(bench.machine.status().serving, Serving::Latched);
}

/// A sync that failed as the gateway started took what a killed process had left, and the next
/// start counted the copy as whole because the machine had not been started anew.
#[test]
fn rule_11_a_copy_in_doubt_is_not_in_sync_and_says_so_before_the_doubt_is_forgotten() {
    let quality = (Quality::InSync, false);
    let (_, record) = super::found(GROUP, "orders", vec![VOLUME], None, quality);
    let mut record = GroupRecord::decode(&record.unwrap()).unwrap();
    record.host_boot = BOOT;
    let killed = restored(false, &[0]);
    let machine = Machine::restore(record.clone(), BOOT, std::slice::from_ref(&killed), |_, _| {
        DirtyMap::default()
    });
    assert_eq!(machine.status().quality, Quality::InSync);
    let doubtful = Restored { doubtful: true, ..killed };
    let none = |_, _| DirtyMap::default();
    let machine = Machine::restore(record, BOOT, std::slice::from_ref(&doubtful), none);
    assert_eq!(machine.status().quality, Quality::Inconsistent);
    let mut bench = Bench { machine, out: Vec::new(), generations: 100 };
    bench.supply();
    bench.machine.start(&mut bench.out);
    let (_, bytes) = bench.machine.group_record();
    let recorded = GroupRecord::decode(&bytes.unwrap()).unwrap();
    assert_eq!(recorded.quality, Quality::Inconsistent, "and it is recorded");

    // With the first activity the store forgets its doubt. Also where nobody mirrors the copy.
    let quality = (Quality::Source, false);
    let first = Some(Generation::of(1));
    let (_, record) = super::found(GROUP, "orders", vec![VOLUME], first, quality);
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let machine = Machine::restore(record, BOOT, &[doubtful], none);
    let mut bench = Bench { machine, out: Vec::new(), generations: 100 };
    let activates =
        |bench: &Bench| bench.out.iter().any(|effect| matches!(effect, Effect::Activate { .. }));
    let records = |bench: &mut Bench| {
        let numbers = bench.take().into_iter().filter_map(|effect| match effect {
            Effect::Record { number, .. } => Some(number),
            _ => None,
        });
        numbers.collect::<Vec<_>>()
    };
    bench.supply();
    bench.change(1, at(2048, 1));
    assert!(!activates(&bench), "{:?}", bench.out);
    for number in records(&mut bench) {
        bench.apply(Event::Recorded { number, result: Ok(()) });
    }
    assert!(activates(&bench), "{:?}", bench.out);
}

/// Found by the simulator: a primary told its mirrors of a history that its ledger had failed to
/// take. When it came back it did not know that history, and took both mirrors for split brains.
#[test]
fn rule_09_mirrors_hear_of_a_history_when_it_is_recorded() {
    let mut bench = Bench::in_sync(Policy::default());
    let second = LegId::new(1).unwrap();
    bench.apply(Event::Command(Command::AddLeg {
        gateway: GatewayId::of(77),
        site: "north".to_owned(),
        sessions: vec![SessionId::of(10)],
        policy: Policy::default(),
        holds_content: false,
    }));
    bench.record();
    let opened = Opened {
        quality: Quality::Blank,
        generation: None,
        ancestors: Vec::new(),
        differences_known: true,
    };
    bench.apply(Event::LinkVersion { leg: second, version: block::PROTOCOL_VERSION });
    let opening = Box::new(Opening { opened, differs: Vec::new() });
    bench.apply(Event::Connected { leg: second, opening });
    bench.apply(Event::Listed { leg: second, mapped: vec![Vec::new()] });
    let seq = bench.flush_seq().unwrap();
    bench.apply(Event::Heard { leg: second, message: Message::Durable { seq } });
    bench.apply(Event::Heard { leg: second, message: Message::Voted(Vote::InSync) }).record();
    bench.take();

    bench.change(1, at(1, 1)).applied(1);
    bench.apply(Event::Disconnected { leg: second, cause: Cause::LinkLost("cut".to_owned()) });
    // A change that comes meanwhile waits, so that no mirror has it before it knows its history.
    bench.change(2, at(2, 1));
    let tells = |bench: &Bench| {
        let is_promote = |effect: &Effect| {
            matches!(effect, Effect::Post { message: Message::Promote { .. }, .. })
        };
        bench.out.iter().position(is_promote)
    };
    assert_eq!((tells(&bench), bench.sent(2)), (None, None), "{:?}", bench.out);
    bench.record();
    let sends = |effect: &Effect| matches!(effect, Effect::Send { write, .. } if write.get() == 2);
    let sent = bench.out.iter().position(sends).expect("it goes on");
    assert!(tells(&bench).expect("it is told") < sent, "{:?}", bench.out);
}

#[test]
fn rule_12_a_mirror_that_is_too_slow_does_not_hang_its_hosts() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.change(1, at(1, 1)).applied(1);
    bench.apply(Event::Tick { now_ms: 1_000 }).record();
    assert_eq!(bench.answer(1), None);
    bench.apply(Event::Tick { now_ms: 1_100 }).record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    let status = bench.machine.status();
    assert_eq!(status.legs[0].state, SessionState::Error);
    assert_eq!(status.legs[0].cause, Some(Cause::TooSlow));
}

/// A disk that does not sync any more lets changes be acknowledged and heartbeats be answered.
#[test]
fn rule_12_a_mirror_that_does_not_sync_does_not_hang_the_flush_of_a_host() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.flush_here(1);
    bench.apply(Event::Tick { now_ms: 1_000 }).record();
    assert_eq!(bench.answer(1), None);
    bench.apply(Event::Tick { now_ms: 1_100 });
    assert_eq!(bench.answer(1), None, "the record comes first (rule 1)");
    bench.record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    let leg = &bench.machine.status().legs[0];
    assert_eq!((leg.state, &leg.cause), (SessionState::Error, &Some(Cause::TooSlow)));
    assert_eq!(leg.sessions[0].out_of_sync_bytes, 4096, "it may be in its memory only (rule 4)");
}

#[test]
fn rule_12_a_flush_waits_for_as_long_as_the_mirror_takes_if_the_policy_says_block() {
    let on_slow = crate::OnSlow::Block;
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, on_slow, ..Policy::default() });
    bench.flush_here(1);
    let seq = bench.flush_seq().expect("the mirror is flushed");
    bench.apply(Event::Tick { now_ms: 60_000 }).record();
    assert_eq!(bench.answer(1), None);
    bench.heard(Message::Durable { seq });
    assert_eq!(bench.answer(1), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
}

#[test]
fn rule_12_a_flush_that_no_host_waits_for_may_take_its_time() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.apply(Event::Tick { now_ms: 2_000 });
    assert!(bench.flush_seq().is_some(), "a mirror that nobody flushes is flushed");
    bench.apply(Event::Tick { now_ms: 60_000 }).record();
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
}

/// Found by the simulator: a mirror that was being brought up to date stood still, and a write to
/// blocks that were on their way there, as a copy or as an earlier write, waited for as long as it
/// did, whatever the deadline.
#[test]
fn rule_12_a_mirror_that_is_copied_to_does_not_hang_its_hosts() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.lose().record();
    bench.change(1, at(4, 1)).record().applied(1);
    bench.apply(Event::Tick { now_ms: 5_000 });
    bench.connect(Some(1)).record();
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::Copy { .. })));
    bench.take();
    bench.apply(Event::Tick { now_ms: 7_000 });
    assert_ne!(bench.machine.status().legs[0].state, SessionState::Error, "nobody waits");
    bench.change(2, at(4, 1));
    assert_eq!(bench.answer(2), None, "the range is the copier's");
    bench.apply(Event::Tick { now_ms: 7_100 }).record().applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].cause, Some(Cause::TooSlow));
}

#[test]
fn rule_12_a_write_that_only_a_mirror_to_be_lacks_does_not_hang_the_next_one() {
    let mut bench = Bench::in_sync(Policy { ack_deadline_ms: 1_000, ..Policy::default() });
    bench.lose().record();
    bench.change(1, at(4, 1)).record().applied(1);
    bench.connect(Some(1)).record().take();
    bench.change(2, at(9, 1)).applied(2);
    assert_eq!(bench.answer(2), Some(Ok(())), "nobody waits for that mirror");
    assert!(bench.sent(2).is_some());
    bench.change(3, at(9, 1));
    assert_eq!(bench.answer(3), None, "but what goes there goes in order");
    bench.apply(Event::Tick { now_ms: 1_100 }).record().applied(3);
    assert_eq!(bench.answer(3), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].cause, Some(Cause::TooSlow));
}

#[test]
fn split_manual_fails_what_the_lost_mirror_lacks() {
    let mut bench = Bench::in_sync(Policy { split: Split::Manual, ..Policy::default() });
    bench.change(1, at(1, 1)).applied(1).lose();
    assert_eq!(bench.answer(1), Some(Err(IoError::Halted)));
    assert!(bench.leg_record().in_sync, "it holds every acknowledged write");
    bench.take();
    bench.change(2, at(2, 1));
    assert_eq!(bench.answer(2), Some(Err(IoError::Halted)));
    assert_eq!(bench.machine.status().serving, Serving::Halted);
}

/// The copier held the range when the link was cut: giving it back let the write go to this copy
/// alone, and it was acknowledged although the mirror still counted as one that has everything.
#[test]
fn split_manual_fails_what_waited_for_a_copy_when_the_mirror_was_lost() {
    let mut bench = Bench::in_sync(Policy { split: Split::Manual, ..Policy::default() });
    bench.change(1, at(1, 1));
    let seq = bench.sent(1).unwrap();
    bench.ack(seq);
    bench.apply(Event::Applied { write: WriteId::new(1), result: Err(IoError::NoSpace) });
    bench.take();
    bench.change(2, at(1, 1));
    assert_eq!(bench.answer(2), None, "it waits for the copy of its range");
    bench.lose().applied(2);
    assert_eq!(bench.answer(2), Some(Err(IoError::Halted)));
}

#[test]
fn a_write_that_failed_here_is_settled_on_the_mirror() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1));
    let seq = bench.sent(1).unwrap();
    bench.ack(seq);
    bench.apply(Event::Applied { write: WriteId::new(1), result: Err(IoError::NoSpace) });
    assert_eq!(bench.answer(1), Some(Err(IoError::NoSpace)));
    // The mirror has it, this copy has not: it is copied from here.
    assert!(
        bench
            .out
            .iter()
            .any(|effect| matches!(effect, Effect::Copy { extent, .. } if *extent == at(1, 1)))
    );
}

#[test]
fn a_mirror_without_room_is_an_error_of_the_leg_only() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.change(1, at(1, 1)).applied(1);
    let seq = bench.sent(1).unwrap();
    bench.heard(Message::Failed { seq, error: IoError::NoSpace }).record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    assert_eq!(bench.machine.status().legs[0].state, SessionState::Error);
    let cause = Cause::MirrorFailed(IoError::NoSpace);
    assert!(bench.out.iter().any(
        |effect| matches!(effect, Effect::Note(Note::MirrorLost { cause: c, .. }) if *c == cause)
    ));
}

#[test]
fn a_block_that_cannot_be_read_here_is_counted_and_the_mirrors_is_left_alone() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.apply(Event::LinkVersion { leg: leg(), version: 1 });
    let begin = || Event::Command(Command::Verify { leg: leg(), bytes_per_second: 1 << 20 });
    bench.apply(begin());
    let too_old = Refusal::PeerTooOld { theirs: 1, needs: 2 };
    assert!(matches!(&bench.take()[..], [Effect::Answered(Err(why))] if *why == too_old));
    bench.apply(Event::LinkVersion { leg: leg(), version: 2 });
    bench.apply(begin());
    let blocks = vec![block::BlockRange::new(0, 4)];
    bench.apply(Event::Listed { leg: leg(), mapped: vec![blocks.clone()] });
    bench.heard(Message::Mapped { volume: 0, blocks, last: true }).take();
    bench.apply(Event::Tick { now_ms: 1_000 });
    let asked = bench.take().into_iter().find_map(|effect| match effect {
        Effect::Copy { copy, compare: true, .. } => Some(copy),
        _ => None,
    });
    let copy = asked.expect("both lists are here and there is budget");
    let error = IoError::Checksum;
    bench.apply(Event::CopyFailed { leg: leg(), copy, error });
    let found = bench.take().into_iter().find_map(|effect| match effect {
        Effect::Certify { found, .. } => Some(found),
        _ => None,
    });
    let found = found.expect("nothing is left to compare");
    assert_eq!((found.blocks, found.mismatched, found.unreadable), (4, 0, 4));
    assert_eq!(bench.machine.status().legs[0].phase, Phase::Equivalent);
    // The range is free again: a change of it flies at once.
    bench.change(5, at(0, 1));
    assert!(bench.sent(5).is_some());
}
mod attributes;
mod companions;
mod drain;
mod gaps;
mod handover;
mod histories;
mod members;
mod modes;
mod named;
mod pace;
mod parted;
mod recovery;
mod relay;
