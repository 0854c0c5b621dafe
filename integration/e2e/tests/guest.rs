//! A real Linux at both sites at once: open-iscsi, dm-multipath and a file system go through a planned
//! migration and through the loss of a site, and the host's own tools see one disk. And one that knows
//! nothing of it: its machine has a volume for a disk.
//!
//! The guest is emulated, so it is slow; nothing here is about speed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{GATEWAY_ADDRESS, Guest, Site, Tool};
use tempfile::TempDir;

use crate::iscsi::site_with;
use crate::pair::{SYNC_LIMIT, VOLUME, fail_over, migrate};

const TARGET: &str = "iqn.2026-01.io.twinspan:orders";
/// A host that looks at its paths every two seconds sees what becomes of them, emulated.
const PATHS_LIMIT: Duration = Duration::from_mins(1);
/// For a pass of the load, or for a request that waits until a path works.
const LOAD_LIMIT: Duration = Duration::from_mins(3);

/// What a host sets up once.
const SET_UP: &str = r#"
set -e
modprobe -a iscsi_tcp sd_mod dm_multipath dm_round_robin dm_service_time scsi_dh_alua
cat > /etc/multipath.conf <<END
defaults {
    find_multipaths no
    failback immediate
    user_friendly_names yes
    polling_interval 2
    max_polling_interval 2
}
overrides {
    no_path_retry queue
}
END
mkdir -p /run/lock/iscsi /run/udev /mnt/disk
echo InitiatorName=iqn.2026-01.com.example:guest > /etc/iscsi/initiatorname.iscsi
sed -i 's/^node.session.timeo.replacement_timeout.*/node.session.timeo.replacement_timeout = 5/' \
    /etc/iscsi/iscsid.conf
/lib/systemd/systemd-udevd --daemon
udevadm trigger && udevadm settle
cat >> /etc/iscsi/iscsid.conf <<END
node.session.auth.authmethod = CHAP
node.session.auth.username = guest
node.session.auth.password = proof-of-guest
node.session.auth.username_in = gateway
node.session.auth.password_in = proof-of-gateway
discovery.sendtargets.auth.authmethod = CHAP
discovery.sendtargets.auth.username = guest
discovery.sendtargets.auth.password = proof-of-guest
discovery.sendtargets.auth.username_in = gateway
discovery.sendtargets.auth.password_in = proof-of-gateway
node.conn[0].iscsi.HeaderDigest = CRC32C
node.conn[0].iscsi.DataDigest = CRC32C
END
iscsid
multipathd
"#;

/// A site that lets one guest in, by the proof of both.
fn proving_site(dir: &Path, named: (&str, u16)) -> Result<(Site, u16)> {
    let write = |name: &str| {
        let file = dir.join(format!("{}-{name}.secret", named.0));
        std::fs::write(&file, format!("proof-of-{name}\n")).context("write a secret")?;
        anyhow::Ok(file.display().to_string())
    };
    let users = format!(
        "[[iscsi.users]]\nname = \"guest\"\ninitiators = [\"iqn.2026-01.com.example:guest\"]\n\
         secret_file = \"{}\"\ngateway_name = \"gateway\"\ngateway_secret_file = \"{}\"\n",
        write("guest")?,
        write("gateway")?
    );
    site_with(dir, named, GATEWAY_ADDRESS, ("auth = \"chap\"\n", &users))
}

/// Passes of a load that verifies what it writes, and a journal of numbers: one is written down in
/// memory when the file system said that it is on stable storage.
const LOAD: &str = r#"
rm -f /tmp/stop /tmp/failed /tmp/passes /tmp/acknowledged
(
    pass=0
    while [ ! -e /tmp/stop ]; do
        fio --name=load --directory=/mnt/disk --size=2M --rw=randwrite --bs=4k --direct=1 \
            --ioengine=libaio --iodepth=8 --fsync=16 --verify=crc32c --verify_fatal=1 \
            --output=/tmp/fio > /tmp/fio.errors 2>&1 || { cp /tmp/fio /tmp/failed; exit; }
        pass=$((pass + 1))
        echo $pass > /tmp/passes
    done
) > /dev/null 2>&1 &
echo $! > /tmp/load
(
    number=0
    while [ ! -e /tmp/stop ]; do
        number=$((number + 1))
        printf '%07d\n' $number |
            dd of=/mnt/disk/journal bs=8 oflag=append conv=notrunc,fsync status=none \
                2> /tmp/dd.errors || { cp /tmp/dd.errors /tmp/failed; exit; }
        echo $number > /tmp/acknowledged
    done
) > /dev/null 2>&1 &
echo $! >> /tmp/load
"#;

