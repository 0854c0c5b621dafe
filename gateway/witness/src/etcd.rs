//! A witness in etcd, asked over its JSON gateway by one thread.
//!
//! ```text
//!   shard ──question──▶ thread ──POST /v3/kv/txn, /v3/lease/…──▶ the endpoint that answered last,
//!         ◀──answer───                                            then the others
//! ```
//!
//! Invariant: a configuration is written only in a transaction that compares its revision. A
//! question that waited longer than the patience for one answer is answered as unreachable, so a
//! dead witness delays nobody for longer.

mod client;
mod text;

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use block::{Claim, GroupId, Keep, Sighting, Verdict, Witness, WitnessError, WitnessFuture};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::client::Client;
use crate::metrics::Metrics;

/// Where etcd is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// What it is called in metrics.
    pub name: String,
    /// Client URLs of its members.
    pub endpoints: Vec<String>,
    /// What every key begins with.
    pub prefix: String,
    /// How long one member may take to answer.
    pub timeout: Duration,
    /// Authorities of its certificate, PEM; for `https` endpoints.
    pub ca: Option<String>,
    /// The certificate and key that are shown to it, PEM.
    pub identity: Option<(String, String)>,
}

/// Why a witness cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// A certificate or key that cannot be read.
    #[error("the witness's {what} cannot be used: {why}")]
    Tls {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The system gives no thread.
    #[error("cannot start the witness's thread: {0}")]
    Thread(String),
}

type Question = Box<dyn FnOnce(&mut Client) + Send>;

/// A running way to etcd. Cheap to clone; the thread ends with the last one.
#[derive(Clone)]
pub struct Etcd {
    questions: mpsc::Sender<(Instant, Question)>,
}

// === impl Etcd ===

impl Etcd {
    /// Starts the thread. Nothing is asked yet.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub fn start(config: EtcdConfig) -> Result<Self, EtcdError> {
        let (questions, inbox) = mpsc::channel::<(Instant, Question)>();
        let metrics = Metrics::new(&config.name);
        let mut client = Client::new(config, metrics)?;
        std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || {
                while let Ok((since, question)) = inbox.recv() {
                    client.begin(since);
                    question(&mut client);
                }
            })
            .map_err(|error| EtcdError::Thread(error.to_string()))?;
        Ok(Self { questions })
    }

    /// The witness as one thread asks it.
    #[must_use]
    pub fn way(&self) -> Rc<dyn Witness> {
        Rc::new(self.clone())
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, WitnessError> + Send + 'static,
    ) -> WitnessFuture<T> {
        let (answer, waiting) = oneshot::channel();
        let asked = self.questions.send((
            Instant::now(),
            Box::new(move |client| {
                // Whoever asked may have gone.
                drop(answer.send(question(client)));
            }),
        ));
        Box::pin(async move {
            let ended = || WitnessError::Unreachable("its thread has ended".to_owned());
            asked.map_err(|_e| ended())?;
            waiting.await.map_err(|_e| ended())?
        })
    }
}

impl Witness for Etcd {
    fn now_ms(&self) -> u64 {
        // Unlike the monotonic clock, this one counts the sleep of a suspended machine.
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
    }

    fn look(&self, group: GroupId, keep: Option<Keep>) -> WitnessFuture<Sighting> {
        self.ask(move |client| client.look(group, keep))
    }

    fn swap(&self, group: GroupId, claim: Claim) -> WitnessFuture<Verdict> {
        self.ask(move |client| client.swap(group, &claim))
    }
}
