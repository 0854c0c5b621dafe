//! What the gateway must remember beside its groups' own records: which groups and volumes there
//! are, whom it trusts, who may call its API.
//!
//! Invariant: a change is on stable storage before anybody sees it. Secrets are kept as hashes,
//! except for those of join tokens, whose records the link makes so that they hold none.

mod backups;
pub(crate) mod evs;
mod rollbacks;
mod scrubs;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use block::{GatewayId, GroupId, VolumeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::backups::{
    BackupPages, FillEntry, FilledEntry, PinEntry, PolicyEntry, RunEntry,
};
pub(crate) use self::rollbacks::{RollbackEntry, Stage};
pub(crate) use self::scrubs::ScrubEntry;
pub(crate) use self::snapshots::NoteEntry;
use crate::shard::Shard;
use crate::ways::Side;

/// Where the ledger keeps it.
const KEY: &str = "control/book";
/// The version that this release writes; it reads none that is newer.
const VERSION: u32 = 1;
/// The version while a group is on its way to a second: a release before would let hosts in half way.
const VERSION_HOLDING: u32 = 2;

/// Why the book cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BookError {
    /// The ledger failed.
    #[error("the ledger failed: {0}")]
    Ledger(block::IoError),
    /// The thread of the ledger does not answer.
    #[error("the ledger's thread does not answer")]
    Silent,
    /// It is damaged or from a newer release.
    #[error("the gateway's book cannot be read: {0}")]
    Unreadable(String),
}

/// A volume, as it was created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct VolumeEntry {
    /// Its identity.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// Who may attach it.
    #[serde(default)]
    pub(crate) settings: api::VolumeSettings,
    /// Its number at its group's target; `None` where it is the only disk of a target of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lun: Option<u8>,
    /// The numbers that single initiators see it under there instead, by their names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) initiator_luns: BTreeMap<String, u8>,
}

impl VolumeEntry {
    /// The same in another group, where it has no number yet.
    #[must_use]
    pub(crate) fn moved(&self) -> Self {
        Self { lun: None, initiator_luns: BTreeMap::new(), ..self.clone() }
    }

    /// The number that this initiator sees it under at its group's target; `None` where it is at none.
    #[must_use]
    pub(crate) fn lun_for(&self, initiator: &str) -> Option<u8> {
        let lun = self.lun?;
        if self.initiator_luns.is_empty() {
            return Some(lun);
        }
        Some(self.initiator_luns.get(&initiator.to_ascii_lowercase()).copied().unwrap_or(lun))
    }
}

/// A group, as it was created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct GroupEntry {
    /// Its identity.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// Its volumes, in the order of its record.
    pub(crate) volumes: Vec<VolumeEntry>,
}

impl GroupEntry {
    /// Its identity, typed.
    #[must_use]
    pub(crate) const fn group(&self) -> GroupId {
        GroupId::from_uuid(self.id)
    }

    /// The identities of its volumes, typed, in the order of its record.
    #[must_use]
    pub(crate) fn volume_ids(&self) -> Vec<VolumeId> {
        self.volumes.iter().map(|volume| VolumeId::from_uuid(volume.id)).collect()
    }
}

/// A gateway at another site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct PeerEntry {
    /// Which.
    pub(crate) gateway: Uuid,
    /// Its site's name.
    pub(crate) site: String,
    /// Its certificate, DER, in hexadecimal.
    pub(crate) certificate: String,
    /// Where its link listens.
    pub(crate) addresses: Vec<String>,
    /// Where it said last that initiators reach it.
    #[serde(default)]
    pub(crate) portals: Option<Side>,
    /// Where it said last that it stands.
    #[serde(default)]
    pub(crate) place: Option<Place>,
}

/// Where a gateway stands, as its operator described it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Place {
    /// Its region; may be empty.
    pub(crate) region: String,
    /// Its zone; may be empty.
    pub(crate) zone: String,
    /// Where it lies, where that is configured.
    #[serde(default)]
    pub(crate) position: Option<crate::config::Position>,
}

impl PeerEntry {
    /// From what the link knows.
    #[must_use]
    pub(crate) fn of(peer: &link::Peer) -> Self {
        Self {
            gateway: peer.gateway.uuid(),
            site: peer.site.clone(),
            certificate: hex(&peer.certificate),
            addresses: peer.addresses.clone(),
            portals: None,
            place: None,
        }
    }

