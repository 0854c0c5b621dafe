//! `twinspan migrate`, `session restore` and `group diff`.

use std::time::Duration;

use api::units::{bytes_text, micros_text};
use api::{
    Code, DiffExtents, DiffSide, DiffVerdict, GroupDiff, MigrationPlan, MigrationPlanRequest,
    MigrationRunRequest, MirrorDiff, Operation, RestorePlan, RestoreRequest,
};

use super::following::follow;
use super::segment;
use super::sessions::{checks_text, end};
use crate::Outcome;
use crate::args::{self, Global};
use crate::client::Client;
use crate::output::{show, table, word};
use crate::place::client;

/// `twinspan migrate`
pub(crate) fn migrate(command: &args::Migrate, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Migrate::Plan { group, to } => {
            let path = format!("/api/v1/groups/{}/migrate/plan", segment(group));
            let request = MigrationPlanRequest { to: to.clone() };
            let plan: MigrationPlan = client.post(&path, &request)?;
            show(global.output, &plan, migration_text);
            Ok(if plan.token.is_some() { 0 } else { Code::NotInSync.exit_code() })
        }
        args::Migrate::Run { group, token, drain, timeout } => {
            let path = format!("/api/v1/groups/{}/migrate/run", segment(group));
            let millis = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
            let request = MigrationRunRequest { token: token.clone(), drain_ms_max: Some(millis) };
            let begun: Operation = client.post(&path, &request)?;
            end(&follow(&client, &begun, *timeout)?, global.output)
        }
    }
}

fn migration_text(plan: &MigrationPlan) -> String {
    let (group, from, to) = (&plan.group, &plan.from, &plan.to);
    let mut out = format!("migration of {group} from {from} to {to}, as of {}\n", plan.as_of);
    out.push_str(&checks_text(&plan.checks));
    out.push_str(&format!("at risk   {}\n", bytes_text(plan.at_risk_bytes)));
    let rtt = plan.rtt_us.map_or_else(|| "UNKNOWN".to_owned(), micros_text);
    let seconds =
        plan.expected_seconds.map_or_else(|| "UNKNOWN".to_owned(), |s| format!("about {s:.1} s"));
    let backlog = bytes_text(plan.backlog_bytes);
    out.push_str(&format!("hosts wait {seconds} (round trip {rtt}, {backlog} on their way)\n"));
    match &plan.token {
        Some(token) => {
            out.push_str(&format!("run it    twinspan migrate run {group} --token {token}\n"));
        }
        None => out.push_str("it cannot be run: a step is blocked\n"),
    }
    out
}

/// `twinspan session restore`
pub(super) fn restore(
    client: &Client,
    (group, request): (&str, &RestoreRequest),
    timeout: Duration,
    global: &Global,
) -> Outcome {
    let path = format!("/api/v1/groups/{}/restore", segment(group));
    let begun: Operation = client.post(&path, request)?;
    end(&follow(client, &begun, timeout)?, global.output)
}

/// `twinspan session restore --dry-run`
pub(super) fn plan_restore(
    client: &Client,
    group: &str,
    request: &RestoreRequest,
    global: &Global,
) -> Outcome {
    let path = format!("/api/v1/groups/{}/restore/plan", segment(group));
    let plan: RestorePlan = client.post(&path, request)?;
    show(global.output, &plan, |plan| restore_text(plan, request.discard));
    Ok(if plan.can_run() { 0 } else { Code::NeedsConsent.exit_code() })
}

/// `twinspan session restore --give-up`
pub(super) fn give_restore_up(client: &Client, group: &str) -> Outcome {
    client.delete(&format!("/api/v1/groups/{}/restore", segment(group)))?;
    Ok(0)
}

fn restore_text(plan: &RestorePlan, discard: bool) -> String {
    let (group, from, to) = (&plan.group, &plan.from, &plan.to);
    let mut out = format!("restore of {group} from {from} to {to}, as of {}\n", plan.as_of);
    if let Some(begun) = &plan.begun_at {
        out.push_str(&format!("begun at  {begun}; this is what is left\n"));
    }
    out.push_str(&checks_text(&plan.steps));
    let lost = plan.discards_bytes.map_or_else(|| "UNKNOWN".to_owned(), bytes_text);
    out.push_str(&format!("discards  {lost} that only {to} has\n"));
    if plan.can_run() {
        let discard = if discard { " --discard" } else { "" };
        out.push_str(&format!("run it    twinspan session restore {group}{discard}\n"));
    } else {
        out.push_str("it cannot be run so: a step is blocked\n");
    }
    out
}

