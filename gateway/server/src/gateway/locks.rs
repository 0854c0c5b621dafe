//! Locks of snapshots as far as the whole gateway is concerned: the clock that ends them, and what is
//! not deleted because of them.
//!
//! Invariant (rule 15): the lock clock goes on only while the gateway runs, is recorded once a minute
//! and begins where it was recorded, so it is never ahead of the time that passed since a lock was
//! made. Whoever sets the clock on the wall leaves a trace and ends no lock.

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GroupId, Ledger, VolumeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Gateway;
use crate::clock::{Clock, text};
use crate::refusal::Refused;

/// Where the ledger keeps what the lock clock said.
const KEY: &str = "control/lock-clock";
const VERSION: u32 = 1;
/// What a kill takes from the lock clock, at most.
const RECORD_EVERY: Duration = Duration::from_mins(1);
/// How often the clock on the wall is compared.
const LOOK: Duration = Duration::from_secs(5);
/// A clock that is only set right moves by less.
const MOVED_MS: u64 = 60_000;

#[derive(Debug, Deserialize, Serialize)]
struct Recorded {
    version: u32,
    unix_ms: u64,
}

impl Recorded {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let found: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("what the lock clock said cannot be read: {error}"))?;
        if found.version > VERSION {
            let version = found.version;
            return Err(format!(
                "the lock clock has version {version}, this release reads up to {VERSION}"
            ));
        }
        Ok(found)
    }
}

/// The clocks of a gateway, with the lock clock as it was recorded. One that was never recorded begins
/// with the clock on the wall: there are no locks yet.
///
/// # Errors
/// The record cannot be read: a lock would end sooner or never.
pub(crate) fn lock_clock(clock: Clock, ledger: &dyn Ledger) -> Result<Clock, String> {
    let found = ledger.get(KEY).map_err(|error| error.to_string())?;
    let Some(found) = found else { return Ok(clock) };
    Ok(clock.locks_from(Recorded::decode(&found)?.unix_ms))
}

impl Gateway {
    /// Records the lock clock now and again, and tells when the clock on the wall was moved.
    pub(super) async fn keep_lock_clock(self: Arc<Self>) {
        let behind = self.clock.unix_ms().saturating_sub(self.clock.lock_ms());
        if behind > MOVED_MS {
            let hours = behind / 3_600_000;
            let at = text(self.clock.lock_ms());
            let words = format!(
                "the lock clock stands at {at}, {hours} h behind: time in which the gateway did not \
                 run ends no lock"
            );
            self.events.tell("clock", &self.config.site.name, words);
        }
        let (mut offset, mut since) = (self.offset_ms(), Duration::ZERO);
        loop {
            self.record_lock_clock().await;
            while since < RECORD_EVERY {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => since += LOOK,
                    () = self.stopping.cancelled() => return self.record_lock_clock().await,
                }
                let now = self.offset_ms();
                if now.abs_diff(offset) > MOVED_MS {
                    let seconds = (now - offset) / 1_000;
                    let words = format!(
                        "the clock on the wall was moved by {seconds} s: schedules follow it, locks \
                         do not"
                    );
                    self.events.tell("clock", &self.config.site.name, words);
                    offset = now;
                }
            }
            since = Duration::ZERO;
        }
    }

    /// How far the clock on the wall is from the steady one.
    fn offset_ms(&self) -> i64 {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        ms(self.clock.unix_ms()) - ms(self.clock.steady_ms())
    }

    async fn record_lock_clock(&self) {
        let said = Recorded { version: VERSION, unix_ms: self.clock.lock_ms() };
        let bytes = serde_json::to_vec(&said).expect("two numbers fit JSON");
        let records = vec![(KEY.to_owned(), Some(Bytes::from(bytes)))];
        let Some(shard) = self.shards.first() else { return };
        // One that was not recorded lets locks last longer, and is recorded a minute later.
        match shard.run(move |state| async move { state.put(records).await }).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lock clock is not recorded"),
        }
    }

    /// Whether volumes have a locked snapshot, by what is recorded of them: also of a group that is not
    /// open.
    ///
    /// # Errors
    /// [`Code::SnapshotLocked`], with its name and its end, or the ledger's.
    pub(crate) async fn refuse_locked(
        &self,
        group: GroupId,
        volumes: &[VolumeId],
    ) -> Result<(), Refused> {
        for volume in volumes {
            let record = self.record(group, mirror::Group::snapshots_key(*volume)).await?;
            let Some(record) = record else { continue };
            let locked = mirror::locked_snapshot(&record, self.clock.lock_ms()).map_err(|error| {
                // What a newer release wrote, or a disk spoiled: a lock in it holds all the same.
                let detail = format!(
                    "the record of the snapshots of volume {volume} cannot be read, so nobody knows \
                     which of them are locked: {error}"
                );
                Refused::new(Code::SnapshotLocked, detail)
            })?;
            if let Some((name, until_ms)) = locked {
                let until = text(until_ms);
                let now = text(self.clock.lock_ms());
                let detail = format!(
                    "its snapshot {name} is locked until {until}; the lock clock says {now}"
                );
                return Err(Refused::new(Code::SnapshotLocked, detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_lock_clock_said_is_read_and_nothing_newer() {
        assert_eq!(Recorded::decode(br#"{"version":1,"unix_ms":77}"#).unwrap().unix_ms, 77);
        let newer = Recorded::decode(br#"{"version":2,"unix_ms":77}"#).unwrap_err();
        assert!(newer.contains("version 2"));
        assert!(Recorded::decode(b"77").is_err());
    }

    #[test]
    fn the_lock_clock_begins_where_it_was_recorded_whatever_the_wall_says() {
        let clock = Clock::start().locks_from(5_000);
        assert!(clock.lock_ms() >= 5_000 && clock.lock_ms() < 3_600_000);
        assert!(clock.unix_ms() > 1_700_000_000_000);
    }
}
