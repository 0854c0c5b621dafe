//! `twinspan plugin check`: a component is tried by a gateway that is simulated and in bad moods.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use plugin::{Answers, Finding, Grant, NoGrant, Rule, Trial, TrialError, Verdict};
use serde_json::{Value, json};

use crate::Outcome;
use crate::args::{Global, PluginCheck};
use crate::commands::plugins::{read, read_json};
use crate::failure::{FAILED, Failure};
use crate::output::show;

/// The exit code of a plugin that breaks the contract.
const BROKEN: u8 = 4;

pub(in crate::commands::plugins) fn check(command: &PluginCheck, global: &Global) -> Outcome {
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::new(FAILED, format!("cannot make a folder: {error}")))?;
    let answers = match &command.answers {
        None => Answers::default(),
        Some(file) => Answers::parse(&read(file)?)
            .map_err(|error| Failure::new(FAILED, format!("{}: {error}", file.display())))?,
    };
    let trial = Trial {
        scratch: scratch.path().to_owned(),
        component: read(&command.file)?,
        config: command.config.as_deref().map(read_json).transpose()?,
        grants: command.grants.iter().map(|word| grant(word)).collect::<Result<_, _>>()?,
        params: command.params.iter().map(|word| params(word)).collect::<Result<_, _>>()?,
        answers,
    };
    // A host can speak TLS, though in a trial nothing leaves; a second provider changes nothing.
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, format!("start the runtime: {error}")))?;
    let verdict = runtime.block_on(trial.run()).map_err(|error| refused(&command.file, &error))?;
    show(global.output, &as_json(&verdict), |_| text(&verdict));
    Ok(if verdict.findings.is_empty() && verdict.untried.is_empty() { 0 } else { BROKEN })
}

fn grant(word: &str) -> Result<Grant, Failure> {
    word.parse().map_err(|error: NoGrant| Failure::new(FAILED, error.to_string()))
}

/// `ACTION=FILE`
fn params(word: &str) -> Result<(String, Value), Failure> {
    let Some((action, file)) = word.split_once('=') else {
        let what = format!("{word:?} names no action and file");
        return Err(Failure::new(FAILED, what).next("--params ACTION=FILE"));
    };
    Ok((action.to_owned(), read_json(Path::new(file))?))
}

fn refused(file: &Path, error: &TrialError) -> Failure {
    let code = match error {
        TrialError::Load(_) => api::Code::PluginRefused,
        TrialError::Refused(_) => api::Code::PluginConfig,
        TrialError::Start(_) => return Failure::new(FAILED, error.to_string()),
    };
    Failure::coded(code, format!("{}: {error}", file.display()))
}

fn broken(verdict: &Verdict) -> BTreeMap<Rule, Vec<&Finding>> {
    let mut by_rule: BTreeMap<Rule, Vec<&Finding>> = BTreeMap::new();
    for finding in &verdict.findings {
        by_rule.entry(finding.rule).or_default().push(finding);
    }
    by_rule
}

fn text(verdict: &Verdict) -> String {
    let about = &verdict.about;
    let (calls, requests) = (verdict.calls, verdict.requests);
    let mut text =
        format!("{} {} ({calls} calls, {requests} requests)\n", about.name, about.version);
    let broken = broken(verdict);
    for rule in Rule::ALL {
        let found = broken.get(rule).map_or(&[][..], Vec::as_slice);
        let word = if found.is_empty() { "ok    " } else { "BROKEN" };
        let _infallible = writeln!(text, "  {word}  {}", rule.words());
        for finding in found {
            let action =
                finding.action.as_deref().map_or(String::new(), |name| format!("{name}, "));
            let (mood, detail) = (finding.mood.words(), &finding.detail);
            let _infallible = writeln!(text, "            {action}when {mood}: {detail}");
        }
    }
    for (action, why) in &verdict.untried {
        let name = &about.name;
        let _infallible = writeln!(
            text,
            "  not tried: {name}/{action}: {why}; give --params {action}=FILE, or its schema an example"
        );
    }
    text
}

fn as_json(verdict: &Verdict) -> Value {
    let finding = |found: &Finding| {
        json!({
            "rule": format!("{:?}", found.rule), "action": found.action,
            "mood": format!("{:?}", found.mood), "detail": found.detail,
        })
    };
    let untried = |(action, why): &(String, String)| json!({ "action": action, "why": why });
    json!({
        "plugin": *verdict.about.name, "version": verdict.about.version,
        "digest": verdict.about.digest, "calls": verdict.calls, "requests": verdict.requests,
        "findings": verdict.findings.iter().map(finding).collect::<Vec<_>>(),
        "untried": verdict.untried.iter().map(untried).collect::<Vec<_>>(),
    })
}
