//! Hosts: they attach to whoever serves, write, read, flush, and compare.
//!
//! Invariant: a host goes away when it is told to, and comes back to whichever side serves.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{Extent, Op, Request};
use bytes::Bytes;

use crate::attachment::{Asked, Attachment};
use crate::chain::Chain;
use crate::model::Place;
use crate::platter::SECTOR_BYTES;
use crate::world::World;

/// What a host does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Anything, anywhere in one volume, several at once.
    Mixed { volume: usize, depth: usize, think_ms: u64 },
    /// In turn to several places, waiting for each answer.
    Dependent(usize),
}

/// Starts the hosts of a history.
pub(crate) fn start(world: &Rc<World>) {
    let rng = &world.rng;
    let volumes = world.volumes.len();
    for host in 0..world.setup.hosts {
        let kind = Kind::Mixed {
            volume: if host < volumes { host } else { rng.index(volumes) },
            depth: if world.setup.hour { 1 } else { rng.pick(&[1, 3, 8]) },
            think_ms: if world.setup.hour { 4_000 } else { rng.pick(&[20, 60, 200]) },
        };
        world.spawn(live(Rc::clone(world), host, kind));
    }
    // One goes around all volumes, the other lies where chance puts it.
    let founding = world.setup.founding;
    let around: Vec<usize> = (0..founding).chain([0]).collect();
    let anywhere = vec![rng.index(founding), rng.index(founding)];
    if founding > 1 {
        world.happened("dependent writes across volumes");
    }
    for (chain, volumes) in [around, anywhere].into_iter().enumerate() {
        let place = |(index, volume): (usize, usize)| {
            let back = 8 * (1 + chain as u64 * 4 + index as u64);
            (volume, world.setup.volumes[volume] / SECTOR_BYTES - back)
        };
        let places = volumes.into_iter().enumerate().map(place).collect();
        world.chains.borrow_mut().push(Chain::new(places));
        let host = world.setup.hosts + chain;
        world.spawn(live(Rc::clone(world), host, Kind::Dependent(chain)));
    }
}

