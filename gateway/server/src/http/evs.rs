//! The EVS dialect: replication pairs and consistency groups as the volume service's API names them, for
//! scripts that were written for it; and its successor, the disaster recovery service.
//!
//! ```text
//!   script ─▶ /v2/{project}/os-vendor-replication…, /v1/{project}/server-groups, … ─▶ `Gateway::evs_call`
//!          ◀─ the dialect's answer, or an error in its shape with its code
//! ```
//!
//! Invariant: a handler only translates. A project's identity is taken as it comes and divides nothing:
//! a gateway has one set of pairs and groups.

mod groups;
mod list;
mod pairs;
mod shape;

use std::sync::Arc;

use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

pub(super) use groups::whole_gib;
pub(super) use list::{Asked, Match, counted};
pub(super) use shape::shape;

use super::{Body, Failure, Shared};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// The model that there is.
const MODEL: &str = "hypermetro";
/// Of names and descriptions, in bytes.
const TEXT_MAX: usize = 255;

/// The calls of the volume service.
pub(super) fn calls() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(pairs::list, pairs::create))
        .routes(routes!(pairs::show, pairs::delete))
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::show, groups::update, groups::delete))
        .routes(routes!(groups::act))
}

/// What a path names beside the project.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    id: String,
}

impl Named {
    /// It.
    pub(super) fn id(&self) -> Result<Uuid, Refused> {
        id(&self.id)
    }
}

/// An identity in a path or a body.
pub(super) fn id(text: &str) -> Result<Uuid, Refused> {
    Uuid::parse_str(text).map_err(|_no| {
        Refused::new(api::Code::Invalid, format!("{text:?} is the identity of nothing here"))
    })
}

pub(super) fn ids(texts: &[String]) -> Result<Vec<Uuid>, Refused> {
    texts.iter().map(|text| id(text)).collect()
}

fn check_text(what: &str, text: &str) -> Result<(), Refused> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    let detail = format!("{what} has {} bytes; {TEXT_MAX} are allowed", text.len());
    Err(Refused::new(api::Code::Invalid, detail))
}

fn check_model(model: &str) -> Result<(), Refused> {
    if model == MODEL {
        return Ok(());
    }
    let detail = format!("replication_model {model:?}: there is only {MODEL:?}");
    Err(Refused::new(api::Code::Invalid, detail))
}
