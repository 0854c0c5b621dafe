//! Plugins at a running gateway: installed, granted, asked, replaced and removed by the command line,
//! while hosts write.
//!
//! The components are those of `plugins/`, as `cargo xtask plugins` builds them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::Site;

use crate::pair::{Pair, SYNC_LIMIT, VOLUME, expect, set, single, text};

/// A component, as it was built.
pub(crate) fn component(name: &str) -> Result<PathBuf> {
    let built = "../../target/plugins/wasm32-wasip2/release";
    // A library's file has no hyphens.
    let file = format!("{}.wasm", name.replace('-', "_"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(built).join(file);
    ensure!(path.is_file(), "{} is not there: cargo xtask plugins builds it", path.display());
    Ok(path)
}

pub(crate) fn install(site: &Site, name: &str) -> Result<()> {
    let path = component(name)?.display().to_string();
    let installed = site.cli(&["plugin", "install", &path])?;
    ensure!(installed["name"] == name, "{installed:#}");
    Ok(())
}

fn state(site: &Site, name: &str) -> Result<String> {
    text(&site.cli(&["plugin", "show", name])?, "/state")
}

#[test]
fn a_plugin_is_installed_granted_configured_and_removed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut east = single(dir.path(), "east")?;
    expect(&east, &["plugin", "show", "hostile"], 1, "GW0721")?;
    install(&east, "hello")?;
    ensure!(state(&east, "hello")? == "loaded", "it wants nothing");
    install(&east, "hostile")?;
    ensure!(state(&east, "hostile")? == "ungranted");
    expect(&east, &["plugin", "grant", "hostile", "files:/"], 2, "GW0203")?;
    east.cli(&["plugin", "grant", "hostile", "--all"])?;
    ensure!(state(&east, "hostile")? == "loaded");
    east.cli(&["plugin", "revoke", "hostile", "secret:key"])?;
    ensure!(state(&east, "hostile")? == "ungranted");
    let config = dir.path().join("config.json");
    let file = config.display().to_string();
    for (text, code) in [("{", 2), ("{\"mood\": 7}", 2), ("{\"mood\": \"bad\"}", 2)] {
        std::fs::write(&config, text)?;
        expect(&east, &["plugin", "configure", "hostile", &file], code, "GW0724")?;
    }
    std::fs::write(&config, "{\"mood\": \"good\"}")?;
    east.cli(&["plugin", "configure", "hostile", &file])?;
    // What was set outlives the gateway.
    east.kill()?;
    east.start()?;
    // It is compiled, or taken from the cache, beside the start.
    east.wait_for(&["plugin", "show", "hostile"], SYNC_LIMIT, |of| of["state"] == "ungranted")?;
    expect(&east, &["plugin", "probe", "hostile"], 3, "{\\\"mood\\\":\\\"good\\\"}")?;
    let shown = east.cli(&["plugin", "show", "hostile"])?;
    ensure!(shown["granted"].as_array().is_some_and(|all| all.len() == 4), "{shown:#}");
    let metrics = east.metrics()?;
    for line in [
        "twinspan_plugin_info{plugin=\"hello\"",
        "twinspan_plugin_calls_total{plugin=\"hostile\",func=\"probe\",result=\"ok\"} 1",
    ] {
        ensure!(metrics.contains(line), "{line} is not in {metrics}");
    }
    expect(&east, &["plugin", "remove", "hostile", "--forget"], 0, "")?;
    expect(&east, &["plugin", "remove", "hostile"], 1, "GW0721")?;
    install(&east, "hostile")?;
    let shown = east.cli(&["plugin", "show", "hostile"])?;
    ensure!(shown["granted"] == serde_json::json!([]), "{shown:#}");
    Ok(())
}

#[test]
fn a_component_that_is_put_into_the_directory_is_found_and_a_bad_one_replaces_nothing() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    let at = east.data_dir().join("plugins/hello.wasm");
    std::fs::copy(component("hello")?, &at).context("copy the component")?;
    east.wait_for(&["plugin", "list"], SYNC_LIMIT, |list| {
        list.pointer("/items/0/state").is_some_and(|state| state == "loaded")
    })?;
    std::fs::write(&at, "no component at all")?;
    east.wait_for(&["plugin", "show", "hello"], SYNC_LIMIT, |hello| {
        hello["state"] == "loaded" && hello["refused"].is_string()
    })?;
    let bad = at.display().to_string();
    expect(&east, &["plugin", "install", &bad], 7, "GW0722")?;
    std::fs::remove_file(&at)?;
    east.wait_for(&["plugin", "list"], SYNC_LIMIT, |list| {
        list["items"].as_array().is_some_and(Vec::is_empty)
    })?;
    Ok(())
}

