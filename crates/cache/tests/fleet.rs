//! Elections by notes in an object store: one filler per digest, also when fillers die.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{ManualClock, SystemClock};
use orlop_base::task::TaskTree;
use orlop_cache::depot::{Depot as _, Source};
use orlop_cache::fleet::{Candidate, Claim, Duty, Leases as _, NoteLeases, Standing, Timing};
use orlop_cache::tier::ClassName;
use orlop_testkit::depot::{MemoryDepot, Switch, digest_of};
use orlop_types::Digest;

const SILENCE: Duration = Duration::from_secs(10);

fn depot() -> MemoryDepot {
    MemoryDepot::new(SystemClock::shared(), Switch::default(), Duration::ZERO)
}

fn leases(depot: &MemoryDepot, clock: &ManualClock, replica: &str) -> NoteLeases {
    let address = Some(format!("http://{replica}:5000"));
    NoteLeases::new(
        Arc::new(depot.clone()),
        Arc::new(clock.clone()),
        replica.to_owned(),
        address,
        SILENCE,
    )
}

fn duty() -> Duty {
    Duty::Fill(digest_of(b"layer"))
}

#[tokio::test]
async fn a_silent_holder_is_followed_and_one_that_renews_is_not() {
    let (depot, clock) = (depot(), ManualClock::new());
    let (one, two) = (leases(&depot, &clock, "one"), leases(&depot, &clock, "two"));
    let Claim::Ours(lease) = one.claim(&duty()).await.unwrap() else {
        panic!("nobody has it");
    };
    for _ in 0..4 {
        let held = two.claim(&duty()).await.unwrap();
        let expected = Claim::Held {
            by: "one".to_owned(),
            address: Some("http://one:5000".to_owned()),
        };
        assert_eq!(held, expected);
        clock.advance(SILENCE / 2);
        assert!(one.renew(&lease).await.unwrap());
    }
    assert!(matches!(
        two.claim(&duty()).await.unwrap(),
        Claim::Held { .. }
    ));
    clock.advance(SILENCE);
    let Claim::Ours(taken) = two.claim(&duty()).await.unwrap() else {
        panic!("its holder was silent");
    };
    assert!(!one.renew(&lease).await.unwrap(), "it is another's now");
    one.release(&lease).await.unwrap();
    assert!(two.renew(&taken).await.unwrap(), "and stays so");
    two.release(&taken).await.unwrap();
    assert!(matches!(one.claim(&duty()).await.unwrap(), Claim::Ours(_)));
}

#[tokio::test]
async fn a_restarted_replica_takes_its_own_back_at_once() {
    let (depot, clock) = (depot(), ManualClock::new());
    let first = leases(&depot, &clock, "one");
    let Claim::Ours(old) = first.claim(&duty()).await.unwrap() else {
        panic!("nobody has it");
    };
    clock.advance(Duration::from_millis(1));
    let second = leases(&depot, &clock, "one");
    let Claim::Ours(new) = second.claim(&duty()).await.unwrap() else {
        panic!("it is its own");
    };
    assert_ne!(old.token, new.token);
    assert!(!first.renew(&old).await.unwrap());
    assert!(second.renew(&new).await.unwrap());
}

/// A replica that wants a blob until it is stored; counts its fills.
async fn wants(candidate: Candidate, depot: MemoryDepot, digest: Digest) -> u32 {
    let mut fills = 0;
    loop {
        match candidate.stand(&digest).await {
            Standing::Stored => return fills,
            Standing::Ours(guard) => {
                fills += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
                let mut file = tempfile::tempfile().unwrap();
                std::io::Write::write_all(&mut file, b"layer").unwrap();
                let source = Source { file, bytes: 5 };
                let class = ClassName::new("STANDARD");
                depot.put(&digest, source, &class).await.unwrap();
                drop(guard);
            }
            Standing::Held { .. } => {}
            Standing::Alone => panic!("the store is there"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_want_a_blob_at_once_one_fills() {
    let tree = TaskTree::root("test", SystemClock::shared());
    let timing = Timing {
        look: Duration::from_millis(1),
        ..Timing::default()
    };
    for round in 0..20_u8 {
        let depot = depot();
        let clock = ManualClock::new();
        let digest = digest_of(b"layer");
        let replicas: Vec<_> = (0..8)
            .map(|number| {
                let leases = leases(&depot, &clock, &format!("replica-{number}"));
                let candidate = Candidate::new(
                    Arc::new(leases),
                    Some(Arc::new(depot.clone())),
                    tree.clone(),
                    SystemClock::shared(),
                    timing,
                );
                wants(candidate, depot.clone(), digest)
            })
            .collect();
        let fills: u32 = futures_util::future::join_all(replicas).await.iter().sum();
        assert_eq!(fills, 1, "round {round}");
        assert_eq!(depot.writes(&digest), 1);
    }
}
