//! The write journal against a plain list of what there was at every time, through kills, losses of
//! power, full disks and gaps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use block::{
    BLOCK_BYTES, Change, Extent, Gap, GroupId, JournalEntry, Segment, Segments, Seq, SnapshotId,
    VolumeId, WriteJournal, joined,
};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use store::Executor;
use store::journal::{Journal, JournalLimits, View};
use testkit::SimDisk;

const GROUP: GroupId = GroupId::of(1);
const VOLUMES: [VolumeId; 2] = [VolumeId::of(11), VolumeId::of(12)];
const BYTES: u64 = 32 << 10;
const ALL: JournalLimits = JournalLimits { window_ms: u64::MAX / 2, bytes: 1 << 40 };

type Contents = [Vec<u8>; 2];

fn extent(offset: u64, len: u64) -> Extent {
    Extent::new(offset, len).unwrap()
}

/// A mirror with a journal, and what it held at every time that its journal was told.
pub(crate) struct Rig {
    disk: Arc<SimDisk>,
    journal: Option<Journal>,
    limits: JournalLimits,
    now: Contents,
    /// By base.
    bases: HashMap<SnapshotId, Contents>,
    /// By time: a time comes once.
    times: BTreeMap<u64, Contents>,
    clock: u64,
    next: u128,
}

impl Rig {
    pub(crate) fn new(limits: JournalLimits) -> Self {
        let zeroes = || vec![0; usize::try_from(BYTES).unwrap()];
        let mut rig = Self {
            disk: SimDisk::new(),
            journal: None,
            limits,
            now: [zeroes(), zeroes()],
            bases: HashMap::new(),
            times: BTreeMap::new(),
            clock: 1_000,
            next: 1,
        };
        rig.open();
        rig
    }

    fn open(&mut self) {
        let parts = (self.disk.root(), Executor::Inline);
        self.journal = Some(Journal::open(GROUP, parts, Some(self.limits), HashMap::new()));
    }

