//! A connection over a stream in memory: damage, cuts, and what is delivered before them.

use crate::common::*;
use block::{Hello, Link, LinkError, Message};
use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use twinspan_link::wire::{Greeting, Outbox, encode, encode_greeting};
use twinspan_link::{Connection, greet};

fn bytes_of(messages: impl IntoIterator<Item = Message>) -> Vec<u8> {
    let mut outbox = Outbox::new();
    for message in messages {
        encode(1, message, &mut outbox).unwrap();
    }
    outbox.to_vec()
}

fn pair() -> (DuplexStream, Connection<DuplexStream>) {
    let (near, far) = duplex(1 << 20);
    (near, Connection::new(far, identity(1), 1, BytesMut::new()))
}

#[tokio::test]
async fn what_came_whole_is_delivered_before_the_cut() {
    for cut in [1, 63, 64, 65, 1000] {
        let (mut near, mut link) = pair();
        near.write_all(&bytes_of([change(4), change(5)])).await.unwrap();
        near.write_all(&bytes_of([change(6)])[..cut]).await.unwrap();
        drop(near);
        assert_eq!(receive(&mut link).await.unwrap(), [change(4), change(5)]);
        let ended = Err(LinkError::Io("connection ended in mid-frame".to_owned()));
        assert_eq!(receive(&mut link).await, ended, "cut at {cut}");
        assert_eq!(receive(&mut link).await, ended, "it stays so");
    }
    let (near, mut link) = pair();
    drop(near);
    assert_eq!(receive(&mut link).await, Err(LinkError::Closed));
}

#[tokio::test]
async fn damage_ends_the_link_in_both_directions() {
    let (mut near, mut link) = pair();
    let mut bytes = bytes_of([change(4), change(5), change(6)]);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 8;
    near.write_all(&bytes).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap(), [change(4)]);
    let corrupt = LinkError::Corrupt("payload does not match its checksum");
    assert_eq!(receive(&mut link).await, Err(corrupt.clone()));
    link.push(change(1));
    assert_eq!(send(&mut link).await, Err(corrupt));
}

fn hello(number: u128) -> Hello {
    Hello { identity: identity(number), version_min: 1, version_max: 1, release: "test".to_owned() }
}

#[tokio::test]
async fn what_comes_right_behind_the_greeting_is_kept() {
    let (mut near, far) = duplex(1 << 20);
    let mut outbox = Outbox::new();
    encode_greeting(&Greeting::Hello(hello(1)), &mut outbox).unwrap();
    encode(1, change(4), &mut outbox).unwrap();
    near.write_all(&outbox.to_vec()).await.unwrap();
    let mut link = greet(far, &hello(2)).await.unwrap();
    assert_eq!(receive(&mut link).await.unwrap(), [change(4)]);
}

#[tokio::test]
async fn a_large_change_goes_through_a_narrow_stream() {
    let (near, far) = duplex(4096);
    let (east, west) = (hello(1), hello(2));
    let (near, far) = tokio::join!(greet(near, &east), greet(far, &west));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!((near.peer(), far.peer()), (&identity(2), &identity(1)));
    let data = vec![7; 64 << 20];
    let len = data.len() as u64;
    let huge = Message::Change {
        seq: block::Seq::new(1),
        volume: 0,
        extent: block::Extent::new(0, len).unwrap(),
        change: block::Change::Write(data.into()),
        fua: false,
        resync: true,
    };
    near.push(huge.clone());
    assert_eq!(near.queued_bytes(), len + 64);
    let (sent, received) = tokio::join!(send(&mut near), receive(&mut far));
    sent.unwrap();
    assert!(received.unwrap() == [huge], "the change was changed");
    assert_eq!(near.traffic().sent_resync_bytes, len);
    assert_eq!(near.queued_bytes(), 0);
}

#[tokio::test]
async fn a_message_that_does_not_fit_ends_the_link_instead_of_leaving_a_hole() {
    let (_near, mut link) = pair();
    link.push(change(1));
    link.push(Message::Open(block::Open { name: "n".repeat(2000), ..open() }));
    assert!(matches!(send(&mut link).await, Err(LinkError::Io(_))));
    assert_eq!(link.queued_bytes(), 0);
}
