//! Performs what a run asks for: records are kept, calls are made, people are heard.
//!
//! ```text
//!   next() ─▶ Write ─▶ World::keep (durable, and told to other sites) ─▶ apply ─▶ next() ─▶ …
//!          ─▶ Call  ─▶ a future of this task ─▶ what it came to ─▶ Write ─▶ …
//!          ─▶ Pause ─▶ a timer ─▶ Write(intent) ─▶ …
//! ```
//!
//! Invariant: nothing is called whose intent [`World::keep`] has not confirmed, and nothing follows
//! from an outcome before the record of it is confirmed. All calls of a run are futures of its one
//! task: dropping [`execute`] drops them, which is what a kill does.

mod calls;
mod dry;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

pub use dry::{DryStep, dry_run};

use crate::actions::{Actions, Direction};
use crate::run::{Effect, Ending, Event, Record, Run, State, Word, WordError};

/// A boxed future of the world.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a run stands in.
pub trait World: Send + Sync {
    /// Keeps a record: it is on stable storage here, and every keeper of a copy that can be reached has
    /// it, before this returns. `run` is how the run is without it. What it returns is written next, before
    /// anything follows from the record: that the run goes on without a keeper.
    fn keep<'a>(
        &'a self,
        run: &'a Run,
        record: &'a Record,
    ) -> Waiting<'a, Result<Option<Event>, Halt>>;

    /// Who has an action at a site; `None`: where the run runs.
    fn actions_at(&self, site: Option<&str>, action: &str) -> Option<Arc<dyn Actions>>;

    /// Milliseconds since 1970, for people.
    fn now_ms(&self) -> u64;

    /// The run is so now. Called after each record.
    fn see(&self, run: &Run, event: &Event);

    /// How far a step is, as its provider says.
    fn progress(&self, run: &Run, step: &str, progress: &str);
}

/// Why a run does not go on here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Another gateway took it over.
    #[error("it was taken over with term {term}")]
    Superseded {
        /// The higher term.
        term: u64,
    },
    /// A record cannot be kept.
    #[error("the journal cannot be written: {0}")]
    Journal(String),
    /// The gateway stops.
    #[error("the gateway stops")]
    Stopping,
}

/// How an execution ended.
pub type Ended = Result<Ending, Halt>;

/// A word of a person, and whom to tell what became of it.
#[derive(Debug)]
pub struct Order {
    /// What is said.
    pub word: Word,
    /// Who says it.
    pub actor: String,
    /// Told once the record of it is kept, or why it is not.
    pub told: oneshot::Sender<Result<(), WordError>>,
}

/// Something that was waited for.
enum Came {
    /// A call ended.
    Called(calls::Called),
    /// A pause ended, and this is written.
    Paused(Event),
}

type Future_ = Pin<Box<dyn Future<Output = Came> + Send>>;

/// What is under way.
struct Executor {
    run: Run,
    world: Arc<dyn World>,
    doing: FuturesUnordered<Tagged>,
    /// By the place of the step: what drops it, and which way it goes.
    under_way: BTreeMap<usize, (AbortHandle, Direction, u64)>,
    /// When a step's attempt must be over, and when it may be asked again.
    times: BTreeMap<usize, calls::Times>,
    /// Steps whose attempts were begun before this execution: whether they took effect is looked at
    /// before anything else is asked of them.
    in_doubt: BTreeSet<usize>,
    tags: u64,
}

type Tagged = Pin<Box<dyn Future<Output = (usize, u64, Result<Came, Aborted>)> + Send>>;

/// Runs a run to its end, from wherever its journal says it is.
///
/// # Errors
/// Why it does not go on here; the journal says how far it came.
///
/// # Cancellation
/// Dropping it is a kill: what was called may have taken effect, and the journal says so.
pub async fn execute(run: Run, world: Arc<dyn World>, mut orders: mpsc::Receiver<Order>) -> Ended {
    let under_way = |place: &usize| matches!(run.steps[*place].state, State::Running { .. });
    let mut executor = Executor {
        in_doubt: (0..run.steps.len()).filter(under_way).collect(),
        run,
        world,
        doing: FuturesUnordered::new(),
        under_way: BTreeMap::new(),
        times: BTreeMap::new(),
        tags: 0,
    };
    loop {
        executor.settle().await?;
        if let Some((ending, ..)) = executor.run.ended {
            return Ok(ending);
        }
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(order) => executor.hear(order).await?,
                None => return Err(Halt::Stopping),
            },
            Some(came) = executor.doing.next(), if !executor.doing.is_empty() => {
                executor.take(came).await?;
            }
        }
    }
}

