//! Sessions over real sockets, by an initiator of our own.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be set up is a failed test")]

#[path = "host/honest.rs"]
mod honest;
#[path = "host/initiator.rs"]
mod initiator;
#[path = "host/luns.rs"]
mod luns;
#[path = "host/managed.rs"]
mod managed;
#[path = "host/nasty.rs"]
mod nasty;
#[path = "host/ordered.rs"]
mod ordered;
#[path = "host/rig.rs"]
mod rig;
#[path = "host/silent.rs"]
mod silent;
