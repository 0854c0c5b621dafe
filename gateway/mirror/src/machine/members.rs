//! Who belongs to the group: a volume joins it, a volume leaves it, while hosts go on.
//!
//! ```text
//!   joins:   legs are cut ─▶ one record: the longer list, all of it dirty there ─▶ legs are opened
//!   leaves:  hosts are held, legs are cut ─▶ nothing is in flight ─▶ the driver takes it out
//!            ─▶ one record: the shorter list, and the group that it goes to ─▶ legs are opened
//! ```
//!
//! Invariant: who belongs is changed by one record, together with whatever else remembers it, so a
//! crash leaves the one or the other. A mirror learns of it when it is opened the next time, and
//! that is the only way it does: one that was away heals by the same road.

use block::{GroupId, LegId, Message, Seq, SessionId, VolumeId};
use bytes::Bytes;

use super::command::Pending;
use super::gate::Held;
use super::leg::Leg;
use super::snapshot::{Restored, restore_volume};
use super::write::refuse;
use super::{After, Effect, Machine, Role};
use crate::command::Refusal;
use crate::limits::GROUP_VOLUMES_MAX;
use crate::record::{GroupRecord, RoleRecord, dirty_key, fresh_key, group_key};
use crate::status::{Cause, SessionState};

/// What is made durable together with a change of members: the caller's own list of them.
pub(crate) type Records = Vec<(String, Option<Bytes>)>;

/// A volume that is leaving.
#[derive(Debug)]
pub(super) struct Dismissal {
    volume: usize,
    /// The group of its own that it goes to.
    to: (GroupId, String),
    records: Records,
    /// It was taken out; that is being recorded.
    is_recording: bool,
}

impl Machine {
    /// Whether who belongs to the group may be changed now.
    fn require_settled(&mut self) -> Result<(), Refusal> {
        match self.role {
            Role::Primary => {}
            Role::Yielding(_) | Role::Promoting(_) => return Err(Refusal::Busy),
            Role::Secondary | Role::Detached => return Err(Refusal::NotPrimary),
            Role::Fenced { by } => return Err(Refusal::Fenced { by }),
        }
        if self.latched {
            return Err(Refusal::Io(block::IoError::Latched));
        }
        if !self.leaving.is_empty() || self.closing {
            return Err(Refusal::Busy);
        }
        if self.own_legs().next().is_some() {
            self.require_alone("gets its volumes before it is mirrored")?;
        }
        // Every mirror leaves the in-sync set for a moment.
        if !self.witness_answers() {
            return Err(Refusal::NoWitness);
        }
        // A mirror that was not heard may have been promoted, and one that hosts wait for holds
        // every acknowledged write of the group as it is: neither is changed behind its back.
        if !self.awaiting.is_empty() || self.is_halted() {
            return Err(Refusal::NotConnected);
        }
        Ok(())
    }

    fn begin_membership(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.command.is_some() {
            out.push(Effect::Answered(Err(Refusal::Busy)));
            return Err(Refusal::Busy);
        }
        self.command = Some(Pending::Plain);
        let settled = self.require_settled();
        if let Err(refusal) = &settled {
            self.finish_command(Err(refusal.clone()), out);
        }
        settled
    }

    /// A volume joins the group, behind those that are there. Each mirror needs all of it, and of
    /// the others what it missed.
    pub(super) fn on_enlist(
        &mut self,
        volume: &Restored,
        sessions: &[SessionId],
        records: Records,
        out: &mut Vec<Effect>,
    ) {
        if self.begin_membership(out).is_err() {
            return;
        }
        let known = self.volumes.iter().any(|state| state.id == volume.volume);
        let refused = if known {
            Some(Refusal::Unknown)
        } else if self.volumes.len() >= GROUP_VOLUMES_MAX {
            Some(Refusal::TooManyVolumes)
        } else if sessions.len() < self.legs.iter().flatten().count() {
            Some(Refusal::SessionsMismatch)
        } else {
            None
        };
        if let Some(refusal) = refused {
            self.finish_command(Err(refusal), out);
            return;
        }
        self.cut_legs(out);
        self.volumes.push(restore_volume(volume));
        let whole = volume.geometry.whole().blocks();
        let mut records = records;
        for (leg, session) in self.legs.iter_mut().flatten().zip(sessions) {
            leg.enlist(*session, whole);
            let mark = leg.dirty.last().map(crate::dirty::DirtyMap::encode);
            records.push((fresh_key(self.group, leg.gateway, volume.volume), mark));
        }
        self.record_members(records, out);
    }

    /// From here on the change happens, also if this gateway is fenced before it is durable.
    fn record_members(&mut self, records: Records, out: &mut Vec<Effect>) {
        self.command = Some(Pending::Members);
        self.points.forget_plan();
        self.keep_with(After::MembersKept, records, out);
    }

