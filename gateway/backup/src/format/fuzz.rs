//! What a bucket may hold that is almost what was put there.

use block::{SnapshotId, VolumeId};
use testkit::fuzz::{Fuzz, Made};
use uuid::Uuid;

use super::*;
use crate::BackupId;
use crate::id::Attempt;
use crate::seal::{Keys, Kind};

fn id(number: u128) -> BackupId {
    BackupId::from_uuid(Uuid::from_u128(number))
}

fn manifest() -> Manifest {
    let layer = |number: u8| MapRef {
        run: id(u128::from(number % 3)),
        attempt: Attempt(Uuid::from_u128(u128::from(number % 2))),
        volume: u32::from(number % 4),
        segment: u32::from(number),
        length: u32::from(number) * 100,
        digest: [number; 32],
    };
    let member = Member {
        id: VolumeId::of(1),
        name: "orders".to_owned(),
        bytes: 1 << 40,
        point: SnapshotId::of(5),
        parent: Some(id(4)),
        stored_bytes: 17,
        read_bytes: 18,
        segments: vec![(0, vec![layer(0), layer(0)]), (3, vec![layer(3)])],
    };
    Manifest {
        id: id(6),
        about: about::example(),
        members: vec![member.clone(), Member { id: VolumeId::of(2), ..member }],
    }
}

fn map() -> Map {
    let chunk = |number: u32, blocks: u8, skip: u8| Content::Chunk {
        place: tests::place(number, blocks),
        skip,
    };
    let entry = |first: u64, end: u64, content| Entry { span: Span::new(first, end), content };
    Map {
        entries: vec![
            entry(0, 4, Content::Zero),
            entry(4, 8, chunk(1, 4, 0)),
            entry(9, 10, chunk(2, 9, 3)),
            entry(20, 36, chunk(7, 16, 0)),
        ],
    }
}

fn pin(purpose: Purpose) -> Pin {
    Pin { gateway: "east-1".to_owned(), needs: vec![id(4), id(5)], purpose }
}

#[test]
fn manifests_that_are_almost_right_mean_the_same_when_they_are_put_again() {
    Fuzz::new([manifest().encode()]).run(|bytes| {
        let Ok(found) = Manifest::decode(bytes) else { return Made::Refused };
        assert_eq!(Manifest::decode(&found.encode()), Ok(found));
        Made::Understood
    });
}

#[test]
fn maps_that_are_almost_right_mean_the_same_when_they_are_put_again() {
    Fuzz::new([map().encode(), Map { entries: Vec::new() }.encode()]).run(|bytes| {
        let Ok(found) = Map::decode(bytes) else { return Made::Refused };
        assert!(found.entries.windows(2).all(|two| two[0].span.end <= two[1].span.first));
        assert_eq!(Map::decode(&found.encode()), Ok(found));
        Made::Understood
    });
}

#[test]
fn pins_that_are_almost_right_mean_the_same_when_they_are_put_again() {
    let volume =
        WantedVolume { id: VolumeId::of(1), point: SnapshotId::of(2), parent: Some((id(3), true)) };
    let wanted = Wanted { about: about::example(), volumes: vec![volume] };
    let seeds = [pin(Purpose::Reading).encode(), pin(Purpose::Taking(Box::new(wanted))).encode()];
    Fuzz::new(seeds).run(|bytes| {
        let Ok(found) = Pin::decode(bytes) else { return Made::Refused };
        assert_eq!(Pin::decode(&found.encode()), Ok(found));
        Made::Understood
    });
}

/// Behind a checksum that matches: whoever may write to the bucket can make one.
#[test]
fn envelopes_that_are_almost_right_are_refused_or_hold_the_same_when_they_are_sealed_again() {
    let keys = Keys::create(None).unwrap().0;
    let seeds = [&b"a body"[..], &[0; 5000], b""].map(|body| keys.seal(Kind::Pin, body).unwrap());
    let seal = |bytes: &mut [u8]| {
        let Some(body) = bytes.len().checked_sub(32) else { return };
        let sum = blake3::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(sum.as_bytes());
    };
    // zstd takes memory of its own, which is not counted: what is here is what the length says.
    Fuzz::new(seeds).tokens(&[b"TWSBAK"]).repaired(seal).within(2 << 20).run(|bytes| {
        let Ok(body) = keys.unseal(Kind::Pin, "pin", bytes) else { return Made::Refused };
        let again = keys.seal(Kind::Pin, &body).unwrap();
        assert_eq!(keys.unseal(Kind::Pin, "pin", &again).unwrap(), body);
        Made::Understood
    });
}

#[test]
fn footers_of_packs_that_are_almost_right_point_into_their_pack() {
    let keys = Keys::create(None).unwrap().0;
    let reference = tests::place(1, 1).pack;
    let mut pack = Pack::new(&keys, reference, 0, 10);
    let content = vec![1; 4096];
    let place = pack.push(&content, false, 1, keys.chunk_id(&content));
    pack.note(Entry { span: Span::new(10, 11), content: Content::Chunk { place, skip: 0 } });
    pack.reach(11);
    let (reference, bytes) = pack.finish().unwrap();
    let bytes_max = bytes.len() * 4;
    Fuzz::new([bytes.to_vec()]).within(4 << 20).run(|bytes| {
        let length = bytes.len() as u64;
        let Some(at) = length.checked_sub(Footer::BYTES) else { return Made::Refused };
        let at = usize::try_from(at).unwrap();
        let Ok(footer) = Footer::decode("p", &bytes[at..], length) else { return Made::Refused };
        let range = index_range(&footer);
        assert!(range.start <= range.end && range.end <= length, "{range:?} of {length}");
        assert!(bytes.len() <= bytes_max.max(1 << 20));
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        Made::of(open_index(&keys, &reference, &footer, &bytes[range]).is_ok())
    });
}
