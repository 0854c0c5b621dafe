//! `twinspan point`.

use api::units::bytes_text;
use api::{
    MomentRollbackAsk, Operation, Point, PointJournal, PointJournalState, PointKeeper, PointList,
    PointLock, PointPolicyPatch, PointPolicyState, PointRetention, PointRetentionPlan, PointTake,
    RollbackRequest,
};

use ureq::http::Method;

use super::following::follow;
use super::sessions::end;
use super::{segment, snapshots};
use crate::Outcome;
use crate::args::{self, Global, Keep, RetentionRules};
use crate::client::Client;
use crate::output::{show, table, word};
use crate::place::client;

/// `twinspan point`
pub(crate) fn point(command: &args::Point, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Point::List { group } => {
            let list: PointList = client.get(&path(group, "points"))?;
            show(global.output, &list, rows);
        }
        args::Point::Show { group, point } => {
            let point: Point = client.get(&one_path(group, "points", point))?;
            show(global.output, &point, one);
        }
        args::Point::Take { group, current } => {
            let taken: Point =
                client.post_patiently(&path(group, "points"), &PointTake { current: *current })?;
            show(global.output, &taken, one);
        }
        args::Point::Delete { group, point } => {
            client.delete(&one_path(group, "snapshots", point))?;
        }
        args::Point::Lock { group, point, until, lasting } => {
            let path = format!("{}/lock", one_path(group, "snapshots", point));
            let seconds = lasting.map(|lasting| lasting.as_secs());
            let wanted = PointLock { until: until.clone(), seconds };
            let locked: Point = client.post(&path, &wanted)?;
            show(global.output, &locked, one);
        }
        args::Point::Policy(command) => policy(&client, command, global)?,
        args::Point::Journal(command) => journal(&client, command, global)?,
        args::Point::Rollback(command) => return rollback(&client, command, global),
        args::Point::Retention { group, rules } => {
            let path = format!("{}{}", path(group, "point-retention"), query(*rules));
            let plan: PointRetentionPlan = client.get(&path)?;
            show(global.output, &plan, plan_text);
        }
    }
    Ok(0)
}

fn rollback(client: &Client, command: &args::MomentRollback, global: &Global) -> Outcome {
    match command {
        args::MomentRollback::Plan { group, at, swap } => {
            let asked = MomentRollbackAsk { at: at.clone(), swap: *swap };
            let path = path(group, "moments/rollback/plan");
            snapshots::plan_rollback(client, (&path, &asked), global)
        }
        args::MomentRollback::Run { group, token, drop_hosts, timeout } => {
            let request = RollbackRequest { token: token.clone(), drop_hosts: *drop_hosts };
            let begun: Operation = client.post(&path(group, "moments/rollback"), &request)?;
            end(&follow(client, &begun, *timeout)?, global.output)
        }
    }
}

fn policy(
    client: &Client,
    command: &args::PointPolicy,
    global: &Global,
) -> Result<(), crate::failure::Failure> {
    let (group, patch) = match command {
        args::PointPolicy::Show { group } => {
            let state: PointPolicyState = client.get(&path(group, "point-policy"))?;
            show(global.output, &state, state_text);
            return Ok(());
        }
        args::PointPolicy::Set { group, schedule, zone, keep, rules, lock_days, hook } => {
            let patch = PointPolicyPatch {
                on: Some(true),
                schedule: schedule.clone(),
                zone: zone.clone(),
                keep: keep.map(keeper),
                retention: retention(*rules),
                lock_days: *lock_days,
                hook: hook.clone(),
            };
            (group, patch)
        }
        args::PointPolicy::Off { group } => {
            (group, PointPolicyPatch { on: Some(false), ..PointPolicyPatch::default() })
        }
    };
    let state: PointPolicyState = client.patch(&path(group, "point-policy"), &patch)?;
    show(global.output, &state, state_text);
    Ok(())
}

