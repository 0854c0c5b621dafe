//! SCSI commands: from their PDU through their data to their end.
//!
//! ```text
//!   command ─▶ Gathering ─▶ Waiting (for memory) ─▶ Running ─▶ answered
//!                  ▲  ask ◀──────╯                     ╰─▶ Held, if the outcome is in doubt
//!                  ╰── data
//! ```
//!
//! Invariant: a command is answered once, or ends without an answer because it was aborted or the
//! session ends. Nothing is handed to the volume before its data is here whole.

use std::rc::Rc;

use block::{Answer, Completion, IoError, Op, Request as Down, Segment};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tracing::debug;

use super::Ending;
use super::order::{Dormant, Planned};
use super::receive::{Body, Place};
use super::reply::{self, End, Residual};
use super::tasks::{Again, Came, Stage, Task, Tasks, Work};
use super::transfer::{Transfer, Wrong};
use super::turn::{Running, Session};
use super::window;
use crate::limits::{IMMEDIATE_MAX, INFLIGHT_BYTES_MAX, OWN_BUFFER_BYTES, PAYLOAD_KEPT_BYTES};
use crate::scsi::{self, Admission, Form, Outcome, Rank, Sense, Slow};
use crate::status::{Fate, fate};
use crate::wire::{Header, NO_TAG, RejectReason, Request, Response};
use host::payloads;

/// DATA PHASE ERROR: data came that does not fit the command.
const DATA_PHASE: Sense = Sense { key: 0xb, code: 0x4b00, information: None, field: None };

/// Where the data of a PDU goes.
pub(super) fn place(header: &Header, tasks: &mut Tasks) -> Place {
    let len = header.data_len();
    match Request::decode(header) {
        Ok(Request::DataOut { tag, .. }) => {
            let task = tasks.find(tag).and_then(|key| tasks.get_mut(key));
            match task {
                Some(Task { data: Some(data), came, .. }) => {
                    let keep = data.keeps(u32::try_from(len).unwrap_or(u32::MAX)) as usize;
                    Place::Into(own(came, data.wanted() as usize), keep)
                }
                Some(_) | None => Place::Drop,
            }
        }
        Ok(Request::Command { write: true, expected, .. }) if len >= OWN_BUFFER_BYTES => {
            let whole = (expected as usize).min(PAYLOAD_KEPT_BYTES);
            Place::Into(payloads::room(len.max(whole)), len)
        }
        Ok(_) | Err(_) => Place::Shared,
    }
}

/// What came so far, as memory that more goes behind.
fn own(came: &mut Came, wanted: usize) -> BytesMut {
    match std::mem::replace(came, Came::Nothing) {
        Came::Own(buffer) => buffer,
        Came::Nothing => payloads::room(wanted),
        Came::Shared(data) => {
            let mut buffer = payloads::room(wanted.max(data.len()));
            buffer.extend_from_slice(&data);
            buffer
        }
    }
}

impl Session {
    // === In ===

    /// Takes one PDU.
    pub(super) fn take(&mut self, header: &Header, body: Body, now: Instant) {
        self.spend(1);
        let Ok(request) = Request::decode(header) else {
            return self.reject(RejectReason::NotSupported, header);
        };
        if let Some(number) = request.command_sn() {
            match self.window.take(number, header.immediate()) {
                window::Place::Due => {}
                window::Place::Outside => return,
                window::Place::Gap => {
                    debug!(number, expected = self.window.expected(), "a command is missing");
                    self.reject(RejectReason::Protocol, header);
                    self.over = Some(Ending::Violated);
                    return;
                }
            }
        }
        match request {
            Request::Command { .. } => self.start(&request, header, body, now),
            Request::DataOut { .. } => self.data_out(&request, header, body, now),
            _ => self.manage(&request, header, &body),
        }
    }

