//! TLS of a listener: its certificate, read again when the operator asks, and when its files change.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
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
    /// When the files were written that were read last, as far as they were there.
    read: Mutex<Stamps>,
}

/// When the certificate and its key were written.
type Stamps = [Option<SystemTime>; 2];

impl Certificate {
    /// Reads the two PEM files.
    pub fn read(certificate: &Path, private_key: &Path) -> Result<Self, CertificateError> {
        // Before they are read: what is written meanwhile is read again.
        let read = stamps(certificate, private_key);
        Ok(Self {
            current: RwLock::new(Arc::new(certified_key(certificate, private_key)?)),
            read: Mutex::new(read),
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
        })
    }

    /// Reads the files again, as after a renewal. On failure the old certificate goes on serving.
    pub fn reload(&self) -> Result<(), CertificateError> {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) =
            stamps(&self.certificate, &self.private_key);
        let fresh = Arc::new(certified_key(&self.certificate, &self.private_key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Whether the files were written since they were read, be it that they could be used or not.
    pub fn has_changed(&self) -> bool {
        let present = stamps(&self.certificate, &self.private_key);
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) != present
    }
}

fn stamps(certificate: &Path, private_key: &Path) -> Stamps {
    [certificate, private_key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(directory.join("cert.pem"), made.cert.pem()).expect("a file");
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    }

    #[test]
    fn a_change_of_the_files_is_noticed_once_whether_or_not_they_can_be_used() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path());
        let (cert, key) = (
            directory.path().join("cert.pem"),
            directory.path().join("key.pem"),
        );
        let certificate = Certificate::read(&cert, &key).expect("it can be read");
        assert!(!certificate.has_changed());
        // As a renewal does it, one file after the other, and in between they don't belong together.
        let rewrite = |path: &Path, text: &[u8]| {
            let file = std::fs::File::create(path).expect("a file");
            io::Write::write_all(&mut &file, text).expect("it is written");
            let written = file.metadata().and_then(|metadata| metadata.modified());
            let later = written.expect("it has a time") + std::time::Duration::from_secs(60);
            file.set_modified(later).expect("it can have another");
        };
        let renewed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        rewrite(&cert, renewed.cert.pem().as_bytes());
        assert!(certificate.has_changed());
        assert!(certificate.reload().is_err());
        assert!(!certificate.has_changed(), "it is not tried again for nothing");
        rewrite(&key, renewed.signing_key.serialize_pem().as_bytes());
        assert!(certificate.has_changed());
        certificate.reload().expect("they belong together");
        assert!(!certificate.has_changed());
        std::fs::remove_file(&key).expect("it was there");
        assert!(certificate.has_changed());
    }
}
