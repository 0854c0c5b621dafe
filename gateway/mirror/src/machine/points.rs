//! The points in time that a mirror keeps, and the way back to one.
//!
//! ```text
//!   InSync, Outdated ──first change out of order──▶ Inconsistent, with a kept point   (rule 8)
//!   any ──Cut──▶ Consistent, with the cut as its kept point
//!   Inconsistent or Consistent with a kept point ──Promote──▶ rolled back to it, then primary
//! ```
//!
//! Invariant (rule 10): content that belongs to no history, as of a volume that was taken with what it
//! holds, is not changed before a snapshot of it is kept, durably and recorded.
//!
//! Invariant (rule 8): a copy that was one point in time is not changed out of order before that
//! point is kept, durably and recorded; the point is given up only when the record that needs it no
//! more is durable. What a kept point cannot be taken of is left as it is, and the primary is told.
//!
//! Invariant (rules 8 and 14): where a change could not be applied, what is behind it in the stream is
//! no point: no cut and no snapshot is taken there.

mod back;
mod named;
mod relay;

use block::{GatewayId, Goodbye, IoError, Message, Quality, Seq, SnapshotId, VolumeId};

use super::{After, Effect, Machine, Role};
use crate::lineage::Lineage;
use crate::record::{Discarded, Kept, Label, PointsRecord, Snapshots};
use crate::status::DiscardedStatus;

/// Why a point is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The next change is out of order.
    Overwrite,
    /// The primary says that here is a whole cut.
    Cut { seq: Seq, lineage: Lineage },
    /// It is sent on. Nothing is kept for the copy here.
    Relay,
    /// An operator asked for it. It is kept until an operator removes it.
    Named(Label),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// What came before is being applied.
    Settling,
    /// The snapshots are being taken.
    Taking(Vec<SnapshotId>),
    /// The point is being recorded.
    Recording,
}

/// What there is to show of snapshots that were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// When.
    pub unix_ms: u64,
    /// Bytes that are mapped in all of them.
    pub mapped_bytes: u64,
}

/// A point that is being kept. What comes behind it in the stream waits; behind a cut, or one with a
/// name, only until its snapshots are begun.
#[derive(Debug)]
struct Keeping {
    link: u64,
    why: Why,
    step: Step,
}

/// The points of a mirror.
#[derive(Debug, Default)]
pub(super) struct Points {
    kept: Option<Kept>,
    discarded: Vec<Discarded>,
    /// Names for the next snapshots, by volume. They are recorded before they are used, so that a
    /// crash leaves no snapshot that nobody knows.
    planned: Vec<SnapshotId>,
    /// The record in which they were named first.
    planned_in: u64,
    /// Snapshots that are to be removed.
    unneeded: Snapshots,
    removing: bool,
    keeping: Option<Keeping>,
    /// Mirrors that keep the snapshot with a name that the stores here are still at.
    sooner: Vec<GatewayId>,
    /// When the kept point was taken, if that was since this gateway started.
    kept_ms: Option<u64>,
    /// Before a point is taken to be sent on, what was applied is made durable by this round while
    /// the stream goes on, so that it need not wait for that.
    relay_round: Option<u64>,
    relay_rounds: u64,
    relay_durable: bool,
    /// A store here keeps no snapshots.
    unsupported: bool,
    /// The copy has content of its own that belongs to no history and that no snapshot keeps.
    foreign: bool,
    /// Bytes that were overwritten since a snapshot of such content was taken; `None` when that is
    /// over, or when this gateway started meanwhile.
    overwritten: Option<u64>,
    /// What the record says: the copy is being rolled back to the kept point.
    rolling_back: bool,
    /// The stores are at it.
    rollback: bool,
}

impl Points {
    /// As they were recorded, without those whose snapshots are not there.
    pub(super) fn restore(
        record: PointsRecord,
        volumes: &[VolumeId],
        exists: impl Fn(VolumeId, SnapshotId) -> bool,
    ) -> Self {
        let whole = |snapshots: &Snapshots| {
            snapshots.iter().map(|(volume, _)| volume).eq(volumes)
                && snapshots.iter().all(|(volume, snapshot)| exists(*volume, *snapshot))
        };
        let PointsRecord { kept, discarded, mut unneeded, rolling_back, foreign } = record;
        let (kept, lost) = match kept {
            Some(kept) if whole(&kept.snapshots) => (Some(kept), Vec::new()),
            Some(kept) => (None, kept.snapshots),
            None => (None, Vec::new()),
        };
        unneeded.extend(lost);
        unneeded.retain(|(volume, snapshot)| exists(*volume, *snapshot));
        let mut named = discarded;
        named.retain(|point| point.snapshots.iter().any(|(v, s)| exists(*v, *s)));
        let rolling_back = rolling_back && kept.is_some();
        Self { kept, discarded: named, unneeded, rolling_back, foreign, ..Self::default() }
    }

