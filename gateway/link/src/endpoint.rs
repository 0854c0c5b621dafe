//! Dialing and accepting: from an address or a fresh socket to a link that a group's thread can
//! take.
//!
//! Invariant: nobody gets a link whose certificate is not pinned for the gateway that it says it
//! is. Everything up to the first message is bounded in time and in bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use block::{GatewayId, Hello, Identity, Link, LinkError, Message, Open};
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::connection::{Connection, broken};
use crate::delayed::Delayed;
use crate::handshake::{Talk, Versions, greet};
use crate::join::{self, JoinDesk, JoinRefused};
use crate::limits::{CONNECT_TIME_MAX, HANDSHAKE_TIME_MAX, TLS_BUFFER_BYTES};
use crate::socket::Socket;
use crate::trust::{
    Credentials, Fingerprint, Peer, Tls, TrustError, Trusted, peer_certificate, server_name,
};
use crate::wire::{Greeting, Refusal};

/// What this gateway brings to every link. Cheap to clone.
#[derive(Clone)]
pub struct LinkContext {
    identity: Identity,
    certificate: Arc<Vec<u8>>,
    tls: Tls,
    trusted: Trusted,
    addresses: Vec<String>,
    release: String,
    desk: Option<Arc<dyn JoinDesk>>,
    versions: Versions,
    distance: Duration,
    patience: Duration,
}

impl LinkContext {
    /// A gateway with this identity and certificate that trusts these peers.
    ///
    /// # Errors
    /// [`TrustError::Tls`] when the certificate and the key are no pair.
    pub fn new(
        identity: Identity,
        credentials: &Credentials,
        trusted: Trusted,
    ) -> Result<Self, TrustError> {
        Ok(Self {
            identity,
            certificate: Arc::new(credentials.certificate().to_vec()),
            tls: Tls::new(credentials)?,
            trusted,
            addresses: Vec::new(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            desk: None,
            versions: Versions::SPOKEN,
            distance: Duration::ZERO,
            patience: HANDSHAKE_TIME_MAX,
        })
    }

    /// Where peers reach this gateway, `host:port`; told to whoever joins.
    #[must_use]
    pub fn with_addresses(mut self, addresses: Vec<String>) -> Self {
        self.addresses = addresses;
        self
    }

    /// Takes join tokens from now on.
    #[must_use]
    pub fn with_desk(mut self, desk: Arc<dyn JoinDesk>) -> Self {
        self.desk = Some(desk);
        self
    }

    /// Takes no join tokens any more.
    #[must_use]
    pub fn without_desk(mut self) -> Self {
        self.desk = None;
        self
    }

    /// Simulates a distance: what this gateway receives arrives this much later. For demos and
    /// tests.
    #[must_use]
    pub fn with_distance(mut self, distance: Duration) -> Self {
        self.distance = distance;
        self
    }

    /// Gives a peer less time than 10 s to say who it is.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(HANDSHAKE_TIME_MAX);
        self
    }

