//! The store's behaviour towards its callers, on a real file system.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use orlop_content::{
    AdoptMethod, ContentError, ErrorKind, Expected, Hasher, Ingest, Options, Outcome, Store,
    WriteProblem,
};
use orlop_sys::fs::{Dir, Name};
use orlop_types::{Algorithm, Digest, IngestRef};

fn scratch() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn reference(text: &str) -> IngestRef {
    IngestRef::new(text).unwrap()
}

fn bytes(length: u32) -> Vec<u8> {
    (0..length)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn sha256(bytes: &[u8]) -> Digest {
    digest_of(Algorithm::Sha256, bytes)
}

fn expected(bytes: &[u8]) -> Expected {
    Expected::exactly(bytes.len() as u64, sha256(bytes))
}

fn begin(store: &Store, text: &str, bytes: &[u8]) -> Ingest {
    store.ingest(&reference(text), expected(bytes)).unwrap()
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    let ingest = begin(store, "put", bytes);
    ingest.append(bytes).unwrap();
    ingest.commit(Expected::default()).unwrap().digest
}

fn content_error(error: std::io::Error) -> ContentError {
    *error.into_inner().unwrap().downcast().unwrap()
}

fn ingest_folders(root: &Path) -> usize {
    root.join("ingest").read_dir().unwrap().count()
}

#[test]
fn ranges_written_by_many_threads_become_one_blob() {
    let (_folder, store) = scratch();
    let all = bytes(1_000_003);
    let ingest = begin(&store, "layer", &all);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (ingest, all) = (&ingest, &all);
            scope.spawn(move || {
                // Every thread has each fourth chunk, and starts from the end.
                for (index, chunk) in all.chunks(7001).enumerate().rev() {
                    if index % 4 == part {
                        ingest.write_at(index as u64 * 7001, chunk).unwrap();
                    }
                }
            });
        }
    });
    let committed = ingest.commit(Expected::default()).unwrap();
    assert_eq!(committed.outcome, Outcome::Created);
    let mut read = Vec::new();
    let mut blob = store.blob(&committed.digest).unwrap();
    blob.read_to_end(&mut read).unwrap();
    assert_eq!(read, all);
    blob.seek(SeekFrom::Start(1_000_000)).unwrap();
    assert_eq!(blob.read(&mut [0; 10]).unwrap(), 3);
    let mut piece = [0; 4];
    assert_eq!(blob.read_at(&mut piece, 500).unwrap(), 4);
    assert_eq!(piece, all[500..504]);
    assert_eq!(
        store.verify(&committed.digest).unwrap().size_bytes,
        1_000_003
    );
}

#[test]
fn the_second_commit_of_a_blob_is_told_apart_and_costs_nothing() {
    let (folder, store) = scratch();
    let all = bytes(5000);
    put(&store, &all);
    let again = begin(&store, "again", &all);
    again.append(&all).unwrap();
    let committed = again.commit(Expected::default()).unwrap();
    assert_eq!(committed.outcome, Outcome::AlreadyExists);
    assert_eq!(committed.digest, sha256(&all));
    assert_eq!(ingest_folders(folder.path()), 0);
}

#[test]
fn an_empty_blob_is_a_blob() {
    let (_folder, store) = scratch();
    let digest = put(&store, &[]);
    assert_eq!(store.stat(&digest).unwrap().size_bytes, 0);
}

#[test]
fn sha512_is_followed_and_may_be_learnt_late() {
    let (_folder, store) = scratch();
    let all = bytes(300_000);
    let wanted = digest_of(Algorithm::Sha512, &all);
    let late = store
        .ingest(&reference("late"), Expected::default())
        .unwrap();
    late.append(&all).unwrap();
    let committed = late.commit(Expected::exactly(300_000, wanted)).unwrap();
    assert_eq!(
        (committed.digest, committed.outcome),
        (wanted, Outcome::Created)
    );
    let early = store
        .ingest(&reference("early"), Expected::exactly(300_000, wanted))
        .unwrap();
    early.append(&all).unwrap();
    assert_eq!(
        early.commit(Expected::default()).unwrap().outcome,
        Outcome::AlreadyExists
    );
}

