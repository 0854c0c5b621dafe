//! Each action forth.
//!
//! Invariant: what is begun with a token goes on with it; the list that its place is in is made again from
//! the same documents.

use serde_json::{Value, json};

use super::{Step, differing, own_of, pending, place, restored, save_own, saved_runs};
use crate::batch::{self, Op};
use crate::charges;
use crate::collect;
use crate::manager::Lock;
use crate::model::{Export, Scope, text};
use crate::outside::{Code, Outcome, Report, Trouble};
use crate::plan::facts::left_out;
use crate::rules::{self, Finding};

/// How long a source may be busy before its last export, in seconds, if nobody says otherwise.
const LOCK_S: u64 = 3_600;
/// The longest that can be said.
const LOCK_S_MAX: u64 = 172_800;

/// Does an action, or goes on with it.
pub fn run(name: &str, step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    match name {
        "prove" => proven(step),
        "save-own" => save(step),
        "pause-collection" => {
            let was_on = collect::hold(step.outside, &step.call.run)?;
            Ok(Outcome::Done(Report::of("collecting is stopped here").with("was_on", was_on)))
        }
        "release" => release(step, token),
        "lock-export" => lock(step, token),
        "stop-servers" => {
            let ops: Vec<Op> = running(&step.export()?, &step.scope()?)
                .map(|name| Op::Power { name, is_on: false })
                .collect();
            step.work_through(&ops, place(token), "stopped")
        }
        "open-folder" => open(step),
        "copy-images" => images(step, token),
        "restore" => restore(step, token),
        "mount-datastores" => mount(step, token),
        "recover" => recover(step, token),
        "directory" => directory(step, token),
        "check" => check(step),
        "charges" => charge(step, token),
        "resume-collection" => {
            let (name, export) = collect::export(step.outside, &step.call.run)?;
            collect::release(step.outside, &step.call.run)?;
            let summary = format!("{} is collected from now on, first as {name}", export.site);
            Ok(Outcome::Done(Report::of(summary).with("export", name)))
        }
        "cleanup" => cleanup(step, token),
        "restore-own" => restore_own(step, token),
        other => Err(Trouble::never(Code::Argument, format!("there is no action {other}"))),
    }
}

fn source<'a>(step: &Step<'a>) -> Result<&'a str, Trouble> {
    match step.text("source") {
        "" => Err(Trouble::never(Code::Argument, "source names no site")),
        name => Ok(name),
    }
}

/// Everything that stands in the way of a switchover to this site; the export that was looked at.
pub fn prove(step: &Step<'_>) -> Result<(Vec<Finding>, Export, String), Trouble> {
    let scope = step.scope()?;
    let here = step.outside.here()?;
    let (name, export, age_ms) = collect::newest(step.outside, source(step)?)?;
    let manager = step.manager()?;
    let own = manager.export()?;
    let free = manager.status()?.get("free_servers").and_then(Value::as_u64).unwrap_or(0);
    let mut all = rules::modes(&scope);
    all.extend(rules::mappings(&export, (&export.site, &here), &scope));
    all.extend(rules::names(&export, &own, &scope));
    all.extend(rules::capacity(&export, free, &scope));
    all.extend(left_out(&export, &scope, |parameter| step.text(parameter)).0);
    let fresh_s = step.text("fresh_s").parse::<u64>().unwrap_or(0);
    if fresh_s != 0 && age_ms / 1_000 > fresh_s {
        let why =
            format!("{name} was checked {} s ago and {fresh_s} s are permitted", age_ms / 1_000);
        all.push(Finding { code: "stale-export", message: why });
    }
    Ok((all, export, name))
}

fn proven(step: &Step<'_>) -> Result<Outcome, Trouble> {
    let (findings, export, name) = prove(step)?;
    if !findings.is_empty() {
        let words: Vec<String> =
            findings.iter().map(|of| format!("{}: {}", of.code, of.message)).collect();
        return Err(Trouble::never(Code::WrongState, words.join("; ")));
    }
    let scope = step.scope()?;
    let servers = scope.moving(&export)["lservers"].len();
    let remaining = scope.remaining(&export).len();
    let mut summary = format!("{servers} servers of {name} can move; {remaining} items remain");
    let (_, told) = left_out(&export, &scope, |parameter| step.text(parameter));
    if !told.is_empty() {
        summary = format!("{summary}; left out, though there: {}", told.join(", "));
    }
    Ok(Outcome::Done(Report::of(summary).with("servers", servers).with("remaining", remaining)))
}

