//! Journals as bytes: what is written is read, what is torn is cut, what is damaged is refused.

use proptest::prelude::*;

use super::*;
use crate::run::{Ending, Event};

/// A journal of version 1 with two records, as the first release wrote it.
const BYTES: &[u8] = include_bytes!("tests/v1.run");
const RUN: [u8; 16] = *b"0123456789abcdef";

fn records() -> Vec<Record> {
    let intent = Event::Intent { step: "move".to_owned(), attempt: 1 };
    let ended = Event::Ended { result: Ending::Completed, summary: "1 step done".to_owned() };
    vec![
        Record { number: 1, term: 1, at_ms: 1_764_000_000_000, event: intent },
        Record { number: 2, term: 3, at_ms: 1_764_000_000_001, event: ended },
    ]
}

fn bytes(records: &[Record]) -> Vec<u8> {
    let mut all = header(RUN);
    records.iter().for_each(|record| all.extend(encode(record).unwrap()));
    all
}

#[test]
fn the_bytes_of_version_1_are_read_and_written_as_ever() {
    let read = decode(BYTES).unwrap();
    assert_eq!((read.run, read.records, read.whole_bytes), (RUN, records(), BYTES.len()));
    assert_eq!(bytes(&records()), BYTES);
}

#[test]
fn a_torn_end_is_cut_wherever_it_is_torn() {
    let first = bytes(&records()[..1]).len();
    for length in first..BYTES.len() {
        let read = decode(&BYTES[..length]).unwrap();
        assert_eq!((read.records.len(), read.whole_bytes), (1, first), "{length}");
        // A file that grew before its data came.
        let mut zeroes = BYTES[..length].to_vec();
        zeroes.resize(BYTES.len(), 0);
        assert_eq!(decode(&zeroes).unwrap().records.len(), 1, "{length}");
    }
}

#[test]
fn damage_before_the_last_record_is_refused_and_named() {
    let first = bytes(&records()[..1]).len();
    for at in HEADER_BYTES..first {
        let mut damaged = BYTES.to_vec();
        damaged[at] ^= 0x20;
        assert!(matches!(decode(&damaged), Err(FrameError::Damaged { .. })), "{at}");
    }
    let mut missing = header(RUN);
    missing.extend(encode(&records()[1]).unwrap());
    assert!(matches!(decode(&missing), Err(FrameError::Damaged { .. })));
    let mut newer = BYTES.to_vec();
    newer[8] = 2;
    assert!(matches!(decode(&newer), Err(FrameError::TooNew { version: 2, .. })));
    assert_eq!(decode(b"TWSPRUN"), Err(FrameError::NotAJournal));
}

#[test]
fn a_journal_goes_on_where_a_crash_cut_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), RUN, "r1").unwrap();
    journal.append(&records()[..1]).unwrap();
    assert!(journal.append(&records()[..1]).is_err(), "a number comes once");
    let path = path_of(dir.path(), "r1");
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend(&encode(&records()[1]).unwrap()[..9]);
    std::fs::write(&path, torn).unwrap();

    let (mut journal, contents) = Journal::open(&path).unwrap();
    assert_eq!(contents.records, records()[..1]);
    journal.append(&records()[1..]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BYTES);
    assert_eq!(journal.records(), 2);
}

#[test]
fn a_journal_that_was_cut_short_as_it_was_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    for length in [0, 7, HEADER_BYTES - 1, HEADER_BYTES] {
        std::fs::write(path_of(dir.path(), "r1"), &BYTES[..length]).unwrap();
        let mut journal = Journal::create(dir.path(), RUN, "r1").unwrap();
        journal.append(&records()).unwrap();
        assert_eq!(std::fs::read(path_of(dir.path(), "r1")).unwrap(), BYTES, "{length}");
        assert!(Journal::create(dir.path(), RUN, "r1").is_err(), "one that has records stays");
    }
}

#[test]
fn a_journal_that_is_too_large_is_refused_and_nothing_of_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = path_of(dir.path(), "r1");
    std::fs::write(&path, BYTES).unwrap();
    let bytes = JOURNAL_BYTES_MAX + 1;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    let refused = Journal::open(&path).unwrap_err();
    assert!(matches!(refused, JournalError::TooLarge { bytes: told, .. } if told == bytes));
    assert!(refused.to_string().contains("it stays as it is"), "{refused}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
}

#[test]
fn a_journal_that_found_no_room_is_written_anew_with_all_that_was_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), RUN, "r1").unwrap();
    journal.append(&records()[..1]).unwrap();
    // The disk is full, after a part of a record went to it.
    let mut torn = OpenOptions::new().append(true).open(journal.path()).unwrap();
    torn.write_all(&encode(&records()[1]).unwrap()[..30]).unwrap();
    journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(matches!(journal.append(&records()[1..]), Err(JournalError::Io { .. })));
    assert!(matches!(journal.append(&records()[1..]), Err(JournalError::Latched(_))));
    assert!(journal.is_latched() && journal.records() == 1);

    assert!(matches!(journal.reopen(&records()), Err(JournalError::Refused { .. })));
    journal.reopen(&records()[..1]).unwrap();
    assert!(!journal.is_latched());
    journal.append(&records()[1..]).unwrap();
    assert_eq!(std::fs::read(journal.path()).unwrap(), BYTES);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else lies there");
}

proptest! {
    #[test]
    fn whatever_the_bytes_are_they_are_read_or_refused(mut bytes: Vec<u8>, cut in 0..200_usize) {
        drop(decode(&bytes));
        let mut behind = BYTES[..BYTES.len() - cut.min(BYTES.len())].to_vec();
        behind.append(&mut bytes);
        drop(decode(&behind));
    }
}