#[test]
fn a_plugin_that_is_against_a_session_refuses_it_by_name() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.primary.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    install(&pair.primary, "hostile")?;
    let create = ["session", "create", VOLUME, "--to", "west"];
    expect(&pair.primary, &create, 7, "GW0726")?;
    let told = pair.primary.ask(&create)?.text;
    ensure!(told.contains("both sites are in one zone (hostile: 1025)"), "{told}");
    set(&pair.primary, "site", "zone = \"a\"")?;
    pair.primary.kill()?;
    pair.primary.start()?;
    pair.primary.mirror(VOLUME, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn what_a_step_makes_at_the_other_site_is_listed_by_its_run() -> Result<()> {
    let pair = Pair::mirrored("16MiB")?;
    install(&pair.mirror, "hostile")?;
    let plan = format!(
        "name = \"far\"\nkind = \"other\"\ngroups = [\"{VOLUME}\"]\n[sites]\nsource = \"east\"\n\
         destination = \"west\"\n[[steps]]\nid = \"make\"\nsite = \"destination\"\n\
         action = \"hostile/make\"\nretries = 0\non_failure = \"roll-back\"\n"
    );
    let file = pair.dir.path().join("far.toml");
    std::fs::write(&file, plan)?;
    pair.primary.cli(&["plan", "save", &file.display().to_string()])?;
    let id = text(&pair.primary.ask(&["plan", "run", "far"])?.json, "/id")?;
    let ended = pair.primary.wait_for(&["run", "show", &id], SYNC_LIMIT, |run| {
        matches!(run["state"].as_str(), Some("rolled_back" | "aborted" | "failed"))
    })?;
    ensure!(ended.pointer("/left/0/kind").is_some_and(|kind| kind == "server"), "{ended:#}");
    Ok(())
}

const PLAN: &str = r#"
name = "greet"
kind = "other"

[sites]
source = "east"
destination = "west"

[[steps]]
id = "hello"
action = "hello/greet"

[[steps]]
id = "wait"
action = "hostile/wait"

[[steps]]
id = "make"
action = "hostile/make"
on_failure = "roll-back"
"#;

#[test]
fn a_plan_calls_plugins_and_what_one_made_before_it_trapped_is_listed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    let plan = dir.path().join("greet.toml");
    std::fs::write(&plan, PLAN)?;
    let file = plan.display().to_string();
    expect(&east, &["plan", "check", &file], 2, "hello/greet")?;
    for name in ["hello", "hostile"] {
        install(&east, name)?;
    }
    east.cli(&["plan", "save", &file])?;
    let begun = expect(&east, &["plan", "run", "greet", "--wait"], 4, "Really?")?.json;
    let id = text(&begun, "/id")?;
    ensure!(begun.pointer("/steps/0/state").is_some_and(|state| state == "done"), "{begun:#}");
    expect(&east, &["run", "answer", &id, "perhaps"], 7, "yes, no")?;
    east.cli(&["run", "answer", &id, "yes"])?;
    let ended = east.wait_for(&["run", "show", &id], SYNC_LIMIT, |run| {
        matches!(run["state"].as_str(), Some("rolled_back" | "aborted"))
    })?;
    ensure!(ended.pointer("/left/0/kind").is_some_and(|kind| kind == "server"), "{ended:#}");
    let told = east.ask(&["events", "--since", "0"])?.text;
    ensure!(told.contains("make: made server s1"), "{told}");
    ensure!(told.contains("plugin hostile: it trapped"), "{told}");
    ensure!(told.contains("after it was made"), "the panic's words are told: {told}");
    // A plugin that is gone provides nothing any more.
    expect(&east, &["plugin", "remove", "hello"], 0, "")?;
    expect(&east, &["plan", "check", &file], 2, "hello/greet")?;
    Ok(())
}
