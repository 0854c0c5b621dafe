//! How a shard asks the companions of a group's part: with questions between gateways.
//!
//! Invariant: what is told is told to the gateway that its certificate names, and to nobody else.

use block::{CompanionFuture, Companions, GatewayId, GroupId, PartState};
use bytes::Bytes;

use crate::book::{hex, unhex};
use crate::gateway::asks::{Answer, Question, exchange};

/// Asks over links of its own.
pub(crate) struct Asking {
    /// What this gateway brings to links, and whom it trusts.
    pub(crate) links: link::LinkContext,
}

impl Companions for Asking {
    fn tell(&self, group: GroupId, companion: GatewayId, state: PartState) -> CompanionFuture {
        let links = self.links.clone();
        Box::pin(async move {
            let peers = links.trusted().all();
            let peer = peers.into_iter().find(|peer| peer.gateway == companion);
            let peer = peer.ok_or_else(|| format!("gateway {companion} is not joined"))?;
            let question = Question::Companion { group: group.uuid(), state: hex(&state.encode()) };
            let text = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
            let asked = (Bytes::from(text), question.version_min());
            let told = exchange(&peer.addresses, companion, &links, asked).await;
            let told = told.map_err(|why| why.text())?;
            match serde_json::from_slice(&told) {
                Ok(Answer::Companion { state }) => {
                    let bytes = unhex(&state).unwrap_or_default();
                    PartState::decode(&bytes)
                        .ok_or_else(|| "what it says cannot be read".to_owned())
                }
                Ok(Answer::Refused { detail, .. }) => Err(detail),
                Ok(_) => Err("it answered another question".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}
