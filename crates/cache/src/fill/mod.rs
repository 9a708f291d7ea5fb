//! Filling: each blob comes from upstream once, however many clients wait for it.
//!
//! A fill is a task of the server and not of a request: it goes on when every client has gone. Whoever asks for a blob
//! that is being filled follows the fill: the answer begins with the upstream's first byte and its last chunk is
//! withheld until the digest has been found right; if it is wrong, the connection is cut and nothing is kept.
//!
//! Crash: what came stays in the store and is asked for from there on, by the next request or by [`Fills::resume`].
//! Cancellation: a follower that is dropped leaves the fill alone; a server that ends keeps the bytes that came.
//! Ordering: the row is in the store before the fill is forgotten, and a fill looks there before it asks upstream, so
//! no blob is fetched twice in between.

mod election;
mod flight;
mod follow;
mod passing;
mod run;
mod shared;
mod sink;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_base::telemetry::names;
use orlop_types::{Descriptor, Digest, Reference};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

pub use self::election::{Alone, Brought, Election, NoTier, Pending, Tier, Verdict};
pub use self::flight::{Flight, Start};
pub use self::follow::Follower;
pub use self::passing::Passing;
pub use self::shared::{DepotTier, FleetElection};

use crate::origin::{Origins, Recent, Trouble, TroubleKind};
use crate::rights::Tenant;
use crate::store::{Store, StoreError};

const FILL: TaskKind = TaskKind::cooperative("cache-fill");

/// Fills at once; what is beyond is refused for a moment.
const FLIGHTS_MAX: usize = 256;
/// Parts that are far ahead of their fill, fetched beside it, at once.
const SIDE_FETCHES_MAX: usize = 8;
/// Interrupted fills that a start takes up by itself; the others wait for somebody to ask.
const RESUMED_MAX: usize = 32;
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Blobs passed through at once: each may hold a thread while its client reads.
const PASSED_MAX: usize = 6;
/// A blob that found no room is not tried again for so long.
const CRAMPED_FOR: Duration = Duration::from_secs(60);
const CRAMPED_MAX: usize = 1024;

/// A blob that somebody wants.
#[derive(Debug, Clone)]
pub struct Order {
    /// With whose right.
    pub tenant: Tenant,
    /// Through which repository.
    pub reference: Reference,
    /// Digest, size, and the media type if it is known.
    pub descriptor: Descriptor,
}

/// All fills of a server. Clones are the same.
#[derive(Clone)]
pub struct Fills {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    origins: Origins,
    election: Arc<dyn Election>,
    tier: Arc<dyn Tier>,
    tasks: TaskTree,
    sides: Arc<Semaphore>,
    passes: Arc<Semaphore>,
    /// What found no room lately.
    cramped: Mutex<Recent<Digest, ()>>,
    clock: SharedClock,
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    figure: Gauge,
}

impl Fills {
    /// No fill yet.
    #[must_use]
    pub fn new(
        store: Store,
        origins: Origins,
        election: Arc<dyn Election>,
        tier: Arc<dyn Tier>,
        tasks: &TaskTree,
    ) -> Self {
        let clock = origins.clock();
        Self {
            inner: Arc::new(Inner {
                store,
                origins,
                election,
                tier,
                tasks: tasks.child("fills"),
                sides: Arc::new(Semaphore::new(SIDE_FETCHES_MAX)),
                passes: Arc::new(Semaphore::new(PASSED_MAX)),
                cramped: Mutex::new(Recent::new(CRAMPED_MAX)),
                clock,
                flights: Mutex::default(),
                figure: Gauge::default(),
            }),
        }
    }

    /// The fill of a blob: the one under way, or a new one, and whether it is new.
    ///
    /// # Errors
    /// Too many are under way.
    pub fn join(&self, order: &Order) -> Result<(Arc<Flight>, bool), Trouble> {
        let mut flights = self.inner.flights();
        let digest = order.descriptor.digest;
        if let Some(flight) = flights.get(&digest) {
            return Ok((Arc::clone(flight), false));
        }
        if flights.len() >= FLIGHTS_MAX {
            let text = format!("{FLIGHTS_MAX} blobs are being filled already");
            return Err(Trouble::new(TroubleKind::Room, text).after(BUSY_PAUSE));
        }
        let flight = Flight::new(digest, order.descriptor.size, order.tenant.fingerprint());
        flights.insert(digest, Arc::clone(&flight));
        drop(flights);
        self.inner.figure.inc();
        self.spawn(&flight, order.clone());
        Ok((flight, true))
    }

