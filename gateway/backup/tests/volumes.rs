//! Volumes in memory: a map from blocks to what fills them, its points, and what a restore writes.
//!
//! Invariant: two points differ in a block exactly when their maps do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use block::{BLOCK_BYTES, BlockRange, BlockSet, Extent, SnapshotId, VolumeId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use twinspan_backup::{Sink, Source, VolumeError};

/// Blocks and what fills each; those that are not in it are zero.
pub(crate) type Content = BTreeMap<u64, u64>;

const BLOCK: usize = 4096;

/// The bytes that a filling stands for: even ones compress well, odd ones not at all.
pub(crate) fn fill(filling: u64) -> Vec<u8> {
    if filling.is_multiple_of(2) {
        return filling.to_le_bytes().repeat(BLOCK / 8);
    }
    let mut state = filling;
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state = step(state);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// One step of a generator of numbers without a pattern (splitmix64).
pub(crate) fn step(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of a range.
pub(crate) fn bytes_of(content: &Content, extent: Extent) -> Vec<u8> {
    let blocks = extent.blocks();
    let mut bytes = vec![0; usize::try_from(extent.len()).unwrap()];
    for (block, filling) in content.range(blocks.first()..blocks.end()) {
        let at = usize::try_from(block * BLOCK_BYTES - extent.offset()).unwrap();
        bytes[at..at + BLOCK].copy_from_slice(&fill(*filling));
    }
    bytes
}

/// A volume with its points.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    pub(crate) bytes: u64,
    pub(crate) content: Content,
    points: BTreeMap<SnapshotId, Arc<Content>>,
    next: u128,
}

impl Volume {
    pub(crate) fn new(id: u128, bytes: u64) -> Self {
        let id = VolumeId::of(id);
        Self { id, bytes, content: Content::new(), points: BTreeMap::new(), next: 1 }
    }

    /// Fills blocks, each with something of its own.
    pub(crate) fn write(&mut self, blocks: std::ops::Range<u64>, filling: u64) {
        self.content.extend(blocks.map(|block| (block, filling.wrapping_add(block * 2))));
    }

    pub(crate) fn trim(&mut self, blocks: std::ops::Range<u64>) {
        self.content.retain(|block, _| !blocks.contains(block));
    }

    /// A point of what it holds now.
    pub(crate) fn point(&mut self) -> Arc<Point> {
        let id = SnapshotId::of(self.id.uuid().as_u128() << 64 | self.next);
        self.next += 1;
        let content = Arc::new(self.content.clone());
        let earlier = self.points.clone();
        self.points.insert(id, Arc::clone(&content));
        Arc::new(Point { volume: self.id, id, bytes: self.bytes, content, earlier, broken: None })
    }

    /// Forgets its points, so that the next backup cannot be told what changed.
    pub(crate) fn forget(&mut self) {
        self.points.clear();
    }
}

/// A point of a volume.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    volume: VolumeId,
    pub(crate) id: SnapshotId,
    bytes: u64,
    pub(crate) content: Arc<Content>,
    earlier: BTreeMap<SnapshotId, Arc<Content>>,
    /// A block that cannot be read.
    pub(crate) broken: Option<u64>,
}

fn ranges(blocks: impl Iterator<Item = u64>, limit: usize) -> BlockSet {
    let mut ranges: BlockSet = Vec::new();
    for block in blocks {
        let is_full = ranges.len() == limit;
        match ranges.last_mut() {
            Some(last) if last.end() == block => *last = BlockRange::new(last.first(), block + 1),
            _ if is_full => break,
            _ => ranges.push(BlockRange::new(block, block + 1)),
        }
    }
    ranges
}

impl Source for Point {
    fn volume(&self) -> VolumeId {
        self.volume
    }

    fn name(&self) -> String {
        format!("disk-{}", self.volume.uuid().as_u128())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn point(&self) -> SnapshotId {
        self.id
    }

    fn knows(&self, earlier: SnapshotId) -> bool {
        self.earlier.contains_key(&earlier)
    }

    fn mapped(&self, from: u64, limit: usize) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        let blocks = self.content.range(from..).map(|(block, _)| *block);
        std::future::ready(Ok(ranges(blocks, limit))).boxed()
    }

    fn changed_since(
        &self,
        earlier: SnapshotId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        let Some(before) = self.earlier.get(&earlier) else {
            return std::future::ready(Err(VolumeError::new("that point is gone"))).boxed();
        };
        let mut blocks: Vec<u64> = before.range(from..).map(|(block, _)| *block).collect();
        blocks.extend(self.content.range(from..).map(|(block, _)| *block));
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|block| before.get(block) != self.content.get(block));
        std::future::ready(Ok(ranges(blocks.into_iter(), limit))).boxed()
    }

    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, VolumeError>> {
        let blocks = extent.blocks();
        if self.broken.is_some_and(|broken| (blocks.first()..blocks.end()).contains(&broken)) {
            return std::future::ready(Err(VolumeError::new("a sector is bad"))).boxed();
        }
        std::future::ready(Ok(bytes_of(&self.content, extent).into())).boxed()
    }
}

/// What a restore writes to.
#[derive(Debug)]
pub(crate) struct Disk {
    bytes: u64,
    is_blank: bool,
    blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// Fails at the write after so many.
    pub(crate) fails_after: Mutex<Option<u32>>,
}

impl Disk {
    /// One that was never written.
    pub(crate) fn blank(bytes: u64) -> Self {
        let (blocks, fails_after) = (Mutex::default(), Mutex::default());
        Self { bytes, is_blank: true, blocks, fails_after }
    }

    /// One that holds something else.
    pub(crate) fn used(bytes: u64, content: &Content) -> Self {
        let filled = content.iter().map(|(block, filling)| (*block, fill(*filling)));
        let blocks = Mutex::new(filled.collect());
        Self { bytes, is_blank: false, blocks, fails_after: Mutex::default() }
    }

    /// Whether it holds exactly this.
    pub(crate) fn holds(&self, content: &Content) -> bool {
        let mut blocks = self.blocks.lock().unwrap();
        blocks.retain(|_, bytes| bytes.iter().any(|byte| *byte != 0));
        blocks.len() == content.len()
            && content.iter().all(|(block, filling)| blocks.get(block) == Some(&fill(*filling)))
    }

    fn count(&self) -> Result<(), VolumeError> {
        let mut left = self.fails_after.lock().unwrap();
        match &mut *left {
            Some(0) => Err(VolumeError::new("no space is left")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Sink for Disk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }

    fn write(&self, offset: u64, data: Bytes) -> BoxFuture<'_, Result<(), VolumeError>> {
        let result = self.count();
        if result.is_ok() {
            let chunks = data.chunks(BLOCK).map(<[u8]>::to_vec);
            self.blocks.lock().unwrap().extend((offset / BLOCK_BYTES..).zip(chunks));
        }
        std::future::ready(result).boxed()
    }

    fn zero(&self, extent: Extent) -> BoxFuture<'_, Result<(), VolumeError>> {
        let result = self.count();
        if result.is_ok() {
            let blocks = extent.blocks();
            let is_in = |block: &u64| (blocks.first()..blocks.end()).contains(block);
            self.blocks.lock().unwrap().retain(|block, _| !is_in(block));
        }
        std::future::ready(result).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), VolumeError>> {
        std::future::ready(Ok(())).boxed()
    }
}
