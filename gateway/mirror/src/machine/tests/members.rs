//! A volume joins a group, a volume leaves it, at any moment.

use super::*;
use crate::machine::Lacks;
use crate::record::{dirty_key, fresh_key, group_key};

const SECOND: VolumeId = VolumeId::of(22);
const OWN: GroupId = GroupId::of(23);

fn second() -> Box<Restored> {
    Box::new(Restored { volume: SECOND, name: "logs".to_owned(), ..restored(true, &[]) })
}

fn whole() -> u64 {
    second().geometry.bytes()
}

/// What is being recorded under a key, by the newest record that names it.
fn recorded(out: &[Effect], key: &str) -> Option<Option<bytes::Bytes>> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::Record { records, .. } => {
            records.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        }
        _ => None,
    })
}

fn group_of(out: &[Effect], group: GroupId) -> GroupRecord {
    let bytes = recorded(out, &group_key(group)).expect("it is recorded").expect("and not removed");
    GroupRecord::decode(&bytes).unwrap()
}

fn has_dialled(out: &[Effect]) -> bool {
    let dials =
        |effect: &Effect| matches!(effect, Effect::Dial { .. } | Effect::Hang { redial: true, .. });
    out.iter().any(dials)
}

fn answered(out: &[Effect]) -> Option<Result<(), Refusal>> {
    out.iter().find_map(|effect| match effect {
        Effect::Answered(result) => Some(result.clone()),
        _ => None,
    })
}

impl Bench {
    fn enlist(&mut self) -> &mut Self {
        let sessions = vec![SessionId::of(99)];
        self.apply(Event::Enlist { volume: second(), sessions, records: Vec::new() })
    }

    fn dismiss(&mut self, volume: VolumeId) -> &mut Self {
        let records = vec![("book".to_owned(), None)];
        self.apply(Event::Dismiss { volume, group: OWN, name: "logs".to_owned(), records })
    }

    /// Two volumes and a mirror that has both.
    fn two_in_sync() -> Self {
        let mut bench = Self::in_sync(Policy::default());
        bench.enlist().record();
        bench.take();
        bench.joined_by_copy(&[]);
        bench.take();
        bench
    }

    /// The mirror is opened with the longer list and gets what it lacks.
    fn joined_by_copy(&mut self, mapped: &[block::BlockRange]) -> &mut Self {
        self.connect(Some(1));
        self.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new(), mapped.to_vec()] });
        // The wipe, then whatever is copied, one after the other as it comes.
        for _ in 0..64 {
            let seqs: Vec<Seq> = self.out.iter().filter_map(copy_seq).collect();
            self.take();
            for seq in seqs {
                self.ack(seq);
            }
            if self.flush_seq().is_some() {
                break;
            }
        }
        self.vote();
        assert_eq!(self.machine.status().legs[0].phase, Phase::Equivalent);
        self
    }
}

fn copy_seq(effect: &Effect) -> Option<Seq> {
    match effect {
        Effect::Copy { seq, .. }
        | Effect::Post { message: Message::Change { seq, resync: true, .. }, .. } => Some(*seq),
        _ => None,
    }
}

#[test]
fn a_volume_joins_with_one_record_before_any_mirror_is_opened_with_it() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.enlist();
    let outdated =
        |effect: &Effect| matches!(effect, Effect::Post { message: Message::Outdate, .. });
    assert!(bench.out.iter().any(outdated), "what the mirror has is an old copy from here on");
    assert!(!has_dialled(&bench.out), "not before it is recorded");
    let group = group_of(&bench.out, GROUP);
    assert_eq!(group.volumes, [VOLUME, SECOND]);
    let leg = group.legs[0].as_ref().unwrap();
    assert!(leg.wanted && !leg.in_sync, "it is opened again whatever comes between");
    assert_eq!(leg.sessions, [SessionId::of(9), SessionId::of(99)]);
    let lacks = recorded(&bench.out, &dirty_key(GROUP, WEST, SECOND)).unwrap().unwrap();
    assert_eq!(DirtyMap::decode(&lacks).unwrap().bytes(), whole());
    assert_eq!(answered(&bench.out), None);
    bench.record();
    assert_eq!(answered(&bench.out), Some(Ok(())));
    assert!(has_dialled(&bench.out));
    let open = bench.machine.open_message(super::leg()).unwrap();
    assert_eq!(open.volumes.iter().map(|offer| offer.volume).collect::<Vec<_>>(), [VOLUME, SECOND]);
}

#[test]
fn a_volume_that_joined_is_emptied_and_copied_whole_and_the_others_by_delta() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.enlist().record();
    bench.take();
    bench.connect(Some(1));
    let mapped = vec![vec![block::BlockRange::new(0, 64)], vec![block::BlockRange::new(8, 9)]];
    bench.apply(Event::Listed { leg: leg(), mapped });
    let wipes: Vec<u16> = bench
        .out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Post { message: Message::Change { volume, resync: true, .. }, .. } => {
                Some(*volume)
            }
            _ => None,
        })
        .collect();
    assert_eq!(wipes, [1], "only what is new is emptied");
    let sessions = bench.machine.status().legs[0].sessions.clone();
    assert!(!sessions[0].full && sessions[1].full);
    // Of the old volume the one block that was never flushed, of the new one what is mapped.
    assert_eq!(sessions[0].resync_total_bytes, 4096);
    assert_eq!(sessions[1].resync_total_bytes, 4096);
    let seq = bench.out.iter().find_map(copy_seq).unwrap();
    bench.take();
    bench.ack(seq);
    let copied = bench.out.iter().filter(|effect| matches!(effect, Effect::Copy { .. })).count();
    assert_eq!(copied, 2);
}

