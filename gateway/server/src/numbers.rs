//! The numbers by which the REC dialect names volumes and sessions, and what it knows of the other
//! end of each.
//!
//! Invariant: a number is on stable storage before anybody is told of it, means one thing for ever,
//! and is never used again. A volume that becomes the destination of a session keeps its number,
//! whatever identity its content has.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::book::{Book, BookError};
use crate::refusal::Refused;
use crate::shard::Shard;

/// Where the ledger keeps them.
const KEY: &str = "control/numbers";
/// The version that this release writes; it reads none that is newer.
const VERSION: u32 = 1;

/// A volume's number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct VolumeNumber {
    /// Its identity.
    pub(crate) id: Uuid,
    /// Its number.
    pub(crate) number: u64,
    /// The gateway whose mirror it was until its session was deleted: that gateway may copy to it
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) was_mirror_of: Option<Uuid>,
}

/// The other end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Remote {
    /// The session's number there.
    pub(crate) session: u64,
    /// The volume's number there.
    pub(crate) volume: u64,
    /// The volume's name there.
    pub(crate) name: String,
}

/// A session's number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct SessionNumber {
    /// Its identity.
    pub(crate) id: Uuid,
    /// Its number.
    pub(crate) number: u64,
    /// Its other end; absent when it was not made through the dialect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<Remote>,
    /// Whether it was deleted here while its copy could not be used: it is not listed any more.
    #[serde(default)]
    pub(crate) is_deleted: bool,
}

/// All numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Numbers {
    version: u32,
    next_volume: u64,
    next_session: u64,
    volumes: Vec<VolumeNumber>,
    sessions: Vec<SessionNumber>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            version: VERSION,
            next_volume: 1,
            next_session: 1,
            volumes: Vec::new(),
            sessions: Vec::new(),
        }
    }
}

impl Numbers {
    /// A volume's entry.
    #[must_use]
    pub(crate) fn volume(&self, id: Uuid) -> Option<&VolumeNumber> {
        self.volumes.iter().find(|entry| entry.id == id)
    }

    /// The volume with this number.
    #[must_use]
    pub(crate) fn volume_numbered(&self, number: u64) -> Option<&VolumeNumber> {
        self.volumes.iter().find(|entry| entry.number == number)
    }

    /// A session's entry.
    #[must_use]
    pub(crate) fn session(&self, id: Uuid) -> Option<&SessionNumber> {
        self.sessions.iter().find(|entry| entry.id == id)
    }

    /// A volume's entry, made if it has none.
    pub(crate) fn give_volume(&mut self, id: Uuid) -> &mut VolumeNumber {
        let at = self.volumes.iter().position(|entry| entry.id == id).unwrap_or_else(|| {
            self.volumes.push(VolumeNumber { id, number: self.next_volume, was_mirror_of: None });
            self.next_volume += 1;
            self.volumes.len() - 1
        });
        &mut self.volumes[at]
    }

    /// A session's entry, made if it has none.
    pub(crate) fn give_session(&mut self, id: Uuid) -> &mut SessionNumber {
        let at = self.sessions.iter().position(|entry| entry.id == id).unwrap_or_else(|| {
            self.sessions.push(SessionNumber {
                id,
                number: self.next_session,
                remote: None,
                is_deleted: false,
            });
            self.next_session += 1;
            self.sessions.len() - 1
        });
        &mut self.sessions[at]
    }

    /// The volume with this number has another identity from now on.
    pub(crate) fn change_identity(&mut self, from: Uuid, to: Uuid) {
        // What was here before under that identity is gone, or it could not be taken now.
        self.volumes.retain(|entry| entry.id != to || from == to);
        if let Some(entry) = self.volumes.iter_mut().find(|entry| entry.id == from) {
            entry.id = to;
            entry.was_mirror_of = None;
        }
    }

    fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("plain numbers and names fit JSON"))
    }

    fn decode(bytes: &[u8]) -> Result<Self, BookError> {
        let read: Self = serde_json::from_slice(bytes)
            .map_err(|error| BookError::Unreadable(format!("numbers: {error}")))?;
        if read.version > VERSION {
            return Err(BookError::Unreadable(format!(
                "numbers have version {}, this release reads up to {VERSION}",
                read.version
            )));
        }
        Ok(read)
    }
}

