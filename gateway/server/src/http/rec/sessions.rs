//! The calls of `/copysession`: shown at both gateways, ruled at the one that each rule names.

use std::sync::Arc;

use api::{
    Code, RecAccepted, RecCopySession, RecCopySessionList, RecForce, RecPatch, RecResume,
    RecSuspendMany,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::fields::Fields;
use super::jobs::Work;
use super::status::{self, Status};
use super::{Body, Failure, Shared, act, modes, number, session_href, view};
use crate::gateway::Gateway;
use crate::gateway::halves::Half;
use crate::refusal::Refused;

type Accepted = Result<(StatusCode, Json<RecAccepted>), Failure>;

/// Sessions that one call may suspend.
const SESSIONS_MAX: usize = 512;

/// The half that is listed under this number.
async fn find(gateway: &Gateway, text: &str) -> Result<(Half, RecCopySession), Failure> {
    let wanted = number(text)?;
    numbered(gateway, wanted).await.map_err(Failure::from)
}

async fn numbered(gateway: &Gateway, wanted: u64) -> Result<(Half, RecCopySession), Refused> {
    let mut all = view::all(gateway).await?.into_iter();
    all.find(|(_, shown)| shown.copysession_id == wanted).ok_or_else(|| {
        let detail = format!("{} has no copy session {wanted}", gateway.config.site.name);
        Refused::new(Code::NotFound, detail)
    })
}

fn accepted(work: &Work, warnings: Vec<String>) -> (StatusCode, Json<RecAccepted>) {
    (StatusCode::ACCEPTED, Json(work.accepted(warnings)))
}

fn begin(gateway: &Arc<Gateway>, kind: &str, half: &Half, call: &str) -> Work {
    Work::begin(gateway, kind, &half.entry.name, call)
}

/// Sessions of which this gateway has a half
#[utoipa::path(get, path = "/api/v1/copysession", tag = "rec",
    operation_id = "rec_list_copysessions", params(("fields" = Option<String>, Query)),
    responses((status = 200, body = RecCopySessionList),
              (status = "default", body = api::RecError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    let all: Vec<RecCopySession> =
        view::all(&gateway).await?.into_iter().map(|(_, shown)| shown).collect();
    fields.list("copysession_list", &all)
}

/// A session, from this side
#[utoipa::path(get, path = "/api/v1/copysession/{copysession_id}", tag = "rec",
    operation_id = "rec_show_copysession",
    params(("copysession_id" = u64, Path), ("fields" = Option<String>, Query)),
    responses((status = 200, body = RecCopySession), (status = "default", body = api::RecError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(session): Path<String>,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    fields.one(&find(&gateway, &session).await?.1)
}

/// Change the modes of a suspended session, at its source
#[utoipa::path(patch, path = "/api/v1/copysession/{copysession_id}", tag = "rec",
    operation_id = "rec_patch_copysession", params(("copysession_id" = u64, Path)),
    request_body = RecPatch,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn patch(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(wanted): Body<RecPatch>,
) -> Accepted {
    let (half, shown) = find(&gateway, &session).await?;
    let leg = act::source_leg(&half)?;
    if status::of_leg(leg) != Status::Suspend {
        let detail = format!("it is {}: suspend the session before it is changed", shown.status);
        return Err(Failure::new(Code::WrongState, detail));
    }
    let now =
        modes::Now { mode: status::transfer_mode(leg), split: status::split(leg.policy.split) };
    let change = modes::decide(now, &wanted)?;
    let href = session_href(shown.copysession_id);
    let mut work = begin(&gateway, "rec.patch", &half, &format!("PATCH {href}"));
    let answer = accepted(&work, change.warnings.clone());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        work.running.step("change the policies");
        let name = half.session.to_string();
        let changed = task.patch_session(&name, &change.policy).await.map(|_session| ());
        if changed.is_ok() {
            work.running.done(change.warnings.join("; "));
            work.resource(href.clone());
        }
        work.end(&href, changed);
    });
    Ok(answer)
}

/// Split a session into two volumes that hosts can use; changes on both are tracked
#[utoipa::path(post, path = "/api/v1/copysession/{copysession_id}/suspend", tag = "rec",
    operation_id = "rec_suspend_copysession", params(("copysession_id" = u64, Path)),
    request_body = RecForce,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn suspend(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(RecForce { force }): Body<RecForce>,
) -> Accepted {
    let (half, shown) = find(&gateway, &session).await?;
    act::may_suspend(&half, force)?;
    let href = session_href(shown.copysession_id);
    let mut work = begin(&gateway, "rec.suspend", &half, &format!("POST {href}/suspend"));
    let answer = accepted(&work, Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let done = act::suspend(&task, &half, force, &mut work).await;
        if done.is_ok() {
            work.resource(href.clone());
            work.progress(href.clone());
        }
        work.end(&href, done);
    });
    Ok(answer)
}

