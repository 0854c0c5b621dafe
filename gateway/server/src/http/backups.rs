//! `/api/v1/backups` and `/api/v1/backup-targets`: taken, listed, verified, restored, deleted.

use api::Code;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use backup::BackupId;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};
use crate::gateway::backups::Asker;

/// What backups are filtered and sorted by.
const FIELDS: &[&str] =
    &["id", "name", "target", "status", "group", "origin", "created_at", "stored_bytes"];

type Begun = Result<(StatusCode, Json<api::Operation>), Failure>;

/// Where backups go, as it is configured
#[utoipa::path(get, path = "/api/v1/backup-targets", tag = "backups",
    operation_id = "list_backup_targets",
    responses((status = 200, body = api::BackupTargetList), (status = "default", body = api::Problem)))]
pub(super) async fn targets(State(gateway): Shared) -> Json<api::BackupTargetList> {
    Json(gateway.show_targets())
}

/// Ask a target with the credentials that backups use
///
/// They are read anew. Nothing is written but what proves that two gateways cannot overwrite each
/// other's backups.
#[utoipa::path(post, path = "/api/v1/backup-targets/{target}/check", tag = "backups",
    operation_id = "check_backup_target", params(("target" = String, Path)),
    responses((status = 200, body = api::BackupTargetCheck), (status = "default", body = api::Problem)))]
pub(super) async fn check(
    State(gateway): Shared,
    Path(target): Path<String>,
) -> Result<Json<api::BackupTargetCheck>, Failure> {
    Ok(Json(gateway.check_target(&target).await?))
}

/// Read everything that a target says of its backups anew
#[utoipa::path(post, path = "/api/v1/backup-targets/{target}/rebuild", tag = "backups",
    operation_id = "rebuild_backup_catalogue", params(("target" = String, Path)),
    responses((status = 200, body = api::BackupList), (status = "default", body = api::Problem)))]
pub(super) async fn rebuild(
    State(gateway): Shared,
    Path(target): Path<String>,
) -> Result<Json<api::BackupList>, Failure> {
    Ok(Json(gateway.rebuild_catalogue(&target).await?))
}

