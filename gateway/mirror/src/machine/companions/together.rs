//! Snapshots of all parts of a group at one cut.
//!
//! ```text
//!   whoever is asked ── Hold ──▶ every part: new changes wait ── held ──▶ when all are:
//!                    ── TakeHeld ──▶ every part: what is under way is applied, the stores begin,
//!                                    the mirror is told, hosts go on
//! ```
//!
//! Invariant (rule 14 over gateways): a part takes its snapshot while it has held its hosts without a
//! pause since it said so, and is told to when every part has said so. What a host wrote after an
//! answer of another part is therefore in no snapshot whose other parts lack what was answered.

use block::SnapshotId;

use crate::command::Refusal;
use crate::machine::{After, Effect, Machine, Pending, Role};
use crate::record::Label;

/// How long hosts are held for the other parts, in milliseconds. A part that was told nothing until
/// then lets them go on, and takes no snapshot under that name any more.
const SNAPSHOT_HOLD_MS: u64 = 3_000;

/// A snapshot for which this part waits for the others.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    label: Label,
    since_ms: u64,
    /// New changes wait, and have since it was said.
    held: bool,
    /// All parts hold: it is taken when what is under way is applied here.
    told: bool,
}

impl Machine {
    /// Holds new changes for a snapshot of all parts, of which none may have taken over elsewhere.
    pub(in crate::machine) fn hold_together(
        &mut self,
        label: Label,
        from: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        let company = self.company.as_ref().ok_or(Refusal::Unknown)?;
        if self.waits_for_companions() || company.from != from {
            return Err(Refusal::PartsApart);
        }
        if self.wants_snapshot() {
            return Err(Refusal::Busy);
        }
        self.may_name(&label)?;
        self.command = Some(Pending::Hold(label.id));
        let since_ms = self.now_ms;
        if let Some(company) = &mut self.company {
            company.holding = Some(Holding { label, since_ms, held: false, told: false });
        }
        if !self.points.is_planned() {
            self.keep(After::Nothing, out);
        }
        Ok(())
    }

    /// All parts hold their hosts.
    pub(in crate::machine) fn take_held(&mut self, id: SnapshotId) -> Result<(), Refusal> {
        let holding = self.company.as_mut().and_then(|company| company.holding.as_mut());
        match holding {
            Some(holding) if holding.label.id == id && holding.held && !holding.told => {
                holding.told = true;
                self.command = Some(Pending::Snapshot(id));
                Ok(())
            }
            _ => Err(Refusal::HoldEnded),
        }
    }

    /// Not all parts hold: hosts go on here. One that is being taken is not given up any more.
    pub(in crate::machine) fn let_go(&mut self, id: SnapshotId, out: &mut Vec<Effect>) {
        let holding = self.company.as_ref().and_then(|company| company.holding.as_ref());
        if holding.is_some_and(|holding| holding.label.id == id && !holding.told) {
            self.end_hold(out);
        }
    }

    /// Whether hosts' changes wait for the other parts.
    pub(in crate::machine) fn holds_together(&self) -> bool {
        let holding = self.company.as_ref().and_then(|company| company.holding.as_ref());
        holding.is_some_and(|holding| holding.held)
    }

    /// Whether a snapshot is about to be taken, of this part or of all.
    pub(in crate::machine) fn wants_snapshot(&self) -> bool {
        self.asked.is_some() || self.company.as_ref().is_some_and(|c| c.holding.is_some())
    }

    fn end_hold(&mut self, out: &mut Vec<Effect>) {
        let Some(company) = &mut self.company else { return };
        let Some(Holding { label, told, .. }) = company.holding.take() else { return };
        let own = if told { Pending::Snapshot(label.id) } else { Pending::Hold(label.id) };
        self.finish_own(own, Err(Refusal::HoldEnded), out);
    }

    /// Time passed.
    pub(super) fn hold_tick(&mut self, out: &mut Vec<Effect>) {
        let holding = self.company.as_ref().and_then(|company| company.holding.as_ref());
        if holding.is_some_and(|holding| self.now_ms >= holding.since_ms + SNAPSHOT_HOLD_MS) {
            self.end_hold(out);
        }
    }

    /// Begins to hold as soon as names for the stores are recorded. Gives out what is to be taken now.
    pub(in crate::machine) fn advance_hold(&mut self, out: &mut Vec<Effect>) -> Option<Label> {
        let company = self.company.as_ref()?;
        let holding = company.holding.as_ref()?;
        if self.role != Role::Primary || self.latched || company.excluded_by.is_some() {
            self.end_hold(out);
            return None;
        }
        let (id, held, told) = (holding.label.id, holding.held, holding.told);
        let planned = self.points.is_planned() && self.is_plan_recorded();
        if !held && planned {
            if let Some(holding) = self.company.as_mut().and_then(|c| c.holding.as_mut()) {
                holding.held = true;
            }
            self.finish_own(Pending::Hold(id), Ok(()), out);
        }
        if !told || !planned || self.writes.any_unapplied() || self.points.is_busy() {
            return None;
        }
        assert!(held, "hosts were held since this part said so (rule 14)");
        let holding = self.company.as_mut().and_then(|company| company.holding.take());
        holding.map(|holding| holding.label)
    }
}
