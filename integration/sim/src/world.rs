//! Everything that there is in one history.
//!
//! Invariant: the log is a function of the seed; the first violated property ends the history.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use block::{GatewayId, GroupId, IoError, LegId, Link, Mode, Quality, SessionId, Store, VolumeId};
use mirror::machine::Note;
use mirror::{Group, HeartbeatTimes, LegStatus};

use crate::arbiter::Arbiter;
use crate::attachment::Attachment;
use crate::chain::Chain;
use crate::delta::Delta;
use crate::model::Sites;
use crate::net::Net;
use crate::process::Process;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setup::{Modes, Setup};
use crate::site::Site;
use crate::snapshots::Wish;
use crate::tap::Tapped;
use crate::telling::Telling;
use crate::trace::{LinkLog, TracedStore};

pub(crate) const GROUP: GroupId = GroupId::of(1);
/// When every history begins, in Unix milliseconds.
pub(crate) const EPOCH_MS: u64 = 1_000_000_000_000;
/// How much a volume may grow.
pub(crate) const GROWTH_BYTES: u64 = 256 << 10;

/// Within this time a latched copy is recorded as one, also on a disk that is slow.
const RECORDED_MS: u64 = 5_000;

/// Everything that there is.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) rng: Rc<Rng>,
    pub(crate) net: Rc<Net>,
    pub(crate) sites: Vec<Site>,
    pub(crate) volumes: Vec<VolumeId>,
    /// What two sites may differ in, by the lower and the higher of them (P9).
    pub(crate) deltas: RefCell<BTreeMap<(usize, usize), Delta>>,
    pub(crate) heartbeat: HeartbeatTimes,
    pub(crate) arbiter: Option<Arbiter>,
    pub(crate) sabotage: Sabotage,
    pub(crate) attachments: RefCell<Vec<Rc<Attachment>>>,
    pub(crate) chains: RefCell<Vec<Chain>>,
    /// The snapshots that were asked for.
    pub(crate) wishes: RefCell<Vec<Wish>>,
    pub(crate) acked_epochs: RefCell<BTreeMap<u64, usize>>,
    /// A mirror took nothing for a long while.
    pub(crate) stood_still: Cell<bool>,
    /// Hosts issue nothing for the time being.
    pub(crate) paused: Cell<bool>,
    /// Hosts issue nothing any more.
    pub(crate) stopped: Cell<bool>,
    /// The primary that handed over last, or tried to.
    pub(crate) yielding: Cell<Option<usize>>,
    traced: bool,
    telling: Telling,
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

impl World {
    pub(crate) fn new((seed, modes): (u64, Modes), sabotage: Sabotage, traced: bool) -> Rc<Self> {
        let rng = Rc::new(Rng::new(seed));
        let setup = Setup::draw((seed, &rng), modes);
        let volumes: Vec<_> =
            (0..setup.volumes.len()).map(|n| VolumeId::of(n as u128 + 2)).collect();
        let sized: Vec<_> = volumes.iter().copied().zip(setup.volumes.iter().copied()).collect();
        let site = |index| Site::new(index, &setup, &sized, sabotage);
        let sites: Vec<_> = (0..setup.sites).map(site).collect();
        Rc::new(Self {
            net: Net::new(setup.sites, setup.path),
            sites,
            volumes,
            heartbeat: setup.heartbeat,
            arbiter: setup.voice.map(Arbiter::new),
            deltas: RefCell::default(),
            sabotage,
            attachments: RefCell::default(),
            chains: RefCell::default(),
            wishes: RefCell::default(),
            acked_epochs: RefCell::default(),
            stood_still: Cell::new(false),
            paused: Cell::new(false),
            stopped: Cell::new(false),
            yielding: Cell::new(None),
            traced,
            telling: Telling::new(),
            setup,
            rng,
        })
    }

    /// What a clock says that nobody sets.
    pub(crate) fn lock_ms(&self) -> u64 {
        EPOCH_MS + self.now_ms()
    }

    /// The sessions from a site to another.
    pub(crate) fn sessions(&self, site: usize, to: usize) -> Vec<SessionId> {
        let first = 50 + to as u128 * 10;
        (0..self.members(site).len()).map(|n| SessionId::of(n as u128 + first)).collect()
    }

    // --- looking ---