    fn start(&mut self, request: &Request, header: &Header, body: Body, now: Instant) {
        let Request::Command { lun, tag, read, write, is_final, attribute, expected, cdb, .. } =
            *request
        else {
            return;
        };
        let counted = !header.immediate();
        if self.tasks.find(tag).is_some() || tag == NO_TAG {
            return self.reject(RejectReason::InProgress, header);
        }
        let beside = self.tasks.len().saturating_sub(self.tasks.counted() as usize);
        if !counted && beside >= IMMEDIATE_MAX {
            return self.reject(RejectReason::ImmediateOverflow, header);
        }
        let at = self.disks.find(lun);
        let (epoch, rank, plan) = match self.disks.get(at) {
            Some(disk) => disk.enter(attribute, &cdb),
            None => (0, Rank::Plain, Some(scsi::no_unit(&cdb, self.disks.numbers()))),
        };
        let announced =
            (if read && !write { expected } else { 0 }, if write { expected } else { 0 });
        let waits = plan.is_none();
        let Planned { work, transfer, wanted } = match plan {
            Some(plan) => Planned::of(plan, announced),
            None => Planned::later(announced.1.min(self.params.first_burst)),
        };
        let immediate = u32::try_from(header.data_len()).unwrap_or(u32::MAX);
        let sends = announced.1 > 0 || immediate > 0;
        let data = sends
            .then(|| Transfer::new((wanted, announced.1), immediate, is_final, &self.params))
            .transpose();
        let (data, wrong) = match data {
            Ok(data) => (data, None),
            Err(wrong) => (None, Some(wrong)),
        };
        let key = self.tasks.insert(Task {
            tag,
            opcode: cdb[0],
            lun,
            disk: at,
            counted,
            epoch,
            rank,
            expected_in: announced.0,
            expected_out: announced.1,
            transfer,
            change: work.as_ref().is_some_and(Work::is_change),
            work,
            again: None,
            doubted: None,
            came: came(body, wanted as usize),
            data,
            stage: if waits { Stage::Dormant } else { Stage::Gathering },
            aborted: false,
            charged: 0,
            received: now,
            moved: now,
        });
        if waits {
            self.dormant.push(Dormant { key, cdb });
        }
        match wrong {
            Some(wrong) => self.wrong(key, wrong, now),
            None => self.move_on(key, now),
        }
    }

    fn data_out(&mut self, request: &Request, header: &Header, body: Body, now: Instant) {
        let Request::DataOut { is_final, tag, target_tag, data_sn, offset, .. } = *request else {
            return;
        };
        // Data of a command that has ended is nobody's.
        let Some(key) = self.tasks.find(tag) else { return };
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.moved = now;
        let Some(data) = &mut task.data else { return };
        if let Body::Own(mut buffer) = body {
            // It began meanwhile, if it waited when this was on its way.
            buffer.truncate(data.wanted() as usize);
            task.came = Came::Own(buffer);
        }
        let burst = (target_tag != NO_TAG).then_some(target_tag);
        // A tag of another command stands for no burst that there is.
        let burst =
            burst.map(|tag| if tag >> 16 == slot_tag(key) { tag & 0xffff } else { u32::MAX });
        let len = u32::try_from(header.data_len()).unwrap_or(u32::MAX);
        match data.take(burst, (data_sn, offset, len), is_final) {
            Ok(()) => self.move_on(key, now),
            Err(wrong) => self.wrong(key, wrong, now),
        }
    }

    fn wrong(&mut self, key: u64, wrong: Wrong, now: Instant) {
        debug!(%wrong, "data does not fit its command");
        self.finish(key, &Outcome::refused(DATA_PHASE), now);
    }

    /// Goes on with a command as far as it can.
    pub(super) fn move_on(&mut self, key: u64, now: Instant) {
        let Some(task) = self.tasks.get(key).filter(|task| task.stage != Stage::Dormant) else {
            return;
        };
        let (asks, done) = match &task.data {
            Some(data) => (data.wants(), data.is_done()),
            None => (false, true),
        };
        if !asks && !done {
            return;
        }
        let memory = task.work.as_ref().map_or(0, Work::memory);
        // Data that came by itself is here already.
        let is_here = done && matches!(task.work, Some(Work::Write(..) | Work::Answer(_)));
        let charged = task.charged > 0 || memory == 0;
        if !charged && !is_here && (!self.waiting.is_empty() || !self.has_room(memory)) {
            if let Some(task) = self.tasks.get_mut(key) {
                task.stage = Stage::Waiting;
            }
            self.waiting.push_back(key);
            return;
        }
        self.charge(key, memory);
        self.go(key, now);
    }

    /// Whether a command may take this much memory.
    fn has_room(&mut self, memory: u64) -> bool {
        let total = self.load() + memory;
        (total <= INFLIGHT_BYTES_MAX || self.load() == 0) && self.grant.covers(total)
    }

    fn charge(&mut self, key: u64, memory: u64) {
        if let Some(task) = self.tasks.get_mut(key)
            && task.charged == 0
        {
            task.charged = memory;
            self.charged += memory;
        }
    }

