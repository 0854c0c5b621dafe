//! `run`: the run that a call is a step of.

use crate::bindings::twinspan::plugin::run::Host;
use crate::bindings::twinspan::plugin::types::{Created, Error, ErrorCode, Progress, Retry};
use crate::instance::State;
use crate::limits::{NOTE_BYTES_MAX, NOTES_MAX};

/// What was made could not be recorded, and why.
fn not_kept(why: String) -> Error {
    Error { code: ErrorCode::Unavailable, message: why, retry: Retry::Now, vendor_code: None }
}

/// More than a run's journal has room for.
fn too_much(why: String) -> Error {
    Error { code: ErrorCode::QuotaExceeded, message: why, retry: Retry::Never, vendor_code: None }
}

impl State {
    /// Counts what is to be noted in the run's journal.
    fn notes(&mut self, created: &Created) -> Result<(), Error> {
        let longest = created.kind.len().max(created.id.len()).max(created.name.len());
        if longest > NOTE_BYTES_MAX {
            let why = format!("its kind, its id or its name has more than {NOTE_BYTES_MAX} bytes");
            return Err(too_much(why));
        }
        if self.notes >= NOTES_MAX {
            return Err(too_much(format!("a call notes at most {NOTES_MAX} things")));
        }
        self.notes += 1;
        Ok(())
    }
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
        if let Err(refused) = self.notes(&created) {
            return Ok(Err(refused));
        }
        let Some((run, step)) = &self.caller.run else { return Ok(Ok(())) };
        Ok(self.caller.world.register(run, step, created).await.map_err(not_kept))
    }

    async fn unregister(
        &mut self,
        kind: String,
        id: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.reaches("run.unregister")?;
        let gone = Created { name: id.clone(), kind, id };
        if let Err(refused) = self.notes(&gone) {
            return Ok(Err(refused));
        }
        let Some((run, step)) = &self.caller.run else { return Ok(Ok(())) };
        Ok(self.caller.world.unregister(run, step, gone).await.map_err(not_kept))
    }
}
