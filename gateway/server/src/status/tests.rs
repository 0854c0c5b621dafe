//! What an operator is told of what a group says.

use api::Health;
use block::{Epoch, GatewayId, Generation, GroupId, Quality, Seq, SessionId, VolumeId};
use mirror::{Cause, GroupCounters, SessionStatus, UpstreamStatus, VolumeStatus};

use super::*;
use crate::migration::tests::well;

const NOW: Moment = Moment { now_ms: 100_000, age_ms: 0, fresh: true };

fn healthy_leg() -> LegStatus {
    let mut leg = well(2, "west");
    leg.journal_bytes_max = 1 << 30;
    (leg.rtt_us, leg.last_heard_ms) = (Some(1100), Some(99_800));
    leg.sessions = vec![SessionStatus {
        session: SessionId::of(5),
        volume: VolumeId::of(3),
        full: true,
        ..leg.sessions.remove(0)
    }];
    leg
}

fn primary(legs: Vec<LegStatus>) -> GroupStatus {
    GroupStatus {
        parts: None,
        group: GroupId::of(1),
        name: "shop".to_owned(),
        role: Role::Primary,
        epoch: Epoch::new(7),
        generation: Some(Generation::of(9)),
        serving: Serving::Yes,
        quality: Quality::Source,
        volumes: vec![VolumeStatus {
            volume: VolumeId::of(3),
            name: "orders".to_owned(),
            bytes: 1 << 20,
            mapped_bytes: 0,
        }],
        legs,
        upstream: None,
        kept: None,
        keeps_no_points: false,
        is_foreign: false,
        discarded: Vec::new(),
        snapshots: Vec::new(),
        point_policy: None,
        rpo_ms: None,
        split_brain: false,
        witness: None,
        handover: None,
        counters: GroupCounters::default(),
    }
}

fn mirror(quality: Quality, link: LinkState, heard: Option<u64>) -> GroupStatus {
    let mut status = primary(Vec::new());
    status.role = Role::Secondary;
    status.serving = Serving::NotPrimary;
    status.quality = quality;
    status.upstream = Some(UpstreamStatus {
        sessions: Vec::new(),
        gateway: GatewayId::of(2),
        site: "east".to_owned(),
        link,
        last_heard_ms: heard,
        orderly: false,
        theirs: None,
        seq: Seq::ZERO,
        mode: Mode::Sync,
        lag_ms: None,
    });
    status.rpo_ms = Some(0);
    status
}

fn told(status: &GroupStatus) -> (Health, Vec<String>) {
    let group = group(status, NOW);
    (group.health, group.explanations.into_iter().map(|e| e.code).collect())
}

fn codes(list: &[Code]) -> Vec<String> {
    list.iter().map(|code| code.as_str().to_owned()).collect()
}

#[test]
fn a_healthy_pair_needs_no_words_on_either_side() {
    assert_eq!(told(&primary(vec![healthy_leg()])), (Health::Ready, Vec::new()));
    let mirror = mirror(Quality::InSync, LinkState::Connected, Some(99_000));
    assert_eq!(told(&mirror), (Health::Ready, Vec::new()));
}

