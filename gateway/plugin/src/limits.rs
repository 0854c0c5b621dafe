//! What a plugin may use up, and how these numbers hang together.
//!
//! Invariant: whatever a component does, a gateway spends at most this on it.

use std::time::Duration;

/// A component's file, in bytes: one that carries a whole language's runtime has 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// Memory of one call, in bytes: a script's interpreter takes a few MiB, a page of a cloud's answer too.
pub(crate) const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Elements of one table of functions.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Calls at once over all plugins; further ones wait. A call holds little while it waits for a cloud.
pub(crate) const CALLS_MAX: usize = 32;
/// Core instances in one component: adapters and shims come beside the module itself.
pub(crate) const CORE_INSTANCES_MAX: u32 = 20;
/// What one call may hand over, in bytes of strings and lists: its answer, and arguments of host calls.
pub(crate) const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// How often a call that computes is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Computing time of a call that may call nobody.
pub(crate) const PURE_CPU_MAX: Duration = Duration::from_secs(2);
/// Computing time of any other call.
pub(crate) const CPU_MAX: Duration = Duration::from_secs(10);
/// The longest a call that may call nobody takes.
pub(crate) const PURE_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest a call takes that asks without changing anything.
pub(crate) const ASK_TIME_MAX: Duration = Duration::from_secs(30);
/// The longest limit that an action may describe, in seconds.
pub(crate) const ACTION_SECONDS_MAX: u32 = 300;
/// Between two asks of what is due, at least: a plugin that wants it sooner would be a loop.
pub(crate) const TICK_MIN: Duration = Duration::from_millis(250);
/// And at most.
pub(crate) const TICK_MAX: Duration = Duration::from_hours(24);
/// Actions of one plugin.
pub(crate) const ACTIONS_MAX: usize = 200;
/// Wishes of one plugin.
pub(crate) const WANTS_MAX: usize = 100;
/// A schema, a configuration or parameters, in bytes.
pub(crate) const JSON_BYTES_MAX: usize = 1 << 20;
/// The token of what is pending, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64 << 10;
/// A name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 63;
/// Lines of log of one call.
pub(crate) const LOG_LINES_MAX: u32 = 200;
/// A line of log, in bytes.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 2 << 10;
/// Lines that are remembered of one plugin.
pub(crate) const LOG_KEPT_MAX: usize = 1_000;
/// HTTP requests of one call.
pub(crate) const HTTP_REQUESTS_MAX: u32 = 100;
/// What one call says of things that it made or removed: each is a record of the run's journal.
pub(crate) const NOTES_MAX: u32 = 256;
/// The kind, the id and the name of such a thing, each in bytes.
pub(crate) const NOTE_BYTES_MAX: usize = 1 << 10;
/// Body of a request or an answer, in bytes.
pub(crate) const HTTP_BODY_BYTES_MAX: usize = 4 << 20;
/// Keys of one plugin.
pub(crate) const KV_KEYS_MAX: usize = 1_000;
/// A key, in bytes.
pub(crate) const KV_KEY_BYTES_MAX: usize = 256;
/// A value, in bytes.
pub(crate) const KV_VALUE_BYTES_MAX: usize = 64 << 10;
/// Keys and values of one plugin together, in bytes.
pub(crate) const KV_BYTES_MAX: usize = 16 << 20;
/// Pairs of name and label of a plugin's own numbers.
pub(crate) const CUSTOM_SERIES_MAX: usize = 100;
/// Faults in a row after which a plugin rests.
pub(crate) const FAULTS_MAX: u32 = 3;
/// Its first rest.
pub(crate) const REST_MIN: Duration = Duration::from_secs(1);
/// Its longest.
pub(crate) const REST_MAX: Duration = Duration::from_mins(5);

const _: () = assert!(OUTPUT_BYTES_MAX > HTTP_BODY_BYTES_MAX + KV_VALUE_BYTES_MAX);
const _: () = assert!(OUTPUT_BYTES_MAX < MEMORY_BYTES_MAX);
const _: () = assert!(TOKEN_BYTES_MAX < JSON_BYTES_MAX);
const _: () = assert!(KV_KEYS_MAX * KV_VALUE_BYTES_MAX > KV_BYTES_MAX);
