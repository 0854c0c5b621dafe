//! The plugin `evs-pairing` at running gateways: its catalogue refuses pairs and sessions, and its steps
//! speak to a cloud whose answers are late, broken or refused.
//!
//! The component is that of `plugins/`, as `cargo xtask plugins` builds it.

use anyhow::{Context, Result, ensure};
use harness::{Cloud, Fault, Site, wait_for};
use serde_json::{Value, json};

use crate::evs::{call, disk, get, taken, write};
use crate::pair::{Pair, SOON, SYNC_LIMIT, expect, set, text};
use crate::plugins::install;

pub(crate) const TOKEN: &str = "cloud-secret";

/// A gateway with the plugin, which may speak to this cloud.
fn with_cloud(dir: &std::path::Path, cloud: &Cloud) -> Result<Site> {
    let mut east = Site::new(dir, "east")?;
    let secret = dir.join("token");
    std::fs::write(&secret, TOKEN).context("write the token")?;
    let line = format!("secrets = [\"cloud-token={}\"]", secret.display());
    set(&east, "plugins", &line)?;
    east.start()?;
    install(&east, "evs-pairing")?;
    configure(&east, dir, &json!({ "compute": cloud.url(), "network": cloud.url() }))?;
    east.cli(&["plugin", "grant", "evs-pairing", "--all"])?;
    let host = cloud.url().replace("http://", "http:").replace("/v1/p", "");
    east.cli(&["plugin", "grant", "evs-pairing", &host])?;
    Ok(east)
}

pub(crate) fn configure(site: &Site, dir: &std::path::Path, config: &Value) -> Result<()> {
    configure_as(site, dir, ("evs-pairing", config))
}

pub(crate) fn configure_as(
    site: &Site,
    dir: &std::path::Path,
    (plugin, config): (&str, &Value),
) -> Result<()> {
    let file = dir.join(format!("{plugin}.json"));
    std::fs::write(&file, config.to_string()).context("write the configuration")?;
    site.cli(&["plugin", "configure", plugin, &file.display().to_string()]).map(drop)
}

fn server(id: &str, zone: &str, status: &str) -> Value {
    let address = |kind: &str, addr: &str| {
        json!({
            "addr": addr, "OS-EXT-IPS:type": kind, "OS-EXT-IPS:port_id": format!("{id}-port"),
            "OS-EXT-IPS-MAC:mac_addr": format!("fa:16:3e:00:00:{}", id.len()),
        })
    };
    json!({
        "id": id, "name": id, "status": status, "OS-EXT-AZ:availability_zone": zone,
        "metadata": { "vpc_id": "vpc-1" }, "image": { "id": "debian" },
        "flavor": { "id": "s2.large", "vcpus": "2", "ram": "4096" },
        "os-extended-volumes:volumes_attached": [{ "id": "disk-1" }, { "id": "disk-2" }],
        "addresses": { "net": [address("fixed", "192.168.0.5"), address("floating", "80.0.0.5")] },
    })
}

/// Runs a plan of one step; the run when it is over.
fn run_step(site: &Site, dir: &std::path::Path, step: &str) -> Result<Value> {
    let plan = format!(
        "name = \"cloud\"\nkind = \"other\"\n[sites]\nsource = \"east\"\n\
         destination = \"west\"\n[[steps]]\nid = \"it\"\nretries = 6\nbackoff = \"100ms\"\n\
         {step}\n"
    );
    let file = dir.join("cloud.toml");
    std::fs::write(&file, plan).context("write the plan")?;
    site.cli(&["plan", "save", &file.display().to_string()])?;
    let begun = site.ask(&["plan", "run", "cloud"])?;
    let id = text(&begun.json, "/id")?;
    site.wait_for(&["run", "show", &id], SYNC_LIMIT, |run| {
        !matches!(run["state"].as_str(), Some("running" | "turning_back" | "pending"))
    })
}

fn output(run: &Value, name: &str) -> Result<String> {
    text(run, &format!("/steps/0/outputs/{name}"))
}

fn is_done(run: &Value) -> Result<()> {
    ensure!(run.pointer("/steps/0/state").is_some_and(|state| state == "done"), "{run:#}");
    Ok(())
}

