//! The program on a cache's folder, with and without a server on it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orlop_base::clock::{Clock, SystemClock};
use orlop_cache::ledger::{self, Kind, Ledger, Outcome, Record, Source};
use orlop_cache::store::{Adoption, Child, Options, Store};
use orlop_types::Digest;
use serde_json::Value;

const LOCATOR: &str = "registry.example.com/team/app";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// sha256 of `layer`, `config` and `manifest`.
const DIGESTS: [&str; 3] = [
    "sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85",
    "sha256:b79606fb3afea5bd1609ed40b622142f1c98125abcfe89a76a661b0e8e343910",
    "sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f",
];

/// An image in a cache: a layer, a config and the manifest that names both.
fn filled(root: &Path) -> Store {
    let store = Store::open(root, Options::default(), SystemClock::shared()).unwrap();
    let [layer, config, manifest] = DIGESTS.map(|text| text.parse::<Digest>().unwrap());
    for (bytes, digest) in [("layer", layer), ("config", config)] {
        let mut reader = bytes.as_bytes();
        let (size, link) = (bytes.len() as u64, (LOCATOR, Some(LAYER)));
        assert!(
            store
                .adopt(Adoption::Reader(&mut reader), &digest, size, link)
                .unwrap()
        );
    }
    let child = |digest, size| Child {
        digest,
        size,
        media_type: LAYER.to_owned(),
    };
    let children = [child(config, 6), child(layer, 5)];
    store
        .put_manifest(LOCATOR, &manifest, MANIFEST, b"manifest", &children)
        .unwrap();
    store
        .set_tag(LOCATOR, "latest", &manifest, Some(MANIFEST))
        .unwrap();
    store
}

#[allow(
    clippy::disallowed_methods,
    reason = "the program itself is the subject"
)]
fn run(root: &Path, arguments: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_orlop-cache"))
        .args(arguments)
        .env("ORLOP_CACHE_ROOT", root)
        .output()
        .unwrap()
}

fn text(root: &Path, arguments: &[&str]) -> String {
    let output = run(root, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(root: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o", "json"]].concat();
    serde_json::from_str(&text(root, &arguments)).unwrap()
}

fn refused(root: &Path, arguments: &[&str], code: &str) {
    let output = run(root, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains(code),
        "{arguments:?}: {error}"
    );
}

#[test]
fn what_is_kept_is_listed_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    drop(filled(root));
    let listed = text(root, &["ls"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(
        listed.contains(DIGESTS[0]) && listed.contains(LOCATOR),
        "{listed}"
    );
    let listed = json(root, &["ls", "--top", "1"]);
    assert_eq!(listed["blobs"].as_array().unwrap().len(), 1);
    let status = json(root, &["stat"]);
    assert_eq!(
        (&status["blobs"], &status["bytes"]),
        (&3.into(), &19.into())
    );
    assert!(text(root, &["stat"]).contains("19 B of 50.0 GiB"));
    let manifest = json(root, &["stat", &format!("{LOCATOR}:latest")]);
    assert_eq!(manifest["digest"], DIGESTS[2]);
    assert_eq!(manifest["children"][1]["digest"], DIGESTS[0]);
    let layer = text(root, &["stat", &DIGESTS[0][7..15]]);
    assert!(
        layer.contains(DIGESTS[2]) && layer.contains("Named by"),
        "{layer}"
    );
    refused(root, &["stat", "nothing/like:this"], "ORL-E9110");
    refused(&root.join("elsewhere"), &["ls"], "ORL-E9101");
}

#[test]
fn pins_keep_from_removal_until_they_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    drop(filled(root));
    let tag = format!("{LOCATOR}:latest");
    text(root, &["pin", &tag, "--reason", "a test"]);
    let pins = json(root, &["pin"]);
    assert_eq!(
        (&pins["pins"][0]["owner"], &pins["pins"][0]["reason"]),
        (&"cli".into(), &"a test".into())
    );
    refused(root, &["rm", DIGESTS[0]], "ORL-E9112");
    refused(root, &["unpin", DIGESTS[0]], "ORL-E9113");
    text(root, &["rm", "--force", DIGESTS[1]]);
    text(root, &["unpin", &tag]);
    assert_eq!(
        text(root, &["rm", DIGESTS[0], DIGESTS[2]]),
        "removed 2 blobs: 13 B\n"
    );
    assert_eq!(json(root, &["stat"])["blobs"], 0);
    refused(root, &["rm", DIGESTS[0]], "ORL-E9110");
}

#[test]
fn a_scrub_tells_what_is_damaged_and_sets_it_aside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    drop(filled(root));
    let blob = root.join("content/blobs/sha256").join(&DIGESTS[0][7..]);
    std::fs::remove_file(&blob).unwrap();
    std::fs::copy(
        root.join("content/blobs/sha256").join(&DIGESTS[1][7..]),
        &blob,
    )
    .unwrap();
    std::fs::File::options()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(5)
        .unwrap();
    let report = json(root, &["scrub", DIGESTS[0]]);
    assert_eq!(
        (&report["checked"], &report["damaged"][0]),
        (&1.into(), &DIGESTS[0].into())
    );
    assert_eq!(text(root, &["scrub"]), "checked 2 blobs: 14 B\n");
    let told = text(root, &["stat", DIGESTS[0]]);
    assert!(
        told.contains("Kept:") && told.contains("set aside"),
        "{told}"
    );
}

#[test]
fn a_server_that_runs_is_asked_and_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let store = filled(root);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                store.tick().unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let removed = text(root, &["rm", DIGESTS[0]]);
        let scrubbed = json(root, &["scrub"]);
        let pinned = text(root, &["pin", DIGESTS[1]]);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(removed, "removed one blob: 5 B\n");
        assert_eq!(
            (&scrubbed["asked"], &scrubbed["is_left_to_the_server"]),
            (&2.into(), &true.into())
        );
        assert_eq!(pinned, format!("pinned {}\n", DIGESTS[1]));
    });
    assert!(!store.holds(&DIGESTS[0].parse().unwrap()));
    store.tick().unwrap();
    assert!(store.is_pinned(&DIGESTS[1].parse().unwrap()));
}

