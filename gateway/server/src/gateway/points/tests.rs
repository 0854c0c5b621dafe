//! Recovery points of a gateway without listeners and without a clock that drives it.

use std::sync::Arc;

use api::{Code, PointJournal, PointKeeper, PointLock, PointPolicyPatch, PointRetention};
use block::GroupId;
use mirror::{Command, SnapshotState};
use uuid::Uuid;

use crate::book::{RollbackEntry, Stage};
use crate::gateway::tests::Rig;
use crate::points::{Stored, moment};
use crate::refusal::Refused;

async fn rig(dir: &tempfile::TempDir) -> Rig {
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    rig
}

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> String {
    result.unwrap_err().0.code.clone()
}

#[tokio::test]
async fn what_is_locked_does_not_go_with_its_volume_also_when_nothing_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&dir).await;
    let gateway = Arc::clone(&rig.gateway);
    gateway.take_snapshot("orders", Some("proof".to_owned())).await.unwrap();
    let lock = |seconds| PointLock { until: None, seconds: Some(seconds) };
    let locked = gateway.lock_snapshot("orders", "proof", &lock(3_600)).await.unwrap();
    let until = locked.locked_until.unwrap();
    let refused = gateway.delete_volume("orders").await.unwrap_err();
    assert_eq!(refused.0.code, Code::SnapshotLocked.as_str());
    assert!(refused.0.detail.contains("proof") && refused.0.detail.contains(&until), "{refused:?}");
    let shorter = gateway.lock_snapshot("orders", "proof", &lock(60)).await;
    assert_eq!(code(shorter), Code::SnapshotLocked.as_str());
    let both = PointLock { until: Some(until), seconds: Some(1) };
    let both = gateway.lock_snapshot("orders", "proof", &both).await;
    assert_eq!(code(both), Code::Invalid.as_str());
    let group = gateway.find_group("orders").unwrap().group();
    gateway.shard_of(group).run(move |state| async move { state.shut(group).await }).await.unwrap();
    assert_eq!(code(gateway.give_up_group("orders").await), Code::SnapshotLocked.as_str());
    rig.close().await;
}

#[tokio::test]
async fn a_policy_is_there_after_a_restart_and_a_change_keeps_what_it_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = rig(&dir).await;
    assert_eq!(code(first.gateway.point_policy("orders").await), Code::NoPointPolicy.as_str());
    let patch = PointPolicyPatch {
        keep: Some(PointKeeper::Both),
        lock_days: Some(2),
        ..PointPolicyPatch::default()
    };
    first.gateway.set_point_policy("orders", patch).await.unwrap();
    first.close().await;
    let rig = Rig::open(dir.path()).await;
    let off = PointPolicyPatch { on: Some(false), ..PointPolicyPatch::default() };
    let state = rig.gateway.set_point_policy("orders", off).await.unwrap();
    assert_eq!((state.policy.keep, state.policy.lock_days), (PointKeeper::Both, 2));
    assert!(!state.takes_here && state.next_at.is_none());
    // A point is locked as the policy says.
    let point = rig.gateway.take_point("orders", false).await.unwrap();
    assert!(point.locked_until.is_some());
    let deleted = rig.gateway.delete_snapshot("orders", &point.name).await;
    assert_eq!(code(deleted), Code::SnapshotLocked.as_str());
    rig.close().await;
}

/// Found in a review: a kill between taking the point and noting it left a point of which only its name
/// told, and once that was deleted, the right to use `current` again.
#[tokio::test]
async fn current_is_used_once_also_when_a_kill_came_before_that_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&dir).await;
    let gateway = &rig.gateway;
    let point = gateway.take_point("orders", true).await.unwrap();
    // As the kill leaves it.
    let group = gateway.find_group("orders").unwrap().group();
    let policy = Some(Stored::default().encode());
    gateway.command(group, Command::SetPointPolicy { policy }).await.unwrap();
    let current = || async { gateway.point("orders", "current").await.unwrap() };
    assert!(current().await.used);
    let again = gateway.take_point("orders", true).await;
    assert_eq!(code(again), Code::PointUsed.as_str());
    // What is known of it does not go with its point.
    gateway.delete_snapshot("orders", &point.name).await.unwrap();
    while !gateway.show_snapshots("orders").await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(current().await.used);
    let again = gateway.take_point("orders", true).await;
    assert_eq!(code(again), Code::PointUsed.as_str());
    rig.close().await;
}

