//! A gateway that does not serve the volume: it says which disk this is and where to go, and takes
//! nothing.

use std::cell::Cell;

use block::{IoError, Run};

use super::*;

/// A volume that counts what is handed to it.
struct Counting {
    volume: Rc<dyn Volume>,
    requests: Rc<Cell<usize>>,
}

impl Volume for Counting {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        self.requests.set(self.requests.get() + batch.len());
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.requests.set(self.requests.get() + 1);
        self.volume.layout(extent, limit)
    }
}

fn groups(own: PortState, other: PortState) -> UnitEvent {
    UnitEvent::Groups(vec![
        PortGroup { group: 1, state: own, ports: vec![0x101, 0x102] },
        PortGroup { group: 2, state: other, ports: vec![0x201] },
    ])
}

/// A gateway in standby, and what its volume was asked.
fn standby() -> (Rig, Rc<Drawer>, Rc<Cell<usize>>) {
    let (drawer, requests) = (Rc::new(Drawer::default()), Rc::new(Cell::new(0)));
    let volume = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let volume = Rc::new(Counting { volume, requests: Rc::clone(&requests) });
    let rig = Rig::over(volume, Rc::<Drawer>::clone(&drawer));
    rig.unit.changed(groups(PortState::Standby, PortState::Optimized));
    (rig, drawer, requests)
}

/// A nexus that was told all there is to tell.
fn host(rig: &Rig, number: u8) -> Nexus {
    let port = InitiatorPort { name: format!("iqn.host-{number}"), isid: [number; 6] };
    let nexus = rig.unit.attach(port, 0x101, &Rc::from([0]));
    while nexus.take_attention().is_some() {}
    nexus
}

#[test]
fn a_port_in_standby_says_which_disk_it_is_and_how_large_and_where_to_go() {
    let (rig, _, requests) = standby();
    let host = host(&rig, 1);
    let good = |cdb: &[u8]| {
        let outcome = rig.ask(&host, cdb, &[]);
        assert_eq!(outcome.status, Status::Good, "{cdb:x?}");
        outcome.data_in
    };
    let names = good(&[0x12, 1, 0x83, 0, 255, 0]);
    rig.unit.changed(groups(PortState::Optimized, PortState::Standby));
    host.take_attention();
    assert_eq!(good(&[0x12, 1, 0x83, 0, 255, 0]), names, "it is the same disk");
    rig.unit.changed(groups(PortState::Standby, PortState::Optimized));
    host.take_attention();
    let capacity = good(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!(capacity[..8], (BYTES / 512 - 1).to_be_bytes());
    assert_eq!(good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]).len(), 16);
    good(&[0x1a, 0, 0x3f, 0, 255, 0]);
    let told = good(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]);
    // By this gateway, through two ports, in standby; by the other one, through one, and best.
    let both =
        [2, 0x8f, 0, 1, 0, 2, 0, 2, 0, 0, 1, 1, 0, 0, 1, 2, 0, 0x8f, 0, 2, 0, 2, 0, 1, 0, 0, 2, 1];
    assert_eq!(told[4..], both);
    assert_eq!(requests.get(), 0);
}

#[test]
fn all_else_is_told_to_take_the_other_way() {
    for (state, sense) in
        [(PortState::Standby, sense::STANDBY), (PortState::Unavailable, sense::UNAVAILABLE)]
    {
        let (rig, _, requests) = standby();
        rig.unit.changed(groups(state, PortState::Optimized));
        let host = host(&rig, 1);
        for entry in opcodes::TABLE.iter().filter(|entry| !entry.aside) {
            let mut cdb = vec![0; entry.usage.len()];
            cdb[0] = entry.opcode;
            if let Some(action) = entry.action {
                cdb[1] = action;
            }
            let outcome = rig.ask(&host, &cdb, &[]);
            assert_eq!(outcome.sense, Some(sense), "{:#x}", entry.opcode);
        }
        assert_eq!(requests.get(), 0);
    }
}

