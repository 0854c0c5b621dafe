//! Whose copy is asked for a block, and what a scrub goes on with when snapshots go.

use mirror::{LegStatus, UpstreamStatus};

use super::*;
use crate::migration::tests::{primary, upstream, well};

fn sites(status: &GroupStatus) -> Vec<String> {
    related(status).into_iter().map(|(_, site)| site).collect()
}

/// Found in a review: in modes `consistency` and `stack` nobody was asked, because nobody is in sync.
#[test]
fn scrub_asks_a_copy_that_follows_behind_and_none_that_is_away() {
    let behind = |site| LegStatus { in_sync: false, ..well(2, site) };
    let away = LegStatus { link: LinkState::Connecting, ..well(3, "south") };
    assert_eq!(sites(&primary(vec![behind("west"), away])), ["west"]);
    let of = |link| GroupStatus {
        role: Role::Secondary,
        serving: Serving::NotPrimary,
        quality: block::Quality::Consistent,
        upstream: Some(upstream(link)),
        ..primary(Vec::new())
    };
    assert_eq!(sites(&of(LinkState::Connected)), ["east"]);
    assert!(sites(&of(LinkState::Off)).is_empty());
    // Between two transfers of mode `stack` there is no link.
    let policy = mirror::Policy { mode: Mode::Stack, ..mirror::Policy::default() };
    let resting = LegStatus { policy, link: LinkState::Off, ..behind("west") };
    let suspended = LegStatus { state: SessionState::Suspended, ..resting.clone() };
    assert_eq!(sites(&primary(vec![resting])), ["west"]);
    assert!(sites(&primary(vec![suspended])).is_empty());
    let rests = Some(UpstreamStatus { mode: Mode::Stack, ..upstream(LinkState::Off) });
    assert_eq!(sites(&GroupStatus { upstream: rests, ..of(LinkState::Off) }), ["east"]);
    // A fenced one has a history of its own.
    let fenced = GroupStatus { role: Role::Fenced, ..of(LinkState::Connected) };
    assert!(sites(&fenced).is_empty());
}

/// Snapshots, oldest first, each held against the next.
fn kept(ids: &[u128]) -> Vec<Option<SeenIn>> {
    let newer = ids.iter().skip(1).map(|id| Some(SnapshotId::of(100 + id))).chain([None]);
    let seen = |(id, newer): (&u128, Option<SnapshotId>)| {
        let (snapshot, here) = (SnapshotId::of(*id), SnapshotId::of(100 + id));
        Some(SeenIn { snapshot, here, newer })
    };
    ids.iter().zip(newer).map(seen).collect()
}

fn with_volume(mut seen: Vec<Option<SeenIn>>) -> Vec<Option<SeenIn>> {
    seen.insert(0, None);
    seen
}

/// Found in a review: when the newer of two was deleted, the rest of the older one was not read.
#[test]
fn scrub_goes_on_when_a_snapshot_is_deleted() {
    let left = VecDeque::from(kept(&[2, 3, 4]));
    // The first of them was looked at, and one was taken meanwhile.
    let (again, from) = listed_again(&left, with_volume(kept(&[1, 2, 4, 5])), 70);
    let wanted: Vec<_> = kept(&[1, 2, 4, 5]).into_iter().skip(1).take(2).collect();
    assert_eq!((Vec::from(again), from), (wanted, 70));
    // It is gone itself: the next one from the beginning.
    let (again, from) = listed_again(&left, with_volume(kept(&[1, 3, 4])), 70);
    assert_eq!((Vec::from(again), from), (kept(&[3, 4]), 0));
    let (again, from) = listed_again(&left, with_volume(kept(&[1])), 70);
    assert_eq!((again.len(), from), (0, 0));
    // Nothing changed: it is not asked for ever.
    let (again, from) = listed_again(&left, with_volume(kept(&[2, 3, 4])), 70);
    assert_eq!((Vec::from(again), from), (kept(&[3, 4]), 0));
}
