//! How much room snapshots take, from the maps.
//!
//! What is sealed is counted once and remembered until the tree of layers changes; what lies under
//! the head is counted again whenever it is asked for. Only pages above the lowest layer are looked
//! at, so it costs what was written since the first snapshot.
//!
//! Invariant: nothing is changed.

use block::{BLOCK_BYTES, IoError, Snapshot};
use roaring::RoaringBitmap;

use super::Inner;
use super::map::{Map, NumberMap};
use super::page::CHUNKS;

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Blocks that are read through a sealed layer.
    seen: NumberMap<u32, u64>,
    /// Blocks of a sealed layer that only it has.
    own: NumberMap<u32, Own>,
}

/// What would go with a layer's name.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// Blocks that would be given back.
    blocks: u64,
    /// Those of them that are read through it.
    seen: u64,
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn tree_changed(&mut self) {
        self.own.clear();
        self.seen.clear();
    }
}

// === impl Inner ===

impl Inner {
    /// Every snapshot, oldest first. What cannot be counted because the map cannot be read is 0.
    pub(super) fn snapshots(&mut self) -> Vec<Snapshot> {
        let names = self.map.layers().names();
        let mut out = Vec::with_capacity(names.len());
        for (name, layer) in names {
            let counted = self.own(layer).and_then(|own| Ok((own, self.seen(layer)?)));
            let (own, seen) = counted.unwrap_or_else(|error| {
                tracing::warn!(%error, snapshot = %name.id, "count the blocks of a snapshot");
                (Own::default(), 0)
            });
            out.push(Snapshot {
                id: name.id,
                bytes: name.bytes,
                exclusive_bytes: own.blocks * BLOCK_BYTES,
                shared_bytes: seen.saturating_sub(own.seen) * BLOCK_BYTES,
            });
        }
        out
    }

    /// Blocks that are read through a layer.
    fn seen(&mut self, layer: u32) -> Result<u64, IoError> {
        if let Some(known) = self.accounts.seen.get(&layer) {
            return Ok(*known);
        }
        let chain = self.map.layers().chain(layer);
        let seen = if chain.len() == 1 {
            let others: Vec<u32> =
                self.map.layers().all().iter().map(|l| l.id).filter(|l| *l != layer).collect();
            let mut blocks = self.map.mapped;
            for other in others {
                blocks -= self.held_by(other)?;
            }
            blocks
        } else {
            let below = self.seen(chain[1])?;
            let pages = self.pages(layer);
            let with = self.count(&pages, |map, c| map.visible_in(&chain, c))?;
            let without = self.count(&pages, |map, c| map.visible_in(&chain[1..], c))?;
            below + with - without
        };
        if !self.chores.is_at_work() {
            self.accounts.seen.insert(layer, seen);
        }
        Ok(seen)
    }

    /// What would be given back with a layer's name.
    fn own(&mut self, layer: u32) -> Result<Own, IoError> {
        if let Some(known) = self.accounts.own.get(&layer) {
            return Ok(*known);
        }
        let layers = self.map.layers();
        let above: Vec<u32> = layers.lying_on(layer).map(|l| l.id).collect();
        let own = match above.as_slice() {
            [] => self.own_of_leaf(layer)?,
            [above] => {
                let above = *above;
                let pages = self.pages(layer) & self.pages(above);
                let blocks = self.count(&pages, |map, chunk| {
                    Ok(map.entry(layer, chunk)?.valid & map.touched(&[above], chunk)?)
                })?;
                Own { blocks, seen: blocks }
            }
            // It stays for what lies on it.
            _ => Own::default(),
        };
        if !above.contains(&self.map.layers().head) && !self.chores.is_at_work() {
            self.accounts.own.insert(layer, own);
        }
        Ok(own)
    }

    /// All of it; and where only one other layer lies beside it on one without a name, what that
    /// other one hides below.
    fn own_of_leaf(&mut self, layer: u32) -> Result<Own, IoError> {
        let all = self.held_by(layer)?;
        let mut own = Own { blocks: all, seen: all };
        let layers = self.map.layers();
        let below = layers.get(layer).and_then(|l| l.parent).and_then(|id| layers.get(id));
        let Some(below) = below.filter(|l| l.name.is_none()).map(|l| l.id) else { return Ok(own) };
        let beside: Vec<u32> =
            layers.lying_on(below).map(|l| l.id).filter(|l| *l != layer).collect();
        let [beside] = beside[..] else { return Ok(own) };
        let pages = self.pages(below) & self.pages(beside);
        own.blocks += self
            .count(&pages, |map, c| Ok(map.entry(below, c)?.valid & map.touched(&[beside], c)?))?;
        own.seen += self.count(&pages, |map, c| {
            let hidden = map.touched(&[beside], c)? & !map.touched(&[layer], c)?;
            Ok(map.entry(below, c)?.valid & hidden)
        })?;
        Ok(own)
    }

    /// Blocks that a layer has.
    fn held_by(&mut self, layer: u32) -> Result<u64, IoError> {
        let pages = self.pages(layer);
        self.count(&pages, |map, chunk| Ok(map.entry(layer, chunk)?.valid))
    }

    fn pages(&self, layer: u32) -> RoaringBitmap {
        self.map.layers().get(layer).map_or_else(RoaringBitmap::new, |l| l.present.clone())
    }

    /// Adds up the blocks of all chunks of these pages.
    fn count(
        &mut self,
        pages: &RoaringBitmap,
        blocks: impl Fn(&mut Map, u64) -> Result<u16, IoError>,
    ) -> Result<u64, IoError> {
        let mut sum = 0;
        for page in pages {
            let base = u64::from(page) * CHUNKS as u64;
            for chunk in base..base + CHUNKS as u64 {
                sum += u64::from(blocks(&mut self.map, chunk)?.count_ones());
            }
        }
        Ok(sum)
    }
}