#[test]
fn a_volume_that_joined_is_copied_whole_again_when_its_copy_was_cut_short() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.enlist().record().connect(Some(1));
    bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new(), Vec::new()] });
    let seq = bench.out.iter().find_map(copy_seq).unwrap();
    bench.ack(seq);
    // The wipe was acknowledged and may be in the mirror's memory only.
    bench.lose().record();
    assert_eq!(bench.machine.status().legs[0].sessions[1].out_of_sync_bytes, whole());
    bench.take();
    bench.connect(Some(1));
    assert!(bench.out.iter().any(|effect| matches!(effect, Effect::List { .. })));
}

/// The mark was taken away in memory only: after the next start the mirror was sent all of it again.
#[test]
fn a_volume_that_joined_is_new_no_more_when_a_mirror_that_follows_behind_keeps_a_cut_with_it() {
    let mut bench = modes::following();
    bench.enlist().record().take();
    bench.connect(Some(1));
    bench.apply(Event::Listed { leg: leg(), mapped: vec![Vec::new(), Vec::new()] });
    while modes::cut(&bench).is_none() {
        let effects = bench.take();
        let seqs: Vec<Seq> = effects.iter().filter_map(copy_seq).collect();
        assert!(!seqs.is_empty(), "something is copied until the first cut: {effects:?}");
        for seq in seqs {
            bench.ack(seq);
        }
    }
    let mark = fresh_key(GROUP, WEST, SECOND);
    assert_eq!(recorded(&bench.out, &mark), None, "it is new until the cut is kept");
    let seq = modes::cut(&bench).unwrap();
    bench.heard(Message::CutApplied { seq });
    assert_eq!(recorded(&bench.out, &mark), Some(None), "the mark is gone from the ledger");
}

#[test]
fn a_crash_right_after_a_volume_joined_leaves_all_of_it_to_copy() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.enlist();
    let record = group_of(&bench.out, GROUP);
    let key = dirty_key(GROUP, WEST, SECOND);
    let lacks = DirtyMap::decode(&recorded(&bench.out, &key).unwrap().unwrap()).unwrap();
    let mark = fresh_key(GROUP, WEST, SECOND);
    assert!(recorded(&bench.out, &mark).unwrap().is_some(), "it is new there, not only dirty");
    let volumes = [restored(true, &[]), *second()];
    let machine = Machine::restore(record, BOOT, &volumes, |_, volume| {
        let dirty = if volume == SECOND { lacks.clone() } else { DirtyMap::default() };
        Lacks { dirty, fresh: volume == SECOND }
    });
    let mut again = Bench { machine, out: Vec::new(), generations: 500 };
    again.supply();
    let mut out = Vec::new();
    again.machine.start(&mut out);
    again.out = out;
    assert!(has_dialled(&again.out), "the mirror is opened by itself");
    again.record().connect(Some(1));
    assert!(again.out.iter().any(|effect| matches!(effect, Effect::List { .. })));
}

#[test]
fn a_volume_leaves_when_nothing_is_in_flight_and_hosts_wait_for_it() {
    let mut bench = Bench::two_in_sync();
    bench.apply(host_change(1, 1, at(0, 1))).record();
    let seq = bench.sent(1).unwrap();
    bench.dismiss(VOLUME);
    assert_eq!(bench.machine.ready_to_dismiss(), None, "a change is in flight");
    bench.apply(host_change(2, 1, at(1, 1)));
    bench.apply(host_change(3, 0, at(1, 1)));
    bench.applied(1).ack(seq).record();
    assert_eq!(bench.answer(1), Some(Ok(())));
    assert!((bench.sent(2), bench.answer(2)) == (None, None), "it waits");
    assert!(!has_dialled(&bench.out), "no mirror is opened with the list as it was");
    assert_eq!(bench.machine.ready_to_dismiss(), Some(0));
    bench.take();
    bench.apply(Event::Dismissed);
    assert_eq!(bench.answer(3), Some(Err(IoError::ShuttingDown)));
    let group = group_of(&bench.out, GROUP);
    assert_eq!(group.volumes, [SECOND]);
    assert_eq!(group.legs[0].as_ref().unwrap().sessions, [SessionId::of(99)]);
    let own = group_of(&bench.out, OWN);
    assert_eq!((own.volumes, own.quality), (vec![VOLUME], Quality::Source));
    assert!(own.epoch > Epoch::ZERO && own.lineage.is_some());
    assert_eq!(recorded(&bench.out, "book"), Some(None), "the caller's record is part of it");
    assert_eq!(recorded(&bench.out, &dirty_key(GROUP, WEST, VOLUME)), Some(None));
    assert_eq!(answered(&bench.out), None);
    bench.record();
    assert_eq!(answered(&bench.out), Some(Ok(())));
    assert!(has_dialled(&bench.out));
    let applies = |effect: &Effect| matches!(effect, Effect::Apply { write } if write.get() == 2);
    assert!(bench.out.iter().any(applies), "what was held goes on, under its volume's new index");
}

