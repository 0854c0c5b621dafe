//! Commands that take more than one step at the volume.
//!
//! Invariant: a command that was aborted hands nothing more to the volume.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use block::{Answer, Completions, Extent, Hold, IoError, Op, Request, Ticket, joined};
use bytes::Bytes;

use super::cdb::{Blocks, Check, Command};
use super::copy::{self, Ended};
use super::limits::{BLOCK_BYTES, CONTENT_BYTES_MAX, PIECE_BYTES_MAX, STATUS_RUNS_MAX};
use super::nexus::{self, Nexus};
use super::sense::{self, Sense};
use super::unit::Unit;
use super::{Abort, Outcome, ReserveOut, Slow, Status, inquiry, mode};

/// Why a command stops before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The volume says so.
    Io(IoError),
    /// The host is told why.
    Sense(Sense),
    /// Another command aborted it.
    Aborted,
}

impl From<IoError> for Stop {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl From<Sense> for Stop {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// One command under way.
pub(super) struct Run<'a> {
    pub(super) unit: &'a Unit,
    pub(super) nexus: &'a Nexus,
    epoch: u32,
    abort: &'a Abort,
    completions: Rc<Completions>,
}

/// Runs a command to its end.
///
/// # Errors
/// What the volume answers.
pub(super) async fn run(
    unit: &Unit,
    nexus: &Nexus,
    slow: &Slow,
    data_out: &Bytes,
) -> Result<Outcome, IoError> {
    let (epoch, abort, completions) = (slow.epoch, &slow.abort, Completions::new());
    let run = Run { unit, nexus, epoch, abort, completions };
    match run.command(slow, data_out).await {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Io(error)) => Err(error),
        Err(Stop::Sense(sense)) => Ok(Outcome::refused(sense).taking(u64::from(slow.data_out))),
        Err(Stop::Aborted) => Ok(Outcome::of(Status::TaskAborted)),
    }
}

