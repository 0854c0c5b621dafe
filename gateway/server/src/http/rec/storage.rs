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
/// [`Code::PeerUnknown`].
pub(super) fn peer(gateway: &Gateway, text: &str) -> Result<PeerEntry, Refused> {
    let pages = gateway.book.read();
    let found = pages.peers.iter().find(|peer| is_meant(text, peer.gateway, &peer.site));
    found.cloned().ok_or_else(|| {
        let site = &gateway.config.site.name;
        let detail = format!("{site} is not joined with a gateway or site {text:?}");
        Refused::new(Code::PeerUnknown, detail)
    })
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
}
