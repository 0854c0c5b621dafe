//! One seeded history: hosts write and read at every site that lets them, while links are cut, the
//! witness is out of reach, sites are paused and killed and their clocks jump.
//!
//! Invariant: a seed decides everything. A write that was acknowledged must be readable at every
//! site that serves from then on, and be at the primary in the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twinspan_mirror::machine::Note;
use twinspan_mirror::{Command, Consent, Failover, GroupStatus, Mode, OnSlow, Policy, Role};
use witness::memory::Fate;

use crate::parts::spawn_local;
use crate::world::{BYTES, Site, World};
use witness::memory::Lie;

const STEPS: u64 = 60;
const BLOCKS: u64 = BYTES / 4096;
/// How long sites have to agree once everything works again.
const PATIENCE_MS: u64 = 180_000;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) acknowledged: usize,
    pub(crate) reads: u64,
    pub(crate) takeovers: usize,
}

struct Rng(Cell<u64>);

impl Rng {
    fn bits(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    fn index(&self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// What hosts know.
#[derive(Clone, Default)]
struct Hosts {
    acknowledged: Rc<RefCell<Vec<u64>>>,
    wrong: Rc<RefCell<Vec<String>>>,
    reads: Rc<Cell<u64>>,
    next: Rc<Cell<u64>>,
}

impl Hosts {
    fn write(&self, site: &Site) {
        let block = self.next.get();
        if block >= BLOCKS || !site.serves() {
            return;
        }
        self.next.set(block + 1);
        let (write, acknowledged) = (site.write(block), Rc::clone(&self.acknowledged));
        spawn_local(async move {
            if write.await.is_ok() {
                acknowledged.borrow_mut().push(block);
            }
        });
    }

    fn read(&self, site: &Site, rng: &Rng) {
        let known = self.acknowledged.borrow().len();
        if known == 0 || !site.serves() {
            return;
        }
        // The newest are the ones that a site may lack.
        let back = rng.index(known.min(8));
        let block = self.acknowledged.borrow()[known - 1 - back];
        let (read, hosts) = (site.read(block), self.clone());
        let name = site.identity.site.clone();
        spawn_local(async move {
            match read.await {
                Ok(true) => hosts.reads.set(hosts.reads.get() + 1),
                Ok(false) => {
                    let text = format!("{name} answered an old block {block}");
                    hosts.wrong.borrow_mut().push(text);
                }
                Err(_) => {}
            }
        });
    }
}

/// Runs a history.
///
/// # Errors
/// What was lost or stale, or that nobody serves in the end.
pub(crate) fn run(seed: u64, lie: Lie) -> Result<Told, String> {
    World::run(lie, |world| async move {
        let rng = Rng(Cell::new(seed));
        let hosts = Hosts::default();
        let (east, west) = world.mirrored().await;
        let mut sites = vec![east, west];
        if seed.is_multiple_of(3) {
            let north = world.site(3, "north");
            sites[0].mirror_to(&north).await.unwrap();
            sites[0].until_equivalent().await;
            sites.push(north);
        }
        for _ in 0..STEPS {
            let more = step(&world, &mut sites, &rng, &hosts);
            world.pass(1 + rng.below(700) + more).await;
        }
        world.heal();
        for site in &sites {
            site.resume();
            site.faults.cut.set(false);
        }
        let primary = settle(&world, &sites).await?;
        if let Some(wrong) = hosts.wrong.borrow().first() {
            return Err(wrong.clone());
        }
        let acknowledged = hosts.acknowledged.borrow();
        for block in acknowledged.iter() {
            if !sites[primary].holds(*block) {
                return Err(format!("acknowledged block {block} is lost"));
            }
        }
        let is_takeover = |note: &&Note| **note == Note::TakesOver;
        let takeovers = |site: &Site| site.notes.borrow().iter().filter(is_takeover).count();
        Ok(Told {
            acknowledged: acknowledged.len(),
            reads: hosts.reads.get(),
            takeovers: sites.iter().map(takeovers).sum(),
        })
    })
}

/// Does one thing; says how long nothing else happens then.
fn step(world: &World, sites: &mut Vec<Site>, rng: &Rng, hosts: &Hosts) -> u64 {
    let which = rng.index(sites.len());
    match rng.below(20) {
        0..=7 => {
            for site in sites.iter() {
                (0..=rng.below(3)).for_each(|_| hosts.write(site));
                (0..=rng.below(3)).for_each(|_| hosts.read(site, rng));
            }
        }
        8 | 9 => {
            let other = (which + 1) % sites.len();
            world.cut(&sites[which], &sites[other]);
        }
        10 | 11 => world.heal(),
        12 | 13 => {
            let faults = &sites[which].faults;
            faults.cut.set(!faults.cut.get());
            faults.fate.set(match rng.below(3) {
                0 => Fate::Lost,
                1 => Fate::Unanswered,
                _ => Fate::Late(Duration::from_millis(rng.below(20_000))),
            });
        }
        14 | 15 if sites[which].is_paused() => sites[which].resume(),
        14 => sites[which].pause(),
        15 => sites[which].jump(rng.below(60_000)),
        16 => {
            let site = sites.remove(which);
            sites.insert(which, world.restart(site));
        }
        17 => operate(&sites[which], rng),
        _ => return rng.below(20_000),
    }
    0
}

fn operate(site: &Site, rng: &Rng) {
    if site.is_paused() {
        return;
    }
    let GroupStatus { role, legs, .. } = site.status();
    let leg = legs.get(rng.index(legs.len())).map(|leg| leg.leg);
    let command = match (role, leg) {
        (Role::Primary, Some(leg)) if rng.below(3) == 0 => Command::Suspend { leg },
        (Role::Primary, Some(leg)) if rng.below(2) == 0 => Command::Reverse { leg },
        (Role::Primary, Some(leg)) if rng.below(2) == 0 => {
            let modes = [Mode::Sync, Mode::Sync, Mode::Consistency, Mode::Stack];
            let slow = [OnSlow::Error, OnSlow::Degrade];
            let policy = Policy {
                mode: modes[rng.index(modes.len())],
                on_slow: slow[rng.index(slow.len())],
                ack_deadline_ms: 1_000,
                failover: Failover::Automatic,
                ..Policy::default()
            };
            Command::SetPolicy { leg, policy }
        }
        (Role::Primary, Some(leg)) => Command::Resume { leg, discard: false },
        (Role::Secondary, _) => Command::Promote { consent: Consent::InSync },
        (Role::Primary | Role::Fenced, _) => return,
    };
    site.spawn_command(command);
}

/// Waits until one site serves and stays the only one; says which.
async fn settle(world: &World, sites: &[Site]) -> Result<usize, String> {
    let mut steady = 0;
    for _ in 0..PATIENCE_MS / 500 {
        world.pass(500).await;
        let serving: Vec<usize> = (0..sites.len()).filter(|at| sites[*at].serves()).collect();
        match serving.as_slice() {
            [only] => {
                steady += 1;
                if steady == 40 {
                    return Ok(*only);
                }
            }
            _ => steady = 0,
        }
    }
    let brief = |site: &Site| {
        let GroupStatus { role, epoch, serving, quality, legs, upstream, witness, .. } =
            site.status();
        let legs: Vec<_> =
            legs.into_iter().map(|leg| (leg.gateway, leg.state, leg.cause)).collect();
        let upstream = upstream.map(|upstream| (upstream.gateway, upstream.link));
        let name = &site.identity.site;
        format!(
            "{name}: {role:?} {epoch} {serving:?} {quality:?} {legs:?} {upstream:?} {witness:?}"
        )
    };
    let sites: Vec<String> = sites.iter().map(brief).collect();
    let stands = world.witness.standing(crate::world::GROUP);
    Err(format!("nobody serves alone: {stands:?}\n{}", sites.join("\n")))
}
