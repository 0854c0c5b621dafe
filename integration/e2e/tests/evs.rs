//! The flows of the volume service's replication, by its own calls against two real gateways: pairs and
//! a group made, synchronised, changed, migrated, failed over, reprotected and expanded, and what each
//! call refuses.
//!
//! Invariant: nothing is asked of the product but calls of the dialect, beside the volumes themselves;
//! contents are compared by reading both copies.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::{Value, json};

use crate::pair::{Pair, SOON, SYNC_LIMIT, compare, read_copy, set};
use crate::records::{attach, random_file};

const DATA_BYTES: u64 = 2 << 20;
const PAIRS: &str = "/v2/0/os-vendor-replications";
const GROUPS: &str = "/v2/0/os-vendor-replication-consistency-groups";

/// What a call answered: its status and body.
pub(crate) fn call(site: &Site, method: &str, path: &str, body: &Value) -> Result<(u64, Value)> {
    let token = site.data_dir().join("admin.token");
    let place = format!("https://127.0.0.1:{},{}", site.ports().api, token.display());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("evs/evs_call.py");
    let mut tool = Tool::new("python3").arg("-B").arg(script).limit(SYNC_LIMIT * 2);
    tool = tool.args([&place, method, path]);
    if !body.is_null() {
        tool = tool.arg(body.to_string());
    }
    let answer: Value = serde_json::from_str(&tool.run()?).context("read what was printed")?;
    let status = answer["status"].as_u64().context("no status")?;
    Ok((status, answer["body"].clone()))
}

/// A call that must be taken; what it answered.
pub(crate) fn taken(site: &Site, method: &str, path: &str, body: &Value) -> Result<Value> {
    let (status, answer) = call(site, method, path, body)?;
    ensure!((200..300).contains(&status), "{method} {path} {body}: {status} {answer:#}");
    Ok(answer)
}

pub(crate) fn get(site: &Site, path: &str) -> Result<Value> {
    taken(site, "GET", path, &Value::Null)
}

