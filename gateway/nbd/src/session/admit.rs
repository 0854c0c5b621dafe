//! What a request asks for, checked: the only place that looks at flags, bounds and permissions.
//!
//! Invariant: what is admitted lies inside the volume, may be done on this connection, and carries
//! no flag that its command does not know. Arithmetic on what a client sent is checked.
#![warn(clippy::arithmetic_side_effects)]

use block::{Extent, ExtentError, Geometry};
use bytes::Bytes;

use crate::contexts::Contexts;
use crate::limits::REQUEST_BYTES_MAX;
use crate::status::past_the_end;
use crate::wire::{Command, CommandFlags, Cursor, Errno, HeaderStyle, RequestHeader};

/// What holds for every request of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) style: HeaderStyle,
    pub(crate) contexts: Contexts,
    pub(crate) read_only: bool,
}

/// Why a request is refused, to the client.
pub(crate) type Refused = (Errno, &'static str);

/// A request that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Read these bytes; `whole` in one chunk.
    Read { extent: Extent, whole: bool },
    /// Store the payload here.
    Write { extent: Extent, fua: bool },
    /// Make these bytes read as zero.
    Zero { extent: Extent, may_trim: bool, fua: bool },
    /// Give these bytes back.
    Trim { extent: Extent, fua: bool },
    /// Bring these bytes near.
    Cache { extent: Extent },
    /// Put on stable storage what was answered.
    Flush,
    /// What lies where.
    Status { extent: Extent, one: bool },
    /// Likewise, of the range and the contexts that the payload names.
    StatusOf { offset: u64, one: bool },
    /// No bytes are concerned: done.
    Nothing,
    /// Finish and close.
    Disconnect,
}

impl Admission {
    /// Bytes of memory that it takes until it is answered and the answer was sent.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Read { extent, .. } | Self::Write { extent, .. } => extent.len(),
            Self::Zero { .. }
            | Self::Trim { .. }
            | Self::Cache { .. }
            | Self::Flush
            | Self::Status { .. }
            | Self::StatusOf { .. }
            | Self::Nothing
            | Self::Disconnect => 0,
        }
    }
}

/// Decides about a request.
pub(crate) fn admit(
    header: &RequestHeader,
    terms: &Terms,
    geometry: Geometry,
) -> Result<Admission, Refused> {
    let Some(command) = Command::of(header.command) else {
        return Err((Errno::Inval, "command is not known"));
    };
    if !header.flags.within(known_flags(command, terms)) {
        return Err((Errno::Inval, "a flag is not known for this command"));
    }
    match command {
        Command::Disconnect => Ok(Admission::Disconnect),
        Command::Flush => flush(header),
        Command::Read => read(header, geometry),
        Command::Write | Command::WriteZeroes | Command::Trim => {
            if terms.read_only {
                return Err((Errno::Perm, "export is read-only"));
            }
            change(command, header, geometry)
        }
        Command::Cache => {
            let extent = bounded(command, header.offset, header.len, geometry)?;
            Ok(extent.map_or(Admission::Nothing, |extent| Admission::Cache { extent }))
        }
        Command::BlockStatus => status(header, terms, geometry),
    }
}

/// The range and the contexts that the payload of a block status request names.
pub(crate) fn admit_status_of(
    offset: u64,
    payload: &Bytes,
    terms: &Terms,
    geometry: Geometry,
) -> Result<(Extent, Contexts), Refused> {
    const MALFORMED: Refused = (Errno::Inval, "payload names no contexts that were agreed on");
    let mut cursor = Cursor::new(payload);
    let len = cursor.u64().ok_or(MALFORMED)?;
    let mut contexts = Contexts::new();
    while !cursor.is_at_end() {
        let id = cursor.u32().ok_or(MALFORMED)?;
        let agreed = terms.contexts.iter().find(|context| context.id() == id);
        let context = agreed.copied().filter(|context| !contexts.contains(context));
        contexts.push(context.ok_or(MALFORMED)?);
    }
    if contexts.is_empty() {
        return Err(MALFORMED);
    }
    let extent = bounded(Command::BlockStatus, offset, len, geometry)?;
    Ok((extent.ok_or(EMPTY_STATUS)?, contexts))
}

const EMPTY_STATUS: Refused = (Errno::Inval, "status of no bytes");

fn known_flags(command: Command, terms: &Terms) -> CommandFlags {
    // FUA is accepted on every command, because it was offered and clients set it on any.
    let known = CommandFlags::FUA;
    let extended = terms.style == HeaderStyle::Extended;
    match command {
        Command::Read if terms.style.has_chunks() => known.and(CommandFlags::DF),
        Command::Write if extended => known.and(CommandFlags::PAYLOAD_LEN),
        Command::WriteZeroes => known.and(CommandFlags::NO_HOLE).and(CommandFlags::FAST_ZERO),
        Command::BlockStatus if extended => {
            known.and(CommandFlags::REQ_ONE).and(CommandFlags::PAYLOAD_LEN)
        }
        Command::BlockStatus => known.and(CommandFlags::REQ_ONE),
        Command::Read
        | Command::Write
        | Command::Disconnect
        | Command::Flush
        | Command::Trim
        | Command::Cache => known,
    }
}

