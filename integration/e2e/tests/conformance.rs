//! The conformance suite of iSCSI against a whole gateway, with CHAP and two portals; and tgt beside
//! it.
//!
//! Invariant: every test of the suite ends as `conformance.txt` says. What is expected to do
//! anything but pass is argued in `gateway/docs/COVERAGE.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{
    Process, Site, Tool, Verdict, Verdicts, conformance, conformance_tests, expected, free_port,
    require, wait_for,
};
use tempfile::TempDir;

use crate::pair::SOON;

/// How every test ends.
const EXPECTED: &str = include_str!("conformance.txt");
/// Where it is argued why some do not pass.
const COVERAGE: &str = include_str!("../../../gateway/docs/COVERAGE.md");
/// What the suite must pass of its 230 tests.
const PASSED_MIN: usize = 205;
const SECRET: &str = "secretsecret12";

/// How many ended in each way.
fn score(name: &str, verdicts: &Verdicts) -> String {
    let count = |verdict| verdicts.values().filter(|v| **v == verdict).count();
    let each = Verdict::ALL.map(|verdict| format!("{verdict} {:>3}", count(verdict)));
    format!("{name:10} {} of {}", each.join("  "), verdicts.len())
}

/// A gateway with a volume of 1 GiB, and its addresses at two portals.
fn target(dir: &Path) -> Result<(Site, [String; 2])> {
    let mut site = Site::new(dir, "iscsi")?;
    let ports = [free_port()?, free_port()?];
    let secret = site.dir().join("secret");
    std::fs::write(&secret, SECRET).context("write the secret")?;
    let mut config = "\n[iscsi]\nauth = \"chap\"\n".to_owned();
    for (name, port) in ["one", "two"].iter().zip(ports) {
        config +=
            &format!("[[iscsi.listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n");
    }
    config += &format!("[[iscsi.users]]\nname = \"joe\"\nsecret_file = \"{}\"\n", secret.display());
    site.configure(&config)?;
    site.start()?;
    site.cli(&["volume", "create", "disk", "--size", "1GiB"])?;
    let url =
        |port| format!("iscsi://joe%{SECRET}@127.0.0.1:{port}/iqn.2026-01.io.twinspan:disk/0");
    Ok((site, ports.map(url)))
}

fn ours(dir: &Path) -> Result<Verdicts> {
    let (mut site, urls) = target(dir)?;
    let urls = [urls[0].as_str(), urls[1].as_str()];
    let log = dir.join("suite.log");
    let mut verdicts = conformance(&conformance_tests()?, urls, &log)?;
    // One test is about a unit that is protected: it skipped all others.
    let protected = "ALL.ReadOnly.ReadOnlySBC".to_owned();
    ensure!(verdicts.contains_key(&protected), "the suite has no test of a protected unit");
    Tool::new("iscsi-swp").args(["--swp=on", urls[0]]).run()?;
    verdicts.extend(conformance(&[protected], urls, &log)?);
    Tool::new("iscsi-swp").args(["--swp=off", urls[0]]).run()?;
    site.process()?.check()?;
    site.stop()?;
    println!("{}", score("twinspan", &verdicts));
    Ok(verdicts)
}

#[test]
fn iscsi_conformance_is_as_expected() -> Result<()> {
    let dir = TempDir::new()?;
    let verdicts = ours(dir.path())?;
    let expected = expected(EXPECTED)?;
    let mut wrong = Vec::new();
    for (test, verdict) in &verdicts {
        match expected.get(test) {
            Some(may) if may.contains(verdict) => {}
            Some(may) => wrong.push(format!("{test}: {verdict}, not {may:?}")),
            None => wrong.push(format!("{test}: {verdict}, and it is not listed")),
        }
    }
    let gone = expected.keys().filter(|test| !verdicts.contains_key(*test));
    wrong.extend(gone.map(|test| format!("{test}: listed, and there is no such test")));
    let log = std::fs::read_to_string(dir.path().join("suite.log")).unwrap_or_default();
    let told = |test: &String| log.split("##### ").find(|part| part.starts_with(test.as_str()));
    let first = wrong.first().and_then(|line| told(&line.split(':').next()?.to_owned()));
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), first.unwrap_or(""));
    let passed = verdicts.values().filter(|verdict| **verdict == Verdict::Pass).count();
    ensure!(passed >= PASSED_MIN, "only {passed} passed");
    Ok(())
}

/// The part of a text between two others.
fn between<'t>(text: &'t str, from: &str, to: &str) -> Result<&'t str> {
    let (_, rest) = text.split_once(from).with_context(|| format!("it does not say {from:?}"))?;
    let part = rest.split_once(to).map(|(part, _)| part);
    part.with_context(|| format!("it does not say {to:?} behind {from:?}"))
}

