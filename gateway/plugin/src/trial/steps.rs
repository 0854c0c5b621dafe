//! The calls of a trial, and what is judged of each.
//!
//! Invariant: a finding is told once for each rule and action, in the mood in which it was seen first.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

use super::moods::{Mood, Sent};
use super::rules::{self, Finding, Rule};
use super::{Tried, params, world};
use crate::bindings::exports::twinspan::plugin::placement::Proposal;
use crate::bindings::twinspan::plugin::types::{Context, Error, ErrorCode, Mode, Outcome, Report};
use crate::error::CallError;
use crate::grants::Grants;
use crate::host::Refused;

/// How often what is pending is asked again.
const RESUMES_MAX: usize = 50;
/// What an operator answers where anything may be answered.
const ANSWER: &str = "yes";

/// Where in a trial a call is.
#[derive(Clone, Copy)]
struct At<'a> {
    action: Option<&'a str>,
    mood: Mood,
    /// The function, for people.
    call: &'static str,
    /// Whether it may change something.
    may_change: bool,
}

/// What came of a call.
enum Came<T> {
    Answer(T),
    Error(Error),
    /// A fault: it is told already.
    Fault,
    /// The gateway died in it.
    Killed,
}

fn context(action: &str, mood: Mood, attempt: u32) -> Context {
    Context {
        run: "trial".to_owned(),
        step: action.to_owned(),
        idempotency_key: key(action, mood),
        attempt,
        deadline: 0,
        dry_run: false,
        actor: "trial".to_owned(),
        is_undo: false,
    }
}

/// The same for every attempt of one action in one mood, and for no other.
fn key(action: &str, mood: Mood) -> String {
    format!("key-{action}-{mood:?}")
}

fn empty() -> Report {
    Report { summary: String::new(), created: vec![], removed: vec![], outputs: vec![] }
}

impl Tried {
    fn find(&mut self, at: At<'_>, (rule, detail): (Rule, String)) {
        let action = at.action.map(str::to_owned);
        if self.findings.iter().all(|found| found.rule != rule || found.action != action) {
            let detail = format!("{}: {detail}", at.call);
            self.findings.push(Finding { rule, action, mood: at.mood, detail });
        }
    }

    /// Makes a call, and judges what holds for every one.
    async fn call<T: Debug>(
        &mut self,
        at: At<'_>,
        call: impl Future<Output = Result<Result<T, Error>, CallError>>,
    ) -> (Came<T>, Vec<Sent>) {
        self.calls += 1;
        let changed = self.world.changes();
        let made = tokio::select! {
            made = call => Some(made),
            () = self.script.death.notified() => None,
        };
        self.plugins.forgive(&self.about.name);
        let sent = self.script.take();
        self.requests += sent.len() as u64;
        let mut said = self.world.take_said();
        said.extend(self.plugins.logs(&self.about.name).into_iter().flatten().map(|l| l.text));
        said.push(format!("{made:?}"));
        if let Some(told) = said.iter().find(|text| rules::tells_secret(text)) {
            let told: String = told.chars().take(200).collect();
            self.find(at, (Rule::KeepsSecrets, told));
        }
        if !at.may_change {
            if let Some(changing) = sent.iter().find(|sent| sent.changes) {
                self.find(at, (Rule::ChangesNothing, format!("it sent {}", changing.line)));
            }
            if self.world.changes() > changed {
                let what = "it registered something, or wrote to a folder".to_owned();
                self.find(at, (Rule::ChangesNothing, what));
            }
        }
        let came = match made {
            Some(Ok(Ok(answer))) => Came::Answer(answer),
            Some(Ok(Err(error))) => {
                if let Some(wrong) = rules::of_error(&error, at.mood, !sent.is_empty()) {
                    self.find(at, wrong);
                }
                Came::Error(error)
            }
            Some(Err(fault)) => {
                self.find(at, (Rule::NoFault, fault.to_string()));
                Came::Fault
            }
            None => Came::Killed,
        };
        (came, sent)
    }

    /// What has nothing to do with moods.
    pub(super) async fn itself(&mut self) {
        let at = At { action: None, mood: Mood::Well, call: "describe", may_change: false };
        let (plugins, name) = (self.plugins.clone(), self.about.name.to_string());
        let mut said = Vec::new();
        for _ in 0..2 {
            let call = async { plugins.descriptor(&name).await.map(Ok) };
            if let (Came::Answer(descriptor), _) = self.call(at, call).await {
                said.push(format!("{descriptor:?}"));
            }
        }
        if said.first() != said.last() {
            self.find(at, (Rule::Stable, "the second description is another one".to_owned()));
        }
    }

