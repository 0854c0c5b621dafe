//! What a copy of the cascade would be promoted to, and what must hold of it.
//!
//! Invariant: what is looked at is what is stored: a copy that is whole as it is, or the point that it
//! keeps; so a promotion at that moment could find nothing else.

use block::{Quality, VolumeId};
use mirror::Role;

use super::host::INTRUDED;
use super::{NORTH, Scene, WEST, operator};
use crate::chain::Chain;
use crate::checks::differs;
use crate::disks::Image;

/// What each place of a chain holds.
pub(super) fn seen(image: &Image, chain: &Chain) -> Vec<u64> {
    chain.places.iter().map(|(volume, sector)| image.peek(*volume, *sector)).collect()
}

impl Scene {
    /// The point that a copy would be promoted to, if it says that it has one.
    fn point(&self, gateway: usize) -> Option<Image> {
        let status = self.status(gateway)?;
        let disks = &self.places[gateway].disks;
        let is_whole =
            matches!(status.quality, Quality::Source | Quality::InSync | Quality::Outdated);
        let image = if is_whole {
            disks.look()
        } else {
            let index = |id: VolumeId| (0..self.volumes).find(|at| Self::volume_id(*at) == id);
            let kept = status.kept?.snapshots;
            let places: Option<Vec<_>> =
                kept.iter().map(|(volume, here)| Some((index(*volume)?, *here))).collect();
            disks.look_at(&places?)
        };
        match image {
            Ok(image) => Some(image),
            Err(text) => {
                self.fail("P10", format!("the point at {}: {text}", self.name(gateway)));
                None
            }
        }
    }

    /// P6 and P13: the far end is at one point in the order of writes, at none before the one that it
    /// was at, and at none that the middle is not past; nothing of a detached copy is in it.
    pub(super) fn look(&self) {
        let Some(far) = self.point(NORTH) else { return };
        if self.status(NORTH).is_some_and(|status| status.role != Role::Secondary) {
            self.north_rules.set(true);
            self.forked.set(true);
        }
        let chains = self.chains.borrow().clone();
        for (number, chain) in chains.iter().enumerate() {
            let seen = seen(&far, chain);
            if let Some(missing) = chain.missing(&seen) {
                let text = format!("chain {number} at north: {missing}; it holds {seen:?}");
                return self.fail("P6", text);
            }
            let newest = chain.newest_acknowledged(&seen);
            let before = self.far.borrow()[number];
            if newest < before && !self.is_lawless() {
                let text =
                    format!("chain {number} at north goes back from {before:?} to {newest:?}");
                return self.fail("P13", text);
            }
            self.far.borrow_mut()[number] = newest;
        }
        if self.is_lawless() {
            return;
        }
        let Some(middle) = self.point(WEST) else { return };
        if self.status(WEST).is_some_and(|status| status.role == Role::Primary) {
            // It was promoted at what its own hosts had made of it.
            self.keeps_own.set(self.keeps_own.get() || middle.peek(0, INTRUDED) != 0);
        }
        if far.peek(0, INTRUDED) != 0 && !self.keeps_own.get() {
            let text = "north has what hosts wrote to a detached copy".to_owned();
            return self.fail("P13", text);
        }
        for (number, chain) in chains.iter().enumerate() {
            let (ours, theirs) = (seen(&middle, chain), seen(&far, chain));
            if chain.is_behind(&ours, &theirs) {
                let text = format!("chain {number}: north has {theirs:?}, and west {ours:?}");
                return self.fail("P13", text);
            }
        }
    }

    /// The far end recorded the point that it is at.
    pub(super) fn note_recorded(&self) {
        self.look();
        self.recorded.borrow_mut().clone_from(&self.far.borrow());
    }

    /// Whether the far end may be at any point: it rules, or somebody was promoted by force.
    fn is_lawless(&self) -> bool {
        self.north_rules.get() || self.lawless.get()
    }

    /// A copy was promoted, and hosts wait. `whole`: it had all of so many steps by chain that were
    /// acknowledged; `least`: no less than this of each.
    pub(super) fn look_at_promoted(
        &self,
        gateway: usize,
        whole: Option<&[usize]>,
        least: &[Option<usize>],
    ) {
        let name = self.name(gateway);
        let image = match self.places[gateway].disks.look() {
            Ok(image) => image,
            Err(text) => return self.fail("P10", format!("{name}: {text}")),
        };
        for (number, chain) in self.chains.borrow().iter().enumerate() {
            let seen = seen(&image, chain);
            if let Some(missing) = chain.missing(&seen) {
                let text = format!("chain {number} at {name}: {missing}; it holds {seen:?}");
                return self.fail("P6", text);
            }
            let steps = whole.and_then(|steps| steps.get(number));
            if steps.is_some_and(|steps| chain.lacks_acknowledged_of(&seen, *steps)) {
                let text =
                    format!("{name} was in sync and lacks a step of chain {number}: {seen:?}");
                return self.fail("P7", text);
            }
            let newest = chain.newest_acknowledged(&seen);
            let least = least.get(number).copied().flatten();
            if newest < least && !self.lawless.get() {
                let text = format!("chain {number} at {name}: {newest:?} of {least:?} is there");
                return self.fail("P13", text);
            }
        }
    }

    /// P2: in the end every copy of the cascade holds the same.
    pub(super) fn compare(&self) {
        let Some(chief) = operator::chief(self) else { return };
        let name = self.name(chief);
        let Ok(ours) = self.places[chief].disks.look() else {
            return self.fail("P10", format!("the disk of {name} cannot be read"));
        };
        for copy in operator::copies_of(self, chief) {
            self.stats.borrow_mut().comparisons += 1;
            let Ok(theirs) = self.places[*copy].disks.look() else {
                return self
                    .fail("P10", format!("the disk of {} cannot be read", self.name(*copy)));
            };
            let mut volumes = 0..self.volumes;
            if let Some(text) = volumes.find_map(|volume| differs(&ours, &theirs, volume)) {
                return self.fail("P2", format!("{name} and {}: {text}", self.name(*copy)));
            }
        }
    }
}
