//! One download per digest, whoever and however many want it.
//!
//! The first to ask leads: the blob is written into its namespace, with its credentials. Others, of any namespace,
//! take a seat and wait; when the flight has landed they find the blob in the store and share it.
//!
//! Cancellation: a flight ends when nobody has a seat any more; its ingest is kept, and the next one resumes it.
//! Crash: the ingest's promise. Ordering: a flight leaves the table before it says how it ended, so whoever asks then
//! starts anew.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orlop_base::blocking;
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use orlop_meta::{Expected, Ingest, IngestOptions, Opened, View};
use orlop_registry::{BlobSink, Client, Fetched, Observer, Transfer};
use orlop_types::{Descriptor, Digest, IngestRef, Labels, Reference};
use tokio::sync::watch;

use super::error::Error;
use super::progress::Meter;
use super::record::Recorder;

const FETCH: TaskKind = TaskKind::cooperative("blob-fetch");

/// How often and how long apart an ingest is tried that another writer has open: one that was just cancelled.
const OPEN_ATTEMPTS: u32 = 200;
const OPEN_PAUSE: Duration = Duration::from_millis(25);

/// All downloads under way.
#[derive(Debug, Clone)]
pub(crate) struct Flights {
    table: Arc<Mutex<HashMap<Digest, Arc<Flight>>>>,
    tasks: TaskTree,
}

/// What is to be brought, and how.
pub(crate) struct Order {
    /// Where it goes; the ingest is bound to this view's lease.
    pub(crate) view: View,
    pub(crate) client: Client,
    pub(crate) reference: Reference,
    pub(crate) descriptor: Descriptor,
    pub(crate) labels: Labels,
    pub(crate) recorder: Arc<dyn Recorder>,
}

/// How far a flight is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Nothing to read yet.
    Waiting,
    /// The growing, unverified prefix can be read.
    Open(Arc<Ingest>),
    /// All bytes are there, not yet verified.
    Verifying,
    /// It is over.
    Landed(Result<(), Arc<Error>>),
}

#[derive(Debug)]
struct Flight {
    stage: watch::Sender<Stage>,
    meter: Arc<Meter>,
    seats: Mutex<usize>,
    cancel: CancellationToken,
}

/// Interest in a flight. When the last one is dropped, the flight ends.
#[derive(Debug)]
pub(crate) struct Seat {
    flight: Arc<Flight>,
    /// Whether the blob lands in the namespace of this seat's owner.
    pub(crate) leads: bool,
}

impl Flights {
    pub(crate) fn new(tasks: &TaskTree) -> Self {
        Self {
            table: Arc::default(),
            tasks: tasks.child("fetches"),
        }
    }

    /// Joins the flight for a digest, or starts it.
    pub(crate) fn join(&self, order: Order) -> Seat {
        let digest = order.descriptor.digest;
        let mut table = self.table();
        if let Some(flight) = table.get(&digest) {
            *lock(&flight.seats) += 1;
            let flight = Arc::clone(flight);
            return Seat {
                flight,
                leads: false,
            };
        }
        let flight = Arc::new(Flight {
            stage: watch::Sender::new(Stage::Waiting),
            meter: Arc::default(),
            seats: Mutex::new(1),
            cancel: CancellationToken::new(),
        });
        table.insert(digest, Arc::clone(&flight));
        drop(table);
        let (flights, own) = (self.clone(), Arc::clone(&flight));
        let run = |stop: CancellationToken| async move {
            let result = tokio::select! {
                biased;
                () = own.cancel.cancelled() => Err(Error::Cancelled),
                () = stop.cancelled() => Err(Error::Cancelled),
                result = bring(&order, &own) => result,
            };
            flights.land(digest, &own, result).await;
        };
        drop(self.tasks.spawn(FETCH, run));
        Seat {
            flight,
            leads: true,
        }
    }

    async fn land(&self, digest: Digest, flight: &Arc<Flight>, result: Result<(), Error>) {
        // Closing an ingest syncs what it has.
        let open = flight.stage.send_replace(Stage::Waiting);
        if let Err(error) = blocking::run("ingest-close", move || drop(open)).await {
            tracing::warn!(%digest, %error, "an ingest was not closed in time");
        }
        self.table().remove(&digest);
        let result = result.map_err(Arc::new);
        flight.stage.send_replace(Stage::Landed(result));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        lock(&self.table)
    }
}

