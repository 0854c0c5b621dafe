//! What goes wrong with a cascade.
//!
//! Invariant: every fault ends by itself, or with [`heal`]; power is lost only where another copy has
//! everything that was acknowledged.

use std::rc::Rc;
use std::time::Duration;

use block::Quality;
use mirror::{Consent, Phase, Role, Serving};

use super::gateway::id_of;
use super::{EAST, GATEWAYS, NORTH, Scene, WEST, operator};
use crate::chain::Chain;

/// Lets things go wrong for a while.
pub(super) async fn rage(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    let until = scene.now_ms() + rng.between(3_000, 12_000);
    let gap = rng.pick(&[250, 800, 2_000]);
    while scene.now_ms() < until && !scene.has_failed() {
        tokio::time::sleep(rng.millis(10, gap)).await;
        fault(scene).await;
    }
}

async fn fault(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    match rng.below(100) {
        0..12 => {
            scene.happened("the link is cut");
            cut(scene, [EAST, WEST]);
        }
        12..30 => {
            scene.happened("the link behind a mirror is cut");
            cut(scene, [WEST, NORTH]);
        }
        30..44 => {
            scene.happened("a mirror that sends its copy on is killed");
            kill(scene, WEST);
        }
        44..50 => lose_power(scene, WEST, "a mirror that sends its copy on loses power"),
        50..57 => {
            scene.happened("the far end of a relay is killed");
            kill(scene, NORTH);
        }
        57..61 => lose_power(scene, NORTH, "a site loses power"),
        61..67 => {
            scene.happened("a process is killed");
            kill(scene, EAST);
        }
        67..73 => pause(scene, rng.index(GATEWAYS)),
        73..79 => operator::switch(scene).await,
        79..83 => operator::swap(scene).await,
        83..87 => operator::remake_relay(scene).await,
        87..89 => operator::remake_first(scene).await,
        89..94 => operator::detach(scene).await,
        94..97 => operator::suspend_relay(scene).await,
        _ => operator::attend(scene).await,
    }
}

fn cut(scene: &Rc<Scene>, between: [usize; 2]) {
    let rng = &scene.rng;
    let pause = rng.millis(20, if rng.chance(20) { 12_000 } else { 3_000 });
    let stalls = rng.chance(50);
    if stalls {
        scene.net.stall(between[0], between[1], true);
        scene.net.stall(between[1], between[0], rng.chance(70));
    } else {
        scene.net.refuse(between, true);
        scene.net.reset(between);
    }
    let kept = Rc::clone(scene);
    scene.spawn(async move {
        tokio::time::sleep(pause).await;
        mend(&kept, between);
    });
}

fn mend(scene: &Scene, between: [usize; 2]) {
    scene.net.refuse(between, false);
    scene.net.stall(between[0], between[1], false);
    scene.net.stall(between[1], between[0], false);
}

fn kill(scene: &Rc<Scene>, gateway: usize) {
    scene.kill(gateway);
    let longest = if scene.rng.chance(20) { 9_000 } else { 1_500 };
    start_later(scene, gateway, scene.rng.between(20, longest));
}

fn start_later(scene: &Rc<Scene>, gateway: usize, ms: u64) {
    let kept = Rc::clone(scene);
    scene.spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        kept.start(gateway);
    });
}

/// A mirror loses power, and with it what it had not made durable.
fn lose_power(scene: &Rc<Scene>, gateway: usize, name: &'static str) {
    let is_mirror = |status: mirror::GroupStatus| {
        status.role == Role::Secondary && status.serving == Serving::NotPrimary
    };
    if !scene.status(gateway).is_some_and(is_mirror) {
        return;
    }
    scene.happened(name);
    scene.kill(gateway);
    let place = &scene.places[gateway];
    place.disks.lose_power(&scene.rng);
    place.kernel.set(place.kernel.get().wrapping_add(1));
    start_later(scene, gateway, scene.rng.between(20, 3_000));
}

fn pause(scene: &Rc<Scene>, gateway: usize) {
    let Some(life) = scene.life(gateway) else { return };
    scene.happened("a gateway is paused");
    life.pause(true);
    let pause = scene.rng.millis(100, 6_000);
    scene.spawn(async move {
        tokio::time::sleep(pause).await;
        life.pause(false);
    });
}

/// The primary's site is lost, and its mirror is promoted: in the middle of a transfer or not.
pub(super) async fn lose_primary(scene: &Rc<Scene>) {
    let Some(west) = scene.status(WEST).filter(|_| scene.serving() == Some(EAST)) else { return };
    if west.role != Role::Secondary || west.serving == Serving::Detached {
        return;
    }
    let east = scene.status(EAST).map(|status| status.legs).unwrap_or_default();
    let is_in_sync = |leg: &mirror::LegStatus| {
        leg.gateway == id_of(WEST) && leg.in_sync && leg.phase == Phase::Equivalent
    };
    let whole = west.quality == Quality::InSync && east.iter().any(is_in_sync);
    scene.happened("the primary's site is lost");
    scene.calm.set(true);
    scene.kill(EAST);
    let steps: Vec<usize> = scene.chains.borrow().iter().map(Chain::begun).collect();
    tokio::time::sleep(scene.rng.millis(0, 2_000)).await;
    if scene.rng.chance(25) {
        scene.kill(WEST);
    }
    scene.start(WEST);
    scene.look();
    let far = scene.far.borrow().clone();
    let consent = if whole { Consent::InSync } else { Consent::Outdated };
    if !whole {
        scene.forked.set(true);
    }
    if operator::promote(scene, WEST, consent).await {
        scene.happened("a mirror that sends its copy on is promoted");
        let steps = whole.then_some(&steps[..]);
        scene.look_at_promoted(WEST, steps, &far);
        scene.stats.borrow_mut().promotions += u64::from(whole);
    }
    scene.chains.borrow_mut().iter_mut().for_each(Chain::forget);
    scene.calm.set(false);
    start_later(scene, EAST, scene.rng.between(50, 6_000));
    tokio::time::sleep(scene.rng.millis(0, 3_000)).await;
}

/// The far end is promoted, whoever else is lost.
pub(super) async fn promote_far_end(scene: &Rc<Scene>) {
    let is_mirror = |status: mirror::GroupStatus| status.role == Role::Secondary;
    if !scene.status(NORTH).is_some_and(is_mirror) {
        return;
    }
    scene.calm.set(true);
    let any: [&[usize]; 3] = [&[], &[EAST], &[EAST, WEST]];
    let lost = any[scene.rng.index(3)];
    for gateway in lost {
        scene.kill(*gateway);
        tokio::time::sleep(scene.rng.millis(0, 1_500)).await;
    }
    scene.look();
    let far = scene.far.borrow().clone();
    scene.forked.set(true);
    if operator::promote(scene, NORTH, Consent::Outdated).await {
        scene.north_rules.set(true);
        scene.happened("the far end of a relay is promoted");
        scene.look_at_promoted(NORTH, None, &far);
    }
    scene.chains.borrow_mut().iter_mut().for_each(Chain::forget);
    scene.calm.set(false);
    for gateway in lost {
        start_later(scene, *gateway, scene.rng.between(50, 6_000));
    }
    tokio::time::sleep(scene.rng.millis(0, 3_000)).await;
}

/// Ends every fault.
pub(super) async fn heal(scene: &Rc<Scene>) {
    // Those that end later by themselves must not disturb the end.
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    for a in 0..GATEWAYS {
        for b in 0..a {
            mend(scene, [a, b]);
        }
        if let Some(life) = scene.life(a) {
            life.pause(false);
        }
    }
}
