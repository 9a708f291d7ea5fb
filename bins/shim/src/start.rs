//! `start`: leave a server behind, or find the one that serves the group, and say where it listens.
//!
//! Engines differ in how they hear the answer: containerd 2.3 sends [`BootstrapParams`] and takes a [`BootstrapResult`];
//! 1.7 to 2.2 set `MAX_SHIM_VERSION` and take JSON; older ones take a bare address.

use std::env;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use orlop_api::Message;
use orlop_api::any::unpack;
use orlop_api::containerd::runc::v1::Options as RuncOptions;
use orlop_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use orlop_sys::cgroup::Hierarchies;
use orlop_sys::process::{Half, split};

use crate::bundle::{self, Spec};
use crate::cli::Cli;
use crate::fault::Fault;
use crate::socket::{self, Bound};

/// The variable with the address of the engine's ttrpc socket.
const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
const MAX_SHIM_VERSION: &str = "MAX_SHIM_VERSION";
/// Annotations that put containers into one shim, in order of precedence, as containerd's own shim has them.
const GROUP_ANNOTATIONS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];
const INPUT_BYTES_MAX: u64 = 10 << 20;
/// Both versions of the task protocol are served; this is the newer one.
const VERSION: i32 = 3;

/// How the engine wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
    Bare,
}

/// What a process goes on with after [`start`].
pub(crate) enum Next {
    /// It tells the engine, and ends.
    Tell(Started),
    /// It is the server.
    Serve(Post),
}

/// What the engine is to hear.
pub(crate) struct Started {
    answer: Vec<u8>,
    /// The other end is [`Post::told`] of a new server.
    server: Option<PipeWriter>,
}

/// Where a server serves.
pub(crate) struct Post {
    pub(crate) listener: OwnedFd,
    pub(crate) socket: PathBuf,
    /// The engine's socket for events.
    pub(crate) events: Option<String>,
    /// For [`wait_for_engine`].
    pub(crate) told: PipeReader,
}

impl Started {
    /// Tells the engine, and then the server that the engine was told.
    pub(crate) fn tell(self) -> std::io::Result<()> {
        std::io::stdout().write_all(&self.answer)?;
        self.server
            .map_or(Ok(()), |mut server| server.write_all(b"\n"))
    }
}

/// Waits until the engine was told of this server, and gives whether it was: if the one that should tell is killed,
/// nobody will ever ask for the server.
pub(crate) fn wait_for_engine(mut told: PipeReader) -> bool {
    let mut word = [0];
    told.read_exact(&mut word).is_ok()
}

/// Runs in the bundle folder. Comes back in two processes if the group has no server yet.
pub(crate) fn start(cli: &Cli) -> Result<Next, Fault> {
    let bundle = env::current_dir().map_err(|error| Fault::io("find", "the bundle", error))?;
    let params = read_params(cli)?;
    let form = match (&params, env::var_os(MAX_SHIM_VERSION)) {
        (Some(_), _) => Form::Protobuf,
        (None, Some(_)) => Form::Json,
        (None, None) => Form::Bare,
    };
    let params = params.unwrap_or_default();
    let spec = Spec::read(&bundle)?;
    let group = GROUP_ANNOTATIONS
        .iter()
        .find_map(|name| spec.annotations.get(*name))
        .unwrap_or(&cli.id);
    let dir = params.socket_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = Path::new(dir.unwrap_or(socket::DEFAULT_DIR));
    let path = socket::path_of(dir, &cli.address, &cli.namespace, group);
    let mut server = None;
    if let Bound::New(listener) = socket::bind(&path)? {
        match launch(&params, &path, listener) {
            Ok(Launched::Told(telling)) => server = Some(telling),
            Ok(Launched::Server(post)) => return Ok(Next::Serve(post)),
            Err(fault) => {
                // The first fault is the one to tell; the next start replaces a dead socket.
                std::fs::remove_file(&path).ok();
                return Err(fault);
            }
        }
    }
    let address = format!("unix://{}", path.display());
    bundle::write(&bundle, "address", address.as_bytes())?;
    let answer = answer(form, address);
    Ok(Next::Tell(Started { answer, server }))
}

