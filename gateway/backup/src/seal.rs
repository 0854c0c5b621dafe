//! The keys of a repository and the envelope around each of its small objects.
//!
//! ```text
//!   0   magic "TWSBAK"   kind  0
//!   8   version u16      features u16        little-endian, as all numbers here
//!   12  length of the body before compression, u32     reserved u32
//!   20  salt, 16 bytes
//!   36  body: zstd, then AES-256-GCM where the repository is encrypted
//!   end BLAKE3 of everything before, 32 bytes
//! ```
//!
//! Invariant: a key of AES-GCM is used for one object (its salt is random), or for the packs of one
//! attempt, each chunk under its own number; so no pair of key and nonce occurs twice.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::codec::{Malformed, Reader, Writer};
use crate::error::BackupError;
use crate::id::{Attempt, ChunkId};

/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u16 = 1;
const MAGIC: &[u8; 6] = b"TWSBAK";
const HEADER: usize = 36;
const CHECKSUM: usize = 32;
/// What encryption adds to a chunk.
pub(crate) const TAG: usize = 16;
/// The body is encrypted.
const ENCRYPTED: u16 = 1;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Repository,
    Manifest,
    /// In a manifest's place: the run that would have put one was abandoned.
    Void,
    Map,
    Pin,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Repository => b'R',
            Self::Manifest => b'M',
            Self::Void => b'V',
            Self::Map => b'S',
            Self::Pin => b'P',
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Self::Manifest => crate::limits::MANIFEST_BYTES_MAX,
            Self::Map => crate::limits::MAP_BYTES_MAX,
            Self::Repository | Self::Void | Self::Pin => crate::limits::SMALL_BYTES_MAX,
        }
    }
}

/// The key that a repository is encrypted with. The store never sees it, and without it nothing
/// can be restored.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// 256 bits that nobody can guess: not a password.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// So many random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], BackupError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_unspecified| BackupError::System { what: "randomness" })?;
    Ok(bytes)
}

/// A new attempt.
pub(crate) fn new_attempt() -> Result<Attempt, BackupError> {
    Ok(Attempt(Uuid::from_bytes(random()?)))
}

/// What reads and writes the objects of one repository.
#[derive(Clone)]
pub(crate) struct Keys {
    master: Zeroizing<[u8; 32]>,
    chunk_ids: Zeroizing<[u8; 32]>,
    is_encrypted: bool,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("is_encrypted", &self.is_encrypted).finish_non_exhaustive()
    }
}

impl Keys {
    fn new(master: [u8; 32], is_encrypted: bool) -> Self {
        let chunk_ids = blake3::derive_key("twinspan backup 1 chunk ids", &master);
        Self { master: Zeroizing::new(master), chunk_ids: Zeroizing::new(chunk_ids), is_encrypted }
    }

    /// New keys, and the header that holds them: wrapped in `key` where there is one.
    pub(crate) fn create(key: Option<&Key>) -> Result<(Self, Vec<u8>), BackupError> {
        let master: [u8; 32] = random()?;
        let mut body = Writer::default();
        body.raw(&random::<16>()?);
        body.byte(u8::from(key.is_some()));
        match key {
            Some(key) => {
                let nonce: [u8; 12] = random()?;
                let mut wrapped = master.to_vec();
                encrypt(&wrapping(key), nonce, &mut wrapped);
                body.raw(&nonce);
                body.raw(&wrapped);
            }
            None => body.raw(&master),
        }
        let header = envelope(Kind::Repository, &body.into_bytes(), None)?;
        Ok((Self::new(master, key.is_some()), header))
    }

