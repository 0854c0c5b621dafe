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

/// One output. With [`OUTPUTS_MAX`] of them a report stays below [`REPORT_BYTES_MAX`].
pub const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// A whole report, as it is journaled.
pub const REPORT_BYTES_MAX: usize = 512 << 10;

/// Answers that an operator can be offered.
pub const CHOICES_MAX: usize = 16;

const _: () = assert!(OUTPUTS_MAX * OUTPUT_BYTES_MAX + WORDS_BYTES_MAX < REPORT_BYTES_MAX);
