//! The actions of another site, for a run that runs here.
//!
//! Invariant: each call carries the run and its term, so that the other site refuses a run that was
//! taken over. A call that was not answered may have taken effect; the same key finds out. One that takes
//! longer than an answer may is asked about until it is over, within the time that its step has.

use std::sync::{Arc, Weak};
use std::time::Duration;

use recovery::{
    ActionError, Actions, Context, Description, Doing, Outcome, Report, Retry, Standing,
};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::{Act, ActAnswer, ActCall, RunAnswer, RunQuestion};
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

    fn call<'a, T: 'a>(
        &'a self,
        params: &'a Value,
        context: Option<&'a Context>,
        (call, take): (ActCall, fn(ActAnswer) -> Option<T>),
    ) -> Doing<'a, T> {
        Box::pin(async move {
            let stops = || ActionError::now("stopping", "the gateway stops");
            let gateway = self.gateway.upgrade().ok_or_else(stops)?;
            let act = Act {
                run: self.run,
                term: self.term,
                action: self.action.clone(),
                params: params.clone(),
                context: context.cloned(),
                call,
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
