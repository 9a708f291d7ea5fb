//! Running a plugin (CNI 1.1, section 2).

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::id::AttachmentId;
use orlop_sys::process::{Input, RunError, Spawn, in_memory, run};
use serde_json::Value;

use crate::error::Error;
use crate::protocol::Command;
use crate::result::PluginError;

/// What a plugin may write to each of its outputs before the rest is dropped.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// One run of one plugin.
#[derive(Debug, Clone)]
pub struct Invocation<'a> {
    /// The plugin's type, for messages.
    pub plugin: &'a str,
    /// Its executable.
    pub executable: &'a Path,
    /// What it is asked.
    pub command: Command,
    /// The attachment's container; absent for STATUS and GC.
    pub container: Option<&'a AttachmentId>,
    /// The attachment's network namespace; empty if there is none any more.
    pub namespace_path: &'a Path,
    /// The interface's name inside.
    pub interface: &'a str,
    /// `KEY=value;…` for plugins that still read `CNI_ARGS`.
    pub arguments: &'a str,
    /// Where plugins find each other.
    pub folders: &'a [PathBuf],
    /// Standard input.
    pub request: &'a Value,
    /// After which the plugin is killed.
    pub limit: Duration,
}

impl Invocation<'_> {
    /// The environment the specification asks for; nothing of the daemon's own but `PATH`.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let folders: Vec<_> = self
            .folders
            .iter()
            .map(|folder| folder.to_string_lossy())
            .collect();
        let mut environment = vec![
            ("CNI_COMMAND", self.command.as_str().to_owned()),
            ("CNI_PATH", folders.join(":")),
        ];
        if let Some(container) = self.container {
            environment.extend([
                ("CNI_CONTAINERID", container.to_string()),
                (
                    "CNI_NETNS",
                    self.namespace_path.to_string_lossy().into_owned(),
                ),
                ("CNI_IFNAME", self.interface.to_owned()),
                ("CNI_ARGS", self.arguments.to_owned()),
            ]);
        }
        environment
    }
}

/// How a run went.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Whether the exit status was zero.
    pub succeeded: bool,
    /// Standard output: a result, or an error object.
    pub stdout: Vec<u8>,
    /// Standard error: for people.
    pub stderr: Vec<u8>,
}

/// Runs plugins. The real one is [`Plugins`]; tests put faults in its place.
pub trait Runner: Send + Sync {
    /// Runs to the end or the deadline.
    ///
    /// # Errors
    /// The plugin could not be run, or was killed at its deadline. A plugin's own failure is in the [`Run`].
    fn run(&self, invocation: &Invocation<'_>) -> Result<Run, Error>;
}

impl<R: Runner> Runner for &R {
    fn run(&self, invocation: &Invocation<'_>) -> Result<Run, Error> {
        (**self).run(invocation)
    }
}

/// Runs plugins as executables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plugins;

impl Runner for Plugins {
    fn run(&self, invocation: &Invocation<'_>) -> Result<Run, Error> {
        let cannot_run = |source| Error::Spawn {
            plugin: invocation.plugin.to_owned(),
            source,
        };
        let request = in_memory("cni-request", invocation.request.to_string().as_bytes())
            .map_err(cannot_run)?;
        let spawn = Spawn::new(invocation.executable)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Input::Fd(request.as_fd()))
            .own_group();
        let spawn = invocation
            .environment()
            .into_iter()
            .fold(spawn, |spawn, (name, value)| spawn.env(name, value));
        match run(spawn, invocation.limit, OUTPUT_BYTES_MAX) {
            Ok(finished) => Ok(Run {
                succeeded: finished.status.exit_code() == Some(0),
                stdout: finished.stdout,
                stderr: finished.stderr,
            }),
            Err(RunError::TimedOut { timeout }) => Err(Error::Deadline {
                plugin: invocation.plugin.to_owned(),
                command: invocation.command.as_str(),
                limit: timeout,
            }),
            Err(RunError::Spawn(error)) => Err(cannot_run(error.source)),
            Err(RunError::Io(error)) => Err(cannot_run(error)),
        }
    }
}

/// What the plugin answered, or the error it reported.
pub(crate) fn answer(invocation: &Invocation<'_>, run: &Run) -> Result<Value, Error> {
    let command = invocation.command.as_str();
    if !run.succeeded {
        return Err(plugin_error(invocation, run));
    }
    if run.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&run.stdout).map_err(|source| Error::Answer {
        plugin: invocation.plugin.to_owned(),
        command,
        source,
    })
}

fn plugin_error(invocation: &Invocation<'_>, run: &Run) -> Error {
    let told: Option<PluginError> = serde_json::from_slice(&run.stdout).ok();
    let (code, message) = match told {
        Some(told) if told.details.is_empty() => (told.code, told.msg),
        Some(told) => (told.code, format!("{}: {}", told.msg, told.details)),
        // A plugin that crashed says what it can on standard error; 999 is the specification's "generic error".
        None => (999, String::from_utf8_lossy(&run.stderr).trim().to_owned()),
    };
    Error::Plugin {
        plugin: invocation.plugin.to_owned(),
        command: invocation.command.as_str(),
        code,
        message,
    }
}
