//! Moves, carried out against an object store in memory that has archives, and killed at every step.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{Clock as _, ManualClock};
use orlop_cache::depot::{Depot as _, DepotErrorKind, Readable};
use orlop_cache::tier::apply::{Journal, Mover, Outcome, Settings, Wanted};
use orlop_cache::tier::{ClassName, Move, Place, Plan, Prices, of_move};
use orlop_testkit::depot::{MemoryDepot, MemoryShelf, Switch, digest_of};
use orlop_types::Digest;

const RESTORE: Duration = Duration::from_secs(3 * 3600);

/// Where blobs are moved from and to.
const ROUTES: [(&str, &str); 7] = [
    ("local", "STANDARD"),
    ("local", "DEEP_ARCHIVE"),
    ("STANDARD", "GLACIER"),
    ("GLACIER", "STANDARD"),
    ("DEEP_ARCHIVE", "local"),
    ("STANDARD", "local"),
    ("GLACIER_IR", "dropped"),
];

/// Everything that outlives a process.
struct World {
    folder: tempfile::TempDir,
    clock: ManualClock,
    depot: MemoryDepot,
    shelf: MemoryShelf,
}

impl World {
    fn new(switch: &Switch) -> Self {
        let clock = ManualClock::new();
        let shared = Arc::new(clock.clone());
        Self {
            folder: tempfile::tempdir().unwrap(),
            depot: MemoryDepot::new(shared, switch.clone(), RESTORE),
            shelf: MemoryShelf::new(switch.clone()),
            clock,
        }
    }

    /// What the next process on the same disk finds.
    fn reborn(self) -> Self {
        let switch = Switch::default();
        Self {
            depot: self.depot.reborn(switch.clone()),
            shelf: self.shelf.reborn(switch),
            ..self
        }
    }

    fn mover(&self, settings: Settings, life: &str) -> Mover {
        Mover::new(
            Arc::new(self.depot.clone()),
            Arc::new(self.shelf.clone()),
            Arc::new(journal(self.folder.path())),
            Arc::new(self.clock.clone()),
            settings,
            life.to_owned(),
        )
    }

    /// Where a blob is, whole.
    fn places(&self, digest: &Digest, bytes: &[u8]) -> Vec<Place> {
        let mut places = Vec::new();
        if let Some(found) = self.shelf.bytes(digest) {
            assert_eq!(found, bytes);
            places.push(Place::Local);
        }
        if let Some((class, found)) = self.depot.object_of(digest) {
            assert_eq!(found, bytes);
            places.push(Place::Stored(class));
        }
        places
    }
}

fn journal(folder: &Path) -> Journal {
    Journal::open(&folder.join("tier.db")).unwrap()
}

fn place(name: &str) -> Place {
    match name {
        "local" => Place::Local,
        "dropped" => Place::Dropped,
        class => Place::Stored(ClassName::new(class)),
    }
}

/// A blob that is put in parts.
fn blob() -> Vec<u8> {
    (0..5000_u32).flat_map(u32::to_le_bytes).collect()
}

fn plan_of(digest: Digest, bytes: u64, from: &Place, to: &Place) -> Plan<Digest> {
    let costs = of_move(&Prices::default(), bytes, from, 400, to).unwrap();
    Plan {
        moves: vec![Move {
            blob: digest,
            bytes,
            image: "library/a".to_owned(),
            from: from.clone(),
            to: to.clone(),
            costs,
            saves_per_month: 1.0,
            reads_per_month: 0.0,
        }],
        month_now: 0.0,
        month_then: 0.0,
    }
}

/// A first process: enters a move of a blob that is at `from`, and carries it out.
async fn begun(world: &World, from: &Place, to: &Place) {
    let bytes = blob();
    let digest = match from {
        Place::Local => world.shelf.keep(&bytes),
        Place::Stored(class) => world.depot.keep(&bytes, class.as_str()),
        Place::Dropped => digest_of(&bytes),
    };
    let mover = world.mover(Settings::default(), "first");
    let plan = plan_of(digest, bytes.len() as u64, from, to);
    assert_eq!(mover.begin(&plan).await.unwrap(), 1);
    finished(world, &mover).await;
}

/// Carries out what is on record; the clock runs as fast as it is slept on.
async fn finished(world: &World, mover: &Mover) {
    let time_passes = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if world.clock.sleepers() > 0 {
                world.clock.advance(Duration::from_secs(600));
            }
        }
    };
    tokio::select! {
        run = mover.finish() => if run.is_err() {
            // A thread of a dead world was unwound: nobody is left to see it.
            std::future::pending::<()>().await;
        },
        () = time_passes => {}
    }
}

