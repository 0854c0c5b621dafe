//! Bytes that one host holds while it compares and writes: against every other way to the volume, and
//! not before what is under way has been applied.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use block::{Completions, Op, Request, Volume};

use crate::parts::spawn_local;
use crate::world::{World, bytes, extent};

fn is_pending<F: Future>(future: Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn is_settled(volume: &Rc<dyn Volume>, offset: u64, len: u64) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    volume.poll_settled(extent(offset, len), &mut context) == Poll::Ready(())
}

#[test]
fn what_one_host_holds_no_other_changes_whatever_way_it_comes() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 8192).await.unwrap();
        let ours = east.volume();
        let hold = ours.holds().unwrap().take(extent(0, 4096)).await;
        // Another handle, as the session of another protocol has it.
        let mut waits = pin!(east.start(Op::Write(extent(2048, 4096), bytes(2, 4096))));
        let mut behind = pin!(east.start(Op::Zero { extent: extent(5000, 96), may_trim: true }));
        east.write(8192, 3, 4096).await.unwrap();
        east.flush().await.unwrap();
        world.pass(5).await;
        assert!(is_pending(waits.as_mut()) && is_pending(behind.as_mut()));
        assert_eq!(east.content(0, 8192), bytes(1, 8192));
        let queue = Completions::new();
        let op = Op::Write(extent(0, 4096), bytes(9, 4096));
        hold.submit(&*ours, Request { op, fua: false, ticket: queue.ticket(0) });
        poll_fn(|context| queue.poll_ready(context)).await;
        drop(hold);
        waits.await.unwrap();
        behind.await.unwrap();
        let expected =
            [bytes(9, 2048), bytes(2, 2952), bytes(0, 96), bytes(2, 1048), bytes(1, 2048)].concat();
        assert_eq!(east.content(0, 8192), expected);
        assert_eq!(west.content(0, 8192), expected);
    });
}

#[test]
fn bytes_are_settled_once_every_change_that_came_before_is_applied_here() {
    World::run(|world| async move {
        let (east, _west) = world.mirrored().await;
        let volume = east.volume();
        assert!(is_settled(&volume, 0, 1 << 16));
        east.hold(true);
        let write = east.start(Op::Write(extent(4096, 4096), bytes(7, 4096)));
        // It waits for its turn behind the first, in the machine and in no store.
        let other = east.start(Op::Write(extent(6000, 4096), bytes(8, 4096)));
        world.pass(1).await;
        for (offset, settled) in [(0, true), (4096, false), (9000, false), (12_288, true)] {
            assert_eq!(is_settled(&volume, offset, 512), settled, "at {offset}");
        }
        let waiting = spawn_local(async move {
            poll_fn(|context| volume.poll_settled(extent(4096, 8192), context)).await;
        });
        world.pass(1).await;
        assert!(!waiting.is_finished());
        east.hold(false);
        write.await.unwrap();
        other.await.unwrap();
        waiting.await.unwrap();
        assert_eq!(east.read(6000, 4096).await.unwrap(), bytes(8, 4096));
    });
}
