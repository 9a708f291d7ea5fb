//! Files and directories, reached through descriptors instead of path texts.
//!
//! Purpose: the one home of what is easy to get wrong with files: staying beneath a root, replacing a file
//! atomically, removing a tree, copying without copying, locking a root, measuring it.
//!
//! Non-goals: metadata of images (ownership, xattrs, whiteouts: the tar applier's), mounts, anything asynchronous.
//!
//! Invariants:
//! - a [`Name`] is one path component: never empty, `.`, `..` or with a slash, so that joining it cannot name
//!   the folder itself or a place above it;
//! - nothing in here follows a symbolic link beneath a [`Dir`], save [`Dir::open_in_root`], which keeps links inside;
//! - [`remove_tree_beneath`] and [`usage_beneath`] never cross a mount: the kernel enforces it at the moment of
//!   opening (`RESOLVE_NO_XDEV`), so that there is no window between a check and its use;
//! - a function that says "durable" has synced the file and the directory that names it.
//!
//! Crash: [`Dir::write_atomic`], and while the kernel lives [`Dir::write_volatile`], leave the old or the new content,
//! and at worst a stray temporary file that [`Dir::remove_stale_temporaries`] takes away; [`remove_tree_beneath`] leaves
//! a smaller tree and may be repeated.
//! Cancellation: all calls block and end by themselves; none waits for another process.
//! Ordering: removal is depth-first, a directory after all that is in it.

mod atomic;
mod copy;
mod dir;
mod error;
mod lock;
mod name;
mod remove;
mod stat;
mod unnamed;
mod usage;
mod walk;
mod writeback;

pub use copy::{CopyMethod, copy_contents};
pub use dir::{Dir, Entries, Entry};
pub use error::FsError;
pub use lock::LockFile;
pub use name::{Name, NameError};
pub use remove::remove_tree_beneath;
pub use stat::{FileKind, Stat};
pub use usage::{FreeSpace, Usage, free_space, usage_beneath};
pub use writeback::start_writeback;

// Callers pass flags to `Dir::open_beneath`; they need not depend on the same version of rustix by luck.
pub use rustix::fs::{Mode, OFlags};
