//! A backup as what a volume is filled from: read on the control threads, for whatever thread has the
//! volume.
//!
//! ```text
//!   pool's record ─▶ Source (target, backup, volume, pin) ─▶ BackupOrigin ─▶ Reader ─▶ object store
//! ```
//!
//! Invariant: a question is answered within a bounded time, with what the backup holds or with an
//! error, never with zeroes for what could not be read. The pin stands while the pool names it.

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use backup::{BackupError, BackupId, Reader, Watch};
use block::{BlockSet, Extent, IoError, Origin, Reply, Segment, Segments, VolumeId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Connected;
use super::refuse::code;
use crate::fillings::Fillings;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// What a question may take beyond the target's patience: turns to the store that it answers slowly.
const SLACK: Duration = Duration::from_secs(30);

/// Which volume of which backup a volume is filled from, as the pool's record of it says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Source {
    /// The target that holds it.
    pub(crate) target: String,
    /// The backup.
    pub(crate) backup: Uuid,
    /// The volume of it.
    pub(crate) volume: Uuid,
    /// The pin that keeps it.
    pub(crate) pin: Uuid,
}

/// Kinds of origins that the pool does not know.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Description {
    Backup(Source),
}

/// A volume of a backup, for the volume that is filled from it.
pub(crate) struct BackupOrigin {
    asked: Arc<Asked>,
    bytes: u64,
}

struct Asked {
    fillings: Arc<Fillings>,
    /// The volume that is filled.
    volume: VolumeId,
    source: Source,
    watch: Arc<Watch>,
    /// Opened by the first question, and anew when the store failed.
    reader: Mutex<Option<Arc<Reader>>>,
}

// === impl Source ===

impl Source {
    /// As the pool's record has it.
    #[must_use]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let description = Description::Backup(self.clone());
        serde_json::to_vec(&description).expect("names and identities fit JSON")
    }

    /// `None` for a description of another kind.
    #[must_use]
    pub(crate) fn decode(description: &[u8]) -> Option<Self> {
        let Description::Backup(source) = serde_json::from_slice(description).ok()?;
        Some(source)
    }
}

// === impl BackupOrigin ===

impl BackupOrigin {
    /// Nothing is asked before the first question.
    #[must_use]
    pub(crate) fn new(
        fillings: &Arc<Fillings>,
        volume: VolumeId,
        source: Source,
        bytes: u64,
    ) -> Self {
        let fillings = Arc::clone(fillings);
        // The filler keeps to the target's limit; a host that waits is not held back.
        let watch = Arc::new(Watch::default());
        fillings.watch(volume, Arc::clone(&watch));
        let reader = Mutex::default();
        Self { asked: Arc::new(Asked { fillings, volume, source, watch, reader }), bytes }
    }

    /// Asks on a control thread: connections to the store belong to their runtime.
    fn ask<T, F>(&self, reply: Reply<T>, question: impl FnOnce(Arc<Reader>) -> F + Send + 'static)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackupError>> + Send,
    {
        let asked = Arc::clone(&self.asked);
        let Some((gateway, control)) = asked.fillings.control() else {
            return reply.answer(Err(IoError::Origin));
        };
        let tasks = gateway.tasks.clone();
        tasks.spawn_on(
            async move { reply.answer(asked.answer(&gateway, question).await) },
            &control,
        );
    }
}

impl std::fmt::Debug for BackupOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupOrigin").field("source", &self.asked.source).finish_non_exhaustive()
    }
}

impl Origin for BackupOrigin {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn mapped(&self, from: u64, limit: usize, reply: Reply<BlockSet>) {
        self.ask(reply, move |reader| async move { reader.mapped(from, limit).await });
    }

    fn read(&self, extent: Extent, reply: Reply<Segments>) {
        self.ask(reply, move |reader| async move {
            let parts = reader.parts(extent).await?;
            let segment = |part: backup::Part| match part.data {
                Some(data) => Segment::Data(data),
                None => Segment::Zero(part.extent.len()),
            };
            Ok(parts.into_iter().map(segment).collect())
        });
    }
}

// === impl Asked ===

impl Asked {
    async fn answer<T, F>(
        &self,
        gateway: &Gateway,
        question: impl FnOnce(Arc<Reader>) -> F,
    ) -> Result<T, IoError>
    where
        F: Future<Output = Result<T, BackupError>>,
    {
        let target = match gateway.targets.get(&self.source.target) {
            Ok(target) => target,
            Err(refused) => return Err(self.failed(Code::BackupTargetUnknown, refused)),
        };
        let work = async {
            let reader = self.open(&target).await?;
            let answered = target.note(question(reader).await);
            if answered.is_err() {
                *self.reader.lock().await = None;
            }
            answered
        };
        let limit = target.config.patience.saturating_add(SLACK);
        let work = gateway.stopping.run_until_cancelled(tokio::time::timeout(limit, work));
        match work.await {
            None => Err(IoError::Origin),
            Some(Ok(Ok(answer))) => Ok(answer),
            Some(Ok(Err(error))) => Err(self.failed(code(&error), Refused::from(error))),
            Some(Err(_elapsed)) => {
                *self.reader.lock().await = None;
                let detail = format!("the store did not answer within {} s", limit.as_secs());
                let code = Code::BackupTargetDown;
                Err(self.failed(code, Refused::new(code, detail)))
            }
        }
    }

    async fn open(&self, target: &Connected) -> Result<Arc<Reader>, BackupError> {
        let mut known = self.reader.lock().await;
        if let Some(reader) = &*known {
            return Ok(Arc::clone(reader));
        }
        let repository = target.open(false).await?;
        let what =
            (BackupId::from_uuid(self.source.backup), VolumeId::from_uuid(self.source.volume));
        let opened = target.note(repository.read_pinned(what, &self.watch).await)?;
        let opened = Arc::new(opened);
        *known = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn failed(&self, code: Code, refused: Refused) -> IoError {
        self.fillings.note_reason(self.volume, (code, refused.0.detail));
        if code == Code::BackupDamaged { IoError::Checksum } else { IoError::Origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in the pools of gateways that were stopped while they restored.
    const KNOWN: &str = r#"{"backup":{"target":"s3","backup":"00000000-0000-0000-0000-000000000001","volume":"00000000-0000-0000-0000-000000000002","pin":"00000000-0000-0000-0000-000000000003"}}"#;

    #[test]
    fn a_description_comes_back_and_one_of_another_kind_is_none() {
        let [backup, volume, pin] = [1, 2, 3].map(Uuid::from_u128);
        let source = Source { target: "s3".to_owned(), backup, volume, pin };
        assert_eq!(source.encode(), KNOWN.as_bytes());
        assert_eq!(Source::decode(KNOWN.as_bytes()), Some(source));
        for other in [&b"elsewhere"[..], b"{\"tape\":{}}", &KNOWN.as_bytes()[..40], b""] {
            assert_eq!(Source::decode(other), None);
        }
    }
}
