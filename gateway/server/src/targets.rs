//! Which targets initiators see, and the way of their sessions to the thread of the volume.
//!
//! Invariant: a volume is listed and logged in to wherever a copy of it is, whether that serves or not:
//! what serves is for the volume's thread to say, at each command. One of which nothing is known yet,
//! or whose content is about to change, is not available: never told as one that does not exist,
//! because initiators would give it up. A copy that is open on its own is a target of its own, and so
//! is what a volume was at a snapshot, wherever that is kept; as for hosts of NBD, it is not listed,
//! because who discovers targets would attach them all.

use std::sync::Arc;

use block::VolumeId;
use iscsi::{InitiatorInfo, LoggedIn, Refusal, TargetInfo, Targets};
use mirror::{Serving, SnapshotState};

use crate::access::may_log_in;
use crate::book::{GroupEntry, VolumeEntry};
use crate::gateway::Gateway;
use crate::gateway::snapshots::export_name;

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

/// What stands between the name of a volume and that of a snapshot of it: no volume's name holds a
/// colon, and `@`, as hosts of NBD write it, may be in no name of a target.
const AT: &str = ":snapshot:";

/// RFC 7143 §4.2.7.1.
pub(crate) const TARGET_NAME_BYTES_MAX: usize = 223;

/// What a target shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown<'n> {
    /// The volume, at whichever site serves it.
    Volume,
    /// The copy here, open on its own.
    Apart,
    /// What the volume was at the snapshot of this name.
    At(&'n str),
}

/// The volume that a target is of, and what of it.
fn parsed<'n>(name: &'n str, prefix: &str) -> Option<(&'n str, Shown<'n>)> {
    let rest = volume_of(name, prefix)?;
    Some(match rest.split_once(':') {
        None => (rest, Shown::Volume),
        Some((volume, _)) => {
            let behind = &rest[volume.len()..];
            match behind.split_at_checked(AT.len()) {
                Some((at, snapshot)) if at.eq_ignore_ascii_case(AT) => {
                    (volume, Shown::At(snapshot))
                }
                _ if behind.eq_ignore_ascii_case(APART) => (volume, Shown::Apart),
                _ => return None,
            }
        }
    })
}

/// How initiators name what a volume was at a snapshot, behind the prefix.
#[must_use]
pub(crate) fn target_at(volume: &str, snapshot: &str) -> String {
    format!("{volume}{AT}{snapshot}")
}

/// The one of this name, or the only one that differs from it in case: initiators may send names in
/// lower case.
fn only<'a, T: 'a>(
    all: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
    wanted: &str,
) -> Option<&'a T> {
    let mut alike = all.clone().filter(|one| name(one).eq_ignore_ascii_case(wanted));
    let exact = all.clone().find(|one| name(one) == wanted);
    exact.or_else(|| alike.next().filter(|_| alike.next().is_none()))
}

