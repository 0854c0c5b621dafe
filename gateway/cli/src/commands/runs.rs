//! `twinspan plan` and `twinspan run`.

use std::path::Path;
use std::time::Duration;

use api::units::micros_text;
use api::{
    Code, DryRun, Plan, PlanList, PlanMade, PlanMake, PlanText, Run, RunBegin, RunList, RunResume,
    RunStep, RunWord,
};
use tokio::time::Instant;

use super::segment;
use crate::Outcome;
use crate::args::{self, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{show, table};
use crate::place::client;

/// Between two looks at a run.
const LOOK: Duration = Duration::from_millis(200);

/// `twinspan plan`
pub(crate) fn plan(command: &args::Plan, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Plan::List => {
            let list: PlanList = client.get("/api/v1/plans")?;
            show(global.output, &list, |list| {
                let rows = list.items.iter().map(|plan| {
                    let state = plan.error.as_ref().map_or("ready", |_why| "CANNOT BE READ");
                    let (from, to) = (&plan.source, &plan.destination);
                    let way = format!("{from} → {to}");
                    let steps = plan.steps.len().to_string();
                    vec![
                        plan.name.clone(),
                        plan.kind.clone(),
                        way,
                        steps,
                        state.to_owned(),
                        plan.title.clone(),
                    ]
                });
                table(&["NAME", "KIND", "FROM → TO", "STEPS", "STATE", "TITLE"], rows)
            });
            let broken = list.items.iter().any(|plan| plan.error.is_some());
            return Ok(if broken { Code::PlanBad.exit_code() } else { 0 });
        }
        args::Plan::Show { plan } => {
            let plan: Plan = client.get(&format!("/api/v1/plans/{}", segment(plan)))?;
            show(global.output, &plan, plan_text);
        }
        args::Plan::Check { file } => {
            let plan: Plan = client.post("/api/v1/plans/check", &read(file)?)?;
            show(global.output, &plan, |plan| {
                format!("{} is well\n{}", file.display(), plan_text(plan))
            });
        }
        args::Plan::Save { file } => {
            let plan: Plan = client.post("/api/v1/plans", &read(file)?)?;
            show(global.output, &plan, plan_text);
        }
        args::Plan::Make(wanted) => make_plan(&client, wanted, global)?,
        args::Plan::Delete { plan } => {
            client.delete(&format!("/api/v1/plans/{}", segment(plan)))?;
        }
        args::Plan::Run(wanted) => return run_plan(&client, wanted, global),
    }
    Ok(0)
}

/// Shows the plan as the document that can be saved, or saves it.
fn make_plan(client: &Client, wanted: &args::PlanMake, global: &Global) -> Result<(), Failure> {
    let request = PlanMake {
        plugin: wanted.plugin.clone(),
        kind: wanted.kind.clone(),
        groups: wanted.groups.clone(),
        options: wanted.options.iter().cloned().collect(),
    };
    let made: PlanMade = client.post_patiently("/api/v1/plans/make", &request)?;
    if !wanted.save {
        show(global.output, &made.document, |document| {
            serde_json::to_string_pretty(document).unwrap_or_default() + "\n"
        });
        return Ok(());
    }
    let text = PlanText { plan: Some(made.document), ..PlanText::default() };
    let plan: Plan = client.post("/api/v1/plans", &text)?;
    show(global.output, &plan, plan_text);
    Ok(())
}

