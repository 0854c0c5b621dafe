//! The driver: does what the machine decides, in order, and tells it what happened.
//!
//! ```text
//!   Handle::submit ─┐                          ┌─▶ stores, ledger   (one batch each per turn)
//!   leg, upstream  ─┼─▶ Event ─▶ Machine ─▶ Effect ─▶ ports ─▶ links (one vectored send per wake-up)
//!   completions    ─┘                          └─▶ tickets of hosts
//! ```
//!
//! Invariant: everything here runs on the group's own thread. A *turn* takes all that is there,
//! applies it, and submits what follows as one batch per store; nothing awaits inside a turn.

mod attributes;
mod clock;
mod companions;
mod effects;
mod host;
mod inbox;
mod journal;
mod leg;
mod members;
mod open;
mod points;
mod port;
mod slab;
mod spill;
mod status;
mod upstream;
mod witness;
mod write_journal;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Waker;

use block::{
    Completion, Completions, GatewayId, Generation, GroupId, Identity, IoError, Ledger, LegId,
    Link, LinkError, Request, Store, Ticket, VolumeId,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::clock::{Clock, HeartbeatTimes};
use self::inbox::Tag;
pub use self::open::{
    OpenError, found_adopted, found_holding, found_part, found_primary, found_secondary,
};
use self::slab::Slab;
pub use self::spill::{Journals, Spill, SpillFile};
pub use self::witness::Arbitration;
use crate::command::{Command, Refusal};
use crate::machine::{Effect, Event, Machine, Note, Pace};
use crate::metrics::Metrics;
use crate::priority::{Copiers, Place};
use crate::status::Verified;

/// A future on one thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Starts a task on this thread.
pub type Spawn = Rc<dyn Fn(LocalFuture<()>)>;

/// How a group reaches other gateways.
pub trait Dialer {
    /// Connects to a gateway and proves both identities.
    fn dial(&self, gateway: GatewayId) -> LocalFuture<Result<Box<dyn Link>, LinkError>>;
}

/// Where names for new histories come from: random outside, counted in a simulation.
pub trait Generations {
    /// One that was never given before.
    fn next(&self) -> Generation;
}

/// What a group is made of.
pub struct Parts {
    /// Who this gateway is.
    pub identity: Identity,
    /// The group.
    pub group: GroupId,
    /// Its volumes, in the order of its record, with their names.
    pub volumes: Vec<(VolumeId, String, Rc<dyn Store>)>,
    /// Where its record is kept.
    pub ledger: Rc<dyn Ledger>,
    /// How mirrors are reached.
    pub dialer: Rc<dyn Dialer>,
    /// The time of day, for people.
    pub clock: Rc<dyn Clock>,
    /// Names for new histories.
    pub generations: Rc<dyn Generations>,
    /// Starts a task on the group's thread. Dropping all of them is the death of the process.
    pub spawn: Spawn,
    /// Told of everything worth telling.
    pub notes: Rc<dyn Fn(Note)>,
    /// The kernel's boot id.
    pub host_boot: [u8; 16],
    /// When a silent peer is asked, and when it is given up.
    pub heartbeat: HeartbeatTimes,
    /// Where changes wait for mirrors that follow behind.
    pub journals: Journals,
    /// How the companions of a group over several gateways are reached.
    pub companions: Option<Rc<dyn block::Companions>>,
    /// Who copies in the other groups of this gateway.
    pub copiers: Copiers,
}

/// One group on its thread: the only way to its machine.
pub struct Group {
    id: GroupId,
    name: String,
    identity: Identity,
    core: RefCell<Core>,
    dialer: Rc<dyn Dialer>,
    clock: Rc<dyn Clock>,
    spawn: Spawn,
    heartbeat: HeartbeatTimes,
    journals: Journals,
    started: Instant,
    hosts: RefCell<CancellationToken>,
    stopping: CancellationToken,
    /// Whether a turn is under way on this thread: what happens meanwhile is taken by it.
    turning: Cell<bool>,
}

/// What a turn works on.
struct Core {
    machine: Machine,
    slab: Slab,
    /// The volumes, by the machine's index.
    members: Vec<members::Member>,
    ledger: Rc<dyn Ledger>,
    generations: Rc<dyn Generations>,
    notes: Rc<dyn Fn(Note)>,
    sink: Rc<Completions>,
    events: Vec<Event>,
    effects: Vec<Effect>,
    completions: Vec<Completion>,
    /// By volume: what this turn submits.
    batches: Vec<Vec<Request>>,
    rounds: HashMap<u64, inbox::Round>,
    removal: points::Removal,
    legs: [Option<leg::LegPort>; LegId::COUNT],
    /// When each mirror was last heard, over its attempts, in Unix milliseconds.
    leg_memory: [Option<u64>; LegId::COUNT],
    /// The last verification of each mirror that came to its end.
    certificates: [Option<Verified>; LegId::COUNT],
    upstream_heard: Option<u64>,
    upstream: Option<upstream::UpstreamPort>,
    candidate: Option<upstream::Candidate>,
    waiter: Option<oneshot::Sender<Result<(), Refusal>>>,
    /// Who gave snapshots up for a way back that waits for room, by token.
    room_makers: HashMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    /// Who waits until changes that are under way are applied here.
    settling: Vec<Waker>,
    /// Who waits until something is kept of a volume, by token.
    keepers: HashMap<u64, oneshot::Sender<Result<(), IoError>>>,
    witness: Option<Rc<witness::WitnessPort>>,
    companions: Option<Rc<companions::CompanionPort>>,
    metrics: Metrics,
    written: write_journal::Written,
    /// What this group said of its copying.
    place: Place,
    /// Legs to dial and ports to hang after the turn.
    dials: Vec<LegId>,
    attempts: u64,
}

// === impl Group ===

impl Group {
    /// Which.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A volume of the group as its hosts see it.
    #[must_use]
    pub fn volume(self: &Rc<Self>, volume: VolumeId) -> Option<Rc<dyn block::Volume>> {
        let core = self.core.borrow();
        let member = core.members.iter().find(|member| member.id == volume)?;
        Some(Rc::new(host::Handle::new(Rc::clone(self), member)))
    }

    /// Cancelled when every host must be dropped: the gateway lost the right to serve them, or
    /// stops. Take it anew for each attachment.
    #[must_use]
    pub fn hosts(&self) -> CancellationToken {
        self.hosts.borrow().child_token()
    }

    /// Whether hosts may attach now.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.core.borrow().machine.is_serving() && !self.stopping.is_cancelled()
    }

    /// Asks for something; answers when it is durable.
    ///
    /// # Errors
    /// The [`Refusal`] says why nothing was changed; [`Refusal::Busy`] while another command is
    /// under way.
    ///
    /// # Cancellation
    /// Safe: the command goes on, its answer is dropped.
    pub async fn command(self: &Rc<Self>, command: Command) -> Result<(), Refusal> {
        let waits_for_room = self.core.borrow().machine.waits_for_room();
        match command {
            Command::RemoveSnapshot { snapshot } if waits_for_room => {
                self.make_room(snapshot).await
            }
            command => self.ask(|_core| Event::Command(command)).await,
        }
    }

    /// Lets the machine know what an operator wants, and waits for its answer.
    async fn ask(self: &Rc<Self>, event: impl FnOnce(&mut Core) -> Event) -> Result<(), Refusal> {
        if self.stopping.is_cancelled() {
            return Err(Refusal::Interrupted);
        }
        let (answer, waiting) = oneshot::channel();
        {
            let mut core = self.core.borrow_mut();
            if core.waiter.is_some() {
                return Err(Refusal::Busy);
            }
            core.waiter = Some(answer);
            let event = event(&mut core);
            core.events.push(event);
        }
        self.turn();
        waiting.await.unwrap_or(Err(Refusal::Interrupted))
    }

    /// Stops in good order: drops hosts, lets what is in flight end, tells mirrors that nothing
    /// more will be acknowledged, makes everything durable, marks the stores clean.
    ///
    /// From then on the group does nothing more, whatever it still hears: its record and its stores
    /// may be somebody else's already.
    ///
    /// # Errors
    /// When a store could not be made durable, or something was still under way: it opens as unclean, and nothing is lost by that.
    ///
    /// # Cancellation
    /// Not safe to expect a clean stop from; safe as a crash is.
    pub async fn close(self: &Rc<Self>) -> Result<(), IoError> {
        self.hosts.borrow().cancel();
        self.core.borrow().refuse_held_reads();
        self.until_idle().await;
        self.push_event(Event::Closing);
        self.until_idle().await;
        self.stopping.cancel();
        // Who waits for a command that is still under way hears that it was interrupted.
        drop(self.core.borrow_mut().waiter.take());
        self.core.borrow_mut().room_makers.clear();
        let latched = self.status().serving == crate::Serving::Latched;
        if latched || !self.core.borrow().machine.is_idle() {
            // A record that says what this copy lost may not be durable: a store that is marked
            // clean would hide it from the next start (rule 4).
            return Err(if latched { IoError::Latched } else { IoError::ShuttingDown });
        }
        let mut first = Ok(());
        let members = self.core.borrow().members.clone();
        for member in members {
            first = member.close().await.and(first);
        }
        first
    }

    /// Waits until nothing is under way, for as long as a stop may take.
    async fn until_idle(self: &Rc<Self>) {
        let deadline = Instant::now() + self.heartbeat.silence;
        while !self.core.borrow().machine.is_idle() && Instant::now() < deadline {
            tokio::time::sleep(self.heartbeat.tick / 10).await;
        }
    }

    fn push_event(self: &Rc<Self>, event: Event) {
        self.core.borrow_mut().events.push(event);
        self.turn();
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes everything that is there, and does everything that follows.
    fn turn(self: &Rc<Self>) {
        if self.turning.replace(true) {
            return;
        }
        let mut core = self.core.borrow_mut();
        if self.stopping.is_cancelled() {
            core.refuse_all();
        } else {
            core.turn(self);
        }
        let dials = std::mem::take(&mut core.dials);
        drop(core);
        self.turning.set(false);
        for leg in dials {
            leg::spawn(self, leg);
        }
    }

    /// Wakes with every answer of a store or the ledger that did not come at once.
    async fn pump(self: Rc<Self>) {
        let sink = Rc::clone(&self.core.borrow().sink);
        // A group that is closed takes no answers: they would be there for ever.
        while !self.stopping.is_cancelled() {
            poll_fn(|context| sink.poll_ready(context)).await;
            self.turn();
        }
    }

    /// Tells the machine that time passes.
    async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(self.heartbeat.tick);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now_ms = self.uptime_ms();
            let unix_ms = self.clock.unix_ms();
            self.core.borrow_mut().look_around(unix_ms, self.clock.lock_ms());
            self.core.borrow_mut().keep_time(unix_ms);
            self.push_event(Event::Tick { now_ms });
        }
    }
}

