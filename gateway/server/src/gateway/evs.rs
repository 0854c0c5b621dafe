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

mod deeds;
mod disks;
mod drills;
pub(crate) mod gates;
mod groups;
mod jobs;
mod pairs;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::Identity;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use disks::DiskSeen;
pub(crate) use groups::GROUPS_MAX;
pub(crate) use pairs::PAIRS_MAX;

use super::Gateway;
use super::asks::{Answer, Question, unexpected};
use crate::book::PeerEntry;
use crate::book::evs::{Dialect, EvsPages, Fault, Group, Head, Life, Pair, Record};
use crate::refusal::Refused;
use gates::Action;

/// How soon the other gateway is told again of what it did not hear.
const RETRY: Duration = Duration::from_secs(2);
/// How long a call waits until the other gateway has heard of what it changed.
const TELL_MAX: Duration = Duration::from_secs(2);
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
    Keep { record: Record },
    /// How is this disk of yours?
    Disk { disk: Uuid },
    /// Let a disk become a destination.
    Take { disk: Uuid, volume: Uuid, bytes: u64, overwrites: bool },
    /// These copies are mirrored no more: let each be a volume of its own.
    Free { volumes: Vec<Uuid> },
    /// Delete what was a copy.
    Remove { volume: Uuid },
    /// Do what you rule.
    Call(Call),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "evs", rename_all = "snake_case")]
pub(crate) enum EvsAnswer {
    /// The disk, if it is here.
    Disk { seen: Option<DiskSeen> },
    /// What a call made.
    Made(Made),
    /// Done.
    Done,
}

/// A refusal with the dialect's own code at the end of its words, where it survives being passed on.
pub(crate) fn coded(code: Code, theirs: &str, detail: impl std::fmt::Display) -> Refused {
    Refused::new(code, format!("{detail} ({theirs})"))
}

/// The dialect's own code at the end of words, as the gateway or a plugin puts it there.
#[must_use]
pub(crate) fn own_code(detail: &str) -> Option<&str> {
    let (_, last) = detail.strip_suffix(')')?.rsplit_once('(')?;
    let code = last.rsplit(' ').next()?;
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_own = digits(code, 8) || code.strip_prefix("SDRS.").is_some_and(|n| digits(n, 4));
    is_own.then_some(code)
}

/// The volume service's number for what the core says.
fn number_of(refused: &Refused) -> &'static str {
    match Code::parse(&refused.0.code) {
        Some(Code::BadSize) => "37100041",
        Some(Code::PeerUnreachable | Code::PeerUnknown | Code::MirrorUnreachable) => "37100043",
        Some(Code::Filling) => "37100044",
        Some(Code::Busy | Code::Starting | Code::ShardSilent) => "37000216",
        Some(Code::PoolFailed | Code::PoolFull | Code::Latched | Code::NotOpened) => "37100177",
        _ => INTERNAL,
    }
}

/// A refusal as a record keeps it.
pub(crate) fn fault(refused: &Refused, dialect: Dialect) -> Fault {
    let code = own_code(&refused.0.detail).map(str::to_owned).unwrap_or_else(|| match dialect {
        Dialect::Evs => number_of(refused).to_owned(),
        Dialect::Sdrs => "SDRS.0405".to_owned(),
    });
    let next = refused.0.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
    Fault { code, why: format!("{}{next}", refused.0.detail) }
}

