//! One link to a mirror: dial, open, carry messages, notice silence.
//!
//! Invariant: a port belongs to one attempt. A task whose port was taken away sends what was left
//! in it and ends; it never speaks for a later attempt.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use block::{Extent, LegId, Link, LinkError, Message, RELAYS_SINCE_VERSION, Seq, Volume};
use tokio::time::Instant;

use super::journal::{Journal, payload_bytes};
use super::port::Port;
use super::{Group, Journals};
use crate::machine::{Event, Opening};
use crate::metrics::{Ended, LegMetrics, TrafficMetrics};
use crate::status::Cause;

/// What a turn knows of the link to a mirror.
pub(super) struct LegPort {
    pub(super) port: Rc<Port>,
    pub(super) attempt: u64,
    pub(super) copies: HashMap<u64, CopyUnderWay>,
    /// What hosts changed, was sent and is not acknowledged, in the order of its numbers.
    sent: VecDeque<Sent>,
    /// Its bytes.
    window_bytes: u64,
    pub(super) journal: Journal,
    /// By volume: what copies are read from, if it is not the copy here as it is now.
    pub(super) source: Vec<Rc<dyn Volume>>,
    pub(super) flushes: VecDeque<(Seq, Instant)>,
    pub(super) rtt_us: Option<u64>,
    pub(super) last_heard_ms: Option<u64>,
    pub(super) metrics: LegMetrics,
}

/// A change on its way.
struct Sent {
    seq: Seq,
    at: Instant,
    bytes: u64,
    acked: bool,
}

/// Bytes that are on their way to a mirror that follows behind: a round trip of 13 ms at 10 Gbit/s.
/// The rest waits in the journal, so that neither the link nor the mirror holds more.
const WINDOW_BYTES: u64 = 16 << 20;

/// A copy that is being read.
pub(super) struct CopyUnderWay {
    pub(super) seq: Seq,
    pub(super) volume: usize,
    pub(super) extent: Extent,
}

impl LegPort {
    fn new(attempt: u64, journals: &Journals, metrics: LegMetrics) -> Self {
        Self {
            port: Rc::new(Port::default()),
            attempt,
            copies: HashMap::new(),
            sent: VecDeque::new(),
            window_bytes: 0,
            journal: Journal::new(journals),
            source: Vec::new(),
            flushes: VecDeque::new(),
            rtt_us: None,
            last_heard_ms: None,
            metrics,
        }
    }

    pub(super) fn post(&mut self, message: Message) {
        if let Message::Flush { seq } = &message {
            self.flushes.push_back((*seq, Instant::now()));
        }
        let in_stream =
            matches!(message, Message::Change { .. } | Message::Cut { .. } | Message::Snapshot(_));
        if in_stream && !self.journal.is_empty() {
            self.journal.push(message);
        } else {
            self.port.push(message);
        }
    }

    pub(super) fn send(&mut self, seq: Seq, now: Instant, message: Message, journaled: bool) {
        if journaled || !self.journal.is_empty() {
            self.journal.push(message);
        } else {
            self.put_on_the_way(seq, now, message);
        }
    }

    fn put_on_the_way(&mut self, seq: Seq, at: Instant, message: Message) {
        // A copy has the number of when it was begun, and goes out when it was read, behind later
        // changes: its answer would not be found among theirs. Copies are bounded where they begin.
        if self.sent.back().is_none_or(|last| last.seq < seq) {
            let bytes = payload_bytes(&message);
            self.window_bytes += bytes;
            self.sent.push_back(Sent { seq, at, bytes, acked: false });
        }
        self.port.push(message);
    }

    /// Sends what there is room for on the way.
    pub(super) fn pump(&mut self) {
        if self.journal.is_empty() {
            return;
        }
        let now = Instant::now();
        loop {
            // One goes in any case, however long it is.
            let room = if self.window_bytes == 0 {
                u64::MAX
            } else {
                WINDOW_BYTES.saturating_sub(self.window_bytes)
            };
            match self.journal.pop(room) {
                Some(message @ Message::Change { seq, resync: false, .. }) => {
                    self.put_on_the_way(seq, now, message);
                }
                Some(message) => self.port.push(message),
                None => return,
            }
        }
    }