/// Gateways change the ways, and say so: no host is led to SET TARGET PORT GROUPS, and one that sends it
/// all the same hears that there is no such command, which multipath takes for an answer.
#[test]
fn hosts_are_told_that_they_do_not_set_the_ways_and_refused_when_they_do() {
    let (rig, ..) = standby();
    let host = host(&rig, 1);
    for state in [PortState::Standby, PortState::Optimized] {
        rig.unit.changed(groups(state, PortState::Unavailable));
        while host.take_attention().is_some() {}
        let set =
            rig.ask(&host, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &[0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((set.status, set.sense), (Status::CheckCondition, Some(sense::INVALID_OPCODE)));
        let inquiry = rig.ask(&host, &[0x12, 0, 0, 0, 255, 0], &[]).data_in;
        assert_eq!(inquiry[5] >> 4 & 3, 1, "TPGS: implicit, and nothing else");
        let all = rig.ask(&host, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0], &[]).data_in;
        let commands: Vec<_> = all[4..].chunks(8).map(|one| (one[0], one[3])).collect();
        assert!(commands.contains(&(0xa3, 0x0a)) && commands.iter().all(|(code, _)| *code != 0xa4));
        for options in 1..=3 {
            let cdb = [0xa3, 0x0c, options, 0xa4, 0, 0x0a, 0, 0, 0, 64, 0, 0];
            assert_eq!(rig.ask(&host, &cdb, &[]).data_in[..], [0, 1, 0, 0], "not supported");
        }
    }
}

#[test]
fn every_change_of_the_ways_is_told_once_and_no_session_is_lost() {
    let (rig, ..) = standby();
    let hosts = [host(&rig, 1), host(&rig, 2)];
    let told = |host: &Nexus| rig.ask(host, &[0; 6], &[]).sense;
    let changed = Some(Sense::attention(nexus::ACCESS_CHANGED));
    for own in [PortState::Optimized, PortState::Transitioning, PortState::Standby] {
        rig.unit.changed(groups(own, PortState::Unavailable));
        rig.unit.changed(groups(own, PortState::Unavailable));
        for host in &hosts {
            assert!(host.has_moved() && !host.has_moved());
            assert_eq!(told(host), changed);
            assert_ne!(told(host), changed);
        }
    }
}

/// What the gateway that has the volume was told of reservations is known here by the time that hosts
/// are let through, and is shown before.
#[test]
fn reservations_of_the_other_gateway_hold_from_the_first_command_on() {
    let (rig, drawer, _) = standby();
    let there = Rig::over(MemoryStore::new(Geometry::new(BYTES).unwrap()), drawer);
    let owner = there.host(9);
    for (cdb, list) in [register(0, 0, 0, 7, 1), register(1, 5, 7, 0, 0)] {
        assert_eq!(there.ask(&owner, &cdb, &list).status, Status::Good);
    }
    let host = host(&rig, 1);
    let keys = rig.ask(&host, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]).data_in;
    assert_eq!(keys[8..], 7u64.to_be_bytes());
    let (cdb, list) = register(6, 0, 0, 3, 1);
    assert_eq!(rig.ask(&host, &cdb, &list).sense, Some(sense::STANDBY), "it is not kept here");
    rig.unit.reload().unwrap();
    rig.unit.changed(groups(PortState::Optimized, PortState::Unavailable));
    host.take_attention();
    let write = rig.ask(&host, &cdb_16(0x8a, 0, 0, 1), &[0; 512]);
    assert_eq!(write.status, Status::ReservationConflict);
}

