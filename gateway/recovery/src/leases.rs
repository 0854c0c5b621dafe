//! Which run may touch which group.
//!
//! Invariant: a group is leased to a run from the record that begins it to the one that ends it.
//! The journals are the leases, so that both are durable at once, and a copy of a journal at another
//! site is a lease there.

use crate::run::Run;

/// A group that another run has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("group {group} is in the hands of run {run} of plan {plan}, which {site} runs")]
pub struct Leased {
    /// The group's name.
    pub group: String,
    /// The run.
    pub run: String,
    /// Its plan.
    pub plan: String,
    /// Where it runs.
    pub site: String,
}

/// Whether a run may have these groups, by identity.
///
/// # Errors
/// Another run has one of them.
pub fn check<'a>(
    run: &str,
    groups: &[(String, String)],
    others: impl IntoIterator<Item = &'a Run>,
) -> Result<(), Leased> {
    for other in others.into_iter().filter(|of| of.ended.is_none() && of.id() != run) {
        let has = |group: &&(String, String)| other.begun.groups.iter().any(|of| of.0 == group.0);
        if let Some((_, name)) = groups.iter().find(has) {
            return Err(Leased {
                group: name.clone(),
                run: other.id().to_owned(),
                plan: other.plan.name.clone(),
                site: other.runner.site.clone(),
            });
        }
    }
    Ok(())
}
