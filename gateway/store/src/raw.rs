//! A plain file or block device as a copy of a volume: block N of the volume is block N of it.
//!
//! Invariant: it carries no map and no checksums of ours, so anybody can read it without us. What
//! must be remembered beside the content (activity, the mark of a clean close) is in a side file.

mod work;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use block::{
    ActivityExtent, Answer, BLOCK_BYTES, BlockRange, BlockSet, Extent, Geometry, IoError, Recovery,
    Request, Run, Segment, Segments, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::arena;
use crate::crc;
use crate::disk::{DiskDirectory, DiskFile};
use crate::error::{StoreError, of_io};
use crate::executor::{Executor, Lane};
use crate::medium::{Directory, File, read_padded};
use crate::metrics::Metrics;
use crate::runs::{Mapped, Runs};
use crate::volume::activity::{ActivityFile, EXTENTS_MAX};

/// Trims and zeroes above this are done by a worker.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// A copy of a volume in a plain file or on a block device.
#[derive(Debug)]
pub struct RawStore {
    recovery: Recovery,
    inner: RefCell<Inner>,
    done: Rc<RefCell<UnboundedReceiver<Done>>>,
}

/// Where a raw store lies and how it works.
#[derive(Debug)]
pub struct RawOptions<'a> {
    /// The content.
    pub content: Arc<dyn File>,
    /// The directory of the side file.
    pub side_dir: &'a dyn Directory,
    /// The name of the side file; it is made when it is not there.
    pub side_name: &'a str,
    /// Who waits for the medium.
    pub executor: Executor,
    /// What it is called in metrics.
    pub name: &'a str,
}

#[derive(Debug)]
struct Inner {
    file: Arc<dyn File>,
    geometry: Geometry,
    executor: Executor,
    activity: Arc<Mutex<ActivityFile>>,
    recorded: HashSet<u64>,
    marked_clean: bool,
    latched: bool,
    dirty: bool,
    busy: Vec<Busy>,
    held: VecDeque<Request>,
    next_id: u64,
    syncing: Option<Vec<Ticket>>,
    sync_waiting: Vec<Ticket>,
    recording: Option<(Vec<ActivityExtent>, Ticket)>,
    record_waiting: VecDeque<(Vec<ActivityExtent>, Ticket)>,
    closing: Vec<Ticket>,
    sender: UnboundedSender<Done>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Busy {
    id: u64,
    extent: Extent,
    change: bool,
    fua: bool,
    ticket: Ticket,
}

#[derive(Debug)]
enum Done {
    Read { id: u64, result: io::Result<Bytes> },
    Changed { id: u64, result: io::Result<()> },
    Synced(io::Result<()>),
    Recorded(Result<(), StoreError>),
}

// === impl RawStore ===

impl RawStore {
    /// Opens it. Its size, rounded down to whole blocks, is the volume's.
    ///
    /// # Errors
    /// [`StoreError::Size`] for a size that no volume can have, [`StoreError::Damaged`] for the
    /// side file, or what the medium says.
    pub fn open(options: RawOptions<'_>) -> Result<Rc<Self>, StoreError> {
        let size = options.content.size().map_err(StoreError::io("measure raw store"))?;
        let geometry =
            Geometry::new(size / BLOCK_BYTES * BLOCK_BYTES).map_err(|_error| StoreError::Size)?;
        let (activity, recovery) = match options.side_dir.open(options.side_name) {
            Ok(file) => {
                let (activity, image) = ActivityFile::open(file)?;
                // Nothing is synced here, so nothing can have failed to be.
                (activity, Recovery { clean: image.clean, doubtful: false, active: image.active })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let making = || StoreError::io("make side file");
                let file = options.side_dir.create(options.side_name).map_err(making())?;
                let activity = ActivityFile::create(file)?;
                options.side_dir.sync().map_err(making())?;
                (activity, Recovery { clean: true, doubtful: false, active: Vec::new() })
            }
            Err(e) => return Err(StoreError::io("open side file")(e)),
        };
        let (sender, receiver) = unbounded_channel();
        let inner = Inner {
            file: options.content,
            geometry,
            executor: options.executor,
            activity: Arc::new(Mutex::new(activity)),
            recorded: recovery.active.iter().map(|e| e.index()).collect(),
            marked_clean: recovery.clean,
            latched: false,
            dirty: !recovery.clean,
            busy: Vec::new(),
            held: VecDeque::new(),
            next_id: 0,
            syncing: None,
            sync_waiting: Vec::new(),
            recording: None,
            record_waiting: VecDeque::new(),
            closing: Vec::new(),
            sender,
            metrics: Metrics::new(options.name),
        };
        Ok(Rc::new(Self {
            recovery,
            inner: RefCell::new(inner),
            done: Rc::new(RefCell::new(receiver)),
        }))
    }