/// A write whose data is slow to come outlasts two changes of roles, and the preemption between them.
#[test]
fn what_another_gateway_aborted_is_not_done_when_the_volume_is_back() {
    let (rig, drawer, _) = standby();
    rig.unit.changed(groups(PortState::Optimized, PortState::Standby));
    let hosts = [host(&rig, 1), host(&rig, 2)];
    for (host, key) in hosts.iter().zip(1..) {
        let (cdb, list) = register(0, 0, 0, key, 1);
        assert_eq!(rig.ask(host, &cdb, &list).status, Status::Good);
    }
    let begun = hosts.each_ref().map(|host| {
        let plan = rig.unit.begin(host, &cdb_16(0x8a, 0, 0, 1));
        let Plan::Write { extent, fua } = plan else { panic!("not planned") };
        (host.epoch(), extent, fua)
    });
    rig.unit.changed(groups(PortState::Standby, PortState::Optimized));
    let there = Rig::over(MemoryStore::new(Geometry::new(BYTES).unwrap()), drawer);
    let fences = there.host(9);
    for (cdb, list) in [register(0, 0, 0, 9, 1), register(5, 5, 9, 2, 0)] {
        assert_eq!(there.ask(&fences, &cdb, &list).status, Status::Good);
    }
    rig.unit.reload().unwrap();
    rig.unit.changed(groups(PortState::Optimized, PortState::Standby));
    let admitted = [0, 1].map(|at: usize| {
        let (epoch, extent, fua) = begun[at];
        rig.unit.admit(&hosts[at], epoch, extent, Some(fua))
    });
    assert!(matches!(admitted, [Admission::Go, Admission::Aborted]), "{admitted:?}");
}

/// RESERVE is of one nexus and of no record. Whoever has it keeps its session when the roles change, and
/// would go on as if nobody else wrote.
#[test]
fn who_reserved_a_unit_is_told_when_another_gateway_has_it() {
    let (rig, ..) = standby();
    rig.unit.changed(groups(PortState::Optimized, PortState::Standby));
    let (holder, other) = (host(&rig, 1), host(&rig, 2));
    let told = |host: &Nexus| {
        std::iter::from_fn(|| host.take_attention()).map(|told| told.code).collect::<Vec<_>>()
    };
    let reserve = || rig.ask(&holder, &[0x16, 0, 0, 0, 0, 0], &[]).status;
    let write = || rig.ask(&other, &cdb_16(0x8a, 0, 0, 1), &[0; 512]).status;
    assert_eq!((reserve(), write()), (Status::Good, Status::ReservationConflict));
    rig.unit.changed(groups(PortState::Standby, PortState::Optimized));
    assert_eq!(told(&holder), [nexus::RELEASED, nexus::ACCESS_CHANGED]);
    assert_eq!(told(&other), [nexus::ACCESS_CHANGED]);
    rig.unit.reload().unwrap();
    rig.unit.changed(groups(PortState::Optimized, PortState::Standby));
    assert_eq!(told(&holder), [nexus::ACCESS_CHANGED], "once");
    assert_eq!(told(&other), [nexus::ACCESS_CHANGED]);
    assert_eq!((write(), reserve()), (Status::Good, Status::Good));
    // It was in doubt who has it, and nobody said so to hosts.
    rig.unit.reload().unwrap();
    assert_eq!(told(&holder), [nexus::RELEASED]);
    assert_eq!(write(), Status::Good);
}

/// Has orders done at another gateway, and reads what that one keeps.
#[derive(Debug)]
struct Carrying {
    there: Rc<Unit>,
    drawer: Rc<Drawer>,
    hears: Cell<bool>,
}

impl ReservationKeeper for Carrying {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        self.drawer.load()
    }

    fn lost_power(&self) -> bool {
        false
    }

    fn keep(&self, _: Bytes) -> KeepFuture {
        panic!("a gateway that does not serve keeps nothing by itself");
    }

    fn see_through(&self, _: RestFuture) {
        panic!("a gateway that does not serve keeps nothing by itself");
    }

    fn elsewhere(&self, order: ReserveOut) -> ElsewhereFuture {
        let there = self.hears.get().then(|| Rc::clone(&self.there));
        Box::pin(
            async move { Some(there?.reserve_out(order).await.unwrap_or_else(Outcome::refused)) },
        )
    }
}

