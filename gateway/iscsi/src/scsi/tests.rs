//! A unit over a volume in memory, asked as a session asks it.

mod fuzz;
mod ordered;
mod standby;
mod steps;
mod under_way;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use block::{Answer, Completions, Geometry, Op, Request, Store, Ticket, Volume, joined};
use proptest::prelude::*;
use store::MemoryStore;

use super::nexus::{POWER_ON, REGISTRATION_PREEMPTED};
use super::*;

const BYTES: u64 = 8 << 20;

/// Keeps what it is given, as a disk does.
#[derive(Debug, Default)]
struct Drawer(RefCell<Option<Bytes>>, Cell<bool>);

impl ReservationKeeper for Drawer {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        Ok(self.0.borrow().clone())
    }

    fn lost_power(&self) -> bool {
        self.1.get()
    }

    fn keep(&self, state: Bytes) -> KeepFuture {
        *self.0.borrow_mut() = Some(state);
        Box::pin(std::future::ready(Ok(())))
    }

    fn see_through(&self, _: RestFuture) {
        panic!("nothing is waited for");
    }
}

struct Rig {
    unit: Rc<Unit>,
    volume: Rc<dyn Volume>,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn new() -> Self {
        Self::over(MemoryStore::new(Geometry::new(BYTES).unwrap()), Rc::new(Drawer::default()))
    }

    fn over(volume: Rc<dyn Volume>, keeper: Rc<dyn ReservationKeeper>) -> Self {
        let identity = UnitIdentity {
            volume: VolumeId::of(7),
            target: "iqn.2026-01.io.twinspan:v".to_owned(),
        };
        let unit = Unit::new(identity, Rc::clone(&volume), keeper, UnitSettings::alone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { unit, volume, runtime }
    }

    /// A nexus that was told that the power is on.
    fn host(&self, number: u8) -> Nexus {
        let port = InitiatorPort { name: format!("iqn.host-{number}"), isid: [number; 6] };
        let nexus = self.unit.attach(port, 1, &Rc::from([0]));
        assert_eq!(self.ask(&nexus, &[0; 6], &[]).sense, Some(Sense::attention(POWER_ON)));
        nexus
    }

    /// Runs a command to its end.
    fn ask(&self, nexus: &Nexus, cdb: &[u8], data_out: &[u8]) -> Outcome {
        match self.unit.begin(nexus, cdb) {
            Plan::Answer(outcome) => outcome,
            Plan::Read(extent) => {
                let data_in = match self.submit(Op::Read(extent), false) {
                    Answer::Read(segments) => joined(&segments),
                    Answer::Done => panic!("a read was answered without data"),
                };
                Outcome { transfer: data_in.len() as u64, data_in, ..Outcome::good() }
            }
            Plan::Write { extent, fua } => {
                let data = Bytes::copy_from_slice(data_out);
                self.submit(Op::Write(extent, data), fua);
                Outcome { transfer: extent.len(), ..Outcome::good() }
            }
            Plan::Slow(slow) => self.run(nexus, slow, data_out),
        }
    }

    fn run(&self, nexus: &Nexus, slow: Slow, data_out: &[u8]) -> Outcome {
        let data = Bytes::copy_from_slice(data_out);
        let run = Rc::clone(&self.unit).run(nexus.clone(), slow, data);
        self.runtime.block_on(run).unwrap()
    }

    fn submit(&self, op: Op, fua: bool) -> Answer {
        let queue = Completions::new();
        self.volume.submit(&mut vec![Request { op, fua, ticket: queue.ticket(0) }]);
        let mut answers = Vec::new();
        queue.take(&mut answers);
        answers.remove(0).result.unwrap()
    }
}

fn cdb_16(opcode: u8, flags: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut out = [0; 16];
    (out[0], out[1]) = (opcode, flags);
    out[2..10].copy_from_slice(&lba.to_be_bytes());
    out[10..14].copy_from_slice(&count.to_be_bytes());
    out
}

fn register(action: u8, kind: u8, key: u64, new: u64, flags: u8) -> ([u8; 10], [u8; 24]) {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new.to_be_bytes());
    list[20] = flags;
    ([0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], list)
}

