//! The daemon on scratch folders, for every suite that drives it.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long anything here may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon, ended and removed when it is dropped.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    runtime: Runtime,
    child: Child,
    settings: Vec<String>,
}

impl Daemon {
    /// Starts one with further settings, as `section.key=value`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings: Vec<String> = settings.iter().map(|&text| text.to_owned()).collect();
        let child = spawn(folder.path(), &settings);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut daemon = Self {
            folder,
            runtime,
            child,
            settings,
        };
        daemon.wait_until_it_listens();
        daemon
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another on the same folders, with these settings.
    pub(crate) fn restart(&mut self, settings: &[&str]) {
        std::fs::remove_file(self.socket()).unwrap();
        self.settings = settings.iter().map(|&text| text.to_owned()).collect();
        self.child = spawn(self.folder.path(), &self.settings);
        self.wait_until_it_listens();
    }

    /// Ends it as a crash does, and starts another like it.
    pub(crate) fn crash_and_restart(&mut self) {
        self.kill();
        let settings = std::mem::take(&mut self.settings);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        self.restart(&settings);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its folders are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("orlop.sock")
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

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "orlopd ended at once: {ended:?}");
            assert!(Instant::now() < deadline, "orlopd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        let ended = asked.and_then(|_| self.child.wait());
        if !std::thread::panicking() {
            assert!(ended.unwrap().success(), "orlopd did not end in order");
        }
    }
}

fn spawn(folder: &Path, settings: &[String]) -> Child {
    let setting = |key: &str, path: &str| format!("engine.{key}={}", folder.join(path).display());
    Command::new(env!("CARGO_BIN_EXE_orlopd"))
        .args(["--set", &setting("root", "root")])
        .args(["--set", &setting("state", "state")])
        .args(["--set", &setting("socket", "orlop.sock")])
        .args(["--set", "engine.shutdown_grace=10s"])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}
