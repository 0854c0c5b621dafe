//! How much a mirror that comes back may be sent (P9).
//!
//! ```text
//!   may differ = issued while no link was open + sent and not durable when it ended
//!              + under way when it ended + changed here without success
//!   a delta moves at most 1.1 × may differ + the extents that the activity log of a crash names
//! ```
//!
//! Invariant: what two sites may differ in only grows until one of them joined the other; then it
//! is nothing. It is known from what hosts asked and from what was said on links, not from any
//! dirty map of the product.

mod heritage;
mod meter;

use std::collections::{BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{ActivityExtent, BLOCK_BYTES, Extent, LegId};
use tokio::time::Instant;

use self::heritage::Told;
pub(crate) use self::meter::Meter;
use self::meter::Undurable;
use crate::model::Moment;
use crate::points::CutName;
use crate::world::{GROWTH_BYTES, World};

/// What was issued this short before a link was found to be dead may not have been sent on it.
const UNSENT: Duration = Duration::from_secs(2);
/// The same where a mirror stood still, and what was issued meanwhile had to wait.
const UNSENT_LONG: Duration = Duration::from_secs(60);

/// A block of a volume.
type Block = (usize, u64);

/// What two sites may differ in.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    blocks: BTreeSet<Block>,
    extents: BTreeSet<(usize, u64)>,
    /// Links that are open between them, by who dialled.
    open: [usize; 3],
    /// What was issued lately, while one was, and what may still wait in a send journal.
    lately: VecDeque<Issued>,
    /// What was asked for up to here was sent on it before the newest host's change that was.
    sent: Moment,
    /// Bytes that were copied on the last link.
    moved: u64,
    /// Pieces that were copied on it, while no change failed there since.
    copied: Vec<Vec<Block>>,
    /// Blocks of pieces that were copied on it before a change failed there, which are copied once more,
    /// whole if they were under way: a disk that is full fails at the same ones again and again.
    failed: u64,
    /// What was changed since they were equal last, or since the cut that one of them keeps: by the
    /// cuts that were sent since. A copy that goes back to the cut lacks all of it.
    segments: VecDeque<Segment>,
    /// The primary and its epoch when they were equal last, while its leg was there ever since.
    joined: Option<(usize, u64)>,
    /// What is on its way on the links between them, by who dialled.
    sending: Vec<(usize, Weak<Undurable>)>,
    /// What one of them was told when it was asked to take over.
    told: Option<Told>,
    /// One of them took over, and the other one was a mirror of the same primary.
    inherited: bool,
}

/// What a host asked for.
#[derive(Debug)]
struct Issued {
    at: Instant,
    moment: Moment,
    blocks: Vec<Block>,
}

/// What was changed from one cut to the next.
#[derive(Clone, Debug, Default)]
struct Segment {
    /// The cut that it begins with.
    cut: Option<CutName>,
    blocks: BTreeSet<Block>,
}

fn blocks_of(volume: usize, extent: Extent) -> Vec<Block> {
    let blocks = extent.blocks();
    (blocks.first()..blocks.end()).map(|block| (volume, block)).collect()
}

