//! Deliberate breaks of single rules, to prove that the checks can fail.
//!
//! Invariant: [`Sabotage::None`] changes nothing. Each other one breaks exactly the rule it names,
//! as a bug would.

use std::rc::Rc;
use std::task::{Context, Poll};

use block::{
    ActivityExtent, BlockSet, Epoch, Extent, Geometry, Identity, IoError, Link, LinkError,
    LinkTraffic, Message, Recovery, Request, Run, Seq, Store, Ticket, Usage, Volume,
};

/// Which rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Rule 1: a change counts as acknowledged by the mirror as soon as it was sent.
    AcknowledgesUnsent,
    /// Rule 1: the record of a stale mirror counts as durable before it is.
    RecordsLate,
    /// Rule 2: a copy gives its range back when it was sent, and later changes overtake it.
    CopierWithoutLock,
    /// Rule 3: nothing is known of what was in flight when the process died.
    ForgetsActivity,
    /// Rule 4: a mirror's flush counts as done when it was asked for.
    DurableAtOnce,
    /// Rule 6: a primary that was replaced says that its epoch is the highest.
    RaisesEpoch,
}

impl Sabotage {
    pub(crate) fn store(self, inner: Rc<dyn Store>) -> Rc<dyn Store> {
        if self == Self::ForgetsActivity { Rc::new(Forgetful(inner)) } else { inner }
    }

    /// The link of a primary; `number` grows from one to the next.
    pub(crate) fn dialed(self, inner: Box<dyn Link>, number: u64) -> Box<dyn Link> {
        match self {
            Self::AcknowledgesUnsent
            | Self::DurableAtOnce
            | Self::RaisesEpoch
            | Self::CopierWithoutLock => Box::new(Liar {
                inner,
                how: self,
                made_up: Vec::new(),
                held_back: Vec::new(),
                number,
            }),
            Self::None | Self::RecordsLate | Self::ForgetsActivity => inner,
        }
    }
}

/// A link of a primary that makes answers up.
struct Liar {
    inner: Box<dyn Link>,
    how: Sabotage,
    made_up: Vec<Message>,
    /// Copies that are overtaken.
    held_back: Vec<Message>,
    number: u64,
}

impl Link for Liar {
    fn peer(&self) -> &Identity {
        self.inner.peer()
    }

    fn push(&mut self, message: Message) {
        match (&message, self.how) {
            (Message::Change { seq, resync: false, .. }, Sabotage::AcknowledgesUnsent) => {
                self.made_up.push(Message::Acks(vec![*seq]));
            }
            (Message::Flush { seq }, Sabotage::DurableAtOnce) => {
                self.made_up.push(Message::Durable { seq: *seq });
            }
            (Message::Change { seq, resync: true, .. }, Sabotage::CopierWithoutLock) => {
                self.made_up.push(Message::Acks(vec![*seq]));
                self.held_back.push(message);
                return;
            }
            (Message::Change { resync: false, .. }, _) => {}
            _ => self.held_back.drain(..).for_each(|message| self.inner.push(message)),
        }
        let message = match message {
            Message::Open(mut open) if self.how == Sabotage::RaisesEpoch => {
                open.epoch = Epoch::new(open.epoch.get() + self.number);
                Message::Open(open)
            }
            other => other,
        };
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
        if !self.made_up.is_empty() {
            into.append(&mut self.made_up);
            return Poll::Ready(Ok(()));
        }
        let before = into.len();
        let polled = self.inner.poll_receive(context, into);
        if self.how == Sabotage::DurableAtOnce {
            // The honest answer comes too late to matter.
            let kept: Vec<Message> = into
                .drain(before..)
                .map(|message| match message {
                    Message::Durable { .. } => Message::Acks(Vec::<Seq>::new()),
                    other => other,
                })
                .collect();
            into.extend(kept);
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

/// A store that does not know what was in flight.
struct Forgetful(Rc<dyn Store>);

impl Volume for Forgetful {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        self.0.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.0.layout(extent, limit)
    }
}

impl Store for Forgetful {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        self.0.record_activity(active, ticket);
    }

    fn recovery(&self) -> Recovery {
        Recovery { active: Vec::new(), ..self.0.recovery() }
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.0.mapped(from, limit)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.0.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        self.0.grow(bytes, ticket);
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn close(&self, ticket: Ticket) {
        self.0.close(ticket);
    }
}
