//! Plans that are only looked at: listed, proven, saved, tried without effects.

use std::sync::Arc;

use api::Code;
use recovery::plan::{Fault, Setting, Step};
use recovery::{Plan, Standing, World, dry_run};
use uuid::Uuid;

use super::Gateway;
use crate::refusal::Refused;
use crate::runs::shelf::Found;
use crate::runs::world::Keeping;

fn bad(faults: &[Fault]) -> Refused {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    Refused::new(Code::PlanBad, lines.join("\n"))
}

fn step_of(plan: &Plan, step: &Step) -> api::PlanStep {
    let raw = plan.raw.steps.iter().find(|raw| raw.id == step.id);
    let id = |place: &usize| plan.steps[*place].id.clone();
    api::PlanStep {
        id: step.id.clone(),
        title: step.title.clone(),
        site: raw.map_or_else(String::new, |raw| raw.site.clone()),
        action: step.action.clone(),
        when: step.when.as_ref().map_or_else(String::new, |when| when.text().to_owned()),
        after: step.after.iter().map(id).collect(),
        point_of_no_return: step.point_of_no_return,
    }
}

fn show(found: &Found) -> api::Plan {
    let nothing = |error: Option<String>| api::Plan {
        name: found.name.clone(),
        title: String::new(),
        kind: String::new(),
        source: String::new(),
        destination: String::new(),
        file: found.file.display().to_string(),
        saved: found.is_saved,
        parameters: Vec::new(),
        facts: std::collections::BTreeMap::new(),
        steps: Vec::new(),
        remarks: Vec::new(),
        error,
    };
    match &found.plan {
        Err(why) => nothing(Some(why.clone())),
        Ok(plan) => api::Plan {
            title: plan.title.clone(),
            kind: plan.kind.word().to_owned(),
            source: plan.sites.source.clone(),
            destination: plan.sites.destination.clone(),
            parameters: plan
                .parameters
                .iter()
                .map(|(name, of)| api::PlanParameter {
                    name: name.clone(),
                    meaning: of.meaning.clone(),
                    default: of.default.clone(),
                })
                .collect(),
            facts: plan.facts.iter().map(|(n, fact)| (n.clone(), fact.to_string())).collect(),
            steps: plan.steps.iter().map(|step| step_of(plan, step)).collect(),
            ..nothing(None)
        },
    }
}

