//! What a mirror knows of the cuts that it can go back to, and how it takes over at one.
//!
//! Invariant (rule 8 over gateways): a mirror that keeps a point of the newest stretch that was whole
//! gives it up only for one of a later stretch that was whole.

use block::{GatewayId, Goodbye};

use super::{Company, Target};
use crate::command::{Consent, Refusal};
use crate::machine::{After, Effect, Machine, Role};
use crate::record::SpanWord;

impl Company {
    /// The primary says whose mirrors count. One that is not named any more is excluded there; it is
    /// remembered, because it belongs to the group for all that.
    fn told_companions(&mut self, companions: Vec<GatewayId>) {
        for companion in &mut self.all {
            let excluded = !companions.contains(&companion.gateway);
            self.news |= companion.excluded != excluded;
            companion.excluded = excluded;
        }
        let new = |gateway: &GatewayId| !self.all.iter().any(|c| c.gateway == *gateway);
        let new = companions.into_iter().filter(new).collect();
        self.all.extend(Self::new(new).all);
    }
}

impl Machine {
    /// The primary says where its part is.
    pub(in crate::machine) fn told_span(&mut self, bytes: &[u8], out: &mut Vec<Effect>) {
        let Ok(word) = SpanWord::decode(bytes) else {
            let why = "what it says of its companions cannot be read".to_owned();
            self.drop_upstream(Some(Goodbye::Protocol(why)), out);
            return;
        };
        if self.arbiter.is_some() {
            let why = "a group over several gateways cannot be under a witness".to_owned();
            self.drop_upstream(Some(Goodbye::Refused(why)), out);
            return;
        }
        let company = self.company.get_or_insert_with(|| Box::new(Company::new(Vec::new())));
        company.told = word.number;
        company.whole = word.whole;
        if let Some(companions) = word.companions {
            company.told_companions(companions);
        }
        // The copy is of the whole stretch: the point of an earlier one is not needed any more.
        if company.copy == word.whole && company.kept < word.whole {
            self.points.give_up_kept();
        }
        self.keep(After::Nothing, out);
    }

    /// Whether the kept point is that of the newest stretch that was whole, and the copy is not.
    pub(in crate::machine) fn keeps_cut(&self) -> bool {
        self.company.as_ref().is_some_and(|company| {
            let whole = company.whole;
            self.points.kept().is_some()
                && whole > 0
                && company.kept == whole
                && company.copy != whole
        })
    }

    /// A point of the copy was taken.
    pub(in crate::machine) fn kept_in_company(&mut self) {
        if let Some(company) = &mut self.company {
            company.kept = company.copy;
        }
    }

    /// The copy has everything of the stretch that was told last. Says whether its kept point must
    /// stay until that stretch is known to be whole.
    pub(in crate::machine) fn voted_at_mirror(&mut self) -> bool {
        let Some(company) = &mut self.company else { return false };
        company.copy = company.told;
        company.whole > 0 && company.kept == company.whole && company.whole != company.told
    }

    /// The copy is its kept point now.
    pub(in crate::machine) fn went_back_in_company(&mut self) {
        if let Some(company) = &mut self.company {
            company.copy = std::mem::take(&mut company.kept);
        }
    }

    // --- taking over ---

    /// A promotion that asks nobody, unless a handover is only to be ended.
    pub(in crate::machine) fn promote_alone(
        &mut self,
        consent: Consent,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !matches!(self.role, Role::Yielding(_)) {
            self.require_alone("takes over at one cut of all its parts")?;
        }
        self.begin_promotion(consent, out)
    }

    /// An operator wants this mirror to take over at a cut, as those of all parts do.
    pub(in crate::machine) fn take_over_at(
        &mut self,
        (cut, apart): (u64, bool),
        consent: Consent,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let kept = self.points.kept().is_some();
        let company = self.company.as_mut().ok_or(Refusal::Unknown)?;
        if matches!(self.role, Role::Secondary | Role::Fenced { .. }) {
            if !apart && company.copy != cut && !(kept && company.kept == cut) {
                return Err(Refusal::NoSuchCut { cut });
            }
            if apart && consent < Consent::Inconsistent {
                return Err(Refusal::QualityTooLow { quality: self.quality });
            }
            company.target = Some(Target { cut, apart });
        }
        if self.role == Role::Primary && apart && consent == Consent::Inconsistent {
            // It took over already, and elsewhere than the others: an operator says that this is the
            // same for all from here on.
            if let Some(company) = &mut self.company {
                company.from = cut;
            }
            self.keep(After::Command, out);
            return Ok(());
        }
        let begun = self.begin_promotion(consent, out);
        if begun.is_err() {
            self.drop_target();
        }
        begun
    }

    pub(in crate::machine) fn drop_target(&mut self) {
        if let Some(company) = &mut self.company {
            company.target = None;
        }
    }

    /// What a promotion to a certain cut takes, if this is one.
    pub(in crate::machine) fn consent_for_target(&self) -> Option<Consent> {
        let target = self.company.as_ref()?.target?;
        if target.apart {
            return Some(Consent::Inconsistent);
        }
        let back = self.target_is_behind();
        Some(if back == Some(true) {
            Consent::Outdated
        } else {
            Consent::needed(self.quality, false)
        })
    }

    /// Whether a promotion to a certain cut goes back to the kept point; nothing if this is none.
    pub(in crate::machine) fn target_is_behind(&self) -> Option<bool> {
        let company = self.company.as_ref()?;
        let target = company.target.filter(|target| !target.apart)?;
        Some(company.copy != target.cut && self.points.kept().is_some())
    }

    /// This mirror becomes the primary. What it says from here on is above all that was said before.
    pub(in crate::machine) fn took_over_in_company(&mut self, handover: bool) {
        let Some(company) = &mut self.company else { return };
        let told = company.counted().filter_map(|c| c.said.as_ref()).map(|s| s.facts.number);
        let heard = told.max().unwrap_or(0);
        let target = company.target.take();
        company.from = target.map_or(company.copy, |target| target.cut);
        let highest =
            [company.number, company.told, company.copy, company.kept, company.from, heard];
        company.number = highest.into_iter().max().unwrap_or(0) + 1;
        // After a swap every copy of the old primaries is at the cut; else none is known to be.
        company.whole = if handover { company.from } else { 0 };
        company.left = company.left.max(company.number - 1);
        (company.asked, company.voted, company.joined) = (false, false, false);
        company.parting = crate::machine::LegSet::default();
    }

    /// This primary handed over: its copy is at the cut of the stretch that all were in.
    pub(in crate::machine) fn handed_over_in_company(&mut self) {
        self.stop_in_company();
        if let Some(company) = &mut self.company {
            company.copy = company.number;
            company.told = company.number;
        }
    }

    /// This gateway is no primary any more.
    pub(in crate::machine) fn stop_in_company(&mut self) {
        let Some(company) = &mut self.company else { return };
        (company.asked, company.voted, company.joined) = (false, false, false);
        company.parting = crate::machine::LegSet::default();
        company.copy = 0;
    }

    /// A higher epoch exists: this part acknowledges nothing any more, and is past its stretch.
    pub(in crate::machine) fn fenced_in_company(&mut self) {
        self.stop_in_company();
        if let Some(company) = &mut self.company {
            company.left = company.left.max(company.number);
            company.number += 1;
        }
    }
}
