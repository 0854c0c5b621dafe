//! Where initiators reach other gateways: told to each other, and remembered when one is lost.
//!
//! Invariant: what a gateway says is written down before initiators hear it. A gateway tells all others
//! once it has started, and goes on with those that it does not reach.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GatewayId, GroupId, Identity, VolumeId};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use crate::book::BookError;
use crate::refusal::Refused;
use crate::reservations::{Carried, Ended};
use crate::targets::target_name;
use crate::ways::Side;

/// How soon a gateway is told that was not reached, or has joined meanwhile. One that starts tells by
/// itself, so this is for links that were cut just then.
const RETRY: Duration = Duration::from_secs(2);

impl Gateway {
    /// Tells every other gateway where initiators reach this one, until each has heard it.
    pub(crate) fn begin_telling_portals(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let tell = async {
                let mut told = HashSet::new();
                loop {
                    gateway.tell_portals(&mut told).await;
                    tokio::time::sleep(RETRY).await;
                }
            };
            // A stop does not wait for a gateway that does not answer.
            gateway.stopping.run_until_cancelled(tell).await;
        });
    }

    async fn tell_portals(&self, told: &mut HashSet<Uuid>) {
        let peers: Vec<Uuid> = self.book.read().peers.iter().map(|peer| peer.gateway).collect();
        told.retain(|peer| peers.contains(peer));
        let untold = peers.into_iter().filter(|peer| !told.contains(peer));
        let telling = untold.map(async |peer| (peer, self.swap_portals(peer).await));
        for (peer, swapped) in futures_util::future::join_all(telling).await {
            if swapped {
                told.insert(peer);
            }
        }
    }

    /// Tells one gateway, and hears the same of it; whether that needs no second try.
    async fn swap_portals(&self, peer: Uuid) -> bool {
        let heard = match self.ask(peer, &Question::Portals(self.ways.own().clone())).await {
            Ok(answer) => match answer.portals() {
                Ok(side) => self.note_portals(GatewayId::from_uuid(peer), side).await,
                Err(refused) => Err(refused),
            },
            Err(refused) => Err(refused),
        };
        let Err(refused) = heard else { return true };
        let passes = refused.passes();
        if !passes {
            // One of an older release does not know the question; it will tell when it is upgraded.
            tracing::info!(%peer, why = refused.0.detail, "a gateway does not tell its portals");
        }
        !passes
    }

    /// Another gateway says where initiators reach it, and hears where they reach this one.
    ///
    /// # Errors
    /// [`Code::Invalid`] when that makes no sense; the book's.
    pub(crate) async fn hear_portals(
        &self,
        peer: &Identity,
        side: Side,
    ) -> Result<Answer, Refused> {
        self.note_portals(peer.gateway, side).await?;
        Ok(Answer::Portals(self.ways.own().clone()))
    }

    async fn note_portals(&self, gateway: GatewayId, side: Side) -> Result<(), Refused> {
        if !side.is_sound() {
            let detail = "these are no portals that initiators can be told";
            return Err(Refused::new(Code::Invalid, detail.to_owned()));
        }
        let of_gateway = |entry: &&crate::book::PeerEntry| entry.gateway == gateway.uuid();
        let known = self.book.read().peers.iter().find(of_gateway).cloned();
        let Some(known) = known else { return Ok(()) };
        if self.ways.collides(&side) {
            let group = side.group;
            tracing::warn!(site = known.site, group, "both sites have the same iscsi.portal_group");
            let text = format!(
                "has the same iscsi.portal_group ({group}) as this site: initiators are told of one \
                 of the two only; give each site a number of its own"
            );
            self.events.tell("site", &known.site, text);
        }
        if known.portals.as_ref() != Some(&side) {
            let noted = side.clone();
            self.book
                .change(Vec::new(), |pages| {
                    let entry = pages.peers.iter_mut().find(|peer| peer.gateway == known.gateway);
                    if let Some(entry) = entry {
                        entry.portals = Some(noted);
                    }
                    Ok::<(), BookError>(())
                })
                .await?;
        }
        self.ways.learn(gateway, side);
        Ok(())
    }

    /// A gateway that mirrors a volume carries what a host asks at its port about reservations.
    ///
    /// # Errors
    /// [`Code::Invalid`] for what makes no sense; [`Code::NotFound`], or when this gateway does not serve
    /// the volume either.
    pub(super) async fn reserve_for(
        &self,
        peer: &Identity,
        carried: &Carried,
    ) -> Result<Answer, Refused> {
        let (group, volume) =
            (GroupId::from_uuid(carried.group), VolumeId::from_uuid(carried.volume));
        let status = self.status_of(group).await?;
        if !status.legs.iter().any(|leg| leg.gateway == peer.gateway) {
            let detail = format!("{} mirrors nothing of that group from here", peer.site);
            return Err(Refused::new(Code::Invalid, detail));
        }
        let order = carried.order().ok_or_else(|| {
            Refused::new(Code::Invalid, "these are no reservations that a host asks for")
        })?;
        let target = {
            let pages = self.book.read();
            let mut volumes = pages.volumes();
            let found = volumes.find(|(_, entry)| entry.id == carried.volume);
            let missing = || Refused::new(Code::NotFound, "there is no such volume here");
            target_name(&self.config.iscsi.prefix, found.ok_or_else(missing)?)
        };
        let shard = self.shard_of(group).clone();
        let place = (group, volume);
        let done = shard.run(move |state| async move { state.reserve(place, target, order).await });
        Ok(Answer::Reserved(Ended::of(&done.await??)))
    }
}
