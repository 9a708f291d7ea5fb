//! A machine of our own under qemu, emulated where the processor cannot help: its power can be cut, and it has cgroups
//! of version 2 whatever the host has.
//!
//! Crash: its disk is opened without the host's page cache, so killing qemu loses exactly what the guest's kernel had
//! not written. The disk itself keeps what it took: a volatile cache inside a disk is not simulated.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use orlop_sys::process::Spawn;

use crate::node::Answer;
use crate::programs::{run, run_words};
use crate::workload::Commands;
use crate::{Daemon, Programs, Scratch};

/// Where the kernel's package is extracted; `.ci/packages` does it.
const KERNEL_VARIABLE: &str = "ORLOP_GUEST_KERNEL";
const KERNEL_DEFAULT: &str = "/var/cache/orlop/guest-kernel";

/// The guest's side of qemu's user network, behind which the host's loopback is.
const HOST_ADDRESS: &str = "10.0.2.2";

/// No command takes this long, also emulated on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

const DISK_MIB: u64 = 512;

/// A panic ends the emulator. On a busy host the emulated timer is too late for the kernel's liking.
const APPEND: &str = "console=ttyS0 panic=-1 loglevel=5 no_timer_check";

/// Everything a guest is booted from, and the disk that outlives its boots.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
}

/// A running guest. Dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    qemu: Daemon,
    console: PathBuf,
    line: Mutex<BufReader<UnixStream>>,
}

/// The power switch of a guest: usable while a command is under way.
#[derive(Debug)]
pub struct Switch(UnixStream);

impl Machine {
    /// Makes kernel, system image and an empty ext4 disk.
    ///
    /// # Errors
    /// The kernel is not there, or a program of the distribution fails.
    pub fn new(programs: &Programs, scratch: &Scratch) -> Result<Self> {
        let kernel = std::env::var_os(KERNEL_VARIABLE).unwrap_or(KERNEL_DEFAULT.into());
        let kernel = PathBuf::from(kernel);
        ensure!(
            kernel.join("boot").is_dir(),
            "no kernel in {}: run .ci/packages, or set {KERNEL_VARIABLE}",
            kernel.display()
        );
        let folder = scratch.folder("guest")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/make");
        let spawn = Spawn::new(script).arg(programs.folder());
        run(spawn.arg(kernel).arg(&folder), "e2e/guest/make")?;
        let machine = Self { folder };
        machine.empty_disk()?;
        Ok(machine)
    }

    /// Replaces the disk by an empty one.
    ///
    /// # Errors
    /// mke2fs fails.
    pub fn empty_disk(&self) -> Result<()> {
        let disk = self.disk().display().to_string();
        let size = format!("{DISK_MIB}M");
        // A disk that was used keeps what mke2fs does not overwrite.
        std::fs::File::create(&disk).context("cannot make the disk")?;
        run_words(&["mke2fs", "-q", "-F", "-t", "ext4", &disk, &size]).map(drop)
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("data.img")
    }

    /// Boots, and waits until the guest takes commands.
    ///
    /// # Errors
    /// It does not come up; its console is in the message.
    pub fn boot(&self, memory_mib: u64) -> Result<Guest> {
        let console = self.folder.join("console.log");
        let socket = self.folder.join("agent");
        std::fs::remove_file(&socket).ok();
        let qemu = self.qemu(memory_mib, &console, &socket);
        let qemu = Daemon::start("qemu", qemu, &self.folder.join("qemu.log"))?;
        qemu.wait_until(|| socket.exists())?;
        let line = UnixStream::connect(&socket).context("cannot reach the guest's agent")?;
        line.set_read_timeout(Some(COMMAND_TIMEOUT))?;
        let mut line = BufReader::new(line);
        let mut word = String::new();
        let heard = line.read_line(&mut word);
        if heard.is_err() || word != "ready\n" {
            let said = std::fs::read(&console).unwrap_or_default();
            bail!("no guest: {heard:?}\n{}", String::from_utf8_lossy(&said));
        }
        Ok(Guest {
            qemu,
            console,
            line: Mutex::new(line),
        })
    }

