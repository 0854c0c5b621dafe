//! Logs, on standard error: text for people or JSON lines for collectors.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::LogConfig;

/// Starts logging, once for the process; a second call changes nothing.
///
/// # Errors
/// What is wrong with the filter.
pub(crate) fn start(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|error| format!("log.level {:?}: {error}", config.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let outcome = if config.json {
        builder.json().with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    if outcome.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}
