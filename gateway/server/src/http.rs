//! The REST API: `/api/v1`, its OpenAPI document, and the health of the gateway.
//!
//! ```text
//!   TLS ─▶ measure ─▶ authenticate (bearer token, role) ─▶ handler ─▶ Gateway
//!                                                       ◀─ JSON, or a problem document
//! ```
//!
//! Invariant: a handler only translates; what is decided, is decided in `gateway`. Everything but
//! its health needs a token. No call waits for another site to answer before it answers itself, but
//! those that are about what the other site says: a join, a diff, the plan of a move; each has a
//! deadline.

mod auth;
mod backups;
mod events;
mod evs;
mod failovers;
mod groups;
mod moments;
mod moves;
mod operations;
mod paging;
mod parts;
mod plugins;
mod points;
mod problem;
pub(crate) mod rec;
mod runs;
mod sdrs;
mod sessions;
mod shaping;
mod sites;
mod snapshots;
mod tokens;
mod volumes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::time::Instant;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use auth::{hash_token, make_token};
use problem::{Body, Failure};

use crate::gateway::Gateway;

/// What handlers share.
pub(crate) type Shared = State<Arc<Gateway>>;

/// Bodies are small: names, sizes, tokens.
const BODY_BYTES_MAX: usize = 64 << 10;
/// A body of so many bytes is read before the handler is asked, whether it wants it or not.
const SMALL_BODY_BYTES: usize = 4 << 10;
/// What is under way when the gateway stops may take this long.
const DRAIN_MAX: Duration = Duration::from_secs(2);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Twinspan",
        description = "A storage gateway: volumes, mirror sessions, failover. \
                       Every call needs a bearer token; errors are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(api::Problem, api::Event)),
    tags(
        (name = "status"), (name = "sites"), (name = "volumes"), (name = "sessions"),
        (name = "groups"), (name = "snapshots"), (name = "points"), (name = "backups"),
        (name = "plans"), (name = "runs"), (name = "plugins"), (name = "operations"),
        (name = "tokens"), (name = "rec"), (name = "evs")
    )
)]
struct Document;

/// All calls: split by what they are about, as the tags are.
fn versioned() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(overview())
        .merge(of_volumes())
        .merge(of_sessions())
        .merge(of_groups())
        .merge(of_parts())
        .merge(of_snapshots())
        .merge(of_points())
        .merge(of_backups())
        .merge(of_policies())
        .merge(of_plugins())
        .merge(of_runs())
        .merge(rec::calls())
        .merge(evs::calls())
        .merge(sdrs::calls())
}

fn overview() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(groups::status))
        .routes(routes!(events::events))
        .routes(routes!(sites::list))
        .routes(routes!(sites::make_token))
        .routes(routes!(sites::join))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
}

fn of_volumes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::show, volumes::set, volumes::delete))
        .routes(routes!(volumes::grow))
        .routes(routes!(volumes::set_lun))
        .routes(routes!(volumes::scrub))
        .routes(routes!(volumes::digest))
        .routes(routes!(volumes::content))
}

fn of_sessions() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(sessions::list, sessions::create))
        .routes(routes!(sessions::show, sessions::patch, sessions::delete))
        .routes(routes!(sessions::suspend))
        .routes(routes!(sessions::resume))
        .routes(routes!(sessions::transfer))
        .routes(routes!(sessions::reverse))
        .routes(routes!(sessions::verify))
}

fn of_parts() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(parts::exclude)).routes(routes!(parts::include))
}

fn of_snapshots() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::show, snapshots::delete))
        .routes(routes!(snapshots::changes))
        .routes(routes!(snapshots::plan_rollback))
        .routes(routes!(snapshots::roll_back))
}

fn of_points() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(points::list, points::take))
        .routes(routes!(points::show))
        .routes(routes!(points::policy, points::set_policy))
        .routes(routes!(points::retention))
        .routes(routes!(points::lock))
        .routes(routes!(moments::journal, moments::set_journal, moments::end_journal))
        .routes(routes!(moments::open))
        .routes(routes!(moments::plan_rollback))
        .routes(routes!(moments::roll_back))
}

fn of_backups() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(backups::targets))
        .routes(routes!(backups::check))
        .routes(routes!(backups::rebuild))
        .routes(routes!(backups::verify_target))
        .routes(routes!(backups::collect))
        .routes(routes!(backups::forget))
        .routes(routes!(backups::list, backups::create))
        .routes(routes!(backups::show, backups::delete))
        .routes(routes!(backups::lock))
        .routes(routes!(backups::verify))
        .routes(routes!(backups::resume))
        .routes(routes!(backups::plan_restore))
        .routes(routes!(backups::restore))
}

fn of_policies() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(backups::policies))
        .routes(routes!(backups::policy, backups::set_policy, backups::delete_policy))
        .routes(routes!(backups::turn_on))
        .routes(routes!(backups::turn_off))
        .routes(routes!(backups::run_policy))
        .routes(routes!(backups::retention))
}

