//! Artifacts: files rather than images, such as ORAS pushes.

use orlop_meta::ErrorKind;
use orlop_testkit::registry::{FakeRegistry, digest_of};
use orlop_types::Digest;

use super::collection::collect;
use super::plain::tree;
use super::support::{Engine, name, overlayfs, scope, shell};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Puts an artifact with the empty config and these files.
fn put(registry: &FakeRegistry, tag: &str, files: &[(Option<&str>, &str)]) -> Digest {
    let config = registry.put_blob("files", "{}".as_bytes().to_vec());
    let layers: Vec<_> = files
        .iter()
        .map(|(title, text)| {
            let digest = registry.put_blob("files", text.as_bytes().to_vec());
            let mut layer = serde_json::json!({
                "mediaType": "text/plain", "digest": digest.to_string(), "size": text.len()
            });
            if let Some(title) = title {
                layer["annotations"] = serde_json::json!({"org.opencontainers.image.title": title});
            }
            layer
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example+type",
        "config": {"mediaType": EMPTY, "digest": config.to_string(), "size": 2}, "layers": layers
    });
    registry.put_manifest("files", Some(tag), MANIFEST, manifest.to_string())
}

fn reference(registry: &FakeRegistry, tag: &str) -> String {
    registry.reference("files", tag)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_becomes_a_folder_of_files_with_an_id_of_its_own() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let files = [
        (Some("model/weights"), "1 2 3"),
        (Some("README"), "read"),
        (None, "plain"),
    ];
    let first = put(&registry, "1", &files);
    let second = put(&registry, "2", &[(Some("README"), "other")]);
    let pulled = engine.pull(&reference(&registry, "1")).await.unwrap();
    engine.pull(&reference(&registry, "2")).await.unwrap();
    let chain = pulled.chain_id.unwrap().to_string();
    let untitled = format!("./{}", digest_of(b"plain").to_string().replace(':', "-"));
    let expected = [
        ("./README", "read"),
        ("./model/weights", "1 2 3"),
        (&untitled, "plain"),
    ];
    assert_eq!(
        tree(&engine, &overlayfs(), &chain),
        expected.map(|(path, text)| (path.to_owned(), text.to_owned()))
    );
    let (folder, find) = (engine.folder().join("overlayfs"), "-printf '%m %T@ %u\\n'");
    let modes = shell(
        &folder,
        &format!("find . -path '*/fs/model*' {find} | sort"),
    );
    let zero = "0.0000000000";
    assert_eq!(modes.trim(), format!("644 {zero} root\n755 {zero} root"));
    let listed = engine.images.catalog(&scope("test")).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|entry| entry.id).collect();
    assert!(
        ids.len() == 2 && ids.contains(&first) && ids.contains(&second),
        "{ids:?}"
    );
    let found = engine.images.find(&scope("test"), &first.to_string()).await;
    assert_eq!(found.unwrap().unwrap().chain_id, pulled.chain_id);
    assert!(engine.view("test").leases().list(&[]).unwrap().is_empty());
    assert_eq!(collect(&engine), Vec::<String>::new());
    // The other one has the same config; it keeps nothing of this one's.
    let (scope, first) = (scope("test"), name(&reference(&registry, "1")));
    engine.images.delete(&scope, first).await.unwrap();
    assert_eq!(collect(&engine), Vec::<String>::new());
    let left = shell(&engine.folder().join("overlayfs"), "find . -type f");
    assert!(
        left.ends_with("/README") && left.lines().count() == 1,
        "{left}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_whose_files_lead_out_or_collide_is_refused_before_its_files_are_fetched() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let table = [
        ["/etc/passwd", "b"],
        ["../up", "b"],
        ["same", "same"],
        ["a", "a/b"],
    ];
    for (tag, titles) in table.iter().enumerate() {
        let tag = tag.to_string();
        put(
            &registry,
            &tag,
            &[(Some(titles[0]), "one"), (Some(titles[1]), "two")],
        );
        let error = engine.pull(&reference(&registry, &tag)).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidArgument,
            "{titles:?}: {error}"
        );
    }
    assert_eq!(registry.count("GET", "/blobs/"), 0);
    assert!(
        engine
            .images
            .catalog(&scope("test"))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(collect(&engine), Vec::<String>::new());
}
