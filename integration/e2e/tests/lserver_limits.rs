//! L-Servers that are switched over where something stands in the way: a source that stays busy, an item that
//! the other site refuses, tenants that move one after the other.
//!
//! Invariant: what stood in the way is named, and whoever mends it goes on where it was; nothing is done twice.

use anyhow::{Context, Result, ensure};
use harness::{Site, Wrong};
use serde_json::{Value, json};

use crate::lserver::{
    FOLDER, PLUGIN, Rig, await_state, begin, east_items, is_moved, is_once, say, state,
};
use crate::pair::{SOON, SYNC_LIMIT, expect, text};

#[test]
fn ror_04_a_source_that_stays_busy_is_not_locked_and_the_step_is_tried_again() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    say(east, &["export"])?;
    let plan = rig.plan("switchover", west, &[])?;
    rig.east.set_busy(2);
    // A time that is none is refused by the step that reads it, before the source is asked.
    let begun = west.cli(&["plan", "run", &plan, "--set", "timeout_s=172801"])?;
    let id = text(&begun, "/id")?;
    let stopped = await_state(west, &id, "stopped")?;
    ensure!(stopped.to_string().contains("1 to 172800"), "{stopped:#}");
    west.cli(&["run", "abort", &id])?;
    await_state(west, &id, "rolled_back")?;
    let before = rig.east.made();

    let begun = west.cli(&["plan", "run", &plan, "--set", "timeout_s=1"])?;
    let id = text(&begun, "/id")?;
    let stopped = await_state(west, &id, "stopped")?;
    ensure!(state(&stopped, "lock") == "failed", "{stopped:#}");
    let why = "2 operations are still running at the source after 1 s";
    ensure!(stopped.to_string().contains(why), "{stopped:#}");
    // The source goes on as if nobody had asked: it is neither locked, stopped nor kept from collecting.
    ensure!(rig.east.lock().is_none() && rig.east.made() == before, "{:?}", rig.east.made());
    ensure!(rig.east.item("lservers", "web1")["power"] == "on");
    ensure!(say(east, &["status"])?["held_by"] == "");
    ensure!(say(west, &["status"])?["held_by"] == id, "the destination waits for the run");

    // Once it is at rest the same step is done, and not before.
    west.cli(&["run", "retry", &id])?;
    let stopped = await_state(west, &id, "stopped")?;
    ensure!(state(&stopped, "lock") == "failed", "it is busy still: {stopped:#}");
    rig.east.set_busy(0);
    west.cli(&["run", "retry", &id])?;
    await_state(west, &id, "waiting")?;
    ensure!(rig.east.lock().as_deref() == Some(&id), "it is locked for the run");
    ensure!(rig.east.item("lservers", "web1")["power"] == "off");
    west.cli(&["run", "answer", &id, "reject"])?;
    await_state(west, &id, "rolled_back")?;
    ensure!(rig.east.lock().is_none() && rig.east.item("lservers", "web1")["power"] == "on");
    ensure!(say(west, &["status"])?["held_by"] == "");
    say(east, &["export"]).map(drop)
}

fn results(report: &Value) -> Result<Vec<(String, String)>> {
    let items = report["items"].as_array().context("no items")?;
    let words = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    Ok(items.iter().map(|of| (words(of, "item"), words(of, "result"))).collect())
}

