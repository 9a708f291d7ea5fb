//! The shim with a real runc, driven as an engine does.
#![allow(clippy::disallowed_methods, reason = "tests write their own files")]

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use orlop_api::Any;
use orlop_api::any::{pack, unpack};
use orlop_api::containerd::events::TaskExit;
use orlop_api::containerd::runc::v1::Options;
use orlop_api::containerd::task::v3 as api;
use orlop_api::containerd::v1::types::Status as TaskStatus;
use orlop_api::io::containerd::cgroups::v1::Metrics;
use orlop_ttrpc::Code;
use orlop_types::exit::ExitCause;
use support::{Shim, until};

fn same(_: &mut serde_json::Value) {}

#[test]
fn a_container_runs_from_create_to_delete_with_its_events_in_order() {
    let mut shim = Shim::start("echo hello; exit 3", same);
    let pid = shim.create();
    assert_eq!(shim.state("").unwrap().status(), TaskStatus::Created);
    assert_eq!(shim.start_task(""), pid);
    assert_eq!(shim.wait(""), 3);
    assert_eq!(shim.state("").unwrap().status(), TaskStatus::Stopped);
    let record = shim.init_exit();
    assert_eq!(
        (record.raw_status, record.cause),
        (Some(0x300), ExitCause::Exited)
    );
    let deleted = shim.delete("");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    assert_eq!(shim.output("out"), "hello\n");
    let topics = shim.topics_until("/tasks/delete");
    assert_eq!(
        topics,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete"
        ]
    );
    assert!(!shim.cgroup().exists());
    let refused = shim.state("").unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
}

#[test]
fn the_shim_ends_when_told_to_and_takes_its_socket_along() {
    let mut shim = Shim::start("true", same);
    shim.run();
    shim.wait("");
    shim.call::<()>("Shutdown", &api::ShutdownRequest::default())
        .unwrap();
    assert!(shim.state("").is_ok(), "a shim with a container stays");
    shim.delete("");
    shim.call::<()>("Shutdown", &api::ShutdownRequest::default())
        .unwrap();
    let process = format!("/proc/{}/exe", shim.pid);
    until("the shim is gone", || std::fs::read_link(&process).is_err());
    assert_eq!(std::fs::read_dir(shim.path("s")).unwrap().count(), 0);
}

#[test]
fn the_shim_joins_the_cgroup_that_its_options_name() {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hierarchy = Path::new("/sys/fs/cgroup").join(if unified { "" } else { "memory" });
    let name = format!("orlop-shim-cgroup-{}", std::process::id());
    std::fs::create_dir(hierarchy.join(&name)).unwrap();
    let options = pack(&Options {
        shim_cgroup: format!("/{name}"),
        ..Options::default()
    });
    let shim = Shim::start_with("true", same, Some(options));
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).unwrap();
    assert!(
        groups
            .lines()
            .any(|line| line.ends_with(&format!(":/{name}"))),
        "{groups}"
    );
    drop(shim);
    let mut removed = Err(std::io::ErrorKind::ResourceBusy.into());
    for _ in 0..100 {
        removed = std::fs::remove_dir(hierarchy.join(&name));
        if removed.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    removed.unwrap();
}

#[test]
fn both_versions_of_the_protocol_are_served_and_others_are_refused() {
    let shim = Shim::start("true", same);
    let mut link = shim.link();
    let request = api::ConnectRequest {
        id: shim.id.clone(),
    };
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        link.send_to(service, "Connect", &request);
        assert!(link.next().1.is_ok(), "{service}");
    }
    for (service, method) in [("containerd.task.v3.Task", "Fly"), ("x.Y", "Connect")] {
        link.send_to(service, method, &request);
        assert_eq!(link.next().1.unwrap_err().code, Code::Unimplemented);
    }
    link.send("Checkpoint", &request);
    assert_eq!(link.next().1.unwrap_err().code, Code::Unimplemented);
}

#[test]
fn a_kill_and_an_exit_with_137_are_told_apart() {
    let table = [
        ("exit 137", None, Some(0x8900), ExitCause::Exited),
        ("sleep 1000", Some(9), Some(9), ExitCause::KilledByRuntime),
    ];
    for (script, signal, raw, cause) in table {
        let mut shim = Shim::start(script, same);
        shim.run();
        if let Some(signal) = signal {
            shim.kill("", signal).unwrap();
        }
        assert_eq!(shim.wait(""), 137, "{script}");
        let record = shim.init_exit();
        assert_eq!((record.raw_status, record.cause), (raw, cause), "{script}");
        assert_eq!(shim.kill("", 9).unwrap_err().code, Code::NotFound);
    }
}

