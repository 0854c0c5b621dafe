//! What the other mirrors may lack of a primary that takes over in a planned swap.
//!
//! ```text
//!   A primary, B and C mirrors; B takes over    may differ (B, C) = may differ (A, C)
//! ```
//!
//! Invariant: at that moment B has what A has, so what C may lack of A, it may lack of B, and nothing
//! else. B was told a moment earlier: what became durable at C meanwhile counts as well.

use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::meter::Undurable;
use super::{Block, Delta};
use crate::world::World;

/// What one mirror may lack.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    blocks: BTreeSet<Block>,
    extents: BTreeSet<(usize, u64)>,
}

impl Delta {
    /// A link is open on which this is on its way.
    pub(super) fn sends(&mut self, from: usize, undurable: &Rc<Undurable>) {
        self.sending.retain(|(_, link)| link.strong_count() > 0);
        self.sending.push((from, Rc::downgrade(undurable)));
    }

    /// What they may differ in, if what is on its way from one of them comes to nothing.
    fn may_differ(&self, from: usize, unsent: Duration) -> Told {
        let mut blocks = self.blocks.clone();
        let links = self.sending.iter().filter(|(dialled, _)| *dialled == from);
        for link in links.filter_map(|(_, link)| Weak::upgrade(link)) {
            blocks.extend(link.borrow().iter().flat_map(|(_, sent)| sent));
        }
        let now = Instant::now();
        let unsent = |issued: &&super::Issued| issued.may_be_unsent(now, unsent, self.sent);
        blocks.extend(self.lately.iter().filter(unsent).flat_map(|issued| &issued.blocks));
        Told { blocks, extents: self.extents.clone() }
    }
}

impl World {
    /// A primary asks one of its mirrors to take over, and tells it what the others lack.
    pub(super) fn note_told(&self, from: usize, to: usize) {
        let unsent = self.unsent();
        for other in self.others(from).filter(|other| *other != to) {
            let told = self.with_delta(from, other, |delta| delta.may_differ(from, unsent));
            self.with_delta(to, other, |delta| delta.told = Some(told));
        }
    }

    /// It took over.
    pub(crate) fn note_inherited(&self, from: usize, to: usize) {
        let unsent = self.unsent();
        for other in self.others(from).filter(|other| *other != to) {
            let (lacks, segments) = self.with_delta(from, other, |delta| {
                (delta.may_differ(from, unsent), delta.segments.clone())
            });
            self.with_delta(to, other, |delta| {
                let told = delta.told.take().unwrap_or_default();
                delta.blocks = &lacks.blocks | &told.blocks;
                delta.extents = &lacks.extents | &told.extents;
                delta.segments = segments;
                delta.lately.clear();
                delta.failed = 0;
                // What it had in common with this one as a primary before is of no use any more.
                delta.joined = None;
                delta.inherited = true;
            });
        }
    }
}
