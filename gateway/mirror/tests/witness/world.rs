//! Sites and a witness in one process, in virtual time: links that are cut, sites that are paused,
//! clocks that jump, processes that die.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block::{
    Answer, BootId, Completions, Extent, GatewayId, Generation, Geometry, GroupId, Identity,
    IoError, Ledger, Link, LinkError, Message, Op, Request, Segment, SessionId, Store, Ticket,
    VolumeId, Witness,
};
use bytes::Bytes;
use store::memory::MemoryStore;
use tokio::task::{AbortHandle, LocalSet};
use tokio::time::Instant;
use twinspan_mirror::machine::{Note, Terms};
use twinspan_mirror::{
    Arbitration, Command, Dialer, Failover, Generations, Group, GroupStatus, HeartbeatTimes,
    JournalLimits, Journals, LocalFuture, Parts, Phase, Policy, Refusal, found_primary,
    found_secondary,
};
use witness::memory::{Faults, Later, MemoryWitness, Millis};

use crate::link::{Cutter, Line, pair};
use crate::parts::{Counted, MemoryLedger, VirtualClock, spawn_local};
use witness::memory::Lie;

pub(crate) const GROUP: GroupId = GroupId::of(1);
const VOLUME: VolumeId = VolumeId::of(2);
pub(crate) const BYTES: u64 = 16 << 20;
pub(crate) const HOLD_MS: u64 = 5_000;

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

/// Stops every task of a site, as SIGSTOP does.
#[derive(Default)]
pub(crate) struct Pause {
    is_on: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

struct Pausable {
    inner: LocalFuture<()>,
    pause: Rc<Pause>,
}

impl Future for Pausable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.pause.is_on.get() {
            self.pause.waiting.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}

/// The network between sites.
#[derive(Default)]
pub(crate) struct Net {
    cut: RefCell<Vec<(GatewayId, GatewayId)>>,
    cutters: RefCell<Vec<(GatewayId, GatewayId, Cutter)>>,
    groups: RefCell<BTreeMap<GatewayId, Rc<Group>>>,
}

impl Net {
    fn is_cut(&self, a: GatewayId, b: GatewayId) -> bool {
        self.cut.borrow().iter().any(|pair| *pair == (a, b) || *pair == (b, a))
    }
}

struct NetDialer {
    me: Identity,
    net: Rc<Net>,
}

impl Dialer for NetDialer {
    fn dial(&self, gateway: GatewayId) -> LocalFuture<Result<Box<dyn Link>, LinkError>> {
        let (me, net) = (self.me.clone(), Rc::clone(&self.net));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let peer = net.groups.borrow().get(&gateway).cloned();
            let Some(peer) = peer.filter(|_| !net.is_cut(me.gateway, gateway)) else {
                return Err(LinkError::Io("unreachable".to_owned()));
            };
            let (ours, mut theirs, cutter) =
                pair(me.clone(), peer.identity().clone(), Line::default());
            net.cutters.borrow_mut().push((me.gateway, gateway, cutter));
            spawn_local(async move {
                let mut first = Vec::new();
                if poll_fn(|context| theirs.poll_receive(context, &mut first)).await.is_ok()
                    && let Message::Open(open) = first.remove(0)
                {
                    peer.accept(open, Box::new(theirs));
                }
            });
            Ok(Box::new(ours) as Box<dyn Link>)
        })
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) net: Rc<Net>,
    pub(crate) witness: Rc<MemoryWitness>,
    pub(crate) lie: Lie,
    origin: Instant,
}

/// One gateway with its copy.
pub(crate) struct Site {
    pub(crate) identity: Identity,
    store: Rc<MemoryStore>,
    ledger: Rc<MemoryLedger>,
    generations: Rc<Counted>,
    group: Rc<Group>,
    tasks: Rc<RefCell<Vec<AbortHandle>>>,
    pub(crate) faults: Rc<Faults>,
    /// How far its clock has jumped, in milliseconds.
    jumped: Rc<Cell<u64>>,
    pause: Rc<Pause>,
    way: Rc<dyn Witness>,
    pub(crate) notes: Rc<RefCell<Vec<Note>>>,
}

