//! What a group measures of itself. Gauges of state are made from [`crate::GroupStatus`] at scrape
//! time by whoever serves them, so that what is unknown is absent.
//!
//! Invariant: handles are resolved once; the hot path reads the clock once a turn.

use std::time::Duration;

use block::{IoError, LinkTraffic};
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};
use tokio::time::Instant;

/// The families of this crate, for `/metrics` and its documentation.
pub fn describe() {
    describe_histogram!(
        "twinspan_write_duration_seconds",
        Unit::Seconds,
        "Write received to write acknowledged, per consistency group"
    );
    describe_histogram!(
        "twinspan_flush_duration_seconds",
        Unit::Seconds,
        "Flush received to flush acknowledged: durable on every copy that counts"
    );
    describe_histogram!(
        "twinspan_leg_ack_duration_seconds",
        Unit::Seconds,
        "Replication latency: change sent to a mirror until its acknowledgement"
    );
    describe_histogram!(
        "twinspan_leg_persist_duration_seconds",
        Unit::Seconds,
        "How long the mirror's last sync took, as it reports it"
    );
    describe_counter!(
        "twinspan_leg_sent_bytes_total",
        Unit::Bytes,
        "Bytes sent to a mirror, headers included"
    );
    describe_counter!(
        "twinspan_leg_received_bytes_total",
        Unit::Bytes,
        "Bytes received from a mirror, headers included"
    );
}

/// One group's.
pub(crate) struct Metrics {
    write: Histogram,
    flush: Histogram,
    /// When the requests were received that were answered in this turn.
    writes: Vec<Instant>,
    flushes: Vec<Instant>,
}

impl Metrics {
    pub(crate) fn new(group: &str) -> Self {
        let group = group.to_owned();
        Self {
            write: histogram!("twinspan_write_duration_seconds", "group" => group.clone()),
            flush: histogram!("twinspan_flush_duration_seconds", "group" => group),
            writes: Vec::new(),
            flushes: Vec::new(),
        }
    }

    pub(crate) fn answered(&mut self, change: bool, since: Instant, result: Result<(), IoError>) {
        if result.is_ok() {
            if change { self.writes.push(since) } else { self.flushes.push(since) }
        }
    }

    pub(crate) fn end_of_turn(&mut self) {
        if self.writes.is_empty() && self.flushes.is_empty() {
            return;
        }
        let now = Instant::now();
        for since in self.writes.drain(..) {
            self.write.record(now - since);
        }
        for since in self.flushes.drain(..) {
            self.flush.record(now - since);
        }
    }
}

/// One link to a mirror. The label is the mirror's site.
pub(crate) struct LegMetrics {
    write_ack: Histogram,
    flush_ack: Histogram,
    persist: Histogram,
    sent_mirror: Counter,
    sent_resync: Counter,
    received: Counter,
    last: LinkTraffic,
}

impl LegMetrics {
    pub(crate) fn new(leg: &str) -> Self {
        let leg = leg.to_owned();
        let ack = "twinspan_leg_ack_duration_seconds";
        let sent = "twinspan_leg_sent_bytes_total";
        Self {
            write_ack: histogram!(ack, "leg" => leg.clone(), "kind" => "write"),
            flush_ack: histogram!(ack, "leg" => leg.clone(), "kind" => "flush"),
            persist: histogram!("twinspan_leg_persist_duration_seconds", "leg" => leg.clone()),
            sent_mirror: counter!(sent, "leg" => leg.clone(), "class" => "mirror"),
            sent_resync: counter!(sent, "leg" => leg.clone(), "class" => "resync"),
            received: counter!(
                "twinspan_leg_received_bytes_total", "leg" => leg, "class" => "control"
            ),
            last: LinkTraffic::default(),
        }
    }

    pub(crate) fn write_ack(&self, took: Duration) {
        self.write_ack.record(took);
    }

    pub(crate) fn flush_ack(&self, took: Duration) {
        self.flush_ack.record(took);
    }

    pub(crate) fn persist(&self, took_us: u32) {
        if took_us > 0 {
            self.persist.record(Duration::from_micros(u64::from(took_us)));
        }
    }

    /// Counts what went over the link since the last time.
    pub(crate) fn traffic(&mut self, now: LinkTraffic) {
        let resync = now.sent_resync_bytes - self.last.sent_resync_bytes;
        let sent = now.sent_bytes - self.last.sent_bytes;
        self.sent_resync.increment(resync);
        self.sent_mirror.increment(sent.saturating_sub(resync));
        self.received.increment(now.received_bytes - self.last.received_bytes);
        self.last = now;
    }
}