#[test]
fn evs_22_what_a_server_is_made_of_is_collected_in_versions() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_server("web", server("web", "az1", "ACTIVE"));
    let step = "action = \"evs-pairing/collect-server\"\nparams = { server = \"web\" }";
    // Too many requests, a failure, half an answer, and a slow one: it comes to its end all the same.
    cloud.fail("GET", Fault::Status(429, Some(0)));
    cloud.fail("GET", Fault::Status(500, None));
    cloud.fail("GET", Fault::Half);
    cloud.fail("GET", Fault::Late(std::time::Duration::from_millis(300)));
    let run = run_step(&east, dir.path(), step)?;
    is_done(&run)?;
    ensure!(cloud.faults_left() == 0, "not all faults were met");
    ensure!(output(&run, "version")? == "1" && output(&run, "disks")? == "disk-1,disk-2");
    ensure!(output(&run, "macs")? == "fa:16:3e:00:00:3", "{run:#}");
    // The same again is the same version; what has changed is another.
    ensure!(output(&run_step(&east, dir.path(), step)?, "version")? == "1");
    cloud.put_server("web", server("web", "az1", "SHUTOFF"));
    ensure!(output(&run_step(&east, dir.path(), step)?, "version")? == "2");
    // One that lacks what has to be known is not collected.
    let mut bare = server("web", "az1", "ACTIVE");
    bare["addresses"] = json!({});
    cloud.put_server("web", bare);
    let run = run_step(&east, dir.path(), step)?;
    ensure!(run.to_string().contains("its network interfaces missing"), "{run:#}");
    Ok(())
}

#[test]
fn evs_19_a_public_address_is_moved_once_whatever_the_answers_are() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_public_ip("eip", "old-port");
    let step = "action = \"evs-pairing/move-public-ip\"\n\
                params = { public_ip = \"eip\", port = \"new-port\" }";
    // It is done, and nobody hears so.
    cloud.fail("PUT", Fault::Silent);
    cloud.fail("PUT", Fault::Half);
    let run = run_step(&east, dir.path(), step)?;
    is_done(&run)?;
    ensure!(cloud.bound_to("eip") == "new-port", "it is at {}", cloud.bound_to("eip"));
    ensure!(cloud.faults_left() == 0, "not all faults were met");
    // Where it is already nothing is asked but where it is.
    let puts = || cloud.asked().iter().filter(|asked| asked.starts_with("PUT")).count();
    let before = puts();
    is_done(&run_step(&east, dir.path(), step)?)?;
    ensure!(puts() == before, "{:?}", cloud.asked());
    Ok(())
}

#[test]
fn evs_20_a_virtual_address_is_made_once_and_carried_by_both_servers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_port("one");
    cloud.put_port("two");
    let step = "action = \"evs-pairing/bind-virtual-ip\"\nparams = { network = \"net\", \
                production_port = \"one\", recovery_port = \"two\" }";
    // It was made, and the answer broke off: the next attempt finds it.
    cloud.fail("POST", Fault::Half);
    let run = run_step(&east, dir.path(), step)?;
    is_done(&run)?;
    let address = output(&run, "virtual_ip")?;
    let ports = cloud.ports();
    ensure!(ports.len() == 3, "one was made: {ports:#?}");
    for port in ports.iter().filter(|port| port["id"] == "one" || port["id"] == "two") {
        ensure!(port["allowed_address_pairs"] == json!([{ "ip_address": address }]), "{port:#}");
    }
    Ok(())
}

/// A step that cannot be done, after which a run turns back.
const TURN: &str = "on_failure = \"roll-back\"\n[[steps]]\nid = \"turn\"\n\
                    on_failure = \"roll-back\"\naction = \"evs-pairing/collect-server\"\n\
                    params = { server = \"nobody\" }";

fn is_rolled_back(run: &Value) -> Result<()> {
    ensure!(run["state"] == "rolled_back", "{run:#}");
    Ok(())
}

#[test]
fn evs_19_an_address_is_taken_back_to_where_it_was_also_when_it_was_only_unbound() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_public_ip("eip", "old-port");
    let step = "action = \"evs-pairing/move-public-ip\"\n\
                params = { public_ip = \"eip\", port = \"new-port\" }\n";
    is_rolled_back(&run_step(&east, dir.path(), &format!("{step}{TURN}"))?)?;
    ensure!(cloud.bound_to("eip") == "old-port", "it is at {:?}", cloud.bound_to("eip"));
    // It is unbound, and cannot be bound again: the step fails between the two.
    cloud.fail("PUT", Fault::Late(std::time::Duration::ZERO));
    cloud.fail("PUT", Fault::Status(403, None));
    let run = run_step(&east, dir.path(), &format!("{step}on_failure = \"roll-back\""))?;
    is_rolled_back(&run)?;
    ensure!(cloud.faults_left() == 0, "not all faults were met");
    ensure!(cloud.bound_to("eip") == "old-port", "it is at {:?}: {run:#}", cloud.bound_to("eip"));
    // A try that was made again after half of it: it is known where it was first.
    cloud.fail("PUT", Fault::Late(std::time::Duration::ZERO));
    cloud.fail("PUT", Fault::Status(500, None));
    is_rolled_back(&run_step(&east, dir.path(), &format!("{step}{TURN}"))?)?;
    ensure!(cloud.bound_to("eip") == "old-port", "it is at {:?}", cloud.bound_to("eip"));
    Ok(())
}

