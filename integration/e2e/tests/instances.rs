//! Protected servers by the disaster recovery service's own calls, between two real gateways and a cloud
//! that speaks HTTP: made, changed, moved with their sites, lost, and brought up where a site is gone.
//!
//! Invariant: what became of servers, disks and interfaces is read from the cloud, and what became of data
//! from the disks.

use anyhow::{Context, Result, ensure};
use harness::{Cloud, Fault, Site, Spoil, wait_for};
use serde_json::{Value, json};

use crate::evs::{call, disk, get, holds, refused, taken, write};
use crate::evs_cloud::{Shop, TOKEN, configure, empty_group, ended, succeeded};
use crate::pair::{Pair, SOON, SYNC_LIMIT, set, text};
use crate::plugins::install;

const INSTANCES: &str = "/v1/0/protected-instances";
const PAIRS: &str = "/v2/0/os-vendor-replications";

/// Both gateways have the plugin and may speak to this cloud.
fn equip(pair: &mut Pair, cloud: &Cloud) -> Result<()> {
    let secret = pair.dir.path().join("token");
    std::fs::write(&secret, TOKEN).context("write the token")?;
    let line = format!("secrets = [\"cloud-token={}\"]", secret.display());
    for site in [&mut pair.primary, &mut pair.mirror] {
        set(site, "plugins", &line)?;
        site.kill()?;
        site.start()?;
        install(site, "evs-pairing")?;
        let config = json!({
            "compute": cloud.url(), "network": cloud.url(),
            "volumes": cloud.url().replace("/v1/", "/v2/"),
        });
        configure(site, pair.dir.path(), &config)?;
        site.cli(&["plugin", "grant", "evs-pairing", "--all"])?;
        let host = cloud.url().replace("http://", "http:").replace("/v1/p", "");
        site.cli(&["plugin", "grant", "evs-pairing", &host])?;
    }
    Ok(())
}

/// Two sites with a cloud, a server with two disks and two interfaces, and a group without pairs.
struct Lab {
    pair: Pair,
    cloud: Cloud,
    group: String,
    /// The server's disks.
    disks: [String; 2],
    /// Its ports.
    ports: Vec<String>,
}

fn put_web(cloud: &Cloud, disks: &[&str]) {
    let attached = disks.iter().zip(["/dev/vda", "/dev/vdb"]);
    let attached: Vec<Value> =
        attached.map(|(id, device)| json!({ "id": id, "device": device })).collect();
    cloud.put_server(
        "web",
        json!({
            "id": "web", "name": "web", "status": "SHUTOFF", "OS-EXT-AZ:availability_zone": "east",
            "metadata": { "vpc_id": "vpc-1" }, "image": { "id": "debian" },
            "flavor": { "id": "s2.large", "vcpus": "2", "ram": "4096" },
            "os-extended-volumes:volumes_attached": attached,
        }),
    );
}

impl Lab {
    fn new() -> Result<Self> {
        let mut pair = Pair::joined()?;
        let cloud = Cloud::start(TOKEN)?;
        equip(&mut pair, &cloud)?;
        let disks = [disk(&pair.primary, "system", 16)?, disk(&pair.primary, "data", 16)?];
        put_web(&cloud, &[&disks[0], &disks[1]]);
        let ports = vec![cloud.put_interface("web", "net-1"), cloud.put_interface("web", "net-2")];
        let group = empty_group(&pair.primary)?;
        write(&pair, &pair.primary, "data", 1)?;
        Ok(Self { pair, cloud, group, disks, ports })
    }

