//! `volumes`: what the gateway knows of itself and its peers.

use crate::bindings::twinspan::plugin::types::{Error, ErrorCode, Group, Retry, Site};
use crate::bindings::twinspan::plugin::volumes::Host;
use crate::grants::Grant;
use crate::instance::{Caller, State};

/// How long to wait where the gateway cannot tell something now.
const LATER_MS: u32 = 1_000;

fn error(code: ErrorCode, message: String, retry: Retry) -> Error {
    Error { code, message, retry, vendor_code: None }
}

impl State {
    fn may_see(&self, what: &'static str) -> wasmtime::Result<Result<(), Error>> {
        self.reaches(what)?;
        if self.caller.grants.has(&Grant::Volumes) {
            return Ok(Ok(()));
        }
        let plugin = &self.caller.plugin;
        let message = format!("not granted: twinspan plugin grant {plugin} volumes");
        Ok(Err(error(ErrorCode::Denied, message, Retry::Never)))
    }
}

impl Caller {
    async fn seen(&self) -> Result<Vec<Group>, Error> {
        let run = self.run.as_ref().map(|(run, _)| run.as_str());
        let groups = self.world.groups(run).await;
        groups.map_err(|why| error(ErrorCode::Unavailable, why, Retry::AfterMs(LATER_MS)))
    }
}

impl Host for State {
    async fn sites(&mut self) -> wasmtime::Result<Result<Vec<Site>, Error>> {
        if let Err(denied) = self.may_see("volumes.sites")? {
            return Ok(Err(denied));
        }
        Ok(Ok(self.caller.world.sites().await))
    }

    async fn here(&mut self) -> wasmtime::Result<Result<String, Error>> {
        Ok(self.may_see("volumes.here")?.map(|()| self.caller.world.here()))
    }

    async fn groups(&mut self) -> wasmtime::Result<Result<Vec<Group>, Error>> {
        if let Err(denied) = self.may_see("volumes.groups")? {
            return Ok(Err(denied));
        }
        Ok(self.caller.seen().await)
    }

    async fn get_group(&mut self, name: String) -> wasmtime::Result<Result<Group, Error>> {
        if let Err(denied) = self.may_see("volumes.get-group")? {
            return Ok(Err(denied));
        }
        let found =
            self.caller.seen().await.map(|groups| groups.into_iter().find(|g| g.name == name));
        Ok(found.and_then(|found| {
            let none =
                || error(ErrorCode::NotFound, format!("there is no group {name}"), Retry::Never);
            found.ok_or_else(none)
        }))
    }
}
