//! Which targets initiators see, and the way of their sessions to the thread of the volume.
//!
//! Invariant: a volume is listed and logged in to wherever a copy of it is, whether that serves or not:
//! what serves is for the volume's thread to say, at each command. A volume with a number is a disk of
//! its group's target, beside those that the same initiator may see, and of no other. One of which nothing is known yet,
//! or whose content is about to change, is not available: never told as one that does not exist,
//! because initiators would give it up. A copy that is open on its own is a target of its own, and so
//! is what a volume was at a snapshot, wherever that is kept; as for hosts of NBD, it is not listed,
//! because who discovers targets would attach them all.

use std::sync::Arc;

use block::VolumeId;
use iscsi::{InitiatorInfo, LoggedIn, Refusal, TargetInfo, Targets};
use mirror::{Role, Serving, SnapshotState};

use crate::access::may_log_in;
use crate::book::{GroupEntry, VolumeEntry};
use crate::gateway::Gateway;
use crate::gateway::snapshots::export_name;
use crate::shard::{Silent, Wanted};

/// The gateway, for its iSCSI listeners.
pub(crate) struct TargetDoor(pub(crate) Arc<Gateway>);

impl TargetDoor {
    fn ready(&self) -> Result<&Arc<Gateway>, Refusal> {
        Some(&self.0).filter(|gateway| gateway.is_ready()).ok_or(Refusal::NotReady)
    }
}

/// What stands behind the prefix in the name of a volume's target, and the number of its disk there.
#[must_use]
pub(crate) fn target_tail(group: &GroupEntry, volume: &VolumeEntry) -> (String, u8) {
    match volume.lun {
        None => (volume.name.clone(), 0),
        Some(lun) => (group_tail(&group.name), lun),
    }
}

/// What stands behind the prefix in the name of a group's target.
#[must_use]
pub(crate) fn group_tail(group: &str) -> String {
    format!("{group}{TOGETHER}")
}

/// The name of a volume's target.
#[must_use]
pub(crate) fn target_name(prefix: &str, (group, volume): (&GroupEntry, &VolumeEntry)) -> String {
    format!("{prefix}:{}", target_tail(group, volume).0)
}

/// What the name of a group's target ends with.
const TOGETHER: &str = ":group";

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
    /// The volumes of a group that have a number.
    Group,
}

