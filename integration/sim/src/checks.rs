//! The properties that look at copies as a whole.
//!
//! Invariant: what is compared is what the gateways' disks hold, not what the gateways say.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use block::Quality;
use mirror::{Consent, LegStatus, Phase, Role, Serving};

use crate::attachment::whole_value;
use crate::chain::Chain;
use crate::disks::Image;
use crate::model::Branch;
use crate::operator;
use crate::platter::SECTOR_BYTES;
use crate::site::{Promotion, Served};
use crate::world::{World, words};

/// What a promoted copy turned out to be.
struct Turned {
    branch: Served,
    /// Whether nothing that was acknowledged can be gone.
    lossless: bool,
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
        if status.serving == Serving::Detached && !state.detached.get() {
            self.on_detached(site);
        }
        if primary && state.branch.borrow().is_none() {
            self.on_promoted(site);
        } else if primary {
            self.roll_back(site);
        }
    }

    /// What a site's copies hold. That they cannot be read is a finding.
    pub(crate) fn image(&self, site: usize) -> Option<Image> {
        let looked = catch_unwind(AssertUnwindSafe(|| self.sites[site].disks.look()));
        let looked = looked.unwrap_or_else(|panic| Err(format!("panic: {}", words(&*panic))));
        match looked {
            Ok(image) => Some(image),
            Err(text) => {
                self.fail("P1", format!("at {}: {text}", self.sites[site].name));
                None
            }
        }
    }

    /// The branch that a gateway serves, from now on.
    pub(crate) fn serve_branch(&self, site: usize) -> Option<Served> {
        self.roll_back(site);
        self.sites[site].branch.borrow().clone()
    }

    /// A gateway goes on with what its disk kept over a loss of power. Mirrors that have the content
    /// from before go on having that.
    fn roll_back(&self, site: usize) {
        let state = &self.sites[site];
        let Some(branch) = state.branch.borrow().clone() else { return };
        if state.rolled_back.replace(false) {
            self.log(format_args!("{}: what was not flushed may be gone", state.name));
            let mut kept = branch.borrow().without_unflushed(site);
            if state.detached.get()
                && let Some(image) = self.image(site)
            {
                // Nor was what it began with flushed for sure.
                kept.rebase(|volume, sector| image.peek(volume, sector));
            }
            *state.branch.borrow_mut() = Some(Rc::new(RefCell::new(kept)));
            self.forget_chains();
        }
    }

    fn forget_chains(&self) {
        self.chains.borrow_mut().iter_mut().for_each(Chain::forget);
    }

    /// A gateway became the primary: what its copy must contain (P1, P6, P7).
    pub(crate) fn on_promoted(self: &Rc<Self>, site: usize) {
        let Some(image) = self.image(site) else { return };
        let state = &self.sites[site];
        let promotion = state.promotion.take();
        if promotion.is_none() {
            self.stats.borrow_mut().handovers += 1;
        } else {
            self.stats.borrow_mut().promotions += 1;
        }
        self.note_ruler(site, promotion);
        state.detached.set(false);
        state.consented.set(Consent::InSync);
        let handed_over = self.yielding.get().filter(|from| promotion.is_none() && *from != site);
        handed_over.into_iter().for_each(|from| self.note_inherited(from, site));
        let turned = self.turned_into(site, promotion, &image);
        *state.branch.borrow_mut() = Some(turned.branch);
        // What it kept is given up with its promotion.
        state.points.borrow_mut().clear();
        state.at_point.set(false);
        state.overwritten.set(None);
        state.rolled_back.set(false);
        state.unconsented.set([0; 3]);
        self.check_content(site, &image);
        let quality = promotion.map_or(Quality::InSync, |promotion| promotion.worth());
        if !is_half(quality) && !state.unaware.take() {
            self.check_chains(site, &image);
        }
        if !turned.lossless {
            self.forget_chains();
        }
    }

    /// The content that a promoted copy has from now on.
    fn turned_into(&self, site: usize, promotion: Option<Promotion>, image: &Image) -> Turned {
        let state = &self.sites[site];
        let quality = promotion.map_or(Quality::InSync, |promotion| promotion.worth());
        let planned = promotion.is_none();
        let from = promotion.map_or(self.yielding.get(), |promotion| promotion.from);
        let at_cut =
            quality == Quality::Consistent || quality == Quality::Outdated && state.at_point.get();
        let goes_back = promotion.is_some_and(|promotion| promotion.goes_back().is_some());
        if goes_back {
            self.stats.borrow_mut().ways_back += 1;
            self.note_way_back(site);
        }
        if at_cut && !planned {
            return self.turned_back(site, from.unwrap_or(site), image);
        }
        let handed = state.handed.take().filter(|_| planned && from == Some(site));
        if let Some(branch) = handed {
            // It asked another to take over, was not answered, and goes on by itself.
            return Turned { branch, lossless: false };
        }
        self.roll_back(site);
        let own = state.branch.borrow().clone();
        let mut lossless = promotion.is_none_or(|promotion| promotion.consent == Consent::InSync);
        // What is in sync is another's content; what was one's own is an old one.
        if let Some(own) = own.as_ref().filter(|_| quality == Quality::Outdated) {
            return Turned { branch: Rc::clone(own), lossless };
        }
        let half = is_half(quality) || state.unaware.get();
        let theirs = from.and_then(|from| self.sites[from].branch.borrow().clone());
        let followed = state.follows.borrow().clone();
        let offered = state.offered.borrow().clone();
        let candidates: Vec<Served> = followed.into_iter().chain(offered).chain(theirs).collect();
        if (!half || state.intact.get())
            && let Some(chosen) = self.choose(site, from.unwrap_or(site), &candidates, image)
        {
            let old = from.unwrap_or(site);
            // What the old primary lost with its power it cannot have sent since.
            let kept = if self.sites[old].rolled_back.get() && self.is_served_by(old, &chosen) {
                chosen.borrow().without_unflushed(old)
            } else {
                chosen.borrow().clone()
            };
            let overwritten = state.overwritten.get().filter(|_| goes_back);
            let kept = overwritten.map_or_else(|| kept.clone(), |moment| kept.up_to(moment));
            let complete = fits(self, site, &kept, image).is_ok();
            let lacking = if complete { 0 } else { chosen.borrow().lacking(site) };
            let now = self.count();
            let branch = if half {
                lossless = false;
                chosen.borrow().without_unflushed(site)
            } else if let Some(moment) = overwritten {
                chosen.borrow().up_to(moment)
            } else {
                chosen.borrow().clone()
            };
            let mut branch = branch.promoted(now, site, old, planned);
            for volume in state.dated.take() {
                branch.rebase_volume(volume, |sector| image.peek(volume, sector));
            }
            if lacking > 0 {
                lossless = false;
                self.note_hole(site, lacking, promotion);
            }
            if !planned && old != site && !(complete && self.is_served_by(old, &chosen)) {
                self.note_unconsented(site, old);
            }
            if planned {
                // The old primary has what was handed over, and nothing of its own.
                *self.sites[old].handed.borrow_mut() = self.sites[old].branch.take();
                *self.sites[old].follows.borrow_mut() = None;
            }
            return Turned { branch: Rc::new(RefCell::new(branch)), lossless };
        }
        self.forced(site, own.or(candidates.into_iter().next()), image)
    }

    /// Whatever a copy holds is the content now.
    fn forced(&self, site: usize, base: Option<Served>, image: &Image) -> Turned {
        self.stats.borrow_mut().forced += 1;
        let name = self.sites[site].name;
        self.log(format_args!("{name}: whatever is here is the content now"));
        let any = self.sites.iter().find_map(|site| site.branch.borrow().clone());
        let mut branch = base.or(any).expect("somebody was primary").borrow().clone();
        branch.rebase(|volume, sector| image.peek(volume, sector));
        Turned { branch: Rc::new(RefCell::new(branch)), lossless: false }
    }

    /// The content of a copy that went back to the cut that it keeps (rule 8).
    fn turned_back(&self, site: usize, old: usize, image: &Image) -> Turned {
        let state = &self.sites[site];
        self.stats.borrow_mut().cut_promotions += 1;
        // A volume that left and joined again at the primary is in the cut as it was when it left.
        let dated = state.dated.take();
        let as_found = |content: &mut Branch| {
            for volume in &dated {
                content.rebase_volume(*volume, |sector| image.peek(*volume, sector));
            }
        };
        let fitting = |content: &Branch| fits(self, site, content, image);
        let Some(content) = self.went_back(site, as_found, fitting) else {
            let name = self.sites[site].name;
            self.fail("P1", format!("{name} went back to a cut that it was never sent"));
            let own = self.sites[site].branch.borrow().clone();
            let branch = own.unwrap_or_else(|| Rc::new(RefCell::new(Branch::new(&[]))));
            return Turned { branch, lossless: false };
        };
        self.note_given_up(site, old, &content);
        let branch = content.promoted(self.count(), site, old, false);
        Turned { branch: Rc::new(RefCell::new(branch)), lossless: false }
    }

    /// The branch that a mirror's copy is of. It may have joined a newer one without anybody having
    /// heard of it, when the primary died at that moment.
    fn choose(
        &self,
        site: usize,
        old: usize,
        candidates: &[Served],
        image: &Image,
    ) -> Option<Served> {
        let half = self.sites[site].intact.get();
        let now = self.count();
        let is_of = |branch: &&Served| {
            let branch = branch.borrow();
            let mirror = if half {
                branch.without_unflushed(site).promoted(now, site, old, false)
            } else {
                branch.promoted(now, site, old, false)
            };
            fits(self, site, &mirror, image).is_ok()
        };
        let is_whole = |branch: &&Served| fits(self, site, &branch.borrow(), image).is_ok();
        let newest = candidates.iter().rev().find(is_whole);
        newest.or_else(|| candidates.iter().find(is_of)).or(candidates.last()).cloned()
    }

    /// The old primary acknowledged changes without the mirror that is promoted.
    fn note_hole(&self, site: usize, lacking: usize, promotion: Option<Promotion>) {
        self.stats.borrow_mut().holes += 1;
        let name = self.sites[site].name;
        let text = format!("{lacking} changes were acknowledged without {name}");
        self.log(&text);
        if self.is_lawful(promotion) {
            self.fail("P7", format!("{text}, and the witness let it be promoted"));
        }
    }

    /// What the old primary has and the promoted mirror has not may be discarded only with a word.
    fn note_unconsented(&self, site: usize, old: usize) {
        let state = &self.sites[old];
        let Some(branch) = state.branch.borrow().clone() else { return };
        // What it lost with its power nobody can discard.
        let kept = if state.rolled_back.get() {
            branch.borrow().without_unflushed(old).lacking(site)
        } else {
            branch.borrow().lacking(site)
        };
        let mut unconsented = state.unconsented.get();
        unconsented[site] = kept;
        state.unconsented.set(unconsented);
    }

    /// A mirror joined: nothing of its own is left.
    pub(crate) fn on_joined(self: &Rc<Self>, site: usize, joined: usize) {
        self.stats.borrow_mut().joins += 1;
        if let Some(branch) = self.serve_branch(site) {
            branch.borrow_mut().joined(joined);
            *self.sites[joined].follows.borrow_mut() = Some(branch);
        }
        self.sites[joined].points.borrow_mut().clear();
        self.overwritten(site, joined);
    }

    /// A mirror's copy is its primary's: nothing of its own is left.
    pub(crate) fn overwritten(&self, site: usize, joined: usize) {
        let (state, other) = (&self.sites[site], &self.sites[joined]);
        let unconsented = other.unconsented.take()[site];
        if unconsented > 0 {
            let text = format!(
                "{unconsented} acknowledged changes of {} were overwritten without a word (rule 10)",
                other.name
            );
            self.fail("P1", text);
        }
        other.detached.set(false);
        other.discardable.set(false);
        *other.branch.borrow_mut() = None;
        *other.offered.borrow_mut() = None;
        *other.handed.borrow_mut() = None;
        // What its primary hears now, it may have said before it was asked to take over.
        let process = self.process(joined).map(|process| process.number);
        if process.is_none() || other.promoting.get() != process {
            other.promotion.set(None);
            other.at_point.set(false);
        }
        other.overwritten.set(None);
        other.rolled_back.set(false);
        other.intact.set(false);
        other.dated.borrow_mut().clear();
        other.unaware.set(false);
        state.intact.set(false);
    }

    /// P1: every sector of a copy holds what its branch allows.
    pub(crate) fn check_content(&self, site: usize, image: &Image) {
        let state = &self.sites[site];
        let Some(branch) = state.branch.borrow().clone() else { return };
        if let Err(text) = fits(self, site, &branch.borrow(), image) {
            self.fail("P1", format!("at {}: {text}", state.name));
        }
    }

    /// P4: only who became primary at a higher epoch fences another.
    pub(crate) fn check_fence(&self, site: usize) {
        let Some(ours) = self.group(site).map(|group| group.status().epoch) else { return };
        if self.granted_epoch().is_some_and(|granted| granted > ours) {
            return;
        }
        let others: Option<Vec<_>> = self
            .others(site)
            .map(|other| self.group(other).map(|group| group.status().epoch))
            .collect();
        if others.is_some_and(|others| others.iter().all(|theirs| ours > *theirs)) {
            let name = self.sites[site].name;
            self.fail("P4", format!("{name} is fenced by epoch {ours}, nobody has it"));
        }
    }

    /// P6: a dependent change is never there without what it depends on.
    pub(crate) fn check_chains(&self, site: usize, image: &Image) {
        for (number, chain) in self.chains.borrow().iter().enumerate() {
            let seen = chain.places.iter().map(|(volume, sector)| image.peek(*volume, *sector));
            if let Some(text) = chain.missing(&seen.collect::<Vec<_>>()) {
                let name = self.sites[site].name;
                self.fail("P6", format!("chain {number} at {name}: {text}"));
            }
        }
    }

    /// P2 and P3: the copies of a primary and its mirrors are equal, block by block; and P1.
    pub(crate) fn compare_copies(&self, site: usize, mirrors: &[usize]) {
        let Some(image) = self.image(site) else { return };
        for mirror in mirrors {
            self.stats.borrow_mut().comparisons += 1;
            let Some(copy) = self.image(*mirror) else { return };
            let [ours, theirs] = [site, *mirror].map(|site| self.members(site));
            if ours != theirs {
                let name = self.sites[*mirror].name;
                self.fail("P2", format!("{name} has the volumes {theirs:?}, not {ours:?}"));
                return;
            }
            for volume in ours {
                if let Some(text) = differs(&image, &copy, volume) {
                    let names = [site, *mirror].map(|site| self.sites[site].name);
                    self.fail("P2", format!("{names:?}: {text}"));
                    return;
                }
            }
        }
        self.check_content(site, &image);
    }

    /// The primary of the highest epoch, with the sites that it says are equal to it.
    pub(crate) fn equivalent(&self) -> Option<(usize, Vec<usize>)> {
        let groups = (0..self.sites.len()).filter_map(|site| Some((site, self.group(site)?)));
        let status: Vec<_> = groups.map(|(site, group)| (site, group.status())).collect();
        let primaries = status.iter().filter(|(_, status)| status.role == Role::Primary);
        let (site, primary) = primaries.max_by_key(|(_, status)| status.epoch)?;
        if primary.serving == Serving::Latched {
            // It says nothing of its copy until it is opened again.
            return None;
        }
        let is_mirror = |mirror: &usize| {
            let theirs = status.iter().find(|(site, _)| site == mirror);
            theirs.is_none_or(|(_, theirs)| theirs.epoch <= primary.epoch)
        };
        let is_equal =
            |leg: &&LegStatus| leg.phase == Phase::Equivalent || operator::is_caught_up(leg);
        let legs = primary.legs.iter().filter(is_equal);
        let mirrors = legs.filter_map(|leg| self.site_of(leg.gateway)).filter(is_mirror).collect();
        Some((*site, mirrors))
    }
}

