//! Every limit of this server, with the arithmetic that produced it.
//!
//! Invariant: the limits fit together; the assertions at the end say how.

use std::time::Duration;

use block::BLOCK_BYTES;
pub use host::limits::{
    CONNECTIONS_MAX, FLOOR_BYTES, GATEWAY_BYTES_MAX, PAYLOAD_KEPT_BYTES, PAYLOAD_KEPT_BYTES_MIN,
    SPARE_GRANT_BYTES,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

// === Handshake ===

/// A handshake, TLS included, that takes longer is dropped (CVE-2024-7409).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes under way on one listener. An honest one takes milliseconds; when one more arrives,
/// the oldest is dropped, so that idlers cannot keep newcomers out.
pub const HANDSHAKES_MAX: usize = 64;

/// Options of one handshake. A client that lists exports and asks for the details of each needs
/// two apiece.
pub const OPTIONS_MAX: usize = 2048;

/// Payload of one option that is kept in memory: four names or queries of the longest kind. A
/// longer one is skipped and answered `NBD_REP_ERR_TOO_BIG`.
pub const OPTION_BYTES_MAX: usize = 16 << 10;

/// The longest name, description or query: what the protocol recommends.
pub const NAME_BYTES_MAX: usize = 4096;

/// Queries in one request for metadata contexts, and information requests in one `GO`.
pub const QUERIES_MAX: usize = 1024;

// === Connections ===

/// Connections of one listener, unless configured otherwise.
pub const LISTENER_CONNECTIONS_MAX: usize = 512;

// === Requests ===

/// The size that is advertised as the largest; what QEMU advertises, and what the Linux kernel
/// sends at most.
pub const BLOCK_BYTES_MAX: u32 = 32 << 20;

/// The largest payload that is accepted. More than is advertised, because old clients cannot ask:
/// the reference server's own test sends 47.6 MiB.
pub const REQUEST_BYTES_MAX: u64 = 64 * MIB;

/// A refused payload up to this size is consumed and answered with an error; the sender of a
/// longer one is disconnected.
pub const REFUSED_BYTES_MAX: u64 = u32::MAX as u64;

/// Requests in flight per connection: twice what the Linux kernel sends (128).
pub const INFLIGHT_REQUESTS_MAX: usize = 256;

/// Bytes in flight per connection, as payload on its way down or as replies that the client has
/// not taken.
pub const INFLIGHT_BYTES_MAX: u64 = 128 * MIB;

/// A trim or a zeroing is handed down in pieces of this size, one after the other, so that none
/// holds its shard or the mirror for long however many bytes it names.
pub const PIECE_BYTES_MAX: u64 = 1024 * MIB;

/// Extents in one reply to a block status request: 8 KiB of compact descriptors. A client asks
/// again for the rest.
pub const STATUS_RUNS_MAX: usize = 1024;

// === Buffers ===

/// The receive buffer of a connection: 63 writes of 4 KiB, and no more than fits a core's cache.
pub const RECEIVE_BYTES: usize = 256 << 10;

/// A payload from this size on gets a buffer of its own.
pub const OWN_BUFFER_BYTES: usize = 64 << 10;

/// What the kernel is asked to take of the replies of one connection over a Unix socket before it
/// makes us wait; it doubles the number for its own bookkeeping and has a limit of its own. The
/// default (208 KiB) cuts a reply of 1 MiB into six, with a wait for the client between them.
pub const UNIX_SEND_BYTES: usize = 512 << 10;

/// After such a payload this much is read at first, so that little of the next one lands in the
/// shared buffer and must be copied out.
pub const SHORT_READ_BYTES: usize = 4 << 10;

/// Pieces in one vectored write. The kernel takes 1024; 32 replies with data need 64.
pub const SLICES_MAX: usize = 256;

/// Zeroes to send from, for a client that cannot be told of holes.
pub const ZERO_PAGE_BYTES: usize = 64 << 10;

// === Fairness ===

/// Units of work of one turn on the shard. A request counts 1, and 1 more for each 16 KiB it moves:
/// about half a millisecond.
pub const TURN_WORK: u64 = 512;

/// What a block status request counts: it may walk `STATUS_RUNS_MAX` runs.
pub const STATUS_WORK: u64 = 64;

/// How long a connection that ran out of work looks again before its thread sleeps, unless
/// configured otherwise. A host next door sends its next request some 20 microseconds after an
/// answer; to sleep and to be woken on another core costs as much again, on both sides.
pub const BUSY_POLL: Duration = Duration::from_micros(50);

/// How often a stalled connection looks again.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How soon a connection that waits for a share of the budget asks again.
pub const BUDGET_RETRY: Duration = Duration::from_millis(2);

/// A client that takes no byte of its replies for this long is dropped, if others wait for the
/// budget that it holds.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that sends a payload slower than this is dropped after [`PAYLOAD_GRACE`], if others
/// wait for the budget that it holds.
pub const PAYLOAD_BYTES_PER_SECOND_MIN: u64 = MIB;

/// Time that every payload gets, however small.
pub const PAYLOAD_GRACE: Duration = Duration::from_secs(10);

/// How long a connection whose client closed its side lives on for the requests in flight.
pub const LINGER: Duration = Duration::from_secs(30);

/// How long the last replies and the TLS farewell may take when a connection is closed by us.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

// === Keepalive ===

/// A silent TCP connection is probed after this long, so that a host that lost power does not
/// hold its place for hours.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Between probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered probes until the connection is given up: two minutes in all.
pub const KEEPALIVE_PROBES: u32 = 6;

// === How they fit together ===

const _: () = assert!(INFLIGHT_REQUESTS_MAX >= 128);
const _: () = assert!(INFLIGHT_BYTES_MAX >= 2 * REQUEST_BYTES_MAX);
const _: () = assert!(GATEWAY_BYTES_MAX >= 2 * INFLIGHT_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX >= BLOCK_BYTES_MAX as u64);
const _: () = assert!(REQUEST_BYTES_MAX <= u32::MAX as u64 - 64);
const _: () = assert!(BLOCK_BYTES_MAX as u64 >= 2 * RECEIVE_BYTES as u64);
const _: () = assert!(FLOOR_BYTES >= RECEIVE_BYTES as u64);
const _: () = assert!(FLOOR_BYTES >= INFLIGHT_REQUESTS_MAX as u64 * BLOCK_BYTES);
const _: () = assert!(RECEIVE_BYTES >= 2 * OWN_BUFFER_BYTES);
const _: () = assert!(OPTION_BYTES_MAX >= 3 * NAME_BYTES_MAX);
const _: () = assert!(LISTENER_CONNECTIONS_MAX > HANDSHAKES_MAX);
const _: () = assert!(PIECE_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(SLICES_MAX <= 1024);
const _: () = assert!(OWN_BUFFER_BYTES as u64 >= 64 * KIB);
