//! `secrets`: what is used and, where that was granted, seen.

use crate::bindings::twinspan::plugin::secrets::{Host, SecretError as Told};
use crate::grants::Grant;
use crate::instance::State;
use crate::world::SecretError;

impl From<SecretError> for Told {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Unknown(_) => Self::Unknown,
            SecretError::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl Host for State {
    async fn hmac_sha256(
        &mut self,
        name: String,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, Told>> {
        self.reaches("secrets.hmac-sha256")?;
        if !self.caller.grants.has_secret(&name) {
            return Ok(Err(Told::Denied));
        }
        Ok(self.caller.world.secret(&name).map_err(Into::into).map(|secret| {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
            ring::hmac::sign(&key, &data).as_ref().to_vec()
        }))
    }

    async fn reveal(&mut self, name: String) -> wasmtime::Result<Result<Vec<u8>, Told>> {
        self.reaches("secrets.reveal")?;
        if !self.caller.grants.has(&Grant::Reveal(name.clone())) {
            return Ok(Err(Told::Denied));
        }
        Ok(self.caller.world.secret(&name).map_err(Into::into))
    }
}
