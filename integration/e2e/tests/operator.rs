//! What an operator sees and is refused: exit codes, answers, causes, next commands.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Process, Site, Tool, binary, python, wait_for};
use serde_json::{Value, json};

use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, await_group, digest, expect, fail_over, group, number,
    read_copy, serves, single, text,
};
use crate::records::attach;

/// Runs the program by itself, without a gateway's address.
fn program(arguments: &[&str]) -> Result<(i32, String)> {
    let binary = binary()?;
    Tool::new(binary.to_str().context("the path is no text")?).args(arguments).code()
}

/// Every finding has a code, a cause and a next step.
fn is_explained(group: &Value, code: &str) -> Result<String> {
    let all = group["explanations"].as_array().context("there are no explanations")?;
    for one in all {
        for part in ["/code", "/cause", "/next"] {
            ensure!(!text(one, part)?.is_empty(), "{part} is empty in {group:#}");
        }
    }
    let found = all.iter().find(|one| one["code"] == code);
    text(found.with_context(|| format!("no {code} in {group:#}"))?, "/cause")
}

#[test]
fn the_status_goes_from_empty_to_ready_to_at_risk_and_back() -> Result<()> {
    let mut pair = Pair::joined()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let status = expect(east, &["status"], 0, "")?.json;
    ensure!(status["verdict"] == "empty", "{status:#}");
    let peer = &status["peers"][0];
    ensure!(peer["site"] == "west" && peer["last_heard_ms_ago"].is_null(), "{status:#}");

    east.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    let status = expect(east, &["status"], 3, "")?.json;
    ensure!(status["verdict"] == "unprotected" && status["unprotected"] == 1, "{status:#}");
    is_explained(&status["groups"][0], "GW0615")?;

    east.cli(&["session", "create", VOLUME, "--to", "west", "--wait"])?;
    let status = expect(east, &["status"], 0, "")?.json;
    ensure!(status["verdict"] == "ready" && status["protected"] == 1, "{status:#}");
    ensure!(status["groups"][0]["legs"][0]["site"] == "west", "{status:#}");
    // The other side's view comes with the next heartbeat, and has an age.
    await_group(east, "the other side's view", SOON, |group| {
        let theirs = &group["legs"][0]["theirs"];
        theirs["in_sync"] == true && theirs["age_ms"].is_u64()
    })?;
    let seen = expect(west, &["status"], 0, "")?.json;
    let seen = &seen["groups"][0];
    ensure!(seen["role"] == "secondary" && seen["upstream"]["site"] == "east", "{seen:#}");
    ensure!(seen["rpo_seconds"] == 0.0, "{seen:#}");
    let (code, screen) = screen(east)?;
    ensure!(code == 0 && screen.contains("READY") && screen.contains(VOLUME), "{screen}");

    pair.mirror.kill()?;
    let lost = await_group(&pair.primary, "the loss", SOON, |g| g["health"] == "at_risk")?;
    ensure!(serves(&lost) && lost["legs"][0]["phase"] == "tracking", "{lost:#}");
    expect(&pair.primary, &["status"], 4, "at_risk")?;
    let (code, text) =
        program(&["status", "--url", "https://127.0.0.1:1", "--token-file", "/dev/null"])?;
    ensure!(code == 6, "a gateway that is not there: {code}\n{text}");
    pair.mirror.start()?;
    await_group(&pair.primary, "the return", SYNC_LIMIT, |g| g["health"] == "ready")?;
    expect(&pair.primary, &["status"], 0, "ready").map(drop)
}

/// The status as people see it.
fn screen(site: &Site) -> Result<(i32, String)> {
    let token = site.data_dir().join("admin.token");
    let url = format!("https://127.0.0.1:{}", site.ports().api);
    program(&["status", "--url", &url, "--token-file", token.to_str().context("a path")?])
}