fn journal(
    client: &Client,
    command: &args::PointJournal,
    global: &Global,
) -> Result<(), crate::failure::Failure> {
    match command {
        args::PointJournal::Show { group } => {
            let state: PointJournalState = client.get(&path(group, "point-journal"))?;
            show(global.output, &state, journal_text);
        }
        args::PointJournal::Set { group, window, bytes } => {
            let wanted = PointJournal { window_seconds: window.as_secs(), bytes: *bytes };
            let path = path(group, "point-journal");
            if let Some(state) = client.ask(&Method::PUT, &path, &wanted)? {
                show(global.output, &state, journal_text);
            }
        }
        args::PointJournal::Off { group } => client.delete(&path(group, "point-journal"))?,
    }
    Ok(())
}

fn journal_text(state: &PointJournalState) -> String {
    let mut out = format!("write journal of {}: {}\n", state.group, word(&state.state));
    let mut line = |name: &str, text: String| out.push_str(&format!("{name:<10}{text}\n"));
    if let Some(asked) = &state.journal {
        let window = asked.window_seconds;
        line("asked", format!("{window} s, in up to {}", bytes_text(asked.bytes)));
    }
    line("oldest", dash(state.oldest.as_ref()));
    line("newest", dash(state.newest.as_ref()));
    for range in state.ranges.iter().filter(|_| state.ranges.len() > 1) {
        line("", format!("{} to {}", range.from, range.to));
    }
    line("takes", known(state.bytes));
    line("durable", dash(state.durable_to.as_ref()));
    line("holes", state.gaps.to_string());
    if let Some(why) = &state.shorter_because {
        line("because", why.clone());
    }
    out
}

fn path(group: &str, what: &str) -> String {
    format!("/api/v1/groups/{}/{what}", segment(group))
}

fn one_path(group: &str, what: &str, name: &str) -> String {
    format!("{}/{}", path(group, what), segment(name))
}

const fn keeper(keep: Keep) -> PointKeeper {
    match keep {
        Keep::Mirror => PointKeeper::Mirror,
        Keep::Primary => PointKeeper::Primary,
        Keep::Both => PointKeeper::Both,
    }
}

const fn named(rules: RetentionRules) -> [(&'static str, Option<u32>); 6] {
    let RetentionRules { count, days, daily, weekly, monthly, yearly } = rules;
    [
        ("count", count),
        ("days", days),
        ("daily", daily),
        ("weekly", weekly),
        ("monthly", monthly),
        ("yearly", yearly),
    ]
}

fn retention(rules: RetentionRules) -> Option<PointRetention> {
    let RetentionRules { count, days, daily, weekly, monthly, yearly } = rules;
    named(rules).iter().any(|(_, number)| number.is_some()).then(|| PointRetention {
        count,
        days,
        daily: daily.unwrap_or(0),
        weekly: weekly.unwrap_or(0),
        monthly: monthly.unwrap_or(0),
        yearly: yearly.unwrap_or(0),
    })
}

fn query(rules: RetentionRules) -> String {
    let given = named(rules).into_iter().filter_map(|(name, number)| Some((name, number?)));
    let pairs: Vec<String> = given.map(|(name, number)| format!("{name}={number}")).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "UNKNOWN".to_owned(), bytes_text)
}

fn consistency(point: &Point) -> &'static str {
    if point.application_consistent { "application" } else { "crash" }
}

fn use_of(point: &Point) -> String {
    match (&point.disable_reason, point.used) {
        (Some(why), _) => why.clone(),
        (None, true) => "used".to_owned(),
        (None, false) => "-".to_owned(),
    }
}

fn dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn rows(list: &PointList) -> String {
    if list.items.is_empty() {
        return "no recovery points here\n".to_owned();
    }
    let rows = list.items.iter().map(|point| {
        let size = if point.id.is_some() { known(point.exclusive_bytes) } else { "-".to_owned() };
        vec![
            point.name.clone(),
            point.time.clone(),
            consistency(point).to_owned(),
            use_of(point),
            dash(point.locked_until.as_ref()),
            size,
            if point.kept_at.is_empty() { "-".to_owned() } else { point.kept_at.join(", ") },
        ]
    });
    table(&["NAME", "TIME", "CONSISTENT", "USE", "LOCKED UNTIL", "EXCLUSIVE", "KEPT AT"], rows)
}

