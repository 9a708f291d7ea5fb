//! The network of a task: a namespace pinned where `ip netns exec` finds it, attached by the node's CNI plugins.
//!
//! Crash: the namespace's path is on record before it is made; detaching what was never attached succeeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orlop_cni::{Attachment, AttachmentId, Network, Plugins, Settings};
use orlop_meta::Container;
use orlop_sys::namespace::{self, Kind, Pin, Setup};
use orlop_types::{ContainerId, Namespace};

use crate::Error;
use crate::actor::TaskKey;
use crate::container::{NETWORK_CNI, NETWORK_LABEL};

/// Where `ip netns` looks.
const NAMESPACES_FOLDER: &str = "/run/netns";

/// What the interface is called inside, as everywhere.
const INTERFACE: &str = "eth0";

/// Where a task's network namespace is to be pinned, if its container asks for one.
pub(crate) fn namespace_path(key: &TaskKey, container: &Container) -> Option<PathBuf> {
    let mode = container.labels.value(NETWORK_LABEL)?;
    (mode == NETWORK_CNI).then(|| pinned_at(&key.namespace, &key.container))
}

/// Where the network namespace of a container is pinned.
pub(crate) fn pinned_at(namespace: &Namespace, container: &ContainerId) -> PathBuf {
    Path::new(NAMESPACES_FOLDER).join(format!("orlop-{}", unique(namespace, container)))
}

/// One name for a container among those of all namespaces. No id contains two hyphens in a row, so no two pairs share one.
fn unique(namespace: &Namespace, container: &ContainerId) -> AttachmentId {
    AttachmentId::new(format!("{namespace}--{container}"))
        .expect("two ids joined by hyphens keep to CNI's rule")
}

/// Makes the namespace and attaches it. Returns the addresses with their prefix lengths. Blocks.
pub(crate) fn attach(
    settings: &Settings,
    key: &TaskKey,
    path: &Path,
) -> Result<Vec<String>, Error> {
    let pinned = orlop_sys::fs::Dir::create_all(
        Path::new(NAMESPACES_FOLDER),
        orlop_sys::fs::Mode::from_raw_mode(0o755),
    );
    pinned.map_err(|source| Error::Bundle {
        operation: "make a folder for",
        path: path.to_owned(),
        source,
    })?;
    let network = load(settings, key, "attach")?;
    let pin = Pin {
        kind: Kind::Network,
        path: path.to_owned(),
    };
    namespace::create(&[pin], &Setup::default()).map_err(|source| Error::NetworkNamespace {
        container: key.container.to_string(),
        source,
    })?;
    let outcome = network
        .add(&attachment(&unique(&key.namespace, &key.container), path))
        .map_err(|source| error(key, "attach", source))?;
    Ok(outcome.ips.into_iter().map(|ip| ip.address).collect())
}

/// Detaches the namespace and unpins it, even if detaching failed. Blocks.
pub(crate) fn detach(settings: &Settings, key: &TaskKey, path: &Path) -> Result<(), Error> {
    let id = unique(&key.namespace, &key.container);
    let detached = orlop_cni::detach(settings, &Plugins, &attachment(&id, path))
        .map(drop)
        .map_err(|source| error(key, "detach", source));
    let unpinned = namespace::remove(path).map_err(|source| Error::NetworkNamespace {
        container: key.container.to_string(),
        source,
    });
    detached.and(unpinned)
}

/// What a container is attached as: name and interface.
pub(crate) fn attached_as(key: &TaskKey) -> (String, String) {
    let id = unique(&key.namespace, &key.container);
    (id.to_string(), INTERFACE.to_owned())
}

fn load(
    settings: &Settings,
    key: &TaskKey,
    attempt: &'static str,
) -> Result<Network<Plugins>, Error> {
    Network::load(settings.clone(), Plugins).map_err(|source| error(key, attempt, source))
}

fn attachment<'a>(id: &'a AttachmentId, path: &'a Path) -> Attachment<'a> {
    Attachment {
        container: id,
        namespace_path: path,
        interface: INTERFACE,
        capabilities: BTreeMap::new(),
        arguments: String::new(),
    }
}

fn error(key: &TaskKey, attempt: &'static str, source: orlop_cni::Error) -> Error {
    Error::Network {
        container: key.container.to_string(),
        attempt,
        source: Box::new(source),
    }
}
