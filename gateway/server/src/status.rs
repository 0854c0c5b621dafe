//! From what a group says to what an operator is told: health, cause, next command.
//!
//! Invariant: everything that is not as it should be has an explanation; what is not known is
//! absent or UNKNOWN, never zero and never green.
#![warn(clippy::wildcard_enum_match_arm)]

mod explain;
mod parts;
pub(crate) mod words;

use api::{Code, Explanation, Group, Health, KeptPoint, Leg, Spell, TheirView, Upstream, Verdict};
use mirror::{Cause, GroupStatus, LegStatus, LinkState, Mode, Phase, Role, Serving, SessionState};

pub(crate) use explain::explain;
pub(crate) use words::{
    cause_text, link_state, own_content, patched as words_patched, phase, policy, quality,
    quality_text, role, serving, session_state, windows,
};

/// The moment of an answer, and how old what it tells is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The gateway's steady clock.
    pub(crate) now_ms: u64,
    /// How old the group's own word is.
    pub(crate) age_ms: u64,
    /// Whether the group's thread answered just now.
    pub(crate) fresh: bool,
}

impl Moment {
    fn ago(self, then_ms: Option<u64>) -> Option<u64> {
        then_ms.map(|then| self.now_ms.saturating_sub(then))
    }
}

/// A group as an operator is told.
#[must_use]
pub(crate) fn group(status: &GroupStatus, moment: Moment) -> Group {
    let mut explanations = explain(status, moment);
    if !moment.fresh {
        let cause = format!(
            "the thread that owns the group does not answer; this is what it said {} ago",
            api::units::micros_text(moment.age_ms.saturating_mul(1000))
        );
        explanations.insert(0, (Health::Unknown, explanation(Code::StateUnknown, cause)));
    }
    explanations.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    let health = explanations.first().map_or(Health::Ready, |(health, _)| *health);
    let health = if moment.fresh { health } else { Health::Unknown };
    Group {
        id: status.group.uuid(),
        name: status.name.clone(),
        health,
        failover_blockers: blockers(status, moment),
        explanations: explanations.into_iter().map(|(_, explanation)| explanation).collect(),
        age_ms: moment.age_ms,
        role: Some(role(status.role)),
        epoch: Some(status.epoch.turn()),
        serving: Some(serving(&status.serving)),
        quality: Some(quality(status.quality)),
        volumes: status.volumes.iter().map(|volume| volume.name.clone()).collect(),
        legs: status.legs.iter().map(|leg_status| leg(leg_status, moment)).collect(),
        upstream: upstream(status, moment),
        parts: status.parts.as_ref().map(parts::parts),
        witness: status.witness.filter(|witness| witness.arbitrated).map(witness),
        kept: status.kept.as_ref().map(|kept| KeptPoint {
            snapshots: kept.snapshots.iter().map(|(_, snapshot)| snapshot.uuid()).collect(),
            quality: Some(quality(kept.quality)),
            bytes: None,
            taken_at: crate::clock::text(kept.unix_ms),
        }),
        keeps_no_points: status.keeps_no_points,
        is_foreign: status.is_foreign,
        discarded: discarded(status),
        rpo_seconds: rpo_seconds(status, moment),
        out_of_sync_bytes: out_of_sync(status, moment),
        unprotected_writes: status.counters.unprotected_writes,
        unprotected_bytes: status.counters.unprotected_bytes,
        fenced_writes: status.counters.fenced_writes,
        allowed_actions: allowed(status),
    }
}

/// A group that could not be opened, or never said anything.
#[must_use]
pub(crate) fn unknown_group(id: uuid::Uuid, name: &str, volumes: Vec<String>, why: &str) -> Group {
    Group {
        id,
        name: name.to_owned(),
        health: Health::Unknown,
        explanations: vec![explanation(Code::NotOpened, why)],
        age_ms: 0,
        role: None,
        epoch: None,
        serving: None,
        quality: None,
        volumes,
        legs: Vec::new(),
        upstream: None,
        parts: None,
        witness: None,
        kept: None,
        keeps_no_points: false,
        is_foreign: false,
        discarded: Vec::new(),
        rpo_seconds: None,
        out_of_sync_bytes: None,
        failover_blockers: vec!["the group is not open".to_owned()],
        unprotected_writes: 0,
        unprotected_bytes: 0,
        fenced_writes: 0,
        allowed_actions: Vec::new(),
    }
}

/// An explanation with the code's own advice.
#[must_use]
pub(crate) fn explanation(code: Code, cause: impl Into<String>) -> Explanation {
    Explanation {
        code: code.as_str().to_owned(),
        cause: cause.into(),
        next: code.next().unwrap_or_default().to_owned(),
    }
}

