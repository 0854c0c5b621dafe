//! A process of ours or of a peer: started with its log in a file, signalled, awaited.
//!
//! Invariant: it leads its own process group, which is killed when its owner goes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait_for;

/// Lines of its log that an error quotes.
const TAIL_LINES: usize = 40;
/// The kernel's unit of processor time in `/proc`, on every architecture that Linux has today.
const TICK: Duration = Duration::from_millis(10);

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    is_killed: bool,
}

/// Processor time that was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program itself.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Process {
    /// Starts a command; what it prints goes to the end of `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the command cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file: File = file.with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.into(), child, log: log.into(), is_killed: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// An error if it ended; for use while something is expected from it.
    ///
    /// # Errors
    /// When it ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("{} ended ({status})\n{}", self.name, self.tail()),
            None => Ok(()),
        }
    }

    /// Looks until `look` finds what it looks for, or the process ends.
    ///
    /// # Errors
    /// After `limit` or at its end, with the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut ended = None;
        let found = wait_for(what, limit, || match self.ended()? {
            // Waiting for a dead process would only delay the news.
            Some(status) => {
                ended = Some(status);
                Ok(None)
            }
            None => look().map(Some),
        });
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("{} ended ({ended:?}) before {what}\n{}", self.name, self.tail()),
            Err(e) => bail!("{}: {e:#}\n{}", self.name, self.tail()),
        }
    }

    /// SIGKILL, as when the power goes: nothing of it runs on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.strike()?;
        self.child.wait().with_context(|| format!("await the end of {}", self.name))?;
        self.is_killed = true;
        Ok(())
    }

    /// SIGKILL, without waiting for its end: [`Self::kill`] does that afterwards.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn strike(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`; it then runs on.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let ended =
            wait_for("its end", limit, || self.child.try_wait()?.context("it ignores SIGTERM"));
        ended.with_context(|| format!("stop {}\n{}", self.name, self.tail()))
    }

    /// SIGSTOP: it exists, keeps its connections, and does nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on as if nothing had happened.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Processor time of its whole group so far, ended members that were awaited included.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn cpu_time(&self) -> Result<CpuTime> {
        let mut sum = CpuTime::default();
        for entry in fs::read_dir("/proc").context("list processes")? {
            let path = entry?.path().join("stat");
            // Processes come and go while the list is read.
            let Ok(stat) = fs::read_to_string(&path) else { continue };
            if let Some(used) = used_by_member(&stat, self.child.id()) {
                sum.user += used.user;
                sum.system += used.system;
            }
        }
        Ok(sum)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("--- the end of {} ---\n{}", self.log.display(), lines[from..].join("\n"))
    }

    /// Where its log is.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, signal)
            .with_context(|| format!("send {signal:?} to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_killed {
            // The number may by now be another process's.
            return;
        }
        // The leader may be gone while others of its group are not, or all of them: either way
        // there is nobody to tell.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
        self.child.wait().ok();
    }
}

/// The processor time in a line of `/proc/PID/stat`, if that process is in `group`.
fn used_by_member(stat: &str, group: u32) -> Option<CpuTime> {
    // The name, in parentheses, may hold anything; fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
    if number(2)? != group {
        return None;
    }
    let ticks = |own: usize, awaited: usize| Some(TICK * (number(own)? + number(awaited)?));
    Some(CpuTime { user: ticks(11, 13)?, system: ticks(12, 14)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let process = Process::start("shell", Command::new("sh").args(["-c", script]), &log);
        (process.unwrap(), dir)
    }

    #[test]
    fn tells_the_log_of_one_that_ended() {
        let (mut process, _dir) = shell("echo broken pipe dream; exit 3");
        let error = process
            .wait_until("a miracle", Duration::from_secs(5), || -> Result<()> { bail!("none") })
            .unwrap_err();
        assert!(error.to_string().contains("broken pipe dream"), "{error}");
    }

    #[test]
    fn kills_the_whole_group_and_counts_its_time() {
        let (mut process, _dir) = shell("(while :; do :; done) & while :; do :; done");
        let busy = wait_for("work", Duration::from_secs(10), || {
            let used = process.cpu_time()?.total();
            if used > Duration::from_millis(50) { Ok(used) } else { bail!("{used:?}") }
        });
        busy.unwrap();
        process.kill().unwrap();
        // The orphan dies a moment later where the machine is busy, and may stay as a zombie for a while;
        // what counts is that it works no more.
        let rest = wait_for("an end of its work", Duration::from_secs(10), || {
            let before = process.cpu_time()?;
            std::thread::sleep(Duration::from_millis(100));
            let after = process.cpu_time()?;
            if after == before { Ok(()) } else { bail!("{before:?}, then {after:?}") }
        });
        rest.unwrap();
    }

    #[test]
    fn reads_a_name_that_looks_like_fields() {
        let stat = "7 (a) 1 2) S 1 42 42 0 -1 0 0 0 0 0 5 6 7 8 20 0";
        let used = used_by_member(stat, 42).unwrap();
        assert_eq!((used.user, used.system), (TICK * 12, TICK * 14));
        assert_eq!(used_by_member(stat, 43), None);
    }
}
