//! What goes wrong, and when.
//!
//! Invariant: every fault ends by itself after a while; [`heal`] ends all of them at once.

mod network;
mod odd;
pub(crate) mod rot;
mod witness;

use std::rc::Rc;
use std::time::Duration;

use block::Mode;
use mirror::{Command, Consent, LegStatus, Policy, Role, Split};

use crate::detached;
use crate::operator;
use crate::slow::Pace;
use crate::snapshots;
use crate::world::{GROWTH_BYTES, World};

/// Lets things go wrong for as long as the setup says.
pub(crate) async fn rage(world: &Rc<World>) {
    if world.setup.hour {
        odd::hour(world).await;
        return;
    }
    let rng = Rc::clone(&world.rng);
    let end = world.now_ms() + u64::try_from(world.setup.length.as_millis()).expect("short");
    while world.now_ms() < end && !world.has_failed() {
        tokio::time::sleep(rng.millis(1, world.setup.fault_gap_ms)).await;
        if world.arbiter.is_some() && rng.chance(25) {
            witness::strike(world);
            continue;
        }
        if world.setup.founding < world.volumes.len() && rng.chance(12) {
            world.change_members();
            continue;
        }
        if world.setup.pool && rng.chance(10) {
            snapshots::strike(world);
            continue;
        }
        if rng.chance(8) {
            odd::strike(world).await;
            continue;
        }
        if world.setup.operators && rng.chance(5) {
            detached::strike(world);
            continue;
        }
        match rng.below(100) {
            0..11 => network::cut(world),
            11..17 => network::stall(world),
            17..19 => network::flap(world),
            19..22 => network::slow(world),
            22..24 => network::crawl(world),
            24..38 => crash(world),
            38..40 => blackout(world),
            40..51 => disaster(world),
            51..56 => slow_disk(world),
            56..65 => disk_fault(world),
            65..84 => command(world),
            84..86 => jump(world),
            86..88 => pause(world),
            88..89 => freeze(world).await,
            89..92 => stop(world),
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

fn any_site(world: &World) -> usize {
    world.rng.index(world.sites.len())
}

fn down(world: &Rc<World>, site: usize) {
    if world.setup.disks_fail && world.rng.chance(45) {
        world.lose_power(site);
    } else {
        world.happened("a process is killed");
        world.kill(site);
    }
    later(world, world.rng.millis(5, 6_000), move |world| world.start(site));
}

fn crash(world: &Rc<World>) {
    if world.rng.chance(20) {
        (0..world.sites.len()).for_each(|site| down(world, site));
    } else {
        down(world, any_site(world));
    }
}

/// Every site loses power at the same instant.
fn blackout(world: &Rc<World>) {
    if !world.setup.disks_fail {
        return;
    }
    world.happened("all sites lose power at once");
    for site in 0..world.sites.len() {
        world.lose_power(site);
        later(world, world.rng.millis(5, 6_000), move |world| world.start(site));
    }
}

/// The primary's site is gone; a little later an operator promotes another.
fn disaster(world: &Rc<World>) {
    let primary =
        |site: &usize| world.group(*site).is_some_and(|g| g.status().role == Role::Primary);
    let Some(site) = (0..world.sites.len()).find(primary) else { return };
    world.happened("the primary's site is lost");
    if world.rng.chance(40) {
        world.others(site).for_each(|other| world.net.reset([site, other]));
    }
    down(world, site);
    let others: Vec<_> = world.others(site).collect();
    let chosen = world.rng.pick(&others);
    // A mirror that follows behind is never promoted without consent.
    let follows = world.setup.modes[chosen] != Mode::Sync;
    let any = world.rng.chance(if follows { 75 } else { 20 });
    later(world, world.rng.millis(1, 5_000), move |world| {
        let needed = world.group(chosen).map(|g| operator::consent_for(&g.status()));
        let consent = needed.filter(|_| any).unwrap_or(Consent::InSync);
        operator::promote(world, chosen, consent);
    });
}

fn slow_disk(world: &Rc<World>) {
    let site = any_site(world);
    let top = world.rng.pick(&[50, 400, 4_000]);
    world.happened("a disk is slow");
    world.log(format_args!("the disks of {} are slow: {top} ms", world.sites[site].name));
    let pace = Pace { io: (top / 4, top), flush: (top / 4, top), record: (1, top) };
    world.sites[site].pace.set(pace);
    later(world, world.rng.millis(100, 5_000), move |world| {
        world.sites[site].pace.set(world.sites[site].usual_pace);
    });
}

fn disk_fault(world: &Rc<World>) {
    if !world.setup.disks_fail {
        return;
    }
    let (rng, index) = (&world.rng, any_site(world));
    let site = &world.sites[index];
    let volume = rng.index(world.volumes.len());
    match rng.below(100) {
        0..40 => {
            world.happened("a disk is full");
            world.log(format_args!("a disk of {} is full", site.name));
            site.disks.fill(rng, volume);
            if rng.chance(30) {
                down(world, index);
            }
            later(world, rng.millis(100, 6_000), move |world| world.sites[index].disks.empty());
        }
        40..65 => {
            world.happened("a sync fails");
            world.log(format_args!("a sync of a disk of {} fails", site.name));
            site.disks.fail_sync(rng, volume);
        }
        _ => vanish(world, index),
    }
}

/// The disk is gone in the middle of something; a moment later so is the machine.
fn vanish(world: &Rc<World>, index: usize) {
    let site = &world.sites[index];
    if world.process(index).is_none() || !site.disks.vanish_soon(&world.rng) {
        return;
    }
    world.log(format_args!("a disk of {} vanishes soon", site.name));
    later(world, world.rng.millis(100, 4_000), move |world| {
        if world.sites[index].disks.vanished() {
            world.happened("a disk vanishes in the middle of its work");
            down(world, index);
        }
    });
}

/// A clock is set, hours forward or back. Nothing may depend on it.
fn jump(world: &Rc<World>) {
    let site = &world.sites[any_site(world)];
    let by = i64::try_from(world.rng.between(1, 200 * 3_600_000)).expect("some hours");
    let forward = world.rng.chance(50);
    world.happened(if forward { "a clock jumps forward" } else { "a clock jumps back" });
    site.clock_ms.set(site.clock_ms.get() + if forward { by } else { -by });
    if forward {
        // The machine may have slept: leases end by a clock that goes on meanwhile.
        site.slept_ms.set(site.slept_ms.get() + by.unsigned_abs() % 60_000);
    }
}

/// A gateway stands still for up to a minute and goes on as if nothing had been.
fn pause(world: &Rc<World>) {
    let site = any_site(world);
    let Some(process) = world.process(site).filter(|process| !process.is_paused()) else { return };
    let top = world.rng.pick(&[1_500, 8_000, 60_000]);
    let length = world.rng.millis(100, top);
    world.happened("a gateway is paused");
    world.log(format_args!("{} is paused for {length:?}", world.sites[site].name));
    process.pause(true);
    later(world, length, move |world| {
        if process.is_alive() && process.is_paused() {
            world.log(format_args!("{} goes on", world.sites[site].name));
        }
        process.pause(false);
    });
}

/// A gateway stands still for a whole minute, and whoever else there is goes on.
async fn freeze(world: &Rc<World>) {
    let site = any_site(world);
    let Some(process) = world.process(site).filter(|process| !process.is_paused()) else { return };
    world.log(format_args!("{} is paused for a minute", world.sites[site].name));
    process.pause(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    if process.is_alive() {
        world.happened("a gateway is paused for a minute");
        world.log(format_args!("{} goes on", world.sites[site].name));
    }
    process.pause(false);
}

fn stop(world: &Rc<World>) {
    let site = any_site(world);
    let Some(group) = world.group(site) else { return };
    let reboots = world.rng.chance(40);
    world.log(format_args!("{} is stopped in good order", world.sites[site].name));
    world.happened("a gateway is stopped in good order");
    let Some(process) = world.process(site) else { return };
    let (kept, number) = (Rc::clone(world), process.number);
    process.spawn(
        world,
        Box::pin(async move {
            let closed = group.close().await;
            kept.log(format_args!("closed: {closed:?}"));
            later(&kept, Duration::from_millis(1), move |world| {
                if world.process(site).is_none_or(|process| process.number != number) {
                    return;
                }
                world.kill(site);
                if reboots && closed.is_ok() {
                    // Another kernel, and nothing that was not synced.
                    world.happened("a machine is rebooted in good order");
                    let state = &world.sites[site];
                    state.host_boot.set(state.host_boot.get() + 16);
                    state.disks.lose_power(&world.rng);
                }
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
    world.happened("an operator commands anything");
    let rng = &world.rng;
    let site = any_site(world);
    let Some(group) = world.group(site) else { return };
    let status = group.status();
    let legs = status.legs;
    if world.setup.switches && rng.chance(30) && !legs.is_empty() {
        switch(world, site, &legs[rng.index(legs.len())]);
        return;
    }
    if let Some(leg) = legs.iter().find(|leg| leg.in_sync).filter(|_| rng.chance(35)) {
        operator::ask(world, site, Command::Reverse { leg: leg.leg });
        return;
    }
    let leg = if legs.is_empty() { None } else { Some(legs[rng.index(legs.len())].leg) };
    let Some(leg) = leg.or_else(|| block::LegId::new(0)) else { return };
    let to = legs.iter().find(|found| found.leg == leg).and_then(|leg| world.site_of(leg.gateway));
    let mode = world.setup.modes[to.unwrap_or(site)];
    let switched = rng.pick(&[Mode::Sync, Mode::Consistency, Mode::Stack]);
    let policy = Policy {
        mode: if world.setup.switches { switched } else { mode },
        split: if rng.chance(70) { Split::Automatic } else { Split::Manual },
        ..world.setup.policy.clone()
    };
    let command = match rng.below(100) {
        0..10 => {
            let others: Vec<_> = world.others(site).collect();
            operator::add_leg(world, [site, rng.pick(&others)], policy)
        }
        10..25 => Command::Suspend { leg },
        25..42 => Command::Resume { leg, discard: rng.chance(15) },
        42..60 => Command::Reverse { leg },
        60..75 => {
            let consent = rng.pick(&[
                Consent::InSync,
                Consent::InSync,
                Consent::Outdated,
                Consent::Inconsistent,
            ]);
            operator::promote(world, site, consent);
            return;
        }
        75..80 => Command::SetPolicy { leg, policy },
        80..83 if mode != Mode::Sync => Command::Transfer { leg },
        80..88 => Command::Verify { leg, bytes_per_second: rng.pick(&[64 << 10, 16 << 20]) },
        88..95 => {
            let volume = rng.index(world.volumes.len());
            let bytes = world.setup.volumes[volume] + GROWTH_BYTES / 4 * rng.between(1, 4);
            Command::Grow { volume: world.volumes[volume], bytes }
        }
        _ => Command::RemoveLeg { leg },
    };
    operator::ask(world, site, command);
}

/// A running session gets another mode.
fn switch(world: &Rc<World>, site: usize, leg: &LegStatus) {
    world.happened("an operator switches the mode");
    let mode = world.rng.pick(&[Mode::Sync, Mode::Consistency, Mode::Stack]);
    let policy = Policy { mode, ..leg.policy.clone() };
    operator::ask(world, site, Command::SetPolicy { leg: leg.leg, policy });
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
    if quiet
        && let Some((site, mirrors)) = world.equivalent()
        && !mirrors.is_empty()
    {
        let names: Vec<_> = mirrors.iter().map(|mirror| world.sites[*mirror].name).collect();
        let name = world.sites[site].name;
        world.log(format_args!("quiet, and {name} says that {names:?} are equal"));
        world.compare_copies(site, &mirrors);
    }
    world.paused.set(false);
}

/// Everything works again.
pub(crate) fn heal(world: &Rc<World>) {
    world.log("everything is repaired");
    network::heal(world);
    witness::heal(world);
    odd::heal(world);
    for (index, site) in world.sites.iter().enumerate() {
        site.pace.set(site.usual_pace);
        site.disks.repair();
        if let Some(process) = world.process(index) {
            process.pause(false);
        }
        if site.disks.vanished() {
            world.kill(index);
        }
        world.start(index);
    }
}
