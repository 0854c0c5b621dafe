//! `config`: what the operator configured.

use crate::bindings::twinspan::plugin::config::Host;
use crate::instance::State;

impl Host for State {
    async fn get(&mut self) -> wasmtime::Result<String> {
        self.reaches("config.get")?;
        Ok(self.caller.config.to_string())
    }
}
