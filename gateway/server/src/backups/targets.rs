//! The targets that are configured, connected when they are first used.
//!
//! Invariant: credentials and keys are read when a target is connected, are kept nowhere else, and are
//! in no error. A connection whose store failed is made anew for the next call.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use api::Code;
use backup::{Access, BackupError, Catalogue, Key, Repository, Target, Watch};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::TargetConfig;
use crate::refusal::Refused;

/// Retries are bounded by the time they take.
const RETRIES: usize = 100;
/// A file of credentials or a key is small.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// All targets.
#[derive(Debug)]
pub(crate) struct Targets {
    all: Vec<Arc<Connected>>,
    /// A policy was set: its schedule is looked at at once.
    pub(crate) policy_set: tokio::sync::Notify,
    /// A volume was filled or removed: pins may be kept for nobody.
    pub(crate) unneeded: tokio::sync::Notify,
    /// Pins that are kept for volumes that are being made.
    making: Mutex<HashSet<Uuid>>,
}

/// A pin is kept for a volume that is being made, until this is dropped.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    targets: &'a Targets,
    pin: Uuid,
}

/// One target, and what is known of it.
#[derive(Debug)]
pub(crate) struct Connected {
    /// As it is configured.
    pub(crate) config: TargetConfig,
    site: String,
    clock: Clock,
    repository: tokio::sync::Mutex<Option<Repository>>,
    catalogue: tokio::sync::Mutex<Catalogue>,
    up: Mutex<Option<bool>>,
}

// === impl Targets ===

impl Targets {
    /// None is connected yet.
    #[must_use]
    pub(crate) fn new(configs: &[TargetConfig], site: &str, clock: Clock) -> Self {
        let connected = |config: &TargetConfig| {
            Arc::new(Connected {
                config: config.clone(),
                site: site.to_owned(),
                clock,
                repository: tokio::sync::Mutex::default(),
                catalogue: tokio::sync::Mutex::default(),
                up: Mutex::default(),
            })
        };
        Self {
            all: configs.iter().map(connected).collect(),
            policy_set: tokio::sync::Notify::new(),
            unneeded: tokio::sync::Notify::new(),
            making: Mutex::default(),
        }
    }

    /// Keeps a pin although no volume names it yet.
    pub(crate) fn making(&self, pin: Uuid) -> Making<'_> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner).insert(pin);
        Making { targets: self, pin }
    }

    /// Whether a pin is kept for a volume that is being made.
    pub(crate) fn is_making(&self, pin: Uuid) -> bool {
        self.making.lock().unwrap_or_else(PoisonError::into_inner).contains(&pin)
    }

    /// All of them, in the order of the configuration.
    #[must_use]
    pub(crate) fn all(&self) -> &[Arc<Connected>] {
        &self.all
    }

    /// The one with this name.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`].
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Connected>, Refused> {
        let found = self.all.iter().find(|target| target.config.name == name);
        found.cloned().ok_or_else(|| {
            let detail = format!("no target {name:?} is configured here");
            Refused::new(Code::BackupTargetUnknown, detail)
        })
    }
}

// === impl Making ===

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut making = self.targets.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.remove(&self.pin);
        // It may never have been made.
        self.targets.unneeded.notify_one();
    }
}

// === impl Connected ===

impl Connected {
    /// The repository; where there is none it is made if that is asked for.
    ///
    /// # Errors
    /// [`BackupError::NoRepository`], or why it cannot be opened.
    ///
    /// # Cancellation
    /// It is opened by the next call.
    pub(crate) async fn open(&self, make: bool) -> Result<Repository, BackupError> {
        let mut known = self.repository.lock().await;
        if let Some(repository) = &*known {
            return Ok(repository.clone());
        }
        let opened = self.note(self.connect(make).await)?;
        *known = Some(opened.clone());
        Ok(opened)
    }

    async fn connect(&self, make: bool) -> Result<Repository, BackupError> {
        let target = self.target()?;
        if !make && target.is_missing() {
            // To connect would make it, on whatever disk is there while another is not mounted.
            return Err(BackupError::NoRepository);
        }
        let (store, prefix) = target.connect()?;
        let key = self.key()?;
        let access = Access::ReadWrite;
        let open = || {
            Repository::open(Arc::clone(&store), prefix.clone(), key.as_ref(), &self.site, access)
        };
        match open().await {
            Err(BackupError::NoRepository) if make => {}
            opened => return opened,
        }
        let made =
            Repository::create(Arc::clone(&store), prefix.clone(), key.as_ref(), &self.site).await;
        match made {
            // Another gateway was quicker.
            Err(BackupError::RepositoryExists) => open().await,
            made => made,
        }
    }

