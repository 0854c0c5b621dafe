//! How much room snapshots take, counted from the maps a piece at a time.
//!
//! ```text
//!   what is not known ─▶ tasks ─▶ one page of one layer at a time ─▶ told; what cannot change is kept
//! ```
//!
//! What is read through a snapshot never changes, so it is counted once for as long as the volume is
//! open. What would go with its name is counted anew when the tree of layers changes near it. Only
//! what lies under the head is counted whenever it is asked for.
//!
//! Invariant: nothing is changed, and no page that hosts use leaves memory for this. Between two
//! pieces only the head changes, and what it hides of what lies below only grows, so that the sum lies
//! between what was right when counting began and when it ended. A change of the tree begins it anew;
//! what chores or a filler moved meanwhile is told as it was met, and not kept.

use std::collections::HashMap;

use block::{BLOCK_BYTES, IoError, Snapshot, SnapshotId};
use roaring::RoaringBitmap;

use super::Inner;
use super::layers::Layers;
use super::map::{Map, NumberMap, PageKey};
use super::page::CHUNKS;
use super::record::Record;

/// Pages that one call looks at: about a millisecond when they must be loaded.
const PIECES_PER_CALL: usize = 32;

/// What is known, and what is being counted.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Blocks that are read through a snapshot.
    seen: HashMap<SnapshotId, i64>,
    /// What would go with a layer's name, where no host can change that.
    own: NumberMap<u32, Own>,
    counting: Option<Counting>,
}

/// What would go with a layer's name.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// Blocks that would be given back.
    blocks: i64,
    /// Those of them that are read through it.
    seen: i64,
}

#[derive(Debug, Default)]
struct Counting {
    /// The last one is worked off first.
    tasks: Vec<Task>,
    /// How many more blocks are read through a layer than through the one that it lies on.
    growth: NumberMap<u32, i64>,
    own: NumberMap<u32, Own>,
    /// Layers of which `own` changes with what hosts write.
    under_head: Vec<u32>,
    /// Blocks moved between layers meanwhile, or could not be read.
    is_rough: bool,
}

#[derive(Debug)]
struct Task {
    of: u32,
    what: What,
    /// Those that are left, once it was begun.
    pages: Option<RoaringBitmap>,
    walk: Option<Walk>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Blocks that are read through a layer and not through the one that it lies on.
    Growth,
    /// Blocks of a layer that nothing lies on.
    Whole,
    /// Blocks that the only layer that lies on it hides.
    Covered { above: u32 },
    /// Blocks of an unnamed layer that are there for this one alone: what the only other layer that
    /// lies on it hides.
    Beside { below: u32, beside: u32 },
}

/// From a page of a layer down: which of its blocks hide others.
#[derive(Debug)]
struct Walk {
    page: u32,
    next: Option<u32>,
    rest: Box<[u16; CHUNKS]>,
}

/// Blocks of a chunk that a layer has, and those that it has or hides.
#[derive(Clone, Copy, Debug, Default)]
struct Mask {
    valid: u16,
    touched: u16,
}

// === impl Accounts ===

impl Accounts {
    /// The tree is about to change. A new snapshot changes nothing of what is known: none of it lies
    /// under the head.
    pub(super) fn tree_changes(&mut self, layers: &Layers, record: &Record) {
        self.counting = None;
        let named = |id: &SnapshotId| layers.named(*id).map(|layer| layer.id);
        let around: Vec<u32> = match record {
            Record::Unname { id } => named(id).into_iter().collect(),
            Record::RollBack { id, .. } => named(id).into_iter().chain([layers.head]).collect(),
            Record::DropLayer { layer } => vec![*layer],
            _ => Vec::new(),
        };
        for id in around {
            for near in near(layers, id) {
                self.own.remove(&near);
            }
        }
    }

    /// Blocks are moved between layers.
    pub(super) fn moved(&mut self) {
        if let Some(counting) = &mut self.counting {
            counting.is_rough = true;
        }
    }

