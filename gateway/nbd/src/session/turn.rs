//! One turn of a connection on its thread: all that can be done before it must wait.
//!
//! ```text
//!   ╭─▶ take requests ─▶ submit ─▶ reply ─▶ send ─▶ read ─╮
//!   ╰──────────────── while something moved ──────────────╯──▶ wait for socket, volume or stop
//! ```
//!
//! Invariant: a turn that returns pending has registered with everything that can move it on. A
//! connection without anything in flight does not listen to its volume, so answers that are given
//! at once wake nobody.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use block::{Answer, Completion, Completions, Geometry, IoError, Op, Request, Volume};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFuture;
use tracing::debug;

use super::admit::{Admission, Refused, Terms, admit, admit_status_of};
use super::inflight::{Inflight, Pending};
use super::outgoing::Outgoing;
use super::receive::{Item, ReceiveError, Receiver, Verdict};
use super::reply::{self, Identity};
use super::{Attachment, Changes, Ending, extents};
use crate::contexts::Contexts;
use crate::limits::{
    BUDGET_RETRY, INFLIGHT_BYTES_MAX, INFLIGHT_REQUESTS_MAX, LINGER, STALL_TIMEOUT,
    STATUS_RUNS_MAX, STATUS_WORK, TURN_WORK, WATCH_INTERVAL,
};
use crate::metrics::Meter;
use crate::negotiate::Agreed;
use crate::status;
use crate::stream::HostStream;
use crate::wire::{Command, RequestHeader};
use host::Patience;
use host::Watch;
use host::{Capacity, Grant};

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// It did its share, or looks again for a while: others have their turn.
    Yield,
    /// The connection is over.
    End(Ending),
}

/// Why no more requests were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    /// More bytes are needed.
    Bytes,
    /// Too much is in flight on this connection.
    Full,
    /// Too much is in flight on the gateway.
    Budget,
    /// The turn has done its share.
    Work,
    /// The client sends no more.
    Over,
}

/// One connection in transmission.
pub(super) struct Session {
    stream: HostStream,
    receiver: Receiver,
    outgoing: Outgoing,
    inflight: Inflight,
    completions: Rc<Completions>,
    ready: Vec<Completion>,
    batch: Vec<Request>,
    volume: Rc<dyn Volume>,
    changes: Option<Rc<dyn Changes>>,
    terms: Terms,
    meter: Meter,
    grant: Grant,
    work: u64,
    /// How the client ended its side.
    over: Option<Ending>,
    watch: Watch,
    patience: Patience,
}

impl Session {
    pub(super) fn new(
        stream: HostStream,
        received: &[u8],
        agreed: &Agreed,
        attachment: Attachment,
        (capacity, busy_poll): (Arc<Capacity>, Duration),
    ) -> Self {
        Self {
            stream,
            receiver: Receiver::new(agreed.style, received),
            outgoing: Outgoing::default(),
            inflight: Inflight::default(),
            completions: Completions::new(),
            ready: Vec::new(),
            batch: Vec::new(),
            terms: Terms {
                style: agreed.style,
                contexts: agreed.contexts.clone(),
                read_only: agreed.export.read_only || attachment.volume.read_only(),
            },
            volume: attachment.volume,
            changes: attachment.changes,
            meter: Meter::new(&attachment.label),
            grant: Grant::new(capacity),
            work: 0,
            over: None,
            watch: Watch::new(),
            patience: Patience::new(busy_poll),
        }
    }

    pub(super) const fn stream(&mut self) -> &mut HostStream {
        &mut self.stream
    }

