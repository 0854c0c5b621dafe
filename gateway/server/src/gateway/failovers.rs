//! Failover and reprotect, as operations.
//!
//! Invariant: a failover talks to this gateway only. A reprotect overwrites nothing that only the
//! other side has without the operator's consent.

use std::sync::Arc;

use api::{Code, FailoverPlan, Operation, ReprotectRequest};
use block::{GatewayId, GroupId, SessionId};
use mirror::{Cause, Command, GroupStatus, LegStatus, LinkState, Role, Serving, SessionState};
use uuid::Uuid;

use super::Gateway;
use super::parts::Deed;
use crate::failover;
use crate::operations::Running;
use crate::plans::check;
use crate::refusal::Refused;

/// How long a reprotect waits to learn how the two copies relate.
const COMPARE_MS_MAX: u64 = 5_000;
const COMPARE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What the comparison of histories came to; `None` while it is not known.
fn compared(status: &GroupStatus, site: &str) -> Result<Option<String>, Refused> {
    let Some(leg) = status.legs.iter().find(|leg| leg.site == site) else {
        return Err(Refused::from(mirror::Refusal::Unknown));
    };
    match (&leg.cause, leg.state) {
        (Some(Cause::SplitBrain { theirs_bytes }), _) => {
            Err(would_discard(site, *theirs_bytes, discarding_reprotect(status)))
        }
        (Some(Cause::Refused(why)), _) => {
            Err(Refused::new(Code::MirrorRefused, format!("{site} refused: {why}")))
        }
        (_, SessionState::Active) if leg.link == LinkState::Connected => {
            let bytes = leg.sessions.iter().map(|session| session.resync_total_bytes).sum();
            let full = leg.sessions.iter().any(|session| session.full);
            let kind = match full {
                _ if leg.comparing => "what differs, once all of it is compared",
                true => "a full copy",
                false => "only the difference",
            };
            Ok(Some(format!("{kind}: {}", api::units::bytes_text(bytes))))
        }
        _ => Ok(None),
    }
}

/// What only another site has would be overwritten, and nobody agreed to that; `next` is the call
/// that does.
pub(super) fn would_discard(site: &str, theirs_bytes: u64, next: String) -> Refused {
    let what = crate::status::own_content(theirs_bytes);
    let detail = format!("{site} {what} that this site lacks, which would be lost");
    Refused::new(Code::NeedsConsent, detail).next(next)
}

fn discarding_reprotect(status: &GroupStatus) -> String {
    format!("twinspan reprotect {} --discard", status.name)
}

impl Gateway {
    /// What a failover of this group to this gateway would mean.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Invalid`], [`Code::ShardSilent`].
    pub(crate) async fn plan_failover(
        &self,
        group: &str,
        accept: Option<&str>,
    ) -> Result<FailoverPlan, Refused> {
        let consent = failover::consent(accept)?;
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let exports: Vec<String> =
            entry.volumes.iter().flat_map(|volume| self.exports_of(&volume.name)).collect();
        let site = (self.config.site.name.as_str(), exports.as_slice());
        if status.parts.is_none() || status.handover.is_some() {
            return Ok(failover::plan(&status, site, consent, (&self.plans, &self.clock)));
        }
        let parts = match self.look_at_parts(&status).await {
            Ok(parts) => self.part_checks(&parts, consent),
            Err(refused) => {
                let what = format!("{}; {}", refused.0.detail, refused.0.next.unwrap_or_default());
                let silent = check("ask every part", api::CheckState::Blocked, what);
                (mirror::Cut { number: 0, apart: true }, vec![silent])
            }
        };
        let (cut, mut lines) = parts;
        lines.extend(Self::excluded_checks(&status));
        let parts = (consent, Some((cut, lines)));
        Ok(failover::plan_with_parts(&status, site, parts, (&self.plans, &self.clock)))
    }