    /// The lowest layer was given blocks.
    pub(super) fn filled(&mut self) {
        self.moved();
        self.own.clear();
        self.seen.clear();
    }
}

/// The layers of which `own` may depend on a layer, on what it lies on, or on what lies on it.
fn near(layers: &Layers, id: u32) -> Vec<u32> {
    let parent = |id: u32| layers.get(id).and_then(|layer| layer.parent);
    let below = parent(id);
    let mut near: Vec<u32> =
        [Some(id), below, below.and_then(parent)].into_iter().flatten().collect();
    for _ in 0..2 {
        let above: Vec<u32> = layers
            .all()
            .iter()
            .filter(|layer| layer.parent.is_some_and(|parent| near.contains(&parent)))
            .map(|layer| layer.id)
            .collect();
        near.extend(above);
    }
    near
}

// === impl Inner ===

impl Inner {
    /// Every snapshot, oldest first, counted in one go.
    pub(super) fn snapshots(&mut self) -> Vec<Snapshot> {
        loop {
            if let Some(all) = self.count_snapshots() {
                return all;
            }
        }
    }

    pub(super) fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.map.layers().names().into_iter().map(|(name, _)| name.id).collect()
    }

    /// Goes on counting for about a millisecond. Every snapshot, oldest first, when that is done; what
    /// the map cannot say because it cannot be read is not in the numbers.
    pub(super) fn count_snapshots(&mut self) -> Option<Vec<Snapshot>> {
        let mut counting = self.accounts.counting.take().unwrap_or_else(|| self.plan_counting());
        for _ in 0..PIECES_PER_CALL {
            let Some(task) = counting.tasks.last_mut() else {
                return Some(self.snapshots_counted(&counting));
            };
            match task.go_on(&self.map) {
                Ok(Some(found)) => {
                    let (of, what) = (task.of, task.what);
                    counting.add(of, what, found);
                }
                Ok(None) => {
                    counting.tasks.pop();
                }
                Err(error) => {
                    tracing::warn!(%error, layer = task.of, "count the blocks of a snapshot");
                    counting.tasks.pop();
                    counting.is_rough = true;
                }
            }
        }
        self.accounts.counting = Some(counting);
        None
    }

    /// What is to be counted.
    fn plan_counting(&self) -> Counting {
        let layers = self.map.layers();
        let mut above: NumberMap<u32, Vec<u32>> = NumberMap::default();
        for layer in layers.all() {
            if let Some(parent) = layer.parent {
                above.entry(parent).or_default().push(layer.id);
            }
        }
        let tops: Vec<u32> = self.map.tops().collect();
        let mut counting = Counting::default();
        for (name, layer) in layers.names() {
            if !self.accounts.own.contains_key(&layer) {
                counting.plan_own(layers, (&above, &tops), layer);
            }
            if !self.accounts.seen.contains_key(&name.id) {
                counting.plan_seen(layers, &self.accounts.seen, layer);
            }
        }
        counting
    }

    /// All is counted: what it is, and what of it is kept.
    fn snapshots_counted(&mut self, counting: &Counting) -> Vec<Snapshot> {
        let layers = self.map.layers();
        let names = layers.names();
        let accounts = &mut self.accounts;
        let (mut totals, mut seen_of) = (NumberMap::default(), HashMap::with_capacity(names.len()));
        let mut out = Vec::with_capacity(names.len());
        let bytes = |blocks: i64| u64::try_from(blocks).unwrap_or(0) * BLOCK_BYTES;
        for (name, layer) in names {
            let own = accounts.own.get(&layer).or_else(|| counting.own.get(&layer));
            let own = own.copied().unwrap_or_default();
            let seen = total(layers, (&accounts.seen, &counting.growth), &mut totals, layer);
            if !counting.is_rough {
                seen_of.insert(name.id, seen);
                if !counting.under_head.contains(&layer) {
                    accounts.own.insert(layer, own);
                }
            }
            out.push(Snapshot {
                id: name.id,
                bytes: name.bytes,
                exclusive_bytes: bytes(own.blocks),
                shared_bytes: bytes(seen - own.seen),
            });
        }
        if !counting.is_rough {
            accounts.seen = seen_of;
        }
        out
    }
}

