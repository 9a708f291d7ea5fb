//! TLS for clients, and certificates that say who they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// What cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsProblem {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl TlsProblem {
    /// The stable id.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "ORL-E9218"
    }
}

/// How the server shows who it is, and asks who its clients are.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tls(…)")
    }
}

impl Tls {
    /// Reads a certificate, its key and, where clients have to show one too, the authorities of theirs; all PEM.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn load(
        certificate: &Path,
        key: &Path,
        client_authorities: Option<&Path>,
    ) -> Result<Self, TlsProblem> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(certificate, &error))?;
        let builder = match client_authorities {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(roots(file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| problem(file, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| problem(key, &error))?;
        let mut config = builder
            .with_single_cert(chain, secret)
            .map_err(|error| problem(key, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

/// A name for a certificate: the beginning of its SHA-256, as `openssl x509 -fingerprint -sha256` shows it.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    let hex: String = hash
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("certificate:{hex}")
}

fn roots(file: &Path) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| problem(file, &error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let list = CertificateDer::pem_file_iter(file)
        .map_err(|error| problem(file, &error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(file, &error))?;
    if list.is_empty() {
        return Err(problem(file, &"it holds no certificate"));
    }
    Ok(list)
}

fn problem(path: &Path, error: &dyn std::fmt::Display) -> TlsProblem {
    TlsProblem {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}
