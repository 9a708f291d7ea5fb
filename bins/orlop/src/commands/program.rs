//! `orlop cache …`: programs of their own, called as git and cargo call theirs. They bring what the engine never links.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::error::{CliError, Explain};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What the program takes; `orlop cache help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the program `name`: the one beside this, else the one in `PATH`.
pub(crate) fn run(name: &str, arguments: &Arguments) -> Result<Infallible, CliError> {
    #[allow(
        clippy::disallowed_methods,
        reason = "nothing is inherited by accident: this process becomes the other"
    )]
    let failure = Command::new(find(name)).args(&arguments.arguments).exec();
    Err(failure).explain(|| {
        format!("cannot run {name}, a program of its own: install it beside orlop or in PATH")
    })
}

fn find(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.map(|path| path.with_file_name(name));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command as Typed, Local};

    #[test]
    fn everything_behind_the_name_is_the_programs() {
        let typed = ["orlop", "cache", "--help", "-o", "json", "--", "x"];
        let cli = Cli::try_parse_from(typed).unwrap();
        let Typed::Local(Local::Cache(arguments)) = cli.command else {
            panic!("another command");
        };
        assert_eq!(arguments.arguments, ["--help", "-o", "json", "--", "x"]);
    }

    #[test]
    fn a_program_that_is_not_installed_says_where_it_belongs() {
        let nothing = Arguments {
            arguments: Vec::new(),
        };
        let failure = run("orlop-no-such-program", &nothing).unwrap_err();
        let shown = failure.report().message;
        assert!(shown.contains("orlop-no-such-program"), "{shown}");
        assert!(shown.contains("beside orlop or in PATH"), "{shown}");
    }
}
