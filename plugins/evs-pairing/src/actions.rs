//! What steps of plans can call.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::exports::twinspan::plugin::actions::{Description, Guest, Standing};
use super::exports::twinspan::plugin::plugin::Action;
use super::servers::{self, Server};
use super::twinspan::plugin::run;
use super::twinspan::plugin::types::{Context, Created, Error, ErrorCode, Outcome, Report, Retry};
use super::{Pairing, config, error};

const ID: &str = r#"{ "type": "string", "minLength": 1 }"#;

fn action(name: &str, title: &str, fields: &[&str], is_reversible: bool) -> Action {
    let properties: Vec<String> = fields.iter().map(|field| format!("\"{field}\": {ID}")).collect();
    let required: Vec<String> = fields.iter().map(|field| format!("\"{field}\"")).collect();
    Action {
        name: name.to_owned(),
        title: title.to_owned(),
        params_schema: format!(
            r#"{{ "type": "object", "additionalProperties": false, "required": [{}],
                 "properties": {{ {} }} }}"#,
            required.join(", "),
            properties.join(", ")
        ),
        is_reversible,
        timeout_s: 60,
    }
}

pub fn all() -> Vec<Action> {
    vec![
        action("collect-server", "Collect what a server is made of", &["server"], false),
        action("move-public-ip", "Move a public address to a port", &["public_ip", "port"], true),
        action(
            "bind-virtual-ip",
            "Make a virtual address for two servers",
            &["network", "production_port", "recovery_port"],
            true,
        ),
        action(
            "check-recovery-server",
            "Compare the recovery server with the production server",
            &["server", "recovery_server"],
            false,
        ),
    ]
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

fn report(summary: String, outputs: &[(&str, String)]) -> Report {
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

fn move_address(cloud: &Cloud, of: &Move, dry_run: bool) -> Result<Report, Error> {
    let from = port_of(&cloud.public_ip(&of.public_ip)?);
    if from != of.port && !dry_run {
        if !from.is_empty() {
            // The service refuses to bind an address that is bound elsewhere.
            cloud.bind_public_ip(&of.public_ip, None)?;
        }
        cloud.bind_public_ip(&of.public_ip, Some(&of.port))?;
        let now = port_of(&cloud.public_ip(&of.public_ip)?);
        if now != of.port {
            let why = format!("address {} is at port {now:?} all the same", of.public_ip);
            let retry = Retry::AfterMs(1_000);
            return Err(Error { retry, ..error(ErrorCode::WrongState, why) });
        }
    }
    let summary = format!("address {} from port {from:?} to {}", of.public_ip, of.port);
    Ok(report(summary, &[("from_port", from)]))
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

fn unbind(cloud: &Cloud, of: &Bind, done: &Report) -> Result<Report, Error> {
    let mut removed = Vec::new();
    for made in done.created.iter().filter(|made| made.kind == "virtual-ip") {
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

fn done(report: Report) -> Outcome {
    Outcome::Done(report)
}

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
            other => return Err(unknown(other)),
        };
        Ok(Description { summary, warnings })
    }

    fn check(_: Context, name: String, params: String) -> Result<Standing, Error> {
        let cloud = cloud()?;
        match name.as_str() {
            "move-public-ip" => {
                let of: Move = read(&params)?;
                let now = port_of(&cloud.public_ip(&of.public_ip)?);
                if now == of.port {
                    let summary = format!("address {} is there already", of.public_ip);
                    // What it was bound to before is not known any more: there is no way back.
                    return Ok(Standing::Done(report(summary, &[("from_port", now)])));
                }
                Ok(Standing::Ready)
            }
            "check-recovery-server" => match compare(&cloud, &read(&params)?) {
                Ok(_) => Ok(Standing::Ready),
                Err(why) if why.code == ErrorCode::WrongState => Ok(Standing::Blocked(why.message)),
                Err(why) => Err(why),
            },
            "collect-server" | "bind-virtual-ip" => Ok(Standing::Ready),
            other => Err(unknown(other)),
        }
    }

    fn run(ctx: Context, name: String, params: String) -> Result<Outcome, Error> {
        let cloud = cloud()?;
        match name.as_str() {
            "collect-server" => collect(&cloud, &read(&params)?, ctx.dry_run).map(done),
            "move-public-ip" => move_address(&cloud, &read(&params)?, ctx.dry_run).map(done),
            "bind-virtual-ip" => bind(&cloud, &ctx, &read(&params)?).map(done),
            "check-recovery-server" => compare(&cloud, &read(&params)?).map(done),
            other => Err(unknown(other)),
        }
    }

    fn resume(
        _: Context,
        name: String,
        _: String,
        _token: String,
        _answer: Option<String>,
    ) -> Result<Outcome, Error> {
        // Nothing here is ever pending.
        Err(error(ErrorCode::InvalidArgument, format!("{name} is not resumed")))
    }

    fn undo(_: Context, name: String, params: String, report: Report) -> Result<Outcome, Error> {
        let cloud = cloud()?;
        match name.as_str() {
            "move-public-ip" => {
                let of: Move = read(&params)?;
                let before = report.outputs.iter().find(|(name, _)| name == "from_port");
                let Some((_, before)) = before else {
                    return Ok(Outcome::Skipped("the address was not moved".to_owned()));
                };
                let back = Move { port: before.clone(), public_ip: of.public_ip.clone() };
                if back.port.is_empty() {
                    cloud.bind_public_ip(&of.public_ip, None)?;
                    let summary = format!("address {} is bound to nothing again", of.public_ip);
                    return Ok(done(self::report(summary, &[])));
                }
                move_address(&cloud, &back, false).map(done)
            }
            "bind-virtual-ip" => unbind(&cloud, &read(&params)?, &report).map(done),
            other => Ok(Outcome::Skipped(format!("{other} changed nothing"))),
        }
    }
}
