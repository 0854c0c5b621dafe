//! Runs of plans: begun, executed, spoken to.
//!
//! Invariant: a run begins only if no other run that is known here, or at a site that can be asked, has
//! one of its groups; the record that begins it is the lease. It goes on after a restart only when every
//! gateway that may have taken it over said that it has not, or a person says so.

mod answers;
mod following;
mod looking;
mod show;
mod takeover;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use recovery::run::{Begun, Ending, Event, Record, Run, Runner, Word};
use recovery::{Halt, Order, Plan, World, leases};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::Gateway;
use super::asks::Question;
use crate::refusal::Refused;
use crate::runs::Place;
use crate::runs::calls::RunQuestion;
use crate::runs::core::{CORE, Core};
use crate::runs::world::{Keeping, Telling};

/// People's words that wait to be heard.
const ORDERS_MAX: usize = 16;
/// Time for news of a run that has a group: shorter than a gateway waits that asks whether it is free.
const LEASE_NEWS_MAX: Duration = Duration::from_secs(5);
/// Between two questions to a gateway that may have taken a run over.
const ASK_PAUSE: Duration = Duration::from_secs(2);

/// The identity of a run.
///
/// # Errors
/// [`Code::NotFound`].
pub(crate) fn run_id(text: &str) -> Result<Uuid, Refused> {
    Uuid::parse_str(text).map_err(|_e| no_run(text))
}

fn no_run(name: impl std::fmt::Display) -> Refused {
    Refused::new(Code::NotFound, format!("there is no run {name} here")).next("twinspan run list")
}

/// Why a run is held whose journal cannot be written, and what is to be done.
fn no_room(id: Uuid, why: impl std::fmt::Display) -> String {
    format!(
        "{why}; make room on the disk of the data directory, or repair it: the run goes on by itself then, \
         or at once by: twinspan run resume {id}"
    )
}

/// A record in a few words, for those who follow events; `None` for what is of no interest.
pub(crate) fn words_of(event: &Event) -> Option<String> {
    Some(match event {
        Event::Begun(_) | Event::Pending { .. } => return None,
        Event::Taken { runner, actor } => format!("taken over at {} by {actor}", runner.site),
        Event::Parted { sites, why } => {
            format!("goes on without a copy at {}: {why}", sites.join(", "))
        }
        Event::ApprovalAsked { step } => format!("{step}: waits for approval"),
        Event::Asked { step, prompt, .. } => format!("{step}: asks: {prompt}"),
        Event::Answered { step, answer, actor } => format!("{step}: {actor} answered {answer}"),
        Event::Intent { step, attempt: 1 } => format!("{step}: begun"),
        Event::Intent { step, attempt } => format!("{step}: attempt {attempt}"),
        Event::Done { step, report, .. } => format!("{step}: done: {}", report.summary),
        Event::Noted { step, created, removed } => {
            let names = |all: &[recovery::Created]| {
                let one = |of: &recovery::Created| format!("{} {}", of.kind, of.name);
                all.iter().map(one).collect::<Vec<_>>().join(", ")
            };
            match (created.as_slice(), removed.as_slice()) {
                (made, []) => format!("{step}: made {}", names(made)),
                ([], gone) => format!("{step}: removed {}", names(gone)),
                (made, gone) => format!("{step}: made {}, removed {}", names(made), names(gone)),
            }
        }
        Event::Skipped { step, why, .. } => format!("{step}: left out: {why}"),
        Event::Failed { step, error, .. } => format!("{step}: failed: {error}"),
        Event::Retried { step, actor } => format!("{step}: {actor} wants it tried again"),
        Event::TurnedBack { step } => format!("turns back: {step} failed"),
        Event::Aborted { actor, why } => format!("turns back: {actor}: {why}"),
        Event::Undone { step, summary, .. } => format!("{step}: taken back: {summary}"),
        Event::Ended { result, summary } => format!("{}: {summary}", result.word()),
    })
}

impl Gateway {
    /// This gateway, as journals name it.
    pub(super) fn as_runner(&self) -> Runner {
        Runner {
            gateway: self.identity.gateway.uuid().to_string(),
            site: self.config.site.name.clone(),
        }
    }

    /// Reads the journals and offers what the gateway itself can do. Before anybody is served.
    pub(crate) async fn read_runs(self: &Arc<Self>) {
        self.runs.registry.put(CORE, Arc::new(Core::new(self)));
        self.offer_plugins();
        let runs = Arc::clone(&self.runs);
        let read = self.tasks.spawn_blocking(move || runs.read()).await;
        if let Ok(Err(error)) = read {
            tracing::error!(%error, "the journals of runs cannot be read");
        }
    }

