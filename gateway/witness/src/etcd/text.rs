//! What is written to etcd and read from it: base64, configurations as JSON.
//!
//! Invariant: what cannot be read whole is refused; it is never half believed.

use block::{Configuration, Epoch, GatewayId, Member};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A configuration as it is written. A key that is not known is refused: a newer release may mean
/// something by it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    epoch: u64,
    primary: Uuid,
    in_sync: Vec<WrittenMember>,
    lease_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenMember {
    gateway: Uuid,
    automatic: bool,
}

const VERSION: u32 = 1;

pub(super) fn write(set: &Configuration) -> String {
    let member = |member: &Member| WrittenMember {
        gateway: member.gateway.uuid(),
        automatic: member.automatic,
    };
    let written = Written {
        version: VERSION,
        epoch: set.epoch.get(),
        primary: set.primary.uuid(),
        in_sync: set.in_sync.iter().map(member).collect(),
        lease_ms: set.lease_ms,
    };
    serde_json::to_string(&written).expect("plain numbers and texts fit JSON")
}

pub(super) fn read(bytes: &[u8]) -> Result<Configuration, String> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.version != VERSION {
        return Err(format!("its version is {}, this release reads {VERSION}", written.version));
    }
    let member = |member: WrittenMember| Member {
        gateway: GatewayId::from_uuid(member.gateway),
        automatic: member.automatic,
    };
    let mut in_sync: Vec<Member> = written.in_sync.into_iter().map(member).collect();
    in_sync.sort_unstable();
    Ok(Configuration {
        epoch: Epoch::new(written.epoch),
        primary: GatewayId::from_uuid(written.primary),
        in_sync,
        lease_ms: written.lease_ms,
    })
}

pub(super) fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            let letter = char::from(ALPHABET[index as usize]);
            out.push(if at <= chunk.len() { letter } else { '=' });
        }
    }
    out
}

pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_length() {
        assert_eq!(to_base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).map(|n| n.wrapping_mul(37)).collect();
            assert_eq!(from_base64(&to_base64(&bytes)), Some(bytes));
        }
        assert_eq!(from_base64("a*"), None);
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written_and_nothing_else_is() {
        let set = Configuration {
            epoch: Epoch::new(7),
            primary: GatewayId::of(1),
            in_sync: vec![Member { gateway: GatewayId::of(2), automatic: true }],
            lease_ms: 6_000,
        };
        let text = concat!(
            r#"{"version":1,"epoch":7,"primary":"00000000-0000-0000-0000-000000000001","#,
            r#""in_sync":[{"gateway":"00000000-0000-0000-0000-000000000002","automatic":true}],"#,
            r#""lease_ms":6000}"#
        );
        assert_eq!(write(&set), text);
        assert_eq!(read(text.as_bytes()), Ok(set));
        for wrong in ["", "{}", "7", &text.replace("\"version\":1", "\"version\":2")] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(read(text.replace("lease_ms", "leash_ms").as_bytes()).is_err());
    }
}
