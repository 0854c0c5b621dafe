//! The pool volume on a simulated disk: against a model, through crashes, full and failing disks.

#![expect(clippy::panic_in_result_fn, reason = "what a request returned and what must hold")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

extern crate twinspan_store as store;

mod clones;
mod crash;
mod faults;
mod filling;
mod journal;
mod model;
mod overlap;
mod raw;
mod real;
mod rig;
mod segments;
mod shared;
mod snapshots;
