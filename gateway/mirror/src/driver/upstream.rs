//! The link from the primary: accept it, apply what it sends, acknowledge in batches.
//!
//! Invariant: at most one primary is followed; a link that was replaced is ended and what it still
//! brings is not looked at.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use block::{
    BLOCK_BYTES, BlockRange, Change, Extent, GatewayId, Goodbye, IoError, Link, Message, Op, Open,
    Opened, Request, Seq, Store, Ticket, VolumeOffer,
};
use tokio::time::Instant;

use super::leg::finish;
use super::members::Member;
use super::port::Port;
use super::slab::Entry;
use super::{Core, Group};
use crate::machine::Event;

/// What a turn knows of the link to the primary.
pub(super) struct UpstreamPort {
    pub(super) port: Rc<Port>,
    attempt: u64,
    pub(super) acks: Vec<Seq>,
    /// Flushes that the primary asked for and are not durable yet, and when it asked.
    flushes: VecDeque<(Seq, Instant)>,
    persist_us: u32,
}

/// A gateway that waits for the answer to its `Open`.
pub(super) struct Candidate {
    link: Box<dyn Link>,
}

impl UpstreamPort {
    /// Acknowledges everything of this turn with one message.
    pub(super) fn send_acks(&mut self) {
        if !self.acks.is_empty() {
            self.port.push(Message::Acks(std::mem::take(&mut self.acks)));
        }
    }
}

impl Group {
    /// A gateway that says it is the primary opened the group here. Its copy grows first if the
    /// primary's volumes are longer.
    pub fn accept(self: &Rc<Self>, open: Open, link: Box<dyn Link>) {
        let group = Rc::clone(self);
        (self.spawn)(Box::pin(async move {
            let (site, gateway) = (link.peer().site.clone(), link.peer().gateway);
            let fits = group.fit(&open, gateway).await;
            if group.stopping.is_cancelled() {
                // It calls again, and finds who is there then.
                return;
            }
            group.core.borrow_mut().candidate = Some(Candidate { link });
            group.push_event(match fits {
                Ok(()) => Event::Opened { open: Box::new(open), site, gateway },
                Err(why) => Event::Unfit { epoch: open.epoch, why },
            });
        }));
    }

    /// Grows what is too short for the primary's volumes. What is longer may stay so if nothing was
    /// ever written behind the primary's end, as after a growth that was cut short.
    async fn fit(self: &Rc<Self>, open: &Open, gateway: GatewayId) -> Result<(), String> {
        // One that is sent away by the machine changes nothing here.
        if self.core.borrow().machine.refuse_primary(open, gateway).is_some() {
            return Ok(());
        }
        for (index, offer) in open.volumes.iter().enumerate() {
            let store = Rc::clone(&self.core.borrow().members[index].store);
            if store.geometry().bytes() >= offer.bytes {
                self.fit_tail(&*store, offer, open).await?;
                continue;
            }
            let grown = answer(|ticket| store.grow(offer.bytes, ticket)).await;
            // A copy that latched on the way is to say so, and not that it is too short.
            if matches!(grown, Ok(()) | Err(IoError::Latched)) {
                let result = grown.map(|()| store.geometry().bytes());
                self.push_event(Event::Grown { volume: index, result });
            }
            grown.map_err(|error| format!("cannot grow {} here: {error}", offer.name))?;
        }
        Ok(())
    }

    /// A copy that is longer than its primary must read as zeroes behind the primary's end: hosts
    /// would find there what the primary never had. With consent to discard it is made so.
    async fn fit_tail(
        self: &Rc<Self>,
        store: &dyn Store,
        offer: &VolumeOffer,
        open: &Open,
    ) -> Result<(), String> {
        if !has_tail(store, offer)? {
            return Ok(());
        }
        let why = tail_text(store, offer);
        let tail = Extent::new(offer.bytes, store.geometry().bytes() - offer.bytes);
        let Some(tail) = tail.ok().filter(|_| open.discard) else { return Err(why) };
        self.push_event(Event::Overwritten { epoch: open.epoch });
        self.until_idle().await;
        if !self.core.borrow().machine.may_cut() {
            return Err(format!("{why}; this copy is still busy"));
        }
        let cut = answer(|ticket| {
            let op = Op::Zero { extent: tail, may_trim: true };
            store.submit(&mut vec![Request { op, fua: true, ticket }]);
        });
        cut.await.map_err(|error| format!("cannot empty the end of {} here: {error}", offer.name))
    }
}

/// What a store answers to one request.
async fn answer(submit: impl FnOnce(Ticket)) -> Result<(), IoError> {
    let (queue, mut answers) = (block::Completions::new(), Vec::new());
    submit(queue.ticket(0));
    poll_fn(|context| queue.poll_ready(context)).await;
    queue.take(&mut answers);
    answers.pop().map_or(Err(IoError::Dropped), |answer| answer.result.map(|_| ()))
}

