//! Manifests, authorisation, TLS and pushing, against a registry that misbehaves.

#![allow(clippy::unwrap_used, reason = "fixtures of tests may fail the test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Source, client, hosts, noise, options, reference};
use orlop_registry::{
    BlobSource, Client, ClientOptions, Credential, DockerConfig, Error, FailureKind,
    FixedCredential, HostTree, MemoryBudget, Proxies, Pushed, Reach, TlsCause,
};
use orlop_testkit::proxy::FakeProxy;
use orlop_testkit::registry::{
    Access, Action, Authority, FakeRegistry, Fault, Layer, Options, ServerName, digest_of,
};
use orlop_types::{Descriptor, Reference};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn with_image(options: Options) -> (FakeRegistry, Descriptor) {
    let registry = FakeRegistry::start_with(options);
    let layer = Layer::with_files(&[("bin/sh", b"#!")]);
    let parts = registry.put_image("app", "1", &[layer]);
    let descriptor = Descriptor::new(MANIFEST, parts.manifest, parts.manifest_bytes.len() as u64);
    (registry, descriptor)
}

fn with_access(access: Access) -> (FakeRegistry, Descriptor) {
    with_image(Options {
        access,
        ..Options::default()
    })
}

fn with_credential(registry: &FakeRegistry, credential: Credential) -> Client {
    client().with_credentials(Arc::new(FixedCredential {
        host: registry.host(),
        credential,
    }))
}

fn basic(password: &str) -> Credential {
    Credential::Basic {
        username: "user".to_owned(),
        password: password.to_owned(),
    }
}

fn bearer(lifetime_seconds: u64, oauth: bool) -> Access {
    Access::Bearer {
        user: Some(("user".to_owned(), "pa ss&word".to_owned())),
        lifetime_seconds,
        oauth,
    }
}

async fn refusal(client: &Client, reference: &Reference) -> Error {
    client
        .resolve(reference)
        .await
        .expect_err("the registry refuses")
}

#[tokio::test]
async fn a_tag_resolves_by_head_alone_where_the_host_says_enough() {
    let (registry, expected) = with_access(Access::Open);
    let resolved = client()
        .resolve(&reference(&registry, "app", "1"))
        .await
        .unwrap();
    assert_eq!(resolved.descriptor, expected);
    assert_eq!(resolved.host, registry.host());
    assert_eq!(registry.count("GET", "/manifests/"), 0);
}

#[tokio::test]
async fn without_a_digest_header_or_head_the_digest_is_computed() {
    for fault in [
        Fault::on("/manifests/", Action::NoDigestHeader),
        Fault::on("/manifests/", Action::NoContentLength),
        Fault::on("/manifests/", Action::status(405)).method("HEAD"),
    ] {
        let (registry, expected) = with_access(Access::Open);
        registry.fault(fault);
        let resolved = client()
            .resolve(&reference(&registry, "app", "1"))
            .await
            .unwrap();
        assert_eq!(resolved.descriptor, expected);
        assert!(resolved.manifest.is_some());
    }
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let (registry, expected) = with_access(Access::Open);
    registry.fault(Fault::on("/manifests/", Action::Corrupt(5)).method("GET"));
    let error = client()
        .fetch_manifest(&reference(&registry, "app", "1"), &expected.digest)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::BadResponse);
}

#[tokio::test]
async fn a_manifest_of_100_megabytes_is_refused_without_reading_it() {
    let (registry, expected) = with_access(Access::Open);
    registry.fault(Fault::on("/manifests/", Action::Endless(100_000_000)));
    let reference = reference(&registry, "app", "1");
    let error = client()
        .fetch_manifest(&reference, &expected.digest)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::TooLarge);
    assert!(error.to_string().contains("100000000"), "{error}");
}

