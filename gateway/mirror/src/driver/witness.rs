//! The witness: one task that asks it, and the licence of reads.
//!
//! ```text
//!   Effect::Arbitrate ─▶ claims ─┐
//!   Effect::Look, time ──────────┴─▶ one question at a time ─▶ Event::Arbitrated, WitnessSeen, WitnessLost
//! ```
//!
//! Invariant: questions follow one another, so an answer is never older than one before. A lease
//! counts from when its renewal was sent, on a clock that counts a suspended machine's sleep.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use block::{Claim, IoError, LegId, Request, Witness};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::members::{GONE, moved_down};
use super::{Core, Group};
use crate::machine::{Event, ReadLicence, Terms};

/// Who decides when sites do not see each other.
#[derive(Clone, Default)]
pub enum Arbitration {
    /// An operator; epochs make it safe to be wrong.
    #[default]
    Operator,
    /// An operator from now on, although the group was under a witness: that one is gone for good.
    Abandoned,
    /// A witness.
    Witness {
        /// How it is asked, from the group's thread.
        witness: Rc<dyn Witness>,
        /// How patient to be with it.
        terms: Terms,
    },
}

/// A read that waits for a licence.
struct HeldRead {
    volume: usize,
    request: Request,
    since_ms: u64,
}

/// The way to the witness, and what it licensed.
pub(super) struct WitnessPort {
    witness: Rc<dyn Witness>,
    terms: Terms,
    claims: RefCell<VecDeque<(u64, Claim)>>,
    look: Cell<bool>,
    wake: Notify,
    /// Until when the lease at the witness runs.
    lease_until: Cell<u64>,
    /// By leg: until when its mirror does not promote itself.
    mirrors_until: [Cell<u64>; LegId::COUNT],
    /// By leg: heartbeats without an answer, and when they were sent.
    pings: RefCell<[VecDeque<(u64, u64)>; LegId::COUNT]>,
    held: RefCell<Vec<HeldRead>>,
}

// === impl WitnessPort ===

impl WitnessPort {
    pub(super) fn new(witness: Rc<dyn Witness>, terms: Terms) -> Rc<Self> {
        Rc::new(Self {
            witness,
            terms,
            claims: RefCell::default(),
            look: Cell::new(true),
            wake: Notify::new(),
            lease_until: Cell::new(0),
            mirrors_until: [const { Cell::new(0) }; LegId::COUNT],
            pings: RefCell::default(),
            held: RefCell::default(),
        })
    }

    fn claim(&self, number: u64, claim: Claim) {
        self.claims.borrow_mut().push_back((number, claim));
        self.wake.notify_one();
    }

    fn look(&self) {
        self.look.set(true);
        self.wake.notify_one();
    }

    /// How long a lease that was asked for at `sent_ms` is counted on: a tenth less than it runs,
    /// for clocks that differ.
    fn counted(&self, sent_ms: u64) -> u64 {
        sent_ms + self.terms.lease_ms - self.terms.lease_ms / 10
    }

    pub(super) fn pinged(&self, leg: LegId, stamp: u64) {
        self.pings.borrow_mut()[leg.index()].push_back((stamp, self.witness.now_ms()));
    }

    pub(super) fn ponged(&self, leg: LegId, stamp: u64) {
        let pings = &mut self.pings.borrow_mut()[leg.index()];
        while let Some((sent, at_ms)) = pings.pop_front() {
            if sent == stamp {
                self.mirrors_until[leg.index()].set(self.counted(at_ms));
                break;
            }
        }
    }

    /// Another link to the mirror begins.
    pub(super) fn forget(&self, leg: LegId) {
        self.pings.borrow_mut()[leg.index()].clear();
        self.mirrors_until[leg.index()].set(0);
    }

    fn licenses(&self, licence: ReadLicence) -> bool {
        let now_ms = self.witness.now_ms();
        let leased = now_ms < self.lease_until.get();
        match licence {
            ReadLicence::Free => true,
            ReadLicence::Mirrors(mirrors) => {
                leased || mirrors.iter().all(|leg| now_ms < self.mirrors_until[leg.index()].get())
            }
            ReadLicence::Lease => leased,
            ReadLicence::Never => false,
        }
    }
}

