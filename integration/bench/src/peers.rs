//! The peers, each started the way that its makers advise for speed.
//!
//! Invariant: all of them keep their data in files of the same size on the same file system, and
//! in the page cache unless their name says otherwise.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Process, free_port, require};
use serde_json::json;

use crate::client::Address;
use crate::contestant::{Contestant, Medium, Place, Running, Transport};
use crate::iscsi::Unit;
use crate::qmp;

/// From its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Single servers.
pub(crate) const SERVERS: [Contestant; 4] = [
    Contestant { name: "nbdkit", start: nbdkit, medium: Medium::Disk },
    Contestant { name: "nbdkit-tmpfs", start: nbdkit, medium: Medium::Memory },
    Contestant { name: "qemu-nbd", start: qemu_nbd, medium: Medium::Disk },
    Contestant { name: "nbd-server", start: nbd_server, medium: Medium::Disk },
];

/// Mirrors.
pub(crate) const MIRRORS: [Contestant; 2] = [
    Contestant { name: "qemu-mirror", start: qemu_mirror_cached, medium: Medium::Disk },
    Contestant { name: "qemu-mirror-direct", start: qemu_mirror_direct, medium: Medium::Disk },
];

/// Targets of iSCSI.
pub(crate) const TARGETS: [Contestant; 2] = [
    Contestant { name: "tgt", start: tgt_on_disk, medium: Medium::Disk },
    Contestant { name: "tgt-tmpfs", start: tgt_in_memory, medium: Medium::Memory },
];

/// What nobody who speaks iSCSI can be below.
pub(crate) const BARE: Contestant =
    Contestant { name: "bare answers", start: bare, medium: Medium::Nowhere };

/// This program itself, which keeps nothing.
fn bare(place: &Place) -> Result<Running> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["bare", "--port", &port.to_string(), "--size-mib", &place.size_mib.to_string()]);
    let target = "iqn.2026-01.test:disk".to_owned();
    let unit = Unit { address: format!("127.0.0.1:{port}"), target, lun: 1 };
    running("bare", place, &mut command, Address::Iscsi(unit))
}

fn tgt_on_disk(place: &Place) -> Result<Running> {
    tgt(place, "72")
}

fn tgt_in_memory(place: &Place) -> Result<Running> {
    tgt(place, "73")
}

/// As Debian starts it; the number keeps it apart from others on this machine.
fn tgt(place: &Place, number: &str) -> Result<Running> {
    require("tgtd")?;
    let (port, socket) = (free_port()?, place.dir.join("tgt"));
    let portal = format!("portal=127.0.0.1:{port}");
    let mut command = Command::new("/usr/sbin/tgtd");
    command.args(["-f", "-C", number, "--iscsi", &portal]).env("TGT_IPC_SOCKET", &socket);
    let target = "iqn.2026-01.test:disk".to_owned();
    let unit = Unit { address: format!("127.0.0.1:{port}"), target, lun: 1 };
    let running = running("tgtd", place, &mut command, Address::Iscsi(unit))?;
    let admin = |line: &str| {
        let mut command = Command::new("/usr/sbin/tgtadm");
        command.args(["-C", number, "--lld", "iscsi"]).args(line.split(' '));
        let done = command.env("TGT_IPC_SOCKET", &socket).output().context("start tgtadm")?;
        ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    harness::wait_for("tgtd", START_LIMIT, || admin("--op show --mode sys"))?;
    let image = place.image("image")?;
    let image = image.to_str().context("the folder is no text")?;
    for line in [
        "--op new --mode target --tid 1 -T iqn.2026-01.test:disk",
        &format!("--op new --mode logicalunit --tid 1 --lun 1 -b {image}"),
        "--op bind --mode target --tid 1 -I ALL",
    ] {
        admin(line)?;
    }
    Ok(running)
}

fn running(name: &str, place: &Place, command: &mut Command, address: Address) -> Result<Running> {
    let process = Process::start(name, command, &place.dir.join("log"))?;
    Ok(Running { address, export: String::new(), processes: vec![process], sites: Vec::new() })
}

fn socket(place: &Place) -> Result<PathBuf> {
    let path = place.dir.join("nbd.sock");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    Ok(path)
}

fn nbdkit(place: &Place) -> Result<Running> {
    require("nbdkit")?;
    let mut command = Command::new("nbdkit");
    command.arg("--foreground");
    let address = match place.transport {
        Transport::Unix => {
            let path = socket(place)?;
            command.arg("--unix").arg(&path);
            Address::Unix(path)
        }
        Transport::Tcp => {
            let port = free_port()?;
            command.args(["--ipaddr", "127.0.0.1", "--port"]).arg(port.to_string());
            Address::Tcp(format!("127.0.0.1:{port}"))
        }
    };
    command.arg("file").arg(place.image("image")?);
    running("nbdkit", place, &mut command, address)
}

fn qemu_nbd(place: &Place) -> Result<Running> {
    require("qemu-nbd")?;
    let mut command = Command::new("qemu-nbd");
    command.args(["--format=raw", "--cache=writeback", "--persistent", "--shared=16"]);
    let address = match place.transport {
        Transport::Unix => {
            let path = socket(place)?;
            command.arg("--socket").arg(&path);
            Address::Unix(path)
        }
        Transport::Tcp => {
            let port = free_port()?;
            command.arg("--bind=127.0.0.1").arg(format!("--port={port}"));
            Address::Tcp(format!("127.0.0.1:{port}"))
        }
    };
    command.arg(place.image("image")?);
    running("qemu-nbd", place, &mut command, address)
}

fn nbd_server(place: &Place) -> Result<Running> {
    require("nbd-server")?;
    let image = place.image("image")?;
    let (where_to, address, stale) = match place.transport {
        Transport::Unix => {
            let path = socket(place)?;
            // It wants a port beside the socket, and does not listen on it.
            let keys = format!("unixsock = {}\nport = {}\n", path.display(), free_port()?);
            (keys, Address::Unix(path.clone()), path)
        }
        Transport::Tcp => {
            let port = free_port()?;
            let keys = format!("listenaddr = 127.0.0.1\nport = {port}\n");
            (keys, Address::Tcp(format!("127.0.0.1:{port}")), place.dir.join("none"))
        }
    };
    let config = format!(
        "[generic]\n{where_to}max_threads = 2\n\
         [volume]\nexportname = {}\nflush = true\nfua = true\n",
        image.display(),
    );
    let file = place.dir.join("config");
    std::fs::write(&file, config)?;
    // It leaves its session and its parent, or else (`-d`) serves one client and ends. The latter
    // can be ended and counted; the loop gives each client a new one.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "while :; do rm -f \"$2\"; nbd-server -d -C \"$1\" || sleep 0.1; done",
        "sh",
    ]);
    command.arg(file).arg(stale);
    let mut running = running("nbd-server", place, &mut command, address)?;
    running.export = "volume".into();
    Ok(running)
}

