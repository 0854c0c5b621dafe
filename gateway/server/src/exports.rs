//! Which exports hosts see, and the way of their connections to the thread of the volume.
//!
//! `VOLUME` is a volume; `VOLUME@SNAPSHOT` is what it was at a snapshot, read-only, wherever that is
//! kept. Snapshots are not listed: a list is of what a host would attach, and the default export is
//! the only one of it.
//!
//! Invariant: only a volume whose group serves here is listed or opened for writing. What the board
//! says may be a moment old, so the group's own thread looks again before a host is seated.

use std::sync::{Arc, OnceLock};

use block::VolumeId;
use mirror::{GroupStatus, Serving};
use nbd_server::{Bitmap, ClientInfo, ExportInfo, Exports, Negotiated, Refusal};

use crate::access::may_attach;
use crate::book::{GroupEntry, VolumeEntry};
use crate::gateway::Gateway;
use crate::targets::target_name;

/// The gateway, for its NBD listeners. They are opened before it is whole.
#[derive(Default)]
pub(crate) struct HostDoor {
    gateway: OnceLock<Arc<Gateway>>,
}

impl HostDoor {
    /// A door that is closed until it knows its gateway.
    #[must_use]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Opens it.
    pub(crate) fn open(&self, gateway: Arc<Gateway>) {
        // A second gateway in one process would be a fault of ours; the first one stays.
        let _second = self.gateway.set(gateway);
    }

    fn ready(&self) -> Result<&Arc<Gateway>, Refusal> {
        self.gateway.get().filter(|gateway| gateway.is_ready()).ok_or(Refusal::ShuttingDown)
    }
}

/// Whether hosts of a group are served.
pub(crate) fn serves(status: &GroupStatus) -> bool {
    match &status.serving {
        Serving::Yes
        | Serving::Halted
        | Serving::NoWitness
        | Serving::NoCompanion
        | Serving::HandingOver
        | Serving::Detached => true,
        Serving::NotPrimary
        | Serving::Fenced { .. }
        | Serving::WaitingForMirror
        | Serving::WaitingForWitness
        | Serving::WaitingForCompanion
        | Serving::Excluded
        | Serving::Latched
        | Serving::RollingBack => false,
    }
}

fn export(
    gateway: &Gateway,
    (group, volume): (&GroupEntry, &VolumeEntry),
    client: &ClientInfo,
) -> Result<ExportInfo, Refusal> {
    if !may_attach(&volume.settings, client) {
        return Err(Refusal::Unknown);
    }
    let seen = gateway.board.get(group.group()).ok_or(Refusal::NotServed)?;
    if gateway.book.read().is_held((group.id, volume.id)) {
        return Err(Refusal::NotServed);
    }
    if !serves(&seen.status) {
        return Err(Refusal::NotServed);
    }
    let id = VolumeId::from_uuid(volume.id);
    let known = seen.status.volumes.iter().find(|known| known.volume == id);
    let bytes = known.ok_or(Refusal::NotServed)?.bytes;
    Ok(ExportInfo {
        name: volume.name.clone(),
        description: format!("volume {} of group {}", volume.name, group.name),
        bytes,
        read_only: volume.settings.read_only,
        bitmaps: bitmaps(&seen.status, id, ""),
        multi_conn: true,
    })
}

/// The snapshots that a volume, or what it was at the one called `at`, can be compared with.
fn bitmaps(status: &GroupStatus, volume: VolumeId, at: &str) -> Vec<Bitmap> {
    let readable = status.snapshots.iter().filter(|of| of.state.is_readable() && of.name != at);
    let bitmap = |of: &mirror::SnapshotStatus| {
        let (_, since) = of.volumes.iter().find(|(known, _)| *known == volume)?;
        Some(Bitmap { name: of.name.clone(), since: *since })
    };
    readable.filter_map(bitmap).collect()
}

/// What a volume was at a snapshot, wherever that is kept, for those who may attach the volume.
fn snapshot(gateway: &Gateway, name: &str, client: &ClientInfo) -> Result<ExportInfo, Refusal> {
    let (of, at) = name.split_once('@').ok_or(Refusal::Unknown)?;
    let pages = gateway.book.read();
    let (group, volume) =
        pages.volumes().find(|(_, volume)| volume.name == of).ok_or(Refusal::Unknown)?;
    if !may_attach(&volume.settings, client) {
        return Err(Refusal::Unknown);
    }
    let (_, bytes) = gateway.snapshot_export(name).ok_or(Refusal::Unknown)?;
    let seen = gateway.board.get(group.group()).ok_or(Refusal::Unknown)?;
    Ok(ExportInfo {
        name: name.to_owned(),
        description: format!("volume {of} at snapshot {at}"),
        bytes,
        read_only: true,
        bitmaps: bitmaps(&seen.status, VolumeId::from_uuid(volume.id), at),
        multi_conn: true,
    })
}

impl Exports for HostDoor {
    fn list(&self, client: &ClientInfo) -> Vec<ExportInfo> {
        let Ok(gateway) = self.ready() else { return Vec::new() };
        let pages = gateway.book.read();
        let mut exports: Vec<ExportInfo> =
            pages.volumes().filter_map(|found| export(gateway, found, client).ok()).collect();
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        exports
    }

    fn find(&self, name: &str, client: &ClientInfo) -> Result<ExportInfo, Refusal> {
        let gateway = self.ready()?;
        let pages = gateway.book.read();
        if name.is_empty() {
            // The default export is the only one there is, if there is only one.
            let mut all = self.list(client);
            return match (all.pop(), all.is_empty()) {
                (Some(only), true) => Ok(only),
                _ => Err(Refusal::Unknown),
            };
        }
        if name.contains('@') {
            return snapshot(gateway, name, client);
        }
        let found = pages.volumes().find(|(_, volume)| volume.name == name);
        export(gateway, found.ok_or(Refusal::Unknown)?, client)
    }

    fn seat(&self, connection: Negotiated) {
        let Ok(gateway) = self.ready() else { return };
        let name = connection.export().name.clone();
        if name.contains('@') {
            seat_reader(gateway, &name, connection);
            return;
        }
        let Some(place) = gateway.group_of_volume(&name) else { return };
        let pages = gateway.book.read();
        let Some(found) = pages.volume_by_id(place.1) else { return };
        let target = target_name(&gateway.config.iscsi.prefix, found);
        let posted = gateway
            .shard_of(place.0)
            .post(move |state| state.seat(place, (name, target), connection));
        if posted.is_err() {
            tracing::warn!("a host was dropped: the thread of its volume has ended");
        }
    }
}

/// Hosts that read a snapshot are told by the volume's name in metrics: names of snapshots come and
/// go.
fn seat_reader(gateway: &Gateway, name: &str, connection: Negotiated) {
    let Some(((group, volume, here), _)) = gateway.snapshot_export(name) else { return };
    let label = name.split('@').next().unwrap_or(name).to_owned();
    tracing::info!(export = name, "a snapshot is read");
    let posted = gateway
        .shard_of(group)
        .post(move |state| state.seat_reader((group, volume), here, label, connection));
    if posted.is_err() {
        tracing::warn!("a reader was dropped: the thread of its volume has ended");
    }
}
