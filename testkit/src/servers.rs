//! Servers that stand in for a bucket and a database, each for one test: moto, which knows storage classes and restores;
//! s3s-fs, which checks signatures and checksums; the distribution's PostgreSQL. `.ci/packages` and `.ci/run` install them.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose server does not start has failed"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where `.ci/packages` puts moto.
const MOTO: &str = "/var/cache/orlop/moto";

/// Where Debian keeps PostgreSQL's programs of each version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Who runs PostgreSQL where the test is root: it refuses to.
const POSTGRES_USER: &str = "postgres";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bucket of every object store here.
pub const BUCKET: &str = "blobs";

/// The credentials of every object store here: id and secret.
pub const CREDENTIALS: (&str, &str) = ("key", "secret");

/// An object store that ends with the test.
#[derive(Debug)]
pub struct ObjectStore {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl ObjectStore {
    /// moto, with a bucket.
    #[must_use]
    pub fn moto() -> Self {
        let root = std::env::var_os("ORLOP_MOTO").map_or_else(|| MOTO.into(), PathBuf::from);
        let program = root.join("bin/moto_server");
        assert!(
            program.exists(),
            "{} is missing: .ci/packages installs it",
            program.display()
        );
        let mut command = command(&program);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        command.env("PYTHONUNBUFFERED", "1");
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(
                lines.read_line(&mut line).unwrap() > 0,
                "moto ended before it listened"
            );
            if let Some((_, address)) = line.split_once("Running on http://") {
                break address.trim().to_owned();
            }
        };
        // It writes a line for each request, and would stop if nobody read.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let server = Self {
            child,
            address,
            _folder: tempfile::tempdir().unwrap(),
        };
        server.ask("PUT", &format!("/{BUCKET}"), "");
        server
    }

    /// s3s-fs, with a bucket.
    #[must_use]
    pub fn s3s() -> Self {
        let program =
            std::env::var_os("ORLOP_S3S_FS").map_or_else(|| installed("s3s-fs"), PathBuf::from);
        assert!(
            program.exists(),
            "{} is missing: .ci/run says how it is installed",
            program.display()
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let port = free_port();
        let mut command = command(&program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--access-key", CREDENTIALS.0, "--secret-key", CREDENTIALS.1]);
        command.arg(folder.path()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        let began = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < PATIENCE, "s3s-fs does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Lets a restore last until it was looked at so often.
    pub fn restores_last(&self, looks: u32) {
        let body = format!(
            "{{\"model_name\": \"s3::keyrestore\", \"transition\": {{\"progression\": \"manual\", \"times\": {looks}}}}}"
        );
        self.ask("POST", "/moto-api/state-manager/set-transition", &body);
    }

    /// Brings an object into an archive, as somebody with rights to the bucket may.
    pub fn archive(&self, key: &str) {
        let class = "x-amz-storage-class: GLACIER\r\n";
        // moto asks for a signature and does not look at it.
        let signature = "authorization: AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";
        let headers = format!("x-amz-copy-source: {BUCKET}/{key}\r\n{class}{signature}");
        self.ask_with("PUT", &format!("/{BUCKET}/{key}"), &headers, "");
    }

    /// Ends the store before its time.
    pub fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn ask(&self, method: &str, path: &str, body: &str) {
        self.ask_with(method, path, "", body);
    }

    fn ask_with(&self, method: &str, path: &str, headers: &str, body: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 2"),
            "{method} {path}: {answer}"
        );
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // It may have been ended by the test.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test's server, ended by its id"
)]
fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn installed(program: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    home.unwrap_or_default().join("bin").join(program)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A cluster that ends with the test.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
    server: Option<Child>,
}

impl Cluster {
    /// Makes one and starts it.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        if let Some((user, group)) = servant() {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut cluster = Self {
            folder,
            programs: programs(),
            server: None,
        };
        let made = cluster
            .postgres_command("initdb")
            .args(["--auth=trust", "--no-sync", "--username=cache", "--pgdata"])
            .arg(cluster.data())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        cluster.run();
        cluster
    }

    /// How it is reached.
    #[must_use]
    pub fn address(&self) -> String {
        let folder = self.folder.path().display();
        format!("host={folder} user=cache dbname=postgres")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server and waits until it answers.
    pub fn run(&mut self) {
        let mut command = self.postgres_command("postgres");
        command.arg("-D").arg(self.data());
        command.arg("-k").arg(self.folder.path());
        // On the socket only, and without waiting for a disk that is gone with the test.
        command.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        self.server = Some(command.spawn().unwrap());
        let began = Instant::now();
        loop {
            let mut command = self.postgres_command("pg_isready");
            command.args(["-q", "-U", "cache", "-d", "postgres", "-h"]);
            if command.arg(self.folder.path()).status().unwrap().success() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, as a power cut does.
    pub fn end(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let pid = i32::try_from(server.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        server.wait().unwrap();
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a test's server, ended by its id"
    )]
    fn postgres_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
            .stderr(Stdio::null())
            .current_dir(self.folder.path());
        command.env("LC_ALL", "C");
        if let Some((user, group)) = servant() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whom PostgreSQL runs as, if not as who runs the test.
fn servant() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(POSTGRES_USER));
    let fields: Vec<&str> = line
        .expect("Debian's postgresql brings its user: .ci/packages")
        .split(':')
        .collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir(POSTGRES)
        .expect("Debian's postgresql is missing: .ci/packages installs it")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().expect("there is no initdb")
}
