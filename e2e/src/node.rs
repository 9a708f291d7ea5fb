//! One orlopd with a registry and a small image, driven through the command line, and what must not be left of it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use orlop_sys::process::{self, Input, Spawn};
use serde_json::Value;

use crate::engine::{Engine, Options};
use crate::ground::names_in;
use crate::{Ground, Helper, Programs, Registry, Scratch, leftovers};

/// No command of a suite takes this long, also on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a shim waits for its first container, and some more.
const SHIM_PATIENCE: Duration = Duration::from_secs(75);

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// What a command line answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As a shell would see it.
    pub code: u32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Where commands go. Clones speak to the same daemon, also after it was started anew.
#[derive(Debug, Clone)]
pub struct Caller {
    program: PathBuf,
    socket: PathBuf,
    namespace: String,
}

/// The daemon and its surroundings. [`Node::close`] tells what is left over; a dropped one only tidies up.
#[derive(Debug)]
pub struct Node {
    engine: Option<Engine>,
    programs: Programs,
    options: Options,
    caller: Caller,
    // Last: dropping it takes away what the others left.
    ground: Ground,
}

impl Answer {
    /// The standard output of a command that went well.
    ///
    /// # Errors
    /// It did not; both outputs are in the message.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == 0, "the command failed: {self:?}");
        Ok(self.stdout)
    }
}

impl Caller {
    /// Runs our command line, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub fn orlop(&self, arguments: &[&str]) -> Result<Answer> {
        self.call(arguments, Input::Null)
    }

    /// The same, with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Caller::orlop`].
    pub fn orlop_with_input(&self, arguments: &[&str], input: &str) -> Result<Answer> {
        let mut file: File = tempfile::tempfile().context("cannot make a file for input")?;
        file.write_all(input.as_bytes())?;
        file.seek(SeekFrom::Start(0))?;
        self.call(arguments, Input::Fd(file.as_fd()))
    }

    /// What a command that went well says as JSON.
    ///
    /// # Errors
    /// It fails, or says no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self
            .orlop(&[&["--output", "json"], arguments].concat())?
            .success()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn call(&self, arguments: &[&str], input: Input<'_>) -> Result<Answer> {
        let spawn = Spawn::new(&self.program)
            .env("ORLOP_ADDRESS", &self.socket)
            .env("ORLOP_NAMESPACE", &self.namespace)
            .env("NO_COLOR", "1")
            .stdin(input)
            .args(arguments);
        let finished = process::run(spawn, COMMAND_TIMEOUT, OUTPUT_BYTES_MAX)
            .with_context(|| format!("orlop {}", arguments.join(" ")))?;
        Ok(Answer {
            code: finished.status.shell_code(),
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
        })
    }
}

