//! What the store promises, case by case.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shelves;

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orlop_base::clock::Clock;
use orlop_base::telemetry::Metrics;
use orlop_cache::store::{
    Adoption, Child, ErrorKind, Inspection, Opening, Options, Removal, Scrub, Scrubbed, Store,
};
use orlop_content::AdoptMethod;
use orlop_types::Digest;
use shelves::{Bench, LAYER, LOCATOR, begun, bytes_of, digest_of};

const KIB: usize = 1024;
const DAY: Duration = Duration::from_secs(86_400);

fn read(bench: &Bench, digest: &Digest) -> Vec<u8> {
    let mut found = bench.store.find(digest).unwrap().unwrap();
    let mut bytes = Vec::new();
    found.blob.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_filled_is_found_with_its_media_type_also_after_reopening() {
    let bench = Bench::new(1 << 20);
    let digest = bench.keep(1, 10 * KIB);
    assert_eq!(read(&bench, &digest), bytes_of(1, 10 * KIB));
    let bench = bench.reopen(DAY);
    let found = bench.store.find(&digest).unwrap().unwrap();
    assert_eq!(found.media_type.as_deref(), Some(LAYER));
    assert_eq!(bench.store.size_of(&digest).unwrap(), Some(10 * KIB as u64));
    assert!(bench.store.is_linked(LOCATOR, &digest).unwrap());
    assert!(!bench.has(&digest_of(b"another")));
}

#[test]
fn nothing_is_found_before_its_commit_and_wrong_bytes_never() {
    let bench = Bench::new(1 << 20);
    let (bytes, digest) = (bytes_of(1, KIB), digest_of(&bytes_of(2, KIB)));
    let fill = begun(bench.store.fill(&digest, KIB as u64, LOCATOR).unwrap());
    fill.write_at(0, &bytes[..100]).unwrap();
    assert!(!bench.has(&digest));
    assert_eq!(fill.commit(None).unwrap_err().kind(), ErrorKind::Incomplete);
    fill.write_all(&bytes).unwrap();
    assert_eq!(fill.commit(None).unwrap_err().kind(), ErrorKind::WrongBytes);
    drop(fill);
    assert!(!bench.has(&digest));
    assert_eq!(
        (bench.bytes_on_disk(), bench.store.usage().total_bytes()),
        (0, 0)
    );
    assert_eq!(bench.count("SELECT count(*) FROM fills"), 0);
    bench.keep(2, KIB);
    assert!(bench.has(&digest), "a second try is free to succeed");
}

#[test]
fn one_at_a_time_fills_a_digest_and_what_is_kept_is_not_filled() {
    let bench = Bench::new(1 << 20);
    let digest = digest_of(&bytes_of(1, KIB));
    let fill = begun(bench.store.fill(&digest, KIB as u64, LOCATOR).unwrap());
    let second = bench.store.fill(&digest, KIB as u64, LOCATOR).unwrap();
    assert!(matches!(second, Opening::Busy), "{second:?}");
    fill.write_all(&bytes_of(1, KIB)).unwrap();
    fill.commit(None).unwrap();
    let third = bench.store.fill(&digest, KIB as u64, LOCATOR).unwrap();
    assert!(matches!(third, Opening::Present), "{third:?}");
}

#[test]
fn a_fill_that_was_left_goes_on_also_after_reopening() {
    let bench = Bench::new(1 << 20);
    let bytes = bytes_of(1, 20 * KIB);
    let digest = digest_of(&bytes);
    let fill = begun(
        bench
            .store
            .fill(&digest, bytes.len() as u64, LOCATOR)
            .unwrap(),
    );
    fill.write_at(0, &bytes[..5000]).unwrap();
    fill.write_at(9000, &bytes[9000..12_000]).unwrap();
    drop(fill);
    assert_eq!(
        bench.store.usage().parked_bytes,
        12_000,
        "the gap may be on disk, too"
    );
    let bench = bench.reopen(DAY);
    let [unfinished] = &bench.store.unfinished().unwrap()[..] else {
        panic!("one was left");
    };
    assert_eq!(
        (unfinished.digest, unfinished.size),
        (digest, bytes.len() as u64)
    );
    assert_eq!(unfinished.locator, LOCATOR);
    let fill = begun(
        bench
            .store
            .fill(&digest, bytes.len() as u64, LOCATOR)
            .unwrap(),
    );
    assert_eq!(fill.missing(), [5000..9000, 12_000..20 * KIB as u64]);
    fill.write_all(&bytes).unwrap();
    fill.commit(None).unwrap();
    assert_eq!(read(&bench, &digest), bytes);
    assert!(bench.store.unfinished().unwrap().is_empty());
    assert_eq!(bench.store.usage().parked_bytes, 0);
}

#[test]
fn a_reader_of_a_fill_has_the_bytes_as_they_come() {
    let bench = Bench::new(1 << 20);
    let bytes = bytes_of(1, 20 * KIB);
    let digest = digest_of(&bytes);
    let fill = begun(
        bench
            .store
            .fill(&digest, bytes.len() as u64, LOCATOR)
            .unwrap(),
    );
    let mut reader = fill.reader();
    let reading = std::thread::spawn(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        read
    });
    for (index, chunk) in bytes.chunks(999).enumerate() {
        fill.write_at(index as u64 * 999, chunk).unwrap();
    }
    fill.commit(None).unwrap();
    assert_eq!(reading.join().unwrap(), bytes);
}