fn save(step: &Step<'_>) -> Result<Outcome, Trouble> {
    if !saved_runs(step.outside)?.contains(&step.call.run) {
        save_own(step.outside, &step.call.run, &step.manager()?.export()?)?;
    }
    let own = step.own()?;
    let count: usize = own.items.values().map(std::collections::BTreeMap::len).sum();
    let summary =
        format!("{count} items of {} are saved here, revision {}", own.site, own.revision);
    Ok(Outcome::Done(Report::of(summary).with("saved", &step.call.run)))
}

fn release(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (_, export, _) = collect::newest(step.outside, source(step)?)?;
    let servers = batch::released(&export, &step.own()?, &step.scope()?);
    let ops: Vec<Op> = servers.into_iter().map(|name| Op::Power { name, is_on: false }).collect();
    if ops.is_empty() {
        return Ok(Outcome::Skipped("no server of this site gives way".to_owned()));
    }
    step.work_through(&ops, place(token), "released")
}

/// The servers that move and ran when they were exported.
pub(super) fn running<'a>(
    export: &'a Export,
    scope: &Scope,
) -> impl Iterator<Item = String> + use<'a> {
    let servers = scope.moving(export).remove("lservers").unwrap_or_default();
    let is_on =
        |name: &&str| export.get("lservers", name).is_some_and(|of| text(of, "power") == "on");
    servers.into_iter().filter(is_on).map(str::to_owned)
}

fn lock(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (outside, run) = (step.outside, step.call.run.as_str());
    let now = outside.now_ms();
    let since = token.get("since_ms").and_then(Value::as_u64).unwrap_or(now);
    let limit_s = match step.text("timeout_s") {
        "" => LOCK_S,
        text => text.parse().ok().filter(|s| (1..=LOCK_S_MAX).contains(s)).ok_or_else(|| {
            Trouble::never(Code::Argument, format!("timeout_s is {text:?}: 1 to {LOCK_S_MAX}"))
        })?,
    };
    collect::hold(outside, run)?;
    match step.manager()?.lock(run)? {
        Lock::Had => {
            let (name, export) = collect::export(outside, run)?;
            let summary = format!("{} is locked and exported as {name}", export.site);
            Ok(Outcome::Done(Report::of(summary).with("export", name)))
        }
        Lock::Busy(count) if step.text("noretry") == "true" => {
            collect::release(outside, run)?;
            let why = format!("{count} operations are running at the source, and noretry was said");
            Err(Trouble::never(Code::Conflict, why))
        }
        Lock::Busy(count) if now.saturating_sub(since) >= limit_s * 1_000 => {
            collect::release(outside, run)?;
            let why =
                format!("{count} operations are still running at the source after {limit_s} s");
            Err(Trouble::never(Code::Timeout, why))
        }
        Lock::Busy(count) => Ok(Outcome::Pending {
            token: json!({ "since_ms": since }),
            after_ms: 500,
            percent: None,
            progress: format!("waits for {count} operations of the source"),
        }),
        Lock::Of(holder) => {
            let why = format!("{holder} has the source's lock: end that first");
            Err(Trouble::later(Code::Conflict, why))
        }
    }
}

fn open(step: &Step<'_>) -> Result<Outcome, Trouble> {
    let (name, export, age_ms) = collect::newest(step.outside, source(step)?)?;
    let physical = export.of("images").any(|(_, image)| text(image, "type") == "physical");
    let summary =
        format!("{name} is whole, revision {}, {} s old", export.revision, age_ms / 1_000);
    let report = Report::of(summary).with("export", name).with("age_s", age_ms / 1_000);
    Ok(Outcome::Done(report.with("revision", export.revision).with("physical", physical)))
}

fn is_physical(item: &Value) -> bool {
    text(item, "type") == "physical"
}

fn images(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (export, own, scope) = (step.export()?, step.own()?, step.scope()?);
    let of = |export: &Export| -> Vec<(String, Value)> {
        let all = export.of("images").filter(|(_, image)| is_physical(image));
        let all = all.filter(|(_, image)| scope.has_tenant(text(image, "tenant")));
        all.map(|(name, image)| (name.clone(), image.clone())).collect()
    };
    let kind = || "images".to_owned();
    // This site's own are saved with its configuration; the folder is emptied before it is filled.
    let mut ops: Vec<Op> =
        of(&own).into_iter().map(|(name, _)| Op::Delete { kind: kind(), name }).collect();
    let put = of(&export).into_iter().map(|(name, item)| Op::Put { kind: kind(), name, item });
    ops.extend(put);
    step.work_through(&ops, place(token), "images exchanged")
}