fn flush(header: &RequestHeader) -> Result<Admission, Refused> {
    if header.offset != 0 || header.len != 0 {
        return Err((Errno::Inval, "a flush names no range"));
    }
    Ok(Admission::Flush)
}

fn read(header: &RequestHeader, geometry: Geometry) -> Result<Admission, Refused> {
    let whole = header.flags.has(CommandFlags::DF);
    let Some(extent) = bounded(Command::Read, header.offset, header.len, geometry)? else {
        return Ok(Admission::Nothing);
    };
    if extent.len() > REQUEST_BYTES_MAX {
        let errno = if whole { Errno::Overflow } else { Errno::Inval };
        return Err((errno, "read of more than 64 MiB"));
    }
    Ok(Admission::Read { extent, whole })
}

fn change(
    command: Command,
    header: &RequestHeader,
    geometry: Geometry,
) -> Result<Admission, Refused> {
    let fua = header.flags.has(CommandFlags::FUA);
    if command == Command::Write && header.len > REQUEST_BYTES_MAX {
        return Err((Errno::Inval, "write of more than 64 MiB"));
    }
    let Some(extent) = bounded(command, header.offset, header.len, geometry)? else {
        return Ok(Admission::Nothing);
    };
    if command == Command::Write {
        return Ok(Admission::Write { extent, fua });
    }
    if command == Command::Trim {
        return Ok(Admission::Trim { extent, fua });
    }
    // Zeroing that may give blocks back is a change of the map; one that may not stores blocks.
    let may_trim = !header.flags.has(CommandFlags::NO_HOLE);
    if header.flags.has(CommandFlags::FAST_ZERO) && !may_trim {
        return Err((Errno::NotSup, "zeroing without holes is not fast"));
    }
    Ok(Admission::Zero { extent, may_trim, fua })
}

fn status(header: &RequestHeader, terms: &Terms, geometry: Geometry) -> Result<Admission, Refused> {
    if terms.contexts.is_empty() {
        return Err((Errno::Inval, "no metadata context was agreed on"));
    }
    let one = header.flags.has(CommandFlags::REQ_ONE);
    if header.flags.has(CommandFlags::PAYLOAD_LEN) {
        // The length of the range, and four bytes for each context that was agreed on.
        let longest = terms.contexts.len().saturating_mul(4).saturating_add(8);
        if header.len < 12 || header.len > longest as u64 {
            return Err((Errno::Inval, "payload is of no possible length"));
        }
        return Ok(Admission::StatusOf { offset: header.offset, one });
    }
    let extent = bounded(Command::BlockStatus, header.offset, header.len, geometry)?;
    let extent = extent.ok_or(EMPTY_STATUS)?;
    Ok(Admission::Status { extent, one })
}

