//! `orlopd`: the node's container engine.
//!
//! Purpose: wiring. It reads the configuration, picks backends, answers signals and drains.
//!
//! Non-goals: anything that another program could need as well; that is in the crates below.
//!
//! Invariants:
//! - the stores are locked before the socket is taken, so a second daemon never takes it from the first;
//! - nobody is served before the tasks of an earlier daemon have been adopted;
//! - ending the daemon ends no container.
//!
//! Entry points: [`cli::run`], [`daemon::run`].

mod cli;
mod collect;
mod cri;
mod daemon;
mod ends;
mod engine;
mod facts;
mod failure;
mod figures;
mod handler_options;
mod handlers;
mod memory;
mod metrics;
mod spans;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The error with everything behind it, on standard error: logging may not have been set up yet.
#[allow(
    clippy::print_stderr,
    reason = "the last words of a program that could not start"
)]
fn report(error: &anyhow::Error) {
    eprintln!("orlopd: {error:#} ({})", failure::id(error));
}
