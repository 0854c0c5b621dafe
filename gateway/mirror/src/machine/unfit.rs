//! A primary whose volumes do not fit the copies here.
//!
//! Invariant: its epoch counts whatever does not fit (rule 6), and a copy of which a part is about
//! to go says so first (rule 7).

use block::{Goodbye, Quality};

use super::{After, Effect, Machine, Role};

impl Machine {
    /// A primary's volumes do not fit what is here. Its epoch counts all the same.
    pub(super) fn on_unfit(&mut self, epoch: block::Epoch, why: String, out: &mut Vec<Effect>) {
        let goodbye = self.refuse_epoch(epoch).unwrap_or_else(|| {
            self.fence(epoch, out);
            Goodbye::Refused(why)
        });
        out.push(Effect::Refuse { goodbye });
    }

    /// A part of this copy is about to go, by an operator's consent: nobody is served from it, and it
    /// is not one point in time any more. That is recorded first.
    pub(super) fn on_overwritten(&mut self, epoch: block::Epoch, out: &mut Vec<Effect>) {
        if self.refuse_epoch(epoch).is_some() {
            return;
        }
        self.fence(epoch, out);
        if matches!(self.quality, Quality::InSync | Quality::Outdated) {
            self.quality = Quality::Inconsistent;
        }
        self.distrust_relays(out);
        self.keep(After::Nothing, out);
    }

    /// Whether a part of this copy may go: nobody is served from it, and it says what it is worth.
    pub(crate) fn may_cut(&self) -> bool {
        let is_worthless = matches!(self.quality, Quality::Inconsistent | Quality::Blank);
        let is_mirror = matches!(self.role, Role::Secondary | Role::Fenced { .. });
        is_worthless && is_mirror && !self.latched && self.is_idle()
    }
}