#[test]
fn a_primary_that_is_fenced_while_a_volume_leaves_keeps_it() {
    let mut bench = Bench::two_in_sync();
    bench.apply(host_change(1, 1, at(0, 1))).record();
    bench.dismiss(VOLUME);
    bench.heard(Message::Goodbye(Goodbye::Fenced { epoch: Epoch::new(9) }));
    // The link was cut already: the news comes another way.
    let open = Open {
        group: GROUP,
        name: "orders".to_owned(),
        epoch: Epoch::new(9),
        generation: Generation::of(9),
        ancestors: Vec::new(),
        volumes: Vec::new(),
        discard: false,
        relayed: false,
        heir_of: None,
    };
    let site = "west".to_owned();
    bench.apply(Event::Opened { open: Box::new(open), site, gateway: WEST });
    assert_eq!(bench.machine.status().role, Role::Fenced, "a list that does not fit fences too");
    assert!(answered(&bench.out).is_some_and(|result| result.is_err()));
    assert_eq!(bench.machine.ready_to_dismiss(), None);
    bench.applied(1).record();
    assert_eq!(bench.machine.status().volumes.len(), 2);
}

#[test]
fn a_bad_copy_is_named_and_its_volume_lets_the_others_go_on() {
    let mut bench = Bench::two_in_sync();
    bench.apply(host_change(1, 1, at(0, 1))).record();
    let seq = bench.sent(1).unwrap();
    bench.applied(1).heard(Message::Failed { seq, error: IoError::NoSpace }).record();
    let leg = bench.machine.status().legs[0].clone();
    assert_eq!((leg.state, leg.failed), (SessionState::Error, Some(SECOND)));
    bench.take();
    bench.dismiss(SECOND).record();
    bench.apply(Event::Dismissed).record();
    assert_eq!(answered(&bench.out), Some(Ok(())));
    assert!(has_dialled(&bench.out), "the others are mirrored again by themselves");
    assert_eq!(bench.machine.status().legs[0].failed, None);
}

#[test]
fn the_last_volume_and_unknown_ones_do_not_leave_and_none_joins_twice() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.dismiss(VOLUME);
    assert_eq!(answered(&bench.take()), Some(Err(Refusal::LastVolume)));
    bench.dismiss(SECOND);
    assert_eq!(answered(&bench.take()), Some(Err(Refusal::Unknown)));
    bench.enlist().record();
    bench.take();
    bench.enlist();
    assert_eq!(answered(&bench.take()), Some(Err(Refusal::Unknown)));
}

#[test]
fn a_group_is_not_changed_behind_the_back_of_a_mirror_that_hosts_wait_for() {
    let policy = Policy { split: Split::Manual, ..Policy::default() };
    let mut bench = Bench::in_sync(policy);
    bench.lose().record();
    bench.take();
    bench.enlist();
    assert_eq!(answered(&bench.take()), Some(Err(Refusal::NotConnected)));
}

fn host_change(write: u64, volume: usize, extent: Extent) -> Event {
    Event::Change { write: WriteId::new(write), volume, extent, payload: extent.len() }
}

/// Found by the simulator: a primary that was fenced while it recorded that a volume joins answered
/// that it had not joined. Its gateway closed the volume and went by its old list for ever.
#[test]
fn a_change_that_is_being_recorded_is_answered_by_what_is_recorded() {
    let mut bench = Bench::in_sync(Policy::default());
    bench.enlist();
    let by = bench.machine.status().epoch.next(7);
    let (open, site) = (parted::open(by, 3, &[1]), "north".to_owned());
    bench.apply(Event::Opened { open, site, gateway: GatewayId::of(8) });
    assert_eq!(bench.machine.status().serving, Serving::Fenced { by });
    assert_eq!(answered(&bench.out), None);
    bench.record();
    assert_eq!(answered(&bench.out), Some(Ok(())));
}

/// Found by the simulator: the names that a mirror had planned for its next snapshots outlived its
/// promotion. With a volume less the group waited for an answer of a store that it had not any more,
/// and with one more the snapshot would have lacked it.
#[test]
fn rule_14_a_snapshot_is_of_the_volumes_that_belong_when_it_is_taken() {
    let mut bench = modes::mirror_in_sync();
    bench.apply(Event::UpstreamLost { orderly: true }).record();
    bench.promote(Consent::Outdated);
    bench.enlist().record();
    assert_eq!(bench.machine.volumes(), 2);
    bench.take();
    bench.apply(named::wish()).record();
    let names = bench.out.iter().find_map(|effect| match effect {
        Effect::Snapshot { snapshots } => Some(snapshots.len()),
        _ => None,
    });
    assert_eq!(names, Some(2));
}
