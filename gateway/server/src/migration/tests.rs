//! A migration is planned only where nothing is at risk, and its token is bound to what was seen.

use api::Code;
use block::{Generation, GroupId, Quality, Seq, SessionId, VolumeId};
use mirror::{
    GroupCounters, Phase, Policy, SessionState, SessionStatus, UpstreamStatus, VolumeStatus,
};

use super::*;

/// A leg of mode `sync` whose mirror has everything.
pub(crate) fn well(gateway: u128, site: &str) -> LegStatus {
    LegStatus {
        leg: LegId::new(0).unwrap(),
        gateway: GatewayId::of(gateway),
        site: site.to_owned(),
        state: SessionState::Active,
        phase: Phase::Equivalent,
        in_sync: true,
        link: LinkState::Connected,
        cause: None,
        failed: None,
        policy: Policy::default(),
        bytes_per_second_max: None,
        comparing: false,
        degraded: false,
        draining: false,
        left_whole: None,
        given_up_bytes: None,
        relay: false,
        lag_ms: Some(0),
        cut_ms: None,
        journal_bytes: 0,
        spilled_bytes: 0,
        journal_bytes_max: 0,
        spells: Vec::new(),
        sessions: vec![SessionStatus {
            session: SessionId::of(1),
            volume: VolumeId::of(1),
            out_of_sync_bytes: 0,
            resync_total_bytes: 0,
            resync_copied_bytes: 0,
            full: false,
            mismatched_bytes: 0,
        }],
        resync_started_ms: None,
        resync_rate: None,
        verifying: None,
        verified: None,
        rtt_us: Some(10_000),
        last_heard_ms: Some(1),
        theirs: None,
        inflight_writes: 0,
        inflight_bytes: 0,
        send_queue_bytes: 0,
    }
}

/// What a mirror knows of its primary, which was heard a millisecond after the start.
pub(crate) fn upstream(link: LinkState) -> UpstreamStatus {
    UpstreamStatus {
        sessions: Vec::new(),
        gateway: GatewayId::of(2),
        site: "east".to_owned(),
        link,
        last_heard_ms: Some(1),
        orderly: false,
        theirs: None,
        seq: Seq::ZERO,
        mode: Mode::Sync,
        lag_ms: None,
    }
}

/// A primary with this leg.
pub(crate) fn primary(legs: Vec<LegStatus>) -> GroupStatus {
    GroupStatus {
        parts: None,
        group: GroupId::of(1),
        name: "shop".to_owned(),
        role: Role::Primary,
        epoch: Epoch::ZERO.next(1),
        generation: Some(Generation::of(9)),
        serving: Serving::Yes,
        quality: Quality::Source,
        volumes: vec![VolumeStatus {
            volume: VolumeId::of(1),
            name: "orders".to_owned(),
            bytes: 1 << 30,
            mapped_bytes: 1 << 20,
        }],
        legs,
        upstream: None::<UpstreamStatus>,
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

fn there() -> Survey {
    Survey {
        as_of: String::new(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        role: api::Role::Secondary,
        epoch: 1,
        serving: api::Serving::NotPrimary,
        quality: api::Quality::InSync,
        generation: None,
        hosts: 0,
        has_listener: true,
        room_bytes: Some(1 << 40),
        base: None,
        is_whole: true,
        volumes: Vec::new(),
    }
}

fn planned(
    status: &GroupStatus,
    there: Result<&Survey, &str>,
    busy: Option<&str>,
) -> (Plans, Clock, MigrationPlan) {
    let (plans, clock) = (Plans::default(), Clock::start());
    let leg = &status.legs[0];
    let outlook = Outlook { status, leg, site: "east", hosts: 2, busy, there };
    let plan = plan(&outlook, &plans, &clock);
    (plans, clock, plan)
}

#[tokio::test]
async fn a_migration_of_a_mirror_that_has_everything_risks_nothing() {
    let status = primary(vec![well(2, "west")]);
    let (plans, clock, plan) = planned(&status, Ok(&there()), None);
    assert!(!is_blocked(&plan.checks), "{plan:#?}");
    assert_eq!((plan.at_risk_bytes, plan.hosts, plan.epoch), (0, 2, 2));
    assert!((plan.expected_seconds.unwrap() - 0.14).abs() < 1e-9, "{plan:?}");
    let token = plan.token.unwrap();
    assert_eq!(redeem(&plans, &token, &status, &clock).unwrap().site, "west");
    let again = redeem(&plans, &token, &status, &clock).unwrap_err();
    assert_eq!(again.0.code, Code::PlanToken.as_str());
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_and_gives_no_token() {
    let mut copying = well(2, "west");
    (copying.in_sync, copying.phase) = (false, Phase::Copying);
    let mut lost = well(2, "west");
    (lost.in_sync, lost.link) = (false, LinkState::Connecting);
    let mut behind = well(2, "west");
    behind.policy.mode = Mode::Stack;
    let mut full = there();
    full.room_bytes = Some(0);
    let mut promoted = there();
    promoted.role = api::Role::Primary;
    let mut halted = primary(vec![well(2, "west")]);
    halted.serving = Serving::Halted;
    let good = primary(vec![well(2, "west")]);
    let there = there();
    let cases = [
        (primary(vec![copying]), Ok(&there), None, "brought up to date"),
        (primary(vec![lost]), Ok(&there), None, "not connected"),
        (primary(vec![behind]), Ok(&there), None, "--mode sync"),
        (good.clone(), Ok(&full), None, "pool is full"),
        (good.clone(), Ok(&promoted), None, "Primary"),
        (good.clone(), Err("west cannot be asked"), None, "cannot be asked"),
        (good, Ok(&there), Some("operation 7 (restore)"), "restore"),
        (halted, Ok(&there), None, "Halted"),
    ];
    for (status, there, busy, word) in cases {
        let (_, _, plan) = planned(&status, there, busy);
        let named =
            |check: &Check| check.state == CheckState::Blocked && check.detail.contains(word);
        assert!(plan.checks.iter().any(named), "{word}: {plan:#?}");
        assert!(plan.token.is_none(), "{word}");
    }
}

#[tokio::test]
async fn a_migration_that_was_planned_in_another_state_is_refused() {
    let status = primary(vec![well(2, "west")]);
    let (plans, clock, plan) = planned(&status, Ok(&there()), None);
    let token = plan.token.unwrap();
    let mut changed = status.clone();
    changed.legs[0].in_sync = false;
    let mut other = status.clone();
    other.epoch = other.epoch.next(1);
    let mut grown = status.clone();
    grown.volumes[0].bytes += 4096;
    for changed in [&changed, &other, &grown] {
        let refused = redeem(&plans, &token, changed, &clock).unwrap_err();
        assert_eq!(refused.0.code, Code::PlanToken.as_str());
    }
    // The plan of one kind does not run the other.
    let refused = crate::failover::redeem(&plans, &token, &status, &clock).unwrap_err();
    assert!(refused.0.detail.contains("migration"), "{refused:?}");
    assert!(redeem(&plans, &token, &status, &clock).is_ok());
}

#[tokio::test]
async fn other_mirrors_and_a_full_link_are_told() {
    let mut leg = well(2, "west");
    leg.inflight_bytes = 64 << 20;
    let status = primary(vec![leg, well(3, "north")]);
    let mut far = status.clone();
    far.legs[1].leg = LegId::new(1).unwrap();
    let (_, _, plan) = planned(&far, Ok(&there()), None);
    assert!(plan.checks.iter().any(|check| check.name.contains("north")), "{plan:#?}");
    assert!(plan.expected_seconds.unwrap() > 1.0, "{plan:?}");
}