    /// The keys that a header holds.
    pub(crate) fn open(object: &[u8], key: Option<&Key>) -> Result<Self, BackupError> {
        let name = crate::layout::REPOSITORY;
        let body = unwrap(Kind::Repository, name, object, |_salt| None)?;
        let mut reader = Reader::new(&body);
        let mut read = || -> Result<(bool, [u8; 12], Vec<u8>), Malformed> {
            reader.raw(16)?;
            let is_encrypted = reader.byte()? != 0;
            if is_encrypted {
                return Ok((true, reader.array()?, reader.raw(32 + TAG)?.to_vec()));
            }
            Ok((false, [0; 12], reader.raw(32)?.to_vec()))
        };
        let (is_encrypted, nonce, mut master) = read().map_err(|e| damaged(name, e))?;
        match (is_encrypted, key) {
            (true, None) => return Err(BackupError::KeyNeeded),
            (false, Some(_)) => return Err(BackupError::NotEncrypted),
            (true, Some(key)) => {
                let opened = decrypt(&wrapping(key), nonce, &mut master);
                master = opened.ok_or(BackupError::WrongKey)?.to_vec();
            }
            (false, None) => {}
        }
        let fits: Result<[u8; 32], _> = master.as_slice().try_into();
        let master = fits.map_err(|_length| damaged(name, Malformed("its key is too short")))?;
        Ok(Self::new(master, is_encrypted))
    }

    /// Whether bodies are encrypted.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// What names this content.
    pub(crate) fn chunk_id(&self, content: &[u8]) -> ChunkId {
        let hash = blake3::keyed_hash(&self.chunk_ids, content);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        ChunkId(id)
    }

    /// The key of an attempt's packs, where they are encrypted.
    pub(crate) fn of_attempt(&self, attempt: Attempt) -> Option<LessSafeKey> {
        self.is_encrypted.then(|| derived(&self.master, b'A', attempt.0.as_bytes()))
    }

    fn of_salt(&self, salt: &[u8; 16]) -> Option<LessSafeKey> {
        self.is_encrypted.then(|| derived(&self.master, b'O', salt))
    }

    /// Puts a body into its envelope.
    pub(crate) fn seal(&self, kind: Kind, body: &[u8]) -> Result<Vec<u8>, BackupError> {
        envelope(kind, body, self.is_encrypted.then_some(self))
    }

    /// Takes a body out of its envelope, checked.
    pub(crate) fn unseal(
        &self,
        kind: Kind,
        key: &str,
        object: &[u8],
    ) -> Result<Vec<u8>, BackupError> {
        unwrap(kind, key, object, |salt| self.of_salt(salt))
    }
}

/// The kind that an object says it is, to tell a manifest from what stands in its place.
pub(crate) fn is_kind(kind: Kind, object: &[u8]) -> bool {
    object.get(..6) == Some(MAGIC) && object.get(6) == Some(&kind.byte())
}

pub(crate) fn damaged(key: &str, Malformed(why): Malformed) -> BackupError {
    BackupError::Damaged { key: key.to_owned(), why }
}

fn wrapping(key: &Key) -> LessSafeKey {
    aes(&blake3::derive_key("twinspan backup 1 wrapping of the master key", &key.0[..]))
}

fn derived(master: &[u8; 32], domain: u8, name: &[u8; 16]) -> LessSafeKey {
    let mut context = [domain; 17];
    context[1..].copy_from_slice(name);
    aes(blake3::keyed_hash(master, &context).as_bytes())
}

fn aes(key: &[u8; 32]) -> LessSafeKey {
    let unbound = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
    LessSafeKey::new(unbound)
}

/// Encrypts in place and appends the tag.
pub(crate) fn encrypt(key: &LessSafeKey, nonce: [u8; 12], bytes: &mut Vec<u8>) {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed = key.seal_in_place_append_tag(nonce, Aad::empty(), bytes);
    sealed.expect("no object is as long as AES-GCM's limit of 64 GiB");
}

/// Decrypts in place; `None` when key or bytes are not those.
pub(crate) fn decrypt<'a>(
    key: &LessSafeKey,
    nonce: [u8; 12],
    bytes: &'a mut [u8],
) -> Option<&'a [u8]> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::empty(), bytes).ok().map(|plain| &*plain)
}

