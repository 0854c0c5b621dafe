//! Two sites in one process, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BootId, Completions, Extent, GatewayId, Generation, Geometry, GroupId, Identity,
    IoError, Ledger, Link, LinkError, Message, Op, Open, Request, SessionId, Store, Ticket, Volume,
    VolumeId,
};
use bytes::Bytes;
use store::memory::MemoryStore;
use tokio::task::{AbortHandle, LocalSet};
use twinspan_mirror::{
    Command, Dialer, Generations, Group, GroupStatus, HeartbeatTimes, Leaver, LocalFuture, Parts,
    Phase, Policy, Refusal, found_primary, found_secondary, regroup_mirror,
};

use crate::link::{Cutter, Line, pair};
use crate::parts::{Counted, MemoryLedger, VirtualClock, spawn_local};

const GROUP: GroupId = GroupId::of(1);
const VOLUME: VolumeId = VolumeId::of(2);
/// A volume that joins later.
const SECOND: VolumeId = VolumeId::of(3);
/// The group that a volume goes to when it leaves.
const OWN: GroupId = GroupId::of(4);

pub(crate) fn extent(offset: u64, len: u64) -> Extent {
    Extent::new(offset, len).unwrap()
}

pub(crate) fn bytes(fill: u8, len: usize) -> Bytes {
    Bytes::from(vec![fill; len])
}

#[derive(Default)]
struct Net {
    cut: Cell<bool>,
    cutters: RefCell<Vec<Cutter>>,
    groups: RefCell<BTreeMap<GatewayId, Rc<Group>>>,
    /// Offers of other members than the mirror has: a gateway changes them before it takes one.
    offers: RefCell<Vec<Open>>,
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
            let (ours, mut theirs, cutter) = pair(me, peer.identity().clone(), Line::default());
            net.cutters.borrow_mut().push(cutter);
            spawn_local(async move {
                let mut first = Vec::new();
                if poll_fn(|context| theirs.poll_receive(context, &mut first)).await.is_ok()
                    && let Message::Open(open) = first.remove(0)
                {
                    let members = peer.status().volumes;
                    let ours = members.iter().map(|volume| volume.volume);
                    if ours.eq(open.volumes.iter().map(|offer| offer.volume)) {
                        peer.accept(open, Box::new(theirs));
                    } else {
                        net.offers.borrow_mut().push(open);
                    }
                }
            });
            Ok(Box::new(ours) as Box<dyn Link>)
        })
    }
}

/// The world.
pub(crate) struct World {
    net: Rc<Net>,
}

