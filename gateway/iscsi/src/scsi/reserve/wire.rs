//! Reservations as they are sent: parameter lists of PERSISTENT RESERVE OUT, and the data of
//! PERSISTENT RESERVE IN (SPC-4 §6.15, §6.16).
//!
//! Invariant: no list panics; what is not offered (other initiators' ports in REGISTER, all target
//! ports at once) is refused by the field that asks for it.

use super::{Kind, Order, Registrant, Reservations};
use crate::scsi::InitiatorPort;
use crate::scsi::sense::{self, Sense};

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The order of this service action, scope, type and parameter list.
///
/// # Errors
/// INVALID FIELD IN CDB, PARAMETER LIST LENGTH ERROR, INVALID FIELD IN PARAMETER LIST.
pub(crate) fn order(action: u8, (scope, kind): (u8, u8), list: &[u8]) -> Result<Order, Sense> {
    if action == 7 {
        return hand_over(list);
    }
    let Some((list, rest)) = list.split_first_chunk::<24>() else {
        return Err(sense::LIST_LENGTH);
    };
    let (key, other, flags) = (number(&list[..8]), number(&list[8..16]), list[20]);
    let registers = action == 0 || action == 6;
    if registers && flags & 0x0c != 0 {
        // SPEC_I_PT and ALL_TG_PT, as is told by REPORT CAPABILITIES. With the first the list is longer,
        // by the ports that it names.
        return Err(sense::INVALID_IN_LIST.list(20));
    }
    if !rest.is_empty() {
        return Err(sense::LIST_LENGTH);
    }
    let reserved = || {
        let kind = Kind::of(kind).ok_or(sense::INVALID_FIELD.cdb(2))?;
        if scope == 0 { Ok(kind) } else { Err(sense::INVALID_FIELD.cdb(2)) }
    };
    let persistent = flags & 1 != 0;
    Ok(match action {
        0 => Order::Register { key: Some(key), new: other, persistent },
        1 => Order::Reserve { key, kind: reserved()? },
        2 => Order::Release { key, kind: reserved()? },
        3 => Order::Clear { key },
        4 | 5 => Order::Preempt { key, victim: other, kind: reserved().ok(), abort: action == 5 },
        6 => Order::Register { key: None, new: other, persistent },
        _ => return Err(sense::INVALID_FIELD.cdb(1)),
    })
}

fn hand_over(list: &[u8]) -> Result<Order, Sense> {
    let Some((head, rest)) = list.split_first_chunk::<24>() else {
        return Err(sense::LIST_LENGTH);
    };
    if number(&head[20..]) != rest.len() as u64 {
        return Err(sense::LIST_LENGTH);
    }
    let target_port = u16::from_be_bytes([head[18], head[19]]);
    let port = transport_id(rest).ok_or(sense::INVALID_IN_LIST.list(24))?;
    Ok(Order::Move {
        key: number(&head[..8]),
        new: number(&head[8..16]),
        to: Registrant { port, target_port },
        leave: head[17] & 2 != 0,
        persistent: head[17] & 1 != 0,
    })
}

/// An initiator port of iSCSI, which has a name and a session identifier (SPC-4 §7.6.4.6). The name is
/// lower case from now on, as a login has it.
fn transport_id(bytes: &[u8]) -> Option<InitiatorPort> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    if head[0] != 0x45 || usize::from(u16::from_be_bytes([head[2], head[3]])) != rest.len() {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (name, isid) = std::str::from_utf8(&rest[..end]).ok()?.split_once(",i,0x")?;
    if isid.len() != 12 || !isid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let isid = u64::from_str_radix(isid, 16).ok()?.to_be_bytes();
    if name.is_empty() || name.len() > 223 {
        return None;
    }
    Some(InitiatorPort {
        name: name.to_ascii_lowercase(),
        isid: [isid[2], isid[3], isid[4], isid[5], isid[6], isid[7]],
    })
}

