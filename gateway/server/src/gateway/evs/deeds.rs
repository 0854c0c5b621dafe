//! What is done to groups: mirrored, paused, reversed, failed over, reprotected, expanded.
//!
//! Invariant: a deed is the core's own, with its plan and its checks; a plan that loses something is run
//! only by the token that the refusal of the first call gave. What became of a group is recorded at the
//! site that it became of, with the change of roles in the same record.

use std::sync::Arc;
use std::time::Duration;

use api::{
    CheckState, Code, FailoverPlan, MigrationRunRequest, OperationState, PolicyPatch,
    ReprotectRequest, SessionCreate,
};
use block::GroupId;
use mirror::{Command, SessionState};
use uuid::Uuid;

use super::gates::{Action, is_allowed};
use super::jobs::About;
use super::view::{Data, Replication, of_pair};
use super::{Made, busy, coded, fault};
use crate::book::evs::{Dialect, Group, Life, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// Between two looks at an operation of the core.
const LOOK: Duration = Duration::from_millis(50);

/// What an action needs beside its name, found out before anything is begun.
#[derive(Debug)]
enum Deed {
    Sync,
    Pause,
    /// To that site.
    Reverse(String),
    /// With the token of a plan.
    Failover(String),
    Reprotect {
        to: String,
        discard: bool,
    },
}

impl Gateway {
    /// Does something to a group. What takes long goes on; its status says how it ended.
    pub(super) async fn begin_act(
        self: &Arc<Self>,
        id: Uuid,
        action: Action,
    ) -> Result<Made, Refused> {
        self.settle_direction(id).await;
        let group = self.book.read().evs.group(id)?.clone();
        let is_takeover = matches!(action, Action::Failover { .. });
        let is_elsewhere = group.worker.is_some_and(|worker| worker != self.own_id());
        // What the other site was at when it was lost does not keep this one from taking over.
        if !(is_takeover && is_elsewhere && group.life.is_busy()) {
            busy(group.life, "the group")?;
            check_gate(&group, &action)?;
        }
        let pairs: Vec<Uuid> = self.book.read().evs.pairs_of(id).map(|pair| pair.head.id).collect();
        if pairs.is_empty() {
            return Err(coded(Code::WrongState, "SDRS.1002", "the group has no pairs"));
        }
        if let Action::Extend { gib } = &action {
            self.require_not_in_error(&group).await?;
            if group.wanted == Wanted::Idle && group.dialect == Dialect::Evs {
                let detail = "the disks were never synchronised, so only one would grow";
                return Err(Refused::new(Code::WrongState, detail).next("synchronise the group"));
            }
            self.extend(&group, gib).await?;
            return Ok(Made { id, job: None });
        }
        let deed = self.prepare(&group, &action).await?;
        let about = About {
            kind: job_kind(&group, &action),
            failure: failure_kind(&action),
            resource: "server_group",
            subject: (id, group.name.clone()),
            parts: pairs,
        };
        let begin = |group: &mut Group| {
            if !is_takeover {
                busy(group.life, "the group")?;
            }
            group.life = action.life();
            group.worker = Some(self.own_id());
            group.fault = None;
            Ok(())
        };
        self.change_group(id, begin).await?;
        let job = self.begin_job(group.dialect, self.mine_first(&group), about).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let done = gateway.carry_out_deed(&group, &deed).await;
            let told = match &done {
                Ok(()) => action.word().to_owned(),
                Err(refused) => format!("not {}: {}", action.word(), refused.0.detail),
            };
            gateway.events.tell("pair", &group.name, told);
            gateway.end_act(&group, &deed, &done).await;
            // What becomes of servers is told of the job: data has changed its site by then.
            let with_servers = match &done {
                Ok(()) => gateway.servers_after(id, &deed).await,
                Err(refused) => Err(refused.clone()),
            };
            gateway.end_job(job, &with_servers).await;
            if done.is_ok() {
                gateway.after(&group, &action).await;
            }
        });
        Ok(Made { id, job })
    }

    /// The servers of a group follow what was done to it.
    async fn servers_after(&self, group: Uuid, deed: &Deed) -> Result<(), Refused> {
        match deed {
            Deed::Pause => Ok(()),
            Deed::Sync => self.stand_by_all(group).await,
            Deed::Reverse(_) | Deed::Failover(_) => self.place_all(group).await,
            Deed::Reprotect { .. } => {
                self.displace_all(group).await?;
                self.place_all(group).await?;
                self.stand_by_all(group).await
            }
        }
    }

    /// A job is ended by the gateway that is named first in it.
    pub(super) fn mine_first(&self, group: &Group) -> [Uuid; 2] {
        let [one, other] = group.head.gateways;
        if one == self.own_id() { [one, other] } else { [other, one] }
    }

    async fn data_of(&self, group: &Group) -> Vec<Data> {
        let status = self.core_status(group).await;
        let pages = self.book.read();
        let pairs = pages.evs.pairs_of(group.head.id);
        pairs.map(|pair| of_pair(status.as_deref(), group, pair)).collect()
    }

    async fn require_not_in_error(&self, group: &Group) -> Result<(), Refused> {
        if Data::worst(&self.data_of(group).await).replication == Replication::Error {
            let detail = "the replication is in error: remove the cause first";
            return Err(coded(Code::WrongState, "SDRS.1816", detail));
        }
        Ok(())
    }

    /// Whether an action can be begun, as far as it can be said at once.
    async fn prepare(&self, group: &Group, action: &Action) -> Result<Deed, Refused> {
        let data = Data::worst(&self.data_of(group).await);
        match action {
            Action::Pause if group.dialect == Dialect::Sdrs && is_copying(data) => {
                let detail = "pairs are still being synchronised: wait until they are active";
                Err(coded(Code::NotInSync, "SDRS.1830", detail))
            }
            Action::Pause => Ok(Deed::Pause),
            Action::Sync | Action::Extend { .. } => Ok(Deed::Sync),
            Action::Reverse { to } => self.prepare_reverse(group, data, to.as_deref()).await,
            Action::Failover { confirm } => {
                let token = self.prepare_failover(group, confirm.as_deref()).await?;
                Ok(Deed::Failover(token))
            }
            Action::Reprotect { discard } => {
                let to = self.peer_with(group.other())?.site;
                Ok(Deed::Reprotect { to, discard: *discard })
            }
        }
    }

    async fn prepare_reverse(
        &self,
        group: &Group,
        data: Data,
        to: Option<&str>,
    ) -> Result<Deed, Refused> {
        let station = &group.stations[1 - group.primary];
        let word = ["source", "target"][1 - group.primary];
        if to.is_some_and(|to| to != word && to != station) {
            let detail = format!("the production site is {} now", group.stations[group.primary]);
            return Err(coded(Code::Invalid, "SDRS.0216", detail)
                .next(format!("say priority_station {word:?}")));
        }
        if data.replication != Replication::Active {
            let word = data.replication.word();
            let detail = format!("its replication_status is {word}: wait until it is active");
            return Err(coded(Code::NotInSync, "SDRS.1029", detail));
        }
        let core = core_of(group)?;
        let hosts = self.hosts_of(core).await?;
        if hosts > 0 {
            let detail = format!("{hosts} hosts are attached: stop the production servers first");
            return Err(coded(Code::VolumeInUse, "SDRS.1029", detail));
        }
        self.require_stopped(group).await?;
        Ok(Deed::Reverse(self.peer_with(group.other())?.site))
    }

    /// The token of a plan that loses nothing, or of the one that a refusal showed.
    async fn prepare_failover(
        &self,
        group: &Group,
        confirm: Option<&str>,
    ) -> Result<String, Refused> {
        let core = core_of(group)?.uuid().to_string();
        if let Some(token) = confirm {
            return Ok(token.to_owned());
        }
        let plan = self.plan_failover(&core, None).await?;
        if let Some(token) = plan.token {
            return Ok(token);
        }
        let why = blocked(&plan);
        for accept in ["outdated", "inconsistent"] {
            let plan = self.plan_failover(&core, Some(accept)).await?;
            if let Some(token) = plan.token {
                let lost = plan.at_risk_bytes.map_or_else(
                    || "how much would be lost is not known".to_owned(),
                    |bytes| format!("up to {} would be lost", api::units::bytes_text(bytes)),
                );
                let detail = format!("{why}; {lost}");
                let next =
                    format!("confirm the disaster: repeat it with {{\"confirm\": \"{token}\"}}");
                return Err(coded(Code::NeedsConsent, "SDRS.1030", detail).next(next));
            }
        }
        Err(coded(Code::WrongState, "SDRS.1030", why))
    }

    // --- carried out ---

    async fn carry_out_deed(self: &Arc<Self>, group: &Group, deed: &Deed) -> Result<(), Refused> {
        match deed {
            Deed::Sync => self.mirror(group).await,
            Deed::Pause => self.pause(group).await,
            Deed::Reverse(to) => self.reverse(group, to).await,
            Deed::Failover(token) => {
                let core = core_of(group)?.uuid().to_string();
                let operation = self.run_failover(&core, token).await?;
                self.await_operation(operation.id).await
            }
            Deed::Reprotect { to, discard } => {
                if self.is_followed(group).await? {
                    // The core did so already: a kill came before the record of it.
                    return Ok(());
                }
                let core = core_of(group)?.uuid().to_string();
                let request = ReprotectRequest { to: Some(to.clone()), discard: *discard };
                let operation = self.reprotect(&core, &request).await?;
                self.await_operation(operation.id).await
            }
        }
    }

    /// Mirrors a group for the first time, or again.
    async fn mirror(&self, group: &Group) -> Result<(), Refused> {
        self.assemble(group).await?;
        let group = self.book.read().evs.group(group.head.id)?.clone();
        if let Some(session) = self.session_of(&group).await? {
            let (session, _) = self.find_session(&session).await?;
            if session.leg.state == api::SessionState::Active {
                return Ok(());
            }
            let name = session.id.to_string();
            let resume = |leg| Command::Resume { leg, discard: false };
            return self.session_command(&name, "resumed", resume).await.map(drop);
        }
        let create = SessionCreate {
            volume: core_of(&group)?.uuid().to_string(),
            to: group.other().to_string(),
            policy: PolicyPatch { mode: Some("sync".to_owned()), ..PolicyPatch::default() },
            skip_initial_copy: false,
            destination: None,
        };
        self.create_session(create).await.map(drop)
    }

    /// Pairs of a protection group become one group of the core when protection begins.
    async fn assemble(&self, group: &Group) -> Result<(), Refused> {
        let pages = self.book.read();
        let mut apart = Vec::new();
        for pair in pages.evs.pairs_of(group.head.id) {
            let (entry, _) = self.find_volume(&pair.volume.to_string())?;
            if Some(entry.id) != group.core {
                apart.push(pair.head.id);
            }
        }
        self.add_pairs(group, &apart).await
    }

    async fn pause(&self, group: &Group) -> Result<(), Refused> {
        let Some(session) = self.session_of(group).await? else { return Ok(()) };
        let (shown, _) = self.find_session(&session).await?;
        if shown.leg.state == api::SessionState::Suspended {
            return Ok(());
        }
        let suspend = |leg| Command::Suspend { leg };
        self.session_command(&shown.id.to_string(), "suspended", suspend).await?;
        let status = self.status_of(core_of(group)?).await?;
        let stands = status.legs.iter().any(|leg| leg.state == SessionState::Suspended);
        if stands {
            return Ok(());
        }
        Err(Refused::new(Code::Interrupted, "the session was not suspended"))
    }

    /// Whether the other site follows, or is about to.
    async fn is_followed(&self, group: &Group) -> Result<bool, Refused> {
        let (status, other) = (self.status_of(core_of(group)?).await?, group.other());
        let leg = status.legs.iter().find(|leg| leg.gateway.uuid() == other);
        Ok(leg.is_some_and(|leg| leg.state == SessionState::Active))
    }

    async fn reverse(self: &Arc<Self>, group: &Group, to: &str) -> Result<(), Refused> {
        let core = core_of(group)?.uuid().to_string();
        let plan = self.plan_migration(&core, to).await?;
        let blocked = plan.checks.iter().find(|check| check.state == CheckState::Blocked);
        let Some(token) = plan.token else {
            let why = blocked.map_or_else(
                || "it cannot be migrated now".to_owned(),
                |check| format!("{}: {}", check.name, check.detail),
            );
            return Err(Refused::new(Code::WrongState, why));
        };
        let request = MigrationRunRequest { token, drain_ms_max: None };
        let operation = self.run_migration(&core, &request).await?;
        self.await_operation(operation.id).await
    }

    /// Waits for an operation of the core.
    async fn await_operation(&self, id: Uuid) -> Result<(), Refused> {
        loop {
            let operation = self.operations.get(id);
            let operation = operation.ok_or_else(|| {
                Refused::new(Code::Interrupted, format!("operation {id} was forgotten"))
            })?;
            match operation.state {
                OperationState::Running => tokio::time::sleep(LOOK).await,
                OperationState::Succeeded => return Ok(()),
                OperationState::Failed => {
                    let problem = operation.error.unwrap_or_else(|| {
                        api::Problem::new(Code::Internal, format!("operation {id} failed"))
                    });
                    return Err(Refused(Box::new(problem)));
                }
            }
        }
    }

    /// Records what became of a group.
    async fn end_act(&self, group: &Group, deed: &Deed, done: &Result<(), Refused>) {
        let id = group.head.id;
        let fault = done.as_ref().err().map(|refused| fault(refused, group.dialect));
        let ended = match deed {
            Deed::Reverse(_) if done.is_ok() => {
                self.flip(group, group.other(), (Life::Available, Wanted::Running)).await
            }
            // Whoever runs a failover takes over, whatever the record says of who was the primary.
            Deed::Failover(_) if done.is_ok() => {
                self.flip(group, self.own_id(), (Life::FailedOver, Wanted::FailedOver)).await
            }
            _ => {
                let wanted = match deed {
                    Deed::Sync | Deed::Reprotect { .. } => Wanted::Running,
                    Deed::Pause => Wanted::Paused,
                    Deed::Reverse(_) | Deed::Failover(_) => group.wanted,
                };
                let me = self.own_id();
                let end = |group: &mut Group| {
                    if group.worker != Some(me) {
                        // The new primary settled it meanwhile, by what the core had come to.
                        return Ok(());
                    }
                    group.worker = None;
                    if fault.is_none() {
                        (group.life, group.wanted) = (Life::Available, wanted);
                    } else {
                        group.life = group.life.failed();
                    }
                    group.fault = fault;
                    Ok(())
                };
                self.change_group(id, end).await
            }
        };
        self.note(ended);
    }
}

