//! The actions of the seventeen steps: what each is called, and which of them can be taken back.
//!
//! Invariant: an action is one that can be called again: what it wants is compared with what is there, or
//! carries a key that its other side knows.

mod back;
mod forth;

use serde_json::{Value, json};

use crate::batch::Op;
use crate::collect;
use crate::manager::Manager;
use crate::model::{Export, Scope, text};
use crate::outside::{Call, Code, Outcome, Outside, Report, Trouble};

pub use self::back::undo;
pub use self::forth::{prove, run};

/// What this plugin can do: name, title, whether it can be taken back.
pub const ACTIONS: [(&str, &str, bool); 17] = [
    ("prove", "Prove modes, mapping files, names and capacity", true),
    ("save-own", "Save this site's own configuration", true),
    ("pause-collection", "Stop collecting at this site", true),
    ("release", "Stop servers of this site that give way", true),
    ("lock-export", "Lock the source and export it a last time", true),
    ("stop-servers", "Stop the servers that move", true),
    ("open-folder", "Open the information folder and read its newest export", true),
    ("copy-images", "Exchange the images of physical servers", true),
    ("restore", "Restore configuration that differs", true),
    ("mount-datastores", "Mount datastores at the hosts", true),
    ("recover", "Delete, map, import and start by the batch", false),
    ("directory", "Restore the directory service's entries", false),
    ("check", "Check what was imported", true),
    ("charges", "Reconcile usage charges", false),
    ("resume-collection", "Export and collect from now on at this site", false),
    ("cleanup", "Fence the source and delete what moved", false),
    ("restore-own", "Restore the configuration that was saved before", false),
];

/// Items that are changed in one call, below the limit of requests with room for attempts.
const BATCH: usize = 30;
/// A call that took long enough says how far it is, so that people see it and a kill loses little.
const BATCH_MS: u64 = 5_000;

/// What a call stands in.
pub struct Step<'a> {
    pub outside: &'a dyn Outside,
    pub call: &'a Call,
    pub params: &'a Value,
}

impl<'a> Step<'a> {
    fn manager(&self) -> Result<Manager<'a>, Trouble> {
        Manager::of(self.outside, &self.call.run)
    }

    fn scope(&self) -> Result<Scope, Trouble> {
        Scope::of(self.params).map_err(|why| Trouble::never(Code::Argument, why))
    }

    fn text(&self, key: &str) -> &'a str {
        text(self.params, key)
    }

    /// The export that the step is about.
    fn export(&self) -> Result<Export, Trouble> {
        collect::named(self.outside, self.text("export"))
    }

    /// What this site held before the run.
    fn own(&self) -> Result<Export, Trouble> {
        own_of(self.outside, &self.call.run)
    }

    /// Does a list of things from a place on, and answers where it stopped and what failed for good.
    fn work(&self, ops: &[Op], at: usize) -> Result<Worked, Trouble> {
        let manager = self.manager()?;
        let began = self.outside.now_ms();
        let mut results = Vec::new();
        for op in ops.iter().skip(at).take(BATCH) {
            let key = &self.call.key;
            let done = match op {
                Op::Put { kind, name, item } => manager.put(kind, name, item, key),
                Op::Delete { kind, name } => manager.delete(kind, name, key),
                Op::Power { name, is_on } => match manager.power(name, *is_on, key) {
                    // What is not there does not run.
                    Err(trouble) if trouble.code == Code::NotFound && !is_on => Ok(()),
                    other => other,
                },
            };
            let result = match done {
                Ok(()) => "done".to_owned(),
                Err(trouble) if trouble.again_ms.is_some() => return Err(trouble),
                Err(trouble) => format!("failed: {}", trouble.message),
            };
            let (word, item) = op.words();
            results.push(json!({ "op": word, "item": item, "result": result }));
            if self.outside.now_ms().saturating_sub(began) > BATCH_MS {
                break;
            }
        }
        Ok(Worked { at: at + results.len(), results })
    }

    /// The same where one failure ends the step, and there is no report but its own.
    fn work_through(&self, ops: &[Op], at: usize, what: &str) -> Result<Outcome, Trouble> {
        let worked = self.work(ops, at)?;
        if let Some(failed) = worked.failures().next() {
            return Err(Trouble::never(Code::WrongState, failed));
        }
        if worked.at < ops.len() {
            return Ok(pending(json!({ "at": worked.at }), (worked.at, ops.len()), what));
        }
        Ok(Outcome::Done(Report::of(format!("{what}: {} items", ops.len()))))
    }
}

/// What came of a part of a list.
struct Worked {
    at: usize,
    results: Vec<Value>,
}

impl Worked {
    fn failures(&self) -> impl Iterator<Item = String> {
        let failed = self.results.iter().filter(|of| text(of, "result").starts_with("failed"));
        failed.map(|of| format!("{} {}: {}", text(of, "op"), text(of, "item"), text(of, "result")))
    }
}

fn pending(token: Value, (at, of): (usize, usize), what: &str) -> Outcome {
    let percent = u8::try_from(at * 100 / of.max(1)).ok();
    let progress = format!("{what}: {at} of {of}");
    Outcome::Pending { token, after_ms: 20, percent, progress }
}