    /// To what the link knows; `None` when the certificate cannot be read.
    #[must_use]
    pub(crate) fn peer(&self) -> Option<link::Peer> {
        Some(link::Peer {
            gateway: GatewayId::from_uuid(self.gateway),
            site: self.site.clone(),
            certificate: unhex(&self.certificate)?,
            addresses: self.addresses.clone(),
        })
    }
}

/// What a bearer of a token may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleEntry {
    /// Reads.
    Viewer,
    /// Also changes volumes, sessions and failovers.
    Operator,
    /// Also trust and tokens.
    Admin,
}

/// A bearer token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct TokenEntry {
    /// Whose.
    pub(crate) name: String,
    /// BLAKE3 of it, in hexadecimal. It has 256 random bits, so a plain hash is enough.
    pub(crate) hash: String,
    /// What it allows.
    pub(crate) role: RoleEntry,
}

/// A restore that was begun and is not over: the way back of a group to its original site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct RestoreEntry {
    /// The group.
    pub(crate) group: Uuid,
    /// The gateway of the original site.
    pub(crate) to: Uuid,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Pages {
    version: u32,
    /// The groups.
    pub(crate) groups: Vec<GroupEntry>,
    /// The gateways that are trusted.
    pub(crate) peers: Vec<PeerEntry>,
    /// The bearer tokens.
    pub(crate) tokens: Vec<TokenEntry>,
    /// Join tokens that were issued, as the link's records in hexadecimal.
    pub(crate) joins: Vec<String>,
    /// Restores that are not over.
    #[serde(default)]
    pub(crate) restores: Vec<RestoreEntry>,
    /// Rollbacks that are not over.
    #[serde(default)]
    pub(crate) rollbacks: Vec<RollbackEntry>,
    /// Backups, and restores from them.
    #[serde(default)]
    pub(crate) backups: BackupPages,
    /// The last scrub of each volume.
    #[serde(default)]
    pub(crate) scrubs: Vec<ScrubEntry>,
    /// What is said of snapshots that were taken here, in the order in which they were asked for.
    #[serde(default)]
    pub(crate) snapshot_notes: Vec<NoteEntry>,
    /// What the EVS and SDRS dialects know.
    #[serde(default)]
    pub(crate) evs: evs::EvsPages,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            version: VERSION,
            groups: Vec::new(),
            peers: Vec::new(),
            tokens: Vec::new(),
            joins: Vec::new(),
            restores: Vec::new(),
            rollbacks: Vec::new(),
            backups: BackupPages::default(),
            scrubs: Vec::new(),
            snapshot_notes: Vec::new(),
            evs: evs::EvsPages::default(),
        }
    }
}

impl Pages {
    /// The group with this name or identity.
    #[must_use]
    pub(crate) fn group(&self, name: &str) -> Option<&GroupEntry> {
        self.groups.iter().find(|group| group.name == name || is_id(name, group.id))
    }

    /// The group with this identity.
    #[must_use]
    pub(crate) fn group_by_id(&self, id: GroupId) -> Option<&GroupEntry> {
        self.groups.iter().find(|group| group.id == id.uuid())
    }

    /// The volume with this name or identity, and its group.
    #[must_use]
    pub(crate) fn volume(&self, name: &str) -> Option<(&GroupEntry, &VolumeEntry)> {
        self.volumes().find(|(_, volume)| volume.name == name || is_id(name, volume.id))
    }

    /// The volume with this identity, and its group.
    #[must_use]
    pub(crate) fn volume_by_id(&self, id: VolumeId) -> Option<(&GroupEntry, &VolumeEntry)> {
        self.volumes().find(|(_, volume)| volume.id == id.uuid())
    }