#[test]
fn a_closed_ingest_resumes_where_it_stood_also_in_another_process_life() {
    let folder = tempfile::tempdir().unwrap();
    let all = bytes(100_000);
    {
        let store = Store::open(folder.path()).unwrap();
        let ingest = begin(&store, "layer", &all);
        ingest.write_at(0, &all[..30_000]).unwrap();
        ingest.write_at(60_000, &all[60_000..70_000]).unwrap();
        ingest.close().unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    let status = store.status(&reference("layer")).unwrap();
    assert_eq!(
        (status.contiguous_bytes, status.present_bytes),
        (30_000, 40_000)
    );
    assert_eq!(status.expected, expected(&all));
    assert!(!status.is_open);
    let ingest = store
        .ingest(&reference("layer"), Expected::default())
        .unwrap();
    assert_eq!(ingest.missing(), [30_000..60_000, 70_000..100_000]);
    for gap in ingest.missing() {
        let part = usize::try_from(gap.start).unwrap()..usize::try_from(gap.end).unwrap();
        ingest.write_at(gap.start, &all[part]).unwrap();
    }
    assert_eq!(
        ingest.commit(Expected::default()).unwrap().outcome,
        Outcome::Created
    );
}

#[test]
fn an_ingest_tells_the_digest_so_far_and_keeps_the_time_of_its_bytes_when_it_is_opened_again() {
    let (_folder, store) = scratch();
    let blob = bytes(10_000);
    let ingest = begin(&store, "half", &blob);
    assert_eq!(ingest.digest_so_far().unwrap(), sha256(b""));
    ingest.append(&blob[..4000]).unwrap();
    // What stands behind a gap does not count.
    ingest.write_at(6000, &blob[6000..7000]).unwrap();
    assert_eq!(ingest.digest_so_far().unwrap(), sha256(&blob[..4000]));
    let written_at = ingest.status().unwrap().updated_at;
    ingest.close().unwrap();

    let ingest = begin(&store, "half", &blob);
    assert_eq!(ingest.status().unwrap().updated_at, written_at);
    assert_eq!(ingest.digest_so_far().unwrap(), sha256(&blob[..4000]));
    ingest.truncate(100).unwrap();
    assert_eq!(ingest.digest_so_far().unwrap(), sha256(&blob[..100]));
    ingest.append(&blob[100..]).unwrap();
    let committed = ingest.commit(Expected::default()).unwrap();
    assert_eq!(committed.digest, sha256(&blob));
}

#[test]
fn a_second_writer_of_a_reference_is_refused_by_name_until_the_first_goes() {
    let (_folder, store) = scratch();
    let first = begin(&store, "layer-x", b"abc");
    let refused = store
        .ingest(&reference("layer-x"), Expected::default())
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.to_string().contains("layer-x"), "{refused}");
    let clone = first.clone();
    drop(first);
    assert!(
        store
            .ingest(&reference("layer-x"), Expected::default())
            .is_err()
    );
    drop(clone);
    store
        .ingest(&reference("layer-x"), Expected::default())
        .unwrap();
}

