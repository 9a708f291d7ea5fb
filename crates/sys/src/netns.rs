//! Network namespaces that outlive their makers, pinned where `ip netns` looks for them.
//!
//! A namespace is made on a thread of its own that ends right after: no other thread of the process ever changes its
//! namespace, and nothing is forked.
//!
//! Crash: between the mount point and the mount a crash leaves an empty file, which [`create`] takes over and [`remove`]
//! removes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What could not be done with a network namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} network namespace {}", path.display())]
pub struct NetnsError {
    /// What was tried.
    pub operation: &'static str,
    /// Where it is pinned.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl NetnsError {
    /// The stable id of this kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "ORL-E6301"
    }
}

/// Makes a network namespace with its loopback interface up, pinned at `path`, whose folder must exist. One that is
/// pinned there already stays as it is.
///
/// # Errors
/// [`NetnsError`]; then nothing is pinned.
pub fn create(path: &Path) -> Result<(), NetnsError> {
    let failed = |source| NetnsError {
        operation: "create",
        path: path.to_owned(),
        source,
    };
    if is_pinned(path) {
        return Ok(());
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o444)
        .open(path)
        .map_err(failed)?;
    let target = path.to_owned();
    let made = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || make(&target))
        .map_err(failed)?
        .join();
    let made =
        made.unwrap_or_else(|_panic| Err(io::Error::other("the thread that makes it panicked")));
    made.map_err(|source| {
        // Nothing is mounted on it: a plain file of our own making.
        drop(std::fs::remove_file(path));
        failed(source)
    })
}

/// Unpins a network namespace; it ends with its last process. Nothing there is no error.
///
/// # Errors
/// [`NetnsError`].
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    let failed = |source| NetnsError {
        operation: "remove",
        path: path.to_owned(),
        source,
    };
    while is_pinned(path) {
        unmount(path, UnmountFlags::DETACH).map_err(|errno| failed(errno.into()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a namespace is pinned at `path`, as opposed to nothing or a leftover file.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|status| u64::try_from(status.f_type) == Ok(NSFS_MAGIC))
}

fn make(target: &Path) -> io::Result<()> {
    // SAFETY: only this thread changes its network namespace, it holds no socket of the old one, and it ends soon.
    #[allow(unsafe_code, reason = "unshare is unsafe in general; see SAFETY")]
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNET)?;
    }
    raise_loopback()?;
    mount(
        "/proc/thread-self/ns/net",
        target,
        "",
        MountFlags::BIND,
        None,
    )?;
    Ok(())
}

/// Sets the flag UP of `lo` (netdevice(7)).
fn raise_loopback() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let socket = File::from(socket);
    let mut request: libc::ifreq = {
        // SAFETY: an ifreq is plain data for which all zeros are valid.
        #[allow(unsafe_code, reason = "see SAFETY")]
        unsafe {
            std::mem::zeroed()
        }
    };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(i16::MAX);
    // SAFETY: the descriptor is open and `request` is an initialised ifreq that outlives the call.
    #[allow(unsafe_code, reason = "see SAFETY")]
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
