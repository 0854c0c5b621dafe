//! A session as the dialect shows it, from either of its gateways.

use api::{RecChoice, RecCopySession, RecTransferMode};
use mirror::LegStatus;

use super::status::{self, Status};
use super::{session_href, storage, volume_href};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::halves::Half;
use crate::numbers::Numbers;
use crate::refusal::Refused;
use crate::status::cause_text;

const MIB: u64 = 1 << 20;

/// One end of a session.
#[derive(Clone, Debug, Default)]
struct End {
    number: Option<u64>,
    name: Option<String>,
}

/// Every session of which this gateway has a half, with its number.
///
/// # Errors
/// When a number cannot be made durable.
pub(super) async fn all(gateway: &Gateway) -> Result<Vec<(Half, RecCopySession)>, Refused> {
    let halves = gateway.halves().await;
    let give = |numbers: &mut Numbers| {
        for half in &halves {
            numbers.give_session(half.session);
            numbers.give_volume(half.volume.uuid());
        }
        numbers.clone()
    };
    let numbers = gateway.numbers.change(&gateway.book, give).await?;
    let now_s = gateway.clock.unix_s();
    let listed = halves
        .into_iter()
        .filter(|half| numbers.session(half.session).is_some_and(|entry| !entry.is_deleted));
    let mut all: Vec<(Half, RecCopySession)> = listed
        .filter_map(|half| shown(&half, &numbers, now_s).map(|shown| (half, shown)))
        .collect();
    all.sort_by_key(|(_, shown)| shown.copysession_id);
    Ok(all)
}

fn shown(half: &Half, numbers: &Numbers, now_s: u64) -> Option<RecCopySession> {
    let entry = numbers.session(half.session)?;
    let volume = half.entry.volumes.iter().find(|volume| volume.id == half.volume.uuid())?;
    let here = End {
        number: numbers.volume(volume.id).map(|entry| entry.number),
        name: Some(volume.name.clone()),
    };
    let there = entry.remote.as_ref().map_or_else(End::default, |remote| End {
        number: Some(remote.volume),
        name: Some(remote.name.clone()),
    });
    let is_source = half.leg.is_some();
    let (source, destination) = if is_source { (here, there) } else { (there, here) };
    let status = status::status(half);
    let error = error(half);
    let data = data(half, status);
    let suspended = status == Status::Suspend;
    Some(RecCopySession {
        copysession_id: entry.number,
        copysession_href: session_href(entry.number),
        kind: "REC".to_owned(),
        status: status.word().to_owned(),
        phase: status::phase(half).to_owned(),
        source_volume_number: source.number,
        source_volume_href: source.number.map(volume_href),
        source_volume_name: source.name,
        destination_volume_number: destination.number,
        destination_volume_href: destination.number.map(volume_href),
        destination_volume_name: destination.name,
        error_code: error.code,
        error_ocurrence_time: error.time,
        error_message: error.message,
        copy_range: "Totally".to_owned(),
        concurrent_suspend_result: suspended.then(|| "Success".to_owned()),
        remain_time_to_finish_suspend: suspended.then_some(0),
        elapsed_time: made_s(half).map_or(0, |made| now_s.saturating_sub(made)),
        total_data_size: data.total,
        uncopied_data_size: data.uncopied,
        progress: data.progress,
        tracking_data_size: data.tracking,
        requestor: "REST".to_owned(),
        remote_copysession_id: entry.remote.as_ref().map(|remote| remote.session),
        transfer_mode: half.leg.as_ref().map(status::transfer_mode),
        split_mode: half.leg.as_ref().map(split_shown),
        recovery_mode: half.leg.as_ref().map(|leg| status::recovery(leg.policy.recovery)),
        remote_boxid: storage::box_id(half.peer.uuid()),
        is_local_source_volume: is_source,
        is_destination_usable: (!is_source).then(|| status::is_usable(half)),
    })
}

/// While a session is asynchronous its split policy decides nothing, which the dialect calls Manual.
fn split_shown(leg: &LegStatus) -> RecChoice {
    match status::transfer_mode(leg) {
        RecTransferMode::Synchronous => status::split(leg.policy.split),
        RecTransferMode::Stack | RecTransferMode::Consistency => RecChoice::Manual,
    }
}

/// When the session was made: its identity says it.
fn made_s(half: &Half) -> Option<u64> {
    half.session.get_timestamp().map(|made| made.to_unix().0)
}

#[derive(Default)]
struct Fault {
    code: Option<String>,
    time: Option<String>,
    message: Option<String>,
}

fn error(half: &Half) -> Fault {
    let Some(leg) = &half.leg else { return Fault::default() };
    let Some(cause) = &leg.cause else { return Fault::default() };
    let Some(code) = status::cause_code(cause) else { return Fault::default() };
    Fault {
        code: Some(status::error_code(code)),
        time: leg.last_heard_ms.map(text),
        message: Some(format!("{} {}: {}", code.as_str(), code.title(), cause_text(cause))),
    }
}

#[derive(Default)]
struct Data {
    total: u64,
    uncopied: Option<u64>,
    progress: Option<u64>,
    tracking: Option<u64>,
}

fn data(half: &Half, status: Status) -> Data {
    let volume = half.status.volumes.iter().find(|volume| volume.volume == half.volume);
    let bytes = volume.map_or(0, |volume| volume.bytes);
    let total = bytes.div_ceil(MIB);
    let carried = half.leg.as_ref().and_then(|leg| {
        let session = leg.sessions.iter().find(|s| s.session.uuid() == half.session)?;
        Some((leg, session))
    });
    let Some((leg, session)) = carried else {
        // The destination knows only whether it is done.
        let is_done = status::phase(half) == "Equivalent";
        let progress = is_done.then_some(100);
        return Data { total, progress, uncopied: is_done.then_some(0), tracking: None };
    };
    let missing = session.out_of_sync_bytes.div_ceil(MIB);
    let progress = match (leg.phase, session.resync_total_bytes) {
        (mirror::Phase::Equivalent | mirror::Phase::Following, _) => 100,
        (mirror::Phase::Copying, 0) => 0,
        // A copy whose last block is on its way is not done.
        (mirror::Phase::Copying, whole) => {
            (session.resync_copied_bytes.saturating_mul(100) / whole).min(99)
        }
        (mirror::Phase::NoPair | mirror::Phase::Tracking, _) => {
            let alike = bytes.saturating_sub(session.out_of_sync_bytes);
            alike.saturating_mul(100).checked_div(bytes).unwrap_or(0)
        }
    };
    let is_copying = status == Status::Active;
    Data {
        total,
        uncopied: is_copying.then_some(missing),
        progress: Some(progress),
        tracking: (!is_copying).then_some(missing),
    }
}
