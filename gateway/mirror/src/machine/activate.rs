//! Which extents may have changes in flight: recorded in rounds, before any of them is touched.
//!
//! Invariant (rule 3): an extent leaves the record only after what mirrors lack in it is durable.

use super::{ActivityRound, After, Effect, Machine};
use crate::activity::Activity;

impl Machine {
    pub(super) fn begin_activity_round(&mut self, out: &mut Vec<Effect>) {
        if self.activity_round.is_some() || self.latched {
            return;
        }
        let idle = std::mem::take(&mut self.retire_idle);
        let renew = |activity: &Activity| activity.needs_round() || idle && activity.has_idle();
        if !self.volumes.iter().any(|volume| renew(&volume.activity)) {
            return;
        }
        let mut keeping_dirty = false;
        let mut sets = Vec::new();
        for (index, volume) in self.volumes.iter_mut().enumerate() {
            if renew(&volume.activity) {
                let (set, evicted) = volume.activity.begin_round();
                keeping_dirty |= evicted;
                sets.push((index, set));
            }
        }
        keeping_dirty |= std::mem::take(&mut self.unkept);
        // An unmirrored group has no dirty map that could be forgotten with an extent.
        keeping_dirty &= self.legs.iter().any(Option::is_some);
        keeping_dirty |= std::mem::take(&mut self.doubtful);
        let number = self.next_record;
        self.next_record += 1;
        self.activity_round = Some(ActivityRound { number, sets, keeping_dirty });
        if keeping_dirty {
            self.keep(After::DirtyKept, out);
        } else {
            self.record_activity(out);
        }
    }

    /// Dirty maps are durable as they were when this record was asked for. Those of an earlier one
    /// lack what was changed between it and the round.
    pub(super) fn dirty_kept(&mut self, record: u64, out: &mut Vec<Effect>) {
        let waits = |round: &ActivityRound| round.keeping_dirty && record > round.number;
        if self.activity_round.as_ref().is_some_and(waits) {
            self.record_activity(out);
        }
    }

    fn record_activity(&mut self, out: &mut Vec<Effect>) {
        let round = self.activity_round.as_mut().expect("a round was begun");
        round.keeping_dirty = false;
        out.push(Effect::Activate { round: round.number, sets: std::mem::take(&mut round.sets) });
    }

    pub(super) fn on_activated(
        &mut self,
        number: u64,
        result: Result<(), block::IoError>,
        out: &mut Vec<Effect>,
    ) {
        let round = self.activity_round.take().expect("a round was begun");
        assert_eq!(round.number, number, "one activity round at a time");
        if let Err(error) = result {
            self.latch(error, out);
            return;
        }
        for index in 0..self.volumes.len() {
            let volume = &mut self.volumes[index];
            if volume.activity.is_recording() {
                volume.activity.end_round();
            }
            let parked = std::mem::take(&mut volume.parked);
            for write in parked {
                self.launch_or_park(write, out);
            }
        }
    }
}
