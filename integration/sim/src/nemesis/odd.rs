//! What goes wrong rarely, and must be survived all the same.
//!
//! Invariant: as for all faults: each ends by itself.

use std::rc::Rc;
use std::time::Duration;

use mirror::{OnSlow, Role, Serving};

use super::{any_site, later};
use crate::attachment::Asked;
use crate::slow::Pace;
use crate::world::World;

/// Besides its mirror a change may wait for its own disk and for those before it.
const OTHER_WAITS_MS: u64 = 12_000;

/// One of these.
pub(super) async fn strike(world: &Rc<World>) {
    match world.rng.below(12) {
        10.. => hang(world, false).await,
        0..3 => garble(world),
        3..6 => babble(world),
        6..8 => hang(world, true).await,
        _ => lose_volume(world),
    }
}

/// Some bytes that a gateway sends to another arrive as others.
fn garble(world: &Rc<World>) {
    let from = any_site(world);
    let others: Vec<_> = world.others(from).collect();
    let to = world.rng.pick(&others);
    world.net.garble(from, to, true);
    later(world, world.rng.millis(100, 2_000), move |world| {
        if !world.net.garble(from, to, false) {
            let names = [from, to].map(|site| world.sites[site].name);
            world.log(format_args!("what {} sent to {} was garbled", names[0], names[1]));
            world.happened("bytes on a link are garbled");
        }
    });
}

/// The next message of a gateway makes no sense.
fn babble(world: &Rc<World>) {
    let site = any_site(world);
    world.sites[site].babbles.set(true);
    later(world, world.rng.millis(500, 3_000), move |world| world.sites[site].babbles.set(false));
}

/// The disks of a mirror stand still for half a minute, while its gateway goes on talking. Hosts that
/// need not wait for it do not (rule 12). What cannot be sent goes to a send journal, whose disk may
/// be `full`.
async fn hang(world: &Rc<World>, full: bool) {
    const LENGTH: Duration = Duration::from_secs(30);
    let rules = |site: &usize| {
        let role = world.group(*site).map(|group| group.status().role);
        role == Some(Role::Primary)
    };
    let Some(primary) = (0..world.sites.len()).find(rules) else { return };
    let others: Vec<_> = world.others(primary).collect();
    let mirror = world.rng.pick(&others);
    world.happened("the disks of a mirror stand still");
    world.log(format_args!("the disks of {} stand still", world.sites[mirror].name));
    let wait = u64::try_from(LENGTH.as_millis()).expect("short");
    let pace = Pace { io: (wait, wait), flush: (wait, wait), record: (0, 3) };
    let usual = world.sites[mirror].usual_pace;
    world.sites[mirror].pace.set(pace);
    world.stood_still.set(true);
    world.sites[primary].journal_full.set(full);
    tokio::time::sleep(LENGTH).await;
    world.check_waiting(primary);
    world.sites[primary].journal_full.set(false);
    world.sites[mirror].pace.set(usual);
}

impl World {
    /// P8: no host waits for longer than its policy says, whatever a mirror does.
    fn check_waiting(&self, site: usize) {
        let policy = self.setup.policy.clone();
        let held_ms = self.setup.voice.map_or(0, |voice| voice.hold_ms);
        let patience_ms = policy.ack_deadline_ms + held_ms + OTHER_WAITS_MS;
        let Some(process) = self.process(site).filter(|process| !process.is_paused()) else {
            return;
        };
        let serves = process.group().is_some_and(|g| g.status().serving == Serving::Yes);
        if policy.on_slow == OnSlow::Block || !serves {
            return;
        }
        let attachments = self.attachments.borrow();
        for attachment in attachments.iter().filter(|a| a.process.number == process.number) {
            for pending in attachment.pending.borrow().values() {
                let waits_ms = pending.at.elapsed().as_millis();
                let patience_ms = match pending.asked {
                    Asked::Change { .. } => patience_ms,
                    // It may wait for the one before it besides its own.
                    Asked::Flush => 2 * patience_ms,
                    Asked::Read { .. } => continue,
                };
                if waits_ms > u128::from(patience_ms) {
                    let (host, asked) = (attachment.host, &pending.asked);
                    let text = format!("host {host} waits for {asked:?} since {waits_ms} ms");
                    self.fail("P8", text);
                    return;
                }
            }
        }
    }
}

/// Somebody deletes a volume, and brings it back later.
fn lose_volume(world: &Rc<World>) {
    if !world.setup.disks_fail {
        return;
    }
    let site = any_site(world);
    let volume = world.rng.index(world.volumes.len());
    if world.process(site).is_some() {
        world.happened("a volume is deleted behind the back of its gateway");
    }
    let name = world.sites[site].name;
    world.log(format_args!("volume {volume} of {name} is deleted"));
    world.sites[site].gone[volume].set(true);
    later(world, world.rng.millis(200, 5_000), move |world| {
        world.log(format_args!("volume {volume} of {} is back", world.sites[site].name));
        world.sites[site].gone[volume].set(false);
    });
}

/// The link is cut every second, for an hour.
pub(super) async fn hour(world: &Rc<World>) {
    let times = 3_600;
    for _ in 0..times {
        if world.has_failed() {
            return;
        }
        world.net.reset([0, 1]);
        world.net.refuse([0, 1], true);
        tokio::time::sleep(world.rng.millis(1, 600)).await;
        world.net.refuse([0, 1], false);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    world.happened("the link flaps every second for an hour");
}

pub(super) fn heal(world: &World) {
    for (index, site) in world.sites.iter().enumerate() {
        site.babbles.set(false);
        site.journal_full.set(false);
        site.gone.iter().for_each(|gone| gone.set(false));
        for other in world.others(index) {
            world.net.garble(index, other, false);
        }
    }
}
