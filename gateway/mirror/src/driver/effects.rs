//! What each effect does.
//!
//! Invariant: effects of one turn are done in their order; those for one store or one link keep it.

use std::rc::Rc;

use block::{Answer, Extent, IoError, LegId, Message, Op, Request, Seq, Ticket, WriteId};

use super::host::op_of;
use super::inbox::{Tag, join, read_of};
use super::members::Member;
use super::{Core, Group, upstream};
use crate::certificate::{certificate_key, encode};
use crate::command::Refusal;
use crate::machine::{Effect, Event, Note};
use crate::status::Verified;

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
                    self.members[volume].store.record_activity(&set, ticket);
                }
            }
            Effect::Copy { leg, copy, seq, volume, extent, compare: false } => {
                self.copy(leg, copy, seq, (volume, extent));
            }
            Effect::Copy { leg, copy, seq, volume, extent, compare: true } => {
                self.compare((leg, copy), seq, volume, extent);
            }
            Effect::List { leg } => self.list(leg),
            Effect::Certify { leg, found } => self.certify(leg, found, group),
            Effect::Post { leg, message } => {
                if let Some(port) = &mut self.legs[leg.index()] {
                    port.post(message);
                }
            }
            Effect::FlushLocal { round, volumes } => self.flush_local(round, &volumes),
            Effect::Record { number, records } => {
                self.ledger.put(records, self.sink.ticket(Tag::Recorded(number).pack()));
            }
            Effect::Dial { leg } => self.dials.push(leg),
            Effect::Hang { leg, redial } => self.hang_up(leg, redial),
            Effect::Accept { differs, opened } => {
                upstream::accept(self, group, differs, opened);
            }
            Effect::Refuse { goodbye } => upstream::refuse(self, group, goodbye),
            Effect::Reply { message } => self.reply(message),
            Effect::HangUpstream { goodbye } => upstream::hang(self, goodbye),
            Effect::GrowLocal { volume, bytes } => {
                let ticket = self.ticket(Tag::Grown(volume));
                self.members[volume].store.grow(bytes, ticket);
            }
            Effect::Arbitrate { number, claim } => self.ask_witness(Some((number, claim))),
            Effect::Look => self.ask_witness(None),
            Effect::TellCompanions { state } => self.tell_companions(state, group),
            Effect::Snapshot { snapshots } => self.snapshot(&snapshots),
            Effect::RemoveSnapshots { snapshots } => self.remove_snapshots(snapshots),
            Effect::ListChanged { snapshots } => self.list_changed(&snapshots),
            Effect::ListPoint { leg, snapshots, whole } => self.list_point(leg, &snapshots, whole),
            Effect::RollBack { snapshots } => self.roll_back(&snapshots),
            Effect::Journal(entry) => self.write_down(entry),
            Effect::DropHosts => group.drop_hosts(),
            Effect::Answered(result) => self.answered(result),
            Effect::RoomMade(token, result) => self.room_made(token, result),
            Effect::AttributesKept { token, result } => self.attributes_kept(token, result),
            Effect::Note(note) => self.note(group, note),
        }
    }

    fn hang_up(&mut self, leg: LegId, redial: bool) {
        if let Some(port) = self.legs[leg.index()].take() {
            port.port.close();
            port.port.wake();
        }
        if redial {
            self.dials.push(leg);
        }
    }

    fn answered(&mut self, result: Result<(), Refusal>) {
        if let Some(waiter) = self.waiter.take() {
            // A caller that went away no longer wants to know.
            drop(waiter.send(result));
        }
    }

    fn apply(&mut self, write: WriteId) {
        let ticket = self.ticket(Tag::Applied(write));
        let entry = self.slab.get(write);
        if entry.ticket.is_some() {
            entry.launched = self.metrics.launched(entry.since);
        }
        let change = entry.change.clone().expect("only changes are applied");
        let (volume, fua) = (entry.volume, entry.fua);
        self.batches[volume].push(Request { op: op_of(change), fua, ticket });
    }

    fn send(&mut self, leg: LegId, seq: Seq, write: WriteId) {
        let entry = self.slab.get(write);
        let (extent, change) = entry.change.clone().expect("only changes are sent");
        let volume = u16::try_from(entry.volume).expect("a group has few volumes");
        let journaled = self.machine.is_journaled(leg);
        // Where nobody waits for it, it becomes durable with the next cut.
        let (fua, since) = (entry.fua && !journaled, entry.since);
        if let Some(port) = &mut self.legs[leg.index()] {
            let message = Message::Change { seq, volume, extent, change, fua, resync: false };
            port.send(seq, since, message, journaled);
        }
    }

    pub(super) fn answer(&mut self, write: WriteId, result: Result<(), IoError>) {
        let entry = self.slab.get(write);
        let is_change = entry.change.is_some();
        let since = entry.since;
        if let Some(launched) = entry.launched.take() {
            self.metrics.acknowledged(launched);
        }
        if let Some(ticket) = entry.ticket.take() {
            ticket.answer(result.map(|()| Answer::Done));
        }
        self.metrics.answered(is_change, since, result);
    }

    fn flush_local(&mut self, number: u64, volumes: &[usize]) {
        let key = self.begin_round(number, volumes.len());
        for volume in volumes {
            // Behind what this turn already submits: a flush covers what was answered before.
            let ticket = self.ticket(Tag::Flushed(key));
            self.batches[*volume].push(Request { op: Op::Flush, fua: false, ticket });
        }
        self.submit();
    }

    fn copy(&mut self, leg: LegId, copy: u8, seq: Seq, (volume, extent): (usize, Extent)) {
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(port) = &mut self.legs[leg.index()] else { return };
        port.copies.insert(attempt, super::leg::CopyUnderWay { seq, volume, extent });
        let source = port.source.get(volume).map(Rc::clone);
        let ticket = self.ticket(Tag::Copied { leg, copy, attempt });
        let request = Request { op: Op::Read(extent), fua: false, ticket };
        match source {
            // A point of the copy here that does not change any more.
            Some(point) => point.submit(&mut vec![request]),
            None => self.batches[volume].push(request),
        }
    }

    /// Asks a mirror which blocks differ. The range lock keeps everybody else away from them.
    fn compare(&mut self, (leg, copy): (LegId, u8), seq: Seq, volume: usize, extent: Extent) {
        let Some(port) = &mut self.legs[leg.index()] else { return };
        match self.members[volume].store.checksums(extent) {
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
        let resync = !self.machine.has_all(leg);
        let journaled = self.machine.is_journaled(leg);
        match read_of(result) {
            Err(error) => self.events.push(Event::CopyFailed { leg, copy, error }),
            Ok(segments) => {
                let change = match join(segments) {
                    Some(data) => block::Change::Write(data),
                    None => block::Change::Zero { may_trim: true },
                };
                let volume = u16::try_from(volume).expect("a group has few volumes");
                port.post(Message::Change { seq, volume, extent, change, fua: false, resync });
                if journaled {
                    self.events.push(Event::CopyQueued { leg, copy, seq });
                }
            }
        }
    }

    /// Lists what is mapped. The map is read, not the data.
    fn list(&mut self, leg: LegId) {
        /// Ranges asked for at a time.
        const STEP: usize = 4096;
        let mut mapped = Vec::with_capacity(self.members.len());
        for Member { store, .. } in &self.members {
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

    /// A verification ended now: its certificate outlives this process.
    fn certify(&mut self, leg: LegId, found: Verified, group: &Rc<Group>) {
        let found = Verified { at_ms: group.clock.unix_ms(), ..found };
        self.certificates[leg.index()] = Some(found);
        if let Some((gateway, _)) = self.machine.leg_peer(leg) {
            let key = certificate_key(group.id, gateway);
            // One that is lost with a failing ledger is made anew by the next verification.
            self.ledger.put(vec![(key, Some(encode(&found)))], Ticket::ignored());
        }
        self.note(group, Note::Verified { leg, found });
    }

    pub(super) fn grown(&mut self, volume: usize, error: Option<IoError>) {
        let result = match error {
            Some(error) => Err(error),
            None => Ok(self.members[volume].store.geometry().bytes()),
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
            Note::MirrorFollows { leg } => {
                tracing::info!(group = group_name, %leg, "mirror keeps whole cuts");
            }
            Note::Degraded { leg } => {
                tracing::warn!(group = group_name, %leg, "mirror is too slow and follows behind");
            }
            Note::Transferred { leg } => {
                tracing::info!(group = group_name, %leg, "transfer is done");
            }
            Note::SnapshotTaken { .. } | Note::SnapshotMissed { .. } | Note::RolledBack { .. } => {
                super::points::log(group_name, &note)
            }
            Note::Promoted => tracing::info!(group = group_name, "became primary"),
            Note::Demoted => tracing::info!(group = group_name, "hands over to its mirror"),
            Note::Detached(true) => {
                tracing::warn!(group = group_name, "copy is open to hosts on its own");
            }
            Note::Detached(false) => {
                tracing::info!(group = group_name, "copy is no longer open to hosts");
            }
            Note::Fenced => {
                tracing::error!(group = group_name, "fenced by a higher epoch; hosts dropped");
            }
            Note::FencedOff { gateway } => {
                tracing::warn!(group = group_name, %gateway, "refused a primary of a lower epoch");
            }
            Note::SplitBrain { leg } => {
                tracing::error!(group = group_name, %leg, "split brain: both sides have own writes");
            }
            Note::StretchJoined { .. }
            | Note::StretchEnded { .. }
            | Note::Excluded { .. }
            | Note::ExcludedBy { .. } => super::companions::log(group_name, &note),
            Note::TakesOver => {
                tracing::warn!(group = group_name, "primary and its lease are lost; taking over");
            }
            Note::Witness { reachable } => {
                tracing::warn!(group = group_name, reachable, "witness");
            }
            Note::Mismatch { leg, volume, blocks } => {
                tracing::error!(group = group_name, %leg, volume, blocks, "copies differ");
            }
            Note::Verified { leg, found } => {
                let (blocks, mismatched) = (found.blocks, found.mismatched);
                tracing::info!(group = group_name, %leg, blocks, mismatched, "verified a mirror");
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
