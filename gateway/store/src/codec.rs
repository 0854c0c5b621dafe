//! Little-endian fields of the things on disk, read without ever panicking.
//!
//! Invariant: every file of ours starts with magic, version and incompatible feature bits and ends
//! (or is covered) with a CRC32C, so [`open`] is the only way in.

use crate::crc::crc32c;
use crate::error::StoreError;

/// How one format announces itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// What it is called in errors.
    pub(crate) what: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// Bytes before the body: magic, version, length of the body, incompatible feature bits.
pub(crate) const HEAD_BYTES: usize = 24;
/// Bytes behind the body.
pub(crate) const TAIL_BYTES: usize = 4;

/// Reads fields one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

// === impl Format ===

impl Format {
    /// Wraps a body that every release of this version can read.
    pub(crate) fn seal(&self, body: &[u8]) -> Vec<u8> {
        self.seal_with(0, body)
    }

    /// Wraps a body that only releases can read which know these features.
    pub(crate) fn seal_with(&self, features: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + TAIL_BYTES);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        let len = u32::try_from(body.len()).expect("bodies are far smaller than 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&features.to_le_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out
    }

    /// Proves a wrapping and returns a reader of the body; bytes behind it are ignored.
    pub(crate) fn open<'a>(&self, data: &'a [u8]) -> Result<Reader<'a>, StoreError> {
        Ok(self.open_with(0, data)?.1)
    }

    /// The same for a body that may need the features in `known`; says which it needs.
    pub(crate) fn open_with<'a>(
        &self,
        known: u64,
        data: &'a [u8],
    ) -> Result<(u64, Reader<'a>), StoreError> {
        let damaged = |why| StoreError::Damaged { what: self.what, why };
        let mut head = Reader { rest: data, what: self.what };
        if head.bytes(8)? != self.magic {
            return Err(damaged("it does not start with its magic"));
        }
        let version = head.u32()?;
        let len = usize::try_from(head.u32()?).map_err(|_error| damaged("length"))?;
        let features = head.u64()?;
        let body = head.bytes(len)?;
        let stored = head.u32()?;
        if crc32c(&data[..HEAD_BYTES + len]) != stored {
            return Err(damaged("its checksum does not match"));
        }
        // Only after the checksum: a flipped bit is damage, not a newer release.
        if version != self.version {
            return Err(StoreError::Version { what: self.what, version, known: self.version });
        }
        let unknown = features & !known;
        if unknown != 0 {
            return Err(StoreError::Features { what: self.what, features: unknown });
        }
        Ok((features, Reader { rest: body, what: self.what }))
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (now, later) = self
            .rest
            .split_at_checked(len)
            .ok_or(StoreError::Damaged { what: self.what, why: "it is too short" })?;
        self.rest = later;
        Ok(now)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, StoreError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes that are preceded by their number.
    pub(crate) fn counted(&mut self) -> Result<&'a [u8], StoreError> {
        let len = self.u32()?;
        self.bytes(usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(crate) fn damaged(&self, why: &'static str) -> StoreError {
        StoreError::Damaged { what: self.what, why }
    }
}

/// Appends bytes preceded by their number.
pub(crate) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("parts are far smaller than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}
