//! The listeners: who may come in, and how many.
//!
//! Invariant: a listener outlives whatever an initiator does. A login has ten seconds; when too many
//! are under way, the oldest gives way to the newcomer. Over the limit of connections a newcomer is
//! turned away at once instead of being left waiting.

mod discovery;
mod login;
mod sessions;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::export::Targets;
use crate::limits::{
    BUSY_POLL, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, LISTENER_CONNECTIONS_MAX,
    LOGIN_TIMEOUT, LOGINS_MAX,
};
use crate::negotiate::Auth;
use host::Capacity;
use login::Caller;
pub use sessions::Sessions;
pub(crate) use sessions::{Peers, Place};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// After an accept that failed (no descriptors left, mostly), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Its name, for logs and for [`crate::InitiatorInfo::listener`].
    pub name: String,
    /// Where it listens; port 0 takes any.
    pub address: SocketAddr,
    /// Its portal group.
    pub tag: u16,
    /// The relative target port of its portal group, different at each site of a volume: listeners of one
    /// group are one port, and its upper byte tells groups apart.
    pub target_port: u16,
    /// Who must prove what.
    pub auth: Arc<Auth>,
    /// How many connections it may have; [`LISTENER_CONNECTIONS_MAX`] unless there is a reason.
    pub connections_max: usize,
    /// How long a login may take; [`LOGIN_TIMEOUT`] unless there is a reason.
    pub login_timeout: Duration,
    /// How long a session looks again before it sleeps; zero: it sleeps at once.
    pub busy_poll: Duration,
}

impl ListenerConfig {
    /// A listener that asks for no proof, with the usual limits.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            tag: 1,
            target_port: 1,
            auth: Arc::new(Auth::None),
            connections_max: LISTENER_CONNECTIONS_MAX,
            login_timeout: LOGIN_TIMEOUT,
            busy_poll: BUSY_POLL,
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {source}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    config: Arc<ListenerConfig>,
    socket: TcpListener,
    shared: (Arc<Capacity>, Arc<Sessions>),
    places: Arc<Semaphore>,
}

// === impl Listener ===

impl Listener {
    /// Opens a listener. Its connections count towards the capacity too, and its sessions are known
    /// to the other listeners.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(
        config: ListenerConfig,
        shared: (Arc<Capacity>, Arc<Sessions>),
    ) -> Result<Self, ListenError> {
        let address = config.address;
        let socket = bind_tcp(address).map_err(|source| ListenError { address, source })?;
        let places = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { config: Arc::new(config), socket, shared, places })
    }

    /// The address that initiators call; the real port if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.config.address)
    }

    /// Accepts until `shutdown`; logins that are under way then are dropped.
    ///
    /// # Cancellation
    /// Safe: as `shutdown`.
    pub async fn run(
        self,
        targets: Arc<dyn Targets>,
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) {
        let span = info_span!("listener", name = %self.config.name);
        async {
            info!(address = %self.address(), "listening for iSCSI");
            let mut logins = Logins::default();
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => break,
                    accepted = self.socket.accept() => accepted,
                };
                match accepted {
                    Ok((stream, address)) => {
                        self.admit((stream, address), &targets, &tasks, &mut logins);
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

    fn admit(
        &self,
        (stream, address): (TcpStream, SocketAddr),
        targets: &Arc<dyn Targets>,
        tasks: &TaskTracker,
        logins: &mut Logins,
    ) {
        // A socket that cannot be told so still works, only slower.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "set TCP_NODELAY");
        }
        logins.make_room();
        let (capacity, sessions) = &self.shared;
        let here = Arc::clone(&self.places).try_acquire_owned().ok();
        let (Some(here), Some(there)) = (here, capacity.place()) else {
            warn!(client = %address, "turned away: too many connections");
            return;
        };
        let caller = Caller {
            stream,
            address,
            listener: Arc::clone(&self.config),
            capacity: Arc::clone(capacity),
            sessions: Arc::clone(sessions),
            places: [here, there],
        };
        let span = info_span!("login", client = %address);
        let targets = Arc::clone(targets);
        let login = async move {
            if let Err(error) = login::run(caller, &*targets).await {
                debug!(%error, "login ended");
            }
        };
        logins.under_way.push_back(tasks.spawn(login.instrument(span)));
    }
}

/// The logins that are under way, and the discovery sessions, oldest first. They end with their
/// listener.
#[derive(Debug, Default)]
struct Logins {
    under_way: VecDeque<JoinHandle<()>>,
}

impl Logins {
    fn make_room(&mut self) {
        self.under_way.retain(|task| !task.is_finished());
        while self.under_way.len() >= LOGINS_MAX {
            if let Some(oldest) = self.under_way.pop_front() {
                oldest.abort();
            }
        }
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        for task in &self.under_way {
            task.abort();
        }
    }
}

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
