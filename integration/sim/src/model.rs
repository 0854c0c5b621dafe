//! What a volume may contain: the promise to hosts, kept sector by sector.
//!
//! Invariant: a branch knows every change that was ever issued to the primary whose content it
//! describes. A value is allowed if some change that was not certainly overwritten wrote it.
//!
//! A *branch* is the content that one gateway serves. A promotion makes a new branch from that of
//! the old primary, in which what only the old primary had may be missing; both live on until one
//! of them is resynchronised from the other.

use std::collections::BTreeSet;

use block::{BLOCK_BYTES, Extent};

use crate::platter::SECTOR_BYTES;

/// A moment: the count of everything that happened before.
pub(crate) type Moment = u64;

/// A set of sites, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sites(u8);

impl Sites {
    #[must_use]
    pub(crate) fn one(site: usize) -> Self {
        Self(1 << site)
    }

    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub(crate) fn has(self, site: usize) -> bool {
        self.0 & (1 << site) != 0
    }

    #[must_use]
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// The name of a change in its branch.
pub(crate) type OpId = usize;

/// Where a change is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) volume: usize,
    pub(crate) extent: Extent,
}

/// One change.
#[derive(Clone, Copy, Debug)]
struct Op {
    value: u64,
    volume: usize,
    issued: Moment,
    /// When it was answered, or its host was cut off.
    ended: Option<Moment>,
    acked: bool,
    /// The sites that had it when it was acknowledged, or came to have everything since.
    held: Sites,
    /// A mirror was lost in the same instant: it may have had it too.
    unsure: bool,
    /// Of these, the ones where it is known to be on stable storage.
    flushed: Sites,
}

/// What a sector may contain.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// What it contained when the branch began.
    base: u64,
    ops: Vec<OpId>,
}

/// The content that one gateway serves.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    ops: Vec<Op>,
    volumes: Vec<Vec<Sector>>,
}

// === impl Branch ===

impl Branch {
    /// Volumes of zeroes, as long as each can get, in bytes.
    #[must_use]
    pub(crate) fn new(bytes_max: &[u64]) -> Self {
        let sectors = |bytes: &u64| {
            vec![Sector::default(); usize::try_from(bytes / SECTOR_BYTES).expect("small")]
        };
        Self { ops: Vec::new(), volumes: bytes_max.iter().map(sectors).collect() }
    }

    /// A host issues a change. `value` is what each sector of it begins with, 0 for zeroes. Of a
    /// trim only whole blocks count.
    pub(crate) fn issue(&mut self, now: Moment, place: Place, value: u64, trim: bool) -> OpId {
        let Place { volume, extent } = place;
        let id = self.ops.len();
        self.ops.push(Op {
            value,
            volume,
            issued: now,
            ended: None,
            acked: false,
            held: Sites::default(),
            unsure: false,
            flushed: Sites::default(),
        });
        let range = if trim {
            let blocks = extent.whole_blocks();
            blocks.first() * BLOCK_BYTES..blocks.end() * BLOCK_BYTES
        } else {
            extent.offset()..extent.end()
        };
        for sector in sectors(range.start, range.end) {
            self.volumes[volume][sector].ops.push(id);
        }
        id
    }

    /// It was acknowledged, and these sites have it; others may, if that is `unsure`.
    pub(crate) fn acknowledge(
        &mut self,
        now: Moment,
        op: OpId,
        (held, unsure): (Sites, bool),
        fua: bool,
    ) {
        let op = &mut self.ops[op];
        op.unsure = unsure;
        // Also of one whose host had left: it was under way until now.
        op.ended = Some(now);
        op.acked = true;
        op.held = op.held.with(held);
        if fua {
            op.flushed = op.flushed.with(held);
        }
    }

    /// It failed, or nobody is left to hear its answer.
    pub(crate) fn give_up(&mut self, now: Moment, op: OpId) {
        self.ops[op].ended.get_or_insert(now);
    }

    /// A flush of a volume that was submitted at `since` was acknowledged by these sites.
    pub(crate) fn flush(&mut self, since: Moment, volume: usize, sites: Sites) {
        for op in self.ops.iter_mut().filter(|op| op.volume == volume && op.acked) {
            if op.ended.is_some_and(|ended| ended < since) {
                op.flushed = op.flushed.with(sites.and(op.held));
            }
        }
    }

    /// A mirror joined: it has everything that was acknowledged.
    pub(crate) fn joined(&mut self, site: usize) {
        for op in self.ops.iter_mut().filter(|op| op.acked) {
            op.held = op.held.with(Sites::one(site));
        }
    }

