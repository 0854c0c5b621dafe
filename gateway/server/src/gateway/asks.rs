//! What one gateway's control thread asks another's: about the two halves of a session, when one
//! call of the REC dialect concerns both, and about its part of a group before the group is moved.
//!
//! Invariant: the asker is proven by its certificate, and is answered only about halves whose other
//! half it holds. Nobody waits longer than [`ANSWER_MAX`] for an answer.

mod said;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GatewayId, GroupId, Identity, Link, LinkError, Message};
use bytes::Bytes;
use link::Detached;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::said::{Carried, Lost, Seen, Take};
use super::Gateway;
use super::evs::{EvsAnswer, EvsQuestion};
use super::parts::{Deed, Look};
use super::surveys::Survey;
use crate::book::{PeerEntry, Place};
use crate::numbers::Remote;
use crate::refusal::Refused;
use crate::reservations;
use crate::runs::calls::{RunAnswer, RunQuestion};
use crate::ways::Side;

/// To connect, to ask, to change a ledger there and to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Questions came with this version of the protocol.
const VERSION_MIN: u16 = 2;
/// Since this version a volume can be taken with what it holds. An older gateway would look for one
/// with another number, or take it for one to be emptied.
const VERSION_MIN_TO_KEEP: u16 = block::POLICY_SINCE_VERSION;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Question {
    /// Let a volume become a destination.
    Take(Take),
    /// Know of the session that was made, and how it is called at its source.
    Name {
        /// The session.
        session: Uuid,
        /// Its source's end.
        remote: Remote,
    },
    /// How is your half?
    Look {
        /// The session.
        session: Uuid,
    },
    /// Open your half to hosts: it is suspended.
    Detach {
        /// The session.
        session: Uuid,
    },
    /// Become the source.
    Promote {
        /// The session.
        session: Uuid,
        /// The policies that go with it.
        carried: Carried,
    },
    /// The session is deleted: keep your half as a volume of its own.
    Release {
        /// The session.
        session: Uuid,
    },
    /// The session is deleted, and your half is to go with it, all its volumes.
    Discard {
        /// The session.
        session: Uuid,
        /// Say only whether that could be.
        looks: bool,
    },
    /// The destination is deleted: forget the session.
    Part {
        /// The session.
        session: Uuid,
    },
    /// Which group of yours is called so? A part of it is to begin at the asker.
    PartOf {
        /// Its name.
        name: String,
    },
    /// A part of the group begins at the asker.
    Accompany {
        /// The group.
        group: Uuid,
    },
    /// This is how my part of the group is; how is yours?
    Companion {
        /// The group.
        group: Uuid,
        /// The state, as hexadecimal digits.
        state: String,
    },
    /// How is your part, for a plan over all parts?
    PartLook {
        /// The group.
        group: Uuid,
    },
    /// Do what all parts do.
    Do {
        /// The group.
        group: Uuid,
        /// What.
        deed: Deed,
    },
    /// Keep a snapshot of all volumes of the group, here too: a backup is read from it.
    Point {
        /// The group.
        group: Uuid,
        /// What it is known by.
        snapshot: Uuid,
        /// What it is called; absent when it is needed no more.
        name: Option<String>,
    },
    /// What does your copy hold in this block? Mine was lost, and we have the same.
    Block(Lost),
    /// Hand the group over to me: I keep what it is to go back to.
    HandOver {
        /// The group.
        group: Uuid,
        /// Hosts that are attached there may be dropped.
        drop_hosts: bool,
    },
    /// It is about a run of a plan.
    Run(Box<RunQuestion>),
    /// How is your part of a group, and what did you write to it that I may lack?
    Survey {
        /// The group.
        group: Uuid,
    },
    /// A host asks me what only you can decide.
    Reserve(reservations::Carried),
    /// Initiators reach me there; where do they reach you?
    Portals(Side),
    /// I stand there; where do you?
    Place(Place),
    /// The volumes of this group of mine have these numbers at its target.
    Luns {
        /// The group.
        group: Uuid,
        /// Those that have one.
        luns: super::luns::Luns,
    },
    /// The same where single initiators see others. A release that has no such numbers does not
    /// understand it, and then takes none.
    InitiatorLuns {
        /// The group.
        group: Uuid,
        /// What they see, and what all others see.
        luns: super::luns::Numbers,
    },
    /// It is about pairs and groups as the EVS dialect has them.
    Evs(Box<EvsQuestion>),
}

