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

/// What stands behind the prefix in the name of a target.
fn volume_of<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    rest.strip_prefix(':').filter(|_| head.eq_ignore_ascii_case(prefix))
}

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
    let is_filled = !gateway.book.read().is_held((group.id, volume.id));
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
        let volume = volume_of(name, &gateway.config.iscsi.prefix).ok_or(Refusal::Unknown)?;
        let (volume, apart) =
            volume.strip_suffix(APART).map_or((volume, false), |volume| (volume, true));
        let pages = gateway.book.read();
        let exact = pages.volumes().find(|(_, entry)| entry.name == volume);
        // Initiators may send names in lower case, and volumes have both.
        let mut alike =
            pages.volumes().filter(|(_, entry)| entry.name.eq_ignore_ascii_case(volume));
        let only = || alike.next().filter(|_| alike.next().is_none());
        target(gateway, exact.or_else(only).ok_or(Refusal::Unknown)?, (initiator, apart))
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

#[cfg(test)]
mod tests {
    use super::volume_of;

    #[test]
    fn a_target_is_found_whatever_case_its_name_is_sent_in() {
        let prefix = "iqn.2026-01.io.twinspan";
        assert_eq!(volume_of("IQN.2026-01.io.Twinspan:Orders", prefix), Some("Orders"));
        for no in ["iqn.2026-01.io.twinspan", "iqn.2026-01.io.twinspanx:a", "iqn.other:a", "é"] {
            assert_eq!(volume_of(no, prefix), None, "{no}");
        }
    }
}
