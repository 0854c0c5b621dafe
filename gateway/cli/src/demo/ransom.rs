//! `twinspan demo ransom`: makes a volume's content unreadable, as ransomware does through a host.
//!
//! Invariant: it is a host like any other. Nothing of the content is left, and the demo keeps no
//! key: what brings it back is a snapshot.

use std::io::{Read, Seek, SeekFrom, Write};

use api::units::bytes_text;

use super::serving;
use super::state::State;
use crate::args::Format;
use crate::failure::{FAILED, Failure};
use crate::output::show;
use crate::{Outcome, copy};

/// What is read and written at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// What is left alone if it is empty.
const BLOCK_BYTES: usize = 4096;

/// Overwrites every block that has content.
pub(crate) fn run(directory: &std::path::Path, volume: &str, format: Format) -> Outcome {
    let state = State::load(directory)?;
    let (site, uri) = serving(&state, volume)?;
    let mut opened = copy::open(&uri).map_err(|why| Failure::new(FAILED, why))?;
    let bytes =
        scramble(&mut opened).map_err(|error| Failure::new(FAILED, format!("{uri}: {error}")))?;
    let answer = serde_json::json!({ "volume": volume, "site": site, "overwritten_bytes": bytes });
    show(format, &answer, |_| {
        let overwritten = bytes_text(bytes);
        format!("{overwritten} of {volume} are unreadable now; the mirrors have it, too")
    });
    Ok(0)
}

fn scramble(opened: &mut copy::Opened) -> std::io::Result<u64> {
    let size = opened.export.size;
    // It differs from run to run, and nobody remembers it.
    let mut key = Key(uuid::Uuid::now_v7().as_u64_pair().1 | 1);
    let (mut offset, mut overwritten) = (0, 0);
    let mut piece = Vec::new();
    while offset < size {
        let len = usize::try_from(PIECE_BYTES.min(size - offset)).map_err(std::io::Error::other)?;
        piece.resize(len, 0);
        opened.client.seek(SeekFrom::Start(offset))?;
        opened.client.read_exact(&mut piece)?;
        for (at, block) in (0..).step_by(BLOCK_BYTES).zip(piece.chunks_mut(BLOCK_BYTES)) {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            for word in block.chunks_mut(8) {
                word.iter_mut().zip(key.next().to_le_bytes()).for_each(|(byte, key)| *byte ^= key);
            }
            opened.client.seek(SeekFrom::Start(offset + at))?;
            opened.client.write_all(block)?;
            overwritten += block.len() as u64;
        }
        offset += len as u64;
    }
    opened.client.flush()?;
    Ok(overwritten)
}

/// Xorshift: what it makes looks like noise, which is all that is asked of it.
struct Key(u64);

impl Key {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
