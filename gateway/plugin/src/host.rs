//! The plugins of a gateway: which there are, what each may, and how they are called.
//!
//! ```text
//!   directory ──scan──▶ file ──▶ signature ──▶ compiled ──▶ described ──▶ Slot ◀── calls
//!                                    └── refused: the one before goes on, and says so
//! ```
//!
//! Invariant: a call goes on with the component that it began with, whatever is replaced meanwhile. A
//! component that is refused replaces nothing.

mod files;
mod operate;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Linker;

pub use self::operate::{Refused, Standing};
use crate::call::{Answer, Calls, Deed};
use crate::engine::Machine;
use crate::error::CallError;
use crate::grants::Grants;
use crate::health::Health;
use crate::instance::{Allowance, Caller, State};
use crate::interfaces::Web;
use crate::loaded::{About, Linked};
use crate::logs::Logs;
use crate::metrics::Numbers;
use crate::shelf::{Settings, Shelf, ShelfError};
use crate::signature::Key;
use crate::trial::Script;
use crate::world::World;

/// How much less than the rest of the gateway plugins are heard when all want to compute.
const NICE: i32 = 10;

/// What a host is made from.
pub struct Setup {
    /// Where components lie.
    pub directory: PathBuf,
    /// Where the host keeps its own: compiled code, what was granted, keys and values.
    pub state: PathBuf,
    /// Whose components are taken; anybody's if there are none.
    pub keys: Vec<Key>,
    /// The gateway.
    pub world: Arc<dyn World>,
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or the thread.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The engine.
    #[error("the engine: {0:#}")]
    Engine(wasmtime::Error),
    /// What is kept for plugins.
    #[error("what is kept for plugins: {0}")]
    Shelf(#[from] ShelfError),
    /// The client for requests.
    #[error("the client for plugins' requests: {0}")]
    Http(#[from] reqwest::Error),
}

/// The plugins. Cheap to clone; from any thread.
#[derive(Clone)]
pub struct Plugins(Arc<Host>);

struct Host {
    directory: PathBuf,
    keys: Vec<Key>,
    world: Arc<dyn World>,
    shelf: Arc<Shelf>,
    linker: Linker<State>,
    calls: Arc<Calls>,
    web: Web,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// One change of what is loaded at a time.
    changing: tokio::sync::Mutex<()>,
    runtime: Handle,
    stop: CancellationToken,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A component that is loaded.
pub(crate) struct Loaded {
    pub(crate) linked: Linked,
    about: Arc<About>,
}

/// One plugin's place: what is loaded, and what outlives a replacement.
struct Slot {
    name: Arc<str>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// The files that were looked at last.
    seen: Mutex<Option<files::Stamp>>,
    /// A newer file of its name that was not taken: its digest, and why.
    refused: Mutex<Option<(String, String)>>,
    settings: Mutex<(Arc<Settings>, Arc<str>)>,
    health: Mutex<Health>,
    logs: Arc<Logs>,
    numbers: Arc<Numbers>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn loaded(&self) -> Option<Arc<Loaded>> {
        locked(&self.loaded).clone()
    }

    fn set(&self, settings: Settings) {
        let config = settings.config.as_ref().map_or_else(|| "{}".to_owned(), ToString::to_string);
        *locked(&self.settings) = (Arc::new(settings), config.into());
    }
}

impl Plugins {
    /// Opens what is kept and starts the thread that plugins run on. Nothing is loaded before
    /// [`scan`](Self::scan): compiling may take seconds.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(setup: Setup) -> Result<Self, StartError> {
        Self::start_with(setup, None)
    }

    /// The same, whose plugins' requests are answered by a script if there is one.
    pub(crate) fn start_with(
        setup: Setup,
        script: Option<Arc<Script>>,
    ) -> Result<Self, StartError> {
        std::fs::create_dir_all(&setup.directory)?;
        std::fs::create_dir_all(&setup.state)?;
        let machine = Machine::new(&setup.state.join("compiled")).map_err(StartError::Engine)?;
        let machine = Arc::new(machine);
        let linker = crate::loaded::linker(machine.engine()).map_err(StartError::Engine)?;
        let shelf = Arc::new(Shelf::open(&setup.state.join("plugins.redb"))?);
        let web = Web::new(script)?;
        let stop = CancellationToken::new();
        let runtime = thread(stop.clone())?;
        let host = Host {
            directory: setup.directory,
            keys: setup.keys,
            world: setup.world,
            shelf,
            linker,
            calls: Arc::new(Calls::new(machine)),
            web,
            slots: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            runtime,
            stop,
        };
        Ok(Self(Arc::new(host)))
    }

    /// Ends what runs, at once. What plugins began at other sides stays begun, and is gone on with from
    /// its journal.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    fn slot(&self, name: &str) -> Result<Arc<Slot>, CallError> {
        locked(&self.0.slots).get(name).cloned().ok_or_else(|| CallError::Unknown(name.to_owned()))
    }

    /// Calls a function of a plugin that is loaded, on the thread of plugins.
    async fn call<R: Answer + Send + 'static>(
        &self,
        (name, run): (&str, Option<(String, String)>),
        function: &'static str,
        allowed: Allowance,
        deed: impl Deed<R>,
    ) -> Result<R, CallError> {
        let slot = self.slot(name)?;
        let loaded = slot.loaded().ok_or_else(|| CallError::Unknown(name.to_owned()))?;
        locked(&slot.health).may(Instant::now())?;
        let made = self.make(&slot, loaded, (run, function, allowed), deed).await;
        let fault = made.as_ref().err().filter(|error| error.is_fault());
        if let Some(fault) = fault {
            slot.logs.say(&slot.name, crate::logs::Level::Error, &format!("{function}: {fault}"));
        }
        let faults = locked(&slot.health).ended(Instant::now(), function, fault);
        slot.numbers.faults(faults);
        made
    }

