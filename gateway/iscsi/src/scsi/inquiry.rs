//! INQUIRY: what the disk is, and by which names it is known.
//!
//! Invariant: the names come from the volume's identity alone, so both sites show one disk; only
//! the names of the port differ. They can never change.

use block::VolumeId;

use super::copy;
use super::limits::{
    ATOMIC_BLOCKS_MAX, BLOCK_BYTES, COMPARE_BLOCKS_MAX, SAME_BLOCKS_MAX, TRANSFER_BYTES_BEST,
    TRANSFER_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_RANGES_MAX,
};
use super::sense::{self, Sense};

/// The T10 vendor identification.
const VENDOR: &[u8; 8] = b"TWINSPAN";
/// The product identification.
const PRODUCT: &[u8; 16] = b"MIRRORED VOLUME ";
/// The product revision level.
const REVISION: &[u8; 4] = b"0001";

/// The port that is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port<'a> {
    pub(super) volume: VolumeId,
    pub(super) target: &'a str,
    pub(super) group: u16,
    pub(super) port: u16,
}

/// The standard data.
pub(super) fn standard() -> Vec<u8> {
    let mut out = vec![
        0x00, // A disk, connected.
        0x00, // Its medium is not removable.
        0x06, // SPC-4.
        0x12, // HISUP, and the format of the standard.
        0,    // Length, below.
        0x18, // TPGS: implicit. 3PC: copies.
        0x10, // MULTIP: more than one port.
        0x02, // CMDQUE.
    ];
    out.extend_from_slice(VENDOR);
    out.extend_from_slice(PRODUCT);
    out.extend_from_slice(REVISION);
    out.resize(58, 0);
    // SAM-5, iSCSI, SPC-4, SBC-3.
    for version in [0x00a0u16, 0x0960, 0x0460, 0x04c0] {
        out.extend_from_slice(&version.to_be_bytes());
    }
    out.resize(96, 0);
    out[4] = 96 - 5;
    out
}

/// A page of vital product data.
///
/// # Errors
/// INVALID FIELD IN CDB for a page that there is not.
pub(super) fn page(page: u8, port: &Port<'_>) -> Result<Vec<u8>, Sense> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => serial(port.volume).into_bytes(),
        0x83 => names(port),
        0x86 => extended(),
        0x8f => third_party(),
        0xb0 => block_limits(),
        // Not rotating; the rest is not told.
        0xb1 => padded(&[0, 1], 60),
        // One threshold of nothing; UNMAP and both WRITE SAME unmap, and read as zeroes; thin.
        0xb2 => vec![0, 0xe4, 0x02, 0],
        _ => return Err(sense::INVALID_FIELD.cdb(2)),
    };
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut out = vec![0, page];
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2];

fn padded(head: &[u8], len: usize) -> Vec<u8> {
    let mut out = head.to_vec();
    out.resize(len, 0);
    out
}

/// The serial number: the volume's identity.
pub(super) fn serial(volume: VolumeId) -> String {
    volume.uuid().simple().to_string()
}

/// The name by which other commands refer to the unit: NAA, locally assigned, from the part of the
/// identity that is random.
pub(super) fn naa(volume: VolumeId) -> [u8; 8] {
    let bytes = volume.uuid().into_bytes();
    let mut name = [0; 8];
    name.copy_from_slice(&bytes[8..]);
    name[0] = 0x30 | name[0] & 0x0f;
    name
}

/// A designation descriptor: whose it is (0 unit, 1 port, 2 device), its kind, its coding.
fn designator(out: &mut Vec<u8>, whose: u8, kind: u8, coding: u8, name: &[u8]) {
    let valid = if whose == 0 { 0 } else { 0x80 };
    // The protocol is iSCSI where it says something.
    let protocol = if whose == 0 { 0 } else { 0x50 };
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    out.extend_from_slice(&[protocol | coding, valid | whose << 4 | kind, 0, len]);
    out.extend_from_slice(&name[..usize::from(len)]);
}

/// An iSCSI name as a designator takes it: ended by a zero, filled up to four bytes.
fn text_name(name: &str) -> Vec<u8> {
    // A name has at most 223 bytes; with what is said after it it fits 252.
    let mut out: Vec<u8> = name.bytes().take(251).collect();
    out.resize((out.len() + 1).next_multiple_of(4), 0);
    out
}

