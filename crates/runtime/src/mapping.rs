//! Mounts of containers with a user namespace, prepared so that an OCI runtime that cannot map owners only has to bind.
//!
//! ```text
//! <bundle>/
//!     rootfs/         the root file system, its owners mapped
//!     mounts/<n>      the source of the spec's n-th mount, its owners mapped
//! ```
//!
//! The container's spec says which mounts are mapped, in the words of the OCI runtime spec (`uidMappings`); the bundle's
//! names the prepared ones instead. Crash: all is within the bundle, and goes with it.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};
use orlop_sys::mount::{MountError, locked_options, mount_mapped};
use orlop_sys::namespace::NamespaceError;
use orlop_sys::namespace::user::UserNamespace;
use orlop_types::{IdMaps, IdRange, Mount};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The folder of prepared mounts.
pub(crate) const FOLDER: &str = "mounts";

/// Why a mount could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The pod's user namespace is not where it should be.
    #[error("the user namespace cannot be used")]
    Namespace(#[source] NamespaceError),
    /// The kernel refused: usually the file system cannot be mapped.
    #[error("{} cannot be mounted with other owners", subject.display())]
    Mount {
        /// The root file system's place, or the source.
        subject: PathBuf,
        /// Why.
        #[source]
        source: MountError,
    },
    /// The source cannot be looked at.
    #[error("cannot look at {}", subject.display())]
    Source {
        /// The source.
        subject: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The spec is not one.
    #[error("the spec cannot be understood")]
    Spec(#[source] serde_json::Error),
}

/// Through which user namespace a task's files are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    /// Where it is pinned.
    namespace: PathBuf,
    maps: IdMaps,
}

impl Mapping {
    /// Of a spec whose container joins a user namespace.
    pub(crate) fn of_spec(spec: &[u8]) -> Option<Self> {
        let spec: Spec = serde_json::from_slice(spec).ok()?;
        let linux = spec.linux().as_ref()?;
        let mut namespaces = linux.namespaces().iter().flatten();
        let user = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)?;
        Some(Self {
            namespace: user.path().clone()?,
            maps: IdMaps {
                uids: ranges(linux.uid_mappings()),
                gids: ranges(linux.gid_mappings()),
            },
        })
    }

    /// Mounts a root file system and what the spec wants mapped, in a bundle that has the place for the former. Returns the
    /// spec for the OCI runtime. On failure mounts may be left in the bundle, for its removal.
    pub(crate) fn prepare(
        &self,
        bundle: &Path,
        spec: &[u8],
        rootfs: &[Mount],
    ) -> Result<Vec<u8>, MappingError> {
        let users =
            UserNamespace::open(&self.namespace, &self.maps).map_err(MappingError::Namespace)?;
        let place = bundle.join("rootfs");
        for mount in rootfs {
            mount_mapped(mount, &users, &place).map_err(failed(&place))?;
        }
        let mut spec: Value = serde_json::from_slice(spec).map_err(MappingError::Spec)?;
        let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
        for (index, mount) in mounts.into_iter().flatten().enumerate() {
            let place = bundle.join(FOLDER).join(index.to_string());
            prepare_mount(mount, &place, &users)?;
        }
        serde_json::to_vec(&spec).map_err(MappingError::Spec)
    }
}

/// Ranges as the OCI runtime spec has them.
pub(crate) fn to_spec(ranges: &[IdRange]) -> Vec<LinuxIdMapping> {
    let to_spec = |range: &IdRange| {
        let builder = LinuxIdMappingBuilder::default()
            .container_id(range.inside)
            .host_id(range.outside)
            .size(range.count);
        builder
            .build()
            .expect("every field of a range has a default")
    };
    ranges.iter().map(to_spec).collect()
}

fn ranges(mappings: &Option<Vec<LinuxIdMapping>>) -> Vec<IdRange> {
    let range = |mapping: &LinuxIdMapping| IdRange {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    };
    mappings.iter().flatten().map(range).collect()
}

/// Of a mount of the spec that is mapped: its source becomes the prepared one. Of any bind: what is locked is asked for.
fn prepare_mount(
    mount: &mut Value,
    place: &Path,
    users: &UserNamespace,
) -> Result<(), MappingError> {
    let is = |word: &str| {
        let options = mount.get("options").and_then(Value::as_array);
        options.is_some_and(|options| options.iter().any(|option| option == word))
    };
    let recursive = is("rbind");
    if !recursive && !is("bind") {
        return Ok(());
    }
    let source = mount.get("source").and_then(Value::as_str);
    let source = PathBuf::from(source.unwrap_or_default());
    let locked = locked_options(&source).map_err(|error| MappingError::Source {
        subject: source.clone(),
        source: error,
    })?;
    let Some(fields) = mount.as_object_mut() else {
        return Ok(());
    };
    let is_mapped = fields.remove("uidMappings").is_some() | fields.remove("gidMappings").is_some();
    if is_mapped {
        let option = if recursive { "rbind" } else { "bind" };
        let bind = Mount {
            fs_type: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec![option.to_owned()],
        };
        mount_mapped(&bind, users, place).map_err(failed(&source))?;
        fields.insert("source".to_owned(), json!(place.to_string_lossy()));
    }
    if let Some(options) = fields.get_mut("options").and_then(Value::as_array_mut) {
        options.extend(locked.into_iter().map(Value::from));
    }
    Ok(())
}

fn failed(subject: &Path) -> impl Fn(MountError) -> MappingError {
    let subject = subject.to_owned();
    move |source| MappingError::Mount {
        subject: subject.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_that_of_the_user_namespace_that_is_joined() {
        let spec = |namespace: Value| {
            json!({"ociVersion": "1.0.2", "linux": {
                "namespaces": [{"type": "pid"}, namespace],
                "uidMappings": [{"containerID": 0, "hostID": 7, "size": 9}],
                "gidMappings": [{"containerID": 0, "hostID": 8, "size": 9}],
            }})
        };
        let of = |spec: Value| Mapping::of_spec(&serde_json::to_vec(&spec).unwrap());
        let joined = of(spec(json!({"type": "user", "path": "/run/user"}))).unwrap();
        assert_eq!(joined.namespace, Path::new("/run/user"));
        assert_eq!(joined.maps.superuser(), Some((7, 8)));
        assert_eq!(of(spec(json!({"type": "user"}))), None);
        assert_eq!(of(spec(json!({"type": "ipc"}))), None);
    }

    #[test]
    fn ranges_survive_the_way_into_a_spec_and_back() {
        let range = IdRange {
            inside: 1,
            outside: 2,
            count: 3,
        };
        assert_eq!(ranges(&Some(to_spec(&[range]))), [range]);
    }
}
