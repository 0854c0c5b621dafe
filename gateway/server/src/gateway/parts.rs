//! Groups over several gateways of a site: founded, looked at, and ruled as one.
//!
//! ```text
//!   an operator's word ─▶ this gateway ─┬─▶ its own part
//!                                       └─▶ a question to each companion ─▶ its part
//! ```
//!
//! Invariant: a companion does only what its machine allows; a run that stopped in the middle says at
//! which part, and can be taken up again.

use std::sync::Arc;
use std::time::Duration;

use api::{CheckState, Code};
use block::{GatewayId, Generation, GroupId, Identity, PartFacts, PartState, VolumeId};
use mirror::{Cause, Command, Consent, Cut, CutStep, GroupStatus, Role, Serving};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use super::volumes::NewVolume;
use crate::book::{GroupEntry, VolumeEntry, hex, unhex};
use crate::failover;
use crate::operations::Running;
use crate::plans::check;
use crate::refusal::Refused;
use crate::status;

/// All parts serve a moment after the last one took over, if they reach each other.
const SERVE_MAX: Duration = Duration::from_secs(30);
const SERVE_PAUSE: Duration = Duration::from_millis(50);

/// What a part is told to do with all others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub(crate) enum Deed {
    /// Suspend its session.
    Suspend,
    /// Resume it, or mirror to the old primary again.
    Resume {
        /// What only the other side has may be overwritten.
        discard: bool,
    },
    /// Hold hosts, and hand over when all parts are drained. Answered when it is begun.
    Reverse {
        /// For how long hosts are held at most.
        drain_ms: u64,
    },
    /// Take the swap back, unless the mirror was asked.
    Recall,
    /// Take over at a cut.
    TakeOver {
        /// What is accepted: `in_sync`, `outdated`, `inconsistent`.
        accept: String,
        /// The cut.
        cut: u64,
        /// It is a new number: the mirrors have none in common.
        apart: bool,
    },
}

/// How a part is, for the gateway that plans for all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Look {
    /// What companions know, as hexadecimal digits.
    pub(crate) state: String,
    /// What its copy is worth.
    pub(crate) quality: api::Quality,
    /// Whether it follows a primary just now.
    pub(crate) connected: bool,
}

/// A part, as it is planned for.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Nobody for the part here.
    pub(crate) gateway: Option<GatewayId>,
    pub(crate) facts: PartFacts,
    pub(crate) quality: block::Quality,
    pub(crate) connected: bool,
}

impl Part {
    fn name(&self, here: &Identity) -> String {
        match self.gateway {
            Some(gateway) => format!("gateway {}", gateway.uuid()),
            None => format!("this gateway, {}", here.gateway.uuid()),
        }
    }
}

const fn quality_of(quality: api::Quality) -> block::Quality {
    match quality {
        api::Quality::Blank => block::Quality::Blank,
        api::Quality::Inconsistent => block::Quality::Inconsistent,
        api::Quality::Outdated => block::Quality::Outdated,
        api::Quality::Consistent => block::Quality::Consistent,
        api::Quality::InSync => block::Quality::InSync,
        api::Quality::Source => block::Quality::Source,
    }
}

/// The companions that count.
pub(crate) fn counted(status: &GroupStatus) -> Vec<GatewayId> {
    let companions = status.parts.iter().flat_map(|parts| &parts.companions);
    companions.filter(|companion| !companion.excluded).map(|c| c.gateway).collect()
}

fn is_connected(status: &GroupStatus) -> bool {
    let up = |up: &mirror::UpstreamStatus| up.link == mirror::LinkState::Connected;
    status.upstream.as_ref().is_some_and(up)
}

impl Gateway {
    // --- founding ---

    /// Makes a volume with which a part of a group begins here that another gateway of this site has.
    ///
    /// # Errors
    /// [`Code::PeerUnknown`], [`Code::Spanning`], [`Code::Exists`], or what that gateway refuses with.
    pub(crate) async fn found_part(
        &self,
        (peer, group): (Uuid, &str),
        new: NewVolume,
    ) -> Result<(), Refused> {
        if self.witnessed() {
            let detail = "a group over several gateways has no witness; this gateway has one";
            return Err(Refused::new(Code::Spanning, detail));
        }
        let known = self.book.read().peers.iter().find(|p| p.gateway == peer).cloned();
        let known = known.ok_or_else(|| {
            Refused::new(Code::PeerUnknown, format!("gateway {peer} is not joined with this one"))
        })?;
        if known.site != self.config.site.name {
            let detail = format!("gateway {peer} stands at {}, not at this site", known.site);
            return Err(Refused::new(Code::Spanning, detail));
        }
        let asked = self.ask(peer, &Question::PartOf { name: group.to_owned() }).await?;
        let (id, others) = asked.part_of()?;
        let mut companions: Vec<Uuid> = others;
        companions.retain(|gateway| *gateway != self.identity.gateway.uuid());
        companions.push(peer);
        companions.sort_unstable();
        companions.dedup();
        self.record_part((id, group), &companions, new).await?;
        for companion in companions {
            self.ask(companion, &Question::Accompany { group: id }).await?.done()?;
        }
        self.events.tell("group", group, "a part of it begins here");
        Ok(())
    }