    fn shop(&self) -> Shop<'_> {
        Shop { site: &self.pair.primary, id: self.group.clone() }
    }

    fn wanted(&self, server: &str) -> Value {
        json!({"protected_instance": {
            "server_group_id": self.group, "server_id": server, "name": "web",
            "tags": [{ "key": "role", "value": "shop" }],
        }})
    }

    /// Protects the server; the instance. The host that wrote may take a moment to be gone.
    fn protected(&self) -> Result<String> {
        let job = wait_for("the hosts to be gone", SOON, || {
            succeeded(&self.pair.primary, "POST", INSTANCES, &self.wanted("web"))
        })?;
        ensure!(job["job_type"] == "createProtectedInstanceNoCG", "{job:#}");
        let parts = job["entities"]["sub_jobs"].as_array().context("no parts")?;
        ensure!(parts.len() == 2, "{job:#}");
        ensure!(parts[0]["job_type"] == "createReplicationPairNoCG", "{job:#}");
        text(&job, "/entities/protected_instance_id")
    }

    fn started(&self) -> Result<()> {
        let start = json!({ "start-server-group": {} });
        succeeded(&self.pair.primary, "POST", &self.shop().action(), &start)?;
        self.shop().is_active()
    }

    fn path(id: &str) -> String {
        format!("{INSTANCES}/{id}")
    }

    fn shown(site: &Site, id: &str) -> Result<Value> {
        Ok(get(site, &Self::path(id))?["protected_instance"].clone())
    }

    /// What the cloud has attached to a server: disks with their devices.
    fn attached(&self, server: &str) -> Vec<(String, String)> {
        let told = self.cloud.server(server);
        let all = told["os-extended-volumes:volumes_attached"].as_array().cloned();
        let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.unwrap_or_default().iter().map(|of| (words(&of["id"]), words(&of["device"]))).collect()
    }
}

fn code(error: &Value) -> &str {
    error["code"].as_str().unwrap_or_default()
}

#[test]
fn evs_37_a_server_is_protected_with_its_disks_and_one_that_stands_in_is_made_once() -> Result<()> {
    let lab = Lab::new()?;
    let (east, west, cloud) = (&lab.pair.primary, &lab.pair.mirror, &lab.cloud);
    let not = |wanted: &Value, number: &str| -> Result<()> {
        let (status, answer) = call(east, "POST", INSTANCES, wanted)?;
        ensure!(status >= 400 && code(&answer["error"]) == number, "{number}: {answer:#}");
        Ok(())
    };
    not(&lab.wanted("nobody"), "SDRS.1326")?;
    // It is not there: that is a mistake of whoever asks, and nobody's fault between plugin and cloud.
    let (status, _) = call(east, "POST", INSTANCES, &lab.wanted("nobody"))?;
    ensure!(status == 404, "it is answered {status}");
    cloud.put_server("far", json!({ "id": "far", "OS-EXT-AZ:availability_zone": "west" }));
    not(&lab.wanted("far"), "SDRS.1303")?;
    let mut odd = lab.wanted("web");
    odd["protected_instance"]["primary_ip_address"] = json!("192.168.0.9");
    not(&odd, "SDRS.0219")?;
    // It was made and nobody heard so; a job fails to say that it is done; the service is busy.
    cloud.fail("POST", Fault::Silent);
    cloud.fail("GET", Fault::Status(429, Some(0)));
    cloud.spoil_job(Spoil::Lie);
    let id = lab.protected()?;
    ensure!(cloud.servers().len() == 3, "one was made: {:?}", cloud.servers());
    ensure!(cloud.own_disks() == 0, "the disk that the cloud made with it is left");
    let shown = Lab::shown(west, &id)?;
    ensure!(shown["status"] == "available" && shown["source_server"] == "web", "{shown:#}");
    ensure!(shown["tags"][0]["value"] == "shop", "{shown:#}");
    let target = text(&shown, "/target_server")?;
    let made = cloud.server(&target);
    ensure!(made["status"] == "SHUTOFF", "{made:#}");
    ensure!(made["OS-EXT-AZ:availability_zone"] == "west", "{made:#}");
    ensure!(made["flavor"]["id"] == "s2.large" && cloud.ports_of(&target).len() == 2, "{made:#}");
    ensure!(lab.attached(&target).is_empty(), "there are no copies yet");
    not(&lab.wanted("web"), "SDRS.1305")?;
    let error = refused(
        east,
        ("DELETE", &format!("/v1/0/server-groups/{}", lab.group), &Value::Null),
        409,
    )?;
    ensure!(["SDRS.1001", "SDRS.1010"].contains(&code(&error)), "{error:#}");
    // EVS-39: with the copies come the disks, under the same names.
    lab.started()?;
    wait_for("the copies to be attached", SYNC_LIMIT, || {
        let (here, there) = (lab.attached("web"), lab.attached(&target));
        let names =
            |of: &[(String, String)]| of.iter().map(|(_, at)| at.clone()).collect::<Vec<_>>();
        ensure!(names(&here) == names(&there) && there.len() == 2, "{here:?} {there:?}");
        ensure!(here.iter().zip(&there).all(|(one, other)| one.0 != other.0), "{there:?}");
        Ok(())
    })?;
    let shown = Lab::shown(east, &id)?;
    ensure!(shown["status"] == "protected" && shown["progress"] == 100, "{shown:#}");
    ensure!(lab.shop().shown()?["protected_instance_num"] == 1);
    let renamed = json!({"protected_instance": { "name": "front" }});
    let renamed = taken(west, "PUT", &Lab::path(&id), &renamed)?;
    ensure!(renamed["protected_instance"]["name"] == "front", "{renamed:#}");
    let listed = get(east, &format!("{INSTANCES}?server_group_ids=['{}']&name=fro", lab.group))?;
    ensure!(listed["count"] == 1, "{listed:#}");
    // It goes, and the server that was made with it; the pairs stay.
    let delete = json!({ "delete_target_server": true });
    succeeded(east, "DELETE", &Lab::path(&id), &delete)?;
    ensure!(cloud.server(&target).is_null() && !cloud.server("web").is_null());
    lab.shop().is_active()?;
    ensure!(lab.shop().shown()?["replication_num"] == 2);
    Ok(())
}

