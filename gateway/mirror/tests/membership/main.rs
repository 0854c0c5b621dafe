//! Volumes that join and leave a mirrored group, over memory stores and an in-memory link, in
//! virtual time.

#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "../two_gateways/link.rs"]
mod link;
mod members;
#[path = "../two_gateways/parts.rs"]
mod parts;
mod world;

use block::Op;
use world::{Site, World, bytes, extent};
