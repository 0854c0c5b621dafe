//! The status screen.

use api::units::{bytes_text, micros_text};
use api::{Group, Health, Leg, Role, Status, TheirView, Verdict};

use crate::output::{known, table, word};

/// The whole screen.
pub(crate) fn status(status: &Status) -> String {
    let mut out = format!("{:<60} as of {}\n", headline(status), status.as_of);
    out.push_str(&format!("site {}", status.site.name));
    if !status.site.region.is_empty() {
        out.push_str(&format!(" ({})", status.site.region));
    }
    out.push('\n');
    if !status.peers.is_empty() {
        out.push('\n');
        out.push_str(&table(
            &["PEER", "LINK", "HEARD", "RTT", "ADDRESS"],
            status.peers.iter().map(|peer| {
                vec![
                    peer.site.clone(),
                    peer.link.as_ref().map_or_else(|| "-".to_owned(), word),
                    ago(peer.last_heard_ms_ago),
                    peer.rtt_us.map_or_else(|| "-".to_owned(), micros_text),
                    peer.address.clone(),
                ]
            }),
        ));
    }
    if !status.groups.is_empty() {
        out.push('\n');
        out.push_str(&groups(&status.groups));
    }
    out.push_str(&format!(
        "\n{} protected, {} at risk, {} unknown, {} not mirrored\n",
        status.protected, status.at_risk, status.unknown, status.unprotected
    ));
    out
}

fn headline(status: &Status) -> String {
    match status.verdict {
        Verdict::Empty => "NO VOLUMES".to_owned(),
        Verdict::Ready => "DR READY".to_owned(),
        Verdict::Unprotected => "NOT MIRRORED".to_owned(),
        Verdict::Degraded => "DEGRADED".to_owned(),
        Verdict::Unknown => "UNKNOWN".to_owned(),
        Verdict::AtRisk => "AT RISK".to_owned(),
        Verdict::SplitBrain => "SPLIT BRAIN".to_owned(),
    }
}

fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", micros_text(ms * 1000)))
}

/// Groups with their legs, and below each what is wrong, why, and the next command.
pub(crate) fn groups(groups: &[Group]) -> String {
    let rows = groups.iter().map(row);
    let text = table(
        &[
            "GROUP",
            "HEALTH",
            "ROLE",
            "EPOCH",
            "MIRROR",
            "STATE",
            "RPO",
            "OUT OF SYNC",
            "BLOCKS FAILOVER",
        ],
        rows,
    );
    let mut out = String::new();
    let mut lines = text.lines();
    if let Some(head) = lines.next() {
        out.push_str(head);
        out.push('\n');
    }
    for (line, group) in lines.zip(groups) {
        out.push_str(line);
        out.push('\n');
        if let Some(volumes) = members(group) {
            out.push_str(&format!("      {volumes}\n"));
        }
        if let Some(parts) = parts(group) {
            out.push_str(&format!("      {parts}\n"));
        }
        for view in views(group) {
            out.push_str(&format!("      {view}\n"));
        }
        for explanation in &group.explanations {
            out.push_str(&format!("      cause  {} [{}]\n", explanation.cause, explanation.code));
            out.push_str(&format!("      next   {}\n", explanation.next));
        }
    }
    out
}

/// One group, and all its volumes.
pub(crate) fn group(group: &Group) -> String {
    let mut out = groups(std::slice::from_ref(group));
    out.push_str(&format!("      volumes ({}) {}\n", group.volumes.len(), group.volumes.join(" ")));
    for kept in &group.discarded {
        let snapshots: Vec<String> = kept.snapshots.iter().map(ToString::to_string).collect();
        out.push_str(&format!(
            "      kept   {} of {}: up to {} of that were overwritten here\n",
            snapshots.join(" "),
            kept.taken_at,
            bytes_text(kept.bytes.unwrap_or_default())
        ));
    }
    out
}

