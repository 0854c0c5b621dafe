//! The tools of other projects that build a component.
//!
//! Invariant: a tool that is not there is told with the command that brings it, and what a tool says
//! when it fails is shown.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{FAILED, Failure};

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Tool {
    program: &'static str,
    /// What brings it.
    brings: &'static str,
    /// What to look at when it fails.
    hint: &'static str,
}

impl Tool {
    pub(super) const CARGO: Self = Self {
        program: "cargo",
        brings: "install Rust",
        hint: "rustup target add wasm32-wasip2, if the target is what is missing",
    };
    pub(super) const CLANG: Self = Self {
        program: "clang",
        brings: "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32",
        hint: "apt-get install lld wasi-libc libclang-rt-dev-wasm32, if headers or the linker are \
               what is missing",
    };
    pub(super) const NPM: Self =
        Self { program: "npm", brings: "apt-get install npm", hint: "look at what it says above" };

    /// Runs it in a folder; answers what it wrote to its standard output. Its other words are shown as
    /// they come.
    pub(super) fn run(self, folder: &Path, words: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(self.program);
        command.current_dir(folder).args(words).stdin(Stdio::null()).stderr(Stdio::inherit());
        let ran = command.output().map_err(|error| {
            let what = format!("cannot start {}: {error}", self.program);
            Failure::new(FAILED, what).next(self.brings)
        })?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        if ran.status.success() {
            return Ok(said);
        }
        if !said.starts_with('{') {
            eprint!("{said}");
        }
        let first = words.first().copied().unwrap_or_default();
        let what = format!("{} {first} failed: {}", self.program, ran.status);
        Err(Failure::new(FAILED, what).next(self.hint))
    }
}
