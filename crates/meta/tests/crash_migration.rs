//! The crash suite of migrations: a process that migrates is killed; the database has its old schema or the new one, whole.
//!
//! The child is this test binary itself, told by a variable which database to migrate. A migration is over in
//! milliseconds, so the child says how far it is by what it leaves on disk, and the kills are spread over the time that
//! an undisturbed one takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use orlop_base::clock::SystemClock;
use orlop_meta::{Backends, Db, SCHEMA_VERSION, dry_run, migrate, rollback};
use orlop_types::Namespace;
use rusqlite::Connection;

const CHILD: &str = "ORLOP_META_MIGRATION";
const TEST: &str = "a_killed_migration_leaves_the_old_schema_or_the_new_one";

/// How often the child is killed; `ORLOP_CRASH_ROUNDS` asks for more.
const ROUNDS: u32 = 40;

/// Rows that make a backup take a while: some 8 MiB.
const EVENTS: i64 = 8_000;

const VERSION_1: &str = include_str!("fixtures/v1.sql");

#[test]
fn a_killed_migration_leaves_the_old_schema_or_the_new_one() {
    if let Some(path) = env::var_os(CHILD) {
        migrate(Path::new(&path), &SystemClock::shared()).unwrap();
        return;
    }
    let rounds = env::var("ORLOP_CRASH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.db");
    large_version_1(&original);
    let whole = undisturbed(folder.path(), &original);
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..rounds {
        let path = copy(folder.path(), &original);
        let mut child = start(&path);
        // A little longer than an undisturbed one: the last rounds find it done.
        thread::sleep(whole * 11 / 10 * round / rounds);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(9), "{status}");
        *ends.entry(check(&path, round)).or_default() += 1;
    }
    // Which moments are hit is the machine's affair, but not all of them can be the same.
    assert!(ends.len() > 1, "{ends:?} within {whole:?}");
    println!("{rounds} kills within {whole:?}: {ends:?}");
}

fn large_version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    // As the engine leaves its files.
    let wal = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], wal);
    assert_eq!(mode.unwrap(), "wal");
    connection.execute_batch(VERSION_1).unwrap();
    connection
        .execute(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?1)
            INSERT INTO outbox (at, namespace, topic, payload) SELECT x, 'k8s.io', '/x', hex(zeroblob(500)) FROM n",
            [EVENTS],
        )
        .unwrap();
}

/// How long a migration takes that nobody kills.
fn undisturbed(folder: &Path, original: &Path) -> Duration {
    let path = copy(folder, original);
    let begun = Instant::now();
    assert!(start(&path).wait().unwrap().success());
    begun.elapsed()
}

/// A folder of its own for each database: backups are beside it.
fn copy(folder: &Path, original: &Path) -> PathBuf {
    let own = folder.join("round");
    if own.exists() {
        for entry in std::fs::read_dir(&own).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    } else {
        std::fs::create_dir(&own).unwrap();
    }
    let path = own.join("meta.db");
    std::fs::copy(original, &path).unwrap();
    path
}

#[allow(
    clippy::disallowed_methods,
    reason = "the child is this very test, and needs its environment"
)]
fn start(path: &Path) -> Child {
    std::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Holds what the killed child left to the promise, and says how far it had come.
fn check(path: &Path, round: u32) -> &'static str {
    let found = dry_run(path).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
    let (backups, halves) = backups(path);
    let stage = match (found.from == SCHEMA_VERSION, backups.len()) {
        (false, 0) if halves == 0 => "nothing yet",
        (false, 0) => "half a backup",
        (false, _) => "backed up",
        (true, 1) => "migrated",
        (true, count) => panic!("round {round}: migrated with {count} backups"),
    };
    assert!(found.from == 1 || found.from == SCHEMA_VERSION, "{found:?}");
    // Whoever comes next completes it, and everything is there.
    let clock = SystemClock::shared();
    let db = Db::open(path, clock.clone(), Backends::default()).unwrap();
    assert_whole(&db, round);
    drop(db);
    let (backups, halves) = self::backups(path);
    assert!(!backups.is_empty(), "round {round}");
    assert_eq!(halves, 0, "round {round}: half a backup stays");
    for backup in &backups {
        rollback(path, backup, &clock).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(dry_run(path).unwrap().from, 1, "round {round}");
    }
    assert_whole(&Db::open(path, clock, Backends::default()).unwrap(), round);
    stage
}

fn assert_whole(db: &Db, round: u32) {
    let view = db.namespace(&Namespace::new("k8s.io").unwrap());
    assert_eq!(view.images().list(&[]).unwrap().len(), 1, "round {round}");
    assert_eq!(view.content().list(&[]).unwrap().len(), 1, "round {round}");
    assert_eq!(view.sandboxes().list(&[]).unwrap(), [], "round {round}");
    let connection = Connection::open(db.path()).unwrap();
    let text = |sql: &str| -> String { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(text("PRAGMA integrity_check"), "ok", "round {round}");
    let events = text("SELECT count(*) || '' FROM outbox WHERE topic = '/x'");
    assert_eq!(events, EVENTS.to_string(), "round {round}");
}

/// Whole backups beside the database, and how many halves.
fn backups(path: &Path) -> (Vec<PathBuf>, usize) {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let (halves, whole): (Vec<_>, Vec<_>) = files
        .filter(|file| {
            file.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("meta.db.v")
        })
        .partition(|file| file.to_string_lossy().contains(".partial"));
    (whole, halves.len())
}
