//! One host's connection to one start of a gateway.
//!
//! Invariant: every request is answered exactly once while the process lives, and nothing is
//! acknowledged after the fence. What was unanswered when the process died is over at that moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use block::{Answer, Completion, Completions, Extent, IoError, Segment};
use mirror::{Group, Serving};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::{Branch, Moment, OpId, Sites};
use crate::platter::SECTOR_BYTES;
use crate::process::Process;
use crate::world::World;

/// What a request was.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A change; by a host that writes in dependent steps, with the step.
    Change {
        op: OpId,
        extent: Extent,
        fua: bool,
        step: Option<(usize, usize)>,
        /// Nobody mirrors the group: it goes straight to its store, and comes straight back.
        plain: bool,
    },
    Read {
        extent: Extent,
    },
    Flush,
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) asked: Asked,
    pub(crate) volume: usize,
    pub(crate) since: Moment,
    pub(crate) at: Instant,
}

impl Pending {
    fn is_plain(&self) -> bool {
        match self.asked {
            Asked::Change { plain, .. } => plain,
            Asked::Read { .. } => true,
            Asked::Flush => false,
        }
    }
}

/// One host's connection.
pub(crate) struct Attachment {
    pub(crate) host: usize,
    pub(crate) process: Rc<Process>,
    pub(crate) queue: Rc<Completions>,
    pub(crate) token: CancellationToken,
    pub(crate) branch: Rc<RefCell<Branch>>,
    /// The epoch at which the gateway serves; a new one comes with a new attachment.
    epoch: u64,
    /// The copy is open on its own: what it acknowledges is no primary's.
    detached: bool,
    pub(crate) pending: RefCell<BTreeMap<u64, Pending>>,
    /// The gateway learned of a higher epoch: whatever is acknowledged after that is wrong.
    pub(crate) fenced: Cell<bool>,
    /// The host went away; answers no longer matter to it.
    pub(crate) left: Cell<bool>,
    /// Answers that came before the fence and were not looked at yet.
    early: RefCell<Vec<Completion>>,
    /// Told when something was answered.
    pub(crate) freed: Notify,
    tags: Cell<u64>,
}

impl Attachment {
    pub(crate) fn new(
        host: usize,
        process: Rc<Process>,
        group: &Group,
        branch: Rc<RefCell<Branch>>,
    ) -> Rc<Self> {
        let status = group.status();
        let (token, epoch) = (group.hosts(), status.epoch.get());
        Rc::new(Self {
            epoch,
            detached: status.serving == Serving::Detached,
            host,
            process,
            queue: Completions::new(),
            token,
            branch,
            pending: RefCell::default(),
            fenced: Cell::new(false),
            left: Cell::new(false),
            early: RefCell::default(),
            freed: Notify::new(),
            tags: Cell::new(0),
        })
    }

    /// Notes a request; returns its tag.
    pub(crate) fn ask(&self, world: &World, volume: usize, asked: Asked) -> u64 {
        let tag = self.tags.get() + 1;
        self.tags.set(tag);
        let pending = Pending { asked, volume, since: world.count(), at: Instant::now() };
        self.pending.borrow_mut().insert(tag, pending);
        tag
    }