#[test]
fn room_is_made_and_what_is_read_pinned_or_filled_stays() {
    let bench = Bench::with(Options {
        cap_bytes: 100 * KIB as u64,
        small_max_bytes: 0,
        ..Options::default()
    });
    let [read, pinned, plain] = [1, 2, 3].map(|number| bench.keep(number, 20 * KIB));
    let reading = bench.store.find(&read).unwrap().unwrap();
    bench.store.pin(&pinned, "test", "it is wanted").unwrap();
    let filled = digest_of(&bytes_of(4, 20 * KIB));
    let fill = begun(bench.store.fill(&filled, 20 * KIB as u64, LOCATOR).unwrap());
    bench.keep(5, 20 * KIB);
    assert!(!bench.store.holds(&plain), "it had to go");
    let large = digest_of(&bytes_of(6, 50 * KIB));
    let none = bench.store.fill(&large, 50 * KIB as u64, LOCATOR).unwrap();
    assert!(matches!(none, Opening::NoRoom { .. }), "{none:?}");
    assert!(bench.store.holds(&read) && bench.store.holds(&pinned));
    drop((reading, fill));
    assert!(bench.store.unpin(&pinned, "test").unwrap());
    bench.keep(6, 50 * KIB);
    assert!(bench.store.usage().total_bytes() <= 100 * KIB as u64);
    assert_eq!(bench.bytes_on_disk(), bench.store.usage().total_bytes());
}

#[test]
fn what_is_larger_than_the_room_drives_nothing_out() {
    let bench = Bench::new(100 * KIB as u64);
    let kept = bench.keep(1, 50 * KIB);
    let digest = digest_of(b"large");
    let none = bench
        .store
        .fill(&digest, 101 * KIB as u64, LOCATOR)
        .unwrap();
    let Opening::NoRoom { room_bytes } = none else {
        panic!("it was taken: {none:?}");
    };
    assert_eq!(
        room_bytes,
        100 * KIB as u64 / 100 * 90 + 100 * KIB as u64 % 100
    );
    assert!(bench.has(&kept));
}

#[test]
fn a_removed_blob_can_be_read_to_its_end_and_counts_until_then() {
    let bench = Bench::new(1 << 20);
    let digest = bench.keep(1, 20 * KIB);
    let mut found = bench.store.find(&digest).unwrap().unwrap();
    assert_eq!(bench.store.remove(&digest).unwrap(), Some(20 * KIB as u64));
    assert_eq!(bench.store.remove(&digest).unwrap(), None);
    assert!(!bench.has(&digest) && !bench.path_of(&digest).exists());
    assert_eq!(bench.store.usage().lingering_bytes, 20 * KIB as u64);
    bench.keep(1, 20 * KIB);
    let mut bytes = Vec::new();
    found.blob.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, bytes_of(1, 20 * KIB));
    drop(found);
    assert_eq!(
        bench.store.usage().total_bytes(),
        20 * KIB as u64,
        "the new one"
    );
    assert!(bench.has(&digest));
}

