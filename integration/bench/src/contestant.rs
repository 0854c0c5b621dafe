//! Someone who takes part: started for one transport, with a volume of its own.
//!
//! Invariant: its processes end when it is dropped.

use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::{CpuTime, Process, Site};
use serde::Serialize;

use crate::client::Address;

/// How clients reach a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

impl Transport {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            "unix" => Ok(Self::Unix),
            "tcp" => Ok(Self::Tcp),
            other => anyhow::bail!("{other} is no transport: unix or tcp"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

/// Where a contestant's files lie. Only those on the same one are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Medium {
    Disk,
    /// On tmpfs, whatever folder the run was given.
    Memory,
    /// Nowhere: it keeps nothing. What it needs is the least that anybody does, and no goal is below.
    Nowhere,
}

/// Where to start and what to serve.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// A folder of the contestant's own.
    pub(crate) dir: PathBuf,
    pub(crate) size_mib: u64,
    pub(crate) transport: Transport,
}

impl Place {
    /// An empty file of the volume's size; one that is there from an earlier transport is kept.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn image(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("make {}", path.display()))?;
        file.set_len(self.size_mib << 20).context("size the image")?;
        Ok(path)
    }
}

/// One that runs.
pub(crate) struct Running {
    pub(crate) address: Address,
    pub(crate) export: String,
    /// Whatever processes serve it, kept alive by being here.
    pub(crate) processes: Vec<Process>,
    pub(crate) sites: Vec<Site>,
}

impl Running {
    /// Processor time of all its processes so far.
    ///
    /// # Errors
    /// When one does not run any more.
    pub(crate) fn cpu_time(&mut self) -> Result<CpuTime> {
        let mut sum = CpuTime::default();
        let sites = self.sites.iter_mut().map(Site::process);
        for process in self.processes.iter_mut().map(Ok).chain(sites) {
            let process = process?;
            process.check()?;
            let used = process.cpu_time()?;
            sum.user += used.user;
            sum.system += used.system;
        }
        Ok(sum)
    }
}

/// How one is called and started.
#[derive(Clone, Copy)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) start: fn(&Place) -> Result<Running>,
    pub(crate) medium: Medium,
}
