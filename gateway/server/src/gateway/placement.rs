//! Where copies may lie: the gateway's own limit, and the rules of plugins.
//!
//! Invariant: a rule that cannot be asked holds. Where another site lies is asked there, and remembered
//! for when it does not answer; a distance is known only where both positions are.

use api::{Code, SessionCreate};
use block::Identity;
use plugin::contract::{Diagnostic, Proposal, Severity, Volume};

use super::Gateway;
use super::asks::{Answer, Question};
use super::plugins::{call_failed, said_no};
use crate::book::{BookError, GroupEntry, PeerEntry, Place};
use crate::plugins::{mode, site, volume};
use crate::refusal::Refused;

/// A session that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Its volumes.
    pub(crate) volumes: Vec<Volume>,
    /// Volumes at the destination that would be used, in the same order.
    pub(crate) destinations: Vec<Option<Volume>>,
    /// Its mode, in the API's word.
    pub(crate) mode: String,
}

impl Gateway {
    /// Where this gateway stands.
    #[must_use]
    pub(crate) fn own_place(&self) -> Place {
        let site = &self.config.site;
        Place { region: site.region.clone(), zone: site.zone.clone(), position: site.position }
    }

    /// Another gateway asks where this one stands.
    ///
    /// # Errors
    /// The book's.
    pub(super) async fn tell_place(
        &self,
        peer: &Identity,
        theirs: Place,
    ) -> Result<Answer, Refused> {
        self.note_place(peer.gateway.uuid(), theirs).await?;
        Ok(Answer::Place(self.own_place()))
    }

    async fn note_place(&self, gateway: uuid::Uuid, place: Place) -> Result<(), Refused> {
        let is_it = |peer: &&PeerEntry| peer.gateway == gateway;
        let known = self.book.read().peers.iter().find(is_it).and_then(|peer| peer.place.clone());
        if known.as_ref() == Some(&place) {
            return Ok(());
        }
        let changed = self.book.change(Vec::new(), |pages| {
            for peer in pages.peers.iter_mut().filter(|peer| peer.gateway == gateway) {
                peer.place = Some(place.clone());
            }
            Ok::<(), BookError>(())
        });
        changed.await.map_err(Refused::from)
    }

    /// Where another gateway stands: as it says now, or as it said last.
    pub(crate) async fn place_of(&self, peer: &PeerEntry) -> Place {
        let asked = self.ask(peer.gateway, &Question::Place(self.own_place())).await;
        match asked.and_then(Answer::place) {
            Ok(place) => {
                if let Err(refused) = self.note_place(peer.gateway, place.clone()).await {
                    tracing::warn!(site = peer.site, why = refused.0.detail, "place not noted");
                }
                place
            }
            Err(_) => peer.place.clone().unwrap_or_default(),
        }
    }

    /// Asks what there is against a session of a group.
    ///
    /// # Errors
    /// As [`Self::check_place`].
    pub(crate) async fn check_placement(
        &self,
        group: &GroupEntry,
        wanted: &SessionCreate,
    ) -> Result<(), Refused> {
        // One that is not known is refused by name, by whoever makes the session.
        let Some(peer) = self.book.read().peer(&wanted.to).cloned() else { return Ok(()) };
        let volumes = self.show_volumes().await.items;
        let volumes: Vec<_> =
            volumes.iter().filter(|of| of.group == group.name).map(volume).collect();
        let default = crate::status::words::mode(self.config.mirror.policy.mode);
        let mode = wanted.policy.mode.clone().unwrap_or_else(|| default.to_owned());
        let destinations = vec![None; volumes.len()];
        for warning in self.check_place(&peer, Wanted { volumes, destinations, mode }).await? {
            self.events.tell("session", &group.name, warning);
        }
        Ok(())
    }

