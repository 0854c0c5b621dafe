//! What a run stands in at this gateway: where its records are kept, and who does its steps.
//!
//! Invariant: [`Keeping::keep`] returns only after the record is on stable storage here and at each
//! keeper that can be reached. One that cannot be is tried again for a moment; then it is written into the
//! journal that the run goes on without it, before anything follows from the record, and it is shown. It is
//! asked again after a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use api::Code;
use recovery::executor::{Waiting, World};
use recovery::run::{Event, Record, Run, Runner};
use recovery::{Actions, Halt};
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::{RunAnswer, RunQuestion, fitting};
use super::remote::Remote;
use crate::gateway::Gateway;
use crate::gateway::asks::Question;
use crate::metrics::runs as counters;

/// A keeper that could not be reached is left alone so long: each record would wait for it.
const AWAY: Duration = Duration::from_secs(5);

/// How long the run waits for a keeper that had everything and cannot be reached: a link that is dialled
/// anew, or a gateway that is restarted, is back by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries of it.
const PATIENCE_PAUSE: Duration = Duration::from_millis(500);

/// Answers after which a keeper has no more than before: it may have set a journal aside, once.
const IN_VAIN_MAX: u32 = 3;

/// A keeper, as the run that runs here knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Records that it has.
    records: u64,
    /// Until when it is not asked.
    away_until: Option<Instant>,
}

/// The world of one run that runs here.
pub(crate) struct Keeping {
    gateway: Weak<Gateway>,
    id: Uuid,
    term: u64,
    told: Mutex<BTreeMap<Uuid, Told>>,
}

/// What came of telling a keeper.
pub(crate) enum Telling {
    /// It has everything.
    Told,
    /// It cannot be reached, or refused; why.
    Untold(String),
    /// Another run has one of the groups there.
    Leased(String),
    /// It knows a higher term.
    Superseded(u64),
}

impl Keeping {
    pub(crate) fn new(gateway: &Arc<Gateway>, id: Uuid, term: u64) -> Self {
        Self { gateway: Arc::downgrade(gateway), id, term, told: Mutex::default() }
    }

    fn told(&self, keeper: Uuid) -> Told {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&keeper).copied().unwrap_or_default()
    }

    fn note(&self, keeper: Uuid, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        change(told.entry(keeper).or_default());
    }

    /// Tells one keeper everything that it lacks.
    pub(crate) async fn tell(&self, gateway: &Arc<Gateway>, keeper: &Runner) -> Telling {
        let Ok(peer) = Uuid::parse_str(&keeper.gateway) else {
            return Telling::Untold("it has no identity".to_owned());
        };
        let told = self.told(peer);
        if told.away_until.is_some_and(|until| until > Instant::now()) {
            return Telling::Untold("it could not be reached a moment ago".to_owned());
        }
        let telling = self.tell_all(gateway, peer, told.records).await;
        self.note(peer, |told| match &telling {
            Telling::Untold(_) | Telling::Leased(_) => {
                told.away_until = Some(Instant::now() + AWAY)
            }
            Telling::Told | Telling::Superseded(_) => told.away_until = None,
        });
        telling
    }

    async fn tell_all(&self, gateway: &Arc<Gateway>, peer: Uuid, from: u64) -> Telling {
        let mut have = usize::try_from(from).unwrap_or(usize::MAX);
        let mut in_vain = 0;
        loop {
            let records = {
                let all = gateway.runs.all();
                let Some(known) = all.get(&self.id) else {
                    return Telling::Untold("the run is not known any more".to_owned());
                };
                fitting(known.records.get(have..).unwrap_or_default()).to_vec()
            };
            if records.is_empty() {
                return Telling::Told;
            }
            let question = RunQuestion::Keep { run: self.id, term: self.term, records };
            let answer = match gateway.ask(peer, &Question::Run(Box::new(question))).await {
                Err(refused) if refused.is(Code::RunLease) => {
                    return Telling::Leased(refused.0.detail);
                }
                Err(refused) => return Telling::Untold(refused.0.detail),
                Ok(answer) => answer.of_run(),
            };
            match answer {
                Ok(RunAnswer::Superseded { term }) => return Telling::Superseded(term),
                Ok(RunAnswer::Kept { have: now }) => {
                    self.note(peer, |told| told.records = now);
                    let now = usize::try_from(now).unwrap_or(usize::MAX);
                    in_vain = if now > have { 0 } else { in_vain + 1 };
                    have = now;
                }
                _ => return Telling::Untold("it gave another answer".to_owned()),
            }
            if in_vain >= IN_VAIN_MAX {
                return Telling::Untold("it does not take the records".to_owned());
            }
        }
    }

    /// Tells every keeper at once. One that had everything and cannot be reached is tried again for a moment,
    /// so that a link that flaps costs no copy; those that are lost for the run are named.
    async fn tell_everybody(
        &self,
        gateway: &Arc<Gateway>,
        run: &Run,
    ) -> Result<BTreeMap<String, String>, Halt> {
        let until = Instant::now() + PATIENCE;
        loop {
            let untold = self.tell_once(gateway, run).await?;
            let lost: BTreeMap<String, String> = {
                let all = gateway.runs.all();
                let known = all.get(&self.id).ok_or(Halt::Stopping)?;
                if known.term > self.term {
                    return Err(Halt::Superseded { term: known.term });
                }
                let is_out = |site: &String| {
                    known.untold.contains_key(site)
                        || run.begun.absent.iter().any(|absent| absent.site == *site)
                };
                untold.clone().into_iter().filter(|(site, _)| !is_out(site)).collect()
            };
            if lost.is_empty() || Instant::now() >= until {
                if let Some(known) = gateway.runs.all().get_mut(&self.id) {
                    known.untold = untold;
                }
                return Ok(lost);
            }
            tokio::time::sleep(PATIENCE_PAUSE).await;
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.values_mut().for_each(|of| of.away_until = None);
        }
    }

    /// Tells every keeper at once; the sites that do not have everything then, and why.
    async fn tell_once(
        &self,
        gateway: &Arc<Gateway>,
        run: &Run,
    ) -> Result<BTreeMap<String, String>, Halt> {
        let keepers: Vec<Runner> = run.keepers().cloned().collect();
        let tellings = keepers.iter().map(|keeper| self.tell(gateway, keeper));
        let tellings = futures_util::future::join_all(tellings).await;
        let mut untold = BTreeMap::new();
        for (keeper, telling) in keepers.iter().zip(tellings) {
            match telling {
                Telling::Told => {}
                Telling::Untold(why) | Telling::Leased(why) => {
                    untold.insert(keeper.site.clone(), why);
                }
                Telling::Superseded(term) => {
                    if let Some(known) = gateway.runs.all().get_mut(&self.id) {
                        known.term = known.term.max(term);
                    }
                    return Err(Halt::Superseded { term });
                }
            }
        }
        Ok(untold)
    }
}

