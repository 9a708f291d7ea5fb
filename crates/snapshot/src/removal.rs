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

#[cfg(test)]
mod tests {
    use orlop_sys::fs::Mode;

    use super::*;

    #[test]
    fn every_folder_goes_once_whatever_their_number() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        for count in [0, 1, FOLDERS_PER_THREAD * 3, FOLDERS_PER_THREAD * 20] {
            let names: Vec<_> = (0..count)
                .map(|number| Name::new(number.to_string()).unwrap())
                .collect();
            for name in &names {
                let made = dir.create_dir(name, Mode::from_raw_mode(0o700)).unwrap();
                made.create_dir(name, Mode::from_raw_mode(0o700)).unwrap();
            }
            let done = remove_all(&dir, &names);
            assert_eq!(done.len(), count);
            assert!(done.iter().all(Result::is_ok), "{done:?}");
            assert_eq!(dir.entries().unwrap().count(), 0);
        }
    }
}
