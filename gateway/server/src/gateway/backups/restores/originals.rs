//! Restoring over the volumes that a backup was taken of: planned, what is there kept, sessions
//! suspended and resumed.
//!
//! Invariant: nothing is overwritten before what was there is kept as a snapshot. A mirror keeps what it
//! had until all of the restore is there, and then follows by delta. A group has one restore at a time:
//! what was there before is never what another one left half done.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::units::bytes_text;
use api::{BackupRestorePlan, BackupRestoreRequest, Check, CheckState, Code, Operation};
use backup::HeldVolume;
use block::{Epoch, GroupId, SnapshotId, VolumeId};
use mirror::{Command, GroupStatus, LegStatus, Role, SessionState, SnapshotOrigin};
use uuid::Uuid;

use super::{Task, fill_entry, not_over, on_its_way, wanted};
use crate::book::{FillEntry, FilledEntry, GroupEntry, Pages, PinEntry};
use crate::gateway::Gateway;
use crate::gateway::backups::Found;
use crate::operations::{Running, under_way};
use crate::plans::{self, check, is_blocked};
use crate::refusal::Refused;
use crate::rollback::running as sessions_running;
use crate::status::leg_out_of_sync;

/// A restore that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    backup: Uuid,
    /// Which volumes, as a hash of their identities.
    volumes: [u8; 32],
    epoch: Epoch,
}

/// The originals of a backup's volumes.
struct Originals {
    group: GroupEntry,
    status: Arc<GroupStatus>,
    /// Each volume of the backup, and whether the group has it.
    volumes: Vec<(HeldVolume, Option<u64>)>,
}

impl Originals {
    fn deed(&self, backup: Uuid) -> Deed {
        let mut hasher = blake3::Hasher::new();
        for (held, _) in &self.volumes {
            hasher.update(held.id.uuid().as_bytes());
        }
        Deed { backup, volumes: *hasher.finalize().as_bytes(), epoch: self.status.epoch }
    }

    fn name(&self, held: &HeldVolume) -> String {
        let known = self.group.volumes.iter().find(|of| of.id == held.id.uuid());
        known.map_or_else(|| held.name.clone(), |of| of.name.clone())
    }
}

impl Gateway {
    /// What overwriting the originals by a backup would mean.
    ///
    /// # Errors
    /// [`Code::NotFound`] when this gateway has none of the volumes, [`Code::WrongState`] for a backup
    /// that cannot be restored.
    pub(crate) async fn plan_backup_restore(
        &self,
        name: &str,
        volume: Option<&str>,
    ) -> Result<BackupRestorePlan, Refused> {
        let found = self.find_backup(name).await?;
        let originals = self.originals(&found, volume).await?;
        let hosts = self.hosts_of(originals.group.group()).await?;
        let busy = self.operations.running_on(&originals.group.name);
        let busy = busy.map(|other| under_way(&other));
        let checks = checks(&originals, (hosts, busy), self.unfinished(&originals).err());
        let about = found.entry.held.as_ref().map(|held| &held.about);
        let created = about.map(|about| about.created).unwrap_or_default();
        let now = found.target.now();
        let mut plan = BackupRestorePlan {
            as_of: self.clock.rfc3339(),
            backup: found.entry.id.uuid(),
            name: about.map(|about| about.name.clone()).unwrap_or_default(),
            created_at: created.to_string(),
            seconds: u64::try_from(now.duration_since(created).as_secs()).unwrap_or(0),
            group: originals.group.name.clone(),
            volumes: originals.volumes.iter().map(|(held, _)| originals.name(held)).collect(),
            bytes: originals.volumes.iter().filter_map(|(_, bytes)| *bytes).sum(),
            hosts,
            sessions: sessions_running(&originals.status).map(|leg| leg.site.clone()).collect(),
            checks,
            token: None,
            expires_at: None,
        };
        if !is_blocked(&plan.checks) {
            let deed = plans::Deed::BackupRestore(originals.deed(plan.backup));
            let ticket = self.plans.remember(originals.group.group(), deed, &self.clock);
            plan.token = Some(ticket.token);
            plan.expires_at = Some(ticket.expires_at);
        }
        Ok(plan)
    }

