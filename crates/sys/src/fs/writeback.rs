//! Asking the kernel to begin writing early.
#![allow(
    unsafe_code,
    reason = "sync_file_range(2) has no safe wrapper in rustix"
)]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Begins to write out the dirty pages of `length_bytes` at `offset_bytes` without waiting, so that a later sync
/// has little left to wait for. It promises nothing: only a sync makes bytes durable, and reports that they are not.
pub fn start_writeback(file: &File, offset_bytes: u64, length_bytes: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset_bytes), i64::try_from(length_bytes))
    else {
        return;
    };
    // SAFETY: the call takes no pointers, and the descriptor is open for as long as `file` is borrowed.
    // Its result is of no use: what cannot be started early is written by the sync, which reports failures.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
