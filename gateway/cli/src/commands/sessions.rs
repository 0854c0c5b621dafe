//! `twinspan session` and `failover`.

use std::time::Duration;

use api::units::{bytes_text, micros_text};
use api::{
    Check, CheckState, Code, FailoverPlan, LinkState, Operation, OperationState, Phase,
    PlanRequest, PolicyPatch, RestoreRequest, ResumeSession, RunRequest, Session, SessionCreate,
    SessionList, SessionState, VerifySession,
};
use tokio::time::Instant;
use ureq::http::Method;

use super::following::{self, follow};
use super::{moves, segment};
use crate::Outcome;
use crate::args::{self, Format, Global, Wait};
use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::output::{show, table, word};
use crate::place::{client, client_at};
use crate::screen;

/// Between two looks at what is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// `twinspan session`
pub(crate) fn session(command: &args::Session, global: &Global) -> Outcome {
    let client = client(global)?;
    let ask = |session: &str, rest: &str| format!("/api/v1/sessions/{}{rest}", segment(session));
    let nothing = serde_json::json!({});
    let print = |session: &Session| show(global.output, session, one);
    match command {
        args::Session::Create { volume, to, skip_initial_copy, destination, policy, wait } => {
            let wanted = SessionCreate {
                volume: volume.clone(),
                to: to.clone(),
                policy: patch(policy),
                skip_initial_copy: *skip_initial_copy,
                destination: destination.clone(),
            };
            let made: Session = client.post("/api/v1/sessions", &wanted)?;
            print(&wait_for(&client, made, wait)?);
        }
        args::Session::List => {
            let list: SessionList = client.get("/api/v1/sessions")?;
            show(global.output, &list, list_text);
        }
        args::Session::Show { session } => print(&client.get(&ask(session, ""))?),
        args::Session::Suspend { session, force, timeout } => {
            let how = (*force, *timeout);
            if let Some(now) = following::suspend(&client, &ask(session, ""), how, global)? {
                print(&now);
            }
        }
        args::Session::Resume { session, discard, wait } => {
            let request = ResumeSession { discard: *discard };
            let resumed: Session = client.post(&ask(session, "/resume"), &request)?;
            print(&wait_for(&client, resumed, wait)?);
        }
        args::Session::Verify { session, rate, wait } => {
            let request = VerifySession { bytes_per_second: *rate };
            let begun: Session = client.post(&ask(session, "/verify"), &request)?;
            let now = wait_for_verification(&client, begun, wait)?;
            print(&now);
            let differed = now.leg.verified.as_ref().is_some_and(|found| found.mismatched > 0);
            return Ok(if wait.wait && differed { FAILED } else { 0 });
        }
        args::Session::Reverse { session } => reverse(&client, session, global)?,
        args::Session::Restore { group, to, discard, dry_run, give_up, timeout } => {
            let request = RestoreRequest { to: to.clone(), discard: *discard };
            return match (give_up, dry_run) {
                (true, _) => moves::give_restore_up(&client, group),
                (false, true) => moves::plan_restore(&client, group, &request, global),
                (false, false) => moves::restore(&client, (group, &request), *timeout, global),
            };
        }
        args::Session::Transfer { session, wait } => {
            let begun: Session = client.post(&ask(session, "/transfer"), &nothing)?;
            print(&wait_for(&client, begun, wait)?);
        }
        args::Session::Set { session, policy } => {
            let changed: Option<Session> =
                client.ask(&Method::PATCH, &ask(session, ""), &patch(policy))?;
            if let Some(session) = changed {
                print(&session);
            }
        }
        args::Session::Delete { session, half, with_volume, force } => {
            client.delete(&ask(session, &deletion([*half, *with_volume, *force])))?;
        }
    }
    Ok(0)
}

fn reverse(client: &Client, session: &str, global: &Global) -> Result<(), Failure> {
    let path = format!("/api/v1/sessions/{}/reverse", segment(session));
    let outcome: Option<Session> = client.ask(&Method::POST, &path, &serde_json::json!({}))?;
    match outcome {
        Some(session) => show(global.output, &session, one),
        None => show(global.output, &serde_json::json!({ "reversed": session }), |_| {
            format!("{session} is reversed: its source is the other site now")
        }),
    }
    Ok(())
}

