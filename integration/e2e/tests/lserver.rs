//! L-Servers that are switched to the other site and back, in seventeen steps, with a resource orchestrator
//! at each site that answers badly from time to time.
//!
//! Invariant: whatever is killed, cut short or asked for again, each change is made once at an orchestrator.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{ORCHESTRATOR_TOKEN, Orchestrator, Site, Wrong, wait_for};
use serde_json::{Value, json};

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, expect, serves, set, text};
use crate::plugins::install;

pub(crate) const PLUGIN: &str = "lserver-switchover";
pub(crate) const FOLDER: &str = "drinfo";
/// From the first step to the last, with debug builds on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// What the batch moves.
const MOVED: [&str; 3] = ["tenants", "lservers", "platforms"];

pub(crate) fn east_items() -> Value {
    let line = |item: &str, frequency: &str, amount: f64| json!({ "item": item, "id": "web1", "frequency": frequency, "amount": amount });
    json!({
        "tenants": { "red": {}, "blue": {} },
        "pools": { "gold": { "type": "storage", "tenant": "" } },
        "images": {
            "web": { "type": "virtual", "tenant": "red", "content": "w1" },
            "db-host": { "type": "physical", "tenant": "", "content": "p1" }
        },
        "lservers": {
            "web1": { "tenant": "red", "type": "virtual", "power": "on", "image": "web",
                "pool": "gold", "storage": "array-e", "vm_manager": "vc-e", "vm_pool": "vp-e",
                "address": "10.0.0.1", "platform": "shop" },
            "web2": { "tenant": "red", "type": "virtual", "power": "off", "image": "web",
                "pool": "gold", "storage": "array-e", "vm_manager": "vc-e", "vm_pool": "vp-e",
                "address": "10.0.0.2", "platform": "shop" },
            "db1": { "tenant": "blue", "type": "physical", "power": "on", "image": "db-host",
                "pool": "gold", "storage": "array-f", "address": "10.0.1.1", "platform": "erp" }
        },
        "platforms": {
            "shop": { "tenant": "red", "lservers": ["web1", "web2"] },
            "erp": { "tenant": "blue", "lservers": ["db1"] }
        },
        "network-devices": { "fw1": { "type": "firewall", "config": "allow 443" } },
        "files": { "manager.conf": { "text": "level=3" } },
        "settings": { "language": { "value": "en" } },
        "roles": { "shop-admin": { "may": ["start", "stop"] } },
        "directory": { "uid=ann": { "groups": ["shop-admin"] } },
        "mappings": {
            "storage": { "pairs": [{ "east": "array-e", "west": "array-w" },
                { "east": "array-f", "west": "array-x" }] },
            "vm-manager": { "pairs": [{ "east": "vc-e", "west": "vc-w" }] },
            "vm-pool": { "pairs": [{ "east": "vp-e", "west": "vp-w" }] }
        },
        "usage": { "2026-11_shop": { "month": "2026-11", "platform": "shop",
            "lines": [line("template", "1 month", 30.0), line("cpu", "1 hour", 100.0)] } }
    })
}

fn west_items() -> Value {
    let line = |item: &str, frequency: &str, amount: f64| json!({ "item": item, "id": "web1", "frequency": frequency, "amount": amount });
    json!({
        "tenants": { "green": {} },
        "images": { "old-host": { "type": "physical", "tenant": "", "content": "p0" } },
        "lservers": { "own1": { "tenant": "green", "type": "virtual", "power": "on" } },
        "platforms": { "lab": { "tenant": "green", "lservers": ["own1"] } },
        "network-devices": { "fw1": { "type": "firewall", "config": "allow 80" } },
        "files": { "manager.conf": { "text": "level=1" } },
        "settings": { "language": { "value": "ja" } },
        "usage": { "2026-11_shop": { "month": "2026-11", "platform": "shop",
            "lines": [line("template", "1 month", 35.0), line("cpu", "1 hour", 20.0)] } }
    })
}

