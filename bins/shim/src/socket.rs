//! Where servers listen: one unix socket per container or group, named by a hash so that it is short enough.

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::fault::Fault;

/// Where sockets are when the engine does not say.
pub(crate) const DEFAULT_DIR: &str = "/run/containerd/s";
/// The kernel's limit is 108 with the final zero.
const PATH_BYTES_MAX: usize = 106;

/// The socket of a group within a namespace of the engine at `engine`.
pub(crate) fn path_of(dir: &Path, engine: &str, namespace: &str, group: &str) -> PathBuf {
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(
        Path::new(engine)
            .join(namespace)
            .join(group)
            .as_os_str()
            .as_encoded_bytes(),
    ) {
        // Writing to a string cannot fail.
        write!(name, "{byte:02x}").ok();
    }
    dir.join(name)
}

/// A socket that was made, or the server that is there already.
pub(crate) enum Bound {
    /// Listen here.
    New(OwnedFd),
    /// Somebody answers here.
    Served,
}

/// Listens at `path`. A socket that a dead server left is replaced.
pub(crate) fn bind(path: &Path) -> Result<Bound, Fault> {
    if path.as_os_str().len() > PATH_BYTES_MAX {
        let text = format!(
            "the socket path {} is longer than {PATH_BYTES_MAX} bytes",
            path.display()
        );
        return Err(Fault::Invalid(text));
    }
    let fault = |error| Fault::io("listen at", path.display().to_string(), error);
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fault)?;
    }
    match listen(path) {
        Ok(listener) => Ok(Bound::New(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(Bound::Served);
            }
            fs::remove_file(path).map_err(fault)?;
            listen(path).map(Bound::New).map_err(fault)
        }
        Err(error) => Err(fault(error)),
    }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_namespace_and_group_has_a_socket_of_its_own() {
        let dir = Path::new("/s");
        let paths = [
            path_of(dir, "/a", "n", "g"),
            path_of(dir, "/b", "n", "g"),
            path_of(dir, "/a", "m", "g"),
            path_of(dir, "/a", "n", "h"),
        ];
        for (index, path) in paths.iter().enumerate() {
            assert!(!paths[..index].contains(path));
            assert_eq!(path.as_os_str().len(), "/s/".len() + 64);
        }
    }

    #[test]
    fn a_living_server_is_found_and_a_dead_ones_socket_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let Ok(Bound::New(listener)) = bind(&path) else {
            panic!("not bound");
        };
        assert!(matches!(bind(&path), Ok(Bound::Served)));
        drop(listener);
        assert!(matches!(bind(&path), Ok(Bound::New(_))));
        assert!(bind(&dir.path().join("x".repeat(120))).is_err());
    }
}