impl Run<'_> {
    async fn command(&self, slow: &Slow, data: &Bytes) -> Result<Outcome, Stop> {
        if self.is_aborted() {
            return Err(Stop::Aborted);
        }
        let taken = u64::from(slow.data_out);
        match slow.command {
            Command::Read { at } => {
                let Some(extent) = self.extent(&at)? else { return Ok(Outcome::good()) };
                self.until_free(extent).await?;
                let data_in = self.read(extent).await?;
                let transfer = data_in.len() as u64;
                return Ok(Outcome { data_in, transfer, ..Outcome::good() });
            }
            Command::Write { at, fua } => self.write(&at, data, fua).await?,
            Command::WriteVerify { at, check } => {
                self.write(&at, data, true).await?;
                if let Some(extent) = part(self.extent(&at)?, data)
                    && check == Check::Each
                {
                    self.compare(None, (extent, 0), data).await?;
                }
            }
            Command::Verify { at, check } => self.verify(&at, check, data).await?,
            Command::WriteSame { at, unmap, no_data } => {
                self.write_same(&at, data, (unmap, no_data)).await?;
            }
            Command::Unmap { .. } => self.unmap(data).await?,
            Command::CompareAndWrite { at, fua } => self.compare_and_write(&at, data, fua).await?,
            Command::OrWrite { at, fua } => self.or_write(&at, data, fua).await?,
            Command::PreFetch { at, .. } => {
                if let Some(extent) = self.rest(&at)? {
                    self.op(Op::Cache(extent), false).await?;
                }
                return Ok(Outcome::of(Status::ConditionMet));
            }
            Command::Synchronize { immediate, .. } => self.flush(immediate).await?,
            Command::StartStop { condition, load_eject, start, no_flush, immediate } => {
                if condition != 0 {
                    return Err(sense::INVALID_FIELD.cdb(4).into());
                }
                if !start && !load_eject && !no_flush {
                    self.flush(immediate).await?;
                }
            }
            Command::ExtendedCopy { .. } => self.copy(data).await?,
            Command::PersistentOut { action, scope, kind, .. } => {
                let (who, list) = (self.nexus.registrant(), data.clone());
                let order = ReserveOut { who, action, scope, kind, list };
                return Ok(self.reserve(order).await?.taking(taken));
            }
            Command::LayoutOf { at, room } => return self.layout(&at, room),
            Command::ModeSelect { long, page_format, save, .. } => {
                self.select(data, long, (page_format, save)).await?;
            }
            _ => return Err(sense::INVALID_OPCODE.into()),
        }
        Ok(Outcome::good().taking(taken))
    }

    // === One step at the volume ===

    /// Whether it is to take no further step.
    fn is_aborted(&self) -> bool {
        self.abort.is_told() || self.nexus.epoch() != self.epoch
    }

    /// Waits while the volume has nothing of this command, so that one that is aborted ends at once.
    async fn unless_aborted<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        let mut wait = pin!(wait);
        poll_fn(|context| {
            if self.is_aborted() {
                return Poll::Ready(Err(Stop::Aborted));
            }
            wait.as_mut().poll(context).map(Ok)
        })
        .await
    }

    async fn until_free(&self, extent: Extent) -> Result<(), Stop> {
        self.unless_aborted(self.unit.until_free(extent)).await
    }

    async fn exclusively(&self, extent: Extent) -> Result<Hold, Stop> {
        self.unless_aborted(self.unit.exclusively(extent)).await
    }

    /// Hands one operation to the volume and waits for its answer. Nothing that must not be
    /// interrupted may run where it goes.
    pub(super) async fn op(&self, op: Op, fua: bool) -> Result<Answer, Stop> {
        self.op_of(None, op, fua).await
    }

    /// The same, as the one who holds what is concerned, if anybody does.
    async fn op_of(&self, hold: Option<&Hold>, op: Op, fua: bool) -> Result<Answer, Stop> {
        if self.is_aborted() {
            return Err(Stop::Aborted);
        }
        let volume = &*self.unit.volume.0;
        // With its cache off, a unit answers nothing that a loss of power could undo.
        let fua = fua || op.is_change() && !self.unit.modes.get().write_cache;
        let request = Request { op, fua, ticket: self.completions.ticket(0) };
        match hold {
            Some(hold) => hold.submit(volume, request),
            None => volume.submit(&mut vec![request]),
        }
        poll_fn(|context| self.completions.poll_ready(context)).await;
        let mut answers = Vec::with_capacity(1);
        self.completions.take(&mut answers);
        // One ticket was given out, and the queue said that its answer is here.
        let answer = answers.pop().map_or(Err(IoError::Dropped), |completion| completion.result);
        Ok(answer?)
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, Stop> {
        self.read_of(None, extent).await
    }

    async fn read_of(&self, hold: Option<&Hold>, extent: Extent) -> Result<Bytes, Stop> {
        let answer = self.op_of(hold, Op::Read(extent), false).await;
        match answer.map_err(unread)? {
            Answer::Read(segments) => Ok(joined(&segments)),
            Answer::Done => Err(Stop::Io(IoError::Dropped)),
        }
    }

    /// The bytes of these blocks, which were proven to exist when the command began; a volume never
    /// shrinks.
    fn extent(&self, at: &Blocks) -> Result<Option<Extent>, Stop> {
        Ok(self.unit.extent(at, u64::MAX)?)
    }

    /// The same, where no block means all that follow.
    fn rest(&self, at: &Blocks) -> Result<Option<Extent>, Stop> {
        let count = if at.count == 0 { self.unit.blocks() - at.lba } else { at.count };
        self.extent(&Blocks { count, ..*at })
    }

    async fn flush(&self, immediate: bool) -> Result<(), Stop> {
        if immediate {
            // It is answered before it is done, as the host wishes.
            let (op, ticket) = (Op::Flush, Ticket::ignored());
            self.unit.volume.0.submit(&mut vec![Request { op, fua: false, ticket }]);
        } else {
            self.op(Op::Flush, false).await?;
        }
        Ok(())
    }

    // === Commands ===

    async fn write(&self, at: &Blocks, data: &Bytes, fua: bool) -> Result<(), Stop> {
        if let Some(extent) = part(self.extent(at)?, data) {
            self.until_free(extent).await?;
            let data = data.slice(..len(extent));
            self.op(Op::Write(extent, data), fua).await?;
        }
        Ok(())
    }

    /// Compares what is stored with `data`, of the same length, which begins `from` bytes into all that
    /// the command compares: the host is told where in that they differ.
    async fn compare(
        &self,
        hold: Option<&Hold>,
        (extent, from): (Extent, u64),
        data: &Bytes,
    ) -> Result<(), Stop> {
        let stored = self.read_of(hold, extent).await?;
        match stored.iter().zip(data.iter()).position(|(stored, given)| stored != given) {
            Some(at) => Err(sense::MISCOMPARE.about(from + at as u64).into()),
            None => Ok(()),
        }
    }

    async fn verify(&self, at: &Blocks, check: Check, data: &Bytes) -> Result<(), Stop> {
        let Some(extent) = self.extent(at)? else { return Ok(()) };
        let mut rest = match check {
            Check::Readable | Check::Each => data.clone(),
            Check::Same => repeated(data, extent)?,
        };
        let whole = if check == Check::Each { part(Some(extent), data) } else { Some(extent) };
        for piece in whole.into_iter().flat_map(|extent| extent.pieces(CONTENT_BYTES_MAX)) {
            let (at, here) = ((piece, piece.offset() - extent.offset()), len(piece));
            match check {
                Check::Readable => drop(self.read(piece).await?),
                Check::Each => self.compare(None, at, &rest.split_to(here)).await?,
                Check::Same => self.compare(None, at, &rest.slice(..here)).await?,
            }
        }
        Ok(())
    }

    async fn write_same(
        &self,
        at: &Blocks,
        data: &Bytes,
        (unmap, no_data): (bool, bool),
    ) -> Result<(), Stop> {
        let Some(extent) = self.rest(at)? else { return Ok(()) };
        if no_data {
            return self.zero(extent, unmap).await;
        }
        let page = repeated(data, extent)?;
        if page.iter().all(|byte| *byte == 0) {
            return self.zero(extent, unmap).await;
        }
        for piece in extent.pieces(CONTENT_BYTES_MAX) {
            self.until_free(piece).await?;
            self.op(Op::Write(piece, page.slice(..len(piece))), false).await?;
        }
        Ok(())
    }

    /// Makes these bytes zero, and gives the blocks back if the host wishes.
    async fn zero(&self, extent: Extent, may_trim: bool) -> Result<(), Stop> {
        for extent in extent.pieces(PIECE_BYTES_MAX) {
            self.until_free(extent).await?;
            self.op(Op::Zero { extent, may_trim }, false).await?;
        }
        Ok(())
    }

    async fn unmap(&self, list: &Bytes) -> Result<(), Stop> {
        for at in super::unmap::ranges(list)? {
            // LBPRZ is promised, so edges that are no whole blocks become zero too.
            if let Some(extent) = self.unit.extent(&at, u64::MAX)? {
                self.zero(extent, true).await?;
            }
        }
        Ok(())
    }

    async fn compare_and_write(&self, at: &Blocks, data: &Bytes, fua: bool) -> Result<(), Stop> {
        let Some(extent) = self.extent(at)? else { return Ok(()) };
        if data.len() < 2 * len(extent) {
            return Err(sense::SHORT_DATA.into());
        }
        let hold = self.exclusively(extent).await?;
        self.compare(Some(&hold), (extent, 0), &data.slice(..len(extent))).await?;
        let new = data.slice(len(extent)..2 * len(extent));
        self.op_of(Some(&hold), Op::Write(extent, new), fua).await?;
        Ok(())
    }

    async fn or_write(&self, at: &Blocks, data: &Bytes, fua: bool) -> Result<(), Stop> {
        let Some(extent) = part(self.extent(at)?, data) else { return Ok(()) };
        let hold = self.exclusively(extent).await?;
        let stored = self.read_of(Some(&hold), extent).await?;
        let new: Vec<u8> = stored.iter().zip(data.iter()).map(|(old, or)| old | or).collect();
        self.op_of(Some(&hold), Op::Write(extent, new.into()), fua).await?;
        Ok(())
    }

    async fn copy(&self, list: &Bytes) -> Result<(), Stop> {
        let copy = copy::parse(list, &inquiry::naa(self.unit.volume_id))?;
        let mut ended = Ended { list: 0, segments: 0, bytes: 0, well: false };
        let mut result = Ok(());
        for (from, to) in &copy.segments {
            result = self.copy_segment(from, to, &mut ended.bytes).await;
            if result.is_err() {
                break;
            }
            ended.segments += 1;
        }
        if let Some(list) = copy.list {
            self.nexus.remember(Ended { list, well: result.is_ok(), ..ended });
        }
        result
    }

    async fn copy_segment(&self, from: &Blocks, to: &Blocks, bytes: &mut u64) -> Result<(), Stop> {
        let (Ok(from), Ok(to)) = (self.unit.extent(from, u64::MAX), self.unit.extent(to, u64::MAX))
        else {
            return Err(sense::COPY_ABORTED.into());
        };
        let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
        let mut at = to.offset();
        for piece in from.pieces(CONTENT_BYTES_MAX) {
            let data = self.read(piece).await?;
            // It ends where `to` does, whose length is the same.
            let Ok(there) = Extent::new(at, piece.len()) else { return Ok(()) };
            self.until_free(there).await?;
            self.op(Op::Write(there, data), false).await?;
            at = there.end();
            *bytes += piece.len();
        }
        Ok(())
    }

    /// Where this gateway has the volume it decides; elsewhere whoever has it is asked.
    async fn reserve(&self, order: ReserveOut) -> Result<Outcome, Stop> {
        let Some(sense) = self.unit.detour() else {
            return Ok(self.unit.reserve_out(order).await?);
        };
        let who = order.who.clone();
        let told = self.unit.keeper.elsewhere(order).await;
        // Whoever does not answer now may at another time, and the host has another way to it.
        let outcome = told.ok_or(Stop::Sense(sense))?;
        if self.unit.detour().is_some() && self.unit.reload_after(Some(&who)).is_err() {
            return Ok(Outcome::of(Status::Busy));
        }
        Ok(outcome)
    }

    fn layout(&self, at: &Blocks, room: u32) -> Result<Outcome, Stop> {
        let Some(extent) = self.rest(&Blocks { count: 0, ..*at })? else {
            return Err(sense::OUT_OF_RANGE.cdb(at.lba_at).into());
        };
        let limit = (room.saturating_sub(8) as usize / 16).clamp(1, STATUS_RUNS_MAX);
        let runs = self.unit.volume.0.layout(extent, limit)?;
        Ok(Outcome::data(super::unmap::status(extent, &runs), room))
    }

    async fn select(
        &self,
        list: &[u8],
        long: bool,
        (format, save): (bool, bool),
    ) -> Result<(), Stop> {
        if !format || save {
            return Err(sense::INVALID_FIELD.cdb(1).into());
        }
        let old = self.unit.modes.get();
        let modes = mode::select(list, long, (old, self.unit.settable()))?;
        if modes != old {
            // They hold before the cache is emptied: nothing gets into it behind that.
            self.unit.modes.set(modes);
            self.unit.guard();
            self.unit.tell_all(nexus::MODE_CHANGED, Some(self.nexus.id()));
            if modes.empties_cache(old) {
                self.flush(false).await?;
            }
        }
        Ok(())
    }
}