#[test]
fn the_ledger_tells_what_was_pulled_most_and_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let clock = SystemClock;
    let ledger = Ledger::start(root, ledger::Options::default(), SystemClock::shared()).unwrap();
    let sender = ledger.sender();
    for (index, days_ago) in [(0, 8), (0, 0), (1, 8), (1, 8), (1, 8)] {
        sender.record(Record {
            at: clock.wall() - Duration::from_secs(days_ago * 86_400),
            client: "10.0.0.7".to_owned(),
            locator: LOCATOR.to_owned(),
            kind: Kind::Blob,
            reference: None,
            digest: Some(DIGESTS[index].parse().unwrap()),
            bytes: 1 << 20,
            source: Source::Disk,
            outcome: Outcome::Served,
            took: Duration::ZERO,
        });
    }
    drop(ledger);
    let week = json(root, &["top", "--window", "7d"]);
    assert_eq!(
        (&week["blobs"][0]["digest"], &week["blobs"][0]["pulls"]),
        (&DIGESTS[0].into(), &1.into())
    );
    let month = json(root, &["top", "--window", "30d", "--by", "bytes"]);
    assert_eq!(
        (&month["blobs"][0]["digest"], &month["blobs"][0]["pulls"]),
        (&DIGESTS[1].into(), &3.into())
    );
    assert_eq!(month["repositories"][0]["blob_pulls"], 5);
    let compared = json(root, &["compare"]);
    assert_eq!(
        (&compared["changed"][0]["change"], &compared["steady"]),
        (&"gone".into(), &1.into())
    );
    assert!(text(root, &["compare"]).contains("gone"));
    assert!(text(root, &["top"]).contains("1.0 MiB"));
}

#[test]
fn a_simulation_is_the_same_from_its_seed_and_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    let path = path.to_str().unwrap();
    let made = [
        "simulate",
        "--blobs",
        "300",
        "--requests",
        "3000",
        "--write",
        path,
    ];
    let made = json(folder.path(), &made);
    let read = json(folder.path(), &["simulate", "--trace", path]);
    assert_eq!(made, read);
    assert_eq!(made["caches"].as_array().unwrap().len(), 8);
    let one = json(
        folder.path(),
        &["simulate", "--trace", path, "--room", "1GiB"],
    );
    assert_eq!(one["caches"][3]["room_bytes"], 1 << 30);
    refused(
        folder.path(),
        &["simulate", "--trace", "/nonexistent"],
        "ORL-E9115",
    );
    assert!(
        !run(folder.path(), &["simulate", "--room", "0%"])
            .status
            .success()
    );
}