/// Two sites with a mirrored group, a mirrored folder, and an orchestrator each.
pub(crate) struct Rig {
    pub(crate) pair: Pair,
    pub(crate) east: Orchestrator,
    pub(crate) west: Orchestrator,
}

impl Rig {
    pub(crate) fn start() -> Result<Self> {
        let mut pair = Pair::joined()?;
        let secret = pair.dir.path().join("orchestrator.token");
        std::fs::write(&secret, ORCHESTRATOR_TOKEN).context("write the secret")?;
        for site in [&mut pair.primary, &mut pair.mirror] {
            let line = format!("secrets = [\"orchestrator={}\"]", secret.display());
            set(site, "plugins", &line)?;
            site.stop()?;
            site.start()?;
        }
        for (volume, size) in [(VOLUME, "16MiB"), (FOLDER, "32MiB")] {
            pair.primary.cli(&["volume", "create", volume, "--size", size])?;
            pair.primary.mirror(volume, &pair.mirror)?;
        }
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        let (east, west) = (Orchestrator::start(east_items())?, Orchestrator::start(west_items())?);
        for (site, at) in [(&pair.primary, &east), (&pair.mirror, &west)] {
            install(site, PLUGIN)?;
            let folder = format!("folder:{FOLDER}");
            let grants = ["kv", "volumes", "secret:orchestrator", &folder, &at.grant()];
            site.cli(&[&["plugin", "grant", PLUGIN], &grants[..]].concat())?;
            let config = json!({
                "manager": at.url(), "token": "orchestrator", "folder": FOLDER, "interval_s": 0,
            });
            let file = site.dir().join("lserver.json");
            std::fs::write(&file, config.to_string()).context("write the configuration")?;
            site.cli(&["plugin", "configure", PLUGIN, &file.display().to_string()])?;
        }
        Ok(Self { pair, east, west })
    }

    /// Collects at the source, and saves the plan of this kind at a site.
    pub(crate) fn plan(&self, kind: &str, at: &Site, more: &[&str]) -> Result<String> {
        let make = ["plan", "make", PLUGIN, kind, "--group", VOLUME, "--save"];
        let plan = at.cli(&[&make[..], more].concat())?;
        text(&plan, "/name")
    }
}

pub(crate) fn say(site: &Site, word: &[&str]) -> Result<Value> {
    site.cli(&[&["plugin", "say", PLUGIN], word].concat())
}

fn show(site: &Site, run: &str) -> Result<Value> {
    let answer = site.ask(&["run", "show", run])?;
    ensure!(answer.json.is_object(), "run show ended with {}\n{}", answer.code, answer.text);
    Ok(answer.json)
}

pub(crate) fn await_state(site: &Site, run: &str, state: &str) -> Result<Value> {
    wait_for(&format!("{state} at {}", site.name()), RUN_LIMIT, || {
        let run = show(site, run)?;
        ensure!(run["state"] == state, "the run is {run:#}");
        Ok(run)
    })
}

pub(crate) fn state<'a>(run: &'a Value, step: &str) -> &'a str {
    let steps = run["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let found = steps.iter().find(|of| of["id"] == step);
    found.and_then(|of| of["state"].as_str()).unwrap_or_default()
}

/// Begins a run and waits until it asks; its id.
pub(crate) fn begin(site: &Site, plan: &str, more: &[&str]) -> Result<String> {
    let run = ["plan", "run", plan, "--wait"];
    let begun = expect(site, &[&run[..], more].concat(), 4, "go on?")?.json;
    text(&begun, "/id")
}

/// No change was made twice.
pub(crate) fn is_once(at: &Orchestrator) -> Result<()> {
    let made = at.made();
    // A server may be stopped and started again.
    let puts: Vec<&String> = made.iter().filter(|of| !of.starts_with("POST")).collect();
    let once: BTreeSet<&&String> = puts.iter().collect();
    ensure!(once.len() == puts.len(), "something was changed twice: {made:#?}");
    Ok(())
}

