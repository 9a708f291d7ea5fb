//! Starting a shim, finding one again, and cleaning up after one (containerd's shim v2 command line).
//!
//! `start` prints where the shim listens, in one of three forms: a bare address (protocol 2), a JSON object, or a protobuf
//! `BootstrapResult`. All are understood, so any containerd shim works.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult, Extension};
use orlop_api::{Any, Message};
use orlop_base::blocking;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_sys::process::{Finished, Input, RunError, Spawn, in_memory, run};
use orlop_ttrpc::client::{Client, ClientError};
use orlop_types::{ContainerId, Namespace};
use serde::{Deserialize, Serialize};

use super::{Protocol, Shim};
use crate::Error;
use orlop_types::chain;

const START_LIMIT: Duration = Duration::from_secs(30);
const CLEANUP_LIMIT: Duration = Duration::from_secs(60);
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Drives one shim's connection; ends with it.
const CONNECTION: TaskKind = TaskKind::dropped("shim connection");

/// What a shim's command line needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) namespace: Namespace,
    pub(crate) container: ContainerId,
    /// The bundle: the shim's working folder.
    pub(crate) bundle: PathBuf,
    /// The daemon's gRPC socket.
    pub(crate) address: PathBuf,
    /// The daemon's ttrpc socket, for events.
    pub(crate) ttrpc_address: PathBuf,
    /// The daemon's own executable: what a shim without ttrpc publishes events with.
    pub(crate) publish_binary: PathBuf,
    /// The runtime's options.
    pub(crate) options: Option<Any>,
}

/// What a shim reads from its standard input.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// The parameters of containerd 2.3, with the runtime's options among them.
    Bootstrap,
    /// Those options alone.
    Options,
}

/// Where a shim listens, and in which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    /// The socket.
    pub(crate) socket: PathBuf,
    /// 2 or 3.
    pub(crate) version: u32,
}

impl Bootstrap {
    /// Reads what `start` printed, or wrote to `address` in the bundle.
    pub(crate) fn parse(output: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(output).ok().map(str::trim);
        let (version, address, protocol) = match text {
            Some(json) if json.starts_with('{') => {
                let answer: JsonAnswer = serde_json::from_str(json)
                    .map_err(|error| format!("its answer is not JSON: {error}"))?;
                (answer.version, answer.address, answer.protocol)
            }
            Some(address) if address.starts_with("unix://") => {
                (2, address.to_owned(), String::new())
            }
            Some(_) | None => {
                let answer = BootstrapResult::decode(output)
                    .map_err(|_error| "its answer has none of the known forms".to_owned())?;
                (
                    u32::try_from(answer.version).unwrap_or(0),
                    answer.address,
                    answer.protocol,
                )
            }
        };
        if !matches!(protocol.as_str(), "" | "ttrpc") {
            return Err(format!(
                "it speaks {protocol:?}, and only ttrpc is understood"
            ));
        }
        let version = version.max(2);
        if Protocol::from_number(version).is_none() {
            return Err(format!(
                "it speaks version {version} of the task protocol; 2 and 3 are understood"
            ));
        }
        let socket = address
            .strip_prefix("unix://")
            .ok_or_else(|| format!("its address {address:?} is not a unix socket"))?;
        Ok(Self {
            socket: PathBuf::from(socket),
            version,
        })
    }
}

#[derive(Deserialize)]
struct JsonAnswer {
    #[serde(default)]
    version: u32,
    address: String,
    #[serde(default)]
    protocol: String,
}

/// Runs `start` and reads where the shim listens.
pub(crate) async fn launch(launch: Launch) -> Result<Bootstrap, Error> {
    let mut finished = invoke(launch.clone(), "start", Told::Bootstrap, START_LIMIT).await?;
    if knows_options_only(&finished) {
        finished = invoke(launch.clone(), "start", Told::Options, START_LIMIT).await?;
    }
    let failed = |reason| Error::ShimStart {
        binary: launch.binary.clone(),
        reason,
    };
    if finished.status.exit_code() != Some(0) {
        return Err(failed(complaint(&finished)));
    }
    Bootstrap::parse(&finished.stdout).map_err(failed)
}

/// Runs `delete`: kills and removes whatever a dead shim left of its container.
pub(crate) async fn cleanup(launch: Launch) -> Result<(), Error> {
    // The bundle goes last: without it everything else has been undone, or a reboot has ended it all.
    if !launch.bundle.is_dir() {
        return Ok(());
    }
    let finished = invoke(launch.clone(), "delete", Told::Bootstrap, CLEANUP_LIMIT).await?;
    if finished.status.exit_code() == Some(0) {
        return Ok(());
    }
    Err(Error::ShimStart {
        binary: launch.binary,
        reason: complaint(&finished),
    })
}