fn target(
    gateway: &Gateway,
    (group, volume): (&GroupEntry, &VolumeEntry),
    (initiator, shown): (&InitiatorInfo, Shown<'_>),
) -> Result<TargetInfo, Refusal> {
    if !may_log_in(&volume.settings, initiator) {
        return Err(Refusal::Unknown);
    }
    let seen = gateway.board.get(group.group()).ok_or(Refusal::NotServed)?;
    let id = VolumeId::from_uuid(volume.id);
    let name = target_name(&gateway.config.iscsi.prefix, &volume.name);
    let of = volume.name.clone();
    if let Shown::At(wanted) = shown {
        let here = seen.status.snapshots.iter();
        let here = here.filter(|one| one.volumes.iter().any(|(kept, _)| *kept == id));
        let one = only(here, |one| &one.name, wanted).ok_or(Refusal::Unknown)?;
        let export = export_name(&of, &one.name);
        return match one.state {
            SnapshotState::Deleting => Err(Refusal::Unknown),
            _ if gateway.snapshot_export(&export).is_none() => Err(Refusal::NotServed),
            _ => Ok(TargetInfo {
                name: format!("{name}{AT}{}", one.name),
                volume: of,
                portals: gateway.ways.apart().portals,
            }),
        };
    }
    let is_filled = !gateway.book.read().is_held((group.id, volume.id));
    let is_known = seen.status.volumes.iter().any(|known| known.volume == id);
    if !is_filled || !is_known || seen.status.serving == Serving::RollingBack {
        return Err(Refusal::NotServed);
    }
    if shown == Shown::Volume {
        let portals = gateway.ways.of(&seen.status).portals;
        return Ok(TargetInfo { name, volume: of, portals });
    }
    if seen.status.serving != Serving::Detached {
        return Err(Refusal::Unknown);
    }
    Ok(TargetInfo { name: name + APART, volume: of, portals: gateway.ways.apart().portals })
}

/// A target that is not available for the time being, with the portals that are known.
fn away(gateway: &Gateway, (group, volume): (&GroupEntry, &VolumeEntry)) -> TargetInfo {
    let seen = gateway.board.get(group.group());
    let ways = seen.map_or_else(|| gateway.ways.apart(), |seen| gateway.ways.of(&seen.status));
    let name = target_name(&gateway.config.iscsi.prefix, &volume.name);
    TargetInfo { name, volume: volume.name.clone(), portals: ways.portals }
}

impl Targets for TargetDoor {
    fn is_ready(&self) -> bool {
        self.ready().is_ok()
    }

    fn list(&self, initiator: &InitiatorInfo) -> Vec<TargetInfo> {
        let Ok(gateway) = self.ready() else { return Vec::new() };
        let pages = gateway.book.read();
        let both = |found| {
            let one = move |shown| match target(gateway, found, (initiator, shown)) {
                // What is not available now is, later: an initiator that is told of none gives it up.
                Err(Refusal::NotServed) if shown == Shown::Volume => Some(away(gateway, found)),
                known => known.ok(),
            };
            [Shown::Volume, Shown::Apart].into_iter().filter_map(one)
        };
        let mut targets: Vec<TargetInfo> = pages.volumes().flat_map(both).collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        let gateway = self.ready()?;
        let (volume, shown) = parsed(name, &gateway.config.iscsi.prefix).ok_or(Refusal::Unknown)?;
        let pages = gateway.book.read();
        let all: Vec<_> = pages.volumes().collect();
        let found = only(all.iter(), |(_, entry)| &entry.name, volume).ok_or(Refusal::Unknown)?;
        target(gateway, *found, (initiator, shown))
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
        // The name is as `find` told it.
        let whole = connection.target().name.clone();
        let Some((_, shown)) = parsed(&whole, &gateway.config.iscsi.prefix) else { return };
        let posted = match shown {
            Shown::Volume => gateway.shard_of(place.0).post(move |state| {
                state.seat_initiator(place, (name, read_only), connection);
            }),
            Shown::Apart => gateway.shard_of(place.0).post(move |state| {
                state.seat_apart(place, (name, read_only), connection);
            }),
            Shown::At(snapshot) => {
                let export = export_name(&name, snapshot);
                let Some(((.., here), _)) = gateway.snapshot_export(&export) else { return };
                tracing::info!(export, "a snapshot is read");
                gateway.shard_of(place.0).post(move |state| {
                    state.seat_at_snapshot(place, (here, name), connection);
                })
            }
        };
        if posted.is_err() {
            tracing::warn!("an initiator was dropped: the thread of its volume has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, parsed, target_at, volume_of};

    #[test]
    fn a_target_is_found_whatever_case_its_name_is_sent_in() {
        let prefix = "iqn.2026-01.io.twinspan";
        assert_eq!(volume_of("IQN.2026-01.io.Twinspan:Orders", prefix), Some("Orders"));
        for no in ["iqn.2026-01.io.twinspan", "iqn.2026-01.io.twinspanx:a", "iqn.other:a", "é"] {
            assert_eq!(volume_of(no, prefix), None, "{no}");
        }
    }
    #[test]
    fn a_target_says_what_of_its_volume_it_shows() {
        let prefix = "iqn.2026-01.io.twinspan";
        let of = |rest: &str| {
            let name = format!("{prefix}:{rest}");
            parsed(&name, prefix).map(|(volume, shown)| (volume.to_owned(), format!("{shown:?}")))
        };
        let is = |volume: &str, shown: Shown<'_>| Some((volume.to_owned(), format!("{shown:?}")));
        assert_eq!(of("orders"), is("orders", Shown::Volume));
        assert_eq!(of("orders:Detached"), is("orders", Shown::Apart));
        assert_eq!(of(&target_at("orders", "before")), is("orders", Shown::At("before")));
        assert_eq!(of("orders:SNAPSHOT:detached"), is("orders", Shown::At("detached")));
        for no in ["orders:", "orders:other", "orders:snapshot", "orders:detached:before"] {
            assert_eq!(of(no), None, "{no}");
        }
    }
}
