//! What a policy keeps: looked at without doing it, and done after each run.
//!
//! Invariant: who decides is `backup::retention`; here it is only asked, and what it says is done. Days
//! are counted by the lock clock, so that a clock on the wall that is moved forward removes nothing.

use std::collections::BTreeSet;

use api::{BackupFate, BackupFateList, BackupRetention};
use backup::retention::{Fate, Kept, Rules, fates};
use backup::{Catalogue, Held, Watch};
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::name_of;
use crate::book::{Pages, PolicyEntry};
use crate::gateway::Gateway;
use crate::points::moment;
use crate::refusal::Refused;

/// Backups that one run deletes: the rest goes after the next one.
const DELETED_MAX: usize = 100;

impl Gateway {
    /// What a policy would do with each backup now.
    ///
    /// # Errors
    /// [`api::Code::NoBackupPolicy`], or what the target says.
    pub(crate) async fn backup_fates(&self, of: &str) -> Result<BackupFateList, Refused> {
        let policy = self.find_policy(of)?;
        let catalogue = self.targets.get(&policy.target)?.catalogue().await?;
        let name = name_of(&self.book.read(), policy.of).unwrap_or_else(|| of.to_owned());
        let mut fates = self.fates(&policy, &name, &catalogue);
        fates.sort_by_key(|fate| catalogue.entry(fate.id).and_then(ordinal));
        let shown = |fate: Fate| {
            let held = catalogue.entry(fate.id).and_then(|entry| entry.held.clone());
            let about = held.as_ref().map(|held| &held.about);
            BackupFate {
                id: fate.id.uuid(),
                name: about.map(|about| about.name.clone()).unwrap_or_default(),
                created_at: about.map(|about| about.created.to_string()).unwrap_or_default(),
                deleted: fate.is_removed,
                reasons: fate.reasons.iter().map(ToString::to_string).collect(),
            }
        };
        let items = fates.into_iter().map(shown).collect();
        Ok(BackupFateList { as_of: self.clock.rfc3339(), items })
    }

    fn fates(&self, policy: &PolicyEntry, name: &str, catalogue: &Catalogue) -> Vec<Fate> {
        let pages = self.book.read();
        let wanted = subjects(&pages, policy.of);
        let all = catalogue.entries().filter_map(|entry| {
            let held = entry.held.as_deref()?;
            // A mirror of the group may have a policy of that name too, with rules of its own.
            let took =
                held.about.policy.as_ref().filter(|_| held.about.gateway == self.config.site.name);
            (entry.status.is_whole() && is_of(held, policy.of, &wanted)).then(|| Kept {
                id: entry.id,
                origin: held.about.origin,
                policy: took.cloned(),
                created: held.about.created,
                ordinal: held.about.ordinal,
                locked_until: entry.locked_until,
            })
        });
        let kept: Vec<Kept> = all.collect();
        let zone = TimeZone::get(&policy.zone).unwrap_or(TimeZone::UTC);
        let now = moment(self.clock.lock_ms());
        fates(name, &rules(&policy.retention), &zone, &kept, now)
    }

    /// Deletes what no rule keeps, and gives its room back.
    pub(super) async fn retain(&self, policy: &PolicyEntry, name: &str) -> Result<(), Refused> {
        let target = self.targets.get(&policy.target)?;
        let catalogue = target.catalogue().await?;
        let fates = self.fates(policy, name, &catalogue);
        let gone: Vec<&Fate> =
            fates.iter().filter(|fate| fate.is_removed).take(DELETED_MAX).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let repository = target.open(false).await?;
        for fate in &gone {
            target.note(repository.remove(fate.id, target.now()).await)?;
            self.forget_run(fate.id.uuid()).await?;
        }
        let watch = Watch::new(self.stopping.child_token());
        let collected = target.note(repository.collect(target.now(), &watch).await)?;
        let mut text = format!(
            "{} backups that no rule keeps were deleted, and {} given back",
            gone.len(),
            api::units::bytes_text(collected.bytes)
        );
        if let Some(words) = collected.refused_words() {
            text = format!("{text}; {words}");
        }
        self.events.tell("backup", name, text);
        Ok(())
    }
}

fn ordinal(entry: &backup::Entry) -> Option<u64> {
    entry.held.as_ref().map(|held| held.about.ordinal)
}

/// The volume that a policy is of, or none for a group.
fn subjects(pages: &Pages, of: Uuid) -> BTreeSet<Uuid> {
    let is_volume = pages.volume_by_id(block::VolumeId::from_uuid(of)).is_some();
    is_volume.then_some(of).into_iter().collect()
}

/// Whether a backup is one of what the policy is of: of the group, or of this volume alone.
fn is_of(held: &Held, of: Uuid, volumes: &BTreeSet<Uuid>) -> bool {
    if volumes.is_empty() {
        return held.about.group.as_ref().is_some_and(|(group, _)| group.uuid() == of);
    }
    held.volumes.iter().map(|volume| volume.id.uuid()).collect::<BTreeSet<_>>() == *volumes
}

const fn rules(retention: &BackupRetention) -> Rules {
    Rules {
        count: retention.last,
        days_old: retention.days,
        daily: retention.daily,
        weekly: retention.weekly,
        monthly: retention.monthly,
        yearly: retention.yearly,
    }
}
