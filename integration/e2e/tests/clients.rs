//! Other people's clients against whole gateways: what they write is there, at both sites, and
//! what they should not ask for is refused as the protocol says.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Deadline, Process, Site, Tool, free_port, python, wait_for};
use nbd::client::NbdExt;
use serde_json::Value;
use tempfile::TempDir;

use crate::pair::{Pair, SOON, VOLUME, compare, read_copy, set, single};
use crate::records::{attach, disk_image};

/// The volume of these tests, and of the images that are copied in.
const SIZE: &str = "64MiB";
const BYTES: u64 = 64 << 20;

/// How a client reaches an export.
struct Way {
    /// What is printed of it.
    name: &'static str,
    /// For libnbd and everything built on it.
    uri: String,
    /// For QEMU: options before those of the command, and the image.
    qemu: Vec<String>,
}

impl Way {
    fn plain(name: &'static str, uri: String) -> Self {
        Self { name, qemu: vec!["-f".to_owned(), "raw".to_owned(), uri.clone()], uri }
    }

    fn has_tls(&self) -> bool {
        self.uri.starts_with("nbds")
    }

    fn qemu_io(&self, commands: &[&str]) -> Result<String> {
        let (image, options) = self.qemu.split_last().context("no image")?;
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let tool = Tool::new("qemu-io").args(options).args(["-t", "writeback"]);
        let said = tool.args(commands).arg(image).run()?;
        for bad in ["failed", "error", "Pattern"] {
            ensure!(!said.contains(bad), "qemu-io, {}: {said}", self.name);
        }
        Ok(said)
    }
}

/// Everything that ordinary clients do; what is left on the volume is `image`.
fn everything(way: &Way, dir: &Path) -> Result<PathBuf> {
    let clock = Deadline::after(Duration::ZERO);
    let info = Tool::new("nbdinfo").args(["--json", &way.uri]).run()?;
    let info: Value = serde_json::from_str(&info).context("nbdinfo prints JSON")?;
    let export = &info["exports"][0];
    ensure!(export["export-size"] == BYTES, "{info:#}");
    ensure!(export["export-name"] == VOLUME && export["is_read_only"] == false, "{info:#}");
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"] {
        ensure!(export[can] == true, "{can}: {info:#}");
    }
    ensure!(export["block_size_minimum"] == 1, "{info:#}");
    ensure!(export["block_size_preferred"] == 4096, "{info:#}");
    ensure!(export["block_size_maximum"] == 32 << 20, "{info:#}");
    patterns(way)?;
    // fio does not let libnbd read the files that TLS needs.
    if !way.has_tls() {
        verified(way, dir)?;
    }
    let image = copied(way, dir)?;
    println!("{}: {:?}", way.name, clock.elapsed());
    Ok(image)
}

fn patterns(way: &Way) -> Result<()> {
    let unaligned = [
        "write -P 0xa5 0 1M",
        "write -P 0x11 4095 2",
        "read -P 0xa5 0 4095",
        "read -P 0x11 4095 2",
        "read -P 0xa5 4097 1044479",
    ];
    let zeroes = [
        "write -f -P 0x22 1M 64k",
        "write -P 0x33 2M 2M",
        "write -z 2M 1M",
        "read -P 0 2M 1M",
        "write -zu 3M 1M",
        "read -P 0 3M 1M",
        "write -P 0x44 4M 1M",
        "discard 4M 1M",
        "flush",
        "read -P 0x22 1M 64k",
    ];
    let at_once = [
        "aio_write -P 1 8M 1M",
        "aio_write -P 2 9M 1M",
        "aio_write -P 3 10M 1M",
        "aio_flush",
        "read -P 1 8M 1M",
        "read -P 2 9M 1M",
        "read -P 3 10M 1M",
    ];
    for commands in [&unaligned[..], &zeroes[..], &at_once[..]] {
        way.qemu_io(commands)?;
    }
    Ok(())
}

fn verified(way: &Way, dir: &Path) -> Result<()> {
    let job = [
        "--name=v",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--iodepth=16",
        "--size=32m",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
    ];
    let uri = format!("--uri={}", way.uri);
    let said = Tool::new("fio").args(job).arg(uri).current_dir(dir).run()?;
    ensure!(said.contains("err= 0"), "{said}");
    Ok(())
}

