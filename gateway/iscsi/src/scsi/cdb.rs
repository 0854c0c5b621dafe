//! Command descriptor blocks, and the commands that they are.
//!
//! Invariant: decoding reads nothing but the CDB, never panics, and refuses what asks for
//! protection information, which no volume has.

use super::sense::{self, Sense};

/// A CDB of up to 16 bytes, filled up with zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cdb([u8; 16]);

impl Cdb {
    /// The first 16 bytes of what came.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut all = [0; 16];
        for (to, from) in all.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(all)
    }

    pub(crate) const fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// The service action, where its opcode has them.
    pub(crate) const fn action(&self) -> u8 {
        self.0[1] & 0x1f
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn bit(&self, at: usize, bit: u8) -> bool {
        self.byte(at) >> bit & 1 == 1
    }

    /// A big-endian number of `len` bytes.
    fn number(&self, at: usize, len: usize) -> u64 {
        (at..at + len).fold(0, |sum, at| sum << 8 | u64::from(self.byte(at)))
    }

    fn short(&self, at: usize) -> u32 {
        u32::from(u16::from_be_bytes([self.byte(at), self.byte(at + 1)]))
    }

    fn long(&self, at: usize) -> u32 {
        self.short(at) << 16 | self.short(at + 2)
    }

    /// The three bits of byte 1 that ask for protection information.
    fn unprotected(&self) -> Result<(), Sense> {
        if self.byte(1) >> 5 == 0 { Ok(()) } else { Err(sense::INVALID_FIELD.cdb(1)) }
    }

    /// The blocks of a CDB of 10 bytes.
    fn blocks_10(&self) -> Blocks {
        Blocks { lba: self.number(2, 4), count: self.number(7, 2), lba_at: 2 }
    }

    fn blocks_12(&self) -> Blocks {
        Blocks { lba: self.number(2, 4), count: self.number(6, 4), lba_at: 2 }
    }

    fn blocks_16(&self) -> Blocks {
        Blocks { lba: self.number(2, 8), count: self.number(10, 4), lba_at: 2 }
    }
}

/// Logical blocks that a command names; not yet proven to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) lba: u64,
    pub(crate) count: u64,
    /// The byte of the CDB where the address stands.
    pub(crate) lba_at: u16,
}

/// How a VERIFY compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Only that the blocks can be read.
    Readable,
    /// With as many blocks of data-out.
    Each,
    /// Every one with the same block of data-out.
    Same,
}

/// What a host asks. Each has what it needs from its CDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Read { at: Blocks },
    Write { at: Blocks, fua: bool },
    WriteAtomic { at: Blocks, fua: bool },
    TestUnitReady,
    RequestSense { descriptors: bool, room: u32 },
    Inquiry { page: Option<u8>, room: u32 },
    ModeSense(ModeSense),
    ModeSelect { long: bool, page_format: bool, save: bool, len: u32 },
    ReadCapacity10,
    ReadCapacity16 { room: u32 },
    ReportLuns { select: u8, room: u32 },
    ReportOpcodes { timeouts: bool, options: u8, opcode: u8, action: u16, room: u32 },
    ReportTaskManagement { extended: bool, room: u32 },
    ReportPortGroups { extended: bool, room: u32 },
    ReadDefects { long: bool, lists: u8, room: u32 },
    StartStop { condition: u8, load_eject: bool, start: bool, no_flush: bool, immediate: bool },
    Reserve { third_party: bool },
    Release { third_party: bool },
    PersistentIn { action: u8, room: u32 },
    PersistentOut { action: u8, scope: u8, kind: u8, len: u32 },
    Verify { at: Blocks, check: Check },
    WriteVerify { at: Blocks, check: Check },
    WriteSame { at: Blocks, unmap: bool, no_data: bool },
    Unmap { len: u32 },
    LayoutOf { at: Blocks, room: u32 },
    CompareAndWrite { at: Blocks, fua: bool },
    OrWrite { at: Blocks, fua: bool },
    PreFetch { at: Blocks, immediate: bool },
    Synchronize { at: Blocks, immediate: bool },
    ExtendedCopy { len: u32 },
    CopyStatus { list: u8, room: u32 },
    CopyParameters { room: u32 },
}

