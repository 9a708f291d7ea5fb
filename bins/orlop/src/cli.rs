//! What can be typed.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use orlop_base::units::TimeSpan;
use orlop_types::Namespace;

use crate::commands::{
    completions, content, events, exec, export, fsck, gc, images, import, info, inspect, kill,
    leases, logs, man, namespaces, program, ps, pull, push, rm, rmi, run, snapshots, stats, stop,
    tag, version,
};

/// Shown below `orlop --help` and in the manual.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the command failed
  2    the command was typed wrongly
  3    the named thing does not exist
  4    the daemon cannot be reached
  5    it exists already, is in use, or is in the wrong state
  6    the time is over (--timeout, or the daemon's own)
  125  run and exec: the process could not be started
  130  interrupted by Ctrl-C
  run and exec end with the exit code of the container's process.

Each failure carries an id; docs/errors has a page for each.";

/// The command line of Orlop, the node's container engine.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, after_help = EXIT_CODES, max_term_width = 80, infer_long_args = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        env = "ORLOP_ADDRESS",
        default_value = "/run/orlop/orlop.sock",
        value_name = "PATH"
    )]
    pub(crate) address: String,
    /// The namespace to work in
    #[arg(
        long,
        short = 'n',
        global = true,
        env = "ORLOP_NAMESPACE",
        default_value = "default",
        value_name = "NAME"
    )]
    pub(crate) namespace: Namespace,
    /// How answers look
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Give up after this time, such as 30s
    #[arg(long, global = true, value_parser = parse_span, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// No colours, even on a terminal
    #[arg(long, global = true, env = "NO_COLOR", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(crate) no_color: bool,
}

/// How answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// The commands, in the order in which `--help` lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Remote(Remote),
    #[command(flatten)]
    Local(Local),
}

/// Commands that speak to the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// Run a command in a new container
    Run(Box<run::Arguments>),
    /// List containers
    Ps(ps::Arguments),
    /// Run a further command in a running container
    Exec(exec::Arguments),
    /// Show what a container has written
    Logs(logs::Arguments),
    /// End containers, gently at first
    Stop(stop::Arguments),
    /// Send a signal to containers
    Kill(kill::Arguments),
    /// Remove containers
    Rm(rm::Arguments),
    /// Tell everything about a container: state, start, end, and why
    Inspect(inspect::Arguments),
    /// Show what containers use
    Stats(stats::Arguments),
    /// Show what happened, and what happens
    Events(events::Arguments),
    /// Fetch an image from a registry
    Pull(pull::Arguments),
    /// Send an image to a registry
    Push(push::Arguments),
    /// List images
    Images(images::Arguments),
    /// Remove images
    Rmi(rmi::Arguments),
    /// Store the images of an archive
    Import(import::Arguments),
    /// Write images to an archive
    Export(export::Arguments),
    /// Give an image another name
    Tag(tag::Arguments),
    /// Look at blobs
    #[command(subcommand)]
    Content(content::Command),
    /// Look at snapshots
    #[command(subcommand)]
    Snapshots(snapshots::Command),
    /// Look at and change leases
    #[command(subcommand)]
    Leases(leases::Command),
    /// Look at and change namespaces
    #[command(subcommand)]
    Namespaces(namespaces::Command),
    /// Collect what nothing holds, or learn what holds it
    #[command(subcommand)]
    Gc(gc::Command),
    /// Compare the database with the disk and the mount table
    Fsck(fsck::Arguments),
    /// Show what the daemon is and found on this machine
    Info(info::Arguments),
}

/// Commands that work without a daemon: packages are made where none runs, and `version` tells that there is none.
#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Show the versions of program and daemon
    Version(version::Arguments),
    /// Learn what a registry serves and what a cache would save
    #[command(disable_help_flag = true)]
    Cache(program::Arguments),
    /// Write the completions of a shell
    #[command(hide = true)]
    Completions(completions::Arguments),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(man::Arguments),
}

/// A span of time as an argument.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    text.parse::<TimeSpan>()
        .map(TimeSpan::duration)
        .map_err(|error| error.to_string())
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
    fn help_fits_eighty_columns_and_lists_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
        insta::assert_snapshot!(help);
    }

    #[test]
    fn a_namespace_that_could_be_a_path_is_refused() {
        let parsed = Cli::try_parse_from(["orlop", "--namespace", "../x", "ps"]);
        assert!(parsed.unwrap_err().to_string().contains("../x"));
    }
}
