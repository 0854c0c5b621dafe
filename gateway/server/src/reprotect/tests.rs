//! A reprotect says what it costs before it is begun, and its token is bound to what was seen.

use api::Code;
use mirror::{LinkState, Phase};

use super::*;
use crate::gateway::surveys::Written;
use crate::migration::tests::{primary, well};

/// The group after a failover to this site.
fn after_failover() -> GroupStatus {
    let mut leg = well(2, "west");
    (leg.state, leg.phase, leg.in_sync) = (SessionState::Halted, Phase::Tracking, false);
    (leg.link, leg.cause) = (LinkState::Off, Some(Cause::AwaitingReprotect));
    primary(vec![leg])
}

fn survey(role: api::Role, history: u128, bytes: u64) -> Survey {
    let written = Written { volume: Uuid::from_u128(1), bytes, ranges: Vec::new(), merged: false };
    Survey {
        as_of: "2026-01-01T00:00:10.000Z".to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        epoch: 1,
        serving: api::Serving::Fenced,
        quality: api::Quality::Outdated,
        generation: Some(Uuid::from_u128(history)),
        hosts: 0,
        has_listener: true,
        room_bytes: None,
        base: Some(Uuid::from_u128(7)),
        is_whole: true,
        volumes: vec![written],
    }
}

/// This site wrote 1 MiB since the failover, in history 9; both had history 7.
fn here() -> Survey {
    survey(api::Role::Primary, 9, 1 << 20)
}

fn there(history: u128, bytes: u64) -> Survey {
    survey(api::Role::Fenced, history, bytes)
}

fn outlook<'a>(
    status: &'a GroupStatus,
    discard: bool,
    here: &'a Survey,
    there: Result<&'a Survey, &'a str>,
) -> Outlook<'a> {
    let leg = status.legs.first();
    let to = (GatewayId::of(2), "west");
    Outlook { status, to, leg, site: "east", discard, here, there }
}

struct Planned {
    plans: Plans,
    clock: Clock,
    plan: ReprotectPlan,
    lost: Option<Lost>,
}

fn planned(status: &GroupStatus, discard: bool, there: Result<&Survey, &str>) -> Planned {
    let (plans, clock, here) = (Plans::default(), Clock::start(), here());
    let outlook = outlook(status, discard, &here, there);
    let plan = plan(&outlook, &plans, &clock);
    let lost = outlook.lost();
    Planned { plans, clock, plan, lost }
}

fn line<'a>(plan: &'a ReprotectPlan, name: &str) -> &'a Check {
    plan.checks.iter().find(|check| check.name.contains(name)).unwrap()
}

#[tokio::test]
async fn a_reprotect_of_a_site_that_wrote_nothing_risks_nothing_and_copies_the_difference() {
    let status = after_failover();
    // What was under way when it died is of the history that both have.
    let Planned { plans, clock, plan, .. } = planned(&status, false, Ok(&there(7, 4096)));
    assert_eq!((plan.only_there_bytes, plan.at_risk_bytes), (Some(0), Some(0)), "{plan:#?}");
    assert_eq!(plan.at_risk_seconds, Some(0.0));
    assert_eq!((plan.resync_kind.as_deref(), plan.resync_bytes), (Some("delta"), 1_052_672));
    assert_eq!(line(&plan, "ask west").state, CheckState::Ok);
    let token = plan.token.unwrap();
    let made = redeem(&plans, &token, (&status, None), &clock).unwrap();
    assert_eq!((made.to, made.discard), (GatewayId::of(2), false));
    let again = redeem(&plans, &token, (&status, None), &clock).unwrap_err();
    assert_eq!(again.0.code, Code::PlanToken.as_str());
    assert!(again.0.next.unwrap().contains("reprotect shop --dry-run"));
}

