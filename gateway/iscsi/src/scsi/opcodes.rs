//! The one table of commands: which there are, how each is read, who may send it beside a
//! reservation, and which bits of its CDB mean something.
//!
//! Invariant: a command that is not here is refused, and one that is here is reported by REPORT
//! SUPPORTED OPERATION CODES with the bits that it heeds.

use super::cdb::{self, Cdb, Command, Parse};
use super::sense::{self, Sense};

/// What a command does, as reservations see it (SPC-4 table 66, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Neither reads nor changes anything that a reservation protects.
    None,
    /// Reads the medium, or what belongs to it.
    Read,
    /// Changes the medium, or what belongs to it.
    Write,
    /// Is about reservations itself, and has rules of its own.
    Reservation,
}

/// Who may send a command while another nexus holds the unit with RESERVE (SPC-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Anybody.
    Anybody,
    /// The holder alone.
    Holder,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) action: Option<u8>,
    pub(crate) access: Access,
    pub(crate) beside: Beside,
    /// Whether a unit attention that waits is told instead of doing it.
    pub(crate) attentive: bool,
    /// Whether a port answers it that carries no I/O (SPC-4 §5.15.2.4.4 and .5): what says which disk
    /// it is, how large, and where to go instead.
    pub(crate) aside: bool,
    /// The opcode, and the bits of each further byte that are heeded.
    pub(crate) usage: &'static [u8],
    pub(crate) parse: Parse,
}

const fn row(opcode: u8, access: Access, usage: &'static [u8], parse: Parse) -> Entry {
    let (action, beside) = (None, Beside::Holder);
    Entry { opcode, action, access, beside, attentive: true, aside: false, usage, parse }
}

const fn with(opcode: u8, action: u8, access: Access, usage: &'static [u8], parse: Parse) -> Entry {
    let (action, beside) = (Some(action), Beside::Holder);
    Entry { opcode, action, access, beside, attentive: true, aside: false, usage, parse }
}

impl Entry {
    const fn anybody(self) -> Self {
        Self { beside: Beside::Anybody, ..self }
    }

    const fn inattentive(self) -> Self {
        Self { attentive: false, ..self }
    }

    const fn aside(self) -> Self {
        Self { aside: true, ..self }
    }
}

use Access::{None as Free, Read, Reservation, Write};

