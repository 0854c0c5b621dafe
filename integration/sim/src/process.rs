//! One start of a gateway: its tasks, its group, and its death.
//!
//! Invariant: after [`Process::kill`] nothing of it runs: every future is dropped there and then,
//! as `SIGKILL` does it, and what it had asked of its disks happens afterwards or never.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{GatewayId, Generation, Hello, Identity, LegId, Link, LinkError, Message, Store};
use mirror::{Clock, Dialer, Generations, Group, LocalFuture, Parts};

use crate::babble::Babble;
use crate::delta::Meter;
use crate::membership;
use crate::sabotage::Sabotage;
use crate::slow::{SlowLedger, SlowStore};
use crate::spill::SimSpill;
use crate::tap::{Ear, Tapped};
use crate::tasks::Tasks;
use crate::world::{EPOCH_MS, GROUP, World};

/// One start of a gateway.
pub(crate) struct Process {
    /// Counts starts, over all sites.
    pub(crate) number: u64,
    pub(crate) site: usize,
    pub(crate) identity: Identity,
    group: OnceCell<Rc<Group>>,
    stores: Vec<Rc<SlowStore>>,
    ledger: Rc<SlowLedger>,
    tasks: Rc<Tasks>,
    /// How many changes the group counted as unprotected, and when that last grew.
    pub(crate) unprotected: Cell<(u64, Option<u64>)>,
    /// When it lost a mirror last.
    pub(crate) lost_ms: Cell<Option<u64>>,
    /// Volumes that left the group: whoever opens them again opens them anew.
    left: RefCell<Vec<usize>>,
    /// It closed its group to follow a change of members.
    follows: Cell<bool>,
    /// When it latched its copy.
    pub(crate) latched_ms: Cell<Option<u64>>,
    /// The sites of the legs, as they were dialled.
    legs: RefCell<BTreeMap<LegId, usize>>,
}

impl Process {
    /// Starts the gateway of a site.
    pub(crate) fn start(world: &Rc<World>, site: usize) -> Result<Rc<Self>, String> {
        let state = &world.sites[site];
        let number = world.count();
        let boot = block::BootId::of(u128::from(number));
        let identity = Identity { gateway: state.gateway, boot, site: state.name.to_owned() };
        if state.gone.iter().any(|gone| gone.get()) {
            return Err("a volume of the group is gone".to_owned());
        }
        let opened = state.disks.open().map_err(|error| format!("{error:#}"))?;
        let (pace, rng) = (|| Rc::clone(&state.pace), || Rc::clone(&world.rng));
        let stores = opened.stores.into_iter().enumerate().map(|(volume, inner)| {
            let found = inner.recovery();
            if !found.clean {
                world.note_active(site, volume, &found.active);
            }
            let inner = world.sabotage.store(inner);
            let inner = world.trace_store(site, volume, inner);
            SlowStore::new(inner, Rc::clone(&state.gone[volume]), pace(), rng())
        });
        let lies = world.sabotage == Sabotage::RecordsLate;
        let ledger = world.sabotage.ledger(opened.ledger);
        *state.members.borrow_mut() = membership::recorded(&*ledger, world.setup.founding);
        let process = Rc::new(Self {
            number,
            site,
            identity,
            group: OnceCell::new(),
            stores: stores.collect(),
            ledger: SlowLedger::new(ledger, pace(), rng(), lies),
            tasks: Tasks::new(),
            unprotected: Cell::new((0, None)),
            lost_ms: Cell::new(None),
            latched_ms: Cell::new(None),
            left: RefCell::default(),
            follows: Cell::new(false),
            legs: RefCell::default(),
        });
        for store in &process.stores {
            process.spawn(world, Box::pin(Rc::clone(store).serve()));
        }
        process.spawn(world, Box::pin(Rc::clone(&process.ledger).serve()));
        match Group::open_arbitrated(process.parts(world), world.arbitration(site)) {
            Ok(group) => drop(process.group.set(group)),
            Err(error) => {
                process.kill(world);
                state.disks.kill();
                return Err(error.to_string());
            }
        }
        Ok(process)
    }

