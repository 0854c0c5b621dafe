//! Hosts of every kind against the whole server: listeners, handshake, shard thread, volume.
//!
//! What must stay true: whatever one client does, another is served; what is answered is true.

#![expect(clippy::unwrap_used, reason = "a rig that cannot be set up is a failed test")]

#[path = "host/client.rs"]
mod client;
#[path = "host/honest.rs"]
mod honest;
#[path = "host/nasty.rs"]
mod nasty;
#[path = "host/rig.rs"]
mod rig;
#[path = "host/tls.rs"]
mod tls;
