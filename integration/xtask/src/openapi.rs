//! `cargo xtask openapi`: writes the committed OpenAPI document anew.
//!
//! Invariant: the document is what the product prints, byte for byte; a test compares the two.

use anyhow::{Context, Result, bail};

use crate::run::{built, cargo, root, run as done};

/// Where the document is committed.
const DOCUMENT: &str = "gateway/api/openapi.json";

/// Runs `twinspan openapi` and keeps what it prints.
///
/// # Errors
/// When the product does not build or run, or the file cannot be written.
pub(crate) fn run() -> Result<()> {
    // As the tests build it: of one package alone much would be compiled anew, with other features.
    done(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let mut product = std::process::Command::new(built("debug", "twinspan")?);
    let output = product.arg("openapi").stderr(std::process::Stdio::inherit()).output();
    let output = output.context("start twinspan")?;
    if !output.status.success() {
        bail!("twinspan openapi failed ({})", output.status);
    }
    std::fs::write(root().join(DOCUMENT), output.stdout)
        .with_context(|| format!("write {DOCUMENT}"))
}
