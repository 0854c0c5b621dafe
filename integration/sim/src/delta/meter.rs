//! What is said on a primary's link to one of its mirrors, counted.
//!
//! Invariant: what was sent is not durable there before that was heard; what was heard once the group
//! gave the mirror up was not.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::{Rc, Weak};

use block::{Change, Extent, Message, Seq};

use super::{Block, blocks_of};
use crate::model::Moment;
use crate::tap::Tap;
use crate::world::World;

/// What was sent on a link and is not durable at its other end, as far as was heard.
pub(super) type Undurable = RefCell<VecDeque<(Seq, Vec<Block>)>>;

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
    undurable: Rc<Undurable>,
    /// Flushes under way, with the change up to which each one covers.
    flushes: VecDeque<(Seq, Seq)>,
}

/// A host's change begins with its value, which is the moment at which it was asked for.
fn first_word(data: &[u8]) -> Moment {
    data.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

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
            undurable: Rc::default(),
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
            Message::Handover { .. } => {
                if let Some(world) = self.world.upgrade() {
                    let [from, to] = self.sites;
                    world.note_told(from, to);
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
        self.undurable.borrow_mut().push_back((seq, blocks_of(volume, extent)));
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
                        delta.sends(from, &self.undurable);
                        (delta.moved, delta.failed) = (0, 0);
                        delta.copied.clear();
                    });
                }
            }
            Message::Acks(seqs) => self.acked_last.extend(seqs),
            Message::CutApplied { seq } => {
                self.undurable.borrow_mut().retain(|(sent, _)| sent > seq);
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
                    self.undurable.borrow_mut().retain(|(seq, _)| *seq > covers);
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
        let undurable = self.undurable.take().into_iter().flat_map(|(_, blocks)| blocks);
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