/// Ends the load and reads everything back from the disk.
const CHECK: &str = r#"
set -e
touch /tmp/stop
for one in $(cat /tmp/load); do while [ -e /proc/$one ]; do sleep 0.1; done; done
[ ! -e /tmp/failed ] || { cat /tmp/failed; exit 1; }
umount /mnt/disk
fsck.ext4 -f -n /dev/mapper/mpatha
mount /dev/mapper/mpatha /mnt/disk
fio --name=load --directory=/mnt/disk --size=2M --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
    --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_only --output=/tmp/fio || { cat /tmp/fio; exit 1; }
acknowledged=$(cat /tmp/acknowledged)
seq --format=%07g "$acknowledged" > /tmp/wanted
head --lines="$acknowledged" /mnt/disk/journal | cmp - /tmp/wanted
echo "$acknowledged numbers, $(cat /tmp/passes) passes"
"#;

/// What the kernel must not have said: an error that reached the file system or the map below it.
const NO_ERRORS: &str = r#"
if dmesg | grep -E 'EXT4-fs (error|warning)|Buffer I/O error|I/O error, dev dm-|JBD2: .*rror|Remounting'
then exit 1; fi
[ ! -e /tmp/failed ] || { cat /tmp/failed; exit 1; }
"#;

/// How the host sees its paths: those of the group that works come first.
fn await_paths(guest: &mut Guest, wanted: &str, is_it: impl Fn(&Paths) -> bool) -> Result<()> {
    let said =
        guest.wait_for("multipath -ll 2> /dev/null", PATHS_LIMIT, |said| is_it(&Paths::of(said)));
    said.map(drop).with_context(|| format!("waiting for {wanted}"))
}

/// What `multipath -ll` prints: the priority of each group, and the paths that are ready.
struct Paths {
    maps: usize,
    /// Priority, whether the group is in use, and how many of its paths work.
    groups: Vec<(u32, bool, usize)>,
}

impl Paths {
    fn of(said: &str) -> Self {
        let mut seen = Self { maps: 0, groups: Vec::new() };
        for line in said.lines() {
            if line.contains("TWINSPAN,MIRRORED VOLUME") {
                seen.maps += 1;
            } else if let Some((_, rest)) = line.split_once(" prio=") {
                let prio = rest.split(' ').next().and_then(|prio| prio.parse().ok()).unwrap_or(0);
                seen.groups.push((prio, line.contains("status=active"), 0));
            } else if let Some((.., works)) = seen.groups.last_mut()
                && (line.contains("active ready") || line.contains("active ghost"))
            {
                *works += 1;
            }
        }
        seen
    }

    /// Two sites, one map: the one that serves is in use, the other one stands by.
    fn are_whole(&self) -> bool {
        let mut groups = self.groups.clone();
        groups.sort_unstable_by(|a, b| b.cmp(a));
        self.maps == 1 && groups == [(50, true, 1), (1, false, 1)]
    }

    /// The group in use is the best one, whatever became of the other.
    fn have_one(&self) -> bool {
        self.maps == 1 && self.groups.contains(&(50, true, 1))
    }
}

