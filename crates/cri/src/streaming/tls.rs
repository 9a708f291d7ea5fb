//! The certificate that the operator named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::StreamingError;

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Reads certificate and key. Blocks: it is called once, at the start.
pub(super) fn acceptor(files: &(PathBuf, PathBuf)) -> Result<TlsAcceptor, StreamingError> {
    let (certificate, key) = files;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: Reason| StreamingError::Certificate { path, source }
    };
    let chain = certificates(certificate).map_err(failed(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(Reason::from)
        .map_err(failed(key))?;
    let config = config(chain, private).map_err(failed(certificate))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let chain = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err("there is no certificate in it".into());
    }
    Ok(chain)
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Reason> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    // Upgrades are HTTP/1.1's.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
