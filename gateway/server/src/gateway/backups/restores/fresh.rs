//! Restoring to a new volume, which hosts use at once while it is filled from the backup.
//!
//! ```text
//!   book: pin ─▶ bucket: pin ─▶ pool: volume with its origin ─▶ filled ─▶ pool: no origin
//!   whatever ends it ─▶ bucket: no pin ─▶ book: no pin
//! ```
//!
//! Invariant: a pin is noted before it is put, and is removed when no volume of the pool names it, none
//! is being made for it, and no restore over originals needs it. The operation only follows what the
//! pool does: without it the volume is filled all the same.

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{BackupRestoreRequest, Code, Operation, OperationProgress};
use backup::{BackupId, HeldVolume, Watch};
use block::{BLOCK_BYTES, Extent, GroupId, VolumeId};
use bytes::Bytes;
use store::OriginRecord;
use uuid::Uuid;

use super::wanted;
use crate::backups::origin::Source;
use crate::book::{PinEntry, VolumeEntry};
use crate::fillings::{Progress, Standing};
use crate::gateway::Gateway;
use crate::gateway::backups::{Found, PROBE_PAUSE};
use crate::gateway::members::check_name;
use crate::gateway::volumes::{NewGroup, NewVolume, check_size};
use crate::operations::Running;
use crate::refusal::Refused;

/// Between two looks at how far a volume is.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

impl Gateway {
    /// Makes a volume that is filled from a backup, and begins to follow it. The volume is there when
    /// this returns.
    pub(super) async fn restore_to_new(
        self: &Arc<Self>,
        found: &Found,
        to: &str,
        request: &BackupRestoreRequest,
    ) -> Result<Operation, Refused> {
        check_name(to)?;
        let held = one_of(found, request)?;
        let bytes = request.bytes.unwrap_or(held.bytes);
        check_size(bytes)?;
        if bytes < held.bytes {
            let detail = format!(
                "{} is smaller than what is restored, which is {}",
                bytes_text(bytes),
                bytes_text(held.bytes)
            );
            return Err(Refused::new(Code::BadSize, detail));
        }
        self.require_free(to)?;
        let mut running = self.operations.begin_alone("backup-restore", to).map_err(Refused)?;
        let pin = PinEntry {
            pin: BackupId::new(found.target.now()).uuid(),
            target: found.target.config.name.clone(),
            backup: found.entry.id.uuid(),
            volume: Uuid::now_v7(),
        };
        if let Err(refused) =
            self.make_restored(&mut running, found, (&held, &pin), (to, bytes)).await
        {
            running.end(Err((*refused.0).clone()));
            return Err(refused);
        }
        let text = format!("created from backup {}; it is being filled", found.entry.id);
        self.events.tell("volume", to, text);
        self.follow(running, to.to_owned(), pin)
    }

    /// # Errors
    /// [`Code::Exists`].
    fn require_free(&self, name: &str) -> Result<(), Refused> {
        let pages = self.book.read();
        if pages.volume(name).is_some() || pages.group(name).is_some() {
            let detail = format!("a volume or group {name:?} exists here");
            return Err(Refused::new(Code::Exists, detail));
        }
        Ok(())
    }

    async fn make_restored(
        &self,
        running: &mut Running,
        found: &Found,
        (held, pin): (&HeldVolume, &PinEntry),
        (to, bytes): (&str, u64),
    ) -> Result<(), Refused> {
        running.step("keep the backup");
        let _making = self.targets.making(pin.pin);
        self.note_pin(pin).await?;
        let repository = found.target.open(false).await?;
        let (id, now) = (BackupId::from_uuid(pin.pin), found.target.now());
        let pinned = repository.pin_reading(id, (found.entry.id, held.id), now).await;
        found.target.note(pinned)?;
        running.done("it stays until the volume is filled, whoever deletes it");
        running.step("make the volume");
        let source = Source {
            target: pin.target.clone(),
            backup: pin.backup,
            volume: held.id.uuid(),
            pin: pin.pin,
        };
        let origin = OriginRecord::Other { description: source.encode(), bytes: held.bytes };
        let new = NewVolume {
            volume: VolumeId::from_uuid(pin.volume),
            name: to.to_owned(),
            bytes,
            settings: api::VolumeSettings::default(),
            origin: Some(origin),
        };
        let group = GroupId::from_uuid(Uuid::now_v7());
        let new = NewGroup { group, name: to.to_owned(), volumes: vec![new] };
        let _alone = self.change_alone().await;
        self.require_free(to)?;
        self.create_group(new).await?;
        running.done("hosts may attach");
        Ok(())
    }

