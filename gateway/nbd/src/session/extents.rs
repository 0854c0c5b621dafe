//! What a client is told of a range, for each context that it asks for.
//!
//! Invariant: all of them are known, or none is told: what is answered with an error has no runs
//! before it.

use block::{Extent, IoError, RunKind, Volume};

use super::{Changes, reply};
use crate::contexts::{Context, Contexts};

/// At most `limit` runs from the start of `extent` for each context, in their order.
///
/// # Errors
/// As [`Volume::layout`] and [`Changes::changed`]; [`IoError::Unsupported`] for a bitmap of a volume
/// that is compared with nothing.
pub(super) fn of(
    contexts: &Contexts,
    (volume, changes): (&dyn Volume, Option<&dyn Changes>),
    extent: Extent,
    limit: usize,
) -> Result<Vec<Vec<(u64, RunKind)>>, IoError> {
    let known = contexts.iter().map(|context| {
        let runs = match context {
            Context::Allocation => volume.layout(extent, limit),
            Context::Dirty { since, .. } => {
                changes.ok_or(IoError::Unsupported)?.changed(*since, extent, limit)
            }
        }?;
        Ok(reply::tidy_runs(&runs[..runs.len().min(limit)], extent.len()))
    });
    known.collect()
}
