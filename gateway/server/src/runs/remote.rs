//! The actions of another site, for a run that runs here.
//!
//! Invariant: each call carries the run and its term, so that the other site refuses a run that was
//! taken over. A call that was not answered may have taken effect; the same key finds out. One that takes
//! longer than an answer may is asked about until it is over, within the time that its step has. The other
//! site has the record that it is called before it is: it is told first, and does nothing without it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use recovery::{
    ActionError, Actions, Context, Description, Doing, Outcome, Report, Retry, Standing,
};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::{Act, ActAnswer, ActCall, RunAnswer, RunQuestion};
use super::world::{Keeping, Telling};
use crate::gateway::Gateway;
use crate::gateway::asks::Question;
use crate::refusal::Refused;

/// The other site ends a call by itself at its deadline; this is for one that says for ever that it goes on.
const LATE: Duration = Duration::from_secs(30);

/// One action at another site.
pub(crate) struct Remote {
    gateway: Weak<Gateway>,
    peer: Uuid,
    action: String,
    run: Uuid,
    term: u64,
}

impl Remote {
    /// That of a site, if it is joined; a run of nil changes nothing.
    pub(crate) fn at(
        gateway: &Arc<Gateway>,
        site: &str,
        action: &str,
        (run, term): (Uuid, u64),
    ) -> Option<Self> {
        let peer = gateway.book.read().peer(site)?.gateway;
        let gateway = Arc::downgrade(gateway);
        Some(Self { gateway, peer, action: action.to_owned(), run, term })
    }

    /// Lets the other site have the record of what is about to be called there, if it keeps a copy of the
    /// journal; how many records it has then at least.
    async fn tell_intent(&self, gateway: &Arc<Gateway>) -> Result<Option<u64>, ActionError> {
        let peer = self.peer.to_string();
        let (records, untold) = {
            let all = gateway.runs.all();
            let Some(known) = all.get(&self.run) else { return Ok(None) };
            let keeper = known.run.keepers().find(|keeper| keeper.gateway == peer);
            let Some(keeper) = keeper else { return Ok(None) };
            let is_untold = known.untold.contains_key(&keeper.site);
            (known.run.records, is_untold.then(|| keeper.clone()))
        };
        let Some(keeper) = untold else { return Ok(Some(records)) };
        // The records went on without it; it may be back.
        match Keeping::new(gateway, self.run, self.term).tell(gateway, &keeper).await {
            Telling::Told => {
                if let Some(known) = gateway.runs.all().get_mut(&self.run) {
                    known.untold.remove(&keeper.site);
                }
                Ok(Some(records))
            }
            Telling::Untold(why) | Telling::Leased(why) => {
                let what =
                    format!("{} cannot be told what is to be done there: {why}", keeper.site);
                Err(ActionError::now(api::Code::PeerUnreachable.as_str(), what))
            }
            Telling::Superseded(term) => {
                Err(other_answer(&format!("the run was taken over with term {term}")))
            }
        }
    }

    fn call<'a, T: 'a>(
        &'a self,
        params: &'a Value,
        context: Option<&'a Context>,
        (call, take): (ActCall, fn(ActAnswer) -> Option<T>),
    ) -> Doing<'a, T> {
        Box::pin(async move {
            let stops = || ActionError::now("stopping", "the gateway stops");
            let gateway = self.gateway.upgrade().ok_or_else(stops)?;
            let looks = call == ActCall::Describe || self.run.is_nil();
            let records = if looks { None } else { self.tell_intent(&gateway).await? };
            let act = Act {
                run: self.run,
                term: self.term,
                action: self.action.clone(),
                params: params.clone(),
                context: context.cloned(),
                call,
                records,
                errand: Some(Uuid::now_v7()),
            };
            let deadline = context.map_or(LATE, |context| context.deadline);
            let until = Instant::now().checked_add(deadline.saturating_add(LATE));
            let question = Question::Run(Box::new(RunQuestion::Act(Box::new(act))));
            let answer = loop {
                let answer = gateway.ask(self.peer, &question).await.map_err(unanswered)?.of_run();
                match answer {
                    Ok(RunAnswer::Going) if until.is_none_or(|until| Instant::now() < until) => {}
                    other => break other,
                }
            };
            match answer {
                Ok(RunAnswer::Acted(answer)) => match *answer {
                    ActAnswer::Failed(error) => Err(error),
                    other => take(other).ok_or_else(|| other_answer("another answer")),
                },
                Ok(RunAnswer::Superseded { term }) => {
                    Err(other_answer(&format!("the run was taken over with term {term}")))
                }
                Ok(RunAnswer::Going) => {
                    Err(ActionError::now("timeout", "the other site does not come to an end of it"))
                }
                _ => Err(other_answer("another answer")),
            }
        })
    }
}

fn unanswered(refused: Refused) -> ActionError {
    let api::Problem { code, detail, next, .. } = *refused.0;
    ActionError { code, detail, next, retry: Retry::Now }
}

fn other_answer(what: &str) -> ActionError {
    ActionError::never("peer", format!("the other site says: {what}"))
}

fn outcome(answer: ActAnswer) -> Option<Outcome> {
    if let ActAnswer::Outcome(outcome) = answer { Some(outcome) } else { None }
}

impl Actions for Remote {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn describe<'a>(&'a self, _action: &'a str, params: &'a Value) -> Doing<'a, Description> {
        let take = |answer| if let ActAnswer::Description(of) = answer { Some(of) } else { None };
        self.call(params, None, (ActCall::Describe, take))
    }

    fn check<'a>(
        &'a self,
        _action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Standing> {
        let take = |answer| if let ActAnswer::Standing(of) = answer { Some(of) } else { None };
        self.call(params, Some(context), (ActCall::Check, take))
    }

    fn run<'a>(
        &'a self,
        _action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Outcome> {
        self.call(params, Some(context), (ActCall::Run, outcome))
    }

    fn resume<'a>(
        &'a self,
        _action: &'a str,
        context: &'a Context,
        params: &'a Value,
        token: &'a Value,
        answer: Option<&'a str>,
    ) -> Doing<'a, Outcome> {
        let call = ActCall::Resume { token: token.clone(), answer: answer.map(str::to_owned) };
        self.call(params, Some(context), (call, outcome))
    }

    fn undo<'a>(
        &'a self,
        _action: &'a str,
        context: &'a Context,
        params: &'a Value,
        report: &'a Report,
    ) -> Doing<'a, Outcome> {
        self.call(params, Some(context), (ActCall::Undo(report.clone()), outcome))
    }
}
