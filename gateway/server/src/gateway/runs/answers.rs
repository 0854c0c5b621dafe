//! What other gateways ask about runs.
//!
//! Invariant: records are kept, and actions done, only for a gateway that the run itself names, with the
//! highest term that is known here. A run is handed over by a record in the journal here, so that a gateway
//! that is killed as it answers does not go on with it. An action has the time that its step has there,
//! however long an answer may take: an asker that knows of it asks again.

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::Identity;
use recovery::run::{Event, Record, Run, Runner, Word};
use recovery::{ActionError, Actions, Context};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::{Gateway, no_run};
use crate::refusal::Refused;
use crate::runs::Place;
use crate::runs::calls::{Act, ActAnswer, ActCall, RunAnswer, RunQuestion, fitting};
use crate::runs::errands::Errand;

/// A run that is executed here stands still within this time: its calls are dropped.
const STILL_MAX: Duration = Duration::from_secs(8);
/// Of one call, whatever its step's own limit is: the longest that an action of a plugin may describe. What
/// takes longer answers that it is pending.
const ACT_MAX: Duration = Duration::from_secs(300);
/// Of a call whose asker does not ask again: shorter than it waits.
const AT_ONCE_MAX: Duration = Duration::from_secs(12);

fn is_named(run: &Run, peer: &Identity) -> bool {
    let peer = peer.gateway.uuid().to_string();
    run.runner.gateway == peer || run.keepers().any(|keeper| keeper.gateway == peer)
}

fn is_runner(run: &Run, peer: &Identity) -> bool {
    run.runner.gateway == peer.gateway.uuid().to_string()
}

fn stranger(peer: &Identity) -> Refused {
    Refused::new(Code::Forbidden, format!("{} takes no part in that run", peer.site))
}

impl Gateway {
    /// Answers a question about a run.
    ///
    /// # Errors
    /// Why it is not done.
    pub(in crate::gateway) async fn answer_of_run(
        self: &Arc<Self>,
        peer: &Identity,
        question: RunQuestion,
    ) -> Result<RunAnswer, Refused> {
        match question {
            RunQuestion::Lease { run, groups } => {
                self.check_leases_of_others(run, &groups).await?;
                Ok(RunAnswer::Kept { have: 0 })
            }
            RunQuestion::Keep { run, term, records } => {
                self.keep_for(peer, (run, term), records).await
            }
            RunQuestion::Yield { run, term, from, actor } => {
                self.yield_to(peer, (run, term, actor), from).await
            }
            RunQuestion::Look { run, from } => {
                if !is_named(&self.run_known(run)?, peer) {
                    return Err(stranger(peer));
                }
                Ok(self.records_from(run, from))
            }
            RunQuestion::Act(act) => self.act_for(peer, *act).await,
            RunQuestion::Note { run, step, created, removed } => {
                if !is_named(&self.run_known(run)?, peer) {
                    return Err(stranger(peer));
                }
                let word = Word::Note { step, created, removed };
                self.say_to_run(run, word, &format!("plugin at {}", peer.site)).await?;
                Ok(RunAnswer::Kept { have: 0 })
            }
        }
    }

    async fn keep_for(
        self: &Arc<Self>,
        peer: &Identity,
        (id, term): (Uuid, u64),
        records: Vec<Record>,
    ) -> Result<RunAnswer, Refused> {
        let known = {
            let mut all = self.runs.all();
            match all.get_mut(&id) {
                None => None,
                Some(known) if !is_named(&known.run, peer) => return Err(stranger(peer)),
                Some(known) if term < known.term => {
                    return Ok(RunAnswer::Superseded { term: known.term });
                }
                Some(known) => {
                    known.term = term;
                    Some((known.records.clone(), known.run.clone()))
                }
            }
        };
        let Some((ours, run)) = known else {
            return self.keep_new(peer, id, records).await;
        };
        if term > run.term {
            drop(self.stand_still(id).await?);
        }
        let have = u64::try_from(ours.len()).unwrap_or(u64::MAX);
        let differs = records.iter().any(|record| {
            let place = usize::try_from(record.number.saturating_sub(1)).unwrap_or(usize::MAX);
            ours.get(place).is_some_and(|our| our != record)
        });
        if differs {
            // In a term whose runner asks, what it says is so: only it writes records then. This gateway may
            // have written down that it hands the run over, and the asker went on without the answer.
            let is_its_own = term == run.term && is_runner(&run, peer);
            if term <= run.term && !is_its_own {
                let detail = "the journals of the run differ, in one term";
                return Err(Refused::new(Code::RunJournal, detail));
            }
            // What this gateway wrote alone was overtaken; it stays in a file of its own.
            tracing::warn!(run = %id, "set the journal of a run aside: it was taken over elsewhere");
            let runs = Arc::clone(&self.runs);
            let aside = self.tasks.spawn_blocking(move || runs.set_aside(id)).await;
            let aside = aside.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
            aside.map_err(|why| Refused::new(Code::RunJournal, why))?;
            return Ok(RunAnswer::Kept { have: 0 });
        }
        let fresh: Vec<Record> = records.into_iter().filter(|of| of.number > have).collect();
        if fresh.first().is_some_and(|first| first.number == have + 1) {
            let mut then = run;
            for record in &fresh {
                let applied = then.apply(record);
                applied.map_err(|error| Refused::new(Code::RunJournal, error.to_string()))?;
            }
            if then.runner.gateway != peer.gateway.uuid().to_string() {
                return Err(stranger(peer));
            }
            self.keep_more(id, fresh).await?;
        }
        Ok(RunAnswer::Kept { have: self.run_known(id)?.records })
    }

