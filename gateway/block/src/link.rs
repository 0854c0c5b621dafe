//! A connection between two gateways, as the mirror sees it.
//!
//! Invariant: messages arrive whole, in order and uncorrupted, or the link ends. A link that ended
//! stays ended; the mirror opens another and resynchronises, it never replays.

use std::task::{Context, Poll};

use crate::{Identity, Message};

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The other side closed it, or it was closed here.
    #[error("connection closed")]
    Closed,
    /// The network or the kernel broke it.
    #[error("connection failed: {0}")]
    Io(String),
    /// Bytes arrived that are no message: wrong magic, checksum or length.
    #[error("peer sent a corrupt frame: {0}")]
    Corrupt(&'static str),
    /// The peer could not be authenticated, or is not who was expected.
    #[error("peer is not trusted: {0}")]
    Untrusted(String),
    /// The two releases share no protocol version.
    #[error(
        "no common protocol version: ours {ours_min}-{ours_max}, theirs {theirs_min}-{theirs_max}"
    )]
    Version {
        /// The oldest that this side speaks.
        ours_min: u16,
        /// The newest that this side speaks.
        ours_max: u16,
        /// The oldest that the peer speaks.
        theirs_min: u16,
        /// The newest that the peer speaks.
        theirs_max: u16,
    },
    /// The peer did not answer in time.
    #[error("peer did not answer in time")]
    Timeout,
}

/// What went over a link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Bytes sent, headers included.
    pub sent_bytes: u64,
    /// Of these, bytes of changes that the copier sent.
    pub sent_resync_bytes: u64,
    /// Bytes of payloads among those sent: what hosts wrote and the copier read.
    pub sent_payload_bytes: u64,
    /// Bytes received, headers included.
    pub received_bytes: u64,
}

/// A connection to another gateway.
pub trait Link {
    /// Who is at the other end, proven by its certificate.
    fn peer(&self) -> &Identity;

    /// The protocol version that both sides speak on it. A message that came with a later one must
    /// not be pushed.
    fn version(&self) -> u16;

    /// Queues a message behind those that were queued before. Payloads are kept by reference.
    fn push(&mut self, message: Message);

    /// Bytes that are queued and not yet taken by the network.
    fn queued_bytes(&self) -> u64;

    /// Sends what is queued, as few system calls as it takes; ready when the queue is empty.
    ///
    /// # Errors
    /// Ready with the reason when the link ended.
    ///
    /// # Cancellation
    /// Safe: what was not sent stays queued.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>>;

    /// Appends every message that is here to `into`; ready when there was at least one.
    ///
    /// # Errors
    /// Ready with the reason when the link ended. Messages that came before are delivered first.
    ///
    /// # Cancellation
    /// Safe: a message that came in half stays buffered.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Message>,
    ) -> Poll<Result<(), LinkError>>;

    /// What went over it so far.
    fn traffic(&self) -> LinkTraffic;
}
