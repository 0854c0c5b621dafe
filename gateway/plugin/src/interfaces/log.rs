//! `log`: what a plugin says.

use crate::bindings::twinspan::plugin::log::{Host, Level as Said};
use crate::instance::State;
use crate::limits::LOG_LINES_MAX;
use crate::logs::Level;

impl Host for State {
    async fn log(
        &mut self,
        level: Said,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.lines = self.lines.saturating_add(1);
        let (level, mut text) = match self.lines {
            ..=LOG_LINES_MAX => (level.into(), message),
            n if n == LOG_LINES_MAX + 1 => {
                (Level::Warn, "what it says beyond this is cut".to_owned())
            }
            _ => return Ok(()),
        };
        for (name, value) in fields {
            text = format!("{text} {name}={value}");
            if text.len() > crate::limits::LOG_LINE_BYTES_MAX {
                break;
            }
        }
        self.caller.logs.say(&self.caller.plugin, level, &text);
        Ok(())
    }
}

impl From<Said> for Level {
    fn from(level: Said) -> Self {
        match level {
            Said::Debug => Self::Debug,
            Said::Info => Self::Info,
            Said::Warn => Self::Warn,
            Said::Error => Self::Error,
        }
    }
}
