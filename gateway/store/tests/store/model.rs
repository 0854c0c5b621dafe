//! Random operations on a pool volume and on plain bytes must show the same, now and in snapshots.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use block::{BLOCK_BYTES, IoError, Op, Origin, RunKind, SnapshotId, Store, Volume};
use bytes::Bytes;
use proptest::prelude::*;
use store::PoolVolume;
use testkit::SimDisk;

use crate::rig::{
    TestOrigin, ask, close, disk_to_fill, disk_with, extent, fill_all, flush, open, read, run,
    submit,
};

const BYTES: u64 = 40 << 20;
/// What is touched: small enough to be held against the model whole, across a page's border.
const BASE: u64 = (16 << 20) - (256 << 10);
const SPAN: u64 = 512 << 10;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        len: u64,
        byte: u8,
    },
    Batch(Vec<(u64, u64, u8)>),
    Zero {
        offset: u64,
        len: u64,
        may_trim: bool,
    },
    Trim {
        offset: u64,
        len: u64,
    },
    TrimAll,
    Flush,
    /// Take the snapshot of this number, or remove it if there is one.
    Toggle(u128),
    Remove(u128),
    RollBack(u128),
    Open(u128),
    LetGo(usize),
    Activity,
    Close,
    Reopen,
    Kill,
    Cold(bool),
    /// Fill by about so many bytes.
    Fill(u64),
    /// Fill until all is there.
    FillAll,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0..SPAN / 4096, 1u64..24).prop_map(|(block, count)| (block * 4096, count * 4096)),
        (0..SPAN, 1u64..20_000),
        (0..SPAN / 65_536, 1u64..4).prop_map(|(chunk, count)| (chunk * 65_536, count * 65_536)),
    ]
    .prop_map(|(offset, len)| (offset, len.min(SPAN - offset)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (range(), 1u8..).prop_map(|((offset, len), byte)| Step::Write { offset, len, byte }),
        3 => prop::collection::vec((range(), 1u8..), 1..8)
            .prop_map(|v| Step::Batch(v.into_iter().map(|((o, l), b)| (o, l, b)).collect())),
        2 => (range(), any::<bool>())
            .prop_map(|((offset, len), may_trim)| Step::Zero { offset, len, may_trim }),
        3 => range().prop_map(|(offset, len)| Step::Trim { offset, len }),
        1 => Just(Step::TrimAll),
        2 => Just(Step::Flush),
        4 => (0u128..5).prop_map(Step::Toggle),
        2 => (0u128..5).prop_map(Step::Remove),
        2 => (0u128..5).prop_map(Step::RollBack),
        1 => (0u128..5).prop_map(Step::Open),
        1 => (0usize..3).prop_map(Step::LetGo),
        1 => Just(Step::Activity),
        1 => Just(Step::Close),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<bool>().prop_map(Step::Cold),
        2 => (4096u64..200_000).prop_map(Step::Fill),
        1 => Just(Step::FillAll),
    ]
}

