//! Puts a gateway together and runs it. This is the only file that names everyone.
//!
//! ```text
//!   pool ─▶ shards ─▶ book ─▶ Gateway ─▶ listeners (metrics, API, links, NBD) ─▶ groups ─▶ ready
//! ```
//!
//! Invariant: nobody is served before every group was tried to be opened; until then `/readyz`
//! says no.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::{BootId, GatewayId, Identity, PoolId};
use link::{Credentials, LinkContext, Trusted};
use nbd_server::{Capacity, ListenAddress, Listener, ListenerConfig, TlsPolicy};
use store::{Pool, PoolIdentity, PoolOptions, StoreError};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::board::Board;
use crate::book::{Book, RoleEntry, TokenEntry};
use crate::clock::Clock;
use crate::config::{Config, NbdAddress, NbdListener, Tls};
use crate::events::Events;
use crate::exports::HostDoor;
use crate::fillings::Fillings;
use crate::gateway::sites::Desk;
use crate::gateway::{Gateway, GatewayParts};
use crate::metrics::Exporter;
use crate::portals::{self, Portals};
use crate::refusal::{Refused, chain_text};
use crate::shard::state::{ShardParts, ShardState};
use crate::shard::{Shard, ShardThread};
use crate::targets::TargetDoor;
use crate::ways::Ways;
use crate::witnessing::Witnessing;
use crate::{gateway, http, metrics, shutdown, telemetry, tls};

/// The first token, in the data directory, readable by its owner only.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// How often the directory of plugins is looked at.
const PLUGINS_EVERY: Duration = Duration::from_secs(2);
/// Where the pool lies in the data directory.
const POOL_DIR: &str = "pool";

/// Why a gateway does not start, in words that name the thing and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct StartError {
    doing: String,
    why: String,
}

fn failed<E: std::error::Error>(doing: &str) -> impl FnOnce(E) -> StartError {
    move |error| StartError { doing: doing.to_owned(), why: chain_text(&error) }
}

fn because(doing: &str) -> impl FnOnce(String) -> StartError {
    move |why| StartError { doing: doing.to_owned(), why }
}

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// Why it could not start, or did not stop in order.
pub async fn run(config: Config) -> Result<(), StartError> {
    telemetry::start(&config.log).map_err(because("start logging"))?;
    // Two providers may be linked in; TLS must not have to choose. A second call is no harm.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let exporter = Exporter::install().map_err(because("start metrics"))?;
    make_data_dir(&config.data_dir)?;
    let pool = open_pool(&config)?;
    let identity = identity(&config, &pool);
    let clock = gateway::locks::lock_clock(Clock::start(), &*pool.ledger())
        .map_err(because("read the lock clock"))?;
    let events = Arc::new(Events::new(clock));
    let board = Arc::new(Board::default());
    let desk_book = Arc::new(OnceLock::new());
    let links = link_context(&config, &identity, (&desk_book, &events, clock))?;
    let witnessing = Witnessing::start(config.witness.as_ref(), identity.gateway)
        .map_err(failed("prepare the witness"))?;
    let copiers = mirror::Copiers::default();
    let (fillings, of_fillings) = Fillings::new();
    let (portals, ways) = bind_iscsi(&config)?;
    let threads = start_shards(&config, &|| ShardParts {
        identity: identity.clone(),
        pool: Arc::clone(&pool),
        fillings: Arc::clone(&fillings),
        fill_rate: config.fill_rate,
        clock,
        ways: Arc::clone(&ways),
        board: Arc::clone(&board),
        events: Arc::clone(&events),
        links: links.clone(),
        heartbeat: config.mirror.heartbeat,
        witnessing: witnessing.clone(),
        journal: config.mirror.journal,
        journal_dir: config.data_dir.join("journal"),
        copiers: copiers.clone(),
    })?;
    let shards: Vec<Shard> = threads.iter().map(|thread| thread.shard.clone()).collect();
    let none = || because("start shards")("none is configured".to_owned());
    let first = shards.first().cloned().ok_or_else(none)?;
    let book = Arc::new(Book::open(first).await.map_err(failed("read the book"))?);
    first_token(&config, &book).await?;
    trust_peers(&book, &links, &ways);
    // The desk takes join tokens from here on.
    let _first_book = desk_book.set(Arc::clone(&book));
    let (listeners, nbd_uris) = bind_nbd(&config).await?;
    let surroundings = crate::plugins::Surroundings::new(&config, clock);
    let plugins = crate::plugins::start(&config, Arc::clone(&surroundings));
    let parts = GatewayParts {
        plugins,
        config,
        clock,
        identity,
        shards,
        board,
        book,
        events,
        pool,
        fillings,
        links,
        nbd_uris,
        iscsi_uris: portals.uris.clone(),
        ways,
    };
    let gateway = Gateway::new(parts);
    surroundings.is(&gateway);
    gateway.begin_fillings(of_fillings);
    serve(&gateway, exporter, listeners).await?;
    serve_iscsi(&gateway, portals);
    begin(&gateway).await;
    shutdown::wait_for_signal(&gateway.stopping).await;
    shutdown::stop(&gateway, threads).await.map_err(because("stop"))
}

