//! What plugins say: the last lines of each, and the same in the gateway's own log.
//!
//! Invariant: a plugin that floods its log costs bounded memory, and hides nobody else's lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::limits::{LOG_KEPT_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_MAX};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever writes the plugin.
    Debug,
    /// Something happened.
    Info,
    /// Unexpected, and handled.
    Warn,
    /// Somebody has to look.
    Error,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, in milliseconds since the beginning of 1970, UTC.
    pub at_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// What was said.
    pub text: String,
}

/// The last lines of a plugin.
pub(crate) struct Logs {
    lines: Mutex<VecDeque<Line>>,
    now: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// As much of a text as a line may have.
fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
    &text[..end]
}

impl Logs {
    /// None yet.
    pub(crate) fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { lines: Mutex::new(VecDeque::new()), now: Box::new(now) }
    }

    /// Adds a line of a plugin.
    pub(crate) fn say(&self, plugin: &str, level: Level, text: &str) {
        let text = cut(text);
        match level {
            Level::Debug => tracing::debug!(plugin, "{text}"),
            Level::Info => tracing::info!(plugin, "{text}"),
            // An error of a plugin is no error of the gateway: nobody is woken for it.
            Level::Warn | Level::Error => tracing::warn!(plugin, "{text}"),
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LOG_KEPT_MAX {
            lines.pop_front();
        }
        lines.push_back(Line { at_ms: (self.now)(), level, text: text.to_owned() });
    }

    /// What is remembered, oldest first.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes what a plugin writes to its standard output or error, line by line.
    pub(crate) fn stream(self: &Arc<Self>, plugin: &Arc<str>) -> Said {
        let mouth = Mouth {
            logs: Arc::clone(self),
            plugin: Arc::clone(plugin),
            left: LOG_LINES_MAX,
            begun: Vec::new(),
        };
        Said(Arc::new(Mutex::new(mouth)))
    }
}

/// Standard output or error of one call.
#[derive(Clone)]
pub(crate) struct Said(Arc<Mutex<Mouth>>);

struct Mouth {
    logs: Arc<Logs>,
    plugin: Arc<str>,
    left: u32,
    begun: Vec<u8>,
}

impl Mouth {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end();
            } else if self.begun.len() < LOG_LINE_BYTES_MAX {
                self.begun.push(*byte);
            }
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if line.is_empty() || self.left == 0 {
            return;
        }
        self.left -= 1;
        self.logs.say(&self.plugin, Level::Info, &String::from_utf8_lossy(&line));
        if self.left == 0 {
            self.logs.say(&self.plugin, Level::Warn, "what it writes beyond this is cut");
        }
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        self.end();
    }
}

impl IsTerminal for Said {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Said {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl Said {
    fn take(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
    }
}

impl tokio::io::AsyncWrite for Said {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.take(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Said {
    async fn ready(&mut self) {}
}

impl OutputStream for Said {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LOG_LINE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(logs: &Logs) -> Vec<String> {
        logs.lines().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn what_is_written_becomes_lines_and_the_last_one_needs_no_end() {
        let logs = Arc::new(Logs::new(|| 7));
        let mut out = logs.stream(&Arc::from("p"));
        out.write(bytes::Bytes::from_static(b"one\n\ntw")).unwrap();
        out.write(bytes::Bytes::from_static(b"o\nthree")).unwrap();
        drop(out);
        assert_eq!(said(&logs), ["one", "two", "three"]);
    }

    #[test]
    fn a_flood_is_cut_and_said_to_be() {
        let logs = Arc::new(Logs::new(|| 7));
        let mut out = logs.stream(&Arc::from("p"));
        for _ in 0..10 * LOG_LINES_MAX {
            out.write(bytes::Bytes::from(vec![b'x'; 10 * LOG_LINE_BYTES_MAX])).unwrap();
            out.write(bytes::Bytes::from_static(b"\n")).unwrap();
        }
        drop(out);
        let lines = said(&logs);
        assert_eq!(lines.len(), LOG_LINES_MAX as usize + 1);
        assert!(lines.iter().all(|line| line.len() <= LOG_LINE_BYTES_MAX));
        assert!(lines.last().unwrap().contains("cut"));
        for i in 0..3 * LOG_KEPT_MAX {
            logs.say("p", Level::Info, &i.to_string());
        }
        assert_eq!(logs.lines().len(), LOG_KEPT_MAX);
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        let long = "ä".repeat(LOG_LINE_BYTES_MAX);
        assert!(cut(&long).len() <= LOG_LINE_BYTES_MAX);
    }
}
