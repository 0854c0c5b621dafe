//! What goes wrong with gateways of one site and between them.

use std::rc::Rc;
use std::time::Duration;

use mirror::Consent;

use crate::chain::Chain;

use super::{GATEWAYS, Scene, companion, operator, opposite, site_of, snapshots};

/// Lets things go wrong for a while.
pub(super) async fn rage(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    let until = scene.now_ms() + rng.between(3_000, 14_000);
    let gap = rng.pick(&[250, 800, 2_000]);
    while scene.now_ms() < until && !scene.has_failed() {
        tokio::time::sleep(rng.millis(10, gap)).await;
        fault(scene).await;
    }
}

async fn fault(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    let gateway = rng.index(GATEWAYS);
    match rng.below(100) {
        0..30 => {
            scene.happened("the link of one part is cut");
            cut(scene, [gateway, opposite(gateway)]);
        }
        30..42 => {
            scene.happened("companions cannot reach each other");
            cut(scene, [gateway, companion(gateway)]);
        }
        42..56 => {
            scene.happened("a gateway with a part is killed");
            scene.kill(gateway);
            if rng.chance(25) {
                tokio::time::sleep(rng.millis(0, 2_000)).await;
                operator::exclude(scene, companion(gateway)).await;
            }
            start_later(scene, gateway, rng.between(50, 9_000));
        }
        56..66 => pause(scene, gateway),
        66..76 => lose_site(scene, site_of(gateway)).await,
        76..86 => {
            let site = usize::from(scene.is_primary(2) && scene.is_primary(3));
            operator::swap(scene, site).await;
        }
        86..94 => {
            // Everything else happens meanwhile, too.
            let ruler = scene.serving_site().map_or(gateway, |site| site * 2 + gateway % 2);
            scene.spawn(snapshots::take(Rc::clone(scene), ruler));
        }
        94 => snapshots::remove(Rc::clone(scene)).await,
        _ => operator::anything(scene).await,
    }
}

fn cut(scene: &Rc<Scene>, between: [usize; 2]) {
    let rng = &scene.rng;
    let pause = rng.millis(20, if rng.chance(20) { 12_000 } else { 4_000 });
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

fn start_later(scene: &Rc<Scene>, gateway: usize, ms: u64) {
    let kept = Rc::clone(scene);
    scene.spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        kept.start(gateway);
    });
}

fn pause(scene: &Rc<Scene>, gateway: usize) {
    let Some(life) = scene.life(gateway) else { return };
    scene.happened("a gateway with a part is paused");
    life.pause(true);
    let pause = scene.rng.millis(100, 8_000);
    scene.spawn(async move {
        tokio::time::sleep(pause).await;
        life.pause(false);
    });
}

/// A site is lost, and the other one goes on if it can.
async fn lose_site(scene: &Rc<Scene>, site: usize) {
    let rng = &scene.rng;
    scene.happened("a site with several gateways is lost");
    let gateways = [site * 2, site * 2 + 1];
    let mut whole = scene.serving_site() == Some(site);
    whole &= operator::has_mirror_in_sync(scene, gateways[0]);
    scene.kill(gateways[0]);
    if rng.chance(50) {
        tokio::time::sleep(rng.millis(0, 3_000)).await;
    }
    whole &= operator::has_mirror_in_sync(scene, gateways[1]);
    scene.kill(gateways[1]);
    let steps: Vec<usize> = scene.chains.borrow().iter().map(Chain::begun).collect();
    let consent = rng.pick(&[Consent::InSync, Consent::Outdated, Consent::Outdated]);
    let was_primary = !(scene.is_primary(2 - site * 2) || scene.is_primary(3 - site * 2));
    if was_primary && rng.chance(75) {
        tokio::time::sleep(rng.millis(0, 1_000)).await;
        let promoted = operator::promote(scene, 1 - site, consent).await;
        // With more than this consent something may be gone, and the plan said so.
        if promoted && whole && consent == Consent::InSync {
            *scene.survives.borrow_mut() = Some(steps);
            scene.look();
        }
    }
    for gateway in 0..GATEWAYS {
        start_later(scene, gateway, rng.between(50, 6_000));
    }
}

/// Ends every fault.
pub(super) fn heal(scene: &Rc<Scene>) {
    for a in 0..GATEWAYS {
        for b in 0..a {
            mend(scene, [a, b]);
        }
        if let Some(life) = scene.life(a) {
            life.pause(false);
        }
    }
}
