//! Reservations as they are kept beyond the process.
//!
//! ```text
//!   "TWPR" version:u8 flags:u8 type:u8 holder:u16 generation:u32 count:u16
//!   count × (key:u64 target_port:u16 isid:6 len:u8 name:len)  crc32c:u32     all big-endian
//! ```
//!
//! Invariant: what was encoded is decoded to the same; anything else is refused, and never panics.

use bytes::{BufMut, Bytes, BytesMut};

use super::{InitiatorPort, Kind, REGISTRATIONS_MAX, Registrant, Registration, Reservations};

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
        decode(&body[5..]).ok_or(StateError::Damaged)
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