    /// The process dies; its disk stays as it is.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(self.journal.take());
        self.disk.kill();
    }

    pub(crate) fn reopen(&mut self) {
        self.write_unseen();
        self.open();
    }

    pub(crate) fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    pub(crate) fn segments(&self) -> Vec<String> {
        self.disk.paths().into_iter().filter(|path| path.contains("seg.")).collect()
    }

    pub(crate) fn ranges(&self) -> usize {
        self.journal().status(|_| true).ranges.len()
    }

    pub(crate) fn last_gap(&self) -> Option<Gap> {
        self.journal().status(|_| true).last_gap
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    pub(crate) fn time(&mut self) {
        self.clock += 250;
        self.times.insert(self.clock, self.now.clone());
        self.journal().keep(JournalEntry::Time { unix_ms: self.clock });
    }

    /// As the mirror does: when the journal wants one.
    fn base(&mut self) {
        if self.journal().wants_base() {
            self.want_base();
        }
    }

    pub(crate) fn want_base(&mut self) {
        let snapshot = SnapshotId::of(self.next);
        self.next += 1;
        self.bases.insert(snapshot, self.now.clone());
        self.journal().keep(JournalEntry::Base { snapshot, seq: Seq::ZERO });
    }

    fn change(&mut self, volume: usize, extent: Extent, change: Change) {
        let content = &mut self.now[volume];
        let range =
            |e: Extent| usize::try_from(e.offset()).unwrap()..usize::try_from(e.end()).unwrap();
        match &change {
            Change::Write(data) => content[range(extent)].copy_from_slice(data),
            Change::Zero { .. } => content[range(extent)].fill(0),
            Change::Trim => {
                if let Some(whole) = extent.whole_blocks().extent() {
                    content[range(whole)].fill(0);
                }
            }
        }
        let (seq, volume) = (Seq::ZERO, VOLUMES[volume]);
        self.journal().keep(JournalEntry::Change { seq, volume, extent, change });
    }

    pub(crate) fn write(&mut self, volume: usize, at: u64, len: usize, fill: u8) {
        let data = Bytes::from(vec![fill; len]);
        self.change(volume, extent(at, len as u64), Change::Write(data));
    }

    /// What a volume is filled with from a view: the base below, the journal over it.
    fn content(view: Option<&View>, base: &[u8]) -> Vec<u8> {
        let whole = extent(0, BYTES);
        let segments: Segments =
            [Segment::Data(Bytes::copy_from_slice(base))].into_iter().collect();
        let Some(view) = view else { return base.to_vec() };
        let read = joined(&view.read(whole, segments.clone()).unwrap()).to_vec();
        // In pieces it is the same.
        for piece in whole.pieces(3_000) {
            let from = usize::try_from(piece.offset()).unwrap();
            let to = usize::try_from(piece.end()).unwrap();
            let under = [Segment::Data(Bytes::copy_from_slice(&base[from..to]))];
            let part = joined(&view.read(piece, under.into_iter().collect()).unwrap());
            assert_eq!(part.as_ref(), &read[from..to]);
        }
        // What differs from the base is in a block that is said to be touched.
        let touched = view.touched(0, usize::MAX);
        for (number, (a, b)) in read.iter().zip(base).enumerate() {
            let block = number as u64 / BLOCK_BYTES;
            let told = touched.iter().any(|range| (range.first()..range.end()).contains(&block));
            assert!(a == b || told, "byte {number} differs and block {block} is not told");
        }
        read
    }

    /// Every time that can be opened holds what there was at that time; says how many there are.
    pub(crate) fn check(&self) -> usize {
        let journal = self.journal();
        let there: HashSet<SnapshotId> = self.bases.keys().copied().collect();
        let status = journal.status(|id| there.contains(&id));
        let mut checked = 0;
        for (unix_ms, contents) in &self.times {
            let in_range = status.ranges.iter().any(|(from, to)| (from..=to).contains(&unix_ms));
            let found = journal.find(*unix_ms, |id| there.contains(&id));
            assert_eq!(found.is_some(), in_range, "at {unix_ms} of {:?}", status.ranges);
            let Some(moment) = found else { continue };
            // Where nothing changed a time is not written down again.
            assert!(moment.unix_ms <= *unix_ms);
            let views = journal.views(moment.from, moment.to).unwrap();
            for (at, volume) in VOLUMES.iter().enumerate() {
                let read = Self::content(views.get(volume), &self.bases[&moment.base][at]);
                assert_eq!(read, contents[at], "volume {at} at {unix_ms}");
            }
            checked += 1;
        }
        checked
    }

    /// The process is killed, or the power fails, and it starts again. A mirror that comes back is
    /// brought up to date: what it holds from then on is something else.
    pub(crate) fn restart(&mut self, power: Option<u64>) {
        // What waits in the memory of a process that dies is written by nobody.
        std::mem::forget(self.journal.take());
        match power {
            Some(seed) => self.disk.power_cut(seed),
            None => self.disk.kill(),
        }
        self.write_unseen();
        self.open();
    }

    /// Something changes that the journal is not told.
    fn write_unseen(&mut self) {
        self.now[0][7] ^= 0x55;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u64, usize, u8),
    Zero(usize, u64, u64),
    Trim(usize, u64, u64),
    Time,
    Base,
    Gap(usize),
    Kill,
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..2_usize, 0..BYTES - 9_000, 1..9_000_u64);
    let step = prop_oneof![
        8 => (range(), any::<u8>()).prop_map(|((volume, at, len), fill)| {
            Step::Write(volume, at, usize::try_from(len).unwrap(), fill)
        }),
        2 => range().prop_map(|(volume, at, len)| Step::Zero(volume, at, len)),
        2 => range().prop_map(|(volume, at, len)| Step::Trim(volume, at, len)),
        6 => Just(Step::Time),
        3 => Just(Step::Base),
        1 => (0..Gap::ALL.len()).prop_map(Step::Gap),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ];
    vec(step, 1..120)
}

proptest! {
    #[test]
    fn every_second_that_can_be_opened_holds_what_there_was(steps in steps()) {
        let mut rig = Rig::new(JournalLimits { window_ms: 4_000, ..ALL });
        for step in steps {
            match step {
                Step::Write(volume, at, len, fill) => rig.write(volume, at, len, fill),
                Step::Zero(volume, at, len) => {
                    rig.change(volume, extent(at, len), Change::Zero { may_trim: true });
                }
                Step::Trim(volume, at, len) => rig.change(volume, extent(at, len), Change::Trim),
                Step::Time => rig.time(),
                Step::Base => rig.base(),
                Step::Gap(at) => {
                    rig.journal().keep(JournalEntry::Gap(Gap::ALL[at]));
                    rig.write_unseen();
                }
                Step::Kill => rig.restart(None),
                Step::PowerCut(seed) => rig.restart(Some(seed)),
            }
        }
        rig.check();
        rig.restart(None);
        rig.check();
    }
}