fn restore(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let kind = restored(step.text("what"))?;
    let (export, scope) = (step.export()?, step.scope()?);
    // Against what was saved, so that the list is the same each time.
    let own = step.own()?;
    let wrong = differing(&export, &own, (kind, &scope));
    if wrong.is_empty() {
        return Ok(Outcome::Skipped(format!("{kind} match")));
    }
    let count = wrong.len();
    let op = |(name, _, item): (&str, _, &Value)| Op::Put {
        kind: kind.to_owned(),
        name: name.to_owned(),
        item: item.clone(),
    };
    let ops: Vec<Op> = wrong.into_iter().map(op).collect();
    let worked = step.work_through(&ops, place(token), "restored")?;
    if matches!(worked, Outcome::Pending { .. }) {
        return Ok(worked);
    }
    let now = step.manager()?.export()?;
    let left = differing(&export, &now, (kind, &scope));
    if let Some((name, how, _)) = left.first() {
        let why = format!("{kind}/{name} {how} still: look at the orchestrator of {}", now.site);
        return Err(Trouble::later(Code::WrongState, why));
    }
    let names: Vec<String> = ops.iter().map(|op| op.words().1).take(20).collect();
    let summary = format!("{count} of {kind} restored: {}", names.join(", "));
    Ok(Outcome::Done(Report::of(summary).with("restored", count)))
}

/// The storage units of this site that servers come to.
pub(super) fn datastores(step: &Step<'_>) -> Result<Vec<String>, Trouble> {
    let (export, scope) = (step.export()?, step.scope()?);
    let here = step.outside.here()?;
    let mapping = rules::Mapping::of(&export, "storage", (&export.site, &here))
        .map_err(|wrong| Trouble::never(Code::Argument, wrong.message))?;
    let servers = scope.moving(&export).remove("lservers").unwrap_or_default();
    let storage = |name: &&str| {
        let server = export.get("lservers", name).filter(|of| !is_physical(of))?;
        mapping.get(text(server, "storage")).map(str::to_owned)
    };
    let all: std::collections::BTreeSet<String> = servers.iter().filter_map(storage).collect();
    Ok(all.into_iter().collect())
}

fn mount(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let op = |name: String| Op::Put {
        kind: "datastores".to_owned(),
        item: json!({ "storage": name, "mounted": true }),
        name,
    };
    let ops: Vec<Op> = datastores(step)?.into_iter().map(op).collect();
    if ops.is_empty() {
        return Ok(Outcome::Skipped("no guest that moves needs a datastore".to_owned()));
    }
    step.work_through(&ops, place(token), "mounted")
}

fn recover(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (export, scope) = (step.export()?, step.scope()?);
    let is_additional = step.text("additional") == "true";
    let ops = batch::list((&export, &step.own()?), &scope, &step.outside.here()?, is_additional)?;
    let at = place(token);
    let worked = step.work(&ops, at)?;
    let volume = collect::volume(step.outside)?;
    let name = format!("reports/{}.json", step.call.run);
    let before = step.outside.read(&volume, &name)?;
    let before: Value =
        before.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut items = before.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    // What was told before a restart is told again from this place on.
    items.truncate(at);
    items.extend(worked.results.iter().cloned());
    let remaining = scope.remaining(&export);
    let report = json!({
        "export": step.text("export"), "of": ops.len(), "items": items, "remaining": remaining,
    });
    step.outside.write(&volume, &name, report.to_string().as_bytes())?;
    if worked.at < ops.len() {
        return Ok(pending(json!({ "at": worked.at }), (worked.at, ops.len()), "recovered"));
    }
    let failed: Vec<&str> = items
        .iter()
        .filter(|of| text(of, "result").starts_with("failed"))
        .map(|of| text(of, "item"))
        .collect();
    if !failed.is_empty() {
        let shown = failed.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        let why = format!(
            "{} of {} items failed: {shown}. What each says: twinspan plugin say \
             lserver-switchover report run={}; mend it and retry the step",
            failed.len(),
            ops.len(),
            step.call.run
        );
        return Err(Trouble::never(Code::WrongState, why));
    }
    let summary = format!("{} items recovered, {} remain", ops.len(), remaining.len());
    let report = Report::of(summary).with("report", name).with("remaining", remaining.len());
    Ok(Outcome::Done(report))
}