/// Read back everything that the backups of a target need
#[utoipa::path(post, path = "/api/v1/backup-targets/{target}/verify", tag = "backups",
    operation_id = "verify_backup_target", params(("target" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn verify_target(State(gateway): Shared, Path(target): Path<String>) -> Begun {
    let operation = gateway.verify_backups(&target, Vec::new())?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Give back what no backup of a target needs
#[utoipa::path(post, path = "/api/v1/backup-targets/{target}/collect", tag = "backups",
    operation_id = "collect_backup_target", params(("target" = String, Path)),
    request_body = api::BackupCollect,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn collect(
    State(gateway): Shared,
    Path(target): Path<String>,
    Body(wanted): Body<api::BackupCollect>,
) -> Begun {
    let operation = gateway.collect_backups(&target, wanted.dry_run)?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Let go what the next backups to a target build upon, without asking it
///
/// For a target that is gone for ever, also one that stands in no configuration any more. What is kept
/// here for its next incremental backups is removed, and runs that were interrupted are given up: the
/// next backup there is full. Refused while a backup to it is taken, and, without `force`, while it
/// answers.
#[utoipa::path(post, path = "/api/v1/backup-targets/{target}/forget", tag = "backups",
    operation_id = "forget_backup_bases", params(("target" = String, Path)),
    request_body = api::BackupForget,
    responses((status = 200, body = api::BackupForgotten), (status = "default", body = api::Problem)))]
pub(super) async fn forget(
    State(gateway): Shared,
    Path(target): Path<String>,
    Body(wanted): Body<api::BackupForget>,
) -> Result<Json<api::BackupForgotten>, Failure> {
    Ok(Json(gateway.forget_bases(&target, &wanted).await?))
}

/// All backups of all targets, oldest first, in pages if asked for
///
/// A target that does not answer is in `silent`. Filters: `id`, `name`, `target`, `status`, `group`,
/// `origin`, `created_at`, `stored_bytes`.
#[utoipa::path(get, path = "/api/v1/backups", tag = "backups", operation_id = "list_backups",
    params(Parameters),
    responses((status = 200, body = api::BackupList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Asked,
) -> Result<Json<api::BackupList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let all = gateway.show_backups(None).await?;
    let (items, next) = page.take(all.items)?;
    Ok(Json(api::BackupList { items, next, ..all }))
}

/// Take a backup of a group, all its volumes at one moment, or of one volume
///
/// Hosts go on. At a mirror its primary is asked for the moment.
#[utoipa::path(post, path = "/api/v1/backups", tag = "backups", operation_id = "create_backup",
    request_body = api::BackupCreate,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn create(State(gateway): Shared, Body(wanted): Body<api::BackupCreate>) -> Begun {
    let operation = gateway.create_backup(&wanted, Asker::default()).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// One backup, by id, or by name if only one is called so
#[utoipa::path(get, path = "/api/v1/backups/{backup}", tag = "backups",
    operation_id = "show_backup", params(("backup" = String, Path)),
    responses((status = 200, body = api::Backup), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(backup): Path<String>,
) -> Result<Json<api::Backup>, Failure> {
    Ok(Json(gateway.show_backup(&backup).await?))
}

/// Delete a backup, in any order with others, or give an interrupted run up
///
/// Its data goes with the next collection of its target.
#[utoipa::path(delete, path = "/api/v1/backups/{backup}", tag = "backups",
    operation_id = "delete_backup", params(("backup" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(backup): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.delete_backup(&backup).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lock a backup until a date, or move its lock on; nobody can take that back
#[utoipa::path(post, path = "/api/v1/backups/{backup}/lock", tag = "backups",
    operation_id = "lock_backup", params(("backup" = String, Path)),
    request_body = api::BackupLock,
    responses((status = 200, body = api::Backup), (status = "default", body = api::Problem)))]
pub(super) async fn lock(
    State(gateway): Shared,
    Path(backup): Path<String>,
    Body(wanted): Body<api::BackupLock>,
) -> Result<Json<api::Backup>, Failure> {
    Ok(Json(gateway.lock_backup(&backup, &wanted.until).await?))
}

/// Read back everything that a backup needs
#[utoipa::path(post, path = "/api/v1/backups/{backup}/verify", tag = "backups",
    operation_id = "verify_backup", params(("backup" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn verify(State(gateway): Shared, Path(backup): Path<String>) -> Begun {
    let found = gateway.show_backup(&backup).await?;
    let only = vec![BackupId::from_uuid(found.id)];
    let operation = gateway.verify_backups(&found.target, only)?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Go on with a backup's run, or with a restore from it, that was interrupted
#[utoipa::path(post, path = "/api/v1/backups/{backup}/resume", tag = "backups",
    operation_id = "resume_backup", params(("backup" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn resume(State(gateway): Shared, Path(backup): Path<String>) -> Begun {
    let id = backup.parse().map_err(|_e| {
        Failure::new(Code::Invalid, format!("{backup:?} is no identity of a backup"))
    })?;
    let operation = gateway.resume_backup(id).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// What overwriting the originals by a backup would mean
#[utoipa::path(post, path = "/api/v1/backups/{backup}/restore/plan", tag = "backups",
    operation_id = "plan_backup_restore", params(("backup" = String, Path)),
    request_body = api::BackupRestorePlanRequest,
    responses((status = 200, body = api::BackupRestorePlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_restore(
    State(gateway): Shared,
    Path(backup): Path<String>,
    Body(wanted): Body<api::BackupRestorePlanRequest>,
) -> Result<Json<api::BackupRestorePlan>, Failure> {
    Ok(Json(gateway.plan_backup_restore(&backup, wanted.volume.as_deref()).await?))
}

/// Restore a backup to the originals, with the token of a plan, or a volume of it to a new one
///
/// No host is let in until all of it is there.
#[utoipa::path(post, path = "/api/v1/backups/{backup}/restore", tag = "backups",
    operation_id = "restore_backup", params(("backup" = String, Path)),
    request_body = api::BackupRestoreRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn restore(
    State(gateway): Shared,
    Path(backup): Path<String>,
    Body(wanted): Body<api::BackupRestoreRequest>,
) -> Begun {
    let operation = gateway.restore_backup(&backup, &wanted).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// The policies of backups
#[utoipa::path(get, path = "/api/v1/backup-policies", tag = "backups",
    operation_id = "list_backup_policies",
    responses((status = 200, body = api::BackupPolicyList), (status = "default", body = api::Problem)))]
pub(super) async fn policies(State(gateway): Shared) -> Json<api::BackupPolicyList> {
    Json(gateway.show_backup_policies())
}

/// The policy of a group or a volume
#[utoipa::path(get, path = "/api/v1/backup-policies/{of}", tag = "backups",
    operation_id = "show_backup_policy", params(("of" = String, Path)),
    responses((status = 200, body = api::BackupPolicy), (status = "default", body = api::Problem)))]
pub(super) async fn policy(
    State(gateway): Shared,
    Path(of): Path<String>,
) -> Result<Json<api::BackupPolicy>, Failure> {
    Ok(Json(gateway.backup_policy(&of)?))
}

/// Set the policy of a group or a volume
#[utoipa::path(put, path = "/api/v1/backup-policies/{of}", tag = "backups",
    operation_id = "set_backup_policy", params(("of" = String, Path)),
    request_body = api::BackupPolicySet,
    responses((status = 200, body = api::BackupPolicy), (status = "default", body = api::Problem)))]
pub(super) async fn set_policy(
    State(gateway): Shared,
    Path(of): Path<String>,
    Body(wanted): Body<api::BackupPolicySet>,
) -> Result<Json<api::BackupPolicy>, Failure> {
    Ok(Json(gateway.set_backup_policy(&of, wanted).await?))
}

/// Delete a policy; what it took stays
#[utoipa::path(delete, path = "/api/v1/backup-policies/{of}", tag = "backups",
    operation_id = "delete_backup_policy", params(("of" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete_policy(
    State(gateway): Shared,
    Path(of): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.delete_backup_policy(&of).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Turn a policy on; what came due meanwhile is not made up for
#[utoipa::path(post, path = "/api/v1/backup-policies/{of}/on", tag = "backups",
    operation_id = "turn_backup_policy_on", params(("of" = String, Path)),
    responses((status = 200, body = api::BackupPolicy), (status = "default", body = api::Problem)))]
pub(super) async fn turn_on(
    State(gateway): Shared,
    Path(of): Path<String>,
) -> Result<Json<api::BackupPolicy>, Failure> {
    Ok(Json(gateway.turn_backup_policy(&of, true).await?))
}

/// Turn a policy off
#[utoipa::path(post, path = "/api/v1/backup-policies/{of}/off", tag = "backups",
    operation_id = "turn_backup_policy_off", params(("of" = String, Path)),
    responses((status = 200, body = api::BackupPolicy), (status = "default", body = api::Problem)))]
pub(super) async fn turn_off(
    State(gateway): Shared,
    Path(of): Path<String>,
) -> Result<Json<api::BackupPolicy>, Failure> {
    Ok(Json(gateway.turn_backup_policy(&of, false).await?))
}

/// Run a policy now, whether it is on or off
#[utoipa::path(post, path = "/api/v1/backup-policies/{of}/run", tag = "backups",
    operation_id = "run_backup_policy", params(("of" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn run_policy(State(gateway): Shared, Path(of): Path<String>) -> Begun {
    Ok((StatusCode::ACCEPTED, Json(gateway.run_backup_policy(&of).await?)))
}

/// What a policy would do with each backup now, and why
#[utoipa::path(get, path = "/api/v1/backup-policies/{of}/retention", tag = "backups",
    operation_id = "show_backup_retention", params(("of" = String, Path)),
    responses((status = 200, body = api::BackupFateList), (status = "default", body = api::Problem)))]
pub(super) async fn retention(
    State(gateway): Shared,
    Path(of): Path<String>,
) -> Result<Json<api::BackupFateList>, Failure> {
    Ok(Json(gateway.backup_fates(&of).await?))
}