/// The portal of the path that carries I/O.
fn active_portal(guest: &mut Guest) -> Result<String> {
    let script = r#"
for disk in /sys/block/sd*; do
    [ "$(cat $disk/device/access_state 2> /dev/null)" = active/optimized ] || continue
    [ "$(cat $disk/device/state)" = running ] || continue
    session=$(readlink -f $disk/device | grep -o 'session[0-9]*' | head -n 1)
    cat /sys/class/iscsi_connection/connection${session#session}:0/persistent_port
done
"#;
    guest.run(script).map(|said| said.trim().to_owned())
}

/// The load got on since this was asked before: passes that were verified, and numbers.
fn await_progress(guest: &mut Guest) -> Result<()> {
    let count = |said: &str| said.trim().parse::<u64>().unwrap_or(0);
    for (file, steps) in [("/tmp/acknowledged", 5), ("/tmp/passes", 1)] {
        let script = format!("cat {file} 2> /dev/null || echo 0");
        let before = count(&guest.run(&script)?);
        guest.wait_for(&script, LOAD_LIMIT, |said| count(said) >= before + steps)?;
    }
    guest.run(NO_ERRORS).map(drop)
}

/// The host's own tools see one disk, its reservations, and that it is thin.
fn look_at_the_disk(guest: &mut Guest) -> Result<()> {
    let disks = guest.run("lsscsi --scsi_id; lsscsi --transport")?;
    ensure!(disks.matches("TWINSPAN MIRRORED VOLUME").count() == 2, "{disks}");
    for tag in [1, 2] {
        ensure!(disks.contains(&format!("{TARGET},t,0x{tag:x}")), "both targets: {disks}");
    }
    let script = r#"
set -e
one=/dev/$(ls -d /sys/block/sd* | head -n 1 | xargs basename)
other=/dev/$(ls -d /sys/block/sd* | tail -n 1 | xargs basename)
[ "$(sg_vpd --page=sn --quiet $one)" = "$(sg_vpd --page=sn --quiet $other)" ]
[ "$(/lib/udev/scsi_id -g -u $one)" = "$(/lib/udev/scsi_id -g -u $other)" ]
for disk in $one $other; do
    if [ "$(cat /sys/block/${disk#/dev/}/device/access_state)" = active/optimized ]; then
        serves=$disk
    else
        stands=$disk
    fi
done
sg_rtpg --decode $stands
# Reserved where it is served, known where it is not.
sg_persist --out --register --param-sark=0xfeed --param-aptpl $serves
sg_persist --out --reserve --param-rk=0xfeed --prout-type=5 $serves
sg_persist --in --read-keys $stands
sg_persist --in --read-reservation $stands
# A port in standby takes it to where the disk is served.
sg_persist --out --register --param-sark=0xcafe --param-aptpl $stands
sg_persist --in --read-keys $serves | grep 0xcafe
sg_persist --out --register --param-rk=0xcafe --param-sark=0 $stands
sg_persist --out --release --param-rk=0xfeed --prout-type=5 $serves
sg_persist --out --register --param-rk=0xfeed --param-sark=0 $serves
# What was written is gone when it was given back.
dd if=/dev/urandom of=/dev/mapper/mpatha bs=1M count=2 oflag=direct status=none
sg_unmap --lba=0 --num=2048 $serves
blkdiscard --offset 1M --length 1M /dev/mapper/mpatha
cmp --bytes=2M /dev/zero <(dd if=/dev/mapper/mpatha bs=1M count=2 iflag=direct status=none)
"#;
    let said = guest.run(script)?;
    ensure!(said.contains("active/optimized") && said.contains("standby"), "{said}");
    ensure!(said.matches("0xfeed").count() >= 2, "the key and the reservation: {said}");
    ensure!(said.contains("Write Exclusive, registrants only"), "{said}");
    Ok(())
}

/// A volume that joins the group is LUN 5 of its target, which has no LUN 0: the host finds it at both
/// sites all the same, and uses it as one disk.
fn look_at_a_numbered_disk(guest: &mut Guest, east: &Site, discover: &str) -> Result<()> {
    east.cli(&["volume", "create", "log", "--group", VOLUME, "--size", "8MiB"])?;
    east.cli(&["volume", "lun", "log", "5"])?;
    east.wait_equivalent(SYNC_LIMIT)?;
    let target = format!("{TARGET}:group");
    guest.wait_for(discover, PATHS_LIMIT, |said| said.matches(&target).count() == 2)?;
    guest.run(&format!("iscsiadm -m node -T {target} --login"))?;
    guest.wait_for("lsscsi", PATHS_LIMIT, |said| said.matches(":5]").count() == 2)?;
    let two_paths = |said: &str| {
        let map = said.split("mpath").find(|map| map.contains("size=8.0M"));
        map.is_some_and(|map| map.contains("active ready") && map.contains("active ghost"))
    };
    guest.wait_for("multipath -ll 2> /dev/null", PATHS_LIMIT, two_paths)?;
    let script = r#"
set -e
map=/dev/mapper/$(multipath -ll 2> /dev/null | grep --before-context=1 'size=8.0M' | head -n 1 | cut -d' ' -f1)
dd if=/dev/urandom of=/tmp/some bs=1M count=2 status=none
dd if=/tmp/some of=$map bs=1M oflag=direct conv=fsync status=none
cmp --bytes=2M /tmp/some <(dd if=$map bs=1M count=2 iflag=direct status=none)
"#;
    guest.run(script).map(drop)
}

#[test]
fn alua_a_linux_with_multipath_goes_through_a_migration_and_the_loss_of_a_site() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut east, east_port) = proving_site(dir.path(), ("east", 1))?;
    let (mut west, west_port) = proving_site(dir.path(), ("west", 2))?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    east.join(&west)?;
    east.mirror(VOLUME, &west)?;
    east.wait_equivalent(SYNC_LIMIT)?;

    let mut guest = Guest::start(dir.path())?;
    guest.run(SET_UP)?;
    // One site is asked, both are told.
    let discover = format!("iscsiadm -m discovery -t st -p {GATEWAY_ADDRESS}:{east_port}");
    let both = format!(
        "{GATEWAY_ADDRESS}:{east_port},1 {TARGET}\n{GATEWAY_ADDRESS}:{west_port},2 {TARGET}\n"
    );
    guest.wait_for(&discover, PATHS_LIMIT, |said| said == both)?;
    guest.run("iscsiadm -m node --login")?;
    let agreed = guest.run("iscsiadm -m session -P 2")?;
    ensure!(agreed.matches("DataDigest: CRC32C").count() == 2, "{agreed}");
    ensure!(agreed.contains("username_in: gateway"), "the gateways proved themselves: {agreed}");
    await_paths(&mut guest, "one map of two groups", Paths::are_whole)?;
    ensure!(active_portal(&mut guest)? == east_port.to_string(), "east serves");
    look_at_the_disk(&mut guest)?;

    guest.run(
        "mkfs.ext4 -q -E nodiscard /dev/mapper/mpatha && mount /dev/mapper/mpatha /mnt/disk",
    )?;
    guest.run(LOAD)?;
    await_progress(&mut guest)?;
    let sessions = guest.run("ls /sys/class/iscsi_session")?;
    migrate(&east, &west)?;
    await_progress(&mut guest)?;
    await_paths(&mut guest, "both paths, west in use", Paths::are_whole)?;
    ensure!(active_portal(&mut guest)? == west_port.to_string(), "west serves");
    ensure!(guest.run("ls /sys/class/iscsi_session")? == sessions, "a session was lost");

    west.wait_equivalent(SYNC_LIMIT)?;
    west.kill()?;
    fail_over(&east)?;
    await_progress(&mut guest)?;
    await_paths(&mut guest, "east in use", Paths::have_one)?;
    ensure!(active_portal(&mut guest)? == east_port.to_string(), "east serves again");

    west.start()?;
    east.cli(&["reprotect", VOLUME, "--wait"])?;
    await_paths(&mut guest, "both paths again", Paths::are_whole)?;
    await_progress(&mut guest)?;
    println!("{}", guest.run_within(CHECK, LOAD_LIMIT)?.trim());
    look_at_a_numbered_disk(&mut guest, &east, &discover)?;
    guest.run(NO_ERRORS)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    west.stop()?;
    east.stop()
}