/// Every command, those of one opcode beside each other.
pub(crate) static TABLE: &[Entry] = &[
    row(0x00, Free, &[0x00, 0, 0, 0, 0, 0], cdb::test_unit_ready),
    row(0x03, Free, &[0x03, 0x01, 0, 0, 0xff, 0], cdb::request_sense)
        .anybody()
        .inattentive()
        .aside(),
    row(0x08, Read, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], cdb::read_6),
    row(0x0a, Write, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], cdb::write_6),
    row(0x12, Free, &[0x12, 0x01, 0xff, 0xff, 0xff, 0], cdb::inquiry)
        .anybody()
        .inattentive()
        .aside(),
    row(0x15, Write, &[0x15, 0x11, 0, 0, 0xff, 0], cdb::mode_select_6).aside(),
    row(0x16, Reservation, &[0x16, 0x13, 0, 0, 0, 0], cdb::reserve).anybody(),
    row(0x17, Reservation, &[0x17, 0x13, 0, 0, 0, 0], cdb::release).anybody(),
    row(0x1a, Read, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], cdb::mode_sense_6).aside(),
    row(0x1b, Write, &[0x1b, 0x01, 0, 0, 0xf7, 0], cdb::start_stop),
    row(0x25, Free, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], cdb::read_capacity_10).aside(),
    row(0x28, Read, &[0x28, 0x18, 255, 255, 255, 255, 0, 255, 255, 0], cdb::read_10),
    row(0x2a, Write, &[0x2a, 0x18, 255, 255, 255, 255, 0, 255, 255, 0], cdb::write_10),
    row(0x2e, Write, &[0x2e, 0x12, 255, 255, 255, 255, 0, 255, 255, 0], cdb::write_verify_10),
    row(0x2f, Read, &[0x2f, 0x16, 255, 255, 255, 255, 0, 255, 255, 0], cdb::verify_10),
    row(0x34, Read, &[0x34, 0x02, 255, 255, 255, 255, 0, 255, 255, 0], cdb::pre_fetch_10),
    row(0x35, Write, &[0x35, 0x02, 255, 255, 255, 255, 0, 255, 255, 0], cdb::synchronize_10),
    row(0x37, Read, &[0x37, 0, 0x1f, 0, 0, 0, 0, 255, 255, 0], cdb::read_defects_10),
    row(0x41, Write, &[0x41, 0x08, 255, 255, 255, 255, 0, 255, 255, 0], cdb::write_same_10),
    row(0x42, Write, &[0x42, 0, 0, 0, 0, 0, 0, 255, 255, 0], cdb::unmap),
    row(0x55, Write, &[0x55, 0x11, 0, 0, 0, 0, 0, 255, 255, 0], cdb::mode_select_10).aside(),
    row(0x56, Reservation, &[0x56, 0x13, 0, 0, 0, 0, 0, 0, 0, 0], cdb::reserve).anybody(),
    row(0x57, Reservation, &[0x57, 0x13, 0, 0, 0, 0, 0, 0, 0, 0], cdb::release).anybody(),
    row(0x5a, Read, &[0x5a, 0x18, 255, 255, 0, 0, 0, 255, 255, 0], cdb::mode_sense_10).aside(),
    with(0x5e, 0, Reservation, &PERSISTENT_IN[0], cdb::persistent_in).aside(),
    with(0x5e, 1, Reservation, &PERSISTENT_IN[1], cdb::persistent_in).aside(),
    with(0x5e, 2, Reservation, &PERSISTENT_IN[2], cdb::persistent_in).aside(),
    with(0x5e, 3, Reservation, &PERSISTENT_IN[3], cdb::persistent_in).aside(),
    with(0x5f, 0, Reservation, &PERSISTENT_OUT[0], cdb::persistent_out).aside(),
    with(0x5f, 1, Reservation, &PERSISTENT_OUT[1], cdb::persistent_out).aside(),
    with(0x5f, 2, Reservation, &PERSISTENT_OUT[2], cdb::persistent_out).aside(),
    with(0x5f, 3, Reservation, &PERSISTENT_OUT[3], cdb::persistent_out).aside(),
    with(0x5f, 4, Reservation, &PERSISTENT_OUT[4], cdb::persistent_out).aside(),
    with(0x5f, 5, Reservation, &PERSISTENT_OUT[5], cdb::persistent_out).aside(),
    with(0x5f, 6, Reservation, &PERSISTENT_OUT[6], cdb::persistent_out).aside(),
    with(0x5f, 7, Reservation, &PERSISTENT_OUT[7], cdb::persistent_out).aside(),
    with(0x83, 0x00, Write, &long_16(0x83, 0x00), cdb::extended_copy),
    with(0x84, 0x00, Free, &copy_16(0x00, 0xff), cdb::copy_status),
    with(0x84, 0x03, Free, &copy_16(0x03, 0x00), cdb::copy_parameters).aside(),
    row(0x88, Read, &blocks_16(0x88, 0x18), cdb::read_16),
    row(0x89, Write, &COMPARE_AND_WRITE, cdb::compare_and_write),
    row(0x8a, Write, &blocks_16(0x8a, 0x18), cdb::write_16),
    row(0x8b, Write, &blocks_16(0x8b, 0x18), cdb::or_write),
    row(0x8e, Write, &blocks_16(0x8e, 0x12), cdb::write_verify_16),
    row(0x8f, Read, &blocks_16(0x8f, 0x16), cdb::verify_16),
    row(0x90, Read, &blocks_16(0x90, 0x02), cdb::pre_fetch_16),
    row(0x91, Write, &blocks_16(0x91, 0x02), cdb::synchronize_16),
    row(0x93, Write, &blocks_16(0x93, 0x09), cdb::write_same_16),
    row(0x9c, Write, &blocks_16(0x9c, 0x18), cdb::write_atomic),
    with(0x9e, 0x10, Free, &long_16(0x9e, 0x10), cdb::read_capacity_16).aside(),
    with(0x9e, 0x12, Read, &blocks_16(0x9e, 0x12), cdb::layout_of),
    row(0xa0, Free, &long_12(0xa0, 0, 0xff, 0), cdb::report_luns).anybody().inattentive().aside(),
    with(0xa3, 0x0a, Free, &long_12(0xa3, 0x2a, 0, 0), cdb::report_port_groups).aside(),
    with(0xa3, 0x0c, Read, &long_12(0xa3, 0x0c, 0x87, 0xff), cdb::report_opcodes).aside(),
    with(0xa3, 0x0d, Read, &long_12(0xa3, 0x0d, 0x80, 0), cdb::report_task_management).aside(),
    row(0xa8, Read, &blocks_12(0xa8, 0x18), cdb::read_12),
    row(0xaa, Write, &blocks_12(0xaa, 0x18), cdb::write_12),
    row(0xae, Write, &blocks_12(0xae, 0x12), cdb::write_verify_12),
    row(0xaf, Read, &blocks_12(0xaf, 0x16), cdb::verify_12),
    row(0xb7, Read, &long_12(0xb7, 0x1f, 0, 0), cdb::read_defects_12),
];

static PERSISTENT_IN: [[u8; 10]; 4] = {
    let mut all = [[0x5e, 0, 0, 0, 0, 0, 0, 255, 255, 0]; 4];
    let mut action = 0;
    while action < 4 {
        all[action as usize][1] = action;
        action += 1;
    }
    all
};