/// The numbers of a gateway. They are read when they are first asked for.
#[derive(Debug)]
pub(crate) struct NumberBook {
    numbers: Mutex<Option<Numbers>>,
    shard: Shard,
}

/// The right to change the numbers together with the book.
pub(crate) struct Changing<'a> {
    kept: MutexGuard<'a, Option<Numbers>>,
    /// What they are to become.
    pub(crate) next: Numbers,
}

impl NumberBook {
    /// Those in the ledger, which lives on `shard`.
    #[must_use]
    pub(crate) fn new(shard: Shard) -> Self {
        Self { numbers: Mutex::default(), shard }
    }

    /// What they are now.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn read(&self) -> Result<Numbers, Refused> {
        Ok(self.begin().await?.next)
    }

    /// Begins a change; nobody else changes them meanwhile. Dropped, it changes nothing.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn begin(&self) -> Result<Changing<'_>, Refused> {
        let mut kept = self.numbers.lock().await;
        if kept.is_none() {
            let found = self.shard.call(|state| state.ledger().get(KEY)).await?;
            let found = found.map_err(BookError::Ledger)?;
            *kept = Some(found.map_or_else(|| Ok(Numbers::default()), |b| Numbers::decode(&b))?);
        }
        let next = kept.clone().unwrap_or_default();
        Ok(Changing { kept, next })
    }

    /// Changes them durably. What changes nothing writes nothing.
    ///
    /// # Errors
    /// When the ledger cannot be read or written; nothing was changed.
    pub(crate) async fn change<T>(
        &self,
        book: &Book,
        change: impl FnOnce(&mut Numbers) -> T,
    ) -> Result<T, Refused> {
        let mut changing = self.begin().await?;
        let result = change(&mut changing.next);
        if changing.kept.as_ref() != Some(&changing.next) {
            let record = changing.record();
            book.change(vec![record], |_pages| Ok::<(), Refused>(())).await?;
            changing.done();
        }
        Ok(result)
    }
}

impl Changing<'_> {
    /// What is to be written to the ledger, with whatever changes at the same time.
    #[must_use]
    pub(crate) fn record(&self) -> (String, Option<Bytes>) {
        (KEY.to_owned(), Some(self.next.encode()))
    }

    /// It was written.
    pub(crate) fn done(mut self) {
        *self.kept = Some(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As release 0.1 writes them.
    const BYTES: &str = r#"{"version":1,"next_volume":3,"next_session":2,"volumes":[{"id":"00000000-0000-0000-0000-000000000007","number":1},{"id":"00000000-0000-0000-0000-000000000008","number":2,"was_mirror_of":"00000000-0000-0000-0000-000000000002"}],"sessions":[{"id":"00000000-0000-0000-0000-000000000009","number":1,"remote":{"session":4,"volume":5,"name":"copy"},"is_deleted":false}]}"#;

    #[test]
    fn what_was_written_is_read_and_nothing_newer() {
        let mut numbers = Numbers::default();
        numbers.give_volume(Uuid::from_u128(7));
        numbers.give_volume(Uuid::from_u128(8)).was_mirror_of = Some(Uuid::from_u128(2));
        let session = numbers.give_session(Uuid::from_u128(9));
        session.remote = Some(Remote { session: 4, volume: 5, name: "copy".to_owned() });
        assert_eq!(numbers.encode(), BYTES.as_bytes());
        assert_eq!(Numbers::decode(BYTES.as_bytes()), Ok(numbers.clone()));
        numbers.version = VERSION + 1;
        assert!(matches!(Numbers::decode(&numbers.encode()), Err(BookError::Unreadable(_))));
    }

    #[test]
    fn rec_02_a_destination_keeps_its_number_and_none_is_used_again() {
        let mut numbers = Numbers::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let number = numbers.give_volume(one).number;
        assert_eq!(numbers.give_volume(one).number, number);
        numbers.change_identity(one, other);
        assert_eq!(numbers.volume(other).map(|entry| entry.number), Some(number));
        assert_eq!(numbers.volume(one), None);
        assert_ne!(numbers.give_volume(one).number, number);
        numbers.change_identity(other, other);
        assert_eq!(numbers.volume_numbered(number).map(|entry| entry.id), Some(other));
    }
}
