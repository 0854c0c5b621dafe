//! What a group measures of itself. Gauges of state are made from [`crate::GroupStatus`] at scrape
//! time by whoever serves them, so that what is unknown is absent.
//!
//! Invariant: handles are resolved once; the hot path reads the clock once a turn.

use std::time::Duration;

use block::{IoError, LinkError, LinkTraffic};
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
        "twinspan_leg_payload_bytes_total",
        Unit::Bytes,
        "Bytes of content among those sent to a mirror"
    );
    describe_counter!(
        "twinspan_leg_reconnects_total",
        Unit::Count,
        "Links to a mirror that ended after they had been open, by why"
    );
    describe_histogram!(
        "twinspan_write_stage_duration_seconds",
        Unit::Seconds,
        "Where a mirrored write spends its time; one write in 16 is measured"
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
    stages: Stages,
}

/// Where a write spends its time. Writes are sampled, so that the clock and the histograms cost
/// the hot path next to nothing.
struct Stages {
    admit: Histogram,
    local: Histogram,
    remote: Histogram,
    /// Launched writes since the last one that was measured.
    unmeasured: u32,
}

/// One launched write in so many is measured.
const STAGES_SAMPLED: u32 = 16;

/// When a write that is measured was launched, and when the copy here had it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launched {
    at: Instant,
    applied: Option<Instant>,
}

impl Metrics {
    pub(crate) fn new(group: &str) -> Self {
        let group = group.to_owned();
        Self {
            write: histogram!("twinspan_write_duration_seconds", "group" => group.clone()),
            flush: histogram!("twinspan_flush_duration_seconds", "group" => group),
            writes: Vec::new(),
            flushes: Vec::new(),
            stages: Stages::new(),
        }
    }

    /// A host's write goes to its copies; says what to remember if it is one that is measured.
    pub(crate) fn launched(&mut self, since: Instant) -> Option<Launched> {
        self.stages.unmeasured += 1;
        if self.stages.unmeasured < STAGES_SAMPLED {
            return None;
        }
        self.stages.unmeasured = 0;
        let at = Instant::now();
        self.stages.admit.record(at - since);
        Some(Launched { at, applied: None })
    }

    /// The copy here has it.
    pub(crate) fn applied(&self, launched: &mut Launched) {
        let now = Instant::now();
        self.stages.local.record(now - launched.at);
        launched.applied = Some(now);
    }

    /// Every copy that counts has it: what the mirrors took longer than the copy here.
    pub(crate) fn acknowledged(&self, launched: Launched) {
        if let Some(applied) = launched.applied {
            self.stages.remote.record(applied.elapsed());
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

impl Stages {
    fn new() -> Self {
        let stage = |word: &'static str| histogram!("twinspan_write_stage_duration_seconds", "stage" => word);
        Self {
            admit: stage("admit"),
            local: stage("local"),
            remote: stage("remote"),
            unmeasured: 0,
        }
    }
}

/// Why a link that had been open ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The peer was silent for too long.
    Timeout,
    /// The network, or the peer's process, broke it.
    Reset,
    /// The peer's certificate was not the expected one.
    Tls,
    /// What it said made no sense here.
    Protocol,
    /// It was ended here: by an operator, or because the mirror failed.
    Admin,
}

impl Ended {
    const ALL: [Self; 5] = [Self::Timeout, Self::Reset, Self::Tls, Self::Protocol, Self::Admin];

    const fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Admin => "admin",
        }
    }
}

impl From<&LinkError> for Ended {
    fn from(error: &LinkError) -> Self {
        match error {
            LinkError::Closed | LinkError::Io(_) => Self::Reset,
            LinkError::Corrupt(_) | LinkError::Version { .. } => Self::Protocol,
            LinkError::Untrusted(_) => Self::Tls,
            LinkError::Timeout => Self::Timeout,
        }
    }
}

/// What goes over one link to a mirror, and how it ends. It belongs to the task that carries the
/// link, so that the last bytes are counted too when the leg is given up before its link is.
pub(crate) struct TrafficMetrics {
    sent_mirror: Counter,
    sent_resync: Counter,
    payload_mirror: Counter,
    payload_resync: Counter,
    received: Counter,
    ended: [Counter; Ended::ALL.len()],
    last: LinkTraffic,
}

impl TrafficMetrics {
    pub(crate) fn new(leg: &str) -> Self {
        let counter = |name: &'static str, class: &'static str| counter!(name, "leg" => leg.to_owned(), "class" => class);
        let sent = "twinspan_leg_sent_bytes_total";
        let payload = "twinspan_leg_payload_bytes_total";
        Self {
            sent_mirror: counter(sent, "mirror"),
            sent_resync: counter(sent, "resync"),
            payload_mirror: counter(payload, "mirror"),
            payload_resync: counter(payload, "resync"),
            received: counter("twinspan_leg_received_bytes_total", "control"),
            ended: Ended::ALL.map(|why| {
                let name = "twinspan_leg_reconnects_total";
                counter!(name, "leg" => leg.to_owned(), "reason" => why.word())
            }),
            last: LinkTraffic::default(),
        }
    }

    /// Counts what went over the link since the last time.
    pub(crate) fn traffic(&mut self, now: LinkTraffic) {
        let resync = now.sent_resync_bytes - self.last.sent_resync_bytes;
        let sent = now.sent_bytes - self.last.sent_bytes;
        let payload = now.sent_payload_bytes - self.last.sent_payload_bytes;
        self.sent_resync.increment(resync);
        self.sent_mirror.increment(sent.saturating_sub(resync));
        self.payload_resync.increment(resync);
        self.payload_mirror.increment(payload.saturating_sub(resync));
        self.received.increment(now.received_bytes - self.last.received_bytes);
        self.last = now;
    }

    /// The link is over.
    pub(crate) fn ended(&mut self, last: LinkTraffic, why: Ended) {
        self.traffic(last);
        for (counter, reason) in self.ended.iter().zip(Ended::ALL) {
            counter.increment(u64::from(reason == why));
        }
    }
}

/// One link to a mirror. The label is the mirror's site.
pub(crate) struct LegMetrics {
    write_ack: Histogram,
    flush_ack: Histogram,
    persist: Histogram,
}

impl LegMetrics {
    pub(crate) fn new(leg: &str) -> Self {
        let leg = leg.to_owned();
        let ack = "twinspan_leg_ack_duration_seconds";
        Self {
            write_ack: histogram!(ack, "leg" => leg.clone(), "kind" => "write"),
            flush_ack: histogram!(ack, "leg" => leg.clone(), "kind" => "flush"),
            persist: histogram!("twinspan_leg_persist_duration_seconds", "leg" => leg),
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
}
