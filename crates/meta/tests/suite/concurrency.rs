//! Many writers share commits, and readers see whole ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use orlop_meta::{ErrorKind, IngestOptions, Opened};
use orlop_types::{ImageName, IngestRef};

use crate::common::{Fixture, image, labels};

#[test]
fn writers_side_by_side_lose_nothing_and_events_have_no_holes() {
    let fixture = Fixture::new();
    thread::scope(|scope| {
        for writer in 0..8 {
            let view = fixture.view("n");
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("image-{writer}-{number}");
                    view.images().create(&image(&name, 1, &[])).unwrap();
                    // A failure in the same batch takes nothing of the others with it.
                    view.images().create(&image(&name, 1, &[])).unwrap_err();
                }
            });
        }
    });
    assert_eq!(fixture.view("n").images().list(&[]).unwrap().len(), 200);
    let page = fixture.db.events_since(0, 1000).unwrap();
    let sequences: Vec<i64> = page.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=200).collect::<Vec<_>>());
}

#[test]
fn of_several_that_create_one_name_exactly_one_succeeds() {
    let fixture = Fixture::new();
    let created: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let view = fixture.view("n");
                scope.spawn(move || match view.images().create(&image("a", 1, &[])) {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                        0
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(created, 1);
}

#[test]
fn a_reader_sees_an_image_and_its_event_or_neither() {
    let fixture = Fixture::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let view = fixture.view("n");
            for number in 0..50 {
                let name = format!("{number}");
                view.images().create(&image(&name, 1, &[])).unwrap();
                view.images()
                    .delete(&ImageName::new(&name).unwrap(), None)
                    .unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        let view = fixture.view("n");
        while !done.load(Ordering::SeqCst) {
            let before = fixture.db.last_event().unwrap();
            let count = view.images().list(&[]).unwrap().len();
            let after = fixture.db.last_event().unwrap();
            // An odd number of events means that one image is there.
            if before == after {
                assert_eq!(i64::try_from(count).unwrap(), after % 2);
            }
        }
    });
}

#[test]
fn one_blob_pulled_by_many_at_once_is_there_once() {
    let fixture = Fixture::new();
    let committed: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|number| {
                let view = fixture.view(["one", "two"][number % 2]);
                scope.spawn(move || {
                    let reference = IngestRef::new(format!("r{number}")).unwrap();
                    let options = IngestOptions::default();
                    let Opened::Ingest(ingest) =
                        view.content().ingest(&reference, &options).unwrap()
                    else {
                        panic!("nothing was expected, so nothing exists");
                    };
                    ingest.writer().unwrap().append(b"same bytes").unwrap();
                    usize::from(ingest.commit(options.expected, &labels(&[])).is_ok())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(committed, 2, "one row for each namespace");
    assert_eq!(fixture.number("SELECT count(*) FROM ingests"), 0);
    assert_eq!(fixture.store.walk().unwrap().count(), 1);
}
