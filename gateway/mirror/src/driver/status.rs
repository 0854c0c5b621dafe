//! The group's status, with what only the driver knows.
//!
//! Invariant: an RPO is given only where it can be known; otherwise it is absent.

use block::{GatewayId, Quality};

use super::Group;
use crate::differences::Differences;
use crate::machine::Event;
use crate::status::{GroupStatus, LinkState, Role};

impl Group {
    /// The group as this gateway sees it now.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let core = self.core.borrow();
        let mut status = core.machine.status();
        let offset = self.clock.unix_ms().saturating_sub(self.uptime_ms());
        for (volume, member) in status.volumes.iter_mut().zip(&core.members) {
            volume.bytes = member.store.geometry().bytes();
            volume.mapped_bytes = member.store.usage().mapped_bytes;
        }
        for leg in &mut status.legs {
            leg.resync_started_ms = leg.resync_started_ms.map(|at| at + offset);
            leg.cut_ms = leg.cut_ms.map(|at| at + offset);
            for spell in &mut leg.spells {
                spell.begin_ms += offset;
                spell.end_ms = spell.end_ms.map(|at| at + offset);
            }
            leg.last_heard_ms = core.leg_memory[leg.leg.index()];
            leg.verified = core.certificates[leg.leg.index()];
            if let Some(port) = &core.legs[leg.leg.index()] {
                leg.rtt_us = port.rtt_us;
                leg.send_queue_bytes = port.port.queued_bytes();
                leg.journal_bytes = port.journal.bytes();
                leg.spilled_bytes = port.journal.spilled_bytes();
            }
        }
        if let Some(upstream) = &mut status.upstream {
            upstream.last_heard_ms = core.upstream_heard;
        }
        status.rpo_ms = self.rpo_ms(&status);
        status
    }

    /// How old the oldest acknowledged write is that this mirror may lack. While the link is up an
    /// in-sync mirror has everything; after it broke, the primary may have gone on alone since. What
    /// a mirror that goes back to its kept point lacks, the primary said when it was last heard.
    fn rpo_ms(&self, status: &GroupStatus) -> Option<u64> {
        if status.role != Role::Secondary {
            return None;
        }
        let upstream = status.upstream.as_ref()?;
        let in_sync = status.quality == Quality::InSync;
        let then = if in_sync { 0 } else { status.kept.as_ref().and(upstream.lag_ms)? };
        if upstream.orderly || (in_sync && upstream.link == LinkState::Connected) {
            return Some(then);
        }
        Some(then + self.clock.unix_ms().saturating_sub(upstream.last_heard_ms?))
    }

    /// Where the mirror at that gateway may differ, by volume; `None` when this group has none there.
    #[must_use]
    pub fn differences(&self, gateway: GatewayId) -> Option<Vec<Differences>> {
        self.core.borrow().machine.lacking(gateway)
    }

    /// Whether [`crate::Command::AddLeg`] would be taken now, at a primary.
    ///
    /// # Errors
    /// What it would be refused with; nothing is changed either way.
    pub fn may_mirror(
        &self,
        gateway: GatewayId,
        policy: &crate::Policy,
        holds_content: bool,
    ) -> Result<(), crate::Refusal> {
        self.core.borrow().machine.may_mirror(gateway, policy, holds_content)
    }

    /// Takes a planned swap of roles back whose mirror was not asked yet: hosts go on here, and
    /// whoever commanded it is told that it was interrupted. One whose mirror was asked is not
    /// touched, because only the mirror knows what became of it.
    pub fn recall_handover(self: &std::rc::Rc<Self>) {
        self.push_event(Event::Recall);
    }

    /// Lets hosts go on that are held for a snapshot of all parts, because not all of them are. One
    /// that is being taken already is taken.
    pub fn let_go(self: &std::rc::Rc<Self>, snapshot: block::SnapshotId) {
        self.push_event(Event::LetGo { snapshot });
    }

    /// Who this gateway is.
    #[must_use]
    pub fn identity(&self) -> &block::Identity {
        &self.identity
    }
}
