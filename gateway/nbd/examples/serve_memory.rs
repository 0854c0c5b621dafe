//! Serves one volume in memory over NBD, to try clients and to measure the protocol alone.
//!
//! ```text
//! serve_memory [--unix PATH] [--tcp ADDR] [--size BYTES] [--null] [--tls CERT KEY [--tls-required]]
//! ```
//!
//! With `--null` it stores nothing and reads one page over and over: the protocol without a store.
#![expect(clippy::print_stderr, reason = "a program for people at a terminal")]

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use block::{
    Answer, Extent, Geometry, IoError, Op, Request, Run, RunKind, Segment, Segments, Volume,
};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use store::MemoryStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use twinspan_nbd::{
    Attachment, Capacity, ClientInfo, ExportInfo, Exports, ListenAddress, Listener, ListenerConfig,
    Negotiated, Refusal, TlsPolicy, serve,
};

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
    export: ExportInfo,
    shard: mpsc::UnboundedSender<Negotiated>,
}

impl Exports for Only {
    fn list(&self, _: &ClientInfo) -> Vec<ExportInfo> {
        vec![self.export.clone()]
    }

    fn find(&self, name: &str, _: &ClientInfo) -> Result<ExportInfo, Refusal> {
        if name.is_empty() || name == self.export.name {
            return Ok(self.export.clone());
        }
        Err(Refusal::Unknown)
    }

    fn seat(&self, connection: Negotiated) {
        // The shard lives as long as the process.
        drop(self.shard.send(connection));
    }
}

fn argument(name: &str, at: usize) -> Option<String> {
    let all: Vec<String> = std::env::args().collect();
    all.iter().position(|arg| arg == name).and_then(|i| all.get(i + at).cloned())
}

fn tls() -> Result<TlsPolicy, Box<dyn Error>> {
    let (Some(certificate), Some(key)) = (argument("--tls", 1), argument("--tls", 2)) else {
        return Ok(TlsPolicy::Off);
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let required = std::env::args().any(|arg| arg == "--tls-required");
    Ok(if required { TlsPolicy::Required(config) } else { TlsPolicy::Optional(config) })
}

/// The thread that owns the volume.
fn shard(geometry: Geometry, mut connections: mpsc::UnboundedReceiver<Negotiated>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let tasks = TaskTracker::new();
    let null = std::env::args().any(|arg| arg == "--null");
    let volume: Rc<dyn Volume> =
        if null { Rc::new(Null(geometry)) } else { MemoryStore::new(geometry) };
    let work = async {
        while let Some(connection) = connections.recv().await {
            let attachment = Attachment {
                volume: Rc::clone(&volume),
                changes: None,
                label: "memory".to_owned(),
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
    let mut addresses = Vec::new();
    if let Some(path) = argument("--unix", 1) {
        addresses.push(ListenAddress::Unix { path: path.into(), mode: 0o600 });
    }
    if let Some(address) = argument("--tcp", 1) {
        addresses.push(ListenAddress::Tcp(address.parse()?));
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || shard(geometry, receiver));
    let export = ExportInfo {
        name: "memory".to_owned(),
        description: "a volume in memory".to_owned(),
        bytes,
        read_only: false,
        bitmaps: Vec::new(),
        multi_conn: true,
    };
    let exports: Arc<dyn Exports> = Arc::new(Only { export, shard: sender });
    let policy = tls()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (capacity, tasks) = (Arc::new(Capacity::default()), TaskTracker::new());
        let shutdown = CancellationToken::new();
        for address in addresses {
            let config =
                ListenerConfig { tls: policy.clone(), ..ListenerConfig::new("example", address) };
            let listener = Listener::bind(config, Arc::clone(&capacity)).await?;
            eprintln!("listening: {:?}", listener.tcp_address());
            tasks.spawn(listener.run(Arc::clone(&exports), tasks.clone(), shutdown.clone()));
        }
        tokio::signal::ctrl_c().await?;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}
