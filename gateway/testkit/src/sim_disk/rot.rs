//! A block that changes on the disk until it is mended or written anew.
//!
//! Invariant: what is there and what is durable rot together, and each is put back by itself, where
//! nobody wrote since.

use super::SimDisk;
use crate::content::Content;

/// A block that rotted.
#[derive(Clone, Debug)]
pub struct Rot {
    file: u64,
    offset: u64,
    /// What is there, and what is durable, when it is good.
    good: [Vec<u8>; 2],
}

impl SimDisk {
    /// Flips a bit of a block of the file at `path`, behind everybody's back, until it is mended or
    /// written anew.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn rot(&self, path: &str, offset: u64, len: usize) -> Rot {
        let mut state = self.state();
        let id = state.names.get(path).copied().flatten().expect("the caller names a file");
        let file = state.files.get_mut(&id).expect("a name has a file");
        let spoil = |content: &mut Content| {
            let mut good = vec![0; len];
            content.read(&mut good, offset);
            content.write(offset + len as u64 / 2, &[good[len / 2] ^ 1]);
            good
        };
        let good = [spoil(&mut file.current), spoil(&mut file.durable)];
        Rot { file: id, offset, good }
    }

    /// Puts back what rotted, where nobody wrote since. Says whether hosts could have read it still.
    pub fn mend(&self, rot: &Rot) -> bool {
        let mut state = self.state();
        let Some(file) = state.files.get_mut(&rot.file) else { return false };
        let put_back = |content: &mut Content, good: &[u8]| {
            let mut there = vec![0; good.len()];
            content.read(&mut there, rot.offset);
            let middle = good.len() / 2;
            there[middle] ^= 1;
            let is_rotten = there == good;
            if is_rotten {
                content.write(rot.offset + middle as u64, &[good[middle]]);
            }
            is_rotten
        };
        let is_rotten = put_back(&mut file.current, &rot.good[0]);
        put_back(&mut file.durable, &rot.good[1]);
        is_rotten
    }
}
