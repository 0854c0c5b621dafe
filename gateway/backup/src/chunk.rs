//! Blocks made ready to be stored: told from zeroes, named, compressed.
//!
//! Invariant: a chunk lies inside one aligned 64 KiB of its volume.

use std::sync::Arc;

use block::BLOCK_BYTES;
use bytes::Bytes;

use crate::error::BackupError;
use crate::format::{Entry, Span};
use crate::id::ChunkId;
use crate::limits::{CHUNK_BLOCKS_MAX, CHUNK_BYTES_MAX};
use crate::seal::{Keys, LEVEL};

/// A run of blocks of a volume and what was found in it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) span: Span,
    pub(crate) what: What,
}

/// What was found in a run of blocks.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Zeroes.
    Zero,
    /// What the parent has there too.
    Same,
    /// Data, as it is to be stored.
    Data { bytes: Bytes, compressed: bool, id: ChunkId },
}

/// A run of blocks as it was read; `None` where nothing is mapped.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) span: Span,
    pub(crate) data: Option<Bytes>,
}

/// Makes pieces ready. Where `parent` says what another backup holds, what is the same is not
/// stored again. Computes for a while: not for a thread that others wait for.
pub(crate) fn prepare(
    keys: &Keys,
    parent: Option<&Arc<Vec<Entry>>>,
    pieces: Vec<Piece>,
) -> Result<Vec<Found>, BackupError> {
    let compressor = zstd::bulk::Compressor::new(LEVEL);
    let mut compressor =
        compressor.map_err(|_out_of_memory| BackupError::System { what: "memory to compress" })?;
    let mut found = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let Some(data) = piece.data else {
            found.push(Found { span: piece.span, what: What::Zero });
            continue;
        };
        for (span, content) in split(piece.span, &data) {
            let what = if is_zero(&content) {
                if parent.is_some_and(|entries| !holds(entries, span)) {
                    What::Same
                } else {
                    What::Zero
                }
            } else {
                data_of(keys, parent, span, content, &mut compressor)?
            };
            found.push(Found { span, what });
        }
    }
    Ok(found)
}

fn data_of(
    keys: &Keys,
    parent: Option<&Arc<Vec<Entry>>>,
    span: Span,
    content: Bytes,
    compressor: &mut zstd::bulk::Compressor<'_>,
) -> Result<What, BackupError> {
    let id = keys.chunk_id(&content);
    let has_it = |entries: &Arc<Vec<Entry>>| {
        let at = entries.binary_search_by_key(&span.first, |entry| entry.span.first);
        at.is_ok_and(|at| {
            let same_place = entries[at].span == span;
            same_place && entries[at].whole_chunk().is_some_and(|place| place.id == id)
        })
    };
    if parent.is_some_and(has_it) {
        return Ok(What::Same);
    }
    let compressed = compressor.compress(&content);
    let compressed =
        compressed.map_err(|_out_of_memory| BackupError::System { what: "memory to compress" })?;
    // Less than a sixteenth gained is not worth the work of undoing it.
    if compressed.len() < content.len() - content.len() / 16 {
        return Ok(What::Data { bytes: compressed.into(), compressed: true, id });
    }
    Ok(What::Data { bytes: content, compressed: false, id })
}

/// Whether any of these speaks of a block of `span`.
fn holds(entries: &[Entry], span: Span) -> bool {
    let after = entries.partition_point(|entry| entry.span.end <= span.first);
    entries.get(after).is_some_and(|entry| entry.span.first < span.end)
}

/// Cuts what was read at multiples of 64 KiB.
fn split(span: Span, data: &Bytes) -> Vec<(Span, Bytes)> {
    let mut parts = Vec::new();
    let mut first = span.first;
    while first < span.end {
        let end = (first / CHUNK_BLOCKS_MAX + 1).saturating_mul(CHUNK_BLOCKS_MAX).min(span.end);
        let at =
            |block: u64| usize::try_from((block - span.first) * BLOCK_BYTES).unwrap_or(usize::MAX);
        parts.push((Span::new(first, end), data.slice(at(first)..at(end))));
        first = end;
    }
    parts
}

fn is_zero(content: &[u8]) -> bool {
    // The longest chunk of them.
    static ZEROES: [u8; CHUNK_BYTES_MAX] = [0; CHUNK_BYTES_MAX];
    content.len() <= ZEROES.len() && content == &ZEROES[..content.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_64_kib_and_zeroes_are_told() {
        let keys = Keys::create(None).unwrap().0;
        let mut data = vec![0_u8; 20 * 4096];
        data[4096] = 1;
        let piece = Piece { span: Span::new(15, 35), data: Some(data.into()) };
        let bare = Piece { span: Span::new(40, 400), data: None };
        let found = prepare(&keys, None, vec![piece, bare]).unwrap();
        let spans: Vec<_> = found.iter().map(|found| (found.span.first, found.span.end)).collect();
        assert_eq!(spans, [(15, 16), (16, 32), (32, 35), (40, 400)]);
        let zero: Vec<_> = found.iter().map(|found| matches!(found.what, What::Zero)).collect();
        assert_eq!(zero, [true, false, true, true]);
        let What::Data { bytes, compressed, .. } = &found[1].what else { panic!("no data") };
        assert!(*compressed && bytes.len() < 4096, "{}", bytes.len());
    }
}
