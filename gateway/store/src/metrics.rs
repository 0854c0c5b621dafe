//! What this crate counts.
//!
//! Invariant: handles are resolved once, when a volume is opened; a batch of requests touches each
//! counter at most once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The counters of one open volume; the label `store` is its identity.
pub(crate) struct Metrics {
    /// `twinspan_store_written_bytes_total{kind="data"}`.
    pub(crate) written_data: Counter,
    /// `twinspan_store_written_bytes_total{kind="journal"}`.
    pub(crate) written_journal: Counter,
    /// `twinspan_store_written_bytes_total{kind="metadata"}`.
    pub(crate) written_metadata: Counter,
    /// `twinspan_store_read_bytes_total{kind="data"}`.
    pub(crate) read_data: Counter,
    /// `twinspan_store_sync_duration_seconds`.
    pub(crate) sync_duration: Histogram,
    /// `twinspan_store_errors_total{op="read"}`.
    pub(crate) errors_read: Counter,
    /// `twinspan_store_errors_total{op="write"}`.
    pub(crate) errors_write: Counter,
    /// `twinspan_store_errors_total{op="sync"}`.
    pub(crate) errors_sync: Counter,
    /// `twinspan_store_checksum_failures_total`.
    pub(crate) checksum_failures: Counter,
}

/// The gauges of one pool; the label `store` is its identity.
pub(crate) struct PoolMetrics {
    /// `twinspan_store_capacity_bytes`.
    pub(crate) capacity: Gauge,
    /// `twinspan_store_used_bytes`.
    pub(crate) used: Gauge,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(store: &str) -> Self {
        let written = |kind: &'static str| counter!("twinspan_store_written_bytes_total", "store" => store.to_owned(), "kind" => kind);
        let errors = |op: &'static str| counter!("twinspan_store_errors_total", "store" => store.to_owned(), "op" => op);
        Self {
            written_data: written("data"),
            written_journal: written("journal"),
            written_metadata: written("metadata"),
            read_data: counter!("twinspan_store_read_bytes_total", "store" => store.to_owned(), "kind" => "data"),
            sync_duration: histogram!("twinspan_store_sync_duration_seconds", "store" => store.to_owned()),
            errors_read: errors("read"),
            errors_write: errors("write"),
            errors_sync: errors("sync"),
            checksum_failures: counter!("twinspan_store_checksum_failures_total", "store" => store.to_owned()),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

// === impl PoolMetrics ===

impl PoolMetrics {
    pub(crate) fn new(store: &str) -> Self {
        Self {
            capacity: gauge!("twinspan_store_capacity_bytes", "store" => store.to_owned()),
            used: gauge!("twinspan_store_used_bytes", "store" => store.to_owned()),
        }
    }
}

impl std::fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolMetrics").finish_non_exhaustive()
    }
}
