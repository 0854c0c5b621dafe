//! Pairs and groups as the EVS and SDRS dialects have them, over the core's groups and sessions.
//!
//! ```text
//!   call ─▶ the gateway that rules it (the production site's; of a failover the other one)
//!            ├─ the same calls of the core as everybody's
//!            └─ the record, in the book ─▶ the same record at the other gateway
//! ```
//!
//! Invariant: what data does is asked of the core whenever it is shown; a record says only what the core
//! does not know. Nothing is decided here that the core would refuse. A call that is ruled elsewhere is
//! passed on, once.

mod codes;
mod deeds;
mod direction;
mod disks;
mod drills;
pub(crate) mod gates;
mod groups;
mod heard;
mod instances;
mod jobs;
mod joined;
mod outside;
mod pairs;
mod records;
pub(crate) mod view;

use std::sync::Arc;

use api::Code;
use block::Identity;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use codes::{coded, fault, own_code};
pub(crate) use disks::DiskSeen;
pub(crate) use heard::Heard;
pub(crate) use instances::{InstanceCall, NewInstance, NewNic, TAGS_MAX};

use super::Gateway;
use super::asks::{Answer, Question, unexpected};
use crate::book::PeerEntry;
use crate::book::evs::{Dialect, EvsPages, Group, Life, Pair, Record};
use crate::refusal::Refused;
use gates::Action;

/// What the core means by no answer, in the volume service's numbers.
const INTERNAL: &str = "37000212";

/// A pair that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NewPair {
    pub(crate) dialect: Dialect,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Both disks; of the disaster recovery service only the production disk.
    pub(crate) disks: Vec<Uuid>,
    /// The production site.
    pub(crate) station: String,
    /// The group that it is made in.
    pub(crate) group: Option<Uuid>,
    pub(crate) overwrites: bool,
}

/// A group that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NewGroup {
    pub(crate) dialect: Dialect,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) pairs: Vec<Uuid>,
    /// The production site and, where no pair says it, the other one.
    pub(crate) station: String,
    pub(crate) target: Option<String>,
    pub(crate) vpc: String,
    pub(crate) domain: String,
}

/// A change of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct SetGroup {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) add: Vec<Uuid>,
    pub(crate) remove: Vec<Uuid>,
}

/// What is to be done, by the gateway that rules it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(crate) enum Call {
    MakePair(NewPair),
    SetPair {
        id: Uuid,
        name: Option<String>,
        description: Option<String>,
    },
    DeletePair {
        id: Uuid,
        with_target: bool,
    },
    ExtendPair {
        id: Uuid,
        gib: u64,
    },
    MakeGroup(NewGroup),
    SetGroup {
        id: Uuid,
        change: SetGroup,
    },
    DeleteGroup {
        id: Uuid,
    },
    Act {
        id: Uuid,
        action: Action,
    },
    MakeDrill {
        name: String,
        group: Uuid,
        vpc: String,
    },
    DeleteDrill {
        id: Uuid,
    },
    /// Take a snapshot that a drill is made of.
    Snap {
        group: Uuid,
        name: String,
    },
    Unsnap {
        group: Uuid,
        name: String,
    },
    PurgeJobs {
        ids: Vec<Uuid>,
    },
    Instance {
        of: InstanceCall,
    },
}

/// What a call began or made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Made {
    /// The thing.
    pub(crate) id: Uuid,
    /// The job, of the disaster recovery service.
    pub(crate) job: Option<Uuid>,
}

/// What one gateway asks the other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "evs", rename_all = "snake_case")]
pub(crate) enum EvsQuestion {
    /// Keep this record.
    Keep { record: Box<Record> },
    /// How is this disk of yours?
    Disk { disk: Uuid },
    /// Let a disk become a destination.
    Take { disk: Uuid, volume: Uuid, bytes: u64, overwrites: bool },
    /// These copies are mirrored no more: let each be a volume of its own.
    Free { volumes: Vec<Uuid> },
    /// Delete what was a copy.
    Remove { volume: Uuid },
    /// What does the data of a group do that you serve?
    Data { group: Uuid },
    /// Do what you rule.
    Call(Call),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "evs", rename_all = "snake_case")]
pub(crate) enum EvsAnswer {
    /// The disk, if it is here.
    Disk { seen: Option<DiskSeen> },
    /// What the data of each pair does.
    Data { pairs: Vec<(Uuid, view::Data)> },
    /// What a call made.
    Made(Made),
    /// Done.
    Done,
}

fn not_found(what: &str, id: Uuid, theirs: &str) -> Refused {
    coded(Code::NotFound, theirs, format!("there is no {what} {id}"))
}

