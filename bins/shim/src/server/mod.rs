//! The server: one thread, one epoll descriptor, no waiting elsewhere.
//!
//! Ordering: whatever was read in one turn of the loop is handled before the next. Ends of processes are recorded, then
//! published, then told to waiters. A container's own end comes after those of its execs. Cancellation: a caller that
//! hangs up is forgotten; what it asked for goes on. Crash: containers go on; the engine runs [`crate::cleanup`].

mod container;
mod deletion;
mod exits;
mod jobs;
mod lifecycle;
mod peers;
mod poller;
mod starts;
mod task;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use orlop_sys::process::{self, OomScore, RawStatus};
use orlop_sys::signal::SignalFd;
use orlop_types::exit::Moment;

use crate::cli::Cli;
use crate::clock;
use crate::fault::Fault;
use crate::log;
use crate::publish::Publisher;
use crate::start::{self, Post};
use crate::stdio::attach::{Hub, SharedHub};
use crate::stdio::copy::{BUFFER_BYTES, Copy};
use container::Container;
use jobs::Job;
use peers::Peer;
use poller::{Interest, Poller, Token};
use starts::Start;

/// A server nobody uses ends after this long: its engine died before it asked for a container.
const IDLE: Duration = Duration::from_secs(60);
/// Memory is given back after nothing has happened for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How long the last events may take on the way out.
const FAREWELL: Duration = Duration::from_secs(3);
/// Ends of processes nobody knows yet, kept while the runtime is starting some.
const EARLY_MAX: usize = 256;
/// Killed last when memory runs out: without the shim nobody can say how its containers ended.
const OOM_SCORE: OomScore = OomScore(-999);

/// Everything of the one server.
pub(crate) struct Server {
    namespace: String,
    address: String,
    publish_binary: String,
    socket: PathBuf,
    poller: Poller,
    signals: SignalFd,
    listener: OwnedFd,
    peers: BTreeMap<u32, Peer>,
    next_number: u32,
    containers: BTreeMap<String, Container>,
    jobs: BTreeMap<i32, Job>,
    starts: BTreeMap<u32, Start>,
    early: VecDeque<(i32, RawStatus, Moment)>,
    copies: BTreeMap<u32, OwnedCopy>,
    /// Clients attached to containers; a hub lives as long as its container's process is known.
    hubs: BTreeMap<u32, Weak<RefCell<Hub>>>,
    buffer: Box<[u8]>,
    publisher: Publisher,
    /// The score containers shall inherit: see [`lower_oom_score`].
    inherited_score: Option<OomScore>,
    idle_since: Duration,
    ending: Option<Duration>,
    /// When nothing has happened for a while and memory is to be given back; none once that was done.
    quiet_at: Option<Duration>,
    /// Roots that were taken down and are let go of when nobody waits, which is last: see [`deletion`].
    roots: Vec<OwnedFd>,
}

/// A copy and the process it belongs to.
struct OwnedCopy {
    container: String,
    exec: String,
    copy: Copy,
}

/// Serves until told to end.
pub(crate) fn serve(cli: &Cli, post: Post) -> Result<(), Fault> {
    process::keep_heap_small();
    open_log();
    let Post {
        listener,
        socket,
        events,
        told,
    } = post;
    let mut server = Server::new(cli, listener, socket, events)?;
    let result = if start::wait_for_engine(told) {
        server.run()
    } else {
        Ok(())
    };
    // Gone already is as good.
    std::fs::remove_file(&server.socket).ok();
    result
}

/// The engine made a FIFO or a file; without one the log goes nowhere.
fn open_log() {
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    // Reading as well keeps a FIFO from breaking while the engine is away.
    let log = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(nonblocking)
        .open("log");
    if let Ok(log) = log {
        // Without it, standard error stays where it was.
        rustix::stdio::dup2_stderr(&log).ok();
    }
}

