//! The companions: one task for each, which tells it how this part is and hears how that one is.
//!
//! ```text
//!   Effect::TellCompanions ─▶ the state ─▶ every task ─▶ Companions::tell ─▶ Event::CompanionSaid
//!   Group::hear_companion ◀─ the other side's task              └─ no answer ─▶ Event::CompanionLost
//! ```
//!
//! Invariant: a task has one question under way, so an answer is never older than one before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use block::{Companions, GatewayId, PartState};
use tokio::sync::Notify;

use super::{Core, Group};
use crate::machine::{Event, Note};

/// What is told, and who is told.
pub(super) struct CompanionPort {
    companions: Rc<dyn Companions>,
    state: RefCell<Option<PartState>>,
    /// Counts states.
    news: Cell<u64>,
    wake: Notify,
    told: RefCell<BTreeSet<GatewayId>>,
}

// === impl CompanionPort ===

impl CompanionPort {
    pub(super) fn new(companions: Rc<dyn Companions>) -> Rc<Self> {
        Rc::new(Self {
            companions,
            state: RefCell::default(),
            news: Cell::new(0),
            wake: Notify::new(),
            told: RefCell::default(),
        })
    }
}

impl Core {
    /// Leaves what companions are to be told; starts a task for each one that has none.
    pub(super) fn tell_companions(&self, state: PartState, group: &Rc<Group>) {
        let Some(port) = &self.companions else { return };
        *port.state.borrow_mut() = Some(state);
        port.news.set(port.news.get() + 1);
        port.wake.notify_waiters();
        for gateway in self.machine.companions() {
            if port.told.borrow_mut().insert(gateway) {
                group.spawn_until_stopped(Box::pin(run(
                    Rc::clone(group),
                    Rc::clone(port),
                    gateway,
                )));
            }
        }
    }
}

/// What happens between parts, in the log.
pub(super) fn log(group: &str, note: &Note) {
    match note {
        Note::StretchJoined { number } => {
            tracing::info!(group, number, "all parts count on their mirrors");
        }
        Note::StretchEnded { by } => tracing::warn!(group, ?by, "parts stop at one cut"),
        Note::Excluded { gateway, excluded } => {
            tracing::warn!(group, %gateway, excluded, "companion");
        }
        Note::ExcludedBy { gateway } => {
            tracing::error!(group, %gateway, "excluded by a companion; hosts dropped");
        }
        _ => {}
    }
}

/// Tells a companion whatever is new, and asks it again and again, for as long as the group is open.
async fn run(group: Rc<Group>, port: Rc<CompanionPort>, gateway: GatewayId) {
    let pause = group.heartbeat.interval;
    loop {
        let news = port.news.get();
        let state = port.state.borrow().clone();
        if let Some(state) = state {
            let told = port.companions.tell(group.id, gateway, state);
            let event = match tokio::time::timeout(group.heartbeat.silence, told).await {
                Ok(Ok(state)) => {
                    Event::CompanionSaid { gateway, state: Box::new(state), answers: true }
                }
                Ok(Err(why)) => {
                    tracing::debug!(group = group.name, %gateway, why, "a companion did not answer");
                    Event::CompanionLost { gateway }
                }
                Err(_) => Event::CompanionLost { gateway },
            };
            let lost = matches!(event, Event::CompanionLost { .. });
            group.push_event(event);
            if lost {
                tokio::time::sleep(pause).await;
                continue;
            }
        }
        let woken = port.wake.notified();
        if port.news.get() == news {
            // Too late is as good as woken.
            drop(tokio::time::timeout(pause, woken).await);
        }
    }
}

impl Group {
    /// A companion tells how its part is; the answer is how this one is. Nothing while that is not
    /// recorded yet.
    pub fn hear_companion(
        self: &Rc<Self>,
        companion: GatewayId,
        state: PartState,
    ) -> Option<PartState> {
        let said =
            Event::CompanionSaid { gateway: companion, state: Box::new(state), answers: false };
        self.push_event(said);
        self.core.borrow().machine.part_state().filter(|state| state.facts.number > 0)
    }
}