fn names(port: &Port<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    designator(&mut out, 0, 3, 1, &naa(port.volume));
    // Some initiators compare only the first bytes behind the vendor: those that differ.
    let mut vendor = VENDOR.to_vec();
    let uuid = port.volume.uuid().into_bytes();
    for byte in uuid[8..].iter().rev().chain(&uuid[..8]) {
        vendor.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    designator(&mut out, 0, 1, 2, &vendor);
    let [high, low] = port.port.to_be_bytes();
    designator(&mut out, 1, 4, 1, &[0, 0, high, low]);
    let [high, low] = port.group.to_be_bytes();
    designator(&mut out, 1, 5, 1, &[0, 0, high, low]);
    let name = format!("{},t,0x{:04x}", port.target, port.group);
    designator(&mut out, 1, 8, 3, &text_name(&name));
    designator(&mut out, 2, 8, 3, &text_name(port.target));
    out
}

fn extended() -> Vec<u8> {
    let mut out = vec![0; 60];
    // SIMPSUP, ORDSUP and HEADSUP: every task attribute is heeded but ACA.
    out[1] = 0x07;
    // V_SUP: there is a cache that can be lost.
    out[2] = 0x01;
    // LUICLR: a lost nexus clears its unit attentions.
    out[3] = 0x01;
    out
}

fn block_limits() -> Vec<u8> {
    let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let block = u64::from(BLOCK_BYTES);
    // WRITE SAME of no block means all that follow.
    let mut out = vec![0x00, COMPARE_BLOCKS_MAX];
    out.extend_from_slice(&8u16.to_be_bytes()); // Best granularity: 4 KiB.
    out.extend_from_slice(&short(TRANSFER_BYTES_MAX / block));
    out.extend_from_slice(&short(TRANSFER_BYTES_BEST / block));
    out.extend_from_slice(&short(TRANSFER_BYTES_MAX / block)); // PRE-FETCH.
    out.extend_from_slice(&short(UNMAP_BLOCKS_MAX)); // UNMAP.
    out.extend_from_slice(&UNMAP_RANGES_MAX.to_be_bytes());
    out.extend_from_slice(&short(8)); // Blocks are given back in 4 KiB,
    out.extend_from_slice(&0x8000_0000u32.to_be_bytes()); // which begin at 0.
    out.extend_from_slice(&SAME_BLOCKS_MAX.to_be_bytes());
    out.extend_from_slice(&ATOMIC_BLOCKS_MAX.to_be_bytes()); // Anywhere, without a boundary.
    out.resize(60, 0);
    out
}

/// What EXTENDED COPY may use (SPC-4 §7.8.17).
fn third_party() -> Vec<u8> {
    let mut out = Vec::new();
    // Supported commands: the opcodes with their service actions.
    let commands: &[u8] = &[0x83, 1, 0x00, 0x84, 2, 0x00, 0x03];
    describe(&mut out, 0x0001, &[&[7], commands].concat());
    let mut parameters = vec![0; 28];
    parameters[4..6].copy_from_slice(&copy::TARGETS_MAX.to_be_bytes());
    parameters[6..8].copy_from_slice(&copy::SEGMENTS_MAX.to_be_bytes());
    parameters[8..12].copy_from_slice(&copy::DESCRIPTORS_BYTES_MAX.to_be_bytes());
    describe(&mut out, 0x0004, &parameters);
    // Supported descriptors: block to block, and the identification of a target.
    describe(&mut out, 0x0008, &[2, 0x02, 0xe4, 0]);
    // Which copies: this unit's alone.
    let mut general = vec![0; 32];
    general[0..4].copy_from_slice(&1u32.to_be_bytes());
    general[4..8].copy_from_slice(&1u32.to_be_bytes());
    describe(&mut out, 0x8001, &general);
    out
}

fn describe(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(volume: u128, group: u16) -> Port<'static> {
        let volume = VolumeId::of(volume);
        Port { volume, target: "iqn.2026-01.io.twinspan:vol", group, port: group }
    }

    #[test]
    fn both_sites_show_one_disk_at_two_ports() {
        let (east, west) = (page(0x83, &port(7, 1)).unwrap(), page(0x83, &port(7, 2)).unwrap());
        // NAA and T10 name: 4 + 12 + 4 + 40 bytes.
        assert_eq!(east[..60], west[..60]);
        assert_ne!(east, west);
        assert_eq!(page(0x80, &port(7, 1)), page(0x80, &port(7, 2)));
    }

    #[test]
    fn two_volumes_differ_in_the_first_bytes_behind_the_vendor() {
        let name = |volume| page(0x83, &port(volume, 1)).unwrap()[28..36].to_vec();
        assert_ne!(name(1), name(2));
        assert_ne!(naa(VolumeId::of(1)), naa(VolumeId::of(2)));
        assert_eq!(naa(VolumeId::of(u128::MAX))[0], 0x3f);
    }

    #[test]
    fn every_page_that_is_listed_is_there_and_says_its_length() {
        for code in PAGES {
            let bytes = page(code, &port(1, 1)).unwrap();
            assert_eq!(bytes[1], code);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 4);
        }
        assert!(page(0xb9, &port(1, 1)).is_err());
        assert_eq!(page(0xb0, &port(1, 1)).unwrap().len(), 64);
    }
}