impl World for Keeping {
    fn keep<'a>(
        &'a self,
        run: &'a Run,
        record: &'a Record,
    ) -> Waiting<'a, Result<Option<Event>, Halt>> {
        Box::pin(async move {
            let gateway = self.gateway.upgrade().ok_or(Halt::Stopping)?;
            let heard = gateway.runs.all().get(&self.id).map_or(0, |known| known.term);
            if heard > self.term {
                return Err(Halt::Superseded { term: heard });
            }
            let (runs, id, records) = (Arc::clone(&gateway.runs), self.id, vec![record.clone()]);
            let kept = gateway.tasks.spawn_blocking(move || runs.append(id, &records)).await;
            kept.map_err(|error| Halt::Journal(error.to_string()))?.map_err(Halt::Journal)?;
            let lost = self.tell_everybody(&gateway, run).await?;
            // After its end nothing follows, and a journal that is nearly full has other uses.
            let is_over = matches!(record.event, Event::Ended { .. });
            if lost.is_empty() || is_over || !run.is_wide() {
                return Ok(None);
            }
            let why: Vec<&str> = lost.values().map(String::as_str).collect();
            let why = why.join("; ");
            Ok(Some(Event::Parted { sites: lost.into_keys().collect(), why }))
        })
    }

    fn actions_at(&self, site: Option<&str>, action: &str) -> Option<Arc<dyn Actions>> {
        let gateway = self.gateway.upgrade()?;
        match site {
            Some(site) if site != gateway.config.site.name => {
                let remote = Remote::at(&gateway, site, action, (self.id, self.term))?;
                Some(Arc::new(remote))
            }
            _ => gateway.runs.registry.provider_of(action),
        }
    }

    fn now_ms(&self) -> u64 {
        self.gateway.upgrade().map_or(0, |gateway| gateway.clock.unix_ms())
    }

    fn see(&self, run: &Run, event: &Event) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        if let Some(text) = crate::gateway::runs::words_of(event) {
            let subject = format!("{} ({})", run.id(), run.plan.name);
            gateway.events.tell("run", &subject, text);
        }
        counters::record(run, event);
        if let Some(step) = event.step()
            && let Some(known) = gateway.runs.all().get_mut(&self.id)
        {
            known.progress.remove(step);
        }
    }

    fn progress(&self, _run: &Run, step: &str, progress: &str) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        if let Some(known) = gateway.runs.all().get_mut(&self.id) {
            known.progress.insert(step.to_owned(), progress.to_owned());
        }
    }
}