/// An image goes in and comes back, by libnbd and by QEMU.
fn copied(way: &Way, dir: &Path) -> Result<PathBuf> {
    let image = disk_image(&dir.join("image"), BYTES, 11)?;
    let back = dir.join("back");
    // What was on the volume before must go: the holes of the image are written as zeroes.
    let copy = ["--connections=4", "--requests=32", "--flush"];
    Tool::new("nbdcopy").args(copy).arg(&image).arg(&way.uri).run()?;
    Tool::new("nbdcopy").args(copy).arg(&way.uri).arg(&back).run()?;
    compare(&image, &back)?;

    if !way.has_tls() {
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw"])
            .arg(&image)
            .arg(&way.uri)
            .run()?;
        let other = disk_image(&dir.join("other"), BYTES, 12)?;
        let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
        Tool::new("qemu-img").args(convert).arg(&other).arg(&way.uri).run()?;
        Tool::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "raw", &way.uri])
            .arg(&back)
            .run()?;
        compare(&other, &back)?;
        Tool::new("nbdcopy").args(copy).arg(&image).arg(&way.uri).run()?;
    }
    Ok(image)
}

/// A gateway with one volume that nobody mirrors.
fn alone() -> Result<(Site, TempDir)> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", SIZE])?;
    Ok((site, dir))
}

/// What one site serves, the other holds, block for block: read there, not asked for.
fn is_mirrored(pair: &Pair, image: &Path) -> Result<()> {
    compare(image, &read_copy(&pair.mirror, VOLUME, "copy")?)?;
    compare(image, &read_copy(&pair.primary, VOLUME, "copy")?)?;
    pair.is_identical()
}

#[test]
fn of_a_mirrored_volume_through_a_unix_socket() -> Result<()> {
    let pair = Pair::mirrored(SIZE)?;
    let way = Way::plain("mirrored, Unix socket", pair.primary.nbd_unix(VOLUME));
    let image = everything(&way, pair.dir.path())?;
    is_mirrored(&pair, &image)
}

#[test]
fn of_a_mirrored_volume_over_tcp() -> Result<()> {
    let pair = Pair::mirrored(SIZE)?;
    let way = Way::plain("mirrored, TCP", pair.primary.nbd(VOLUME));
    let image = everything(&way, pair.dir.path())?;
    is_mirrored(&pair, &image)
}

#[test]
fn of_a_single_gateway_through_a_unix_socket_and_over_tcp() -> Result<()> {
    let (site, dir) = alone()?;
    everything(&Way::plain("single, Unix socket", site.nbd_unix(VOLUME)), dir.path())?;
    let image = everything(&Way::plain("single, TCP", site.nbd(VOLUME)), dir.path())?;
    compare(&image, &read_copy(&site, VOLUME, "copy")?)
}

/// Gives a stopped site a listener that insists on TLS; how clients reach it.
fn listen_with_tls(site: &Site) -> Result<Way> {
    let port = free_port()?;
    // The certificate that the gateway made for its API does for its hosts too.
    let (data, dir) = (site.data_dir(), site.dir().join("trust"));
    fs::create_dir_all(&dir)?;
    fs::copy(data.join("api.crt"), dir.join("ca-cert.pem"))?;
    let path = site.config_file();
    let files = format!(
        "[nbd]\ncertificate = \"{0}/api.crt\"\nkey = \"{0}/api.key\"\n[[nbd.listeners]]\n",
        data.display()
    );
    let more = format!(
        "[[nbd.listeners]]\nname = \"tls\"\naddress = \"127.0.0.1:{port}\"\ntls = \"required\"\n"
    );
    let text = fs::read_to_string(&path)?.replacen("[[nbd.listeners]]\n", &files, 1) + &more;
    fs::write(&path, text)?;
    let dir = dir.display();
    let uri = format!("nbds://127.0.0.1:{port}/{VOLUME}?tls-certificates={dir}");
    let object = format!("tls-creds-x509,id=t,endpoint=client,dir={dir},sanity-check=off");
    let image = format!("driver=nbd,host=127.0.0.1,port={port},export={VOLUME},tls-creds=t");
    let qemu = ["--object", &object, "--image-opts", &image].map(str::to_owned).to_vec();
    Ok(Way { name: "TLS", uri, qemu })
}

