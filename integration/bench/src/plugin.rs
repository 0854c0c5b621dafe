//! What a call into a plugin costs.
//!
//! ```text
//!   ours     an instance, a call, all of it, and a function behind a pointer     twinspan plugin measure
//!   nbdkit   a read through its C plugin `null`, and through a script plugin      one request at a time
//! ```
//!
//! nbdkit has no way to call a plugin but by a request, so its figures are whole round trips over a Unix
//! socket; what the script costs is the difference of the two.
//!
//! Invariant: all are measured in turn, round by round, on the same machine; medians are told.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Process, Tool, binary, require, wait_for};
use serde::Serialize;
use serde_json::Value;

use crate::Options;
use crate::client::Address;
use crate::harm::{self, Beside};
use crate::load::Load;
use crate::report::median;
use crate::rounds::Work;
use crate::workload::Pattern;

/// What the smallest plugin is called that does something.
const COMPONENT: &str = "hello.wasm";
/// And the one that does what none should.
const HOSTILE: &str = "hostile.wasm";
/// How much slower writes may be beside it, at the 99th percentile.
const RATIO_MAX: f64 = 1.2;
/// From start to the first request.
const START_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
/// A plugin of nbdkit in the shell: each of its calls starts a shell.
const SCRIPT: &str = "#!/bin/sh\ncase \"$1\" in\n  get_size) echo 64M ;;\n  pread) head -c \"$3\" \
                      /dev/zero ;;\n  *) exit 2 ;;\nesac\n";

/// What one round measured, in microseconds but for the memory.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    instantiate: f64,
    first_call: f64,
    call: f64,
    whole: f64,
    native: f64,
    memory_kib: f64,
    nbdkit_c_request: f64,
    nbdkit_script_request: f64,
}

/// What has to hold, and does or does not.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    wanted_below: f64,
    measured: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    medians: Round,
    targets: Vec<Target>,
    beside: Vec<Beside>,
    rounds: Vec<Round>,
}

/// Measures and prints.
///
/// # Errors
/// When a plugin is not built, or a peer cannot be started.
pub(crate) fn run(options: &Options, work: &Work) -> Result<()> {
    let dir = work.disk.as_path();
    require("nbdkit")?;
    let component = component(COMPONENT)?;
    let null = serve(dir, "null", &["null", "size=64M"])?;
    let script = dir.join("plugin.sh");
    std::fs::write(&script, SCRIPT).context("write the script")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .context("let it be run")?;
    let text = script.display().to_string();
    let shell = serve(dir, "script", &["sh", &text])?;
    let mut rounds = Vec::new();
    for _ in 0..options.repeats {
        rounds.push(measure(&component, (&null.1, &shell.1), options.seconds)?);
    }
    drop((null, shell));
    // On a disk its own flushes would be most of what is measured.
    let beside = harm::measure(
        &work.memory,
        &self::component(HOSTILE)?,
        (options.repeats, options.seconds),
    )?;
    let report = report(rounds, beside);
    let text = if options.output == "json" {
        serde_json::to_string(&report).context("write the report")?
    } else {
        table(&report)
    };
    println!("{text}");
    Ok(())
}

/// The component, as `cargo xtask plugins` builds it.
fn component(name: &str) -> Result<PathBuf> {
    let built = "../../target/plugins/wasm32-wasip2/release";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(built).join(name);
    ensure!(path.is_file(), "{} is not there: cargo xtask plugins builds it", path.display());
    Ok(path)
}

/// nbdkit with a plugin, and where it is.
fn serve(dir: &Path, name: &str, plugin: &[&str]) -> Result<(Process, Address)> {
    let socket = dir.join(format!("{name}.sock"));
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--unix"]).arg(&socket).args(plugin);
    let process = Process::start(name, &mut command, &dir.join(format!("{name}.log")))?;
    let address = Address::Unix(socket);
    wait_for("nbdkit to answer", START_LIMIT, || request_us(&address, 0.01))?;
    Ok((process, address))
}

/// The median of a read of 4 KiB, one at a time.
fn request_us(address: &Address, seconds: f64) -> Result<f64> {
    let load = Load {
        address: address.clone(),
        export: String::new(),
        pattern: Pattern::RandRead,
        bytes: 4096,
        depth: 1,
        connections: 1,
        seconds,
        structured: false,
        every: None,
    };
    Ok(load.run()?.p50_us)
}

