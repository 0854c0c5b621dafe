//! The token as one line of text, and what its issuer remembers of it.
//!
//! Invariant: the record holds nothing from which the secret can be found. It is as private as the
//! gateway's key all the same: who has it can make a proof until the token is used or expires.

use std::fmt;

use super::{JoinError, JoinProof, JoinRefused};
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use crate::trust::{Fingerprint, TrustError, random};
use crate::wire::cursor::{Reader, Writer};
use crate::wire::{Corrupt, Unsendable};

/// What every token's text begins with: kind and version.
const PREFIX: &str = "twj1_";
/// RFC 4648, in lower case: a token survives being spelled, and a double click selects it whole.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// A token with the longest addresses fits.
const TEXT_BYTES_MAX: usize = 8192;

/// The right to join, to be given to one gateway by hand. Its text form holds the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    issuer: Fingerprint,
    expires_unix_s: u64,
    addresses: Vec<String>,
    secret: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the secret: this ends up in logs.
        f.debug_struct("Token")
            .field("issuer", &self.issuer)
            .field("expires_unix_s", &self.expires_unix_s)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Makes a token with a new secret, for a gateway that is reached at `addresses`.
    ///
    /// # Errors
    /// [`TrustError::Make`] when there is no randomness to be had, or too many or too long
    /// addresses, or none.
    pub fn issue(
        issuer: Fingerprint,
        addresses: &[String],
        expires_unix_s: u64,
    ) -> Result<(Self, TokenRecord), TrustError> {
        let fits = |address: &String| (1..=ADDRESS_BYTES_MAX).contains(&address.len());
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) || !addresses.iter().all(fits) {
            return Err(TrustError::Make("a token needs 1 to 8 addresses, host:port".to_owned()));
        }
        let mut secret = [0; 32];
        random(&mut secret)?;
        let token = Self { issuer, expires_unix_s, addresses: addresses.to_vec(), secret };
        let record =
            TokenRecord { id: token.id(), verifier: token.verifier(), expires_unix_s, used: None };
        Ok((token, record))
    }

    /// Reads a token's text; white space around it does not matter.
    ///
    /// # Errors
    /// [`JoinError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        let text = text.trim();
        let coded = text.strip_prefix(PREFIX).ok_or(JoinError::Malformed("it begins otherwise"))?;
        if coded.len() > TEXT_BYTES_MAX {
            return Err(JoinError::Malformed("it is too long"));
        }
        let bytes = from_base32(coded).ok_or(JoinError::Malformed("a character is not base32"))?;
        let (body, sum) =
            bytes.split_last_chunk::<4>().ok_or(JoinError::Malformed("it is too short"))?;
        if crc_fast::crc32_iscsi(body).to_le_bytes() != *sum {
            return Err(JoinError::Malformed("its checksum does not match: copy it whole"));
        }
        Self::read(body).map_err(|Corrupt(what)| JoinError::Malformed(what))
    }

    fn read(body: &[u8]) -> Result<Self, Corrupt> {
        let mut r = Reader::new(body);
        let issuer = Fingerprint::from_bytes(r.array()?);
        let secret = r.array()?;
        let expires_unix_s = r.u64()?;
        let addresses = r.list(ADDRESSES_MAX, 2, |r| r.text(ADDRESS_BYTES_MAX))?;
        r.end()?;
        Ok(Self { issuer, expires_unix_s, addresses, secret })
    }

    fn write(&self) -> Result<Vec<u8>, Unsendable> {
        let mut body = Vec::new();
        let mut w = Writer::new(&mut body);
        w.bytes(self.issuer.bytes());
        w.bytes(&self.secret);
        w.u64(self.expires_unix_s);
        w.count(self.addresses.len(), ADDRESSES_MAX)?;
        self.addresses.iter().try_for_each(|address| w.name(address, ADDRESS_BYTES_MAX))?;
        let sum = crc_fast::crc32_iscsi(&body);
        body.extend_from_slice(&sum.to_le_bytes());
        Ok(body)
    }

    /// The token as one line. It holds the secret: show it once, log it never.
    ///
    /// # Panics
    /// Never: its addresses were checked when it was made.
    #[must_use]
    pub fn text(&self) -> String {
        let body = self.write().expect("the addresses were checked when the token was made");
        format!("{PREFIX}{}", to_base32(&body))
    }

    /// The certificate of the gateway that issued it.
    #[must_use]
    pub const fn issuer(&self) -> Fingerprint {
        self.issuer
    }

    /// When it ends, in seconds since 1970.
    #[must_use]
    pub const fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// Where the issuer is reached.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn id(&self) -> [u8; 16] {
        let hash = blake3::derive_key("gateway link, join token, its id", &self.secret);
        std::array::from_fn(|index| hash[index])
    }

    fn verifier(&self) -> [u8; 32] {
        blake3::derive_key("gateway link, join token, its verifier", &self.secret)
    }

    pub(super) fn prove(&self, joiner: Fingerprint, statement: &[u8]) -> [u8; 32] {
        *mac(&self.verifier(), self.issuer, joiner, statement).as_bytes()
    }
}

