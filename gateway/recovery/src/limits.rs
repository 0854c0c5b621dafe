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

/// Records that the steps of a run may write as they like: tokens that change, notes, attempts. A plan of
/// a dozen steps needs a hundred; an action that gives a new token each second fills it in a day.
pub const COMMON_RECORDS_MAX: u64 = 80_000;

/// The bytes of those, as JSON: they are kept in memory, too.
pub const COMMON_BYTES_MAX: u64 = 128 << 20;

/// Records of one step on its way forward, or back: a new token every five seconds for a day.
pub const STEP_RECORDS_MAX: u64 = 20_000;

/// The bytes of those: a quarter of what all steps have.
pub const STEP_BYTES_MAX: u64 = 32 << 20;

/// What each step may write each way, however much the others wrote: some tokens and attempts.
pub const STEP_RECORDS_MIN: u64 = 96;

/// The bytes of those: four tokens at their limit.
pub const STEP_BYTES_MIN: u64 = 256 << 10;

/// What a step may still need each way once it wrote all that it may: its approval, an intent, its end,
/// and a person's word.
const STEP_RECORDS_LAST: u64 = 8;

/// The bytes of those: the record that went beyond, and a report.
const STEP_BYTES_LAST: u64 = 2 * RECORD_BYTES_MAX as u64;

/// Records of a run. What steps may write ends far below, so that every run can be brought to its end
/// or taken back; see [`COMMON_RECORDS_MAX`].
pub const RECORDS_MAX: u64 = 160_000;

/// A journal, in bytes. It is read whole, and nothing is appended beyond what is read.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Each step, forward and back.
const WAYS_MAX: u64 = 2 * STEPS_MAX as u64;

/// A pause that a provider asks for between two looks is brought into these bounds.
pub const POLL_MIN: std::time::Duration = std::time::Duration::from_millis(20);
/// See [`POLL_MIN`].
pub const POLL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

const _: () = assert!(PLAN_BYTES_MAX + (64 << 10) < RECORD_BYTES_MAX);
const _: () = assert!(REPORT_BYTES_MAX + TOKEN_BYTES_MAX < RECORD_BYTES_MAX);
const _: () = assert!(
    COMMON_RECORDS_MAX + WAYS_MAX * (STEP_RECORDS_MIN + STEP_RECORDS_LAST) < RECORDS_MAX,
    "a run that used up what its steps share can still be ended"
);
const _: () = assert!(
    COMMON_BYTES_MAX + WAYS_MAX * (STEP_BYTES_MIN + STEP_BYTES_LAST) < JOURNAL_BYTES_MAX,
    "and in bytes"
);
const _: () = assert!(TOKEN_BYTES_MAX as u64 * 2 < STEP_BYTES_MIN);
