//! `orlop-cache`, also called as `orlop cache`: what the blob cache does for a person.
//!
//! Purpose: `serve` is the cache itself, `setup` makes it the mirror of a container engine, and `analyze` reads other
//! registries' access logs and tells what a cache in front would save, as `simulate` does with made traces; the others look
//! at a cache's folder and its ledger, and ask its server for something; `tier` moves blobs of the bucket to where they are
//! cheapest. What replicas share (bucket, database) is in `s3` and `fleet`.
//!
//! Non-goals: talking to the engine. The two know nothing of each other but HTTP.
//!
//! Invariants: what is asked for goes to stdout, everything else to stderr; with `-o json` stdout holds one JSON object.
//!
//! Entry points: [`Cli`] is what can be typed, [`serve::run`], [`setup::run`] and [`analyze::run`] answer,
//! [`error::CacheError`] is what can go wrong.

mod analyze;
mod error;
#[cfg(test)]
mod examples;
mod fleet;
mod kept;
mod ledger;
mod root;
mod s3;
mod scrub;
mod serve;
mod settings;
mod setup;
mod shared;
mod sharing;
mod simulate;
mod tier;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use error::CacheError;
use settings::{PROGRAM, Settings};

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
    /// List what is kept
    Ls(kept::ListArguments),
    /// Tell how a cache stands, or all about one blob
    Stat(kept::StatArguments),
    /// Remove blobs; those who read them may read on
    Rm(kept::RemoveArguments),
    /// Keep a blob, or a manifest with all that it names; or list the pins
    Pin(kept::PinArguments),
    /// Take a pin back
    Unpin(kept::UnpinArguments),
    /// Hash what is kept once more, and set aside what is damaged
    Scrub(scrub::Arguments),
    /// Tell what was pulled most, and which repositories it was for
    Top(ledger::TopArguments),
    /// Tell what got hotter, colder, new or gone since the window before
    Compare(ledger::CompareArguments),
    /// Tell what caches of several sizes and policies would have done, with a
    /// trace made from published statistics or one of yours
    Simulate(simulate::Arguments),
    /// Serve: a mirror of registries that keeps what it has served
    Serve(serve::Arguments),
    /// Print or write a container engine's configuration for this mirror
    Setup(setup::Arguments),
    /// Show where blobs of the bucket would be cheapest, given how often they
    /// are pulled, and move them there
    Tier(tier::Arguments),
    /// The configuration of serve
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration with every default
    Default,
    /// Read the configuration as serve does and tell every mistake
    Check(serve::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (format, width) = (cli.output, width());
    let answer = match &cli.command {
        Command::Analyze(arguments) => analyze::run(arguments, format, width),
        Command::Ls(arguments) => kept::list(arguments, format, width),
        Command::Stat(arguments) => kept::stat(arguments, format, width),
        Command::Rm(arguments) => kept::remove(arguments, format, width),
        Command::Pin(arguments) => kept::pin(arguments, format, width),
        Command::Unpin(arguments) => kept::unpin(arguments, format, width),
        Command::Scrub(arguments) => scrub::run(arguments, format, width),
        Command::Top(arguments) => ledger::top(arguments, format, width),
        Command::Compare(arguments) => ledger::compare(arguments, format, width),
        Command::Simulate(arguments) => simulate::run(arguments, format, width),
        Command::Serve(arguments) => serve::run(arguments).map(|()| String::new()),
        Command::Setup(arguments) => setup::run(arguments),
        Command::Config(ConfigCommand::Default) => Ok(PROGRAM.default_text(Settings::read)),
        Command::Config(ConfigCommand::Check(arguments)) => check(arguments),
        Command::Tier(arguments) => tier::run(arguments, format, width),
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

/// Says that the configuration can be used, and what is odd in it.
fn check(arguments: &serve::Arguments) -> Result<String, CacheError> {
    let (_, warnings) = arguments.settings().map_err(CacheError::Settings)?;
    let odd: String = warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"))
        .collect();
    Ok(format!("{odd}the configuration can be used\n"))
}

/// One JSON object, with a newline.
fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("answers have only text keys");
    text + "\n"
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
        for one in command.get_subcommands_mut() {
            let help = one.render_long_help().to_string();
            let is_narrow = help.lines().all(|line| line.chars().count() <= 80);
            assert!(is_narrow, "{help}");
        }
    }
}
