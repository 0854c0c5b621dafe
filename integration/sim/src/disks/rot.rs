//! A block of a copy that changes on its disk, behind everybody's back.
//!
//! Invariant: at most one of a site at a time, and it ends before anything else that a disk can suffer:
//! before the process dies, before power is lost, before copies are looked at. Whoever reads it
//! meanwhile is told, or finds what somebody wrote over it.

use block::{Completions, Extent, IoError, Op, Request, Store, Volume};
use store::Repaired;
use store::medium::File;
use testkit::Rot;

use super::{BLOCK, Disks, PoolDisk, blocks_of};
use crate::rng::Rng;

/// A block that rotted, and where.
pub(super) struct Rotten {
    rot: Rot,
    volume: usize,
    block: u64,
    good: Box<[u8]>,
}

/// What became of it when another copy was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scrubbed {
    /// The pool put back what the other copy has.
    Repaired,
    /// There was nothing to repair any more.
    Overwritten,
    /// Nobody has it.
    Left,
}

// === impl Disks ===

impl Disks {
    /// A block rots, if there is one whose place can be told; says of which volume, and which block. It
    /// must not be read as good data.
    ///
    /// # Errors
    /// It was.
    pub(crate) fn rot(&self, rng: &Rng) -> Result<Option<(usize, u64)>, String> {
        let Self::Pool(pool) = self else { return Ok(None) };
        pool.rot(rng)
    }

    /// Asks another copy for the block that rotted, as a scrub does.
    ///
    /// # Errors
    /// The pool took what was not stored there.
    pub(crate) fn scrub(&self, other: &Self) -> Result<Option<Scrubbed>, String> {
        let (Self::Pool(pool), Ok(image)) = (self, other.look()) else { return Ok(None) };
        let found = pool.rotten.borrow().as_ref().map(|rotten| (rotten.volume, rotten.block));
        let Some((volume, block)) = found else { return Ok(None) };
        let content = image.blocks.get(volume).and_then(|blocks| blocks.get(&block));
        let scrubbed = match content {
            Some(content) => pool.repair((volume, block), content)?,
            None => Scrubbed::Left,
        };
        self.mend();
        Ok(Some(scrubbed))
    }

    /// What rotted is good again.
    pub(crate) fn mend(&self) {
        if let Self::Pool(pool) = self
            && let Some(rotten) = pool.rotten.take()
        {
            pool.disk.mend(&rotten.rot);
            pool.disk.set_cold(false);
        }
    }
}

// === impl PoolDisk ===

impl PoolDisk {
    fn rot(&self, rng: &Rng) -> Result<Option<(usize, u64)>, String> {
        let is_sound = !self.full.get() && !self.failing.get() && !self.disk.stopped();
        let open = self.open.borrow();
        let Some((_, volumes)) = open.as_ref().filter(|_| is_sound) else { return Ok(None) };
        if self.rotten.borrow().is_some() || volumes.is_empty() {
            return Ok(None);
        }
        let volume = rng.index(volumes.len());
        let Ok(blocks) = blocks_of(volumes[volume].as_ref()) else { return Ok(None) };
        let all: Vec<_> = blocks.into_iter().filter(|(_, c)| c.iter().any(|b| *b != 0)).collect();
        if all.is_empty() {
            return Ok(None);
        }
        let (block, good) = all[rng.index(all.len())].clone();
        let Some((path, offset)) = self.place_of(volume, &good) else { return Ok(None) };
        let extent = Extent::new(block * BLOCK, BLOCK).map_err(|e| e.to_string())?;
        // One that was changed before the process died last has none before a scrub went over it.
        if volumes[volume].checksums(extent).is_err() {
            return Ok(None);
        }
        let len = good.len();
        let rot = self.disk.rot(&path, offset, len);
        // What is near is not held against its checksum, as in a page cache that nothing spoils.
        self.disk.set_cold(true);
        let read = read_result(volumes[volume].as_ref(), extent);
        *self.rotten.borrow_mut() = Some(Rotten { rot, volume, block, good });
        match read {
            Err(IoError::Checksum) => Ok(Some((volume, block))),
            // It lies there as well, and this place was another's.
            Ok(content) if self.is_good(&content) => Ok(Some((volume, block))),
            Ok(content) => Err(format!("a block that rotted is read as {:?}", content.get(..16))),
            Err(error) => Err(format!("a block that rotted cannot be read: {error}")),
        }
    }

    fn is_good(&self, content: &[u8]) -> bool {
        self.rotten.borrow().as_ref().is_some_and(|rotten| *rotten.good == *content)
    }

    /// Where a block's content lies, if it lies in one place only.
    fn place_of(&self, volume: usize, content: &[u8]) -> Option<(String, u64)> {
        let prefix = format!("volumes/{}/data.", self.volumes[volume]);
        let mut found = Vec::new();
        for path in self.disk.paths().into_iter().filter(|path| path.starts_with(&prefix)) {
            let file = self.disk.root().open(&path).ok()?;
            let whole = read_whole(file.as_ref())?;
            let places = whole.chunks(content.len()).enumerate();
            let equal = places.filter(|(_, place)| *place == content).map(|(at, _)| at);
            found.extend(equal.map(|at| (path.clone(), at as u64 * BLOCK)));
        }
        let only = found.pop()?;
        found.is_empty().then_some(only)
    }

    fn repair(&self, (volume, block): (usize, u64), content: &[u8]) -> Result<Scrubbed, String> {
        let open = self.open.borrow();
        let Some((_, volumes)) = open.as_ref() else { return Ok(Scrubbed::Left) };
        match volumes[volume].repair(block, content) {
            Ok(Repaired::Done) if self.is_good(content) => Ok(Scrubbed::Repaired),
            Ok(Repaired::Done) => Err("a scrub put back what was not stored there".to_owned()),
            Ok(Repaired::Good) => Ok(Scrubbed::Overwritten),
            Ok(Repaired::Differs) | Err(_) => Ok(Scrubbed::Left),
        }
    }
}

fn read_whole(file: &dyn File) -> Option<Vec<u8>> {
    let mut whole = vec![0; usize::try_from(file.size().ok()?).ok()?];
    let got = file.read_at(&mut whole, 0).ok()?;
    whole.truncate(got);
    Some(whole)
}

/// Reads from a store that answers in line.
pub(super) fn read_result(store: &dyn Volume, extent: Extent) -> Result<Vec<u8>, IoError> {
    let (queue, mut answers) = (Completions::new(), Vec::new());
    store.submit(&mut vec![Request { op: Op::Read(extent), fua: false, ticket: queue.ticket(0) }]);
    queue.take(&mut answers);
    let answer = answers.pop().ok_or(IoError::Dropped)?.result?;
    let block::Answer::Read(segments) = answer else { return Err(IoError::Invalid) };
    Ok(block::joined(&segments).to_vec())
}
