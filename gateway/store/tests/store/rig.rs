//! A pool on a simulated disk, and the means to ask its volume.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use block::{
    Answer, BlockRange, BlockSet, Completions, Extent, GatewayId, IoError, Op, Origin, PoolId,
    Reply, Request, Segment, Segments, Store, Ticket, Volume, VolumeId,
};
use bytes::Bytes;
use store::{
    Executor, OriginRecord, Pool, PoolIdentity, PoolOptions, PoolVolume, StoreError, VolumeRecord,
};
use testkit::SimDisk;

pub(crate) const VOLUME: VolumeId = VolumeId::of(7);

pub(crate) fn extent(offset: u64, len: u64) -> Extent {
    Extent::new(offset, len).unwrap()
}

pub(crate) fn record(bytes: u64) -> VolumeRecord {
    VolumeRecord { id: VOLUME, name: "orders".to_owned(), bytes, created: 1, origin: None }
}

pub(crate) fn open_pool(
    disk: &Arc<SimDisk>,
    options: PoolOptions,
) -> Result<Arc<Pool>, StoreError> {
    Pool::open(disk.root(), Executor::Inline, options)
}

/// A disk with a pool with one volume on it.
pub(crate) fn disk_with(bytes: u64) -> Arc<SimDisk> {
    disk_with_record(record(bytes))
}

/// The same with a volume that is filled from an origin of so many bytes.
pub(crate) fn disk_to_fill(bytes: u64, origin_bytes: u64) -> Arc<SimDisk> {
    let origin = OriginRecord::Other { description: b"elsewhere".to_vec(), bytes: origin_bytes };
    disk_with_record(VolumeRecord { origin: Some(origin), ..record(bytes) })
}

fn disk_with_record(record: VolumeRecord) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let identity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(2) };
    Pool::create(&disk.root(), identity).unwrap();
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    pool.create_volume(record).unwrap();
    disk
}

pub(crate) fn try_open(disk: &Arc<SimDisk>) -> Result<Rc<PoolVolume>, StoreError> {
    open_pool(disk, PoolOptions::default())?.open_volume(VOLUME)
}

pub(crate) fn open(disk: &Arc<SimDisk>) -> Rc<PoolVolume> {
    try_open(disk).unwrap()
}

pub(crate) fn submit(volume: &dyn Volume, ops: Vec<Op>) -> Vec<Result<Answer, IoError>> {
    let queue = Completions::new();
    let count = ops.len();
    let mut batch: Vec<Request> = (0..)
        .zip(ops)
        .map(|(tag, op)| Request { op, fua: false, ticket: queue.ticket(tag) })
        .collect();
    volume.submit(&mut batch);
    assert!(batch.is_empty());
    let mut done = Vec::new();
    queue.take(&mut done);
    done.sort_by_key(|c| c.tag);
    assert_eq!(done.len(), count, "everything is answered in line");
    assert_eq!(queue.dropped(), 0);
    done.into_iter().map(|c| c.result).collect()
}

pub(crate) fn run(volume: &dyn Volume, op: Op) -> Result<Answer, IoError> {
    submit(volume, vec![op]).pop().unwrap()
}

/// As [`run`], for what nobody is about to read.
pub(crate) fn run_aside(volume: &dyn Store, op: Op) -> Result<Answer, IoError> {
    ask(|ticket| volume.submit_aside(&mut vec![Request { op, fua: false, ticket }]))
}

pub(crate) fn write(volume: &dyn Volume, offset: u64, data: Vec<u8>) -> Result<(), IoError> {
    let extent = extent(offset, data.len() as u64);
    run(volume, Op::Write(extent, Bytes::from(data))).map(drop)
}

pub(crate) fn flush(volume: &dyn Volume) -> Result<(), IoError> {
    run(volume, Op::Flush).map(drop)
}