#[test]
fn wrong_bytes_are_discarded_and_say_what_they_were() {
    let (folder, store) = scratch();
    let (wanted, sent) = (bytes(9000), vec![0; 9000]);
    let ingest = begin(&store, "layer", &wanted);
    ingest.append(&sent).unwrap();
    let refused = ingest.commit(Expected::default()).unwrap_err();
    assert!(
        matches!(&refused, ContentError::DigestMismatch { expected, actual, .. }
            if **expected == sha256(&wanted) && **actual == sha256(&sent)),
        "{refused:?}"
    );
    assert_eq!(
        store.blob(&sha256(&wanted)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        store.blob(&sha256(&sent)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(ingest_folders(folder.path()), 0);
    assert_eq!(ingest.append(b"x").unwrap_err().kind(), ErrorKind::Ended);
    // The old handle still lives, and must not be in the way of a new writer.
    let retry = begin(&store, "layer", &wanted);
    drop(ingest);
    retry.append(&wanted).unwrap();
    retry.commit(Expected::default()).unwrap();
}

#[test]
fn too_few_bytes_may_still_come() {
    let (_folder, store) = scratch();
    let all = bytes(1000);
    let ingest = begin(&store, "layer", &all);
    ingest.append(&all[..600]).unwrap();
    ingest.write_at(700, &all[700..]).unwrap();
    let refused = ingest.commit(Expected::default()).unwrap_err();
    assert!(
        matches!(
            refused,
            ContentError::Incomplete {
                contiguous_bytes: 600,
                present_bytes: 900,
                expected_bytes: 1000,
                ..
            }
        ),
        "{refused:?}"
    );
    ingest.append(&all[600..700]).unwrap();
    ingest.commit(Expected::default()).unwrap();
}

#[test]
fn too_many_bytes_are_refused_at_once_or_discarded_when_the_size_is_learnt() {
    let (folder, store) = scratch();
    let ingest = begin(&store, "known", b"four");
    let refused = ingest.append(b"fives").unwrap_err();
    assert!(matches!(
        refused,
        ContentError::BadWrite {
            problem: WriteProblem::BeyondExpected { expected_bytes: 4 },
            ..
        }
    ));
    ingest.abort().unwrap();
    let ingest = store
        .ingest(&reference("unknown"), Expected::default())
        .unwrap();
    ingest.append(b"fives").unwrap();
    let refused = ingest.commit(expected(b"four")).unwrap_err();
    assert!(matches!(
        refused,
        ContentError::SizeMismatch {
            expected_bytes: 4,
            actual_bytes: 5,
            ..
        }
    ));
    assert_eq!(ingest_folders(folder.path()), 0);
}

#[test]
fn a_write_at_an_impossible_place_is_refused() {
    let (_folder, store) = scratch();
    let ingest = store
        .ingest(&reference("far"), Expected::default())
        .unwrap();
    for offset in [u64::MAX, i64::MAX as u64] {
        assert_eq!(
            ingest.write_at(offset, b"x").unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    let scattered = (0_u64..5000).try_for_each(|n| ingest.write_at(n * 2, b"x"));
    assert!(matches!(
        scattered,
        Err(ContentError::BadWrite {
            problem: WriteProblem::TooFragmented { .. },
            ..
        })
    ));
}

#[test]
fn a_byte_is_written_once_so_that_hash_and_file_agree() {
    let (_folder, store) = scratch();
    let all = bytes(200);
    let ingest = begin(&store, "layer", &all);
    ingest.write_at(100, &all[100..150]).unwrap();
    ingest.write_at(0, &all[..50]).unwrap();
    // The rewrite is wrong where bytes are present and right in the gap.
    let mut again = all[..160].to_vec();
    again[..50].fill(0);
    again[100..150].fill(0);
    ingest.write_at(0, &again).unwrap();
    ingest.write_at(160, &all[160..]).unwrap();
    let committed = ingest.commit(Expected::default()).unwrap();
    store.verify(&committed.digest).unwrap();
}

#[test]
fn a_truncated_ingest_forgets_hash_and_bytes() {
    let (_folder, store) = scratch();
    let all = bytes(50_000);
    let ingest = begin(&store, "layer", &all);
    ingest.append(&vec![1; 40_000]).unwrap();
    ingest.sync().unwrap();
    let mut reader = ingest.reader();
    reader.read_exact(&mut [0; 10]).unwrap();
    ingest.truncate(0).unwrap();
    assert!(matches!(
        content_error(reader.read(&mut [0; 10]).unwrap_err()),
        ContentError::IngestEnded { .. }
    ));
    assert_eq!(store.status(&reference("layer")).unwrap().present_bytes, 0);
    ingest.append(&all).unwrap();
    ingest.commit(Expected::default()).unwrap();
}

#[test]
fn a_truncation_is_not_forgotten_by_a_crash() {
    let (folder, store) = scratch();
    let ingest = store
        .ingest(&reference("layer"), Expected::default())
        .unwrap();
    ingest.append(&bytes(40_000)).unwrap();
    ingest.sync().unwrap();
    ingest.truncate(100).unwrap();
    // Beyond the cut, so that the file is as long as before.
    ingest.write_at(39_999, b"x").unwrap();
    let seen_by_a_crash = Store::open_read_only(folder.path()).unwrap();
    let status = seen_by_a_crash.status(&reference("layer")).unwrap();
    assert_eq!(status.present_bytes, 100);
}

#[test]
fn readers_follow_the_prefix_to_the_expected_end() {
    let (_folder, store) = scratch();
    let all = bytes(500_000);
    let ingest = begin(&store, "layer", &all);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = ingest.reader().with_wait_limit(Duration::from_secs(30));
                scope.spawn(move || {
                    let mut read = Vec::new();
                    reader.read_to_end(&mut read).map(|_| read)
                })
            })
            .collect();
        ingest.write_at(250_000, &all[250_000..]).unwrap();
        for (index, chunk) in all[..250_000].chunks(9973).enumerate() {
            ingest.write_at(index as u64 * 9973, chunk).unwrap();
        }
        for reader in readers {
            assert!(reader.join().unwrap().unwrap() == all);
        }
    });
}

#[test]
fn a_reader_without_an_expected_size_ends_with_the_commit() {
    let (_folder, store) = scratch();
    let ingest = store
        .ingest(&reference("stream"), Expected::default())
        .unwrap();
    let mut reader = ingest.reader().with_wait_limit(Duration::from_secs(30));
    let all = std::thread::scope(|scope| {
        let all = scope.spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        ingest.append(b"some").unwrap();
        ingest.append(b"thing").unwrap();
        ingest.commit(Expected::default()).unwrap();
        all.join().unwrap().unwrap()
    });
    assert_eq!(all, b"something");
}

#[test]
fn a_reader_never_takes_the_end_of_a_writer_for_the_end_of_the_bytes() {
    let (_folder, store) = scratch();
    type End = fn(Ingest);
    let ends: [(&str, End); 3] = [
        ("aborted", |ingest| ingest.abort().unwrap()),
        ("dropped", drop),
        ("wrong", |ingest| {
            let other = Expected::exactly(4, sha256(b"else"));
            ingest.commit(other).unwrap_err();
        }),
    ];
    for (name, end) in ends {
        let ingest = store.ingest(&reference(name), Expected::default()).unwrap();
        ingest.append(b"some").unwrap();
        let mut reader = ingest.reader().with_wait_limit(Duration::from_secs(30));
        reader.read_exact(&mut [0; 4]).unwrap();
        end(ingest);
        let error = content_error(reader.read(&mut [0; 4]).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Ended, "{name}: {error}");
    }
}

#[test]
fn a_reader_with_a_limit_does_not_wait_for_ever() {
    let (_folder, store) = scratch();
    let ingest = begin(&store, "stalled", b"abc");
    ingest.append(b"a").unwrap();
    let mut reader = ingest.reader().with_wait_limit(Duration::from_millis(20));
    reader.read_exact(&mut [0; 1]).unwrap();
    let error = reader.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(matches!(
        content_error(error),
        ContentError::Stalled {
            position_bytes: 1,
            ..
        }
    ));
}

#[test]
fn a_damaged_blob_is_found_and_a_truncated_one_is_healed_by_the_next_commit() {
    let (folder, store) = scratch();
    let all = bytes(10_000);
    let digest = put(&store, &all);
    let path = folder.path().join("blobs/sha256").join(digest.hex());
    let damage = |change: &dyn Fn(&std::fs::File)| {
        // By a new file: as root or not, the blob itself is read-only.
        std::fs::remove_file(&path).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(&all, 0).unwrap();
        change(&file);
    };
    damage(&|file| file.write_all_at(b"!", 5000).unwrap());
    let found = store.verify(&digest).unwrap_err();
    assert!(matches!(&found, ContentError::CorruptBlob { expected, .. } if **expected == digest));
    damage(&|file| file.set_len(9999).unwrap());
    assert_eq!(
        store.verify(&digest).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(put(&store, &all), digest);
    store.verify(&digest).unwrap();
}

#[test]
fn a_second_daemon_on_a_root_is_told_so_and_an_inspector_is_let_in() {
    let (folder, store) = scratch();
    let digest = put(&store, b"abc");
    let refused = Store::open(folder.path()).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.code()),
        (ErrorKind::Busy, "ORL-E1001")
    );
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(
        source.contains(&format!("process {}", std::process::id())),
        "{source}"
    );
    let inspector = Store::open_read_only(folder.path()).unwrap();
    inspector.verify(&digest).unwrap();
    for refused in [
        inspector.remove(&digest).unwrap_err(),
        inspector.abort(&reference("any")).unwrap_err(),
        inspector
            .ingest(&reference("any"), Expected::default())
            .unwrap_err(),
    ] {
        assert!(matches!(refused, ContentError::ReadOnly { .. }));
    }
    // An ingest keeps the lock, too.
    let ingest = begin(&store, "open", b"abc");
    drop(store);
    assert!(Store::open(folder.path()).is_err());
    drop(ingest);
    Store::open(folder.path()).unwrap();
}

