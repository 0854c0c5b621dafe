//! The pool on the file system of the machine, with its threads.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use block::{
    Answer, Completion, Completions, Extent, GatewayId, IoError, Op, PoolId, Request, SLOT_BYTES,
    Store, Volume,
};
use bytes::Bytes;
use store::{Pool, PoolIdentity, PoolOptions, PoolVolume, StoreError};
use tokio_util::task::TaskTracker;

use crate::rig::{VOLUME, extent, flatten, record};

fn pool(path: &Path) -> Arc<Pool> {
    Pool::open_path(path, PoolOptions::default()).unwrap()
}

fn make(path: &Path, bytes: u64) -> Arc<Pool> {
    let identity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(2) };
    Pool::create_path(path, identity).unwrap();
    let pool = pool(path);
    pool.create_volume(record(bytes)).unwrap();
    pool
}

/// A volume that was dropped without a close counts as open until its workers have ended.
fn open(pool: &Arc<Pool>) -> Rc<PoolVolume> {
    loop {
        match pool.open_volume(VOLUME) {
            Err(StoreError::Busy { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Runs `test` on a shard with the volume's pump beside it.
fn on_shard<F: Future<Output = ()>>(pool: &Arc<Pool>, test: impl FnOnce(Rc<PoolVolume>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let volume = open(pool);
    let tracker = TaskTracker::new();
    local.block_on(&runtime, async {
        tracker.spawn_local(volume.pump());
        test(volume).await;
        // The pump ends by itself once the volume is gone.
        tracker.close();
        tracker.wait().await;
    });
}

async fn answers(queue: &Rc<Completions>, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        std::future::poll_fn(|cx| queue.poll_ready(cx)).await;
        queue.take(&mut done);
    }
    done.sort_by_key(|c| c.tag);
    done
}

async fn ask(volume: &PoolVolume, op: Op) -> Result<Answer, IoError> {
    let queue = Completions::new();
    volume.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(0) }]);
    answers(&queue, 1).await.pop().unwrap().result
}

async fn close(volume: &PoolVolume) {
    let queue = Completions::new();
    volume.close(queue.ticket(0));
    assert_eq!(answers(&queue, 1).await[0].result, Ok(Answer::Done));
}

fn filled(extent: Extent, byte: u8) -> Op {
    Op::Write(extent, Bytes::from(vec![byte; usize::try_from(extent.len()).unwrap()]))
}

fn data_file(path: &Path) -> std::path::PathBuf {
    path.join(format!("volumes/{VOLUME}/data.0000"))
}

#[test]
fn reads_cold_and_gives_room_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let pool = make(dir.path(), 1 << 30);
    on_shard(&pool, |volume| async move {
        for piece in 0..64u64 {
            let byte = u8::try_from(piece + 1).unwrap();
            ask(&volume, filled(extent(piece << 20, 1 << 20), byte)).await.unwrap();
        }
        ask(&volume, Op::Flush).await.unwrap();
        close(&volume).await;
    });
    let file = std::fs::File::open(data_file(dir.path())).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 64 << 20);
    // Out of the page cache, so that reads go through the workers.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    on_shard(&pool, |volume| async move {
        assert!(volume.recovery().clean);
        let queue = Completions::new();
        let mut batch: Vec<Request> = (0..64)
            .map(|piece| Request {
                op: Op::Read(extent((piece << 20) + 100, 300_000)),
                fua: false,
                ticket: queue.ticket(piece),
            })
            .collect();
        // What is written behind a read must not show in it, however long the read takes.
        batch.extend((0..64).map(|piece| Request {
            op: filled(extent((piece << 20) + 200_704, 4096), 0xff),
            fua: false,
            ticket: queue.ticket(64 + piece),
        }));
        volume.submit(&mut batch);
        for (completion, byte) in answers(&queue, 128).await.into_iter().take(64).zip(1u8..) {
            let content = flatten(completion.result.unwrap());
            assert!(content.len() == 300_000 && content.iter().all(|b| *b == byte));
        }
        ask(&volume, Op::Trim(extent(0, 1 << 30))).await.unwrap();
        ask(&volume, Op::Flush).await.unwrap();
        assert_eq!(volume.usage().mapped_bytes, 0);
        close(&volume).await;
    });
    assert_eq!(pool.used_bytes(), 0);
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
}

