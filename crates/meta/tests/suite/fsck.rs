//! What `fsck` finds, and what it mends.

#![allow(
    clippy::disallowed_methods,
    reason = "damage is made with plain file operations"
)]

use std::fs;
use std::path::Path;

use orlop_content::Expected;
use orlop_meta::fsck::{Check, Finding, FsckOptions, FsckSummary, Outcome};
use orlop_meta::{IngestOptions, Opened};
use orlop_snapshot::Kind;
use orlop_types::IngestRef;

use super::collect::World;
use super::common::key;

const ROOT: &str = "containerd.io/gc.root";

fn run(world: &World, options: &FsckOptions) -> (FsckSummary, Vec<Finding>) {
    let mut findings = Vec::new();
    let summary = world
        .fixture
        .db
        .fsck(options, &mut |finding| findings.push(finding.clone()))
        .unwrap();
    (summary, findings)
}

fn mend() -> FsckOptions {
    FsckOptions {
        repair: true,
        verify_content: true,
        at_start: true,
        ..FsckOptions::default()
    }
}

/// Finds exactly `expected`, mends it (or not), and after a sweep finds nothing more than what cannot be mended.
fn check(world: &World, expected: &[(Check, bool)]) {
    let look = FsckOptions {
        repair: false,
        ..mend()
    };
    let (summary, findings) = run(world, &look);
    let found: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    let wanted: Vec<_> = expected.iter().map(|(check, _)| *check).collect();
    assert_eq!(found, wanted, "{findings:?}");
    assert!(
        findings
            .iter()
            .all(|finding| finding.outcome == Outcome::Found)
    );
    assert_eq!(summary.is_clean(), expected.is_empty());
    let (_, findings) = run(world, &mend());
    let mended: Vec<_> = findings
        .iter()
        .map(|finding| {
            (
                finding.check,
                matches!(finding.outcome, Outcome::Repaired(_)),
            )
        })
        .collect();
    assert_eq!(mended, expected, "{findings:?}");
    world.collect();
    let (_, findings) = run(world, &look);
    let left: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    let stays: Vec<_> = expected
        .iter()
        .filter(|(_, mended)| !mended)
        .map(|(check, _)| *check)
        .collect();
    assert_eq!(left, stays, "{findings:?}");
}

fn sql(world: &World, statement: &str) {
    let connection = rusqlite::Connection::open(world.fixture.path()).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    connection.execute_batch(statement).unwrap();
}

/// A blob's file is read-only; damage needs a new one of the same name.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_healthy_node_has_no_findings() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    world.snapshot("s1", None, &[]);
    world.snapshot("s2", Some("s1"), &[]);
    world.container("c", "s2", &[]);
    check(&world, &[]);
    let (summary, _) = run(&world, &mend());
    assert_eq!(summary.checked, 4);
}

#[test]
fn a_record_without_its_file_is_removed_so_that_a_pull_fetches_it() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    fs::remove_file(world.file_of("a")).unwrap();
    check(&world, &[(Check::BlobMissing, true)]);
    world.blob("a", &[]);
}

#[test]
fn a_file_without_a_record_is_swept() {
    let world = World::new();
    world.blob("a", &[]);
    sql(&world, "DELETE FROM content; DELETE FROM nodes");
    check(&world, &[(Check::BlobUnknown, true)]);
    assert!(!world.file_of("a").exists());
}

#[test]
fn a_wrong_size_in_the_record_yields_to_right_bytes() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    sql(&world, "UPDATE content SET size = 999");
    check(&world, &[(Check::BlobSize, true)]);
    assert_eq!(
        world.view.content().info(&world.digest("a")).unwrap().size,
        1
    );
}

#[test]
fn bytes_that_are_not_the_digests_go_with_all_their_records() {
    let world = World::new();
    world.blob("abc", &[(ROOT, "x")]);
    world.blob_in(&world.fixture.view("other"), "abc", &[(ROOT, "x")]);
    overwrite(&world.file_of("abc"), b"abd");
    check(&world, &[(Check::BlobCorrupt, true)]);
    assert!(!world.file_of("abc").exists());
    assert!(world.view.content().info(&world.digest("abc")).is_err());
    assert_eq!(world.fixture.number("SELECT count(*) FROM content"), 0);
}

#[test]
fn strangers_among_the_blobs_are_told_and_left() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    fs::write(world.file_of("a").with_file_name("README"), b"hello").unwrap();
    check(&world, &[(Check::Stray, false)]);
}

