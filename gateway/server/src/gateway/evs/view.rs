//! What the data of pairs and groups does, as this gateway sees it now.
//!
//! Invariant: `active` is said only of copies that are identical. What is not known from here is never
//! said to be better than it is: a copy whose source is not heard is `inactive`.

use std::sync::Arc;

use mirror::{Cause, GroupStatus, LegStatus, LinkState, Phase, Role, Serving, SessionState};
use serde::{Deserialize, Serialize};

use crate::book::evs::{Group, Pair, Wanted};
use crate::gateway::{Gateway, Known};
use block::{GroupId, Quality};

/// The dialects' word for what data does, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Replication {
    /// Both disks are identical and stay so.
    Active,
    /// Paused, and nothing was written since.
    ActiveStopped,
    /// Being synchronised.
    Copying,
    /// Paused or interrupted, and they differ.
    Inactive,
    /// It does not go on by itself.
    Error,
}

impl Replication {
    /// The word.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ActiveStopped => "active-stopped",
            Self::Copying => "copying",
            Self::Inactive => "inactive",
            Self::Error => "error",
        }
    }
}

/// Nothing is wrong.
pub(crate) const FAULT_NONE: u8 = 0;
/// The production disk cannot be written: fail over.
pub(crate) const FAULT_PRODUCTION: u8 = 2;
/// The line is interrupted: a failover from here could lose data.
pub(crate) const FAULT_LINK: u8 = 5;

/// What the data of a pair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Data {
    /// In a word.
    pub(crate) replication: Replication,
    /// In per cent; absent before anything was copied, and where it is not known.
    pub(crate) progress: Option<u64>,
    /// How bad a fault is.
    pub(crate) fault_level: u8,
}

impl Data {
    /// Of what was never copied.
    pub(crate) const IDLE: Self =
        Self { replication: Replication::Inactive, progress: None, fault_level: FAULT_NONE };

    /// The worst of several; the progress of them all.
    #[must_use]
    pub(crate) fn worst(all: &[Self]) -> Self {
        let replication = all.iter().map(|data| data.replication).max();
        let known: Option<Vec<u64>> = all.iter().map(|data| data.progress).collect();
        let progress = known.filter(|known| !known.is_empty());
        Self {
            replication: replication.unwrap_or(Replication::Inactive),
            progress: progress.map(|known| known.iter().sum::<u64>() / known.len() as u64),
            fault_level: all.iter().map(|data| data.fault_level).max().unwrap_or(FAULT_NONE),
        }
    }
}

impl Gateway {
    /// What the core says of a group, if it is here.
    pub(crate) async fn core_status(&self, group: &Group) -> Option<Arc<GroupStatus>> {
        match self.look_at(GroupId::from_uuid(group.core?)).await {
            Known::Status(status, _) => Some(status),
            Known::Nothing(_) => None,
        }
    }
}

/// What the data of a pair does, by what the core says of its group here. At the copy that is not all there
/// is to know: what is shown is [`Gateway::data_of_pairs`].
#[must_use]
pub(crate) fn of_pair(status: Option<&GroupStatus>, group: &Group, pair: &Pair) -> Data {
    let Some(status) = status else { return Data::IDLE };
    match status.role {
        Role::Primary => at_source(status, group, pair),
        Role::Secondary => at_copy(status, group),
        // The other site took over.
        Role::Fenced => Data { replication: Replication::ActiveStopped, ..Data::IDLE },
    }
}

fn at_source(status: &GroupStatus, group: &Group, pair: &Pair) -> Data {
    let other = group.head.gateways.into_iter();
    let leg = status.legs.iter().find(|leg| other.clone().any(|of| of == leg.gateway.uuid()));
    let Some(leg) = leg else { return Data { fault_level: own_fault(status), ..Data::IDLE } };
    let session = leg.sessions.iter().find(|session| session.volume.uuid() == pair.volume);
    // One that joined and was not told to the other side yet.
    let Some(session) = session else {
        return Data { fault_level: own_fault(status), ..Data::IDLE };
    };
    let replication = replication_of(leg, session.out_of_sync_bytes, group.wanted);
    let progress = match replication {
        Replication::Active => 100,
        Replication::Copying if session.resync_total_bytes == 0 => 0,
        // A copy whose last block is on its way is not done.
        Replication::Copying => {
            let copied = session.resync_copied_bytes.saturating_mul(100);
            (copied / session.resync_total_bytes).min(99)
        }
        Replication::ActiveStopped | Replication::Inactive | Replication::Error => {
            let alike = pair.bytes.saturating_sub(session.out_of_sync_bytes);
            alike.saturating_mul(100).checked_div(pair.bytes).unwrap_or(0)
        }
    };
    let is_cut = group.wanted == Wanted::Running && leg.link != LinkState::Connected;
    let fault_level = match (own_fault(status), is_cut) {
        (FAULT_NONE, true) => FAULT_LINK,
        (own, _) => own,
    };
    Data { replication, progress: Some(progress), fault_level }
}