/// The range, inside the volume; `None` when it is empty.
fn bounded(
    command: Command,
    offset: u64,
    len: u64,
    geometry: Geometry,
) -> Result<Option<Extent>, Refused> {
    match geometry.extent(offset, len) {
        Ok(extent) => Ok(Some(extent)),
        Err(ExtentError::Empty) if offset <= geometry.bytes() => Ok(None),
        Err(ExtentError::Empty | ExtentError::OutOfRange | ExtentError::Size) => {
            Err((past_the_end(command), "range ends outside the volume"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(style: HeaderStyle, read_only: bool) -> Terms {
        let contexts = std::iter::once(crate::contexts::Context::Allocation).collect();
        Terms { style, contexts, read_only }
    }

    fn ask(command: u16, flags: u16, offset: u64, len: u64) -> RequestHeader {
        RequestHeader { flags: CommandFlags::of(flags), command, cookie: 1, offset, len }
    }

    const SIZE: u64 = 1 << 20;

    fn errno(style: HeaderStyle, read_only: bool, header: RequestHeader) -> Option<Errno> {
        let geometry = Geometry::new(SIZE).unwrap();
        admit(&header, &terms(style, read_only), geometry).err().map(|(errno, _)| errno)
    }

    #[test]
    fn errors_are_those_that_clients_expect() {
        use HeaderStyle::{Extended, Simple, Structured};
        for (style, read_only, (command, flags, offset, len), expected) in [
            (Simple, false, (0, 0, SIZE - 512, 4096), Some(Errno::Inval)),
            (Simple, false, (1, 0, SIZE - 512, 4096), Some(Errno::NoSpc)),
            (Simple, false, (4, 0, SIZE - 512, 4096), Some(Errno::Inval)),
            (Simple, false, (5, 0, SIZE - 512, 4096), Some(Errno::Inval)),
            (Simple, false, (6, 0, SIZE - 512, 4096), Some(Errno::NoSpc)),
            (Structured, false, (7, 0, SIZE - 512, 4096), Some(Errno::Inval)),
            (Simple, false, (6, 0, u64::MAX, u32::MAX.into()), Some(Errno::NoSpc)),
            (Structured, false, (7, 0, 1, u64::MAX), Some(Errno::Inval)),
            (Simple, true, (1, 0, 0, 4096), Some(Errno::Perm)),
            (Simple, true, (4, 0, 0, 4096), Some(Errno::Perm)),
            (Simple, true, (6, 0, 0, 4096), Some(Errno::Perm)),
            (Simple, true, (0, 0, 0, 4096), None),
            (Simple, true, (3, 0, 0, 0), None),
            (Simple, false, (8, 0, 0, 0), Some(Errno::Inval)),
            (Simple, false, (0, 1 << 14, 0, 1), Some(Errno::Inval)),
            (Simple, false, (0, 4, 0, 1), Some(Errno::Inval)),
            (Structured, false, (0, 4, 0, 1), None),
            (Simple, false, (1, 32, 0, 1), Some(Errno::Inval)),
            (Extended, false, (1, 32, 0, 1), None),
            (Extended, false, (0, 32, 0, 1), Some(Errno::Inval)),
            (Simple, false, (6, 16, 0, 4096), None),
            (Simple, false, (6, 16 | 2, 0, 4096), Some(Errno::NotSup)),
            (Simple, false, (3, 0, 1, 0), Some(Errno::Inval)),
            (Simple, false, (0, 0, SIZE, 0), None),
            (Simple, false, (0, 0, SIZE + 1, 0), Some(Errno::Inval)),
            (Simple, false, (7, 0, 0, 0), Some(Errno::Inval)),
            (Extended, false, (7, 32, 0, 8), Some(Errno::Inval)),
            (Extended, false, (7, 32, 0, 12), None),
            (Extended, false, (7, 32, 0, 16), Some(Errno::Inval)),
        ] {
            let header = ask(command, flags, offset, len);
            assert_eq!(errno(style, read_only, header), expected, "{style:?} {header:?}");
        }
        for command in [0, 1, 3, 4, 5, 6, 7] {
            let len = if command == 3 { 0 } else { 512 };
            assert_eq!(errno(Structured, false, ask(command, 1, 0, len)), None, "FUA on {command}");
        }
    }

    #[test]
    fn sixty_four_mebibytes_are_taken_and_no_more() {
        let geometry = Geometry::new(1 << 40).unwrap();
        let terms = terms(HeaderStyle::Structured, false);
        let errno = |header| admit(&header, &terms, geometry).err().map(|(errno, _)| errno);
        assert_eq!(errno(ask(1, 0, 0, 64 << 20)), None);
        assert_eq!(errno(ask(1, 0, 0, (64 << 20) + 1)), Some(Errno::Inval));
        assert_eq!(errno(ask(0, 0, 0, (64 << 20) + 1)), Some(Errno::Inval));
        assert_eq!(errno(ask(0, 4, 0, (64 << 20) + 1)), Some(Errno::Overflow));
        assert_eq!(errno(ask(6, 0, 0, u32::MAX.into())), None);
        assert_eq!(errno(ask(7, 0, 0, u32::MAX.into())), None);
    }

    #[test]
    fn a_status_payload_names_each_context_once() {
        let geometry = Geometry::new(SIZE).unwrap();
        let terms = terms(HeaderStyle::Extended, false);
        let payload = |len: u64, ids: &[u32]| {
            let mut bytes = len.to_be_bytes().to_vec();
            bytes.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
            admit_status_of(0, &Bytes::from(bytes), &terms, geometry).is_ok()
        };
        assert!(payload(4096, &[1]));
        assert!(!payload(4096, &[]));
        assert!(!payload(4096, &[2]));
        assert!(!payload(4096, &[1, 1]));
        assert!(!payload(0, &[1]));
        assert!(!payload(u64::MAX, &[1]));
    }

    proptest! {
        #[test]
        fn what_is_admitted_lies_inside(
            command in 0u16..10, flags in 0u16..64, offset: u64, len: u64, near: bool,
            extended: bool,
        ) {
            let (offset, len) = if near { (offset % (2 * SIZE), len % SIZE) } else { (offset, len) };
            let style = if extended { HeaderStyle::Extended } else { HeaderStyle::Structured };
            let geometry = Geometry::new(SIZE).unwrap();
            let header = ask(command, flags, offset, len);
            match admit(&header, &terms(style, false), geometry) {
                Ok(Admission::Read { extent, .. } | Admission::Write { extent, .. }
                    | Admission::Zero { extent, .. } | Admission::Trim { extent, .. }
                    | Admission::Cache { extent } | Admission::Status { extent, .. }) => {
                    prop_assert_eq!((extent.offset(), extent.len()), (offset, len));
                    prop_assert!(extent.end() <= SIZE);
                }
                Ok(Admission::Flush | Admission::StatusOf { .. } | Admission::Nothing
                    | Admission::Disconnect) | Err(_) => {}
            }
        }
    }
}
