//! A server in this process: a listener thread, a shard thread, and a volume that can be told to
//! hold its answers back.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{Extent, Geometry, IoError, Op, Request, Run, Volume};
use store::MemoryStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use twinspan_nbd::{
    Attachment, Capacity, ClientInfo, Ending, ExportInfo, Exports, ListenAddress, Listener,
    ListenerConfig, Negotiated, Refusal, TlsPolicy, serve,
};

/// What a rig is made of.
pub(crate) struct Plan {
    pub(crate) bytes: u64,
    pub(crate) tls: TlsPolicy,
    pub(crate) connections_max: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) gateway_bytes: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            tls: TlsPolicy::Off,
            connections_max: 512,
            handshake_timeout: Duration::from_secs(10),
            gateway_bytes: 1 << 30,
        }
    }
}

/// What the tests and the shard thread share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Every operation that the volume was given: its kind, range and FUA.
    pub(crate) log: Mutex<Vec<String>>,
    /// Requests that the volume was given.
    pub(crate) submitted: AtomicUsize,
    /// How connections ended.
    pub(crate) endings: Mutex<Vec<Ending>>,
    hold: AtomicUsize,
}

/// Orders for the shard thread.
enum Order {
    Seat(Box<Negotiated>),
    Release,
}

pub(crate) struct Rig {
    pub(crate) unix: PathBuf,
    pub(crate) tcp: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
    shutdown: CancellationToken,
    orders: mpsc::UnboundedSender<Order>,
}

/// Reads at this offset fail in the medium.
pub(crate) const BAD_OFFSET: u64 = 7 << 20;

struct Volumes {
    store: Rc<MemoryStore>,
    shared: Arc<Shared>,
    held: RefCell<Vec<Request>>,
    failing: Cell<u64>,
}

impl Volume for Volumes {
    fn geometry(&self) -> Geometry {
        self.store.geometry()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        self.shared.submitted.fetch_add(batch.len(), Ordering::SeqCst);
        let mut log = self.shared.log.lock().unwrap();
        if log.len() < 1000 {
            log.extend(batch.iter().map(|request| {
                let kind = match &request.op {
                    Op::Read(_) => "read",
                    Op::Write(..) => "write",
                    Op::Zero { may_trim: true, .. } => "zero",
                    Op::Zero { may_trim: false, .. } => "fill",
                    Op::Trim(_) => "trim",
                    Op::Cache(_) => "cache",
                    Op::Flush => "flush",
                };
                let range = request.op.extent().map_or(String::new(), |e| format!(" {e:?}"));
                format!("{kind}{range}{}", if request.fua { " fua" } else { "" })
            }));
        }
        drop(log);
        if self.shared.hold.load(Ordering::SeqCst) != 0 {
            self.held.borrow_mut().append(batch);
            return;
        }
        let bad = |request: &Request| match &request.op {
            Op::Read(extent) => extent.offset() == self.failing.get(),
            _ => false,
        };
        if batch.iter().any(bad) {
            for request in batch.drain(..) {
                if bad(&request) {
                    request.ticket.fail(IoError::Checksum);
                } else {
                    self.store.submit(&mut vec![request]);
                }
            }
        }
        self.store.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.store.layout(extent, limit)
    }
}

struct Gateway {
    bytes: u64,
    orders: mpsc::UnboundedSender<Order>,
}

impl Exports for Gateway {
    fn list(&self, client: &ClientInfo) -> Vec<ExportInfo> {
        ["disk", "locked"].iter().filter_map(|name| self.find(name, client).ok()).collect()
    }

    fn find(&self, name: &str, _: &ClientInfo) -> Result<ExportInfo, Refusal> {
        let (name, read_only) = match name {
            "" | "disk" => ("disk", false),
            "locked" => ("locked", true),
            _ => return Err(Refusal::Unknown),
        };
        Ok(ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            bytes: self.bytes,
            read_only,
            bitmaps: Vec::new(),
            multi_conn: true,
        })
    }

    fn seat(&self, connection: Negotiated) {
        drop(self.orders.send(Order::Seat(Box::new(connection))));
    }
}