    /// Asks for data, or does what is to be done.
    fn go(&mut self, key: u64, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.data.as_ref().is_none_or(Transfer::is_done) {
            return self.launch(key, now);
        }
        task.stage = Stage::Gathering;
        task.moved = now;
        let (lun, tag) = (task.lun, task.tag);
        while let Some(ask) =
            self.tasks.get_mut(key).and_then(|task| task.data.as_mut()).and_then(Transfer::ask)
        {
            let response = Response::ReadyToTransfer {
                lun,
                tag,
                target_tag: slot_tag(key) << 16 | ask.number & 0xffff,
                r2t_sn: ask.number,
                offset: ask.offset,
                len: ask.len,
            };
            self.say(response, &[]);
        }
    }

    /// Goes on with those that waited for memory, oldest first.
    pub(super) fn serve_waiting(&mut self) {
        while let Some(key) = self.waiting.front().copied() {
            let memory = self.tasks.get(key).and_then(|task| task.work.as_ref()).map(Work::memory);
            if let Some(memory) = memory {
                if !self.has_room(memory) {
                    return;
                }
                self.charge(key, memory);
                self.go(key, Instant::now());
            }
            self.waiting.pop_front();
        }
    }

    // === Down ===

    fn launch(&mut self, key: u64, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.stage = Stage::Running;
        let came = std::mem::replace(&mut task.came, Came::Nothing);
        let Some(work) = task.work.take() else { return };
        match work {
            Work::Answer(outcome) => {
                let transfer = task.transfer;
                self.finish(key, &Outcome { transfer, ..outcome }, now);
            }
            Work::Slow(slow) => self.run(key, slow, whole(came)),
            Work::Read(extent) => self.access(key, Again::Read(extent)),
            Work::Write(extent, fua) => {
                self.access(key, Again::Write(extent, fua, whole(came)));
            }
        }
    }

