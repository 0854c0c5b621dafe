//! Active-active domains, the zones between which groups may be protected; and quotas.
//!
//! Invariant: a domain is this gateway's zone and that of a gateway that it is joined with. Where plugins
//! have rules for where copies lie, what none of them suggests is sold out.

use api::{SdrsCluster, SdrsDomain, SdrsDomainList, SdrsQuota, SdrsQuotaResources, SdrsQuotas};
use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use super::{Failure, Shared};
use crate::book::evs::Dialect;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// The same at both gateways and for ever: it is made of the two zones.
fn domain_id(one: &str, other: &str) -> String {
    let (first, last) = if one <= other { (one, other) } else { (other, one) };
    let hash = blake3::hash(format!("{first}\n{last}").as_bytes());
    let bytes = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn cluster(zone: &str) -> SdrsCluster {
    SdrsCluster { availability_zone: zone.to_owned() }
}

pub(super) async fn all(gateway: &Gateway) -> Result<Vec<SdrsDomain>, Refused> {
    let suggested = gateway.suggest_sites().await?;
    let here = gateway.own_station();
    let peers = gateway.book.read().peers.clone();
    let mut all: Vec<SdrsDomain> = Vec::new();
    for peer in &peers {
        let there = gateway.station_of(peer).await;
        let id = domain_id(&here, &there);
        if there == here || all.iter().any(|domain| domain.id == id) {
            continue;
        }
        let is_offered =
            suggested.is_empty() || suggested.iter().any(|(_, sites)| sites.contains(&peer.site));
        all.push(SdrsDomain {
            id,
            name: format!("{here}-{there}"),
            description: format!("{} and {}", gateway.config.site.name, peer.site),
            sold_out: !is_offered,
            local_replication_cluster: cluster(&here),
            remote_replication_cluster: cluster(&there),
        });
    }
    Ok(all)
}

/// Zones between which groups may be protected
#[utoipa::path(get, path = "/v1/{project}/active-domains", tag = "evs",
    operation_id = "sdrs_list_domains", params(("project" = String, Path)),
    responses((status = 200, body = SdrsDomainList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(State(gateway): Shared) -> Result<Json<SdrsDomainList>, Failure> {
    Ok(Json(SdrsDomainList { domains: all(&gateway).await? }))
}

/// How many groups and pairs there are, and may be
#[utoipa::path(get, path = "/v1/{project}/sdrs/quotas", tag = "evs",
    operation_id = "sdrs_show_quotas", params(("project" = String, Path)),
    responses((status = 200, body = SdrsQuotas), (status = "default", body = api::EvsError)))]
pub(super) async fn quotas(State(gateway): Shared) -> Json<SdrsQuotas> {
    let pages = gateway.book.read();
    let groups = pages.evs.groups().filter(|of| of.dialect == Dialect::Sdrs).count();
    let pairs = pages.evs.pairs().filter(|of| of.dialect == Dialect::Sdrs).count();
    let quota = |kind: &str, used, quota| SdrsQuota {
        kind: kind.to_owned(),
        used,
        quota,
        min: quota,
        max: quota,
    };
    let most = &gateway.config.quota;
    let resources =
        vec![quota("server_groups", groups, most.groups), quota("replications", pairs, most.pairs)];
    Json(SdrsQuotas { quotas: SdrsQuotaResources { resources } })
}

/// Whether a domain is one of two zones.
pub(super) fn is_of(domain: &str, one: &str, other: &str) -> bool {
    Uuid::parse_str(domain).is_ok_and(|id| id.to_string() == domain_id(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_33_a_domain_is_the_same_from_both_its_zones() {
        let id = domain_id("az1", "az2");
        assert_eq!(id, domain_id("az2", "az1"));
        assert!(is_of(&id, "az1", "az2") && is_of(&id, "az2", "az1"));
        assert!(!is_of(&id, "az1", "az3") && !is_of("none", "az1", "az2"));
    }
}
