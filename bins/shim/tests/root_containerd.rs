//! The shim under Debian's containerd, as `io.containerd.orlop.v1`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write their own files and start their own programs"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use support::{SHIM, until};

/// A containerd with folders, sockets and configuration of its own; ended with all it runs when dropped.
struct Containerd {
    dir: tempfile::TempDir,
    child: Child,
    namespace: String,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("orlop-ctd-")
            .tempdir_in("/tmp")
            .unwrap();
        let root = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{root}/c.sock\"\n[ttrpc]\naddress = \"{root}/c.sock.ttrpc\"\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for folder in ["proc", "dev", "sys", "run", "tmp"] {
            std::fs::create_dir_all(dir.path().join("rootfs").join(folder)).unwrap();
        }
        std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
        let child = spawn_containerd(dir.path());
        let namespace = format!("orlop-t{}", std::process::id());
        let containerd = Self {
            dir,
            child,
            namespace,
        };
        until("containerd answers", || {
            containerd.ctr(&["version"]).status.success()
        });
        containerd
    }

    fn ctr(&self, args: &[&str]) -> Output {
        Command::new("timeout")
            .args(["30", "ctr", "-n", &self.namespace, "-a"])
            .arg(self.dir.path().join("c.sock"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(
            output.status.success(),
            "ctr {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, flags: &[&str], id: &str, script: &str) -> Output {
        let rootfs = self.dir.path().join("rootfs").display().to_string();
        let mut args = vec!["run", "--runtime", "io.containerd.orlop.v1", "--rootfs"];
        args.extend(flags);
        args.extend([rootfs.as_str(), id, "/bin/busybox", "sh", "-c", script]);
        self.ctr(&args)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        let state = self.dir.path().join("state/io.containerd.runtime.v2.task");
        state.join(&self.namespace).join(id)
    }

    fn shims(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if line.starts_with(SHIM) && line.contains(&format!("-namespace\0{}\0", self.namespace))
            {
                found.push(pid);
            }
        }
        found
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn_containerd(self.dir.path());
        until("containerd answers", || {
            self.ctr(&["version"]).status.success()
        });
    }
}

fn spawn_containerd(dir: &Path) -> Child {
    let bin = Path::new(SHIM).parent().unwrap().display();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new("containerd")
        .arg("-c")
        .arg(dir.join("config.toml"))
        .env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let tasks = String::from_utf8(self.ctr(&["task", "ls", "-q"]).stdout).unwrap_or_default();
        for id in tasks.lines() {
            self.ctr(&["task", "rm", "-f", id]);
        }
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
        for pid in self.shims() {
            support::end_process(pid);
        }
        // Version 1 keeps the namespace's group in every hierarchy.
        for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            std::fs::remove_dir(entry.path().join(&self.namespace)).ok();
        }
        if std::thread::panicking() {
            eprintln!(
                "{}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
        }
    }
}

#[test]
fn stock_containerd_runs_executes_and_deletes_with_it() {
    let containerd = Containerd::start();
    let output = containerd.run(&["--rm"], "one", "echo hello; exit 7");
    assert_eq!(
        output.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, b"hello\n");

    assert!(
        containerd
            .run(&["-d"], "two", "sleep 1000")
            .status
            .success()
    );
    assert_eq!(
        containerd.ok(&[
            "task",
            "exec",
            "--exec-id",
            "e",
            "two",
            "/bin/busybox",
            "echo",
            "hi"
        ]),
        "hi\n"
    );
    assert!(
        containerd
            .ok(&["task", "metrics", "two"])
            .contains("memory")
    );
    containerd.ok(&["task", "pause", "two"]);
    containerd.ok(&["task", "resume", "two"]);
    containerd.ok(&["task", "kill", "-s", "9", "two"]);
    until("it has stopped", || {
        containerd.ok(&["task", "ls"]).contains("STOPPED")
    });
    containerd.ctr(&["task", "rm", "two"]);
    until("no shim is left", || containerd.shims().is_empty());
    assert!(!containerd.bundle("two").exists());
}

#[test]
fn containers_survive_a_killed_containerd_and_dead_shims_are_cleaned() {
    let mut containerd = Containerd::start();
    assert!(
        containerd
            .run(&["-d"], "three", "sleep 1000")
            .status
            .success()
    );
    containerd.restart();
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    assert_eq!(
        containerd.ok(&[
            "task",
            "exec",
            "--exec-id",
            "e",
            "three",
            "/bin/busybox",
            "echo",
            "hi"
        ]),
        "hi\n"
    );
    for pid in containerd.shims() {
        support::end_process(pid);
    }
    until("containerd has cleaned up", || {
        !containerd.bundle("three").exists()
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(containerd.dir.path().to_str().unwrap()));
}

#[test]
fn containers_of_one_pod_share_a_shim() {
    let containerd = Containerd::start();
    for id in ["pause", "app"] {
        let flags = ["-d", "--annotation", "io.kubernetes.cri.sandbox-id=pause"];
        let output = containerd.run(&flags, id, "sleep 1000");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(containerd.shims().len(), 1);
    containerd.ok(&["task", "kill", "-s", "9", "app"]);
    until("one has stopped", || {
        containerd.ok(&["task", "ls"]).contains("STOPPED")
    });
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
}