/// A run that waits for a person, and has the group of a volume meanwhile.
const HELD: &str = r#"
name = "held"
kind = "other"
groups = ["data"]
[sites]
source = "east"
destination = "west"
[[steps]]
id = "ask"
action = "core/approve"
params = { prompt = "done?" }
"#;

#[test]
fn evs_53_disks_that_are_encrypted_frozen_or_locked_are_refused_by_their_numbers() -> Result<()> {
    let lab = Lab::new()?;
    let (east, cloud) = (&lab.pair.primary, &lab.cloud);
    let pair = json!({"replication": {
        "server_group_id": lab.group, "volume_id": lab.disks[1], "name": "data",
    }});
    let other = disk(&lab.pair.mirror, "data-dr", 16)?;
    let two = json!({"replication": {
        "name": "two", "volume_ids": [lab.disks[1], other], "priority_station": "east",
        "replication_model": "hypermetro",
    }});
    // The volume service looks at both disks after it answered, and keeps what it found with the pair.
    let is_in_error = |number: &str| -> Result<()> {
        let made = taken(east, "POST", PAIRS, &two)?;
        let path = format!("{PAIRS}/{}", text(&made, "/replication/id")?);
        let shown = wait_for("the disks to be looked at", SYNC_LIMIT, || {
            let shown = get(east, &path)?["replication"].clone();
            ensure!(shown["status"] == "error", "{shown:#}");
            Ok(shown)
        })?;
        ensure!(shown["failure_detail"] == number, "wanted {number}: {shown:#}");
        taken(east, "DELETE", &path, &Value::Null)?;
        wait_for("the pair to be gone", SOON, || {
            let (status, _) = call(east, "GET", &path, &Value::Null)?;
            ensure!(status == 404, "{status}");
            Ok(())
        })
    };
    // A disk by itself, as one of a server, and as one of two.
    let is_refused = |status: u64, number: &str| -> Result<()> {
        for (path, body) in [("/v1/0/replications", &pair), (INSTANCES, &lab.wanted("web"))] {
            let error = refused(east, ("POST", path, body), status)?;
            ensure!(code(&error) == number, "{path}: {error:#}");
        }
        is_in_error(number)
    };
    cloud.mark_disk(&lab.disks[1], Some(("__system__encrypted", "1")));
    is_refused(409, "SDRS.1802")?;
    cloud.mark_disk(&lab.disks[1], Some(("__system__frozen", "true")));
    is_refused(400, "SDRS.0225")?;
    cloud.mark_disk(&lab.disks[1], None);
    cloud.mark_disk(&other, Some(("__system__encrypted", "1")));
    is_in_error("SDRS.1802")?;
    cloud.mark_disk(&other, None);
    let file = lab.pair.dir.path().join("held.toml");
    std::fs::write(&file, HELD).context("write the plan")?;
    east.cli(&["plan", "save", &file.display().to_string()])?;
    let run = text(&east.ask(&["plan", "run", "held"])?.json, "/id")?;
    is_refused(409, "SDRS.1831")?;
    let error = refused(east, ("POST", "/v1/0/replications", &pair), 409)?;
    ensure!(error["next"].to_string().contains(&run), "{error:#}");
    ensure!(get(east, "/v1/0/replications")?["count"] == 0 && cloud.servers() == ["web"]);
    east.wait_for(&["run", "show", &run], SOON, |run| run["state"] == "waiting")?;
    east.cli(&["run", "answer", &run, "approve"])?;
    east.wait_for(&["run", "show", &run], SOON, |run| run["state"] == "completed")?;
    lab.protected().map(drop)
}

