//! Journals on a disk that is full for a while, and those that a kill cut short as they were made.

use recovery::Plan;
use recovery::run::{Begun, Event, Runner};

use super::*;

const PLAN: &str = r#"
name = "p"
kind = "other"
[sites]
source = "east"
destination = "west"
[[steps]]
id = "a"
action = "x/a"
"#;

/// The record that begins a run here, with these keepers of copies.
pub(crate) fn begun(id: Uuid, runner: Runner, keepers: Vec<Runner>) -> Record {
    let plan = Plan::from_toml("p.toml", PLAN).unwrap();
    let setting = plan.setting(false, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let begun = Begun {
        run: id.to_string(),
        plan: plan.raw,
        setting,
        groups: Vec::new(),
        actor: "ada".to_owned(),
        runner,
        keepers,
        absent: Vec::new(),
    };
    Record { number: 1, term: 1, at_ms: 1, event: Event::Begun(Box::new(begun)) }
}

#[test]
fn a_journal_that_finds_no_room_takes_the_next_record_once_there_is_some() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::io::Write;
    use std::os::fd::AsRawFd;

    let (dir, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(7));
    let runs = Runs::new(dir.path(), None);
    runs.read().unwrap();
    let runner = Runner { gateway: "g".to_owned(), site: "east".to_owned() };
    runs.create(id, vec![begun(id, runner, Vec::new())]).unwrap();
    drop(runs);

    // In its place lies a file that cannot grow, as on a disk that is full.
    let path = recovery::journal::path_of(&dir.path().join(RUNS_DIR), &id.to_string());
    let full = memfd_create("journal", MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = std::fs::File::from(full);
    file.write_all(&std::fs::read(&path).unwrap()).unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    std::fs::remove_file(&path).unwrap();
    let sealed = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::os::unix::fs::symlink(sealed, &path).unwrap();
    let runs = Runs::new(dir.path(), None);
    runs.read().unwrap();
    assert!(runs.damaged().is_empty(), "{:?}", runs.damaged());
    let record = |event| {
        let run = runs.all().get(&id).unwrap().run.clone();
        run.record(event, 2)
    };
    let intent = record(Event::Intent { step: "a".to_owned(), attempt: 1 });
    assert!(!runs.reopen(id).unwrap(), "nothing is wrong with it yet");
    let why = runs.append(id, std::slice::from_ref(&intent)).unwrap_err();
    assert!(why.contains("append to"), "{why}");
    assert_eq!(runs.all().get(&id).unwrap().run.records, 1, "nothing follows from it");

    // Room: what was confirmed is written anew, by itself or before the next record.
    assert!(runs.reopen(id).unwrap());
    assert!(!runs.reopen(id).unwrap());
    runs.append(id, std::slice::from_ref(&intent)).unwrap();
    drop(runs);
    let after = Runs::new(dir.path(), None);
    after.read().unwrap();
    assert_eq!(after.all().get(&id).unwrap().records[1], intent);
}

#[test]
fn a_journal_that_a_kill_left_without_its_header_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let header = recovery::journal::header(Uuid::from_u128(7).into_bytes());
    assert_eq!(header.len(), HEADER_BYTES);
    // Before its header, in the midst of it, and before its first record.
    for length in [0, 1, HEADER_BYTES - 1, HEADER_BYTES] {
        let runs = Runs::new(dir.path(), None);
        runs.read().unwrap();
        let id = Uuid::from_u128(7);
        let path = recovery::journal::path_of(&dir.path().join(RUNS_DIR), &id.to_string());
        std::fs::write(&path, &header[..length]).unwrap();
        let runs = Runs::new(dir.path(), None);
        runs.read().unwrap();
        assert!(runs.damaged().is_empty(), "{length} bytes: {:?}", runs.damaged());
        assert!(runs.all().is_empty() && !path.exists(), "{length} bytes");
        // Its run can begin.
        let runner = Runner { gateway: "g".to_owned(), site: "east".to_owned() };
        runs.create(id, vec![begun(id, runner, Vec::new())]).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
