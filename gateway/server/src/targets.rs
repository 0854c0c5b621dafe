//! Which targets initiators see, and the way of their sessions to the thread of the volume.
//!
//! Invariant: a volume is listed and logged in to wherever a copy of it is, whether that serves or not:
//! what serves is for the volume's thread to say, at each command. One of which nothing is known yet,
//! or whose content is about to change, is not available: never told as one that does not exist,
//! because initiators would give it up. A copy that is open on its own is a target of its own.

use std::sync::Arc;

use block::VolumeId;
use iscsi::{InitiatorInfo, LoggedIn, Refusal, TargetInfo, Targets};
use mirror::Serving;

use crate::access::may_log_in;
use crate::book::{GroupEntry, VolumeEntry};
use crate::gateway::Gateway;

/// The gateway, for its iSCSI listeners.
pub(crate) struct TargetDoor(pub(crate) Arc<Gateway>);

impl TargetDoor {
    fn ready(&self) -> Result<&Arc<Gateway>, Refusal> {
        Some(&self.0).filter(|gateway| gateway.is_ready()).ok_or(Refusal::NotReady)
    }
}

/// The name of a volume's target.
#[must_use]
pub(crate) fn target_name(prefix: &str, volume: &str) -> String {
    format!("{prefix}:{volume}")
}

/// What the name of a copy that is open on its own ends with: no volume's name can.
const APART: &str = ":detached";

fn target(
    gateway: &Gateway,
    (group, volume): (&GroupEntry, &VolumeEntry),
    (initiator, apart): (&InitiatorInfo, bool),
) -> Result<TargetInfo, Refusal> {
    if !may_log_in(&volume.settings, initiator) {
        return Err(Refusal::Unknown);
    }
    let seen = gateway.board.get(group.group()).ok_or(Refusal::NotServed)?;
    let id = VolumeId::from_uuid(volume.id);
    let is_filled = gateway.book.read().backups.fill_of(volume.id).is_none();
    let is_known = seen.status.volumes.iter().any(|known| known.volume == id);
    if !is_filled || !is_known || seen.status.serving == Serving::RollingBack {
        return Err(Refusal::NotServed);
    }
    let name = target_name(&gateway.config.iscsi.prefix, &volume.name);
    let volume = volume.name.clone();
    if !apart {
        let portals = gateway.ways.of(&seen.status).portals;
        return Ok(TargetInfo { name, volume, portals });
    }
    if seen.status.serving != Serving::Detached {
        return Err(Refusal::Unknown);
    }
    Ok(TargetInfo { name: name + APART, volume, portals: gateway.ways.apart().portals })
}

impl Targets for TargetDoor {
    fn list(&self, initiator: &InitiatorInfo) -> Vec<TargetInfo> {
        let Ok(gateway) = self.ready() else { return Vec::new() };
        let pages = gateway.book.read();
        let both = |found| {
            [false, true]
                .into_iter()
                .filter_map(move |apart| target(gateway, found, (initiator, apart)).ok())
        };
        let mut targets: Vec<TargetInfo> = pages.volumes().flat_map(both).collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        let gateway = self.ready()?;
        let volume = name
            .strip_prefix(&gateway.config.iscsi.prefix)
            .and_then(|rest| rest.strip_prefix(':'))
            .ok_or(Refusal::Unknown)?;
        let (volume, apart) =
            volume.strip_suffix(APART).map_or((volume, false), |volume| (volume, true));
        let pages = gateway.book.read();
        let found = pages.volumes().find(|(_, entry)| entry.name == volume);
        target(gateway, found.ok_or(Refusal::Unknown)?, (initiator, apart))
    }

    fn seat(&self, connection: LoggedIn) {
        let Ok(gateway) = self.ready() else { return };
        let name = connection.target().volume.clone();
        let (place, read_only) = {
            let pages = gateway.book.read();
            let Some((group, volume)) = pages.volume(&name) else { return };
            let place = (group.group(), VolumeId::from_uuid(volume.id));
            (place, volume.settings.read_only)
        };
        let is_apart = connection.target().name.ends_with(APART);
        let posted = gateway.shard_of(place.0).post(move |state| {
            if is_apart {
                state.seat_apart(place, (name, read_only), connection);
            } else {
                state.seat_initiator(place, (name, read_only), connection);
            }
        });
        if posted.is_err() {
            tracing::warn!("an initiator was dropped: the thread of its volume has ended");
        }
    }
}
