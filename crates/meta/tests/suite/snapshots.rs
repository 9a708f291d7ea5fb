//! Snapshots: rows before folders, one number for ever, and containerd's answers.

use orlop_meta::{CommitOptions, Db, ErrorKind, LeaseResource, SnapshotOptions, Snapshots, View};
use orlop_snapshot::{Kind, SnapshotNumber};
use orlop_types::SnapshotterName;

use crate::common::{Fixture, key, labels, texts};

fn fake(view: &View) -> Snapshots<'_> {
    view.snapshots(&SnapshotterName::new("fake").unwrap())
}

fn on(parent: &str) -> SnapshotOptions {
    SnapshotOptions {
        parent: Some(key(parent)),
        ..SnapshotOptions::default()
    }
}

fn none() -> SnapshotOptions {
    SnapshotOptions::default()
}

/// Makes the committed snapshot `name`, on `parent` if that is not empty.
fn layer(snapshots: &Snapshots<'_>, name: &str, parent: &str) {
    let options = if parent.is_empty() {
        none()
    } else {
        on(parent)
    };
    let active = key(&format!("extract {name}"));
    snapshots.prepare(&active, &options).unwrap();
    let commit = CommitOptions::default();
    snapshots.commit(&key(name), &active, &commit).unwrap();
}

#[test]
fn a_stack_is_built_mounted_and_taken_down_from_the_top() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    layer(&snapshots, "a", "");
    layer(&snapshots, "b", "a");
    snapshots.prepare(&key("rw"), &on("b")).unwrap();
    let mounts = snapshots.mounts(&key("rw")).unwrap();
    assert_eq!(
        mounts[0].source,
        "3 on [SnapshotNumber(2), SnapshotNumber(1)]"
    );
    snapshots.view(&key("ro"), &on("b")).unwrap();
    assert_eq!(snapshots.stat(&key("ro")).unwrap().kind, Kind::View);

    let below = snapshots.remove(&key("a")).unwrap_err();
    assert_eq!(below.kind(), ErrorKind::FailedPrecondition);
    for name in ["rw", "ro", "b", "a"] {
        snapshots.remove(&key(name)).unwrap();
    }
    assert_eq!(snapshots.list(&[]).unwrap(), []);
    assert_eq!(
        fixture.number("SELECT count(*) FROM sweeps WHERE kind = 3"),
        4
    );
    assert_eq!(fixture.number("SELECT count(*) FROM nodes"), 0);
}

#[test]
fn a_number_is_never_used_twice() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    for expected in 1..=3 {
        snapshots.prepare(&key("k"), &none()).unwrap();
        let number = snapshots.stat(&key("k")).unwrap().number;
        assert_eq!(number, SnapshotNumber::new(expected));
        snapshots.remove(&key("k")).unwrap();
    }
}

#[test]
fn a_committed_snapshot_keeps_its_number_and_usage_and_takes_the_labels_given() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    let options = SnapshotOptions {
        parent: None,
        labels: labels(&[("active", "1")]),
    };
    snapshots.prepare(&key("k"), &options).unwrap();
    let before = snapshots.stat(&key("k")).unwrap();
    let commit = CommitOptions {
        parent: None,
        labels: labels(&[("done", "1")]),
    };
    snapshots.commit(&key("name"), &key("k"), &commit).unwrap();
    let after = snapshots.stat(&key("name")).unwrap();
    assert_eq!((after.number, after.kind), (before.number, Kind::Committed));
    assert_eq!(after.labels, commit.labels);
    assert_eq!(snapshots.usage(&key("name")).unwrap().bytes, 4096);
    assert_eq!(
        snapshots.stat(&key("k")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn layers_unpacked_side_by_side_get_their_parents_when_committed() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    for name in ["x1", "x2"] {
        snapshots.prepare(&key(name), &none()).unwrap();
    }
    let commit = CommitOptions::default();
    snapshots.commit(&key("one"), &key("x1"), &commit).unwrap();
    let rebase = CommitOptions {
        parent: Some(key("one")),
        ..commit
    };
    snapshots.commit(&key("two"), &key("x2"), &rebase).unwrap();
    assert_eq!(
        snapshots.stat(&key("two")).unwrap().parent,
        Some(key("one"))
    );
    let held = snapshots.remove(&key("one")).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::FailedPrecondition);

    snapshots.prepare(&key("x3"), &on("one")).unwrap();
    let elsewhere = CommitOptions {
        parent: Some(key("two")),
        ..CommitOptions::default()
    };
    let refused = snapshots
        .commit(&key("three"), &key("x3"), &elsewhere)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn what_cannot_be_prepared_or_committed_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    layer(&snapshots, "a", "");
    snapshots.prepare(&key("rw"), &none()).unwrap();
    let commit = CommitOptions::default();
    for (result, expected) in [
        (
            snapshots.prepare(&key("x"), &on("absent")).map(drop),
            ErrorKind::NotFound,
        ),
        (
            snapshots.prepare(&key("x"), &on("rw")).map(drop),
            ErrorKind::FailedPrecondition,
        ),
        (
            snapshots.prepare(&key("rw"), &none()).map(drop),
            ErrorKind::AlreadyExists,
        ),
        (
            snapshots.commit(&key("a"), &key("rw"), &commit),
            ErrorKind::AlreadyExists,
        ),
        (
            snapshots.commit(&key("b"), &key("a"), &commit),
            ErrorKind::FailedPrecondition,
        ),
        (
            snapshots.commit(&key("b"), &key("absent"), &commit),
            ErrorKind::NotFound,
        ),
        (snapshots.remove(&key("absent")), ErrorKind::NotFound),
    ] {
        assert_eq!(result.unwrap_err().kind(), expected);
    }
    let other = view.snapshots(&SnapshotterName::new("zfs").unwrap());
    let error = other.prepare(&key("x"), &none()).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::InvalidArgument, "ORL-E4010")
    );
}

