//! Starts the demo: two configurations, two processes, a token, a volume, a session.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::units::parse_millis;
use api::{
    JoinRequest, JoinToken, Session, SessionCreate, SessionList, SiteList, TokenRequest, Volume,
    VolumeCreate, VolumeList, VolumeSettings,
};
use tokio::time::Instant;

use super::state::{Site, State, config_file};
use super::{client_of, in_sync, process, screen, status_of};
use crate::Outcome;
use crate::args::Format;
use crate::client::Client;
use crate::failure::{FAILED, Failure, TIMED_OUT};

/// The demo's volume, and its group.
pub(crate) const VOLUME: &str = "orders";
/// From start to ready, on a busy machine.
const READY_MAX: Duration = Duration::from_secs(30);
/// An empty volume is in sync at once.
const SYNC_MAX: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What is to be started.
pub(crate) struct Wanted {
    /// Where.
    pub(crate) directory: PathBuf,
    /// How far apart.
    pub(crate) distance: Duration,
    /// The size of the volume.
    pub(crate) size: u64,
}

/// Starts both sites; in the foreground until interrupted, or detached.
pub(crate) fn start(wanted: &Wanted, detach: bool, format: Format) -> Outcome {
    let mut state = match State::load(&wanted.directory) {
        Ok(state) => state,
        Err(_none) => lay_out(wanted)?,
    };
    if state.sites.iter().any(|site| process::alive(site).is_some()) {
        let what = format!("a demo runs in {}", state.dir.display());
        return Err(Failure::new(FAILED, what).next("twinspan demo status, or twinspan demo stop"));
    }
    set_distance(&state, wanted.distance)?;
    for site in &mut state.sites {
        site.pid = Some(process::spawn(&site.config)?);
    }
    state.save()?;
    let outcome = bring_up(&mut state, wanted);
    if let Err(failure) = outcome {
        // Half a demo is of no use to anybody; its logs stay.
        super::stop_all(&mut state)?;
        let logs = format!("the logs are {}/*.log", state.dir.display());
        return Err(failure.next(logs));
    }
    match format {
        Format::Json => println!("{}", state.line()),
        Format::Table => print!("{}", screen::welcome(&state, wanted.distance)),
    }
    if detach {
        return Ok(0);
    }
    wait_for_interrupt()?;
    super::stop_all(&mut state)?;
    Ok(0)
}

fn wait_for_interrupt() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(FAILED, format!("signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(failed)?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(failed),
            _ = term.recv() => Ok(()),
        }
    })
}

fn bring_up(state: &mut State, wanted: &Wanted) -> Result<(), Failure> {
    for site in &state.sites {
        await_ready(site)?;
    }
    let [east, west] = state.sites.as_slice() else {
        return Err(Failure::new(FAILED, "the demo has two sites"));
    };
    // One that was set up is started as it was left, whatever was done to it.
    if !State::is_whole(&state.dir) {
        set_up(&client_of(east)?, (&client_of(west)?, &west.name), wanted.size)?;
        state.set_whole()?;
    }
    refresh(state);
    state.save()
}

/// Joins, makes the volume and mirrors it; goes on where an earlier attempt was cut short.
fn set_up(east: &Client, (west, west_name): (&Client, &str), size: u64) -> Result<(), Failure> {
    let sites: SiteList = east.get("/api/v1/sites")?;
    if sites.peers.is_empty() {
        join(east, west)?;
    }
    let volumes: VolumeList = east.get("/api/v1/volumes")?;
    if volumes.items.is_empty() {
        let volume = VolumeCreate {
            part_of: None,
            name: VOLUME.to_owned(),
            bytes: Some(size),
            from: None,
            group: None,
            settings: VolumeSettings::default(),
        };
        let _made: Volume = east.post("/api/v1/volumes", &volume)?;
    }
    let sessions: SessionList = east.get("/api/v1/sessions")?;
    if sessions.items.is_empty() {
        let session = SessionCreate {
            volume: VOLUME.to_owned(),
            to: west_name.to_owned(),
            policy: api::PolicyPatch::default(),
            skip_initial_copy: false,
            destination: None,
        };
        let _session: Session = east.post("/api/v1/sessions", &session)?;
    }
    await_sync(east)
}

fn join(east: &Client, west: &Client) -> Result<(), Failure> {
    let token: JoinToken = east.post("/api/v1/sites/token", &TokenRequest::default())?;
    let _sites: SiteList = west.post("/api/v1/sites/join", &JoinRequest { token: token.token })?;
    Ok(())
}

