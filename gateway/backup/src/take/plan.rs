//! Which blocks of one segment a run looks at, and how it reads them.
//!
//! ```text
//!   what is known of the parent    data                    zeroes
//!   nothing to build upon          mapped                  none
//!   what changed since             changed and mapped      changed and not mapped
//!   only what it holds             mapped                  held and not mapped
//! ```
//!
//! Invariant: spans are in order, do not overlap, and lie inside the segment and the volume.

use block::{BLOCK_BYTES, BlockSet, Extent, SnapshotId};

use crate::error::{BackupError, VolumeError};
use crate::format::{Entry, Span};
use crate::limits::READ_BYTES;
use crate::volume::Source;

/// Ranges that are asked for at once.
const RANGES: usize = 4096;

/// What is to be done with a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read(Span),
    Zero(Span),
}

/// What a run builds upon in one segment.
pub(super) enum Basis<'a> {
    Nothing,
    /// What changed since this snapshot; from block `grown` on everything did. Zeroes matter only
    /// where the parent has a map.
    Changes {
        since: SnapshotId,
        grown: u64,
        has_map: bool,
    },
    /// What the parent holds.
    Content(&'a [Entry]),
}

/// The steps of one segment's part.
pub(super) async fn steps(
    source: &dyn Source,
    basis: &Basis<'_>,
    part: Span,
) -> Result<Vec<Step>, BackupError> {
    let of_source = |error| BackupError::Source { volume: source.volume(), source: error };
    let mapped = collect(part, |from| source.mapped(from, RANGES)).await.map_err(of_source)?;
    match basis {
        Basis::Nothing => Ok(merge(&mapped, &[])),
        Basis::Changes { since, grown, has_map } => {
            let ask = |from| source.changed_since(*since, from, RANGES);
            let mut changed = collect(part, ask).await.map_err(of_source)?;
            changed.extend(Span::new(part.first.max(*grown), part.end.max(*grown)).some());
            let changed = union(changed);
            let zeroes = if *has_map { without(&changed, &mapped) } else { Vec::new() };
            Ok(merge(&both(&changed, &mapped), &zeroes))
        }
        Basis::Content(entries) => {
            let held = entries.iter().filter_map(|entry| entry.span.intersection(part)).collect();
            Ok(merge(&mapped, &without(&union(held), &mapped)))
        }
    }
}

async fn collect<'a>(
    part: Span,
    ask: impl Fn(u64) -> futures_util::future::BoxFuture<'a, Result<BlockSet, VolumeError>>,
) -> Result<Vec<Span>, VolumeError> {
    let mut spans = Vec::new();
    let mut from = part.first;
    while from < part.end {
        let ranges = ask(from).await?;
        let Some(last) = ranges.last().copied() else { break };
        let is_all = ranges.len() < RANGES || last.first() >= part.end;
        // A range may begin before what was asked for.
        let whole = Span::new(from, part.end);
        spans.extend(ranges.into_iter().filter_map(|range| Span::of(range).intersection(whole)));
        if is_all || last.end() <= from {
            break;
        }
        from = last.end();
    }
    Ok(union(spans))
}

impl Span {
    fn some(self) -> Option<Self> {
        (self.first < self.end).then_some(self)
    }
}

/// In order, touching ones joined.
fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.first);
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.first <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}

/// What lies in both.
fn both(a: &[Span], b: &[Span]) -> Vec<Span> {
    let mut common = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        common.extend(x.intersection(*y));
        if x.end < y.end {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

/// What lies in `a` and not in `b`.
fn without(a: &[Span], b: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut j = 0;
    for span in a {
        let mut first = span.first;
        while let Some(cut) = b.get(j).filter(|cut| cut.first < span.end) {
            left.extend(Span::new(first, cut.first.max(first)).some());
            first = first.max(cut.end);
            if cut.end > span.end {
                break;
            }
            j += 1;
        }
        left.extend(Span::new(first.min(span.end), span.end).some());
    }
    left
}

/// Reads of at most 256 KiB, and zeroes, in the order of their blocks.
fn merge(data: &[Span], zeroes: &[Span]) -> Vec<Step> {
    let grain = READ_BYTES / BLOCK_BYTES;
    let mut steps: Vec<Step> = zeroes.iter().copied().map(Step::Zero).collect();
    for span in data {
        let mut first = span.first;
        while first < span.end {
            let end = ((first / grain + 1) * grain).min(span.end);
            steps.push(Step::Read(Span::new(first, end)));
            first = end;
        }
    }
    steps.sort_unstable_by_key(|step| match step {
        Step::Read(span) | Step::Zero(span) => span.first,
    });
    steps
}

/// The bytes of a span.
pub(super) fn extent(span: Span) -> Result<Extent, BackupError> {
    let extent = Extent::new(span.first * BLOCK_BYTES, span.count() * BLOCK_BYTES);
    extent.map_err(|_empty| BackupError::System { what: "to read a range of no blocks" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let span =
            (0_u64..200, 1_u64..30).prop_map(|(first, count)| Span::new(first, first + count));
        proptest::collection::vec(span, 0..8).prop_map(union)
    }

    fn set(spans: &[Span]) -> BTreeSet<u64> {
        spans.iter().flat_map(|span| span.first..span.end).collect()
    }

    proptest! {
        #[test]
        fn spans_behave_like_sets(a in spans(), b in spans()) {
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(set(&both(&a, &b)), x.intersection(&y).copied().collect());
            prop_assert_eq!(set(&without(&a, &b)), x.difference(&y).copied().collect());
            let together = union(a.iter().chain(&b).copied().collect());
            prop_assert_eq!(set(&together), x.union(&y).copied().collect());
        }

        #[test]
        fn steps_are_in_order_and_read_little_at_once(a in spans(), b in spans()) {
            let steps = merge(&a, &without(&b, &a));
            let mut end = 0;
            for step in steps {
                let (Step::Read(span) | Step::Zero(span)) = step;
                prop_assert!(span.first >= end);
                end = span.end;
                if let Step::Read(span) = step {
                    prop_assert!(span.count() * BLOCK_BYTES <= READ_BYTES);
                }
            }
        }
    }
}
