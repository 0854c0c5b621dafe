//! Every limit of this target, with the arithmetic that produced it.
//!
//! Invariant: the limits fit together; the assertions at the end say how.

pub use host::limits::{
    CONNECTIONS_MAX, FLOOR_BYTES, GATEWAY_BYTES_MAX, PAYLOAD_KEPT_BYTES, PAYLOAD_KEPT_BYTES_MIN,
    SPARE_GRANT_BYTES,
};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

// === Login ===

/// A login that takes longer is dropped.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Logins under way on one listener; when one more arrives, the oldest is dropped.
pub const LOGINS_MAX: usize = 64;

/// Login requests of one login: security needs four, operational two; the rest is for text that
/// comes in pieces.
pub const LOGIN_REQUESTS_MAX: usize = 32;

/// Data of one PDU before full feature phase, as the standard fixes it.
pub const LOGIN_DATA_BYTES_MAX: usize = 8192;

/// Text of one exchange, all its PDUs together: every key there is, many times over.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// Keys of one exchange.
pub const KEYS_MAX: usize = 64;

/// The longest name of a key (RFC 7143 §6.1).
pub const KEY_BYTES_MAX: usize = 63;

/// The longest value: a CHAP response is 2048 bytes in hexadecimal at most.
pub const VALUE_BYTES_MAX: usize = 4096;

/// The longest iSCSI name (RFC 7143 §4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;

// === Connections ===

/// Connections of one listener, unless configured otherwise.
pub const LISTENER_CONNECTIONS_MAX: usize = 512;

/// A discovery session may be silent for so long.
pub const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(60);

// === What is negotiated ===

/// Data of one PDU that we take.
pub const RECV_SEGMENT_BYTES: u32 = 256 << 10;

/// The least that an initiator may declare to take.
pub const SEGMENT_BYTES_MIN: u32 = 512;

/// The most that either side may declare.
pub const SEGMENT_BYTES_MAX: u32 = (1 << 24) - 1;

/// One solicited sequence, or one sequence of what is read.
pub const MAX_BURST_BYTES: u32 = 1 << 20;

/// Data that may come before it is asked for.
pub const FIRST_BURST_BYTES: u32 = 256 << 10;

/// Sequences of one command that are asked for at once.
pub const OUTSTANDING_R2T_MAX: u32 = 8;

/// Seconds that an initiator waits before it logs in again.
pub const TIME_TO_WAIT_SECONDS: u32 = 2;

// === Commands ===

/// Commands of one session that are not answered: what Linux asks for at most.
pub const QUEUE_DEPTH: u32 = 128;

/// Immediate commands beside them.
pub const IMMEDIATE_MAX: usize = 16;

/// Bytes in flight per connection, as content on its way down or as replies that the initiator has
/// not taken. What comes unasked is beside them, see [`QUEUE_DEPTH`] and [`FIRST_BURST_BYTES`].
pub const INFLIGHT_BYTES_MAX: u64 = 64 * MIB;

/// Replies that an initiator has not taken; then nothing more is read from it.
pub const UNSENT_REPLIES_MAX: usize = 512;

/// Bytes of replies that an initiator has not taken; then nothing more is read from it.
pub const UNSENT_BYTES_MAX: u64 = INFLIGHT_BYTES_MAX + MIB;

/// Words of additional header segments: an extended CDB or the length of a bidirectional read, and
/// room for what we skip.
pub const AHS_WORDS_MAX: usize = 68;

/// Task management requests that wait for commands to end: one for each, and some for all.
pub const MANAGEMENT_MAX: usize = QUEUE_DEPTH as usize + 16;

// === Buffers ===

/// The receive buffer of a connection.
pub const RECEIVE_BYTES: usize = 256 << 10;

/// A payload from this size on is read straight into memory of its own.
pub const OWN_BUFFER_BYTES: usize = 64 << 10;

/// After such a payload this much is read at first, so that little of the next one lands in the
/// shared buffer and must be copied out.
pub const SHORT_READ_BYTES: usize = 4 << 10;

/// Pieces in one vectored write. The kernel takes 1024.
pub const SLICES_MAX: usize = 256;

/// Zeroes to send from.
pub const ZERO_PAGE_BYTES: usize = 64 << 10;

// === Fairness ===

/// Units of work of one turn on the shard. A PDU counts 1, and 1 more for each 16 KiB it moves.
pub const TURN_WORK: u64 = 512;

/// How long a connection that ran out of work looks again before its thread sleeps, unless
/// configured otherwise.
pub const BUSY_POLL: Duration = Duration::from_micros(50);

/// How often a connection that stands still looks again.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How soon a connection that waits for a share of the budget asks again.
pub const BUDGET_RETRY: Duration = Duration::from_millis(2);

/// An initiator that takes no byte of its replies, or sends no byte of a PDU or of data that it was
/// asked for, is dropped after this.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a command is kept whose outcome is in doubt; then the connection is dropped, and the
/// initiator looks for the site that serves. Below the 10 seconds after which initiators that
/// ping would call a command lost.
pub const HOLD_MAX: Duration = Duration::from_secs(8);

/// How long a connection whose initiator closed its side lives on for the commands in flight.
pub const LINGER: Duration = Duration::from_secs(30);

/// How long the last replies may take when a connection is closed by us, and how long an initiator has
/// that is asked to log out.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the session before waits for its end when its initiator logs in anew.
pub const REINSTATE_TIMEOUT: Duration = Duration::from_secs(5);

// === Keepalive ===

/// An initiator that was silent for so long is asked whether it lives.
pub const NOP_INTERVAL: Duration = Duration::from_secs(30);

/// One that does not answer for so long is dropped.
pub const NOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A silent TCP connection is probed after this long.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Between probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered probes until the connection is given up.
pub const KEEPALIVE_PROBES: u32 = 6;

// === How they fit together ===

const _: () = assert!(INFLIGHT_BYTES_MAX >= 2 * crate::scsi::limits::TRANSFER_BYTES_MAX);
const _: () = assert!(GATEWAY_BYTES_MAX >= 2 * INFLIGHT_BYTES_MAX);
const _: () = assert!(FIRST_BURST_BYTES <= MAX_BURST_BYTES);
const _: () = assert!(RECV_SEGMENT_BYTES <= SEGMENT_BYTES_MAX);
const _: () = assert!(QUEUE_DEPTH as u64 * FIRST_BURST_BYTES as u64 <= INFLIGHT_BYTES_MAX);
const _: () = assert!(RECEIVE_BYTES >= 2 * OWN_BUFFER_BYTES);
const _: () = assert!(FLOOR_BYTES >= 256 * KIB);
const _: () = assert!(TEXT_BYTES_MAX >= 2 * LOGIN_DATA_BYTES_MAX);
const _: () = assert!(UNSENT_REPLIES_MAX > QUEUE_DEPTH as usize + IMMEDIATE_MAX);
