//! A plain container needs one call of runc; what is not plain still gets all three. Either way nothing is left.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write their own files"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use orlop_api::any::pack;
use orlop_api::containerd::runc::v1::Options;
use orlop_api::containerd::task::v3 as api;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Shim, until};

/// A shim whose runc notes how it is called.
struct Noted {
    shim: Shim,
}

impl Noted {
    fn start(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let shim = Shim::start(script, change);
        let runc = shim.path("runc");
        let calls = shim.path("calls");
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>{}\nexec runc \"$@\"\n",
            calls.display()
        );
        std::fs::write(&runc, text).unwrap();
        std::fs::set_permissions(&runc, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { shim }
    }

    fn create(&mut self) -> Pid {
        let options = Options {
            binary_name: self.shim.path("runc").display().to_string(),
            root: self.shim.path("root").display().to_string(),
            ..Options::default()
        };
        let request = api::CreateTaskRequest {
            options: Some(pack(&options)),
            ..self.shim.create_request()
        };
        let pid = self.shim.create_with(&request);
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    /// What runc was called for, in order.
    fn calls(&self) -> Vec<&'static str> {
        let known = ["create", "start", "delete", "kill"];
        let of_line = |line: &str| {
            let word = |known: &&str| line.split(' ').any(|word| word == *known);
            known.into_iter().find(word)
        };
        let calls = self.shim.output("calls");
        calls.lines().filter_map(of_line).collect()
    }

    /// What runc keeps of the container.
    fn folder(&self) -> PathBuf {
        self.shim.path("root/orlop-test").join(&self.shim.id)
    }

    /// Its groups in all hierarchies.
    fn groups(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let group = format!("orlop-shim-test/{}", self.shim.id);
        let groups = hierarchies.map(|hierarchy| hierarchy.path().join(&group));
        let unified = PathBuf::from("/sys/fs/cgroup").join(&group);
        groups
            .chain([unified])
            .filter(|group| group.exists())
            .collect()
    }

    fn is_gone(&self) -> bool {
        !self.folder().exists() && self.groups().is_empty()
    }
}

fn same(_: &mut Value) {}

#[test]
fn a_plain_container_is_created_by_runc_and_needs_it_no_more() {
    let mut noted = Noted::start("echo hello; exit 3", same);
    noted.create();
    assert!(noted.folder().join("exec.fifo").exists());
    assert!(!noted.groups().is_empty());
    noted.shim.start_task("");
    // So runc tells a started container from one that is not.
    assert!(!noted.folder().join("exec.fifo").exists());
    assert_eq!(noted.shim.wait(""), 3);
    assert_eq!(noted.shim.delete("").exit_status, 3);
    assert_eq!(noted.shim.output("out"), "hello\n");
    assert_eq!(noted.calls(), ["create"]);
    assert!(noted.is_gone());
}

#[test]
fn a_container_with_a_hook_is_runcs_to_start_and_to_delete() {
    let mut noted = Noted::start("true", |spec| {
        spec["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    });
    noted.create();
    noted.shim.start_task("");
    noted.shim.wait("");
    noted.shim.delete("");
    assert_eq!(noted.calls(), ["create", "start", "delete"]);
    assert!(noted.is_gone());
}

#[test]
fn a_group_inside_the_containers_own_is_left_to_runc() {
    let mut noted = Noted::start("true", same);
    noted.create();
    std::fs::create_dir(noted.shim.cgroup().join("inner")).unwrap();
    noted.shim.start_task("");
    noted.shim.wait("");
    noted.shim.delete("");
    assert_eq!(noted.calls(), ["create", "delete"]);
    assert!(noted.is_gone());
}

#[test]
fn a_first_process_that_dies_while_it_is_started_fails_the_start() {
    let mut noted = Noted::start("true", same);
    let process = noted.create();
    kill_process(process, Signal::STOP).unwrap();
    let mut starter = noted.shim.link();
    let request = api::StartRequest {
        id: noted.shim.id.clone(),
        exec_id: String::new(),
    };
    starter.send("Start", &request);
    // An answer to another call shows that the start was taken up.
    noted.shim.state("").unwrap();
    kill_process(process, Signal::KILL).unwrap();
    let refused = starter.next().1.unwrap_err();
    assert!(refused.message.contains("already dead"), "{refused}");
    assert_eq!(noted.shim.wait(""), 137);
    noted.shim.delete("");
    until("everything is gone", || noted.is_gone());
}
