//! Runs that go on after a restart, or at another site.
//!
//! ```text
//!   restart ─▶ ask each keeper: is there a higher term? ─ no, from all ─▶ go on
//!                     │ cannot be asked ─▶ held; asked again; or a person's word: go on
//!                     └ yes ─▶ held for ever: it was taken over
//!   no room ─▶ its journal is written anew, tried again and again ─▶ as after a restart
//!   --here  ─▶ ask the runner to yield ─ it stands still, and writes Taken(term + 1) ─▶ its last records,
//!                     │                  with that one ─▶ kept here ─▶ go on
//!                     └ cannot be asked ─▶ refused, unless a person's word: it is stopped; Taken(term + 1)
//!                                          is written here
//! ```

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use recovery::run::{Event, Record, Run, Runner};
use uuid::Uuid;

use super::{ASK_PAUSE, Gateway, no_room};
use crate::gateway::asks::Question;
use crate::refusal::Refused;
use crate::runs::Place;
use crate::runs::calls::{RunAnswer, RunQuestion};
use crate::runs::world::{Keeping, Telling};

/// Between two tries to write a journal anew: a disk that is full stays so for a while.
const ROOM_PAUSE: Duration = Duration::from_secs(5);

/// What keepers say of a run that is to go on here.
enum Heard {
    Free,
    Unasked(String),
    Superseded(u64),
}

fn is_of(peer: &Runner) -> Uuid {
    Uuid::parse_str(&peer.gateway).unwrap_or_default()
}

impl Gateway {
    /// Goes on with a run whose journal could not be written, once it can be. One that is held for another
    /// reason by then is left alone.
    pub(super) async fn go_on_when_there_is_room(self: Arc<Self>, id: Uuid) {
        let stopping = self.stopping.clone();
        loop {
            if stopping.run_until_cancelled(tokio::time::sleep(ROOM_PAUSE)).await.is_none()
                || !self.is_held(id)
            {
                return;
            }
            match self.write_journal_anew(id).await {
                Ok(true) => break,
                Ok(false) => return,
                Err(why) => self.hold(id, no_room(id, why)),
            }
        }
        self.go_on_when_heard(id, "goes on: its journal can be written again").await;
    }

    /// Writes the journal of a run anew if its disk failed or was full; whether it did.
    async fn write_journal_anew(&self, id: Uuid) -> Result<bool, String> {
        let runs = Arc::clone(&self.runs);
        let written = self.tasks.spawn_blocking(move || runs.reopen(id)).await;
        written.map_err(|error| error.to_string())?
    }

    fn is_held(&self, id: Uuid) -> bool {
        let all = self.runs.all();
        all.get(&id).is_some_and(|known| matches!(known.place, Place::Held(_)))
    }

    /// Goes on with a run once nobody can have taken it over.
    pub(super) async fn go_on_when_heard(self: Arc<Self>, id: Uuid, word: &'static str) {
        let stopping = self.stopping.clone();
        loop {
            let Ok(run) = self.run_known(id) else { return };
            if !self.is_held(id) {
                // A person's word came first.
                return;
            }
            match self.hear_keepers(id, &run).await {
                Heard::Free => {
                    self.events.tell("run", run.id(), word);
                    return self.execute_here(id);
                }
                Heard::Superseded(term) => {
                    self.hold(id, format!("it was taken over with term {term}"));
                    return;
                }
                Heard::Unasked(why) => self.hold(id, why),
            }
            if stopping.run_until_cancelled(tokio::time::sleep(ASK_PAUSE)).await.is_none() {
                return;
            }
        }
    }

    fn hold(&self, id: Uuid, why: String) {
        if let Some(known) = self.runs.all().get_mut(&id)
            && matches!(known.place, Place::Held(_))
        {
            known.place = Place::Held(why);
        }
    }

    /// Whether a keeper knows a higher term. Only those count that had a copy from the start: nobody
    /// else can have taken it over without asking here.
    async fn hear_keepers(self: &Arc<Self>, id: Uuid, run: &Run) -> Heard {
        let world = Keeping::new(self, id, run.term);
        let me = self.as_runner();
        let may_have = run.begun.keepers.iter().chain([&run.begun.runner]);
        for keeper in may_have.filter(|keeper| keeper.gateway != me.gateway) {
            match world.tell(self, keeper).await {
                Telling::Told => {}
                Telling::Superseded(term) => return Heard::Superseded(term),
                Telling::Untold(why) | Telling::Leased(why) => {
                    let site = &keeper.site;
                    return Heard::Unasked(format!(
                        "whether {site} took it over cannot be asked: {why}"
                    ));
                }
            }
        }
        Heard::Free
    }