    /// Begins to follow a volume that is filled; `None` when it is not, or is gone.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub(super) fn follow_restore(
        self: &Arc<Self>,
        pin: &PinEntry,
    ) -> Result<Option<Operation>, Refused> {
        let volume = VolumeId::from_uuid(pin.volume);
        let is_filled = self.pool.volume(volume).is_none_or(|record| record.origin.is_none());
        let known = self.book.read().volume_by_id(volume).map(|(group, _)| group.name.clone());
        let Some(group) = known.filter(|_| !is_filled) else { return Ok(None) };
        let running = self.operations.begin_alone("backup-restore", &group).map_err(Refused)?;
        self.follow(running, group, pin.clone()).map(Some)
    }

    fn follow(
        self: &Arc<Self>,
        running: Running,
        group: String,
        pin: PinEntry,
    ) -> Result<Operation, Refused> {
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let result = gateway.await_filled(&mut running, &pin).await;
            let text = match &result {
                Ok(()) => format!("restored from backup {}", pin.backup),
                Err(refused) => {
                    format!("restore from backup {}: {}", pin.backup, refused.0.detail)
                }
            };
            if !gateway.stopping.is_cancelled() {
                gateway.events.tell("backup", &group, text);
                crate::metrics::backups::restore(&group, &pin.target, result.is_ok());
            }
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    /// Returns when all of a volume is here, or something stands in the way.
    async fn await_filled(&self, running: &mut Running, pin: &PinEntry) -> Result<(), Refused> {
        let id = VolumeId::from_uuid(pin.volume);
        let cancel = running.cancellable(&self.stopping);
        let gone = || Refused::new(Code::NotFound, "the volume was deleted while it was filled");
        // What stood in its way before it was followed may be gone: two steps tell.
        let heeded = self.fillings.get(id).map_or(0, |progress| progress.steps + 2);
        running.step("fill it");
        loop {
            let entry = self.book.read().volume_by_id(id).map(|(_, entry)| entry.clone());
            let entry = entry.ok_or_else(gone)?;
            let Some(record) = self.pool.volume(id) else { return Err(gone()) };
            let Some(origin) = record.origin else {
                running.done(bytes_text(record.bytes));
                return Ok(());
            };
            if self.stopping.is_cancelled() {
                return Err(Refused::new(Code::Starting, "the gateway stops"));
            }
            if cancel.is_cancelled() {
                return Err(self.give_new_up(running, &entry).await);
            }
            if let Some(progress) = self.fillings.get(id) {
                self.tell_filled(running, (id, origin.bytes()), progress);
                if progress.steps >= heeded {
                    self.goes_on(&entry, pin, progress)?;
                }
            }
            // Cancelled, it is looked at once more.
            cancel.run_until_cancelled(tokio::time::sleep(LOOK_PAUSE)).await;
        }
    }

    fn tell_filled(&self, running: &Running, (id, bytes): (VolumeId, u64), progress: Progress) {
        let read = self.fillings.read(id);
        let moved_bytes = read.map_or(0, |read| read.watch.progress().moved_bytes);
        let done_bytes = progress.left_bytes.map_or(0, |left| bytes.saturating_sub(left));
        let told =
            OperationProgress { total_bytes: bytes, done_bytes, moved_bytes, found_bytes: 0 };
        running.progress(told);
    }

    /// # Errors
    /// What stands in the way of filling a volume; it is tried again without anybody's word.
    fn goes_on(
        &self,
        entry: &VolumeEntry,
        pin: &PinEntry,
        progress: Progress,
    ) -> Result<(), Refused> {
        let (code, why) = match progress.standing {
            Standing::Copying => return Ok(()),
            Standing::NoRoom => (Code::PoolFull, "the pool is full".to_owned()),
            Standing::Failed(error) => self.fillings.reason(VolumeId::from_uuid(pin.volume), error),
        };
        let name = &entry.name;
        let detail = format!(
            "volume {name} is not filled yet: {why}; it can be used, and goes on by itself when the \
             cause is gone"
        );
        let next = format!(
            "twinspan backup resume {} to follow it, or give it up: twinspan volume delete {name}",
            pin.backup
        );
        Err(Refused::new(code, detail).next(next))
    }

    /// An operator gave it up: the volume goes, unless somebody uses it.
    async fn give_new_up(&self, running: &mut Running, entry: &VolumeEntry) -> Refused {
        running.failed("it was given up");
        running.step("delete the volume that was to be filled");
        match self.delete_volume(&entry.name).await {
            Ok(()) => {
                running.done("nothing of it is left");
                Refused::new(Code::BackupCancelled, "it was given up, and the volume deleted")
            }
            Err(other) => {
                let detail = format!(
                    "volume {} stays and goes on being filled: {}",
                    entry.name, other.0.detail
                );
                other.saying(detail)
            }
        }
    }

    /// A block of a volume of a backup, which is kept meanwhile; nothing where the volume ended before it.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`], or what the store says.
    pub(in crate::gateway) async fn read_backed_up(
        &self,
        target: &str,
        (backup, volume): (Uuid, VolumeId),
        block: u64,
    ) -> Result<Bytes, Refused> {
        let target = self.targets.get(target)?;
        let now = target.now();
        let pin = PinEntry {
            pin: BackupId::new(now).uuid(),
            target: target.config.name.clone(),
            backup,
            volume: Uuid::nil(),
        };
        let _reading = self.targets.making(pin.pin);
        self.note_pin(&pin).await?;
        let repository = target.open(false).await?;
        let (id, what) = (BackupId::from_uuid(pin.pin), (BackupId::from_uuid(backup), volume));
        target.note(repository.pin_reading(id, what, now).await)?;
        let watch = Arc::new(Watch::new(self.stopping.child_token()));
        let reader = target.note(repository.read_pinned(what, &watch).await)?;
        match Extent::new(block.saturating_mul(BLOCK_BYTES), BLOCK_BYTES) {
            Ok(extent) if extent.end() <= reader.bytes() => {
                Ok(target.note(reader.read(extent).await)?)
            }
            _ => Ok(Bytes::new()),
        }
    }

    /// Follows the volumes again that were being filled when the last start ended.
    pub(super) fn take_new_ones_up(self: &Arc<Self>) {
        for pin in self.book.read().backups.pins.iter().cloned() {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move {
                let volume = VolumeId::from_uuid(pin.volume);
                let group = {
                    let pages = gateway.book.read();
                    pages.volume_by_id(volume).map(|(group, _)| group.group())
                };
                if let Some(group) = group
                    && gateway.await_open(group).await.is_some()
                    && let Err(refused) = gateway.follow_restore(&pin)
                {
                    tracing::warn!(why = refused.0.detail, "a restore is not followed");
                }
            });
        }
        self.tasks.spawn(Arc::clone(self).release_pins());
    }

    /// Removes the pins that no volume needs any more, whenever there may be some, and again while
    /// the store does not answer.
    async fn release_pins(self: Arc<Self>) {
        let release = async {
            loop {
                for pin in self.book.read().backups.pins.iter().filter(|pin| self.is_over(pin)) {
                    if let Err(refused) = self.release_pin(pin).await {
                        let (pin, why) = (pin.pin, refused.0.detail);
                        tracing::warn!(%pin, why, "a pin that nobody needs stays for now");
                    }
                }
                let again = tokio::time::sleep(PROBE_PAUSE);
                tokio::select! {
                    () = self.targets.unneeded.notified() => {}
                    () = again => {}
                }
            }
        };
        self.stopping.run_until_cancelled(release).await;
    }

    /// Whether no volume is filled by a pin, and none will be.
    fn is_over(&self, pin: &PinEntry) -> bool {
        // In this order: what is made now is in the pool, or noted, before it is no longer being made.
        let is_making = self.targets.is_making(pin.pin);
        let pages = self.book.read();
        let is_needed = pages.backups.fills.iter().any(|fill| fill.pin == Some(pin.pin));
        let record = self.pool.volume(VolumeId::from_uuid(pin.volume));
        !is_making && !is_needed && record.is_none_or(|record| record.origin.is_none())
    }

    async fn release_pin(&self, pin: &PinEntry) -> Result<(), Refused> {
        let target = self.targets.get(&pin.target)?;
        let repository = target.open(false).await?;
        target.note(repository.unpin(BackupId::from_uuid(pin.pin)).await)?;
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.pins.retain(|other| other.pin != pin.pin);
                Ok::<(), Refused>(())
            })
            .await
    }

    pub(super) async fn note_pin(&self, pin: &PinEntry) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.pins.push(pin.clone());
                Ok::<(), Refused>(())
            })
            .await
    }
}

/// The only volume that is meant.
///
/// # Errors
/// [`Code::Invalid`] when there are several, or as [`wanted`].
fn one_of(found: &Found, request: &BackupRestoreRequest) -> Result<HeldVolume, Refused> {
    let held = wanted(found, request.volume.as_deref())?;
    let [held] = held.as_slice() else {
        let names: Vec<&str> = held.iter().map(|held| held.name.as_str()).collect();
        let detail = format!("it holds several volumes: name one of {}", names.join(", "));
        return Err(Refused::new(Code::Invalid, detail).next("--volume VOLUME"));
    };
    Ok(held.clone())
}