/// Where a token says that a list goes on.
fn place(token: &Value) -> usize {
    let at = token.get("at").and_then(Value::as_u64).unwrap_or(0);
    usize::try_from(at).unwrap_or(usize::MAX)
}

// === what a site held before a run ===

/// A value of the gateway's store holds so much.
const PIECE: usize = 60 << 10;
/// Saved configurations that are kept.
const SAVED: usize = 2;

fn own_prefix(run: &str) -> String {
    format!("own/{run}/")
}

/// Saves what this site holds, for a run; only the first of a run counts.
fn save_own(outside: &dyn Outside, run: &str, export: &Export) -> Result<(), Trouble> {
    let bytes = serde_json::to_vec(export).unwrap_or_default();
    let prefix = own_prefix(run);
    for (number, piece) in bytes.chunks(PIECE).enumerate() {
        outside.put(&format!("{prefix}{number:04}"), piece)?;
    }
    // Written last: without it nothing is saved.
    outside.put(&format!("{prefix}whole"), bytes.len().to_string().as_bytes())?;
    let mut runs = saved_runs(outside)?;
    while runs.len() > SAVED {
        forget_own(outside, &runs.remove(0))?;
    }
    Ok(())
}

/// Runs of which something is saved here, oldest first: their names are in the order of time.
fn saved_runs(outside: &dyn Outside) -> Result<Vec<String>, Trouble> {
    let keys = outside.keys("own/")?;
    let runs = keys.iter().filter(|key| key.ends_with("/whole"));
    Ok(runs.filter_map(|key| Some(key.split('/').nth(1)?.to_owned())).collect())
}

fn forget_own(outside: &dyn Outside, run: &str) -> Result<(), Trouble> {
    // The mark goes first, so that no part is taken for the whole.
    outside.delete(&format!("{}whole", own_prefix(run)))?;
    for key in outside.keys(&own_prefix(run))? {
        outside.delete(&key)?;
    }
    Ok(())
}

/// What was saved for a run.
fn own_of(outside: &dyn Outside, run: &str) -> Result<Export, Trouble> {
    let prefix = own_prefix(run);
    let none = || {
        let why = format!("nothing of this site was saved for run {run}: save-own comes before");
        Trouble::never(Code::NotFound, why)
    };
    let length = outside.get(&format!("{prefix}whole"))?.ok_or_else(none)?;
    let mut bytes = Vec::new();
    for key in outside.keys(&prefix)?.iter().filter(|key| !key.ends_with("/whole")) {
        bytes.extend(outside.get(key)?.ok_or_else(none)?);
    }
    if bytes.len().to_string().as_bytes() != length {
        return Err(none());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Trouble::never(Code::Internal, format!("what was saved: {error}")))
}

/// Items of a kind that are in scope and are not so at a site: missing there, or different.
#[must_use]
pub fn differing<'a>(
    export: &'a Export,
    there: &Export,
    (kind, scope): (&str, &Scope),
) -> Vec<(&'a str, &'static str, &'a Value)> {
    let in_scope = export.of(kind).filter(|(_, item)| scope.has_tenant(text(item, "tenant")));
    let differs = |(name, item): (&'a String, &'a Value)| match there.get(kind, name) {
        None => Some((name.as_str(), "missing", item)),
        Some(other) if other != item => Some((name.as_str(), "differs", item)),
        Some(_) => None,
    };
    in_scope.filter_map(differs).collect()
}

/// The kind of items that a word of `restore` means.
fn restored(what: &str) -> Result<&'static str, Trouble> {
    match what {
        "network" => Ok("network-devices"),
        "files" => Ok("files"),
        "settings" => Ok("settings"),
        "roles" => Ok("roles"),
        other => {
            let why = format!("what is {other:?}: say network, files, settings or roles");
            Err(Trouble::never(Code::Argument, why))
        }
    }
}

// === what can be looked at ===

/// Words that look at a switchover and change nothing.
pub const WORDS: [(&str, &str); 2] = [
    (
        "rehearse",
        "what the batch would do to each item here: source=SITE, and level, tenants, exclude, pools",
    ),
    (
        "mismatch",
        "what of source=SITE is missing or different here: what=network, files, settings or roles",
    ),
];

/// Answers a word.
pub fn say(word: &str, step: &Step<'_>) -> Result<Value, Trouble> {
    let (_, export, _) = collect::newest(step.outside, step.text("source"))?;
    let now = step.manager()?.export()?;
    let scope = step.scope()?;
    if word == "mismatch" {
        let kind = restored(step.text("what"))?;
        let one = |(name, how, _): (&str, &str, &Value)| json!({ "item": format!("{kind}/{name}"), "is": how });
        let all: Vec<Value> =
            differing(&export, &now, (kind, &scope)).into_iter().map(one).collect();
        return Ok(json!({ "items": all }));
    }
    let is_additional = step.text("additional") == "true";
    let here = step.outside.here()?;
    let ops = crate::batch::list((&export, &now), &scope, &here, is_additional)?;
    let one = |op: &Op| json!({ "op": op.words().0, "item": op.words().1 });
    let all: Vec<Value> = ops.iter().map(one).collect();
    Ok(json!({ "items": all, "remaining": scope.remaining(&export) }))
}
