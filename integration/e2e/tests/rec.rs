//! Scripts for the copy-session API against two real gateways: the four sample flows, and what each
//! call refuses.
//!
//! Invariant: the scripts in `rec/` know nothing of this product but the API; contents are compared
//! by reading both copies.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::{Value, json};

use crate::pair::{Pair, SOON, SYNC_LIMIT, compare, read_copy};
use crate::records::{attach, random_file};

/// The operation volume.
const SOURCE: &str = "orders";
/// The mirrored volume, at the other site.
const MIRROR: &str = "orders-dr";
/// Both sizes.
const MIB: u64 = 32;
/// What is written of it.
const DATA_BYTES: u64 = 8 << 20;

/// Where a site's API is and its token lies, as the scripts are told.
fn place(site: &Site, token: &Path) -> String {
    format!("https://127.0.0.1:{},{}", site.ports().api, token.display())
}

fn admin(site: &Site) -> String {
    place(site, &site.data_dir().join("admin.token"))
}

fn script(name: &str) -> Tool {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rec").join(name);
    // -B: nothing is left behind beside the scripts.
    Tool::new("python3").arg("-B").arg(path).limit(SYNC_LIMIT * 3)
}

/// What a call answered: its status and body; a job that it began is waited for.
fn call(site: &Site, method: &str, path: &str, body: &Value) -> Result<(u64, Value)> {
    call_as(&admin(site), method, path, body)
}

fn call_as(place: &str, method: &str, path: &str, body: &Value) -> Result<(u64, Value)> {
    let mut call = script("rec_call.py").args(["--run", place, method, path]);
    if !body.is_null() {
        call = call.arg(body.to_string());
    }
    let printed = call.run()?;
    let answer: Value = serde_json::from_str(&printed).context("read what was printed")?;
    let status = answer["status"].as_u64().context("no status")?;
    Ok((status, answer["body"].clone()))
}

fn get(site: &Site, path: &str) -> Result<Value> {
    let (status, body) = call(site, "GET", path, &Value::Null)?;
    ensure!(status == 200, "GET {path}: {status} {body:#}");
    Ok(body)
}

/// A call whose job must end well.
fn done(site: &Site, method: &str, path: &str, body: &Value) -> Result<Value> {
    let (status, job) = call(site, method, path, body)?;
    ensure!(status == 200 && job["status"] == "Success", "{method} {path}: {status} {job:#}");
    Ok(job)
}

/// A call that must be refused so, at once or by its job.
fn refused(site: &Site, method: &str, path: &str, body: &Value) -> Result<(u64, String)> {
    let (status, answer) = call(site, method, path, body)?;
    if status == 200 {
        ensure!(answer["status"] == "Error", "{method} {path} was taken: {answer:#}");
        let code = &answer["failed_resource_info_list"][0]["internal_code"];
        return Ok((200, code.as_str().unwrap_or_default().to_owned()));
    }
    let code = answer["internal_code"].as_str().context("no code")?;
    ensure!(answer["error_code"] == code[2..], "the error is {answer:#}");
    Ok((status, code.to_owned()))
}

/// The only session that a site lists.
fn session(site: &Site) -> Result<Value> {
    let list = get(site, "/copysession")?;
    match list["copysession_list"].as_array().map(Vec::as_slice) {
        Some([only]) => Ok(only.clone()),
        other => bail!("{} lists {other:?}", site.name()),
    }
}

fn sessions(site: &Site) -> Result<usize> {
    let list = get(site, "/copysession")?;
    list["copysession_list"].as_array().map(Vec::len).context("no list")
}

fn number(value: &Value, field: &str) -> Result<u64> {
    value[field].as_u64().with_context(|| format!("no {field} in {value:#}"))
}

fn href(value: &Value) -> Result<String> {
    let href = value["copysession_href"].as_str().context("no href")?;
    Ok(href.trim_start_matches("/api/v1").to_owned())
}

fn await_equivalent(site: &Site) -> Result<Value> {
    wait_for("the equivalent state", SYNC_LIMIT, || {
        let session = session(site)?;
        let is_it = session["status"] == "Active" && session["phase"] == "Equivalent";
        ensure!(is_it, "{session:#}");
        Ok(session)
    })
}

