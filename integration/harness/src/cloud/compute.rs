//! The compute service: servers, their disks, interfaces and flavours, and the jobs that change them.
//!
//! Invariant: a change of a server is begun by its call and there only when its job was asked about twice,
//! as with a service that takes its time; a job that was spoilt says what the test asked for, and changes
//! nothing.

use serde_json::{Value, json};

use super::{State, found};

/// A job is done when it was asked about this often.
const LOOKS: u32 = 2;

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// It fails, with a reason.
    Fail,
    /// It ends well and has done nothing.
    Lie,
}

/// What a call begins.
#[derive(Clone, Debug)]
enum Change {
    Stop(String),
    Delete(String),
    Resize(String, String),
    Attach(String, String, String),
    Detach(String, String),
}

/// Something that was begun.
#[derive(Debug)]
pub(super) struct Job {
    change: Change,
    looks: u32,
    spoil: Option<Spoil>,
}

fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn refuse(status: u16, why: &str) -> (u16, Value) {
    (status, json!({ "error": why }))
}

impl State {
    pub(super) fn spoil_next(&mut self, spoil: Spoil) {
        self.spoils.push_back(spoil);
    }

    pub(super) fn compute(
        &mut self,
        method: &str,
        (kind, id): (&str, &str),
        (more, name): (Vec<&str>, &str),
        body: &Value,
    ) -> (u16, Value) {
        match (method, kind, id, more.as_slice()) {
            ("GET", "cloudservers", "detail", []) => {
                let ids: Vec<String> = self.servers.keys().cloned().collect();
                let all = ids.iter().filter_map(|id| self.told(id));
                let named = all.filter(|told| words(&told["name"]).starts_with(name));
                (200, json!({ "servers": named.collect::<Vec<_>>() }))
            }
            ("GET", "cloudservers", id, []) => found("server", self.told(id).as_ref()),
            ("POST", "servers", "", []) => self.make_server(&body["server"]),
            ("POST", "cloudservers", "action", []) => self.act(body),
            ("POST", "cloudservers", "delete", []) => {
                let id = words(&body["servers"][0]["id"]);
                self.begin(Change::Delete(id))
            }
            ("POST", "cloudservers", id, ["resize"]) => {
                let flavour = words(&body["resize"]["flavorRef"]);
                if !self.is_stopped(id) {
                    return refuse(409, "the server is not stopped");
                }
                self.begin(Change::Resize(id.to_owned(), flavour))
            }
            ("POST", "cloudservers", id, ["attachvolume"]) => {
                let wanted = &body["volumeAttachment"];
                let (disk, device) = (words(&wanted["volumeId"]), words(&wanted["device"]));
                self.begin(Change::Attach(id.to_owned(), disk, device))
            }
            ("DELETE", "cloudservers", id, ["detachvolume", disk]) => {
                let is_root = self.device_of(id, disk).is_some_and(|at| at == "/dev/vda");
                if is_root && !self.is_stopped(id) {
                    return refuse(409, "the system disk of a server that runs");
                }
                self.begin(Change::Detach(id.to_owned(), (*disk).to_owned()))
            }
            ("GET", "jobs", id, []) => self.look(id),
            ("POST", "servers", id, ["os-interface"]) => {
                self.give_port(id, &words(&body["interfaceAttachment"]["port_id"]))
            }
            ("DELETE", "servers", id, ["os-interface", port]) => self.take_port(id, port),
            ("GET", "cloudvolumes", disk, []) => found("volume", self.marked.get(disk)),
            ("DELETE", "cloudvolumes", disk, []) => match self.disks.remove(disk) {
                true => (200, json!({ "job_id": "volume" })),
                false => refuse(404, "no such disk"),
            },
            _ => refuse(404, &format!("no call {method} {kind}/{id} {more:?}")),
        }
    }

    /// A server with its interfaces as they are now.
    pub(super) fn told(&self, id: &str) -> Option<Value> {
        let mut told = self.servers.get(id)?.clone();
        let its = self.ports.values().filter(|port| port["device_id"] == id);
        let address = |port: &Value| {
            json!({
                "addr": port["fixed_ips"][0]["ip_address"], "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS:port_id": port["id"], "OS-EXT-IPS-MAC:mac_addr": port["mac_address"],
            })
        };
        let addresses: Vec<Value> = its.map(address).collect();
        // Servers of tests that are about no interfaces say theirs themselves.
        if !addresses.is_empty() || told["addresses"].is_null() {
            told["addresses"] = json!({ "net": addresses });
        }
        Some(told)
    }

    fn is_stopped(&self, id: &str) -> bool {
        self.servers.get(id).is_some_and(|server| server["status"] == "SHUTOFF")
    }

    fn device_of(&self, id: &str, disk: &str) -> Option<String> {
        let attached = &self.servers.get(id)?["os-extended-volumes:volumes_attached"];
        let found = attached.as_array()?.iter().find(|of| of["id"] == disk)?;
        Some(words(&found["device"]))
    }

