//! What tests and benchmarks need from the system, and how it gets there.
//!
//! Invariant: only what is missing is installed, and no service is started by installing it.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{is_installed, root, run, succeeds};

/// Something that is used and where it comes from.
struct Need {
    /// A program in the search path, or a file by its whole path; for a module of Python, its name after
    /// `python:`.
    what: &'static str,
    /// Debian's package.
    package: &'static str,
    /// What it is for.
    why: &'static str,
}

const fn need(what: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { what, package, why }
}

/// The peers that benchmarks run beside this product.
const PEERS: [Need; 5] = [
    need("nbdkit", "nbdkit", "a peer in benchmarks, a foreign server in tests"),
    need("qemu-nbd", "qemu-utils", "a peer in benchmarks, a foreign server in tests"),
    need("qemu-storage-daemon", "qemu-utils", "the peer that mirrors, in benchmarks"),
    need("nbd-server", "nbd-server", "a peer in benchmarks"),
    need("tgtd", "tgt", "a peer in benchmarks"),
];

/// The clients and tools of the end-to-end tests.
const CLIENTS: [Need; 25] = [
    need("nbdcopy", "libnbd-bin", "the client that copies whole volumes"),
    need("file", "file", "with which nbdinfo names what a volume holds"),
    need("python:nbd", "python3-libnbd", "the client that sends what it should not"),
    need("qemu-io", "qemu-utils", "the client that writes patterns"),
    need("nbdkit", "nbdkit", "a foreign server to import from"),
    need("fio", "fio", "the client that writes and verifies"),
    need("iscsi-test-cu", "libiscsi-bin", "the conformance suite of iSCSI"),
    need("qemu:iscsi", "qemu-block-extra", "the initiator of QEMU"),
    need("mkfs.ext4", "e2fsprogs", "a file system on a volume"),
    need("etcd", "etcd-server", "the witness that sites ask"),
    need("prometheus", "prometheus", "scrapes /metrics and checks rules"),
    need("radosgw", "radosgw", "the S3 server that backups go to"),
    need("ceph-mon", "ceph-mon", "which needs a monitor"),
    need("ceph-osd", "ceph-osd", "and a place for its objects"),
    need("qemu-system-x86_64", "qemu-system-x86", "the machine that a real Linux runs on"),
    need("mmdebstrap", "mmdebstrap", "makes its root out of packages"),
    need("busybox", "busybox-static", "what it boots with"),
    need("cpio", "cpio", "packs that"),
    need("depmod", "kmod", "sorts the modules of its kernel"),
    need("strace", "strace", "kills a gateway at a system call that a test chose"),
    need("clang", "clang", "compiles a plugin in C"),
    need("wasm-ld", "lld", "links it"),
    need("/usr/include/wasm32-wasi/stdlib.h", "wasi-libc", "the library that it has"),
    need(
        "/usr/lib/clang/14/lib/wasi/libclang_rt.builtins-wasm32.a",
        "libclang-rt-dev-wasm32",
        "what its compiler needs",
    ),
    need("npm", "npm", "brings what makes a plugin of JavaScript, and a server of Azure's blobs"),
];

/// The server of Azure's blobs that backups go to, which no package of Debian has: where tests look
/// for it, below the repository, and what it is called at npm.
const AZURITE: (&str, &str) = ("target/azurite", "azurite@3.35.0");

/// Installs what the tests need.
///
/// # Errors
/// When something is missing and cannot be installed; the message says what to do by hand.
pub(crate) fn for_tests() -> Result<()> {
    install(&CLIENTS)?;
    let (folder, package) = AZURITE;
    let folder = root().join(folder);
    if folder.join("node_modules/.bin/azurite-blob").is_file() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    run(npm.arg(&folder).arg(package))
}

/// The peer that the conformance suite runs against, beside this product.
const CONFORMANCE: [Need; 2] = [
    need("iscsi-test-cu", "libiscsi-bin", "the conformance suite of iSCSI"),
    need("tgtd", "tgt", "the peer whose score stands beside ours"),
];

