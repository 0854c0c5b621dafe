//! How a gateway's part of a group is, for the gateway at its other end: its role, its hosts, its
//! room, and what was written there that the other may lack.
//!
//! Invariant: it is told only to a gateway that has a part of the group itself, and its size is
//! bounded whatever was written.

use api::Code;
use block::{GatewayId, GroupId, Identity};
use mirror::{Differences, GroupStatus};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use crate::refusal::Refused;
use crate::status;

/// Ranges that are told of a group. Each takes up to 27 characters and the 64 volumes of a group up
/// to 110 each: 14 KiB of the 16 KiB that an answer may have.
const RANGES_MAX: usize = 256;
/// Of each volume at least.
const RANGES_MIN: usize = 4;

const _: () = assert!(RANGES_MIN * mirror::GROUP_VOLUMES_MAX <= RANGES_MAX);

/// What was written to one volume.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Written {
    /// The volume.
    pub(crate) volume: Uuid,
    /// Bytes, exact.
    pub(crate) bytes: u64,
    /// The first block of each range, and how many blocks it has.
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Whether near ranges were merged.
    pub(crate) merged: bool,
}

/// How a gateway's part of a group is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Survey {
    /// When, by its own clock, RFC 3339.
    pub(crate) as_of: String,
    /// Its release.
    pub(crate) release: String,
    /// The part that it plays.
    pub(crate) role: api::Role,
    /// The turn of its epoch.
    pub(crate) epoch: u64,
    /// Whether it serves hosts.
    pub(crate) serving: api::Serving,
    /// What its copy is worth.
    pub(crate) quality: api::Quality,
    /// The history that its content belongs to.
    pub(crate) generation: Option<Uuid>,
    /// Hosts that are attached.
    pub(crate) hosts: u64,
    /// Whether hosts could attach over NBD.
    pub(crate) has_listener: bool,
    /// Bytes that its pool has left; absent when that is not known.
    pub(crate) room_bytes: Option<u64>,
    /// The history that it has in common with the other, as far as it knows.
    pub(crate) base: Option<Uuid>,
    /// Whether nothing else than what is listed can differ.
    pub(crate) is_whole: bool,
    /// What was written there and the other may lack; volumes without any are left out.
    pub(crate) volumes: Vec<Written>,
}

impl Survey {
    /// Bytes that were written there and the other may lack.
    pub(crate) fn bytes(&self) -> u64 {
        self.volumes.iter().map(|written| written.bytes).sum()
    }

    /// Whether what was written there is a history of its own. If not, what the other may lack is
    /// only what was under way when a process died, and is compared, not discarded.
    pub(crate) fn owns_history(&self, other: &Self) -> bool {
        let shared = self.generation == other.generation || self.generation == other.base;
        self.bytes() > 0 && !shared
    }

    /// When the history that its content belongs to began, in milliseconds since 1970: generations
    /// carry the time at which they were made.
    pub(crate) fn history_began_ms(&self) -> Option<u64> {
        let (seconds, nanos) = self.generation?.get_timestamp()?.to_unix();
        Some(seconds.saturating_mul(1000).saturating_add(u64::from(nanos) / 1_000_000))
    }
}

/// Lists ranges where no host waits for it: a map may have many millions.
async fn listed(differences: Vec<Differences>) -> Result<Vec<Written>, Refused> {
    let list = move || {
        let written = differences.iter().filter(|of| of.bytes() > 0);
        let most = (RANGES_MAX / written.clone().count().max(1)).max(RANGES_MIN);
        written
            .map(|of| {
                let ranges = of.ranges(most);
                let blocks = ranges.blocks.iter();
                Written {
                    volume: of.volume().uuid(),
                    bytes: of.bytes(),
                    ranges: blocks.map(|run| (run.first(), run.end() - run.first())).collect(),
                    merged: ranges.are_merged,
                }
            })
            .collect()
    };
    let listing = tokio::task::spawn_blocking(list).await;
    listing.map_err(|error| Refused::new(Code::Internal, error.to_string()))
}

/// Whether that gateway has a part of the group, as far as this one knows.
fn is_part(status: &GroupStatus, gateway: GatewayId) -> bool {
    let is_upstream = status.upstream.as_ref().is_some_and(|up| up.gateway == gateway);
    is_upstream || status.legs.iter().any(|leg| leg.gateway == gateway)
}

