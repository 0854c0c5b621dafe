//! Everything that there is in one history.
//!
//! Invariant: the log is a function of the seed; the first violated property ends the history.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use block::{GatewayId, Geometry, GroupId, IoError, Link, Quality, SessionId, Store, VolumeId};
use mirror::machine::Note;
use mirror::{Consent, Group, HeartbeatTimes, found_primary, found_secondary};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::attachment::Attachment;
use crate::checks::Pair;
use crate::model::{Branch, Moment};
use crate::net::Net;
use crate::platter::Platter;
use crate::process::Process;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setup::Setup;
use crate::slow::{Pace, SlowLedger};
use crate::trace::{TracedLink, TracedStore};

pub(crate) const GROUP: GroupId = GroupId::of(1);
/// How much a volume may grow.
pub(crate) const GROWTH_BYTES: u64 = 256 << 10;

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which: its number in the list of [`crate::run`].
    pub property: &'static str,
    /// How it did not hold.
    pub text: String,
}

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Changes that were acknowledged.
    pub changes: u64,
    /// Of these, without a mirror.
    pub alone: u64,
    /// Reads that were compared.
    pub reads: u64,
    /// Flushes that were acknowledged.
    pub flushes: u64,
    /// Requests that failed, by error.
    pub errors: BTreeMap<String, u64>,
    /// Promotions by an operator that had to lose nothing, and did.
    pub promotions: u64,
    /// Planned swaps of roles.
    pub handovers: u64,
    /// Promotions after which writes that the old primary acknowledged alone may be gone.
    pub holes: u64,
    /// Promotions of a copy that was no point in time.
    pub forced: u64,
    /// Times that a mirror came to hold everything.
    pub joins: u64,
    /// Whole comparisons of both copies.
    pub comparisons: u64,
    /// Split brains that were told.
    pub split_brains: u64,
    /// Copies that an operator allowed to be discarded.
    pub discards: u64,
    /// Virtual milliseconds.
    pub millis: u64,
}

impl Stats {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.changes, other.changes),
            (&mut self.alone, other.alone),
            (&mut self.reads, other.reads),
            (&mut self.flushes, other.flushes),
            (&mut self.promotions, other.promotions),
            (&mut self.handovers, other.handovers),
            (&mut self.holes, other.holes),
            (&mut self.forced, other.forced),
            (&mut self.joins, other.joins),
            (&mut self.comparisons, other.comparisons),
            (&mut self.split_brains, other.split_brains),
            (&mut self.discards, other.discards),
            (&mut self.millis, other.millis),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// A gateway's place, which outlives its processes.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) gateway: GatewayId,
    pub(crate) platters: Vec<Rc<Platter>>,
    pub(crate) ledger: Rc<SlowLedger>,
    pub(crate) pace: Rc<Cell<Pace>>,
    pub(crate) usual_pace: Pace,
    pub(crate) host_boot: Cell<u128>,
    pub(crate) boots: Cell<u64>,
    pub(crate) clock_jump_ms: Cell<u64>,
    pub(crate) process: RefCell<Option<Rc<Process>>>,
    /// The content that this gateway serves or served, until it is overwritten from the other.
    pub(crate) branch: RefCell<Option<Rc<RefCell<Branch>>>>,
    /// Its power was lost while it had the primary's content.
    pub(crate) rolled_back: Cell<bool>,
    /// It was in sync when its power was lost, and nothing was changed since.
    pub(crate) intact: Cell<bool>,
    /// What an operator said when it was last promoted, and what its copy was then.
    pub(crate) promotion: Cell<Option<(Consent, Quality)>>,
    /// The process that was asked and did not answer yet.
    pub(crate) promoting: Cell<Option<u64>>,
    /// The highest epoch seen.
    pub(crate) epoch: Cell<u64>,
    /// It holds acknowledged changes that the other's branch lacks and nobody agreed to discard.
    pub(crate) unconsented: Cell<usize>,
}