#[tokio::test]
async fn a_move_that_is_killed_at_any_step_neither_loses_nor_doubles_the_blob() {
    let bytes = blob();
    let digest = digest_of(&bytes);
    for (from, to) in ROUTES.map(|(from, to)| (place(from), place(to))) {
        let mut kills = 0;
        loop {
            let switch = Switch::dying_at(kills + 1);
            let world = World::new(&switch);
            let survived = tokio::select! {
                biased;
                () = switch.death() => false,
                () = begun(&world, &from, &to) => true,
            };
            if survived {
                break;
            }
            kills += 1;
            let at = format!("{from:?} to {to:?}, killed at step {kills}");
            let is_lost = world.places(&digest, &bytes).is_empty();
            assert!(!is_lost || to == Place::Dropped, "lost: {at}");

            let world = world.reborn();
            finished(&world, &world.mover(Settings::default(), "second")).await;
            let expected: Vec<_> = (to != Place::Dropped)
                .then(|| to.clone())
                .into_iter()
                .collect();
            assert_eq!(world.places(&digest, &bytes), expected, "{at}");
            assert_eq!(world.depot.uploads(), 0, "parts are left behind: {at}");
            assert!(world.depot.writes(&digest) <= 1, "put twice: {at}");
            let pending = journal(world.folder.path()).pending().unwrap();
            assert!(pending.is_empty(), "{at}");
        }
        assert!(kills >= 2, "{from:?} to {to:?} has {kills} steps only");
    }
}

#[tokio::test]
async fn what_is_moved_is_billed_as_planned() {
    let prices = Prices::default();
    let bytes = blob().len() as u64;
    for (from, to) in ROUTES.map(|(from, to)| (place(from), place(to))) {
        let world = World::new(&Switch::default());
        begun(&world, &from, &to).await;
        let mut planned = of_move(&prices, bytes, &from, 400, &to).unwrap();
        if let Place::Stored(class) = &from
            && prices.class[class].is_archive()
        {
            // The restored copy is paid by the time it stands, not by request.
            planned -= orlop_cache::tier::gigabytes(bytes) * 0.023 / 30.0;
        }
        let asked = world.depot.tally().dollars(&prices);
        // To look costs a GET each, which no plan counts: an archive is looked at once in 300 s.
        let looks = 100.0 * 0.001 / 1000.0;
        let difference = asked - planned;
        assert!(
            (-1e-9..=looks).contains(&difference),
            "{from:?} to {to:?}: asked {asked}, planned {planned}"
        );
    }
}

#[tokio::test]
async fn a_pull_of_an_archived_blob_starts_a_promotion_within_the_days_money() {
    let world = World::new(&Switch::default());
    let bytes = blob();
    let digest = world.depot.keep(&bytes, "DEEP_ARCHIVE");
    let archive = ClassName::new("DEEP_ARCHIVE");
    let size = bytes.len() as u64;
    let poor = Settings {
        dollars_per_day_max: 0.0,
        ..Settings::default()
    };
    let refused = world.mover(poor, "a").wanted(&digest, size, &archive).await;
    assert_eq!(refused.unwrap(), Wanted::TooDear);

    let mover = world.mover(Settings::default(), "b");
    for _ in 0..3 {
        let wanted = mover.wanted(&digest, size, &archive).await.unwrap();
        assert_eq!(wanted, Wanted::Coming(Duration::from_secs(300)));
    }
    assert_eq!(mover.run().await.unwrap().waiting, 1);
    let readable = world.depot.head(&digest).await.unwrap().readable;
    assert_eq!(readable, Readable::Restoring);
    let early = world.depot.get(&digest, None).await.unwrap_err();
    assert_eq!(early.kind, DepotErrorKind::Restoring);

    world.clock.advance(RESTORE);
    let run = mover.run().await.unwrap();
    assert_eq!(run.ended[0].outcome, Outcome::Moved);
    assert_eq!(world.places(&digest, &bytes), [place("STANDARD")]);
    let since = world.clock.wall() - RESTORE;
    let spent = journal(world.folder.path()).spent_since(since).unwrap();
    assert!(spent > 0.0);
}

