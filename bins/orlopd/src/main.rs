//! `orlopd`: the node's container engine.
//!
//! This program is wiring: it reads the configuration, picks backends, answers signals and drains. Everything else is
//! in the crates below.

mod cli;
mod collect;
mod daemon;
mod engine;
mod figures;
mod metrics;
mod notify;

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
    eprintln!("orlopd: {error:#}");
}
