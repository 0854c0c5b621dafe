//! A witness in memory, with the faults of a network between it and who asks.
//!
//! Invariant: every question is answered at one moment, in the order in which questions arrive; a
//! question that gets no answer may have been answered all the same, or be answered later.

mod lies;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{
    Claim, GatewayId, GroupId, Keep, Revision, Sighting, Standing, Verdict, Witness, WitnessError,
    WitnessFuture,
};

pub use self::lies::Lie;

/// How long is waited for an answer that does not come.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Tells milliseconds.
pub type Millis = Rc<dyn Fn() -> u64>;

/// Does something later, whoever has given up meanwhile.
pub type Later = Rc<dyn Fn(Duration, Box<dyn FnOnce()>)>;

/// What becomes of a question that gets no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    #[default]
    Lost,
    /// It arrives; the answer is lost.
    Unanswered,
    /// It arrives this much later.
    Late(Duration),
}

/// The network between the witness and one gateway.
#[derive(Debug, Default)]
pub struct Faults {
    /// No answer comes.
    pub cut: Cell<bool>,
    /// What becomes of questions meanwhile.
    pub fate: Cell<Fate>,
    /// How long a question and an answer travel, each.
    pub travel: Cell<Duration>,
}

#[derive(Debug, Default)]
struct Entry {
    standing: Option<Standing>,
    alive: Option<(GatewayId, u64)>,
}

/// The witness.
pub struct MemoryWitness {
    groups: RefCell<BTreeMap<GroupId, Entry>>,
    revision: Cell<u64>,
    now_ms: Millis,
}

/// How one gateway asks it.
struct Way {
    witness: Rc<MemoryWitness>,
    now_ms: Millis,
    faults: Rc<Faults>,
    later: Later,
}

// === impl MemoryWitness ===

impl MemoryWitness {
    /// One that knows of no group; its own clock ends leases.
    #[must_use]
    pub fn new(now_ms: Millis) -> Rc<Self> {
        Rc::new(Self { groups: RefCell::default(), revision: Cell::new(0), now_ms })
    }

    /// A way to it for one gateway, whose clock this is.
    #[must_use]
    pub fn way(
        self: &Rc<Self>,
        now_ms: Millis,
        faults: Rc<Faults>,
        later: Later,
    ) -> Rc<dyn Witness> {
        Rc::new(Way { witness: Rc::clone(self), now_ms, faults, later })
    }

    /// What stands.
    #[must_use]
    pub fn standing(&self, group: GroupId) -> Option<Standing> {
        self.groups.borrow().get(&group).and_then(|entry| entry.standing.clone())
    }

    /// Loses everything, as a witness does whose disk was replaced.
    pub fn wipe(&self) {
        self.groups.borrow_mut().clear();
    }

    fn sight(&self, group: GroupId) -> Sighting {
        let now_ms = (self.now_ms)();
        let groups = self.groups.borrow();
        let Some(entry) = groups.get(&group) else { return Sighting::default() };
        let alive = entry.alive.filter(|(_, until)| now_ms < *until).map(|(gateway, _)| gateway);
        Sighting { standing: entry.standing.clone(), alive, kept: false }
    }

    fn look(&self, group: GroupId, keep: Option<Keep>) -> Sighting {
        let mut kept = false;
        if let (Some(keep), Some(standing)) = (keep, self.standing(group))
            && standing.revision == keep.revision
        {
            let until = (self.now_ms)() + keep.lease_ms;
            if let Some(entry) = self.groups.borrow_mut().get_mut(&group) {
                entry.alive = Some((keep.gateway, until));
                kept = true;
            }
        }
        Sighting { kept, ..self.sight(group) }
    }

    fn swap(&self, group: GroupId, claim: Claim) -> Verdict {
        let seen = self.sight(group);
        let stands = seen.standing.as_ref().map(|standing| standing.revision);
        if stands != claim.expected || (claim.unless_alive && seen.alive.is_some()) {
            return Verdict::Denied(seen);
        }
        self.revision.set(self.revision.get() + 1);
        let revision = Revision(self.revision.get());
        let mut groups = self.groups.borrow_mut();
        let entry = groups.entry(group).or_default();
        entry.standing = Some(Standing { revision, configuration: claim.next });
        Verdict::Granted(revision)
    }
}

impl Way {
    fn ask<T: 'static>(
        &self,
        question: impl FnOnce(&MemoryWitness) -> T + 'static,
    ) -> WitnessFuture<T> {
        let (witness, faults) = (Rc::clone(&self.witness), Rc::clone(&self.faults));
        let later = Rc::clone(&self.later);
        Box::pin(async move {
            tokio::time::sleep(faults.travel.get()).await;
            let mut answer = None;
            if !faults.cut.get() {
                answer = Some(question(&witness));
                tokio::time::sleep(faults.travel.get()).await;
            } else {
                match faults.fate.get() {
                    Fate::Lost => {}
                    Fate::Unanswered => drop(question(&witness)),
                    Fate::Late(after) => later(after, Box::new(move || drop(question(&witness)))),
                }
            }
            match answer.filter(|_| !faults.cut.get()) {
                Some(answer) => Ok(answer),
                None => {
                    tokio::time::sleep(PATIENCE).await;
                    Err(WitnessError::Unreachable("no answer".to_owned()))
                }
            }
        })
    }
}

impl Witness for Way {
    fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    fn look(&self, group: GroupId, keep: Option<Keep>) -> WitnessFuture<Sighting> {
        self.ask(move |witness| witness.look(group, keep))
    }

    fn swap(&self, group: GroupId, claim: Claim) -> WitnessFuture<Verdict> {
        self.ask(move |witness| witness.swap(group, claim))
    }
}

#[cfg(test)]
mod tests {
    use block::{Configuration, Epoch};

    use super::*;

    const GROUP: GroupId = GroupId::of(1);
    const EAST: GatewayId = GatewayId::of(2);

    fn claim(expected: Option<Revision>, epoch: u64) -> Claim {
        let (epoch, lease_ms) = (Epoch::new(epoch), 10);
        let next = Configuration { epoch, primary: EAST, in_sync: Vec::new(), lease_ms };
        Claim { expected, next, unless_alive: true }
    }

    #[test]
    fn only_the_expected_revision_is_replaced_and_a_lease_ends() {
        let now = Rc::new(Cell::new(5u64));
        let clock = Rc::clone(&now);
        let witness = MemoryWitness::new(Rc::new(move || clock.get()));
        let Verdict::Granted(first) = witness.swap(GROUP, claim(None, 1)) else { panic!() };
        assert!(matches!(witness.swap(GROUP, claim(None, 2)), Verdict::Denied(_)));
        let keep = Keep { gateway: EAST, revision: first, lease_ms: 10 };
        assert!(witness.look(GROUP, Some(keep)).kept);
        assert!(matches!(witness.swap(GROUP, claim(Some(first), 2)), Verdict::Denied(_)));
        now.set(15);
        assert_eq!(witness.look(GROUP, None).alive, None);
        assert!(matches!(witness.swap(GROUP, claim(Some(first), 2)), Verdict::Granted(_)));
        assert!(!witness.look(GROUP, Some(keep)).kept, "another configuration stands");
    }
}
