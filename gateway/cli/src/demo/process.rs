//! The processes of the demo's sites.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::state::Site;
use crate::failure::{FAILED, Failure, TIMED_OUT};

/// A gateway closes its groups in this time, or says that it could not.
const STOP_MAX: Duration = Duration::from_secs(40);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// A program is in its place at once, however busy the machine is.
const ARGUMENTS_MAX: Duration = Duration::from_secs(5);

/// Starts a site's gateway, apart from this process's terminal.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn spawn(config: &Path) -> Result<i32, Failure> {
    let failed = |error: std::io::Error| Failure::new(FAILED, format!("start a site: {error}"));
    let log = config.with_extension("log");
    let log = File::options().create(true).append(true).open(log).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let child = Command::new(program)
        .arg("serve")
        .arg("--config")
        .arg(config)
        .env_remove("TWINSPAN_URL")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let pid = i32::try_from(child.id())
        .map_err(|error| Failure::new(FAILED, format!("start a site: {error}")))?;
    await_arguments(pid);
    Ok(pid)
}

/// Waits until the new program can be told by its arguments, as [`alive`] does. The kernel lets the
/// parent go on a moment earlier, and until then they read as nothing.
fn await_arguments(pid: i32) {
    let until = Instant::now() + ARGUMENTS_MAX;
    while std::fs::read(arguments_of(pid)).is_ok_and(|line| line.is_empty())
        && !is_zombie(pid)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn arguments_of(pid: i32) -> String {
    format!("/proc/{pid}/cmdline")
}

/// Whether it has ended, and nobody has asked how. One that is gone altogether is none.
fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// The process of a site, if it lives: the number alone could belong to another by now.
pub(crate) fn alive(site: &Site) -> Option<Pid> {
    let pid = site.pid?;
    let line = std::fs::read(arguments_of(pid)).ok()?;
    let config = site.config.as_os_str().as_encoded_bytes();
    let is_it = line.split(|byte| *byte == 0).any(|part| part == config);
    if is_it && !is_zombie(pid) { Pid::from_raw(pid) } else { None }
}

/// SIGKILL, and waits until it is gone.
///
/// # Errors
/// When it does not run.
pub(crate) fn kill(site: &Site) -> Result<(), Failure> {
    let pid =
        alive(site).ok_or_else(|| Failure::new(FAILED, format!("{} does not run", site.name)))?;
    send(pid, Signal::KILL)?;
    gone(site, STOP_MAX)
}

/// SIGTERM, and waits until it is gone. One that does not run is stopped already.
///
/// # Errors
/// When it does not end.
pub(crate) fn stop(site: &Site) -> Result<(), Failure> {
    let Some(pid) = alive(site) else { return Ok(()) };
    send(pid, Signal::TERM)?;
    gone(site, STOP_MAX)
}

fn send(pid: Pid, signal: Signal) -> Result<(), Failure> {
    kill_process(pid, signal).map_err(|error| Failure::new(FAILED, format!("signal: {error}")))
}

fn gone(site: &Site, limit: Duration) -> Result<(), Failure> {
    let until = Instant::now() + limit;
    while alive(site).is_some() {
        if Instant::now() > until {
            return Err(Failure::new(TIMED_OUT, format!("{} does not end", site.name)));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}
