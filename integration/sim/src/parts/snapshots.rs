//! Snapshots of all parts of a group, as the server takes them: each part holds its hosts, and when
//! all do each takes its own.
//!
//! Invariant: what is compared is read from the stores, whatever became of the gateways since.

use std::rc::Rc;

use block::SnapshotId;
use mirror::{Command, Refusal, SnapshotState};

use super::gateway::of_id;
use super::{GATEWAYS, Places, Scene, operator, part_of};
use crate::checks::differs;
use crate::disks::Image;
use crate::sabotage::Sabotage;

/// A snapshot that every part said it keeps.
pub(super) struct Whole {
    id: SnapshotId,
    /// Who said so.
    gateways: [usize; 2],
    /// By part: what it holds.
    images: [Image; 2],
}

/// Of each chain at that site: how many of its steps were answered or failed before.
type Before = Vec<Option<usize>>;

/// Takes one, ruled from a gateway.
pub(super) async fn take(scene: Rc<Scene>, ruler: usize) {
    let Some(status) = scene.group(ruler).map(|group| group.status()) else { return };
    let Some(parts) = &status.parts else { return };
    let counted = parts.companions.iter().filter(|companion| !companion.excluded);
    let mut gateways: Vec<usize> = counted.filter_map(|c| of_id(c.gateway)).collect();
    gateways.push(ruler);
    gateways.sort_unstable();
    let asked = scene.count();
    let id = SnapshotId::of(u128::from(asked));
    let before = ended(&scene, super::site_of(ruler));
    let from = parts.state.facts.from;
    let hold = Command::Hold { snapshot: id, name: id.to_string(), unix_ms: asked, from };
    let take = Command::TakeHeld { snapshot: id };
    let taken = if scene.sabotage == Sabotage::PartsHeldOneByOne {
        let mut all = true;
        for gateway in &gateways {
            all &= operator::command(&scene, *gateway, hold.clone()).await.is_ok();
            all &= operator::command(&scene, *gateway, take.clone()).await.is_ok();
        }
        all
    } else if all(&scene, &gateways, &hold).await {
        all(&scene, &gateways, &take).await
    } else {
        gateways.iter().filter_map(|g| scene.group(*g)).for_each(|group| group.let_go(id));
        return scene.happened("hosts of parts go on without a snapshot");
    };
    if !taken {
        scene.log("--- a snapshot of parts is given up");
        all(&scene, &gateways, &Command::RemoveSnapshot { snapshot: id }).await;
    } else if let [first, second] = gateways[..] {
        scene.happened("a snapshot of all parts is taken");
        check(&scene, (id, [first, second]), &before);
    }
}

fn ended(scene: &Scene, site: usize) -> Before {
    scene.chains.borrow().iter().map(|chain| chain.ended(site)).collect()
}

/// Tells all at the same time. Says whether all did it.
async fn all(scene: &Rc<Scene>, gateways: &[usize], command: &Command) -> bool {
    let run = |gateway: &usize| {
        let (scene, gateway, command) = (Rc::clone(scene), *gateway, command.clone());
        let (done, wait) = tokio::sync::oneshot::channel();
        let kept = Rc::clone(&scene);
        scene.spawn(async move {
            tokio::time::sleep(kept.rng.millis(0, 30)).await;
            let answer = operator::command(&kept, gateway, command).await;
            // Whoever waited may have given up.
            let _unheard = done.send(matches!(answer, Ok(()) | Err(Refusal::NoSuchSnapshot)));
        });
        wait
    };
    let runs: Vec<_> = gateways.iter().map(run).collect();
    let mut all = true;
    for run in runs {
        all &= run.await.unwrap_or(false);
    }
    all
}

/// What a gateway keeps of a snapshot, if it does.
fn kept(scene: &Scene, gateway: usize, id: SnapshotId) -> Option<Result<Image, String>> {
    let group = scene.group(gateway)?;
    let snapshots = group.status().snapshots;
    let found = snapshots.into_iter().find(|snapshot| snapshot.id == id)?;
    if found.state != SnapshotState::Available {
        return None;
    }
    let index = |volume| {
        let first = part_of(gateway) * scene.volumes;
        (0..scene.volumes).find(|at| Scene::volume_id(scene.volumes, first + at) == volume)
    };
    let places: Option<Vec<_>> =
        found.volumes.iter().map(|(volume, here)| Some((index(*volume)?, *here))).collect();
    Some(scene.places[gateway].disks.look_at(&places?))
}

/// P11 over parts: the snapshot holds whatever was answered before it was asked for, and no step
/// without those before it.
fn check(scene: &Scene, (id, gateways): (SnapshotId, [usize; 2]), before: &Before) {
    let images = gateways.map(|gateway| kept(scene, gateway, id));
    let [Some(Ok(first)), Some(Ok(second))] = images else {
        // A gateway that died since knows nothing; what it said is looked at when it is back.
        return;
    };
    let images = [first, second];
    let seen = |places: &Places| -> Vec<u64> {
        let peek = |(volume, sector): &(usize, u64)| {
            images[volume / scene.volumes].peek(volume % scene.volumes, *sector)
        };
        places.iter().map(peek).collect()
    };
    for (number, chain) in scene.chains.borrow().iter().enumerate() {
        let seen = seen(&chain.places);
        if let Some(missing) = chain.missing(&seen) {
            let text = format!("snapshot {id}, chain {number}: {missing}; it holds {seen:?}");
            return scene.fail("P11", text);
        }
        let ended = before.get(number).copied().flatten();
        if ended.is_some_and(|ended| chain.lacks_acknowledged_of(&seen, ended)) {
            let text = format!("snapshot {id} lacks an answered step of chain {number}: {seen:?}");
            return scene.fail("P11", text);
        }
    }
    scene.wholes.borrow_mut().push(Whole { id, gateways, images });
}

/// Removes one everywhere.
pub(super) async fn remove(scene: Rc<Scene>) {
    let number = scene.rng.index(scene.wholes.borrow().len().max(1));
    if number >= scene.wholes.borrow().len() {
        return;
    }
    let id = scene.wholes.borrow_mut().swap_remove(number).id;
    scene.log("--- a snapshot of all parts is removed");
    let site = scene.serving_site().unwrap_or_default();
    all(&scene, &[site * 2, site * 2 + 1], &Command::RemoveSnapshot { snapshot: id }).await;
}

/// P11: whoever keeps one holds the same, however much was written, killed and promoted since.
pub(super) fn compare(scene: &Scene) {
    for whole in scene.wholes.borrow().iter() {
        for gateway in 0..GATEWAYS {
            let (id, name) = (whole.id, scene.name(gateway));
            match kept(scene, gateway, id) {
                None if whole.gateways.contains(&gateway) => {
                    return scene.fail("P11", format!("{name} lost snapshot {id}"));
                }
                None => {}
                Some(Err(text)) => return scene.fail("P11", format!("{id} at {name}: {text}")),
                Some(Ok(image)) => {
                    let first = &whole.images[part_of(gateway)];
                    let mut volumes = 0..scene.volumes;
                    if let Some(text) = volumes.find_map(|at| differs(first, &image, at)) {
                        let text = format!("snapshot {id} at {name}: {text}");
                        return scene.fail("P11", text);
                    }
                    scene.happened_quietly("a gateway keeps a snapshot of its part");
                }
            }
        }
    }
}