fn qemu_mirror_cached(place: &Place) -> Result<Running> {
    qemu_mirror(place, false)
}

fn qemu_mirror_direct(place: &Place) -> Result<Running> {
    qemu_mirror(place, true)
}

/// QEMU's storage daemon with a write-blocking mirror to a qemu-nbd: a write is answered when both
/// copies have it.
fn qemu_mirror(place: &Place, direct: bool) -> Result<Running> {
    require("qemu-nbd")?;
    let (near, far) = (place.image("near")?, place.image("far")?);
    let (far_port, port) = (free_port()?, free_port()?);
    let mut mirror = Command::new("qemu-nbd");
    mirror.args(["--format=raw", "--persistent", "--shared=8", "--bind=127.0.0.1"]);
    let modes: &[&str] =
        if direct { &["--cache=none", "--aio=io_uring"] } else { &["--cache=writeback"] };
    mirror.args(modes).arg(format!("--port={far_port}")).arg(far);
    let mirror = Process::start("qemu-nbd", &mut mirror, &place.dir.join("far.log"))?;
    harness::wait_for("qemu-nbd", Duration::from_secs(10), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", far_port))?)
    })?;

    let control = place.dir.join("qmp.sock");
    let aio = if direct { "io_uring" } else { "threads" };
    let source = json!({
        "driver": "raw", "node-name": "near", "cache": {"direct": direct, "no-flush": false},
        "file": {
            "driver": "file", "filename": near, "aio": aio,
            "cache": {"direct": direct, "no-flush": false},
        },
    });
    let target = json!({
        "driver": "nbd", "node-name": "far",
        "server": {"type": "inet", "host": "127.0.0.1", "port": far_port.to_string()},
    });
    let mut command = Command::new("qemu-storage-daemon");
    command
        .arg("--chardev")
        .arg(format!("socket,path={},server=on,wait=off,id=c0", control.display()))
        .args(["--monitor", "chardev=c0", "--blockdev", &source.to_string()])
        .args(["--blockdev", &target.to_string(), "--nbd-server"])
        .arg(format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=16"))
        .args(["--export", "type=nbd,id=e0,node-name=near,name=,writable=on"]);
    let address = Address::Tcp(format!("127.0.0.1:{port}"));
    let mut running = running("qemu-storage-daemon", place, &mut command, address)?;
    running.processes.push(mirror);
    let mirror = json!({
        "job-id": "m0", "device": "near", "target": "far", "sync": "none",
        "copy-mode": "write-blocking", "filter-node-name": "mirror0",
    });
    harness::wait_for("QMP", Duration::from_secs(10), || {
        qmp::run(&control, &[("blockdev-mirror", mirror.clone())])
    })?;
    Ok(running)
}
