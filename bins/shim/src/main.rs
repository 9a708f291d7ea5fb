//! `containerd-shim-orlop-v1`: stands between an engine and the processes of a container or pod.
//!
//! Purpose: serve containerd's task protocol (versions 2 and 3) over ttrpc from one thread and less than a mebibyte, drive
//! an OCI runtime, own the containers' input and output, and keep how each process ended, with evidence.
//!
//! Non-goals: images, snapshots, networks, checkpoints; anything another process of the engine can do as well.
//!
//! Invariants:
//! - one thread, one epoll loop, no call that waits for another process while serving, save for a logging
//!   program to become ready (`binary://`, ten seconds at most);
//! - every runtime call has a deadline, and a create that fails leaves nothing behind;
//! - an end is written to the bundle before anyone is told of it and before the cgroup goes;
//! - the engine may come and go: containers, their logs and their ends do not depend on it.
//!
//! Entry points: [`mod@start`] answers the engine and leaves a server behind, [`server`] is that server, [`cleanup`] tidies up
//! after a server that died, [`logger`] logs for shims of another make, [`pod_init`] is the first process of a pod whose
//! containers share their processes, [`user::hold`] lends a process to a user namespace that is being made.

mod bundle;
mod cleanup;
mod cli;
mod clock;
mod fault;
mod info;
mod log;
mod logger;
mod pod_init;
mod publish;
mod runc;
mod runtime;
mod server;
mod socket;
mod start;
mod stats;
mod stdio;

use std::io::Write;
use std::process::ExitCode;

use cli::{Action, Cli};
use orlop_sys::namespace::user;
use start::Next;

fn main() -> ExitCode {
    match answer(std::env::args().skip(1)) {
        Ok(output) => match std::io::stdout().write_all(&output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(fault) => {
            log::fatal(&fault);
            ExitCode::FAILURE
        }
    }
}

/// What goes to standard output.
fn answer(args: impl Iterator<Item = String>) -> Result<Vec<u8>, fault::Fault> {
    let mut args = args.peekable();
    match args.peek().map(String::as_str) {
        Some(word) if logger::is_asked_for(word) => logger::run(args).map(|()| Vec::new()),
        Some(pod_init::STARTER) => pod_init::start(args.skip(1)),
        Some(pod_init::FIRST) => pod_init::be_first(),
        Some(user::HOLDER) => user::hold(args.skip(1))
            .map(|()| Vec::new())
            .map_err(|error| fault::Fault::io("hold", "a user namespace", error)),
        Some(_) | None => Cli::parse(args).and_then(|cli| run(&cli)),
    }
}

fn run(cli: &Cli) -> Result<Vec<u8>, fault::Fault> {
    match cli.action {
        Some(Action::Version) => Ok(info::version()),
        Some(Action::Info) => info::info(),
        Some(Action::Start) => start(cli).map(|()| Vec::new()),
        Some(Action::Delete) => cleanup::delete(cli),
        None => Err(fault::Fault::Invalid("a command is missing".to_owned())),
    }
}

/// Comes back twice if a server was started: in the process that tells the engine, and at the end of the server.
fn start(cli: &Cli) -> Result<(), fault::Fault> {
    match start::start(cli)? {
        Next::Tell(started) => started
            .tell()
            .map_err(|error| fault::Fault::io("tell", "the engine", error)),
        Next::Serve(post) => server::serve(cli, post),
    }
}
