//! Collecting what the orchestrator holds into the switchover information folder, and telling of it.
//!
//! ```text
//!   interval ─┐
//!   event ────┼─▶ export ─▶ exports/SITE/NUMBER.json, status/SITE.json   (the folder, mirrored)
//!   a word ───┘        └── failed ─▶ failure/NUMBER                      (this site alone)
//! ```
//!
//! Invariant: only the site that serves the folder collects. While a run holds the collection, nothing but
//! that run collects or lets it go on.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manager::Manager;
use crate::model::{Export, text};
use crate::outside::{Code, Outside, Trouble};

/// Exports of a site that are kept; the oldest goes first.
const KEPT: usize = 8;
/// Failures that are remembered.
const FAILURES: usize = 50;
/// Where there is nothing to do, it is looked again after this.
const IDLE_MS: u64 = 5_000;
/// How often it is looked for a change where changes are followed and nobody tells of them.
const EVENT_MS: u64 = 2_000;

/// How collecting is set at this site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Collection {
    /// Between two collections; 0: not by time.
    pub interval_ms: u64,
    /// Whenever something changed.
    pub on_event: bool,
    /// The run that stopped it; empty: it goes on.
    pub held_by: String,
    /// When it was last tried.
    pub tried_ms: u64,
    /// The revision that is in the folder.
    pub revision: u64,
}

/// What is told of a site beside its exports, in the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// When it was last found that the newest export is what the site holds.
    pub checked_ms: u64,
    /// The newest export's name.
    pub export: String,
    /// Its revision.
    pub revision: u64,
}

const STATE: &str = "collection";

