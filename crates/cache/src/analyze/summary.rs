//! From requests to figures: what was pulled how often in the last 7 and 30 days, what that costs, and what a cache in
//! front would have saved.

use std::collections::{BTreeMap, HashSet};

use super::{Request, Subject};
use crate::policy::{Policy, Split};
use crate::tier::{Prices, gigabytes};

const DAY_SECONDS: i64 = 86_400;

/// What the server takes for small objects.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Requests of one kind within some days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub requests: u64,
    /// Bytes that were sent.
    pub bytes: u64,
}

/// How one blob was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobUse {
    /// Its digest.
    pub digest: String,
    /// Its size, as far as any request tells: the most that was sent at once.
    pub size: u64,
    /// Who had it.
    pub repositories: Vec<String>,
    /// How many clients had it in thirty days.
    pub clients: u64,
    /// The last seven days.
    pub week: Window,
    /// The last thirty days.
    pub month: Window,
    /// All of the log.
    pub all: Window,
}

/// How one repository was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUse {
    /// Its name; empty for what the log tells of none.
    pub name: String,
    /// Requests for manifests in thirty days: pulls, or looks whether there is anything new.
    pub manifests: u64,
    /// Requests for blobs in the last seven days.
    pub week: Window,
    /// Requests for blobs in the last thirty days.
    pub month: Window,
}

/// What a cache of a given size would have done with the requests, all of them, from empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Savings {
    /// The cache's size.
    pub room_bytes: u64,
    /// What it would have answered itself.
    pub hits: Window,
    /// What it would have asked for.
    pub misses: Window,
    /// What the hits cost without it, in dollars: requests to the object store, and bytes that left the region.
    pub dollars: f64,
}

/// What a log says.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The first request's time, in seconds since 1970; `None` if there is none.
    pub from: Option<i64>,
    /// The last one's. The windows end there.
    pub until: Option<i64>,
    /// The blobs, those with the most bytes in thirty days first.
    pub blobs: Vec<BlobUse>,
    /// The repositories, in the same order.
    pub repositories: Vec<RepositoryUse>,
    /// Pulls of whole images in thirty days, as a container engine's log tells them; the most pulled first.
    pub images: Vec<(String, u64)>,
    /// All requests for blobs.
    pub all: Window,
    /// What all of it cost, in dollars.
    pub dollars: f64,
    /// What caches would have saved, by their sizes.
    pub savings: Vec<Savings>,
}

/// Adds up what logs tell. `requests` need be in no order.
#[must_use]
pub fn summarize(mut requests: Vec<Request>, prices: &Prices, rooms_bytes: &[u64]) -> Summary {
    requests.sort_by_key(|request| request.at);
    let from = requests.first().map(|request| request.at);
    let until = requests.last().map(|request| request.at);
    let mut totals = Totals::default();
    for request in &requests {
        totals.add(request, until.unwrap_or_default());
    }
    let savings = rooms_bytes
        .iter()
        .map(|room| totals.replay(&requests, *room, prices))
        .collect();
    Summary {
        from,
        until,
        savings,
        all: totals.all,
        dollars: dollars(prices, totals.all),
        blobs: totals.blobs(),
        repositories: totals.repositories(),
        images: totals.images(),
    }
}

impl Window {
    fn add(&mut self, bytes: u64) {
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

#[derive(Default)]
struct Totals<'a> {
    blobs: BTreeMap<&'a str, BlobTotal<'a>>,
    repositories: BTreeMap<&'a str, RepositoryUse>,
    images: BTreeMap<&'a str, u64>,
    all: Window,
}

#[derive(Default)]
struct BlobTotal<'a> {
    size: u64,
    repositories: HashSet<&'a str>,
    clients: HashSet<&'a str>,
    week: Window,
    month: Window,
    all: Window,
}

impl<'a> Totals<'a> {
    fn add(&mut self, request: &'a Request, until: i64) {
        let age = until - request.at;
        let (in_week, in_month) = (age < 7 * DAY_SECONDS, age < 30 * DAY_SECONDS);
        match &request.subject {
            Subject::Image(name) => *self.images.entry(name).or_default() += u64::from(in_month),
            Subject::Manifest(_) => {
                let repository = repository_of(&mut self.repositories, &request.repository);
                repository.manifests += u64::from(in_month);
            }
            Subject::Blob(digest) => {
                self.all.add(request.bytes);
                let blob = self.blobs.entry(digest).or_default();
                blob.size = blob.size.max(request.size.unwrap_or(request.bytes));
                blob.repositories.insert(&request.repository);
                blob.all.add(request.bytes);
                let repository = repository_of(&mut self.repositories, &request.repository);
                if in_month {
                    blob.clients.insert(&request.client);
                    blob.month.add(request.bytes);
                    repository.month.add(request.bytes);
                }
                if in_week {
                    blob.week.add(request.bytes);
                    repository.week.add(request.bytes);
                }
            }
        }
    }

