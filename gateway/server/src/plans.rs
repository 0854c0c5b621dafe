//! Plans that can be run: a token, what it was made for, and the state that it was made from.
//!
//! Invariant: a plan is run once, only while it is fresh, and only if the state is the one that it
//! was made from.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use api::{Check, CheckState, Code};
use block::GroupId;

use crate::clock::{Clock, text};
use crate::refusal::Refused;

/// Long enough to read a plan to somebody on the telephone.
const PLAN_MS_MAX: u64 = 10 * 60_000;
/// Plans that are remembered at once; the oldest is forgotten.
const PLANS_MAX: usize = 64;

/// What a plan is for, with the state that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A failover to this gateway.
    Failover(crate::failover::Deed),
    /// A planned migration away from it.
    Migration(crate::migration::Deed),
    /// A session that follows again.
    Reprotect(crate::reprotect::Deed),
    /// A way back to a snapshot.
    Rollback(crate::rollback::Deed),
    /// A restore over the originals of a backup.
    BackupRestore(crate::gateway::backups::restores::Deed),
}

/// A plan that was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    group: GroupId,
    deed: Deed,
    until_ms: u64,
}

/// A plan's token, and until when it can be used, RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The token.
    pub(crate) token: String,
    /// Its end.
    pub(crate) expires_at: String,
}

/// The plans that can be run.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    made: Mutex<HashMap<String, Made>>,
}

impl Plans {
    /// Gives a token for a plan.
    pub(crate) fn remember(&self, group: GroupId, deed: Deed, clock: &Clock) -> Ticket {
        let token = short_token();
        let until_ms = clock.steady_ms().saturating_add(PLAN_MS_MAX);
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= PLANS_MAX
            && let Some(oldest) =
                all.iter().min_by_key(|(_, made)| made.until_ms).map(|(token, _)| token.clone())
        {
            all.remove(&oldest);
        }
        all.insert(token.clone(), Made { group, deed, until_ms });
        Ticket { token, expires_at: text(clock.unix_ms().saturating_add(PLAN_MS_MAX)) }
    }

    /// Uses a token up, if `fits` says that the plan is of this kind and its state still stands.
    ///
    /// # Errors
    /// [`Code::PlanToken`] when it is unknown, of another group or kind, too old, or the state
    /// changed; then it can be tried again.
    pub(crate) fn redeem<T>(
        &self,
        token: &str,
        (group, clock): (GroupId, &Clock),
        fits: impl FnOnce(Deed) -> Result<T, &'static str>,
    ) -> Result<T, Refused> {
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let token = token.to_ascii_uppercase();
        let deed = fresh(&all, &token, (group, clock)).map_err(refused)?;
        let fitting = fits(deed).map_err(refused)?;
        all.remove(&token);
        Ok(fitting)
    }

    /// What a token is for, without using it up: for one whose state takes time to look at.
    ///
    /// # Errors
    /// As [`Self::redeem`].
    pub(crate) fn look(&self, token: &str, of: (GroupId, &Clock)) -> Result<Deed, Refused> {
        let all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        fresh(&all, &token.to_ascii_uppercase(), of).map_err(refused)
    }
}

/// Why a token is of no use.
pub(crate) fn refused(why: &str) -> Refused {
    Refused::new(Code::PlanToken, why.to_owned())
}

/// What the plan with this token does, if it is one of this group and not too old.
fn fresh(
    all: &HashMap<String, Made>,
    token: &str,
    (group, clock): (GroupId, &Clock),
) -> Result<Deed, &'static str> {
    let made = all.get(token).ok_or("no plan has this token, or it was run already")?;
    if made.group != group {
        return Err("the plan is of another group");
    }
    if made.until_ms <= clock.steady_ms() {
        return Err("the plan is too old");
    }
    Ok(made.deed)
}

/// Short enough to be read out; it is no secret, it only says which plan is meant.
fn short_token() -> String {
    let random = uuid::Uuid::now_v7().as_u128();
    const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    (0..6).map(|i| char::from(ALPHABET[(random >> (5 * i)) as usize % 32])).collect()
}

/// One line of a plan.
#[must_use]
pub(crate) fn check(name: &str, state: CheckState, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), state, detail: detail.into() }
}

/// Whether a line stands in the way.
#[must_use]
pub(crate) fn is_blocked(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.state == CheckState::Blocked)
}
