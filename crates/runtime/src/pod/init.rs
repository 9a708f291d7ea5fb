//! The first process of a pod whose containers see each other's processes.
//!
//! It is our shim's executable, called with `pod-init`, from a sealed file in memory: what containers can reach of it
//! through `/proc/1` can be neither changed nor entered. It joins the pod's other namespaces, gives up the host's root and
//! all its capabilities, and reaps.
//!
//! Crash: it does not need the daemon once it is on record. Until then it hangs on a [`Leash`] and ends with the daemon that
//! started it, because no other would know of it. Its namespace is pinned, so that the next daemon can tell it from another
//! process that got its number.

use std::fs::{File, metadata};
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orlop_sys::namespace;
use orlop_sys::process::{Input, RunError, Spawn, Stranger, run, sealed_in_memory};

use super::PodInit;
use super::error::PodError;
use super::record::PodKey;

/// What the starter may say: a number, or what went wrong.
const ANSWER_BYTES_MAX: usize = 4096;

/// How long a process that was killed may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How the kernel is to spare it when memory runs out, as Kubernetes has it for a pause container.
const OOM_SCORE: &str = "-998";

/// What a first process waits for before it goes on without its starter.
const RELEASED: &[u8] = b"1";

/// Where the executable is seen by a process that has it as its first further descriptor.
const EXECUTABLE: &str = "/proc/self/fd/3";

/// The executable in memory, shared by all that run from it.
static PROGRAM: Mutex<Option<(PathBuf, Arc<File>)>> = Mutex::new(None);

/// The process's own cgroup: below the pod's, because version 2 allows processes only in the last group of a branch.
pub(super) fn cgroup(pod: &Path, key: &PodKey) -> PathBuf {
    pod.join(key.pod.as_str())
}

/// Ties a first process to whoever started it: the process ends when this is dropped, with the daemon at the latest.
#[derive(Debug)]
pub(super) struct Leash(PipeWriter);

impl Leash {
    /// Lets it outlive the daemon, which has put it on record.
    pub(super) fn release(mut self) -> io::Result<()> {
        self.0.write_all(RELEASED)
    }
}

/// A first process that is not on record yet.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) init: PodInit,
    pub(super) leash: Leash,
}

/// What the process is put into before it starts.
pub(super) struct Surroundings<'a> {
    /// The user namespace, whose superuser it becomes.
    pub(super) user: Option<&'a Path>,
    /// The other namespaces.
    pub(super) namespaces: &'a [PathBuf],
    /// Files of cgroups that take a process's number.
    pub(super) cgroups: &'a [PathBuf],
}

/// Starts the process and pins its namespace at `target`. Blocks.
pub(super) fn start(
    program: &Path,
    key: &PodKey,
    surroundings: &Surroundings<'_>,
    target: &Path,
    limit: Duration,
) -> Result<Started, PodError> {
    let failed = |fault: String| PodError::Init {
        pod: key.pod.to_string(),
        fault,
    };
    let program = sealed(program)
        .map_err(|error| failed(format!("did not start: {}: {error}", program.display())))?;
    let listed = |flag: &'static str, paths: &[PathBuf]| {
        let with_flag = |path: &PathBuf| [flag.into(), path.clone().into_os_string()];
        paths.iter().flat_map(with_flag).collect::<Vec<_>>()
    };
    let (hold, leash) = io::pipe().map_err(|error| failed(format!("cannot be held: {error}")))?;
    let spawn = Spawn::new(EXECUTABLE)
        .env_clear()
        .args(["pod-init", "-oom-score", OOM_SCORE])
        .args(
            surroundings
                .user
                .iter()
                .flat_map(|user| ["-user".as_ref(), user.as_os_str()]),
        )
        .args(listed("-join", surroundings.namespaces))
        .args(listed("-procs", surroundings.cgroups))
        .own_group()
        .stdin(Input::Fd(hold.as_fd()))
        .extra_fd(program.as_fd());
    let finished = run(spawn, limit, ANSWER_BYTES_MAX).map_err(|error| match error {
        RunError::TimedOut { timeout } => failed(format!("did not start within {timeout:?}")),
        other @ (RunError::Spawn(_) | RunError::Io(_)) => {
            failed(format!("did not start: {}", orlop_types::chain(&other)))
        }
    })?;
    let said = String::from_utf8_lossy(&finished.stdout);
    let pid: Option<u32> = said.trim().parse().ok();
    let Some(pid) = pid.filter(|_| finished.status.exit_code() == Some(0)) else {
        let told = String::from_utf8_lossy(&finished.stderr);
        return Err(failed(format!("did not start: {}", told.trim())));
    };
    let init = PodInit { pid };
    let own = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    namespace::pin(&own, target).map_err(|source| PodError::Namespace {
        pod: key.pod.to_string(),
        source,
    })?;
    let leash = Leash(leash);
    Ok(Started { init, leash })
}

/// Ends the process, and with it all others of its namespace. Blocks until it has ended.
pub(super) fn end(key: &PodKey, init: Option<PodInit>, pinned: &Path) -> Result<(), PodError> {
    let Some(init) = init.filter(|init| is_alive(*init, pinned)) else {
        return Ok(());
    };
    let failed = |fault: String| PodError::Init {
        pod: key.pod.to_string(),
        fault,
    };
    match kill(init) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(format!("did not end within {END_LIMIT:?}"))),
        Err(error) => Err(failed(format!("cannot be ended: {error}"))),
    }
}

/// Whether the process that has the number is the one whose namespace is pinned. Blocks for a moment.
pub(super) fn is_alive(init: PodInit, pinned: &Path) -> bool {
    let own = metadata(format!("/proc/{}/ns/pid", init.pid));
    let (Ok(own), Ok(pinned)) = (own, metadata(pinned)) else {
        return false;
    };
    (own.dev(), own.ino()) == (pinned.dev(), pinned.ino())
}

/// Follows the process; `None` if it has ended already.
pub(super) fn follow(init: PodInit, pinned: &Path) -> io::Result<Option<Stranger>> {
    let Some(process) = open(init)? else {
        return Ok(None);
    };
    // Looked at after the descriptor was there: whoever has the number now had it then.
    Ok(is_alive(init, pinned).then_some(process))
}

/// What is told of a pod whose first process has ended.
pub(super) fn ended(init: PodInit) -> String {
    format!(
        "the first process of its process namespace ({}) has ended",
        init.pid
    )
}

/// Whether it ended in time.
fn kill(init: PodInit) -> io::Result<bool> {
    let Some(process) = open(init)? else {
        return Ok(true);
    };
    process.kill()?;
    process.wait(END_LIMIT)
}

fn open(init: PodInit) -> io::Result<Option<Stranger>> {
    Stranger::open(i32::try_from(init.pid).unwrap_or(0))
}

/// One file for all pods, made anew only if another program is to be run.
fn sealed(program: &Path) -> io::Result<Arc<File>> {
    let mut kept = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, file)) = kept.as_ref().filter(|(path, _)| path == program) {
        return Ok(Arc::clone(file));
    }
    let file = Arc::new(sealed_in_memory("orlop-pod", program)?);
    *kept = Some((program.to_owned(), Arc::clone(&file)));
    Ok(file)
}
