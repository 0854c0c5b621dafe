//! `metrics`: numbers of the plugin's own.

use crate::bindings::twinspan::plugin::metrics::Host;
use crate::instance::State;

impl Host for State {
    async fn add(&mut self, name: String, label: String, delta: u64) -> wasmtime::Result<()> {
        self.caller.numbers.add(&name, &label, delta);
        Ok(())
    }

    async fn set(&mut self, name: String, label: String, value: f64) -> wasmtime::Result<()> {
        self.caller.numbers.set(&name, &label, value);
        Ok(())
    }
}
