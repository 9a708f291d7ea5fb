//! A container engine on a root of its own: orlopd, or Debian's containerd.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orlop_sys::process::Spawn;

use crate::programs::{containerd, run};
use crate::{Client, Daemon, Programs, Scratch};

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Orlop,
    /// Debian's, as installed.
    Containerd,
}

/// How an engine is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overrides of orlopd's configuration, as in `--set`; containerd gets none.
    pub settings: Vec<String>,
    /// Where its root lies, if not in the scratch folder.
    pub root: Option<PathBuf>,
    /// What pods need, if there are to be any.
    pub pods: Option<Pods>,
}

/// What an engine has to know to make pods.
#[derive(Debug, Clone)]
pub struct Pods {
    /// The folder with CNI's configuration.
    pub networks: PathBuf,
    /// The image of the process that containerd keeps in every pod. Orlop has none.
    pub pause_image: String,
}

/// Where Debian has CNI's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A running engine. Ends when dropped; its containers go on until the scratch folder is dropped.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    root: PathBuf,
    socket: PathBuf,
    namespace: String,
    daemon: Daemon,
}

impl Kind {
    /// The name that figures and folders carry.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Orlop => "orlop",
            Self::Containerd => "containerd",
        }
    }

    /// The runtime that containers name, so that each engine uses its own shim.
    #[must_use]
    pub fn runtime(self) -> &'static str {
        match self {
            Self::Orlop => "io.containerd.orlop.v1",
            Self::Containerd => "io.containerd.runc.v2",
        }
    }
}

impl Engine {
    /// Starts orlopd and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started; its log is in the message.
    pub fn orlopd(programs: &Programs, scratch: &Scratch, options: &Options) -> Result<Self> {
        let folder = scratch.folder("orlop")?;
        let root = options.root.clone().unwrap_or(folder.join("root"));
        let socket = folder.join("s.sock");
        let own = [
            format!("engine.root={}", root.display()),
            format!("engine.state={}", scratch.state_folder("orlop")?.display()),
            format!("engine.socket={}", socket.display()),
            "engine.shutdown_grace=2s".to_owned(),
        ];
        let mut spawn = Spawn::new(programs.orlopd());
        let networks = options.pods.as_ref().map(|pods| &pods.networks);
        let networks = networks.map(|path| format!("runtime.cni_conf_dir={}", path.display()));
        for setting in own.iter().chain(&networks).chain(&options.settings) {
            spawn = spawn.args(["--set", setting]);
        }
        Self::start(Kind::Orlop, spawn, scratch, root, socket)
    }

    /// Starts containerd with its own defaults, CRI included, on a root of its own: Debian's, or the one that
    /// `BENCH_CONTAINERD` names.
    ///
    /// # Errors
    /// It cannot be started; its log is in the message.
    pub fn containerd(scratch: &Scratch, options: &Options) -> Result<Self> {
        let folder = scratch.folder("containerd")?;
        let root = options.root.clone().unwrap_or(folder.join("root"));
        let socket = folder.join("s.sock");
        let (state, address) = (scratch.state_folder("containerd")?, socket.display());
        let pods = options.pods.as_ref().map(|pods| {
            format!(
                "sandbox_image = {:?}\nrestrict_oom_score_adj = true\nstats_collect_period = 1\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {PLUGINS:?}\nconf_dir = {:?}\n",
                pods.pause_image, pods.networks
            )
        });
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = \"{address}\"\n\
             [ttrpc]\naddress = \"{address}.ttrpc\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n{}",
            folder.join("opt"),
            pods.unwrap_or_default(),
        );
        let config = scratch.file("containerd.toml", &config)?;
        let spawn = Spawn::new(containerd()).arg("--config").arg(config);
        Self::start(Kind::Containerd, spawn, scratch, root, socket)
    }

    fn start(
        kind: Kind,
        spawn: Spawn<'_>,
        scratch: &Scratch,
        root: PathBuf,
        socket: PathBuf,
    ) -> Result<Self> {
        let log = scratch.path().join(format!("{}.log", kind.name()));
        let daemon = Daemon::start(kind.name(), spawn, &log)?;
        daemon.wait_until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        Ok(Self {
            kind,
            root,
            socket,
            namespace: scratch.name(),
            daemon,
        })
    }

    /// Which one it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    /// What must survive a reboot.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The gRPC socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The namespace to work in: nobody else's.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The running daemon, to look at its log, to end or to kill it.
    #[must_use]
    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }

    /// Connects a generated client in [`Engine::namespace`].
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket, &self.namespace).await
    }

    /// Runs Debian's `ctr` against this engine and gives its standard output.
    ///
    /// # Errors
    /// ctr fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let spawn = Spawn::new("ctr").arg("--address").arg(&self.socket);
        let spawn = spawn.args(["--namespace", &self.namespace]).args(arguments);
        run(spawn, &format!("ctr {}", arguments.join(" ")))
    }

    /// Runs our own command line against this engine and gives its standard output.
    ///
    /// # Errors
    /// orlop fails.
    pub fn orlop(&self, programs: &Programs, arguments: &[&str]) -> Result<String> {
        let spawn = Spawn::new(programs.orlop()).env("ORLOP_ADDRESS", &self.socket);
        let spawn = spawn
            .env("ORLOP_NAMESPACE", &self.namespace)
            .args(arguments);
        run(spawn, &format!("orlop {}", arguments.join(" ")))
    }

    /// Pulls and unpacks an image with `ctr`, and gives the chain id of its top layer.
    ///
    /// # Errors
    /// ctr fails, or no snapshot is there afterwards.
    pub async fn ctr_pull(&self, reference: &str) -> Result<String> {
        self.ctr(&["images", "pull", "--plain-http", reference])?;
        let client = self.client().await?;
        let top = client.top_snapshot().await?;
        top.with_context(|| format!("{reference} has no snapshot after its pull"))
    }
}