impl World {
    /// Runs a test in virtual time.
    pub(crate) fn run<T, F: Future<Output = T>>(lie: Lie, test: impl FnOnce(Self) -> F) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let origin = Instant::now();
            let witness = MemoryWitness::new(Rc::new(move || millis(origin)));
            test(Self { net: Rc::default(), witness, lie, origin }).await
        })
    }

    pub(crate) fn site(&self, number: u128, name: &str) -> Site {
        let record = if number == 1 {
            found_primary(GROUP, "orders", vec![VOLUME], Generation::of(77))
        } else {
            found_secondary(GROUP, "orders", vec![VOLUME])
        };
        let identity = Identity {
            gateway: GatewayId::of(number),
            boot: BootId::of(number),
            site: name.to_owned(),
        };
        let ledger = Rc::new(MemoryLedger::default());
        ledger.put(vec![record], Ticket::ignored());
        let (faults, jumped) = (Rc::new(Faults::default()), Rc::new(Cell::new(0)));
        faults.travel.set(Duration::from_millis(2));
        let (origin, jump) = (self.origin, Rc::clone(&jumped));
        let now_ms: Millis = Rc::new(move || millis(origin) + jump.get());
        let later: Later = Rc::new(|after, what| {
            spawn_local(async move {
                tokio::time::sleep(after).await;
                what();
            });
        });
        let way = self.witness.way(now_ms, Rc::clone(&faults), later);
        let way = self.lie.told_to(identity.gateway, way, &self.witness);
        let site = Parked {
            store: MemoryStore::new(Geometry::new(BYTES).unwrap()),
            generations: Rc::new(Counted(Cell::new(number * 1_000_000))),
            pause: Rc::default(),
            notes: Rc::default(),
            identity,
            ledger,
            faults,
            jumped,
            way,
        };
        self.open(site)
    }

    fn open(&self, site: Parked) -> Site {
        let Parked { identity, store, ledger, generations, faults, jumped, pause, way, notes } =
            site;
        let tasks: Rc<RefCell<Vec<AbortHandle>>> = Rc::default();
        let (tracked, paused, told) = (Rc::clone(&tasks), Rc::clone(&pause), Rc::clone(&notes));
        let parts = Parts {
            identity: identity.clone(),
            group: GROUP,
            volumes: vec![(VOLUME, "orders".to_owned(), Rc::clone(&store) as Rc<dyn Store>)],
            ledger: Rc::clone(&ledger) as Rc<dyn Ledger>,
            dialer: Rc::new(NetDialer { me: identity.clone(), net: Rc::clone(&self.net) }),
            clock: Rc::new(VirtualClock(Instant::now())),
            generations: Rc::clone(&generations) as Rc<dyn Generations>,
            spawn: Rc::new(move |inner| {
                let task = Pausable { inner, pause: Rc::clone(&paused) };
                tracked.borrow_mut().push(spawn_local(task).abort_handle());
            }),
            notes: Rc::new(move |note| told.borrow_mut().push(note)),
            host_boot: [1; 16],
            heartbeat: HeartbeatTimes::default(),
            companions: None,
            journals: Journals::in_memory(JournalLimits::default()),
            copiers: twinspan_mirror::Copiers::default(),
        };
        let terms = Terms {
            gateway: identity.gateway,
            lease_ms: 6_000,
            hold_ms: HOLD_MS,
            failover_after_ms: 1_000,
        };
        let arbitration = Arbitration::Witness { witness: Rc::clone(&way), terms };
        let group = Group::open_arbitrated(parts, arbitration).unwrap();
        self.net.groups.borrow_mut().insert(identity.gateway, Rc::clone(&group));
        Site {
            identity,
            store,
            ledger,
            generations,
            group,
            tasks,
            faults,
            jumped,
            pause,
            way,
            notes,
        }
    }

    /// Two sites, mirrored, the mirror named by the witness and allowed to promote itself.
    pub(crate) async fn mirrored(&self) -> (Site, Site) {
        let (east, west) = (self.site(1, "east"), self.site(2, "west"));
        east.mirror_to(&west).await.unwrap();
        east.until_equivalent().await;
        (east, west)
    }

    pub(crate) fn cut(&self, a: &Site, b: &Site) {
        let (a, b) = (a.identity.gateway, b.identity.gateway);
        self.net.cut.borrow_mut().push((a, b));
        self.break_links(|x, y| (x, y) == (a, b) || (x, y) == (b, a));
    }

    fn break_links(&self, which: impl Fn(GatewayId, GatewayId) -> bool) {
        self.net.cutters.borrow_mut().retain(|(x, y, cutter)| {
            let breaks = which(*x, *y);
            if breaks {
                cutter.cut();
            }
            !breaks
        });
    }

    pub(crate) fn heal(&self) {
        self.net.cut.borrow_mut().clear();
    }

    pub(crate) async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Acts out a kill and a restart: the copy and the ledger stay, links break.
    pub(crate) fn restart(&self, site: Site) -> Site {
        let me = site.identity.gateway;
        self.break_links(|x, y| x == me || y == me);
        site.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        site.store.reopen();
        site.resume();
        self.open(Parked {
            identity: site.identity,
            store: site.store,
            ledger: site.ledger,
            generations: site.generations,
            faults: site.faults,
            jumped: site.jumped,
            pause: Rc::default(),
            way: site.way,
            notes: site.notes,
        })
    }
}

/// What survives a restart.
struct Parked {
    identity: Identity,
    store: Rc<MemoryStore>,
    ledger: Rc<MemoryLedger>,
    generations: Rc<Counted>,
    faults: Rc<Faults>,
    jumped: Rc<Cell<u64>>,
    pause: Rc<Pause>,
    way: Rc<dyn Witness>,
    notes: Rc<RefCell<Vec<Note>>>,
}

