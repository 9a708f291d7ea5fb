//! `delete`: what the engine runs when a server is gone. Ends what is left of the container and says how it ended.
//!
//! If the server recorded the end before it died, that record is told; 137 is made up only when nobody knows.

use std::env;
use std::path::Path;
use std::time::Duration;

use orlop_api::Message;
use orlop_api::containerd::task::v3::DeleteResponse;
use orlop_sys::cgroup::Cgroup;
use orlop_sys::mount::{Unmount, unmount_all};
use orlop_sys::process;
use orlop_types::exit::{ExitCause, ExitRecord, MemoryDelta, Moment};

use crate::bundle::{self, ExitKey};
use crate::cli::Cli;
use crate::clock;
use crate::fault::Fault;
use crate::runtime::{Runtime, last_error, says_gone};

const TIMEOUT: Duration = Duration::from_secs(60);
const SIGKILLED: u32 = 137;

/// Goes on after each failure; warnings reach the engine through standard error.
pub(crate) fn delete(cli: &Cli) -> Result<Vec<u8>, Fault> {
    let here = env::current_dir().map_err(|error| Fault::io("find", "the bundle", error))?;
    // containerd runs this in the bundle, or in the bundle of another container of the group.
    let bundle = match &cli.bundle {
        Some(bundle) => bundle.clone(),
        None => here.parent().unwrap_or(&here).join(&cli.id),
    };
    let pid = bundle::read_pid(&bundle.join("init.pid")).unwrap_or(0);
    let recorded = bundle::read_exits(&bundle).and_then(|file| file.init);
    let record = recorded.unwrap_or_else(|| make_up(pid));
    let key = ExitKey {
        bundle: bundle.clone(),
        namespace: cli.namespace.clone(),
        container: cli.id.clone(),
        exec: String::new(),
    };
    complain(bundle::record_exit(&key, record.clone()));
    complain(delete_container(cli, &bundle));
    complain(bundle::remove_cgroup(&bundle));
    let everything = Unmount {
        detach: true,
        recursive: true,
    };
    complain(
        unmount_all(&bundle.join("rootfs"), everything).map_err(|error| {
            Fault::io(
                "unmount",
                "the root file system",
                std::io::Error::other(error),
            )
        }),
    );
    remove_socket(&bundle);
    let response = DeleteResponse {
        pid: u32::try_from(pid).unwrap_or(0),
        exit_status: record.exit_status,
        exited_at: Some(clock::timestamp(record.exited_at)),
    };
    Ok(response.encode_to_vec())
}

fn complain(result: Result<(), Fault>) {
    if let Err(fault) = result {
        crate::log::warn(&format!("{} [{}]", fault.chain(), fault.code()));
    }
}

/// Nobody reaped the process. If it lives, this clean-up ends it, because its server crashed; if not, who knows.
fn make_up(pid: i32) -> ExitRecord {
    let alive = process::exists(pid);
    let memory = Cgroup::of_process(pid).map(|cgroup| cgroup.memory_chain());
    let memory = memory.unwrap_or_default().into_iter();
    ExitRecord {
        pid,
        raw_status: None,
        exit_status: SIGKILLED,
        started_at: Moment::default(),
        exited_at: clock::now(),
        cause: if alive {
            ExitCause::ShimCrash
        } else {
            ExitCause::Unknown
        },
        memory: memory
            .map(|group| MemoryDelta {
                path: group.path,
                oom: group.oom,
                oom_kill: group.oom_kill,
                limit_hits: group.limit_hits,
                limit_bytes: group.limit_bytes,
                peak_bytes: group.peak_bytes,
            })
            .collect(),
        host_oom_kills: None,
    }
}

fn delete_container(cli: &Cli, bundle: &Path) -> Result<(), Fault> {
    let runtime = Runtime::load(bundle, &cli.namespace)?;
    let log = bundle.join("log-cleanup.json");
    let call = runtime.call(&log, "delete").args(["--force", &cli.id]);
    let finished = process::run(call, TIMEOUT, 1 << 16)
        .map_err(|error| Fault::io("run", runtime.binary(), std::io::Error::other(error)))?;
    let message = bundle::read_bounded(&log).ok();
    // The next clean-up would only append to it.
    std::fs::remove_file(&log).ok();
    if finished.status.exit_code() == Some(0) {
        return Ok(());
    }
    let message = message
        .and_then(|log| last_error(&String::from_utf8_lossy(&log)))
        .unwrap_or_else(|| String::from_utf8_lossy(&finished.stderr).trim().to_owned());
    match says_gone(&message) {
        true => Ok(()),
        false => Err(Fault::Runtime {
            step: "delete",
            message,
        }),
    }
}

/// Removes the socket of the server that is gone; one that answers belongs to others of the group.
fn remove_socket(bundle: &Path) {
    let Ok(address) = bundle::read_bounded(&bundle.join("address")) else {
        return;
    };
    let address = String::from_utf8_lossy(&address).into_owned();
    if let Some(path) = address.strip_prefix("unix://")
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        // Gone already is as good.
        std::fs::remove_file(path).ok();
    }
}