fn check_gate(group: &Group, action: &Action) -> Result<(), Refused> {
    if is_allowed(group.dialect, action, (group.life, group.wanted)) {
        return Ok(());
    }
    let (life, wanted, word) = (group.life, group.wanted, action.word());
    let detail = format!("a group that is {life:?} and {wanted:?} is not {word}");
    Err(coded(Code::WrongState, "SDRS.1002", detail))
}

fn core_of(group: &Group) -> Result<GroupId, Refused> {
    let missing = || coded(Code::WrongState, "SDRS.1002", "the group was never synchronised");
    group.core.map(GroupId::from_uuid).ok_or_else(missing)
}

fn is_copying(data: Data) -> bool {
    matches!(data.replication, Replication::Copying | Replication::Inactive)
}

fn blocked(plan: &FailoverPlan) -> String {
    let blocked = plan.checks.iter().filter(|check| check.state == CheckState::Blocked);
    let why: Vec<String> = blocked.map(|of| format!("{}: {}", of.name, of.detail)).collect();
    if why.is_empty() { "a failover is not possible now".to_owned() } else { why.join("; ") }
}

fn job_kind(group: &Group, action: &Action) -> &'static str {
    match action {
        Action::Sync => "startProtectionGroupNoCG",
        Action::Pause => "stopProtectionGroupNoCG",
        Action::Reverse { .. } => "reverseProtectionGroupNoCG",
        Action::Failover { .. } => "failoverProtectionGroupNoCG",
        Action::Reprotect { .. } => "reprotectProtectionGroupNoCG",
        Action::Extend { .. } if group.dialect == Dialect::Sdrs => "expandReplicationPairNew",
        Action::Extend { .. } => "extendReplicationVolumes",
    }
}

fn failure_kind(action: &Action) -> &'static str {
    match action {
        Action::Sync => "startFail",
        Action::Pause => "stopFail",
        Action::Reverse { .. } => "reverseFail",
        Action::Failover { .. } => "failoverFail",
        Action::Reprotect { .. } => "reprotectFail",
        Action::Extend { .. } => "expandFail",
    }
}
