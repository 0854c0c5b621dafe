//! The calls of `/volume`: made, listed and deleted by number.

use std::sync::Arc;
use std::time::Duration;

use api::{
    Code, RecAccepted, RecVolume, RecVolumeCreate, RecVolumeDelete, RecVolumeList, Volume,
    VolumeCreate, VolumeSettings,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mirror::Command;
use serde_json::Value;
use uuid::Uuid;

use super::fields::Fields;
use super::jobs::Work;
use super::{Body, Failure, Shared, act, number, status, volume_href};
use crate::gateway::Gateway;
use crate::gateway::asks::Question;
use crate::gateway::halves::Half;
use crate::numbers::Numbers;
use crate::refusal::Refused;

const MIB: u64 = 1 << 20;
/// Volumes that one call may delete.
const VOLUMES_MAX: usize = 512;
/// A half whose session was just deleted at its source hears of it within moments.
const DELETE_TRIES_MAX: u32 = 40;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

type Accepted = Result<(StatusCode, Json<RecAccepted>), Failure>;

async fn all(gateway: &Gateway) -> Result<Vec<(Uuid, RecVolume)>, Refused> {
    let volumes = gateway.show_volumes().await.items;
    let halves = gateway.halves().await;
    let give = |numbers: &mut Numbers| {
        volumes.iter().map(|volume| numbers.give_volume(volume.id).number).collect::<Vec<u64>>()
    };
    let numbers = gateway.numbers.change(&gateway.book, give).await?;
    let mut shown: Vec<(Uuid, RecVolume)> = volumes
        .iter()
        .zip(numbers)
        .map(|(volume, number)| {
            let is_half = halves.iter().any(|half| half.volume.uuid() == volume.id);
            (volume.id, show_one(volume, number, is_half))
        })
        .collect();
    shown.sort_by_key(|(_, volume)| volume.number);
    Ok(shown)
}

fn show_one(volume: &Volume, number: u64, is_half: bool) -> RecVolume {
    let (status, detail) = status::volume(volume.copy, is_half);
    RecVolume {
        volume_id: number,
        number,
        volume_href: volume_href(number),
        name: volume.name.clone(),
        status: status.to_owned(),
        detail_status: detail.to_owned(),
        kind: "TPV".to_owned(),
        capacity: volume.bytes.div_ceil(MIB),
        used_capacity: volume.mapped_bytes.map(|bytes| bytes.div_ceil(MIB)),
        usage: "Block".to_owned(),
        uid: volume.id.simple().to_string(),
        exports: volume.exports.clone(),
    }
}

async fn find(gateway: &Gateway, wanted: u64) -> Result<(Uuid, RecVolume), Refused> {
    let mut all = all(gateway).await?.into_iter();
    all.find(|(_, volume)| volume.number == wanted).ok_or_else(|| {
        let site = &gateway.config.site.name;
        Refused::new(Code::NotFound, format!("{site} has no volume with the number {wanted}"))
    })
}

/// All volumes
#[utoipa::path(get, path = "/api/v1/volume", tag = "rec", operation_id = "rec_list_volumes",
    params(("fields" = Option<String>, Query)),
    responses((status = 200, body = RecVolumeList), (status = "default", body = api::RecError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    let volumes: Vec<RecVolume> =
        all(&gateway).await?.into_iter().map(|(_, volume)| volume).collect();
    fields.list("volume_list", &volumes)
}

/// A volume
#[utoipa::path(get, path = "/api/v1/volume/{volume_id}", tag = "rec",
    operation_id = "rec_show_volume",
    params(("volume_id" = u64, Path), ("fields" = Option<String>, Query)),
    responses((status = 200, body = RecVolume), (status = "default", body = api::RecError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(volume): Path<String>,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    let (_, volume) = find(&gateway, number(&volume)?).await?;
    fields.one(&volume)
}

/// Make a volume
#[utoipa::path(post, path = "/api/v1/volume", tag = "rec", operation_id = "rec_create_volume",
    request_body = RecVolumeCreate,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<RecVolumeCreate>,
) -> Accepted {
    if wanted.tpp_id != 0 {
        let detail = format!("tpp_id {}: a gateway has one pool, 0", wanted.tpp_id);
        return Err(Failure::new(Code::NotFound, detail));
    }
    if gateway.book.read().volume(&wanted.name).is_some() {
        let detail = format!("a volume {:?} exists here", wanted.name);
        return Err(Failure::new(Code::Exists, detail));
    }
    let bytes = wanted.capacity.checked_mul(MIB).ok_or_else(|| {
        Failure::new(Code::BadSize, format!("{} MiB is more than any volume has", wanted.capacity))
    })?;
    let call = format!("POST /api/v1/volume {}", wanted.name);
    let mut work = Work::begin(&gateway, "rec.volume", &wanted.name, &call);
    let answer = (StatusCode::ACCEPTED, Json(work.accepted(Vec::new())));
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let made = make(&task, &mut work, (&wanted.name, bytes)).await;
        work.end("/api/v1/volume", made);
    });
    Ok(answer)
}

async fn make(
    gateway: &Gateway,
    work: &mut Work,
    (name, bytes): (&str, u64),
) -> Result<(), Refused> {
    work.running.step("make the volume");
    let settings = VolumeSettings::default();
    let create = VolumeCreate {
        name: name.to_owned(),
        bytes: Some(bytes),
        from: None,
        group: None,
        part_of: None,
        settings,
    };
    let volume = gateway.create_volume(create).await?;
    let give = |numbers: &mut Numbers| numbers.give_volume(volume.id).number;
    let given = gateway.numbers.change(&gateway.book, give).await?;
    work.running.done(volume.exports.join(", "));
    work.resource(volume_href(given));
    Ok(())
}