#[tokio::test]
async fn every_refusal_has_its_kind_code_and_place() {
    let cases = [
        (Action::status(401), FailureKind::Unauthorized, "ORL-E3001"),
        (Action::status(403), FailureKind::Forbidden, "ORL-E3002"),
        (Action::status(404), FailureKind::NotFound, "ORL-E3003"),
        (
            Action::too_many_requests(0),
            FailureKind::TooManyRequests {
                retry_after: Some(Duration::ZERO),
            },
            "ORL-E3004",
        ),
        (
            Action::status(500),
            FailureKind::Server {
                status: 500,
                retry_after: None,
            },
            "ORL-E3005",
        ),
        (
            Action::Hang,
            FailureKind::Unreachable(Reach::TimedOut),
            "ORL-E3006",
        ),
        (
            Action::Reset,
            FailureKind::Unreachable(Reach::Broken),
            "ORL-E3006",
        ),
        (Action::status(302), FailureKind::BadResponse, "ORL-E3008"),
    ];
    for (action, kind, code) in cases {
        let (registry, _) = with_access(Access::Open);
        registry.fault(Fault::on("/manifests/", action.clone()));
        let error = refusal(&client(), &reference(&registry, "app", "1")).await;
        assert_eq!((error.kind(), error.code()), (kind, code), "{action:?}");
        assert!(
            error.to_string().contains(&registry.host()) && error.to_string().contains("app:1")
        );
        assert!(!error.hint().is_empty());
    }
}

#[tokio::test]
async fn hosts_nobody_listens_on_and_names_nobody_has_are_told_apart() {
    let refused: Reference = "127.0.0.1:9/app".parse().unwrap();
    assert_eq!(
        refusal(&client(), &refused).await.kind(),
        FailureKind::Unreachable(Reach::Refused)
    );
    let nowhere: Reference = "registry.invalid/app".parse().unwrap();
    let error = refusal(&client(), &nowhere).await;
    assert_eq!(
        error.kind(),
        FailureKind::Unreachable(Reach::Dns),
        "{error}"
    );
}

#[tokio::test]
async fn the_error_lists_what_each_host_said() {
    let (upstream, empty) = (FakeRegistry::start(), FakeRegistry::start());
    empty.fault(Fault::on("/manifests/", Action::status(403)));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\n",
        upstream.url(),
        empty.url()
    );
    let client = Client::new(ClientOptions {
        hosts: hosts(folder.path(), &upstream.host(), &text),
        ..options()
    });
    let error = refusal(&client, &reference(&upstream, "app", "1")).await;
    let kinds: Vec<FailureKind> = error
        .failures()
        .iter()
        .map(|failure| failure.kind)
        .collect();
    assert_eq!(kinds, [FailureKind::Forbidden, FailureKind::NotFound]);
    assert_eq!(error.kind(), FailureKind::Forbidden);
}

#[tokio::test]
async fn a_mirror_without_the_resolve_capability_is_not_asked_for_tags() {
    let (upstream, descriptor) = with_access(Access::Open);
    let mirror = FakeRegistry::start();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}/deep/v2\"]\ncapabilities = [\"pull\"]\n",
        upstream.url(),
        mirror.url()
    );
    let client = Client::new(ClientOptions {
        hosts: hosts(folder.path(), &upstream.host(), &text),
        ..options()
    });
    let reference = reference(&upstream, "app", "1");
    client.resolve(&reference).await.unwrap();
    assert!(mirror.requests().is_empty());
    client
        .fetch_manifest(&reference, &descriptor.digest)
        .await
        .unwrap();
    let seen = mirror.requests().remove(0);
    assert!(
        seen.path.starts_with("/deep/v2/app/manifests/"),
        "{}",
        seen.path
    );
}

#[tokio::test]
async fn basic_credentials_are_sent_only_after_they_are_asked_for() {
    let (registry, _) = with_access(Access::Basic {
        username: "user".to_owned(),
        password: "right".to_owned(),
    });
    let reference = reference(&registry, "app", "1");
    with_credential(&registry, basic("right"))
        .resolve(&reference)
        .await
        .unwrap();
    assert_eq!(registry.requests()[0].header("authorization"), None);
    for credential in [basic("wrong"), Credential::Anonymous] {
        let error = refusal(&with_credential(&registry, credential), &reference).await;
        assert_eq!(error.kind(), FailureKind::Unauthorized);
    }
}

