//! What a mirror writes down: at every time that it was told there stands a prefix of what was
//! acknowledged, over both volumes, and nothing follows what is missing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use block::{Change, Gap, JournalEntry, Mode, SnapshotId, VolumeId, WriteJournal};
use tokio::time::Instant;
use twinspan_mirror::{Command, Phase, Policy, Role, Serving, SnapshotOrigin, SnapshotState};

use crate::world::{Site, VOLUMES, World};

/// How what the mirror hands over is falsified before it is kept, to prove that the check sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Break {
    #[default]
    None,
    /// A change is not written down.
    LosesChange,
    /// A change is written down behind the one that came after it, with the time between them.
    Overtakes,
    /// A change is written down twice.
    Repeats,
    /// A gap is not told: what stands behind it follows what stands before.
    BridgesGaps,
    /// A base is written down behind the change that came after it.
    BasesEarly,
    /// A base is written down before the change that came before it.
    BasesLate,
    /// The time is told before the changes that were begun before it.
    TimesEarly,
}

/// A write journal in memory, which wants a base whenever it has none, and when it is told to.
#[derive(Debug, Default)]
struct Written {
    breaks: Cell<Break>,
    /// Entries that are held back by a break.
    held: RefCell<Vec<JournalEntry>>,
    entries: RefCell<Vec<JournalEntry>>,
    heard: Cell<bool>,
    follows: Cell<bool>,
    due: Cell<bool>,
}

impl WriteJournal for Written {
    fn wants_base(&self) -> bool {
        self.heard.get() && (!self.follows.get() || self.due.get())
    }

    fn keep(&self, entry: JournalEntry) {
        match &entry {
            JournalEntry::Time { .. } => self.heard.set(true),
            JournalEntry::Gap(gap) => {
                self.follows.set(false);
                self.heard.set(self.heard.get() && *gap != Gap::Link);
            }
            JournalEntry::Base { .. } => {
                self.follows.set(true);
                self.due.set(false);
            }
            JournalEntry::Change { .. } => {}
        }
        self.put(entry);
    }
}

impl Written {
    /// Keeps an entry, falsified as it is told.
    fn put(&self, entry: JournalEntry) {
        let mut entries = self.entries.borrow_mut();
        let mut held = self.held.borrow_mut();
        let changes = entries.iter().filter(|e| matches!(e, JournalEntry::Change { .. })).count();
        let is_change = matches!(entry, JournalEntry::Change { .. });
        let is_time = matches!(entry, JournalEntry::Time { .. });
        let is_base = matches!(entry, JournalEntry::Base { .. });
        match self.breaks.get() {
            Break::LosesChange if is_change && changes == 10 => {
                // Once: the next one stands in its place.
                self.breaks.set(Break::None);
            }
            Break::Overtakes if is_change && changes == 10 && held.is_empty() => held.push(entry),
            Break::Overtakes if is_time && !held.is_empty() => {
                entries.push(entry);
                entries.append(&mut held);
                self.breaks.set(Break::None);
            }
            Break::Repeats if is_change && changes == 10 => {
                entries.extend([entry.clone(), entry]);
            }
            Break::BridgesGaps if matches!(entry, JournalEntry::Gap(_)) => {}
            // The next base is put where it does not show what is missing.
            Break::BridgesGaps if is_base && changes > 0 => {}
            Break::BasesEarly if is_base && changes > 0 => held.push(entry),
            Break::BasesEarly if is_change && !held.is_empty() => {
                entries.push(entry);
                entries.append(&mut held);
            }
            Break::BasesLate if is_base && changes > 0 => {
                let at = entries.iter().rposition(|e| matches!(e, JournalEntry::Change { .. }));
                entries.insert(at.unwrap_or(0), entry);
            }
            Break::TimesEarly if is_time => {
                let at = entries.iter().rposition(|e| matches!(e, JournalEntry::Base { .. }));
                match at.filter(|_| changes > 10) {
                    Some(at) => entries.insert(at + 1, entry),
                    None => entries.push(entry),
                }
            }
            _ => entries.push(entry),
        }
    }

    fn at(site: &Site) -> Rc<Self> {
        let written = Rc::new(Self::default());
        site.write_down(Rc::clone(&written) as Rc<dyn WriteJournal>);
        written
    }

    async fn until_following(&self, world: &World) {
        while !self.follows.get() {
            world.pass_ms(50).await;
        }
    }

    fn gaps(&self) -> Vec<Gap> {
        let gap = |entry: &JournalEntry| match entry {
            JournalEntry::Gap(gap) => Some(*gap),
            _ => None,
        };
        self.entries.borrow().iter().filter_map(gap).collect()
    }

    fn bases(&self) -> Vec<SnapshotId> {
        let base = |entry: &JournalEntry| match entry {
            JournalEntry::Base { snapshot, .. } => Some(*snapshot),
            _ => None,
        };
        self.entries.borrow().iter().filter_map(base).collect()
    }
}