impl Node {
    /// Starts registry and daemon; the image is in the registry, and not yet pulled.
    ///
    /// # Errors
    /// Something of it cannot be made.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, with further settings of the daemon, as `section.key=value`.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        let programs = Programs::find()?;
        let ground = Ground::new()?;
        let options = Options {
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            pods: Some(ground.pods()),
            ..Options::default()
        };
        let engine = Engine::orlopd(&programs, ground.scratch(), &options)?;
        let caller = Caller {
            program: programs.orlop(),
            socket: engine.socket().to_owned(),
            namespace: engine.namespace().to_owned(),
        };
        Ok(Self {
            engine: Some(engine),
            programs,
            options,
            caller,
            ground,
        })
    }

    /// Where commands go.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The reference of the small image.
    #[must_use]
    pub fn image(&self) -> &str {
        self.ground.image()
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.ground.registry()
    }

    /// The folder of everything.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        self.ground.scratch()
    }

    /// The running daemon.
    ///
    /// # Errors
    /// It was ended.
    pub fn engine(&self) -> Result<&Engine> {
        self.engine.as_ref().context("the daemon was ended")
    }

    /// Kills the daemon where it stands.
    ///
    /// # Errors
    /// It was ended already.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let engine = self.engine.take().context("the daemon was ended")?;
        engine.into_daemon().kill().map(drop)
    }

    /// Waits for a helper of the daemon, lets it live for `delay`, and kills it. Gives whether there was one.
    ///
    /// # Errors
    /// Processes cannot be listed, or the daemon was ended.
    pub fn kill_helper(&self, helper: Helper, delay: Duration) -> Result<bool> {
        let daemon = self.engine()?.pid();
        leftovers::kill_helper(helper, daemon, &self.scratch().name(), delay)
    }

    /// Asks the daemon to end, as systemd does, and waits for it; gives its exit code.
    ///
    /// # Errors
    /// It was ended already.
    pub fn end_daemon(&mut self) -> Result<Option<i32>> {
        let engine = self.engine.take().context("the daemon was ended")?;
        Ok(engine.into_daemon().end()?.exit_code())
    }

    /// Starts the daemon again on what the last one left.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_daemon(&mut self) -> Result<()> {
        let engine = Engine::orlopd(&self.programs, self.ground.scratch(), &self.options)?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Runs a second daemon on the same folders to its end, which has to come soon.
    ///
    /// # Errors
    /// It does not end.
    pub fn second_daemon(&self) -> Result<Answer> {
        let folder = self.scratch().path().join("orlop");
        let mut spawn = Spawn::new(self.programs.orlopd());
        for (name, below) in [("root", "root"), ("state", "state2"), ("socket", "t.sock")] {
            let setting = format!("engine.{name}={}", folder.join(below).display());
            spawn = spawn.args(["--set", &setting]);
        }
        let finished = process::run(spawn, PATIENCE, OUTPUT_BYTES_MAX).context("second daemon")?;
        Ok(Answer {
            code: finished.status.shell_code(),
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
        })
    }

    /// What a container's inspection says.
    ///
    /// # Errors
    /// There is no such container.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        self.caller.json(&["inspect", container])
    }

    /// Waits until a container has ended, and gives what is known of its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait_for_exit(&self, container: &str) -> Result<Value> {
        eventually(&format!("{container} has an end"), || {
            let exit = self.inspect(container)?["exit"].take();
            Ok(Some(exit).filter(Value::is_object))
        })
    }

    /// Processes, mounts, cgroups and network namespaces of this node's containers.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = self.ground.leftovers()?;
        let groups = self.cgroups().into_iter();
        found.extend(groups.map(|path| format!("cgroup {path}")));
        let prefix = format!("orlop-{}-", self.caller.namespace);
        let namespaces = names_in(Path::new("/run/netns")).into_iter();
        found.extend(namespaces.filter(|name| name.starts_with(&prefix)));
        let results = self.scratch().path().join("orlop/root/cni/results");
        let names = names_in(&results).into_iter();
        found.extend(names.map(|name| results.join(name).display().to_string()));
        Ok(found)
    }

    /// Cgroups of containers, in every hierarchy.
    fn cgroups(&self) -> Vec<String> {
        let unified = PathBuf::from("/sys/fs/cgroup");
        let hierarchies = names_in(&unified)
            .into_iter()
            .map(|name| unified.join(name));
        let groups = std::iter::once(unified.clone()).chain(hierarchies);
        groups
            .map(|root| root.join("orlop").join(&self.caller.namespace))
            .flat_map(|group| {
                names_in(&group)
                    .into_iter()
                    .map(move |name| group.join(name))
            })
            .filter(|path| path.is_dir())
            .map(|path| path.display().to_string())
            .collect()
    }

    /// Ends the daemon and takes everything away.
    ///
    /// # Errors
    /// `fsck` has a finding, or something of a container is still there.
    pub fn close(mut self) -> Result<()> {
        let findings = self.caller.json(&["fsck"])?["summary"]["findings"].take();
        ensure!(
            findings == 0,
            "fsck: {:?}",
            self.caller.orlop(&["fsck"])?.stdout
        );
        eventually_empty(|| self.leftovers())?;
        self.end_daemon()?;
        self.ground.close()
    }
}

/// Looks until there is something; what is looked for is in the message when it never comes.
///
/// # Errors
/// A look fails, or it takes too long.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("it does not come about that {what}");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Shims end a moment after their containers, and one whose daemon was killed before it could name the shim gives up by
/// itself after a minute: what stays longer is left over.
pub(crate) fn eventually_empty(look: impl Fn() -> Result<Vec<String>>) -> Result<()> {
    let deadline = Instant::now() + SHIM_PATIENCE;
    loop {
        let found = look()?;
        if found.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left over: {found:#?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