    /// As they are recorded.
    pub(super) fn record(&self, volumes: impl Iterator<Item = VolumeId>) -> PointsRecord {
        let mut unneeded = self.unneeded.clone();
        unneeded.extend(volumes.zip(self.planned.iter().copied()));
        PointsRecord {
            kept: self.kept.clone(),
            discarded: self.discarded.clone(),
            unneeded,
            rolling_back: self.rolling_back,
            foreign: self.foreign,
        }
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    pub(super) fn kept_ms(&self) -> Option<u64> {
        self.kept_ms
    }

    pub(super) fn discarded(&self) -> &[Discarded] {
        &self.discarded
    }

    /// Whether the stores here can keep points, as far as that is known.
    pub(super) fn are_unsupported(&self) -> bool {
        self.unsupported
    }

    /// Whether the copy has content of its own that belongs to no history and that nobody changed
    /// since.
    pub(super) fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// A change is let in.
    pub(super) fn note_overwritten(&mut self, bytes: u64) {
        if let Some(overwritten) = &mut self.overwritten {
            *overwritten = overwritten.saturating_add(bytes);
        }
    }

    /// The copy is one point in time of the group's history: nothing of its own is overwritten from
    /// here on. If it was counted, it is known now how much was.
    pub(super) fn settle_foreign(&mut self) {
        self.foreign = false;
        if let (Some(bytes), Some(point)) = (self.overwritten.take(), self.discarded.last_mut()) {
            point.bytes = point.bytes.min(bytes);
        }
    }

    /// Whether the copy here is being snapshotted or rolled back.
    pub(super) fn is_busy(&self) -> bool {
        self.rollback || self.rolling_back || self.keeping.is_some()
    }

    /// Whether a point is being kept here that only a mirror keeps.
    pub(super) fn is_busy_for_a_primary(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| !matches!(keeping.why, Why::Named(_)))
    }

    /// Whether a point is being kept: another one must wait for it.
    pub(super) fn is_keeping(&self) -> bool {
        self.keeping.is_some()
    }

    pub(super) fn is_rolling_back(&self) -> bool {
        self.rollback || self.rolling_back
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && !self.removing && self.relay_round.is_none()
    }

    /// Whether names for the next snapshots are there.
    pub(super) fn is_planned(&self) -> bool {
        !self.planned.is_empty()
    }

    /// There is one name for each volume: other volumes need other names.
    pub(super) fn forget_plan(&mut self) {
        self.planned.clear();
    }

    /// The kept point is needed no more.
    pub(super) fn give_up_kept(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.give_up(kept.snapshots);
        }
    }

    /// What an operator gave up stays until an operator removes it (rule 10).
    fn give_up(&mut self, snapshots: Snapshots) {
        if !self.discarded.iter().any(|point| point.snapshots == snapshots) {
            self.unneeded.extend(snapshots);
        }
    }
}

impl Machine {
    pub(super) fn discarded_status(&self) -> Vec<DiscardedStatus> {
        let status = |point: &Discarded| DiscardedStatus {
            snapshots: point.snapshots.clone(),
            bytes: point.bytes,
            unix_ms: point.unix_ms,
        };
        self.points.discarded().iter().map(status).collect()
    }

    /// Names the next snapshots, if there are to be any.
    pub(super) fn plan_points(&mut self) {
        let wanted =
            matches!(self.role, Role::Secondary | Role::Promoting(_)) || self.wants_snapshot();
        if !wanted || !self.points.planned.is_empty() || self.points.unsupported {
            return;
        }
        for _ in 0..self.volumes.len() {
            let name = self.spares.pop().expect("the driver supplies names after every event");
            self.points.planned.push(SnapshotId::from_uuid(name.uuid()));
        }
        self.points.planned_in = self.next_record;
    }

    /// Keeps the point that the copy is at once all that came before is applied. The stream waits.
    pub(super) fn keep_point(&mut self, why: Why, out: &mut Vec<Effect>) {
        let Some(upstream) = &mut self.upstream else { return };
        upstream.recording = true;
        let link = upstream.link;
        self.points.keeping = Some(Keeping { link, why, step: Step::Settling });
        self.advance_point(out);
    }

