//! Runs of plans at this gateway: those that run here, and copies of those that run elsewhere.
//!
//! ```text
//!   plans (files, or saved by a call) ─▶ Gateway::run_plan ─▶ execute ─▶ Keeping (the world of a run)
//!                                                                │           ├─ journal here, fsync
//!   people's words ─▶ Order ─────────────────────────────────────┘           ├─ copies at keepers: Keep
//!                                                                            └─ actions: core, plugins,
//!                                                                               or another site: Act
//! ```
//!
//! Invariants: a run is executed by at most one task here. A record is in the journal here, and at
//! each keeper that can be reached, before anything follows from it. Whoever learns of a higher term of
//! a run executes nothing of it any more. A journal whose disk failed or was full is written anew, with
//! all that was confirmed, before anything is appended to it.

pub(crate) mod calls;
pub(crate) mod core;
pub(crate) mod errands;
pub(crate) mod remote;
pub(crate) mod shelf;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use recovery::journal::{EXTENSION, FRESH_EXTENSION, HEADER_BYTES, Journal, JournalError};
use recovery::run::{Record, Run};
use recovery::{Order, Registry};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Where journals lie in the data directory.
const RUNS_DIR: &str = "runs";
/// Runs that ended are kept up to this many; then the oldest is forgotten.
const ENDED_MAX: usize = 256;

/// Whether a run goes on here.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// It runs here; this hears people's words.
    Here(mpsc::Sender<Order>),
    /// It is to run here and does not, and why.
    Held(String),
    /// It runs elsewhere, or ended.
    Elsewhere,
}

/// A run that is known here.
#[derive(Debug)]
pub(crate) struct Known {
    /// How it is.
    pub(crate) run: Run,
    /// All its records.
    pub(crate) records: Vec<Record>,
    /// Whether it goes on here.
    pub(crate) place: Place,
    /// The highest term that was heard of.
    pub(crate) term: u64,
    /// How far steps are, as their providers say.
    pub(crate) progress: BTreeMap<String, String>,
    /// Keepers that could not be told of everything, and why.
    pub(crate) untold: BTreeMap<String, String>,
    /// Had by whoever executes it here.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    journal: Arc<Mutex<Journal>>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Runs {
    /// Who provides which actions.
    pub(crate) registry: Registry,
    /// The plans.
    pub(crate) shelf: shelf::Shelf,
    /// A lease is looked for and taken, or a run taken over, by one after the other.
    pub(crate) beginning: tokio::sync::Mutex<()>,
    /// What other sites' runs let this gateway do.
    pub(crate) errands: errands::Errands,
    dir: PathBuf,
    all: Mutex<BTreeMap<Uuid, Known>>,
    /// Journals that cannot be read, and why.
    damaged: Mutex<BTreeMap<String, String>>,
}

impl Runs {
    /// Nothing is read yet.
    #[must_use]
    pub(crate) fn new(data_dir: &Path, plans: Option<PathBuf>) -> Self {
        Self {
            registry: Registry::default(),
            shelf: shelf::Shelf::new(plans, data_dir.join("plans")),
            beginning: tokio::sync::Mutex::default(),
            errands: errands::Errands::default(),
            dir: data_dir.join(RUNS_DIR),
            all: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    /// Everything that is known, for a moment.
    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Known>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Journals that cannot be read, and why.
    pub(crate) fn damaged(&self) -> BTreeMap<String, String> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the journals that are here. One that cannot be read is named and stays as it is: its
    /// groups are leased to nobody, and a person has to look.
    pub(crate) fn read(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|of| of == FRESH_EXTENSION) {
                // It was being written anew: the one that it was to replace is there.
                std::fs::remove_file(&path)?;
                continue;
            }
            if path.extension().is_none_or(|of| of != EXTENSION) {
                continue;
            }
            if let Err(why) = self.read_one(&path) {
                tracing::error!(file = %path.display(), why, "a run's journal cannot be read");
                let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
                damaged.insert(name.unwrap_or_default(), why);
            }
        }
        Ok(())
    }

    fn read_one(&self, path: &Path) -> Result<(), String> {
        if std::fs::metadata(path).is_ok_and(|of| of.len() < HEADER_BYTES as u64) {
            // Killed as it was made, before its header was durable: no record was ever written to it.
            return std::fs::remove_file(path).map_err(|error| error.to_string());
        }
        let (journal, contents) =
            Journal::open(path).map_err(|error| crate::refusal::chain_text(&error))?;
        if contents.records.is_empty() {
            // Nothing was ever said in it, so nobody knows of it.
            return std::fs::remove_file(path).map_err(|error| error.to_string());
        }
        let run = Run::replay(&contents.records).map_err(|error| error.to_string())?;
        self.put(Uuid::from_bytes(contents.run), run, contents.records, journal);
        Ok(())
    }

