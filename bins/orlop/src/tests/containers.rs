//! Containers: run, exec, and what one does with them.

use orlop_api::containerd::services::containers::v1::{
    Container, GetContainerResponse, ListContainersResponse, UpdateContainerRequest,
    UpdateContainerResponse,
};
use orlop_api::containerd::services::images::v1::GetImageResponse;
use orlop_api::containerd::services::tasks::v1::{
    CreateTaskRequest, CreateTaskResponse, DeleteResponse, ExecProcessRequest, KillRequest,
    ListTasksResponse, StartResponse, WaitResponse,
};
use orlop_api::containerd::v1::types::{Process as Task, Status};
use orlop_api::orlop::v1::{
    CreateRequest, CreateResponse, Exit, ExitCause, InspectResponse, LogEntry, LogStream, Network,
    PullDone, PullEvent, StartTransition, StatsResponse, pull_event,
};
use orlop_api::{Any, Message};
use tonic::Code;

use super::*;

const IMAGE: &str = "containerd.services.images.v1.Images/Get";
const CREATE: &str = "orlop.v1.Containers/Create";
const INSPECT: &str = "orlop.v1.Containers/Inspect";
const TASK_CREATE: &str = "containerd.services.tasks.v1.Tasks/Create";
const TASK_START: &str = "containerd.services.tasks.v1.Tasks/Start";
const TASK_WAIT: &str = "containerd.services.tasks.v1.Tasks/Wait";
const TASK_KILL: &str = "containerd.services.tasks.v1.Tasks/Kill";
const TASK_DELETE: &str = "containerd.services.tasks.v1.Tasks/Delete";
const TASK_LIST: &str = "containerd.services.tasks.v1.Tasks/List";
const RECORD_GET: &str = "containerd.services.containers.v1.Containers/Get";
const RECORD_LIST: &str = "containerd.services.containers.v1.Containers/List";
const RECORD_UPDATE: &str = "containerd.services.containers.v1.Containers/Update";
const RECORD_DELETE: &str = "containerd.services.containers.v1.Containers/Delete";

fn ends_with(exit_status: u32) -> WaitResponse {
    WaitResponse {
        exit_status,
        exited_at: None,
    }
}

fn made(id: &str) -> CreateResponse {
    CreateResponse {
        id: id.to_owned(),
        ..CreateResponse::default()
    }
}

fn container(id: &str, labels: &[(&str, &str)]) -> Container {
    Container {
        id: id.to_owned(),
        image: "docker.io/library/alpine:latest".to_owned(),
        labels: labels
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        created_at: ago(200),
        spec: Some(Any {
            type_url: orlop_api::any::OCI_SPEC.to_owned(),
            value: br#"{"process":{"args":["sleep"],"env":["A=1"],"cwd":"/"}}"#.to_vec(),
        }),
        ..Container::default()
    }
}

#[tokio::test]
async fn run_ends_with_the_containers_exit_code_and_removes_it() {
    let fake = Fake::start();
    fake.answer(IMAGE, &GetImageResponse::default())
        .answer(CREATE, &made("web"))
        .answer(TASK_CREATE, &CreateTaskResponse::default())
        .answer(TASK_START, &StartResponse { pid: 7 })
        .answer(TASK_WAIT, &ends_with(3))
        .answer(TASK_DELETE, &DeleteResponse::default())
        .refuse(RECORD_DELETE, Code::NotFound, "the daemon was faster");
    let arguments = [
        "run",
        "--rm",
        "--name",
        "web",
        "-e",
        "A=b",
        "-v",
        "/srv:/data:ro",
        "--memory",
        "64MiB",
        "--cpus",
        "1.5",
        "--user",
        "1000:1000",
        "--net",
        "none",
        "alpine",
        "sh",
        "-c",
        "exit 3",
    ];
    let outcome = orlop(&fake, &arguments).await;
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    let request: CreateRequest = fake.asked(CREATE);
    assert_eq!(request.image, "docker.io/library/alpine:latest");
    assert_eq!(request.args, ["sh", "-c", "exit 3"]);
    assert_eq!(request.env, ["A=b"]);
    assert_eq!(request.user, "1000:1000");
    assert_eq!(request.network(), Network::None);
    assert!(request.auto_remove && request.mounts[0].read_only);
    let limits = request.limits.unwrap();
    assert_eq!((limits.memory_bytes, limits.cpu_millis), (64 << 20, 1500));
    let task: CreateTaskRequest = fake.asked(TASK_CREATE);
    assert!(task.stdout.ends_with("/stdout") && task.stderr.ends_with("/stderr"));
    assert!(task.stdin.is_empty() && !task.terminal);
}

