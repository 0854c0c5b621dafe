//! `twinspan demo`: two sites on this machine, as two real processes, and proofs to run on them.
//!
//! Invariant: a site is its folder, its ports and its process. What is killed is killed by its
//! process id, and only after the process was seen to be that site's.

mod load;
mod process;
mod ransom;
mod records;
mod screen;
mod start;
pub(crate) mod state;
mod verify;

use api::{SessionList, Status};

use crate::Outcome;
use crate::args::{Demo, Global};
use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::output::show;
use crate::place::Place;
use state::{Site, State};

/// Runs a command of the demo.
pub(crate) fn run(command: &Demo, global: &Global) -> Outcome {
    let directory = State::directory(global);
    match command {
        Demo::Start { site: Some(site), .. } => {
            let state = State::load(&directory)?;
            let site = state.site(site)?.clone();
            start::start_again(state, &site.name)?;
            show(global.output, &serde_json::json!({ "started": site.name }), |_| {
                format!("{} is up: {}", site.name, site.api)
            });
            Ok(0)
        }
        Demo::Start { site: None, detach, distance, size } => {
            let wanted = start::Wanted { directory, distance: *distance, size: *size };
            start::start(&wanted, *detach, global.output)
        }
        Demo::Stop => {
            let mut state = State::load(&directory)?;
            stop_all(&mut state)?;
            show(global.output, &serde_json::json!({ "stopped": true }), |_| {
                "both sites are stopped".to_owned()
            });
            Ok(0)
        }
        Demo::Kill { site } => {
            let state = State::load(&directory)?;
            let site = state.site(site)?;
            process::kill(site)?;
            show(global.output, &serde_json::json!({ "killed": site.name }), |_| {
                format!("{} is dead (SIGKILL)", site.name)
            });
            Ok(0)
        }
        Demo::Status => {
            let state = state_now(&directory)?;
            show(global.output, &state, screen::sites);
            Ok(0)
        }
        Demo::Load { volume, writers, seconds } => {
            let plan = load::Plan { volume, writers: *writers, seconds: *seconds };
            load::run(&directory, &plan, global.output)
        }
        Demo::Ransom { volume } => ransom::run(&directory, volume, global.output),
        Demo::Verify { volume, place } => {
            verify::run(&directory, volume, place.as_deref(), global.output)
        }
        Demo::Distance { distance } => {
            let mut state = State::load(&directory)?;
            stop_all(&mut state)?;
            start::set_distance(&state, *distance)?;
            for name in state.sites.iter().map(|site| site.name.clone()).collect::<Vec<_>>() {
                start::start_again(State::load(&directory)?, &name)?;
            }
            Ok(0)
        }
    }
}

/// The demo as it is now: who is primary, where hosts attach, which processes live.
fn state_now(directory: &std::path::Path) -> Result<State, Failure> {
    let mut state = State::load(directory)?;
    start::refresh(&mut state);
    Ok(state)
}

fn stop_all(state: &mut State) -> Result<(), Failure> {
    let ends: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let stops: Vec<_> =
            state.sites.iter().map(|site| scope.spawn(|| process::stop(site))).collect();
        stops
            .into_iter()
            .map(|stop| {
                stop.join().unwrap_or_else(|_panic| Err(Failure::new(FAILED, "stopping failed")))
            })
            .collect()
    });
    ends.into_iter().collect()
}

/// A client of a site.
///
/// # Errors
/// When its token cannot be read: it never ran.
pub(crate) fn client_of(site: &Site) -> Result<Client, Failure> {
    Client::new(Place::of(&site.api, std::path::Path::new(&site.token_file), None)?)
}

/// The site that serves a volume, and where it is attached.
///
/// # Errors
/// When none of them does.
fn serving(state: &State, volume: &str) -> Result<(String, String), Failure> {
    for site in &state.sites {
        let Ok(client) = client_of(site) else { continue };
        let path = format!("/api/v1/volumes/{}", crate::commands::segment(volume));
        let Ok(found) = client.get::<api::Volume>(&path) else { continue };
        if found.copy == api::Copy::Serving
            && let Some(uri) = found.exports.into_iter().find(|uri| uri.starts_with("nbd:"))
        {
            return Ok((site.name.clone(), uri));
        }
    }
    Err(Failure::new(FAILED, format!("no site serves {volume}"))
        .next("twinspan status --from SITE, then twinspan failover plan GROUP --to SITE"))
}

/// Whether both sides say that every session is in sync.
fn in_sync(client: &Client) -> bool {
    let is_well = |session: &api::Session| {
        session.leg.phase == api::Phase::Equivalent
            && session.leg.in_sync
            && session.leg.theirs.as_ref().is_some_and(|theirs| theirs.in_sync)
    };
    client
        .get::<SessionList>("/api/v1/sessions")
        .is_ok_and(|list| !list.items.is_empty() && list.items.iter().all(is_well))
}

/// The status of a site, if it answers.
fn status_of(site: &Site) -> Option<Status> {
    client_of(site).ok()?.get("/api/v1/status").ok()
}