#[test]
fn ingests_without_record_or_folder_are_mended() {
    let world = World::new();
    for name in ["one", "two"] {
        let reference = IngestRef::new(name).unwrap();
        let opened = world
            .view
            .content()
            .ingest(&reference, &IngestOptions::default());
        let Opened::Ingest(ingest) = opened.unwrap() else {
            panic!("nothing exists");
        };
        ingest.writer().unwrap().append(b"12345").unwrap();
    }
    check(&world, &[]);
    sql(
        &world,
        "DELETE FROM nodes WHERE id = (SELECT id FROM ingests WHERE number = 1); DELETE FROM ingests WHERE number = 1",
    );
    world
        .fixture
        .store
        .abort(&IngestRef::new("ingest-2").unwrap())
        .unwrap();
    check(
        &world,
        &[(Check::IngestUnknown, true), (Check::IngestMissing, true)],
    );
    assert!(world.fixture.store.statuses().unwrap().is_empty());
}

#[test]
fn a_shared_ingest_whose_blob_is_gone_begins_anew() {
    let world = World::new();
    let digest = world.blob_in(&world.fixture.view("other"), "abc", &[(ROOT, "x")]);
    let options = IngestOptions {
        expected: Expected::exactly(3, digest),
        media_type: None,
    };
    let reference = IngestRef::new("shared").unwrap();
    let opened = world.view.content().ingest(&reference, &options).unwrap();
    assert!(matches!(opened, Opened::Ingest(ingest) if ingest.is_shared()));
    check(&world, &[]);
    fs::remove_file(world.file_of("abc")).unwrap();
    check(
        &world,
        &[(Check::BlobMissing, true), (Check::IngestMissing, true)],
    );
}

#[test]
fn snapshots_without_record_or_folder_are_mended() {
    let world = World::new();
    for name in ["lost parent", "lost child", "unknown", "used"] {
        let parent = (name == "lost child").then_some("lost parent");
        world.snapshot(name, parent, &[(ROOT, "x")]);
    }
    world.container("c", "used", &[]);
    let snapshots = world.view.snapshots(&world.fixture.fake.name);
    for lost in ["lost parent", "lost child", "used"] {
        let number = snapshots.stat(&key(lost)).unwrap().number;
        world.fixture.fake.kept.lock().unwrap().remove(&number);
    }
    sql(
        &world,
        "DELETE FROM snapshots WHERE id = (SELECT id FROM nodes WHERE key = 'unknown'); DELETE FROM nodes WHERE key = 'unknown'",
    );
    check(
        &world,
        &[
            (Check::SnapshotUnknown, true),
            (Check::SnapshotMissing, true),
            (Check::SnapshotMissing, false),
            (Check::SnapshotMissing, true),
        ],
    );
}

#[test]
fn a_commit_cut_short_is_taken_back_at_the_start_only() {
    let world = World::new();
    let snapshots = world.view.snapshots(&world.fixture.fake.name);
    snapshots
        .prepare(&key("active"), &Default::default())
        .unwrap();
    let number = snapshots.stat(&key("active")).unwrap().number;
    world
        .fixture
        .fake
        .kept
        .lock()
        .unwrap()
        .insert(number, Kind::Committed);
    let (_, findings) = run(
        &world,
        &FsckOptions {
            at_start: false,
            ..mend()
        },
    );
    assert!(matches!(&findings[0].outcome, Outcome::Left(_)));
    check(&world, &[(Check::SnapshotHalfCommitted, true)]);
    assert!(world.fixture.fake.kept.lock().unwrap().is_empty());
}

#[test]
fn a_committed_record_whose_folder_is_not_is_told_and_left() {
    let world = World::new();
    world.snapshot("s", None, &[(ROOT, "x")]);
    let number = world
        .view
        .snapshots(&world.fixture.fake.name)
        .stat(&key("s"))
        .unwrap()
        .number;
    world
        .fixture
        .fake
        .kept
        .lock()
        .unwrap()
        .insert(number, Kind::Active);
    check(&world, &[(Check::SnapshotKind, false)]);
}

#[test]
fn the_queue_is_held_against_disk_and_records() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    let digest = world.digest("a");
    sql(
        &world,
        &format!(
            "INSERT INTO sweeps (kind, scope, key, bytes, queued_at, next_try_at) VALUES
        (1, '', '{digest}', 1, 0, 9223372036854775807), (2, '', '77', 1, 0, 9223372036854775807),
        (3, 'fake', '78', 1, 0, 9223372036854775807)"
        ),
    );
    check(
        &world,
        &[
            (Check::SweepNamed, true),
            (Check::SweepGone, true),
            (Check::SweepGone, true),
        ],
    );
    assert!(world.file_of("a").exists());
}

