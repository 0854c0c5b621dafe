//! Running other programs: said before, output passed through, failure named.
//!
//! Invariant: nothing that is run here waits for an answer from a terminal.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Cargo, in the repository: the one that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Set by the cargo that runs this for the crate of this program; another run of cargo must
    // not take them for its own.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Becomes it, so that signals and the exit code are its own.
///
/// # Errors
/// When it cannot be started; else it does not return.
pub(crate) fn become_it(command: &mut Command) -> Result<()> {
    announce(command);
    let error = command.exec();
    Err(error).with_context(|| format!("start {}", line(command)))
}

/// Whether it runs and succeeds; its output is not of interest.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether a program of this name is in the search path, or where Debian keeps those of root.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let roots = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(roots).any(|folder| folder.join(program).is_file())
}

/// Where cargo put a program that was built in release mode.
///
/// # Errors
/// When this program does not know where it is itself.
pub(crate) fn release(program: &str) -> Result<PathBuf> {
    built("release", program)
}

/// Where cargo put a program that was built in this profile's folder.
///
/// # Errors
/// When this program does not know where it is itself.
pub(crate) fn built(folder: &str, program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the target folder")?;
    let target = own.ancestors().nth(2).context("find the target folder")?;
    Ok(target.join(folder).join(program))
}

fn announce(command: &Command) {
    eprintln!("\n$ {}", line(command));
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