/// `twinspan group diff`
pub(super) fn diff(client: &Client, group: &str, global: &Global) -> Outcome {
    let diff: GroupDiff = client.get(&format!("/api/v1/groups/{}/diff", segment(group)))?;
    show(global.output, &diff, diff_text);
    Ok(diff.verdict.exit_code())
}

fn diff_text(diff: &GroupDiff) -> String {
    if diff.mirrors.is_empty() {
        return format!("{} is not mirrored: there is nothing to differ from\n", diff.group);
    }
    diff.mirrors.iter().map(|mirror| mirror_text(&diff.group, mirror)).collect()
}

fn mirror_text(group: &str, mirror: &MirrorDiff) -> String {
    let (here, site) = (&mirror.here.site, &mirror.site);
    let verdict = match mirror.verdict {
        DiffVerdict::Same => "the same".to_owned(),
        DiffVerdict::OneSide => "one side has changes that the other lacks".to_owned(),
        DiffVerdict::BothSides => "BOTH SIDES have changes that the other lacks".to_owned(),
        DiffVerdict::Unknown => format!("UNKNOWN: {site} cannot be asked"),
    };
    let mut out = format!("{group}, {here} and {site}: {verdict}\n");
    let mut sides = vec![side_row(&mirror.here)];
    sides.extend(mirror.there.as_ref().map(side_row));
    let head = &["SITE", "ROLE", "EPOCH", "SERVING", "COPY", "HOSTS", "WROTE", "APART SINCE"];
    out.push_str(&table(head, sides));
    if let Some(unknown) = &mirror.unknown {
        let ago = unknown.last_heard_ms_ago.map_or_else(
            || "not heard since this gateway started".to_owned(),
            |ms| format!("last heard {} ago", micros_text(ms * 1000)),
        );
        out.push_str(&format!("{site}: UNKNOWN, {ago}: {}\n", unknown.why));
    }
    let mut rows = Vec::new();
    for volume in &mirror.volumes {
        rows.extend(extent_rows(&volume.volume, here, &volume.here));
        rows.extend(volume.there.iter().flat_map(|t| extent_rows(&volume.volume, site, t)));
    }
    if !rows.is_empty() {
        out.push_str(&table(&["VOLUME", "WRITTEN AT", "OFFSET", "LENGTH", ""], rows));
    }
    for volume in &mirror.volumes {
        if let Some(both @ 1..) = volume.both_bytes {
            let most = if is_merged(volume) { "at most " } else { "" };
            let both = bytes_text(both);
            out.push_str(&format!("{}: {most}{both} were written at both sites\n", volume.volume));
        }
    }
    out
}

fn is_merged(volume: &api::VolumeDiff) -> bool {
    volume.here.merged || volume.there.as_ref().is_some_and(|there| there.merged)
}

fn side_row(side: &DiffSide) -> Vec<String> {
    let wrote = match (side.is_whole, side.only_suspected) {
        (false, _) => format!("{}, no common history", bytes_text(side.bytes)),
        (true, true) => format!("{} may differ", bytes_text(side.bytes)),
        (true, false) => bytes_text(side.bytes),
    };
    vec![
        side.site.clone(),
        word(&side.role),
        side.epoch.to_string(),
        word(&side.serving),
        word(&side.quality),
        side.hosts.to_string(),
        wrote,
        side.apart_since.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn extent_rows(volume: &str, site: &str, written: &DiffExtents) -> Vec<Vec<String>> {
    let rows = written.extents.iter().enumerate().map(|(index, extent)| {
        let note = if index == 0 && written.merged {
            format!("near extents are told as one; {} in all", bytes_text(written.bytes))
        } else {
            String::new()
        };
        vec![
            volume.to_owned(),
            site.to_owned(),
            extent.offset.to_string(),
            bytes_text(extent.bytes),
            note,
        ]
    });
    rows.collect()
}
