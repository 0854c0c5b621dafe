//! The SDRS dialect: protection groups as the disaster recovery service's API names them.
//!
//! Invariant: a handler only translates; each change is a job, whose identity is the answer.

mod domains;
mod drills;
mod groups;
mod instances;
mod jobs;
mod pairs;
mod tags;

use std::sync::Arc;

use api::{Code, SdrsJobBegun};
use axum::Json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::evs::{Asked, Match, Named, counted, id, whole_gib};
use super::{Body, Failure, Shared};
use crate::gateway::Gateway;
use crate::gateway::evs::{Made, coded};
use crate::names::is_name;
use crate::refusal::Refused;

type Begun = Result<Json<SdrsJobBegun>, Failure>;

const DESCRIPTION_MAX: usize = 64;
/// Identities that a list may be asked for.
const LISTED_MAX: usize = 30;

/// The calls of the disaster recovery service.
pub(super) fn calls() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(domains::list))
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::show, groups::rename, groups::delete))
        .routes(routes!(groups::act))
        .routes(routes!(pairs::list, pairs::create))
        .routes(routes!(pairs::show, pairs::rename, pairs::delete))
        .routes(routes!(pairs::act))
        .routes(routes!(domains::quotas))
        .merge(calls_of_instances())
        .merge(calls_of_drills_and_jobs())
}

fn calls_of_instances() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::show, instances::rename, instances::delete))
        .routes(routes!(instances::attach))
        .routes(routes!(instances::detach))
        .routes(routes!(instances::add_nic))
        .routes(routes!(instances::remove_nic))
        .routes(routes!(instances::resize))
        .routes(routes!(tags::list, tags::put))
        .routes(routes!(tags::take_off))
        .routes(routes!(tags::batch))
        .routes(routes!(tags::of_all))
        .routes(routes!(tags::look))
}

fn calls_of_drills_and_jobs() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(drills::list, drills::create))
        .routes(routes!(drills::show, drills::delete))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::failed, jobs::purge_all))
        .routes(routes!(jobs::purge))
}

fn begun(made: Made) -> Begun {
    let missing = || Failure::new(Code::Internal, "the job was not recorded");
    Ok(Json(SdrsJobBegun { job_id: made.job.ok_or_else(missing)?.to_string() }))
}

/// The identities that a list is asked for, as `['ID','ID']`.
fn listed_ids(asked: &mut Asked, name: &str) -> Result<Option<Vec<String>>, Refused> {
    let Some(text) = asked.remove(name) else { return Ok(None) };
    let ids = text.trim_matches(['[', ']']).split(',');
    let ids: Vec<String> = ids.map(|id| id.trim_matches(['\'', '"', ' ']).to_owned()).collect();
    if ids.len() <= LISTED_MAX {
        return Ok(Some(ids));
    }
    let detail = format!("{name} names at most {LISTED_MAX}");
    Err(coded(Code::Invalid, "SDRS.0226", detail))
}

fn check_name(name: &str) -> Result<(), Refused> {
    if is_name(name) {
        return Ok(());
    }
    let detail = format!("{name:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -");
    Err(coded(Code::Invalid, "SDRS.0202", detail))
}

fn check_description(text: &str) -> Result<(), Refused> {
    if text.len() <= DESCRIPTION_MAX && !text.contains(['<', '>']) {
        return Ok(());
    }
    let detail = format!("a description has at most {DESCRIPTION_MAX} bytes and neither < nor >");
    Err(coded(Code::Invalid, "SDRS.0212", detail))
}
