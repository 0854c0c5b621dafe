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
    let mut held =
        others.into_iter().filter_map(|other| Some((other, held_by(other, run, groups)?)));
    held.next().map_or(Ok(()), |(other, group)| {
        Err(Leased {
            group: group.to_owned(),
            run: other.id().to_owned(),
            plan: other.plan.name.clone(),
            site: other.runner.site.clone(),
        })
    })
}

/// The name of the first of these groups that another run has.
#[must_use]
pub fn held_by<'g>(other: &Run, run: &str, groups: &'g [(String, String)]) -> Option<&'g str> {
    if other.ended.is_some() || other.id() == run {
        return None;
    }
    let has = |group: &&(String, String)| other.begun.groups.iter().any(|of| of.0 == group.0);
    groups.iter().find(has).map(|(_, name)| name.as_str())
}
