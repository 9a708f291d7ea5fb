//! Blobs, from a registry that misbehaves.

#![allow(clippy::unwrap_used, reason = "fixtures of tests may fail the test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{MemorySink, client, fetch, hosts, noise, options, put, reference};
use orlop_registry::{
    BlobSink, Client, ClientOptions, FailureKind, FetchOptions, MemoryBudget, Reach,
};
use orlop_testkit::registry::{Action, FakeRegistry, Fault, Options, Redirects};

const SIZE: usize = 1 << 20;

#[tokio::test]
async fn a_small_blob_comes_in_one_request_without_a_range() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(1000));
    let (sink, result) = fetch(&client(), &registry, &blob).await;
    assert_eq!(result.unwrap().rounds, 1);
    assert_eq!(sink.digest(), blob.digest);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
    assert!(
        registry
            .requests()
            .iter()
            .all(|seen| seen.header("range").is_none())
    );
}

#[tokio::test]
async fn a_large_blob_comes_in_bounded_ranges_each_once() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(SIZE));
    let (sink, result) = fetch(&client(), &registry, &blob).await;
    let bytes_by_host = result.unwrap().bytes_by_host;
    assert_eq!(bytes_by_host, [(registry.host(), SIZE as u64)]);
    assert_eq!(sink.digest(), blob.digest);
    assert_eq!(sink.stored(), SIZE as u64);
    let mut ranges: Vec<String> = registry
        .requests()
        .iter()
        .map(|seen| seen.header("range").unwrap().to_owned())
        .collect();
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), 16);
    assert!(
        ranges.iter().all(|range| !range.ends_with('-')),
        "{ranges:?}"
    );
}

#[tokio::test]
async fn a_fetch_can_run_as_a_task_of_its_own() {
    fn check<T: Send>(future: T) -> T {
        future
    }
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(1000));
    let sink = Arc::new(MemorySink::new(1000));
    let (client, reference) = (client(), reference(&registry, "app", "latest"));
    check(client.fetch_blob(&reference, &blob, sink))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_empty_blob_needs_no_request() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, b"");
    let (_, result) = fetch(&client(), &registry, &blob).await;
    assert_eq!(result.unwrap().rounds, 0);
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn every_passing_fault_is_survived() {
    let cases = [
        ("truncated", Action::Truncate(1000)),
        ("stalled", Action::Stall(1000)),
        ("hanging", Action::Hang),
        ("reset", Action::Reset),
        ("500", Action::status(500)),
        (
            "503",
            Action::Status(503, vec![("retry-after", "0".to_owned())]),
        ),
        ("429", Action::too_many_requests(0)),
        ("range ignored", Action::IgnoreRange),
        ("wrong content-range", Action::ShiftContentRange(7)),
        ("short range", Action::ShortRange(1)),
        ("no length", Action::NoContentLength),
    ];
    for (name, action) in cases {
        let registry = FakeRegistry::start();
        let blob = put(&registry, &noise(SIZE));
        registry.fault(Fault::on("/blobs/", action).after(3).times(2));
        let (sink, result) = fetch(&client(), &registry, &blob).await;
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(sink.digest(), blob.digest, "{name}");
    }
}

#[tokio::test]
async fn a_host_that_never_serves_ranges_is_asked_for_whole_blobs_from_then_on() {
    let registry = FakeRegistry::start();
    let (one, two) = (
        put(&registry, &noise(SIZE)),
        put(&registry, &noise(SIZE + 1)),
    );
    registry.fault(Fault::on("/blobs/", Action::IgnoreRange));
    let client = client();
    let (sink, result) = fetch(&client, &registry, &one).await;
    result.unwrap();
    assert_eq!(sink.digest(), one.digest);
    let before = registry.requests().len();
    let (sink, result) = fetch(&client, &registry, &two).await;
    assert_eq!(result.unwrap().rounds, 1);
    assert_eq!(sink.digest(), two.digest);
    let later = registry.requests().split_off(before);
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].header("range"), None);
}