#[test]
fn evs_37_tags_are_put_taken_off_and_found_by_at_either_site() -> Result<()> {
    let lab = Lab::new()?;
    let (east, west) = (&lab.pair.primary, &lab.pair.mirror);
    let id = lab.protected()?;
    let tags = format!("{}/tags", Lab::path(&id));
    let done = |site: &Site, method: &str, path: &str, body: &Value| -> Result<()> {
        let (status, answer) = call(site, method, path, body)?;
        ensure!(status == 204, "{method} {path}: {status} {answer:#}");
        Ok(())
    };
    let has = |wanted: Value| -> Result<()> {
        wait_for("both sites to know the tags", SOON, || {
            for site in [east, west] {
                let listed = get(site, &tags)?["tags"].clone();
                ensure!(listed == wanted, "{listed:#}");
            }
            Ok(())
        })
    };
    has(json!([{ "key": "role", "value": "shop" }]))?;
    // By either gateway; one of the same key gives way.
    done(west, "POST", &tags, &json!({ "tag": { "key": "role", "value": "front" } }))?;
    let more = json!({ "action": "create", "tags": [
        { "key": "owner", "value": "ann" }, { "key": "tier", "value": "" },
    ] });
    done(east, "POST", &format!("{tags}/action"), &more)?;
    has(json!([
        { "key": "role", "value": "front" }, { "key": "owner", "value": "ann" },
        { "key": "tier", "value": "" },
    ]))?;
    let all = get(west, &format!("{INSTANCES}/tags"))?;
    ensure!(all["tags"][0] == json!({ "key": "owner", "values": ["ann"] }), "{all:#}");
    let look = format!("{INSTANCES}/resource_instances/action");
    let asked =
        json!({ "action": "filter", "tags": [{ "key": "owner", "values": ["bob", "ann"] }] });
    let found = taken(west, "POST", &look, &asked)?;
    ensure!(found["total_count"] == 1 && found["resources"][0]["resource_id"] == id, "{found:#}");
    let detail = &found["resources"][0]["resource_detail"];
    ensure!(detail["source_server"] == "web", "{found:#}");
    let asked = json!({ "action": "count", "not_tags_any": [{ "key": "owner", "values": [] }] });
    let found = taken(east, "POST", &look, &asked)?;
    ensure!(found["total_count"] == 0 && found["resources"].is_null(), "{found:#}");
    // Taken off, one by one and together; what is not there is told only of one.
    done(east, "DELETE", &format!("{tags}/tier"), &Value::Null)?;
    let error = refused(east, ("DELETE", &format!("{tags}/nothing"), &Value::Null), 404)?;
    ensure!(code(&error) == "SDRS.2206", "{error:#}");
    let off = json!({ "action": "delete", "tags": [{ "key": "owner" }, { "key": "nothing" }] });
    done(west, "POST", &format!("{tags}/action"), &off)?;
    has(json!([{ "key": "role", "value": "front" }]))?;
    let many: Vec<Value> =
        (0..10).map(|n| json!({ "key": format!("k{n}"), "value": "" })).collect();
    let many = json!({ "action": "create", "tags": many });
    let error = refused(east, ("POST", &format!("{tags}/action"), &many), 400)?;
    ensure!(code(&error) == "SDRS.2203", "{error:#}");
    has(json!([{ "key": "role", "value": "front" }]))
}

