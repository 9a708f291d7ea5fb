//! What the daemon does with memory it has finished with ([ADR 15](../../../docs/adr/0015-memory.md)).
//!
//! glibc keeps what was freed in the middle of a heap for the next time, and of the program everything stays mapped that
//! was ever touched. An idle daemon has no next time: so both are given back once work has ended.

use std::time::Duration;

use orlop_base::blocking;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_sys::process;

const SHED: TaskKind = TaskKind::dropped("memory-shed");

/// Heaps that the daemon's threads share: one for each thread that runs futures. What allocates beside them, unpacking,
/// does so rarely.
const ARENAS_MAX: i32 = 2;

/// How long nothing has to be done before memory is given back, so that a pause within a pull is none.
const QUIET: Duration = Duration::from_secs(3);

/// How long it may take at most: a kubelet asks something every second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bounds what threads keep for themselves. Before the first one is started.
pub(crate) fn prepare() {
    process::limit_heap_arenas(ARENAS_MAX);
}

/// Gives back what is not used whenever work has ended, the start included. While nothing is done it does not wake up.
pub(crate) fn start(tasks: &TaskTree) {
    let shed = async |_cancelled| {
        let mut activity = blocking::pool().activity();
        // Starting is work as well.
        tokio::time::sleep(QUIET).await;
        loop {
            let shed = blocking::run("memory-shed", process::shed_memory_of_threads).await;
            match shed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "memory that is not used was kept"),
                // The runtime ends, and this task with it.
                Err(_) => return,
            }
            activity.forget();
            activity.pause(QUIET, PATIENCE).await;
        }
    };
    drop(tasks.spawn(SHED, shed));
}
