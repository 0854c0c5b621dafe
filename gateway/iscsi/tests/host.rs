//! Sessions over real sockets, by an initiator of our own.

#[path = "host/honest.rs"]
mod honest;
#[path = "host/initiator.rs"]
mod initiator;
#[path = "host/nasty.rs"]
mod nasty;
#[path = "host/rig.rs"]
mod rig;
