//! Snapshots of groups: taken, listed, deleted, found for hosts.
//!
//! Invariant: a name that begins with `auto.` is given by the gateway only. What is listed is what
//! this site keeps, whatever part it plays in the group.

mod notes;

use api::{Code, Snapshot, SnapshotCreate, SnapshotHolder, SnapshotVolume};
use block::{GatewayId, GroupId, SnapshotId, VolumeId};
use mirror::{
    Command, GroupStatus, LegStatus, Refusal, Role, SnapshotOrigin, SnapshotState, SnapshotStatus,
};
use uuid::Uuid;

use self::notes::About;
use super::asks::{Lost, Question};
use super::members::check_name;
use super::parts::together::parts_of;
use super::scrubs::related;
use super::{Gateway, Known};
use crate::book::{BackupPages, GroupEntry};
use crate::clock::text;
use crate::points;
use crate::refusal::Refused;
use crate::shard::state::snapshots::Room;
use crate::targets::{TARGET_NAME_BYTES_MAX, target_at};

/// What the names begin with that the gateway gives.
const RESERVED: &str = "auto.";
/// Snapshots of one second: more than anybody takes by hand.
const SAME_SECOND_MAX: u32 = 100;

/// Whose volume, and what its store calls the snapshot.
pub(crate) type Place = (GroupId, VolumeId, SnapshotId);

impl Gateway {
    /// The snapshots of a group that are kept here, oldest first.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::NotOpened`] when nothing is known of the group.
    pub(crate) async fn show_snapshots(&self, group: &str) -> Result<Vec<Snapshot>, Refused> {
        let entry = self.find_group(group)?;
        let (status, room) = self.look_at_snapshots(&entry).await?;
        let parts = self.snapshots_of_parts(&status).await;
        let show = |snapshot: &SnapshotStatus| Snapshot {
            parts: parts_of(&parts, snapshot.id),
            ..self.show_snapshot(&entry, &status, snapshot, &room)
        };
        Ok(status.snapshots.iter().map(show).collect())
    }

    /// One of them, by name or identity.
    ///
    /// # Errors
    /// As [`Self::show_snapshots`].
    pub(crate) async fn snapshot(&self, group: &str, name: &str) -> Result<Snapshot, Refused> {
        let entry = self.find_group(group)?;
        let (status, room) = self.look_at_snapshots(&entry).await?;
        let snapshot = find(&status, name)?;
        let parts = parts_of(&self.snapshots_of_parts(&status).await, snapshot.id);
        Ok(Snapshot { parts, ..self.show_snapshot(&entry, &status, snapshot, &room) })
    }

    /// What a group says, and the room of its snapshots. Where counting takes longer than a thread may
    /// take to answer it is not known yet; it goes on, and whoever asks again finds it.
    pub(super) async fn look_at_snapshots(
        &self,
        entry: &GroupEntry,
    ) -> Result<(std::sync::Arc<GroupStatus>, Room), Refused> {
        let group = entry.group();
        let status = match self.look_at(group).await {
            Known::Status(status, _) => status,
            Known::Nothing(why) => return Err(Refused::new(Code::NotOpened, why)),
        };
        let shard = self.shard_of(group);
        let room = shard.run(move |state| async move { state.snapshot_room(group).await });
        let room = tokio::time::timeout(self.config.api.shard_deadline, room).await;
        Ok((status, room.ok().and_then(Result::ok).flatten().unwrap_or_default()))
    }

