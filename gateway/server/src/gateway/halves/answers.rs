//! What is done when another gateway asks about a half of a session.
//!
//! Invariant: who asks is looked at before anything is done.

use block::Identity;
use mirror::Command;
use uuid::Uuid;

use super::Half;
use crate::gateway::Gateway;
use crate::gateway::asks::{Answer, Seen};
use crate::numbers::{Numbers, Remote};
use crate::refusal::Refused;

impl Gateway {
    /// Gives a session that was made at its source a number here.
    pub(super) async fn name_half(&self, session: Uuid, remote: Remote) -> Result<Answer, Refused> {
        let name = |numbers: &mut Numbers| {
            let entry = numbers.give_session(session);
            entry.remote = Some(remote);
            entry.is_deleted = false;
            entry.number
        };
        Ok(Answer::Named { number: self.numbers.change(&self.book, name).await? })
    }

    /// How the half here is; one that is not known is told as that.
    pub(super) async fn look_at_half(&self, session: Uuid, peer: &Identity) -> Answer {
        let half = self.half_with(session, peer).await.ok();
        Answer::Seen(Seen {
            is_known: half.is_some(),
            own_bytes: half.as_ref().map_or(0, Half::own_bytes),
            quality: half.map(|half| crate::status::quality(half.status.quality)),
        })
    }

    /// Opens the copy of a session to hosts: the gateway that has its source suspended it.
    pub(super) async fn detach_half(
        &self,
        session: Uuid,
        peer: &Identity,
    ) -> Result<Answer, Refused> {
        let half = self.half_with(session, peer).await?;
        self.command(half.entry.group(), Command::Detach).await?;
        Ok(Answer::Done)
    }

    /// Forgets a session whose destination is deleted at the gateway that asks.
    pub(super) async fn part_with(
        &self,
        session: Uuid,
        peer: &Identity,
    ) -> Result<Answer, Refused> {
        let half = self.half_with(session, peer).await?;
        let leg = half.leg.ok_or_else(|| Refused::from(mirror::Refusal::NotPrimary))?;
        self.command(half.entry.group(), Command::RemoveLeg { leg: leg.leg }).await?;
        let text = format!("deleted by {}, with the copy there", peer.site);
        self.events.tell("session", &half.entry.name, text);
        Ok(Answer::Done)
    }
}
