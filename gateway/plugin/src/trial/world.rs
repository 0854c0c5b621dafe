//! The gateway of a trial: one that knows two sites and a group, and writes down what it is told.
//!
//! Invariant: its secrets are like no other text, so that one that is told is found.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::moods::Mood;
use crate::world::{
    BoxFuture, Created, File, FolderError, Group, Progress, Role, SecretError, Session, Site,
    Volume, World,
};

/// What every secret begins with.
pub(super) const SECRET: &str = "hush-7c1f9e54-";

#[derive(Default)]
struct Told {
    mood: Option<Mood>,
    registered: Vec<Created>,
    unregistered: Vec<(String, String)>,
    said: Vec<String>,
    /// By volume and name: revision and content.
    files: BTreeMap<(String, String), (u64, Vec<u8>)>,
    /// Writes to folders.
    writes: u64,
}

/// See the top of the file.
#[derive(Default)]
pub(crate) struct Simulated(Mutex<Told>);

impl Simulated {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.told() = Told { mood: Some(mood), ..Told::default() };
    }

    fn is(&self, mood: Mood) -> bool {
        self.told().mood == Some(mood)
    }

    /// What was registered, and not unregistered again, since the mood began.
    pub(super) fn registered(&self) -> Vec<Created> {
        let told = self.told();
        let is_gone = |made: &&Created| {
            told.unregistered.iter().any(|(kind, id)| *kind == made.kind && *id == made.id)
        };
        told.registered.iter().filter(|made| !is_gone(made)).cloned().collect()
    }

    /// How often something was registered, or written to a folder, since the mood began.
    pub(super) fn changes(&self) -> u64 {
        let told = self.told();
        told.registered.len() as u64 + told.writes
    }

    /// What was reported since it was asked last.
    pub(super) fn take_said(&self) -> Vec<String> {
        std::mem::take(&mut self.told().said)
    }
}

pub(super) fn site(name: &str, zone: &str) -> Site {
    let (region, zone) = ("trial".to_owned(), zone.to_owned());
    Site { name: name.to_owned(), region, zone, position: None }
}

fn file(name: &str, revision: u64, content: &[u8]) -> File {
    let size_bytes = content.len() as u64;
    File { name: name.to_owned(), revision, size_bytes, written_at: 1_900_000_000_000 }
}

pub(super) fn volume() -> Volume {
    Volume {
        id: "3f0c1e1a-7d50-4b8e-9c55-1f7f0d0c0001".to_owned(),
        name: "orders".to_owned(),
        group: "orders".to_owned(),
        size_bytes: 1 << 30,
        is_filling: false,
    }
}

pub(super) fn group() -> Group {
    let session = Session {
        destination: "west".to_owned(),
        mode: crate::world::Mode::Sync,
        status: "Active".to_owned(),
        phase: "Equivalent".to_owned(),
        behind_bytes: Some(0),
    };
    Group {
        name: "orders".to_owned(),
        role: Role::Primary,
        primary_site: Some("east".to_owned()),
        volumes: vec![volume()],
        sessions: vec![session],
    }
}

impl World for Simulated {
    fn unix_ms(&self) -> u64 {
        1_900_000_000_000
    }

    fn secret(&self, name: &str) -> Result<Vec<u8>, SecretError> {
        Ok(format!("{SECRET}{name}").into_bytes())
    }

    fn here(&self) -> String {
        "east".to_owned()
    }

    fn sites(&self) -> BoxFuture<'_, Vec<Site>> {
        Box::pin(async { vec![site("east", "a"), site("west", "b")] })
    }

    fn groups<'a>(&'a self, _run: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Group>, String>> {
        Box::pin(async { Ok(vec![group()]) })
    }

    fn folder_files<'a>(
        &'a self,
        volume: &'a str,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<File>, FolderError>> {
        let told = self.told();
        let of =
            told.files.iter().filter(|((at, name), _)| at == volume && name.starts_with(prefix));
        let files: Vec<File> =
            of.map(|((_, name), (revision, content))| file(name, *revision, content)).collect();
        Box::pin(async { Ok(files) })
    }

    fn folder_read<'a>(
        &'a self,
        volume: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<(File, Vec<u8>)>, FolderError>> {
        let told = self.told();
        let found = told.files.get(&(volume.to_owned(), name.to_owned())).cloned();
        let found = found.map(|(revision, content)| (file(name, revision, &content), content));
        Box::pin(async { Ok(found) })
    }

    fn folder_write<'a>(
        &'a self,
        _run: Option<&'a str>,
        volume: &'a str,
        (name, content): (String, Vec<u8>),
        expected: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, FolderError>> {
        Box::pin(async move {
            if self.is(Mood::Forgetful) {
                return Err(FolderError::Full);
            }
            let mut told = self.told();
            let key = (volume.to_owned(), name);
            let revision = told.files.get(&key).map_or(0, |(revision, _)| *revision);
            if expected.is_some_and(|expected| expected != revision) {
                return Err(FolderError::Revision(revision));
            }
            told.writes += 1;
            let revision = told.writes;
            told.files.insert(key, (revision, content));
            Ok(revision)
        })
    }

    fn folder_remove<'a>(
        &'a self,
        _run: Option<&'a str>,
        volume: &'a str,
        name: String,
    ) -> BoxFuture<'a, Result<(), FolderError>> {
        Box::pin(async move {
            let mut told = self.told();
            told.writes += 1;
            told.files.remove(&(volume.to_owned(), name));
            Ok(())
        })
    }

    fn register<'a>(
        &'a self,
        _run: &'a str,
        _step: &'a str,
        created: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            if self.is(Mood::Forgetful) {
                return Err("the disk is full".to_owned());
            }
            self.told().registered.push(created);
            Ok(())
        })
    }

    fn unregister<'a>(
        &'a self,
        _run: &'a str,
        _step: &'a str,
        gone: Created,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.told().unregistered.push((gone.kind, gone.id));
            Ok(())
        })
    }

    fn report(&self, _run: &str, _step: &str, progress: Progress) {
        self.told().said.push(progress.message);
    }

    fn is_cancelled(&self, _run: &str) -> bool {
        self.is(Mood::Cancelled)
    }
}
