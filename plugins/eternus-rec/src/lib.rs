//! Remote copies between two storage systems that speak the copy-session API, as steps of plans.
//!
//! ```text
//!   step ─▶ flow ─▶ look at both systems ─▶ so ─▶ done
//!             ▲                          └▶ not so ─▶ one push, a job ─▶ pending ─┐
//!             └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A storage system is a box with an id, and a volume is a number there; plans name volumes, and the flows
//! find the rest. An array speaks this API, and so does a gateway.
//!
//! Invariant: a flow decides by what it sees at the systems, and by the one word that it noted of its own;
//! whatever was cut short is gone on with from there.

mod arrays;
mod component;
mod flows;
mod turn;

wit_bindgen::generate!({ path: "../../wit", world: "action-plugin", generate_all });

use component::Rec;
use twinspan::plugin::types::{Error, ErrorCode, Retry};

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error { code, message: message.into(), retry: Retry::Never, vendor_code: None }
}

fn again(code: ErrorCode, message: impl Into<String>, after_ms: u32) -> Error {
    Error { retry: Retry::AfterMs(after_ms), ..error(code, message) }
}

export!(Rec);
