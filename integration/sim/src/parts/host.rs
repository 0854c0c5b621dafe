//! Hosts that write in turn to both parts, and wait for each answer.
//!
//! Invariant: a step goes to whichever gateway serves its part; it is made again when it failed.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use block::{Completions, Extent, Op, Request};
use bytes::Bytes;

use super::{Scene, VOLUME_BYTES};
use crate::chain::Chain;
use crate::platter::SECTOR_BYTES;

pub(super) fn start(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    for chain in 0..rng.index(3) + 2 {
        let len = rng.index(3) + 2;
        let first = rng.index(2);
        let place = |at: usize| {
            // One after the other, so that each step needs one of the other part.
            let volume = scene.volume((first + at) % 2, rng.index(scene.volumes));
            let sector = rng.below(VOLUME_BYTES / SECTOR_BYTES / 64) * 64;
            (volume, sector + (chain * 8 + at) as u64)
        };
        let places = (0..len).map(place).collect();
        scene.chains.borrow_mut().push(Chain::new(places));
        scene.spawn(live(Rc::clone(scene), chain));
    }
}

async fn live(scene: Rc<Scene>, chain: usize) {
    let mut site = 0;
    while !scene.stopped.get() && !scene.has_failed() {
        tokio::time::sleep(scene.rng.millis(1, 40)).await;
        // Whoever moves to the other site finds both parts there.
        if let Some(serving) = scene.serving_site() {
            site = serving;
        }
        let part = scene.chains.borrow()[chain].next_place().0 / scene.volumes;
        if !scene.calm.get() && scene.serves(site * 2 + part) {
            step(&scene, chain, site).await;
        }
    }
}

async fn step(scene: &Rc<Scene>, chain: usize, site: usize) {
    scene.look();
    let value = scene.count();
    let (step, (volume, sector)) = {
        let mut chains = scene.chains.borrow_mut();
        let (step, place) = chains[chain].step(site, value);
        (step, chains[chain].places[place])
    };
    let gateway = site * 2 + volume / scene.volumes;
    let Some(life) = scene.life(gateway) else { return };
    let id = Scene::volume_id(scene.volumes, volume);
    let Some(volume) = life.group().and_then(|group| group.volume(id)) else { return };
    let queue = Completions::new();
    let extent = Extent::new(sector * SECTOR_BYTES, SECTOR_BYTES).expect("a sector");
    let words = usize::try_from(SECTOR_BYTES / 8).expect("small");
    let data = Bytes::from(value.to_le_bytes().repeat(words));
    let op = Op::Write(extent, data);
    volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
    let until = scene.now_ms() + 60_000;
    loop {
        let answered = poll_fn(|context| queue.poll_ready(context));
        let answered = tokio::time::timeout(Duration::from_millis(200), answered).await.is_ok();
        let mut answers = Vec::new();
        queue.take(&mut answers);
        if let Some(answer) = answers.pop() {
            let mut stats = scene.stats.borrow_mut();
            if let Err(error) = answer.result {
                *stats.errors.entry(format!("{error:?}")).or_default() += 1;
            } else if life.is_alive() {
                stats.changes += 1;
                scene.chains.borrow_mut()[chain].acknowledged(step);
            }
            return;
        }
        if !life.is_alive() || scene.has_failed() {
            return;
        }
        if !answered && scene.now_ms() > until && !life.is_paused() {
            let name = scene.name(gateway);
            return scene.fail("P8", format!("{name} answers nothing for a minute"));
        }
    }
}