    pub(super) fn show_snapshot(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        snapshot: &SnapshotStatus,
        room: &Room,
    ) -> Snapshot {
        let kept: Vec<Option<&block::Snapshot>> =
            snapshot.volumes.iter().map(|(_, here)| room.get(here)).collect();
        let sum = |of: fn(&block::Snapshot) -> u64| {
            kept.iter().map(|kept| kept.map(of)).sum::<Option<u64>>()
        };
        let volume = |((id, _), kept): (&(VolumeId, SnapshotId), &Option<&block::Snapshot>)| {
            let known = entry.volumes.iter().find(|volume| volume.id == id.uuid());
            let name = known.map_or_else(|| id.to_string(), |volume| volume.name.clone());
            SnapshotVolume {
                exports: if snapshot.state.is_readable() {
                    self.exports_at(&name, &snapshot.name)
                } else {
                    Vec::new()
                },
                volume: name,
                volume_id: id.uuid(),
                bytes: kept.map(|kept| kept.bytes),
                exclusive_bytes: kept.map(|kept| kept.exclusive_bytes),
                shared_bytes: kept.map(|kept| kept.shared_bytes),
            }
        };
        let pages = self.book.read();
        let (description, metadata) = pages
            .note_of(snapshot.id.uuid())
            .map(|note| (note.description.clone(), note.metadata.clone()))
            .unwrap_or_default();
        Snapshot {
            id: snapshot.id.uuid(),
            name: snapshot.name.clone(),
            group: entry.name.clone(),
            description,
            metadata,
            origin: match snapshot.origin {
                SnapshotOrigin::Manual => api::SnapshotOrigin::Manual,
                SnapshotOrigin::Safety => api::SnapshotOrigin::Safety,
                SnapshotOrigin::Backup => api::SnapshotOrigin::Backup,
                SnapshotOrigin::Scheduled => api::SnapshotOrigin::Scheduled,
                SnapshotOrigin::Journal => api::SnapshotOrigin::Journal,
            },
            state: state_word(snapshot, &pages.backups),
            created_at: text(snapshot.unix_ms),
            exclusive_bytes: sum(|kept| kept.exclusive_bytes),
            shared_bytes: sum(|kept| kept.shared_bytes),
            volumes: snapshot.volumes.iter().zip(&kept).map(volume).collect(),
            held_by: self.holders(snapshot),
            parts: Vec::new(),
            allowed_actions: actions(status, snapshot, &pages.backups),
        }
    }

    fn holders(&self, snapshot: &SnapshotStatus) -> Vec<SnapshotHolder> {
        let pages = self.book.read();
        let other = |gateway: &GatewayId| {
            let peer = pages.peers.iter().find(|peer| peer.gateway == gateway.uuid());
            let site = peer.map_or_else(|| gateway.to_string(), |peer| peer.site.clone());
            SnapshotHolder { site, gateway: gateway.uuid() }
        };
        let here = SnapshotHolder {
            site: self.config.site.name.clone(),
            gateway: self.identity.gateway.uuid(),
        };
        let is_here = snapshot.state != SnapshotState::Error;
        is_here.then_some(here).into_iter().chain(snapshot.held_by.iter().map(other)).collect()
    }

    /// Takes a snapshot of a group, here and at every mirror that has everything.
    ///
    /// # Errors
    /// [`Code::Invalid`], [`Code::ReservedName`], [`Code::Exists`], [`Code::SnapshotLimit`],
    /// [`Code::VolumeRestoring`], [`Code::RollingBack`], or the group's refusal; nothing was changed.
    pub(crate) async fn take_snapshot(
        &self,
        group: &str,
        name: Option<String>,
    ) -> Result<Snapshot, Refused> {
        self.create_snapshot(group, SnapshotCreate { name, ..SnapshotCreate::default() }).await
    }

    /// As [`Self::take_snapshot`], with what is said of it.
    ///
    /// # Errors
    /// As for that.
    pub(crate) async fn create_snapshot(
        &self,
        group: &str,
        wanted: SnapshotCreate,
    ) -> Result<Snapshot, Refused> {
        let about = About::of(&wanted)?;
        let entry = self.find_group(group)?;
        self.require_whole(entry.id)?;
        let status = self.status_of(entry.group()).await?;
        let unix_ms = self.clock.unix_ms();
        let name = match wanted.name {
            Some(name) => {
                check_name(&name)?;
                name
            }
            None => default_name(&status, unix_ms),
        };
        if name.starts_with(RESERVED) {
            let detail = format!("{name:?} begins with {RESERVED}");
            return Err(Refused::new(Code::ReservedName, detail));
        }
        let snapshot = SnapshotId::from_uuid(Uuid::now_v7());
        self.note_snapshot(&status, snapshot, about).await?;
        if let Err(refused) = self.take_as(&status, snapshot, (name, unix_ms)).await {
            // A thread that does not answer may take it all the same.
            if !refused.is(Code::ShardSilent) {
                self.forget_note(snapshot).await;
            }
            return Err(refused);
        }
        self.snapshot(&entry.name, &snapshot.uuid().to_string()).await
    }

    /// Takes it under a name that was proven.
    async fn take_as(
        &self,
        status: &GroupStatus,
        snapshot: SnapshotId,
        (name, unix_ms): (String, u64),
    ) -> Result<(), Refused> {
        if status.parts.is_some() {
            return self.take_together(status, snapshot, (name, unix_ms)).await;
        }
        let origin = SnapshotOrigin::Manual;
        let command = Command::Snapshot { snapshot, name, origin, unix_ms };
        let (group, manual_max) = (status.group, self.config.snapshots_max_manual);
        let taken = self
            .shard_of(group)
            .run(move |state| async move { state.take_snapshot(group, command, manual_max).await })
            .await?;
        taken.map_err(|refused| self.at_the_primary(refused, status))
    }

