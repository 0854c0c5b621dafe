//! Who is trusted: pinned certificates, one for each gateway.
//!
//! Invariant: a gateway is who holds the key of its certificate, and nothing else about the
//! certificate matters: no name, no issuer, no date. A peer is trusted while its certificate's
//! fingerprint is in the set, and only as the gateway that it was pinned as.

mod credentials;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use block::GatewayId;

pub use credentials::Credentials;
pub(crate) use tls::{Tls, peer_certificate, random, server_name};

/// Why our own certificate is of no use, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The files cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or no key.
    #[error("{path} holds no {what} in PEM form")]
    Content {
        /// Which file.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// The key can be read by others than its owner.
    #[error("{path} must be readable by its owner only (mode 0600)")]
    Exposed {
        /// Which file.
        path: String,
    },
    /// A certificate could not be made.
    #[error("make a certificate: {0}")]
    Make(String),
    /// TLS does not take the certificate or the key.
    #[error("use the certificate for TLS: {0}")]
    Tls(String),
}

/// BLAKE3 of a certificate in DER form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(*blake3::hash(certificate_der).as_bytes())
    }

    /// One that was written down.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To write it down.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A gateway at another site, as this one remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which gateway.
    pub gateway: GatewayId,
    /// The name of its site.
    pub site: String,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Where it listens for links, `host:port`.
    pub addresses: Vec<String>,
}

impl Peer {
    /// The fingerprint of its certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }
}

/// The peers that are trusted. Clones share one set, which may change while links are up.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    peers: Arc<RwLock<HashMap<Fingerprint, Peer>>>,
}

impl Trusted {
    /// A set of these peers.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = Peer>) -> Self {
        let set = Self::default();
        for peer in peers {
            set.add(peer);
        }
        set
    }

    /// Trusts a peer from now on. A certificate that was pinned for the same gateway before is no
    /// longer trusted: a gateway has one.
    pub fn add(&self, peer: Peer) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, other| other.gateway != peer.gateway);
        peers.insert(peer.fingerprint(), peer);
    }

    /// Trusts a gateway no longer. Links that are up stay up; whoever removes a peer ends them.
    pub fn remove(&self, gateway: GatewayId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, peer| peer.gateway != gateway);
    }

    /// The peer with this certificate.
    #[must_use]
    pub fn find(&self, fingerprint: Fingerprint) -> Option<Peer> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&fingerprint).cloned()
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Peer> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().cloned().collect()
    }
}