/// Delete a volume that is in no session
#[utoipa::path(delete, path = "/api/v1/volume/{volume_id}", tag = "rec",
    operation_id = "rec_delete_volume", params(("volume_id" = u64, Path)),
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn delete(State(gateway): Shared, Path(volume): Path<String>) -> Accepted {
    let volume_id_list = vec![number(&volume)?];
    let wanted = RecVolumeDelete { volume_id_list, with_copysessions: false, force: false };
    begin_deletion(gateway, wanted).await
}

/// Delete volumes, and their sessions if that is asked for: all of them, or none
#[utoipa::path(delete, path = "/api/v1/volume", tag = "rec", operation_id = "rec_delete_volumes",
    request_body = RecVolumeDelete,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn delete_many(
    State(gateway): Shared,
    Body(wanted): Body<RecVolumeDelete>,
) -> Accepted {
    begin_deletion(gateway, wanted).await
}

async fn begin_deletion(gateway: Arc<Gateway>, wanted: RecVolumeDelete) -> Accepted {
    let count = wanted.volume_id_list.len();
    if count == 0 || count > VOLUMES_MAX {
        let detail = format!("volume_id_list has 1 to {VOLUMES_MAX} numbers, not {count}");
        return Err(Failure::new(Code::Invalid, detail));
    }
    // One that cannot be deleted refuses the call, before anything is.
    let halves = gateway.halves().await;
    let mut doomed = Vec::new();
    for wanted_number in &wanted.volume_id_list {
        let (id, volume) = find(&gateway, *wanted_number).await?;
        let its: Vec<Half> =
            halves.iter().filter(|half| half.volume.uuid() == id).cloned().collect();
        check(&gateway, (&volume, id), &its, &wanted).await?;
        doomed.push((id, volume, its));
    }
    let subject = format!("{count} volumes");
    let mut work = Work::begin(&gateway, "rec.volume", &subject, "DELETE /api/v1/volume");
    let answer = (StatusCode::ACCEPTED, Json(work.accepted(Vec::new())));
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        for (id, volume, its) in doomed {
            match remove(&task, &mut work, (id, &volume.name, &its), wanted.force).await {
                Ok(()) => work.succeeded(volume.volume_href),
                Err(refused) => work.failed(volume.volume_href, &refused),
            }
        }
        work.end_of_many();
    });
    Ok(answer)
}

async fn check(
    gateway: &Gateway,
    (volume, id): (&RecVolume, Uuid),
    its: &[Half],
    wanted: &RecVolumeDelete,
) -> Result<(), Refused> {
    let in_use = |why: String| {
        Err(Refused::new(Code::VolumeInUse, format!("{} ({}): {why}", volume.name, volume.number)))
    };
    let (group, _) = gateway.find_volume(&id.to_string())?;
    if group.volumes.len() > 1 {
        return in_use(format!("it is one of {} volumes of its group", group.volumes.len()));
    }
    // A half whose session was deleted while it could not be used is in none.
    let numbers = gateway.numbers.read().await?;
    let is_listed =
        |half: &&Half| numbers.session(half.session).is_none_or(|entry| !entry.is_deleted);
    if let Some(half) = its.iter().find(is_listed)
        && !wanted.with_copysessions
    {
        return in_use(format!("it is in a session with {}", half.site));
    }
    let group_id = group.group();
    let hosts = gateway.shard_of(group_id).call(move |state| state.users_of(group_id)).await?;
    if hosts > 0 && its.iter().all(act::is_open) {
        return in_use(format!("{hosts} hosts are attached"));
    }
    Ok(())
}

async fn remove(
    gateway: &Gateway,
    work: &mut Work,
    (id, name, its): (Uuid, &str, &[Half]),
    force: bool,
) -> Result<(), Refused> {
    for half in its {
        work.running.step(&format!("delete the session with {}", half.site));
        let session = half.session;
        if half.leg.is_some() {
            let command = |leg| Command::RemoveLeg { leg };
            gateway.session_command(&session.to_string(), "deleted", command).await?;
            let told = gateway.ask(half.peer.uuid(), &Question::Release { session }).await;
            work.running.done(match told {
                Ok(_) => format!("the copy at {} is a volume of its own", half.site),
                Err(refused) => format!("a half stays at {}: {}", half.site, refused.0.detail),
            });
            continue;
        }
        match gateway.ask(half.peer.uuid(), &Question::Part { session }).await {
            Ok(_) => {}
            // It forgot the session earlier.
            Err(refused) if refused.is(Code::NotFound) => {}
            Err(_) if force => {}
            Err(refused) => return Err(refused),
        }
        let detail = act::release_here(gateway, half).await?;
        work.running.done(detail);
    }
    work.running.step(&format!("delete {name}"));
    let mut tries = 0;
    loop {
        match gateway.delete_volume(&id.to_string()).await {
            Err(refused)
                if refused.is(Code::VolumeInUse) && !its.is_empty() && tries < DELETE_TRIES_MAX =>
            {
                tries += 1;
                tokio::time::sleep(DELETE_PAUSE).await;
            }
            result => {
                result?;
                work.running.done("its blocks are free");
                return Ok(());
            }
        }
    }
}