impl Gateway {
    /// How the part of a group here is, for the gateway at its other end.
    ///
    /// # Errors
    /// [`Code::ShardSilent`], or why the group is not open.
    pub(crate) async fn survey(&self, group: GroupId, other: GatewayId) -> Result<Survey, Refused> {
        let status = self.status_of(group).await?;
        let shard = self.shard_of(group);
        let look = move |state: &std::rc::Rc<crate::shard::state::ShardState>| {
            (state.hosts_of(group), state.lacking(group, other))
        };
        let (hosts, differences) = shard.call(look).await?;
        let differences = differences.unwrap_or_default();
        let capacity = self.pool.capacity_bytes();
        Ok(Survey {
            as_of: self.clock.rfc3339(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            role: status::role(status.role),
            epoch: status.epoch.turn(),
            serving: status::serving(&status.serving),
            quality: status::quality(status.quality),
            generation: status.generation.map(block::Generation::uuid),
            hosts: u64::try_from(hosts).unwrap_or(u64::MAX),
            has_listener: !self.nbd_uris.is_empty() || !self.iscsi_uris.is_empty(),
            room_bytes: capacity.map(|bytes| bytes.saturating_sub(self.pool.used_bytes())),
            base: differences.first().and_then(Differences::base).map(block::Generation::uuid),
            is_whole: differences.iter().all(|of| of.base().is_some()),
            volumes: listed(differences).await?,
        })
    }

    /// The same, for a gateway that asked.
    ///
    /// # Errors
    /// [`Code::Forbidden`] when it has no part of the group.
    pub(super) async fn survey_for(&self, group: Uuid, peer: &Identity) -> Result<Answer, Refused> {
        let group = GroupId::from_uuid(group);
        let status = self.status_of(group).await;
        match status {
            Ok(status) if is_part(&status, peer.gateway) => {
                self.survey(group, peer.gateway).await.map(Answer::Surveyed)
            }
            Err(refused) if self.book.read().group_by_id(group).is_some() => Err(refused),
            Ok(_) | Err(_) => {
                let detail = format!("{} has no part of group {group}", peer.site);
                Err(Refused::new(Code::Forbidden, detail))
            }
        }
    }

    /// Asks another gateway how its part of a group is.
    ///
    /// # Errors
    /// As [`Gateway::ask`].
    pub(crate) async fn ask_survey(
        &self,
        group: GroupId,
        other: GatewayId,
    ) -> Result<Survey, Refused> {
        self.ask(other.uuid(), &Question::Survey { group: group.uuid() }).await?.survey()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest() -> Survey {
        let volumes = mirror::GROUP_VOLUMES_MAX;
        let written = Written {
            volume: Uuid::from_u128(u128::MAX),
            bytes: block::VOLUME_BYTES_MAX,
            ranges: vec![(1 << 38, 1 << 38); RANGES_MAX / volumes],
            merged: true,
        };
        Survey {
            as_of: "2026-01-01T00:00:00.000Z".to_owned(),
            release: "100.100.100".to_owned(),
            role: api::Role::Secondary,
            epoch: u64::MAX,
            serving: api::Serving::WaitingForWitness,
            quality: api::Quality::Inconsistent,
            generation: Some(Uuid::from_u128(u128::MAX)),
            hosts: u64::MAX,
            has_listener: true,
            room_bytes: Some(u64::MAX),
            base: Some(Uuid::from_u128(u128::MAX)),
            is_whole: false,
            volumes: vec![written; volumes],
        }
    }

    #[test]
    fn the_largest_one_fits_an_answer() {
        let answer = Answer::Surveyed(largest());
        let text = serde_json::to_vec(&answer).unwrap();
        assert!(text.len() <= 16 << 10, "{} bytes", text.len());
        assert_eq!(serde_json::from_slice::<Answer>(&text).unwrap(), answer);
    }

    #[test]
    fn a_generation_says_when_it_was_made() {
        let at = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000, 5_000_000);
        let mut survey = largest();
        survey.generation = Some(Uuid::new_v7(at));
        assert_eq!(survey.history_began_ms(), Some(1_700_000_000_005));
        survey.generation = Some(Uuid::from_u128(9));
        assert_eq!(survey.history_began_ms(), None);
    }
}
