//! The plans that this gateway knows: files that an operator keeps, and plans that were saved by a call.
//!
//! Invariant: a file is read whenever it is asked for, so that what is run is what lies there; a plan
//! that a call saves replaces no file of the operator's.

use std::path::{Path, PathBuf};

use recovery::Plan;
use recovery::plan::is_id;

/// A plan file has at most this many bytes: what a plan may have, and room for comments.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where plans lie.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// The operator's, in TOML.
    files: Option<PathBuf>,
    /// Those that were saved, in JSON.
    saved: PathBuf,
}

/// A plan that lies somewhere.
pub(crate) struct Found {
    /// Its name, which is that of its file.
    pub(crate) name: String,
    /// Its file.
    pub(crate) file: PathBuf,
    /// Whether a call saved it.
    pub(crate) is_saved: bool,
    /// It, or what is wrong with it.
    pub(crate) plan: Result<Plan, String>,
}

impl Shelf {
    pub(super) fn new(files: Option<PathBuf>, saved: PathBuf) -> Self {
        Self { files, saved }
    }

    /// All plans, by name. It blocks.
    pub(crate) fn list(&self) -> Vec<Found> {
        let mut names = std::collections::BTreeSet::new();
        for (dir, extension) in
            self.files.iter().map(|d| (d, "toml")).chain([(&self.saved, "json")])
        {
            // A folder that is not there has no plans.
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path());
            let named = paths.filter(|path| path.extension().is_some_and(|of| of == extension));
            names.extend(named.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())));
        }
        names.into_iter().filter_map(|name| self.find(&name)).collect()
    }

    /// The plan of this name. It blocks.
    pub(crate) fn find(&self, name: &str) -> Option<Found> {
        if !is_id(name) {
            return None;
        }
        let of = |dir: &Path, extension: &str| dir.join(format!("{name}.{extension}"));
        let file = self.files.as_ref().map(|dir| of(dir, "toml")).filter(|file| file.exists());
        let (file, is_saved) = match file {
            Some(file) => (file, false),
            None => (Some(of(&self.saved, "json")).filter(|file| file.exists())?, true),
        };
        let shown = file.display().to_string();
        let plan = read(&file).and_then(|text| {
            let plan = if is_saved {
                let value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                Plan::from_json(&shown, value)
            } else {
                Plan::from_toml(&shown, &text)
            };
            plan.map_err(|error| error.to_string()).and_then(|plan| {
                if plan.name == name {
                    return Ok(plan);
                }
                Err(format!("{shown}: name: it is {:?}; name the file after the plan", plan.name))
            })
        });
        Some(Found { name: name.to_owned(), file, is_saved, plan })
    }

    /// Saves a plan, durably. It blocks.
    ///
    /// # Errors
    /// A file of the operator's has its name, or the disk fails.
    pub(crate) fn save(&self, plan: &Plan) -> Result<(), String> {
        if self.find(&plan.name).is_some_and(|found| !found.is_saved) {
            return Err(format!("plan {} is a file of the operator's: change it there", plan.name));
        }
        let text = serde_json::to_vec_pretty(&plan.raw).map_err(|error| error.to_string())?;
        let words = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(&self.saved).map_err(words)?;
        let file = self.saved.join(format!("{}.json", plan.name));
        let fresh = self.saved.join(format!("{}.json.new", plan.name));
        let written = std::fs::File::create(&fresh).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &text)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&fresh, &file)).map_err(words)?;
        std::fs::File::open(&self.saved).and_then(|dir| dir.sync_all()).map_err(words)
    }

    /// Removes a plan that a call saved. It blocks.
    ///
    /// # Errors
    /// It is none, or the disk fails.
    pub(crate) fn delete(&self, name: &str) -> Result<(), String> {
        match self.find(name) {
            Some(found) if found.is_saved => {
                std::fs::remove_file(found.file).map_err(|error| error.to_string())
            }
            Some(_) => Err(format!("plan {name} is a file of the operator's: remove it there")),
            None => Err(format!("there is no plan {name:?}")),
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| format!("{}: {error}", file.display());
    let bytes = std::fs::metadata(file).map_err(words)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{}: it has {bytes} bytes", file.display()));
    }
    std::fs::read_to_string(file).map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = include_str!("../../../../config/plans/migrate.toml");

    #[test]
    fn files_come_before_what_was_saved_and_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let shelf = Shelf::new(Some(files.clone()), dir.path().join("saved"));
        assert!(shelf.list().is_empty() && shelf.delete("migrate").is_err());
        let plan = Plan::from_toml("x", PLAN).unwrap();
        shelf.save(&plan).unwrap();
        let found = shelf.find("migrate").unwrap();
        assert!(found.is_saved && found.plan.unwrap() == plan);

        std::fs::write(files.join("migrate.toml"), PLAN).unwrap();
        std::fs::write(files.join("other.toml"), PLAN).unwrap();
        assert!(!shelf.find("migrate").unwrap().is_saved);
        assert!(shelf.save(&plan).is_err() && shelf.delete("migrate").is_err());
        let all = shelf.list();
        let names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["migrate", "other"]);
        assert!(all[1].plan.as_ref().unwrap_err().contains("name the file after the plan"));
        assert!(shelf.find("../migrate").is_none());
    }
}