fn measure(component: &Path, peers: (&Address, &Address), seconds: f64) -> Result<Round> {
    let tool = Tool::new(&binary()?.display().to_string());
    let told = tool.args(["plugin", "measure"]).arg(component).args(["-o", "json"]).run()?;
    let told: Value = serde_json::from_str(&told).context("read what was measured")?;
    let of = |name: &str| told[name].as_f64().with_context(|| format!("no {name} in {told}"));
    Ok(Round {
        instantiate: of("instantiate_us")?,
        first_call: of("first_call_us")?,
        call: of("call_us")?,
        whole: of("whole_us")?,
        native: of("native_us")?,
        memory_kib: of("memory_bytes")? / 1024.0,
        nbdkit_c_request: request_us(peers.0, seconds)?,
        nbdkit_script_request: request_us(peers.1, seconds)?,
    })
}

fn report(rounds: Vec<Round>, beside: Vec<Beside>) -> Report {
    let of = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
    let medians = Round {
        instantiate: of(|round| round.instantiate),
        first_call: of(|round| round.first_call),
        call: of(|round| round.call),
        whole: of(|round| round.whole),
        native: of(|round| round.native),
        memory_kib: of(|round| round.memory_kib),
        nbdkit_c_request: of(|round| round.nbdkit_c_request),
        nbdkit_script_request: of(|round| round.nbdkit_script_request),
    };
    let target = |what, wanted_below, measured| Target { what, wanted_below, measured };
    let worst = beside.iter().map(|of| of.ratio).fold(0.0, f64::max);
    let targets = vec![
        target("a call, us", 10.0, medians.call),
        target("an instance from the cache, us", 100.0, medians.instantiate),
        target("memory of an instance, KiB", 1024.0, medians.memory_kib),
        target("p99 of writes beside the worst, times", RATIO_MAX, worst),
    ];
    Report { medians, targets, beside, rounds }
}

fn table(report: &Report) -> String {
    let medians = &report.medians;
    let mut text = format!("bench plugin: medians of {} rounds\n\n", report.rounds.len());
    for (what, value, unit) in [
        ("a function behind a pointer", medians.native, "us"),
        ("a call of a plugin", medians.call, "us"),
        ("the first call of an instance", medians.first_call, "us"),
        ("an instance from the pool and the cache", medians.instantiate, "us"),
        ("all of it, to the thread of plugins and back", medians.whole, "us"),
        ("memory of an instance", medians.memory_kib, "KiB"),
        ("nbdkit: a request through its C plugin", medians.nbdkit_c_request, "us"),
        ("nbdkit: a request through a script plugin", medians.nbdkit_script_request, "us"),
    ] {
        text += &format!("{what:<48} {value:>10.2} {unit}\n");
    }
    text += "\n";
    for of in &report.beside {
        let what = format!("p99 of writes: quiet, beside {}", of.kind);
        let (quiet, disturbed) = (of.quiet_p99_us, of.disturbed_p99_us);
        text += &format!("{what:<48} {quiet:>10.0} {disturbed:>8.0} us, x {:.2}\n", of.ratio);
    }
    text += "\n";
    for target in &report.targets {
        let word = if target.measured < target.wanted_below { "holds" } else { "DOES NOT HOLD" };
        text += &format!("{:<48} below {:>8.1}: {word}\n", target.what, target.wanted_below);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(call: f64) -> Round {
        Round {
            instantiate: 10.0,
            first_call: 5.0,
            call,
            whole: 50.0,
            native: 0.1,
            memory_kib: 2048.0,
            nbdkit_c_request: 20.0,
            nbdkit_script_request: 2000.0,
        }
    }

    #[test]
    fn the_middle_round_counts_and_a_target_that_is_missed_is_told() {
        let report = report(vec![round(1.0), round(99.0), round(2.0)], Vec::new());
        assert!((report.medians.call - 2.0).abs() < f64::EPSILON);
        let text = table(&report);
        let missed: Vec<&str> = text.lines().filter(|line| line.contains("NOT")).collect();
        assert_eq!(missed.len(), 1, "{text}");
        assert!(missed[0].starts_with("memory"), "{text}");
    }
}