    fn note_rtt(&mut self, rtt: Duration, persist_us: u32) {
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        // Smoothed as TCP does it: an eighth of each new sample.
        self.rtt_us = Some(self.rtt_us.map_or(sample, |old| (old * 7 + sample) / 8));
        self.metrics.persist(persist_us);
    }

    fn note_answers(&mut self, message: &Message, now: Instant) {
        match message {
            Message::Acks(seqs) => {
                for seq in seqs {
                    let found = self.sent.binary_search_by_key(seq, |sent| sent.seq);
                    let Some(sent) = found.ok().and_then(|at| self.sent.get_mut(at)) else {
                        continue;
                    };
                    if !std::mem::replace(&mut sent.acked, true) {
                        self.metrics.write_ack(now - sent.at);
                        self.window_bytes -= sent.bytes;
                    }
                }
                while self.sent.front().is_some_and(|sent| sent.acked) {
                    self.sent.pop_front();
                }
            }
            Message::Durable { seq } => {
                while let Some((sent, at)) = self.flushes.front().copied() {
                    if sent > *seq {
                        break;
                    }
                    self.flushes.pop_front();
                    self.metrics.flush_ack(now - at);
                }
            }
            _ => {}
        }
    }
}

/// Begins to dial a mirror.
pub(super) fn spawn(group: &Rc<Group>, leg: LegId) {
    let mut core = group.core.borrow_mut();
    core.attempts += 1;
    let attempt = core.attempts;
    let Some((gateway, site)) = core.machine.leg_peer(leg) else { return };
    let before = core.leg_memory[leg.index()];
    let metrics = LegMetrics::new(&site);
    if let Some(witness) = &core.witness {
        witness.forget(leg);
    }
    let made = LegPort { last_heard_ms: before, ..LegPort::new(attempt, &group.journals, metrics) };
    let port = Rc::clone(&made.port);
    core.legs[leg.index()] = Some(made);
    drop(core);
    let traffic = TrafficMetrics::new(&site);
    let task = run(Rc::clone(group), (leg, attempt), gateway, port, traffic);
    (group.spawn)(Box::pin(task));
}

async fn run(
    group: Rc<Group>,
    (leg, attempt): (LegId, u64),
    gateway: block::GatewayId,
    port: Rc<Port>,
    mut traffic: TrafficMetrics,
) {
    let (mut pause, longest) = group.heartbeat.redial;
    loop {
        if port.is_closing() || group.stopping.is_cancelled() {
            return;
        }
        let opened = tokio::time::timeout(group.heartbeat.open, open(&group, leg, gateway)).await;
        let cause = match opened.unwrap_or(Err(LinkError::Timeout)) {
            Ok((mut link, Some(opening))) => {
                if port.is_closing() {
                    return;
                }
                group.connected((leg, attempt), link.version(), opening);
                let (cause, why) =
                    carry(&group, (leg, attempt), &port, &mut *link, &mut traffic).await;
                traffic.ended(link.traffic(), why);
                group.lost(leg, attempt, cause);
                return;
            }
            Ok((_, None)) => return,
            Err(LinkError::Closed | LinkError::Timeout) => {
                Cause::Unreachable("no answer".to_owned())
            }
            Err(error @ (LinkError::Untrusted(_) | LinkError::Version { .. })) => {
                Cause::Refused(error.to_string())
            }
            Err(error) => Cause::Unreachable(error.to_string()),
        };
        if !group.lost(leg, attempt, cause) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Connects and opens the group. `None` instead of an opening: the mirror said goodbye, and the
/// machine knows.
async fn open(
    group: &Rc<Group>,
    leg: LegId,
    gateway: block::GatewayId,
) -> Result<(Box<dyn Link>, Option<Opening>), LinkError> {
    let mut link = group.dialer.dial(gateway).await?;
    let open = group.core.borrow().machine.open_message(leg);
    let Some(open) = open else { return Err(LinkError::Closed) };
    if open.relayed && link.version() < RELAYS_SINCE_VERSION {
        return Err(LinkError::Version {
            ours_min: RELAYS_SINCE_VERSION,
            ours_max: block::PROTOCOL_VERSION,
            theirs_min: link.version(),
            theirs_max: link.version(),
        });
    }
    link.push(Message::Open(*open));
    let mut differs = Vec::new();
    let mut messages = Vec::new();
    loop {
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = link.poll_send(context) {
                return Poll::Ready(Err(error));
            }
            link.poll_receive(context, &mut messages)
        })
        .await?;
        for message in messages.drain(..) {
            match message {
                Message::Differs(report) => differs.push(report),
                Message::Opened(opened) => return Ok((link, Some(Opening { opened, differs }))),
                Message::Goodbye(goodbye) => {
                    group.push_event(Event::Heard { leg, message: Message::Goodbye(goodbye) });
                    return Err(LinkError::Closed);
                }
                Message::Ping { .. } => {}
                _ => return Err(LinkError::Corrupt("an answer to Open was expected")),
            }
        }
    }
}