impl Seat {
    /// The counts of this flight.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.flight.meter
    }

    /// Tells `heard` every stage until the end.
    pub(crate) async fn wait(&self, mut heard: impl FnMut(&Stage)) -> Result<(), Arc<Error>> {
        let mut stages = self.flight.stage.subscribe();
        loop {
            let stage = stages.borrow_and_update().clone();
            heard(&stage);
            if let Stage::Landed(result) = stage {
                return result;
            }
            drop(stage);
            if stages.changed().await.is_err() {
                return Err(Arc::new(Error::Cancelled));
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = lock(&self.flight.seats);
        *seats -= 1;
        if *seats == 0 {
            self.flight.cancel.cancel();
        }
    }
}

/// Brings the blob, from another host if what one gave has another digest.
async fn bring(order: &Order, flight: &Flight) -> Result<(), Error> {
    loop {
        let mut fetched = None;
        let result = bring_once(order, flight, &mut fetched).await;
        let is_wrong = matches!(&result, Err(Error::Store(error)) if error.is_wrong_digest());
        let Some(fetched) = fetched.filter(|_| is_wrong) else {
            return result;
        };
        let (reference, descriptor) = (&order.reference, &order.descriptor);
        order
            .client
            .distrust(reference, descriptor, &fetched)
            .await?;
    }
}

async fn bring_once(
    order: &Order,
    flight: &Flight,
    fetched: &mut Option<Fetched>,
) -> Result<(), Error> {
    let Some(ingest) = open(order).await? else {
        return Ok(());
    };
    let ingest = Arc::new(ingest);
    if !ingest.is_shared() {
        let missing: u64 = missing(&ingest).iter().map(|gap| gap.end - gap.start).sum();
        let size = order.descriptor.size;
        flight.meter.begin(size.saturating_sub(missing));
        flight.stage.send_replace(Stage::Open(Arc::clone(&ingest)));
        let sink = Arc::new(IngestSink {
            ingest: Arc::clone(&ingest),
            meter: Arc::clone(&flight.meter),
        });
        let watch = Watch {
            meter: Arc::clone(&flight.meter),
            recorder: Arc::clone(&order.recorder),
        };
        let client = order.client.with_observer(Arc::new(watch));
        let brought = client
            .fetch_blob(&order.reference, &order.descriptor, sink)
            .await?;
        *fetched = Some(brought);
        flight.stage.send_replace(Stage::Verifying);
    }
    let labels = order.labels.clone();
    blocking::run("blob-commit", move || commit(&ingest, &labels)).await?
}

/// Opens the ingest; nothing if the namespace has the blob.
async fn open(order: &Order) -> Result<Option<Ingest>, Error> {
    let descriptor = &order.descriptor;
    // Not the names that containerd's clients use for ingests of their own: those would be in the way.
    let text = format!("fetch-{}", descriptor.digest);
    let reference = IngestRef::new(&text).map_err(Error::name(&text))?;
    let options = IngestOptions {
        expected: Expected::exactly(descriptor.size, descriptor.digest),
        media_type: Some(descriptor.media_type.clone()),
    };
    for attempt in 1.. {
        let (view, reference, options) = (order.view.clone(), reference.clone(), options.clone());
        let open = move || view.content().ingest(&reference, &options);
        match blocking::run("ingest-open", open).await? {
            Ok(Opened::Exists(_)) => return Ok(None),
            Ok(Opened::Ingest(ingest)) => return Ok(Some(ingest)),
            Err(error)
                if error.kind() == orlop_meta::ErrorKind::Unavailable
                    && attempt < OPEN_ATTEMPTS =>
            {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn commit(ingest: &Ingest, labels: &Labels) -> Result<(), Error> {
    match ingest.commit(Expected::default(), labels) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == orlop_meta::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn missing(ingest: &Ingest) -> Vec<Range<u64>> {
    ingest
        .writer()
        .map(|writer| writer.missing())
        .unwrap_or_default()
}

struct IngestSink {
    ingest: Arc<Ingest>,
    meter: Arc<Meter>,
}

impl BlobSink for IngestSink {
    fn missing(&self) -> Vec<Range<u64>> {
        missing(&self.ingest)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let writer = self
            .ingest
            .writer()
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        writer.write_at(offset, bytes).map_err(io::Error::other)?;
        self.meter.add(bytes.len() as u64);
        Ok(())
    }
}

struct Watch {
    meter: Arc<Meter>,
    recorder: Arc<dyn Recorder>,
}

impl Observer for Watch {
    fn received(&self, host: &str, _digest: &Digest, _bytes: u64) {
        self.meter.set_host(host);
    }

    fn finished(&self, transfer: &Transfer) {
        self.recorder.transferred(transfer);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
