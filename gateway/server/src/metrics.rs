//! `/metrics`: what the crates record as it happens, and what the groups say of themselves now.
//!
//! ```text
//!   counters, histograms ─▶ exporter ─┐
//!   GroupStatus of each group, now ───┴─▶ one text, on a listener of its own
//! ```
//!
//! Invariant: a gauge of a group that is not known is absent, never zero and never its last value.
//! There are histograms and no summaries.

pub(crate) mod backups;
mod describe;
mod gauges;
mod moments;
pub(crate) mod runs;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

/// Doubling from what a fast sync takes to what is a timeout, with 25.6 ms, the objective, on a
/// border.
const LATENCY_BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6,
    0.051_2, 0.102_4, 0.204_8, 0.409_6, 1.0, 2.5, 5.0, 10.0,
];
/// Samples are folded into buckets this often, so that they do not pile up between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(runs::STEP_DURATION.to_owned()), &runs::BUCKETS)?
        .build_recorder())
}

/// What renders metrics. One per process: the crates record into it.
#[derive(Clone)]
pub(crate) struct Exporter {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Exporter {
    /// Starts recording.
    ///
    /// # Errors
    /// When something else records already.
    pub(crate) fn install() -> Result<Self, String> {
        let recorder = recorder().map_err(|error| error.to_string())?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
        let process = metrics_process::Collector::default();
        process.describe();
        describe::all();
        // Known from the start: nobody listens to events yet.
        metrics::gauge!("twinspan_sse_clients").set(0.0);
        Ok(Self { handle, process })
    }

    /// Folds samples from time to time, until `stop`.
    pub(crate) async fn upkeep(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }

    async fn render(&self, gateway: &Gateway) -> String {
        self.process.collect();
        let mut text = self.handle.render();
        text.push_str(&gauges::render(gateway).await);
        text
    }
}

#[derive(Clone)]
struct Scraped {
    exporter: Exporter,
    gateway: Arc<Gateway>,
}

/// Serves `/metrics`, `/healthz` and `/readyz` until the gateway stops.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    exporter: Exporter,
    gateway: Arc<Gateway>,
) -> std::io::Result<()> {
    let stopping = gateway.stopping.clone();
    let health = crate::http::health(&gateway);
    let routes = axum::Router::new()
        .route("/metrics", get(scrape))
        .with_state(Scraped { exporter, gateway })
        .merge(health);
    axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { stopping.cancelled().await })
        .await
}

async fn scrape(State(scraped): State<Scraped>) -> impl IntoResponse {
    let text = scraped.exporter.render(&scraped.gateway).await;
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_histograms_with_our_buckets_and_never_summaries() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            for name in [
                "twinspan_leg_ack_duration_seconds",
                "twinspan_leg_persist_duration_seconds",
                "twinspan_write_duration_seconds",
                "twinspan_frontend_request_duration_seconds",
                "twinspan_http_request_duration_seconds",
                "twinspan_store_sync_duration_seconds",
            ] {
                metrics::histogram!(name, "leg" => "west").record(0.0011);
            }
        });
        handle.run_upkeep();
        let text = handle.render();
        assert!(!text.contains(" summary"), "{text}");
        assert_eq!(text.matches(" histogram").count(), 6);
        assert!(text.contains("le=\"0.0256\"") && text.contains("le=\"0.0016\"} 1"), "{text}");
    }
}