#[test]
fn what_is_not_known_is_never_green() -> Result<()> {
    let mut pair = Pair::mirrored("16MiB")?;
    pair.primary.kill()?;
    let silent = await_group(&pair.mirror, "silence", SOON, |g| g["health"] == "at_risk")?;
    is_explained(&silent, "GW0614")?;
    ensure!(silent["upstream"]["last_heard_ms_ago"].is_u64(), "{silent:#}");
    expect(&pair.mirror, &["status"], 4, "failover plan")?;
    // It starts again and has heard from nobody: what it may lack cannot be known.
    pair.mirror.stop()?;
    pair.mirror.start()?;
    let unheard = group(&pair.mirror)?;
    ensure!(unheard["upstream"]["last_heard_ms_ago"].is_null(), "{unheard:#}");
    ensure!(unheard["rpo_seconds"].is_null(), "the RPO cannot be known: {unheard:#}");
    let metrics = pair.mirror.metrics()?;
    ensure!(!metrics.contains("twinspan_group_rpo_seconds{"), "an unknown RPO is exported");
    expect(&pair.mirror, &["status"], 4, "")?;
    // The other way round: the primary starts and waits, because its mirror could serve by now.
    pair.mirror.stop()?;
    pair.primary.start()?;
    let waiting = group(&pair.primary)?;
    is_explained(&waiting, "GW0609")?;
    ensure!(waiting["serving"] == "waiting_for_mirror", "{waiting:#}");
    ensure!(attach(&pair.primary.nbd_socket(), VOLUME).is_err(), "it serves before it knows");
    // The operator's word that the mirror is lost.
    expect(&pair.primary, &["session", "suspend", VOLUME], 0, "suspended")?;
    await_group(&pair.primary, "service", SOON, serves)?;
    attach(&pair.primary.nbd_socket(), VOLUME).map(drop)
}

#[test]
fn volumes_are_made_shown_grown_and_deleted() -> Result<()> {
    let pair = Pair::mirrored("16MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    for (name, size, code, word) in [
        ("bad name", "1MiB", 2, "GW0203"),
        ("-dash", "1MiB", 2, ""),
        ("odd", "4097", 2, "GW0303"),
        ("none", "0", 2, "GW0303"),
        ("vast", "2PiB", 2, "GW0303"),
        ("text", "many", 2, "many"),
        (VOLUME, "1MiB", 7, "GW0205"),
    ] {
        expect(east, &["volume", "create", name, "--size", size], code, word)?;
    }
    expect(east, &["volume", "show", "nothing"], 1, "GW0204")?;
    let made = east.cli(&["volume", "create", "wide", "--size", "1PiB", "--group", "g1"])?;
    ensure!(number(&made, "/bytes")? == 1 << 50 && made["group"] == "g1", "{made:#}");
    let list = east.cli(&["volume", "list"])?;
    let names: Vec<&Value> =
        list["items"].as_array().into_iter().flatten().map(|v| &v["name"]).collect();
    ensure!(names == [&json!(VOLUME), &json!("wide")], "{list:#}");

    expect(east, &["volume", "grow", VOLUME, "--size", "8MiB"], 2, "GW0303")?;
    expect(west, &["volume", "grow", VOLUME, "--size", "32MiB"], 7, "GW0405")?;
    let grown = east.ask(&["volume", "grow", VOLUME, "--size", "32MiB"])?;
    ensure!(grown.code == 0 && number(&grown.json, "/bytes")? == 32 << 20, "{}", grown.text);
    let there = west.ask(&["volume", "show", VOLUME])?.json;
    ensure!(number(&there, "/bytes")? == 32 << 20 && there["copy"] == "standby", "{there:#}");
    let far = ["write -P 7 31M 1M", "flush", "read -P 7 31M 1M"];
    let far = far.iter().flat_map(|command| ["-c", command]);
    Tool::new("qemu-io").args(["-f", "raw"]).args(far).arg(east.nbd(VOLUME)).run()?;
    pair.is_identical()?;

    expect(east, &["volume", "delete", VOLUME], 7, "GW0302")?;
    expect(west, &["volume", "delete", VOLUME], 7, "GW0302")?;
    let host = attach(&east.nbd_socket(), "wide")?;
    expect(east, &["volume", "delete", "wide"], 7, "GW0302")?;
    drop(host);
    wait_for("the deletion", SOON, || expect(east, &["volume", "delete", "wide"], 0, ""))?;
    expect(east, &["volume", "show", "wide"], 1, "GW0204").map(drop)
}

#[test]
fn a_mirror_never_takes_the_place_of_a_volume_that_is_there() -> Result<()> {
    let pair = Pair::joined()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    east.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    west.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    let (mut host, _) = attach(&west.nbd_socket(), VOLUME)?;
    std::io::Write::write_all(&mut host, &[7; 4096])?;
    let before = digest(west)?;
    // It is refused at once, or becomes the state of the session: never a copy.
    east.ask(&["session", "create", VOLUME, "--to", "west"])?;
    let refused = await_group(east, "the refusal", SOON, |g| g["legs"][0]["state"] == "error")?;
    let cause = is_explained(&refused, "GW0606")?;
    ensure!(cause.contains("west") && cause.contains(VOLUME), "{cause}");
    ensure!(digest(west)? == before, "it was overwritten");
    std::io::Write::write_all(&mut host, &[8; 4096]).context("the host there was dropped")?;
    expect(east, &["session", "create", VOLUME, "--to", "nowhere"], 7, "GW0401").map(drop)
}

