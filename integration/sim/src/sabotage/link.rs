//! A link of a primary that makes answers up.
//!
//! Invariant: what is held back is sent behind the next change, or before anything else.

use std::collections::{BTreeSet, VecDeque};
use std::task::{Context, Poll};

use block::{Identity, Link, LinkError, LinkTraffic, Message, Seq};

use super::Sabotage;

/// Changes that a session which stopped alone misses before the others stop too.
const APART: u64 = 60;

/// A link of a primary that makes answers up.
pub(super) struct Liar {
    inner: Box<dyn Link>,
    how: Sabotage,
    made_up: Vec<Message>,
    /// Changes that are overtaken.
    held_back: Vec<Message>,
    number: u64,
    /// Volumes from this one on joined later.
    founding: usize,
    /// Changes of hosts that were sent.
    sent: u64,
    /// Changes that were not acknowledged.
    unacked: BTreeSet<Seq>,
    /// Flushes, each with the newest change before it.
    flushes: VecDeque<(Seq, Seq)>,
}

impl Liar {
    pub(super) fn new(inner: Box<dyn Link>, how: Sabotage, number: u64, founding: usize) -> Self {
        Self {
            inner,
            how,
            made_up: Vec::new(),
            held_back: Vec::new(),
            number,
            founding,
            sent: 0,
            unacked: BTreeSet::new(),
            flushes: VecDeque::new(),
        }
    }

    /// Whether the session of the first volume has stopped.
    fn is_apart(&self) -> bool {
        self.how == Sabotage::CutsApart && self.sent > 20 + self.number % 50
    }

    /// What goes out instead of a message.
    fn twist(&mut self, message: Message) -> Option<Message> {
        match (message, self.how) {
            (Message::Open(mut open), Sabotage::RaisesEpoch) => {
                open.epoch = (0..self.number).fold(open.epoch, |epoch, _| epoch.next(1));
                Some(Message::Open(open))
            }
            (Message::Flush { seq }, Sabotage::DurableAtOnce) => {
                self.made_up.push(Message::Durable { seq });
                Some(Message::Flush { seq })
            }
            (Message::Flush { seq }, Sabotage::FlushNotCarried) => {
                self.made_up.push(Message::Durable { seq });
                None
            }
            (Message::Flush { seq }, Sabotage::DurableWhenAcknowledged) => {
                let newest = self.unacked.last().copied().unwrap_or(Seq::ZERO);
                self.flushes.push_back((seq, newest));
                self.settle();
                Some(Message::Flush { seq })
            }
            (message @ Message::Change { .. }, _) => self.change(message),
            (cut @ Message::Cut { .. }, Sabotage::CutsEarly) => {
                self.inner.push(cut);
                self.release();
                None
            }
            (other, _) => {
                self.release();
                Some(other)
            }
        }
    }

    fn change(&mut self, message: Message) -> Option<Message> {
        let Message::Change { seq, volume, resync, .. } = &message else { return Some(message) };
        let (seq, volume, resync) = (*seq, *volume, *resync);
        self.sent += u64::from(!resync);
        match (self.how, resync) {
            (Sabotage::AcknowledgesUnsent, false) => {
                self.made_up.push(Message::Acks(vec![seq]));
                Some(message)
            }
            (Sabotage::CountsNewcomers, true) if usize::from(volume) >= self.founding => {
                self.made_up.push(Message::Acks(vec![seq]));
                None
            }
            (Sabotage::CopierWithoutLock, true) => {
                self.made_up.push(Message::Acks(vec![seq]));
                self.held_back.push(message);
                None
            }
            (Sabotage::HostWithoutLock, false) => {
                self.made_up.push(Message::Acks(vec![seq]));
                // The one before this one goes behind it.
                let before = std::mem::take(&mut self.held_back);
                if before.is_empty() {
                    self.held_back.push(message);
                } else {
                    self.inner.push(message);
                    before.into_iter().for_each(|message| self.inner.push(message));
                }
                None
            }
            (Sabotage::CutsEarly, false) => {
                self.held_back.push(message);
                None
            }
            (Sabotage::CutsApart, _) if volume == 0 && self.is_apart() => {
                self.made_up.push(Message::Acks(vec![seq]));
                None
            }
            (Sabotage::DurableWhenAcknowledged, _) => {
                self.unacked.insert(seq);
                Some(message)
            }
            _ => Some(message),
        }
    }

    fn release(&mut self) {
        self.held_back.drain(..).for_each(|message| self.inner.push(message));
    }

    /// Flushes whose changes are all acknowledged count as done.
    fn settle(&mut self) {
        while let Some((flush, newest)) = self.flushes.front().copied()
            && self.unacked.first().is_none_or(|first| *first > newest)
        {
            self.flushes.pop_front();
            self.made_up.push(Message::Durable { seq: flush });
        }
    }

    /// What is heard instead of a message.
    fn hear(&mut self, message: Message) -> Message {
        match (message, self.how) {
            // The honest answer comes too late to matter.
            (
                Message::Durable { .. },
                Sabotage::DurableAtOnce
                | Sabotage::FlushNotCarried
                | Sabotage::DurableWhenAcknowledged,
            ) => Message::Acks(Vec::new()),
            (Message::Acks(seqs), Sabotage::DurableWhenAcknowledged) => {
                self.unacked.retain(|seq| !seqs.contains(seq));
                self.settle();
                Message::Acks(seqs)
            }
            (Message::Opened(mut opened), Sabotage::KnowsDifferences) => {
                opened.differences_known = true;
                Message::Opened(opened)
            }
            (other, _) => other,
        }
    }
}

impl Link for Liar {
    fn peer(&self) -> &Identity {
        self.inner.peer()
    }

    fn push(&mut self, message: Message) {
        if let Some(message) = self.twist(message) {
            self.inner.push(message);
        }
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
        if self.is_apart() && self.sent > 20 + self.number % 50 + APART {
            return Poll::Ready(Err(LinkError::Closed));
        }
        if !self.made_up.is_empty() {
            into.append(&mut self.made_up);
            return Poll::Ready(Ok(()));
        }
        let before = into.len();
        let polled = self.inner.poll_receive(context, into);
        let heard: Vec<Message> = into.drain(before..).collect();
        into.extend(heard.into_iter().map(|message| self.hear(message)));
        into.append(&mut self.made_up);
        polled
    }

    fn version(&self) -> u16 {
        self.inner.version()
    }

    fn traffic(&self) -> LinkTraffic {
        self.inner.traffic()
    }
}