/// Writes random bytes to a volume as a host would.
fn write(pair: &Pair, site: &Site, volume: &str, seed: u64) -> Result<()> {
    let file = random_file(&pair.dir.path().join(format!("data-{seed}")), DATA_BYTES, seed)?;
    let copy = format!("write -s {} 0 {DATA_BYTES}", file.display());
    let uri = site.nbd_unix(volume);
    Tool::new("qemu-io").args(["-f", "raw", "-c", &copy, "-c", "flush", &uri]).run().map(drop)
}

/// The copy at a site, as a file that was not there before.
fn read(site: &Site, volume: &str, name: &str) -> Result<PathBuf> {
    let old = site.dir().join(name);
    if old.exists() {
        std::fs::remove_file(&old).context("remove an earlier copy")?;
    }
    read_copy(site, volume, name)
}

/// Both copies were read, byte for byte, and are the same.
fn are_identical(pair: &Pair) -> Result<()> {
    let here = read(&pair.primary, SOURCE, "here")?;
    let there = read(&pair.mirror, MIRROR, "there")?;
    compare(&here, &there)
}

/// A copy begins with the bytes that were written with this seed.
fn holds(pair: &Pair, site: &Site, volume: &str, seed: u64) -> Result<()> {
    let copy = read(site, volume, "held")?;
    let written = random_file(&pair.dir.path().join(format!("again-{seed}")), DATA_BYTES, seed)?;
    let limit = DATA_BYTES.to_string();
    Tool::new("cmp").args(["-n", &limit]).arg(copy).arg(written).run().map(drop)
}

fn is_attachable(site: &Site, volume: &str) -> bool {
    attach(&site.nbd_socket(), volume).is_ok()
}

/// Two sites, the operation volume with data, and what the create script makes of them.
fn created() -> Result<Pair> {
    let pair = Pair::joined()?;
    let body = json!({"name": SOURCE, "capacity": MIB, "tpp_id": 0});
    done(&pair.primary, "POST", "/volume", &body)?;
    write(&pair, &pair.primary, SOURCE, 1)?;
    create(&pair)?;
    Ok(pair)
}

fn create(pair: &Pair) -> Result<()> {
    let (local, remote) = (admin(&pair.primary), admin(&pair.mirror));
    script("rec_sync_create.py")
        .args(["--local", &local, "--remote", &remote, "--volume", SOURCE, "--mirror", MIRROR])
        .run()
        .map(drop)
}

#[test]
fn rec_02_the_create_script_makes_a_mirrored_volume() -> Result<()> {
    let pair = created()?;
    are_identical(&pair)?;
    holds(&pair, &pair.mirror, MIRROR, 1)?;

    // REC-04, REC-29: the same session from both ends.
    let (here, there) = (session(&pair.primary)?, session(&pair.mirror)?);
    for (session, is_source) in [(&here, true), (&there, false)] {
        ensure!(session["is_local_source_volume"] == is_source, "{session:#}");
        ensure!(session["source_volume_name"] == SOURCE, "{session:#}");
        ensure!(session["destination_volume_name"] == MIRROR, "{session:#}");
        ensure!(session["status"] == "Active" && session["phase"] == "Equivalent", "{session:#}");
        ensure!(session["progress"] == 100, "{session:#}");
    }
    ensure!(here["remote_copysession_id"] == there["copysession_id"], "{here:#} {there:#}");
    ensure!(there["remote_copysession_id"] == here["copysession_id"], "{here:#} {there:#}");
    ensure!(here["transfer_mode"] == "Synchronous" && here["split_mode"] == "Automatic");
    // REC-31: the path between the two boxes.
    let storage = get(&pair.primary, "/storage")?;
    ensure!(storage["remote_box_list"][0]["path_status"] == "Normal", "{storage:#}");
    let box_id = &get(&pair.mirror, "/storage")?["boxid"];
    ensure!(here["remote_boxid"] == *box_id, "{here:#}");
    let projected = get(&pair.primary, &format!("{}?fields=type,status", href(&here)?))?;
    ensure!(projected.as_object().map(serde_json::Map::len) == Some(4), "{projected:#}");

    // REC-05: the destination is closed while the session runs, and says why.
    ensure!(!is_attachable(&pair.mirror, MIRROR), "hosts attach the destination");
    let volume = get(&pair.mirror, "/volume")?["volume_list"][0].clone();
    ensure!(volume["detail_status"] == "Copy_Destination", "{volume:#}");
    Ok(())
}