#[tokio::test]
async fn what_is_learnt_about_a_host_expires() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(SIZE));
    registry.fault(Fault::on("/blobs/", Action::IgnoreRange).times(4));
    let mut options = options();
    options.fetch.ranges_avoided_for = Duration::ZERO;
    let (sink, result) = fetch(&Client::new(options), &registry, &blob).await;
    result.unwrap();
    assert_eq!(sink.digest(), blob.digest);
    let last = registry.requests().pop().unwrap();
    assert!(last.header("range").is_some());
}

#[tokio::test]
async fn lasting_faults_end_the_fetch_with_their_kind() {
    let lengthy = Some(Duration::from_secs(3600));
    let cases = [
        (Action::status(401), FailureKind::Unauthorized),
        (Action::status(403), FailureKind::Forbidden),
        (Action::status(404), FailureKind::NotFound),
        (Action::status(418), FailureKind::BadResponse),
        (
            Action::status(500),
            FailureKind::Server {
                status: 500,
                retry_after: None,
            },
        ),
        (
            Action::too_many_requests(3600),
            FailureKind::TooManyRequests {
                retry_after: lengthy,
            },
        ),
        (Action::Hang, FailureKind::Unreachable(Reach::TimedOut)),
        (Action::Stall(0), FailureKind::Unreachable(Reach::TimedOut)),
        (Action::Reset, FailureKind::Unreachable(Reach::Broken)),
    ];
    for (action, kind) in cases {
        let registry = FakeRegistry::start();
        let blob = put(&registry, &noise(1000));
        registry.fault(Fault::on("/blobs/", action.clone()));
        let (_, result) = fetch(&client(), &registry, &blob).await;
        let error = result.expect_err("the host never answers well");
        assert_eq!(error.kind(), kind, "{action:?}");
        assert!(error.to_string().contains(&registry.host()), "{error}");
        assert!(
            error.to_string().contains(&blob.digest.to_string()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_blob_of_another_length_than_described_is_refused() {
    for ranged in [false, true] {
        let registry = FakeRegistry::start();
        let length = if ranged { SIZE } else { 1000 };
        let mut blob = put(&registry, &noise(length));
        blob.size += 1;
        let (_, result) = fetch(&client(), &registry, &blob).await;
        assert_eq!(result.unwrap_err().kind(), FailureKind::BadResponse);
        blob.size -= 2;
        registry.fault(Fault::on("/blobs/", Action::NoContentLength));
        let (_, result) = fetch(&client(), &registry, &blob).await;
        assert_eq!(result.unwrap_err().kind(), FailureKind::BadResponse);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(1000));
    registry.fault(Fault::on("/blobs/", Action::too_many_requests(1)).times(1));
    let began = Instant::now();
    let (_, result) = fetch(&client(), &registry, &blob).await;
    result.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_slow_host_is_not_given_up_while_bytes_come() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(100_000));
    registry.fault(Fault::on("/blobs/", Action::Rate(100_000)));
    let began = Instant::now();
    let (sink, result) = fetch(&client(), &registry, &blob).await;
    assert_eq!(result.unwrap().rounds, 1);
    assert_eq!(sink.digest(), blob.digest);
    assert!(began.elapsed() > options().fetch.no_progress);
}

#[tokio::test]
async fn a_host_that_trickles_is_given_up_like_one_that_is_silent() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(100_000));
    registry.fault(Fault::on("/blobs/", Action::Rate(200)));
    let (sink, result) = fetch(&client(), &registry, &blob).await;
    let error = result.expect_err("200 bytes a second are no progress");
    assert_eq!(error.kind(), FailureKind::Unreachable(Reach::TimedOut));
    assert!(sink.stored() < 100_000);
}

#[tokio::test]
async fn a_host_that_resets_every_connection_after_a_byte_is_given_up() {
    for (length, per_round) in [(1000, 1), (SIZE, 4)] {
        let registry = FakeRegistry::start();
        let blob = put(&registry, &noise(length));
        registry.fault(Fault::on("/blobs/", Action::Truncate(1)));
        let (_, result) = fetch(&client(), &registry, &blob).await;
        result.expect_err("a byte is no progress");
        let asked = registry.count("GET", "/blobs/");
        let most = per_round * options().retry.attempts_max as usize;
        assert!(asked <= most, "{asked} requests");
    }
}

#[tokio::test]
async fn a_host_that_resets_after_a_good_part_is_asked_for_the_rest() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(3 * SIZE));
    registry.fault(Fault::on("/blobs/", Action::Truncate(300 << 10)));
    let mut options = options();
    options.fetch.chunk_bytes = 1 << 20;
    options.fetch.parallel_per_blob = 1;
    let (sink, result) = fetch(&Client::new(options), &registry, &blob).await;
    assert!(result.unwrap().rounds > 3);
    assert_eq!(sink.digest(), blob.digest);
    assert_eq!(sink.stored(), blob.size, "no byte was stored twice");
}

