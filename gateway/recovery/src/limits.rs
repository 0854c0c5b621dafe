//! How large things may become, so that no provider of actions fills a journal or the memory.

/// What a provider may keep in a token between two calls. A token is journaled each time that it
/// changes, and sent to another site, whose question is at most a megabyte: so far below it that a
/// record with its frame always fits.
pub const TOKEN_BYTES_MAX: usize = 64 << 10;

/// The words of a summary, a progress, a prompt or an error: a few lines of a terminal.
pub const WORDS_BYTES_MAX: usize = 4 << 10;

/// What an action may say that it created: more than any plan names, few enough to be listed.
pub const CREATED_MAX: usize = 256;

/// Outputs of a step, for later steps to refer to.
pub const OUTPUTS_MAX: usize = 64;

/// One output: a URL, an identity, a list of names.
pub const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// A whole report, as it is journaled. All outputs at their limits do not fit, which nobody needs; what
/// matters is that a record fits a question to another site, [`RECORD_BYTES_MAX`].
pub const REPORT_BYTES_MAX: usize = 256 << 10;

/// Answers that an operator can be offered.
pub const CHOICES_MAX: usize = 16;

/// The ROR switchover has 17 steps; a plan over many servers has some for each of them.
pub const STEPS_MAX: usize = 256;

/// Attempts after the first.
pub const RETRIES_MAX: u32 = 100;

/// The parameters of a step, as JSON.
pub const PARAMS_BYTES_MAX: usize = 16 << 10;

/// A whole plan, as JSON. It is journaled when it is run.
pub const PLAN_BYTES_MAX: usize = 384 << 10;

/// A record of a journal, as JSON: the largest is the one that begins a run, with its whole plan, its
/// parameters and its facts.
pub const RECORD_BYTES_MAX: usize = 512 << 10;

/// Records of a run. A step has a handful for each attempt, and there are [`STEPS_MAX`] of them; one
/// that runs away is stopped here.
pub const RECORDS_MAX: u64 = 100_000;

/// A pause that a provider asks for between two looks is brought into these bounds.
pub const POLL_MIN: std::time::Duration = std::time::Duration::from_millis(20);
/// See [`POLL_MIN`].
pub const POLL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

const _: () = assert!(PLAN_BYTES_MAX + (64 << 10) < RECORD_BYTES_MAX);
const _: () = assert!(REPORT_BYTES_MAX + TOKEN_BYTES_MAX < RECORD_BYTES_MAX);
