//! `twinspan backup`.

mod policies;

use api::units::{bytes_text, rate_text};
use api::{
    Backup, BackupCollect, BackupCreate, BackupForget, BackupForgotten, BackupList, BackupLock,
    BackupRestorePlan, BackupRestorePlanRequest, BackupRestoreRequest, BackupStatus,
    BackupTargetCheck, BackupTargetList, Code, Operation,
};
use serde::Serialize;

use super::following::follow;
use super::segment;
use super::sessions::{checks_text, end, operation_text};
use super::snapshots::age_text;
use crate::Outcome;
use crate::args::{self, Follow, Global};
use crate::client::Client;
use crate::output::{show, table, word};
use crate::place::client;

/// `twinspan backup`
pub(crate) fn backup(command: &args::Backup, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Backup::Target(command) => return target(&client, command, global),
        args::Backup::Create { of, target, name, full, lock_until, follow } => {
            let wanted = BackupCreate {
                of: of.clone(),
                target: target.clone(),
                name: name.clone(),
                full: *full,
                locked_until: lock_until.clone(),
            };
            return begin(&client, "/api/v1/backups", &wanted, (follow, global));
        }
        args::Backup::List { target, group } => {
            let mut list: BackupList = client.get("/api/v1/backups")?;
            list.items.retain(|of| target.as_ref().is_none_or(|target| of.target == *target));
            list.items.retain(|of| group.is_none() || of.group == *group);
            list.silent.retain(|of| target.as_ref().is_none_or(|target| of.target == *target));
            return Ok(listed(&list, global));
        }
        args::Backup::Show { backup } => {
            let backup: Backup = client.get(&path(backup, ""))?;
            show(global.output, &backup, one);
        }
        args::Backup::Verify { backup, target, follow } => {
            let path = match (backup, target) {
                (Some(backup), _) => path(backup, "/verify"),
                (None, target) => target_path(target.as_deref().unwrap_or_default(), "/verify"),
            };
            return begin(&client, &path, &serde_json::json!({}), (follow, global));
        }
        args::Backup::Delete { backup } => client.delete(&path(backup, ""))?,
        args::Backup::Forget { of, target, dry_run, force } => {
            let wanted = BackupForget { of: of.clone(), dry_run: *dry_run, force: *force };
            let gone: BackupForgotten = client.post(&target_path(target, "/forget"), &wanted)?;
            show(global.output, &gone, forgotten_text);
        }
        args::Backup::Lock { backup, until } => {
            let lock = BackupLock { until: until.clone() };
            let backup: Backup = client.post(&path(backup, "/lock"), &lock)?;
            show(global.output, &backup, one);
        }
        args::Backup::Resume { backup, follow } => {
            let path = path(backup, "/resume");
            return begin(&client, &path, &serde_json::json!({}), (follow, global));
        }
        args::Backup::Policy(command) => return policies::policy(&client, command, global),
        args::Backup::Restore(command) => return restore(&client, command, global),
        args::Backup::Catalogue(args::Catalogue::Rebuild { target }) => {
            let path = target_path(target, "/rebuild");
            let list: BackupList = client.post(&path, &serde_json::json!({}))?;
            return Ok(listed(&list, global));
        }
        args::Backup::Gc { target, dry_run, follow } => {
            let wanted = BackupCollect { dry_run: *dry_run };
            return begin(&client, &target_path(target, "/collect"), &wanted, (follow, global));
        }
    }
    Ok(0)
}

/// Begins what takes long, and looks on unless it is to go on alone.
pub(super) fn begin(
    client: &Client,
    path: &str,
    wanted: &impl Serialize,
    (looks, global): (&Follow, &Global),
) -> Outcome {
    let begun: Operation = client.post(path, wanted)?;
    if looks.detach {
        show(global.output, &begun, |operation| {
            let text = operation_text(operation);
            format!("{text}follow it  twinspan operation show {}\n", operation.id)
        });
        return Ok(0);
    }
    end(&follow(client, &begun, looks.timeout)?, global.output)
}

