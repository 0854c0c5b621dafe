//! Hosts that write in turn to several places of all volumes, and wait for each answer.
//!
//! Invariant: a step goes to whichever gateway serves at the highest epoch; it is made again when it
//! failed.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use block::{Completions, Extent, Op, Request};
use bytes::Bytes;
use mirror::Serving;

use super::gateway::Life;
use super::{Scene, VOLUME_BYTES, WEST};
use crate::chain::Chain;
use crate::platter::SECTOR_BYTES;

/// The first sector of the first volume: hosts of a detached copy write here, and no others.
pub(super) const INTRUDED: u64 = 0;

pub(super) fn start(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    for chain in 0..rng.index(4) + 2 {
        let len = rng.index(5) + 2;
        let place = |at: usize| {
            let volume = rng.index(scene.volumes);
            let sector = rng.below(VOLUME_BYTES / SECTOR_BYTES / 64) * 64;
            (volume, sector + (chain * 8 + at + 1) as u64)
        };
        scene.chains.borrow_mut().push(Chain::new((0..len).map(place).collect()));
        scene.far.borrow_mut().push(None);
        scene.recorded.borrow_mut().push(None);
        scene.spawn(live(Rc::clone(scene), chain));
    }
}

async fn live(scene: Rc<Scene>, chain: usize) {
    while !scene.stopped.get() && !scene.has_failed() {
        tokio::time::sleep(scene.rng.millis(1, 40)).await;
        if let Some(gateway) = scene.serving().filter(|_| !scene.calm.get()) {
            step(&scene, chain, gateway).await;
        }
    }
}

async fn step(scene: &Rc<Scene>, chain: usize, gateway: usize) {
    let Some(life) = scene.life(gateway) else { return };
    let value = scene.count();
    let (step, place) = {
        let mut chains = scene.chains.borrow_mut();
        let (step, place) = chains[chain].step(gateway, value);
        (step, chains[chain].places[place])
    };
    let answer = write(scene, &life, place, value).await;
    match answer {
        Some(true) => scene.chains.borrow_mut()[chain].acknowledged(step),
        Some(false) => {}
        None if !life.is_alive() || scene.has_failed() => {}
        None => {
            let name = scene.name(gateway);
            scene.fail("P8", format!("{name} answers nothing for a minute"));
        }
    }
}

/// Writes a sector. Says whether it was acknowledged; nothing when nobody answered.
async fn write(
    scene: &Rc<Scene>,
    life: &Rc<Life>,
    (volume, sector): (usize, u64),
    value: u64,
) -> Option<bool> {
    let group = life.group()?;
    let Some(volume) = group.volume(Scene::volume_id(volume)) else { return Some(false) };
    drop(group);
    let queue = Completions::new();
    let extent = Extent::new(sector * SECTOR_BYTES, SECTOR_BYTES).expect("a sector");
    let words = usize::try_from(SECTOR_BYTES / 8).expect("small");
    let op = Op::Write(extent, Bytes::from(value.to_le_bytes().repeat(words)));
    volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
    let until = scene.now_ms() + 60_000;
    loop {
        let answered = poll_fn(|context| queue.poll_ready(context));
        let answered = tokio::time::timeout(Duration::from_millis(200), answered).await.is_ok();
        let mut answers = Vec::new();
        queue.take(&mut answers);
        if let Some(answer) = answers.pop() {
            if let Err(error) = answer.result {
                let mut stats = scene.stats.borrow_mut();
                *stats.errors.entry(format!("{error:?}")).or_default() += 1;
                return Some(false);
            }
            // What a dead process answered nobody heard.
            scene.stats.borrow_mut().changes += u64::from(life.is_alive());
            return Some(life.is_alive());
        }
        let waits = !answered && scene.now_ms() > until && !life.is_paused();
        if !life.is_alive() || scene.has_failed() || waits {
            return None;
        }
    }
}

/// Hosts write to the copy in the middle while it is detached.
pub(super) async fn intrude(scene: &Rc<Scene>) {
    let Some(life) = scene.life(WEST).filter(|life| !life.is_paused()) else { return };
    let detached = life.group().is_some_and(|group| group.status().serving == Serving::Detached);
    if detached {
        let value = scene.count();
        if write(scene, &life, (0, INTRUDED), value).await == Some(true) {
            scene.happened("a mirror that sends its copy on is written to");
        }
    }
}