#[test]
fn what_is_written_is_read_compared_and_unmapped() {
    let rig = Rig::new();
    let host = rig.host(1);
    let data = [0xabu8; 1024];
    assert_eq!(rig.ask(&host, &cdb_16(0x8a, 0, 8, 2), &data).status, Status::Good);
    assert_eq!(rig.ask(&host, &cdb_16(0x88, 0, 8, 2), &[]).data_in, data[..]);
    assert_eq!(rig.ask(&host, &cdb_16(0x8f, 2, 8, 2), &data).status, Status::Good);
    let mut other = data;
    other[700] = 0;
    let differs = rig.ask(&host, &cdb_16(0x8f, 2, 8, 2), &other);
    assert_eq!(differs.sense, Some(sense::MISCOMPARE.about(700)));
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(8u64.to_be_bytes());
    list.extend(1u32.to_be_bytes());
    list.extend([0; 4]);
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(rig.ask(&host, &unmap, &list).status, Status::Good);
    let read = rig.ask(&host, &cdb_16(0x88, 0, 8, 2), &[]).data_in;
    assert!(read[..512].iter().all(|b| *b == 0) && read[512..] == data[512..]);
}

#[test]
fn a_compare_and_write_writes_only_over_what_was_expected() {
    let rig = Rig::new();
    let host = rig.host(1);
    let mut cdb = cdb_16(0x89, 0, 3, 0);
    cdb[13] = 1;
    let swap = |old: u8, new: u8| [[old; 512], [new; 512]].concat();
    assert_eq!(rig.ask(&host, &cdb, &swap(0, 1)).status, Status::Good);
    let refused = rig.ask(&host, &cdb, &swap(0, 2));
    assert_eq!(refused.sense.map(|s| (s.key, s.code)), Some((0xe, 0x1d00)));
    assert_eq!(rig.ask(&host, &cdb_16(0x88, 0, 3, 1), &[]).data_in, [1; 512][..]);
    assert_eq!(rig.ask(&host, &cdb, &[0; 512]).sense, Some(sense::SHORT_DATA));
}

#[test]
fn a_write_waits_for_a_compare_and_write_on_the_same_blocks_and_no_other() {
    let rig = Rig::new();
    let host = rig.host(1);
    let extent = |lba: u64| Extent::new(lba * 512, 512).unwrap();
    let epoch = host.epoch();
    rig.runtime.block_on(async {
        let held = rig.unit.exclusively(extent(3)).await;
        let admit = |lba| rig.unit.admit(&host, epoch, extent(lba), Some(false));
        assert!(matches!(admit(4), Admission::Go));
        let Admission::Slow(slow) = admit(3) else { panic!("not held") };
        let write = Rc::clone(&rig.unit).run(host.clone(), slow, Bytes::from(vec![9; 512]));
        let mut write = std::pin::pin!(write);
        std::future::poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(held);
        assert!(matches!(admit(3), Admission::Go));
        assert_eq!(write.await.unwrap().status, Status::Good);
    });
    assert_eq!(rig.ask(&host, &cdb_16(0x88, 0, 3, 1), &[]).data_in, [9; 512][..]);
}

#[test]
fn a_fenced_host_writes_no_more_not_even_what_had_begun() {
    let rig = Rig::new();
    let (a, b) = (rig.host(1), rig.host(2));
    for (host, key) in [(&a, 1), (&b, 2)] {
        let (cdb, list) = register(0, 0, 0, key, 0);
        assert_eq!(rig.ask(host, &cdb, &list).status, Status::Good);
    }
    let (cdb, list) = register(1, 5, 2, 0, 0);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::Good);
    let Plan::Write { extent, fua } = rig.unit.begin(&b, &cdb_16(0x8a, 0, 0, 1)) else {
        panic!("not planned")
    };
    let epoch = b.epoch();
    let (cdb, list) = register(5, 5, 1, 2, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    assert!(matches!(rig.unit.admit(&b, epoch, extent, Some(fua)), Admission::Aborted));
    let told = rig.ask(&b, &[0; 6], &[]).sense;
    assert_eq!(told, Some(Sense::attention(REGISTRATION_PREEMPTED)));
    let conflict = rig.ask(&b, &cdb_16(0x8a, 0, 0, 1), &[0; 512]);
    assert_eq!(conflict.status, Status::ReservationConflict);
    assert_eq!(rig.ask(&b, &cdb_16(0x88, 0, 0, 1), &[]).status, Status::Good);
}

