//! What is measured of plugins, and the numbers that they tell themselves.
//!
//! Invariant: whatever a plugin says, the number of series it makes is bounded.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::{CUSTOM_SERIES_MAX, NAME_BYTES_MAX};

/// Describes every metric of this crate.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("twinspan_plugin_info", Unit::Count, "A plugin that is loaded.");
    describe_counter!(
        "twinspan_plugin_calls_total",
        Unit::Count,
        "Calls of plugins, by function and result."
    );
    describe_histogram!(
        "twinspan_plugin_call_duration_seconds",
        Unit::Seconds,
        "How long a plugin took to answer."
    );
    describe_histogram!(
        "twinspan_plugin_cpu_seconds",
        Unit::Seconds,
        "How long a call of a plugin computed."
    );
    describe_gauge!(
        "twinspan_plugin_memory_bytes",
        Unit::Bytes,
        "The most memory that one call of a plugin had."
    );
    describe_counter!(
        "twinspan_plugin_host_requests_total",
        Unit::Count,
        "HTTP requests that plugins asked for, by host and result."
    );
    describe_gauge!(
        "twinspan_plugin_compile_duration_seconds",
        Unit::Seconds,
        "How long a plugin took from its file to ready, compiled or from the cache."
    );
    describe_gauge!(
        "twinspan_plugin_faults",
        Unit::Count,
        "Faults of a plugin since its last good answer; at 3 it begins to rest."
    );
    describe_counter!("twinspan_plugin_custom_total", Unit::Count, "What plugins count.");
    describe_gauge!("twinspan_plugin_custom", Unit::Count, "What plugins measure.");
    describe_counter!(
        "twinspan_plugin_custom_dropped_total",
        Unit::Count,
        "Numbers of plugins that were dropped: there were too many."
    );
}

/// The numbers of one plugin.
#[derive(Debug)]
pub(crate) struct Numbers {
    plugin: String,
    custom: Mutex<HashSet<(String, String)>>,
    memory: Mutex<usize>,
}

impl Numbers {
    /// Of this plugin.
    pub(crate) fn new(plugin: &str) -> Self {
        Self { plugin: plugin.to_owned(), custom: Mutex::default(), memory: Mutex::default() }
    }

    /// A call ended.
    pub(crate) fn called(&self, function: &'static str, result: &'static str, took: Duration) {
        let plugin = self.plugin.clone();
        metrics::counter!("twinspan_plugin_calls_total", "plugin" => plugin.clone(), "func" => function, "result" => result).increment(1);
        metrics::histogram!("twinspan_plugin_call_duration_seconds", "plugin" => plugin, "func" => function).record(took.as_secs_f64());
    }

    /// A call used this.
    pub(crate) fn used(&self, function: &'static str, cpu: Duration, memory: usize) {
        let plugin = self.plugin.clone();
        metrics::histogram!("twinspan_plugin_cpu_seconds", "plugin" => plugin.clone(), "func" => function)
            .record(cpu.as_secs_f64());
        let mut most = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory > *most {
            *most = memory;
            #[expect(clippy::cast_precision_loss, reason = "bounded by the limit of memory")]
            metrics::gauge!("twinspan_plugin_memory_bytes", "plugin" => plugin).set(memory as f64);
        }
    }

    /// A request went out, or was refused.
    pub(crate) fn requested(&self, host: &str, result: &'static str) {
        // A host that is not granted is the plugin's own text, and must not become a series.
        let host = if result == "denied" { "" } else { host };
        metrics::counter!("twinspan_plugin_host_requests_total", "plugin" => self.plugin.clone(), "host" => host.to_owned(), "result" => result).increment(1);
    }

    /// It is loaded.
    pub(crate) fn loaded(&self, version: &str, digest: &str, world: &str, took: Duration) {
        self.info(version, digest, world).set(1.0);
        metrics::gauge!("twinspan_plugin_compile_duration_seconds", "plugin" => self.plugin.clone()).set(took.as_secs_f64());
    }

    /// It is not loaded any more, or another one of its name is.
    pub(crate) fn unloaded(&self, version: &str, digest: &str, world: &str) {
        self.info(version, digest, world).set(0.0);
    }

    fn info(&self, version: &str, digest: &str, world: &str) -> metrics::Gauge {
        metrics::gauge!("twinspan_plugin_info", "plugin" => self.plugin.clone(), "version" => version.to_owned(), "digest" => digest.to_owned(), "world" => world.to_owned())
    }

    /// Its faults since the last good answer.
    pub(crate) fn faults(&self, faults: u32) {
        metrics::gauge!("twinspan_plugin_faults", "plugin" => self.plugin.clone())
            .set(f64::from(faults));
    }

    /// Whether a number of the plugin's own is kept: it is new and there is room, or it is known.
    fn has_room(&self, name: &str, label: &str) -> bool {
        let mut custom = self.custom.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), label.to_owned());
        if custom.contains(&key) {
            return true;
        }
        let fits = [name, label].iter().all(|text| text.len() <= NAME_BYTES_MAX);
        if !fits || custom.len() >= CUSTOM_SERIES_MAX {
            let plugin = self.plugin.clone();
            metrics::counter!("twinspan_plugin_custom_dropped_total", "plugin" => plugin)
                .increment(1);
            return false;
        }
        custom.insert(key)
    }

    /// Counts for the plugin.
    pub(crate) fn add(&self, name: &str, label: &str, delta: u64) {
        if self.has_room(name, label) {
            metrics::counter!("twinspan_plugin_custom_total", "plugin" => self.plugin.clone(), "name" => name.to_owned(), "label" => label.to_owned()).increment(delta);
        }
    }

    /// Measures for the plugin.
    pub(crate) fn set(&self, name: &str, label: &str, value: f64) {
        if self.has_room(name, label) {
            metrics::gauge!("twinspan_plugin_custom", "plugin" => self.plugin.clone(), "name" => name.to_owned(), "label" => label.to_owned()).set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_floods_its_numbers_makes_a_bounded_number_of_series() {
        let numbers = Numbers::new("p");
        let kept = (0..10 * CUSTOM_SERIES_MAX).filter(|i| numbers.has_room("n", &i.to_string()));
        assert_eq!(kept.count(), CUSTOM_SERIES_MAX);
        assert!(numbers.has_room("n", "0"), "what was known is kept");
        assert!(!Numbers::new("q").has_room(&"x".repeat(NAME_BYTES_MAX + 1), ""));
    }
}