#[test]
fn what_is_not_used_goes_and_a_use_puts_it_off() {
    let bench = Bench::with(Options {
        ttl: Some(10 * DAY),
        ..Options::default()
    });
    let [used, unused, pinned] = [1, 2, 3].map(|number| bench.keep(number, KIB));
    bench.store.pin(&pinned, "test", "").unwrap();
    bench.clock.advance(8 * DAY);
    assert!(bench.has(&used));
    let bench = bench.reopen(4 * DAY);
    bench.store.tick().unwrap();
    assert!(bench.store.holds(&used) && bench.store.holds(&pinned));
    assert!(!bench.store.holds(&unused));
    assert!(!bench.path_of(&unused).exists());
    assert_eq!(bench.count("SELECT count(*) FROM blobs"), 2);
}

#[test]
fn a_clock_that_is_set_neither_ages_nor_spoils_what_is_kept() {
    let bench = Bench::with(Options {
        ttl: Some(10 * DAY),
        ..Options::default()
    });
    let digest = bench.keep(1, KIB);
    bench.store.tick().unwrap();
    let right = bench.clock.wall();
    for set in [
        right + 400 * DAY,
        right - 400 * DAY,
        SystemTime::UNIX_EPOCH,
        right,
    ] {
        bench.clock.set_wall(set);
        assert!(bench.has(&digest));
        bench.store.tick().unwrap();
        assert!(bench.store.holds(&digest), "set to {set:?}");
    }
    // Started with a clock of 1970, which is set right meanwhile.
    bench.clock.set_wall(SystemTime::UNIX_EPOCH + DAY);
    let bench = bench.reopen(Duration::ZERO);
    bench.store.tick().unwrap();
    assert!(bench.has(&digest));
    bench.clock.set_wall(right);
    bench.store.tick().unwrap();
    let bench = bench.reopen(DAY);
    bench.store.tick().unwrap();
    assert!(bench.store.holds(&digest));
}

#[test]
fn a_blob_stays_as_long_as_any_repository_has_it() {
    let bench = Bench::new(1 << 20);
    let [shared, own] = [1, 2].map(|number| bench.keep_in("a/one", number, KIB));
    let manifest = bytes_of(3, 500);
    let child = Child {
        digest: shared,
        size: KIB as u64,
        media_type: LAYER.to_owned(),
    };
    let parent = digest_of(&manifest);
    let kept = bench.store.put_manifest(
        "b/two",
        &parent,
        "m",
        &manifest,
        std::slice::from_ref(&child),
    );
    assert!(kept.unwrap());
    assert!(
        bench.store.is_linked("b/two", &shared).unwrap(),
        "the manifest names it"
    );
    assert!(!bench.store.is_linked("b/two", &own).unwrap());
    let gone = bench.store.unlink("a/one").unwrap();
    assert_eq!((gone.blobs, gone.bytes), (1, KIB as u64));
    assert!(bench.has(&shared) && !bench.has(&own));
    assert!(!bench.store.is_linked("a/one", &shared).unwrap());
    assert_eq!(bench.store.children(&parent).unwrap(), [child]);
    let gone = bench.store.unlink("b/two").unwrap();
    assert_eq!(gone.blobs, 2);
    assert_eq!(bench.bytes_on_disk(), 0);
}