/// SPC-4, 5.13.11.2: what type a reservation shall have matters when there is one that is preempted.
#[test]
fn a_preemption_of_registrations_alone_is_of_any_type() {
    let rig = Rig::new();
    let hosts = [rig.host(1), rig.host(2), rig.host(3)];
    for (host, key) in hosts.iter().zip(1..) {
        let (cdb, list) = register(0, 0, 0, key, 0);
        assert_eq!(rig.ask(host, &cdb, &list).status, Status::Good);
    }
    let preempt = |kind: u8, victim: u64| {
        let (cdb, list) = register(4, kind, 1, victim, 0);
        rig.ask(&hosts[0], &cdb, &list)
    };
    // A type and a scope that there are not, with no reservation and beside one.
    assert_eq!(preempt(0x02, 2).status, Status::Good);
    let (cdb, list) = register(1, 1, 3, 0, 0);
    assert_eq!(rig.ask(&hosts[2], &cdb, &list).status, Status::Good);
    let again = rig.host(4);
    let (cdb, list) = register(0, 0, 0, 2, 0);
    assert_eq!(rig.ask(&again, &cdb, &list).status, Status::Good);
    assert_eq!(preempt(0x15, 2).status, Status::Good);
    for kind in [0x02, 0x15] {
        assert_eq!(preempt(kind, 3).sense, Some(sense::INVALID_FIELD.cdb(2)), "{kind:#x}");
    }
    assert_eq!(preempt(0x05, 3).status, Status::Good);
}

#[test]
fn a_registration_outlives_the_loss_of_power_only_if_it_shall() {
    let volume: Rc<dyn Volume> = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let drawer = Rc::new(Drawer::default());
    for (flags, lost, survives) in [(1, true, true), (0, true, false), (0, false, true)] {
        drawer.1.set(lost);
        let rig = Rig::over(Rc::clone(&volume), Rc::clone(&drawer) as Rc<dyn ReservationKeeper>);
        let host = rig.host(1);
        let (cdb, list) = register(6, 0, 0, 9, flags);
        assert_eq!(rig.ask(&host, &cdb, &list).status, Status::Good);
        let rig = Rig::over(Rc::clone(&volume), Rc::clone(&drawer) as Rc<dyn ReservationKeeper>);
        let keys = rig.ask(&rig.host(2), &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]).data_in;
        assert_eq!(keys.len(), if survives { 16 } else { 8 });
    }
}