// === impl Counting ===

impl Counting {
    fn plan_own(
        &mut self,
        layers: &Layers,
        (above, tops): (&NumberMap<u32, Vec<u32>>, &[u32]),
        layer: u32,
    ) {
        let lying_on = |id: u32| above.get(&id).map_or(&[][..], Vec::as_slice);
        self.own.insert(layer, Own::default());
        match lying_on(layer) {
            [] => {
                self.tasks.push(Task::new(layer, What::Whole));
                let below = layers.get(layer).and_then(|l| l.parent).and_then(|id| layers.get(id));
                let Some(below) = below.filter(|l| l.name.is_none()).map(|l| l.id) else { return };
                let mut others = lying_on(below).iter().copied().filter(|id| *id != layer);
                let (Some(beside), None) = (others.next(), others.next()) else { return };
                self.tasks.push(Task::new(layer, What::Beside { below, beside }));
                if tops.contains(&below) || tops.contains(&beside) {
                    self.under_head.push(layer);
                }
            }
            [above] => {
                self.tasks.push(Task::new(layer, What::Covered { above: *above }));
                if tops.contains(above) {
                    self.under_head.push(layer);
                }
            }
            // It stays for what lies on it.
            _ => {}
        }
    }

    /// Down to the first layer of which it is known.
    fn plan_seen(&mut self, layers: &Layers, known: &HashMap<SnapshotId, i64>, layer: u32) {
        let mut next = Some(layer);
        while let Some(layer) = next.and_then(|id| layers.get(id)) {
            let is_known = layer.name.is_some_and(|name| known.contains_key(&name.id));
            if is_known || self.growth.contains_key(&layer.id) {
                return;
            }
            self.growth.insert(layer.id, 0);
            self.tasks.push(Task::new(layer.id, What::Growth));
            next = layer.parent;
        }
    }

    fn add(&mut self, of: u32, what: What, found: Own) {
        match what {
            What::Growth => *self.growth.entry(of).or_default() += found.seen,
            What::Whole | What::Covered { .. } | What::Beside { .. } => {
                let own = self.own.entry(of).or_default();
                own.blocks += found.blocks;
                own.seen += found.seen;
            }
        }
    }
}

/// Blocks that are read through a layer: what each layer down to one that is known adds.
fn total(
    layers: &Layers,
    (known, growth): (&HashMap<SnapshotId, i64>, &NumberMap<u32, i64>),
    totals: &mut NumberMap<u32, i64>,
    layer: u32,
) -> i64 {
    let (mut way, mut sum, mut next) = (Vec::new(), 0, Some(layer));
    while let Some(layer) = next.and_then(|id| layers.get(id)) {
        let of_name = || layer.name.and_then(|name| known.get(&name.id));
        if let Some(total) = totals.get(&layer.id).or_else(of_name) {
            sum = *total;
            break;
        }
        way.push(layer.id);
        next = layer.parent;
    }
    for id in way.into_iter().rev() {
        sum += growth.get(&id).copied().unwrap_or(0);
        totals.insert(id, sum);
    }
    sum
}

// === impl Task ===

impl Task {
    const fn new(of: u32, what: What) -> Self {
        Self { of, what, pages: None, walk: None }
    }

