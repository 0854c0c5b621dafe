//! The guide for whoever writes a plugin, followed word for word, in each language; and the components
//! that were built for earlier versions of the contract.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::pair::{Pair, single};

const GUIDE: &str = include_str!("../../../plugins/README.md");

/// The commands of the guide.
fn commands() -> Result<&'static str> {
    let (_, rest) = GUIDE.split_once("```sh\n").context("the guide has no commands")?;
    Ok(rest.split_once("```").context("they do not end")?.0)
}

/// Follows the guide with a language, in an empty folder beside a gateway.
fn follow(lang: &str) -> Result<()> {
    let pair = Pair::joined()?;
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("guide");
    std::fs::create_dir(&folder)?;
    let commands = commands()?.replace("--lang rust", &format!("--lang {lang}"));
    let program = harness::binary()?;
    let path = std::env::var("PATH")?;
    let beside = program.parent().context("the program lies in a folder")?.display().to_string();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands])
        .current_dir(&folder)
        .env("PATH", format!("{beside}:{path}"))
        .envs(pair.primary.environment())
        .output()
        .context("start bash")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the guide ends with {}\n{said}\n{told}", output.status);
    ensure!(said.contains("Hello, west"), "the step says what it did\n{said}");
    let runs = pair.primary.cli(&["run", "list"])?;
    ensure!(runs.to_string().contains("greet"), "{runs:#}");
    Ok(())
}

#[test]
fn the_guide_is_followed_in_rust() -> Result<()> {
    follow("rust")
}

#[test]
fn the_guide_is_followed_in_c() -> Result<()> {
    follow("c")
}

#[test]
fn the_guide_is_followed_in_javascript() -> Result<()> {
    follow("js")
}

#[test]
fn components_of_earlier_contracts_are_tried_and_loaded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/frozen");
    let mut seen = 0;
    for version in std::fs::read_dir(&frozen).context("plugins/frozen")? {
        for file in std::fs::read_dir(version?.path())? {
            let file = file?.path().display().to_string();
            let verdict = east.cli(&["plugin", "check", &file])?;
            ensure!(verdict["findings"] == serde_json::json!([]), "{file}: {verdict:#}");
            let plugin = east.cli(&["plugin", "install", &file])?;
            ensure!(plugin["state"] == "loaded", "{file}: {plugin:#}");
            seen += 1;
        }
    }
    ensure!(seen > 0, "{} is empty", frozen.display());
    Ok(())
}

#[test]
fn what_is_no_plugin_and_what_breaks_the_contract_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    let here = |name: &str| dir.path().join(name).display().to_string();
    let hostile = crate::plugins::component("hostile")?.display().to_string();
    crate::pair::expect(&east, &["plugin", "check", &hostile], 4, "KeepsSecrets")?;
    // Configured and granted, it speaks to another side, which answers as it is told to.
    let pairing = crate::plugins::component("evs-pairing")?.display().to_string();
    let config = here("pairing.json");
    let cloud = "https://cloud.example/v1/p";
    let words = serde_json::json!({ "compute": cloud, "network": cloud, "token": "cloud-token" });
    std::fs::write(&config, words.to_string())?;
    let check = ["plugin", "check", &pairing];
    let bare = east.ask(&check)?;
    ensure!(bare.json["requests"] == 0, "{}", bare.text);
    let more = ["--config", &config, "--grant", "http:cloud.example"];
    let told = east.ask(&[&check[..], &more].concat())?;
    ensure!(told.json["requests"].as_u64() > Some(0), "{}", told.text);
    let no_grant = [&check[..], &["--grant", "files:/"]].concat();
    crate::pair::expect(&east, &no_grant, 1, "is no grant")?;
    let nothing = here("nothing.wasm");
    std::fs::write(&nothing, "nothing")?;
    crate::pair::expect(&east, &["plugin", "check", &nothing], 7, "GW0722")?;
    crate::pair::expect(&east, &["plugin", "build", &here("")], 1, "plugin new NAME")?;
    let (at, name) = (here("mine"), "mine");
    crate::pair::expect(&east, &["plugin", "new", "Mine", "--lang", "c"], 1, "lower case")?;
    crate::pair::expect(&east, &["plugin", "new", name, "--lang", "c", "--at", &at], 0, "")?;
    crate::pair::expect(&east, &["plugin", "new", name, "--lang", "c", "--at", &at], 1, "--at")?;
    Ok(())
}