/// Makes a volume of so many MiB; its number.
fn make(site: &Site, name: &str, capacity: u64) -> Result<u64> {
    let job = done(site, "POST", "/volume", &json!({"name": name, "capacity": capacity}))?;
    let href = job["resource_href_list"][0].as_str().context("no volume")?.to_owned();
    number(&get(site, href.trim_start_matches("/api/v1"))?, "volume_id")
}

#[test]
fn rec_02_what_does_not_fit_is_refused_by_name() -> Result<()> {
    let pair = Pair::joined()?;
    let source = make(&pair.primary, SOURCE, MIB)?;
    let small = make(&pair.mirror, "small", MIB / 2)?;
    let fits = make(&pair.mirror, MIRROR, MIB)?;
    let create = |destination: u64, from: &str, to: &str, more: &Value| {
        let mut body = json!({
            "source_volume_id": source, "destination_volume_id": destination,
            "source_boxid": from, "destination_boxid": to, "transfer_mode": "Synchronous",
        });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        refused(&pair.primary, "POST", "/copysession/rec", &body)
    };
    let none = json!({});
    ensure!(create(small, "east", "west", &none)? == (200, "GW0303".to_owned()), "sizes");
    ensure!(create(77, "east", "west", &none)? == (200, "GW0204".to_owned()), "no such volume");
    ensure!(create(fits, "east", "north", &none)? == (404, "GW0401".to_owned()), "no such box");
    ensure!(create(fits, "west", "east", &none)? == (409, "GW0405".to_owned()), "not the source");
    let odd = json!({"speed": 9});
    ensure!(create(fits, "east", "west", &odd)? == (400, "GW0203".to_owned()), "unknown field");
    let host = attach(&pair.mirror.nbd_socket(), MIRROR)?;
    ensure!(create(fits, "east", "west", &none)? == (200, "GW0302".to_owned()), "attached");
    drop(host);
    write(&pair, &pair.mirror, MIRROR, 3)?;
    wait_for("the host to be gone", SOON, || {
        ensure!(create(fits, "east", "west", &none)? == (200, "GW0408".to_owned()), "holds data");
        Ok(())
    })?;
    // Nothing was touched.
    holds(&pair, &pair.mirror, MIRROR, 3)?;
    ensure!(sessions(&pair.primary)? == 0 && sessions(&pair.mirror)? == 0, "a session was made");

    let body = json!({
        "source_volume_id": source, "destination_volume_id": fits, "source_boxid": "east",
        "destination_boxid": "west", "overwrite_destination": true,
    });
    done(&pair.primary, "POST", "/copysession/rec", &body)?;
    await_equivalent(&pair.primary)?;
    are_identical(&pair)
}

#[test]
fn rec_33_a_destination_that_holds_the_content_is_compared_and_not_copied() -> Result<()> {
    let pair = Pair::joined()?;
    pair.primary.cli(&["volume", "create", SOURCE, "--size", "64MiB"])?;
    pair.mirror.cli(&["volume", "create", MIRROR, "--size", "64MiB"])?;
    write(&pair, &pair.primary, SOURCE, 3)?;
    write(&pair, &pair.mirror, MIRROR, 3)?;
    let create = ["session", "create", SOURCE, "--to", "west", "--skip-initial-copy"];
    let named = ["--destination", MIRROR, "--bandwidth", "1MiB/s", "--wait"];
    // The hosts that wrote may take a moment to be gone.
    let made = wait_for("the session to be made", SOON, || {
        pair.primary.cli(&[&create[..], &named[..]].concat())
    })?;
    ensure!(made["resync_copied_bytes"] == 0, "equal blocks were sent: {made:#}");
    ensure!(made["leg"]["policy"]["bandwidth"] == "1MiB/s", "{made:#}");
    let window = "mon-fri 08:00-18:00 Europe/Berlin=10MiB/s";
    let set = ["--bandwidth-window", window, "--bandwidth", "50MiB/s", "--priority", "high"];
    let set = pair.primary.cli(&[&["session", "set", SOURCE][..], &set[..]].concat())?;
    ensure!(set["leg"]["policy"]["bandwidth_windows"] == json!([window]), "{set:#}");
    ensure!(set["leg"]["policy"]["priority"] == "high", "{set:#}");
    ensure!(set["leg"]["phase"] == "equivalent", "{set:#}");
    // Nothing was overwritten, so nothing had to be kept.
    ensure!(discarded(&pair)? == json!([]), "{:#}", discarded(&pair)?);
    are_identical(&pair)
}