/// Carries messages until the link or the port ends.
async fn carry(
    group: &Rc<Group>,
    (leg, attempt): (LegId, u64),
    port: &Rc<Port>,
    link: &mut dyn Link,
    traffic: &mut TrafficMetrics,
) -> (Cause, Ended) {
    let mut beat = tokio::time::interval(group.heartbeat.interval);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut pings: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut stamp = 0;
    let mut asked: Option<Instant> = None;
    let mut messages = Vec::new();
    loop {
        let woken = poll_fn(|context| {
            port.listen(context);
            port.drain(link);
            if let Poll::Ready(Err(error)) = link.poll_send(context) {
                return Poll::Ready(Err(error));
            }
            port.note_queue(link.queued_bytes());
            match link.poll_receive(context, &mut messages) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(false)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if port.is_closing() && link.queued_bytes() == 0 {
                return Poll::Ready(Ok(true));
            }
            beat.poll_tick(context).map(|_| Ok(true))
        })
        .await;
        let now = Instant::now();
        match woken {
            Err(error) => return (Cause::LinkLost(error.to_string()), Ended::from(&error)),
            Ok(false) => {
                heard = now;
                group.heard((leg, attempt), &mut messages, &mut pings, now);
            }
            Ok(true) => {}
        }
        if port.is_closing() {
            // What was left in answer to what was just heard goes out as well.
            port.drain(link);
            finish(link, group.heartbeat.interval).await;
            return (Cause::Operator, Ended::Admin);
        }
        if now - heard > group.heartbeat.silence {
            let cause = Cause::LinkLost(format!("silent for {} ms", (now - heard).as_millis()));
            return (cause, Ended::Timeout);
        }
        if asked.is_none_or(|at| now - at >= group.heartbeat.interval) {
            asked = Some(now);
            stamp += 1;
            pings.push_back((stamp, now));
            let state = group.core.borrow().machine.mirror_state(leg);
            if let Some(witness) = &group.core.borrow().witness {
                witness.pinged(leg, stamp);
            }
            link.push(Message::Ping { stamp, state });
            traffic.traffic(link.traffic());
        }
    }
}

/// Sends what is queued, for a little while.
pub(super) async fn finish(link: &mut dyn Link, patience: Duration) {
    let sent = poll_fn(|context| link.poll_send(context));
    // The other side may be gone: then nobody misses it.
    drop(tokio::time::timeout(patience, sent).await);
}

