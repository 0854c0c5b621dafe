//! Breaks of what the write journal stands on, to prove that its tests see them: a disk that lies about
//! syncs, segments that are gone from the middle or lie in another's place.

use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use block::Gap;
use store::journal::JournalLimits;
use store::medium::{Directory, File, LockGuard, Room};

use crate::journal::Rig;

/// Segments of one mebibyte each.
const SMALL: JournalLimits = JournalLimits { window_ms: u64::MAX / 2, bytes: 16 << 20 };

/// A directory whose files say that they are durable and are not.
#[derive(Debug)]
pub(crate) struct LyingDirectory(Arc<dyn Directory>);

#[derive(Debug)]
struct LyingFile(Arc<dyn File>);

impl LyingDirectory {
    pub(crate) fn over(inner: Arc<dyn Directory>) -> Arc<dyn Directory> {
        Arc::new(Self(inner))
    }
}

impl Directory for LyingDirectory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(self.0.open(name)?)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn make_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Self::over(self.0.make_dir(name)?))
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Self::over(self.0.open_dir(name)?))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.0.remove_dir(name)
    }

    fn lock(&self) -> io::Result<Option<LockGuard>> {
        self.0.lock()
    }

    fn room(&self) -> io::Result<Room> {
        self.0.room()
    }
}

impl File for LyingFile {
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.0.try_read_at(buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_clean(&self) -> io::Result<()> {
        self.0.forget_clean()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch(offset, len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.reserve(offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        self.0.next_data(from)
    }
}

/// Three segments and a bit, with a base now and again.
fn four_segments(rig: &mut Rig) {
    rig.time();
    for round in 0..800_u64 {
        if round % 100 == 0 {
            rig.want_base();
        }
        rig.write(0, round % 5 * 4_096, 4_096, u8::try_from(round % 200 + 1).unwrap());
        rig.time();
    }
    assert!(rig.segments().len() >= 4, "{:?}", rig.segments());
}

#[test]
fn rule_16_a_disk_that_lies_about_syncs_is_noticed_and_one_that_does_not_is_sound() {
    let noticed = |lies: bool| {
        let seeds = 0..8_u64;
        seeds
            .filter(|seed| {
                let history = || {
                    let mut rig = Rig::on(SMALL, lies);
                    four_segments(&mut rig);
                    rig.restart(Some(*seed));
                    rig.check();
                };
                catch_unwind(AssertUnwindSafe(history)).is_err()
            })
            .count()
    };
    assert_eq!(noticed(false), 0);
    assert!(noticed(true) > 0, "the check is blind to what was never durable");
}

#[test]
fn rule_16_a_segment_that_is_gone_from_the_middle_is_a_gap_and_bridged_by_nothing() {
    let mut rig = Rig::on(SMALL, false);
    four_segments(&mut rig);
    let all = rig.check();
    let middle = rig.segments()[1].clone();
    rig.forget();
    rig.disk().root().remove(&middle).unwrap();
    rig.reopen();
    let left = rig.check();
    assert!(left > 0 && left < all - 100, "{left} of {all}");
    let ranges = rig.ranges();
    assert!(ranges >= 2, "{ranges} ranges");
}

#[test]
fn rule_16_a_segment_in_anothers_place_is_believed_by_nobody() {
    let mut rig = Rig::on(SMALL, false);
    four_segments(&mut rig);
    let all = rig.check();
    let segments = rig.segments();
    rig.forget();
    let root = rig.disk().root();
    root.rename(&segments[1], "aside").unwrap();
    root.rename(&segments[2], &segments[1]).unwrap();
    root.rename("aside", &segments[2]).unwrap();
    rig.reopen();
    assert!(rig.check() < all - 200, "what is in another's place is no state that there was");
    assert!(matches!(rig.last_gap(), Some(Gap::Restart | Gap::Damaged)));
}
