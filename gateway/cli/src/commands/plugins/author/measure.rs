//! `twinspan plugin measure`: what a component costs the gateway that runs it.

use std::time::Duration;

use plugin::{Figures, MeasureError};
use serde_json::{Value, json};

use crate::Outcome;
use crate::args::{Global, PluginMeasure};
use crate::commands::plugins::read;
use crate::failure::{FAILED, Failure};
use crate::output::show;

pub(in crate::commands::plugins) fn measure(command: &PluginMeasure, global: &Global) -> Outcome {
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::new(FAILED, format!("cannot make a folder: {error}")))?;
    let component = read(&command.file)?;
    // A host can speak TLS, though nothing is called here; a second provider changes nothing.
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, format!("start the runtime: {error}")))?;
    let measured = runtime.block_on(plugin::measure(scratch.path(), component, command.rounds));
    let figures = measured.map_err(|error| {
        let detail = format!("{}: {error}", command.file.display());
        match error {
            MeasureError::Load(_) => Failure::coded(api::Code::PluginRefused, detail),
            MeasureError::Call(_) => Failure::coded(api::Code::PluginFailed, detail),
            MeasureError::Start(_) | MeasureError::Memory(_) => Failure::new(FAILED, detail),
        }
    })?;
    show(global.output, &as_json(&figures), |_| text(&figures));
    Ok(0)
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn as_json(figures: &Figures) -> Value {
    json!({
        "plugin": *figures.about.name, "version": figures.about.version,
        "rounds": figures.rounds, "instantiate_us": us(figures.instantiate),
        "first_call_us": us(figures.first_call), "call_us": us(figures.call),
        "whole_us": us(figures.whole), "native_us": us(figures.native),
        "memory_bytes": figures.memory_bytes,
    })
}

fn text(figures: &Figures) -> String {
    let about = &figures.about;
    let line = |what: &str, time| format!("  {what:<44} {:>10.2} us\n", us(time));
    let mut text =
        format!("{} {}, medians of {} rounds\n", about.name, about.version, figures.rounds);
    text += &line("an instance, from the pool and the cache", figures.instantiate);
    text += &line("its first call", figures.first_call);
    text += &line("a further call", figures.call);
    text += &line("all of it, to the thread of plugins and back", figures.whole);
    text += &line("the same by a function behind a pointer", figures.native);
    text += &format!("  {:<44} {:>10} KiB\n", "memory of an instance", figures.memory_bytes >> 10);
    text
}
