//! The end, in order: stop accepting, close groups, end what is left, exit.
//!
//! ```text
//!   signal ─▶ listeners stop ─▶ shards: hosts dropped, goodbyes said, flushed, marked clean
//!          ─▶ calls under way end ─▶ exit
//! ```
//!
//! Invariant: it ends within its deadlines. What was not closed cleanly by then opens as after a
//! crash, which loses nothing and costs a resynchronisation.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::shard::ShardThread;

/// Under the 30 s and 90 s that service managers allow.
const SHARDS_MAX: Duration = Duration::from_secs(20);
/// Calls and handshakes that are under way.
const TASKS_MAX: Duration = Duration::from_secs(4);

/// Returns at SIGTERM or SIGINT, or when `stopping` is cancelled.
pub(crate) async fn wait_for_signal(stopping: &CancellationToken) {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be caught; stop it with SIGKILL");
        return stopping.cancelled().await;
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = stopping.cancelled() => {}
    }
}

/// Stops a gateway.
///
/// # Errors
/// What did not end in time.
pub(crate) async fn stop(gateway: &Gateway, threads: Vec<ShardThread>) -> Result<(), String> {
    gateway.stopping.cancel();
    let stops = threads.into_iter().map(|thread| thread.stop(SHARDS_MAX));
    let silent =
        futures_util::future::join_all(stops).await.into_iter().filter(Result::is_err).count();
    if let Some(plugins) = &gateway.plugins {
        plugins.stop();
    }
    gateway.tasks.close();
    if tokio::time::timeout(TASKS_MAX, gateway.tasks.wait()).await.is_err() {
        tracing::warn!("calls that were under way are cut off");
    }
    if silent > 0 {
        return Err(format!("{silent} threads did not close their groups in time"));
    }
    tracing::info!("stopped");
    Ok(())
}
