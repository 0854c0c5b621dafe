//! Interfaces of servers: added, removed, and moved to the server that works.
//!
//! An interface is a port, which carries its addresses and its MAC wherever it goes. So a site takes over
//! by getting the ports of the other: those of the server that works go to the one that takes over, and
//! its own go back, or are parked where there is nobody to have them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::actions::report;
use super::cloud::Cloud;
use super::deeds::{Pushed, Seen};
use super::instances::{name_by_key, ports};
use super::twinspan::plugin::run;
use super::twinspan::plugin::types::{Context, Created, Error, ErrorCode, Report};
use super::{error, numbered};

/// A server has no more.
const INTERFACES_MAX: usize = 12;

#[derive(Deserialize)]
pub struct Add {
    server: String,
    subnet: String,
    #[serde(default)]
    ip: String,
    /// With commas.
    #[serde(default)]
    security_groups: String,
}

#[derive(Deserialize)]
pub struct Remove {
    server: String,
    port: String,
}

/// Which server is to have which ports.
#[derive(Deserialize)]
pub struct Place {
    active: String,
    active_ports: String,
    standby: String,
    standby_ports: String,
    /// `true`: the standby's are had by nobody, since it is lost.
    #[serde(default)]
    parks: String,
}

fn each(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|one| !one.is_empty())
}

fn holder(port: &Value) -> String {
    port["device_id"].as_str().unwrap_or_default().to_owned()
}

// --- added and removed ---

pub fn add(cloud: &Cloud, (ctx, of): (&Context, &Add), pushed: &mut Pushed) -> Result<Seen, Error> {
    let name = name_by_key("nic", &ctx.idempotency_key);
    let port = match cloud.port_named(&name)? {
        Some(port) => port,
        None => {
            let has = ports(&cloud.server(&of.server)?).len();
            if has >= INTERFACES_MAX {
                let why = format!("server {} has {has} interfaces already", of.server);
                return Err(numbered(ErrorCode::QuotaExceeded, "SDRS.1312", why));
            }
            if ctx.dry_run {
                return Ok(Seen::Not(format!("an interface in network {}", of.subnet)));
            }
            let groups: Vec<&str> = each(&of.security_groups).collect();
            let mut wanted = json!({ "network_id": of.subnet, "name": name });
            if !of.ip.is_empty() {
                wanted["fixed_ips"] = json!([{ "ip_address": of.ip }]);
            }
            if !groups.is_empty() {
                wanted["security_groups"] = json!(groups);
            }
            cloud.make_port(&wanted)?
        }
    };
    let id = port["id"].as_str().unwrap_or_default().to_owned();
    let made = Created { kind: "port".to_owned(), id: id.clone(), name };
    if !ctx.dry_run {
        run::register(&made)?;
    }
    if holder(&port) != of.server {
        let what = format!("give server {} port {id}", of.server);
        pushed.push(cloud, &what, || cloud.attach_port(&of.server, &id).map(|()| String::new()))?;
        return Ok(Seen::Not(what));
    }
    let address = port["fixed_ips"][0]["ip_address"].as_str().unwrap_or_default().to_owned();
    let summary = format!("server {} has interface {id} with {address}", of.server);
    let outputs = [("port", id), ("address", address)];
    Ok(Seen::Done(Report { created: vec![made], ..report(summary, &outputs) }))
}

/// Takes back what was added, as far as it came.
pub fn unadd(
    cloud: &Cloud,
    (ctx, of): (&Context, &Add),
    pushed: &mut Pushed,
) -> Result<Seen, Error> {
    let name = name_by_key("nic", &ctx.idempotency_key);
    match cloud.port_named(&name)? {
        Some(port) => {
            let port = port["id"].as_str().unwrap_or_default().to_owned();
            remove(cloud, &Remove { server: of.server.clone(), port }, pushed)
        }
        None => Ok(Seen::Done(report("the interface is not there".to_owned(), &[]))),
    }
}

pub fn remove(cloud: &Cloud, of: &Remove, pushed: &mut Pushed) -> Result<Seen, Error> {
    let gone = || {
        let summary = format!("interface {} is not there", of.port);
        let removed =
            vec![Created { kind: "port".to_owned(), id: of.port.clone(), name: of.port.clone() }];
        Ok(Seen::Done(Report { removed, ..report(summary, &[]) }))
    };
    let port = match cloud.port(&of.port) {
        Ok(port) => port,
        Err(why) if why.code == ErrorCode::NotFound => return gone(),
        Err(why) => return Err(why),
    };
    let now = holder(&port);
    if !now.is_empty() && now != of.server {
        let why = format!("interface {} is of server {now}", of.port);
        return Err(error(ErrorCode::Conflict, why));
    }
    let what = format!("delete port {}", of.port);
    pushed.push(cloud, &what, || {
        if !now.is_empty() {
            cloud.detach_port(&of.server, &of.port)?;
        }
        cloud.delete_port(&of.port).map(|()| String::new())
    })?;
    Ok(Seen::Not(what))
}

// --- moved ---

/// Which port goes where: it, and the server that is to have it, if one is.
fn wanted(of: &Place) -> Vec<(&str, &str)> {
    let standby = if of.parks == "true" { "" } else { &of.standby };
    let active = each(&of.active_ports).map(|port| (port, of.active.as_str()));
    active.chain(each(&of.standby_ports).map(|port| (port, standby))).collect()
}

pub fn place(cloud: &Cloud, of: &Place, pushed: &mut Pushed) -> Result<Seen, Error> {
    let mut wrong = Vec::new();
    for (port, to) in wanted(of) {
        let now = holder(&cloud.port(port)?);
        if now != to {
            wrong.push((port, now, to));
        }
    }
    if wrong.is_empty() {
        let summary = format!("server {} has the interfaces that work", of.active);
        return Ok(Seen::Done(report(summary, &[("active", of.active.clone())])));
    }
    let what = wrong.iter().map(|(port, _, to)| format!("{port} to {to:?}")).collect::<Vec<_>>();
    let what = format!("move interfaces: {}", what.join(", "));
    pushed.push(cloud, &what, || {
        // First all are taken away: a port cannot be at two servers.
        for (port, now, _) in wrong.iter().filter(|(_, now, _)| !now.is_empty()) {
            cloud.detach_port(now, port)?;
        }
        for (port, _, to) in wrong.iter().filter(|(_, _, to)| !to.is_empty()) {
            cloud.attach_port(to, port)?;
        }
        Ok(String::new())
    })?;
    Ok(Seen::Not(what))
}

/// The same the other way around.
pub fn back(of: Place) -> Place {
    Place {
        active: of.standby,
        active_ports: of.active_ports,
        standby: of.active,
        standby_ports: of.standby_ports,
        parks: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(parks: &str) -> Place {
        Place {
            active: "two".to_owned(),
            active_ports: "p1,p2".to_owned(),
            standby: "one".to_owned(),
            standby_ports: "q1".to_owned(),
            parks: parks.to_owned(),
        }
    }

    #[test]
    fn evs_40_ports_change_places_or_are_parked_where_a_server_is_lost() {
        assert_eq!(wanted(&place("")), [("p1", "two"), ("p2", "two"), ("q1", "one")]);
        assert_eq!(wanted(&place("true")), [("p1", "two"), ("p2", "two"), ("q1", "")]);
        let back = back(place("true"));
        assert_eq!(wanted(&back), [("p1", "one"), ("p2", "one"), ("q1", "two")]);
    }
}
