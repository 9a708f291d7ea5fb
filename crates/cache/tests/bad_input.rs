//! What clients and networks may do wrong. Serving goes on, and every no has an id.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use orlop_cache::serve::Limits;
use orlop_testkit::registry::{Action, Fault};
use support::{PATIENCE, Scene, Setting, image, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LAYER_BYTES: usize = 1 << 20;

/// Sends `text` as it is, and gives everything that comes until the connection closes.
async fn raw(scene: &Scene, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(scene.cache.address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _written = stream.write_all(text).await.is_ok();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ended = tokio::time::timeout(PATIENCE, read).await.unwrap().is_ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: cache\r\nconnection: close\r\n{headers}\r\n").into_bytes()
}

async fn serves(scene: &Scene, parts: &orlop_testkit::registry::ImageParts) {
    let answer = scene
        .get(&format!("library/app/blobs/{}", parts.layers[0]))
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap() == noise(LAYER_BYTES));
}

async fn filled() -> (Scene, orlop_testkit::registry::ImageParts) {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    serves(&scene, &parts).await;
    scene.cache.settle().await;
    (scene, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn tricks_with_paths_methods_and_ranges_are_told_no_and_harm_nothing() {
    let (scene, parts) = filled().await;
    let digest = parts.layers[0];
    for (path, status) in [
        ("/v2/../../etc/passwd", "404"),
        ("/v2/a/%2e%2e/%2e%2e/manifests/x", "400"),
        ("/v2/a/%2e%2e%2fb/manifests/x", "400"),
        ("/v2/a//b/manifests/x", "400"),
        ("/v2/a/manifests/%00", "400"),
        ("/v2/a%00b/manifests/x", "400"),
        ("/v2/a/blobs/sha256:xyz", "400"),
        ("/v2/_catalog", "404"),
        ("/v2/evil.example/a/manifests/x", "404"),
        ("/v2/a/manifests/x?ns=evil.example", "404"),
        ("/v2/a/tags/list?n=-1", "400"),
        ("/", "404"),
    ] {
        let answer = raw(&scene, &request(path, "")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
        assert!(answer.contains("ORL-E920"), "{path}: {answer}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let url = scene.cache.url(&format!("library/app/blobs/{digest}"));
        let answer = scene
            .ask(scene.client.request(method.parse().unwrap(), url))
            .await;
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
    }
    let path = format!("library/app/blobs/{digest}");
    for (range, status) in [
        ("bytes=5000000-", 416),
        ("bytes=-0", 416),
        ("bytes=9-3", 200),
        ("bytes=0-1,5-6", 200),
        ("bytes=99999999999999999999999-", 416),
        ("potatoes=1-2", 200),
        ("bytes=0-0", 206),
        ("bytes=-1", 206),
    ] {
        let answer = scene.get_range(&path, range).await;
        assert_eq!(answer.status(), status, "{range}");
        if status == 416 {
            let told = answer.headers()["content-range"]
                .to_str()
                .unwrap()
                .to_owned();
            assert_eq!(told, format!("bytes */{LAYER_BYTES}"));
        }
    }
    assert_eq!(scene.upstream.count("GET", "/blobs/"), 1);
    serves(&scene, &parts).await;
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_too_many_or_no_http_are_refused() {
    let (scene, parts) = filled().await;
    let long = format!("x-long: {}\r\n", "a".repeat(1 << 20));
    let answer = raw(&scene, &request("/v2/", &long)).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let many: String = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = raw(&scene, &request("/v2/", &many)).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let path = format!("/v2/{}", "a/".repeat(100_000));
    let answer = raw(&scene, &request(&path, "")).await;
    let is_refused = ["HTTP/1.1 414", "HTTP/1.1 431", "HTTP/1.1 400"];
    let starts = is_refused.iter().any(|status| answer.starts_with(status));
    assert!(answer.is_empty() || starts, "{answer}");
    let answer = raw(&scene, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    serves(&scene, &parts).await;
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_send_or_take_nothing_are_cut() {
    let limits = Limits {
        head_within: Duration::from_millis(300),
        stall: Duration::from_millis(500),
        ..Limits::default()
    };
    let scene = Scene::new(Setting {
        limits,
        ..Setting::default()
    })
    .await;
    let length = 64 << 20;
    let parts = image(&scene.upstream, "library/app", "1", length);
    scene.get("library/app/manifests/1").await;
    // A head that never ends.
    let mut slow = TcpStream::connect(scene.cache.address).await.unwrap();
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nhost: ")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the connection was closed");
    // An answer that nobody takes: more than all socket buffers hold.
    let mut idle = TcpStream::connect(scene.cache.address).await.unwrap();
    let path = format!("/v2/library/app/blobs/{}", parts.layers[0]);
    idle.write_all(&request(&path, "")).await.unwrap();
    let mut first = [0; 64];
    idle.read_exact(&mut first).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(read.is_err() || rest.len() < length, "it was cut");
    scene.cache.settle().await;
    let whole = scene.get(&path["/v2/".len()..]).await;
    assert_eq!(
        whole.bytes().await.unwrap().len(),
        length,
        "the fill went on"
    );
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_so_many_answers_under_way_and_no_more() {
    let mut setting = Setting::default();
    setting.options.answers_per_client_max = 2;
    let scene = Scene::new(setting).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let stall = Action::Stall(1000);
    scene
        .upstream
        .fault(Fault::on("/blobs/", stall).method("GET"));
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let (first, second) = (scene.get(&path).await, scene.get(&path).await);
    let third = scene.get(&path).await;
    assert_eq!(third.status(), 503);
    assert!(third.text().await.unwrap().contains("ORL-E9215"));
    drop((first, second));
    scene.upstream.heal();
    let answered = async {
        while scene.get("library/app/manifests/1").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_is_a_504_in_time_and_one_that_breaks_off_is_asked_for_the_rest() {
    let mut setting = Setting::default();
    setting.options.headers_within = Duration::from_millis(300);
    let scene = Scene::new(setting).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let hang = Fault::on("/blobs/", Action::Hang).method("GET").times(1);
    scene.upstream.fault(hang);
    let late = scene.get(&path).await;
    assert_eq!(late.status(), 504);
    assert!(late.headers().contains_key("retry-after"));
    scene.cache.stop().await;
    let (scene, _) = filled().await;
    let other = image(&scene.upstream, "library/other", "1", LAYER_BYTES + 1);
    scene.get("library/other/manifests/1").await;
    let cut = Action::Truncate(500_000);
    scene
        .upstream
        .fault(Fault::on("/blobs/", cut).method("GET").times(1));
    let path = format!("library/other/blobs/{}", other.layers[0]);
    let answer = scene.get(&path).await;
    assert!(
        answer.bytes().await.unwrap() == noise(LAYER_BYTES + 1),
        "nobody notices"
    );
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_lists_and_negotiation_are_as_the_specification_has_them() {
    let (scene, parts) = filled().await;
    let manifest = scene.cache.url("library/app/manifests/1");
    let tag = format!("\"{}\"", parts.manifest);
    let known = scene.client.get(&manifest).header("if-none-match", &tag);
    let known = scene.ask(known).await;
    assert_eq!(known.status(), 304);
    assert_eq!(known.headers()["etag"].to_str().unwrap(), tag);
    let index_only = "application/vnd.oci.image.index.v1+json";
    let refused = scene.client.get(&manifest).header("accept", index_only);
    assert_eq!(scene.ask(refused).await.status(), 404);
    let head = scene.head("library/app/manifests/1").await;
    let length = head.headers()["content-length"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(length, parts.manifest_bytes.len().to_string());
    assert_eq!(
        head.headers()["oci-namespace"].to_str().unwrap(),
        scene.upstream.host()
    );
    let blob = scene
        .cache
        .url(&format!("library/app/blobs/{}", parts.layers[0]));
    let changed = scene.client.get(&blob).header("range", "bytes=0-9");
    let changed = scene.ask(changed.header("if-range", "\"other\"")).await;
    assert_eq!(changed.status(), 200);
    let head = scene
        .head(&format!("library/app/blobs/{}", parts.layers[0]))
        .await;
    assert_eq!(
        head.headers()["content-length"],
        LAYER_BYTES.to_string().as_str()
    );
    for tag in ["2", "3"] {
        image(&scene.upstream, "library/app", tag, 10);
    }
    let page = scene.get("library/app/tags/list?n=2").await;
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    assert_eq!(link, "</v2/library/app/tags/list?last=2&n=2>; rel=\"next\"");
    assert!(page.text().await.unwrap().contains("[\"1\",\"2\"]"));
    scene.cache.stop().await;
}
