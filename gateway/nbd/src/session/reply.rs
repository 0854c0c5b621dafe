//! Replies in the style that was agreed on.
//!
//! Invariant: a client that has chunks gets every read and every error in chunks, and the last one
//! says so; one that has not gets one simple reply. A read whose pieces do not add up becomes an
//! error, because a wrong length would be read as the next reply.

use block::{IoError, Run, RunKind, Segment, Segments};

use super::inflight::Pending;
use super::outgoing::Outgoing;
use crate::contexts::Context;
use crate::wire::{Chunk, Errno, HeaderStyle, push_chunk, push_error, push_simple};

/// Bytes before the data in a chunk of data: its offset.
const DATA_PREFIX: u64 = 8;
/// Bytes in a chunk that is a hole: offset and length.
const HOLE_BYTES: u32 = 12;

/// What a request is recognised by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
}

/// It is done.
pub(crate) fn done(out: &mut Outgoing, style: HeaderStyle, to: Identity) {
    out.head(|bytes| match style {
        HeaderStyle::Simple | HeaderStyle::Structured => push_simple(bytes, to.cookie, None),
        HeaderStyle::Extended => push_none(bytes, style, to),
    });
    out.reply();
}

/// No bytes were to be read, and here they are.
pub(crate) fn read_nothing(out: &mut Outgoing, style: HeaderStyle, to: Identity) {
    out.head(|bytes| match style {
        HeaderStyle::Simple => push_simple(bytes, to.cookie, None),
        HeaderStyle::Structured | HeaderStyle::Extended => push_none(bytes, style, to),
    });
    out.reply();
}

fn push_none(bytes: &mut Vec<u8>, style: HeaderStyle, to: Identity) {
    let Identity { cookie, offset } = to;
    push_chunk(bytes, style, Chunk { cookie, offset, kind: Chunk::NONE, last: true, len: 0 });
}

/// It failed.
pub(crate) fn failed(
    out: &mut Outgoing,
    style: HeaderStyle,
    to: Identity,
    error: Errno,
    message: &str,
) {
    out.head(|bytes| match style {
        HeaderStyle::Simple => push_simple(bytes, to.cookie, Some(error)),
        HeaderStyle::Structured | HeaderStyle::Extended => {
            push_error(bytes, style, (to.cookie, to.offset), error, message);
        }
    });
    out.reply();
}

/// Here is what was read.
pub(crate) fn read(
    out: &mut Outgoing,
    style: HeaderStyle,
    pending: &Pending,
    segments: Segments,
) -> Result<(), IoError> {
    let total = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.len()));
    if total != pending.len {
        return Err(IoError::Dropped);
    }
    if style == HeaderStyle::Simple {
        out.head(|bytes| push_simple(bytes, pending.cookie, None));
        push_segments(out, segments);
    } else if pending.whole {
        push_data_head(out, style, pending, (pending.offset, pending.len), true);
        push_segments(out, segments);
    } else {
        push_chunks(out, style, pending, segments);
    }
    out.reply();
    Ok(())
}

fn push_segments(out: &mut Outgoing, segments: Segments) {
    for segment in segments {
        match segment {
            Segment::Data(data) => out.data(data),
            Segment::Zero(len) => out.zeroes(len),
        }
    }
}

fn push_data_head(
    out: &mut Outgoing,
    style: HeaderStyle,
    pending: &Pending,
    (offset, len): (u64, u64),
    last: bool,
) {
    // A read is no longer than `REQUEST_BYTES_MAX`, far below 4 GiB.
    let len = u32::try_from(len + DATA_PREFIX).unwrap_or(u32::MAX);
    let chunk =
        Chunk { cookie: pending.cookie, offset: pending.offset, kind: Chunk::DATA, last, len };
    out.head(|bytes| {
        push_chunk(bytes, style, chunk);
        bytes.extend_from_slice(&offset.to_be_bytes());
    });
}

