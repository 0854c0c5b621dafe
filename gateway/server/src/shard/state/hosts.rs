//! Hosts of NBD at volumes, beside initiators: what those have reserved holds for these, too.
//!
//! Invariant: a host of NBD is nobody's registrant (SPC-4 §5.14), so while a volume is reserved it does
//! what a stranger among initiators may. Nobody pays for it who does not meet it: a batch looks at one
//! cell.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use block::{Extent, Geometry, GroupId, Holds, IoError, Request, Run, Volume, VolumeId};
use iscsi::scsi::Strangers;
use nbd_server::{Attachment, Changes, Negotiated};

use super::ShardState;
use super::changes::Compared;
use super::initiators::Disk;

/// A volume as hosts of NBD have it.
struct Outside {
    volume: Rc<dyn Volume>,
    /// The disk that initiators see, once there is one.
    disk: Rc<RefCell<Option<Disk>>>,
}

impl Outside {
    fn new(volume: Rc<dyn Volume>, disk: Rc<RefCell<Option<Disk>>>) -> Rc<Self> {
        Rc::new(Self { volume, disk })
    }
}

impl Volume for Outside {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        self.volume.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let strangers = self.disk.borrow().as_ref().map_or(Strangers::Write, Disk::strangers);
        if strangers != Strangers::Write {
            let waits = strangers == Strangers::Wait;
            for refused in batch.extract_if(.., |request| waits || request.op.is_change()) {
                refused.ticket.fail(IoError::Reserved);
            }
        }
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.volume.layout(extent, limit)
    }

    fn holds(&self) -> Option<Rc<Holds>> {
        self.volume.holds()
    }

    fn poll_settled(&self, extent: Extent, context: &mut Context<'_>) -> Poll<()> {
        self.volume.poll_settled(extent, context)
    }
}

impl ShardState {
    /// Seats a host's connection.
    pub(crate) fn seat(
        &self,
        (group, volume): (GroupId, VolumeId),
        (label, target): (String, String),
        host: Negotiated,
    ) {
        let Some(open) = self.group(group) else { return };
        // It may have lost the right to serve since the client was told.
        if !open.group.is_serving() {
            return;
        }
        let Some(of) = open.volume(volume).filter(|of| !of.is_closed.get()) else { return };
        let Some(volume) = open.group.volume(volume) else { return };
        self.reserved(&open, &of, &target);
        let volume = Outside::new(volume, Rc::clone(&of.disk));
        let changes: Rc<dyn Changes> = Compared::new(&of.store, None);
        let stop = open.group.hosts();
        let (hosts, closing) = (of.hosts, of.closing.borrow().clone());
        let attachment = Attachment { volume, changes: Some(changes), label, stop: stop.clone() };
        hosts.set(hosts.get() + 1);
        self.spawn(async move {
            let mut serving = std::pin::pin!(nbd_server::serve(host, attachment));
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
}
