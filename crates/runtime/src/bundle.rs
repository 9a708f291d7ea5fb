//! Bundles: the folder an OCI runtime and a shim work in (runtime-spec, bundle.md).
//!
//! ```text
//! <state>/<namespace>/<container>/
//!     config.json     the OCI spec
//!     log             what the shim has to say
//!     resolv.conf     what a container with a network of its own resolves names with
//!     rootfs/         where the root file system is mounted, by the shim or by us
//!     mounts/         what else is mounted by us, for a container with a user namespace
//!     address         where the shim listens, written by the shim
//!     exit.json       how the process ended, written by orlop-shim before the cgroup goes
//! ```
//!
//! Crash: a bundle is built before anything uses it and removed after nothing does; both can be repeated. It lies on a
//! file system that a reboot empties, and so do the processes it belongs to.

use std::path::{Path, PathBuf};

use orlop_sys::fs::{Dir, FsError, Mode, Name, remove_tree_beneath};
use orlop_sys::mount::{Unmount, unmount_all};
use orlop_types::{ContainerId, Mount, Namespace};

use crate::mapping::Mapping;
use crate::spec::{BindMount, Network};
use crate::{Error, dns};

/// An exit record larger than this was not written by our shim.
const EXIT_RECORD_BYTES_MAX: u64 = 1 << 20;

/// The address of a socket, with room to spare.
const ADDRESS_BYTES_MAX: u64 = 4096;

/// A container's bundle, whether or not it exists.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    parent: PathBuf,
    name: Name,
}

impl Bundle {
    /// Where the bundle of a container is.
    pub(crate) fn new(state: &Path, namespace: &Namespace, container: &ContainerId) -> Self {
        let name = Name::new(container.as_str()).expect("a container id is one path component");
        Self {
            parent: state.join(namespace.as_str()),
            name,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(self.name.as_os_str())
    }

    /// Makes the folder and writes the spec, with a `resolv.conf` for a task with a network of its own; what an earlier try
    /// left is replaced.
    pub(crate) fn create(&self, spec: &[u8], networked: bool) -> Result<(), Error> {
        self.make(networked)
            .and_then(|folder| write_spec(&folder, spec))
            .map_err(|source| self.error("create", source))
    }

    /// As [`Self::create`], with the root file system and other mounts in place, for a container with a user namespace.
    pub(crate) fn create_mapped(
        &self,
        spec: &[u8],
        rootfs: &[Mount],
        mapping: &Mapping,
    ) -> Result<(), Error> {
        let bundle = |source| self.error("create", source);
        let folder = self.make(false).map_err(bundle)?;
        let prepared = mapping.prepare(&self.path(), spec, rootfs);
        let spec = prepared.map_err(|source| Error::Mapping {
            container: self.name.as_os_str().to_string_lossy().into_owned(),
            source: Box::new(source),
        })?;
        write_spec(&folder, &spec).map_err(bundle)
    }

    /// The host's files that a container made by this engine shares, and where it sees them.
    ///
    /// On the host's network they are the host's own. In a network namespace of its own a container gets a copy of
    /// `resolv.conf` that makes sense there; without any network it needs none.
    pub(crate) fn shared_files(&self, network: &Network) -> Vec<BindMount> {
        let shared = |source: PathBuf, target: &str| BindMount {
            source,
            target: target.into(),
            read_only: false,
        };
        match network {
            Network::Host => ["/etc/resolv.conf", "/etc/hosts"]
                .into_iter()
                .filter(|path| Path::new(path).is_file())
                .map(|path| BindMount {
                    read_only: true,
                    ..shared(path.into(), path)
                })
                .collect(),
            Network::Pinned(_) => vec![shared(self.path().join("resolv.conf"), "/etc/resolv.conf")],
            Network::None => Vec::new(),
        }
    }

    fn make(&self, networked: bool) -> Result<Dir, FsError> {
        let parent = Dir::create_all(&self.parent, Mode::from_raw_mode(0o711))?;
        let folder = parent.ensure_dir(&self.name, Mode::from_raw_mode(0o711))?;
        folder.ensure_dir(&Name::from_static("rootfs"), Mode::from_raw_mode(0o711))?;
        // Shims append what they have to say; a plain file also takes what they say while the daemon is away.
        folder.write_volatile(&Name::from_static("log"), b"", Mode::from_raw_mode(0o600))?;
        if networked {
            let text = resolv_conf();
            folder.write_volatile(
                &Name::from_static("resolv.conf"),
                text.as_bytes(),
                Mode::from_raw_mode(0o644),
            )?;
        }
        Ok(folder)
    }

    /// Takes down what is still mounted in it and removes it. Does nothing if it is not there.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if let Err(error) = unmount_all(
            &self.path(),
            Unmount {
                detach: true,
                recursive: true,
            },
        ) {
            // The removal below refuses to cross whatever is still mounted, and says what it is.
            tracing::warn!(bundle = %self.path().display(), error = orlop_types::chain(&error), "cannot unmount what is in a bundle");
        }
        let parent = match Dir::open(&self.parent) {
            Ok(parent) => parent,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(source) => return Err(self.error("remove", source)),
        };
        match remove_tree_beneath(&parent, &self.name) {
            Ok(_freed) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(source) => Err(self.error("remove", source)),
        }
    }

    /// The exit record, if the shim wrote one.
    pub(crate) fn exit_record(&self) -> Result<Option<Vec<u8>>, Error> {
        self.read(&Name::from_static("exit.json"), EXIT_RECORD_BYTES_MAX)
    }

    /// Where the shim listens, if one has said so: containerd's shims write it here before they print it.
    pub(crate) fn shim_address(&self) -> Result<Option<Vec<u8>>, Error> {
        self.read(&Name::from_static("address"), ADDRESS_BYTES_MAX)
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        match Dir::open(&self.path()).and_then(|folder| folder.read(name, bytes_max)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(self.error("read", source)),
        }
    }

    fn error(&self, operation: &'static str, source: FsError) -> Error {
        Error::Bundle {
            operation,
            path: self.path(),
            source,
        }
    }
}

fn write_spec(folder: &Dir, spec: &[u8]) -> Result<(), FsError> {
    let name = Name::from_static("config.json");
    folder.write_volatile(&name, spec, Mode::from_raw_mode(0o600))
}

/// What the host resolves names with, made fit for another network namespace; empty if the host has nothing.
fn resolv_conf() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    dns::for_own_network(
        &read("/etc/resolv.conf").unwrap_or_default(),
        read(dns::RESOLVED_UPSTREAM).as_deref(),
    )
}
