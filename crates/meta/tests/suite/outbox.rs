//! Events come with their changes, in order, and can be resumed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use orlop_meta::{EVENTS_MAX, Event};
use orlop_types::{ContainerId, ImageName, Namespace};

use crate::common::{Fixture, image};

fn oom(id: &str) -> Event {
    Event::TaskOom {
        container: ContainerId::new(id).unwrap(),
    }
}

#[test]
fn changes_bring_events_in_order_and_failed_changes_bring_none() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    view.images().create(&image("a", 1, &[])).unwrap();
    view.images().create(&image("a", 1, &[])).unwrap_err();
    view.images().update(&image("a", 2, &[]), &[]).unwrap();
    view.images()
        .delete(&ImageName::new("a").unwrap(), None)
        .unwrap();
    let page = fixture.db.events_since(0, 100).unwrap();
    let topics: Vec<&str> = page
        .events
        .iter()
        .map(|event| event.event.topic())
        .collect();
    assert_eq!(
        topics,
        ["/images/create", "/images/update", "/images/delete"]
    );
    let sequences: Vec<i64> = page.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!((page.missed, page.resume_after), (0, 3));
    assert_eq!(fixture.db.last_event().unwrap(), 3);
    let rest = fixture.db.events_since(2, 100).unwrap();
    assert_eq!(rest.events, page.events[2..]);
    assert_eq!(rest.events[0].namespace.as_str(), "n");
}

#[test]
fn a_reader_that_was_away_too_long_learns_how_much_it_missed() {
    let fixture = Fixture::new();
    let namespace = Namespace::new("n").unwrap();
    let extra = 600;
    for _ in 0..64 {
        fixture.db.publish(&namespace, &oom("a")).unwrap();
    }
    // Filling the outbox one fsync at a time would take minutes; the numbers are what matters.
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO outbox (at, namespace, topic, payload) SELECT at, namespace, topic, payload FROM n, outbox
        WHERE sequence = 1";
    connection.execute(sql, [EVENTS_MAX + extra]).unwrap();
    while fixture.db.publish(&namespace, &oom("b")).unwrap() % 256 != 0 {}
    let last = fixture.db.last_event().unwrap();
    let page = fixture.db.events_since(10, 1).unwrap();
    assert_eq!(page.missed, u64::try_from(last - EVENTS_MAX - 10).unwrap());
    assert_eq!(page.events[0].sequence, last - EVENTS_MAX + 1);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox"), EVENTS_MAX);
}

#[test]
fn a_watcher_is_woken_after_the_commit_until_it_lets_go() {
    let fixture = Fixture::new();
    let namespace = Namespace::new("n").unwrap();
    let seen = Arc::new(AtomicI64::new(0));
    let watch = fixture.db.watch({
        let seen = Arc::clone(&seen);
        move |committed| seen.store(committed.event.unwrap_or(-1), Ordering::SeqCst)
    });
    fixture.db.publish(&namespace, &oom("a")).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    drop(watch);
    fixture.db.publish(&namespace, &oom("a")).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
