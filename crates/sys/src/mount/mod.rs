//! Mounts through file descriptors: made detached, configured key by key, attached when whole.
//!
//! Purpose: turn containerd's mounts ([`orlop_types::Mount`]) into kernel mounts, say which option the kernel
//! refused and why, read the mount table, and take mounts down again.
//!
//! Non-goals: mount namespaces, pivot_root, fstab, helpers such as `mount.fuse3`.
//!
//! Invariants:
//! - a file system is configured with `fsopen` and `fsconfig`, one key each, so nothing is limited to a page. The
//!   one exception is overlay on kernels before 6.7, which cannot append lower folders (`legacy`);
//! - a mount is a descriptor until it is attached, so a failure before that leaves nothing behind;
//! - what [`mount_all`] attached before a failure is detached again.
//!
//! Crash: a mount attached before the process ends stays; whoever owns the target unmounts it with
//! [`unmount_all`], which is idempotent.
//!
//! Entry points: [`LoopDevice`], [`mount_all`], [`unmount_all`], [`mount_mapped`], [`Detached`], [`MountTable`], [`preflight::overlay`].

mod attributes;
mod context;
mod detached;
mod error;
mod legacy;
mod loopback;
mod mapped;
mod options;
mod overlay;
pub mod preflight;
mod table;
mod unmount;

pub use attributes::Propagation;
pub use detached::{Detached, mount_all};
pub use error::MountError;
pub use legacy::{detached_overlay_at_once, mount_overlay_at_once};
pub use loopback::LoopDevice;
pub use mapped::{locked_options, mount_mapped};
pub use overlay::{escape_layer, split_layers};
pub use table::{MountEntry, MountTable, TableError};
pub use unmount::{Unmount, UnmountError, UnmountErrors, unmount_all};
