//! A certificate authority of a test's own, which the test's servers trust.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// The authority. Its certificate is in a file as long as it lives.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When its certificate can't be made or written.
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        let directory = TempDir::new().expect("a directory can be made");
        let authority = Self { issuer, directory };
        fs::write(authority.certificate(), authority.issuer.pem()).expect("the certificate can be written");
        authority
    }

    /// The PEM file with its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// Certifies a new key for hosts, names or addresses. Writes two PEM files to `directory`: the certificate and its key.
    ///
    /// # Panics
    ///
    /// When they can't be made or written.
    pub fn issue(&self, hosts: &[&str], directory: &Path) -> (PathBuf, PathBuf) {
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(hosts).expect("hosts that can be certified");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate can be made");
        let files = (directory.join("tls.pem"), directory.join("tls.key"));
        fs::write(&files.0, certificate.pem()).expect("the certificate can be written");
        fs::write(&files.1, key.serialize_pem()).expect("the key can be written");
        files
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