/// A client that knows `mirrors` of `upstream`, in their order.
fn mirrored(
    folder: &std::path::Path,
    upstream: &FakeRegistry,
    mirrors: &[&FakeRegistry],
) -> Client {
    let mut text = format!("server = \"{}\"\n", upstream.url());
    for mirror in mirrors {
        text += &format!("[host.\"{}\"]\n", mirror.url());
    }
    Client::new(ClientOptions {
        hosts: hosts(folder, &upstream.host(), &text),
        ..options()
    })
}

#[tokio::test]
async fn a_mirror_that_wants_a_pause_does_not_stop_the_other() {
    let (upstream, busy, idle) = (
        FakeRegistry::start(),
        FakeRegistry::start(),
        FakeRegistry::start(),
    );
    let blob = put(&upstream, &noise(SIZE));
    put(&busy, &noise(SIZE));
    put(&idle, &noise(SIZE));
    busy.fault(Fault::on("/blobs/", Action::too_many_requests(50)).after(2));
    let folder = tempfile::tempdir().unwrap();
    let client = mirrored(folder.path(), &upstream, &[&busy, &idle]);
    let fetching = fetch(&client, &upstream, &blob);
    let (sink, result) = tokio::time::timeout(Duration::from_secs(40), fetching)
        .await
        .expect("nobody waits for the busy mirror");
    result.unwrap();
    assert_eq!(sink.digest(), blob.digest);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn wrong_bytes_are_traced_to_their_mirror_and_the_next_is_asked() {
    let (upstream, bad, good) = (
        FakeRegistry::start(),
        FakeRegistry::start(),
        FakeRegistry::start(),
    );
    let blob = put(&upstream, &noise(SIZE));
    put(&good, &noise(SIZE));
    bad.put_wrong_blob("app", blob.digest, vec![7; SIZE]);
    let folder = tempfile::tempdir().unwrap();
    let client = mirrored(folder.path(), &upstream, &[&bad, &good]);
    let mut hosts = Vec::new();
    loop {
        let (sink, result) = fetch(&client, &upstream, &blob).await;
        let fetched = result.unwrap();
        hosts.push(fetched.bytes_by_host.len());
        if sink.digest() == blob.digest {
            break;
        }
        let name = reference(&upstream, "app", "latest");
        client.distrust(&name, &blob, &fetched).await.unwrap();
    }
    // Both together, then the bad one alone, then the good one alone.
    assert_eq!(hosts, [2, 1, 1]);
    let before = bad.requests().len();
    let (sink, _) = fetch(&client, &upstream, &blob).await;
    assert_eq!(sink.digest(), blob.digest);
    assert_eq!(bad.requests().len(), before, "it is remembered");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn when_every_host_gave_wrong_bytes_the_error_names_them_all() {
    let (upstream, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let blob = put(&FakeRegistry::start(), &noise(1000));
    for host in [&upstream, &mirror] {
        host.put_wrong_blob("app", blob.digest, vec![7; 1000]);
    }
    let folder = tempfile::tempdir().unwrap();
    let client = mirrored(folder.path(), &upstream, &[&mirror]);
    let name = reference(&upstream, "app", "latest");
    let error = loop {
        let fetched = fetch(&client, &upstream, &blob).await.1.unwrap();
        if let Err(error) = client.distrust(&name, &blob, &fetched).await {
            break error;
        }
    };
    assert_eq!(
        (error.kind(), error.code()),
        (FailureKind::WrongDigest, "ORL-E3015")
    );
    let text = error.to_string();
    assert!(
        text.contains(&upstream.host()) && text.contains(&mirror.host()),
        "{text}"
    );
    // The next pull asks them again: they may have been mended.
    fetch(&client, &upstream, &blob).await.1.unwrap();
}

#[tokio::test]
async fn presigned_urls_are_used_again_until_they_expire_and_get_no_credentials() {
    let registry = FakeRegistry::start_with(Options {
        redirects: Redirects::Presigned { uses: 3 },
        ..Options::default()
    });
    let blob = put(&registry, &noise(SIZE));
    let (sink, result) = fetch(&client(), &registry, &blob).await;
    assert_eq!(result.unwrap().rounds, 1);
    assert_eq!(sink.digest(), blob.digest);
    let requests = registry.requests();
    let asked = requests.iter().filter(|seen| !seen.at_storage).count();
    assert!((4..16).contains(&asked), "{asked}");
    assert!(
        requests
            .iter()
            .any(|seen| seen.at_storage && seen.status == 403)
    );
}

#[tokio::test]
async fn mirrors_share_a_blob_and_spare_the_registry() {
    let (upstream, one, two) = (
        FakeRegistry::start(),
        FakeRegistry::start(),
        FakeRegistry::start(),
    );
    let blob = put(&upstream, &noise(SIZE));
    put(&one, &noise(SIZE));
    put(&two, &noise(SIZE));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\n[host.\"{}\"]\n",
        upstream.url(),
        one.url(),
        two.url()
    );
    let client = Client::new(ClientOptions {
        hosts: hosts(folder.path(), &upstream.host(), &text),
        ..options()
    });
    let (sink, result) = fetch(&client, &upstream, &blob).await;
    assert_eq!(result.unwrap().bytes_by_host.len(), 2);
    assert_eq!(sink.digest(), blob.digest);
    assert!(upstream.requests().is_empty());
    assert!(
        one.requests()
            .iter()
            .all(|seen| seen.query == format!("ns={}", upstream.host()).replace(':', "%3A"))
    );
}

#[tokio::test]
async fn mirrors_without_the_blob_are_passed_over() {
    let (upstream, empty) = (FakeRegistry::start(), FakeRegistry::start());
    let blob = put(&upstream, &noise(SIZE));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\n[host.\"http://127.0.0.1:9\"]\n",
        upstream.url(),
        empty.url()
    );
    let client = Client::new(ClientOptions {
        hosts: hosts(folder.path(), &upstream.host(), &text),
        ..options()
    });
    let (sink, result) = fetch(&client, &upstream, &blob).await;
    result.unwrap();
    assert_eq!(sink.digest(), blob.digest);
    assert!(!empty.requests().is_empty());
}

#[tokio::test]
async fn a_dropped_fetch_goes_on_where_it_was() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(SIZE));
    registry.fault(Fault::on("/blobs/", Action::Rate(150_000)));
    let sink = Arc::new(MemorySink::new(SIZE));
    let client = client();
    let reference = reference(&registry, "app", "latest");
    {
        let fetch = client.fetch_blob(&reference, &blob, Arc::clone(&sink) as Arc<dyn BlobSink>);
        let stopped = tokio::time::timeout(Duration::from_millis(1200), fetch).await;
        assert!(stopped.is_err(), "the host is too slow to be done by now");
    }
    // A write that had begun may still end.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let kept = sink.stored();
    assert!(kept > 0 && kept < SIZE as u64, "{kept}");
    registry.heal();
    client
        .fetch_blob(&reference, &blob, Arc::clone(&sink) as Arc<dyn BlobSink>)
        .await
        .unwrap();
    assert_eq!(sink.digest(), blob.digest);
    assert_eq!(sink.stored(), SIZE as u64, "no byte was fetched twice");
}

#[tokio::test]
async fn a_full_disk_ends_the_fetch_at_once() {
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(SIZE));
    let sink = Arc::new(MemorySink::full_after(SIZE, 200_000));
    let reference = reference(&registry, "app", "latest");
    let error = client()
        .fetch_blob(&reference, &blob, sink)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::Sink);
    assert_eq!(error.code(), "ORL-E3013");
}