/// What is bad where it is read is told as a read that failed, also when its command would have written:
/// a host gives up blocks that it cannot write.
fn unread(stop: Stop) -> Stop {
    match stop {
        Stop::Io(IoError::Checksum | IoError::Media) => Stop::Sense(sense::READ_ERROR),
        Stop::Io(_) | Stop::Sense(_) | Stop::Aborted => stop,
    }
}

/// As much of an extent as there is data for, in whole blocks.
fn part(extent: Option<Extent>, data: &Bytes) -> Option<Extent> {
    let extent = extent?;
    let block = u64::from(BLOCK_BYTES);
    let len = extent.len().min(data.len() as u64 / block * block);
    Extent::new(extent.offset(), len).ok()
}

/// An extent that memory holds.
fn len(extent: Extent) -> usize {
    usize::try_from(extent.len()).unwrap_or(usize::MAX)
}

/// One block of data-out, as often as it fits what is written or compared at once.
fn repeated(data: &Bytes, extent: Extent) -> Result<Bytes, Sense> {
    let block = data.get(..BLOCK_BYTES as usize).ok_or(sense::SHORT_DATA)?;
    let most = extent.len().min(CONTENT_BYTES_MAX) / u64::from(BLOCK_BYTES);
    Ok(block.repeat(usize::try_from(most).unwrap_or(0)).into())
}