fn has_tail(store: &dyn Store, offer: &VolumeOffer) -> Result<bool, String> {
    let tail = store.mapped(offer.bytes / BLOCK_BYTES, 1);
    let tail = tail.map_err(|error| format!("cannot read the map of {}: {error}", offer.name))?;
    Ok(!tail.is_empty())
}

fn tail_text(store: &dyn Store, offer: &VolumeOffer) -> String {
    let bytes = store.geometry().bytes();
    format!(
        "volume {name} has {bytes} bytes here, with content behind the {} bytes of the primary: grow \
         it there first (twinspan volume grow {name} --size {bytes}), or agree that this is \
         overwritten (--discard)",
        offer.bytes,
        name = offer.name,
    )
}

/// The machine accepts the candidate: it becomes the primary that is followed.
pub(super) fn accept(
    core: &mut Core,
    group: &Rc<Group>,
    differs: Vec<block::DirtyReport>,
    opened: Opened,
) {
    let Some(Candidate { mut link }) = core.candidate.take() else { return };
    core.attempts += 1;
    let attempt = core.attempts;
    let port = Rc::new(Port::default());
    core.upstream = Some(UpstreamPort {
        port: Rc::clone(&port),
        attempt,
        acks: Vec::new(),
        flushes: VecDeque::new(),
        persist_us: 0,
    });
    differs.into_iter().for_each(|report| link.push(Message::Differs(report)));
    link.push(Message::Opened(opened));
    let task = run(Rc::clone(group), attempt, port, link);
    (group.spawn)(Box::pin(task));
}

/// The machine has done with the primary.
pub(super) fn hang(core: &mut Core, goodbye: Option<Goodbye>) {
    if let Some(mut upstream) = core.upstream.take() {
        upstream.send_acks();
        goodbye.into_iter().for_each(|goodbye| upstream.port.push(Message::Goodbye(goodbye)));
        upstream.port.close();
        upstream.port.wake();
    }
}

/// The machine sends the candidate away.
pub(super) fn refuse(core: &mut Core, group: &Rc<Group>, goodbye: Goodbye) {
    let Some(Candidate { mut link }) = core.candidate.take() else { return };
    let patience = group.heartbeat.silence;
    (group.spawn)(Box::pin(async move {
        link.push(Message::Goodbye(goodbye));
        finish(&mut *link, patience).await;
        linger(&mut *link, patience).await;
    }));
}

/// Lets the other side read what was said before the connection goes: closing at once with unread
/// bytes would reset it and lose them.
async fn linger(link: &mut dyn Link, patience: std::time::Duration) {
    let mut messages = Vec::new();
    let gone = async {
        while poll_fn(|context| link.poll_receive(context, &mut messages)).await.is_ok() {
            messages.clear();
        }
    };
    drop(tokio::time::timeout(patience, gone).await);
}

async fn run(group: Rc<Group>, attempt: u64, port: Rc<Port>, mut link: Box<dyn Link>) {
    let mut messages = Vec::new();
    let mut silence = Box::pin(tokio::time::sleep(group.heartbeat.silence));
    loop {
        let woken = poll_fn(|context| {
            port.listen(context);
            port.drain(&mut *link);
            if link.poll_send(context).is_ready_err() {
                return Poll::Ready(Err(()));
            }
            match link.poll_receive(context, &mut messages) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(true)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                Poll::Pending => {}
            }
            if port.is_closing() && link.queued_bytes() == 0 {
                return Poll::Ready(Ok(false));
            }
            silence.as_mut().poll(context).map(|()| Err(()))
        })
        .await;
        if port.is_closing() {
            port.drain(&mut *link);
            finish(&mut *link, group.heartbeat.silence).await;
            linger(&mut *link, group.heartbeat.interval).await;
            return;
        }
        match woken {
            Ok(_) => {
                silence.as_mut().reset(Instant::now() + group.heartbeat.silence);
                if !group.told(attempt, &mut messages) {
                    return;
                }
            }
            Err(()) => {
                group.upstream_lost(attempt);
                return;
            }
        }
    }
}

trait ReadyErr {
    fn is_ready_err(&self) -> bool;
}

impl<T, E> ReadyErr for Poll<Result<T, E>> {
    fn is_ready_err(&self) -> bool {
        matches!(self, Self::Ready(Err(_)))
    }
}

impl Group {
    fn follows(&self, attempt: u64) -> bool {
        let core = self.core.borrow();
        core.upstream.as_ref().is_some_and(|upstream| upstream.attempt == attempt)
    }

    fn upstream_lost(self: &Rc<Self>, attempt: u64) {
        if self.follows(attempt) {
            self.push_event(Event::UpstreamLost { orderly: false });
        }
    }

