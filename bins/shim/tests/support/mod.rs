//! A bundle, a shim and an engine's ear, all under one temporary folder.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    dead_code,
    reason = "tests write their own files, start their own programs, and each uses a part of this"
)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use orlop_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult, Extension};
use orlop_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use orlop_api::containerd::task::v3 as api;
use orlop_api::{Any, Message};
use orlop_ttrpc::caller::Connection;
use orlop_ttrpc::{Status, server};
use orlop_types::exit::{ExitFile, ExitRecord};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-orlop-v1");
const PATIENCE: Duration = Duration::from_secs(30);
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// One shim with one container, ended and cleaned when dropped.
pub(crate) struct Shim {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) pid: u32,
    socket: PathBuf,
    pub(crate) events: Receiver<(String, Any)>,
    link: Link,
}

/// A connection that makes one call after the other.
pub(crate) struct Link {
    socket: UnixStream,
    connection: Connection,
}

impl Link {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            connection: Connection::default(),
        }
    }

    pub(crate) fn send(&mut self, method: &str, request: &impl Message) -> u32 {
        self.send_to("containerd.task.v3.Task", method, request)
    }

    pub(crate) fn send_to(&mut self, service: &str, method: &str, request: &impl Message) -> u32 {
        let payload = request.encode_to_vec();
        let stream = self
            .connection
            .call(service, method, &payload, 0, &[])
            .unwrap();
        let length = self.connection.output().len();
        self.socket.write_all(self.connection.output()).unwrap();
        self.connection.wrote(length);
        stream
    }

    pub(crate) fn next(&mut self) -> (u32, Result<Vec<u8>, Status>) {
        loop {
            if let Some(reply) = self.connection.next_reply().unwrap() {
                return reply;
            }
            let mut buffer = [0; 4096];
            let count = self
                .socket
                .read(&mut buffer)
                .expect("the shim answers in time");
            assert!(count > 0, "the shim hung up");
            self.connection.received(&buffer[..count]);
        }
    }

    pub(crate) fn call<R: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        let stream = self.send(method, request);
        let (answered, result) = self.next();
        assert_eq!(answered, stream);
        result.map(|payload| R::decode(payload.as_slice()).unwrap())
    }
}

impl Shim {
    /// A shim for a container that runs `script`; `change` may alter the spec.
    pub(crate) fn start(script: &str, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        Self::start_with(script, change, None)
    }

    /// As [`Shim::start`], with options of the runtime.
    pub(crate) fn start_with(
        script: &str,
        change: impl FnOnce(&mut serde_json::Value),
        options: Option<Any>,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("orlop-shim-")
            .tempdir_in("/tmp")
            .unwrap();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let id = format!("orlop-t{}-{serial}", std::process::id());
        write_bundle(dir.path(), &id, script, change);
        let events = listen_for_events(&dir.path().join("events.sock"));
        let answer = start_shim(dir.path(), &id, options);
        let socket = PathBuf::from(answer.address.strip_prefix("unix://").unwrap());
        let mut link = Link::connect(&socket);
        let connected: api::ConnectResponse = link
            .call("Connect", &api::ConnectRequest { id: id.clone() })
            .unwrap();
        Self {
            dir,
            id,
            pid: connected.shim_pid,
            socket,
            events,
            link,
        }
    }

    /// The engine goes away.
    pub(crate) fn hang_up(&self) {
        self.link.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// The engine comes back.
    pub(crate) fn dial(&mut self) {
        self.link = self.link();
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn link(&self) -> Link {
        Link::connect(&self.socket)
    }

    pub(crate) fn call<R: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.link.call(method, request)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A request whose output goes to the file `out`.
    pub(crate) fn create_request(&self) -> api::CreateTaskRequest {
        api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle().display().to_string(),
            stdout: format!("file://{}", self.path("out").display()),
            ..api::CreateTaskRequest::default()
        }
    }

    pub(crate) fn create(&mut self) -> u32 {
        let request = self.create_request();
        self.create_with(&request)
    }

    pub(crate) fn create_with(&mut self, request: &api::CreateTaskRequest) -> u32 {
        self.call::<api::CreateTaskResponse>("Create", request)
            .unwrap()
            .pid
    }

    pub(crate) fn start_task(&mut self, exec: &str) -> u32 {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
        };
        self.call::<api::StartResponse>("Start", &request)
            .unwrap()
            .pid
    }

    pub(crate) fn run(&mut self) -> u32 {
        let pid = self.create();
        self.start_task("");
        pid
    }

