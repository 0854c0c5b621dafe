//! Help texts and units of what the crates record, for `/metrics`.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Describes every family; must follow the installation of the recorder.
pub(super) fn all() {
    mirror::metrics::describe();
    witness::metrics::describe();
    hosts();
    store();
    api();
    super::backups::describe();
    plugin::metrics::describe();
    super::runs::describe();
}

fn hosts() {
    describe_gauge!("twinspan_frontend_connections", Unit::Count, "Attached hosts' connections.");
    describe_counter!(
        "twinspan_frontend_requests_total",
        Unit::Count,
        "Host requests, by operation and result."
    );
    describe_counter!("twinspan_frontend_bytes_total", Unit::Bytes, "Bytes that hosts moved.");
    describe_gauge!(
        "twinspan_frontend_inflight_requests",
        Unit::Count,
        "Requests in flight, as hosts see it."
    );
    describe_histogram!(
        "twinspan_frontend_request_duration_seconds",
        Unit::Seconds,
        "Request received to reply sent, all volumes."
    );
}

fn store() {
    describe_counter!("twinspan_store_written_bytes_total", Unit::Bytes, "Bytes written to disk.");
    describe_counter!("twinspan_store_read_bytes_total", Unit::Bytes, "Bytes read from disk.");
    describe_histogram!(
        "twinspan_store_sync_duration_seconds",
        Unit::Seconds,
        "How long a sync of a data file took."
    );
    describe_counter!("twinspan_store_errors_total", Unit::Count, "Failed disk operations.");
    describe_counter!(
        "twinspan_store_checksum_failures_total",
        Unit::Count,
        "Blocks that did not match their checksum."
    );
    describe_counter!(
        "twinspan_scrub_repaired_blocks_total",
        Unit::Count,
        "Bad blocks that were put back from another copy."
    );
    describe_gauge!("twinspan_store_capacity_bytes", Unit::Bytes, "Room that the pool may take.");
    describe_gauge!("twinspan_store_used_bytes", Unit::Bytes, "Room that the pool takes.");
}

fn api() {
    describe_counter!("twinspan_http_requests_total", Unit::Count, "Calls of the API.");
    describe_histogram!(
        "twinspan_http_request_duration_seconds",
        Unit::Seconds,
        "How long calls of the API took."
    );
    describe_gauge!("twinspan_sse_clients", Unit::Count, "Open event streams.");
}