#[test]
fn evs_37_a_beginning_that_fails_leaves_no_server_and_no_pair() -> Result<()> {
    let lab = Lab::new()?;
    let (east, cloud) = (&lab.pair.primary, &lab.cloud);
    cloud.spoil_job(Spoil::Fail);
    let job = wait_for("the hosts to be gone", SOON, || {
        ended(east, &taken(east, "POST", INSTANCES, &lab.wanted("web"))?)
    })?;
    ensure!(job["status"] == "FAIL" && job["error_code"] == "SDRS.1306", "{job:#}");
    ensure!(job["fail_reason"].to_string().contains("as the test asked"), "{job:#}");
    ensure!(cloud.servers() == ["web"], "{:?}", cloud.servers());
    let id = text(&job, "/entities/protected_instance_id")?;
    let shown = Lab::shown(east, &id)?;
    ensure!(shown["status"] == "error" && shown["failure_reason"].is_string(), "{shown:#}");
    wait_for("the pairs to be gone", SOON, || {
        let listed = get(east, "/v1/0/replications")?;
        ensure!(listed["count"] == 0, "{listed:#}");
        Ok(())
    })?;
    succeeded(east, "DELETE", &Lab::path(&id), &json!({}))?;
    lab.protected().map(drop)
}

#[test]
fn evs_39_pairs_are_attached_and_detached_by_device_and_interfaces_come_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let (east, cloud) = (&lab.pair.primary, &lab.cloud);
    let id = lab.protected()?;
    lab.started()?;
    let target = text(&Lab::shown(east, &id)?, "/target_server")?;
    let more = disk(east, "more", 16)?;
    let body = json!({"replication": {
        "server_group_id": lab.group, "volume_id": more, "name": "more",
    }});
    let job = succeeded(east, "POST", "/v1/0/replications", &body)?;
    let pair = text(&job, "/entities/replication_pair_id")?;
    lab.shop().is_active()?;
    let attach = format!("{}/attachreplication", Lab::path(&id));
    let body = |device: &str| json!({ "replicationAttachment": { "replication_id": pair, "device": device } });
    let error = refused(east, ("POST", &attach, &body("/dev/vdb")), 409)?;
    ensure!(code(&error) == "SDRS.1603", "{error:#}");
    let job = succeeded(east, "POST", &attach, &body("/dev/vdc"))?;
    ensure!(job["job_type"] == "attachReplicationPairNew", "{job:#}");
    let at = |server: &str| lab.attached(server).iter().any(|(_, at)| at == "/dev/vdc");
    ensure!(at("web") && at(&target), "{:?} {:?}", lab.attached("web"), lab.attached(&target));
    let shown = get(east, &format!("/v1/0/replications/{pair}"))?["replication"].clone();
    ensure!(shown["attachment"][0]["device"] == "/dev/vdc", "{shown:#}");
    let error = refused(east, ("POST", &attach, &body("/dev/vdd")), 409)?;
    ensure!(code(&error) == "SDRS.1603", "{error:#}");
    let delete = json!({"replication": { "server_group_id": lab.group }});
    let path = format!("/v1/0/replications/{pair}");
    let error = refused(east, ("DELETE", &path, &delete), 409)?;
    ensure!(code(&error) == "SDRS.1605", "{error:#}");
    let detach = format!("{}/detachreplication/{pair}", Lab::path(&id));
    succeeded(east, "DELETE", &detach, &Value::Null)?;
    ensure!(!at("web") && !at(&target));
    let (_, answer) = call(east, "DELETE", &detach, &Value::Null)?;
    ensure!(code(&answer["error"]) == "SDRS.1604", "{answer:#}");
    succeeded(east, "DELETE", &path, &delete)?;
    // The system disk only while its server is stopped.
    let system = text(&Lab::shown(east, &id)?, "/attachment/0/replication")?;
    cloud.set_status("web", "ACTIVE");
    let detach = format!("{}/detachreplication/{system}", Lab::path(&id));
    let error = refused(east, ("DELETE", &detach, &Value::Null), 409)?;
    ensure!(code(&error) == "SDRS.1316", "{error:#}");
    // EVS-40: an interface of both servers; the answer that it was made is lost.
    let nic = format!("{}/nic", Lab::path(&id));
    cloud.fail("POST", Fault::Half);
    succeeded(east, "POST", &nic, &json!({ "subnet_id": "net-3", "ip_address": "10.3.0.9" }))?;
    ensure!(cloud.ports_of("web").len() == 3 && cloud.ports_of(&target).len() == 3);
    let shown = Lab::shown(east, &id)?;
    let primary = text(&shown, "/nics/0/active")?;
    ensure!(primary == lab.ports[0], "{shown:#}");
    let delete = format!("{nic}/delete");
    let error = refused(east, ("POST", &delete, &json!({ "nic_id": primary })), 409)?;
    ensure!(code(&error) == "SDRS.1311", "{error:#}");
    let third = text(&shown, "/nics/2/active")?;
    succeeded(east, "POST", &delete, &json!({ "nic_id": third }))?;
    ensure!(cloud.ports_of("web").len() == 2 && cloud.ports_of(&target).len() == 2);
    let (_, answer) = call(east, "POST", &delete, &json!({ "nic_id": third }))?;
    ensure!(code(&answer["error"]) == "SDRS.1310", "{answer:#}");
    Ok(())
}

