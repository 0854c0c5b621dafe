//! What runs of other sites let this gateway do, and what takes longer than one answer may.
//!
//! ```text
//!   Act(errand) ─▶ begun, or known ─┬─ over within a moment ─▶ Acted, and it is forgotten
//!        ▲                          └─ not yet ─▶ Going ─┐
//!        └────────────── the same Act again ─────────────┘
//! ```
//!
//! Invariant: of one step of a run one errand goes on at a time: the next one drops it, as a gateway does
//! that executes the run itself. What nobody asks about any more is dropped too.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recovery::ActionError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::calls::ActAnswer;

/// How long one question waits for the end: shorter than its asker waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// An asker that lives asks again at once; two of its questions may be lost.
const ABANDONED: Duration = Duration::from_secs(30);
/// Between two looks whether somebody still asks.
const LOOK: Duration = Duration::from_secs(1);
/// At once over all runs: a step of each of them, and more steps than any plan has at once.
const ERRANDS_MAX: usize = 256;

/// What is done, to its end.
pub(crate) type Errand = Pin<Box<dyn Future<Output = ActAnswer> + Send>>;
/// What drives one there.
pub(crate) type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One that was begun.
#[derive(Debug)]
struct Begun {
    /// The run, and the step of it.
    of: (Uuid, String),
    asked: Instant,
    answer: watch::Receiver<Option<ActAnswer>>,
    dropped: CancellationToken,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errands(Arc<Mutex<BTreeMap<Uuid, Begun>>>);

impl Errands {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Begun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an errand on, unless it goes on already; what is to be driven to its end then.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn take(
        &self,
        id: Uuid,
        of: (Uuid, &str),
        errand: impl FnOnce() -> Errand,
    ) -> Result<Option<Drive>, ActionError> {
        let (sender, answer) = watch::channel(None);
        let dropped = CancellationToken::new();
        {
            let mut all = self.all();
            if let Some(known) = all.get_mut(&id) {
                known.asked = Instant::now();
                return Ok(None);
            }
            all.retain(|_, known| {
                // A look that is for no run stands in nobody's way.
                let is_same = !of.0.is_nil() && known.of.0 == of.0 && known.of.1 == of.1;
                if is_same {
                    known.dropped.cancel();
                }
                // What is over and was never fetched is of no use any more.
                !is_same && known.asked.elapsed() < ABANDONED
            });
            if all.len() >= ERRANDS_MAX {
                let why = format!("{ERRANDS_MAX} calls of other sites' runs go on here already");
                return Err(ActionError::now("busy", why));
            }
            let (of, dropped) = ((of.0, of.1.to_owned()), dropped.clone());
            all.insert(id, Begun { of, asked: Instant::now(), answer, dropped });
        }
        let (errands, errand) = (self.clone(), errand());
        Ok(Some(Box::pin(async move {
            tokio::select! {
                answer = errand => {
                    sender.send_replace(Some(answer));
                }
                () = dropped.cancelled() => {}
                () = errands.abandoned(id) => errands.forget(id),
            }
        })))
    }

    /// Waits for its end, but not for ever; `None`: it goes on, and is to be asked about again.
    pub(crate) async fn wait(&self, id: Uuid) -> Option<ActAnswer> {
        let gone = || {
            let why = "the call was dropped: another one of the step came, or the gateway stops";
            Some(ActAnswer::Failed(ActionError::now("dropped", why)))
        };
        let answer = self.all().get(&id).map(|known| known.answer.clone());
        let Some(mut answer) = answer else { return gone() };
        let over = async {
            let over = answer.wait_for(Option::is_some).await;
            over.ok().and_then(|answer| answer.clone())
        };
        match tokio::time::timeout(WAIT_MAX, over).await {
            Err(_elapsed) => {
                if let Some(known) = self.all().get_mut(&id) {
                    known.asked = Instant::now();
                }
                None
            }
            Ok(over) => {
                self.forget(id);
                over.or_else(gone)
            }
        }
    }

