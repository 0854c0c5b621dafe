//! This gateway's certificate and key: made once, kept in two files.
//!
//! Invariant: the key's file is readable by its owner only, from the moment it exists. A
//! certificate is never made anew while its files are there: peers have pinned it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Fingerprint, TrustError};

/// The file of the certificate, PEM.
const CERTIFICATE_FILE: &str = "link.crt";
/// The file of the key, PEM.
const KEY_FILE: &str = "link.key";

/// A self-signed certificate and its key.
#[derive(Debug)]
pub struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Makes a certificate that is kept nowhere: for tests and simulations.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn ephemeral() -> Result<Self, TrustError> {
        let (certificate_pem, key_pem) = make()?;
        parse(&certificate_pem, &key_pem, Path::new("memory"))
    }

    /// Reads the certificate that `directory` holds, or makes it there. Blocks on files.
    ///
    /// # Errors
    /// Every [`TrustError`]; files that are there and no good are not replaced.
    pub fn load_or_create(directory: &Path) -> Result<Self, TrustError> {
        let certificate_path = directory.join(CERTIFICATE_FILE);
        if !exists(&certificate_path)? {
            create(directory)?;
        }
        let key_path = directory.join(KEY_FILE);
        let mode = named(&key_path, fs::metadata(&key_path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(TrustError::Exposed { path: key_path.display().to_string() });
        }
        let certificate_pem = named(&certificate_path, fs::read(&certificate_path))?;
        let key_pem = named(&key_path, fs::read(&key_path))?;
        parse(&certificate_pem, &key_pem, directory)
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What peers pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

fn make() -> Result<(Vec<u8>, Vec<u8>), TrustError> {
    let failed = |error: rcgen::Error| TrustError::Make(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let params = CertificateParams::new(vec!["gateway".to_owned()]).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem().into_bytes(), key.serialize_pem().into_bytes()))
}

fn parse(certificate: &[u8], key: &[u8], directory: &Path) -> Result<Credentials, TrustError> {
    let missing = |file: &str, what| TrustError::Content {
        path: directory.join(file).display().to_string(),
        what,
    };
    let certificate = CertificateDer::from_pem_slice(certificate)
        .ok()
        .ok_or_else(|| missing(CERTIFICATE_FILE, "certificate"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).ok().ok_or_else(|| missing(KEY_FILE, "private key"))?;
    Ok(Credentials { certificate, key })
}

/// Writes the key first: a certificate without its key would be kept for ever and be no good,
/// while a key without a certificate is replaced at the next attempt.
fn create(directory: &Path) -> Result<(), TrustError> {
    named(directory, fs::create_dir_all(directory))?;
    let (certificate, key) = make()?;
    write(directory, KEY_FILE, &key, 0o600)?;
    write(directory, CERTIFICATE_FILE, &certificate, 0o644)?;
    named(directory, File::open(directory).and_then(|directory| directory.sync_all()))
}

fn write(directory: &Path, file: &str, content: &[u8], mode: u32) -> Result<(), TrustError> {
    let path = directory.join(file);
    let draft = directory.join(format!("{file}.new"));
    let write = || {
        let mut options = OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        // The draft of an attempt that was cut short keeps the mode that it was made with.
        out.set_permissions(Permissions::from_mode(mode))?;
        out.write_all(content)?;
        out.sync_all()?;
        fs::rename(&draft, &path)
    };
    named(&path, write())
}

fn exists(path: &Path) -> Result<bool, TrustError> {
    named(path, path.try_exists())
}

fn named<T>(path: &Path, result: io::Result<T>) -> Result<T, TrustError> {
    result.map_err(|source| TrustError::File { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_its_key_is_private() {
        let directory = std::env::temp_dir().join(format!("link-trust-{}", std::process::id()));
        let first = Credentials::load_or_create(&directory).unwrap();
        let again = Credentials::load_or_create(&directory).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let key = directory.join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

        fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        let exposed = Credentials::load_or_create(&directory);
        assert!(matches!(exposed, Err(TrustError::Exposed { .. })));
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        fs::write(directory.join(CERTIFICATE_FILE), b"nothing").unwrap();
        let spoilt = Credentials::load_or_create(&directory);
        assert!(matches!(spoilt, Err(TrustError::Content { what: "certificate", .. })));
        fs::remove_dir_all(&directory).unwrap();
    }
}
