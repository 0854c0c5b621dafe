//! What the gateway is to its plugins.
//!
//! Invariant: plugins see the words and numbers that operators see, made in one place. A gateway that
//! cannot run plugins serves its volumes all the same.

pub(crate) mod actions;

use std::sync::{Arc, OnceLock, Weak};

use plugin::contract::{Created, Group, Mode, Progress, Role, Session, Site, Volume};
use plugin::world::{BoxFuture, File, FolderError, Found, SecretError};
use plugin::{Plugins, Setup, World};
use uuid::Uuid;

use crate::book::{PeerEntry, Place};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::Gateway;

/// Where the host keeps its own, in the data directory.
const STATE_DIR: &str = "plugin-state";

/// The gateway, as its plugins see it: it is told of the plugins before it is whole itself.
pub(crate) struct Surroundings {
    config: Config,
    clock: Clock,
    gateway: OnceLock<Weak<Gateway>>,
}

impl Surroundings {
    /// Of a gateway that is still being put together.
    #[must_use]
    pub(crate) fn new(config: &Config, clock: Clock) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), clock, gateway: OnceLock::new() })
    }

    /// It is whole.
    pub(crate) fn is(&self, gateway: &Arc<Gateway>) {
        // A second gateway in one process would be a mistake of ours; the first one stays.
        let _first = self.gateway.set(Arc::downgrade(gateway));
    }

    fn gateway(&self) -> Result<Arc<Gateway>, String> {
        let gateway = self.gateway.get().and_then(Weak::upgrade);
        gateway.ok_or_else(|| "the gateway is starting or stopping".to_owned())
    }

    fn whole(&self) -> Result<Arc<Gateway>, FolderError> {
        self.gateway().map_err(FolderError::Unavailable)
    }

    fn of_run(&self, run: &str) -> Result<(Arc<Gateway>, Uuid), String> {
        let id = Uuid::parse_str(run).map_err(|_none| format!("there is no run {run}"))?;
        Ok((self.gateway()?, id))
    }

    /// Records that a step made or removed something.
    async fn note(
        &self,
        run: &str,
        step: &str,
        (created, removed): (Vec<recovery::Created>, Vec<recovery::Created>),
    ) -> Result<(), String> {
        let (gateway, id) = self.of_run(run)?;
        let noted = gateway.note_in_run(id, step.to_owned(), (created, removed)).await;
        noted.map_err(|refused| refused.0.detail)
    }

    /// The groups of a run; all for a call that is of none.
    fn scope(&self, run: Option<&str>) -> Result<Option<Vec<String>>, String> {
        let Some(run) = run else { return Ok(None) };
        let (gateway, id) = self.of_run(run)?;
        let all = gateway.runs.all();
        let known = all.get(&id).ok_or_else(|| format!("run {run} is not known here"))?;
        let groups = &known.run.begun.groups;
        Ok(Some(groups.iter().map(|(_, name)| name.clone()).collect()))
    }

    fn site(&self) -> Site {
        let site = &self.config.site;
        Site {
            name: site.name.clone(),
            region: site.region.clone(),
            zone: site.zone.clone(),
            position: site.position.map(crate::config::Position::degrees),
        }
    }
}

/// Starts the host of plugins; without it when the system does not let it be.
pub(crate) fn start(config: &Config, world: Arc<Surroundings>) -> Option<Plugins> {
    let setup = Setup {
        directory: config.plugins.directory.clone(),
        state: config.data_dir.join(STATE_DIR),
        keys: config.plugins.keys.clone(),
        world,
    };
    match Plugins::start(setup) {
        Ok(plugins) => Some(plugins),
        Err(error) => {
            tracing::error!("plugins cannot be run: {error}");
            None
        }
    }
}

/// A site as plugins see it.
pub(crate) fn site(name: &str, place: &Place) -> Site {
    Site {
        name: name.to_owned(),
        region: place.region.clone(),
        zone: place.zone.clone(),
        position: place.position.map(crate::config::Position::degrees),
    }
}

/// A volume as plugins see it.
pub(crate) fn volume(volume: &api::Volume) -> Volume {
    Volume {
        id: volume.id.to_string(),
        name: volume.name.clone(),
        group: volume.group.clone(),
        size_bytes: volume.bytes,
        is_filling: volume.filling.is_some(),
    }
}

/// A mode as plugins see it.
pub(crate) fn mode(mode: &str) -> Mode {
    match mode {
        "consistency" => Mode::Consistency,
        "stack" => Mode::Stack,
        _ => Mode::Sync,
    }
}