fn directory(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let status = step.manager()?.status()?;
    if status.get("shared_directory").and_then(Value::as_bool) == Some(true) {
        return Ok(Outcome::Skipped("both sites share one directory service".to_owned()));
    }
    let (export, own, scope) = (step.export()?, step.own()?, step.scope()?);
    let op = |(name, _, item): (&str, _, &Value)| Op::Put {
        kind: "directory".to_owned(),
        name: name.to_owned(),
        item: item.clone(),
    };
    let ops: Vec<Op> =
        differing(&export, &own, ("directory", &scope)).into_iter().map(op).collect();
    if ops.is_empty() {
        return Ok(Outcome::Skipped("the directory's entries match".to_owned()));
    }
    step.work_through(&ops, place(token), "directory entries restored")
}

fn check(step: &Step<'_>) -> Result<Outcome, Trouble> {
    let (export, scope) = (step.export()?, step.scope()?);
    let now = step.manager()?.export()?;
    let moving = scope.moving(&export);
    let mut wrong = Vec::new();
    for (kind, names) in &moving {
        for name in names {
            let Some(there) = now.get(kind, name) else {
                wrong.push(format!("{kind}/{name} is not there"));
                continue;
            };
            let wanted = export.get(kind, name).map(|of| text(of, "power")).unwrap_or_default();
            if *kind == "lservers" && text(there, "power") != wanted {
                wrong.push(format!("lservers/{name} is {} and was {wanted}", text(there, "power")));
            }
            if *kind == "platforms"
                && export.get(kind, name).and_then(|of| of.get("lservers")) != there.get("lservers")
            {
                wrong.push(format!("platforms/{name} has other servers"));
            }
        }
    }
    if let Some(first) = wrong.first() {
        let why = format!("{} of what was imported is not as it was: {first}", wrong.len());
        return Err(Trouble::later(Code::WrongState, why));
    }
    let platforms = moving["platforms"].len();
    let summary =
        format!("{platforms} platforms and {} servers are there", moving["lservers"].len());
    Ok(Outcome::Done(Report::of(summary).with("platforms", platforms)))
}

fn charge(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (export, scope, run) = (step.export()?, step.scope()?, &step.call.run);
    let months = usage_of(&export, &scope);
    let manager = step.manager()?;
    let now = manager.export()?;
    let at = place(token);
    for (number, (name, source)) in months.iter().enumerate().skip(at) {
        if number >= at + super::BATCH {
            return Ok(pending(json!({ "at": number }), (number, months.len()), "reconciled"));
        }
        let there = now.get("usage", name);
        // What a call before this one reconciled is not added to itself.
        if there.is_some_and(|there| charges::is_reconciled(there, run)) {
            continue;
        }
        manager.put("usage", name, &charges::reconcile(source, there, run), &step.call.key)?;
    }
    let summary = format!("{} months of platforms reconciled", months.len());
    Ok(Outcome::Done(Report::of(summary).with("reconciled", months.len())))
}

fn cleanup(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (export, scope, run) = (step.export()?, step.scope()?, &step.call.run);
    let ops = batch::cleaned(&export, &scope, run);
    let worked = step.work_through(&ops, place(token), "cleaned up")?;
    if matches!(worked, Outcome::Done(_)) {
        let manager = step.manager()?;
        let now = manager.export()?;
        for (name, usage) in usage_of(&export, &scope) {
            let Some(there) = now.get("usage", name) else { continue };
            if !charges::is_moved(there, run) {
                let left = charges::remainder(there, usage, run);
                manager.put("usage", name, &left, &step.call.key)?;
            }
        }
        manager.unlock(run)?;
        // The site does not serve the folder any more, so nothing is collected here by itself.
        collect::release(step.outside, run)?;
    }
    Ok(worked)
}

/// The months of the platforms that move.
fn usage_of<'a>(export: &'a Export, scope: &Scope) -> Vec<(&'a String, &'a Value)> {
    let platforms = scope.moving(export).remove("platforms").unwrap_or_default();
    export.of("usage").filter(|(_, usage)| platforms.contains(&text(usage, "platform"))).collect()
}

fn restore_own(step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let named = step.text("run");
    let run = match named {
        "" => saved_runs(step.outside)?.pop(),
        run => Some(run.to_owned()),
    };
    let none = || {
        let why = "no configuration of this site was saved by a switchover: nothing is restored";
        Trouble::never(Code::NotFound, why)
    };
    let saved = own_of(step.outside, &run.ok_or_else(none)?)?;
    // Made against nothing, so that it is the same list each time; what is so already stays so.
    let ops = batch::way_back(&saved, &Export::default());
    step.work_through(&ops, place(token), "restored")
}