impl Site {
    pub(crate) async fn mirror_to(&self, other: &Self) -> Result<(), Refusal> {
        let number = other.identity.gateway.uuid().as_u128();
        self.command(Command::AddLeg {
            gateway: other.identity.gateway,
            holds_content: false,
            site: other.identity.site.clone(),
            sessions: vec![SessionId::of(50 + number)],
            policy: Policy { failover: Failover::Automatic, ..Policy::default() },
        })
        .await
    }

    /// What is said when the group is opened by a gateway that has no witness.
    pub(crate) fn reopened_without_witness(&self) -> String {
        let parts = Parts {
            identity: self.identity.clone(),
            group: GROUP,
            volumes: vec![(VOLUME, "orders".to_owned(), Rc::clone(&self.store) as Rc<dyn Store>)],
            ledger: Rc::clone(&self.ledger) as Rc<dyn Ledger>,
            dialer: Rc::new(NetDialer { me: self.identity.clone(), net: Rc::default() }),
            clock: Rc::new(VirtualClock(Instant::now())),
            generations: Rc::clone(&self.generations) as Rc<dyn Generations>,
            spawn: Rc::new(|_| {}),
            notes: Rc::new(|_| {}),
            host_boot: [1; 16],
            heartbeat: HeartbeatTimes::default(),
            companions: None,
            journals: Journals::in_memory(JournalLimits::default()),
            copiers: twinspan_mirror::Copiers::default(),
        };
        Group::open(parts).err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// Another volume is to join the group.
    pub(crate) async fn enlist(&self) -> Result<(), Refusal> {
        let store = MemoryStore::new(Geometry::new(BYTES).unwrap());
        let volume = (VolumeId::of(3), "more".to_owned(), store as Rc<dyn Store>);
        let sessions = (0..7).map(|number| SessionId::of(90 + number)).collect();
        self.group.enlist(volume, sessions, Vec::new()).await
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn command(&self, command: Command) -> Result<(), Refusal> {
        self.group.command(command).await
    }

    /// Gives a command and does not wait for its answer.
    pub(crate) fn spawn_command(&self, command: Command) {
        let group = Rc::clone(&self.group);
        spawn_local(async move { drop(group.command(command).await) });
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.group.status()
    }

    pub(crate) fn serves(&self) -> bool {
        self.group.is_serving() && !self.is_paused()
    }

    pub(crate) fn pause(&self) {
        self.pause.is_on.set(true);
    }

    pub(crate) fn resume(&self) {
        self.pause.is_on.set(false);
        self.pause.waiting.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_on.get()
    }

    pub(crate) fn jump(&self, millis: u64) {
        self.jumped.set(self.jumped.get() + millis);
    }

    pub(crate) fn is_equivalent(&self) -> bool {
        let legs = self.status().legs;
        !legs.is_empty() && legs.iter().all(|leg| leg.phase == Phase::Equivalent)
    }

    pub(crate) async fn until_equivalent(&self) {
        for _ in 0..2000 {
            if self.is_equivalent() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not Equivalent after 100 s: {:#?}", self.status());
    }

    fn start(&self, op: Op) -> impl Future<Output = Result<Answer, IoError>> + use<> {
        let volume = self.group.volume(VOLUME).unwrap();
        let queue = Completions::new();
        volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
        async move {
            poll_fn(|context| queue.poll_ready(context)).await;
            let mut answers = Vec::new();
            queue.take(&mut answers);
            answers.remove(0).result
        }
    }

    /// Writes one block with a value that is never 0.
    pub(crate) fn write(&self, block: u64) -> impl Future<Output = Result<(), IoError>> + use<> {
        let data = Bytes::from(vec![value(block); 4096]);
        let done = self.start(Op::Write(extent(block), data));
        async move { done.await.map(|_| ()) }
    }

    /// Whether the block holds what was written to it.
    pub(crate) fn read(&self, block: u64) -> impl Future<Output = Result<bool, IoError>> + use<> {
        let done = self.start(Op::Read(extent(block)));
        async move {
            let Answer::Read(segments) = done.await? else { return Err(IoError::Media) };
            let is_written = |segment: &Segment| match segment {
                Segment::Data(data) => data.iter().all(|byte| *byte == value(block)),
                Segment::Zero(_) => false,
            };
            Ok(segments.iter().all(is_written))
        }
    }

    /// The same, past the gateway.
    pub(crate) fn holds(&self, block: u64) -> bool {
        self.store.content(extent(block)).iter().all(|byte| *byte == value(block))
    }
}

fn extent(block: u64) -> Extent {
    Extent::new(block * 4096, 4096).unwrap()
}

fn value(block: u64) -> u8 {
    u8::try_from(block % 255).unwrap() + 1
}
