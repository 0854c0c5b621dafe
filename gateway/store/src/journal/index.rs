//! Which moments a write journal can be opened at, and which of its segments are still needed.
//!
//! ```text
//!   Base Time Time Time Base Time Time  Gap  Base Time Time
//!        └──────── range ───────────┘             └ range ┘
//! ```
//!
//! Invariant: pure. A moment is a place in the stream behind a base that is there, with no gap between
//! the two; the times of what stands between two gaps never go back.

use std::collections::VecDeque;

use block::{Gap, SnapshotId};

use super::record::{Head, Kind, Place};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// For how long a moment can be opened, in milliseconds.
    pub window_ms: u64,
    /// Bytes of the segments.
    pub bytes: u64,
}

/// A moment that can be opened: a base, and what came behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The snapshot of the group that it begins with.
    pub base: SnapshotId,
    /// Where that stands.
    pub from: Place,
    /// Behind the last change that belongs to it.
    pub to: Place,
    /// The moment, in milliseconds since 1970 by the clock of the primary.
    pub unix_ms: u64,
}

/// What stands at a place, beside changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Base { snapshot: SnapshotId, unix_ms: u64 },
    Time { unix_ms: u64 },
    Gap(Gap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    number: u64,
    bytes: u64,
}

/// The marks of all segments, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    marks: VecDeque<(Place, Mark)>,
    segments: VecDeque<Kept>,
    /// Whether the bytes are what made the window shorter.
    pub(super) is_cut_by_bytes: bool,
}

// === impl Index ===

impl Index {
    pub(super) fn push(&mut self, place: Place, mark: Mark) {
        // A second gap says nothing that the first one did not.
        let is_gap = |mark: &Mark| matches!(mark, Mark::Gap(_));
        if is_gap(&mark) && self.marks.back().is_none_or(|(_, last)| is_gap(last)) {
            return;
        }
        self.marks.push_back((place, mark));
    }

    /// A record stands there.
    pub(super) fn note(&mut self, head: &Head, place: Place) {
        let mark = match head.kind {
            Kind::Base => Mark::Base { snapshot: head.snapshot(), unix_ms: head.offset },
            Kind::Time => Mark::Time { unix_ms: head.offset },
            Kind::Gap => Mark::Gap(head.gap()),
            Kind::Write | Kind::Zero { .. } | Kind::Trim | Kind::End => return,
        };
        self.push(place, mark);
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.segments.iter().any(|kept| kept.number == number)
    }

    /// A segment has so many bytes now.
    pub(super) fn grow(&mut self, number: u64, bytes: u64) {
        match self.segments.back_mut().filter(|last| last.number == number) {
            Some(last) => last.bytes = bytes,
            None => self.segments.push_back(Kept { number, bytes }),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|kept| kept.bytes).sum()
    }

    /// Every base that stands in it.
    pub(super) fn bases(&self) -> Vec<SnapshotId> {
        let base = |(_, mark): &(Place, Mark)| match mark {
            Mark::Base { snapshot, .. } => Some(*snapshot),
            Mark::Time { .. } | Mark::Gap(_) => None,
        };
        self.marks.iter().filter_map(base).collect()
    }

    /// The newest gap.
    pub(super) fn last_gap(&self) -> Option<Gap> {
        self.marks.iter().rev().find_map(|(_, mark)| match mark {
            Mark::Gap(gap) => Some(*gap),
            Mark::Base { .. } | Mark::Time { .. } => None,
        })
    }

    /// Every moment behind a base that is there, oldest first: which range it belongs to, and itself.
    fn moments(
        &self,
        is_there: impl Fn(SnapshotId) -> bool,
    ) -> impl Iterator<Item = (u64, Moment)> {
        let (mut base, mut range) = (None, 0);
        self.marks.iter().filter_map(move |(place, mark)| match *mark {
            Mark::Base { snapshot, .. } => {
                if is_there(snapshot) {
                    base = Some((snapshot, *place));
                }
                None
            }
            Mark::Gap(_) => {
                (base, range) = (None, range + 1);
                None
            }
            Mark::Time { unix_ms } => {
                let (base, from) = base?;
                Some((range, Moment { base, from, to: *place, unix_ms }))
            }
        })
    }