    /// Asks what there is against a session with that gateway; what is only worth knowing, in words.
    ///
    /// # Errors
    /// [`Code::PlacementRefused`] with the first thing, [`Code::PluginFailed`].
    pub(crate) async fn check_place(
        &self,
        peer: &PeerEntry,
        wanted: Wanted,
    ) -> Result<Vec<String>, Refused> {
        let (here, there) = (self.own_place(), self.place_of(peer).await);
        let positions = here.position.zip(there.position);
        let distance_km = positions.map(|(here, there)| here.km_to(there));
        check_distance(distance_km, self.config.mirror.max_distance_km, &wanted.mode, &peer.site)?;
        let Some(plugins) = &self.plugins else { return Ok(Vec::new()) };
        // A rule that lies there holds, also while the gateway is starting.
        self.load_plugins().await;
        let placing = plugins.placing();
        if placing.is_empty() {
            return Ok(Vec::new());
        }
        let round_trip = self.show_sites().await.peers.into_iter();
        let round_trip =
            round_trip.filter(|of| of.gateway == peer.gateway).find_map(|of| of.rtt_us);
        let proposal = Proposal {
            source: site(&self.config.site.name, &here),
            destination: site(&peer.site, &there),
            mode: mode(&wanted.mode),
            destinations: wanted.destinations,
            volumes: wanted.volumes,
            distance_km,
            round_trip_us: round_trip.map(|us| u32::try_from(us).unwrap_or(u32::MAX)),
        };
        let mut worth_knowing = Vec::new();
        for name in placing {
            let said = plugins.check_session(&name, self.aside("gateway"), proposal.clone()).await;
            let said = said.map_err(|error| call_failed(&name, &error))?;
            for remark in said.map_err(|error| said_no(&name, &error))? {
                let text = told(&name, &remark);
                match remark.severity {
                    Severity::Error => return Err(Refused::new(Code::PlacementRefused, text)),
                    Severity::Warning | Severity::Info => worth_knowing.push(text),
                }
            }
        }
        Ok(worth_knowing)
    }

    /// The sites at which a plugin with rules for it would put a copy of what is here, the best first,
    /// by plugin.
    ///
    /// # Errors
    /// [`Code::PluginFailed`].
    pub(crate) async fn suggest_sites(&self) -> Result<Vec<(String, Vec<String>)>, Refused> {
        let Some(plugins) = &self.plugins else { return Ok(Vec::new()) };
        self.load_plugins().await;
        let peers = self.book.read().peers.clone();
        let mut sites = Vec::new();
        for peer in &peers {
            sites.push(site(&peer.site, &self.place_of(peer).await));
        }
        let here = site(&self.config.site.name, &self.own_place());
        let mut all = Vec::new();
        for name in plugins.placing() {
            let (aside, here) = (self.aside("gateway"), here.clone());
            let said = plugins.suggest(&name, aside, (here, mode("sync"), sites.clone())).await;
            let said = said.map_err(|error| call_failed(&name, &error))?;
            all.push((name.clone(), said.map_err(|error| said_no(&name, &error))?));
        }
        Ok(all)
    }
}

fn told(plugin: &str, remark: &Diagnostic) -> String {
    let code = remark.vendor_code.as_ref().unwrap_or(&remark.code);
    format!("{} ({plugin}: {code})", remark.message)
}

/// The gateway's own limit.
fn check_distance(
    distance_km: Option<f64>,
    max_km: Option<u32>,
    mode: &str,
    site: &str,
) -> Result<(), Refused> {
    match (distance_km, max_km) {
        (Some(km), Some(max)) if mode == "sync" && km > f64::from(max) => {
            let detail = format!(
                "{site} is {km:.0} km away; mirror.max_distance_km allows {max} for mode sync"
            );
            Err(Refused::new(Code::PlacementRefused, detail).next(
                "use mode consistency, or raise mirror.max_distance_km if writes may wait so long",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_03_what_is_too_far_for_sync_is_refused_and_what_is_not_known_is_not() {
        assert!(check_distance(Some(101.0), Some(100), "sync", "west").is_err());
        for (km, max, mode) in [
            (Some(99.0), Some(100), "sync"),
            (Some(5000.0), Some(100), "consistency"),
            (Some(5000.0), None, "sync"),
            (None, Some(100), "sync"),
        ] {
            assert_eq!(check_distance(km, max, mode, "west"), Ok(()), "{km:?} {max:?} {mode}");
        }
    }
}
