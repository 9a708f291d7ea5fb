//! The program itself, killed and ended while it fills.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test starts the program as a shell would"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orlop_testkit::registry::{Action, FakeRegistry, Fault, ImageParts, Layer};

const PATIENCE: Duration = Duration::from_secs(60);
const LAYER_BYTES: usize = 48 << 20;

/// A running cache, killed when a test fails.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(root: &Path, upstream: &str) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop-cache"));
        command.args(["serve", "--root"]).arg(root);
        for setting in [
            format!("serve.address={address}"),
            format!("origin.registries={upstream}"),
            format!("origin.default={upstream}"),
            "serve.shutdown_grace=5s".to_owned(),
            "origin.credentials_file=/nonexistent".to_owned(),
            "origin.hosts_dirs=/nonexistent".to_owned(),
        ] {
            command.args(["--set", &setting]);
        }
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let running = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Sends a request and gives the stream, with its answer's head read.
    fn get(&self, path: &str) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET /v2/{path} HTTP/1.1\r\nhost: cache\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    fn body(&self, path: &str) -> Vec<u8> {
        let (head, mut stream) = self.get(path);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        body
    }

    fn signal(&mut self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless a test failed.
        let _killed = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn scene() -> (FakeRegistry, ImageParts) {
    let upstream = FakeRegistry::start();
    let parts = upstream.put_image("team/app", "1", &[Layer::plain(noise(LAYER_BYTES))]);
    (upstream, parts)
}

#[test]
fn a_fill_that_was_killed_goes_on_from_what_was_synced() {
    let (upstream, parts) = scene();
    let folder = tempfile::tempdir().unwrap();
    let stalls = Action::Stall(40 << 20);
    upstream.fault(Fault::on("/blobs/", stalls).method("GET").times(1));
    let path = format!("team/app/blobs/{}", parts.layers[0]);
    let mut running = Running::start(folder.path(), &upstream.host());
    assert_eq!(running.body("team/app/manifests/1"), parts.manifest_bytes);
    let (_, mut stream) = running.get(&path);
    let mut came = vec![0; 36 << 20];
    stream.read_exact(&mut came).unwrap();
    running.signal("-KILL");
    drop(running);
    let running = Running::start(folder.path(), &upstream.host());
    assert!(
        running.body(&path) == noise(LAYER_BYTES),
        "the blob as it is"
    );
    let asked = upstream.requests();
    let blobs = asked.iter().filter(|seen| seen.path.contains("/blobs/"));
    let ranges: Vec<_> = blobs.map(|seen| seen.header("range")).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let range = ranges[1].expect("only the rest was asked for");
    let start = range["bytes=".len()..].split('-').next().unwrap();
    assert!(start.parse::<usize>().unwrap() >= 32 << 20, "{range}");
}

#[test]
fn an_answer_under_way_is_finished_when_the_program_is_ended() {
    let (upstream, parts) = scene();
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(folder.path(), &upstream.host());
    running.body("team/app/manifests/1");
    let path = format!("team/app/blobs/{}", parts.layers[0]);
    assert_eq!(running.body(&path).len(), LAYER_BYTES);
    let (_, mut stream) = running.get(&path);
    running.signal("-TERM");
    // More than socket buffers hold is still to come.
    std::thread::sleep(Duration::from_millis(300));
    let mut body = Vec::new();
    stream.read_to_end(&mut body).unwrap();
    assert!(body == noise(LAYER_BYTES), "all of it came");
    assert!(running.child.wait().unwrap().success());
}
