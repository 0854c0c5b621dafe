//! Policies by a clock that the test holds: what is run, skipped, missed, kept and deleted.

use std::path::Path;
use std::time::Duration;

use api::{BackupPolicySet, BackupRetention, OperationState};
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::config::TargetConfig;
use crate::gateway::tests::Rig;

fn target(dir: &Path, bytes_per_second: Option<u64>) -> TargetConfig {
    TargetConfig {
        name: "disk".to_owned(),
        url: format!("file://{}", dir.join("repository").display()),
        options: Vec::new(),
        credentials: None,
        key: None,
        bytes_per_second,
        backups_max: None,
        patience: Duration::from_secs(1),
    }
}

async fn open(dir: &Path, bytes_per_second: Option<u64>) -> Rig {
    let target = target(dir, bytes_per_second);
    let rig = Rig::open_with(dir, |config| config.backup_targets = vec![target]).await;
    if rig.gateway.find_volume("orders").is_err() {
        rig.make_orders().await;
    }
    rig
}

fn policy(schedule: &str, retention: BackupRetention) -> BackupPolicySet {
    BackupPolicySet {
        target: "disk".to_owned(),
        schedule: schedule.to_owned(),
        zone: "Europe/Berlin".to_owned(),
        retention,
        on: true,
    }
}

fn now(rig: &Rig) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(rig.gateway.clock.unix_ms()).unwrap()).unwrap()
}

fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