#[test]
fn a_mirror_that_follows_behind_is_as_well_as_its_mode_promises() {
    let mut leg = healthy_leg();
    leg.policy.mode = Mode::Consistency;
    (leg.in_sync, leg.phase, leg.lag_ms) = (false, Phase::Following, Some(900));
    assert_eq!(told(&primary(vec![leg.clone()])), (Health::Ready, Vec::new()));
    let shown = group(&primary(vec![leg.clone()]), NOW);
    assert_eq!(shown.rpo_seconds, Some(0.9));
    assert!(shown.failover_blockers.is_empty());
    leg.lag_ms = Some(30_000);
    let behind = (Health::Degraded, codes(&[Code::Behind]));
    assert_eq!(told(&primary(vec![leg.clone()])), behind);
    // What is not known is not green.
    leg.lag_ms = None;
    assert_eq!(told(&primary(vec![leg.clone()])), behind);
    assert_eq!(group(&primary(vec![leg.clone()]), NOW).rpo_seconds, None);
    leg.state = SessionState::Halted;
    leg.cause = Some(Cause::JournalFull);
    assert_eq!(told(&primary(vec![leg])), (Health::AtRisk, codes(&[Code::JournalFull])));
    let mut degraded = healthy_leg();
    (degraded.in_sync, degraded.phase, degraded.degraded) = (false, Phase::Following, true);
    assert_eq!(told(&primary(vec![degraded])), behind);
    let mut resting = healthy_leg();
    resting.policy.mode = Mode::Stack;
    (resting.in_sync, resting.phase, resting.link) = (false, Phase::Tracking, LinkState::Off);
    assert_eq!(told(&primary(vec![resting])), (Health::Ready, Vec::new()));
    let mirror = mirror(Quality::Consistent, LinkState::Connected, Some(99_000));
    assert_eq!(told(&mirror), (Health::Ready, Vec::new()));
}

#[test]
fn everything_else_is_explained_with_a_command() {
    let broken = |change: fn(&mut LegStatus)| {
        let mut leg = healthy_leg();
        leg.in_sync = false;
        change(&mut leg);
        primary(vec![leg])
    };
    let cases = [
        (primary(Vec::new()), Health::Unprotected, Code::Unmirrored),
        (broken(|leg| leg.phase = Phase::Copying), Health::Degraded, Code::Copying),
        (
            broken(|leg| {
                leg.state = SessionState::Halted;
                leg.link = LinkState::Connecting;
                leg.cause = Some(Cause::LinkLost("reset".to_owned()));
            }),
            Health::AtRisk,
            Code::LinkLost,
        ),
        (
            broken(|leg| {
                leg.state = SessionState::Error;
                leg.cause = Some(Cause::SplitBrain { theirs_bytes: 4096 });
            }),
            Health::SplitBrain,
            Code::SplitBrain,
        ),
        (
            broken(|leg| {
                leg.state = SessionState::Suspended;
                leg.cause = Some(Cause::Operator);
            }),
            Health::AtRisk,
            Code::Suspended,
        ),
        (
            mirror(Quality::InSync, LinkState::Off, Some(96_000)),
            Health::AtRisk,
            Code::PrimarySilent,
        ),
        (mirror(Quality::Outdated, LinkState::Connected, None), Health::Degraded, Code::Copying),
    ];
    for (status, health, code) in cases {
        assert_eq!(told(&status), (health, codes(&[code])));
        let group = group(&status, NOW);
        let next = &group.explanations[0].next;
        assert!(!next.contains("GROUP") && !next.contains("SESSION"), "{next}");
    }
}

#[test]
fn a_silent_thread_is_unknown_and_never_green() {
    let status = primary(vec![healthy_leg()]);
    let group = group(&status, Moment { now_ms: 100_000, age_ms: 9_000, fresh: false });
    assert_eq!(group.health, Health::Unknown);
    assert_eq!(group.explanations[0].code, Code::StateUnknown.as_str());
    assert_eq!((group.rpo_seconds, group.out_of_sync_bytes), (None, None));
    assert!(!group.failover_blockers.is_empty());
    assert_eq!(verdict(&[group]), Verdict::Unknown);
}

#[test]
fn the_worst_group_gives_the_verdict_and_the_exit_code() {
    let ready = group(&primary(vec![healthy_leg()]), NOW);
    let unmirrored = group(&primary(Vec::new()), NOW);
    let lost = group(&mirror(Quality::InSync, LinkState::Off, None), NOW);
    assert_eq!(verdict(&[]).exit_code(), 0);
    assert_eq!(verdict(std::slice::from_ref(&ready)).exit_code(), 0);
    assert_eq!(verdict(&[ready.clone(), unmirrored.clone()]).exit_code(), 3);
    assert_eq!(verdict(&[ready, lost, unmirrored]).exit_code(), 4);
}
