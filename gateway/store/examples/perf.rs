//! What the pool costs a request when the page cache is warm: 4 KiB at random, batches of 32.
//!
//! `cargo run --release -p twinspan-store --example perf -- DIRECTORY`
#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(clippy::expect_used, reason = "a measurement that fails has nothing better to do")]

use std::rc::Rc;

use block::{Completions, Extent, GatewayId, Op, PoolId, Request, Volume, VolumeId};
use bytes::Bytes;
use tokio::time::Instant;
use twinspan_store::{Pool, PoolIdentity, PoolOptions, VolumeRecord};

const BYTES: u64 = 1 << 30;
const BATCH: u64 = 32;
const BATCHES: u64 = 20_000;

fn main() {
    let path = std::env::args().nth(1).expect("the first argument names an empty directory");
    let path = std::path::Path::new(&path);
    let identity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(2) };
    Pool::create_path(path, identity).expect("make pool");
    let pool = Pool::open_path(path, PoolOptions::default()).expect("open pool");
    let id = VolumeId::of(7);
    let record =
        VolumeRecord { id, name: "perf".to_owned(), bytes: BYTES, created: 0, origin: None };
    pool.create_volume(record).expect("make volume");
    let volume = pool.open_volume(id).expect("open volume");
    let queue = Completions::new();
    let payload = Bytes::from(vec![7; 1 << 20]);
    let start = Instant::now();
    for at in 0..BYTES >> 20 {
        let op = Op::Write(Extent::new(at << 20, 1 << 20).expect("not empty"), payload.clone());
        submit(volume.as_ref(), &queue, vec![op]);
    }
    println!("first write, 1 MiB: {:.0} MiB/s", 1024.0 / start.elapsed().as_secs_f64());
    let block = payload.slice(..4096);
    for name in ["read", "overwrite", "read", "overwrite", "read, sparse"] {
        let base = if name == "read, sparse" { BYTES / 2 } else { 0 };
        if base != 0 {
            let op = Op::Trim(Extent::new(base, BYTES / 2).expect("not empty"));
            submit(volume.as_ref(), &queue, vec![op]);
        }
        let span = if base == 0 { BYTES } else { BYTES / 2 };
        let mut random = 1u64;
        let start = cpu_seconds();
        for _ in 0..BATCHES {
            let ops = (0..BATCH).map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = base + (random >> 33) % (span / 4096) * 4096;
                let extent = Extent::new(at, 4096).expect("not empty");
                if name == "overwrite" {
                    Op::Write(extent, block.clone())
                } else {
                    Op::Read(extent)
                }
            });
            submit(volume.as_ref(), &queue, ops.collect());
        }
        #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
        let each = (cpu_seconds() - start) * 1e6 / (BATCH * BATCHES) as f64;
        println!("{name}, 4 KiB: {each:.2} us of CPU each");
    }
}

fn submit(volume: &dyn Volume, queue: &Rc<Completions>, ops: Vec<Op>) {
    let mut batch: Vec<Request> = (0..)
        .zip(ops)
        .map(|(tag, op)| Request { op, fua: false, ticket: queue.ticket(tag) })
        .collect();
    let count = batch.len();
    volume.submit(&mut batch);
    let mut done = Vec::with_capacity(count);
    queue.take(&mut done);
    assert!(done.iter().all(|c| c.result.is_ok()));
}

/// CPU time of this thread, as the system counts it: in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u32 = fields[11..13].iter().filter_map(|f| f.parse::<u32>().ok()).sum();
    f64::from(ticks) / 100.0
}