/// Content that differs from byte to byte, so that a shift shows.
fn pattern(offset: u64, len: u64, byte: u8) -> Vec<u8> {
    (offset..offset + len)
        .map(|at| byte.wrapping_add(u8::try_from(at / 512 % 251).unwrap()) | 1)
        .collect()
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What the volume should hold.
struct Model {
    now: Vec<u8>,
    /// Oldest first.
    snapshots: Vec<(u128, Vec<u8>)>,
    /// Snapshots that are held open, and what they should show.
    views: Vec<(Rc<dyn Volume>, Vec<u8>)>,
    /// Whether the head ever went back: then layers may share an unnamed one below.
    branched: bool,
    /// What it is filled from.
    origin: Option<Rc<TestOrigin>>,
}

impl Model {
    fn snapshot(&self, number: u128) -> Option<&Vec<u8>> {
        self.snapshots.iter().find(|(known, _)| *known == number).map(|(_, content)| content)
    }
}

fn same(got: &[u8], wanted: &[u8], what: &str) {
    if let Some(place) = got.iter().zip(wanted).position(|(a, b)| a != b) {
        panic!("{what}: byte {place} is {} and should be {}", got[place], wanted[place]);
    }
}

fn compare_layout(volume: &dyn Volume, model: &[u8]) {
    let mut offset = 0;
    for run in volume.layout(extent(BASE, SPAN), usize::MAX).unwrap() {
        let part = &model[at(offset)..at(offset + run.len)];
        if run.kind == RunKind::Hole {
            assert!(part.iter().all(|b| *b == 0), "a hole holds data at {offset}");
        }
        offset += run.len;
    }
    assert_eq!(offset, SPAN);
}

fn compare(volume: &PoolVolume, model: &Model) {
    same(&read(volume, BASE, SPAN).unwrap(), &model.now, "now");
    compare_layout(volume, &model.now);
    match volume.checksums(extent(BASE, SPAN)) {
        Ok(sums) => {
            for (block, sum) in model.now.chunks(4096).zip(&sums) {
                assert_eq!(block.iter().all(|b| *b == 0), *sum == 0);
            }
        }
        Err(e) => assert!(volume.is_filling() && e == IoError::Origin, "{e}"),
    }
    for (view, content) in &model.views {
        same(&read(view.as_ref(), BASE, SPAN).unwrap(), content, "held");
        compare_layout(view.as_ref(), content);
    }
    let known = volume.snapshots();
    let ids: Vec<_> = model.snapshots.iter().map(|(number, _)| SnapshotId::of(*number)).collect();
    assert_eq!(known.iter().map(|s| s.id).collect::<Vec<_>>(), ids);
    for ((_, content), found) in model.snapshots.iter().zip(&known) {
        let view = volume.open_snapshot(found.id).unwrap();
        same(&read(view.as_ref(), BASE, SPAN).unwrap(), content, "snapshot");
        let data = content.chunks(4096).filter(|b| b.iter().any(|b| *b != 0)).count() as u64;
        assert!(
            volume.is_filling() || found.exclusive_bytes + found.shared_bytes >= data * BLOCK_BYTES
        );
        let changed = volume.changed_since(found.id, BASE / BLOCK_BYTES, usize::MAX).unwrap();
        lists_what_differs(&changed, content, &model.now);
        for (number, other) in &model.snapshots {
            let ids = (found.id, SnapshotId::of(*number));
            let changed = volume.changed_between(ids, BASE / BLOCK_BYTES, usize::MAX).unwrap();
            lists_what_differs(&changed, content, other);
            assert!(found.id != ids.1 || changed.is_empty(), "{changed:?}");
        }
    }
    let mapped: u64 =
        volume.mapped(0, usize::MAX).unwrap().iter().map(|r| r.count() * BLOCK_BYTES).sum();
    if volume.is_filling() {
        // What is not here yet is shown as mapped.
    } else if model.snapshots.is_empty() && model.views.is_empty() {
        assert_eq!(volume.usage().mapped_bytes, mapped, "removed snapshots leave nothing");
    } else {
        assert!(volume.usage().mapped_bytes >= mapped);
    }
}

fn lists_what_differs(changed: &[block::BlockRange], one: &[u8], other: &[u8]) {
    for (block, (a, b)) in (0..).zip(one.chunks(4096).zip(other.chunks(4096))) {
        let block = BASE / BLOCK_BYTES + block;
        let listed = changed.iter().any(|r| r.first() <= block && block < r.end());
        assert!(a == b || listed, "block {block} differs and is not listed");
    }
}

fn change(volume: &PoolVolume, model: &mut [u8], step: &Step) {
    match step {
        Step::Write { offset, len, byte } => {
            let data = pattern(*offset, *len, *byte);
            model[at(*offset)..at(offset + len)].copy_from_slice(&data);
            run(volume, Op::Write(extent(BASE + offset, *len), Bytes::from(data))).unwrap();
        }
        Step::Batch(writes) => {
            let mut ops = Vec::new();
            for (offset, len, byte) in writes {
                let data = pattern(*offset, *len, *byte);
                model[at(*offset)..at(offset + len)].copy_from_slice(&data);
                ops.push(Op::Write(extent(BASE + offset, *len), Bytes::from(data)));
            }
            assert!(submit(volume, ops).iter().all(Result::is_ok));
        }
        Step::Zero { offset, len, may_trim } => {
            model[at(*offset)..at(offset + len)].fill(0);
            let extent = extent(BASE + offset, *len);
            run(volume, Op::Zero { extent, may_trim: *may_trim }).unwrap();
        }
        Step::Trim { offset, len } => {
            let range = extent(BASE + offset, *len);
            if let Some(whole) = range.whole_blocks().extent() {
                model[at(whole.offset() - BASE)..at(whole.end() - BASE)].fill(0);
            }
            run(volume, Op::Trim(range)).unwrap();
        }
        Step::TrimAll => {
            model.fill(0);
            run(volume, Op::Trim(extent(0, BYTES))).unwrap();
        }
        Step::Flush => flush(volume).unwrap(),
        Step::Activity => {
            let active: Vec<_> = extent(BASE, 4096).activity().collect();
            ask(|ticket| volume.record_activity(&active, ticket)).unwrap();
        }
        Step::Close => {
            close(volume).unwrap();
        }
        _ => {}
    }
}

/// Removes a snapshot and holds what that gave back against what was promised.
fn remove(volume: &PoolVolume, model: &mut Model, number: u128) {
    let id = SnapshotId::of(number);
    let promised: BTreeMap<_, _> =
        volume.snapshots().iter().map(|s| (s.id, s.exclusive_bytes)).collect();
    let before = volume.usage().mapped_bytes;
    ask(|ticket| volume.remove_snapshot(id, ticket)).unwrap();
    if model.views.is_empty() && model.origin.is_none() {
        let given = before - volume.usage().mapped_bytes;
        let promised = promised.get(&id).copied().unwrap_or(0);
        if model.branched {
            // What was kept at a branch for this one alone goes with it.
            assert!(given >= promised, "given back {given}, promised {promised}");
        } else {
            assert_eq!(given, promised, "given back");
        }
    }
    model.snapshots.retain(|(known, _)| *known != number);
}

fn apply(volume: &PoolVolume, model: &mut Model, step: &Step) {
    match step {
        Step::Toggle(number) if model.snapshot(*number).is_none() => {
            ask(|ticket| volume.snapshot(SnapshotId::of(*number), ticket)).unwrap();
            let again = ask(|ticket| volume.snapshot(SnapshotId::of(*number), ticket));
            assert_eq!(again, Err(IoError::Invalid));
            model.snapshots.push((*number, model.now.clone()));
        }
        Step::Toggle(number) | Step::Remove(number) => remove(volume, model, *number),
        Step::RollBack(number) => {
            let back = ask(|ticket| volume.roll_back(SnapshotId::of(*number), ticket));
            match model.snapshot(*number).cloned() {
                Some(content) => {
                    back.unwrap();
                    model.now = content;
                    model.branched = true;
                    let left = volume.changed_since(SnapshotId::of(*number), 0, 1).unwrap();
                    assert_eq!(left, []);
                }
                None => assert_eq!(back, Err(IoError::Invalid)),
            }
        }
        Step::Open(number) => match model.snapshot(*number).cloned() {
            Some(content) => {
                let view = volume.open_snapshot(SnapshotId::of(*number)).unwrap();
                model.views.push((view, content));
            }
            None => assert!(volume.open_snapshot(SnapshotId::of(*number)).is_err()),
        },
        Step::Fill(budget) => {
            ask(|ticket| volume.fill(*budget, ticket)).unwrap();
        }
        Step::FillAll => fill_all(volume),
        Step::LetGo(index) if *index < model.views.len() => {
            model.views.remove(*index);
        }
        step => change(volume, &mut model.now, step),
    }
}

/// Opens it, and says what it is filled from.
fn opened(disk: &Arc<SimDisk>, model: &Model) -> Rc<PoolVolume> {
    let volume = open(disk);
    if let Some(origin) = &model.origin {
        volume.set_origin(Rc::clone(origin) as Rc<dyn Origin>);
    }
    volume
}

/// An origin that ends in the middle of what is looked at, with holes.
fn origin() -> Vec<u8> {
    let mut content = vec![0; at(BASE + SPAN / 2 + 5 * 4096)];
    for block in (0..content.len() / 4096).filter(|block| block % 3 != 1 && block % 50 > 9) {
        let byte = u8::try_from(block % 200).unwrap();
        content[block * 4096..(block + 1) * 4096].copy_from_slice(&pattern(
            block as u64 * 4096,
            4096,
            byte,
        ));
    }
    content
}

fn check(steps: &[Step], origin: Option<Vec<u8>>) {
    let mut now = vec![0; at(SPAN)];
    let disk = match &origin {
        Some(origin) => disk_to_fill(BYTES, origin.len() as u64),
        None => disk_with(BYTES),
    };
    let origin = origin.map(|content| {
        let seen = &content[at(BASE)..];
        now[..seen.len()].copy_from_slice(seen);
        TestOrigin::new(content)
    });
    let mut model =
        Model { now, snapshots: Vec::new(), views: Vec::new(), branched: false, origin };
    let mut volume = opened(&disk, &model);
    for step in steps {
        apply(&volume, &mut model, step);
        match step {
            Step::Reopen => {
                close(volume.as_ref()).unwrap();
                drop(volume);
                if let Some((view, _)) = model.views.pop() {
                    assert_eq!(read(view.as_ref(), 0, 1), Err(IoError::ShuttingDown));
                }
                model.views.clear();
                volume = opened(&disk, &model);
                assert!(volume.recovery().clean);
            }
            Step::Kill => {
                disk.kill();
                model.views.clear();
                drop(volume);
                volume = opened(&disk, &model);
            }
            Step::Cold(cold) => disk.set_cold(*cold),
            _ => {}
        }
        compare(&volume, &model);
    }
    model.views.clear();
    close(volume.as_ref()).unwrap();
    drop(volume);
    let volume = opened(&disk, &model);
    compare(&volume, &model);
    if model.origin.is_some() {
        fill_all(&volume);
        compare(&volume, &model);
    }
    for (number, _) in model.snapshots.clone() {
        remove(&volume, &mut model, number);
        compare(&volume, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 600, ..ProptestConfig::default() })]

    #[test]
    fn shows_what_plain_bytes_would(steps in prop::collection::vec(step(), 1..40)) {
        check(&steps, None);
    }

    #[test]
    fn shows_the_same_while_it_is_filled(steps in prop::collection::vec(step(), 1..40)) {
        check(&steps, Some(origin()));
    }
}
