//! Whether a component is from somebody whom the operator trusts.
//!
//! Invariant: where signatures are required, nothing is compiled before its signature was found right.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// What an Ed25519 key's PEM holds before the key itself (RFC 8410 section 4).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The key itself, in bytes.
const KEY_BYTES: usize = 32;

/// A public key, Ed25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// A key as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
        Self::from_der(&der)
    }

    /// A key as its PEM holds it.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        der.strip_prefix(&PREFIX)
            .and_then(|key| key.try_into().ok())
            .map(Self)
            .ok_or_else(|| "it is no public key of Ed25519".to_owned())
    }
}

/// Whether one of these keys made the signature of these bytes (`openssl pkeyutl -sign -rawin`).
pub(crate) fn is_right(keys: &[Key], bytes: &[u8], signature: &[u8]) -> bool {
    keys.iter().any(|Key(key)| {
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key)
            .verify(bytes, signature)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_is_read_as_its_tool_writes_it() {
        assert!(Key::from_pem(PEM.as_bytes()).is_ok());
        assert!(Key::from_pem(b"nothing").is_err());
    }

    #[test]
    fn only_a_trusted_key_signs() {
        use ring::signature::KeyPair;
        let pair =
            |seed: u8| ring::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = |of: &ring::signature::Ed25519KeyPair| {
            Key(of.public_key().as_ref().try_into().unwrap())
        };
        let (ours, other) = (pair(1), pair(2));
        let signature = ours.sign(b"component");
        assert!(is_right(&[key(&other), key(&ours)], b"component", signature.as_ref()));
        assert!(!is_right(&[key(&other)], b"component", signature.as_ref()));
        assert!(!is_right(&[key(&ours)], b"Component", signature.as_ref()));
        assert!(!is_right(&[key(&ours)], b"component", b"short"));
        assert!(!is_right(&[], b"component", signature.as_ref()));
    }
}