#[tokio::test]
async fn what_only_the_other_site_has_is_told_and_overwritten_only_with_a_word() {
    let status = after_failover();
    let mut theirs = there(8, 8192);
    let at = uuid::Timestamp::from_unix(uuid::NoContext, 1_767_225_600, 0);
    theirs.generation = Some(Uuid::new_v7(at));
    let Planned { plan, .. } = planned(&status, false, Ok(&theirs));
    assert_eq!((plan.only_there_bytes, plan.at_risk_bytes), (Some(8192), Some(0)), "{plan:#?}");
    assert!(line(&plan, "what only west").detail.contains("8 KiB that this site lacks stay"));
    let Planned { plan, .. } = planned(&status, true, Ok(&theirs));
    assert_eq!((plan.only_there_bytes, plan.at_risk_bytes), (Some(8192), Some(8192)));
    assert_eq!(plan.at_risk_seconds, Some(10.0), "its history began ten seconds before");
    let kept = line(&plan, "what only west");
    assert_eq!(kept.state, CheckState::Warning);
    assert!(kept.detail.contains("a snapshot of them is kept there"), "{kept:?}");
    // Once it was told as a split brain, nothing is begun without the word.
    let mut told = status.clone();
    told.legs[0].state = SessionState::Error;
    told.legs[0].cause = Some(Cause::SplitBrain { theirs_bytes: 8192 });
    let Planned { plan, .. } = planned(&told, false, Ok(&theirs));
    assert!(plan.token.is_none() && line(&plan, "what only west").detail.contains("--discard"));
    assert!(planned(&told, true, Ok(&theirs)).plan.token.is_some());
}

#[tokio::test]
async fn what_was_given_up_here_counts_and_a_history_of_its_own_is_copied_whole() {
    let mut status = after_failover();
    status.legs[0].given_up_bytes = Some(4096);
    let Planned { plan, .. } = planned(&status, true, Ok(&there(7, 4096)));
    assert_eq!((plan.at_risk_bytes, plan.at_risk_seconds), (Some(8192), None), "{plan:#?}");
    status.legs[0].given_up_bytes = None;
    let mut unrelated = there(8, 0);
    unrelated.is_whole = false;
    let Planned { plan, .. } = planned(&status, true, Ok(&unrelated));
    assert_eq!(plan.at_risk_bytes, Some(1 << 30), "all of it, at most: {plan:#?}");
    assert_eq!((plan.resync_kind.as_deref(), plan.resync_bytes), (Some("full"), 1 << 20));
}

#[tokio::test]
async fn nobody_agrees_to_lose_what_is_not_known() {
    let status = after_failover();
    let silent = Err("west does not answer");
    let Planned { plan, .. } = planned(&status, true, silent);
    assert!(plan.token.is_none(), "{plan:#?}");
    assert_eq!((plan.only_there_bytes, plan.at_risk_bytes), (None, None));
    assert_eq!(plan.at_risk_seconds, None);
    // Without the word nothing can be lost: it is told to follow when it is there.
    let Planned { plan, .. } = planned(&status, false, silent);
    assert!(plan.token.is_some());
    assert_eq!((plan.at_risk_bytes, plan.resync_kind.as_deref()), (Some(0), None));
    assert_eq!(line(&plan, "ask west").state, CheckState::Unknown);
    // The numbers that the mirror itself sent are as good as its answer.
    let mut told = status.clone();
    told.legs[0].cause = Some(Cause::SplitBrain { theirs_bytes: 4096 });
    assert_eq!(planned(&told, true, silent).plan.at_risk_bytes, Some(4096));
    let mut higher = there(8, 0);
    higher.epoch = 5;
    assert!(planned(&status, true, Ok(&higher)).plan.token.is_none(), "it would fence this site");
}

#[tokio::test]
async fn a_reprotect_that_was_planned_in_another_state_is_refused() {
    let status = after_failover();
    let Planned { plans, clock, plan, lost } = planned(&status, true, Ok(&there(8, 8192)));
    let token = plan.token.unwrap();
    let here = here();
    let later = there(8, 12_288);
    let more = outlook(&status, true, &here, Ok(&later)).lost();
    let silent = outlook(&status, true, &here, Err("west does not answer")).lost();
    let mut followed = status.clone();
    followed.legs[0].state = SessionState::Active;
    let mut raised = status.clone();
    raised.epoch = raised.epoch.next(1);
    let deleted = primary(Vec::new());
    for (status, lost, word) in [
        (&status, more, "is not what it was"),
        (&status, silent, "is not what it was"),
        (&followed, lost, "state has changed"),
        (&raised, lost, "roles"),
        (&deleted, lost, "deleted"),
    ] {
        let refused = redeem(&plans, &token, (status, lost), &clock).unwrap_err();
        assert_eq!(refused.0.code, Code::PlanToken.as_str());
        assert!(refused.0.detail.contains(word), "{word}: {refused:?}");
    }
    // The plan of one kind does not run the other.
    let refused = crate::migration::redeem(&plans, &token, &status, &clock).unwrap_err();
    assert_eq!(refused.0.code, Code::PlanToken.as_str());
    assert!(look(&plans, &token, &status, &clock).unwrap().discard);
    assert!(redeem(&plans, &token, (&status, lost), &clock).is_ok());
}
