//! Two sites in one process, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BootId, Completions, Extent, GatewayId, Generation, Geometry, GroupId, Identity,
    IoError, Ledger, Link, LinkError, Message, Op, Quality, Request, Segment, SessionId,
    SnapshotId, Store, Ticket, Volume, VolumeId,
};
use bytes::Bytes;
use store::memory::MemoryStore;
use tokio::task::{AbortHandle, LocalSet};
use tokio_util::sync::CancellationToken;
use twinspan_mirror::{
    Command, Dialer, Generations, Group, GroupStatus, HeartbeatTimes, JournalLimits, Journals,
    LocalFuture, Parts, Phase, Policy, Refusal, found_holding, found_primary, found_secondary,
};

use crate::link::{Cutter, Line, pair};
use crate::mortal::{Life, MortalLedger, MortalStore};
use crate::parts::{Counted, MemoryLedger, VirtualClock, spawn_local};

const GROUP: GroupId = GroupId::of(1);
/// Two volumes: what is one point in time is so over both.
pub(crate) const VOLUMES: [VolumeId; 2] = [VolumeId::of(2), VolumeId::of(4)];

pub(crate) fn extent(offset: u64, len: u64) -> Extent {
    Extent::new(offset, len).unwrap()
}

pub(crate) fn bytes(fill: u8, len: usize) -> Bytes {
    Bytes::from(vec![fill; len])
}

#[derive(Default)]
struct Net {
    cut: Cell<bool>,
    line: Cell<Line>,
    cutters: RefCell<Vec<Cutter>>,
    groups: RefCell<BTreeMap<GatewayId, Rc<Group>>>,
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
            let Some(peer) = peer.filter(|_| !net.cut.get()) else {
                return Err(LinkError::Io("unreachable".to_owned()));
            };
            let (ours, mut theirs, cutter) = pair(me, peer.identity().clone(), net.line.get());
            net.cutters.borrow_mut().push(cutter);
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
#[derive(Default)]
pub(crate) struct World {
    net: Rc<Net>,
    pub(crate) journal: Cell<JournalLimits>,
    /// How often the power went, at any site: a start after that is one of another kernel.
    power_losses: Cell<u8>,
}

/// One gateway with its copy.
pub(crate) struct Site {
    identity: Identity,
    stores: [Rc<MemoryStore>; 2],
    mortal: [Rc<MortalStore>; 2],
    pub(crate) life: Rc<Life>,
    ledger: Rc<MemoryLedger>,
    generations: Rc<Counted>,
    group: Rc<Group>,
    tasks: Rc<RefCell<Vec<AbortHandle>>>,
}

impl World {
    /// Runs a test in virtual time.
    pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Self) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test(Self::default()));
    }

    /// How links that are made from now on are.
    pub(crate) fn line(&self, line: Line) {
        self.net.line.set(line);
    }

    fn site(&self, number: u128, name: &str, record: (String, Option<Bytes>)) -> Site {
        let geometry = Geometry::new(Site::BYTES).unwrap();
        let identity = Identity {
            gateway: GatewayId::of(number),
            boot: BootId::of(number),
            site: name.to_owned(),
        };
        let ledger = Rc::new(MemoryLedger::default());
        ledger.put(vec![record], Ticket::ignored());
        let generations = Rc::new(Counted(Cell::new(number * 1_000_000)));
        let stores = [MemoryStore::new(geometry), MemoryStore::new(geometry)];
        Site::open(identity, stores, ledger, generations, self)
    }

    pub(crate) fn two_sites(&self) -> (Site, Site) {
        let first = Generation::of(77);
        (
            self.site(1, "east", found_primary(GROUP, "orders", VOLUMES.to_vec(), first)),
            self.mirror(2, "west"),
        )
    }

    /// A site with nothing of the group yet.
    pub(crate) fn mirror(&self, number: u128, name: &str) -> Site {
        self.site(number, name, found_secondary(GROUP, "orders", VOLUMES.to_vec()))
    }

    /// A primary, and a site that was told that it holds the same.
    pub(crate) fn holding(&self) -> (Site, Site) {
        let first = Generation::of(77);
        (
            self.site(1, "east", found_primary(GROUP, "orders", VOLUMES.to_vec(), first)),
            self.site(2, "west", found_holding(GROUP, "orders", VOLUMES.to_vec())),
        )
    }

    pub(crate) async fn mirrored(&self) -> (Site, Site) {
        let (east, west) = self.two_sites();
        east.mirror_to(&west, Policy::default()).await.unwrap();
        east.until_equivalent().await;
        (east, west)
    }

    /// Two sites whose session is in this mode, with its first point at the mirror.
    pub(crate) async fn behind(&self, policy: Policy) -> (Site, Site) {
        let (east, west) = self.two_sites();
        east.mirror_to(&west, policy).await.unwrap();
        west.until(|status| status.quality == Quality::Consistent).await;
        self.pass_ms(50).await;
        (east, west)
    }

    pub(crate) async fn pass_ms(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    pub(crate) fn cut(&self) {
        self.net.cut.set(true);
        self.net.cutters.borrow_mut().drain(..).for_each(|cutter| cutter.cut());
    }

    pub(crate) fn heal(&self) {
        self.net.cut.set(false);
    }

    pub(crate) async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Acts out a kill and a restart: the copy and the ledger stay, links break.
    pub(crate) fn restart(&self, site: Site) -> Site {
        self.cut();
        let site = self.restart_uncut(site);
        self.heal();
        site
    }

    /// The same after its machine was without power.
    pub(crate) fn restart_after_power_loss(&self, site: Site) -> Site {
        self.power_losses.set(self.power_losses.get() + 1);
        self.restart(site)
    }

    /// The death of one gateway: nobody reaches it before it is restarted.
    pub(crate) fn kill(&self, site: &Site) {
        site.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        self.net.groups.borrow_mut().remove(&site.identity.gateway);
    }

    pub(crate) fn restart_uncut(&self, site: Site) -> Site {
        self.kill(&site);
        let Site { identity, stores, ledger, generations, group, .. } = site;
        drop(group);
        stores.iter().for_each(|store| store.reopen());
        Site::open(identity, stores, ledger, generations, self)
    }
}

