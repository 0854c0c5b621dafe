//! Two gateways over real TCP: trust, greeting, messages, and everything that can go wrong.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::common::*;
use block::{Goodbye, Link, LinkError, Message, MirrorState, Open, Seq};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use twinspan_link::{
    Detached, Incoming, JoinError, JoinRefused, LinkContext, Peer, Token, Versions, accept, dial,
    join,
};

async fn accept_one(listener: &TcpListener, us: &LinkContext) -> Result<Incoming, LinkError> {
    let (stream, _) = listener.accept().await.unwrap();
    accept(stream, us).await
}

async fn accept_group(
    listener: &TcpListener,
    us: &LinkContext,
) -> Result<(Open, Detached), LinkError> {
    match accept_one(listener, us).await? {
        Incoming::Group { open, link, .. } => Ok((open, link)),
        Incoming::Join(outcome) => panic!("a join: {outcome:?}"),
        Incoming::Question { question, .. } => panic!("a question: {question:?}"),
    }
}

/// Dials and opens the group, as a primary does.
async fn dial_open(
    addresses: &[String],
    expect: &LinkContext,
    us: &LinkContext,
) -> Result<Box<dyn Link>, LinkError> {
    let mut link = dial(addresses, expect.describe().gateway, us).await?.attach()?;
    link.push(Message::Open(open()));
    send(&mut *link).await?;
    Ok(link)
}

async fn connect(
    east: &LinkContext,
    west: &LinkContext,
) -> (Result<Box<dyn Link>, LinkError>, Result<(Open, Detached), LinkError>) {
    let (listener, addresses) = listen().await;
    tokio::join!(dial_open(&addresses, west, east), accept_group(&listener, west))
}

async fn joins(
    token: &str,
    joiner: &LinkContext,
    listener: &TcpListener,
    issuer: &LinkContext,
    now_unix_s: u64,
) -> (Result<Peer, JoinError>, Result<Peer, JoinRefused>) {
    let (joined, incoming) =
        tokio::join!(join(token, joiner, now_unix_s), accept_one(listener, issuer));
    let Ok(Incoming::Join(outcome)) = incoming else { panic!("no join came in") };
    (joined, outcome)
}

#[tokio::test]
async fn a_question_comes_in_with_who_asks_and_is_answered_on_its_link() {
    let (east, west) = (gateway(1), gateway(2));
    east.trusted().add(west.describe());
    west.trusted().add(east.describe());
    let (listener, addresses) = listen().await;
    let asking = async {
        let mut link = dial(&addresses, west.describe().gateway, &east).await?.attach()?;
        link.push(Message::Ask(Bytes::from_static(b"how are you?")));
        send(&mut *link).await?;
        receive(&mut *link).await
    };
    let answering = async {
        match accept_one(&listener, &west).await? {
            Incoming::Question { peer, question, link } => {
                assert_eq!(peer.gateway, east.describe().gateway);
                assert_eq!(question, "how are you?");
                let mut link = link.attach()?;
                link.push(Message::Told(Bytes::from_static(b"well")));
                send(&mut *link).await?;
                Ok::<_, LinkError>(link)
            }
            Incoming::Group { .. } | Incoming::Join(_) => panic!("no question came in"),
        }
    };
    let (told, link) = tokio::join!(asking, answering);
    assert_eq!(told, Ok(vec![Message::Told(Bytes::from_static(b"well"))]));
    link.unwrap();
}