#[test]
fn a_snapshot_that_was_only_put_aside_is_left_to_its_snapshotter() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    sql(
        &world,
        "INSERT INTO sweeps (kind, scope, key, bytes, queued_at, next_try_at) VALUES (3, 'fake', '78', 1, 0, 0)",
    );
    run(&world, &mend());
    let connection = rusqlite::Connection::open(world.fixture.path()).unwrap();
    let queue = "SELECT group_concat(kind || scope || key) FROM sweeps";
    let left: String = connection.query_row(queue, [], |row| row.get(0)).unwrap();
    assert_eq!(left, "4fake");
}

#[test]
fn half_records_and_broken_references_are_mended() {
    let world = World::new();
    world.blob("a", &[(ROOT, "x")]);
    sql(&world, "INSERT INTO nodes (id, namespace, kind, scope, key, live) VALUES (500, 1, 5, '', 'half', 1), (501, 1, 1, '', 'unnamed', 0);
        INSERT INTO refs (source, target, owner, kind) VALUES (500, 999, 500, 4)");
    let (summary, findings) = run(&world, &FsckOptions::default());
    let found: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(
        found,
        [
            Check::HalfRecord,
            Check::BrokenReference,
            Check::UnnamedNode
        ]
    );
    assert!(!summary.is_clean());
    let (_, findings) = run(&world, &mend());
    assert!(
        findings
            .iter()
            .all(|finding| matches!(finding.outcome, Outcome::Repaired(_))),
        "{findings:?}"
    );
    check(&world, &[]);
}

#[test]
fn references_are_made_anew_from_labels_and_fields() {
    let world = World::new();
    world.blob("config", &[]);
    world.blob(
        "manifest",
        &[("containerd.io/gc.ref.content.config", "@config")],
    );
    world.blob("tied", &[("containerd.io/gc.bref.image", "img")]);
    world.image("img", "manifest", &[]);
    world.snapshot("s1", None, &[]);
    world.snapshot("s2", Some("s1"), &[]);
    world.container("c", "s2", &[]);
    // Of each kind one is lost, and one points to what no label names.
    sql(
        &world,
        "UPDATE refs SET target = (SELECT id FROM nodes WHERE key = 's1') WHERE kind = 2;
        DELETE FROM refs WHERE kind IN (1, 3)",
    );
    check(&world, &[(Check::References, true); 5]);
    world
        .fixture
        .clock
        .advance(std::time::Duration::from_secs(2 * 24 * 3600));
    world.collect();
    let kept = ["config", "img", "manifest", "s1", "s2", "tied"].map(String::from);
    assert_eq!(world.kept(), kept.into());
}

#[test]
fn snapshots_of_an_absent_snapshotter_are_told_and_left() {
    let world = World::new();
    world.snapshot("s", None, &[(ROOT, "x")]);
    sql(&world, "UPDATE nodes SET scope = 'zfs' WHERE kind = 2");
    world.fixture.fake.kept.lock().unwrap().clear();
    check(&world, &[(Check::SnapshotterMissing, false)]);
}

#[test]
fn a_folder_of_a_running_preparation_is_no_finding() {
    let world = World::new();
    world.snapshot("s", None, &[]);
    sql(&world, "UPDATE snapshots SET state = 0");
    let (summary, findings) = run(
        &world,
        &FsckOptions {
            at_start: false,
            ..mend()
        },
    );
    assert!(summary.is_clean(), "{findings:?}");
    // At the start nobody is preparing any more.
    check(&world, &[(Check::SnapshotPreparing, true)]);
    assert_eq!(world.fixture.fake.kept.lock().unwrap().keys().count(), 0);
}

#[test]
fn an_unclean_stop_is_noticed() {
    let world = World::new();
    let db = &world.fixture.db;
    assert!(db.begin_session().unwrap(), "a new database is clean");
    assert!(!db.begin_session().unwrap(), "the daemon before was killed");
    db.end_session().unwrap();
    assert!(db.begin_session().unwrap());
    let used = World::new();
    used.blob("a", &[]);
    assert!(
        !used.fixture.db.begin_session().unwrap(),
        "somebody was here and said nothing"
    );
}