impl Site {
    pub(crate) const BYTES: u64 = 16 << 20;

    fn open(
        identity: Identity,
        stores: [Rc<MemoryStore>; 2],
        ledger: Rc<MemoryLedger>,
        generations: Rc<Counted>,
        world: &World,
    ) -> Self {
        let net = &world.net;
        let life = Rc::new(Life::default());
        let mortal = stores.each_ref().map(|s| MortalStore::new(Rc::clone(s), Rc::clone(&life)));
        let volume = |at: usize, name: &str| {
            (VOLUMES[at], name.to_owned(), Rc::clone(&mortal[at]) as Rc<dyn Store>)
        };
        let tasks: Rc<RefCell<Vec<AbortHandle>>> = Rc::default();
        let tracked = Rc::clone(&tasks);
        let group = Group::open(Parts {
            identity: identity.clone(),
            group: GROUP,
            volumes: vec![volume(0, "orders"), volume(1, "journal")],
            ledger: Rc::new(MortalLedger(Rc::clone(&ledger), Rc::clone(&life))),
            dialer: Rc::new(NetDialer { me: identity.clone(), net: Rc::clone(net) }),
            clock: Rc::new(VirtualClock(tokio::time::Instant::now())),
            generations: Rc::clone(&generations) as Rc<dyn Generations>,
            spawn: Rc::new(move |task| {
                tracked.borrow_mut().push(spawn_local(task).abort_handle());
            }),
            notes: Rc::new(|_| {}),
            host_boot: [1 + world.power_losses.get(); 16],
            heartbeat: HeartbeatTimes::default(),
            companions: None,
            journals: Journals::in_memory(world.journal.get()),
            copiers: twinspan_mirror::Copiers::default(),
        })
        .unwrap();
        net.groups.borrow_mut().insert(identity.gateway, Rc::clone(&group));
        Self { identity, stores, mortal, life, ledger, generations, group, tasks }
    }