    fn give_up_one(&self, pending: &Pending, now: Moment) {
        if let Asked::Change { op, .. } = pending.asked {
            self.branch.borrow_mut().give_up(now, op);
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.borrow().is_empty()
    }

    /// The process died, or the host left: nothing that is unanswered will be acknowledged to it.
    pub(crate) fn give_up(&self, world: &World) {
        let now = world.count();
        self.pending.borrow().values().for_each(|pending| self.give_up_one(pending, now));
    }

    /// The gateway is fenced from this moment on.
    pub(crate) fn fence(&self) {
        self.queue.take(&mut self.early.borrow_mut());
        self.fenced.set(true);
    }

    /// Looks at every answer as soon as it comes, until the process dies or nobody asks any more.
    pub(crate) async fn watch(self: Rc<Self>, world: Rc<World>) {
        while self.process.is_alive() && !world.has_failed() {
            let ready = poll_fn(|context| self.queue.poll_ready(context));
            drop(tokio::time::timeout(Duration::from_millis(500), ready).await);
            if self.process.is_alive() {
                self.drain(&world);
            }
            if self.left.get() && self.is_quiet() {
                world.forget(&self);
                return;
            }
        }
    }

    /// Takes what was answered.
    fn drain(&self, world: &Rc<World>) {
        let mut answers = std::mem::take(&mut *self.early.borrow_mut());
        let early = answers.len();
        self.queue.take(&mut answers);
        for (number, Completion { tag, result }) in answers.into_iter().enumerate() {
            self.freed.notify_one();
            let Some(pending) = self.pending.borrow_mut().remove(&tag) else {
                world.fail("P8", format!("host {} was answered twice", self.host));
                return;
            };
            let late = self.fenced.get() && number >= early;
            self.answered(world, &pending, result, late);
        }
    }

    fn answered(
        &self,
        world: &Rc<World>,
        pending: &Pending,
        result: Result<Answer, IoError>,
        late: bool,
    ) {
        let now = world.count();
        match result {
            Err(error) => {
                if error == IoError::Dropped {
                    let text = format!("host {}: {:?} was dropped", self.host, pending.asked);
                    world.fail("P8", text);
                }
                world.count_error(error);
                self.give_up_one(pending, now);
                if let Asked::Change { extent, .. } = pending.asked {
                    world.note_failed(self.process.site, pending.volume, extent);
                }
            }
            // What went straight to its store may still come back: its host is gone by then.
            Ok(_) if late && pending.is_plain() => self.give_up_one(pending, now),
            Ok(_) if late => {
                let text = format!("host {}: {:?} done after the fence", self.host, pending.asked);
                world.fail("P5", text);
            }
            Ok(answer) => {
                // What a flush covers was acknowledged before, and whoever was promoted has it.
                if !self.detached && !matches!(pending.asked, Asked::Flush) {
                    world.check_superseded(&self.process, self.epoch, pending);
                }
                self.done(world, pending, answer, now);
            }
        }
    }

    fn done(&self, world: &Rc<World>, pending: &Pending, answer: Answer, now: Moment) {
        match &pending.asked {
            Asked::Change { op, fua, step, .. } => {
                let mut held = if self.detached {
                    world.note_own(self.process.site)
                } else {
                    world.note_acknowledged(&self.process, self.epoch)
                };
                if pending.is_plain() {
                    held = Sites::one(self.process.site);
                }
                let lost_ms = self.process.lost_ms.get();
                let unsure = lost_ms == Some(world.now_ms());
                self.check_not_halted(world, pending, lost_ms);
                self.branch.borrow_mut().acknowledge(now, *op, (held, unsure), *fua);
                if let Some((chain, step)) = step {
                    world.chains.borrow_mut()[*chain].acknowledged(*step);
                }
            }
            Asked::Flush => {
                let sites = world.flushers(&self.process);
                self.branch.borrow_mut().flush(pending.since, pending.volume, sites);
                world.stats.borrow_mut().flushes += 1;
            }
            Asked::Read { extent } => {
                let Answer::Read(segments) = answer else {
                    world.fail("P1", "a read was answered without content".to_owned());
                    return;
                };
                world.stats.borrow_mut().reads += 1;
                self.compare(world, pending, *extent, &segments);
            }
        }
    }

    /// P1: a change that was asked for after a mirror was lost is not acknowledged while hosts may
    /// not go on without that mirror.
    fn check_not_halted(&self, world: &World, pending: &Pending, lost_ms: Option<u64>) {
        let waits = |serving| matches!(serving, Serving::Halted | Serving::NoWitness);
        let halted = |group: &Group| waits(group.status().serving);
        if pending.is_plain() || !self.process.group().is_some_and(|group| halted(&group)) {
            return;
        }
        let waited = u64::try_from(pending.at.elapsed().as_millis()).expect("a short while");
        let asked_ms = world.now_ms() - waited;
        if lost_ms.is_none_or(|lost_ms| asked_ms > lost_ms) {
            let host = self.host;
            let text = format!("host {host}: {:?} done while halted", pending.asked);
            world.fail("P1", text);
        }
    }

    fn compare(&self, world: &World, pending: &Pending, extent: Extent, segments: &[Segment]) {
        let mut content = Vec::new();
        for segment in segments {
            match segment {
                Segment::Data(data) => content.extend_from_slice(data),
                Segment::Zero(len) => {
                    let len = usize::try_from(*len).expect("a read is short");
                    content.resize(content.len() + len, 0);
                }
            }
        }
        let branch = self.branch.borrow();
        let sector_bytes = usize::try_from(SECTOR_BYTES).expect("512");
        let first = extent.offset() / SECTOR_BYTES;
        for (sector, bytes) in (first..).zip(content.chunks(sector_bytes)) {
            let value = match whole_value(bytes) {
                Some(value) => value,
                None => {
                    world.fail("P1", format!("sector {sector} is torn"));
                    return;
                }
            };
            if let Err(text) = branch.allows(pending.volume, sector, value, pending.since) {
                let site = world.sites[self.process.site].name;
                world.fail("P1", format!("host {} at {site} reads: {text}", self.host));
                return;
            }
        }
        let whole = content.len() as u64 == extent.len();
        drop(branch);
        if !whole {
            world.fail("P1", format!("a read of {extent:?} brought {} bytes", content.len()));
        }
    }
}

impl World {
    /// The changes that hosts of a site asked for and that were not answered.
    pub(crate) fn under_way(&self, site: usize) -> Vec<(usize, Extent)> {
        let mut found = Vec::new();
        for attachment in self.attachments.borrow().iter() {
            if attachment.process.site == site {
                for pending in attachment.pending.borrow().values() {
                    if let Asked::Change { extent, .. } = pending.asked {
                        found.push((pending.volume, extent));
                    }
                }
            }
        }
        found
    }
}

/// The value that a sector repeats; `None` if it does not.
pub(crate) fn whole_value(sector: &[u8]) -> Option<u64> {
    let first = u64::from_le_bytes(*sector.first_chunk::<8>()?);
    let same = sector.chunks_exact(8).all(|word| word == first.to_le_bytes());
    same.then_some(first)
}
