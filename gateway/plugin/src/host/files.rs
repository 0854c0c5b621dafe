//! The directory of components: what lies there is loaded, what changes replaces what was, what goes
//! is unloaded.
//!
//! Invariant: a file appears under its name whole or not at all, where this code writes it; one that
//! somebody else is still writing is refused and looked at again. Compiling happens beside all calls.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Loaded, Plugins, Slot, locked};
use crate::bindings::exports::twinspan::plugin::plugin::Descriptor;
use crate::error::LoadError;
use crate::instance::Allowance;
use crate::limits::COMPONENT_BYTES_MAX;
use crate::loaded::{About, Linked, digest};
use crate::logs::{Level, Logs};
use crate::metrics::Numbers;
use crate::shelf::Settings;

/// The ending of a component's file.
const ENDING: &str = "wasm";

fn file_error(path: &Path, error: &impl ToString) -> LoadError {
    LoadError::File { file: path.display().to_string(), why: error.to_string() }
}

/// What tells one writing of a file, and of the signature beside it, from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([Option<(i64, i64, u64, u64)>; 2]);

impl Stamp {
    fn of(path: &Path) -> Self {
        let one = |path: &Path| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.mtime(), about.mtime_nsec(), about.len(), about.ino()))
        };
        Self([one(path), one(&path.with_extension("wasm.sig"))])
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let bytes = std::fs::metadata(path).map_err(|error| file_error(path, &error))?.len();
    if bytes > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes, max: COMPONENT_BYTES_MAX });
    }
    std::fs::read(path).map_err(|error| file_error(path, &error))
}

impl Plugins {
    fn path(&self, name: &str) -> PathBuf {
        self.0.directory.join(format!("{name}.{ENDING}"))
    }

    /// Looks at the directory once, and loads, replaces and unloads what changed.
    pub async fn scan(&self) {
        let _alone = self.0.changing.lock().await;
        let found = match self.names() {
            Ok(found) => found,
            Err(error) => {
                let at = self.0.directory.display();
                tracing::warn!("the directory of plugins, {at}, cannot be read: {error}");
                return;
            }
        };
        for name in &found {
            let path = self.path(name);
            let slot = self.slot_or_new(name);
            // Taken before it is read: what is written meanwhile has another one.
            let stamp = Stamp::of(&path);
            if *locked(&slot.seen) == Some(stamp) {
                continue;
            }
            let reading = self.0.runtime.spawn_blocking(move || read(&path));
            match reading.await {
                Ok(Ok(bytes)) => self.look_at(&slot, bytes).await,
                Ok(Err(error)) => slot.refuse("", &error),
                // The host stops.
                Err(_stopped) => return,
            }
            *locked(&slot.seen) = Some(stamp);
        }
        let gone: Vec<_> = locked(&self.0.slots)
            .values()
            .filter(|slot| !found.contains(&*slot.name))
            .cloned()
            .collect();
        for slot in gone {
            slot.unload();
            locked(&self.0.slots).remove(&*slot.name);
            tracing::info!(plugin = &*slot.name, "unloaded: its file is gone");
        }
    }

