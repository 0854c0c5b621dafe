//! A gateway of the cascade, its processes, and how it reaches the others.
//!
//! Invariant: a process is its tasks; its disk stays, and loses what was not synced with the power.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use block::{GatewayId, Generation, Hello, Identity, Link, LinkError, Message, Store};
use mirror::{
    Clock, Dialer, Generations, Group, JournalLimits, Journals, LocalFuture, Parts, found_primary,
    found_secondary,
};

use super::{EAST, GATEWAYS, GROUP, Scene, VOLUME_BYTES};
use crate::disks::Disks;
use crate::slow::{Pace, SlowLedger, SlowStore};
use crate::tasks::Tasks;

pub(super) const fn id_of(gateway: usize) -> GatewayId {
    GatewayId::of(gateway as u128 + 1)
}

pub(super) fn of_id(gateway: GatewayId) -> Option<usize> {
    (0..GATEWAYS).find(|index| id_of(*index) == gateway)
}

/// A gateway's place, which outlives its processes.
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) disks: Disks,
    pace: Rc<Cell<Pace>>,
    /// Counts the losses of power: a start after one is one of another kernel.
    pub(super) kernel: Cell<u8>,
    pub(super) life: RefCell<Option<Rc<Life>>>,
}

impl Place {
    pub(super) fn new(gateway: usize, volumes: usize, pace: Pace) -> Self {
        let sized: Vec<_> = (0..volumes).map(|v| (Scene::volume_id(v), VOLUME_BYTES)).collect();
        let ids = sized.iter().map(|(id, _)| *id).collect();
        let record = if gateway == EAST {
            found_primary(GROUP, "orders", ids, Generation::of(u128::MAX))
        } else {
            found_secondary(GROUP, "orders", ids)
        };
        Self {
            name: ["east", "west", "north"][gateway],
            disks: Disks::new(true, None, &sized, record),
            pace: Rc::new(Cell::new(pace)),
            kernel: Cell::new(1),
            life: RefCell::default(),
        }
    }
}

/// One start of a gateway.
pub(super) struct Life {
    gateway: usize,
    identity: Identity,
    group: OnceCell<Rc<Group>>,
    stores: Vec<Rc<SlowStore>>,
    ledger: Rc<SlowLedger>,
    tasks: Rc<Tasks>,
}

impl Life {
    pub(super) fn start(scene: &Rc<Scene>, gateway: usize) -> Result<Rc<Self>, String> {
        let place = &scene.places[gateway];
        let number = scene.count();
        let opened = place.disks.open().map_err(|error| format!("{error:#}"))?;
        let (pace, rng) = (|| Rc::clone(&place.pace), || Rc::clone(&scene.rng));
        let store =
            |inner| SlowStore::new(scene.sabotage.store(inner), Rc::default(), pace(), rng());
        let ledger = scene.sabotage.ledger(opened.ledger);
        let boot = block::BootId::of(u128::from(number));
        let life = Rc::new(Self {
            gateway,
            identity: Identity { gateway: id_of(gateway), boot, site: place.name.to_owned() },
            group: OnceCell::new(),
            stores: opened.stores.into_iter().map(store).collect(),
            ledger: SlowLedger::new(ledger, pace(), rng(), false),
            tasks: Tasks::new(),
        });
        for store in &life.stores {
            life.spawn(scene, Box::pin(Rc::clone(store).serve()));
        }
        life.spawn(scene, Box::pin(Rc::clone(&life.ledger).serve()));
        match Group::open(life.parts(scene)) {
            Ok(group) => drop(life.group.set(group)),
            Err(error) => {
                life.kill();
                place.disks.kill();
                return Err(error.to_string());
            }
        }
        Ok(life)
    }

