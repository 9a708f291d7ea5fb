//! A disk that is too small: what is there is served, and what does not fit is passed through.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use orlop_cache::store;
use orlop_testkit::registry::FakeRegistry;
use support::{Cache, Setting, client, image, noise};

const LAYER_BYTES: usize = 24 << 20;

/// A small file system in memory, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = c"size=16m";
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, options).unwrap();
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.0.path(), flags).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_serving_what_is_there_and_passes_the_rest_through() {
    let disk = Small::mount();
    let upstream = FakeRegistry::start();
    let small = image(&upstream, "library/small", "1", 1 << 20);
    let large = image(&upstream, "library/large", "1", LAYER_BYTES);
    // The store believes that it has room: the disk says no while the blob comes.
    let setting = Setting {
        store: store::Options {
            cap_bytes: 1 << 30,
            ..store::Options::default()
        },
        ..Setting::default()
    };
    let root = disk.0.path().join("root");
    let cache = Cache::start(&root, &upstream.host(), setting).await;
    let client = client();
    let get = async |rest: String| client.get(cache.url(&rest)).send().await.unwrap();
    for name in ["small", "large"] {
        let manifest = get(format!("library/{name}/manifests/1")).await;
        assert_eq!(manifest.status(), 200, "{name}");
    }
    let there = format!("library/small/blobs/{}", small.layers[0]);
    assert_eq!(
        get(there.clone()).await.bytes().await.unwrap().len(),
        1 << 20
    );
    let path = format!("library/large/blobs/{}", large.layers[0]);
    // The first may be cut, as by a registry that breaks off; who asks again is served.
    let first = get(path.clone()).await;
    let came = match first.status().as_u16() {
        200 => first.bytes().await.is_ok(),
        status => {
            assert_eq!(status, 503);
            assert!(first.text().await.unwrap().contains("ORL-E9214"));
            false
        }
    };
    if !came {
        let again = get(path).await;
        assert_eq!(again.status(), 200);
        assert!(again.bytes().await.unwrap() == noise(LAYER_BYTES));
    }
    assert!(!cache.store.holds(&large.layers[0]));
    let there = get(there).await;
    assert_eq!(there.bytes().await.unwrap().len(), 1 << 20);
    cache.stop().await;
}