    /// Every volume and its group.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = (&GroupEntry, &VolumeEntry)> {
        self.groups.iter().flat_map(|group| group.volumes.iter().map(move |v| (group, v)))
    }

    /// Every volume, to change it.
    pub(crate) fn volumes_mut(&mut self) -> impl Iterator<Item = &mut VolumeEntry> {
        self.groups.iter_mut().flat_map(|group| group.volumes.iter_mut())
    }

    /// The peer of this site, if it has one gateway that is known, or this gateway.
    #[must_use]
    pub(crate) fn peer(&self, name: &str) -> Option<&PeerEntry> {
        let by_id = self.peers.iter().find(|peer| is_id(name, peer.gateway));
        let mut of_site = self.peers.iter().filter(|peer| peer.site == name);
        // Of several gateways of a site one has to be named.
        by_id.or_else(|| of_site.next().filter(|_| of_site.next().is_none()))
    }

    /// Puts a gateway in place of what is known of it. Where initiators reach it, and where it stands,
    /// stays known until it says otherwise.
    pub(crate) fn put_peer(&mut self, entry: PeerEntry) {
        let known = self.peers.iter().position(|peer| peer.gateway == entry.gateway);
        let before = known.map(|at| self.peers.remove(at));
        let (portals, place) = before.map(|of| (of.portals, of.place)).unwrap_or_default();
        let portals = entry.portals.clone().or(portals);
        let place = entry.place.clone().or(place);
        self.peers.push(PeerEntry { portals, place, ..entry });
    }

    /// The way back that a group is on, if it is on one.
    #[must_use]
    pub(crate) fn rollback_of(&self, group: Uuid) -> Option<&RollbackEntry> {
        self.rollbacks.iter().find(|of| of.group == group)
    }

    /// Whether a volume is being restored over, or half way back to a second: it takes no host.
    #[must_use]
    pub(crate) fn is_held(&self, (group, volume): (Uuid, Uuid)) -> bool {
        self.is_on_its_way(group) || self.backups.fill_of(volume).is_some()
    }

    /// Whether a way back of a group is not over.
    #[must_use]
    pub(crate) fn has_open_way(&self, group: Uuid) -> bool {
        self.rollback_of(group).is_some_and(RollbackEntry::is_open)
    }

    /// Whether a way back of a group that is not there needs a snapshot of it.
    #[must_use]
    pub(crate) fn is_on_a_way(&self, group: Uuid, snapshot: Uuid) -> bool {
        self.rollback_of(group).is_some_and(|way| way.needs(snapshot))
    }

    /// Whether a group is at the base of a second, and not at the second.
    #[must_use]
    pub(crate) fn is_half_way(&self, group: Uuid) -> bool {
        let is_half = |way: &RollbackEntry| way.holds() && way.stage == Stage::Back;
        self.rollback_of(group).is_some_and(is_half)
    }

    /// Whether a group may be half of what it is to become.
    #[must_use]
    pub(crate) fn is_on_its_way(&self, group: Uuid) -> bool {
        self.rollback_of(group).is_some_and(RollbackEntry::holds)
    }

    fn encode(&self) -> Bytes {
        let is_holding = self.rollbacks.iter().any(RollbackEntry::holds);
        let version = if is_holding { VERSION_HOLDING } else { VERSION };
        if version != self.version {
            let told = Self { version, ..self.clone() };
            return Bytes::from(
                serde_json::to_vec(&told).expect("plain strings and lists fit JSON"),
            );
        }
        Bytes::from(serde_json::to_vec(self).expect("plain strings and lists fit JSON"))
    }

    fn decode(bytes: &[u8]) -> Result<Self, BookError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| BookError::Unreadable(error.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version > VERSION_HOLDING {
            return Err(BookError::Unreadable(format!(
                "it has version {version}, this release reads up to {VERSION_HOLDING}"
            )));
        }
        let pages: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        Ok(Self { version: VERSION, ..pages })
    }
}

fn is_id(text: &str, id: Uuid) -> bool {
    Uuid::parse_str(text) == Ok(id)
}

/// The book. Readers never wait; writers one after the other.
#[derive(Debug)]
pub(crate) struct Book {
    pages: RwLock<Arc<Pages>>,
    writing: tokio::sync::Mutex<()>,
    shard: Shard,
}

impl Book {
    /// Reads it from the ledger, which lives on `shard`.
    ///
    /// # Errors
    /// [`BookError`].
    pub(crate) async fn open(shard: Shard) -> Result<Self, BookError> {
        let found = shard
            .call(|state| state.ledger().get(KEY))
            .await
            .map_err(|_silent| BookError::Silent)?
            .map_err(BookError::Ledger)?;
        let pages = found.map_or_else(|| Ok(Pages::default()), |bytes| Pages::decode(&bytes))?;
        Ok(Self {
            pages: RwLock::new(Arc::new(pages)),
            writing: tokio::sync::Mutex::new(()),
            shard,
        })
    }

