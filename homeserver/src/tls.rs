//! TLS of a listener: its certificate, read again when the operator asks.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Why a certificate and its key can't serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read, or is not PEM.
    #[error("`{key}` {path}: {problem}")]
    File {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The two don't belong together, or the key's kind is unknown.
    #[error(
        "`tls_certificate` {certificate} and `tls_private_key` {private_key} don't serve together: {source}"
    )]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        private_key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

/// A certificate on disk and the last state of it that was fit to serve.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    private_key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the two PEM files.
    pub fn read(certificate: &Path, private_key: &Path) -> Result<Self, CertificateError> {
        Ok(Self {
            current: RwLock::new(Arc::new(certified_key(certificate, private_key)?)),
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
        })
    }

    /// Reads the files again, as after a renewal. On failure the old certificate goes on serving.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let fresh = Arc::new(certified_key(&self.certificate, &self.private_key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.current.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// How a listener with `certificate` speaks TLS: 1.2 or 1.3, then HTTP/2 or HTTP/1.1.
pub fn server_config(certificate: Arc<Certificate>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, CertificateError> {
    let unreadable = |key, path: &Path| {
        let path = path.to_owned();
        move |error: rustls_pki_types::pem::Error| CertificateError::File {
            key,
            path,
            problem: plain(&error),
        }
    };
    let in_certificate = unreadable("tls_certificate", certificate);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(in_certificate)?;
    if chain.is_empty() {
        let problem = "expected a PEM file with at least one certificate".to_owned();
        return Err(CertificateError::File {
            key: "tls_certificate",
            path: certificate.to_owned(),
            problem,
        });
    }
    let key =
        PrivateKeyDer::from_pem_file(private_key).map_err(unreadable("tls_private_key", private_key))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| CertificateError::Unfit {
        certificate: certificate.to_owned(),
        private_key: private_key.to_owned(),
        source,
    })
}

fn plain(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => "expected a PEM file".to_owned(),
        Error::Io(error) => format!("cannot be read: {error}"),
        Error::NoItemsFound => "expected a PEM file with a private key".to_owned(),
        other => format!("expected a PEM file: {other}"),
    }
}