/// Everything of the source runs at the destination, as it ran before.
pub(crate) fn is_moved(to: &Orchestrator) -> Result<()> {
    let web1 = to.item("lservers", "web1");
    ensure!(web1["power"] == "on" && web1["storage"] == "array-w", "{web1:#}");
    ensure!(web1["vm_manager"] == "vc-w" && web1["from"] == "east", "{web1:#}");
    ensure!(to.item("lservers", "web2")["power"] == "off", "it did not run before");
    ensure!(to.item("lservers", "db1")["storage"] == "array-x");
    ensure!(to.item("lservers", "own1").is_null(), "its own environment gave way");
    ensure!(to.item("images", "db-host")["content"] == "p1", "images were exchanged");
    ensure!(to.item("images", "old-host").is_null());
    ensure!(to.item("network-devices", "fw1")["config"] == "allow 443");
    ensure!(to.item("files", "manager.conf")["text"] == "level=3");
    ensure!(to.item("settings", "language")["value"] == "en");
    ensure!(!to.item("roles", "shop-admin").is_null());
    ensure!(!to.item("directory", "uid=ann").is_null());
    ensure!(to.item("datastores", "array-w")["mounted"] == true);
    let usage = to.item("usage", "2026-11_shop");
    ensure!(usage.pointer("/lines/0/amount") == Some(&json!(35.0)), "a month twice: {usage:#}");
    ensure!(usage.pointer("/lines/1/amount") == Some(&json!(120.0)), "hours are lost: {usage:#}");
    Ok(())
}

#[test]
fn ror_01_a_site_is_switched_while_its_source_lives_and_ror_20_back() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    say(east, &["export"])?;
    let plan = rig.plan("switchover", west, &[])?;
    for (at, request, wrong) in [
        (&rig.west, "GET /v1/items", Wrong::HalfBody),
        (&rig.west, "PUT /v1/items/lservers", Wrong::NoAnswer),
        (&rig.west, "PUT /v1/items/platforms", Wrong::Status(429)),
        (&rig.west, "DELETE /v1/items/tenants", Wrong::HalfBody),
        (&rig.west, "PUT /v1/items/usage", Wrong::NoAnswer),
        (&rig.east, "PUT /v1/lock", Wrong::Status(500)),
        (&rig.east, "POST /v1/power", Wrong::Late(Duration::from_millis(3_500))),
        (&rig.east, "DELETE /v1/items/lservers", Wrong::NoAnswer),
    ] {
        at.go_wrong(request, wrong);
    }
    let id = begin(west, &plan, &[])?;
    ensure!(rig.east.item("lservers", "web1")["power"] == "off", "it was stopped");
    ensure!(rig.east.lock().as_deref() == Some(&id), "it is locked for the run");
    ensure!(rig.west.item("lservers", "own1")["power"] == "off", "it gave way");
    west.cli(&["run", "answer", &id, "approve"])?;
    let done = await_state(west, &id, "completed")?;
    ensure!(state(&done, "serve-1") == "skipped", "its source lived: {done:#}");
    is_moved(&rig.west)?;
    ensure!(rig.west.not_yet_wrong() + rig.east.not_yet_wrong() == 0, "some faults had no turn");
    ensure!(rig.west.repeated() + rig.east.repeated() >= 3, "answers that were lost");
    is_once(&rig.west)?;
    is_once(&rig.east)?;

    // Step 12: each item has its result. Step 16: the new production is collected.
    let report = say(west, &["report", &format!("run={id}")])?;
    let items = report["items"].as_array().context("items")?;
    ensure!(items.len() == report["of"] && items.iter().all(|of| of["result"] == "done"));
    let status = say(west, &["status"])?;
    ensure!(status["collects_here"] == true && status["held_by"] == "", "{status:#}");
    // Step 17: the source is fenced, empty and unlocked, and follows.
    ensure!(rig.east.item("lservers", "web1").is_null() && rig.east.lock().is_none());
    ensure!(!rig.east.item("fences", "all").is_null(), "the source is fenced");
    await_group(west, "service", SOON, serves)?;
    west.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()?;

    // The way back: roles swapped, and the other site has its own again.
    let more = ["--set", "source=west", "--set", "destination=east"];
    let plan = rig.plan("failback", east, &more)?;
    let id = begin(east, &plan, &[])?;
    east.cli(&["run", "answer", &id, "approve"])?;
    await_state(east, &id, "completed")?;
    await_group(east, "service", SOON, serves)?;
    let web1 = rig.east.item("lservers", "web1");
    ensure!(web1["power"] == "on" && web1["storage"] == "array-e", "{web1:#}");
    ensure!(rig.east.item("fences", "all").is_null(), "it is not fenced any more");
    ensure!(rig.west.item("lservers", "web1").is_null());
    ensure!(rig.west.item("lservers", "own1")["power"] == "on", "its own runs again");
    ensure!(rig.west.item("settings", "language")["value"] == "ja");
    ensure!(rig.west.item("network-devices", "fw1")["config"] == "allow 80");
    let usage = rig.east.item("usage", "2026-11_shop");
    ensure!(usage.pointer("/lines/1/amount") == Some(&json!(120.0)), "charged twice: {usage:#}");
    east.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