#[tokio::test]
async fn a_token_makes_two_strangers_trust_each_other_once() {
    let (listener, addresses) = listen().await;
    let desk = Arc::new(Desk { now_unix_s: 500, ..Desk::default() });
    let east = gateway(1).with_addresses(addresses.clone()).with_desk(desk_of(&desk));
    let west = gateway(2).with_addresses(vec!["west.example:7400".to_owned()]);
    let (token, record) = Token::issue(east.fingerprint(), &addresses, 1000).unwrap();
    desk.records.lock().unwrap().push(record);

    let (joined, outcome) = joins(&token.text(), &west, &listener, &east, 500).await;
    assert_eq!(joined.as_ref(), Ok(&east.describe()));
    assert_eq!(outcome.as_ref(), Ok(&west.describe()));
    assert_eq!(*desk.joined.lock().unwrap(), [west.describe()]);
    west.trusted().add(joined.unwrap());

    let (near, far) =
        tokio::join!(dial_open(&addresses, &east, &west), accept_group(&listener, &east));
    assert_eq!(near.unwrap().peer(), &identity(1));
    let (opened, far) = far.unwrap();
    assert_eq!((opened, far.peer()), (open(), &identity(2)));

    // The same gateway may have missed the answer; another one comes too late.
    let (again, _) = joins(&token.text(), &west, &listener, &east, 500).await;
    assert!(again.is_ok());
    let (third, outcome) = joins(&token.text(), &gateway(3), &listener, &east, 500).await;
    assert_eq!(third, Err(JoinError::Refused(JoinRefused::AlreadyUsed)));
    assert_eq!(outcome, Err(JoinRefused::AlreadyUsed));
    assert_eq!(east.trusted().all(), [west.describe()]);

    // A token lets a gateway in; it must not put another one out.
    let (token, record) = Token::issue(east.fingerprint(), &addresses, 1000).unwrap();
    desk.records.lock().unwrap().push(record);
    let (usurper, _) = joins(&token.text(), &gateway(2), &listener, &east, 500).await;
    assert_eq!(usurper, Err(JoinError::Refused(JoinRefused::KnownOtherwise)));
    assert_eq!(east.trusted().all(), [west.describe()]);
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_by_name() {
    let (listener, addresses) = listen().await;
    let desk = Arc::new(Desk { now_unix_s: 1000, ..Desk::default() });
    let east = gateway(1).with_desk(desk_of(&desk));
    let west = gateway(2);
    let (token, record) = Token::issue(east.fingerprint(), &addresses, 1000).unwrap();

    assert_eq!(join(&token.text(), &west, 1000).await, Err(JoinError::Expired));
    assert!(matches!(join("twj1_a", &west, 1).await, Err(JoinError::Malformed(_))));
    assert_eq!(join(&token.text(), &east, 1).await, Err(JoinError::Refused(JoinRefused::Itself)));

    // The joiner's clock is behind; the issuer's counts.
    let (joined, _) = joins(&token.text(), &west, &listener, &east, 1).await;
    assert_eq!(joined, Err(JoinError::Refused(JoinRefused::UnknownToken)));
    desk.records.lock().unwrap().push(record);
    let (joined, _) = joins(&token.text(), &west, &listener, &east, 1).await;
    assert_eq!(joined, Err(JoinError::Refused(JoinRefused::Expired)));
    let (joined, _) = joins(&token.text(), &west, &listener, &east.clone().without_desk(), 1).await;
    assert_eq!(joined, Err(JoinError::Refused(JoinRefused::NoDesk)));

    // Somebody else listens at the address that the token names.
    let (text, other) = (token.text(), gateway(9));
    let (joined, middle) = tokio::join!(join(&text, &west, 1), accept_one(&listener, &other));
    assert!(matches!(joined, Err(JoinError::WrongIssuer { .. })));
    assert!(middle.is_err());
    assert!(east.trusted().all().is_empty());
}

#[tokio::test]
async fn who_is_not_pinned_is_not_let_in_and_is_told_so() {
    let (east, west) = friends();
    west.trusted().remove(identity(1).gateway);
    let (near, far) = connect(&east, &west).await;
    assert!(matches!(far.err(), Some(LinkError::Untrusted(_))));
    let Some(LinkError::Untrusted(why)) = near.err() else { panic!("dialer was let in") };
    assert_eq!(why, "this gateway is not trusted here");
}

#[tokio::test]
async fn a_dialer_says_nothing_to_who_is_not_expected() {
    let (east, west) = friends();
    let stranger = gateway(2);
    stranger.trusted().add(east.describe());
    let (near, far) = connect(&east, &stranger).await;
    assert!(matches!(near.err(), Some(LinkError::Untrusted(_))));
    assert_eq!(far.err(), Some(LinkError::Closed));

    // A peer that is trusted, but as another gateway.
    let (listener, addresses) = listen().await;
    let (near, far) =
        tokio::join!(dial(&addresses, identity(5).gateway, &east), accept_one(&listener, &west));
    assert!(matches!(near.err(), Some(LinkError::Untrusted(_))));
    assert!(far.is_err());
}

#[tokio::test]
async fn a_gateway_cannot_claim_to_be_another() {
    let (east, west) = friends();
    // West pinned the certificate of 1 as that of gateway 4.
    west.trusted().remove(identity(1).gateway);
    west.trusted().add(Peer { gateway: identity(4).gateway, ..east.describe() });
    let (near, far) = connect(&east, &west).await;
    assert!(matches!(near.err(), Some(LinkError::Untrusted(_))));
    assert!(matches!(far.err(), Some(LinkError::Untrusted(_))));
}

#[tokio::test]
async fn versions_are_negotiated_or_both_sides_know_why_not() {
    for (ours, theirs, common) in [((1, 2), (2, 3), Some(2)), ((3, 3), (1, 2), None)] {
        let (east, west) = friends();
        let east = east.with_versions(Versions { min: ours.0, max: ours.1 });
        let west = west.with_versions(Versions { min: theirs.0, max: theirs.1 });
        let (near, far) = connect(&east, &west).await;
        match common {
            Some(version) => {
                let (_, link) = far.unwrap();
                assert_eq!(link.version(), version);
                assert!(near.is_ok());
            }
            None => {
                let error = |ours: (u16, u16), theirs: (u16, u16)| LinkError::Version {
                    ours_min: ours.0,
                    ours_max: ours.1,
                    theirs_min: theirs.0,
                    theirs_max: theirs.1,
                };
                assert_eq!(near.err(), Some(error(ours, theirs)));
                assert_eq!(far.err(), Some(error(theirs, ours)));
            }
        }
    }
}

#[tokio::test]
async fn garbage_and_silence_end_the_handshake() {
    let (listener, addresses) = listen().await;
    let west = gateway(2).with_patience(Duration::from_millis(100));
    let garbage = async {
        let mut stream = TcpStream::connect(&addresses[0]).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await.unwrap();
        stream
    };
    let (_stream, outcome) = tokio::join!(garbage, accept_one(&listener, &west));
    assert_eq!(outcome.err(), Some(LinkError::Corrupt("not TLS")));

    let (silent, outcome) =
        tokio::join!(TcpStream::connect(&addresses[0]), accept_one(&listener, &west));
    assert_eq!(outcome.err(), Some(LinkError::Timeout));
    drop(silent);

    // The dialer meets somebody who accepts and says nothing, and nobody at all.
    let (near, _far) =
        tokio::join!(dial(&addresses, identity(1).gateway, &west), listener.accept());
    assert_eq!(near.err(), Some(LinkError::Timeout));
    drop(listener);
    let near = dial(&addresses, identity(1).gateway, &west).await;
    assert!(matches!(near.err(), Some(LinkError::Io(_))));
    let near = dial(&[], identity(1).gateway, &west).await;
    assert!(matches!(near.err(), Some(LinkError::Io(_))));
}

/// A primary does not wait: changes are under way while the mirror's end moves to its thread.
#[tokio::test]
async fn ten_thousand_changes_follow_a_link_to_another_thread() {
    const COUNT: u64 = 10_000;
    let (east, west) = friends();
    let (listener, addresses) = listen().await;

    let (dialer, acceptor) = (east.clone(), west.clone());
    let primary = on_own_thread(move || async move {
        let link = dial(&addresses, acceptor.describe().gateway, &dialer).await.unwrap();
        let mut link = link.attach().unwrap();
        // Sent in one write with the first changes, which the acceptor therefore reads with it.
        link.push(Message::Open(open()));
        let (mut next, mut acked) = (1, Vec::new());
        while (acked.len() as u64) < COUNT {
            while next <= COUNT && link.queued_bytes() < 1 << 20 {
                link.push(change(next));
                next += 1;
            }
            // Whatever came in, without waiting for it while there is something to send.
            let mut messages = Vec::new();
            let wait = next > COUNT;
            std::future::poll_fn(|context| {
                let sending = link.poll_send(context);
                match link.poll_receive(context, &mut messages) {
                    Poll::Ready(Ok(())) => Poll::Ready(()),
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending if wait || sending.is_pending() => Poll::Pending,
                    Poll::Pending => Poll::Ready(()),
                }
            })
            .await;
            for message in messages {
                let Message::Acks(seqs) = message else { panic!("{message:?}") };
                acked.extend(seqs);
            }
        }
        assert!(acked.iter().copied().eq((1..=COUNT).map(Seq::new)));
        link.push(Message::Goodbye(Goodbye::Shutdown));
        send(&mut *link).await.unwrap();
        link.traffic()
    });

    let (opened, link) = accept_group(&listener, &west).await.unwrap();
    assert_eq!(opened, open());
    // Meanwhile the socket's buffers fill.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let secondary = on_own_thread(move || async move {
        let mut link = link.attach().unwrap();
        let mut next = 1;
        loop {
            let mut acks = Vec::new();
            for message in receive(&mut *link).await.unwrap() {
                if message == Message::Goodbye(Goodbye::Shutdown) {
                    assert_eq!(receive(&mut *link).await, Err(LinkError::Closed));
                    return (next, link.traffic());
                }
                assert_eq!(message, change(next));
                acks.push(Seq::new(next));
                next += 1;
            }
            link.push(Message::Acks(acks));
            send(&mut *link).await.unwrap();
        }
    });
    let sent = primary.join().unwrap();
    let (next, received) = secondary.join().unwrap();
    assert_eq!(next, COUNT + 1);
    assert_eq!(sent.sent_bytes, received.received_bytes);
    assert!(sent.sent_resync_bytes > 0 && sent.sent_resync_bytes < sent.sent_bytes / 10);
}