#[tokio::test]
async fn run_shows_what_the_container_writes_on_both_streams() {
    let fake = Fake::start();
    fake.answer(IMAGE, &GetImageResponse::default())
        .answer(CREATE, &made("web"))
        .answer(TASK_CREATE, &CreateTaskResponse::default())
        .answer(TASK_START, &StartResponse { pid: 7 })
        .answer(TASK_WAIT, &ends_with(0))
        .answer(TASK_DELETE, &DeleteResponse::default());
    // As a shim does: it opens the other ends, and the process writes and is gone before anybody waits for it.
    fake.meanwhile(TASK_START, |calls| {
        let create = calls
            .iter()
            .find(|call| call.method == TASK_CREATE)
            .unwrap();
        let paths: CreateTaskRequest = create.message();
        for (path, text) in [(paths.stdout, "out \u{1b}[1m\n"), (paths.stderr, "error\n")] {
            let mut stream = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        }
    });
    let outcome = orlop(&fake, &["run", "alpine", "sh"]).await;
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(
        outcome.stdout, "out \u{1b}[1m\n",
        "a container's bytes are its own"
    );
    assert_eq!(outcome.stderr, "error\n");
}

#[tokio::test]
async fn run_fetches_an_image_that_is_not_here() {
    let fake = Fake::start();
    let done = PullEvent {
        event: Some(pull_event::Event::Done(PullDone::default())),
    };
    fake.refuse(IMAGE, Code::NotFound, "no image")
        .answer("orlop.v1.Images/Pull", &done)
        .answer(CREATE, &made("web"))
        .answer(TASK_CREATE, &CreateTaskResponse::default())
        .answer(TASK_START, &StartResponse { pid: 7 });
    let outcome = orlop(&fake, &["run", "-d", "alpine"]).await;
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "web\n"),
        "{}",
        outcome.stderr
    );
    assert_eq!(fake.methods()[..3], [IMAGE, "orlop.v1.Images/Pull", CREATE]);
    let task: CreateTaskRequest = fake.asked(TASK_CREATE);
    assert_eq!(task.stdout, "", "the daemon's log takes the output");
}

#[tokio::test]
async fn a_start_that_fails_is_undone_and_tells_why() {
    let fake = Fake::start();
    fake.answer(IMAGE, &GetImageResponse::default())
        .answer(CREATE, &made("web"))
        .answer(TASK_CREATE, &CreateTaskResponse::default())
        .refuse(
            TASK_START,
            Code::Internal,
            "ORL-E6007: runc: exec: \"nope\": not found in PATH",
        )
        .answer(TASK_DELETE, &DeleteResponse::default())
        .answer(RECORD_DELETE, &());
    let outcome = orlop(&fake, &["run", "alpine", "nope"]).await;
    insta::assert_snapshot!(outcome.all());
    assert_eq!(fake.methods()[4..], [TASK_DELETE, RECORD_DELETE]);
}

#[tokio::test]
async fn a_terminal_is_not_given_to_what_is_piped() {
    let fake = Fake::start();
    // Tests have no terminal on standard input.
    let outcome = orlop(&fake, &["run", "-it", "alpine"]).await;
    assert_eq!(outcome.code, 2);
    assert!(fake.methods().is_empty());
}

