//! The demo as somebody tries it who has read nothing else: set up, pull the plug, count, put back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Process, Tool, binary, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::pair::{SOON, number, text};

/// For commands that wait for a mirror.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// A demo in a folder of its own; stopped when it goes.
struct Demo {
    dir: TempDir,
}

impl Demo {
    fn folder(&self) -> PathBuf {
        self.dir.path().join("demo")
    }

    fn command(&self, arguments: &[&str]) -> Result<Tool> {
        let binary = binary()?;
        let tool = Tool::new(binary.to_str().context("the path is no text")?).args(arguments);
        Ok(tool.arg("--dir").arg(self.folder()).limit(COMMAND_MAX))
    }

    /// Runs a command; its answer.
    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.command(arguments)?.args(["--output", "json"]).run()?;
        serde_json::from_str(&said).with_context(|| format!("{arguments:?} prints JSON\n{said}"))
    }

    /// Runs a command that is to end with this code.
    fn ends_with(&self, arguments: &[&str], code: i32) -> Result<String> {
        let (found, said) = self.command(arguments)?.code()?;
        ensure!(found == code, "{arguments:?} ended with {found}, not {code}\n{said}");
        Ok(said)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It is stopped already, unless the test failed.
        self.command(&["demo", "stop"]).and_then(Tool::run).ok();
    }
}

/// What the demo says of itself has the keys that programs rely on.
fn is_described(started: &Value, folder: &Path) -> Result<()> {
    ensure!(text(started, "/dir")? == folder.to_str().context("a path")?, "{started:#}");
    for (index, (name, role)) in [("east", "primary"), ("west", "secondary")].iter().enumerate() {
        let site = &started["sites"][index];
        ensure!(site["name"] == *name && site["role"] == *role, "{site:#}");
        ensure!(site["pid"].as_u64().is_some_and(|pid| pid > 1), "{site:#}");
        ensure!(text(site, "/api")?.starts_with("https://127.0.0.1:"), "{site:#}");
        ensure!(text(site, "/metrics")?.ends_with("/metrics"), "{site:#}");
        ensure!(Path::new(&text(site, "/token_file")?).is_file(), "{site:#}");
        for key in ["nbd", "nbd_unix", "iscsi"] {
            ensure!(site[key].is_string() == (index == 0), "{key}: {site:#}");
        }
    }
    Ok(())
}

#[test]
fn a_kill_under_load_loses_nothing_and_the_old_primary_follows_again() -> Result<()> {
    let demo = Demo { dir: tempfile::tempdir()? };
    let start = demo.command(&["demo", "start", "--detach", "--output", "json"])?.run()?;
    ensure!(start.lines().count() == 1, "it is not one line:\n{start}");
    let started: Value = serde_json::from_str(&start).context("it prints JSON")?;
    is_described(&started, &demo.folder())?;
    demo.ends_with(&["status"], 0)?;
    for way in ["nbd", "nbd_unix"] {
        Tool::new("nbdinfo").arg(text(&started, &format!("/sites/0/{way}"))?).run()?;
    }
    // Both protocols serve it at once.
    for (way, command) in
        [("iscsi", "write -P 9 60M 64k"), ("nbd", "read -P 9 60M 64k"), ("nbd", "write -z 60M 64k")]
    {
        let tool = Tool::new("qemu-io").args(["-t", "none", "-f", "raw", "-c", command]);
        let said = tool.arg(text(&started, &format!("/sites/0/{way}"))?).run()?;
        ensure!(!said.contains("failed") && !said.contains("Pattern"), "{way}: {said}");
    }

    let mut load = Command::new(binary()?);
    load.args(["demo", "load", "orders", "--writers", "8", "--dir"]).arg(demo.folder());
    let mut load = Process::start("load", &mut load, &demo.dir.path().join("load.log"))?;
    wait_for("a thousand records", SOON, || {
        let metrics = text(&started, "/sites/0/metrics")?;
        let page = page_of(&metrics)?;
        let name = "twinspan_frontend_requests_total";
        let counted = page.lines().filter(|l| l.starts_with(name) && l.contains("op=\"write\""));
        let writes: f64 = counted.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        ensure!(writes > 1000.0, "{writes} so far");
        Ok(())
    })?;
    demo.ask(&["demo", "kill", "east"])?;
    wait_for("the end of the writers", SOON, || load.ended()?.context("they write on"))?;
    demo.ends_with(&["demo", "verify", "orders"], 1).context("nobody serves the volume yet")?;
    wait_for("the silence to be seen", SOON, || {
        demo.ends_with(&["status", "--from", "west"], 4).map(drop)
    })?;

    let plan = demo.ask(&["failover", "plan", "orders", "--to", "west"])?;
    let token = text(&plan, "/token")?;
    demo.ask(&["failover", "run", "orders", "--to", "west", "--token", &token])?;
    let verdict = demo.ask(&["demo", "verify", "orders"])?;
    for wrong in ["/lost", "/torn", "/out_of_order"] {
        ensure!(number(&verdict, wrong)? == 0, "{verdict:#}");
    }
    ensure!(verdict["site"] == "west" && number(&verdict, "/acknowledged")? > 900, "{verdict:#}");

    demo.ask(&["demo", "start", "east"])?;
    wait_for("the fence", SOON, || {
        let (_, said) = demo.command(&["status", "--from", "east"])?.code()?;
        ensure!(said.contains("is fenced by"), "{said}");
        Ok(())
    })?;
    demo.ends_with(&["reprotect", "orders", "--from", "west", "--wait"], 0)?;
    demo.ends_with(&["status", "--from", "west"], 0)?;
    let digests =
        ["east", "west"].map(|site| demo.ask(&["volume", "digest", "orders", "--from", site]));
    let [east, west] = digests;
    ensure!(text(&east?, "/digest")? == text(&west?, "/digest")?, "the copies differ");
    demo.ends_with(&["demo", "load", "orders", "--seconds", "1"], 0)?;
    let verdict = demo.ask(&["demo", "verify", "orders"])?;
    ensure!(number(&verdict, "/lost")? + number(&verdict, "/torn")? == 0, "{verdict:#}");
    println!("{verdict}");

    demo.ends_with(&["demo", "stop"], 0)?;
    let now = demo.ask(&["demo", "status"])?;
    ensure!(now["sites"][0]["pid"].is_null() && now["sites"][1]["pid"].is_null(), "{now:#}");
    Ok(())
}