/// Who this gateway is, in this start of it.
fn identity(config: &Config, pool: &Pool) -> Identity {
    let gateway = pool.identity().gateway;
    let site = config.site.name.clone();
    tracing::info!(site, %gateway, "starting");
    Identity { gateway, boot: BootId::from_uuid(Uuid::now_v7()), site }
}

/// Opens what is there, and begins what the gateway does by itself.
async fn begin(gateway: &Arc<Gateway>) {
    gateway.open_groups().await;
    gateway.read_runs().await;
    gateway.set_ready();
    gateway.go_on();
    tracing::info!(api = %gateway.config.api.listen, "ready");
    gateway.events.tell("gateway", &gateway.config.site.name, "ready");
}

/// Other gateways as they were when they were heard last; some may be lost now.
fn trust_peers(book: &Book, links: &LinkContext, ways: &Ways) {
    for peer in &book.read().peers {
        if let Some(side) = &peer.portals {
            ways.learn(GatewayId::from_uuid(peer.gateway), side.clone());
        }
        match peer.peer() {
            Some(peer) => links.trusted().add(peer),
            None => tracing::error!(site = peer.site, "certificate cannot be read; not trusted"),
        }
    }
}

fn make_data_dir(path: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(failed(&format!("make data_dir {}", path.display())))
}

fn open_pool(config: &Config) -> Result<Arc<Pool>, StartError> {
    let path = config.data_dir.join(POOL_DIR);
    let doing = format!("open the pool in {}", path.display());
    let options = PoolOptions { capacity_bytes: config.pool_capacity, ..PoolOptions::default() };
    if path.exists() {
        match Pool::open_path(&path, options.clone()) {
            // An earlier start was cut short before the pool was whole.
            Err(StoreError::NotFound { .. }) => {}
            opened => return opened.map_err(failed(&doing)),
        }
    }
    let identity = PoolIdentity {
        pool: PoolId::from_uuid(Uuid::now_v7()),
        gateway: GatewayId::from_uuid(Uuid::now_v7()),
    };
    Pool::create_path(&path, identity).map_err(failed(&doing))?;
    Pool::open_path(&path, options).map_err(failed(&doing))
}

fn link_context(
    config: &Config,
    identity: &Identity,
    (book, events, clock): (&Arc<OnceLock<Arc<Book>>>, &Arc<Events>, Clock),
) -> Result<LinkContext, StartError> {
    let credentials = Credentials::load_or_create(&config.data_dir)
        .map_err(failed("read the link's certificate"))?;
    let desk = Desk::new(&config.site.name, Arc::clone(book), Arc::clone(events), clock);
    let context = LinkContext::new(identity.clone(), &credentials, Trusted::default())
        .map_err(failed("use the link's certificate"))?;
    Ok(context
        .with_addresses(vec![config.link.advertise.clone()])
        .with_desk(Arc::new(desk))
        // Each side delays what it receives: half of the way there and back.
        .with_distance(config.link.distance / 2))
}

fn start_shards(
    config: &Config,
    parts: &dyn Fn() -> ShardParts,
) -> Result<Vec<ShardThread>, StartError> {
    (0..config.shards)
        .map(|index| {
            let parts = parts();
            let deadline = config.api.shard_deadline;
            ShardThread::start(index, deadline, move || ShardState::new(parts))
                .map_err(failed("start a shard"))
        })
        .collect()
}

/// A gateway without a token makes one for its owner. The file comes first: a token that is known
/// and lies nowhere would lock everybody out.
async fn first_token(config: &Config, book: &Book) -> Result<(), StartError> {
    if !book.read().tokens.is_empty() {
        return Ok(());
    }
    let token = http::make_token().map_err(because("make the first token"))?;
    let path = config.data_dir.join(ADMIN_TOKEN_FILE);
    tls::write(&path, format!("{token}\n").as_bytes(), 0o600)
        .map_err(failed("write the first token"))?;
    let entry = TokenEntry {
        name: "admin".to_owned(),
        hash: http::hash_token(&token),
        role: RoleEntry::Admin,
    };
    book.change(Vec::new(), |pages| {
        pages.tokens.push(entry);
        Ok::<(), Refused>(())
    })
    .await
    .map_err(|refused| StartError {
        doing: "record the first token".to_owned(),
        why: refused.0.detail,
    })?;
    tracing::info!(file = %path.display(), "wrote the first admin token");
    Ok(())
}

