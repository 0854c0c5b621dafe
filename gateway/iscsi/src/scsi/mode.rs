//! Mode pages: how the unit caches, and what an initiator may set about it (SPC-4 §7.5, SBC-3 §6.5).
//!
//! Invariant: only what the changeable pages show can be changed, and a list that would change
//! anything else changes nothing. What is set is known to one gateway alone, so nothing can be set of a
//! disk that others show too: a host that goes on there would be in other modes than it set.

use super::cdb::ModeSense;
use super::limits::BLOCK_BYTES;
use super::sense::{self, Form, Sense};

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    /// Whether a write may end before it is on stable storage.
    pub(super) write_cache: bool,
    /// `D_SENSE`.
    pub(super) descriptors: bool,
    /// `SWP`: writes are refused.
    pub(super) protected: bool,
}

impl Modes {
    /// As every unit begins.
    pub(super) const DEFAULT: Self =
        Self { write_cache: true, descriptors: false, protected: false };
    /// What can be set of a disk that this gateway alone shows.
    pub(super) const SETTABLE: Self =
        Self { write_cache: true, descriptors: true, protected: true };
    /// What can be set of a disk that others show too.
    pub(super) const FIXED: Self =
        Self { write_cache: false, descriptors: false, protected: false };

    /// Whether what the cache holds must be written when these modes take the place of `old`, as SBC-3
    /// says of WCE and SPC-4 of SWP: hosts send no more flushes then, or nothing more is written.
    pub(super) const fn empties_cache(self, old: Self) -> bool {
        old.write_cache && !self.write_cache || self.protected && !old.protected
    }

    pub(super) const fn form(self) -> Form {
        if self.descriptors { Form::Descriptors } else { Form::Fixed }
    }
}

const RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;
const ALL: u8 = 0x3f;
/// The pages in the order in which all of them are sent.
const PAGES: [u8; 4] = [RECOVERY, CACHING, CONTROL, EXCEPTIONS];

/// One page with these values; `mask` for the changeable bits, where what is fixed is 0.
fn page(code: u8, modes: Modes, mask: bool) -> Option<Vec<u8>> {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    let fixed = |value: u8| if mask { 0 } else { value };
    let mut out = match code {
        RECOVERY => vec![RECOVERY, 10],
        CACHING => vec![CACHING, 18, bit(modes.write_cache, 0x04)],
        CONTROL => vec![
            CONTROL,
            10,
            // One task set of all initiators.
            bit(modes.descriptors, 0x04),
            fixed(0x10), // Commands that are SIMPLE may be reordered.
            bit(modes.protected, 0x08),
            0,
            0,
            0,
            fixed(0xff), // Busy for any time.
            fixed(0xff),
        ],
        EXCEPTIONS => vec![EXCEPTIONS, 10],
        _ => return None,
    };
    out.resize(usize::from(out[1]) + 2, 0);
    Some(out)
}

/// What MODE SENSE is answered with; `settable` says what can be set, `protected` whether the medium
/// cannot be written.
///
/// # Errors
/// INVALID FIELD IN CDB, SAVING PARAMETERS NOT SUPPORTED.
pub(super) fn sense_data(
    ask: &ModeSense,
    (modes, settable): (Modes, Modes),
    (blocks, protected): (u64, bool),
) -> Result<Vec<u8>, Sense> {
    let (values, mask) = match ask.control {
        0 => (modes, false),
        1 => (settable, true),
        2 => (Modes::DEFAULT, false),
        _ => return Err(sense::SAVING_UNSUPPORTED),
    };
    if !(ask.subpage == 0 || ask.subpage == 0xff && ask.page == ALL) {
        return Err(sense::INVALID_FIELD.cdb(3));
    }
    let pages: Vec<u8> = if ask.page == ALL {
        PAGES.iter().filter_map(|code| page(*code, values, mask)).flatten().collect()
    } else {
        page(ask.page, values, mask).ok_or(sense::INVALID_FIELD.cdb(2))?
    };
    let descriptor = if ask.no_descriptors { Vec::new() } else { descriptor(ask, blocks) };
    // WP, and DPOFUA: both bits of reads and writes are heeded.
    let specific = if protected { 0x90 } else { 0x10 };
    let mut out = if ask.long {
        let long = u8::from(ask.long_addresses && !ask.no_descriptors);
        let len = u8::try_from(descriptor.len()).unwrap_or(0);
        vec![0, 0, 0, specific, long, 0, 0, len]
    } else {
        vec![0, 0, specific, u8::try_from(descriptor.len()).unwrap_or(0)]
    };
    out.extend_from_slice(&descriptor);
    out.extend_from_slice(&pages);
    if ask.long {
        let len = u16::try_from(out.len() - 2).unwrap_or(u16::MAX).to_be_bytes();
        (out[0], out[1]) = (len[0], len[1]);
    } else {
        out[0] = u8::try_from(out.len() - 1).unwrap_or(u8::MAX);
    }
    Ok(out)
}

