//! A process that is stopped after a system call, or killed before one, from outside: by strace.
//!
//! ```text
//!   Stop ─▶ the call is made ─▶ the whole process stands still, before anything follows from it
//!   Kill ─▶ the call is not made: the process is killed as it enters it
//! ```
//!
//! Invariant: only calls on one file count, whichever thread makes them; a call that goes through io_uring
//! is none. strace is taken off only while the process stands still or is dead, because it may leave a
//! signal behind otherwise.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::{Process, require, wait_for};

/// Until strace has every thread of a process, on a busy machine.
const ATTACH_LIMIT: Duration = Duration::from_secs(20);
/// Until a process stands still that was told to, and until strace is gone.
const STILL_LIMIT: Duration = Duration::from_secs(10);

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// It is made, and the process stands still then.
    Stop,
    /// It is not made: the process is killed.
    Kill,
}

/// A process of this one, leader of its group, that strace is put onto.
#[derive(Debug)]
pub struct Traced {
    process: Pid,
    /// What strace has to say, for who looks why something failed.
    log: std::path::PathBuf,
    strace: Option<Process>,
}

impl Traced {
    /// Nothing is done to the process yet; what strace says goes to the end of `log`.
    ///
    /// # Errors
    /// When strace is not installed, or this is no number of a process.
    pub fn new(process: u32, log: &Path) -> Result<Self> {
        require("strace")?;
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        let process = process.context("the number of a process")?;
        Ok(Self { process, log: log.into(), strace: None })
    }

    /// Lets every call of this name on this file be a blow from now on, and no call of before any more. The
    /// path is without symbolic links; the file need not be there yet. The process stands still meanwhile, so
    /// that no thread begins unseen.
    ///
    /// # Errors
    /// When strace does not get hold of every thread, with what it said.
    pub fn strike_at(&mut self, call: &str, file: &Path, blow: Blow) -> Result<()> {
        self.take_off()?;
        let signal = match blow {
            Blow::Stop => "STOP",
            Blow::Kill => "KILL",
        };
        let id = self.process.as_raw_nonzero().get();
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-o", "/dev/null", "-P"]).arg(file);
        command.args(["-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal={signal}")]);
        command.args(["-p", &id.to_string()]);
        let mut strace = Process::start("strace", &mut command, &self.log)?;
        let mark = format!("TracerPid:\t{}\n", strace.id());
        let attached = strace.wait_until("its hold of every thread", ATTACH_LIMIT, || {
            for thread in fs::read_dir(format!("/proc/{id}/task")).context("list threads")? {
                let status = fs::read_to_string(thread?.path().join("status"));
                ensure!(status.context("a thread ended")?.contains(&mark), "one is not held");
            }
            Ok(())
        });
        attached.context("it needs root, or kernel.yama.ptrace_scope=0")?;
        self.strace = Some(strace);
        Ok(())
    }

    /// Whether it stands still since this was asked last.
    ///
    /// # Errors
    /// When it is no process of this one any more.
    pub fn is_stopped(&self) -> Result<bool> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        Ok(waitid(WaitId::Pid(self.process), options).context("look after it")?.is_some())
    }

    /// Whether it is dead; who started it awaits its end all the same.
    ///
    /// # Errors
    /// When it is no process of this one any more.
    pub fn is_dead(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.process), options).context("look after it")?.is_some())
    }

    /// Lets it go on that stands still.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resume(&self) -> Result<()> {
        kill_process_group(self.process, Signal::CONT).context("let it go on")
    }

    /// SIGKILL, and nothing is left of strace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(mut self) -> Result<()> {
        kill_process_group(self.process, Signal::KILL).context("kill it")?;
        // What is dying is not given back in order: strace would wait for that without end.
        self.strace.take().map_or(Ok(()), |mut strace| strace.kill())
    }

    /// Lets it stand still, which it does once this returns.
    ///
    /// # Errors
    /// When it does not, or is dead.
    pub fn hold(&self) -> Result<()> {
        kill_process_group(self.process, Signal::STOP).context("stop it")?;
        wait_for("a process that stands still", STILL_LIMIT, || {
            ensure!(self.is_stopped()?, "it runs");
            Ok(())
        })
    }

    /// Takes strace off a process that runs, which goes on as if nothing had been.
    ///
    /// # Errors
    /// When it does not stand still for a moment, or strace does not end.
    pub fn let_go(mut self) -> Result<()> {
        self.hold()?;
        self.take_off()?;
        self.resume()
    }

    fn take_off(&mut self) -> Result<()> {
        let Some(mut strace) = self.strace.take() else { return Ok(()) };
        // It ends with the signal that it was sent, after it gave back what it held.
        strace.stop(STILL_LIMIT).map(drop)
    }
}
