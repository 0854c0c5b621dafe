//! The order of commands (SAM-5 §8.6): what an ORDERED and a HEAD OF QUEUE command hold back, whichever
//! initiator sends it.
//!
//! ```text
//!   SIMPLE ──nobody is ahead──▶ begins           HEAD OF QUEUE ──▶ begins, and is ahead
//!          ╰─────────▶ waits ──▶ begins          ORDERED ──▶ waits until all before it have ended,
//!                                                            begins, and is ahead
//! ```
//!
//! Invariant: those that wait begin in the order in which they came, and none while one is ahead. All
//! that were there before an ORDERED command have ended when it begins. While every command is SIMPLE
//! nobody waits, and one costs a look at a cell when it comes and when it ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Waker};

use super::super::nexus::{Nexus, WeakNexus};
use super::Unit;

/// How a command wants to stand to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// It may be done before and after any other.
    Simple,
    /// After all that were there before it, and before all that come later.
    Ordered,
    /// Before all that have not begun.
    Head,
}

/// How a command does stand to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// It began, and holds back nobody.
    Plain,
    /// It began, and who comes waits for its end.
    Ahead,
    /// It waits, under this number.
    Waits(u64),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    nexus: u64,
    is_ordered: bool,
}

/// Who waits for whom at one unit.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Whether anybody waits or is ahead.
    stands: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// The nexus of each that is ahead.
    ahead: Vec<u64>,
    wakers: Vec<Waker>,
}

impl Attribute {
    /// The attribute with this code of iSCSI (RFC 7143 §11.3.1). There is none for ACA, a condition that
    /// is never established here. What is untagged is simple, and so is what is reserved, as the targets
    /// take it that initiators are used to.
    pub(crate) const fn of(code: u8) -> Option<Self> {
        match code {
            2 => Some(Self::Ordered),
            3 => Some(Self::Head),
            4 => None,
            _ => Some(Self::Simple),
        }
    }
}

impl Unit {
    /// A command comes. One that waits is begun when [`Self::pass`] says so.
    pub(crate) fn enter(&self, nexus: &Nexus, attribute: Attribute) -> Rank {
        let rank = if attribute == Attribute::Simple && !self.line.stands.get() {
            Rank::Plain
        } else {
            self.line.enter(nexus.id(), attribute, || self.commands())
        };
        nexus.begun();
        rank
    }

    /// A command has ended that came when the epoch of its nexus was this. One that was aborted with all
    /// others of its nexus is out of line already.
    pub(crate) fn leave(&self, nexus: &Nexus, epoch: u32, rank: Rank) {
        if nexus.ended(epoch) && self.line.stands.get() {
            self.line.leave(nexus.id(), rank);
        }
    }

    /// What the command under this number is from now on; `None` while it has to wait.
    pub(crate) fn pass(&self, number: u64) -> Option<Rank> {
        self.line.pass(number, || self.commands())
    }

    /// Lets a session be woken when one that waits may have its turn.
    pub(crate) fn listen_in_line(&self, context: &Context<'_>) {
        let mut state = self.line.state.borrow_mut();
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
    }

    /// Forgets every command of a nexus that has come; says whether there was one.
    pub(super) fn abort(&self, nexus: &Nexus) -> bool {
        let had_any = nexus.abort();
        self.line.forget(nexus.id());
        had_any
    }

    /// Commands of all nexuses that are to be answered.
    fn commands(&self) -> usize {
        let nexuses = self.nexuses.borrow();
        nexuses.iter().filter_map(WeakNexus::get).map(|nexus| nexus.commands()).sum()
    }
}

impl Line {
    #[cold]
    fn enter(&self, nexus: u64, attribute: Attribute, commands: impl FnOnce() -> usize) -> Rank {
        let mut state = self.state.borrow_mut();
        let begins = match attribute {
            Attribute::Simple => false,
            Attribute::Ordered => !self.stands.get() && commands() == 0,
            Attribute::Head => true,
        };
        self.stands.set(true);
        if begins {
            state.ahead.push(nexus);
            return Rank::Ahead;
        }
        let number = state.next;
        state.next += 1;
        let is_ordered = attribute == Attribute::Ordered;
        state.waiting.push_back(Waiting { number, nexus, is_ordered });
        Rank::Waits(number)
    }

    fn pass(&self, number: u64, commands: impl FnOnce() -> usize) -> Option<Rank> {
        let mut state = self.state.borrow_mut();
        let first = *state.waiting.front().filter(|first| first.number == number)?;
        // All that wait are among the commands, the first itself too.
        let is_held_back = first.is_ordered && commands() > state.waiting.len();
        if is_held_back || !state.ahead.is_empty() {
            return None;
        }
        state.waiting.pop_front();
        let rank = if first.is_ordered { Rank::Ahead } else { Rank::Plain };
        if first.is_ordered {
            state.ahead.push(first.nexus);
        }
        self.moved(&mut state);
        Some(rank)
    }

    #[cold]
    fn leave(&self, nexus: u64, rank: Rank) {
        let mut state = self.state.borrow_mut();
        match rank {
            // One that is ORDERED may have waited for it.
            Rank::Plain => {}
            Rank::Ahead => {
                if let Some(at) = state.ahead.iter().position(|other| *other == nexus) {
                    state.ahead.swap_remove(at);
                }
            }
            Rank::Waits(number) => state.waiting.retain(|other| other.number != number),
        }
        self.moved(&mut state);
    }

    /// Nothing of a nexus is there any more.
    pub(super) fn forget(&self, nexus: u64) {
        if self.stands.get() {
            let mut state = self.state.borrow_mut();
            state.waiting.retain(|other| other.nexus != nexus);
            state.ahead.retain(|other| *other != nexus);
            self.moved(&mut state);
        }
    }

    /// Lets those look again that wait, unless it is for nothing.
    fn moved(&self, state: &mut State) {
        self.stands.set(!state.waiting.is_empty() || !state.ahead.is_empty());
        if state.ahead.is_empty() {
            state.wakers.drain(..).for_each(Waker::wake);
        }
    }
}