fn encode_transport_id(port: &InitiatorPort) -> Vec<u8> {
    let mut name = format!("{},i,0x", port.name).into_bytes();
    for byte in port.isid {
        name.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    name.resize((name.len() + 1).next_multiple_of(4).max(20), 0);
    let len = u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![0x45, 0, len[0], len[1]];
    out.extend_from_slice(&name);
    out
}

/// The data of PERSISTENT RESERVE IN with this service action.
///
/// # Errors
/// INVALID FIELD IN CDB for an action that there is not.
pub(crate) fn read(state: &Reservations, action: u8) -> Result<Vec<u8>, Sense> {
    let mut body = Vec::new();
    match action {
        0 => {
            for registration in &state.registrations {
                body.extend_from_slice(&registration.key.to_be_bytes());
            }
        }
        1 => {
            if let Some((kind, holder)) = state.reservation {
                let key = if kind.is_shared() { 0 } else { state.registrations[holder].key };
                body.extend_from_slice(&key.to_be_bytes());
                body.extend_from_slice(&[0, 0, 0, 0, 0, kind as u8, 0, 0]);
            }
        }
        2 => {
            // PTPL_C; TMV with PTPL_A; the six types.
            let activated = if state.persistent { 0x81 } else { 0x80 };
            return Ok(vec![0, 8, 0x01, activated, 0xea, 0x01, 0, 0]);
        }
        3 => (0..state.registrations.len()).for_each(|at| full(state, at, &mut body)),
        _ => return Err(sense::INVALID_FIELD.cdb(1)),
    }
    let mut out = state.generation.to_be_bytes().to_vec();
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// One descriptor of READ FULL STATUS.
fn full(state: &Reservations, at: usize, out: &mut Vec<u8>) {
    let registration = &state.registrations[at];
    let held = state.reservation.filter(|(kind, holder)| kind.is_shared() || *holder == at);
    out.extend_from_slice(&registration.key.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, u8::from(held.is_some())]);
    out.push(held.map_or(0, |(kind, _)| kind as u8));
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(&registration.who.target_port.to_be_bytes());
    let id = encode_transport_id(&registration.who.port);
    out.extend_from_slice(&u32::try_from(id.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&id);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_transport_id_is_read_as_it_is_written() {
        let name = "iqn.2026-01.test:host1".to_owned();
        let port = InitiatorPort { name, isid: [0x80, 1, 2, 3, 4, 0xff] };
        let bytes = encode_transport_id(&port);
        assert!(bytes.len().is_multiple_of(4) && bytes.len() >= 24);
        assert_eq!(transport_id(&bytes), Some(port));
        assert_eq!(transport_id(&bytes[..bytes.len() - 4]), None);
    }

    /// RFC 3722: who is handed a reservation under any spelling of its name has it when it logs in.
    #[test]
    fn a_port_is_the_same_whatever_case_its_name_is_written_in() {
        let port = |name: &str| InitiatorPort { name: name.to_owned(), isid: [1; 6] };
        let bytes = encode_transport_id(&port("IQN.2026-01.Test:Host1"));
        assert_eq!(transport_id(&bytes), Some(port("iqn.2026-01.test:host1")));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_field() {
        let mut list = [0; 24];
        list[20] = 0x08;
        assert_eq!(order(0, (0, 0), &list), Err(sense::INVALID_IN_LIST.list(20)));
        let port = InitiatorPort { name: "iqn.2026-01.test:other".to_owned(), isid: [1; 6] };
        let id = encode_transport_id(&port);
        let len = u32::try_from(id.len()).unwrap().to_be_bytes();
        let others = [&list[..], &len, &id].concat();
        assert_eq!(order(0, (0, 0), &others), Err(sense::INVALID_IN_LIST.list(20)), "SPEC_I_PT");
        assert_eq!(order(0, (0, 0), &[0; 28]), Err(sense::LIST_LENGTH));
        assert_eq!(order(0, (0, 0), &list[..23]), Err(sense::LIST_LENGTH));
        assert_eq!(order(1, (1, 1), &[0; 24]), Err(sense::INVALID_FIELD.cdb(2)));
        assert_eq!(order(1, (0, 2), &[0; 24]), Err(sense::INVALID_FIELD.cdb(2)));
    }

    proptest! {
        #[test]
        fn no_list_panics(action in 0u8..32, kind: u8, list in prop::collection::vec(any::<u8>(), 0..80)) {
            drop(order(action, (kind >> 4, kind & 15), &list));
            drop(transport_id(&list));
        }
    }
}