    /// Everything that it can do, in one mood.
    pub(super) async fn in_mood(
        &mut self,
        mood: Mood,
        given: &BTreeMap<String, Value>,
    ) -> Result<(), Refused> {
        let about = std::sync::Arc::clone(&self.about);
        let grants = if mood == Mood::Denied { Grants::default() } else { self.grants.clone() };
        self.plugins.grant(&about.name, grants)?;
        self.set(mood);
        self.ask(mood).await;
        for (name, action) in &about.actions {
            let fits = |params: &Value| action.fits(params);
            let params = match given.get(name) {
                Some(params) => fits(params).map(|()| params.clone()),
                None => params::made(&action.params_schema, fits),
            };
            match params {
                // It would fault again, and use up its limits each time.
                Ok(_) if self.has_faulted(name) => {}
                Ok(params) => {
                    self.set(mood);
                    self.act((name, action.is_reversible), mood, &params).await;
                }
                Err(why) if mood == Mood::Well => self.untried.push((name.clone(), why)),
                Err(_told) => {}
            }
        }
        Ok(())
    }

    fn has_faulted(&self, action: &str) -> bool {
        let of = |found: &Finding| found.action.as_deref() == Some(action);
        self.findings.iter().any(|found| found.rule == Rule::NoFault && of(found))
    }

    fn set(&self, mood: Mood) {
        self.world.set(mood);
        self.script.set(mood);
    }

    /// The questions that are about no action.
    async fn ask(&mut self, mood: Mood) {
        let (plugins, name) = (self.plugins.clone(), self.about.name.to_string());
        let at = |call| At { action: None, mood, call, may_change: false };
        self.call(at("probe"), plugins.probe(&name)).await;
        let has = |part| self.about.exports.contains(&part);
        let (places, plans, keeps_up) = (has("placement"), has("plans"), has("upkeep"));
        let ctx = || context("", mood, 1);
        if places {
            let (source, there) = (world::site("east", "a"), world::site("west", "b"));
            let sites = vec![source.clone(), there.clone()];
            let asked = (source.clone(), Mode::Sync, sites);
            self.call(at("placement.suggest"), plugins.suggest(&name, ctx(), asked)).await;
            let proposal = Proposal {
                source,
                destination: there,
                mode: Mode::Sync,
                volumes: vec![world::volume()],
                destinations: vec![None],
                distance_km: Some(12.5),
                round_trip_us: Some(800),
            };
            let call = plugins.check_session(&name, ctx(), proposal);
            self.call(at("placement.check-session"), call).await;
        }
        if plans {
            let call = async { plugins.plan_kinds(&name).await.map(Ok) };
            let (Came::Answer(kinds), _) = self.call(at("plans.kinds"), call).await else { return };
            for kind in kinds {
                let asked = (vec![world::group()], serde_json::json!({}));
                let call = plugins.make_plan((&name, &kind), ctx(), asked);
                if let (Came::Answer(plan), _) = self.call(at("plans.make"), call).await {
                    let call = plugins.check_plan(&name, ctx(), &plan);
                    self.call(at("plans.check"), call).await;
                }
            }
        }
        if keeps_up {
            self.keep_up(mood).await;
        }
    }

    /// What it does between runs, and what it can be told.
    async fn keep_up(&mut self, mood: Mood) {
        let (plugins, name) = (self.plugins.clone(), self.about.name.to_string());
        let at = |call| At { action: None, mood, call, may_change: true };
        let ctx = || context("", mood, 1);
        self.call(at("upkeep.tick"), plugins.tick(&name, ctx())).await;
        let asks = At { may_change: false, ..at("upkeep.words") };
        let call = async { plugins.words(&name).await.map(Ok) };
        let (Came::Answer(words), _) = self.call(asks, call).await else { return };
        for (word, _) in words {
            let none = serde_json::json!({});
            self.call(at("upkeep.say"), plugins.say(&name, ctx(), (&word, &none))).await;
        }
    }

