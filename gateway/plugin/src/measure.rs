//! What a component costs: its instances, its calls, its memory.
//!
//! Invariant: what is measured is what a gateway does: the same engine, cache, pool and limits. Nothing else
//! is called meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::call::Calls;
use crate::error::CallError;
use crate::host::{Plugins, Setup, StartError};
use crate::instance::{Allowance, Caller, Computed, State};
use crate::limits::CALLS_MAX;
use crate::loaded::{About, Linked};
use crate::trial::Simulated;

/// Calls that are timed together: one takes less than a clock can tell.
const BATCH: u32 = 64;

/// What a component costs.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Who was measured.
    pub about: Arc<About>,
    /// Calls and instances that each median is of.
    pub rounds: u32,
    /// An instance from the pool, its code from the cache.
    pub instantiate: Duration,
    /// The first call of an instance.
    pub first_call: Duration,
    /// A further one: `describe`.
    pub call: Duration,
    /// All that a gateway does for one: the way to the thread of plugins and back, an instance, a call.
    pub whole: Duration,
    /// The same description by a function of this program behind a pointer.
    pub native: Duration,
    /// What an instance that was called once holds in memory, in bytes.
    pub memory_bytes: u64,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A host could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It is no plugin.
    #[error(transparent)]
    Load(#[from] crate::error::LoadError),
    /// The system does not say how much memory is used.
    #[error("the memory of this process is not known: {0}")]
    Memory(std::io::Error),
    /// It does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Bytes of this process that lie in memory.
fn resident() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let kib = kib.ok_or_else(|| std::io::Error::other("it tells no VmRSS"))?;
    Ok(kib << 10)
}

impl Calls {
    /// What instances hold that were called once: measured first, while the pool is untouched.
    async fn memory(
        &self,
        (linked, caller): (&Linked, &Caller),
    ) -> wasmtime::Result<std::io::Result<u64>> {
        let before = resident();
        let mut all = Vec::new();
        for _ in 0..CALLS_MAX {
            let computed = Computed::new();
            let mut store =
                State::store(self.machine(), caller.clone(), (Allowance::PURE, computed));
            let instance = linked.pre.instantiate_async(&mut store).await?;
            linked.plugin(&mut store, &instance)?.call_describe(&mut store).await?;
            all.push(store);
        }
        let after = resident();
        let count = all.len() as u64;
        Ok(before.and_then(|before| Ok(after?.saturating_sub(before) / count.max(1))))
    }

    /// One instance and its calls: how long it took to make, its first call, a further one.
    async fn once(&self, (linked, caller): (&Linked, &Caller)) -> wasmtime::Result<[Duration; 3]> {
        let caller = caller.clone();
        let began = Instant::now();
        let computed = Computed::new();
        let mut store = State::store(self.machine(), caller, (Allowance::PURE, computed));
        let instance = linked.pre.instantiate_async(&mut store).await?;
        let instantiate = began.elapsed();
        let plugin = linked.plugin(&mut store, &instance)?;
        let began = Instant::now();
        plugin.call_describe(&mut store).await?;
        let first = began.elapsed();
        let began = Instant::now();
        for _ in 0..BATCH {
            plugin.call_describe(&mut store).await?;
        }
        Ok([instantiate, first, began.elapsed() / BATCH])
    }
}

/// What a program that knows its plugins beforehand does instead: a call through a pointer that makes the
/// same answer.
fn native(about: &About) -> Duration {
    let copy: &dyn Fn(&About) -> [String; 4] = &|about| {
        let schema = about.config_schema.to_string();
        [about.vendor.clone(), about.version.clone(), about.description.clone(), schema]
    };
    let began = Instant::now();
    for _ in 0..BATCH {
        std::hint::black_box(std::hint::black_box(copy)(std::hint::black_box(about)));
    }
    began.elapsed() / BATCH
}

/// Measures a component in a host of its own, in a folder that nobody needs afterwards.
///
/// # Errors
/// [`MeasureError`].
pub async fn measure(
    scratch: &Path,
    component: Vec<u8>,
    rounds: u32,
) -> Result<Figures, MeasureError> {
    let setup = Setup {
        directory: scratch.join("plugins"),
        state: scratch.join("state"),
        keys: Vec::new(),
        world: Arc::new(Simulated::default()),
    };
    let plugins = Plugins::start(setup)?;
    let about = plugins.install(component, None).await?;
    let (calls, loaded, caller) = plugins.parts(&about.name)?;
    let _beat = calls.machine().begin();
    let of = (&loaded.linked, &caller);
    let broken = |error: wasmtime::Error| CallError::Trap(format!("{error:#}"));
    let memory = calls.memory(of).await.map_err(broken)?;
    let memory_bytes = memory.map_err(MeasureError::Memory)?;
    let (mut made, mut first, mut further) = (Vec::new(), Vec::new(), Vec::new());
    let (mut whole, mut natively) = (Vec::new(), Vec::new());
    // In turn, so that what disturbs one disturbs all.
    for _ in 0..rounds {
        let [one, two, three] = calls.once(of).await.map_err(broken)?;
        made.push(one);
        first.push(two);
        further.push(three);
        let began = Instant::now();
        plugins.descriptor(&about.name).await?;
        whole.push(began.elapsed());
        natively.push(native(&about));
    }
    plugins.stop();
    Ok(Figures {
        about,
        rounds,
        instantiate: median(made),
        first_call: median(first),
        call: median(further),
        whole: median(whole),
        native: median(natively),
        memory_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_several_is_told_and_of_none_nothing() {
        let of = |all: &[u64]| median(all.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(of(&[9, 1, 5]), Duration::from_millis(5));
        assert_eq!(of(&[]), Duration::ZERO);
    }

    #[test]
    fn memory_that_is_touched_is_resident() {
        let before = resident().unwrap();
        let block = vec![1_u8; 16 << 20];
        let after = resident().unwrap();
        assert!(after >= before + (8 << 20), "{before} {after} {}", block.len());
    }
}
