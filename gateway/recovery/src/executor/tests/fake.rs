//! A world whose effects are counted, whose journal can be killed, and whose people answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::actions::{
    ActionError, Actions, Context, Created, Description, Doing, Outcome, Report, Standing,
};
use crate::executor::{Halt, Order, Waiting, World};
use crate::registry::{Registry, split_action};
use crate::run::{Event, Record, Run, Word};

/// Seventeen steps, as a switchover has them: some at once, some that take their time, some that ask,
/// one that fails at first, one that is left out.
pub(super) const SWITCHOVER: &str = r#"
name = "switchover"
kind = "switchover"
groups = ["tenant"]
[sites]
source = "east"
destination = "west"
[facts]
source-alive = true
physical = false
breaks = false
[[steps]]
id = "s01"
action = "fake/makes"
site = "destination"
[[steps]]
id = "s02"
action = "fake/plain"
site = "source"
when = "source-alive"
[[steps]]
id = "s03"
action = "fake/slow"
site = "source"
when = "source-alive"
[[steps]]
id = "s04"
action = "fake/plain"
approval = "stop the replication?"
[[steps]]
id = "s05"
action = "fake/asks"
[[steps]]
id = "s06"
action = "fake/plain"
parallel = "files"
[[steps]]
id = "s07"
action = "fake/plain"
parallel = "files"
when = "physical"
[[steps]]
id = "s08"
action = "fake/slow"
parallel = "files"
[[steps]]
id = "s09"
action = "fake/flaky"
retries = 2
[[steps]]
id = "s10"
action = "fake/plain"
[[steps]]
id = "s11"
action = "fake/slow"
[[steps]]
id = "s12"
action = "fake/makes"
[[steps]]
id = "s13"
action = "fake/plain"
[[steps]]
id = "s14"
action = "fake/breaks-if"
params = { breaks = "${fact.breaks}" }
on_failure = "roll-back"
[[steps]]
id = "s15"
action = "fake/plain"
[[steps]]
id = "s16"
action = "fake/removes"
params = { id = "${s01.made}" }
[[steps]]
id = "s17"
action = "fake/plain"
when = "source-alive and not breaks"
"#;

/// When the process dies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kill {
    /// Before this write.
    Before(usize),
    /// After it, before anything follows from it.
    After(usize),
}

#[derive(Default)]
struct Counts {
    done: u32,
    undone: u32,
    started: bool,
    failed: bool,
}

pub(super) struct Fake {
    journal: Mutex<Vec<Record>>,
    kill: Option<Kill>,
    writes: AtomicUsize,
    killed: AtomicBool,
    counts: Arc<Mutex<BTreeMap<String, Counts>>>,
    registry: Registry,
    /// What is said of how a record was kept, by its number.
    parts: Mutex<BTreeMap<u64, Event>>,
    was_parted: AtomicBool,
    asked: mpsc::UnboundedSender<Word>,
    to_answer: tokio::sync::Mutex<mpsc::UnboundedReceiver<Word>>,
}

impl Fake {
    pub(super) fn new(begun: Record, kill: Option<Kill>) -> Arc<Self> {
        let (asked, to_answer) = mpsc::unbounded_channel();
        let fake = Arc::new(Self {
            journal: Mutex::new(vec![begun]),
            kill,
            writes: AtomicUsize::new(0),
            killed: AtomicBool::new(false),
            counts: Arc::default(),
            registry: Registry::default(),
            parts: Mutex::default(),
            was_parted: AtomicBool::new(false),
            asked,
            to_answer: tokio::sync::Mutex::new(to_answer),
        });
        fake.put_provider();
        fake
    }

    pub(super) fn put_provider(self: &Arc<Self>) {
        let provider = Provider { fake: Arc::downgrade(self), counts: Arc::clone(&self.counts) };
        self.registry.put("fake", Arc::new(provider));
    }

