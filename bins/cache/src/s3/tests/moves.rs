//! Moves between a disk and moto, killed before and after each request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SystemClock;
use orlop_cache::depot::Depot as _;
use orlop_cache::tier::apply::{Journal, Mover, Settings, Shelf as _};
use orlop_cache::tier::{Bounds, Move, Place, Plan};
use orlop_testkit::depot::{MemoryShelf, Mortal, Switch};
use orlop_types::Digest;

use super::server::Server;
use super::{blob, bytes_of, class};
use crate::s3::S3;

/// Down, further down, up again, and away: each begins where the last one ended.
const ROUTE: [&str; 6] = [
    "local",
    "STANDARD",
    "GLACIER_IR",
    "GLACIER",
    "STANDARD_IA",
    "local",
];

fn place(name: &str) -> Place {
    match name {
        "local" => Place::Local,
        name => Place::Stored(class(name)),
    }
}

fn mover(
    depot: &Arc<S3>,
    shelf: &MemoryShelf,
    switch: &Switch,
    folder: &Path,
    life: &str,
) -> Mover {
    let settings = Settings {
        poll: Duration::from_millis(10),
        bounds: Bounds {
            moves_max: 10,
            bytes_max: u64::MAX,
            dollars_max: 10.0,
        },
        dollars_per_day_max: 1000.0,
        ..Settings::default()
    };
    let depot = Arc::clone(depot);
    Mover::new(
        Arc::new(Mortal::new(depot, switch.clone())),
        Arc::new(shelf.reborn(switch.clone())),
        Arc::new(Journal::open(&folder.join("tier.db")).unwrap()),
        SystemClock::shared(),
        settings,
        life.to_owned(),
    )
}

fn plan_of(digest: Digest, bytes: u64, from: &Place, to: &Place) -> Plan<Digest> {
    Plan {
        moves: vec![Move {
            blob: digest,
            bytes,
            image: "library/a".to_owned(),
            from: from.clone(),
            to: to.clone(),
            costs: 0.001,
            saves_per_month: 1.0,
            reads_per_month: 0.0,
        }],
        month_now: 0.0,
        month_then: 0.0,
    }
}

/// Where the blob is, whole.
async fn places(depot: &S3, shelf: &MemoryShelf, digest: &Digest, bytes: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    if let Some(found) = shelf.bytes(digest) {
        assert!(found == bytes);
        places.push(Place::Local);
    }
    if let Ok(held) = depot.head(digest).await {
        if held.readable.is_now() {
            let body = depot.get(digest, None).await.unwrap();
            assert!(bytes_of(body).await == bytes);
        }
        places.push(Place::Stored(held.class));
    }
    places
}

#[tokio::test]
async fn a_blob_goes_down_and_up_again_whoever_is_killed_when() {
    let server = Server::moto();
    server.restores_last(3);
    let depot = Arc::new(server.connect().await);
    let shelf = MemoryShelf::new(Switch::default());
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for leg in ROUTE.windows(2) {
        let (from, to) = (place(leg[0]), place(leg[1]));
        let mut step = 0;
        loop {
            // A blob of its own for each kill, put where the leg begins.
            let (bytes, digest) = blob(2000 + step, 100 + kills);
            shelf.keep(&bytes);
            if let Place::Stored(class) = &from {
                let source = shelf.open(&digest).unwrap().unwrap();
                depot.put(&digest, source, class).await.unwrap();
                shelf.remove(&digest).unwrap();
            }
            let switch = Switch::dying_at(step + 1);
            let first = mover(&depot, &shelf, &switch, folder.path(), &format!("{kills}a"));
            let plan = plan_of(digest, bytes.len() as u64, &from, &to);
            assert_eq!(first.begin(&plan).await.unwrap(), 1);
            let survived = tokio::select! {
                biased;
                () = switch.death() => false,
                run = first.finish() => run.is_ok(),
            };
            drop(first);
            let at = format!("{from:?} to {to:?}, killed at {}", step + 1);
            if !survived {
                let left = places(&depot, &shelf, &digest, &bytes).await;
                assert!(!left.is_empty(), "lost: {at}");
                let switch = Switch::default();
                let life = format!("{kills}b");
                let second = mover(&depot, &shelf, &switch, folder.path(), &life);
                second.finish().await.unwrap();
                assert!(second.pending().await.unwrap().is_empty(), "{at}");
            }
            let found = places(&depot, &shelf, &digest, &bytes).await;
            assert_eq!(found, std::slice::from_ref(&to), "{at}");
            if survived {
                break;
            }
            (step, kills) = (step + 1, kills + 1);
        }
    }
    assert!(kills > 30, "{kills} kills only");
}
