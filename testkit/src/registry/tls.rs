//! Certificates made on the spot.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// A certificate authority that lives as long as a test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// What the server's certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerName {
    /// It is for 127.0.0.1 and localhost.
    Loopback,
    /// It is for another host.
    Wrong,
    /// It is for loopback, and its time is over.
    Expired,
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct ServerIdentity {
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServerIdentity")
    }
}

impl ServerIdentity {
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// The machine has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a test machine has randomness");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params
            .self_signed(&key)
            .expect("the parameters are complete");
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's certificate, for a client to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server.
    ///
    /// # Panics
    /// The machine has no randomness.
    #[must_use]
    pub fn identity(&self, name: ServerName) -> ServerIdentity {
        self.server(name, None)
    }

    /// A certificate for a server that wants its clients to show one of `clients`.
    ///
    /// # Panics
    /// The machine has no randomness.
    #[must_use]
    pub fn identity_for(&self, name: ServerName, clients: &Self) -> ServerIdentity {
        self.server(name, Some(clients))
    }

    /// Certificate and key as PEM, for loopback: a client's, or a server's that is a program of its own.
    ///
    /// # Panics
    /// The machine has no randomness.
    #[must_use]
    pub fn certificate(&self) -> (String, String) {
        let (certificate, key) = self.issue(ServerName::Loopback);
        (certificate.pem(), key.serialize_pem())
    }

    fn issue(&self, name: ServerName) -> (rcgen::Certificate, KeyPair) {
        let names = match name {
            ServerName::Loopback | ServerName::Expired => {
                vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
            }
            ServerName::Wrong => vec!["elsewhere.invalid".to_owned()],
        };
        let key = KeyPair::generate().expect("a test machine has randomness");
        let mut params = CertificateParams::new(names).expect("the names are valid");
        if name == ServerName::Expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority may sign");
        (certificate, key)
    }

    fn server(&self, name: ServerName, clients: Option<&Self>) -> ServerIdentity {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has all versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(clients.der.clone())
                    .expect("an authority of ours");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .expect("one authority is enough");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("key and certificate belong together");
        ServerIdentity {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}
