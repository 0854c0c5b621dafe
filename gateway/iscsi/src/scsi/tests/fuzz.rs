//! Commands, parameter lists and kept reservations that are almost right.

use testkit::fuzz::{Fuzz, Made};

use super::super::cdb::Cdb;
use super::super::mode::Modes;
use super::super::reserve::{Kind, Order, Registrant, Reservations};
use super::super::{copy, inquiry, mode, opcodes, unmap};
use super::*;

#[test]
fn what_a_command_is_depends_on_no_bit_that_is_not_told_to_matter() {
    let plain = opcodes::TABLE.iter().map(|entry| {
        let mut cdb = vec![0; entry.usage.len()];
        (cdb[0], cdb[1]) = (entry.opcode, entry.action.unwrap_or(0));
        cdb
    });
    let seeds: Vec<Vec<u8>> = plain.filter(|cdb| opcodes::decode(&Cdb::of(cdb)).is_ok()).collect();
    assert!(seeds.len() * 2 > opcodes::TABLE.len(), "half of them need nothing else");
    let codes: Vec<[u8; 1]> = opcodes::TABLE.iter().map(|entry| [entry.opcode]).collect();
    let codes: Vec<&[u8]> = codes.iter().map(<[u8; 1]>::as_slice).collect();
    Fuzz::new(seeds).tokens(&codes).within(4096).run(|bytes| {
        let Ok((entry, command)) = opcodes::decode(&Cdb::of(bytes)) else { return Made::Refused };
        let mut heeded = [0; 16];
        for (to, (byte, heeds)) in heeded.iter_mut().zip(bytes.iter().zip(entry.usage)) {
            *to = byte & heeds;
        }
        let (same, again) = opcodes::decode(&Cdb::of(&heeded)).expect("it was a command before");
        assert!(std::ptr::eq(same, entry) && again == command, "{bytes:x?} is not {heeded:x?}");
        Made::Understood
    });
}

/// An order as an initiator sends it: service action, scope and type, and the list.
pub(super) fn sent(order: &Order) -> (u8, u8, Vec<u8>) {
    let list = |key: u64, other: u64, flags: u8| {
        let mut list = [key.to_be_bytes(), other.to_be_bytes(), [0; 8]].concat();
        list[20] = flags;
        list
    };
    match order {
        Order::Register { key, new, persistent } => {
            let action = if key.is_some() { 0 } else { 6 };
            (action, 0, list(key.unwrap_or(0), *new, u8::from(*persistent)))
        }
        Order::Reserve { key, kind } => (1, *kind as u8, list(*key, 0, 0)),
        Order::Release { key, kind } => (2, *kind as u8, list(*key, 0, 0)),
        Order::Clear { key } => (3, 0, list(*key, 0, 0)),
        Order::Preempt { key, victim, kind, abort } => {
            let kind = kind.map_or(0, |kind| kind as u8);
            (if *abort { 5 } else { 4 }, kind, list(*key, *victim, 0))
        }
        Order::Move { key, new, to, leave, persistent } => {
            let mut list = list(*key, *new, 0);
            list[17] = u8::from(*leave) << 1 | u8::from(*persistent);
            list[18..20].copy_from_slice(&to.target_port.to_be_bytes());
            let isid: String = to.port.isid.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut name = format!("{},i,0x{isid}", to.port.name).into_bytes();
            name.resize((name.len() + 1).next_multiple_of(4), 0);
            let len = u16::try_from(name.len()).unwrap().to_be_bytes();
            let id = [&[0x45, 0, len[0], len[1]][..], &name].concat();
            list[20..24].copy_from_slice(&u32::try_from(id.len()).unwrap().to_be_bytes());
            list.extend(id);
            (7, 0, list)
        }
    }
}

fn registrant(number: u8) -> Registrant {
    let name = format!("iqn.2026-01.com.example:host-{number}");
    Registrant { port: InitiatorPort { name, isid: [number; 6] }, target_port: number.into() }
}

fn orders() -> [Order; 7] {
    let kind = Kind::WriteExclusiveRegistrants;
    [
        Order::Register { key: Some(1), new: 2, persistent: true },
        Order::Register { key: None, new: 3, persistent: false },
        Order::Reserve { key: 1, kind },
        Order::Release { key: 1, kind },
        Order::Clear { key: 1 },
        Order::Preempt { key: 1, victim: 2, kind: Some(kind), abort: true },
        Order::Move { key: 1, new: 9, to: registrant(3), leave: true, persistent: false },
    ]
}

