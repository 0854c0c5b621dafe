//! What a command needs before it can be answered, once nothing forbids it.
//!
//! Invariant: what is planned lies inside the volume, and moves no more than is offered.

use block::Extent;

use super::super::cdb::{Blocks, Check, Command};
use super::super::limits::{BLOCK_BYTES, PARAMETERS_MAX, SAME_BLOCKS_MAX, TRANSFER_BYTES_MAX};
use super::super::sense::{self, Form, Sense};
use super::super::{
    Abort, Nexus, Outcome, Plan, Slow, Status, copy, inquiry, limits, mode, report, reserve,
};
use super::Unit;

impl Unit {
    /// What `command` needs before it can be answered.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn plan(&self, nexus: &Nexus, command: Command) -> Result<Plan, Sense> {
        let slow = |data_out: u64, change: bool| {
            let data_out = u32::try_from(data_out).unwrap_or(u32::MAX);
            let (epoch, abort) = (nexus.epoch(), Abort::default());
            Ok(Plan::Slow(Slow { data_out, change, command, epoch, abort }))
        };
        let content = |at: &Blocks, times: u64| at.count * u64::from(BLOCK_BYTES) * times;
        match command {
            Command::Read { at } => match self.extent(&at, transfer_blocks_max())? {
                Some(extent) => Ok(Plan::Read(extent)),
                None => Ok(Plan::Answer(Outcome::good())),
            },
            Command::Write { at, fua } => self.plan_write(nexus, (&at, fua), transfer_blocks_max()),
            Command::WriteAtomic { at, fua } => {
                self.plan_write(nexus, (&at, fua), limits::ATOMIC_BLOCKS_MAX.into())
            }
            Command::Verify { at, check } => {
                self.extent(&at, SAME_BLOCKS_MAX)?;
                match check {
                    Check::Readable => slow(0, false),
                    Check::Each => {
                        self.extent(&at, transfer_blocks_max())?;
                        slow(content(&at, 1), false)
                    }
                    Check::Same => slow(BLOCK_BYTES.into(), false),
                }
            }
            Command::WriteVerify { at, .. } | Command::OrWrite { at, .. } => {
                self.writable(nexus, &at, transfer_blocks_max())?;
                slow(content(&at, 1), true)
            }
            Command::CompareAndWrite { at, .. } => {
                self.writable(nexus, &at, transfer_blocks_max())?;
                slow(content(&at, 2), true)
            }
            Command::WriteSame { at, no_data, .. } => {
                self.writable(nexus, &at, SAME_BLOCKS_MAX)?;
                if at.count == 0 && self.blocks() - at.lba > SAME_BLOCKS_MAX {
                    return Err(sense::INVALID_FIELD);
                }
                slow(if no_data { 0 } else { BLOCK_BYTES.into() }, true)
            }
            Command::PreFetch { at, .. } | Command::LayoutOf { at, .. } => {
                self.extent(&at, u64::MAX)?;
                slow(0, false)
            }
            Command::Synchronize { at, .. } => {
                self.extent(&at, u64::MAX)?;
                slow(0, true)
            }
            Command::Unmap { len } => {
                self.changeable(nexus)?;
                slow(len.into(), true)
            }
            Command::ModeSelect { len, .. } => slow(len.into(), true),
            Command::PersistentOut { len, .. } | Command::ExtendedCopy { len } => {
                let is_copy = matches!(command, Command::ExtendedCopy { .. });
                if is_copy {
                    self.changeable(nexus)?;
                }
                if len > PARAMETERS_MAX {
                    return Err(sense::LIST_LENGTH);
                }
                slow(len.into(), is_copy)
            }
            Command::StartStop { .. } => slow(0, true),
            _ => self.known(nexus, command).map(Plan::Answer),
        }
    }

    fn plan_write(
        &self,
        nexus: &Nexus,
        (at, fua): (&Blocks, bool),
        max: u64,
    ) -> Result<Plan, Sense> {
        let fua = fua || !self.modes.get().write_cache;
        let extent = self.writable(nexus, at, max)?;
        Ok(extent.map_or(Plan::Answer(Outcome::good()), |extent| Plan::Write { extent, fua }))
    }

    /// The answer to a command that needs no I/O.
    fn known(&self, nexus: &Nexus, command: Command) -> Result<Outcome, Sense> {
        let blocks = self.blocks();
        Ok(match command {
            Command::Inquiry { page: None, room } => Outcome::data(inquiry::standard(), room),
            Command::Inquiry { page: Some(page), room } => {
                let port = inquiry::Port {
                    volume: self.volume_id,
                    target: &self.target.borrow(),
                    group: self.settings.borrow().group,
                    port: nexus.target_port(),
                };
                Outcome::data(inquiry::page(page, &port)?, room)
            }
            Command::RequestSense { descriptors, room } => {
                let sense = nexus.take_attention().unwrap_or(sense::NONE);
                let form = if descriptors { Form::Descriptors } else { Form::Fixed };
                Outcome::data(sense.encode(form).to_vec(), room)
            }
            Command::ModeSense(ask) => {
                let modes = (self.modes.get(), self.settable());
                let state = (blocks, self.is_protected(nexus));
                Outcome::data(mode::sense_data(&ask, modes, state)?, ask.room)
            }
            Command::ReadCapacity10 => Outcome::data(report::capacity_10(blocks), 8),
            Command::ReadCapacity16 { room } => Outcome::data(report::capacity_16(blocks), room),
            Command::ReportLuns { select, room } => report::luns(&nexus.units(), select, room)?,
            Command::ReportOpcodes { timeouts, options, opcode, action, room } => {
                Outcome::data(report::opcodes(options, timeouts, (opcode, action))?, room)
            }
            Command::ReportTaskManagement { extended, room } => {
                Outcome::data(report::task_management(extended), room)
            }
            Command::ReportPortGroups { extended, room } => {
                Outcome::data(report::port_groups(&self.settings.borrow(), extended), room)
            }
            Command::ReadDefects { long, lists, room } => {
                Outcome::data(report::defects(long, lists), room)
            }
            Command::TestUnitReady => Outcome::good(),
            Command::Reserve { third_party } => self.reserve(nexus, third_party)?,
            Command::Release { third_party } => self.release(nexus, third_party)?,
            Command::CopyParameters { room } => Outcome::data(copy::parameters(), room),
            Command::CopyStatus { list, room } => {
                let ended = nexus.copy(list).ok_or(sense::INVALID_FIELD.cdb(2))?;
                Outcome::data(copy::status(&ended), room)
            }
            Command::PersistentIn { action, room } => {
                // Here they are what the gateway that has the volume told last.
                if self.detour().is_some() && self.reload().is_err() {
                    return Ok(Outcome::of(Status::Busy));
                }
                Outcome::data(reserve::read(&self.reservations.borrow(), action)?, room)
            }
            _ => return Err(sense::INVALID_OPCODE),
        })
    }

    // === Ranges ===

    /// How many logical blocks there are.
    pub(in crate::scsi) fn blocks(&self) -> u64 {
        self.bytes.get() / u64::from(BLOCK_BYTES)
    }

    /// The bytes of these blocks; `None` for no block.
    ///
    /// # Errors
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE; INVALID FIELD IN CDB for more than `max` at once.
    pub(in crate::scsi) fn extent(&self, at: &Blocks, max: u64) -> Result<Option<Extent>, Sense> {
        let blocks = self.blocks();
        if at.lba > blocks || at.count > blocks - at.lba {
            return Err(sense::OUT_OF_RANGE.cdb(at.lba_at));
        }
        if at.count > max {
            return Err(sense::INVALID_FIELD);
        }
        let block = u64::from(BLOCK_BYTES);
        Ok(Extent::new(at.lba * block, at.count * block).ok())
    }

    /// As [`Self::extent`], where it may be written.
    fn writable(&self, nexus: &Nexus, at: &Blocks, max: u64) -> Result<Option<Extent>, Sense> {
        self.changeable(nexus)?;
        self.extent(at, max)
    }

    fn changeable(&self, nexus: &Nexus) -> Result<(), Sense> {
        if self.is_protected(nexus) { Err(sense::WRITE_PROTECTED) } else { Ok(()) }
    }
}

/// Blocks of one transfer.
const fn transfer_blocks_max() -> u64 {
    TRANSFER_BYTES_MAX / BLOCK_BYTES as u64
}
