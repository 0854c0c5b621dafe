//! `twinspan plugin`.

mod author;

use std::io::Read;
use std::path::Path;

use api::{
    Plugin, PluginGrants, PluginHealth, PluginList, PluginLog, PluginProbe, PluginState,
    PluginWords,
};
use ureq::http::Method;

use super::segment;
use crate::Outcome;
use crate::args::{self, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{show, table, word};
use crate::place::client;

/// `twinspan plugin`
pub(crate) fn plugin(command: &args::Plugin, global: &Global) -> Outcome {
    match command {
        args::Plugin::New(command) => return author::new(command),
        args::Plugin::Build(command) => return author::build(command),
        args::Plugin::Check(command) => return author::check(command, global),
        args::Plugin::Measure(command) => return author::measure(command, global),
        _ => {}
    }
    let client = client(global)?;
    match command {
        args::Plugin::New(_)
        | args::Plugin::Build(_)
        | args::Plugin::Check(_)
        | args::Plugin::Measure(_) => {}
        args::Plugin::List => {
            let list: PluginList = client.get(ALL)?;
            show(global.output, &list, rows);
        }
        args::Plugin::Show { plugin } => {
            let plugin: Plugin = client.get(&path(plugin, ""))?;
            show(global.output, &plugin, one);
        }
        args::Plugin::Install { file } => {
            let plugin = install(&client, file)?;
            show(global.output, &plugin, one);
        }
        args::Plugin::Remove { plugin, forget } => {
            client.delete(&path(plugin, &format!("?forget={forget}")))?;
        }
        args::Plugin::Grant { plugin, grants, all } => {
            let grant = if *all {
                client.get::<Plugin>(&path(plugin, ""))?.missing
            } else {
                grants.clone()
            };
            let wanted = PluginGrants { grant, revoke: Vec::new() };
            let plugin: Plugin = client.post(&path(plugin, "/grants"), &wanted)?;
            show(global.output, &plugin, one);
        }
        args::Plugin::Revoke { plugin, grants } => {
            let wanted = PluginGrants { grant: Vec::new(), revoke: grants.clone() };
            let plugin: Plugin = client.post(&path(plugin, "/grants"), &wanted)?;
            show(global.output, &plugin, one);
        }
        args::Plugin::Configure { plugin, file } => {
            let config = read_json(file)?;
            let set = client.ask::<Plugin>(&Method::PUT, &path(plugin, "/config"), &config)?;
            show(global.output, &set, |set| set.as_ref().map(one).unwrap_or_default());
        }
        args::Plugin::Probe { plugin } => return probe(&client, plugin, global),
        args::Plugin::Words { plugin } => {
            let words: PluginWords = client.get(&path(plugin, "/words"))?;
            show(global.output, &words, |words| {
                let row = |word: &api::PluginWord| vec![word.name.clone(), word.meaning.clone()];
                table(&["WORD", "WHAT FOR"], words.items.iter().map(row))
            });
        }
        args::Plugin::Say { plugin, word, params } => {
            let params: std::collections::BTreeMap<_, _> = params.iter().cloned().collect();
            let place = format!("/words/{}", segment(word));
            let said: serde_json::Value = client.post_patiently(&path(plugin, &place), &params)?;
            show(global.output, &said, |said| {
                serde_json::to_string_pretty(said).unwrap_or_default() + "\n"
            });
        }
        args::Plugin::Logs { plugin } => {
            let log: PluginLog = client.get(&path(plugin, "/log"))?;
            show(global.output, &log, lines);
        }
    }
    Ok(0)
}

const ALL: &str = "/api/v1/plugins";
/// The exit code of a plugin that could not work now.
const AT_RISK: u8 = 4;
/// The exit code of one that could do a part of it.
const DEGRADED: u8 = 3;

fn path(plugin: &str, rest: &str) -> String {
    format!("{ALL}/{}{rest}", segment(plugin))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let done = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|read| bytes = read)
    };
    done.map_err(|error| Failure::new(1, format!("cannot read {}: {error}", file.display())))?;
    Ok(bytes)
}

fn read_json(file: &Path) -> Result<serde_json::Value, Failure> {
    serde_json::from_slice(&read(file)?).map_err(|error| {
        let what = format!("{} is no JSON: {error}", file.display());
        Failure::coded(api::Code::PluginConfig, what)
    })
}

fn install(client: &Client, file: &Path) -> Result<Plugin, Failure> {
    let component = read(file)?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".sig");
    let signature = match std::fs::read(&beside) {
        Ok(bytes) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let what = format!("cannot read {}: {error}", Path::new(&beside).display());
            return Err(Failure::new(1, what));
        }
    };
    let header = signature.as_deref().map(|text| ("x-twinspan-signature", text));
    client.put_bytes(ALL, &component, ("application/wasm", header))
}

fn probe(client: &Client, plugin: &str, global: &Global) -> Outcome {
    let empty = serde_json::json!({});
    let probe: PluginProbe = client.post_patiently(&path(plugin, "/probe"), &empty)?;
    show(global.output, &probe, |probe| format!("{}   {}\n", word(&probe.health), probe.message));
    Ok(match probe.health {
        PluginHealth::Ok => 0,
        PluginHealth::Degraded => DEGRADED,
        PluginHealth::Failed => AT_RISK,
    })
}

fn rows(list: &PluginList) -> String {
    let row = |plugin: &Plugin| {
        let about = plugin.about.as_ref();
        vec![
            plugin.name.clone(),
            about.map_or_else(|| "-".to_owned(), |about| about.version.clone()),
            word(&plugin.state),
            about.map_or_else(|| "-".to_owned(), |about| about.exports.join(" ")),
            remarks(plugin).join("; "),
        ]
    };
    table(&["PLUGIN", "VERSION", "STATE", "EXPORTS", "REMARKS"], list.items.iter().map(row))
}

/// What an operator should know, and the command that goes with it.
fn remarks(plugin: &Plugin) -> Vec<String> {
    let mut all = Vec::new();
    if plugin.state == PluginState::Ungranted {
        all.push(format!(
            "wants {}: twinspan plugin grant {} --all",
            plugin.missing.join(", "),
            plugin.name
        ));
    }
    if let Some(rest) = &plugin.resting {
        all.push(format!("rests for {} s: {}", rest.seconds, rest.why));
    }
    if let Some(why) = &plugin.refused {
        all.push(format!("its file is refused: {why}"));
    }
    all
}

fn one(plugin: &Plugin) -> String {
    let mut text = format!("{}   {}\n", plugin.name, word(&plugin.state));
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<12} {value}\n"));
    if let Some(about) = &plugin.about {
        line("version", &format!("{} ({})", about.version, about.vendor));
        line("what", &about.description);
        line("digest", &about.digest);
        for action in &about.actions {
            let undo = if action.is_reversible { "" } else { "; cannot be undone" };
            line("action", &format!("{}/{}: {}{undo}", plugin.name, action.name, action.title));
        }
    }
    let granted =
        if plugin.granted.is_empty() { "nothing".to_owned() } else { plugin.granted.join(", ") };
    line("granted", &granted);
    if let Some(config) = &plugin.config {
        line("config", &config.to_string());
    }
    for remark in remarks(plugin) {
        line("remark", &remark);
    }
    text
}

fn lines(log: &PluginLog) -> String {
    log.items.iter().map(|line| format!("{} {:<5} {}\n", line.at, line.level, line.text)).collect()
}
