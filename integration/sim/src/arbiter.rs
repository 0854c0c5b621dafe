//! The witness of a history: how each gateway asks it, and what it must prevent.
//!
//! Invariant: under a witness, what an operator did not consent to is lawful: from the moment at
//! which a gateway is promoted so, nobody of a lower epoch answers what is asked of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::Epoch;
use mirror::machine::Terms;
use mirror::{Arbitration, Consent};
use tokio::time::Instant;
use witness::memory::{Faults, Later, MemoryWitness, Millis};

use crate::attachment::Pending;
use crate::model::Moment;
use crate::process::Process;
use crate::setup::Voice;
use crate::site::Promotion;
use crate::world::{GROUP, World};

/// A promotion that the witness permitted.
#[derive(Clone, Copy, Debug)]
struct Lawful {
    at: Moment,
    epoch: u64,
    site: usize,
}

/// The witness, and what it permitted.
pub(crate) struct Arbiter {
    truth: Rc<MemoryWitness>,
    voice: Voice,
    lawful: RefCell<Vec<Lawful>>,
    /// The highest epoch that an operator consented to.
    consented: Cell<u64>,
}

// === impl Arbiter ===

impl Arbiter {
    pub(crate) fn new(voice: Voice) -> Self {
        let started = Instant::now();
        let now_ms: Millis = Rc::new(move || millis(started));
        let truth = MemoryWitness::new(now_ms);
        Self { truth, voice, lawful: RefCell::default(), consented: Cell::new(0) }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).expect("a history is short")
}

/// What the network between a gateway and the witness is like while it works.
pub(crate) fn faults() -> Rc<Faults> {
    let faults = Faults::default();
    faults.travel.set(Duration::from_millis(2));
    Rc::new(faults)
}

impl World {
    /// Who decides at a gateway that starts.
    pub(crate) fn arbitration(self: &Rc<Self>, site: usize) -> Arbitration {
        let Some(arbiter) = &self.arbiter else { return Arbitration::Operator };
        let state = &self.sites[site];
        let (world, started) = (Rc::downgrade(self), Instant::now());
        let before_ms = self.now_ms();
        let now_ms: Millis = Rc::new(move || {
            let slept = world.upgrade().map_or(0, |world| world.sites[site].slept_ms.get());
            before_ms + millis(started) + slept
        });
        let world = Rc::downgrade(self);
        let later: Later = Rc::new(move |after, what| {
            if let Some(world) = world.upgrade() {
                world.spawn(async move {
                    tokio::time::sleep(after).await;
                    what();
                });
            }
        });
        let way = arbiter.truth.way(now_ms, Rc::clone(&state.witness), later);
        let witness = self.sabotage.witness(state.gateway, way, &arbiter.truth);
        let Voice { lease_ms, hold_ms, failover_after_ms, .. } = arbiter.voice;
        let terms = Terms { gateway: state.gateway, lease_ms, hold_ms, failover_after_ms };
        Arbitration::Witness { witness, terms }
    }

    /// A mirror promotes itself: what it is just before.
    pub(crate) fn note_takeover(self: &Rc<Self>, site: usize, process: u64) {
        self.happened("a mirror promotes itself");
        let kept = Rc::clone(self);
        // The group cannot be asked in the middle of what it tells. The witness answers later.
        self.spawn(async move {
            let current = kept.process(site).filter(|current| current.number == process);
            let Some(group) = current.and_then(|current| current.group()) else { return };
            let status = group.status();
            let from = status.upstream.and_then(|upstream| kept.site_of(upstream.gateway));
            let state = &kept.sites[site];
            let truth = kept.arbiter.as_ref().and_then(|arbiter| arbiter.truth.standing(GROUP));
            let granted = truth.is_some_and(|t| t.configuration.primary == state.gateway);
            // It finishes what an operator began, and consented to.
            let consent = if granted { state.consented.get() } else { Consent::InSync };
            let quality = status.quality;
            let promotion = Promotion { consent, quality, kept: None, from, unheard: true };
            state.promotion.set(Some(promotion));
        });
    }

    /// Whether a promotion is one that the witness permitted: it loses nothing.
    pub(crate) fn is_lawful(&self, promotion: Option<Promotion>) -> bool {
        self.arbiter.is_some() && promotion.is_none_or(|p| p.consent == Consent::InSync)
    }

    /// A gateway was promoted.
    pub(crate) fn note_ruler(self: &Rc<Self>, site: usize, promotion: Option<Promotion>) {
        if self.arbiter.is_none() {
            return;
        }
        let (at, lawful) = (self.count(), self.is_lawful(promotion));
        let kept = Rc::clone(self);
        self.spawn(async move {
            let Some(group) = kept.group(site) else { return };
            let (Some(arbiter), epoch) = (&kept.arbiter, group.status().epoch.get()) else {
                return;
            };
            if lawful {
                kept.happened("a promotion that the witness permits");
                arbiter.lawful.borrow_mut().push(Lawful { at, epoch, site });
            } else {
                arbiter.consented.set(epoch.max(arbiter.consented.get()));
            }
        });
    }

    /// The epoch that the witness knows, if there is one.
    pub(crate) fn granted_epoch(&self) -> Option<Epoch> {
        let standing = self.arbiter.as_ref()?.truth.standing(GROUP)?;
        Some(standing.configuration.epoch)
    }

    /// P4: nobody answers what is asked of it after another was promoted with the word of the
    /// witness. An operator's consent to something else takes that promise back.
    pub(crate) fn check_superseded(&self, process: &Process, epoch: u64, pending: &Pending) {
        let Some(arbiter) = &self.arbiter else { return };
        if epoch < arbiter.consented.get() {
            return;
        }
        let above = |lawful: &&Lawful| {
            lawful.epoch > epoch && lawful.at < pending.since && lawful.site != process.site
        };
        if let Some(lawful) = arbiter.lawful.borrow().iter().find(above) {
            let [old, new] = [process.site, lawful.site].map(|site| self.sites[site].name);
            let text = format!(
                "{old} answers {:?} at epoch {epoch}, {new} was promoted to {} before",
                pending.asked, lawful.epoch
            );
            self.fail("P4", text);
        }
    }
}