    fn put(&self, id: Uuid, run: Run, records: Vec<Record>, journal: Journal) {
        let known = Known {
            term: run.term,
            run,
            records,
            place: Place::Elsewhere,
            progress: BTreeMap::new(),
            untold: BTreeMap::new(),
            turn: Arc::default(),
            journal: Arc::new(Mutex::new(journal)),
        };
        self.all().insert(id, known);
    }

    /// Makes the journal of a run with its first records. It blocks.
    ///
    /// # Errors
    /// Why it is not on stable storage.
    pub(crate) fn create(&self, id: Uuid, records: Vec<Record>) -> Result<(), String> {
        let run = Run::replay(&records).map_err(|error| error.to_string())?;
        let words = |error: JournalError| crate::refusal::chain_text(&error);
        let mut journal =
            Journal::create(&self.dir, id.into_bytes(), &id.to_string()).map_err(words)?;
        journal.append(&records).map_err(|error| {
            // Whoever is told that it failed must not find it begun after a restart.
            let removed = std::fs::remove_file(journal.path());
            let stays = removed.err().map_or_else(String::new, |why| format!("; it stays: {why}"));
            format!("{}{stays}", words(error))
        })?;
        self.put(id, run, records, journal);
        self.forget_oldest();
        Ok(())
    }

    /// Appends records to a journal and lets them be so. It blocks.
    ///
    /// # Errors
    /// Why they are not on stable storage, or cannot be.
    pub(crate) fn append(&self, id: Uuid, records: &[Record]) -> Result<(), String> {
        let (journal, mut run) = {
            let all = self.all();
            let known = all.get(&id).ok_or("the run is not known")?;
            (Arc::clone(&known.journal), known.run.clone())
        };
        for record in records {
            run.apply(record).map_err(|error| error.to_string())?;
        }
        // Waited for by whoever appends to this run, and by nobody else.
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.is_latched() {
            self.write_anew(id, &mut journal)?;
        }
        journal.append(records).map_err(|error| crate::refusal::chain_text(&error))?;
        if let Some(known) = self.all().get_mut(&id) {
            known.term = known.term.max(run.term);
            known.run = run;
            known.records.extend_from_slice(records);
        }
        Ok(())
    }

    /// Writes a journal anew whose disk failed or was full. It blocks.
    ///
    /// # Errors
    /// Why it cannot be yet. `Ok(false)`: nothing was wrong with it.
    pub(crate) fn reopen(&self, id: Uuid) -> Result<bool, String> {
        let journal = self.all().get(&id).map(|known| Arc::clone(&known.journal));
        let journal = journal.ok_or("the run is not known")?;
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if !journal.is_latched() {
            return Ok(false);
        }
        self.write_anew(id, &mut journal).map(|()| true)
    }

    /// The journal is had by the caller: what is known has exactly its records meanwhile.
    fn write_anew(&self, id: Uuid, journal: &mut Journal) -> Result<(), String> {
        let records = self.all().get(&id).map(|known| known.records.clone());
        let records = records.ok_or("the run is not known")?;
        journal.reopen(&records).map_err(|error| crate::refusal::chain_text(&error))?;
        tracing::info!(run = %id, "the journal of a run was written anew");
        Ok(())
    }

    /// Sets a journal aside whose end was overtaken by another gateway's. It blocks.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn set_aside(&self, id: Uuid) -> Result<(), String> {
        let Some(known) = self.all().remove(&id) else { return Ok(()) };
        let journal = known.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let path = journal.path();
        let aside = path.with_extension(format!("superseded-{}", known.run.term));
        std::fs::rename(path, aside).map_err(|error| error.to_string())
    }

    fn forget_oldest(&self) {
        let mut all = self.all();
        let ended: Vec<Uuid> =
            all.iter().filter(|(_, of)| of.run.ended.is_some()).map(|(id, _)| *id).collect();
        // Identities of version 7 are in the order of their time.
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            let Some(known) = all.remove(id) else { continue };
            let journal = known.journal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = std::fs::remove_file(journal.path()) {
                tracing::warn!(run = %id, %error, "the journal of an old run stays");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
