//! Which of two copies may be brought up to date from which, from their histories.
//!
//! A *generation* names one history of content; a primary that goes on without a mirror, or is
//! promoted, begins a new one and remembers those it grew from. Two copies compare like commits.
//!
//! Invariant: a pure function of what both sides recorded; it never merges.

use block::Generation;

/// How many ancestors are remembered whatever they are for. One is added per loss of a mirror or
/// promotion. Those that a mirror counts from are remembered for as long as it does.
pub(crate) const ANCESTORS_MAX: usize = 32;
/// How many of those that came next after one that a mirror counts from are remembered with it: the
/// mirror was told of them in turn, and may have recorded one without its primary having heard so.
const TOLD_MAX: usize = 8;

/// A content's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The history that the content belongs to.
    pub(crate) current: Generation,
    /// Those it grew from, newest first. Some may be left out, in their order the others stay.
    pub(crate) ancestors: Vec<Generation>,
}

impl Lineage {
    pub(crate) fn new(current: Generation, ancestors: Vec<Generation>) -> Self {
        Self { current, ancestors }
    }

    /// Goes on as a new history. Mirrors count from `bases`: these are not forgotten, however many
    /// histories pass while a mirror is away. What it lacks is in its map, and the map is as good as
    /// it was; only that its history is one of these must be known. To leave out others changes no
    /// comparison but to one with nothing in common, which is refused or copied whole.
    pub(crate) fn begin(&mut self, next: Generation, bases: &[Generation]) {
        self.ancestors.insert(0, self.current);
        let all = &self.ancestors;
        let is_kept = |at: &usize| {
            let mut since = all.iter().skip(*at).take(TOLD_MAX + 1);
            *at < ANCESTORS_MAX || since.any(|generation| bases.contains(generation))
        };
        self.ancestors = (0..all.len()).filter(is_kept).map(|at| all[at]).collect();
        self.current = next;
    }

    /// The same history, with what is needed of the one that was followed `before`: gateways count from
    /// `bases` of which whoever says this one knows nothing, and may have left out. Only what lies
    /// behind two that both name, or behind the last of them, has a place here that is known.
    pub(crate) fn continuing(self, before: &Self, bases: &[Generation]) -> Self {
        if !self.has(before.current) {
            return self;
        }
        let chain: Vec<_> =
            std::iter::once(before.current).chain(before.ancestors.clone()).collect();
        let chain = &chain;
        let is_needed = move |at: &usize| {
            let mut since = chain.iter().skip(*at).take(TOLD_MAX + 1);
            since.any(|generation| bases.contains(generation))
        };
        let needed =
            move |range: std::ops::Range<usize>| range.filter(is_needed).map(move |at| chain[at]);
        let mut all = Vec::with_capacity(self.ancestors.len() + 1);
        let mut last = None;
        for said in std::iter::once(self.current).chain(self.ancestors) {
            let at = chain.iter().position(|generation| *generation == said);
            if let (Some(last), Some(at)) = (last, at) {
                all.extend(needed(last + 1..at));
            }
            all.push(said);
            last = at;
        }
        all.extend(last.into_iter().flat_map(|last| needed(last + 1..chain.len())));
        let ancestors = all.split_off(1);
        Self { current: self.current, ancestors }
    }

    /// Whether `common` is `base` or came after it in this history.
    pub(crate) fn is_within(&self, common: Generation, base: Generation) -> bool {
        let mut chain = std::iter::once(&self.current).chain(&self.ancestors);
        chain.by_ref().any(|generation| *generation == common)
            && (common == base || chain.any(|generation| *generation == base))
    }

    pub(crate) fn has(&self, generation: Generation) -> bool {
        self.current == generation || self.ancestors.contains(&generation)
    }
}

/// How the mirror's copy relates to the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The mirror has nothing.
    Blank,
    /// Same history, or the mirror is behind on it. What was tracked since `common` is the delta.
    Behind {
        /// The newest history that both have.
        common: Generation,
    },
    /// The mirror went on from what the primary has: the primary is the stale one.
    Ahead,
    /// Both went on after `common`.
    Diverged {
        /// The newest history that both have.
        common: Generation,
    },
    /// They have nothing in common.
    Unrelated,
}

