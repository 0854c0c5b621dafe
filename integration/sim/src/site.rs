//! A gateway's place, which outlives its processes.
//!
//! Invariant: what stands here is what the checks know of a site; no process sees it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use block::{GatewayId, Generation, Quality, VolumeId};
use mirror::{Consent, found_primary, found_secondary};
use witness::memory::Faults;

use crate::arbiter;
use crate::disks::Disks;
use crate::model::{Branch, Moment};
use crate::points::Points;
use crate::process::Process;
use crate::sabotage::Sabotage;
use crate::setup::Setup;
use crate::slow::Pace;
use crate::world::{GROUP, GROWTH_BYTES};

/// The content that a gateway serves.
pub(crate) type Served = Rc<RefCell<Branch>>;

/// A promotion without the old primary, as the copy was just before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promotion {
    pub(crate) consent: Consent,
    pub(crate) quality: Quality,
    /// What the point is worth that it kept.
    pub(crate) kept: Option<Quality>,
    /// Whom it followed.
    pub(crate) from: Option<usize>,
    /// Nobody hears whether it comes about: the mirror began it by itself, or could not record it.
    pub(crate) unheard: bool,
}

/// A gateway's place.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) gateway: GatewayId,
    pub(crate) disks: Disks,
    pub(crate) pace: Rc<Cell<Pace>>,
    pub(crate) usual_pace: Pace,
    pub(crate) host_boot: Cell<u128>,
    /// What its clock is ahead of the time that passes, in milliseconds.
    pub(crate) clock_ms: Cell<i64>,
    /// For how long its machine slept although no time passed, in milliseconds.
    pub(crate) slept_ms: Cell<u64>,
    /// The network between it and the witness.
    pub(crate) witness: Rc<Faults>,
    /// The witness refused to have it promoted when an operator asked last.
    pub(crate) unnamed: Cell<bool>,
    /// The next thing that it says makes no sense.
    pub(crate) babbles: Cell<bool>,
    /// There is no room where its send journals spill to.
    pub(crate) journal_full: Cell<bool>,
    /// By volume: somebody deleted it.
    pub(crate) gone: Vec<Rc<Cell<bool>>>,
    pub(crate) process: RefCell<Option<Rc<Process>>>,
    /// Who belongs to the group, as its gateway knows it.
    pub(crate) members: RefCell<Vec<usize>>,
    /// Its copy is open to hosts on its own.
    pub(crate) detached: Cell<bool>,
    /// An operator allowed what its copy has on its own to be discarded.
    pub(crate) discardable: Cell<bool>,
    /// The content that this gateway serves or served, until it is overwritten from another.
    pub(crate) branch: RefCell<Option<Served>>,
    /// The content that it handed over to another, until it joins that one.
    pub(crate) handed: RefCell<Option<Served>>,
    /// The content that it joined last as a mirror, and whose.
    pub(crate) follows: RefCell<Option<Served>>,
    /// The content that a primary asked it to join last. That it did may be heard by nobody.
    pub(crate) offered: RefCell<Option<Served>>,
    /// The cuts one of which it may keep.
    pub(crate) points: RefCell<Points>,
    /// Since when its copy may be overwritten out of order: of what was acknowledged later, the point
    /// that it kept then has nothing for sure.
    pub(crate) overwritten: Cell<Option<Moment>>,
    /// It was asked to go back to a cut. It may have done so although it was not promoted then.
    pub(crate) at_point: Cell<bool>,
    /// Its power was lost while it had the primary's content.
    pub(crate) rolled_back: Cell<bool>,
    /// It was in sync when its power was lost, and nothing was changed since.
    pub(crate) intact: Cell<bool>,
    /// Volumes that left the group and joined it again since it was in sync: it may hold them as they
    /// were when they left.
    pub(crate) dated: RefCell<BTreeSet<usize>>,
    /// A sync of its disk had failed when its process was killed, and there was no time to record
    /// that: it does not know that its copy may lack what was not flushed.
    pub(crate) unaware: Cell<bool>,
    /// What an operator said when it was last promoted, and what its copy was then.
    pub(crate) promotion: Cell<Option<Promotion>>,
    /// The most that an operator consented to when it was to be promoted: a witness may have granted it
    /// although nobody heard so.
    pub(crate) consented: Cell<Consent>,
    /// The process that was asked and did not answer yet.
    pub(crate) promoting: Cell<Option<u64>>,
    /// The highest epoch seen.
    pub(crate) epoch: Cell<u64>,
    /// It holds so many acknowledged changes that the branch of each site lacks, and nobody agreed
    /// to discard.
    pub(crate) unconsented: Cell<[usize; 3]>,
}

impl Site {
    /// The first site is the primary that founds the group.
    pub(crate) fn new(
        index: usize,
        setup: &Setup,
        volumes: &[(VolumeId, u64)],
        sabotage: Sabotage,
    ) -> Self {
        let names = volumes.iter().take(setup.founding).map(|(id, _)| *id).collect();
        let record = if index == 0 {
            found_primary(GROUP, "orders", names, Generation::of(u128::MAX))
        } else {
            found_secondary(GROUP, "orders", names)
        };
        let limits: Vec<_> = volumes.iter().map(|(_, bytes)| bytes + GROWTH_BYTES).collect();
        let branch = (index == 0).then(|| Rc::new(RefCell::new(Branch::new(&limits))));
        let pace = setup.pace[index];
        Self {
            name: ["east", "west", "north"][index],
            gateway: GatewayId::of(index as u128 + 1),
            disks: Disks::new(setup.pool, sabotage.medium(), volumes, record),
            usual_pace: pace,
            pace: Rc::new(Cell::new(pace)),
            host_boot: Cell::new(index as u128 + 1),
            clock_ms: Cell::new(0),
            slept_ms: Cell::new(0),
            witness: arbiter::faults(),
            unnamed: Cell::new(false),
            babbles: Cell::new(false),
            journal_full: Cell::new(false),
            gone: volumes.iter().map(|_| Rc::default()).collect(),
            process: RefCell::new(None),
            members: RefCell::new((0..setup.founding).collect()),
            detached: Cell::new(false),
            discardable: Cell::new(false),
            branch: RefCell::new(branch),
            handed: RefCell::default(),
            follows: RefCell::default(),
            offered: RefCell::default(),
            points: RefCell::default(),
            overwritten: Cell::new(None),
            at_point: Cell::new(false),
            rolled_back: Cell::new(false),
            intact: Cell::new(false),
            dated: RefCell::default(),
            unaware: Cell::new(false),
            promotion: Cell::new(None),
            consented: Cell::new(Consent::InSync),
            promoting: Cell::new(None),
            epoch: Cell::new(0),
            unconsented: Cell::new([0; 3]),
        }
    }
}