    fn names(&self) -> std::io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0.directory)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if path.extension().is_some_and(|ending| ending == ENDING)
                && let Some(name) = name
                && !name.starts_with('.')
            {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    fn slot_or_new(&self, name: &str) -> Arc<Slot> {
        let mut slots = locked(&self.0.slots);
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        let world = Arc::clone(&self.0.world);
        let slot = Slot {
            name: name.into(),
            loaded: Default::default(),
            seen: Default::default(),
            refused: Default::default(),
            settings: std::sync::Mutex::new((Arc::default(), "{}".into())),
            health: Default::default(),
            logs: Arc::new(Logs::new(move || world.unix_ms())),
            numbers: Arc::new(Numbers::new(name)),
        };
        let slot = Arc::new(slot);
        slots.insert(name.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Loads what a file holds, unless that is loaded already.
    async fn look_at(&self, slot: &Arc<Slot>, bytes: Vec<u8>) {
        let digest = digest(&bytes);
        if slot.loaded().is_some_and(|loaded| loaded.about.digest == digest) {
            *locked(&slot.refused) = None;
            return;
        }
        // Settings are read before the component is there: it is never called with others.
        let settings = self.0.shelf.settings(&slot.name);
        let settings = settings.unwrap_or_else(|error| {
            slot.logs.say(&slot.name, Level::Error, &format!("{error}; nothing is granted"));
            Settings::default()
        });
        let signature = std::fs::read(self.path(&slot.name).with_extension("wasm.sig"));
        match self.load(slot, (bytes, digest.clone()), signature.ok()).await {
            Ok(loaded) => {
                slot.set(settings);
                slot.load(loaded);
            }
            Err(error) => slot.refuse(&digest, &error),
        }
    }

    async fn load(
        &self,
        slot: &Slot,
        (bytes, digest): (Vec<u8>, String),
        signature: Option<Vec<u8>>,
    ) -> Result<Loaded, LoadError> {
        let began = tokio::time::Instant::now();
        let loaded = self.prepare((bytes, digest), signature).await?;
        if *loaded.about.name != *slot.name {
            let (file, name) = (slot.name.to_string(), loaded.about.name.to_string());
            return Err(LoadError::Name { file, name });
        }
        let about = &loaded.about;
        slot.numbers.loaded(&about.version, &about.digest, &about.world(), began.elapsed());
        Ok(loaded)
    }

    /// Checks, compiles and links a component and asks it who it is.
    async fn prepare(
        &self,
        (bytes, digest): (Vec<u8>, String),
        signature: Option<Vec<u8>>,
    ) -> Result<Loaded, LoadError> {
        let keys = &self.0.keys;
        if !keys.is_empty() {
            let signature = signature.ok_or_else(|| {
                LoadError::Signature("there is none, and one is required".to_owned())
            })?;
            if !crate::signature::is_right(keys, &bytes, &signature) {
                return Err(LoadError::Signature("no trusted key made it".to_owned()));
            }
        }
        let linker = self.0.linker.clone();
        let compiled = self.0.runtime.spawn_blocking(move || Linked::new(&linker, &bytes));
        let linked =
            compiled.await.map_err(|error| LoadError::NoComponent(error.to_string()))??;
        let said = self.describe(&linked).await?;
        let about: About = linked.about(&digest, said)?;
        Ok(Loaded { linked, about: Arc::new(about) })
    }

    /// Asks a component that is in no place yet who it is: with nothing granted, and no log kept.
    async fn describe(&self, linked: &Linked) -> Result<Descriptor, LoadError> {
        let host = &self.0;
        let world = Arc::clone(&host.world);
        let logs = Arc::new(Logs::new(move || world.unix_ms()));
        let voice = (logs, Arc::new(Numbers::new("(new)")));
        let caller = self.caller("(new)".into(), (Arc::default(), "{}".into()), voice);
        let calls = Arc::clone(&host.calls);
        let said = calls
            .make((linked, caller), "describe", Allowance::PURE, |store, linked, instance| {
                Box::pin(async move {
                    let plugin = linked.plugin(store, &instance)?;
                    plugin.call_describe(store).await
                })
            })
            .await?;
        Ok(said)
    }

    /// Takes a component: checks it as one that lies in the directory, and puts it there under the name
    /// that it gives itself, in the place of one of that name.
    ///
    /// # Errors
    /// [`LoadError`]; then nothing has changed.
    pub async fn install(
        &self,
        bytes: Vec<u8>,
        signature: Option<Vec<u8>>,
    ) -> Result<Arc<About>, LoadError> {
        let _alone = self.0.changing.lock().await;
        let size = bytes.len() as u64;
        if size > COMPONENT_BYTES_MAX {
            return Err(LoadError::TooLarge { bytes: size, max: COMPONENT_BYTES_MAX });
        }
        let digest = digest(&bytes);
        let kept = bytes.clone();
        let prepared = self.prepare((bytes, digest.clone()), signature.clone()).await?;
        let name = prepared.about.name.to_string();
        let path = self.path(&name);
        if let Some(signature) = signature {
            write(&path.with_extension("wasm.sig"), &signature)?;
        }
        write(&path, &kept)?;
        let slot = self.slot_or_new(&name);
        self.look_at(&slot, kept).await;
        match (slot.loaded(), locked(&slot.refused).clone()) {
            (Some(loaded), _) if loaded.about.digest == digest => Ok(Arc::clone(&loaded.about)),
            (_, refused) => {
                let why = refused.map_or_else(|| "it vanished".to_owned(), |(_, why)| why);
                Err(LoadError::File { file: path.display().to_string(), why })
            }
        }
    }

    /// Removes a plugin's file and unloads it; with `forgets` also what was granted and what it kept.
    /// Calls under way go on to their end.
    ///
    /// # Errors
    /// [`LoadError::File`] when the file or what is kept cannot be removed.
    pub async fn remove(&self, name: &str, forgets: bool) -> Result<(), LoadError> {
        let _alone = self.0.changing.lock().await;
        let path = self.path(name);
        for path in [path.clone(), path.with_extension("wasm.sig")] {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(file_error(&path, &error)),
            }
        }
        if let Some(slot) = locked(&self.0.slots).remove(name) {
            slot.unload();
        }
        if forgets {
            self.0.shelf.forget(name).map_err(|error| file_error(&path, &error))?;
        }
        Ok(())
    }
}

/// Writes a file so that it is there whole or not at all, and stays.
fn write(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let wrong = |error: std::io::Error| file_error(path, &error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    let file = std::fs::File::create(&fresh).map_err(wrong)?;
    std::io::Write::write_all(&mut &file, bytes).map_err(wrong)?;
    file.sync_all().map_err(wrong)?;
    std::fs::rename(&fresh, path).map_err(wrong)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|it| it.sync_all()).map_err(wrong)
}

impl Slot {
    fn load(&self, loaded: Loaded) {
        let loaded = Arc::new(loaded);
        let old = locked(&self.loaded).replace(Arc::clone(&loaded));
        *locked(&self.refused) = None;
        *locked(&self.health) = Default::default();
        let about = &loaded.about;
        if let Some(old) = old {
            self.numbers.unloaded(&old.about.version, &old.about.digest, &old.about.world());
        }
        tracing::info!(
            plugin = &*self.name,
            version = about.version,
            digest = about.digest,
            "loaded"
        );
    }

    fn unload(&self) {
        if let Some(old) = locked(&self.loaded).take() {
            self.numbers.unloaded(&old.about.version, &old.about.digest, &old.about.world());
        }
    }

    /// Says that a file is not taken, once for each.
    fn refuse(&self, digest: &str, error: &LoadError) {
        let refusal = Some((digest.to_owned(), error.to_string()));
        let mut refused = locked(&self.refused);
        if *refused != refusal {
            let goes_on = locked(&self.loaded).is_some();
            let rest = if goes_on { "; the one that is loaded goes on" } else { "" };
            tracing::warn!(plugin = &*self.name, "its file is refused: {error}{rest}");
            *refused = refusal;
        }
    }
}