    /// Takes the snapshots of a point when nothing of what came before is under way any more.
    pub(super) fn advance_point(&mut self, out: &mut Vec<Effect>) {
        let settling = matches!(&self.points.keeping, Some(k) if k.step == Step::Settling);
        let named = self.is_plan_recorded();
        if !settling || self.writes.len() > 0 {
            return;
        }
        if self.latched {
            self.points.keeping = None;
            self.end_following(out);
        } else if let Some(error) = self.upstream.as_ref().and_then(|upstream| upstream.gap)
            && self.is_keeping_the_order()
        {
            self.point_has_gap(error, out);
        } else if self.points.unsupported {
            self.point_unsupported(out);
        } else if named {
            assert_eq!(self.writes.len(), 0, "all that came before it is here (rules 8 and 14)");
            let snapshots = std::mem::take(&mut self.points.planned);
            let mut goes_on = false;
            if let Some(keeping) = &mut self.points.keeping {
                keeping.step = Step::Taking(snapshots.clone());
                goes_on = matches!(keeping.why, Why::Cut { .. } | Why::Named(_));
            }
            if let Some(keeping) = &self.points.keeping {
                self.journal_base(&keeping.why, out);
            }
            out.push(Effect::Snapshot { snapshots });
            if goes_on {
                // What comes behind is not in the snapshots, whenever those become durable.
                // Until they are recorded, the copy has the cut before.
                self.quality_kept(out);
            }
        }
    }

    /// Whether the point that is being kept says that all before it in the stream is in it.
    fn is_keeping_the_order(&self) -> bool {
        let keeping = self.points.keeping.as_ref();
        keeping.is_some_and(|keeping| !matches!(keeping.why, Why::Overwrite))
    }

    /// A change before the point could not be applied: it is none. The primary has been told of the
    /// change, and ends the session.
    fn point_has_gap(&mut self, error: IoError, out: &mut Vec<Effect>) {
        let Some(Keeping { link, why, .. }) = self.points.keeping.take() else { return };
        match why {
            Why::Named(label) => self.named_snapshotted((link, label), &[], Err(error), out),
            Why::Relay => {
                self.relay_point_taken(Err(error), out);
                self.quality_kept(out);
            }
            Why::Cut { .. } | Why::Overwrite => {
                let why = format!("a change before this cut could not be applied: {error}");
                self.drop_upstream(Some(Goodbye::Refused(why)), out);
            }
        }
    }

    /// Whether a crash would know the names of the next snapshots.
    pub(super) fn is_plan_recorded(&self) -> bool {
        let planned_in = self.points.planned_in;
        self.records.front().is_none_or(|(number, _)| *number > planned_in)
    }

    /// The stores answered.
    pub(super) fn on_snapshotted(
        &mut self,
        result: Result<(), IoError>,
        taken: Taken,
        out: &mut Vec<Effect>,
    ) {
        let Some(Keeping { link, why, step: Step::Taking(snapshots) }) = self.points.keeping.take()
        else {
            return;
        };
        let why = match why {
            Why::Relay => return self.relay_snapshotted(snapshots, result, out),
            Why::Named(label) => {
                return self.named_snapshotted((link, label), &snapshots, result, out);
            }
            why @ (Why::Overwrite | Why::Cut { .. }) => why,
        };
        let ours = self.upstream.as_ref().is_some_and(|upstream| upstream.link == link);
        let named: Snapshots = self.volumes.iter().map(|v| v.id).zip(snapshots).collect();
        match result {
            Ok(()) if ours => self.point_taken((link, why), named, taken, out),
            // Nobody waits for it any more.
            Ok(()) => {
                self.points.unneeded.extend(named);
                self.keep(After::Nothing, out);
            }
            Err(error) => {
                self.points.unneeded.extend(named);
                if error == IoError::Latched {
                    self.latch(error, out);
                }
                if ours && error == IoError::Unsupported {
                    self.points.unsupported = true;
                    self.points.keeping = Some(Keeping { link, why, step: Step::Settling });
                    self.point_unsupported(out);
                } else {
                    self.points.unsupported |= error == IoError::Unsupported;
                    self.keep(After::Nothing, out);
                    if ours {
                        let why = format!("cannot keep a snapshot of the copy here: {error}");
                        self.drop_upstream(Some(Goodbye::Refused(why)), out);
                    }
                }
            }
        }
    }