/// A leg as an operator is told.
#[must_use]
pub(crate) fn leg(status: &LegStatus, moment: Moment) -> Leg {
    let heard = moment.ago(status.last_heard_ms);
    Leg {
        site: status.site.clone(),
        gateway: status.gateway.uuid(),
        state: session_state(status.state),
        phase: phase(status.phase),
        in_sync: status.in_sync,
        link: link_state(status.link),
        policy: policy(&status.policy),
        bandwidth_now: api::units::rate_text(status.bytes_per_second_max),
        comparing: status.comparing,
        out_of_sync_bytes: leg_out_of_sync(status),
        resync_started_ms_ago: moment.ago(status.resync_started_ms),
        resync_bytes_per_second: status.resync_rate,
        rtt_us: status.rtt_us,
        last_heard_ms_ago: heard,
        theirs: status.theirs.map(|theirs| their_view(theirs, heard)),
        degraded: status.degraded,
        left_whole: status.left_whole.filter(|_| status.state == SessionState::Suspended),
        rpo_seconds: status.lag_ms.map(millis_to_seconds),
        cut_ms_ago: moment.ago(status.cut_ms),
        journal_bytes: status.journal_bytes,
        spilled_bytes: status.spilled_bytes,
        journal_bytes_max: status.journal_bytes_max,
        spells: status.spells.iter().map(|spell| shown_spell(*spell, moment)).collect(),
        inflight_writes: status.inflight_writes,
        inflight_bytes: status.inflight_bytes,
        send_queue_bytes: status.send_queue_bytes,
        verifying: status.verifying.map(|now| api::Verifying {
            total_blocks: now.total,
            done_blocks: now.done,
            mismatched_blocks: now.mismatched,
        }),
        verified: status.verified.map(|found| api::Certificate {
            at: crate::clock::text(found.at_ms),
            epoch: found.epoch.turn(),
            generation: found.generation.uuid(),
            blocks: found.blocks,
            mismatched: found.mismatched,
            unreadable: found.unreadable,
        }),
    }
}

fn upstream(status: &GroupStatus, moment: Moment) -> Option<Upstream> {
    status.upstream.as_ref().map(|upstream| {
        let heard = moment.ago(upstream.last_heard_ms);
        Upstream {
            site: upstream.site.clone(),
            gateway: upstream.gateway.uuid(),
            link: link_state(upstream.link),
            last_heard_ms_ago: heard,
            orderly: upstream.orderly,
            theirs: upstream.theirs.map(|theirs| their_view(theirs, heard)),
            seq: upstream.seq.get(),
        }
    })
}

fn witness(status: mirror::WitnessStatus) -> api::WitnessView {
    api::WitnessView {
        reachable: status.reachable,
        primary: status.primary.map(block::GatewayId::uuid),
        epoch: status.epoch.map(block::Epoch::get),
        is_named: status.is_named,
        is_automatic: status.is_automatic,
    }
}

fn their_view(theirs: block::MirrorState, age_ms: Option<u64>) -> TheirView {
    TheirView {
        in_sync: theirs.in_sync,
        copying: theirs.copying,
        out_of_sync_bytes: theirs.out_of_sync_bytes,
        seq: theirs.seq.get(),
        age_ms,
    }
}

/// Bytes that are not known to be the same at a mirror, over all volumes.
#[must_use]
pub(crate) fn leg_out_of_sync(leg: &LegStatus) -> u64 {
    leg.sessions.iter().fold(0, |sum: u64, s| sum.saturating_add(s.out_of_sync_bytes))
}

/// Whether the leg is all that its mode promises.
#[must_use]
pub(crate) fn leg_is_well(leg: &LegStatus) -> bool {
    let connected = leg.link == LinkState::Connected;
    leg.state == SessionState::Active
        && match leg.policy.mode {
            Mode::Sync => leg.phase == Phase::Equivalent && leg.in_sync && connected,
            Mode::Consistency => leg.phase == Phase::Following && connected && keeps_up(leg),
            // Between two transfers nothing is connected.
            Mode::Stack => leg.phase == Phase::Tracking && leg.link == LinkState::Off,
        }
}

/// A mirror that lacks more than ten cuts is behind, and no less than ten seconds.
fn keeps_up(leg: &LegStatus) -> bool {
    let most = leg.policy.cut_interval_ms.saturating_mul(10).max(10_000);
    leg.lag_ms.is_some_and(|lag| lag <= most)
}

fn shown_spell(spell: mirror::Spell, moment: Moment) -> Spell {
    Spell {
        began_ms_ago: moment.now_ms.saturating_sub(spell.begin_ms),
        ended_ms_ago: moment.ago(spell.end_ms),
        worst_rpo_seconds: millis_to_seconds(spell.worst_rpo_ms),
        bytes: spell.bytes,
        degraded: spell.degraded,
    }
}

