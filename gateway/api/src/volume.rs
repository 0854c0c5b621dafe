//! Volumes as the API tells of them, and what may be asked for them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Explanation, Health, Role};

/// What the gateway that answers has of a volume.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Copy {
    /// It serves the volume to hosts.
    Serving,
    /// It holds a copy that hosts cannot attach.
    Standby,
    /// It cannot say: the thread that owns the volume does not answer, or it could not be opened.
    Unknown,
}

/// Who may attach a volume, and how.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VolumeSettings {
    /// Whether hosts may only read; those that are attached keep what they were given.
    #[serde(default)]
    pub read_only: bool,
    /// Addresses or networks (`10.0.0.0/8`) that may attach it; with a TLS client certificate also
    /// `cn:NAME`, over iSCSI also the name of an initiator (`iqn.…`) and `user:NAME` (CHAP). Empty:
    /// everyone who reaches a listener.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// A volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Volume {
    /// Its identity, the same at every site.
    pub id: Uuid,
    /// Its name, and that of its NBD export.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that take room in the pool; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_bytes: Option<u64>,
    /// How far it is, while it is used before all of its content is in the pool (other systems say:
    /// hydrating).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filling: Option<Filling>,
    /// What the last scrub of the copy here found; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// The group that it belongs to.
    pub group: String,
    /// Whether it is served here.
    pub copy: Copy,
    /// The part this gateway plays in its group; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// How its group is.
    pub health: Health,
    /// What is wrong, if anything is.
    pub explanations: Vec<Explanation>,
    /// Who may attach it.
    pub settings: VolumeSettings,
    /// Its number at the iSCSI target of its group; absent when it is LUN 0 of a target of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u8>,
    /// The numbers that single initiators see it under there instead, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub initiator_luns: BTreeMap<String, u8>,
    /// Where hosts attach it; empty when it is not served here.
    pub exports: Vec<String>,
    /// What may be done to it now.
    pub allowed_actions: Vec<String>,
}

/// What becomes of a volume that is used before it is filled.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum FillingState {
    /// Its content is being copied.
    Copying,
    /// The pool is full: it goes on when there is room.
    WaitingForRoom,
    /// Its content cannot be copied now; it is tried again every few seconds.
    Failed,
    /// Its group is not open.
    Unknown,
}

/// How far a volume is that is used before it is filled.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Filling {
    /// What it is filled from, in words.
    pub from: String,
    /// What becomes of it.
    pub state: FillingState,
    /// Bytes that are to be copied; absent before they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_bytes: Option<u64>,
    /// What stands in the way, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// What a scrub found: every stored block was read and held against its checksum.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Scrub {
    /// When it was begun, RFC 3339.
    pub begun_at: String,
    /// When it ended, RFC 3339.
    pub ended_at: String,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Blocks of 4096 bytes that did not match their checksum or could not be read.
    pub bad_blocks: u64,
    /// Those of them that another copy had.
    pub repaired_blocks: u64,
    /// The first of those that nobody had, by number.
    pub left: Vec<u64>,
    /// Why nobody had them, or why the scrub did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// A snapshot that a volume is made from.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSource {
    /// The group, by name or identity.
    pub group: String,
    /// Its snapshot that is kept here, by name or identity.
    pub snapshot: String,
    /// Which volume of it, by name or identity; may be left out when it has one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// The volumes of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct VolumeList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They, by name.
    pub items: Vec<Volume>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Makes a volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or dash.
    pub name: String,
    /// Its size in bytes: a multiple of 4096, up to 1 PiB. With `from` it may be left out; it is the
    /// snapshot's then, and never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// A snapshot whose content it has. It can be used at once, and begins in a group of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SnapshotSource>,
    /// Its group: one that exists, which it joins, or one that is made with it; the volume's own
    /// name if absent.
    #[serde(default)]
    pub group: Option<String>,
    /// Another gateway of this site that has the group: here a part of it begins, with this volume.
    /// The group is not mirrored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<Uuid>,
    /// Who may attach it.
    #[serde(default)]
    pub settings: VolumeSettings,
}

/// Makes a volume longer.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VolumeGrow {
    /// Its new size in bytes.
    pub bytes: u64,
}

/// At which iSCSI target a volume is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VolumeLun {
    /// Its number at the target of its group, which no other volume there has; null: it is LUN 0 of a
    /// target of its own.
    #[serde(default)]
    pub lun: Option<u8>,
    /// The initiator whose number of it this is, beside that of all others; its null: the one that all
    /// others see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
}

/// What was read from every block of the copy at this gateway, as one number.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct VolumeDigest {
    /// The volume.
    pub id: Uuid,
    /// The site whose copy was read.
    pub site: String,
    /// Bytes covered: the volume's size.
    pub bytes: u64,
    /// BLAKE3 over the CRC32C of each 4 KiB block (0 for one that reads as zeroes), in order.
    pub digest: String,
    /// When the reading began and ended, RFC 3339: a copy that changes meanwhile is no point in
    /// time.
    pub from: String,
    /// See `from`.
    pub to: String,
}