/// What MODE SENSE asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeSense {
    pub(crate) long: bool,
    pub(crate) no_descriptors: bool,
    pub(crate) long_addresses: bool,
    /// 0 current, 1 changeable, 2 default, 3 saved.
    pub(crate) control: u8,
    pub(crate) page: u8,
    pub(crate) subpage: u8,
    pub(crate) room: u32,
}

/// Makes a command of a CDB whose opcode and service action are known.
pub(crate) type Parse = fn(&Cdb) -> Result<Command, Sense>;

const fn is_fua(byte: u8) -> bool {
    byte & 0x08 != 0
}

/// The blocks of a CDB of 6 bytes: 21 bits of address, and 0 means 256.
fn blocks_6(cdb: &Cdb) -> Blocks {
    let count = cdb.number(4, 1);
    let lba = cdb.number(1, 3) & 0x1f_ffff;
    Blocks { lba, count: if count == 0 { 256 } else { count }, lba_at: 1 }
}

pub(super) fn read_6(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::Read { at: blocks_6(cdb) })
}

pub(super) fn write_6(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::Write { at: blocks_6(cdb), fua: false })
}

// A volume's reads are never of a cache that its stable storage does not know of, so FUA asks
// nothing of a read.
macro_rules! sized {
    ($($read:ident $write:ident $verify:ident $write_verify:ident $blocks:ident;)*) => {$(
        pub(super) fn $read(cdb: &Cdb) -> Result<Command, Sense> {
            cdb.unprotected()?;
            Ok(Command::Read { at: cdb.$blocks() })
        }

        pub(super) fn $write(cdb: &Cdb) -> Result<Command, Sense> {
            cdb.unprotected()?;
            Ok(Command::Write { at: cdb.$blocks(), fua: is_fua(cdb.byte(1)) })
        }

        pub(super) fn $verify(cdb: &Cdb) -> Result<Command, Sense> {
            cdb.unprotected()?;
            let check = match cdb.byte(1) >> 1 & 3 {
                0 => Check::Readable,
                1 => Check::Each,
                3 => Check::Same,
                _ => return Err(sense::INVALID_FIELD.cdb(1)),
            };
            Ok(Command::Verify { at: cdb.$blocks(), check })
        }

        pub(super) fn $write_verify(cdb: &Cdb) -> Result<Command, Sense> {
            cdb.unprotected()?;
            let check = match cdb.byte(1) >> 1 & 3 {
                0 => Check::Readable,
                1 => Check::Each,
                _ => return Err(sense::INVALID_FIELD.cdb(1)),
            };
            Ok(Command::WriteVerify { at: cdb.$blocks(), check })
        }
    )*};
}

sized! {
    read_10 write_10 verify_10 write_verify_10 blocks_10;
    read_12 write_12 verify_12 write_verify_12 blocks_12;
    read_16 write_16 verify_16 write_verify_16 blocks_16;
}

pub(super) fn test_unit_ready(_: &Cdb) -> Result<Command, Sense> {
    Ok(Command::TestUnitReady)
}

pub(super) fn request_sense(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::RequestSense { descriptors: cdb.bit(1, 0), room: cdb.byte(4).into() })
}

pub(super) fn inquiry(cdb: &Cdb) -> Result<Command, Sense> {
    let (vital, page) = (cdb.bit(1, 0), cdb.byte(2));
    // A page code without EVPD means nothing, and CMDDT is gone since SPC-3.
    if cdb.bit(1, 1) {
        return Err(sense::INVALID_FIELD.cdb(1));
    }
    if !vital && page != 0 {
        return Err(sense::INVALID_FIELD.cdb(2));
    }
    Ok(Command::Inquiry { page: vital.then_some(page), room: cdb.short(3) })
}