fn one(point: &Point) -> String {
    let mut out = format!(
        "{} of {}: {}-consistent, of {}\n",
        point.name,
        point.group,
        consistency(point),
        point.time
    );
    let mut line = |name: &str, text: String| out.push_str(&format!("{name:<10}{text}\n"));
    if let Some(why) = &point.why_not {
        line("because", why.clone());
    }
    line("use", use_of(point));
    if let Some(until) = &point.locked_until {
        line("locked", format!("until {until}"));
    }
    if point.id.is_some() {
        line("takes", known(point.exclusive_bytes));
        line("kept at", point.kept_at.join(", "));
    }
    for export in &point.exports {
        line("read at", export.clone());
    }
    out
}

fn rules_text(rules: &PointRetention) -> String {
    let mut all: Vec<String> = Vec::new();
    all.extend(rules.count.map(|count| format!("the newest {count}")));
    all.extend(rules.days.map(|days| format!("all of {days} days")));
    for (number, period) in [
        (rules.daily, "days"),
        (rules.weekly, "weeks"),
        (rules.monthly, "months"),
        (rules.yearly, "years"),
    ] {
        if number > 0 {
            all.push(format!("one of each of {number} {period}"));
        }
    }
    all.join(", ")
}

fn state_text(state: &PointPolicyState) -> String {
    let policy = &state.policy;
    let is_on = if policy.on { "on" } else { "off" };
    let mut out = format!("recovery points of {}: {is_on}, since {}\n", state.group, state.set_at);
    let mut line = |name: &str, text: String| out.push_str(&format!("{name:<10}{text}\n"));
    line("when", format!("{:?} {}", policy.schedule, policy.zone));
    line("kept by", word(&policy.keep));
    line("stay", rules_text(&policy.retention));
    if policy.lock_days > 0 {
        line("locked", format!("for {} days", policy.lock_days));
    }
    line("hook", policy.hook.clone().unwrap_or_else(|| "none: crash-consistent".to_owned()));
    let next = match (&state.next_at, state.takes_here) {
        (Some(next), _) => next.clone(),
        (None, true) => "not known yet".to_owned(),
        (None, false) => "not taken here".to_owned(),
    };
    line("next", if state.running { format!("{next}; one is being taken") } else { next });
    line(
        "so far",
        format!(
            "{} taken, {} skipped, {} missed, {} failed",
            state.taken, state.skipped, state.missed, state.failed
        ),
    );
    if let Some(why) = &state.last_failure {
        line("failed", why.clone());
    }
    out
}

fn plan_text(plan: &PointRetentionPlan) -> String {
    let mut out = format!(
        "retention of {}, as of {}: {}\n",
        plan.group,
        plan.as_of,
        rules_text(&plan.retention)
    );
    if plan.items.is_empty() {
        out.push_str("no recovery points here\n");
        return out;
    }
    let rows = plan.items.iter().map(|fate| {
        vec![
            fate.name.clone(),
            fate.time.clone(),
            if fate.removed { "REMOVED" } else { "stays" }.to_owned(),
            known(fate.exclusive_bytes),
            fate.reasons.join("; "),
        ]
    });
    out.push_str(&table(&["NAME", "TIME", "FATE", "EXCLUSIVE", "BECAUSE"], rows));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: RetentionRules = RetentionRules {
        count: None,
        days: None,
        daily: None,
        weekly: None,
        monthly: None,
        yearly: None,
    };

    #[test]
    fn rules_are_said_all_at_once_or_not_at_all() {
        assert_eq!((retention(NONE), query(NONE).as_str()), (None, ""));
        let rules = RetentionRules { count: Some(2), weekly: Some(4), ..NONE };
        let said = retention(rules).unwrap();
        assert_eq!((said.count, said.weekly, said.daily), (Some(2), 4, 0));
        assert_eq!(query(rules), "?count=2&weekly=4");
        assert_eq!(rules_text(&said), "the newest 2, one of each of 4 weeks");
    }
}