    fn parts(self: &Rc<Self>, scene: &Rc<Scene>) -> Parts {
        let spawner = (Rc::downgrade(self), Rc::downgrade(scene));
        let (noted, gateway) = (Rc::downgrade(scene), self.gateway);
        let way = || Way { me: Rc::downgrade(self), scene: Rc::downgrade(scene) };
        Parts {
            copiers: mirror::Copiers::default(),
            companions: None,
            identity: self.identity.clone(),
            group: GROUP,
            volumes: (self.stores.iter().enumerate())
                .map(|(volume, store)| {
                    let store = Rc::clone(store) as Rc<dyn Store>;
                    (Scene::volume_id(volume), format!("volume-{volume}"), store)
                })
                .collect(),
            ledger: Rc::clone(&self.ledger) as Rc<dyn block::Ledger>,
            dialer: Rc::new(way()),
            clock: Rc::new(way()),
            generations: Rc::new(way()),
            spawn: Rc::new(move |task| {
                if let (Some(life), Some(scene)) = (spawner.0.upgrade(), spawner.1.upgrade()) {
                    life.spawn(&scene, task);
                }
            }),
            notes: Rc::new(move |note| {
                if let Some(scene) = noted.upgrade() {
                    scene.on_note(gateway, &note);
                }
            }),
            host_boot: [scene.places[gateway].kernel.get(); 16],
            heartbeat: scene.heartbeat,
            journals: Journals::in_memory(JournalLimits::default()),
        }
    }

    pub(super) fn group(&self) -> Option<Rc<Group>> {
        self.group.get().filter(|_| self.is_alive()).cloned()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.tasks.are_alive()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.tasks.are_paused()
    }

    pub(super) fn pause(&self, paused: bool) {
        self.tasks.pause(paused);
    }

    pub(super) fn kill(&self) {
        self.tasks.end();
        self.stores.iter().for_each(|store| store.abandon());
        self.ledger.abandon(false);
    }

    /// Starts a task that dies with the process.
    pub(super) fn spawn(&self, scene: &Rc<Scene>, task: LocalFuture<()>) {
        self.tasks.spawn(scene, task);
    }
}

/// What a process is given to reach what is around it.
struct Way {
    me: Weak<Life>,
    scene: Weak<Scene>,
}

impl Generations for Way {
    fn next(&self) -> Generation {
        let count = self.scene.upgrade().map_or(0, |scene| scene.count());
        Generation::of(u128::from(count))
    }
}

impl Clock for Way {
    fn unix_ms(&self) -> u64 {
        crate::world::EPOCH_MS + self.scene.upgrade().map_or(0, |scene| scene.now_ms())
    }
}

impl Dialer for Way {
    fn dial(&self, gateway: GatewayId) -> LocalFuture<Result<Box<dyn Link>, LinkError>> {
        let both = self.me.upgrade().zip(self.scene.upgrade());
        Box::pin(async move {
            let Some((me, scene)) = both else { return Err(LinkError::Closed) };
            dial(&scene, &me, gateway).await
        })
    }
}

async fn dial(
    scene: &Rc<Scene>,
    me: &Rc<Life>,
    gateway: GatewayId,
) -> Result<Box<dyn Link>, LinkError> {
    let to = of_id(gateway).ok_or_else(|| LinkError::Io("nobody is called so".to_owned()))?;
    let between = [me.gateway, to];
    tokio::time::sleep(scene.net.path(me.gateway, to).latency * 2).await;
    if scene.net.is_stalled(between) {
        // Nobody answers and nobody refuses.
        std::future::pending::<()>().await;
    }
    let peer = scene.life(to).filter(|_| !scene.net.is_refusing(between));
    let peer = peer.ok_or_else(|| LinkError::Io("unreachable".to_owned()))?;
    let (ours, theirs) = scene.net.connect(between);
    let hello = hello(&peer.identity);
    let acceptor = Rc::clone(&peer);
    peer.spawn(
        scene,
        Box::pin(async move {
            let Ok(mut link) = link::greet(theirs, &hello).await else { return };
            let Ok(Message::Open(open)) = link.receive_one().await else { return };
            if let Some(group) = acceptor.group() {
                group.accept(open, Box::new(link));
            }
        }),
    );
    Ok(Box::new(link::greet(ours, &self::hello(&me.identity)).await?))
}

fn hello(identity: &Identity) -> Hello {
    let versions = link::Versions::SPOKEN;
    Hello {
        identity: identity.clone(),
        version_min: versions.min,
        version_max: versions.max,
        release: "sim".to_owned(),
    }
}