impl Rig {
    pub(crate) fn start(plan: Plan) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let unix =
            std::env::temp_dir().join(format!("nbd-rig-{}-{number}.sock", std::process::id()));
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let shutdown = CancellationToken::new();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (shard_shared, shard_stop) = (Arc::clone(&shared), stop.clone());
        let geometry = Geometry::new(plan.bytes).unwrap();
        std::thread::spawn(move || shard(geometry, &shard_shared, &shard_stop, inbox));
        let exports: Arc<dyn Exports> =
            Arc::new(Gateway { bytes: plan.bytes, orders: orders.clone() });
        let (address_out, address_in) = std::sync::mpsc::channel();
        let (path, end) = (unix.clone(), shutdown.clone());
        std::thread::spawn(move || listeners(&plan, path, &exports, (&end, &address_out)));
        let tcp = address_in.recv().unwrap();
        Self { unix, tcp, shared, stop, shutdown, orders }
    }

    /// From now on the volume keeps what it is given.
    pub(crate) fn hold(&self) {
        self.shared.hold.store(1, Ordering::SeqCst);
    }

    /// The volume answers what it kept, and holds nothing more.
    pub(crate) fn release(&self) {
        self.shared.hold.store(0, Ordering::SeqCst);
        drop(self.orders.send(Order::Release));
    }

    /// Waits until the volume was given so many requests.
    pub(crate) fn wait_submitted(&self, count: usize) {
        wait_for(|| self.shared.submitted.load(Ordering::SeqCst) >= count);
    }

    /// Waits for a connection to end, and says how.
    pub(crate) fn wait_ending(&self) -> Ending {
        wait_for(|| !self.shared.endings.lock().unwrap().is_empty());
        self.shared.endings.lock().unwrap().remove(0)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn wait_for(mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited ten seconds in vain");
}

fn shard(
    geometry: Geometry,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = TaskTracker::new();
    let volume = Rc::new(Volumes {
        store: MemoryStore::new(geometry),
        shared: Arc::clone(shared),
        held: RefCell::default(),
        failing: Cell::new(BAD_OFFSET),
    });
    tokio::task::LocalSet::new().block_on(&runtime, async {
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Release => volume.store.submit(&mut volume.held.take()),
                Order::Seat(connection) => {
                    let attachment = Attachment {
                        volume: Rc::clone(&volume) as Rc<dyn Volume>,
                        changes: None,
                        label: "disk".to_owned(),
                        stop: stop.clone(),
                    };
                    let shared = Arc::clone(shared);
                    tasks.spawn_local(async move {
                        let ending = serve(*connection, attachment).await;
                        shared.endings.lock().unwrap().push(ending);
                    });
                }
            }
        }
    });
}

fn listeners(
    plan: &Plan,
    path: PathBuf,
    exports: &Arc<dyn Exports>,
    (end, address_out): (&CancellationToken, &std::sync::mpsc::Sender<SocketAddr>),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let capacity = Arc::new(Capacity::new(1024, plan.gateway_bytes));
        let tasks = TaskTracker::new();
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let mut tcp = None;
        for address in [ListenAddress::Unix { path, mode: 0o600 }, any] {
            let config = ListenerConfig {
                tls: plan.tls.clone(),
                connections_max: plan.connections_max,
                handshake_timeout: plan.handshake_timeout,
                ..ListenerConfig::new("rig", address)
            };
            let listener = Listener::bind(config, Arc::clone(&capacity)).await.unwrap();
            tcp = tcp.or(listener.tcp_address());
            tasks.spawn(listener.run(Arc::clone(exports), tasks.clone(), end.clone()));
        }
        address_out.send(tcp.unwrap()).unwrap();
        tasks.close();
        tasks.wait().await;
    });
}
