//! What steps of plans can call, and a gateway that protects servers.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::deeds::{Pushed, Seen};
use super::exports::twinspan::plugin::actions::{Description, Guest, Standing};
use super::exports::twinspan::plugin::plugin::Action;
use super::servers::{self, Server};
use super::twinspan::plugin::run;
use super::twinspan::plugin::types::{Context, Created, Error, ErrorCode, Outcome, Report};
use super::{Pairing, again, before, config, error, instances, interfaces};

const ID: &str = r#"{ "type": "string", "minLength": 1 }"#;
const TEXT: &str = r#"{ "type": "string" }"#;

/// What is known of an action beforehand.
struct Known {
    name: &'static str,
    title: &'static str,
    fields: &'static [&'static str],
    /// May be left out.
    more: &'static [&'static str],
    is_reversible: bool,
}

const fn known(
    name: &'static str,
    title: &'static str,
    fields: &'static [&'static str],
    more: &'static [&'static str],
) -> Known {
    Known { name, title, fields, more, is_reversible: true }
}

/// The same, of which there is nothing to take back.
const fn only(
    name: &'static str,
    title: &'static str,
    fields: &'static [&'static str],
    more: &'static [&'static str],
) -> Known {
    Known { is_reversible: false, ..known(name, title, fields, more) }
}

const ALL: &[Known] = &[
    only("collect-server", "Collect what a server is made of", &["server"], &[]),
    known("move-public-ip", "Move a public address to a port", &["public_ip", "port"], &[]),
    known(
        "bind-virtual-ip",
        "Make a virtual address for two servers",
        &["network", "production_port", "recovery_port"],
        &[],
    ),
    only(
        "check-recovery-server",
        "Compare the recovery server with the production server",
        &["server", "recovery_server"],
        &[],
    ),
    only("inspect-server", "Look at a server", &["server"], &[]),
    only("inspect-disk", "Look at a disk", &["disk"], &[]),
    only("list-servers", "Look which servers there are", &[], &[]),
    known(
        "make-server",
        "Make a server that stands in for another, stopped",
        &["server", "name", "zone"],
        &["flavour", "subnet", "ip"],
    ),
    only("delete-server", "Delete a server", &["server"], &["public_ips"]),
    known("attach-disk", "Attach a disk to a server", &["server", "disk"], &["device"]),
    known("detach-disk", "Take a disk out of a server", &["server", "disk"], &["device"]),
    known(
        "add-interface",
        "Give a server another interface",
        &["server", "subnet"],
        &["ip", "security_groups"],
    ),
    only("remove-interface", "Delete an interface of a server", &["server", "port"], &[]),
    known("resize-server", "Change the flavour of a stopped server", &["server", "flavour"], &[]),
    known(
        "place-interfaces",
        "Give the interfaces that work to the server that works",
        &["active", "active_ports", "standby"],
        &["standby_ports", "parks"],
    ),
];

fn action(known: &Known) -> Action {
    let property = |ty: &'static str| move |field: &&str| format!("\"{field}\": {ty}");
    let properties: Vec<String> = (known.fields.iter().map(property(ID)))
        .chain(known.more.iter().map(property(TEXT)))
        .collect();
    let required: Vec<String> = known.fields.iter().map(|field| format!("\"{field}\"")).collect();
    Action {
        name: known.name.to_owned(),
        title: known.title.to_owned(),
        params_schema: format!(
            r#"{{ "type": "object", "additionalProperties": false, "required": [{}],
                 "properties": {{ {} }} }}"#,
            required.join(", "),
            properties.join(", ")
        ),
        is_reversible: known.is_reversible,
        timeout_s: 60,
    }
}

pub fn all() -> Vec<Action> {
    ALL.iter().map(action).collect()
}

#[derive(Deserialize)]
struct Collect {
    server: String,
}

#[derive(Deserialize)]
struct Move {
    public_ip: String,
    port: String,
}

