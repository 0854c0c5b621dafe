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
