//! How much may be made at a gateway (EVS-28).
//!
//! Invariant: whatever makes or grows a volume here asks first; what a mirror's primary makes longer
//! is not refused, because its copy would be worth nothing then.

use api::Code;

use super::Gateway;
use crate::refusal::Refused;

impl Gateway {
    /// How many volumes there are, and the bytes of their sizes together.
    pub(crate) fn quota_used(&self) -> (u64, u64) {
        let volumes = self.pool.volumes();
        (volumes.len() as u64, volumes.iter().map(|volume| volume.bytes).sum())
    }

    /// Whether so much more may be made here (EVS-28).
    ///
    /// # Errors
    /// [`Code::QuotaReached`], with what is used and what was wanted.
    pub(super) fn require_quota(&self, volumes: u64, bytes: u64) -> Result<(), Refused> {
        let quota = self.config.quota;
        let (used, used_bytes) = self.quota_used();
        let of =
            [("volumes", quota.volumes, used, volumes), ("bytes", quota.bytes, used_bytes, bytes)];
        for (what, limit, used, wanted) in of {
            if let Some(limit) = limit.filter(|limit| used.saturating_add(wanted) > *limit) {
                let detail =
                    format!("quota.{what} is {limit}: {used} are used, {wanted} more are wanted");
                return Err(Refused::new(Code::QuotaReached, detail));
            }
        }
        Ok(())
    }
}
