//! Which targets initiators see, and the way of their sessions to the thread of the volume.
//!
//! Invariant: only a volume whose group serves here is listed or logged in to. One that exists and
//! does not serve now, or of which nothing is known yet, is not available: never told as one that
//! does not exist, because initiators would give it up.

use std::sync::Arc;

use block::VolumeId;
use iscsi::{InitiatorInfo, LoggedIn, Refusal, TargetInfo, Targets};

use crate::access::may_log_in;
use crate::book::{GroupEntry, VolumeEntry};
use crate::exports::serves;
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

fn target(
    gateway: &Gateway,
    (group, volume): (&GroupEntry, &VolumeEntry),
    initiator: &InitiatorInfo,
) -> Result<TargetInfo, Refusal> {
    if !may_log_in(&volume.settings, initiator) {
        return Err(Refusal::Unknown);
    }
    let seen = gateway.board.get(group.group()).ok_or(Refusal::NotServed)?;
    let id = VolumeId::from_uuid(volume.id);
    let is_filled = gateway.book.read().backups.fill_of(volume.id).is_none();
    let is_known = seen.status.volumes.iter().any(|known| known.volume == id);
    if !is_filled || !is_known || !serves(&seen.status) {
        return Err(Refusal::NotServed);
    }
    Ok(TargetInfo {
        name: target_name(&gateway.config.iscsi.prefix, &volume.name),
        volume: volume.name.clone(),
    })
}

impl Targets for TargetDoor {
    fn list(&self, initiator: &InitiatorInfo) -> Vec<TargetInfo> {
        let Ok(gateway) = self.ready() else { return Vec::new() };
        let pages = gateway.book.read();
        let mut targets: Vec<TargetInfo> =
            pages.volumes().filter_map(|found| target(gateway, found, initiator).ok()).collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        let gateway = self.ready()?;
        let volume = name
            .strip_prefix(&gateway.config.iscsi.prefix)
            .and_then(|rest| rest.strip_prefix(':'))
            .ok_or(Refusal::Unknown)?;
        let pages = gateway.book.read();
        let found = pages.volumes().find(|(_, entry)| entry.name == volume);
        target(gateway, found.ok_or(Refusal::Unknown)?, initiator)
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
        let portal_group = gateway.config.iscsi.portal_group;
        let posted = gateway.shard_of(place.0).post(move |state| {
            state.seat_initiator(place, (name, read_only, portal_group), connection);
        });
        if posted.is_err() {
            tracing::warn!("an initiator was dropped: the thread of its volume has ended");
        }
    }
}
