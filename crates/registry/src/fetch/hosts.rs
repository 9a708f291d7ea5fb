//! What was learnt about hosts: who serves ranges wrongly, who asked for a pause, and how busy each is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::FetchOptions;

/// Shared by all blobs of a client. Forgotten with the process: it costs one failed range to learn again.
#[derive(Debug)]
pub(crate) struct HostMemory {
    hosts: Mutex<HashMap<String, Host>>,
    parallel: usize,
    ranges_avoided_for: Duration,
}

#[derive(Debug)]
struct Host {
    places: Arc<Semaphore>,
    ranges_avoided_until: Option<Instant>,
    paused_until: Option<Instant>,
}

impl HostMemory {
    pub(crate) fn new(options: &FetchOptions) -> Self {
        Self {
            hosts: Mutex::default(),
            parallel: options.parallel_per_host.max(1),
            ranges_avoided_for: options.ranges_avoided_for,
        }
    }

    /// Whether ranges may be asked of `host`.
    pub(crate) fn serves_ranges(&self, host: &str) -> bool {
        let now = Instant::now();
        self.with(host, |host| {
            host.ranges_avoided_until.is_none_or(|until| until <= now)
        })
    }

    /// Notes that `host` served a range wrongly.
    pub(crate) fn avoid_ranges(&self, host: &str) {
        let until = Instant::now() + self.ranges_avoided_for;
        self.with(host, |host| host.ranges_avoided_until = Some(until));
    }

    /// Notes that `host` wants no request for a while, from any blob.
    pub(crate) fn pause(&self, host: &str, pause: Duration) {
        let until = Instant::now() + pause;
        self.with(host, |host| {
            host.paused_until = host.paused_until.max(Some(until))
        });
    }

    /// Waits until `host` may be asked: its pause is over and one of its places is free.
    pub(crate) async fn place(&self, host: &str) -> OwnedSemaphorePermit {
        let places = self.with(host, |host| Arc::clone(&host.places));
        let place = places
            .acquire_owned()
            .await
            .expect("places are never closed");
        while let Some(until) = self
            .with(host, |host| host.paused_until)
            .filter(|until| *until > Instant::now())
        {
            tokio::time::sleep_until(until).await;
        }
        place
    }

    fn with<T>(&self, name: &str, use_host: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.lock();
        if let Some(host) = hosts.get_mut(name) {
            return use_host(host);
        }
        let host = hosts.entry(name.to_owned()).or_insert_with(|| Host {
            places: Arc::new(Semaphore::new(self.parallel)),
            ranges_avoided_until: None,
            paused_until: None,
        });
        use_host(host)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
