//! One call of a plugin: an instance, its limits, and what came of it.
//!
//! ```text
//!   caller ──▶ place among the calls ──▶ instance ──▶ function ──▶ answer
//!                    │                       └── trap, limit, time ──▶ CallError, instance dropped
//!                    └── waits while there are too many
//! ```
//!
//! Invariant: a call ends within its time, whatever the plugin does, and leaves nothing behind.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::bindings::exports::twinspan::plugin::plugin::Descriptor;
use crate::bindings::twinspan::plugin::types::{Diagnostic, Error};
use crate::engine::Machine;
use crate::error::CallError;
use crate::instance::{Allowance, Caller, Computed, OutOfCpu, State};
use crate::limits::{
    ASK_TIME_MAX, CALLS_MAX, CPU_MAX, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, PURE_CPU_MAX,
    PURE_TIME_MAX,
};
use crate::loaded::{Linked, Missing};
use crate::world::BoxFuture;

impl Allowance {
    /// For a call that only computes.
    pub(crate) const PURE: Self = Self { cpu: PURE_CPU_MAX, time: PURE_TIME_MAX, is_pure: true };
    /// For a question.
    pub(crate) const ASK: Self = Self { cpu: CPU_MAX, time: ASK_TIME_MAX, is_pure: false };

    /// For an action that may take so long.
    pub(crate) const fn action(time: Duration) -> Self {
        Self { cpu: CPU_MAX, time, is_pure: false }
    }
}

/// What a plugin can answer.
pub(crate) trait Answer {
    /// The word for it in metrics.
    fn word(&self) -> &'static str {
        "ok"
    }
}

impl<T> Answer for Result<T, Error> {
    fn word(&self) -> &'static str {
        if self.is_ok() { "ok" } else { "error" }
    }
}

impl Answer for Descriptor {}
impl Answer for Vec<Diagnostic> {}
impl Answer for Vec<String> {}
impl Answer for Vec<(String, String)> {}

/// What a call does with its instance.
pub(crate) trait Deed<R>:
    for<'a> FnOnce(&'a mut Store<State>, &'a Linked, Instance) -> BoxFuture<'a, wasmtime::Result<R>>
    + Send
    + 'static
{
}

impl<R, F> Deed<R> for F where
    F: for<'a> FnOnce(
            &'a mut Store<State>,
            &'a Linked,
            Instance,
        ) -> BoxFuture<'a, wasmtime::Result<R>>
        + Send
        + 'static
{
}

/// Where calls are made.
pub(crate) struct Calls {
    machine: Arc<Machine>,
    places: Semaphore,
}

impl Calls {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, places: Semaphore::new(CALLS_MAX) }
    }

    /// The engine that they are made with.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Makes one.
    ///
    /// # Errors
    /// [`CallError`], those of the plugin's faults and [`CallError::Stopped`].
    ///
    /// # Cancellation
    /// Dropped, it is given up where it is; what the plugin did by then stays done.
    pub(crate) async fn make<R: Answer>(
        &self,
        (linked, caller): (&Linked, Caller),
        function: &'static str,
        allowed: Allowance,
        deed: impl Deed<R>,
    ) -> Result<R, CallError> {
        let _place = self.places.acquire().await.map_err(|_closed| CallError::Stopped)?;
        let _beat = self.machine.begin();
        let numbers = Arc::clone(&caller.numbers);
        let computed = Computed::new();
        let turn = || computed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = State::store(&self.machine, caller, (allowed, Arc::clone(&computed)));
        let began = Instant::now();
        let result = {
            let mut doing = pin!(tokio::time::timeout(allowed.time, async {
                let instance = linked.pre.instantiate_async(&mut store).await?;
                deed(&mut store, linked, instance).await
            }));
            poll_fn(|cx| {
                turn().begin();
                let polled = doing.as_mut().poll(cx);
                turn().end();
                polled
            })
            .await
        };
        let result = match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(fault(&error, store.data(), allowed)),
            Err(_elapsed) => Err(CallError::Time(allowed.time)),
        };
        numbers.used(function, turn().so_far(), store.data().memory());
        let word = result.as_ref().map_or_else(CallError::word, Answer::word);
        numbers.called(function, word, began.elapsed());
        result
    }
}

/// What an error of the engine means.
fn fault(error: &wasmtime::Error, state: &State, allowed: Allowance) -> CallError {
    if error.downcast_ref::<OutOfCpu>().is_some() {
        return CallError::Cpu(allowed.cpu);
    }
    if let Some(Missing(part)) = error.downcast_ref() {
        return CallError::Unsupported(part);
    }
    if state.wanted_more_memory() {
        return CallError::Memory(MEMORY_BYTES_MAX);
    }
    let root = error.root_cause().to_string();
    if root.contains("hostcall") && root.contains("fuel") {
        return CallError::Output(OUTPUT_BYTES_MAX);
    }
    // A panic says why on its standard error, just before the trap, and last how to see more.
    let lines = state.caller.logs.lines();
    match lines.iter().rev().find(|line| !line.text.starts_with("note:")) {
        Some(line) if root.contains("unreachable") => {
            CallError::Trap(format!("{root} ({})", line.text))
        }
        _ => CallError::Trap(root),
    }
}
