//! Everything here has a limit, with the arithmetic that produced it.
//!
//! Invariant: nothing that a peer says makes this gateway hold more than these numbers allow, and
//! a peer that is not yet trusted gets the small ones.

use std::time::Duration;

/// The largest change in one frame: the largest request that a host may send.
pub const CHANGE_BYTES_MAX: usize = 64 << 20;
/// The largest payload of any frame: a change, and room for the fields of a body around one.
pub const PAYLOAD_BYTES_MAX: usize = CHANGE_BYTES_MAX + (64 << 10);
/// The largest payload before the peer is known.
pub const HANDSHAKE_PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// A name of a site, group or volume, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 1024;
/// A text for people; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Addresses of one gateway.
pub const ADDRESSES_MAX: usize = 8;
/// One `host:port`: a DNS name has at most 253 bytes.
pub const ADDRESS_BYTES_MAX: usize = 262;
/// Volumes of one group: what the index in a frame's header can name.
pub const VOLUMES_MAX: usize = 1 << 16;
/// Generations in a history. The oldest of a longer one are left out, which at worst costs a copy
/// in full.
pub const ANCESTORS_MAX: usize = 4096;
/// Ranges in one `Differs`; longer reports become several. 1 MiB of payload.
pub const RANGES_PER_FRAME_MAX: usize = 1 << 16;
/// Checksums in one `Compare`: 64 MiB of blocks, a change's most.
pub const SUMS_BYTES_MAX: usize = 64 << 10;
/// Acknowledgements in one frame; longer batches become several. 512 KiB of payload.
pub const ACKS_PER_FRAME_MAX: usize = 1 << 16;
/// A question between two servers, or its answer: names, numbers, a sentence or two.
pub const QUESTION_BYTES_MAX: usize = 16 << 10;
/// The same since questions may be about runs: a record of a journal has up to 512 KiB, and what is
/// around it little. What a mirror is told of snapshots has as much since it may be what others lack.
pub const LONG_QUESTION_BYTES_MAX: usize = 1 << 20;

/// TLS, greeting and `Open` together.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// One attempt to connect to one address.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Sent bytes that the peer's kernel leaves unacknowledged for this long end the connection. The
/// mirror's heartbeats decide much earlier; this is for a connection that nobody watches.
pub const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(30);
/// Quiet time before the kernel probes the connection.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Kernel buffers: 10 Gbit/s over a round trip of 3 ms are 3.75 MB under way.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// What one system call may take from the socket.
pub const SOCKET_READ_BYTES: usize = 128 << 10;
/// Encrypted bytes that wait for the kernel: 64 TLS records, as many as one vectored write takes.
pub const TLS_BUFFER_BYTES: usize = 1 << 20;
/// The buffer that frames are cut from.
pub const INBOX_BYTES: usize = 256 << 10;
/// Frames from here on are worth a buffer of their own.
pub const LARGE_FRAME_BYTES: usize = 64 << 10;
/// A copy of 1 MiB, its header, a page to begin at, and a TLS record of what comes behind it.
pub const SHELF_BUFFER_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Buffers that a link uses again: twice as many as a copier has on their way. 17 MiB at most.
pub const SHELF_BUFFERS_MAX: usize = 16;
/// Bytes taken in one poll before others on this thread get their turn.
pub const RECEIVE_TURN_BYTES: usize = 1 << 20;
/// Bytes that a simulated distance holds back: 1 GB/s over 64 ms.
pub const DISTANCE_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(RANGES_PER_FRAME_MAX * 16 <= PAYLOAD_BYTES_MAX);
const _: () = assert!(SUMS_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(LONG_QUESTION_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(ACKS_PER_FRAME_MAX * 8 <= PAYLOAD_BYTES_MAX);
const _: () = assert!(ANCESTORS_MAX * 16 + TEXT_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize);
// A greeting fits, whatever the names in it.
const _: () = assert!(
    NAME_BYTES_MAX + TEXT_BYTES_MAX + ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 2) + 256
        <= HANDSHAKE_PAYLOAD_BYTES_MAX
);
