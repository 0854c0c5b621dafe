//! The listeners: who may come in, and how many.
//!
//! Invariant: a listener outlives whatever a client does. A handshake has ten seconds; when too
//! many are under way, the oldest gives way to the newcomer. Over the limit of connections a
//! newcomer is turned away at once instead of being left waiting.

mod handshake;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::export::{ClientAddress, Exports};
use crate::limits::{
    BUSY_POLL, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL,
    KEEPALIVE_PROBES, LISTENER_CONNECTIONS_MAX, UNIX_SEND_BYTES,
};
use crate::stream::{HostStream, Socket};
use handshake::Caller;
use host::Capacity;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// After an accept that failed (no descriptors left, mostly), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP; port 0 takes any.
    Tcp(SocketAddr),
    /// A Unix socket with this path and these permission bits.
    Unix {
        /// Its path. A socket that nobody listens on is replaced.
        path: PathBuf,
        /// Its permissions, such as `0o660`.
        mode: u32,
    },
}

/// Whether a listener speaks TLS, and as whom.
#[derive(Clone, Debug)]
pub enum TlsPolicy {
    /// Never.
    Off,
    /// If the client asks for it.
    Optional(Arc<ServerConfig>),
    /// Nothing is told without.
    Required(Arc<ServerConfig>),
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Its name, for logs and for [`crate::ClientInfo::listener`].
    pub name: String,
    /// Where it listens.
    pub address: ListenAddress,
    /// Whether it speaks TLS.
    pub tls: TlsPolicy,
    /// How many connections it may have; [`LISTENER_CONNECTIONS_MAX`] unless there is a reason.
    pub connections_max: usize,
    /// How long a handshake may take; [`HANDSHAKE_TIMEOUT`] unless there is a reason.
    pub handshake_timeout: Duration,
    /// How long a session looks again before it sleeps; zero: it sleeps at once. Bounds the
    /// processor time that is spent for latency; a session that looks in vain does so rarely.
    pub busy_poll: Duration,
}

impl ListenerConfig {
    /// A listener without TLS and with the usual limits.
    #[must_use]
    pub fn new(name: &str, address: ListenAddress) -> Self {
        Self {
            name: name.to_owned(),
            address,
            tls: TlsPolicy::Off,
            connections_max: LISTENER_CONNECTIONS_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            busy_poll: BUSY_POLL,
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or the kernel refuses it.
    #[error("listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Something that is no socket lies where the socket should be.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Another process listens there.
    #[error("another process listens on {0}")]
    InUse(PathBuf),
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    config: Arc<ListenerConfig>,
    socket: ListenSocket,
    capacity: Arc<Capacity>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: UnlinkOnDrop },
}

/// Takes the socket's file away when the listener goes.
#[derive(Debug)]
struct UnlinkOnDrop(PathBuf);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        // It may have been taken away by somebody else, which is just as well.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Opens a listener and runs it.
///
/// # Errors
/// As [`Listener::bind`].
///
/// # Cancellation
/// Stops listening; connections that were seated go on.
pub async fn listen(
    config: ListenerConfig,
    exports: Arc<dyn Exports>,
    capacity: Arc<Capacity>,
    (tasks, shutdown): (TaskTracker, CancellationToken),
) -> Result<(), ListenError> {
    Listener::bind(config, capacity).await?.run(exports, tasks, shutdown).await;
    Ok(())
}

// === impl Listener ===

impl Listener {
    /// Opens a listener. Its connections count towards `capacity` too.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    ///
    /// # Cancellation
    /// Safe: nothing stays behind.
    pub async fn bind(
        config: ListenerConfig,
        capacity: Arc<Capacity>,
    ) -> Result<Self, ListenError> {
        let socket = match &config.address {
            ListenAddress::Tcp(address) => ListenSocket::Tcp(
                bind_tcp(*address)
                    .map_err(|source| ListenError::Bind { address: address.to_string(), source })?,
            ),
            ListenAddress::Unix { path, mode } => {
                let (listener, file) = bind_unix(path, *mode).await?;
                ListenSocket::Unix { listener, _file: file }
            }
        };
        let places = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { config: Arc::new(config), socket, capacity, places })
    }

