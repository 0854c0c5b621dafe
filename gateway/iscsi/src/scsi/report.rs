//! What the unit reports about itself: its size, its units, its commands, its ports.
//!
//! Invariant: every list is cut to the room that the host has, and its length says how long it is.

use super::cdb::{Cdb, Command};
use super::limits::{BLOCK_BYTES, BLOCKS_PER_PHYSICAL_LOG2};
use super::opcodes::{self, Entry};
use super::sense::{self, Sense};
use super::{Outcome, Plan, PortGroup, UnitSettings, inquiry};

/// READ CAPACITY(10); more than it can say is `0xffff_ffff`.
pub(super) fn capacity_10(blocks: u64) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut out = last.to_be_bytes().to_vec();
    out.extend_from_slice(&BLOCK_BYTES.to_be_bytes());
    out
}

/// READ CAPACITY(16).
pub(super) fn capacity_16(blocks: u64) -> Vec<u8> {
    let mut out = blocks.saturating_sub(1).to_be_bytes().to_vec();
    out.extend_from_slice(&BLOCK_BYTES.to_be_bytes());
    // No protection; 4 KiB below; LBPME and LBPRZ: thin, and what is unmapped reads as zeroes.
    out.extend_from_slice(&[0, BLOCKS_PER_PHYSICAL_LOG2, 0xc0, 0]);
    out.resize(32, 0);
    out
}

/// REPORT LUNS.
///
/// # Errors
/// INVALID FIELD IN CDB.
pub(super) fn luns(luns: &[u8], select: u8, room: u32) -> Result<Outcome, Sense> {
    if room < 16 {
        return Err(sense::INVALID_FIELD.cdb(6));
    }
    let luns = match select {
        0x00 | 0x02 => luns,
        // There are no well known units.
        0x01 => &[],
        _ => return Err(sense::INVALID_FIELD.cdb(2)),
    };
    let len = u32::try_from(luns.len() * 8).unwrap_or(u32::MAX);
    let mut out = len.to_be_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    for lun in luns {
        out.extend_from_slice(&[0, *lun, 0, 0, 0, 0, 0, 0]);
    }
    Ok(Outcome::data(out, room))
}

/// REPORT SUPPORTED OPERATION CODES.
///
/// # Errors
/// INVALID FIELD IN CDB.
pub(super) fn opcodes(
    options: u8,
    timeouts: bool,
    (opcode, action): (u8, u16),
) -> Result<Vec<u8>, Sense> {
    let mut entries = opcodes::of_opcode(opcode).peekable();
    let has_actions = entries.peek().is_some_and(|entry| entry.action.is_some());
    let exists = entries.peek().is_some();
    let found = match options {
        0 => return Ok(all_opcodes(timeouts)),
        1 if has_actions => return Err(sense::INVALID_FIELD.cdb(2)),
        1 => entries.next(),
        2 if exists && !has_actions => return Err(sense::INVALID_FIELD.cdb(2)),
        // As 1 for an opcode without service actions, as 2 for one with.
        2 | 3 if has_actions => entries.find(|entry| entry.action.map(u16::from) == Some(action)),
        3 if action == 0 => entries.next(),
        2 | 3 => None,
        _ => return Err(sense::INVALID_FIELD.cdb(2)),
    };
    Ok(one_opcode(found, timeouts))
}

/// No time is promised for any command.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn all_opcodes(timeouts: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    for entry in opcodes::TABLE {
        let action = entry.action.map_or(0, u16::from).to_be_bytes();
        let flags = u8::from(entry.action.is_some()) | if timeouts { 2 } else { 0 };
        let len = u16::try_from(entry.usage.len()).unwrap_or(0).to_be_bytes();
        out.extend_from_slice(&[entry.opcode, 0, action[0], action[1], 0, flags, len[0], len[1]]);
        if timeouts {
            out.extend_from_slice(&TIMEOUTS);
        }
    }
    with_length(out)
}

fn one_opcode(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    let Some(entry) = entry else {
        return vec![0, 1, 0, 0];
    };
    let len = u16::try_from(entry.usage.len()).unwrap_or(0).to_be_bytes();
    let timed = if timeouts { 0x80 } else { 0 };
    let mut out = vec![0, timed | 3, len[0], len[1]];
    out.extend_from_slice(entry.usage);
    if timeouts {
        out.extend_from_slice(&TIMEOUTS);
    }
    out
}

