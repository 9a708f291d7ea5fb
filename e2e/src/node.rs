//! One orlopd with a registry and a small image, driven through the command line, and what must not be left of it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use orlop_sys::mount::MountTable;
use orlop_sys::process::{self, Input, Spawn};
use serde_json::Value;

use crate::engine::{Engine, Options};
use crate::{Helper, Programs, Registry, Scratch, image, leftovers};

/// No command of a suite takes this long, also on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

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
    registry: Registry,
    programs: Programs,
    options: Options,
    caller: Caller,
    image: String,
    bridge: Bridge,
    // Last: dropping it takes away what the others left.
    scratch: Scratch,
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
        let programs = Programs::find()?;
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch)?;
        let image = registry.push(&image::small(&scratch)?, image::TAG, "e2e/small:1")?;
        let bridge = scratch.name().replace("orlop-", "");
        let networks = write_network(&scratch, &bridge)?;
        let options = Options {
            settings: vec![format!("runtime.cni_conf_dir={}", networks.display())],
            ..Options::default()
        };
        let engine = Engine::orlopd(&programs, &scratch, &options)?;
        let caller = Caller {
            program: programs.orlop(),
            socket: engine.socket().to_owned(),
            namespace: engine.namespace().to_owned(),
        };
        Ok(Self {
            engine: Some(engine),
            registry,
            programs,
            options,
            caller,
            image,
            bridge: Bridge(bridge),
            scratch,
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
        &self.image
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The folder of everything.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
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
        leftovers::kill_helper(helper, daemon, &self.scratch.name(), delay)
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
        let engine = Engine::orlopd(&self.programs, &self.scratch, &self.options)?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Runs a second daemon on the same folders to its end, which has to come soon.
    ///
    /// # Errors
    /// It does not end.
    pub fn second_daemon(&self) -> Result<Answer> {
        let folder = self.scratch.path().join("orlop");
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
        let processes = leftovers::processes_of(self.scratch.path())?;
        let mut found: Vec<String> = processes
            .into_iter()
            .map(|(pid, line)| format!("process {pid}: {line}"))
            .collect();
        let table = MountTable::read().context("cannot read the mount table")?;
        let state = Path::new("/run").join(self.scratch.name());
        let mounts = table.beneath(self.scratch.path());
        let mounts = mounts.chain(table.beneath(&state));
        found.extend(mounts.map(|mount| format!("mount {}", mount.mountpoint.display())));
        found.extend(
            self.cgroups()
                .into_iter()
                .map(|path| format!("cgroup {path}")),
        );
        let prefix = format!("orlop-{}-", self.caller.namespace);
        let namespaces = names_in(Path::new("/run/netns")).into_iter();
        found.extend(namespaces.filter(|name| name.starts_with(&prefix)));
        found.extend(self.attachments());
        Ok(found)
    }

    /// Addresses that are reserved, results that are remembered, and ends of links at the bridge.
    fn attachments(&self) -> Vec<String> {
        let addresses = self.scratch.path().join("ipam").join(&self.bridge.0);
        let ports = Path::new("/sys/class/net")
            .join(&self.bridge.0)
            .join("brif");
        let results = self.scratch.path().join("orlop/root/cni/results");
        let named = |folder: &Path| -> Vec<String> {
            let names = names_in(folder).into_iter();
            // The allocator's own notes stay.
            let names =
                names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip"));
            names
                .map(|name| folder.join(name).display().to_string())
                .collect()
        };
        [addresses, ports, results]
            .iter()
            .flat_map(|folder| named(folder))
            .collect()
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
        let Self {
            scratch, registry, ..
        } = self;
        drop(registry);
        let left = scratch.close()?;
        ensure!(left.is_empty(), "left over: {left:#?}");
        Ok(())
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

/// Shims end a moment after their containers: what stays is left over.
fn eventually_empty(look: impl Fn() -> Result<Vec<String>>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look()?;
        if found.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left over: {found:#?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// A bridge of this node's own, without masquerading: nothing outside is touched.
fn write_network(scratch: &Scratch, bridge: &str) -> Result<PathBuf> {
    let addresses = scratch.folder("ipam")?;
    let folder = scratch.folder("net.d")?;
    let conflist = format!(
        r#"{{"cniVersion": "1.0.0", "name": "{bridge}", "plugins": [{{"type": "bridge", "bridge": "{bridge}",
        "isGateway": true, "ipam": {{"type": "host-local", "dataDir": {addresses:?},
        "ranges": [[{{"subnet": "10.213.77.0/24"}}]]}}}}]}}"#
    );
    let file = scratch.file("10-e2e.conflist", &conflist)?;
    let path = folder.join("10-e2e.conflist");
    std::fs::rename(file, &path).context("cannot put the network in its place")?;
    Ok(folder)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The bridge plugin leaves its bridge; without a container of `--net cni` there is none.
#[derive(Debug)]
struct Bridge(String);

impl Drop for Bridge {
    fn drop(&mut self) {
        if Path::new("/sys/class/net").join(&self.0).exists()
            && let Err(error) = crate::programs::run_words(&["ip", "link", "delete", &self.0])
        {
            crate::daemon::complain(&format!("{error:#}"));
        }
    }
}