#[test]
fn a_pinned_manifest_keeps_what_it_names_wherever_the_pin_comes_from() {
    let bench = Bench::with(Options {
        cap_bytes: 100 * KIB as u64,
        small_max_bytes: 0,
        ..Options::default()
    });
    let layer = bench.keep(1, 30 * KIB);
    let manifest = bytes_of(3, 500);
    let parent = digest_of(&manifest);
    let outside = Inspection::open_to_ask(bench.root(), Arc::new(bench.clock.clone())).unwrap();
    outside.pin(&parent, "person", "before it is here").unwrap();
    let child = Child {
        digest: layer,
        size: 30 * KIB as u64,
        media_type: LAYER.to_owned(),
    };
    bench
        .store
        .put_manifest(LOCATOR, &parent, "m", &manifest, &[child])
        .unwrap();
    // The pin was not looked at yet: it counts all the same.
    for number in 10..20 {
        bench.keep(number, 40 * KIB);
    }
    assert!(bench.has(&layer) && bench.has(&parent));
    assert!(bench.store.is_pinned(&layer));
    assert_eq!(outside.pins().unwrap().len(), 1);
    let bench = bench.reopen(DAY);
    bench.keep(30, 40 * KIB);
    assert!(bench.has(&layer));
    assert_eq!(outside.unpin(&parent, None).unwrap(), 1);
    bench.store.tick().unwrap();
    assert!(!bench.store.is_pinned(&layer));
    assert!(bench.store.usage().total_bytes() <= 100 * KIB as u64);
}

#[test]
fn a_lowered_cap_is_kept_from_the_opening_on() {
    let mut bench = Bench::with(Options {
        cap_bytes: 1 << 20,
        small_max_bytes: 0,
        ..Options::default()
    });
    for number in 0..10 {
        bench.keep(number, 50 * KIB);
    }
    bench.options.cap_bytes = 200 * KIB as u64;
    let bench = bench.reopen(DAY);
    assert!(bench.bytes_on_disk() <= 200 * KIB as u64);
    assert!(bench.store.usage().blobs >= 3);
    assert_eq!(
        bench.count("SELECT sum(size) FROM blobs"),
        i64::try_from(bench.bytes_on_disk()).unwrap()
    );
}

#[test]
fn rows_and_files_are_brought_together_at_opening() {
    let bench = Bench::new(1 << 20);
    let [adopted, dropped, shorter] = [1, 2, 3].map(|number| bench.keep(number, KIB));
    let (root, clock) = (bench.root().to_owned(), bench.clock.clone());
    let Bench { store, folder, .. } = bench;
    drop(store);
    let database = rusqlite::Connection::open(root.join("cache.db")).unwrap();
    database
        .execute("DELETE FROM blobs WHERE digest = ?1", [adopted.to_string()])
        .unwrap();
    drop(database);
    let blobs = root.join("content/blobs/sha256");
    std::fs::remove_file(blobs.join(dropped.hex())).unwrap();
    std::fs::remove_file(blobs.join(shorter.hex())).unwrap();
    std::fs::File::create(blobs.join(shorter.hex())).unwrap();
    let options = Options::default();
    let store = shelves::open(&root, &options, &clock);
    let bench = Bench {
        store,
        clock,
        options,
        folder,
    };
    assert!(bench.has(&adopted), "a file without a row is taken in");
    assert!(!bench.has(&dropped), "a row without a file is dropped");
    assert!(
        !bench.has(&shorter),
        "a file of another length is set aside"
    );
    assert_eq!(bench.count("SELECT count(*) FROM blobs"), 1);
    assert_eq!(bench.count("SELECT count(*) FROM aside"), 1);
    bench.keep(3, KIB);
    assert!(bench.has(&shorter), "and fetched anew");
}

#[test]
fn removals_and_settings_aside_that_a_crash_cut_off_are_finished() {
    let bench = Bench::new(1 << 20);
    let [removed, damaged] = [1, 2].map(|number| bench.keep(number, KIB));
    bench.damage(&damaged);
    let database = rusqlite::Connection::open(bench.root().join("cache.db")).unwrap();
    for digest in [removed, damaged] {
        database
            .execute("DELETE FROM blobs WHERE digest = ?1", [digest.to_string()])
            .unwrap();
    }
    database
        .execute(
            "INSERT INTO removals VALUES (?1, 'room', 1)",
            [removed.to_string()],
        )
        .unwrap();
    database
        .execute(
            "INSERT INTO aside VALUES (?1, 1024, 1, 'x')",
            [damaged.to_string()],
        )
        .unwrap();
    let bench = bench.reopen(DAY);
    assert!(!bench.has(&removed) && !bench.has(&damaged));
    assert!(!bench.path_of(&removed).exists() && !bench.path_of(&damaged).exists());
    assert_eq!(bench.store.usage().aside_bytes, KIB as u64);
    assert_eq!(bench.count("SELECT count(*) FROM removals"), 0);
}

