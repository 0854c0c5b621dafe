//! The gauges of write journals, from what they say at the scrape.
//!
//! Invariant: a journal that is not known yet has no number but that it is asked for.

use block::Gap;
use mirror::GroupStatus;

use super::text::Families;
use crate::gateway::Gateway;
use crate::moments::is_there;
use crate::points::Stored;

type Name = (&'static str, &'static str);

const WINDOW: Name = (
    "twinspan_point_journal_window_seconds",
    "For how long back any second of the group is to be opened at its mirrors.",
);
const OPENABLE: Name = (
    "twinspan_point_journal_openable_seconds",
    "How far back every second can be opened here without a hole, from the newest one.",
);
const NEWEST: Name = (
    "twinspan_point_journal_newest_timestamp_seconds",
    "The newest second that can be opened here; absent while none can.",
);
const BYTES: Name =
    ("twinspan_point_journal_used_bytes", "Bytes that the write journal of the group takes here.");
const WRITING: Name = (
    "twinspan_point_journal_writing",
    "Whether what the mirror here applies is written down behind a base.",
);
const GAPS: Name = (
    "twinspan_point_journal_gaps_total",
    "Holes in the write journal here, by what made them, since the gateway started.",
);

/// Of each group that has a write journal, or is to have one.
pub(super) fn render(families: &mut Families, gateway: &Gateway, status: &GroupStatus) {
    let name = ("group", status.name.as_str());
    let wanted = Stored::of(status).ok().and_then(|stored| stored.journal);
    if let Some(wanted) = &wanted {
        families.gauge(WINDOW, &[name], number(wanted.window_seconds));
    }
    let Some(journal) = gateway.moments.journal(status.group) else { return };
    let known = journal.status(is_there(status));
    if known.is_reading {
        return;
    }
    families.gauge(BYTES, &[name], number(known.bytes));
    families.gauge(WRITING, &[name], if known.follows { 1.0 } else { 0.0 });
    let last = known.ranges.last().copied();
    families.gauge(OPENABLE, &[name], last.map_or(0.0, |(from, to)| seconds(to - from)));
    if let Some((_, to)) = last {
        families.gauge(NEWEST, &[name], seconds(to));
    }
    for (gap, count) in Gap::ALL.iter().zip(known.gaps) {
        families.counter(GAPS, &[name, ("cause", gap.word())], number(count));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
const fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1_000.0
}
