//! The greeting: who each side is, and which protocol version both speak.
//!
//! Invariant: both sides come to the same version, the highest that both know, or both end the
//! connection with [`LinkError::Version`]. Greetings themselves have no version.

use block::{Hello, LinkError};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connection::{Connection, broken};
use crate::limits::HANDSHAKE_PAYLOAD_BYTES_MAX;
use crate::wire::{Decoder, Frame, Greeting, HEADER_BYTES, Outbox, encode_greeting};

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Versions {
    /// What this release speaks. A release speaks its own version and the one before.
    pub const SPOKEN: Self = Self { min: 1, max: block::PROTOCOL_VERSION };

    /// The highest version that both speak.
    ///
    /// # Errors
    /// [`LinkError::Version`] when there is none.
    pub fn common(self, theirs: Self) -> Result<u16, LinkError> {
        let highest = self.max.min(theirs.max);
        if highest >= self.min.max(theirs.min) {
            return Ok(highest);
        }
        Err(LinkError::Version {
            ours_min: self.min,
            ours_max: self.max,
            theirs_min: theirs.min,
            theirs_max: theirs.max,
        })
    }

    /// The range that a greeting names.
    #[must_use]
    pub const fn of(hello: &Hello) -> Self {
        Self { min: hello.version_min, max: hello.version_max }
    }
}

/// A stream before a version is agreed on.
pub(crate) struct Talk<S> {
    pub(crate) stream: S,
    inbox: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(crate) fn new(stream: S) -> Self {
        let room = HEADER_BYTES + HANDSHAKE_PAYLOAD_BYTES_MAX;
        Self { stream, inbox: BytesMut::with_capacity(room) }
    }

    pub(crate) async fn say(&mut self, greeting: &Greeting) -> Result<(), LinkError> {
        let mut outbox = Outbox::new();
        encode_greeting(greeting, &mut outbox)?;
        self.stream.write_all(&outbox.to_vec()).await.map_err(|error| broken(&error))?;
        self.stream.flush().await.map_err(|error| broken(&error))
    }

    pub(crate) async fn hear(&mut self) -> Result<Greeting, LinkError> {
        loop {
            match Decoder::greetings().next(&mut self.inbox)? {
                Some(Frame::Greeting(greeting)) => return Ok(greeting),
                Some(Frame::Message(_)) => return Err(LinkError::Corrupt("message too early")),
                None => {}
            }
            self.inbox.reserve(HEADER_BYTES);
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err(LinkError::Closed),
                Ok(_) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Agrees on a version with a peer whose greeting came in.
    pub(crate) fn settle(self, ours: &Hello, theirs: Hello) -> Result<Connection<S>, LinkError> {
        let version = Versions::of(ours).common(Versions::of(&theirs))?;
        Ok(Connection::new(self.stream, theirs.identity, version, self.inbox))
    }
}

/// Greets over a stream that needs no TLS: in memory, between parts of one process. Both sides
/// call this.
///
/// # Errors
/// [`LinkError::Version`], [`LinkError::Corrupt`], or the stream's end.
///
/// # Cancellation
/// Not safe: the stream is lost.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    ours: &Hello,
) -> Result<Connection<S>, LinkError> {
    let mut talk = Talk::new(stream);
    talk.say(&Greeting::Hello(ours.clone())).await?;
    match talk.hear().await? {
        Greeting::Hello(theirs) => talk.settle(ours, theirs),
        Greeting::Refused(refusal) => Err(LinkError::Untrusted(refusal.text)),
        Greeting::Join(_) | Greeting::Joined(_) => {
            Err(LinkError::Corrupt("not the greeting that belongs here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(min: u16, max: u16) -> Versions {
        Versions { min, max }
    }

    #[test]
    fn takes_the_highest_common_version_from_either_side() {
        for (ours, theirs, common) in [
            (versions(1, 1), versions(1, 1), Some(1)),
            (versions(1, 2), versions(2, 3), Some(2)),
            (versions(4, 5), versions(5, 6), Some(5)),
            (versions(1, 9), versions(3, 4), Some(4)),
            (versions(1, 2), versions(3, 4), None),
        ] {
            assert_eq!(ours.common(theirs).ok(), common);
            assert_eq!(theirs.common(ours).ok(), common);
        }
    }
}
