//! The daemon's command line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use orlop_base::clock::SystemClock;
use orlop_base::config::{Config, Loaded, Sources};

use crate::daemon;

/// Orlop's daemon: pulls images, keeps blobs and snapshots, runs containers.
#[derive(Debug, Parser)]
#[command(name = "orlopd", version, about)]
pub(crate) struct Arguments {
    /// The configuration file [default: /etc/orlop/config.toml, if there is one].
    #[arg(long, short, env = "ORLOPD_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Overrides one setting: `--set engine.root=/srv/orlop`. May be given often.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = parse_setting, global = true)]
    settings: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows or checks the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Migrates the database of a stopped daemon, or says what would be done.
    Migrate {
        /// Only say what would be done.
        #[arg(long, conflicts_with = "rollback")]
        dry_run: bool,
        /// Put this backup in place of the database.
        #[arg(long, value_name = "BACKUP")]
        rollback: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints every setting with its default.
    Default,
    /// Reads the configuration and reports every mistake.
    Check,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    if matches!(
        arguments.command,
        Some(Command::Config(ConfigCommand::Default))
    ) {
        return print(&Config::default_text());
    }
    let mut sources = Sources::of_process(arguments.config.as_deref())?;
    sources.flags = arguments.settings;
    let loaded = Config::read(&sources)?;
    match arguments.command {
        None => daemon::run(&loaded),
        Some(Command::Config(ConfigCommand::Default)) => Ok(()),
        Some(Command::Config(ConfigCommand::Check)) => check(&loaded),
        Some(Command::Migrate { dry_run, rollback }) => migrate(&loaded.config, dry_run, rollback),
    }
}

fn check(loaded: &Loaded) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    print("the configuration is sound\n")
}

fn migrate(config: &Config, dry_run: bool, rollback: Option<PathBuf>) -> anyhow::Result<()> {
    let path = config.engine.root.join("meta.db");
    let clock = SystemClock::shared();
    if let Some(backup) = rollback {
        orlop_meta::rollback(&path, &backup, &clock)
            .with_context(|| format!("cannot roll back to {}", backup.display()))?;
        return print(&format!("{} is in place again\n", backup.display()));
    }
    let report = orlop_meta::dry_run(&path)?;
    if dry_run || report.from == report.to {
        return print(&format!(
            "schema version {}, this program's is {}\n",
            report.from, report.to
        ));
    }
    orlop_meta::Db::open(&path, clock, orlop_meta::Backends::default())?;
    print(&format!(
        "migrated from schema version {} to {}\n",
        report.from, report.to
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}