async fn live(world: Rc<World>, host: usize, kind: Kind) {
    let last = Cell::new(0);
    while !world.stopped.get() && !world.has_failed() {
        match attach(&world, host, last.get()) {
            None => tokio::time::sleep(world.rng.millis(20, 300)).await,
            Some(attachment) => {
                last.set(attachment.process.site);
                attached(&world, &attachment, kind).await;
                attachment.left.set(true);
                attachment.give_up(&world);
                let pause = if world.rng.chance(50) { 0 } else { world.rng.between(1, 200) };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

fn attach(world: &Rc<World>, host: usize, last: usize) -> Option<Rc<Attachment>> {
    let serving = |site: &usize| world.group(*site).is_some_and(|group| group.is_serving());
    let site = [last].into_iter().chain(world.others(last)).find(serving)?;
    let process = world.process(site).filter(|process| !process.is_paused())?;
    world.look_at(site);
    let branch = world.serve_branch(site)?;
    let group = process.group()?;
    let attachment = Attachment::new(host, process, &group, branch);
    world.attachments.borrow_mut().push(Rc::clone(&attachment));
    world.spawn(Rc::clone(&attachment).watch(Rc::clone(world)));
    Some(attachment)
}

async fn attached(world: &Rc<World>, attachment: &Rc<Attachment>, kind: Kind) {
    let rng = &world.rng;
    let stay = rng.between(200, 20_000);
    let until = world.now_ms() + stay;
    while attachment.process.is_alive()
        && !attachment.token.is_cancelled()
        && !world.has_failed()
        && world.now_ms() < until
    {
        if (world.paused.get() || world.stopped.get()) && attachment.is_quiet() {
            if world.stopped.get() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (depth, think_ms) = match kind {
            Kind::Mixed { depth, think_ms, .. } => (depth, think_ms),
            Kind::Dependent(_) => (1, if world.setup.hour { 2_000 } else { 20 }),
        };
        // Nobody takes what is sent to a gateway that is stopped by a signal.
        let idle = world.paused.get() || world.stopped.get() || attachment.process.is_paused();
        if !idle && attachment.pending.borrow().len() < depth {
            submit(world, attachment, kind, depth);
        }
        tokio::time::sleep(rng.millis(1, think_ms)).await;
        if attachment.pending.borrow().len() >= depth {
            let freed = attachment.freed.notified();
            drop(tokio::time::timeout(Duration::from_millis(50), freed).await);
        }
    }
}

fn submit(world: &Rc<World>, attachment: &Rc<Attachment>, kind: Kind, depth: usize) {
    let Some(group) = attachment.process.group() else { return };
    if let Kind::Mixed { volume, .. } = kind
        && (group.volume(world.volumes[volume]).is_none()
            || !world.is_member(attachment.process.site, volume))
    {
        return;
    }
    let mut batch = Vec::new();
    let index = match kind {
        Kind::Dependent(chain) => {
            let (index, request) = dependent(world, attachment, chain);
            batch.push(request);
            index
        }
        Kind::Mixed { volume, .. } => {
            let room = depth - attachment.pending.borrow().len();
            for _ in 0..world.rng.index(room) + 1 {
                batch.push(any(world, attachment, volume));
            }
            volume
        }
    };
    let Some(volume) = group.volume(world.volumes[index]) else { return };
    if let Some(store) = world.sabotage.bypass(&attachment.process, index) {
        store.submit(&mut batch);
        return;
    }
    guarded(world, || volume.submit(&mut batch));
}

/// A panic in the caller's thread is a finding too (P10).
fn guarded(world: &World, act: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        world.fail("P10", format!("panic: {}", crate::world::words(&*panic)));
    }
}

/// The next step of a chain.
fn dependent(world: &World, attachment: &Attachment, chain: usize) -> (usize, Request) {
    let value = world.count();
    let mut chains = world.chains.borrow_mut();
    let (step, place) = chains[chain].step(attachment.process.site, value);
    let (volume, sector) = chains[chain].places[place];
    drop(chains);
    let extent = extent(sector * SECTOR_BYTES, SECTOR_BYTES);
    let op = attachment.branch.borrow_mut().issue(value, Place { volume, extent }, value, false);
    world.note_issued(attachment.process.site, volume, extent);
    let plain = is_plain(attachment);
    let asked = Asked::Change { op, extent, fua: false, step: Some((chain, step)), plain };
    let tag = attachment.ask(world, volume, asked);
    let op = Op::Write(extent, payload(value, extent));
    (volume, Request { op, fua: false, ticket: attachment.queue.ticket(tag) })
}

/// Any request.
fn any(world: &World, attachment: &Attachment, volume: usize) -> Request {
    let rng = &world.rng;
    let founded = world.setup.volumes[volume];
    let id = world.volumes[volume];
    let status = attachment.process.group().map(|group| group.status());
    let found = status.and_then(|status| status.volumes.into_iter().find(|v| v.volume == id));
    let bytes = found.map_or(founded, |volume| volume.bytes);
    let extent = if bytes > founded && rng.chance(15) {
        extent(founded + rng.below((bytes - founded) / 4096) * 4096, 4096)
    } else {
        somewhere(world, founded)
    };
    let fua = rng.chance(8);
    let value = world.count();
    let change = |value: u64, trim: bool| {
        let op = attachment.branch.borrow_mut().issue(
            world.count(),
            Place { volume, extent },
            value,
            trim,
        );
        world.note_issued(attachment.process.site, volume, extent);
        Asked::Change { op, extent, fua, step: None, plain: is_plain(attachment) }
    };
    let (op, asked) = match rng.below(100) {
        0..55 => (Op::Write(extent, payload(value, extent)), change(value, false)),
        55..61 => {
            let may_trim = rng.chance(50);
            (Op::Zero { extent, may_trim }, change(0, false))
        }
        61..66 => (Op::Trim(extent), change(0, true)),
        66..76 => (Op::Flush, Asked::Flush),
        _ => (Op::Read(extent), Asked::Read { extent }),
    };
    let fua = fua && op.is_change();
    let tag = attachment.ask(world, volume, asked);
    Request { op, fua, ticket: attachment.queue.ticket(tag) }
}

fn is_plain(attachment: &Attachment) -> bool {
    attachment.process.group().is_none_or(|group| group.status().legs.is_empty())
}

/// Few places, so that requests meet.
fn somewhere(world: &World, bytes: u64) -> Extent {
    let rng = &world.rng;
    let len = match rng.below(10) {
        0..5 => 4096,
        5..8 => rng.between(1, 16) * SECTOR_BYTES,
        _ => rng.between(1, 16) * 4096,
    };
    let len = len.min(bytes / 2);
    let offset = match rng.below(10) {
        0..5 => rng.below(8) * 4096,
        5..7 => rng.below(bytes / (1 << 20) + 1) * (1 << 20),
        _ => rng.below(bytes),
    };
    let grain = if rng.chance(70) { 4096 } else { SECTOR_BYTES };
    // The chains' blocks at the end are theirs alone.
    let last = (bytes - len).saturating_sub(8 * 4096);
    extent(offset.min(last) / grain * grain, len)
}

fn extent(offset: u64, len: u64) -> Extent {
    Extent::new(offset, len).expect("hosts ask for something")
}

fn payload(value: u64, extent: Extent) -> Bytes {
    let words = usize::try_from(extent.len() / 8).expect("small");
    Bytes::from(value.to_le_bytes().repeat(words))
}
