//! What a fill does, from the election to the row in the store.

use std::ops::Range;
use std::sync::Arc;

use orlop_base::blocking;
use orlop_registry::{BlobSink, Fetched};

use super::election::{Brought, Verdict};
use super::flight::{Flight, Phase};
use super::sink::{Answered, Part, Whole};
use super::{Inner, Order};
use crate::origin::{Trouble, TroubleKind};
use crate::store::{ErrorKind, Fill, Opening, StoreError};

/// Where the bytes are to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whence {
    Upstream,
    Tier,
}

/// Fills one blob.
pub(super) async fn fill(
    inner: &Inner,
    flight: &Arc<Flight>,
    order: &Order,
) -> Result<Phase, Trouble> {
    if inner.is_cramped(&flight.digest()) {
        return Ok(Phase::NoRoom);
    }
    // Whoever holds the verdict keeps other processes from filling until the end of this function.
    let (from, _held) = match inner.election.stand(&flight.digest()).await {
        Verdict::Ours(held) => (Whence::Upstream, Some(held)),
        Verdict::Elsewhere => (Whence::Tier, None),
    };
    let fill = match open(inner, flight, order).await? {
        Opening::Begun(fill) => fill,
        Opening::Present => return Ok(Phase::Stored),
        Opening::NoRoom { .. } => return Ok(Phase::NoRoom),
        Opening::Busy => {
            let text = format!("{} is being written by somebody else here", flight.digest());
            return Err(Trouble::new(TroubleKind::Room, text).after(super::BUSY_PAUSE));
        }
    };
    flight.open(fill.clone());
    let fetched = match bring(inner, flight, order, &fill, from).await {
        Ok(fetched) => fetched,
        Err(trouble) => {
            if trouble.kind == TroubleKind::Room {
                give_up(inner, fill).await;
            }
            return Err(trouble);
        }
    };
    match commit(fill, order).await? {
        Ok(()) => {
            if fetched.is_some() {
                let size = flight.size_bytes();
                inner.tier.offer(&flight.digest(), size).await;
            }
            Ok(Phase::Stored)
        }
        Err(error) if error.kind() == ErrorKind::WrongBytes => {
            distrust(inner, order, fetched).await;
            Err(Trouble::new(TroubleKind::WrongBytes, error.to_string()))
        }
        Err(error) => Err(trouble_of(&error)),
    }
}

/// The disk takes no more: what came is given back to it, and who asks next is passed through.
async fn give_up(inner: &Inner, fill: Fill) {
    inner.note_cramped(*fill.digest());
    let given_up = blocking::run("cache-give-up", move || fill.abandon()).await;
    if let Ok(Err(error)) = given_up {
        tracing::warn!(error = %orlop_types::chain(&error), "what came of a fill stays on the disk");
    }
}

/// Followers have bytes of the wrong blob and are cut. Whoever asks next gets them from another host, if there is one.
async fn distrust(inner: &Inner, order: &Order, fetched: Option<Fetched>) {
    let Some(fetched) = fetched else { return };
    let told = inner
        .origins
        .distrust(&order.tenant, &order.reference, &order.descriptor, &fetched);
    if let Err(trouble) = told.await {
        tracing::warn!(%trouble, "no host is left that gave this blob as it is");
    }
}

/// Brings what is missing; what upstream gave, if it was asked.
async fn bring(
    inner: &Inner,
    flight: &Arc<Flight>,
    order: &Order,
    fill: &Fill,
    from: Whence,
) -> Result<Option<Fetched>, Trouble> {
    let sink: Arc<dyn BlobSink> = Arc::new(Whole::new(fill.clone(), Arc::clone(flight)));
    let size = flight.size_bytes();
    let brought = inner
        .tier
        .bring(&flight.digest(), size, Arc::clone(&sink))
        .await;
    if brought == Brought::Whole {
        return Ok(None);
    }
    if from == Whence::Tier {
        tracing::info!(digest = %flight.digest(), "another cache filled it, but the shared tier does not give it");
    }
    let observer = Arc::new(Answered(Arc::clone(flight)));
    inner
        .origins
        .fetch(
            &order.tenant,
            &order.reference,
            &order.descriptor,
            sink,
            observer,
        )
        .await
        .map(Some)
        .map_err(|trouble| archived(trouble, brought))
}

/// A blob that upstream cannot give, and that is archived, is neither missing nor lost: it is late.
fn archived(trouble: Trouble, brought: Brought) -> Trouble {
    let Brought::Archived(again) = brought else {
        return trouble;
    };
    match trouble.kind {
        TroubleKind::NotFound
        | TroubleKind::Failing(_)
        | TroubleKind::Unreachable
        | TroubleKind::TimedOut
        | TroubleKind::Resting
        | TroubleKind::Unusable => {
            let text = format!("the blob is archived, and upstream does not give it: {trouble}");
            let late = Trouble::new(TroubleKind::Failing(503), text);
            match again {
                Some(again) => late.after(again),
                None => late,
            }
        }
        TroubleKind::Unauthorized
        | TroubleKind::Forbidden
        | TroubleKind::Throttled
        | TroubleKind::WrongBytes
        | TroubleKind::Room
        | TroubleKind::Ending => trouble,
    }
}

/// Brings a part beside the fill. A failure is nobody's: the fill comes there in the end.
pub(super) async fn fetch_ahead(
    inner: &Inner,
    flight: &Arc<Flight>,
    order: &Order,
    range: Range<u64>,
) {
    let Some(fill) = flight.fill() else { return };
    let whole = Whole::new(fill, Arc::clone(flight));
    let sink = Arc::new(Part { whole, range });
    let observer = Arc::new(Answered(Arc::clone(flight)));
    let Order {
        tenant,
        reference,
        descriptor,
    } = order;
    let fetch = inner
        .origins
        .fetch(tenant, reference, descriptor, sink, observer);
    if let Err(trouble) = fetch.await {
        tracing::info!(digest = %descriptor.digest, %trouble, "a part could not be fetched ahead");
    }
}

async fn open(inner: &Inner, flight: &Flight, order: &Order) -> Result<Opening, Trouble> {
    let (store, digest, size) = (inner.store.clone(), flight.digest(), flight.size_bytes());
    let locator = order.reference.locator();
    let opened = blocking::run("cache-open-fill", move || {
        store.fill(&digest, size, &locator)
    })
    .await
    .map_err(|error| Trouble::new(TroubleKind::Ending, error.to_string()))?;
    match opened {
        Err(error) if error.kind() == ErrorKind::NoSpace => {
            inner.note_cramped(digest);
            Ok(Opening::NoRoom { room_bytes: 0 })
        }
        opened => opened.map_err(|error| trouble_of(&error)),
    }
}

async fn commit(fill: Fill, order: &Order) -> Result<Result<(), StoreError>, Trouble> {
    let media_type = order.descriptor.media_type.clone();
    let job = move || fill.commit(Some(&media_type));
    // Long: it hashes what the writes have not, and waits for the disk.
    blocking::run_long("cache-commit", job)
        .await
        .map_err(|error| Trouble::new(TroubleKind::Ending, error.to_string()))
}

fn trouble_of(error: &StoreError) -> Trouble {
    Trouble::new(TroubleKind::Room, orlop_types::chain(error))
}