    /// Remembers whether the store answered. A store that failed is connected anew, with the
    /// credentials that are there then.
    pub(crate) fn note<T>(&self, result: Result<T, BackupError>) -> Result<T, BackupError> {
        let has_failed = matches!(
            result,
            Err(BackupError::Unreachable { .. }
                | BackupError::Refused { .. }
                | BackupError::Target { .. })
        );
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = Some(!has_failed);
        if has_failed && let Ok(mut known) = self.repository.try_lock() {
            *known = None;
        }
        result
    }

    /// Whether the store answered the last call; `None`: none was made.
    #[must_use]
    pub(crate) fn is_up(&self) -> Option<bool> {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What backups there are now.
    ///
    /// # Errors
    /// What the store says; [`BackupError::NoRepository`].
    pub(crate) async fn catalogue(&self) -> Result<Catalogue, BackupError> {
        let repository = self.open(false).await?;
        let mut catalogue = self.catalogue.lock().await;
        catalogue.set_now(self.now());
        self.note(catalogue.refresh(&repository, &Watch::default()).await)?;
        Ok(catalogue.clone())
    }

    /// Forgets what was read of it, so that the next look reads all of it.
    pub(crate) async fn forget(&self) {
        *self.repository.lock().await = None;
        *self.catalogue.lock().await = Catalogue::default();
    }

    /// The time, for what is taken or looked at now.
    #[must_use]
    pub(crate) fn now(&self) -> jiff::Timestamp {
        let ms = i64::try_from(self.clock.unix_ms()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms).unwrap_or_default()
    }

    /// A watch with this target's limits.
    #[must_use]
    pub(crate) fn watch(&self, cancel: tokio_util::sync::CancellationToken) -> Arc<Watch> {
        let watch = Watch::new(cancel);
        watch.limit(self.config.bytes_per_second.unwrap_or(0));
        Arc::new(watch)
    }

    fn target(&self) -> Result<Target, BackupError> {
        let mut target = Target::new(self.config.url.clone());
        (target.retries, target.retry_time) = (RETRIES, self.config.patience);
        target.options.clone_from(&self.config.options);
        target.options.extend(match &self.config.credentials {
            Some(file) => {
                let text = read("the credentials", file)?;
                credentials(&text, file)?
            }
            None => from_environment(&self.config.name, std::env::vars()),
        });
        Ok(target)
    }

    fn key(&self) -> Result<Option<Key>, BackupError> {
        let Some(file) = &self.config.key else { return Ok(None) };
        let text = read("the key", file)?;
        let bytes = crate::book::unhex(text.trim()).and_then(|bytes| bytes.try_into().ok());
        let why = || format!("the key in {} is not 64 hexadecimal digits", file.display());
        bytes.map(Key::new).map(Some).ok_or_else(|| BackupError::Target { why: why() })
    }
}

fn read(what: &str, file: &std::path::Path) -> Result<String, BackupError> {
    let fail = |why: String| BackupError::Target {
        why: format!("{what} in {} cannot be read: {why}", file.display()),
    };
    let length = std::fs::metadata(file).map_err(|error| fail(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(fail(format!("it has {length} bytes")));
    }
    std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))
}

/// `option=value` lines; empty ones and comments are passed over. A line that is neither is told by
/// its number, because it may be a secret.
fn credentials(text: &str, file: &std::path::Path) -> Result<Vec<(String, String)>, BackupError> {
    let mut options = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            let why = format!("line {number} of {} is not like option=value", file.display());
            return Err(BackupError::Target { why });
        };
        options.push((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
    }
    Ok(options)
}

/// `TWINSPAN_TARGET_NAME_OPTION` of a target: what is no letter or digit in its name is `_` there.
fn from_environment(
    target: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let prefix = format!("TWINSPAN_TARGET_{}_", target.chars().map(letter).collect::<String>());
    let option = |(name, value): (String, String)| {
        name.strip_prefix(&prefix).map(|option| (option.to_ascii_lowercase(), value))
    };
    variables.filter_map(option).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn credentials_are_read_and_a_bad_line_is_told_by_its_number_only() {
        let file = Path::new("/etc/keys");
        let text = "# S3\naccess_key_id = AK\n\nsecret_access_key=\"hu=sh\"\n";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted = vec![pair("access_key_id", "AK"), pair("secret_access_key", "hu=sh")];
        assert_eq!(credentials(text, file).unwrap(), wanted);
        let error = credentials("hush\n", file).unwrap_err().to_string();
        assert!(error.contains("line 1 of /etc/keys") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn the_environment_names_the_target_and_the_option() {
        let variables = [
            ("TWINSPAN_TARGET_OFF_SITE_SECRET_ACCESS_KEY", "hush"),
            ("TWINSPAN_TARGET_OTHER_REGION", "x"),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = from_environment("off-site", variables.into_iter());
        assert_eq!(found, [("secret_access_key".to_owned(), "hush".to_owned())]);
    }
}