fn target(client: &Client, command: &args::BackupTarget, global: &Global) -> Outcome {
    match command {
        args::BackupTarget::List => {
            let list: BackupTargetList = client.get("/api/v1/backup-targets")?;
            show(global.output, &list, targets_text);
        }
        args::BackupTarget::Check { target } => {
            let path = target_path(target, "/check");
            let check: BackupTargetCheck = client.post(&path, &serde_json::json!({}))?;
            show(global.output, &check, |check| {
                let what = match check.backups {
                    Some(backups) => format!("a repository with {backups} backups and runs"),
                    None => "no repository yet: the first backup makes it".to_owned(),
                };
                format!("{} answers in {} ms: {what}\n", check.target, check.took_ms)
            });
        }
    }
    Ok(0)
}

fn restore(client: &Client, command: &args::BackupRestore, global: &Global) -> Outcome {
    match command {
        args::BackupRestore::New { backup, to, volume, size, follow } => {
            let wanted = BackupRestoreRequest {
                volume: volume.clone(),
                to: Some(to.clone()),
                bytes: *size,
                ..BackupRestoreRequest::default()
            };
            begin(client, &path(backup, "/restore"), &wanted, (follow, global))
        }
        args::BackupRestore::Plan { backup, volume } => {
            let wanted = BackupRestorePlanRequest { volume: volume.clone() };
            let plan: BackupRestorePlan = client.post(&path(backup, "/restore/plan"), &wanted)?;
            show(global.output, &plan, |plan| plan_text(plan, volume.as_deref()));
            Ok(if plan.token.is_some() { 0 } else { Code::WrongState.exit_code() })
        }
        args::BackupRestore::Run { backup, volume, token, drop_hosts, follow } => {
            let wanted = BackupRestoreRequest {
                volume: volume.clone(),
                token: Some(token.clone()),
                drop_hosts: *drop_hosts,
                ..BackupRestoreRequest::default()
            };
            begin(client, &path(backup, "/restore"), &wanted, (follow, global))
        }
    }
}

fn path(backup: &str, rest: &str) -> String {
    format!("/api/v1/backups/{}{rest}", segment(backup))
}

fn target_path(target: &str, rest: &str) -> String {
    format!("/api/v1/backup-targets/{}{rest}", segment(target))
}

/// A list that lacks what a silent target holds ends as not known.
fn listed(list: &BackupList, global: &Global) -> u8 {
    show(global.output, list, rows);
    if list.silent.is_empty() { 0 } else { Code::StateUnknown.exit_code() }
}

fn targets_text(list: &BackupTargetList) -> String {
    if list.items.is_empty() {
        return "no targets: they are configured in [[backup.targets]]\n".to_owned();
    }
    let rows = list.items.iter().map(|target| {
        let up = match target.up {
            Some(true) => "yes",
            Some(false) => "no",
            None => "UNKNOWN",
        };
        vec![
            target.name.clone(),
            up.to_owned(),
            if target.encrypted { "yes" } else { "no" }.to_owned(),
            rate_text(target.bytes_per_second),
            target.backups_max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            target.url.clone(),
        ]
    });
    table(&["TARGET", "ANSWERS", "ENCRYPTED", "BANDWIDTH", "MOST", "URL"], rows)
}