/// Asks the witness, for as long as the group is open.
pub(super) async fn run(group: Rc<Group>, port: Rc<WitnessPort>) {
    let pause = Duration::from_millis(port.terms.lease_ms / 4);
    let mut next = Instant::now();
    loop {
        while let Some((number, claim)) = next_claim(&port) {
            let outcome = port.witness.swap(group.id, claim).await;
            // What was granted has a lease to be renewed, what was not may have a reason.
            port.look.set(true);
            group.push_event(Event::Arbitrated { number, outcome });
        }
        if port.look.replace(false) || Instant::now() >= next {
            look(&group, &port).await;
            next = Instant::now() + pause;
            continue;
        }
        // Too late is as good as woken.
        drop(tokio::time::timeout_at(next, port.wake.notified()).await);
    }
}

fn next_claim(port: &WitnessPort) -> Option<(u64, Claim)> {
    port.claims.borrow_mut().pop_front()
}

async fn look(group: &Rc<Group>, port: &WitnessPort) {
    let keep = group.core.borrow().machine.lease_to_keep();
    if keep.is_none() {
        port.lease_until.set(0);
    }
    let sent_ms = port.witness.now_ms();
    match port.witness.look(group.id, keep).await {
        Ok(sighting) => {
            if sighting.kept {
                port.lease_until.set(port.counted(sent_ms));
            }
            group.push_event(Event::WitnessSeen { sighting });
        }
        Err(error) => {
            tracing::debug!(group = group.name, %error, "the witness did not answer");
            group.push_event(Event::WitnessLost);
        }
    }
}

impl Core {
    /// Leaves a claim for the witness, or only asks what stands.
    pub(super) fn ask_witness(&self, claim: Option<(u64, Claim)>) {
        let Some(port) = &self.witness else { return };
        match claim {
            Some((number, claim)) => port.claim(number, claim),
            None => port.look(),
        }
    }

    /// Whether a read is not stale, as far as the witness is concerned. Asked once a batch.
    pub(super) fn is_licensed(&self) -> bool {
        self.witness.as_ref().is_none_or(|port| port.licenses(self.machine.read_licence()))
    }

    /// A read waits until it is licensed.
    pub(super) fn hold_read(&self, volume: usize, request: Request) {
        if let Some(port) = &self.witness {
            let since_ms = port.witness.now_ms();
            port.held.borrow_mut().push(HeldRead { volume, request, since_ms });
        }
    }

    /// Serves or refuses reads that waited.
    pub(super) fn release_reads(&mut self) {
        let Some(port) = self.witness.clone() else { return };
        if port.held.borrow().is_empty() {
            return;
        }
        let may_read = self.machine.may_read();
        let licensed = may_read && port.licenses(self.machine.read_licence());
        let now_ms = port.witness.now_ms();
        for held in port.held.take() {
            let late = now_ms.saturating_sub(held.since_ms) >= port.terms.hold_ms;
            if licensed {
                self.batches[held.volume].push(held.request);
            } else if !may_read {
                held.request.ticket.fail(IoError::Fenced);
            } else if late {
                held.request.ticket.fail(IoError::NoWitness);
            } else {
                port.held.borrow_mut().push(held);
            }
        }
    }

    /// A volume left: reads of it are refused, those behind it name another place.
    pub(super) fn held_reads_moved_down(&mut self, gone: usize) {
        let Some(port) = &self.witness else { return };
        for mut held in port.held.take() {
            held.volume = moved_down(held.volume, gone);
            if held.volume == GONE {
                held.request.ticket.fail(IoError::ShuttingDown);
            } else {
                port.held.borrow_mut().push(held);
            }
        }
    }

    /// The gateway stops: nobody waits for these any more.
    pub(super) fn refuse_held_reads(&self) {
        let held = self.witness.as_ref().map(|port| port.held.take());
        for held in held.into_iter().flatten() {
            held.request.ticket.fail(IoError::ShuttingDown);
        }
    }
}