    pub(super) async fn restore_to_original(
        self: &Arc<Self>,
        found: &Found,
        request: &BackupRestoreRequest,
    ) -> Result<Operation, Refused> {
        let originals = self.originals(found, request.volume.as_deref()).await?;
        let group = originals.group.clone();
        protected(&originals)?;
        if let Some(other) = self.operations.running_on(&group.name) {
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        self.unfinished(&originals)?;
        let hosts = self.hosts_of(group.group()).await?;
        if hosts > 0 && !request.drop_hosts {
            let detail = format!("{hosts} hosts are attached to group {}", group.name);
            return Err(Refused::new(Code::HostsAttached, detail));
        }
        let wanted = originals.deed(found.entry.id.uuid());
        let token = request.token.as_deref().unwrap_or_default();
        let next = format!("twinspan backup restore plan {}", found.entry.id);
        self.plans
            .redeem(token, (group.group(), &self.clock), |deed| match deed {
                plans::Deed::BackupRestore(made) if made == wanted => Ok(()),
                plans::Deed::BackupRestore(_) => {
                    Err("the plan is of another backup or volume, or roles were changed since")
                }
                _ => Err("the plan is not one of a restore from a backup"),
            })
            .map_err(|refused| refused.next(next))?;
        let checks = checks(&originals, (hosts, None), None);
        if let Some(blocked) = checks.into_iter().find(|of| of.state == CheckState::Blocked) {
            let detail = format!("{}: {}", blocked.name, blocked.detail);
            return Err(Refused::new(Code::WrongState, detail));
        }
        let running =
            self.operations.begin_alone("backup-restore", &group.name).map_err(Refused)?;
        let filled = |(held, _): &(HeldVolume, Option<u64>)| FilledEntry {
            volume: held.id.uuid(),
            from: held.id.uuid(),
            position: 0,
            is_filled: false,
        };
        let volumes = originals.volumes.iter().map(filled).collect();
        let mut fill = fill_entry(found, group.group(), volumes);
        fill.sessions = sessions_running(&originals.status).filter_map(first_session).collect();
        if let Err(refused) = self.note_begun(&fill).await {
            running.end(Err((*refused.0).clone()));
            return Err(refused);
        }
        let task = self.task(fill, Arc::clone(&found.target), request.drop_hosts);
        self.start(running, task)
    }

    /// Remembers durably that a restore is begun, and before that the pin that it will put.
    ///
    /// # Errors
    /// [`Code::VolumeRestoring`], [`Code::RollingBack`]: another one was sooner; nothing was changed.
    pub(in crate::gateway) async fn note_begun(&self, fill: &FillEntry) -> Result<(), Refused> {
        let Some(pin) = fill.pin else { return self.note_first(fill).await };
        let _making = self.targets.making(pin);
        let (target, backup) = (fill.target.clone(), fill.backup);
        self.note_pin(&PinEntry { pin, target, backup, volume: Uuid::nil() }).await?;
        self.note_first(fill).await
    }

    async fn note_first(&self, fill: &FillEntry) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                no_other(pages, fill.group)?;
                pages.backups.fills.push(fill.clone());
                Ok::<(), Refused>(())
            })
            .await
    }

    /// # Errors
    /// [`Code::VolumeRestoring`], [`Code::RollingBack`]: what is there may be half of something.
    fn unfinished(&self, originals: &Originals) -> Result<(), Refused> {
        no_other(&self.book.read(), originals.group.id)
    }

    async fn originals(&self, found: &Found, volume: Option<&str>) -> Result<Originals, Refused> {
        let held = wanted(found, volume)?;
        let pages = self.book.read();
        let groups: BTreeSet<Uuid> = held
            .iter()
            .filter_map(|held| pages.volume_by_id(held.id).map(|(group, _)| group.id))
            .collect();
        let mut groups = groups.into_iter();
        let (group, other) = (groups.next(), groups.next());
        if other.is_some() {
            let detail = "its volumes belong to several groups now: restore one of them, --volume";
            return Err(Refused::new(Code::WrongState, detail));
        }
        let group = group.and_then(|group| pages.group_by_id(GroupId::from_uuid(group)).cloned());
        let group = group.ok_or_else(|| {
            let detail = "this gateway has none of its volumes: restore to a new one";
            Refused::new(Code::NotFound, detail).next("--to NAME")
        })?;
        let status = self.status_of(group.group()).await?;
        let size =
            |id: VolumeId| status.volumes.iter().find(|of| of.volume == id).map(|of| of.bytes);
        let volumes = held.into_iter().map(|held| (held.clone(), size(held.id))).collect();
        Ok(Originals { group, status, volumes })
    }

    /// Suspends the sessions that run and keeps what is there; both once, whatever interrupts it.
    pub(super) async fn keep_original(
        &self,
        running: &mut Running,
        fill: &mut FillEntry,
    ) -> Result<(), Refused> {
        let group = GroupId::from_uuid(fill.group);
        if self.is_begun(fill) {
            return Ok(());
        }
        let status = self.status_of(group).await?;
        let noted =
            |leg: &&LegStatus| first_session(leg).is_some_and(|s| fill.sessions.contains(&s));
        for leg in sessions_running(&status).filter(noted) {
            running.step(&format!("suspend the session to {}", leg.site));
            self.command(group, Command::Suspend { leg: leg.leg }).await?;
            running.done("suspended: the mirror keeps what it has");
        }
        running.step("keep what is there now");
        let unix_ms = self.clock.unix_ms();
        let id = SnapshotId::from_uuid(Uuid::now_v7());
        let name = format!("auto.before-restore.{unix_ms}");
        let origin = SnapshotOrigin::Safety;
        let command = Command::Snapshot { snapshot: id, name: name.clone(), origin, unix_ms };
        let shard = self.shard_of(group);
        shard
            .run(move |state| async move { state.take_snapshot(group, command, usize::MAX).await })
            .await??;
        fill.safety = Some(id.uuid());
        self.note_fill(fill).await?;
        running.done(format!("as snapshot {name}"));
        Ok(())
    }

    /// Whether anything may have been overwritten.
    pub(super) fn is_begun(&self, fill: &FillEntry) -> bool {
        fill.safety.is_some()
    }

    pub(super) async fn resume_for_restore(
        &self,
        running: &mut Running,
        fill: &FillEntry,
    ) -> Result<(), Refused> {
        let group = GroupId::from_uuid(fill.group);
        let status = self.status_of(group).await?;
        let noted = |leg: &&LegStatus| {
            let is_noted = first_session(leg).is_some_and(|s| fill.sessions.contains(&s));
            leg.state == SessionState::Suspended && is_noted
        };
        for leg in status.legs.iter().filter(noted) {
            running.step(&format!("resume the session to {}", leg.site));
            let bytes = leg_out_of_sync(leg);
            let command = Command::Resume { leg: leg.leg, discard: false };
            match self.order(group, command).await {
                Ok(()) => running.done(format!("by delta: {} may differ there", bytes_text(bytes))),
                // The volumes are whole: hosts do not wait for a mirror.
                Err(refused) => running.failed(&refused.0.detail),
            }
        }
        Ok(())
    }

    /// The newest of what the gateway keeps by itself is enough to go back once. The restore is over
    /// and hosts are in: what cannot be removed now goes after the next one.
    pub(super) async fn drop_older_originals(&self, fill: &FillEntry) {
        let group = GroupId::from_uuid(fill.group);
        let status = match self.status_of(group).await {
            Ok(status) => status,
            Err(refused) => {
                tracing::warn!(%group, why = refused.0.detail, "older snapshots stay");
                return;
            }
        };
        for older in self.older_safeties(&status, fill.safety.map(SnapshotId::from_uuid)) {
            let command = Command::RemoveSnapshot { snapshot: older.id };
            if let Err(refused) = self.command(group, command).await {
                tracing::warn!(snapshot = %older.id, why = refused.0.detail, "it stays");
            }
        }
    }

    /// Nothing was overwritten: hosts and sessions go on.
    pub(super) async fn undo_original(
        &self,
        running: &mut Running,
        task: &Task,
        refused: Refused,
    ) -> Refused {
        match self.give_back(running, &task.fill).await {
            Ok(()) => {
                let detail = format!("nothing was changed: {}", refused.0.detail);
                refused.saying(detail)
            }
            Err(other) => other,
        }
    }
}