#[test]
fn a_kill_from_outside_is_not_taken_for_ours() {
    let mut shim = Shim::start("sleep 1000", same);
    let pid = shim.run();
    support::end_process(pid);
    assert_eq!(shim.wait(""), 137);
    assert_eq!(shim.init_exit().cause, ExitCause::KilledByOther);
}

#[test]
fn an_oom_at_the_containers_own_limit_is_recognised() {
    let mut shim = Shim::start("exec busybox tail /dev/zero", |spec| {
        spec["linux"]["resources"]["memory"] =
            serde_json::json!({"limit": 32 << 20, "swap": 32 << 20});
        spec["linux"]["devices"] = serde_json::json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 438}]);
    });
    shim.run();
    assert_eq!(shim.wait(""), 137);
    let record = shim.init_exit();
    assert_eq!(record.cause, ExitCause::WorkloadOom, "{record:?}");
    assert_eq!(record.memory[0].oom_kill, Some(1));
    assert_eq!(record.raw_status, Some(9));
    let topics = shim.topics_until("/tasks/exit");
    assert!(topics.contains(&"/tasks/oom".to_owned()), "{topics:?}");
}

#[test]
fn execs_run_side_by_side_and_their_ends_are_their_own() {
    let mut shim = Shim::start("sleep 1000", same);
    shim.run();
    let mut links = Vec::new();
    for index in 0..8 {
        let exec = format!("e{index}");
        shim.exec(&exec, &format!("echo {index}; exit {index}"));
        let mut link = shim.link();
        link.send(
            "Start",
            &api::StartRequest {
                id: shim.id.clone(),
                exec_id: exec,
            },
        );
        links.push(link);
    }
    for link in &mut links {
        link.next().1.unwrap();
    }
    for index in 0..8 {
        let exec = format!("e{index}");
        assert_eq!(shim.wait(&exec), index);
        assert_eq!(shim.delete(&exec).exit_status, index);
        assert_eq!(shim.output(&exec), format!("{index}\n"));
        assert_eq!(shim.exits().execs[&exec].exit_status, index);
    }
    let taken = shim.exec_request("twice", "true");
    shim.call::<()>("Exec", &taken).unwrap();
    assert_eq!(
        shim.call::<()>("Exec", &taken).unwrap_err().code,
        Code::AlreadyExists
    );
}

#[test]
fn an_exec_that_cannot_start_says_why_and_can_be_deleted() {
    let mut shim = Shim::start("sleep 1000", same);
    shim.run();
    let mut request = shim.exec_request("bad", "true");
    request.spec = Some(Any {
        type_url: String::new(),
        value: br#"{"args":["/no/such"],"cwd":"/","user":{"uid":0,"gid":0}}"#.to_vec(),
    });
    shim.call::<()>("Exec", &request).unwrap();
    let start = api::StartRequest {
        id: shim.id.clone(),
        exec_id: "bad".to_owned(),
    };
    let refused = shim
        .call::<api::StartResponse>("Start", &start)
        .unwrap_err();
    assert!(refused.message.contains("/no/such"), "{refused}");
    let again = shim.call::<api::StartResponse>("Start", &start);
    assert!(again.is_err(), "it is started once: {again:?}");
    let state: api::StateResponse = shim
        .call(
            "State",
            &api::StateRequest {
                id: shim.id.clone(),
                exec_id: "bad".to_owned(),
            },
        )
        .unwrap();
    let created = i32::from(TaskStatus::Created);
    assert_eq!((state.status, state.exit_status), (created, 255));
    assert_eq!(shim.wait("bad"), 255);
    assert_eq!(shim.delete("bad").exit_status, 255);
}

#[test]
fn containers_exit_after_their_execs() {
    let mut shim = Shim::start("sleep 1000", same);
    shim.run();
    shim.exec("e", "sleep 1000");
    shim.start_task("e");
    shim.kill("", 9).unwrap();
    shim.wait("");
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let (topic, event) = shim.events.recv().unwrap();
        if topic == "/tasks/exit" {
            ids.push(unpack::<TaskExit>(&event).unwrap().id);
        }
    }
    assert_eq!(ids, ["e".to_owned(), shim.id.clone()]);
}

