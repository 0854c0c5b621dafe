//! Gateways for the tests of the link: identities, a desk in memory, changes with known content.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{
    BootId, Change, Epoch, Extent, GatewayId, Generation, GroupId, Identity, Link, LinkError,
    Message, Open, Seq,
};
use bytes::Bytes;
use tokio::net::TcpListener;
use twinspan_link::{
    Credentials, JoinDesk, JoinFuture, JoinProof, JoinRefused, LinkContext, Peer, TokenRecord,
    Trusted,
};

/// Keeps tokens and remembers who joined.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) now_unix_s: u64,
    pub(crate) records: Mutex<Vec<TokenRecord>>,
    pub(crate) joined: Mutex<Vec<Peer>>,
}

impl JoinDesk for Desk {
    fn redeem<'a>(&'a self, proof: &'a JoinProof, joiner: &'a Peer) -> JoinFuture<'a> {
        Box::pin(async move {
            let mut records = self.records.lock().unwrap();
            let record = records.iter_mut().find(|record| record.id() == proof.token());
            record.ok_or(JoinRefused::UnknownToken)?.redeem(proof, self.now_unix_s)?;
            self.joined.lock().unwrap().push(joiner.clone());
            Ok(())
        })
    }
}

pub(crate) fn identity(number: u128) -> Identity {
    Identity {
        gateway: GatewayId::of(number),
        boot: BootId::of(number + 100),
        site: format!("site-{number}"),
    }
}

/// A gateway that trusts nobody yet.
pub(crate) fn gateway(number: u128) -> LinkContext {
    let credentials = Credentials::ephemeral().unwrap();
    LinkContext::new(identity(number), &credentials, Trusted::default()).unwrap()
}

/// Two gateways that trust each other.
pub(crate) fn friends() -> (LinkContext, LinkContext) {
    let (east, west) = (gateway(1), gateway(2));
    east.trusted().add(west.describe());
    west.trusted().add(east.describe());
    (east, west)
}

pub(crate) async fn listen() -> (TcpListener, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![listener.local_addr().unwrap().to_string()];
    (listener, addresses)
}

pub(crate) fn desk_of(desk: &Arc<Desk>) -> Arc<dyn JoinDesk> {
    Arc::clone(desk) as Arc<dyn JoinDesk>
}

pub(crate) fn open() -> Open {
    Open {
        group: GroupId::of(7),
        name: "orders".to_owned(),
        epoch: Epoch::new(3),
        generation: Generation::of(9),
        ancestors: vec![Generation::of(8)],
        volumes: Vec::new(),
        discard: false,
        relayed: false,
        heir_of: None,
    }
}

/// The change with this number: its size and content follow from it.
pub(crate) fn change(number: u64) -> Message {
    let len = match number % 10 {
        0 => 131_072 + number % 5000,
        1 | 2 => 16_384,
        3 => 1 + number % 700,
        _ => 4096,
    };
    let byte = |at: u64| (number.wrapping_mul(31) + at / 7 + at).to_le_bytes()[0];
    let data: Vec<u8> = (0..len).map(byte).collect();
    Message::Change {
        seq: Seq::new(number),
        volume: (number % 3) as u16,
        extent: Extent::new(number * 4096, len).unwrap(),
        change: Change::Write(Bytes::from(data)),
        fua: number.is_multiple_of(11),
        resync: number.is_multiple_of(13),
    }
}

pub(crate) async fn send(link: &mut dyn Link) -> Result<(), LinkError> {
    std::future::poll_fn(|context| link.poll_send(context)).await
}

/// What is here, at least one message; a test that waits for ever fails.
pub(crate) async fn receive(link: &mut dyn Link) -> Result<Vec<Message>, LinkError> {
    let mut messages = Vec::new();
    let receiving = std::future::poll_fn(|context| link.poll_receive(context, &mut messages));
    tokio::time::timeout(Duration::from_secs(20), receiving).await.unwrap()?;
    Ok(messages)
}

/// Runs a future on a thread with a runtime of its own.
pub(crate) fn on_own_thread<F: Future<Output: Send + 'static>>(
    make: impl FnOnce() -> F + Send + 'static,
) -> std::thread::JoinHandle<F::Output> {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(make())
    })
}
