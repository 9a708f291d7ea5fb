//! What an engineer types first, through Debian's `ctr`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::server::Server;

/// The lines of a table without its head, each as its words.
pub(crate) fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn ctr_tells_version_and_plugins() {
    let server = Server::start();
    let version = server.ctr(&["version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let plugins = server.ctr(&["plugins", "ls"]);
    assert!(plugins.contains("overlayfs"), "{plugins}");
    assert!(plugins.contains("ok"), "{plugins}");
}

#[test]
fn ctr_keeps_namespaces() {
    let server = Server::start();
    server.ctr(&["namespaces", "create", "mine", "team=a"]);
    server.ctr(&["namespaces", "label", "mine", "tier=front"]);
    let listed = server.ctr(&["namespaces", "ls"]);
    let row = rows(&listed).concat();
    assert_eq!(row[0], "mine");
    assert!(
        row[1].contains("team=a") && row[1].contains("tier=front"),
        "{listed}"
    );
    server.ctr(&["namespaces", "rm", "mine"]);
    assert!(rows(&server.ctr(&["namespaces", "ls"])).is_empty());
}

#[test]
fn ctr_keeps_leases() {
    let server = Server::start();
    server.ctr(&["leases", "create", "--id", "mine", "why=test"]);
    let listed = server.ctr(&["leases", "ls"]);
    assert_eq!(rows(&listed)[0][0], "mine");
    assert!(listed.contains("why=test"), "{listed}");
    server.ctr(&["leases", "rm", "mine"]);
    assert!(rows(&server.ctr(&["leases", "ls"])).is_empty());
}

#[test]
fn ctr_ingests_lists_reads_labels_and_removes_content() {
    // Nothing holds what ctr ingests: the collection after the start would take it.
    let server = Server::start_without_collection();
    let path = server.folder().join("blob");
    // Several messages of a write, and several pieces of a read.
    let bytes = "0123456789abcde\n".repeat(100_000);
    std::fs::write(&path, &bytes).unwrap();
    let ingest = ["content", "ingest", "one"];
    let ingested = server.try_ctr(&ingest, Stdio::from(File::open(&path).unwrap()));
    assert!(ingested.status.success(), "{ingested:?}");
    let listed = server.ctr(&["content", "ls"]);
    let digest = rows(&listed)[0][0].to_owned();
    assert!(listed.contains("1.6MB"), "{listed}");
    assert_eq!(server.ctr(&["content", "get", &digest]), bytes);
    server.ctr(&["content", "label", &digest, "a=b"]);
    assert!(server.ctr(&["content", "ls"]).contains("a=b"));
    assert!(rows(&server.ctr(&["content", "active"])).is_empty());
    // Ingested once more, the bytes are there already, which ctr takes for success.
    let again = [
        "content",
        "ingest",
        "--expected-digest",
        &digest,
        "--expected-size",
        "1600000",
        "two",
    ];
    let again = server.try_ctr(&again, Stdio::from(File::open(&path).unwrap()));
    assert!(again.status.success(), "{again:?}");
    server.ctr(&["content", "rm", &digest]);
    assert!(rows(&server.ctr(&["content", "ls"])).is_empty());
}

#[test]
fn ctr_walks_a_snapshot_through_its_life() {
    let server = Server::start();
    server.ctr(&["snapshots", "prepare", "base-active"]);
    let mounts = server.ctr(&["snapshots", "mounts", "/target", "base-active"]);
    assert!(mounts.contains("/target"), "{mounts}");
    server.ctr(&["snapshots", "commit", "base", "base-active"]);
    server.ctr(&["snapshots", "prepare", "top", "base"]);
    server.ctr(&["snapshots", "view", "look", "base"]);
    let listed = server.ctr(&["snapshots", "ls"]);
    let mut kinds: Vec<(String, String)> = rows(&listed)
        .iter()
        .map(|row| (row[0].to_owned(), row.last().unwrap().to_string()))
        .collect();
    kinds.sort();
    let expected = [("base", "Committed"), ("look", "View"), ("top", "Active")];
    assert_eq!(
        kinds,
        expected.map(|(key, kind)| (key.to_owned(), kind.to_owned()))
    );
    let tree = server.ctr(&["snapshots", "tree"]);
    assert!(tree.contains("\\_ top"), "{tree}");
    assert_eq!(rows(&server.ctr(&["snapshots", "usage"])).len(), 3);
    let described = server.ctr(&["snapshots", "info", "top"]);
    assert!(described.contains("\"Parent\": \"base\""), "{described}");
    server.ctr(&["snapshots", "label", "top", "x=y"]);
    assert!(
        server
            .ctr(&["snapshots", "info", "top"])
            .contains("\"x\": \"y\"")
    );
    let refused = server.try_ctr(&["snapshots", "rm", "base"], Stdio::null());
    assert!(!refused.status.success(), "a parent was removed");
    server.ctr(&["snapshots", "rm", "top", "look"]);
    server.ctr(&["snapshots", "rm", "base"]);
    assert!(rows(&server.ctr(&["snapshots", "ls"])).is_empty());
}

#[test]
fn ctr_imports_an_archive_tags_and_removes_the_image() {
    let server = Server::start();
    let archive = archive(&server);
    server.ctr(&[
        "images",
        "import",
        "--no-unpack",
        "--base-name",
        "mine",
        &archive,
    ]);
    let listed = server.ctr(&["images", "ls"]);
    assert!(
        listed.contains("linux/amd64") || listed.contains("linux/arm64"),
        "{listed}"
    );
    // Index or manifest, configuration, layer.
    assert!(rows(&server.ctr(&["content", "ls"])).len() >= 3);
    server.ctr(&["images", "tag", "mine:latest", "other:1"]);
    server.ctr(&["images", "label", "other:1", "a=b"]);
    let quiet = server.ctr(&["images", "ls", "-q"]);
    assert_eq!(
        quiet.lines().collect::<Vec<_>>(),
        ["mine:latest", "other:1"]
    );
    server.ctr(&["images", "check"]);
    let exported = server.folder().join("out.tar").display().to_string();
    server.ctr(&["images", "export", &exported, "other:1"]);
    assert!(std::fs::metadata(&exported).unwrap().len() > 1000);
    server.ctr(&["images", "rm", "mine:latest", "other:1"]);
    assert_eq!(server.ctr(&["images", "ls", "-q"]), "");
}

#[test]
fn ctr_unpacks_an_imported_image_into_snapshots() {
    let server = Server::start();
    let archive = archive(&server);
    let imported = server.ctr(&["images", "import", "--base-name", "mine", &archive]);
    assert!(imported.contains("unpacking"), "{imported}");
    let listed = server.ctr(&["snapshots", "ls"]);
    let snapshots = rows(&listed);
    assert!(!snapshots.is_empty());
    for row in &snapshots {
        assert!(row[0].starts_with("sha256:"), "{listed}");
        assert_eq!(row.last(), Some(&"Committed"), "{listed}");
    }
    server.ctr(&["snapshots", "view", "look", snapshots[0][0]]);
    let mounts = server.ctr(&["snapshots", "mounts", "/target", "look"]);
    let folder = mounts
        .split_whitespace()
        .find_map(|word| word.strip_prefix('/'))
        .map(|path| format!("/{path}/hello"))
        .unwrap();
    let unpacked = std::fs::read_to_string(&folder).unwrap();
    assert_eq!(unpacked, "hello\n".repeat(256), "{mounts}");
}

/// An OCI archive with one layer, made by GNU tar and umoci.
pub(crate) fn archive(server: &Server) -> String {
    let folder = server.folder().display().to_string();
    std::fs::write(format!("{folder}/hello"), "hello\n".repeat(256)).unwrap();
    let (layout, layer) = (format!("{folder}/layout"), format!("{folder}/layer.tar"));
    let image = format!("{layout}:latest");
    for arguments in [
        vec!["umoci", "init", "--layout", &layout],
        vec!["umoci", "new", "--image", &image],
        vec!["tar", "-C", &folder, "-cf", &layer, "hello"],
        vec!["umoci", "raw", "add-layer", "--image", &image, &layer],
        vec!["tar", "-C", &layout, "-cf", &format!("{layout}.tar"), "."],
    ] {
        let output = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    format!("{layout}.tar")
}

#[test]
fn ctr_keeps_container_records() {
    let server = Server::start();
    let root = server.folder().join("rootfs").display().to_string();
    std::fs::create_dir(&root).unwrap();
    server.ctr(&[
        "containers",
        "create",
        "--label",
        "a=b",
        "--rootfs",
        &root,
        "web",
        "true",
    ]);
    let listed = server.ctr(&["containers", "ls"]);
    assert_eq!(rows(&listed)[0][0], "web");
    let described = server.ctr(&["containers", "info", "web"]);
    assert!(described.contains("\"ociVersion\""), "{described}");
    server.ctr(&["containers", "label", "web", "c=d"]);
    assert!(
        server
            .ctr(&["containers", "info", "web"])
            .contains("\"c\": \"d\"")
    );
    server.ctr(&["containers", "rm", "web"]);
    assert!(rows(&server.ctr(&["containers", "ls"])).is_empty());
}

#[test]
fn ctr_sees_events_as_they_happen() {
    let server = Server::start();
    let mut events = server.spawn_ctr(&["events"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    // The stream has begun once a first event comes through; until then there is nobody to see it.
    let mut number = 0;
    let seen = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap().unwrap());
        while !first.is_finished() {
            number += 1;
            server.ctr(&["namespaces", "create", &format!("n{number}")]);
        }
        first.join().unwrap()
    });
    server.ctr(&["leases", "create", "--id", "unseen"]);
    server.ctr(&["snapshots", "prepare", "seen"]);
    let snapshot = lines
        .map(Result::unwrap)
        .find(|line| !line.contains("/namespaces/create"))
        .unwrap();
    events.kill().unwrap();
    events.wait().unwrap();
    assert!(seen.contains("/namespaces/create"), "{seen}");
    // containerd has no lease events: its clients are not sent any.
    assert!(snapshot.contains("/snapshot/prepare"), "{snapshot}");
    assert!(snapshot.contains("\"key\":\"seen\""), "{snapshot}");
}
