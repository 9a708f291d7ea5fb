//! The rows of the table in `docs/guide/cache-serve.md`: what every other cache gets wrong in one place or another.
//! `make cache-probes` runs these and counts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use orlop_base::clock::Clock as _;
use orlop_cache::rights::Admission;
use orlop_testkit::registry::{Access, Action, FakeRegistry, Fault, Options, Tenant};
use support::{Cache, Scene, Setting, image, noise};

const LAYER_BYTES: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_cold_pulls_of_a_layer_are_one_upstream_get() {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    let manifest = scene.get("library/app/manifests/1").await;
    assert_eq!(manifest.status(), 200);
    assert_eq!(manifest.bytes().await.unwrap(), parts.manifest_bytes);
    // Slow enough that all sixteen come while it is under way.
    let slow = Action::Delay(Duration::from_millis(300));
    scene
        .upstream
        .fault(Fault::on("/blobs/", slow).method("GET"));
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let pulls = (0..16).map(|_| async {
        let answer = scene.get(&path).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap()
    });
    for bytes in futures_util::future::join_all(pulls).await {
        assert!(bytes == noise(LAYER_BYTES), "the layer as it is");
    }
    assert_eq!(scene.upstream.count("GET", "/blobs/"), 1);
    assert_eq!(
        scene.upstream.count("HEAD", "/blobs/"),
        0,
        "the manifest said the size"
    );
    let again = scene.get(&path).await;
    assert_eq!(again.bytes().await.unwrap().len(), LAYER_BYTES);
    assert_eq!(scene.upstream.count("GET", "/blobs/"), 1);
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_on_a_miss_is_a_206_and_one_fill() {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let answer = scene.get_range(&path, "bytes=1000-1999").await;
    assert_eq!(answer.status(), 206);
    let shown = answer.headers()["content-range"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(shown, format!("bytes 1000-1999/{LAYER_BYTES}"));
    assert_eq!(
        answer.bytes().await.unwrap(),
        noise(LAYER_BYTES)[1000..2000]
    );
    scene.cache.settle().await;
    assert_eq!(scene.upstream.count("GET", "/blobs/"), 1);
    let whole = scene.get(&path).await;
    assert!(whole.bytes().await.unwrap() == noise(LAYER_BYTES));
    assert_eq!(
        scene.upstream.count("GET", "/blobs/"),
        1,
        "the range filled it"
    );
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_of_a_slow_fill_is_fetched_beside_it() {
    let scene = Scene::new(Setting::default()).await;
    let length = 24 << 20;
    let parts = image(&scene.upstream, "library/app", "1", length);
    scene.get("library/app/manifests/1").await;
    let stall = Action::Rate(64 << 10);
    scene
        .upstream
        .fault(Fault::on("/blobs/", stall).method("GET").times(1));
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let start = 20 << 20;
    let range = format!("bytes={start}-{}", start + 999);
    let answer = scene.get_range(&path, &range).await;
    assert_eq!(answer.status(), 206);
    assert_eq!(
        answer.bytes().await.unwrap(),
        noise(length)[start..start + 1000]
    );
    let asked: Vec<_> = scene.upstream.requests();
    let ranged = asked.iter().filter(|seen| seen.header("range").is_some());
    assert_eq!(
        ranged.count(),
        1,
        "only what was asked for was fetched beside"
    );
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_bytes_are_never_given_whole_and_never_kept() {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let corrupt = Action::Corrupt(5);
    scene
        .upstream
        .fault(Fault::on("/blobs/", corrupt).method("GET").times(1));
    let answer = scene.get(&path).await;
    assert_eq!(answer.status(), 200, "headers come before the last byte");
    assert!(answer.bytes().await.is_err(), "the connection is cut");
    scene.cache.settle().await;
    assert!(!scene.cache.store.holds(&parts.layers[0]));
    let again = scene.get(&path).await;
    assert!(again.bytes().await.unwrap() == noise(LAYER_BYTES));
    // All of a small blob is withheld.
    let corrupt = Action::Corrupt(0);
    scene
        .upstream
        .fault(Fault::on("/blobs/", corrupt).method("GET").times(1));
    let config = format!("library/app/blobs/{}", parts.config);
    let mut answer = scene.get(&config).await;
    assert!(answer.chunk().await.is_err(), "not one byte of it");
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_outlives_its_client_and_a_restart() {
    let setting = || Setting {
        store: orlop_cache::store::Options::default(),
        ..Setting::default()
    };
    let scene = Scene::new(setting()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let path = format!("library/app/blobs/{}", parts.layers[0]);
    let mut aborted = scene.get(&path).await;
    assert!(aborted.chunk().await.unwrap().is_some());
    drop(aborted);
    scene.cache.settle().await;
    assert!(
        scene.cache.store.holds(&parts.layers[0]),
        "it was completed"
    );
    // The same, with the cache ending in between: what came is not fetched again.
    let second = image(&scene.upstream, "library/other", "1", LAYER_BYTES + 1);
    scene.get("library/other/manifests/1").await;
    let stall = Action::Stall(4 << 20);
    scene
        .upstream
        .fault(Fault::on("/blobs/", stall).method("GET").times(1));
    let path = format!("library/other/blobs/{}", second.layers[0]);
    let mut cut = scene.get(&path).await;
    let mut came = 0;
    while came < 3 << 20 {
        came += cut.chunk().await.unwrap().unwrap().len();
    }
    drop(cut);
    let scene = scene.restart(setting()).await;
    let resumed = scene.cache.fills.resume().unwrap();
    assert_eq!(resumed, 1);
    scene.cache.settle().await;
    assert!(scene.cache.store.holds(&second.layers[0]));
    let asked = scene.upstream.requests();
    let last = asked
        .iter()
        .rfind(|seen| seen.path.contains("/blobs/"))
        .unwrap();
    let range = last.header("range").expect("it asked for the rest only");
    let start: u64 = range["bytes=".len()..]
        .split('-')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(start >= 3 << 20, "{range}");
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_gets_of_a_missing_tag_are_one_upstream_request() {
    let (setting, clock) = Setting::default().with_clock();
    let scene = Scene::new(setting).await;
    for _ in 0..5 {
        let answer = scene.get("library/app/manifests/none").await;
        assert_eq!(answer.status(), 404);
        let text = answer.text().await.unwrap();
        assert!(
            text.contains("MANIFEST_UNKNOWN") && text.contains("ORL-E9204"),
            "{text}"
        );
    }
    assert_eq!(scene.upstream.count("", "/manifests/"), 1);
    image(&scene.upstream, "library/app", "none", 10);
    clock.advance(Duration::from_secs(16));
    let answer = scene.get("library/app/manifests/none").await;
    assert_eq!(answer.status(), 200, "not for long");
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_tag_is_served_with_a_warning_while_the_upstream_fails_and_not_for_ever() {
    for action in [
        Action::status(503),
        Action::too_many_requests(30),
        Action::Reset,
    ] {
        let (setting, clock) = Setting::default().with_clock();
        let scene = Scene::new(setting).await;
        let parts = image(&scene.upstream, "library/app", "1", 10);
        let fresh = scene.get("library/app/manifests/1").await;
        assert!(fresh.headers().get("warning").is_none());
        scene
            .upstream
            .fault(Fault::on("/manifests/", action.clone()));
        clock.advance(Duration::from_secs(3600));
        let stale = scene.get("library/app/manifests/1").await;
        assert_eq!(stale.status(), 200, "{action:?}");
        let warning = stale.headers()["warning"].to_str().unwrap().to_owned();
        assert!(warning.starts_with("299 - "), "{warning}");
        assert_eq!(stale.bytes().await.unwrap(), parts.manifest_bytes);
        clock.advance(Duration::from_secs(8 * 86_400));
        let gone = scene.get("library/app/manifests/1").await;
        assert!(
            !gone.status().is_success() && gone.status() != 404,
            "{action:?}"
        );
        scene.cache.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncached_tag_passes_a_429_on_and_nobody_asks_before_its_time() {
    let (setting, clock) = Setting::default().with_clock();
    let scene = Scene::new(setting).await;
    image(&scene.upstream, "library/app", "1", 10);
    let limited = Fault::on("/manifests/", Action::too_many_requests(30));
    scene.upstream.fault(limited.times(1));
    for path in [
        "library/app/manifests/1",
        "library/app/manifests/1",
        "library/x/manifests/2",
    ] {
        let answer = scene.get(path).await;
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "30");
        assert!(answer.text().await.unwrap().contains("TOOMANYREQUESTS"));
    }
    assert_eq!(scene.upstream.count("", "/manifests/"), 1);
    clock.advance(Duration::from_secs(30));
    assert_eq!(scene.get("library/app/manifests/1").await.status(), 200);
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_is_refused_through_a_repository_that_was_never_granted() {
    // In the service's name.
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", 1000);
    scene.get("library/app/manifests/1").await;
    let digest = parts.layers[0];
    let own = scene.get(&format!("library/app/blobs/{digest}")).await;
    assert_eq!(own.bytes().await.unwrap().len(), 1000);
    for method in ["GET", "HEAD"] {
        let url = scene.cache.url(&format!("library/other/blobs/{digest}"));
        let request = scene.client.request(method.parse().unwrap(), url);
        assert_eq!(scene.ask(request).await.status(), 404, "{method}");
    }
    scene.cache.stop().await;
    // With the clients' own credentials.
    let tenants = ["ann", "bob"].map(|name| Tenant {
        username: name.to_owned(),
        password: "secret".to_owned(),
        repositories: vec![format!("{name}/app")],
    });
    let upstream = FakeRegistry::start_with(Options {
        access: Access::Tenants(tenants.to_vec()),
        ..Options::default()
    });
    let setting = Setting {
        admission: Admission::PassThrough,
        ..Setting::default()
    };
    let scene = Scene::before(upstream, setting).await;
    let parts = image(&scene.upstream, "ann/app", "1", 1000);
    let digest = parts.layers[0];
    let paths = [
        "ann/app/manifests/1".to_owned(),
        format!("ann/app/manifests/{}", parts.manifest),
        format!("ann/app/blobs/{digest}"),
        format!("ann/app/blobs/{}", parts.config),
    ];
    let ask = async |path: &str, who: Option<&str>| {
        let mut request = scene.client.get(scene.cache.url(path));
        if let Some(who) = who {
            request = request.basic_auth(who, Some("secret"));
        }
        scene.ask(request).await
    };
    for path in &paths {
        assert_eq!(ask(path, Some("ann")).await.status(), 200, "{path}");
    }
    for path in &paths {
        assert_eq!(ask(path, Some("bob")).await.status(), 404, "{path}");
        let anonymous = ask(path, None).await;
        assert_eq!(anonymous.status(), 401, "{path}");
        assert!(anonymous.headers().contains_key("www-authenticate"));
        let wrong = scene.client.get(scene.cache.url(path));
        let wrong = scene.ask(wrong.basic_auth("ann", Some("guessed"))).await;
        assert_eq!(wrong.status(), 401, "{path}");
    }
    // Through bob's own repository, which does not have it.
    let through = ask(&format!("bob/app/blobs/{digest}"), Some("bob")).await;
    assert_eq!(through.status(), 404);
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_told_also_where_the_upstream_has_only_the_tag() {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", 10);
    let subject = serde_json::json!({
        "schemaVersion": 2,
        "subject": {"digest": parts.manifest.to_string()},
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let signature = subject.to_string();
    let referrer = scene
        .upstream
        .put_manifest("library/app", None, media_type, signature);
    let path = format!("library/app/referrers/{}", parts.manifest);
    let answer = scene.get(&path).await;
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
    assert!(answer.text().await.unwrap().contains(&referrer.to_string()));
    scene
        .upstream
        .fault(Fault::on("/referrers/", Action::status(503)));
    let stale = scene.get(&path).await;
    assert_eq!(stale.status(), 200, "as it was told before");
    assert!(stale.headers().contains_key("warning"));
    scene.upstream.heal();
    scene
        .upstream
        .fault(Fault::on("/referrers/", Action::status(404)));
    let other = image(&scene.upstream, "library/other", "1", 20);
    let none = scene
        .get(&format!("library/other/referrers/{}", other.manifest))
        .await;
    assert_eq!(none.status(), 200);
    assert!(none.text().await.unwrap().contains("\"manifests\":[]"));
    scene.cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_starts_without_its_upstream_and_serves_what_it_has() {
    let scene = Scene::new(Setting::default()).await;
    let parts = image(&scene.upstream, "library/app", "1", LAYER_BYTES);
    scene.get("library/app/manifests/1").await;
    let blob = format!("library/app/blobs/{}", parts.layers[0]);
    assert_eq!(
        scene.get(&blob).await.bytes().await.unwrap().len(),
        LAYER_BYTES
    );
    let Scene {
        upstream,
        cache,
        client,
        folder,
    } = scene;
    let host = upstream.host();
    cache.stop().await;
    drop(upstream);
    let (mut setting, clock) = Setting::default().with_clock();
    clock.set_wall(orlop_base::clock::SystemClock.wall() + Duration::from_secs(600));
    setting.origin.breaker.failures_max = 0;
    let cache = Cache::start(folder.path(), &host, setting).await;
    let get = async |rest: &str| client.get(cache.url(rest)).send().await.unwrap();
    let tag = get("library/app/manifests/1").await;
    assert_eq!(tag.status(), 200);
    assert!(tag.headers().contains_key("warning"));
    let manifest = get(&format!("library/app/manifests/{}", parts.manifest)).await;
    assert_eq!(manifest.bytes().await.unwrap(), parts.manifest_bytes);
    assert_eq!(get(&blob).await.bytes().await.unwrap().len(), LAYER_BYTES);
    assert_eq!(get("library/app/manifests/2").await.status(), 502);
    cache.stop().await;
}