#[test]
fn pause_resume_update_pids_and_stats_work() {
    let mut shim = Shim::start("sleep 1000", same);
    let pid = shim.run();
    let id = shim.id.clone();
    shim.call::<()>("Pause", &api::PauseRequest { id: id.clone() })
        .unwrap();
    assert_eq!(shim.state("").unwrap().status(), TaskStatus::Paused);
    shim.call::<()>("Resume", &api::ResumeRequest { id: id.clone() })
        .unwrap();
    assert_eq!(shim.state("").unwrap().status(), TaskStatus::Running);
    let resources = Any {
        type_url: String::new(),
        value: br#"{"memory":{"limit":67108864}}"#.to_vec(),
    };
    let update = api::UpdateTaskRequest {
        id: id.clone(),
        resources: Some(resources),
        ..Default::default()
    };
    shim.call::<()>("Update", &update).unwrap();
    let pids: api::PidsResponse = shim
        .call("Pids", &api::PidsRequest { id: id.clone() })
        .unwrap();
    assert!(pids.processes.iter().any(|process| process.pid == pid));
    let stats: api::StatsResponse = shim.call("Stats", &api::StatsRequest { id }).unwrap();
    let stats = stats.stats.unwrap();
    if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics: Metrics = unpack(&stats).unwrap();
        assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 67_108_864);
        assert!(metrics.pids.unwrap().current >= 1);
    }
    shim.call::<()>(
        "Pause",
        &api::PauseRequest {
            id: shim.id.clone(),
        },
    )
    .unwrap();
    shim.kill("", 9).unwrap();
    assert_eq!(shim.wait(""), 137, "a frozen container can be killed");
}

#[test]
fn a_create_that_fails_leaves_nothing_behind() {
    let mut shim = Shim::start("true", |spec| {
        spec["process"]["args"] = serde_json::json!(["/no/such"]);
    });
    let source = shim.path("source");
    std::fs::create_dir_all(source.join("bin")).unwrap();
    let mut request = shim.create_request();
    request.rootfs.push(orlop_api::containerd::types::Mount {
        r#type: "bind".to_owned(),
        source: source.display().to_string(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
        ..Default::default()
    });
    let refused = shim
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap_err();
    assert!(refused.message.contains("/no/such"), "{refused}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(shim.bundle().to_str().unwrap()));
    assert!(!shim.cgroup().exists());
    assert_eq!(shim.state("").unwrap_err().code, Code::NotFound);
}

#[test]
fn a_missing_runtime_is_named() {
    let mut shim = Shim::start("true", same);
    let mut request = shim.create_request();
    let options = Options {
        binary_name: "/no/such/runc".to_owned(),
        ..Options::default()
    };
    request.options = Some(pack(&options));
    let refused = shim
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert!(
        refused.message.contains("/no/such/runc") && refused.message.contains("ORL-E6406"),
        "{refused}"
    );
    let pid = shim.create();
    assert!(pid > 0, "the id is free again");
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    let mut shim = Shim::start("true", same);
    let pid = shim.create();
    let deleted = shim.delete("");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert!(!shim.cgroup().exists());
}

#[test]
fn the_end_of_input_arrives_after_the_last_client_and_close_io() {
    let mut shim = Shim::start("cat; echo done", same);
    let fifo = shim.path("in");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let mut request = shim.create_request();
    request.stdin = fifo.display().to_string();
    shim.create_with(&request);
    shim.start_task("");
    let mut input = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    input.write_all(b"line\n").unwrap();
    drop(input);
    until("the line is copied", || shim.output("out") == "line\n");
    let close = api::CloseIoRequest {
        id: shim.id.clone(),
        stdin: true,
        ..Default::default()
    };
    shim.call::<()>("CloseIO", &close).unwrap();
    assert_eq!(shim.wait(""), 0);
    assert_eq!(shim.output("out"), "line\ndone\n");
}

#[test]
fn a_terminal_is_copied_both_ways_and_resized() {
    let script = "stty size; read line; echo got $line; stty size";
    let mut shim = Shim::start(script, |spec| spec["process"]["terminal"] = true.into());
    let mut request = shim.create_request();
    request.terminal = true;
    for name in ["in", "tty"] {
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            shim.path(name),
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
    }
    request.stdin = shim.path("in").display().to_string();
    request.stdout = shim.path("tty").display().to_string();
    shim.create_with(&request);
    let mut output = std::fs::File::open(shim.path("tty")).unwrap();
    let mut input = std::fs::OpenOptions::new()
        .write(true)
        .open(shim.path("in"))
        .unwrap();
    let resize = |height| api::ResizePtyRequest {
        id: String::new(),
        exec_id: String::new(),
        width: 77,
        height,
    };
    for (height, start) in [(33, true), (44, false)] {
        let request = api::ResizePtyRequest {
            id: shim.id.clone(),
            ..resize(height)
        };
        shim.call::<()>("ResizePty", &request).unwrap();
        if start {
            shim.start_task("");
            let mut text = [0; 7];
            output.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"33 77\r\n");
        }
    }
    input.write_all(b"abc\n").unwrap();
    assert_eq!(shim.wait(""), 0);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("got abc") && rest.contains("44 77"),
        "{rest:?}"
    );
    shim.delete("");
}