/// The volume of the folder.
///
/// # Errors
/// When none is configured.
pub fn volume(outside: &dyn Outside) -> Result<String, Trouble> {
    match text(&outside.config(), "folder") {
        "" => Err(Trouble::never(Code::Config, "the configuration names no folder")),
        name => Ok(name.to_owned()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Trouble> {
    serde_json::from_slice(bytes)
        .map_err(|error| Trouble::never(Code::Internal, format!("{what} cannot be read: {error}")))
}

/// How collecting is set.
pub fn state(outside: &dyn Outside) -> Result<Collection, Trouble> {
    match outside.get(STATE)? {
        Some(bytes) => read_json(&bytes, STATE),
        None => {
            // Before anybody said otherwise it is as it was configured.
            let config = outside.config();
            let seconds = config.get("interval_s").and_then(Value::as_u64).unwrap_or(3_600);
            let on_event = config.get("on_event").and_then(Value::as_bool).unwrap_or(false);
            Ok(Collection { interval_ms: seconds * 1_000, on_event, ..Collection::default() })
        }
    }
}

fn keep(outside: &dyn Outside, state: &Collection) -> Result<(), Trouble> {
    outside.put(STATE, &serde_json::to_vec(state).unwrap_or_default())
}

/// Stops collecting here for a run; whether it was going on.
pub fn hold(outside: &dyn Outside, run: &str) -> Result<bool, Trouble> {
    let before = state(outside)?;
    if !before.held_by.is_empty() && before.held_by != run {
        let why = format!("run {} holds the collection: end it first", before.held_by);
        return Err(Trouble::never(Code::Conflict, why));
    }
    keep(outside, &Collection { held_by: run.to_owned(), ..before.clone() })?;
    Ok(before.held_by.is_empty())
}

/// Lets collecting go on that a run stopped.
pub fn release(outside: &dyn Outside, run: &str) -> Result<(), Trouble> {
    let state = state(outside)?;
    if state.held_by == run {
        keep(outside, &Collection { held_by: String::new(), ..state })?;
    }
    Ok(())
}

/// The names of a site's exports, oldest first.
fn exports_of(outside: &dyn Outside, site: &str) -> Result<Vec<String>, Trouble> {
    let files = outside.files(&volume(outside)?, &format!("exports/{site}/"))?;
    Ok(files.into_iter().map(|file| file.name).collect())
}

/// Exports now, and keeps it in the folder; the export's name. What is there already is not written again.
pub fn export(outside: &dyn Outside, run: &str) -> Result<(String, Export), Trouble> {
    let made = collect(outside, run);
    if let Err(trouble) = &made {
        note_failure(outside, trouble)?;
    }
    made
}

fn collect(outside: &dyn Outside, run: &str) -> Result<(String, Export), Trouble> {
    let volume = volume(outside)?;
    let now = outside.now_ms();
    let before = state(outside)?;
    keep(outside, &Collection { tried_ms: now, ..before.clone() })?;
    let export = Manager::of(outside, run)?.export()?;
    let names = exports_of(outside, &export.site)?;
    let status: Option<Status> = match outside.read(&volume, &status_name(&export.site))? {
        Some(bytes) => Some(read_json(&bytes, "the status")?),
        None => None,
    };
    let same = status.filter(|of| of.revision == export.revision && names.contains(&of.export));
    let name = match same {
        Some(status) => status.export,
        None => {
            let last = names.last().and_then(|name| number(name)).unwrap_or(0);
            let name = format!("exports/{}/{:08}.json", export.site, last + 1);
            outside.write(&volume, &name, &serde_json::to_vec(&export).unwrap_or_default())?;
            name
        }
    };
    let status = Status { checked_ms: now, export: name.clone(), revision: export.revision };
    let bytes = serde_json::to_vec(&status).unwrap_or_default();
    outside.write(&volume, &status_name(&export.site), &bytes)?;
    keep(outside, &Collection { tried_ms: now, revision: export.revision, ..state(outside)? })?;
    let names = exports_of(outside, &export.site)?;
    for old in names.iter().take(names.len().saturating_sub(KEPT)) {
        outside.remove(&volume, old)?;
    }
    Ok((name, export))
}

fn status_name(site: &str) -> String {
    format!("status/{site}.json")
}

/// The number in an export's name.
fn number(name: &str) -> Option<u64> {
    name.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// The newest export of a site that is whole, its name and its age in milliseconds.
pub fn newest(outside: &dyn Outside, site: &str) -> Result<(String, Export, u64), Trouble> {
    let volume = volume(outside)?;
    let mut why = String::new();
    for name in exports_of(outside, site)?.iter().rev() {
        match named(outside, name) {
            Ok(export) => {
                let status = outside.read(&volume, &status_name(site))?;
                let status: Status = match status {
                    Some(bytes) => read_json(&bytes, "the status")?,
                    None => Status::default(),
                };
                let checked = if status.export == *name { status.checked_ms } else { 0 };
                let age = outside.now_ms().saturating_sub(checked.max(export.at_ms));
                return Ok((name.clone(), export, age));
            }
            Err(trouble) => why = format!(" ({name}: {})", trouble.message),
        }
    }
    let why = format!("the folder has no whole export of {site}{why}: export there first");
    Err(Trouble::never(Code::NotFound, why))
}

/// An export by its name.
pub fn named(outside: &dyn Outside, name: &str) -> Result<Export, Trouble> {
    let found = outside.read(&volume(outside)?, name)?;
    let none = || Trouble::never(Code::NotFound, format!("the folder has no {name}"));
    read_json(&found.ok_or_else(none)?, name)
}

fn note_failure(outside: &dyn Outside, trouble: &Trouble) -> Result<(), Trouble> {
    let keys = outside.keys("failure/")?;
    let last = keys.last().and_then(|key| key.rsplit('/').next()?.parse::<u64>().ok()).unwrap_or(0);
    let failure = json!({ "at_ms": outside.now_ms(), "why": trouble.message });
    outside.put(&format!("failure/{:08}", last + 1), failure.to_string().as_bytes())?;
    for old in keys.iter().take((keys.len() + 1).saturating_sub(FAILURES)) {
        outside.delete(old)?;
    }
    Ok(())
}

/// Does what is due; when to look again, in milliseconds.
pub fn tick(outside: &dyn Outside) -> Result<u64, Trouble> {
    let state = state(outside)?;
    let is_idle = state.interval_ms == 0 && !state.on_event;
    if is_idle || !state.held_by.is_empty() || text(&outside.config(), "manager").is_empty() {
        return Ok(IDLE_MS);
    }
    if !outside.serves(&volume(outside)?)? {
        return Ok(IDLE_MS);
    }
    let now = outside.now_ms();
    let due_ms = state.tried_ms.saturating_add(state.interval_ms);
    let is_due = state.interval_ms != 0 && due_ms <= now;
    let has_changed = || -> Result<bool, Trouble> {
        let status = Manager::of(outside, "")?.status()?;
        Ok(status.get("revision").and_then(Value::as_u64) != Some(state.revision))
    };
    if is_due || (state.on_event && has_changed()?) {
        export(outside, "")?;
    }
    let until_due = if state.interval_ms == 0 { u64::MAX } else { state.interval_ms };
    let left = if is_due { until_due } else { due_ms.saturating_sub(now).min(until_due) };
    let next = if state.on_event { left.min(EVENT_MS) } else { left };
    Ok(next.clamp(250, 3_600_000))
}

/// Words that an operator, or the orchestrator itself, can say.
pub const WORDS: [(&str, &str); 9] = [
    ("status", "how collecting is set, and how fresh the newest export of each site is"),
    ("exports", "the exports in the folder, and whether each is whole"),
    ("failed", "collections that failed, and why"),
    (
        "export",
        "collect now: noretry=true fails while operations are running, timeout_s=N waits so long",
    ),
    ("changed", "something changed at the orchestrator: collect if changes are followed"),
    ("interval", "collect every seconds=N; 0 stops it"),
    ("event", "collect whenever something changed: on=true, on=false"),
    ("report", "what became of each item of run=RUN, and what remains"),
    ("let-go", "let collecting go on that run=RUN stopped and will not let go by itself"),
];

/// Answers a word.
pub fn say(outside: &dyn Outside, word: &str, params: &Value) -> Result<Value, Trouble> {
    match word {
        "status" => show(outside),
        "exports" => list(outside),
        "failed" => failed(outside),
        "export" => by_hand(outside, params),
        "changed" => {
            let state = state(outside)?;
            if !state.on_event {
                return Ok(json!({ "collected": false, "why": "changes are not followed" }));
            }
            by_hand(outside, &json!({ "noretry": "true" }))
        }
        "interval" => {
            let seconds = number_of(params, "seconds")?;
            set(outside, |state| state.interval_ms = seconds.saturating_mul(1_000))
        }
        "event" => {
            let on = text(params, "on") == "true";
            set(outside, |state| state.on_event = on)
        }
        "report" => {
            let name = format!("reports/{}.json", text(params, "run"));
            let found = outside.read(&volume(outside)?, &name)?;
            let none = || Trouble::never(Code::NotFound, format!("the folder has no {name}"));
            read_json(&found.ok_or_else(none)?, &name)
        }
        "let-go" => {
            release(outside, text(params, "run"))?;
            show(outside)
        }
        _ => Err(Trouble::never(Code::Argument, format!("{word} is no word of this plugin"))),
    }
}

fn number_of(params: &Value, key: &str) -> Result<u64, Trouble> {
    text(params, key)
        .parse()
        .map_err(|_none| Trouble::never(Code::Argument, format!("{key} is a number: {key}=60")))
}

fn set(outside: &dyn Outside, change: impl FnOnce(&mut Collection)) -> Result<Value, Trouble> {
    let mut state = state(outside)?;
    not_held(&state)?;
    change(&mut state);
    keep(outside, &state)?;
    show(outside)
}

fn not_held(state: &Collection) -> Result<(), Trouble> {
    if state.held_by.is_empty() {
        return Ok(());
    }
    let why = format!("run {} stopped collecting and lets it go on at its end", state.held_by);
    Err(Trouble::never(Code::Conflict, why))
}

fn by_hand(outside: &dyn Outside, params: &Value) -> Result<Value, Trouble> {
    not_held(&state(outside)?)?;
    let busy = |status: &Value| status.get("busy").and_then(Value::as_u64).unwrap_or(0);
    let limit = match text(params, "timeout_s") {
        "" => 60_000,
        _ => number_of(params, "timeout_s")?.clamp(1, 240) * 1_000,
    };
    let began = outside.now_ms();
    let manager = Manager::of(outside, "")?;
    loop {
        let running = busy(&manager.status()?);
        if running == 0 {
            break;
        }
        let is_over = outside.now_ms().saturating_sub(began) >= limit;
        if text(params, "noretry") == "true" || is_over {
            let trouble =
                Trouble::later(Code::Conflict, format!("{running} operations are running"));
            note_failure(outside, &trouble)?;
            return Err(trouble);
        }
        outside.pause(200);
    }
    let (name, export) = export(outside, "")?;
    Ok(json!({ "export": name, "revision": export.revision }))
}

fn show(outside: &dyn Outside) -> Result<Value, Trouble> {
    let state = state(outside)?;
    let volume = volume(outside)?;
    let serves = outside.serves(&volume)?;
    let now = outside.now_ms();
    let mut sites = Vec::new();
    for file in outside.files(&volume, "status/")? {
        let Some(bytes) = outside.read(&volume, &file.name)? else { continue };
        let status: Status = read_json(&bytes, &file.name)?;
        let site = file.name.trim_start_matches("status/").trim_end_matches(".json");
        sites.push(json!({
            "site": site, "export": status.export, "revision": status.revision,
            "age_ms": now.saturating_sub(status.checked_ms),
        }));
    }
    Ok(json!({
        "interval_s": state.interval_ms / 1_000, "on_event": state.on_event,
        "held_by": state.held_by, "collects_here": serves && state.held_by.is_empty(),
        "sites": sites, "failed": outside.keys("failure/")?.len(),
    }))
}

fn list(outside: &dyn Outside) -> Result<Value, Trouble> {
    let volume = volume(outside)?;
    let mut all = Vec::new();
    for file in outside.files(&volume, "exports/")? {
        let whole = named(outside, &file.name);
        let health =
            whole.as_ref().map_or_else(|trouble| trouble.message.clone(), |_| "whole".to_owned());
        let revision = whole.map(|of| of.revision).ok();
        all.push(json!({
            "name": file.name, "bytes": file.bytes, "at_ms": file.at_ms, "revision": revision,
            "health": health,
        }));
    }
    Ok(json!({ "items": all }))
}

fn failed(outside: &dyn Outside) -> Result<Value, Trouble> {
    let mut all = Vec::new();
    for key in outside.keys("failure/")? {
        if let Some(bytes) = outside.get(&key)? {
            all.push(read_json::<Value>(&bytes, &key)?);
        }
    }
    Ok(json!({ "items": all }))
}
