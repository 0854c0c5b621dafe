//! The properties that look at copies as a whole.
//!
//! Invariant: what is compared is what the gateways' disks hold, not what the gateways say.

use std::cell::RefCell;
use std::rc::Rc;

use block::Quality;
use mirror::{Consent, Phase, Role, Serving};

use crate::attachment::whole_value;
use crate::model::Branch;
use crate::platter::SECTOR_BYTES;
use crate::world::World;

/// A host that writes in turn to two places and waits for each answer (P6, rule 5).
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// Volume and sector of either place.
    pub(crate) places: [(usize, u64); 2],
    steps: Vec<Step>,
    /// Steps before this one may be gone since: something was lost that may be lost.
    floor: usize,
}

#[derive(Clone, Debug)]
struct Step {
    place: usize,
    value: u64,
    acked: bool,
}

impl Pair {
    pub(crate) fn new(places: [(usize, u64); 2]) -> Self {
        Self { places, steps: Vec::new(), floor: 0 }
    }

    /// Begins a step; returns its number and its place.
    pub(crate) fn step(&mut self, value: u64) -> (usize, usize) {
        let place = match self.steps.last() {
            Some(last) if last.acked => 1 - last.place,
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

    /// Whether a later step is there without one that was acknowledged before it began.
    fn missing(&self, seen: [u64; 2]) -> Option<String> {
        let newest = seen.map(|value| self.steps.iter().rposition(|step| step.value == value));
        let later = newest.iter().flatten().max().copied()?;
        for (number, step) in self.steps.iter().enumerate().take(later).skip(self.floor) {
            if step.acked && newest[step.place].is_none_or(|seen| seen < number) {
                return Some(format!("step {later} is there, step {number} before it is not"));
            }
        }
        None
    }
}

impl World {
    /// A gateway came up: whether it is a primary that nobody saw become one.
    pub(crate) fn look_at(self: &Rc<Self>, site: usize) {
        let Some(group) = self.group(site) else { return };
        let status = group.status();
        let state = &self.sites[site];
        let epoch = status.epoch.get();
        if epoch < state.epoch.get() {
            self.fail("P4", format!("{}: epoch {epoch} after {}", state.name, state.epoch.get()));
        }
        state.epoch.set(epoch);
        // One that is handing over may have been replaced already.
        let primary = status.role == Role::Primary && status.serving != Serving::HandingOver;
        if primary && state.branch.borrow().is_none() {
            self.on_promoted(site);
        }
    }

    /// The branch that a gateway serves, from now on.
    pub(crate) fn serve_branch(&self, site: usize) -> Option<Rc<RefCell<Branch>>> {
        let state = &self.sites[site];
        let branch = state.branch.borrow().clone()?;
        if state.rolled_back.replace(false) {
            self.log(format_args!("{}: what was not flushed may be gone", state.name));
            branch.borrow_mut().lose_unflushed();
            self.pairs.borrow_mut().iter_mut().for_each(Pair::forget);
        }
        Some(branch)
    }

    /// A gateway became the primary: what its copy must contain (P1, P6, P7).
    pub(crate) fn on_promoted(self: &Rc<Self>, site: usize) {
        let (state, other) = (&self.sites[site], &self.sites[1 - site]);
        let promotion = state.promotion.take();
        let quality = promotion.map_or(Quality::InSync, |(_, quality)| quality);
        let now = self.count();
        let mut stats = self.stats.borrow_mut();
        let own = state.branch.borrow().clone();
        if let Some(own) = own.as_ref().filter(|_| state.rolled_back.get()) {
            own.borrow_mut().lose_unflushed();
            self.pairs.borrow_mut().iter_mut().for_each(Pair::forget);
        }
        let theirs = other.branch.borrow().clone();
        let half = matches!(quality, Quality::Inconsistent | Quality::Blank);
        let mut lossless = promotion.is_none_or(|(consent, _)| consent == Consent::InSync);
        let branch = match (own, theirs) {
            // What is in sync is another's content; what was one's own is an old one.
            (Some(own), _) if quality == Quality::Outdated => own,
            (_, Some(theirs)) if !half || state.intact.get() => {
                let has_all = self.content_fits(site, &theirs.borrow()).is_ok();
                let alone = if has_all { 0 } else { theirs.borrow().alone() };
                let mut branch = theirs.borrow().promoted(now);
                if half {
                    branch.lose_unflushed_there();
                    lossless = false;
                }
                if alone > 0 {
                    stats.holes += 1;
                    lossless = false;
                    other.unconsented.set(alone);
                    self.log(format_args!(
                        "{alone} changes were acknowledged without {}",
                        state.name
                    ));
                }
                Rc::new(RefCell::new(branch))
            }
            (own, theirs) => {
                lossless = false;
                stats.forced += 1;
                self.log(format_args!("{}: whatever is here is the content now", state.name));
                let mut branch = own.or(theirs).expect("somebody was primary").borrow().clone();
                branch.rebase(|volume, sector| state.platters[volume].peek(sector));
                Rc::new(RefCell::new(branch))
            }
        };
        match promotion {
            None => {
                stats.handovers += 1;
                // The old primary has what was handed over, and nothing of its own.
                *other.branch.borrow_mut() = None;
            }
            Some(_) => stats.promotions += 1,
        }
        drop(stats);
        *state.branch.borrow_mut() = Some(branch);
        state.rolled_back.set(false);
        state.unconsented.set(0);
        self.check_content(site);
        if !half {
            self.check_pairs(site);
        }
        if !lossless {
            self.pairs.borrow_mut().iter_mut().for_each(Pair::forget);
        }
    }

    /// A mirror joined: nothing of its own is left.
    pub(crate) fn on_joined(self: &Rc<Self>, site: usize) {
        let (state, other) = (&self.sites[site], &self.sites[1 - site]);
        self.stats.borrow_mut().joins += 1;
        if let Some(branch) = self.serve_branch(site) {
            branch.borrow_mut().joined();
        }
        if other.unconsented.get() > 0 {
            let text = format!(
                "{} acknowledged changes of {} were overwritten without a word (rule 10)",
                other.unconsented.get(),
                other.name
            );
            self.fail("P1", text);
        }
        *other.branch.borrow_mut() = None;
        other.rolled_back.set(false);
        other.intact.set(false);
        state.intact.set(false);
    }

    /// P1: every sector of a copy holds what its branch allows.
    pub(crate) fn check_content(&self, site: usize) {
        let state = &self.sites[site];
        let Some(branch) = state.branch.borrow().clone() else { return };
        if let Err(text) = self.content_fits(site, &branch.borrow()) {
            self.fail("P1", format!("at {}: {text}", state.name));
        }
    }

    fn content_fits(&self, site: usize, branch: &Branch) -> Result<(), String> {
        let now = self.count();
        branch.touched().try_for_each(|(volume, sector)| {
            let value = self.sites[site].platters[volume].peek(sector);
            branch.allows(volume, sector, value, now)
        })
    }

    /// P4: only who became primary at a higher epoch fences another.
    pub(crate) fn check_fence(&self, site: usize) {
        let Some([ours, theirs]) =
            self.group(site).zip(self.group(1 - site)).map(|(a, b)| [a.status(), b.status()])
        else {
            return;
        };
        if ours.epoch > theirs.epoch {
            let name = self.sites[site].name;
            self.fail("P4", format!("{name} is fenced by epoch {}, nobody has it", ours.epoch));
        }
    }

    /// P6: a dependent change is never there without what it depends on.
    fn check_pairs(&self, site: usize) {
        let platters = &self.sites[site].platters;
        for (number, pair) in self.pairs.borrow().iter().enumerate() {
            let seen = pair.places.map(|(volume, sector)| platters[volume].peek(sector));
            if let Some(text) = pair.missing(seen) {
                let name = self.sites[site].name;
                self.fail("P6", format!("pair {number} at {name}: {text}"));
            }
        }
    }

    /// P2 and P3: both copies are equal.
    pub(crate) fn compare_copies(&self) {
        self.stats.borrow_mut().comparisons += 1;
        let empty: Box<[u8]> = vec![0; 4096].into_boxed_slice();
        for volume in 0..self.volumes.len() {
            let [east, west] = [0, 1].map(|site| self.sites[site].platters[volume].blocks());
            let mut blocks: Vec<u64> = east.keys().chain(west.keys()).copied().collect();
            blocks.sort_unstable();
            blocks.dedup();
            // What lies behind the end of the primary's volume is nobody's.
            let sizes = [0, 1].map(|site| self.sites[site].platters[volume].size());
            for block in blocks.into_iter().filter(|b| (b + 1) * 4096 <= sizes[0].min(sizes[1])) {
                let (a, b) =
                    (east.get(&block).unwrap_or(&empty), west.get(&block).unwrap_or(&empty));
                if a == b {
                    continue;
                }
                let sector_bytes = usize::try_from(SECTOR_BYTES).expect("512");
                let pairs = a.chunks(sector_bytes).zip(b.chunks(sector_bytes)).enumerate();
                let differing: Vec<_> = pairs
                    .filter(|(_, (a, b))| a != b)
                    .map(|(n, (a, b))| (n, whole_value(a), whole_value(b)))
                    .collect();
                let text = format!("volume {volume} block {block} differs: {differing:?}");
                self.fail("P2", text);
                return;
            }
        }
    }

    /// The site whose leg is Equivalent, if one is.
    pub(crate) fn equivalent(&self) -> Option<usize> {
        (0..2).find(|site| {
            self.group(*site).is_some_and(|group| {
                let status = group.status();
                status.role == Role::Primary
                    && status.legs.iter().any(|leg| leg.phase == Phase::Equivalent)
            })
        })
    }
}