#[tokio::test]
async fn a_restored_copy_that_expired_is_restored_again() {
    let world = World::new(&Switch::default());
    let bytes = blob();
    let digest = world.depot.keep(&bytes, "GLACIER");
    let mover = world.mover(Settings::default(), "a");
    let plan = plan_of(
        digest,
        bytes.len() as u64,
        &place("GLACIER"),
        &place("STANDARD"),
    );
    mover.begin(&plan).await.unwrap();
    mover.run().await.unwrap();
    // The node was off for a week.
    world.clock.advance(Duration::from_secs(7 * 86_400));
    assert_eq!(mover.run().await.unwrap().waiting, 1);
    for _ in 0..4 {
        world.clock.advance(RESTORE);
        mover.run().await.unwrap();
    }
    assert_eq!(world.places(&digest, &bytes), [place("STANDARD")]);
}

#[tokio::test]
async fn a_store_that_is_away_or_throttles_is_asked_later_and_one_that_refuses_is_not() {
    let throttled = DepotErrorKind::Throttled(Some(Duration::from_secs(40)));
    let table = [
        (DepotErrorKind::Away, true),
        (throttled, true),
        (DepotErrorKind::Corrupt, true),
        (DepotErrorKind::Refused, false),
    ];
    for (kind, is_tried_again) in table {
        let world = World::new(&Switch::default());
        let bytes = b"small".to_vec();
        let digest = world.shelf.keep(&bytes);
        let mover = world.mover(Settings::default(), "a");
        let plan = plan_of(digest, 5, &Place::Local, &place("STANDARD"));
        mover.begin(&plan).await.unwrap();
        world.depot.fail([kind]);
        let run = mover.run().await.unwrap();
        assert_eq!(run.waiting == 1, is_tried_again, "{kind:?}");
        assert_eq!(world.places(&digest, &bytes), [Place::Local], "{kind:?}");
        if !is_tried_again {
            assert!(matches!(run.ended[0].outcome, Outcome::GivenUp(_)));
            continue;
        }
        let pending = &mover.pending().await.unwrap()[0];
        assert_eq!((pending.attempts, pending.error.is_some()), (1, true));
        world.clock.advance(Duration::from_secs(60));
        mover.run().await.unwrap();
        assert_eq!(world.places(&digest, &bytes), [place("STANDARD")]);
    }
}

#[tokio::test]
async fn a_pinned_blob_is_copied_and_stays() {
    let world = World::new(&Switch::default());
    let bytes = blob();
    let digest = world.shelf.keep(&bytes);
    world.shelf.pin(digest);
    let mover = world.mover(Settings::default(), "a");
    let plan = plan_of(
        digest,
        bytes.len() as u64,
        &Place::Local,
        &place("STANDARD_IA"),
    );
    mover.begin(&plan).await.unwrap();
    let run = mover.run().await.unwrap();
    assert_eq!(run.ended[0].outcome, Outcome::Copied);
    let places = [Place::Local, place("STANDARD_IA")];
    assert_eq!(world.places(&digest, &bytes), places);
}

#[tokio::test]
async fn what_another_replica_put_into_another_class_is_brought_to_the_right_one() {
    let world = World::new(&Switch::default());
    let bytes = blob();
    let digest = world.shelf.keep(&bytes);
    world.depot.keep(&bytes, "STANDARD");
    let mover = world.mover(Settings::default(), "a");
    let plan = plan_of(
        digest,
        bytes.len() as u64,
        &Place::Local,
        &place("GLACIER_IR"),
    );
    mover.begin(&plan).await.unwrap();
    mover.run().await.unwrap();
    assert_eq!(world.places(&digest, &bytes), [place("GLACIER_IR")]);
}

#[tokio::test]
async fn a_days_money_is_the_same_after_a_restart() {
    let world = World::new(&Switch::default());
    let bytes = blob();
    let digest = world.depot.keep(&bytes, "STANDARD");
    let mut plan = plan_of(
        digest,
        bytes.len() as u64,
        &place("STANDARD"),
        &place("GLACIER_IR"),
    );
    plan.moves[0].costs = 0.7;
    let settings = Settings {
        dollars_per_day_max: 1.0,
        ..Settings::default()
    };
    let mover = world.mover(settings.clone(), "a");
    assert_eq!(mover.begin(&plan).await.unwrap(), 1);
    mover.run().await.unwrap();

    plan.moves[0].blob = world.depot.keep(b"another", "STANDARD");
    let mover = world.mover(settings, "b");
    let begun = mover.begin(&plan).await.unwrap();
    assert_eq!(begun, 0, "0.7 of 1.0 are spent");
    world.clock.advance(Duration::from_secs(86_401));
    assert_eq!(mover.begin(&plan).await.unwrap(), 1);
}