    /// The address that TCP clients call; the real port if 0 was asked for.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenSocket::Tcp(listener) => listener.local_addr().ok(),
            ListenSocket::Unix { .. } => None,
        }
    }

    /// Accepts until `shutdown`; handshakes that are under way then are dropped.
    ///
    /// # Cancellation
    /// Safe: as `shutdown`.
    pub async fn run(
        self,
        exports: Arc<dyn Exports>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) {
        let span = info_span!("listener", name = %self.config.name);
        async {
            info!(address = ?self.config.address, tcp = ?self.tcp_address(), "listening for NBD");
            let mut handshakes = Handshakes::default();
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => break,
                    accepted = self.accept() => accepted,
                };
                match accepted {
                    Ok((stream, address)) => {
                        self.admit(stream, address, &exports, (&tasks, &mut handshakes));
                    }
                    // The caller hung up before its turn came; that is no trouble of ours.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn accept(&self) -> io::Result<(HostStream, ClientAddress)> {
        match &self.socket {
            ListenSocket::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                // A socket that cannot be told so still works, only slower.
                if let Err(error) = socket.set_nodelay(true) {
                    debug!(%error, "set TCP_NODELAY");
                }
                Ok((HostStream::Plain(Socket::Tcp(socket)), ClientAddress::Tcp(address)))
            }
            ListenSocket::Unix { listener, .. } => {
                let (socket, _) = listener.accept().await?;
                // As above: only slower.
                if let Err(error) = set_socket_send_buffer_size(&socket, UNIX_SEND_BYTES) {
                    debug!(%error, "set SO_SNDBUF");
                }
                let peer = socket.peer_cred()?;
                let address =
                    ClientAddress::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
                Ok((HostStream::Plain(Socket::Unix(socket)), address))
            }
        }
    }

    fn admit(
        &self,
        stream: HostStream,
        address: ClientAddress,
        exports: &Arc<dyn Exports>,
        (tasks, handshakes): (&TaskTracker, &mut Handshakes),
    ) {
        handshakes.make_room();
        let here = Arc::clone(&self.places).try_acquire_owned().ok();
        let (Some(here), Some(there)) = (here, self.capacity.place()) else {
            warn!(client = %address, "turned away: too many connections");
            return;
        };
        let caller = Caller {
            stream,
            address,
            listener: Arc::clone(&self.config),
            capacity: Arc::clone(&self.capacity),
            places: [here, there],
        };
        let span = info_span!("handshake", client = %caller.address);
        let exports = Arc::clone(exports);
        let deadline = self.config.handshake_timeout;
        let handshake = async move {
            match tokio::time::timeout(deadline, handshake::run(caller, &*exports)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "handshake ended"),
                Err(_) => debug!("handshake took too long"),
            }
        };
        handshakes.under_way.push_back(tasks.spawn(handshake.instrument(span)));
    }
}

/// The handshakes that are under way, oldest first. They end with their listener.
#[derive(Debug, Default)]
struct Handshakes {
    under_way: VecDeque<JoinHandle<()>>,
}

impl Handshakes {
    fn make_room(&mut self) {
        self.under_way.retain(|task| !task.is_finished());
        while self.under_way.len() >= HANDSHAKES_MAX {
            if let Some(oldest) = self.under_way.pop_front() {
                oldest.abort();
            }
        }
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        for task in &self.under_way {
            task.abort();
        }
    }
}

// === Sockets ===

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // What is set here holds for every connection that is accepted.
    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, UnlinkOnDrop), ListenError> {
    let failed = |source| ListenError::Bind { address: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        // A socket that a process left behind when it died refuses calls.
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::InUse(path.to_owned())),
            Err(_) => std::fs::remove_file(path).map_err(failed)?,
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = UnlinkOnDrop(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok((listener, file))
}
