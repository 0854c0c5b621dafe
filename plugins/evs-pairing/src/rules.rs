//! Which zones may be paired, and which disks.
//!
//! Two zones may be paired that differ, are in the catalogue if there is one, have room, and are no
//! farther from each other than the limit. Two disks that have the same size and all of their content.

use serde::Deserialize;

use super::exports::twinspan::plugin::placement::Proposal;
use super::twinspan::plugin::types::{Diagnostic, Mode, Severity, Site, Volume};
use super::{Config, remark};

/// An entry of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZonePair {
    pub zones: [String; 2],
    /// No more is sold there: what is mirrored already stays.
    #[serde(default)]
    pub sold_out: bool,
    /// Whether writes may be acknowledged by both zones.
    #[serde(default = "yes")]
    pub hypermetro: bool,
    /// As the operator knows it; what the positions say goes before it.
    #[serde(default)]
    pub distance_km: Option<f64>,
}

fn yes() -> bool {
    true
}

/// What a site counts as: its zone, or its name where it says none.
fn zone(site: &Site) -> &str {
    if site.zone.is_empty() { &site.name } else { &site.zone }
}

fn entry<'a>(config: &'a Config, one: &Site, other: &Site) -> Option<&'a ZonePair> {
    let is_it = |pair: &&ZonePair| {
        let zones = [pair.zones[0].as_str(), pair.zones[1].as_str()];
        zones == [zone(one), zone(other)] || zones == [zone(other), zone(one)]
    };
    config.pairs.iter().find(is_it)
}

/// Sites that may be paired with one, the nearest first.
pub fn suggest(config: &Config, source: &Site, mode: Mode, sites: Vec<Site>) -> Vec<String> {
    let may = |site: &Site| zones(config, (source, site), mode, None).is_empty();
    let mut able: Vec<(f64, String)> = sites
        .into_iter()
        .filter(|site| may(site))
        .map(|site| {
            let known = entry(config, source, &site).and_then(|pair| pair.distance_km);
            (known.unwrap_or(f64::INFINITY), site.name)
        })
        .collect();
    able.sort_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1)));
    able.into_iter().map(|(_, name)| name).collect()
}

/// What stands against a session.
pub fn check(config: &Config, proposal: &Proposal) -> Vec<Diagnostic> {
    let sites = (&proposal.source, &proposal.destination);
    let mut all = zones(config, sites, proposal.mode, proposal.distance_km);
    if let Some(us) = proposal.round_trip_us.filter(|us| *us > config.warn_round_trip_us) {
        let limit = config.warn_round_trip_us;
        let message = format!("a round trip takes {us} us; above {limit} us writes are slow");
        all.push(remark(Severity::Warning, "round-trip", message, None));
    }
    for (volume, destination) in proposal.volumes.iter().zip(&proposal.destinations) {
        all.extend(disks(volume, destination.as_ref()));
    }
    all
}

fn zones(
    config: &Config,
    (source, destination): (&Site, &Site),
    mode: Mode,
    distance_km: Option<f64>,
) -> Vec<Diagnostic> {
    let (from, to) = (zone(source), zone(destination));
    let against = |code: &str, message: String| remark(Severity::Error, code, message, None);
    if from == to {
        return vec![against("same-zone", format!("both sites are in zone {from}"))];
    }
    let entry = entry(config, source, destination);
    let mut all = Vec::new();
    match entry {
        None if !config.pairs.is_empty() => {
            all.push(against("not-paired", format!("{from} and {to} are not in the catalogue")));
        }
        Some(pair) if pair.sold_out => {
            all.push(against("sold-out", format!("{from} and {to} are sold out")));
        }
        Some(pair) if !pair.hypermetro && mode == Mode::Sync => {
            let message =
                format!("{from} and {to} are not joined for hypermetro: use another mode");
            all.push(against("no-hypermetro", message));
        }
        _ => {}
    }
    let known = distance_km.or_else(|| entry.and_then(|pair| pair.distance_km));
    if let Some(km) = known.filter(|km| *km > config.max_distance_km && mode == Mode::Sync) {
        let limit = config.max_distance_km;
        let message = format!("{from} and {to} are {km:.0} km apart; {limit} km are allowed");
        all.push(against("too-far", message));
    }
    all
}

fn disks(volume: &Volume, destination: Option<&Volume>) -> Vec<Diagnostic> {
    let against = |code: &str, message: String, vendor: &str| {
        remark(Severity::Error, code, message, Some(vendor))
    };
    let mut all = Vec::new();
    if volume.is_filling {
        let message = format!("disk {} is still being filled", volume.name);
        all.push(against("filling", message, "37100044"));
    }
    let Some(destination) = destination else { return all };
    if destination.is_filling {
        let message = format!("disk {} is still being filled", destination.name);
        all.push(against("filling", message, "37100045"));
    }
    if volume.size_bytes != destination.size_bytes {
        let (one, other) = (volume.size_bytes, destination.size_bytes);
        let message = format!("disk {} has {one} bytes, the other {other}", volume.name);
        all.push(against("size", message, "37100041"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(zone: &str) -> Site {
        Site { name: format!("at-{zone}"), region: "r".into(), zone: zone.into(), position: None }
    }

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn codes(config: &Config, sites: (&Site, &Site), mode: Mode, km: Option<f64>) -> Vec<String> {
        zones(config, sites, mode, km).into_iter().map(|remark| remark.code).collect()
    }

    #[test]
    fn evs_33_only_zones_of_the_catalogue_are_paired() {
        let config = config(
            r#"{"pairs": [{"zones": ["a", "b"]}, {"zones": ["a", "c"], "sold_out": true},
                          {"zones": ["a", "d"], "hypermetro": false}]}"#,
        );
        let (a, b, c, d, e) = (site("a"), site("b"), site("c"), site("d"), site("e"));
        let of = |other| codes(&config, (&a, other), Mode::Sync, None);
        assert_eq!(of(&b), [""; 0]);
        assert_eq!(of(&a), ["same-zone"]);
        assert_eq!(of(&c), ["sold-out"]);
        assert_eq!(of(&d), ["no-hypermetro"]);
        assert_eq!(of(&e), ["not-paired"]);
        assert_eq!(codes(&config, (&a, &d), Mode::Consistency, None), [""; 0]);
        assert_eq!(suggest(&config, &a, Mode::Sync, vec![b, c, d, e]), ["at-b"]);
    }

    #[test]
    fn evs_03_the_distance_has_a_limit() {
        let config = Config::default();
        let (a, b) = (site("a"), site("b"));
        assert_eq!(codes(&config, (&a, &b), Mode::Sync, Some(100.5)), ["too-far"]);
        assert_eq!(codes(&config, (&a, &b), Mode::Sync, Some(99.0)), [""; 0]);
        assert_eq!(codes(&config, (&a, &b), Mode::Stack, Some(900.0)), [""; 0]);
    }
}
