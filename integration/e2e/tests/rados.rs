//! A real S3 server: Ceph's, with one monitor and one place for objects, in memory.
//!
//! Invariant: all of it listens on the loopback address and ends with its owner.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use backup::Target;
use harness::{Process, Tool, free_port};
use object_store::aws::AmazonS3Builder;
use object_store::signer::Signer;
use reqwest::Method;

/// How long the slowest part may take to come up: the gateway makes its pools.
const LIMIT: Duration = Duration::from_secs(120);
/// The most that objects take, in bytes of memory.
const ROOM: u64 = 4 << 30;

/// The server.
pub(crate) struct Rados {
    folder: PathBuf,
    endpoint: SocketAddr,
    gateway: Option<Process>,
    _others: [Process; 2],
}

/// Keys of one of its users.
pub(crate) struct User {
    pub(crate) name: &'static str,
    access: String,
    secret: String,
}

impl User {
    /// The keys, as the file of a target's credentials has them.
    pub(crate) fn credentials(&self) -> String {
        format!("access_key_id={}\nsecret_access_key={}\n", self.access, self.secret)
    }
}

impl Rados {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let monitor = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        configure(folder, monitor, endpoint)?;
        let keyring = folder.join("keyring").display().to_string();
        for (name, caps) in
            [("mon.", "mon"), ("client.admin", "mon osd mgr"), ("osd.0", "mon osd mgr")]
        {
            let create: &[&str] = if name == "mon." { &["--create-keyring"] } else { &[] };
            let caps = caps.split(' ').flat_map(|kind| ["--cap", kind, "allow *"]);
            let key = Tool::new("ceph-authtool").args(create).arg(&keyring);
            key.args(["--gen-key", "-n", name]).args(caps).run()?;
        }
        let map = folder.join("monmap").display().to_string();
        let address = format!("[v2:{monitor}]");
        let made = Tool::new("monmaptool").args(["--create", "--clobber", "--fsid", FSID]);
        made.args(["--addv", "a", &address, &map]).run()?;
        let configuration = folder.join("ceph.conf").display().to_string();
        let tool = |program: &str| Tool::new(program).args(["-c", &configuration]);
        let mkfs = tool("ceph-mon").args(["--mkfs", "-i", "a", "--monmap", &map]);
        mkfs.args(["--keyring", &keyring]).run()?;
        let start = |program: &str, name: &[&str]| {
            let mut command = Command::new(program);
            command.args(["-f", "-c", &configuration]).args(name);
            Process::start(program, &mut command, &folder.join(format!("{program}.log")))
        };
        let mut mon = start("ceph-mon", &["-i", "a"])?;
        let ceph = |arguments: &[&str]| {
            tool("ceph").args(["--connect-timeout", "5"]).args(arguments).run()
        };
        mon.wait_until("a monitor that answers", LIMIT, || ceph(&["-s"]))?;
        ceph(&["osd", "new", OSD])?;
        let mkfs = tool("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", OSD]);
        mkfs.arg("--no-mon-config").run()?;
        let mut osd = start("ceph-osd", &["-i", "0"])?;
        osd.wait_until("a place for objects", LIMIT, || {
            let state = ceph(&["osd", "stat"])?;
            ensure!(state.contains("1 up"), "{state}");
            Ok(())
        })?;
        let mut rados =
            Self { folder: folder.into(), endpoint, gateway: None, _others: [mon, osd] };
        rados.resume()?;
        Ok(rados)
    }

    /// Starts the S3 gateway, the first time or again.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("radosgw");
        command.args(["-f", "-n", "client.admin", "-c"]).arg(self.folder.join("ceph.conf"));
        let log = self.folder.join("radosgw.log");
        let mut process = Process::start("radosgw", &mut command, &log)?;
        let endpoint = self.endpoint;
        process.wait_until("an S3 gateway that answers", LIMIT, || {
            TcpStream::connect(endpoint).context("connect to the S3 gateway")
        })?;
        self.gateway = Some(process);
        Ok(())
    }

    /// Kills the S3 gateway: nobody reaches the bucket.
    pub(crate) fn lose(&mut self) -> Result<()> {
        self.gateway.take().context("it does not run")?.kill()
    }

    fn admin(&self, arguments: &[&str]) -> Result<String> {
        let configuration = self.folder.join("ceph.conf");
        Tool::new("radosgw-admin").arg("-c").arg(configuration).args(arguments).run()
    }

    pub(crate) fn user(&self, name: &'static str) -> Result<User> {
        let (access, secret) = (format!("{name}-access"), format!("{name}-secret"));
        let named = [format!("--uid={name}"), format!("--display-name={name}")];
        let keys = [format!("--access-key={access}"), format!("--secret-key={secret}")];
        let arguments = named.iter().chain(&keys).map(String::as_str);
        self.admin(&["user", "create"].into_iter().chain(arguments).collect::<Vec<_>>())?;
        Ok(User { name, access, secret })
    }

    /// Takes a user's rights, or gives them back.
    pub(crate) fn suspend(&self, user: &User, is_suspended: bool) -> Result<()> {
        let verb = if is_suspended { "suspend" } else { "enable" };
        self.admin(&["user", verb, &format!("--uid={}", user.name)]).map(|_| ())
    }

    /// Where the S3 gateway answers.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.endpoint)
    }

    /// A target in a bucket of this user, with little patience.
    pub(crate) fn target(&self, user: &User, bucket: &str) -> Target {
        let mut target = Target::new(format!("s3://{bucket}/twinspan/east"))
            .with("endpoint", format!("http://{}", self.endpoint))
            .with("allow_http", "true")
            .with("region", "default")
            .with("access_key_id", &user.access)
            .with("secret_access_key", &user.secret);
        target.retries = 2;
        target.retry_time = Duration::from_secs(5);
        target
    }

    /// Makes a bucket, at an address that the user signed: the client library makes none.
    pub(crate) fn bucket(&self, user: &User, bucket: &str, has_locks: bool) -> Result<()> {
        let store = AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.endpoint))
            .with_allow_http(true)
            .with_region("default")
            .with_bucket_name(bucket)
            .with_access_key_id(&user.access)
            .with_secret_access_key(&user.secret)
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let root = object_store::path::Path::default();
            let url = store.signed_url(Method::PUT, &root, Duration::from_hours(1)).await?;
            let mut put = reqwest::Client::new().request(Method::PUT, url);
            if has_locks {
                put = put.header("x-amz-bucket-object-lock-enabled", "true");
            }
            let answer = put.send().await?;
            let status = answer.status();
            ensure!(status.is_success(), "{status}: {}", answer.text().await?);
            Ok(())
        })
    }
}

const FSID: &str = "4a9b40a4-2d2f-4a2c-9f0f-6f0e3ba1f4d1";
const OSD: &str = "9d3f52c6-53b1-4f2a-8b49-0c6f3f0b7a11";

fn configure(folder: &Path, monitor: SocketAddr, endpoint: SocketAddr) -> Result<()> {
    for name in ["run", "log", "mon", "osd0"] {
        std::fs::create_dir_all(folder.join(name)).context("make folders")?;
    }
    let at = folder.display();
    // Its monitor ends where a share of the disk is not free, however much that leaves, unless the
    // share is less than nothing. It keeps a few MiB.
    let text = format!(
        "[global]
fsid = {FSID}
mon host = v2:{monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = -1
mon data avail warn = -1
run dir = {at}/run
admin socket = {at}/run/$name.$pid.asok
log file = {at}/log/$name.log
pid file = {at}/run/$name.$pid.pid
keyring = {at}/keyring
mon data = {at}/mon
osd data = {at}/osd$id
osd objectstore = memstore
memstore device bytes = {ROOM}
rgw frontends = beast endpoint={endpoint}
rgw thread pool size = 16
"
    );
    std::fs::write(folder.join("ceph.conf"), text).context("write the configuration")
}