#[test]
fn sessions_are_suspended_resumed_and_deleted() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let east = &pair.primary;
    expect(east, &["session", "create", VOLUME, "--to", "west"], 7, "GW0413")?;
    expect(&pair.mirror, &["session", "suspend", VOLUME], 1, "GW0204")?;
    expect(east, &["session", "suspend", VOLUME], 0, "suspended")?;
    expect(east, &["status"], 4, "GW0607")?;
    let write = ["write -P 9 4M 1M", "flush"].iter().flat_map(|command| ["-c", command]);
    Tool::new("qemu-io").args(["-f", "raw"]).args(write).arg(east.nbd(VOLUME)).run()?;
    let apart = digest(&pair.mirror)?;
    ensure!(digest(east)? != apart, "a suspended mirror was written to");
    let differ = number(&group(east)?, "/out_of_sync_bytes")?;
    ensure!(differ >= 1 << 20, "{differ} bytes differ");
    east.cli(&["session", "resume", VOLUME, "--wait"])?;
    let session = east.cli(&["session", "show", VOLUME])?;
    let copied = number(&session, "/resync_copied_bytes")?;
    ensure!(session["resync_kind"] == "delta" && copied <= 4 << 20, "{session:#}");
    println!("{differ} bytes differed, {copied} were copied");
    pair.is_identical()?;

    let set = ["session", "set", VOLUME, "--split", "manual", "--ack-deadline", "3s"];
    let policy = east.cli(&set)?["leg"]["policy"].clone();
    ensure!(policy["split"] == "manual" && policy["ack_deadline_ms"] == 3000, "{policy:#}");
    expect(east, &["session", "set", VOLUME, "--split", "perhaps"], 2, "GW0203")?;
    expect(east, &["session", "delete", VOLUME], 0, "")?;
    expect(east, &["status"], 3, "unprotected")?;
    Ok(())
}

#[test]
fn split_manual_refuses_writes_while_the_mirror_is_away() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.primary.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    let create = ["session", "create", VOLUME, "--to", "west", "--split", "manual", "--wait"];
    pair.primary.cli(&create)?;
    let said = |site: &Site| {
        let uri = site.nbd_unix(VOLUME);
        python(&format!(
            "import nbd\nh = nbd.NBD(); h.connect_uri({uri:?})\n\
             try: h.pwrite(b'x' * 4096, 0); print('written')\n\
             except nbd.Error as e: print(e.errno)\n\
             print(len(h.pread(4096, 0)))\n"
        ))
    };
    ensure!(said(&pair.primary)?.split_whitespace().eq(["written", "4096"]), "it is in sync");
    pair.mirror.kill()?;
    let halted = await_group(&pair.primary, "the halt", SOON, |g| g["serving"] == "halted")?;
    is_explained(&halted, "GW0611")?;
    let refused = said(&pair.primary)?;
    ensure!(refused.split_whitespace().eq(["EIO", "4096"]), "{refused}");
    ensure!(number(&group(&pair.primary)?, "/unprotected_writes")? == 0, "one was acknowledged");
    // The operator's word that it may go on alone, taken back when the mirror is there again.
    pair.primary.cli(&["session", "suspend", VOLUME])?;
    ensure!(said(&pair.primary)?.split_whitespace().eq(["written", "4096"]), "it goes on alone");
    pair.mirror.start()?;
    pair.primary.cli(&["session", "resume", VOLUME, "--wait"])?;
    ensure!(said(&pair.primary)?.split_whitespace().eq(["written", "4096"]), "it is in sync");
    pair.is_identical()
}

#[test]
fn recovery_manual_waits_for_the_operator() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.primary.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    let create = ["session", "create", VOLUME, "--to", "west", "--recovery", "manual", "--wait"];
    pair.primary.cli(&create)?;
    // Another one, with the other policy, shows when the mirror would have been copied to.
    pair.primary.cli(&["volume", "create", "other", "--size", "16MiB"])?;
    pair.primary.cli(&["session", "create", "other", "--to", "west", "--wait"])?;
    pair.mirror.kill()?;
    await_group(&pair.primary, "the loss", SOON, |g| g["health"] == "at_risk")?;
    pair.mirror.start()?;
    let is_equivalent = |session: &Value| {
        session["leg"]["phase"] == "equivalent" && session["leg"]["in_sync"] == true
    };
    pair.primary.wait_for(&["session", "show", "other"], SYNC_LIMIT, is_equivalent)?;
    let now = group(&pair.primary)?;
    ensure!(now["legs"][0]["in_sync"] == false, "it resynchronised by itself: {now:#}");
    ensure!(now["health"] == "at_risk", "{now:#}");
    pair.primary.cli(&["session", "resume", VOLUME, "--wait"])?;
    pair.is_identical()
}