impl Executor {
    /// Writes what is to be written and begins what is to be begun, until there is nothing of either.
    async fn settle(&mut self) -> Result<(), Halt> {
        loop {
            self.drop_what_turned();
            let effects = self.run.next();
            let write = effects.iter().find_map(|effect| match effect {
                Effect::Write(event) => Some(event.clone()),
                Effect::Call(_) | Effect::Pause { .. } => None,
            });
            if let Some(event) = write {
                self.write(event).await?;
                continue;
            }
            for effect in effects {
                self.begin(effect);
            }
            return Ok(());
        }
    }

    /// A call that went forward is of no account once the run turned back; its effect is taken back.
    fn drop_what_turned(&mut self) {
        let direction = self.run.direction;
        self.under_way.retain(|_, (handle, way, _)| {
            let goes_on = *way == direction;
            if !goes_on {
                handle.abort();
            }
            goes_on
        });
    }

    /// Keeps a record and lets it be so; and what is to be said of how it was kept.
    async fn write(&mut self, event: Event) -> Result<(), Halt> {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let record = self.run.record(event, self.world.now_ms());
            next = self.world.keep(&self.run, &record).await?;
            self.run.apply(&record).expect("a run takes the records that it asked for");
            if let Some(place) = record.event.step().and_then(|step| self.run.plan.place(step)) {
                self.retime(place, &record.event);
            }
            self.world.see(&self.run, &record.event);
        }
        Ok(())
    }

    /// An attempt has its time from its intent on; people's answers are not counted.
    fn retime(&mut self, place: usize, event: &Event) {
        match event {
            Event::Pending { .. } | Event::Noted { .. } => {}
            Event::Answered { .. } | Event::Intent { .. } => {
                let until = Instant::now() + self.run.plan.steps[place].timeout;
                self.times.insert(place, calls::Times { until, not_before: None });
            }
            _ => {
                self.times.remove(&place);
            }
        }
    }

    fn begin(&mut self, effect: Effect) {
        let (place, direction, future): (usize, Direction, Future_) = match effect {
            Effect::Write(_) => return,
            Effect::Call(call) => {
                if self.under_way.contains_key(&call.place) {
                    return;
                }
                let timeout = self.run.plan.steps[call.place].timeout;
                let fresh = || calls::Times { until: Instant::now() + timeout, not_before: None };
                let times = *self.times.entry(call.place).or_insert_with(fresh);
                let (place, direction) = (call.place, call.direction);
                let in_doubt = self.in_doubt.remove(&place);
                let calling = calls::call(&self.run, &self.world, call, (times, in_doubt));
                (place, direction, Box::pin(async move { Came::Called(calling.await) }))
            }
            Effect::Pause { place, time, then } => {
                if self.under_way.contains_key(&place) {
                    return;
                }
                let pausing = async move {
                    tokio::time::sleep(time).await;
                    Came::Paused(then)
                };
                (place, self.run.direction, Box::pin(pausing))
            }
        };
        self.tags += 1;
        let tag = self.tags;
        let (handle, registration) = AbortHandle::new_pair();
        self.under_way.insert(place, (handle, direction, tag));
        let abortable = Abortable::new(future, registration);
        self.doing.push(Box::pin(async move { (place, tag, abortable.await) }));
    }

    /// Takes what was waited for.
    async fn take(
        &mut self,
        (place, tag, came): (usize, u64, Result<Came, Aborted>),
    ) -> Result<(), Halt> {
        if self.under_way.get(&place).is_none_or(|(.., current)| *current != tag) {
            // A person's word came first.
            return Ok(());
        }
        self.under_way.remove(&place);
        let Ok(came) = came else { return Ok(()) };
        let called = match came {
            Came::Paused(event) => return self.write(event).await,
            Came::Called(called) => called,
        };
        let (event, again) = calls::judge(&self.run, place, called);
        if let Some(again) = again {
            let step = self.run.plan.steps[place].id.clone();
            self.world.progress(&self.run, &step, &again.progress);
            if let Some(times) = self.times.get_mut(&place) {
                times.not_before = Some(Instant::now() + again.after);
            }
        }
        match event {
            Some(event) => self.write(event).await,
            None => Ok(()),
        }
    }

    /// Takes a word of a person.
    async fn hear(&mut self, order: Order) -> Result<(), Halt> {
        let Order { word, actor, told } = order;
        let result = match self.run.hear(&word, &actor) {
            Ok(event) => {
                // What a provider notes does not end what it does.
                let ends = !matches!(event, Event::Noted { .. });
                let step = event.step().and_then(|step| self.run.plan.place(step)).filter(|_| ends);
                self.write(event).await?;
                if let Some((handle, ..)) = step.and_then(|place| self.under_way.remove(&place)) {
                    handle.abort();
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        // Whoever asked may be gone; the record says what became of it.
        drop(told.send(result));
        Ok(())
    }
}

/// How long a provider is left alone at least after it said that it goes on.
fn poll_after(asked: Duration) -> Duration {
    asked.clamp(crate::limits::POLL_MIN, crate::limits::POLL_MAX)
}

#[cfg(test)]
mod tests;
