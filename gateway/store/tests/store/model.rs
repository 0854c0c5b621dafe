//! Random operations on a pool volume and on plain bytes must show the same.

use block::{BLOCK_BYTES, Op, RunKind, Store, Volume};
use bytes::Bytes;
use proptest::prelude::*;
use store::PoolVolume;

use crate::rig::{ask, close, disk_with, extent, flush, open, read, run, submit};

const BYTES: u64 = 40 << 20;
/// What is touched: small enough to be held against the model whole, across a page's border.
const BASE: u64 = (16 << 20) - (256 << 10);
const SPAN: u64 = 512 << 10;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: u64, byte: u8 },
    Batch(Vec<(u64, u64, u8)>),
    Zero { offset: u64, len: u64, may_trim: bool },
    Trim { offset: u64, len: u64 },
    TrimAll,
    Flush,
    Seal,
    Activity,
    Close,
    Reopen,
    Kill,
    Cold(bool),
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
        1 => Just(Step::Seal),
        1 => Just(Step::Activity),
        1 => Just(Step::Close),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<bool>().prop_map(Step::Cold),
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

fn compare(volume: &PoolVolume, model: &[u8], mapped_at_least: bool) {
    let got = read(volume, BASE, SPAN).unwrap();
    if let Some(place) = got.iter().zip(model).position(|(a, b)| a != b) {
        panic!("byte {place} is {} and should be {}", got[place], model[place]);
    }
    let sums = volume.checksums(extent(BASE, SPAN)).unwrap();
    let mut offset = 0;
    for run in volume.layout(extent(BASE, SPAN), usize::MAX).unwrap() {
        let part = &model[at(offset)..at(offset + run.len)];
        if run.kind == RunKind::Hole {
            assert!(part.iter().all(|b| *b == 0), "a hole holds data at {offset}");
        }
        offset += run.len;
    }
    assert_eq!(offset, SPAN);
    for (block, sum) in model.chunks(4096).zip(&sums) {
        assert_eq!(block.iter().all(|b| *b == 0), *sum == 0);
    }
    let mapped: u64 =
        volume.mapped(0, usize::MAX).unwrap().iter().map(|r| r.count() * BLOCK_BYTES).sum();
    if mapped_at_least {
        assert!(volume.usage().mapped_bytes >= mapped);
    } else {
        assert_eq!(volume.usage().mapped_bytes, mapped);
    }
}

fn apply(volume: &PoolVolume, model: &mut [u8], step: &Step) {
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
        Step::Seal => volume.seal().unwrap(),
        Step::Activity => {
            let active: Vec<_> = extent(BASE, 4096).activity().collect();
            ask(|ticket| volume.record_activity(&active, ticket)).unwrap();
        }
        Step::Close => {
            close(volume).unwrap();
        }
        Step::Reopen | Step::Kill | Step::Cold(_) => {}
    }
}

fn check(steps: &[Step]) {
    let disk = disk_with(BYTES);
    let mut volume = open(&disk);
    let mut model = vec![0; at(SPAN)];
    let mut sealed = false;
    for step in steps {
        apply(&volume, &mut model, step);
        sealed |= matches!(step, Step::Seal);
        match step {
            Step::Reopen => {
                close(volume.as_ref()).unwrap();
                drop(volume);
                volume = open(&disk);
                assert!(volume.recovery().clean);
            }
            Step::Kill => {
                disk.kill();
                drop(volume);
                volume = open(&disk);
            }
            Step::Cold(cold) => disk.set_cold(*cold),
            _ => {}
        }
        compare(&volume, &model, sealed);
    }
    close(volume.as_ref()).unwrap();
    drop(volume);
    compare(&open(&disk), &model, sealed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn shows_what_plain_bytes_would(steps in prop::collection::vec(step(), 1..40)) {
        check(&steps);
    }
}
