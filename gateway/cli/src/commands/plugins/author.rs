//! `twinspan plugin new`, `build`, `check` and `measure`: what whoever writes a plugin needs, without a gateway.
//!
//! Invariant: nothing is overwritten that somebody may have written, and no tool is called before it is
//! known to be there.

mod c;
mod check;
mod measure;
mod tools;

use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::args::{Language, PluginBuild, PluginNew};
use crate::failure::{FAILED, Failure};

pub(super) use check::check;
pub(super) use measure::measure;
use tools::Tool;

/// The contract, for the generators of code.
const WIT: [(&str, &str); 4] = [
    ("wit/types.wit", include_str!("../../../../../wit/types.wit")),
    ("wit/plugin.wit", include_str!("../../../../../wit/plugin.wit")),
    ("wit/host.wit", include_str!("../../../../../wit/host.wit")),
    ("wit/worlds.wit", include_str!("../../../../../wit/worlds.wit")),
];

/// What stands for the plugin's name in a template.
const HOLE: &str = "{{name}}";

/// The files of a language's template.
const fn template(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::Rust => &[
            ("Cargo.toml", include_str!("../../../../../plugins/templates/rust/Cargo.toml.in")),
            ("src/lib.rs", include_str!("../../../../../plugins/templates/rust/lib.rs.in")),
        ],
        Language::C => {
            &[("plugin.c", include_str!("../../../../../plugins/templates/c/plugin.c.in"))]
        }
        Language::Js => &[
            ("package.json", include_str!("../../../../../plugins/templates/js/package.json.in")),
            ("plugin.js", include_str!("../../../../../plugins/templates/js/plugin.js.in")),
        ],
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot {what} {}: {error}", path.display()))
}

/// `twinspan plugin new`
pub(super) fn new(command: &PluginNew) -> Outcome {
    let name = &command.name;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(is_plain) || name == "core" {
        let what = format!("{name:?} is no name of a plugin");
        let next = "lower case letters, digits and hyphens, at most 63; core is the gateway's own";
        return Err(Failure::new(FAILED, what).next(next));
    }
    let at = command.at.clone().unwrap_or_else(|| PathBuf::from(name));
    if at.exists() {
        let what = format!("{} is there already", at.display());
        return Err(Failure::new(FAILED, what).next("name another folder with --at"));
    }
    for (file, text) in template(command.lang).iter().chain(&WIT) {
        let path = at.join(file);
        let folder = path.parent().unwrap_or(&at);
        std::fs::create_dir_all(folder).map_err(|error| cannot("make", folder, &error))?;
        let text = text.replace(HOLE, name);
        std::fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
    }
    let at = at.display();
    println!("{at} is a plugin that greets.");
    println!("  twinspan plugin build {at}");
    println!("  twinspan plugin check {at}/{name}.wasm");
    Ok(0)
}

/// `twinspan plugin build`
pub(super) fn build(command: &PluginBuild) -> Outcome {
    let folder = &command.folder;
    let whole = folder.canonicalize().map_err(|error| cannot("find", folder, &error))?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let out = whole.join(format!("{name}.wasm"));
    match language(&whole)? {
        Language::Rust => rust(&whole, &out)?,
        Language::C => c::build(&whole, &command.world, &out)?,
        Language::Js => js(&whole, &command.world, &out)?,
    }
    println!("{}", folder.join(format!("{name}.wasm")).display());
    Ok(0)
}

fn language(folder: &Path) -> Result<Language, Failure> {
    let marks =
        [("Cargo.toml", Language::Rust), ("plugin.c", Language::C), ("plugin.js", Language::Js)];
    let found = marks.into_iter().find(|(file, _)| folder.join(file).is_file());
    found.map(|(_, language)| language).ok_or_else(|| {
        let what = format!("{} has no Cargo.toml, plugin.c or plugin.js", folder.display());
        Failure::new(FAILED, what).next("twinspan plugin new NAME --lang rust|c|js makes one")
    })
}

fn rust(folder: &Path, out: &Path) -> Result<(), Failure> {
    let said = Tool::CARGO.run(
        folder,
        &["build", "--release", "--target", "wasm32-wasip2", "--message-format", "json"],
    )?;
    let mut built = said.lines().rev().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message["filenames"].as_array()?;
        let component = files.iter().filter_map(|file| file.as_str());
        component.filter(|file| file.ends_with(".wasm")).map(PathBuf::from).next()
    });
    let Some(built) = built.next() else {
        let what = "cargo built no component: the library's crate-type must be cdylib";
        return Err(Failure::new(FAILED, what));
    };
    std::fs::copy(&built, out).map(drop).map_err(|error| cannot("copy", &built, &error))
}

fn js(folder: &Path, world: &str, out: &Path) -> Result<(), Failure> {
    let componentize = folder.join("node_modules/.bin/componentize-qjs");
    if !componentize.exists() {
        Tool::NPM.run(folder, &["install", "--no-audit", "--no-fund"])?;
    }
    let out = out.display().to_string();
    let words = ["exec", "--", "componentize-qjs", "--sync", "--wit", "wit", "--world", world];
    let words = [&words[..], &["--js", "plugin.js", "--output", &out]].concat();
    Tool::NPM.run(folder, &words).map(drop)
}
