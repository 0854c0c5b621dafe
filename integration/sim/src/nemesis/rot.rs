//! Blocks that rot, and scrubs that find them: in some histories, beside everything else.
//!
//! Invariant: it draws from a generator of its own, so histories without it are what they were.

use std::rc::Rc;

use mirror::Role;

use crate::disks::Scrubbed;
use crate::rng::Rng;
use crate::world::World;

/// One history of so many has it.
const EVERY: u64 = 4;

/// Lets blocks rot for as long as a history lasts, if it is one of those.
pub(crate) async fn go_on(world: Rc<World>, seed: u64) {
    if seed % EVERY != 1 || !world.setup.pool || world.setup.hour {
        return;
    }
    let rng = Rng::new(seed ^ 0x0072_6f74);
    while !world.stopped.get() && !world.has_failed() {
        tokio::time::sleep(rng.millis(50, 1_500)).await;
        let site = rng.index(world.sites.len());
        match world.sites[site].disks.rot(&rng) {
            Ok(None) => continue,
            Ok(Some((volume, block))) => {
                let name = world.sites[site].name;
                world.happened("a block rots");
                world.log(format_args!("block {block} of volume {volume} rots at {name}"));
            }
            Err(text) => {
                world.fail("P1", format!("at {}: {text}", world.sites[site].name));
                return;
            }
        }
        tokio::time::sleep(rng.millis(1, 800)).await;
        scrub(&world, site);
    }
    world.sites.iter().for_each(|site| site.disks.mend());
}

/// The gateway's scrub reads it, and asks another copy: the primary of a mirror, or a mirror.
fn scrub(world: &World, site: usize) {
    let is_primary =
        |at: usize| world.group(at).is_some_and(|group| group.status().role == Role::Primary);
    let mut others: Vec<usize> = world.others(site).collect();
    others.sort_by_key(|other| !is_primary(*other));
    let Some(other) = others.first() else { return };
    match world.sites[site].disks.scrub(&world.sites[*other].disks) {
        Ok(None) => {}
        Ok(Some(Scrubbed::Repaired)) => world.happened("a block that rotted is repaired"),
        Ok(Some(Scrubbed::Overwritten)) => world.happened("a block that rotted is overwritten"),
        Ok(Some(Scrubbed::Left)) => world.happened("a block that rotted is in no other copy"),
        Err(text) => world.fail("P1", format!("at {}: {text}", world.sites[site].name)),
    }
}