    /// Asks the server's own policy, request by request. A miss brings the whole blob, whatever part was asked for.
    fn replay(&self, requests: &'a [Request], room: u64, prices: &Prices) -> Savings {
        let mut policy = Split::new(room, SMALL_BYTES_MAX);
        let (mut hits, mut misses) = (Window::default(), Window::default());
        for request in requests {
            let Subject::Blob(digest) = &request.subject else {
                continue;
            };
            let digest = digest.as_str();
            let size = self
                .blobs
                .get(digest)
                .map_or(request.bytes, |blob| blob.size);
            if policy.request(&digest, size) {
                hits.add(request.bytes);
            } else {
                misses.add(size);
            }
        }
        Savings {
            room_bytes: room,
            hits,
            misses,
            dollars: dollars(prices, hits),
        }
    }

    fn blobs(&self) -> Vec<BlobUse> {
        let named = |names: &HashSet<&str>| {
            let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            names.retain(|name| !name.is_empty());
            names.sort();
            names
        };
        let mut blobs: Vec<_> = self
            .blobs
            .iter()
            .map(|(digest, blob)| BlobUse {
                digest: (*digest).to_owned(),
                size: blob.size,
                repositories: named(&blob.repositories),
                clients: blob.clients.iter().filter(|name| !name.is_empty()).count() as u64,
                week: blob.week,
                month: blob.month,
                all: blob.all,
            })
            .collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse((blob.month.bytes, blob.all.bytes)));
        blobs
    }

    fn repositories(&self) -> Vec<RepositoryUse> {
        let mut repositories: Vec<_> = self.repositories.values().cloned().collect();
        repositories.sort_by_key(|one| std::cmp::Reverse(one.month.bytes));
        repositories
    }

    fn images(&self) -> Vec<(String, u64)> {
        let images = self.images.iter();
        let mut images: Vec<_> = images
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        images.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        images
    }
}

fn repository_of<'t, 'a>(
    all: &'t mut BTreeMap<&'a str, RepositoryUse>,
    name: &'a str,
) -> &'t mut RepositoryUse {
    all.entry(name).or_insert_with(|| RepositoryUse::new(name))
}

impl RepositoryUse {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            manifests: 0,
            week: Window::default(),
            month: Window::default(),
        }
    }
}

/// Requests and bytes as an object store in the class that restored copies have would bill them, read from outside.
fn dollars(prices: &Prices, window: Window) -> f64 {
    let class = prices.class.get(&prices.restored_as);
    #[allow(clippy::cast_precision_loss, reason = "a log has no 2^53 lines")]
    let requests = window.requests as f64;
    let per_request = class.map_or(0.0, |class| class.get_per_1k) / 1000.0;
    requests * per_request + gigabytes(window.bytes) * prices.egress_per_gb
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = DAY_SECONDS;

    fn blob(day: i64, digest: &str, client: &str, bytes: u64) -> Request {
        Request {
            at: day * DAY,
            client: client.to_owned(),
            repository: "app".to_owned(),
            subject: Subject::Blob(digest.to_owned()),
            bytes,
            size: Some(bytes),
        }
    }

    #[test]
    fn windows_end_at_the_last_request() {
        let requests = vec![
            blob(100, "a", "one", 10),
            blob(94, "a", "two", 10),
            blob(93, "a", "three", 10),
            blob(71, "a", "four", 10),
            blob(70, "a", "five", 10),
        ];
        let summary = summarize(requests, &Prices::default(), &[]);
        let blob = &summary.blobs[0];
        assert_eq!(blob.week.requests, 2);
        assert_eq!(blob.month.requests, 4);
        assert_eq!(blob.all.requests, 5);
        assert_eq!(blob.clients, 4);
        assert_eq!(summary.from, Some(70 * DAY));
        assert_eq!(summary.repositories[0].month.bytes, 40);
    }

    #[test]
    fn a_cache_with_room_for_all_asks_for_each_blob_once() {
        let requests: Vec<_> = (0..50)
            .map(|index| blob(index, if index % 2 == 0 { "a" } else { "b" }, "x", 2 << 20))
            .collect();
        let summary = summarize(requests, &Prices::default(), &[1 << 30, 0]);
        let [roomy, none] = &summary.savings[..] else {
            panic!("two rooms were asked for");
        };
        assert_eq!((roomy.hits.requests, roomy.misses.requests), (48, 2));
        assert_eq!((none.hits.requests, none.misses.requests), (0, 50));
        assert!(roomy.dollars > 0.0 && roomy.dollars < summary.dollars);
    }

    #[test]
    fn a_range_is_a_part_of_its_blob() {
        let mut part = blob(1, "a", "x", 5);
        part.size = None;
        let summary = summarize(
            vec![blob(0, "a", "x", 100), part],
            &Prices::default(),
            &[1000],
        );
        assert_eq!(summary.blobs[0].size, 100);
        assert_eq!(summary.savings[0].hits.bytes, 5);
    }

    #[test]
    fn nothing_is_no_error() {
        let summary = summarize(Vec::new(), &Prices::default(), &[1]);
        assert_eq!((summary.from, summary.blobs.len()), (None, 0));
    }
}