    pub(crate) fn trace_link(self: &Rc<Self>, site: usize, inner: Box<dyn Link>) -> Box<dyn Link> {
        if !self.traced {
            return inner;
        }
        let log = LinkLog { world: Rc::downgrade(self), name: self.sites[site].name };
        Box::new(Tapped::new(inner, log))
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

    /// Every site but one.
    pub(crate) fn others(&self, site: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.sites.len()).filter(move |other| *other != site)
    }

    /// The site of a gateway.
    pub(crate) fn site_of(&self, gateway: GatewayId) -> Option<usize> {
        self.sites.iter().position(|site| site.gateway == gateway)
    }

    pub(crate) fn start(self: &Rc<Self>, site: usize) {
        if self.process(site).is_some() {
            return;
        }
        let state = &self.sites[site];
        self.log(format_args!("{} starts", state.name));
        let deleted = state.gone.iter().any(|gone| gone.get());
        let impaired = state.disks.is_impaired() || deleted;
        let started = catch_unwind(AssertUnwindSafe(|| Process::start(self, site)));
        let started = match started {
            Ok(started) => started,
            Err(panic) => {
                self.fail(
                    "P10",
                    format!("panic of {} as it starts: {}", state.name, words(&*panic)),
                );
                return;
            }
        };
        match started {
            Ok(process) => {
                *state.process.borrow_mut() = Some(process);
                state.promoting.set(None);
                self.look_at(site);
            }
            Err(error) if impaired => {
                self.log(format_args!("{} cannot start: {error}", state.name));
                let sync_failed = state.disks.sync_failed();
                if sync_failed {
                    // What it should have made durable may be gone, as in a loss of power.
                    self.log(format_args!("{}: a sync failed as it started", state.name));
                    let serves = state.branch.borrow().is_some();
                    state.rolled_back.set(state.rolled_back.get() || serves);
                    state.disks.kill();
                }
                self.happened(if deleted {
                    "a gateway whose volume was deleted refuses to open the group"
                } else if sync_failed {
                    "a sync fails as a gateway starts"
                } else {
                    "a disk without room refuses the start"
                });
                let kept = Rc::clone(self);
                let pause = self.rng.millis(200, 1_000);
                self.spawn(async move {
                    tokio::time::sleep(pause).await;
                    kept.start(site);
                });
            }
            Err(error) => self.fail("P10", format!("{} cannot start: {error}", state.name)),
        }
    }

    pub(crate) fn kill(&self, site: usize) {
        let state = &self.sites[site];
        let in_sync = self.is_in_sync(site);
        let Some(process) = state.process.take() else { return };
        self.log(format_args!("{} is killed", state.name));
        process.kill(self);
        if state.disks.sync_failed() {
            // What a failed sync left behind ends like what a loss of power leaves behind.
            self.log(format_args!("{}: a sync had failed", state.name));
            state.rolled_back.set(state.rolled_back.get() || state.branch.borrow().is_some());
            state.intact.set(in_sync);
            let recorded =
                process.latched_ms.get().is_some_and(|at| at + RECORDED_MS < self.now_ms());
            state.unaware.set(state.unaware.get() || (in_sync && !recorded));
        }
        state.disks.kill();
        self.attachments.borrow_mut().retain(|attachment| {
            if attachment.process.number == process.number {
                attachment.give_up(self);
                return false;
            }
            true
        });
    }

    fn is_in_sync(&self, site: usize) -> bool {
        self.group(site).is_some_and(|group| group.status().quality == Quality::InSync)
    }

    pub(crate) fn lose_power(&self, site: usize) {
        let state = &self.sites[site];
        let in_sync = self.is_in_sync(site);
        if self.rng.chance(40) && self.process(site).is_some() {
            self.happened("power is lost in the middle of a write");
            state.disks.falter(&self.rng);
        }
        self.kill(site);
        self.log(format_args!("{} loses power", state.name));
        self.happened("a site loses power");
        if self.sabotage != Sabotage::UncleanIsPromotable {
            state.host_boot.set(state.host_boot.get() + 16);
        }
        state.disks.lose_power(&self.rng);
        if state.branch.borrow().is_some() {
            state.rolled_back.set(true);
        }
        state.intact.set(in_sync);
    }

