//! The certificate that the operator named.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::{StreamingError, TlsFiles};

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Reads certificate, key and authorities. Blocks: it is called once, at the start.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, StreamingError> {
    let TlsFiles {
        certificate, key, ..
    } = files;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: Reason| StreamingError::Certificate { path, source }
    };
    let chain = certificates(certificate).map_err(failed(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(Reason::from)
        .map_err(failed(key))?;
    let clients = match &files.client_authorities {
        Some(path) => Some(verifier(path).map_err(failed(path))?),
        None => None,
    };
    let config = config(chain, private, clients).map_err(failed(certificate))?;
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
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, Reason> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private)?;
    // Upgrades are HTTP/1.1's.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Lets in whom one of these authorities vouches for, and nobody else.
fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, Reason> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(verifier.build()?)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests write files"
)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Who vouches for others.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    /// A certificate and its key, as PEM.
    type Pair = (String, String);

    fn authority() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    impl Authority {
        fn certify(&self, name: &str) -> Pair {
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        }
    }

    fn files(folder: &Path, server: &Pair, clients: Option<&Authority>) -> TlsFiles {
        let at = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            certificate: at("cert.pem", &server.0),
            key: at("key.pem", &server.1),
            client_authorities: clients.map(|authority| at("clients.pem", &authority.pem)),
        }
    }

    /// What a client that trusts `trusted` and shows `own` hears from a server that says hello; the reason otherwise.
    async fn hear(
        files: &TlsFiles,
        trusted: &Authority,
        own: Option<&Pair>,
    ) -> Result<String, String> {
        let acceptor = acceptor(files).map_err(|error| orlop_types::chain(&error))?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let (here, there) = tokio::io::duplex(64 << 10);
        let serving = async move {
            let mut socket = acceptor.accept(there).await?;
            socket.write_all(b"hello").await?;
            socket.shutdown().await
        };
        let asking = async move {
            let name = ServerName::try_from("node").unwrap();
            let mut socket = TlsConnector::from(Arc::new(config))
                .connect(name, here)
                .await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        let (_served, heard) = tokio::join!(serving, asking);
        heard.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_operators_certificate_is_shown_and_has_to_be_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (authority(), authority());
        let files = files(folder.path(), &own.certify("node"), None);
        assert_eq!(hear(&files, &own, None).await.unwrap(), "hello");
        let refused = hear(&files, &other, None).await.unwrap_err();
        assert!(refused.contains("invalid peer certificate"), "{refused}");
    }

    #[tokio::test]
    async fn with_authorities_for_clients_only_those_they_vouch_for_are_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let (own, clients, other) = (authority(), authority(), authority());
        let files = files(folder.path(), &own.certify("node"), Some(&clients));
        let known = clients.certify("apiserver");
        assert_eq!(hear(&files, &own, Some(&known)).await.unwrap(), "hello");
        assert!(hear(&files, &own, None).await.is_err());
        assert!(
            hear(&files, &own, Some(&other.certify("apiserver")))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn files_that_do_not_fit_are_named_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let own = authority();
        let (certificate, _) = own.certify("node");
        let (_, foreign_key) = own.certify("node");
        let files = files(folder.path(), &(certificate, foreign_key), None);
        assert!(
            hear(&files, &own, None)
                .await
                .unwrap_err()
                .contains("cert.pem")
        );
        let missing = TlsFiles {
            key: folder.path().join("gone.pem"),
            ..files
        };
        assert!(
            hear(&missing, &own, None)
                .await
                .unwrap_err()
                .contains("gone.pem")
        );
    }
}