#[test]
fn a_reservation_is_moved_to_a_port_that_there_is_and_to_no_other() {
    let rig = Rig::new();
    let (a, b) = (rig.host(1), rig.host(2));
    let hand = |target_port: u16| {
        let to = Registrant { port: b.port().clone(), target_port };
        let order = reserve::Order::Move { key: 1, new: 2, to, leave: false, persistent: false };
        let (action, _, list) = fuzz::sent(&order);
        let len = u8::try_from(list.len()).unwrap();
        rig.ask(&a, &[0x5f, action, 0, 0, 0, 0, 0, 0, len, 0], &list)
    };
    let (cdb, list) = register(0, 0, 0, 1, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    assert_eq!(hand(1).sense, Some(sense::INVALID_FIELD.cdb(1)), "nothing is reserved");
    let (cdb, list) = register(1, 1, 1, 0, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    assert_eq!(hand(9).sense, Some(sense::INVALID_IN_LIST.list(18)), "there is no such port");
    let write = |host: &Nexus| rig.ask(host, &cdb_16(0x8a, 0, 0, 1), &[1; 512]).status;
    assert_eq!((write(&a), write(&b)), (Status::Good, Status::ReservationConflict));
    assert_eq!(hand(1).status, Status::Good);
    assert_eq!((write(&a), write(&b)), (Status::ReservationConflict, Status::Good));
}

#[test]
fn damaged_reservations_keep_the_unit_from_being_served() {
    let drawer = Drawer(RefCell::new(Some(Bytes::from_static(b"garbage"))), Cell::default());
    let volume = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let identity = UnitIdentity { volume: VolumeId::of(7), target: String::new() };
    let unit = Unit::new(identity, volume, Rc::new(drawer), UnitSettings::alone());
    assert_eq!(unit.map(drop), Err(reserve::StateError::Damaged));
}

#[test]
fn what_was_reserved_is_free_when_its_session_is_gone() {
    let rig = Rig::new();
    let (a, b) = (rig.host(1), rig.host(2));
    assert_eq!(rig.ask(&a, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(rig.ask(&b, &[0; 6], &[]).status, Status::ReservationConflict);
    assert_eq!(rig.ask(&b, &[0x12, 0, 0, 0, 96, 0], &[]).status, Status::Good);
    drop(a);
    assert_eq!(rig.ask(&b, &[0; 6], &[]).status, Status::Good);
}

/// SPC-2, 5.5.1.
#[test]
fn persistent_reservations_conflict_with_reserve_whoever_holds_it() {
    let rig = Rig::new();
    let (a, b) = (rig.host(1), rig.host(2));
    let (cdb, list) = register(0, 0, 0, 7, 0);
    let read_keys = [0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0];
    assert_eq!(rig.ask(&a, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    for host in [&a, &b] {
        assert_eq!(rig.ask(host, &cdb, &list).status, Status::ReservationConflict);
        assert_eq!(rig.ask(host, &read_keys, &[]).status, Status::ReservationConflict);
    }
    assert_eq!(rig.ask(&a, &[0x17, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::Good);
    assert_eq!(rig.ask(&a, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::ReservationConflict);
}

#[test]
fn a_unit_that_is_gone_says_so_once_and_is_no_unit_from_then_on() {
    let rig = Rig::new();
    let host = rig.host(1);
    let inquiry = [0x12, 0, 0, 0, 96, 0];
    assert_eq!(rig.ask(&host, &inquiry, &[]).data_in[0], 0x00);
    rig.unit.changed(UnitEvent::Gone);
    assert_eq!(rig.unit.detour(), Some(sense::NO_UNIT), "what is held is told so, too");
    let told = rig.ask(&host, &[0; 6], &[]).sense;
    assert_eq!(told, Some(Sense::attention(nexus::UNITS_CHANGED)));
    for cdb in [&[0; 6][..], &cdb_16(0x88, 0, 0, 1), &cdb_16(0x9e, 0x10, 0, 0)] {
        assert_eq!(rig.ask(&host, cdb, &[]).sense, Some(sense::NO_UNIT), "{cdb:x?}");
    }
    assert_eq!(rig.ask(&host, &inquiry, &[]).data_in[0], 0x7f);
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    assert_eq!(rig.ask(&host, &report, &[]).data_in[..4], [0; 4], "no unit is listed");
}

#[test]
fn a_volume_that_grew_is_told_to_every_host_once() {
    let store = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let rig = Rig::over(Rc::<MemoryStore>::clone(&store), Rc::new(Drawer::default()));
    let hosts = [rig.host(1), rig.host(2)];
    store.grow(2 * BYTES, Ticket::ignored());
    for host in &hosts {
        let told = rig.ask(host, &[0; 6], &[]).sense;
        assert_eq!(told, Some(Sense::attention(nexus::CAPACITY_CHANGED)));
        assert_eq!(rig.ask(host, &[0; 6], &[]).status, Status::Good);
        let capacity = rig.ask(host, &cdb_16(0x9e, 0x10, 0, 32), &[]).data_in;
        assert_eq!(capacity[..8], (2 * BYTES / 512 - 1).to_be_bytes());
    }
}

#[test]
fn a_gateway_that_moves_answers_busy_and_then_points_elsewhere() {
    let rig = Rig::new();
    let host = rig.host(1);
    let groups = |state| vec![PortGroup { group: 1, state, ports: vec![1] }];
    let read = cdb_16(0x88, 0, 0, 1);
    for (state, status) in [
        (PortState::Transitioning, Status::Busy),
        (PortState::Standby, Status::CheckCondition),
        (PortState::Optimized, Status::Good),
    ] {
        rig.unit.changed(UnitEvent::Groups(groups(state)));
        let told = rig.ask(&host, &read, &[]).sense;
        assert_eq!(told, Some(Sense::attention(nexus::ACCESS_CHANGED)));
        assert_eq!(rig.ask(&host, &read, &[]).status, status);
        let report = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
        assert_eq!(rig.ask(&host, &report, &[]).data_in[4], state as u8);
    }
}

proptest! {
    #[test]
    fn nothing_that_a_host_sends_panics(
        commands in prop::collection::vec((any::<[u8; 16]>(), 0..opcodes::TABLE.len(), any::<bool>()), 1..40),
        data in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let rig = Rig::new();
        let host = rig.host(1);
        for (mut cdb, index, known) in commands {
            if known {
                let entry = &opcodes::TABLE[index];
                for (byte, heeded) in cdb.iter_mut().zip(entry.usage) {
                    *byte &= heeded;
                }
                cdb[0] = entry.opcode;
                cdb[1] |= entry.action.unwrap_or(0);
                // Small numbers reach further than large ones.
                for at in [2, 3, 4, 6, 7, 8, 10, 11] {
                    cdb[at] &= 1;
                }
            }
            match rig.unit.begin(&host, &cdb) {
                Plan::Read(extent) | Plan::Write { extent, .. } => {
                    prop_assert!(extent.end() <= BYTES);
                    prop_assert!(extent.len() <= limits::TRANSFER_BYTES_MAX);
                }
                Plan::Answer(outcome) => {
                    prop_assert_eq!(outcome.sense.is_some(), outcome.status == Status::CheckCondition);
                }
                Plan::Slow(slow) => {
                    prop_assert!(u64::from(slow.data_out) <= 2 * limits::TRANSFER_BYTES_MAX);
                    rig.run(&host, slow, &data);
                }
            }
        }
    }
}
