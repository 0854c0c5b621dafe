//! Servers that stand in for others: made in the other zone, given disks, resized, deleted.
//!
//! A recovery server is made like the production server and stopped at once; the disks that the cloud
//! made with it are taken out, since its own are the copies that a gateway keeps. It is found by its name,
//! which is made of the deed's key, whoever made it and did not hear so.

use serde::Deserialize;
use serde_json::{Value, json};

use super::actions::report;
use super::before;
use super::cloud::Cloud;
use super::deeds::{Pushed, Seen};
use super::servers::Server;
use super::twinspan::plugin::run;
use super::twinspan::plugin::types::{Context, Created, Error, ErrorCode, Report};
use super::{error, numbered};

/// The service's state of a server that is stopped.
const STOPPED: &str = "SHUTOFF";

#[derive(Deserialize)]
pub struct Which {
    pub server: String,
}

#[derive(Deserialize)]
pub struct WhichDisk {
    pub disk: String,
}

#[derive(Deserialize)]
pub struct Make {
    server: String,
    name: String,
    zone: String,
    #[serde(default)]
    flavour: String,
    /// Of the first interface.
    #[serde(default)]
    subnet: String,
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
pub struct Delete {
    pub server: String,
    /// `true` or `false`.
    #[serde(default)]
    pub public_ips: String,
}

#[derive(Deserialize)]
pub struct Disk {
    pub server: String,
    pub disk: String,
    #[serde(default)]
    pub device: String,
}

#[derive(Deserialize)]
pub struct Resize {
    pub server: String,
    pub flavour: String,
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Disks and the names of their devices, in the service's order.
fn disks(told: &Value) -> Vec<(&str, &str)> {
    let attached = told["os-extended-volumes:volumes_attached"].as_array();
    attached.into_iter().flatten().map(|of| (words(&of["id"]), words(&of["device"]))).collect()
}

/// Ports in the service's order: the first is that of the primary interface.
pub fn ports(told: &Value) -> Vec<String> {
    let addresses = told["addresses"].as_object().into_iter().flat_map(|of| of.values());
    let mut ports: Vec<String> = Vec::new();
    for address in addresses.filter_map(Value::as_array).flatten() {
        let port = words(&address["OS-EXT-IPS:port_id"]);
        if !port.is_empty() && ports.iter().all(|known| known != port) {
            ports.push(port.to_owned());
        }
    }
    ports
}

/// The same for a server's every attempt, and for no other deed.
pub fn name_by_key(name: &str, key: &str) -> String {
    // FNV-1a of 64 bits: short enough for a name, and nobody has to guess it.
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{name}-{hash:016x}")
}

// --- looked at ---

pub fn inspect(cloud: &Cloud, of: &Which) -> Result<Report, Error> {
    let told = cloud.server(&of.server)?;
    let server = Server::read(&told);
    let disks: Vec<String> = disks(&told).iter().map(|(id, at)| format!("{id}={at}")).collect();
    Ok(report(
        format!("server {} is {}", server.name, server.status),
        &[
            ("name", server.name),
            ("status", server.status),
            ("zone", server.zone),
            ("vpc", server.vpc),
            ("flavour", server.flavour),
            ("disks", disks.join(",")),
            ("ports", ports(&told).join(",")),
        ],
    ))
}

/// What may stand against a copy of a disk: whether it is frozen, and whether it is encrypted.
fn marks(told: &Value) -> (bool, bool) {
    let mark = |name: &str| words(&told["metadata"][name]);
    let is_encrypted = told["encrypted"] == true || mark("__system__encrypted") == "1";
    (mark("__system__frozen") == "true", is_encrypted)
}

/// A disk of which the cloud knows nothing has no marks: whoever keeps it says what is to be said.
pub fn inspect_disk(cloud: &Cloud, of: &WhichDisk) -> Result<Report, Error> {
    let Some(told) = cloud.disk(&of.disk)? else {
        return Ok(report(format!("the cloud knows no disk {}", of.disk), &[]));
    };
    let (frozen, encrypted) = marks(&told);
    let outputs = [("frozen", frozen.to_string()), ("encrypted", encrypted.to_string())];
    Ok(report(format!("disk {}: frozen {frozen}, encrypted {encrypted}", of.disk), &outputs))
}

pub fn list(cloud: &Cloud) -> Result<Report, Error> {
    let all = cloud.all_servers()?;
    Ok(report(format!("{} servers", all.len()), &[("servers", all.join(","))]))
}

// --- made ---

fn like(cloud: &Cloud, of: &Make, name: &str) -> Result<Value, Error> {
    let told = cloud.server(&of.server)?;
    let server = Server::read(&told);
    let missing = server.missing();
    if !missing.is_empty() {
        let why = format!("server {} is incomplete: {} missing", of.server, missing.join(", "));
        return Err(error(ErrorCode::WrongState, why));
    }
    if server.zone == of.zone {
        let why = format!("server {} is in zone {} itself", of.server, of.zone);
        return Err(error(ErrorCode::InvalidArgument, why));
    }
    let mut networks = Vec::new();
    for port in ports(&told) {
        let network = words(&cloud.port(&port)?["network_id"]).to_owned();
        let is_first = networks.is_empty();
        let given = |text: &str| is_first && !text.is_empty();
        let mut wanted =
            json!({ "uuid": if given(&of.subnet) { of.subnet.clone() } else { network } });
        if given(&of.ip) {
            wanted["fixed_ip"] = json!(of.ip);
        }
        networks.push(wanted);
    }
    let flavour = if of.flavour.is_empty() { &server.flavour } else { &of.flavour };
    Ok(json!({
        "name": name, "imageRef": server.image, "flavorRef": flavour,
        "availability_zone": of.zone, "networks": networks,
        "metadata": { "vpc_id": server.vpc, "stands_in_for": of.server },
    }))
}

pub fn make(
    cloud: &Cloud,
    (ctx, of): (&Context, &Make),
    pushed: &mut Pushed,
) -> Result<Seen, Error> {
    let name = name_by_key(&of.name, &ctx.idempotency_key);
    let Some(told) = cloud.server_named(&name)? else {
        let wanted = like(cloud, of, &name)?;
        if !ctx.dry_run {
            let id = cloud.make_server(&wanted)?;
            run::register(&Created { kind: "server".to_owned(), id, name: name.clone() })?;
        }
        return Ok(Seen::Not(format!("server {name} is made")));
    };
    let server = Server::read(&told);
    let made = Created { kind: "server".to_owned(), id: server.id.clone(), name: name.clone() };
    if !ctx.dry_run {
        // An earlier attempt may not have come so far.
        run::register(&made)?;
    }
    match server.status.as_str() {
        "ERROR" => {
            let why = format!("the cloud could not make server {name}");
            return Err(error(ErrorCode::WrongState, why));
        }
        STOPPED => {}
        "ACTIVE" => {
            pushed.push(cloud, "stop", || cloud.stop_server(&server.id))?;
            return Ok(Seen::Not(format!("server {name} is stopped")));
        }
        other => return Ok(Seen::Not(format!("server {name} is {other}"))),
    }
    let key = format!("{}/disks", ctx.idempotency_key);
    let inside = disks(&told);
    if let Some((own, _)) = inside.first() {
        let what = format!("take out disk {own}");
        if !ctx.dry_run {
            let all: Vec<&str> = inside.iter().map(|(id, _)| *id).collect();
            before::note(&key, &all.join(","))?;
            run::register(&own_disk(&name, own))?;
        }
        pushed.push(cloud, &what, || cloud.detach_disk(&server.id, own))?;
        return Ok(Seen::Not(what));
    }
    let mut created = vec![made];
    if !ctx.dry_run {
        let own = before::of(&key)?.unwrap_or_default();
        for own in own.split(',').filter(|own| !own.is_empty()) {
            if cloud.delete_disk(own)? {
                run::unregister("disk", own)?;
            } else {
                created.push(own_disk(&name, own));
            }
        }
    }
    let outputs =
        [("server", server.id), ("flavour", server.flavour), ("ports", ports(&told).join(","))];
    let summary = format!("server {name} stands by, stopped");
    Ok(Seen::Done(Report { created, ..report(summary, &outputs) }))
}

/// A disk that the cloud made with a server, and that nobody needs.
fn own_disk(server: &str, id: &str) -> Created {
    let name = format!("{server}, as it was made");
    Created { kind: "disk".to_owned(), id: id.to_owned(), name }
}

/// Takes back what was made, as far as it came.
pub fn unmake(
    cloud: &Cloud,
    (ctx, of): (&Context, &Make),
    pushed: &mut Pushed,
) -> Result<Seen, Error> {
    let name = name_by_key(&of.name, &ctx.idempotency_key);
    match cloud.server_named(&name)? {
        Some(told) => {
            let id = words(&told["id"]).to_owned();
            pushed.push(cloud, "delete", || cloud.delete_server(&id, false))?;
            Ok(Seen::Not(format!("server {name} is deleted")))
        }
        None => {
            before::forget(&format!("{}/disks", ctx.idempotency_key))?;
            Ok(Seen::Done(report(format!("server {name} is not there"), &[])))
        }
    }
}

pub fn delete(cloud: &Cloud, of: &Delete, pushed: &mut Pushed) -> Result<Seen, Error> {
    match cloud.server(&of.server) {
        Ok(_) => {
            let with = of.public_ips == "true";
            pushed.push(cloud, "delete", || cloud.delete_server(&of.server, with))?;
            Ok(Seen::Not(format!("server {} is deleted", of.server)))
        }
        Err(why) if why.code == ErrorCode::NotFound => {
            Ok(Seen::Done(report(format!("server {} is not there", of.server), &[])))
        }
        Err(why) => Err(why),
    }
}

// --- disks ---

pub fn attach(cloud: &Cloud, of: &Disk, pushed: &mut Pushed) -> Result<Seen, Error> {
    let told = cloud.server(&of.server)?;
    let Some((_, at)) = disks(&told).into_iter().find(|(id, _)| *id == of.disk) else {
        let what = format!("attach disk {}", of.disk);
        pushed.push(cloud, &what, || cloud.attach_disk(&of.server, &of.disk, &of.device))?;
        return Ok(Seen::Not(what));
    };
    if !of.device.is_empty() && at != of.device {
        let why = format!("disk {} is attached as {at}, not as {}", of.disk, of.device);
        return Err(error(ErrorCode::Conflict, why));
    }
    let summary = format!("disk {} is attached as {at}", of.disk);
    Ok(Seen::Done(report(summary, &[("device", at.to_owned())])))
}

pub fn detach(cloud: &Cloud, of: &Disk, pushed: &mut Pushed) -> Result<Seen, Error> {
    let told = match cloud.server(&of.server) {
        Ok(told) => told,
        Err(why) if why.code == ErrorCode::NotFound => {
            let summary = format!("server {} is not there, nor are its disks", of.server);
            return Ok(Seen::Done(report(summary, &[])));
        }
        Err(why) => return Err(why),
    };
    if disks(&told).iter().any(|(id, _)| *id == of.disk) {
        let what = format!("take out disk {}", of.disk);
        pushed.push(cloud, &what, || cloud.detach_disk(&of.server, &of.disk))?;
        return Ok(Seen::Not(what));
    }
    Ok(Seen::Done(report(format!("disk {} is not attached", of.disk), &[])))
}

// --- flavours ---

pub fn resize(
    cloud: &Cloud,
    (key, of): (&str, &Resize),
    pushed: &mut Pushed,
) -> Result<Seen, Error> {
    let server = Server::read(&cloud.server(&of.server)?);
    let is_so = server.flavour == of.flavour;
    if !is_so && server.status == "ACTIVE" {
        let why = format!("server {} runs: stop it before its flavour is changed", server.name);
        return Err(numbered(ErrorCode::WrongState, "SDRS.1341", why));
    }
    let from =
        if pushed.is_dry { server.flavour.clone() } else { before::note(key, &server.flavour)? };
    // While it is under way it is neither stopped nor what it will be.
    if is_so && server.status == STOPPED {
        let summary = format!("server {} has flavour {}", server.name, of.flavour);
        return Ok(Seen::Done(report(summary, &[("from_flavour", from)])));
    }
    if !is_so {
        pushed.push(cloud, "resize", || cloud.resize_server(&of.server, &of.flavour))?;
    }
    Ok(Seen::Not(format!("server {} becomes {}", server.name, of.flavour)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_37_a_server_is_named_by_the_deed_that_makes_it() {
        let one = name_by_key("web", "instance-1");
        assert_eq!(one, name_by_key("web", "instance-1"));
        assert_ne!(one, name_by_key("web", "instance-2"));
        assert_eq!(one.len(), "web-".len() + 16);
    }

    #[test]
    fn evs_53_a_disk_is_frozen_or_encrypted_as_the_service_marks_it() {
        assert_eq!(marks(&json!({ "id": "a" })), (false, false));
        assert_eq!(marks(&json!({ "encrypted": true })), (false, true));
        let metadata = json!({ "__system__frozen": "", "__system__encrypted": "0" });
        assert_eq!(marks(&json!({ "encrypted": false, "metadata": metadata })), (false, false));
        let metadata = json!({ "__system__frozen": "true", "__system__encrypted": "1" });
        assert_eq!(marks(&json!({ "metadata": metadata })), (true, true));
    }

    #[test]
    fn evs_39_disks_and_ports_are_read_in_the_services_order() {
        let told = json!({
            "os-extended-volumes:volumes_attached": [
                { "id": "b", "device": "/dev/vda" }, { "id": "a", "device": "/dev/vdb" },
            ],
            "addresses": { "net": [
                { "addr": "10.0.0.9", "OS-EXT-IPS:port_id": "z" },
                { "addr": "80.0.0.9", "OS-EXT-IPS:port_id": "z" },
                { "addr": "10.0.0.3", "OS-EXT-IPS:port_id": "c" },
            ] },
        });
        assert_eq!(disks(&told), [("b", "/dev/vda"), ("a", "/dev/vdb")]);
        assert_eq!(ports(&told), ["z", "c"]);
    }
}
