//! The write journals that lie in a pool, a directory for each group.
//!
//! Invariant: nobody needs one but those who are filled from it; one that is lost costs moments, and
//! nothing else.

use std::collections::HashMap;
use std::io;

use block::{GroupId, VolumeId};

use super::Pool;
use crate::error::StoreError;
use crate::journal::{Journal, JournalLimits};

const DIR: &str = "journals";

impl Pool {
    /// Opens the write journal of a group, making a place for it if there is none. `pins` are the
    /// segments that volumes are still filled from. Waits for the disk.
    ///
    /// # Errors
    /// What the medium says.
    pub fn open_journal(
        &self,
        group: GroupId,
        limits: Option<JournalLimits>,
        pins: HashMap<VolumeId, (u64, u64)>,
    ) -> Result<Journal, StoreError> {
        let make = || -> io::Result<_> {
            let name = group.to_string();
            let all = match self.dir.open_dir(DIR) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = self.dir.make_dir(DIR)?;
                    self.dir.sync()?;
                    made
                }
                opened => opened?,
            };
            match all.open_dir(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = all.make_dir(&name)?;
                    all.sync()?;
                    Ok(made)
                }
                opened => opened,
            }
        };
        let dir = make().map_err(StoreError::io("open the write journal"))?;
        Ok(Journal::open(group, (dir, self.executor.clone()), limits, pins))
    }

    /// The names of the groups whose write journals lie here. Waits for the disk.
    ///
    /// # Errors
    /// What the medium says.
    pub fn journals(&self) -> Result<Vec<String>, StoreError> {
        match self.dir.open_dir(DIR).and_then(|all| all.list()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(StoreError::io("list write journals")),
        }
    }

    /// Removes one that nobody has open and nobody is filled from. Waits for the disk.
    ///
    /// # Errors
    /// What the medium says.
    pub fn remove_journal(&self, name: &str) -> Result<(), StoreError> {
        let removed = self.dir.open_dir(DIR).and_then(|all| all.remove_dir(name));
        removed.map_err(StoreError::io("remove a write journal"))
    }
}
