//! What is measured of a witness.

use std::time::Duration;

/// The metrics of one witness.
pub(crate) struct Metrics {
    up: metrics::Gauge,
    answered: metrics::Histogram,
}

/// Describes every metric of this crate.
pub fn describe() {
    metrics::describe_gauge!("twinspan_witness_up", "the witness can be reached");
    metrics::describe_histogram!(
        "twinspan_witness_answer_duration_seconds",
        metrics::Unit::Seconds,
        "from a question to the witness's answer"
    );
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(witness: &str) -> Self {
        let witness = witness.to_owned();
        Self {
            up: metrics::gauge!("twinspan_witness_up", "witness" => witness.clone()),
            answered: metrics::histogram!(
                "twinspan_witness_answer_duration_seconds", "witness" => witness
            ),
        }
    }

    pub(crate) fn answered(&self, took: Duration) {
        self.up.set(1.0);
        self.answered.record(took.as_secs_f64());
    }

    pub(crate) fn failed(&self) {
        self.up.set(0.0);
    }
}
