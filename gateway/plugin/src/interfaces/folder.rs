//! `folder`: named files on a volume that is mirrored.

use crate::bindings::twinspan::plugin::folder::{File, FolderError, Host};
use crate::grants::Grant;
use crate::instance::State;

impl State {
    fn may_open(
        &self,
        what: &'static str,
        volume: &str,
    ) -> wasmtime::Result<Result<(), FolderError>> {
        self.reaches(what)?;
        if self.caller.grants.has(&Grant::Folder(volume.to_owned())) {
            return Ok(Ok(()));
        }
        let plugin = &self.caller.plugin;
        let how = format!("not granted: twinspan plugin grant {plugin} folder:{volume}");
        Ok(Err(FolderError::Denied(how)))
    }

    fn run_of_call(&self) -> Option<&str> {
        self.caller.run.as_ref().map(|(run, _)| run.as_str())
    }
}

impl Host for State {
    async fn files(
        &mut self,
        volume: String,
        prefix: String,
    ) -> wasmtime::Result<Result<Vec<File>, FolderError>> {
        if let Err(denied) = self.may_open("folder.files", &volume)? {
            return Ok(Err(denied));
        }
        Ok(self.caller.world.folder_files(&volume, &prefix).await)
    }

    async fn read(
        &mut self,
        volume: String,
        name: String,
    ) -> wasmtime::Result<Result<Option<(File, Vec<u8>)>, FolderError>> {
        if let Err(denied) = self.may_open("folder.read", &volume)? {
            return Ok(Err(denied));
        }
        Ok(self.caller.world.folder_read(&volume, &name).await)
    }

    async fn write(
        &mut self,
        volume: String,
        name: String,
        content: Vec<u8>,
        expected: Option<u64>,
    ) -> wasmtime::Result<Result<u64, FolderError>> {
        if let Err(denied) = self.may_open("folder.write", &volume)? {
            return Ok(Err(denied));
        }
        let (world, run) = (&self.caller.world, self.run_of_call());
        Ok(world.folder_write(run, &volume, (name, content), expected).await)
    }

    async fn remove(
        &mut self,
        volume: String,
        name: String,
    ) -> wasmtime::Result<Result<(), FolderError>> {
        if let Err(denied) = self.may_open("folder.remove", &volume)? {
            return Ok(Err(denied));
        }
        Ok(self.caller.world.folder_remove(self.run_of_call(), &volume, name).await)
    }
}
