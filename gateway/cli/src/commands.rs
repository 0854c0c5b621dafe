//! Each command: asks a gateway, shows the answer, says by the exit code how it went.

mod backups;
mod following;
mod local;
mod moves;
mod plugins;
mod points;
mod reprotect;
mod runs;
mod sessions;
mod snapshots;
mod volumes;

use std::time::Duration;

use api::units::micros_text;
use api::{Group, GroupList, JoinToken, OperationList, SiteList, Status};
use ureq::http::Method;

use crate::Outcome;
use crate::args::{self, Format, Global};
use crate::failure::Failure;
use crate::output::{show, table, word};
use crate::place::client;
use crate::screen;

pub(crate) use backups::backup;
pub(crate) use local::{completions, config, man, openapi, serve};
pub(crate) use moves::migrate;
pub(crate) use plugins::plugin;
pub(crate) use points::point;
pub(crate) use reprotect::reprotect;
pub(crate) use runs::{plan, run};
pub(crate) use sessions::{failover, operation_text, session};
pub(crate) use snapshots::snapshot;
pub(crate) use volumes::volume;

/// `twinspan status`
pub(crate) fn status(command: &args::Status, global: &Global) -> Outcome {
    let client = client(global)?;
    if !command.watch {
        let status: Status = client.get("/api/v1/status")?;
        show(global.output, &status, screen::status);
        return Ok(status.verdict.exit_code());
    }
    loop {
        let text = match client.get::<Status>("/api/v1/status") {
            Ok(status) if global.output == Format::Json => {
                println!("{}", serde_json::to_string(&status).unwrap_or_default());
                std::thread::sleep(command.interval);
                continue;
            }
            Ok(status) => screen::status(&status),
            // Shown as what it is; the next look may find it again.
            Err(failure) => format!("UNKNOWN   {}\n", failure.what),
        };
        // Home, draw, clear what is left of the last screen.
        print!("\x1b[H\x1b[2J{text}");
        std::thread::sleep(command.interval);
    }
}

/// `twinspan group`
pub(crate) fn group(command: &args::Group, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Group::List => {
            let list: GroupList = client.get("/api/v1/groups")?;
            show(global.output, &list, |list| screen::groups(&list.items));
        }
        args::Group::Show { group } => {
            let group: Group = client.get(&format!("/api/v1/groups/{}", segment(group)))?;
            show(global.output, &group, screen::group);
        }
        args::Group::Create { name, volumes } => {
            let wanted = api::GroupCreate { name: name.clone(), volumes: volumes.clone() };
            let group: Group = client.post("/api/v1/groups", &wanted)?;
            show(global.output, &group, screen::group);
        }
        args::Group::Add { group, volume } => {
            let path = format!("/api/v1/groups/{}/volumes", segment(group));
            let wanted = api::GroupJoin { volume: volume.clone() };
            let group: Group = client.post(&path, &wanted)?;
            show(global.output, &group, screen::group);
        }
        args::Group::Remove { group, volume } => {
            let path = format!("/api/v1/groups/{}/volumes/{}", segment(group), segment(volume));
            let group: Option<Group> =
                client.ask(&Method::DELETE, &path, &serde_json::json!({}))?;
            if let Some(group) = group {
                show(global.output, &group, screen::group);
            }
        }
        args::Group::Diff { group } => return moves::diff(&client, group, global),
        args::Group::Detach { group } => {
            let path = format!("/api/v1/groups/{}/detach", segment(group));
            let group: Group = client.post(&path, &serde_json::json!({}))?;
            show(global.output, &group, screen::group);
        }
        args::Group::Exclude { group, gateway, stopped } => {
            let path = format!("/api/v1/groups/{}/exclude", segment(group));
            let request = api::CompanionRequest { gateway: *gateway, stopped: *stopped };
            let group: Group = client.post(&path, &request)?;
            show(global.output, &group, screen::group);
        }
        args::Group::Include { group, gateway } => {
            let path = format!("/api/v1/groups/{}/include", segment(group));
            let request = api::CompanionRequest { gateway: *gateway, stopped: false };
            let group: Group = client.post(&path, &request)?;
            show(global.output, &group, screen::group);
        }
        args::Group::Delete { group, lost } => {
            let how = if *lost { "?lost=true" } else { "" };
            client.delete(&format!("/api/v1/groups/{}{how}", segment(group)))?;
        }
    }
    Ok(0)
}

