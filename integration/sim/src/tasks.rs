//! The tasks of one process, which are stopped, continued and killed together.
//!
//! Invariant: after [`Tasks::end`] none of them runs: every future is dropped there and then, as
//! `SIGKILL` does it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Poll, Waker};

use mirror::LocalFuture;

use crate::telling::Telling;

type Slot = Rc<RefCell<Option<LocalFuture<()>>>>;

/// The tasks of one process.
pub(crate) struct Tasks {
    slots: RefCell<Vec<Slot>>,
    alive: Cell<bool>,
    /// Stopped by a signal: nothing of it runs until it is continued.
    paused: Cell<bool>,
    /// Tasks that were woken meanwhile.
    sleeping: RefCell<Vec<Waker>>,
}

// === impl Tasks ===

impl Tasks {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            slots: RefCell::default(),
            alive: Cell::new(true),
            paused: Cell::new(false),
            sleeping: RefCell::default(),
        })
    }

    pub(crate) fn are_alive(&self) -> bool {
        self.alive.get()
    }

    pub(crate) fn are_paused(&self) -> bool {
        self.paused.get()
    }

    /// Starts a task that dies with the process.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        stage: &Rc<impl Deref<Target = Telling> + 'static>,
        task: LocalFuture<()>,
    ) {
        if !self.alive.get() {
            return;
        }
        let slot: Slot = Rc::new(RefCell::new(Some(task)));
        {
            let mut slots = self.slots.borrow_mut();
            slots.retain(|slot| Rc::strong_count(slot) > 1 || slot.borrow().is_some());
            slots.push(Rc::clone(&slot));
        }
        let (watch, owner) = (Rc::downgrade(stage), Rc::downgrade(self));
        stage.spawn(poll_fn(move |context| {
            let Some(mut task) = slot.borrow_mut().take() else { return Poll::Ready(()) };
            let Some(stage) = watch.upgrade() else { return Poll::Ready(()) };
            if let Some(tasks) = owner.upgrade().filter(|tasks| tasks.paused.get()) {
                tasks.sleeping.borrow_mut().push(context.waker().clone());
                *slot.borrow_mut() = Some(task);
                return Poll::Pending;
            }
            stage.note_poll();
            match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
                Ok(Poll::Pending) => {
                    *slot.borrow_mut() = Some(task);
                    Poll::Pending
                }
                Ok(Poll::Ready(())) => Poll::Ready(()),
                Err(panic) => {
                    stage.fail("P10", format!("panic: {}", crate::world::words(&*panic)));
                    Poll::Ready(())
                }
            }
        }));
    }

    /// Stops them, or lets them go on, as `SIGSTOP` and `SIGCONT` do.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.set(paused);
        if !paused {
            self.sleeping.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Ends them as `SIGKILL` does.
    pub(crate) fn end(&self) {
        self.alive.set(false);
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        let futures: Vec<_> = slots.iter().filter_map(|slot| slot.borrow_mut().take()).collect();
        drop(futures);
    }
}
