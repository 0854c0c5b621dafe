//! What goes wrong rarely, and must be survived all the same.
//!
//! Invariant: as for all faults: each ends by itself.

use std::rc::Rc;
use std::time::Duration;

use mirror::Role;

use super::{any_site, later};
use crate::world::World;

/// One of these.
pub(super) fn strike(world: &Rc<World>) {
    match world.rng.below(10) {
        0..3 => garble(world),
        3..6 => babble(world),
        6..8 => fill_journal(world),
        _ => lose_volume(world),
    }
}

/// Some bytes that a gateway sends to another arrive as others.
fn garble(world: &Rc<World>) {
    let from = any_site(world);
    let others: Vec<_> = world.others(from).collect();
    let to = world.rng.pick(&others);
    world.net.garble(from, to, true);
    later(world, world.rng.millis(100, 2_000), move |world| {
        if !world.net.garble(from, to, false) {
            let names = [from, to].map(|site| world.sites[site].name);
            world.log(format_args!("what {} sent to {} was garbled", names[0], names[1]));
            world.happened("bytes on a link are garbled");
        }
    });
}

/// The next message of a gateway makes no sense.
fn babble(world: &Rc<World>) {
    let site = any_site(world);
    world.sites[site].babbles.set(true);
    later(world, world.rng.millis(500, 3_000), move |world| world.sites[site].babbles.set(false));
}

/// There is no room where the send journals of the primary spill to.
fn fill_journal(world: &Rc<World>) {
    for (index, site) in world.sites.iter().enumerate() {
        if world.group(index).is_some_and(|group| group.status().role == Role::Primary) {
            world.log(format_args!("the disk of the send journals of {} is full", site.name));
            site.journal_full.set(true);
            later(world, world.rng.millis(500, 6_000), move |world| {
                world.sites[index].journal_full.set(false);
            });
        }
    }
}

/// Somebody deletes a volume, and brings it back later.
fn lose_volume(world: &Rc<World>) {
    if !world.setup.disks_fail {
        return;
    }
    let site = any_site(world);
    let volume = world.rng.index(world.volumes.len());
    if world.process(site).is_some() {
        world.happened("a volume is deleted behind the back of its gateway");
    }
    let name = world.sites[site].name;
    world.log(format_args!("volume {volume} of {name} is deleted"));
    world.sites[site].gone[volume].set(true);
    later(world, world.rng.millis(200, 5_000), move |world| {
        world.log(format_args!("volume {volume} of {} is back", world.sites[site].name));
        world.sites[site].gone[volume].set(false);
    });
}

/// The link is cut every second, for an hour.
pub(super) async fn hour(world: &Rc<World>) {
    let times = 3_600;
    for _ in 0..times {
        if world.has_failed() {
            return;
        }
        world.net.reset([0, 1]);
        world.net.refuse([0, 1], true);
        tokio::time::sleep(world.rng.millis(1, 600)).await;
        world.net.refuse([0, 1], false);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    world.happened("the link flaps every second for an hour");
}

pub(super) fn heal(world: &World) {
    for (index, site) in world.sites.iter().enumerate() {
        site.babbles.set(false);
        site.journal_full.set(false);
        site.gone.iter().for_each(|gone| gone.set(false));
        for other in world.others(index) {
            world.net.garble(index, other, false);
        }
    }
}
