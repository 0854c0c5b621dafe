//! `twinspan backup policy`.

use api::{BackupFateList, BackupPolicy, BackupPolicyList, BackupPolicySet, BackupRetention};
use ureq::http::Method;

use super::begin;
use crate::Outcome;
use crate::args::{self, Global};
use crate::client::Client;
use crate::commands::segment;
use crate::output::{show, table};

/// `twinspan backup policy`
pub(super) fn policy(client: &Client, command: &args::BackupPolicy, global: &Global) -> Outcome {
    let nothing = serde_json::json!({});
    match command {
        args::BackupPolicy::Set { of, .. } => {
            let set: Option<BackupPolicy> =
                client.ask(&Method::PUT, &path(of, ""), &wanted(command))?;
            if let Some(policy) = set {
                show(global.output, &policy, one);
            }
        }
        args::BackupPolicy::List => {
            let list: BackupPolicyList = client.get("/api/v1/backup-policies")?;
            show(global.output, &list, |list| rows(&list.items));
        }
        args::BackupPolicy::Show { of } => {
            let policy: BackupPolicy = client.get(&path(of, ""))?;
            show(global.output, &policy, one);
        }
        args::BackupPolicy::On { of } => {
            let policy: BackupPolicy = client.post(&path(of, "/on"), &nothing)?;
            show(global.output, &policy, one);
        }
        args::BackupPolicy::Off { of } => {
            let policy: BackupPolicy = client.post(&path(of, "/off"), &nothing)?;
            show(global.output, &policy, one);
        }
        args::BackupPolicy::Delete { of } => client.delete(&path(of, ""))?,
        args::BackupPolicy::Run { of, follow } => {
            return begin(client, &path(of, "/run"), &nothing, (follow, global));
        }
        args::BackupPolicy::Retention { of } => {
            let fates: BackupFateList = client.get(&path(of, "/retention"))?;
            show(global.output, &fates, fates_text);
        }
    }
    Ok(0)
}

fn path(of: &str, rest: &str) -> String {
    format!("/api/v1/backup-policies/{}{rest}", segment(of))
}

fn wanted(command: &args::BackupPolicy) -> Option<BackupPolicySet> {
    let args::BackupPolicy::Set {
        of: _,
        target,
        schedule,
        zone,
        keep_last,
        keep_days,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        lock_days,
        off,
    } = command
    else {
        return None;
    };
    Some(BackupPolicySet {
        target: target.clone(),
        schedule: schedule.clone(),
        zone: zone.clone(),
        retention: BackupRetention {
            last: *keep_last,
            days: *keep_days,
            daily: *keep_daily,
            weekly: *keep_weekly,
            monthly: *keep_monthly,
            yearly: *keep_yearly,
        },
        lock_days: *lock_days,
        on: !off,
    })
}

fn kept(retention: &BackupRetention) -> String {
    let counted = [
        (retention.last.unwrap_or(0), "last"),
        (retention.days.unwrap_or(0), "days"),
        (retention.daily, "daily"),
        (retention.weekly, "weekly"),
        (retention.monthly, "monthly"),
        (retention.yearly, "yearly"),
    ];
    let rules: Vec<String> = counted
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if rules.is_empty() { "everything".to_owned() } else { rules.join(", ") }
}

fn row(policy: &BackupPolicy) -> Vec<String> {
    let dash = || "-".to_owned();
    let last = policy.last_run.as_ref().map_or_else(dash, |run| match &run.error {
        None => format!("taken {}", run.at),
        Some(error) => format!("failed {} [{}]", run.at, error.code),
    });
    vec![
        policy.of.clone(),
        policy.target.clone(),
        format!("{} {}", policy.schedule, policy.zone),
        kept(&policy.retention),
        policy.next_at.clone().unwrap_or_else(|| "off".to_owned()),
        last,
        policy.skipped.to_string(),
        policy.missed.to_string(),
    ]
}

const HEAD: &[&str] = &["OF", "TARGET", "WHEN", "KEEPS", "NEXT", "LAST RUN", "SKIPPED", "MISSED"];

fn rows(policies: &[BackupPolicy]) -> String {
    if policies.is_empty() {
        return "no policies here\n".to_owned();
    }
    table(HEAD, policies.iter().map(row))
}

fn one(policy: &BackupPolicy) -> String {
    let mut out = table(HEAD, [row(policy)]);
    if policy.lock_days > 0 {
        out.push_str(&format!("locked for {} days\n", policy.lock_days));
    }
    if let Some(error) = policy.last_run.as_ref().and_then(|run| run.error.as_ref()) {
        out.push_str(&format!("cause  {} [{}]\n", error.detail, error.code));
    }
    out
}

fn fates_text(list: &BackupFateList) -> String {
    if list.items.is_empty() {
        return "no backups of it there\n".to_owned();
    }
    let rows = list.items.iter().map(|fate| {
        let word = if fate.deleted { "goes" } else { "stays" };
        vec![fate.name.clone(), fate.created_at.clone(), word.to_owned(), fate.reasons.join("; ")]
    });
    table(&["BACKUP", "TAKEN", "", "BECAUSE"], rows)
}
