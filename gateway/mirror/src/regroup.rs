//! The members of a group where it is a mirror: they are what its primary says.
//!
//! Invariant: a change is one set of records, to be made durable together. A volume that its
//! primary no longer names is never lost: it goes on as an old copy in a group of its own. A copy
//! that lacks a volume is not one point in time of the group.

use block::{BLOCK_BYTES, BlockRange, GroupId, Open, Quality, SessionId, VolumeId, VolumeOffer};
use bytes::Bytes;

use crate::dirty::DirtyMap;
use crate::record::{
    Arbitrated, GroupRecord, LegRecord, RecordError, RoleRecord, UpstreamRecord, dirty_key,
    fresh_key, group_key,
};

/// A volume that leaves, and the group of its own that it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaver {
    /// Which.
    pub volume: VolumeId,
    /// Its new group.
    pub group: GroupId,
    /// The name of that group.
    pub name: String,
}

/// The records that make the group's members here those of `open`, in its order. The group must be
/// closed, and `leavers` must name every volume of it that `open` does not.
///
/// # Errors
/// See [`RecordError`].
pub fn regroup_mirror(
    record: &[u8],
    open: &Open,
    leavers: &[Leaver],
) -> Result<Vec<(String, Option<Bytes>)>, RecordError> {
    let mut record = GroupRecord::decode(record)?;
    let before = record.volumes.clone();
    let mut records = Vec::new();
    for leaver in leavers {
        records.push(own_group(&record, open, leaver));
        let gateways = record.legs.iter().flatten().map(|leg| leg.gateway);
        for gateway in gateways {
            records.push((dirty_key(record.group, gateway, leaver.volume), None));
            records.push((fresh_key(record.group, gateway, leaver.volume), None));
        }
    }
    record.volumes = open.volumes.iter().map(|offer| offer.volume).collect();
    for leg in record.legs.iter_mut().flatten() {
        leg.sessions = sessions(&before, &leg.sessions, open);
    }
    if let Some(UpstreamRecord { sessions: known, .. }) = &mut record.upstream {
        *known = sessions(&before, known, open);
    }
    let is_new = |offer: &&VolumeOffer| !before.contains(&offer.volume);
    for offer in open.volumes.iter().filter(is_new) {
        records.extend(unknown(&record, offer));
    }
    record.points = record.points.of(&record.volumes);
    if record.volumes.iter().any(|volume| !before.contains(volume)) {
        record.quality = match record.quality {
            Quality::Blank => Quality::Blank,
            Quality::Inconsistent
            | Quality::Consistent
            | Quality::Outdated
            | Quality::InSync
            | Quality::Source => Quality::Inconsistent,
        };
    }
    if matches!(record.role, RoleRecord::Primary | RoleRecord::Yielding { .. })
        && open.epoch > record.epoch
    {
        // It learns of a higher epoch here: it must not serve for the moment until it is opened.
        record.role = RoleRecord::Fenced { by: open.epoch };
        record.legs.iter_mut().flatten().for_each(cut_off);
        if record.quality == Quality::Source {
            record.quality = Quality::Outdated;
        }
    }
    records.push((group_key(record.group), Some(record.encode())));
    Ok(records)
}

/// What a fence leaves of a leg: the new primary will ask what it may lack.
fn cut_off(leg: &mut LegRecord) {
    leg.in_sync = false;
    leg.wanted = false;
    leg.awaiting_reprotect = true;
}

fn own_group(group: &GroupRecord, open: &Open, leaver: &Leaver) -> (String, Option<Bytes>) {
    let record = GroupRecord {
        group: leaver.group,
        name: leaver.name.clone(),
        volumes: vec![leaver.volume],
        role: RoleRecord::Secondary,
        epoch: group.epoch.max(open.epoch),
        lineage: group.lineage.clone(),
        quality: match group.quality {
            Quality::Blank => Quality::Blank,
            Quality::Inconsistent => Quality::Inconsistent,
            // Its own part of the kept cut goes with it.
            Quality::Consistent => Quality::Consistent,
            Quality::Outdated | Quality::InSync | Quality::Source => Quality::Outdated,
        },
        legs: Vec::new(),
        upstream: None,
        host_boot: group.host_boot,
        points: group.points.of(&[leaver.volume]),
        arbitrated: Arbitrated::No,
        parts: None,
    };
    (group_key(leaver.group), Some(record.encode()))
}

/// Of a volume that is new here nobody knows in which blocks it differs. The primary says so itself
/// when it had it join; one to which it always belonged has to be told (rule 9).
fn unknown<'a>(
    record: &'a GroupRecord,
    offer: &'a VolumeOffer,
) -> impl Iterator<Item = (String, Option<Bytes>)> + 'a {
    let mut whole = DirtyMap::default();
    whole.insert(BlockRange::new(0, offer.bytes.div_ceil(BLOCK_BYTES)));
    let map = whole.encode();
    record
        .legs
        .iter()
        .flatten()
        .map(move |leg| (dirty_key(record.group, leg.gateway, offer.volume), Some(map.clone())))
}