    /// The times that can be opened: from the first to the last of each range, oldest first.
    pub(super) fn ranges(&self, is_there: impl Fn(SnapshotId) -> bool) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64, u64)> = Vec::new();
        for (range, moment) in self.moments(is_there) {
            match ranges.last_mut().filter(|last| last.0 == range) {
                Some(last) => last.2 = moment.unix_ms,
                None => ranges.push((range, moment.unix_ms, moment.unix_ms)),
            }
        }
        ranges.into_iter().map(|(_, first, last)| (first, last)).collect()
    }

    /// The last moment that is not later than that time, in a range that the time lies in: where
    /// nothing is known of a time, nothing is said.
    pub(super) fn find(
        &self,
        unix_ms: u64,
        is_there: impl Fn(SnapshotId) -> bool,
    ) -> Option<Moment> {
        let (mut best, mut before): (Option<Moment>, Option<(u64, Moment)>) = (None, None);
        for (range, moment) in self.moments(is_there) {
            let last = before.filter(|(of, _)| *of == range).map(|(_, last)| last);
            if moment.unix_ms == unix_ms {
                best = Some(moment);
            } else if moment.unix_ms > unix_ms
                && let Some(last) = last.filter(|last| last.unix_ms <= unix_ms)
                && best.is_none_or(|best| best.unix_ms <= last.unix_ms)
            {
                best = Some(last);
            }
            before = Some((range, moment));
        }
        best
    }

    /// Forgets what no rule keeps, and says which segments that are, with their bytes.
    pub(super) fn trim(&mut self, limits: JournalLimits) -> Vec<(u64, u64)> {
        let mut gone = Vec::new();
        while self.bytes() > limits.bytes && self.segments.len() > 1 {
            self.is_cut_by_bytes = true;
            gone.extend(self.drop_oldest());
        }
        let newest = self.marks.iter().rev().find_map(|(_, mark)| match mark {
            Mark::Time { unix_ms } => Some(*unix_ms),
            Mark::Base { .. } | Mark::Gap(_) => None,
        });
        let horizon = newest.map_or(0, |newest| newest.saturating_sub(limits.window_ms));
        // The oldest moment of the window needs the base before it.
        let needed = self.marks.iter().rev().find_map(|(place, mark)| match mark {
            Mark::Base { unix_ms, .. } if *unix_ms <= horizon => Some(*place),
            Mark::Base { .. } | Mark::Time { .. } | Mark::Gap(_) => None,
        });
        if let Some(needed) = needed {
            self.is_cut_by_bytes = false;
            self.forget_before(needed);
        }
        // What stands before the first base follows nothing.
        let base = |(place, mark): &(Place, Mark)| match mark {
            Mark::Base { .. } => Some(*place),
            Mark::Time { .. } | Mark::Gap(_) => None,
        };
        if let Some(first) = self.marks.iter().find_map(base) {
            self.forget_before(first);
            while self.segments.len() > 1
                && self.segments.front().is_some_and(|kept| kept.number < first.segment)
            {
                gone.extend(self.drop_oldest());
            }
        }
        gone
    }

    /// Forgets the oldest segment, if it is not the only one.
    pub(super) fn drop_oldest(&mut self) -> Option<(u64, u64)> {
        if self.segments.len() < 2 {
            return None;
        }
        let gone = self.segments.pop_front()?;
        self.forget_before(Place { segment: gone.number + 1, at: 0 });
        Some((gone.number, gone.bytes))
    }

    /// Forgets everything, and says which segments that was.
    pub(super) fn clear(&mut self) -> Vec<(u64, u64)> {
        self.marks.clear();
        self.is_cut_by_bytes = false;
        self.segments.drain(..).map(|kept| (kept.number, kept.bytes)).collect()
    }

    fn forget_before(&mut self, place: Place) {
        while self.marks.front().is_some_and(|(at, _)| *at < place) {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks of one segment, a byte each; `b1@5` is base 1 at 5 ms, `7` is a time, `-` a gap.
    fn index(words: &str) -> Index {
        let mut index = Index::default();
        for (at, word) in (0..).zip(words.split_whitespace()) {
            let mark = match word.strip_prefix('b').and_then(|base| base.split_once('@')) {
                Some((id, ms)) => Mark::Base {
                    snapshot: SnapshotId::of(id.parse().unwrap()),
                    unix_ms: ms.parse().unwrap(),
                },
                None if word == "-" => Mark::Gap(Gap::Link),
                None => Mark::Time { unix_ms: word.parse().unwrap() },
            };
            index.push(Place { segment: at / 4, at: at % 4 }, mark);
            index.grow(at / 4, 100);
        }
        index
    }

    fn found(index: &Index, unix_ms: u64) -> Option<(u128, u64)> {
        let moment = index.find(unix_ms, |_| true)?;
        Some((moment.base.uuid().as_u128(), moment.unix_ms))
    }

    #[test]
    fn a_moment_is_the_last_that_is_not_later_in_a_range_that_has_it() {
        let index = index("b1@5 6 8 b2@8 9 12 - b3@20 21 25");
        assert_eq!(index.ranges(|_| true), [(6, 12), (21, 25)]);
        assert_eq!(found(&index, 6), Some((1, 6)));
        assert_eq!(found(&index, 7), Some((1, 6)));
        assert_eq!(found(&index, 9), Some((2, 9)));
        assert_eq!(found(&index, 12), Some((2, 12)));
        assert_eq!(found(&index, 24), Some((3, 21)));
        // Before, in the hole, behind: nothing is known.
        for unknown in [5, 13, 20, 26] {
            assert_eq!(found(&index, unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_base_that_is_not_there_is_made_up_for_by_the_one_before() {
        let index = index("b1@5 6 8 b2@8 9 12 - b3@20 21 25");
        let without = |gone: u128| move |id: SnapshotId| id != SnapshotId::of(gone);
        assert_eq!(index.find(9, without(2)).unwrap().base, SnapshotId::of(1));
        assert_eq!(index.ranges(without(1)), [(9, 12), (21, 25)]);
        assert_eq!(index.ranges(without(3)), [(6, 12)]);
    }

    #[test]
    fn of_two_ranges_that_know_a_time_the_newer_one_says_it() {
        let index = index("b1@5 6 9 - b2@6 7 8 10");
        assert_eq!(found(&index, 8), Some((2, 8)));
        assert_eq!(found(&index, 6), Some((1, 6)));
    }

    #[test]
    fn what_is_older_than_the_window_goes_but_for_the_base_that_it_needs() {
        let mut index = index("b1@0 1 2 3 b2@4 5 6 7 b3@8 9 10 11");
        let limits = JournalLimits { window_ms: 6, bytes: 1_000 };
        assert_eq!(index.trim(limits), [(0, 100)]);
        assert_eq!(index.ranges(|_| true), [(5, 11)]);
        assert_eq!(index.bases(), [SnapshotId::of(2), SnapshotId::of(3)]);
        assert!(!index.is_cut_by_bytes);
    }

    #[test]
    fn what_is_more_than_the_bytes_goes_up_to_the_next_base() {
        let mut index = index("b1@0 1 2 3 4 5 6 b2@7 8 9 10 11");
        let limits = JournalLimits { window_ms: 100, bytes: 250 };
        assert_eq!(index.trim(limits), [(0, 100)]);
        assert_eq!(index.ranges(|_| true), [(8, 11)]);
        assert!(index.is_cut_by_bytes);
        // The one that is written to stays, however little is allowed.
        assert_eq!(index.trim(JournalLimits { window_ms: 100, bytes: 0 }), [(1, 100)]);
        assert_eq!(index.ranges(|_| true), []);
        assert_eq!(index.bytes(), 100);
    }
}
