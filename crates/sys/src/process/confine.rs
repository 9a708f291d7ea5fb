//! What a program does to itself so that nothing can be gained from it: for the first process of a process namespace that
//! containers share.
//!
//! Only for programs of one thread. Ordering: [`enter_and_unshare`] in the program that starts the first process, then
//! [`confine`] in that process.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{DumpableBehavior, chdir, pivot_root, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags, clear_ambient_capability_set,
    move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

/// A folder that every root has; the new root is mounted over it for a moment, where nobody else sees it.
const MOUNT_POINT: &str = "/proc";

/// Moves into the pinned user namespace at `path` and becomes its superuser, so that nothing of the host's is left of it.
///
/// # Errors
/// The kernel refuses.
pub fn enter_as_superuser(path: &Path) -> io::Result<()> {
    enter(path)?;
    set_thread_groups(&[])?;
    let (group, user) = (Gid::ROOT, Uid::ROOT);
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// Moves into the pinned namespaces at `paths`, and has its next child begin a process namespace, with mounts and cgroups
/// of its own.
///
/// # Errors
/// The kernel refuses.
pub fn enter_and_unshare(paths: &[PathBuf]) -> io::Result<()> {
    for path in paths {
        enter(path)?;
    }
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
    // SAFETY: the program has one thread and shares neither descriptors nor memory with another.
    #[allow(unsafe_code, reason = "unshare is unsafe in general; see SAFETY")]
    let unshared = unsafe { unshare_unsafe(flags) };
    Ok(unshared?)
}

fn enter(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        None::<LinkNameSpaceType>,
    )?)
}

/// Puts an empty root in place of the host's, gives up every capability, and hides from those who could look inside.
///
/// # Errors
/// The kernel refuses; the process must end then.
pub fn confine() -> io::Result<()> {
    leave_root()?;
    set_no_new_privs(true)?;
    drop_capabilities()?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn leave_root() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    mount(
        "none",
        MOUNT_POINT,
        "tmpfs",
        flags,
        Some(c"size=4k,mode=0555"),
    )?;
    chdir(MOUNT_POINT)?;
    // The old root ends up beneath the new one, and goes at once.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY | flags;
    Ok(rustix::mount::mount_remount("/", read_only, c"")?)
}

fn drop_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Beyond the last capability that this kernel has.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, sets)?)
}