#[test]
fn over_tls_which_a_listener_can_insist_on() -> Result<()> {
    let mut pair = Pair::mirrored(SIZE)?;
    pair.primary.stop()?;
    let way = listen_with_tls(&pair.primary)?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SOON)?;
    let plain = way.uri.replacen("nbds", "nbd", 1);
    let plain = plain.split('?').next().context("a URI")?;
    let (code, said) = Tool::new("nbdinfo").arg(plain).code()?;
    ensure!(code != 0, "served without TLS:\n{said}");
    let image = everything(&way, pair.dir.path())?;
    is_mirrored(&pair, &image)
}

/// What a client that breaks rules is told: name, expected errno, errno, whether it was dropped.
const RULES: &str = r#"
import nbd
def op():
    h = nbd.NBD(); h.set_strict_mode(0); h.add_meta_context("base:allocation")
    h.connect_uri(URI); return h
h = op(); size = h.get_size()
def expect(name, f, want):
    global h
    try: f(h); got = "ok"
    except nbd.Error as x: got = x.errno or x.string
    died = h.aio_is_dead() or h.aio_is_closed()
    good = got == want and not died
    print("%s %s: want %s, got %s%s" % ("good" if good else "BAD", name, want, got,
                                        ", disconnected" if died else ""))
    if died: h = op()
expect("read past the end", lambda h: h.pread(4096, size - 512), "EINVAL")
expect("write past the end", lambda h: h.pwrite(b"x" * 4096, size - 512), "ENOSPC")
expect("trim past the end", lambda h: h.trim(4096, size - 512), "EINVAL")
expect("zero past the end", lambda h: h.zero(4096, size - 512), "ENOSPC")
expect("unknown flag", lambda h: h.pread(512, 0, 0x4000), "EINVAL")
expect("read in one piece", lambda h: h.pread_structured(65536, 0, lambda *a: 0, nbd.CMD_FLAG_DF), "ok")
expect("read 32 MiB", lambda h: h.pread(32 << 20, 0), "ok")
expect("write 32 MiB", lambda h: h.pwrite(bytes(32 << 20), 0), "ok")
expect("FUA on a read", lambda h: h.pread(512, 0, nbd.CMD_FLAG_FUA), "ok")
expect("fast zero", lambda h: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO), "ok")
expect("cache", lambda h: h.cache(4096, 0), "ok")
expect("alive after it", lambda h: h.pread(512, 0), "ok")
h.pwrite(b"x" * 65536, 1 << 20)
extents = []
h.block_status(size, 0, lambda m, o, e, err: extents.extend(e))
print("%s extents cover the volume: %s" % (
    "good" if sum(extents[0::2]) == size else "BAD", list(zip(extents[0::2], extents[1::2]))))
print("%s data is seen as data: %s" % ("good" if 0 in extents[1::2] else "BAD", extents))
h.shutdown()
"#;

#[test]
fn what_breaks_the_rules_is_refused_and_the_connection_lives() -> Result<()> {
    let (site, _dir) = alone()?;
    for uri in [site.nbd_unix(VOLUME), site.nbd(VOLUME)] {
        let said = python(&format!("URI = {uri:?}\n{RULES}"))?;
        ensure!(said.lines().count() == 14 && !said.contains("BAD"), "{uri}\n{said}");
        println!("{uri}\n{said}");
    }
    Ok(())
}

#[test]
fn an_old_style_client_reads_writes_flushes_and_trims() -> Result<()> {
    let (site, _dir) = alone()?;
    let (mut client, size) = attach(&site.nbd_socket(), VOLUME)?;
    ensure!(size == BYTES, "the size is {size}");
    let written: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    client.seek(SeekFrom::Start(12_345))?;
    client.write_all(&written)?;
    client.flush()?;
    let mut read = vec![0; written.len()];
    client.seek(SeekFrom::Start(12_345))?;
    client.read_exact(&mut read)?;
    ensure!(read == written, "it read something else");
    client.seek(SeekFrom::Start(0))?;
    client.trim(1 << 20)?;
    client.read_exact(&mut read)?;
    ensure!(read.iter().all(|byte| *byte == 0), "what was trimmed is still there");
    ensure!(attach(&site.nbd_socket(), "no-such-volume").is_err(), "anything is served");
    // The only volume is the default one.
    let (_, size) = attach(&site.nbd_socket(), "")?;
    ensure!(size == BYTES, "the default export has {size} bytes");
    Ok(())
}