    fn point_taken(
        &mut self,
        (link, why): (u64, Why),
        snapshots: Snapshots,
        Taken { unix_ms, mapped_bytes }: Taken,
        out: &mut Vec<Effect>,
    ) {
        let kept = |quality, lineage| {
            Some(Kept { snapshots: snapshots.clone(), quality, lineage, unix_ms })
        };
        let mut fresh = Vec::new();
        self.points.kept_ms = Some(self.now_ms);
        let cut = match &why {
            Why::Cut { seq, lineage } => {
                self.points.give_up_kept();
                self.points.kept = kept(Quality::Consistent, Some(lineage.clone()));
                self.quality = Quality::Consistent;
                self.lineage = Some(lineage.clone());
                fresh = self.forget_legs();
                self.points.settle_foreign();
                Some(*seq)
            }
            Why::Overwrite => {
                if std::mem::take(&mut self.points.foreign) {
                    let (snapshots, bytes) = (snapshots.clone(), mapped_bytes);
                    self.points.discarded.push(Discarded { snapshots, bytes, unix_ms });
                    self.points.overwritten = Some(0);
                }
                if let Some(own) = self.upstream.as_mut().and_then(|u| u.discards.take()) {
                    let (snapshots, bytes) = (snapshots.clone(), own.at_most(mapped_bytes));
                    self.points.discarded.push(Discarded { snapshots, bytes, unix_ms });
                }
                let is_point = matches!(self.quality, Quality::InSync | Quality::Outdated);
                if is_point && !self.keeps_cut() {
                    self.points.give_up_kept();
                    self.points.kept = kept(self.quality, self.lineage.clone());
                    self.kept_in_company();
                }
                self.quality = Quality::Inconsistent;
                None
            }
            // These have an end of their own.
            Why::Relay | Why::Named(_) => None,
        };
        self.points.keeping = Some(Keeping { link, why, step: Step::Recording });
        self.keep_with(After::PointKept { link, cut }, fresh, out);
    }

    /// The copy here cannot be kept: a change out of order is taken all the same, as it always was,
    /// and status says that there is no kept point; a cut cannot be.
    fn point_unsupported(&mut self, out: &mut Vec<Effect>) {
        let Some(Keeping { link, why, .. }) = self.points.keeping.take() else { return };
        match why {
            Why::Overwrite if self.points.foreign => {
                let why = self.first_difference();
                self.drop_upstream(Some(Goodbye::Refused(why)), out);
            }
            Why::Overwrite => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.discards = None;
                }
                self.quality = Quality::Inconsistent;
                self.points.keeping = Some(Keeping { link, why, step: Step::Recording });
                self.keep(After::PointKept { link, cut: None }, out);
            }
            Why::Cut { .. } => {
                let why = "the store here keeps no snapshots, which this mode needs".to_owned();
                self.drop_upstream(Some(Goodbye::Refused(why)), out);
            }
            Why::Relay => self.quality_kept(out),
            Why::Named(label) => {
                self.named_snapshotted((link, label), &[], Err(IoError::Unsupported), out);
            }
        }
    }

    /// The point is recorded: the stream goes on, if it had to wait.
    pub(super) fn point_kept(&mut self, link: u64, cut: Option<Seq>, out: &mut Vec<Effect>) {
        self.points.keeping = None;
        if self.upstream.as_ref().is_some_and(|upstream| upstream.link == link) {
            if let Some(seq) = cut {
                out.push(Effect::Reply { message: Message::CutApplied { seq } });
            }
            self.quality_kept(out);
        }
    }

    /// The primary is gone: a point that was not begun is not needed.
    pub(super) fn abandon_point(&mut self) {
        if matches!(&self.points.keeping, Some(keeping) if keeping.step == Step::Settling) {
            self.points.keeping = None;
        }
    }

    /// Removes what the newest durable record does not need.
    pub(super) fn remove_unneeded(&mut self, out: &mut Vec<Effect>) {
        let points = &mut self.points;
        if points.removing || points.unneeded.is_empty() || !self.records.is_empty() {
            return;
        }
        points.removing = true;
        let ids: Vec<VolumeId> = self.volumes.iter().map(|volume| volume.id).collect();
        let index = |id| ids.iter().position(|volume| *volume == id);
        let snapshots =
            points.unneeded.iter().filter_map(|(id, s)| index(*id).map(|at| (at, *s))).collect();
        out.push(Effect::RemoveSnapshots { snapshots });
    }

    /// What was removed is forgotten with the next record; what was not is tried again then.
    pub(super) fn on_snapshots_removed(
        &mut self,
        removed: &[(usize, SnapshotId)],
        out: &mut Vec<Effect>,
    ) {
        self.points.removing = false;
        let gone: Snapshots = removed.iter().map(|(at, s)| (self.volumes[*at].id, *s)).collect();
        self.points.unneeded.retain(|snapshot| !gone.contains(snapshot));
        self.forget_deleted(out);
    }
}
