//! The credential that the kubelet sends with a pull.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_api::runtime::v1 as api;
use orlop_image::images::Credential;
use tonic::Status;

use crate::status;

/// What Docker's configuration files call Docker Hub.
const DOCKER_HUB_NAMES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "docker.io"];

/// What `auth` holds, if it is meant for `registry`.
///
/// # Errors
/// `auth.auth` is not base64 of `user:password`.
pub(crate) fn credential(
    auth: api::AuthConfig,
    registry: &str,
) -> Result<Option<Credential>, Status> {
    if !is_for(&auth.server_address, registry) {
        return Ok(None);
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credential::Basic {
            username: auth.username,
            password: auth.password,
        }));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credential::IdentityToken(auth.identity_token)));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credential::RegistryToken(auth.registry_token)));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    decode(&auth.auth).map(Some)
}

/// Docker pads the text with zero bytes.
fn decode(text: &str) -> Result<Credential, Status> {
    // The reason is left out: it would show a part of the secret.
    let bad = || status::invalid_text("auth.auth is not base64 of user:password");
    let bytes = STANDARD.decode(text.trim()).map_err(|_secret| bad())?;
    let text = String::from_utf8(bytes).map_err(|_secret| bad())?;
    let (username, password) = text
        .trim_end_matches('\0')
        .split_once(':')
        .ok_or_else(bad)?;
    Ok(Credential::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

/// Whether an address, which may be a URL, is that of a registry. An empty one is: the kubelet has matched it already.
fn is_for(address: &str, registry: &str) -> bool {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let same_hub = |name: &str| DOCKER_HUB_NAMES.contains(&name);
    host.is_empty() || host == registry || same_hub(host) && same_hub(registry)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(auth: api::AuthConfig) -> Option<Credential> {
        credential(auth, "registry.local:5000").unwrap()
    }

    #[test]
    fn every_form_of_a_credential_is_understood() {
        let basic = Some(Credential::Basic {
            username: "me".to_owned(),
            password: "a:b".to_owned(),
        });
        let plain = api::AuthConfig {
            username: "me".to_owned(),
            password: "a:b".to_owned(),
            ..api::AuthConfig::default()
        };
        assert_eq!(of(plain), basic);
        let encoded = api::AuthConfig {
            auth: STANDARD.encode("me:a:b\0\0"),
            ..api::AuthConfig::default()
        };
        assert_eq!(of(encoded), basic);
        let token = api::AuthConfig {
            identity_token: "t".to_owned(),
            ..api::AuthConfig::default()
        };
        assert_eq!(of(token), Some(Credential::IdentityToken("t".to_owned())));
        assert_eq!(of(api::AuthConfig::default()), None);
    }

    #[test]
    fn a_credential_for_another_registry_is_not_sent() {
        let of = |address: &str, registry: &str| {
            let auth = api::AuthConfig {
                username: "me".to_owned(),
                server_address: address.to_owned(),
                ..api::AuthConfig::default()
            };
            credential(auth, registry).unwrap().is_some()
        };
        assert!(of("", "quay.io"));
        assert!(of("https://quay.io/v1/", "quay.io"));
        assert!(of("https://index.docker.io/v1/", "docker.io"));
        assert!(!of("quay.io", "ghcr.io"));
        assert!(!of("quay.io.evil.example", "quay.io"));
    }

    #[test]
    fn a_broken_secret_is_refused_without_showing_it() {
        for text in ["!!secret!!", "c2VjcmV0"] {
            let auth = api::AuthConfig {
                auth: text.to_owned(),
                ..api::AuthConfig::default()
            };
            let refused = credential(auth, "quay.io").unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(!refused.message().contains("secret"));
        }
    }
}
