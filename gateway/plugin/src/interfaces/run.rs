//! `run`: the run that a call is a step of.

use crate::bindings::twinspan::plugin::run::Host;
use crate::bindings::twinspan::plugin::types::{Created, Error, ErrorCode, Progress, Retry};
use crate::instance::State;

/// What was made could not be recorded, and why.
fn not_kept(why: String) -> Error {
    Error { code: ErrorCode::Unavailable, message: why, retry: Retry::Now, vendor_code: None }
}

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

    async fn register(&mut self, created: Created) -> wasmtime::Result<Result<(), Error>> {
        self.reaches("run.register")?;
        let Some((run, step)) = &self.caller.run else { return Ok(Ok(())) };
        Ok(self.caller.world.register(run, step, created).await.map_err(not_kept))
    }

    async fn unregister(
        &mut self,
        kind: String,
        id: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.reaches("run.unregister")?;
        let Some((run, step)) = &self.caller.run else { return Ok(Ok(())) };
        let gone = Created { name: id.clone(), kind, id };
        Ok(self.caller.world.unregister(run, step, gone).await.map_err(not_kept))
    }
}