#[test]
fn ror_21_a_switchover_that_is_rejected_before_the_batch_is_taken_back_whole() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    say(east, &["export"])?;
    let before = items_of(&rig);
    let plan = rig.plan("switchover", east, &[])?;
    // Something is under way at the source, and nobody wants to wait for it.
    rig.east.set_busy(3);
    let begun = east.cli(&["plan", "run", &plan, "--set", "noretry=true"])?;
    let id = text(&begun, "/id")?;
    let stopped = await_state(east, &id, "stopped")?;
    ensure!(state(&stopped, "lock") == "failed", "{stopped:#}");
    ensure!(stopped.to_string().contains("3 operations are running"), "{stopped:#}");
    east.cli(&["run", "abort", &id])?;
    await_state(east, &id, "rolled_back")?;
    ensure!(rig.west.item("lservers", "own1")["power"] == "on", "it runs again");
    rig.east.set_busy(0);

    let id = begin(east, &plan, &[])?;
    // Nobody collects while the run holds it, here or there, whoever asks; and nothing else writes.
    for site in [east, west] {
        let told = site.ask(&["plugin", "say", PLUGIN, "export"])?;
        ensure!(told.code == 4 && told.text.contains(&id), "{told:#?}");
        let told = site.ask(&["plugin", "say", PLUGIN, "interval", "seconds=1"])?;
        ensure!(told.code == 4 && told.text.contains("lets it go on at its end"), "{told:#?}");
    }
    // Nor does it help to let the plugin forget: the folder's group is the run's.
    say(west, &["let-go", &format!("run={id}")])?;
    let told = west.ask(&["plugin", "say", PLUGIN, "export"])?;
    ensure!(told.code == 4 && told.text.contains(&format!("run {id} has group")), "{told:#?}");
    ensure!(rig.west.item("network-devices", "fw1")["config"] == "allow 443", "it was restored");
    east.cli(&["run", "answer", &id, "reject"])?;
    await_state(east, &id, "rolled_back")?;
    is_taken_back(&rig, &before)?;
    say(east, &["export"]).map(drop)
}

/// What both have of what a switchover changes before its batch, and of what it moves then.
pub(crate) fn items_of(rig: &Rig) -> (Value, Value) {
    let kinds = [&MOVED[..], &["images", "network-devices", "files", "settings", "roles", "usage"]]
        .concat();
    (rig.east.items(&kinds), without_empty(&rig.west.items(&kinds)))
}

