//! The gateway as a storage system: its box id, and those of the gateways that it is joined with.

use api::{Code, RecRemoteBox, RecStorage};
use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use super::{Shared, status};
use crate::book::PeerEntry;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// A gateway's box id: its identity, which is made with its pool, as 32 hexadecimal digits.
#[must_use]
pub(super) fn box_id(gateway: Uuid) -> String {
    gateway.simple().to_string().to_uppercase()
}

fn is_meant(text: &str, gateway: Uuid, site: &str) -> bool {
    text == site || Uuid::parse_str(text) == Ok(gateway)
}

/// Makes sure that this gateway is meant.
///
/// # Errors
/// [`Code::NotPrimary`] when it is not.
pub(super) fn check_own(gateway: &Gateway, text: &str) -> Result<(), Refused> {
    let (own, site) = (gateway.identity.gateway.uuid(), &gateway.config.site.name);
    if is_meant(text, own, site) {
        return Ok(());
    }
    let detail = format!(
        "source_boxid {text:?} is not this gateway ({site}, {}): a session is made at its source",
        box_id(own)
    );
    Err(Refused::new(Code::NotPrimary, detail))
}

/// The gateway that is meant.
///
/// # Errors
/// [`Code::PeerUnknown`]; [`Code::Invalid`] for a site of several gateways.
pub(super) fn peer(gateway: &Gateway, text: &str) -> Result<PeerEntry, Refused> {
    the_one(&gateway.book.read().peers, text, &gateway.config.site.name).cloned()
}

fn the_one<'a>(peers: &'a [PeerEntry], text: &str, here: &str) -> Result<&'a PeerEntry, Refused> {
    let meant = peers.iter().filter(|peer| is_meant(text, peer.gateway, &peer.site));
    let meant: Vec<&PeerEntry> = meant.collect();
    match meant[..] {
        [peer] => Ok(peer),
        [] => {
            let detail = format!("{here} is not joined with a gateway or site {text:?}");
            Err(Refused::new(Code::PeerUnknown, detail))
        }
        _ => {
            let ids: Vec<_> = meant.iter().map(|peer| box_id(peer.gateway)).collect();
            let detail = format!("{text} has {} gateways: name one by its box id", meant.len());
            Err(Refused::new(Code::Invalid, detail).next(format!("one of {}", ids.join(", "))))
        }
    }
}

/// The gateway as a storage system
#[utoipa::path(get, path = "/api/v1/storage", tag = "rec", operation_id = "rec_show_storage",
    responses((status = 200, body = RecStorage), (status = "default", body = api::RecError)))]
pub(super) async fn show(State(gateway): Shared) -> Json<RecStorage> {
    let sites = gateway.show_sites().await;
    let remote = sites.peers.iter().map(|peer| RecRemoteBox {
        boxid: box_id(peer.gateway),
        name: peer.site.clone(),
        path_status: status::path(peer.link).to_owned(),
    });
    Json(RecStorage {
        boxid: box_id(sites.this.gateway),
        name: sites.this.name,
        version: sites.this.release,
        remote_box_list: remote.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rec_02_a_box_is_meant_by_its_id_or_its_site() {
        let gateway = Uuid::from_u128(0xabc);
        for text in [box_id(gateway), gateway.to_string(), "west".to_owned()] {
            assert!(is_meant(&text, gateway, "west"), "{text}");
        }
        assert!(!is_meant("east", gateway, "west"));
        assert_eq!(box_id(gateway).len(), 32);
    }

    #[test]
    fn rec_02_of_a_site_with_two_gateways_one_is_named_by_its_box_id() {
        let peer = |gateway| PeerEntry {
            gateway: Uuid::from_u128(gateway),
            site: "west".to_owned(),
            certificate: String::new(),
            addresses: Vec::new(),
            portals: None,
            place: None,
        };
        let peers = [peer(1), peer(2)];
        assert_eq!(the_one(&peers[..1], "west", "east"), Ok(&peers[0]));
        let Refused(problem) = the_one(&peers, "west", "east").unwrap_err();
        assert_eq!(problem.code, Code::Invalid.as_str());
        let second = box_id(peers[1].gateway);
        assert!(problem.next.as_ref().is_some_and(|next| next.contains(&second)), "{problem:?}");
        assert_eq!(the_one(&peers, &second, "east"), Ok(&peers[1]));
        let Refused(problem) = the_one(&peers, "north", "east").unwrap_err();
        assert_eq!(problem.code, Code::PeerUnknown.as_str());
    }
}