#[test]
fn ror_09_an_item_that_the_other_site_refuses_is_named_and_imported_by_a_retry() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    say(east, &["export"])?;
    let plan = rig.plan("switchover", west, &[])?;
    rig.west.go_wrong("PUT /v1/items/lservers/web2", Wrong::Status(409));
    let id = begin(west, &plan, &[])?;
    west.cli(&["run", "answer", &id, "approve"])?;
    let stopped = await_state(west, &id, "stopped")?;
    ensure!(state(&stopped, "recover") == "failed", "{stopped:#}");
    ensure!(state(&stopped, "check") == "waiting", "nothing comes after it: {stopped:#}");
    let told = stopped.to_string();
    ensure!(told.contains("items failed: lservers/web2"), "{stopped:#}");
    // Each item has its result; the others are there already.
    let report = say(west, &["report", &format!("run={id}")])?;
    let all = results(&report)?;
    let (failed, done): (Vec<_>, Vec<_>) =
        all.iter().partition(|(_, result)| result.starts_with("failed"));
    ensure!(report["of"] == all.len() && failed.len() == 1, "{report:#}");
    ensure!(failed[0].0 == "lservers/web2" && failed[0].1.contains("409"), "{report:#}");
    ensure!(done.iter().all(|(_, result)| result == "done"), "{report:#}");
    ensure!(rig.west.item("lservers", "web1")["power"] == "on");
    ensure!(rig.west.item("lservers", "web2").is_null());
    // The batch has begun, so nothing is taken back, and the source stays locked.
    ensure!(rig.east.lock().as_deref() == Some(&id) && stopped["past_no_return"] == true);
    let before = rig.west.made().len();

    west.cli(&["run", "retry", &id])?;
    await_state(west, &id, "completed")?;
    is_moved(&rig.west)?;
    ensure!(rig.west.repeated() > 0, "what was done is asked for by the same keys");
    let after = rig.west.made();
    ensure!(after[before] == "PUT /v1/items/lservers/web2", "only that was left: {after:#?}");
    is_once(&rig.west)?;
    is_once(&rig.east)?;
    let all = results(&say(west, &["report", &format!("run={id}")])?)?;
    ensure!(all.iter().all(|(_, result)| result == "done"), "{all:#?}");
    ensure!(rig.east.lock().is_none() && !rig.east.item("fences", "all").is_null());
    west.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

/// Switches one tenant with its group of volumes to the second site, which has nothing of its own to keep.
fn switch(west: &Site, tenant: &str, group: &str) -> Result<String> {
    let (name, tenants) = (format!("name={tenant}"), format!("tenants={tenant}"));
    let plan = west.cli(&[
        "plan",
        "make",
        PLUGIN,
        "switchover",
        "--group",
        group,
        "--save",
        "--set",
        &name,
        "--set",
        "level=tenant",
        "--set",
        &tenants,
        "--set",
        "source=east",
        "--set",
        "destination=west",
    ])?;
    let id = begin(west, &text(&plan, "/name")?, &[])?;
    west.cli(&["run", "answer", &id, "approve"])?;
    await_state(west, &id, "completed")?;
    Ok(id)
}

/// Waits until a site serves a group.
fn serves_group(site: &Site, group: &str) -> Result<()> {
    let is_it = |of: &Value| of["role"] == "primary" && of["serving"] == "yes";
    site.wait_for(&["group", "show", group], SOON, is_it).map(drop)
}

