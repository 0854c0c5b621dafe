//! What connects backups to this product: targets, snapshots that are read, volumes that are filled.
//!
//! ```text
//!   config ─▶ Targets ─▶ Repository ◀── Point (a snapshot's volume, on its shard)
//!                                   ──▶ Filling (a volume that takes no host, on its shard)
//!                                   ──▶ BackupOrigin (what a volume is filled from while it is used)
//! ```
//!
//! Invariant: nothing here decides what is backed up or restored; see `gateway/backups`.

pub(crate) mod filling;
pub(crate) mod origin;
pub(crate) mod point;
mod refuse;
pub(crate) mod show;
pub(crate) mod targets;

pub(crate) use targets::{Connected, Targets};
