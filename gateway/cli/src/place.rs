//! Which gateway is meant, and how to prove ourselves to it.
//!
//! ```text
//!   --from URL, --url, TWINSPAN_URL   a gateway by its address
//!   --from SITE                       a site of the demo
//!   nothing                           the demo below ./twinspan-demo if there is one, else the
//!                                     gateway of this machine
//! ```

use std::path::{Path, PathBuf};

use crate::args::Global;
use crate::client::Client;
use crate::demo::state::State;
use crate::failure::{FAILED, Failure};

const LOCAL_URL: &str = "https://127.0.0.1:7701";
const LOCAL_TOKEN_FILE: &str = "/var/lib/twinspan/admin.token";

/// A gateway, and what proves who is who.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its API.
    pub(crate) url: String,
    /// The bearer token.
    pub(crate) token: Option<String>,
    /// Its certificate, PEM; none: not found.
    pub(crate) certificate: Option<String>,
}

impl Place {
    /// A gateway by the files of its data directory.
    ///
    /// # Errors
    /// When a file that was named cannot be read.
    pub(crate) fn of(url: &str, token_file: &Path, ca: Option<&Path>) -> Result<Self, Failure> {
        let beside = token_file.with_file_name(server::API_CERTIFICATE_FILE);
        let certificate = match ca {
            Some(path) => Some(read(path)?),
            None => std::fs::read_to_string(&beside).ok(),
        };
        let token = match std::env::var("TWINSPAN_TOKEN") {
            Ok(token) if !token.is_empty() => Some(token),
            Ok(_) | Err(_) => Some(read(token_file)?.trim().to_owned()),
        };
        Ok(Self { url: url.trim_end_matches('/').to_owned(), token, certificate })
    }

    /// The gateway that the arguments mean.
    ///
    /// # Errors
    /// When they name none, or its files cannot be read.
    pub(crate) fn find(global: &Global, at: Option<&str>) -> Result<Self, Failure> {
        let from = at.or(global.from.as_deref());
        let url = match from {
            Some(url) if url.starts_with("https://") => Some(url),
            Some(site) => return Self::in_demo(global, site),
            None => global.url.as_deref(),
        };
        let Some(url) = url else {
            let demo = State::load(&State::directory(global)).ok();
            let first = demo.as_ref().and_then(|state| state.sites.first());
            return match first {
                Some(site) => Self::in_demo(global, &site.name.clone()),
                None => Self::of(LOCAL_URL, &token_file(global), global.ca.as_deref()),
            };
        };
        Self::of(url, &token_file(global), global.ca.as_deref())
    }

    fn in_demo(global: &Global, site: &str) -> Result<Self, Failure> {
        let directory = State::directory(global);
        let state = State::load(&directory).map_err(|failure| {
            Failure::new(FAILED, format!("{site:?} is no URL, and {}", failure.what))
                .next("name a gateway by its URL, or run the command where the demo lies")
        })?;
        let site = state.site(site)?;
        Self::of(&site.api, Path::new(&site.token_file), None)
    }
}

fn token_file(global: &Global) -> PathBuf {
    global.token_file.clone().unwrap_or_else(|| PathBuf::from(LOCAL_TOKEN_FILE))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(FAILED, format!("{}: {error}", path.display()))
            .next("set TWINSPAN_URL, TWINSPAN_TOKEN_FILE and, if it lies elsewhere, TWINSPAN_CA")
    })
}

/// A client of the gateway that the arguments mean.
///
/// # Errors
/// As [`Place::find`].
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    Client::new(Place::find(global, None)?)
}

/// A client of this site or URL, or of the gateway that the arguments mean.
///
/// # Errors
/// As [`Place::find`].
pub(crate) fn client_at(global: &Global, at: Option<&str>) -> Result<Client, Failure> {
    Client::new(Place::find(global, at)?)
}