    fn make_server(&mut self, wanted: &Value) -> (u16, Value) {
        self.made += 1;
        let (id, disk) = (format!("server-{}", self.made), format!("own-disk-{}", self.made));
        for network in wanted["networks"].as_array().cloned().unwrap_or_default() {
            let mut port = json!({ "network_id": network["uuid"], "device_id": id });
            if !network["fixed_ip"].is_null() {
                port["fixed_ips"] = json!([{ "ip_address": network["fixed_ip"] }]);
            }
            self.make_port(&port);
        }
        let server = json!({
            "id": id, "name": wanted["name"], "status": "ACTIVE",
            "OS-EXT-AZ:availability_zone": wanted["availability_zone"],
            "metadata": wanted["metadata"], "image": { "id": wanted["imageRef"] },
            "flavor": { "id": wanted["flavorRef"], "vcpus": "2", "ram": "4096" },
            "os-extended-volumes:volumes_attached": [{ "id": disk, "device": "/dev/vda" }],
        });
        self.disks.insert(disk);
        self.servers.insert(id.clone(), server);
        (202, json!({ "server": { "id": id } }))
    }

    fn act(&mut self, body: &Value) -> (u16, Value) {
        match body["os-stop"]["servers"][0]["id"].as_str() {
            Some(id) => self.begin(Change::Stop(id.to_owned())),
            None => refuse(400, "only os-stop is known"),
        }
    }

    fn begin(&mut self, change: Change) -> (u16, Value) {
        let (Change::Stop(server)
        | Change::Delete(server)
        | Change::Resize(server, _)
        | Change::Attach(server, ..)
        | Change::Detach(server, _)) = &change;
        if !self.servers.contains_key(server) {
            return refuse(404, "no such server");
        }
        self.made += 1;
        let id = format!("job-{}", self.made);
        let spoil = self.spoils.pop_front();
        self.jobs.insert(id.clone(), Job { change, looks: 0, spoil });
        (200, json!({ "job_id": id }))
    }

    fn look(&mut self, id: &str) -> (u16, Value) {
        let Some(job) = self.jobs.get_mut(id) else { return refuse(404, "no such job") };
        job.looks += 1;
        if job.looks < LOOKS {
            return (200, json!({ "job_id": id, "status": "RUNNING" }));
        }
        let (change, spoil, is_first) = (job.change.clone(), job.spoil, job.looks == LOOKS);
        match spoil {
            Some(Spoil::Fail) => {
                let told = json!({
                    "job_id": id, "status": "FAIL", "error_code": "Ecs.0013",
                    "fail_reason": "as the test asked",
                });
                return (200, told);
            }
            Some(Spoil::Lie) => {}
            None if is_first => self.change(change),
            None => {}
        }
        (200, json!({ "job_id": id, "status": "SUCCESS" }))
    }

    fn change(&mut self, change: Change) {
        let key = "os-extended-volumes:volumes_attached";
        let mut set = |id: &str, field: &str, value: Value| {
            if let Some(server) = self.servers.get_mut(id) {
                server[field] = value;
            }
        };
        match change {
            Change::Stop(id) => set(&id, "status", json!("SHUTOFF")),
            Change::Resize(id, flavour) => {
                let flavour = json!({ "id": flavour, "vcpus": "4", "ram": "8192" });
                set(&id, "flavor", flavour);
            }
            Change::Delete(id) => {
                self.servers.remove(&id);
                self.ports.retain(|_, port| port["device_id"] != id.as_str());
            }
            Change::Attach(id, disk, device) => {
                if let Some(server) = self.servers.get_mut(&id)
                    && let Some(all) = server[key].as_array_mut()
                {
                    let letter = b'a' + u8::try_from(all.len()).unwrap_or(25).min(25);
                    let next = format!("/dev/vd{}", char::from(letter));
                    let device = if device.is_empty() { next } else { device };
                    all.push(json!({ "id": disk, "device": device }));
                }
            }
            Change::Detach(id, disk) => {
                if let Some(server) = self.servers.get_mut(&id)
                    && let Some(all) = server[key].as_array_mut()
                {
                    all.retain(|of| of["id"] != disk.as_str());
                }
            }
        }
    }

    /// A port is at one server only.
    fn give_port(&mut self, server: &str, port: &str) -> (u16, Value) {
        if !self.servers.contains_key(server) {
            return refuse(404, "no such server");
        }
        let Some(port) = self.ports.get_mut(port) else { return refuse(404, "no such port") };
        let now = words(&port["device_id"]);
        if !now.is_empty() {
            return refuse(409, &format!("the port is of {now}"));
        }
        port["device_id"] = json!(server);
        (200, json!({ "interfaceAttachment": { "port_id": port["id"] } }))
    }

    fn take_port(&mut self, server: &str, port: &str) -> (u16, Value) {
        match self.ports.get_mut(port) {
            Some(port) if port["device_id"] == server => {
                port["device_id"] = json!("");
                (202, Value::Null)
            }
            _ => refuse(404, "the server has no such port"),
        }
    }
}