/// What the destination keeps of what was overwritten in it.
fn discarded(pair: &Pair) -> Result<Value> {
    Ok(pair.mirror.cli(&["group", "show", MIRROR])?["discarded"].clone())
}

#[test]
fn rec_33_what_differs_is_overwritten_only_after_a_snapshot_is_kept_of_it() -> Result<()> {
    let pair = Pair::joined()?;
    let source = make(&pair.primary, SOURCE, MIB)?;
    let destination = make(&pair.mirror, MIRROR, MIB)?;
    write(&pair, &pair.primary, SOURCE, 3)?;
    write(&pair, &pair.mirror, MIRROR, 3)?;
    // One block of it differs.
    let uri = pair.mirror.nbd_unix(MIRROR);
    let other = "write -P 7 4096 4096";
    Tool::new("qemu-io").args(["-f", "raw", "-c", other, "-c", "flush", &uri]).run()?;
    let body = json!({
        "source_volume_id": source, "destination_volume_id": destination,
        "source_boxid": "east", "destination_boxid": "west", "skip_initial_copy": true,
    });
    // The hosts that wrote may take a moment to be gone.
    wait_for("the session to be made", SOON, || {
        done(&pair.primary, "POST", "/copysession/rec", &body)
    })?;
    await_equivalent(&pair.primary)?;
    let session = pair.primary.cli(&["session", "show", SOURCE])?;
    ensure!(session["resync_copied_bytes"] == 4096, "only what differs was sent: {session:#}");
    let kept = discarded(&pair)?;
    ensure!(kept[0]["bytes"] == 4096 && kept[1].is_null(), "{kept:#}");
    ensure!(kept[0]["snapshots"].as_array().is_some_and(|list| list.len() == 1), "{kept:#}");
    are_identical(&pair)
}

#[test]
fn rec_06_a_suspended_session_is_two_volumes_and_resume_asks_before_it_discards() -> Result<()> {
    let pair = created()?;
    let (here, there) = (session(&pair.primary)?, session(&pair.mirror)?);
    let here = href(&here)?;

    // REC-10, REC-13: neither before it is suspended.
    let resume = format!("{here}/resume");
    ensure!(refused(&pair.primary, "POST", &resume, &json!({}))? == (409, "GW0420".to_owned()));
    let manual = json!({"recovery_mode": "Manual"});
    ensure!(refused(&pair.primary, "PATCH", &here, &manual)? == (409, "GW0420".to_owned()));
    // At its source only.
    let suspend = format!("{}/suspend", href(&there)?);
    ensure!(refused(&pair.mirror, "POST", &suspend, &json!({}))? == (409, "GW0405".to_owned()));

    // REC-07: of several, each is told apart.
    let id = number(&session(&pair.primary)?, "copysession_id")?;
    let many = json!({"copysession_id_list": [id, 99]});
    let (_, job) = call(&pair.primary, "POST", "/copysession/suspend", &many)?;
    ensure!(job["status"] == "Partial_Error", "{job:#}");
    ensure!(job["succeeded_resource_href_list"] == json!([format!("/api/v1{here}")]), "{job:#}");
    ensure!(job["progress_href_list"] == json!([format!("/api/v1{here}")]), "{job:#}");
    let failed = &job["failed_resource_info_list"][0];
    ensure!(failed["resource_href"] == "/api/v1/copysession/99", "{job:#}");
    ensure!(failed["internal_code"] == "GW0204", "{job:#}");

    // Both can be written, and what is written is tracked.
    ensure!(session(&pair.primary)?["status"] == "Suspend");
    ensure!(session(&pair.mirror)?["status"] == "Suspend");
    write(&pair, &pair.mirror, MIRROR, 4)?;
    write(&pair, &pair.primary, SOURCE, 5)?;
    holds(&pair, &pair.mirror, MIRROR, 4)?;
    let tracked = number(&session(&pair.primary)?, "tracking_data_size")?;
    ensure!(tracked == DATA_BYTES >> 20, "{tracked} MiB are tracked");

    // REC-13: now it can be changed.
    done(&pair.primary, "PATCH", &here, &manual)?;
    ensure!(session(&pair.primary)?["recovery_mode"] == "Manual");

    ensure!(refused(&pair.primary, "POST", &resume, &json!({}))? == (409, "GW0408".to_owned()));
    holds(&pair, &pair.mirror, MIRROR, 4)?;
    done(&pair.primary, "POST", &resume, &json!({"confirm_discard": true}))?;
    await_equivalent(&pair.primary)?;
    are_identical(&pair)?;
    holds(&pair, &pair.mirror, MIRROR, 5)
}

