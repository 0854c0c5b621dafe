//! The record of a group that begins here.
//!
//! Invariant: a founding primary's epoch is the first one; a mirror has none until it hears of one.

use block::{Epoch, Generation, Quality, VolumeId};
use bytes::Bytes;

use crate::record::{GroupRecord, RoleRecord, group_key};

/// The record of a group that begins here: as its primary, or as a mirror.
pub(crate) fn found(
    group: block::GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
    generation: Option<Generation>,
    (quality, foreign): (Quality, bool),
) -> (String, Option<Bytes>) {
    found_part(group, name, volumes, (generation, None), (quality, foreign))
}

/// The same, with companions.
pub(crate) fn found_part(
    group: block::GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
    (generation, parts): (Option<Generation>, Option<crate::record::PartsRecord>),
    (quality, foreign): (Quality, bool),
) -> (String, Option<Bytes>) {
    let lineage = generation.map(|current| crate::lineage::Lineage::new(current, Vec::new()));
    let primary = lineage.is_some();
    let record = GroupRecord {
        group,
        name: name.to_owned(),
        volumes,
        role: if primary { RoleRecord::Primary } else { RoleRecord::Secondary },
        epoch: if primary { Epoch::new(1) } else { Epoch::ZERO },
        lineage,
        quality,
        legs: Vec::new(),
        upstream: None,
        host_boot: [0; 16],
        arbitrated: crate::record::Arbitrated::No,
        parts,
        points: crate::record::PointsRecord { foreign, ..Default::default() },
    };
    (group_key(group), Some(record.encode()))
}
