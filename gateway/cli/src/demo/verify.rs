//! `twinspan demo verify`: reads every record back and compares it with the log.
//!
//! ```text
//!   lost           the slot holds an older record than the newest acknowledged one, or nothing
//!   torn           the slot holds no whole record
//!   out of order   the slot holds a record that its writer never sent there
//! ```

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use super::records::{Found, Layout, RECORD_BYTES, folder, read, read_layout, read_log};
use super::serving;
use super::state::State;
use crate::args::Format;
use crate::failure::{FAILED, Failure};
use crate::output::show;
use crate::{Outcome, copy};

#[derive(Debug, Default, Serialize)]
struct Verdict {
    volume: String,
    site: String,
    acknowledged: u64,
    slots: u64,
    intact: u64,
    lost: u64,
    torn: u64,
    out_of_order: u64,
}

/// Verifies; fails when anything is not as it was acknowledged. What was loaded into `volume` is
/// read from `place`, if there is one.
pub(crate) fn run(directory: &Path, volume: &str, place: Option<&str>, format: Format) -> Outcome {
    let state = State::load(directory)?;
    let folder = folder(&state.dir, volume);
    let layout = read_layout(&folder).ok_or_else(|| {
        Failure::new(FAILED, format!("nothing was loaded into {volume}"))
            .next(format!("twinspan demo load {volume}"))
    })?;
    let (site, uri) = serving(&state, place.unwrap_or(volume))?;
    let mut verdict = Verdict { volume: volume.to_owned(), site, ..Verdict::default() };
    let mut opened = copy::open(&uri).map_err(|why| Failure::new(FAILED, why))?;
    for writer in 0..layout.writers {
        let log = read_log(&folder, writer);
        verdict.acknowledged += log.len() as u64;
        let region = read_region(&mut opened, layout, writer)
            .map_err(|error| Failure::new(FAILED, format!("{uri}: {error}")))?;
        judge(&mut verdict, (layout, writer), &log, &region);
    }
    let bad = verdict.lost + verdict.torn + verdict.out_of_order;
    show(format, &verdict, text);
    if bad > 0 {
        return Ok(FAILED);
    }
    Ok(0)
}

fn text(verdict: &Verdict) -> String {
    format!(
        "acknowledged to the writers   {}\nslots with a record           {}\n\
         intact on {:<19} {}\nlost {}   torn {}   out of order {}",
        verdict.acknowledged,
        verdict.slots,
        verdict.site,
        verdict.intact,
        verdict.lost,
        verdict.torn,
        verdict.out_of_order
    )
}

fn read_region(
    opened: &mut copy::Opened,
    layout: Layout,
    writer: u64,
) -> std::io::Result<Vec<Vec<u8>>> {
    let mut slots = Vec::new();
    opened.client.seek(SeekFrom::Start(layout.offset(writer, 0)))?;
    for _ in 0..layout.slots {
        let mut slot = vec![0; RECORD_BYTES];
        opened.client.read_exact(&mut slot)?;
        slots.push(slot);
    }
    Ok(slots)
}

fn judge(verdict: &mut Verdict, (layout, writer): (Layout, u64), log: &[u64], region: &[Vec<u8>]) {
    let mut newest: HashMap<u64, u64> = HashMap::new();
    for number in log {
        newest.insert(number % layout.slots, *number);
    }
    // Each run of the loader may have sent one more than it logged.
    let unlogged = |number: u64| {
        log.binary_search(&number).is_err()
            && number.checked_sub(1).is_none_or(|before| log.binary_search(&before).is_ok())
    };
    for (slot, bytes) in (0..).zip(region) {
        let acknowledged = newest.get(&slot).copied();
        match (read(bytes), acknowledged) {
            (Found::Nothing, None) => {}
            (Found::Nothing, Some(_)) => {
                verdict.slots += 1;
                verdict.lost += 1;
            }
            (Found::Torn, _) => {
                verdict.slots += 1;
                verdict.torn += 1;
            }
            (Found::Record { writer: whose, number }, acknowledged) => {
                verdict.slots += 1;
                let belongs = whose == writer && number % layout.slots == slot;
                if belongs && acknowledged == Some(number) {
                    verdict.intact += 1;
                } else if belongs && acknowledged.is_some_and(|newest| number < newest) {
                    verdict.lost += 1;
                } else if belongs && unlogged(number) {
                    // Sent, stored, and the connection died before it was acknowledged.
                    verdict.intact += 1;
                } else {
                    verdict.out_of_order += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::records::make;

    fn judged(log: &[u64], region: &[Vec<u8>]) -> [u64; 4] {
        let layout = Layout { writers: 1, slots: region.len() as u64 };
        let mut verdict = Verdict::default();
        judge(&mut verdict, (layout, 0), log, region);
        [verdict.intact, verdict.lost, verdict.torn, verdict.out_of_order]
    }

    #[test]
    fn every_kind_of_damage_is_told_apart() {
        let nothing = vec![0; RECORD_BYTES];
        let mut torn = make(0, 2);
        torn[4000] ^= 1;
        assert_eq!(judged(&[0, 1, 2], &[make(0, 0), make(0, 1), make(0, 2)]), [3, 0, 0, 0]);
        // The slot went round once: number 3 lies where 0 lay.
        assert_eq!(judged(&[0, 1, 2, 3], &[make(0, 0), make(0, 1), make(0, 2)]), [2, 1, 0, 0]);
        assert_eq!(judged(&[0, 1, 2], &[make(0, 0), nothing, torn]), [1, 1, 1, 0]);
        // Number 3 was under way when the connection died; 4 was never sent.
        assert_eq!(judged(&[0, 1, 2], &[make(0, 3), make(0, 1), make(0, 2)]), [3, 0, 0, 0]);
        assert_eq!(judged(&[0, 1, 2], &[make(0, 0), make(0, 4), make(0, 2)]), [2, 0, 0, 1]);
        // A later run left number 3 out; what it wrote counts as any other.
        assert_eq!(judged(&[0, 1, 2, 4], &[make(0, 3), make(0, 4), make(0, 2)]), [3, 0, 0, 0]);
        assert_eq!(judged(&[0], &[make(7, 0)]), [0, 0, 0, 1]);
    }
}
