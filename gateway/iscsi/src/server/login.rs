//! The login of one initiator, from its first byte to its seat.
//!
//! Invariant: what the initiator sent behind its last login request moves along with the
//! connection. Nothing of it is read before it is logged in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};
use zerocopy::IntoBytes;

use super::sessions::{Port, Sessions};
use super::{ListenerConfig, discovery};
use crate::export::{InitiatorInfo, Targets};
use crate::limits::{
    AHS_WORDS_MAX, DISCOVERY_TIMEOUT, LOGIN_DATA_BYTES_MAX, QUEUE_DEPTH, REINSTATE_TIMEOUT,
};
use crate::negotiate::{Agreed, Login, Next, Reply, SessionType, Terms};
use crate::session::LoggedIn;
use crate::wire::{HEADER_BYTES, Header, Malformed, Request, Response, Stamp, padding};
use host::Capacity;

/// An initiator that has just called.
pub(super) struct Caller {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) listener: Arc<ListenerConfig>,
    pub(super) capacity: Arc<Capacity>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) places: [OwnedSemaphorePermit; 2],
}

/// Why a login came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("what came is no login request, or too long a one")]
    NoLogin,
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("initiator closed the connection")]
    Closed,
    #[error("it took too long")]
    Late,
    #[error("no randomness")]
    NoRandomness,
}

/// What a login came to.
struct Came {
    agreed: Agreed,
    stat_sn: u32,
    place: Option<super::Place>,
}

/// Runs the login, and seats the connection if it comes to that.
///
/// # Cancellation
/// Closes the connection.
pub(super) async fn run(caller: Caller, targets: &dyn Targets) -> Result<(), LoginError> {
    let Caller { mut stream, address, listener, capacity, sessions, places } = caller;
    let mut input = BytesMut::with_capacity(HEADER_BYTES + LOGIN_DATA_BYTES_MAX);
    let negotiated = negotiate(&mut stream, &mut input, (address, &listener, &sessions), targets);
    let limited = tokio::time::timeout(listener.login_timeout, negotiated).await;
    let Some(Came { agreed, stat_sn, place }) = limited.map_err(|_late| LoginError::Late)?? else {
        return Ok(());
    };
    match (agreed.target.clone(), place) {
        (Some(target), Some(place)) => {
            targets.seat(LoggedIn {
                stream: stream.into_std()?,
                received: input,
                agreed,
                target,
                stat_sn,
                target_port: listener.target_port,
                capacity,
                busy_poll: listener.busy_poll,
                place,
                _places: places,
            });
            Ok(())
        }
        _ => {
            let session = discovery::run(stream, &input, (&agreed, stat_sn), targets);
            let limited = tokio::time::timeout(DISCOVERY_TIMEOUT, session).await;
            Ok(limited.map_err(|_late| LoginError::Late)??)
        }
    }
}

async fn negotiate(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    (address, listener, sessions): (SocketAddr, &ListenerConfig, &Arc<Sessions>),
    targets: &dyn Targets,
) -> Result<Option<Came>, LoginError> {
    let initiator =
        InitiatorInfo { address, name: String::new(), user: None, listener: listener.name.clone() };
    let terms = Terms { tag: listener.tag, auth: Arc::clone(&listener.auth) };
    let mut login = Login::new(terms, initiator);
    let mut stat_sn = None;
    let random = SystemRandom::new();
    loop {
        let (header, data) = next(stream, input).await?;
        let request = Request::decode(&header)?;
        let Request::Login { exp_stat_sn, cmd_sn, .. } = request else {
            return Err(LoginError::NoLogin);
        };
        let number = *stat_sn.get_or_insert(exp_stat_sn);
        let mut lacking = false;
        let mut fill = |bytes: &mut [u8]| lacking |= random.fill(bytes).is_err();
        let mut reply = login.take(&request, &data, targets, &mut fill);
        if lacking {
            return Err(LoginError::NoRandomness);
        }
        let mut place = None;
        if reply.next == Next::Agreed {
            place = begin(&login, listener.tag, sessions, &mut reply).await;
        }
        let last = cmd_sn.wrapping_add(QUEUE_DEPTH - 1);
        send(stream, &reply, Stamp { stat_sn: number, exp_cmd_sn: cmd_sn, max_cmd_sn: last })
            .await?;
        stat_sn = Some(number.wrapping_add(1));
        match reply.next {
            Next::Continue => {}
            Next::Refused => {
                refused(&login, &reply);
                stream.shutdown().await?;
                return Ok(None);
            }
            Next::Agreed => {
                let agreed = login.agreed().ok_or(LoginError::NoLogin)?;
                return Ok(Some(Came { agreed, stat_sn: number.wrapping_add(1), place }));
            }
        }
    }
}

fn refused(login: &Login, reply: &Reply) {
    if let Response::Login { status, .. } = reply.response {
        let initiator = login.session().map_or("", |(_, initiator, ..)| initiator.name.as_str());
        warn!(?status, initiator, "login refused");
    }
}

/// Gives the session its number, and a normal one its place. The session before it, of the same
/// initiator port, ends first.
async fn begin(
    login: &Login,
    tag: u16,
    sessions: &Arc<Sessions>,
    reply: &mut Reply,
) -> Option<super::Place> {
    if let Response::Login { tsih, .. } = &mut reply.response {
        *tsih = sessions.number();
    }
    let (kind, initiator, isid, target) = login.session()?;
    let target = target.filter(|_| kind == SessionType::Normal)?.name.clone();
    let port = Port { initiator: initiator.name.clone(), isid, target, tag };
    let (place, before) = sessions.take(port);
    if let Some(ended) = before {
        debug!("takes the place of a session before it");
        if tokio::time::timeout(REINSTATE_TIMEOUT, ended.cancelled()).await.is_err() {
            warn!("the session before it does not end");
        }
    }
    Some(place)
}

/// The next PDU: no digests yet, and its data is short.
async fn next(
    stream: &mut TcpStream,
    input: &mut BytesMut,
) -> Result<(Header, BytesMut), LoginError> {
    loop {
        if let Some(header) = Header::read(input) {
            let (ahs, len) = (4 * usize::from(header.ahs_words), header.data_len());
            if len > LOGIN_DATA_BYTES_MAX || ahs > 4 * AHS_WORDS_MAX {
                return Err(LoginError::NoLogin);
            }
            let whole = HEADER_BYTES + ahs + len + padding(len);
            if input.len() >= whole {
                input.advance(HEADER_BYTES + ahs);
                let data = input.split_to(len);
                input.advance(padding(len));
                return Ok((header, data));
            }
            input.reserve(whole - input.len());
        }
        if stream.read_buf(input).await? == 0 {
            return Err(LoginError::Closed);
        }
    }
}

async fn send(stream: &mut TcpStream, reply: &Reply, stamp: Stamp) -> io::Result<()> {
    let len = u32::try_from(reply.text.len()).unwrap_or(u32::MAX);
    let header = reply.response.encode(stamp).with_data_len(len);
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(&reply.text);
    out.resize(out.len() + padding(reply.text.len()), 0);
    stream.write_all(&out).await
}