/// One gateway with its copy.
pub(crate) struct Site {
    identity: Identity,
    store: Rc<MemoryStore>,
    /// The volume that joined later, if one did.
    second: Option<Rc<MemoryStore>>,
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
        LocalSet::new().block_on(&runtime, test(Self { net: Rc::default() }));
    }

    pub(crate) fn two_sites(&self) -> (Site, Site) {
        let geometry = Geometry::new(Site::BYTES).unwrap();
        let site = |number: u128, name: &str, record: (String, Option<Bytes>)| {
            let identity = Identity {
                gateway: GatewayId::of(number),
                boot: BootId::of(number),
                site: name.to_owned(),
            };
            let ledger = Rc::new(MemoryLedger::default());
            ledger.put(vec![record], Ticket::ignored());
            let generations = Rc::new(Counted(Cell::new(number * 1_000_000)));
            let stores = (MemoryStore::new(geometry), None);
            Site::open(identity, stores, ledger, generations, &self.net)
        };
        let first = Generation::of(77);
        (
            site(1, "east", found_primary(GROUP, "orders", vec![VOLUME], first)),
            site(2, "west", found_secondary(GROUP, "orders", vec![VOLUME])),
        )
    }

    pub(crate) async fn mirrored(&self) -> (Site, Site) {
        let (east, west) = self.two_sites();
        east.mirror_to(&west, Policy::default()).await.unwrap();
        east.until_equivalent().await;
        (east, west)
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

    pub(crate) fn restart_uncut(&self, site: Site) -> Site {
        let members = site.status().volumes.len();
        let Site { identity, store, second, ledger, generations, group, tasks } = site;
        tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        drop(group);
        store.reopen();
        second.iter().for_each(|second| second.reopen());
        let second = second.filter(|_| members > 1);
        let net = Rc::clone(&self.net);
        Site::open(identity, (store, second), ledger, generations, &net)
    }

    /// Does at the mirror what a gateway does with an offer of other members.
    pub(crate) async fn follow(&self, site: Site) -> Site {
        let offer = loop {
            if let Some(offer) = self.net.offers.borrow_mut().pop() {
                break offer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        site.group.close().await.unwrap();
        let key = Group::record_key(GROUP);
        let record = site.ledger.get(&key).unwrap().unwrap();
        let leaves = site.status().volumes.len() > offer.volumes.len();
        let leaver = Leaver { volume: SECOND, group: OWN, name: "second".to_owned() };
        let leavers: Vec<Leaver> = leaves.then_some(leaver).into_iter().collect();
        let records = regroup_mirror(&record, &offer, &leavers).unwrap();
        site.ledger.put(records, Ticket::ignored());
        let Site { identity, store, second, ledger, generations, group, tasks } = site;
        tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        drop(group);
        store.reopen();
        let second =
            second.or_else(|| Some(MemoryStore::new(Geometry::new(Site::SECOND_BYTES).unwrap())));
        second.iter().for_each(|second| second.reopen());
        let second = second.filter(|_| !leaves);
        Site::open(identity, (store, second), ledger, generations, &self.net)
    }
}

impl Site {
    pub(crate) const BYTES: u64 = 16 << 20;
    pub(crate) const SECOND_BYTES: u64 = 8 << 20;

    fn open(
        identity: Identity,
        (store, second): (Rc<MemoryStore>, Option<Rc<MemoryStore>>),
        ledger: Rc<MemoryLedger>,
        generations: Rc<Counted>,
        net: &Rc<Net>,
    ) -> Self {
        let tasks: Rc<RefCell<Vec<AbortHandle>>> = Rc::default();
        let tracked = Rc::clone(&tasks);
        let mut volumes = vec![(VOLUME, "orders".to_owned(), Rc::clone(&store) as Rc<dyn Store>)];
        if let Some(second) = &second {
            volumes.push((SECOND, "second".to_owned(), Rc::clone(second) as Rc<dyn Store>));
        }
        let group = Group::open(Parts {
            identity: identity.clone(),
            group: GROUP,
            volumes,
            ledger: Rc::clone(&ledger) as Rc<dyn Ledger>,
            copiers: twinspan_mirror::Copiers::default(),
            companions: None,
            journals: twinspan_mirror::Journals::in_memory(
                twinspan_mirror::JournalLimits::default(),
            ),
            dialer: Rc::new(NetDialer { me: identity.clone(), net: Rc::clone(net) }),
            clock: Rc::new(VirtualClock(tokio::time::Instant::now())),
            generations: Rc::clone(&generations) as Rc<dyn Generations>,
            spawn: Rc::new(move |task| {
                tracked.borrow_mut().push(spawn_local(task).abort_handle());
            }),
            notes: Rc::new(|_| {}),
            host_boot: [1; 16],
            heartbeat: HeartbeatTimes::default(),
        })
        .unwrap();
        net.groups.borrow_mut().insert(identity.gateway, Rc::clone(&group));
        Self { identity, store, second, ledger, generations, group, tasks }
    }

    /// A second volume, with something in it, joins the group.
    pub(crate) async fn enlist(&mut self) -> Result<(), Refusal> {
        let second = MemoryStore::new(Geometry::new(Self::SECOND_BYTES).unwrap());
        let op = Op::Write(extent(4096, 4096), bytes(9, 4096));
        second.submit(&mut vec![Request { op, fua: false, ticket: Ticket::ignored() }]);
        let joining = (SECOND, "second".to_owned(), Rc::clone(&second) as Rc<dyn Store>);
        let sessions = (0..8u128).map(|n| SessionId::of(60 + n)).collect();
        self.second = Some(second);
        self.group.enlist(joining, sessions, Vec::new()).await
    }

    /// It leaves.
    pub(crate) async fn dismiss(&self) -> Result<(), Refusal> {
        self.group.dismiss(SECOND, (OWN, "second".to_owned()), Vec::new()).await
    }

    /// Whether the ledger has a record of the group that it goes to.
    pub(crate) fn has_own_group(&self) -> bool {
        self.ledger.get(&Group::record_key(OWN)).unwrap().is_some()
    }

    /// The first volume's copy grows behind the gateway's back, as one whose primary never heard
    /// that it did.
    pub(crate) fn stretch(&self, by: u64) {
        let longer = self.store.geometry().bytes() + by;
        self.store.grow(longer, Ticket::ignored());
    }

    pub(crate) fn second_content(&self) -> Bytes {
        self.second.as_ref().unwrap().content(extent(0, Self::SECOND_BYTES))
    }

    pub(crate) async fn mirror_to(&self, other: &Self, policy: Policy) -> Result<(), Refusal> {
        self.command(Command::AddLeg {
            gateway: other.identity.gateway,
            site: other.identity.site.clone(),
            sessions: vec![SessionId::of(5)],
            policy,
            holds_content: false,
        })
        .await
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Refusal> {
        self.group.command(command).await
    }

    pub(crate) async fn close(&self) -> Result<(), IoError> {
        self.group.close().await
    }

    /// What the ledger says of the group.
    pub(crate) fn record(&self) -> Option<Bytes> {
        self.ledger.get(&Group::record_key(GROUP)).unwrap()
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.group.status()
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

    pub(crate) fn start(&self, op: Op) -> impl Future<Output = Result<Answer, IoError>> + use<> {
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

    pub(crate) async fn write(&self, offset: u64, fill: u8, len: usize) -> Result<(), IoError> {
        let op = Op::Write(extent(offset, len as u64), bytes(fill, len));
        self.start(op).await.map(|_| ())
    }

    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        self.start(Op::Flush).await.map(|_| ())
    }

    pub(crate) fn content(&self, offset: u64, len: u64) -> Bytes {
        self.store.content(extent(offset, len))
    }

    /// Changes the copy behind the gateway's back.
    pub(crate) fn scribble(&self, offset: u64, fill: u8, len: usize) {
        let op = Op::Write(extent(offset, len as u64), bytes(fill, len));
        self.store.submit(&mut vec![Request { op, fua: false, ticket: Ticket::ignored() }]);
    }
}