/// `twinspan site`
pub(crate) fn site(command: &args::Site, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Site::List => {
            let list: SiteList = client.get("/api/v1/sites")?;
            show(global.output, &list, sites_text);
        }
        args::Site::Token(args::SiteToken::Create { ttl }) => {
            let request = api::TokenRequest { ttl_seconds: Some(ttl.as_secs()) };
            let token: JoinToken = client.post("/api/v1/sites/token", &request)?;
            show(global.output, &token, |token| {
                format!(
                    "{}\n\ngood for one join until {}\nat the other site: twinspan site join TOKEN",
                    token.token, token.expires_at
                )
            });
        }
        args::Site::Join { token } => {
            let request = api::JoinRequest { token: token.clone() };
            let list: SiteList = client.post("/api/v1/sites/join", &request)?;
            show(global.output, &list, sites_text);
        }
    }
    Ok(0)
}

fn sites_text(list: &SiteList) -> String {
    let here = vec![
        list.this.name.clone(),
        "this".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        list.this.gateway.to_string(),
        "-".to_owned(),
    ];
    let peers = list.peers.iter().map(|peer| {
        vec![
            peer.site.clone(),
            peer.link.as_ref().map_or_else(|| "-".to_owned(), word),
            peer.last_heard_ms_ago
                .map_or_else(|| "-".to_owned(), |ms| format!("{} ago", micros_text(ms * 1000))),
            peer.rtt_us.map_or_else(|| "-".to_owned(), micros_text),
            peer.gateway.to_string(),
            peer.address.clone(),
        ]
    });
    table(
        &["SITE", "LINK", "HEARD", "RTT", "GATEWAY", "ADDRESS"],
        std::iter::once(here).chain(peers),
    )
}

/// `twinspan token`
pub(crate) fn token(command: &args::Token, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Token::List => {
            let list: api::TokenList = client.get("/api/v1/tokens")?;
            show(global.output, &list, |list| {
                let rows = list.items.iter().map(|t| vec![t.name.clone(), word(&t.role)]);
                table(&["NAME", "ROLE"], rows)
            });
        }
        args::Token::Create { name, role } => {
            let role = serde_json::from_value(serde_json::json!(role)).map_err(|_e| {
                Failure::coded(api::Code::Invalid, "role is viewer, operator or admin")
            })?;
            let request = api::TokenCreate { name: name.clone(), role };
            let made: api::TokenSecret = client.post("/api/v1/tokens", &request)?;
            show(global.output, &made, |made| made.token.clone());
        }
        args::Token::Delete { name } => {
            client.delete(&format!("/api/v1/tokens/{}", segment(name)))?;
        }
    }
    Ok(0)
}

/// `twinspan operation`
pub(crate) fn operation(command: &args::Operation, global: &Global) -> Outcome {
    let client = client(global)?;
    match command {
        args::Operation::List => {
            let list: OperationList = client.get("/api/v1/operations")?;
            show(global.output, &list, |list| {
                let rows = list.items.iter().map(|operation| {
                    vec![
                        operation.id.to_string(),
                        operation.kind.clone(),
                        operation.subject.clone(),
                        word(&operation.state),
                        operation.started_at.clone(),
                    ]
                });
                table(&["ID", "KIND", "SUBJECT", "STATE", "STARTED"], rows)
            });
        }
        args::Operation::Show { operation } => {
            let path = format!("/api/v1/operations/{}", segment(operation));
            let operation: api::Operation = client.get(&path)?;
            show(global.output, &operation, operation_text);
        }
        args::Operation::Cancel { operation } => {
            let path = format!("/api/v1/operations/{}/cancel", segment(operation));
            let operation: api::Operation = client.post(&path, &serde_json::json!({}))?;
            show(global.output, &operation, operation_text);
        }
    }
    Ok(0)
}

/// `twinspan events`
pub(crate) fn events(follow: bool, since: Option<u64>, global: &Global) -> Outcome {
    let client = client(global)?;
    let mut last = since;
    loop {
        client.events(last, follow, |event| {
            last = Some(event.id);
            match global.output {
                Format::Json => println!("{}", serde_json::to_string(&event).unwrap_or_default()),
                Format::Table => println!(
                    "{:>6}  {}  {:<10} {}: {}",
                    event.id, event.at, event.kind, event.subject, event.text
                ),
            }
        })?;
        if !follow {
            return Ok(0);
        }
        // The gateway ended the stream; what was missed comes with the next one.
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A name as one segment of a path.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(segment("orders:west"), "orders:west");
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
    }
}
