//! What containerd asks a shim about itself.

use std::io::Read;
use std::time::Duration;

use orlop_api::any::unpack;
use orlop_api::containerd::runc::v1::Options as RuncOptions;
use orlop_api::containerd::types::{RuntimeInfo, RuntimeVersion};
use orlop_api::{Any, Message};
use orlop_sys::process::{Spawn, run};

use crate::fault::Fault;

const NAME: &str = "io.containerd.orlop.v1";
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const OPTIONS_BYTES_MAX: u64 = 1 << 20;

/// The answer to `-v`.
pub(crate) fn version() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!("containerd-shim-orlop-v1:\n  Version:  {version}\n").into_bytes()
}

/// The answer to `-info`: options come on standard input, the description goes to standard output.
pub(crate) fn info() -> Result<Vec<u8>, Fault> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(OPTIONS_BYTES_MAX)
        .read_to_end(&mut input)
        .map_err(|error| Fault::io("read", "standard input", error))?;
    let options = match input.is_empty() {
        true => None,
        false => {
            Some(Any::decode(input.as_slice()).map_err(|error| Fault::Invalid(error.to_string()))?)
        }
    };
    let binary = options
        .as_ref()
        .and_then(|any| unpack::<RuncOptions>(any).ok())
        .map(|options| options.binary_name)
        .filter(|name| !name.is_empty());
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        options,
        features: features(binary.as_deref().unwrap_or("runc")),
        ..RuntimeInfo::default()
    };
    Ok(info.encode_to_vec())
}

/// What the OCI runtime can do, if it can say so.
fn features(binary: &str) -> Option<Any> {
    let call = Spawn::new(binary).arg("features");
    let finished = run(call, Duration::from_secs(10), 1 << 20).ok()?;
    (finished.status.exit_code() == Some(0)).then(|| Any {
        type_url: FEATURES.to_owned(),
        value: finished.stdout,
    })
}