#[tokio::test]
async fn a_distance_is_felt_as_a_round_trip() {
    let (east, west) = friends();
    let distance = Duration::from_millis(15);
    let (east, west) = (east.with_distance(distance), west.with_distance(distance));
    let (listener, addresses) = listen().await;
    let state = MirrorState { in_sync: true, ..MirrorState::default() };
    let expect = west.describe().gateway;
    let start = Instant::now();
    // The first ping comes in with `Open`, before the distance is there; it must not be lost.
    let dialing = async {
        let mut link = dial(&addresses, expect, &east).await.unwrap().attach().unwrap();
        link.push(Message::Open(open()));
        link.push(Message::Ping { stamp: 4, state });
        send(&mut *link).await.unwrap();
        link
    };
    let (mut near, far) = tokio::join!(dialing, accept_group(&listener, &west));
    let mut far = far.unwrap().1.attach().unwrap();
    assert_eq!(receive(&mut *far).await.unwrap(), [Message::Ping { stamp: 4, state }]);
    let setup = start.elapsed();
    near.push(Message::Ping { stamp: 5, state });
    send(&mut *near).await.unwrap();
    assert_eq!(receive(&mut *far).await.unwrap(), [Message::Ping { stamp: 5, state }]);
    far.push(Message::Pong { stamp: 5, state, persist_us: 80 });
    send(&mut *far).await.unwrap();
    let pong = Message::Pong { stamp: 5, state, persist_us: 80 };
    assert_eq!(receive(&mut *near).await.unwrap(), [pong]);
    assert!(start.elapsed() - setup >= 2 * distance);
    assert!(start.elapsed() - setup < 8 * distance);
}

#[tokio::test]
async fn a_peer_that_vanishes_ends_both_directions() {
    let (east, west) = friends();
    let (near, far) = connect(&east, &west).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap().1.attach().unwrap());
    far.push(Message::Goodbye(Goodbye::Suspended));
    send(&mut *far).await.unwrap();
    drop(far);
    // Sending fails sooner or later; what the peer said before it left is read all the same.
    assert_eq!(receive(&mut *near).await.unwrap(), [Message::Goodbye(Goodbye::Suspended)]);
    assert_eq!(receive(&mut *near).await, Err(LinkError::Closed));
    let failed = async {
        loop {
            near.push(change(1));
            if let Err(error) = send(&mut *near).await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert!(matches!(error, LinkError::Io(_)), "{error:?}");
    near.push(change(2));
    assert_eq!(near.queued_bytes(), 0);
}
