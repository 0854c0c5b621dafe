//! The calls of `/api/v1/sessions`: mirror sessions, ruled at their source.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mirror::Command;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};
use crate::gateway::suspensions::Suspending;

/// What sessions are filtered and sorted by.
const FIELDS: &[&str] = &[
    "id",
    "volume",
    "volume_id",
    "group",
    "from",
    "to",
    "out_of_sync_bytes",
    "resync_kind",
    "leg.site",
    "leg.phase",
    "leg.state",
    "leg.policy.mode",
];

/// A session that is still ruled from here, or nothing.
fn shown(session: Option<api::Session>) -> Response {
    match session {
        Some(session) => Json(session).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// All sessions whose source is here, in pages if asked for, and what is mirrored here
///
/// Filters: `id`, `volume`, `volume_id`, `group`, `from`, `to`, `out_of_sync_bytes`, `resync_kind`,
/// `leg.site`, `leg.phase`, `leg.state`, `leg.policy.mode`.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", operation_id = "list_sessions",
    params(Parameters),
    responses((status = 200, body = api::SessionList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Asked,
) -> Result<Json<api::SessionList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let mut list = gateway.show_sessions().await;
    (list.items, list.next) = page.take(list.items)?;
    Ok(Json(list))
}

/// Mirror a group to another site
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", operation_id = "create_session",
    request_body = api::SessionCreate,
    responses((status = 201, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<api::SessionCreate>,
) -> Result<(StatusCode, Json<api::Session>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.create_session(wanted).await?)))
}

/// One session: its id, `NAME:SITE`, or `NAME` if it has only one; a name is that of a group or of
/// a volume
#[utoipa::path(get, path = "/api/v1/sessions/{session}", tag = "sessions",
    operation_id = "show_session", params(("session" = String, Path)),
    responses((status = 200, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(session): Path<String>,
) -> Result<Json<api::Session>, Failure> {
    Ok(Json(gateway.find_session(&session).await?.0))
}

/// Change a session's policies
#[utoipa::path(patch, path = "/api/v1/sessions/{session}", tag = "sessions",
    operation_id = "patch_session", params(("session" = String, Path)),
    request_body = api::PolicyPatch,
    responses((status = 200, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn patch(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(patch): Body<api::PolicyPatch>,
) -> Result<Response, Failure> {
    Ok(shown(gateway.patch_session(&session, &patch).await?))
}

/// Delete a session; the mirror keeps its copy, as an old one, unless it is to go with it
///
/// At the mirror, `half` deletes what a session left there that its source has forgotten: the copy
/// becomes a group of its own.
#[utoipa::path(delete, path = "/api/v1/sessions/{session}", tag = "sessions",
    operation_id = "delete_session",
    params(("session" = String, Path),
           ("half" = Option<bool>, Query,
            description = "true: the half that is here; the session is then a group or volume"),
           ("with_volume" = Option<bool>, Query,
            description = "true: with the volumes of the copy"),
           ("force" = Option<bool>, Query,
            description = "true: also where the other gateway cannot be asked")),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(session): Path<String>,
    Query(asked): Query<api::DeleteSession>,
) -> Result<StatusCode, Failure> {
    gateway.delete_as_asked(&session, asked).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop mirroring and remember changes; 202: the mirror is brought to the present first
///
/// A mirror that is connected and lacks anything is waited for, while hosts go on: the operation says
/// what is left. In the middle of a copy that needs far longer than the usual minute it is refused at
/// once. With `force`, and where the mirror is not connected, the session is suspended as it is, and
/// `left_whole` of its leg says whether anything is missing there.
#[utoipa::path(post, path = "/api/v1/sessions/{session}/suspend", tag = "sessions",
    operation_id = "suspend_session", params(("session" = String, Path)),
    request_body = api::SuspendSession,
    responses((status = 200, body = api::Session), (status = 202, body = api::Operation),
              (status = "default", body = api::Problem)))]
pub(super) async fn suspend(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(request): Body<api::SuspendSession>,
) -> Result<Response, Failure> {
    Ok(match gateway.suspend_session(&session, &request).await? {
        Suspending::Done(session) => shown(session.map(|session| *session)),
        Suspending::Draining(begun) => (StatusCode::ACCEPTED, Json(*begun)).into_response(),
    })
}

/// Mirror again, by delta
#[utoipa::path(post, path = "/api/v1/sessions/{session}/resume", tag = "sessions",
    operation_id = "resume_session", params(("session" = String, Path)),
    request_body = api::ResumeSession,
    responses((status = 200, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn resume(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(request): Body<api::ResumeSession>,
) -> Result<Response, Failure> {
    let discard = request.discard;
    let outcome = gateway
        .session_command(&session, "resumed", |leg| Command::Resume { leg, discard })
        .await?;
    Ok(shown(outcome))
}

/// Compare every mapped block of the mirror with its source
///
/// Both sides read it; what differs is counted and copied again. Hosts go on. The session shows how
/// far it has come, and at the end a certificate.
#[utoipa::path(post, path = "/api/v1/sessions/{session}/verify", tag = "sessions",
    operation_id = "verify_session", params(("session" = String, Path)),
    request_body = api::VerifySession,
    responses((status = 200, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn verify(
    State(gateway): Shared,
    Path(session): Path<String>,
    Body(request): Body<api::VerifySession>,
) -> Result<Response, Failure> {
    Ok(shown(gateway.verify_session(&session, &request).await?))
}

/// Bring a mirror of mode `stack` to one later point; answered when it has begun
#[utoipa::path(post, path = "/api/v1/sessions/{session}/transfer", tag = "sessions",
    operation_id = "transfer_session", params(("session" = String, Path)),
    responses((status = 200, body = api::Session), (status = "default", body = api::Problem)))]
pub(super) async fn transfer(
    State(gateway): Shared,
    Path(session): Path<String>,
) -> Result<Response, Failure> {
    let begun = gateway
        .session_command(&session, "transfer begun", |leg| Command::Transfer { leg })
        .await?;
    Ok(shown(begun))
}

/// Swap roles with the mirror, losing nothing; 204: the session's source is the other site now
#[utoipa::path(post, path = "/api/v1/sessions/{session}/reverse", tag = "sessions",
    operation_id = "reverse_session", params(("session" = String, Path)),
    responses((status = 200, body = api::Session), (status = 204),
              (status = "default", body = api::Problem)))]
pub(super) async fn reverse(
    State(gateway): Shared,
    Path(session): Path<String>,
) -> Result<Response, Failure> {
    let outcome =
        gateway.session_command(&session, "reversed", |leg| Command::Reverse { leg }).await?;
    Ok(shown(outcome))
}