/// Opens the NBD listeners; says where hosts attach, as URIs without an export.
async fn bind_nbd(config: &Config) -> Result<(Vec<Listener>, Vec<String>), StartError> {
    let server = tls::nbd(&config.nbd).map_err(failed("read the certificate of NBD"))?;
    let inflight = config.nbd.inflight_bytes_max;
    let capacity = Arc::new(Capacity::new(config.nbd.connections_max, inflight));
    let (mut listeners, mut uris) = (Vec::new(), Vec::new());
    for wanted in &config.nbd.listeners {
        let policy = match (wanted.tls, &server) {
            (Tls::Optional, Some(server)) => TlsPolicy::Optional(Arc::clone(server)),
            (Tls::Required, Some(server)) => TlsPolicy::Required(Arc::clone(server)),
            (Tls::Off, _) | (Tls::Optional | Tls::Required, None) => TlsPolicy::Off,
        };
        warn_if_open(wanted);
        let address = match &wanted.address {
            NbdAddress::Tcp(address) => ListenAddress::Tcp(*address),
            NbdAddress::Unix(path) => ListenAddress::Unix { path: path.clone(), mode: 0o660 },
        };
        let mut listener = ListenerConfig::new(&wanted.name, address);
        listener.tls = policy;
        listener.busy_poll = config.nbd.busy_poll;
        let listener = Listener::bind(listener, Arc::clone(&capacity))
            .await
            .map_err(failed(&format!("open the NBD listener {:?}", wanted.name)))?;
        uris.push(uri(wanted, &listener, &config.link.advertise));
        listeners.push(listener);
    }
    Ok((listeners, uris))
}

/// Opens the iSCSI listeners; says where initiators are to be sent.
fn bind_iscsi(config: &Config) -> Result<(Portals, Arc<Ways>), StartError> {
    let portals = portals::bind(&config.iscsi).map_err(failed("open the iSCSI listeners"))?;
    let ways = Arc::new(Ways::new(portals.side.clone()));
    Ok((portals, ways))
}

/// Where hosts attach. A listener on every address is named as other sites name this one.
fn uri(wanted: &NbdListener, listener: &Listener, advertised: &str) -> String {
    let scheme = if wanted.tls == Tls::Required { "nbds" } else { "nbd" };
    match &wanted.address {
        NbdAddress::Tcp(address) => {
            let bound = listener.tcp_address().unwrap_or(*address);
            if bound.ip().is_unspecified() {
                let host = advertised.rsplit_once(':').map_or(advertised, |(host, _port)| host);
                format!("{scheme}://{host}:{}/", bound.port())
            } else {
                format!("{scheme}://{bound}/")
            }
        }
        NbdAddress::Unix(path) => format!("{scheme}+unix:///?socket={}", path.display()),
    }
}

fn warn_if_open(wanted: &NbdListener) {
    if let NbdAddress::Tcp(address) = wanted.address
        && !address.ip().is_loopback()
        && wanted.tls != Tls::Required
    {
        tracing::warn!(
            listener = wanted.name,
            %address,
            "NBD without TLS beyond this machine: whoever reaches it can read and write"
        );
    }
}

/// Opens the listeners and begins to serve on them.
async fn serve(
    gateway: &Arc<Gateway>,
    exporter: Exporter,
    nbd: Vec<Listener>,
) -> Result<(), StartError> {
    let config = &gateway.config;
    let doing =
        |what: &str, address: &dyn std::fmt::Display| format!("listen for {what} on {address}");
    if let Some(address) = config.metrics_listen {
        let listener =
            TcpListener::bind(address).await.map_err(failed(&doing("metrics", &address)))?;
        let serving = metrics::serve(listener, exporter.clone(), Arc::clone(gateway));
        gateway.tasks.spawn(logged("metrics", serving));
    }
    gateway.tasks.spawn(exporter.upkeep(gateway.stopping.clone()));
    let address = config.api.listen;
    let certificate = tls::api(&config.data_dir, address.ip())
        .map_err(failed("read the certificate of the API"))?;
    let listener =
        std::net::TcpListener::bind(address).map_err(failed(&doing("the API", &address)))?;
    listener.set_nonblocking(true).map_err(failed("prepare the API's socket"))?;
    gateway.tasks.spawn(logged("api", http::serve(listener, certificate, Arc::clone(gateway))));
    let address = config.link.listen;
    let listener = TcpListener::bind(address).await.map_err(failed(&doing("links", &address)))?;
    gateway.tasks.spawn(Arc::clone(gateway).accept_links(listener));
    gateway.tasks.spawn(Arc::clone(gateway).verify_regularly());
    gateway.tasks.spawn(Arc::clone(gateway).scrub_regularly());
    if let Some(plugins) = gateway.plugins.clone() {
        let gateway = Arc::clone(gateway);
        let tasks = gateway.tasks.clone();
        tasks.spawn(async move { plugins.watch(PLUGINS_EVERY, || gateway.offer_plugins()).await });
    }
    let door = HostDoor::new();
    door.open(Arc::clone(gateway));
    for listener in nbd {
        let door = Arc::clone(&door);
        let run = listener.run(door, gateway.tasks.clone(), gateway.stopping.clone());
        gateway.tasks.spawn(run);
    }
    Ok(())
}

/// Begins to serve on the iSCSI listeners.
fn serve_iscsi(gateway: &Arc<Gateway>, portals: Portals) {
    let door = Arc::new(TargetDoor(Arc::clone(gateway)));
    for listener in portals.listeners {
        let stop = (gateway.tasks.clone(), gateway.stopping.clone());
        let door: Arc<dyn iscsi::Targets> = Arc::<TargetDoor>::clone(&door);
        gateway.tasks.spawn(listener.run(door, stop));
    }
}

async fn logged(what: &'static str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(what, %error, "stopped serving");
    }
}
