//! What goes wrong between sites.
//!
//! Invariant: a direction that is cut loses nothing for good: it is TCP that is cut.

use std::rc::Rc;

use super::later;
use crate::net::Path;
use crate::world::World;

/// Any two sites.
fn two(world: &World) -> [usize; 2] {
    let from = world.rng.index(world.sites.len());
    let others: Vec<_> = world.others(from).collect();
    [from, world.rng.pick(&others)]
}

fn names(world: &World, [a, b]: [usize; 2]) -> String {
    format!("{}-{}", world.sites[a].name, world.sites[b].name)
}

pub(super) fn cut(world: &Rc<World>) {
    let between = two(world);
    let long = world.rng.chance(60);
    world.happened("the link is cut");
    let name = names(world, between);
    world.log(format_args!("{name} is cut{}", if long { " for a while" } else { "" }));
    world.net.reset(between);
    if long {
        world.net.refuse(between, true);
        later(world, world.rng.millis(50, 9_000), move |world| {
            world.log(format_args!("{} heals", names(world, between)));
            world.net.refuse(between, false);
        });
    }
}

pub(super) fn stall(world: &Rc<World>) {
    let [a, b] = two(world);
    let both = world.rng.chance(50);
    if !both {
        world.happened("one direction is cut");
    }
    let name = names(world, [a, b]);
    world.log(format_args!("nothing arrives on {name}{}", if both { ", both ways" } else { "" }));
    let ways = [(a, b), (b, a)];
    for (from, to) in ways.into_iter().take(if both { 2 } else { 1 }) {
        world.net.stall(from, to, true);
        later(world, world.rng.millis(100, 9_000), move |world| {
            world.log(format_args!("what is sent on {} arrives again", names(world, [from, to])));
            world.net.stall(from, to, false);
        });
    }
}

/// The link is cut and made again and again, faster than a mirror may get in sync.
pub(super) fn flap(world: &Rc<World>) {
    let between = two(world);
    let times = world.rng.between(4, 16);
    world.happened("the link flaps");
    world.log(format_args!("{} is cut {times} times", names(world, between)));
    let kept = Rc::clone(world);
    world.spawn(async move {
        for _ in 0..times {
            kept.net.reset(between);
            kept.net.refuse(between, true);
            tokio::time::sleep(kept.rng.millis(1, 120)).await;
            kept.net.refuse(between, false);
            tokio::time::sleep(kept.rng.millis(1, 250)).await;
        }
    });
}

pub(super) fn slow(world: &Rc<World>) {
    let between = two(world);
    let path = Path { latency: world.rng.millis(20, 600), speed: world.rng.pick(&[50, 500]) };
    world.happened("the link is slow");
    world.log(format_args!("{} is slow: {path:?}", names(world, between)));
    world.net.set_path(between, path);
    later(world, world.rng.millis(100, 6_000), move |world| {
        world.net.set_path(between, world.setup.path);
    });
}

/// One leg has a hundredth of its speed while others have all of it.
pub(super) fn crawl(world: &Rc<World>) {
    let between = two(world);
    let usual = world.setup.path;
    let path = Path { latency: usual.latency, speed: (usual.speed / 100).max(1) };
    world.happened("a leg at one hundredth of its speed");
    world.log(format_args!("{} crawls: {path:?}", names(world, between)));
    world.net.set_path(between, path);
    later(world, world.rng.millis(1_000, 12_000), move |world| {
        world.net.set_path(between, world.setup.path);
    });
}

pub(super) fn heal(world: &World) {
    for a in 0..world.sites.len() {
        for b in world.others(a) {
            world.net.refuse([a, b], false);
            world.net.set_path([a, b], world.setup.path);
            world.net.stall(a, b, false);
        }
    }
}
