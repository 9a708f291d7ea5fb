//! A network for the pods and containers of one engine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Scratch;

/// A bridge of its own, without masquerading: nothing outside is touched. Dropping it takes the bridge away, which the
/// plugin leaves; without a container on it there is none.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    folder: PathBuf,
    addresses: PathBuf,
}

impl Network {
    /// The network `10.213.<number>.0/24`, in the folder `net.d<suffix>` of the scratch folder.
    ///
    /// # Errors
    /// Its files cannot be made.
    pub fn new(scratch: &Scratch, suffix: &str, number: u8) -> Result<Self> {
        let bridge = format!("{}{suffix}", scratch.name().replace("orlop-", ""));
        let addresses = scratch.folder(&format!("ipam{suffix}"))?;
        let folder = scratch.folder(&format!("net.d{suffix}"))?;
        let conflist = format!(
            r#"{{"cniVersion": "1.0.0", "name": "{bridge}", "plugins": [{{"type": "bridge", "bridge": "{bridge}",
            "isGateway": true, "ipam": {{"type": "host-local", "dataDir": {addresses:?},
            "ranges": [[{{"subnet": "10.213.{number}.0/24"}}]]}}}}]}}"#
        );
        let file = scratch.file("10-e2e.conflist", &conflist)?;
        let path = folder.join("10-e2e.conflist");
        std::fs::rename(file, &path).context("cannot put the network in its place")?;
        Ok(Self {
            addresses: addresses.join(&bridge),
            bridge,
            folder,
        })
    }

    /// Where CNI's configuration is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where addresses in use are noted.
    #[must_use]
    pub fn addresses(&self) -> &Path {
        &self.addresses
    }

    /// The name of the bridge.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if Path::new("/sys/class/net").join(&self.bridge).exists()
            && let Err(error) = crate::programs::run_words(&["ip", "link", "delete", &self.bridge])
        {
            crate::daemon::complain(&format!("{error:#}"));
        }
    }
}
