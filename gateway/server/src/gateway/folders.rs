//! Folders on volumes, for plugins: read wherever a copy lies, written where the volume is served.
//!
//! Invariant: one change of a folder at a time. Nobody but a step of the run that has the volume's group
//! changes it while there is such a run.

use block::{BLOCK_BYTES, Extent, GroupId, VolumeId};
use bytes::Bytes;
use plugin::world::{File, FolderError};

use super::Gateway;
use crate::book::GroupEntry;
use crate::folder::{
    Catalogue, Entry, FILE_BYTES_MAX, FILES_MAX, NAME_BYTES_MAX, SLOT_BYTES, digest, newest, padded,
};
use crate::refusal::Refused;

/// What is written or read at once.
const PIECE_BYTES: usize = 1 << 20;
/// A copy that is written to while it is read is read again so often.
const READS_MAX: usize = 5;

/// A volume that is a folder.
#[derive(Clone)]
struct Folder {
    group: GroupEntry,
    volume: VolumeId,
}

fn unavailable(refused: &Refused) -> FolderError {
    match api::Code::parse(&refused.0.code) {
        Some(api::Code::NotFound) => FolderError::NoVolume,
        Some(api::Code::NotPrimary) => FolderError::Elsewhere(refused.0.detail.clone()),
        _ => FolderError::Unavailable(refused.0.detail.clone()),
    }
}

fn file(name: &str, entry: &Entry) -> File {
    File {
        name: name.to_owned(),
        revision: entry.revision,
        size_bytes: entry.bytes,
        written_at: entry.written_ms,
    }
}

impl Gateway {
    fn folder(&self, volume: &str) -> Result<Folder, FolderError> {
        let (group, volume) = self.find_volume(volume).map_err(|e| unavailable(&e))?;
        Ok(Folder { group, volume: VolumeId::from_uuid(volume.id) })
    }

    async fn folder_piece(
        &self,
        folder: &Folder,
        at: u64,
        bytes: u64,
    ) -> Result<Bytes, FolderError> {
        let (group, volume): (GroupId, _) = (folder.group.group(), folder.volume);
        let damaged = |_wrong| FolderError::Damaged("the folder names no part of it".to_owned());
        let extent = Extent::new(at, bytes).map_err(damaged)?;
        let shard = self.shard_of(group).clone();
        let read = shard.run(move |state| async move { state.read(group, volume, extent).await });
        let read = read.await.map_err(|silent| unavailable(&silent.into()))?;
        read.map_err(|refused| unavailable(&refused))
    }

    async fn folder_put(
        &self,
        folder: &Folder,
        at: u64,
        bytes: Vec<u8>,
    ) -> Result<(), FolderError> {
        let target = (folder.group.group(), folder.volume);
        let shard = self.shard_of(target.0).clone();
        let written = shard.run(move |state| async move {
            let (bytes, mut at) = (Bytes::from(bytes), at);
            for from in (0..bytes.len()).step_by(PIECE_BYTES) {
                let piece = bytes.slice(from..bytes.len().min(from + PIECE_BYTES));
                let next = at + piece.len() as u64;
                state.fill(target, at, piece).await?;
                at = next;
            }
            // What names it comes after it.
            state.fill_flush(target).await
        });
        let written = written.await.map_err(|silent| unavailable(&silent.into()))?;
        written.map_err(|refused| unavailable(&refused))
    }

    async fn folder_catalogue(&self, folder: &Folder) -> Result<Catalogue, FolderError> {
        let mut why = String::new();
        for _ in 0..READS_MAX {
            let odd = self.folder_piece(folder, 0, SLOT_BYTES).await?;
            let even = self.folder_piece(folder, SLOT_BYTES, SLOT_BYTES).await?;
            match newest(&odd, &even) {
                Ok(catalogue) => return Ok(catalogue),
                Err(wrong) => why = wrong,
            }
        }
        Err(FolderError::Damaged(why))
    }

    /// Refuses what is of no step of the run that has the folder's group. One that is executed elsewhere is
    /// asked after first: it may have ended there a moment ago.
    async fn require_free_folder(
        &self,
        folder: &Folder,
        caller: Option<&str>,
    ) -> Result<(), FolderError> {
        if self.folder_is_free(folder, caller).is_err() {
            let own = caller.and_then(|run| uuid::Uuid::parse_str(run).ok()).unwrap_or_default();
            let groups = [(folder.group.id.to_string(), folder.group.name.clone())];
            // What it tells is looked at below.
            let _known = self.check_leases_of_others(own, &groups).await;
        }
        self.folder_is_free(folder, caller)
    }

