//! What a shim says of itself and of its OCI runtime, without a container (`-info` of containerd's shims).

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use orlop_api::containerd::types::RuntimeInfo;
use orlop_api::{Any, Message};
use orlop_base::blocking;
use orlop_sys::process::{Finished, Input, RunError, Spawn, in_memory, run};
use orlop_types::chain;

use super::launch::complaint;
use crate::Error;

/// The shim asks its OCI runtime, and that may be slow on a busy node.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Asks the shim `binary`, which gets `options` to find its OCI runtime by.
///
/// # Errors
/// `ShimStart` for a shim that is not there, fails, or answers what cannot be read.
pub(crate) async fn info(binary: PathBuf, options: Option<Any>) -> Result<RuntimeInfo, Error> {
    let asked = binary.clone();
    let finished = blocking::run_long("shim info", move || ask(&asked, options.as_ref()))
        .await
        .map_err(Error::Daemon)?;
    let failed = |reason| Error::ShimStart {
        binary: binary.clone(),
        reason,
    };
    let finished = finished.map_err(|error| failed(chain(&error)))?;
    if finished.status.exit_code() != Some(0) {
        return Err(failed(complaint(&finished)));
    }
    RuntimeInfo::decode(finished.stdout.as_slice())
        .map_err(|error| failed(format!("its description cannot be read: {error}")))
}

fn ask(binary: &std::path::Path, options: Option<&Any>) -> Result<Finished, RunError> {
    let bytes = options.map(Message::encode_to_vec).unwrap_or_default();
    let input = in_memory("options", &bytes)?;
    let spawn = Spawn::new(binary)
        .arg("-info")
        .stdin(Input::Fd(input.as_fd()));
    run(spawn, ANSWER_LIMIT, OUTPUT_BYTES_MAX)
}
