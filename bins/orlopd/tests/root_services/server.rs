//! The daemon on a scratch root, and the ways to ask it.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output, Stdio};

use crate::support::Daemon;

/// The namespace that the tests work in.
pub(crate) const NAMESPACE: &str = "test";

/// What is open when the daemon is asked to end is cut soon.
const GRACE: &str = "engine.shutdown_grace=2s";

/// A running daemon, ended and removed when it is dropped.
pub(crate) struct Server(Daemon);

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// For tests of what nothing holds: the first collection comes when they are long over.
    pub(crate) fn start_without_collection() -> Self {
        Self::start_with(&["gc.startup_delay=1h"])
    }

    /// With further settings, as `section.key=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Self(Daemon::start(&[&[GRACE], settings].concat()))
    }

    /// Starts a daemon anew on the same folders, with the usual settings.
    pub(crate) fn restart(&mut self) {
        self.0.restart(&[GRACE]);
    }

    /// Runs Debian's `ctr` and gives its standard output; it has to succeed.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments, Stdio::null());
        assert!(output.status.success(), "ctr {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs Debian's `ctr` with this input.
    pub(crate) fn try_ctr(&self, arguments: &[&str], input: Stdio) -> Output {
        self.command(arguments).stdin(input).output().unwrap()
    }

    /// Starts Debian's `ctr`, with its output in a pipe.
    pub(crate) fn spawn_ctr(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", NAMESPACE])
            .args(arguments);
        command
    }
}

impl Deref for Server {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.0
    }
}
