//! What all parts of a group do together, ruled from one of them.
//!
//! Invariant: whichever part a run stopped at is named, and the same call goes on from there.

use std::sync::Arc;
use std::time::Duration;

use api::{CheckState, Code};
use block::{GatewayId, GroupId, PartFacts, PartState};
use mirror::{Command, Consent, Cut, CutStep, GroupStatus, Serving};

use super::{Deed, Part, counted, is_connected, quality_of};
use crate::book::unhex;
use crate::failover;
use crate::gateway::Gateway;
use crate::gateway::asks::{Answer, Question};
use crate::operations::Running;
use crate::plans::check;
use crate::refusal::Refused;
use crate::status;

/// All parts serve a moment after the last one took over, if they reach each other.
const SERVE_MAX: Duration = Duration::from_secs(30);
const SERVE_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    // --- ruling all parts ---

    pub(super) async fn tell_part(
        &self,
        part: GatewayId,
        group: GroupId,
        deed: Deed,
    ) -> Result<(), Refused> {
        let question = Question::Do { group: group.uuid(), deed };
        let told = self.ask(part.uuid(), &question).await.and_then(Answer::done);
        told.map_err(|refused| {
            let Refused(mut problem) = refused;
            problem.detail = format!("the part at gateway {}: {}", part.uuid(), problem.detail);
            Refused(problem)
        })
    }

    /// Lets every companion do what was done here. The first that does not is named; the others do it.
    pub(crate) async fn tell_all(&self, status: &GroupStatus, deed: &Deed) -> Result<(), Refused> {
        let mut first = Ok(());
        for companion in counted(status) {
            first = first.and(self.tell_part(companion, status.group, deed.clone()).await);
        }
        first
    }

    /// How every part at this site is; the first that cannot be asked is named.
    pub(crate) async fn look_at_parts(&self, status: &GroupStatus) -> Result<Vec<Part>, Refused> {
        let facts = status.parts.as_ref().map(|parts| parts.state.facts).unwrap_or_default();
        let (quality, connected) = (status.quality, is_connected(status));
        let mut parts = vec![Part { gateway: None, facts, quality, connected }];
        for companion in counted(status) {
            let question = Question::PartLook { group: status.group.uuid() };
            let looked = self.ask(companion.uuid(), &question).await.and_then(Answer::looked);
            let look = looked.map_err(|refused| {
                let id = companion.uuid();
                let detail =
                    format!("the part at gateway {id} cannot be asked: {}", refused.0.detail);
                let exclude = format!("twinspan group exclude {} --gateway {id}", status.name);
                Refused::new(Code::PeerUnreachable, detail)
                    .next(format!("start that gateway; if it is lost for good: {exclude}"))
            })?;
            let state = unhex(&look.state).and_then(|bytes| PartState::decode(&bytes));
            let state =
                state.ok_or_else(|| Refused::new(Code::PeerRefused, "its state cannot be read"))?;
            parts.push(Part {
                gateway: Some(companion),
                facts: state.facts,
                quality: quality_of(look.quality),
                connected: look.connected,
            });
        }
        Ok(parts)
    }

    /// What a failover does with each part, as lines of its plan.
    pub(crate) fn part_checks(&self, parts: &[Part], consent: Consent) -> (Cut, Vec<api::Check>) {
        let facts: Vec<PartFacts> = parts.iter().map(|part| part.facts).collect();
        let cut = Cut::of(&facts);
        let line = |part: &Part| {
            let needs = cut.consent(&part.facts, part.quality);
            let (number, word) = (cut.number, failover::consent_word(needs));
            let quality = status::quality_text(part.quality);
            let what = match cut.step(&part.facts) {
                CutStep::Done => format!("took over at the cut of stretch {number} already"),
                CutStep::AsItIs => format!("its copy, {quality}, is taken as of stretch {number}"),
                CutStep::Back => {
                    format!("goes back to the point kept at the cut of stretch {number}")
                }
                CutStep::Apart => {
                    "has no cut in common with the others: it is taken as it is, and \
                                   later writes may be there without earlier ones"
                        .to_owned()
                }
            };
            let alive = part.connected && consent < Consent::Outdated;
            let name = part.name(&self.identity);
            if needs > consent {
                let text = format!("{what}; if this is meant: --accept {word}");
                check(&name, CheckState::Blocked, text)
            } else if alive {
                let text = "its primary still answers: migrate loses nothing; if this is meant: \
                            --accept outdated";
                check(&name, CheckState::Blocked, text)
            } else if needs == Consent::InSync {
                check(&name, CheckState::Ok, what)
            } else {
                check(&name, CheckState::Warning, what)
            }
        };
        (cut, parts.iter().map(line).collect())
    }

    /// The parts that a failover leaves where they are, as lines of its plan.
    pub(crate) fn excluded_checks(status: &GroupStatus) -> Vec<api::Check> {
        let companions = status.parts.iter().flat_map(|parts| &parts.companions);
        let excluded = companions.filter(|companion| companion.excluded);
        let line = |companion: &mirror::CompanionStatus| {
            let name = format!("gateway {}", companion.gateway.uuid());
            let text = "it is excluded: its volumes are not taken over and not in the order";
            check(&name, CheckState::Warning, text)
        };
        excluded.map(line).collect()
    }

    /// Promotes every part at this site at one cut, and waits until all serve.
    pub(crate) async fn promote_parts(
        self: &Arc<Self>,
        running: &mut Running,
        group: GroupId,
        (consent, planned): (Consent, Cut),
    ) -> Result<(), Refused> {
        running.step("ask every part again");
        let status = self.status_of(group).await?;
        let parts = self.look_at_parts(&status).await?;
        let facts: Vec<PartFacts> = parts.iter().map(|part| part.facts).collect();
        let cut = Cut::of(&facts);
        if cut != planned {
            let detail = "since the plan was made a part has changed what it can go back to";
            return Err(Refused::new(Code::PlanToken, detail));
        }
        running.done(format!("the cut of stretch {}", cut.number));
        for part in &parts {
            if cut.step(&part.facts) == CutStep::Done {
                continue;
            }
            running.step(&format!("take over at {}", part.name(&self.identity)));
            let accept = failover::consent_word(consent).to_owned();
            let deed = Deed::TakeOver { accept, cut: cut.number, apart: cut.apart };
            match part.gateway {
                None => self.do_here(&status, deed).await?,
                Some(companion) => self.tell_part(companion, group, deed).await?,
            }
            running.done("recorded");
        }
        running.step("serve");
        running.done(self.await_serving(group).await?);
        Ok(())
    }

    /// Waits until the part here serves, which it does when all took over.
    async fn await_serving(&self, group: GroupId) -> Result<String, Refused> {
        let until = tokio::time::Instant::now() + SERVE_MAX;
        loop {
            let status = self.status_of(group).await?;
            if status.serving == Serving::Yes {
                return Ok(format!("all parts serve; epoch {} here", status.epoch));
            }
            if tokio::time::Instant::now() >= until {
                let waits = status.parts.as_ref().and_then(|parts| parts.waits_for);
                let who =
                    waits.map_or_else(String::new, |id| format!(" for gateway {}", id.uuid()));
                let detail =
                    format!("the part here took over and waits{who}: {:?}", status.serving);
                return Err(Refused::new(Code::WaitingForCompanion, detail));
            }
            tokio::time::sleep(SERVE_PAUSE).await;
        }
    }

    /// Why the roles of all parts cannot be swapped now, if they cannot.
    pub(crate) async fn parts_not_together(&self, status: &GroupStatus) -> Option<String> {
        let ours = status.parts.as_ref()?.state.facts;
        if counted(status).len() < status.parts.as_ref()?.companions.len() {
            return Some("a companion is excluded: take it back in, or fail over".to_owned());
        }
        match self.look_at_parts(status).await {
            Err(refused) => Some(refused.0.detail),
            Ok(parts) => {
                let apart =
                    |part: &&Part| !part.facts.has_joined || part.facts.number != ours.number;
                let part = parts.iter().find(apart)?;
                Some(format!("{} is not in sync with the others", part.name(&self.identity)))
            }
        }
    }

    /// Lets every companion hand over with this part. If one cannot begin, none hands over.
    pub(crate) async fn begin_swap_of_parts(
        &self,
        status: &GroupStatus,
        drain: Duration,
    ) -> Result<(), Refused> {
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let begun = self.tell_all(status, &Deed::Reverse { drain_ms }).await;
        if begun.is_err() {
            self.recall_parts(status).await;
        }
        begun
    }

    /// Takes the swap back at every companion that did not ask its mirror yet.
    pub(crate) async fn recall_parts(&self, status: &GroupStatus) {
        if let Err(refused) = self.tell_all(status, &Deed::Recall).await {
            // It gives up by itself when hosts were held for as long as they may be.
            tracing::warn!(why = refused.0.detail, "a part did not hear that a swap is recalled");
        }
    }

    /// Waits until every companion handed over too.
    pub(crate) async fn await_swap_of_parts(&self, status: &GroupStatus) -> Result<(), Refused> {
        let until = tokio::time::Instant::now() + SERVE_MAX;
        loop {
            let waits = match self.look_at_parts(status).await {
                Ok(parts) => {
                    let still = |part: &&Part| part.gateway.is_some() && part.facts.is_primary;
                    parts.iter().find(still).map(|part| part.name(&self.identity))
                }
                Err(refused) => Some(refused.0.detail),
            };
            let Some(who) = waits else { return Ok(()) };
            if tokio::time::Instant::now() >= until {
                let detail = format!(
                    "the part here is handed over and {who} is not: run it again there, or fail over"
                );
                return Err(Refused::new(Code::WaitingForCompanion, detail));
            }
            tokio::time::sleep(SERVE_PAUSE).await;
        }
    }

    // --- excluding ---

    /// Excludes a companion, or takes it back in.
    ///
    /// # Errors
    /// [`Code::NeedsConsent`] without the word that it is stopped; [`Code::NotFound`]; the group's.
    pub(crate) async fn mark_companion(
        &self,
        group: &str,
        request: &api::CompanionRequest,
        exclude: bool,
    ) -> Result<api::Group, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let gateway = GatewayId::from_uuid(request.gateway);
        let companions = status.parts.iter().flat_map(|parts| &parts.companions);
        let known = companions.into_iter().find(|companion| companion.gateway == gateway);
        let known = known.ok_or_else(|| {
            let detail = format!("gateway {} holds no other part of {group}", request.gateway);
            Refused::new(Code::NotFound, detail)
        })?;
        if exclude && !request.stopped {
            let answers = known.reachable == Some(true);
            let detail = format!(
                "nothing waits for gateway {} any more: writes are acknowledged here whatever it \
                 does, and its volumes are out of the group's order. {}If it is stopped, and stays \
                 so until it is taken back in, say so",
                request.gateway,
                if answers { "It answers just now! " } else { "" }
            );
            let next =
                format!("twinspan group exclude {group} --gateway {} --stopped", request.gateway);
            return Err(Refused::new(Code::NeedsConsent, detail).next(next));
        }
        let command =
            if exclude { Command::Exclude { gateway } } else { Command::Include { gateway } };
        self.command(entry.group(), command).await?;
        let known = self.look_at(entry.group()).await;
        Ok(Self::show_group(&entry, &known))
    }

    /// Suspends or resumes the sessions of all parts: this one's first.
    pub(crate) async fn rule_all_parts(&self, group: GroupId, deed: &Deed) -> Result<(), Refused> {
        let status = self.status_of(group).await?;
        if status.parts.is_none() {
            return Ok(());
        }
        self.tell_all(&status, deed).await
    }
}
