//! `/api/v1/events`: what happens, as server-sent events that can be resumed.

use std::convert::Infallible;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::Shared;

/// How long to listen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manner {
    #[serde(default = "yes")]
    follow: bool,
}

fn yes() -> bool {
    true
}

/// What happens from now on; with `Last-Event-ID`, also what happened since
#[utoipa::path(get, path = "/api/v1/events", tag = "status", operation_id = "events",
    params(("Last-Event-ID" = Option<u64>, Header, description = "The last event that was seen"),
           ("follow" = Option<bool>, Query, description = "false: only what is remembered")),
    responses((status = 200, content_type = "text/event-stream", body = api::Event),
              (status = "default", body = api::Problem)))]
pub(super) async fn events(
    State(gateway): Shared,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let after = after.or((!manner.follow).then_some(0));
    let (past, live) = gateway.events.follow(after);
    let clients = Client::new();
    let stopping = gateway.stopping.clone();
    let live = stream::unfold((live, clients), move |(mut live, clients)| {
        let stopping = stopping.clone();
        async move {
            // One that fell too far behind ends its stream: the client comes back with the last
            // number it saw and gets what is still in the ring.
            let received = stopping.run_until_cancelled(live.recv()).await?;
            match received {
                Ok(event) => Some((event, (live, clients))),
                Err(RecvError::Lagged(_) | RecvError::Closed) => None,
            }
        }
    });
    let live = stream::iter(manner.follow.then_some(live)).flatten();
    let all = stream::iter(past).chain(live).map(|event| Ok(shown(&event)));
    Sse::new(all).keep_alive(KeepAlive::default())
}

fn shown(event: &api::Event) -> Event {
    let text = serde_json::to_string(event).unwrap_or_default();
    Event::default().id(event.id.to_string()).event(event.kind.clone()).data(text)
}

/// An open event stream, counted.
struct Client;

impl Client {
    fn new() -> Self {
        metrics::gauge!("twinspan_sse_clients").increment(1.0);
        Self
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        metrics::gauge!("twinspan_sse_clients").decrement(1.0);
    }
}
