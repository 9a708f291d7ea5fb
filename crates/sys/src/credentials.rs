//! A thread that acts as another user and keeps every capability.
//!
//! The kernel checks some things against the user alone: who may write the parameters of an IPC namespace, and whose
//! files a file system makes for its own use. Ordering: the thread ends with its job, so nothing has to be changed back
//! but what the kernel changes for the whole process.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Gid, Uid};
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, set_capabilities_secure_bits, set_thread_res_gid, set_thread_res_uid,
};

/// A user and a group, as the host calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Of threads that become somebody at the same time, each has to see what the process was before.
static BECOMING: Mutex<()> = Mutex::new(());

/// Runs `job` on a thread of its own that acts as `owner`.
pub(crate) fn on_thread_as<T: Send>(owner: Owner, job: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("owner".to_owned());
        let started = thread.spawn_scoped(scope, move || {
            become_owner(owner)?;
            Ok(job())
        })?;
        let panicked = || {
            Err(io::Error::other(
                "a thread that acts as another user panicked",
            ))
        };
        started.join().unwrap_or_else(|_panic| panicked())
    })
}

fn become_owner(owner: Owner) -> io::Result<()> {
    // Otherwise the kernel takes capabilities away from whoever is no longer the superuser.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let _held = BECOMING.lock().unwrap_or_else(PoisonError::into_inner);
    // A change of user makes the whole process one that leaves no core dump.
    let before = dumpable_behavior()?;
    set_thread_res_gid(None, Gid::from_raw(owner.gid), None)?;
    set_thread_res_uid(None, Uid::from_raw(owner.uid), None)?;
    if before == DumpableBehavior::Dumpable {
        set_dumpable_behavior(before)?;
    }
    Ok(())
}