#[test]
fn rec_12_the_recover_script_restores_the_operation_volume_and_goes_back() -> Result<()> {
    let pair = created()?;
    let here = href(&session(&pair.primary)?)?;
    done(&pair.primary, "POST", &format!("{here}/suspend"), &json!({}))?;
    // A host spoils the operation volume.
    write(&pair, &pair.primary, SOURCE, 6)?;
    holds(&pair, &pair.primary, SOURCE, 6)?;

    let (local, remote) = (admin(&pair.primary), admin(&pair.mirror));
    let recover = |stay: &[&str]| {
        script("rec_sync_consis_recover.py")
            .args(["--local", &local, "--remote", &remote, "--volume", MIRROR])
            .args(stay)
            .run()
    };
    let printed = recover(&["--stay"])?;
    ensure!(printed.contains("restored"), "{printed}");
    holds(&pair, &pair.primary, SOURCE, 1)?;
    are_identical(&pair)?;
    // REC-11: the direction is the other one, and so are the doors.
    let (here, there) = (session(&pair.primary)?, session(&pair.mirror)?);
    ensure!(here["is_local_source_volume"] == false, "{here:#}");
    ensure!(there["is_local_source_volume"] == true, "{there:#}");
    ensure!(there["source_volume_name"] == MIRROR, "{there:#}");
    ensure!(is_attachable(&pair.mirror, MIRROR) && !is_attachable(&pair.primary, SOURCE));

    // Work goes on there, and comes back with the session.
    write(&pair, &pair.mirror, MIRROR, 7)?;
    let number = number(&there, "copysession_id")?.to_string();
    script("rec_switch_async.py")
        .args(["--local", &remote, "--session", &number, "--mode", "Synchronous"])
        .run()?;
    let back = script("rec_sync_consis_recover.py")
        .args(["--local", &remote, "--remote", &local, "--volume", SOURCE, "--stay"])
        .run()?;
    ensure!(back.contains("restored"), "{back}");
    await_equivalent(&pair.primary)?;
    are_identical(&pair)?;
    holds(&pair, &pair.primary, SOURCE, 7)?;
    ensure!(is_attachable(&pair.primary, SOURCE) && !is_attachable(&pair.mirror, MIRROR));

    // The whole way there and back.
    let printed = recover(&[])?;
    ensure!(printed.contains("restored") && printed.contains("back"), "{printed}");
    await_equivalent(&pair.primary)?;
    are_identical(&pair)?;
    holds(&pair, &pair.primary, SOURCE, 7)
}