fn replication_of(leg: &LegStatus, missing: u64, wanted: Wanted) -> Replication {
    match (leg.state, leg.phase) {
        (SessionState::Active, Phase::Equivalent | Phase::Following) => Replication::Active,
        (SessionState::Active, Phase::Copying | Phase::NoPair | Phase::Tracking) => {
            if leg.link == LinkState::Connected {
                Replication::Copying
            } else {
                Replication::Inactive
            }
        }
        (SessionState::Halted, _)
            if wanted == Wanted::FailedOver || leg.cause == Some(Cause::AwaitingReprotect) =>
        {
            Replication::ActiveStopped
        }
        (SessionState::Suspended, _) if missing == 0 => Replication::ActiveStopped,
        (SessionState::Suspended | SessionState::Halted, _) => Replication::Inactive,
        (SessionState::Error, _) => Replication::Error,
    }
}

fn own_fault(status: &GroupStatus) -> u8 {
    match status.serving {
        Serving::Yes | Serving::HandingOver | Serving::Detached | Serving::RollingBack => {
            FAULT_NONE
        }
        Serving::Latched
        | Serving::Halted
        | Serving::NotPrimary
        | Serving::Fenced { .. }
        | Serving::WaitingForMirror
        | Serving::NoWitness
        | Serving::WaitingForWitness
        | Serving::WaitingForCompanion
        | Serving::NoCompanion
        | Serving::Excluded => FAULT_PRODUCTION,
    }
}

fn at_copy(status: &GroupStatus, group: &Group) -> Data {
    let connected = status.upstream.as_ref().is_some_and(|up| up.link == LinkState::Connected);
    let has_all = matches!(status.quality, Quality::InSync | Quality::Consistent);
    let replication = match (group.wanted, connected) {
        (Wanted::Idle, _) => return Data::IDLE,
        (Wanted::FailedOver, _) => Replication::ActiveStopped,
        (Wanted::Running, true) if has_all => Replication::Active,
        (Wanted::Running, true) => Replication::Copying,
        // What was written since is known at the production site only, which says so while it is heard.
        (Wanted::Paused, _) | (Wanted::Running, false) => Replication::Inactive,
    };
    let fault_level = match (group.wanted, connected) {
        // Its own copy has every acknowledged write, so it may take over.
        (Wanted::Running, false) if status.quality == Quality::InSync => FAULT_PRODUCTION,
        (Wanted::Running, false) => FAULT_LINK,
        _ => FAULT_NONE,
    };
    let progress = (replication == Replication::Active).then_some(100);
    Data { replication, progress, fault_level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_09_a_group_is_as_bad_as_the_worst_of_its_pairs() {
        let data = |replication, progress, fault_level| Data { replication, progress, fault_level };
        let well = data(Replication::Active, Some(100), FAULT_NONE);
        let copying = data(Replication::Copying, Some(50), FAULT_NONE);
        let cut = data(Replication::Inactive, Some(90), FAULT_LINK);
        assert_eq!(Data::worst(&[well, copying]), data(Replication::Copying, Some(75), FAULT_NONE));
        assert_eq!(Data::worst(&[copying, cut]).replication, Replication::Inactive);
        assert_eq!(Data::worst(&[well, cut]).fault_level, FAULT_LINK);
        assert_eq!(Data::worst(&[]), Data::IDLE);
        assert_eq!(Data::worst(&[well, Data::IDLE]).progress, None, "not before all began");
    }
}