/// Writes into the first four bytes how many follow them.
fn with_length(mut out: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(out.len().saturating_sub(4)).unwrap_or(u32::MAX).to_be_bytes();
    for (to, from) in out.iter_mut().zip(len) {
        *to = from;
    }
    out
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set, logical
/// unit reset, target reset.
pub(super) fn task_management(extended: bool) -> Vec<u8> {
    let supported = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
    if !extended {
        return vec![supported, 0, 0, 0];
    }
    let mut out = vec![0; 16];
    out[0] = supported;
    out[3] = 12;
    out
}

/// REPORT TARGET PORT GROUPS.
pub(super) fn port_groups(settings: &UnitSettings, extended: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    if extended {
        out.extend_from_slice(&[0x10, settings.transition_seconds, 0, 0]);
    }
    for PortGroup { group, state, ports } in &settings.groups {
        let group = group.to_be_bytes();
        // The states that there are: transitioning, unavailable, standby, the two active ones.
        let count = u8::try_from(ports.len()).unwrap_or(u8::MAX);
        // Changed by ourselves.
        out.extend_from_slice(&[*state as u8, 0x8f, group[0], group[1], 0, 2, 0, count]);
        for port in ports.iter().take(usize::from(count)) {
            let port = port.to_be_bytes();
            out.extend_from_slice(&[0, 0, port[0], port[1]]);
        }
    }
    with_length(out)
}

/// READ DEFECT DATA: there are none.
///
/// # Errors
/// INVALID FIELD IN CDB for a format that there is not.
pub(super) fn defects(long: bool, lists: u8) -> Vec<u8> {
    // Which lists these are, and in which form, as was asked.
    let mut out = vec![0, lists];
    out.resize(if long { 8 } else { 4 }, 0);
    out
}

/// What is answered to a command for a unit that is not there; `units` are those that the nexus
/// has.
#[must_use]
pub fn no_unit(cdb: &[u8], units: &[u8]) -> Plan {
    Plan::Answer(match opcodes::decode(&Cdb::of(cdb)) {
        Err(refusal) if refusal == sense::INVALID_OPCODE => Outcome::refused(sense::NO_UNIT),
        Err(refusal) => Outcome::refused(refusal),
        Ok((_, Command::ReportLuns { select, room })) => {
            luns(units, select, room).unwrap_or_else(Outcome::refused)
        }
        Ok((_, Command::Inquiry { page: None, room })) => {
            let mut data = inquiry::standard();
            // No device of an unknown kind can be here.
            data[0] = 0x7f;
            Outcome::data(data, room)
        }
        Ok((_, Command::RequestSense { descriptors, room })) => {
            let form = if descriptors { super::Form::Descriptors } else { super::Form::Fixed };
            Outcome::data(sense::NO_UNIT.encode(form).to_vec(), room)
        }
        Ok(_) => Outcome::refused(sense::NO_UNIT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_beyond_two_tebibytes_says_so() {
        assert_eq!(capacity_10(1 << 33)[..4], [0xff; 4]);
        assert_eq!(capacity_10(8), [0, 0, 0, 7, 0, 0, 2, 0]);
        assert_eq!(capacity_16(1 << 33)[..8], ((1u64 << 33) - 1).to_be_bytes());
    }

    #[test]
    fn one_opcode_is_asked_in_the_way_that_fits_it() {
        assert_eq!(opcodes(1, false, (0x28, 0)).unwrap()[..4], [0, 3, 0, 10]);
        assert_eq!(opcodes(1, false, (0xc0, 0)).unwrap(), [0, 1, 0, 0]);
        assert!(opcodes(1, false, (0x9e, 0)).is_err());
        assert!(opcodes(2, false, (0x28, 0)).is_err());
        assert_eq!(opcodes(2, true, (0x9e, 0x10)).unwrap()[..4], [0, 0x83, 0, 16]);
        assert_eq!(opcodes(2, false, (0x9e, 0x11)).unwrap(), [0, 1, 0, 0]);
        assert_eq!(opcodes(3, false, (0x28, 0)).unwrap()[1], 3);
        assert!(opcodes(7, false, (0x28, 0)).is_err());
    }

    #[test]
    fn a_unit_that_is_not_there_still_lists_those_that_are() {
        let Plan::Answer(outcome) = no_unit(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], &[0]) else {
            panic!("not answered")
        };
        assert_eq!(outcome.data_in.len(), 16);
        let Plan::Answer(outcome) = no_unit(&[0; 6], &[0]) else { panic!("not answered") };
        assert_eq!(outcome.sense, Some(sense::NO_UNIT));
    }
}