#[test]
fn what_ransomware_made_of_a_volume_is_looked_at_beside_its_snapshot_and_undone() -> Result<()> {
    let demo = Demo { dir: tempfile::tempdir()? };
    demo.ends_with(&["demo", "start", "--detach"], 0)?;
    demo.ends_with(&["demo", "load", "orders", "--seconds", "1"], 0)?;
    let loaded = demo.ask(&["demo", "verify", "orders"])?;
    let slots = number(&loaded, "/slots")?;
    ensure!(slots > 0, "{loaded:#}");
    demo.ends_with(&["snapshot", "create", "orders", "--name", "clean"], 0)?;

    let ransom = demo.ask(&["demo", "ransom", "orders"])?;
    ensure!(number(&ransom, "/overwritten_bytes")? >= slots * 4096, "{ransom:#}");
    let (code, said) = demo.command(&["demo", "verify", "orders", "--output", "json"])?.code()?;
    let spoilt: Value = serde_json::from_str(&said)?;
    ensure!(code == 1 && number(&spoilt, "/intact")? == 0, "{spoilt:#}");

    // At once, in a volume of its own, while the original is as it is.
    demo.ends_with(&["volume", "create", "trial", "--from-snapshot", "orders/clean"], 0)?;
    let seen = demo.ask(&["demo", "verify", "orders", "--in", "trial"])?;
    ensure!(number(&seen, "/slots")? == slots, "{seen:#}");
    demo.ends_with(&["demo", "verify", "orders"], 1)?;

    let plan = demo.ask(&["snapshot", "rollback", "plan", "orders", "clean"])?;
    let token = text(&plan, "/token")?;
    let run = ["snapshot", "rollback", "run", "orders", "clean", "--token", &token];
    demo.ends_with(&run, 0)?;
    demo.ends_with(&["demo", "verify", "orders"], 0)?;
    // It has no mirror, and status says so for as long as it is there.
    demo.ends_with(&["volume", "delete", "trial"], 0)?;
    wait_for("the mirror", SOON, || demo.ends_with(&["status"], 0).map(drop))?;
    let [east, west] =
        ["east", "west"].map(|site| demo.ask(&["volume", "digest", "orders", "--from", site]));
    ensure!(text(&east?, "/digest")? == text(&west?, "/digest")?, "the copies differ");
    let session = demo.ask(&["session", "show", "orders"])?;
    ensure!(text(&session, "/resync_kind")? == "delta", "{session:#}");
    Ok(())
}

/// What a URL of metrics says.
fn page_of(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("no plain HTTP")?;
    let (address, path) = rest.split_once('/').context("no path")?;
    let (status, body) = harness::get(address.parse()?, &format!("/{path}"))?;
    ensure!(status == 200, "{status}: {body}");
    Ok(body)
}