#[derive(Deserialize)]
struct Bind {
    network: String,
    production_port: String,
    recovery_port: String,
}

#[derive(Deserialize)]
struct Compare {
    server: String,
    recovery_server: String,
}

fn read<T: DeserializeOwned>(params: &str) -> Result<T, Error> {
    serde_json::from_str(params).map_err(|why| error(ErrorCode::InvalidArgument, why.to_string()))
}

pub fn report(summary: String, outputs: &[(&str, String)]) -> Report {
    let outputs = outputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Report { summary, created: vec![], removed: vec![], outputs: outputs.collect() }
}

fn cloud() -> Result<Cloud, Error> {
    Ok(Cloud::of(&config()?))
}

fn unknown(name: &str) -> Error {
    error(ErrorCode::Unsupported, format!("there is no action {name}"))
}

// --- collect ---

fn collect(cloud: &Cloud, of: &Collect, dry_run: bool) -> Result<Report, Error> {
    let server = Server::read(&cloud.server(&of.server)?);
    let missing = server.missing();
    if !missing.is_empty() {
        let why = format!("server {} is incomplete: {} missing", of.server, missing.join(", "));
        return Err(error(ErrorCode::WrongState, why));
    }
    let version = if dry_run { 0 } else { servers::keep(&server)? };
    let macs: Vec<&str> = server.nics.iter().map(|nic| nic.mac.as_str()).collect();
    let ports: Vec<&str> = server.nics.iter().map(|nic| nic.port.as_str()).collect();
    Ok(report(
        format!("server {} as version {version}", server.name),
        &[
            ("version", version.to_string()),
            ("disks", server.disks.join(",")),
            ("ports", ports.join(",")),
            ("macs", macs.join(",")),
        ],
    ))
}

// --- move a public address ---

fn port_of(address: &Value) -> String {
    address["port_id"].as_str().unwrap_or_default().to_owned()
}

fn move_address(cloud: &Cloud, (key, of): (&str, &Move), dry_run: bool) -> Result<Report, Error> {
    let now = port_of(&cloud.public_ip(&of.public_ip)?);
    // Noted before it is unbound: an attempt that fails after that leaves nothing else to say where it was.
    let from = if dry_run { now.clone() } else { before::note(key, &now)? };
    if now != of.port && !dry_run {
        if !now.is_empty() {
            // The service refuses to bind an address that is bound elsewhere.
            cloud.bind_public_ip(&of.public_ip, None)?;
        }
        if !of.port.is_empty() {
            cloud.bind_public_ip(&of.public_ip, Some(&of.port))?;
        }
        let now = port_of(&cloud.public_ip(&of.public_ip)?);
        if now != of.port {
            let why = format!("address {} is at port {now:?} all the same", of.public_ip);
            return Err(again(ErrorCode::WrongState, why, 1_000));
        }
    }
    let summary = format!("address {} from port {from:?} to {:?}", of.public_ip, of.port);
    Ok(report(summary, &[("from_port", from)]))
}

/// Binds an address where it was before the deed, whether that came to its end or not.
fn move_back(cloud: &Cloud, key: &str, of: &Move, done: &Report) -> Result<Outcome, Error> {
    let told = done.outputs.iter().find(|(name, _)| name == "from_port");
    let noted = before::of(key)?;
    let Some(port) = told.map(|(_, port)| port.clone()).or(noted) else {
        return Ok(Outcome::Skipped("the address was not moved".to_owned()));
    };
    let back = Move { port, public_ip: of.public_ip.clone() };
    let moved = move_address(cloud, (&format!("{key}/back"), &back), false)?;
    before::forget(&format!("{key}/back"))?;
    before::forget(key)?;
    Ok(done_with(moved))
}

// --- a virtual address ---

