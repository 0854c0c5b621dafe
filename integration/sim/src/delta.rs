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

use std::collections::{BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{ActivityExtent, BLOCK_BYTES, Change, Extent, LegId, Message, Seq};
use tokio::time::Instant;

use crate::model::Moment;
use crate::points::CutName;
use crate::tap::Tap;
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
}

/// What a host asked for.
#[derive(Debug)]
struct Issued {
    at: Instant,
    moment: Moment,
    blocks: Vec<Block>,
}

/// What was changed from one cut to the next.
#[derive(Debug, Default)]
struct Segment {
    /// The cut that it begins with.
    cut: Option<CutName>,
    blocks: BTreeSet<Block>,
}

/// A primary's link to one of its mirrors, whose copies are counted.
pub(crate) struct Meter {
    world: Weak<World>,
    sites: [usize; 2],
    open: bool,
    /// Sent and not acknowledged.
    unacked: BTreeSet<Seq>,
    /// Acknowledged in what was heard last: the primary may have flushed for what came before it.
    acked_last: Vec<Seq>,
    newest: Seq,
    /// The volumes that were offered, in their order there.
    members: Vec<usize>,
    /// Its name among all links.
    name: Moment,
    /// Everything that was acknowledged up to here was on its way before the newest host's change
    /// that was sent; or before the link was open, and then the copier has been there.
    sure: Moment,
    /// Sent and not durable there, as far as was heard.
    undurable: VecDeque<(Seq, Vec<Block>)>,
    /// Flushes under way, with the change up to which each one covers.
    flushes: VecDeque<(Seq, Seq)>,
}

fn blocks_of(volume: usize, extent: Extent) -> Vec<Block> {
    let blocks = extent.blocks();
    (blocks.first()..blocks.end()).map(|block| (volume, block)).collect()
}

/// A host's change begins with its value, which is the moment at which it was asked for.
fn first_word(data: &[u8]) -> Moment {
    data.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
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
            (std::mem::take(&mut delta.moved), max, delta.joined.take())
        });
        let (moved, max, before) = taken;
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

// === impl Meter ===

impl Meter {
    /// Watches the link of the primary at one site to the mirror at another.
    pub(crate) fn new(world: &Rc<World>, from: usize, to: usize) -> Self {
        Self {
            world: Rc::downgrade(world),
            sites: [from, to],
            open: false,
            unacked: BTreeSet::new(),
            acked_last: Vec::new(),
            newest: Seq::ZERO,
            members: Vec::new(),
            name: world.count(),
            sure: 0,
            undurable: VecDeque::new(),
            flushes: VecDeque::new(),
        }
    }

    fn sent(&mut self, message: &Message) {
        match message {
            Message::Open(open) => {
                if let Some(world) = self.world.upgrade() {
                    let find = |id| world.volumes.iter().position(|volume| *volume == id);
                    self.members = open.volumes.iter().filter_map(|o| find(o.volume)).collect();
                }
            }
            Message::Change { seq, volume, extent, change, resync, .. } => {
                if let (true, Change::Write(data), Some(world)) =
                    (resync, change, self.world.upgrade())
                {
                    let [from, to] = self.sites;
                    world.note_overwritten(to);
                    let blocks = blocks_of(self.member(*volume), *extent);
                    world.with_delta(from, to, |delta| {
                        delta.moved += data.len() as u64;
                        delta.copied.push(blocks);
                    });
                }
                if let (false, Change::Write(data)) = (resync, change) {
                    self.sure = self.sure.max(first_word(data));
                    self.note_sent();
                }
                if let (true, Some(world)) = (resync, self.world.upgrade()) {
                    world.sites[self.sites[1]].intact.set(false);
                }
                self.note(*seq, self.member(*volume), *extent);
            }
            Message::Cut { seq, .. } => self.cut(*seq),
            Message::Compare { seq, volume, extent, .. } => {
                self.note(*seq, self.member(*volume), *extent);
            }
            Message::Promote { .. } => {
                if let Some(world) = self.world.upgrade() {
                    let [from, to] = self.sites.map(|site| &world.sites[site]);
                    to.at_point.set(false);
                    *to.offered.borrow_mut() = from.branch.borrow().clone();
                }
            }
            Message::Flush { seq } => {
                let first = self.unacked.first();
                let covers = first.map_or(self.newest, |seq| Seq::new(seq.get() - 1));
                self.flushes.push_back((*seq, covers));
            }
            _ => {}
        }
    }

