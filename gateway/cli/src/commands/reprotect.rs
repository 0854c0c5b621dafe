//! `twinspan reprotect`: plans it, asks whoever sits there, and runs the plan that was agreed to.
//!
//! Invariant: what is run is the plan that was shown, by its token.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use api::units::bytes_text;
use api::{
    CheckState, Code, Operation, OperationState, ReprotectPlan, ReprotectRequest, RunRequest,
};
use tokio::time::Instant;

use super::following::follow;
use super::segment;
use super::sessions::{checks_text, end};
use crate::Outcome;
use crate::args::{self, Format, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::show;
use crate::place::client;

/// Between two looks at what is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Plans that a script makes before it gives up: a link that comes and goes changes the state that one
/// was made of.
const PLANS_MAX: u32 = 3;

/// `twinspan reprotect`
pub(crate) fn reprotect(command: &args::Reprotect, global: &Global) -> Outcome {
    let client = client(global)?;
    let group = segment(&command.group);
    let begun = match &command.token {
        Some(token) => run(&client, &group, token)?,
        None if command.dry_run => {
            let plan = plan(&client, &group, command)?;
            show(global.output, &plan, plan_text);
            return Ok(plan.token.map_or(Code::NeedsConsent.exit_code(), |_token| 0));
        }
        None => plan_and_run(&client, &group, command, global.output)?,
    };
    let ended = follow(&client, &begun, command.wait.timeout)?;
    if ended.state == OperationState::Succeeded && command.wait.wait {
        wait_ready(&client, &group, command.wait.timeout)?;
    }
    end(&ended, global.output)
}

fn plan(client: &Client, group: &str, command: &args::Reprotect) -> Result<ReprotectPlan, Failure> {
    let request = ReprotectRequest { to: command.to.clone(), discard: command.discard };
    client.post(&format!("/api/v1/groups/{group}/reprotect/plan"), &request)
}

fn run(client: &Client, group: &str, token: &str) -> Result<Operation, Failure> {
    let request = RunRequest { token: token.to_owned() };
    client.post(&format!("/api/v1/groups/{group}/reprotect/run"), &request)
}

fn plan_and_run(
    client: &Client,
    group: &str,
    command: &args::Reprotect,
    format: Format,
) -> Result<Operation, Failure> {
    let mut plans = 0;
    loop {
        let plan = plan(client, group, command)?;
        plans += 1;
        let (token, was_asked) = agreed(&plan, command.yes, format)?;
        match run(client, group, token) {
            // Nobody has read it: what changed in the moment between is planned anew.
            Err(failure) if !was_asked && plans < PLANS_MAX && is_stale(&failure) => {}
            begun => return begun,
        }
    }
}

fn is_stale(failure: &Failure) -> bool {
    failure.code.as_deref() == Some(Code::PlanToken.as_str())
}

/// The token of a plan, if it can be run and whoever sits there wants it, and whether somebody was
/// asked. A script has said so by its words.
fn agreed(plan: &ReprotectPlan, yes: bool, format: Format) -> Result<(&str, bool), Failure> {
    let token = plan.token.as_deref().ok_or_else(|| blocked(plan))?;
    let asks = !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if asks || format == Format::Table {
        eprint!("{}", plan_text(plan));
    }
    if asks {
        eprint!("run it? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
        if read.is_err() || !is_yes(&answer) {
            let what = "nothing was begun: the plan was not agreed to";
            return Err(Failure::new(Code::NeedsConsent.exit_code(), what)
                .next(format!("twinspan reprotect {} --token {token}", plan.group)));
        }
    }
    Ok((token, asks))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].iter().any(|word| answer.trim().eq_ignore_ascii_case(word))
}

fn blocked(plan: &ReprotectPlan) -> Failure {
    let why = plan.checks.iter().filter(|check| check.state == CheckState::Blocked);
    let why: Vec<String> = why.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    Failure::coded(Code::NeedsConsent, why.join("; "))
        .next(format!("twinspan reprotect {} --dry-run", plan.group))
}

/// What it would mean, and how it is run.
fn plan_text(plan: &ReprotectPlan) -> String {
    let (group, from, to) = (&plan.group, &plan.from, &plan.to);
    let mut out = format!("reprotect of {group} from {from} to {to}, as of {}\n", plan.as_of);
    out.push_str(&checks_text(&plan.checks));
    let unknown = |what: &str| format!("UNKNOWN {what}");
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| unknown("bytes"), bytes_text);
    let seconds = plan
        .at_risk_seconds
        .map_or_else(|| unknown("seconds"), |s| format!("at most {s:.1} s of writes"));
    out.push_str(&format!("at risk   {}, {seconds}\n", bytes(plan.at_risk_bytes)));
    out.push_str(&format!("only {to} has {}\n", bytes(plan.only_there_bytes)));
    let kind = plan.resync_kind.as_deref().unwrap_or("delta or full");
    out.push_str(&format!("copied    {kind}, at most {}\n", bytes_text(plan.resync_bytes)));
    match &plan.token {
        Some(token) => {
            out.push_str(&format!("run it    twinspan reprotect {group} --token {token}\n"));
        }
        None => out.push_str("it cannot be run: a step is blocked\n"),
    }
    out
}

