//! What an engine with pods stands on, whichever it is: a registry with a small image, a network of its own, a folder.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use orlop_sys::mount::MountTable;

use crate::{Network, Pods, Registry, Scratch, image, leftovers};

/// The third number of pods' addresses.
const SUBNET: u8 = 77;

/// Registry, network and folder. [`Ground::close`] tells what is left over; a dropped one only tidies up.
#[derive(Debug)]
pub struct Ground {
    registry: Registry,
    image: String,
    pause_image: String,
    network: Network,
    // Last: dropping it takes away what the others left.
    scratch: Scratch,
}

impl Ground {
    /// Starts the registry, pushes the image and writes the network's configuration.
    ///
    /// # Errors
    /// Something of it cannot be made.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch)?;
        let layout = image::small(&scratch)?;
        let image = registry.push(&layout, image::TAG, "e2e/small:1")?;
        let pause_image = registry.push(&layout, image::add_pause(&layout)?, "e2e/pause:1")?;
        let network = Network::new(&scratch, "", SUBNET)?;
        Ok(Self {
            registry,
            image,
            pause_image,
            network,
            scratch,
        })
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The reference of the small image.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The folder of everything.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What an engine has to know to make pods here.
    #[must_use]
    pub fn pods(&self) -> Pods {
        Pods {
            networks: self.network.folder().to_owned(),
            pause_image: self.pause_image.clone(),
        }
    }

    /// Processes, mounts, addresses and links of the pods and containers of the engine on this ground.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let processes = leftovers::processes_of(self.scratch.path())?.into_iter();
        let processes = processes.map(|(pid, line)| format!("process {pid}: {line}"));
        let table = MountTable::read().context("cannot read the mount table")?;
        let state = self.scratch.state();
        let mounts = table.beneath(self.scratch.path());
        let mounts = mounts.chain(table.beneath(&state));
        let mounts = mounts.map(|mount| format!("mount {}", mount.mountpoint.display()));
        Ok(processes.chain(mounts).chain(self.attachments()).collect())
    }

    /// Addresses that are reserved, and ends of links at the bridge.
    fn attachments(&self) -> impl Iterator<Item = String> {
        let addresses = self.network.addresses().to_owned();
        let links = Path::new("/sys/class/net").join(self.network.bridge());
        [addresses, links.join("brif")]
            .into_iter()
            .flat_map(|folder| {
                let names = names_in(&folder).into_iter();
                // The allocator's own notes stay.
                let names =
                    names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip"));
                names.map(move |name| folder.join(name).display().to_string())
            })
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// Something was still there although the daemon had ended: it leaked.
    pub fn close(self) -> Result<()> {
        let Self {
            scratch, registry, ..
        } = self;
        drop(registry);
        let left = scratch.close()?;
        ensure!(left.is_empty(), "left over: {left:#?}");
        Ok(())
    }
}

pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