    /// A keeper is lost as this record is kept.
    pub(super) fn part_at(&self, number: u64) {
        let (sites, why) = (vec!["east".to_owned()], "no answer".to_owned());
        self.parts.lock().unwrap().insert(number, Event::Parted { sites, why });
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn journal(&self) -> Vec<Record> {
        self.journal.lock().unwrap().clone()
    }

    pub(super) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    pub(super) fn done(&self, step: &str) -> u32 {
        self.counts.lock().unwrap().get(&format!("r1/{step}")).map_or(0, |of| of.done)
    }

    pub(super) fn undone(&self, step: &str) -> u32 {
        self.counts.lock().unwrap().get(&format!("r1/{step}")).map_or(0, |of| of.undone)
    }

    /// Says what people say, for ever.
    pub(super) async fn answer(&self, orders: mpsc::Sender<Order>) -> mpsc::Sender<Order> {
        let mut to_answer = self.to_answer.lock().await;
        while let Some(word) = to_answer.recv().await {
            let (told, tell) = oneshot::channel();
            orders.send(Order { word, actor: "ada".to_owned(), told }).await.unwrap();
            // What was said already is refused, and nothing waits for it.
            let _refused_or_killed = tell.await;
        }
        orders
    }

    /// Waits until the run waits for people only: a virtual clock goes on only when nothing moves.
    pub(super) async fn until_still(&self) {
        loop {
            let before = self.journal().len();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let run = Run::replay(&self.journal()).unwrap();
            let standing = run.standing();
            let pends = run.plan.steps[0].action == "fake/pends" && before == 3;
            let long = pends && run.plan.steps[0].timeout > Duration::from_secs(3600);
            if long || standing.needs_person() || run.ended.is_some() {
                return;
            }
        }
    }
}

impl World for Fake {
    fn keep<'a>(
        &'a self,
        run: &'a Run,
        record: &'a Record,
    ) -> Waiting<'a, Result<Option<Event>, Halt>> {
        Box::pin(async move {
            assert_eq!(record.number, run.records + 1);
            let write = self.writes.fetch_add(1, Ordering::SeqCst);
            let killed = || {
                self.killed.store(true, Ordering::SeqCst);
                Err(Halt::Journal("killed".to_owned()))
            };
            match self.kill {
                Some(Kill::Before(at)) if at == write => killed(),
                Some(Kill::After(at)) if at == write => {
                    self.journal.lock().unwrap().push(record.clone());
                    killed()
                }
                _ => {
                    self.journal.lock().unwrap().push(record.clone());
                    let parted = self.parts.lock().unwrap().remove(&record.number);
                    self.was_parted.fetch_or(parted.is_some(), Ordering::SeqCst);
                    Ok(parted)
                }
            }
        })
    }

    fn actions_at(&self, _site: Option<&str>, action: &str) -> Option<Arc<dyn Actions>> {
        self.registry.provider_of(action)
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn see(&self, run: &Run, _event: &Event) {
        for waiting in run.waiting() {
            let answer = waiting.choices[0].clone();
            self.asked.send(Word::Answer { step: Some(waiting.step), answer }).unwrap();
        }
        let stopped = run.standing() == crate::run::Standing::Stopped;
        if stopped && run.floor().is_some() {
            self.asked.send(Word::Abort { why: "past it".to_owned() }).unwrap();
        }
    }

    fn progress(&self, _run: &Run, _step: &str, progress: &str) {
        assert_eq!(progress, "half way");
    }
}

/// Effects are counted whenever they are called for: that each happens once is the executor's merit.
struct Provider {
    fake: std::sync::Weak<Fake>,
    counts: Arc<Mutex<BTreeMap<String, Counts>>>,
}

impl Provider {
    fn count<T>(&self, context: &Context, change: impl FnOnce(&mut Counts) -> T) -> T {
        let fake = self.fake.upgrade().unwrap();
        let intent = |record: &Record| matches!(&record.event, Event::Intent { step, .. } if *step == context.step);
        let journal = fake.journal();
        assert!(journal.iter().any(intent), "{} has no intent", context.step);
        let parted = fake.was_parted.load(Ordering::SeqCst);
        let said = journal.iter().any(|of| matches!(of.event, Event::Parted { .. }));
        assert!(!parted || said, "it goes on without a keeper, and that is not written");
        change(self.counts.lock().unwrap().entry(context.idempotency_key.clone()).or_default())
    }

