//! Runs as operators are told.

use api::Code;
use recovery::run::{Progress, Run, Standing, State};
use uuid::Uuid;

use super::{Gateway, no_run};
use crate::clock::text;
use crate::refusal::Refused;
use crate::runs::{Known, Place};

impl Gateway {
    /// One run.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn show_run(&self, id: Uuid) -> Result<api::Run, Refused> {
        let all = self.runs.all();
        if let Some(known) = all.get(&id) {
            return Ok(self.show(id, known));
        }
        drop(all);
        match self.runs.damaged().remove(&id.to_string()) {
            Some(why) => Err(Refused::new(Code::RunJournal, why)),
            None => Err(no_run(id)),
        }
    }

    /// All runs, newest first.
    pub(crate) fn show_runs(&self) -> Vec<api::Run> {
        self.runs.all().iter().rev().map(|(id, known)| self.show(*id, known)).collect()
    }

    fn show(&self, id: Uuid, known: &Known) -> api::Run {
        let run = &known.run;
        let standing = run.standing();
        let here = matches!(known.place, Place::Here(_)) && run.ended.is_none();
        let held = match &known.place {
            Place::Held(why) if run.ended.is_none() => Some(why.clone()),
            _ => None,
        };
        let ended = run.ended.as_ref();
        let sites = &run.setting().sites;
        let asked = run.waiting().into_iter().map(|of| api::RunQuestion {
            step: of.step,
            prompt: of.prompt,
            choices: of.choices,
        });
        let left = run.left.iter().map(|left| api::RunLeft {
            step: left.step.clone(),
            kind: left.what.kind.clone(),
            name: left.what.name.clone(),
        });
        let untold = known
            .untold
            .iter()
            .map(|(site, why)| api::RunUntold { site: site.clone(), why: why.clone() });
        api::Run {
            id,
            plan: run.plan.name.clone(),
            kind: run.plan.kind.word().to_owned(),
            state: standing.word().to_owned(),
            here,
            source: sites.source.clone(),
            destination: sites.destination.clone(),
            groups: run.begun.groups.iter().map(|(_, name)| name.clone()).collect(),
            actor: run.begun.actor.clone(),
            runner: run.runner.site.clone(),
            term: run.term,
            started_at: text(run.begun_ms),
            ended_at: ended.map(|(.., at_ms)| text(*at_ms)),
            summary: ended.map(|(_, summary, _)| summary.clone()),
            turned_back: run.turned.clone(),
            past_no_return: run.floor().is_some(),
            steps: (0..run.steps.len()).map(|place| self.show_step(known, place)).collect(),
            waiting: asked.collect(),
            left: left.collect(),
            untold: untold.collect(),
            allowed_actions: actions(run, standing, here),
            held,
        }
    }

    fn show_step(&self, known: &Known, place: usize) -> api::RunStep {
        let run = &known.run;
        let (plan, step) = (&run.plan.steps[place], &run.steps[place]);
        let site = plan.site.map_or(run.runner.site.as_str(), |role| run.setting().sites.of(role));
        let title = if plan.title.is_empty() { plan.action.clone() } else { plan.title.clone() };
        let took = step.begun_ms.zip(step.ended_ms).map(|(from, to)| to.saturating_sub(from));
        api::RunStep {
            id: plan.id.clone(),
            title,
            site: site.to_owned(),
            action: plan.action.clone(),
            state: step.word().to_owned(),
            detail: detail(step, known.progress.get(&plan.id)),
            failures: step.failures,
            started_at: step.begun_ms.map(text),
            took_ms: took,
            outputs: step.report.as_ref().map(|report| report.outputs.clone()).unwrap_or_default(),
        }
    }
}

fn detail(step: &Progress, progress: Option<&String>) -> String {
    match &step.state {
        State::Waiting | State::Approved | State::Approving => String::new(),
        State::Running { .. } => progress.cloned().unwrap_or_default(),
        State::Asking { prompt, .. } => prompt.clone(),
        State::Pausing { error, .. } | State::Failed { error, .. } => match &error.next {
            Some(next) => format!("{error}; {next}"),
            None => error.to_string(),
        },
        State::Done => {
            let said = step.report.as_ref().map_or("", |report| report.summary.as_str());
            let found = if step.found { " (found so)" } else { "" };
            format!("{said}{found}")
        }
        State::Skipped(why) | State::Undone(why) | State::Kept(why) => why.clone(),
    }
}

fn actions(run: &Run, standing: Standing, here: bool) -> Vec<String> {
    let mut can = Vec::new();
    if run.ended.is_some() {
        return Vec::new();
    }
    if here {
        if !run.waiting().is_empty() {
            can.push("run.answer");
        }
        if standing == Standing::Stopped {
            can.extend(["run.retry", "run.skip"]);
        }
        if run.turned.is_none() {
            can.push("run.abort");
        }
    } else {
        can.push("run.resume");
    }
    can.into_iter().map(str::to_owned).collect()
}
