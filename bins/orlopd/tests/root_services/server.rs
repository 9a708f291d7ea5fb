//! The daemon on a scratch root, and the ways to ask it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

/// The namespace that the tests work in.
pub(crate) const NAMESPACE: &str = "test";

/// How long anything here may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon, ended and removed when it is dropped.
pub(crate) struct Server {
    pub(crate) folder: tempfile::TempDir,
    runtime: Runtime,
    daemon: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// For tests of what nothing holds: the first collection comes when they are long over.
    pub(crate) fn start_without_collection() -> Self {
        Self::start_with(&["gc.startup_delay=1h"])
    }

    /// With further settings, as `section.key=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = spawn(folder.path(), settings);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut server = Self {
            folder,
            runtime,
            daemon,
        };
        server.wait_until_it_listens();
        server
    }

    /// Ends the daemon as a crash does.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Starts a daemon anew on the same folders.
    pub(crate) fn restart(&mut self) {
        std::fs::remove_file(self.socket()).unwrap();
        self.daemon = spawn(self.folder.path(), &[]);
        self.wait_until_it_listens();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("orlop.sock")
    }

    /// Runs a test's asynchronous part.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() })
    }

    /// A connection of a generated client.
    pub(crate) async fn channel(&self) -> Channel {
        let path = self.socket();
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(connect))
            .await
            .unwrap()
    }

    /// Runs Debian's `ctr` and gives its standard output; it has to succeed.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments, Stdio::null());
        assert!(output.status.success(), "ctr {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs Debian's `ctr` with this input.
    pub(crate) fn try_ctr(&self, arguments: &[&str], input: Stdio) -> Output {
        self.command(arguments).stdin(input).output().unwrap()
    }

    /// Starts Debian's `ctr`, with its output in a pipe.
    pub(crate) fn spawn_ctr(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", NAMESPACE])
            .args(arguments);
        command
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = self.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "orlopd ended at once: {ended:?}");
            assert!(Instant::now() < deadline, "orlopd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.daemon.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        let ended = asked.and_then(|_| self.daemon.wait());
        if !std::thread::panicking() {
            assert!(ended.unwrap().success(), "orlopd did not end in order");
        }
    }
}

fn spawn(folder: &Path, settings: &[&str]) -> Child {
    let setting = |key: &str, path: &str| format!("engine.{key}={}", folder.join(path).display());
    Command::new(env!("CARGO_BIN_EXE_orlopd"))
        .args(["--set", &setting("root", "root")])
        .args(["--set", &setting("state", "state")])
        .args(["--set", &setting("socket", "orlop.sock")])
        .args(["--set", "engine.shutdown_grace=2s"])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}