    fn report(action: &str, context: &Context, params: &Value) -> Report {
        let thing = |id: String| Created { kind: "thing".to_owned(), name: id.clone(), id };
        let mut report = Report::of("done");
        match action {
            "makes" | "sticks" => {
                let made = thing(format!("made-by-{}", context.step));
                report.outputs.insert("made".to_owned(), made.id.clone());
                report.created.push(made);
            }
            "removes" => report.removed.push(thing(params["id"].as_str().unwrap().to_owned())),
            _ => {}
        }
        report
    }

    fn finish(&self, action: &str, context: &Context, params: &Value) -> Outcome {
        self.count(context, |counts| counts.done += 1);
        Outcome::Done(Self::report(action, context, params))
    }
}

fn pending() -> Outcome {
    let poll_after = Duration::from_secs(1);
    Outcome::Pending { token: json!("t"), poll_after, progress: "half way".to_owned() }
}

/// A token that is another one at each look, and large.
fn churning(look: u64) -> Outcome {
    let token = json!({ "look": look, "all": "x".repeat(60 << 10) });
    Outcome::Pending { token, poll_after: Duration::ZERO, progress: "half way".to_owned() }
}

impl Actions for Provider {
    fn names(&self) -> Vec<String> {
        ["plain"].map(str::to_owned).to_vec()
    }

    fn describe<'a>(&'a self, action: &'a str, _params: &'a Value) -> Doing<'a, Description> {
        Box::pin(async move {
            let title = action.to_owned();
            Ok(Description { title, will_do: "count".to_owned(), is_reversible: true })
        })
    }

    fn check<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Standing> {
        Box::pin(async move {
            assert!(split_action(&format!("fake/{action}")).is_some());
            if context.is_dry_run {
                return Ok(Standing::Ready);
            }
            match action {
                "was-so" => return Ok(Standing::Done(Report::of("it was so"))),
                "blocked" => return Ok(Standing::Blocked("it cannot be done now".to_owned())),
                _ => {}
            }
            let is_done = self.count(context, |counts| counts.done > 0);
            let report = || Self::report(action, context, params);
            Ok(if is_done { Standing::Done(report()) } else { Standing::Ready })
        })
    }

    fn run<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            match action {
                "churns" => {
                    self.count(context, |counts| counts.started = true);
                    Ok(churning(0))
                }
                "slow" | "pends" => {
                    self.count(context, |counts| counts.started = true);
                    Ok(pending())
                }
                "asks" => Ok(Outcome::NeedsOperator {
                    prompt: "which?".to_owned(),
                    choices: vec!["this".to_owned(), "that".to_owned()],
                    token: json!(7),
                }),
                "flaky" if !self.count(context, |of| std::mem::replace(&mut of.failed, true)) => {
                    Err(ActionError::now("busy", "not yet"))
                }
                "fails" => Err(ActionError::now("broken", "never works")),
                "breaks-if" if params["breaks"] == "true" => {
                    Err(ActionError::never("broken", "as the fact says"))
                }
                "hangs" => std::future::pending().await,
                "floods" => {
                    let words = "x".repeat(1 << 20);
                    Ok(Outcome::Done(Report::of(words)))
                }
                _ => Ok(self.finish(action, context, params)),
            }
        })
    }

    fn resume<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        token: &'a Value,
        answer: Option<&'a str>,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            match action {
                "pends" => Ok(pending()),
                "churns" => Ok(churning(token["look"].as_u64().unwrap() + 1)),
                "asks" => {
                    assert_eq!((token, answer), (&json!(7), Some("this")));
                    Ok(self.finish(action, context, params))
                }
                _ => Ok(self.finish(action, context, params)),
            }
        })
    }

    fn undo<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        _params: &'a Value,
        _report: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            if action == "sticks" {
                return Err(ActionError::never("stuck", "it cannot be removed"));
            }
            if matches!(action, "was-so" | "blocked") {
                // Whatever it is asked to take back, it takes back, as a swap of roles does.
                self.count(context, |counts| counts.undone += 1);
                return Ok(Outcome::Done(Report::of("taken back")));
            }
            let undone = self.count(context, |counts| {
                let is_there = counts.done + u32::from(counts.started && counts.done == 0);
                let undoes = is_there > counts.undone;
                counts.undone += u32::from(undoes);
                undoes
            });
            Ok(if undone {
                Outcome::Done(Report::of("taken back"))
            } else {
                Outcome::Skipped("there was nothing".to_owned())
            })
        })
    }
}