/// By its name, or with its family, and then with how many of that there are. The suite is not run.
#[test]
fn what_does_not_pass_of_the_suite_is_argued_and_what_passes_is_not() -> Result<()> {
    let expected = expected(EXPECTED)?;
    let count = format!("each of its {} tests ends", expected.len());
    ensure!(COVERAGE.contains(&count), "there are {} tests", expected.len());
    let fails = between(COVERAGE, "What fails, by the tool:", "What is skipped,")?;
    let skips = between(COVERAGE, "What is skipped,", "What is refused on purpose:")?;
    let mut families = BTreeMap::<_, Vec<_>>::new();
    for (test, may) in &expected {
        let name = test.strip_prefix("ALL.").context("a test of the family of all")?;
        let (family, _) = name.split_once('.').context("a family and a name")?;
        families.entry(family).or_default().push((name, may.as_slice()));
    }
    let mut wrong = Vec::new();
    for (family, tests) in families {
        let differ = tests.iter().filter(|(_, may)| *may != [Verdict::Pass]).count();
        for (name, may) in tests {
            let named = |argued: &str| {
                let is_whole = argued.contains(&format!("`{family}` ({differ})"));
                (is_whole && may != [Verdict::Pass]) || argued.contains(&format!("`{name}`"))
            };
            let wanted = match may {
                [Verdict::Pass] => [false, false],
                [Verdict::Skip] => [false, true],
                _ => [true, false],
            };
            if [named(fails), named(skips)] != wanted {
                wrong.push(format!("{name} may end with {may:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "argued otherwise, or not at all:\n{}", wrong.join("\n"));
    Ok(())
}

/// tgt with the same: a thin unit of 1 GiB, CHAP, two portals.
fn tgt(dir: &Path) -> Result<Verdicts> {
    require("tgtd")?;
    let ports = [free_port()?, free_port()?];
    let socket = dir.join("tgt");
    let portals = ports.map(|port| format!("portal=127.0.0.1:{port}")).join(",");
    let mut command = Command::new("/usr/sbin/tgtd");
    // The number keeps it apart from another one on this machine.
    command.args(["-f", "-C", "71", "--iscsi", &portals]).env("TGT_IPC_SOCKET", &socket);
    let mut process = Process::start("tgtd", &mut command, &dir.join("tgtd.log"))?;
    let admin = |line: &str| {
        let arguments = line.split(' ').map(str::to_owned);
        let mut command = Command::new("/usr/sbin/tgtadm");
        command.args(["-C", "71", "--lld", "iscsi"]).args(arguments);
        let done = command.env("TGT_IPC_SOCKET", &socket).output().context("start tgtadm")?;
        ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    wait_for("tgtd", SOON, || admin("--op show --mode sys"))?;
    let image = dir.join("tgt.img");
    std::fs::File::create(&image)?.set_len(1 << 30)?;
    let image = image.to_str().context("the folder is no text")?;
    for line in [
        "--op new --mode target --tid 1 -T iqn.2026-01.test:disk",
        &format!("--op new --mode logicalunit --tid 1 --lun 1 -b {image}"),
        "--op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1",
        "--op bind --mode target --tid 1 -I ALL",
        &format!("--op new --mode account --user joe --password {SECRET}"),
        "--op bind --mode account --tid 1 --user joe",
    ] {
        admin(line)?;
    }
    let url = |port| format!("iscsi://joe%{SECRET}@127.0.0.1:{port}/iqn.2026-01.test:disk/1");
    let urls = ports.map(url);
    let urls = [urls[0].as_str(), urls[1].as_str()];
    let verdicts = conformance(&conformance_tests()?, urls, &dir.join("tgt-suite.log"))?;
    process.check()?;
    // It does not end by SIGTERM while it has targets.
    process.kill()?;
    println!("{}", score("tgt", &verdicts));
    Ok(verdicts)
}

#[test]
#[ignore = "needs tgt: `cargo xtask conformance` installs and runs it"]
fn iscsi_conformance_beside_tgt() -> Result<()> {
    let dir = TempDir::new()?;
    let theirs = tgt(dir.path())?;
    let ours = ours(dir.path())?;
    let mut differ: BTreeMap<&str, (Verdict, Verdict)> = BTreeMap::new();
    for (test, verdict) in &ours {
        let other = theirs.get(test).copied().context("both ran the same tests")?;
        if other != *verdict {
            differ.insert(test, (*verdict, other));
        }
    }
    for (test, (verdict, other)) in differ {
        println!("{test:45} twinspan {verdict:5}  tgt {other:5}");
    }
    println!("{}\n{}", score("twinspan", &ours), score("tgt", &theirs));
    let passed = |all: &Verdicts| all.values().filter(|v| **v == Verdict::Pass).count();
    ensure!(passed(&ours) > passed(&theirs), "tgt passes as many");
    Ok(())
}
