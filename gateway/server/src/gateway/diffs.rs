//! In what a group's copies differ: what each side wrote since they parted.
//!
//! Invariant: what is told of this side is its own word, what is told of the other side is that
//! one's, asked now. Who cannot be asked within [`ASK_MAX`] is told as unknown, with its age.

use std::time::Duration;

use api::{
    DiffExtent, DiffExtents, DiffSide, DiffUnknown, DiffVerdict, GroupDiff, MirrorDiff, VolumeDiff,
};
use block::{BLOCK_BYTES, GatewayId};
use futures_util::future::join_all;
use mirror::{GroupStatus, LinkState, Role, SessionState};

use super::Gateway;
use super::surveys::{Survey, Written};
use crate::clock::text;
use crate::refusal::Refused;

/// Whoever waits for this is a person in front of a screen.
const ASK_MAX: Duration = Duration::from_secs(5);

/// The other end of a group.
#[derive(Clone, Debug)]
struct Other {
    gateway: GatewayId,
    site: String,
    last_heard_ms: Option<u64>,
    /// Whether one side follows the other right now: what the mirror had on its own is given up.
    follows: bool,
}

fn others(status: &GroupStatus) -> Vec<Other> {
    if status.role == Role::Secondary {
        let upstream = status.upstream.iter().map(|upstream| Other {
            gateway: upstream.gateway,
            site: upstream.site.clone(),
            last_heard_ms: upstream.last_heard_ms,
            follows: upstream.link == LinkState::Connected,
        });
        return upstream.collect();
    }
    let legs = status.legs.iter().map(|leg| Other {
        gateway: leg.gateway,
        site: leg.site.clone(),
        last_heard_ms: leg.last_heard_ms,
        follows: leg.state == SessionState::Active && leg.link == LinkState::Connected,
    });
    legs.collect()
}

/// How two sides stand to each other.
fn verdict(here: &Survey, there: Option<&Survey>, follows: bool) -> DiffVerdict {
    let Some(there) = there else { return DiffVerdict::Unknown };
    let is_same = here.bytes() == 0 && there.bytes() == 0 && here.is_whole && there.is_whole;
    if here.owns_history(there) && there.owns_history(here) && !follows {
        DiffVerdict::BothSides
    } else if is_same {
        DiffVerdict::Same
    } else {
        DiffVerdict::OneSide
    }
}

fn side(site: &str, survey: &Survey, other: Option<&Survey>) -> DiffSide {
    let only_suspected = other.is_some_and(|other| !survey.owns_history(other));
    let since = survey.history_began_ms().filter(|_| survey.bytes() > 0 && !only_suspected);
    DiffSide {
        site: site.to_owned(),
        as_of: survey.as_of.clone(),
        role: survey.role,
        epoch: survey.epoch,
        serving: survey.serving,
        quality: survey.quality,
        hosts: survey.hosts,
        bytes: survey.bytes(),
        apart_since: since.map(text),
        only_suspected: only_suspected && survey.bytes() > 0,
        is_whole: survey.is_whole,
    }
}

fn extents(written: Option<&Written>) -> DiffExtents {
    let Some(written) = written else {
        return DiffExtents { bytes: 0, extents: Vec::new(), merged: false };
    };
    let extent = |(first, blocks): &(u64, u64)| DiffExtent {
        offset: first.saturating_mul(BLOCK_BYTES),
        bytes: blocks.saturating_mul(BLOCK_BYTES),
    };
    DiffExtents {
        bytes: written.bytes,
        extents: written.ranges.iter().map(extent).collect(),
        merged: written.merged,
    }
}

/// Bytes that lie in both; each list is in order.
fn overlap(one: &[DiffExtent], other: &[DiffExtent]) -> u64 {
    let end = |extent: &DiffExtent| extent.offset.saturating_add(extent.bytes);
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut sum: u64 = 0;
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let both = end(a).min(end(b)).saturating_sub(a.offset.max(b.offset));
        sum = sum.saturating_add(both);
        if end(a) <= end(b) {
            one.next();
        } else {
            other.next();
        }
    }
    sum
}

fn volumes(status: &GroupStatus, here: &Survey, there: Option<&Survey>) -> Vec<VolumeDiff> {
    let of = |survey: &Survey, id| survey.volumes.iter().find(|of| of.volume == id).cloned();
    let diff = |volume: &mirror::VolumeStatus| {
        let id = volume.volume.uuid();
        let here = extents(of(here, id).as_ref());
        let there = there.map(|survey| extents(of(survey, id).as_ref()));
        let both = |there: &DiffExtents| {
            let bytes = overlap(&here.extents, &there.extents);
            bytes.min(here.bytes).min(there.bytes)
        };
        let both_bytes = there.as_ref().map(both);
        let volume = volume.name.clone();
        let is_one = here.bytes > 0 || there.as_ref().is_some_and(|there| there.bytes > 0);
        is_one.then_some(VolumeDiff { volume, volume_id: id, here, there, both_bytes })
    };
    status.volumes.iter().filter_map(diff).collect()
}

impl Gateway {
    /// In what the copies of a group differ.
    ///
    /// # Errors
    /// [`api::Code::NotFound`], [`api::Code::ShardSilent`].
    pub(crate) async fn diff_group(&self, group: &str) -> Result<GroupDiff, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let others = others(&status);
        let asked = join_all(others.iter().map(|other| self.diff_with(&status, other))).await;
        let mirrors = asked.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(GroupDiff {
            as_of: self.clock.rfc3339(),
            group: entry.name.clone(),
            group_id: entry.id,
            verdict: mirrors.iter().map(|one| one.verdict).max().unwrap_or(DiffVerdict::Same),
            mirrors,
        })
    }

    async fn diff_with(&self, status: &GroupStatus, other: &Other) -> Result<MirrorDiff, Refused> {
        let here = self.survey(status.group, other.gateway).await?;
        let ask = self.ask_survey(status.group, other.gateway);
        let asked = match tokio::time::timeout(ASK_MAX, ask).await {
            Ok(asked) => asked.map_err(|refused| refused.0.detail),
            Err(_late) => Err(format!("it did not answer within {} s", ASK_MAX.as_secs())),
        };
        let there = asked.as_ref().ok();
        let age = |at: u64| self.clock.steady_ms().saturating_sub(at);
        Ok(MirrorDiff {
            site: other.site.clone(),
            gateway: other.gateway.uuid(),
            verdict: verdict(&here, there, other.follows),
            here: side(&self.config.site.name, &here, there),
            there: there.map(|there| side(&other.site, there, Some(&here))),
            unknown: asked.as_ref().err().map(|why| DiffUnknown {
                why: why.clone(),
                last_heard_ms_ago: other.last_heard_ms.map(age),
            }),
            volumes: volumes(status, &here, there),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64, bytes: u64) -> DiffExtent {
        DiffExtent { offset, bytes }
    }

    #[test]
    fn what_both_wrote_is_counted_once() {
        assert_eq!(overlap(&[], &[at(0, 8)]), 0);
        assert_eq!(overlap(&[at(0, 4), at(8, 4)], &[at(2, 8)]), 4);
        assert_eq!(overlap(&[at(0, 4)], &[at(4, 4)]), 0);
        assert_eq!(overlap(&[at(0, 100)], &[at(1, 2), at(5, 5), at(90, 20)]), 17);
    }
}