    fn parts(self: &Rc<Self>, world: &Rc<World>) -> Parts {
        let state = &world.sites[self.site];
        let spawner = (Rc::downgrade(self), Rc::downgrade(world));
        let (noted, number, site) = (Rc::downgrade(world), self.number, self.site);
        Parts {
            // The one group of a site is alone on its gateway.
            copiers: mirror::Copiers::default(),
            identity: self.identity.clone(),
            group: GROUP,
            volumes: world
                .members(self.site)
                .into_iter()
                .map(|index| (world.volumes[index], format!("volume-{index}"), self.store(index)))
                .collect(),
            ledger: Rc::clone(&self.ledger) as Rc<dyn block::Ledger>,
            dialer: Rc::new(NetDialer { me: Rc::downgrade(self), world: Rc::downgrade(world) }),
            clock: Rc::new(SiteClock { site: self.site, world: Rc::downgrade(world) }),
            generations: Rc::new(Counted(Rc::downgrade(world))),
            spawn: Rc::new(move |task| {
                if let (Some(process), Some(world)) = (spawner.0.upgrade(), spawner.1.upgrade()) {
                    process.spawn(&world, task);
                }
            }),
            notes: Rc::new(move |note| {
                if let Some(world) = noted.upgrade() {
                    world.on_note(site, number, &note);
                }
            }),
            host_boot: state.host_boot.get().to_le_bytes(),
            heartbeat: world.heartbeat,
            companions: None,
            journals: mirror::Journals {
                limits: world.setup.journal,
                spill: Rc::new(SimSpill { world: Rc::downgrade(world), site: self.site }),
            },
        }
    }

    /// The group, while the process lives.
    pub(crate) fn group(&self) -> Option<Rc<Group>> {
        self.group.get().filter(|_| self.is_alive()).cloned()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.tasks.are_alive()
    }

    /// Starts a task that dies with the process.
    pub(crate) fn spawn(&self, world: &Rc<World>, task: LocalFuture<()>) {
        self.tasks.spawn(world, task);
    }

    /// Ends the process as `SIGKILL` does.
    pub(crate) fn kill(&self, world: &World) {
        self.tasks.end();
        if !world.sites[self.site].disks.vanished() {
            self.stores.iter().for_each(|store| store.abandon());
            // A failed sync is recorded within a moment. That the process dies in this moment too
            // is more than one fault, and the copy is then taken for what it was.
            self.ledger.abandon(world.sites[self.site].disks.sync_failed());
        }
    }

    /// Stops it, or lets it go on, as `SIGSTOP` and `SIGCONT` do.
    pub(crate) fn pause(&self, paused: bool) {
        self.tasks.pause(paused);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.tasks.are_paused()
    }

    /// The copies as the process sees them, for whoever gets past it.
    pub(crate) fn store(&self, volume: usize) -> Rc<dyn Store> {
        Rc::clone(&self.stores[volume]) as Rc<dyn Store>
    }

    pub(crate) fn ledger(&self) -> Rc<dyn block::Ledger> {
        Rc::clone(&self.ledger) as Rc<dyn block::Ledger>
    }

    /// A volume left the group: its store is closed.
    pub(crate) fn leaves(&self, volume: usize) {
        self.left.borrow_mut().push(volume);
    }

    pub(crate) fn has_left(&self, volume: usize) -> bool {
        self.left.borrow().contains(&volume)
    }

    /// Whether it closed its group to follow a change of members.
    pub(crate) fn is_following(&self) -> bool {
        self.follows.get()
    }

    /// Says whether it was not at that already.
    pub(crate) fn begins_to_follow(&self) -> bool {
        !self.follows.replace(true)
    }

