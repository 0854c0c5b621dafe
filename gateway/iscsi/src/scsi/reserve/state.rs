//! Reservations as they are kept beyond the process.
//!
//! ```text
//!   "TWPR" version:u8 flags:u8 type:u8 holder:u16 generation:u32 count:u16
//!   count × (key:u64 target_port:u16 isid:6 len:u8 name:len)  crc32c:u32     all big-endian
//! ```
//!
//! Invariant: what was encoded is decoded to the same; anything else is refused, and never panics.
//! Names are lower case once they are decoded, as logins have them, and a nexus is there once.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    InitiatorPort, Kind, Notice, REGISTRATIONS_MAX, Registrant, Registration, Reservations,
};
use crate::scsi::nexus::{PREEMPTED, REGISTRATION_PREEMPTED};

const MAGIC: &[u8; 4] = b"TWPR";
const VERSION: u8 = 1;
const PERSISTENT: u8 = 1;

/// Why kept reservations cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// They are torn, or were damaged.
    #[error("kept reservations are damaged")]
    Damaged,
    /// Their medium does not give them.
    #[error("kept reservations cannot be read")]
    Unread,
    /// They were written by a later release.
    #[error("kept reservations are of version {0}, and this release reads 1")]
    Version(u8),
}

impl Reservations {
    /// What to keep.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(if self.persistent { PERSISTENT } else { 0 });
        let (kind, holder) = self.reservation.map_or((0, 0), |(kind, at)| (kind as u8, at));
        out.put_u8(kind);
        out.put_u16(short(holder));
        out.put_u32(self.generation);
        out.put_u16(short(self.registrations.len()));
        for Registration { who, key } in &self.registrations {
            out.put_u64(*key);
            out.put_u16(who.target_port);
            out.put_slice(&who.port.isid);
            // A name of iSCSI has at most 223 bytes; a longer one was refused at the login.
            let len = u8::try_from(who.port.name.len()).unwrap_or(u8::MAX);
            out.put_u8(len);
            out.put_slice(&who.port.name.as_bytes()[..usize::from(len)]);
        }
        let sum = crc_fast::crc32_iscsi(&out);
        out.put_u32(sum);
        out.freeze()
    }

    /// What was kept.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(StateError::Damaged);
        };
        if crc_fast::crc32_iscsi(body) != u32::from_be_bytes(*sum) || !body.starts_with(MAGIC) {
            return Err(StateError::Damaged);
        }
        match body.get(4) {
            Some(&VERSION) => {}
            Some(version) => return Err(StateError::Version(*version)),
            None => return Err(StateError::Damaged),
        }
        decode(&body[5..]).map(Self::by_nexus).ok_or(StateError::Damaged)
    }

    /// What those are told whose registrations another gateway took away meanwhile, as `next` is kept now.
    /// It answered whoever took them away, maybe for commands that were to be aborted: what they had begun
    /// here is not done.
    pub(in crate::scsi) fn lost(&self, next: &Self) -> Vec<Notice> {
        let code = if next.registrations.is_empty() { PREEMPTED } else { REGISTRATION_PREEMPTED };
        let stays =
            |who: &Registrant| next.registrations.iter().any(|other| other.who.is_same(who));
        let lost = self.registrations.iter().filter(|registration| !stays(&registration.who));
        let notice = |registration: &Registration| Notice {
            who: registration.who.clone(),
            code: Some(code),
            abort: true,
        };
        lost.map(notice).collect()
    }

    /// Earlier releases kept the name of a port that a reservation was moved to as it was sent, and a
    /// port is found by the name that its login has. They also kept who came by two portals of a group as
    /// two. One that is here twice so, as it was not found when it registered anew, is one: what holds the
    /// reservation stays of it, or else what came last.
    fn by_nexus(mut self) -> Self {
        for registration in &mut self.registrations {
            registration.who.port.name.make_ascii_lowercase();
        }
        let mut at = 0;
        while let Some(Registration { who, .. }) = self.registrations.get(at) {
            let mut behind = self.registrations.iter().skip(at + 1);
            let later = behind.position(|other| other.who.is_same(who));
            match (later, self.reservation) {
                (None, _) => at += 1,
                (Some(behind), Some((_, holder))) if holder == at => {
                    self.remove(at + 1 + behind);
                }
                (Some(_), _) => {
                    self.remove(at);
                }
            }
        }
        self
    }
}