    /// A mirror keeps all that was acknowledged up to a moment, on stable storage.
    pub(crate) fn keep_at(&mut self, sure: Moment, site: usize) {
        let one = Sites::one(site);
        for op in self.ops.iter_mut().filter(|op| op.acked) {
            if op.ended.is_some_and(|ended| ended <= sure) {
                op.held = op.held.with(one);
                op.flushed = op.flushed.with(one);
            }
        }
    }

    /// The branch of a mirror that keeps it as it was `at` a moment: what was asked for later is not
    /// in it, and what was acknowledged up to `sure` is.
    #[must_use]
    pub(crate) fn as_of(&self, (at, sure): (Moment, Moment), site: usize) -> Self {
        let mut branch = self.clone();
        let count = branch.ops.partition_point(|op| op.issued <= at);
        branch.ops.truncate(count);
        for sector in branch.volumes.iter_mut().flatten().filter(|s| !s.ops.is_empty()) {
            sector.ops.retain(|op| *op < count);
        }
        for op in &mut branch.ops {
            op.acked &= op.ended.is_some_and(|ended| ended <= sure);
            op.ended = Some(op.ended.map_or(at, |ended| ended.min(at)));
            op.held = op.held.with(Sites::one(site));
        }
        branch
    }

    /// Of what was acknowledged after a moment, anything may be there or not.
    #[must_use]
    pub(crate) fn up_to(&self, moment: Moment) -> Self {
        let mut branch = self.clone();
        for op in &mut branch.ops {
            op.acked &= op.ended.is_some_and(|ended| ended <= moment);
        }
        branch
    }

    /// How many of its acknowledged changes another branch cannot have.
    #[must_use]
    pub(crate) fn beyond(&self, other: &Self) -> usize {
        let theirs: BTreeSet<Moment> = other.ops.iter().map(|op| op.issued).collect();
        self.ops.iter().filter(|op| op.acked && !theirs.contains(&op.issued)).count()
    }

    /// How many acknowledged changes a site lacks, as far as that is sure.
    #[must_use]
    pub(crate) fn lacking(&self, site: usize) -> usize {
        self.ops.iter().filter(|op| op.acked && !op.unsure && !op.held.has(site)).count()
    }

    /// A site lost power: what was not flushed there may be gone.
    pub(crate) fn lose_unflushed(&mut self, site: usize) {
        for op in &mut self.ops {
            op.acked &= op.flushed.has(site);
        }
    }

    /// The branch of a mirror that is promoted now: of what it may lack, anything may be there or
    /// not. A promotion makes everything durable first, a planned one also at the old primary.
    #[must_use]
    pub(crate) fn promoted(&self, now: Moment, site: usize, old: usize, planned: bool) -> Self {
        let mut branch = self.clone();
        let both = Sites::one(site).with(Sites::one(old));
        for op in &mut branch.ops {
            op.ended.get_or_insert(now);
            op.acked &= op.held.has(site);
            op.held = both;
            let durable = if planned { both } else { op.flushed.and(both) };
            op.flushed = durable.with(Sites::one(site));
        }
        branch
    }

    /// Of a mirror that lost power: what was not flushed there may be gone as well.
    #[must_use]
    pub(crate) fn without_unflushed(&self, site: usize) -> Self {
        let mut branch = self.clone();
        branch.lose_unflushed(site);
        branch
    }

    /// Begins anew from what is there, as after a forced promotion.
    pub(crate) fn rebase(&mut self, content: impl Fn(usize, u64) -> u64) {
        self.ops.clear();
        for (volume, sectors) in self.volumes.iter_mut().enumerate() {
            for (index, sector) in (0..).zip(sectors) {
                sector.ops.clear();
                sector.base = content(volume, index);
            }
        }
    }

    /// A volume begins anew from what is there: nobody wrote to it before.
    pub(crate) fn rebase_volume(&mut self, volume: usize, content: impl Fn(u64) -> u64) {
        self.let_go(volume);
        for (index, sector) in (0..).zip(&mut self.volumes[volume]) {
            sector.ops.clear();
            sector.base = content(index);
        }
    }

    /// Nothing is promised of a volume any more.
    pub(crate) fn let_go(&mut self, volume: usize) {
        let theirs = self.ops.iter_mut().filter(|op| op.volume == volume);
        theirs.for_each(|op| op.acked = false);
    }

