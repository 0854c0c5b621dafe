//! Initiators at volumes: the disk in front of each, and what it keeps.
//!
//! Invariant: a volume has one disk, however many sessions it has, for as long as it is open here.
//! Reservations are durable with the volume, at every in-sync mirror too, before they are answered;
//! a disk that was made before this gateway lost the volume to another is not used again.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use block::{Extent, Geometry, GroupId, IoError, Request, Run, Volume, VolumeId};
use bytes::Bytes;
use iscsi::scsi::reserve::StateError;
use iscsi::scsi::{
    KeepError, KeepFuture, PortGroup, PortState, ReservationKeeper, Unit, UnitIdentity,
    UnitSettings,
};
use iscsi::{Attachment, LoggedIn};
use mirror::Group;
use tokio_util::sync::CancellationToken;

use super::ShardState;

/// How long a group may take to change hands, for initiators that ask.
const TRANSITION_SECONDS: u8 = 30;

/// A disk, and whether it is written.
#[derive(Clone)]
pub(super) struct Disk {
    unit: Rc<Unit>,
    volume: Rc<dyn Volume>,
    read_only: Rc<Cell<bool>>,
    /// Cancelled when this gateway may not serve what it was made of any more.
    stop: CancellationToken,
}

/// A volume as the settings have it.
struct Guarded {
    volume: Rc<dyn Volume>,
    read_only: Rc<Cell<bool>>,
}

impl Volume for Guarded {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        self.read_only.get() || self.volume.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if self.read_only.get() {
            for refused in batch.extract_if(.., |request| request.op.is_change()) {
                refused.ticket.fail(IoError::ReadOnly);
            }
        }
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.volume.layout(extent, limit)
    }
}

/// Keeps a volume's reservations with the volume, at every in-sync mirror too.
struct GroupKeeper {
    group: Rc<Group>,
    volume: VolumeId,
}

impl fmt::Debug for GroupKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupKeeper").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl ReservationKeeper for GroupKeeper {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        Ok(self.group.attributes(self.volume))
    }

    fn keep(&self, state: Bytes) -> KeepFuture {
        let (group, volume) = (Rc::clone(&self.group), self.volume);
        Box::pin(async move {
            group.set_attributes(volume, state).await.map_err(|error| match error {
                IoError::NoSpace
                | IoError::Media
                | IoError::Checksum
                | IoError::Latched
                | IoError::Invalid
                | IoError::Unsupported => KeepError::Store,
                _ => KeepError::NotNow,
            })
        })
    }
}

impl ShardState {
    /// Seats an initiator's session.
    pub(crate) fn seat_initiator(
        &self,
        (group, volume): (GroupId, VolumeId),
        (label, read_only, portal_group): (String, bool, u16),
        host: LoggedIn,
    ) {
        let Some(open) = self.group(group) else { return };
        // It may have lost the right to serve since the initiator was told.
        if !open.group.is_serving() {
            return;
        }
        let Some(of) = open.volume(volume).filter(|of| !of.is_closed.get()) else { return };
        let Some(handle) = open.group.volume(volume) else { return };
        let known = of.disk.borrow().clone().filter(|disk| !disk.stop.is_cancelled());
        let disk = match known {
            Some(disk) => disk,
            None => {
                let target = host.target().name.clone();
                // Without what was reserved, a host could write that others have fenced.
                let made = match Self::disk((volume, target), (&open.group, handle), portal_group) {
                    Ok(made) => made,
                    Err(error) => {
                        tracing::error!(%volume, %error, "volume is not served over iSCSI");
                        return;
                    }
                };
                *of.disk.borrow_mut() = Some(made.clone());
                made
            }
        };
        disk.read_only.set(read_only);
        let stop = open.group.hosts();
        let (hosts, closing) = (of.hosts, of.closing.borrow().clone());
        let Disk { unit, volume, .. } = disk;
        let attachment = Attachment { volume, unit, label, stop: stop.clone() };
        hosts.set(hosts.get() + 1);
        self.spawn(async move {
            let mut serving = std::pin::pin!(iscsi::serve(host, attachment));
            tokio::select! {
                _ending = &mut serving => {}
                () = closing.cancelled() => {
                    stop.cancel();
                    serving.await;
                }
            }
            hosts.set(hosts.get().saturating_sub(1));
        });
    }

    fn disk(
        (volume, target): (VolumeId, String),
        (group, handle): (&Rc<Group>, Rc<dyn Volume>),
        portal_group: u16,
    ) -> Result<Disk, StateError> {
        let read_only = Rc::new(Cell::new(false));
        let guarded: Rc<dyn Volume> =
            Rc::new(Guarded { volume: handle, read_only: Rc::clone(&read_only) });
        let keeper = GroupKeeper { group: Rc::clone(group), volume };
        let stop = group.hosts();
        // Where it does not serve, nobody is logged in: so here it is always the best way.
        let ports = PortGroup {
            group: portal_group,
            state: PortState::Optimized,
            ports: vec![portal_group << 8 | 1],
        };
        let settings = UnitSettings {
            group: portal_group,
            groups: vec![ports],
            transition_seconds: TRANSITION_SECONDS,
        };
        let identity = UnitIdentity { volume, target };
        let unit = Unit::new(identity, Rc::clone(&guarded), Rc::new(keeper), settings)?;
        Ok(Disk { unit, volume: guarded, read_only, stop })
    }
}
