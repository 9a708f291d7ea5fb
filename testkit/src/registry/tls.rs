//! Certificates made on the spot.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::server::TlsStream;

/// A certificate authority that lives as long as a test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
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
        let pem = params
            .self_signed(&key)
            .expect("the parameters are complete")
            .pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
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
        let config = ServerConfig::builder_with_provider(Arc::new(
            tokio_rustls::rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("ring has all versions")
        .with_no_client_auth()
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
