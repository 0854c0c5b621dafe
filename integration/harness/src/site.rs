//! A site of the product: its folder, its ports, its process, its command line.
//!
//! Invariant: a site can be killed and started any number of times; folder and ports stay.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Process, binary, config, free_port, get, wait_for};

/// From start to ready, debug builds on a busy machine included.
const START_LIMIT: Duration = Duration::from_secs(30);
/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where a site listens, all on the loopback address.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// REST over TLS.
    pub api: u16,
    /// NBD.
    pub nbd: u16,
    /// Other gateways.
    pub link: u16,
    /// Metrics and health, plain HTTP.
    pub metrics: u16,
}

/// What a command of the product answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub text: String,
    /// The same as JSON; null when it is none.
    pub json: Value,
}

/// One site.
#[derive(Debug)]
pub struct Site {
    name: String,
    dir: PathBuf,
    ports: Ports,
    process: Option<Process>,
}

impl Site {
    /// A site below `parent`, configured and not started.
    ///
    /// # Errors
    /// When its folder or configuration cannot be written, or no port is free.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let dir = parent.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let ports = Ports {
            api: free_port()?,
            nbd: free_port()?,
            link: free_port()?,
            metrics: free_port()?,
        };
        let site = Self { name: name.into(), dir, ports, process: None };
        site.configure("")?;
        Ok(site)
    }

    /// Writes its configuration anew, with these lines added.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, more: &str) -> Result<()> {
        let text = config(&self.name, &self.dir, self.ports) + more;
        std::fs::write(self.config_file(), text).context("write the configuration")
    }

    /// Simulates a distance to every other site, there and back, from the next start on. Both ends
    /// of a link need the same one.
    ///
    /// # Errors
    /// When the configuration cannot be read or written.
    pub fn set_distance(&self, distance: Duration) -> Result<()> {
        let text = std::fs::read_to_string(self.config_file()).context("read the configuration")?;
        let link = format!("[link]\ndistance = \"{}ms\"\n", distance.as_millis());
        ensure!(text.contains("[link]\n"), "the configuration has no section for the link");
        let text = text.replacen("[link]\n", &link, 1);
        std::fs::write(self.config_file(), text).context("write the configuration")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("twinspan.toml")
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Whether it ever ran.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.data_dir().exists()
    }

    /// A volume's address for NBD clients, over TCP.
    #[must_use]
    pub fn nbd(&self, volume: &str) -> String {
        format!("nbd://127.0.0.1:{}/{volume}", self.ports.nbd)
    }

    /// A volume's address for NBD clients, over a Unix socket.
    #[must_use]
    pub fn nbd_unix(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.nbd_socket().display())
    }

    /// Its Unix socket for NBD clients.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.dir.join("nbd.sock")
    }

    /// Where other gateways reach it.
    #[must_use]
    pub fn link_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.link).into()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.await_ready()
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let mut command = Command::new(binary()?);
        command.arg("serve").arg("--config").arg(self.config_file());
        self.process = Some(Process::start(&self.name, &mut command, &self.dir.join("log"))?);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// When it does not in time, with the end of its log.
    pub fn await_ready(&mut self) -> Result<()> {
        let health = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.metrics));
        let process = self.process.as_mut().context("it was not started")?;
        process.wait_until("/readyz", START_LIMIT, || match get(health, "/readyz")? {
            (200, _) => Ok(()),
            (status, body) => bail!("{status} {body}"),
        })
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))
    }

    /// Whether it was started and neither killed nor stopped.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGKILL to both in the same moment: the second does not live on while the first is waited for.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn kill_both(first: &mut Self, second: &mut Self) -> Result<()> {
        first.process()?.strike()?;
        second.process()?.strike()?;
        first.kill()?;
        second.kill()
    }

    /// SIGTERM; it must end cleanly.
    ///
    /// # Errors
    /// When it does not end in time or not with success, with the end of its log.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process()?;
        let status = process.stop(STOP_LIMIT)?;
        ensure!(status.success(), "stopping ended with {status}\n{}", process.tail());
        self.process = None;
        Ok(())
    }

    /// Runs a command of the product against this site and takes its answer as JSON.
    ///
    /// # Errors
    /// When it fails, with what it printed, or prints no JSON.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.ask(arguments)?;
        let line = arguments.join(" ");
        ensure!(answer.code == 0, "twinspan {line} ended with {}\n{}", answer.code, answer.text);
        ensure!(!answer.json.is_null(), "twinspan {line} printed no JSON\n{}", answer.text);
        Ok(answer.json)
    }

    /// What tells the command line that it is about this site.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let token = self.data_dir().join("admin.token").display().to_string();
        let url = format!("https://127.0.0.1:{}", self.ports.api);
        [("TWINSPAN_URL", url), ("TWINSPAN_TOKEN_FILE", token)]
    }

    /// Runs a command of the product against this site, whatever it answers.
    ///
    /// # Errors
    /// When it cannot be run or is killed.
    pub fn ask(&self, arguments: &[&str]) -> Result<Answer> {
        let output = Command::new(binary()?)
            .args(arguments)
            .args(["-o", "json"])
            .envs(self.environment())
            .output()
            .context("start the command line")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let text = text + &String::from_utf8_lossy(&output.stderr);
        Ok(Answer { code: output.status.code().context("it was killed")?, text, json })
    }

    /// Runs a command until its answer satisfies `is_it`.
    ///
    /// # Errors
    /// After `limit`, with the last answer.
    pub fn wait_for(
        &self,
        arguments: &[&str],
        limit: Duration,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_for(&arguments.join(" "), limit, || {
            let json = self.ask(arguments)?.json;
            if is_it(&json) { Ok(json) } else { bail!("the last answer was {json}") }
        })
    }

    /// Makes the two sites trust each other, with a token that is used once.
    ///
    /// # Errors
    /// When either refuses.
    pub fn join(&self, other: &Self) -> Result<()> {
        let made = self.cli(&["site", "token", "create"])?;
        let token = made.get("token").and_then(Value::as_str).context("there is no token")?;
        other.cli(&["site", "join", token])?;
        Ok(())
    }

    /// Mirrors a volume of this site to another.
    ///
    /// # Errors
    /// When either refuses.
    pub fn mirror(&self, volume: &str, to: &Self) -> Result<Value> {
        self.cli(&["session", "create", volume, "--to", to.name()])
    }

    /// Waits until every mirror of this site is in sync.
    ///
    /// # Errors
    /// After `limit`, with the last status.
    pub fn wait_equivalent(&self, limit: Duration) -> Result<Value> {
        self.wait_for(&["session", "list"], limit, |sessions| {
            let list = sessions.get("items").and_then(Value::as_array);
            let is_equivalent = |session: &Value| {
                session.pointer("/leg/phase").and_then(Value::as_str) == Some("equivalent")
            };
            list.is_some_and(|list| !list.is_empty() && list.iter().all(is_equivalent))
        })
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// When nobody answers, or not with success.
    pub fn metrics(&self) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.metrics));
        match get(address, "/metrics")? {
            (200, body) => Ok(body),
            (status, body) => bail!("/metrics: {status} {body}"),
        }
    }
}
