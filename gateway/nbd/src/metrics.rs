//! What a host's connection counts.
//!
//! Invariant: every handle is resolved when the connection is attached; while it runs, numbers are
//! gathered in plain fields and added once per wake-up. The gauges come back to where they were
//! when it ends.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};
use tokio::time::Instant;

use crate::wire::{Command, Errno};

const PROTO: &str = "nbd";

/// The operations that are told apart, in the order of [`index`].
const OPS: [&str; 7] = ["read", "write", "flush", "trim", "cache", "write_zeroes", "block_status"];

const fn index(command: Command) -> usize {
    match command {
        Command::Read => 0,
        Command::Write => 1,
        // It is never counted: it has no reply.
        Command::Flush | Command::Disconnect => 2,
        Command::Trim => 3,
        Command::Cache => 4,
        Command::WriteZeroes => 5,
        Command::BlockStatus => 6,
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

/// The numbers of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    volume: String,
    rows: [Row; OPS.len()],
    connections: Gauge,
    inflight: Gauge,
    inflight_told: u32,
    any_new: bool,
    /// Requests that were received and answered together share one duration.
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

    /// A request that was handed down has been answered well.
    pub(crate) fn answered(
        &mut self,
        command: Command,
        bytes: u64,
        (received, now): (Instant, Instant),
    ) {
        self.counted(command, bytes);
        let run = (index(command), received);
        if self.run != Some(run) {
            self.end_run(now);
            self.run = Some(run);
        }
        self.run_len += 1;
    }

    /// A request was answered well on the spot.
    pub(crate) fn counted(&mut self, command: Command, bytes: u64) {
        let row = &mut self.rows[index(command)];
        row.requests_new += 1;
        row.bytes_new += bytes;
        self.any_new = true;
    }

    /// A request was answered with an error. These are rare, so the handle is looked up.
    pub(crate) fn failed(&self, command: Option<Command>, error: Errno) {
        let op = command.map_or("unknown", |command| OPS[index(command)]);
        metrics::counter!(
            "twinspan_frontend_requests_total",
            "proto" => PROTO,
            "volume" => self.volume.clone(),
            "op" => op,
            "result" => error.name()
        )
        .increment(1);
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
            let took: Duration = now.saturating_duration_since(received);
            self.rows[row].duration.record_many(took.as_secs_f64(), self.run_len);
        }
        self.run_len = 0;
    }

    /// The queue is this deep.
    pub(crate) fn inflight(&mut self, requests: usize) {
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        if requests != self.inflight_told {
            self.inflight.increment(f64::from(requests) - f64::from(self.inflight_told));
            self.inflight_told = requests;
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.inflight(0);
        self.connections.decrement(1.0);
    }
}
