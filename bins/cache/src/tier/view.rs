//! What there is: the bucket's list, how often each blob was pulled, and which blobs are pulled together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use orlop_base::blocking;
use orlop_base::clock::{Clock as _, SystemClock};
use orlop_cache::depot::{Depot as _, Listed};
use orlop_cache::fleet::{Fleet, Pulls};
use orlop_cache::ledger::LedgerReader;
use orlop_cache::store::Inspection;
use orlop_cache::tier::{Blob, Image, Place};
use orlop_types::Digest;

use crate::error::CacheError;
use crate::shared::Shared;

/// Objects that are planned for. More are left where they are, and told.
const OBJECTS_MAX: usize = 2_000_000;

/// Manifests and configurations are too small to be moved, and so is whatever is smaller than they are.
const MOVED_BYTES_MIN: u64 = 128 << 10;

/// Where the cache's folder has its pulls and images.
const DATABASE: &str = "cache.db";

const DAY_SECONDS: u64 = 86_400;

/// Pulls in the last seven and thirty days, by digest.
type Counts = BTreeMap<String, (u64, u64)>;

/// What a plan is made of.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) blobs: BTreeMap<Digest, Blob>,
    pub(super) images: Vec<Image<Digest>>,
    /// Objects that are too small to be moved.
    pub(super) small: usize,
    /// Whether there are more objects than anybody plans for.
    pub(super) is_cut: bool,
}

/// Looks into the bucket, and into the folder for what is known of pulls and images.
pub(super) async fn look(
    shared: &Shared,
    root: &Path,
    upstream_per_gb: Option<f64>,
) -> Result<Seen, CacheError> {
    let now = SystemClock.wall();
    let folder = root.to_owned();
    let known = blocking::run_long("look into the cache's folder", move || local(&folder, now));
    let (mut counts, images) = known
        .await
        .map_err(|error| CacheError::Tier(error.into()))??;
    if let Some(fleet) = &shared.fleet {
        add_fleet(fleet.as_ref(), &mut counts).await?;
    }
    let mut seen = Seen::default();
    let mut after = None;
    loop {
        let page = shared.depot.list(after.as_ref()).await;
        let page = page.map_err(CacheError::Depot)?;
        for object in &page.objects {
            if object.bytes < MOVED_BYTES_MIN {
                seen.small += 1;
                continue;
            }
            let blob = blob(object, &counts, upstream_per_gb, now);
            seen.blobs.insert(object.digest, blob);
        }
        after = page.next;
        seen.is_cut = seen.blobs.len() >= OBJECTS_MAX && after.is_some();
        if after.is_none() || seen.is_cut {
            break;
        }
    }
    seen.images = with_strays(images, &seen.blobs);
    Ok(seen)
}

fn blob(object: &Listed, counts: &Counts, upstream_per_gb: Option<f64>, now: SystemTime) -> Blob {
    let pulls = counts.get(&object.digest.to_string()).copied();
    let (pulls_7d, pulls_30d) = pulls.unwrap_or_default();
    let there = now.duration_since(object.since).unwrap_or_default();
    Blob {
        bytes: object.bytes,
        pulls_7d,
        pulls_30d,
        place: Place::Stored(object.class.clone()),
        days_there: u32::try_from(there.as_secs() / DAY_SECONDS).unwrap_or(u32::MAX),
        upstream_per_gb,
    }
}

/// A blob whose image nobody here knows is an image of its own.
fn with_strays(
    mut images: Vec<Image<Digest>>,
    blobs: &BTreeMap<Digest, Blob>,
) -> Vec<Image<Digest>> {
    let known: BTreeSet<Digest> = images
        .iter()
        .flat_map(|image| image.blobs.iter().copied())
        .collect();
    let strays = blobs.keys().filter(|digest| !known.contains(digest));
    images.extend(strays.map(|digest| Image {
        name: digest.to_string(),
        blobs: [*digest].into(),
    }));
    images
}

/// What the folder knows. A cache that was never used has none.
fn local(root: &Path, now: SystemTime) -> Result<(Counts, Vec<Image<Digest>>), CacheError> {
    if !root.join(DATABASE).exists() {
        return Ok((Counts::new(), Vec::new()));
    }
    let counts = LedgerReader::open(root).and_then(|ledger| ledger.frequencies(now));
    let counts = counts.map_err(CacheError::Ledger)?;
    let images = images(root).map_err(CacheError::Store)?;
    Ok((counts, images))
}

fn images(root: &Path) -> Result<Vec<Image<Digest>>, orlop_cache::store::StoreError> {
    let inspection = Inspection::open(root, SystemClock::shared())?;
    let mut images = Vec::new();
    for listed in inspection.list(usize::MAX)? {
        let is_manifest = listed
            .media_type
            .as_deref()
            .is_some_and(|kind| kind.contains("manifest"));
        if !is_manifest {
            continue;
        }
        let info = inspection.blob(&listed.digest)?;
        let name = info.tags.first().cloned().unwrap_or_else(|| {
            let repository = listed.repositories.first().map_or("", String::as_str);
            format!("{repository}@{}", listed.digest.short())
        });
        images.push(Image {
            name,
            blobs: info.children.iter().map(|child| child.digest).collect(),
        });
    }
    Ok(images)
}

/// What all replicas have told. What this one has not told yet it knows better.
async fn add_fleet(fleet: &dyn Fleet, counts: &mut Counts) -> Result<(), CacheError> {
    for pulls in fleet.pulls().await.map_err(CacheError::Fleet)? {
        let (week, month) = counts.entry(pulls.digest.to_string()).or_default();
        *week = pulls.week.max(*week);
        *month = pulls.month.max(*month);
    }
    Ok(())
}

/// Tells the other replicas how often each digest was pulled here.
pub(crate) async fn tell(fleet: &dyn Fleet, root: &Path) -> Result<(), CacheError> {
    let (folder, now) = (root.to_owned(), SystemClock.wall());
    let known = blocking::run_long("add up pulls", move || {
        let ledger = LedgerReader::open(&folder)?;
        ledger.frequencies(now)
    });
    let known = known
        .await
        .map_err(|error| CacheError::Tier(error.into()))?;
    let known = known.map_err(CacheError::Ledger)?;
    let pulls: Vec<Pulls> = known
        .into_iter()
        .filter_map(|(digest, (week, month))| {
            Some(Pulls {
                digest: digest.parse().ok()?,
                week,
                month,
            })
        })
        .collect();
    fleet.tell_pulls(&pulls).await.map_err(CacheError::Fleet)
}