/// The newest segment of a process that was killed is not durable, however whole it looked at the
/// start that came next.
#[test]
fn rule_16_a_kill_and_then_a_loss_of_power_show_no_second_that_cannot_be_read() {
    for seed in 0..64 {
        let mut rig = Rig::new(ALL);
        rig.time();
        rig.base();
        rig.write(0, 0, 2_336, 1);
        rig.time();
        rig.restart(None);
        rig.time();
        rig.base();
        rig.restart(Some(seed));
        rig.check();
    }
}

/// A rig with so many seconds behind a base, four times each, with changes between all of them.
fn filled(limits: JournalLimits, seconds: u64) -> Rig {
    let mut rig = Rig::new(limits);
    rig.time();
    for second in 0..seconds {
        rig.base();
        for quarter in 0..4 {
            let fill = u8::try_from((second * 4 + quarter) % 250 + 1).unwrap();
            rig.write(usize::from(fill % 2 == 0), second * 512 % 20_000, 4_096, fill);
            rig.time();
        }
    }
    rig
}

#[test]
fn rule_16_a_kill_leaves_every_second_that_was_written() {
    let mut rig = filled(ALL, 20);
    let before = rig.check();
    assert!(before >= 79, "only {before} times can be opened");
    rig.restart(None);
    assert_eq!(rig.check(), before);
    assert_eq!(rig.journal().status(|_| true).last_gap, Some(Gap::Restart));
    // What comes now follows nothing, until there is a base.
    rig.time();
    rig.write(0, 0, 10, 9);
    rig.time();
    assert_eq!(rig.check(), before);
    rig.base();
    rig.time();
    assert_eq!(rig.check(), before + 1);
}

#[test]
fn a_loss_of_power_cuts_the_tail_wherever_it_is_torn() {
    let mut shortest = usize::MAX;
    for seed in 0..200 {
        let mut rig = filled(ALL, 7);
        rig.restart(Some(seed));
        let left = rig.check();
        shortest = shortest.min(left);
        // Five seconds and what came since are not synced.
        assert!(left >= 12, "seed {seed}: {left}");
    }
    assert!(shortest < 25, "no seed lost anything");
}

#[test]
fn a_torn_record_is_cut_at_every_byte() {
    let rig = filled(ALL, 3);
    let path = rig.disk.paths().into_iter().find(|path| path.contains("seg.")).unwrap();
    let size = rig.disk.root().open(&path).unwrap().size().unwrap();
    for cut in (size - 5_000..size).step_by(97) {
        let disk = rig.disk.fork();
        disk.root().open(&path).unwrap().set_size(cut).unwrap();
        let parts = (disk.root(), Executor::Inline);
        let journal = Journal::open(GROUP, parts, Some(ALL), HashMap::new());
        let copy = Rig {
            disk,
            journal: Some(journal),
            limits: ALL,
            now: rig.now.clone(),
            bases: rig.bases.clone(),
            times: rig.times.clone(),
            clock: rig.clock,
            next: rig.next,
        };
        assert!(copy.check() >= 9, "cut at {cut}");
    }
}

#[test]
fn a_block_that_rots_is_an_error_and_never_other_data() {
    let rig = filled(ALL, 3);
    let path = rig.disk.paths().into_iter().find(|path| path.contains("seg.")).unwrap();
    let newest = *rig.times.keys().next_back().unwrap();
    let moment = rig.journal().find(newest, |_| true).unwrap();
    let views = rig.journal().views(moment.from, moment.to).unwrap();
    let size = rig.disk.root().open(&path).unwrap().size().unwrap();
    rig.disk.corrupt(&path, size - 2_000);
    assert!(rig.journal().views(moment.from, moment.to).is_err());
    let damaged = views.values().any(|view| {
        let base: Segments = [Segment::Zero(BYTES)].into_iter().collect();
        view.read(extent(0, BYTES), base).is_err()
    });
    assert!(damaged, "what was opened before reads no other data either");
}