impl Question {
    /// The oldest version of the protocol whose gateways understand it.
    pub(crate) fn version_min(&self) -> u16 {
        match self {
            Self::Take(take) if take.keep => VERSION_MIN_TO_KEEP,
            Self::PartOf { .. }
            | Self::Accompany { .. }
            | Self::Companion { .. }
            | Self::PartLook { .. } => block::SPAN_SINCE_VERSION,
            Self::Do { deed, .. } => deed.version_min(),
            Self::Point { .. } => block::SNAPSHOTS_SINCE_VERSION,
            Self::Block(_) => block::BLOCKS_SINCE_VERSION,
            Self::Reserve(_) => block::ATTRIBUTES_SINCE_VERSION,
            Self::Run(_) | Self::Discard { .. } => block::RUNS_SINCE_VERSION,
            _ => VERSION_MIN,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The volume is a destination now.
    Taken {
        /// Its name there.
        name: String,
    },
    /// The session has this number there.
    Named {
        /// It.
        number: u64,
    },
    /// How the half is.
    Seen(Seen),
    /// How the part is.
    Surveyed(Survey),
    /// The group is this one.
    PartOf {
        /// Its identity.
        group: Uuid,
        /// Who holds its other parts.
        companions: Vec<Uuid>,
    },
    /// How the companion's part is.
    Companion {
        /// The state, as hexadecimal digits.
        state: String,
    },
    /// How the part is, for a plan over all.
    Looked(Look),
    /// What the block holds.
    Block {
        /// It, as hexadecimal digits.
        content: String,
    },
    /// How what the host asked ended.
    Reserved(reservations::Ended),
    /// Initiators reach me there.
    Portals(Side),
    /// I stand there.
    Place(Place),
    /// What is said about pairs and groups.
    Evs(EvsAnswer),
    /// What is said about the run.
    Run(RunAnswer),
    /// Done.
    Done,
    /// Not done.
    Refused {
        /// The code.
        code: String,
        /// Why.
        detail: String,
    },
}

pub(super) fn unexpected() -> Refused {
    Refused::new(Code::PeerRefused, "the other gateway gave an answer to another question")
}

impl Answer {
    /// # Errors
    /// When it is another.
    pub(crate) fn name(self) -> Result<String, Refused> {
        if let Self::Taken { name } = self { Ok(name) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn number(self) -> Result<u64, Refused> {
        if let Self::Named { number } = self { Ok(number) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn seen(self) -> Result<Seen, Refused> {
        if let Self::Seen(seen) = self { Ok(seen) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn part_of(self) -> Result<(Uuid, Vec<Uuid>), Refused> {
        if let Self::PartOf { group, companions } = self {
            Ok((group, companions))
        } else {
            Err(unexpected())
        }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn looked(self) -> Result<Look, Refused> {
        if let Self::Looked(look) = self { Ok(look) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn done(self) -> Result<(), Refused> {
        if self == Self::Done { Ok(()) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn block(self) -> Result<Vec<u8>, Refused> {
        let Self::Block { content } = self else { return Err(unexpected()) };
        crate::book::unhex(&content).ok_or_else(unexpected)
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn portals(self) -> Result<Side, Refused> {
        if let Self::Portals(side) = self { Ok(side) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn place(self) -> Result<Place, Refused> {
        if let Self::Place(place) = self { Ok(place) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn of_evs(self) -> Result<EvsAnswer, Refused> {
        if let Self::Evs(answer) = self { Ok(answer) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn of_run(self) -> Result<RunAnswer, Refused> {
        if let Self::Run(answer) = self { Ok(answer) } else { Err(unexpected()) }
    }

    /// # Errors
    /// When it is another.
    pub(crate) fn survey(self) -> Result<Survey, Refused> {
        if let Self::Surveyed(survey) = self { Ok(survey) } else { Err(unexpected()) }
    }
}

impl Gateway {
    /// Asks another gateway.
    ///
    /// # Errors
    /// [`Code::PeerUnknown`], [`Code::PeerUnreachable`], [`Code::PeerTooOld`], or what it refuses
    /// with.
    ///
    /// # Cancellation
    /// The other side may have done what it was asked.
    pub(crate) async fn ask(&self, peer: Uuid, question: &Question) -> Result<Answer, Refused> {
        let entry = self.book.read().peers.iter().find(|entry| entry.gateway == peer).cloned();
        let entry = entry.ok_or_else(|| {
            Refused::new(Code::PeerUnknown, format!("gateway {peer} is not joined with this one"))
        })?;
        let text = serde_json::to_vec(question)
            .map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let version_min = question.version_min();
        let (links, addresses) = (self.links.clone(), entry.addresses.clone());
        let gateway = GatewayId::from_uuid(peer);
        // On a shard, because a dial may stay on its thread; it waits there for nobody else.
        let shard = self.shard_of(GroupId::of(0)).clone();
        let told = shard
            .run(move |_state| async move {
                let exchange =
                    exchange(&addresses, gateway, &links, (Bytes::from(text), version_min));
                let told = tokio::time::timeout(ANSWER_MAX, exchange).await;
                told.unwrap_or(Err(NoAnswer::Link(LinkError::Timeout)))
            })
            .await?;
        let told = told.map_err(|why| no_answer(&entry, &why))?;
        match serde_json::from_slice(&told) {
            Ok(Answer::Refused { code, detail }) => {
                let code = Code::parse(&code).unwrap_or(Code::PeerRefused);
                Err(Refused::new(code, format!("{}: {detail}", entry.site)))
            }
            Ok(answer) => Ok(answer),
            Err(error) => {
                let detail = format!("{} gave an answer that cannot be read: {error}", entry.site);
                Err(Refused::new(Code::PeerRefused, detail))
            }
        }
    }

    /// Answers another gateway.
    pub(crate) async fn take_question(
        self: &Arc<Self>,
        peer: Identity,
        question: Bytes,
        link: Detached,
    ) {
        let answer = match serde_json::from_slice(&question) {
            Ok(question) if self.is_ready() => self.answer(&peer, question).await,
            Ok(_) => Err(Refused::new(Code::Starting, "the gateway is starting or stopping")),
            Err(error) => {
                Err(Refused::new(Code::Invalid, format!("the question cannot be read: {error}")))
            }
        };
        let answer = answer.unwrap_or_else(|refused| {
            tracing::info!(site = peer.site, why = refused.0.detail, "refused what was asked");
            Answer::Refused { code: refused.0.code, detail: refused.0.detail }
        });
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let told = Message::Told(Bytes::from(text));
        let shard = self.shard_of(GroupId::of(0));
        if shard.post(move |state| state.say_last(link, told)).is_err() {
            tracing::warn!("an answer was lost: its thread has ended");
        }
    }
}

pub(crate) enum NoAnswer {
    Link(LinkError),
    TooOld { theirs: u16, needs: u16 },
}

impl From<LinkError> for NoAnswer {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

fn no_answer(peer: &PeerEntry, why: &NoAnswer) -> Refused {
    match why {
        NoAnswer::Link(error) => {
            Refused::new(Code::PeerUnreachable, format!("{} cannot be asked: {error}", peer.site))
        }
        NoAnswer::TooOld { theirs, needs } => Refused::new(
            Code::PeerTooOld,
            format!(
                "{} speaks protocol version {theirs}; this needs {needs}: upgrade it",
                peer.site
            ),
        ),
    }
}

impl NoAnswer {
    /// In words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Link(error) => error.to_string(),
            Self::TooOld { theirs, needs } => {
                format!("it speaks protocol version {theirs}; this needs {needs}: upgrade it")
            }
        }
    }
}

/// Asks once, over a link of its own.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn exchange(
    addresses: &[String],
    gateway: GatewayId,
    links: &link::LinkContext,
    (question, version_min): (Bytes, u16),
) -> Result<Bytes, NoAnswer> {
    let detached = link::dial(addresses, gateway, links).await?;
    if detached.version() < version_min {
        return Err(NoAnswer::TooOld { theirs: detached.version(), needs: version_min });
    }
    let mut link: Box<dyn Link> = detached.attach()?;
    link.push(Message::Ask(question));
    poll_fn(|context| link.poll_send(context)).await?;
    let mut heard = Vec::new();
    loop {
        poll_fn(|context| link.poll_receive(context, &mut heard)).await?;
        for message in heard.drain(..) {
            if let Message::Told(told) = message {
                return Ok(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_as_they_were_written() {
        let session = Uuid::from_u128(1);
        for question in [
            Question::Look { session },
            Question::Promote { session, carried: Carried::default() },
            Question::Portals(Side { group: 2, portals: vec!["10.0.0.1:3260".to_owned()] }),
            Question::Block(Lost {
                group: session,
                volume: Uuid::from_u128(3),
                block: 7,
                snapshot: Some(Uuid::from_u128(4)),
            }),
            Question::Take(Take {
                number: 7,
                name: None,
                keep: true,
                group: Uuid::from_u128(2),
                volume: Uuid::from_u128(3),
                bytes: 4096,
                overwrite: false,
            }),
        ] {
            let text = serde_json::to_string(&question).unwrap();
            assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question, "{text}");
        }
        let text = r#"{"told":"seen","is_known":true,"own_bytes":4096}"#;
        let seen = Seen { is_known: true, own_bytes: 4096, quality: None };
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), Answer::Seen(seen));
        assert!(serde_json::from_str::<Question>(r#"{"ask":"everything"}"#).is_err());
    }
}
