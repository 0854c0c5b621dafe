//! Restoring a volume of a backup.
//!
//! Invariant: everything before the position that was told last is in the sink; a restore that is
//! repeated from there, or from anywhere before, ends in the same content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Extent, VolumeId};
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::BackupId;
use crate::error::{BackupError, VolumeError};
use crate::limits::{RESTORE_BYTES, RESTORE_WINDOWS};
use crate::reader::{Part, Reader};
use crate::repository::Repository;
use crate::volume::Sink;
use crate::watch::Watch;

/// What is restored, and how far that is: a caller keeps the position to resume it.
#[derive(Debug)]
pub struct Restore {
    backup: BackupId,
    volume: VolumeId,
    now: Timestamp,
    pin: Option<BackupId>,
    position: AtomicU64,
}

impl Restore {
    /// A volume of a backup, from a byte on: 0, or where an earlier restore to the same sink was.
    #[must_use]
    pub const fn new(backup: BackupId, volume: VolumeId, position: u64, now: Timestamp) -> Self {
        Self { backup, volume, now, pin: None, position: AtomicU64::new(position) }
    }

    /// Keeps the backup by a pin that the caller remembers, and removes with [`Repository::unpin`]
    /// when the restore is over, however often it was cut short until then. Whoever removes the backup
    /// meanwhile, the restore goes on.
    #[must_use]
    pub fn pinned(self, pin: BackupId) -> Self {
        Self { pin: Some(pin), ..self }
    }

    /// Everything before this byte was written to the sink. Durable it is only after a flush of
    /// the sink that began after this was asked.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }
}

impl Repository {
    /// Writes a volume of a backup to a sink and flushes it. What a sink has beyond the volume's
    /// size is made zero.
    ///
    /// # Errors
    /// [`BackupError::Sink`] for one that is too small or fails; as for [`Repository::read`] and
    /// [`crate::Reader::read`]. One for which [`BackupError::is_resumable`] says so can be repeated
    /// from where the position is then.
    ///
    /// # Cancellation
    /// By the watch's token, between two writes; a call that is dropped is repeated from the
    /// position, and may leave a pin, unless the restore is [`Restore::pinned`].
    pub async fn restore(
        &self,
        restore: &Restore,
        sink: &dyn Sink,
        watch: &Arc<Watch>,
    ) -> Result<(), BackupError> {
        let reader = match restore.pin {
            None => self.read(restore.backup, restore.volume, restore.now, watch).await?,
            Some(pin) => {
                let what = (restore.backup, restore.volume);
                self.pin_reading(pin, what, restore.now).await?;
                self.read_pinned(what, watch).await?
            }
        };
        let copied = copy(&reader, sink, &restore.position, watch).await;
        // A restore that failed is repeated later, or not at all: a pin of its own is over either way.
        let closed = reader.close().await;
        copied?;
        closed
    }
}

async fn copy(
    reader: &Reader,
    sink: &dyn Sink,
    position: &AtomicU64,
    watch: &Watch,
) -> Result<(), BackupError> {
    let of_sink = |source| BackupError::Sink { source };
    let bytes = reader.bytes();
    if sink.bytes() < bytes {
        let what = format!("it has {} bytes, and the backup has {bytes}", sink.bytes());
        return Err(of_sink(VolumeError::new(what)));
    }
    watch.expect(bytes);
    let from = position.load(Ordering::Acquire).min(bytes);
    watch.advance(from);
    if let Ok(rest) = Extent::new(from, bytes - from) {
        let windows = rest.pieces(RESTORE_BYTES).map(|window| reader.parts(window));
        let mut windows = futures_util::stream::iter(windows).buffered(RESTORE_WINDOWS);
        while let Some(parts) = windows.next().await {
            watch.check()?;
            for part in parts? {
                let (end, length) = (part.extent.end(), part.extent.len());
                put(sink, part).await.map_err(of_sink)?;
                position.store(end, Ordering::Release);
                watch.advance(length);
            }
        }
    }
    if let Ok(rest) = Extent::new(bytes, sink.bytes() - bytes)
        && !sink.is_blank()
    {
        sink.zero(rest).await.map_err(of_sink)?;
    }
    sink.flush().await.map_err(of_sink)
}

async fn put(sink: &dyn Sink, part: Part) -> Result<(), VolumeError> {
    match part.data {
        Some(data) => sink.write(part.extent.offset(), data).await,
        None if sink.is_blank() => Ok(()),
        None => sink.zero(part.extent).await,
    }
}
