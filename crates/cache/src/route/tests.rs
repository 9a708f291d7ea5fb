use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn naming() -> Naming {
    Naming {
        registries: ["docker.io", "ghcr.io", "localhost:5000"]
            .map(str::to_owned)
            .into(),
        any: false,
        default: Some("docker.io".to_owned()),
    }
}

fn locator(path: &str, query: &str) -> String {
    match naming().route(path, Some(query)).unwrap() {
        Route::Of(asked) => asked.reference.locator(),
        Route::Base => panic!("{path} is a repository's"),
    }
}

#[test]
fn the_registry_is_what_the_namespace_the_path_or_the_configuration_says() {
    for (path, query, expected) in [
        (
            "/v2/library/alpine/manifests/3",
            "ns=docker.io",
            "docker.io/library/alpine",
        ),
        (
            "/v2/alpine/manifests/3",
            "ns=docker.io",
            "docker.io/library/alpine",
        ),
        ("/v2/alpine/manifests/3", "", "docker.io/library/alpine"),
        (
            "/v2/alpine/manifests/3",
            "ns=registry-1.docker.io",
            "docker.io/library/alpine",
        ),
        ("/v2/a/b/manifests/3", "ns=ghcr.io", "ghcr.io/a/b"),
        ("/v2/alpine/manifests/3", "ns=ghcr.io", "ghcr.io/alpine"),
        ("/v2/ghcr.io/a/b/manifests/3", "", "ghcr.io/a/b"),
        (
            "/v2/docker.io/library/alpine/manifests/3",
            "",
            "docker.io/library/alpine",
        ),
        (
            "/v2/docker.io/alpine/manifests/3",
            "",
            "docker.io/library/alpine",
        ),
        ("/v2/localhost:5000/a/manifests/3", "", "localhost:5000/a"),
        ("/v2/localhost%3A5000/a/manifests/3", "", "localhost:5000/a"),
        (
            "/v2/a/b/manifests/3",
            "ns=localhost%3A5000",
            "localhost:5000/a/b",
        ),
    ] {
        assert_eq!(locator(path, query), expected, "{path}?{query}");
    }
}

#[test]
fn every_endpoint_of_the_read_side_is_known() {
    let subject = |path: &str, query: &str| match naming().route(path, Some(query)) {
        Ok(Route::Of(asked)) => asked.subject,
        other => panic!("{path}: {other:?}"),
    };
    let digest: Digest = DIGEST.parse().unwrap();
    assert_eq!(naming().route("/v2/", None), Ok(Route::Base));
    assert_eq!(naming().route("/v2", None), Ok(Route::Base));
    assert_eq!(subject("/v2/a/b/manifests/latest", ""), Subject::Tag);
    let by_digest = subject(&format!("/v2/a/b/manifests/{DIGEST}"), "");
    assert_eq!(by_digest, Subject::Manifest(digest));
    let escaped = DIGEST.replace(':', "%3a");
    let blob = subject(&format!("/v2/a/b/blobs/{escaped}"), "");
    assert_eq!(blob, Subject::Blob(digest));
    let Subject::Tags(query) = subject("/v2/a/b/tags/list", "n=5&last=x%20y&ns=ghcr.io&odd=1")
    else {
        panic!("a list of tags");
    };
    let pairs = [("n", "5"), ("last", "x y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(query.passed_on(), pairs);
    let referrers = subject(&format!("/v2/manifests/tags/referrers/{DIGEST}"), "");
    assert!(matches!(referrers, Subject::Referrers(found, _) if found == digest));
}

#[test]
fn tricks_with_paths_are_refused() {
    for path in [
        "/",
        "/v1/a/manifests/b",
        "/v2/../../etc/passwd",
        "/v2/manifests/x",
        "/v2/a/../b/manifests/x",
        "/v2/a/%2e%2e/b/manifests/x",
        "/v2/a/%2E%2E%2Fb/manifests/x",
        "/v2/a/./b/manifests/x",
        "/v2/a//b/manifests/x",
        "/v2//manifests/x",
        "/v2/a/manifests/",
        "/v2/a/manifests/..",
        "/v2/a/manifests/%00",
        "/v2/a%00/manifests/x",
        "/v2/a%zz/manifests/x",
        "/v2/a%/manifests/x",
        "/v2/a%ff/manifests/x",
        "/v2/A/manifests/x",
        "/v2/a@b/manifests/x",
        "/v2/a/manifests/-x",
        "/v2/a/blobs/x",
        "/v2/a/blobs/sha256:00",
        "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
        "/v2/a/blobs/uploads/",
        "/v2/_catalog",
        "/v2/a/tags/all",
        "/v2/evil.example/a/manifests/x",
        "/v2/10.0.0.1:80/a/manifests/x",
    ] {
        assert!(naming().route(path, None).is_err(), "{path}");
    }
    let long = format!("/v2/{}/manifests/x", "a/".repeat(2000));
    assert!(naming().route(&long, None).is_err());
}

#[test]
fn queries_that_mean_nothing_sound_are_refused() {
    for query in [
        "ns=evil.example",
        "ns=docker.io/../x",
        "ns=%00",
        "ns=",
        "n=-1",
        "n=x",
        "last=%0d%0a",
        "last=%",
    ] {
        let found = naming().route("/v2/a/tags/list", Some(query));
        assert!(found.is_err(), "{query}: {found:?}");
    }
    let many = "n=1&".repeat(17);
    assert!(naming().route("/v2/a/tags/list", Some(&many)).is_err());
}

#[test]
fn any_registry_and_no_default_are_the_operators_choice() {
    let mut naming = naming();
    naming.any = true;
    naming.default = None;
    let found = naming.route("/v2/a/manifests/x", Some("ns=quay.io"));
    assert!(matches!(found, Ok(Route::Of(asked)) if asked.reference.locator() == "quay.io/a"));
    let found = naming.route("/v2/a/manifests/x", None);
    assert_eq!(found, Err(RouteError::NoRegistry));
    let found = naming.route("/v2/a/manifests/x", Some("ns=folder"));
    assert!(matches!(found, Err(RouteError::NotServed(_))), "{found:?}");
}

proptest! {
    #[test]
    fn no_request_panics_and_what_is_accepted_stays_in_the_grammar(
        path in "/v2/[a-zA-Z0-9%./:@_-]{0,60}",
        query in "[a-z=&%0-9.:/]{0,40}",
    ) {
        if let Ok(Route::Of(asked)) = naming().route(&path, Some(&query)) {
            let locator = asked.reference.locator();
            prop_assert!(!locator.contains("..") && !locator.contains("//"));
            prop_assert!(naming().registries.contains(asked.reference.registry()));
        }
    }
}