    /// A volume leaves the group, to one of its own.
    pub(super) fn on_dismiss(
        &mut self,
        volume: VolumeId,
        to: (GroupId, String),
        records: Records,
        out: &mut Vec<Effect>,
    ) {
        if self.begin_membership(out).is_err() {
            return;
        }
        let index = self.volumes.iter().position(|state| state.id == volume);
        let Some(volume) = index.filter(|_| self.volumes.len() > 1) else {
            let refusal = index.map_or(Refusal::Unknown, |_| Refusal::LastVolume);
            self.finish_command(Err(refusal), out);
            return;
        };
        self.dismissal = Some(Dismissal { volume, to, records, is_recording: false });
        self.cut_legs(out);
    }

    /// The volume that is to be taken out now, if one is: nothing of the group is in flight, and
    /// hosts wait. The driver takes its store out, then says [`super::Event::Dismissed`].
    #[must_use]
    pub fn ready_to_dismiss(&self) -> Option<usize> {
        let dismissal = self.dismissal.as_ref().filter(|dismissal| !dismissal.is_recording)?;
        let quiet = self.role == Role::Primary
            && !self.latched
            && !self.closing
            && self.leaving.is_empty()
            && self.untold.is_none()
            && self.is_idle();
        quiet.then_some(dismissal.volume)
    }

    pub(super) fn on_dismissed(&mut self, out: &mut Vec<Effect>) {
        assert!(self.ready_to_dismiss().is_some(), "the driver asked just now");
        let Some(dismissal) = &mut self.dismissal else { return };
        dismissal.is_recording = true;
        let (at, to) = (dismissal.volume, dismissal.to.clone());
        let mut records = std::mem::take(&mut dismissal.records);
        let gone = self.volumes.remove(at);
        for leg in self.legs.iter_mut().flatten() {
            records.push((dirty_key(self.group, leg.gateway, gone.id), None));
            records.push((fresh_key(self.group, leg.gateway, gone.id), None));
            leg.dismiss(at, gone.id);
        }
        for held in std::mem::take(&mut self.held) {
            let (Held::Change { write, change: (volume, ..) } | Held::Flush { write, volume }) =
                held;
            if volume == at {
                refuse(write, block::IoError::ShuttingDown, out);
            } else {
                self.held.push_back(held.moved_down(at));
            }
        }
        records.push(self.own_group(gone.id, to));
        self.record_members(records, out);
    }

    /// The record of the group that a volume goes to. Its history goes on by itself from here: what
    /// is written to it now, no mirror of this group has.
    fn own_group(
        &mut self,
        volume: VolumeId,
        (group, name): (GroupId, String),
    ) -> (String, Option<Bytes>) {
        let mut lineage = self.lineage.clone();
        let next = self.spares.pop().expect("the driver supplies generations after every event");
        lineage.iter_mut().for_each(|lineage| lineage.begin(next, &[]));
        let record = GroupRecord {
            group,
            name,
            volumes: vec![volume],
            role: RoleRecord::Primary,
            epoch: self.epoch,
            lineage,
            quality: self.quality,
            legs: Vec::new(),
            upstream: None,
            host_boot: self.host_boot,
            points: crate::record::PointsRecord::default(),
            arbitrated: crate::record::Arbitrated::No,
            parts: None,
        };
        (group_key(group), Some(record.encode()))
    }

    /// The mirror has all of every volume, or is forgotten: nothing is new to it any more.
    pub(super) fn end_fresh(&mut self, leg: LegId) -> Records {
        let mut records = Vec::new();
        let (group, volumes) = (self.group, &self.volumes);
        if let Some(state) = self.legs[leg.index()].as_deref_mut() {
            for (fresh, volume) in state.fresh.iter_mut().zip(volumes) {
                if fresh.take().is_some() {
                    records.push((fresh_key(group, state.gateway, volume.id), None));
                }
            }
        }
        records
    }

    /// This copy is another primary's: what its own mirrors lacked is of no use any more, but to
    /// those that it relays to.
    pub(super) fn forget_legs(&mut self) -> Records {
        self.keep_relays()
    }

    /// Who belongs is recorded: hosts go on, mirrors are opened with the new list.
    pub(super) fn members_kept(&mut self, out: &mut Vec<Effect>) {
        self.dismissal = None;
        if self.role == Role::Primary {
            self.dial_wanted(out);
        }
        self.finish_own(Pending::Members, Ok(()), out);
    }

    /// How many volumes the group has.
    #[must_use]
    pub(crate) fn volumes(&self) -> usize {
        self.volumes.len()
    }

