//! Packs: chunks one behind the other, and at the end an index that says what they are.
//!
//! ```text
//!   0    magic "TWSPACK\0"   version u16   features u16   number u32   backup 16   attempt 16
//!   48   chunks, each compressed where that helps, each encrypted by itself
//!   i    index: which blocks were looked at, and what each of them held
//!   end  i u32, its stored length u32, its plain length u32, version u16, features u16,
//!        BLAKE3 of index and the fields before, 32 bytes, magic "TWSPEND\0"
//! ```
//!
//! A map leads straight to a chunk, so the index is read only when a run is resumed: it is how a
//! run finds what it stored before it was killed.
//!
//! Invariant: within an attempt a number is given to one pack, so a nonce is used once.

use std::fmt;

use block::BLOCK_BYTES;
use bytes::Bytes;
use ring::aead::LessSafeKey;

use super::map::{Entry, Map, Place};
use crate::codec::{Malformed, Reader, Writer};
use crate::error::BackupError;
use crate::id::{Attempt, ChunkId, PackRef};
use crate::limits::{MAP_BYTES_MAX, PACK_BYTES_MAX, VOLUME_BLOCKS_MAX, VOLUMES_MAX};
use crate::seal::{self, Keys, TAG, VERSION, damaged};

const MAGIC: &[u8; 8] = b"TWSPACK\0";
const END: &[u8; 8] = b"TWSPEND\0";
const HEADER: usize = 48;
const FOOTER: usize = 56;
const ENCRYPTED: u16 = 1;

/// Which blocks of which volume were looked at while a pack was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub(crate) volume: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What a pack says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) coverage: Coverage,
    pub(crate) entries: Vec<Entry>,
}

/// A pack that is being filled.
pub(crate) struct Pack {
    reference: PackRef,
    bytes: Vec<u8>,
    cipher: Option<LessSafeKey>,
    coverage: Coverage,
    entries: Vec<Entry>,
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Pack");
        debug.field("reference", &self.reference).field("coverage", &self.coverage);
        debug.finish_non_exhaustive()
    }
}

impl Pack {
    /// An empty one, for what is read of a volume from this block on.
    pub(crate) fn new(keys: &Keys, reference: PackRef, volume: u32, from: u64) -> Self {
        let cipher = keys.of_attempt(reference.attempt);
        let features = if cipher.is_some() { ENCRYPTED } else { 0 };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&features.to_le_bytes());
        bytes.extend_from_slice(&reference.number.to_le_bytes());
        bytes.extend_from_slice(reference.run.uuid().as_bytes());
        bytes.extend_from_slice(reference.attempt.0.as_bytes());
        let coverage = Coverage { volume, from, to: from };
        Self { reference, bytes, cipher, coverage, entries: Vec::new() }
    }

    /// Bytes of chunks.
    pub(crate) fn data_bytes(&self) -> usize {
        self.bytes.len() - HEADER
    }

    /// Appends a chunk, as [`crate::chunk::prepare`] made it.
    pub(crate) fn push(
        &mut self,
        chunk: &[u8],
        compressed: bool,
        blocks: u8,
        id: ChunkId,
    ) -> Place {
        let offset = position(self.bytes.len());
        match &self.cipher {
            None => self.bytes.extend_from_slice(chunk),
            Some(key) => {
                let mut sealed = chunk.to_vec();
                seal::encrypt(key, nonce(0, self.reference.number, offset), &mut sealed);
                self.bytes.extend_from_slice(&sealed);
            }
        }
        let stored = position(self.bytes.len()) - offset;
        Place { pack: self.reference, offset, stored, compressed, blocks, id }
    }

    /// Says what blocks hold that were looked at.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Says that everything before this block was looked at.
    pub(crate) fn reach(&mut self, to: u64) {
        self.coverage.to = to;
    }

    /// Before which block everything was looked at.
    pub(crate) fn reached(&self) -> u64 {
        self.coverage.to
    }

    /// How many entries its index has.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Adds the index.
    pub(crate) fn finish(mut self) -> Result<(PackRef, Bytes), BackupError> {
        let mut index = Writer::default();
        index.number(u64::from(self.coverage.volume));
        index.number(self.coverage.from);
        index.number(self.coverage.to);
        index.raw(&Map { entries: self.entries }.encode());
        let index = index.into_bytes();
        let offset = position(self.bytes.len());
        let mut stored = seal::compress(&index)?;
        if let Some(key) = &self.cipher {
            seal::encrypt(key, nonce(1, self.reference.number, offset), &mut stored);
        }
        let features = if self.cipher.is_some() { ENCRYPTED } else { 0 };
        let mut fields = Vec::with_capacity(FOOTER);
        for field in [offset, position(stored.len()), position(index.len())] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&features.to_le_bytes());
        let checksum = checksum(&stored, &fields);
        self.bytes.extend_from_slice(&stored);
        self.bytes.extend_from_slice(&fields);
        self.bytes.extend_from_slice(&checksum);
        self.bytes.extend_from_slice(END);
        Ok((self.reference, self.bytes.into()))
    }
}

