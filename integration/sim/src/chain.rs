//! A host that writes in turn to several places and waits for each answer (P6, rule 5).
//!
//! Invariant: a step is begun only when the one before it was acknowledged, or again at the same
//! place when it was not.

/// The steps of such a host.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// Volume and sector of each place.
    pub(crate) places: Vec<(usize, u64)>,
    steps: Vec<Step>,
    /// Steps before this one may be gone since: something was lost that may be lost.
    floor: usize,
    /// Where the last step was made.
    made_at: Option<usize>,
}

#[derive(Clone, Debug)]
struct Step {
    place: usize,
    value: u64,
    acked: bool,
}

impl Chain {
    pub(crate) fn new(places: Vec<(usize, u64)>) -> Self {
        Self { places, steps: Vec::new(), floor: 0, made_at: None }
    }

    /// Begins a step at a site; returns its number and its place. What was written at another site
    /// need not be here: that one may be served too, or be replaced by this one.
    pub(crate) fn step(&mut self, site: usize, value: u64) -> (usize, usize) {
        if self.made_at.replace(site).is_some_and(|last| last != site) {
            self.forget();
        }
        let place = match self.steps.last() {
            Some(last) if last.acked => (last.place + 1) % self.places.len(),
            Some(last) => last.place,
            None => 0,
        };
        self.steps.push(Step { place, value, acked: false });
        (self.steps.len() - 1, place)
    }

    pub(crate) fn acknowledged(&mut self, step: usize) {
        self.steps[step].acked = true;
    }

    /// Whatever was acknowledged so far may be gone.
    pub(crate) fn forget(&mut self) {
        self.floor = self.steps.len();
    }

    /// Where the next step goes.
    pub(crate) fn next_place(&self) -> (usize, u64) {
        let place = match self.steps.last() {
            Some(last) if last.acked => (last.place + 1) % self.places.len(),
            Some(last) => last.place,
            None => 0,
        };
        self.places[place]
    }

    /// How many steps it began.
    pub(crate) fn begun(&self) -> usize {
        self.steps.len()
    }

    /// How many of its steps are over, if the last one was made at that site.
    pub(crate) fn ended(&self, site: usize) -> Option<usize> {
        let under_way = self.steps.last().is_some_and(|last| !last.acked);
        (self.made_at == Some(site)).then_some(self.steps.len() - usize::from(under_way))
    }

    /// Whether a step that was acknowledged is not there, or a newer one at its place; `seen` is what
    /// each place holds.
    pub(crate) fn lacks_acknowledged(&self, seen: &[u64]) -> bool {
        self.lacks_acknowledged_of(seen, self.steps.len())
    }

    /// The same of that many first steps.
    pub(crate) fn lacks_acknowledged_of(&self, seen: &[u64], first: usize) -> bool {
        let of = |value: &u64| self.steps.iter().rposition(|step| step.value == *value);
        let newest: Vec<Option<usize>> = seen.iter().map(of).collect();
        let steps = self.steps.iter().enumerate().take(first).skip(self.floor);
        let mut steps = steps.filter(|(_, step)| step.acked);
        steps.any(|(number, step)| newest[step.place].is_none_or(|seen| seen < number))
    }

    /// The newest of its steps that was acknowledged and is there; `seen` is what each place holds.
    pub(crate) fn newest_acknowledged(&self, seen: &[u64]) -> Option<usize> {
        self.steps.iter().rposition(|step| step.acked && seen[step.place] == step.value)
    }

    /// Whether a place holds an older step in one copy than in the other, where that one was
    /// acknowledged.
    pub(crate) fn is_behind(&self, seen: &[u64], other: &[u64]) -> bool {
        let of = |value: &u64| self.steps.iter().rposition(|step| step.value == *value);
        seen.iter().zip(other).any(|(ours, theirs)| {
            let theirs = of(theirs).filter(|step| self.steps[*step].acked);
            theirs.is_some_and(|theirs| of(ours).is_none_or(|ours| ours < theirs))
        })
    }

    /// Whether a later step is there without one that was acknowledged before it began; `seen` is
    /// what each place holds.
    pub(crate) fn missing(&self, seen: &[u64]) -> Option<String> {
        let of = |value: &u64| self.steps.iter().rposition(|step| step.value == *value);
        let newest: Vec<Option<usize>> = seen.iter().map(of).collect();
        let later = newest.iter().flatten().max().copied()?;
        for (number, step) in self.steps.iter().enumerate().take(later).skip(self.floor) {
            if step.acked && newest[step.place].is_none_or(|seen| seen < number) {
                return Some(format!("step {later} is there, step {number} before it is not"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_step_needs_those_before_it() {
        let mut chain = Chain::new(vec![(0, 0), (1, 0), (2, 0)]);
        for value in 1..=4 {
            let (step, place) = chain.step(0, value);
            assert_eq!(place, step % 3);
            chain.acknowledged(step);
        }
        assert_eq!(chain.missing(&[4, 2, 3]), None);
        assert_eq!(chain.missing(&[1, 0, 0]), None);
        assert!(chain.missing(&[4, 2, 0]).is_some());
        assert!(chain.missing(&[4, 0, 3]).is_some());
        chain.forget();
        assert_eq!(chain.missing(&[4, 0, 3]), None);
    }

    #[test]
    fn a_copy_that_lacks_what_another_one_has_is_behind_it() {
        let mut chain = Chain::new(vec![(0, 0), (1, 0)]);
        for value in 1..=3 {
            let (step, _) = chain.step(0, value);
            chain.acknowledged(step);
        }
        let (_, place) = chain.step(0, 4);
        assert_eq!(place, 1);
        assert_eq!(chain.newest_acknowledged(&[3, 4]), Some(2));
        assert_eq!(chain.newest_acknowledged(&[0, 0]), None);
        assert!(chain.is_behind(&[1, 2], &[3, 2]) && chain.is_behind(&[0, 0], &[1, 0]));
        assert!(!chain.is_behind(&[3, 4], &[3, 2]) && !chain.is_behind(&[3, 2], &[3, 2]));
        assert!(!chain.is_behind(&[3, 2], &[3, 4]), "nobody was told that it is there");
    }
}