    /// Drops one, if it goes on.
    pub(crate) fn forget(&self, id: Uuid) {
        if let Some(known) = self.all().remove(&id) {
            known.dropped.cancel();
        }
    }

    /// Returns when nobody has asked about it for a while.
    async fn abandoned(&self, id: Uuid) {
        let is_asked =
            || self.all().get(&id).is_some_and(|known| known.asked.elapsed() < ABANDONED);
        while is_asked() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use recovery::{Outcome, Report};

    use super::*;

    const RUN: Uuid = Uuid::from_u128(7);

    fn done(summary: &str) -> ActAnswer {
        ActAnswer::Outcome(Outcome::Done(Report::of(summary)))
    }

    fn endless() -> Errand {
        Box::pin(std::future::pending())
    }

    fn is_dropped(answer: Option<ActAnswer>) -> bool {
        matches!(answer, Some(ActAnswer::Failed(error)) if error.code == "dropped")
    }

    #[tokio::test(start_paused = true)]
    async fn an_errand_of_minutes_is_begun_once_and_asked_about_until_it_is_over() {
        let (errands, id) = (Errands::default(), Uuid::from_u128(1));
        let begun = Arc::new(AtomicU32::new(0));
        let errand = || -> Errand {
            let begun = Arc::clone(&begun);
            Box::pin(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(125)).await;
                done("after two minutes")
            })
        };
        let drive = errands.take(id, (RUN, "s"), errand).unwrap().unwrap();
        let ask = async {
            let mut questions = 1;
            loop {
                if let Some(answer) = errands.wait(id).await {
                    return (questions, answer);
                }
                questions += 1;
                assert!(errands.take(id, (RUN, "s"), errand).unwrap().is_none(), "it is known");
            }
        };
        let ((), (questions, answer)) = tokio::join!(drive, ask);
        assert_eq!(answer, done("after two minutes"));
        assert_eq!(questions, 13);
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert!(is_dropped(errands.wait(id).await), "it was fetched and is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn another_errand_of_the_same_step_drops_the_one_before_and_no_other() {
        let errands = Errands::default();
        let take = |id: u128, run, step| {
            errands.take(Uuid::from_u128(id), (run, step), endless).unwrap().unwrap()
        };
        let first = take(1, RUN, "s");
        let others =
            [take(2, RUN, "t"), take(3, Uuid::from_u128(8), "s"), take(4, Uuid::nil(), "s")];
        let again = [take(5, RUN, "s"), take(6, Uuid::nil(), "s")];
        first.await;
        assert!(is_dropped(errands.wait(Uuid::from_u128(1)).await));
        assert_eq!(
            errands.all().keys().map(|id| id.as_u128()).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6]
        );
        drop((others, again));
        // Whoever drives them has gone, as when the gateway stops.
        assert!(is_dropped(errands.wait(Uuid::from_u128(5)).await));
    }

    #[tokio::test(start_paused = true)]
    async fn an_errand_that_nobody_asks_about_any_more_is_dropped() {
        let (errands, id) = (Errands::default(), Uuid::from_u128(1));
        let began = Instant::now();
        errands.take(id, (RUN, "s"), endless).unwrap().unwrap().await;
        assert!(began.elapsed() >= ABANDONED);
        assert!(errands.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many_errands_and_one_that_was_never_fetched_makes_room() {
        let errands = Errands::default();
        let over = || -> Errand { Box::pin(std::future::ready(done("at once"))) };
        for id in 0..ERRANDS_MAX as u128 {
            errands.take(Uuid::from_u128(id), (Uuid::nil(), ""), over).unwrap().unwrap().await;
        }
        let more = Uuid::from_u128(1_000);
        let refused = errands.take(more, (Uuid::nil(), ""), over).err().unwrap();
        assert_eq!(refused.code, "busy");
        tokio::time::sleep(ABANDONED).await;
        errands.take(more, (Uuid::nil(), ""), over).unwrap().unwrap().await;
        assert_eq!(errands.wait(more).await, Some(done("at once")));
    }
}