#[test]
fn a_wrong_configuration_is_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("twinspan.toml");
    let path = file.to_str().context("a path")?;
    for (content, words) in [
        ("[site]\nnme = \"x\"\n", ["site.nme", "site.name"]),
        ("[link]\nlisten = \"here\"\n", ["link.listen", "here"]),
        ("[mirror]\nsplit = \"perhaps\"\n", ["mirror.split", "perhaps"]),
        (
            "[[nbd.listeners]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\ntls = \"required\"\n",
            ["nbd", "certificate"],
        ),
        ("data_dir = 7\n", ["data_dir", "7"]),
        ("[site\n", ["TOML", "twinspan.toml"]),
    ] {
        fs::write(&file, content)?;
        for command in [&["serve", "--config", path][..], &["config", "check", path][..]] {
            let (code, said) = program(command)?;
            let is_told = words.iter().all(|word| said.contains(word));
            ensure!(code == 64 && is_told, "{content}{command:?}: {code}\n{said}");
        }
    }
    fs::write(&file, "[site]\nname = \"x\"\n")?;
    let (code, said) = program(&["config", "check", path])?;
    ensure!(code == 0 && said.is_empty(), "{code} {said}");
    Ok(())
}

#[test]
fn a_pool_belongs_to_one_gateway_at_a_time() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    let mut command = Command::new(binary()?);
    command.arg("serve").arg("--config").arg(site.config_file());
    let log = dir.path().join("second.log");
    let mut second = Process::start("second", &mut command, &log)?;
    let ended = wait_for("its end", SOON, || second.ended()?.context("it runs"))?;
    ensure!(!ended.success(), "a second gateway on one pool ended with {ended}");
    let said = second.tail();
    ensure!(said.contains("pool") && !said.contains("panicked"), "{said}");
    attach(&site.nbd_socket(), VOLUME).context("the first one was disturbed")?;
    site.stop()
}

#[test]
fn only_who_has_a_token_may_ask_and_only_for_what_its_role_permits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = single(dir.path(), "east")?;
    let url = format!("https://127.0.0.1:{}", site.ports().api);
    let ca = site.data_dir().join("api.crt");
    let ca = ca.to_str().context("a path")?;
    let with = |token: &str, arguments: &[&str]| -> Result<(i32, String)> {
        let file = dir.path().join("token");
        fs::write(&file, token)?;
        let place = ["--url", &url, "--ca", ca, "--token-file", file.to_str().context("a path")?];
        program(&[&place[..], arguments].concat())
    };
    let (code, said) = with("wrong", &["status"])?;
    ensure!(code == 7 && said.contains("GW0201"), "{code} {said}");
    let viewer = text(&site.cli(&["token", "create", "v", "--role", "viewer"])?, "/token")?;
    ensure!(with(&viewer, &["volume", "list"])?.0 == 0, "a viewer may look");
    let (code, said) = with(&viewer, &["volume", "create", "x", "--size", "1MiB"])?;
    ensure!(code == 7 && said.contains("GW0202"), "{code} {said}");
    let operator = text(&site.cli(&["token", "create", "o", "--role", "operator"])?, "/token")?;
    ensure!(with(&operator, &["volume", "create", "x", "--size", "1MiB"])?.0 == 0, "may operate");
    let (code, said) = with(&operator, &["token", "create", "y", "--role", "admin"])?;
    ensure!(code == 7 && said.contains("GW0202"), "{code} {said}");
    expect(&site, &["token", "delete", "v"], 0, "")?;
    let (code, said) = with(&viewer, &["volume", "list"])?;
    ensure!(code == 7 && said.contains("GW0201"), "a withdrawn token: {code} {said}");
    let (code, said) = {
        let other = single(dir.path(), "other")?;
        let certificate = other.data_dir().join("api.crt");
        let certificate = certificate.to_str().context("a path")?;
        let token = site.data_dir().join("admin.token");
        let token = token.to_str().context("a path")?;
        program(&["--url", &url, "--ca", certificate, "--token-file", token, "status"])?
    };
    ensure!(code == 6, "a certificate that is not pinned: {code} {said}");
    let log = fs::read_to_string(site.dir().join("log"))?;
    ensure!(!log.contains(&viewer) && !log.contains(&operator), "a token is in the log");
    Ok(())
}

