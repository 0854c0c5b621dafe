//! What every kind of history is told by: its log, what was counted, the property that did not hold, and
//! the tasks that run in it.
//!
//! Invariant: the first property that does not hold ends the history, and is the one that is told.

use std::cell::{Cell, RefCell};
use std::fmt::{Display, Write};
use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::history::Outcome;
use crate::model::Moment;
use crate::stats::Stats;

/// More polls than this in one moment are an endless loop.
const POLLS_MAX: u64 = 200_000;

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which: its number in the list of [`crate::run`].
    pub property: &'static str,
    /// How it did not hold.
    pub text: String,
}

/// One history, as far as it is told.
pub(crate) struct Telling {
    pub(crate) stats: RefCell<Stats>,
    log: RefCell<String>,
    failure: RefCell<Option<Failure>>,
    failed: Notify,
    count: Cell<Moment>,
    /// Virtual time, and how often tasks were polled without its passing.
    polls: Cell<(u64, u64)>,
    started: Instant,
    tasks: TaskTracker,
}

/// Runs a history from its first moment to its last, or to the first property that does not hold. `end`
/// ends the processes that are left.
pub(crate) fn perform<S: Deref<Target = Telling>>(
    make: impl FnOnce() -> Rc<S>,
    history: impl AsyncFnOnce(&Rc<S>),
    end: impl FnOnce(&S),
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    let place: Rc<RefCell<Option<Rc<S>>>> = Rc::default();
    let kept = Rc::clone(&place);
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let scene = make();
        *kept.borrow_mut() = Some(Rc::clone(&scene));
        tokio::select! {
            biased;
            () = scene.failed.notified() => {}
            () = history(&scene) => {}
        }
    });
    drop(tasks);
    let scene = place.borrow_mut().take().expect("it was put there first");
    let mut stats = scene.stats.borrow().clone();
    stats.millis = runtime.block_on(async { scene.now_ms() });
    let failure = scene.failure.borrow().clone();
    let log = scene.log.borrow().clone();
    end(&scene);
    Outcome { log, failure, stats }
}

// === impl Telling ===

impl Telling {
    /// A history begins at this moment.
    pub(crate) fn new() -> Self {
        Self {
            stats: RefCell::default(),
            log: RefCell::default(),
            failure: RefCell::default(),
            failed: Notify::new(),
            count: Cell::new(0),
            polls: Cell::new((0, 0)),
            started: Instant::now(),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs a task of its own.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(self.tasks.spawn_local(task));
    }

    /// The next moment: also the source of every name and value.
    pub(crate) fn count(&self) -> Moment {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// How far the history is, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a history is short")
    }

    pub(crate) fn log(&self, text: impl Display) {
        let line = writeln!(self.log.borrow_mut(), "{:>7} {text}", self.now_ms());
        line.expect("a string takes every line");
    }

    /// Something of the list of faults.
    pub(crate) fn happened_quietly(&self, fault: &'static str) {
        *self.stats.borrow_mut().faults.entry(fault).or_default() += 1;
    }

    /// A property does not hold.
    pub(crate) fn fail(&self, property: &'static str, text: String) {
        if self.has_failed() {
            return;
        }
        self.log(format_args!("{property} DOES NOT HOLD: {text}"));
        self.failure.borrow_mut().get_or_insert(Failure { property, text });
        self.failed.notify_one();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Tasks that wake each other for ever keep time from passing (P8).
    pub(crate) fn note_poll(&self) {
        let (at, polls) = self.polls.get();
        let now = self.now_ms();
        let polls = if at == now { polls + 1 } else { 0 };
        self.polls.set((now, polls));
        if polls > POLLS_MAX {
            self.fail("P8", "tasks are polled again and again while no time passes".to_owned());
        }
    }
}