/// Which writes of the row a base holds.
async fn row_in(site: &Site, base: SnapshotId, of: u64) -> BTreeSet<u64> {
    let status = site.status();
    let snapshot = status.snapshots.iter().find(|of| of.id == base).expect("a base is listed");
    assert_eq!(snapshot.origin, SnapshotOrigin::Journal);
    assert_eq!(snapshot.state, SnapshotState::Available);
    let mut here = BTreeSet::new();
    for (at, volume) in VOLUMES.iter().enumerate() {
        let found = snapshot.volumes.iter().find(|(id, _)| id == volume).unwrap();
        let content = site.kept_content_of(at, found.1).await;
        let in_volume = (0..of).filter(|n| usize::try_from(n % 2).unwrap() == at);
        here.extend(in_volume.filter(|n| content[usize::try_from(n * 4096).unwrap()] != 0));
    }
    here
}

/// Reads the whole journal as one who opens each time in it would; says how many of these there were.
/// `acked` are times and what was acknowledged before them.
async fn check(site: &Site, written: &Written, of: u64, acked: &[(u64, u64)]) -> usize {
    let entries = written.entries.borrow().clone();
    let (mut here, mut times): (Option<BTreeSet<u64>>, usize) = (None, 0);
    for entry in entries {
        match entry {
            JournalEntry::Gap(_) => here = None,
            JournalEntry::Base { snapshot, .. } => {
                let base = row_in(site, snapshot, of).await;
                if let Some(before) = &here {
                    assert_eq!(*before, base, "a base is what stands before it, no more, no less");
                }
                here = Some(base);
            }
            JournalEntry::Change { volume, extent, change, .. } => {
                let Some(here) = &mut here else { continue };
                let n = extent.offset() / 4096;
                let expected: VolumeId = VOLUMES[usize::try_from(n % 2).unwrap()];
                assert_eq!(volume, expected);
                assert!(matches!(change, Change::Write(data) if data.len() == 4096));
                assert!(here.insert(n), "write {n} is written down once");
            }
            JournalEntry::Time { unix_ms } => {
                let Some(here) = &here else { continue };
                let least = acked.iter().rev().find(|(ms, _)| *ms < unix_ms).map_or(0, |(_, n)| *n);
                let count = here.len() as u64;
                assert!(here.iter().copied().eq(0..count), "a prefix: {here:?}");
                assert!(count >= least, "at {unix_ms}: {count} of {least} acknowledged writes");
                times += 1;
            }
        }
    }
    times
}

/// Writes so many of the row, from the first on, each when the one before is acknowledged.
async fn write_row(
    (site, world, start): (&Site, &World, Instant),
    numbers: std::ops::Range<u64>,
    acked: &mut Vec<(u64, u64)>,
) {
    for n in numbers {
        site.row(n).await.unwrap();
        let unix_ms = 1_000_000 + u64::try_from(start.elapsed().as_millis()).unwrap();
        acked.push((unix_ms, n + 1));
        world.pass_ms(30).await;
    }
}

#[test]
fn rule_16_every_time_holds_a_prefix_of_what_was_acknowledged() {
    for mode in [Mode::Sync, Mode::Consistency] {
        World::run(|world| async move {
            let policy = Policy { mode, ..Policy::default() };
            let start = Instant::now();
            let (east, west) = world.two_sites();
            let written = Written::at(&west);
            east.mirror_to(&west, policy).await.unwrap();
            written.until_following(&world).await;
            let mut acked = Vec::new();
            for part in 0..6 {
                written.due.set(true);
                write_row((&east, &world, start), part * 40..(part + 1) * 40, &mut acked).await;
            }
            world.pass(2).await;
            assert!(written.bases().len() >= 6, "{:?}", written.bases());
            let times = check(&west, &written, 240, &acked).await;
            // Four times a second.
            assert!(times >= 28, "{times} times in mode {mode:?}");
            assert_eq!(written.gaps(), [Gap::Resync].repeat(written.gaps().len()));
            assert_eq!(west.row_here(240), 240);
            // The primary knows nothing of the bases of its mirror.
            assert!(east.status().snapshots.is_empty());
        });
    }
}

#[test]
fn what_was_not_written_down_is_a_gap_and_a_base_begins_anew() {
    World::run(|world| async move {
        let start = Instant::now();
        let (east, west) = world.mirrored().await;
        let written = Written::at(&west);
        written.until_following(&world).await;
        let mut acked = Vec::new();
        write_row((&east, &world, start), 0..20, &mut acked).await;
        world.cut();
        write_row((&east, &world, start), 20..40, &mut acked).await;
        assert!(!written.follows.get());
        world.heal();
        east.until_equivalent().await;
        written.until_following(&world).await;
        write_row((&east, &world, start), 40..60, &mut acked).await;
        world.pass(1).await;
        let gaps = written.gaps();
        assert!(gaps.contains(&Gap::Link) && gaps.contains(&Gap::Resync), "{gaps:?}");
        assert_eq!(written.bases().len(), 2);
        assert!(check(&west, &written, 60, &acked).await >= 6);
        // Behind the second base stands what the link that was lost never brought, too.
        assert_eq!(row_in(&west, written.bases()[1], 60).await.len(), 40);
    });
}