/// Compares the primary's history with the mirror's.
pub(crate) fn relate(primary: &Lineage, mirror: Option<&Lineage>) -> Relation {
    let Some(mirror) = mirror else { return Relation::Blank };
    if primary.has(mirror.current) {
        return Relation::Behind { common: mirror.current };
    }
    if mirror.has(primary.current) {
        return Relation::Ahead;
    }
    let common = mirror.ancestors.iter().find(|generation| primary.has(**generation));
    common.map_or(Relation::Unrelated, |common| Relation::Diverged { common: *common })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(numbers: &[u128]) -> Lineage {
        let mut generations = numbers.iter().map(|n| Generation::of(*n));
        Lineage::new(generations.next().unwrap(), generations.collect())
    }

    #[test]
    fn the_table() {
        let one = Generation::of(1);
        type Case = (&'static [u128], Option<&'static [u128]>, Relation);
        let cases: [Case; 7] = [
            (&[1], None, Relation::Blank),
            (&[1], Some(&[1]), Relation::Behind { common: one }),
            (&[2, 1], Some(&[1]), Relation::Behind { common: one }),
            (&[1], Some(&[2, 1]), Relation::Ahead),
            (&[2, 1], Some(&[3, 1]), Relation::Diverged { common: one }),
            (&[5, 2, 1], Some(&[4, 3, 1]), Relation::Diverged { common: one }),
            (&[2], Some(&[3]), Relation::Unrelated),
        ];
        for (primary, mirror, relation) in cases {
            let mirror = mirror.map(lineage);
            assert_eq!(relate(&lineage(primary), mirror.as_ref()), relation, "{primary:?}");
        }
    }

    #[test]
    fn what_came_before_the_base_is_not_within() {
        let ours = lineage(&[3, 2, 1]);
        let within = |common, base| ours.is_within(Generation::of(common), Generation::of(base));
        assert!(within(2, 1) && within(2, 2) && within(3, 1));
        assert!(!within(1, 2) && !within(9, 1) && !within(1, 9));
    }

    #[test]
    fn a_mirror_that_was_away_for_too_long_is_unrelated() {
        let mut primary = lineage(&[1]);
        for n in 2..40 {
            primary.begin(Generation::of(n), &[]);
        }
        assert_eq!(relate(&primary, Some(&lineage(&[1]))), Relation::Unrelated);
    }

    #[test]
    fn what_others_count_from_is_remembered_whoever_says_the_history() {
        let before = lineage(&[9, 8, 7, 6, 5, 4, 3, 2, 1]);
        let bases = [Generation::of(5)];
        // Behind the last that is said, and between two that are.
        let behind = lineage(&[11, 10, 9]).continuing(&before, &bases);
        assert_eq!(behind, lineage(&[11, 10, 9, 8, 7, 6, 5]));
        let between = lineage(&[10, 9, 7, 2]).continuing(&before, &bases);
        assert_eq!(between, lineage(&[10, 9, 8, 7, 6, 5, 2]));
        // Where it would stand is not known, or it is no history of this one.
        let unknown = lineage(&[10, 9, 20, 2]).continuing(&before, &bases);
        assert_eq!(unknown, lineage(&[10, 9, 20, 2]));
        assert_eq!(lineage(&[30, 8]).continuing(&before, &bases), lineage(&[30, 8]));
        assert_eq!(lineage(&[10, 9]).continuing(&before, &[]), lineage(&[10, 9]));
    }

    #[test]
    fn what_a_mirror_counts_from_is_remembered_and_what_came_next_as_well() {
        let mut primary = lineage(&[1]);
        for n in 2..500 {
            primary.begin(Generation::of(n), &[Generation::of(3), Generation::of(6)]);
        }
        let related = |n| relate(&primary, Some(&lineage(&[n])));
        for n in 3..=14 {
            let common = Generation::of(n);
            assert_eq!(related(n), Relation::Behind { common });
            assert!(primary.is_within(common, Generation::of(3)));
            assert_eq!(primary.is_within(common, Generation::of(6)), n >= 6);
        }
        assert_eq!((related(2), related(15)), (Relation::Unrelated, Relation::Unrelated));
        assert_eq!(primary.ancestors.len(), ANCESTORS_MAX + 12, "it does not grow");
        assert!(primary.ancestors.is_sorted_by(|newer, older| newer > older));
    }
}
