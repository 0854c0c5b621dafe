//! The certificate of the API, made at the first start; and the one of NBD, from files.
//!
//! Invariant: the API is never served without TLS. Its certificate is self-signed and pinned by
//! who has the file; it is not made anew while its files are there.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::NbdConfig;

/// The API's certificate, PEM, in the data directory: what clients pin.
pub const API_CERTIFICATE_FILE: &str = "api.crt";
const API_KEY_FILE: &str = "api.key";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds nothing that can be used.
    #[error("{path}: {reason}")]
    Content {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
}

/// The API's TLS, with the certificate in `directory`, which is made if it is not there.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn api(directory: &Path, listen: IpAddr) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key) = (directory.join(API_CERTIFICATE_FILE), directory.join(API_KEY_FILE));
    if !certificate.exists() {
        make(&certificate, &key, listen)?;
    }
    server(&certificate, &key, None)
}

fn make(certificate: &Path, key: &Path, listen: IpAddr) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError::Content {
        path: certificate.display().to_string(),
        reason: format!("cannot be made: {error}"),
    };
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.is_unspecified() && !listen.is_loopback() {
        names.push(listen.to_string());
    }
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::new(names).map_err(failed)?;
    let made = params.self_signed(&pair).map_err(failed)?;
    // The key first: a certificate without its key would be kept for ever and be of no use.
    write(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write(certificate, made.pem().as_bytes(), 0o644)
}

/// Writes a small file durably, readable as `mode` says from the moment it exists.
///
/// # Errors
/// [`TlsError::File`].
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let draft = path.with_extension("new");
    let write = || {
        if draft.exists() {
            std::fs::remove_file(&draft)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|source| TlsError::File { path: path.display().to_string(), source })
}

/// The TLS of NBD listeners; `None` when no certificate is configured.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn nbd(config: &NbdConfig) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            server(certificate, key, config.client_ca.as_deref()).map(Some)
        }
        _ => Ok(None),
    }
}

fn server(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let content = |path: &Path, reason: String| TlsError::Content {
        path: path.display().to_string(),
        reason,
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| content(key, format!("holds no private key: {error}")))?;
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| content(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .map_err(|error| content(path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(chain, private)
        .map_err(|error| content(certificate, error.to_string()))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: rustls_pki_types::pem::Error| TlsError::Content {
        path: path.display().to_string(),
        reason: format!("holds no certificate: {error}"),
    };
    let chain = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() {
        let reason = "holds no certificate".to_owned();
        return Err(TlsError::Content { path: path.display().to_string(), reason });
    }
    Ok(chain)
}