fn of_dialect(
    asked: Dialect,
    its: Dialect,
    (what, id, theirs): (&str, Uuid, &str),
) -> Result<(), Refused> {
    match (asked, its) {
        (Dialect::Evs, Dialect::Evs) | (Dialect::Sdrs, Dialect::Sdrs) => Ok(()),
        (Dialect::Sdrs, Dialect::Evs) => {
            let detail = format!("{what} {id} is of the volume service: use /v2");
            Err(coded(Code::NotFound, theirs, detail))
        }
        (Dialect::Evs, Dialect::Sdrs) => {
            let detail = format!("{what} {id} is of the disaster recovery service: use /v1");
            Err(Refused::new(Code::NotFound, detail))
        }
    }
}

impl EvsPages {
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn pair(&self, id: Uuid) -> Result<&Pair, Refused> {
        let found = self.pairs().find(|pair| pair.head.id == id);
        found.ok_or_else(|| not_found("replication pair", id, "SDRS.0213"))
    }

    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn group(&self, id: Uuid) -> Result<&Group, Refused> {
        let found = self.groups().find(|group| group.head.id == id);
        found.ok_or_else(|| not_found("group", id, "SDRS.1013"))
    }

    /// A pair of one dialect's: that of the other is not found by its calls.
    ///
    /// # Errors
    /// [`Code::NotFound`], with the calls that find it.
    pub(crate) fn pair_in(&self, dialect: Dialect, id: Uuid) -> Result<&Pair, Refused> {
        let pair = self.pair(id)?;
        of_dialect(dialect, pair.dialect, ("pair", id, "SDRS.0213")).map(|()| pair)
    }

    /// The same of a group.
    ///
    /// # Errors
    /// [`Code::NotFound`], with the calls that find it.
    pub(crate) fn group_in(&self, dialect: Dialect, id: Uuid) -> Result<&Group, Refused> {
        let group = self.group(id)?;
        of_dialect(dialect, group.dialect, ("group", id, "SDRS.1013")).map(|()| group)
    }

    /// The pairs of a group.
    pub(crate) fn pairs_of(&self, group: Uuid) -> impl Iterator<Item = &Pair> {
        self.pairs().filter(move |pair| pair.group == Some(group))
    }
}

impl Gateway {
    pub(crate) fn own_id(&self) -> Uuid {
        self.identity.gateway.uuid()
    }

    /// How a gateway's zone is called: by the zone of its configuration, or by its site.
    pub(crate) async fn station_of(&self, peer: &PeerEntry) -> String {
        let place = self.place_of(peer).await;
        if place.zone.is_empty() { peer.site.clone() } else { place.zone }
    }

    /// The same of this one.
    pub(crate) fn own_station(&self) -> String {
        let site = &self.config.site;
        if site.zone.is_empty() { site.name.clone() } else { site.zone.clone() }
    }

    pub(crate) fn peer_with(&self, gateway: Uuid) -> Result<PeerEntry, Refused> {
        let pages = self.book.read();
        let found = pages.peers.iter().find(|peer| peer.gateway == gateway).cloned();
        found.ok_or_else(|| {
            let detail = format!("gateway {gateway} is not joined with this one");
            Refused::new(Code::PeerUnknown, detail)
        })
    }

    pub(crate) async fn ask_evs(
        &self,
        peer: Uuid,
        question: EvsQuestion,
    ) -> Result<EvsAnswer, Refused> {
        self.ask(peer, &Question::Evs(Box::new(question))).await.and_then(Answer::of_evs)
    }

    // --- calls ---

    /// Does what a call says, or lets the gateway do it that rules it.
    ///
    /// # Errors
    /// Why nothing was begun.
    pub(crate) async fn evs_call(self: &Arc<Self>, call: Call) -> Result<Made, Refused> {
        if let Call::Act { id, .. } = &call {
            self.settle_direction(*id).await;
        }
        let at = self.ruler(&call).await?;
        if at == self.own_id() {
            return self.evs_do(call).await;
        }
        let asked = self.ask_evs(at, EvsQuestion::Call(call)).await;
        match asked.map_err(unreached)? {
            EvsAnswer::Made(made) => Ok(made),
            EvsAnswer::Disk { .. } | EvsAnswer::Data { .. } | EvsAnswer::Done => Err(unexpected()),
        }
    }

    /// The gateway that rules a call.
    async fn ruler(&self, call: &Call) -> Result<Uuid, Refused> {
        let pages = self.book.read();
        Ok(match call {
            Call::MakePair(NewPair { group: Some(group), .. })
            | Call::SetGroup { id: group, .. }
            | Call::DeleteGroup { id: group }
            | Call::Snap { group, .. }
            | Call::Unsnap { group, .. } => pages.evs.group(*group)?.owner(),
            Call::MakePair(NewPair { station, .. }) | Call::MakeGroup(NewGroup { station, .. }) => {
                self.gateway_at(station).await?
            }
            Call::SetPair { id, .. }
            | Call::DeletePair { id, .. }
            | Call::ExtendPair { id, .. } => {
                let pair = pages.evs.pair(*id)?;
                pair.head.gateways[pair.primary]
            }
            Call::Act { id, action } => {
                let group = pages.evs.group(*id)?;
                if matches!(action, Action::Failover { .. }) {
                    self.successor(group).await
                } else {
                    group.owner()
                }
            }
            Call::MakeDrill { group, .. } => pages.evs.group(*group)?.other(),
            Call::DeleteDrill { id } => {
                let drill = pages.evs.drills().find(|drill| drill.head.id == *id);
                drill.ok_or_else(|| not_found("drill", *id, "SDRS.1901"))?.gateway
            }
            Call::PurgeJobs { .. } => self.own_id(),
            Call::Instance { of } => pages.evs.group(of.group(&pages.evs)?)?.owner(),
        })
    }