    /// Opens a file or block device of the host, with its side file.
    ///
    /// # Errors
    /// As [`RawStore::open`].
    pub fn open_path(
        content: &Path,
        side: &Path,
        executor: Executor,
    ) -> Result<Rc<Self>, StoreError> {
        let opening = || StoreError::io("open raw store");
        let file = DiskFile::open(content).map_err(opening())?;
        let parent = side.parent().filter(|p| !p.as_os_str().is_empty());
        let side_dir = DiskDirectory::open(parent.unwrap_or(Path::new("."))).map_err(opening())?;
        let side_name = side
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| opening()(io::ErrorKind::InvalidFilename.into()))?;
        Self::open(RawOptions {
            content: Arc::new(file),
            side_dir: side_dir.as_ref(),
            side_name,
            executor,
            name: &content.to_string_lossy(),
        })
    }

    /// Delivers what the workers have done, for as long as the store is there.
    ///
    /// # Cancellation
    /// Safe; but while nobody runs it, cold reads and flushes are answered only when something
    /// else is submitted.
    pub fn pump(self: &Rc<Self>) -> impl Future<Output = ()> + 'static + use<> {
        let done = Rc::clone(&self.done);
        let store = Rc::downgrade(self);
        async move {
            while let Some(event) = poll_fn(|cx| done.borrow_mut().poll_recv(cx)).await {
                let Some(store) = store.upgrade() else { return };
                let mut inner = store.inner.borrow_mut();
                inner.finish(event);
                store.drive(&mut inner);
            }
        }
    }

    fn drive(&self, inner: &mut Inner) {
        let mut done = self.done.borrow_mut();
        loop {
            inner.settle();
            let Ok(event) = done.try_recv() else { return };
            inner.finish(event);
        }
    }
}

impl Volume for RawStore {
    fn geometry(&self) -> Geometry {
        self.inner.borrow().geometry
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let mut inner = self.inner.borrow_mut();
        for request in batch.drain(..) {
            inner.admit(request);
        }
        self.drive(&mut inner);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        let mut out = Runs::new(extent, limit);
        self.inner.borrow().visit(extent.offset(), |range| {
            range.first() * BLOCK_BYTES < extent.end() && out.data(range)
        })?;
        Ok(out.finish())
    }
}

impl Store for RawStore {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        if inner.latched {
            ticket.fail(IoError::Latched);
        } else if active.len() > EXTENTS_MAX {
            ticket.fail(IoError::Invalid);
        } else {
            inner.record_waiting.push_back((active.to_vec(), ticket));
        }
        self.drive(&mut inner);
    }

    fn recovery(&self) -> Recovery {
        self.recovery.clone()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let mut out = Mapped::new(from, limit);
        self.inner
            .borrow()
            .visit(from * BLOCK_BYTES, |range| out.blocks(range.first(), range.end()))?;
        Ok(out.finish())
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        let inner = self.inner.borrow();
        if inner.latched {
            return Err(IoError::Latched);
        }
        if !extent.is_block_aligned() {
            return Err(IoError::Invalid);
        }
        let mut out = Vec::new();
        for piece in extent.pieces(INLINE_BYTES_MAX) {
            let mut data = vec![0; size(piece.len())];
            read_padded(inner.file.as_ref(), &mut data, piece.offset())
                .map_err(|e| inner.failed(&e))?;
            out.extend(crc::listed_blocks(&data));
        }
        Ok(out)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        let result = inner.grow(bytes);
        ticket.answer(result.map(|()| Answer::Done));
    }

    fn usage(&self) -> Usage {
        let mapped_bytes = self.inner.borrow().file.allocated().unwrap_or_default();
        Usage { mapped_bytes }
    }

    fn close(&self, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        if inner.latched {
            ticket.fail(IoError::Latched);
        } else {
            inner.closing.push(ticket);
        }
        self.drive(&mut inner);
    }
}

