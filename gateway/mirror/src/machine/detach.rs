//! A mirror's copy that an operator opens to hosts while its session is suspended: two independent
//! volumes, each with its own changes tracked, until the session is resumed (REC-05, REC-06).
//!
//! Invariant: a copy is detached only where its primary does not count on it, which it was told
//! before (`Outdated`). What is written here begins a history of its own, so that it can never be
//! taken for the primary's, and is discarded only with the operator's consent (rule 10).

use block::{LegId, Quality};

use super::leg::Leg;
use super::{After, Effect, Machine, Note, Pending, Role};
use crate::command::Refusal;
use crate::dirty::DirtyMap;
use crate::record::RoleRecord;

impl Machine {
    pub(super) fn begin_detachment(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        match self.role {
            Role::Secondary => {}
            Role::Detached => {
                self.finish_command(Ok(()), out);
                return Ok(());
            }
            Role::Primary | Role::Yielding(_) => return Err(Refusal::NotSecondary),
            Role::Promoting(_) => return Err(Refusal::Busy),
            Role::Fenced { by } => return Err(Refusal::Fenced { by }),
        }
        let Some(source) = self.upstream_record.clone() else {
            return Err(Refusal::QualityTooLow { quality: self.quality });
        };
        match self.quality {
            // It may be in the in-sync set: writes at the primary may be waiting for it.
            Quality::InSync | Quality::Source => return Err(Refusal::NotSuspended),
            _ if self.upstream.is_some() => return Err(Refusal::NotSuspended),
            Quality::Outdated => {}
            // A half copied one is of no use to hosts (REC-08), and one that follows behind is a point
            // in time only where its newest cut is.
            quality @ (Quality::Inconsistent | Quality::Consistent | Quality::Blank) => {
                return Err(Refusal::QualityTooLow { quality });
            }
        }
        let known = self.legs.iter().flatten().any(|leg| leg.gateway == source.gateway);
        if !known {
            let free = LegId::all().find(|id| self.leg(*id).is_none());
            let id = free.ok_or(Refusal::TooManyLegs)?;
            let policy = self.policy_towards(&source, id);
            let mut leg = Leg::new(id, source, policy, self.volumes.len());
            leg.base = self.lineage.as_ref().map(|lineage| lineage.current);
            self.legs[id.index()] = Some(Box::new(leg));
        }
        self.command = Some(Pending::Detach);
        self.recorded_role = RoleRecord::Detached;
        self.recorded_detached = true;
        self.keep(After::Detached, out);
        Ok(())
    }

    /// It is recorded: hosts may come once nothing of the primary's is under way any more, which would
    /// change what they read behind their backs.
    pub(super) fn detached(&mut self, out: &mut Vec<Effect>) {
        self.detaching = true;
        self.advance_detachment(out);
    }

    /// Opens the copy when it is still. The first change of a host begins a history of its own.
    pub(super) fn advance_detachment(&mut self, out: &mut Vec<Effect>) {
        if !self.detaching || self.writes.len() > 0 || self.points.is_busy() {
            return;
        }
        self.detaching = false;
        // A primary that opened the group meanwhile comes first.
        if self.role == Role::Secondary && self.recorded_role == RoleRecord::Detached {
            self.role = Role::Detached;
            self.begins_with_next = true;
            out.push(Effect::Note(Note::Detached(true)));
            self.finish_own(Pending::Detach, Ok(()), out);
        } else {
            self.finish_own(Pending::Detach, Err(Refusal::Interrupted), out);
        }
    }

    /// The copy becomes a mirror's again, or is promoted: its hosts go first.
    pub(super) fn end_detachment(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::DropHosts);
        out.push(Effect::Note(Note::Detached(false)));
        self.role = Role::Secondary;
        self.begins_with_next = false;
        self.fail_everything(block::IoError::Fenced, out);
    }

    /// Bytes that were written here and its primary lacks.
    pub(super) fn own_bytes(&self) -> u64 {
        let legs = self.own_legs().collect::<Vec<_>>();
        let most = |volume: usize| {
            let maps = legs.iter().filter_map(|leg| leg.dirty.get(volume));
            maps.map(DirtyMap::bytes).max().unwrap_or(0)
        };
        (0..self.volumes.len()).map(most).sum()
    }
}
