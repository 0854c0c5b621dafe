//! `twinspan demo load`: writers that know exactly what was acknowledged to them.
//!
//! Invariant: a writer ends with its first error; it never writes a number twice.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::Volume;
use tokio::time::Instant;

use super::records::{Layout, Log, folder, make, read_layout, read_log, write_layout};
use super::state::State;
use super::{client_of, serving};
use crate::args::Format;
use crate::failure::{FAILED, Failure};
use crate::output::show;
use crate::{Outcome, copy};

/// More writers than this only measure the scheduler.
const WRITERS_MAX: usize = 256;

/// What is to be written.
pub(crate) struct Plan<'a> {
    /// Where.
    pub(crate) volume: &'a str,
    /// By how many.
    pub(crate) writers: usize,
    /// For how long.
    pub(crate) seconds: Option<u64>,
}

/// How one writer ended.
struct Ended {
    acknowledged: u64,
    why: String,
}

/// Writes until the time is over or the connection dies.
pub(crate) fn run(directory: &Path, plan: &Plan<'_>, format: Format) -> Outcome {
    let state = State::load(directory)?;
    let (site, uri) = serving(&state, plan.volume)?;
    let client = client_of(state.site(&site)?)?;
    let path = format!("/api/v1/volumes/{}", crate::commands::segment(plan.volume));
    let volume: Volume = client.get(&path)?;
    let folder = folder(&state.dir, plan.volume);
    let layout = layout(&folder, volume.bytes, plan.writers)?;
    let (began, stop) = (Instant::now(), AtomicBool::new(false));
    let until = plan.seconds.map(|seconds| began + Duration::from_secs(seconds));
    let ends: Vec<Ended> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..layout.writers)
            .map(|writer| {
                let (uri, folder, stop) = (&uri, &folder, &stop);
                scope.spawn(move || write(uri, folder, (layout, writer), (until, stop)))
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| {
                writer.join().unwrap_or_else(|_panic| Ended {
                    acknowledged: 0,
                    why: "the writer broke down".to_owned(),
                })
            })
            .collect()
    });
    let took = began.elapsed();
    let acknowledged: u64 = ends.iter().map(|end| end.acknowledged).sum();
    let error = ends.iter().find(|end| !end.why.is_empty()).map(|end| end.why.clone());
    let answer = serde_json::json!({
        "volume": plan.volume, "site": site, "writers": layout.writers,
        "acknowledged": acknowledged, "seconds": took.as_secs_f64(), "stopped_by": error,
    });
    show(format, &answer, |_| {
        let why = error.as_ref().map_or_else(String::new, |why| format!("\nstopped by: {why}"));
        format!(
            "{acknowledged} records acknowledged by {site} in {:.1} s to {} writers{why}",
            took.as_secs_f64(),
            layout.writers
        )
    });
    Ok(0)
}

/// A later load goes on with the writers of the first.
fn layout(folder: &Path, bytes: u64, writers: usize) -> Result<Layout, Failure> {
    if let Some(layout) = read_layout(folder) {
        return Ok(layout);
    }
    if writers == 0 || writers > WRITERS_MAX {
        return Err(Failure::new(2, format!("--writers is 1 to {WRITERS_MAX}")));
    }
    let layout = Layout::of(bytes, writers as u64);
    if layout.slots == 0 {
        return Err(Failure::new(FAILED, "the volume is too small for so many writers"));
    }
    write_layout(folder, layout)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", folder.display())))?;
    Ok(layout)
}

fn write(
    uri: &str,
    folder: &Path,
    (layout, writer): (Layout, u64),
    (until, stop): (Option<Instant>, &AtomicBool),
) -> Ended {
    let mut acknowledged = 0;
    let result = write_all(uri, folder, (layout, writer), &mut |count| {
        acknowledged = count;
        !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until)
    });
    // When one writer is cut off, the others are about to be.
    if result.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    Ended { acknowledged, why: result.err().unwrap_or_default() }
}

fn write_all(
    uri: &str,
    folder: &Path,
    (layout, writer): (Layout, u64),
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<(), String> {
    let mut log = Log::open(folder, writer).map_err(|error| error.to_string())?;
    // The one after the last may have been sent, and is not sent again.
    let mut number = read_log(folder, writer).last().map_or(0, |last| last + 2);
    let mut opened = copy::open(uri)?;
    let mut acknowledged = 0;
    while go_on(acknowledged) {
        let said = |error: std::io::Error| error.to_string();
        let offset = layout.offset(writer, number);
        opened.client.seek(SeekFrom::Start(offset)).map_err(said)?;
        opened.client.write_all(&make(writer, number)).map_err(said)?;
        log.add(number).map_err(|error| format!("the log: {error}"))?;
        acknowledged += 1;
        number += 1;
    }
    Ok(())
}
