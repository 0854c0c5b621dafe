//! A thread that carries groups: their stores, machines, legs and hosts.
//!
//! ```text
//!   control thread ──Shard::call / Shard::run──▶ jobs ──▶ shard thread: Rc<ShardState>, LocalSet
//!                  ◀─────── oneshot, with a deadline ───
//! ```
//!
//! Invariant: nothing of a group ever leaves its thread but plain data. A thread that does not
//! answer within the deadline is reported as silent; nobody waits for it for ever.

pub(crate) mod state;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub(crate) use state::ShardState;
pub(crate) use state::together::Wanted;

/// The thread did not answer in time, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread that owns it does not answer")]
pub(crate) struct Silent;

type Job = Box<dyn FnOnce(&Rc<ShardState>) + Send>;

enum Order {
    Job(Job),
    Stop(oneshot::Sender<()>),
}

/// A handle to a shard. Cheap to clone, may be used from any thread.
#[derive(Clone)]
pub(crate) struct Shard {
    index: usize,
    orders: mpsc::UnboundedSender<Order>,
    deadline: Duration,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard-{}", self.index)
    }
}

/// A running shard.
#[derive(Debug)]
pub(crate) struct ShardThread {
    /// How to reach it.
    pub(crate) shard: Shard,
    thread: std::thread::JoinHandle<()>,
}

impl ShardThread {
    /// Starts a thread whose state is made by `build`, on it.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub(crate) fn start(
        index: usize,
        deadline: Duration,
        build: impl FnOnce() -> ShardState + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread =
            std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(inbox, build));
            })?;
        Ok(Self { shard: Shard { index, orders, deadline }, thread })
    }

    /// Closes every group in an orderly way and ends the thread; at most `deadline`.
    ///
    /// # Errors
    /// [`Silent`] when it took longer: groups may not be closed cleanly.
    ///
    /// # Cancellation
    /// The thread goes on closing.
    pub(crate) async fn stop(self, deadline: Duration) -> Result<(), Silent> {
        let (done, wait) = oneshot::channel();
        self.shard.orders.send(Order::Stop(done)).map_err(|_e| Silent)?;
        tokio::time::timeout(deadline, wait).await.map_err(|_e| Silent)?.map_err(|_e| Silent)?;
        // It has nothing left to do but return.
        self.thread.join().map_err(|_e| Silent)
    }
}

async fn serve(mut inbox: mpsc::UnboundedReceiver<Order>, build: impl FnOnce() -> ShardState) {
    let state = Rc::new(build());
    state.start();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Job(job) => job(&state),
            Order::Stop(done) => {
                state.close().await;
                // Whoever asked may have given up; then nobody needs to know.
                let _gone = done.send(());
                break;
            }
        }
    }
}

// === impl Shard ===

impl Shard {
    /// Does something there and hands the result back, within the configured deadline.
    ///
    /// # Errors
    /// [`Silent`] when it took longer; it may still be done.
    ///
    /// # Cancellation
    /// It may still be done.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rc<ShardState>) -> T + Send + 'static,
    ) -> Result<T, Silent> {
        let (answer, wait) = oneshot::channel();
        self.post(move |state| {
            // Whoever asked may have given up.
            let _gone = answer.send(work(state));
        })?;
        match tokio::time::timeout(self.deadline, wait).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) | Err(_) => Err(Silent),
        }
    }

    /// Runs a future there and hands its result back, however long it takes; the thread must begin
    /// it within the deadline.
    ///
    /// # Errors
    /// [`Silent`] when it did not begin or the thread ended.
    ///
    /// # Cancellation
    /// The future runs to its end.
    pub(crate) async fn run<T, F, W>(&self, work: W) -> Result<T, Silent>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        W: FnOnce(Rc<ShardState>) -> F + Send + 'static,
    {
        let (begun, begins) = oneshot::channel();
        let (answer, wait) = oneshot::channel();
        self.post(move |state| {
            let future = work(Rc::clone(state));
            let _gone = begun.send(());
            state.spawn(async move {
                let _gone = answer.send(future.await);
            });
        })?;
        match tokio::time::timeout(self.deadline, begins).await {
            Ok(Ok(())) => wait.await.map_err(|_e| Silent),
            Ok(Err(_)) | Err(_) => Err(Silent),
        }
    }

    /// Leaves something to be done there.
    ///
    /// # Errors
    /// [`Silent`] when the thread has ended.
    pub(crate) fn post(
        &self,
        job: impl FnOnce(&Rc<ShardState>) + Send + 'static,
    ) -> Result<(), Silent> {
        self.orders.send(Order::Job(Box::new(job))).map_err(|_e| Silent)
    }
}