#[test]
fn open_ingests_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        open_ingests_max: 2,
        ..Options::default()
    };
    let store = Store::open_with(folder.path(), options).unwrap();
    let _one = begin(&store, "1", b"");
    let two = begin(&store, "2", b"");
    let refused = store
        .ingest(&reference("3"), Expected::default())
        .unwrap_err();
    assert!(matches!(refused, ContentError::TooManyIngests { limit: 2 }));
    drop(two);
    begin(&store, "3", b"");
}

#[test]
fn damaged_records_cost_a_download_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let all = bytes(1000);
    let store = Store::open(folder.path()).unwrap();
    for name in ["ref", "extents"] {
        begin(&store, name, &all).append(&all[..500]).unwrap();
    }
    drop(store);
    for entry in folder.path().join("ingest").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let record = std::fs::read_to_string(path.join("ref")).unwrap();
        let damaged = if record.contains("\"extents\"") {
            "extents"
        } else {
            "ref"
        };
        let file = std::fs::File::create(path.join(damaged)).unwrap();
        file.write_all_at(b"{\"version\":9}", 0).unwrap();
    }
    std::fs::create_dir(folder.path().join("ingest/stranger")).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let left = store.statuses().unwrap();
    assert_eq!(left.len(), 1, "the one without a record is swept");
    assert_eq!(left[0].reference, reference("extents"));
    assert_eq!(left[0].present_bytes, 0, "damaged extents are not believed");
    assert_eq!(ingest_folders(folder.path()), 1);
}

