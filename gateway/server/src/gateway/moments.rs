//! Any-second rollback as it is asked for: how much mirrors write down, what can be opened, and a group
//! opened as of a second.
//!
//! ```text
//!   policy, told in the stream ─▶ each mirror's journal ─▶ attached to its group, bases kept
//!   a second ─▶ base + journal, proven ─▶ base kept, segments pinned ─▶ new volumes with that origin
//! ```
//!
//! Invariant: a base that a journal names is removed by nobody but the gateway; one that none names
//! any more is. What is opened is whole before anybody can attach it: it is read once from end to end.

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{
    Code, Moment, MomentOpen, MomentRange, PointJournal, PointJournalState, PointJournalStatus,
};
use block::{GroupId, SnapshotId, VolumeId};
use mirror::{Command, GroupStatus, Mode, Role, SnapshotOrigin, SnapshotState};
use store::OriginRecord;
use store::journal::{Journal, View};
use uuid::Uuid;

use super::Gateway;
use super::members::check_name;
use super::volumes::{NewGroup, NewVolume};
use crate::access;
use crate::book::GroupEntry;
use crate::clock::text;
use crate::moments::{self, Laid, is_there};
use crate::points::{Stored, moment, unix_ms};
use crate::refusal::Refused;

/// How often it is looked at what journals need.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A volume of a moment: where its base is, and what it becomes.
#[derive(Clone, Copy)]
struct Part {
    of: VolumeId,
    here: SnapshotId,
    bytes: u64,
    new: VolumeId,
}

impl Gateway {
    // --- how much is written down ---

