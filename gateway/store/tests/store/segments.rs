//! Segments of the write journal that are gone from the middle, or lie in another's place.

use block::Gap;
use store::journal::JournalLimits;

use crate::journal::Rig;

/// Segments of one mebibyte each.
const SMALL: JournalLimits = JournalLimits { window_ms: u64::MAX / 2, bytes: 16 << 20 };

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
fn rule_16_a_segment_that_is_gone_from_the_middle_is_a_gap_and_bridged_by_nothing() {
    let mut rig = Rig::new(SMALL);
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
    let mut rig = Rig::new(SMALL);
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
