//! Whether two nodes are the same to a layer.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use orlop_sys::beneath::{self, NodeKind};

use super::pending::{Node, image_attributes};

/// Compares metadata, link texts and, where times cannot decide, content.
///
/// Directories' times do not count: every change inside changes them.
pub(super) fn is_same<A: AsFd, B: AsFd>(
    one: &Node<'_, A>,
    other: &Node<'_, B>,
) -> io::Result<bool> {
    let (a, b) = (one.stat, other.stat);
    if (a.device, a.inode) == (b.device, b.inode) {
        return Ok(true);
    }
    let metadata = a.kind == b.kind
        && (a.mode, a.uid, a.gid, a.device_number) == (b.mode, b.uid, b.gid, b.device_number);
    if !metadata
        || image_attributes(&one.parent, one.base)? != image_attributes(&other.parent, other.base)?
    {
        return Ok(false);
    }
    match a.kind {
        NodeKind::Directory => Ok(true),
        NodeKind::Symlink => Ok(beneath::read_link(&one.parent, one.base)?
            == beneath::read_link(&other.parent, other.base)?),
        NodeKind::File => is_same_file(one, other),
        NodeKind::CharDevice
        | NodeKind::BlockDevice
        | NodeKind::Fifo
        | NodeKind::Socket
        | NodeKind::Unknown => Ok(a.mtime == b.mtime),
    }
}

/// A time without nanoseconds came through an archive and says little: then content decides, as in containerd.
fn is_same_file<A: AsFd, B: AsFd>(one: &Node<'_, A>, other: &Node<'_, B>) -> io::Result<bool> {
    let (a, b) = (one.stat, other.stat);
    if a.size != b.size || a.mtime.seconds != b.mtime.seconds {
        return Ok(false);
    }
    if a.mtime.nanoseconds != 0 && b.mtime.nanoseconds != 0 {
        return Ok(a.mtime == b.mtime);
    }
    let left = File::from(beneath::open_file(&one.parent, one.base)?);
    let right = File::from(beneath::open_file(&other.parent, other.base)?);
    has_same_content(left, right)
}

fn has_same_content(mut left: impl Read, mut right: impl Read) -> io::Result<bool> {
    const PIECE_BYTES: u64 = 64 << 10;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        left.by_ref().take(PIECE_BYTES).read_to_end(&mut a)?;
        right.by_ref().take(PIECE_BYTES).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}
