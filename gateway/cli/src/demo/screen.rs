//! What the demo says to people.

use std::time::Duration;

use super::state::State;
use super::{start::VOLUME, status_of};
use crate::output::table;

/// After the start: the sites, the status, what to try next.
pub(crate) fn welcome(state: &State, distance: Duration) -> String {
    let mut out = String::new();
    for site in &state.sites {
        out.push_str(&format!(
            "  site {:<6} {:<9} api {}   metrics {}   (process {})\n",
            site.name,
            site.role,
            site.api,
            site.metrics,
            site.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ));
        for uri in [&site.nbd, &site.nbd_unix, &site.iscsi].into_iter().flatten() {
            out.push_str(&format!("       {:<6} attach {uri}\n", ""));
        }
    }
    out.push_str("  joined with a one-time token; mutual TLS with pinned certificates is on\n");
    if !distance.is_zero() {
        out.push_str(&format!("  simulated distance {} ms\n", distance.as_millis()));
    }
    out.push('\n');
    if let Some(status) = state.sites.first().and_then(status_of) {
        out.push_str(&crate::screen::status(&status));
    }
    let dir = state.dir.display();
    let uri = state.sites.iter().find_map(|site| site.nbd.clone()).unwrap_or_default();
    out.push_str(&format!(
        "
  Next, in another terminal (in this folder, or with --dir {dir}):
    twinspan status --watch
    nbdcopy ./any.img {uri}
    twinspan demo load {VOLUME} --writers 8
    twinspan demo kill east                       pull the plug on a site (SIGKILL)
    twinspan status --from west
    twinspan failover plan {VOLUME} --to west       then run it with its token
    twinspan demo verify {VOLUME}                   counts lost, torn and out of order
    twinspan demo start east
    twinspan reprotect {VOLUME} --from west --wait
    twinspan demo stop
"
    ));
    out
}

/// The sites in a few lines.
pub(crate) fn sites(state: &State) -> String {
    table(
        &["SITE", "ROLE", "PROCESS", "API", "ATTACH"],
        state.sites.iter().map(|site| {
            vec![
                site.name.clone(),
                site.role.clone(),
                site.pid.map_or_else(|| "dead".to_owned(), |pid| pid.to_string()),
                site.api.clone(),
                site.nbd.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )
}
