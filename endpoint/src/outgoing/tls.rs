//! TLS towards others: which certificates are believed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Why no connection could be secured.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// `extra_root_certificates` can't be used.
    #[error("`[outbound] extra_root_certificates` {path}: {problem}")]
    Extra {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// rustls can't be used at all.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// TLS 1.2 or 1.3, then HTTP/2 or HTTP/1.1, with the system's authorities and those in the PEM file `extra`.
pub(super) fn client_config(extra: Option<&Path>) -> Result<ClientConfig, RootsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(extra)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(extra: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some of the system's certificate authorities can't be read");
    }
    let (added, _) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        tracing::info!("the system has no certificate authorities: those that browsers trust are used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = extra {
        let failed = |problem: String| RootsError::Extra {
            path: path.to_owned(),
            problem,
        };
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
        let certificates = certificates.map_err(|error| failed(error.to_string()))?;
        if certificates.is_empty() {
            return Err(failed(
                "expected a PEM file with at least one certificate".to_owned(),
            ));
        }
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(roots)
}