/// Found in a review: of two that changed what a group knows of its points at the same time, one was
/// lost.
#[tokio::test]
async fn what_is_changed_at_the_same_time_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&dir).await;
    let gateway = &rig.gateway;
    let days = |lock_days| PointPolicyPatch { lock_days, ..PointPolicyPatch::default() };
    let keep = Some(PointKeeper::Both);
    let journal = Some(PointJournal { window_seconds: 60, bytes: 64 << 20 });
    let (locked, kept, written, taken) = tokio::join!(
        gateway.set_point_policy("orders", days(Some(1))),
        gateway.set_point_policy("orders", PointPolicyPatch { keep, ..days(None) }),
        gateway.set_point_journal("orders", journal),
        gateway.take_point("orders", true),
    );
    assert!(locked.is_ok() && kept.is_ok() && written.is_ok() && taken.is_ok());
    let group = gateway.find_group("orders").unwrap().group();
    let stored = Stored::of(&gateway.status_of(group).await.unwrap()).unwrap();
    let policy = stored.policy.unwrap();
    assert_eq!((policy.lock_days, policy.keep), (1, PointKeeper::Both));
    assert!(stored.current.is_some() && stored.journal == journal);
    rig.close().await;
}

/// Found in a review: while roles were swapped for a way back its target could go by the rules.
#[tokio::test]
async fn no_rule_and_nobody_removes_what_a_way_back_leads_to_while_roles_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&dir).await;
    let gateway = &rig.gateway;
    let retention = PointRetention { count: Some(1), ..PointRetention::default() };
    let patch = PointPolicyPatch {
        schedule: Some("0 0 1 1 *".to_owned()),
        retention: Some(retention),
        ..PointPolicyPatch::default()
    };
    gateway.set_point_policy("orders", patch).await.unwrap();
    for _ in 0..3 {
        gateway.take_point("orders", false).await.unwrap();
    }
    let group = gateway.find_group("orders").unwrap().group();
    let kept = || async {
        let status = gateway.status_of(group).await.unwrap();
        let points = status.snapshots.iter().filter(|of| of.state == SnapshotState::Available);
        points.map(|of| of.id.uuid()).collect::<Vec<Uuid>>()
    };
    let all = kept().await;
    assert_eq!(all.len(), 3);
    let note = |to: Option<Uuid>| {
        gateway.book.change(Vec::new(), move |pages| {
            pages.rollbacks = to.into_iter().map(|to| swapping(group, to)).collect();
            Ok::<(), Refused>(())
        })
    };
    note(Some(all[0])).await.unwrap();
    let now = moment(gateway.clock.unix_ms());
    gateway.look_at_all_points(now).await;
    assert_eq!(kept().await, [all[0], all[2]], "the one in the middle goes by the rules");
    let deleted = gateway.delete_snapshot("orders", &all[0].to_string()).await;
    assert_eq!(code(deleted), Code::RollingBack.as_str());
    note(None).await.unwrap();
    gateway.look_at_all_points(now).await;
    assert_eq!(kept().await, [all[2]]);
    rig.close().await;
}

/// A way back that is noted before roles are swapped for it.
fn swapping(group: GroupId, to: Uuid) -> RollbackEntry {
    RollbackEntry {
        group: group.uuid(),
        snapshot: to,
        safety: to,
        sessions: Vec::new(),
        begun_ms: 1,
        laid: None,
        stage: Stage::There,
        home: Some(Uuid::from_u128(77)),
        keeps: None,
    }
}