/// How a session is to be deleted, as a query.
fn deletion(said: [bool; 3]) -> String {
    let words = ["half", "with_volume", "force"].into_iter().zip(said);
    let words: Vec<_> =
        words.filter(|(_, said)| *said).map(|(word, _)| format!("{word}=true")).collect();
    if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) }
}

fn patch(policy: &args::Policy) -> PolicyPatch {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    PolicyPatch {
        mode: policy.mode.clone(),
        split: policy.split.clone(),
        recovery: policy.recovery.clone(),
        on_slow: policy.on_slow.clone(),
        failover: policy.failover.clone(),
        ack_deadline_ms: policy.ack_deadline.map(millis),
        cut_interval_ms: policy.cut_interval.map(millis),
        transfer_every_s: policy.transfer_every.map(|time| time.as_secs()),
        bandwidth: policy.bandwidth.clone(),
        bandwidth_windows: (!policy.bandwidth_window.is_empty() || policy.no_bandwidth_windows)
            .then(|| policy.bandwidth_window.clone()),
        priority: policy.priority.clone(),
    }
}

/// Whether the mirror is all that the session's mode promises, as both sides say.
fn is_there(session: &Session) -> bool {
    let leg = &session.leg;
    match (leg.policy.mode.as_str(), leg.phase) {
        ("consistency", Phase::Following) => leg.rpo_seconds.is_some(),
        ("stack", Phase::Tracking) => leg.link == LinkState::Off,
        ("sync", Phase::Equivalent) => {
            leg.in_sync && leg.theirs.as_ref().is_some_and(|theirs| theirs.in_sync)
        }
        _ => false,
    }
}

