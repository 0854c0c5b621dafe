//! `POST /copysession/rec`: a volume here and one at another gateway become source and destination.

use std::sync::Arc;

use api::{Code, PolicyPatch, RecAccepted, RecCreate, RecTransferMode, SessionCreate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use block::VolumeId;
use uuid::Uuid;

use super::jobs::Work;
use super::{Body, Failure, Shared, session_href, status, storage};
use crate::book::PeerEntry;
use crate::gateway::Gateway;
use crate::gateway::asks::{Question, Take};
use crate::numbers::Remote;
use crate::refusal::Refused;

/// The source, as it was found.
struct Source {
    group: Uuid,
    volume: Uuid,
    name: String,
    number: u64,
    bytes: u64,
}

/// Make a session: its destination becomes inaccessible and is copied to
#[utoipa::path(post, path = "/api/v1/copysession/rec", tag = "rec",
    operation_id = "rec_create_copysession", request_body = RecCreate,
    responses((status = 202, body = RecAccepted), (status = "default", body = api::RecError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<RecCreate>,
) -> Result<(StatusCode, Json<RecAccepted>), Failure> {
    let peer = check(&gateway, &wanted)?;
    let source = source(&gateway, wanted.source_volume_id, &peer).await?;
    let session = session_of(&wanted, &peer, &source);
    gateway.may_create_session(&session).await?;
    let call = format!(
        "POST /api/v1/copysession/rec {} to {} of {}",
        source.number, wanted.destination_volume_id, peer.site
    );
    let mut work = Work::begin(&gateway, "rec.create", &source.name, &call);
    let accepted = work.accepted(Vec::new());
    let task = Arc::clone(&gateway);
    gateway.tasks.spawn(async move {
        let made = make(&task, &mut work, (&wanted, &peer, &source), session).await;
        let href = super::volume_href(source.number);
        work.end(&href, made);
    });
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// What can be said without looking at volumes.
fn check(gateway: &Gateway, wanted: &RecCreate) -> Result<PeerEntry, Refused> {
    storage::check_own(gateway, &wanted.source_boxid)?;
    let is_sync = wanted.transfer_mode == RecTransferMode::Synchronous;
    if !is_sync && wanted.split_mode.is_some() {
        let word = status::mode_word(wanted.transfer_mode);
        let detail = format!("split_mode is of Synchronous sessions only, and this is {word}");
        return Err(Refused::new(Code::Invalid, detail));
    }
    storage::peer(gateway, &wanted.destination_boxid)
}

async fn source(gateway: &Gateway, number: u64, peer: &PeerEntry) -> Result<Source, Refused> {
    let numbers = gateway.numbers.read().await?;
    let missing = || {
        let site = &gateway.config.site.name;
        Refused::new(Code::NotFound, format!("{site} has no volume with the number {number}"))
    };
    let id = numbers.volume_numbered(number).map(|entry| entry.id).ok_or_else(missing)?;
    let pages = gateway.book.read();
    let found = pages.volume_by_id(VolumeId::from_uuid(id));
    let (group, volume) = found.map(|(g, v)| (g.clone(), v.clone())).ok_or_else(missing)?;
    drop(pages);
    if group.volumes.len() > 1 {
        let detail = format!(
            "{} is one of {} volumes of group {}, which are mirrored together",
            volume.name,
            group.volumes.len(),
            group.name
        );
        let next = format!("twinspan session create {} --to {}", group.name, peer.site);
        return Err(Refused::new(Code::InGroup, detail).next(next));
    }
    let status = gateway.status_of(group.group()).await?;
    if status.role != mirror::Role::Primary {
        let detail = format!("{} is the destination of another session", volume.name);
        return Err(Refused::new(Code::NotPrimary, detail));
    }
    let bytes = status.volumes.first().map_or(0, |volume| volume.bytes);
    Ok(Source { group: group.id, volume: volume.id, name: volume.name, number, bytes })
}

/// What is to be made. The gateway is named by its id: its site may have others.
fn session_of(wanted: &RecCreate, peer: &PeerEntry, source: &Source) -> SessionCreate {
    SessionCreate {
        volume: source.volume.to_string(),
        to: peer.gateway.to_string(),
        policy: PolicyPatch {
            mode: Some(status::mode(wanted.transfer_mode)),
            split: wanted.split_mode.map(status::choice_word),
            recovery: wanted.recovery_mode.map(status::choice_word),
            ..PolicyPatch::default()
        },
        skip_initial_copy: wanted.skip_initial_copy,
        destination: None,
    }
}

async fn make(
    gateway: &Gateway,
    work: &mut Work,
    (wanted, peer, source): (&RecCreate, &PeerEntry, &Source),
    create: SessionCreate,
) -> Result<(), Refused> {
    work.running.step(&format!("ask {} for its volume", peer.site));
    let take = Take {
        number: wanted.destination_volume_id,
        name: None,
        keep: wanted.skip_initial_copy,
        group: source.group,
        volume: source.volume,
        bytes: source.bytes,
        overwrite: wanted.overwrite_destination,
    };
    let name = gateway.ask(peer.gateway, &Question::Take(take)).await?.name()?;
    work.running.done(format!("{name} waits for its source"));
    work.running.step("create the session");
    let made = gateway.create_session_of_taken(create).await;
    let session = made.map_err(|refused| {
        let detail = format!(
            "{}; {name} at {} was taken for it meanwhile and stays closed",
            refused.0.detail, peer.site
        );
        refused.saying(detail).next("make the session again, or delete that volume there")
    })?;
    let give = |numbers: &mut crate::numbers::Numbers| numbers.give_session(session.id).number;
    let number = gateway.numbers.change(&gateway.book, give).await?;
    work.running.done("the copy goes on in the background");
    work.resource(session_href(number));
    work.progress(session_href(number));
    work.running.step("tell each other how it is called");
    let remote = Remote { session: number, volume: source.number, name: source.name.clone() };
    let named = gateway.ask(peer.gateway, &Question::Name { session: session.id, remote }).await;
    match named.and_then(crate::gateway::asks::Answer::number) {
        Ok(there) => {
            let remote = Remote { session: there, volume: wanted.destination_volume_id, name };
            let keep = |numbers: &mut crate::numbers::Numbers| {
                numbers.give_session(session.id).remote = Some(remote);
            };
            gateway.numbers.change(&gateway.book, keep).await?;
            work.running.done(format!("{there} there"));
        }
        // The session is there all the same: only the names of its other end are missing.
        Err(refused) => work.running.done(format!("not known: {}", refused.0.detail)),
    }
    Ok(())
}