#[test]
fn the_scrub_finds_damage_sets_it_aside_and_says_why() {
    let bench = Bench::new(1 << 20);
    let [sound, damaged] = [1, 2].map(|number| bench.keep(number, 20 * KIB));
    bench.damage(&damaged);
    bench.clock.advance(40 * DAY);
    let mut scrub = Scrub::new(&bench.store);
    let mut seen = Vec::new();
    loop {
        match scrub.step(7 * KIB as u64).unwrap() {
            Scrubbed::Nothing => break,
            Scrubbed::Read(bytes) => assert_eq!(bytes, 7 * KIB as u64),
            other @ (Scrubbed::Sound { .. } | Scrubbed::Damaged { .. }) => seen.push(other),
        }
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(bench.has(&sound) && !bench.has(&damaged));
    let outside = Inspection::open(bench.root(), Arc::new(bench.clock.clone())).unwrap();
    let (_, reason) = outside.blob(&damaged).unwrap().aside.unwrap();
    assert!(reason.contains("digest sha256:"), "{reason}");
    assert!(outside.blob(&sound).unwrap().checked.is_some());
    let metrics = Metrics::new();
    metrics.register(|registry| bench.store.register(registry));
    let text = metrics.text();
    for line in [
        "orlop_cache_damaged_blobs_total 1\n".to_owned(),
        format!("orlop_cache_scrubbed_bytes_total {}\n", 40 * KIB),
        format!("orlop_cache_held_bytes{{class=\"aside\"}} {}\n", 20 * KIB),
        "orlop_cache_evictions_total{reason=\"damaged\"} 1\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    bench.keep(2, 20 * KIB);
    assert!(bench.has(&damaged), "it was fetched anew");
    bench.clock.advance(8 * DAY);
    bench.store.tick().unwrap();
    assert_eq!(
        bench.store.usage().aside_bytes,
        0,
        "what was set aside goes in the end"
    );
    assert_eq!(bench.bytes_on_disk(), bench.store.usage().total_bytes());
}

#[test]
fn a_scrub_goes_on_where_it_was_and_checks_what_is_asked_for_first() {
    let bench = Bench::new(1 << 20);
    let digests = [1, 2, 3, 4].map(|number| bench.keep(number, KIB));
    bench.clock.advance(40 * DAY);
    let check = |store: &Store, most: usize| {
        let mut scrub = Scrub::new(store);
        let mut checked = Vec::new();
        while checked.len() < most
            && let Scrubbed::Sound { digest, .. } = scrub.step(u64::MAX).unwrap()
        {
            checked.push(digest);
        }
        checked
    };
    let mut checked = check(&bench.store, 2);
    let bench = bench.reopen(DAY);
    let outside = Inspection::open_to_ask(bench.root(), Arc::new(bench.clock.clone())).unwrap();
    outside.ask_check(Some(&checked[0])).unwrap();
    let later = check(&bench.store, 4);
    assert_eq!(later[0], checked[0], "it was asked for");
    checked.extend(&later[1..]);
    checked.sort();
    let mut all = digests.to_vec();
    all.sort();
    assert_eq!(checked, all);
}

#[test]
fn grants_are_of_a_credential_a_repository_and_a_time() {
    let bench = Bench::new(1 << 20);
    let (digest, other) = (digest_of(b"a"), digest_of(b"b"));
    let (mine, theirs) = ([1; 32], [2; 32]);
    let until = bench.clock.wall() + DAY;
    bench.store.grant(&mine, LOCATOR, &[digest], until).unwrap();
    let may = |who: &[u8; 32], locator: &str, digest: &Digest| {
        bench.store.is_granted(who, locator, digest).unwrap()
    };
    assert!(may(&mine, LOCATOR, &digest));
    assert!(!may(&theirs, LOCATOR, &digest));
    assert!(!may(&mine, "elsewhere/app", &digest));
    assert!(!may(&mine, LOCATOR, &other));
    let right = bench.clock.wall();
    bench.clock.set_wall(right - DAY);
    assert!(!may(&mine, LOCATOR, &digest), "a grant of the future");
    bench.clock.set_wall(right);
    bench.clock.advance(DAY);
    assert!(!may(&mine, LOCATOR, &digest), "its time is over");
    bench.store.tick().unwrap();
    assert_eq!(bench.count("SELECT count(*) FROM grants"), 0);
    bench
        .store
        .grant(&mine, LOCATOR, &[digest], bench.clock.wall() + DAY)
        .unwrap();
    bench.store.revoke(&mine).unwrap();
    assert!(!may(&mine, LOCATOR, &digest));
}

#[test]
fn tags_say_what_upstream_said_and_when() {
    let bench = Bench::new(1 << 20);
    let (first, second) = (digest_of(b"a"), digest_of(b"b"));
    assert_eq!(bench.store.tag(LOCATOR, "latest").unwrap(), None);
    bench
        .store
        .set_tag(LOCATOR, "latest", &first, Some("m"))
        .unwrap();
    bench.clock.advance(DAY);
    bench
        .store
        .set_tag(LOCATOR, "latest", &second, None)
        .unwrap();
    bench.store.set_tag(LOCATOR, "1.0", &first, None).unwrap();
    let bench = bench.reopen(DAY);
    let row = bench.store.tag(LOCATOR, "latest").unwrap().unwrap();
    assert_eq!((row.digest, row.media_type), (second, None));
    assert_eq!(row.checked + DAY, bench.clock.wall());
    assert_eq!(bench.store.tags(LOCATOR).unwrap(), ["1.0", "latest"]);
    bench.store.drop_tag(LOCATOR, "latest").unwrap();
    assert_eq!(bench.store.tag(LOCATOR, "latest").unwrap(), None);
    assert_eq!(bench.store.tag("elsewhere/app", "1.0").unwrap(), None);
}

#[test]
fn a_database_that_is_removed_or_damaged_stops_neither_hits_nor_fills_and_is_made_anew() {
    let bench = Bench::new(1 << 20);
    let before = bench.keep(1, KIB);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(bench.root().join(format!("cache.db{suffix}"))).unwrap();
    }
    let meanwhile = bench.keep(2, KIB);
    assert!(bench.has(&before) && bench.has(&meanwhile));
    bench.store.tick().unwrap();
    assert_eq!(
        bench.count("SELECT count(*) FROM blobs"),
        2,
        "rows are written anew"
    );
    let bench = bench.reopen(DAY);
    assert!(bench.has(&before) && bench.has(&meanwhile));

    let Bench {
        store,
        clock,
        options,
        folder,
    } = bench;
    drop(store);
    overwrite(&folder.path().join("cache.db"), &[7; 50_000]);
    let store = shelves::open(folder.path(), &options, &clock);
    let bench = Bench {
        store,
        clock,
        options,
        folder,
    };
    assert!(bench.has(&before) && bench.has(&meanwhile));
    bench.keep(3, KIB);
    let aside = std::fs::read_dir(bench.root()).unwrap();
    let names: Vec<_> = aside
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("cache.db.damaged-")),
        "{names:?}"
    );
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test damages a file on purpose"
)]
fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_store_on_the_same_folder_is_refused() {
    let bench = Bench::new(1 << 20);
    let clock = Arc::new(bench.clock.clone());
    let error = Store::open(bench.root(), Options::default(), clock).unwrap_err();
    assert!(error.is_in_use(), "{error}");
    assert_eq!(error.kind(), ErrorKind::Busy);
}