fn read_params(cli: &Cli) -> Result<Option<BootstrapParams>, Fault> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(INPUT_BYTES_MAX)
        .read_to_end(&mut input)
        .map_err(|error| Fault::io("read", "standard input", error))?;
    Ok(params_in(&input, &cli.id, &cli.namespace))
}

/// Older engines send runtime options in the same place, which may decode by accident: the ids must agree.
fn params_in(input: &[u8], id: &str, namespace: &str) -> Option<BootstrapParams> {
    let params = BootstrapParams::decode(input).ok()?;
    (params.instance_id == id && params.namespace == namespace).then_some(params)
}

/// The two sides of a launch.
enum Launched {
    /// This process has a server now, which waits at the other end.
    Told(PipeWriter),
    /// This process is that server.
    Server(Post),
}

/// Leaves a server behind. It is this very program, which need not be loaded again.
fn launch(params: &BootstrapParams, path: &Path, listener: OwnedFd) -> Result<Launched, Fault> {
    let (told, telling) = std::io::pipe().map_err(|error| Fault::io("make", "a pipe", error))?;
    match split().map_err(|error| Fault::io("start", "a server", error))? {
        Half::Parent(server) => {
            // If this fails, the server ends without having been told of.
            place(server, params)?;
            Ok(Launched::Told(telling))
        }
        Half::Child => Ok(Launched::Server(Post {
            listener,
            socket: path.to_owned(),
            events: events_address(params),
            told,
        })),
    }
}

fn events_address(params: &BootstrapParams) -> Option<String> {
    let given = Some(params.containerd_ttrpc_address.clone()).filter(|given| !given.is_empty());
    given.or_else(|| env::var(TTRPC_ADDRESS).ok())
}

/// Moves the server into the cgroup that the runtime's options name, which has to be there.
fn place(server: i32, params: &BootstrapParams) -> Result<(), Fault> {
    let options = params
        .extensions
        .iter()
        .filter_map(|one| one.value.as_ref());
    let mut wanted = options
        .filter_map(|any| unpack::<RuncOptions>(any).ok())
        .map(|options| options.shim_cgroup);
    let Some(path) = wanted.find(|path| !path.is_empty()) else {
        return Ok(());
    };
    let failed = |error| Fault::io("join", format!("cgroup {path}"), error);
    let hierarchies = Hierarchies::mounted().map_err(failed)?;
    let group = hierarchies.at(&path);
    let group = group.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    group.add_process(server).map_err(failed)
}

fn answer(form: Form, address: String) -> Vec<u8> {
    match form {
        Form::Bare => address.into_bytes(),
        Form::Json => {
            let answer = serde_json::json!({
                "version": VERSION, "address": address, "protocol": "ttrpc",
            });
            answer.to_string().into_bytes()
        }
        Form::Protobuf => BootstrapResult {
            version: VERSION,
            address,
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        }
        .encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::any::pack;
    use orlop_api::containerd::runc::v1::Options;

    #[test]
    fn parameters_are_those_of_this_container_only() {
        let params = BootstrapParams {
            instance_id: "web".to_owned(),
            namespace: "n".to_owned(),
            ..BootstrapParams::default()
        };
        let bytes = params.encode_to_vec();
        assert_eq!(params_in(&bytes, "web", "n"), Some(params));
        assert_eq!(params_in(&bytes, "other", "n"), None);
        let options = pack(&Options {
            binary_name: "crun".to_owned(),
            ..Options::default()
        });
        assert_eq!(params_in(&options.encode_to_vec(), "web", "n"), None);
        assert_eq!(params_in(b"", "web", "n"), None);
    }

    #[test]
    fn every_form_of_the_answer_names_the_address() {
        let address = "unix:///run/s/x".to_owned();
        assert_eq!(answer(Form::Bare, address.clone()), address.as_bytes());
        let json: serde_json::Value =
            serde_json::from_slice(&answer(Form::Json, address.clone())).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"version": 3, "address": address, "protocol": "ttrpc"})
        );
        let result =
            BootstrapResult::decode(answer(Form::Protobuf, address.clone()).as_slice()).unwrap();
        assert_eq!((result.version, result.address), (3, address));
    }
}