#[tokio::test]
async fn exec_resembles_the_containers_process_and_ends_with_its_code() {
    let fake = Fake::start();
    const EXEC: &str = "containerd.services.tasks.v1.Tasks/Exec";
    let record = GetContainerResponse {
        container: Some(container("web", &[])),
    };
    fake.answer(RECORD_GET, &record)
        .answer(EXEC, &())
        .answer(TASK_START, &StartResponse { pid: 9 })
        .answer(TASK_WAIT, &ends_with(4))
        .answer(
            "containerd.services.tasks.v1.Tasks/DeleteProcess",
            &DeleteResponse::default(),
        );
    let outcome = orlop(&fake, &["exec", "-e", "B=2", "web", "id", "-u"]).await;
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    let request: ExecProcessRequest = fake.asked(EXEC);
    assert!(request.exec_id.starts_with("exec-"));
    let spec: serde_json::Value = serde_json::from_slice(&request.spec.unwrap().value).unwrap();
    assert_eq!(spec["args"], serde_json::json!(["id", "-u"]));
    assert_eq!(spec["env"], serde_json::json!(["A=1", "B=2"]));
}

#[tokio::test]
async fn ps_shows_what_runs_and_with_all_how_the_others_ended() {
    let fake = Fake::start();
    let records = ListContainersResponse {
        containers: vec![
            container("web", &[]),
            container("done", &[]),
            container("fresh", &[]),
        ],
    };
    let task = Task {
        container_id: "web".to_owned(),
        pid: 4711,
        status: Status::Running.into(),
        ..Task::default()
    };
    let tasks = ListTasksResponse { tasks: vec![task] };
    let exit = Exit {
        exit_code: 137,
        ..Exit::default()
    };
    fake.answer(RECORD_LIST, &records).answer(TASK_LIST, &tasks);
    insta::assert_snapshot!(orlop(&fake, &["ps"]).await.table());
    fake.answer(RECORD_LIST, &records).answer(TASK_LIST, &tasks);
    fake.answer(
        INSPECT,
        &InspectResponse {
            exit: Some(exit),
            ..InspectResponse::default()
        },
    );
    fake.answer(INSPECT, &InspectResponse::default());
    insta::assert_snapshot!(orlop(&fake, &["ps", "--all"]).await.table());
}

#[tokio::test]
async fn stop_uses_the_images_signal() {
    let fake = Fake::start();
    let record = container(
        "web",
        &[("io.containerd.image.config.stop-signal", "SIGQUIT")],
    );
    fake.answer(
        RECORD_GET,
        &GetContainerResponse {
            container: Some(record),
        },
    )
    .answer(TASK_KILL, &())
    .answer(TASK_WAIT, &ends_with(0));
    let outcome = orlop(&fake, &["stop", "web"]).await;
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "web\n"),
        "{}",
        outcome.stderr
    );
    let request: KillRequest = fake.asked(TASK_KILL);
    assert_eq!((request.signal, request.all), (3, false));
}

#[tokio::test]
async fn rm_by_force_kills_first_and_takes_what_does_not_run() {
    let fake = Fake::start();
    let record = container("web", &[("containerd.io/restart.status", "running")]);
    let record = GetContainerResponse {
        container: Some(record),
    };
    fake.answer(RECORD_GET, &record)
        .answer(RECORD_UPDATE, &UpdateContainerResponse::default())
        .refuse(TASK_KILL, Code::NotFound, "no task")
        .refuse(TASK_DELETE, Code::NotFound, "no task")
        .answer(RECORD_DELETE, &());
    let outcome = orlop(&fake, &["rm", "-f", "web"]).await;
    // Nobody starts it again in between.
    let update: UpdateContainerRequest = fake.asked(RECORD_UPDATE);
    let labels = update.container.unwrap_or_default().labels;
    assert_eq!(labels["containerd.io/restart.status"], "stopped");
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "web\n"),
        "{}",
        outcome.stderr
    );
    fake.refuse(
        TASK_DELETE,
        Code::FailedPrecondition,
        "task must be stopped before deletion: running",
    );
    let outcome = orlop(&fake, &["rm", "web"]).await;
    insta::assert_snapshot!(outcome.all());
}