#[test]
fn evs_41_flavours_are_changed_while_the_servers_are_stopped() -> Result<()> {
    let lab = Lab::new()?;
    let (east, cloud) = (&lab.pair.primary, &lab.cloud);
    let id = lab.protected()?;
    let target = text(&Lab::shown(east, &id)?, "/target_server")?;
    let path = format!("{}/resize", Lab::path(&id));
    cloud.set_status("web", "ACTIVE");
    let both = json!({"resize": { "flavorRef": "s3.large" }});
    let job = ended(east, &taken(east, "POST", &path, &both)?)?;
    ensure!(job["status"] == "FAIL" && job["error_code"] == "SDRS.1341", "{job:#}");
    ensure!(Lab::shown(east, &id)?["status"] == "error-resizing");
    cloud.set_status("web", "SHUTOFF");
    succeeded(east, "POST", &path, &both)?;
    let flavour = |server: &str| cloud.server(server)["flavor"]["id"].clone();
    ensure!(flavour("web") == "s3.large" && flavour(&target) == "s3.large");
    ensure!(Lab::shown(east, &id)?["status"] == "available");
    succeeded(east, "POST", &path, &json!({"resize": { "dr_flavorRef": "s4.large" }}))?;
    ensure!(flavour("web") == "s3.large" && flavour(&target) == "s4.large");
    let (status, answer) = call(east, "POST", &path, &json!({ "resize": {} }))?;
    ensure!(status == 400 && code(&answer["error"]) == "SDRS.0201", "{answer:#}");
    Ok(())
}

