//! Each action back, as far as the batch command has not begun.
//!
//! Invariant: what is brought back is what was saved or exported before, never what somebody remembers.

use serde_json::Value;

use super::forth::{datastores, running};
use super::{Step, differing, forget_own, place, restored};
use crate::batch::Op;
use crate::collect;
use crate::model::{Export, text};
use crate::outside::{Code, Outcome, Report, Trouble};

/// Takes an action back, or goes on with it.
pub fn undo(name: &str, step: &Step<'_>, token: &Value) -> Result<Outcome, Trouble> {
    let (outside, run) = (step.outside, step.call.run.as_str());
    match name {
        "prove" | "open-folder" | "check" => Ok(Outcome::Skipped("it changed nothing".to_owned())),
        "save-own" => {
            forget_own(outside, run)?;
            Ok(Outcome::Done(Report::of("what was saved is not needed any more")))
        }
        "pause-collection" => {
            collect::release(outside, run)?;
            Ok(Outcome::Done(Report::of("collecting goes on here")))
        }
        "release" => {
            let own = step.own()?;
            let ran = own.of("lservers").filter(|(_, server)| text(server, "power") == "on");
            let ops: Vec<Op> =
                ran.map(|(name, _)| Op::Power { name: name.clone(), is_on: true }).collect();
            step.work_through(&ops, place(token), "started again")
        }
        "lock-export" => {
            step.manager()?.unlock(run)?;
            collect::release(outside, run)?;
            Ok(Outcome::Done(Report::of("the source is unlocked and collected again")))
        }
        "stop-servers" => {
            let ops: Vec<Op> = running(&step.export()?, &step.scope()?)
                .map(|name| Op::Power { name, is_on: true })
                .collect();
            step.work_through(&ops, place(token), "started again")
        }
        "copy-images" => {
            let of = |export: &Export| -> Vec<String> {
                let all = export.of("images").filter(|(_, of)| text(of, "type") == "physical");
                all.map(|(name, _)| name.clone()).collect()
            };
            let (export, own) = (step.export()?, step.own()?);
            let names = of(&export).into_iter().chain(of(&own)).collect();
            was("images", names, &own, step, token)
        }
        "restore" => {
            let kind = restored(step.text("what"))?;
            let (export, own, scope) = (step.export()?, step.own()?, step.scope()?);
            let wrong = differing(&export, &own, (kind, &scope));
            let names = wrong.into_iter().map(|(name, ..)| name.to_owned()).collect();
            was(kind, names, &own, step, token)
        }
        "mount-datastores" => {
            was("datastores", datastores(step)?.into_iter().collect(), &step.own()?, step, token)
        }
        other => {
            let why = format!("{other} is not taken back: switch back by a failback plan");
            Err(Trouble::never(Code::WrongState, why))
        }
    }
}

/// Lets items of a kind be as they were saved.
fn was(
    kind: &str,
    names: std::collections::BTreeSet<String>,
    own: &Export,
    step: &Step<'_>,
    token: &Value,
) -> Result<Outcome, Trouble> {
    let kind = || kind.to_owned();
    let op = |name: String| match own.get(&kind(), &name) {
        Some(item) => Op::Put { kind: kind(), item: item.clone(), name },
        None => Op::Delete { kind: kind(), name },
    };
    let ops: Vec<Op> = names.into_iter().map(op).collect();
    step.work_through(&ops, place(token), "as it was")
}
