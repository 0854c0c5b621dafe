//! The handshake with one client, from greeting to seat.
//!
//! Invariant: what the client sent behind its last option moves along with the connection; nothing
//! it sent in the clear survives the start of TLS.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::rustls::ServerConfig;
use tracing::debug;

use super::{ListenerConfig, TlsPolicy};
use crate::export::{ClientAddress, ClientInfo, Exports};
use crate::limits::OPTION_BYTES_MAX;
use crate::negotiate::{Asking, Negotiation, Progress, TlsMode, Violation};
use crate::session::Negotiated;
use crate::stream::HostStream;
use crate::wire::greeting;
use host::Capacity;

/// Read at once: an option with all that belongs to it.
const READ_BYTES: usize = OPTION_BYTES_MAX + 1024;

/// A client that has just called.
pub(super) struct Caller {
    pub(super) stream: HostStream,
    pub(super) address: ClientAddress,
    pub(super) listener: Arc<ListenerConfig>,
    pub(super) capacity: Arc<Capacity>,
    pub(super) places: [OwnedSemaphorePermit; 2],
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("client closed the connection")]
    Closed,
}

impl TlsPolicy {
    const fn mode(&self) -> TlsMode {
        match self {
            Self::Off => TlsMode::Off,
            Self::Optional(_) => TlsMode::Optional,
            Self::Required(_) => TlsMode::Required,
        }
    }

    fn config(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Off => None,
            Self::Optional(config) | Self::Required(config) => Some(Arc::clone(config)),
        }
    }
}

/// Runs the handshake, and seats the connection if it comes to that.
///
/// # Cancellation
/// Closes the connection.
pub(super) async fn run(caller: Caller, exports: &dyn Exports) -> Result<(), HandshakeError> {
    let Caller { mut stream, address, listener, capacity, places } = caller;
    let mut client =
        ClientInfo { address, tls: false, tls_subject: None, listener: listener.name.clone() };
    let mut negotiation = Negotiation::new(listener.tls.mode());
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut out = Vec::new();
    stream.write_all(&greeting()).await?;
    let agreed = loop {
        let asking = Asking { exports, client: &client };
        let progress = negotiation.advance(&mut input, asking, &mut out)?;
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
        }
        match progress {
            Progress::Continue => {}
            Progress::NeedBytes => {
                input.reserve(READ_BYTES.saturating_sub(input.len()).max(1));
                if stream.read_buf(&mut input).await? == 0 {
                    return Err(HandshakeError::Closed);
                }
            }
            Progress::StartTls => {
                // The state machine says so only where there is a configuration.
                let config = listener.tls.config().ok_or(HandshakeError::Closed)?;
                input.clear();
                (stream, client.tls_subject) = stream.accept_tls(config).await?;
                client.tls = true;
                negotiation.secured();
            }
            Progress::Transmission(agreed) => break *agreed,
            Progress::Closed => {
                debug!("client ended the handshake");
                stream.shutdown().await?;
                return Ok(());
            }
        }
    };
    let (stream, busy_poll) = (stream.detach()?, listener.busy_poll);
    let received = input;
    exports.seat(Negotiated { stream, received, agreed, client, capacity, busy_poll, places });
    Ok(())
}
