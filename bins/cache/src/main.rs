//! `orlop-cache`, also called as `orlop cache`: what the blob cache does for a person.
//!
//! Purpose: so far `analyze`, which reads other registries' access logs and tells what a cache in front would save.
//!
//! Non-goals: talking to the engine. The two know nothing of each other but HTTP.
//!
//! Invariants: what is asked for goes to stdout, everything else to stderr; with `-o json` stdout holds one JSON object.
//!
//! Entry points: [`Cli`] is what can be typed, [`analyze::run`] answers, [`error::CacheError`] is what can go wrong.

mod analyze;
mod error;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use error::CacheError;

/// The blob cache of Orlop
#[derive(Debug, Parser)]
#[command(name = "orlop-cache", version, max_term_width = 80)]
struct Cli {
    /// How answers look
    #[arg(long, short, global = true, value_enum, default_value = "text")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read access logs of a registry: what was pulled how often, what it cost,
    /// and what a cache would have saved
    Analyze(analyze::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let answer = match &cli.command {
        Command::Analyze(arguments) => analyze::run(arguments, cli.output, width()),
    };
    let shown = answer.and_then(|text| {
        let written = io::stdout().write_all(text.as_bytes());
        written.map_err(CacheError::Output)
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(CacheError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::FAILURE
        }
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

/// Columns of the terminal on stdout, if it is one.
fn width() -> Option<usize> {
    let stdout = rustix::stdio::stdout();
    let size = io::stdout()
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(stdout).ok())??;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_eighty_columns() {
        let mut command = Cli::command();
        command.build();
        let analyze = command.find_subcommand_mut("analyze").unwrap();
        let help = analyze.render_long_help().to_string();
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
    }
}