/// Split several sessions; what became of each is in the job
#[utoipa::path(post, path = "/api/v1/copysession/suspend", tag = "rec",
    operation_id = "rec_suspend_copysessions", request_body = RecSuspendMany,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn suspend_many(
    State(gateway): Shared,
    Body(wanted): Body<RecSuspendMany>,
) -> Accepted {
    let count = wanted.copysession_id_list.len();
    if count == 0 || count > SESSIONS_MAX {
        let detail = format!("copysession_id_list has 1 to {SESSIONS_MAX} numbers, not {count}");
        return Err(Failure::new(Code::Invalid, detail));
    }
    let subject = format!("{count} sessions");
    let mut work =
        Work::begin(&gateway, "rec.suspend", &subject, "POST /api/v1/copysession/suspend");
    let answer = accepted(&work, Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        for wanted_number in wanted.copysession_id_list {
            let href = session_href(wanted_number);
            match suspend_numbered(&task, wanted_number, wanted.force, &mut work).await {
                Ok(()) => {
                    work.succeeded(href.clone());
                    work.progress(href);
                }
                Err(refused) => work.failed(href, &refused),
            }
        }
        work.end_of_many();
    });
    Ok(answer)
}

async fn suspend_numbered(
    gateway: &Gateway,
    wanted: u64,
    force: bool,
    work: &mut Work,
) -> Result<(), Refused> {
    let (half, _) = numbered(gateway, wanted).await?;
    act::may_suspend(&half, force)?;
    act::suspend(gateway, &half, force, work).await
}

/// Let a suspended session run again, at its source
#[utoipa::path(post, path = "/api/v1/copysession/{copysession_id}/resume", tag = "rec",
    operation_id = "rec_resume_copysession", params(("copysession_id" = u64, Path)),
    request_body = RecResume,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn resume(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(RecResume { confirm_discard }): Body<RecResume>,
) -> Accepted {
    let (half, shown) = find(&gateway, &session).await?;
    act::may_resume(&gateway, &half, confirm_discard).await?;
    let href = session_href(shown.copysession_id);
    let mut work = begin(&gateway, "rec.resume", &half, &format!("POST {href}/resume"));
    let answer = accepted(&work, Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let done = act::resume(&task, &half, confirm_discard, &mut work).await;
        if done.is_ok() {
            work.resource(href.clone());
            work.progress(href.clone());
        }
        work.end(&href, done);
    });
    Ok(answer)
}

/// Swap source and destination of a suspended session; nothing is copied before it is resumed
#[utoipa::path(post, path = "/api/v1/copysession/{copysession_id}/reverse", tag = "rec",
    operation_id = "rec_reverse_copysession", params(("copysession_id" = u64, Path)),
    request_body = RecForce,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn reverse(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(RecForce { force }): Body<RecForce>,
) -> Accepted {
    let (half, shown) = find(&gateway, &session).await?;
    act::may_reverse(&gateway, &half, force).await?;
    let href = session_href(shown.copysession_id);
    let mut work = begin(&gateway, "rec.reverse", &half, &format!("POST {href}/reverse"));
    let answer = accepted(&work, Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let done = act::reverse(&task, &half, &mut work).await;
        if done.is_ok() {
            work.resource(href.clone());
        }
        work.end(&href, done);
    });
    Ok(answer)
}

/// Delete a session; both its volumes stay
#[utoipa::path(delete, path = "/api/v1/copysession/{copysession_id}", tag = "rec",
    operation_id = "rec_delete_copysession",
    params(("copysession_id" = u64, Path), ("force" = Option<bool>, Query)),
    request_body = RecForce,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(session): Path<String>,
    Query(asked): Query<RecForce>,
    Body(said): Body<RecForce>,
) -> Accepted {
    let force = asked.force || said.force;
    let (half, shown) = find(&gateway, &session).await?;
    act::may_delete(&gateway, &half, force).await?;
    let href = session_href(shown.copysession_id);
    let mut work = begin(&gateway, "rec.delete", &half, &format!("DELETE {href}"));
    let answer = accepted(&work, Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let done = act::delete(&task, &half, &mut work).await;
        work.end(&href, done);
    });
    Ok(answer)
}