    /// Shows how many fills are under way among `registry`'s figures.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            names::CACHE_FILLS_UNDER_WAY,
            "Blobs that are being filled",
            self.inner.figure.clone(),
        );
    }

    /// How many fills are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner.flights().len()
    }

    /// Takes up what an earlier process was filling, with the service's credentials, and says how many those are.
    ///
    /// # Errors
    /// The store cannot say.
    pub fn resume(&self) -> Result<usize, StoreError> {
        let mut resumed = 0;
        for unfinished in self.inner.store.unfinished()? {
            let Ok(reference) = unfinished.locator.parse::<Reference>() else {
                continue;
            };
            let media_type = "application/octet-stream";
            let order = Order {
                tenant: Tenant::service(),
                reference,
                descriptor: Descriptor::new(media_type, unfinished.digest, unfinished.size),
            };
            resumed += usize::from(self.join(&order).is_ok());
            if resumed == RESUMED_MAX {
                break;
            }
        }
        Ok(resumed)
    }

    /// Brings a part that is far ahead of the fill, beside it and into the same place, unless too many are under way.
    pub fn fetch_ahead(&self, flight: &Arc<Flight>, order: &Order, range: std::ops::Range<u64>) {
        let Ok(place) = Arc::clone(&self.inner.sides).try_acquire_owned() else {
            return;
        };
        let (inner, flight, order) = (Arc::clone(&self.inner), Arc::clone(flight), order.clone());
        let side = TaskKind::dropped("cache-fetch-ahead");
        drop(self.inner.tasks.spawn(side, |_| async move {
            run::fetch_ahead(&inner, &flight, &order, range).await;
            drop(place);
        }));
    }

    /// Passes a blob through that there is no room for, and keeps nothing.
    ///
    /// # Errors
    /// The upstream's, or ours for it; too many are passed through already.
    pub async fn pass(&self, order: &Order) -> Result<Passing, Trouble> {
        let Ok(place) = Arc::clone(&self.inner.passes).try_acquire_owned() else {
            let text = "there is no room for the blob, and others are passed through already";
            return Err(Trouble::new(TroubleKind::Room, text).after(BUSY_PAUSE));
        };
        Passing::begin(&self.inner, order.clone(), place).await
    }

    fn spawn(&self, flight: &Arc<Flight>, order: Order) {
        let (inner, flown) = (Arc::clone(&self.inner), Arc::clone(flight));
        let digest = flight.digest();
        // Forgotten however it ends: a task that panics or is never started must not leave followers waiting.
        let end = Landing {
            inner: Arc::clone(&self.inner),
            flight: Arc::clone(flight),
        };
        drop(self.inner.tasks.spawn(FILL, |ending| async move {
            let _landing = end;
            let outcome = ending
                .run_until_cancelled(run::fill(&inner, &flown, &order))
                .await
                .unwrap_or_else(|| Err(Trouble::new(TroubleKind::Ending, "the cache is ending")));
            if let Err(trouble) = &outcome {
                tracing::warn!(%digest, locator = order.reference.locator(), %trouble, "a fill failed");
            }
            flown.land(outcome);
        }));
    }
}

/// Takes a flight out of the list.
struct Landing {
    inner: Arc<Inner>,
    flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.flight.digest());
        self.inner.figure.dec();
        self.flight
            .land(Err(Trouble::new(TroubleKind::Ending, "the fill ended")));
    }
}

impl Inner {
    /// Whether a blob found no room a moment ago.
    fn is_cramped(&self, digest: &Digest) -> bool {
        let now = self.clock.boottime();
        let cramped = self.cramped.lock().unwrap_or_else(PoisonError::into_inner);
        cramped.find(digest, now).is_some()
    }

    fn note_cramped(&self, digest: Digest) {
        let now = self.clock.boottime();
        let mut cramped = self.cramped.lock().unwrap_or_else(PoisonError::into_inner);
        cramped.keep(digest, (), now, now + CRAMPED_FOR);
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        // Every change is one insertion or removal.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
