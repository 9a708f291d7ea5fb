//! The fleet against the distribution's PostgreSQL: a cluster of the test's own, on a socket in a temporary folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_cache::depot::{Depot as _, Source};
use orlop_cache::fleet::{
    Candidate, Claim, Duty, Fleet as _, FleetErrorKind, FleetState, GrantKey, Leases as _, Pulls,
    SharedTag, Standing, Timing,
};
use orlop_cache::tier::ClassName;
use orlop_testkit::depot::{MemoryDepot, Switch, digest_of};
use orlop_testkit::servers::Cluster;
use orlop_types::Digest;

use super::{FleetSettings, Postgres, life};

fn settings(cluster: &Cluster, replica: &str) -> FleetSettings {
    FleetSettings {
        database: Some(cluster.address()),
        replica: Some(replica.to_owned()),
        address: Some(format!("http://{replica}:5000")),
        silence_max: Duration::from_millis(1500).into(),
        ..FleetSettings::default()
    }
}

/// A replica's process.
fn replica(cluster: &Cluster, name: &str) -> (Arc<Postgres>, TaskTree) {
    let settings = settings(cluster, name);
    let config = settings.config().unwrap().unwrap();
    let tasks = TaskTree::root(name, SystemClock::shared());
    let clock = SystemClock::shared();
    let fleet = Postgres::new(&settings, config, life().unwrap(), clock, tasks.clone());
    (Arc::new(fleet), tasks)
}

#[tokio::test]
async fn what_one_replica_tells_the_others_know() {
    let cluster = Cluster::start();
    let ((one, _), (two, _)) = (replica(&cluster, "one"), replica(&cluster, "two"));
    let (locator, digest) = ("docker.io/library/a", digest_of(b"a"));
    // PostgreSQL counts in microseconds.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);

    assert_eq!(one.tag(locator, "1").await.unwrap(), None);
    let newer = SharedTag {
        digest,
        media_type: Some("application/x".to_owned()),
        checked: now,
    };
    let older = SharedTag {
        digest: digest_of(b"old"),
        media_type: None,
        checked: now - Duration::from_secs(1),
    };
    one.set_tag(locator, "1", &newer).await.unwrap();
    two.set_tag(locator, "1", &older).await.unwrap();
    assert_eq!(two.tag(locator, "1").await.unwrap(), Some(newer));

    let grant = GrantKey {
        fingerprint: [7; 32],
        locator: locator.to_owned(),
        digest,
    };
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    one.set_grant(&grant, until).await.unwrap();
    assert_eq!(two.grant(&grant).await.unwrap(), Some(until));
    let another = GrantKey {
        fingerprint: [8; 32],
        ..grant.clone()
    };
    assert_eq!(two.grant(&another).await.unwrap(), None);
    two.set_grant(&another, SystemTime::UNIX_EPOCH)
        .await
        .unwrap();
    assert_eq!(two.grant(&another).await.unwrap(), None, "it has expired");

    one.set_pin(&digest, true).await.unwrap();
    assert_eq!(two.pins().await.unwrap(), [digest].into());
    two.set_pin(&digest, false).await.unwrap();
    assert!(one.pins().await.unwrap().is_empty());
    assert_eq!(one.state(), FleetState::Together);
}