#[test]
fn the_window_and_the_bytes_bound_what_is_kept_and_bases_go_with_it() {
    let rig = filled(JournalLimits { window_ms: 8_000, ..ALL }, 60);
    let status = rig.journal().status(|_| true);
    let (from, to) = status.ranges[0];
    // All in one segment here: what goes is what is listed, and at least the window stays.
    assert!((8_000..=10_500).contains(&(to - from)), "{from} to {to}");
    assert!(status.bases.len() <= 11, "{} bases", status.bases.len());
    rig.check();

    let mut rig = Rig::new(JournalLimits { bytes: 4 << 20, ..ALL });
    rig.time();
    for round in 0..3_000_u64 {
        rig.base();
        rig.write(0, round % 5 * 4_096, 4_096, u8::try_from(round % 200 + 1).unwrap());
        rig.time();
    }
    let status = rig.journal().status(|_| true);
    assert!(status.bytes <= 4 << 20, "{} bytes", status.bytes);
    assert!(status.is_cut_by_bytes);
    assert!(status.ranges[0].1 - status.ranges[0].0 >= 250 * 300, "{:?}", status.ranges);
    let names = rig.disk.paths().into_iter().filter(|path| path.contains("seg.")).count();
    assert!(names <= 5, "{names} segments");
    assert!(rig.check() > 300);
}

/// What was kept of the past took all the room of a disk, and every volume of the pool was refused its new
/// blocks.
#[test]
fn a_journal_shortens_its_window_before_it_takes_the_room_of_volumes() {
    let mut rig = Rig::new(JournalLimits { bytes: 64 << 20, ..ALL });
    rig.time();
    let capacity = rig.disk.allocated() + (16 << 20);
    rig.disk.set_capacity(Some(capacity));
    for round in 0..6_000_u64 {
        rig.base();
        rig.write(0, round % 5 * 4_096, 4_096, u8::try_from(round % 200 + 1).unwrap());
        rig.time();
    }
    let free = capacity - rig.disk.allocated();
    assert!(free >= capacity / 16, "{free} bytes of {capacity} are left");
    let status = rig.journal().status(|_| true);
    assert!(status.follows && status.last_gap != Some(Gap::NoSpace), "{status:?}");
    assert!(rig.check() > 100);
}

#[test]
fn a_full_disk_is_a_gap_and_it_goes_on_when_there_is_room() {
    let mut rig = filled(ALL, 4);
    let before = rig.check();
    rig.disk.set_capacity(Some(rig.disk.allocated()));
    for _ in 0..8 {
        rig.write(0, 0, 9_000, 3);
        rig.time();
    }
    let status = rig.journal().status(|_| true);
    assert_eq!((status.last_gap, status.follows), (Some(Gap::NoSpace), false));
    assert!(!rig.journal().wants_base(), "not at once again");
    assert!(rig.check() >= before);
    rig.disk.set_capacity(None);
    rig.clock += 61_000;
    rig.time();
    rig.base();
    rig.write(1, 0, 100, 77);
    rig.time();
    assert!(rig.check() > before);
    rig.restart(None);
    assert!(rig.check() > before);
}

#[test]
fn what_a_view_needs_stays_until_it_is_let_go_and_off_takes_the_rest() {
    let mut rig = filled(ALL, 4);
    let newest = *rig.times.keys().next_back().unwrap();
    let moment = rig.journal().find(newest, |_| true).unwrap();
    let filled = VolumeId::of(99);
    assert!(rig.journal().pin(filled, &moment));
    rig.journal().set_limits(None);
    let segments = |rig: &Rig| rig.disk.paths().iter().filter(|p| p.contains("seg.")).count();
    assert_eq!(segments(&rig), 1);
    assert_eq!(rig.journal().status(|_| true).ranges, []);
    assert!(rig.journal().views(moment.from, moment.to).is_ok());
    // After a restart as well: who needs it is known from the volumes.
    std::mem::forget(rig.journal.take());
    rig.disk.kill();
    let pins = HashMap::from([(filled, (moment.from.segment, moment.to.segment))]);
    let parts = (rig.disk.root(), Executor::Inline);
    rig.journal = Some(Journal::open(GROUP, parts, None, pins));
    assert!(rig.journal().views(moment.from, moment.to).is_ok());
    rig.journal().unpin(filled);
    assert_eq!(segments(&rig), 0);
}
