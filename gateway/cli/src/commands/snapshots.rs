//! `twinspan snapshot`.

use api::units::bytes_text;
use api::{
    Code, Operation, RollbackAsk, RollbackPlan, RollbackRequest, Snapshot, SnapshotChanges,
    SnapshotCreate, SnapshotList, SnapshotPart,
};

use super::following::follow;
use super::segment;
use super::sessions::{checks_text, end};
use crate::Outcome;
use crate::args::{self, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{show, table, word};
use crate::place::client;

/// Ranges that are asked for at once.
const RANGES: usize = 10_000;

/// `twinspan snapshot`
pub(crate) fn snapshot(command: &args::Snapshot, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Snapshot::Create { group, name, description, metadata } => {
            let wanted = SnapshotCreate {
                name: name.clone(),
                description: description.clone(),
                metadata: metadata.iter().cloned().collect(),
            };
            let taken: Snapshot = client.post(&path(group, None, ""), &wanted)?;
            show(global.output, &taken, one);
        }
        args::Snapshot::List { group } => {
            let list: SnapshotList = client.get(&path(group, None, ""))?;
            show(global.output, &list, |list| rows(&list.items));
        }
        args::Snapshot::Show { group, snapshot } => {
            let snapshot: Snapshot = client.get(&path(group, Some(snapshot), ""))?;
            show(global.output, &snapshot, one);
        }
        args::Snapshot::Delete { group, snapshot } => {
            client.delete(&path(group, Some(snapshot), ""))?;
        }
        args::Snapshot::Changes { group, snapshot, since, volume } => {
            let path = path(group, Some(snapshot), "/changes");
            let changes = changes(&client, &path, since.as_deref(), volume.as_deref())?;
            show(global.output, &changes, changes_text);
        }
        args::Snapshot::Rollback(command) => return rollback(&client, command, global),
    }
    Ok(0)
}

/// All parts of what changed, in one.
fn changes(
    client: &Client,
    path: &str,
    from: Option<&str>,
    volume: Option<&str>,
) -> Result<SnapshotChanges, Failure> {
    let from = from.map_or_else(String::new, |from| format!("&from={}", segment(from)));
    let volume = volume.map_or_else(String::new, |of| format!("&volume={}", segment(of)));
    let part = |offset: u64| -> Result<SnapshotChanges, Failure> {
        client.get(&format!("{path}?limit={RANGES}&offset={offset}{from}{volume}"))
    };
    let mut all = part(0)?;
    while let Some(offset) = all.next {
        let next = part(offset)?;
        all.items.extend(next.items);
        all.next = next.next;
    }
    Ok(all)
}

fn changes_text(changes: &SnapshotChanges) -> String {
    let rows = changes.items.iter().map(|of| vec![of.offset.to_string(), of.length.to_string()]);
    let sum = changes.items.iter().map(|of| of.length).sum();
    format!("{}{} may differ\n", table(&["OFFSET", "LENGTH"], rows), bytes_text(sum))
}

fn rollback(client: &Client, command: &args::Rollback, global: &Global) -> Outcome {
    match command {
        args::Rollback::Plan { group, snapshot, swap } => {
            let path = path(group, Some(snapshot), "/rollback/plan");
            plan_rollback(client, (&path, &RollbackAsk { swap: *swap }), global)
        }
        args::Rollback::Run { group, snapshot, token, drop_hosts, timeout } => {
            let path = path(group, Some(snapshot), "/rollback");
            let request = RollbackRequest { token: token.clone(), drop_hosts: *drop_hosts };
            let begun: Operation = client.post(&path, &request)?;
            end(&follow(client, &begun, *timeout)?, global.output)
        }
    }
}

/// Asks for a plan and shows it.
pub(super) fn plan_rollback(
    client: &Client,
    (path, asked): (&str, &impl serde::Serialize),
    global: &Global,
) -> Outcome {
    let plan: RollbackPlan = client.post(path, asked)?;
    show(global.output, &plan, plan_text);
    Ok(if plan.token.is_some() { 0 } else { Code::WrongState.exit_code() })
}

fn path(group: &str, snapshot: Option<&str>, rest: &str) -> String {
    let snapshot = snapshot.map(|name| format!("/{}", segment(name))).unwrap_or_default();
    format!("/api/v1/groups/{}/snapshots{snapshot}{rest}", segment(group))
}

fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "UNKNOWN".to_owned(), bytes_text)
}

