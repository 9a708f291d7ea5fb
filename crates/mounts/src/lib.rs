//! Mounts made ahead of their user: what the kernel cannot mount by itself, step by step on a folder.
//!
//! Purpose: what containerd's mount manager does (`core/mount/manager`). A client gives a list of mounts; those up to the
//! last one that needs help are made here, each in a folder of its own, and the rest is given back for the client to
//! make. Help is a loop device (`loop`), a new file system in a file (`mkfs/…`), a folder (`mkdir/…`), a name of an
//! earlier mount (`format/…`), or a file that is mounted as a device (`erofs`, option `loop`). Whoever only wants to look
//! has all of them made, and gets a bind mount.
//!
//! ```text
//! FOLDER/<number>/      one activation; the number is never used twice
//! ├── 000               the first mount: a folder with something on it, or a link to a loop device
//! └── 001               the next
//! ```
//!
//! Non-goals: names, labels, leases, what is kept (`meta` knows); the mounts of containers; dm-verity.
//!
//! Invariants:
//! - a number stands for all that was made for it: [`Store::remove`] takes it down, in the reverse order, any number of
//!   times, also after a crash in the middle of [`Store::make`];
//! - what could not be made whole is taken down before the error is told;
//! - files and folders are only made beneath the roots that the store was opened with, and no link is followed there.
//!
//! Crash: folder first, then the mount; a loop device goes by itself until its link is there, and is known by its tag
//! after. Cancellation: none, every call ends; programs have a deadline. Ordering: calls for different numbers may run at
//! the same time, those for one number may not.
//!
//! Entry points: [`Plan::new`], [`Store::open`].

mod error;
mod options;
mod plan;
mod prepare;
mod store;
mod template;

pub use error::Error;
pub use plan::Plan;
pub use store::{Active, Made, Store};
