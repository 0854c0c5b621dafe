//! Recovery points of a gateway without listeners and without a clock that drives it.

use std::sync::Arc;

use api::{Code, PointKeeper, PointLock, PointPolicyPatch};

use crate::gateway::tests::Rig;

async fn rig(dir: &tempfile::TempDir) -> Rig {
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    rig
}

fn code<T: std::fmt::Debug>(result: Result<T, crate::refusal::Refused>) -> String {
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