/// The policy of the volume's group once its last run is over and noted.
async fn settled(rig: &Rig, runs: usize) -> api::BackupPolicy {
    loop {
        let list = rig.gateway.operations.list();
        let backups: Vec<_> = list.iter().filter(|of| of.kind == "backup").collect();
        let is_over = backups.iter().all(|of| of.state != OperationState::Running);
        let policy = rig.gateway.backup_policy("orders").unwrap();
        if is_over && backups.len() == runs && policy.last_run.is_some() {
            return policy;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn held(rig: &Rig) -> usize {
    let list = rig.gateway.show_backups(None).await.unwrap();
    list.items.iter().filter(|of| of.status == api::BackupStatus::Available).count()
}

#[tokio::test]
async fn bak_05_a_policy_runs_when_it_is_due_and_makes_up_once_for_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(dir.path(), None).await;
    let gateway = &rig.gateway;
    for (bad, why) in
        [("0 2 * *", "fields"), ("*/5 * * * *", "24 times"), ("0 0 31 2 *", "no time")]
    {
        let wanted = policy(bad, BackupRetention::default());
        let refused = gateway.set_backup_policy("orders", wanted).await.unwrap_err();
        assert_eq!(refused.0.code, Code::BackupPolicyBad.as_str(), "{why}: {refused:?}");
    }
    let refused = gateway.backup_policy("orders").unwrap_err();
    assert_eq!(refused.0.code, Code::NoBackupPolicy.as_str());
    let set = policy("0 2 * * *", BackupRetention::default());
    let shown = gateway.set_backup_policy("orders", set).await.unwrap();
    assert!(shown.on && shown.next_at.is_some() && shown.last_run.is_none(), "{shown:?}");

    // Nothing is due yet.
    let begun = now(&rig);
    let next = gateway.look_at_policies(begun).await.unwrap();
    assert!(next > begun && next.duration_since(begun) <= days(2), "{next}");
    assert!(gateway.operations.list().is_empty());
    gateway.look_at_policies(next).await;
    let policy = settled(&rig, 1).await;
    assert!(policy.last_run.unwrap().error.is_none());
    // The same due time is not run twice.
    gateway.look_at_policies(next + SignedDuration::from_secs(1)).await;
    assert_eq!(gateway.operations.list().len(), 1);

    // It did not run for five days: one run makes up for all of them.
    gateway.look_at_policies(next + days(5) + SignedDuration::from_mins(10)).await;
    let policy = settled(&rig, 2).await;
    assert_eq!((policy.missed, policy.skipped), (5, 0));
    assert_eq!(held(&rig).await, 2);

    // Off, nothing is due; run by hand it runs all the same.
    gateway.turn_backup_policy("orders", false).await.unwrap();
    assert_eq!(gateway.look_at_policies(next + days(9)).await, None);
    gateway.run_backup_policy("orders").await.unwrap();
    settled(&rig, 3).await;
    assert_eq!(held(&rig).await, 3);
    rig.close().await;

    // It is there after a restart, and one policy is all that a group has.
    let rig = open(dir.path(), None).await;
    assert!(!rig.gateway.backup_policy("orders").unwrap().on);
    assert_eq!(rig.gateway.show_backup_policies().items.len(), 1);
    rig.gateway.delete_backup_policy("orders").await.unwrap();
    assert!(rig.gateway.show_backup_policies().items.is_empty());
    rig.close().await;
}

#[tokio::test]
async fn bak_05_what_comes_due_during_a_run_is_skipped_and_counted_and_a_failure_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(dir.path(), None).await;
    let gateway = &rig.gateway;
    let set = policy("0 2 * * *", BackupRetention::default());
    gateway.set_backup_policy("orders", set).await.unwrap();
    let next = gateway.look_at_policies(now(&rig)).await.unwrap();
    // Somebody's run of the same group to the same target is under way.
    let running = gateway.operations.begin("backup", "orders>disk");
    gateway.look_at_policies(next).await;
    let shown = gateway.backup_policy("orders").unwrap();
    assert_eq!((shown.skipped, shown.missed), (1, 0));
    running.end(Ok(()));
    gateway.look_at_policies(next + SignedDuration::from_secs(30)).await;
    assert_eq!(gateway.backup_policy("orders").unwrap().skipped, 1, "it is given up for good");

    // The target is a file now: what fails is told by the policy, with its code.
    std::fs::write(dir.path().join("repository"), "no directory").unwrap();
    gateway.look_at_policies(next + days(1)).await;
    let policy = settled(&rig, 2).await;
    let error = policy.last_run.unwrap().error.unwrap();
    assert_eq!(error.code, Code::BackupTargetInvalid.as_str(), "{error:?}");
    // The clock is moved back by days: nothing runs before the next due time.
    gateway.look_at_policies(next - days(3)).await;
    assert_eq!(gateway.operations.list().len(), 2);
    rig.close().await;
}

#[tokio::test]
async fn bak_06_what_no_rule_keeps_goes_after_a_run_and_what_is_manual_stays() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(dir.path(), None).await;
    let gateway = &rig.gateway;
    let wanted = api::BackupCreate {
        of: "orders".to_owned(),
        target: "disk".to_owned(),
        name: Some("by-hand".to_owned()),
        ..api::BackupCreate::default()
    };
    gateway.create_backup(&wanted, Asker::default()).await.unwrap();
    let keep = BackupRetention { last: Some(2), ..BackupRetention::default() };
    gateway.set_backup_policy("orders", policy("0 2 * * *", keep)).await.unwrap();
    for run in 2..=4 {
        while gateway.operations.running_on("orders>disk").is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway.run_backup_policy("orders").await.unwrap();
        settled(&rig, run).await;
    }
    // Deleting comes after the run.
    while held(&rig).await != 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fates = gateway.backup_fates("orders").await.unwrap();
    let fates: Vec<_> =
        fates.items.iter().map(|fate| (fate.deleted, fate.reasons[0].as_str())).collect();
    assert_eq!(fates.len(), 3);
    assert_eq!(fates[0], (false, "it is manual, and only a person removes it"));
    assert_eq!(fates[1], (false, "it is one of the newest that are kept by number"));
    // A stricter rule says beforehand what would go.
    let keep = BackupRetention { last: Some(1), ..BackupRetention::default() };
    gateway.set_backup_policy("orders", policy("0 2 * * *", keep)).await.unwrap();
    let fates = gateway.backup_fates("orders").await.unwrap();
    let gone: Vec<_> = fates.items.iter().filter(|fate| fate.deleted).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].reasons, ["no rule keeps it"]);
    rig.close().await;
}
