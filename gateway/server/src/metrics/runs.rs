//! What runs of plans do, for `/metrics`.
//!
//! Invariant: labels are names of plans and steps; the run itself is one only while somebody must
//! answer it.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use recovery::run::{Event, Run};

use super::text::Families;
use crate::gateway::Gateway;
use crate::runs::Place;

type Name = (&'static str, &'static str);

const RTO_TARGET: Name =
    ("twinspan_plan_rto_target_seconds", "How long a run of the plan should take at most.");
const RUNNING: Name = ("twinspan_runbook_running", "Whether a run of the plan is executed here.");
const WAITING: Name =
    ("twinspan_runbook_waiting_for_operator", "Whether a person must say something to the run.");

/// From a file that is switched to a site that is copied, in steps of about three.
pub(super) const BUCKETS: [f64; 12] =
    [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0];
/// What the buckets are for.
pub(super) const STEP_DURATION: &str = "twinspan_runbook_step_duration_seconds";

/// A record was written here.
pub(crate) fn record(run: &Run, event: &Event) {
    let plan = run.plan.name.clone();
    match event {
        Event::Ended { result, .. } => {
            counter!("twinspan_runbook_runs_total", "plan" => plan,
                "kind" => run.plan.kind.word(), "result" => result.word())
            .increment(1);
        }
        Event::Done { step, .. } => {
            let place = run.plan.place(step);
            let times = place.and_then(|place| {
                let step = &run.steps[place];
                step.ended_ms.zip(step.begun_ms)
            });
            if let Some((ended, begun)) = times {
                #[expect(clippy::cast_precision_loss, reason = "a step of 2^53 ms is none")]
                let seconds = ended.saturating_sub(begun) as f64 / 1000.0;
                histogram!(STEP_DURATION, "plan" => plan, "step" => step.clone()).record(seconds);
            }
        }
        Event::Intent { step, attempt: 2.. } => {
            counter!("twinspan_runbook_step_retries_total", "plan" => plan, "step" => step.clone())
                .increment(1);
        }
        _ => {}
    }
}

/// What is known of runs, for a scrape.
pub(super) fn render(families: &mut Families, gateway: &Gateway) {
    let all = gateway.runs.all();
    let mut running: std::collections::BTreeMap<(String, &'static str), f64> =
        std::collections::BTreeMap::new();
    let mut targets = std::collections::BTreeMap::new();
    for known in all.values() {
        let run = &known.run;
        let executed = matches!(known.place, Place::Here(_)) && run.ended.is_none();
        let key = (run.plan.name.clone(), run.plan.kind.word());
        let value = running.entry(key).or_insert(0.0);
        if executed {
            *value = 1.0;
        }
        if let Some(target) = run.plan.rto_target {
            // Of several runs of a plan the newest says what the plan says now.
            targets.insert(run.plan.name.clone(), target.as_secs_f64());
        }
        let id = run.id();
        let held = matches!(known.place, Place::Held(_)) && run.ended.is_none();
        let waits = held || (executed && run.standing().needs_person());
        if executed || waits {
            let value = if waits { 1.0 } else { 0.0 };
            families.gauge(WAITING, &[("plan", &run.plan.name), ("run", id)], value);
        }
    }
    for (plan, seconds) in targets {
        families.gauge(RTO_TARGET, &[("plan", &plan)], seconds);
    }
    for ((plan, kind), value) in running {
        families.gauge(RUNNING, &[("plan", &plan), ("kind", kind)], value);
    }
}

/// Describes them.
pub(super) fn describe() {
    describe_counter!(
        "twinspan_runbook_runs_total",
        Unit::Count,
        "Runs of plans that ended, by how."
    );
    describe_counter!(
        "twinspan_runbook_step_retries_total",
        Unit::Count,
        "Attempts of steps after the first."
    );
    describe_histogram!(
        "twinspan_runbook_step_duration_seconds",
        Unit::Seconds,
        "From the first intent of a step to its end."
    );
}