/// One chunk for each run of data and for each hole.
fn push_chunks(out: &mut Outgoing, style: HeaderStyle, pending: &Pending, segments: Segments) {
    let mut offset = pending.offset;
    let end = pending.offset + pending.len;
    let mut segments = segments.into_iter().filter(|segment| !segment.is_empty()).peekable();
    while let Some(first) = segments.next() {
        match first {
            Segment::Zero(mut len) => {
                while let Some(Segment::Zero(more)) =
                    segments.next_if(|next| matches!(next, Segment::Zero(_)))
                {
                    len += more;
                }
                let last = offset + len == end;
                push_hole(out, style, pending, (offset, len), last);
                offset += len;
            }
            Segment::Data(data) => {
                let mut run: Segments = Segments::new();
                let mut len = data.len() as u64;
                run.push(Segment::Data(data));
                while let Some(more) = segments.next_if(|next| matches!(next, Segment::Data(_))) {
                    len += more.len();
                    run.push(more);
                }
                push_data_head(out, style, pending, (offset, len), offset + len == end);
                push_segments(out, run);
                offset += len;
            }
        }
    }
}

fn push_hole(
    out: &mut Outgoing,
    style: HeaderStyle,
    pending: &Pending,
    (offset, len): (u64, u64),
    last: bool,
) {
    let (cookie, kind) = (pending.cookie, Chunk::HOLE);
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    out.head(|bytes| {
        let chunk = Chunk { cookie, offset: pending.offset, kind, last, len: HOLE_BYTES };
        push_chunk(bytes, style, chunk);
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
    });
}

/// What lies where, for one context. Runs beyond `len` are cut off, equal neighbours are joined.
pub(crate) fn status(
    out: &mut Outgoing,
    style: HeaderStyle,
    to: Identity,
    (context, last): (Context, bool),
    runs: &[(u64, RunKind)],
) {
    let extended = style == HeaderStyle::Extended;
    let (kind, prefix, each) =
        if extended { (Chunk::STATUS_EXTENDED, 8, 16) } else { (Chunk::STATUS, 4, 8) };
    // At most `STATUS_RUNS_MAX` runs come here.
    let count = u32::try_from(runs.len()).unwrap_or(0);
    let Identity { cookie, offset } = to;
    out.head(|bytes| {
        let chunk = Chunk { cookie, offset, kind, last, len: prefix + each * count };
        push_chunk(bytes, style, chunk);
        bytes.extend_from_slice(&context.id().to_be_bytes());
        if extended {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        for (len, kind) in runs {
            let flags = context.flags(*kind);
            if extended {
                bytes.extend_from_slice(&len.to_be_bytes());
                bytes.extend_from_slice(&u64::from(flags).to_be_bytes());
            } else {
                // A compact request names at most 2^32 - 1 bytes, and runs are cut to it.
                let len = u32::try_from(*len).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&len.to_be_bytes());
                bytes.extend_from_slice(&flags.to_be_bytes());
            }
        }
    });
    if last {
        out.reply();
    }
}

/// The runs as they are told: inside `len` bytes, equal neighbours joined, never none.
pub(crate) fn tidy_runs(runs: &[Run], len: u64) -> Vec<(u64, RunKind)> {
    let mut tidy: Vec<(u64, RunKind)> = Vec::with_capacity(runs.len());
    let mut left = len;
    for run in runs {
        let here = run.len.min(left);
        if here == 0 {
            continue;
        }
        left -= here;
        match tidy.last_mut() {
            Some((before, kind)) if *kind == run.kind => *before += here,
            _ => tidy.push((here, run.kind)),
        }
    }
    if tidy.is_empty() {
        // Nothing is known: data is what a client may always be told.
        tidy.push((len, RunKind::Data));
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_and_cut() {
        let run = |len, kind| Run { len, kind };
        let runs = [run(5, RunKind::Hole), run(5, RunKind::Hole), run(9, RunKind::Data)];
        assert_eq!(tidy_runs(&runs, 12), [(10, RunKind::Hole), (2, RunKind::Data)]);
        assert_eq!(tidy_runs(&runs, 4), [(4, RunKind::Hole)]);
        assert_eq!(tidy_runs(&[], 7), [(7, RunKind::Data)]);
    }
}