    /// Lets a run go on here.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::RunState`], [`Code::RunElsewhere`], [`Code::RunUnasked`],
    /// [`Code::RunJournal`].
    pub(crate) async fn resume_run(
        self: &Arc<Self>,
        id: Uuid,
        request: api::RunResume,
        actor: &str,
    ) -> Result<api::Run, Refused> {
        let _one_at_a_time = self.runs.beginning.lock().await;
        let run = self.run_known(id)?;
        if !matches!(
            self.runs.all().get(&id).map(|known| known.place.clone()),
            Some(Place::Here(_))
        ) {
            // Who executes it may have changed, or it may be over, and nobody could tell.
            self.catch_up(id, &run).await;
        }
        let run = self.run_known(id)?;
        if run.ended.is_some() {
            return Err(Refused::new(Code::RunState, "the run has ended"));
        }
        let place = self.runs.all().get(&id).map(|known| known.place.clone());
        let is_mine = run.runner.gateway == self.as_runner().gateway;
        match place {
            Some(Place::Here(_)) => {
                return Err(Refused::new(Code::RunState, "it is executed here already"));
            }
            _ if is_mine => {
                let written = self.write_journal_anew(id).await;
                written.map_err(|why| Refused::new(Code::RunJournal, no_room(id, why)))?;
                self.resume_mine(id, &run, request).await?;
                if let Some(known) = self.runs.all().get_mut(&id) {
                    // Whoever asked for it with a higher term did not take it.
                    known.term = run.term;
                }
            }
            _ if !request.here => {
                let detail = format!("{} executes it", run.runner.site);
                return Err(Refused::new(Code::RunElsewhere, detail));
            }
            _ => self.take_over(id, run, (request.stopped, actor)).await?,
        }
        self.execute_here(id);
        self.show_run(id)
    }

    async fn resume_mine(
        self: &Arc<Self>,
        id: Uuid,
        run: &Run,
        request: api::RunResume,
    ) -> Result<(), Refused> {
        match self.hear_keepers(id, run).await {
            Heard::Free => Ok(()),
            Heard::Superseded(term) => {
                let detail = format!("it was taken over with term {term}");
                Err(Refused::new(Code::RunElsewhere, detail))
            }
            Heard::Unasked(_) if request.stopped => Ok(()),
            Heard::Unasked(why) => Err(Refused::new(Code::RunUnasked, why)),
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        id: Uuid,
        run: Run,
        (stopped, actor): (bool, &str),
    ) -> Result<(), Refused> {
        let heard = self.runs.all().get(&id).map_or(run.term, |known| known.term);
        let term = heard.max(run.term) + 1;
        let (me, from) = (self.as_runner(), run.runner.site.clone());
        let of = run.runner.gateway.clone();
        match self.fetch(id, (is_of(&run.runner), term), actor).await {
            Ok(()) => {}
            Err(refused) if refused.is(Code::PeerUnreachable) => {
                let had_all = run.begun.keepers.iter().any(|keeper| keeper.gateway == me.gateway)
                    || run.begun.runner.gateway == me.gateway;
                if !stopped || !had_all {
                    let site = &run.runner.site;
                    let detail = format!(
                        "{site}, which executes it, cannot be asked to stop: {}",
                        refused.0.detail
                    );
                    return Err(Refused::new(Code::RunUnasked, detail));
                }
            }
            Err(refused) => return Err(refused),
        }
        let run = self.run_known(id)?;
        if run.ended.is_some() {
            return Err(Refused::new(Code::RunState, "the run has ended"));
        }
        if run.term < term {
            // Whom it is taken from cannot be asked, or is an older gateway, which leaves this to us.
            let event = Event::Taken { runner: me, actor: actor.to_owned() };
            let taken = Record { term, ..run.record(event, self.clock.unix_ms()) };
            self.keep_more(id, vec![taken]).await?;
        } else if run.runner.gateway != me.gateway {
            let detail = format!("{} took it over meanwhile", run.runner.site);
            return Err(Refused::new(Code::RunElsewhere, detail));
        }
        // Told at once, not with the next record: the one that it was taken from may return.
        let taken = self.run_known(id)?;
        let world = Keeping::new(self, id, taken.term);
        for keeper in taken.keepers() {
            match world.tell(self, keeper).await {
                Telling::Superseded(term) => {
                    let detail = format!("it was taken over with term {term} meanwhile");
                    return Err(Refused::new(Code::RunElsewhere, detail));
                }
                // A person said that it is stopped: no step waits for it.
                Telling::Untold(why) if stopped && keeper.gateway == of => {
                    if let Some(known) = self.runs.all().get_mut(&id) {
                        known.untold.insert(keeper.site.clone(), why);
                    }
                }
                Telling::Told | Telling::Untold(_) | Telling::Leased(_) => {}
            }
        }
        self.events.tell("run", run.id(), format!("taken over from {from} by {actor}"));
        Ok(())
    }

    /// Lets the gateway that executes a run hand it over, and fetches the records that are lacked here.
    async fn fetch(
        &self,
        run: Uuid,
        (peer, term): (Uuid, u64),
        actor: &str,
    ) -> Result<(), Refused> {
        loop {
            let from = self.run_known(run)?.records + 1;
            let question = RunQuestion::Yield { run, term, from, actor: Some(actor.to_owned()) };
            let answer = self.ask(peer, &Question::Run(Box::new(question))).await?.of_run()?;
            let RunAnswer::Yielded { records, more } = answer else {
                let detail = "it was taken over by yet another gateway";
                return Err(Refused::new(Code::RunElsewhere, detail));
            };
            if !records.is_empty() {
                self.keep_more(run, records).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}