fn of_plugins() -> OpenApiRouter<Arc<Gateway>> {
    // A component is larger than any other body.
    let bytes = usize::try_from(plugin::COMPONENT_BYTES_MAX).unwrap_or(usize::MAX);
    let install = OpenApiRouter::new()
        .routes(routes!(plugins::list, plugins::install))
        .layer(axum::extract::DefaultBodyLimit::max(bytes));
    OpenApiRouter::new()
        .merge(install)
        .routes(routes!(plugins::show, plugins::remove))
        .routes(routes!(plugins::grant))
        .routes(routes!(plugins::configure))
        .routes(routes!(plugins::probe))
        .routes(routes!(plugins::log))
        .routes(routes!(plugins::words))
        .routes(routes!(plugins::say))
}

fn of_runs() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(runs::plans, runs::save))
        .routes(routes!(runs::check))
        .routes(routes!(runs::make))
        .routes(routes!(runs::plan, runs::delete))
        .routes(routes!(runs::dry_run))
        .routes(routes!(runs::begin))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::answer))
        .routes(routes!(runs::retry))
        .routes(routes!(runs::skip))
        .routes(routes!(runs::abort))
        .routes(routes!(runs::resume))
}

fn of_groups() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::show, groups::delete))
        .routes(routes!(groups::add))
        .routes(routes!(groups::remove))
        .routes(routes!(groups::detach))
        .merge(of_moves())
        .routes(routes!(operations::list))
        .routes(routes!(operations::show))
        .routes(routes!(operations::cancel))
}

/// What takes a group from one site to another, or back.
fn of_moves() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(failovers::plan))
        .routes(routes!(failovers::run))
        .routes(routes!(failovers::plan_reprotect))
        .routes(routes!(failovers::run_reprotect))
        .routes(routes!(moves::diff))
        .routes(routes!(moves::plan_migration))
        .routes(routes!(moves::run_migration))
        .routes(routes!(moves::plan_restore))
        .routes(routes!(moves::restore, moves::give_up))
}

/// The OpenAPI document, as it is committed.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = versioned().split_for_parts();
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// All routes.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let (calls, _) = versioned().split_for_parts();
    let calls = calls
        .fallback(problem::no_such_call)
        .method_not_allowed_fallback(problem::no_such_method)
        .route_layer(from_fn_with_state(Arc::clone(&gateway), auth::authenticate));
    Router::new()
        .merge(health(&gateway))
        .merge(calls.with_state(gateway))
        .layer(from_fn(rec::shape))
        .layer(from_fn(evs::shape))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(take_body))
        .layer(from_fn(measure))
}

/// Takes a small body off the connection. A client that sends `{}` to a call that needs nothing could
/// not use its connection again otherwise: what a handler leaves there ends it.
async fn take_body(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if !length.is_some_and(|length| (1..=SMALL_BODY_BYTES).contains(&length)) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, SMALL_BODY_BYTES).await {
        Ok(bytes) => next.run(Request::from_parts(parts, bytes.into())).await,
        Err(error) => {
            let detail = format!("the body cannot be read: {error}");
            Failure::new(api::Code::Invalid, &detail).into_response()
        }
    }
}

/// `/healthz` (the process answers) and `/readyz` (its groups were opened and it serves).
pub(crate) fn health(gateway: &Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(gateway))
}

async fn ready(State(gateway): Shared) -> Response {
    if !gateway.is_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response();
    }
    let asks = gateway.shards.iter().map(|shard| shard.call(|_state| ()));
    let silent = futures_util::future::join_all(asks).await.iter().filter(|a| a.is_err()).count();
    if silent > 0 {
        let text = format!("{silent} of {} threads do not answer\n", gateway.shards.len());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "ready\n".into_response()
}

/// Counts and times every call, by its template: paths hold names.
async fn measure(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().as_str().to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let code = response.status().as_u16().to_string();
    metrics::counter!(
        "twinspan_http_requests_total",
        "route" => route.clone(), "method" => method.clone(), "code" => code
    )
    .increment(1);
    // An event stream lasts as long as its reader; its duration says nothing.
    if !route.ends_with("/events") {
        metrics::histogram!(
            "twinspan_http_request_duration_seconds", "route" => route, "method" => method
        )
        .record(began.elapsed());
    }
    response
}

/// Serves the API until the gateway stops.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    gateway: Arc<Gateway>,
) -> std::io::Result<()> {
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let handle: Handle<SocketAddr> = Handle::new();
    let (stopping, stopper) = (gateway.stopping.clone(), handle.clone());
    gateway.tasks.spawn(async move {
        stopping.cancelled().await;
        stopper.graceful_shutdown(Some(DRAIN_MAX));
    });
    // An answer is written in pieces: without this the last one waits for the client's delayed
    // acknowledgement, 40 ms on Linux.
    let tls = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(tls)))
        .acceptor(NoDelayAcceptor::new());
    axum_server::from_tcp(listener)?
        .acceptor(tls)
        .handle(handle)
        .serve(router(gateway).into_make_service())
        .await
}

#[cfg(test)]
mod tests;