    /// Whether links must wait for a record of who belongs to the group.
    pub(super) fn is_regrouping(&self) -> bool {
        self.dismissal.is_some()
            || self.records.iter().any(|(_, after)| *after == After::MembersKept)
    }

    /// A dismissal that was not carried out before this gateway lost the right to: it never was.
    pub(super) fn drop_dismissal(&mut self) {
        if self.dismissal.as_ref().is_some_and(|dismissal| !dismissal.is_recording) {
            self.dismissal = None;
        }
    }

    /// The witness does not let the mirrors leave: the volume stays, and they are opened as they
    /// were. Says whether one was leaving.
    pub(super) fn give_dismissal_up(&mut self, out: &mut Vec<Effect>) -> bool {
        let given_up = self.dismissal.is_some();
        self.drop_dismissal();
        if given_up && self.dismissal.is_none() {
            self.dial_wanted(out);
            return true;
        }
        false
    }

    /// Ends every link at one cut. Those that were wanted are opened again: at once, or when what
    /// waits for it is recorded.
    pub(super) fn cut_legs(&mut self, out: &mut Vec<Effect>) {
        for leg in LegId::all() {
            let Some(state) = self.leg(leg) else { continue };
            let (wanted, live) = (state.wanted, state.stage.is_live());
            if live {
                out.push(Effect::Post { leg, message: Message::Outdate });
                let goodbye = Message::Goodbye(block::Goodbye::Suspended);
                out.push(Effect::Post { leg, message: goodbye });
                self.lose_leg(leg, Cause::Regrouped, SessionState::Suspended, out);
            } else if wanted {
                // It may be in the middle of opening the list as it was.
                out.push(Effect::Hang { leg, redial: false });
            }
            let state = self.leg_mut(leg).expect("checked above");
            if wanted {
                state.state = SessionState::Active;
                state.cause = None;
                if !live {
                    state.stage = super::leg::Stage::Off;
                }
            }
        }
    }

    /// Remembers which volume's copy a mirror could not change, for people to be told.
    pub(super) fn note_failed(&mut self, leg: LegId, seq: Seq) {
        let Some(state) = self.leg(leg) else { return };
        let at = state.inflight.binary_search_by_key(&seq, |inflight| inflight.seq);
        let volume = at.ok().map(|at| state.inflight[at].volume);
        let failed = volume.map(|volume| self.volumes[volume].id);
        let state = self.leg_mut(leg).expect("checked above");
        state.failed = failed;
    }

    /// Some volumes of a mirror that is brought up to date by delta are new to it: those are
    /// emptied there and listed here.
    pub(super) fn list_fresh(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let flying = self.writes.flying();
        let state = self.leg_mut(leg).expect("the caller has it");
        state.stage = super::leg::Stage::Listing;
        for index in 0..state.fresh.len() {
            if state.fresh[index].is_some() {
                state.dirty[index].clear();
                state.suspects[index].clear();
                state.wipe.push(index);
            }
        }
        // What is being written now may not be mapped yet when the map is listed.
        for (volume, range) in flying {
            state.dirty[volume].insert(range);
        }
        out.push(Effect::List { leg });
    }
}

impl Leg {
    fn enlist(&mut self, session: SessionId, whole: block::BlockRange) {
        self.sessions.push(session);
        let mut dirty = crate::dirty::DirtyMap::default();
        dirty.insert(whole);
        self.dirty.push(dirty);
        self.suspects.push(crate::dirty::DirtyMap::default());
        self.fresh.push(Some(whole));
        self.progress.total_bytes.push(0);
        self.progress.copied_bytes.push(0);
        self.progress.full.push(false);
        self.mismatched.push(0);
    }

    fn dismiss(&mut self, at: usize, volume: VolumeId) {
        assert!(!self.stage.is_live(), "a live leg was opened with the list as it was");
        self.sessions.remove(at);
        self.dirty.remove(at);
        self.suspects.remove(at);
        self.fresh.remove(at);
        self.progress.total_bytes.remove(at);
        self.progress.copied_bytes.remove(at);
        self.progress.full.remove(at);
        self.mismatched.remove(at);
        self.cursor = (0, 0);
        if self.failed == Some(volume) {
            // What stood in the way of the others is gone.
            self.failed = None;
            self.wanted = true;
            self.state = SessionState::Active;
            self.cause = None;
        }
    }
}

impl Held {
    /// The same, after a volume in front of it left.
    fn moved_down(self, gone: usize) -> Self {
        let down = |volume: usize| if volume > gone { volume - 1 } else { volume };
        match self {
            Self::Change { write, change: (volume, extent, payload) } => {
                Self::Change { write, change: (down(volume), extent, payload) }
            }
            Self::Flush { write, volume } => Self::Flush { write, volume: down(volume) },
        }
    }
}
