//! Copies that hosts use on their own while their session is suspended.
//!
//! Invariant: such a copy begins as one point in time; what is written to it is its own, and is
//! discarded only with a word.

use std::cell::RefCell;
use std::rc::Rc;

use mirror::{Command, Role};

use crate::model::Sites;
use crate::operator;
use crate::world::World;

/// An operator suspends a session and opens its copy.
pub(crate) fn strike(world: &Rc<World>) {
    let primary =
        |site: &usize| world.group(*site).is_some_and(|g| g.status().role == Role::Primary);
    let Some(site) = (0..world.sites.len()).find(primary) else { return };
    let Some(group) = world.group(site) else { return };
    let legs = group.status().legs;
    if legs.is_empty() {
        return;
    }
    let leg = &legs[world.rng.index(legs.len())];
    let Some(to) = world.site_of(leg.gateway) else { return };
    operator::ask(world, site, Command::Suspend { leg: leg.leg });
    let kept = Rc::clone(world);
    let pause = world.rng.millis(20, 400);
    world.spawn(async move {
        tokio::time::sleep(pause).await;
        operator::ask(&kept, to, Command::Detach);
    });
}

impl World {
    /// A copy is open to hosts on its own: what it holds is where they begin.
    pub(crate) fn on_detached(&self, site: usize) {
        let Some(image) = self.image(site) else { return };
        let state = &self.sites[site];
        self.happened("a copy is detached");
        state.detached.set(true);
        // One that was open before goes on where it was.
        if state.branch.borrow().is_some() {
            return;
        }
        let served = self.sites.iter().find_map(|site| site.branch.borrow().clone());
        let Some(served) = served else { return };
        let mut branch = served.borrow().clone();
        branch.rebase(|volume, sector| image.peek(volume, sector));
        *state.branch.borrow_mut() = Some(Rc::new(RefCell::new(branch)));
        self.check_chains(site, &image);
    }

    /// A detached copy acknowledged a change: nobody else has it.
    pub(crate) fn note_own(&self, site: usize) -> Sites {
        let state = &self.sites[site];
        self.happened("a detached copy is written to");
        if !state.discardable.get() {
            let mut unconsented = state.unconsented.get();
            unconsented.iter_mut().for_each(|count| *count += 1);
            state.unconsented.set(unconsented);
        }
        Sites::one(site)
    }
}
