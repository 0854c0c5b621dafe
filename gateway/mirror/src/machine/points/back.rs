//! The way back to a kept point, before a mirror that is no point in time is promoted.
//!
//! Invariant: what it changes is remembered durably, with the intention, before anything is rolled
//! back (rule 9); a way back that was cut short is begun again.

use block::{BlockSet, IoError, LegId, Quality, SnapshotId};

use crate::command::Refusal;
use crate::machine::leg::Leg;
use crate::machine::role::Promoting;
use crate::machine::{After, Effect, Machine, Role};

impl Machine {
    /// Whether a promotion goes back to the kept point.
    pub(in crate::machine) fn goes_back(&self) -> bool {
        if let Some(behind) = self.target_is_behind() {
            return behind;
        }
        self.points.kept.is_some()
            && matches!(self.quality, Quality::Consistent | Quality::Inconsistent)
    }

    fn kept_snapshots(&self) -> Vec<SnapshotId> {
        let kept = self.points.kept.as_ref().expect("the caller checked");
        kept.snapshots.iter().map(|(_, snapshot)| *snapshot).collect()
    }

    /// Everything that was received is applied: which blocks will the way back change?
    pub(in crate::machine) fn list_changed(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::ListChanged { snapshots: self.kept_snapshots() });
    }

    /// Those blocks are in no dirty map of the old primary, which may have forgotten that it wrote
    /// them: they are remembered here (rule 9), with the intention, before anything is rolled back.
    pub(in crate::machine) fn on_changed(
        &mut self,
        result: Result<Vec<BlockSet>, IoError>,
        out: &mut Vec<Effect>,
    ) {
        if self.rollback_listed(&result, out) || self.role != Role::Promoting(Promoting::Listing) {
            return;
        }
        let changed = match result {
            Ok(changed) => changed,
            Err(error) => {
                self.role = Role::Secondary;
                self.finish_command(Err(Refusal::Io(error)), out);
                return;
            }
        };
        let lineage = self.points.kept.as_ref().and_then(|kept| kept.lineage.as_ref());
        let base = lineage.map(|lineage| lineage.current);
        if let Some(old) = self.upstream_record.clone()
            && !self.legs.iter().flatten().any(|leg| leg.gateway == old.gateway)
            && let Some(id) = LegId::all().find(|id| self.leg(*id).is_none())
        {
            let policy = self.policy_towards(&old, id);
            let mut leg = Leg::new(id, old, policy, self.volumes.len());
            leg.base = base;
            self.legs[id.index()] = Some(Box::new(leg));
        }
        let bytes: u64 = changed.iter().flatten().map(|range| range.count()).sum();
        for leg in self.legs.iter_mut().flatten() {
            for (dirty, ranges) in leg.dirty.iter_mut().zip(&changed) {
                ranges.iter().for_each(|range| dirty.insert(*range));
            }
            // One that is relayed to keeps an earlier point: it holds nothing of what is given up.
            if leg.relay.is_none() {
                leg.lossy = Some(leg.lossy.unwrap_or(0) + bytes * block::BLOCK_BYTES);
            }
        }
        self.points.rolling_back = true;
        self.role = Role::Promoting(Promoting::Intending);
        self.keep(After::RollbackIntended, out);
    }

    /// The intention is durable. Also taken up here after a crash in the middle.
    pub(in crate::machine) fn roll_back(&mut self, out: &mut Vec<Effect>) {
        if self.rollback_intended(out) {
            return;
        }
        if self.role == Role::Promoting(Promoting::Intending) {
            self.role = Role::Promoting(Promoting::RollingBack);
        }
        self.points.rollback = true;
        out.push(Effect::RollBack { snapshots: self.kept_snapshots() });
    }

    /// Takes up a rollback that a crash cut short. The copy is the kept point then, and no more: the
    /// operator asks again.
    pub(in crate::machine) fn resume_rollback(&mut self, out: &mut Vec<Effect>) {
        if self.points.rolling_back {
            self.roll_back(out);
        }
    }

    pub(in crate::machine) fn on_rolled_back(
        &mut self,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        self.points.rollback = false;
        if self.rollback_done(result, out) {
            return;
        }
        let promoting = self.role == Role::Promoting(Promoting::RollingBack);
        self.points.rolling_back = false;
        if let Err(error) = result {
            // Some volumes are at the point and others are not; the point is still kept.
            self.quality = Quality::Inconsistent;
            self.keep(After::Nothing, out);
            if error == IoError::Latched {
                self.latch(error, out);
            }
            if promoting {
                self.role = Role::Secondary;
                self.finish_command(Err(Refusal::Io(error)), out);
            }
            return;
        }
        if let Some(kept) = &self.points.kept {
            self.lineage.clone_from(&kept.lineage);
        }
        self.quality = Quality::Outdated;
        self.points.give_up_kept();
        self.went_back_in_company();
        if promoting {
            self.take_over_after_rollback(out);
        } else {
            self.keep(After::Nothing, out);
        }
    }
}
