//! Where send journals go that are too long for memory: a nameless file each, beside the pool.
//!
//! Invariant: a file has no name from the moment it exists, so that whatever ends the process gives
//! its room back. The thread of a shard never waits for the disk: chunks of a mebibyte go to the
//! runtime's blocking threads.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use block::IoError;
use bytes::Bytes;
use mirror::{LocalFuture, Spill, SpillFile};
use uuid::Uuid;

/// Makes files in one folder.
pub(crate) struct PoolSpill {
    folder: PathBuf,
}

struct Nameless(Arc<File>);

impl PoolSpill {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn make(&self) -> std::io::Result<File> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(Uuid::now_v7().to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}

impl Spill for PoolSpill {
    fn open(&self) -> Result<Rc<dyn SpillFile>, IoError> {
        match self.make() {
            Ok(file) => Ok(Rc::new(Nameless(Arc::new(file)))),
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "no file for a send journal");
                Err(io_error(&error))
            }
        }
    }
}

impl SpillFile for Nameless {
    fn write(&self, offset: u64, data: Vec<Bytes>) -> LocalFuture<Result<(), IoError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let write = move || {
                let mut at = offset;
                for part in &data {
                    file.write_all_at(part, at)?;
                    at = at.saturating_add(part.len() as u64);
                }
                Ok(())
            };
            off_thread(write).await
        })
    }

    fn read(&self, offset: u64, bytes: usize) -> LocalFuture<Result<Bytes, IoError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let read = move || {
                let mut data = vec![0; bytes];
                file.read_exact_at(&mut data, offset)?;
                Ok(Bytes::from(data))
            };
            off_thread(read).await
        })
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, IoError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| io_error(&error)),
        // The runtime stops, and the journal with it.
        Err(_) => Err(IoError::ShuttingDown),
    }
}

fn io_error(error: &std::io::Error) -> IoError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => IoError::NoSpace,
        _ => IoError::Media,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_what_is_written_and_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let spill = PoolSpill::new(folder.path().join("journal"));
        let file = spill.open().unwrap();
        let data = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        file.write(5, data).await.unwrap();
        assert_eq!(file.read(5, 6).await.unwrap(), Bytes::from_static(b"onetwo"));
        assert_eq!(file.read(9, 6).await, Err(IoError::Media));
        assert_eq!(std::fs::read_dir(folder.path().join("journal")).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let spill = PoolSpill::new(PathBuf::from("/dev/null/journal"));
        assert!(spill.open().is_err());
    }
}
