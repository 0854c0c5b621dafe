//! How much one link carries, and what a change costs in CPU. Run by hand:
//! `cargo test --release -p twinspan-link -- --ignored --nocapture carries`.

use std::time::Duration;

use block::{Change, Extent, Link, Message, Seq};
use bytes::Bytes;
use tokio::time::Instant;
use twinspan_link::{Incoming, accept, dial};

use crate::common::*;

const RUN: Duration = Duration::from_secs(3);

/// CPU that this thread used so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Keeps `depth` changes of `len` bytes under way; says how many went through, and this thread's
/// CPU.
async fn primary(mut link: Box<dyn Link>, depth: u64, len: usize) -> (u64, Duration) {
    let data = Bytes::from(vec![9; len]);
    let (mut sent, mut acked) = (0, 0);
    let (start, busy) = (Instant::now(), cpu());
    while start.elapsed() < RUN {
        while sent - acked < depth {
            sent += 1;
            link.push(Message::Change {
                seq: Seq::new(sent),
                volume: 0,
                extent: Extent::new(sent * 4096, len as u64).unwrap(),
                change: Change::Write(data.clone()),
                fua: false,
                resync: false,
            });
        }
        let mut messages = Vec::new();
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(outcome) = link.poll_send(context) {
                outcome.unwrap();
            }
            link.poll_receive(context, &mut messages)
        })
        .await
        .unwrap();
        for message in messages {
            let Message::Acks(seqs) = message else { panic!("{message:?}") };
            acked += seqs.len() as u64;
        }
    }
    (acked, cpu() - busy)
}

/// Acknowledges what comes in, until the link ends.
async fn secondary(mut link: Box<dyn Link>) -> Duration {
    let busy = cpu();
    while let Ok(messages) = receive(&mut *link).await {
        let acks = messages.iter().filter_map(|message| match message {
            Message::Change { seq, .. } => Some(*seq),
            _ => None,
        });
        link.push(Message::Acks(acks.collect()));
        if send(&mut *link).await.is_err() {
            break;
        }
    }
    cpu() - busy
}

#[test]
#[ignore = "a measurement"]
fn carries() {
    for (depth, len) in [(1, 4096), (32, 4096), (128, 4096), (16, 65_536), (8, 1 << 20)] {
        let (east, west) = friends();
        let (address, listening) = std::sync::mpsc::channel();
        let secondary = on_own_thread(move || async move {
            let (listener, addresses) = listen().await;
            address.send(addresses).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(Incoming::Group { link, .. }) = accept(stream, &west).await else {
                panic!("no link")
            };
            secondary(link.attach().unwrap()).await
        });
        let primary = on_own_thread(move || async move {
            let addresses = listening.recv().unwrap();
            let link = dial(&addresses, identity(2).gateway, &east).await.unwrap();
            let mut link = link.attach().unwrap();
            link.push(Message::Open(open()));
            primary(link, depth, len).await
        });
        let ((count, sending), receiving) = (primary.join().unwrap(), secondary.join().unwrap());
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count as f64;
        println!(
            "{len:>8} bytes at depth {depth:>3}: {:>8.0} changes/s {:>8.1} MB/s, CPU {:.2} + {:.2} us each",
            count as f64 / RUN.as_secs_f64(),
            (count * len as u64) as f64 / RUN.as_secs_f64() / 1e6,
            each(sending),
            each(receiving),
        );
    }
}