#[test]
fn nothing_is_written_down_of_a_session_that_sends_in_no_order() {
    World::run(|world| async move {
        let policy = Policy { mode: Mode::Stack, ..Policy::default() };
        let (east, west) = world.two_sites();
        let written = Written::at(&west);
        east.mirror_to(&west, policy).await.unwrap();
        east.until(|s| s.legs[0].phase == Phase::Tracking).await;
        east.row(0).await.unwrap();
        let leg = east.status().legs[0].leg;
        east.command(Command::Transfer { leg }).await.unwrap();
        west.until(|_| west.row_here(1) == 1).await;
        world.pass(5).await;
        assert!(written.bases().is_empty(), "{:?}", written.bases());
        assert!(west.status().snapshots.is_empty());
    });
}

#[test]
fn a_base_of_a_mirror_outlives_its_restart_and_is_the_gateways_to_remove() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let written = Written::at(&west);
        written.until_following(&world).await;
        east.row(0).await.unwrap();
        let base = written.bases()[0];
        west.until(|s| s.snapshots.iter().any(|of| of.id == base)).await;
        let west = world.restart(west);
        let status = west.status();
        assert_eq!(status.snapshots[0].origin, SnapshotOrigin::Journal);
        assert!(status.snapshots[0].name.starts_with("auto.journal."));
        east.until_equivalent().await;
        west.command(Command::ForgetSnapshot { snapshot: base }).await.unwrap();
        west.until(|s| s.snapshots.is_empty()).await;
    });
}

#[test]
fn a_mirror_that_takes_over_goes_back_to_a_base_and_its_primary_follows_by_delta() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let written = Written::at(&west);
        written.until_following(&world).await;
        for n in 0..10 {
            east.row(n).await.unwrap();
        }
        written.due.set(true);
        while written.bases().len() < 2 {
            world.pass_ms(50).await;
        }
        let base = written.bases()[1];
        for n in 10..20 {
            east.row(n).await.unwrap();
        }
        west.until(|s| s.snapshots.iter().any(|of| of.id == base)).await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until(|s| s.role == Role::Primary && s.serving == Serving::Yes).await;
        west.until_equivalent().await;
        crate::snapshots::go_back(&west, base.uuid().as_u128(), 0x5afe).await;
        // It is the base, and what was laid over it by the one who serves goes to the other, too.
        assert_eq!(west.row_here(20), 10);
        west.row(10).await.unwrap();
        west.until_equivalent().await;
        assert!(west.equals(&east));
        assert_eq!((west.row_here(20), east.row_here(20)), (11, 11));
        let moved = west.status().legs[0].sessions[0].resync_total_bytes;
        assert!(moved < Site::BYTES / 4, "a delta of ten blocks moved {moved} bytes");
        let leg = west.status().legs[0].leg;
        west.command(Command::Reverse { leg }).await.unwrap();
        east.until(|s| s.role == Role::Primary && s.serving == Serving::Yes).await;
        assert_eq!(east.row_here(20), 11);
    });
}

/// Each way in which a journal could be wrong is noticed by the check of the tests above.
#[test]
fn rule_16_each_break_of_the_journal_is_noticed() {
    let all = [
        Break::None,
        Break::LosesChange,
        Break::Overtakes,
        Break::Repeats,
        Break::BridgesGaps,
        Break::BasesEarly,
        Break::BasesLate,
        Break::TimesEarly,
    ];
    for breaks in all {
        let history = move || {
            World::run(move |world| async move {
                let start = Instant::now();
                let (east, west) = world.mirrored().await;
                let written = Written::at(&west);
                written.until_following(&world).await;
                written.breaks.set(breaks);
                let mut acked = Vec::new();
                write_row((&east, &world, start), 0..30, &mut acked).await;
                if breaks == Break::BridgesGaps {
                    world.cut();
                    write_row((&east, &world, start), 30..40, &mut acked).await;
                    world.heal();
                    east.until_equivalent().await;
                    world.pass(1).await;
                }
                written.due.set(true);
                let from = if breaks == Break::BridgesGaps { 40 } else { 30 };
                write_row((&east, &world, start), from..from + 30, &mut acked).await;
                world.pass(1).await;
                check(&west, &written, from + 30, &acked).await;
            });
        };
        let checked = std::panic::catch_unwind(history);
        assert_eq!(checked.is_ok(), breaks == Break::None, "{breaks:?}");
    }
}
