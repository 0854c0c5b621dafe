//! What the engine keeps beside an instance for the time of one call: who is called, what it may, and
//! what it has used of it.
//!
//! Invariant: it ends with the call. What a component reaches of the gateway it reaches through here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::bindings::twinspan::plugin::types;
use crate::engine::Machine;
use crate::grants::Grants;
use crate::interfaces::Web;
use crate::limits::{MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, TABLE_ELEMENTS_MAX};
use crate::logs::Logs;
use crate::metrics::Numbers;
use crate::shelf::Shelf;
use crate::world::World;

/// Who calls whom, and for what.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The plugin.
    pub(crate) plugin: Arc<str>,
    /// What it may.
    pub(crate) grants: Arc<Grants>,
    /// Its configuration, JSON.
    pub(crate) config: Arc<str>,
    /// The run and the step that it is called for, if any.
    pub(crate) run: Option<(String, String)>,
    /// The gateway.
    pub(crate) world: Arc<dyn World>,
    /// Its keys and values.
    pub(crate) shelf: Arc<Shelf>,
    /// Its log.
    pub(crate) logs: Arc<Logs>,
    /// Its own numbers.
    pub(crate) numbers: Arc<Numbers>,
    /// For its requests.
    pub(crate) web: Web,
}

/// What may be used up in one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Computing.
    pub(crate) cpu: Duration,
    /// In all.
    pub(crate) time: Duration,
    /// Whether it may reach the gateway at all, beyond its log.
    pub(crate) is_pure: bool,
}

/// How long a call has computed: the turns that it had on its thread.
#[derive(Debug)]
pub(crate) struct Computed {
    spent: Duration,
    since: Option<Instant>,
}

impl Computed {
    /// Nothing yet.
    pub(crate) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { spent: Duration::ZERO, since: None }))
    }

    /// A turn begins.
    pub(crate) fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// It ends.
    pub(crate) fn end(&mut self) {
        self.spent = self.so_far();
        self.since = None;
    }

    /// All turns together, the one that it is in included.
    pub(crate) fn so_far(&self) -> Duration {
        self.spent + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The state beside an instance.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    memory: Memory,
    /// Who calls whom.
    pub(crate) caller: Caller,
    /// Whether the call may reach nobody.
    pub(crate) is_pure: bool,
    /// When it ends.
    pub(crate) deadline: Instant,
    /// Lines that it wrote.
    pub(crate) lines: u32,
    /// Requests that it sent, or wanted to.
    pub(crate) requests: u32,
    /// What it said of things that it made.
    pub(crate) notes: u32,
}

/// How much memory there is, and whether more was asked for.
#[derive(Debug, Default)]
struct Memory {
    bytes: usize,
    is_exceeded: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self.bytes.saturating_add(desired.saturating_sub(current));
        if grown > MEMORY_BYTES_MAX {
            self.is_exceeded = true;
            return Ok(false);
        }
        self.bytes = grown;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

/// It computed for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("it computed for too long")]
pub(crate) struct OutOfCpu;

/// A call that may reach nobody tried to.
#[derive(Debug, thiserror::Error)]
#[error("it called the gateway ({0}) where it may only compute")]
pub(crate) struct NotPure(pub(crate) &'static str);

impl State {
    /// A store for one call, whose deadline begins now.
    pub(crate) fn store(
        machine: &Machine,
        caller: Caller,
        (allowed, computed): (Allowance, Arc<Mutex<Computed>>),
    ) -> Store<Self> {
        // Nothing is given but what WASI needs to exist: no files, no network, no environment. Clocks
        // and random numbers are the system's.
        let wasi = WasiCtx::builder()
            .stdout(caller.logs.stream(&caller.plugin))
            .stderr(caller.logs.stream(&caller.plugin))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let state = Self {
            wasi,
            table: ResourceTable::new(),
            memory: Memory::default(),
            caller,
            is_pure: allowed.is_pure,
            deadline: Instant::now() + allowed.time,
            lines: 0,
            requests: 0,
            notes: 0,
        };
        let mut store = Store::new(machine.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(OUTPUT_BYTES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if computed.lock().unwrap_or_else(PoisonError::into_inner).so_far() > allowed.cpu {
                return Err(OutOfCpu.into());
            }
            // Others that wait for this thread have their turn in between.
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Memory that it has, in bytes.
    pub(crate) const fn memory(&self) -> usize {
        self.memory.bytes
    }

    /// Whether it was refused memory.
    pub(crate) const fn wanted_more_memory(&self) -> bool {
        self.memory.is_exceeded
    }

    /// Fails a call that may only compute.
    ///
    /// # Errors
    /// [`NotPure`], which ends the call as a trap.
    pub(crate) fn reaches(&self, what: &'static str) -> Result<(), NotPure> {
        if self.is_pure { Err(NotPure(what)) } else { Ok(()) }
    }

    /// What is left of the call's time.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}