#[test]
fn evs_20_a_virtual_address_is_taken_back_from_both_servers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_port("one");
    cloud.put_port("two");
    let step = "action = \"evs-pairing/bind-virtual-ip\"\nparams = { network = \"net\", \
                production_port = \"one\", recovery_port = \"two\" }\n";
    is_rolled_back(&run_step(&east, dir.path(), &format!("{step}{TURN}"))?)?;
    let is_gone = || -> Result<()> {
        let ports = cloud.ports();
        ensure!(ports.len() == 2, "it is still there: {ports:#?}");
        for port in &ports {
            ensure!(port["allowed_address_pairs"] == json!([]), "{port:#}");
        }
        Ok(())
    };
    is_gone()?;
    // It was made and nobody heard so, and then the step fails for good: it is found by its name.
    cloud.fail("POST", Fault::Half);
    cloud.fail("GET", Fault::Late(std::time::Duration::ZERO));
    cloud.fail("GET", Fault::Status(403, None));
    let run = run_step(&east, dir.path(), &format!("{step}on_failure = \"roll-back\""))?;
    is_rolled_back(&run)?;
    ensure!(cloud.faults_left() == 0, "not all faults were met");
    is_gone()
}

#[test]
fn evs_21_a_recovery_server_that_differs_blocks_the_step_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cloud = Cloud::start(TOKEN)?;
    let east = with_cloud(dir.path(), &cloud)?;
    cloud.put_server("web", server("web", "az1", "ACTIVE"));
    let mut other = server("web-dr", "az2", "ACTIVE");
    other["flavor"]["ram"] = json!("2048");
    cloud.put_server("web-dr", other);
    let step = "action = \"evs-pairing/check-recovery-server\"\n\
                params = { server = \"web\", recovery_server = \"web-dr\" }";
    let told = run_step(&east, dir.path(), step)?.to_string();
    ensure!(told.contains("memory: ") && told.contains("stop it before"), "{told}");
    cloud.put_server("web-dr", server("web-dr", "az2", "SHUTOFF"));
    is_done(&run_step(&east, dir.path(), step)?)?;
    let probed = east.ask(&["plugin", "probe", "evs-pairing"])?.text;
    ensure!(probed.contains("it lists 2 servers"), "{probed}");
    Ok(())
}

#[test]
fn evs_33_only_zones_of_the_catalogue_are_paired() -> Result<()> {
    let mut pair = Pair::joined()?;
    for (site, zone, position) in
        [(&pair.primary, "az1", "[50.0, 8.0]"), (&pair.mirror, "az2", "[50.0, 12.0]")]
    {
        set(site, "site", &format!("zone = \"{zone}\"\nposition = {position}"))?;
    }
    pair.primary.kill()?;
    pair.mirror.kill()?;
    pair.primary.start()?;
    pair.mirror.start()?;
    // EVS-03: too far for writes that wait, by the gateway's own limit.
    pair.primary.cli(&["volume", "create", "far", "--size", "16MiB"])?;
    let create = ["session", "create", "far", "--to", "west", "--mode", "sync"];
    expect(&pair.primary, &create, 7, "GW0726")?;
    ensure!(pair.primary.ask(&create)?.text.contains("286 km away"), "the distance is not told");
    set(&pair.primary, "mirror", "max_distance_km = 400")?;
    pair.primary.kill()?;
    pair.primary.start()?;
    install(&pair.primary, "evs-pairing")?;
    let catalogue = |sold_out: bool| {
        json!({ "max_distance_km": 400, "pairs": [
            { "zones": ["az2", "az1"], "sold_out": sold_out, "distance_km": 286 },
        ] })
    };
    configure(&pair.primary, pair.dir.path(), &catalogue(true))?;
    let domains = get(&pair.primary, "/v1/0/active-domains")?["domains"].clone();
    ensure!(domains[0]["sold_out"] == true && domains[1].is_null(), "{domains:#}");
    let source = disk(&pair.primary, "source", 16)?;
    let target = disk(&pair.mirror, "target", 16)?;
    let wanted = json!({"replication": {
        "volume_ids": [source, target], "priority_station": "az1",
        "replication_model": "hypermetro",
    }});
    let path = "/v2/0/os-vendor-replications";
    let made = |status: &str| -> Result<Value> {
        let answer = taken(&pair.primary, "POST", path, &wanted)?;
        let id = text(&answer, "/replication/id")?;
        wait_for("the pair to be made or not", SOON, || {
            let shown = get(&pair.primary, &format!("{path}/{id}"))?["replication"].clone();
            ensure!(shown["status"] == status, "{shown:#}");
            Ok(shown)
        })
    };
    let shown = made("error")?;
    ensure!(shown["failure_reason"].to_string().contains("sold-out"), "{shown:#}");
    configure(&pair.primary, pair.dir.path(), &catalogue(false))?;
    made("available")?;
    let domains = get(&pair.primary, "/v1/0/active-domains")?["domains"].clone();
    ensure!(domains[0]["sold_out"] == false, "{domains:#}");
    Ok(())
}

