//! What the demo remembers of itself: one line of JSON in its folder, the same that it prints.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::Global;
use crate::failure::{FAILED, Failure};

const STATE_FILE: &str = "demo.json";
const DIRECTORY: &str = "twinspan-demo";
const WHOLE_FILE: &str = "set-up";

/// Where a site's configuration lies.
pub(crate) fn config_file(directory: &Path, site: &str) -> PathBuf {
    directory.join(format!("{site}.toml"))
}

/// The demo.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct State {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Its sites.
    pub(crate) sites: Vec<Site>,
}

/// One site.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Site {
    /// Its name.
    pub(crate) name: String,
    /// `primary`, `secondary`, `fenced`; `unknown` when it does not say.
    pub(crate) role: String,
    /// Its process; null when it does not run.
    pub(crate) pid: Option<i32>,
    /// Its API.
    pub(crate) api: String,
    /// Where hosts attach the volume over TCP; null while it does not serve.
    pub(crate) nbd: Option<String>,
    /// Where hosts attach the volume over a Unix socket; null while it does not serve.
    pub(crate) nbd_unix: Option<String>,
    /// Where initiators log in; null while it does not serve.
    pub(crate) iscsi: Option<String>,
    /// Where Prometheus scrapes.
    pub(crate) metrics: String,
    /// Its admin token.
    pub(crate) token_file: String,
    /// Its configuration: `NAME.toml` in the demo's folder.
    #[serde(skip)]
    pub(crate) config: PathBuf,
}

impl State {
    /// Where the demo lies.
    pub(crate) fn directory(global: &Global) -> PathBuf {
        global.dir.clone().unwrap_or_else(|| PathBuf::from(DIRECTORY))
    }

    /// Whether there is one that was set up to its end.
    pub(crate) fn is_whole(directory: &Path) -> bool {
        directory.join(WHOLE_FILE).exists()
    }

    /// Says that it is set up.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn set_whole(&self) -> Result<(), Failure> {
        let file = self.dir.join(WHOLE_FILE);
        std::fs::write(&file, "")
            .map_err(|error| Failure::new(FAILED, format!("{}: {error}", file.display())))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn load(directory: &Path) -> Result<Self, Failure> {
        let file = directory.join(STATE_FILE);
        let missing = |error: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("there is no demo in {}: {error}", directory.display()))
                .next("twinspan demo start")
        };
        let text = std::fs::read_to_string(file).map_err(|error| missing(&error))?;
        let mut state: Self = serde_json::from_str(&text).map_err(|error| missing(&error))?;
        for site in &mut state.sites {
            site.config = config_file(&state.dir, &site.name);
        }
        Ok(state)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(FAILED, format!("{}: {error}", self.dir.display()))
        };
        let draft = self.dir.join(format!("{STATE_FILE}.new"));
        std::fs::write(&draft, self.line()).map_err(failed)?;
        std::fs::rename(&draft, self.dir.join(STATE_FILE)).map_err(failed)
    }

    /// As one line.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A site by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn site(&self, name: &str) -> Result<&Site, Failure> {
        self.sites.iter().find(|site| site.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.sites.iter().map(|site| site.name.as_str()).collect();
            Failure::new(FAILED, format!("the demo has no site {name:?}"))
                .next(format!("its sites are {}", names.join(", ")))
        })
    }
}
