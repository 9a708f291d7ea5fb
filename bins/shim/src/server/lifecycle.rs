//! Creating and starting containers and their further processes.
//!
//! Crash: whatever the runtime was asked for goes on; the engine runs [`crate::cleanup`]. Ordering: a
//! process is known before the caller hears of it, and an end that came earlier is then told. Cancellation: there is none;
//! what takes too long is killed and taken back.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use orlop_api::Message;
use orlop_api::containerd::events;
use orlop_api::containerd::task::v3 as api;
use orlop_api::containerd::types::Mount as ApiMount;
use orlop_sys::cgroup::{Cgroup, OomWatch};
use orlop_sys::mount::mount_all;
use orlop_sys::process::{Input, Spawn};
use orlop_sys::signal::pidfd_of;
use orlop_types::Mount;

use super::container::{Caller, Container, Exit, Process, State};
use super::deletion::unmount_rootfs;
use super::jobs::{Console, Job, Order, Step};
use super::poller::{Interest, Token};
use super::{Server, exits};
use crate::bundle::{self, Spec};
use crate::clock;
use crate::fault::Fault;
use crate::log;
use crate::runtime::Runtime;
use crate::stdio::{self, Opened, Owner, Terms};

impl Server {
    pub(super) fn container(&self, id: &str) -> Result<&Container, Fault> {
        self.containers
            .get(id)
            .ok_or_else(|| Fault::NotFound(format!("container {id} is not created: not found")))
    }

    pub(super) fn container_mut(&mut self, id: &str) -> Result<&mut Container, Fault> {
        self.containers
            .get_mut(id)
            .ok_or_else(|| Fault::NotFound(format!("container {id} is not created: not found")))
    }