#[tokio::test]
async fn inspect_shows_start_end_and_cause() {
    let fake = Fake::start();
    let step = |step: &str, error: &str| StartTransition {
        step: step.to_owned(),
        started_at: ago(100),
        duration: Some(orlop_api::Duration {
            seconds: 0,
            nanos: 12_000_000,
        }),
        error: error.to_owned(),
        undone: !error.is_empty(),
    };
    let exit = Exit {
        pid: 7,
        exit_code: 137,
        signal: 9,
        wait_status: Some(9),
        exited_at: ago(10),
        cause: ExitCause::WorkloadOom.into(),
        evidence: vec!["memory.events: oom_kill rose from 0 to 1".to_owned()],
        oom_kills: 1,
        memory_peak_bytes: 64 << 20,
        memory_limit_bytes: 64 << 20,
        cpu_usage_nanos: 5,
    };
    let answer = InspectResponse {
        container: Some(container("web", &[])),
        transitions: vec![step("rootfs", ""), step("shim", "no such file")],
        exit: Some(exit),
        ..InspectResponse::default()
    };
    fake.answer(INSPECT, &answer).answer(INSPECT, &answer);
    insta::assert_snapshot!(orlop(&fake, &["inspect", "web"]).await.table());
    insta::assert_snapshot!(orlop(&fake, &["-o", "json", "inspect", "web"]).await.stdout);
}

#[tokio::test]
async fn logs_keep_streams_apart_and_bytes_as_they_are() {
    let fake = Fake::start();
    let entry = |stream: LogStream, text: &str| {
        let entry = LogEntry {
            time: ago(0),
            stream: stream.into(),
            data: text.as_bytes().to_vec().into(),
            partial: false,
        };
        entry.encode_to_vec()
    };
    let entries = vec![
        entry(LogStream::Stdout, "out\n"),
        entry(LogStream::Stderr, "error\n"),
    ];
    const LOGS: &str = "orlop.v1.Containers/Logs";
    fake.stream(LOGS, entries.clone()).stream(LOGS, entries);
    let outcome = orlop(&fake, &["logs", "web"]).await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "error\n")
    );
    let outcome = orlop(&fake, &["-o", "json", "logs", "--since", "10m", "web"]).await;
    insta::assert_snapshot!(outcome.stdout);
}

#[tokio::test]
async fn stats_of_nothing_is_an_empty_table() {
    let fake = Fake::start();
    fake.stream("orlop.v1.Containers/Stats", Vec::new());
    insta::assert_snapshot!(orlop(&fake, &["stats"]).await.table(), @"CONTAINER  CPU  MEMORY  LIMIT  PEAK  PIDS  OOM  SHIM");
}

#[tokio::test]
async fn stats_at_an_interval_show_the_share_of_a_processor() {
    let fake = Fake::start();
    let sample = |seconds: u64, used: u64| {
        let sample = StatsResponse {
            time: ago(10 - seconds),
            id: "web".to_owned(),
            cpu_usage_nanos: used,
            memory_working_set_bytes: 5 << 20,
            ..StatsResponse::default()
        };
        sample.encode_to_vec()
    };
    fake.stream(
        "orlop.v1.Containers/Stats",
        vec![sample(0, 0), sample(2, 500_000_000)],
    );
    let outcome = orlop(&fake, &["stats", "--interval", "2s"]).await;
    insta::assert_snapshot!(outcome.stdout);
}