    /// The sites that have what is acknowledged by the group served there just now, also when they
    /// were lost in the same instant.
    pub(crate) fn holders(&self, process: &Process) -> Sites {
        let own = Sites::one(process.site);
        let Some(group) = process.group() else { return own };
        let status = group.status();
        let unprotected = status.counters.unprotected_writes;
        let (before, mut since) = process.unprotected.get();
        if unprotected != before {
            since = Some(self.now_ms());
            process.unprotected.set((unprotected, since));
        }
        let all = !status.legs.is_empty() && since != Some(self.now_ms());
        // Nothing waits for a mirror that follows behind.
        let counts = |leg: &LegStatus| leg.policy.mode == Mode::Sync && !leg.degraded;
        let legs = status.legs.iter().filter(|leg| (all && counts(leg)) || leg.in_sync);
        let sites = legs.filter_map(|leg| self.site_of(leg.gateway)).map(Sites::one);
        sites.fold(own, Sites::with)
    }

    /// The sites that a flush which is acknowledged just now made everything durable at.
    pub(crate) fn flushers(&self, process: &Process) -> Sites {
        let own = Sites::one(process.site);
        let Some(group) = process.group() else { return own };
        let status = group.status();
        let legs = status.legs.iter().filter(|leg| leg.in_sync);
        let sites = legs.filter_map(|leg| self.site_of(leg.gateway)).map(Sites::one);
        sites.fold(own, Sites::with)
    }

    /// A change was acknowledged: at which epoch, and who has it (P4).
    pub(crate) fn note_acknowledged(&self, process: &Process, epoch: u64) -> Sites {
        let holders = self.holders(process);
        let mut stats = self.stats.borrow_mut();
        stats.changes += 1;
        stats.alone += u64::from(holders.count() == 1);
        drop(stats);
        let site = *self.acked_epochs.borrow_mut().entry(epoch).or_insert(process.site);
        if site != process.site {
            let name = self.sites[process.site].name;
            self.fail("P4", format!("{name} acknowledges too at epoch {epoch}"));
        }
        holders
    }

    /// A fault, or something else of [`crate::FAULTS`], happened.
    pub(crate) fn happened(&self, fault: &'static str) {
        self.happened_quietly(fault);
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
            Note::Promoted => {
                self.on_promoted(site);
                // The group cannot be asked in the middle of what it tells.
                let kept = Rc::clone(self);
                self.spawn(async move { kept.look_at(site) });
            }
            Note::MirrorInSync { leg } => self.on_leg_joined(site, process, *leg),
            Note::MirrorFollows { leg } => {
                if let Some(joined) = self.leg_site(site, process, *leg) {
                    self.check_delta(site, joined, *leg, false);
                }
            }
            Note::Fenced => self.on_fenced(site, process),
            Note::SplitBrain { .. } => {
                self.stats.borrow_mut().split_brains += 1;
                // From here on everybody knows that something must be discarded.
                self.sites.iter().for_each(|site| site.unconsented.set([0; 3]));
            }
            Note::MirrorLost { .. } => {
                if let Some(process) = self.process(site).filter(|found| found.number == process) {
                    process.lost_ms.set(Some(self.now_ms()));
                }
            }
            Note::Mismatch { leg, volume, blocks } => {
                let text = format!("{name}: {blocks} blocks of volume {volume} differ at {leg:?}");
                self.fail("P2", text);
            }
            Note::Latched { .. } => {
                if let Some(process) = self.process(site).filter(|found| found.number == process) {
                    process.latched_ms.set(Some(self.now_ms()));
                }
            }
            Note::StretchJoined { .. }
            | Note::StretchEnded { .. }
            | Note::Excluded { .. }
            | Note::ExcludedBy { .. } => {}
            Note::TakesOver => self.note_takeover(site, process),
            Note::Demoted => self.yielding.set(Some(site)),
            Note::Detached(true) => self.on_detached(site),
            Note::Detached(false)
            | Note::Verified { .. }
            | Note::Degraded { .. }
            | Note::SnapshotTaken { .. }
            | Note::SnapshotMissed { .. }
            | Note::RolledBack { .. }
            | Note::Transferred { .. }
            | Note::FencedOff { .. }
            | Note::Witness { .. } => {}
        }
    }

    fn leg_site(&self, site: usize, process: u64, leg: LegId) -> Option<usize> {
        let current = self.process(site).filter(|current| current.number == process);
        current.and_then(|current| current.leg_site(leg))
    }

    /// A mirror joined: which site that is, its process was told when it dialled.
    fn on_leg_joined(self: &Rc<Self>, site: usize, process: u64, leg: LegId) {
        if let Some(joined) = self.leg_site(site, process, leg) {
            self.on_joined(site, joined);
            self.check_delta(site, joined, leg, true);
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

impl Deref for World {
    type Target = Telling;

    fn deref(&self) -> &Telling {
        &self.telling
    }
}
