//! What commands of several steps ask of the volume, and what hosts hear of each step.

use block::{IoError, Run};

use super::*;

/// A volume that remembers what it was asked, and some of which may be bad.
struct Watched {
    volume: Rc<dyn Volume>,
    asked: RefCell<Vec<(Op, bool)>>,
    unreadable: Cell<Option<IoError>>,
}

impl Watched {
    fn new() -> Rc<Self> {
        let volume: Rc<dyn Volume> = MemoryStore::new(Geometry::new(BYTES).unwrap());
        Rc::new(Self { volume, asked: RefCell::default(), unreadable: Cell::default() })
    }
}

impl Volume for Watched {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let asked = batch.iter().map(|request| (request.op.clone(), request.fua));
        self.asked.borrow_mut().extend(asked);
        if let Some(error) = self.unreadable.get() {
            for bad in batch.extract_if(.., |request| matches!(request.op, Op::Read(_))) {
                bad.ticket.fail(error);
            }
        }
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.volume.layout(extent, limit)
    }
}

fn over(volume: &Rc<Watched>) -> Rig {
    Rig::over(Rc::<Watched>::clone(volume), Rc::new(Drawer::default()))
}

/// Long ones are compared in pieces; the offset was that in the piece.
#[test]
fn a_difference_is_told_by_where_it_is_in_all_that_is_compared() {
    let rig = Rig::new();
    let host = rig.host(1);
    let at = (1 << 20) + 700;
    let mut data = vec![0; 2 << 20];
    data[at] = 1;
    let differs = rig.ask(&host, &cdb_16(0x8f, 2, 0, 4096), &data);
    assert_eq!(differs.sense, Some(sense::MISCOMPARE.about(at as u64)));
    let (block, lba) = (&data[at / 512 * 512..][..512], at as u64 / 512);
    assert_eq!(rig.ask(&host, &cdb_16(0x8a, 0, lba, 1), block).status, Status::Good);
    assert_eq!(rig.ask(&host, &cdb_16(0x8f, 2, 0, 4096), &data).status, Status::Good);
    // Every block with the same one.
    let differs = rig.ask(&host, &cdb_16(0x8f, 6, 0, 4096), &[0; 512]);
    assert_eq!(differs.sense, Some(sense::MISCOMPARE.about(at as u64)));
}

#[test]
fn a_step_that_cannot_read_is_told_as_a_read_that_failed() {
    let volume = Watched::new();
    let rig = over(&volume);
    let host = rig.host(1);
    let mut compare = cdb_16(0x89, 0, 3, 0);
    compare[13] = 1;
    for error in [IoError::Checksum, IoError::Media] {
        volume.unreadable.set(Some(error));
        for (cdb, data) in [
            (compare, vec![0; 1024]),
            (cdb_16(0x8b, 0, 3, 1), vec![1; 512]),    // ORWRITE
            (cdb_16(0x8e, 0x02, 3, 1), vec![1; 512]), // WRITE AND VERIFY
            (cdb_16(0x8f, 0x02, 3, 1), vec![1; 512]), // VERIFY
        ] {
            let ended = rig.ask(&host, &cdb, &data);
            assert_eq!(ended.sense, Some(sense::READ_ERROR), "{:#x} {error:?}", cdb[0]);
        }
    }
}

/// MODE SENSE of one page, and MODE SELECT of it with one bit changed.
fn flip(rig: &Rig, host: &Nexus, page: u8, (at, bit): (usize, u8)) -> Outcome {
    let mut list = rig.ask(host, &[0x1a, 0x08, page, 0, 255, 0], &[]).data_in.to_vec();
    list[4 + at] ^= bit;
    let len = u8::try_from(list.len()).unwrap();
    rig.ask(host, &[0x15, 0x10, 0, 0, len, 0], &list)
}

/// Page and bit of the write cache, and of the protection by software.
const CACHE: (u8, (usize, u8)) = (0x08, (2, 0x04));
const PROTECTION: (u8, (usize, u8)) = (0x0a, (4, 0x08));

/// Every command that changes content, of block 3 or of a few from there.
fn changes() -> Vec<(Vec<u8>, Vec<u8>)> {
    let block = vec![1; 512];
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = [(0x8a, 0), (0x8b, 0), (0x8e, 2), (0x93, 0), (0x93, 8)]
        .map(|(opcode, flags)| (cdb_16(opcode, flags, 3, 1).to_vec(), block.clone()))
        .into();
    all.push((cdb_16(0x93, 0x01, 3, 16).to_vec(), Vec::new()));
    all.push((vec![0x0a, 0, 0, 3, 1, 0], block.clone()));
    let mut atomic = cdb_16(0x9c, 0, 3, 0);
    atomic[13] = 1;
    all.push((atomic.to_vec(), block.clone()));
    let mut compare = cdb_16(0x89, 0, 100, 0);
    compare[13] = 1;
    all.push((compare.to_vec(), [vec![0; 512], block].concat()));
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(3u64.to_be_bytes());
    list.extend(9u32.to_be_bytes());
    list.extend([0; 4]);
    all.push((vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list));
    let list = fuzz::copying(&inquiry::naa(VolumeId::of(7)));
    let mut copy = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    copy[13] = u8::try_from(list.len()).unwrap();
    all.push((copy, list));
    all
}