// === impl Inner ===

impl Inner {
    fn visit(&self, from: u64, mut show: impl FnMut(BlockRange) -> bool) -> Result<(), IoError> {
        let mut at = from;
        while let Some((first, end)) = self.file.next_data(at).map_err(|e| self.failed(&e))? {
            let end_block = end.div_ceil(BLOCK_BYTES).min(self.geometry.blocks());
            let range = BlockRange::new(first / BLOCK_BYTES, end_block);
            if range.is_empty() || !show(range) || end <= at {
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<(), IoError> {
        let geometry = Geometry::new(bytes).map_err(|_error| IoError::Invalid)?;
        if self.latched {
            return Err(IoError::Latched);
        }
        if bytes < self.geometry.bytes() {
            return Err(IoError::Invalid);
        }
        let there = self.file.size().map_err(|e| self.failed(&e))?;
        if there < bytes {
            // A device cannot be made longer here: its administrator does that first.
            self.file.set_size(bytes).map_err(|e| self.failed(&e))?;
        }
        if let Err(e) = self.file.sync() {
            self.latch(&e);
            return Err(IoError::Latched);
        }
        self.geometry = geometry;
        Ok(())
    }

    fn read(&mut self, extent: Extent, ticket: Ticket) {
        let file = &self.file;
        let near = arena::read(size(extent.len()), |buf| file.try_read_at(buf, extent.offset()));
        match near {
            Ok(Some(data)) => {
                self.metrics.read_data.increment(extent.len());
                ticket.answer(Ok(answer(data)));
            }
            Ok(None) => {
                let id = self.begin(extent, false, false, ticket);
                let file = Arc::clone(&self.file);
                self.run(Lane::Read, move || {
                    let mut data = bytes::BytesMut::zeroed(size(extent.len()));
                    let read = read_padded(file.as_ref(), &mut data, extent.offset());
                    Done::Read { id, result: read.map(|()| data.freeze()) }
                });
            }
            Err(e) => ticket.fail(self.failed(&e)),
        }
    }

    fn begin(&mut self, extent: Extent, change: bool, fua: bool, ticket: Ticket) -> u64 {
        self.next_id += 1;
        self.busy.push(Busy { id: self.next_id, extent, change, fua, ticket });
        self.next_id
    }

    fn run(&self, lane: Lane, job: impl FnOnce() -> Done + Send + 'static) {
        let sender = self.sender.clone();
        self.executor.run(lane, move || {
            // Nobody waits for it any more when the store is gone.
            sender.send(job()).ok();
        });
    }

    fn failed(&self, error: &io::Error) -> IoError {
        self.metrics.errors_read.increment(1);
        tracing::warn!(%error, "raw store");
        of_io(error)
    }

    fn latch(&mut self, error: &dyn std::error::Error) {
        tracing::error!(%error, "raw store is latched");
        self.metrics.errors_sync.increment(1);
        self.latched = true;
        let mut tickets = std::mem::take(&mut self.sync_waiting);
        tickets.extend(self.syncing.take().into_iter().flatten());
        tickets.extend(self.record_waiting.drain(..).map(|(_, t)| t));
        tickets.extend(self.recording.take().map(|(_, t)| t));
        tickets.append(&mut self.closing);
        tickets.extend(self.held.drain(..).map(|r| r.ticket));
        for ticket in tickets {
            ticket.fail(IoError::Latched);
        }
    }

    /// Records extents before a change that nobody announced.
    fn ensure_recorded(&mut self, extent: Extent) -> Result<(), IoError> {
        if !self.marked_clean && extent.activity().all(|a| self.recorded.contains(&a.index())) {
            return Ok(());
        }
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        activity.add(extent.activity()).map_err(|e| e.for_request())?;
        drop(activity);
        self.marked_clean = false;
        self.recorded.extend(extent.activity().map(|a| a.index()));
        Ok(())
    }
}

fn answer(data: Bytes) -> Answer {
    let mut segments = Segments::new();
    segments.push(Segment::Data(data));
    Answer::Read(segments)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request is smaller than the address space")
}
