//! What went wrong, as a person and as a program is told.

use api::{Code, Problem};

use crate::args::Format;

/// Exit code: it did not work.
pub(crate) const FAILED: u8 = 1;
/// Exit code: the gateway cannot be reached.
pub(crate) const UNREACHABLE: u8 = 6;
/// Exit code: what was waited for did not come in time.
pub(crate) const TIMED_OUT: u8 = 8;
/// Exit code: the configuration is not valid.
pub(crate) const BAD_CONFIG: u8 = 64;

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: u8,
    /// What and why.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) next: Option<String>,
    /// The stable code, if there is one.
    pub(crate) code: Option<String>,
}

impl Failure {
    /// One without a code.
    pub(crate) fn new(exit: u8, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: None, code: None }
    }

    /// One with a code.
    pub(crate) fn coded(code: Code, what: impl Into<String>) -> Self {
        Self {
            exit: code.exit_code(),
            what: what.into(),
            next: code.next().map(str::to_owned),
            code: Some(code.as_str().to_owned()),
        }
    }

    /// The same with something to do about it.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Tells it.
    pub(crate) fn tell(&self, format: Format) {
        let code = self.code.as_deref().map(|code| format!(" [{code}]")).unwrap_or_default();
        eprintln!("error: {}{code}", self.what);
        if let Some(next) = &self.next {
            eprintln!(" next: {next}");
        }
        if format == Format::Json {
            let told = serde_json::json!({
                "error": self.what, "code": self.code, "next": self.next, "exit": self.exit,
            });
            println!("{told}");
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = Code::parse(&problem.code).map_or(FAILED, Code::exit_code);
        Self { exit, what: problem.detail, next: problem.next, code: Some(problem.code) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(FAILED, format!("{error:#}"))
    }
}