    /// Takes up the runs that the last stop cut short.
    pub(super) fn begin_runs(self: &Arc<Self>) {
        let me = self.as_runner().gateway;
        let mut mine = Vec::new();
        for (id, known) in self.runs.all().iter_mut() {
            if known.run.ended.is_none() && known.run.runner.gateway == me {
                known.place = Place::Held("whether it was taken over is being asked".to_owned());
                mine.push(*id);
            }
        }
        self.tasks.spawn(Arc::clone(self).follow_runs());
        for id in mine {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move {
                // Its next step may be a plugin's.
                gateway.load_plugins().await;
                gateway.go_on_when_heard(id, "goes on after a restart").await;
            });
        }
    }

    /// Begins to execute a run here.
    pub(super) fn execute_here(self: &Arc<Self>, id: Uuid) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (run, turn) = {
            let mut all = self.runs.all();
            let Some(known) = all.get_mut(&id) else { return };
            known.place = Place::Here(sender);
            (known.run.clone(), Arc::clone(&known.turn))
        };
        let term = run.term;
        let world: Arc<dyn World> = Arc::new(Keeping::new(self, id, term));
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            // Whoever executed it before has ended once this is had.
            let _turn = turn.lock().await;
            let stopping = gateway.stopping.clone();
            let ended = match gateway.is_had_here(id, term) {
                Ok(()) => {
                    let executing = recovery::execute(run, world, orders);
                    let ended = stopping.run_until_cancelled(executing).await;
                    ended.unwrap_or(Err(Halt::Stopping))
                }
                Err(halt) => Err(halt),
            };
            let is_of_disk = matches!(ended, Err(Halt::Journal(_)));
            gateway.executed(id, term, ended);
            if is_of_disk {
                gateway.tasks.spawn(Arc::clone(&gateway).go_on_when_there_is_room(id));
            }
        });
    }

    /// Whether a run is still this gateway's in this term: it may have been handed over while whoever was to
    /// execute it waited for its turn.
    fn is_had_here(&self, id: Uuid, term: u64) -> Result<(), Halt> {
        let me = self.as_runner().gateway;
        let all = self.runs.all();
        let known = all.get(&id).ok_or(Halt::Stopping)?;
        if known.term > term || known.run.term != term || known.run.runner.gateway != me {
            return Err(Halt::Superseded { term: known.term });
        }
        Ok(())
    }

    fn executed(&self, id: Uuid, term: u64, ended: Result<Ending, Halt>) {
        let mut all = self.runs.all();
        let Some(known) = all.get_mut(&id) else { return };
        if known.run.term > term {
            // Executed again meanwhile, with a higher term; or elsewhere, and nobody hears words here.
            if known.run.runner.gateway != self.as_runner().gateway {
                known.place = Place::Elsewhere;
            }
            return;
        }
        known.place = match ended {
            Ok(_) | Err(Halt::Stopping) if !matches!(known.place, Place::Here(_)) => return,
            Ok(_) | Err(Halt::Stopping) => Place::Elsewhere,
            Err(halt) => {
                self.events.tell("run", known.run.id(), format!("does not go on here: {halt}"));
                let is_of_disk = matches!(halt, Halt::Journal(_));
                Place::Held(if is_of_disk { no_room(id, &halt) } else { halt.to_string() })
            }
        };
    }

    /// A plan that can be run.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::PlanBad`].
    pub(super) async fn plan_named(&self, name: &str) -> Result<Plan, Refused> {
        let (runs, wanted) = (Arc::clone(&self.runs), name.to_owned());
        let found = self.tasks.spawn_blocking(move || runs.shelf.find(&wanted)).await;
        let found = found.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let found = found.ok_or_else(|| {
            let detail = format!("there is no plan {name:?} here");
            Refused::new(Code::NotFound, detail).next("twinspan plan list")
        })?;
        found.plan.map_err(|why| Refused::new(Code::PlanBad, why))
    }

    /// Begins a run of a plan.
    ///
    /// # Errors
    /// [`Code::PlanBad`], [`Code::RunLease`], [`Code::NotFound`], [`Code::PeerUnreachable`]; nothing was
    /// begun.
    pub(crate) async fn run_plan(
        self: &Arc<Self>,
        name: &str,
        request: &api::RunBegin,
        actor: &str,
    ) -> Result<api::Run, Refused> {
        let plan = self.plan_named(name).await?;
        let setting = Self::setting_of(&plan, request)?;
        self.require_actions(&plan, &setting).await?;
        let mut groups = Vec::new();
        for name in setting.groups(&plan) {
            let entry = self.find_group(&name)?;
            groups.push((entry.id.to_string(), entry.name));
        }
        let id = Uuid::now_v7();
        // Said before anybody else is asked.
        self.check_leases_of_others(id, &groups).await?;
        let (keepers, absent) = self.ask_leases(id, &groups, &setting.sites).await?;
        let begun = Begun {
            run: id.to_string(),
            plan: plan.raw.clone(),
            setting,
            groups,
            actor: actor.to_owned(),
            runner: self.as_runner(),
            keepers,
            absent,
        };
        let event = Event::Begun(Box::new(begun));
        let first = Record { number: 1, term: 1, at_ms: self.clock.unix_ms(), event };
        {
            // A lease is looked for and taken in one go. Others are told after it: they may be about to
            // tell of a run of theirs.
            let _one_at_a_time = self.runs.beginning.lock().await;
            if let Event::Begun(begun) = &first.event {
                self.check_leases(id, &begun.groups)?;
            }
            self.keep_first(id, vec![first]).await?;
        }
        self.tell_first(id).await?;
        self.events.tell("run", &format!("{id} ({name})"), format!("begun by {actor}"));
        self.execute_here(id);
        self.show_run(id)
    }

    pub(super) fn check_leases(
        &self,
        id: Uuid,
        groups: &[(String, String)],
    ) -> Result<(), Refused> {
        let all = self.runs.all();
        let others = all.values().map(|known| &known.run);
        leases::check(&id.to_string(), groups, others).map_err(|leased| {
            let next = format!("twinspan run show {}", leased.run);
            Refused::new(Code::RunLease, leased.to_string()).next(next)
        })
    }

    /// [`check_leases`](Self::check_leases), but a run that is executed elsewhere is asked after before it
    /// is held against anybody: it may have ended there a moment ago, and the word of it be under way.
    pub(super) async fn check_leases_of_others(
        &self,
        id: Uuid,
        groups: &[(String, String)],
    ) -> Result<(), Refused> {
        let Err(refused) = self.check_leases(id, groups) else { return Ok(()) };
        let elsewhere: Vec<(Uuid, Run)> = {
            let all = self.runs.all();
            let held = all.iter().filter(|(_, known)| {
                let is_here = matches!(known.place, Place::Here(_));
                !is_here && leases::held_by(&known.run, &id.to_string(), groups).is_some()
            });
            held.map(|(other, known)| (*other, known.run.clone())).collect()
        };
        let asking = elsewhere.iter().map(|(other, run)| self.catch_up(*other, run));
        let asked = tokio::time::timeout(LEASE_NEWS_MAX, futures_util::future::join_all(asking));
        if elsewhere.is_empty() || asked.await.is_err() {
            return Err(refused);
        }
        self.check_leases(id, groups)
    }

    /// Asks every gateway that takes part whether the groups are free there; who answered, and who did
    /// not.
    async fn ask_leases(
        &self,
        run: Uuid,
        groups: &[(String, String)],
        sites: &recovery::plan::Sites,
    ) -> Result<(Vec<Runner>, Vec<Runner>), Refused> {
        let mut others: BTreeMap<Uuid, String> = BTreeMap::new();
        for site in [&sites.source, &sites.destination] {
            if let Some(peer) = self.book.read().peer(site) {
                others.insert(peer.gateway, peer.site.clone());
            }
        }
        for (id, _) in groups {
            let group = block::GroupId::from_uuid(Uuid::parse_str(id).unwrap_or_default());
            let status = self.status_of(group).await?;
            let legs = status.legs.iter().map(|leg| (leg.gateway.uuid(), leg.site.clone()));
            let upstream = status.upstream.iter().map(|of| (of.gateway.uuid(), of.site.clone()));
            others.extend(legs.chain(upstream));
        }
        let asks = others.keys().map(|peer| {
            let groups = groups.to_vec();
            let question = Question::Run(Box::new(RunQuestion::Lease { run, groups }));
            async move { self.ask(*peer, &question).await }
        });
        let answers = futures_util::future::join_all(asks).await;
        let (mut keepers, mut absent) = (Vec::new(), Vec::new());
        for ((gateway, site), answer) in others.into_iter().zip(answers) {
            let runner = Runner { gateway: gateway.to_string(), site };
            match answer {
                Ok(_) => keepers.push(runner),
                Err(refused) if refused.is(Code::RunLease) => return Err(refused),
                Err(refused) => {
                    let why = refused.0.detail;
                    tracing::warn!(site = runner.site, why, "keeps no copy of a run's journal");
                    absent.push(runner);
                }
            }
        }
        Ok((keepers, absent))
    }

    pub(super) async fn keep_first(&self, id: Uuid, records: Vec<Record>) -> Result<(), Refused> {
        let runs = Arc::clone(&self.runs);
        let kept = self.tasks.spawn_blocking(move || runs.create(id, records)).await;
        let kept = kept.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        kept.map_err(|why| Refused::new(Code::RunJournal, why))
    }

    pub(super) async fn keep_more(&self, id: Uuid, records: Vec<Record>) -> Result<(), Refused> {
        let runs = Arc::clone(&self.runs);
        let kept = self.tasks.spawn_blocking(move || runs.append(id, &records)).await;
        let kept = kept.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        kept.map_err(|why| Refused::new(Code::RunJournal, why))
    }

    /// Tells the keepers of a run that begins. One whose groups were leased meanwhile ends it.
    async fn tell_first(self: &Arc<Self>, id: Uuid) -> Result<(), Refused> {
        let world = Keeping::new(self, id, 1);
        let run = self.run_known(id)?;
        for keeper in &run.begun.keepers {
            let Telling::Leased(why) = world.tell(self, keeper).await else { continue };
            let event = Event::Ended { result: Ending::Refused, summary: why.clone() };
            self.keep_more(id, vec![run.record(event, self.clock.unix_ms())]).await?;
            return Err(Refused::new(Code::RunLease, why));
        }
        Ok(())
    }

    pub(super) fn run_known(&self, id: Uuid) -> Result<Run, Refused> {
        self.runs.all().get(&id).map(|known| known.run.clone()).ok_or_else(|| no_run(id))
    }

    /// Records that a step made or removed something, wherever its run is executed.
    ///
    /// # Errors
    /// Those of [`say_to_run`](Self::say_to_run) here or there, [`Code::PeerUnreachable`]; it is not recorded.
    pub(crate) async fn note_in_run(
        &self,
        id: Uuid,
        step: String,
        (created, removed): (Vec<recovery::Created>, Vec<recovery::Created>),
    ) -> Result<(), Refused> {
        let runner = self.run_known(id)?.runner;
        if runner.gateway == self.as_runner().gateway {
            let word = Word::Note { step, created, removed };
            return self.say_to_run(id, word, "plugin").await.map(drop);
        }
        let there = Uuid::parse_str(&runner.gateway).map_err(|_none| no_run(id))?;
        let question = RunQuestion::Note { run: id, step, created, removed };
        self.ask(there, &Question::Run(Box::new(question))).await?.of_run().map(drop)
    }

    /// Says a word to a run that is executed here.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::RunElsewhere`], [`Code::RunState`].
    pub(crate) async fn say_to_run(
        &self,
        id: Uuid,
        word: Word,
        actor: &str,
    ) -> Result<api::Run, Refused> {
        let run = self.run_known(id)?;
        if let Some((ending, ..)) = &run.ended {
            let detail = format!("the run has ended: {}", ending.word());
            return Err(Refused::new(Code::RunState, detail));
        }
        let place = self.runs.all().get(&id).map(|known| known.place.clone());
        let orders = match place {
            Some(Place::Here(orders)) => orders,
            Some(Place::Held(why)) => {
                let next = format!("twinspan run resume {id}");
                return Err(Refused::new(Code::RunState, format!("it is held: {why}")).next(next));
            }
            _ => {
                let detail =
                    format!("{} executes it, not {}", run.runner.site, self.config.site.name);
                return Err(Refused::new(Code::RunElsewhere, detail));
            }
        };
        let (told, tell) = oneshot::channel();
        let order = Order { word, actor: actor.to_owned(), told };
        let stopped = || Refused::new(Code::RunState, "the run does not go on here any more");
        orders.send(order).await.map_err(|_e| stopped())?;
        let heard = tell.await.map_err(|_e| stopped())?;
        heard.map_err(|error| Refused::new(Code::RunState, error.to_string()))?;
        self.show_run(id)
    }
}

#[cfg(test)]
mod tests;
