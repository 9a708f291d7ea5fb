//! Debian's docker-registry on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result};
use orlop_sys::process::Spawn;

use crate::programs::run_words;
use crate::{Daemon, Scratch};

/// A registry with a free port and an empty store, plain HTTP. Ends when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    _daemon: Daemon,
}

impl Registry {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let address = free_address()?;
        let root = scratch.folder("registry")?;
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"{address}\"}}\n",
            root.display()
        );
        let config = scratch.file("registry.yml", &config)?;
        let spawn = Spawn::new("docker-registry").arg("serve").arg(config);
        let log = scratch.path().join("registry.log");
        let daemon = Daemon::start("docker-registry", spawn, &log)?;
        daemon.wait_until(|| TcpStream::connect(address).is_ok())?;
        Ok(Self {
            address,
            _daemon: daemon,
        })
    }

    /// Host and port, as in a reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Copies an image of an OCI layout here and gives its reference. `image` is a name with a tag.
    ///
    /// # Errors
    /// skopeo fails.
    pub fn push(&self, layout: &Path, tag: &str, image: &str) -> Result<String> {
        let reference = format!("{}/{image}", self.address);
        let source = format!("oci:{}:{tag}", layout.display());
        let target = format!("docker://{reference}");
        let options = ["copy", "--quiet", "--dest-tls-verify=false"];
        run_words(&[&["skopeo"], &options[..], &[&source, &target]].concat())?;
        Ok(reference)
    }
}

/// A port that is free now; whoever takes it in between makes the start fail, which is told.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    listener.local_addr().context("a listener has an address")
}
