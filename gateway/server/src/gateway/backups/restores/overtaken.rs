//! Restores over originals whose group another site took over before they were done.
//!
//! Invariant: a restore goes on at a primary only. Once the copy here is in sync with another primary,
//! nothing of half a restore is left in it, so the restore is over: it never writes over what hosts
//! wrote elsewhere meanwhile, also when the roles are swapped back.

use std::sync::Arc;

use api::Code;
use block::{GroupId, Quality};
use mirror::{GroupStatus, Role};

use super::LOOK_PAUSE;
use crate::book::FillEntry;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// Whether all that is here is another primary's.
fn is_anothers(status: &GroupStatus) -> bool {
    status.role == Role::Secondary && status.quality == Quality::InSync
}

impl Gateway {
    /// Ends the restores that another site's content took the place of, for as long as the gateway runs.
    pub(in crate::gateway) async fn end_overtaken(self: Arc<Self>) {
        let look = async {
            loop {
                tokio::time::sleep(LOOK_PAUSE).await;
                let fills = self.book.read().backups.fills.clone();
                for fill in &fills {
                    if let Err(refused) = self.end_if_overtaken(fill).await {
                        let why = refused.0.detail;
                        tracing::warn!(backup = %fill.backup, why, "a restore is not ended");
                    }
                }
            }
        };
        let _stopped = self.stopping.run_until_cancelled(look).await;
    }

    async fn end_if_overtaken(&self, fill: &FillEntry) -> Result<(), Refused> {
        let group = GroupId::from_uuid(fill.group);
        let known = self.board.get(group).is_some_and(|seen| is_anothers(&seen.status));
        let Some(entry) = self.book.read().group_by_id(group).cloned().filter(|_| known) else {
            return Ok(());
        };
        let is_busy = self.operations.running_on(&entry.name).is_some();
        // What the board shows may have been a moment ago.
        if is_busy || !is_anothers(&*self.status_of(group).await?) {
            return Ok(());
        }
        self.let_hosts_in(fill).await?;
        let text = format!(
            "the restore from backup {} is over: another site took the group over, and what is here is \
             its content",
            fill.backup
        );
        self.events.tell("backup", &entry.name, text);
        Ok(())
    }

    /// A restore goes on at a primary only.
    ///
    /// # Errors
    /// [`Code::NotPrimary`].
    pub(super) async fn require_not_overtaken(&self, fill: &FillEntry) -> Result<(), Refused> {
        let status = self.status_of(GroupId::from_uuid(fill.group)).await?;
        if status.role == Role::Primary {
            return Ok(());
        }
        let detail = "another site took the group over while an original was restored here";
        let next =
            "nothing, if that site is to stay: once the copy here follows it the restore is over";
        Err(Refused::new(Code::NotPrimary, detail).next(next))
    }
}
