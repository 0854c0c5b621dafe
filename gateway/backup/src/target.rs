//! Which store backups go to, and how it is connected.
//!
//! Invariant: an option that the store's client does not know is refused by name, so that a typing
//! error does not become a setting that is silently the default.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::error::BackupError;

/// A bucket and a prefix in it, or a local directory.
#[derive(Clone)]
pub struct Target {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// Options of the store's client and their values: `endpoint`, `region`, `access_key_id`,
    /// `secret_access_key`, `allow_http` and others.
    pub options: Vec<(String, String)>,
    /// How often a request that failed is sent again.
    pub retries: usize,
    /// How long that may go on for one request.
    pub retry_time: Duration,
}

impl Target {
    /// A target with the usual patience: ten tries in three minutes.
    pub fn new(url: impl Into<String>) -> Self {
        let retry_time = Duration::from_mins(3);
        Self { url: url.into(), options: Vec::new(), retries: 10, retry_time }
    }

    /// The same with one more option.
    #[must_use]
    pub fn with(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((option.into(), value.into()));
        self
    }

    /// Whether a client could be made, as far as the URL tells.
    ///
    /// # Errors
    /// [`BackupError::Target`] for what is no URL of a store that is known.
    pub fn check(&self) -> Result<(), BackupError> {
        self.parts().map(drop)
    }

    /// The scheme, the bucket or directory, and the prefix.
    fn parts(&self) -> Result<(&str, &str, Path), BackupError> {
        let wrong = |why: String| BackupError::Target { why };
        let parts = self.url.split_once("://");
        let (scheme, rest) = parts.ok_or_else(|| wrong(format!("{} is no URL", self.url)))?;
        match scheme {
            "file" if rest.starts_with('/') => return Ok((scheme, rest, Path::default())),
            "file" => return Err(wrong(format!("{rest} is no absolute path"))),
            "s3" | "gs" | "az" => {}
            _ => return Err(wrong(format!("{scheme} is none of s3, gs, az, file"))),
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong(format!("{} names no bucket", self.url)));
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| wrong(format!("{prefix} is no prefix: {error}")))?;
        Ok((scheme, bucket, prefix))
    }

    /// A client of the store, and the prefix below which everything goes. Nothing is asked of the
    /// store. TLS needs the process's provider of cryptography to have been installed.
    ///
    /// # Errors
    /// [`BackupError::Target`] when the description is not one that a client can be made of.
    pub fn connect(&self) -> Result<(Arc<dyn ObjectStore>, Path), BackupError> {
        let (scheme, bucket, prefix) = self.parts()?;
        let store = match scheme {
            "file" => return self.local(bucket),
            "gs" => self.google(bucket)?,
            "az" => self.azure(bucket)?,
            _ => self.s3(bucket)?,
        };
        Ok((store, prefix))
    }

    /// Whether it is a directory that is not there: one that is to be made, or what is not mounted.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.parts(), Ok(("file", folder, _)) if !std::path::Path::new(folder).is_dir())
    }

    fn local(&self, folder: &str) -> Result<(Arc<dyn ObjectStore>, Path), BackupError> {
        if let Some((option, _)) = self.options.first() {
            return Err(unknown("a directory", option));
        }
        let made = std::fs::create_dir_all(folder);
        made.map_err(|e| BackupError::Target { why: format!("make directory {folder}: {e}") })?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(refused)?;
        // Without it a loss of power could take a backup that was said to be there.
        Ok((Arc::new(store.with_fsync(true)), Path::default()))
    }

    fn s3(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, BackupError> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_client_options(client())
            .with_retry(self.retry());
        for (option, value) in &self.options {
            let key = option.parse::<AmazonS3ConfigKey>();
            builder = builder.with_config(key.map_err(|_e| unknown("S3", option))?, value);
        }
        Ok(Arc::new(builder.build().map_err(refused)?))
    }

    fn google(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, BackupError> {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_client_options(client())
            .with_retry(self.retry());
        for (option, value) in &self.options {
            let key = option.parse::<GoogleConfigKey>();
            builder = builder.with_config(key.map_err(|_e| unknown("Google", option))?, value);
        }
        Ok(Arc::new(builder.build().map_err(refused)?))
    }

    fn azure(&self, container: &str) -> Result<Arc<dyn ObjectStore>, BackupError> {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(container)
            .with_client_options(client())
            .with_retry(self.retry());
        for (option, value) in &self.options {
            let key = option.parse::<AzureConfigKey>();
            builder = builder.with_config(key.map_err(|_e| unknown("Azure", option))?, value);
        }
        Ok(Arc::new(builder.build().map_err(refused)?))
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: self.retries,
            retry_timeout: self.retry_time,
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Options hold credentials.
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A request moves at most one pack: 16 MiB in five minutes is a line of half a megabit.
fn client() -> ClientOptions {
    ClientOptions::new()
        .with_timeout(Duration::from_mins(5))
        .with_connect_timeout(Duration::from_secs(10))
}

fn unknown(store: &str, option: &str) -> BackupError {
    BackupError::Target { why: format!("{store} has no option {option}") }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands where a function of a value must")]
fn refused(error: object_store::Error) -> BackupError {
    BackupError::Target { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(target: &Target) -> String {
        target.connect().map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_connected_says_why() {
        assert!(error(&Target::new("bucket")).contains("no URL"));
        assert!(error(&Target::new("ftp://b/p")).contains("none of s3"));
        assert!(error(&Target::new("s3:///p")).contains("no bucket"));
        let typo = Target::new("s3://b/p").with("regoin", "here");
        assert!(error(&typo).contains("no option regoin"), "{}", error(&typo));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let target = Target::new("s3://b/p").with("secret_access_key", "hush");
        assert!(!format!("{target:?}").contains("hush"));
    }
}
