//! What the listeners ask of the gateway: which exports there are, who may see them, and where a
//! connection goes once it has named one.
//!
//! Invariant: an export that a client may not see is answered exactly as one that does not exist.

use std::fmt;
use std::net::SocketAddr;

use block::SnapshotId;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::session::Negotiated;

/// Where a client called from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket, as the kernel vouches for.
    Unix {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Process, where the kernel tells it.
        pid: Option<i32>,
    },
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid, pid: Some(pid), .. } => write!(f, "uid {uid} pid {pid}"),
            Self::Unix { uid, pid: None, .. } => write!(f, "uid {uid}"),
        }
    }
}

/// The certificate by which a client proved itself; its chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSubject(CertificateDer<'static>);

impl TlsSubject {
    /// The subject of this verified certificate.
    #[must_use]
    pub const fn new(certificate: CertificateDer<'static>) -> Self {
        Self(certificate)
    }

    /// The certificate, in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Whether the certificate names `name` among its subject alternative names (DNS name with
    /// wildcards, or IP address).
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else {
            return false;
        };
        ParsedCertificate::try_from(&self.0)
            .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
    }
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Where it called from.
    pub address: ClientAddress,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate it showed, if it was asked for one.
    pub tls_subject: Option<TlsSubject>,
    /// The name of the listener it called.
    pub listener: String,
}

/// An export, as one client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name by which it is opened. Never empty: the default export has its own name too.
    pub name: String,
    /// For people.
    pub description: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether writes are refused to this client.
    pub read_only: bool,
    /// The snapshots that the content can be compared with, as dirty bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// Whether a flush on one connection covers the writes of all. True when every connection is
    /// served by one [`block::Volume`].
    pub multi_conn: bool,
}

/// A dirty bitmap of an export: what may differ from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name: that of the snapshot.
    pub name: String,
    /// The snapshot, as its store calls it.
    pub since: SnapshotId,
}

/// Why an export is not given to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none of that name that this client may see.
    #[error("no such export")]
    Unknown,
    /// It exists, but not for now: this gateway is not its primary, or it is fenced.
    #[error("export is not served by this gateway")]
    NotServed,
    /// Only over TLS.
    #[error("export is served over TLS only")]
    TlsRequired,
    /// The gateway is draining.
    #[error("gateway is shutting down")]
    ShuttingDown,
}

/// What the listeners ask of the gateway.
pub trait Exports: Send + Sync {
    /// Every export that this client may see.
    fn list(&self, client: &ClientInfo) -> Vec<ExportInfo>;

    /// The export of this name; the empty name means the default export.
    ///
    /// # Errors
    /// Why there is none for this client.
    fn find(&self, name: &str, client: &ClientInfo) -> Result<ExportInfo, Refusal>;

    /// Takes over a connection whose client has been told that transmission starts. It is sent to
    /// the thread that owns the volume, where [`crate::serve`] runs it. Dropping it closes it.
    fn seat(&self, connection: Negotiated);
}
