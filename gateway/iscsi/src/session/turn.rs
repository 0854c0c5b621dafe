//! One turn of a session on its thread: all that can be done before it must wait.
//!
//! ```text
//!   ╭─▶ take PDUs ─▶ submit ─▶ run slow ones ─▶ reply ─▶ send ─▶ read ─╮
//!   ╰────────────────── while something moved ─────────────────────────╯──▶ wait
//! ```
//!
//! Invariant: a turn that returns pending has registered with everything that can move it on.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use block::{Completion, Completions, IoError};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use super::disks::Disks;
use super::manage::Managing;
use super::order::Dormant;
use super::outgoing::Outgoing;
use super::receive::{Item, ReceiveError, Receiver};
use super::tasks::{Stage, Task, Tasks};
use super::text::TextExchange;
use super::window::Window;
use super::{Attachment, Ending, LoggedIn, Told};
use crate::limits::{
    BUDGET_RETRY, FLOOR_BYTES, HOLD_MAX, LINGER, NOP_INTERVAL, NOP_TIMEOUT, QUEUE_DEPTH,
    STALL_TIMEOUT, TURN_WORK, UNSENT_BYTES_MAX, UNSENT_REPLIES_MAX, WATCH_INTERVAL,
};
use crate::negotiate::Params;
use crate::scsi::{Abort, InitiatorPort, Outcome};
use crate::server::Peers;
use crate::wire::{NO_TAG, RejectReason, Response, Stamp};
use host::Grant;
use host::Patience;
use host::Watch;

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// It did its share, or looks again for a while: others have their turn.
    Yield,
    /// The session is over.
    End(Ending),
}

/// Why no more PDUs were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    /// More bytes are needed.
    Bytes,
    /// The initiator does not take its answers.
    Full,
    /// Too much is in flight on the gateway.
    Budget,
    /// The turn has done its share.
    Work,
    /// The initiator sends no more, or nothing more is listened to.
    Over,
}

/// A slow command under way.
pub(super) struct Running {
    pub(super) key: u64,
    pub(super) abort: Abort,
    pub(super) future: Pin<Box<dyn Future<Output = Result<Outcome, IoError>>>>,
}

/// One session in full feature phase.
pub(super) struct Session {
    pub(super) receiver: Receiver,
    pub(super) outgoing: Outgoing,
    pub(super) params: Params,
    pub(super) window: Window,
    pub(super) stat_sn: u32,
    pub(super) tasks: Tasks,
    pub(super) completions: Rc<Completions>,
    ready: Vec<Completion>,
    pub(super) disks: Disks,
    /// Slow commands under way.
    pub(super) running: Vec<Running>,
    /// Commands that wait for others of their disk, oldest first.
    pub(super) dormant: Vec<Dormant>,
    /// Commands that wait for memory, oldest first.
    pub(super) waiting: VecDeque<u64>,
    pub(super) managing: Vec<Managing>,
    /// The other sessions with the target.
    pub(super) peers: Peers,
    pub(super) text: TextExchange,
    pub(super) target: String,
    pub(super) connection: u16,
    pub(super) portals: Told,
    pub(super) grant: Grant,
    /// Bytes of commands that are not answered.
    pub(super) charged: u64,
    work: u64,
    /// How the session ends, once what is under way is done.
    pub(super) over: Option<Ending>,
    watch: Watch,
    patience: Patience,
    /// When bytes came last, and when a ping was sent since.
    heard: Instant,
    pinged: Option<Instant>,
    /// Since when nothing more was sent, though there is something, and what had been sent.
    stuck: Option<(Instant, u64)>,
    /// A slow command was not polled yet.
    pub(super) fresh: bool,
}

impl Session {
    pub(super) fn new(connection: &LoggedIn, received: &[u8], attachment: Attachment) -> Self {
        let agreed = &connection.agreed;
        let port = InitiatorPort { name: agreed.initiator.name.clone(), isid: agreed.isid };
        let params = agreed.params;
        let digests = (params.header_digest, params.data_digest);
        Self {
            receiver: Receiver::new(digests, received),
            outgoing: Outgoing::new(params.header_digest, params.data_digest),
            params,
            window: Window::new(agreed.cmd_sn, QUEUE_DEPTH),
            stat_sn: connection.stat_sn,
            tasks: Tasks::default(),
            completions: Completions::new(),
            ready: Vec::new(),
            disks: Disks::new((attachment.luns, attachment.more), port, connection.target_port),
            running: Vec::new(),
            dormant: Vec::new(),
            waiting: VecDeque::new(),
            managing: Vec::new(),
            peers: connection.place.peers(),
            text: TextExchange::default(),
            target: connection.target.name.clone(),
            connection: agreed.connection,
            portals: attachment.portals,
            grant: Grant::new(Arc::clone(&connection.capacity)),
            charged: 0,
            work: 0,
            over: None,
            watch: Watch::new(),
            patience: Patience::new(connection.busy_poll),
            heard: Instant::now(),
            pinged: None,
            stuck: None,
            fresh: false,
        }
    }