    /// Speaks only these versions. For rehearsing upgrades.
    #[must_use]
    pub fn with_versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// The peers that it trusts; shared with this context.
    #[must_use]
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// The fingerprint of its certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// This gateway, as its peers remember it.
    #[must_use]
    pub fn describe(&self) -> Peer {
        Peer {
            gateway: self.identity.gateway,
            site: self.identity.site.clone(),
            certificate: self.certificate.to_vec(),
            addresses: self.addresses.clone(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn desk(&self) -> Option<&dyn JoinDesk> {
        self.desk.as_deref()
    }

    fn hello(&self) -> Hello {
        Hello {
            identity: self.identity.clone(),
            version_min: self.versions.min,
            version_max: self.versions.max,
            release: self.release.clone(),
        }
    }
}

/// What a connection that came in turned out to be.
pub enum Incoming {
    /// A gateway redeemed a join token, or was refused. The connection is over.
    Join(Result<Peer, JoinRefused>),
    /// A primary opens a group; the link is to move to the group's thread.
    Group {
        /// Who it is, proven.
        peer: Identity,
        /// What it opens.
        open: Open,
        /// The link, behind `open`.
        link: Detached,
    },
    /// A gateway asks something that concerns no open group; the link is for the answer.
    Question {
        /// Who it is, proven.
        peer: Identity,
        /// What it asks.
        question: Bytes,
        /// The link, behind `question`.
        link: Detached,
    },
}

/// A link on its way to the thread that will use it.
pub struct Detached {
    connection: Box<Connection<TlsStream<Socket>>>,
    distance: Duration,
}

impl Detached {
    fn park(
        mut connection: Connection<TlsStream<Socket>>,
        distance: Duration,
    ) -> Result<Self, LinkError> {
        let limit = Some(TLS_BUFFER_BYTES);
        match connection.stream_mut() {
            TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(limit),
            TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(limit),
        }
        let (socket, _) = connection.stream_mut().get_mut();
        socket.park().map_err(|error| broken(&error))?;
        Ok(Self { connection: Box::new(connection), distance })
    }

    /// Who is at the other end, proven by its certificate.
    #[must_use]
    pub fn peer(&self) -> &Identity {
        self.connection.peer()
    }

    /// The protocol version that both speak.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.connection.version()
    }

    /// Makes it a link of this thread. Must run inside the runtime that is to drive it; what came
    /// in meanwhile is kept.
    ///
    /// # Errors
    /// [`LinkError::Io`] when the reactor does not take the socket.
    pub fn attach(mut self) -> Result<Box<dyn Link>, LinkError> {
        let (socket, _) = self.connection.stream_mut().get_mut();
        socket.wake().map_err(|error| broken(&error))?;
        if self.distance.is_zero() {
            return Ok(self.connection);
        }
        let distance = self.distance;
        Ok(Box::new(self.connection.map(|stream| Delayed::new(stream, distance))))
    }
}

/// Takes a connection in: TLS, greeting, and the first message. At most 10 s; the caller bounds
/// how many of these run at once.
///
/// # Errors
/// [`LinkError::Untrusted`] for a stranger, [`LinkError::Version`], [`LinkError::Timeout`],
/// [`LinkError::Corrupt`], or the connection's end.
///
/// # Cancellation
/// The connection is closed. A token may have been redeemed.
pub async fn accept(stream: TcpStream, us: &LinkContext) -> Result<Incoming, LinkError> {
    in_time(us.patience, Box::pin(take_in(stream, us))).await
}

async fn take_in(stream: TcpStream, us: &LinkContext) -> Result<Incoming, LinkError> {
    let socket = Socket::new(stream).map_err(|error| broken(&error))?;
    let stream = us.tls.acceptor.accept(socket).await.map_err(|error| tls_failed(&error))?;
    let stream = TlsStream::from(stream);
    let certificate = shown(&stream)?;
    let mut talk = Talk::new(stream);
    match talk.hear().await? {
        Greeting::Hello(theirs) => {
            let fingerprint = Fingerprint::of(&certificate);
            if let Err(why) = vouch(us, fingerprint, theirs.identity.gateway) {
                let refusal = Refusal { code: 0, text: "this gateway is not trusted here".into() };
                talk.say(&Greeting::Refused(refusal)).await?;
                return Err(why);
            }
            open(talk, theirs, us).await
        }
        Greeting::Join(request) => {
            join::serve(talk, request, certificate, us).await.map(Incoming::Join)
        }
        Greeting::Refused(_) | Greeting::Joined(_) => {
            Err(LinkError::Corrupt("not the greeting that belongs here"))
        }
    }
}

async fn open(
    mut talk: Talk<TlsStream<Socket>>,
    theirs: Hello,
    us: &LinkContext,
) -> Result<Incoming, LinkError> {
    let ours = us.hello();
    // Said even when there is no common version: the peer finds out from this.
    talk.say(&Greeting::Hello(ours.clone())).await?;
    let mut connection = talk.settle(&ours, theirs)?;
    let first = connection.receive_one().await?;
    let link = Detached::park(connection, us.distance)?;
    let peer = link.peer().clone();
    match first {
        Message::Open(open) => Ok(Incoming::Group { peer, open, link }),
        Message::Ask(question) => Ok(Incoming::Question { peer, question, link }),
        _ => Err(LinkError::Corrupt("first message opens no group and asks nothing")),
    }
}

/// Connects to the gateway `expect` at the first of `addresses` where it answers. At most 15 s for
/// each address.
///
/// # Errors
/// The error of the address that came furthest: [`LinkError::Untrusted`] when somebody else
/// answers or this gateway is not trusted there, [`LinkError::Version`], [`LinkError::Timeout`],
/// [`LinkError::Io`].
///
/// # Cancellation
/// Safe: the connection is closed.
pub async fn dial(
    addresses: &[String],
    expect: GatewayId,
    us: &LinkContext,
) -> Result<Detached, LinkError> {
    first_of(addresses, async |address| {
        let (stream, certificate) = dial_tls(address, us).await?;
        vouch(us, Fingerprint::of(&certificate), expect)?;
        let connection = in_time(us.patience, greet(stream, &us.hello())).await?;
        vouch(us, Fingerprint::of(&certificate), connection.peer().gateway)?;
        Detached::park(connection, us.distance)
    })
    .await
}

/// Connects with TLS; returns the certificate that the other side proved to hold, which is all
/// that is known of it.
pub(crate) async fn dial_tls(
    address: &str,
    us: &LinkContext,
) -> Result<(TlsStream<Socket>, Vec<u8>), LinkError> {
    let stream = in_time(CONNECT_TIME_MAX, connect(address)).await?;
    let socket = Socket::new(stream).map_err(|error| broken(&error))?;
    let connecting = us.tls.connector.connect(server_name(), socket);
    let connecting = async { connecting.await.map_err(|error| tls_failed(&error)) };
    let stream = TlsStream::from(in_time(us.patience, connecting).await?);
    let certificate = shown(&stream)?;
    Ok((stream, certificate))
}

async fn connect(address: &str) -> Result<TcpStream, LinkError> {
    let failed = |error: &std::io::Error| LinkError::Io(format!("{address}: {error}"));
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|error| failed(&error))?.collect();
    TcpStream::connect(&found[..]).await.map_err(|error| failed(&error))
}

/// Tries one address after the other. Of the errors the first that says more than "not there" is
/// returned.
pub(crate) async fn first_of<T>(
    addresses: &[String],
    attempt: impl AsyncFn(&str) -> Result<T, LinkError>,
) -> Result<T, LinkError> {
    let mut worst = LinkError::Io("no address to dial".to_owned());
    for address in addresses {
        match attempt(address).await {
            Ok(done) => return Ok(done),
            Err(error) => {
                tracing::debug!(address, %error, "address does not answer as it should");
                if matches!(worst, LinkError::Io(_) | LinkError::Timeout | LinkError::Closed) {
                    worst = error;
                }
            }
        }
    }
    Err(worst)
}

pub(crate) async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(LinkError::Timeout))
}

/// Whether this certificate is pinned for this gateway.
fn vouch(us: &LinkContext, certificate: Fingerprint, gateway: GatewayId) -> Result<(), LinkError> {
    match us.trusted.find(certificate) {
        Some(peer) if peer.gateway == gateway => Ok(()),
        Some(peer) => Err(LinkError::Untrusted(format!(
            "certificate {certificate} belongs to gateway {}, not {gateway}",
            peer.gateway
        ))),
        None => Err(LinkError::Untrusted(format!("certificate {certificate} is not pinned"))),
    }
}

fn shown(stream: &TlsStream<Socket>) -> Result<Vec<u8>, LinkError> {
    let (_, connection) = stream.get_ref();
    peer_certificate(connection)
        .map(|certificate| certificate.to_vec())
        .ok_or_else(|| LinkError::Untrusted("no certificate was shown".to_owned()))
}

/// What went wrong before TLS was up.
fn tls_failed(error: &std::io::Error) -> LinkError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => LinkError::Corrupt("not TLS"),
        Some(other) => LinkError::Untrusted(format!("TLS failed: {other}")),
        None => broken(error),
    }
}