    /// A call that founded a part here and did not come to its end is ended.
    ///
    /// # Errors
    /// [`Code::Spanning`] when the group there is another one, or what companions refuse with.
    pub(crate) async fn accompany_all(
        &self,
        group: &GroupEntry,
        peer: Uuid,
    ) -> Result<(), Refused> {
        let asked = self.ask(peer, &Question::PartOf { name: group.name.clone() }).await?;
        let (id, _) = asked.part_of()?;
        if id != group.id {
            let detail = format!("the group {:?} there is another one", group.name);
            return Err(Refused::new(Code::Spanning, detail));
        }
        let status = self.status_of(group.group()).await?;
        for companion in counted(&status) {
            self.ask(companion.uuid(), &Question::Accompany { group: id }).await?.done()?;
        }
        Ok(())
    }

    /// Makes the volume and the group's record here, unless an earlier try did.
    async fn record_part(
        &self,
        (id, name): (Uuid, &str),
        companions: &[Uuid],
        new: NewVolume,
    ) -> Result<(), Refused> {
        if let Some(known) = self.book.read().group(name)
            && known.id != id
        {
            let detail = format!("a group {name:?} exists here with another identity");
            return Err(Refused::new(Code::Exists, detail));
        }
        let entry = GroupEntry {
            id,
            name: name.to_owned(),
            volumes: vec![VolumeEntry {
                id: new.volume.uuid(),
                name: new.name.clone(),
                settings: new.settings.clone(),
            }],
        };
        let companions: Vec<_> = companions.iter().map(|id| GatewayId::from_uuid(*id)).collect();
        let volumes: Vec<VolumeId> = vec![new.volume];
        let generation = Generation::from_uuid(Uuid::now_v7());
        let group = GroupId::from_uuid(id);
        let record = mirror::found_part(group, name, volumes, (generation, &companions));
        self.make_volumes(vec![new]).await?;
        let changed = self.book.change(vec![record], |pages| {
            pages.groups.push(entry.clone());
            Ok::<(), Refused>(())
        });
        changed.await?;
        self.open_group(entry).await
    }

    fn witnessed(&self) -> bool {
        self.config.witness.is_some()
    }

    /// Which group a gateway of this site means that wants to hold a part of it.
    pub(super) async fn part_of(&self, peer: &Identity, name: &str) -> Result<Answer, Refused> {
        self.require_same_site(peer)?;
        let entry = self.find_group(name)?;
        let status = self.status_of(entry.group()).await?;
        if status.role != Role::Primary || !status.legs.is_empty() {
            let detail = "it gets its parts before it is mirrored, at its primary's site";
            return Err(Refused::new(Code::Spanning, detail));
        }
        let companions = counted(&status).iter().map(|gateway| gateway.uuid()).collect();
        Ok(Answer::PartOf { group: entry.id, companions })
    }

    fn require_same_site(&self, peer: &Identity) -> Result<(), Refused> {
        if peer.site == self.config.site.name {
            return Ok(());
        }
        let detail = format!("{} is not a gateway of this site", peer.site);
        Err(Refused::new(Code::Forbidden, detail))
    }

    /// Another part of a group begins at the gateway that asks.
    pub(super) async fn accompany(&self, peer: &Identity, group: Uuid) -> Result<Answer, Refused> {
        self.require_same_site(peer)?;
        if self.witnessed() {
            let detail = "a group over several gateways has no witness; this gateway has one";
            return Err(Refused::new(Code::Spanning, detail));
        }
        let group = GroupId::from_uuid(group);
        self.command(group, Command::Accompany { gateway: peer.gateway }).await?;
        Ok(Answer::Done)
    }

    // --- between companions ---

