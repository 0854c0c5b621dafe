//! Sessions that follow again by a plan, and the way back of what a deleted one left.

use api::{Code, PolicyPatch, ReprotectRequest, SessionCreate};
use block::{Epoch, GatewayId, Generation, GroupId, Open, SessionId, VolumeId, VolumeOffer};
use mirror::Command;

use super::Rig;
use crate::gateway::incoming::NotNow;

#[tokio::test]
async fn a_reprotect_is_run_once_by_the_token_of_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    rig.know_west().await;
    let gateway = &rig.gateway;
    let wanted = SessionCreate {
        volume: "orders".to_owned(),
        to: "west".to_owned(),
        policy: PolicyPatch::default(),
        skip_initial_copy: false,
        destination: None,
    };
    let session = gateway.create_session(wanted).await.unwrap().id.to_string();
    let suspend = |leg| Command::Suspend { leg };
    gateway.session_command(&session, "suspended", suspend).await.unwrap();

    let request = ReprotectRequest::default();
    let plan = gateway.plan_reprotect("orders", &request).await.unwrap();
    assert_eq!((plan.to.as_str(), plan.at_risk_bytes), ("west", Some(0)), "{plan:#?}");
    // Nothing was ever copied there, and what it has nobody can ask for.
    assert_eq!((plan.resync_kind.as_deref(), plan.only_there_bytes), (Some("full"), None));
    let token = plan.token.unwrap();
    let begun = gateway.run_reprotect("orders", &token).await.unwrap();
    assert_eq!((begun.kind.as_str(), begun.subject.as_str()), ("reprotect", "orders"));
    let again = gateway.run_reprotect("orders", &token).await.unwrap_err();
    assert_eq!(again.0.code, Code::PlanToken.as_str());
    rig.close().await;
}

#[tokio::test]
async fn a_volume_that_a_deleted_session_left_is_refused_with_the_way_to_compare_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    let entry = rig.gateway.find_group("orders").unwrap();
    let offer = VolumeOffer {
        volume: VolumeId::from_uuid(entry.volumes[0].id),
        session: SessionId::of(1),
        name: "orders".to_owned(),
        bytes: 1 << 20,
    };
    let open = Open {
        heir_of: None,
        group: GroupId::of(99),
        name: "orders".to_owned(),
        epoch: Epoch::ZERO.next(1),
        generation: Generation::of(5),
        ancestors: Vec::new(),
        volumes: vec![offer],
        discard: false,
        relayed: false,
    };
    let why = match rig.gateway.needs_of(&open, None, GatewayId::of(77)).await.unwrap_err() {
        NotNow::Never(why) => why,
        NotNow::Later(why) => panic!("it was not refused for good: {why}"),
    };
    for words in ["in another group", "session delete orders:", "--skip-initial-copy"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    rig.close().await;
}