fn not_found(what: &str, id: Uuid, theirs: &str) -> Refused {
    coded(Code::NotFound, theirs, format!("there is no {what} {id}"))
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

    // --- records ---

    /// Changes a record durably, and lets the other gateway know.
    pub(crate) async fn change_record<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Record) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let now_ms = self.clock.unix_ms();
        let changed = self.book.change(Vec::new(), |pages| {
            let known = pages.evs.record(id).filter(|record| !record.head().is_gone);
            let mut record = known.cloned().ok_or_else(|| not_found("thing", id, "SDRS.0201"))?;
            record.head_mut().touch(now_ms);
            let result = change(&mut record)?;
            pages.evs.put(record);
            Ok::<T, Refused>(result)
        });
        let result = changed.await?;
        self.tell_record(id).await;
        Ok(result)
    }

    pub(crate) async fn change_group<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Group) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let of_group = |record: &mut Record| match record {
            Record::Group(group) => change(group),
            Record::Pair(_) | Record::Drill(_) | Record::Job(_) => {
                Err(not_found("group", id, "SDRS.1013"))
            }
        };
        self.change_record(id, of_group).await
    }

    pub(crate) async fn change_pair<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Pair) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let of_pair = |record: &mut Record| match record {
            Record::Pair(pair) => change(pair),
            Record::Group(_) | Record::Drill(_) | Record::Job(_) => {
                Err(not_found("replication pair", id, "SDRS.0213"))
            }
        };
        self.change_record(id, of_pair).await
    }

    /// Makes a record; both gateways know it then, if the other one answers.
    pub(crate) async fn put_record(&self, record: Record) -> Result<(), Refused> {
        let id = record.head().id;
        let put = self.book.change(Vec::new(), |pages| {
            let mut record = record;
            record.head_mut().revision += 1;
            pages.evs.put(record);
            Ok::<(), Refused>(())
        });
        put.await?;
        self.tell_record(id).await;
        Ok(())
    }

    /// Deletes a record; it is forgotten when the other gateway knows.
    pub(crate) async fn drop_record(&self, id: Uuid) -> Result<(), Refused> {
        let gone = |record: &mut Record| {
            record.head_mut().is_gone = true;
            Ok(())
        };
        self.change_record(id, gone).await
    }

    /// Tells the other gateway of a record, for a moment.
    async fn tell_record(&self, id: Uuid) {
        let Some(record) = self.book.read().evs.record(id).cloned() else { return };
        // One that does not hear it now is told again by the loop.
        let _heard = tokio::time::timeout(TELL_MAX, self.tell(record)).await;
    }

    async fn tell(&self, record: Record) -> bool {
        let Head { id, revision, told, gateways, .. } = record.head().clone();
        let me = self.own_id();
        if told >= revision && revision > 0 {
            return true;
        }
        let other = gateways.into_iter().find(|of| *of != me);
        if let Some(other) = other
            && self.ask_evs(other, EvsQuestion::Keep { record }).await.is_err()
        {
            return false;
        }
        let noted = self.book.change(Vec::new(), |pages| {
            pages.evs.told(id, revision);
            Ok::<(), Refused>(())
        });
        noted.await.is_ok()
    }

    async fn tell_all_records(&self) {
        let pages = self.book.read();
        let untold = pages.evs.records.iter().filter(|of| of.head().told < of.head().revision);
        let mut silent = std::collections::HashSet::new();
        for record in untold {
            let both = record.head().gateways;
            if !silent.contains(&both) && !self.tell(record.clone()).await {
                silent.insert(both);
            }
        }
    }

    /// Keeps the records at both gateways, and ends what a restart has cut short.
    pub(crate) fn begin_evs(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            gateway.end_what_was_cut_short().await;
            let tell = async {
                loop {
                    gateway.tell_all_records().await;
                    tokio::time::sleep(RETRY).await;
                }
            };
            gateway.stopping.run_until_cancelled(tell).await;
        });
    }

    /// Nobody is at work on what this gateway worked on before it started.
    async fn end_what_was_cut_short(&self) {
        let me = self.own_id();
        let why = "a restart of the gateway cut it short; say it again";
        let pages = self.book.read();
        for group in pages.evs.groups().filter(|of| of.life.is_busy() && of.worker == Some(me)) {
            let cut = |group: &mut Group| {
                group.life = group.life.failed();
                group.fault = Some(Fault { code: INTERNAL.to_owned(), why: why.to_owned() });
                Ok(())
            };
            self.note(self.change_group(group.head.id, cut).await);
        }
        for pair in pages.evs.pairs() {
            if pair.life.is_busy() && pair.head.gateways[pair.primary] == me {
                let cut = |pair: &mut Pair| {
                    pair.life = pair.life.failed();
                    pair.fault = Some(Fault { code: INTERNAL.to_owned(), why: why.to_owned() });
                    Ok(())
                };
                self.note(self.change_pair(pair.head.id, cut).await);
            }
        }
        self.end_jobs_cut_short(why).await;
        self.end_drills_cut_short(why).await;
    }

    /// What could not be recorded is told in the log: the next start finds it as it was.
    fn note<T>(&self, result: Result<T, Refused>) {
        if let Err(refused) = result {
            let site = &self.config.site.name;
            tracing::warn!(
                site,
                why = refused.0.detail,
                "a record of the EVS dialect stays as it was"
            );
        }
    }

    // --- calls ---

    /// Does what a call says, or lets the gateway do it that rules it.
    ///
    /// # Errors
    /// Why nothing was begun.
    pub(crate) async fn evs_call(self: &Arc<Self>, call: Call) -> Result<Made, Refused> {
        let at = self.ruler(&call).await?;
        if at == self.own_id() {
            return self.evs_do(call).await;
        }
        match self.ask_evs(at, EvsQuestion::Call(call)).await? {
            EvsAnswer::Made(made) => Ok(made),
            EvsAnswer::Disk { .. } | EvsAnswer::Done => Err(unexpected()),
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
                    group.other()
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
            EvsQuestion::Keep { record } => self.keep_record(asker, record).await?,
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
            EvsQuestion::Call(call) => return self.evs_do(call).await.map(EvsAnswer::Made),
        }
        Ok(EvsAnswer::Done)
    }

    async fn keep_record(&self, asker: Uuid, mut record: Record) -> Result<(), Refused> {
        let me = self.own_id();
        let gateways = record.head().gateways;
        if !gateways.contains(&me) || !gateways.contains(&asker) {
            let detail = "a record is kept by the gateways that it names";
            return Err(Refused::new(Code::Forbidden, detail));
        }
        let (id, revision) = (record.head().id, record.head().revision);
        record.head_mut().told = revision;
        self.book
            .change(Vec::new(), |pages| {
                if let Record::Pair(pair) = &record
                    && pair.is_made
                    && pair.head.gateways[1] == me
                {
                    pages.evs.call_disk(pair.disks[1], &pair.names[1]);
                }
                if !pages.evs.put(record) {
                    pages.evs.told(id, revision);
                }
                Ok::<(), Refused>(())
            })
            .await
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

/// A thing that is at work, or at rest.
pub(crate) fn busy(life: Life, what: &str) -> Result<(), Refused> {
    if life.is_busy() {
        let detail = format!("something is under way with {what}: ask again in a moment");
        return Err(coded(Code::Busy, "37000216", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_02_a_code_of_the_dialect_survives_being_passed_on() {
        for (text, code) in [
            ("they differ (37100041)", Some("37100041")),
            ("west: they differ (37100041)", Some("37100041")),
            ("both are in one zone (evs-pairing: 37100053)", Some("37100053")),
            ("not now (SDRS.1002)", Some("SDRS.1002")),
            ("sizes differ (16 MiB)", None),
            ("no code at all", None),
        ] {
            assert_eq!(own_code(text), code, "{text}");
        }
        let kept = fault(&coded(Code::BadSize, "37100041", "they differ"), Dialect::Evs);
        assert_eq!(kept.code, "37100041");
    }

    #[test]
    fn evs_07_what_the_core_says_has_a_number() {
        for (code, number) in [
            (Code::PeerUnreachable, "37100043"),
            (Code::Filling, "37100044"),
            (Code::PoolFailed, "37100177"),
            (Code::Busy, "37000216"),
            (Code::Internal, "37000212"),
        ] {
            assert_eq!(fault(&Refused::new(code, "why"), Dialect::Evs).code, number);
        }
    }
}