/// Where the part here is, and how the gateways with the other parts are, in one line.
fn parts(group: &Group) -> Option<String> {
    let parts = group.parts.as_ref()?;
    let here = match group.role {
        Some(Role::Primary) if parts.in_stretch => format!("in stretch {}", parts.stretch),
        Some(Role::Primary) => format!("on its way to stretch {}", parts.stretch),
        _ => format!("copy of stretch {}, kept point of stretch {}", parts.copy, parts.kept),
    };
    let companion = |companion: &api::Companion| {
        let state = match companion.reachable {
            _ if companion.excluded => "excluded",
            Some(true) => "reachable",
            Some(false) => "UNREACHABLE",
            None => "UNKNOWN",
        };
        format!("{} {state}", companion.gateway)
    };
    let companions: Vec<String> = parts.companions.iter().map(companion).collect();
    Some(format!("part   {here}; with {}", companions.join(", ")))
}

/// The volumes of a group that has more than the one of its name, in one line.
fn members(group: &Group) -> Option<String> {
    const SHOWN_MAX: usize = 4;
    if let [only] = group.volumes.as_slice()
        && *only == group.name
    {
        return None;
    }
    let shown = group.volumes.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>();
    let rest = group.volumes.len().saturating_sub(SHOWN_MAX);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    Some(format!("of     {}{more}", shown.join(", ")))
}

fn row(group: &Group) -> Vec<String> {
    let (mirror, state) = mirror_and_state(group);
    let health = match group.health {
        Health::Unknown => format!("UNKNOWN since {}", micros_text(group.age_ms * 1000)),
        _ => word(&group.health).to_uppercase(),
    };
    vec![
        group.name.clone(),
        health,
        known(group.role.as_ref()),
        group.epoch.map_or_else(|| "UNKNOWN".to_owned(), |epoch| epoch.to_string()),
        mirror,
        state,
        group.rpo_seconds.map_or_else(|| "UNKNOWN".to_owned(), |rpo| format!("{rpo:.1} s")),
        group.out_of_sync_bytes.map_or_else(|| "UNKNOWN".to_owned(), bytes_text),
        if group.failover_blockers.is_empty() {
            "nothing".to_owned()
        } else {
            group.failover_blockers.join("; ")
        },
    ]
}

fn mirror_and_state(group: &Group) -> (String, String) {
    match (group.role, &group.upstream) {
        (Some(Role::Secondary), Some(upstream)) => {
            (format!("← {}", upstream.site), known(group.quality.as_ref()))
        }
        (Some(Role::Fenced), _) => ("-".to_owned(), "fenced".to_owned()),
        _ if group.legs.is_empty() => ("none".to_owned(), "-".to_owned()),
        _ => {
            let sites: Vec<String> =
                group.legs.iter().map(|leg| format!("→ {}", leg.site)).collect();
            let states: Vec<String> = group.legs.iter().map(leg_state).collect();
            (sites.join(" "), states.join("; "))
        }
    }
}

/// A leg in a few words, with its progress.
pub(crate) fn leg_state(leg: &Leg) -> String {
    let mode = match leg.policy.mode.as_str() {
        "sync" if leg.degraded => "degraded ",
        "sync" => "",
        other => &format!("{other} "),
    };
    format!("{mode}{} {}", word(&leg.state), word(&leg.phase))
}

/// How the other side sees each connection, with the age of that.
fn views(group: &Group) -> Vec<String> {
    let said = |site: &str, theirs: Option<&TheirView>| match theirs {
        None => format!("view   {site} never said how it sees it"),
        Some(theirs) => format!(
            "view   {site} says {}: {}{}, {} out of sync, change {}",
            ago(theirs.age_ms),
            if theirs.in_sync { "in sync" } else { "not in sync" },
            if theirs.copying { ", copying" } else { "" },
            bytes_text(theirs.out_of_sync_bytes),
            theirs.seq,
        ),
    };
    let mut views: Vec<String> =
        group.legs.iter().map(|leg| said(&leg.site, leg.theirs.as_ref())).collect();
    if let Some(upstream) = &group.upstream {
        views.push(said(&upstream.site, upstream.theirs.as_ref()));
    }
    views
}