fn mac(
    verifier: &[u8; 32],
    issuer: Fingerprint,
    joiner: Fingerprint,
    statement: &[u8],
) -> blake3::Hash {
    // The fingerprints have a fixed length, so the parts cannot run into each other.
    let mut hasher = blake3::Hasher::new_keyed(verifier);
    hasher.update(issuer.bytes()).update(joiner.bytes()).update(statement);
    hasher.finalize()
}

/// What the issuer keeps of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRecord {
    id: [u8; 16],
    verifier: [u8; 32],
    expires_unix_s: u64,
    used: Option<Fingerprint>,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("expires_unix_s", &self.expires_unix_s)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// The first byte of a record's bytes.
const RECORD_VERSION: u8 = 1;

impl TokenRecord {
    /// Which token: not secret.
    #[must_use]
    pub const fn id(&self) -> [u8; 16] {
        self.id
    }

    /// When it ends, in seconds since 1970.
    #[must_use]
    pub const fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// Who used it.
    #[must_use]
    pub const fn used_by(&self) -> Option<Fingerprint> {
        self.used
    }

    /// Checks a proof and marks the token as used; the caller then writes the record down.
    ///
    /// # Errors
    /// [`JoinRefused::UnknownToken`], [`JoinRefused::WrongProof`], [`JoinRefused::AlreadyUsed`] by
    /// another certificate, [`JoinRefused::Expired`]; the record is as it was.
    pub fn redeem(&mut self, proof: &JoinProof, now_unix_s: u64) -> Result<(), JoinRefused> {
        if proof.token != self.id {
            return Err(JoinRefused::UnknownToken);
        }
        // Hashes compare in constant time.
        let expected = mac(&self.verifier, proof.issuer, proof.joiner, &proof.statement);
        if expected != blake3::Hash::from_bytes(proof.mac) {
            return Err(JoinRefused::WrongProof);
        }
        if self.used.is_some_and(|used| used != proof.joiner) {
            return Err(JoinRefused::AlreadyUsed);
        }
        if self.expires_unix_s <= now_unix_s {
            return Err(JoinRefused::Expired);
        }
        self.used = Some(proof.joiner);
        Ok(())
    }

    /// The record, to be kept where nobody else can read it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.byte(RECORD_VERSION);
        w.bytes(&self.id);
        w.bytes(&self.verifier);
        w.u64(self.expires_unix_s);
        w.byte(u8::from(self.used.is_some()));
        w.bytes(self.used.unwrap_or(Fingerprint::from_bytes([0; 32])).bytes());
        let sum = crc_fast::crc32_iscsi(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// A record that was kept.
    ///
    /// # Errors
    /// [`Corrupt`] when these are not its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Corrupt("record is cut off"))?;
        if crc_fast::crc32_iscsi(body).to_le_bytes() != *sum {
            return Err(Corrupt("record does not match its checksum"));
        }
        let mut r = Reader::new(body);
        if r.byte()? != RECORD_VERSION {
            return Err(Corrupt("record of another version"));
        }
        let (id, verifier, expires_unix_s) = (r.array()?, r.array()?, r.u64()?);
        let (is_used, by) = (r.bool()?, Fingerprint::from_bytes(r.array()?));
        r.end()?;
        Ok(Self { id, verifier, expires_unix_s, used: is_used.then_some(by) })
    }
}

fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    for group in bytes.chunks(5) {
        let mut bits = [0; 8];
        bits[..group.len()].copy_from_slice(group);
        let bits = u64::from_be_bytes(bits);
        for index in 0..(group.len() * 8).div_ceil(5) {
            let digit = bits >> (59 - 5 * index) & 31;
            text.push(char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)]));
        }
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8 + 1);
    let (mut bits, mut count) = (0_u16, 0);
    for character in text.bytes() {
        let digit = match character.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => letter - b'a',
            number @ b'2'..=b'7' => number - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u16::from(digit);
        count += 5;
        if count >= 8 {
            count -= 8;
            let [_, byte] = (bits >> count).to_be_bytes();
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued() -> (Token, TokenRecord) {
        let addresses = vec!["east.example:7400".to_owned(), "[::1]:7400".to_owned()];
        Token::issue(Fingerprint::of(b"issuer"), &addresses, 1000).unwrap()
    }

    fn proof(token: &Token, issuer: &[u8], joiner: &[u8], statement: &[u8]) -> JoinProof {
        JoinProof {
            token: token.id(),
            issuer: Fingerprint::of(issuer),
            joiner: Fingerprint::of(joiner),
            statement: statement.to_vec(),
            mac: token.prove(Fingerprint::of(b"joiner"), b"who I am"),
        }
    }

    #[test]
    fn text_survives_and_damage_is_noticed() {
        let (token, _) = issued();
        let text = token.text();
        assert_eq!(Token::parse(&format!("  {text}\n")), Ok(token.clone()));
        assert!(Token::parse(&text.replace("twj1_", "twj2_")).is_err());
        for at in PREFIX.len()..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let damaged = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            // The last character has bits that stand for nothing.
            if at + 1 < text.len() {
                assert!(Token::parse(&damaged).is_err(), "character {at}");
            }
            assert!(Token::parse(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_record_lets_one_certificate_in_and_only_in_time() {
        let (token, mut record) = issued();
        let good = proof(&token, b"issuer", b"joiner", b"who I am");
        let redeem = |record: &mut TokenRecord, proof: &JoinProof, now| record.redeem(proof, now);

        let (other, _) = issued();
        let unknown = proof(&other, b"issuer", b"joiner", b"who I am");
        assert_eq!(redeem(&mut record, &unknown, 1), Err(JoinRefused::UnknownToken));
        for (issuer, joiner, statement) in [
            (&b"middle"[..], &b"joiner"[..], &b"who I am"[..]),
            (b"issuer", b"middle", b"who I am"),
            (b"issuer", b"joiner", b"who I am not"),
        ] {
            let changed = proof(&token, issuer, joiner, statement);
            assert_eq!(redeem(&mut record, &changed, 1), Err(JoinRefused::WrongProof));
        }
        assert_eq!(redeem(&mut record, &good, 1000), Err(JoinRefused::Expired));
        assert_eq!(record.used_by(), None);
        assert_eq!(redeem(&mut record, &good, 999), Ok(()));
        assert_eq!(redeem(&mut record, &good, 999), Ok(()), "an answer that was lost");

        let mut again = proof(&token, b"issuer", b"second", b"who I am");
        again.mac = token.prove(Fingerprint::of(b"second"), b"who I am");
        assert_eq!(redeem(&mut record, &again, 999), Err(JoinRefused::AlreadyUsed));
        assert_eq!(TokenRecord::from_bytes(&record.to_bytes()), Ok(record));
    }
}
