//! The rules of the house that a compiler does not check, as plain functions over the tree.
//!
//! Each rule takes a [`Tree`] and returns what is wrong, one sentence with a path each; an empty
//! list is a clean tree. `tests/house.rs` runs them all over this repository; beside each rule
//! stand tests that it can fail.
//!
//! Invariant: std only, and nothing of the product is linked, so the rules run when nothing else
//! compiles.
#![forbid(unsafe_code)]

pub mod coverage;
pub mod crates;
pub mod dashboards;
pub mod documents;
pub mod names;
pub mod shape;
pub mod source;
pub mod tree;
pub mod words;

pub use tree::Tree;

/// What a rule found: one sentence each, which names the file.
pub type Findings = Vec<String>;
