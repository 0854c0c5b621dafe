//! A real server of Azure's blobs: its maker's own emulator, in memory.
//!
//! Invariant: it listens on the loopback address and ends with its owner.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use backup::Target;
use harness::{Process, Tool, free_port};

/// How long it may take to come up.
const LIMIT: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "east";
/// Base64, as Azure has them.
const KEY: &str = "aHVzaC1odXNoLWh1c2gtaHVzaA==";

/// Makes a container: the client library makes none. Its arguments are where, whose, the key and the
/// name.
const MAKE: &str = r"
const [endpoint, account, key, container] = process.argv.slice(1);
const url = new URL(`${endpoint}/${container}?restype=container`);
const date = new Date().toUTCString();
const headers = { 'x-ms-date': date, 'x-ms-version': '2023-11-03', 'content-length': '0' };
const signed = ['PUT', '', '', '', '', '', '', '', '', '', '', '',
  `x-ms-date:${date}`, 'x-ms-version:2023-11-03',
  `/${account}${url.pathname}`, 'restype:container'].join('\n');
const hash = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(signed);
headers.authorization = `SharedKey ${account}:${hash.digest('base64')}`;
require('http').request(url, { method: 'PUT', headers }, (answer) => {
  console.log(answer.statusCode);
  answer.pipe(process.stdout);
  process.exitCode = answer.statusCode === 201 ? 0 : 1;
}).end();
";

/// The server.
pub(crate) struct Azurite {
    endpoint: SocketAddr,
    _server: Process,
}

impl Azurite {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = Command::new(installed()?);
        command
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", &endpoint.port().to_string()])
            .args(["--inMemoryPersistence", "--silent", "--skipApiVersionCheck"])
            .arg("--disableTelemetry")
            .current_dir(folder);
        let mut server = Process::start("azurite", &mut command, &folder.join("azurite.log"))?;
        server.wait_until("a server of blobs that answers", LIMIT, || {
            TcpStream::connect(endpoint).context("connect to the server of blobs")
        })?;
        Ok(Self { endpoint, _server: server })
    }

    fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.endpoint)
    }

    /// Makes a container.
    pub(crate) fn container(&self, name: &str) -> Result<()> {
        Tool::new("node").args(["-e", MAKE, &self.endpoint(), ACCOUNT, KEY, name]).run()?;
        Ok(())
    }

    /// A target in a container, with little patience.
    pub(crate) fn target(&self, container: &str) -> Target {
        let mut target = Target::new(format!("az://{container}/twinspan/east"))
            .with("endpoint", self.endpoint())
            .with("allow_http", "true")
            .with("account_name", ACCOUNT)
            .with("access_key", KEY);
        target.retries = 2;
        target.retry_time = Duration::from_secs(5);
        target
    }
}

fn installed() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/azurite");
    let program = folder.join("node_modules/.bin/azurite-blob");
    ensure!(
        program.is_file(),
        "{} is not there: `cargo xtask test` installs it",
        program.display()
    );
    Ok(program)
}