/// Connects to a shim that runs.
pub(crate) async fn connect(
    bootstrap: &Bootstrap,
    container: &ContainerId,
    tasks: &TaskTree,
) -> Result<Shim, ClientError> {
    let (client, driver) = Client::connect(&bootstrap.socket).await?;
    tasks.spawn(CONNECTION, move |_token| async move {
        if let Err(error) = driver.run().await {
            tracing::debug!(%error, "a shim's connection broke");
        }
    });
    let protocol = Protocol::from_number(bootstrap.version).unwrap_or(Protocol::V2);
    Ok(Shim::new(client, protocol, container.as_str()))
}

/// Shims of containerd before 1.7 read the runtime's options there, take the container's id for the name of their type,
/// and fail before they have done anything.
fn knows_options_only(finished: &Finished) -> bool {
    finished.status.exit_code() != Some(0) && complaint(finished).contains("type with url")
}

async fn invoke(
    launch: Launch,
    action: &'static str,
    told: Told,
    limit: Duration,
) -> Result<Finished, Error> {
    let binary = launch.binary.clone();
    let finished = blocking::run_long("shim command", move || {
        run_command(&launch, action, told, limit)
    })
    .await
    .map_err(Error::Daemon)?;
    finished.map_err(|error| Error::ShimStart {
        binary,
        reason: chain(&error),
    })
}

fn run_command(
    launch: &Launch,
    action: &str,
    told: Told,
    limit: Duration,
) -> Result<Finished, RunError> {
    let bytes = match told {
        Told::Bootstrap => parameters(launch).encode_to_vec(),
        Told::Options => launch
            .options
            .as_ref()
            .map(Message::encode_to_vec)
            .unwrap_or_default(),
    };
    let parameters = in_memory("bootstrap", &bytes)?;
    let spawn = Spawn::new(&launch.binary)
        .args([
            "-namespace",
            launch.namespace.as_str(),
            "-id",
            launch.container.as_str(),
        ])
        .arg("-address")
        .arg(&launch.address)
        .arg("-publish-binary")
        .arg(&launch.publish_binary)
        .arg("-bundle")
        .arg(&launch.bundle)
        .arg(action)
        .dir(&launch.bundle)
        .env("GOMAXPROCS", "2")
        .env("MAX_SHIM_VERSION", "3")
        .env("NAMESPACE", launch.namespace.as_str())
        .env("GRPC_ADDRESS", &launch.address)
        .env("TTRPC_ADDRESS", &launch.ttrpc_address)
        .stdin(Input::Fd(parameters.as_fd()));
    run(spawn, limit, OUTPUT_BYTES_MAX)
}

fn parameters(launch: &Launch) -> BootstrapParams {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    BootstrapParams {
        instance_id: launch.container.to_string(),
        namespace: launch.namespace.to_string(),
        containerd_version: concat!("orlop-", env!("CARGO_PKG_VERSION")).to_owned(),
        containerd_grpc_address: text(&launch.address),
        containerd_ttrpc_address: text(&launch.ttrpc_address),
        containerd_binary: text(&launch.publish_binary),
        extensions: launch
            .options
            .iter()
            .map(|options| Extension {
                value: Some(options.clone()),
            })
            .collect(),
        ..BootstrapParams::default()
    }
}

/// What a failed command said, in one line.
pub(super) fn complaint(finished: &Finished) -> String {
    let said = String::from_utf8_lossy(&finished.stderr);
    let said = said.trim();
    if said.is_empty() {
        format!("it ended with status {}", finished.status.shell_code())
    } else {
        said.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(output: &[u8]) -> Result<(PathBuf, u32), String> {
        Bootstrap::parse(output).map(|bootstrap| (bootstrap.socket, bootstrap.version))
    }

    #[test]
    fn every_form_of_answer_is_understood() {
        let socket = PathBuf::from("/run/s");
        assert_eq!(parse(b"unix:///run/s\n"), Ok((socket.clone(), 2)));
        assert_eq!(
            parse(br#"{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}"#),
            Ok((socket.clone(), 3))
        );
        let protobuf = BootstrapResult {
            version: 3,
            address: "unix:///run/s".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        assert_eq!(parse(&protobuf.encode_to_vec()), Ok((socket, 3)));
    }

    #[test]
    fn a_shim_that_cannot_be_spoken_to_is_named() {
        for (answer, expected) in [
            (
                &br#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#[..],
                "grpc",
            ),
            (br#"{"version":9,"address":"unix:///s"}"#, "version 9"),
            (br#"{"version":3,"address":"vsock://1"}"#, "vsock"),
            (b"\xff\xff", "none of the known forms"),
        ] {
            let error = parse(answer).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