/// Waits for a job to end; it.
pub(crate) fn ended(site: &Site, begun: &Value) -> Result<Value> {
    let id = text(begun, "/job_id")?;
    wait_for("the job to end", SYNC_LIMIT, || {
        let job = get(site, &format!("/v1/0/jobs/{id}"))?;
        ensure!(job["status"] != "RUNNING", "{job:#}");
        Ok(job)
    })
}

pub(crate) fn succeeded(site: &Site, method: &str, path: &str, body: &Value) -> Result<Value> {
    let job = ended(site, &taken(site, method, path, body)?)?;
    ensure!(job["status"] == "SUCCESS", "{method} {path} {body}: {job:#}");
    Ok(job)
}

/// A protection group at the first site's gateway.
pub(crate) struct Shop<'a> {
    pub(crate) site: &'a Site,
    pub(crate) id: String,
}

impl Shop<'_> {
    pub(crate) fn action(&self) -> String {
        format!("/v1/0/server-groups/{}/action", self.id)
    }

    pub(crate) fn shown(&self) -> Result<Value> {
        let path = format!("/v1/0/server-groups/{}", self.id);
        Ok(get(self.site, &path)?["server_group"].clone())
    }

    pub(crate) fn is_active(&self) -> Result<()> {
        wait_for("the pairs to be active", SYNC_LIMIT, || {
            let shown = self.shown()?;
            ensure!(shown["status"] == "protected", "{shown:#}");
            ensure!(shown["replication_status"] == "active", "{shown:#}");
            Ok(())
        })
    }
}

/// A group of the first site, made at any; its identity.
pub(crate) fn empty_group(at: &Site) -> Result<String> {
    let domain = text(&get(at, "/v1/0/active-domains")?, "/domains/0/id")?;
    let group = json!({"server_group": {
        "name": "shop", "source_availability_zone": "east", "target_availability_zone": "west",
        "domain_id": domain, "source_vpc_id": "vpc-1",
    }});
    let job = succeeded(at, "POST", "/v1/0/server-groups", &group)?;
    text(&job, "/entities/server_group_id")
}

/// A group with two pairs that is not protected yet; it and its pairs.
fn made_group(pair: &Pair) -> Result<(Shop<'_>, Vec<String>)> {
    let (east, west) = (&pair.primary, &pair.mirror);
    // EVS-32: made at the other site's gateway too, it is ruled at its source.
    let shop = Shop { site: east, id: empty_group(west)? };
    let id = shop.id.clone();
    ensure!(shop.shown()?["status"] == "available", "{:#}", shop.shown()?);
    ensure!(shop.shown()?["replication_status"].is_null(), "{:#}", shop.shown()?);
    let start = json!({ "start-server-group": {} });
    let (status, error) = call(east, "POST", &shop.action(), &start)?;
    ensure!(status == 409 && error["error"]["code"] == "SDRS.1002", "no pairs: {error:#}");
    let mut pairs = Vec::new();
    for name in ["one", "two"] {
        let disk = disk(east, name, 16)?;
        let body = json!({"replication": {
            "server_group_id": id, "volume_id": disk, "name": name,
        }});
        let job = succeeded(east, "POST", "/v1/0/replications", &body)?;
        pairs.push(text(&job, "/entities/replication_pair_id")?);
    }
    write(pair, east, "one", 1)?;
    Ok((shop, pairs))
}

