//! What an attachment was made with, kept on disk in libcni's own format.
//!
//! ```text
//! <cache>/results/<network>-<container>-<ifname>     JSON: configuration (base64), capability arguments, result
//! ```
//!
//! The same folder and format as libcni, so that attachments survive a change of engine in both directions.
//!
//! Crash: the file is written atomically before ADD is reported as done and removed after DEL has succeeded; a crash in
//! between repeats DEL, which plugins answer with success.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::id::AttachmentId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_sys::fs::{Dir, FsError, Mode, Name, NameError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A result larger than this was not written by a plugin.
const ENTRY_BYTES_MAX: u64 = 4 << 20;

/// An attachment as it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: String,
    #[serde(rename = "containerId")]
    pub(crate) container: String,
    config: String,
    #[serde(rename = "ifName")]
    pub(crate) interface: String,
    pub(crate) network_name: String,
    #[serde(default, rename = "netns")]
    pub(crate) namespace_path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<[String; 2]>,
    #[serde(default)]
    pub(crate) capability_args: BTreeMap<String, Value>,
    pub(crate) result: Value,
}

impl Entry {
    pub(crate) fn new(
        network: &str,
        interface: &str,
        container: &AttachmentId,
        namespace_path: &Path,
    ) -> Self {
        Self {
            kind: "cniCacheV1".to_owned(),
            container: container.to_string(),
            config: String::new(),
            interface: interface.to_owned(),
            network_name: network.to_owned(),
            namespace_path: namespace_path.to_string_lossy().into_owned(),
            cni_args: Vec::new(),
            capability_args: BTreeMap::new(),
            result: Value::Null,
        }
    }

    /// Keeps the `KEY=value;…` the attachment is made with.
    pub(crate) fn set_arguments(&mut self, arguments: &str) {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        self.cni_args = pairs
            .map(|(key, value)| [key.to_owned(), value.to_owned()])
            .collect();
    }

    /// As it goes into `CNI_ARGS`.
    pub(crate) fn arguments(&self) -> String {
        let pairs: Vec<_> = self.cni_args.iter().map(|pair| pair.join("=")).collect();
        pairs.join(";")
    }

    /// Keeps the list's text as it was when the attachment was made.
    pub(crate) fn set_config(&mut self, text: &str) {
        self.config = STANDARD.encode(text);
    }

    /// The list's text as it was; `None` if it has been damaged.
    pub(crate) fn config_text(&self) -> Option<String> {
        String::from_utf8(STANDARD.decode(&self.config).ok()?).ok()
    }
}

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheFault {
    /// The file system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The entry is damaged.
    #[error("{name} is not a cached CNI result")]
    Damaged {
        /// The file's name.
        name: String,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// The interface's name cannot stand in a file name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The folder of cached attachments.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("results"),
        }
    }

    pub(crate) fn write(&self, entry: &Entry) -> Result<(), CacheFault> {
        let name = file_name(&entry.network_name, &entry.container, &entry.interface)?;
        let text = serde_json::to_vec(entry).map_err(|source| damaged(&name, source))?;
        Ok(
            Dir::create_all(&self.folder, Mode::from_raw_mode(0o700))?.write_atomic(
                &name,
                &text,
                Mode::from_raw_mode(0o600),
            )?,
        )
    }

    /// The entry, or `None` where there is none.
    pub(crate) fn read(
        &self,
        network: &str,
        container: &AttachmentId,
        interface: &str,
    ) -> Result<Option<Entry>, CacheFault> {
        let name = file_name(network, container.as_str(), interface)?;
        let Some(folder) = self.open()? else {
            return Ok(None);
        };
        match folder.read(&name, ENTRY_BYTES_MAX) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| damaged(&name, source)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Every network's entry for one interface of one container.
    pub(crate) fn entries_of(
        &self,
        container: &AttachmentId,
        interface: &str,
    ) -> Result<Vec<Entry>, CacheFault> {
        let mut entries = self.entries_ending(&format!("-{container}-{interface}"))?;
        // The ending alone may be another container's whose name ends alike.
        entries
            .retain(|entry| entry.container == container.as_str() && entry.interface == interface);
        Ok(entries)
    }

    /// All entries.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, CacheFault> {
        self.entries_ending("")
    }

    /// Damaged files are passed over here: they name nothing that could be taken down.
    fn entries_ending(&self, ending: &str) -> Result<Vec<Entry>, CacheFault> {
        let Some(folder) = self.open()? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for file in folder.entries()? {
            let name = file?.name;
            if name.as_str().is_some_and(|name| name.ends_with(ending)) {
                let text = folder.read(&name, ENTRY_BYTES_MAX)?;
                entries.extend(serde_json::from_slice::<Entry>(&text));
            }
        }
        Ok(entries)
    }

    /// Removes what a killed process had begun to write. Only while nothing is attached: a writer's file would go too.
    pub(crate) fn remove_stale_temporaries(&self) -> Result<(), CacheFault> {
        if let Some(folder) = self.open()? {
            folder.remove_stale_temporaries()?;
        }
        Ok(())
    }

    pub(crate) fn remove(
        &self,
        network: &str,
        container: &AttachmentId,
        interface: &str,
    ) -> Result<(), CacheFault> {
        let name = file_name(network, container.as_str(), interface)?;
        let Some(folder) = self.open()? else {
            return Ok(());
        };
        match folder.remove_file(&name) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn open(&self) -> Result<Option<Dir>, CacheFault> {
        match Dir::open(&self.folder) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn damaged(name: &Name, source: serde_json::Error) -> CacheFault {
    CacheFault::Damaged {
        name: name.as_str().unwrap_or_default().to_owned(),
        source,
    }
}

/// Network and container are validated words; an interface's name is checked here.
fn file_name(network: &str, container: &str, interface: &str) -> Result<Name, NameError> {
    Name::new(format!("{network}-{container}-{interface}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_again_and_gone_after_removal() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let container = AttachmentId::new("web").unwrap();
        assert_eq!(cache.read("n", &container, "eth0").unwrap(), None);
        let mut entry = Entry::new("n", "eth0", &container, Path::new("/run/netns/x"));
        entry.set_config("{}");
        cache.write(&entry).unwrap();
        let found = cache.read("n", &container, "eth0").unwrap().unwrap();
        assert_eq!(found, entry);
        assert_eq!(found.config_text().as_deref(), Some("{}"));
        cache.remove("n", &container, "eth0").unwrap();
        cache.remove("n", &container, "eth0").unwrap();
        assert_eq!(cache.read("n", &container, "eth0").unwrap(), None);
    }

    #[test]
    fn an_interface_cannot_leave_the_folder() {
        let cache = Cache::new(Path::new("/nonexistent"));
        let container = AttachmentId::new("web").unwrap();
        assert!(matches!(
            cache.remove("n", &container, "x/../../y"),
            Err(CacheFault::Name(_))
        ));
    }

    #[test]
    fn a_damaged_entry_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let container = AttachmentId::new("web").unwrap();
        cache
            .write(&Entry::new("n", "eth0", &container, Path::new("/x")))
            .unwrap();
        let dir = Dir::open(&folder.path().join("results")).unwrap();
        dir.write_atomic(
            &Name::new("n-web-eth0").unwrap(),
            b"{",
            Mode::from_raw_mode(0o600),
        )
        .unwrap();
        assert!(matches!(
            cache.read("n", &container, "eth0"),
            Err(CacheFault::Damaged { .. })
        ));
    }
}