pub(crate) fn flatten(answer: Answer) -> Vec<u8> {
    let Answer::Read(segments) = answer else { panic!("not a read") };
    let mut out = Vec::new();
    for segment in segments {
        match segment {
            Segment::Data(data) => out.extend_from_slice(&data),
            Segment::Zero(len) => out.resize(out.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    out
}

pub(crate) fn read(volume: &dyn Volume, offset: u64, len: u64) -> Result<Vec<u8>, IoError> {
    run(volume, Op::Read(extent(offset, len))).map(flatten)
}

/// Waits for an answer that is given in line.
pub(crate) fn ask(ask: impl FnOnce(Ticket)) -> Result<Answer, IoError> {
    let queue = Completions::new();
    ask(queue.ticket(1));
    let mut done = Vec::new();
    assert!(queue.take(&mut done), "it is answered in line");
    done.pop().unwrap().result
}

pub(crate) fn close(volume: &dyn Store) -> Result<Answer, IoError> {
    ask(|ticket| volume.close(ticket))
}

pub(crate) fn flatten_if_read(answer: Answer) -> Option<Vec<u8>> {
    matches!(answer, Answer::Read(_)).then(|| flatten(answer))
}

/// An origin in memory that can fail, and that can keep its answers back.
#[derive(Debug)]
pub(crate) struct TestOrigin {
    content: Vec<u8>,
    pub(crate) fails: Cell<bool>,
    pub(crate) holds: Cell<bool>,
    held: RefCell<Vec<(Extent, Reply<Segments>)>>,
    pub(crate) reads: Cell<u64>,
}

impl TestOrigin {
    pub(crate) fn new(content: Vec<u8>) -> Rc<Self> {
        Rc::new(Self {
            content,
            fails: Cell::default(),
            holds: Cell::default(),
            held: RefCell::default(),
            reads: Cell::default(),
        })
    }

    /// Answers what was kept back, the last question first.
    pub(crate) fn answer_held(&self) {
        self.holds.set(false);
        for (extent, reply) in self.held.take().into_iter().rev() {
            self.read(extent, reply);
        }
    }

    /// Forgets what was asked.
    pub(crate) fn drop_held(&self) {
        self.held.take();
    }

    fn block(&self, block: u64) -> &[u8] {
        let at = usize::try_from(block * 4096).unwrap();
        &self.content[at..at + 4096]
    }

    fn has(&self, block: u64) -> bool {
        self.block(block).iter().any(|byte| *byte != 0)
    }
}

impl Origin for TestOrigin {
    fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn mapped(&self, from: u64, limit: usize, reply: Reply<BlockSet>) {
        if self.fails.get() {
            return reply.answer(Err(IoError::Origin));
        }
        let blocks = (from..self.bytes() / 4096).filter(|block| self.has(*block));
        let ranges = blocks.map(|block| BlockRange::new(block, block + 1)).take(limit);
        reply.answer(Ok(ranges.collect()));
    }

    fn read(&self, extent: Extent, reply: Reply<Segments>) {
        if self.holds.get() {
            return self.held.borrow_mut().push((extent, reply));
        }
        self.reads.set(self.reads.get() + 1);
        if self.fails.get() {
            return reply.answer(Err(IoError::Origin));
        }
        let at = usize::try_from(extent.offset()).unwrap();
        let len = usize::try_from(extent.len()).unwrap();
        let content = &self.content[at..at + len];
        let segment = if content.iter().all(|byte| *byte == 0) {
            Segment::Zero(extent.len())
        } else {
            Segment::Data(Bytes::copy_from_slice(content))
        };
        reply.answer(Ok([segment].into_iter().collect()));
    }
}

/// Fills it until all is there.
pub(crate) fn fill_all(volume: &PoolVolume) {
    for _ in 0..10_000 {
        if !volume.is_filling() {
            return;
        }
        ask(|ticket| volume.fill(1 << 20, ticket)).unwrap();
    }
    panic!("filling does not end");
}