#[test]
fn cri_logs_are_written_by_the_shim_and_reopened() {
    let mut shim = Shim::start("echo a; echo b >&2; read x; printf tail", same);
    let fifo = shim.path("in");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let mut request = shim.create_request();
    request.stdin = fifo.display().to_string();
    request.stdout = format!("cri-log://{}", shim.path("0.log").display());
    request.stderr = request.stdout.clone();
    shim.create_with(&request);
    shim.start_task("");
    until("both lines are there", || {
        shim.output("0.log").lines().count() == 2
    });
    std::fs::rename(shim.path("0.log"), shim.path("1.log")).unwrap();
    let mut link = shim.link();
    link.send_to(
        "orlop.shim.v1.Shim",
        "ReopenLog",
        &api::StateRequest {
            id: shim.id.clone(),
            ..Default::default()
        },
    );
    link.next().1.unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&fifo)
        .unwrap()
        .write_all(b"\n")
        .unwrap();
    shim.wait("");
    shim.delete("");
    let old = shim.output("1.log");
    assert!(
        old.contains(" stdout F a\n") && old.contains(" stderr F b\n"),
        "{old}"
    );
    assert!(shim.output("0.log").ends_with(" stdout F tail\n"));
}

#[test]
fn a_gigabyte_of_output_passes_in_constant_memory() {
    const BYTES: u64 = 1 << 30;
    // Lines of a usual length: a log of two-byte lines would be twenty times as large as the output.
    let line = "x".repeat(999);
    let mut shim = Shim::start(&format!("yes {line} | head -c {BYTES}"), same);
    let mut request = shim.create_request();
    request.stdout = "cri-log:///dev/null".to_owned();
    shim.create_with(&request);
    shim.start_task("");
    assert_eq!(shim.wait(""), 0);
    shim.delete("");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim.pid)).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 8 << 10, "{peak_kib} KiB");
}

#[test]
fn an_end_while_the_engine_is_away_is_in_the_bundle() {
    let mut shim = Shim::start("sleep 0.3; exit 7", same);
    shim.run();
    shim.hang_up();
    until("the end is recorded", || {
        shim.bundle().join("exit.json").exists()
    });
    assert_eq!(shim.init_exit().exit_status, 7);
    shim.dial();
    assert_eq!(shim.wait(""), 7);
}

#[test]
fn what_a_killed_shim_leaves_is_cleaned_and_its_cause_named() {
    let mut shim = Shim::start("sleep 1000", same);
    let pid = shim.run();
    shim.kill_shim();
    let deleted = shim.cleanup();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(shim.init_exit().cause, ExitCause::ShimCrash);
    assert!(!shim.cgroup().exists());
    assert_eq!(std::fs::read_dir(shim.path("s")).unwrap().count(), 0);
}

#[test]
fn a_recorded_end_survives_the_shims_death() {
    let mut shim = Shim::start("exit 5", same);
    shim.run();
    shim.wait("");
    shim.kill_shim();
    assert_eq!(shim.cleanup().exit_status, 5);
    assert_eq!(shim.init_exit().cause, ExitCause::Exited);
}

#[test]
fn containers_do_not_inherit_the_shims_oom_score() {
    let mut shim = Shim::start("cat /proc/self/oom_score_adj", same);
    shim.run();
    shim.wait("");
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(shim.output("out"), own);
}

#[test]
fn an_idle_shim_has_little_memory_of_its_own() {
    let mut shim = Shim::start("sleep 1000", same);
    shim.run();
    let rollup = format!("/proc/{}/smaps_rollup", shim.pid);
    let private_kib = || -> u64 {
        let text = std::fs::read_to_string(&rollup).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Anonymous:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    until("memory is given back", || private_kib() < 500);
}
