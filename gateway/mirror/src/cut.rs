//! At which cut the mirrors of a group over several gateways take over.
//!
//! Invariant: the cut is one that every mirror offers, as its copy or as its kept point; if there is
//! none, that is said, and never made up.

use block::PartFacts;

use crate::command::Consent;

/// A cut for all parts of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The stretch whose cut it is; a new number if they have none in common.
    pub number: u64,
    /// The mirrors have no cut in common: what is taken over is no one point in time.
    pub apart: bool,
}

/// How a part takes part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutStep {
    /// It took over at this cut already.
    Done,
    /// Its copy is a point of that stretch.
    AsItIs,
    /// It goes back to the point that it keeps.
    Back,
    /// It takes over as it is, at no cut.
    Apart,
}

impl Cut {
    /// The newest cut that all parts of a site can take over at. One that took over already decides.
    #[must_use]
    pub fn of(parts: &[PartFacts]) -> Self {
        let offers = |facts: &PartFacts, number: u64| {
            number > 0 && (facts.copy == number || facts.kept == number)
        };
        let mut took = parts.iter().filter(|facts| facts.is_primary).map(|facts| facts.from);
        if let Some(from) = took.next() {
            let agree = took.all(|other| other == from);
            let mut mirrors = parts.iter().filter(|facts| !facts.is_primary);
            let all = agree && mirrors.all(|facts| offers(facts, from));
            let highest = parts.iter().map(|facts| facts.from).max().unwrap_or(from);
            let number = if agree { from } else { highest };
            return Self { number, apart: !all };
        }
        let candidates = parts.iter().flat_map(|facts| [facts.copy, facts.kept]);
        let common = candidates.filter(|number| parts.iter().all(|facts| offers(facts, *number)));
        if let Some(number) = common.max() {
            return Self { number, apart: false };
        }
        let numbers = parts
            .iter()
            .flat_map(|facts| [facts.number, facts.whole, facts.from, facts.copy, facts.kept]);
        Self { number: numbers.max().unwrap_or(0) + 1, apart: true }
    }

    /// What a part has to do for it.
    #[must_use]
    pub const fn step(self, facts: &PartFacts) -> CutStep {
        if facts.is_primary && facts.from == self.number {
            CutStep::Done
        } else if self.apart {
            CutStep::Apart
        } else if facts.copy == self.number {
            CutStep::AsItIs
        } else {
            CutStep::Back
        }
    }

    /// The least that must be accepted for that step, by what the copy is worth.
    #[must_use]
    pub const fn consent(self, facts: &PartFacts, quality: block::Quality) -> Consent {
        match self.step(facts) {
            CutStep::Done => Consent::InSync,
            CutStep::AsItIs => Consent::needed(quality, false),
            CutStep::Back => Consent::Outdated,
            CutStep::Apart => Consent::Inconsistent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(copy: u64, kept: u64) -> PartFacts {
        PartFacts { number: copy.max(kept), copy, kept, ..PartFacts::default() }
    }

    #[test]
    fn the_newest_cut_that_all_have_is_taken() {
        let cut = |parts: &[PartFacts]| Cut::of(parts);
        let at = |number| Cut { number, apart: false };
        assert_eq!(cut(&[mirror(3, 0), mirror(3, 0)]), at(3));
        assert_eq!(cut(&[mirror(4, 3), mirror(3, 0)]), at(3));
        assert_eq!(cut(&[mirror(4, 3), mirror(0, 3)]), at(3));
        assert_eq!(cut(&[mirror(4, 3), mirror(4, 3)]), at(4));
        assert_eq!(cut(&[mirror(4, 0), mirror(0, 3)]), Cut { number: 5, apart: true });
        assert_eq!(cut(&[mirror(0, 0), mirror(0, 0)]), Cut { number: 1, apart: true });
    }

    #[test]
    fn one_that_took_over_already_decides() {
        let took = |from| PartFacts { from, is_primary: true, number: 9, ..PartFacts::default() };
        assert_eq!(Cut::of(&[took(3), mirror(4, 3)]), Cut { number: 3, apart: false });
        assert_eq!(Cut::of(&[mirror(4, 0), took(3)]), Cut { number: 3, apart: true });
        assert_eq!(Cut::of(&[took(3), took(4)]), Cut { number: 4, apart: true });
        let cut = Cut::of(&[took(3), mirror(4, 3)]);
        assert_eq!(cut.step(&took(3)), CutStep::Done);
        assert_eq!(cut.step(&mirror(4, 3)), CutStep::Back);
        assert_eq!(cut.consent(&mirror(4, 3), block::Quality::InSync), Consent::Outdated);
    }
}
