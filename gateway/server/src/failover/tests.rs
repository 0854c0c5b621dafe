//! Plans say what stands in the way, and their tokens are bound to what they saw.

use block::{Epoch, GatewayId, Generation, GroupId};
use mirror::{GroupCounters, Serving};

use super::*;
use crate::migration::tests::upstream;

fn mirror(quality: Quality, link: LinkState, rpo_ms: Option<u64>) -> GroupStatus {
    GroupStatus {
        parts: None,
        group: GroupId::of(1),
        name: "shop".to_owned(),
        role: Role::Secondary,
        epoch: Epoch::new(6),
        generation: Some(Generation::of(9)),
        serving: Serving::NotPrimary,
        quality,
        volumes: Vec::new(),
        legs: Vec::new(),
        upstream: Some(upstream(link)),
        kept: None,
        keeps_no_points: false,
        is_foreign: false,
        discarded: Vec::new(),
        snapshots: Vec::new(),
        point_policy: None,
        rpo_ms,
        split_brain: false,
        witness: None,
        handover: None,
        counters: GroupCounters::default(),
    }
}

fn planned(status: &GroupStatus, consent: Consent) -> (Plans, Clock, FailoverPlan) {
    let (plans, clock) = (Plans::default(), Clock::start());
    let nbd = ["nbd://127.0.0.1:1/orders".to_owned()];
    let plan = plan(status, ("west", &nbd), consent, (&plans, &clock));
    (plans, clock, plan)
}

fn is_blocked(plan: &FailoverPlan) -> bool {
    plans::is_blocked(&plan.checks)
}

#[tokio::test]
async fn a_dead_primary_is_not_needed_and_the_risk_is_honest() {
    let status = mirror(Quality::InSync, LinkState::Off, Some(4_000));
    let (plans, clock, plan) = planned(&status, Consent::InSync);
    assert!(!is_blocked(&plan));
    assert_eq!((plan.at_risk_bytes, plan.at_risk_seconds), (None, Some(4.0)));
    assert_eq!((plan.epoch, plan.needs_none_of), (7, vec!["east".to_owned()]));
    let token = plan.token.unwrap();
    assert_eq!(redeem(&plans, &token, &status, &clock), Ok(Consent::InSync));
    let again = redeem(&plans, &token, &status, &clock).unwrap_err();
    assert_eq!(again.0.code, Code::PlanToken.as_str());
}

/// A copy that is no point in time itself is promotable where it keeps one, and the plan says what
/// that costs.
#[tokio::test]
async fn a_copy_with_a_kept_point_goes_back_to_it_and_says_what_is_lost() {
    let kept = mirror::PointStatus {
        snapshots: Vec::new(),
        quality: Quality::Consistent,
        unix_ms: 1_700_000_000_000,
    };
    for quality in [Quality::Consistent, Quality::Inconsistent] {
        let mut status = mirror(quality, LinkState::Off, Some(2_500));
        status.kept = Some(kept.clone());
        let (_, _, plan) = planned(&status, Consent::InSync);
        assert!(is_blocked(&plan));
        let (_, _, plan) = planned(&status, Consent::Outdated);
        assert!(!is_blocked(&plan));
        assert_eq!((plan.at_risk_bytes, plan.at_risk_seconds), (None, Some(2.5)));
        let copy = plan.checks.iter().find(|check| check.name == "open the copy here").unwrap();
        assert!(copy.detail.contains("2023-11-14") && copy.detail.contains("2.5 s"), "{copy:?}");
    }
    let status = mirror(Quality::Inconsistent, LinkState::Off, None);
    let (_, _, plan) = planned(&status, Consent::Outdated);
    assert!(is_blocked(&plan), "half copied, and nothing to go back to");
}

#[tokio::test]
async fn a_plan_of_another_state_is_refused() {
    let status = mirror(Quality::InSync, LinkState::Off, Some(4_000));
    let (plans, clock, plan) = planned(&status, Consent::InSync);
    let token = plan.token.unwrap();
    let mut changed = status.clone();
    changed.upstream.as_mut().unwrap().link = LinkState::Connected;
    let refused = redeem(&plans, &token, &changed, &clock).unwrap_err();
    assert_eq!(refused.0.code, Code::PlanToken.as_str());
    assert_eq!(redeem(&plans, &token, &status, &clock), Ok(Consent::InSync));
}

#[tokio::test]
async fn what_costs_data_needs_the_word_for_it() {
    let cases = [
        (Quality::InSync, LinkState::Connected, Consent::InSync, true),
        (Quality::InSync, LinkState::Connected, Consent::Outdated, false),
        (Quality::Outdated, LinkState::Off, Consent::InSync, true),
        (Quality::Outdated, LinkState::Off, Consent::Outdated, false),
        (Quality::Inconsistent, LinkState::Off, Consent::Outdated, true),
        (Quality::Inconsistent, LinkState::Off, Consent::Inconsistent, false),
        (Quality::Blank, LinkState::Off, Consent::Inconsistent, true),
    ];
    for (quality, link, consent, blocked) in cases {
        let (_, _, plan) = planned(&mirror(quality, link, None), consent);
        assert_eq!(is_blocked(&plan), blocked, "{quality:?} {link:?} {consent:?}");
        assert_eq!(plan.token.is_none(), blocked);
        if quality != Quality::InSync {
            assert_eq!((plan.at_risk_bytes, plan.at_risk_seconds), (None, None));
        }
    }
}

fn witness(reachable: bool, is_named: bool) -> Option<mirror::WitnessStatus> {
    Some(mirror::WitnessStatus {
        reachable: Some(reachable),
        arbitrated: true,
        primary: Some(GatewayId::of(2)),
        epoch: Some(Epoch::new(6)),
        is_named: Some(is_named),
        is_automatic: false,
        primary_alive: Some(false),
        forgotten: false,
        asking: false,
    })
}

#[tokio::test]
async fn a_witness_that_is_silent_or_names_another_copy_stands_in_the_way() {
    let mut status = mirror(Quality::InSync, LinkState::Off, Some(4_000));
    status.witness = witness(true, true);
    assert!(!is_blocked(&planned(&status, Consent::InSync).2));
    status.witness = witness(true, false);
    assert!(is_blocked(&planned(&status, Consent::InSync).2));
    assert!(!is_blocked(&planned(&status, Consent::Outdated).2));
    status.witness = witness(false, true);
    assert!(is_blocked(&planned(&status, Consent::Outdated).2));
}