impl Server {
    fn new(
        cli: &Cli,
        listener: OwnedFd,
        socket: PathBuf,
        events: Option<String>,
    ) -> Result<Self, Fault> {
        let fault = |error| Fault::io("set up", "the server", error);
        process::become_subreaper().map_err(fault)?;
        let signals = SignalFd::new(&[SIGCHLD, SIGTERM, SIGINT]).map_err(fault)?;
        let poller = Poller::new()?;
        poller.add(signals.as_fd(), Token::Signals, Interest::Read)?;
        poller.add(listener.as_fd(), Token::Listener, Interest::Read)?;
        Ok(Self {
            namespace: cli.namespace.clone(),
            address: cli.address.clone(),
            publish_binary: cli.publish_binary.clone(),
            socket,
            poller,
            signals,
            listener,
            peers: BTreeMap::new(),
            next_number: 1,
            containers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            starts: BTreeMap::new(),
            early: VecDeque::new(),
            copies: BTreeMap::new(),
            hubs: BTreeMap::new(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            publisher: Publisher::new(&cli.namespace, events),
            inherited_score: lower_oom_score(),
            idle_since: clock::boot(),
            ending: None,
            quiet_at: Some(clock::boot() + QUIET),
            roots: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<(), Fault> {
        loop {
            let ready = self.poller.wait(self.next_deadline())?;
            let now = clock::boot();
            if !ready.is_empty() {
                self.quiet_at = Some(now + QUIET);
            }
            for token in ready {
                self.handle(token);
            }
            self.turn(clock::boot());
            if self.quiet_at.is_some_and(|quiet| now >= quiet) {
                self.quiet_at = None;
                self.roots = Vec::new();
                // Without /proc nothing is given back, which harms nobody.
                process::shed_memory().ok();
            }
            if self.is_over(clock::boot()) {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Signals => self.read_signals(),
            Token::Listener => self.accept(),
            Token::Peer(number) => self.serve_peer(number),
            // Looked at in every turn.
            Token::Publisher => {}
            Token::Oom(_) => self.check_ooms(),
            Token::Copy(number) => self.advance_copy(number),
            Token::Hub(number) => self.serve_hub(number),
            Token::Start(number) => self.advance_start(number),
        }
    }

    /// What is due in every turn of the loop.
    fn turn(&mut self, now: Duration) {
        self.end_silent_jobs(now);
        self.end_silent_starts(now);
        self.settle_deletions(now);
        self.publish(now);
        self.write_to_peers();
        if !self.containers.is_empty() || !self.peers.is_empty() || !self.jobs.is_empty() {
            self.idle_since = now;
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let jobs = self.jobs.values().filter_map(Job::deadline);
        let deletions = self.containers.values().flat_map(|container| {
            let execs = container.execs.values();
            execs
                .chain([&container.init])
                .filter_map(|process| Some(process.deleting?.1))
        });
        let idle = self.containers.is_empty().then(|| self.idle_since + IDLE);
        jobs.chain(deletions)
            .chain(self.starts.values().map(Start::deadline))
            .chain(self.publisher.deadline())
            .chain(idle)
            .chain(self.ending)
            .chain(self.quiet_at)
            .min()
    }

    fn is_over(&self, now: Duration) -> bool {
        match self.ending {
            Some(deadline) => self.publisher.is_idle() || now >= deadline,
            None => self.containers.is_empty() && now >= self.idle_since + IDLE,
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next_signal() {
            match signal {
                SIGCHLD => self.reap(),
                _ if self.containers.is_empty() => self.ending = Some(clock::boot() + FAREWELL),
                // A stop of the engine must not take containers with it.
                signal => log::info(&format!("signal {signal} ignored: containers are running")),
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match process::reap_next() {
                Ok(Some((pid, status))) => self.ended(pid, status, clock::now()),
                Ok(None) => return,
                Err(error) => return log::warn(&format!("cannot reap: {error}")),
            }
        }
    }

    fn ended(&mut self, pid: i32, status: RawStatus, at: Moment) {
        if let Some(job) = self.jobs.remove(&pid) {
            return self.finish_job(job, status);
        }
        let owner = self
            .containers
            .iter()
            .find_map(|(id, container)| Some((id.clone(), container.living(pid)?.to_owned())));
        match owner {
            Some((id, exec)) => self.process_ended(&id, &exec, status, at),
            // The runtime may be about to say that this was the process it started.
            None if self.jobs.values().any(Job::makes_a_process) => {
                if self.early.len() >= EARLY_MAX {
                    self.early.pop_front();
                }
                self.early.push_back((pid, status, at));
            }
            // An orphan of a container.
            None => {}
        }
    }

    fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        number
    }

    fn publish(&mut self, now: Duration) {
        if self.publisher.has_socket() {
            if let Some((fd, _)) = self.publisher.interest() {
                self.poller.remove(fd);
            }
            self.publisher.advance(now);
            if let Some((fd, wants_room)) = self.publisher.interest() {
                let interest = if wants_room {
                    Interest::Both
                } else {
                    Interest::Read
                };
                // Without it, the deadline of the call brings us back.
                self.poller.add(fd, Token::Publisher, interest).ok();
            }
        } else if !self.publish_binary.is_empty() {
            self.publish_by_binary();
        } else {
            while self.publisher.take().is_some() {}
        }
    }

    fn add_copies(&mut self, container: &str, exec: &str, copies: Vec<Copy>) {
        for copy in copies {
            let number = self.number();
            self.watch_copy(number, &copy);
            let owned = OwnedCopy {
                container: container.to_owned(),
                exec: exec.to_owned(),
                copy,
            };
            self.copies.insert(number, owned);
        }
    }

    /// Lets clients attach to a container.
    fn add_hub(&mut self, hub: &SharedHub) -> Result<(), Fault> {
        let number = self.number();
        let borrowed = hub.borrow();
        let fd = borrowed.as_fd();
        self.poller.add(fd, Token::Hub(number), Interest::Read)?;
        // Those whose containers have gone make room for the new one.
        self.hubs.retain(|_, hub| hub.strong_count() > 0);
        self.hubs.insert(number, Rc::downgrade(hub));
        Ok(())
    }

    fn serve_hub(&mut self, number: u32) {
        if let Some(hub) = self.hubs.get(&number).and_then(Weak::upgrade) {
            hub.borrow_mut().turn(&mut self.buffer);
        }
    }

    fn watch_copy(&self, number: u32, copy: &Copy) {
        use crate::stdio::copy::Waiting;
        for end in copy.ends().into_iter().flatten() {
            self.poller.remove(end);
        }
        let (waiting, fd) = copy.waiting();
        let interest = match waiting {
            Waiting::ForInput => Interest::Read,
            Waiting::ForRoom => Interest::Write,
        };
        if let Err(fault) = self.poller.add(fd, Token::Copy(number), interest) {
            log::warn(&fault.chain());
        }
    }

    fn advance_copy(&mut self, number: u32) {
        let Some(mut owned) = self.copies.remove(&number) else {
            return;
        };
        let before = owned.copy.waiting().0;
        if !owned.copy.advance(&mut self.buffer) {
            return;
        }
        if owned.copy.waiting().0 != before {
            self.watch_copy(number, &owned.copy);
        }
        self.copies.insert(number, owned);
    }

    /// Whether output of a process is still on its way.
    fn has_output(&self, container: &str, exec: &str) -> bool {
        let process = self
            .containers
            .get(container)
            .and_then(|container| container.process(exec).ok());
        let hub = process.and_then(|process| process.kept.hub.as_ref());
        if hub.is_some_and(|hub| hub.borrow().has_output()) {
            return true;
        }
        self.copies.values().any(|owned| {
            owned.container == container && owned.exec == exec && !owned.copy.is_input()
        })
    }
}

// Numbers of Linux, the same on every architecture this runs on.
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Lowers the own score and returns the one that containers inherit: the one before, unless the engine that started us
/// is spared itself, which is not meant for its containers. Where the kernel refuses, the own score stays, said once.
fn lower_oom_score() -> Option<OomScore> {
    let before = OomScore::current().ok()?;
    if let Err(error) = OOM_SCORE.apply() {
        let (wanted, before) = (OOM_SCORE.0, before.0);
        log::info(&format!(
            "oom_score_adj stays {before} instead of {wanted}: {error}"
        ));
    }
    Some(OomScore(before.0.max(0)))
}