#[test]
fn rec_11_a_lost_source_is_reversed_by_force_and_follows_when_it_returns() -> Result<()> {
    let mut pair = created()?;
    let there = href(&session(&pair.mirror)?)?;
    let reverse = format!("{there}/reverse");
    ensure!(refused(&pair.mirror, "POST", &reverse, &json!({}))? == (409, "GW0420".to_owned()));
    pair.primary.kill()?;
    wait_for("the loss of the path", SOON, || {
        let session = session(&pair.mirror)?;
        ensure!(session["status"] == "Halt", "{session:#}");
        Ok(())
    })?;
    done(&pair.mirror, "POST", &format!("{there}/suspend"), &json!({"force": true}))?;
    ensure!(refused(&pair.mirror, "POST", &reverse, &json!({}))? == (409, "GW0420".to_owned()));
    done(&pair.mirror, "POST", &reverse, &json!({"force": true}))?;
    ensure!(session(&pair.mirror)?["status"] == "Suspend");
    write(&pair, &pair.mirror, MIRROR, 8)?;
    pair.primary.start()?;
    done(&pair.mirror, "POST", &format!("{there}/resume"), &json!({}))?;
    await_equivalent(&pair.mirror)?;
    are_identical(&pair)?;
    holds(&pair, &pair.primary, SOURCE, 8)
}

#[test]
fn rec_13_the_switch_script_goes_to_each_asynchronous_mode_and_back() -> Result<()> {
    let pair = created()?;
    let number = number(&session(&pair.primary)?, "copysession_id")?.to_string();
    let local = admin(&pair.primary);
    let switch = |mode: &str| {
        script("rec_switch_async.py")
            .args(["--local", &local, "--session", &number, "--mode", mode])
            .run()
    };
    for (mode, seed) in [("Consistency", 11), ("Stack", 12)] {
        // REC-14: the split mode is Manual meanwhile, and comes back by itself; both are told.
        let printed = switch(mode)?;
        ensure!(printed.contains("Automatic is remembered"), "{printed}");
        ensure!(printed.contains(&format!("Synchronous -> {mode}")), "{printed}");
        let there = session(&pair.primary)?;
        ensure!(there["transfer_mode"] == mode && there["split_mode"] == "Manual", "{there:#}");
        let path = href(&there)?;
        done(&pair.primary, "POST", &format!("{path}/suspend"), &json!({"force": true}))?;
        let split = json!({"split_mode": "Automatic"});
        ensure!(refused(&pair.primary, "PATCH", &path, &split)? == (400, "GW0203".to_owned()));
        done(&pair.primary, "POST", &format!("{path}/resume"), &json!({}))?;
        write(&pair, &pair.primary, SOURCE, seed)?;

        let printed = switch("Synchronous")?;
        ensure!(printed.contains("Automatic again"), "{printed}");
        let back = await_equivalent(&pair.primary)?;
        ensure!(back["transfer_mode"] == "Synchronous", "{back:#}");
        ensure!(back["split_mode"] == "Automatic", "{back:#}");
        are_identical(&pair)?;
        holds(&pair, &pair.mirror, MIRROR, seed)?;
    }
    Ok(())
}

#[test]
fn rec_24_the_delete_script_keeps_the_mirrored_volume_and_rec_25_removes_it() -> Result<()> {
    let pair = created()?;
    let (local, remote) = (admin(&pair.primary), admin(&pair.mirror));
    let delete = |more: &[&str]| -> Result<String> {
        let number = number(&session(&pair.primary)?, "copysession_id")?.to_string();
        script("copysession_delete.py")
            .args(["--local", &local, "--remote", &remote, "--session", &number])
            .args(more)
            .run()
    };
    // REC-25: not while it is in a session.
    let doomed = json!({"volume_id_list": [1]});
    ensure!(refused(&pair.mirror, "DELETE", "/volume", &doomed)? == (409, "GW0302".to_owned()));
    delete(&[])?;
    ensure!(sessions(&pair.primary)? == 0 && sessions(&pair.mirror)? == 0, "it is still listed");
    ensure!(is_attachable(&pair.primary, SOURCE) && is_attachable(&pair.mirror, MIRROR));
    are_identical(&pair)?;
    write(&pair, &pair.mirror, MIRROR, 10)?;
    holds(&pair, &pair.mirror, MIRROR, 10)?;
    holds(&pair, &pair.primary, SOURCE, 1)?;

    // REC-20: deleted and created anew, onto the volume that was its mirror.
    wait_for("a second session", SOON, || create(&pair))?;
    are_identical(&pair)?;
    holds(&pair, &pair.mirror, MIRROR, 1)?;
    delete(&["--force", "--with-mirror"])?;
    let left = get(&pair.mirror, "/volume")?;
    ensure!(left["total_count"] == 0, "{left:#}");
    holds(&pair, &pair.primary, SOURCE, 1)
}