fn sites(snapshot: &Snapshot) -> String {
    let sites: Vec<&str> = snapshot.held_by.iter().map(|of| of.site.as_str()).collect();
    let kept = if sites.is_empty() { "-".to_owned() } else { sites.join(", ") };
    let lacking = snapshot.parts.iter().filter(|part| part.keeps == Some(false)).count();
    let unknown = snapshot.parts.iter().filter(|part| part.keeps.is_none()).count();
    match (lacking, unknown) {
        (0, 0) => kept,
        (0, unknown) => format!("{kept} ({unknown} parts UNKNOWN)"),
        (lacking, _) => format!("{kept} (LACKING at {lacking} parts)"),
    }
}

/// The other parts of a group over several gateways.
fn parts(snapshot: &Snapshot) -> String {
    let line = |part: &SnapshotPart| {
        let word = match part.keeps {
            Some(true) => "keeps it too",
            Some(false) => "LACKS it: what is kept here is no snapshot of the whole group",
            None => "UNKNOWN: it cannot be asked now",
        };
        format!("the part at gateway {}: {word}\n", part.gateway)
    };
    snapshot.parts.iter().map(line).collect()
}

fn rows(snapshots: &[Snapshot]) -> String {
    if snapshots.is_empty() {
        return "no snapshots here\n".to_owned();
    }
    let rows = snapshots.iter().map(|snapshot| {
        vec![
            snapshot.name.clone(),
            word(&snapshot.state),
            word(&snapshot.origin),
            snapshot.created_at.clone(),
            snapshot.volumes.len().to_string(),
            known(snapshot.exclusive_bytes),
            known(snapshot.shared_bytes),
            sites(snapshot),
        ]
    });
    let head = &["NAME", "STATE", "BY", "TAKEN", "VOLUMES", "EXCLUSIVE", "SHARED", "KEPT AT"];
    table(head, rows)
}

fn one(snapshot: &Snapshot) -> String {
    let mut out = format!(
        "{} of {}: {}, by {}, taken {}, kept at {}\n",
        snapshot.name,
        snapshot.group,
        word(&snapshot.state),
        word(&snapshot.origin),
        snapshot.created_at,
        sites(snapshot)
    );
    if let Some(description) = &snapshot.description {
        out.push_str(&format!("{description}\n"));
    }
    for (key, value) in &snapshot.metadata {
        out.push_str(&format!("{key}={value}\n"));
    }
    let rows = snapshot.volumes.iter().map(|volume| {
        vec![
            volume.volume.clone(),
            known(volume.bytes),
            known(volume.exclusive_bytes),
            known(volume.shared_bytes),
            volume.exports.first().cloned().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    out.push_str(&table(&["VOLUME", "SIZE", "EXCLUSIVE", "SHARED", "READ AT"], rows));
    out.push_str(&parts(snapshot));
    out
}

fn plan_text(plan: &RollbackPlan) -> String {
    let group = &plan.group;
    let to = plan.moment.as_ref().unwrap_or(&plan.snapshot);
    let mut out = format!("rollback of {group} to {to}, as of {}\n", plan.as_of);
    out.push_str(&checks_text(&plan.checks));
    let age = std::time::Duration::from_secs(plan.seconds);
    out.push_str(&format!(
        "undoes    {} at most, written in the {} since {}\n",
        known(plan.changed_bytes),
        age_text(age),
        plan.created_at
    ));
    match &plan.token {
        Some(token) => {
            let drop = if plan.hosts > 0 { " --drop-hosts" } else { "" };
            let run = match &plan.moment {
                Some(_) => format!("point rollback run {group}"),
                None => format!("snapshot rollback run {group} {to}"),
            };
            out.push_str(&format!("run it    twinspan {run} --token {token}{drop}\n"));
        }
        None => out.push_str("it cannot be run: a step is blocked\n"),
    }
    out
}

/// Days and hours where there are some, else minutes and seconds.
pub(super) fn age_text(age: std::time::Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours / 24, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        (days, ..) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::age_text;

    #[test]
    fn an_age_is_told_in_the_two_units_that_matter() {
        let of = |seconds| age_text(Duration::from_secs(seconds));
        assert_eq!(of(59), "59 s");
        assert_eq!(of(61), "1 min 1 s");
        assert_eq!(of(3 * 3600 + 120), "3 h 2 min");
        assert_eq!(of(49 * 3600), "2 d 1 h");
    }
}