fn decode(mut rest: &[u8]) -> Option<Reservations> {
    let rest = &mut rest;
    let [flags] = take(rest)?;
    let [kind] = take(rest)?;
    let holder = usize::from(u16::from_be_bytes(take(rest)?));
    let generation = u32::from_be_bytes(take(rest)?);
    let count = usize::from(u16::from_be_bytes(take(rest)?));
    let mut registrations: Vec<Registration> = Vec::new();
    for _ in 0..count {
        let key = u64::from_be_bytes(take(rest)?);
        let target_port = u16::from_be_bytes(take(rest)?);
        let isid = take(rest)?;
        let [len] = take(rest)?;
        let (name, behind) = rest.split_at_checked(usize::from(len))?;
        *rest = behind;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let who = Registrant { port: InitiatorPort { name, isid }, target_port };
        if registrations.iter().any(|r| r.who == who) {
            return None;
        }
        registrations.push(Registration { who, key });
    }
    let reservation = match kind {
        0 => None,
        code => Some((Kind::of(code)?, holder)),
    };
    let sound = rest.is_empty()
        && registrations.len() <= REGISTRATIONS_MAX
        && reservation.is_none_or(|(_, holder)| holder < registrations.len());
    let persistent = flags & PERSISTENT != 0;
    sound.then_some(Reservations { generation, registrations, reservation, persistent })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Standing;
    use super::*;

    fn one() -> Reservations {
        let name = "iqn.a".to_owned();
        let who =
            Registrant { port: InitiatorPort { name, isid: [1, 2, 3, 4, 5, 6] }, target_port: 2 };
        Reservations {
            generation: 3,
            registrations: vec![Registration { who, key: 0xabcd }],
            reservation: Some((Kind::WriteExclusiveRegistrants, 0)),
            persistent: true,
        }
    }

    #[test]
    fn these_bytes_are_these_reservations() {
        let bytes = one().encode();
        assert_eq!(
            bytes[..bytes.len() - 4],
            *b"TWPR\x01\x01\x05\x00\x00\x00\x00\x00\x03\x00\x01\
               \x00\x00\x00\x00\x00\x00\xab\xcd\x00\x02\x01\x02\x03\x04\x05\x06\x05iqn.a"
        );
        assert_eq!(Reservations::decode(&bytes), Ok(one()));
    }

    /// What a release kept that took the names of new holders as they were sent.
    #[test]
    fn who_was_handed_a_reservation_under_another_spelling_is_found_by_its_name() {
        let port = |name: &str| InitiatorPort { name: name.to_owned(), isid: [1, 2, 3, 4, 5, 6] };
        let registered = |name: &[u8; 5], key: u8| {
            let behind = b"\x00\x02\x01\x02\x03\x04\x05\x06\x05";
            [&[0, 0, 0, 0, 0, 0, 0, key], &behind[..], &name[..]].concat()
        };
        // The kind, the place of its holder, who is registered with which key, and who stays with which.
        for (kind, holder, kept, stays) in [
            (1, 0, vec![(b"IQN.A", 7)], vec![("iqn.a", 7)]),
            // It registered anew when it was not known, with a key of its own.
            (
                1,
                1,
                vec![(b"iqn.b", 5), (b"IQN.A", 7), (b"iqn.a", 8)],
                vec![("iqn.b", 5), ("iqn.a", 7)],
            ),
            (
                1,
                2,
                vec![(b"iqn.a", 8), (b"iqn.b", 5), (b"Iqn.A", 7)],
                vec![("iqn.b", 5), ("iqn.a", 7)],
            ),
            (0, 0, vec![(b"IQN.A", 7), (b"iqn.a", 8)], vec![("iqn.a", 8)]),
        ] {
            let count = u8::try_from(kept.len()).unwrap();
            let mut bytes = b"TWPR\x01\x00".to_vec();
            bytes.extend([kind, 0, holder, 0, 0, 0, 3, 0, count]);
            kept.iter().for_each(|(name, key)| bytes.extend(registered(name, *key)));
            bytes.extend(crc_fast::crc32_iscsi(&bytes).to_be_bytes());
            let read = Reservations::decode(&bytes).unwrap();
            let found: Vec<_> =
                read.registrations.iter().map(|r| (r.who.port.name.as_str(), r.key)).collect();
            assert_eq!(found, stays);
            let standing = if kind == 0 { Standing::Registered } else { Standing::Holder };
            let who = Registrant { port: port("iqn.a"), target_port: 2 };
            assert_eq!(read.standing(&who), standing);
            assert_eq!(Reservations::decode(&read.encode()), Ok(read));
        }
    }

    /// What a release kept to which each portal of a group was a port of its own: an initiator that came
    /// back by the other one was somebody else.
    #[test]
    fn who_registered_by_two_portals_of_a_group_is_one_nexus() {
        let at = |target_port| Registrant {
            port: InitiatorPort { name: "iqn.a".to_owned(), isid: [1; 6] },
            target_port,
        };
        let registered = |target_port, key| Registration { who: at(target_port), key };
        for (holder, stays) in [(None, 8), (Some(0), 7), (Some(2), 8)] {
            let reservation = holder.map(|holder| (Kind::WriteExclusive, holder));
            let registrations =
                vec![registered(0x0102, 7), registered(0x0201, 9), registered(0x0101, 8)];
            let kept = Reservations { registrations, reservation, ..one() };
            let read = Reservations::decode(&kept.encode()).unwrap();
            let mut keys: Vec<u64> = read.registrations.iter().map(|r| r.key).collect();
            keys.sort_unstable();
            assert_eq!(keys, [stays, 9], "another group is another port");
            let standing = read.standing(&at(0x0101));
            assert_eq!(standing == Standing::Holder, holder.is_some());
            assert_eq!(standing, read.standing(&at(0x0103)));
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = one().encode().to_vec();
        let end = bytes.len() - 4;
        bytes[4] = 2;
        assert_eq!(Reservations::decode(&bytes), Err(StateError::Damaged));
        let sum = crc_fast::crc32_iscsi(&bytes[..end]).to_be_bytes();
        bytes[end..].copy_from_slice(&sum);
        assert_eq!(Reservations::decode(&bytes), Err(StateError::Version(2)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..80), head: bool) {
            let mut bytes = if head { b"TWPR\x01".to_vec() } else { Vec::new() };
            bytes.extend(body);
            let sum = crc_fast::crc32_iscsi(&bytes).to_be_bytes();
            bytes.extend(sum);
            drop(Reservations::decode(&bytes));
        }
    }
}