fn wait_ready(client: &Client, group: &str, timeout: Duration) -> Result<(), Failure> {
    let until = Instant::now() + timeout;
    loop {
        let now: api::Group = client.get(&format!("/api/v1/groups/{group}"))?;
        if now.health == api::Health::Ready {
            return Ok(());
        }
        if now.health == api::Health::SplitBrain {
            let why = now.explanations.first().map(|e| e.cause.clone()).unwrap_or_default();
            return Err(Failure::coded(Code::NeedsConsent, why)
                .next(format!("twinspan reprotect {} --discard", now.name)));
        }
        if Instant::now() > until {
            let why = now.explanations.first().map(|e| e.cause.clone()).unwrap_or_default();
            return Err(Failure::coded(Code::Timeout, format!("not protected yet: {why}")));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(token: Option<&str>) -> ReprotectPlan {
        let state = if token.is_some() { CheckState::Warning } else { CheckState::Blocked };
        let check = api::Check {
            name: "what only east has".to_owned(),
            state,
            detail: "8 KiB are overwritten".to_owned(),
        };
        ReprotectPlan {
            as_of: "2026-01-01T00:00:00Z".to_owned(),
            group: "shop".to_owned(),
            group_id: uuid::Uuid::from_u128(1),
            from: "west".to_owned(),
            to: "east".to_owned(),
            epoch: 2,
            checks: vec![check],
            discard: true,
            only_there_bytes: Some(8192),
            at_risk_bytes: Some(8192),
            at_risk_seconds: None,
            resync_kind: Some("delta".to_owned()),
            resync_bytes: 1 << 20,
            token: token.map(str::to_owned),
            expires_at: None,
        }
    }

    #[test]
    fn a_plan_says_what_is_lost_and_how_it_is_run() {
        let text = plan_text(&planned(Some("ABC234")));
        for words in [
            "reprotect of shop from west to east",
            "at risk   8 KiB, UNKNOWN seconds",
            "only east has 8 KiB",
            "copied    delta, at most 1 MiB",
            "run it    twinspan reprotect shop --token ABC234",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(plan_text(&planned(None)).contains("cannot be run"));
    }

    #[test]
    fn nothing_is_begun_where_a_step_is_blocked_or_the_answer_is_no_yes() {
        let failure = agreed(&planned(None), true, Format::Json).unwrap_err();
        assert_eq!(failure.exit, 7);
        assert!(failure.what.contains("what only east has: 8 KiB"), "{failure:?}");
        assert!(failure.next.unwrap().contains("--dry-run"));
        let free = planned(Some("ABC234"));
        assert_eq!(agreed(&free, true, Format::Json).unwrap(), ("ABC234", false));
        for (answer, wanted) in [("y\n", true), ("Yes\n", true), ("\n", false), ("no\n", false)] {
            assert_eq!(is_yes(answer), wanted, "{answer:?}");
        }
    }
}
