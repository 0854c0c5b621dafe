//! Who does what would make a shard wait: cold reads, syncs, checkpoints, large writes.
//!
//! Invariant: a job runs exactly once. [`Executor::Inline`] runs it before it returns, so that a
//! simulation needs no threads; [`Executor::Threads`] runs it on one of a fixed number of threads.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// What kind of waiting a job does. Reads must not queue behind syncs, which take longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// A host waits for data that is not in memory.
    Read,
    /// Syncs, checkpoints, small records.
    Sync,
    /// Large writes, which cost the processor's time more than the disk's.
    Write,
}

/// Writers: one keeps up with what a shard takes in, and another one with the next shard.
const WRITERS: usize = 2;

/// Runs jobs.
#[derive(Clone, Debug)]
pub enum Executor {
    /// At once, on the caller's thread.
    Inline,
    /// On threads of its own.
    Threads(Arc<Threads>),
}

/// Threads for all lanes. They end when the last clone is dropped.
pub struct Threads {
    read: Lanes,
    sync: Lanes,
    write: Lanes,
}

struct Lanes {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
}

// === impl Executor ===

impl Executor {
    /// Starts `readers` threads for cold reads, `syncers` for what waits for a disk, and two for
    /// large writes.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn threads(readers: usize, syncers: usize) -> std::io::Result<Self> {
        Ok(Self::Threads(Arc::new(Threads {
            read: Lanes::start("store-read", readers.max(1))?,
            sync: Lanes::start("store-sync", syncers.max(1))?,
            write: Lanes::start("store-write", WRITERS)?,
        })))
    }

    pub(crate) fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        match self {
            Self::Inline => job(),
            Self::Threads(threads) => match lane {
                Lane::Read => threads.read.push(Box::new(job)),
                Lane::Sync => threads.sync.push(Box::new(job)),
                Lane::Write => threads.write.push(Box::new(job)),
            },
        }
    }
}

// === impl Threads ===

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("read", &self.read.threads.len())
            .field("sync", &self.sync.threads.len())
            .field("write", &self.write.threads.len())
            .finish()
    }
}

// === impl Lanes ===

impl Lanes {
    fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut lanes = Self { queue, threads: Vec::with_capacity(count) };
        for index in 0..count {
            let queue = Arc::clone(&lanes.queue);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || queue.work())?;
            lanes.threads.push(thread);
        }
        Ok(lanes)
    }

    fn push(&self, job: Job) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).jobs.push_back(job);
        self.queue.ready.notify_one();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.queue.ready.notify_all();
        for thread in self.threads.drain(..) {
            // The last reference may be dropped by a job, on one of these threads.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a storage thread had panicked");
            }
        }
    }
}

// === impl Queue ===

impl Queue {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// The next job; `None` when no more will come.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