/// Only a plain write heeded the mode; what WRITE SAME and the others stored could be lost with the power
/// though the host had been told that there is no cache.
#[test]
fn with_the_cache_off_nothing_is_answered_before_it_is_durable() {
    let volume = Watched::new();
    let rig = over(&volume);
    let host = rig.host(1);
    assert_eq!(rig.ask(&host, &cdb_16(0x8a, 0, 3, 1), &[1; 512]).status, Status::Good);
    volume.asked.take();
    assert_eq!(flip(&rig, &host, CACHE.0, CACHE.1).status, Status::Good);
    let emptied = volume.asked.take();
    assert!(matches!(&emptied[..], [(Op::Flush, _)]), "what was written before: {emptied:?}");
    for (cdb, data) in changes() {
        let ended = rig.ask(&host, &cdb, &data);
        assert_eq!(ended.status, Status::Good, "{cdb:x?}: {ended:?}");
        let asked = volume.asked.take();
        let changed: Vec<bool> =
            asked.iter().filter(|(op, _)| op.is_change()).map(|(_, fua)| *fua).collect();
        assert!(!changed.is_empty() && changed.iter().all(|fua| *fua), "{cdb:x?}: {asked:?}");
    }
    assert_eq!(flip(&rig, &host, CACHE.0, CACHE.1).status, Status::Good);
    assert!(volume.asked.take().is_empty(), "there is nothing to empty");
}

#[test]
fn a_disk_that_is_protected_by_software_takes_no_change() {
    let volume = Watched::new();
    let rig = over(&volume);
    let (host, other) = (rig.host(1), rig.host(2));
    assert_eq!(flip(&rig, &host, PROTECTION.0, PROTECTION.1).status, Status::Good);
    let emptied = volume.asked.take();
    assert!(matches!(&emptied[..], [(Op::Flush, _)]), "what was written before: {emptied:?}");
    let told = rig.ask(&other, &[0; 6], &[]).sense;
    assert_eq!(told, Some(Sense::attention(nexus::MODE_CHANGED)));
    for (cdb, data) in changes() {
        for host in [&host, &other] {
            let refused = rig.ask(host, &cdb, &data).sense;
            assert_eq!(refused, Some(sense::WRITE_PROTECTED), "{cdb:x?}");
        }
    }
    assert!(volume.asked.take().is_empty());
    assert_eq!(flip(&rig, &other, PROTECTION.0, PROTECTION.1).status, Status::Good);
    let write = rig.ask(&other, &cdb_16(0x8a, 0, 3, 1), &[1; 512]);
    assert_eq!(write.status, Status::Good);
}

/// Another gateway would serve the disk in the modes that every disk begins with, and say nothing: a host
/// that had turned the cache off would take for durable what is not.
#[test]
fn no_mode_can_be_set_of_a_disk_that_another_gateway_shows_too() {
    let rig = Rig::new();
    let (host, other) = (rig.host(1), rig.host(2));
    for (page, bit) in [CACHE, PROTECTION] {
        assert_eq!(flip(&rig, &host, page, bit).status, Status::Good);
        other.take_attention();
    }
    // It gets a mirror: what was set is no more, and every host is told so.
    let group = |group, state| PortGroup { group, state, ports: vec![group] };
    let both = vec![group(1, PortState::Optimized), group(2, PortState::Standby)];
    rig.unit.changed(UnitEvent::Groups(both));
    for host in [&host, &other] {
        for told in [nexus::ACCESS_CHANGED, nexus::MODE_CHANGED] {
            assert_eq!(rig.ask(host, &[0; 6], &[]).sense, Some(Sense::attention(told)));
        }
    }
    let write = rig.ask(&host, &cdb_16(0x8a, 0, 3, 1), &[1; 512]);
    assert_eq!(write.status, Status::Good, "it is protected no more");
    for (page, (at, bit)) in [CACHE, PROTECTION] {
        let shown = rig.ask(&host, &[0x1a, 0x08, page | 0x40, 0, 255, 0], &[]).data_in;
        assert_eq!(shown[4 + at] & bit, 0, "it is not shown as changeable");
        assert_eq!(flip(&rig, &host, page, (at, bit)).sense, Some(sense::INVALID_IN_LIST.list(4)));
        assert_eq!(flip(&rig, &host, page, (at, 0)).status, Status::Good, "that changes nothing");
    }
    assert_eq!(rig.ask(&other, &[0; 6], &[]).status, Status::Good, "nobody is told of a change");
    // Nor where it is known that another gateway has it, though nothing is known of its ports.
    rig.unit.changed(UnitEvent::Groups(vec![group(1, PortState::Standby)]));
    host.take_attention();
    let (page, bit) = CACHE;
    assert_eq!(flip(&rig, &host, page, bit).sense, Some(sense::INVALID_IN_LIST.list(4)));
}