#[test]
fn what_is_on_this_machine_can_be_taken_over() {
    let bench = Bench::new(1 << 20);
    let bytes = bytes_of(1, 10 * KIB);
    let digest = digest_of(&bytes);
    let size = bytes.len() as u64;
    let link = (LOCATOR, Some(LAYER));
    let mut reader = Cursor::new(&bytes);
    let kept = bench
        .store
        .adopt(Adoption::Reader(&mut reader), &digest, size, link);
    assert!(kept.unwrap());
    let mut again = Cursor::new(&bytes);
    let kept = bench
        .store
        .adopt(Adoption::Reader(&mut again), &digest, size, ("b/two", None));
    assert!(!kept.unwrap(), "it is here already");
    assert!(
        bench.store.is_linked("b/two", &digest).unwrap(),
        "and linked"
    );

    let engine = tempfile::tempdir_in("/dev/shm").unwrap();
    let other = orlop_content::Store::open(engine.path()).unwrap();
    let layer = bytes_of(2, 10 * KIB);
    let reference = orlop_types::IngestRef::new("layer").unwrap();
    let ingest = other
        .ingest(&reference, orlop_content::Expected::default())
        .unwrap();
    ingest.write_at(0, &layer).unwrap();
    let layer = ingest
        .commit(orlop_content::Expected::default())
        .unwrap()
        .digest;
    let source = Adoption::Store(&other, AdoptMethod::HardLink);
    assert!(bench.store.adopt(source, &layer, size, link).unwrap());
    other.remove(&layer).unwrap();
    assert_eq!(read(&bench, &layer), bytes_of(2, 10 * KIB));

    let mut wrong = Cursor::new(bytes_of(3, 10 * KIB));
    let claimed = digest_of(b"another");
    let error = bench
        .store
        .adopt(Adoption::Reader(&mut wrong), &claimed, size, link)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongBytes);
    let missing = Adoption::Store(&other, AdoptMethod::Copy);
    assert!(bench.store.adopt(missing, &claimed, size, link).is_err());
    assert_eq!(bench.store.usage().total_bytes(), 2 * size);
    assert_eq!(bench.bytes_on_disk(), 2 * size);
}