#[tokio::test]
async fn tokens_are_fetched_by_post_or_get_and_used_again() {
    for (oauth, posts, gets) in [(true, 1, 0), (false, 1, 1)] {
        let (registry, expected) = with_access(bearer(300, oauth));
        let client = with_credential(&registry, basic("pa ss&word"));
        let reference = reference(&registry, "app", "1");
        client.resolve(&reference).await.unwrap();
        client
            .fetch_manifest(&reference, &expected.digest)
            .await
            .unwrap();
        assert_eq!(registry.count("POST", "/token"), posts);
        assert_eq!(registry.count("GET", "/token"), gets);
        assert_eq!(
            registry
                .requests()
                .iter()
                .filter(|seen| seen.status == 401)
                .count(),
            1
        );
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_a_token() {
    let (registry, _) = with_access(bearer(300, true));
    let client = with_credential(&registry, Credential::IdentityToken("identity".to_owned()));
    client
        .resolve(&reference(&registry, "app", "1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn anonymous_pulls_get_a_token_too() {
    let (registry, _) = with_access(Access::Bearer {
        user: None,
        lifetime_seconds: 300,
        oauth: true,
    });
    client()
        .resolve(&reference(&registry, "app", "1"))
        .await
        .unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
}

#[tokio::test]
async fn a_refused_or_ended_token_is_fetched_anew() {
    let (registry, _) = with_access(bearer(1, true));
    let client = with_credential(&registry, basic("pa ss&word"));
    let reference = reference(&registry, "app", "1");
    client.resolve(&reference).await.unwrap();
    registry.revoke_tokens();
    client.resolve(&reference).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    client.resolve(&reference).await.unwrap();
    assert_eq!(registry.count("POST", "/token"), 3);
}

#[tokio::test]
async fn nobody_gets_the_token_of_another_credential() {
    let (registry, _) = with_access(bearer(300, true));
    let reference = reference(&registry, "app", "1");
    let client = with_credential(&registry, basic("pa ss&word"));
    client.resolve(&reference).await.unwrap();
    let other = client.with_credentials(Arc::new(FixedCredential {
        host: registry.host(),
        credential: basic("wrong"),
    }));
    assert_eq!(
        refusal(&other, &reference).await.kind(),
        FailureKind::Unauthorized
    );
}

#[tokio::test]
async fn credentials_never_follow_a_redirect_to_another_host() {
    let (registry, _) = with_access(Access::Basic {
        username: "user".to_owned(),
        password: "right".to_owned(),
    });
    let (other, _) = with_access(Access::Open);
    let client = with_credential(&registry, basic("right"));
    let reference = reference(&registry, "app", "1");
    client.resolve(&reference).await.unwrap();
    let to = format!("{}/v2/app/manifests/1", other.url());
    registry.fault(Fault::on(
        "/manifests/",
        Action::Status(307, vec![("location", to)]),
    ));
    client.resolve(&reference).await.unwrap();
    let seen = other.requests();
    assert!(!seen.is_empty());
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_redirect_without_end_is_given_up() {
    let (registry, _) = with_access(Access::Open);
    let to = format!("{}/v2/app/manifests/1", registry.url());
    registry.fault(Fault::on(
        "/manifests/",
        Action::Status(307, vec![("location", to)]),
    ));
    let error = refusal(&client(), &reference(&registry, "app", "1")).await;
    assert_eq!(error.kind(), FailureKind::BadResponse);
    assert!(registry.requests().len() <= 6);
}

#[tokio::test]
async fn tls_failures_say_what_is_wrong_with_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    for (name, trusted, expected) in [
        (ServerName::Loopback, true, None),
        (
            ServerName::Loopback,
            false,
            Some(TlsCause::UnknownAuthority),
        ),
        (ServerName::Wrong, true, Some(TlsCause::WrongName)),
        (ServerName::Expired, true, Some(TlsCause::Expired)),
    ] {
        let authority = Authority::new();
        let (registry, _) = with_image(Options {
            tls: Some(authority.identity(name)),
            ..Options::default()
        });
        let ca = folder.path().join("ca.pem");
        write(&ca, authority.pem());
        let text = if trusted {
            format!("server = \"{}\"\nca = {ca:?}\n", registry.url())
        } else {
            format!("server = \"{}\"\n", registry.url())
        };
        let client = Client::new(ClientOptions {
            hosts: hosts(folder.path(), &registry.host(), &text),
            ..options()
        });
        let result = client.resolve(&reference(&registry, "app", "1")).await;
        let found = result.err().map(|error| error.kind());
        assert_eq!(found, expected.map(FailureKind::Tls), "{name:?}");
    }
}

#[tokio::test]
async fn loopback_without_configuration_speaks_tls_or_plain_as_the_port_does() {
    let authority = Authority::new();
    let tls = Some(authority.identity(ServerName::Loopback));
    for options in [
        Options {
            tls,
            ..Options::default()
        },
        Options::default(),
    ] {
        let (registry, _) = with_image(options);
        client()
            .resolve(&reference(&registry, "app", "1"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn plain_http_on_a_port_that_should_speak_tls_is_named() {
    let (registry, _) = with_access(Access::Open);
    let folder = tempfile::tempdir().unwrap();
    let text = format!("server = \"https://{}\"\n", registry.host());
    let client = Client::new(ClientOptions {
        hosts: hosts(folder.path(), &registry.host(), &text),
        ..options()
    });
    let error = refusal(&client, &reference(&registry, "app", "1")).await;
    assert_eq!(error.kind(), FailureKind::Tls(TlsCause::NotTls));
}

#[tokio::test]
async fn a_broken_hosts_file_or_certificate_is_our_own_configuration() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["server = 7", "ca = \"missing.pem\"", "[host.\"ftp://x\"]"] {
        let client = Client::new(ClientOptions {
            hosts: hosts(folder.path(), "a.invalid", text),
            ..options()
        });
        let error = refusal(&client, &"a.invalid/app".parse().unwrap()).await;
        assert_eq!(error.kind(), FailureKind::Configuration, "{error}");
    }
    let _unused = HostTree::default();
}

#[tokio::test]
async fn blobs_are_pushed_whole_or_in_pieces_or_mounted_or_left() {
    let (registry, _) = with_access(bearer(300, true));
    let client = with_credential(&registry, basic("pa ss&word"));
    let reference = reference(&registry, "new/app", "1");
    for (length, patches) in [(1000, 0), (20 << 20, 3)] {
        let bytes = noise(length);
        let blob = Descriptor::new("m", digest_of(&bytes), length as u64);
        let source: Arc<dyn BlobSource> = Arc::new(Source(bytes));
        let pushed = client
            .push_blob(&reference, &blob, Arc::clone(&source), None)
            .await
            .unwrap();
        assert_eq!(pushed, Pushed::Uploaded);
        assert_eq!(registry.count("PATCH", "/uploads/"), patches);
        assert!(registry.blob("new/app", &blob.digest).is_some());
        let again = client
            .push_blob(&reference, &blob, Arc::clone(&source), None)
            .await
            .unwrap();
        assert_eq!(again, Pushed::AlreadyThere);
        let elsewhere = common::reference(&registry, "other", "1");
        let mounted = client
            .push_blob(&elsewhere, &blob, source, Some("new/app"))
            .await
            .unwrap();
        assert_eq!(mounted, Pushed::Mounted);
    }
}

#[tokio::test]
async fn pushes_share_the_budget_and_send_shorter_pieces_when_it_is_small() {
    const BUDGET: usize = 2 << 20;
    let registry = FakeRegistry::start();
    let budget = MemoryBudget::new(BUDGET);
    let client = Client::new(ClientOptions {
        budget: budget.clone(),
        ..options()
    });
    let reference = reference(&registry, "app", "1");
    let push = |length: usize| {
        let bytes = noise(length);
        let blob = Descriptor::new("m", digest_of(&bytes), length as u64);
        let source: Arc<dyn BlobSource> = Arc::new(Source(bytes));
        let (client, reference) = (&client, &reference);
        async move { client.push_blob(reference, &blob, source, None).await }
    };
    let (one, two) = tokio::join!(push(6 << 20), push((6 << 20) + 1));
    assert_eq!(
        (one.unwrap(), two.unwrap()),
        (Pushed::Uploaded, Pushed::Uploaded)
    );
    assert_eq!(registry.count("PATCH", "/uploads/"), 3 + 4);
    assert_eq!(budget.peak_bytes(), BUDGET as u64);
    assert_eq!(budget.used_bytes(), 0);
}

#[tokio::test]
async fn a_token_service_that_fails_is_told_from_a_registry_that_does() {
    for (action, kind, code) in [
        (
            Action::status(500),
            FailureKind::Server {
                status: 500,
                retry_after: None,
            },
            "ORL-E3005",
        ),
        (Action::status(403), FailureKind::Forbidden, "ORL-E3002"),
        (Action::status(200), FailureKind::BadResponse, "ORL-E3008"),
        (
            Action::Hang,
            FailureKind::Unreachable(Reach::TimedOut),
            "ORL-E3006",
        ),
    ] {
        let (registry, _) = with_access(bearer(300, true));
        registry.fault(Fault::on("/token", action.clone()));
        let client = with_credential(&registry, basic("pa ss&word"));
        let error = refusal(&client, &reference(&registry, "app", "1")).await;
        assert_eq!((error.kind(), error.code()), (kind, code), "{action:?}");
    }
}

#[tokio::test]
async fn a_wrong_identity_token_is_refused_and_needs_no_password_grant() {
    let (registry, _) = with_access(bearer(300, true));
    let client = with_credential(&registry, Credential::IdentityToken("stale".to_owned()));
    let error = refusal(&client, &reference(&registry, "app", "1")).await;
    assert_eq!(error.code(), "ORL-E3001", "{error}");
    assert_eq!(registry.count("GET", "/token"), 0);
}

#[tokio::test]
async fn tokens_are_kept_by_scope() {
    let (registry, _) = with_access(bearer(300, true));
    registry.put_image("other", "1", &[Layer::with_files(&[("a", b"b")])]);
    let client = with_credential(&registry, basic("pa ss&word"));
    for (repository, tokens) in [("app", 1), ("other", 2), ("app", 2), ("other", 2)] {
        client
            .resolve(&reference(&registry, repository, "1"))
            .await
            .unwrap();
        assert_eq!(registry.count("POST", "/token"), tokens, "{repository}");
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_had_are_an_error_of_their_own() {
    let (registry, _) = with_access(bearer(300, true));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    write(&path, r#"{"credsStore": "orlop-does-not-exist"}"#);
    let client = client().with_credentials(Arc::new(DockerConfig::new(path)));
    let error = refusal(&client, &reference(&registry, "app", "1")).await;
    assert_eq!(
        (error.kind(), error.code()),
        (FailureKind::Credentials, "ORL-E3011")
    );
    assert!(
        error.to_string().contains("orlop-does-not-exist"),
        "{error}"
    );
}

/// A registry that wants clients of `clients`, and a client with `settings` for it.
async fn resolve_with_certificate(
    folder: &std::path::Path,
    clients: &Authority,
    settings: &str,
) -> Result<(), Error> {
    let authority = Authority::new();
    let (registry, _) = with_image(Options {
        tls: Some(authority.identity_for(ServerName::Loopback, clients)),
        ..Options::default()
    });
    let ca = folder.join("ca.pem");
    write(&ca, authority.pem());
    let text = format!("server = \"{}\"\nca = {ca:?}\n{settings}", registry.url());
    let client = Client::new(ClientOptions {
        hosts: hosts(folder, &registry.host(), &text),
        ..options()
    });
    let reference = reference(&registry, "app", "1");
    client.resolve(&reference).await.map(drop)
}

#[tokio::test]
async fn a_client_certificate_opens_a_registry_that_wants_one() {
    let folder = tempfile::tempdir().unwrap();
    let clients = Authority::new();
    let (certificate, key) = clients.certificate();
    let path = |name: &str| folder.path().join(name);
    write(&path("c.pem"), &certificate);
    write(&path("k.pem"), &key);
    write(&path("both.pem"), &(certificate + &key));
    for settings in [
        format!("client = [[{:?}, {:?}]]\n", path("c.pem"), path("k.pem")),
        format!("client = {:?}\n", path("both.pem")),
    ] {
        resolve_with_certificate(folder.path(), &clients, &settings)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn without_a_client_certificate_that_is_trusted_the_error_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let clients = Authority::new();
    let (certificate, key) = Authority::new().certificate();
    let stranger = folder.path().join("stranger.pem");
    write(&stranger, &(certificate + &key));
    let broken = folder.path().join("broken.pem");
    write(&broken, "-----BEGIN NONSENSE-----\n");
    for (settings, kind) in [
        (String::new(), FailureKind::Tls(TlsCause::ClientCertificate)),
        (
            format!("client = {stranger:?}\n"),
            FailureKind::Tls(TlsCause::ClientCertificate),
        ),
        (format!("client = {broken:?}\n"), FailureKind::Configuration),
    ] {
        let error = resolve_with_certificate(folder.path(), &clients, &settings)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// A client that sends everything through `proxy` but what `exceptions` lists.
fn behind(folder: &std::path::Path, text: &str, proxy: &str, exceptions: &str) -> Client {
    let proxies = Proxies::from_lookup(|name| match name {
        "HTTP_PROXY" | "HTTPS_PROXY" => Some(proxy.to_owned()),
        "NO_PROXY" => Some(exceptions.to_owned()),
        _ => None,
    });
    Client::new(ClientOptions {
        hosts: hosts(folder, "registry.invalid", text),
        proxies,
        ..options()
    })
}

#[tokio::test]
async fn requests_go_through_the_proxy_by_tunnel_or_in_the_open() {
    let folder = tempfile::tempdir().unwrap();
    let reference: Reference = "registry.invalid/app:1".parse().unwrap();
    let tls = Some(Authority::new().identity(ServerName::Loopback));
    for (options, settings, expected) in [
        (
            Options {
                tls,
                ..Options::default()
            },
            "skip_verify = true",
            "CONNECT registry.invalid:443 HTTP/1.1",
        ),
        (
            Options::default(),
            "server = \"http://registry.invalid\"",
            "HEAD http://registry.invalid/v2/app/manifests/1 HTTP/1.1",
        ),
    ] {
        let (registry, _) = with_image(options);
        let proxy = FakeProxy::start(registry.address(), Some(("user", "secret")));
        let url = format!("http://user:secret@{}", proxy.address());
        let client = behind(folder.path(), settings, &url, "10.0.0.0/8,other.io");
        client.resolve(&reference).await.unwrap();
        assert_eq!(proxy.lines()[0], expected);
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_gone_is_an_error_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let reference: Reference = "registry.invalid/app:1".parse().unwrap();
    let (registry, _) = with_access(Access::Open);
    let proxy = FakeProxy::start(registry.address(), Some(("user", "right")));
    for place in [proxy.address().to_string(), "127.0.0.1:9".to_owned()] {
        let url = format!("http://user:secret@{place}");
        let client = behind(folder.path(), "skip_verify = true", &url, "");
        let error = refusal(&client, &reference).await;
        assert!(
            matches!(error.kind(), FailureKind::Unreachable(_)),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn exceptions_and_unusable_proxies_are_heeded_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let reference: Reference = "registry.invalid/app:1".parse().unwrap();
    let (registry, _) = with_access(Access::Open);
    let proxy = FakeProxy::start(registry.address(), None);
    let url = format!("http://{}", proxy.address());
    let client = behind(folder.path(), "skip_verify = true", &url, "invalid:443");
    let error = refusal(&client, &reference).await;
    assert_eq!(error.kind(), FailureKind::Unreachable(Reach::Dns));
    assert_eq!(proxy.lines(), [""; 0]);
    let client = behind(folder.path(), "skip_verify = true", "socks5://x", "");
    let error = refusal(&client, &reference).await;
    assert_eq!(error.code(), "ORL-E3012", "{error}");
    assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
}

#[tokio::test]
async fn a_push_survives_a_passing_fault_and_reports_a_lasting_one() {
    let registry = FakeRegistry::start();
    let reference = reference(&registry, "app", "1");
    let blob = Descriptor::new("m", digest_of(b"abc"), 3);
    let source: Arc<dyn BlobSource> = Arc::new(Source(b"abc".to_vec()));
    registry.fault(
        Fault::on("/uploads/", Action::status(503))
            .method("PUT")
            .times(1),
    );
    let client = client();
    client
        .push_blob(&reference, &blob, Arc::clone(&source), None)
        .await
        .unwrap();
    let lie = Descriptor::new("m", digest_of(b"xyz"), 3);
    let error = client
        .push_blob(&reference, &lie, source, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::BadResponse);
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
}

#[tokio::test]
async fn a_pushed_manifest_can_be_read_back_and_its_referrers_listed() {
    let (registry, subject) = with_access(Access::Open);
    let client = client();
    let reference = reference(&registry, "app", "sig");
    let bytes = Bytes::from(format!(
        r#"{{"subject":{{"digest":"{}"}}}}"#,
        subject.digest
    ));
    client
        .push_manifest(&reference, MANIFEST, bytes.clone())
        .await
        .unwrap();
    let resolved = client.resolve(&reference).await.unwrap();
    assert_eq!(resolved.descriptor.digest, digest_of(&bytes));
    let index = client.referrers(&reference, &subject.digest).await.unwrap();
    assert!(String::from_utf8_lossy(&index.bytes).contains(&digest_of(&bytes).to_string()));
}

#[allow(
    clippy::disallowed_methods,
    reason = "tests write their fixtures directly"
)]
fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