fn key(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

// === impl Issued ===

impl Issued {
    fn may_be_unsent(&self, now: Instant, unsent: Duration, sent: Moment) -> bool {
        self.at + unsent >= now || self.moment > sent
    }
}

// === impl Delta ===

impl Delta {
    /// The most that a delta may move.
    fn bytes_max(&self) -> u64 {
        let changed = self.blocks.len() as u64 * BLOCK_BYTES;
        changed
            + changed / 10
            + self.failed * BLOCK_BYTES
            + self.extents.len() as u64 * block::ACTIVITY_BYTES
    }

    fn close(&mut self, from: usize, unsent: Duration) {
        self.open[from] = self.open[from].saturating_sub(1);
        self.give_up(unsent);
    }

    /// What waits for a link will not be sent on it.
    fn give_up(&mut self, unsent: Duration) {
        let now = Instant::now();
        let lately = std::mem::take(&mut self.lately);
        let sent = self.sent;
        let recent = lately.into_iter().filter(|issued| issued.may_be_unsent(now, unsent, sent));
        self.blocks.extend(recent.flat_map(|issued| issued.blocks));
    }
}

impl World {
    /// A cut is sent: what is under way may be in it or not.
    pub(crate) fn begin_segment(&self, from: usize, to: usize, cut: CutName) {
        let under_way = self.under_way(from);
        let blocks = under_way.into_iter().flat_map(|(volume, extent)| blocks_of(volume, extent));
        let segment = Segment { cut: Some(cut), blocks: blocks.collect() };
        self.with_delta(from, to, |delta| delta.segments.push_back(segment));
    }

    /// A cut is kept.
    pub(crate) fn end_segments(&self, from: usize, to: usize, cut: CutName) {
        self.with_delta(from, to, |delta| {
            if let Some(index) = delta.segments.iter().position(|s| s.cut == Some(cut)) {
                delta.segments.drain(..index);
            }
        });
    }

    /// A copy went back to the point that it keeps. What another primary had copied here since that point
    /// is among what changed since then, so it is sent again to whomever this one is a primary of.
    pub(crate) fn note_way_back(&self, site: usize) {
        let copied = |other| {
            let pieces = |delta: &mut Delta| delta.copied.iter().flatten().copied().collect();
            self.with_delta(site, other, pieces)
        };
        let copied: Vec<Vec<Block>> = self.others(site).map(copied).collect();
        for other in self.others(site) {
            self.with_delta(site, other, |delta| {
                let changed = delta.segments.iter().flat_map(|segment| &segment.blocks);
                let changed: Vec<Block> = changed.copied().collect();
                delta.blocks.extend(changed.into_iter().chain(copied.iter().flatten().copied()));
            });
        }
    }

    /// From here on a mirror may be sent what is not the next in order.
    fn note_overwritten(&self, site: usize) {
        let overwritten = &self.sites[site].overwritten;
        if overwritten.get().is_none() {
            overwritten.set(Some(self.count()));
        }
    }

    /// What was issued this short before a link was found to be dead may not have been sent on it.
    fn unsent(&self) -> Duration {
        if self.stood_still.get() { UNSENT_LONG } else { UNSENT }
    }

    fn with_delta<T>(&self, a: usize, b: usize, act: impl FnOnce(&mut Delta) -> T) -> T {
        act(self.deltas.borrow_mut().entry(key(a, b)).or_default())
    }

    /// A host asks for a change at a site.
    pub(crate) fn note_issued(&self, site: usize, volume: usize, extent: Extent) {
        let (unsent, moment) = (self.unsent(), self.count());
        for other in self.others(site) {
            self.with_delta(site, other, |delta| {
                let blocks = blocks_of(volume, extent);
                if delta.segments.is_empty() {
                    delta.segments.push_back(Segment::default());
                }
                delta.segments.back_mut().expect("just put").blocks.extend(blocks.iter().copied());
                if delta.open[site] == 0 {
                    delta.blocks.extend(blocks);
                    return;
                }
                let (at, sent) = (Instant::now(), delta.sent);
                let is_sent = |issued: &Issued| !issued.may_be_unsent(at, unsent, sent);
                while delta.lately.front().is_some_and(is_sent) {
                    delta.lately.pop_front();
                }
                delta.lately.push_back(Issued { at, moment, blocks });
            });
        }
    }

    /// A change failed: each copy may have it or not.
    pub(crate) fn note_failed(&self, site: usize, volume: usize, extent: Extent) {
        for other in self.others(site) {
            self.with_delta(site, other, |delta| {
                let failed = blocks_of(volume, extent);
                let hit = |piece: &mut Vec<Block>| piece.iter().any(|block| failed.contains(block));
                let again = delta.copied.extract_if(.., hit).map(|piece| piece.len() as u64);
                delta.failed += again.sum::<u64>();
                delta.blocks.extend(failed);
            });
        }
    }

    /// A gateway that has a primary's content starts after a crash.
    pub(crate) fn note_active(&self, site: usize, volume: usize, active: &[ActivityExtent]) {
        if self.sites[site].branch.borrow().is_none() {
            return;
        }
        for other in self.others(site) {
            self.with_delta(site, other, |delta| {
                delta.extents.extend(active.iter().map(|extent| (volume, extent.index())));
            });
        }
    }

    /// A volume is new at a site: any block of it may differ.
    pub(crate) fn note_new(&self, site: usize, volume: usize) {
        let bytes = self.setup.volumes[volume] + GROWTH_BYTES;
        for other in self.others(site) {
            self.with_delta(site, other, |delta| {
                delta.blocks.extend((0..bytes / BLOCK_BYTES).map(|block| (volume, block)));
            });
        }
    }

    /// From now on a full copy is to be expected: the leg is gone, or a copy was forced.
    pub(crate) fn expect_full(&self, site: usize) {
        for other in self.others(site) {
            self.with_delta(site, other, |delta| delta.joined = None);
        }
    }

    /// P9: a mirror joined again. What it was sent is no more than what it can have lacked.
    pub(crate) fn check_delta(
        self: &Rc<Self>,
        site: usize,
        joined: usize,
        leg: LegId,
        equal: bool,
    ) {
        let taken = self.with_delta(site, joined, |delta| {
            let max = delta.bytes_max();
            delta.failed = 0;
            delta.copied.clear();
            delta.blocks.clear();
            delta.extents.clear();
            if equal {
                delta.segments.clear();
            } else {
                // What was changed since the cut that it keeps was sent on a link that may be gone.
                delta.blocks.extend(delta.segments.iter().flat_map(|segment| &segment.blocks));
            }
            let inherited = std::mem::take(&mut delta.inherited);
            (std::mem::take(&mut delta.moved), max, delta.joined.take(), inherited)
        });
        let (moved, max, before, inherited) = taken;
        let world = Rc::clone(self);
        // The group cannot be asked in the middle of what it tells.
        self.spawn(async move {
            let Some(group) = world.group(site) else { return };
            let status = group.status();
            let Some(leg) = status.legs.iter().find(|found| found.leg == leg) else { return };
            let now = (site, status.epoch.get());
            world.with_delta(site, joined, |delta| delta.joined = Some(now));
            let names = [world.sites[site].name, world.sites[joined].name];
            let full = leg.sessions.iter().any(|session| session.full);
            world.log(format_args!(
                "{} sent {} {moved} bytes of {max}{}",
                names[0],
                names[1],
                if full { ", a full copy" } else { "" }
            ));
            // A first copy, or one of a leg that was forgotten, moves what there is. One of a leg
            // that was there all the time may be a whole one only where that is no more.
            if full && before != Some(now) {
                return;
            }
            if inherited && !full {
                world.happened("a mirror goes over to the next primary by delta");
            }
            let mut stats = world.stats.borrow_mut();
            stats.deltas += 1;
            stats.delta_bytes += moved;
            stats.delta_bytes_max += max;
            drop(stats);
            if moved > max {
                let text =
                    format!("{} sent {} {moved} bytes, {max} can differ", names[0], names[1]);
                world.fail("P9", text);
            }
        });
    }
}
