//! Where what lies below a repository's prefix.
//!
//! ```text
//!   repository                        the header: identity, keys
//!   backups/<backup>                  a manifest; or the mark of an abandoned run in its place
//!   maps/<backup>/<attempt>/<v>-<s>   the map of segment s of volume v
//!   packs/<backup>/<attempt>/<n>      the data
//!   pins/<id>                         what somebody needs who takes or reads a backup right now
//!   removed/<backup>                  this backup was removed
//!   locks/<backup>/<seconds>          this backup is locked until then
//!   clock/<id>                        written to ask for the store's time, removed at once
//! ```
//!
//! Invariant: a key that is put with the condition that it is new is never put without it.

use crate::BackupId;
use crate::format::MapRef;
use crate::id::{Attempt, PackRef};

pub(crate) const REPOSITORY: &str = "repository";
pub(crate) const BACKUPS: &str = "backups";
pub(crate) const MAPS: &str = "maps";
pub(crate) const PACKS: &str = "packs";
pub(crate) const PINS: &str = "pins";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const LOCKS: &str = "locks";
pub(crate) const CLOCK: &str = "clock";

pub(crate) fn manifest(id: BackupId) -> String {
    format!("{BACKUPS}/{id}")
}

pub(crate) fn pin(id: BackupId) -> String {
    format!("{PINS}/{id}")
}

pub(crate) fn removed(id: BackupId) -> String {
    format!("{REMOVED}/{id}")
}

pub(crate) fn locks(id: BackupId) -> String {
    format!("{LOCKS}/{id}")
}

pub(crate) fn lock(id: BackupId, until_second: i64) -> String {
    format!("{LOCKS}/{id}/{until_second}")
}

pub(crate) fn packs(run: BackupId) -> String {
    format!("{PACKS}/{run}")
}

pub(crate) fn pack(pack: &PackRef) -> String {
    format!("{PACKS}/{}/{}/{:08x}", pack.run, pack.attempt.0, pack.number)
}

pub(crate) fn map(map: &MapRef) -> String {
    format!("{MAPS}/{}/{}/{}-{}", map.run, map.attempt.0, map.volume, map.segment)
}

/// The pack that lies under this key.
pub(crate) fn parse_pack(key: &str) -> Option<PackRef> {
    let mut parts = key.strip_prefix(PACKS)?.strip_prefix('/')?.split('/');
    let run = parts.next()?.parse().ok()?;
    let attempt = Attempt(parts.next()?.parse().ok()?);
    let number = u32::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().is_none().then_some(PackRef { run, attempt, number })
}

/// The backup that the object under this key was made for.
pub(crate) fn owner(key: &str) -> Option<BackupId> {
    key.split('/').nth(1)?.parse().ok()
}

/// The backup that a key of one of the flat folders names.
pub(crate) fn named(folder: &str, key: &str) -> Option<BackupId> {
    key.strip_prefix(folder)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn keys_name_what_they_lead_to() {
        let run = BackupId::from_uuid(Uuid::from_u128(7));
        let there = PackRef { run, attempt: Attempt(Uuid::from_u128(8)), number: 0x1f };
        let key = pack(&there);
        assert_eq!(parse_pack(&key), Some(there));
        assert_eq!(owner(&key), Some(run));
        assert_eq!(named(BACKUPS, &manifest(run)), Some(run));
        assert_eq!(named(PINS, &manifest(run)), None);
        assert_eq!(parse_pack("packs/x/y/z"), None);
    }
}