#[test]
fn an_order_at_a_port_in_standby_is_done_by_whoever_has_the_volume() {
    let drawer = Rc::new(Drawer::default());
    let volume = || MemoryStore::new(Geometry::new(BYTES).unwrap());
    let there = Rig::over(volume(), Rc::<Drawer>::clone(&drawer));
    let (unit, hears) = (Rc::clone(&there.unit), Cell::new(true));
    let keeper = Rc::new(Carrying { there: unit, drawer, hears });
    let rig = Rig::over(volume(), Rc::<Carrying>::clone(&keeper));
    rig.unit.changed(groups(PortState::Standby, PortState::Optimized));
    let (a, b) = (host(&rig, 1), host(&rig, 2));
    let (cdb, list) = register(0, 0, 0, 7, 1);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    let read_keys = [0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0];
    for (rig, who) in [(&rig, &a), (&there, &there.host(9))] {
        assert_eq!(rig.ask(who, &read_keys, &[]).data_in[8..], 7u64.to_be_bytes());
    }
    // It is known there by the port that it came to, not as a host of the same name at another.
    let same = there.host(1);
    let (cdb, list) = register(1, 5, 7, 0, 0);
    assert_eq!(there.ask(&same, &cdb, &list).status, Status::ReservationConflict);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::ReservationConflict);
    let (cdb, list) = register(1, 2, 7, 0, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).sense, Some(sense::INVALID_FIELD.cdb(2)));
    let write = there.ask(&same, &cdb_16(0x8a, 0, 0, 1), &[0; 512]);
    assert_eq!(write.status, Status::ReservationConflict, "it holds where the volume is");
    // Whoever was preempted meanwhile, at another gateway, is told so here.
    let (cdb, list) = register(0, 0, 0, 8, 1);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::Good);
    let (cdb, list) = register(4, 5, 7, 8, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Good);
    let told = rig.ask(&b, &[0; 6], &[]).sense;
    assert_eq!(told, Some(Sense::attention(REGISTRATION_PREEMPTED)));
    // Whoever reserved it there with RESERVE has it against those that come by the other gateway, too.
    let (cdb, list) = register(0, 0, 0, 8, 1);
    assert_eq!(there.ask(&same, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::ReservationConflict);
    let clear = register(3, 0, 7, 0, 0);
    assert_eq!(rig.ask(&a, &clear.0, &clear.1).status, Status::Good);
    assert_eq!(there.ask(&same, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::ReservationConflict);
    assert_eq!(there.ask(&same, &[0x17, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(rig.ask(&b, &cdb, &list).status, Status::Good);
    keeper.hears.set(false);
    let (cdb, list) = register(3, 0, 7, 0, 0);
    assert_eq!(rig.ask(&a, &cdb, &list).sense, Some(sense::STANDBY), "nobody can be asked");
    // The other gateway does not have it either: the host tries again.
    keeper.hears.set(true);
    there.unit.changed(groups(PortState::Standby, PortState::Optimized));
    assert_eq!(rig.ask(&a, &cdb, &list).status, Status::Busy);
}

proptest! {
    #[test]
    fn nothing_that_a_host_sends_reaches_the_volume(
        commands in prop::collection::vec((any::<[u8; 16]>(), 0..opcodes::TABLE.len()), 1..40),
        data in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let (rig, _, requests) = standby();
        let host = host(&rig, 1);
        for (mut cdb, index) in commands {
            let entry = &opcodes::TABLE[index];
            for (byte, heeded) in cdb.iter_mut().zip(entry.usage) {
                *byte &= heeded;
            }
            cdb[0] = entry.opcode;
            cdb[1] |= entry.action.unwrap_or(0);
            match rig.unit.begin(&host, &cdb) {
                Plan::Answer(_) => {}
                Plan::Slow(slow) => drop(rig.run(&host, slow, &data)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(requests.get(), 0);
    }
}