fn rows(list: &BackupList) -> String {
    let mut out = String::new();
    if list.items.is_empty() {
        out.push_str("no backups\n");
    } else {
        let dash = || "-".to_owned();
        let rows = list.items.iter().map(|backup| {
            vec![
                backup.id.to_string(),
                if backup.name.is_empty() { dash() } else { backup.name.clone() },
                backup.group.clone().unwrap_or_else(dash),
                backup.target.clone(),
                word(&backup.status),
                kind(backup),
                bytes_text(backup.bytes),
                bytes_text(backup.stored_bytes),
                backup.created_at.clone().unwrap_or_else(dash),
            ]
        });
        let head =
            &["BACKUP", "NAME", "GROUP", "TARGET", "STATUS", "KIND", "SIZE", "STORED", "TAKEN"];
        out.push_str(&table(head, rows));
    }
    for silent in &list.silent {
        let (target, error) = (&silent.target, &silent.error);
        out.push_str(&format!("UNKNOWN   what {target} holds: {}: {}\n", error.code, error.detail));
    }
    out
}

fn forgotten_text(gone: &BackupForgotten) -> String {
    let BackupForgotten { of, target, .. } = gone;
    if gone.items.is_empty() {
        return format!("nothing of {of} is kept here for backups to {target}\n");
    }
    let rows = gone.items.iter().map(|base| {
        let state = if base.interrupted { "interrupted" } else { "complete" };
        vec![
            base.backup.to_string(),
            base.name.clone(),
            state.to_owned(),
            base.created_at.clone(),
            base.volumes.join(", "),
        ]
    });
    let mut out = table(&["KEPT FOR", "NAME", "RUN", "TAKEN", "VOLUMES"], rows);
    out.push_str(&if gone.dry_run {
        format!("it would go, and the next backup of {of} to {target} would be full\n")
    } else {
        format!("let go: the next backup of {of} to {target} is full\n")
    });
    if !gone.configured {
        out.push_str(&format!("{target} stands in no [[backup.targets]] here\n"));
    }
    out
}

fn kind(backup: &Backup) -> String {
    match backup.status {
        BackupStatus::Protecting | BackupStatus::Error => "-",
        _ if backup.full => "full",
        _ => "incremental",
    }
    .to_owned()
}

fn one(backup: &Backup) -> String {
    let origin = backup.origin.as_ref().map_or_else(|| "-".to_owned(), word);
    let mut out = format!(
        "{} {} in {}: {}, {}, by {origin} at {}, taken {}\n",
        backup.id,
        backup.name,
        backup.target,
        word(&backup.status),
        kind(backup),
        backup.taken_by.as_deref().unwrap_or("UNKNOWN"),
        backup.created_at.as_deref().unwrap_or("UNKNOWN"),
    );
    if let Some(until) = &backup.locked_until {
        out.push_str(&format!("locked until {until}\n"));
    }
    if let Some(error) = &backup.error {
        out.push_str(&format!("{} {}\n", error.code, error.detail));
    }
    let rows = backup.volumes.iter().map(|volume| {
        vec![
            volume.volume.clone(),
            bytes_text(volume.bytes),
            bytes_text(volume.stored_bytes),
            volume.parent.map_or_else(|| "-".to_owned(), |parent| parent.to_string()),
        ]
    });
    out.push_str(&table(&["VOLUME", "SIZE", "STORED", "BUILT UPON"], rows));
    out
}

fn plan_text(plan: &BackupRestorePlan, volume: Option<&str>) -> String {
    let mut out = format!(
        "restore of {} over {} of {}, as of {}\n",
        plan.name,
        plan.volumes.join(", "),
        plan.group,
        plan.as_of
    );
    out.push_str(&checks_text(&plan.checks));
    out.push_str(&format!(
        "undoes    what was written in the {} since {}\n",
        age_text(std::time::Duration::from_secs(plan.seconds)),
        plan.created_at
    ));
    match &plan.token {
        Some(token) => {
            let only = volume.map(|volume| format!(" --volume {volume}")).unwrap_or_default();
            let drop = if plan.hosts > 0 { " --drop-hosts" } else { "" };
            let id = plan.backup;
            out.push_str(&format!(
                "run it    twinspan backup restore run {id}{only} --token {token}{drop}\n"
            ));
        }
        None => out.push_str("it cannot be run: a step is blocked\n"),
    }
    out
}
