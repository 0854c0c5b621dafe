//! Roles around a way back that leads to what only a mirror keeps: its primary hands over first, and
//! serves again when it has followed.
//!
//! ```text
//!   mirror: book ─▶ asks the primary to hand over ─▶ is the primary ─▶ goes back, as any primary
//!   ─▶ the old primary follows by delta ─▶ hands over to it ─▶ book: over
//! ```
//!
//! Invariant: nothing is lost by a swap, and whoever is asked decides for itself; so what is cut short
//! leaves the group whole at one of the two sites.

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GatewayId, GroupId, Identity};
use mirror::{GroupStatus, LinkState, Role, Serving};
use uuid::Uuid;

use super::{Way, rolls_back};
use crate::book::{GroupEntry, RollbackEntry, Stage};
use crate::gateway::Gateway;
use crate::gateway::asks::{Answer, Question};
use crate::gateway::migrations::DRAIN_MAX;
use crate::operations::Running;
use crate::refusal::Refused;

/// Between two looks at a swap that the other site carries out, and after how many it is asked again.
const SWAP_PAUSE: Duration = Duration::from_millis(100);
const LOOKS: u32 = 30;
/// How often it begins a swap at most.
const SWAPS_MAX: u32 = 3;

/// The site that serves a group, and is to serve it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    gateway: GatewayId,
    site: String,
}

// === impl Home ===

impl Home {
    /// The one that this mirror follows.
    pub(super) fn of(status: &GroupStatus) -> Option<Self> {
        let upstream = status.upstream.as_ref().filter(|_| status.role == Role::Secondary)?;
        Some(Self { gateway: upstream.gateway, site: upstream.site.clone() })
    }

    pub(super) const fn uuid(&self) -> Uuid {
        self.gateway.uuid()
    }
}

impl Gateway {
    /// How many hosts the site has that serves a group, or why that is not known; `None` where this
    /// site follows nobody.
    pub(super) async fn hosts_there(&self, status: &GroupStatus) -> Option<Result<u64, String>> {
        let home = Home::of(status)?;
        let asked = self.ask_survey(status.group, home.gateway).await;
        Some(asked.map(|survey| survey.hosts).map_err(|refused| refused.0.detail))
    }

    pub(super) fn home_of(&self, note: &RollbackEntry) -> Option<Home> {
        let gateway = note.home?;
        let pages = self.book.read();
        let known = pages.peers.iter().find(|peer| peer.gateway == gateway);
        let site = known.map_or_else(|| gateway.to_string(), |peer| peer.site.clone());
        Some(Home { gateway: GatewayId::from_uuid(gateway), site })
    }

    /// Goes back, with roles swapped around it where that is planned.
    pub(super) async fn go_back_and_home(
        &self,
        running: &mut Running,
        way: &Way,
    ) -> Result<(), Refused> {
        let Some(home) = &way.home else { return self.go_back(running, way).await };
        self.take_roles(running, way, home).await?;
        let result = self.go_back(running, way).await;
        let status = self.status_of(way.entry.group()).await?;
        let is_half = self.book.read().is_on_its_way(way.entry.id)
            || rolls_back(&status).is_some()
            || status.serving == Serving::Latched;
        if is_half || self.stopping.is_cancelled() {
            // The next start takes it up, and goes home then.
            return result;
        }
        result.and(self.go_home(running, &way.entry, home).await)
    }

    /// Has the site that serves the group hand it over. It is noted first where it is to go afterwards.
    async fn take_roles(
        &self,
        running: &mut Running,
        way: &Way,
        home: &Home,
    ) -> Result<(), Refused> {
        let group = way.entry.group();
        // What cannot be read back is no reason to swap roles.
        self.prove_laid(running, way).await?;
        running.step(&format!("have {} hand over", home.site));
        let note =
            RollbackEntry { stage: Stage::There, laid: None, ..self.entry_of(way, way.to, &[]) };
        self.note_rollback(group, Some(note)).await?;
        match self.await_roles(way, home).await {
            Ok(()) => {
                running.done("this site is the primary");
                Ok(())
            }
            Err(refused) => {
                self.note_rollback(group, None).await?;
                let detail = format!("nothing was changed: {}", refused.0.detail);
                Err(refused.saying(detail))
            }
        }
    }