    /// What it says now.
    #[must_use]
    pub(crate) fn read(&self) -> Arc<Pages> {
        Arc::clone(&self.pages.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes it durably, together with `records` of the same ledger. `change` may refuse.
    ///
    /// # Errors
    /// What `change` says, or [`BookError`] through `E`; nothing was changed.
    ///
    /// # Cancellation
    /// The change may be on stable storage and not be seen before the next start.
    pub(crate) async fn change<T, E: From<BookError>>(
        &self,
        records: Vec<(String, Option<Bytes>)>,
        change: impl FnOnce(&mut Pages) -> Result<T, E>,
    ) -> Result<T, E> {
        self.change_by(change, async |page| {
            let records = records.into_iter().chain([page]).collect();
            self.shard
                .run(move |state| async move { state.put(records).await })
                .await
                .map_err(|_silent| E::from(BookError::Silent))?
                .map_err(|error| E::from(BookError::Ledger(error)))
        })
        .await
    }

    /// Changes it by way of somebody who makes `page` durable together with records of their own.
    ///
    /// # Errors
    /// What `change` or `keep` say; nothing was changed.
    ///
    /// # Cancellation
    /// As for [`Self::change`].
    pub(crate) async fn change_by<T, E>(
        &self,
        change: impl FnOnce(&mut Pages) -> Result<T, E>,
        keep: impl AsyncFnOnce((String, Option<Bytes>)) -> Result<(), E>,
    ) -> Result<T, E> {
        let _one_at_a_time = self.writing.lock().await;
        let mut pages = Pages::clone(&self.read());
        let result = change(&mut pages)?;
        keep((KEY.to_owned(), Some(pages.encode()))).await?;
        *self.pages.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pages);
        Ok(result)
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// Bytes from hexadecimal.
#[must_use]
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_wrote_and_nothing_newer() {
        let mut pages = Pages::default();
        pages.groups.push(GroupEntry {
            id: Uuid::from_u128(7),
            name: "orders".to_owned(),
            volumes: vec![VolumeEntry {
                id: Uuid::from_u128(8),
                name: "orders".to_owned(),
                settings: api::VolumeSettings::default(),
                lun: Some(3),
                initiator_luns: BTreeMap::from([("iqn.2026-01.com.example:db".to_owned(), 4)]),
            }],
        });
        let bytes = pages.encode();
        assert_eq!(Pages::decode(&bytes), Ok(pages.clone()));
        let (_, volume) = pages.volume("orders").unwrap();
        let lun_for = |initiator| volume.lun_for(initiator);
        assert_eq!(lun_for("iqn.2026-01.com.Example:DB"), Some(4), "a name has no case");
        assert_eq!(lun_for("iqn.2026-01.com.example:web"), Some(3));
        assert_eq!(volume.moved().lun_for("iqn.2026-01.com.example:db"), None);
        assert!(pages.volume(&Uuid::from_u128(8).to_string()).is_some());
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":3", 1);
        assert_ne!(text, newer);
        assert!(matches!(Pages::decode(newer.as_bytes()), Err(BookError::Unreadable(_))));
    }

    #[test]
    fn a_release_before_refuses_a_group_that_is_half_way_to_a_second_and_no_other() {
        let [group, snapshot, safety] = [1, 2, 3].map(Uuid::from_u128);
        let version = |pages: &Pages| {
            let value: serde_json::Value = serde_json::from_slice(&pages.encode()).unwrap();
            value["version"].as_u64().unwrap()
        };
        let mut pages = Pages::default();
        pages.rollbacks.push(RollbackEntry {
            group,
            snapshot,
            safety,
            sessions: Vec::new(),
            begun_ms: 5,
            laid: None,
            stage: Stage::Begun,
            home: None,
            keeps: None,
        });
        // As releases before wrote it: nothing is added to a way back to a snapshot.
        let known = r#"{"group":"00000000-0000-0000-0000-000000000001","snapshot":"00000000-0000-0000-0000-000000000002","safety":"00000000-0000-0000-0000-000000000003","sessions":[],"begun_ms":5}"#;
        assert_eq!(serde_json::to_string(&pages.rollbacks[0]).unwrap(), known);
        assert_eq!((version(&pages), pages.is_on_its_way(group)), (1, false));
        let laid = br#"{"journal":{"group":"00000000-0000-0000-0000-000000000001","from":[1,56],"to":[3,99],"unix_ms":5}}"#;
        pages.rollbacks[0].laid = crate::moments::Laid::decode(laid);
        for (stage, is_held) in [(Stage::Begun, true), (Stage::Back, true), (Stage::There, false)] {
            pages.rollbacks[0].stage = stage;
            assert_eq!(version(&pages), if is_held { 2 } else { 1 });
            assert_eq!(pages.is_held((group, Uuid::nil())), is_held);
            assert_eq!(Pages::decode(&pages.encode()), Ok(pages.clone()));
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(unhex(&hex(b"\x00\xffz")), Some(b"\x00\xffz".to_vec()));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