    /// What is asked of a mirror and only a primary does names where to ask.
    pub(super) fn at_the_primary(&self, refused: Refused, status: &GroupStatus) -> Refused {
        match &status.upstream {
            Some(upstream) if refused.is(Code::NotPrimary) => {
                let site = &upstream.site;
                let here = &self.config.site.name;
                let detail = format!(
                    "{here} is a mirror of {site}: snapshots are taken there, and kept here too"
                );
                Refused::new(Code::NotPrimary, detail)
            }
            _ => refused,
        }
    }

    /// Deletes a snapshot here and, at a primary, at each mirror, as soon as it is connected. Whoever
    /// reads it goes on.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BackupPoint`] for what backups need, here or at a mirror,
    /// [`Code::RollingBack`] for what a way back needs, or the group's refusal.
    pub(crate) async fn delete_snapshot(&self, group: &str, name: &str) -> Result<(), Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let snapshot = find(&status, name)?;
        if self.book.read().backups.needs(snapshot.id.uuid()) {
            let detail =
                format!("{} is read by a backup, or the next one builds upon it", snapshot.name);
            return Err(Refused::new(Code::BackupPoint, detail));
        }
        self.require_not_on_the_way(entry.id, snapshot)?;
        if snapshot.name == points::current_name(status.epoch.turn()) {
            self.settle_current(&entry, &status).await?;
        }
        self.require_nobodys_backup(&status, snapshot).await?;
        self.remove_at_companions(&status, snapshot.id).await?;
        let command = Command::RemoveSnapshot { snapshot: snapshot.id };
        let subject = export_name(&entry.name, &snapshot.name);
        self.command(entry.group(), command).await.map_err(|refused| {
            let detail = format!("{subject}: {}", refused.0.detail);
            refused.saying(detail)
        })?;
        self.forget_note(snapshot.id).await;
        self.events.tell("snapshot", &subject, "deleted");
        Ok(())
    }

    /// A way back that is not over needs what it leads to, and what was there before, wherever it
    /// waits. All else may go: it may be what makes room for it.
    fn require_not_on_the_way(
        &self,
        group: Uuid,
        snapshot: &SnapshotStatus,
    ) -> Result<(), Refused> {
        if !self.book.read().is_on_a_way(group, snapshot.id.uuid()) {
            return Ok(());
        }
        Err(Refused::from(Refusal::NeededOnTheWay))
    }

    /// What goes at a primary goes at its mirrors, too, and the backups of a mirror may build upon it:
    /// only they know. What a mirror does not keep it does not need; at a mirror itself nothing goes
    /// but there.
    ///
    /// # Errors
    /// [`Code::BackupPoint`], with the sites that may need it.
    async fn require_nobodys_backup(
        &self,
        status: &GroupStatus,
        snapshot: &SnapshotStatus,
    ) -> Result<(), Refused> {
        if status.role != Role::Primary || snapshot.origin != SnapshotOrigin::Backup {
            return Ok(());
        }
        let mut sites = Vec::new();
        for leg in &status.legs {
            if self.may_keep(status, leg, snapshot).await {
                sites.push(leg.site.as_str());
            }
        }
        if sites.is_empty() {
            return Ok(());
        }
        let (group, name, sites) = (&status.name, &snapshot.name, sites.join(", "));
        let detail = format!(
            "{name} may be read by a backup that is taken at {sites}, or the next one there builds \
             upon it"
        );
        let next = format!(
            "at {sites}: twinspan backup delete, or wait for the next backup there; if none there \
             needs it, delete it there first: twinspan snapshot delete {group} {name}"
        );
        Err(Refused::new(Code::BackupPoint, detail).next(next))
    }

    /// Whether a mirror keeps a snapshot, as far as that is known: one that cannot be asked may.
    async fn may_keep(
        &self,
        status: &GroupStatus,
        leg: &LegStatus,
        snapshot: &SnapshotStatus,
    ) -> bool {
        let Some((volume, _)) = snapshot.volumes.first() else { return false };
        if !related(status).iter().any(|(gateway, _)| *gateway == leg.gateway) {
            return true;
        }
        // Whoever gives a block of it keeps it.
        let question = Question::Block(Lost {
            group: status.group.uuid(),
            volume: volume.uuid(),
            block: 0,
            snapshot: Some(snapshot.id.uuid()),
        });
        let asked = self.ask(leg.gateway.uuid(), &question).await;
        asked.err().is_none_or(|refused| !refused.is(Code::NotFound))
    }

    /// Where what a volume was at a snapshot is read.
    #[must_use]
    fn exports_at(&self, volume: &str, snapshot: &str) -> Vec<String> {
        let target = target_at(volume, snapshot);
        // A prefix may be so long that both names do not fit behind it.
        let fits = self.config.iscsi.prefix.len() + 1 + target.len() <= TARGET_NAME_BYTES_MAX;
        let mut uris = self.exports_named(&export_name(volume, snapshot), (&target, 0));
        uris.retain(|uri| fits || !uri.starts_with("iscsi:"));
        uris
    }

    /// Where the export `VOLUME@SNAPSHOT` is read, and its size then; only of what can be read now.
    #[must_use]
    pub(crate) fn snapshot_export(&self, name: &str) -> Option<(Place, u64)> {
        let (volume, snapshot) = name.split_once('@')?;
        let pages = self.book.read();
        let (group, volume) = pages.volumes().find(|(_, of)| of.name == volume)?;
        let seen = self.board.get(group.group())?;
        let found = seen.status.snapshots.iter().find(|of| of.name == snapshot)?;
        let id = VolumeId::from_uuid(volume.id);
        let readable = found.state.is_readable();
        let (_, here) = found.volumes.iter().find(|(of, _)| readable && *of == id)?;
        let bytes = seen.sizes.get(here).copied().filter(|bytes| *bytes > 0)?;
        Some(((group.group(), id, *here), bytes))
    }
}

