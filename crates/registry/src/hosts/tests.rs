#![allow(
    clippy::disallowed_methods,
    reason = "tests write their fixtures directly"
)]

use super::*;

fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostTree) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let tree = HostTree::new([folder.path().to_owned()]);
    (folder, tree)
}

#[test]
fn a_registry_without_configuration_is_its_own_host() {
    for (registry, scheme, authority, skip_verify) in [
        ("docker.io", Scheme::Https, "registry-1.docker.io", false),
        ("ghcr.io", Scheme::Https, "ghcr.io", false),
        ("localhost", Scheme::Https, "localhost", true),
        (
            "localhost:5000",
            Scheme::HttpsThenHttp,
            "localhost:5000",
            true,
        ),
        ("127.0.0.1:80", Scheme::Http, "127.0.0.1:80", false),
        ("127.8.0.1:443", Scheme::Https, "127.8.0.1:443", true),
        ("[::1]:5000", Scheme::HttpsThenHttp, "[::1]:5000", true),
        ("10.0.0.1:5000", Scheme::Https, "10.0.0.1:5000", false),
    ] {
        let endpoints = HostTree::default().endpoints(registry).unwrap();
        assert_eq!(endpoints.len(), 1);
        let endpoint = &endpoints[0];
        assert_eq!(
            (
                endpoint.scheme,
                endpoint.authority.as_str(),
                endpoint.tls.skip_verify
            ),
            (scheme, authority, skip_verify),
            "{registry}"
        );
        assert_eq!(endpoint.path, "/v2");
    }
}

#[test]
fn mirrors_keep_their_order_and_the_registry_comes_last() {
    let (_folder, tree) = tree(&[(
        "docker.io/hosts.toml",
        r#"
server = "https://registry-1.docker.io"
[host."https://z.example"]
capabilities = ["pull", "resolve"]
[host."http://a.example:5000/prefix"]
capabilities = ["Pull"]
dial_timeout = "1m30s"
[host."http://a.example:5000/prefix".header]
x-one = "1"
x-two = ["2", "3"]
[host."https://m.example/v2/api"]
override_path = true
skip_verify = true
"#,
    )]);
    let endpoints = tree.endpoints("docker.io").unwrap();
    let urls: Vec<String> = endpoints
        .iter()
        .map(|endpoint| {
            format!(
                "{:?} {}{}",
                endpoint.scheme, endpoint.authority, endpoint.path
            )
        })
        .collect();
    assert_eq!(
        urls,
        [
            "Https z.example/v2",
            "Http a.example:5000/prefix/v2",
            "Https m.example/v2/api",
            "Https registry-1.docker.io/v2",
        ]
    );
    assert!(!endpoints[1].capabilities.resolve && endpoints[1].capabilities.pull);
    assert_eq!(endpoints[1].headers.len(), 3);
    assert_eq!(endpoints[1].dial_timeout, Some(Duration::from_secs(90)));
    assert!(endpoints[2].tls.skip_verify);
    assert!(endpoints[3].is_upstream && !endpoints[0].is_upstream);
}

#[test]
fn certificates_are_found_beside_the_file_or_by_their_ending() {
    let (folder, tree) = tree(&[
        (
            "a.io/hosts.toml",
            "ca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"], \"both.pem\"]\n",
        ),
        ("b.io/x.crt", ""),
        ("b.io/y.cert", ""),
        ("b.io/y.key", ""),
    ]);
    let at = |path: &str| folder.path().join(path);
    let a = tree.endpoints("a.io").unwrap().remove(0);
    assert_eq!(a.tls.ca, [at("a.io/ca.pem")]);
    assert_eq!(
        a.tls.client,
        [
            (at("a.io/c.pem"), Some(at("a.io/k.pem"))),
            (at("a.io/both.pem"), None)
        ]
    );
    let b = tree.endpoints("b.io").unwrap().remove(0);
    assert_eq!(b.tls.ca, [at("b.io/x.crt")]);
    assert_eq!(b.tls.client, [(at("b.io/y.cert"), Some(at("b.io/y.key")))]);
}

#[test]
fn the_most_specific_folder_wins() {
    let file = |server: &str| format!("server = \"https://{server}\"");
    let (_folder, tree) = tree(&[
        ("a.io_5000_/hosts.toml", &file("under")),
        ("a.io:5000/hosts.toml", &file("colon")),
        ("b.io:5000/hosts.toml", &file("b")),
        ("_default/hosts.toml", "[host.\"https://cache\"]\n"),
    ]);
    let first = |registry: &str| tree.endpoints(registry).unwrap().remove(0).authority;
    assert_eq!(first("a.io:5000"), "under");
    assert_eq!(first("b.io:5000"), "b");
    assert_eq!(first("c.io"), "cache");
    assert_eq!(tree.endpoints("c.io").unwrap()[1].authority, "c.io");
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let (_folder, tree) = tree(&[(
        "a.io/hosts.toml",
        r#"
capabilities = ["fly"]
skip_verify = "yes"
[host."ftp://x"]
[host."https://user:secret@x"]
client = 7
dial_timeout = "soon"
[host."https://y".header]
"bad name" = "v"
"#,
    )]);
    let error = tree.endpoints("a.io").unwrap_err();
    assert_eq!(error.problems.len(), 7, "{error}");
    assert!(!error.to_string().contains("secret@") || error.to_string().contains("credentials"));
}

#[test]
fn text_that_is_no_toml_is_an_error_and_not_an_empty_configuration() {
    let (_folder, tree) = tree(&[("a.io/hosts.toml", "server = ")]);
    assert!(tree.endpoints("a.io").is_err());
}
