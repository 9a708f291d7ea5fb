//! The Container Runtime Interface, version 1, over the operations of the engine.
//!
//! Purpose: what the kubelet, crictl and critest speak. One file per call translates a request into calls of `runtime` and
//! `image`, and their answer into a message.
//!
//! Non-goals: deciding anything that another façade would need as well: pods, their containers and their images live in
//! the crates below.
//!
//! Invariants:
//! - everything is in the namespace `k8s.io`, where `ctr -n k8s.io` and `orlop -n k8s.io` see it;
//! - every id, reference and path of a request is parsed before it goes further;
//! - stopping and removing what is not there succeeds, as the kubelet relies on (`api.proto` of CRI);
//! - no call blocks a thread of the async runtime;
//! - messages are at most 16 MiB, as in containerd.
//!
//! Entry points: [`Cri::new`] and [`Cri::add_to`].

mod auth;
mod container;
mod disk;
mod figures;
mod find;
mod image;
mod metrics;
mod pods;
mod readiness;
mod runtime;
mod stats;
mod status;
mod stream;
mod streaming;
mod translate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_api::runtime::v1::image_service_server::ImageServiceServer;
use orlop_api::runtime::v1::runtime_service_server::RuntimeServiceServer;
use orlop_base::task::TaskTree;
use orlop_image::images::{Images, Scope};
use orlop_meta::Db;
use orlop_runtime::Runtime;
use orlop_types::{Namespace, SnapshotterName};
use tonic::service::Routes;

use disk::Disk;
use figures::Rates;
use readiness::Readiness;

pub use readiness::{Handler, ProbeHandlers};
#[cfg(feature = "fuzzing")]
pub use streaming::fuzz as fuzz_streaming;
pub use streaming::{Streaming, StreamingError, StreamingOptions, TlsFiles};

/// The engine's namespace of everything that Kubernetes makes.
const NAMESPACE: &str = "k8s.io";

/// The longest message in either direction, in bytes: containerd's own limit.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn namespace() -> Namespace {
    Namespace::new(NAMESPACE).expect("the constant is a sound namespace")
}

/// What CRI stands on.
#[derive(Clone)]
pub struct Parts {
    /// The engine's version.
    pub version: String,
    /// The records.
    pub db: Db,
    /// What runs pods and containers.
    pub runtime: Runtime,
    /// What moves images.
    pub images: Images,
    /// Where each snapshotter keeps its folders.
    pub snapshot_roots: BTreeMap<SnapshotterName, PathBuf>,
    /// Whether cgroups are made by systemd.
    pub systemd_cgroups: bool,
    /// Tries the runtimes that pods can name.
    pub probe: ProbeHandlers,
    /// Where exec, attach and port-forward are streamed.
    pub streaming: Streaming,
    /// How long output of a command is waited for after its end.
    pub exec_drain: std::time::Duration,
    /// Owns what outlives a call.
    pub tasks: TaskTree,
}

/// The two services of CRI. Clones are the same.
#[derive(Clone)]
pub struct Cri {
    parts: Arc<Parts>,
    namespace: Namespace,
    disk: Arc<Disk>,
    rates: Arc<Rates>,
    readiness: Arc<Readiness>,
}

impl Cri {
    /// CRI over `parts`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let readiness = Arc::new(Readiness::new(Arc::clone(&parts.probe)));
        Self {
            parts: Arc::new(parts),
            namespace: namespace(),
            disk: Arc::default(),
            rates: Arc::default(),
            readiness,
        }
    }

    /// Adds both services to what a socket serves.
    #[must_use]
    pub fn add_to(self, routes: Routes) -> Routes {
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let images = ImageServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        routes.add_service(runtime).add_service(images)
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Processor time at the last samples.
    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Whose images.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            namespace: self.namespace.clone(),
            lease: None,
        }
    }

    /// The folder of a snapshotter, for people and for the kubelet's measure of the file system it is on.
    pub(crate) fn snapshot_folder(&self, snapshotter: &SnapshotterName) -> String {
        let folder = self.parts.snapshot_roots.get(snapshotter);
        folder.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.parts.runtime
    }

    pub(crate) fn images(&self) -> &Images {
        &self.parts.images
    }

    pub(crate) fn db(&self) -> &Db {
        &self.parts.db
    }

    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