    fn folder_is_free(&self, folder: &Folder, caller: Option<&str>) -> Result<(), FolderError> {
        let id = folder.group.id.to_string();
        let all = self.runs.all();
        let has_it = |known: &&crate::runs::Known| {
            known.run.ended.is_none()
                && known.run.begun.groups.iter().any(|(group, _)| *group == id)
        };
        match all.values().find(has_it) {
            Some(known) if Some(known.run.id()) != caller => {
                let name = &folder.group.name;
                Err(FolderError::Held(format!("run {} has group {name}", known.run.id())))
            }
            _ => Ok(()),
        }
    }

    /// The files whose names begin so.
    ///
    /// # Errors
    /// [`FolderError`]; so all below.
    pub(crate) async fn folder_files(
        &self,
        volume: &str,
        prefix: &str,
    ) -> Result<Vec<File>, FolderError> {
        let folder = self.folder(volume)?;
        let catalogue = self.folder_catalogue(&folder).await?;
        let named = catalogue.files.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(name, entry)| file(name, entry)).collect())
    }

    /// One file with its content, as one catalogue names it.
    pub(crate) async fn folder_read(
        &self,
        volume: &str,
        name: &str,
    ) -> Result<Option<(File, Vec<u8>)>, FolderError> {
        let folder = self.folder(volume)?;
        for _ in 0..READS_MAX {
            let catalogue = self.folder_catalogue(&folder).await?;
            let Some(entry) = catalogue.files.get(name) else { return Ok(None) };
            let mut content = Vec::new();
            while (content.len() as u64) < entry.bytes {
                let left = entry.bytes - content.len() as u64;
                let (at, bytes) = (entry.at + content.len() as u64, left.min(PIECE_BYTES as u64));
                content.extend_from_slice(&self.folder_piece(&folder, at, bytes).await?);
            }
            if digest(&content) == entry.digest {
                return Ok(Some((file(name, entry), content)));
            }
            // Written over since the catalogue was read, or this copy is still being filled.
        }
        Err(FolderError::Damaged(format!("{name} is not whole in this copy")))
    }

    /// Writes a file, and answers its revision.
    pub(crate) async fn folder_write(
        &self,
        caller: Option<&str>,
        volume: &str,
        (name, content): (String, Vec<u8>),
        expected: Option<u64>,
    ) -> Result<u64, FolderError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || content.len() > FILE_BYTES_MAX {
            return Err(FolderError::TooLarge);
        }
        let _one_at_a_time = self.foldering.lock().await;
        let folder = self.folder(volume)?;
        self.require_free_folder(&folder, caller).await?;
        let mut catalogue = self.folder_catalogue(&folder).await?;
        let there = catalogue.files.get(&name).map_or(0, |entry| entry.revision);
        if expected.is_some_and(|expected| expected != there) {
            return Err(FolderError::Revision(there));
        }
        let bytes = content.len() as u64;
        let room = catalogue.room(bytes, self.folder_bytes(&folder).await?);
        let at = room.filter(|_| there != 0 || catalogue.files.len() < FILES_MAX);
        let at = at.ok_or(FolderError::Full)?;
        catalogue.sequence += 1;
        let revision = catalogue.sequence;
        let digest = digest(&content);
        self.folder_put(&folder, at, padded(content)).await?;
        let entry = Entry { at, bytes, revision, written_ms: self.clock.unix_ms(), digest };
        catalogue.files.insert(name, entry);
        self.folder_commit(&folder, &catalogue).await?;
        Ok(revision)
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) async fn folder_remove(
        &self,
        caller: Option<&str>,
        volume: &str,
        name: &str,
    ) -> Result<(), FolderError> {
        let _one_at_a_time = self.foldering.lock().await;
        let folder = self.folder(volume)?;
        self.require_free_folder(&folder, caller).await?;
        let mut catalogue = self.folder_catalogue(&folder).await?;
        if catalogue.files.remove(name).is_none() {
            return Ok(());
        }
        catalogue.sequence += 1;
        self.folder_commit(&folder, &catalogue).await
    }

    async fn folder_commit(
        &self,
        folder: &Folder,
        catalogue: &Catalogue,
    ) -> Result<(), FolderError> {
        let (at, bytes) = catalogue.encode().map_err(|_too_long| FolderError::Full)?;
        self.folder_put(folder, at, bytes).await
    }

    async fn folder_bytes(&self, folder: &Folder) -> Result<u64, FolderError> {
        let status = self.status_of(folder.group.group()).await;
        let status = status.map_err(|refused| unavailable(&refused))?;
        let known = status.volumes.iter().find(|of| of.volume == folder.volume);
        let bytes = known.map(|of| of.bytes).ok_or(FolderError::NoVolume)?;
        Ok(bytes - bytes % BLOCK_BYTES)
    }
}
