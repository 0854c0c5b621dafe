//! Groups over several gateways of a site: founded, looked at, and ruled as one.
//!
//! ```text
//!   an operator's word ─▶ this gateway ─┬─▶ its own part
//!                                       └─▶ a question to each companion ─▶ its part
//! ```
//!
//! Invariant: a companion does only what its machine allows; a run that stopped in the middle says at
//! which part, and can be taken up again.

mod rule;
pub(super) mod together;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GatewayId, Generation, GroupId, Identity, PartFacts, PartState, VolumeId};
use mirror::{Cause, Command, GroupStatus, Role};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use super::volumes::NewVolume;
use crate::book::{GroupEntry, VolumeEntry, hex, unhex};
use crate::failover;
use crate::refusal::Refused;
use crate::status;

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
    /// Hold hosts for a snapshot of all parts.
    Hold {
        /// What it is known by.
        snapshot: Uuid,
        /// What it is called.
        name: String,
        /// When, in Unix milliseconds.
        unix_ms: u64,
        /// The cut at which all parts became primaries.
        from: u64,
    },
    /// All parts hold their hosts: take it.
    TakeHeld {
        /// Which.
        snapshot: Uuid,
    },
    /// Not all do: let hosts go on.
    LetGo {
        /// Which.
        snapshot: Uuid,
    },
    /// Remove a snapshot of all parts, if it is here.
    Forget {
        /// Which.
        snapshot: Uuid,
    },
}

impl Deed {
    /// The oldest version of the protocol whose gateways understand it.
    pub(super) const fn version_min(&self) -> u16 {
        match self {
            Self::Suspend
            | Self::Resume { .. }
            | Self::Reverse { .. }
            | Self::Recall
            | Self::TakeOver { .. } => block::SPAN_SINCE_VERSION,
            Self::Hold { .. }
            | Self::TakeHeld { .. }
            | Self::LetGo { .. }
            | Self::Forget { .. } => block::POINTS_SINCE_VERSION,
        }
    }
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
    /// The snapshots that it keeps; nothing from a gateway that does not say.
    #[serde(default)]
    pub(crate) snapshots: Option<Vec<Uuid>>,
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

    /// Makes a volume with which a part of a group begins here, or ends what an earlier call began.
    ///
    /// # Errors
    /// As [`Self::found_part`].
    pub(super) async fn create_part(
        &self,
        (peer, group): (Uuid, &str),
        wanted: api::VolumeCreate,
    ) -> Result<api::Volume, Refused> {
        let pages = self.book.read();
        match pages.volume(&wanted.name) {
            Some((known, _)) if known.name == group => {
                self.accompany_all(&known.clone(), peer).await?;
            }
            Some(_) => {
                let detail = format!("a volume {:?} exists here", wanted.name);
                return Err(Refused::new(Code::Exists, detail));
            }
            None => {
                let new = NewVolume {
                    volume: VolumeId::from_uuid(Uuid::now_v7()),
                    name: wanted.name.clone(),
                    bytes: wanted.bytes.unwrap_or_default(),
                    settings: wanted.settings,
                    origin: None,
                };
                self.found_part((peer, group), new).await?;
            }
        }
        self.volume(&wanted.name).await
    }

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
        if let Some(known) = self.book.read().group(name) {
            let detail = if known.id == id {
                "this gateway has its part already: leave part_of out, and the volume joins it"
            } else {
                "a group of this name exists here with another identity"
            };
            return Err(Refused::new(Code::Exists, detail));
        }
        let entry = GroupEntry {
            id,
            name: name.to_owned(),
            volumes: vec![VolumeEntry {
                id: new.volume.uuid(),
                name: new.name.clone(),
                settings: new.settings.clone(),
                lun: None,
                initiator_luns: BTreeMap::new(),
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
        if let Some(disk) = entry.volumes.iter().find(|volume| volume.lun.is_some()) {
            let detail = format!("volume {} is a disk of the group's iSCSI target", disk.name);
            let next =
                format!("give it a target of its own: twinspan volume lun {} --none", disk.name);
            return Err(Refused::new(Code::Spanning, detail).next(next));
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
            snapshots: Some(
                (status.snapshots.iter())
                    .filter(|kept| kept.state != mirror::SnapshotState::Error)
                    .map(|kept| kept.id.uuid())
                    .collect(),
            ),
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
            Deed::Hold { .. }
            | Deed::TakeHeld { .. }
            | Deed::LetGo { .. }
            | Deed::Forget { .. } => self.snapshot_deed(group, deed).await,
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
}