    /// Hands a read or a write down, if nothing has come in its way since it began.
    fn access(&mut self, key: u64, access: Again) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Some(disk) = self.disks.get(task.disk) else { return };
        let (extent, write, data) = match &access {
            Again::Read(extent) => (*extent, None, Bytes::new()),
            Again::Write(extent, fua, data) => (*extent, Some(*fua), data.clone()),
        };
        match disk.unit.admit(&disk.nexus, task.epoch, extent, write) {
            Admission::Go => {
                task.again = Some(access);
                match write {
                    None => self.push(key, Op::Read(extent), false),
                    Some(fua) => self.push(key, Op::Write(extent, data), fua),
                }
            }
            Admission::Aborted => self.forget(key),
            Admission::Slow(slow) => self.run(key, slow, data),
        }
    }

    fn push(&mut self, key: u64, op: Op, fua: bool) {
        self.spend(op.extent().map_or(0, |extent| extent.len() >> 14));
        let ticket = self.completions.ticket(key);
        let at = self.tasks.get(key).and_then(|task| task.disk);
        if let Some(disk) = self.disks.get_mut(at) {
            disk.batch.push(Down { op, fua, ticket });
        }
    }

    fn run(&mut self, key: u64, slow: Slow, data: Bytes) {
        let at = self.tasks.get(key).and_then(|task| task.disk);
        let Some(disk) = self.disks.get(at) else { return };
        let abort = slow.abort.clone();
        let future = Rc::clone(&disk.unit).run(disk.nexus.clone(), slow, data);
        self.running.push(Running { key, abort, future: Box::pin(future) });
        self.fresh = true;
    }

    // === Up ===

    /// The volume has answered.
    pub(super) fn answered(&mut self, completion: Completion, now: Instant) {
        let Completion { tag: key, result } = completion;
        let Some(task) = self.tasks.get(key) else { return };
        let transfer = task.transfer;
        let good = Outcome { transfer, ..Outcome::good() };
        match result {
            Ok(Answer::Read(segments)) => self.finish_with(key, &good, &segments, now),
            Ok(Answer::Done) => self.finish(key, &good, now),
            Err(error) => self.failed(key, error, now),
        }
    }

    /// A slow command has ended.
    pub(super) fn ran(&mut self, key: u64, result: Result<Outcome, IoError>, now: Instant) {
        match result {
            Ok(mut outcome) => {
                // A read or a write that waited for its blocks transfers what its CDB says.
                let planned = self.tasks.get(key).map_or(0, |task| task.transfer);
                if planned > 0 && outcome.status == scsi::Status::Good {
                    outcome.transfer = planned;
                }
                self.finish(key, &outcome, now);
            }
            Err(error) => self.failed(key, error, now),
        }
    }

    fn failed(&mut self, key: u64, error: IoError, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        debug!(tag = task.tag, opcode = task.opcode, %error, "command failed");
        match fate(error, task.change) {
            Fate::Sense(sense) => self.finish(key, &Outcome::refused(sense), now),
            Fate::Busy => self.finish(key, &Outcome::of(scsi::Status::Busy), now),
            Fate::Hold if task.aborted => self.forget(key),
            Fate::Hold => {
                match self.disks.get(task.disk).and_then(|disk| disk.unit.detour()) {
                    // It is known already where the command has to go.
                    Some(sense) => self.finish(key, &Outcome::refused(sense), now),
                    None => task.stage = Stage::Held(*task.doubted.get_or_insert(now)),
                }
            }
        }
    }

    /// The way to the volume changed. Where another gateway has it, what is held is told to go there: a
    /// write that was under way here was done before that gateway took over, or never. Where it is
    /// served here again, a read or a write is done once more: nobody was told that it was done, so it
    /// may be done after whatever was answered meanwhile.
    pub(super) fn decide_held(&mut self, now: Instant) {
        let is_held = |task: &Task| matches!(task.stage, Stage::Held(_));
        let held = self.tasks.iter().filter(|(_, task)| is_held(task));
        let held: Vec<(u64, Option<usize>)> = held.map(|(key, task)| (key, task.disk)).collect();
        for (key, at) in held {
            if let Some(sense) = self.disks.get(at).and_then(|disk| disk.unit.detour()) {
                self.finish(key, &Outcome::refused(sense), now);
                continue;
            }
            let Some(task) = self.tasks.get_mut(key) else { continue };
            if let Some(access) = task.again.take() {
                task.stage = Stage::Running;
                self.access(key, access);
            }
        }
    }

    /// A command ends without an answer.
    pub(super) fn forget(&mut self, key: u64) {
        self.end(key);
    }

    /// Takes a command out of all that counts it.
    fn end(&mut self, key: u64) -> Option<Task> {
        let task = self.tasks.remove(key)?;
        self.charged -= task.charged;
        if let Some(disk) = self.disks.get(task.disk) {
            disk.unit.leave(&disk.nexus, task.epoch, task.rank);
        }
        Some(task)
    }

    fn finish(&mut self, key: u64, outcome: &Outcome, now: Instant) {
        if outcome.data_in.is_empty() {
            return self.finish_with(key, outcome, &[], now);
        }
        let data = [Segment::Data(outcome.data_in.clone())];
        self.finish_with(key, outcome, &data, now);
    }

    /// Answers a command.
    fn finish_with(&mut self, key: u64, outcome: &Outcome, segments: &[Segment], now: Instant) {
        let Some(task) = self.end(key) else { return };
        let disk = self.disks.get(task.disk);
        if task.aborted || disk.is_some_and(|disk| task.epoch != disk.nexus.epoch()) {
            return;
        }
        let form = disk.map_or(Form::Fixed, |disk| disk.nexus.form());
        let announced = if task.expected_out > 0 { task.expected_out } else { task.expected_in };
        let here: u64 = segments.iter().map(Segment::len).sum();
        let len = u32::try_from(here).unwrap_or(u32::MAX).min(task.expected_in);
        let sense = outcome.sense.map(|sense| sense.encode(form));
        let end = End {
            tag: task.tag,
            status: outcome.status as u8,
            residual: Residual::of(announced, outcome.transfer),
            sense: sense.as_deref().unwrap_or_default(),
        };
        let stamp = self.stamp();
        reply::end(&mut self.outgoing, (&self.params, stamp), (segments, len), &end);
        self.stat_sn = self.stat_sn.wrapping_add(1);
        if let Some(disk) = self.disks.get_mut(task.disk) {
            let times = (task.received, now);
            disk.meter.answered(task.opcode, outcome.status, outcome.transfer, times);
        }
    }
}

/// The upper half of the tags under which a command's data is asked for.
fn slot_tag(key: u64) -> u32 {
    // A session has fewer slots than 2¹⁵.
    u32::try_from(key & 0x7fff).unwrap_or(0)
}

fn came(body: Body, wanted: usize) -> Came {
    match body {
        Body::Shared(mut data) => {
            data.truncate(wanted);
            if data.is_empty() { Came::Nothing } else { Came::Shared(data) }
        }
        Body::Own(mut buffer) => {
            buffer.truncate(wanted);
            Came::Own(buffer)
        }
        Body::Dropped => Came::Nothing,
    }
}

/// All that came, in one piece.
fn whole(came: Came) -> Bytes {
    match came {
        Came::Nothing => Bytes::new(),
        Came::Shared(data) => data,
        Came::Own(buffer) => payloads::filled(buffer).freeze(),
    }
}