    async fn keep_new(
        &self,
        peer: &Identity,
        id: Uuid,
        records: Vec<Record>,
    ) -> Result<RunAnswer, Refused> {
        let Some(Event::Begun(begun)) = records.first().map(|first| &first.event) else {
            return Ok(RunAnswer::Kept { have: 0 });
        };
        let run = Run::replay(&records)
            .map_err(|error| Refused::new(Code::RunJournal, error.to_string()))?;
        if run.runner.gateway != peer.gateway.uuid().to_string() || begun.run != id.to_string() {
            return Err(stranger(peer));
        }
        // A lease is looked for and taken in one go, as by a run that begins here.
        let _one_at_a_time = self.runs.beginning.lock().await;
        if run.ended.is_none() {
            self.check_leases(id, &begun.groups)?;
        }
        self.keep_first(id, records).await?;
        Ok(RunAnswer::Kept { have: run.records })
    }

    /// Lets a run that is executed here stand still, if it is. Nobody executes it here while the turn that
    /// this returns is had.
    async fn stand_still(&self, id: Uuid) -> Result<OwnedMutexGuard<()>, Refused> {
        let turn = {
            let mut all = self.runs.all();
            let known = all.get_mut(&id).ok_or_else(|| no_run(id))?;
            // Nobody holds the other end of its words any more: it ends.
            known.place = Place::Elsewhere;
            Arc::clone(&known.turn)
        };
        let still = tokio::time::timeout(STILL_MAX, turn.lock_owned()).await;
        still.map_err(|_elapsed| {
            Refused::new(Code::RunState, "the run does not stand still yet; try again")
        })
    }

    async fn yield_to(
        &self,
        peer: &Identity,
        (id, term, actor): (Uuid, u64, Option<String>),
        from: u64,
    ) -> Result<RunAnswer, Refused> {
        let run = self.run_known(id)?;
        if !is_named(&run, peer) {
            return Err(stranger(peer));
        }
        if run.ended.is_some() || is_runner(&run, peer) {
            // It has it already, and the answer was lost, or there was more than one answer takes.
            return Ok(self.records_from(id, from));
        }
        if run.runner.gateway != self.as_runner().gateway {
            let detail = format!("{} executes it by now", run.runner.site);
            return Err(Refused::new(Code::RunElsewhere, detail));
        }
        {
            let mut all = self.runs.all();
            if let Some(known) = all.get_mut(&id) {
                if known.term > term || known.run.term >= term {
                    return Ok(RunAnswer::Superseded { term: known.term });
                }
                // From here on nothing is written here with the old term.
                known.term = term;
            }
        }
        let handed = self.hand_run_over(peer, (id, term, actor)).await;
        if let Some(known) = self.runs.all().get_mut(&id) {
            known.place = match &handed {
                Err(refused) if known.run.term < term => {
                    let (site, why) = (&peer.site, &refused.0.detail);
                    Place::Held(format!(
                        "it was not handed over to {site}: {why}; ask for it there again, or: twinspan run \
                         resume {id}"
                    ))
                }
                _ => Place::Elsewhere,
            };
        }
        handed?;
        Ok(self.records_from(id, from))
    }

    /// Writes down that another gateway goes on with a run, once it stands still here.
    async fn hand_run_over(
        &self,
        peer: &Identity,
        (id, term, actor): (Uuid, u64, Option<String>),
    ) -> Result<(), Refused> {
        let _turn = self.stand_still(id).await?;
        let run = self.run_known(id)?;
        if run.ended.is_some() {
            // Its last record was under way.
            return Ok(());
        }
        let gateway = peer.gateway.uuid().to_string();
        if run.runner.gateway == gateway && run.term >= term {
            return Ok(());
        }
        if run.term >= term {
            let detail = format!("{} took it over meanwhile", run.runner.site);
            return Err(Refused::new(Code::RunElsewhere, detail));
        }
        let runner = Runner { gateway, site: peer.site.clone() };
        let actor = actor.unwrap_or_else(|| peer.site.clone());
        let text = format!("handed over to {} for {actor}", runner.site);
        let event = Event::Taken { runner, actor };
        let taken = Record { term, ..run.record(event, self.clock.unix_ms()) };
        self.keep_more(id, vec![taken]).await?;
        self.events.tell("run", run.id(), text);
        Ok(())
    }