fn await_ready(site: &Site) -> Result<(), Failure> {
    let until = Instant::now() + READY_MAX;
    loop {
        if client_of(site).is_ok_and(|client| client.is_ready()) {
            return Ok(());
        }
        let is_dead = process::alive(site).is_none();
        if is_dead || Instant::now() > until {
            let log = std::fs::read_to_string(site.config.with_extension("log"));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n  ");
            let how = if is_dead { "ended" } else { "did not become ready" };
            return Err(Failure::new(FAILED, format!("{} {how}:\n  {tail}", site.name)));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn await_sync(client: &Client) -> Result<(), Failure> {
    let until = Instant::now() + SYNC_MAX;
    while !in_sync(client) {
        if Instant::now() > until {
            return Err(Failure::new(TIMED_OUT, "the mirror did not get in sync"));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}

/// Starts one site again, which must not run.
///
/// # Errors
/// When it runs, or does not become ready.
pub(crate) fn start_again(mut state: State, name: &str) -> Result<(), Failure> {
    let site = state
        .sites
        .iter_mut()
        .find(|site| site.name == name)
        .ok_or_else(|| Failure::new(FAILED, format!("the demo has no site {name:?}")))?;
    if process::alive(site).is_some() {
        return Err(Failure::new(FAILED, format!("{name} runs already")));
    }
    site.pid = Some(process::spawn(&site.config)?);
    let started = site.clone();
    state.save()?;
    await_ready(&started)?;
    refresh(&mut state);
    state.save()
}

/// Asks the sites what they are now.
pub(crate) fn refresh(state: &mut State) {
    for site in &mut state.sites {
        if process::alive(site).is_none() {
            site.pid = None;
        }
        let status = status_of(site);
        let group = status.as_ref().and_then(|status| status.groups.first());
        let role = group.and_then(|group| group.role);
        site.role = role.map_or_else(|| "unknown".to_owned(), |role| crate::output::word(&role));
        let volume = client_of(site)
            .ok()
            .and_then(|client| client.get::<Volume>(&format!("/api/v1/volumes/{VOLUME}")).ok());
        let exports = volume.map(|volume| volume.exports).unwrap_or_default();
        site.nbd = exports.iter().find(|uri| uri.starts_with("nbd:")).cloned();
        site.iscsi = exports.iter().find(|uri| uri.starts_with("iscsi:")).cloned();
        site.nbd_unix = exports.iter().find(|uri| uri.starts_with("nbd+unix:")).cloned();
    }
}

fn lay_out(wanted: &Wanted) -> Result<State, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(FAILED, format!("{}: {error}", wanted.directory.display()))
    };
    std::fs::create_dir_all(&wanted.directory).map_err(failed)?;
    let directory = std::fs::canonicalize(&wanted.directory).map_err(failed)?;
    let ports = free_ports(10)?;
    let mut sites = Vec::new();
    for (name, ports) in ["east", "west"].into_iter().zip(ports.chunks_exact(5)) {
        sites.push(lay_out_site(&directory, name, ports, wanted.distance).map_err(failed)?);
    }
    Ok(State { dir: directory, sites })
}

/// Ports of the loopback address that are free now, and that no outgoing connection takes before
/// the sites listen: they lie below the kernel's own range, which begins at 32768 by default.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    const RANGE: std::ops::Range<u16> = 12_000..32_000;
    // Demos that are started at once begin at different ones.
    let begin = usize::try_from(std::process::id()).unwrap_or_default() * 61;
    let all = RANGE.cycle().skip(begin % RANGE.len()).take(RANGE.len());
    let ports: Vec<u16> = all
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .take(count)
        .collect();
    if ports.len() < count {
        let what = format!("no {count} free ports of 127.0.0.1 in {RANGE:?}");
        return Err(Failure::new(FAILED, what).next("end what listens there"));
    }
    Ok(ports)
}

fn lay_out_site(
    directory: &Path,
    name: &str,
    ports: &[u16],
    distance: Duration,
) -> std::io::Result<Site> {
    let &[api, metrics, link, nbd, iscsi] = ports else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let home = directory.join(name);
    std::fs::create_dir_all(&home)?;
    let config = config_file(directory, name);
    let text = format!(
        "# A site of the demo.\ndata_dir = \"{home}\"\n\n[site]\nname = \"{name}\"\n\n\
         [api]\nlisten = \"127.0.0.1:{api}\"\n\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\n\
         [link]\nlisten = \"127.0.0.1:{link}\"\ndistance = \"{distance}ms\"\n\n\
         [[nbd.listeners]]\nname = \"tcp\"\naddress = \"127.0.0.1:{nbd}\"\n\n\
         [[nbd.listeners]]\nname = \"unix\"\naddress = \"unix:{home}/nbd.sock\"\n\n\
         [iscsi]\nportal_group = {group}\nauth = \"none\"\n\n\
         [[iscsi.listeners]]\nname = \"tcp\"\naddress = \"127.0.0.1:{iscsi}\"\n",
        group = if name == "east" { 1 } else { 2 },
        home = home.display(),
        distance = distance.as_millis(),
    );
    std::fs::write(&config, text)?;
    Ok(Site {
        name: name.to_owned(),
        role: "unknown".to_owned(),
        pid: None,
        api: format!("https://127.0.0.1:{api}"),
        nbd: None,
        nbd_unix: None,
        iscsi: None,
        metrics: format!("http://127.0.0.1:{metrics}/metrics"),
        token_file: home.join(server::ADMIN_TOKEN_FILE).display().to_string(),
        config,
    })
}

/// Writes another distance into both configurations.
///
/// # Errors
/// When a configuration cannot be written.
pub(crate) fn set_distance(state: &State, distance: Duration) -> Result<(), Failure> {
    for site in &state.sites {
        let failed = |error: std::io::Error| {
            Failure::new(FAILED, format!("{}: {error}", site.config.display()))
        };
        let text = std::fs::read_to_string(&site.config).map_err(failed)?;
        let lines = text.lines().map(|line| {
            let value = line.strip_prefix("distance = \"").and_then(|rest| rest.strip_suffix('"'));
            match value.and_then(|value| parse_millis(value).ok()) {
                Some(_) => format!("distance = \"{}ms\"\n", distance.as_millis()),
                None => format!("{line}\n"),
            }
        });
        std::fs::write(&site.config, lines.collect::<String>()).map_err(failed)?;
    }
    Ok(())
}
