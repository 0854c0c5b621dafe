//! What each effect does.
//!
//! Invariant: effects of one turn are done in their order; those for one store or one link keep it.

use std::rc::Rc;

use block::{Answer, Extent, IoError, LegId, Message, Op, Request, Seq, Store, WriteId};

use super::host::op_of;
use super::inbox::{Tag, join, read_of};
use super::{Core, Group, upstream};
use crate::machine::{Effect, Event, Note};

impl Core {
    pub(super) fn perform(&mut self, group: &Rc<Group>) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.perform_one(effect, group);
        }
        self.effects = effects;
    }

    fn perform_one(&mut self, effect: Effect, group: &Rc<Group>) {
        match effect {
            Effect::Apply { write } => self.apply(write),
            Effect::Send { leg, seq, write } => self.send(leg, seq, write),
            Effect::Answer { write, result } => self.answer(write, result),
            Effect::Forget { write } => self.slab.remove(write),
            Effect::Acknowledge { seq } => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.acks.push(seq);
                }
            }
            Effect::Activate { round, sets } => {
                let key = self.begin_round(round, sets.len());
                for (volume, set) in sets {
                    let ticket = self.ticket(Tag::Activated(key));
                    group.stores[volume].record_activity(&set, ticket);
                }
            }
            Effect::Copy { leg, copy, seq, volume, extent, compare: false } => {
                self.copy(leg, copy, seq, (volume, extent));
            }
            Effect::Copy { leg, copy, seq, volume, extent, compare: true } => {
                self.compare((leg, copy), seq, (volume, &*group.stores[volume]), extent);
            }
            Effect::List { leg } => self.list(leg, group),
            Effect::Post { leg, message } => {
                if let Some(port) = &mut self.legs[leg.index()] {
                    port.post(message);
                }
            }
            Effect::FlushLocal { round, volumes } => self.flush_local(round, &volumes, group),
            Effect::Record { number, records } => {
                self.ledger.put(records, self.sink.ticket(Tag::Recorded(number).pack()));
            }
            Effect::Dial { leg } => self.dials.push(leg),
            Effect::Hang { leg, redial } => {
                if let Some(port) = self.legs[leg.index()].take() {
                    port.port.close();
                    port.port.wake();
                }
                if redial {
                    self.dials.push(leg);
                }
            }
            Effect::Accept { differs, opened } => {
                upstream::accept(self, group, differs, opened);
            }
            Effect::Refuse { goodbye } => upstream::refuse(self, group, goodbye),
            Effect::Reply { message } => self.reply(message),
            Effect::HangUpstream { goodbye } => {
                if let Some(mut upstream) = self.upstream.take() {
                    upstream.send_acks();
                    goodbye.into_iter().for_each(|g| upstream.port.push(Message::Goodbye(g)));
                    upstream.port.close();
                    upstream.port.wake();
                }
            }
            Effect::GrowLocal { volume, bytes } => {
                let ticket = self.ticket(Tag::Grown(volume));
                group.stores[volume].grow(bytes, ticket);
            }
            Effect::Arbitrate { number, claim } => self.ask_witness(Some((number, claim))),
            Effect::Look => self.ask_witness(None),
            Effect::DropHosts => group.drop_hosts(),
            Effect::Answered(result) => {
                if let Some(waiter) = self.waiter.take() {
                    // A caller that went away no longer wants to know.
                    drop(waiter.send(result));
                }
            }
            Effect::Note(note) => self.note(group, note),
        }
    }

    fn apply(&mut self, write: WriteId) {
        let ticket = self.ticket(Tag::Applied(write));
        let entry = self.slab.get(write);
        let change = entry.change.clone().expect("only changes are applied");
        let (volume, fua) = (entry.volume, entry.fua);
        self.batches[volume].push(Request { op: op_of(change), fua, ticket });
    }

    fn send(&mut self, leg: LegId, seq: Seq, write: WriteId) {
        let entry = self.slab.get(write);
        let (extent, change) = entry.change.clone().expect("only changes are sent");
        let volume = u16::try_from(entry.volume).expect("a group has few volumes");
        let (fua, since) = (entry.fua, entry.since);
        if let Some(port) = &mut self.legs[leg.index()] {
            let message = Message::Change { seq, volume, extent, change, fua, resync: false };
            port.send(seq, since, message);
        }
    }

    fn answer(&mut self, write: WriteId, result: Result<(), IoError>) {
        let entry = self.slab.get(write);
        let is_change = entry.change.is_some();
        let since = entry.since;
        if let Some(ticket) = entry.ticket.take() {
            ticket.answer(result.map(|()| Answer::Done));
        }
        self.metrics.answered(is_change, since, result);
    }

    fn flush_local(&mut self, number: u64, volumes: &[usize], group: &Rc<Group>) {
        let key = self.begin_round(number, volumes.len());
        for volume in volumes {
            // Behind what this turn already submits: a flush covers what was answered before.
            let ticket = self.ticket(Tag::Flushed(key));
            self.batches[*volume].push(Request { op: Op::Flush, fua: false, ticket });
        }
        self.submit(group);
    }

    fn copy(&mut self, leg: LegId, copy: u8, seq: Seq, (volume, extent): (usize, Extent)) {
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(port) = &mut self.legs[leg.index()] else { return };
        port.copies.insert(attempt, super::leg::CopyUnderWay { seq, volume, extent });
        let ticket = self.ticket(Tag::Copied { leg, copy, attempt });
        self.batches[volume].push(Request { op: Op::Read(extent), fua: false, ticket });
    }

    /// Asks a mirror which blocks differ. The range lock keeps everybody else away from them.
    fn compare(
        &mut self,
        (leg, copy): (LegId, u8),
        seq: Seq,
        volume: (usize, &dyn Store),
        extent: Extent,
    ) {
        let Some(port) = &mut self.legs[leg.index()] else { return };
        let (volume, store) = volume;
        match store.checksums(extent) {
            Err(error) => self.events.push(Event::CopyFailed { leg, copy, error }),
            Ok(sums) => {
                let volume = u16::try_from(volume).expect("a group has few volumes");
                let sums = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                port.post(Message::Compare { seq, volume, extent, sums });
            }
        }
    }

    /// The blocks were read: send them.
    pub(super) fn copied(
        &mut self,
        leg: LegId,
        copy: u8,
        attempt: u64,
        result: Result<Answer, IoError>,
    ) {
        // A leg that was lost meanwhile has no use for them.
        let Some(port) = &mut self.legs[leg.index()] else { return };
        let Some(under_way) = port.copies.remove(&attempt) else { return };
        let super::leg::CopyUnderWay { seq, volume, extent } = under_way;
        let resync = !self.machine.is_in_sync(leg);
        match read_of(result) {
            Err(error) => self.events.push(Event::CopyFailed { leg, copy, error }),
            Ok(segments) => {
                let change = match join(segments) {
                    Some(data) => block::Change::Write(data),
                    None => block::Change::Zero { may_trim: true },
                };
                let volume = u16::try_from(volume).expect("a group has few volumes");
                port.post(Message::Change { seq, volume, extent, change, fua: false, resync });
            }
        }
    }

    /// Lists what is mapped. The map is read, not the data.
    fn list(&mut self, leg: LegId, group: &Rc<Group>) {
        /// Ranges asked for at a time.
        const STEP: usize = 4096;
        let mut mapped = Vec::with_capacity(group.stores.len());
        for store in &group.stores {
            let mut ranges = Vec::new();
            let mut from = 0;
            loop {
                let Ok(step) = store.mapped(from, STEP) else {
                    let cause = crate::Cause::Refused("cannot read the map here".to_owned());
                    self.events.push(Event::Disconnected { leg, cause });
                    return;
                };
                let Some(last) = step.last() else { break };
                from = last.end();
                ranges.extend(step);
            }
            mapped.push(ranges);
        }
        self.events.push(Event::Listed { leg, mapped });
    }

    pub(super) fn grown(&mut self, group: &Group, volume: usize, error: Option<IoError>) {
        let result = match error {
            Some(error) => Err(error),
            None => Ok(group.stores[volume].geometry().bytes()),
        };
        self.events.push(Event::Grown { volume, result });
    }

    fn note(&mut self, group: &Rc<Group>, note: Note) {
        let group_name = group.name.as_str();
        match &note {
            Note::MirrorInSync { leg } => {
                tracing::info!(group = group_name, %leg, "mirror is in sync");
            }
            Note::MirrorLost { leg, cause } => {
                tracing::warn!(group = group_name, %leg, ?cause, "mirror is lost");
            }
            Note::Promoted => tracing::info!(group = group_name, "became primary"),
            Note::Demoted => tracing::info!(group = group_name, "hands over to its mirror"),
            Note::Fenced => {
                tracing::error!(group = group_name, "fenced by a higher epoch; hosts dropped");
            }
            Note::FencedOff { gateway } => {
                tracing::warn!(group = group_name, %gateway, "refused a primary of a lower epoch");
            }
            Note::SplitBrain { leg } => {
                tracing::error!(group = group_name, %leg, "split brain: both sides have own writes");
            }
            Note::TakesOver => {
                tracing::warn!(group = group_name, "primary and its lease are lost; taking over");
            }
            Note::Witness { reachable } => {
                tracing::warn!(group = group_name, reachable, "witness");
            }
            Note::Latched { error } => {
                tracing::error!(group = group_name, %error, "local copy failed and is latched");
            }
        }
        (self.notes)(note);
    }
}

impl Group {
    /// Ends every attachment; the next one gets a fresh token.
    fn drop_hosts(&self) {
        let fresh = self.stopping.child_token();
        self.hosts.replace(fresh).cancel();
    }
}
