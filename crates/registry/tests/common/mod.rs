//! What the registry's behaviour tests share.
#![allow(clippy::unwrap_used, reason = "fixtures of tests may fail the test")]
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop_base::retry::RetryPolicy;
use orlop_registry::{
    BlobSink, BlobSource, Client, ClientOptions, Error, FetchOptions, Fetched, HostTree,
    MemoryBudget,
};
use orlop_testkit::registry::{FakeRegistry, digest_of};
use orlop_types::{Descriptor, Digest, Reference};

pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A sink in memory.
#[derive(Debug)]
pub(crate) struct MemorySink {
    inner: Mutex<Inner>,
    fail_after: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    bytes: Vec<u8>,
    have: Vec<bool>,
    stored: u64,
}

impl MemorySink {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                bytes: vec![0; size],
                have: vec![false; size],
                stored: 0,
            }),
            fail_after: None,
        }
    }

    /// A sink on a disk that is full after so many bytes.
    pub(crate) fn full_after(size: usize, limit: u64) -> Self {
        Self {
            fail_after: Some(limit),
            ..Self::new(size)
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        digest_of(&self.inner.lock().unwrap().bytes)
    }

    pub(crate) fn stored(&self) -> u64 {
        self.inner.lock().unwrap().stored
    }
}

impl BlobSink for MemorySink {
    fn missing(&self) -> Vec<Range<u64>> {
        let inner = self.inner.lock().unwrap();
        let mut missing: Vec<Range<u64>> = Vec::new();
        for (at, have) in (0u64..).zip(&inner.have) {
            match missing.last_mut() {
                _ if *have => {}
                Some(last) if last.end == at => last.end += 1,
                Some(_) | None => missing.push(at..at + 1),
            }
        }
        missing
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap();
        inner.stored += bytes.len() as u64;
        if self.fail_after.is_some_and(|limit| inner.stored > limit) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let start = usize::try_from(offset).unwrap();
        inner.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        inner.have[start..start + bytes.len()].fill(true);
        Ok(())
    }
}

/// A blob in memory, to be pushed.
#[derive(Debug)]
pub(crate) struct Source(pub(crate) Vec<u8>);

impl BlobSource for Source {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.0.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Bytes that no compression and no shifted range would leave as they are.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// Options with short waits and small ranges: 64 KiB from 128 KiB on.
pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        fetch: FetchOptions {
            threshold_bytes: 128 << 10,
            chunk_bytes: 64 << 10,
            no_progress: Duration::from_millis(400),
            ..FetchOptions::default()
        },
        retry: RetryPolicy {
            initial: Duration::from_millis(5),
            ceiling_max: Duration::from_millis(20),
            attempts_max: 3,
            ..RetryPolicy::default()
        },
        budget: MemoryBudget::default(),
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

pub(crate) fn reference(registry: &FakeRegistry, repository: &str, tag: &str) -> Reference {
    registry.reference(repository, tag).parse().unwrap()
}

/// Puts `bytes` as a blob of `app` and describes it.
pub(crate) fn put(registry: &FakeRegistry, bytes: &[u8]) -> Descriptor {
    let digest = registry.put_blob("app", bytes.to_vec());
    Descriptor::new(LAYER, digest, bytes.len() as u64)
}

/// Fetches a blob of `app` into a new sink and says what the sink then holds.
pub(crate) async fn fetch(
    client: &Client,
    registry: &FakeRegistry,
    descriptor: &Descriptor,
) -> (Arc<MemorySink>, Result<Fetched, Error>) {
    let sink = Arc::new(MemorySink::new(usize::try_from(descriptor.size).unwrap()));
    let reference = reference(registry, "app", "latest");
    let result = client
        .fetch_blob(
            &reference,
            descriptor,
            Arc::clone(&sink) as Arc<dyn BlobSink>,
        )
        .await;
    (sink, result)
}

/// A tree with one `hosts.toml` for `registry`.
#[allow(
    clippy::disallowed_methods,
    reason = "tests write their fixtures directly"
)]
pub(crate) fn hosts(folder: &Path, registry: &str, text: &str) -> HostTree {
    let below = folder.join(registry);
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("hosts.toml"), text).unwrap();
    HostTree::new([folder.to_owned()])
}
