//! What an initiator's session counts.
//!
//! Invariant: every handle is resolved when the session begins; while it runs, numbers are gathered
//! in plain fields and added once per wake-up. The gauges come back to where they were when it ends.

use metrics::{Counter, Gauge, Histogram, Label};
use tokio::time::Instant;

use crate::scsi::Status;

const PROTO: &str = "iscsi";

/// The operations that are told apart, in the order of [`index`].
const OPS: [&str; 6] = ["read", "write", "flush", "trim", "write_zeroes", "other"];

/// Which operation a CDB's first byte is.
const fn index(opcode: u8) -> usize {
    match opcode {
        0x08 | 0x28 | 0xa8 | 0x88 => 0,
        0x0a | 0x2a | 0xaa | 0x8a => 1,
        0x35 | 0x91 => 2,
        0x42 => 3,
        0x41 | 0x93 => 4,
        _ => 5,
    }
}

const fn result(status: Status) -> &'static str {
    match status {
        Status::Good | Status::ConditionMet => "ok",
        Status::CheckCondition => "check_condition",
        Status::Busy => "busy",
        Status::ReservationConflict => "reservation_conflict",
        Status::TaskSetFull => "task_set_full",
        Status::TaskAborted => "task_aborted",
    }
}

#[derive(Debug)]
struct Row {
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
    /// Since the last time they were added to the handles.
    requests_new: u64,
    bytes_new: u64,
}

/// The numbers of one session.
#[derive(Debug)]
pub(crate) struct Meter {
    volume: String,
    rows: [Row; OPS.len()],
    connections: Gauge,
    inflight: Gauge,
    inflight_told: u32,
    any_new: bool,
    /// Commands that were received and answered together share one duration.
    run: Option<(usize, Instant)>,
    run_len: usize,
}

impl Meter {
    pub(crate) fn new(volume: &str) -> Self {
        let labels = |more: &[(&'static str, &'static str)]| {
            let mut labels =
                vec![Label::new("proto", PROTO), Label::new("volume", volume.to_owned())];
            labels.extend(more.iter().map(|(key, value)| Label::new(*key, *value)));
            labels
        };
        let rows = OPS.map(|op| Row {
            requests: metrics::counter!(
                "twinspan_frontend_requests_total",
                labels(&[("op", op), ("result", "ok")])
            ),
            bytes: metrics::counter!("twinspan_frontend_bytes_total", labels(&[("op", op)])),
            duration: metrics::histogram!(
                "twinspan_frontend_request_duration_seconds",
                "proto" => PROTO,
                "op" => op
            ),
            requests_new: 0,
            bytes_new: 0,
        });
        let connections = metrics::gauge!("twinspan_frontend_connections", labels(&[]));
        connections.increment(1.0);
        Self {
            volume: volume.to_owned(),
            rows,
            connections,
            inflight: metrics::gauge!("twinspan_frontend_inflight_requests", labels(&[])),
            inflight_told: 0,
            any_new: false,
            run: None,
            run_len: 0,
        }
    }

    /// A command has been answered.
    pub(crate) fn answered(
        &mut self,
        opcode: u8,
        status: Status,
        bytes: u64,
        (received, now): (Instant, Instant),
    ) {
        let index = index(opcode);
        let result = result(status);
        if result != "ok" {
            // These are rare, so the handle is looked up.
            metrics::counter!(
                "twinspan_frontend_requests_total",
                "proto" => PROTO,
                "volume" => self.volume.clone(),
                "op" => OPS[index],
                "result" => result
            )
            .increment(1);
            return;
        }
        let row = &mut self.rows[index];
        row.requests_new += 1;
        row.bytes_new += bytes;
        self.any_new = true;
        let run = (index, received);
        if self.run != Some(run) {
            self.end_run(now);
            self.run = Some(run);
        }
        self.run_len += 1;
    }

    /// Adds what was gathered; the answers go out at `now`.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.end_run(now);
        if !std::mem::take(&mut self.any_new) {
            return;
        }
        for row in &mut self.rows {
            if row.requests_new > 0 {
                row.requests.increment(std::mem::take(&mut row.requests_new));
                row.bytes.increment(std::mem::take(&mut row.bytes_new));
            }
        }
    }

    fn end_run(&mut self, now: Instant) {
        if let Some((row, received)) = self.run.take() {
            let took = now.saturating_duration_since(received);
            self.rows[row].duration.record_many(took.as_secs_f64(), self.run_len);
        }
        self.run_len = 0;
    }

    /// The queue is this deep.
    pub(crate) fn inflight(&mut self, commands: usize) {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        if commands != self.inflight_told {
            self.inflight.increment(f64::from(commands) - f64::from(self.inflight_told));
            self.inflight_told = commands;
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.inflight(0);
        self.connections.decrement(1.0);
    }
}