    async fn await_roles(&self, way: &Way, home: &Home) -> Result<(), Refused> {
        let group = way.entry.group();
        let question = Question::HandOver { group: group.uuid(), drop_hosts: way.drop_hosts };
        let mut swaps = 0;
        while swaps < SWAPS_MAX {
            match self.ask(home.uuid(), &question).await {
                Ok(answer) => {
                    answer.done()?;
                    swaps += 1;
                }
                // It is at it, or has handed over a moment ago.
                Err(refused) if refused.is(Code::Busy) => {}
                Err(refused) if refused.is(Code::NotPrimary) && swaps > 0 => {}
                Err(refused) => return Err(refused),
            }
            for _ in 0..LOOKS {
                let status = self.status_of(group).await?;
                if status.role == Role::Primary && status.serving == Serving::Yes {
                    return Ok(());
                }
                let sleep = tokio::time::sleep(SWAP_PAUSE);
                if self.stopping.run_until_cancelled(sleep).await.is_none() {
                    return Err(Refused::new(Code::Starting, "the gateway stops"));
                }
            }
        }
        let detail = format!("{} did not hand over", home.site);
        let next = format!("twinspan migrate plan {}, asked of {}", way.entry.name, home.site);
        Err(Refused::new(Code::RolledBack, detail).next(next))
    }

    /// The site that served the group follows by delta, and serves it again.
    pub(super) async fn go_home(
        &self,
        running: &mut Running,
        entry: &GroupEntry,
        home: &Home,
    ) -> Result<(), Refused> {
        let group = entry.group();
        let homed = self.swap_home(running, group, home).await;
        if self.stopping.is_cancelled() {
            return homed;
        }
        self.note_rollback(group, None).await?;
        homed.map_err(|refused| {
            let site = &home.site;
            let detail =
                format!("this site serves the group, and {site} not again: {}", refused.0.detail);
            let next = format!("twinspan migrate plan {} --to {site}", entry.name);
            refused.saying(detail).next(next)
        })
    }

    async fn swap_home(
        &self,
        running: &mut Running,
        group: GroupId,
        home: &Home,
    ) -> Result<(), Refused> {
        let status = self.status_of(group).await?;
        if status.role != Role::Primary {
            // It was done before a stop.
            return Ok(());
        }
        let leg = status.legs.iter().find(|leg| leg.gateway == home.gateway);
        let leg = leg.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))?;
        running.step(&format!("wait until {} has everything", home.site));
        running.done(self.await_everything(group, leg.leg).await?);
        let status = self.status_of(group).await?;
        let leg = status.legs.iter().find(|leg| leg.gateway == home.gateway);
        let leg = leg.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))?;
        self.hand_over(running, group, (leg, DRAIN_MAX)).await
    }

    /// Hands a group over to the gateway that asks, if that is a mirror of it: begins it, and says so.
    ///
    /// # Errors
    /// [`Code::NotPrimary`], [`Code::Forbidden`], [`Code::Spanning`], [`Code::HostsAttached`],
    /// [`Code::Busy`]; nothing was begun.
    pub(in crate::gateway) async fn hand_over_for(
        self: &Arc<Self>,
        peer: &Identity,
        (group, drop_hosts): (Uuid, bool),
    ) -> Result<Answer, Refused> {
        let id = GroupId::from_uuid(group);
        let entry = self.book.read().group_by_id(id).cloned();
        let forbidden = || {
            let detail = format!("{} has no mirror of group {group}", peer.site);
            Refused::new(Code::Forbidden, detail)
        };
        let entry = entry.ok_or_else(forbidden)?;
        let status = self.status_of(id).await?;
        if status.role != Role::Primary {
            let follows = status.upstream.as_ref().is_some_and(|up| up.gateway == peer.gateway);
            return Err(if follows { mirror::Refusal::NotPrimary.into() } else { forbidden() });
        }
        let leg = status.legs.iter().find(|leg| leg.gateway == peer.gateway && !leg.relay);
        let leg = leg.cloned().ok_or_else(forbidden)?;
        if status.parts.is_some() {
            let detail = "the parts of a group over several gateways swap roles together";
            return Err(Refused::new(Code::Spanning, detail));
        }
        if leg.link != LinkState::Connected {
            return Err(mirror::Refusal::NotConnected.into());
        }
        let hosts = self.hosts_of(id).await?;
        if hosts > 0 && !drop_hosts {
            let detail = format!("{hosts} hosts are attached to group {}", entry.name);
            return Err(Refused::new(Code::HostsAttached, detail));
        }
        let mut running = self.operations.begin_alone("migrate", &entry.name).map_err(Refused)?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let (name, site) = (&entry.name, &leg.site);
            gateway.events.tell("group", name, format!("{site} asked to take over"));
            running.step(&format!("wait until {site} has everything"));
            let result = async {
                running.done(gateway.await_everything(id, leg.leg).await?);
                gateway.hand_over(&mut running, id, (&leg, DRAIN_MAX)).await
            };
            let result = result.await;
            let text = match &result {
                Ok(()) => {
                    format!("handed over to {site}, which asked: this site is its mirror now")
                }
                Err(refused) => format!("not handed over to {site}: {}", refused.0.detail),
            };
            gateway.events.tell("group", name, text);
            running.end(result.map_err(|refused| *refused.0));
        });
        Ok(Answer::Done)
    }
}
