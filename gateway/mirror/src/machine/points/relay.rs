//! A point that is sent on: taken of a copy that is whole, and kept no longer than it is open.
//!
//! Invariant: the stream of the primary waits for the snapshots alone, never for what they make
//! durable: that is flushed before, while it goes on. What fails here is nothing to the primary.

use block::{IoError, SnapshotId};

use super::{Keeping, Step, Why};
use crate::machine::{After, Effect, Machine};

/// Local flush rounds before a point is sent on are numbered apart from those of hosts, and those of
/// the primary, which begin at twice this.
const RELAY_ROUND: u64 = 1 << 62;

impl Machine {
    /// Takes a point to be sent on, of a copy that is whole: durable first, then the stream waits.
    pub(in crate::machine) fn keep_point_for_relays(&mut self, out: &mut Vec<Effect>) {
        let recording = self.upstream.as_ref().is_some_and(|upstream| upstream.recording);
        if self.points.is_busy() || self.points.relay_round.is_some() || recording {
            return;
        }
        if !std::mem::take(&mut self.points.relay_durable) {
            self.points.relay_rounds += 1;
            let round = RELAY_ROUND + self.points.relay_rounds;
            self.points.relay_round = Some(round);
            let volumes = (0..self.volumes.len()).collect();
            out.push(Effect::FlushLocal { round, volumes });
            return;
        }
        if self.points.planned.is_empty() {
            // What names the snapshots is recorded before they are taken.
            self.keep(After::Nothing, out);
        }
        let link = self.upstream.as_mut().map_or(0, |upstream| {
            upstream.recording = true;
            upstream.link
        });
        self.points.keeping = Some(Keeping { link, why: Why::Relay, step: Step::Settling });
        self.advance_point(out);
    }

    /// What was applied before is durable; says whether it was that round.
    pub(in crate::machine) fn relay_flushed(
        &mut self,
        round: u64,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) -> bool {
        if self.points.relay_round != Some(round) {
            return false;
        }
        self.points.relay_round = None;
        self.points.relay_durable = result.is_ok();
        if let Err(error) = result {
            self.latch(error, out);
        }
        true
    }

    /// The snapshots of a point that is sent on are taken, or not; the stream goes on. They are open
    /// from here on, so that their names are of no use any more.
    pub(super) fn relay_snapshotted(
        &mut self,
        snapshots: Vec<SnapshotId>,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        if result == Err(IoError::Latched) {
            self.latch(IoError::Latched, out);
        }
        self.points.unsupported |= result == Err(IoError::Unsupported);
        let taken = self.volumes.iter().map(|v| v.id).zip(snapshots.iter().copied());
        self.points.unneeded.extend(taken);
        self.relay_point_taken(result.map(|()| snapshots), out);
        self.keep(After::Nothing, out);
        self.quality_kept(out);
    }
}