fn mode_sense(cdb: &Cdb, long: bool) -> Result<Command, Sense> {
    Ok(Command::ModeSense(ModeSense {
        long,
        no_descriptors: cdb.bit(1, 3),
        long_addresses: long && cdb.bit(1, 4),
        control: cdb.byte(2) >> 6,
        page: cdb.byte(2) & 0x3f,
        subpage: cdb.byte(3),
        room: if long { cdb.short(7) } else { cdb.byte(4).into() },
    }))
}

pub(super) fn mode_sense_6(cdb: &Cdb) -> Result<Command, Sense> {
    mode_sense(cdb, false)
}

pub(super) fn mode_sense_10(cdb: &Cdb) -> Result<Command, Sense> {
    mode_sense(cdb, true)
}

fn mode_select(cdb: &Cdb, long: bool) -> Result<Command, Sense> {
    let len = if long { cdb.short(7) } else { cdb.byte(4).into() };
    Ok(Command::ModeSelect { long, page_format: cdb.bit(1, 4), save: cdb.bit(1, 0), len })
}

pub(super) fn mode_select_6(cdb: &Cdb) -> Result<Command, Sense> {
    mode_select(cdb, false)
}

pub(super) fn mode_select_10(cdb: &Cdb) -> Result<Command, Sense> {
    mode_select(cdb, true)
}

pub(super) fn read_capacity_10(cdb: &Cdb) -> Result<Command, Sense> {
    // Only with PMI, which is gone, has an address a meaning.
    if cdb.bit(8, 0) {
        return Err(sense::INVALID_FIELD.cdb(8));
    }
    if cdb.long(2) != 0 {
        return Err(sense::INVALID_FIELD.cdb(2));
    }
    Ok(Command::ReadCapacity10)
}

pub(super) fn read_capacity_16(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb.bit(14, 0) {
        return Err(sense::INVALID_FIELD.cdb(14));
    }
    if cdb.number(2, 8) != 0 {
        return Err(sense::INVALID_FIELD.cdb(2));
    }
    Ok(Command::ReadCapacity16 { room: cdb.long(10) })
}

pub(super) fn report_luns(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ReportLuns { select: cdb.byte(2), room: cdb.long(6) })
}

pub(super) fn report_opcodes(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ReportOpcodes {
        timeouts: cdb.bit(2, 7),
        options: cdb.byte(2) & 7,
        opcode: cdb.byte(3),
        action: u16::from_be_bytes([cdb.byte(4), cdb.byte(5)]),
        room: cdb.long(6),
    })
}

pub(super) fn report_task_management(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ReportTaskManagement { extended: cdb.bit(2, 7), room: cdb.long(6) })
}

pub(super) fn report_port_groups(cdb: &Cdb) -> Result<Command, Sense> {
    let extended = match cdb.byte(1) >> 5 {
        0 => false,
        1 => true,
        _ => return Err(sense::INVALID_FIELD.cdb(1)),
    };
    Ok(Command::ReportPortGroups { extended, room: cdb.long(6) })
}

pub(super) fn read_defects_10(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ReadDefects { long: false, lists: cdb.byte(2) & 0x1f, room: cdb.short(7) })
}

pub(super) fn read_defects_12(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ReadDefects { long: true, lists: cdb.byte(1) & 0x1f, room: cdb.long(6) })
}

pub(super) fn start_stop(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::StartStop {
        condition: cdb.byte(4) >> 4,
        no_flush: cdb.bit(4, 2),
        load_eject: cdb.bit(4, 1),
        start: cdb.bit(4, 0),
        immediate: cdb.bit(1, 0),
    })
}

