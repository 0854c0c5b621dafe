//! A listener, and a volume in memory on the same thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use block::{Extent, Geometry, IoError, Request, Run, Volume, VolumeId};
use store::MemoryStore;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use twinspan_iscsi::scsi::{Forgetful, Unit, UnitIdentity, UnitSettings};
use twinspan_iscsi::{
    Attachment, Capacity, Ending, InitiatorInfo, Listener, ListenerConfig, LoggedIn, Lun, More,
    Portal, Refusal, Sessions, TargetInfo, Targets, Told, serve,
};

pub(crate) const TARGET: &str = "iqn.t:disk";
/// A target with two disks, 0 and [`OTHER_LUN`].
pub(crate) const TWO: &str = "iqn.t:two";
pub(crate) const OTHER_LUN: u8 = 3;
/// A target with the second of these disks alone, as [`LONELY_LUN`].
pub(crate) const LONELY: &str = "iqn.t:lonely";
pub(crate) const LONELY_LUN: u8 = 5;
/// An initiator that may only read.
pub(crate) const READER: &str = "iqn.i:reader";
pub(crate) const BYTES: u64 = 16 << 20;

/// A volume that can be in doubt, or late.
pub(crate) struct Doubtful {
    volume: Rc<dyn Volume>,
    pub(crate) doubt: Cell<Option<IoError>>,
    /// Whether it keeps changes until it catches up.
    pub(crate) is_late: Cell<bool>,
    late: RefCell<Vec<Request>>,
    wakers: RefCell<Vec<Waker>>,
}

impl Doubtful {
    fn new(volume: Rc<dyn Volume>) -> Self {
        let (doubt, is_late) = (Cell::new(None), Cell::new(false));
        let (late, wakers) = (RefCell::default(), RefCell::default());
        Self { volume, doubt, is_late, late, wakers }
    }

    /// How many changes it has that are not done.
    pub(crate) fn late(&self) -> usize {
        self.late.borrow().len()
    }

    /// Does them, and is late no more.
    pub(crate) fn catch_up(&self) {
        self.is_late.set(false);
        self.volume.submit(&mut self.late.take());
        self.wakers.take().into_iter().for_each(Waker::wake);
    }
}

impl Volume for Doubtful {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        self.volume.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if self.is_late.get() {
            self.late.borrow_mut().extend(batch.extract_if(.., |request| request.op.is_change()));
        }
        match self.doubt.get() {
            Some(error) => batch.drain(..).for_each(|request| request.ticket.fail(error)),
            None => self.volume.submit(batch),
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.volume.layout(extent, limit)
    }

    fn poll_settled(&self, extent: Extent, context: &mut Context<'_>) -> Poll<()> {
        let is_of = |request: &Request| request.op.extent().is_some_and(|of| of.overlaps(extent));
        if !self.late.borrow().iter().any(is_of) {
            return Poll::Ready(());
        }
        self.wakers.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }
}

struct Only(mpsc::UnboundedSender<LoggedIn>, SocketAddr);

impl Only {
    fn target(&self, name: &str) -> TargetInfo {
        let portals = vec![Portal { address: self.1.to_string(), tag: 1 }];
        TargetInfo { name: name.to_owned(), portals }
    }
}

impl Targets for Only {
    fn list(&self, _: &InitiatorInfo) -> Vec<TargetInfo> {
        vec![self.target(TARGET)]
    }

    fn find(&self, name: &str, _: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        match name {
            TARGET | TWO | LONELY => Ok(self.target(name)),
            "iqn.t:away" => Err(Refusal::NotServed),
            _ => Err(Refusal::Unknown),
        }
    }

    fn seat(&self, connection: LoggedIn) {
        drop(self.0.send(connection));
    }
}

/// What a test has in its hands.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) volume: Rc<Doubtful>,
    /// The disk in front of it.
    pub(crate) unit: Rc<Unit>,
    /// The volume behind the other disk of [`TWO`].
    pub(crate) other: Rc<Doubtful>,
    pub(crate) other_unit: Rc<Unit>,
    /// Disks that are added to the sessions that there are.
    pub(crate) more: More,
    /// Stops the gateway's sessions.
    pub(crate) stop: CancellationToken,
    /// How sessions ended.
    pub(crate) endings: mpsc::UnboundedReceiver<Ending>,
}

/// A volume, and the disk in front of it.
fn disk(volume: u128) -> (Rc<Doubtful>, Rc<Unit>) {
    let store: Rc<dyn Volume> = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let under = Rc::new(Doubtful::new(store));
    let identity = UnitIdentity { volume: VolumeId::of(volume), target: TARGET.to_owned() };
    let seen: Rc<dyn Volume> = Rc::<Doubtful>::clone(&under);
    let unit = Unit::new(identity, seen, Rc::new(Forgetful), UnitSettings::alone()).unwrap();
    (under, unit)
}

/// Runs a test against a listener that is set up like this.
pub(crate) fn with<F: Future<Output = ()>>(
    set: impl FnOnce(&mut ListenerConfig),
    test: impl FnOnce(Rig) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut config = ListenerConfig::new("test", "127.0.0.1:0".parse().unwrap());
        set(&mut config);
        let shared = (Arc::new(Capacity::default()), Arc::new(Sessions::default()));
        let listener = Listener::bind(config, shared).unwrap();
        let address = listener.address();
        let (sender, mut seats) = mpsc::unbounded_channel();
        let (ended, endings) = mpsc::unbounded_channel();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let running = (tasks.clone(), CancellationToken::new());
        tasks.spawn(listener.run(Arc::new(Only(sender, address)), running));
        let (volume, unit) = disk(7);
        let (other, other_unit) = disk(8);
        let sessions = (tasks, stop.clone());
        let disks = [(&volume, &unit), (&other, &other_unit)].map(|(volume, unit)| {
            let under: Rc<dyn Volume> = Rc::<Doubtful>::clone(volume);
            (under, Rc::clone(unit))
        });
        let more = More::default();
        let grown = Rc::clone(&more);
        let seating = async move {
            while let Some(connection) = seats.recv().await {
                let numbers = match connection.target().name.as_str() {
                    TWO => [Some(0), Some(OTHER_LUN)],
                    LONELY => [None, Some(LONELY_LUN)],
                    _ => [Some(0), None],
                };
                let read_only = connection.initiator().name == READER;
                let luns = disks.iter().zip(numbers).filter_map(|((volume, unit), number)| {
                    let (volume, unit, number) = (Rc::clone(volume), Rc::clone(unit), number?);
                    let label = format!("disk-{number}");
                    Some(Lun { number, volume, unit, label, read_only })
                });
                let attachment = Attachment {
                    luns: luns.collect(),
                    more: Rc::clone(&grown),
                    portals: Told::default(),
                    stop: sessions.1.clone(),
                };
                let ended = ended.clone();
                sessions.0.spawn_local(async move {
                    let _told = ended.send(serve(connection, attachment).await);
                });
            }
        };
        tokio::select! {
            () = seating => {}
            () = test(Rig { address, volume, unit, other, other_unit, more, stop, endings }) => {}
        }
    });
}
