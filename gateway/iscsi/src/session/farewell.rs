//! How a session ends: what its initiator is still told, and for how long it is listened to.
//!
//! ```text
//!   the gateway lets go ─▶ asked to log out ─▶ it does ─▶ answered ─▶ both sides close
//!                                  ╰─ time is over ─▶ told that it is dropped ─▶ closed
//!   in doubt, or stalled ───────────────────────────▶ told that it is dropped ─▶ closed
//! ```
//!
//! Invariant: no command is begun any more. What an initiator does not take or do costs
//! [`FAREWELL_TIMEOUT`] at most; that its connection is dropped is told as far as the kernel takes it at
//! once.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Ending;
use super::receive::{Item, Place};
use super::turn::Session;
use super::window;
use crate::limits::{FAREWELL_TIMEOUT, TIME_TO_WAIT_SECONDS};
use crate::wire::{AsyncEvent, Header, Request, Response};

/// How long initiators are to wait before they log in anew, in seconds.
pub(super) fn time_to_wait() -> u16 {
    u16::try_from(TIME_TO_WAIT_SECONDS).unwrap_or(u16::MAX)
}

impl Session {
    /// Says goodbye as this ending asks for. The connection is closed by whoever drops it.
    pub(super) async fn part(&mut self, stream: &mut TcpStream, ending: Ending) {
        // Who logged out or closed its side already has nothing to be asked for.
        let is_asked = ending == Ending::Stopped && self.over.is_none();
        let is_dropped = match ending {
            // Nobody is there any more, or not here.
            Ending::Lost(_) | Ending::Reinstated => return,
            Ending::Stalled | Ending::InDoubt => true,
            Ending::LoggedOut
            | Ending::Closed
            | Ending::Stopped
            | Ending::Violated
            | Ending::Reset => {
                let farewell = self.farewell(stream, is_asked);
                let parted = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
                // Whoever was asked to log out and did not hears that its time is over.
                parted.is_err() && is_asked && self.over.is_none()
            }
        };
        if is_dropped {
            let (connection, wait) = (self.connection, time_to_wait());
            self.say(Response::Async(AsyncEvent::Dropping { connection, wait, retain: 0 }), &[]);
            // An initiator that takes nothing, or is gone, is not waited for.
            poll_fn(|cx| {
                let _sent = self.outgoing.poll_send(cx, stream);
                Poll::Ready(())
            })
            .await;
        }
    }

    async fn farewell(&mut self, stream: &mut TcpStream, is_asked: bool) -> io::Result<()> {
        if is_asked {
            // It may come back elsewhere.
            let within = u16::try_from(FAREWELL_TIMEOUT.as_secs()).unwrap_or(u16::MAX);
            self.say(Response::Async(AsyncEvent::LogoutRequest { within }), &[]);
            poll_fn(|cx| self.poll_logout(cx, stream)).await?;
        }
        poll_fn(|cx| self.poll_last(cx, stream)).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and lose the last words.
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored).await? > 0 {}
        Ok(())
    }

    /// Ready when the initiator logged out, or closed its side. What was begun before is answered
    /// meanwhile.
    ///
    /// # Cancellation
    /// Safe: all state is in `self`.
    fn poll_logout(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        let place =
            |header: &Header| if header.data_len() == 0 { Place::Shared } else { Place::Drop };
        loop {
            let sent = self.poll_begun(cx, stream)?;
            if self.over.is_some() {
                ready!(sent);
                return Poll::Ready(Ok(()));
            }
            match self.receiver.next(place) {
                Ok(Item::Pdu(header, _)) => self.heed(&header),
                Ok(Item::NeedBytes) => match self.receiver.poll_fill(cx, stream)? {
                    Poll::Ready(0) => self.over = Some(Ending::Closed),
                    Poll::Ready(_) => {}
                    Poll::Pending => {
                        if !self.tasks.is_empty() && self.completions.poll_ready(cx).is_ready() {
                            continue;
                        }
                        return Poll::Pending;
                    }
                },
                // Nothing more can be understood.
                Err(_violation) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        }
    }

    /// Takes a PDU of an initiator that was asked to log out: what it wants done beside that is not
    /// begun, as it will find.
    fn heed(&mut self, header: &Header) {
        let Ok(request) = Request::decode(header) else { return };
        let due = |number| self.window.take(number, header.immediate());
        if request.command_sn().map(due).is_some_and(|place| place != window::Place::Due) {
            return;
        }
        if let Request::Logout { reason, tag, connection, .. } = request {
            self.logout(reason, tag, connection);
        }
    }
}
