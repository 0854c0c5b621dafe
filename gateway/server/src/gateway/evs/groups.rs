//! Groups: made of pairs, changed, deleted; and how pairs become one group of the core.
//!
//! ```text
//!   pairs ─▶ each destination waits for its source ─▶ the first source's own group, which the others join
//!         ◀─ a pair leaves ─▶ its source goes on in a group of its own, its destination is let go
//! ```
//!
//! Invariant: a group's volumes at the core are those of its pairs, or the difference is told as a fault.

use std::sync::Arc;

use api::Code;
use mirror::{Command, GROUP_VOLUMES_MAX};
use uuid::Uuid;

use super::gates::Action;
use super::jobs::About;
use super::{EvsQuestion, Made, NewGroup, SetGroup, busy, coded, fault};
use crate::book::evs::{Dialect, Group, Head, Life, Pair, Record, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

impl Gateway {
    pub(super) async fn make_evs_group(
        self: &Arc<Self>,
        wanted: NewGroup,
    ) -> Result<Made, Refused> {
        let (used, most) = (self.book.read().evs.groups().count(), self.config.quota.groups);
        if used >= most {
            let detail = format!("quota.groups is {most}, and there are {used}: delete some");
            let code = if wanted.dialect == Dialect::Evs { "37100017" } else { "SDRS.0305" };
            return Err(coded(Code::QuotaReached, code, detail));
        }
        let (gateways, stations) = self.sides_of(&wanted).await?;
        let head = Head::new(gateways, self.clock.unix_ms());
        let id = head.id;
        let is_evs = wanted.dialect == Dialect::Evs;
        let group = Group {
            head,
            dialect: wanted.dialect,
            name: wanted.name,
            description: wanted.description,
            primary: usize::from(gateways[0] != self.own_id()),
            stations,
            core: None,
            life: if is_evs { Life::Creating } else { Life::Available },
            wanted: Wanted::Idle,
            fault: None,
            worker: Some(self.own_id()),
            vpc: wanted.vpc,
            domain: wanted.domain,
            drilled_ms: None,
            epoch: 0,
        };
        let about = About {
            kind: "createProtectionGroupNoCG",
            failure: "createFail",
            resource: "server_group",
            subject: (id, group.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(group.dialect, gateways, about).await?;
        self.put_record(Record::Group(group.clone())).await?;
        if !is_evs {
            self.end_job(job, &Ok(())).await;
            return Ok(Made { id, job });
        }
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let built = gateway.add_pairs(&group, &wanted.pairs).await;
            gateway.end_change(id, built).await;
        });
        Ok(Made { id, job })
    }

    /// The gateways of a group and their zones, in the order of its pairs or of what was said.
    async fn sides_of(&self, wanted: &NewGroup) -> Result<([Uuid; 2], [String; 2]), Refused> {
        let pages = self.book.read();
        let Some(first) = wanted.pairs.first() else {
            let target = wanted.target.as_deref().unwrap_or_default();
            let there = self.gateway_at(target).await?;
            if there == self.own_id() {
                let detail = format!("both zones are {target}: a group is of two zones");
                return Err(coded(Code::PlacementRefused, "SDRS.0203", detail));
            }
            let stations = [self.own_station(), target.to_owned()];
            return Ok(([self.own_id(), there], stations));
        };
        let first = pages.evs.pair(*first)?;
        self.require_joinable(&wanted.pairs, first)?;
        Ok((first.head.gateways, first.stations.clone()))
    }

    /// Whether pairs may be handled together.
    fn require_joinable(&self, pairs: &[Uuid], like: &Pair) -> Result<(), Refused> {
        if pairs.len() > GROUP_VOLUMES_MAX {
            let detail = format!("{} pairs; a group has at most {GROUP_VOLUMES_MAX}", pairs.len());
            return Err(Refused::new(Code::GroupFull, detail));
        }
        let pages = self.book.read();
        for (at, id) in pairs.iter().enumerate() {
            let pair = pages.evs.pair(*id)?;
            if pair.life != Life::Available || pair.group.is_some() || pair.leaves {
                let detail = format!("pair {id} is not available, or is in a group");
                return Err(Refused::new(Code::WrongState, detail));
            }
            if pairs[..at].contains(id) {
                return Err(Refused::new(Code::Invalid, format!("pair {id} is named twice")));
            }
            if pair.head.gateways != like.head.gateways || pair.primary != like.primary {
                let detail = format!("pair {id} is of other sites, or in the other direction");
                return Err(coded(Code::Invalid, "SDRS.1026", detail));
            }
            if pair.head.gateways[pair.primary] != self.own_id() {
                let detail = format!("the production site of pair {id} is another");
                return Err(coded(Code::Invalid, "SDRS.1025", detail));
            }
        }
        Ok(())
    }

    /// Ends a change of a group: it is what it was, or says why it is not.
    async fn end_change(&self, id: Uuid, result: Result<(), Refused>) {
        let end = |group: &mut Group| {
            group.worker = None;
            match &result {
                Ok(()) => (group.life, group.fault) = (Life::Available, None),
                Err(refused) => {
                    // A change that did not happen leaves the group as it was; one that was never made
                    // is none.
                    let was_made = group.life == Life::Updating;
                    group.life = if was_made { Life::Available } else { group.life.failed() };
                    group.fault = Some(fault(refused, group.dialect));
                }
            }
            Ok(())
        };
        self.note(self.change_group(id, end).await);
    }

    pub(super) async fn set_evs_group(
        self: &Arc<Self>,
        id: Uuid,
        change: SetGroup,
    ) -> Result<Made, Refused> {
        let group = self.book.read().evs.group(id)?.clone();
        let moves = !change.add.is_empty() || !change.remove.is_empty();
        if moves {
            self.require_changeable(&group, &change)?;
        }
        let set = |group: &mut Group| {
            if moves {
                busy(group.life, "the group")?;
                group.life = Life::Updating;
                group.worker = Some(self.own_id());
            }
            group.name = change.name.clone().unwrap_or_else(|| group.name.clone());
            let description = change.description.clone();
            group.description = description.unwrap_or_else(|| group.description.clone());
            Ok(())
        };
        self.change_group(id, set).await?;
        if moves {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move {
                let mut changed = Ok(());
                if !change.remove.is_empty() {
                    changed = gateway.remove_pairs(&group, &change.remove).await;
                }
                if changed.is_ok() && !change.add.is_empty() {
                    changed = gateway.add_pairs(&group, &change.add).await;
                }
                gateway.end_change(id, changed).await;
            });
        }
        Ok(Made { id, job: None })
    }

    fn require_changeable(&self, group: &Group, change: &SetGroup) -> Result<(), Refused> {
        busy(group.life, "the group")?;
        let is_paused = matches!(group.wanted, Wanted::Idle | Wanted::Paused);
        let is_resting = matches!(
            group.life,
            Life::Available | Life::Error | Life::ErrorStarting | Life::ErrorStopping
        );
        if !is_paused || !is_resting {
            let detail = "pairs are added and removed while the group is paused";
            let next = "pause the group, change it, and synchronise it after";
            return Err(Refused::new(Code::WrongState, detail).next(next));
        }
        let pages = self.book.read();
        for id in &change.remove {
            if pages.evs.pair(*id)?.group != Some(group.head.id) {
                let detail = format!("pair {id} is not in the group");
                return Err(Refused::new(Code::Invalid, detail));
            }
        }
        let Some(first) = change.add.first() else { return Ok(()) };
        let mut like = pages.evs.pair(*first)?.clone();
        (like.head.gateways, like.primary) = (group.head.gateways, group.primary);
        self.require_joinable(&change.add, &like)
    }

    pub(super) async fn delete_evs_group(&self, id: Uuid) -> Result<Made, Refused> {
        let pages = self.book.read();
        let group = pages.evs.group(id)?.clone();
        busy(group.life, "the group")?;
        if let Some(pair) = pages.evs.pairs_of(id).next() {
            let detail = format!("pair {} is in the group: remove it first", pair.head.id);
            return Err(coded(Code::WrongState, "SDRS.1010", detail));
        }
        if let Some(instance) = pages.evs.instances_of(id).next() {
            let detail = format!("instance {} is of the group: delete it first", instance.head.id);
            return Err(coded(Code::WrongState, "SDRS.1001", detail));
        }
        if let Some(drill) = pages.evs.drills().find(|drill| drill.group == id) {
            let detail = format!("drill {} is of the group: delete it first", drill.head.id);
            return Err(coded(Code::WrongState, "SDRS.1003", detail));
        }
        let about = About {
            kind: "deleteProtectionGroupNoCG",
            failure: "deleteFail",
            resource: "server_group",
            subject: (id, group.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(group.dialect, group.head.gateways, about).await?;
        let dropped = self.drop_record(id).await;
        self.end_job(job, &dropped).await;
        dropped.map(|()| Made { id, job })
    }

    // --- at the core ---

    /// Joins the disks of pairs to a group's. What was joined before something failed is parted again.
    pub(super) async fn add_pairs(&self, group: &Group, ids: &[Uuid]) -> Result<(), Refused> {
        let mut joined: Vec<Pair> = Vec::new();
        for id in ids {
            let pair = self.book.read().evs.pair(*id)?.clone();
            if let Err(refused) = self.add_pair(group.head.id, &pair).await {
                let removed: Vec<Uuid> = joined.iter().map(|pair| pair.head.id).collect();
                // A protection group keeps its pairs: protection can be turned on again.
                if !removed.is_empty() && group.dialect == Dialect::Evs {
                    self.note(self.remove_pairs(group, &removed).await);
                }
                return Err(refused);
            }
            joined.push(pair);
        }
        Ok(())
    }

    async fn add_pair(&self, group: Uuid, pair: &Pair) -> Result<(), Refused> {
        let now = self.book.read().evs.group(group)?.clone();
        let target = 1 - pair.primary;
        if !pair.is_made {
            let take = EvsQuestion::Take {
                disk: pair.disks[target],
                volume: pair.volume,
                bytes: pair.bytes,
                overwrites: pair.overwrites,
            };
            self.ask_evs(pair.head.gateways[target], take).await?;
        }
        let joined = match now.core {
            Some(core) => {
                self.join_group(&core.to_string(), &pair.volume.to_string()).await.map(drop)
            }
            None => self.begin_core(&now, pair).await,
        };
        if let Err(refused) = joined {
            self.note(self.free_there(std::slice::from_ref(pair)).await);
            return Err(refused);
        }
        let enter = |pair: &mut Pair| {
            pair.group = Some(group);
            Ok(())
        };
        self.change_pair(pair.head.id, enter).await
    }

    /// The first pair's own group carries the others, so that its hosts stay.
    async fn begin_core(&self, group: &Group, pair: &Pair) -> Result<(), Refused> {
        let (entry, volume) = self.find_volume(&pair.volume.to_string())?;
        if entry.volumes.len() > 1 {
            let detail = format!("{} is one of several volumes of {}", volume.name, entry.name);
            return Err(coded(Code::InGroup, "37100053", detail));
        }
        let begin = |group: &mut Group| {
            // Epochs are counted by each group of the core for itself.
            (group.core, group.epoch) = (Some(entry.id), 0);
            Ok(())
        };
        self.change_group(group.head.id, begin).await
    }

    /// Parts the disks of pairs from a group's.
    async fn remove_pairs(&self, group: &Group, ids: &[Uuid]) -> Result<(), Refused> {
        for id in ids {
            let (group, pair) = {
                let pages = self.book.read();
                (pages.evs.group(group.head.id)?.clone(), pages.evs.pair(*id)?.clone())
            };
            self.part_pair(&group, &pair).await?;
        }
        self.let_leavers_go(group).await;
        Ok(())
    }

    /// Lets destinations go that left; those that still follow are let go after the next
    /// synchronisation.
    pub(super) async fn let_leavers_go(&self, group: &Group) {
        let pages = self.book.read();
        let is_its = |pair: &&Pair| pair.leaves && pair.head.gateways == group.head.gateways;
        let leaving: Vec<Pair> = pages.evs.pairs().filter(is_its).cloned().collect();
        // Those that left one after the other may still share a group there.
        let are_free = self.free_there(&leaving).await.is_ok();
        for pair in &leaving {
            if are_free || self.free_once(std::slice::from_ref(pair)).await.is_ok() {
                let gone = |pair: &mut Pair| {
                    pair.leaves = false;
                    Ok(())
                };
                self.note(self.change_pair(pair.head.id, gone).await);
            }
        }
    }

    /// Parts one pair from its group's disks; whether its destination has to be let go.
    pub(super) async fn part_pair(&self, group: &Group, pair: &Pair) -> Result<bool, Refused> {
        let was_taken = !pair.is_made || group.wanted != Wanted::Idle;
        if let Some(core) = group.core {
            let (entry, _) = self.find_volume(&pair.volume.to_string())?;
            let is_in = entry.id == core;
            match (is_in, entry.volumes.len()) {
                (true, 1) => self.end_core(group).await?,
                (true, _) => {
                    self.leave_group(&core.to_string(), &pair.volume.to_string()).await?;
                }
                (false, _) => {}
            }
        }
        let leave = |pair: &mut Pair| {
            (pair.group, pair.leaves) = (None, was_taken);
            Ok(())
        };
        self.change_pair(pair.head.id, leave).await?;
        Ok(was_taken)
    }

    /// The last disk of a group goes on by itself, mirrored no more.
    async fn end_core(&self, group: &Group) -> Result<(), Refused> {
        if let Some(session) = self.session_of(group).await? {
            let remove = |leg| Command::RemoveLeg { leg };
            self.session_command(&session, "deleted", remove).await?;
        }
        let end = |group: &mut Group| {
            (group.core, group.wanted) = (None, Wanted::Idle);
            Ok(())
        };
        self.change_group(group.head.id, end).await
    }

    /// What the core calls the session to the other site, if there is one.
    pub(super) async fn session_of(&self, group: &Group) -> Result<Option<String>, Refused> {
        let Some(core) = group.core else { return Ok(None) };
        let status = self.status_of(block::GroupId::from_uuid(core)).await?;
        let other = group.other();
        let leg = status.legs.iter().find(|leg| leg.gateway.uuid() == other);
        Ok(leg.map(|leg| format!("{core}:{}", leg.site)))
    }

    /// Whatever an action leaves behind it.
    pub(super) async fn after(&self, group: &Group, action: &Action) {
        if *action == Action::Sync {
            self.let_leavers_go(group).await;
        }
    }
}