    fn qemu<'fd>(&self, memory_mib: u64, console: &Path, socket: &Path) -> Spawn<'fd> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (system, disk) = (path("system.img"), self.disk());
        let socket = socket.display();
        Spawn::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", &memory_mib.to_string(), "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-append", APPEND])
            .args(["-kernel", &path("kernel"), "-initrd", &path("initrd")])
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-drive",
                &format!("file={system},if=virtio,format=raw,readonly=on"),
            ])
            .args([
                "-drive",
                &format!("file={},if=virtio,format=raw,cache=none", disk.display()),
            ])
            .args([
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ])
            .args([
                "-chardev",
                &format!("socket,id=agent,path={socket},server=on,wait=on"),
            ])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=agent"])
    }
}

impl Guest {
    /// Runs a line of shell in the guest.
    ///
    /// # Errors
    /// The guest does not answer: its power was cut, or it hangs.
    pub fn shell(&self, line: &str) -> Result<Answer> {
        let mut agent = self.line.lock().ok().context("an earlier command failed")?;
        agent.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut head = String::new();
        agent.read_line(&mut head)?;
        let numbers: Vec<u32> = head.split_whitespace().flat_map(str::parse).collect();
        let [code, output, errors] = numbers[..] else {
            bail!("the guest does not answer {line:?}: {head:?}");
        };
        let mut text = |length: u32| -> Result<String> {
            let mut bytes = vec![0; usize::try_from(length)?];
            agent.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (stdout, stderr) = (text(output)?, text(errors)?);
        Ok(Answer {
            code,
            stdout,
            stderr,
        })
    }

    /// Starts orlopd in the guest, on the disk, and waits until it listens.
    ///
    /// # Errors
    /// It does not; its log is in the message.
    pub fn start_daemon(&self, registry_port: u16) -> Result<()> {
        let host = format!("{HOST_ADDRESS}:{registry_port}");
        let line = format!(
            "mkdir -p /run/hosts/{host}; echo 'server = \"http://{host}\"' >/run/hosts/{host}/hosts.toml; \
             (orlopd --set engine.root=/var/lib/orlop/root --set engine.state=/run/orlop \
             --set engine.socket=/run/orlop.sock >/run/orlopd.log 2>&1 &); \
             for look in $(seq 600); do [ -S /run/orlop.sock ] && exit 0; usleep 100000; done; cat /run/orlopd.log; exit 1"
        );
        self.shell(&line)?.success().map(drop)
    }

    /// What the daemon said.
    ///
    /// # Errors
    /// As [`Guest::shell`].
    pub fn daemon_log(&self) -> Result<String> {
        Ok(self.shell("cat /run/orlopd.log")?.stdout)
    }

    /// A switch that cuts the power from another thread.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn switch(&self) -> Result<Switch> {
        let agent = self.line.lock().ok().context("an earlier command failed")?;
        Ok(Switch(agent.get_ref().try_clone()?))
    }

    /// The guest's console so far.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The process id of the emulator.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.qemu.pid()
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// The emulator cannot be killed.
    pub fn cut(self) -> Result<()> {
        self.qemu.kill().map(drop)
    }
}

impl Switch {
    /// Whoever waits for the guest hears no more of it. The power itself goes with [`Guest::cut`].
    pub fn hang_up(&self) {
        // Gone already is as good.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

impl Commands for Guest {
    fn orlop(&self, arguments: &[&str]) -> Result<Answer> {
        let mut line = "ORLOP_ADDRESS=/run/orlop.sock NO_COLOR=1 orlop".to_owned();
        for argument in arguments {
            write!(line, " '{}'", argument.replace('\'', r"'\''"))?;
        }
        self.shell(&line)
    }
}

/// The reference under which a guest finds an image of the host's registry, and that registry's port.
///
/// # Errors
/// The reference has no port.
pub fn reference_for_guest(reference: &str) -> Result<(String, u16)> {
    let (host, rest) = reference
        .split_once('/')
        .context("a reference has a host")?;
    let (_, port) = host.rsplit_once(':').context("the host has a port")?;
    Ok((format!("{HOST_ADDRESS}:{port}/{rest}"), port.parse()?))
}
