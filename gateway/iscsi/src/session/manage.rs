//! What is no SCSI command: pings, task management, text, logout, and what is rejected.
//!
//! Invariant: ABORT TASK is never refused. A task management function is answered when the volume
//! has nothing more to do for what it ended, whichever session had begun it; a command of many steps
//! takes none after that.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;

use tracing::debug;
use zerocopy::IntoBytes;

use super::Ending;
use super::farewell::time_to_wait;
use super::receive::Body;
use super::tasks::Stage;
use super::turn::Session;
use crate::export::push_target;
use crate::limits::{MANAGEMENT_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::scsi::{Reset, Unit};
use crate::wire::text::{number, push};
use crate::wire::{Function, Header, NO_TAG, RejectReason, Request, Response};

/// Answers to task management (RFC 7143 §11.6.1).
const COMPLETE: u8 = 0;
const NO_SUCH_TASK: u8 = 1;
const NO_SUCH_UNIT: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const REJECTED: u8 = 255;

/// A task management function that waits for commands to end.
pub(super) struct Managing {
    tag: u32,
    response: u8,
    /// Commands of this session.
    waits: Vec<u64>,
    /// What the volume has of the other sessions.
    settles: Option<Pin<Box<dyn Future<Output = ()>>>>,
    ends_sessions: bool,
}

impl Session {
    /// Takes a PDU that is neither a command nor its data.
    pub(super) fn manage(&mut self, request: &Request, header: &Header, body: &Body) {
        let data: &[u8] = match body {
            Body::Shared(data) => data,
            Body::Own(data) => data,
            Body::Dropped => &[],
        };
        match *request {
            // The answer to a ping of ours has none.
            Request::NopOut { tag: NO_TAG, .. } => {}
            Request::NopOut { tag, .. } => {
                let len = data.len().min(self.params.send_segment as usize);
                let lun = [0; 8];
                self.say(Response::NopIn { lun, tag, target_tag: NO_TAG }, &data[..len]);
            }
            Request::Task { function, lun, tag, referenced, ref_cmd_sn, .. } => {
                if self.managing.len() >= MANAGEMENT_MAX {
                    return self.reject(RejectReason::ImmediateOverflow, header);
                }
                let managing = self.function((function, lun), tag, (referenced, ref_cmd_sn));
                self.managing.push(managing);
            }
            Request::Text { more, tag, target_tag, .. } => {
                self.text_request((more, tag, target_tag), header, data);
            }
            Request::Logout { reason, tag, connection, .. } => self.logout(reason, tag, connection),
            Request::Snack { .. } => self.reject(RejectReason::Snack, header),
            Request::Login { .. } | Request::Command { .. } | Request::DataOut { .. } => {
                self.reject(RejectReason::Protocol, header);
            }
        }
    }

    /// Rejects a PDU, with its header.
    pub(super) fn reject(&mut self, reason: RejectReason, header: &Header) {
        debug!(?reason, opcode = header.opcode, "rejected");
        self.say(Response::Reject(reason), header.as_bytes());
    }

    // === Task management ===

    fn function(
        &mut self,
        (function, lun): (Function, [u8; 8]),
        tag: u32,
        (referenced, number): (u32, u32),
    ) -> Managing {
        let (waits, settles, ends_sessions) = (Vec::new(), None, false);
        let mut managing = Managing { tag, response: COMPLETE, waits, settles, ends_sessions };
        let of_unit = matches!(
            function,
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset
        );
        let disk = self.disks.find(lun);
        if of_unit && disk.is_none() {
            managing.response = NO_SUCH_UNIT;
            return managing;
        }
        match function {
            Function::AbortTask => match self.tasks.find(referenced) {
                Some(key) => managing.waits.extend(self.abort(key)),
                // It may never have come; then it never will.
                None if self.window.holds(number) => {}
                None => managing.response = NO_SUCH_TASK,
            },
            Function::AbortTaskSet => managing.waits = self.abort_all(disk),
            Function::ClearTaskSet => self.reset(Reset::ClearTaskSet, disk, &mut managing),
            Function::LogicalUnitReset => self.reset(Reset::LogicalUnit, disk, &mut managing),
            Function::TargetWarmReset => self.reset(Reset::Target, None, &mut managing),
            Function::TargetColdReset => {
                self.reset(Reset::Target, None, &mut managing);
                managing.ends_sessions = true;
            }
            Function::ClearAca => managing.response = NOT_SUPPORTED,
            Function::TaskReassign => managing.response = NO_REASSIGNMENT,
            Function::Other(_) => managing.response = REJECTED,
        }
        managing
    }

    /// Resets one disk, or all that the initiator sees.
    fn reset(&mut self, kind: Reset, disk: Option<usize>, managing: &mut Managing) {
        managing.waits = self.abort_all(disk);
        let those = self.disks.iter().filter(|(at, _)| disk.is_none_or(|disk| disk == *at));
        let units: Vec<Rc<Unit>> = those
            .map(|(_, disk)| {
                disk.unit.reset(&disk.nexus, kind);
                Rc::clone(&disk.unit)
            })
            .collect();
        managing.settles = Some(Box::pin(async move {
            for unit in units {
                unit.settle().await;
            }
        }));
    }

    /// Ends the commands for one disk, or all that there are.
    fn abort_all(&mut self, disk: Option<usize>) -> Vec<u64> {
        let of = self.tasks.iter().filter(|(_, task)| disk.is_none() || task.disk == disk);
        let keys: Vec<u64> = of.map(|(key, _)| key).collect();
        keys.into_iter().filter_map(|key| self.abort(key)).collect()
    }

    /// Ends a command without an answer; gives its key if somebody still works on it.
    fn abort(&mut self, key: u64) -> Option<u64> {
        // What is in the batch has not been handed down, but is about to be.
        let task = self.tasks.get_mut(key)?;
        if task.stage == Stage::Running {
            task.aborted = true;
            if let Some(slow) = self.running.iter().find(|running| running.key == key) {
                slow.abort.tell();
            }
            return Some(key);
        }
        self.forget(key);
        None
    }

    /// Answers the functions whose commands have ended.
    pub(super) fn finish_managing(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while let Some(managing) = self.managing.get_mut(index) {
            managing.waits.retain(|key| self.tasks.get(*key).is_some());
            managing.settles.take_if(|settles| settles.as_mut().poll(cx).is_ready());
            if !managing.waits.is_empty() || managing.settles.is_some() {
                index += 1;
                continue;
            }
            let Managing { tag, response, ends_sessions, .. } = self.managing.remove(index);
            self.say(Response::Task { tag, response }, &[]);
            if ends_sessions {
                // This one ends by itself, once its answer is sent.
                self.peers.reset();
                self.over = Some(Ending::Reset);
            }
        }
    }

    // === Text and logout ===

    fn text_request(
        &mut self,
        (more, tag, target_tag): (bool, u32, u32),
        header: &Header,
        data: &[u8],
    ) {
        let (target, portals) = (&self.target, self.portals.borrow());
        let mut segment = None;
        let answer = |pairs: &[(&str, &str)]| {
            let mut out = Vec::new();
            for (key, value) in pairs {
                match *key {
                    "SendTargets" => {
                        // Of a session to one target, that is all there is to see.
                        if value.is_empty() || *value == "All" || value.eq_ignore_ascii_case(target)
                        {
                            push_target(&mut out, target, &portals);
                        }
                    }
                    "MaxRecvDataSegmentLength" => {
                        let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
                        match number(value).filter(|len| range.contains(len)) {
                            Some(len) => segment = Some(len),
                            None => push(&mut out, key, "Reject"),
                        }
                    }
                    other => push(&mut out, other, "NotUnderstood"),
                }
            }
            out
        };
        let room = self.params.send_segment as usize;
        let reply = self.text.take((more, target_tag), data, room, answer);
        drop(portals);
        if let Some(segment) = segment {
            self.params.send_segment = segment;
        }
        match reply {
            Ok(reply) => {
                let (is_final, more, target_tag) = (reply.is_final, reply.more, reply.target_tag);
                let response = Response::Text { is_final, more, lun: [0; 8], tag, target_tag };
                self.say(response, &reply.data);
            }
            Err(_bad) => self.reject(RejectReason::Protocol, header),
        }
    }

    pub(super) fn logout(&mut self, reason: u8, tag: u32, connection: u16) {
        const CLOSED: u8 = 0;
        const NO_SUCH_CONNECTION: u8 = 1;
        const NO_RECOVERY: u8 = 2;
        let response = match reason {
            0 => CLOSED,
            1 if connection == self.connection => CLOSED,
            1 => NO_SUCH_CONNECTION,
            _ => NO_RECOVERY,
        };
        self.say(Response::Logout { tag, response, wait: time_to_wait(), retain: 0 }, &[]);
        if response == CLOSED {
            self.over = Some(Ending::LoggedOut);
        }
    }
}