/// The volume that a target is of, or the group, and what of it.
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
                _ if behind.eq_ignore_ascii_case(TOGETHER) => (volume, Shown::Group),
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
    let name = format!("{}:{}", gateway.config.iscsi.prefix, volume.name);
    if let Shown::At(wanted) = shown {
        let here = seen.status.snapshots.iter();
        let here = here.filter(|one| one.volumes.iter().any(|(kept, _)| *kept == id));
        let one = only(here, |one| &one.name, wanted).ok_or(Refusal::Unknown)?;
        let export = export_name(&volume.name, &one.name);
        return match one.state {
            SnapshotState::Deleting => Err(Refusal::Unknown),
            _ if gateway.snapshot_export(&export).is_none() => Err(Refusal::NotServed),
            _ => Ok(TargetInfo {
                name: format!("{name}{AT}{}", one.name),
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
        // One with a number is at its group's target: a host must not take it for two disks.
        let alone = volume.lun.is_none();
        let portals = gateway.ways.of(&seen.status).portals;
        return alone.then_some(TargetInfo { name, portals }).ok_or(Refusal::Unknown);
    }
    if seen.status.serving != Serving::Detached {
        return Err(Refusal::Unknown);
    }
    Ok(TargetInfo { name: name + APART, portals: gateway.ways.apart().portals })
}

/// The members of a group that are disks of its target, as far as this initiator may see them.
fn disks_of<'a>(
    group: &'a GroupEntry,
    initiator: &InitiatorInfo,
) -> impl Iterator<Item = (&'a VolumeEntry, u8)> {
    let may = group.volumes.iter().filter(|volume| may_log_in(&volume.settings, initiator));
    may.filter_map(|volume| Some((volume, volume.lun_for(&initiator.name)?)))
}

/// The target of a group's volumes.
fn target_of_group(
    gateway: &Gateway,
    group: &GroupEntry,
    initiator: &InitiatorInfo,
) -> Result<TargetInfo, Refusal> {
    let mut may = group.volumes.iter().filter(|volume| may_log_in(&volume.settings, initiator));
    if may.next().is_none() {
        return Err(Refusal::Unknown);
    }
    let seen = gateway.board.get(group.group()).ok_or(Refusal::NotServed)?;
    if disks_of(group, initiator).next().is_none() {
        // A mirror hears the numbers from the primary: that there are none is for that one to say.
        let knows = seen.status.role == Role::Primary;
        return Err(if knows { Refusal::Unknown } else { Refusal::NotServed });
    }
    let is_known = |id| seen.status.volumes.iter().any(|known| known.volume == id);
    // A host that finds one of its disks missing gives it up: all of them are there, or none.
    let pages = gateway.book.read();
    let is_there = |volume: &VolumeEntry| {
        is_known(VolumeId::from_uuid(volume.id)) && !pages.is_held((group.id, volume.id))
    };
    let all = disks_of(group, initiator).all(|(volume, _)| is_there(volume));
    if !all || seen.status.serving == Serving::RollingBack {
        return Err(Refusal::NotServed);
    }
    let name = format!("{}:{}", gateway.config.iscsi.prefix, group_tail(&group.name));
    Ok(TargetInfo { name, portals: gateway.ways.of(&seen.status).portals })
}

/// A target that is not available for the time being, with the portals that are known.
fn away(gateway: &Gateway, (group, volume): (&GroupEntry, &VolumeEntry)) -> TargetInfo {
    let seen = gateway.board.get(group.group());
    let ways = seen.map_or_else(|| gateway.ways.apart(), |seen| gateway.ways.of(&seen.status));
    let name = target_name(&gateway.config.iscsi.prefix, (group, volume));
    TargetInfo { name, portals: ways.portals }
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
                Err(Refusal::NotServed) if shown == Shown::Volume => {
                    found.1.lun.is_none().then(|| away(gateway, found))
                }
                known => known.ok(),
            };
            [Shown::Volume, Shown::Apart].into_iter().filter_map(one)
        };
        let together = |group: &GroupEntry| match target_of_group(gateway, group, initiator) {
            Err(Refusal::NotServed) => {
                let (volume, _) = disks_of(group, initiator).next()?;
                Some(away(gateway, (group, volume)))
            }
            known => known.ok(),
        };
        let mut targets: Vec<TargetInfo> = pages.volumes().flat_map(both).collect();
        targets.extend(pages.groups.iter().filter_map(together));
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        let gateway = self.ready()?;
        let (volume, shown) = parsed(name, &gateway.config.iscsi.prefix).ok_or(Refusal::Unknown)?;
        let pages = gateway.book.read();
        if shown == Shown::Group {
            let found = only(pages.groups.iter(), |group| &group.name, volume);
            return target_of_group(gateway, found.ok_or(Refusal::Unknown)?, initiator);
        }
        let all: Vec<_> = pages.volumes().collect();
        let found = only(all.iter(), |(_, entry)| &entry.name, volume).ok_or(Refusal::Unknown)?;
        target(gateway, *found, (initiator, shown))
    }

    fn seat(&self, connection: LoggedIn) {
        let Ok(gateway) = self.ready() else { return };
        // The name is as `find` told it.
        let whole = connection.target().name.clone();
        let Some((of, shown)) = parsed(&whole, &gateway.config.iscsi.prefix) else { return };
        let posted = if shown == Shown::Group {
            let pages = gateway.book.read();
            let Some(group) = pages.groups.iter().find(|group| group.name == of) else { return };
            let disks = disks_of(group, connection.initiator());
            let disks = disks.map(|(volume, lun)| Wanted::of(volume, lun)).collect();
            let group = group.group();
            gateway.shard_of(group).post(move |state| {
                state.seat_together(group, disks, connection);
            })
        } else {
            seat_at_volume(gateway, (of, shown), connection)
        };
        if posted.is_err() {
            tracing::warn!("an initiator was dropped: the thread of its volume has ended");
        }
    }
}

/// Sends an initiator to the thread of the volume that its target is of.
fn seat_at_volume(
    gateway: &Arc<Gateway>,
    (of, shown): (&str, Shown<'_>),
    connection: LoggedIn,
) -> Result<(), Silent> {
    let pages = gateway.book.read();
    let Some((group, volume)) = pages.volumes().find(|(_, volume)| volume.name == of) else {
        return Ok(());
    };
    let (group, wanted) = (group.group(), Wanted::of(volume, 0));
    let shard = gateway.shard_of(group);
    match shown {
        Shown::Volume if volume.lun.is_none() => {
            shard.post(move |state| state.seat_initiator(group, wanted, connection))
        }
        // It was given a number since the initiator was told.
        Shown::Volume | Shown::Group => Ok(()),
        Shown::Apart => shard.post(move |state| state.seat_apart(group, wanted, connection)),
        Shown::At(snapshot) => {
            let export = export_name(of, snapshot);
            let Some(((.., here), _)) = gateway.snapshot_export(&export) else { return Ok(()) };
            tracing::info!(export, "a snapshot is read");
            let place = (group, wanted.volume);
            shard.post(move |state| {
                state.seat_at_snapshot(place, (here, wanted.label), connection);
            })
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
        assert_eq!(of("orders:Group"), is("orders", Shown::Group));
        assert_eq!(of("group"), is("group", Shown::Volume));
        for no in ["orders:", "orders:other", "orders:snapshot", "orders:detached:before"] {
            assert_eq!(of(no), None, "{no}");
        }
    }
}