impl Core {
    fn turn(&mut self, group: &Rc<Group>) {
        loop {
            while self.machine.wants_supply() {
                self.machine.supply(self.generations.next());
            }
            self.release_reads();
            self.dismiss_when_ready();
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.machine.apply(event, &mut self.effects);
                while self.machine.wants_supply() {
                    self.machine.supply(self.generations.next());
                }
            }
            self.events = events;
            self.perform(group);
            self.submit();
            self.take_completions(group);
            self.work_journals(group);
            if self.events.is_empty() && self.machine.ready_to_dismiss().is_none() {
                break;
            }
        }
        self.metrics.end_of_turn();
        self.settling.drain(..).for_each(Waker::wake);
        if let Some(upstream) = &mut self.upstream {
            upstream.send_acks();
        }
        for port in self.legs.iter().flatten() {
            port.port.wake();
        }
        if let Some(upstream) = &self.upstream {
            upstream.port.wake();
        }
    }

    /// Sends on what waits in the send journals, and moves what is too much for memory.
    fn work_journals(&mut self, group: &Rc<Group>) {
        for leg in LegId::all() {
            let Some(port) = self.legs[leg.index()].as_mut() else { continue };
            if port.journal.is_empty() {
                continue;
            }
            port.pump();
            loop {
                match port.journal.begin_io() {
                    Ok(Some(io)) => {
                        let task = journal::run(Rc::clone(group), leg, port.attempt, io);
                        (group.spawn)(Box::pin(task));
                    }
                    Ok(None) => break,
                    Err(_) => {
                        self.events.push(Event::JournalFailed { leg });
                        break;
                    }
                }
            }
        }
    }

    /// Tells the machine what only clocks on walls and other groups know, where it changed.
    fn look_around(&mut self, unix_ms: u64, lock_ms: u64) {
        // Locks are of days: a second is near enough.
        if lock_ms >= self.machine.lock_ms() + 1_000 {
            self.events.push(Event::Pace(Pace::LockClock { unix_ms: lock_ms }));
        }
        for (leg, bandwidth, told) in self.machine.windowed() {
            let limit = bandwidth.limit_at(|zone| zone.wall_time(unix_ms));
            if limit != told {
                self.events.push(Event::Pace(Pace::Limit { leg, bytes_per_second: limit }));
            }
        }
        let highest = self.place.say(self.machine.copying());
        if highest != self.machine.highest_copying() {
            self.events.push(Event::Pace(Pace::Crowd { highest }));
        }
    }

    /// One batch per store.
    fn submit(&mut self) {
        for (member, batch) in self.members.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                if self.upstream.is_some() {
                    member.store.submit_aside(batch);
                } else {
                    member.store.submit(batch);
                }
                debug_assert!(batch.is_empty(), "a store takes the whole batch");
            }
        }
    }

    fn ticket(&self, tag: Tag) -> Ticket {
        self.sink.ticket(tag.pack())
    }
}