fn first_session(leg: &LegStatus) -> Option<Uuid> {
    leg.sessions.first().map(|session| session.session.uuid())
}

/// What a restore or a way back that is not over left is no original: kept as what was there before, it
/// would take the place of what is.
///
/// # Errors
/// [`Code::VolumeRestoring`], [`Code::RollingBack`].
fn no_other(pages: &Pages, group: Uuid) -> Result<(), Refused> {
    let known = pages.group_by_id(GroupId::from_uuid(group));
    let name = known.map_or_else(|| group.to_string(), |known| known.name.clone());
    if pages.has_open_way(group) {
        return Err(on_its_way(&name));
    }
    pages.backups.fill_in(group).map_or(Ok(()), |fill| Err(not_over(&name, fill)))
}

/// # Errors
/// [`Code::RestoreProtected`] where another site serves the group.
fn protected(originals: &Originals) -> Result<(), Refused> {
    let status = &originals.status;
    if status.role == Role::Primary {
        return Ok(());
    }
    let detail = match &status.upstream {
        Some(upstream) => format!("it is a mirror of {}", upstream.site),
        None => "this site does not serve it".to_owned(),
    };
    Err(Refused::new(Code::RestoreProtected, detail))
}

fn checks(
    originals: &Originals,
    (hosts, busy): (u64, Option<String>),
    unfinished: Option<Refused>,
) -> Vec<Check> {
    let status = &originals.status;
    let mut checks = vec![match protected(originals) {
        Ok(()) => check("this site serves the group", CheckState::Ok, "it is the primary"),
        Err(refused) => {
            check("this site serves the group", CheckState::Blocked, refused.0.detail.clone())
        }
    }];
    checks.extend(originals.volumes.iter().map(|volume| volume_check(originals, volume)));
    if status.parts.is_some() {
        let text = "a group over several gateways is not restored as a whole";
        checks.push(check("one gateway has all of the group", CheckState::Blocked, text));
    }
    checks.push(match unfinished {
        Some(refused) => {
            let text =
                format!("{}: {}", refused.0.detail, refused.0.next.as_deref().unwrap_or_default());
            check("nothing is half done", CheckState::Blocked, text)
        }
        None => check("nothing is half done", CheckState::Ok, "no restore and no way back is left"),
    });
    checks.push(match busy {
        Some(other) => check("no other operation", CheckState::Blocked, other),
        None => check("no other operation", CheckState::Ok, "none is under way"),
    });
    checks.push(match hosts {
        0 => check("hosts", CheckState::Ok, "none is attached here"),
        hosts => {
            let text = format!("{hosts} attached here: detach them, or say --drop-hosts");
            check("hosts", CheckState::Warning, text)
        }
    });
    for leg in sessions_running(status) {
        let text = "suspended, then resumed: it keeps what it has until then, and follows by delta";
        checks.push(check(&format!("mirror at {}", leg.site), CheckState::Warning, text));
    }
    checks
}

fn volume_check(originals: &Originals, (held, bytes): &(HeldVolume, Option<u64>)) -> Check {
    let name = format!("volume {}", originals.name(held));
    match bytes {
        None => {
            let text = "the group does not have it: --volume names others";
            check(&name, CheckState::Blocked, text)
        }
        Some(bytes) if *bytes < held.bytes => {
            let text =
                format!("{}, and the backup has {}", bytes_text(*bytes), bytes_text(held.bytes));
            check(&name, CheckState::Blocked, text)
        }
        Some(bytes) => {
            let text = format!("{} are overwritten where they differ", bytes_text(*bytes));
            check(&name, CheckState::Warning, text)
        }
    }
}
