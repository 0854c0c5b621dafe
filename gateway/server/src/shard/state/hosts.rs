//! Hosts of NBD at volumes, beside initiators: what those have reserved holds for these, too.
//!
//! Invariant: a host of NBD is nobody's registrant (SPC-4 §5.14), so while a volume is reserved it does
//! what a stranger among initiators may; where it cannot be known what is reserved, none is let in. Nobody
//! pays for it who does not meet it: a batch looks at one cell.

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
        if !self.knows_reserved(&open, &of, &target) {
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use bytes::Bytes;
    use iscsi::scsi::reserve::Reservations;
    use nbd_server::{Capacity, ListenAddress, Listener, ListenerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use crate::exports::HostDoor;
    use crate::gateway::tests::Rig;

    /// A host that writes the first block: what it is answered; `None` when it is not let in.
    async fn writes(address: SocketAddr) -> Option<u32> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await.unwrap();
        // Fixed newstyle without zeroes, and GO with the name of the export.
        let mut said = vec![0, 0, 0, 3];
        said.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x06orders\0\0");
        stream.write_all(&said).await.unwrap();
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head).await.unwrap();
            let [kind, len] =
                [12, 16].map(|at| u32::from_be_bytes(*head[at..].first_chunk().unwrap()));
            let mut data = vec![0; len as usize];
            stream.read_exact(&mut data).await.unwrap();
            // Information comes before the word that transmission begins.
            assert!([1, 3].contains(&kind), "{kind:#x}: {}", String::from_utf8_lossy(&data));
            if kind == 1 {
                break;
            }
        }
        let mut request = b"\x25\x60\x95\x13\0\0\0\x01".to_vec();
        request.extend([0; 16]);
        request.extend(4096u32.to_be_bytes());
        request.extend([7; 4096]);
        stream.write_all(&request).await.ok()?;
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).await.ok()?;
        Some(u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]))
    }

    /// As an initiator is not let in there either: it may be one that was fenced.
    #[tokio::test]
    async fn a_host_of_nbd_is_not_let_in_where_it_cannot_be_known_what_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::open(dir.path()).await;
        rig.make_orders().await;
        let gateway = Arc::clone(&rig.gateway);
        let config =
            ListenerConfig::new("test", ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()));
        let listener = Listener::bind(config, Arc::new(Capacity::default())).await.unwrap();
        let address = listener.tcp_address().unwrap();
        let door = HostDoor::new();
        door.open(Arc::clone(&gateway));
        gateway.tasks.spawn(listener.run(door, gateway.tasks.clone(), gateway.stopping.clone()));
        assert_eq!(writes(address).await, Some(0), "nothing was ever reserved");

        let (group, volume) = gateway.group_of_volume("orders").unwrap();
        let keep = async |kept: Bytes| {
            let kept = gateway.shard_of(group).run(move |state| async move {
                state.group(group).unwrap().group.set_attributes(volume, kept).await
            });
            assert_eq!(kept.await, Ok(Ok(())));
        };
        let readable = Reservations::default().encode();
        let torn = readable.slice(1..);
        keep(torn).await;
        assert_eq!(writes(address).await, None, "what is kept is damaged");
        keep(readable).await;
        assert_eq!(writes(address).await, Some(0), "nobody is registered");
        rig.close().await;
    }
}
