//! How a caller follows and holds back a long operation.
//!
//! Invariant: an operation asks at least once for each object whether it was given up, and never
//! moves more than about a second's worth of its limit at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::BackupError;
use crate::limits::{PACK_BYTES, PACK_BYTES_LEAST, PACK_BYTES_MIN};

/// Follows and holds back one operation; shared by reference with whoever shows it.
#[derive(Debug, Default)]
pub struct Watch {
    cancel: CancellationToken,
    /// Bytes a second; 0 is as fast as it goes.
    rate: AtomicU64,
    /// Bytes of the largest pack; 0 is the default.
    packs: AtomicUsize,
    free_at: Mutex<Option<Instant>>,
    total: AtomicU64,
    done: AtomicU64,
    moved: AtomicU64,
    found: AtomicU64,
}

/// How far an operation is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of the volumes: what there is to look at.
    pub total_bytes: u64,
    /// Of the volumes: what was looked at.
    pub done_bytes: u64,
    /// What went to the store or came from it.
    pub moved_bytes: u64,
    /// What an interrupted run had stored already and was not stored again.
    pub found_bytes: u64,
}

impl Watch {
    /// Ends when this token is cancelled.
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, ..Self::default() }
    }

    /// Moves at most so many bytes a second from now on; 0 is no limit.
    pub fn limit(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Makes packs of at most so many bytes, for a line on which little arrives between two losses;
    /// no less than one chunk's 64 KiB, and no more than the default.
    pub fn limit_packs(&self, bytes: usize) {
        self.packs.store(bytes.clamp(PACK_BYTES_LEAST, PACK_BYTES), Ordering::Relaxed);
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            total_bytes: self.total.load(Ordering::Relaxed),
            done_bytes: self.done.load(Ordering::Relaxed),
            moved_bytes: self.moved.load(Ordering::Relaxed),
            found_bytes: self.found.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn find(&self, bytes: u64) {
        self.found.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How large a pack may be: a limited run makes smaller ones, so that no burst takes much
    /// longer than a second.
    pub(crate) fn pack_bytes(&self) -> usize {
        let most = match self.packs.load(Ordering::Relaxed) {
            0 => PACK_BYTES,
            bytes => bytes,
        };
        match usize::try_from(self.rate.load(Ordering::Relaxed)) {
            Ok(0) | Err(_) => most,
            Ok(rate) => rate.clamp(PACK_BYTES_MIN, PACK_BYTES).min(most),
        }
    }

    /// Fails when it was given up.
    pub(crate) fn check(&self) -> Result<(), BackupError> {
        if self.cancel.is_cancelled() { Err(BackupError::Cancelled) } else { Ok(()) }
    }

    /// The answer of what is awaited, unless it is given up before.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, BackupError>>,
    ) -> Result<T, BackupError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(BackupError::Cancelled),
            result = work => result,
        }
    }

    /// Waits until so many bytes may be moved, and counts them.
    pub(crate) async fn pace(&self, bytes: u64) -> Result<(), BackupError> {
        self.check()?;
        // At one byte a second the largest object takes four years: far from overflow.
        let rate = self.rate.load(Ordering::Relaxed);
        if let Some(time) = bytes.saturating_mul(1000).checked_div(rate) {
            let now = Instant::now();
            let turn = {
                let mut free_at = self.free_at.lock().await;
                let turn = free_at.map_or(now, |at| at.max(now));
                *free_at = Some(turn + Duration::from_millis(time));
                turn
            };
            self.unless_cancelled(async {
                tokio::time::sleep_until(turn).await;
                Ok(())
            })
            .await?;
        }
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_spreads_what_is_moved_and_a_cancelled_one_waits_no_longer() {
        let cancel = CancellationToken::new();
        let watch = Watch::new(cancel.clone());
        watch.limit(1000);
        let begun = Instant::now();
        for _ in 0..5 {
            watch.pace(2000).await.unwrap();
        }
        assert_eq!(begun.elapsed().as_secs(), 8, "the first goes at once");
        assert_eq!(watch.progress().moved_bytes, 10_000);
        cancel.cancel();
        assert!(matches!(watch.pace(1).await, Err(BackupError::Cancelled)));
    }

    #[test]
    fn a_limited_run_makes_smaller_packs() {
        let watch = Watch::default();
        assert_eq!(watch.pack_bytes(), PACK_BYTES);
        watch.limit(3 << 20);
        assert_eq!(watch.pack_bytes(), 3 << 20);
        watch.limit(1);
        assert_eq!(watch.pack_bytes(), PACK_BYTES_MIN);
    }
}
