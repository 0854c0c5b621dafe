//! The repository as a list of texts.
//!
//! Invariant: paths are relative to the repository's root and use `/`; build output and what the
//! demo leaves behind are never read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Folders at the top that are made by running things and belong to nobody.
const MADE: [&str; 3] = ["target", "twinspan-demo", ".git"];

/// Every text file of the repository, by path.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the repository that this crate stands in.
    ///
    /// # Errors
    /// When a file or folder cannot be read.
    pub fn load() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let mut tree = Self::default();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(root.join(&folder))? {
                let entry = entry?;
                let path = folder.join(entry.file_name());
                let name = path.to_string_lossy().replace('\\', "/");
                let kind = entry.file_type()?;
                if kind.is_dir() && !MADE.contains(&name.as_str()) {
                    folders.push(path);
                } else if kind.is_file() {
                    // Binary test vectors are files too; their content concerns no rule.
                    let bytes = std::fs::read(root.join(&path))?;
                    tree.files.insert(name, String::from_utf8(bytes).unwrap_or_default());
                }
            }
        }
        Ok(tree)
    }

    /// A made-up tree, for the tests of the rules.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let own = |text: &&str| String::from(*text);
        Self { files: files.iter().map(|(path, text)| (own(path), own(text))).collect() }
    }

    /// Every file, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The files below `folder` whose names end in `ending`.
    pub fn below<'a>(
        &'a self,
        folder: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files().filter(move |(path, _)| {
            path.starts_with(folder)
                && path[folder.len()..].starts_with('/')
                && path.ends_with(ending)
        })
    }

    /// Every Rust file.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// The text of one file.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }
}
