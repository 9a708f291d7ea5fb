//! One sync of the file system for all who wait for one.
//!
//! The layers of an image are committed side by side. `syncfs` writes back everything that is dirty at its start, so
//! whoever comes while one runs needs the next one, and all who come meanwhile can share it.

use std::sync::{Condvar, Mutex, PoisonError};

/// Runs of an operation that may be shared if they start after the caller came.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    runs: Mutex<Runs>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Runs {
    is_running: bool,
    /// How many have been started; the number of the latest.
    started: u64,
    /// The latest that succeeded.
    succeeded: u64,
}

impl Flush {
    /// Returns when a run that started after this call has succeeded. If it fails, everyone who waits for it runs
    /// `operation` again and gets an error of their own.
    pub(crate) fn run<E>(&self, operation: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = runs.started + 1;
        while runs.succeeded < wanted {
            if runs.is_running {
                runs = self
                    .ended
                    .wait(runs)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            runs.is_running = true;
            runs.started += 1;
            let current = runs.started;
            drop(runs);
            let result = operation();
            runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.is_running = false;
            if result.is_ok() {
                runs.succeeded = current;
            }
            self.ended.notify_all();
            result?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn who_comes_during_a_run_shares_the_next_one() {
        let flush = Flush::default();
        let count = AtomicU32::new(0);
        let (entered, is_entered) = mpsc::channel();
        let go_on = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                flush.run::<()>(|| {
                    entered.send(()).unwrap();
                    go_on.wait();
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
            });
            is_entered.recv().unwrap();
            let late: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        flush.run::<()>(|| {
                            count.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        })
                    })
                })
                .collect();
            go_on.wait();
            late.into_iter()
                .for_each(|thread| thread.join().unwrap().unwrap());
        });
        // The late ones need a run that starts after they came: at least one, at most one each.
        let runs = count.load(Ordering::Relaxed);
        assert!((2..=9).contains(&runs), "{runs} runs");
    }

    #[test]
    fn a_failure_is_the_callers_and_the_next_call_runs_again() {
        let flush = Flush::default();
        assert_eq!(flush.run(|| Err("disk gone")), Err("disk gone"));
        assert_eq!(flush.run::<&str>(|| Ok(())), Ok(()));
    }
}
