//! Serves one volume in memory over iSCSI, to try initiators and to measure the protocol alone.
//!
//! ```text
//! serve_disk --tcp ADDR [--tcp2 ADDR] [--size BYTES] [--null] [--chap NAME SECRET]
//! ```
//!
//! The target is `iqn.2026-01.io.twinspan:memory`, its disk LUN 0. With `--null` it stores nothing
//! and reads one page over and over: the protocol without a store.
#![expect(clippy::print_stderr, reason = "a program for people at a terminal")]

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use block::{
    Answer, Extent, Geometry, IoError, Op, Request, Run, RunKind, Segment, Segments, Volume,
    VolumeId,
};
use bytes::Bytes;
use store::MemoryStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use twinspan_iscsi::scsi::{Forgetful, Unit, UnitIdentity, UnitSettings};
use twinspan_iscsi::{
    Attachment, Auth, Capacity, ChapUser, InitiatorInfo, Listener, ListenerConfig, LoggedIn, Lun,
    More, Portal, Refusal, Secret, Sessions, TargetInfo, Targets, Told, serve,
};

const TARGET: &str = "iqn.2026-01.io.twinspan:memory";

/// Forgets what is written.
struct Null(Geometry);

impl Volume for Null {
    fn geometry(&self) -> Geometry {
        self.0
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        static PAGE: [u8; 1 << 20] = [7; 1 << 20];
        for request in batch.drain(..) {
            let answer = match request.op {
                Op::Read(extent) => Answer::Read(read(extent, &PAGE)),
                Op::Write(..) | Op::Zero { .. } | Op::Trim(_) | Op::Cache(_) | Op::Flush => {
                    Answer::Done
                }
            };
            request.ticket.answer(Ok(answer));
        }
    }

    fn layout(&self, extent: Extent, _: usize) -> Result<Vec<Run>, IoError> {
        Ok(vec![Run { len: extent.len(), kind: RunKind::Data }])
    }
}

fn read(extent: Extent, page: &'static [u8]) -> Segments {
    extent
        .pieces(page.len() as u64)
        .filter_map(|piece| page.get(..usize::try_from(piece.len()).ok()?))
        .map(|piece| Segment::Data(Bytes::from_static(piece)))
        .collect()
}

struct Only {
    shard: mpsc::UnboundedSender<LoggedIn>,
    portals: Vec<Portal>,
}

impl Targets for Only {
    fn list(&self, _: &InitiatorInfo) -> Vec<TargetInfo> {
        vec![TargetInfo { name: TARGET.to_owned(), portals: self.portals.clone() }]
    }

    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        let found = self.list(initiator).into_iter().find(|target| target.name == name);
        found.ok_or(Refusal::Unknown)
    }

    fn seat(&self, connection: LoggedIn) {
        // The shard lives as long as the process.
        drop(self.shard.send(connection));
    }
}

fn argument(name: &str, at: usize) -> Option<String> {
    let all: Vec<String> = std::env::args().collect();
    all.iter().position(|arg| arg == name).and_then(|i| all.get(i + at).cloned())
}

fn auth() -> Result<Auth, Box<dyn Error>> {
    let (Some(name), Some(secret)) = (argument("--chap", 1), argument("--chap", 2)) else {
        return Ok(Auth::None);
    };
    Ok(Auth::Chap(vec![ChapUser::new(name, Secret::new(secret.into_bytes())?, None)?]))
}

/// The thread that owns the volume.
fn shard(geometry: Geometry, mut connections: mpsc::UnboundedReceiver<LoggedIn>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let tasks = TaskTracker::new();
    let null = std::env::args().any(|arg| arg == "--null");
    let volume: Rc<dyn Volume> =
        if null { Rc::new(Null(geometry)) } else { MemoryStore::new(geometry) };
    let identity = UnitIdentity { volume: VolumeId::of(7), target: TARGET.to_owned() };
    let made = Unit::new(identity, Rc::clone(&volume), Rc::new(Forgetful), UnitSettings::alone());
    let unit = match made {
        Ok(unit) => unit,
        Err(error) => return eprintln!("no unit: {error}"),
    };
    let work = async {
        while let Some(connection) = connections.recv().await {
            let attachment = Attachment {
                luns: vec![Lun {
                    number: 0,
                    volume: Rc::clone(&volume),
                    unit: Rc::clone(&unit),
                    label: "memory".to_owned(),
                    read_only: false,
                }],
                more: More::default(),
                portals: Told::default(),
                stop: CancellationToken::new(),
            };
            tasks.spawn_local(serve(connection, attachment));
        }
    };
    match runtime {
        Ok(runtime) => local.block_on(&runtime, work),
        Err(error) => eprintln!("no runtime: {error}"),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = argument("--size", 1).map_or(Ok(1 << 30), |size| size.parse::<u64>())?;
    let geometry = Geometry::new(bytes)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || shard(geometry, receiver));
    let auth = Arc::new(auth()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shared = (Arc::new(Capacity::default()), Arc::new(Sessions::default()));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut listeners = Vec::new();
        for address in [argument("--tcp", 1), argument("--tcp2", 1)].into_iter().flatten() {
            let mut config = ListenerConfig::new("example", address.parse()?);
            config.auth = Arc::clone(&auth);
            let listener = Listener::bind(config, shared.clone())?;
            eprintln!("listening: {}", listener.address());
            listeners.push(listener);
        }
        let told = |listener: &Listener| Portal { address: listener.address().to_string(), tag: 1 };
        let portals = listeners.iter().map(told).collect();
        let targets: Arc<dyn Targets> = Arc::new(Only { shard: sender, portals });
        for listener in listeners {
            let stop = (tasks.clone(), shutdown.clone());
            tasks.spawn(listener.run(Arc::clone(&targets), stop));
        }
        tokio::signal::ctrl_c().await?;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}