#[test]
fn evs_40_interfaces_change_places_with_the_sites_and_are_moved_where_a_site_is_lost() -> Result<()>
{
    let mut lab = Lab::new()?;
    let id = lab.protected()?;
    lab.started()?;
    let target = text(&Lab::shown(&lab.pair.primary, &id)?, "/target_server")?;
    let (ours, theirs) = (lab.ports.clone(), lab.cloud.ports_of(&target));
    let reverse = |to: &str| json!({ "reverse-server-group": { "priority_station": to } });
    let action = lab.shop().action();
    // Planned: not while the server runs.
    lab.cloud.set_status("web", "ACTIVE");
    let error = refused(&lab.pair.primary, ("POST", &action, &reverse("target")), 409)?;
    ensure!(code(&error) == "SDRS.1319", "{error:#}");
    lab.cloud.set_status("web", "SHUTOFF");
    // The service breaks off in the middle; nothing is at two servers, and all come to their places.
    lab.cloud.fail("DELETE", Fault::Silent);
    lab.cloud.fail("POST", Fault::Half);
    succeeded(&lab.pair.primary, "POST", &action, &reverse("target"))?;
    lab.shop().is_active()?;
    ensure!(lab.cloud.ports_of(&target) == ours, "{:?}", lab.cloud.ports_of(&target));
    ensure!(lab.cloud.ports_of("web") == theirs, "{:?}", lab.cloud.ports_of("web"));
    let shown = Lab::shown(&lab.pair.primary, &id)?;
    ensure!(shown["status"] == "protected" && shown["priority_station"] == "target", "{shown:#}");
    // The server of the target zone works: it is not deleted.
    let delete = json!({ "delete_target_server": true });
    let error = refused(&lab.pair.primary, ("DELETE", &Lab::path(&id), &delete), 409)?;
    ensure!(code(&error) == "SDRS.1330", "{error:#}");
    succeeded(&lab.pair.primary, "POST", &action, &reverse("source"))?;
    lab.shop().is_active()?;
    ensure!(lab.cloud.ports_of("web") == ours && lab.cloud.ports_of(&target) == theirs);
    // Lost: they are moved, and those of the other server are parked.
    lab.pair.primary.kill()?;
    let west = &lab.pair.mirror;
    let over = json!({ "failover-server-group": {} });
    wait_for("the failover", SYNC_LIMIT, || succeeded(west, "POST", &action, &over))?;
    ensure!(lab.cloud.ports_of(&target) == ours && lab.cloud.ports_of("web").is_empty());
    let shown = Lab::shown(west, &id)?;
    ensure!(shown["status"] == "failed-over", "{shown:#}");
    holds(&lab.pair, west, "data", 1)?;
    write(&lab.pair, west, "data", 2)?;
    // Back again: only what was written is copied, and the exchange is completed.
    lab.pair.primary.start()?;
    let west = &lab.pair.mirror;
    let start = json!({ "start-server-group": {} });
    wait_for("the reprotection", SYNC_LIMIT, || succeeded(west, "POST", &action, &start))?;
    Shop { site: west, id: lab.group.clone() }.is_active()?;
    ensure!(lab.cloud.ports_of("web") == theirs && lab.cloud.ports_of(&target) == ours);
    crate::evs::same((west, "data"), (&lab.pair.primary, "data"))
}

#[test]
fn evs_38_a_server_that_was_deleted_elsewhere_is_invalid_and_its_group_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let (east, cloud) = (&lab.pair.primary, &lab.cloud);
    let id = lab.protected()?;
    lab.started()?;
    let target = text(&Lab::shown(east, &id)?, "/target_server")?;
    cloud.drop_server(&target);
    wait_for("the loss to be noticed", SYNC_LIMIT, || {
        let shown = Lab::shown(east, &id)?;
        ensure!(shown["status"] == "invalid", "{shown:#}");
        ensure!(shown["failure_reason"].to_string().contains(&target), "{shown:#}");
        Ok(())
    })?;
    let resize = json!({"resize": { "flavorRef": "s3.large" }});
    let path = format!("{}/resize", Lab::path(&id));
    let error = refused(east, ("POST", &path, &resize), 409)?;
    ensure!(code(&error) == "SDRS.1314", "{error:#}");
    // The group is turned off and on, and a disk more is protected.
    let stop = json!({ "stop-server-group": {} });
    succeeded(east, "POST", &lab.shop().action(), &stop)?;
    lab.started()?;
    succeeded(east, "DELETE", &Lab::path(&id), &json!({}))?;
    lab.protected_again()
}

impl Lab {
    /// The same server with the pairs that its disks have.
    fn protected_again(&self) -> Result<()> {
        let job = succeeded(&self.pair.primary, "POST", INSTANCES, &self.wanted("web"))?;
        let id = text(&job, "/entities/protected_instance_id")?;
        let shown = Self::shown(&self.pair.primary, &id)?;
        ensure!(shown["status"] == "protected", "{shown:#}");
        let listed = get(&self.pair.primary, "/v1/0/replications")?;
        ensure!(listed["count"] == 2, "{listed:#}");
        ensure!(self.disks.iter().all(|disk| listed.to_string().contains(disk)), "{listed:#}");
        Ok(())
    }
}

