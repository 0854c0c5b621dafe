//! A host with components in its directory, and a gateway that remembers what it was asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use twinspan_plugin::contract::{Context, Created, Group, Progress, Proposal, Role, Site};
use twinspan_plugin::world::{BoxFuture, File, FolderError, Found, SecretError};
use twinspan_plugin::{CallError, Key, Plugins, Setup, World};

/// A component of `plugins/`, as it was built.
pub(crate) fn file(name: &str) -> PathBuf {
    let built = "../../target/plugins/wasm32-wasip2/release";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(built).join(format!("{name}.wasm"))
}

/// Its bytes.
pub(crate) fn component(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).expect("the components are built by: cargo xtask plugins")
}

/// What the host is told of a call.
pub(crate) fn context(run: &str, step: &str) -> Context {
    Context {
        run: run.to_owned(),
        step: step.to_owned(),
        idempotency_key: format!("key-of-{step}"),
        attempt: 1,
        deadline: 0,
        dry_run: false,
        actor: "tester".to_owned(),
        is_undo: false,
    }
}

/// A session from a site in zone a.
pub(crate) fn proposal(zone: &str) -> Proposal {
    Proposal {
        source: site("east", "a"),
        destination: site("west", zone),
        mode: twinspan_plugin::contract::Mode::Sync,
        volumes: vec![],
        destinations: vec![],
        distance_km: None,
        round_trip_us: None,
    }
}

fn site(name: &str, zone: &str) -> Site {
    Site { name: name.to_owned(), region: "r".to_owned(), zone: zone.to_owned(), position: None }
}

/// A gateway that remembers.
#[derive(Default)]
pub(crate) struct Fake {
    made: Mutex<Vec<(String, String, String)>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

fn entry(name: &str) -> File {
    File { name: name.to_owned(), revision: 1, size_bytes: 0, written_at: 0 }
}

impl Fake {
    /// What steps of runs registered.
    pub(crate) fn made(&self) -> Vec<(String, String, String)> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl World for Fake {
    fn folder_files<'a>(
        &'a self,
        _volume: &'a str,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<File>, FolderError>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let named = files.keys().filter(|name| name.starts_with(prefix)).map(|name| entry(name));
        let found = named.collect();
        Box::pin(async { Ok(found) })
    }

    fn folder_read<'a>(
        &'a self,
        _volume: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Found, FolderError>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.get(name).map(|content| (entry(name), content.clone()));
        Box::pin(async { Ok(found) })
    }

    fn folder_write<'a>(
        &'a self,
        run: Option<&'a str>,
        _volume: &'a str,
        (name, content): (String, Vec<u8>),
        _expected: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, FolderError>> {
        let held = run.is_none().then(|| FolderError::Held("a run has it".to_owned()));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            files.insert(name, content);
        }
        Box::pin(async { held.map_or(Ok(1), Err) })
    }

    fn folder_remove<'a>(
        &'a self,
        _run: Option<&'a str>,
        _volume: &'a str,
        name: String,
    ) -> BoxFuture<'a, Result<(), FolderError>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        Box::pin(async { Ok(()) })
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn secret(&self, name: &str) -> Result<Vec<u8>, SecretError> {
        if name == "key" {
            Ok(b"s3cret".to_vec())
        } else {
            Err(SecretError::Unknown(name.to_owned()))
        }
    }

    fn here(&self) -> String {
        "east".to_owned()
    }

    fn sites(&self) -> BoxFuture<'_, Vec<Site>> {
        Box::pin(async { vec![site("east", "a"), site("west", "b")] })
    }

    fn groups<'a>(&'a self, run: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Group>, String>> {
        let name = format!("of-{}", run.unwrap_or("all"));
        let group = Group {
            name,
            role: Role::Primary,
            primary_site: Some("east".to_owned()),
            volumes: vec![],
            sessions: vec![],
        };
        Box::pin(async { Ok(vec![group]) })
    }

    fn register<'a>(
        &'a self,
        run: &'a str,
        step: &'a str,
        created: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        let what = format!("{} {}", created.kind, created.id);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push((run.to_owned(), step.to_owned(), what));
        Box::pin(async { Ok(()) })
    }

    fn unregister<'a>(
        &'a self,
        run: &'a str,
        _step: &'a str,
        gone: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        let what = format!("{} {}", gone.kind, gone.id);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|(of, _, made)| of != run || *made != what);
        Box::pin(async { Ok(()) })
    }

    fn report(&self, _run: &str, _step: &str, _progress: Progress) {}

    fn is_cancelled(&self, _run: &str) -> bool {
        false
    }
}

/// A host and what it stands on.
pub(crate) struct Rig {
    pub(crate) plugins: Plugins,
    pub(crate) world: Arc<Fake>,
    folder: tempfile::TempDir,
    keys: Vec<Key>,
    tasks: TaskTracker,
}

impl Rig {
    /// With these components, of anybody.
    pub(crate) async fn new(components: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        for name in components {
            let at = folder.path().join("plugins").join(format!("{name}.wasm"));
            std::fs::write(at, component(name)).unwrap();
        }
        Self::open(folder, vec![]).await
    }

    /// With none, and a key whose signature is required.
    pub(crate) async fn signed(key: &[u8]) -> Self {
        let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let der = [&prefix, key].concat();
        let folder = tempfile::tempdir().unwrap();
        Self::open(folder, vec![Key::from_der(&der).unwrap()]).await
    }

    async fn open(folder: tempfile::TempDir, keys: Vec<Key>) -> Self {
        // Another test of this process may have been first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let world = Arc::new(Fake::default());
        let setup = Setup {
            directory: folder.path().join("plugins"),
            state: folder.path().join("state"),
            keys: keys.clone(),
            world: Arc::clone(&world) as Arc<dyn World>,
        };
        let plugins = Plugins::start(setup).unwrap();
        plugins.scan().await;
        Self { plugins, world, folder, keys, tasks: TaskTracker::new() }
    }

    /// The same after a restart of the gateway.
    pub(crate) async fn again(self) -> Self {
        let Self { plugins, folder, keys, .. } = self;
        drop(plugins);
        Self::open(folder, keys).await
    }

    /// Where components lie.
    pub(crate) fn directory(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// A call that sleeps, and the fault that it ends with.
    pub(crate) async fn sleeping(&self) -> JoinHandle<CallError> {
        let plugins = self.plugins.clone();
        let call = self.tasks.spawn(async move {
            let ctx = context("r", "s");
            plugins.run_action(("hostile", "sleep"), ctx, &json!({})).await.unwrap_err()
        });
        while !self.plugins.logs("hostile").unwrap().iter().any(|line| line.text == "asleep") {
            tokio::task::yield_now().await;
        }
        call
    }
}

/// A server that answers one request with these bytes and tells what it heard.
pub(crate) async fn answer_once(answer: &str) -> (std::net::SocketAddr, JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let answer = answer.to_owned();
    let heard = TaskTracker::new().spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            heard.push(stream.read_u8().await.unwrap());
        }
        // A client that has had enough hangs up.
        let _sent = stream.write_all(answer.as_bytes()).await;
        String::from_utf8(heard).unwrap()
    });
    (at, heard)
}
