//! The contract of `wit/`, as the tools make Rust of it.
//!
//! Invariant: nothing here is written by hand; the modules of the crate convert where another shape
//! serves better.

#![expect(missing_docs, reason = "the contract documents itself, in wit/")]
#![allow(unused_qualifications, clippy::str_to_string, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "every-part",
    imports: { default: async | trappable },
    exports: { default: async },
});