    /// Whether a leg of this primary was lost at this moment.
    fn is_given_up(&self) -> bool {
        let Some(world) = self.world.upgrade() else { return true };
        let process = world.process(self.sites[0]);
        process.is_none_or(|process| process.lost_ms.get() == Some(world.now_ms()))
    }

    fn note_sent(&self) {
        if let Some(world) = self.world.upgrade() {
            let ([from, to], sure) = (self.sites, self.sure);
            world.with_delta(from, to, |delta| delta.sent = delta.sent.max(sure));
        }
    }

    fn cut(&mut self, seq: Seq) {
        let Some(world) = self.world.upgrade() else { return };
        let [from, to] = self.sites;
        world.on_cut_sent(from, to, (self.name, seq), self.sure);
    }

    /// Which volume a link calls so.
    fn member(&self, index: u16) -> usize {
        let index = usize::from(index);
        self.members.get(index).copied().unwrap_or(index)
    }

    fn note(&mut self, seq: Seq, volume: usize, extent: Extent) {
        self.newest = self.newest.max(seq);
        self.unacked.insert(seq);
        self.undurable.push_back((seq, blocks_of(volume, extent)));
    }

    fn heard(&mut self, message: &Message) {
        match message {
            Message::Opened(_) if !self.open => {
                self.open = true;
                let [from, to] = self.sites;
                if let Some(world) = self.world.upgrade() {
                    // The last link may be given up and not be closed yet.
                    let unsent = world.unsent();
                    world.with_delta(from, to, |delta| delta.give_up(unsent));
                    self.sure = world.count();
                    self.note_sent();
                    world.note_overwritten(to);
                    world.with_delta(from, to, |delta| {
                        delta.open[from] += 1;
                        (delta.moved, delta.failed) = (0, 0);
                        delta.copied.clear();
                    });
                }
            }
            Message::Acks(seqs) => self.acked_last.extend(seqs),
            Message::CutApplied { seq } => {
                self.undurable.retain(|(sent, _)| sent > seq);
                if let Some(world) = self.world.upgrade() {
                    let [from, to] = self.sites;
                    world.on_cut_kept(from, to, (self.name, *seq));
                }
            }
            Message::Compared { seq, .. } => self.acked_last.push(*seq),
            // The mirror's last words may come after the group gave it up, and are not heard there.
            Message::Durable { .. } if self.is_given_up() => {}
            Message::Durable { seq } => {
                while let Some((flush, covers)) = self.flushes.front().copied()
                    && flush <= *seq
                {
                    self.flushes.pop_front();
                    self.undurable.retain(|(seq, _)| *seq > covers);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let Some(world) = self.world.upgrade().filter(|_| self.open) else { return };
        let [from, to] = self.sites;
        let (under_way, unsent) = (world.under_way(from), world.unsent());
        let undurable = self.undurable.drain(..).flat_map(|(_, blocks)| blocks);
        world.with_delta(from, to, |delta| {
            delta.close(from, unsent);
            delta.blocks.extend(undurable);
            let under_way = under_way.into_iter();
            delta.blocks.extend(under_way.flat_map(|(volume, extent)| blocks_of(volume, extent)));
        });
    }
}

impl Tap for Meter {
    fn says(&mut self, message: &Message) {
        self.sent(message);
    }

    fn begins(&mut self) {
        for seq in self.acked_last.drain(..) {
            self.unacked.remove(&seq);
        }
    }

    fn hears(&mut self, message: &Message) {
        self.heard(message);
    }
}
