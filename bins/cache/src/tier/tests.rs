//! The command against moto, with a cache's folder that knows two images.

use std::path::Path;
use std::time::SystemTime;

use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_cache::depot::{Depot as _, Source};
use orlop_cache::tier::ClassName;
use orlop_testkit::depot::digest_of;

use super::*;
use crate::s3::tests::Server;

/// Large enough to be moved.
fn blob(seed: u8) -> Vec<u8> {
    vec![seed; 300 << 10]
}

fn configured(server: &Server, folder: &Path, more: &str) -> Arguments {
    let config = folder.join("cache.toml");
    let text = format!("[serve]\naddress = \"x\"\n{}\n{more}", server.section());
    #[allow(clippy::disallowed_methods, reason = "a test's file")]
    std::fs::write(&config, text).unwrap();
    Arguments {
        shared: SharedArguments {
            config,
            root: folder.to_owned(),
        },
        plan: false,
        apply: false,
        wait: false,
        top: 0,
    }
}

/// Puts blobs into the bucket.
async fn stocked(server: &Server, blobs: &[Vec<u8>]) -> crate::s3::S3 {
    let depot = server.connect().await;
    for blob in blobs {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, blob).unwrap();
        let source = Source {
            file,
            bytes: blob.len() as u64,
        };
        let class = ClassName::new("STANDARD");
        depot.put(&digest_of(blob), source, &class).await.unwrap();
    }
    depot
}

async fn answered(server: &Server, arguments: &Arguments) -> serde_json::Value {
    let settings = SharedSettings::read(&arguments.shared.config).unwrap();
    let tasks = TaskTree::root("test", SystemClock::shared());
    let shared = server.shared(&settings, &tasks).await;
    let report = answer_with(arguments, &settings, &shared, &tasks)
        .await
        .unwrap();
    assert!(!report.text(Some(80)).is_empty());
    serde_json::from_str(&report.json()).unwrap()
}

#[tokio::test]
async fn a_plan_changes_nothing_and_what_is_applied_is_planned_no_more() {
    let server = Server::moto();
    let folder = tempfile::tempdir().unwrap();
    let blobs = [blob(1), blob(2), vec![3; 10]];
    let depot = stocked(&server, &blobs).await;
    let places = "[tiering]\nplaces = [\"STANDARD\", \"GLACIER_IR\"]\nhorizon_days = 36500\n";
    let mut arguments = configured(&server, folder.path(), places);

    let plan = answered(&server, &arguments).await;
    assert_eq!(plan["objects"], 2);
    assert_eq!(plan["objects_too_small"], 1);
    assert_eq!(plan["moves"], 2, "{plan}");
    assert_eq!(plan["shown"][0]["to"], "GLACIER_IR");
    assert_eq!(plan["ended"], serde_json::Value::Null);
    let now = plan["dollars_per_month_now"].as_f64().unwrap();
    let gigabytes = 600.0 / f64::from(1 << 20);
    assert!((now - gigabytes * 0.023).abs() < 1e-9, "{now}");
    let then = plan["dollars_per_month_then"].as_f64().unwrap();
    assert!((then - gigabytes * 0.004).abs() < 1e-9, "{then}");
    // A COPY each, at the price of the class they go to.
    let costs = plan["moves_cost"].as_f64().unwrap();
    assert!((costs - 2.0 * 0.02 / 1000.0).abs() < 1e-12, "{costs}");

    arguments.apply = true;
    let run = answered(&server, &arguments).await;
    assert_eq!(run["ended"].as_array().unwrap().len(), 2, "{run}");
    for blob in &blobs[..2] {
        let held = depot.head(&digest_of(blob)).await.unwrap();
        assert_eq!(held.class.as_str(), "GLACIER_IR");
    }
    let again = answered(&server, &arguments).await;
    assert_eq!(again["moves"], 0, "{again}");
}

#[tokio::test]
async fn one_moves_at_a_time() {
    let server = Server::moto();
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = configured(&server, folder.path(), "");
    arguments.apply = true;
    let settings = SharedSettings::read(&arguments.shared.config).unwrap();
    let tasks = TaskTree::root("test", SystemClock::shared());
    let other = server.shared(&settings, &tasks).await;
    other.leases.claim(&Duty::Tiering).await.unwrap();
    let mut own = server.shared(&settings, &tasks).await;
    own.leases = std::sync::Arc::new(orlop_cache::fleet::NoteLeases::new(
        std::sync::Arc::clone(&own.depot) as _,
        SystemClock::shared(),
        "another".to_owned(),
        None,
        std::time::Duration::from_secs(10),
    ));
    let refused = answer_with(&arguments, &settings, &own, &tasks).await;
    let Err(error) = refused else {
        panic!("two move at once");
    };
    assert!(error.report().contains("ORL-E9339"), "{}", error.report());
}

#[tokio::test]
async fn images_and_pulls_are_those_of_the_folder() {
    let server = Server::moto();
    let folder = tempfile::tempdir().unwrap();
    let layers = [blob(4), blob(5)];
    stocked(&server, &layers).await;
    remember(folder.path(), &layers);
    let settings = SharedSettings::default();
    let tasks = TaskTree::root("test", SystemClock::shared());
    let shared = server.shared(&settings, &tasks).await;
    let seen = view::look(&shared, folder.path(), None).await.unwrap();
    let names: Vec<&str> = seen.images.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["docker.io/library/a:1"]);
    assert_eq!(seen.images[0].blobs.len(), 2);
    let pulled = &seen.blobs[&digest_of(&layers[0])];
    assert_eq!((pulled.pulls_7d, pulled.pulls_30d), (3, 3));
    let unpulled = &seen.blobs[&digest_of(&layers[1])];
    assert_eq!(unpulled.pulls_30d, 0);
}

/// An image of these layers in a cache's folder, whose first layer was pulled three times.
fn remember(root: &Path, layers: &[Vec<u8>]) {
    use orlop_cache::ledger::{Kind, Ledger, Options, Outcome, Record, Source};
    use orlop_cache::store::{self, Child, Store};

    let locator = "docker.io/library/a";
    let manifest = b"{}".to_vec();
    let store = Store::open(root, store::Options::default(), SystemClock::shared()).unwrap();
    let children: Vec<Child> = layers
        .iter()
        .map(|layer| Child {
            digest: digest_of(layer),
            size: layer.len() as u64,
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        })
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let digest = digest_of(&manifest);
    store
        .put_manifest(locator, &digest, kind, &manifest, &children)
        .unwrap();
    store.set_tag(locator, "1", &digest, Some(kind)).unwrap();
    let ledger = Ledger::start(root, Options::default(), SystemClock::shared()).unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test's moment")]
    let now = SystemTime::now();
    for _ in 0..3 {
        ledger.sender().record(Record {
            at: now,
            client: "10.0.0.1".to_owned(),
            locator: locator.to_owned(),
            kind: Kind::Blob,
            reference: None,
            digest: Some(digest_of(&layers[0])),
            bytes: layers[0].len() as u64,
            source: Source::Depot,
            outcome: Outcome::Served,
            took: std::time::Duration::ZERO,
        });
    }
    ledger.flush();
}
