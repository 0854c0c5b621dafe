//! The machine that runs components: its limits, its cache of compiled code, and its pulse.
//!
//! Invariant: code of a plugin never runs for longer than a tick without being looked at. While no
//! call runs, the pulse rests.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;

use wasmtime::{
    Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
};

use crate::limits::{CALLS_MAX, CORE_INSTANCES_MAX, MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX, TICK};

/// What an instance keeps mapped when it is given back, in bytes: the next one starts faster.
const RESIDENT_BYTES: usize = 64 << 10;
/// Tables of functions of one component: one for each core instance that has indirect calls.
const TABLES_MAX: u32 = 8;
/// Memories of one component: adapters share the module's.
const MEMORIES_MAX: u32 = 4;
/// Room for what the engine keeps of one instance, in bytes: its imports and its table of functions.
const INSTANCE_BYTES_MAX: usize = 2 << 20;

/// The engine and its pulse.
pub(crate) struct Machine {
    engine: Engine,
    pulse: Arc<Pulse>,
    thread: Thread,
}

struct Pulse {
    /// Calls that run.
    running: AtomicUsize,
}

/// While it lives, the pulse beats.
pub(crate) struct Beat(Arc<Pulse>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Machine {
    /// An engine that keeps what it compiled in this directory.
    ///
    /// # Errors
    /// When the directory cannot be used, or the system gives no address space or thread.
    pub(crate) fn new(cache: &Path) -> wasmtime::Result<Self> {
        let mut kept = CacheConfig::new();
        kept.with_directory(cache);
        let mut pool = PoolingAllocationConfig::default();
        let calls = u32::try_from(CALLS_MAX).unwrap_or(u32::MAX);
        pool.total_component_instances(calls)
            .total_core_instances(calls * CORE_INSTANCES_MAX)
            .total_memories(calls * MEMORIES_MAX)
            .total_tables(calls * TABLES_MAX)
            .total_stacks(calls)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_memory_size(MEMORY_BYTES_MAX)
            .linear_memory_keep_resident(RESIDENT_BYTES)
            .table_keep_resident(RESIDENT_BYTES);
        let mut config = Config::new();
        config
            .cache(Some(Cache::new(kept)?))
            .epoch_interruption(true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let pulse = Arc::new(Pulse { running: AtomicUsize::new(0) });
        let (of, weak) = (engine.weak(), Arc::downgrade(&pulse));
        let thread = std::thread::Builder::new()
            .name("plugin-pulse".to_owned())
            .spawn(move || beat(&of, &weak))?
            .thread()
            .clone();
        Ok(Self { engine, pulse, thread })
    }

    /// The engine.
    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Lets the pulse beat for a call.
    pub(crate) fn begin(&self) -> Beat {
        if self.pulse.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
        Beat(Arc::clone(&self.pulse))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

/// Beats while calls run, and ends when the machine is gone.
fn beat(engine: &wasmtime::EngineWeak, pulse: &Weak<Pulse>) {
    loop {
        let Some(running) = pulse.upgrade().map(|pulse| pulse.running.load(Ordering::Acquire))
        else {
            return;
        };
        if running == 0 {
            // A call that began after it was looked at has left a token, which ends this at once.
            std::thread::park();
            continue;
        }
        std::thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}
