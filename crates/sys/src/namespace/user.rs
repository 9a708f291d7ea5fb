//! User namespaces, and namespaces that belong to one.
//!
//! A thread cannot leave its process's user namespace, and nothing is forked here. So a program of ours is started that
//! unshares and then stays stopped, traced by this thread ([`hold`]); it inherits no descriptor, and nothing can make it go
//! on. Its maps are written and read back, its namespaces opened and pinned, and it is ended.
//!
//! Crash: the holder ends with the thread that traces it. Cancellation: none; every wait has a deadline. Ordering: the
//! user namespace is pinned first; what is pinned is mapped and set up.
//!
//! Source: containerd #10611 made a traced child for each mount of an overlay; here there is one for each pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use orlop_types::IdMaps;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::hold::Held;
pub use super::hold::hold;
use super::{
    Kind, NamespaceError, Pin, Setup, bind, failed, is_pinned, make_mount_point, on_own_thread,
    pin_own, prepare, remove, set_up, withdraw, write_parameters,
};
use crate::credentials::{Owner, on_thread_as};
use crate::process::Spawn;

/// The word that makes a program hold a user namespace.
pub const HOLDER: &str = "user-namespace";

/// How a user namespace is made.
#[derive(Debug, Clone, Copy)]
pub struct Making<'a> {
    /// A program that calls [`hold`] with what follows the word [`HOLDER`] on its command line.
    pub program: &'a Path,
    /// How its ids map to the host's.
    pub maps: &'a IdMaps,
    /// How long the holder may take to be ready.
    pub limit: Duration,
}

/// A user namespace, kept alive by a descriptor.
#[derive(Debug)]
pub struct UserNamespace {
    descriptor: OwnedFd,
    superuser: Owner,
}

impl UserNamespace {
    /// Makes one that ends with the value and with the mounts that were given its map.
    ///
    /// # Errors
    /// The maps are bad, the holder cannot be started, or the kernel refuses.
    pub fn make(making: &Making<'_>) -> Result<Self, NamespaceError> {
        let superuser = superuser(making.maps)?;
        on_own_thread(|| {
            let held = start(making, &[])?;
            let descriptor = open(&held, "user")?.into();
            Ok(Self {
                descriptor,
                superuser,
            })
        })
    }

    /// Opens the one that is pinned at `path` and was made with `maps`.
    ///
    /// # Errors
    /// There is none, or the maps are bad.
    pub fn open(path: &Path, maps: &IdMaps) -> Result<Self, NamespaceError> {
        let failed = failed("open the user namespace at", path.display());
        let superuser = superuser(maps)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        if !is_pinned(path) {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        Ok(Self {
            descriptor,
            superuser,
        })
    }

    /// Its superuser, as the host calls it.
    pub(crate) const fn superuser(&self) -> Owner {
        self.superuser
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Makes a user namespace and namespaces that belong to it, sets these up, and pins them all, the user namespace at
/// `path`. If all of them are pinned already, they stay as they are.
///
/// # Errors
/// [`NamespaceError`]; then nothing is pinned.
pub fn create_owned(
    making: &Making<'_>,
    path: &Path,
    pins: &[Pin],
    setup: &Setup,
) -> Result<(), NamespaceError> {
    if is_pinned(path) && pins.iter().all(|pin| is_pinned(&pin.path)) {
        return Ok(());
    }
    let owner = superuser(making.maps)?;
    let make = || {
        remove(path)?;
        make_mount_point(path)?;
        prepare(pins)?;
        on_own_thread(|| {
            let held = start(making, pins)?;
            let user = open(&held, "user")?;
            enter(&held, pins)?;
            set_up_as(owner, pins, setup)?;
            let user = format!("/proc/self/fd/{}", user.as_raw_fd());
            bind(Path::new(&user), path)?;
            pin_own(pins)
        })
    };
    make().inspect_err(|_| {
        withdraw(pins);
        // The first error is the one to be told.
        drop(remove(path));
    })
}

fn superuser(maps: &IdMaps) -> Result<Owner, NamespaceError> {
    let refused = |fault: String| {
        failed("take", "id maps")(io::Error::new(io::ErrorKind::InvalidInput, fault))
    };
    maps.check().map_err(|fault| refused(fault.to_string()))?;
    let (uid, gid) = maps
        .superuser()
        .ok_or_else(|| refused("id 0 is not mapped".to_owned()))?;
    Ok(Owner { uid, gid })
}

/// On the thread that is to trace it. The holder gets no descriptor but those of its answer.
fn start(making: &Making<'_>, pins: &[Pin]) -> Result<Held, NamespaceError> {
    let holder = Spawn::new(making.program)
        .env_clear()
        .arg(HOLDER)
        .arg(std::process::id().to_string())
        .args(pins.iter().map(|pin| pin.kind.name()))
        .dir("/")
        .own_group();
    let held = Held::start(holder, making.limit).map_err(failed("make", "a user namespace"))?;
    held.map("uid_map", &making.maps.uids)
        .map_err(failed("map", "user ids"))?;
    held.map("gid_map", &making.maps.gids)
        .map_err(failed("map", "group ids"))?;
    Ok(held)
}

fn open(held: &Held, kind: &str) -> Result<File, NamespaceError> {
    let failed = failed("open", format!("a new {kind} namespace"));
    let file = File::open(held.file(&format!("ns/{kind}"))).map_err(&failed)?;
    if held.is_alive() {
        return Ok(file);
    }
    Err(failed(io::Error::other("its process ended")))
}

/// Moves this thread into those of the holder's namespaces that are to be pinned.
fn enter(held: &Held, pins: &[Pin]) -> Result<(), NamespaceError> {
    for pin in pins {
        let namespace = open(held, pin.kind.name())?;
        move_into_link_name_space(namespace.as_fd(), None::<LinkNameSpaceType>)
            .map_err(|errno| failed("enter", pin.path.display())(errno.into()))?;
    }
    Ok(())
}

/// The parameters of an IPC namespace are for its superuser alone, whatever the capabilities of others; those of a network
/// are for whoever may administrate it.
fn set_up_as(owner: Owner, pins: &[Pin], setup: &Setup) -> Result<(), NamespaceError> {
    let parameters = setup.parameters.iter().cloned();
    let (networks, others): (Vec<_>, Vec<_>) =
        parameters.partition(|parameter| parameter.path.starts_with("net"));
    let first = Setup {
        parameters: networks,
        ..setup.clone()
    };
    set_up(pins, &first)?;
    if others.is_empty() {
        return Ok(());
    }
    on_thread_as(owner, || write_parameters(&others))
        .map_err(failed("act as", "the superuser of a user namespace"))?
}

impl Kind {
    /// Its name below `/proc/PID/ns`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    /// The kind of a name below `/proc/PID/ns`.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Network, Self::Ipc, Self::Uts]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}