fn envelope(kind: Kind, body: &[u8], keys: Option<&Keys>) -> Result<Vec<u8>, BackupError> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= kind.bytes_max());
    let length = length.ok_or(BackupError::System { what: "an object of this size" })?;
    let salt: [u8; 16] = random()?;
    let mut stored = compress(body)?;
    if let Some(key) = keys.and_then(|keys| keys.of_salt(&salt)) {
        encrypt(&key, [0; 12], &mut stored);
    }
    let mut object = Vec::with_capacity(HEADER + stored.len() + CHECKSUM);
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&[kind.byte(), 0]);
    object.extend_from_slice(&VERSION.to_le_bytes());
    let features = if keys.is_some() { ENCRYPTED } else { 0 };
    object.extend_from_slice(&features.to_le_bytes());
    object.extend_from_slice(&length.to_le_bytes());
    object.extend_from_slice(&[0; 4]);
    object.extend_from_slice(&salt);
    object.extend_from_slice(&stored);
    let checksum = blake3::hash(&object);
    object.extend_from_slice(checksum.as_bytes());
    Ok(object)
}

fn unwrap(
    kind: Kind,
    key: &str,
    object: &[u8],
    cipher: impl FnOnce(&[u8; 16]) -> Option<LessSafeKey>,
) -> Result<Vec<u8>, BackupError> {
    let wrong = |why| damaged(key, Malformed(why));
    let mut reader = Reader::new(object);
    let cut_off = |e| damaged(key, e);
    let magic = reader.raw(6).map_err(cut_off)?;
    let said: [u8; 2] = reader.array().map_err(cut_off)?;
    let version = u16::from_le_bytes(reader.array().map_err(cut_off)?);
    let features = u16::from_le_bytes(reader.array().map_err(cut_off)?);
    if magic != MAGIC || said != [kind.byte(), 0] {
        return Err(wrong("it does not begin as such an object does"));
    }
    // Before the checksum: a later version may keep it elsewhere.
    if version > VERSION {
        return Err(BackupError::Newer { key: key.to_owned(), found: version, known: VERSION });
    }
    if features & !ENCRYPTED != 0 {
        let features = features & !ENCRYPTED;
        return Err(BackupError::UnknownFeatures { key: key.to_owned(), features });
    }
    let Some((checked, checksum)) = object.split_last_chunk::<CHECKSUM>() else {
        return Err(wrong("it is cut off"));
    };
    if checked.len() < HEADER || blake3::hash(checked) != *checksum {
        return Err(wrong("its checksum does not fit its bytes"));
    }
    let mut fields = Reader::new(&checked[12..HEADER]);
    let mut read = || -> Result<(u32, [u8; 16]), Malformed> {
        let length = u32::from_le_bytes(fields.array()?);
        fields.raw(4)?;
        Ok((length, fields.array()?))
    };
    let (length, salt) = read().map_err(|e| damaged(key, e))?;
    let mut stored = checked[HEADER..].to_vec();
    let cipher = cipher(&salt);
    if cipher.is_some() != (features & ENCRYPTED != 0) {
        return Err(wrong("it is encrypted in a repository that is not, or the other way round"));
    }
    let plain = match &cipher {
        None => &stored[..],
        Some(cipher) => decrypt(cipher, [0; 12], &mut stored)
            .ok_or_else(|| wrong("it was not written with this repository's key"))?,
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > kind.bytes_max() {
        return Err(wrong("it says to be larger than such an object can be"));
    }
    decompress(plain, length).ok_or_else(|| wrong("it does not decompress"))
}

pub(crate) fn compress(plain: &[u8]) -> Result<Vec<u8>, BackupError> {
    let compressed = zstd::bulk::compress(plain, LEVEL);
    compressed.map_err(|_out_of_memory| BackupError::System { what: "memory to compress" })
}

/// Fast; the next levels gain a few per cent of size for twice the time.
pub(crate) const LEVEL: i32 = 1;

/// Exactly so many bytes out of these, or `None`.
pub(crate) fn decompress(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    // A frame that says its size is believed only if it is the one that is expected, so that no
    // memory is taken for a lie.
    let said = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten()?;
    if usize::try_from(said) != Ok(length) {
        return None;
    }
    let plain = zstd::bulk::decompress(stored, length).ok()?;
    (plain.len() == length).then_some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(key: Option<&Key>) -> Keys {
        Keys::create(key).unwrap().0
    }

    #[test]
    fn a_header_opens_with_its_key_and_no_other() {
        let key = Key::new([7; 32]);
        let (keys, header) = Keys::create(Some(&key)).unwrap();
        let again = Keys::open(&header, Some(&key)).unwrap();
        assert_eq!(again.chunk_id(b"x"), keys.chunk_id(b"x"));
        let refused = |key: Option<&Key>| Keys::open(&header, key).unwrap_err();
        assert!(matches!(refused(None), BackupError::KeyNeeded));
        assert!(matches!(refused(Some(&Key::new([8; 32]))), BackupError::WrongKey));
        let (_, bare) = Keys::create(None).unwrap();
        assert!(Keys::open(&bare, None).is_ok());
        assert!(matches!(Keys::open(&bare, Some(&key)), Err(BackupError::NotEncrypted)));
    }

    #[test]
    fn chunk_ids_of_two_repositories_have_nothing_in_common() {
        assert_ne!(keys(None).chunk_id(b"x"), keys(None).chunk_id(b"x"));
    }

    #[test]
    fn the_bytes_of_an_envelope_are_these() {
        // A pin with the body "twinspan", as version 1 wrote it.
        let object = include_bytes!("envelope_1.bin");
        let body = keys(None).unseal(Kind::Pin, "pins/x", object).unwrap();
        assert_eq!(body, b"twinspan");
    }

    #[test]
    fn a_newer_version_and_unknown_features_are_refused_by_name() {
        let keys = keys(None);
        let mut object = keys.seal(Kind::Manifest, b"body").unwrap();
        object[8] = 2;
        let error = keys.unseal(Kind::Manifest, "backups/x", &object).unwrap_err();
        assert!(
            matches!(&error, BackupError::Newer { key, found: 2, known: 1 } if key == "backups/x")
        );
        assert!(error.to_string().contains("Upgrade"), "{error}");
        let mut object = keys.seal(Kind::Manifest, b"body").unwrap();
        object[10] = 4;
        let error = keys.unseal(Kind::Manifest, "backups/x", &object).unwrap_err();
        assert!(matches!(error, BackupError::UnknownFeatures { features: 4, .. }));
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back_and_a_changed_byte_is_found(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            encrypted: bool,
            at: usize,
            flip in 1_u8..,
        ) {
            let key = Key::new([1; 32]);
            let keys = keys(encrypted.then_some(&key));
            let mut object = keys.seal(Kind::Map, &body).unwrap();
            prop_assert_eq!(keys.unseal(Kind::Map, "m", &object).unwrap(), body);
            let at = at % object.len();
            object[at] ^= flip;
            prop_assert!(keys.unseal(Kind::Map, "m", &object).is_err());
        }

        #[test]
        fn garbage_is_an_error(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let keys = keys(None);
            let mut framed = keys.seal(Kind::Map, b"x").unwrap();
            prop_assert!(keys.unseal(Kind::Map, "m", &garbage).is_err());
            // The same behind a right head and before a right checksum: it is the decompressor's.
            framed.truncate(HEADER);
            framed.extend_from_slice(&garbage);
            let checksum = blake3::hash(&framed);
            framed.extend_from_slice(checksum.as_bytes());
            prop_assert!(keys.unseal(Kind::Map, "m", &framed).is_err());
        }
    }
}