/// A word as the API writes it.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}

fn session(leg: &api::Leg) -> Session {
    Session {
        destination: leg.site.clone(),
        mode: mode(&leg.policy.mode),
        status: word(&leg.state),
        phase: word(&leg.phase),
        // What a mirror lacks is known while it is heard.
        behind_bytes: (leg.link == api::LinkState::Connected).then_some(leg.out_of_sync_bytes),
    }
}

/// A group as plugins see it.
pub(crate) fn group(group: &api::Group, volumes: &[api::Volume], here: &str) -> Group {
    let role = match group.role {
        Some(api::Role::Primary) if group.legs.is_empty() => Role::Alone,
        Some(api::Role::Primary) => Role::Primary,
        Some(api::Role::Secondary) => Role::Secondary,
        Some(api::Role::Fenced) => Role::Fenced,
        None => Role::Unknown,
    };
    let primary_site = match group.role {
        Some(api::Role::Primary) => Some(here.to_owned()),
        _ => group.upstream.as_ref().map(|upstream| upstream.site.clone()),
    };
    Group {
        name: group.name.clone(),
        role,
        primary_site,
        volumes: volumes.iter().filter(|of| of.group == group.name).map(volume).collect(),
        sessions: group.legs.iter().map(session).collect(),
    }
}

impl World for Surroundings {
    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn secret(&self, name: &str) -> Result<Vec<u8>, SecretError> {
        self.config.plugins.secret(name)
    }

    fn here(&self) -> String {
        self.config.site.name.clone()
    }

    fn sites(&self) -> BoxFuture<'_, Vec<Site>> {
        let peers = self.gateway().map(|gateway| gateway.book.read());
        let peers = peers.iter().flat_map(|pages| {
            let known = |peer: &PeerEntry| peer.place.clone().unwrap_or_default();
            pages.peers.iter().map(move |peer| site(&peer.site, &known(peer)))
        });
        let sites = std::iter::once(self.site()).chain(peers).collect();
        Box::pin(async { sites })
    }

    fn groups<'a>(&'a self, run: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Group>, String>> {
        Box::pin(async move {
            let gateway = self.gateway()?;
            let scope = self.scope(run)?;
            let (groups, volumes) = tokio::join!(gateway.show_groups(), gateway.show_volumes());
            let here = &self.config.site.name;
            let is_seen =
                |of: &&api::Group| scope.as_ref().is_none_or(|scope| scope.contains(&of.name));
            let seen = groups.iter().filter(is_seen);
            Ok(seen.map(|of| group(of, &volumes.items, here)).collect())
        })
    }

    fn folder_files<'a>(
        &'a self,
        volume: &'a str,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<File>, FolderError>> {
        Box::pin(async move { self.whole()?.folder_files(volume, prefix).await })
    }

    fn folder_read<'a>(
        &'a self,
        volume: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Found, FolderError>> {
        Box::pin(async move { self.whole()?.folder_read(volume, name).await })
    }

    fn folder_write<'a>(
        &'a self,
        run: Option<&'a str>,
        volume: &'a str,
        file: (String, Vec<u8>),
        expected: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, FolderError>> {
        Box::pin(async move { self.whole()?.folder_write(run, volume, file, expected).await })
    }

    fn folder_remove<'a>(
        &'a self,
        run: Option<&'a str>,
        volume: &'a str,
        name: String,
    ) -> BoxFuture<'a, Result<(), FolderError>> {
        Box::pin(async move { self.whole()?.folder_remove(run, volume, &name).await })
    }

    fn register<'a>(
        &'a self,
        run: &'a str,
        step: &'a str,
        created: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.note(run, step, (vec![actions::created(created)], Vec::new())))
    }

    fn unregister<'a>(
        &'a self,
        run: &'a str,
        step: &'a str,
        gone: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.note(run, step, (Vec::new(), vec![actions::created(gone)])))
    }

    fn report(&self, run: &str, step: &str, progress: Progress) {
        let Ok((gateway, id)) = self.of_run(run) else { return };
        if let Some(known) = gateway.runs.all().get_mut(&id) {
            known.progress.insert(step.to_owned(), actions::progress(&progress));
        }
    }

    fn is_cancelled(&self, run: &str) -> bool {
        // A run that is not known is of another site, which drops what it does not want any more.
        self.of_run(run).is_ok_and(|(gateway, id)| {
            let all = gateway.runs.all();
            all.get(&id)
                .is_some_and(|known| known.run.turned.is_some() || known.run.ended.is_some())
        })
    }
}