    async fn make<R: Answer + Send + 'static>(
        &self,
        slot: &Slot,
        loaded: Arc<Loaded>,
        (run, function, allowed): (Option<(String, String)>, &'static str, Allowance),
        deed: impl Deed<R>,
    ) -> Result<R, CallError> {
        let host = &self.0;
        let caller = Caller { run, ..self.caller_of(slot) };
        let calls = Arc::clone(&host.calls);
        let doing =
            async move { calls.make((&loaded.linked, caller), function, allowed, deed).await };
        let doing = AbortOnDropHandle::new(host.runtime.spawn(doing));
        tokio::select! {
            made = doing => made.map_err(|_aborted| CallError::Stopped)?,
            () = host.stop.cancelled() => Err(CallError::Stopped),
        }
    }

    /// What the calls of a plugin are made with.
    pub(crate) fn parts(&self, name: &str) -> Result<(Arc<Calls>, Arc<Loaded>, Caller), CallError> {
        let slot = self.slot(name)?;
        let loaded = slot.loaded().ok_or_else(|| CallError::Unknown(name.to_owned()))?;
        Ok((Arc::clone(&self.0.calls), loaded, self.caller_of(&slot)))
    }

    fn caller_of(&self, slot: &Slot) -> Caller {
        let (settings, config) = locked(&slot.settings).clone();
        let voice = (Arc::clone(&slot.logs), Arc::clone(&slot.numbers));
        self.caller(Arc::clone(&slot.name), (Arc::new(settings.grants.clone()), config), voice)
    }

    /// Whose call it is, outside of any run.
    fn caller(
        &self,
        plugin: Arc<str>,
        (grants, config): (Arc<Grants>, Arc<str>),
        (logs, numbers): (Arc<Logs>, Arc<Numbers>),
    ) -> Caller {
        let host = &self.0;
        Caller {
            plugin,
            grants,
            config,
            run: None,
            world: Arc::clone(&host.world),
            shelf: Arc::clone(&host.shelf),
            logs,
            numbers,
            web: host.web.clone(),
        }
    }

    /// Looks at the directory now and from time to time, until the host stops, and tells that it has
    /// looked.
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn watch(&self, every: Duration, looked: impl Fn()) {
        loop {
            self.scan().await;
            looked();
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }
}

/// The thread that plugins run on, and its helpers. It yields to all others.
fn thread(stop: CancellationToken) -> Result<Handle, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_name("plugin-helper")
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name("plugins".to_owned()).spawn(move || {
        // Its helpers inherit it. Where it is not allowed, plugins are heard as everybody else.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!("the thread of plugins keeps its priority: {error}");
        }
        runtime.block_on(stop.cancelled());
        // What computes ends at its next tick.
        runtime.shutdown_timeout(Duration::from_secs(1));
    })?;
    Ok(handle)
}
