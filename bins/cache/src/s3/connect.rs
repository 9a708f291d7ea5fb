//! From settings to a client.

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use orlop_cache::depot::Tally;
use tokio::sync::Semaphore;

use super::rest::Rest;
use super::{DepotSettings, S3, TRANSFERS_AT_ONCE};
use crate::error::CacheError;

/// Attempts of one request, the first included: what lasts longer is for the caller to wait for.
const ATTEMPTS: u32 = 3;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the store may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

impl S3 {
    /// Makes ready to speak to a bucket. Nothing is sent yet, so a store that is away is no error here.
    pub(crate) async fn connect(settings: &DepotSettings) -> Result<Self, CacheError> {
        Self::connect_as(settings, None).await
    }

    /// The same with credentials that are given instead of looked for.
    pub(super) async fn connect_as(
        settings: &DepotSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, CacheError> {
        let http = http_client(settings)?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .app_name(AppName::new("orlop-cache").expect("it has letters and a dash only"));
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.path_style)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            // We send SHA-256 ourselves, and every blob's digest is checked where it arrives.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if shared.region().is_none() {
            // Stores that are not AWS's rarely care, and requests cannot be signed without one.
            config = config.region(Region::new("us-east-1"));
        }
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            part_bytes: settings.part_size.as_u64(),
            copy_bytes_max: settings.copy_size_max.as_u64(),
            transfers: Semaphore::new(TRANSFERS_AT_ONCE),
            tally: Tally::default(),
            rest: Rest::default(),
        })
    }
}

fn http_client(settings: &DepotSettings) -> Result<SharedHttpClient, CacheError> {
    let builder =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let Some(path) = &settings.ca_file else {
        return Ok(builder.build_https());
    };
    let certificates = std::fs::read(path).map_err(|source| CacheError::Certificates {
        path: path.clone(),
        source: source.into(),
    })?;
    let trusted = TrustStore::default().with_pem_certificate(certificates);
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|source| CacheError::Certificates {
        path: path.clone(),
        source: source.into(),
    })?;
    Ok(builder.tls_context(context).build_https())
}