fn descriptor(ask: &ModeSense, blocks: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if ask.long_addresses {
        out.extend_from_slice(&blocks.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    } else {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        out.extend_from_slice(&blocks.to_be_bytes());
    }
    out.extend_from_slice(&BLOCK_BYTES.to_be_bytes());
    out
}

/// What MODE SELECT with this parameter list makes of `modes`, of which `settable` can be set.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR for one that breaks off, INVALID FIELD IN PARAMETER LIST for one
/// that changes what cannot be changed.
pub(super) fn select(
    list: &[u8],
    long: bool,
    (modes, settable): (Modes, Modes),
) -> Result<Modes, Sense> {
    if list.is_empty() {
        return Ok(modes);
    }
    let header = if long { 8 } else { 4 };
    let head = list.get(..header).ok_or(sense::LIST_LENGTH)?;
    let descriptors = if long {
        usize::from(u16::from_be_bytes([head[6], head[7]]))
    } else {
        usize::from(head[3])
    };
    let described = list.get(header..header + descriptors).ok_or(sense::LIST_LENGTH)?;
    // Any number of blocks is taken and none is changed, but the length of a block is what it is.
    if let [.., _, b1, b2, b3] = described
        && !matches!(u32::from_be_bytes([0, *b1, *b2, *b3]), 0 | BLOCK_BYTES)
    {
        return Err(sense::INVALID_IN_LIST.list(u16::try_from(header).unwrap_or(0)));
    }
    let mut rest = &list[header + descriptors..];
    let mut modes = modes;
    while !rest.is_empty() {
        let at = u16::try_from(list.len() - rest.len()).unwrap_or(u16::MAX);
        let [code, len, ..] = rest else {
            return Err(sense::LIST_LENGTH);
        };
        let len = usize::from(*len) + 2;
        let given = rest.get(..len).ok_or(sense::LIST_LENGTH)?;
        modes = change(*code, given, (modes, settable)).ok_or(sense::INVALID_IN_LIST.list(at))?;
        rest = &rest[len..];
    }
    Ok(modes)
}

/// `modes` after this page; `None` when it changes what cannot be changed.
fn change(code: u8, given: &[u8], (modes, settable): (Modes, Modes)) -> Option<Modes> {
    let current = page(code, modes, false)?;
    let mask = page(code, settable, true)?;
    if given.len() != current.len() {
        return None;
    }
    let differs = given.iter().zip(&current).zip(&mask).skip(2);
    if differs.into_iter().any(|((new, old), may)| (new ^ old) & !may != 0) {
        return None;
    }
    Some(match code {
        CACHING => Modes { write_cache: given[2] & 0x04 != 0, ..modes },
        CONTROL => {
            Modes { descriptors: given[2] & 0x04 != 0, protected: given[4] & 0x08 != 0, ..modes }
        }
        _ => modes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a disk begins, and what can be set of it.
    const ALONE: (Modes, Modes) = (Modes::DEFAULT, Modes::SETTABLE);

    fn ask(page: u8, control: u8, long: bool) -> ModeSense {
        let (subpage, room) = (0, 255);
        ModeSense {
            long,
            no_descriptors: true,
            long_addresses: false,
            control,
            page,
            subpage,
            room,
        }
    }

    #[test]
    fn a_page_that_is_read_can_be_written_back_with_a_changeable_bit() {
        for long in [false, true] {
            let mut list = sense_data(&ask(CONTROL, 0, long), ALONE, (8, false)).unwrap();
            let at = if long { 8 } else { 4 };
            assert_eq!(select(&list, long, ALONE), Ok(Modes::DEFAULT));
            list[at + 2] ^= 0x04;
            let changed = select(&list, long, ALONE).unwrap();
            assert_eq!(changed.form(), Form::Descriptors);
            list[at + 3] ^= 0x01;
            assert!(select(&list, long, ALONE).is_err());
        }
    }

    #[test]
    fn what_is_not_changeable_is_shown_as_such() {
        let ones = |settable| -> u32 {
            let modes = (Modes::DEFAULT, settable);
            let mask = sense_data(&ask(ALL, 1, false), modes, (8, false)).unwrap();
            mask[4..].iter().map(|byte| byte.count_ones()).sum()
        };
        let names: u32 = PAGES.iter().map(|p| p.count_ones()).sum();
        let lens: u32 = [10u32, 18, 10, 10].iter().map(|len| len.count_ones()).sum();
        assert_eq!(ones(Modes::SETTABLE) - names - lens, 3);
        assert_eq!(ones(Modes::FIXED) - names - lens, 0);
    }

    proptest! {
        #[test]
        fn no_list_panics(list in prop::collection::vec(any::<u8>(), 0..64), long: bool) {
            let _taken_or_refused = select(&list, long, ALONE);
        }
    }
}
