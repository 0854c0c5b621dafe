//! `kv`: keys and values of the plugin's own.

use crate::bindings::twinspan::plugin::kv::{Entry, Host, KvError};
use crate::grants::Grant;
use crate::instance::State;
use crate::limits::KV_KEYS_MAX;
use crate::shelf::ShelfError;

impl From<ShelfError> for KvError {
    fn from(error: ShelfError) -> Self {
        match error {
            ShelfError::TooLarge => Self::TooLarge,
            ShelfError::Quota => Self::Quota,
            ShelfError::Revision(revision) => Self::Revision(revision),
            ShelfError::Disk(why) => Self::Unavailable(why),
        }
    }
}

impl State {
    fn may_keep(&self, what: &'static str) -> wasmtime::Result<Result<(), KvError>> {
        self.reaches(what)?;
        let may = self.caller.grants.has(&Grant::Kv);
        Ok(if may { Ok(()) } else { Err(KvError::Denied) })
    }
}

impl Host for State {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Entry>, KvError>> {
        if let Err(denied) = self.may_keep("kv.get")? {
            return Ok(Err(denied));
        }
        let found = self.caller.shelf.get(&self.caller.plugin, &key);
        let entry = |(revision, value)| Entry { value, revision };
        Ok(found.map(|found| found.map(entry)).map_err(Into::into))
    }

    async fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
        expected: Option<u64>,
    ) -> wasmtime::Result<Result<u64, KvError>> {
        if let Err(denied) = self.may_keep("kv.put")? {
            return Ok(Err(denied));
        }
        let put = self.caller.shelf.put(&self.caller.plugin, (&key, &value), expected);
        Ok(put.map_err(Into::into))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), KvError>> {
        if let Err(denied) = self.may_keep("kv.delete")? {
            return Ok(Err(denied));
        }
        Ok(self.caller.shelf.delete(&self.caller.plugin, &key).map_err(Into::into))
    }

    async fn keys(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<String>, KvError>> {
        if let Err(denied) = self.may_keep("kv.keys")? {
            return Ok(Err(denied));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(KV_KEYS_MAX);
        let range = (prefix.as_str(), after.as_deref());
        Ok(self.caller.shelf.keys(&self.caller.plugin, range, limit).map_err(Into::into))
    }
}