/// A position in a pack, which is far smaller than 4 GiB: see [`PACK_BYTES_MAX`].
fn position(at: usize) -> u32 {
    u32::try_from(at).expect("a pack is smaller than 4 GiB")
}

fn nonce(domain: u8, number: u32, offset: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = domain;
    nonce[1..5].copy_from_slice(&number.to_le_bytes());
    nonce[5..9].copy_from_slice(&offset.to_le_bytes());
    nonce
}

fn checksum(index: &[u8], fields: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(index).update(fields);
    *hasher.finalize().as_bytes()
}

/// The end of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    offset: u32,
    stored: u32,
    plain: u32,
    fields: [u8; 16],
    checksum: [u8; 32],
}

impl Footer {
    /// How many bytes of a pack's end it takes.
    pub(crate) const BYTES: u64 = FOOTER as u64;

    /// From the last bytes of the pack under this key, which is so long.
    pub(crate) fn decode(key: &str, bytes: &[u8], pack_bytes: u64) -> Result<Self, BackupError> {
        let mut reader = Reader::new(bytes);
        let cut_off = |e| damaged(key, e);
        let fields: [u8; 16] = reader.array().map_err(cut_off)?;
        let checksum: [u8; 32] = reader.array().map_err(cut_off)?;
        let end: [u8; 8] = reader.array().map_err(cut_off)?;
        if end != *END {
            return Err(damaged(key, Malformed("it does not end as a pack does")));
        }
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&fields[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        let (version, features) = (u16::from_le_bytes([fields[12], fields[13]]), fields[14]);
        if version > VERSION {
            return Err(BackupError::Newer { key: key.to_owned(), found: version, known: VERSION });
        }
        let features = u16::from(features) | u16::from(fields[15]) << 8;
        if features & !ENCRYPTED != 0 {
            let features = features & !ENCRYPTED;
            return Err(BackupError::UnknownFeatures { key: key.to_owned(), features });
        }
        let footer =
            Self { offset: number(0), stored: number(4), plain: number(8), fields, checksum };
        let end = u64::from(footer.offset) + u64::from(footer.stored) + Self::BYTES;
        if end != pack_bytes || footer.plain as usize > MAP_BYTES_MAX {
            return Err(damaged(key, Malformed("its index does not lie before its end")));
        }
        Ok(footer)
    }
}

/// Where in a pack its index lies.
pub(crate) fn index_range(footer: &Footer) -> std::ops::Range<u64> {
    let offset = u64::from(footer.offset);
    offset..offset + u64::from(footer.stored)
}

/// The index, checked.
pub(crate) fn open_index(
    keys: &Keys,
    pack: &PackRef,
    footer: &Footer,
    stored: &[u8],
) -> Result<Index, BackupError> {
    let key = crate::layout::pack(pack);
    let wrong = |why| damaged(&key, Malformed(why));
    if checksum(stored, &footer.fields) != footer.checksum {
        return Err(wrong("the checksum of its index does not fit"));
    }
    let mut stored = stored.to_vec();
    let plain = match keys.of_attempt(pack.attempt) {
        None => &stored[..],
        Some(cipher) => seal::decrypt(&cipher, nonce(1, pack.number, footer.offset), &mut stored)
            .ok_or_else(|| wrong("it was not written with this repository's key"))?,
    };
    let plain = seal::decompress(plain, footer.plain as usize);
    let plain = plain.ok_or_else(|| wrong("its index does not decompress"))?;
    read_index(&plain).map_err(|e| damaged(&key, e))
}

fn read_index(plain: &[u8]) -> Result<Index, Malformed> {
    let mut reader = Reader::new(plain);
    let volume = u32::try_from(reader.at_most(VOLUMES_MAX as u64)?).unwrap_or(u32::MAX);
    let (from, to) = (reader.at_most(VOLUME_BLOCKS_MAX)?, reader.at_most(VOLUME_BLOCKS_MAX)?);
    let map = Map::read(&mut reader)?;
    reader.end()?;
    let inside = |entry: &Entry| entry.span.first >= from && entry.span.end <= to;
    if !map.entries.iter().all(inside) {
        return Err(Malformed("its index tells of blocks that were not looked at"));
    }
    Ok(Index { coverage: Coverage { volume, from, to }, entries: map.entries })
}

/// The content of a chunk out of its bytes in the pack, checked against what names it.
pub(crate) fn decode_chunk(
    keys: &Keys,
    cipher: Option<&LessSafeKey>,
    place: &Place,
    stored: &[u8],
) -> Result<Bytes, Malformed> {
    let length = usize::from(place.blocks) * usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let mut opened;
    let plain = match cipher {
        None => stored,
        Some(cipher) if stored.len() >= TAG => {
            opened = stored.to_vec();
            seal::decrypt(cipher, nonce(0, place.pack.number, place.offset), &mut opened)
                .ok_or(Malformed("a chunk was altered"))?
        }
        Some(_) => return Err(Malformed("a chunk is cut off")),
    };
    let content = if place.compressed {
        seal::decompress(plain, length).ok_or(Malformed("a chunk does not decompress"))?
    } else {
        plain.to_vec()
    };
    if content.len() != length || keys.chunk_id(&content) != place.id {
        return Err(Malformed("a chunk is not what was written"));
    }
    Ok(content.into())
}

const _: () = assert!(PACK_BYTES_MAX < u32::MAX as usize / 2);

/// The attempt's key, for many chunks.
pub(crate) fn cipher(keys: &Keys, attempt: Attempt) -> Option<LessSafeKey> {
    keys.of_attempt(attempt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::map::{Content, Span};
    use super::*;
    use crate::{BackupId, Key};

    fn pack_of(keys: &Keys, contents: &[Vec<u8>]) -> (PackRef, Bytes, Vec<Place>) {
        let run = BackupId::from_uuid(Uuid::from_u128(1));
        let reference = PackRef { run, attempt: Attempt(Uuid::from_u128(2)), number: 3 };
        let mut pack = Pack::new(keys, reference, 0, 10);
        let mut places = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            let id = keys.chunk_id(content);
            let place = pack.push(content, false, 1, id);
            let first = 10 + number as u64;
            let content = Content::Chunk { place, skip: 0 };
            pack.note(Entry { span: Span::new(first, first + 1), content });
            places.push(place);
        }
        pack.reach(10 + contents.len() as u64);
        let (reference, bytes) = pack.finish().unwrap();
        (reference, bytes, places)
    }

    fn index(keys: &Keys, reference: &PackRef, bytes: &[u8]) -> Result<Index, BackupError> {
        let length = bytes.len() as u64;
        let at = usize::try_from(length - Footer::BYTES).unwrap();
        let footer = Footer::decode("p", &bytes[at..], length)?;
        let range = index_range(&footer);
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        open_index(keys, reference, &footer, &bytes[range])
    }

    proptest! {
        #[test]
        fn chunks_and_index_come_back(fill: Vec<u8>, encrypted: bool) {
            let keys = Keys::create(encrypted.then_some(&Key::new([5; 32]))).unwrap().0;
            let contents: Vec<Vec<u8>> = fill.iter().map(|byte| vec![*byte; 4096]).collect();
            let (reference, bytes, places) = pack_of(&keys, &contents);
            let cipher = cipher(&keys, reference.attempt);
            for (place, content) in places.iter().zip(&contents) {
                let at = place.offset as usize;
                let stored = &bytes[at..at + place.stored as usize];
                let read = decode_chunk(&keys, cipher.as_ref(), place, stored);
                prop_assert_eq!(read.as_deref(), Ok(content.as_slice()));
            }
            let index = index(&keys, &reference, &bytes).unwrap();
            prop_assert_eq!(index.entries.len(), contents.len());
            prop_assert_eq!(index.coverage.to, 10 + contents.len() as u64);
        }

        #[test]
        fn a_changed_byte_is_found(at: usize, flip in 1_u8.., encrypted: bool) {
            let keys = Keys::create(encrypted.then_some(&Key::new([5; 32]))).unwrap().0;
            let (reference, bytes, places) = pack_of(&keys, &[vec![1; 4096], vec![2; 4096]]);
            let mut bytes = bytes.to_vec();
            let at = HEADER + at % (bytes.len() - HEADER);
            bytes[at] ^= flip;
            let cipher = cipher(&keys, reference.attempt);
            let chunk = |place: &Place| {
                let stored = &bytes[place.offset as usize..][..place.stored as usize];
                decode_chunk(&keys, cipher.as_ref(), place, stored)
            };
            let found = places.iter().any(|place| chunk(place).is_err());
            prop_assert!(found || index(&keys, &reference, &bytes).is_err());
        }

        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Footer::decode("p", &bytes, bytes.len() as u64).is_err());
            let _either = read_index(&bytes);
        }
    }
}