/// Small writes to new places find their room taken ahead, and a close gives back what none took.
#[test]
fn room_is_taken_ahead_of_small_writes_and_given_back_at_the_close() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let pool = make(dir.path(), 1 << 30);
    let path = data_file(dir.path());
    let room = || std::fs::metadata(&path).unwrap().blocks() * 512;
    on_shard(&pool, |volume| async move {
        let mut chunks = 0;
        // A worker takes it, in its own time.
        while chunks == 0 || room() <= (chunks + 1) * SLOT_BYTES {
            assert!(chunks < 10_000, "no room is taken ahead");
            ask(&volume, filled(extent(chunks * SLOT_BYTES, 4096), 7)).await.unwrap();
            ask(&volume, Op::Flush).await.unwrap();
            chunks += 1;
        }
        assert_eq!(volume.usage().mapped_bytes, chunks * 4096);
        close(&volume).await;
        assert!(room() <= chunks * SLOT_BYTES, "{}", room());
    });
}

#[test]
fn a_large_trim_takes_turns_and_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let pool = make(dir.path(), 1 << 50);
    on_shard(&pool, |volume| async move {
        // One block in each of 200 pages: more than one step of a trim.
        for page in 0..200u64 {
            ask(&volume, filled(extent(page << 24, 4096), 7)).await.unwrap();
        }
        let queue = Completions::new();
        let whole = extent(0, 1 << 50);
        let ops = [
            Op::Trim(whole),
            Op::Read(extent(199 << 24, 4096)),
            filled(extent(199 << 24, 4096), 9),
            Op::Read(extent(199 << 24, 4096)),
        ];
        let mut batch: Vec<Request> = (0..)
            .zip(ops)
            .map(|(tag, op)| Request { op, fua: false, ticket: queue.ticket(tag) })
            .collect();
        volume.submit(&mut batch);
        let mut early = Vec::new();
        assert!(!queue.take(&mut early), "the trim does not hold the shard up");
        let done = answers(&queue, 4).await;
        let content = |c: &Completion| flatten(c.result.clone().unwrap());
        assert_eq!(content(&done[1]), [0; 4096]);
        assert_eq!(content(&done[3]), [9; 4096]);
        assert_eq!(volume.usage().mapped_bytes, 4096);
        assert_eq!(volume.mapped(0, 10).unwrap().len(), 1);
    });
}

#[test]
fn many_requests_and_checkpoints_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pool = make(dir.path(), 1 << 40);
    let mut random = 1u64;
    let mut model = std::collections::HashMap::new();
    for round in 0..3u8 {
        on_shard(&pool, |volume| {
            let (random, model) = (&mut random, &mut model);
            async move {
                let queue = Completions::new();
                for turn in 0..40u8 {
                    let mut batch = Vec::new();
                    for tag in 0..64 {
                        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let block = (*random >> 33) % 200_000;
                        let byte = turn.wrapping_mul(7).wrapping_add(round);
                        model.insert(block, byte);
                        let op = filled(extent(block * 65_536 * 3, 4096), byte);
                        batch.push(Request { op, fua: tag == 63, ticket: queue.ticket(tag) });
                    }
                    volume.submit(&mut batch);
                    assert!(answers(&queue, 64).await.iter().all(|c| c.result.is_ok()));
                    if turn % 10 == 9 {
                        volume.record_activity(&[], queue.ticket(0));
                        assert!(answers(&queue, 1).await[0].result.is_ok());
                    }
                }
                for (block, byte) in model.iter() {
                    let read = Op::Read(extent(block * 65_536 * 3, 4096));
                    let content = flatten(ask(&volume, read).await.unwrap());
                    assert_eq!(content, vec![*byte; 4096], "block {block}");
                }
                // Without a close: the next round recovers.
            }
        });
    }
    let kept = Arc::clone(&pool);
    on_shard(&pool, |volume| async move {
        // What was ready and never written goes back with the first sync.
        ask(&volume, Op::Flush).await.unwrap();
        assert_eq!(volume.usage().mapped_bytes, model.len() as u64 * 4096);
        assert_eq!(kept.used_bytes() / SLOT_BYTES, model.len() as u64);
    });
}

#[test]
fn another_process_cannot_open_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let held = make(dir.path(), 1 << 20);
    let again = Pool::open_path(dir.path(), PoolOptions::default());
    assert!(matches!(again, Err(StoreError::Busy { .. })));
    drop(held);
    drop(pool(dir.path()));
}