/// Installs what a comparison of conformance needs.
///
/// # Errors
/// As for tests.
pub(crate) fn for_conformance() -> Result<()> {
    install(&CONFORMANCE)
}

/// Installs what the benchmarks need.
///
/// # Errors
/// As for tests.
pub(crate) fn for_benchmarks() -> Result<()> {
    install(&PEERS)
}

/// The tools that come with Rust but not with its smallest installation.
///
/// # Errors
/// When one is missing and `rustup` is not there to add it.
pub(crate) fn for_lints() -> Result<()> {
    for (tool, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if is_installed(tool) {
            continue;
        }
        if !is_installed("rustup") {
            bail!("{component} is missing: install it beside your Rust, or use rustup");
        }
        run(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        eprintln!("missing: {} (package {}): {}", need.what, need.package, need.why);
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !is_installed("apt-get") {
        bail!("this is not a Debian: install the above by hand ({by_hand} there)");
    }
    let Some(mut command) = as_root() else {
        bail!("installing needs root or sudo without a password: run `sudo {by_hand}` first");
    };
    command.args(["sh", "-c", INSTALL, "sh"]).args(&packages);
    run(&mut command)?;
    if let Some(need) = missing.into_iter().find(|need| !is_there(need)) {
        bail!("{} was installed, and {} is still missing", need.package, need.what);
    }
    Ok(())
}

/// Installs its arguments. A package of a server would start it: the policy file says no, as in
/// the building of a system image, and goes when we do.
///
/// All parts of QEMU are of one version. Where one came from the suite of backports and that is none of
/// the sources any more, the others are installed from there, and nothing else that need not be.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy
fi
apt-get update || echo 'apt-get update failed; trying with the lists that are here'
part_of_qemu() {
    version=$(dpkg-query --show --showformat '${Version}' qemu-utils 2>/dev/null) || return 0
    [ -n "$version" ] || return 0
    ! apt-cache madison "$1" | grep -qF "| $version |" || return 0
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep 'debian/*$' | head -n 1)
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    folder=$(mktemp -d) && mkdir "$folder/lists" "$folder/parts" || return 1
    cp -r /etc/apt/sources.list.d/. "$folder/parts"
    [ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$folder/parts/main.list"
    echo "deb $site $codename-backports main" > "$folder/parts/backports.list"
    from="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$folder/parts -o Dir::State::Lists=$folder/lists"
    chmod -R a+rX "$folder"
    apt-get $from update &&
        apt-get $from install --yes --no-install-recommends --target-release "$codename-backports" \
            "$1=$version"
    rm -rf "$folder"
}
for package in qemu-block-extra qemu-system-x86; do
    case " $* " in *" $package "*) part_of_qemu $package ;; esac
done
apt-get install --yes --no-install-recommends "$@"
"#;

/// A prefix that makes a command run as root without a question.
fn as_root() -> Option<Command> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        return Some(Command::new("env"));
    }
    let can_sudo = succeeds(Command::new("sudo").args(["-n", "true"]));
    can_sudo.then(|| {
        let mut sudo = Command::new("sudo");
        sudo.arg("-n");
        sudo
    })
}

fn is_there(need: &Need) -> bool {
    if let Some(driver) = need.what.strip_prefix("qemu:") {
        let file = format!("/usr/lib/{}-linux-gnu/qemu/block-{driver}.so", std::env::consts::ARCH);
        return std::path::Path::new(&file).is_file();
    }
    let Some(module) = need.what.strip_prefix("python:") else {
        return is_installed(need.what);
    };
    // Debian's own Python: another one first in the path does not see Debian's modules. From /,
    // because a folder of the module's name here would be taken for it.
    let import = format!("import {module}");
    succeeds(Command::new("/usr/bin/python3").args(["-c", &import]).current_dir("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_there_from_what_is_not() {
        assert!(is_there(&need("sh", "dash", "")));
        assert!(!is_there(&need("no-such-program", "none", "")));
        assert!(!is_there(&need("python:no_such_module", "none", "")));
    }

    #[test]
    fn the_installing_script_is_a_script() {
        assert!(succeeds(Command::new("sh").args(["-n", "-c", INSTALL])));
    }
}