    /// Whether a read that began at `since` and saw `value` saw something that is allowed.
    pub(crate) fn allows(
        &self,
        volume: usize,
        sector: u64,
        value: u64,
        since: Moment,
    ) -> Result<(), String> {
        let index = usize::try_from(sector).expect("small");
        let state = &self.volumes[volume][index];
        // A change is certainly gone if one that was acknowledged before the read began was
        // issued after it had ended.
        // They stand in the order in which they were issued, so the first from behind is it.
        let writers = state.ops.iter().rev().map(|id| &self.ops[*id]);
        let newest_start = writers
            .clone()
            .find(|op| op.acked && op.ended.is_some_and(|ended| ended < since))
            .map(|op| op.issued);
        let alive = |ended: Option<Moment>| match (ended, newest_start) {
            (Some(ended), Some(start)) => ended > start,
            _ => true,
        };
        if value == state.base && newest_start.is_none() {
            return Ok(());
        }
        if writers.clone().any(|op| op.value == value && alive(op.ended)) {
            return Ok(());
        }
        let allowed: Vec<_> = writers
            .clone()
            .filter(|op| alive(op.ended))
            .map(|op| (op.value, op.issued, op.ended, op.acked))
            .collect();
        let seen: Vec<_> = writers
            .filter(|op| op.value == value)
            .map(|op| (op.value, op.issued, op.ended, op.acked))
            .collect();
        Err(format!(
            "volume {volume} sector {sector} contains {value} {seen:?}, allowed are {allowed:?}{}",
            if newest_start.is_none() { format!(" and {}", state.base) } else { String::new() }
        ))
    }

    /// Sectors that anything was ever issued to, and the rest as far as `every` says.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.volumes.iter().enumerate().flat_map(|(volume, sectors)| {
            let written = (0u64..).zip(sectors).filter(|(_, s)| !s.ops.is_empty() || s.base != 0);
            written.map(move |(sector, _)| (volume, sector))
        })
    }
}

/// The sectors between two bytes.
fn sectors(start: u64, end: u64) -> std::ops::Range<usize> {
    let index = |byte: u64| usize::try_from(byte / SECTOR_BYTES).expect("small");
    index(start)..index(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_hides_what_ended_before_it_began() {
        let mut branch = Branch::new(&[4096]);
        let place = Place { volume: 0, extent: Extent::new(0, 512).unwrap() };
        let first = branch.issue(1, place, 11, false);
        assert!(branch.allows(0, 0, 0, 2).is_ok() && branch.allows(0, 0, 11, 2).is_ok());
        let both = Sites::one(0).with(Sites::one(1));
        branch.acknowledge(3, first, (both, false), false);
        assert!(branch.allows(0, 0, 0, 4).is_err());
        let failed = branch.issue(5, place, 12, false);
        branch.give_up(6, failed);
        assert!(branch.allows(0, 0, 11, 7).is_ok() && branch.allows(0, 0, 12, 7).is_ok());
        let alone = branch.issue(8, place, 13, false);
        branch.acknowledge(9, alone, (Sites::one(0), false), false);
        assert!(branch.allows(0, 0, 12, 10).is_err());
        assert_eq!(branch.lacking(1), 1);
        let mirror = branch.promoted(11, 1, 0, false);
        assert!(mirror.allows(0, 0, 11, 12).is_ok() && mirror.allows(0, 0, 0, 12).is_err());
        branch.lose_unflushed(0);
        assert!(branch.allows(0, 0, 0, 12).is_ok());
    }

    #[test]
    fn a_cut_has_what_was_acknowledged_before_and_nothing_that_was_asked_for_later() {
        let mut branch = Branch::new(&[4096]);
        let place = Place { volume: 0, extent: Extent::new(0, 512).unwrap() };
        let here = (Sites::one(0), false);
        let first = branch.issue(1, place, 11, false);
        branch.acknowledge(2, first, here, false);
        let under_way = branch.issue(3, place, 12, false);
        branch.acknowledge(5, under_way, here, false);
        let later = branch.issue(6, place, 13, false);
        branch.acknowledge(7, later, here, false);
        let cut = branch.as_of((4, 4), 1).promoted(8, 1, 0, false);
        assert!(cut.allows(0, 0, 11, 9).is_ok() && cut.allows(0, 0, 12, 9).is_ok());
        assert!(cut.allows(0, 0, 0, 9).is_err() && cut.allows(0, 0, 13, 9).is_err());
        assert_eq!(branch.beyond(&cut), 1);
    }
}
