//! A peer whose messages make no sense now and then.
//!
//! Invariant: nonsense is told from a lie: it names what does not exist, or comes from the wrong
//! side. It is never a false word on something that was asked for.

use std::rc::Weak;
use std::task::{Context, Poll};

use block::{BlockRange, Change, Epoch, Extent, Identity, IoError, Link, LinkError, LinkTraffic};
use block::{Message, Seq, Vote};
use bytes::Bytes;

use crate::rng::Rng;
use crate::world::World;

/// Nobody counts that far.
const NEVER: Seq = Seq::new(u64::MAX / 2);
/// No group has that many volumes.
const NOWHERE: u16 = 9_999;

/// A link on whose other end is such a peer.
pub(crate) struct Babble {
    pub(crate) inner: Box<dyn Link>,
    pub(crate) world: Weak<World>,
    /// Who babbles.
    pub(crate) from: usize,
}

fn nonsense(rng: &Rng) -> Message {
    let change = |volume, offset| Message::Change {
        seq: NEVER,
        volume,
        extent: Extent::new(offset, 4096).expect("not empty"),
        change: Change::Write(Bytes::from(vec![0xee; 4096])),
        fua: false,
        resync: false,
    };
    match rng.below(9) {
        0 => Message::Acks(vec![NEVER]),
        1 => Message::Failed { seq: NEVER, error: IoError::Media },
        2 => Message::Compared { seq: NEVER, differs: vec![BlockRange::new(0, 1 << 40)] },
        3 => Message::Mapped { volume: NOWHERE, blocks: vec![BlockRange::new(0, 1)], last: true },
        4 => Message::Grown { volume: NOWHERE, bytes: 4096 },
        5 => Message::Grow { volume: NOWHERE, bytes: 4096 },
        6 => Message::Voted(Vote::TookOver { epoch: Epoch::ZERO }),
        7 => change(NOWHERE, 0),
        _ => change(0, 1 << 45),
    }
}

impl Link for Babble {
    fn peer(&self) -> &Identity {
        self.inner.peer()
    }

    fn push(&mut self, message: Message) {
        self.inner.push(message);
    }

    fn queued_bytes(&self) -> u64 {
        self.inner.queued_bytes()
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.poll_send(context)
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Message>,
    ) -> Poll<Result<(), LinkError>> {
        let polled = self.inner.poll_receive(context, into);
        if let (Poll::Ready(Ok(())), Some(world)) = (&polled, self.world.upgrade())
            && world.sites[self.from].babbles.replace(false)
        {
            world.happened("a peer says what makes no sense");
            let message = nonsense(&world.rng);
            world.log(format_args!("{} babbles: {message:?}", world.sites[self.from].name));
            into.push(message);
        }
        polled
    }

    fn version(&self) -> u16 {
        self.inner.version()
    }

    fn traffic(&self) -> LinkTraffic {
        self.inner.traffic()
    }
}