    /// Does what can be done now.
    ///
    /// # Cancellation
    /// Safe: all state is in `self`.
    pub(super) fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        mut stop: Pin<&mut impl Future<Output = Ending>>,
    ) -> Poll<Turn> {
        self.work = TURN_WORK;
        self.disks.grow();
        loop {
            let halt = match self.take_pdus() {
                Ok(halt) => halt,
                Err(error) => {
                    debug!(%error, "initiator broke the protocol");
                    self.over_violated(error);
                    return Poll::Ready(Turn::End(Ending::Violated));
                }
            };
            let before = self.progress();
            if self.disks.have_moved() {
                self.decide_held(Instant::now());
            }
            self.poll_running(cx);
            self.answer_ready();
            self.serve_waiting();
            self.rouse(cx);
            // What was admitted is handed down before blocks are taken that it concerns.
            self.submit();
            self.finish_managing(cx);
            if let Poll::Ready(Err(error)) = self.outgoing.poll_send(cx, stream) {
                return Poll::Ready(Turn::End(Ending::Lost(error.kind())));
            }
            self.grant.settle(self.load(), false);
            if self.work == 0 || halt == Halt::Work {
                return Poll::Ready(Turn::Yield);
            }
            match self.poll_more(cx, stream, halt, before) {
                Poll::Ready(Ok(())) => {
                    self.patience.moved();
                    continue;
                }
                Poll::Ready(Err(ending)) => return Poll::Ready(Turn::End(ending)),
                Poll::Pending => {}
            }
            if let Poll::Ready(ending) = stop.as_mut().poll(cx) {
                return Poll::Ready(Turn::End(ending));
            }
            if self.patience.looks(Instant::now) {
                return Poll::Ready(Turn::Yield);
            }
            if let Some(ending) = ready!(self.poll_park(cx, halt)) {
                return Poll::Ready(Turn::End(ending));
            }
        }
    }

    /// Goes on with what is under way, begins nothing, and sends what has been answered by now.
    pub(super) fn poll_begun(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<std::io::Result<()>> {
        self.poll_running(cx);
        self.answer_ready();
        self.finish_managing(cx);
        self.outgoing.poll_send(cx, stream)
    }

    /// Sends what has been answered by now, and nothing that has not.
    pub(super) fn poll_last(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<std::io::Result<()>> {
        self.answer_ready();
        self.outgoing.poll_send(cx, stream)
    }

    /// Ready when there may be something to do: more bytes, more answers, or room again.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        halt: Halt,
        before: (usize, usize, usize),
    ) -> Poll<Result<(), Ending>> {
        if halt == Halt::Bytes {
            match self.receiver.poll_fill(cx, stream) {
                Poll::Ready(Ok(0)) => {
                    self.over = Some(Ending::Closed);
                    self.forget_unfed();
                    self.watch.rest();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(bytes)) => {
                    self.spend(1 + (bytes >> 14) as u64);
                    (self.heard, self.pinged) = (Instant::now(), None);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ending::Lost(error.kind()))),
                Poll::Pending => {}
            }
        }
        if self.over.is_some_and(|_| self.is_idle())
            && let Some(ending) = self.over
        {
            return Poll::Ready(Err(ending));
        }
        if self.fresh {
            return Poll::Ready(Ok(()));
        }
        // What was answered or asked for made room for what was held back.
        if self.progress() != before
            && (matches!(halt, Halt::Full | Halt::Budget) || !self.waiting.is_empty())
        {
            return Poll::Ready(Ok(()));
        }
        if !self.tasks.is_empty() && self.completions.poll_ready(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn is_idle(&self) -> bool {
        // An initiator that logged out or reset the target waits for no command.
        let waits = self.over == Some(Ending::Closed) && !self.tasks.is_empty();
        !waits && self.managing.is_empty() && self.outgoing.is_empty()
    }

    /// What changes when something moves on.
    fn progress(&self) -> (usize, usize, usize) {
        (self.tasks.len(), self.outgoing.pdus(), self.waiting.len())
    }

    /// Bytes that the session holds.
    pub(super) const fn load(&self) -> u64 {
        self.charged + self.outgoing.bytes()
    }

    pub(super) const fn spend(&mut self, work: u64) {
        self.work = self.work.saturating_sub(work);
    }

    /// The numbers for the next answer.
    pub(super) fn stamp(&mut self) -> Stamp {
        let room = QUEUE_DEPTH.saturating_sub(self.tasks.counted());
        self.window.grant(room);
        Stamp {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.expected(),
            max_cmd_sn: self.window.last(),
        }
    }

    /// Sends a response with these bytes.
    pub(super) fn say(&mut self, response: Response, data: &[u8]) {
        let stamp = self.stamp();
        self.outgoing.pdu(response.encode(stamp), data);
        if response.counts() {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
    }

    // === PDUs in ===

    /// Takes every PDU that is here, and hands down at once what it asks for.
    fn take_pdus(&mut self) -> Result<Halt, ReceiveError> {
        if self.over.is_some() {
            return Ok(Halt::Over);
        }
        if !self.receiver.has_bytes() {
            return Ok(Halt::Bytes);
        }
        let now = Instant::now();
        loop {
            if self.work == 0 {
                return Ok(Halt::Work);
            }
            if self.outgoing.pdus() >= UNSENT_REPLIES_MAX
                || self.outgoing.bytes() >= UNSENT_BYTES_MAX
            {
                return Ok(Halt::Full);
            }
            // What came unasked may be more than this session's share: it is done first.
            let load = self.load();
            if load > FLOOR_BYTES && !self.grant.covers(load) {
                return Ok(Halt::Budget);
            }
            let tasks = &mut self.tasks;
            match self.receiver.next(|header| super::commands::place(header, tasks))? {
                Item::NeedBytes => return Ok(Halt::Bytes),
                Item::Pdu(header, body) => self.take(&header, body, now),
            }
            if self.over.is_some() {
                return Ok(Halt::Over);
            }
        }
    }

    fn over_violated(&mut self, error: ReceiveError) {
        match error {
            ReceiveError::DataDigest(header) => self.reject(RejectReason::DataDigest, &header),
            // A header that cannot be trusted is not answered.
            ReceiveError::HeaderDigest | ReceiveError::TooLong(_) | ReceiveError::LongHeader(_) => {
            }
        }
    }

    // === Answers out ===

    pub(super) fn submit(&mut self) {
        self.disks.submit();
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) {
        self.submit();
        self.fresh = false;
        let mut index = 0;
        while let Some(running) = self.running.get_mut(index) {
            let key = running.key;
            match running.future.as_mut().poll(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(result) => {
                    drop(self.running.swap_remove(index));
                    self.ran(key, result, Instant::now());
                }
            }
        }
    }

    /// Turns every answer that is here into a reply.
    fn answer_ready(&mut self) {
        let mut answered = None;
        while self.completions.take(&mut self.ready) {
            let now = *answered.get_or_insert_with(Instant::now);
            let mut ready = std::mem::take(&mut self.ready);
            for completion in ready.drain(..) {
                self.answered(completion, now);
            }
            self.ready = ready;
            if self.work == 0 {
                break;
            }
        }
        self.disks.count(answered.unwrap_or(self.heard));
    }

    // === Waiting ===

    /// Registers the slow eye; ready with an ending when it has seen enough, or with `None` when it
    /// is worth looking again.
    fn poll_park(&mut self, cx: &mut Context<'_>, halt: Halt) -> Poll<Option<Ending>> {
        self.disks.tell_depths();
        let quiet = self.tasks.is_empty() && self.outgoing.is_empty();
        self.grant.settle(self.load(), quiet);
        let held = self.tasks.iter().any(|(_, task)| matches!(task.stage, Stage::Held(_)));
        if held {
            self.disks.listen(cx);
        }
        let interval = if halt == Halt::Budget || !self.waiting.is_empty() {
            BUDGET_RETRY
        } else if held || !self.outgoing.is_empty() || self.over.is_some() {
            WATCH_INTERVAL
        } else {
            NOP_INTERVAL
        };
        let (now, _) = ready!(self.watch.poll_look(cx, interval, self.outgoing.sent_bytes()));
        Poll::Ready(self.looked(now))
    }

    fn looked(&mut self, now: Instant) -> Option<Ending> {
        let sent = self.outgoing.sent_bytes();
        let stands = !self.outgoing.is_empty() || self.over.is_some();
        let stuck = self.stuck.filter(|(_, before)| stands && *before == sent);
        self.stuck = stands.then(|| stuck.unwrap_or((now, sent)));
        let still = self.stuck.map_or(std::time::Duration::ZERO, |(since, _)| now - since);
        let doubtful = |stage| matches!(stage, Stage::Held(since) if now - since > HOLD_MAX);
        if self.tasks.iter().any(|(_, task)| doubtful(task.stage)) {
            return Some(Ending::InDoubt);
        }
        // Data that was asked for, or announced, and does not come keeps memory from others.
        let late = |task: &Task| task.stage == Stage::Gathering && now - task.moved > STALL_TIMEOUT;
        if self.tasks.iter().any(|(_, task)| late(task)) {
            return Some(Ending::Stalled);
        }
        if let Some(ending) = self.over {
            return (still > LINGER).then_some(ending);
        }
        if !self.outgoing.is_empty() {
            return (still > STALL_TIMEOUT).then_some(Ending::Stalled);
        }
        match self.pinged {
            Some(pinged) if now - pinged >= NOP_TIMEOUT => {
                Some(Ending::Lost(std::io::ErrorKind::TimedOut))
            }
            None if now - self.heard >= NOP_INTERVAL => {
                self.pinged = Some(now);
                let lun = [0; 8];
                self.say(Response::NopIn { lun, tag: NO_TAG, target_tag: 1 }, &[]);
                None
            }
            Some(_) | None => None,
        }
    }
}