/// The sites change places, protection is turned off and on, and a pair leaves.
fn changed(shop: &Shop<'_>, pairs: &[String]) -> Result<()> {
    let (east, id) = (shop.site, &shop.id);
    let start = json!({ "start-server-group": {} });
    // EVS-34: the sites change places, and protection is turned off and on.
    let reverse = json!({ "reverse-server-group": { "priority_station": "target" } });
    let job = wait_for("the hosts to be gone", SOON, || {
        succeeded(east, "POST", &shop.action(), &reverse)
    })?;
    ensure!(job["entities"]["sub_jobs"].as_array().is_some_and(|parts| parts.len() == 2));
    shop.is_active()?;
    ensure!(shop.shown()?["priority_station"] == "target", "{:#}", shop.shown()?);
    succeeded(east, "POST", &shop.action(), &json!({ "stop-server-group": {} }))?;
    ensure!(shop.shown()?["status"] == "available", "{:#}", shop.shown()?);
    succeeded(east, "POST", &shop.action(), &start)?;
    shop.is_active()?;
    // A pair is taken out of a group that goes on.
    let body = json!({"replication": { "server_group_id": id, "delete_target_volume": false }});
    succeeded(east, "DELETE", &format!("/v1/0/replications/{}", pairs[1]), &body)?;
    shop.is_active()?;
    ensure!(shop.shown()?["replication_num"] == 1, "{:#}", shop.shown()?);
    Ok(())
}

#[test]
fn evs_42_a_protection_group_is_drilled_while_it_is_protected_and_turned_off_and_on() -> Result<()>
{
    let pair = Pair::joined()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let (shop, pairs) = made_group(&pair)?;
    let (id, start) = (&shop.id, json!({ "start-server-group": {} }));
    let drill = json!({"disaster_recovery_drill": {
        "name": "try", "server_group_id": id, "drill_vpc_id": "vpc-2",
    }});
    let (status, error) = call(east, "POST", "/v1/0/disaster-recovery-drills", &drill)?;
    ensure!(status == 409 && error["error"]["code"] == "SDRS.1830", "too early: {error:#}");
    wait_for("protection to begin", SYNC_LIMIT, || {
        succeeded(east, "POST", &shop.action(), &start).map(drop)
    })?;
    shop.is_active()?;
    // EVS-44: no drill yet.
    let listed = get(east, "/v1/0/server-groups?query_type=period_no_dr_drill")?;
    ensure!(listed["count"] == 1, "{listed:#}");
    let same_vpc = json!({"disaster_recovery_drill": {
        "name": "try", "server_group_id": id, "drill_vpc_id": "vpc-1",
    }});
    let (_, error) = call(east, "POST", "/v1/0/disaster-recovery-drills", &same_vpc)?;
    ensure!(error["error"]["code"] == "SDRS.1907", "{error:#}");
    let job = succeeded(east, "POST", "/v1/0/disaster-recovery-drills", &drill)?;
    let drill = text(&job, "/entities/disaster_recovery_drill_id")?;
    let drill_path = format!("/v1/0/disaster-recovery-drills/{drill}");
    let made = get(west, &drill_path)?["disaster_recovery_drill"].clone();
    ensure!(made["status"] == "available", "{made:#}");
    let volume = text(&made, "/drill_volumes/0/volume")?;
    crate::evs::holds(&pair, west, &volume, 1)?;
    // It is written to, and neither the copies nor the source see it.
    write(&pair, west, &volume, 2)?;
    write(&pair, east, "two", 3)?;
    shop.is_active()?;
    crate::evs::holds(&pair, east, "one", 1)?;
    crate::evs::same((east, "two"), (west, "two"))?;
    let listed = get(east, "/v1/0/server-groups?query_type=period_no_dr_drill")?;
    ensure!(listed["count"] == 0, "{listed:#}");
    wait_for("the drill to be over", SYNC_LIMIT, || {
        succeeded(east, "DELETE", &drill_path, &Value::Null).map(drop)
    })?;
    expect(west, &["volume", "show", &volume], 1, "GW0204")?;
    // EVS-46: what failed meanwhile is listed until it is taken off.
    let failures = get(east, "/v1/0/task-center/failure-jobs")?;
    for failed in failures["failure_jobs"].as_array().context("no list")? {
        let id = text(failed, "/job_id")?;
        taken(east, "DELETE", &format!("/v1/0/task-center/failure-jobs/{id}"), &Value::Null)?;
    }
    ensure!(get(east, "/v1/0/task-center/failure-jobs")?["count"] == 0);
    changed(&shop, &pairs)
}
