//! One start of a gateway: its tasks, its group, and its death.
//!
//! Invariant: after [`Process::kill`] nothing of it runs: every future is dropped there and then,
//! as `SIGKILL` does it, and what it had asked of its disks happens afterwards or never.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;

use block::{GatewayId, Generation, Hello, Identity, Link, LinkError, Message, Store};
use mirror::{Clock, Dialer, Generations, Group, LocalFuture, Parts};

use crate::slow::SlowStore;
use crate::world::{GROUP, World};

/// One start of a gateway.
pub(crate) struct Process {
    /// Counts starts, over both sites.
    pub(crate) number: u64,
    pub(crate) site: usize,
    pub(crate) identity: Identity,
    group: OnceCell<Rc<Group>>,
    stores: Vec<Rc<SlowStore>>,
    tasks: RefCell<Vec<Slot>>,
    alive: Cell<bool>,
    /// How many changes the group counted as unprotected, and when that last grew.
    pub(crate) unprotected: Cell<(u64, Option<u64>)>,
}

type Slot = Rc<RefCell<Option<LocalFuture<()>>>>;

impl Process {
    /// Starts the gateway of a site.
    pub(crate) fn start(world: &Rc<World>, site: usize) -> Rc<Self> {
        let state = &world.sites[site];
        let number = world.count();
        state.boots.set(state.boots.get() + 1);
        let boot = block::BootId::of(u128::from(number));
        let identity = Identity { gateway: state.gateway, boot, site: state.name.to_owned() };
        let mut stores = Vec::new();
        for platter in &state.platters {
            platter.reopen();
            let inner = world.sabotage.borrow().store(Rc::clone(platter) as Rc<dyn Store>);
            let inner = world.trace_store(site, stores.len(), inner);
            stores.push(SlowStore::new(inner, Rc::clone(&state.pace), Rc::clone(&world.rng)));
        }
        let process = Rc::new(Self {
            number,
            site,
            identity,
            group: OnceCell::new(),
            stores,
            tasks: RefCell::default(),
            alive: Cell::new(true),
            unprotected: Cell::new((0, None)),
        });
        for store in &process.stores {
            process.spawn(world, Box::pin(Rc::clone(store).serve()));
        }
        process.spawn(world, Box::pin(Rc::clone(&state.ledger).serve()));
        let group = Group::open(process.parts(world));
        match group {
            Ok(group) => drop(process.group.set(group)),
            Err(error) => world.fail("P10", format!("{} cannot open: {error}", state.name)),
        }
        process
    }

    fn parts(self: &Rc<Self>, world: &Rc<World>) -> Parts {
        let state = &world.sites[self.site];
        let names = world.volumes.iter().enumerate();
        let spawner = (Rc::downgrade(self), Rc::downgrade(world));
        let (noted, number, site) = (Rc::downgrade(world), self.number, self.site);
        Parts {
            identity: self.identity.clone(),
            group: GROUP,
            volumes: names
                .map(|(index, id)| {
                    let store = Rc::clone(&self.stores[index]) as Rc<dyn Store>;
                    (*id, format!("volume-{index}"), store)
                })
                .collect(),
            ledger: Rc::clone(&state.ledger) as Rc<dyn block::Ledger>,
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
            journals: mirror::Journals::in_memory(mirror::JournalLimits::default()),
        }
    }

    /// The group, while the process lives.
    pub(crate) fn group(&self) -> Option<Rc<Group>> {
        self.group.get().filter(|_| self.alive.get()).cloned()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Starts a task that dies with the process.
    pub(crate) fn spawn(self: &Rc<Self>, world: &Rc<World>, task: LocalFuture<()>) {
        if !self.alive.get() {
            return;
        }
        let slot: Slot = Rc::new(RefCell::new(Some(task)));
        {
            let mut tasks = self.tasks.borrow_mut();
            tasks.retain(|task| Rc::strong_count(task) > 1 || task.borrow().is_some());
            tasks.push(Rc::clone(&slot));
        }
        let watch = Rc::downgrade(world);
        world.spawn(poll_fn(move |context| {
            let Some(mut task) = slot.borrow_mut().take() else { return Poll::Ready(()) };
            if let Some(world) = watch.upgrade() {
                world.note_poll();
            }
            match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
                Ok(Poll::Pending) => {
                    *slot.borrow_mut() = Some(task);
                    Poll::Pending
                }
                Ok(Poll::Ready(())) => Poll::Ready(()),
                Err(panic) => {
                    if let Some(world) = watch.upgrade() {
                        world.fail("P10", format!("panic: {}", crate::world::words(&*panic)));
                    }
                    Poll::Ready(())
                }
            }
        }));
    }

    /// Ends the process as `SIGKILL` does.
    pub(crate) fn kill(&self, world: &World) {
        self.alive.set(false);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let futures: Vec<_> = tasks.iter().filter_map(|slot| slot.borrow_mut().take()).collect();
        drop(futures);
        self.stores.iter().for_each(|store| store.abandon());
        world.sites[self.site].ledger.abandon();
    }
}

struct Counted(std::rc::Weak<World>);

impl Generations for Counted {
    fn next(&self) -> Generation {
        let world = self.0.upgrade();
        Generation::of(world.map_or(0, |world| u128::from(world.count())))
    }
}

struct SiteClock {
    site: usize,
    world: std::rc::Weak<World>,
}

impl Clock for SiteClock {
    fn unix_ms(&self) -> u64 {
        let Some(world) = self.world.upgrade() else { return 0 };
        let jumped = 1_000_000_000_000_u64 + world.sites[self.site].clock_jump_ms.get();
        jumped + world.now_ms()
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
    tokio::time::sleep(world.net.path().latency * 2).await;
    if world.net.is_stalled() {
        // Nobody answers and nobody refuses.
        std::future::pending::<()>().await;
    }
    let peer = world.sites.iter().position(|site| site.gateway == gateway);
    let peer = peer.and_then(|site| world.process(site));
    let Some(peer) = peer.filter(|_| !world.net.is_refusing()) else {
        return Err(LinkError::Io("unreachable".to_owned()));
    };
    let (first, second) = world.net.connect();
    let (ours, theirs) = if me.site == 0 { (first, second) } else { (second, first) };
    let hello = hello(&peer.identity);
    let acceptor = Rc::clone(&peer);
    let place = Rc::downgrade(world);
    peer.spawn(
        world,
        Box::pin(async move {
            let Ok(mut link) = link::greet(theirs, &hello).await else { return };
            let Ok(Message::Open(open)) = link.receive_one().await else { return };
            let Some(world) = place.upgrade() else { return };
            let link = world.trace_link(acceptor.site, Box::new(link));
            if let Some(group) = acceptor.group() {
                group.accept(open, link);
            }
        }),
    );
    let link = link::greet(ours, &self::hello(&me.identity)).await?;
    let link = world.sabotage.borrow().dialed(Box::new(link), world.count());
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
