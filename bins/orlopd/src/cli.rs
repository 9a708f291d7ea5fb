//! The daemon's command line.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use orlop_api::{Any, Message};
use orlop_base::clock::SystemClock;
use orlop_base::config::{Config, Loaded, Sources};
use orlop_containerd::Method;
use orlop_meta::MigrationReport;
use orlop_runtime::Publication;

use crate::daemon;
use crate::engine::{self, ttrpc_address};

/// Longer events are no events.
const EVENT_BYTES_MAX: u64 = 4 << 20;

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
    /// The socket of the daemon to speak to [default: engine.socket].
    #[arg(long, short, value_name = "SOCKET", global = true, hide = true)]
    address: Option<PathBuf>,
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
    /// Brings over what another engine has, while both daemons are stopped.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Tells the daemon of an event, for shims.
    #[command(hide = true)]
    Publish(PublishArguments),
}

/// What a shim without ttrpc says: the event is on standard input, as a protobuf `Any`.
#[derive(Debug, clap::Args)]
struct PublishArguments {
    /// The event's topic.
    #[arg(long)]
    topic: String,
    /// Whose event it is.
    #[arg(long)]
    namespace: String,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Images, their content, leases, labels and sandbox records of a stopped containerd, which is not changed.
    ///
    /// Content is linked where both stores are on one file system, else copied. Containers and snapshots stay: layers are
    /// unpacked again when an image is first used. May be called again; what is here already stays as it is.
    Containerd {
        /// containerd's root.
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/containerd")]
        root: PathBuf,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Copy content even where it could be linked.
        #[arg(long)]
        copy: bool,
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
        Some(Command::Import(ImportCommand::Containerd {
            root,
            dry_run,
            copy,
        })) => import_containerd(&loaded.config, &root, dry_run, copy),
        Some(Command::Publish(event)) => {
            let socket = arguments.address.unwrap_or(loaded.config.engine.socket);
            publish(&socket, event)
        }
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
        let undone = orlop_meta::rollback(&path, &backup, &clock)
            .with_context(|| format!("cannot roll back to {}", backup.display()))?;
        return print(&format!(
            "{} is in place again; what it replaced is now {}\n",
            backup.display(),
            undone.display()
        ));
    }
    let report = if dry_run {
        orlop_meta::dry_run(&path)?
    } else {
        orlop_meta::migrate(&path, &clock)?
    };
    print(&migration_text(&report, dry_run))
}

/// A line for the whole, and one for each step, backup and stranger.
fn migration_text(report: &MigrationReport, is_dry: bool) -> String {
    let MigrationReport { from, to, .. } = report;
    let mut lines = vec![match (from == to, is_dry) {
        (true, _) => format!("schema version {from} is this program's: nothing to do"),
        (false, true) => format!("would migrate from schema version {from} to {to}"),
        (false, false) => format!("migrated from schema version {from} to {to}"),
    }];
    lines.extend(report.steps.iter().map(|step| format!("step {step}")));
    let backup = report.backup.as_ref();
    lines.extend(backup.map(|backup| format!("backup {}", backup.display())));
    let unknown = report.unknown.iter();
    lines.extend(unknown.map(|what| format!("unknown, and left as it is: {what}")));
    lines.join("\n") + "\n"
}

fn import_containerd(
    config: &Config,
    root: &Path,
    dry_run: bool,
    copy: bool,
) -> anyhow::Result<()> {
    let source = orlop_containerd::Source::open(root)?;
    if dry_run {
        return print(&source.plan().to_string());
    }
    let method = if copy { Method::Copy } else { Method::Link };
    let db = engine::open_stores(&config.engine.root, SystemClock::shared())?;
    let report = source.bring(&db, method)?;
    print(&report.to_string())
}

fn publish(socket: &Path, arguments: PublishArguments) -> anyhow::Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(EVENT_BYTES_MAX)
        .read_to_end(&mut input)
        .context("cannot read the event")?;
    let publication = Publication {
        namespace: arguments.namespace.parse().context("--namespace")?,
        topic: arguments.topic,
        event: Any::decode(input.as_slice()).context("the event is no protobuf Any")?,
        at: SystemClock::shared().wall(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime
        .block_on(orlop_runtime::publish(&ttrpc_address(socket), publication))
        .map_err(Into::into)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_tells_its_steps_its_backup_and_what_it_did_not_know() {
        let mut report = MigrationReport {
            from: 1,
            to: 2,
            steps: vec!["2: sandboxes".to_owned()],
            backup: None,
            unknown: vec!["table plugin_of_somebody".to_owned()],
        };
        assert_eq!(
            migration_text(&report, true),
            "would migrate from schema version 1 to 2\nstep 2: sandboxes\n\
             unknown, and left as it is: table plugin_of_somebody\n"
        );
        report.backup = Some("/r/meta.db.v1-20260101T000000Z".into());
        report.unknown.clear();
        assert_eq!(
            migration_text(&report, false),
            "migrated from schema version 1 to 2\nstep 2: sandboxes\nbackup /r/meta.db.v1-20260101T000000Z\n"
        );
        report.from = 2;
        report.backup = None;
        report.steps.clear();
        let text = "schema version 2 is this program's: nothing to do\n";
        assert_eq!(migration_text(&report, false), text);
    }
}