/// Waits until the mirror is what the mode promises, if that is wanted.
fn wait_for(client: &Client, session: Session, wait: &Wait) -> Result<Session, Failure> {
    if !wait.wait {
        return Ok(session);
    }
    let path = format!("/api/v1/sessions/{}", session.id);
    let until = Instant::now() + wait.timeout;
    loop {
        let now: Session = client.get(&path)?;
        if is_there(&now) {
            return Ok(now);
        }
        if now.leg.state == SessionState::Error {
            let why = now.explanations.first();
            let what = why.map_or_else(|| "the session stopped".to_owned(), |e| e.cause.clone());
            return Err(Failure::new(FAILED, what).next("twinspan session show"));
        }
        if Instant::now() > until {
            let what =
                format!("the session is {} after all that time", screen::leg_state(&now.leg));
            return Err(Failure::coded(Code::Timeout, what));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Waits until the verification that was begun is over, if that is wanted.
fn wait_for_verification(client: &Client, begun: Session, wait: &Wait) -> Result<Session, Failure> {
    if !wait.wait {
        return Ok(begun);
    }
    let path = format!("/api/v1/sessions/{}", begun.id);
    let before = begun.leg.verified.clone();
    let until = Instant::now() + wait.timeout;
    loop {
        let now: Session = client.get(&path)?;
        if now.leg.verified != before && now.leg.verifying.is_none() {
            return Ok(now);
        }
        if now.leg.verifying.is_none() && now.leg.state != SessionState::Active {
            let what = "the link ended before everything was compared".to_owned();
            return Err(Failure::new(FAILED, what).next("twinspan session show"));
        }
        if Instant::now() > until {
            let what = "the verification goes on after all that time".to_owned();
            return Err(Failure::coded(Code::Timeout, what));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn list_text(list: &SessionList) -> String {
    let mut out = rows(&list.items);
    if !list.mirrored_here.is_empty() {
        out.push_str("\nmirrored here\n");
        out.push_str(&screen::groups(&list.mirrored_here));
    }
    for group in &list.unknown {
        out.push_str(&format!("group {group}: UNKNOWN, its thread does not answer\n"));
    }
    out
}

fn rows(sessions: &[Session]) -> String {
    let rows = sessions.iter().map(|session| {
        vec![
            session.volume.clone(),
            format!("{} → {}", session.from, session.to),
            session.leg.policy.mode.clone(),
            word(&session.leg.state),
            word(&session.leg.phase),
            progress(session),
            session.leg.rpo_seconds.map_or_else(|| "UNKNOWN".to_owned(), |s| format!("{s:.1} s")),
            bytes_text(session.out_of_sync_bytes),
            session.leg.rtt_us.map_or_else(|| "-".to_owned(), micros_text),
            session.id.to_string(),
        ]
    });
    table(
        &[
            "VOLUME",
            "SESSION",
            "MODE",
            "STATE",
            "PHASE",
            "COPIED",
            "RPO",
            "OUT OF SYNC",
            "RTT",
            "ID",
        ],
        rows,
    )
}

fn progress(session: &Session) -> String {
    if session.leg.phase != Phase::Copying {
        return "-".to_owned();
    }
    let eta = session.resync_eta_seconds.map(|s| format!(", {s} s left")).unwrap_or_default();
    format!(
        "{} {} / {}{eta}",
        session.resync_kind,
        bytes_text(session.resync_copied_bytes),
        bytes_text(session.resync_total_bytes)
    )
}

fn one(session: &Session) -> String {
    let mut out = rows(std::slice::from_ref(session));
    let policy = &session.leg.policy;
    out.push_str(&format!(
        "policy mode {}, split {}, recovery {}, on_slow {}, failover {}, ack_deadline {} ms\n",
        policy.mode,
        policy.split,
        policy.recovery,
        policy.on_slow,
        policy.failover,
        policy.ack_deadline_ms
    ));
    out.push_str(&format!(
        "copying priority {}, bandwidth {}, now {}{}\n",
        policy.priority,
        policy.bandwidth,
        session.leg.bandwidth_now,
        if session.leg.comparing { "; compared with what is held there" } else { "" }
    ));
    if let Some(mode) = &policy.mode_after_swap {
        out.push_str(&format!("mode    sync until roles are swapped, then {mode} again\n"));
    }
    for window in &policy.bandwidth_windows {
        out.push_str(&format!("window {window}\n"));
    }
    out.push_str(&behind(session));
    out.push_str(&following::missing(session));
    if let Some(now) = &session.leg.verifying {
        out.push_str(&format!(
            "verify {} of {} blocks compared, {} differ\n",
            now.done_blocks, now.total_blocks, now.mismatched_blocks
        ));
    }
    match &session.leg.verified {
        Some(found) => out.push_str(&format!(
            "verify all {} blocks compared {} at {}{}\n",
            found.blocks,
            if found.mismatched == 0 {
                "equal".to_owned()
            } else {
                format!("({} differed and were copied again)", found.mismatched)
            },
            found.at,
            if found.unreadable == 0 {
                String::new()
            } else {
                format!("; {} could not be read at the source", found.unreadable)
            },
        )),
        None => out.push_str("verify never\n"),
    }
    for explanation in &session.explanations {
        out.push_str(&format!("cause  {} [{}]\n", explanation.cause, explanation.code));
        out.push_str(&format!("next   {}\n", explanation.next));
    }
    out
}

/// What there is to say of a mirror that follows behind, or did.
fn behind(session: &Session) -> String {
    let leg = &session.leg;
    let mut out = String::new();
    if leg.policy.mode != "sync" || leg.degraded {
        let cut = leg.cut_ms_ago.map_or_else(
            || "no cut is kept there".to_owned(),
            |ago| format!("newest cut {} ago", micros_text(ago * 1000)),
        );
        out.push_str(&format!(
            "behind {cut}, {} in the journal ({} on disk), up to {}\n",
            bytes_text(leg.journal_bytes),
            bytes_text(leg.spilled_bytes),
            bytes_text(leg.journal_bytes_max)
        ));
    }
    for spell in &leg.spells {
        let end = spell.ended_ms_ago.map_or_else(
            || "goes on".to_owned(),
            |ago| format!("ended {} ago", micros_text(ago * 1000)),
        );
        out.push_str(&format!(
            "spell  began {} ago, {end}: RPO up to {:.1} s, {} changed{}\n",
            micros_text(spell.began_ms_ago * 1000),
            spell.worst_rpo_seconds,
            bytes_text(spell.bytes),
            if spell.degraded { ", degraded" } else { "" }
        ));
    }
    out
}

/// `twinspan failover`
pub(crate) fn failover(command: &args::Failover, global: &Global) -> Outcome {
    match command {
        args::Failover::Plan { group, to, accept } => {
            let client = client_at(global, to.as_deref())?;
            let path = format!("/api/v1/groups/{}/failover/plan", segment(group));
            let plan: FailoverPlan = client.post(&path, &PlanRequest { accept: accept.clone() })?;
            show(global.output, &plan, |plan| plan_text(plan, to.as_deref()));
            if plan.token.is_none() {
                return Ok(Code::NeedsConsent.exit_code());
            }
            Ok(0)
        }
        args::Failover::Run { group, to, token, timeout } => {
            let client = client_at(global, to.as_deref())?;
            let path = format!("/api/v1/groups/{}/failover/run", segment(group));
            let begun: Operation = client.post(&path, &RunRequest { token: token.clone() })?;
            let ended = follow(&client, &begun, *timeout)?;
            end(&ended, global.output)
        }
    }
}

/// What was looked at, one line each.
pub(super) fn checks_text(checks: &[Check]) -> String {
    let rows = checks.iter().enumerate().map(|(index, check)| {
        let state = match check.state {
            CheckState::Ok => "ok",
            CheckState::Warning => "note",
            CheckState::Blocked => "BLOCKED",
            CheckState::Unknown => "UNKNOWN",
        };
        vec![
            format!("{:>2}", index + 1),
            check.name.clone(),
            state.to_owned(),
            check.detail.clone(),
        ]
    });
    table(&["", "STEP", "", ""], rows)
}

fn plan_text(plan: &FailoverPlan, to: Option<&str>) -> String {
    let mut out = format!("failover of {} to {}, as of {}\n", plan.group, plan.to, plan.as_of);
    out.push_str(&checks_text(&plan.checks));
    let bytes = plan.at_risk_bytes.map_or_else(|| "UNKNOWN bytes".to_owned(), bytes_text);
    let seconds = plan
        .at_risk_seconds
        .map_or_else(|| "UNKNOWN seconds".to_owned(), |s| format!("at most {s:.1} s of writes"));
    out.push_str(&format!("at risk   {bytes}, {seconds}\n"));
    if !plan.needs_none_of.is_empty() {
        out.push_str(&format!("needs     none of: {}\n", plan.needs_none_of.join(", ")));
    }
    match &plan.token {
        Some(token) => {
            let to = to.map(|to| format!(" --to {to}")).unwrap_or_default();
            out.push_str(&format!(
                "run it    twinspan failover run {}{to} --token {token}\n",
                plan.group
            ));
        }
        None => out.push_str("it cannot be run: a step is blocked\n"),
    }
    out
}

/// Shows how an operation ended.
pub(super) fn end(operation: &Operation, format: Format) -> Outcome {
    match &operation.error {
        Some(problem) => {
            if format == Format::Table {
                println!("{}", operation_text(operation).trim_end());
            }
            Err(Failure::from(problem.clone()))
        }
        None => {
            show(format, operation, operation_text);
            Ok(0)
        }
    }
}

/// An operation and its steps.
pub(crate) fn operation_text(operation: &Operation) -> String {
    let mut out =
        format!("{} of {}: {}\n", operation.kind, operation.subject, word(&operation.state));
    for step in &operation.steps {
        let mark = match step.state {
            OperationState::Running => "…",
            OperationState::Succeeded => "✓",
            OperationState::Failed => "✗",
        };
        let took = step.took_ms.map(|ms| micros_text(ms * 1000)).unwrap_or_default();
        out.push_str(&format!("  {mark} {:<36} {took:>8}  {}\n", step.name, step.detail));
    }
    if let Some(progress) =
        operation.progress.filter(|_| operation.state == OperationState::Running)
    {
        let [done, total, moved] =
            [progress.done_bytes, progress.total_bytes, progress.moved_bytes].map(bytes_text);
        out.push_str(&format!("  {done} of {total} looked at, {moved} moved\n"));
    }
    out
}
