//! What a session leaves at its destination: a copy whose source has forgotten it becomes a group of
//! its own, or is deleted with all its volumes; and sessions that are deleted together with the copy.
//!
//! Invariant: a copy is no session's any more before anything of it is changed. Its source says so, or
//! an operator does where it cannot be asked. Whatever can refuse is asked before the session is gone.

use std::time::Duration;

use api::{Code, DeleteSession};
use block::{Identity, VolumeId};
use mirror::{GroupStatus, LinkState, Role};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use super::halves::Half;
use super::members::gone_with_volumes;
use super::suspensions::leg_of;
use crate::book::GroupEntry;
use crate::refusal::Refused;

/// A mirror is told of the end of its session on one connection and asked on another: it may need a
/// moment.
const PART_TRIES_MAX: u32 = 40;
const PART_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    /// Deletes a session: only it, with the copy at its destination, or the half that it left here.
    ///
    /// # Errors
    /// As [`Self::delete_session`]; [`Code::PeerUnreachable`], unless forced, where the other gateway
    /// cannot be asked; what stands against the deletion of the copy.
    pub(crate) async fn delete_as_asked(
        &self,
        name: &str,
        asked: DeleteSession,
    ) -> Result<(), Refused> {
        match (asked.half, asked.with_volume) {
            (true, _) => self.delete_half(name, asked).await,
            (false, true) => self.delete_with_copy(name, asked.force).await,
            (false, false) => self.delete_session(name).await,
        }
    }

    // --- at the destination ---

    /// The half of a group here whose session its source has forgotten becomes a group of its own, or
    /// is deleted with its volumes.
    async fn delete_half(&self, name: &str, asked: DeleteSession) -> Result<(), Refused> {
        let (entry, _) = self.find_source(name)?;
        let halves = self.halves().await;
        let is_its =
            |half: &&Half| half.entry.id == entry.id && half.status.role == Role::Secondary;
        let half = halves.iter().find(is_its).ok_or_else(|| {
            let detail = format!("{} is no half of a session here", entry.name);
            Refused::new(Code::NotSecondary, detail)
                .next(format!("twinspan session delete {}:SITE", entry.name))
        })?;
        self.require_forgotten(half, asked.force).await?;
        if asked.with_volume {
            return self.delete_copy(&half.entry).await;
        }
        self.release_half(half).await
    }

    async fn require_forgotten(&self, half: &Half, force: bool) -> Result<(), Refused> {
        let site = &half.site;
        let there = format!("twinspan session delete {}, at {site}", half.entry.name);
        if half.is_connected() {
            let detail = format!("its source {site} is connected: the session is deleted there");
            return Err(Refused::new(Code::VolumeInUse, detail).next(there));
        }
        let question = Question::Look { session: half.session };
        match self.ask(half.peer.uuid(), &question).await.and_then(Answer::seen) {
            Ok(seen) if seen.is_known => {
                let detail = format!("its source {site} still has the session");
                Err(Refused::new(Code::NotPrimary, detail).next(there))
            }
            Ok(_) => Ok(()),
            Err(_) if force => Ok(()),
            Err(refused) => {
                let why = refused.0.detail;
                let detail = format!("whether {site} still has the session is not known: {why}");
                let next = "repeat it with --force if it is deleted there, or will be";
                Err(Refused::new(Code::PeerUnreachable, detail).next(next))
            }
        }
    }

    /// Deletes a mirror's copy of a group, all its volumes.
    async fn delete_copy(&self, entry: &GroupEntry) -> Result<(), Refused> {
        let _alone = self.change_alone().await;
        let status = self.may_delete_copy(entry).await?;
        self.shut_group(entry.group()).await?;
        let changed = self.book.change(gone_with_volumes(entry), |pages| {
            pages.groups.retain(|other| other.id != entry.id);
            pages.backups.fills.retain(|fill| fill.group != entry.id);
            Ok::<(), Refused>(())
        });
        if let Err(refused) = changed.await {
            self.open_group_soon(entry).await?;
            return Err(refused);
        }
        self.forget_maps(&status).await?;
        self.events.tell("group", &entry.name, "the copy here was deleted");
        for volume in entry.volume_ids() {
            self.remove_from_pool(volume).await?;
        }
        Ok(())
    }

    /// Whether a mirror's copy of a group could be deleted now, but for its session.
    async fn may_delete_copy(
        &self,
        entry: &GroupEntry,
    ) -> Result<std::sync::Arc<GroupStatus>, Refused> {
        for volume in &entry.volumes {
            self.require_fills_nobody(&volume.name, VolumeId::from_uuid(volume.id))?;
            self.require_in_no_pair(&volume.name)?;
        }
        let status = self.status_of(entry.group()).await?;
        if status.role != Role::Secondary {
            return Err(Refused::from(mirror::Refusal::NotSecondary));
        }
        if let Some(leg) = status.legs.iter().find(|leg| leg.relay) {
            let detail = format!("the copy of {} is sent on to {}", entry.name, leg.site);
            let next = format!("twinspan session delete {}:{}", entry.name, leg.site);
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.require_no_hosts(entry.group(), &entry.name).await?;
        self.refuse_locked(entry.group(), &entry.volume_ids()).await?;
        Ok(status)
    }

    /// The gateway that has the source of a session deletes it, with the copy here: whether that could
    /// be, or that it is done.
    pub(super) async fn discard_half(
        &self,
        peer: &Identity,
        (session, looks): (Uuid, bool),
    ) -> Result<Answer, Refused> {
        let half = self.half_with(session, peer).await?;
        if looks {
            self.may_delete_copy(&half.entry).await?;
            return Ok(Answer::Done);
        }
        let mut tries = 0;
        loop {
            let status = self.status_of(half.entry.group()).await?;
            if status.upstream.as_ref().is_none_or(|up| up.link != LinkState::Connected) {
                break;
            }
            if tries == PART_TRIES_MAX {
                return Err(Refused::from(mirror::Refusal::NotSuspended));
            }
            tries += 1;
            tokio::time::sleep(PART_PAUSE).await;
        }
        self.delete_copy(&half.entry).await?;
        Ok(Answer::Done)
    }

    // --- at the source ---

    /// Deletes a session and then the copy at its destination. Forced, a copy that cannot be asked for
    /// stays there as a half, and is listed.
    async fn delete_with_copy(&self, name: &str, force: bool) -> Result<(), Refused> {
        let (session, place) = self.find_session(name).await?;
        let status = self.status_of(place.group).await?;
        let leg = leg_of(&status, place)?;
        let (peer, group) = (leg.gateway.uuid(), &session.group);
        let discard = |looks| Question::Discard { session: session.id, looks };
        match self.ask(peer, &discard(true)).await {
            Ok(_) => {}
            // It never had one, or has none any more.
            Err(refused) if refused.is(Code::NotFound) => {}
            Err(refused) if !refused.is(Code::PeerUnreachable) => return Err(refused),
            Err(_) if force => {}
            Err(refused) => {
                let next = format!(
                    "twinspan session delete {name} --with-volume --force leaves the copy at {}",
                    session.to
                );
                return Err(refused.next(next));
            }
        }
        self.delete_session(name).await?;
        match self.ask(peer, &discard(false)).await {
            Ok(_) => Ok(()),
            Err(refused) if refused.is(Code::NotFound) => Ok(()),
            Err(refused) if force => {
                let text = format!("its copy at {} stays: {}", session.to, refused.0.detail);
                self.events.tell("session", group, text);
                Ok(())
            }
            Err(refused) => {
                let detail = format!(
                    "the session is deleted; its copy at {} stays: {}",
                    session.to, refused.0.detail
                );
                let next = format!(
                    "twinspan session delete {group} --half --with-volume, at {}",
                    session.to
                );
                Err(refused.saying(detail).next(next))
            }
        }
    }
}
