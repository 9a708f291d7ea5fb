//! Schemas: old ones are backed up and migrated, new and foreign ones refused, and there is a way back.

use std::path::Path;
use std::sync::Arc;

use orlop_base::clock::{ManualClock, SharedClock};
use orlop_meta::{Backends, Db, Runtime, SCHEMA_VERSION, Sandbox, dry_run, migrate, rollback};
use orlop_types::{Namespace, SandboxId};
use rusqlite::Connection;

use crate::common::{container, image};

/// A database as version 1 wrote it: an image, a container, a lease, a blob; and a table nobody knows.
const VERSION_1: &str = include_str!("../fixtures/v1.sql");

fn clock() -> SharedClock {
    Arc::new(ManualClock::new())
}

fn version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
}

fn user_version(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

fn pod() -> Sandbox {
    let runtime = Runtime {
        name: "r".into(),
        options: None,
    };
    Sandbox::new(SandboxId::new("pod").unwrap(), runtime)
}

#[test]
fn version_1_is_backed_up_and_migrated_with_all_its_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    version_1(&path);
    let planned = dry_run(&path).unwrap();
    assert_eq!((planned.from, planned.to), (1, SCHEMA_VERSION));
    assert_eq!(planned.steps, ["2: sandboxes", "3: mounts made ahead"]);
    assert_eq!(planned.unknown, ["table plugin_of_somebody"]);
    assert_eq!(user_version(&path), 1, "a dry run changes nothing");

    let db = Db::open(&path, clock(), Backends::default()).unwrap();
    let view = db.namespace(&Namespace::new("k8s.io").unwrap());
    let images = view.images().list(&[]).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].name.as_str(), "docker.io/library/alpine:3");
    assert_eq!(view.containers().list(&[]).unwrap().len(), 1);
    assert_eq!(view.leases().list(&[]).unwrap().len(), 1);
    assert_eq!(view.content().list(&[]).unwrap().len(), 1);
    view.sandboxes().create(&pod()).unwrap();
    drop((view, db));
    assert_eq!(user_version(&path), SCHEMA_VERSION);

    let backup = folder.path().join("meta.db.v1-20260101T000000Z");
    assert_eq!(user_version(&backup), 1);
    let undone = rollback(&path, &backup, &clock()).unwrap();
    assert_eq!(user_version(&path), 1);
    assert_eq!(user_version(&undone), SCHEMA_VERSION, "nothing was deleted");
    let again = Db::open(&path, clock(), Backends::default()).unwrap();
    let view = again.namespace(&Namespace::new("k8s.io").unwrap());
    assert_eq!(view.images().list(&[]).unwrap(), images);
    assert_eq!(view.sandboxes().list(&[]).unwrap(), []);
}

#[test]
fn rows_that_nobody_here_knows_are_reported_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    version_1(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "INSERT INTO nodes (namespace, kind, scope, key) VALUES (1, 42, '', 'a'), (1, 42, '', 'b');
             INSERT INTO settings VALUES ('session', 'ended'), ('colour', 'blue');
             INSERT INTO sweeps (kind, scope, key, bytes, queued_at, next_try_at) VALUES (9, '', 'x', 1, 1, 1);",
        )
        .unwrap();
    drop(connection);
    let expected = [
        "table plugin_of_somebody",
        "2 rows of nodes with kind 42",
        "1 rows of sweeps with kind 9",
        "row \"colour\" of settings",
    ];
    assert_eq!(dry_run(&path).unwrap().unknown, expected);
    let report = migrate(&path, &clock()).unwrap();
    assert_eq!(report.unknown, expected);
    assert!(report.backup.is_some());
    assert_eq!(
        dry_run(&path).unwrap().unknown,
        expected,
        "left as they are"
    );
    assert_eq!(migrate(&path, &clock()).unwrap().backup, None);
}

#[test]
fn half_a_backup_of_a_killed_migration_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    version_1(&path);
    let half = folder.path().join("meta.db.v1-20250101T000000Z.partial");
    let whole = folder.path().join("meta.db.v1-20250101T000000Z");
    let journal = folder
        .path()
        .join("meta.db.v1-20250101T000000Z.partial-journal");
    for file in [&half, &whole, &journal] {
        std::fs::File::create(file).unwrap();
    }
    migrate(&path, &clock()).unwrap();
    assert!(!half.exists() && !journal.exists() && whole.exists());
}

#[test]
fn a_migrated_database_equals_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let schema = |name: &str, old: bool| -> Vec<String> {
        let path = folder.path().join(name);
        if old {
            version_1(&path);
        }
        drop(Db::open(&path, clock(), Backends::default()).unwrap());
        let connection = Connection::open(&path).unwrap();
        let mut select = connection
            .prepare("SELECT name || ': ' || coalesce(sql, '') FROM sqlite_schema WHERE name <> 'plugin_of_somebody' ORDER BY name")
            .unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(schema("old.db", true), schema("new.db", false));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    drop(Db::open(&path, clock(), Backends::default()).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    for error in [
        Db::open(&path, clock(), Backends::default()).unwrap_err(),
        Db::inspect(&path, clock()).unwrap_err(),
        dry_run(&path).unwrap_err(),
    ] {
        assert_eq!(error.code(), "ORL-E4006", "{error}");
        assert!(error.to_string().contains("version 99"), "{error}");
    }
    assert_eq!(user_version(&path), 99);
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign.db");
    let connection = Connection::open(&foreign).unwrap();
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(connection);
    let text = folder.path().join("text.db");
    #[allow(
        clippy::disallowed_methods,
        reason = "a test's file need not be atomic"
    )]
    std::fs::write(
        &text,
        "this is no database at all, but long enough to be looked at".repeat(99),
    )
    .unwrap();
    for path in [&foreign, &text] {
        let error = Db::open(path, clock(), Backends::default()).unwrap_err();
        assert_eq!(error.code(), "ORL-E4008", "{error}");
    }
    let damaged = rollback(&folder.path().join("meta.db"), &text, &clock()).unwrap_err();
    assert_eq!(damaged.code(), "ORL-E4008");
}

#[test]
fn a_second_daemon_is_refused_and_a_reader_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    let db = Db::open(&path, clock(), Backends::default()).unwrap();
    let view = db.namespace(&Namespace::new("n").unwrap());
    view.images().create(&image("a", 1, &[])).unwrap();
    let second = Db::open(&path, clock(), Backends::default()).unwrap_err();
    assert_eq!(second.code(), "ORL-E4005");
    let back = rollback(&path, &path, &clock()).unwrap_err();
    assert_eq!(back.code(), "ORL-E4005");

    let reader = Db::inspect(&path, clock()).unwrap();
    let seen = reader.namespace(&Namespace::new("n").unwrap());
    assert_eq!(seen.images().list(&[]).unwrap().len(), 1);
    view.images().create(&image("b", 1, &[])).unwrap();
    assert_eq!(seen.images().list(&[]).unwrap().len(), 2);
    let refused = seen.containers().create(&container("c")).unwrap_err();
    assert_eq!(refused.code(), "ORL-E4009");
}

#[test]
fn an_old_schema_is_not_read_without_migration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    version_1(&path);
    let error = Db::inspect(&path, clock()).unwrap_err();
    assert_eq!(error.code(), "ORL-E4007");
}