/// A call that must be refused with this status; its error.
pub(crate) fn refused(
    site: &Site,
    (method, path, body): (&str, &str, &Value),
    status: u64,
) -> Result<Value> {
    let (told, answer) = call(site, method, path, body)?;
    ensure!(told == status, "{method} {path} {body}: wanted {status}, got {told} {answer:#}");
    Ok(answer["error"].clone())
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

/// Two sites, each with a zone of its own.
fn zoned() -> Result<Pair> {
    let mut pair = Pair::joined()?;
    for (site, zone) in [(&pair.primary, "az1"), (&pair.mirror, "az2")] {
        set(site, "site", &format!("zone = \"{zone}\""))?;
    }
    pair.primary.kill()?;
    pair.mirror.kill()?;
    pair.primary.start()?;
    pair.mirror.start()?;
    Ok(pair)
}

/// Makes a disk of so many MiB; its identity.
pub(crate) fn disk(site: &Site, name: &str, mib: u64) -> Result<String> {
    let made = site.cli(&["volume", "create", name, "--size", &format!("{mib}MiB")])?;
    text(&made["id"])
}

/// Writes random bytes to a disk as a host would.
pub(crate) fn write(pair: &Pair, site: &Site, disk: &str, seed: u64) -> Result<()> {
    let file = random_file(&pair.dir.path().join(format!("data-{seed}")), DATA_BYTES, seed)?;
    let copy = format!("write -s {} 0 {DATA_BYTES}", file.display());
    let uri = site.nbd_unix(disk);
    Tool::new("qemu-io").args(["-f", "raw", "-c", &copy, "-c", "flush", &uri]).run().map(drop)
}

fn read(site: &Site, disk: &str, name: &str) -> Result<PathBuf> {
    let old = site.dir().join(name);
    if old.exists() {
        std::fs::remove_file(&old).context("remove an earlier copy")?;
    }
    read_copy(site, disk, name)
}

/// Two disks, one at each site, hold the same.
pub(crate) fn same(one: (&Site, &str), other: (&Site, &str)) -> Result<()> {
    compare(&read(one.0, one.1, "here")?, &read(other.0, other.1, "there")?)
}

/// A disk begins with what was written with this seed.
pub(crate) fn holds(pair: &Pair, site: &Site, disk: &str, seed: u64) -> Result<()> {
    let copy = read(site, disk, "held")?;
    let written = random_file(&pair.dir.path().join(format!("again-{seed}")), DATA_BYTES, seed)?;
    Tool::new("cmp").args(["-n", &DATA_BYTES.to_string()]).arg(copy).arg(written).run().map(drop)
}

fn new_pair(disks: [&str; 2], station: &str) -> Value {
    json!({"replication": {
        "name": "p", "volume_ids": disks, "priority_station": station,
        "replication_model": "hypermetro",
    }})
}

/// Waits until a thing has this status.
fn await_so(site: &Site, path: &str, key: &str, wanted: &[(&str, &str)]) -> Result<Value> {
    wait_for(&format!("{path} to be {wanted:?} at {}", site.name()), SYNC_LIMIT, || {
        let shown = get(site, path)?[key].clone();
        ensure!(wanted.iter().all(|(field, word)| shown[*field] == *word), "{shown:#}");
        Ok(shown)
    })
}

fn await_pair(site: &Site, id: &str, status: &str) -> Result<Value> {
    await_so(site, &format!("{PAIRS}/{id}"), "replication", &[("status", status)])
}

/// Makes a pair that is available; its identity.
fn made_pair(site: &Site, disks: [&str; 2], station: &str) -> Result<String> {
    let made = taken(site, "POST", PAIRS, &new_pair(disks, station))?;
    ensure!(made["replication"]["status"] == "creating", "{made:#}");
    let id = text(&made["replication"]["id"])?;
    await_pair(site, &id, "available")?;
    Ok(id)
}

fn await_group(site: &Site, id: &str, status: &str, replication: &str) -> Result<Value> {
    let wanted = [("status", status), ("replication_status", replication)];
    await_so(site, &format!("{GROUPS}/{id}"), "replication_consistency_group", &wanted)
}

fn new_group(pairs: &[&str], station: &str) -> Value {
    json!({"replication_consistency_group": {
        "name": "shop", "replication_ids": pairs, "priority_station": station,
        "replication_model": "hypermetro",
    }})
}

/// Makes a group that is available; hosts that wrote may take a moment to be gone.
fn made_group(site: &Site, pairs: &[&str], station: &str) -> Result<String> {
    wait_for("the group to be made", SYNC_LIMIT, || {
        let made = taken(site, "POST", GROUPS, &new_group(pairs, station))?;
        let id = text(&made["replication_consistency_group"]["id"])?;
        let path = format!("{GROUPS}/{id}");
        let shown = wait_for("the group to be made or not", SYNC_LIMIT, || {
            let shown = get(site, &path)?["replication_consistency_group"].clone();
            ensure!(shown["status"] != "creating", "{shown:#}");
            Ok(shown)
        })?;
        if shown["status"] != "available" {
            taken(site, "DELETE", &path, &Value::Null)?;
        }
        ensure!(shown["status"] == "available", "{shown:#}");
        ensure!(shown["replication_status"] == "inactive", "{shown:#}");
        Ok(id)
    })
}

fn act(site: &Site, group: &str, action: &str, value: &Value) -> Result<()> {
    let path = format!("{GROUPS}/{group}/action");
    taken(site, "POST", &path, &json!({ action: value })).map(drop)
}

fn do_(site: &Site, group: &str, word: &str) -> Result<()> {
    act(site, group, &format!("os-{word}-replication-consistency-group"), &Value::Null)
}

fn not_done(site: &Site, group: &str, word: &str) -> Result<Value> {
    let path = format!("{GROUPS}/{group}/action");
    let action = format!("os-{word}-replication-consistency-group");
    refused(site, ("POST", &path, &json!({ action: null })), 409)
}

/// Two pairs in a group, synchronised; the group and its pairs.
fn synchronised(pair: &Pair) -> Result<(String, [String; 2])> {
    let (east, west) = (&pair.primary, &pair.mirror);
    let mut pairs = Vec::new();
    for name in ["system", "data"] {
        let source = disk(east, name, 16)?;
        let target = disk(west, &format!("{name}-dr"), 16)?;
        pairs.push(made_pair(east, [&source, &target], "az1")?);
    }
    write(pair, east, "system", 1)?;
    write(pair, east, "data", 2)?;
    let group = made_group(east, &[&pairs[0], &pairs[1]], "az1")?;
    do_(east, &group, "sync")?;
    await_group(east, &group, "available", "active")?;
    let [one, other] = pairs.try_into().ok().context("two pairs")?;
    Ok((group, [one, other]))
}

#[test]
fn evs_12_pairs_and_a_group_are_made_synchronised_and_shown_at_both_sites() -> Result<()> {
    let pair = zoned()?;
    let (group, pairs) = synchronised(&pair)?;
    for site in [&pair.primary, &pair.mirror] {
        let shown = await_group(site, &group, "available", "active")?;
        ensure!(shown["priority_station"] == "az1" && shown["fault_level"] == "0", "{shown:#}");
        ensure!(shown["replication_ids"].as_array().is_some_and(|all| all.len() == 2));
        let shown = get(site, &format!("{PAIRS}/{}", pairs[0]))?["replication"].clone();
        ensure!(shown["replication_status"] == "active" && shown["progress"] == "100", "{shown:#}");
        ensure!(shown["replication_consistency_group_id"] == group.as_str(), "{shown:#}");
        let listed = get(site, &format!("{PAIRS}?replication_consistency_group_id={group}"))?;
        ensure!(listed["replications"].as_array().is_some_and(|all| all.len() == 2), "{listed:#}");
    }
    for name in ["system", "data"] {
        same((&pair.primary, name), (&pair.mirror, &format!("{name}-dr")))?;
    }
    // The other disk is closed while it follows.
    ensure!(attach(&pair.mirror.nbd_socket(), "data-dr").is_err(), "hosts attach the copy");
    // EVS-16, EVS-17: in use, neither goes.
    let path = format!("{PAIRS}/{}", pairs[0]);
    refused(&pair.primary, ("DELETE", &path, &Value::Null), 409)?;
    refused(&pair.mirror, ("DELETE", &format!("{GROUPS}/{group}"), &Value::Null), 409)?;
    Ok(())
}

#[test]
fn evs_02_what_does_not_fit_is_refused_by_its_number() -> Result<()> {
    let pair = zoned()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let source = disk(east, "source", 16)?;
    let small = disk(west, "small", 8)?;
    let used = disk(west, "used", 16)?;
    let fits = disk(west, "fits", 16)?;
    let none = "00000000-0000-7000-8000-000000000001";
    let fails = |disks: [&str; 2], code: &str| -> Result<()> {
        let made = taken(east, "POST", PAIRS, &new_pair(disks, "az1"))?;
        let id = text(&made["replication"]["id"])?;
        let shown = await_pair(east, &id, "error")?;
        ensure!(shown["failure_detail"] == code, "wanted {code}: {shown:#}");
        taken(east, "DELETE", &format!("{PAIRS}/{id}"), &Value::Null).map(drop)
    };
    fails([&source, &small], "37100041")?;
    fails([&source, none], "37100050")?;
    let host = attach(&west.nbd_socket(), "used")?;
    fails([&source, &used], "37100058")?;
    drop(host);
    // Two disks of one zone, one disk twice, a zone that nobody has, a model that does not exist.
    let other = disk(east, "other", 16)?;
    refused(east, ("POST", PAIRS, &new_pair([&source, &other], "az1")), 409)?;
    refused(east, ("POST", PAIRS, &new_pair([&source, &source], "az1")), 400)?;
    refused(east, ("POST", PAIRS, &new_pair([&source, &fits], "az9")), 400)?;
    let mut odd = new_pair([&source, &fits], "az1");
    odd["replication"]["replication_model"] = json!("async");
    refused(east, ("POST", PAIRS, &odd), 400)?;
    // A disk is in one pair; from either side it is made by the production site.
    let id = made_pair(west, [&fits, &source], "az1")?;
    // EVS-52: nor is it deleted.
    let told = east.ask(&["volume", "delete", "source"])?.text;
    ensure!(told.contains("replication pair"), "{told}");
    fails([&source, &used], "37100053")?;
    fails([&other, &fits], "37100054")?;
    // What another disk holds is lost only with a word.
    write(&pair, west, "used", 3)?;
    let full = new_pair([&other, &used], "az1");
    let shown = wait_for("the host to be gone", SOON, || {
        let made = taken(east, "POST", PAIRS, &full)?;
        let shown = await_pair(east, &text(&made["replication"]["id"])?, "error")?;
        ensure!(shown["failure_detail"] != "37100058", "{shown:#}");
        Ok(shown)
    })?;
    ensure!(shown["failure_reason"].to_string().contains("overwrite_destination"), "{shown:#}");
    holds(&pair, west, "used", 3)?;
    taken(west, "DELETE", &format!("{PAIRS}/{id}"), &Value::Null)?;
    wait_for("the pair to be gone", SOON, || {
        let (status, _) = call(east, "GET", &format!("{PAIRS}/{id}"), &Value::Null)?;
        ensure!(status == 404, "{status}");
        Ok(())
    })
}

#[test]
fn evs_13_pairs_join_and_leave_a_paused_group_and_both_disks_stay() -> Result<()> {
    let pair = zoned()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let (group, pairs) = synchronised(&pair)?;
    let source = disk(east, "more", 16)?;
    let target = disk(west, "more-dr", 16)?;
    let more = made_pair(east, [&source, &target], "az1")?;
    let path = format!("{GROUPS}/{group}");
    let change = |add: &[&str], remove: &[&str]| {
        json!({"replication_consistency_group": {
            "add_replication_ids": add, "remove_replication_ids": remove,
        }})
    };
    let add = change(&[&more], &[]);
    refused(east, ("PUT", &path, &add), 409)?;
    do_(east, &group, "stop")?;
    // EVS-14: nothing was written, so nothing differs; then it does.
    for site in [east, west] {
        await_group(site, &group, "available", "active-stopped")?;
    }
    write(&pair, east, "data", 4)?;
    for site in [east, west] {
        await_group(site, &group, "available", "inactive")?;
    }
    let updated = taken(east, "PUT", &path, &add)?;
    ensure!(updated["replication_consistency_group"]["status"] == "updating", "{updated:#}");
    await_so(east, &path, "replication_consistency_group", &[("status", "available")])?;
    do_(west, &group, "sync")?;
    await_group(east, &group, "available", "active")?;
    write(&pair, east, "more", 5)?;
    same((east, "more"), (west, "more-dr"))?;
    holds(&pair, west, "data-dr", 4)?;
    // It leaves, and its other disk is let go when the group is synchronised.
    do_(east, &group, "stop")?;
    await_so(east, &path, "replication_consistency_group", &[("status", "available")])?;
    taken(east, "PUT", &path, &change(&[], &[&more]))?;
    await_so(east, &path, "replication_consistency_group", &[("status", "available")])?;
    do_(east, &group, "sync")?;
    await_group(east, &group, "available", "active")?;
    wait_for("the other disk to be free", SYNC_LIMIT, || attach(&west.nbd_socket(), "more-dr"))?;
    holds(&pair, west, "more-dr", 5)?;
    // All leave; the group goes, then the pairs.
    do_(east, &group, "stop")?;
    await_so(east, &path, "replication_consistency_group", &[("status", "available")])?;
    taken(east, "PUT", &path, &change(&[], &[&pairs[0], &pairs[1]]))?;
    wait_for("the group to be empty", SYNC_LIMIT, || {
        let shown = get(east, &path)?["replication_consistency_group"].clone();
        ensure!(shown["replication_ids"] == json!([]), "{shown:#}");
        ensure!(shown["status"] == "available", "{shown:#}");
        Ok(())
    })?;
    taken(west, "DELETE", &path, &Value::Null)?;
    for id in [&pairs[0], &pairs[1], &more] {
        taken(east, "DELETE", &format!("{PAIRS}/{id}"), &Value::Null)?;
    }
    wait_for("the pairs to be gone", SYNC_LIMIT, || {
        for site in [east, west] {
            let listed = get(site, PAIRS)?;
            ensure!(listed["replications"] == json!([]), "{listed:#}");
        }
        Ok(())
    })?;
    for name in ["system-dr", "data-dr"] {
        attach(&west.nbd_socket(), name)?;
    }
    holds(&pair, west, "system-dr", 1)?;
    // A disk keeps its identity, and is paired again by it.
    let again = made_pair(east, [&source, &target], "az1")?;
    let shown = get(east, &format!("{PAIRS}/{again}"))?["replication"].clone();
    ensure!(shown["volume_ids"] == format!("{source},{target}"), "{shown:#}");
    Ok(())
}

#[test]
fn evs_18_a_planned_migration_goes_there_and_back_and_loses_nothing() -> Result<()> {
    let pair = zoned()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let (group, _) = synchronised(&pair)?;
    let host = attach(&east.nbd_socket(), "data")?;
    let error = not_done(east, &group, "reverse")?;
    ensure!(error["message"].to_string().contains("production servers"), "{error:#}");
    drop(host);
    wait_for("the host to be gone", SOON, || do_(east, &group, "reverse"))?;
    for site in [east, west] {
        let shown = await_group(site, &group, "available", "active")?;
        ensure!(shown["priority_station"] == "az2", "{shown:#}");
    }
    write(&pair, west, "data-dr", 6)?;
    same((west, "data-dr"), (east, "data"))?;
    // EVS-25: back by the same word, asked at the site that is not the production site.
    wait_for("the host to be gone", SOON, || do_(east, &group, "reverse"))?;
    let shown = await_group(east, &group, "available", "active")?;
    ensure!(shown["priority_station"] == "az1", "{shown:#}");
    holds(&pair, east, "data", 6)?;
    write(&pair, east, "system", 7)?;
    same((east, "system"), (west, "system-dr"))
}

#[test]
fn evs_23_a_failover_needs_nothing_of_the_lost_site_and_a_reprotect_copies_the_difference()
-> Result<()> {
    let mut pair = zoned()?;
    let (group, _) = synchronised(&pair)?;
    // While all is well it is not begun without the word that confirms it.
    let error = not_done(&pair.mirror, &group, "failover")?;
    ensure!(error["code"] == "SDRS.1030" && error["internal_code"] == "GW0408", "{error:#}");
    ensure!(error["next"].to_string().contains("confirm"), "{error:#}");
    not_done(&pair.mirror, &group, "reprotect")?;
    pair.primary.kill()?;
    let shown = wait_for("the loss to be noticed", SYNC_LIMIT, || {
        let path = format!("{GROUPS}/{group}");
        let shown = get(&pair.mirror, &path)?["replication_consistency_group"].clone();
        ensure!(shown["fault_level"] == "2", "{shown:#}");
        Ok(shown)
    })?;
    ensure!(shown["replication_status"] == "inactive", "{shown:#}");
    // EVS-07: what the lost site rules is refused by the number for that.
    let path = format!("{GROUPS}/{group}/action");
    let pause = json!({ "os-stop-replication-consistency-group": null });
    let error = refused(&pair.mirror, ("POST", &path, &pause), 502)?;
    ensure!(error["code"] == "37100043", "{error:#}");
    do_(&pair.mirror, &group, "failover")?;
    let shown = await_group(&pair.mirror, &group, "failovered", "active-stopped")?;
    ensure!(shown["priority_station"] == "az2", "{shown:#}");
    holds(&pair, &pair.mirror, "system-dr", 1)?;
    write(&pair, &pair.mirror, "data-dr", 8)?;
    pair.primary.start()?;
    // What it remembers is older: it takes on what became of the group.
    await_group(&pair.primary, &group, "failovered", "active-stopped")?;
    do_(&pair.primary, &group, "reprotect")?;
    await_group(&pair.mirror, &group, "available", "active")?;
    same((&pair.mirror, "data-dr"), (&pair.primary, "data"))?;
    holds(&pair, &pair.primary, "data", 8)
}

#[test]
fn evs_26_several_disks_grow_at_both_sites_in_one_call() -> Result<()> {
    let pair = zoned()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let (group, pairs) = synchronised(&pair)?;
    let larger = |gb: f64| {
        json!({"replications": [
            {"id": pairs[0], "new_size": gb}, {"id": pairs[1], "new_size": gb},
        ]})
    };
    act(west, &group, "os-extend-replication-volumes", &larger(1.7))?;
    let shown = get(east, &format!("{GROUPS}/{group}"))?["replication_consistency_group"].clone();
    ensure!(shown["status"] == "available", "{shown:#}");
    for (site, name) in [(east, "system"), (west, "system-dr"), (east, "data"), (west, "data-dr")] {
        site.wait_for(&["volume", "show", name], SOON, |of| of["bytes"] == 1u64 << 30)?;
    }
    let shown = get(east, &format!("{PAIRS}/{}", pairs[0]))?["replication"].clone();
    ensure!(shown["record_metadata"].to_string().contains("\\\"volume_size\\\":1"), "{shown:#}");
    let path = format!("{GROUPS}/{group}/action");
    let body = json!({"os-extend-replication-volumes": larger(1.0)});
    refused(east, ("POST", &path, &body), 400)?;
    await_group(east, &group, "available", "active").map(drop)
}

#[test]
fn evs_48_a_link_fault_is_a_fault_level_and_heals_by_itself() -> Result<()> {
    let mut pair = Pair::joined_by_relay()?;
    for (site, zone) in [(&pair.primary, "az1"), (&pair.mirror, "az2")] {
        set(site, "site", &format!("zone = \"{zone}\""))?;
    }
    pair.primary.kill()?;
    pair.mirror.kill()?;
    pair.primary.start()?;
    pair.mirror.start()?;
    let (group, _) = synchronised(&pair)?;
    pair.cut();
    let path = format!("{GROUPS}/{group}");
    let key = "replication_consistency_group";
    await_so(
        &pair.primary,
        &path,
        key,
        &[("fault_level", "5"), ("replication_status", "inactive")],
    )?;
    not_done(&pair.primary, &group, "reverse")?;
    write(&pair, &pair.primary, "data", 9)?;
    pair.mend();
    await_so(&pair.primary, &path, key, &[("fault_level", "0"), ("replication_status", "active")])?;
    wait_for("the same at both", SOON, || same((&pair.primary, "data"), (&pair.mirror, "data-dr")))
}