/// How hosts name a snapshot's volume, and events a group's snapshot.
#[must_use]
pub(crate) fn export_name(of: &str, snapshot: &str) -> String {
    format!("{of}@{snapshot}")
}

/// The snapshot of this name or identity.
///
/// # Errors
/// [`Code::NotFound`].
pub(crate) fn find<'a>(status: &'a GroupStatus, name: &str) -> Result<&'a SnapshotStatus, Refused> {
    let is_it = |of: &&SnapshotStatus| of.name == name || Uuid::parse_str(name) == Ok(of.id.uuid());
    status.snapshots.iter().find(is_it).ok_or_else(|| {
        let detail = format!("group {} has no snapshot {name:?} here", status.name);
        let next = format!("twinspan snapshot list {}", status.name);
        Refused::new(Code::NotFound, detail).next(next)
    })
}

/// The time, in UTC, and a number behind it when it is taken.
fn default_name(status: &GroupStatus, unix_ms: u64) -> String {
    // `2026-11-26T05:00:25Z`: a colon is at home in no name.
    let at: String =
        text(unix_ms / 1000 * 1000).chars().filter(char::is_ascii_alphanumeric).collect();
    let is_free = |name: &String| !status.snapshots.iter().any(|of| of.name == *name);
    let numbered = (2..SAME_SECOND_MAX).map(|number| format!("{at}-{number}"));
    std::iter::once(at.clone()).chain(numbered).find(is_free).unwrap_or(at)
}

/// A snapshot that a backup reads is available to all else; that it stays is what the word says.
fn state_word(snapshot: &SnapshotStatus, backups: &BackupPages) -> api::SnapshotState {
    match snapshot.state {
        SnapshotState::Available if backups.reads(snapshot.id.uuid()) => {
            api::SnapshotState::BackingUp
        }
        SnapshotState::Available => api::SnapshotState::Available,
        SnapshotState::RollingBack => api::SnapshotState::Rollbacking,
        SnapshotState::Deleting => api::SnapshotState::Deleting,
        SnapshotState::Error => api::SnapshotState::Error,
    }
}

fn actions(status: &GroupStatus, snapshot: &SnapshotStatus, backups: &BackupPages) -> Vec<String> {
    let mut actions = Vec::new();
    let may_go = matches!(snapshot.state, SnapshotState::Available | SnapshotState::Error);
    if may_go && !backups.needs(snapshot.id.uuid()) {
        actions.push("snapshot.delete");
    }
    if snapshot.state == SnapshotState::Available && status.role == Role::Primary {
        actions.push("snapshot.rollback");
    }
    actions.into_iter().map(str::to_owned).collect()
}
