//! Which crate may depend on which.
//!
//! ```text
//!   cli ─▶ server ─▶ mirror ─▶ block
//!    │       ├─────▶ store, nbd ─▶ block
//!    │       ├─────▶ link, witness, backup ─▶ block
//!    │       └─────▶ recovery
//!    └────▶ api ─▶ block
//! ```
//!
//! Invariant: an edge that is not in [`CRATES`] does not exist. Adding one is a decision and comes
//! with an ADR.

use std::collections::BTreeMap;

use crate::{Findings, Tree};

/// What one crate of ours may depend on, among our own.
pub struct Crate {
    /// Its folder.
    pub folder: &'static str,
    /// Crates that its code may name.
    pub uses: &'static [&'static str],
    /// Crates that only its tests may name.
    pub tests_use: &'static [&'static str],
}

const fn krate(
    folder: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
) -> Crate {
    Crate { folder, uses, tests_use }
}

/// Every crate of the workspace and its permitted edges.
pub const CRATES: [Crate; 21] = [
    krate("gateway/block", &[], &[]),
    krate("gateway/store", &["block"], &["testkit"]),
    krate("gateway/mirror", &["block"], &["store", "witness"]),
    krate("gateway/witness", &["block"], &[]),
    krate("gateway/link", &["block"], &["testkit"]),
    krate("gateway/host", &[], &[]),
    krate("gateway/nbd", &["block", "host"], &["store", "testkit"]),
    krate("gateway/iscsi", &["block", "host"], &["store", "testkit"]),
    krate("gateway/backup", &["block"], &["testkit"]),
    krate("gateway/recovery", &[], &[]),
    krate("gateway/plugin", &[], &[]),
    krate("gateway/api", &["block"], &[]),
    krate(
        "gateway/server",
        &[
            "api", "backup", "block", "iscsi", "link", "mirror", "nbd", "plugin", "recovery",
            "store", "witness",
        ],
        &["testkit"],
    ),
    krate("gateway/cli", &["api", "plugin", "server"], &[]),
    krate("gateway/testkit", &["block", "store"], &[]),
    krate("integration/tidy", &[], &[]),
    krate("integration/harness", &[], &[]),
    krate("integration/e2e", &[], &["harness", "api", "backup", "block"]),
    krate("integration/sim", &["block", "link", "mirror", "store", "testkit", "witness"], &[]),
    krate("integration/bench", &["harness"], &[]),
    krate("integration/xtask", &[], &[]),
];

/// Host protocols; each has the same files, so that one reads like the other.
pub const PROTOCOLS: [&str; 2] = ["gateway/nbd", "gateway/iscsi"];

/// Crates that may hold `unsafe` blocks, each with a reason at the block.
pub const UNSAFE: [&str; 2] = ["gateway/store", "gateway/testkit"];

/// Every dependency on a crate of ours is one that [`CRATES`] permits, and every member is listed.
#[must_use]
pub fn edges(tree: &Tree) -> Findings {
    let root = tree.text("Cargo.toml").unwrap_or_default();
    let folders = own_names(root);
    let mut findings = Findings::new();
    // Plugins are a workspace of their own, for another machine, and see nothing but the contract.
    let is_ours = |path: &str| path.ends_with("/Cargo.toml") && !path.starts_with("plugins/");
    for (path, text) in tree.files().filter(|(path, _)| is_ours(path)) {
        let folder = path.trim_end_matches("/Cargo.toml");
        let Some(permitted) = CRATES.iter().find(|c| c.folder == folder) else {
            findings.push(format!("{path}: is no line in tidy's list of crates"));
            continue;
        };
        if !root.contains(&format!("\"{folder}\"")) {
            findings.push(format!("{path}: is no member of the workspace"));
        }
        for (section, name, line) in dependencies(text) {
            if line.contains("path =") || line.contains("git =") {
                findings.push(format!("{path}: {name} is not taken from the workspace's list"));
            }
            let Some(target) = folders.get(name) else { continue };
            let short = target.rsplit('/').next().unwrap_or(target);
            let allowed = permitted.uses.contains(&short)
                || (section == "dev-dependencies" && permitted.tests_use.contains(&short));
            if !allowed {
                findings.push(format!("{path}: {section} on {short} is not a permitted edge"));
            }
        }
        let name = format!("name = \"twinspan-{}\"", folder.rsplit('/').next().unwrap_or(folder));
        if !text.contains(&name) {
            findings.push(format!("{path}: the crate is not called after its folder ({name})"));
        }
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{path}: does not take the workspace's lints"));
        }
    }
    findings
}

/// The workspace's names of our own crates and the folders that they stand for.
fn own_names(root: &str) -> BTreeMap<&str, &str> {
    dependencies(root)
        .filter(|(section, ..)| *section == "workspace.dependencies")
        .filter_map(|(_, name, line)| {
            let path = line.split("path = \"").nth(1)?;
            Some((name, path.split('"').next()?))
        })
        .collect()
}

/// Each line of each dependency section: section, name, whole line.
fn dependencies(manifest: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    manifest.lines().filter_map(move |line| {
        if let Some(header) = line.trim().strip_prefix('[') {
            section = header.trim_end_matches(']');
            return None;
        }
        let is_entry = section.ends_with("dependencies") && !line.trim_start().starts_with('#');
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        (is_entry && !name.is_empty()).then_some((section, name, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "members = [\"gateway/nbd\"]\n[workspace.dependencies]\n\
        mirror = { package = \"twinspan-mirror\", path = \"gateway/mirror\" }\n\
        block = { package = \"twinspan-block\", path = \"gateway/block\" }\n";

    fn manifest(extra: &str) -> String {
        format!("name = \"twinspan-nbd\"\n[lints]\nworkspace = true\n{extra}")
    }

    fn findings(extra: &str) -> Findings {
        edges(&Tree::of(&[("Cargo.toml", ROOT), ("gateway/nbd/Cargo.toml", &manifest(extra))]))
    }

    #[test]
    fn a_protocol_may_not_know_the_mirror() {
        assert_eq!(findings("[dependencies]\nblock.workspace = true\n"), Findings::new());
        let found = findings("[dependencies]\nmirror.workspace = true\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("on mirror"), "{found:?}");
    }

    #[test]
    fn a_crate_may_not_be_taken_by_path() {
        assert_eq!(findings("[dependencies]\nblock = { path = \"../block\" }\n").len(), 1);
    }

    #[test]
    fn an_unknown_crate_is_found() {
        let tree = Tree::of(&[("Cargo.toml", ROOT), ("gateway/new/Cargo.toml", "")]);
        assert!(edges(&tree)[0].contains("no line"));
    }
}