impl Gateway {
    async fn on_shelf<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::runs::shelf::Shelf) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let runs = Arc::clone(&self.runs);
        let worked = self.tasks.spawn_blocking(move || work(&runs.shelf)).await;
        worked.map_err(|error| Refused::new(Code::Internal, error.to_string()))
    }

    /// All plans, by name.
    ///
    /// # Errors
    /// [`Code::Internal`].
    pub(crate) async fn show_plans(&self) -> Result<Vec<api::Plan>, Refused> {
        self.on_shelf(|shelf| shelf.list().iter().map(show).collect()).await
    }

    /// One plan.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) async fn show_plan(&self, name: &str) -> Result<api::Plan, Refused> {
        let wanted = name.to_owned();
        let found = self.on_shelf(move |shelf| shelf.find(&wanted).as_ref().map(show)).await?;
        found.ok_or_else(|| {
            let detail = format!("there is no plan {name:?} here");
            Refused::new(Code::NotFound, detail).next("twinspan plan list")
        })
    }

    fn prove(&self, text: &api::PlanText) -> Result<Plan, Refused> {
        let file = text.file.as_deref().unwrap_or("the plan");
        let plan = match (&text.toml, &text.plan) {
            (Some(toml), None) => Plan::from_toml(file, toml),
            (None, Some(value)) => Plan::from_json(file, value.clone()),
            _ => {
                return Err(Refused::new(Code::Invalid, "say one of toml and plan"));
            }
        };
        plan.map_err(|error| Refused::new(Code::PlanBad, error.to_string()))
    }

    /// Proves a plan that lies nowhere yet, and that the steps which this gateway would do have actions
    /// here; those of other sites are looked for when it is run.
    ///
    /// # Errors
    /// [`Code::PlanBad`].
    pub(crate) async fn check_plan(&self, text: &api::PlanText) -> Result<api::Plan, Refused> {
        let plan = self.prove(text)?;
        let unknown = self.unknown_here(&plan, &plan.sites);
        if !unknown.is_empty() {
            return Err(bad(&unknown));
        }
        let remarks = self.check_with_plugins(&plan).await?;
        let file = text.file.clone().unwrap_or_default().into();
        let shown = show(&Found { name: plan.name.clone(), file, is_saved: false, plan: Ok(plan) });
        Ok(api::Plan { remarks, ..shown })
    }

    /// Steps that are done here and whose action nobody has here.
    fn unknown_here(&self, plan: &Plan, sites: &recovery::plan::Sites) -> Vec<Fault> {
        let mut faults = plan.unknown_actions(&self.runs.registry);
        faults.retain(|fault| {
            let is_here = |step: &&Step| {
                fault.key.contains(&format!("({})", step.id))
                    && step.site.is_none_or(|role| sites.of(role) == self.config.site.name)
            };
            plan.steps.iter().any(|step| is_here(&step))
        });
        faults
    }

    /// Saves a plan.
    ///
    /// # Errors
    /// [`Code::PlanBad`], [`Code::Exists`] when a file of the operator's has its name.
    pub(crate) async fn save_plan(&self, text: &api::PlanText) -> Result<api::Plan, Refused> {
        let remarks = self.check_plan(text).await?.remarks;
        let plan = self.prove(text)?;
        let name = plan.name.clone();
        let saved = self.on_shelf(move |shelf| shelf.save(&plan)).await?;
        saved.map_err(|why| Refused::new(Code::Exists, why))?;
        self.events.tell("plan", &name, "saved");
        Ok(api::Plan { remarks, ..self.show_plan(&name).await? })
    }

    /// Deletes a plan that was saved.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) async fn delete_plan(&self, name: &str) -> Result<(), Refused> {
        let wanted = name.to_owned();
        let deleted = self.on_shelf(move |shelf| shelf.delete(&wanted)).await?;
        deleted.map_err(|why| Refused::new(Code::NotFound, why))?;
        self.events.tell("plan", name, "deleted");
        Ok(())
    }

    pub(super) fn setting_of(plan: &Plan, request: &api::RunBegin) -> Result<Setting, Refused> {
        plan.setting(request.swap, &request.parameters, &request.facts)
            .map_err(|faults| bad(&faults))
    }

    /// Every step that is not left out can be described by whoever would do it.
    pub(super) async fn require_actions(
        self: &Arc<Self>,
        plan: &Plan,
        setting: &Setting,
    ) -> Result<(), Refused> {
        let unknown = self.unknown_here(plan, &setting.sites);
        if !unknown.is_empty() {
            return Err(bad(&unknown));
        }
        let world = Keeping::new(self, Uuid::nil(), 0);
        for step in &plan.steps {
            if step.when.as_ref().is_some_and(|when| !when.holds(&setting.facts)) {
                continue;
            }
            let site = step.site.map(|role| setting.sites.of(role));
            let (params, _) = setting.params_so_far(step, "");
            let place = site.unwrap_or(&self.config.site.name);
            let actions = world.actions_at(site, &step.action).ok_or_else(|| {
                let detail = format!("step {}: {place} is not joined with this site", step.id);
                Refused::new(Code::PeerUnknown, detail)
            })?;
            let (_, action) = recovery::split_action(&step.action).unwrap_or_default();
            actions.describe(action, &params).await.map_err(|error| {
                let code = Code::parse(&error.code).unwrap_or(Code::PlanBad);
                Refused::new(code, format!("step {} at {place}: {error}", step.id))
            })?;
        }
        Ok(())
    }

    /// Says what a run would do; nothing is changed.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::PlanBad`].
    pub(crate) async fn dry_run(
        self: &Arc<Self>,
        name: &str,
        request: &api::RunBegin,
        actor: &str,
    ) -> Result<api::DryRun, Refused> {
        let plan = self.plan_named(name).await?;
        let setting = Self::setting_of(&plan, request)?;
        let world: Arc<dyn World> = Arc::new(Keeping::new(self, Uuid::nil(), 0));
        let looked = dry_run(&plan, &setting, (actor, &world)).await;
        let can_run = looked.iter().all(|step| step.description.is_ok() || step.left_out.is_some());
        let here = &self.config.site.name;
        let steps = plan.steps.iter().zip(looked).map(|(step, looked)| {
            let (state, detail) = match (&looked.left_out, &looked.standing, &looked.description) {
                (Some(why), ..) => ("left_out", why.clone()),
                (None, _, Err(error)) | (None, Some(Err(error)), _) => {
                    ("unknown", error.to_string())
                }
                (None, None, Ok(_)) => ("later", "an earlier step decides".to_owned()),
                (None, Some(Ok(Standing::Ready)), _) => ("ready", String::new()),
                (None, Some(Ok(Standing::Done(report))), _) => ("done", report.summary.clone()),
                (None, Some(Ok(Standing::Blocked(why))), _) => ("blocked", why.clone()),
            };
            let said = looked.description.unwrap_or_default();
            api::DryRunStep {
                id: looked.id,
                title: if step.title.is_empty() { said.title } else { step.title.clone() },
                site: looked.site.unwrap_or_else(|| here.clone()),
                will_do: said.will_do,
                reversible: step.reversible && said.is_reversible,
                state: state.to_owned(),
                detail,
            }
        });
        Ok(api::DryRun {
            as_of: self.clock.rfc3339(),
            plan: plan.name.clone(),
            source: setting.sites.source.clone(),
            destination: setting.sites.destination.clone(),
            can_run,
            steps: steps.collect(),
        })
    }
}