    /// The gateway in this zone: this one, or one that it is joined with.
    pub(crate) async fn gateway_at(&self, station: &str) -> Result<Uuid, Refused> {
        if station == self.own_station() {
            return Ok(self.own_id());
        }
        let peers = self.book.read().peers.clone();
        for peer in &peers {
            if self.station_of(peer).await == station {
                return Ok(peer.gateway);
            }
        }
        let here = self.own_station();
        let detail = format!("no gateway of zone {station:?} is known at {here}");
        Err(coded(Code::Invalid, "SDRS.0203", detail).next("twinspan site list shows the zones"))
    }

    async fn evs_do(self: &Arc<Self>, call: Call) -> Result<Made, Refused> {
        match call {
            Call::MakePair(wanted) => self.make_pair(wanted).await,
            Call::SetPair { id, name, description } => self.set_pair(id, name, description).await,
            Call::DeletePair { id, with_target } => self.delete_pair(id, with_target).await,
            Call::ExtendPair { id, gib } => self.extend_pair(id, gib).await,
            Call::MakeGroup(wanted) => self.make_evs_group(wanted).await,
            Call::SetGroup { id, change } => self.set_evs_group(id, change).await,
            Call::DeleteGroup { id } => self.delete_evs_group(id).await,
            Call::Act { id, action } => self.begin_act(id, action).await,
            Call::MakeDrill { name, group, vpc } => self.make_drill(name, group, vpc).await,
            Call::DeleteDrill { id } => self.delete_drill(id).await,
            Call::Snap { group, name } => self.snap(group, name).await,
            Call::Unsnap { group, name } => self.unsnap(group, name).await,
            Call::PurgeJobs { ids } => self.purge_jobs(ids).await,
            Call::Instance { of } => self.do_instance(of).await,
        }
    }

    /// Answers the other gateway.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a record that is not of the two; why something is not done.
    pub(crate) async fn answer_evs(
        self: &Arc<Self>,
        peer: &Identity,
        question: EvsQuestion,
    ) -> Result<EvsAnswer, Refused> {
        let asker = peer.gateway.uuid();
        match question {
            EvsQuestion::Keep { record } => self.keep_record(asker, *record).await?,
            EvsQuestion::Disk { disk } => {
                return Ok(EvsAnswer::Disk { seen: self.see_disk(disk).await? });
            }
            EvsQuestion::Take { disk, volume, bytes, overwrites } => {
                self.take_disk(peer, disk, (volume, bytes, overwrites)).await?;
            }
            EvsQuestion::Free { volumes } => self.free_copies(asker, &volumes).await?,
            EvsQuestion::Remove { volume } => {
                self.require_pair_of(asker, volume)?;
                self.delete_volume(&volume.to_string()).await?;
            }
            EvsQuestion::Data { group } => {
                let pairs = self.tell_data(asker, group).await?;
                return Ok(EvsAnswer::Data { pairs });
            }
            EvsQuestion::Call(call) => return self.evs_do(call).await.map(EvsAnswer::Made),
        }
        Ok(EvsAnswer::Done)
    }

    /// Whether that gateway has a pair of this volume with this one.
    fn require_pair_of(&self, asker: Uuid, volume: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        let is_its = |pair: &Pair| pair.volume == volume && pair.head.gateways.contains(&asker);
        if pages.evs.pairs().any(is_its) {
            return Ok(());
        }
        Err(Refused::new(Code::Forbidden, format!("{volume} is in no pair with the asker")))
    }
}

/// A gateway that rules a call and is not reached has a number of its own.
fn unreached(refused: Refused) -> Refused {
    if refused.is(Code::PeerUnreachable) {
        let next = "where it is lost, fail over: that is asked here";
        return coded(Code::PeerUnreachable, "37100043", refused.0.detail).next(next);
    }
    refused
}

/// A thing that is at work, or at rest.
pub(crate) fn busy(life: Life, what: &str) -> Result<(), Refused> {
    if life.is_busy() {
        let detail = format!("something is under way with {what}: ask again in a moment");
        return Err(coded(Code::Busy, "37000216", detail));
    }
    Ok(())
}
