//! NBD's bytes, as far as a load generator sends and gets them.
//!
//! Invariant: no I/O here.

pub(crate) const INIT_MAGIC: &[u8; 16] = b"NBDMAGICIHAVEOPT";
/// Fixed newstyle, and no zeroes after the old way of choosing an export.
pub(crate) const CLIENT_FLAGS: u32 = 3;

pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_INFO: u32 = 3;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Length of a request's header.
pub(crate) const REQUEST_BYTES: usize = 28;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) fua: bool,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Request {
    pub(crate) fn header(&self) -> [u8; REQUEST_BYTES] {
        let mut header = [0; REQUEST_BYTES];
        header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[4..6].copy_from_slice(&u16::from(self.fua).to_be_bytes());
        header[6..8].copy_from_slice(&(self.command as u16).to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        header[16..24].copy_from_slice(&self.offset.to_be_bytes());
        header[24..28].copy_from_slice(&self.bytes.to_be_bytes());
        header
    }
}

/// An option of the handshake.
pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(*b"IHAVEOPT");
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The beginning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) is_error: bool,
    /// Whether it is the last of its request.
    pub(crate) is_last: bool,
    /// Bytes that follow; `None` for a simple reply, where the request says how many.
    pub(crate) payload: Option<u32>,
    /// Bytes of the header itself.
    pub(crate) header: usize,
}

/// The reply at the beginning of `bytes`; `Ok(None)` when more bytes are needed.
pub(crate) fn reply(bytes: &[u8]) -> Result<Option<Reply>, u32> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    match u32::from_be_bytes(*magic) {
        SIMPLE_MAGIC => Ok(simple(rest)),
        CHUNK_MAGIC => Ok(chunk(rest)),
        other => Err(other),
    }
}

fn simple(rest: &[u8]) -> Option<Reply> {
    let (error, rest) = rest.split_first_chunk::<4>()?;
    let (cookie, _) = rest.split_first_chunk::<8>()?;
    Some(Reply {
        cookie: u64::from_be_bytes(*cookie),
        is_error: u32::from_be_bytes(*error) != 0,
        is_last: true,
        payload: None,
        header: 16,
    })
}

fn chunk(rest: &[u8]) -> Option<Reply> {
    let (flags, rest) = rest.split_first_chunk::<2>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    let (cookie, rest) = rest.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some(Reply {
        cookie: u64::from_be_bytes(*cookie),
        is_error: u16::from_be_bytes(*kind) & 0x8000 != 0,
        is_last: u16::from_be_bytes(*flags) & 1 != 0,
        payload: Some(u32::from_be_bytes(*length)),
        header: 20,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_reply_only_when_whole() {
        let mut bytes = Vec::from(SIMPLE_MAGIC.to_be_bytes());
        bytes.extend([0, 0, 0, 5]);
        bytes.extend(9_u64.to_be_bytes());
        assert_eq!(reply(&bytes[..15]), Ok(None));
        let found = reply(&bytes).unwrap().unwrap();
        assert_eq!((found.cookie, found.is_error, found.header), (9, true, 16));

        let mut bytes = Vec::from(CHUNK_MAGIC.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(4104_u32.to_be_bytes());
        assert_eq!(reply(&bytes[..19]), Ok(None));
        let found = reply(&bytes).unwrap().unwrap();
        assert_eq!((found.cookie, found.is_last, found.payload), (7, true, Some(4104)));
        assert_eq!(reply(&[1, 2, 3, 4]), Err(0x0102_0304));
    }
}