/// A session by volume, in the new order: the known one, or the one that is offered.
fn sessions(before: &[VolumeId], known: &[SessionId], open: &Open) -> Vec<SessionId> {
    open.volumes
        .iter()
        .map(|offer| {
            let at = before.iter().position(|volume| *volume == offer.volume);
            at.and_then(|at| known.get(at)).copied().unwrap_or(offer.session)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use block::{Epoch, GatewayId, Generation, VolumeOffer};

    use super::*;
    use crate::lineage::Lineage;
    use crate::record::PointsRecord;

    const G: GroupId = GroupId::of(1);

    fn volumes(ids: &[u128]) -> Vec<VolumeId> {
        ids.iter().copied().map(VolumeId::of).collect()
    }

    fn mirror(role: RoleRecord) -> GroupRecord {
        GroupRecord {
            group: G,
            name: "orders".to_owned(),
            volumes: volumes(&[1, 2, 3]),
            role,
            epoch: Epoch::new(4),
            lineage: Some(Lineage::new(Generation::of(9), Vec::new())),
            quality: Quality::InSync,
            legs: vec![Some(LegRecord {
                gateway: GatewayId::of(7),
                site: "north".to_owned(),
                sessions: [11, 12, 13].map(SessionId::of).to_vec(),
                policy: crate::Policy::default(),
                in_sync: true,
                wanted: true,
                awaiting_reprotect: false,
                base: Some(Generation::of(9)),
                suspended: false,
                lossy: None,
                holds_content: false,
            })],
            upstream: None,
            host_boot: [0; 16],
            points: PointsRecord::default(),
            arbitrated: Arbitrated::Claimed,
            parts: None,
        }
    }

    fn open(epoch: u64, ids: &[u128]) -> Open {
        Open {
            group: G,
            name: "orders".to_owned(),
            epoch: Epoch::new(epoch),
            generation: Generation::of(9),
            ancestors: Vec::new(),
            volumes: volumes(ids)
                .into_iter()
                .map(|volume| VolumeOffer {
                    volume,
                    session: SessionId::of(volume.uuid().as_u128() + 20),
                    name: "x".to_owned(),
                    bytes: 4096,
                })
                .collect(),
            discard: false,
            relayed: false,
            heir_of: None,
        }
    }

    fn read(records: &[(String, Option<Bytes>)], group: GroupId) -> GroupRecord {
        let found = records.iter().find(|(key, _)| *key == group_key(group));
        GroupRecord::decode(found.unwrap().1.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_volume_that_left_is_an_old_copy_and_the_rest_is_what_it_was() {
        let to = GroupId::of(5);
        let leaver = Leaver { volume: VolumeId::of(2), group: to, name: "two".to_owned() };
        let record = mirror(RoleRecord::Secondary).encode();
        let records = regroup_mirror(&record, &open(4, &[1, 3]), &[leaver]).unwrap();
        let group = read(&records, G);
        assert_eq!(group.volumes, volumes(&[1, 3]));
        assert_eq!(group.quality, Quality::InSync, "one point in time stays one");
        assert_eq!(group.legs[0].as_ref().unwrap().sessions, [11, 13].map(SessionId::of));
        let own = read(&records, to);
        assert_eq!((own.volumes, own.quality), (volumes(&[2]), Quality::Outdated));
        assert_eq!(own.lineage, group.lineage);
        let gone = dirty_key(G, GatewayId::of(7), VolumeId::of(2));
        assert!(records.contains(&(gone, None)));
    }

    #[test]
    fn a_copy_without_a_volume_is_no_point_in_time() {
        let record = mirror(RoleRecord::Secondary).encode();
        let records = regroup_mirror(&record, &open(4, &[3, 1, 2, 4]), &[]).unwrap();
        let group = read(&records, G);
        assert_eq!((group.volumes, group.quality), (volumes(&[3, 1, 2, 4]), Quality::Inconsistent));
        let sessions = &group.legs[0].as_ref().unwrap().sessions;
        assert_eq!(*sessions, [13, 11, 12, 24].map(SessionId::of));
    }

    /// Found by the simulator: a volume had left at the old primary while its mirror, which was
    /// promoted, did not hear of it. When the old one followed, the volume joined it again, and only
    /// what the new primary had written since was copied to it.
    #[test]
    fn a_volume_that_is_new_here_is_told_as_different_from_end_to_end() {
        let record = mirror(RoleRecord::Secondary).encode();
        let records = regroup_mirror(&record, &open(4, &[1, 2, 3, 4]), &[]).unwrap();
        let map = |volume| {
            let key = dirty_key(G, GatewayId::of(7), VolumeId::of(volume));
            records.iter().find(|(found, _)| *found == key).and_then(|(_, map)| map.clone())
        };
        let whole = DirtyMap::decode(&map(4).unwrap()).unwrap();
        assert_eq!(whole.runs(), [BlockRange::new(0, 1)]);
        assert_eq!(map(1), None, "what was known of the others stays");
    }

    #[test]
    fn a_primary_that_learns_of_a_higher_epoch_this_way_is_fenced() {
        let mut record = mirror(RoleRecord::Primary);
        record.quality = Quality::Source;
        let records = regroup_mirror(&record.encode(), &open(6, &[1, 2, 3]), &[]).unwrap();
        let group = read(&records, G);
        assert_eq!(group.role, RoleRecord::Fenced { by: Epoch::new(6) });
        assert_eq!(group.quality, Quality::Outdated);
        let leg = group.legs[0].as_ref().unwrap();
        assert!(!leg.in_sync && !leg.wanted && leg.base.is_some());
    }
}