    /// The records of a run from this number on, as many as one answer takes.
    fn records_from(&self, id: Uuid, from: u64) -> RunAnswer {
        let all = self.runs.all();
        let records = all.get(&id).map_or(&[][..], |known| known.records.as_slice());
        let from = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
        let lacked = records.get(from..).unwrap_or_default();
        let told = fitting(lacked);
        RunAnswer::Yielded { records: told.to_vec(), more: told.len() < lacked.len() }
    }

    async fn act_for(self: &Arc<Self>, peer: &Identity, act: Act) -> Result<RunAnswer, Refused> {
        // A look may be had without a run; whatever can change anything may not.
        let looks =
            act.call == ActCall::Describe || (act.call == ActCall::Check && act.run.is_nil());
        let changes = !looks;
        if changes {
            let all = self.runs.all();
            let known = all.get(&act.run).ok_or_else(|| {
                Refused::new(Code::NotFound, "no copy of the run's journal is here yet")
            })?;
            if known.term > act.term {
                act.errand.into_iter().for_each(|errand| self.runs.errands.forget(errand));
                return Ok(RunAnswer::Superseded { term: known.term });
            }
            if !is_named(&known.run, peer) || known.run.ended.is_some() {
                return Err(stranger(peer));
            }
            if act.records.is_some_and(|needed| known.run.records < needed) {
                // If the asker is lost now, whoever goes on here must know that it was begun.
                let detail =
                    "the copy of the run's journal here does not say yet that this is called";
                return Err(Refused::new(Code::RunState, detail));
            }
        }
        let Some(actions) = self.runs.registry.provider_of(&act.action) else {
            let why = format!("{} has no action {}", self.config.site.name, act.action);
            let error = ActionError::now(Code::PlanBad.as_str(), why);
            return Ok(RunAnswer::Acted(Box::new(ActAnswer::Failed(error))));
        };
        let Some(id) = act.errand else {
            let answer = within(AT_ONCE_MAX, actions, act).await;
            return Ok(RunAnswer::Acted(Box::new(answer)));
        };
        let step = act.context.as_ref().map(|context| context.step.clone()).unwrap_or_default();
        let limit = act.context.as_ref().map_or(ACT_MAX, |of| of.deadline.min(ACT_MAX));
        let of = (act.run, step.as_str());
        let errand = || -> Errand { Box::pin(within(limit, actions, act)) };
        match self.runs.errands.take(id, of, errand) {
            Ok(Some(drive)) => {
                let stopping = self.stopping.clone();
                self.tasks.spawn(async move {
                    stopping.run_until_cancelled(drive).await;
                });
            }
            Ok(None) => {}
            Err(error) => return Ok(RunAnswer::Acted(Box::new(ActAnswer::Failed(error)))),
        }
        let answer = self.runs.errands.wait(id).await;
        Ok(answer.map_or(RunAnswer::Going, |answer| RunAnswer::Acted(Box::new(answer))))
    }
}

/// What an action says, within this time.
async fn within(limit: Duration, actions: Arc<dyn Actions>, act: Act) -> ActAnswer {
    let late = |_elapsed| {
        let why = format!("the action did not answer within {limit:?}");
        Err(ActionError::now("timeout", why))
    };
    let doing = tokio::time::timeout(limit, perform(&*actions, act, limit));
    doing.await.unwrap_or_else(late).unwrap_or_else(ActAnswer::Failed)
}

async fn perform(
    actions: &dyn Actions,
    act: Act,
    limit: Duration,
) -> Result<ActAnswer, ActionError> {
    let (_, action) = recovery::split_action(&act.action).unwrap_or(("", &act.action));
    let params = &act.params;
    if act.call == ActCall::Describe {
        return actions.describe(action, params).await.map(ActAnswer::Description);
    }
    let nobody = || ActionError::never(Code::Invalid.as_str(), "the call is for nobody");
    let context = act.context.ok_or_else(nobody)?;
    let context = Context { deadline: context.deadline.min(limit), ..context };
    let outcome = match &act.call {
        ActCall::Describe => return Err(nobody()),
        ActCall::Check => {
            return actions.check(action, &context, params).await.map(ActAnswer::Standing);
        }
        ActCall::Run => actions.run(action, &context, params).await,
        ActCall::Resume { token, answer } => {
            actions.resume(action, &context, params, token, answer.as_deref()).await
        }
        ActCall::Undo(report) => actions.undo(action, &context, params, report).await,
    };
    outcome.map(ActAnswer::Outcome)
}