    /// Says how much the mirrors of a group write down; `None`: nothing.
    ///
    /// # Errors
    /// [`Code::PointPolicyInvalid`], [`Code::NotPrimary`], [`Code::Spanning`], or the group's refusal.
    pub(crate) async fn set_point_journal(
        &self,
        group: &str,
        journal: Option<PointJournal>,
    ) -> Result<PointJournalState, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        if status.parts.is_some() {
            let detail = "a group over several gateways has no write journal";
            return Err(Refused::new(Code::Spanning, detail));
        }
        if let Some(journal) = &journal {
            let invalid = |why: String| Refused::new(Code::PointPolicyInvalid, why);
            moments::proven(journal).map_err(invalid)?;
            let mut legs = status.legs.iter().filter(|leg| !leg.relay).peekable();
            if legs.peek().is_some() && legs.all(|leg| leg.policy.mode == Mode::Stack) {
                let why = "sessions of mode stack send in no order: there is nothing to write down";
                return Err(invalid(why.to_owned()).next("choose another mode first"));
            }
        }
        let change = move |status: &GroupStatus| {
            let mut stored = Stored::of(status).unwrap_or_default();
            stored.journal = journal;
            Ok::<_, Refused>((stored, ()))
        };
        self.change_stored(&entry, &status, change).await?;
        let words = match &journal {
            None => "mirrors keep no write journal any more".to_owned(),
            Some(journal) => format!(
                "mirrors keep a write journal of {} s in up to {}",
                journal.window_seconds,
                bytes_text(journal.bytes)
            ),
        };
        self.events.tell("point", &entry.name, words);
        self.point_journal(&entry.name).await
    }

    /// The write journal of a group here.
    ///
    /// # Errors
    /// [`Code::NotFound`], or the group does not answer.
    pub(crate) async fn point_journal(&self, group: &str) -> Result<PointJournalState, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let wanted = Stored::of(&status).ok().and_then(|stored| stored.journal);
        let found = self.moments.journal(entry.group());
        let known = found.map(|journal| journal.status(is_there(&status)));
        let state = match (&wanted, &known) {
            (None, _) => PointJournalStatus::Off,
            (Some(_), _) if status.role != Role::Secondary => PointJournalStatus::Primary,
            (Some(_), None) => PointJournalStatus::Reading,
            (Some(_), Some(known)) if known.is_reading => PointJournalStatus::Reading,
            (Some(_), Some(known)) if known.follows => PointJournalStatus::Writing,
            (Some(_), Some(_)) => PointJournalStatus::Waiting,
        };
        let shorter_because = match (&wanted, &known) {
            (Some(wanted), Some(known)) => moments::shorter_because(wanted, &status, known),
            _ => None,
        };
        let known = known.unwrap_or_default();
        let is_known = state != PointJournalStatus::Reading;
        let range = |(from, to): &(u64, u64)| MomentRange { from: text(*from), to: text(*to) };
        let ranges: Vec<MomentRange> = known.ranges.iter().map(range).collect();
        Ok(PointJournalState {
            as_of: self.clock.rfc3339(),
            group: entry.name.clone(),
            journal: wanted,
            state,
            oldest: ranges.first().map(|range| range.from.clone()),
            newest: known.ranges.iter().map(|(_, to)| *to).max().map(text),
            ranges,
            bytes: is_known.then_some(known.bytes),
            durable_to: known.durable_ms.map(text),
            shorter_because,
            gaps: known.gaps.iter().sum(),
        })
    }

    // --- a second ---

    /// Opens a group as of a second, as new volumes in a group of their own, which can be used at once.
    ///
    /// # Errors
    /// [`Code::NoPointJournal`], [`Code::MomentUnknown`], [`Code::Exists`], [`Code::Invalid`],
    /// [`Code::SnapshotUnusable`] when a part of the journal cannot be read back, or those of making a
    /// volume. Nothing was made then.
    pub(crate) async fn open_moment(
        &self,
        group: &str,
        wanted: MomentOpen,
    ) -> Result<Moment, Refused> {
        check_name(&wanted.name)?;
        access::check(&wanted.settings).map_err(|why| Refused::new(Code::Invalid, why))?;
        let entry = self.find_group(group)?;
        let at_ms = self.asked_ms(&wanted.at)?;
        let status = self.status_of(entry.group()).await?;
        let (journal, found) = self.find_moment((&entry, &status), at_ms)?;
        let parts = self.parts_of_base(&status, found.base)?;
        let _alone = self.change_alone().await;
        let new = self.new_group(&entry, &wanted, &parts, Laid::new(entry.group(), &found))?;
        let group_id = entry.group();
        let mut kept = Vec::with_capacity(parts.len());
        for part in &parts {
            let (place, by) = ((group_id, part.of, part.here), part.new);
            let asked = self.shard_of(group_id).call(move |state| state.keep_snapshot(place, by));
            let is_kept = asked.await?;
            kept.extend(is_kept.then_some(*part));
            // What goes by itself may have been quicker.
            if !is_kept || !journal.pin(part.new, &found) {
                self.let_go_of_parts(group_id, &kept, &journal).await;
                return Err(unknown(&entry, &journal, &status, at_ms));
            }
        }
        if let Err(refused) = self.make_moment(&journal, &found, &parts, new).await {
            self.let_go_of_parts(group_id, &parts, &journal).await;
            return Err(refused);
        }
        let at = text(found.unix_ms);
        let words = format!("created from {} as of {at}; it is being filled", entry.name);
        self.events.tell("group", &wanted.name, words);
        let made = self.find_group(&wanted.name)?;
        let mut volumes = Vec::with_capacity(made.volumes.len());
        for volume in &made.volumes {
            volumes.push(self.volume(&volume.name).await?);
        }
        Ok(Moment { of: entry.name, group: made.name, at, volumes })
    }

    /// The last moment that is not later than a time.
    ///
    /// # Errors
    /// [`Code::NoPointJournal`], [`Code::MomentUnknown`].
    pub(super) fn find_moment(
        &self,
        (entry, status): (&GroupEntry, &GroupStatus),
        at_ms: u64,
    ) -> Result<(Journal, store::journal::Moment), Refused> {
        // A primary has one only of what it wrote down while it was a mirror.
        let has_any = |journal: &Journal| {
            status.role == Role::Secondary || !journal.status(is_there(status)).ranges.is_empty()
        };
        let journal = self.moments.journal(entry.group()).filter(has_any);
        let journal = journal.ok_or_else(|| no_journal(entry))?;
        let found = journal.find(at_ms, is_there(status));
        let found = found.ok_or_else(|| unknown(entry, &journal, status, at_ms))?;
        Ok((journal, found))
    }

    /// What is laid over the base is read from end to end, so that what is made can be read.
    async fn make_moment(
        &self,
        journal: &Journal,
        found: &store::journal::Moment,
        parts: &[Part],
        new: NewGroup,
    ) -> Result<(), Refused> {
        let (from, to, journal) = (found.from, found.to, journal.clone());
        let read = self.tasks.spawn_blocking(move || journal.views(from, to)).await;
        let read = read.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let mut views = read.map_err(|error| {
            let detail = format!("what was written down up to that second: {error}");
            Refused::new(Code::SnapshotUnusable, detail)
        })?;
        for part in parts {
            let view: View = views.remove(&part.of).unwrap_or_default();
            self.moments.add_view(part.new, view);
        }
        self.create_group(new).await
    }

    /// Lets go of what was kept for volumes that are not made after all. If the pool has one, what it
    /// needs stays until the next start has removed both.
    async fn let_go_of_parts(&self, group: GroupId, parts: &[Part], journal: &Journal) {
        for part in parts.iter().filter(|part| self.pool.volume(part.new).is_none()) {
            journal.unpin(part.new);
            self.moments.let_go(part.new, None);
            let (place, by) = ((group, part.of, part.here), part.new);
            let gone = self
                .shard_of(group)
                .run(move |state| async move { state.let_go_of_snapshot(place, by).await });
            if let Err(refused) = gone.await.unwrap_or_else(|silent| Err(silent.into())) {
                tracing::warn!(volume = %part.of, why = refused.0.detail, "a base stays");
            }
        }
    }

    /// The volumes of a base, in the order of the group.
    fn parts_of_base(&self, status: &GroupStatus, base: SnapshotId) -> Result<Vec<Part>, Refused> {
        let unusable = || Refused::new(Code::SnapshotUnusable, "what its base held is not there");
        let snapshot = status.snapshots.iter().find(|of| of.id == base).ok_or_else(unusable)?;
        let sizes = self.board.get(status.group).map(|seen| seen.sizes).ok_or_else(unusable)?;
        let part = |volume: &mirror::VolumeStatus| {
            let held = snapshot.volumes.iter().find(|(id, _)| *id == volume.volume);
            let (of, here) = held.copied().ok_or_else(unusable)?;
            let bytes = sizes.get(&here).copied().filter(|bytes| *bytes > 0);
            let bytes = bytes.ok_or_else(unusable)?;
            Ok(Part { of, here, bytes, new: VolumeId::from_uuid(Uuid::now_v7()) })
        };
        status.volumes.iter().map(part).collect()
    }

    /// The group that is to be made.
    ///
    /// # Errors
    /// [`Code::Exists`], [`Code::Invalid`] for a name that is too long with a volume's behind it.
    fn new_group(
        &self,
        entry: &GroupEntry,
        wanted: &MomentOpen,
        parts: &[Part],
        laid: Laid,
    ) -> Result<NewGroup, Refused> {
        let pages = self.book.read();
        let exists = |what: &str, name: &str| {
            Refused::new(Code::Exists, format!("a {what} {name:?} exists here"))
        };
        if pages.group(&wanted.name).is_some() {
            return Err(exists("group", &wanted.name));
        }
        let mut volumes = Vec::with_capacity(parts.len());
        for part in parts {
            let known = entry.volumes.iter().find(|volume| volume.id == part.of.uuid());
            let name = match known {
                Some(of) if parts.len() > 1 => format!("{}-{}", wanted.name, of.name),
                Some(_) | None => wanted.name.clone(),
            };
            check_name(&name)?;
            if pages.volume(&name).is_some() {
                return Err(exists("volume", &name));
            }
            volumes.push(NewVolume {
                volume: part.new,
                name,
                bytes: part.bytes,
                settings: wanted.settings.clone(),
                origin: Some(OriginRecord::Laid {
                    volume: part.of,
                    snapshot: part.here,
                    description: laid.encode(),
                    bytes: part.bytes,
                }),
            });
        }
        let group = GroupId::from_uuid(Uuid::now_v7());
        Ok(NewGroup { group, name: wanted.name.clone(), volumes })
    }

    /// A second that was asked for: a time, or how long ago.
    pub(super) fn asked_ms(&self, at: &str) -> Result<u64, Refused> {
        let parsed = match at.strip_prefix('-') {
            Some(ago) => api::units::parse_millis(ago)
                .ok()
                .map(|ago| self.clock.unix_ms().saturating_sub(ago)),
            None => at.parse::<jiff::Timestamp>().ok().map(unix_ms),
        };
        parsed.ok_or_else(|| {
            let detail = format!("{at:?} is no time, like 2027-01-31T00:00:00Z or -90s");
            Refused::new(Code::Invalid, detail)
        })
    }

    // --- what goes by itself ---

    /// Sees to the write journals of all groups, for as long as the gateway runs.
    pub(crate) async fn keep_moments(self: Arc<Self>) {
        let keep = async {
            self.clear_journals().await;
            loop {
                for entry in &self.book.read().groups {
                    self.look_at_journal(entry).await;
                    self.look_at_way_back(entry).await;
                }
                for group in self.moments.open() {
                    if self.book.read().group_by_id(group).is_none() {
                        self.moments.remove(group);
                        self.clear_journals().await;
                    }
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        self.stopping.run_until_cancelled(keep).await;
    }

    /// Removes the journals of groups that are not here any more.
    async fn clear_journals(&self) {
        let known: Vec<String> =
            self.book.read().groups.iter().map(|entry| entry.group().to_string()).collect();
        let cleared = self.on_pool(move |pool| {
            for name in pool.journals()?.iter().filter(|name| !known.contains(name)) {
                let group = name.parse().map(GroupId::from_uuid);
                if group.is_ok_and(|group| moments::pins(pool, group).is_empty()) {
                    pool.remove_journal(name)?;
                }
            }
            Ok(())
        });
        if let Err(refused) = cleared.await {
            tracing::warn!(why = refused.0.detail, "write journals of groups that are gone");
        }
    }

    /// Opens a group's journal if it has or needs one, tells it what to keep, and removes bases that
    /// nobody names.
    async fn look_at_journal(self: &Arc<Self>, entry: &GroupEntry) {
        let group = entry.group();
        let Some(status) = self.board.get(group).map(|seen| seen.status) else { return };
        // What a newer release wrote is left as it is.
        let Ok(stored) = Stored::of(&status) else { return };
        let wanted = stored.journal.as_ref().filter(|_| status.parts.is_none());
        let limits = wanted.map(moments::limits);
        let journal = match self.moments.journal(group) {
            Some(journal) => {
                journal.set_limits(limits);
                Some(journal)
            }
            None => self.open_journal(group, limits).await,
        };
        let is_base = |of: &&mirror::SnapshotStatus| of.origin == SnapshotOrigin::Journal;
        if journal.is_none() && !status.snapshots.iter().any(|of| is_base(&of)) {
            return;
        }
        let attached = journal.clone().filter(|_| limits.is_some());
        let told =
            self.shard_of(group).call(move |state| state.attach_journal(group, attached)).await;
        if told.is_err() {
            return;
        }
        let named = match &journal {
            Some(journal) => {
                let known = journal.status(is_there(&status));
                if known.is_reading {
                    return;
                }
                known.bases
            }
            None => Vec::new(),
        };
        // One that the group is on its way back to stays until it is there.
        let needed = self.book.read().rollback_of(entry.id).map(|way| way.snapshot);
        let unneeded = status.snapshots.iter().filter(is_base).filter(|of| {
            matches!(of.state, SnapshotState::Available | SnapshotState::Error)
                && !named.contains(&of.id)
                && needed != Some(of.id.uuid())
        });
        for base in unneeded {
            let command = Command::ForgetSnapshot { snapshot: base.id };
            if let Err(refused) = self.command(group, command).await {
                // It is looked at again in a moment.
                tracing::debug!(base = base.name, why = refused.0.detail, "a base stays");
            }
        }
    }

    async fn open_journal(
        &self,
        group: GroupId,
        limits: Option<store::journal::JournalLimits>,
    ) -> Option<Journal> {
        let mut pins = moments::pins(&self.pool, group);
        let way = self.book.read().rollback_of(group.uuid()).and_then(|way| way.laid);
        pins.extend(way.map(|laid| moments::pin_of_way_back(group, laid)));
        if limits.is_none() && pins.is_empty() {
            return None;
        }
        let pool = Arc::clone(&self.pool);
        let opened =
            self.tasks.spawn_blocking(move || pool.open_journal(group, limits, pins)).await;
        match opened {
            Ok(Ok(journal)) => {
                self.moments.add(group, journal.clone());
                Some(journal)
            }
            Ok(Err(error)) => {
                tracing::warn!(%group, %error, "write journal");
                None
            }
            Err(_stopping) => None,
        }
    }
}

fn no_journal(entry: &GroupEntry) -> Refused {
    let detail = format!("group {} has no write journal here", entry.name);
    Refused::new(Code::NoPointJournal, detail)
}

/// Nothing is known of that second: what is.
fn unknown(entry: &GroupEntry, journal: &Journal, status: &GroupStatus, at_ms: u64) -> Refused {
    let known = journal.status(is_there(status));
    let ranges: Vec<String> =
        known.ranges.iter().map(|(from, to)| format!("{} to {}", text(*from), text(*to))).collect();
    let what = if known.is_reading {
        "the write journal is still being looked through".to_owned()
    } else if ranges.is_empty() {
        "no second can be opened yet".to_owned()
    } else {
        format!("what can be opened is {}", ranges.join(", "))
    };
    let detail = format!("group {} at {}: {what}", entry.name, moment(at_ms));
    Refused::new(Code::MomentUnknown, detail)
}
