//! `run`: the run that a call is a step of.

use crate::bindings::twinspan::plugin::run::Host;
use crate::bindings::twinspan::plugin::types::{Created, Progress};
use crate::instance::State;

/// What was made could not be kept, so that nobody would find it again: the call must not go on.
#[derive(Debug, thiserror::Error)]
#[error("what it made could not be recorded: {0}")]
struct NotKept(String);

impl Host for State {
    async fn report(&mut self, progress: Progress) -> wasmtime::Result<()> {
        self.reaches("run.report")?;
        if let Some((run, step)) = &self.caller.run {
            self.caller.world.report(run, step, progress);
        }
        Ok(())
    }

    async fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        self.reaches("run.is-cancelled")?;
        let caller = &self.caller;
        Ok(caller.run.as_ref().is_some_and(|(run, _)| caller.world.is_cancelled(run)))
    }

    async fn register(&mut self, created: Created) -> wasmtime::Result<()> {
        self.reaches("run.register")?;
        if let Some((run, step)) = &self.caller.run {
            self.caller.world.register(run, step, created).await.map_err(NotKept)?;
        }
        Ok(())
    }

    async fn unregister(&mut self, kind: String, id: String) -> wasmtime::Result<()> {
        self.reaches("run.unregister")?;
        if let Some((run, _)) = &self.caller.run {
            self.caller.world.unregister(run, &kind, &id).await.map_err(NotKept)?;
        }
        Ok(())
    }
}
