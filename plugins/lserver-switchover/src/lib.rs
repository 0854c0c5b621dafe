//! Switching L-Servers of a resource orchestrator over to another site: seventeen steps, the folder that
//! they need, and the plans that put them in order.
//!
//! ```text
//!   plan ──▶ steps ──▶ batch, rules, charges      what is to be done: from documents alone
//!              │
//!              ├─────▶ manager                    the orchestrator of this site, over HTTP
//!              └─────▶ collect                    the information folder, which is mirrored
//! ```
//!
//! Invariant: only `component` knows the contract. The rest is the same natively, where it is tested.

pub mod batch;
pub mod charges;
pub mod collect;
#[cfg(target_arch = "wasm32")]
mod component;
pub mod manager;
pub mod model;
pub mod outside;
pub mod plan;
pub mod rules;
pub mod steps;
