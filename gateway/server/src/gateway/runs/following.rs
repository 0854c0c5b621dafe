//! Copies of journals that are behind: a gateway that was away asks what it missed.
//!
//! Invariant: a run that ended anywhere ends here, so that its groups are let go. What this gateway wrote
//! alone, and another one's term overtook, is set aside in a file and not lost.

use std::sync::Arc;

use api::Code;
use recovery::run::{Record, Run};
use uuid::Uuid;

use super::{ASK_PAUSE, Gateway};
use crate::gateway::asks::Question;
use crate::refusal::Refused;
use crate::runs::Place;
use crate::runs::calls::{RunAnswer, RunQuestion};

/// Looks between two questions about a run that somebody else executes: its runner tells by itself what
/// happens, and this finds what it could not tell.
const LOOKS: u32 = 5;

impl Gateway {
    /// Asks for what was missed of runs that have not ended here, until the gateway stops.
    pub(super) async fn follow_runs(self: Arc<Self>) {
        let stopping = self.stopping.clone();
        let pause = ASK_PAUSE * LOOKS;
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let behind: Vec<(Uuid, Run)> = {
                let all = self.runs.all();
                let not_here = all.iter().filter(|(_, known)| {
                    known.run.ended.is_none() && !matches!(known.place, Place::Here(_))
                });
                not_here.map(|(id, known)| (*id, known.run.clone())).collect()
            };
            for (id, run) in behind {
                self.catch_up(id, &run).await;
            }
        }
    }

    pub(super) async fn catch_up(&self, id: Uuid, run: &Run) {
        let me = self.as_runner().gateway;
        let others = run.keepers().chain([&run.runner]).filter(|of| of.gateway != me);
        for other in others {
            let Ok(peer) = Uuid::parse_str(&other.gateway) else { continue };
            if let Err(refused) = self.pull(id, peer).await {
                let why = refused.0.detail;
                tracing::debug!(run = %id, site = other.site, why, "learned nothing of a run");
            }
        }
    }

    /// Takes what another gateway knows of a run beyond what is known here.
    async fn pull(&self, id: Uuid, peer: Uuid) -> Result<(), Refused> {
        let ours = self.run_known(id)?;
        let all = self.records_of(id, peer).await?;
        let theirs =
            Run::replay(&all).map_err(|error| Refused::new(Code::RunJournal, error.to_string()))?;
        if theirs.id() != ours.id() || theirs.term < ours.term {
            return Ok(());
        }
        let (differs, lacked) = {
            let known = self.runs.all();
            // What was told meanwhile is in ours, too.
            let ours = known.get(&id).map_or(&[][..], |known| known.records.as_slice());
            let differs = ours.iter().zip(&all).any(|(our, their)| our != their);
            (differs, all.get(ours.len()..).unwrap_or_default().to_vec())
        };
        // In one term only its runner writes records: what it says is so.
        let is_its_own = theirs.term == ours.term && theirs.runner.gateway == peer.to_string();
        if differs && (theirs.term > ours.term || is_its_own) {
            tracing::warn!(run = %id, "set the journal of a run aside: it was taken over elsewhere");
            let runs = Arc::clone(&self.runs);
            let aside = self.tasks.spawn_blocking(move || runs.set_aside(id)).await;
            let aside = aside.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
            aside.map_err(|why| Refused::new(Code::RunJournal, why))?;
            self.keep_first(id, all).await?;
        } else if !differs && !lacked.is_empty() {
            self.keep_more(id, lacked).await?;
        } else {
            return Ok(());
        }
        self.place_anew(id);
        Ok(())
    }

    /// Where a run goes on of which more was learned from others.
    fn place_anew(&self, id: Uuid) {
        let me = self.as_runner().gateway;
        let mut all = self.runs.all();
        let Some(known) = all.get_mut(&id) else { return };
        if known.run.runner.gateway != me || known.run.ended.is_some() {
            known.place = Place::Elsewhere;
        } else if matches!(known.place, Place::Elsewhere) {
            // It was asked for here, and the answer was lost.
            let why = "it was handed over to this site, which did not hear of it then; let it go on by: \
                       twinspan run resume";
            known.place = Place::Held(format!("{why} {id}"));
        }
    }

    async fn records_of(&self, run: Uuid, peer: Uuid) -> Result<Vec<Record>, Refused> {
        let mut all: Vec<Record> = Vec::new();
        loop {
            let from = all.last().map_or(1, |last| last.number + 1);
            let question = RunQuestion::Look { run, from };
            let answer = self.ask(peer, &Question::Run(Box::new(question))).await?.of_run()?;
            let RunAnswer::Yielded { records, more } = answer else { return Ok(all) };
            let is_new = !records.is_empty();
            all.extend(records);
            if !more || !is_new {
                return Ok(all);
            }
        }
    }
}