#[tokio::test]
async fn foreign_layers_are_refused_without_a_request() {
    let registry = FakeRegistry::start();
    let mut blob = put(&registry, &noise(10));
    blob.urls = vec!["http://169.254.169.254/".to_owned()];
    let (_, result) = fetch(&client(), &registry, &blob).await;
    assert_eq!(result.unwrap_err().kind(), FailureKind::Foreign);
    assert!(registry.requests().is_empty());
}

/// Anonymous memory of this process, in bytes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[derive(Debug)]
struct SlowSink {
    size: u64,
    done: std::sync::atomic::AtomicU64,
}

impl BlobSink for SlowSink {
    // Only the first fetch is of interest: what is missing is the whole until all bytes came.
    #[allow(
        clippy::single_range_in_vec_init,
        reason = "one missing range is what is meant"
    )]
    fn missing(&self) -> Vec<std::ops::Range<u64>> {
        if self.done.load(std::sync::atomic::Ordering::SeqCst) >= self.size {
            Vec::new()
        } else {
            vec![0..self.size]
        }
    }

    fn write_at(&self, _offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        std::thread::sleep(Duration::from_millis(20));
        self.done
            .fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_never_makes_memory_grow_beyond_the_budget() {
    const BLOB: usize = 48 << 20;
    const BUDGET: usize = 2 << 20;
    const WORKERS: usize = 8;
    let registry = FakeRegistry::start();
    let blob = put(&registry, &noise(BLOB));
    let budget = MemoryBudget::new(BUDGET);
    let client = Client::new(ClientOptions {
        budget: budget.clone(),
        fetch: FetchOptions {
            parallel_per_blob: WORKERS,
            chunk_bytes: 4 << 20,
            ..FetchOptions::default()
        },
        ..options()
    });
    let reference = reference(&registry, "app", "latest");
    let sink = Arc::new(SlowSink {
        size: BLOB as u64,
        done: 0.into(),
    });
    let before = anonymous_bytes();
    let mut peak = before;
    let fetch = client.fetch_blob(&reference, &blob, Arc::clone(&sink) as Arc<dyn BlobSink>);
    tokio::pin!(fetch);
    loop {
        tokio::select! {
            result = &mut fetch => break result.map(|_| ()).unwrap(),
            () = tokio::time::sleep(Duration::from_millis(2)) => peak = peak.max(anonymous_bytes()),
        }
    }
    assert!(budget.peak_bytes() <= BUDGET as u64);
    assert!(
        budget.peak_bytes() >= BUDGET as u64 / 2,
        "the budget was the limit"
    );
    assert_eq!(budget.used_bytes(), 0);
    println!(
        "value fetch_memory_on_a_slow_disk {:.1} MiB goal {:.1}",
        budget.peak_bytes() as f64 / f64::from(1 << 20),
        BUDGET as f64 / f64::from(1 << 20)
    );
    // The budget, the registry's own connection buffers, and 6 MiB for everything else.
    let allowed = (BUDGET + WORKERS * (1 << 20) + (6 << 20)) as u64;
    assert!(
        peak - before <= allowed,
        "{} of {allowed} bytes",
        peak - before
    );
}