#[test]
fn an_ingest_is_not_turned_into_another_blob() {
    let (_folder, store) = scratch();
    begin(&store, "layer", b"abc").append(b"ab").unwrap();
    let refused = store
        .ingest(&reference("layer"), expected(b"xyz"))
        .unwrap_err();
    assert!(matches!(refused, ContentError::ExpectationChanged { .. }));
    store.abort(&reference("layer")).unwrap();
    assert_eq!(
        store.abort(&reference("layer")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        begin(&store, "layer", b"xyz").missing().first(),
        Some(&(0..3))
    );
}

#[test]
fn an_open_ingest_is_aborted_under_its_writer() {
    let (folder, store) = scratch();
    let ingest = begin(&store, "layer", b"abc");
    ingest.append(b"a").unwrap();
    assert!(store.statuses().unwrap()[0].is_open);
    store.abort(&reference("layer")).unwrap();
    assert_eq!(ingest.append(b"b").unwrap_err().kind(), ErrorKind::Ended);
    assert_eq!(ingest_folders(folder.path()), 0);
}

#[test]
fn removing_gives_the_bytes_back_once() {
    let (_folder, store) = scratch();
    let digest = put(&store, &bytes(100_000));
    let before = store.usage().unwrap();
    let freed = store.remove(&digest).unwrap();
    assert!(freed >= 100_000, "{freed}");
    let after = store.usage().unwrap();
    assert_eq!(before.blobs.bytes - after.blobs.bytes, freed);
    assert_eq!(store.remove(&digest).unwrap(), 0);
    assert_eq!(store.stat(&digest).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_walk_finds_every_blob_and_names_strangers() {
    let (folder, store) = scratch();
    let mut put: Vec<Digest> = (0..5).map(|n| put(&store, &bytes(n * 100))).collect();
    std::fs::File::create(folder.path().join("blobs/sha512/stranger")).unwrap();
    std::fs::create_dir(folder.path().join("blobs/sha256").join("ab".repeat(32))).unwrap();
    let (found, strange): (Vec<_>, Vec<_>) = store.walk().unwrap().partition(Result::is_ok);
    let mut found: Vec<Digest> = found.into_iter().map(|blob| blob.unwrap().digest).collect();
    put.sort();
    found.sort();
    assert_eq!(found, put);
    assert_eq!(strange.len(), 2);
    assert!(
        strange
            .iter()
            .all(|error| matches!(error, Err(ContentError::Stray { .. })))
    );
}

#[test]
fn a_file_is_adopted_after_it_was_verified_and_its_source_stays() {
    let (folder, store) = scratch();
    let all = bytes(20_000);
    let source = Dir::open(folder.path()).unwrap();
    let name = Name::from_static("elsewhere");
    let path = folder.path().join("elsewhere");
    std::fs::File::create(&path)
        .unwrap()
        .write_all_at(&all, 0)
        .unwrap();
    for method in [AdoptMethod::HardLink, AdoptMethod::Copy] {
        let wrong = Expected::exactly(20_000, sha256(b"other"));
        let refused = store.adopt(&reference("adopt"), &source, &name, wrong, method);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
        let adopted = store.adopt(&reference("adopt"), &source, &name, expected(&all), method);
        assert_eq!(adopted.unwrap().outcome, Outcome::Created);
        store.verify(&sha256(&all)).unwrap();
        store.remove(&sha256(&all)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), all);
    }
    assert_eq!(ingest_folders(folder.path()), 0);
}

#[test]
fn resuming_an_interrupted_adoption_does_not_touch_the_file_of_others() {
    let (folder, store) = scratch();
    let all = bytes(20_000);
    let path = folder.path().join("elsewhere");
    std::fs::File::create(&path)
        .unwrap()
        .write_all_at(&all, 0)
        .unwrap();
    begin(&store, "adopt", &all).append(b"x").unwrap();
    let ingest = folder
        .path()
        .join("ingest")
        .read_dir()
        .unwrap()
        .next()
        .unwrap();
    let data = ingest.unwrap().path().join("data");
    std::fs::remove_file(&data).unwrap();
    std::fs::hard_link(&path, &data).unwrap();
    let resumed = begin(&store, "adopt", &all);
    assert_eq!(resumed.extents().present_bytes(), 0);
    resumed.append(&vec![0; 20_000]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), all);
}