pub(super) fn reserve(cdb: &Cdb) -> Result<Command, Sense> {
    // Extents and third parties are gone since SPC-2.
    Ok(Command::Reserve { third_party: cdb.byte(1) & 0x13 != 0 })
}

pub(super) fn release(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::Release { third_party: cdb.byte(1) & 0x13 != 0 })
}

pub(super) fn persistent_in(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::PersistentIn { action: cdb.action(), room: cdb.short(7) })
}

pub(super) fn persistent_out(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::PersistentOut {
        action: cdb.action(),
        scope: cdb.byte(2) >> 4,
        kind: cdb.byte(2) & 0xf,
        len: cdb.long(5),
    })
}

fn write_same(cdb: &Cdb, at: Blocks, no_data: bool) -> Result<Command, Sense> {
    cdb.unprotected()?;
    // Nothing can be anchored, and the block is written as it came.
    if cdb.byte(1) & 0x16 != 0 {
        return Err(sense::INVALID_FIELD.cdb(1));
    }
    Ok(Command::WriteSame { at, unmap: cdb.bit(1, 3), no_data })
}

pub(super) fn write_same_10(cdb: &Cdb) -> Result<Command, Sense> {
    write_same(cdb, cdb.blocks_10(), false)
}

pub(super) fn write_same_16(cdb: &Cdb) -> Result<Command, Sense> {
    write_same(cdb, cdb.blocks_16(), cdb.bit(1, 0))
}

pub(super) fn unmap(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb.bit(1, 0) {
        return Err(sense::INVALID_FIELD.cdb(1));
    }
    Ok(Command::Unmap { len: cdb.short(7) })
}

pub(super) fn layout_of(cdb: &Cdb) -> Result<Command, Sense> {
    let at = Blocks { lba: cdb.number(2, 8), count: 1, lba_at: 2 };
    Ok(Command::LayoutOf { at, room: cdb.long(10) })
}

pub(super) fn compare_and_write(cdb: &Cdb) -> Result<Command, Sense> {
    cdb.unprotected()?;
    let at = Blocks { lba: cdb.number(2, 8), count: cdb.byte(13).into(), lba_at: 2 };
    Ok(Command::CompareAndWrite { at, fua: is_fua(cdb.byte(1)) })
}

pub(super) fn write_atomic(cdb: &Cdb) -> Result<Command, Sense> {
    cdb.unprotected()?;
    // A boundary would cut it into pieces, of which none can be.
    if cdb.short(10) != 0 {
        return Err(sense::INVALID_FIELD.cdb(10));
    }
    let at = Blocks { lba: cdb.number(2, 8), count: cdb.number(12, 2), lba_at: 2 };
    Ok(Command::WriteAtomic { at, fua: is_fua(cdb.byte(1)) })
}

pub(super) fn or_write(cdb: &Cdb) -> Result<Command, Sense> {
    cdb.unprotected()?;
    Ok(Command::OrWrite { at: cdb.blocks_16(), fua: is_fua(cdb.byte(1)) })
}

pub(super) fn pre_fetch_10(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::PreFetch { at: cdb.blocks_10(), immediate: cdb.bit(1, 1) })
}

pub(super) fn pre_fetch_16(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::PreFetch { at: cdb.blocks_16(), immediate: cdb.bit(1, 1) })
}

pub(super) fn synchronize_10(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::Synchronize { at: cdb.blocks_10(), immediate: cdb.bit(1, 1) })
}

pub(super) fn synchronize_16(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::Synchronize { at: cdb.blocks_16(), immediate: cdb.bit(1, 1) })
}

pub(super) fn extended_copy(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::ExtendedCopy { len: cdb.long(10) })
}

pub(super) fn copy_status(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::CopyStatus { list: cdb.byte(2), room: cdb.long(10) })
}

pub(super) fn copy_parameters(cdb: &Cdb) -> Result<Command, Sense> {
    Ok(Command::CopyParameters { room: cdb.long(10) })
}