    /// Looks at one page more; `None` when none is left.
    fn go_on(&mut self, map: &Map) -> Result<Option<Own>, IoError> {
        if let Some(walk) = self.walk.take() {
            let (hidden, rest) = walk.go_on(map)?;
            self.walk = rest;
            return Ok(Some(Own { blocks: 0, seen: -hidden }));
        }
        let (of, what) = (self.of, self.what);
        let pages = self.pages.get_or_insert_with(|| what.pages(map.layers(), of));
        let Some(page) = pages.min() else { return Ok(None) };
        pages.remove(page);
        let here = masks(map, of, page)?;
        let own = match what {
            What::Growth => {
                self.walk = Walk::below(map.layers(), of, page, &here);
                Own { blocks: 0, seen: sum(here.iter().map(|mask| mask.valid)) }
            }
            What::Whole => {
                let blocks = sum(here.iter().map(|mask| mask.valid));
                Own { blocks, seen: blocks }
            }
            What::Covered { above } => {
                let above = masks(map, above, page)?;
                let blocks = sum(here.iter().zip(&above).map(|(a, b)| a.valid & b.touched));
                Own { blocks, seen: blocks }
            }
            What::Beside { below, beside } => {
                let (below, beside) = (masks(map, below, page)?, masks(map, beside, page)?);
                let mut gone: Vec<u16> =
                    below.iter().zip(&beside).map(|(a, b)| a.valid & b.touched).collect();
                let blocks = sum(gone.iter().copied());
                gone.iter_mut().zip(&here).for_each(|(gone, mask)| *gone &= !mask.touched);
                Own { blocks, seen: sum(gone.into_iter()) }
            }
        };
        Ok(Some(own))
    }
}

impl What {
    /// The pages in which there is something to be counted.
    fn pages(self, layers: &Layers, of: u32) -> RoaringBitmap {
        let of_layer =
            |id: u32| layers.get(id).map_or_else(RoaringBitmap::new, |l| l.present.clone());
        match self {
            Self::Growth | Self::Whole => of_layer(of),
            Self::Covered { above } => of_layer(of) & of_layer(above),
            Self::Beside { below, beside } => of_layer(below) & of_layer(beside),
        }
    }
}

impl Walk {
    /// `None` where there is nothing to be met.
    fn below(layers: &Layers, of: u32, page: u32, here: &[Mask; CHUNKS]) -> Option<Self> {
        let next = layers.get(of).and_then(|layer| layer.parent);
        let mut rest = Box::new([0; CHUNKS]);
        rest.iter_mut().zip(here).for_each(|(rest, mask)| *rest = mask.touched);
        next.is_some().then_some(Self { page, next, rest })
    }

    /// Goes down to the next layer that has something of the page: how much of that is hidden, and
    /// what is left to be met.
    fn go_on(mut self, map: &Map) -> Result<(i64, Option<Self>), IoError> {
        while let Some(layer) = self.next.and_then(|id| map.layers().get(id)) {
            self.next = layer.parent;
            if !layer.present.contains(self.page) {
                continue;
            }
            let (mut hidden, mut left) = (0, 0);
            for (rest, mask) in self.rest.iter_mut().zip(&masks(map, layer.id, self.page)?) {
                hidden += i64::from((*rest & mask.valid).count_ones());
                *rest &= !mask.touched;
                left |= *rest;
            }
            return Ok((hidden, (left != 0 && self.next.is_some()).then_some(self)));
        }
        Ok((0, None))
    }
}

/// What a layer has of a page.
fn masks(map: &Map, layer: u32, page: u32) -> Result<[Mask; CHUNKS], IoError> {
    let mut out = [Mask::default(); CHUNKS];
    if let Some(page) = map.glance(PageKey::new(layer, page))? {
        for (chunk, entry) in page.used() {
            let touched = entry.valid | entry.zero;
            out[usize::from(chunk)] = Mask { valid: entry.valid, touched };
        }
    }
    Ok(out)
}

fn sum(masks: impl Iterator<Item = u16>) -> i64 {
    masks.map(|mask| i64::from(mask.count_ones())).sum()
}
