//! `orlop`: the command line of the engine.
//!
//! Purpose: everything a person or a script does with the daemon, by its socket and nothing else.
//!
//! Non-goals: logic of the engine. A command asks, shows the answer, and explains a failure; it never touches the
//! daemon's folders, so that it works the same from a container or as another user.
//!
//! Invariants:
//! - what a command is asked for goes to stdout, everything else to stderr, so that output can be piped;
//! - with `-o json` stdout holds JSON only: an array, an object, or one object a line;
//! - a failure says what, which, why and what to do, with an id and a page, and sets the documented exit code;
//! - the terminal is given back as it was found, whatever ends the command.
//!
//! Entry points: [`cli::Cli`] is what can be typed, [`commands`] has a module for each command, [`error::CliError`]
//! is what can go wrong, [`output::Output`] is how answers look.

mod cli;
mod client;
mod commands;
mod container;
mod error;
mod image;
mod output;
mod signals;
mod stdio;
mod terminal;
#[cfg(test)]
mod tests;
mod time;

use std::process::ExitCode;

use clap::Parser;
use orlop_base::clock::SystemClock;

use crate::cli::Cli;
use crate::error::{CliError, exit};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::of_process(&cli.global);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(cli, &mut output, SystemClock::shared()));
            // A thread may still wait for a key on standard input: it must not keep the program.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(CliError::Local {
            what: "cannot start the program's runtime".to_owned(),
            source,
        }),
    };
    ExitCode::from(result.unwrap_or_else(|error| conclude(&error, &mut output)))
}

/// Shows a failure and returns the exit code that goes with it.
fn conclude(error: &CliError, output: &mut Output) -> u8 {
    // Whoever reads our output has seen enough: that is no failure worth a word.
    if !error.is_closed_pipe() {
        let shown = output.failure(error);
        if shown.is_err() {
            return exit::FAILURE;
        }
    }
    error.exit_code()
}