impl Group {
    fn is_current(&self, leg: LegId, attempt: u64) -> bool {
        let core = self.core.borrow();
        core.legs[leg.index()].as_ref().is_some_and(|port| port.attempt == attempt)
    }

    fn connected(self: &Rc<Self>, (leg, attempt): (LegId, u64), version: u16, opening: Opening) {
        if self.is_current(leg, attempt) {
            self.note_heard(leg);
            self.core.borrow_mut().events.push(Event::LinkVersion { leg, version });
            self.push_event(Event::Connected { leg, opening: Box::new(opening) });
        }
    }

    /// Says that the link ended; says whether this attempt still counts.
    fn lost(self: &Rc<Self>, leg: LegId, attempt: u64, cause: Cause) -> bool {
        if !self.is_current(leg, attempt) {
            return false;
        }
        self.push_event(Event::Disconnected { leg, cause });
        self.is_current(leg, attempt)
    }

    fn note_heard(&self, leg: LegId) {
        let now_ms = self.clock.unix_ms();
        let mut core = self.core.borrow_mut();
        core.leg_memory[leg.index()] = Some(now_ms);
        if let Some(port) = &mut core.legs[leg.index()] {
            port.last_heard_ms = Some(now_ms);
        }
    }

    fn heard(
        self: &Rc<Self>,
        (leg, attempt): (LegId, u64),
        messages: &mut Vec<Message>,
        pings: &mut VecDeque<(u64, Instant)>,
        now: Instant,
    ) {
        if !self.is_current(leg, attempt) {
            messages.clear();
            return;
        }
        self.note_heard(leg);
        let mut guard = self.core.borrow_mut();
        let core = &mut *guard;
        for message in messages.drain(..) {
            if let Some(port) = &mut core.legs[leg.index()] {
                port.note_answers(&message, now);
                if let Message::Pong { stamp, persist_us, .. } = &message {
                    if let Some(witness) = &core.witness {
                        witness.ponged(leg, *stamp);
                    }
                    while let Some((sent, at)) = pings.pop_front() {
                        if sent == *stamp {
                            port.note_rtt(now - at, *persist_us);
                            break;
                        }
                    }
                }
            }
            core.events.push(Event::Heard { leg, message });
        }
        drop(guard);
        self.turn();
    }
}

#[cfg(test)]
mod tests {
    use block::Change;
    use bytes::Bytes;

    use super::*;
    use crate::machine::JournalLimits;

    const BYTES: u64 = 1 << 20;

    fn change(seq: u64) -> Message {
        Message::Change {
            seq: Seq::new(seq),
            volume: 0,
            extent: Extent::new(0, BYTES).unwrap(),
            change: Change::Write(Bytes::from(vec![1; 1 << 20])),
            fua: false,
            resync: false,
        }
    }

    fn leg() -> LegPort {
        let limits = JournalLimits { memory_bytes: 1 << 30, spill_bytes: 0 };
        LegPort::new(1, &Journals::in_memory(limits), LegMetrics::new("west"))
    }

    /// Hosts wrote, a write failed here, and what repairs the mirror goes out behind later writes.
    #[test]
    fn a_repair_that_is_sent_late_leaves_the_window_as_it_was() {
        let mut leg = leg();
        let now = Instant::now();
        let window = WINDOW_BYTES / BYTES;
        // Number 3 is the repair's.
        let numbers = (1..=2).chain(4..=window * 3);
        for seq in numbers.clone() {
            leg.send(Seq::new(seq), now, change(seq), true);
        }
        leg.post(change(3));
        leg.pump();
        assert_eq!(leg.window_bytes, WINDOW_BYTES);
        for seq in numbers {
            leg.note_answers(&Message::Acks(vec![Seq::new(seq)]), now);
            leg.pump();
        }
        leg.note_answers(&Message::Acks(vec![Seq::new(3)]), now);
        assert!(leg.journal.is_empty(), "all of it is on its way");
        assert_eq!((leg.sent.len(), leg.window_bytes), (0, 0));
    }
}