    pub(crate) fn wait(&mut self, exec: &str) -> u32 {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
        };
        self.call::<api::WaitResponse>("Wait", &request)
            .unwrap()
            .exit_status
    }

    pub(crate) fn kill(&mut self, exec: &str, signal: u32) -> Result<(), Status> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all: false,
        };
        self.call::<()>("Kill", &request)
    }

    pub(crate) fn delete(&mut self, exec: &str) -> api::DeleteResponse {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
        };
        self.call("Delete", &request).unwrap()
    }

    pub(crate) fn exec_request(&self, exec: &str, script: &str) -> api::ExecProcessRequest {
        let process = serde_json::json!({
            "args": ["/bin/busybox", "sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdout: format!("file://{}", self.path(exec).display()),
            spec: Some(Any {
                type_url: String::new(),
                value: process.to_string().into_bytes(),
            }),
            ..api::ExecProcessRequest::default()
        }
    }

    pub(crate) fn exec(&mut self, exec: &str, script: &str) {
        let request = self.exec_request(exec, script);
        self.call::<()>("Exec", &request).unwrap();
    }

    pub(crate) fn state(&mut self, exec: &str) -> Result<api::StateResponse, Status> {
        let request = api::StateRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
        };
        self.call("State", &request)
    }

    pub(crate) fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn exits(&self) -> ExitFile {
        serde_json::from_slice(&std::fs::read(self.bundle().join("exit.json")).unwrap()).unwrap()
    }

    pub(crate) fn init_exit(&self) -> ExitRecord {
        self.exits().init.unwrap()
    }

    /// Topics up to and including `last`.
    pub(crate) fn topics_until(&self, last: &str) -> Vec<String> {
        let mut topics = Vec::new();
        while topics.last().is_none_or(|topic| topic != last) {
            let (topic, _) = self
                .events
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no {last} after {topics:?}"));
            topics.push(topic);
        }
        topics
    }

    pub(crate) fn cgroup(&self) -> PathBuf {
        let path = format!("/orlop-shim-test/{}", self.id);
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        match own.lines().any(|line| line.contains(":memory:")) {
            true => PathBuf::from(format!("/sys/fs/cgroup/memory{path}")),
            false => PathBuf::from(format!("/sys/fs/cgroup{path}")),
        }
    }

    /// What containerd runs when the shim is gone.
    pub(crate) fn cleanup(&self) -> api::DeleteResponse {
        let output = Command::new(SHIM)
            .args(["-namespace", "orlop-test", "-id", &self.id, "-bundle"])
            .arg(self.bundle())
            .arg("delete")
            .current_dir(self.bundle())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        api::DeleteResponse::decode(output.stdout.as_slice()).unwrap()
    }

    pub(crate) fn kill_shim(&self) {
        end_process(self.pid);
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.kill_shim();
        self.cleanup();
        for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            // Other tests may still use the folder.
            std::fs::remove_dir(entry.path().join("orlop-shim-test")).ok();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.bundle().join("log")).unwrap_or_default();
            eprintln!("shim's log:\n{log}\noutput:\n{}", self.output("out"));
        }
    }
}

pub(crate) fn end_process(pid: u32) {
    let pid = i32::try_from(pid).unwrap();
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    until("the process is gone", || !runs(pid));
}

/// Whether it exists and is no zombie: nobody may reap orphans in a test's container.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start_shim(dir: &Path, id: &str, options: Option<Any>) -> BootstrapResult {
    let params = BootstrapParams {
        instance_id: id.to_owned(),
        namespace: "orlop-test".to_owned(),
        containerd_ttrpc_address: dir.join("events.sock").display().to_string(),
        socket_dir: Some(dir.join("s").display().to_string()),
        extensions: vec![Extension { value: options }],
        ..BootstrapParams::default()
    };
    let mut child = Command::new(SHIM)
        .args([
            "-namespace",
            "orlop-test",
            "-id",
            id,
            "-address",
            "/none",
            "start",
        ])
        .current_dir(dir.join("bundle"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&params.encode_to_vec())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
    answer
}

fn write_bundle(dir: &Path, id: &str, script: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let bin = dir.join("bundle/rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
    for folder in ["proc", "dev", "tmp"] {
        std::fs::create_dir_all(dir.join("bundle/rootfs").join(folder)).unwrap();
    }
    std::fs::write(dir.join("bundle/log"), "").unwrap();
    let mut spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/busybox", "sh", "-c", script], "cwd": "/",
            "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {
            "cgroupsPath": format!("/orlop-shim-test/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    });
    change(&mut spec);
    std::fs::write(dir.join("bundle/config.json"), spec.to_string()).unwrap();
}

/// Takes events as an engine does, on a thread that ends with the test.
fn listen_for_events(path: &Path) -> Receiver<(String, Any)> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, events) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut connection = server::Connection::default();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                connection.received(&buffer[..count]);
                while let Some(call) = connection.next_call().unwrap() {
                    let request = ForwardRequest::decode(call.payload.as_slice()).unwrap();
                    let envelope = request.envelope.unwrap();
                    assert_eq!(envelope.namespace, "orlop-test");
                    connection.respond(call.stream, Ok(Vec::new()));
                    if sender
                        .send((envelope.topic, envelope.event.unwrap()))
                        .is_err()
                    {
                        return;
                    }
                }
                if stream.write_all(connection.output()).is_err() {
                    break;
                }
                connection.wrote(connection.output().len());
            }
        }
    });
    events
}