#[test]
fn a_backend_that_fails_leaves_no_row_and_a_queued_folder() {
    let fixture = Fixture::new();
    let view = fixture.leased("n", "l");
    let snapshots = fake(&view);
    *fixture.fake.fail_next.lock().unwrap() = true;
    let error = snapshots.prepare(&key("k"), &none()).unwrap_err();
    assert_eq!(error.code(), "ORL-E2001");
    assert_eq!(fixture.number("SELECT count(*) FROM snapshots"), 0);
    assert_eq!(
        fixture.number("SELECT count(*) FROM sweeps WHERE kind = 3 AND key = '1'"),
        1
    );
    snapshots.prepare(&key("k"), &none()).unwrap();
}

#[test]
fn an_interrupted_preparation_is_taken_back_at_the_next_start() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    fake(&view).prepare(&key("k"), &none()).unwrap();
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    connection
        .execute("UPDATE snapshots SET state = 0", [])
        .unwrap();
    drop(connection);
    assert_eq!(fake(&view).list(&[]).unwrap(), []);
    let (path, backends) = (fixture.path(), fixture.db.backends().clone());
    let clock = fixture.db.clock().clone();
    let Fixture {
        db,
        folder: _folder,
        ..
    } = fixture;
    drop((view, db));
    let db = Db::open(&path, clock, backends).unwrap();
    let view = db.namespace(&orlop_types::Namespace::new("n").unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let count = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM snapshots"), 0);
    assert_eq!(count("SELECT count(*) FROM sweeps WHERE kind = 3"), 1);
    fake(&view).prepare(&key("k"), &none()).unwrap();
}

#[test]
fn a_labelled_target_is_shared_between_namespaces_by_number() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.view("one"), fixture.leased("two", "l"));
    layer(&fake(&one), "chain-a", "");
    layer(&fake(&one), "chain-b", "chain-a");
    let extract = |parent: &str, target: &str| SnapshotOptions {
        parent: (!parent.is_empty()).then(|| key(parent)),
        labels: labels(&[("containerd.io/snapshot.ref", target)]),
    };
    let snapshots = fake(&two);
    for (parent, target) in [("", "chain-a"), ("chain-a", "chain-b")] {
        let shared = snapshots
            .prepare(&key("extract"), &extract(parent, target))
            .unwrap_err();
        assert_eq!(shared.kind(), ErrorKind::AlreadyExists);
    }
    let number = |view: &View, name: &str| fake(view).stat(&key(name)).unwrap().number;
    assert_eq!(number(&one, "chain-b"), number(&two, "chain-b"));
    let held = two.leases().resources(two.lease().unwrap()).unwrap();
    let name = SnapshotterName::new("fake").unwrap();
    let expected = ["chain-a", "chain-b"].map(|k| LeaseResource::Snapshot(name.clone(), key(k)));
    assert_eq!(held, expected);

    // The folder goes with the last of its rows.
    fake(&one).remove(&key("chain-b")).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 0);
    snapshots.remove(&key("chain-b")).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 1);

    // The same name on other parents is another snapshot.
    layer(&fake(&one), "chain-c", "");
    snapshots
        .prepare(&key("extract"), &extract("chain-a", "chain-c"))
        .unwrap();
}

#[test]
fn a_snapshot_is_held_from_its_first_moment() {
    let fixture = Fixture::new();
    let leased = fixture.leased("n", "l");
    fake(&leased).prepare(&key("k"), &none()).unwrap();
    let commit = CommitOptions::default();
    fake(&leased)
        .commit(&key("name"), &key("k"), &commit)
        .unwrap();
    let held = leased.leases().resources(leased.lease().unwrap()).unwrap();
    let name = SnapshotterName::new("fake").unwrap();
    assert_eq!(held, [LeaseResource::Snapshot(name, key("name"))]);
    assert_eq!(
        fixture.number("SELECT root FROM nodes WHERE key = 'name'"),
        0
    );

    let unleased = fixture.view("n");
    fake(&unleased).prepare(&key("free"), &none()).unwrap();
    let sql = "SELECT root FROM nodes WHERE key = 'free' AND expires_at IS NOT NULL";
    assert_eq!(fixture.number(sql), 1);
    fake(&unleased)
        .update(&key("free"), &labels(&[("a", "1")]), &[])
        .unwrap();
    assert_eq!(fixture.number(sql), 1);
}

#[test]
fn snapshots_are_listed_by_filter() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let snapshots = fake(&view);
    layer(&snapshots, "a", "");
    layer(&snapshots, "b", "a");
    snapshots.prepare(&key("rw"), &on("b")).unwrap();
    let keys = |filter: &str| -> Vec<String> {
        let found = snapshots.list(&texts(&[filter])).unwrap();
        found
            .iter()
            .map(|snapshot| snapshot.key.to_string())
            .collect()
    };
    assert_eq!(keys(""), ["a", "b", "rw"]);
    assert_eq!(keys("kind==committed"), ["a", "b"]);
    assert_eq!(keys("parent==a"), ["b"]);
    assert_eq!(keys("kind==active,name~=^r"), ["rw"]);
}
