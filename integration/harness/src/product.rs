//! The product's own face as this harness relies on it: where the binary is, what its
//! configuration file says.
//!
//! Invariant: when a flag or key of the product changes, this file and `site.rs` change, and no
//! test does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Ports;

/// The binary to test: `TWINSPAN_BIN`, or the one that cargo built beside this program.
///
/// # Errors
/// When there is none, with what to build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TWINSPAN_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("TWINSPAN_BIN is {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let own = std::env::current_exe().context("find this program")?;
    let built = own.ancestors().skip(1).take(3).map(|folder| folder.join("twinspan"));
    built.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no twinspan beside {}: run `cargo build -p twinspan-cli`", own.display())
    })
}

/// The configuration of a site that keeps everything below `dir` and listens on loopback only.
#[must_use]
pub fn config(name: &str, dir: &Path, ports: Ports) -> String {
    let Ports { api, nbd, link, metrics } = ports;
    let dir = dir.display();
    format!(
        "data_dir = \"{dir}/data\"\n\
         [site]\n\
         name = \"{name}\"\n\
         [api]\n\
         listen = \"127.0.0.1:{api}\"\n\
         [metrics]\n\
         listen = \"127.0.0.1:{metrics}\"\n\
         [link]\n\
         listen = \"127.0.0.1:{link}\"\n\
         [[nbd.listeners]]\n\
         name = \"tcp\"\n\
         address = \"127.0.0.1:{nbd}\"\n\
         [[nbd.listeners]]\n\
         name = \"unix\"\n\
         address = \"unix:{dir}/nbd.sock\"\n"
    )
}