    pub(crate) async fn mirror_to(&self, other: &Self, policy: Policy) -> Result<(), Refusal> {
        self.command(Command::AddLeg {
            gateway: other.identity.gateway,
            holds_content: false,
            site: other.identity.site.clone(),
            sessions: vec![SessionId::of(5), SessionId::of(6)],
            policy,
        })
        .await
    }

    /// Mirrors to a site that is said to hold the same.
    pub(crate) async fn compare_with(&self, other: &Self) -> Result<(), Refusal> {
        self.command(Command::AddLeg {
            gateway: other.identity.gateway,
            site: other.identity.site.clone(),
            sessions: vec![SessionId::of(5), SessionId::of(6)],
            policy: Policy::default(),
            holds_content: true,
        })
        .await
    }

    pub(crate) async fn mirror_to_gateway(&self, number: u128) -> Result<(), Refusal> {
        self.command(Command::AddLeg {
            gateway: GatewayId::of(number),
            holds_content: false,
            site: format!("site-{number}"),
            sessions: vec![SessionId::of(number), SessionId::of(number + 100)],
            policy: Policy::default(),
        })
        .await
    }

    pub(crate) async fn relay_to_gateway(&self, number: u128) -> Result<(), Refusal> {
        self.command(Command::AddLeg {
            gateway: GatewayId::of(number),
            site: format!("site-{number}"),
            sessions: vec![SessionId::of(number), SessionId::of(number + 100)],
            policy: Policy { mode: block::Mode::Stack, ..Policy::default() },
            holds_content: false,
        })
        .await
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Refusal> {
        self.group.command(command).await
    }

    pub(crate) fn write_down(&self, journal: Rc<dyn block::WriteJournal>) {
        self.group.set_write_journal(Some(journal));
    }

    pub(crate) async fn set_attributes(&self, bytes: &'static [u8]) -> Result<(), IoError> {
        self.group.set_attributes(VOLUMES[0], Bytes::from_static(bytes)).await
    }

    pub(crate) fn attributes(&self) -> Option<Bytes> {
        self.group.attributes(VOLUMES[0])
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.group.status()
    }

    pub(crate) fn hosts(&self) -> CancellationToken {
        self.group.hosts()
    }

    pub(crate) async fn until_equivalent(&self) {
        for _ in 0..1000 {
            let legs = self.status().legs;
            if legs.iter().any(|leg| leg.phase == Phase::Equivalent) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not Equivalent after 50 s: {:#?}", self.status());
    }

    pub(crate) async fn until(&self, seen: impl Fn(&GroupStatus) -> bool) {
        for _ in 0..4000 {
            if seen(&self.status()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not seen in 200 s: {:#?}", self.status());
    }

    /// Changes the policy of the only leg.
    pub(crate) async fn set(&self, change: impl FnOnce(&mut Policy)) -> Result<(), Refusal> {
        let leg = &self.status().legs[0];
        let (leg, mut policy) = (leg.leg, leg.policy.clone());
        change(&mut policy);
        self.command(Command::SetPolicy { leg, policy }).await
    }

    /// Stops in good order.
    pub(crate) async fn close(&self) -> Result<(), IoError> {
        self.group.close().await
    }

    /// The first volume, as a host has it.
    pub(crate) fn volume(&self) -> Rc<dyn Volume> {
        self.group.volume(VOLUMES[0]).unwrap()
    }

    /// Keeps changes back at the store, or lets them through.
    pub(crate) fn hold(&self, hold: bool) {
        self.mortal.iter().for_each(|store| store.hold(hold));
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.stores.iter().map(|store| store.snapshots().len()).sum()
    }

    /// What is kept of the first volume in a snapshot of this point.
    pub(crate) async fn kept_content(&self, snapshot: SnapshotId) -> Bytes {
        self.kept_content_of(0, snapshot).await
    }

    pub(crate) async fn kept_content_of(&self, at: usize, snapshot: SnapshotId) -> Bytes {
        let volume = self.stores[at].open_snapshot(snapshot).unwrap();
        let queue = Completions::new();
        let op = Op::Read(extent(0, Self::BYTES));
        volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
        poll_fn(|context| queue.poll_ready(context)).await;
        let mut answers = Vec::new();
        queue.take(&mut answers);
        joined(answers.remove(0).result.unwrap())
    }

    pub(crate) fn start(&self, op: Op) -> impl Future<Output = Result<Answer, IoError>> + use<> {
        self.start_on(0, op)
    }

    pub(crate) fn start_on(
        &self,
        volume: usize,
        op: Op,
    ) -> impl Future<Output = Result<Answer, IoError>> + use<> {
        let volume = self.group.volume(VOLUMES[volume]).unwrap();
        let queue = Completions::new();
        volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
        async move {
            poll_fn(|context| queue.poll_ready(context)).await;
            let mut answers = Vec::new();
            queue.take(&mut answers);
            answers.remove(0).result
        }
    }

    /// The n-th of a row of writes that depend on each other: block n, of one volume and the other
    /// in turn.
    pub(crate) async fn row(&self, n: u64) -> Result<(), IoError> {
        let volume = usize::try_from(n % 2).unwrap();
        let op = Op::Write(extent(n * 4096, 4096), bytes(n as u8 | 1, 4096));
        self.start_on(volume, op).await.map(|_| ())
    }

    /// How many writes of the row are here, from the first on. Panics when one is missing before
    /// another that came later: then this is no point in time.
    pub(crate) fn row_here(&self, of: u64) -> u64 {
        let here = |n: &u64| {
            let volume = usize::try_from(n % 2).unwrap();
            self.stores[volume].content(extent(n * 4096, 4096)) == bytes(*n as u8 | 1, 4096)
        };
        let first = (0..of).take_while(here).count() as u64;
        for n in first..of {
            let volume = usize::try_from(n % 2).unwrap();
            let content = self.stores[volume].content(extent(n * 4096, 4096));
            assert_eq!(content, bytes(0, 4096), "write {n} is here and {first} is not");
        }
        first
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        let content = |site: &Self, at: usize| site.stores[at].content(extent(0, Self::BYTES));
        (0..2).all(|at| content(self, at) == content(other, at))
    }

    pub(crate) async fn write(&self, offset: u64, fill: u8, len: usize) -> Result<(), IoError> {
        let op = Op::Write(extent(offset, len as u64), bytes(fill, len));
        self.start(op).await.map(|_| ())
    }

    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        self.start(Op::Flush).await.map(|_| ())
    }

    pub(crate) async fn read(&self, offset: u64, len: u64) -> Result<Bytes, IoError> {
        self.start(Op::Read(extent(offset, len))).await.map(joined)
    }

    pub(crate) fn content(&self, offset: u64, len: u64) -> Bytes {
        self.stores[0].content(extent(offset, len))
    }

    /// Changes the copy behind the gateway's back.
    pub(crate) fn scribble(&self, offset: u64, fill: u8, len: usize) {
        let op = Op::Write(extent(offset, len as u64), bytes(fill, len));
        self.stores[0].submit(&mut vec![Request { op, fua: false, ticket: Ticket::ignored() }]);
    }
}

fn joined(answer: Answer) -> Bytes {
    let Answer::Read(segments) = answer else { panic!("a read is answered with content") };
    let mut out = Vec::new();
    for segment in segments {
        match segment {
            Segment::Data(data) => out.extend_from_slice(&data),
            Segment::Zero(len) => out.resize(out.len() + len as usize, 0),
        }
    }
    Bytes::from(out)
}
