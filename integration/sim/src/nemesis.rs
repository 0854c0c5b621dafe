//! What goes wrong, and when.
//!
//! Invariant: every fault ends by itself after a while; [`heal`] ends all of them at once.

use std::rc::Rc;
use std::time::Duration;

use mirror::{Command, Consent, Policy, Role, Split};

use crate::net::Path;
use crate::operator;
use crate::slow::Pace;
use crate::world::{GROWTH_BYTES, World};

/// Lets things go wrong for as long as the setup says.
pub(crate) async fn rage(world: &Rc<World>) {
    let rng = Rc::clone(&world.rng);
    let end = world.now_ms() + u64::try_from(world.setup.length.as_millis()).expect("short");
    while world.now_ms() < end && !world.has_failed() {
        tokio::time::sleep(rng.millis(1, world.setup.fault_gap_ms)).await;
        match rng.below(100) {
            0..14 => cut(world),
            14..22 => stall(world),
            22..38 => crash(world),
            38..50 => disaster(world),
            50..56 => slow_disk(world),
            56..60 => slow_link(world),
            60..68 => disk_fault(world),
            68..88 => command(world),
            88..90 => jump(world),
            90..93 => stop(world),
            _ => quiesce(world).await,
        }
    }
}

fn later(world: &Rc<World>, after: Duration, act: impl FnOnce(&Rc<World>) + 'static) {
    let kept = Rc::clone(world);
    world.spawn(async move {
        tokio::time::sleep(after).await;
        act(&kept);
    });
}

fn cut(world: &Rc<World>) {
    let long = world.rng.chance(60);
    world.log(format_args!("the link is cut{}", if long { " for a while" } else { "" }));
    world.net.reset();
    if long {
        world.net.refuse(true);
        later(world, world.rng.millis(50, 9_000), |world| {
            world.log("the link heals");
            world.net.refuse(false);
        });
    }
}

fn stall(world: &Rc<World>) {
    let both = world.rng.chance(50);
    let from = world.rng.index(2);
    world.log(format_args!(
        "nothing arrives from {}",
        if both { "both" } else { world.sites[from].name }
    ));
    for site in (0..2).filter(|site| both || *site == from) {
        world.net.stall(site, true);
        later(world, world.rng.millis(100, 9_000), move |world| {
            world.log(format_args!("what {} sends arrives again", world.sites[site].name));
            world.net.stall(site, false);
        });
    }
}

fn down(world: &Rc<World>, site: usize) {
    if world.setup.disks_fail && world.rng.chance(45) {
        world.lose_power(site);
    } else {
        world.kill(site);
    }
    later(world, world.rng.millis(5, 6_000), move |world| world.start(site));
}

fn crash(world: &Rc<World>) {
    if world.rng.chance(20) {
        down(world, 0);
        down(world, 1);
    } else {
        down(world, world.rng.index(2));
    }
}

/// The primary's site is gone; a little later an operator promotes the other.
fn disaster(world: &Rc<World>) {
    let primary =
        |site: &usize| world.group(*site).is_some_and(|g| g.status().role == Role::Primary);
    let Some(site) = (0..2).find(primary) else { return };
    if world.rng.chance(40) {
        world.net.reset();
    }
    down(world, site);
    let any = world.rng.chance(20);
    later(world, world.rng.millis(1, 5_000), move |world| {
        let needed = world.group(1 - site).map(|g| operator::consent_for(&g.status()));
        let consent = needed.filter(|_| any).unwrap_or(Consent::InSync);
        operator::promote(world, 1 - site, consent);
    });
}

fn slow_disk(world: &Rc<World>) {
    let site = world.rng.index(2);
    let top = world.rng.pick(&[50, 400, 4_000]);
    world.log(format_args!("the disks of {} are slow: {top} ms", world.sites[site].name));
    let pace = Pace { io: (top / 4, top), flush: (top / 4, top), record: (1, top) };
    world.sites[site].pace.set(pace);
    later(world, world.rng.millis(100, 5_000), move |world| {
        world.sites[site].pace.set(world.sites[site].usual_pace);
    });
}