#[test]
fn evs_45_where_the_production_site_is_lost_a_drill_brings_its_disks_up() -> Result<()> {
    let mut pair = Pair::joined()?;
    let group = empty_group(&pair.primary)?;
    let shop = Shop { site: &pair.primary, id: group.clone() };
    let volume = disk(&pair.primary, "one", 16)?;
    let body = json!({"replication": {
        "server_group_id": group, "volume_id": volume, "name": "one",
    }});
    succeeded(&pair.primary, "POST", "/v1/0/replications", &body)?;
    write(&pair, &pair.primary, "one", 1)?;
    wait_for("protection to begin", SYNC_LIMIT, || {
        let start = json!({ "start-server-group": {} });
        succeeded(&pair.primary, "POST", &shop.action(), &start)
    })?;
    shop.is_active()?;
    let drill =
        |name: &str| json!({"disaster_recovery_drill": { "name": name, "server_group_id": group }});
    let drills = "/v1/0/disaster-recovery-drills";
    // A drill of good days leaves its snapshot at the other site as long as it lasts.
    succeeded(&pair.primary, "POST", drills, &drill("good"))?;
    write(&pair, &pair.primary, "one", 2)?;
    pair.primary.kill()?;
    let west = &pair.mirror;
    wait_for("the loss to be noticed", SYNC_LIMIT, || {
        let path = format!("/v1/0/server-groups/{group}");
        let shown = get(west, &path)?["server_group"].clone();
        ensure!(shown["health_status"] == "abnormal", "{shown:#}");
        Ok(())
    })?;
    let job = succeeded(west, "POST", drills, &drill("last"))?;
    let id = text(&job, "/entities/disaster_recovery_drill_id")?;
    let made = get(west, &format!("{drills}/{id}"))?["disaster_recovery_drill"].clone();
    let volume = text(&made, "/drill_volumes/0/volume")?;
    // The newest snapshot that is kept there: what was written after it is only in the copy.
    holds(&pair, west, &volume, 1)?;
    write(&pair, west, &volume, 3)?;
    holds(&pair, west, &volume, 3)?;
    // Nothing of it reached the copy, which a failover makes the disk that it was.
    let over = json!({ "failover-server-group": {} });
    let action = format!("/v1/0/server-groups/{group}/action");
    wait_for("the failover", SYNC_LIMIT, || succeeded(west, "POST", &action, &over))?;
    holds(&pair, west, "one", 2)
}

#[test]
fn evs_28_how_many_groups_and_pairs_there_may_be_is_configured() -> Result<()> {
    let mut pair = Pair::joined()?;
    set(&pair.primary, "quota", "groups = 1\npairs = 1")?;
    pair.primary.kill()?;
    pair.primary.start()?;
    let east = &pair.primary;
    let group = empty_group(east)?;
    let domain = text(&get(east, "/v1/0/active-domains")?, "/domains/0/id")?;
    let more = json!({"server_group": {
        "name": "more", "source_availability_zone": "east", "target_availability_zone": "west",
        "domain_id": domain,
    }});
    let (_, answer) = call(east, "POST", "/v1/0/server-groups", &more)?;
    ensure!(code(&answer["error"]) == "SDRS.0305", "{answer:#}");
    let body = |volume: &str| json!({"replication": { "server_group_id": group, "volume_id": volume, "name": "p" }});
    let (one, two) = (disk(east, "one", 16)?, disk(east, "two", 16)?);
    succeeded(east, "POST", "/v1/0/replications", &body(&one))?;
    let (_, answer) = call(east, "POST", "/v1/0/replications", &body(&two))?;
    ensure!(code(&answer["error"]) == "SDRS.0306", "{answer:#}");
    let quotas = get(east, "/v1/0/sdrs/quotas")?;
    ensure!(quotas.pointer("/quotas/resources/0/quota") == Some(&json!(1)), "{quotas:#}");
    Ok(())
}
