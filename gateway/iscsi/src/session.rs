//! One session in full feature phase: a single task on the thread that owns the volume.
//!
//! ```text
//!   socket ──one read──▶ receive ──▶ commands ──▶ one batch ──▶ Volume::submit
//!                                       ╰─ slow ones ──▶ Unit::run, polled by the same task
//!   socket ◀─one write── outgoing ◀── reply ◀── Completions ◀──────╯ (most at once, some later)
//! ```
//!
//! Invariant: in the steady state a command costs no task, no channel, no lock and no allocation of
//! ours. What an initiator can make us hold is bounded (see `limits`). A command whose outcome is
//! in doubt is not answered: pings still are, and when it takes too long the connection is dropped.

mod commands;
mod disks;
mod farewell;
mod manage;
mod order;
mod outgoing;
mod receive;
mod reply;
mod tasks;
mod text;
mod transfer;
mod turn;
mod window;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::Volume;
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::export::{Portal, TargetInfo};
use crate::negotiate::Agreed;
use crate::scsi::Unit;
use crate::server::Place;
use host::Capacity;
use turn::{Session, Turn};

/// What a discovery session is made of, too.
pub(crate) mod parts {
    pub(crate) use super::outgoing::Outgoing;
    pub(crate) use super::receive::{Body, Item, Place, Receiver};
    pub(crate) use super::text::TextExchange;
    pub(crate) use super::window::{Place as Due, Window};
}

/// A connection whose initiator is logged in, on its way to its volume's thread.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct LoggedIn {
    pub(crate) stream: std::net::TcpStream,
    /// What the initiator sent behind its login.
    pub(crate) received: BytesMut,
    pub(crate) agreed: Agreed,
    pub(crate) target: TargetInfo,
    /// The number of the next response.
    pub(crate) stat_sn: u32,
    /// The port that it called, among those of the target.
    pub(crate) target_port: u16,
    pub(crate) capacity: Arc<Capacity>,
    /// How long its session looks again before it sleeps.
    pub(crate) busy_poll: Duration,
    /// Its place among the sessions: a login of the same initiator port takes it.
    pub(crate) place: Place,
    /// Its places among the connections of the gateway and of its listener.
    pub(crate) _places: [OwnedSemaphorePermit; 2],
}

impl LoggedIn {
    /// The target that it logged in to.
    #[must_use]
    pub const fn target(&self) -> &TargetInfo {
        &self.target
    }

    /// Who logged in, and from where.
    #[must_use]
    pub const fn initiator(&self) -> &crate::export::InitiatorInfo {
        &self.agreed.initiator
    }
}

/// Where a target is reached, as it is told at any moment.
pub type Told = Rc<RefCell<Vec<Portal>>>;

/// A disk of a target.
pub struct Lun {
    /// Its number, which no other disk of the target has.
    pub number: u8,
    /// The volume. All its sessions share it, so a flush on one covers the writes of all.
    pub volume: Rc<dyn Volume>,
    /// The disk in front of it. All its sessions share it.
    pub unit: Rc<Unit>,
    /// The name of the volume, for metrics and logs.
    pub label: String,
    /// Whether this initiator may only read, whatever the others of the disk may.
    pub read_only: bool,
}

/// Disks that an initiator sees from now on, too: whoever has the thread puts them there, and the
/// session takes them with the next command that comes.
pub type More = Rc<RefCell<Vec<Lun>>>;

/// What a session is attached to.
pub struct Attachment {
    /// The disks that the initiator sees. Their volumes belong to this thread.
    pub luns: Vec<Lun>,
    /// Those that are added while it lasts.
    pub more: More,
    /// Where the target is reached; all its sessions share it.
    pub portals: Told,
    /// Cancelled when the gateway lets go of a volume, or is draining: what is answered by then is
    /// sent, the initiator is asked to log out, and the connection is closed when it has, or soon. A
    /// gateway that only loses the right to serve says so by [`crate::scsi::UnitEvent`], and its sessions
    /// stay.
    pub stop: CancellationToken,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The initiator logged out.
    LoggedOut,
    /// The initiator closed its side without a word.
    Closed,
    /// The network or the kernel broke it, or the initiator answered no ping.
    Lost(std::io::ErrorKind),
    /// The gateway closed it.
    Stopped,
    /// The same initiator port logged in anew.
    Reinstated,
    /// The initiator sent what is not of this protocol, or what does not match its digest.
    Violated,
    /// The initiator took none of its answers, or did not send the data of a command.
    Stalled,
    /// The outcome of a command was in doubt for too long.
    InDoubt,
    /// An initiator ended every session of the target with TARGET COLD RESET.
    Reset,
}

/// Serves a session to its end.
///
/// # Cancellation
/// Closes the connection. What was handed to the volume goes on without it.
pub async fn serve(connection: LoggedIn, attachment: Attachment) -> Ending {
    let labels: Vec<&str> = attachment.luns.iter().map(|lun| lun.label.as_str()).collect();
    let span = info_span!(
        "iscsi",
        volume = %labels.join(","),
        client = %connection.agreed.initiator.address,
    );
    async {
        let initiator = &connection.agreed.initiator;
        info!(initiator = initiator.name, target = connection.target.name, "host attached");
        let ending = run(connection, attachment).await;
        match ending {
            Ending::Violated | Ending::Stalled | Ending::InDoubt => {
                warn!(?ending, "host dropped");
            }
            Ending::LoggedOut
            | Ending::Closed
            | Ending::Lost(_)
            | Ending::Stopped
            | Ending::Reinstated
            | Ending::Reset => info!(?ending, "host gone"),
        }
        ending
    }
    .instrument(span)
    .await
}

async fn run(mut connection: LoggedIn, attachment: Attachment) -> Ending {
    let stream = connection.stream.try_clone().and_then(TcpStream::from_std);
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return Ending::Lost(error.kind()),
    };
    let (stop, replaced) = (attachment.stop.clone(), connection.place.replaced());
    let reset = connection.place.reset();
    let received = std::mem::take(&mut connection.received);
    let mut session = Box::new(Session::new(&connection, &received, attachment));
    drop(received);
    let mut stopped = pin!(async {
        tokio::select! {
            () = stop.cancelled() => Ending::Stopped,
            () = replaced.cancelled() => Ending::Reinstated,
            () = reset.cancelled() => Ending::Reset,
        }
    });
    let ending = loop {
        match poll_fn(|cx| session.poll_turn(cx, &mut stream, stopped.as_mut())).await {
            Turn::Yield if stop.is_cancelled() => break Ending::Stopped,
            Turn::Yield if replaced.is_cancelled() => break Ending::Reinstated,
            Turn::Yield if reset.is_cancelled() => break Ending::Reset,
            // Others have their turn, and the runtime looks at its sockets.
            Turn::Yield => tokio::task::yield_now().await,
            Turn::End(ending) => break ending,
        }
    };
    session.part(&mut stream, ending).await;
    ending
}