    /// Runs a plan.
    ///
    /// # Errors
    /// [`Code::PlanToken`]; nothing was begun. What goes wrong later is in the operation.
    pub(crate) async fn run_failover(
        self: &Arc<Self>,
        group: &str,
        token: &str,
    ) -> Result<Operation, Refused> {
        let entry = self.find_group(group)?;
        let id = entry.group();
        let status = self.status_of(id).await?;
        let (plans, clock) = (&self.plans, &self.clock);
        let (consent, cut) = if status.parts.is_none() {
            (failover::redeem(plans, token, &status, clock)?, None)
        } else {
            failover::redeem_with_parts(plans, token, &status, clock)?
        };
        let running = self.operations.begin("failover", &entry.name);
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let result = match cut {
                None => gateway.promote(&mut running, id, consent).await,
                Some(cut) => gateway.promote_parts(&mut running, id, (consent, cut)).await,
            };
            match &result {
                Ok(()) => gateway.events.tell("group", &entry.name, "failed over to this site"),
                Err(refused) => {
                    let text = format!("failover failed: {}", refused.0.detail);
                    gateway.events.tell("group", &entry.name, text);
                }
            }
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    async fn promote(
        &self,
        running: &mut Running,
        group: GroupId,
        consent: mirror::Consent,
    ) -> Result<(), Refused> {
        running.step("raise the epoch and open the copy");
        let status = self.become_primary(running, group, consent).await?;
        running.step("export");
        if status.role != Role::Primary || status.serving != Serving::Yes {
            let detail = format!("the group is {:?}, serving {:?}", status.role, status.serving);
            return Err(Refused::new(Code::Interrupted, detail));
        }
        let exports: Vec<String> =
            status.volumes.iter().flat_map(|volume| self.exports_of(&volume.name)).collect();
        running.done(if exports.is_empty() {
            "this gateway has no NBD listener".to_owned()
        } else {
            exports.join(", ")
        });
        Ok(())
    }

    /// Promotes the copy here; its status then.
    pub(super) async fn become_primary(
        &self,
        running: &mut Running,
        group: GroupId,
        consent: mirror::Consent,
    ) -> Result<Arc<GroupStatus>, Refused> {
        self.command(group, Command::Promote { consent }).await?;
        let status = self.status_of(group).await?;
        running.done(format!("primary at epoch {}", status.epoch));
        Ok(status)
    }

    /// Brings the site that used to be the primary, or another that fell behind, up to date.
    ///
    /// # Errors
    /// [`Code::NotPrimary`], [`Code::NothingToReprotect`], [`Code::NeedsConsent`];
    /// [`Code::VolumeRestoring`], [`Code::RollingBack`] for what may be half of something.
    pub(crate) async fn reprotect(
        self: &Arc<Self>,
        group: &str,
        request: &ReprotectRequest,
    ) -> Result<Operation, Refused> {
        let entry = self.find_group(group)?;
        let id = entry.group();
        let status = self.status_of(id).await?;
        if status.role != Role::Primary {
            return Err(Refused::from(mirror::Refusal::NotPrimary));
        }
        self.require_whole(entry.id)?;
        let (site, command) = self.reprotect_command(&status, request)?;
        let running = self.operations.begin("reprotect", &entry.name);
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let discard = matches!(command, Command::Resume { discard: true, .. });
            let resumes = matches!(command, Command::Resume { .. });
            let mut result = gateway.follow_again(&mut running, id, (&site, command)).await;
            if result.is_ok() && resumes && status.parts.is_some() {
                running.step("the same for every other part");
                result = gateway.tell_all(&status, &Deed::Resume { discard }).await;
                if result.is_ok() {
                    running.done("told");
                }
            }
            if result.is_ok() {
                gateway.events.tell("group", &entry.name, format!("reprotected towards {site}"));
            }
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    pub(crate) async fn follow_again(
        &self,
        running: &mut Running,
        group: GroupId,
        (site, command): (&str, Command),
    ) -> Result<(), Refused> {
        running.step(&format!("mirror to {site}"));
        self.command(group, command).await?;
        running.done("wanted from now on, whatever comes between");
        running.step("compare histories");
        let until_ms = self.clock.steady_ms().saturating_add(COMPARE_MS_MAX);
        while self.clock.steady_ms() < until_ms {
            let status = self.status_of(group).await?;
            match compared(&status, site)? {
                Some(detail) => {
                    running.done(detail);
                    return Ok(());
                }
                None => tokio::time::sleep(COMPARE_PAUSE).await,
            }
        }
        running.done(format!("{site} is not reached yet; the difference is copied when it is"));
        Ok(())
    }

    fn reprotect_command(
        &self,
        status: &GroupStatus,
        request: &ReprotectRequest,
    ) -> Result<(String, Command), Refused> {
        let stopped: Vec<&LegStatus> = status
            .legs
            .iter()
            .filter(|leg| leg.state != SessionState::Active)
            .filter(|leg| request.to.as_ref().is_none_or(|to| *to == leg.site))
            .collect();
        match stopped.as_slice() {
            [leg] => {
                if let Some(Cause::SplitBrain { theirs_bytes }) = leg.cause
                    && !request.discard
                {
                    return Err(would_discard(
                        &leg.site,
                        theirs_bytes,
                        discarding_reprotect(status),
                    ));
                }
                let command = Command::Resume { leg: leg.leg, discard: request.discard };
                Ok((leg.site.clone(), command))
            }
            [] => self.new_leg(status, request),
            several => {
                let sites: Vec<&str> = several.iter().map(|leg| leg.site.as_str()).collect();
                let detail = format!("the group has several: say --to {}", sites.join(" or --to "));
                Err(Refused::new(Code::Invalid, detail))
            }
        }
    }

    /// A group without a leg is mirrored to the site that is named, or to the only one there is.
    fn new_leg(
        &self,
        status: &GroupStatus,
        request: &ReprotectRequest,
    ) -> Result<(String, Command), Refused> {
        let pages = self.book.read();
        let peer = match (&request.to, pages.peers.as_slice()) {
            (Some(to), _) => pages.peer(to),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let peer = peer.filter(|_| status.legs.is_empty()).ok_or_else(|| {
            Refused::new(Code::NothingToReprotect, "no mirror of the group waits to follow")
        })?;
        let sessions = status.volumes.iter().map(|_| SessionId::from_uuid(Uuid::now_v7()));
        let command = Command::AddLeg {
            gateway: GatewayId::from_uuid(peer.gateway),
            site: peer.site.clone(),
            sessions: sessions.collect(),
            policy: self.config.mirror.policy.clone(),
            holds_content: false,
        };
        Ok((peer.site.clone(), command))
    }
}
