//! S3 against real servers.

mod moves;
mod server;

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;
use orlop_base::clock::{Clock as _, SystemClock};
use orlop_base::units::ByteSize;
use orlop_cache::depot::{Body, Depot, DepotErrorKind, Held, Operation, Readable, Restore, Source};
use orlop_cache::fleet::{Expected, Notes};
use orlop_cache::tier::{ClassName, Prices};
use orlop_types::Digest;

pub(crate) use self::server::Server;
use super::S3;

/// Bytes that are put in three parts.
const LARGE: usize = 11 << 20;

fn blob(length: usize, seed: u64) -> (Vec<u8>, Digest) {
    let mut state = seed;
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    let digest = orlop_testkit::depot::digest_of(&bytes);
    (bytes, digest)
}

fn source(bytes: &[u8]) -> Source {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let bytes = bytes.len() as u64;
    Source { file, bytes }
}

fn class(name: &str) -> ClassName {
    ClassName::new(name)
}

async fn bytes_of(body: Body) -> Vec<u8> {
    let chunks: Vec<_> = body.chunks.try_collect().await.unwrap();
    chunks.concat()
}

async fn kind_of_get(depot: &S3, digest: &Digest) -> DepotErrorKind {
    depot.get(digest, None).await.unwrap_err().kind
}

/// What every depot does, whatever is behind it.
async fn keeps_the_contract(depot: &dyn Depot) {
    let standard = class("STANDARD");
    let (small, small_digest) = blob(1000, 1);
    let (large, large_digest) = blob(LARGE, 2);
    let absent = depot.head(&small_digest).await.unwrap_err();
    assert_eq!(absent.kind, DepotErrorKind::Absent, "{absent:?}");
    let absent = depot.get(&small_digest, None).await.unwrap_err();
    assert_eq!(absent.kind, DepotErrorKind::Absent, "{absent:?}");

    for (bytes, digest) in [(&small, &small_digest), (&large, &large_digest)] {
        let put = depot.put(digest, source(bytes), &standard).await;
        put.unwrap();
        let again = depot.put(digest, source(bytes), &standard).await;
        assert_eq!(again.unwrap_err().kind, DepotErrorKind::Exists);
        let held = depot.head(digest).await.unwrap();
        assert_eq!(held.bytes, bytes.len() as u64);
        assert_eq!((&held.class, held.readable), (&standard, Readable::Now));
        assert!(held.since > SystemClock.wall() - Duration::from_secs(3600));
        let body = depot.get(digest, None).await.unwrap();
        assert_eq!(body.bytes_total, bytes.len() as u64);
        assert!(bytes_of(body).await == *bytes);
    }

    let body = depot.get(&large_digest, Some(5..25)).await.unwrap();
    assert_eq!(
        (body.bytes_total, body.range.clone()),
        (LARGE as u64, 5..25)
    );
    assert_eq!(bytes_of(body).await, large[5..25]);
    let end = LARGE as u64;
    let body = depot.get(&large_digest, Some(end - 3..end + 9)).await;
    assert_eq!(bytes_of(body.unwrap()).await, large[LARGE - 3..]);

    let mut expected = [small_digest, large_digest];
    expected.sort();
    let page = depot.list(None).await.unwrap();
    let found: Vec<_> = page.objects.iter().map(|one| one.digest).collect();
    assert_eq!((found.as_slice(), page.next), (&expected[..], None));
    let rest = depot.list(Some(&expected[0])).await.unwrap();
    assert_eq!(rest.objects.len(), 1);
    assert_eq!(rest.objects[0].digest, expected[1]);

    for _ in 0..2 {
        depot.delete(&small_digest).await.unwrap();
    }
    let gone = depot.head(&small_digest).await.unwrap_err();
    assert_eq!(gone.kind, DepotErrorKind::Absent);
    let restored = depot.restore(&small_digest, &bulk()).await.unwrap_err();
    assert_eq!(restored.kind, DepotErrorKind::Absent);
}