fn virtual_name(ctx: &Context) -> String {
    format!("vip-{}", ctx.idempotency_key.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

fn address_of(port: &Value) -> Result<String, Error> {
    let address = port["fixed_ips"][0]["ip_address"].as_str();
    address
        .map(str::to_owned)
        .ok_or_else(|| error(ErrorCode::WrongState, format!("port {} has no address", port["id"])))
}

/// Lets a port carry an address, or no more.
fn allow(cloud: &Cloud, port: &str, address: &str, carries: bool) -> Result<(), Error> {
    let now = cloud.port(port)?;
    let pairs = now["allowed_address_pairs"].as_array().cloned().unwrap_or_default();
    let is_it = |pair: &&Value| pair["ip_address"] == address;
    if pairs.iter().any(|pair| is_it(&pair)) == carries {
        return Ok(());
    }
    let mut next: Vec<Value> = pairs.iter().filter(|pair| !is_it(pair)).cloned().collect();
    if carries {
        next.push(json!({ "ip_address": address }));
    }
    cloud.change_port(port, &json!({ "allowed_address_pairs": next }))
}

fn bind(cloud: &Cloud, ctx: &Context, of: &Bind) -> Result<Report, Error> {
    let name = virtual_name(ctx);
    if ctx.dry_run {
        return Ok(report(format!("a virtual address {name} of {}", of.network), &[]));
    }
    // An earlier attempt may have made it without hearing so.
    let port = match cloud.port_named(&name)? {
        Some(port) => port,
        None => cloud.make_port(&json!({
            "network_id": of.network, "name": name, "device_owner": "neutron:VIP_PORT",
        }))?,
    };
    let id = port["id"].as_str().unwrap_or_default().to_owned();
    let made = Created { kind: "virtual-ip".to_owned(), id: id.clone(), name };
    run::register(&made)?;
    let address = address_of(&port)?;
    for port in [&of.production_port, &of.recovery_port] {
        allow(cloud, port, &address, true)?;
    }
    let summary = format!("virtual address {address} for both servers");
    let outputs = [("virtual_ip", address), ("virtual_port", id)];
    Ok(Report { created: vec![made], ..report(summary, &outputs) })
}

fn unbind(cloud: &Cloud, ctx: &Context, of: &Bind, done: &Report) -> Result<Report, Error> {
    let told = done.created.iter().filter(|made| made.kind == "virtual-ip");
    let mut all: Vec<Created> = told.cloned().collect();
    if all.is_empty() {
        // An attempt that made it and did not hear so registered nothing: its name tells it.
        let name = virtual_name(ctx);
        if let Some(port) = cloud.port_named(&name)? {
            let id = port["id"].as_str().unwrap_or_default().to_owned();
            all.push(Created { kind: "virtual-ip".to_owned(), id, name });
        }
    }
    let mut removed = Vec::new();
    for made in &all {
        match cloud.port(&made.id) {
            Ok(port) => {
                let address = address_of(&port)?;
                for port in [&of.production_port, &of.recovery_port] {
                    allow(cloud, port, &address, false)?;
                }
                cloud.delete_port(&made.id)?;
            }
            Err(why) if why.code == ErrorCode::NotFound => {}
            Err(why) => return Err(why),
        }
        removed.push(made.clone());
    }
    Ok(Report { removed, ..report("the virtual address is gone".to_owned(), &[]) })
}

// --- compare ---

fn compare(cloud: &Cloud, of: &Compare) -> Result<Report, Error> {
    let production = Server::read(&cloud.server(&of.server)?);
    let recovery = Server::read(&cloud.server(&of.recovery_server)?);
    let differences = production.differences(&recovery);
    if differences.is_empty() {
        return Ok(report(format!("{} can stand in for {}", recovery.name, production.name), &[]));
    }
    let why = format!("{} cannot stand in: {}", recovery.name, differences.join("; "));
    Err(error(ErrorCode::WrongState, why))
}

fn done_with(report: Report) -> Outcome {
    Outcome::Done(report)
}

/// What takes the cloud longer than a call may: a look, and a push for what is not so.
fn look((ctx, name, params): (&Context, &str, &str), mut pushed: Pushed) -> Result<Outcome, Error> {
    let cloud = &cloud()?;
    let key = ctx.idempotency_key.as_str();
    let is_reversible = ALL.iter().any(|known| known.name == name && known.is_reversible);
    pushed.is_dry = ctx.dry_run;
    pushed.key = (is_reversible && !ctx.is_undo).then(|| key.to_owned());
    let to = &mut pushed;
    let seen = match (name, ctx.is_undo) {
        ("make-server", false) => instances::make(cloud, (ctx, &read(params)?), to)?,
        ("make-server", true) => instances::unmake(cloud, (ctx, &read(params)?), to)?,
        ("delete-server", _) => instances::delete(cloud, &read(params)?, to)?,
        ("attach-disk", false) | ("detach-disk", true) => {
            instances::attach(cloud, &read(params)?, to)?
        }
        ("attach-disk", true) | ("detach-disk", false) => {
            instances::detach(cloud, &read(params)?, to)?
        }
        ("add-interface", false) => interfaces::add(cloud, (ctx, &read(params)?), to)?,
        ("add-interface", true) => interfaces::unadd(cloud, (ctx, &read(params)?), to)?,
        ("remove-interface", _) => interfaces::remove(cloud, &read(params)?, to)?,
        ("resize-server", false) => instances::resize(cloud, (key, &read(params)?), to)?,
        ("resize-server", true) => {
            let Some(flavour) = before::of(key)? else {
                return Ok(Outcome::Skipped("the flavour was not changed".to_owned()));
            };
            let of = instances::Resize { flavour, ..read(params)? };
            instances::resize(cloud, (&format!("{key}/back"), &of), to)?
        }
        ("place-interfaces", false) => interfaces::place(cloud, &read(params)?, to)?,
        ("place-interfaces", true) => {
            interfaces::place(cloud, &interfaces::back(read(params)?), to)?
        }
        (other, _) => return Err(unknown(other)),
    };
    if ctx.is_undo && matches!(seen, Seen::Done(_)) {
        before::forget(key)?;
        before::forget(&format!("{key}/back"))?;
    }
    pushed.outcome(seen)
}

/// Whether what an action would do is so already, so that there is nothing to take back either.
fn is_so(name: &str, params: &str) -> Result<Option<Report>, Error> {
    let cloud = &cloud()?;
    let mut only_look = Pushed::default();
    only_look.is_dry = true;
    let seen = match name {
        "attach-disk" => instances::attach(cloud, &read(params)?, &mut only_look)?,
        "detach-disk" => instances::detach(cloud, &read(params)?, &mut only_look)?,
        "resize-server" => instances::resize(cloud, ("", &read(params)?), &mut only_look)?,
        "place-interfaces" => interfaces::place(cloud, &read(params)?, &mut only_look)?,
        _ => return Ok(None),
    };
    Ok(match seen {
        Seen::Done(report) => Some(report),
        Seen::Not(_) => None,
    })
}

/// Said of a report of something that was so before.
const WAS_SO: &str = "was_so";

impl Guest for Pairing {
    fn describe(name: String, params: String) -> Result<Description, Error> {
        let params: Value = read(&params)?;
        let of = |key: &str| params[key].as_str().unwrap_or("?").to_owned();
        let (summary, warnings) = match name.as_str() {
            "collect-server" => (format!("collect server {}", of("server")), vec![]),
            "move-public-ip" => (
                format!("move address {} to port {}", of("public_ip"), of("port")),
                vec!["connections over the address are cut".to_owned()],
            ),
            "bind-virtual-ip" => (
                format!("make a virtual address in network {} for both servers", of("network")),
                vec!["each server has to be told of it as a static alias".to_owned()],
            ),
            "check-recovery-server" => {
                (format!("compare {} with {}", of("recovery_server"), of("server")), vec![])
            }
            other => {
                let known = ALL.iter().find(|known| known.name == other);
                let title = known.ok_or_else(|| unknown(other))?.title;
                let fields = params.as_object().into_iter().flatten();
                let told: Vec<String> = fields.map(|(name, of)| format!("{name} {of}")).collect();
                let warnings = match other {
                    "delete-server" | "remove-interface" => {
                        vec!["it does not come back".to_owned()]
                    }
                    "place-interfaces" => vec!["connections to both servers are cut".to_owned()],
                    _ => vec![],
                };
                (format!("{title}: {}", told.join(", ")), warnings)
            }
        };
        Ok(Description { summary, warnings })
    }

    fn check(ctx: Context, name: String, params: String) -> Result<Standing, Error> {
        let cloud = cloud()?;
        match name.as_str() {
            "move-public-ip" => {
                let of: Move = read(&params)?;
                let now = port_of(&cloud.public_ip(&of.public_ip)?);
                if now == of.port {
                    let summary = format!("address {} is there already", of.public_ip);
                    // An earlier attempt may have moved it. If none did, there is nothing to take back.
                    let from = before::of(&ctx.idempotency_key)?.unwrap_or(now);
                    return Ok(Standing::Done(report(summary, &[("from_port", from)])));
                }
                Ok(Standing::Ready)
            }
            "check-recovery-server" => match compare(&cloud, &read(&params)?) {
                Ok(_) => Ok(Standing::Ready),
                Err(why) if why.code == ErrorCode::WrongState => Ok(Standing::Blocked(why.message)),
                Err(why) => Err(why),
            },
            other if ALL.iter().any(|known| known.name == other) => {
                let Some(mut report) = is_so(other, &params)? else { return Ok(Standing::Ready) };
                // Unless an earlier attempt pushed.
                if before::of(&ctx.idempotency_key)?.is_none() {
                    report.outputs.push((WAS_SO.to_owned(), "true".to_owned()));
                }
                Ok(Standing::Done(report))
            }
            other => Err(unknown(other)),
        }
    }

    fn run(ctx: Context, name: String, params: String) -> Result<Outcome, Error> {
        let cloud = cloud()?;
        match name.as_str() {
            "collect-server" => collect(&cloud, &read(&params)?, ctx.dry_run).map(done_with),
            "move-public-ip" => {
                let of = read(&params)?;
                move_address(&cloud, (&ctx.idempotency_key, &of), ctx.dry_run).map(done_with)
            }
            "bind-virtual-ip" => bind(&cloud, &ctx, &read(&params)?).map(done_with),
            "check-recovery-server" => compare(&cloud, &read(&params)?).map(done_with),
            "inspect-server" => instances::inspect(&cloud, &read(&params)?).map(done_with),
            "inspect-disk" => instances::inspect_disk(&cloud, &read(&params)?).map(done_with),
            "list-servers" => instances::list(&cloud).map(done_with),
            other => look((&ctx, other, &params), Pushed::default()),
        }
    }

    fn resume(
        ctx: Context,
        name: String,
        params: String,
        token: String,
        _answer: Option<String>,
    ) -> Result<Outcome, Error> {
        look((&ctx, &name, &params), Pushed::read(&token)?)
    }

    fn undo(ctx: Context, name: String, params: String, report: Report) -> Result<Outcome, Error> {
        if report.outputs.iter().any(|(name, _)| name == WAS_SO) {
            return Ok(Outcome::Skipped("it was so before".to_owned()));
        }
        match name.as_str() {
            "move-public-ip" => {
                move_back(&cloud()?, &ctx.idempotency_key, &read(&params)?, &report)
            }
            "bind-virtual-ip" => unbind(&cloud()?, &ctx, &read(&params)?, &report).map(done_with),
            other if ALL.iter().any(|known| known.name == other && known.is_reversible) => {
                look((&Context { is_undo: true, ..ctx }, other, &params), Pushed::default())
            }
            other => Ok(Outcome::Skipped(format!("{other} changed nothing that comes back"))),
        }
    }
}