/// Everything that there is.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) rng: Rc<Rng>,
    pub(crate) net: Rc<Net>,
    pub(crate) sites: [Site; 2],
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) heartbeat: HeartbeatTimes,
    pub(crate) sabotage: RefCell<Sabotage>,
    pub(crate) attachments: RefCell<Vec<Rc<Attachment>>>,
    pub(crate) pairs: RefCell<Vec<Pair>>,
    pub(crate) acked_epochs: RefCell<BTreeMap<u64, usize>>,
    pub(crate) stats: RefCell<Stats>,
    /// Hosts issue nothing for the time being.
    pub(crate) paused: Cell<bool>,
    /// Hosts issue nothing any more.
    pub(crate) stopped: Cell<bool>,
    pub(crate) log: RefCell<String>,
    pub(crate) failure: RefCell<Option<Failure>>,
    pub(crate) failed: Notify,
    count: Cell<Moment>,
    /// Virtual time, and how often tasks were polled without its passing.
    polls: Cell<(u64, u64)>,
    started: Instant,
    traced: bool,
    tasks: TaskTracker,
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Sabotage, traced: bool) -> Rc<Self> {
        let rng = Rc::new(Rng::new(seed));
        let setup = Setup::draw(&rng);
        let volumes: Vec<_> =
            (0..setup.volumes.len()).map(|n| VolumeId::of(n as u128 + 2)).collect();
        let site = |index: usize| {
            let pace = Rc::new(Cell::new(setup.pace[index]));
            let ledger = SlowLedger::new(Rc::clone(&pace), Rc::clone(&rng));
            ledger.lies.set(sabotage == Sabotage::RecordsLate);
            let names = volumes.clone();
            let first = block::Generation::of(u128::MAX);
            ledger.keep(vec![if index == 0 {
                found_primary(GROUP, "orders", names, first)
            } else {
                found_secondary(GROUP, "orders", names)
            }]);
            let platter =
                |bytes: &u64| Platter::new(Geometry::new(*bytes).expect("a size of a volume"));
            let limits: Vec<_> = setup.volumes.iter().map(|bytes| bytes + GROWTH_BYTES).collect();
            Site {
                name: ["east", "west"][index],
                gateway: GatewayId::of(index as u128 + 1),
                platters: setup.volumes.iter().map(platter).collect(),
                ledger,
                usual_pace: pace.get(),
                pace,
                host_boot: Cell::new(index as u128 + 1),
                boots: Cell::new(0),
                clock_jump_ms: Cell::new(0),
                process: RefCell::new(None),
                branch: RefCell::new(
                    (index == 0).then(|| Rc::new(RefCell::new(Branch::new(&limits)))),
                ),
                rolled_back: Cell::new(false),
                intact: Cell::new(false),
                promotion: Cell::new(None),
                promoting: Cell::new(None),
                epoch: Cell::new(0),
                unconsented: Cell::new(0),
            }
        };
        let sites = [site(0), site(1)];
        Rc::new(Self {
            net: Net::new(setup.path),
            sites,
            volumes,
            heartbeat: setup.heartbeat,
            sabotage: RefCell::new(sabotage),
            attachments: RefCell::default(),
            pairs: RefCell::default(),
            acked_epochs: RefCell::default(),
            stats: RefCell::default(),
            paused: Cell::new(false),
            stopped: Cell::new(false),
            log: RefCell::default(),
            failure: RefCell::default(),
            failed: Notify::new(),
            count: Cell::new(0),
            polls: Cell::new((0, 0)),
            started: Instant::now(),
            traced,
            tasks: TaskTracker::new(),
            setup,
            rng,
        })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(self.tasks.spawn_local(task));
    }

    /// The next moment: also the source of every name and value.
    pub(crate) fn count(&self) -> Moment {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a history is short")
    }

    pub(crate) fn log(&self, text: impl std::fmt::Display) {
        use std::fmt::Write as _;
        let line = writeln!(self.log.borrow_mut(), "{:>7} {text}", self.now_ms());
        line.expect("a string takes every line");
    }

    /// Tasks that wake each other for ever keep time from passing (P8).
    pub(crate) fn note_poll(&self) {
        let (at, polls) = self.polls.get();
        let now = self.now_ms();
        let polls = if at == now { polls + 1 } else { 0 };
        self.polls.set((now, polls));
        if polls > 200_000 {
            self.fail("P8", "tasks are polled again and again while no time passes".to_owned());
        }
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

    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        (0..self.volumes.len()).map(|n| SessionId::of(n as u128 + 50)).collect()
    }

    // --- looking ---

    pub(crate) fn trace_link(self: &Rc<Self>, site: usize, inner: Box<dyn Link>) -> Box<dyn Link> {
        if !self.traced {
            return inner;
        }
        Box::new(TracedLink { inner, world: Rc::downgrade(self), name: self.sites[site].name })
    }

    pub(crate) fn trace_store(
        self: &Rc<Self>,
        site: usize,
        volume: usize,
        inner: Rc<dyn Store>,
    ) -> Rc<dyn Store> {
        if !self.traced {
            return inner;
        }
        let name = format!("{} volume {volume}", self.sites[site].name);
        Rc::new(TracedStore { inner, world: Rc::downgrade(self), name })
    }

    // --- processes ---

    pub(crate) fn process(&self, site: usize) -> Option<Rc<Process>> {
        self.sites[site].process.borrow().clone()
    }

    pub(crate) fn group(&self, site: usize) -> Option<Rc<Group>> {
        self.process(site).and_then(|process| process.group())
    }

    pub(crate) fn start(self: &Rc<Self>, site: usize) {
        if self.process(site).is_some() {
            return;
        }
        self.log(format_args!("{} starts", self.sites[site].name));
        let process = Process::start(self, site);
        *self.sites[site].process.borrow_mut() = Some(process);
        self.look_at(site);
    }

    pub(crate) fn kill(&self, site: usize) {
        let Some(process) = self.sites[site].process.take() else { return };
        self.log(format_args!("{} is killed", self.sites[site].name));
        process.kill(self);
        self.attachments.borrow_mut().retain(|attachment| {
            if attachment.process.number == process.number {
                attachment.give_up(self);
                return false;
            }
            true
        });
    }

    pub(crate) fn lose_power(&self, site: usize) {
        let state = &self.sites[site];
        let in_sync = self.group(site).is_some_and(|g| g.status().quality == Quality::InSync);
        self.kill(site);
        self.log(format_args!("{} loses power", state.name));
        state.host_boot.set(state.host_boot.get() + 2);
        state.platters.iter().for_each(|platter| platter.lose_power(&self.rng));
        if state.branch.borrow().is_some() {
            state.rolled_back.set(true);
        }
        state.intact.set(in_sync);
    }

    /// Whether the group served there waits for its mirror.
    pub(crate) fn has_mirror(&self, process: &Process) -> bool {
        process.group().is_some_and(|g| g.status().legs.iter().any(|leg| leg.in_sync))
    }

    /// Whether what is acknowledged just now was acknowledged by a mirror too, that may have been
    /// lost in the same instant.
    fn was_mirrored(&self, process: &Process) -> bool {
        let Some(group) = process.group() else { return false };
        let status = group.status();
        let unprotected = status.counters.unprotected_writes;
        let (before, mut since) = process.unprotected.get();
        if unprotected != before {
            since = Some(self.now_ms());
            process.unprotected.set((unprotected, since));
        }
        let counted = !status.legs.is_empty() && since != Some(self.now_ms());
        counted || status.legs.iter().any(|leg| leg.in_sync)
    }

    /// A change was acknowledged: at which epoch, and whether a mirror has it (P4).
    pub(crate) fn note_acknowledged(&self, process: &Process, epoch: u64) -> bool {
        let mirrored = self.was_mirrored(process);
        let mut stats = self.stats.borrow_mut();
        stats.changes += 1;
        stats.alone += u64::from(!mirrored);
        drop(stats);
        let site = *self.acked_epochs.borrow_mut().entry(epoch).or_insert(process.site);
        if site != process.site {
            let name = self.sites[process.site].name;
            self.fail("P4", format!("{name} acknowledges too at epoch {epoch}"));
        }
        mirrored
    }

    pub(crate) fn count_error(&self, error: IoError) {
        *self.stats.borrow_mut().errors.entry(format!("{error:?}")).or_default() += 1;
    }

    /// A host is gone and everything that it asked was answered.
    pub(crate) fn forget(&self, gone: &Rc<Attachment>) {
        self.attachments.borrow_mut().retain(|attachment| !Rc::ptr_eq(attachment, gone));
    }

    // --- what groups tell ---

    pub(crate) fn on_note(self: &Rc<Self>, site: usize, process: u64, note: &Note) {
        let name = self.sites[site].name;
        self.log(format_args!("{name}: {note:?}"));
        match note {
            Note::Promoted => self.on_promoted(site),
            Note::MirrorInSync { .. } => self.on_joined(site),
            Note::Fenced => self.on_fenced(site, process),
            Note::SplitBrain { .. } => {
                self.stats.borrow_mut().split_brains += 1;
                // From here on everybody knows that something must be discarded.
                self.sites.iter().for_each(|site| site.unconsented.set(0));
            }
            Note::MirrorLost { .. }
            | Note::Demoted
            | Note::Detached(_)
            | Note::Mismatch { .. }
            | Note::Verified { .. }
            | Note::MirrorFollows { .. }
            | Note::Degraded { .. }
            | Note::Transferred { .. }
            | Note::FencedOff { .. }
            | Note::TakesOver
            | Note::Witness { .. }
            | Note::Latched { .. } => {}
        }
    }

    /// P5: hosts are dropped first, and nothing is acknowledged afterwards.
    fn on_fenced(self: &Rc<Self>, site: usize, process: u64) {
        let kept = Rc::clone(self);
        self.spawn(async move { kept.check_fence(site) });
        let attachments: Vec<_> = self.attachments.borrow().clone();
        for attachment in attachments.iter().filter(|a| a.process.number == process) {
            attachment.fence();
            if !attachment.token.is_cancelled() {
                self.fail("P5", format!("host {} is attached after the fence", attachment.host));
            }
        }
    }
}