static PERSISTENT_OUT: [[u8; 10]; 8] = {
    let mut all = [[0x5f, 0, 255, 0, 0, 255, 255, 255, 255, 0]; 8];
    let mut action = 0;
    while action < 8 {
        all[action as usize][1] = action;
        action += 1;
    }
    all
};

static COMPARE_AND_WRITE: [u8; 16] =
    [0x89, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0];

const fn blocks_16(opcode: u8, flags: u8) -> [u8; 16] {
    [opcode, flags, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]
}

const fn long_16(opcode: u8, action: u8) -> [u8; 16] {
    [opcode, action, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0]
}

const fn copy_16(action: u8, list: u8) -> [u8; 16] {
    [0x84, action, list, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0]
}

const fn blocks_12(opcode: u8, flags: u8) -> [u8; 12] {
    [opcode, flags, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]
}

const fn long_12(opcode: u8, one: u8, two: u8, three: u8) -> [u8; 12] {
    [opcode, one, two, three, three, three, 255, 255, 255, 255, 0, 0]
}

const NONE: u8 = u8::MAX;

/// Where the commands of each opcode begin in the table.
static FIRST: [u8; 256] = {
    assert!(TABLE.len() < NONE as usize);
    let mut first = [NONE; 256];
    let mut at = 0;
    let mut index = 0;
    while at < TABLE.len() {
        let opcode = TABLE[at].opcode as usize;
        if first[opcode] == NONE {
            first[opcode] = index;
        }
        at += 1;
        index += 1;
    }
    first
};

/// Every command of this opcode.
pub(crate) fn of_opcode(opcode: u8) -> impl Iterator<Item = &'static Entry> {
    let first = usize::from(FIRST[usize::from(opcode)]);
    TABLE.get(first..).unwrap_or_default().iter().take_while(move |entry| entry.opcode == opcode)
}

/// The command of this CDB.
///
/// # Errors
/// INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB for an unknown service action.
pub(crate) fn find(cdb: &Cdb) -> Result<&'static Entry, Sense> {
    let mut refusal = sense::INVALID_OPCODE;
    for entry in of_opcode(cdb.opcode()) {
        match entry.action {
            None => return Ok(entry),
            Some(action) if action == cdb.action() => return Ok(entry),
            Some(_) => refusal = sense::INVALID_FIELD.cdb(1),
        }
    }
    Err(refusal)
}

/// The command of this CDB, with its row.
///
/// # Errors
/// As [`find`], and INVALID FIELD IN CDB for what the command does not offer.
pub(crate) fn decode(cdb: &Cdb) -> Result<(&'static Entry, Command), Sense> {
    let entry = find(cdb)?;
    Ok((entry, (entry.parse)(cdb)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_of_one_opcode_stand_beside_each_other_and_are_found() {
        for entry in TABLE {
            let mut bytes = [0; 16];
            bytes[0] = entry.opcode;
            bytes[1] = entry.action.unwrap_or(0);
            let found = find(&Cdb::of(&bytes)).unwrap();
            assert!(std::ptr::eq(found, entry), "{:#x}/{:?}", entry.opcode, entry.action);
            assert_eq!(entry.usage[0], entry.opcode);
            assert!([6, 10, 12, 16].contains(&entry.usage.len()));
            if let Some(action) = entry.action {
                assert_eq!(entry.usage[1] & 0x1f, action);
            }
        }
    }

    #[test]
    fn an_unknown_opcode_and_an_unknown_action_are_told_apart() {
        assert_eq!(find(&Cdb::of(&[0xc0])).unwrap_err(), sense::INVALID_OPCODE);
        assert_eq!(find(&Cdb::of(&[0x5e, 9])).unwrap_err(), sense::INVALID_FIELD.cdb(1));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let cdb = Cdb::of(&bytes);
            if let Ok((entry, _)) = decode(&cdb) {
                prop_assert_eq!(entry.opcode, cdb.opcode());
            }
        }

        #[test]
        fn bits_that_are_not_reported_change_nothing(index in 0..TABLE.len(), bytes: [u8; 16]) {
            let entry = &TABLE[index];
            let mut heeded = bytes;
            for (at, byte) in heeded.iter_mut().enumerate() {
                *byte &= entry.usage.get(at).copied().unwrap_or(0);
            }
            heeded[0] = entry.opcode;
            if let Some(action) = entry.action {
                heeded[1] = heeded[1] & 0xe0 | action;
            }
            let mut other = heeded;
            other[entry.usage.len()..].copy_from_slice(&bytes[entry.usage.len()..]);
            prop_assert_eq!((entry.parse)(&Cdb::of(&heeded)), (entry.parse)(&Cdb::of(&other)));
        }
    }
}