    /// One action: described, checked, run dry, run, run again, undone, undone again.
    async fn act(&mut self, (name, is_reversible): (&str, bool), mood: Mood, params: &Value) {
        let (plugins, plugin) = (self.plugins.clone(), self.about.name.to_string());
        let of = (plugin.as_str(), name);
        let ctx = context(name, mood, 1);
        let asks = |call| At { action: Some(name), mood, call, may_change: false };
        self.call(asks("describe"), plugins.describe_action(of, params)).await;
        self.call(asks("check"), plugins.check_action(of, ctx.clone(), params)).await;
        let dry = Context { dry_run: true, ..ctx.clone() };
        self.call(asks("run (dry)"), plugins.run_action(of, dry, params)).await;
        if self.has_faulted(name) {
            return;
        }
        let does = |call| At { may_change: true, ..asks(call) };
        let (first, sent) = self.drive(does("run"), ctx.clone(), params).await;
        let attempted = sent.iter().any(|sent| sent.changes);
        if matches!(first, Came::Answer(_)) && attempted && mood.fails_requests() {
            let what = "it answers that it is done, and no request of it was answered".to_owned();
            self.find(does("run"), (Rule::Honest, what));
        }
        // Whoever looks again does so at a gateway that lives.
        if mood == Mood::Killed {
            self.script.set(Mood::Well);
        }
        let again = Context { attempt: 2, ..ctx.clone() };
        let (second, sent) = self.drive(does("run again"), again, params).await;
        if let Some(twice) = rules::made_twice(&sent, &ctx.idempotency_key) {
            let what = format!("{} carries no key, and nobody looked before", twice.line);
            self.find(does("run again"), (Rule::Once, what));
        }
        if is_reversible {
            let done = [first, second].into_iter().find_map(|came| match came {
                Came::Answer(report) => report,
                Came::Error(_) | Came::Fault | Came::Killed => None,
            });
            self.undo(does("undo"), ctx, (params, done.unwrap_or_else(empty))).await;
        }
    }

    /// Runs an action to its end, through all its waits and questions. An answer without a report was
    /// skipped, or is pending still.
    async fn drive(
        &mut self,
        at: At<'_>,
        ctx: Context,
        params: &Value,
    ) -> (Came<Option<Report>>, Vec<Sent>) {
        let (plugins, plugin) = (self.plugins.clone(), self.about.name.to_string());
        let of = (plugin.as_str(), at.action.unwrap_or_default());
        let call = plugins.run_action(of, ctx.clone(), params);
        let (mut came, mut all) = self.call(at, call).await;
        for _ in 0..RESUMES_MAX {
            let (token, answer) = match came {
                Came::Answer(Outcome::Done(report)) => return (Came::Answer(Some(report)), all),
                Came::Answer(Outcome::Skipped(_)) => return (Came::Answer(None), all),
                Came::Error(error) => return (Came::Error(error), all),
                Came::Fault => return (Came::Fault, all),
                Came::Killed => return (Came::Killed, all),
                Came::Answer(Outcome::Pending(pending)) => (pending.token, None),
                Came::Answer(Outcome::Ask(question)) => {
                    let choice = question.choices.into_iter().next();
                    (question.token, Some(choice.unwrap_or_else(|| ANSWER.to_owned())))
                }
            };
            // The host has proven that it is JSON.
            let token: Value = serde_json::from_str(&token).unwrap_or_default();
            let at = At { call: "resume", ..at };
            let call = plugins.resume_action(of, ctx.clone(), params, (&token, answer));
            let (next, sent) = self.call(at, call).await;
            all.extend(sent);
            came = next;
        }
        (Came::Fault, all)
    }

    async fn undo(&mut self, at: At<'_>, ctx: Context, (params, done): (&Value, Report)) {
        let (plugins, plugin) = (self.plugins.clone(), self.about.name.to_string());
        let of = (plugin.as_str(), at.action.unwrap_or_default());
        let ctx = Context { is_undo: true, ..ctx };
        let registered = self.world.registered();
        let done = Report { created: merged(&done, &registered), ..done };
        for call in ["undo", "undo again"] {
            let at = At { call, ..at };
            let asked = plugins.undo_action(of, ctx.clone(), params, done.clone());
            match self.call(at, asked).await.0 {
                Came::Answer(Outcome::Done(undone)) => {
                    let left = rules::left_behind(&self.world.registered(), &undone).cloned();
                    if let Some(left) = left {
                        let what = format!("{} {} is neither gone nor named", left.kind, left.id);
                        self.find(at, (Rule::CleansUp, what));
                    }
                }
                Came::Error(error) if error.code == ErrorCode::Unsupported => {
                    let what = format!("it is reversible, and its undo says: {}", error.message);
                    self.find(at, (Rule::Undoes, what));
                }
                Came::Answer(_) | Came::Error(_) | Came::Fault | Came::Killed => {}
            }
        }
    }
}

/// What an action made, by its report and by what it registered.
fn merged(
    done: &Report,
    registered: &[crate::bindings::twinspan::plugin::types::Created],
) -> Vec<crate::bindings::twinspan::plugin::types::Created> {
    let mut all = done.created.clone();
    for made in registered {
        if !all.iter().any(|known| rules::is_same(known, made)) {
            all.push(made.clone());
        }
    }
    all
}
