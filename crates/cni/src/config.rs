//! Network configuration lists (CNI 1.1, section 1).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

/// A configuration larger than this is a mistake, not a network.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The versions whose plugins Orlop can talk to. Older ones have another result format and no list.
const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network: plugins that are run one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigList {
    /// The network's name; letters, digits, `.`, `_`, `-`, so safe as one path component.
    pub name: String,
    /// The version of the specification it is written for.
    pub version: String,
    /// Whether CHECK must not be called.
    pub disable_check: bool,
    /// Whether GC must not be called.
    pub disable_gc: bool,
    /// The plugins, in the order ADD runs them.
    pub plugins: Vec<Plugin>,
    /// The file it was read from.
    pub path: PathBuf,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The name of its executable; one safe path component.
    pub kind: String,
    /// The capabilities it wants arguments for, such as `portMappings`.
    pub capabilities: Vec<String>,
    /// Its configuration as it stands in the file.
    pub raw: Map<String, Value>,
}

/// Why a file is not a usable network configuration.
#[derive(Debug, thiserror::Error)]
pub enum ListFault {
    /// It cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is too large.
    #[error("{path:?} has {bytes} bytes, more than the {FILE_BYTES_MAX} allowed")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is not JSON, or not of the right shape.
    #[error("{path:?} is not a CNI configuration")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value that cannot be used.
    #[error("{path:?}: {fault}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value, and what would be right.
        fault: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    disable_check: bool,
    #[serde(default, rename = "disableGC")]
    disable_gc: bool,
    #[serde(default)]
    plugins: Vec<Map<String, Value>>,
}

impl ConfigList {
    /// Parses the text of a configuration file; `path` tells the kind by its ending and stands in errors.
    ///
    /// # Errors
    /// See [`ListFault`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ListFault> {
        let json = |source| ListFault::Json {
            path: path.to_owned(),
            source,
        };
        let mut raw: RawList = serde_json::from_str(text).map_err(json)?;
        if path.extension().is_none_or(|ending| ending != "conflist") {
            raw.plugins = vec![serde_json::from_str(text).map_err(json)?];
        }
        Self::check(raw, path).map_err(|fault| ListFault::Value {
            path: path.to_owned(),
            fault,
        })
    }

    fn check(raw: RawList, path: &Path) -> Result<Self, String> {
        let version = raw.cni_version.unwrap_or_else(|| "0.3.1".to_owned());
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!(
                "cniVersion {version:?} is not one of {}",
                VERSIONS.join(", ")
            ));
        }
        check_word("name", &raw.name)?;
        if raw.plugins.is_empty() {
            return Err("\"plugins\" is missing or empty".to_owned());
        }
        let plugins = raw
            .plugins
            .into_iter()
            .map(Plugin::check)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: raw.name,
            version,
            disable_check: raw.disable_check,
            disable_gc: raw.disable_gc,
            plugins,
            path: path.to_owned(),
        })
    }

    /// Whether the list's version is at least `major.minor`: CHECK came with 0.4, GC and STATUS with 1.1.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self
            .version
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }
}

impl Plugin {
    fn check(raw: Map<String, Value>) -> Result<Self, String> {
        let kind = raw
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        check_word("type", &kind)?;
        let capabilities = raw
            .get("capabilities")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let capabilities = capabilities
            .filter(|(_, wanted)| **wanted == Value::Bool(true))
            .map(|(name, _)| name.clone())
            .collect();
        Ok(Self {
            kind,
            capabilities,
            raw,
        })
    }
}

/// The text of a configuration file, if it is of a sensible size.
pub(crate) fn read_text(path: &Path) -> Result<String, ListFault> {
    let read = |source| ListFault::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ListFault::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    std::fs::read_to_string(path).map_err(read)
}

/// Names become file names of executables and of the result cache.
fn check_word(what: &str, word: &str) -> Result<(), String> {
    let starts_well = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well
        && word.len() <= 200
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    {
        return Ok(());
    }
    Err(format!(
        "\"{what}\" is {word:?}; it has to start with a letter or digit and go on with those, \".\", \"_\" or \"-\""
    ))
}

/// The configuration files of `folder` in the order CNI prefers them: by name.
///
/// # Errors
/// The folder cannot be listed. A missing folder is an empty list.
pub(crate) fn candidates(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "conflist" || ending == "conf" || ending == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigList, ListFault> {
        ConfigList::parse(text, Path::new("/etc/cni/net.d/10-x.conflist"))
    }

    #[test]
    fn a_list_names_its_plugins_and_what_they_want() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"pods","plugins":[
                {"type":"bridge","bridge":"b0"},{"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#,
        )
        .unwrap();
        assert_eq!(
            list.plugins
                .iter()
                .map(|plugin| plugin.kind.as_str())
                .collect::<Vec<_>>(),
            ["bridge", "portmap"]
        );
        assert_eq!(list.plugins[1].capabilities, ["portMappings"]);
        assert!(list.is_at_least(0, 4) && !list.is_at_least(1, 1));
    }

    #[test]
    fn a_single_plugin_file_is_a_list_of_one() {
        let list = ConfigList::parse(
            r#"{"cniVersion":"0.4.0","name":"lo","type":"loopback"}"#,
            Path::new("99.conf"),
        )
        .unwrap();
        assert_eq!(list.plugins[0].kind, "loopback");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("{", "not a CNI configuration"),
            (r#"{"name":"x","plugins":[]}"#, "\"plugins\" is missing"),
            (
                r#"{"name":"../x","plugins":[{"type":"a"}]}"#,
                "\"name\" is \"../x\"",
            ),
            (
                r#"{"name":"x","plugins":[{"type":"/bin/sh"}]}"#,
                "\"type\" is \"/bin/sh\"",
            ),
            (r#"{"name":"x","plugins":[{}]}"#, "\"type\" is \"\""),
            (
                r#"{"cniVersion":"9.0.0","name":"x","plugins":[{"type":"a"}]}"#,
                "cniVersion \"9.0.0\"",
            ),
        ];
        for (text, expected) in table {
            let shown = parse(text).unwrap_err().to_string();
            assert!(shown.contains(expected), "{text}: {shown}");
        }
    }
}
