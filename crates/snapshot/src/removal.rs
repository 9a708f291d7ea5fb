//! Deleting folders side by side.
//!
//! A deletion computes little and waits much: for the log of the file system, or on one mounted with `discard` for the
//! disk to forget each block. Side by side these waits overlap.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use orlop_sys::fs::{Dir, Name, remove_tree_beneath};

use crate::Error;

/// More deletions at once gain little, and would crowd out those who write.
const THREADS_MAX: usize = 8;

/// Fewer folders than this are not worth another thread.
const FOLDERS_PER_THREAD: usize = 4;

/// Deletes folders of `dir`, in any order. What fails for one does not stop the others.
pub(crate) fn remove_all(dir: &Dir, names: &[Name]) -> Vec<Result<(), Error>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let removed = remove_tree_beneath(dir, name);
            done.push(removed.map(drop).map_err(Error::from));
        }
        done
    };
    let threads = (names.len() / FOLDERS_PER_THREAD).clamp(1, THREADS_MAX);
    thread::scope(|scope| {
        let builder = || thread::Builder::new().name("removal".to_owned());
        // A thread that cannot be had leaves its share to the others; this one always works.
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| builder().spawn_scoped(scope, work).ok())
            .collect();
        let mut done = work();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    })
}