fn read(file: &Path) -> Result<PlanText, Failure> {
    let bad = |why: String| Failure::coded(Code::PlanBad, format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let named = PlanText { file: Some(file.display().to_string()), ..PlanText::default() };
    if file.extension().is_some_and(|of| of == "json") {
        let plan = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        return Ok(PlanText { plan: Some(plan), ..named });
    }
    Ok(PlanText { toml: Some(text), ..named })
}

fn run_plan(client: &Client, wanted: &args::PlanRun, global: &Global) -> Outcome {
    let request = RunBegin {
        parameters: wanted.parameters.iter().cloned().collect(),
        facts: wanted.facts.iter().cloned().collect(),
        swap: wanted.swap,
    };
    let plan = segment(&wanted.plan);
    if wanted.dry_run {
        let looked: DryRun = client.post(&format!("/api/v1/plans/{plan}/dry-run"), &request)?;
        show(global.output, &looked, dry_text);
        return Ok(if looked.can_run { 0 } else { Code::PlanBad.exit_code() });
    }
    let run: Run = client.post(&format!("/api/v1/plans/{plan}/runs"), &request)?;
    followed(client, run, wanted.follow, global)
}

/// `twinspan run`
pub(crate) fn run(command: &args::Run, global: &Global) -> Outcome {
    let client = client(global)?;
    let told = |run: &str, what: &str, body: &serde_json::Value| -> Result<Run, Failure> {
        client.post(&format!("/api/v1/runs/{}/{what}", segment(run)), body)
    };
    let word = |step: &Option<String>, why: &Option<String>| {
        let word = RunWord { step: step.clone(), why: why.clone() };
        serde_json::to_value(word).unwrap_or_default()
    };
    let run = match command {
        args::Run::List => {
            let list: RunList = client.get("/api/v1/runs")?;
            show(global.output, &list, list_text);
            return Ok(if list.damaged.is_empty() { 0 } else { Code::RunJournal.exit_code() });
        }
        args::Run::Show { run, follow } => {
            let run: Run = client.get(&format!("/api/v1/runs/{}", segment(run)))?;
            return followed(&client, run, *follow, global);
        }
        args::Run::Answer { run, answer, step } => {
            let said = api::RunAnswer { answer: answer.clone(), step: step.clone() };
            told(run, "answer", &serde_json::to_value(said).unwrap_or_default())?
        }
        args::Run::Retry { run, step } => told(run, "retry", &word(step, &None))?,
        args::Run::Skip { run, step, why } => told(run, "skip", &word(step, why))?,
        args::Run::Abort { run, why } => told(run, "abort", &word(&None, why))?,
        args::Run::Resume { run, here, stopped } => {
            let how = RunResume { here: *here, stopped: *stopped };
            told(run, "resume", &serde_json::to_value(how).unwrap_or_default())?
        }
    };
    show(global.output, &run, run_text);
    Ok(0)
}

/// Shows a run; with `--wait`, once it ended or waits for a person.
fn followed(client: &Client, begun: Run, wait: args::RunWait, global: &Global) -> Outcome {
    let until = wait.timeout;
    let began = Instant::now();
    let mut run = begun;
    while wait.wait && run.ended_at.is_none() && !needs_person(&run) {
        if began.elapsed() > until {
            show(global.output, &run, run_text);
            return Ok(Code::Timeout.exit_code());
        }
        std::thread::sleep(LOOK);
        run = client.get(&format!("/api/v1/runs/{}", run.id))?;
    }
    show(global.output, &run, run_text);
    Ok(exit_code(&run))
}

fn needs_person(run: &Run) -> bool {
    matches!(run.state.as_str(), "waiting" | "stopped") || run.held.is_some()
}

fn exit_code(run: &Run) -> u8 {
    match run.state.as_str() {
        "rolled_back" | "aborted" | "refused" => 1,
        "waiting" | "stopped" => 4,
        _ if run.held.is_some() => 4,
        _ => 0,
    }
}

fn plan_text(plan: &Plan) -> String {
    let mut out = format!("{}  {}  {} → {}\n", plan.name, plan.kind, plan.source, plan.destination);
    if let Some(why) = &plan.error {
        out.push_str(&format!("CANNOT BE RUN\n{why}\n"));
        return out;
    }
    out.push_str(&format!("{}\nin {}\n", plan.title, plan.file));
    for remark in &plan.remarks {
        out.push_str(&format!("NOTE {remark}\n"));
    }
    for parameter in &plan.parameters {
        let default = parameter
            .default
            .as_ref()
            .map_or_else(|| "needed".to_owned(), |of| format!("default {of}"));
        out.push_str(&format!("--set {}=…  {} ({default})\n", parameter.name, parameter.meaning));
    }
    for (name, value) in &plan.facts {
        out.push_str(&format!("--fact {name}=…  default {value}\n"));
    }
    let rows = plan.steps.iter().enumerate().map(|(place, step)| {
        let mark = if step.point_of_no_return { " ‖ no return" } else { "" };
        vec![
            (place + 1).to_string(),
            step.id.clone(),
            step.site.clone(),
            format!("{}{mark}", step.action),
            step.when.clone(),
            step.after.join(" "),
            step.title.clone(),
        ]
    });
    out.push_str(&table(&["", "STEP", "AT", "ACTION", "WHEN", "AFTER", "TITLE"], rows));
    out
}

fn dry_text(looked: &DryRun) -> String {
    let (plan, from, to) = (&looked.plan, &looked.source, &looked.destination);
    let mut out = format!("{plan}, {from} → {to}, as of {}: nothing is changed\n", looked.as_of);
    let rows = looked.steps.iter().enumerate().map(|(place, step)| {
        let way = if step.reversible { "" } else { " (stays)" };
        vec![
            (place + 1).to_string(),
            step.id.clone(),
            step.site.clone(),
            step.state.clone(),
            format!("{}{way}", step.will_do),
            step.detail.clone(),
        ]
    });
    out.push_str(&table(&["", "STEP", "AT", "NOW", "WOULD", ""], rows));
    out.push_str(&if looked.can_run {
        format!("run it    twinspan plan run {plan}\n")
    } else {
        "it cannot be run: a step is not known to whoever would do it\n".to_owned()
    });
    out
}

fn list_text(list: &RunList) -> String {
    let rows = list.items.iter().map(|run| {
        let held = run.held.as_ref().map_or("", |_why| ", held");
        let done =
            run.steps.iter().filter(|step| matches!(step.state.as_str(), "done" | "skipped"));
        vec![
            run.id.to_string(),
            run.plan.clone(),
            format!("{}{held}", run.state),
            format!("{}/{}", done.count(), run.steps.len()),
            run.groups.join(" "),
            run.runner.clone(),
            run.started_at.clone(),
        ]
    });
    let mut out = table(&["RUN", "PLAN", "STATE", "STEPS", "GROUPS", "AT", "STARTED"], rows);
    for (run, why) in &list.damaged {
        out.push_str(&format!("{run}: UNKNOWN, its journal cannot be read: {why}\n"));
    }
    out
}

/// A run as a timeline.
fn run_text(run: &Run) -> String {
    let (plan, from, to) = (&run.plan, &run.source, &run.destination);
    let state = run.state.to_uppercase();
    let mut out = format!("{state}  {plan}, {from} → {to}  run {}\n", run.id);
    out.push_str(&format!("begun {} by {}, executed at {}", run.started_at, run.actor, run.runner));
    out.push_str(&if run.term > 1 { format!(", term {}\n", run.term) } else { "\n".to_owned() });
    if let Some(why) = &run.held {
        out.push_str(&format!("held      {why}\nnext      twinspan run resume {}\n", run.id));
    }
    if let Some(why) = &run.turned_back {
        out.push_str(&format!("turned    {why}\n"));
    }
    let rows = run.steps.iter().enumerate().map(|(place, step)| {
        let took = step.took_ms.map_or_else(String::new, |ms| micros_text(ms.saturating_mul(1000)));
        vec![
            format!("{} {}", mark(step), place + 1),
            step.id.clone(),
            step.site.clone(),
            step.title.clone(),
            took,
            step.detail.clone(),
        ]
    });
    out.push_str(&table(&["", "STEP", "AT", "DOES", "TOOK", ""], rows));
    for asked in &run.waiting {
        out.push_str(&format!("asks      {}: {}\n", asked.step, asked.prompt));
        for choice in &asked.choices {
            let step = &asked.step;
            out.push_str(&format!(
                "          twinspan run answer {} {choice} --step {step}\n",
                run.id
            ));
        }
    }
    if run.state == "stopped" {
        out.push_str(&format!("next      twinspan run retry|skip|abort {}\n", run.id));
    }
    for left in &run.left {
        out.push_str(&format!("left      {} {} of step {}\n", left.kind, left.name, left.step));
    }
    for untold in &run.untold {
        out.push_str(&format!("no copy   at {}: {}\n", untold.site, untold.why));
    }
    if let (Some(ended), Some(summary)) = (&run.ended_at, &run.summary) {
        out.push_str(&format!("ended     {ended}: {summary}\n"));
    }
    out
}

fn mark(step: &RunStep) -> &'static str {
    match step.state.as_str() {
        "done" => "✓",
        "failed" | "undo_failed" => "✗",
        "running" | "undoing" | "retrying" => "▶",
        "asking" => "?",
        "skipped" | "kept" => "–",
        "undone" => "↩",
        _ => "·",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_says_what_is_asked_and_how_to_answer() {
        let step = |id: &str, state: &str| RunStep {
            id: id.to_owned(),
            title: "swap roles".to_owned(),
            site: "east".to_owned(),
            action: "core/migrate".to_owned(),
            state: state.to_owned(),
            detail: String::new(),
            failures: 0,
            started_at: None,
            took_ms: Some(1500),
            outputs: std::collections::BTreeMap::new(),
        };
        let run = Run {
            id: uuid::Uuid::nil(),
            plan: "migrate".to_owned(),
            kind: "migrate".to_owned(),
            state: "waiting".to_owned(),
            here: true,
            held: None,
            source: "east".to_owned(),
            destination: "west".to_owned(),
            groups: Vec::new(),
            actor: "ada".to_owned(),
            runner: "east".to_owned(),
            term: 2,
            started_at: "2026-11-26T05:00:00Z".to_owned(),
            ended_at: None,
            summary: None,
            turned_back: None,
            past_no_return: false,
            steps: vec![step("keep", "done"), step("go", "asking")],
            waiting: vec![api::RunQuestion {
                step: "go".to_owned(),
                prompt: "move it?".to_owned(),
                choices: vec!["approve".to_owned()],
            }],
            left: Vec::new(),
            untold: Vec::new(),
            allowed_actions: Vec::new(),
        };
        let text = run_text(&run);
        for expected in ["WAITING  migrate", "term 2", "✓ 1", "? 2", "1.5 s", "answer 0"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert_eq!(exit_code(&run), 4);
    }
}
