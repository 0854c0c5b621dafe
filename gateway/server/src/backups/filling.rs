//! A volume that a backup is restored to: writes on the thread that has it, as a host's would be.
//!
//! Invariant: what is there already is not written again, so that a mirror that follows by delta is
//! sent only what differs.

use std::sync::{Mutex, PoisonError};

use api::Code;
use backup::{Sink, VolumeError};
use block::{Extent, GroupId, VolumeId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::refusal::Refused;
use crate::shard::{Shard, Silent};

/// A volume.
#[derive(Debug)]
pub(crate) struct Filling {
    shard: Shard,
    group: GroupId,
    volume: VolumeId,
    bytes: u64,
    /// The code of what failed last: the engine knows only words.
    failed: Mutex<Option<Code>>,
}

impl Filling {
    /// This volume.
    #[must_use]
    pub(crate) fn new(shard: Shard, (group, volume): (GroupId, VolumeId), bytes: u64) -> Self {
        Self { shard, group, volume, bytes, failed: Mutex::default() }
    }

    /// The code of what failed last.
    #[must_use]
    pub(crate) fn failed(&self) -> Option<Code> {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, result: Result<Result<(), Refused>, Silent>) -> Result<(), VolumeError> {
        let refused = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => refused,
            Err(silent) => Refused::from(silent),
        };
        let code = Code::parse(&refused.0.code);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = code;
        Err(VolumeError::new(refused.0.detail.clone()))
    }
}

impl Sink for Filling {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_blank(&self) -> bool {
        false
    }

    fn write(&self, offset: u64, data: Bytes) -> BoxFuture<'_, Result<(), VolumeError>> {
        let place = (self.group, self.volume);
        async move {
            let write =
                self.shard.run(move |state| async move { state.fill(place, offset, data).await });
            self.told(write.await)
        }
        .boxed()
    }

    fn zero(&self, extent: Extent) -> BoxFuture<'_, Result<(), VolumeError>> {
        let place = (self.group, self.volume);
        async move {
            let zero =
                self.shard.run(move |state| async move { state.fill_zeroes(place, extent).await });
            self.told(zero.await)
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), VolumeError>> {
        let place = (self.group, self.volume);
        async move {
            let flush = self.shard.run(move |state| async move { state.fill_flush(place).await });
            self.told(flush.await)
        }
        .boxed()
    }
}