fn slow_link(world: &Rc<World>) {
    let path = Path { latency: world.rng.millis(20, 600), speed: world.rng.pick(&[50, 500]) };
    world.log(format_args!("the link is slow: {path:?}"));
    world.net.set_path(path);
    later(world, world.rng.millis(100, 6_000), |world| world.net.set_path(world.setup.path));
}

fn disk_fault(world: &Rc<World>) {
    if !world.setup.disks_fail {
        return;
    }
    let site = world.rng.index(2);
    let platter = Rc::clone(&world.sites[site].platters[world.rng.index(world.volumes.len())]);
    if world.rng.chance(60) {
        world.log(format_args!("a disk of {} is full", world.sites[site].name));
        platter.set_full(true);
        later(world, world.rng.millis(100, 6_000), move |_| platter.set_full(false));
    } else {
        world.log(format_args!("the next sync of a disk of {} fails", world.sites[site].name));
        platter.fail_sync();
    }
}

fn jump(world: &Rc<World>) {
    let site = &world.sites[world.rng.index(2)];
    site.clock_jump_ms.set(world.rng.below(1 << 40));
}

fn stop(world: &Rc<World>) {
    let site = world.rng.index(2);
    let Some(group) = world.group(site) else { return };
    world.log(format_args!("{} is stopped in good order", world.sites[site].name));
    let Some(process) = world.process(site) else { return };
    let kept = Rc::clone(world);
    process.spawn(
        world,
        Box::pin(async move {
            let closed = group.close().await;
            kept.log(format_args!("closed: {closed:?}"));
            later(&kept, Duration::from_millis(1), move |world| {
                world.kill(site);
                later(world, world.rng.millis(1, 2_000), move |world| world.start(site));
            });
        }),
    );
}

/// Any command, whether it makes sense or not.
fn command(world: &Rc<World>) {
    if !world.setup.operators {
        return;
    }
    let rng = &world.rng;
    let site = rng.index(2);
    let Some(group) = world.group(site) else { return };
    let status = group.status();
    let legs = status.legs;
    if let Some(leg) = legs.iter().find(|leg| leg.in_sync).filter(|_| rng.chance(35)) {
        operator::ask(world, site, Command::Reverse { leg: leg.leg });
        return;
    }
    let leg = legs.first().map(|leg| leg.leg).or_else(|| block::LegId::new(0));
    let Some(leg) = leg else { return };
    let policy = Policy {
        split: if rng.chance(70) { Split::Automatic } else { Split::Manual },
        ..world.setup.policy
    };
    let command = match rng.below(100) {
        0..10 => operator::add_leg(world, site, policy),
        10..25 => Command::Suspend { leg },
        25..45 => Command::Resume { leg, discard: rng.chance(15) },
        45..65 => Command::Reverse { leg },
        65..80 => {
            let consent = rng.pick(&[
                Consent::InSync,
                Consent::InSync,
                Consent::Outdated,
                Consent::Inconsistent,
            ]);
            operator::promote(world, site, consent);
            return;
        }
        80..86 => Command::SetPolicy { leg, policy },
        86..94 => {
            let volume = rng.index(world.volumes.len());
            let bytes = world.setup.volumes[volume] + GROWTH_BYTES / 4 * rng.between(1, 4);
            Command::Grow { volume: world.volumes[volume], bytes }
        }
        _ => Command::RemoveLeg { leg },
    };
    operator::ask(world, site, command);
}

/// Hosts pause; if the copies are said to be equal, they are.
async fn quiesce(world: &Rc<World>) {
    world.paused.set(true);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if world.attachments.borrow().iter().all(|attachment| attachment.is_quiet()) {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let quiet = world.attachments.borrow().iter().all(|attachment| attachment.is_quiet());
    if quiet && let Some(site) = world.equivalent() {
        world.log(format_args!("quiet, and {} says that both are equal", world.sites[site].name));
        world.compare_copies();
        world.check_content(site);
    }
    world.paused.set(false);
}

/// Everything works again.
pub(crate) fn heal(world: &Rc<World>) {
    world.log("everything is repaired");
    world.net.refuse(false);
    world.net.set_path(world.setup.path);
    for (index, site) in world.sites.iter().enumerate() {
        world.net.stall(index, false);
        site.pace.set(site.usual_pace);
        site.platters.iter().for_each(|platter| platter.repair());
        world.start(index);
    }
}