fn discarded(status: &GroupStatus) -> Vec<KeptPoint> {
    let shown = |point: &mirror::DiscardedStatus| KeptPoint {
        snapshots: point.snapshots.iter().map(|(_, snapshot)| snapshot.uuid()).collect(),
        quality: None,
        bytes: Some(point.bytes),
        taken_at: crate::clock::text(point.unix_ms),
    };
    status.discarded.iter().map(shown).collect()
}

fn rpo_seconds(status: &GroupStatus, moment: Moment) -> Option<f64> {
    if !moment.fresh {
        return None;
    }
    match status.role {
        Role::Primary if status.legs.iter().any(|leg| leg.in_sync) => Some(0.0),
        // The best copy decides what would be lost.
        Role::Primary => status.legs.iter().filter_map(|l| l.lag_ms).min().map(millis_to_seconds),
        Role::Secondary | Role::Fenced => status.rpo_ms.map(millis_to_seconds),
    }
}

/// Milliseconds as seconds, for numbers that people and Prometheus read.
#[must_use]
pub(crate) fn millis_to_seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}

fn out_of_sync(status: &GroupStatus, moment: Moment) -> Option<u64> {
    match status.role {
        Role::Primary if moment.fresh => Some(status.legs.iter().map(leg_out_of_sync).sum()),
        Role::Secondary if moment.fresh => {
            let upstream = status.upstream.as_ref()?;
            // What the primary said counts while it can still be heard.
            (upstream.link == LinkState::Connected)
                .then(|| upstream.theirs.map(|theirs| theirs.out_of_sync_bytes))
                .flatten()
        }
        Role::Primary | Role::Secondary | Role::Fenced => None,
    }
}

/// What stands in the way of a failover, in words.
fn blockers(status: &GroupStatus, moment: Moment) -> Vec<String> {
    let mut blockers = Vec::new();
    if !moment.fresh {
        blockers.push("the state is not known".to_owned());
    }
    match status.role {
        Role::Primary => {
            let promotable = |leg: &LegStatus| {
                leg.in_sync || (leg.policy.mode != Mode::Sync && leg_is_well(leg))
            };
            if !status.legs.iter().any(promotable) {
                blockers.push(if status.legs.is_empty() {
                    "there is no mirror".to_owned()
                } else {
                    "no mirror is in sync".to_owned()
                });
            }
        }
        Role::Secondary => {
            if !matches!(status.quality, block::Quality::InSync | block::Quality::Consistent) {
                let worth = quality_text(status.quality);
                blockers.push(format!("the copy here is {worth}"));
            }
        }
        Role::Fenced => blockers.push("the copy here is fenced by a higher epoch".to_owned()),
    }
    if status.split_brain {
        blockers.push("two histories exist".to_owned());
    }
    blockers
}

fn allowed(status: &GroupStatus) -> Vec<String> {
    let mut actions = Vec::new();
    match status.role {
        Role::Primary => {
            actions.push("session.create");
            let in_sync = |leg: &LegStatus| leg.in_sync && leg_is_well(leg);
            if status.legs.iter().any(in_sync) && status.serving == Serving::Yes {
                actions.extend(["session.reverse", "migrate.plan"]);
            }
            if status.legs.iter().any(|leg| leg.cause == Some(Cause::AwaitingReprotect)) {
                actions.push("session.restore");
            }
            if status.legs.iter().any(|leg| leg.state != SessionState::Active) {
                actions.push("reprotect.plan");
            }
            actions.push("group.add");
            if status.volumes.len() > 1 {
                actions.push("group.remove");
                if status.legs.is_empty() {
                    actions.push("group.delete");
                }
            }
            if status.handover.is_some_and(|handover| handover.unanswered) {
                actions.push("failover.plan");
            }
        }
        Role::Secondary => {
            actions.push("failover.plan");
            let stopped = status.upstream.as_ref().is_some_and(|u| u.link != LinkState::Connected);
            if stopped && status.quality == block::Quality::Outdated {
                actions.push("group.detach");
            }
            if status.serving == Serving::Detached {
                actions.push("session.restore");
            }
        }
        Role::Fenced => {}
    }
    actions.into_iter().map(str::to_owned).collect()
}

/// One word for all groups.
#[must_use]
pub(crate) fn verdict(groups: &[Group]) -> Verdict {
    match groups.iter().map(|group| group.health).max() {
        None => Verdict::Empty,
        Some(Health::Ready) => Verdict::Ready,
        Some(Health::Unprotected) => Verdict::Unprotected,
        Some(Health::Degraded) => Verdict::Degraded,
        Some(Health::Unknown) => Verdict::Unknown,
        Some(Health::AtRisk) => Verdict::AtRisk,
        Some(Health::SplitBrain) => Verdict::SplitBrain,
    }
}

#[cfg(test)]
mod tests;