fn is_half(quality: Quality) -> bool {
    matches!(quality, Quality::Inconsistent | Quality::Blank)
}

/// Whether the group's volumes at a site hold what a branch allows.
fn fits(world: &World, site: usize, branch: &Branch, image: &Image) -> Result<(), String> {
    fits_in(world, &world.members(site), branch, image)
}

/// Whether these volumes hold what a branch allows.
pub(crate) fn fits_in(
    world: &World,
    members: &[usize],
    branch: &Branch,
    image: &Image,
) -> Result<(), String> {
    let now = world.count();
    let mut touched = branch.touched().filter(|(volume, _)| members.contains(volume));
    touched.try_for_each(|(volume, sector)| {
        branch.allows(volume, sector, image.peek(volume, sector), now)
    })
}

/// The first block in which two copies of a volume differ, as far as both reach: what lies behind
/// the end of the primary's volume is nobody's.
pub(crate) fn differs(image: &Image, copy: &Image, volume: usize) -> Option<String> {
    let empty: Box<[u8]> = vec![0; 4096].into_boxed_slice();
    let (ours, theirs) = (image.blocks(volume), copy.blocks(volume));
    let end = image.bytes(volume).min(copy.bytes(volume)) / block::BLOCK_BYTES;
    let block =
        ours.keys().chain(theirs.keys()).copied().filter(|block| *block < end).find(|block| {
            ours.get(block).unwrap_or(&empty) != theirs.get(block).unwrap_or(&empty)
        })?;
    let [a, b] = [ours, theirs].map(|blocks| blocks.get(&block).unwrap_or(&empty));
    let sector_bytes = usize::try_from(SECTOR_BYTES).expect("512");
    let pairs = a.chunks(sector_bytes).zip(b.chunks(sector_bytes)).enumerate();
    let differing: Vec<_> = pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(n, (a, b))| (n, whole_value(a), whole_value(b)))
        .collect();
    Some(format!("volume {volume} block {block} differs: {differing:?}"))
}