/// Everything is as it was, and the source serves.
pub(crate) fn is_taken_back(rig: &Rig, before: &(Value, Value)) -> Result<()> {
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    let after = items_of(rig);
    ensure!(before.0 == after.0, "the source: {:#}\nbecame {:#}", before.0, after.0);
    ensure!(before.1 == after.1, "the destination: {:#}\nbecame {:#}", before.1, after.1);
    ensure!(rig.east.lock().is_none(), "the lock is given back");
    ensure!(say(east, &["status"])?["held_by"] == "" && say(west, &["status"])?["held_by"] == "");
    await_group(east, "service", SOON, serves)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

/// Kinds of which there is none are as if they had never been.
fn without_empty(items: &Value) -> Value {
    let kinds = items.as_object().into_iter().flatten();
    let is_some = |(_, of): &(&String, &Value)| of.as_object().is_some_and(|of| !of.is_empty());
    Value::Object(kinds.filter(is_some).map(|(kind, of)| (kind.clone(), of.clone())).collect())
}

#[test]
fn ror_12_a_dead_source_is_switched_without_and_cleaned_up_when_it_returns() -> Result<()> {
    let mut rig = Rig::start()?;
    say(&rig.pair.primary, &["export"])?;
    let (west, plan) = {
        let west = &rig.pair.mirror;
        let sites = ["--set", "source=east", "--set", "destination=west"];
        (west, rig.plan("switchover", west, &sites)?)
    };
    // What is not in the folder is lost with the source; what is there is enough.
    rig.pair.primary.kill()?;
    let id = begin(west, &plan, &["--fact", "source-alive=false"])?;
    west.cli(&["run", "answer", &id, "approve"])?;
    let done = await_state(west, &id, "completed")?;
    for step in ["lock", "stop", "move-1", "apart-1", "cleanup"] {
        ensure!(state(&done, step) == "skipped", "{step} needs the source: {done:#}");
    }
    is_moved(&rig.west)?;
    is_once(&rig.west)?;
    await_group(west, "service", SOON, serves)?;
    ensure!(rig.east.item("lservers", "web1")["power"] == "on", "nobody could stop it");

    rig.pair.primary.start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    let sites = ["--set", "source=east", "--set", "destination=west"];
    let plan = rig.plan("cleanup", west, &sites)?;
    let begun = west.cli(&["plan", "run", &plan])?;
    await_state(west, &text(&begun, "/id")?, "completed")?;
    ensure!(!rig.east.item("fences", "all").is_null(), "it is fenced now");
    ensure!(rig.east.item("lservers", "web1").is_null());
    await_group(east, "a mirror", SYNC_LIMIT, |group| group["role"] == "secondary")?;
    west.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

#[test]
fn ror_21_a_switchover_goes_on_where_it_was_killed_and_changes_nothing_twice() -> Result<()> {
    let mut rig = Rig::start()?;
    say(&rig.pair.primary, &["export"])?;
    let plan = rig.plan("switchover", &rig.pair.mirror, &[])?;
    // Step 2 waits until what is under way at the source is over.
    rig.east.set_busy(1);
    let begun = rig.pair.mirror.cli(&["plan", "run", &plan])?;
    let id = text(&begun, "/id")?;
    let waits = |run: &Value| run.to_string().contains("waits for 1 operations");
    rig.pair.mirror.wait_for(&["run", "show", &id], RUN_LIMIT, waits)?;
    ensure!(rig.east.lock().is_none(), "it is not locked in the midst of something");
    rig.east.set_busy(0);
    await_state(&rig.pair.mirror, &id, "waiting")?;
    rig.pair.mirror.kill()?;
    rig.pair.mirror.start()?;
    await_state(&rig.pair.mirror, &id, "waiting")?;
    // In the midst of the batch: what it asks for then is answered after it is dead.
    rig.west.go_wrong("PUT /v1/items/platforms", Wrong::Late(Duration::from_secs(2)));
    rig.pair.mirror.cli(&["run", "answer", &id, "approve"])?;
    wait_for("the platforms", RUN_LIMIT, || {
        ensure!(rig.west.not_yet_wrong() == 0, "the batch is not there yet");
        Ok(())
    })?;
    rig.pair.mirror.kill()?;
    rig.pair.mirror.start()?;
    await_state(&rig.pair.mirror, &id, "completed")?;
    is_moved(&rig.west)?;
    ensure!(rig.west.repeated() > 0, "the batch was begun again");
    is_once(&rig.west)?;
    is_once(&rig.east)?;
    await_group(&rig.pair.mirror, "service", SOON, serves)?;
    rig.pair.mirror.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

#[test]
fn ror_18_exports_are_collected_listed_and_told_when_they_fail() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    let say_no = |site: &Site, word: &[&str], why: &str| -> Result<()> {
        expect(site, &[&["plugin", "say", PLUGIN], word].concat(), 4, why).map(drop)
    };
    // Where the folder is a mirror nothing is collected: the other site serves.
    say_no(west, &["export"], "drinfo")?;
    rig.east.set_busy(2);
    say_no(east, &["export", "noretry=true"], "2 operations are running")?;
    say_no(east, &["export", "timeout_s=1"], "2 operations are running")?;
    rig.east.set_busy(0);
    let first = say(east, &["export"])?;
    ensure!(say(east, &["export"])?["export"] == first["export"], "nothing changed");
    let failed = say(east, &["failed"])?;
    ensure!(failed["items"].as_array().map(Vec::len) == Some(2), "{failed:#}");

    // By event: told by the orchestrator, or found.
    say(east, &["event", "on=true"])?;
    rig.east.set("settings", "language", json!({ "value": "de" }));
    let is_new = |status: &Value| {
        status.pointer("/sites/0/export").is_some_and(|name| *name != first["export"])
    };
    let status = ["plugin", "say", PLUGIN, "status"];
    let after = east.wait_for(&status, SYNC_LIMIT, is_new)?;
    // What is collected is at the other site at once.
    let there = say(west, &["exports"])?;
    let newest = there.pointer("/items/1").context("two exports")?;
    ensure!(newest["name"] == after["sites"][0]["export"] && newest["health"] == "whole");
    ensure!(say(west, &["status"])?["collects_here"] == false);

    // By time, until it is stopped; and it goes on after a restart.
    say(east, &["event", "on=false"])?;
    let told = say(east, &["changed"])?;
    ensure!(told["collected"] == false, "{told:#}");
    rig.east.set("settings", "language", json!({ "value": "fr" }));
    say(east, &["interval", "seconds=1"])?;
    let revision = after["sites"][0]["revision"].as_u64().context("a revision")?;
    let is_newer = |status: &Value| {
        status.pointer("/sites/0/revision").and_then(Value::as_u64).is_some_and(|of| of > revision)
    };
    east.wait_for(&status, SYNC_LIMIT, is_newer)?;
    expect(east, &["plugin", "say", PLUGIN, "sing"], 2, "none of its words")?;
    Ok(())
}

#[test]
fn ror_16_a_switchover_that_cannot_work_is_blocked_before_anything_is_changed() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    let make = ["plan", "make", PLUGIN, "switchover", "--group", VOLUME];
    let refused = |more: &[&str], why: &str| -> Result<()> {
        expect(east, &[&make[..], more].concat(), 2, why).map(drop)
    };
    refused(&["--set", "mode=active-active"], "active-active-site")?;
    refused(&["--set", "type=vm-host", "--set", "pools=gold"], "range-vm-host")?;
    expect(east, &["plan", "make", PLUGIN, "holiday"], 2, "switchover, failback")?;
    rig.east.set("mappings", "storage", json!({ "pairs": [] }));
    say(east, &["export"])?;
    let plan = east.cli(&[&make[..], &["--save"]].concat())?;
    let remarks = plan["remarks"].to_string();
    ensure!(remarks.contains("array-e") && remarks.contains("unmapped"), "{plan:#}");
    let name = text(&plan, "/name")?;
    let dry = east.ask(&["plan", "run", &name, "--dry-run"])?;
    ensure!(dry.text.contains("unmapped") && dry.text.contains("blocked"), "{}", dry.text);
    let begun = east.cli(&["plan", "run", &name])?;
    let id = text(&begun, "/id")?;
    let stuck = await_state(east, &id, "stopped")?;
    ensure!(stuck.to_string().contains("array-e"), "{stuck:#}");
    ensure!(rig.west.made().is_empty() && rig.east.made().is_empty(), "something was changed");
    east.cli(&["run", "abort", &id])?;
    let is_over = |run: &Value| !run["ended_at"].is_null();
    east.wait_for(&["run", "show", &id], RUN_LIMIT, is_over)?;

    // What the batch would do to each item, and what does not match, without any change.
    rig.east.set("mappings", "storage", east_items()["mappings"]["storage"].clone());
    say(east, &["export"])?;
    let told = say(west, &["rehearse", "source=east", "exclude=web2"])?;
    let items = told["items"].to_string();
    ensure!(items.contains("lservers/web1") && !items.contains("lservers/web2"), "{told:#}");
    ensure!(told["remaining"] == json!(["lservers/web2"]), "{told:#}");
    let told = say(west, &["mismatch", "source=east", "what=files"])?;
    ensure!(
        told["items"] == json!([{ "item": "files/manager.conf", "is": "differs" }]),
        "{told:#}"
    );
    ensure!(rig.west.made().is_empty(), "a rehearsal changed something");
    Ok(())
}

#[test]
fn ror_15_a_tenant_is_switched_to_a_site_that_is_active_and_what_stayed_follows() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    say(east, &["export"])?;
    let scope = ["--set", "mode=active-active", "--set", "level=tenant", "--set", "tenants=red"];
    let plan = rig.plan("switchover", west, &[&scope[..], &["--set", "exclude=web2"]].concat())?;
    let id = begin(west, &plan, &[])?;
    west.cli(&["run", "answer", &id, "approve"])?;
    await_state(west, &id, "completed")?;
    ensure!(rig.west.item("lservers", "own1")["power"] == "on", "an active site goes on");
    ensure!(
        rig.west.item("network-devices", "fw1")["config"] == "allow 80",
        "it is of all tenants"
    );
    ensure!(rig.west.item("lservers", "web1")["power"] == "on");
    for stays in ["web2", "db1"] {
        ensure!(rig.west.item("lservers", stays).is_null(), "{stays} was switched");
        ensure!(!rig.east.item("lservers", stays).is_null(), "{stays} is gone");
    }
    ensure!(rig.east.item("lservers", "db1")["power"] == "on", "the other tenant goes on");
    ensure!(rig.east.item("lservers", "web1").is_null() && rig.east.lock().is_none());
    ensure!(
        rig.east.item("fences", "red")["run"] == id && rig.east.item("fences", "all").is_null()
    );
    let report = say(west, &["report", &format!("run={id}")])?;
    ensure!(report["remaining"] == json!(["lservers/web2"]), "{report:#}");

    let sites = ["--set", "source=east", "--set", "destination=west", "--save"];
    let make = ["plan", "make", PLUGIN, "additional"];
    let plan = west.cli(&[&make[..], &scope, &sites].concat())?;
    let begun = west.cli(&["plan", "run", &text(&plan, "/name")?])?;
    await_state(west, &text(&begun, "/id")?, "completed")?;
    ensure!(rig.west.item("lservers", "web2")["storage"] == "array-w", "it followed");
    ensure!(rig.west.item("lservers", "own1")["power"] == "on");
    is_once(&rig.west)
}