#[tokio::test]
async fn pulls_are_added_up_over_replicas_and_told_anew_each_time() {
    let cluster = Cluster::start();
    let ((one, _), (two, _)) = (replica(&cluster, "one"), replica(&cluster, "two"));
    let pulls = |name: &[u8], week, month| Pulls {
        digest: digest_of(name),
        week,
        month,
    };
    let told = [pulls(b"a", 1, 5), pulls(b"b", 0, 2)];
    for _ in 0..2 {
        one.tell_pulls(&told).await.unwrap();
    }
    two.tell_pulls(&[pulls(b"a", 10, 20)]).await.unwrap();
    let mut expected = [pulls(b"a", 11, 25), pulls(b"b", 0, 2)];
    expected.sort_by_key(|one| one.digest.to_string());
    assert_eq!(two.pulls().await.unwrap(), expected);
    // What is pulled no more is told no more.
    one.tell_pulls(&[]).await.unwrap();
    assert_eq!(one.pulls().await.unwrap(), [pulls(b"a", 10, 20)]);
    // A replica that went away is forgotten.
    let aged = "UPDATE orlop_pulls SET told = now() - interval '3 days'";
    one.ask("pretend", aged, &[]).await.unwrap();
    assert!(one.pulls().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_has_one_holder_and_is_taken_over_from_the_dead() {
    let cluster = Cluster::start();
    let ((one, _), (two, _)) = (replica(&cluster, "one"), replica(&cluster, "two"));
    let duty = Duty::Fill(digest_of(b"layer"));
    let Claim::Ours(lease) = one.claim(&duty).await.unwrap() else {
        panic!("nobody has it");
    };
    let held = Claim::Held {
        by: "one".to_owned(),
        address: Some("http://one:5000".to_owned()),
    };
    assert_eq!(two.claim(&duty).await.unwrap(), held);
    assert_eq!(one.claim(&duty).await.unwrap(), held, "another task of it");
    assert!(one.renew(&lease).await.unwrap());

    // The next life of a replica has its disk, and goes on at once.
    let (again, _) = replica(&cluster, "one");
    let Claim::Ours(taken) = again.claim(&duty).await.unwrap() else {
        panic!("it is its own");
    };
    assert!(!one.renew(&lease).await.unwrap());
    one.release(&lease).await.unwrap();
    assert_eq!(
        two.claim(&duty).await.unwrap(),
        held,
        "still the next life's"
    );

    // Nobody renews any more.
    let began = Instant::now();
    while !matches!(two.claim(&duty).await.unwrap(), Claim::Ours(_)) {
        assert!(began.elapsed() < Duration::from_secs(60), "the dead stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!again.renew(&taken).await.unwrap());
}

#[tokio::test]
async fn replicas_that_start_together_make_the_tables_once_and_newer_ones_are_refused() {
    let cluster = Cluster::start();
    let names: Vec<String> = (0..8).map(|number| format!("replica-{number}")).collect();
    let replicas: Vec<_> = names.iter().map(|name| replica(&cluster, name)).collect();
    let answers = futures_util::future::join_all(replicas.iter().map(|(one, _)| one.pins())).await;
    for answer in answers {
        assert!(answer.unwrap().is_empty());
    }
    let (one, _) = &replicas[0];
    let newer = "INSERT INTO orlop_schema (version) VALUES (99)";
    one.ask("pretend", newer, &[]).await.unwrap();
    let (late, _) = replica(&cluster, "late");
    let error = late.pins().await.unwrap_err();
    assert_eq!(error.kind, FleetErrorKind::Refused, "{error:?}");
    let said = orlop_types::chain(&error);
    assert!(said.contains("version 99"), "{said}");
}

#[tokio::test]
async fn without_the_database_a_replica_goes_on_alone_and_comes_back_by_itself() {
    let mut cluster = Cluster::start();
    let (one, tasks) = replica(&cluster, "one");
    let candidate = Candidate::new(
        Arc::clone(&one) as _,
        None,
        tasks,
        SystemClock::shared(),
        Timing::default(),
    );
    let digest = digest_of(b"layer");
    assert!(matches!(candidate.stand(&digest).await, Standing::Ours(_)));

    cluster.end();
    assert!(matches!(candidate.stand(&digest).await, Standing::Alone));
    let error = one.pins().await.unwrap_err();
    assert_eq!(
        (error.kind, error.code()),
        (FleetErrorKind::Away, "ORL-E9321")
    );
    assert!(matches!(one.state(), FleetState::Alone { .. }));

    cluster.run();
    let began = Instant::now();
    while one.pins().await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "still alone");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(one.state(), FleetState::Together);
}

/// Serves as a fleet's upstream: counts what is fetched from it whole.
#[derive(Default)]
struct Upstream {
    whole: AtomicU32,
}

/// A client's pull at one replica: as often as it takes.
async fn pull(candidate: &Candidate, depot: &MemoryDepot, upstream: &Upstream, blob: &[u8]) {
    let digest: Digest = digest_of(blob);
    loop {
        match candidate.stand(&digest).await {
            Standing::Stored => return,
            Standing::Held { .. } => {}
            Standing::Alone => panic!("the database is there"),
            Standing::Ours(guard) => {
                // A fill takes its time; a replica that is killed meanwhile has fetched nothing whole.
                tokio::time::sleep(Duration::from_millis(100)).await;
                upstream.whole.fetch_add(1, Ordering::SeqCst);
                let mut file = tempfile::tempfile().unwrap();
                std::io::Write::write_all(&mut file, blob).unwrap();
                let bytes = blob.len() as u64;
                let class = ClassName::new("STANDARD");
                let put = depot.put(&digest, Source { file, bytes }, &class).await;
                put.expect("nobody else has put it");
                drop(guard);
                return;
            }
        }
    }
}

/// Eight digests, 64 clients of two replicas, of which one dies again and again: whatever it was doing is dropped where it
/// waits, its connection included, and its successor begins anew under the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_fill_each_digest_once_while_one_is_killed() {
    let cluster = Cluster::start();
    let depot = MemoryDepot::new(SystemClock::shared(), Switch::default(), Duration::ZERO);
    let upstream = Upstream::default();
    let blobs: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number; 100]).collect();
    let timing = Timing {
        look: Duration::from_millis(20),
        ..Timing::default()
    };
    let clients = |name: &'static str| {
        let (fleet, tasks) = replica(&cluster, name);
        let shared = Some(Arc::new(depot.clone()) as _);
        let clock = SystemClock::shared();
        let candidate = Candidate::new(fleet, shared, tasks.clone(), clock, timing);
        let (depot, upstream, blobs) = (&depot, &upstream, &blobs);
        let all = async move {
            let pulls = (0..32).map(|client| pull(&candidate, depot, upstream, &blobs[client % 8]));
            futures_util::future::join_all(pulls).await;
        };
        (all, tasks)
    };
    let (steady, _) = clients("steady");
    let mortal = async {
        let mut deaths = 0;
        loop {
            let (all, tasks) = clients("mortal");
            let mut all = Box::pin(all);
            let lifetime = Duration::from_millis(30 + 37 * deaths % 150);
            tokio::select! {
                () = &mut all => return deaths,
                () = tokio::time::sleep(lifetime) => {}
            }
            deaths += 1;
            // First its tasks, so that nothing gives back what it held; what it was doing is dropped after that.
            tasks.shutdown(Duration::ZERO).await.ok();
            drop(all);
            assert!(deaths < 200, "it never gets anywhere");
        }
    };
    let ((), deaths) = tokio::join!(steady, mortal);
    assert!(deaths > 0, "it was never killed");
    for blob in &blobs {
        assert_eq!(depot.writes(&digest_of(blob)), 1);
    }
    assert_eq!(upstream.whole.load(Ordering::SeqCst), 8);
}

#[test]
fn the_name_of_a_replica_is_the_hosts_unless_it_was_given() {
    let settings = FleetSettings::default();
    assert!(!settings.replica().is_empty());
    assert!(settings.config().unwrap().is_none());
}
