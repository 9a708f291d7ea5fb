//! The name of every metric, in one place: `orlop_<noun>_<unit>[_total]`.
//!
//! The registry adds the prefix `orlop_`, and `_total` to counters, so neither is written here.

/// Gauge by `kind`: tasks alive.
pub const TASKS_ALIVE: &str = "tasks_alive";
/// Counter by `kind`: tasks that panicked.
pub const TASK_PANICS: &str = "task_panics";
/// Counter: blocking jobs that panicked.
pub const BLOCKING_JOB_PANICS: &str = "blocking_job_panics";

/// Counter by `host` and `outcome`: bytes received from registries.
pub const PULL_BYTES: &str = "pull_bytes";
/// Histogram by `host` and `outcome`: seconds from a pull's begin to its end.
pub const PULL_SECONDS: &str = "pull_seconds";
/// Counter by `outcome`: bytes written into ingests.
pub const INGEST_BYTES: &str = "ingest_bytes";
/// Histogram by `outcome`: seconds spent unpacking a layer.
pub const UNPACK_SECONDS: &str = "unpack_seconds";
/// Counter by `outcome`: bytes of file content that unpacking wrote.
pub const UNPACK_BYTES: &str = "unpack_bytes";

/// Histogram by `phase`: seconds of a collection.
pub const COLLECTION_SECONDS: &str = "collection_seconds";
/// Counter by `resource` and `outcome`: records removed, keys whose bytes went, tries that failed.
pub const COLLECTED_KEYS: &str = "collected_keys";
/// Counter: bytes that collection gave back to the disk.
pub const COLLECTED_BYTES: &str = "collected_bytes";
/// Counter: collections that could not be done.
pub const COLLECTION_FAILURES: &str = "collection_failures";
/// Gauge by `state` (waiting, failing): items in the sweep queue.
pub const SWEEP_QUEUE_ITEMS: &str = "sweep_queue_items";

/// Counter by `outcome` (sent, failed, dropped): spans.
pub const SPANS: &str = "spans";

/// Gauge by `namespace` and `container`: bytes of memory a container uses.
pub const CONTAINER_MEMORY_BYTES: &str = "container_memory_bytes";
/// Counter by `namespace` and `container`: processor seconds a container has used.
pub const CONTAINER_CPU_SECONDS: &str = "container_cpu_seconds";
/// Counter by `namespace` and `container`: times the kernel killed for lack of memory.
pub const CONTAINER_OOM_KILLS: &str = "container_oom_kills";
/// Counter by `cause`: containers that ended. Ends while the daemon was away count when they are learnt.
pub const CONTAINER_ENDS: &str = "container_ends";
/// Gauge: pods whose network was found not to work.
pub const POD_NETWORK_FAULTS: &str = "pod_network_faults";
/// Gauge: proportional share of memory of all shims, in bytes.
pub const SHIM_MEMORY_BYTES: &str = "shim_memory_bytes";
/// Histogram by `step` and `outcome`: seconds of one step of a container's start.
pub const START_STEP_SECONDS: &str = "start_step_seconds";

/// Counter by `outcome`: events delivered to subscribers or dropped for slow ones.
pub const EVENTS: &str = "events";
/// Histogram by `method` and `code`: seconds of a call to the daemon.
pub const CALL_SECONDS: &str = "call_seconds";

/// Gauge by `class`: bytes that the cache's store holds or has promised.
pub const CACHE_HELD_BYTES: &str = "cache_held_bytes";
/// Gauge: blobs and manifests that can be found in the cache.
pub const CACHE_BLOBS: &str = "cache_blobs";
/// Gauge: the most bytes the cache may have on disk.
pub const CACHE_CAP_BYTES: &str = "cache_cap_bytes";
/// Counter: blobs and manifests taken in.
pub const CACHE_FILLS: &str = "cache_fills";
/// Counter: bytes of blobs and manifests taken in.
pub const CACHE_FILLED_BYTES: &str = "cache_filled_bytes";
/// Counter by `reason`: blobs given up.
pub const CACHE_EVICTIONS: &str = "cache_evictions";
/// Counter by `reason`: bytes of blobs given up.
pub const CACHE_EVICTED_BYTES: &str = "cache_evicted_bytes";
/// Counter: blobs found damaged and set aside.
pub const CACHE_DAMAGED_BLOBS: &str = "cache_damaged_blobs";
/// Counter: bytes hashed again by the scrub.
pub const CACHE_SCRUBBED_BYTES: &str = "cache_scrubbed_bytes";
/// Counter: changes of the cache's database that failed.
pub const CACHE_DATABASE_FAILURES: &str = "cache_database_failures";
/// Counter by `source` and `outcome`: requests in the ledger.
pub const CACHE_REQUESTS: &str = "cache_requests";
/// Counter by `source`: bytes sent to clients.
pub const CACHE_SENT_BYTES: &str = "cache_sent_bytes";
/// Counter: requests that the ledger could not take or write.
pub const CACHE_LEDGER_DROPPED: &str = "cache_ledger_dropped";
/// Gauge by `digest`: pulls of the most pulled blobs in seven days.
pub const CACHE_TOP_BLOB_PULLS: &str = "cache_top_blob_pulls";
/// Counter by `status`: answers of the cache.
pub const CACHE_ANSWERS: &str = "cache_answers";
/// Histogram by `source`: seconds from a request to the end of its answer.
pub const CACHE_REQUEST_SECONDS: &str = "cache_request_seconds";
/// Counter: answers with what was kept because the upstream could not say.
pub const CACHE_STALE_ANSWERS: &str = "cache_stale_answers";
/// Gauge: connections of the cache's clients.
pub const CACHE_CONNECTIONS: &str = "cache_connections";
/// Gauge: blobs that the cache is filling.
pub const CACHE_FILLS_UNDER_WAY: &str = "cache_fills_under_way";