    /// Takes what the primary sent; says whether it is still followed.
    fn told(self: &Rc<Self>, attempt: u64, messages: &mut Vec<Message>) -> bool {
        if !self.follows(attempt) {
            return false;
        }
        let now = Instant::now();
        let unix_ms = self.clock.unix_ms();
        {
            let mut core = self.core.borrow_mut();
            core.upstream_heard = Some(unix_ms);
            for message in messages.drain(..) {
                core.told(message, now);
            }
        }
        self.turn();
        true
    }
}

impl Core {
    fn told(&mut self, message: Message, now: Instant) {
        match message {
            Message::Change { seq, volume, extent, change, fua, resync } => {
                let volume = usize::from(volume);
                let fits = self.members.get(volume).is_some_and(|member| {
                    let inside = extent.end() <= member.store.geometry().bytes();
                    let whole = match &change {
                        Change::Write(data) => data.len() as u64 == extent.len(),
                        Change::Zero { .. } | Change::Trim => true,
                    };
                    inside && whole
                });
                if !fits {
                    // A peer that sends nonsense harms its own session only.
                    let message = Message::Failed { seq, error: IoError::OutOfRange };
                    if let Some(upstream) = &self.upstream {
                        upstream.port.push(message);
                    }
                    return;
                }
                let change = Some((extent, change));
                let entry = Entry { ticket: None, change, volume, fua, since: now, launched: None };
                let write = self.slab.insert(entry);
                self.events.push(Event::Incoming { write, seq, volume, extent, resync });
            }
            Message::Compare { seq, volume, extent, sums } => {
                let message = match self.members.get(usize::from(volume)) {
                    Some(member) => compare(&*member.store, seq, extent, &sums),
                    None => Message::Failed { seq, error: IoError::OutOfRange },
                };
                if let Some(upstream) = &self.upstream {
                    upstream.port.push(message);
                }
            }
            Message::List { volume } => self.list_for_primary(volume),
            Message::Ping { stamp, state } => {
                let ours = self.machine.upstream_state();
                if let Some(upstream) = &mut self.upstream {
                    let persist_us = upstream.persist_us;
                    upstream.port.push(Message::Pong { stamp, state: ours, persist_us });
                }
                self.events.push(Event::Told { message: Message::Ping { stamp, state } });
            }
            Message::Flush { seq } => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.flushes.push_back((seq, now));
                }
                self.events.push(Event::Told { message });
            }
            other => self.events.push(Event::Told { message: other }),
        }
    }

    /// Says what is mapped here, so that the primary knows what there is to compare. The map is
    /// read, not the data.
    fn list_for_primary(&mut self, volume: u16) {
        /// Ranges in one message.
        const STEP: usize = 4096;
        let Some(upstream) = &self.upstream else { return };
        let Some(Member { store, .. }) = self.members.get(usize::from(volume)) else { return };
        let mut from = 0;
        loop {
            let Ok(blocks) = store.mapped(from, STEP) else {
                // The whole of it is compared instead: what cannot be read differs.
                let blocks = vec![store.geometry().whole().blocks()];
                upstream.port.push(Message::Mapped { volume, blocks, last: true });
                return;
            };
            let last = blocks.last().is_none();
            from = blocks.last().map_or(from, |range| range.end());
            upstream.port.push(Message::Mapped { volume, blocks, last });
            if last {
                return;
            }
        }
    }

    /// A reply goes to the primary; how long its flush took is told with the next heartbeat.
    pub(super) fn reply(&mut self, message: Message) {
        let Some(upstream) = &mut self.upstream else { return };
        if let Message::Durable { seq } = &message {
            while let Some((asked, at)) = upstream.flushes.front().copied() {
                if asked > *seq {
                    break;
                }
                upstream.flushes.pop_front();
                let took = at.elapsed().as_micros();
                upstream.persist_us = u32::try_from(took).unwrap_or(u32::MAX);
            }
        }
        upstream.send_acks();
        upstream.port.push(message);
    }
}

/// Which blocks here differ from the primary's. The primary holds them: no change of them is under
/// way. What cannot be read here differs, and is overwritten.
fn compare(store: &dyn Store, seq: Seq, extent: Extent, sums: &[u8]) -> Message {
    let fits = extent.is_block_aligned()
        && extent.end() <= store.geometry().bytes()
        && sums.len() as u64 == extent.blocks().count() * 4;
    if !fits {
        return Message::Failed { seq, error: IoError::OutOfRange };
    }
    let Ok(ours) = store.checksums(extent) else {
        return Message::Compared { seq, differs: vec![extent.blocks()] };
    };
    let theirs = sums.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum));
    let mut differs: Vec<BlockRange> = Vec::new();
    for (block, (ours, theirs)) in (extent.blocks().first()..).zip(ours.into_iter().zip(theirs)) {
        if ours == theirs {
            continue;
        }
        match differs.last_mut() {
            Some(last) if last.end() == block => *last = BlockRange::new(last.first(), block + 1),
            _ => differs.push(BlockRange::new(block, block + 1)),
        }
    }
    Message::Compared { seq, differs }
}
