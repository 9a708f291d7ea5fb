//! Namespaces that outlive their makers, pinned as files: a network where `ip netns` looks for it, IPC and UTS beside it.
//!
//! Whatever has to happen inside a namespace happens on a thread of its own that ends right after: no other thread of the
//! process ever changes its namespaces, and nothing is forked.
//!
//! A user namespace needs a process to be made by ([`user`]); the others can belong to one.
//!
//! Crash: between the mount point and the mount a crash leaves an empty file, which [`create`] takes over and [`remove`]
//! removes. Cancellation: none; every call ends by itself. Ordering: a namespace is pinned when it is set up, so what is
//! pinned is whole.

mod hold;
pub mod user;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// What could not be done with a namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}")]
pub struct NamespaceError {
    /// What was tried.
    pub operation: &'static str,
    /// A path, a kernel parameter or a host name.
    pub subject: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl NamespaceError {
    /// The stable id of this kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "ORL-E6301"
    }
}

/// What a namespace separates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Interfaces, addresses, routes, ports, `net.*`.
    Network,
    /// System V IPC, POSIX queues.
    Ipc,
    /// The host's name.
    Uts,
}

impl Kind {
    const fn flag(self) -> UnshareFlags {
        match self {
            Self::Network => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
        }
    }

    /// Where a thread sees its own.
    const fn own(self) -> &'static str {
        match self {
            Self::Network => "/proc/thread-self/ns/net",
            Self::Ipc => "/proc/thread-self/ns/ipc",
            Self::Uts => "/proc/thread-self/ns/uts",
        }
    }
}

/// A namespace to be made, and the file it is to be found at. The file's folder must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What it separates.
    pub kind: Kind,
    /// The file.
    pub path: PathBuf,
}

/// A kernel parameter of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its file beneath `/proc/sys`, such as `net/core/somaxconn`.
    pub path: PathBuf,
    /// What is written to it.
    pub value: String,
    /// Whether a kernel that does not have it may do without.
    pub optional: bool,
}

/// How new namespaces are set up. A new network has its loopback interface up in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// The host name, at most 64 bytes; without one the present name is taken over. Needs [`Kind::Uts`].
    pub hostname: Option<String>,
    /// Kernel parameters. The caller sees to it that they belong to namespaces that are made: others are the host's.
    pub parameters: Vec<Parameter>,
}

/// Makes namespaces, sets them up and pins them. If all of them are pinned already, they stay as they are.
///
/// # Errors
/// [`NamespaceError`]; then nothing is pinned.
pub fn create(pins: &[Pin], setup: &Setup) -> Result<(), NamespaceError> {
    if pins.iter().all(|pin| is_pinned(&pin.path)) {
        return Ok(());
    }
    let made = prepare(pins).and_then(|()| on_own_thread(|| make(pins, setup)));
    made.inspect_err(|_| withdraw(pins))
}

/// After a failure: the first error is the one to be told, and a pin that stays is taken over by the next try.
fn withdraw(pins: &[Pin]) {
    for pin in pins {
        drop(remove(&pin.path));
    }
}

/// Pins the namespace that `source` stands for, such as `/proc/PID/ns/pid`, at `target`.
///
/// # Errors
/// [`NamespaceError`]; then nothing is pinned.
pub fn pin(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    make_mount_point(target)?;
    bind(source, target).inspect_err(|_| drop(remove(target)))
}

/// Unpins a namespace; it ends with its last process. Nothing there is no error.
///
/// # Errors
/// [`NamespaceError`].
pub fn remove(path: &Path) -> Result<(), NamespaceError> {
    let failed = failed("unpin a namespace from", path.display());
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

/// Sets kernel parameters inside the namespace at `path`.
///
/// # Errors
/// The namespace cannot be entered, or the first parameter that the kernel refuses.
pub fn set_parameters(path: &Path, parameters: &[Parameter]) -> Result<(), NamespaceError> {
    within(path, || write_parameters(parameters))?
}

/// Runs `job` inside the namespace at `path`, on a thread of its own. What it opens stays in that namespace.
///
/// # Errors
/// The namespace cannot be entered.
pub fn within<T: Send>(path: &Path, job: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    on_own_thread(|| {
        let failed = failed("enter the namespace at", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        // Only this thread moves, and it ends soon.
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            None::<LinkNameSpaceType>,
        )
        .map_err(|errno| failed(errno.into()))?;
        Ok(job())
    })
}

fn failed(operation: &'static str, subject: impl ToString) -> impl Fn(io::Error) -> NamespaceError {
    let subject = subject.to_string();
    move |source| NamespaceError {
        operation,
        subject: subject.clone(),
        source,
    }
}

fn on_own_thread<T: Send>(
    job: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    let failed = failed("use", "a thread for namespaces");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned());
        let started = thread.spawn_scoped(scope, job).map_err(&failed)?;
        started
            .join()
            .unwrap_or_else(|_panic| Err(failed(io::Error::other("it panicked"))))
    })
}

/// Empty files for mounts to lie on. Namespaces of an earlier try go: they may be set up differently.
fn prepare(pins: &[Pin]) -> Result<(), NamespaceError> {
    for pin in pins {
        remove(&pin.path)?;
        make_mount_point(&pin.path)?;
    }
    Ok(())
}

fn make_mount_point(path: &Path) -> Result<(), NamespaceError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o444)
        .open(path)
        .map(drop)
        .map_err(failed("make", path.display()))
}

/// On a thread of its own.
fn make(pins: &[Pin], setup: &Setup) -> Result<(), NamespaceError> {
    let flags = pins
        .iter()
        .fold(UnshareFlags::empty(), |flags, pin| flags | pin.kind.flag());
    // SAFETY: only this thread changes its namespaces, it holds nothing of the old ones, and it ends soon.
    #[allow(unsafe_code, reason = "unshare is unsafe in general; see SAFETY")]
    let unshared = unsafe { unshare_unsafe(flags) };
    unshared.map_err(|errno| failed("make", "namespaces")(errno.into()))?;
    set_up(pins, setup)?;
    pin_own(pins)
}

/// Sets up the namespaces of this thread, which are those of `pins`.
fn set_up(pins: &[Pin], setup: &Setup) -> Result<(), NamespaceError> {
    if pins.iter().any(|pin| pin.kind == Kind::Network) {
        raise_loopback().map_err(failed("raise", "the loopback interface"))?;
    }
    if let Some(hostname) = &setup.hostname {
        let bytes = hostname.as_bytes();
        rustix::system::sethostname(bytes)
            .map_err(|errno| failed("set the host name", hostname)(errno.into()))?;
    }
    write_parameters(&setup.parameters)
}

fn pin_own(pins: &[Pin]) -> Result<(), NamespaceError> {
    for pin in pins {
        bind(Path::new(pin.kind.own()), &pin.path)?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    mount(source, target, "", MountFlags::BIND, None)
        .map_err(|errno| failed("pin a namespace at", target.display())(errno.into()))
}

fn write_parameters(parameters: &[Parameter]) -> Result<(), NamespaceError> {
    for parameter in parameters {
        match write_parameter(parameter) {
            Err(error) if parameter.optional && error.kind() == io::ErrorKind::NotFound => {}
            outcome => {
                outcome.map_err(failed("set the kernel parameter", parameter.path.display()))?
            }
        }
    }
    Ok(())
}

fn write_parameter(parameter: &Parameter) -> io::Result<()> {
    let mut components = parameter.path.components();
    if !components.all(|component| matches!(component, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The kernel takes a value in one write.
    OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(&parameter.path))?
        .write_all(parameter.value.as_bytes())
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
