//! A peer whose messages make no sense now and then.
//!
//! Invariant: nonsense is told from a lie: it names what does not exist, or comes from the wrong
//! side. It is never a false word on something that was asked for.

use std::rc::Weak;

use block::{BlockRange, Change, Epoch, Extent, IoError, Message, Seq, Vote};
use bytes::Bytes;

use crate::rng::Rng;
use crate::tap::Tap;
use crate::world::World;

/// Nobody counts that far.
const NEVER: Seq = Seq::new(u64::MAX / 2);
/// No group has that many volumes.
const NOWHERE: u16 = 9_999;

/// Hears such a peer at the other end.
pub(crate) struct Babble {
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

impl Tap for Babble {
    fn adds(&mut self) -> Option<Message> {
        let world = self.world.upgrade()?;
        if !world.sites[self.from].babbles.replace(false) {
            return None;
        }
        world.happened("a peer says what makes no sense");
        let message = nonsense(&world.rng);
        world.log(format_args!("{} babbles: {message:?}", world.sites[self.from].name));
        Some(message)
    }
}