#[test]
fn what_happened_can_be_read() -> Result<()> {
    let mut pair = Pair::mirrored("16MiB")?;
    pair.primary.kill()?;
    fail_over(&pair.mirror)?;
    pair.swap();
    pair.mirror.start()?;
    await_group(&pair.mirror, "the fence", SOON, |g| g["role"] == "fenced")?;
    pair.primary.cli(&["reprotect", VOLUME, "--wait"])?;
    let told = |site: &Site| -> Result<String> { Ok(site.ask(&["events", "--since", "0"])?.text) };
    for word in ["joined", "failed over to this site", "reprotected towards east"] {
        wait_for(word, SOON, || {
            let told = told(&pair.primary)?;
            ensure!(told.contains(word), "{told}");
            Ok(())
        })?;
    }
    let list = pair.primary.cli(&["operation", "list"])?.to_string();
    ensure!(list.contains("failover") && list.contains("reprotect"), "{list}");
    let fenced = told(&pair.mirror)?;
    ensure!(fenced.contains("a higher epoch exists: hosts were dropped"), "{fenced}");
    Ok(())
}

#[test]
fn a_stop_is_clean_and_so_is_the_next_start() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    let write = ["write -P 5 1M 8M"].iter().flat_map(|command| ["-c", command]);
    Tool::new("qemu-io").args(["-f", "raw"]).args(write).arg(pair.primary.nbd(VOLUME)).run()?;
    let before = digest(&pair.primary)?;
    let host = attach(&pair.primary.nbd_socket(), VOLUME)?;
    pair.primary.stop()?;
    drop(host);
    let seen =
        await_group(&pair.mirror, "the goodbye", SOON, |g| g["upstream"]["orderly"] == true)?;
    is_explained(&seen, "GW0614")?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let session = pair.primary.cli(&["session", "show", VOLUME])?;
    let copied = number(&session, "/resync_copied_bytes")?;
    ensure!(copied == 0, "a clean stop cost a copy of {copied} bytes: {session:#}");
    pair.mirror.stop()?;
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    ensure!(digest(&pair.primary)? == before, "something changed");
    pair.is_identical()?;
    let copy = read_copy(&pair.mirror, VOLUME, "copy")?;
    let found = fs::read(copy)?;
    ensure!(found[1 << 20..9 << 20].iter().all(|byte| *byte == 5), "it is not what was written");
    for site in [&mut pair.primary, &mut pair.mirror] {
        let log = fs::read_to_string(site.dir().join("log"))?;
        let bad: Vec<&str> =
            log.lines().filter(|l| l.contains("ERROR") || l.contains("panicked")).collect();
        ensure!(bad.is_empty(), "{bad:?}");
    }
    Ok(())
}

#[test]
fn a_failover_that_could_lose_writes_is_not_begun_without_a_word() -> Result<()> {
    let mut pair = Pair::mirrored("16MiB")?;
    // The primary answers: that is what reverse is for.
    let plan = expect(&pair.mirror, &["failover", "plan", VOLUME], 7, "blocked")?.json;
    ensure!(plan["token"].is_null(), "{plan:#}");
    expect(&pair.primary, &["failover", "plan", VOLUME], 7, "blocked")?;
    expect(&pair.mirror, &["failover", "run", VOLUME, "--token", "WRONG1"], 7, "GW0411")?;
    // A mirror that was left behind is not promoted by itself.
    expect(&pair.primary, &["session", "suspend", VOLUME], 0, "suspended")?;
    let write = ["write -P 9 4M 1M", "flush"].iter().flat_map(|command| ["-c", command]);
    Tool::new("qemu-io").args(["-f", "raw"]).args(write).arg(pair.primary.nbd(VOLUME)).run()?;
    pair.primary.kill()?;
    let stale = await_group(&pair.mirror, "its state", SOON, |g| g["quality"] == "outdated")?;
    is_explained(&stale, "GW0617")?;
    let plan = expect(&pair.mirror, &["failover", "plan", VOLUME], 7, "blocked")?.json;
    ensure!(plan["token"].is_null(), "{plan:#}");
    let accept = ["failover", "plan", VOLUME, "--accept", "outdated"];
    let plan = expect(&pair.mirror, &accept, 0, "warning")?.json;
    let token = text(&plan, "/token")?;
    expect(&pair.mirror, &["failover", "run", VOLUME, "--token", &token], 0, "succeeded")?;
    expect(&pair.mirror, &["failover", "run", VOLUME, "--token", &token], 7, "GW0411")?;
    attach(&pair.mirror.nbd_socket(), VOLUME).map(drop)
}