#[test]
fn a_volume_that_may_only_be_read_says_so_and_refuses_changes() -> Result<()> {
    let (site, _dir) = alone()?;
    site.cli(&["volume", "create", "frozen", "--size", "1MiB", "--read-only"])?;
    let (mut old_style, _) = attach(&site.nbd_socket(), "frozen")?;
    old_style.read_exact(&mut [0; 4096])?;
    old_style.seek(SeekFrom::Start(0))?;
    let refused = old_style.write_all(&[1; 4096]).err().context("it was written")?;
    ensure!(refused.kind() == ErrorKind::PermissionDenied, "refused with {refused}");
    let said = python(&format!(
        "import nbd\nh = nbd.NBD(); h.set_strict_mode(0); h.connect_uri({:?})\n\
         print(h.is_read_only())\n\
         for f in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):\n\
         \x20   try: f(); print('changed')\n\
         \x20   except nbd.Error as e: print(e.errno)\n\
         print(len(h.pread(512, 0)))\n",
        site.nbd("frozen")
    ))?;
    ensure!(said.split_whitespace().eq(["True", "EPERM", "EPERM", "EPERM", "512"]), "{said}");
    Ok(())
}

#[test]
fn an_access_list_hides_a_volume_from_those_who_are_not_on_it() -> Result<()> {
    let (site, _dir) = alone()?;
    site.cli(&["volume", "create", "far", "--size", "1MiB", "--allow", "10.0.0.0/8"])?;
    site.cli(&["volume", "create", "named", "--size", "1MiB", "--allow", "cn:host-7"])?;
    let tcp = format!("nbd://127.0.0.1:{}", site.ports().nbd);
    let unix = format!("nbd+unix://?socket={}", site.nbd_socket().display());
    let listed = |uri: &str| -> Result<Vec<String>> {
        let said = Tool::new("nbdinfo").args(["--list", "--json", uri]).run()?;
        let said: Value = serde_json::from_str(&said)?;
        let names = said["exports"].as_array().into_iter().flatten();
        Ok(names.filter_map(|e| e["export-name"].as_str().map(str::to_owned)).collect())
    };
    ensure!(listed(&tcp)? == [VOLUME], "over TCP: {:?}", listed(&tcp)?);
    // Who reaches the socket is ruled by its permissions; a certificate nobody shows there.
    ensure!(listed(&unix)? == ["far", VOLUME], "Unix socket: {:?}", listed(&unix)?);
    for (uri, is_served) in [
        (site.nbd(VOLUME), true),
        (site.nbd("far"), false),
        (site.nbd("named"), false),
        (site.nbd_unix("far"), true),
        (site.nbd_unix("named"), false),
    ] {
        let (code, said) = Tool::new("nbdinfo").args(["--size", &uri]).code()?;
        ensure!((code == 0) == is_served, "{uri}: {said}");
    }
    site.cli(&["volume", "allow", "far", "127.0.0.0/8"])?;
    ensure!(listed(&tcp)? == ["far", VOLUME], "allowed: {:?}", listed(&tcp)?);
    Ok(())
}

/// A volume as a file, by FUSE; unmounted when it goes.
struct Mount {
    dir: PathBuf,
    process: Process,
}

