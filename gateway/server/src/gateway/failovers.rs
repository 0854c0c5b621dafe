//! Failover and reprotect, as operations.
//!
//! Invariant: a failover talks to this gateway only. A reprotect overwrites nothing that only the
//! other side has without the operator's consent; one that is asked for by hand is run by its plan.

use std::sync::Arc;

use api::{Code, FailoverPlan, Operation, ReprotectPlan, ReprotectRequest};
use block::{GatewayId, GroupId, LegId, SessionId};
use mirror::{Cause, Command, GroupStatus, LegStatus, LinkState, Role, Serving, SessionState};
use uuid::Uuid;

use super::Gateway;
use super::parts::Deed;
use super::surveys::Survey;
use crate::book::GroupEntry;
use crate::failover;
use crate::operations::Running;
use crate::plans::check;
use crate::refusal::Refused;
use crate::reprotect::{self, Outlook};

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

    /// What it would mean to bring the site that used to be the primary, or another that fell behind,
    /// up to date. Nothing is changed.
    ///
    /// # Errors
    /// [`Code::NotPrimary`], [`Code::NothingToReprotect`], [`Code::Invalid`] where several sites could
    /// be meant; [`Code::VolumeRestoring`], [`Code::RollingBack`] for what may be half of something.
    ///
    /// # Cancellation
    /// Safe: it only asks.
    pub(crate) async fn plan_reprotect(
        &self,
        group: &str,
        request: &ReprotectRequest,
    ) -> Result<ReprotectPlan, Refused> {
        let (_, status) = self.may_reprotect(group).await?;
        let aim = self.reprotect_aim(&status, request.to.as_deref())?;
        let (here, there) = self.both_sides(&status, &aim, request.discard).await?;
        let outlook = self.reprotect_outlook((&status, &aim), request.discard, (&here, &there));
        Ok(reprotect::plan(&outlook, &self.plans, &self.clock))
    }

    /// Runs the plan of a reprotect.
    ///
    /// # Errors
    /// [`Code::PlanToken`], and as [`Self::plan_reprotect`]; nothing was begun. What goes wrong later
    /// is in the operation.
    pub(crate) async fn run_reprotect(
        self: &Arc<Self>,
        group: &str,
        token: &str,
    ) -> Result<Operation, Refused> {
        let (entry, status) = self.may_reprotect(group).await?;
        let made = reprotect::look(&self.plans, token, &status, &self.clock)?;
        let lost = match self.planned_aim(&status, made) {
            // Only what may be overwritten has to be asked for again.
            Some(aim) if made.discard => {
                let (here, there) = self.both_sides(&status, &aim, true).await?;
                self.reprotect_outlook((&status, &aim), true, (&here, &there)).lost()
            }
            Some(_) | None => None,
        };
        let made = reprotect::redeem(&self.plans, token, (&status, lost), &self.clock)?;
        let aim = self.planned_aim(&status, made).ok_or_else(|| {
            Refused::new(Code::PeerUnknown, "since the plan was made the other site left")
        })?;
        let command = self.reprotect_command(&status, &aim, made.discard);
        self.begin_reprotect(entry, status, (aim.site, command))
    }

    /// Brings the site that used to be the primary, or another that fell behind, up to date, for one
    /// who has a plan of their own.
    ///
    /// # Errors
    /// As [`Self::plan_reprotect`]; [`Code::NeedsConsent`] where it is known that the other side has
    /// something that this one lacks.
    pub(crate) async fn reprotect(
        self: &Arc<Self>,
        group: &str,
        request: &ReprotectRequest,
    ) -> Result<Operation, Refused> {
        let (entry, status) = self.may_reprotect(group).await?;
        let aim = self.reprotect_aim(&status, request.to.as_deref())?;
        let cause = aim.leg(&status).and_then(|leg| leg.cause.as_ref());
        if let Some(Cause::SplitBrain { theirs_bytes }) = cause
            && !request.discard
        {
            return Err(would_discard(&aim.site, *theirs_bytes, discarding_reprotect(&status)));
        }
        let command = self.reprotect_command(&status, &aim, request.discard);
        self.begin_reprotect(entry, status, (aim.site, command))
    }

    /// The group, if it is served here and whole.
    async fn may_reprotect(&self, group: &str) -> Result<(GroupEntry, Arc<GroupStatus>), Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        if status.role != Role::Primary {
            return Err(Refused::from(mirror::Refusal::NotPrimary));
        }
        self.require_whole(entry.id)?;
        Ok((entry, status))
    }

    /// How both sides are. The other one is asked until it answers where its word is needed: it may be
    /// on its way back.
    async fn both_sides(
        &self,
        status: &GroupStatus,
        aim: &Aim,
        is_needed: bool,
    ) -> Result<(Survey, Result<Survey, String>), Refused> {
        let here = self.survey(status.group, aim.gateway).await?;
        if aim.leg.is_none() {
            return Ok((here, Err(format!("{} has no copy that is known here", aim.site))));
        }
        let ask = async {
            loop {
                match self.ask_survey(status.group, aim.gateway).await {
                    Err(refused) if is_needed && refused.is(Code::PeerUnreachable) => {
                        tokio::time::sleep(COMPARE_PAUSE).await;
                    }
                    asked => return asked.map_err(|refused| refused.0.detail),
                }
            }
        };
        let late = |_late| Err(format!("{} does not answer", aim.site));
        let most = std::time::Duration::from_millis(COMPARE_MS_MAX);
        let there = tokio::time::timeout(most, ask).await.unwrap_or_else(late);
        Ok((here, there))
    }

    fn reprotect_outlook<'a>(
        &'a self,
        (status, aim): (&'a GroupStatus, &'a Aim),
        discard: bool,
        (here, there): (&'a Survey, &'a Result<Survey, String>),
    ) -> Outlook<'a> {
        Outlook {
            status,
            to: (aim.gateway, &aim.site),
            leg: aim.leg(status),
            site: &self.config.site.name,
            discard,
            here,
            there: there.as_ref().map_err(String::as_str),
        }
    }

    fn begin_reprotect(
        self: &Arc<Self>,
        entry: GroupEntry,
        status: Arc<GroupStatus>,
        (site, command): (String, Command),
    ) -> Result<Operation, Refused> {
        let id = entry.group();
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

    /// Which site is to follow.
    fn reprotect_aim(&self, status: &GroupStatus, to: Option<&str>) -> Result<Aim, Refused> {
        let stopped: Vec<&LegStatus> = status
            .legs
            .iter()
            .filter(|leg| leg.state != SessionState::Active)
            .filter(|leg| to.is_none_or(|to| to == leg.site))
            .collect();
        match stopped.as_slice() {
            [leg] => Ok(Aim::of(leg)),
            [] => self.new_aim(status, to),
            several => {
                let sites: Vec<&str> = several.iter().map(|leg| leg.site.as_str()).collect();
                let detail = format!("the group has several: say --to {}", sites.join(" or --to "));
                Err(Refused::new(Code::Invalid, detail))
            }
        }
    }

    /// A group without a leg is mirrored to the site that is named, or to the only one there is.
    fn new_aim(&self, status: &GroupStatus, to: Option<&str>) -> Result<Aim, Refused> {
        let pages = self.book.read();
        let peer = match (to, pages.peers.as_slice()) {
            (Some(to), _) => pages.peer(to),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let peer = peer.filter(|_| status.legs.is_empty()).ok_or_else(|| {
            Refused::new(Code::NothingToReprotect, "no mirror of the group waits to follow")
        })?;
        let gateway = GatewayId::from_uuid(peer.gateway);
        Ok(Aim { gateway, site: peer.site.clone(), leg: None })
    }

    /// The aim of a plan, if it is there still.
    fn planned_aim(&self, status: &GroupStatus, made: reprotect::Deed) -> Option<Aim> {
        if made.leg.is_some() {
            let leg = status.legs.iter().find(|leg| Some(leg.leg) == made.leg);
            return leg.filter(|leg| leg.gateway == made.to).map(Aim::of);
        }
        let pages = self.book.read();
        let peer = pages.peers.iter().find(|peer| peer.gateway == made.to.uuid())?;
        Some(Aim { gateway: made.to, site: peer.site.clone(), leg: None })
    }

    fn reprotect_command(&self, status: &GroupStatus, aim: &Aim, discard: bool) -> Command {
        if let Some(leg) = aim.leg {
            return Command::Resume { leg, discard };
        }
        let sessions = status.volumes.iter().map(|_| SessionId::from_uuid(Uuid::now_v7()));
        Command::AddLeg {
            gateway: aim.gateway,
            site: aim.site.clone(),
            sessions: sessions.collect(),
            policy: self.config.mirror.policy.clone(),
            holds_content: false,
        }
    }
}

/// Which site is to follow, by which leg.
struct Aim {
    gateway: GatewayId,
    site: String,
    /// None: there is no session with it.
    leg: Option<LegId>,
}

impl Aim {
    fn of(leg: &LegStatus) -> Self {
        Self { gateway: leg.gateway, site: leg.site.clone(), leg: Some(leg.leg) }
    }

    fn leg<'a>(&self, status: &'a GroupStatus) -> Option<&'a LegStatus> {
        let leg = self.leg?;
        status.legs.iter().find(|of| of.leg == leg)
    }
}