fn bulk() -> Restore {
    Restore {
        days: 1,
        tier: "bulk".to_owned(),
    }
}

#[tokio::test]
async fn moto_keeps_the_contract() {
    let server = Server::moto();
    keeps_the_contract(&server.connect().await).await;
}

#[tokio::test]
async fn s3s_keeps_the_contract() {
    let server = Server::s3s();
    keeps_the_contract(&server.connect().await).await;
}

#[tokio::test]
async fn an_archived_object_is_read_after_its_restore_and_copied_for_good() {
    let server = Server::moto();
    server.restores_last(2);
    let depot = server.connect().await;
    let (bytes, digest) = blob(5000, 3);
    for archive in ["GLACIER", "DEEP_ARCHIVE"] {
        let (archive, standard) = (class(archive), class("STANDARD"));
        depot.put(&digest, source(&bytes), &archive).await.unwrap();
        let Held {
            class, readable, ..
        } = depot.head(&digest).await.unwrap();
        assert_eq!((&class, readable), (&archive, Readable::Archived));
        assert_eq!(kind_of_get(&depot, &digest).await, DepotErrorKind::Archived);
        let early = depot.copy(&digest, &standard).await.unwrap_err();
        assert_eq!(early.kind, DepotErrorKind::Archived);

        depot.restore(&digest, &bulk()).await.unwrap();
        depot.restore(&digest, &bulk()).await.unwrap();
        let mut looks = 0;
        while !depot.head(&digest).await.unwrap().readable.is_now() {
            looks += 1;
            assert!(looks < 10, "the restore does not end");
        }
        let restored = depot.get(&digest, None).await.unwrap();
        assert!(bytes_of(restored).await == bytes);
        depot.copy(&digest, &standard).await.unwrap();
        let held = depot.head(&digest).await.unwrap();
        assert_eq!((&held.class, held.readable), (&standard, Readable::Now));
        depot.delete(&digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_large_object_is_copied_in_parts() {
    let server = Server::moto();
    let mut settings = server.settings();
    settings.copy_size_max = ByteSize::mib(5);
    let depot = server.connect_with(&settings).await;
    let (bytes, digest) = blob(LARGE, 4);
    depot
        .put(&digest, source(&bytes), &class("STANDARD"))
        .await
        .unwrap();
    depot.copy(&digest, &class("GLACIER_IR")).await.unwrap();
    let held = depot.head(&digest).await.unwrap();
    assert_eq!(
        (held.bytes, held.class),
        (LARGE as u64, class("GLACIER_IR"))
    );
    let body = depot.get(&digest, None).await.unwrap();
    assert!(bytes_of(body).await == bytes);
    // Five requests each: begin, three parts, end.
    let charges = depot.tally().charges();
    for name in ["STANDARD", "GLACIER_IR"] {
        let writes = charges[&(class(name), Operation::Write)];
        assert_eq!(writes.requests, 5, "{name}");
    }
    let prices = Prices::default();
    #[allow(clippy::cast_precision_loss, reason = "a handful of requests")]
    let reads = |name| charges[&(class(name), Operation::Read)].requests as f64;
    #[allow(clippy::cast_precision_loss, reason = "some megabytes")]
    let gigabytes = LARGE as f64 / f64::from(1 << 30);
    let expected = 5.0 * 0.005 / 1000.0
        + 5.0 * 0.02 / 1000.0
        + reads("STANDARD") * 0.0004 / 1000.0
        + reads("GLACIER_IR") * 0.01 / 1000.0
        + 0.03 * gigabytes;
    let bill = depot.tally().dollars(&prices);
    assert!((bill - expected).abs() < 1e-12, "{bill} {expected}");
}

#[tokio::test]
async fn a_transfer_that_was_cut_short_is_given_up_and_one_under_way_is_not() {
    let server = Server::moto();
    let depot = server.connect().await;
    let (_, digest) = blob(10, 5);
    for _ in 0..2 {
        depot
            .client
            .create_multipart_upload()
            .bucket(&depot.bucket)
            .key(depot.key(&digest))
            .send()
            .await
            .unwrap();
    }
    // moto says that all of them began in 2010.
    let now = SystemClock.wall();
    assert_eq!(
        depot
            .abandon(&digest, SystemTime::UNIX_EPOCH)
            .await
            .unwrap(),
        0
    );
    assert_eq!(depot.abandon(&digest, now).await.unwrap(), 2);
    assert_eq!(depot.abandon(&digest, now).await.unwrap(), 0);
}

#[tokio::test]
async fn bytes_that_were_changed_on_the_way_are_told() {
    let server = Server::s3s();
    let depot = server.connect().await;
    let (bytes, _) = blob(1000, 6);
    let (_, other) = blob(1000, 7);
    // The digest is sent as the checksum: other bytes do not have it.
    let put = depot.put(&other, source(&bytes), &class("STANDARD")).await;
    assert_eq!(put.unwrap_err().kind, DepotErrorKind::Corrupt);
}

#[tokio::test]
async fn wrong_credentials_and_buckets_are_refused_and_a_store_that_is_gone_is_away() {
    let (_, digest) = blob(10, 8);
    let moto = Server::moto();
    let mut settings = moto.settings();
    settings.bucket = "another".to_owned();
    let depot = moto.connect_with(&settings).await;
    assert_eq!(kind_of_get(&depot, &digest).await, DepotErrorKind::Refused);

    let mut server = Server::s3s();
    let wrong = aws_credential_types::Credentials::new("key", "wrong", None, None, "test");
    let depot = S3::connect_as(&server.settings(), Some(wrong))
        .await
        .unwrap();
    let error = depot.get(&digest, None).await.unwrap_err();
    assert_eq!(error.kind, DepotErrorKind::Refused, "{error:?}");

    let depot = server.connect().await;
    server.end();
    let error = depot.get(&digest, None).await.unwrap_err();
    assert_eq!(error.kind, DepotErrorKind::Away, "{error:?}");
    assert_eq!(error.code(), "ORL-E9307");
}

/// Notes are written by whoever read the last version.
async fn keeps_notes(notes: &dyn Notes) {
    let write = |text: &str, expected| notes.write("duty", text.to_owned(), expected);
    assert_eq!(notes.read("duty").await.unwrap(), None);
    let first = write("a", Expected::Absent).await.unwrap().unwrap();
    assert_eq!(write("b", Expected::Absent).await.unwrap(), None);
    let second = write("c", Expected::Version(&first))
        .await
        .unwrap()
        .unwrap();
    assert_ne!(first, second);
    assert_eq!(write("d", Expected::Version(&first)).await.unwrap(), None);
    let note = notes.read("duty").await.unwrap().unwrap();
    assert_eq!((note.text.as_str(), &note.version), ("c", &second));
    notes.remove("duty", &first).await.unwrap();
    assert!(notes.read("duty").await.unwrap().is_some());
    notes.remove("duty", &second).await.unwrap();
    assert_eq!(notes.read("duty").await.unwrap(), None);
    assert_eq!(write("e", Expected::Version(&second)).await.unwrap(), None);
}

#[tokio::test]
async fn notes_are_written_on_condition() {
    let server = Server::moto();
    keeps_notes(&server.connect().await).await;
}

#[test]
fn what_s3_says_of_restores_is_understood() {
    let archive = class("GLACIER");
    let readable = |text| super::readable(&archive, text);
    assert_eq!(super::readable(&class("GLACIER_IR"), None), Readable::Now);
    assert_eq!(readable(None), Readable::Archived);
    let ongoing = "ongoing-request=\"true\"";
    assert_eq!(readable(Some(ongoing)), Readable::Restoring);
    let done = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_356_048_000);
    assert_eq!(readable(Some(done)), Readable::Until(until));
    assert_eq!(readable(Some("nonsense")), Readable::Now);
}
