//! One connection in transmission: a single task on the thread that owns the volume.
//!
//! ```text
//!   socket ──one read──▶ receive ──▶ admit ──▶ one batch ──▶ Volume::submit
//!   socket ◀─one write── outgoing ◀── reply ◀── Completions ◀───────╯ (most at once, some later)
//! ```
//!
//! Invariant: in the steady state a request costs no task, no channel, no lock and no allocation
//! of ours. What a client can make us hold is bounded (see `limits`): when it is reached, nothing
//! more is read from it. A connection that keeps its thread busy steps back after each turn.

mod admit;
mod extents;
mod inflight;
mod outgoing;
mod receive;
mod reply;
mod turn;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::{Extent, IoError, Run, SnapshotId, Volume};
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::export::{ClientInfo, ExportInfo};
use crate::limits::FAREWELL_TIMEOUT;
use crate::negotiate::Agreed;
use crate::stream::DetachedStream;
use host::Capacity;
use turn::{Session, Turn};

/// A connection whose client was told that transmission starts, on its way to its volume's thread.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct Negotiated {
    pub(crate) stream: DetachedStream,
    /// What the client sent behind the handshake: its first requests.
    pub(crate) received: BytesMut,
    pub(crate) agreed: Agreed,
    pub(crate) client: ClientInfo,
    pub(crate) capacity: Arc<Capacity>,
    /// How long its session looks again before it sleeps.
    pub(crate) busy_poll: Duration,
    /// Its places among the connections of the gateway and of its listener.
    pub(crate) places: [OwnedSemaphorePermit; 2],
}

impl Negotiated {
    /// The export that it opened, as the client was told.
    #[must_use]
    pub const fn export(&self) -> &ExportInfo {
        &self.agreed.export
    }

    /// Who the client is.
    #[must_use]
    pub const fn client(&self) -> &ClientInfo {
        &self.client
    }
}

/// What may differ from a snapshot, for clients that ask for a dirty bitmap.
pub trait Changes {
    /// Where in `extent` the content may differ from the snapshot, as at most `limit` runs from its
    /// start: [`block::RunKind::Data`] where it may. Costs no data I/O.
    ///
    /// # Errors
    /// [`IoError::Invalid`] when the snapshot is gone, [`IoError::Media`] and [`IoError::Checksum`]
    /// when the map cannot be read.
    fn changed(&self, since: SnapshotId, extent: Extent, limit: usize)
    -> Result<Vec<Run>, IoError>;
}

/// What a connection is attached to.
pub struct Attachment {
    /// The volume. All its connections share it, so a flush on one covers the writes of all.
    pub volume: Rc<dyn Volume>,
    /// What its content is compared with for dirty bitmaps, if it can be.
    pub changes: Option<Rc<dyn Changes>>,
    /// The name of the volume, for metrics and logs.
    pub label: String,
    /// Cancelled when the gateway may no longer serve the volume, or is draining: what is answered
    /// by then is sent, and the connection is closed.
    pub stop: CancellationToken,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client said goodbye.
    Disconnected,
    /// The client closed its side without a word.
    Closed,
    /// The network or the kernel broke it.
    Lost(std::io::ErrorKind),
    /// The gateway closed it.
    Stopped,
    /// The client sent what is not of this protocol.
    Violated,
    /// The client stood still with memory that others waited for.
    Stalled,
}

/// Serves a connection to its end.
///
/// # Cancellation
/// Closes the connection. What was handed to the volume goes on without it.
pub async fn serve(connection: Negotiated, attachment: Attachment) -> Ending {
    let span = info_span!(
        "nbd",
        volume = %attachment.label,
        client = %connection.client.address,
    );
    async {
        info!(export = %connection.agreed.export.name, "host attached");
        let ending = run(connection, attachment).await;
        match ending {
            Ending::Violated | Ending::Stalled => warn!(?ending, "host dropped"),
            Ending::Disconnected | Ending::Closed | Ending::Lost(_) | Ending::Stopped => {
                info!(?ending, "host gone");
            }
        }
        ending
    }
    .instrument(span)
    .await
}

async fn run(connection: Negotiated, attachment: Attachment) -> Ending {
    let Negotiated { stream, received, agreed, client: _, capacity, busy_poll, places: _places } =
        connection;
    let stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => return Ending::Lost(error.kind()),
    };
    let stop = attachment.stop.clone();
    let limits = (capacity, busy_poll);
    let mut session = Box::new(Session::new(stream, &received, &agreed, attachment, limits));
    drop(received);
    let mut stopped = pin!(stop.cancelled());
    let ending = loop {
        match poll_fn(|cx| session.poll_turn(cx, stopped.as_mut())).await {
            // Others have their turn, and the runtime looks at its sockets.
            Turn::Yield if stop.is_cancelled() => break Ending::Stopped,
            Turn::Yield => tokio::task::yield_now().await,
            Turn::End(ending) => break ending,
        }
    };
    let polite = match ending {
        Ending::Disconnected | Ending::Closed | Ending::Stopped => true,
        Ending::Lost(_) | Ending::Violated | Ending::Stalled => false,
    };
    if polite {
        let farewell = async {
            poll_fn(|cx| session.poll_last(cx)).await?;
            session.stream().shutdown().await
        };
        // The client may be gone already; then there is nobody to say goodbye to.
        drop(tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await);
    }
    ending
}
