//! `orlop-cache serve` on a folder and a port of its own.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orlop_sys::process::Spawn;

use crate::programs::run;
use crate::registry::free_address;
use crate::{Daemon, Programs, Scratch};

/// A cache in front of one registry.
#[derive(Debug)]
pub struct Cache {
    program: PathBuf,
    address: SocketAddr,
    upstream: String,
    daemon: Daemon,
}

impl Cache {
    /// Starts it; `upstream` is a registry's host and port.
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub fn start(programs: &Programs, scratch: &Scratch, upstream: &str) -> Result<Self> {
        let program = programs.folder().join("orlop-cache");
        let address = free_address()?;
        let root = scratch.folder("cache")?;
        let mut spawn = Spawn::new(&program).arg("serve").arg("--root").arg(&root);
        for setting in [
            format!("serve.address={address}"),
            format!("origin.registries={upstream}"),
            format!("origin.default={upstream}"),
            format!("origin.hosts_dirs={}", root.join("none").display()),
            format!("origin.credentials_file={}", root.join("none").display()),
        ] {
            spawn = spawn.args(["--set", &setting]);
        }
        let log = scratch.path().join("cache.log");
        let daemon = Daemon::start("orlop-cache", spawn, &log)
            .with_context(|| format!("{} is built with the others", program.display()))?;
        daemon.wait_until(|| TcpStream::connect(address).is_ok())?;
        Ok(Self {
            program,
            address,
            upstream: upstream.to_owned(),
            daemon,
        })
    }

    /// Host and port, as in a reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The running program.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(self) -> Result<()> {
        self.daemon.end().map(drop)
    }

    /// Makes it the mirror of the upstream for a client whose files are below `prefix`, as `orlop cache setup` does.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn set_up(&self, client: &str, prefix: &Path) -> Result<()> {
        let url = format!("http://{}", self.address);
        let spawn = Spawn::new(&self.program)
            .args(["setup", client, "--write", "--url", &url])
            .args(["--registry", &self.upstream])
            .arg("--prefix")
            .arg(prefix);
        run(spawn, "orlop-cache setup").map(drop)
    }
}