    /// A companion tells how its part is.
    pub(super) async fn hear_companion(
        &self,
        peer: &Identity,
        (group, state): (Uuid, &str),
    ) -> Result<Answer, Refused> {
        let bytes = unhex(state).unwrap_or_default();
        let state = PartState::decode(&bytes)
            .ok_or_else(|| Refused::new(Code::Invalid, "the state of a part cannot be read"))?;
        let (group, gateway) = (GroupId::from_uuid(group), peer.gateway);
        let hear = move |shard: &std::rc::Rc<crate::shard::ShardState>| {
            shard.hear_companion(group, gateway, state)
        };
        let told = self.shard_of(group).call(hear).await?;
        let told = told.ok_or_else(|| {
            Refused::new(
                Code::NotFound,
                format!("{} has no part of it open", self.config.site.name),
            )
        })?;
        Ok(Answer::Companion { state: hex(&told.encode()) })
    }

    async fn companion_status(
        &self,
        peer: &Identity,
        group: GroupId,
    ) -> Result<Arc<GroupStatus>, Refused> {
        let status = self.status_of(group).await?;
        let known = status.parts.iter().flat_map(|parts| &parts.companions);
        if known.into_iter().any(|companion| companion.gateway == peer.gateway) {
            return Ok(status);
        }
        let detail = format!("gateway {} is no companion here", peer.gateway.uuid());
        Err(Refused::new(Code::Forbidden, detail))
    }

    /// How the part here is, for a companion that plans for all.
    pub(super) async fn look_for(&self, peer: &Identity, group: Uuid) -> Result<Answer, Refused> {
        let status = self.companion_status(peer, GroupId::from_uuid(group)).await?;
        let state = status.parts.as_ref().map(|parts| hex(&parts.state.encode()));
        Ok(Answer::Looked(Look {
            state: state.unwrap_or_default(),
            quality: status::quality(status.quality),
            connected: is_connected(&status),
        }))
    }

    /// A companion says what all parts do.
    pub(super) async fn do_for(
        self: &Arc<Self>,
        peer: &Identity,
        (group, deed): (Uuid, Deed),
    ) -> Result<Answer, Refused> {
        let group = GroupId::from_uuid(group);
        let status = self.companion_status(peer, group).await?;
        let text = format!("told by companion {}: {deed:?}", peer.gateway.uuid());
        self.events.tell("group", &status.name, text);
        self.do_here(&status, deed).await?;
        Ok(Answer::Done)
    }

    async fn do_here(self: &Arc<Self>, status: &GroupStatus, deed: Deed) -> Result<(), Refused> {
        let group = status.group;
        let leg = || status.legs.first().ok_or_else(|| Refused::from(mirror::Refusal::Unknown));
        match deed {
            Deed::Suspend => self.command(group, Command::Suspend { leg: leg()?.leg }).await,
            Deed::Resume { discard } => {
                let leg = leg()?;
                if let Some(Cause::SplitBrain { theirs_bytes }) = leg.cause
                    && !discard
                {
                    let next = format!("twinspan reprotect {} --discard", status.name);
                    return Err(super::failovers::would_discard(&leg.site, theirs_bytes, next));
                }
                self.command(group, Command::Resume { leg: leg.leg, discard }).await
            }
            Deed::Reverse { drain_ms } => {
                let leg = leg()?.leg;
                let gateway = Arc::clone(self);
                self.tasks.spawn(async move {
                    let swap = gateway.command(group, Command::Reverse { leg });
                    let drained = tokio::time::sleep(Duration::from_millis(drain_ms));
                    tokio::pin!(swap, drained);
                    let swapped = tokio::select! {
                        swapped = &mut swap => swapped,
                        () = &mut drained => {
                            gateway.recall(group);
                            swap.await
                        }
                    };
                    if let Err(refused) = swapped {
                        tracing::warn!(%group, why = refused.0.detail, "a swap of roles failed");
                    }
                });
                Ok(())
            }
            Deed::Recall => {
                self.recall(group);
                Ok(())
            }
            Deed::TakeOver { accept, cut, apart } => {
                let consent = failover::consent(Some(&accept))?;
                self.command(group, Command::TakeOver { consent, cut, apart }).await
            }
        }
    }

    pub(super) fn recall(&self, group: GroupId) {
        let recall = move |state: &std::rc::Rc<crate::shard::ShardState>| {
            state.recall_handover(group);
        };
        if self.shard_of(group).post(recall).is_err() {
            tracing::warn!(%group, "the group's thread has ended");
        }
    }

    // --- ruling all parts ---

    async fn tell_part(&self, part: GatewayId, group: GroupId, deed: Deed) -> Result<(), Refused> {
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
