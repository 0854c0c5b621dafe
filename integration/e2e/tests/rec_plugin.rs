//! The plugin `eternus-rec` at a gateway of its own, between two others that stand for storage systems: the
//! four flows as steps of plans.
//!
//! Invariant: the plugin knows nothing of the two but the copy-session API; contents are compared by reading
//! both copies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Process, Site, free_port, wait_for};
use serde_json::{Value, json};

use crate::evs::{holds, same, write};
use crate::evs_cloud::configure_as;
use crate::pair::{Pair, SOON, SYNC_LIMIT, set, text};
use crate::plugins::install;

/// A gateway's API by plain HTTP; where.
fn relay(site: &Site, dir: &Path) -> Result<(Process, u16)> {
    let port = free_port()?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rec/rec_relay.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg(site.ports().api.to_string()).arg(port.to_string());
    let log = dir.join(format!("relay-{}.log", site.name()));
    let process = Process::start("relay", &mut command, &log)?;
    wait_for("the relay to listen", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).context("connect")
    })?;
    Ok((process, port))
}

struct Lab {
    pair: Pair,
    /// Where the plugin is.
    desk: Site,
    dir: tempfile::TempDir,
    _relays: Vec<Process>,
}

impl Lab {
    fn new() -> Result<Self> {
        let pair = Pair::joined()?;
        let dir = tempfile::tempdir()?;
        let mut relays = Vec::new();
        let mut ports = Vec::new();
        for site in [&pair.primary, &pair.mirror] {
            let (process, port) = relay(site, dir.path())?;
            relays.push(process);
            ports.push(port);
        }
        let mut desk = Site::new(dir.path(), "desk")?;
        let secret = |site: &Site, name: &str| -> Result<String> {
            let token = std::fs::read_to_string(site.data_dir().join("admin.token"))?;
            let file = dir.path().join(name);
            std::fs::write(&file, token.trim()).context("write a token")?;
            Ok(format!("\"{name}={}\"", file.display()))
        };
        let (one, two) = (secret(&pair.primary, "box-a")?, secret(&pair.mirror, "box-b")?);
        set(&desk, "plugins", &format!("secrets = [{one}, {two}]"))?;
        desk.start()?;
        install(&desk, "eternus-rec")?;
        let config = json!({
            "local": format!("http://127.0.0.1:{}/api/v1", ports[0]),
            "remote": format!("http://127.0.0.1:{}/api/v1", ports[1]),
            "local_token": "box-a", "remote_token": "box-b",
        });
        configure_as(&desk, dir.path(), ("eternus-rec", &config))?;
        let hosts: Vec<String> =
            ports.iter().map(|port| format!("http:127.0.0.1:{port}")).collect();
        let mut grant =
            vec!["plugin", "grant", "eternus-rec", "kv", "secret:box-a", "secret:box-b"];
        grant.extend(hosts.iter().map(String::as_str));
        desk.cli(&grant)?;
        Ok(Self { pair, desk, dir, _relays: relays })
    }

    /// Runs a step; the run when it is over.
    fn run(&self, step: &str) -> Result<Value> {
        let plan = format!(
            "name = \"rec\"\nkind = \"other\"\n[sites]\nsource = \"desk\"\n\
             destination = \"elsewhere\"\n[[steps]]\nid = \"it\"\nretries = 6\n\
             backoff = \"200ms\"\ntimeout = \"5m\"\n{step}\n"
        );
        let file = self.dir.path().join("rec.toml");
        std::fs::write(&file, plan).context("write the plan")?;
        self.desk.cli(&["plan", "save", &file.display().to_string()])?;
        let id = text(&self.desk.ask(&["plan", "run", "rec"])?.json, "/id")?;
        self.desk.wait_for(&["run", "show", &id], SYNC_LIMIT * 2, |run| {
            !matches!(run["state"].as_str(), Some("running" | "turning_back" | "pending"))
        })
    }

    fn done(&self, action: &str, params: &str) -> Result<Value> {
        let run =
            self.run(&format!("action = \"eternus-rec/{action}\"\nparams = {{ {params} }}"))?;
        ensure!(run.pointer("/steps/0/state").is_some_and(|state| state == "done"), "{run:#}");
        Ok(run)
    }
}

#[test]
fn rec_plugin_carries_out_the_four_flows_between_two_systems() -> Result<()> {
    let lab = Lab::new()?;
    let (local, remote) = (&lab.pair.primary, &lab.pair.mirror);
    let probed = lab.desk.ask(&["plugin", "probe", "eternus-rec"])?.text;
    ensure!(probed.contains("Local is box") && probed.contains("Remote is box"), "{probed}");
    local.cli(&["volume", "create", "orders", "--size", "16MiB"])?;
    write(&lab.pair, local, "orders", 1)?;
    let names = "volume = \"orders\", mirror = \"orders-dr\"";
    let run = lab.done("create-mirror", names)?;
    ensure!(text(&run, "/steps/0/outputs/made")? == "true", "{run:#}");
    same((local, "orders"), (remote, "orders-dr"))?;
    // Again: it is there.
    lab.done("create-mirror", names)?;
    let mode = |mode: &str| format!("volume = \"orders\", mode = \"{mode}\"");
    let run = lab.done("switch-mode", &mode("Consistency"))?;
    ensure!(text(&run, "/steps/0/outputs/from_mode")? == "Synchronous", "{run:#}");
    lab.done("switch-mode", &mode("Synchronous"))?;
    // What was spoilt is restored from the mirror, and the session goes its first way again.
    let suspended = "volume = \"orders\"";
    lab.done("find", suspended)?;
    write(&lab.pair, local, "orders", 2)?;
    wait_for("both to hold the same", SYNC_LIMIT, || {
        same((local, "orders"), (remote, "orders-dr"))
    })?;
    wait_for("the hosts to be gone", SYNC_LIMIT, || {
        lab.done("recover", "mirror = \"orders-dr\"").map(drop)
    })?;
    holds(&lab.pair, local, "orders", 2)?;
    write(&lab.pair, local, "orders", 3)?;
    same((local, "orders"), (remote, "orders-dr"))?;
    wait_for("the hosts to be gone", SYNC_LIMIT, || {
        let with = "volume = \"orders\", force = true, with_mirror = true";
        lab.done("delete-mirror", with).map(drop)
    })?;
    let left = remote.cli(&["volume", "list"])?.to_string();
    ensure!(!left.contains("orders-dr"), "{left}");
    holds(&lab.pair, local, "orders", 3)
}