/// A file system on the first half of the second disk, and numbers in a file and behind it; prints the
/// digest of the whole disk as the machine has it.
const FILL: &str = r#"
set -e
[ "$(blockdev --getsize64 /dev/vdb)" = 67108864 ]
numbers() { seq --format=%07g 100000; }
mkfs.ext4 -q -E nodiscard /dev/vdb 32M
mount /dev/vdb /mnt
numbers | dd of=/mnt/numbers bs=64k conv=fsync status=none
umount /mnt
numbers | dd of=/dev/vdb bs=64k iflag=fullblock seek=512 conv=notrunc,fsync status=none
sha256sum < /dev/vdb
"#;

/// The disk of a machine by QEMU's own initiator, which proves itself. When the machine is off, hosts of NBD
/// find what it wrote.
#[test]
fn a_machine_whose_disk_is_a_target_leaves_what_it_wrote_to_hosts_of_nbd() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = proving_site(dir.path(), ("east", 1))?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    let place = format!("file.portal=127.0.0.1:{port},file.target={TARGET}");
    let disk = [
        "if=virtio,format=raw,file.driver=iscsi,file.transport=tcp,file.lun=0",
        place.as_str(),
        "file.user=guest,file.password-secret=proof",
        "file.initiator-name=iqn.2026-01.com.example:guest",
    ];
    let (secret, disk) = ("secret,id=proof,data=proof-of-guest", disk.join(","));
    let mut guest = Guest::start_with(dir.path(), &["-object", secret, "-drive", &disk])?;
    let written = guest.run_within(FILL, LOAD_LIMIT)?;
    guest.switch_off()?;

    let image = dir.path().join("image");
    Tool::new("nbdcopy").arg(site.nbd(VOLUME)).arg(&image).run()?;
    let read = Tool::new("sha256sum").arg(&image).run()?;
    let digest = |said: &str| said.split_whitespace().next().map(str::to_owned);
    ensure!(digest(&read) == digest(&written), "read {read}, written {written}");
    let numbers: String = (1..=100_000).map(|number| format!("{number:07}\n")).collect();
    let content = std::fs::read(&image).context("read the image")?;
    let behind = content.get(32 << 20..).context("the second half")?;
    ensure!(behind.starts_with(numbers.as_bytes()), "the numbers behind the file system");
    Tool::new("e2fsck").args(["-f", "-n"]).arg(&image).run()?;
    site.stop()
}
