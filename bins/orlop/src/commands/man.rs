//! `orlop man`: a page for each command, for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::cli::Cli;
use crate::error::{CliError, Explain};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An existing folder
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    clap_mangen::generate_to(Cli::command(), &arguments.folder).explain(|| {
        format!(
            "cannot write manual pages to {}",
            arguments.folder.display()
        )
    })
}