    /// The site of a leg's mirror.
    pub(crate) fn leg_site(&self, leg: LegId) -> Option<usize> {
        self.legs.borrow().get(&leg).copied()
    }

    /// Notes where the legs lead.
    fn note_legs(&self, world: &World) {
        let Some(group) = self.group() else { return };
        for leg in group.status().legs {
            if let Some(site) = world.site_of(leg.gateway) {
                self.legs.borrow_mut().insert(leg.leg, site);
            }
        }
    }
}

struct Counted(std::rc::Weak<World>);

impl Generations for Counted {
    fn next(&self) -> Generation {
        let world = self.0.upgrade();
        Generation::of(world.map_or(0, |world| world.sabotage.name(world.count())))
    }
}

struct SiteClock {
    site: usize,
    world: std::rc::Weak<World>,
}

impl Clock for SiteClock {
    fn unix_ms(&self) -> u64 {
        let Some(world) = self.world.upgrade() else { return 0 };
        let ahead = world.sites[self.site].clock_ms.get();
        (EPOCH_MS + world.now_ms()).saturating_add_signed(ahead)
    }

    fn lock_ms(&self) -> u64 {
        let Some(world) = self.world.upgrade() else { return 0 };
        if world.sabotage == Sabotage::LocksByTheWall {
            return self.unix_ms();
        }
        world.lock_ms()
    }
}

struct NetDialer {
    me: std::rc::Weak<Process>,
    world: std::rc::Weak<World>,
}

impl Dialer for NetDialer {
    fn dial(&self, gateway: GatewayId) -> LocalFuture<Result<Box<dyn Link>, LinkError>> {
        let (me, world) = (self.me.upgrade(), self.world.upgrade());
        Box::pin(async move {
            let (Some(me), Some(world)) = (me, world) else { return Err(LinkError::Closed) };
            dial(&world, &me, gateway).await
        })
    }
}

async fn dial(
    world: &Rc<World>,
    me: &Rc<Process>,
    gateway: GatewayId,
) -> Result<Box<dyn Link>, LinkError> {
    me.note_legs(world);
    let unreachable = || LinkError::Io("unreachable".to_owned());
    let to = world.site_of(gateway).ok_or_else(unreachable)?;
    let between = [me.site, to];
    tokio::time::sleep(world.net.path(me.site, to).latency * 2).await;
    if world.net.is_stalled(between) {
        // Nobody answers and nobody refuses.
        std::future::pending::<()>().await;
    }
    let peer = world.process(to).filter(|_| !world.net.is_refusing(between));
    let peer = peer.ok_or_else(unreachable)?;
    let (ours, theirs) = world.net.connect(between);
    let hello = hello(&peer.identity);
    let (acceptor, from) = (Rc::clone(&peer), me.site);
    let place = Rc::downgrade(world);
    peer.spawn(
        world,
        Box::pin(async move {
            let Ok(mut link) = link::greet(theirs, &hello).await else { return };
            let Ok(Message::Open(open)) = link.receive_one().await else { return };
            let Some(world) = place.upgrade() else { return };
            let ear = Ear { world: Rc::downgrade(&world), site: acceptor.site };
            let babble = Babble { world: Rc::downgrade(&world), from };
            let link = Tapped::new(Box::new(link), babble);
            let link = Box::new(Tapped::new(Box::new(link), ear));
            let link = world.trace_link(acceptor.site, link);
            if !world.takes(&acceptor, &open, from) {
                return;
            }
            if let Some(group) = acceptor.group() {
                group.accept(world.sabotage.opened(open, &group), link);
            }
        }),
    );
    let link = link::greet(ours, &self::hello(&me.identity)).await?;
    let link = world.sabotage.dialed(Box::new(link), world);
    let babble = Babble { world: Rc::downgrade(world), from: to };
    let link = Box::new(Tapped::new(link, babble));
    let link = Box::new(Tapped::new(link, Meter::new(world, me.site, to)));
    Ok(world.trace_link(me.site, link))
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