    /// Does what can be done now.
    ///
    /// # Cancellation
    /// Safe: all state is in `self`.
    pub(super) fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        mut stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Poll<Turn> {
        self.work = TURN_WORK;
        loop {
            let halt = match self.take_requests() {
                Ok(halt) => halt,
                Err(error) => {
                    debug!(%error, "client broke the protocol");
                    return Poll::Ready(Turn::End(Ending::Violated));
                }
            };
            // Room that opens from here on is worth another look at what was held back.
            let held = self.load();
            self.answer_ready();
            if let Poll::Ready(Err(error)) = self.outgoing.poll_send(cx, &mut self.stream) {
                return Poll::Ready(Turn::End(Ending::Lost(error.kind())));
            }
            self.grant.settle(self.load().1, false);
            if self.work == 0 || halt == Halt::Work {
                return Poll::Ready(Turn::Yield);
            }
            match self.poll_more(cx, halt, held) {
                Poll::Ready(Ok(())) => {
                    self.patience.moved();
                    continue;
                }
                Poll::Ready(Err(ending)) => return Poll::Ready(Turn::End(ending)),
                Poll::Pending => {}
            }
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::End(Ending::Stopped));
            }
            if self.patience.looks(Instant::now) {
                return Poll::Ready(Turn::Yield);
            }
            match ready!(self.poll_park(cx, halt)) {
                Some(ending) => return Poll::Ready(Turn::End(ending)),
                None => continue,
            }
        }
    }

    /// Sends what has been answered by now, and nothing that has not.
    pub(super) fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.answer_ready();
        self.outgoing.poll_send(cx, &mut self.stream)
    }

    /// Ready when there may be something to do: more bytes, more answers, or room again.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        halt: Halt,
        held: (usize, u64),
    ) -> Poll<Result<(), Ending>> {
        match halt {
            Halt::Bytes => match self.receiver.poll_fill(cx, &mut self.stream) {
                Poll::Ready(Ok(0)) => {
                    self.over = Some(Ending::Closed);
                    self.watch.rest();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(bytes)) => {
                    self.spend(1 + (bytes >> 14) as u64);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ending::Lost(error.kind()))),
                Poll::Pending => {}
            },
            Halt::Full | Halt::Budget if self.load() != held => return Poll::Ready(Ok(())),
            Halt::Full | Halt::Budget | Halt::Work | Halt::Over => {}
        }
        if let Some(ending) = self.over
            && self.inflight.is_empty()
            && self.outgoing.is_empty()
        {
            return Poll::Ready(Err(ending));
        }
        if !self.inflight.is_empty() && self.completions.poll_ready(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Requests and bytes that the connection holds.
    fn load(&self) -> (usize, u64) {
        (
            self.inflight.len() + self.outgoing.replies(),
            self.inflight.bytes() + self.outgoing.bytes(),
        )
    }

    const fn spend(&mut self, work: u64) {
        self.work = self.work.saturating_sub(work);
    }

    // === Requests in ===

    /// Takes every request that is here and that there is room for, and hands them down at once.
    fn take_requests(&mut self) -> Result<Halt, ReceiveError> {
        if self.over.is_some() {
            return Ok(Halt::Over);
        }
        if !self.receiver.has_bytes() {
            return Ok(Halt::Bytes);
        }
        let now = Instant::now();
        let geometry = self.volume.geometry();
        let mut refused_for = Halt::Full;
        let halt = loop {
            if self.work == 0 {
                break Halt::Work;
            }
            let load = self.load();
            let (terms, grant) = (&self.terms, &mut self.grant);
            let item = self.receiver.next(now, |header| {
                let (verdict, why) = gate(header, terms, geometry, (load, grant));
                refused_for = why;
                verdict
            })?;
            match item {
                Item::NeedBytes => break Halt::Bytes,
                Item::Waiting => break refused_for,
                Item::Refused(header, refused) => self.refuse(&header, refused),
                Item::Request(header, admission, payload) => {
                    self.start(&header, admission, payload, now);
                    if self.over.is_some() {
                        break Halt::Over;
                    }
                }
            }
        };
        if !self.batch.is_empty() {
            self.volume.submit(&mut self.batch);
        }
        Ok(halt)
    }

    fn refuse(&mut self, header: &RequestHeader, (errno, message): Refused) {
        self.spend(1);
        self.meter.failed(Command::of(header.command), errno);
        reply::failed(&mut self.outgoing, self.terms.style, identity(header), errno, message);
    }

    fn start(
        &mut self,
        header: &RequestHeader,
        admission: Admission,
        payload: Bytes,
        now: Instant,
    ) {
        self.spend(1 + (admission.bytes() >> 14));
        let Some(command) = Command::of(header.command) else {
            return;
        };
        let mut pending = Pending {
            cookie: header.cookie,
            offset: header.offset,
            len: header.len,
            command,
            whole: false,
            fua: false,
            may_trim: false,
            rest: None,
            received: now,
        };
        let op = match admission {
            Admission::Read { extent, whole } => {
                pending.whole = whole;
                Some(Op::Read(extent))
            }
            Admission::Write { extent, fua } => {
                pending.fua = fua;
                Some(Op::Write(extent, payload))
            }
            Admission::Zero { extent, may_trim, fua } => {
                (pending.rest, pending.may_trim, pending.fua) = (Some(extent), may_trim, fua);
                pending.next_piece().map(|piece| pending.piece_op(piece))
            }
            Admission::Trim { extent, fua } => {
                (pending.rest, pending.fua) = (Some(extent), fua);
                pending.next_piece().map(|piece| pending.piece_op(piece))
            }
            Admission::Cache { extent } => Some(Op::Cache(extent)),
            Admission::Flush => Some(Op::Flush),
            Admission::Disconnect => {
                self.over = Some(Ending::Disconnected);
                self.watch.rest();
                None
            }
            Admission::Nothing | Admission::Status { .. } | Admission::StatusOf { .. } => {
                self.answer_at_once(header, admission, &payload);
                None
            }
        };
        if let Some(op) = op {
            let ticket = self.completions.ticket(self.inflight.insert(pending));
            self.batch.push(Request { op, fua: pending.fua, ticket });
        }
    }

    fn answer_at_once(&mut self, header: &RequestHeader, admission: Admission, payload: &Bytes) {
        let (style, to) = (self.terms.style, identity(header));
        let status = match admission {
            Admission::Status { extent, one } => Ok((extent, one, self.terms.contexts.clone())),
            Admission::StatusOf { offset, one } => {
                admit_status_of(offset, payload, &self.terms, self.volume.geometry())
                    .map(|(extent, contexts)| (extent, one, contexts))
            }
            _ => {
                if header.command == 0 {
                    reply::read_nothing(&mut self.outgoing, style, to);
                } else {
                    reply::done(&mut self.outgoing, style, to);
                }
                if let Some(command) = Command::of(header.command) {
                    self.meter.counted(command, 0);
                }
                return;
            }
        };
        match status {
            Ok((extent, one, contexts)) => self.status(to, extent, one, &contexts),
            Err(refused) => self.refuse(header, refused),
        }
    }

    fn status(&mut self, to: Identity, extent: block::Extent, one: bool, contexts: &Contexts) {
        self.spend(STATUS_WORK);
        let (style, limit) = (self.terms.style, if one { 1 } else { STATUS_RUNS_MAX });
        let of = (self.volume.as_ref(), self.changes.as_deref());
        let all = match extents::of(contexts, of, extent, limit) {
            Ok(all) => all,
            Err(error) => return self.fail(Command::BlockStatus, to, error),
        };
        for (index, (context, runs)) in contexts.iter().zip(&all).enumerate() {
            reply::status(&mut self.outgoing, style, to, (*context, index + 1 == all.len()), runs);
        }
        self.meter.counted(Command::BlockStatus, 0);
    }

    // === Answers out ===

    /// Turns every answer that is here into a reply, and hands down what a split request still
    /// has to do.
    fn answer_ready(&mut self) {
        let mut answered = None;
        while self.completions.take(&mut self.ready) {
            let now = *answered.get_or_insert_with(Instant::now);
            let mut ready = std::mem::take(&mut self.ready);
            for completion in ready.drain(..) {
                self.answer(completion, now);
            }
            self.ready = ready;
            if !self.batch.is_empty() {
                self.volume.submit(&mut self.batch);
            }
            if self.work == 0 {
                break;
            }
        }
        if let Some(now) = answered {
            self.meter.flush(now);
        }
    }

    fn answer(&mut self, completion: Completion, now: Instant) {
        let Completion { tag, result } = completion;
        if result.is_ok()
            && let Some(pending) = self.inflight.get_mut(tag)
            && let Some(piece) = pending.next_piece()
        {
            let (op, fua) = (pending.piece_op(piece), pending.fua);
            self.batch.push(Request { op, fua, ticket: self.completions.ticket(tag) });
            self.spend(STATUS_WORK);
            return;
        }
        // A ticket is answered once, so its tag is always there.
        let Some(pending) = self.inflight.remove(tag) else {
            return;
        };
        let to = Identity { cookie: pending.cookie, offset: pending.offset };
        let style = self.terms.style;
        let replied = match (pending.command, result) {
            (Command::Read, Ok(Answer::Read(segments))) => {
                reply::read(&mut self.outgoing, style, &pending, segments)
            }
            // A volume that answers a read with nothing has a bug; the client must not wait.
            (Command::Read, Ok(Answer::Done)) => Err(IoError::Dropped),
            (_, Ok(_)) => {
                reply::done(&mut self.outgoing, style, to);
                Ok(())
            }
            (_, Err(error)) => Err(error),
        };
        match replied {
            Ok(()) => {
                let times = (pending.received, now);
                self.meter.answered(pending.command, pending.len, times);
            }
            Err(error) => self.fail(pending.command, to, error),
        }
    }

    fn fail(&mut self, command: Command, to: Identity, error: IoError) {
        let errno = status::errno(command, error);
        debug!(cookie = to.cookie, ?command, %error, "request failed");
        self.meter.failed(Some(command), errno);
        reply::failed(&mut self.outgoing, self.terms.style, to, errno, status::message(error));
    }
    // === Waiting ===

    /// Registers the slow eye where it is needed; ready with an ending when it has seen enough, or
    /// with `None` when it is worth looking again.
    fn poll_park(&mut self, cx: &mut Context<'_>, halt: Halt) -> Poll<Option<Ending>> {
        self.meter.inflight(self.inflight.len());
        let quiet = self.inflight.is_empty() && self.outgoing.is_empty();
        self.grant.settle(self.load().1, quiet);
        let deadline = self.receiver.payload_deadline();
        let stands = !self.outgoing.is_empty() || self.over.is_some() || deadline.is_some();
        let interval = match halt {
            Halt::Budget => BUDGET_RETRY,
            Halt::Bytes | Halt::Full | Halt::Work | Halt::Over if stands => WATCH_INTERVAL,
            Halt::Bytes | Halt::Full | Halt::Work | Halt::Over => {
                self.watch.rest();
                return Poll::Pending;
            }
        };
        let (now, still) = ready!(self.watch.poll_look(cx, interval, self.outgoing.sent_bytes()));
        let stuck = !self.outgoing.is_empty() && still > STALL_TIMEOUT;
        let late = deadline.is_some_and(|deadline| now > deadline);
        Poll::Ready(match self.over {
            Some(ending) if still > LINGER => Some(ending),
            Some(_) | None => {
                ((stuck || late) && self.grant.is_coveted()).then_some(Ending::Stalled)
            }
        })
    }
}

const fn identity(header: &RequestHeader) -> Identity {
    Identity { cookie: header.cookie, offset: header.offset }
}

/// Whether a request may come in now.
fn gate(
    header: &RequestHeader,
    terms: &Terms,
    geometry: Geometry,
    ((requests, bytes), grant): ((usize, u64), &mut Grant),
) -> (Verdict, Halt) {
    if requests >= INFLIGHT_REQUESTS_MAX {
        return (Verdict::Wait, Halt::Full);
    }
    match admit(header, terms, geometry) {
        Err(refused) => (Verdict::Refuse(refused), Halt::Full),
        Ok(admission) => {
            let total = bytes + admission.bytes();
            if total > INFLIGHT_BYTES_MAX {
                (Verdict::Wait, Halt::Full)
            } else if grant.covers(total) {
                (Verdict::Take(admission), Halt::Full)
            } else {
                (Verdict::Wait, Halt::Budget)
            }
        }
    }
}
