//! `cargo xtask openapi`: writes the committed OpenAPI document anew.
//!
//! Invariant: the document is what the product prints, byte for byte; a test compares the two.

use anyhow::{Context, Result, bail};

use crate::run::{cargo, root};

/// Where the document is committed.
const DOCUMENT: &str = "gateway/api/openapi.json";

/// Runs `twinspan openapi` and keeps what it prints.
///
/// # Errors
/// When the product does not build or run, or the file cannot be written.
pub(crate) fn run() -> Result<()> {
    let arguments = ["run", "--quiet", "--package", "twinspan-cli", "--", "openapi"];
    let output = cargo(&arguments).stderr(std::process::Stdio::inherit()).output();
    let output = output.context("start cargo")?;
    if !output.status.success() {
        bail!("twinspan openapi failed ({})", output.status);
    }
    std::fs::write(root().join(DOCUMENT), output.stdout)
        .with_context(|| format!("write {DOCUMENT}"))
}