#[test]
fn rec_23_a_dead_path_leaves_a_half_that_is_listed_and_removed_there() -> Result<()> {
    let mut pair = created()?;
    let here = href(&session(&pair.primary)?)?;
    pair.mirror.kill()?;
    wait_for("the loss of the path", SOON, || {
        let session = session(&pair.primary)?;
        ensure!(session["status"] == "Halt", "{session:#}");
        // REC-28: the code and the time of it.
        ensure!(session["error_code"].is_string(), "{session:#}");
        ensure!(session["error_ocurrence_time"].is_string(), "{session:#}");
        Ok(())
    })?;
    // EVS-36: it is not parted before it is in sync, unless forced.
    let suspend = format!("{here}/suspend");
    ensure!(refused(&pair.primary, "POST", &suspend, &json!({}))? == (409, "GW0407".to_owned()));
    ensure!(refused(&pair.primary, "DELETE", &here, &Value::Null)? == (409, "GW0407".to_owned()));
    let job = done(&pair.primary, "DELETE", &here, &json!({"force": true}))?;
    let said = job["operation_list"].to_string();
    ensure!(said.contains("left behind"), "{job:#}");
    ensure!(sessions(&pair.primary)? == 0, "it is still listed");

    pair.mirror.start()?;
    let half = session(&pair.mirror)?;
    ensure!(half["status"] == "Halt" && half["is_destination_usable"] == true, "{half:#}");
    ensure!(!is_attachable(&pair.mirror, MIRROR), "a half is open");
    done(&pair.mirror, "DELETE", &href(&half)?, &Value::Null)?;
    ensure!(sessions(&pair.mirror)? == 0, "it is still listed");
    ensure!(is_attachable(&pair.mirror, MIRROR), "it is no volume");
    holds(&pair, &pair.mirror, MIRROR, 1)
}

#[test]
fn rec_25_a_destination_is_deleted_together_with_its_session() -> Result<()> {
    let pair = created()?;
    let id = number(&session(&pair.mirror)?, "destination_volume_number")?;
    let body = json!({"volume_id_list": [id], "with_copysessions": true});
    done(&pair.mirror, "DELETE", "/volume", &body)?;
    ensure!(sessions(&pair.primary)? == 0 && sessions(&pair.mirror)? == 0, "it is still listed");
    ensure!(get(&pair.mirror, "/volume")?["total_count"] == 0);
    holds(&pair, &pair.primary, SOURCE, 1)?;
    // REC-26 counts what is there: the source can be mirrored anew, and numbers are never reused.
    create(&pair)?;
    let again = number(&session(&pair.mirror)?, "destination_volume_number")?;
    ensure!(again > id, "number {again} was used before");
    Ok(())
}

#[test]
fn rec_30_a_viewer_reads_and_changes_nothing() -> Result<()> {
    let pair = created()?;
    let made = pair.primary.cli(&["token", "create", "reader", "--role", "viewer"])?;
    let token = pair.dir.path().join("reader.token");
    std::fs::write(&token, made["token"].as_str().context("no token")?)?;
    let reader = place(&pair.primary, &token);
    let here = href(&session(&pair.primary)?)?;
    let (status, _) = call_as(&reader, "GET", "/copysession", &Value::Null)?;
    ensure!(status == 200, "a viewer reads");
    for (method, path) in [
        ("POST", "/copysession/rec".to_owned()),
        ("POST", format!("{here}/suspend")),
        ("POST", format!("{here}/reverse")),
        ("PATCH", here.clone()),
        ("DELETE", here.clone()),
        ("DELETE", "/volume".to_owned()),
    ] {
        let (status, body) = call_as(&reader, method, &path, &json!({}))?;
        ensure!(status == 403 && body["error_code"] == "0202", "{method} {path}: {status} {body}");
    }
    // REC-29: a stranger is told in the same shape.
    std::fs::write(&token, "nobody")?;
    let (status, body) = call_as(&reader, "GET", "/copysession", &Value::Null)?;
    ensure!(status == 401 && body["internal_code"] == "GW0201", "{status} {body}");
    await_equivalent(&pair.primary).map(drop)
}
