//! Points that an operator asked for by name, as the stores are told of them.
//!
//! Invariant: the names that stores use are recorded before they are used, for these as for all points.

use block::{GatewayId, IoError, SnapshotId, VolumeId};

use super::{Keeping, Points, Step, Why};
use crate::machine::Effect;
use crate::record::Label;

impl Points {
    /// The primary takes a snapshot that was asked for, under the names that are recorded.
    pub(in crate::machine) fn begin_named(&mut self, label: Label, out: &mut Vec<Effect>) {
        let snapshots = std::mem::take(&mut self.planned);
        let step = Step::Taking(snapshots.clone());
        self.keeping = Some(Keeping { link: 0, why: Why::Named(label), step });
        self.sooner.clear();
        out.push(Effect::Snapshot { snapshots });
    }

    /// A mirror keeps a snapshot; says whether the stores here are still at it, so that it is
    /// remembered for when they are done.
    pub(in crate::machine) fn heard_sooner(&mut self, id: SnapshotId, gateway: GatewayId) -> bool {
        let is_at_it = |keeping: &Keeping| {
            matches!(&keeping.why, Why::Named(label) if label.id == id) && keeping.link == 0
        };
        let is_at_it = self.keeping.as_ref().is_some_and(is_at_it);
        if is_at_it {
            self.sooner.push(gateway);
        }
        is_at_it
    }

    /// The mirrors that were sooner than the stores here.
    pub(in crate::machine) fn take_sooner(&mut self) -> Vec<GatewayId> {
        std::mem::take(&mut self.sooner)
    }

    /// A snapshot that was asked for could not be taken.
    pub(in crate::machine) fn refuse_named(&mut self, error: IoError) {
        self.unsupported |= error == IoError::Unsupported;
    }

    /// The stores go back to a snapshot that has a name.
    pub(in crate::machine) fn begin_rollback(&mut self) {
        self.rollback = true;
    }

    pub(in crate::machine) fn add_unneeded(&mut self, volume: VolumeId, snapshot: SnapshotId) {
        self.unneeded.push((volume, snapshot));
    }

    pub(in crate::machine) fn is_unneeded(&self, volume: VolumeId, snapshot: SnapshotId) -> bool {
        self.unneeded.contains(&(volume, snapshot))
    }
}
