//! What goes wrong between gateways and the witness.
//!
//! Invariant: a question that gets no answer may have been heard, or is heard later.

use std::rc::Rc;
use std::time::Duration;

use mirror::Role;
use witness::memory::Fate;

use super::{any_site, later};
use crate::world::World;

/// One of these.
pub(super) fn strike(world: &Rc<World>) {
    match world.rng.below(10) {
        0..5 => cut(world),
        5..6 => outage(world),
        6..7 => slow(world),
        _ => outlast(world),
    }
}

fn fate(world: &World) -> Fate {
    match world.rng.below(3) {
        0 => {
            world.happened("a question to the witness is lost");
            Fate::Lost
        }
        1 => {
            world.happened("an answer of the witness is lost");
            Fate::Unanswered
        }
        _ => {
            world.happened("a question to the witness arrives late");
            Fate::Late(world.rng.millis(1, 20_000))
        }
    }
}

/// One gateway does not reach it.
fn cut(world: &Rc<World>) {
    let site = any_site(world);
    world.happened("a gateway cannot reach the witness");
    let state = &world.sites[site];
    state.witness.fate.set(fate(world));
    state.witness.cut.set(true);
    world.log(format_args!("{} and the witness: {:?}", state.name, state.witness.fate.get()));
    later(world, world.rng.millis(100, 12_000), move |world| {
        world.sites[site].witness.cut.set(false);
    });
}

/// The primary is away for so long that a mirror may promote itself: it is dead, it stands still, or
/// nobody hears it.
fn outlast(world: &Rc<World>) {
    let primary =
        |site: &usize| world.group(*site).is_some_and(|g| g.status().role == Role::Primary);
    let Some(site) = (0..world.sites.len()).find(primary) else { return };
    let (Some(voice), Some(process)) = (world.setup.voice, world.process(site)) else { return };
    let patience = voice.lease_ms + voice.failover_after_ms;
    let length = Duration::from_millis(patience + world.rng.between(500, 5_000));
    world.log(format_args!("{} is away for {length:?}", world.sites[site].name));
    match world.rng.below(3) {
        0 => {
            world.happened("a process is killed");
            world.kill(site);
            later(world, length, move |world| world.start(site));
        }
        1 => {
            world.happened("a gateway is paused");
            process.pause(true);
            later(world, length, move |_world| process.pause(false));
        }
        _ => {
            world.happened("a gateway cannot reach the witness");
            world.sites[site].witness.fate.set(fate(world));
            world.sites[site].witness.cut.set(true);
            for other in world.others(site) {
                world.net.stall(site, other, true);
                world.net.stall(other, site, true);
            }
            later(world, length, move |world| {
                world.sites[site].witness.cut.set(false);
                for other in world.others(site) {
                    world.net.stall(site, other, false);
                    world.net.stall(other, site, false);
                }
            });
        }
    }
}

/// Nobody reaches it.
fn outage(world: &Rc<World>) {
    world.happened("the witness is down");
    world.log("the witness is down");
    world.sites.iter().for_each(|site| {
        site.witness.fate.set(Fate::Lost);
        site.witness.cut.set(true);
    });
    later(world, world.rng.millis(100, 9_000), |world| {
        world.sites.iter().for_each(|site| site.witness.cut.set(false));
    });
}

fn slow(world: &Rc<World>) {
    let site = any_site(world);
    world.happened("the witness is slow");
    world.sites[site].witness.travel.set(world.rng.millis(50, 900));
    later(world, world.rng.millis(100, 9_000), move |world| usual(world, site));
}

fn usual(world: &World, site: usize) {
    world.sites[site].witness.travel.set(Duration::from_millis(2));
}

pub(super) fn heal(world: &World) {
    for (index, site) in world.sites.iter().enumerate() {
        site.witness.cut.set(false);
        usual(world, index);
    }
}