    /// Mounts the root, opens input and output, and asks the runtime. What fails is taken back.
    pub(super) fn create(
        &mut self,
        caller: Caller,
        request: api::CreateTaskRequest,
    ) -> Result<(), Fault> {
        let id = orlop_types::ContainerId::new(&request.id)
            .map_err(|error| Fault::Invalid(error.to_string()))?;
        let id = id.as_str().to_owned();
        if self.containers.contains_key(&id) {
            return Err(Fault::AlreadyExists(format!(
                "container {id} already exists"
            )));
        }
        if !request.checkpoint.is_empty() {
            return Err(Fault::Unsupported(
                "restoring a checkpoint is not implemented".to_owned(),
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec = Spec::read(&bundle)?;
        let runtime = Runtime::from_options(request.options.as_ref(), &self.namespace)?
            .give_streams(spec.mapped_superuser());
        runtime.save(&bundle)?;
        let own_pid_namespace = spec.has_own_pid_namespace();
        let terms = Terms {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let has_rootfs = mount_rootfs(&bundle, &request.rootfs)?;
        let container = Container {
            bundle,
            runtime,
            has_rootfs,
            own_pid_namespace,
            paused: false,
            cgroup: None,
            baseline: Vec::new(),
            host_oom_kills: None,
            oom_watch: None,
            oom_kills_told: 0,
            oom_seen: None,
            init: Process::new(terms, Vec::new(), State::Creating),
            execs: std::collections::BTreeMap::new(),
            held_exit: None,
        };
        self.containers.insert(id.clone(), container);
        let asked = self.ask_to_create(&id, caller);
        if asked.is_err() {
            self.withdraw(&id);
        }
        asked
    }

    fn ask_to_create(&mut self, id: &str, caller: Caller) -> Result<(), Fault> {
        let (call, log) = self.runtime_call(id, "create", "")?;
        let console = self.console_for(id, "")?;
        let opened = self.open_stdio(id, "")?;
        let container = self.container(id)?;
        let mut call = call
            .arg("--bundle")
            .arg(&container.bundle)
            .arg("--pid-file")
            .arg(container.bundle.join("init.pid"))
            .args(container.runtime.create_flags());
        if let Some(console) = &console {
            call = call.arg("--console-socket").arg(&console.path);
        }
        let call = call.arg(id);
        self.ask(id, "", Step::Create, caller, call, log, console, opened)
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one call, used in two places"
    )]
    fn ask(
        &mut self,
        id: &str,
        exec: &str,
        step: Step,
        caller: Caller,
        call: Spawn<'_>,
        log: PathBuf,
        console: Option<Console>,
        opened: Opened,
    ) -> Result<(), Fault> {
        let input = |fd: &Option<OwnedFd>| fd.is_some();
        debug_assert!(console.is_none() || !opened.child.iter().any(input));
        let [stdin, stdout, stderr] = &opened.child;
        let call = call
            .stdin(given(stdin))
            .stdout(given(stdout))
            .stderr(given(stderr));
        self.start_job(Order {
            container: id.to_owned(),
            step,
            caller: Some(caller),
            call,
            log,
            console,
        })?;
        self.keep(id, exec, opened)
    }

    /// Keeps open what is to stay open, and copies what is to be copied.
    fn keep(&mut self, id: &str, exec: &str, opened: Opened) -> Result<(), Fault> {
        if let Some(hub) = &opened.kept.hub {
            self.add_hub(hub)?;
        }
        self.container_mut(id)?.process_mut(exec)?.kept = opened.kept;
        self.add_copies(id, exec, opened.copies);
        Ok(())
    }

    fn console_for(&mut self, id: &str, exec: &str) -> Result<Option<Console>, Fault> {
        if !self.container(id)?.process(exec)?.terms.terminal {
            return Ok(None);
        }
        // Bundles have paths too long for sockets; ours is short.
        let name = format!("c{}-{}", std::process::id(), self.number());
        let dir = self.socket.parent();
        let path = dir.unwrap_or(Path::new("/tmp")).join(name);
        let listener = UnixListener::bind(&path)
            .map_err(|error| Fault::io("listen at", path.display().to_string(), error))?;
        Ok(Some(Console {
            listener: listener.into(),
            path,
        }))
    }

    fn open_stdio(&self, id: &str, exec: &str) -> Result<Opened, Fault> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        if process.terms.terminal {
            return Ok(Opened::default());
        }
        let owner = Owner {
            uid: container.runtime.io_uid,
            gid: container.runtime.io_gid,
        };
        let hub = exec.is_empty().then_some(container.bundle.as_path());
        stdio::open(&process.terms, owner, id, &self.namespace, hub)
    }

    /// The runtime has made the container, or has not.
    pub(super) fn created(&mut self, job: &mut Job, outcome: Result<(), Fault>) {
        let id = job.container.clone();
        match outcome.and_then(|()| self.adopt_init(&id, job)) {
            Ok(pid) => {
                if let Some(caller) = job.caller {
                    self.answer(caller, Ok(api::CreateTaskResponse { pid }.encode_to_vec()));
                }
                self.claim_early(&id, "");
                self.end_if_unwanted(&id);
            }
            Err(fault) => self.undo_create(job, &fault),
        }
    }

    fn adopt_init(&mut self, id: &str, job: &mut Job) -> Result<u32, Fault> {
        let container = self.container(id)?;
        let pid = bundle::read_pid(&container.bundle.join("init.pid"))?;
        self.attach_console(id, "", job)?;
        let number = self.number();
        let container = self.container_mut(id)?;
        // A process that has ended already has neither; its end is among the early ones.
        container.cgroup = Cgroup::of_process(pid).ok();
        container.init.pidfd = pidfd_of(pid).ok();
        container.init.pid = pid;
        container.init.state = State::Created;
        container.host_oom_kills = exits::host_oom_kills();
        if let Some(cgroup) = &container.cgroup {
            container.baseline = cgroup.memory_chain();
            container.oom_kills_told = container.oom_kills();
            container.oom_watch = container
                .cgroup
                .as_ref()
                .and_then(|cgroup| OomWatch::new(cgroup).ok());
        }
        let event = events::TaskCreate {
            container_id: id.to_owned(),
            bundle: container.bundle.display().to_string(),
            io: Some(events::TaskIo {
                stdin: container.init.terms.stdin.clone(),
                stdout: container.init.terms.stdout.clone(),
                stderr: container.init.terms.stderr.clone(),
                terminal: container.init.terms.terminal,
            }),
            pid: u32::try_from(pid).unwrap_or(0),
            ..events::TaskCreate::default()
        };
        if let Some(watch) = &self.container(id)?.oom_watch {
            self.poller
                .add(watch.as_fd(), Token::Oom(number), Interest::Read)?;
        }
        self.publisher.publish("/tasks/create", &event);
        Ok(event.pid)
    }

    /// The runtime has sent the terminal before it ended.
    fn attach_console(&mut self, id: &str, exec: &str, job: &mut Job) -> Result<(), Fault> {
        let Some(console) = job.console.take() else {
            return Ok(());
        };
        let master = receive_terminal(&console)?;
        let container = self.container(id)?;
        let hub = exec.is_empty().then_some(container.bundle.as_path());
        let terms = &container.process(exec)?.terms;
        let opened = stdio::attach_terminal(terms, master, hub)?;
        self.keep(id, exec, opened)
    }

    fn undo_create(&mut self, job: &Job, fault: &Fault) {
        let id = &job.container;
        let step = Step::Undo {
            message: fault_message(fault),
            step: "create",
        };
        if let Err(second) = self.start_plain(id, job.caller, step, &["--force"]) {
            log::warn(&second.chain());
            self.withdraw(id);
            self.answer_job(
                job,
                Err(Fault::Runtime {
                    step: "create",
                    message: fault_message(fault),
                }),
            );
        }
    }

    /// Forgets a container that never was.
    pub(super) fn withdraw(&mut self, id: &str) {
        self.copies.retain(|_, owned| owned.container != id);
        let Some(mut container) = self.containers.remove(id) else {
            return;
        };
        self.roots.extend(unmount_rootfs(&mut container));
        if let Err(fault) = bundle::remove_cgroup(&container.bundle) {
            log::warn(&fault.chain());
        }
        if let Some((caller, _)) = container.init.deleting {
            let gone = Fault::NotFound("the container was not created: not found".to_owned());
            self.answer(caller, Err(gone));
        }
    }

    pub(super) fn start(
        &mut self,
        caller: Caller,
        request: &api::StartRequest,
    ) -> Result<(), Fault> {
        let (id, exec) = (request.id.as_str(), request.exec_id.as_str());
        let container = self.container_mut(id)?;
        if !exec.is_empty() && container.init.state != State::Running {
            return Err(Fault::State(format!("container {id} is not running")));
        }
        let process = container.process_mut(exec)?;
        if process.state != State::Created {
            return Err(wrong_state("start", process.state));
        }
        if process.exit.is_some() {
            return Err(Fault::State("the process could not be started".to_owned()));
        }
        process.state = State::Starting;
        let asked = match exec.is_empty() {
            true => self.start_init(id, caller),
            false => self.ask_to_exec(id, exec, caller),
        };
        if asked.is_err() {
            self.container_mut(id)?.process_mut(exec)?.state = State::Created;
        }
        asked
    }

    pub(super) fn started(&mut self, id: &str, caller: Option<Caller>, outcome: Result<(), Fault>) {
        let answer = self.container_mut(id).and_then(|container| {
            let init = &mut container.init;
            match outcome {
                Ok(()) => {
                    init.started = clock::now();
                    if init.exit.is_none() {
                        init.state = State::Running;
                    }
                    Ok(u32::try_from(init.pid).unwrap_or(0))
                }
                Err(fault) => {
                    if init.state == State::Starting {
                        init.state = State::Created;
                    }
                    Err(fault)
                }
            }
        });
        if let Ok(pid) = answer {
            let event = events::TaskStart {
                container_id: id.to_owned(),
                pid,
            };
            self.publisher.publish("/tasks/start", &event);
        }
        let answer = answer.map(|pid| api::StartResponse { pid }.encode_to_vec());
        self.answer_if_asked(caller, answer);
        self.release_held_exit(id);
    }

    fn ask_to_exec(&mut self, id: &str, exec: &str, caller: Caller) -> Result<(), Fault> {
        let (call, log) = self.runtime_call(id, "exec", "-exec")?;
        let console = self.console_for(id, exec)?;
        let opened = self.open_stdio(id, exec)?;
        let container = self.container(id)?;
        let (spec, pid_file) = exec_files(&container.bundle, exec);
        write_exec_spec(&spec, container.process(exec)?)?;
        let mut call = call
            .arg("--process")
            .arg(&spec)
            .arg("--detach")
            .arg("--pid-file")
            .arg(&pid_file);
        if let Some(console) = &console {
            call = call.arg("--console-socket").arg(&console.path);
        }
        let step = Step::Exec {
            exec: exec.to_owned(),
        };
        self.ask(id, exec, step, caller, call.arg(id), log, console, opened)
    }

    pub(super) fn exec_started(&mut self, job: &mut Job, exec: &str, outcome: Result<(), Fault>) {
        let id = job.container.clone();
        let adopted = outcome.and_then(|()| self.adopt_exec(&id, exec, job));
        if let Ok(container) = self.container_mut(&id) {
            let (spec, pid_file) = exec_files(&container.bundle, exec);
            for path in [spec, pid_file] {
                // Gone already is as good.
                fs::remove_file(path).ok();
            }
        }
        match adopted {
            Ok(pid) => {
                let event = events::TaskExecStarted {
                    container_id: id.clone(),
                    exec_id: exec.to_owned(),
                    pid,
                };
                self.publisher.publish("/tasks/exec-started", &event);
                if let Some(caller) = job.caller {
                    self.answer(caller, Ok(api::StartResponse { pid }.encode_to_vec()));
                }
                self.claim_early(&id, exec);
            }
            Err(fault) => {
                self.exec_failed(&id, exec);
                self.answer_job(job, Err(fault));
            }
        }
        self.release_held_exit(&id);
    }

    fn adopt_exec(&mut self, id: &str, exec: &str, job: &mut Job) -> Result<u32, Fault> {
        let (_, pid_file) = exec_files(&self.container(id)?.bundle, exec);
        let pid = bundle::read_pid(&pid_file)?;
        self.attach_console(id, exec, job)?;
        let process = self.container_mut(id)?.process_mut(exec)?;
        process.pid = pid;
        process.pidfd = pidfd_of(pid).ok();
        process.state = State::Running;
        process.started = clock::now();
        Ok(u32::try_from(pid).unwrap_or(0))
    }

    /// It never ran: it stays created, as containerd's own shim tells it, and has an exit, so that nobody waits for it.
    fn exec_failed(&mut self, id: &str, exec: &str) {
        self.copies
            .retain(|_, owned| owned.container != id || owned.exec != exec);
        let Ok(container) = self.container_mut(id) else {
            return;
        };
        if let Ok(process) = container.process_mut(exec) {
            process.state = State::Created;
            process.exit = Some(Exit {
                status: 255,
                at: clock::now(),
            });
        }
    }
}

fn given(fd: &Option<OwnedFd>) -> Input<'_> {
    fd.as_ref().map_or(Input::Null, |fd| Input::Fd(fd.as_fd()))
}

pub(super) fn wrong_state(operation: &str, state: State) -> Fault {
    let words = match state {
        State::Creating => "being created",
        State::Created => "created but not started",
        State::Starting => "being started",
        State::Running => "running",
        State::Stopped => "stopped",
    };
    Fault::State(format!("cannot {operation} a process that is {words}"))
}

/// The runtime's words without ours around them.
fn fault_message(fault: &Fault) -> String {
    if let Fault::Runtime { message, .. } = fault {
        message.clone()
    } else {
        fault.chain()
    }
}

fn mount_rootfs(bundle: &Path, mounts: &[ApiMount]) -> Result<bool, Fault> {
    if mounts.is_empty() {
        return Ok(false);
    }
    let rootfs = bundle.join("rootfs");
    match fs::DirBuilder::new().mode(0o711).create(&rootfs) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Fault::io("make", rootfs.display().to_string(), error)),
    }
    let mounts: Vec<Mount> = mounts
        .iter()
        .map(|mount| Mount {
            fs_type: mount.r#type.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect();
    mount_all(&mounts, &rootfs).map_err(Fault::Rootfs)?;
    Ok(true)
}

fn exec_files(bundle: &Path, exec: &str) -> (PathBuf, PathBuf) {
    (
        bundle.join(format!("exec-{exec}.json")),
        bundle.join(format!("exec-{exec}.pid")),
    )
}

/// The OCI process as the caller gave it, with its own word on the terminal.
fn write_exec_spec(path: &Path, process: &Process) -> Result<(), Fault> {
    let bad = |error| Fault::Invalid(format!("the process is not an OCI process: {error}"));
    let mut spec: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&process.spec).map_err(bad)?;
    spec.insert("terminal".to_owned(), process.terms.terminal.into());
    let bytes = serde_json::to_vec(&spec).map_err(bad)?;
    let fault = |error| Fault::io("write", path.display().to_string(), error);
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(fault)?;
    file.write_all(&bytes).map_err(fault)
}

/// Takes the terminal that the runtime has sent.
fn receive_terminal(console: &Console) -> Result<OwnedFd, Fault> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let fault = |error: rustix::io::Errno| Fault::io("receive", "the terminal", error);
    rustix::io::ioctl_fionbio(&console.listener, true).map_err(fault)?;
    let socket = rustix::net::accept_with(&console.listener, rustix::net::SocketFlags::CLOEXEC)
        .map_err(fault)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let mut parts = [io::IoSliceMut::new(&mut name)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(&socket, &mut parts, &mut ancillary, flags).map_err(fault)?;
    let mut received = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        RecvAncillaryMessage::ScmCredentials(_) | _ => None,
    });
    received
        .next()
        .ok_or_else(|| Fault::Invalid("the OCI runtime sent no terminal".to_owned()))
}