#[test]
fn a_server_honours_what_the_command_line_asks_for() {
    let bench = Bench::new(1 << 20);
    let [digest, kept] = [1, 2].map(|number| bench.keep(number, KIB));
    bench
        .store
        .set_tag(LOCATOR, "latest", &digest, None)
        .unwrap();
    let outside = Inspection::open_to_ask(bench.root(), Arc::new(bench.clock.clone())).unwrap();
    assert_eq!(outside.meant(&digest.to_string()).unwrap(), [digest]);
    assert_eq!(outside.meant(&digest.hex()[..8]).unwrap(), [digest]);
    assert_eq!(
        outside.meant(&format!("{LOCATOR}:latest")).unwrap(),
        [digest]
    );
    assert!(outside.meant("nothing/at:all").unwrap().is_empty());
    outside.ask_removal(&digest).unwrap();
    assert_eq!(outside.removal(&digest).unwrap(), Removal::Waiting);
    bench.store.tick().unwrap();
    assert_eq!(outside.removal(&digest).unwrap(), Removal::Done);
    assert!(!bench.has(&digest) && bench.has(&kept));
    bench.store.flush().unwrap();
    let listed = outside.list(10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].digest, listed[0].uses), (kept, 2));
    assert_eq!(listed[0].repositories, [LOCATOR]);
    let status = outside.status().unwrap();
    assert_eq!(
        (status.blobs, status.bytes, status.cap_bytes),
        (1, KIB as u64, 1 << 20)
    );
}

#[test]
fn a_cache_without_a_folder_is_told_from_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let clock = orlop_base::clock::SystemClock::shared();
    let error = Inspection::open(folder.path(), clock).unwrap_err();
    assert_eq!(error.code(), "ORL-E9101");
    assert!(error.to_string().contains("cache.db"), "{error}");
}
