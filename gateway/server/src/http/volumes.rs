//! The calls of `/api/v1/volumes`: made, listed, grown, read and deleted.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};

/// What volumes are filtered and sorted by.
const FIELDS: &[&str] = &["id", "name", "bytes", "mapped_bytes", "group", "copy", "role", "health"];

/// All volumes, in pages if asked for
///
/// Filters: `id`, `name`, `bytes`, `mapped_bytes`, `group`, `copy`, `role`, `health`.
#[utoipa::path(get, path = "/api/v1/volumes", tag = "volumes", operation_id = "list_volumes",
    params(Parameters),
    responses((status = 200, body = api::VolumeList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Asked,
) -> Result<Json<api::VolumeList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let mut list = gateway.show_volumes().await;
    (list.items, list.next) = page.take(list.items)?;
    Ok(Json(list))
}

/// Make a volume, in a group of its own
#[utoipa::path(post, path = "/api/v1/volumes", tag = "volumes", operation_id = "create_volume",
    request_body = api::VolumeCreate,
    responses((status = 201, body = api::Volume), (status = "default", body = api::Problem)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<api::VolumeCreate>,
) -> Result<(StatusCode, Json<api::Volume>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.create_volume(wanted).await?)))
}

/// One volume, by name or id
#[utoipa::path(get, path = "/api/v1/volumes/{volume}", tag = "volumes",
    operation_id = "show_volume", params(("volume" = String, Path)),
    responses((status = 200, body = api::Volume), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(volume): Path<String>,
) -> Result<Json<api::Volume>, Failure> {
    Ok(Json(gateway.volume(&volume).await?))
}

/// Change who may attach a volume
#[utoipa::path(put, path = "/api/v1/volumes/{volume}", tag = "volumes",
    operation_id = "set_volume", params(("volume" = String, Path)),
    request_body = api::VolumeSettings,
    responses((status = 200, body = api::Volume), (status = "default", body = api::Problem)))]
pub(super) async fn set(
    State(gateway): Shared,
    Path(volume): Path<String>,
    Body(settings): Body<api::VolumeSettings>,
) -> Result<Json<api::Volume>, Failure> {
    Ok(Json(gateway.set_volume(&volume, settings).await?))
}

/// Make a volume a disk of its group's iSCSI target, for all initiators or for one, or of a target of its own
#[utoipa::path(put, path = "/api/v1/volumes/{volume}/lun", tag = "volumes",
    operation_id = "set_volume_lun", params(("volume" = String, Path)),
    request_body = api::VolumeLun,
    responses((status = 200, body = api::Volume), (status = "default", body = api::Problem)))]
pub(super) async fn set_lun(
    State(gateway): Shared,
    Path(volume): Path<String>,
    Body(wanted): Body<api::VolumeLun>,
) -> Result<Json<api::Volume>, Failure> {
    Ok(Json(gateway.set_lun(&volume, wanted).await?))
}

/// Delete a volume that is not in use
#[utoipa::path(delete, path = "/api/v1/volumes/{volume}", tag = "volumes",
    operation_id = "delete_volume", params(("volume" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(volume): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.delete_volume(&volume).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make a volume longer, at each site
#[utoipa::path(post, path = "/api/v1/volumes/{volume}/grow", tag = "volumes",
    operation_id = "grow_volume", params(("volume" = String, Path)),
    request_body = api::VolumeGrow,
    responses((status = 200, body = api::Volume), (status = "default", body = api::Problem)))]
pub(super) async fn grow(
    State(gateway): Shared,
    Path(volume): Path<String>,
    Body(request): Body<api::VolumeGrow>,
) -> Result<Json<api::Volume>, Failure> {
    Ok(Json(gateway.grow_volume(&volume, request.bytes).await?))
}

/// Read every stored block of the copy at this site, and repair what is bad
#[utoipa::path(post, path = "/api/v1/volumes/{volume}/scrub", tag = "volumes",
    operation_id = "scrub_volume", params(("volume" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn scrub(
    State(gateway): Shared,
    Path(volume): Path<String>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    Ok((StatusCode::ACCEPTED, Json(gateway.scrub_volume(&volume)?)))
}

/// Read every block of the copy at this site and digest it
#[utoipa::path(get, path = "/api/v1/volumes/{volume}/digest", tag = "volumes",
    operation_id = "digest_volume", params(("volume" = String, Path)),
    responses((status = 200, body = api::VolumeDigest), (status = "default", body = api::Problem)))]
pub(super) async fn digest(
    State(gateway): Shared,
    Path(volume): Path<String>,
) -> Result<Json<api::VolumeDigest>, Failure> {
    Ok(Json(gateway.digest_volume(&volume).await?))
}

/// Which piece of a copy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    offset: u64,
    length: u64,
}

/// A piece of the copy at this site, whatever its role; up to 4 MiB
#[utoipa::path(get, path = "/api/v1/volumes/{volume}/content", tag = "volumes",
    operation_id = "read_volume",
    params(("volume" = String, Path), ("offset" = u64, Query), ("length" = u64, Query)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
              (status = "default", body = api::Problem)))]
pub(super) async fn content(
    State(gateway): Shared,
    Path(volume): Path<String>,
    Query(piece): Query<Piece>,
) -> Result<impl IntoResponse, Failure> {
    let content: Bytes = gateway.read_volume(&volume, piece.offset, piece.length).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], content))
}