impl Mount {
    fn new(dir: &Path, uri: &str) -> Result<Self> {
        harness::require("nbdfuse")?;
        let (dir, log) = (dir.join("mount"), dir.join("nbdfuse.log"));
        fs::create_dir_all(&dir)?;
        let mut command = Command::new("nbdfuse");
        command.arg(dir.join("disk")).arg(uri);
        let process = Process::start("nbdfuse", &mut command, &log)?;
        let mut mount = Self { dir, process };
        let disk = mount.disk();
        mount.process.wait_until("the mount", SOON, || {
            let length = fs::metadata(&disk)?.len();
            ensure!(length == BYTES, "it has {length} bytes");
            Ok(())
        })?;
        Ok(mount)
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    fn unmount(mut self) -> Result<()> {
        unmount(&self.dir)?;
        wait_for("the end of nbdfuse", SOON, || {
            self.process.ended()?.context("it still runs").map(drop)
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It is unmounted already, unless the test failed.
        unmount(&self.dir).ok();
    }
}

/// Root mounts without FUSE's helper, and unmounts without it where it is not installed.
fn unmount(dir: &Path) -> Result<()> {
    let helper = ["fusermount3", "fusermount"].into_iter().find(|p| harness::require(p).is_ok());
    let tool = helper.map_or_else(|| Tool::new("umount"), |program| Tool::new(program).arg("-u"));
    tool.arg(dir).run().map(drop)
}

#[test]
fn a_file_system_is_whole_here_and_at_the_other_site() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: there is no /dev/fuse, so nothing can be mounted here");
        return Ok(());
    }
    let pair = Pair::mirrored(SIZE)?;
    let content = pair.dir.path().join("content");
    fs::create_dir_all(content.join("deep/er"))?;
    for index in 0..40 {
        let path = content.join(format!("deep/er/{index}"));
        fs::write(path, vec![index; 100_000])?;
    }
    let mount = Mount::new(pair.dir.path(), &pair.primary.nbd_unix(VOLUME))?;
    let disk = mount.disk();
    Tool::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&content).arg(&disk).run()?;
    Tool::new("e2fsck").arg("-fn").arg(&disk).run()?;
    mount.unmount()?;
    let copy = read_copy(&pair.mirror, VOLUME, "copy")?;
    let said = Tool::new("e2fsck").arg("-fn").arg(&copy).run()?;
    let read = Tool::new("debugfs").args(["-R", "stat deep/er/39"]).arg(&copy).run()?;
    ensure!(read.contains("Size: 100000"), "{read}");
    println!("the copy at the other site: {}", said.lines().last().unwrap_or_default());
    Ok(())
}

#[test]
fn volumes_come_from_and_go_to_foreign_servers() -> Result<()> {
    harness::require("nbdkit")?;
    let (site, dir) = alone()?;
    let image = disk_image(&dir.path().join("image"), BYTES, 21)?;
    let taken = dir.path().join("taken");
    fs::File::create(&taken)?.set_len(BYTES)?;
    let foreign = |name: &str, file: &Path| -> Result<(Process, String)> {
        let socket = dir.path().join(name);
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&socket).arg("file").arg(file);
        let log = dir.path().join(format!("{name}.log"));
        let mut process = Process::start("nbdkit", &mut command, &log)?;
        process.wait_until("its socket", SOON, || {
            ensure!(socket.exists(), "there is none");
            Ok(())
        })?;
        Ok((process, format!("nbd+unix:///?socket={}", socket.display())))
    };
    let (_from, from) = foreign("from", &image)?;
    let (_to, to) = foreign("to", &taken)?;
    let probe = site.cli(&["volume", "probe", &from])?;
    ensure!(probe.to_string().contains(&BYTES.to_string()), "{probe:#}");
    site.ask(&["volume", "import", &from, VOLUME]).and_then(succeeded)?;
    compare(&image, &read_copy(&site, VOLUME, "copy")?)?;
    site.ask(&["volume", "export", VOLUME, &to]).and_then(succeeded)?;
    compare(&image, &taken)
}

fn succeeded(answer: harness::Answer) -> Result<()> {
    ensure!(answer.code == 0, "it ended with {}\n{}", answer.code, answer.text);
    Ok(())
}

#[test]
fn limits_on_connections_are_kept() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    let text = fs::read_to_string(site.config_file())?;
    let limit = "[nbd]\nconnections_max = 3\n[[nbd.listeners]]\n";
    fs::write(site.config_file(), text.replacen("[[nbd.listeners]]\n", limit, 1))?;
    set(&site, "mirror", "ack_deadline = \"2s\"")?;
    site.start()?;
    site.cli(&["volume", "create", VOLUME, "--size", "1MiB"])?;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(attach(&site.nbd_socket(), VOLUME)?);
    }
    ensure!(attach(&site.nbd_socket(), VOLUME).is_err(), "a fourth connection was taken");
    for (client, _) in &mut kept {
        client.read_exact(&mut [0; 4096])?;
    }
    kept.pop();
    wait_for("a place", SOON, || attach(&site.nbd_socket(), VOLUME).map(drop))
}