#[test]
fn ror_13_tenants_are_switched_one_after_the_other_to_a_standby_site() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    // Each tenant has its volumes in a group of their own.
    east.cli(&["volume", "create", "erp", "--size", "16MiB"])?;
    east.mirror("erp", west)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    // Nor may an image be of all tenants that only one of them takes along.
    let image = json!({ "type": "physical", "tenant": "blue", "content": "p1" });
    rig.east.set("images", "db-host", image);
    say(east, &["export"])?;
    let first = switch(west, "red", crate::pair::VOLUME)?;
    ensure!(rig.west.item("lservers", "own1").is_null(), "a standby's own gives way");
    ensure!(rig.west.item("lservers", "web1")["power"] == "on");
    ensure!(
        rig.west.item("lservers", "db1").is_null() && rig.west.item("tenants", "blue").is_null()
    );
    ensure!(rig.east.item("lservers", "web1").is_null(), "it moved");
    ensure!(rig.east.item("lservers", "db1")["power"] == "on", "the other tenant goes on");
    ensure!(rig.east.item("fences", "red")["run"] == first && rig.east.lock().is_none());
    serves_group(west, crate::pair::VOLUME)?;
    serves_group(east, "erp")?;

    // The source cannot collect into a folder that the other site serves; it says so, and changes nothing.
    let changes = rig.east.made().len();
    expect(east, &["plugin", "say", PLUGIN, "export"], 4, FOLDER)?;
    ensure!(rig.east.made().len() == changes);
    serves_group(west, FOLDER)?;
    let to = ["migrate", "plan", FOLDER, "--to", "east"];
    let plan = west.wait_for(&to, SYNC_LIMIT, |plan| plan["token"].is_string())?;
    west.cli(&["migrate", "run", FOLDER, "--token", &text(&plan, "/token")?])?;
    serves_group(east, FOLDER)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    say(east, &["export"])?;

    let second = switch(west, "blue", "erp")?;
    ensure!(rig.west.item("lservers", "db1")["storage"] == "array-x", "it is mapped");
    ensure!(rig.west.item("lservers", "db1")["power"] == "on");
    // What was switched before is not taken for the standby's own.
    ensure!(rig.west.item("lservers", "web1")["power"] == "on", "the first tenant goes on there");
    ensure!(!rig.west.item("platforms", "shop").is_null());
    ensure!(rig.west.item("images", "db-host")["content"] == "p1", "its image came along");
    ensure!(
        rig.east.item("lservers", "db1").is_null() && rig.east.item("tenants", "blue").is_null()
    );
    ensure!(rig.east.item("fences", "red")["run"] == first);
    ensure!(rig.east.item("fences", "blue")["run"] == second && rig.east.lock().is_none());
    let usage = rig.west.item("usage", "2026-11_shop");
    ensure!(usage.pointer("/lines/1/amount") == Some(&json!(120.0)), "charged once: {usage:#}");
    serves_group(west, "erp")?;
    west.wait_equivalent(SYNC_LIMIT)?;
    is_once(&rig.west)?;
    // Each run locks the source, and changes nothing else that the other one changed.
    let made = rig.east.made();
    let puts = made.iter().filter(|of| of.starts_with("PUT"));
    let locks = puts.clone().filter(|of| *of == "PUT /v1/lock").count();
    let others: std::collections::BTreeSet<&String> = puts.clone().collect();
    ensure!(locks == 2 && others.len() == puts.count() - 1, "{made:#?}");
    rig.pair.is_identical()
}

#[test]
fn ror_02_a_plan_leaves_out_what_the_newest_export_has_none_of_and_proves_it_again() -> Result<()> {
    let rig = Rig::start()?;
    let (east, west) = (&rig.pair.primary, &rig.pair.mirror);
    let physical = east_items()["lservers"]["db1"].clone();
    let mut guest = physical.clone();
    guest["type"] = json!("virtual");
    rig.east.set("lservers", "db1", guest);
    say(east, &["export"])?;
    let plan = rig.plan("switchover", west, &[])?;
    let id = begin(west, &plan, &[])?;
    let waits = await_state(west, &id, "waiting")?;
    ensure!(state(&waits, "images") == "skipped", "nothing physical moves: {waits:#}");
    ensure!(state(&waits, "files") == "done", "they differ: {waits:#}");
    west.cli(&["run", "answer", &id, "reject"])?;
    await_state(west, &id, "rolled_back")?;

    // The source changed since the plan was made: it is found before anything is.
    rig.east.set("lservers", "db1", physical);
    say(east, &["export"])?;
    let changes = (rig.east.made(), rig.west.made());
    let begun = west.cli(&["plan", "run", &plan])?;
    let id = text(&begun, "/id")?;
    let stopped = await_state(west, &id, "stopped")?;
    ensure!(stopped.to_string().contains("--fact physical=true"), "{stopped:#}");
    ensure!((rig.east.made(), rig.west.made()) == changes, "something was changed");
    west.cli(&["run", "abort", &id])?;
    west.wait_for(&["run", "show", &id], SYNC_LIMIT, |run| !run["ended_at"].is_null())?;
    let id = begin(west, &plan, &["--fact", "physical=true"])?;
    let waits = await_state(west, &id, "waiting")?;
    ensure!(state(&waits, "images") == "done", "{waits:#}");
    west.cli(&["run", "answer", &id, "reject"])?;
    await_state(west, &id, "rolled_back").map(drop)
}
