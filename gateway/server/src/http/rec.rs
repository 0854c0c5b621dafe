//! The REC dialect: copy sessions, volumes and jobs as the ETERNUS copy-session API names them, for
//! scripts that were written for it, over the same gateway.
//!
//! ```text
//!   script ─▶ /api/v1/copysession, /volume, /job, /storage ─▶ the same methods of `Gateway`
//!          ◀─ 202 and a job, or an error in the dialect's shape with our code
//! ```
//!
//! Invariant: nothing is decided here that the rest of the API could not decide; what the core does
//! not do is refused by name. Numbers are those of this gateway; each is durable before it is told.

mod act;
mod create;
mod fields;
mod jobs;
mod modes;
mod sessions;
mod shape;
mod status;
mod storage;
mod view;
mod volumes;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use jobs::Jobs;
pub(super) use shape::shape;

use super::{Body, Failure, Shared};
use crate::gateway::Gateway;

/// The dialect's calls.
pub(super) fn calls() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::patch, sessions::delete))
        .routes(routes!(sessions::suspend))
        .routes(routes!(sessions::suspend_many))
        .routes(routes!(sessions::resume))
        .routes(routes!(sessions::reverse))
        .routes(routes!(volumes::list, volumes::create, volumes::delete_many))
        .routes(routes!(volumes::show, volumes::delete))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(storage::show))
}

fn session_href(number: u64) -> String {
    format!("/api/v1/copysession/{number}")
}

fn volume_href(number: u64) -> String {
    format!("/api/v1/volume/{number}")
}

fn job_href(number: u64) -> String {
    format!("/api/v1/job/{number}")
}

/// A number in a path.
fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_e| {
        Failure::new(api::Code::Invalid, format!("{text:?} is no number of anything here"))
    })
}