#[test]
fn an_order_about_reservations_is_the_same_order_when_it_is_sent_again() {
    let seeds = orders().map(|order| {
        let (action, kind, list) = sent(&order);
        [vec![action, kind], list].concat()
    });
    let tokens: [&[u8]; 3] = [b",i,0x", b"iqn.", &[0x45, 0, 0, 0x20]];
    Fuzz::new(seeds).tokens(&tokens).within(4096).run(|bytes| {
        let Some(([action, kind], list)) = bytes.split_first_chunk() else { return Made::Refused };
        let order = |action: u8, kind: u8, list: &[u8]| {
            reserve::order(action & 31, (kind >> 4, kind & 15), list)
        };
        let Ok(found) = order(*action, *kind, list) else { return Made::Refused };
        let (action, kind, list) = sent(&found);
        assert_eq!(order(action, kind, &list), Ok(found));
        Made::Understood
    });
}

#[test]
fn reservations_are_kept_as_the_same_whatever_they_were_read_from() {
    let mut state = Reservations::default();
    let mut seeds = vec![state.encode().to_vec()];
    for number in 1..4 {
        let order = Order::Register { key: None, new: number.into(), persistent: true };
        state.apply(&registrant(number), order).unwrap();
        seeds.push(state.encode().to_vec());
    }
    let kind = Kind::ExclusiveAccess;
    state.apply(&registrant(2), Order::Reserve { key: 2, kind }).unwrap();
    seeds.push(state.encode().to_vec());
    let seal = |bytes: &mut [u8]| {
        if let Some((body, sum)) = bytes.split_last_chunk_mut::<4>() {
            *sum = crc_fast::crc32_iscsi(body).to_be_bytes();
        }
    };
    Fuzz::new(seeds).repaired(seal).within(64 << 10).run(|bytes| {
        let Ok(state) = Reservations::decode(bytes) else { return Made::Refused };
        assert_eq!(Reservations::decode(&state.encode()), Ok(state));
        Made::Understood
    });
}

#[test]
fn parameter_lists_that_are_almost_right_harm_nobody() {
    let mut ranges = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for lba in [8u64, 1 << 33] {
        ranges.extend([&lba.to_be_bytes()[..], &7u32.to_be_bytes(), &[0; 4]].concat());
    }
    Fuzz::new([ranges]).within(4096).run(|list| {
        let Ok(found) = unmap::ranges(list) else { return Made::Refused };
        assert!(found.len() <= limits::UNMAP_RANGES_MAX as usize);
        Made::Understood
    });
    // The header, and the page of the cache with its bit turned off; the longer form likewise.
    let caching = [&[0x08, 18, 0x00][..], &[0; 17]].concat();
    let seeds = [
        [vec![0, 0, 0, 0, 0], caching.clone()].concat(),
        [vec![1, 0, 0, 0, 0, 0, 0, 0, 0], caching].concat(),
    ];
    Fuzz::new(seeds).within(4096).run(|bytes| {
        let Some((long, list)) = bytes.split_first() else { return Made::Refused };
        let select = |modes| mode::select(list, *long != 0, (modes, Modes::SETTABLE));
        let Ok(modes) = select(Modes::DEFAULT) else { return Made::Refused };
        assert_eq!(select(modes), Ok(modes), "nothing is left to change");
        Made::Understood
    });
    let name = inquiry::naa(VolumeId::of(7));
    Fuzz::new([copying(&name)]).tokens(&[&name, &[0xe4], &[2, 0, 0, 0x18]]).within(8192).run(
        |list| {
            let Ok(copy) = copy::parse(list, &name) else { return Made::Refused };
            for (from, to) in &copy.segments {
                assert_eq!(from.count, to.count, "as much is written as is read");
            }
            Made::Understood
        },
    );
}

/// A list of EXTENDED COPY (LID1): one target, itself, and one segment of four blocks.
pub(super) fn copying(name: &[u8; 8]) -> Vec<u8> {
    let mut target = vec![0; 32];
    target[..2].copy_from_slice(&[0xe4, 0]);
    target[4..8].copy_from_slice(&[1, 3, 0, 8]);
    target[8..16].copy_from_slice(name);
    target[29..32].copy_from_slice(&512u32.to_be_bytes()[1..]);
    let mut segment = vec![2, 0, 0, 0x18];
    segment.extend([0, 0, 0, 0, 0, 0]);
    segment.extend(4u16.to_be_bytes());
    segment.extend(16u64.to_be_bytes());
    segment.extend(64u64.to_be_bytes());
    let mut list = vec![1, 0, 0, 32, 0, 0, 0, 0];
    list.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
    list.extend([0; 4]);
    [list, target, segment].concat()
}
